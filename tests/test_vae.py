"""Continuous tokenizers: what comes back, how latents are scaled, and autoencoders that others trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld import checkpoint, masks
from maskworld.clip import Clip, of_frames, to_uint8
from maskworld.data import drive, episodes, surround
from maskworld.nets.quantise import float32
from maskworld.noise import Rng
from maskworld.recipes.vae import VARIED, DriveFrames, Split, frames_of
from maskworld.recipes.vae import vae as recipe
from maskworld.tokenizers import hub, kinds, latent, vae, vqvae
from maskworld.tokenizers.base import Tokenizer
from maskworld.tokenizers.latent import Continuous, measure, psnr
from maskworld.train import Recipe, inverse_sqrt, power_ema, train
from maskworld.world import load_codes, load_latents, load_tokenizer

CONFIG = vae.Config((16, 24), 3, 4, (16, 24))


def roads(n: int, seed: int = 0, size: tuple[int, int] = (16, 24)) -> Tensor:
    """A sky, a ground of some brightness, a block of some colour, and a bright thin line."""
    rng = np.random.default_rng(seed)
    h, w = size
    frames = np.zeros((n, 3, h, w), np.float32)
    for frame in frames:
        horizon, left = rng.integers(h // 4, h // 2), rng.integers(0, w - 6)
        frame[:, :horizon] = rng.uniform(0.3, 0.9)
        frame[:, horizon:] = rng.uniform(-0.8, -0.2)
        frame[:, horizon - 2 : horizon + 3, left : left + 6] = rng.uniform(-1, 1, (3, 1, 1))
        frame[:, horizon + 3 :, rng.integers(0, w)] = 0.9
    return torch.from_numpy(frames)


def made(config: vae.Config = CONFIG) -> vae.VAE:
    torch.manual_seed(0)
    return vae.VAE(config).eval()


def loss_of(net: torch.nn.Module, frames: Tensor, seed: int = 0) -> dict[str, Tensor]:
    clip = of_frames(frames[:, None, None])
    known = torch.ones(len(frames), 1, 1, 1, 1) > 0
    return vae.objective(net, clip, known, Rng.of(seed, batch=len(frames))).terms


@dataclasses.dataclass(frozen=True)
class Some:
    """A set of frames, again and again."""

    frames: Tensor

    def __call__(self, index: int) -> Clip:
        return of_frames(self.frames[index % len(self.frames)][None, None, None])


def of_roads(config: vae.Config, net: vae.VAE) -> Recipe:
    return Recipe(
        about={"family": "tokenizer", "config": kinds.config_of(net)}, net=net, objective=vae.objective,
        draw=masks.blocks(1, 1, 0.0), data=Some(roads(256)), valid=Some(roads(16, 1)), lr=inverse_sqrt(8e-3, 30, 60),
        ema=power_ema(0.1), batch=16, betas=(0.9, 0.99), valid_clips=16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a few seconds."""
    folder = tmp_path_factory.mktemp("vae") / "run"
    train(of_roads(CONFIG, made()), folder, steps=150, workers=0, quiet=True)
    return folder


def loaded(run: Path) -> Any:
    net, about = load_latents(run)
    assert about["config"]["kind"] == "vae"
    return net


# -- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(8,), (8, 12), (8, 12, 16)], ids=len)
def test_any_multiple_of_the_factor_goes_through(widths: tuple[int, ...]) -> None:
    config = vae.Config((16, 24), 3, 5, widths)
    net, f = made(config), 2 ** len(widths)
    assert isinstance(net, Continuous) and not isinstance(net, Tokenizer)
    assert (net.factor, net.dim, net.channels, net.size) == (f, 5, 3, (16, 24))
    for h, w in ((16, 24), (f, f), (3 * f, 5 * f), (48, 96)):
        frames = torch.rand(2, 3, h, w) * 2 - 1
        latents = net.encode(frames)
        assert latents.shape == (2, 5, h // f, w // f)
        back = net.decode(latents)
        assert back.shape == frames.shape and back.abs().max() <= 1


def test_what_is_no_multiple_is_refused() -> None:
    net = made()
    for h, w, c, words in (
        (18, 24, 3, "multiples of 4 pixels, not of 18x24"),
        (16, 22, 3, "16x22"),
        (16, 24, 1, "3 ch"),
    ):
        with pytest.raises(ValueError, match=words):
            net.encode(torch.zeros(1, c, h, w))
        with pytest.raises(ValueError, match=words):
            loss_of(net, torch.zeros(1, c, h, w))
        with pytest.raises(ValueError, match=words):
            vae.calibrate(net, [torch.zeros(1, c, h, w)])
    for values in ({"size": (18, 24)}, {"widths": ()}, {"dim": 0}, {"kl": -1.0}):
        with pytest.raises(ValueError):
            vae.Config(**{"size": (16, 24), **values})
    with pytest.raises(ValueError, match="power of two"):
        recipe(factor=6)


def test_the_default_fits_in_the_zoo() -> None:
    assert sum(p.numel() for p in vae.VAE(vae.Config()).parameters()) <= 350_000


def test_a_frame_is_read_by_itself_and_the_same_every_time() -> None:
    net, frames = made(), roads(5)
    latents = net.encode(frames)
    assert torch.equal(net.encode(frames), latents)
    assert torch.allclose(net.encode(frames[2:3]), latents[2:3], atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):  # a latent is not to hang on who asks
        assert torch.equal(net.encode(frames), latents)
        assert torch.equal(net.decode(latents), made().decode(latents))


def test_gathering_is_the_inverse_of_spreading() -> None:
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(vae.Gather()(vqvae.Spread()(x)), x)


# -- the objective --------------------------------------------------------------------------------


def test_the_divergence_is_that_of_normal_distributions() -> None:
    mean, log_var = torch.randn(50, dtype=torch.float64), 3 * torch.randn(50, dtype=torch.float64)
    normal = torch.distributions.Normal
    posterior, prior = normal(mean, (log_var / 2).exp()), normal(torch.zeros_like(mean), torch.ones_like(mean))
    want = torch.distributions.kl_divergence(posterior, prior)
    assert torch.allclose(vae.divergence(mean, log_var), want)


def test_terms_are_what_they_say() -> None:
    """A decoder of zeros paints grey: the terms can be had by hand."""
    net = made().eval()
    torch.nn.init.zeros_(net.decoder.out.weight)
    assert net.decoder.out.bias is not None
    torch.nn.init.zeros_(net.decoder.out.bias)
    frames = torch.full((2, 3, 16, 24), 0.5)
    frames[1, :, :, 12:] = -0.5
    terms = loss_of(net, frames)
    flat = (0.5**2 + vae.BEND**2) ** 0.5 - vae.BEND + vae.SQUARE * 0.5**2
    step = (1 + vae.BEND**2) ** 0.5 - vae.BEND + vae.SQUARE
    assert torch.allclose(terms["pixels"], torch.tensor([flat, flat]))
    assert torch.allclose(terms["edges"], vae.EDGES * torch.tensor([0.0, step / 23 / 2]), atol=1e-6)
    mean, log_var = net.encoder(frames)
    assert torch.allclose(terms["kl"], CONFIG.kl * vae.divergence(mean, log_var).mean((1, 2, 3)))


def test_an_example_does_not_hang_on_its_neighbours_and_every_weight_learns() -> None:
    net, frames = made(), roads(4)
    terms = loss_of(net, frames)
    others = loss_of(net, torch.cat([frames[:2], roads(2, 9)]))
    assert all(torch.allclose(terms[name][:2], others[name][:2], atol=1e-5) for name in terms)
    sum(terms.values()).mean().backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_views_and_times_are_frames_like_others() -> None:
    net, frames = made(), roads(6)
    together = Clip(frames[None].reshape(1, 2, 3, 3, 16, 24), torch.arange(3)[None])
    rng = Rng.of(0, batch=1)
    terms = vae.objective(net, together, torch.ones(1, 2, 3, 1, 1) > 0, rng).terms
    net.eval()
    kl = [loss_of(net, frames[i : i + 1])["kl"] for i in range(6)]
    assert torch.allclose(terms["kl"], torch.stack(kl).mean(0))


def test_the_decoder_is_always_told_with_noise() -> None:
    """However sure the encoder is: the floor is a share of the latents' own scale."""
    quiet, loud = (made(dataclasses.replace(CONFIG, floor=floor)) for floor in (0.0, 0.5))
    for net in (quiet, loud):
        assert net.encoder.out.bias is not None
        net.encoder.out.bias.data[CONFIG.dim :] = -20  # sure
        vae.calibrate(net, [roads(16)])
    spread = [np.std([loss_of(net, roads(1), seed)["pixels"].item() for seed in range(8)]) for net in (quiet, loud)]
    assert spread[0] < 1e-2 * spread[1]


# -- the scale of latents -------------------------------------------------------------------------


def test_calibration_is_exact_and_changes_no_picture() -> None:
    net, frames = made(), roads(32)
    before = net.decode(net.encode(frames))
    vae.calibrate(net, [frames[:20], frames[20:]])
    latents = net.encode(frames).transpose(0, 1).flatten(1)
    assert torch.allclose(latents.mean(1), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std(1), torch.ones(4), atol=1e-3)
    assert torch.allclose(net.decode(net.encode(frames)), before, atol=1e-4)
    with pytest.raises(ValueError, match="no frames"):
        vae.calibrate(net, [])


def test_the_scale_follows_in_training_alone() -> None:
    net, frames = made(), roads(8)
    loss_of(net, frames)
    assert net.count == 0 and torch.equal(net.mean, torch.zeros(4))
    net.train()
    loss_of(net, frames)
    with float32(frames):
        means = net.encoder(frames)[0].transpose(0, 1).flatten(1)
    assert net.count == 1
    assert torch.allclose(net.mean, means.mean(1), atol=1e-6)
    assert torch.allclose(net.var, means.var(1, correction=0), atol=1e-6)


# -- a training -----------------------------------------------------------------------------------


def test_frames_come_back(run: Path) -> None:
    net, held_out = loaded(run), roads(64, 2)
    back = psnr(net.decode(net.encode(held_out)), held_out).mean()
    mean = psnr(roads(256).mean(0).expand_as(held_out), held_out).mean()
    assert back > mean + 5
    slightly_wrong = net.encode(held_out) + 0.05 * torch.randn(64, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    assert psnr(net.decode(slightly_wrong), held_out).mean() > back - 1


def test_latents_of_a_checkpoint_are_of_unit_scale(run: Path) -> None:
    net = loaded(run)
    found = measure(net, to_uint8(roads(256)).numpy())
    assert found["mean"] < 0.1
    assert 0.9 < found["std_min"] <= found["std_max"] < 1.1
    assert not torch.allclose(net.var, torch.ones(4), atol=0.1)  # or there was nothing to scale


def test_a_checkpoint_is_what_was_trained(run: Path, tmp_path: Path) -> None:
    net, frames = loaded(run), roads(3, 5)
    config = json.loads(json.dumps(kinds.config_of(net)))
    assert config == {"kind": "vae", **json.loads(json.dumps(dataclasses.asdict(CONFIG)))}
    again = kinds.build(config)
    assert isinstance(again, vae.VAE) and again.config == CONFIG
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval().encode(frames), net.encode(frames))
    half = {name: x.half() if x.is_floating_point() else x for name, x in net.state_dict().items()}
    checkpoint.write(tmp_path / "half.safetensors", half, {"family": "tokenizer", "config": config})
    small = loaded(tmp_path / "half.safetensors")
    assert (small.decode(small.encode(frames)) - net.decode(net.encode(frames))).abs().max() < 0.02


def test_codes_and_latents_are_not_taken_for_each_other(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes latents of frames, and codes are wanted"):
        load_codes(run)
    net = vqvae.VQVAE(vqvae.tiny())
    about = {"family": "tokenizer", "config": kinds.config_of(net)}
    checkpoint.write(tmp_path / "vq.safetensors", net.state_dict(), about)
    with pytest.raises(ValueError, match="makes codes of frames, and latents are wanted"):
        load_latents(tmp_path / "vq.safetensors")


# -- measuring ------------------------------------------------------------------------------------


class Twice(torch.nn.Module):
    """Latents are twice the pixels and one more; what comes back is off by 0.02."""

    size, channels, dim, factor = (4, 6), 3, 3, 1

    def encode(self, frames: Tensor) -> Tensor:
        return 2 * frames + 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents - 1) / 2 + 0.02


def test_a_measurement_is_right() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    x = pixels.astype(np.float64) / 127.5 - 1
    found = latent.measure(Twice(), pixels, batch=3)
    std = (2 * x).std((0, 1, 2))
    want = {
        "psnr": 40.0, "mean": abs(2 * x.mean((0, 1, 2)) + 1).max(), "std_min": std.min(), "std_max": std.max(),
    }  # fmt: skip
    assert found == pytest.approx(want, abs=1e-4)
    assert latent.measure(Twice(), pixels[:, :2, :5]).keys() == want.keys()
    with pytest.raises(ValueError, match="no frames"):
        latent.measure(Twice(), pixels[:0])


# -- data and the command line --------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short videos."""
    folder = tmp_path_factory.mktemp("films")
    for i in range(12):
        np.savez(folder / f"{i}.npz", frames=to_uint8(roads(4, 100 + i)).numpy(), fps=5.0)
    return folder


def test_it_trains_on_videos_and_is_measured_at_the_command_line(cli, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sizes = ("--size", 16, 24, "--width", 8, "--batch", 4, "--look-every", 3)
    code, lines, err = cli("train", "vae", "--data", films, *sizes, "-o", out, "--steps", 3, "--workers", 0, "--json")
    assert code == 0, err
    assert (out / "samples" / "step_0000003.png").exists()
    probed = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("probes/psnr" in row for row in probed)
    code, lines, err = cli("tokens", out, films, "--frames", 9, "--json")
    assert code == 0, err
    row = json.loads(lines[-1])
    assert (row["kind"], row["dim"], row["factor"], row["grid"], row["frames"]) == ("vae", 8, 4, [4, 6], 9)
    source = frames_of(films, (16, 24), "test")
    held_out = to_uint8(torch.cat([source(i).frames[0, 0] for i in range(9)])).numpy()
    assert row["psnr"] == pytest.approx(measure(loaded(out), held_out)["psnr"])
    code, lines, err = cli("tokens", out, films, "--frames", 4)
    assert code == 0 and "4 x 6 latents of 8" in lines[0] and "dB" in lines[1]
    code, lines, err = cli("tokens", out, tmp_path / "nothing")
    assert code == 2 and len(err) == 1 and "no such file" in err[0]
    code, lines, err = cli("train", "vae", "--size", 18, 24, "-o", tmp_path / "other", "--steps", 1)
    assert code == 2 and "multiple of 4, not (18, 24)" in err[0]


def test_frames_of_episodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held = []
    for i in range(4):
        frames = np.full((5, 16, 16, 3), 10 * i, np.uint8)
        actions = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
        actions[-1] = np.nan
        held.append(episodes.Episode(frames, actions, np.zeros(5, np.float32), False))
    episodes.write(tmp_path / "e", held, 10.0, {})
    splits: tuple[Split, ...] = ("train", "valid", "test")
    seen = {
        split: {int(to_uint8(frames_of(tmp_path / "e", (8, 8), split)(i).frames).unique()) for i in range(20)}
        for split in splits
    }
    assert seen == {"train": {0, 10}, "valid": {20}, "test": {30}}
    with pytest.raises(ValueError, match="square"):
        frames_of(tmp_path / "e", (8, 16), "train")


def test_frames_of_the_drive() -> None:
    """As many views as cameras, the same every time, and other ones for each split."""
    source = DriveFrames((16, 32), "train", 2)
    day, night = source(len(VARIED)).frames, source(0).frames
    assert day.shape == night.shape == (1, 2, 2, 3, 16, 32) and day.abs().max() <= 1
    assert night.mean() < day.mean() - 0.3
    assert torch.equal(DriveFrames((16, 32), "train", 2)(len(VARIED)).frames, day)
    assert not torch.equal(DriveFrames((16, 32), "valid", 2)(len(VARIED)).frames, day)
    with pytest.raises(ValueError, match="1 to 6 cameras"):
        DriveFrames((16, 32), "train", 9)


def test_frames_of_logs(tmp_path: Path) -> None:
    """One log: its first eight frames are trained on, and what is missing is never drawn."""
    made = surround.of_drive(drive.scene(3, 10, 2.0), drive.rig(2, (16, 32)), "one")
    known, frames = made.known.copy(), np.zeros_like(made.frames)
    known[1, :5] = False
    frames[:] = np.arange(20).reshape(2, 10, 1, 1, 1)  # each says which one it is
    surround.write(tmp_path / "logs", [dataclasses.replace(made, known=known, frames=frames)])
    splits: tuple[tuple[Split, list[int]], ...] = (("train", list(range(8))), ("valid", [8]), ("test", [9]))
    for split, times in splits:
        source = frames_of(tmp_path / "logs", (16, 32), split)
        seen = {int(to_uint8(source(i).frames).unique()) for i in range(120)}
        assert seen == {10 * v + i for v in range(2) for i in times if v == 0 or i >= 5}


# -- autoencoders that others trained -------------------------------------------------------------


def little(kind: str, folder: Path) -> tuple[Any, Path]:
    """One with weights at random, as the hub would have it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    if kind == "kl":
        net = diffusers.AutoencoderKL(
            block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4, latent_channels=6, scaling_factor=1.5,
            shift_factor=0.25,
        )  # fmt: skip
    else:
        net = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1), latent_channels=5,
        )  # fmt: skip
    net.save_pretrained(folder)
    return net.eval(), folder


@pytest.mark.parametrize("kind, dim", [("kl", 6), ("tiny", 5)])
def test_an_autoencoder_of_the_hub(kind: Any, dim: int, tmp_path: Path) -> None:
    own, folder = little(kind, tmp_path / "theirs")
    net = hub.pretrained(folder, kind, (24, 32)).train()
    assert isinstance(net, Continuous) and not net.net.training
    assert (net.channels, net.dim, net.factor, net.size) == (3, dim, 4, (24, 32))
    frames = torch.rand(2, 3, 24, 32) * 2 - 1
    latents = net.encode(frames)
    assert latents.shape == (2, dim, 6, 8) and torch.equal(net.encode(frames), latents)
    with torch.no_grad():
        if kind == "kl":
            mode = own.encode(frames).latent_dist.mode()
            assert torch.allclose(latents, (mode - 0.25) * 1.5, atol=1e-5)
            back = own.decode(latents / 1.5 + 0.25).sample
        else:
            assert torch.allclose(latents, own.encode(frames).latents, atol=1e-5)
            back = own.decode(latents).sample
    assert torch.allclose(net.decode(latents), back.clamp(-1, 1), atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 4"):
        net.encode(frames[..., :-2])
    with pytest.raises(ValueError, match="3 channels"):
        net.encode(frames[:, :1])


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_its_checkpoint_needs_no_hub(kind: Any, tmp_path: Path) -> None:
    _, folder = little(kind, tmp_path / "theirs")
    net, about = load_latents(f"{kind}:{folder}")
    checkpoint.write(tmp_path / "ours.safetensors", net.state_dict(), about)  # type: ignore[attr-defined]
    again, header = load_tokenizer(tmp_path / "ours.safetensors")
    assert header["config"]["kind"] == kind
    frames = torch.rand(2, 3, 16, 20) * 2 - 1
    assert torch.equal(again.encode(frames), net.encode(frames))


def test_without_weights_it_says_so(tmp_path: Path) -> None:
    _, tiny = little("tiny", tmp_path / "tiny")
    for name in (tmp_path / "nothing", "nobody/has-this", "nobody/has-this/vae"):
        with pytest.raises(ValueError, match=r"no AutoencoderKL at .*`maskworld train vae` needs none") as error:
            hub.pretrained(name, "kl")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="it is AutoencoderTiny and no AutoencoderKL"):
        hub.pretrained(tiny, "kl")
    with pytest.raises(ValueError, match="damaged"):
        kinds.build({"kind": "kl", "architecture": {"layers": 3}})


def test_without_diffusers_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'maskworld\[hf\]'"):
        hub.pretrained(tmp_path, "kl")
