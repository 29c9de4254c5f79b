"""Tokenizers: what each quantiser must obey, what each kind learns, and the way through the command line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import repeat

from maskworld import checkpoint, masks
from maskworld.clip import Clip
from maskworld.data import episodes
from maskworld.nets.quantise import Nearest, Scalar
from maskworld.noise import Rng
from maskworld.recipes.tokenizer import Frames, tokenizer
from maskworld.tokenizers import dino, dynamics, flat, mae, vqvae
from maskworld.tokenizers.base import Tokenizer, codes_of, measure
from maskworld.tokenizers.kinds import build, config_of
from maskworld.verbs import Known, Loss

CONFIGS = {
    "flat": flat.Config(16, 1, 4, 4),
    "vqvae": vqvae.tiny(),
    "fsq": vqvae.FSQConfig(16, 1, (8, 8), 1, (4, 3)),
    "mae": mae.tiny(),
    "dynamics": dynamics.tiny(),
}
OBJECTIVES = {"vqvae": vqvae.objective, "fsq": vqvae.objective, "mae": mae.objective, "dynamics": dynamics.objective}


def made(kind: str) -> Any:
    torch.manual_seed(0)
    net = build({"kind": kind, **dataclasses.asdict(CONFIGS[kind])})
    assert isinstance(net, torch.nn.Module)
    if isinstance(net, vqvae.VQVAE) and kind == "fsq":  # at first all features are small, and of one code
        net.encoder.out.weight.data *= 20
    return net.eval()


def bars(n: int, seed: int = 0, size: int = 16) -> np.ndarray:
    """Grey frames with a bright upright bar somewhere."""
    frames = np.full((n, size, size, 1), 40, np.uint8)
    for frame, x in zip(frames, np.random.default_rng(seed).integers(0, size - 3, n), strict=True):
        frame[:, x : x + 3] = 220
    return frames


def clip_of(frames: np.ndarray, t: int = 1) -> Clip:
    """Frames in turn as clips of `t`, with actions where there are two."""
    x = torch.from_numpy(frames).float().permute(0, 3, 1, 2) / 127.5 - 1
    x = x.reshape(-1, 1, t, *x.shape[1:])
    b = len(x)
    actions = torch.rand(b, t, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    times = torch.arange(t).expand(b, t)
    return Clip(x, times, actions if t > 1 else None)


def all_known(clip: Clip, kind: str) -> Known:
    b, v, t = clip.frames.shape[:3]
    return masks.blocks(4, 4, 0.75)(b, v, t, Rng.of(5, batch=b)) if kind == "mae" else torch.ones(b, v, t, 1, 1) > 0


def loss_of(net: torch.nn.Module, clip: Clip, kind: str, seed: int = 0) -> Loss:
    return OBJECTIVES[kind](net, clip, all_known(clip, kind), Rng.of(seed, batch=len(clip.frames)))


def trained(kind: str, steps: int, frames: int = 32, lr: float = 3e-3) -> tuple[Any, list[float]]:
    net, totals = made(kind).train(), []
    optimiser = torch.optim.Adam(net.parameters(), lr)
    for step in range(steps):
        loss = loss_of(net, clip_of(bars(frames, step), 2 if kind == "dynamics" else 1), kind, step)
        totals.append(loss.total.mean().item())
        optimiser.zero_grad()
        loss.total.mean().backward()
        optimiser.step()
    return net.eval(), totals


# -- a codebook -----------------------------------------------------------------------------------


def features(n: int = 6, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, 2, dim, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_code_is_the_nearest() -> None:
    net, x = Nearest(7, 3), features()
    distance = torch.cdist(x.reshape(-1, 3), net.codebook)
    assert torch.equal(net.nearest(x).flatten(), distance.argmin(1))
    found = net(x)
    assert torch.allclose(found.commitment, distance.amin(1).square().view(6, 4).mean(1) / 3, atol=1e-6)


def test_the_gradient_goes_straight_through_a_code() -> None:
    for net in (Nearest(7, 3), Scalar((5, 5, 4))):
        x = features().requires_grad_()
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        found = net(x)
        (found.vectors * weights).sum().backward()
        assert x.grad is not None
        if isinstance(net, Nearest):
            assert torch.equal(x.grad, weights)
            assert torch.allclose(found.vectors, net.vectors(found.codes), atol=1e-6)
        else:  # the squashing has a slope, the rounding none of its own
            assert ((x.grad / weights) > 0).all()


def test_commitment_pulls_features_to_their_codes() -> None:
    net, x = Nearest(7, 3), features().requires_grad_()
    found = net(x)
    found.commitment.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * (x.detach() - net.vectors(found.codes)) / (4 * 3), atol=1e-6)


def test_the_codebook_is_the_running_mean_of_what_was_assigned_to_it() -> None:
    net, rng = Nearest(4, 3, decay=0.9), torch.Generator().manual_seed(0)
    net.learn(features(64), net.nearest(features(64)), rng)
    count, total = net.count.double(), net.codebook.double() * net.count.double()[:, None]
    for seed in range(1, 30):
        x = features(64, seed=seed)
        codes = net.nearest(x)
        net.learn(x, codes, rng)
        one_hot = torch.nn.functional.one_hot(codes.flatten(), 4).double()
        count = 0.9 * count + 0.1 * one_hot.sum(0)
        total = 0.9 * total + 0.1 * one_hot.T @ x.reshape(-1, 3).double()
    assert (count > Nearest.DEAD * count.mean()).all()  # none was restarted
    assert torch.allclose(net.codebook.double(), total / count[:, None], atol=1e-5)


def test_it_begins_at_the_clusters_of_the_first_batch() -> None:
    centres = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [-5, 0, 0]])
    x = centres[torch.randint(4, (32, 2, 2), generator=torch.Generator().manual_seed(0))] + 0.01 * features(32)
    net = Nearest(16, 3)
    net.learn(x, net.nearest(x), torch.Generator().manual_seed(0))
    assert torch.cdist(centres, net.codebook).amin(1).max() < 0.05
    assert net.begun


def test_a_dead_code_is_restarted_where_features_are() -> None:
    net, rng = Nearest(4, 3, decay=0.5), torch.Generator().manual_seed(0)
    net.learn(features(64), net.nearest(features(64)), rng)
    net.codebook[2] = 1e3
    x = features(64, seed=1)
    for _ in range(10):
        codes = net.nearest(x)
        net.learn(x, codes, rng)
    assert net.codebook.abs().max() < 6
    assert len(net.nearest(x).unique()) == 4


def test_unit_codes_stay_of_length_one() -> None:
    net, rng = Nearest(5, 3, unit=True), torch.Generator().manual_seed(0)
    for seed in range(5):
        net.learn(features(16, seed=seed), net.nearest(features(16, seed=seed)), rng)
    assert torch.allclose(net.codebook.norm(dim=1), torch.ones(5))
    assert torch.equal(net.nearest(features()), net.nearest(7 * features()))


def test_a_restart_is_a_function_of_the_generator() -> None:
    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        net = Nearest(64, 3)
        net.learn(features(4), net.nearest(features(4)), torch.Generator().manual_seed(seed))
        return net.codebook

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_too_small_a_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 codes"):
        Nearest(1, 3)
    with pytest.raises(ValueError, match="2 or more levels"):
        Scalar((8, 1))


# -- a grid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3,), (2, 2, 7), (4, 6)])
def test_the_grid_and_its_codes_are_one_to_one(levels: tuple[int, ...]) -> None:
    net = Scalar(levels)
    codes = torch.arange(net.vocab).view(-1, 1, 1)
    vectors = net.vectors(codes)
    assert net.vocab == math.prod(levels) == len(vectors.view(-1, net.dim).unique(dim=0))
    assert torch.equal(net.number(vectors), codes)
    for i, count in enumerate(levels):
        there = vectors[..., i].unique()
        assert torch.equal(there, (torch.arange(count) - count // 2) / (count // 2))  # evenly spaced from -1


def test_every_level_can_be_reached_and_none_beyond() -> None:
    net = Scalar((8, 5, 2))
    x = repeat(torch.linspace(-30, 30, 4001), "n -> n 1 1 d", d=3)
    found = net(x)
    assert torch.equal(found.vectors.detach().view(-1, 3).amin(0), torch.tensor([-1.0, -1, -1]))
    for i, count in enumerate((8, 5, 2)):
        assert len(found.vectors[..., i].detach().unique()) == count
    assert torch.allclose(found.vectors, net.vectors(found.codes))
    assert torch.equal(net(torch.zeros(1, 1, 1, 3)).codes, net.number(torch.zeros(1, 1, 1, 3)))


# -- every kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tokenizer_keeps_its_contract(kind: str) -> None:
    net = made(kind)
    assert isinstance(net, Tokenizer)
    frames = clip_of(bars(5)).frames[:, 0, 0]
    codes = net.encode(frames)
    assert codes.shape == (5, *net.grid)
    assert 0 <= codes.min() <= codes.max() < net.vocab
    assert net.vectors(codes).shape == (5, *net.grid, net.dim)
    assert net.paints
    painted = net.decode(codes)
    assert painted.shape == frames.shape
    assert -1 <= painted.min() <= painted.max() <= 1


@pytest.mark.parametrize("kind", CONFIGS)
def test_codes_do_not_depend_on_the_batch_nor_on_autocast(kind: str) -> None:
    net, frames = made(kind), bars(12)
    codes = codes_of(net, frames, batch=12)
    assert codes.dtype == np.int32
    assert codes.shape == (12, *net.grid, 1)
    for batch in (1, 5):
        assert np.array_equal(codes, codes_of(net, frames, batch=batch))
    assert np.array_equal(codes[3:4], codes_of(net, frames[3:4]))
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(codes, codes_of(net, frames))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tokenizer_is_built_again_from_its_configuration(kind: str) -> None:
    net = made(kind)
    config = json.loads(json.dumps(config_of(net)))
    assert config["kind"] == kind
    again = build(config)
    assert isinstance(again, torch.nn.Module)
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    frames = bars(4)
    assert np.array_equal(codes_of(net, frames), codes_of(again.eval(), frames))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_parameter_learns_and_the_codebook_only_in_training(kind: str) -> None:
    clip = clip_of(bars(8), 2 if kind == "dynamics" else 1)
    net = made(kind)
    before = {name: value.clone() for name, value in net.named_buffers()}
    loss = loss_of(net, clip, kind)
    assert all(term.shape == (len(clip.frames),) for term in loss.terms.values())
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())
    net.train()
    loss_of(net, clip, kind).total.mean().backward()
    for name, value in net.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    assert kind == "fsq" or any(not torch.equal(before[name], value) for name, value in net.named_buffers())


@pytest.mark.parametrize(("kind", "least"), [("vqvae", 18.0), ("fsq", 18.0)])
def test_what_is_learned_is_seen_in_the_pictures(kind: str, least: float) -> None:
    net, totals = trained(kind, 150, 16)
    assert np.mean(totals[-10:]) < 0.5 * np.mean(totals[:10])
    found = measure(net, bars(64, 999))
    assert found["psnr"] > least
    assert 0 < found["use"] <= 1
    assert 1 < found["perplexity"] <= net.vocab


def test_frames_of_another_size_are_refused() -> None:
    for kind in CONFIGS:
        with pytest.raises(ValueError, match="reads frames of 1 channels and 16x16 pixels"):
            made(kind).encode(torch.zeros(1, 1, 32, 32))


def test_an_unknown_kind_or_field_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean vqvae"):
        build({"kind": "vqae"})
    with pytest.raises(ValueError, match="has no vocabs; did you mean vocab"):
        build({"kind": "vqvae", "vocabs": 5})
    with pytest.raises(ValueError, match="there are dino, dynamics"):
        build({})
    with pytest.raises(ValueError, match="is damaged"):
        build({"kind": "dynamics"})
    with pytest.raises(ValueError, match="cannot be halved"):
        build({"kind": "vqvae", "size": 20, "widths": [8, 8, 8]})


# -- flat -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "levels"), [(1, 4), (3, 3), (1, 256)])
def test_flat_is_exact_on_flat_patches(channels: int, levels: int) -> None:
    net = flat.Flat(flat.Config(16, channels, 4, levels))
    assert net.vocab == levels**channels
    rng = np.random.default_rng(0)
    grey = np.round(rng.integers(0, levels, (20, 4, 4, channels)) * 255 / (levels - 1)).astype(np.uint8)
    frames = grey.repeat(4, 1).repeat(4, 2)
    codes = torch.from_numpy(codes_of(net, frames)[..., 0]).long()
    assert torch.equal(net.encode(net.decode(codes)), codes)
    every = torch.arange(net.vocab).view(-1, 1, 1).expand(-1, 4, 4)
    assert torch.equal(net.encode(net.decode(every)), every)
    found = measure(net, frames)
    assert found["psnr"] > 50  # what eight bits round away
    assert found["use"] == len(np.unique(codes)) / net.vocab


def test_measure_knows_its_numbers() -> None:
    net = flat.Flat(flat.Config(8, 1, 8, 4))
    grey = np.array([0, 85, 85, 170], np.uint8)
    found = measure(net, np.broadcast_to(grey[:, None, None, None], (4, 8, 8, 1)).copy(), batch=3)
    assert found["use"] == 3 / 4
    assert found["perplexity"] == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    off = np.full((2, 8, 8, 1), 85 + 17, np.uint8)  # read as 85: a fifteenth of the range away
    assert measure(net, off)["psnr"] == pytest.approx(20 * math.log10(15), abs=1e-3)
    with pytest.raises(ValueError, match="no frames"):
        measure(net, off[:0])
    with pytest.raises(ValueError, match="batches of 1 or more"):
        codes_of(net, off, batch=0)


# -- a masked autoencoder -------------------------------------------------------------------------


def test_mae_never_reads_a_hidden_patch() -> None:
    net = made("mae").mae
    patches = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    shown = torch.tensor([[0, 3, 7, 9], [1, 2, 3, 15]])
    hidden = torch.ones(2, 16).scatter(1, shown, 0)[..., None]
    assert torch.equal(net(patches, shown), net(patches + 9 * hidden, shown))
    assert not torch.allclose(net(patches, shown), net(patches + 9 * (1 - hidden), shown))


def test_mae_learns_and_neither_codes_nor_painter_pull_on_it() -> None:
    net, clip = made("mae").train(), clip_of(bars(8))
    terms = loss_of(net, clip, "mae").terms
    (terms["features"] + terms["commit"] + terms["l1"]).mean().backward()
    assert all(p.grad is None for p in net.mae.parameters())
    _, totals = trained("mae", 60)
    assert np.mean(totals[-5:]) < 0.75 * np.mean(totals[:5])


def test_mae_wants_a_part_of_its_own_grid() -> None:
    net, clip = made("mae"), clip_of(bars(4))
    for known, words in (
        (torch.ones(4, 1, 1, 1, 1) > 0, "mask grid"),
        (torch.ones(4, 1, 1, 4, 4) > 0, "not all"),
        (torch.arange(64).view(4, 1, 1, 4, 4) % 5 == 0, "as many in each frame"),
    ):
        with pytest.raises(ValueError, match=words):
            mae.objective(net, clip, known, Rng.of(0, batch=4))


# -- dynamics -------------------------------------------------------------------------------------


def pairs(b: int, seed: int, seen: bool) -> Clip:
    """Two frames one apart: a bar that the first number of the action has moved, or one that stands anywhere."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (b, 2, 2)).astype(np.float32)
    at = rng.integers(4, 9, b)
    then = at + np.round(4 * actions[:, 0, 0]).astype(int) if seen else rng.integers(0, 13, b)
    frames = np.zeros((b, 2, 16, 16, 1), np.uint8)
    for i in range(b):
        frames[i, 0, :, at[i] : at[i] + 3] = 255
        frames[i, 1, :, then[i] : then[i] + 3] = 255
    x = torch.from_numpy(frames).float().permute(0, 1, 4, 2, 3)[:, None] / 127.5 - 1
    return Clip(x, torch.arange(2).expand(b, 2), torch.from_numpy(actions))


@pytest.mark.parametrize("seen", [True, False])
def test_an_action_is_found_where_it_is_seen_and_nowhere_else(seen: bool) -> None:
    net, b = made("dynamics").train(), 24
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(150):
        loss = loss_of(net, pairs(b, step, seen), "dynamics", step).total.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    with torch.no_grad():
        tests = [loss_of(net, pairs(b, 10_000 + i, seen), "dynamics", 10_000 + i).terms["actions"] for i in range(8)]
    found, chance = torch.cat(tests).mean().item(), math.log(b + net.config.uniform)
    assert found < chance - 0.4 if seen else chance - 0.02 < found < chance + 0.2


def test_a_scorer_that_knows_nothing_is_at_chance() -> None:
    net = made("dynamics")
    torch.nn.init.zeros_(net.scorer.out[-1].weight)
    terms = loss_of(net, pairs(5, 0, True), "dynamics").terms
    assert torch.allclose(terms["actions"], torch.full((5,), math.log(5 + 8)))


def test_the_painter_of_dynamics_only_looks_on() -> None:
    net = made("dynamics")
    terms = loss_of(net, pairs(5, 0, True), "dynamics").terms
    (terms["l1"] + terms["l2"]).mean().backward()
    assert all(p.grad is None for p in net.encoder.parameters())
    assert all(p.grad is not None for p in net.painter.parameters())


def test_dynamics_wants_pairs_with_actions() -> None:
    net, clip = made("dynamics"), pairs(3, 0, True)
    far = dataclasses.replace(clip, times=clip.times * 9)
    for wrong, words in ((dataclasses.replace(clip, actions=None), "action channels"), (far, "1 to 3 apart")):
        with pytest.raises(ValueError, match=words):
            loss_of(net, wrong, "dynamics")


# -- DINOv2 ---------------------------------------------------------------------------------------


def little(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=4, image_size=16
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def test_dino_is_frozen_and_its_checkpoint_needs_no_hub(tmp_path: Path) -> None:
    net = dino.pretrained(str(little(tmp_path / "dino")), 16, 1, 4, 16, (8, 8)).train()
    assert net.grid == (4, 4)
    assert not net.dino.training
    clip = clip_of(bars(6))
    loss = dino.objective(net, clip, all_known(clip, "dino"), Rng.of(0, batch=6))
    loss.total.mean().backward()
    assert all(p.grad is None for p in net.dino.parameters())
    assert all(p.grad is not None for p in net.distil.parameters())
    again = build(json.loads(json.dumps(config_of(net))))
    assert isinstance(again, dino.DINOTokenizer)
    again.load_state_dict(net.state_dict())
    assert np.array_equal(codes_of(net.eval(), bars(5)), codes_of(again.eval(), bars(5), batch=2))
    assert net.decode(net.encode(clip.frames[:, 0, 0])).shape == (6, 1, 16, 16)


def test_dino_is_shown_what_imagenet_showed_it(tmp_path: Path) -> None:
    net = dino.pretrained(str(little(tmp_path)), 16, 3, 4, 16, (8, 8))
    for pixel in (0.0, 0.5, 1.0):
        x = net.normed(torch.full((1, 3, 16, 16), 2 * pixel - 1))
        want = (pixel - torch.tensor(dino.MEAN)) / torch.tensor(dino.STD)
        assert torch.allclose(x.mean((0, 2, 3)), want, atol=1e-5)


def test_dino_without_weights_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"no DINOv2 weights at .*; a masked autoencoder"):
        dino.pretrained(str(tmp_path / "nothing"), 16, 1, 4, 16)


# -- training and the command line ----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of bars."""
    made, rng = [], np.random.default_rng(0)
    for number in range(4):
        actions = rng.uniform(-1, 1, (20, 2)).astype(np.float32)
        actions[-1] = np.nan
        made.append(episodes.Episode(bars(20, number), actions, np.zeros(20, np.float32), False))
    path = tmp_path_factory.mktemp("episodes") / "bars"
    episodes.write(path, made, 10.0, {"name": "bars"})
    return path


def test_frames_are_as_far_apart_as_asked(folder: Path) -> None:
    source, single = Frames(episodes.read(folder), 3), Frames(episodes.read(folder))
    clips = [source(i) for i in range(150)]
    gaps = torch.cat([clip.times.diff(dim=1) for clip in clips]).flatten()
    assert all(30 < int((gaps == k).sum()) < 70 for k in (1, 2, 3))
    assert all(clip.actions is not None and bool(torch.isfinite(clip.actions[:, 0]).all()) for clip in clips)
    times = torch.cat([single(i).times for i in range(200)])
    assert set(times.flatten().tolist()) == set(range(20))
    with pytest.raises(ValueError, match="long enough"):
        Frames(episodes.read(folder), 20)


@pytest.mark.parametrize("kind", ["vqvae", "mae", "dynamics"])
def test_training_measuring_and_going_on(kind: str, folder: Path, tmp_path: Path, cli) -> None:
    common = ["train", "tokenizer", "--data", folder, "--kind", kind, "--grid", 4, "--width", 4, "--vocab", 16]
    common += ["--batch", 4, "--look-every", 2, "--workers", 0, "--json"]
    code, _, err = cli(*common, "-o", tmp_path / "whole", "--steps", 4)
    assert code == 0, err
    assert len(list((tmp_path / "whole" / "samples").glob("*.png"))) == 2
    cli(*common, "-o", tmp_path / "parts", "--steps", 2)
    code, _, err = cli(*common, "-o", tmp_path / "parts", "--steps", 4, "--resume")
    assert code == 0, err
    whole, _ = checkpoint.read(tmp_path / "whole" / checkpoint.MODEL)
    parts, about = checkpoint.read(tmp_path / "parts" / checkpoint.MODEL)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert about["config"]["kind"] == kind
    code, out, err = cli("tokens", tmp_path / "whole", folder, "--frames", 10, "--json")
    assert code == 0, err
    found = json.loads(out[-1])
    assert found["kind"] == kind
    assert found["frames"] == 10
    assert 0 < found["use"] <= 1
    assert found["psnr"] > 3


def test_bad_input_is_one_line(folder: Path, tmp_path: Path, cli, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"a grid of 5 does not fit frames of 16 pixels; \[8, 4, 2, 1\] do"):
        tokenizer(folder, grid=5)
    with pytest.raises(ValueError, match="no episode is long enough"):
        tokenizer(folder, kind="dynamics", ahead=25)
    code, _, err = cli("tokens", tiny_checkpoint, folder)
    assert (code, len(err)) == (2, 1)
    assert "of the family mcvd and holds no tokenizer" in err[0]
    codes = tmp_path / "codes"
    held = [dataclasses.replace(e, frames=e.frames[:, :4, :4].astype(np.int32)) for e in episodes.read(folder)]
    episodes.write(codes, held, 10.0, {})
    with pytest.raises(ValueError, match="holds codes"):
        tokenizer(codes)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    from maskworld.world import load_tokenizer

    net = made("vqvae")
    about = {"family": "tokenizer", "config": config_of(net), "step": 0}
    checkpoint.write(tmp_path / "good.safetensors", net.state_dict(), about)
    again, header = load_tokenizer(tmp_path / "good.safetensors")
    assert np.array_equal(codes_of(again, bars(4)), codes_of(net, bars(4)))
    assert header["config"]["kind"] == "vqvae"
    state = net.state_dict()
    other = {**about, "config": {**about["config"], "vocab": 17}}
    checkpoint.write(tmp_path / "other.safetensors", state, other)
    with pytest.raises(ValueError, match="do not fit"):
        load_tokenizer(tmp_path / "other.safetensors")
    state = {name: value.clone() for name, value in state.items()}
    state["quantiser.codebook"][0, 0] = math.nan
    checkpoint.write(tmp_path / "nan.safetensors", state, about)
    with pytest.raises(ValueError, match="NaN"):
        load_tokenizer(tmp_path / "nan.safetensors")
