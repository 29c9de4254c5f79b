"""The laws of `fill`, for every family and every kind of mask it honours, on tiny random networks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from maskworld import masks, reveal, solve
from maskworld.clip import Cameras, Clip, example, join, of_frames, planar, span
from maskworld.masks import on_pixels, past_and_future, these_frames
from maskworld.memory.base import Memory
from maskworld.memory.canvas import Canvas
from maskworld.memory.consolidate import Consolidate
from maskworld.memory.retrieve import Retrieve
from maskworld.memory.sink import Sink
from maskworld.memory.window import Window
from maskworld.noise import Rng
from maskworld.papers import forcing, maskgwm, mcvd, mim4d, voc
from maskworld.probes.references import copy_known, linear_blend
from maskworld.recipes.forcing import shows
from maskworld.rollout import rollout
from maskworld.tokenizers import kinds
from maskworld.verbs import Fill, Known, Objective
from maskworld.world import BRICKS, bricks, evicting

B, SIZE = 3, 16


@dataclass(frozen=True)
class Family:
    """A way to fill in, what it can be asked, and what trains it."""

    fill: Fill
    honours: Callable[[], dict[str, Known]]
    channels: int = 1
    net: torch.nn.Module | None = None
    objective: Objective | None = None
    draw: masks.Draw | None = None
    num_frames: int = 0
    views: int = 1
    actions: int = 3
    cameras: Callable[[int, int, int], Cameras] | None = None


def frame_masks() -> dict[str, Known]:
    """Masks over whole frames, of several lengths; each known side is as long as a tiny model wants."""
    words = {
        "predict": "110000",
        "look back": "000011",
        "interpolate": "110011",
        "generate": "0000",
        "long": "1100000000",
        "long backwards": "000000011",
        "gaps": "011001100110",
        "wide gap": "11000000011",
        "one missing": "1101111",
    }
    found = {name: these_frames([c == "1" for c in word], B) for name, word in words.items()}
    mixed = these_frames([True, True, False, False, False, False], B)
    mixed[1] = these_frames([False, False, False, False, True, True])[0]
    return found | {"another for each example": mixed}


def all_masks() -> dict[str, Known]:
    """As `frame_masks`, and parts of frames: rows, blocks and tubes, and one known pixel."""
    rng = functools.partial(Rng.of, 7, batch=B)
    box = torch.ones(B, 1, 5, SIZE, SIZE, dtype=torch.bool)
    box[..., 4:11, 3:9] = False
    pixel = torch.zeros(B, 1, 4, SIZE, SIZE, dtype=torch.bool)
    pixel[:, 0, 1, 5, 6] = True
    return frame_masks() | {
        "rows": masks.rows(4, 8, 3)(B, 1, 4, rng()),
        "blocks": masks.blocks(4, 4, 0.6)(B, 1, 5, rng()),
        "tubes": masks.tubes(2, 4, 0.5)(B, 1, 4, rng()),
        "box": box,
        "one pixel": pixel,
        "frames and a box": torch.cat([torch.ones_like(box[:, :, :2]), box[:, :, :3]], dim=2),
    }


def some_masks() -> dict[str, Known]:
    """For a sampler of many calls: the cases that the tests name."""
    return {name: all_masks()[name] for name in ("predict", "interpolate", "another for each example", "blocks")}


@functools.cache
def net(**changes) -> mcvd.MCVD:
    torch.manual_seed(0)
    network = mcvd.MCVD(mcvd.tiny(**changes))
    with torch.no_grad():  # the last layers are almost zero at the start, and would hide a leak
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return network.eval()


def mcvd_family(solver: solve.Solver = solve.ddim, steps: int = 3, **changes) -> Family:
    network = net(**changes)
    config = network.config
    return Family(
        mcvd.fill(network, mcvd.Sampling(steps=steps, solver=solver)),
        all_masks,
        config.channels,
        network,
        mcvd.objective,
        masks.mcvd(config.past, config.current, config.future, 0.5, 0.5),
        config.num_frames,
    )


@functools.cache
def forcing_net(**changes) -> forcing.Forcing:
    torch.manual_seed(0)
    config = forcing.tiny(**changes)
    network = forcing.Forcing(config, bricks(config))
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return network.eval()


def forcing_family(order: Callable[[int, int], torch.Tensor] = reveal.whole, **changes) -> Family:
    network = forcing_net(**changes)
    fill = forcing.fill(network, forcing.Sampling(steps=3, order=order, cached=0))
    # Six frames of history, of which a learned memory is written four.
    draw = masks.prefix(6, 6) if network.config.memories else masks.prefix(2, 4)
    return Family(fill, all_masks, network.config.channels, network, forcing.objective(shows(network, 2, 0)), draw, 8)


def rolled(memory: Memory, reads: str | None = None, stride: int = 2, **changes) -> Family:
    """Rolling out behind a memory, as a `Fill` that goes on from what is known. The camera slides as it goes."""
    network = forcing_net(**changes)
    fill = forcing.fill(network, forcing.Sampling(steps=2), reads)

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        past = int(known[0, 0, :, 0, 0].sum())
        if past == clip.shape[2]:
            return clip
        ways = torch.arange(clip.shape[2]).float()[None, :, None] * torch.tensor([3.0, 0.0])
        slid = dataclasses.replace(clip, cameras=planar(ways.expand(clip.shape[0], -1, -1), SIZE))
        prompt, ahead = span(slid, 0, past), span(slid, past, clip.shape[2])
        made = join([prompt, rollout(fill, prompt, ahead, memory, stride, rng)])
        return dataclasses.replace(clip, frames=made.frames)

    words = {"a few ahead": "11110", "far ahead": "1111100000000", "from one frame": "1000"}
    return Family(run, lambda: {name: these_frames([c == "1" for c in word], B) for name, word in words.items()}, 1)


def learned(name: str) -> Family:
    return rolled(evicting(forcing_net(memories=(name,)), name, 2), name, memories=(name,))


@functools.cache
def voc_net(kind: str, **changes) -> voc.VOC:
    torch.manual_seed(0)
    size = {"size": SIZE, "channels": 1}
    some = {"flat": size, "vqvae": size | {"widths": (8, 8, 8), "vocab": 11, "dim": 4}}
    tokenizer = kinds.build({"kind": kind, **some[kind]})
    assert isinstance(tokenizer, torch.nn.Module)
    network = voc.VOC(voc.of_tokenizer(voc.tiny(stack=2, **changes), tokenizer), tokenizer)
    with torch.no_grad():  # the reward is flat at the start
        for value in network.reward.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    network.begin(torch.randn(9), bootstraps=True)
    return network.eval()


def voc_family(kind: str = "flat", td: voc.TD = voc.TD(steps=2), **changes) -> Family:
    network = voc_net(kind, **changes)

    def honours() -> dict[str, Known]:
        words = {"predict": "11110", "from one frame": "10"}
        found = {name: these_frames([c == "1" for c in word], B) for name, word in words.items()}
        mixed = these_frames([True, True, False], B)
        mixed[1] = True
        return found | {"another for each example": mixed}

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        return past_and_future(2, t - 2, 0, b, v)

    return Family(voc.fill(network), honours, 1, network, voc.objective(td), draw, 6)


@functools.cache
def maskgwm_net(**changes) -> maskgwm.MaskGWM:
    torch.manual_seed(0)
    tokenizer = None
    if "latent" in changes:
        tokenizer = kinds.build({"kind": "vae", "size": (SIZE, SIZE), "channels": 1, "dim": 2, "widths": (4, 4)})
        assert isinstance(tokenizer, torch.nn.Module)
    network = maskgwm.MaskGWM(maskgwm.tiny(rays=False, **changes), tokenizer)
    with torch.no_grad():  # gates are shut at the start
        for name, value in network.named_parameters():
            if not name.startswith("tokenizer."):
                value.add_(torch.randn_like(value) * 0.1)
    return network.eval()


def maskgwm_family(way: maskgwm.Way = maskgwm.Way(), guidance: float = 1.0, **changes) -> Family:
    network = maskgwm_net(**changes)
    config = network.config

    def honours() -> dict[str, Known]:
        found = {name: known.expand(-1, config.views, -1, -1, -1) for name, known in frame_masks().items()}
        if config.views > 1:
            seen = these_frames([True] * 5, B, config.views)
            seen[:, 1] = False
            holes = masks.some_frames(0.6)(B, config.views, 9, Rng.of(3, batch=B))
            found |= {"a view is missing": seen, "frames of views are missing": holes}
        return found

    return Family(
        maskgwm.fill(network, maskgwm.Sampling(steps=3, guidance=guidance)), honours, 1, network,
        maskgwm.objective(way), maskgwm.references(config), config.num_frames, config.views, config.num_actions,
    )  # fmt: skip


@functools.cache
def mim4d_net(**changes) -> mim4d.MIM4D:
    torch.manual_seed(0)
    network = mim4d.MIM4D(mim4d.tiny(size=(SIZE, SIZE), channels=3, **changes))
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.02)
    return network.eval()


def mim4d_family(**changes) -> Family:
    network = mim4d_net(**changes)
    config = network.config
    v, t = config.views, config.num_frames

    def honours() -> dict[str, Known]:
        rng = functools.partial(Rng.of, 7, batch=B)
        words = {"predict": "110", "look back": "011", "interpolate": "101", "from one frame": "10"}
        found = {name: these_frames([c == "1" for c in word], B, v) for name, word in words.items()}
        view = these_frames([True] * t, B, v)
        view[:, 1] = False
        pixel = torch.zeros(B, v, 2, SIZE, SIZE, dtype=torch.bool)
        pixel[:, 0, 1, 5, 6] = True
        mixed = these_frames([True, True, False], B, v)
        mixed[1] = these_frames([False, True, True], 1, v)[0]
        return found | {
            "a view is missing": view,
            "patches": masks.blocks(*config.patches, 0.5)(B, v, t, rng()),
            "one pixel": pixel,
            "another for each example": mixed,
        }

    draw = masks.blocks(*config.patches, 0.3)
    return Family(mim4d.fill(network), honours, 3, network, mim4d.objective(), draw, t, v, 0, cameras_around)


def cameras_around(b: int, v: int, t: int) -> Cameras:
    """Level cameras on a car that goes ahead and turns; the world's z is up."""
    turn = torch.arange(v)[:, None] * 1.0 + torch.arange(t) * 0.05
    pose = torch.zeros(v, t, 4, 4)
    pose[..., 0, 0], pose[..., 1, 0], pose[..., 2, 1] = turn.sin(), -turn.cos(), -1.0
    pose[..., 0, 2], pose[..., 1, 2], pose[..., 3, 3] = turn.cos(), turn.sin(), 1.0
    pose[..., 0, 3], pose[..., 2, 3] = torch.arange(t) * 0.5, 1.5
    intrinsics = torch.tensor([[12.0, 0.0, SIZE / 2], [0.0, 12.0, SIZE / 2], [0.0, 0.0, 1.0]])
    return Cameras(intrinsics.expand(b, v, 3, 3), pose.expand(b, v, t, 4, 4))


FAMILIES: dict[str, Callable[[], Family]] = {
    "mcvd": mcvd_family,
    "mcvd spatin": lambda: mcvd_family(spatin=8),
    "mcvd flagged": lambda: mcvd_family(flagged=True),
    "mcvd ours": lambda: mcvd_family(
        solve.dpmpp_2m, stem=2, told=True, partial=True, predicts="x0", weight="min_snr", schedule="cosine"
    ),
    "mcvd motions": lambda: mcvd_family(
        current=1, past=3, stem=2, predicts="x0", weight="min_snr", told=True, partial=True, motions=2, reach=2
    ),
    "mcvd followed": lambda: mcvd_family(
        current=1, past=3, stem=2, predicts="x0", weight="min_snr", partial=True, motions=2, followed=3, reach=2
    ),
    "mcvd v": lambda: mcvd_family(solve.heun, predicts="v", weight="min_snr"),
    "mcvd colour, ddpm": lambda: mcvd_family(solve.ddpm, channels=3),
    "mcvd fpndm": lambda: dataclasses.replace(mcvd_family(solve.fpndm, steps=5), honours=some_masks),
    "mcvd gamma": lambda: mcvd_family(solve.ddpm, gamma=True),
    "forcing": forcing_family,
    "forcing pyramid": lambda: forcing_family(lambda steps, frames: reveal.pyramid(steps, frames, 2)),
    "forcing actions": lambda: forcing_family(actions=3),
    **{f"forcing {name}": lambda name=name: forcing_family(memories=(name,)) for name in BRICKS},
    "rolled window": lambda: rolled(Window(3)),
    "rolled sink": lambda: rolled(Sink(1, 3)),
    "rolled retrieve by camera": lambda: rolled(Retrieve(2, 2, "camera")),
    "rolled retrieve by likeness": lambda: rolled(Retrieve(2, 4, "likeness")),
    "rolled consolidate": lambda: rolled(Consolidate(1, 2, 2)),
    "rolled canvas": lambda: rolled(Canvas(2)),
    **{f"rolled {name}": lambda name=name: learned(name) for name in BRICKS},
    "voc": voc_family,
    "voc sample": lambda: voc_family(td=voc.TD(steps=1, loss="sample")),
    "voc actions": lambda: voc_family("vqvae", actions=3, gammas=(0.0, 0.5, 0.9), p_untold=0.5),
    "voc Monte Carlo, policies": lambda: voc_family(td=voc.TD(steps=None), policies=3, p_untold=0.5),
    "voc rewards": lambda: voc_family(reward_bins=3),
    "voc gpt2": lambda: voc_family(
        td=voc.TD(steps=1, loss="sample", context=1.0, top_k=2, dropout=True),
        gammas=(0.8,),
        gpt2=True,
        ends=False,
        dropout=(0.1, 0.1),
    ),
    "maskgwm": lambda: maskgwm_family(guidance=2.0),
    "maskgwm views": lambda: maskgwm_family(views=2, along="rows"),
    "maskgwm latents": lambda: maskgwm_family(latent=2, factor=4, patch=1, actions=("command", "goal")),
    "maskgwm as the paper": lambda: maskgwm_family(causal=False, views=3, across="all", actions=()),
    "maskgwm shared filler": lambda: maskgwm_family(shared=True, worn=0.5),
    "mim4d": mim4d_family,
    "mim4d splat, normals": lambda: mim4d_family(lift="splat", deep=True, alpha="autograd", sky=False),
    "mim4d flow": lambda: mim4d_family(flow=True),
    "copy": lambda: Family(copy_known, lambda: {k: v for k, v in frame_masks().items() if v[..., 0, 0].any(2).all()}),
    "blend": lambda: Family(
        linear_blend, lambda: {k: v for k, v in frame_masks().items() if v[..., 0, 0].any(2).all()}
    ),
}
CASES = [(name, case) for name, family in FAMILIES.items() for case in family().honours()]
every_case = pytest.mark.parametrize(("family", "case"), CASES, ids=[f"{f}-{c}" for f, c in CASES])


def clip_for(family: Family, known: Known, seed: int = 0) -> Clip:
    b, v, t = known.shape[:3]
    frames = Rng.of(seed, batch=b).uniform((v, t, family.channels, SIZE, SIZE)) * 2 - 1
    cameras = None if family.cameras is None else family.cameras(b, v, t)
    return dataclasses.replace(of_frames(frames, start=3), cameras=cameras)


def unknown_pixels(known: Known, clip: Clip) -> torch.Tensor:
    return ~on_pixels(known, SIZE, SIZE)[:, :, :, None].expand_as(clip.frames)


@every_case
def test_what_is_known_comes_back_and_what_is_unknown_is_not_read(family: str, case: str) -> None:
    """Laws 1 and 2. The unknown is replaced by other pixels, and by NaN, which would spread from any reading."""
    one = FAMILIES[family]()
    known = one.honours()[case]
    clip = clip_for(one, known)
    filled = one.fill(clip, known, Rng.of(5, batch=B))
    unknown = unknown_pixels(known, clip)
    assert torch.equal(filled.frames[~unknown], clip.frames[~unknown])
    assert filled.frames.shape == clip.frames.shape and torch.equal(filled.times, clip.times)
    assert bool(torch.isfinite(filled.frames).all()) and filled.frames.abs().max() <= 1
    for other in (torch.rand_like(clip.frames), torch.full_like(clip.frames, torch.nan)):
        changed = dataclasses.replace(clip, frames=torch.where(unknown, other, clip.frames))
        assert torch.equal(one.fill(changed, known, Rng.of(5, batch=B)).frames, filled.frames)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_known_is_the_identity(family: str) -> None:
    """Law 3."""
    one = FAMILIES[family]()
    known = these_frames([True] * (min(one.num_frames, 5) or 5), B, one.views)
    clip = clip_for(one, known)
    assert torch.equal(one.fill(clip, known, Rng.of(0, batch=B)).frames, clip.frames)


@pytest.mark.parametrize(
    ("family", "case"),
    [
        (f, c)
        for f in FAMILIES
        if f.startswith(("mcvd", "forcing"))
        for c in ("predict", "another for each example", "blocks")
    ]
    + [
        (f, c)
        for f in FAMILIES
        if f.startswith(("voc", "maskgwm", "mim4d"))
        for c in ("predict", "another for each example")
    ]
    + [(f, "far ahead") for f in FAMILIES if f.startswith("rolled")],
)
def test_the_same_seed_gives_the_same_pixels_in_any_batch(family: str, case: str) -> None:
    """Law 4; another seed gives others, where anything is drawn: MIM4D renders."""
    one = FAMILIES[family]()
    known = one.honours()[case]
    clip = clip_for(one, known)
    together = one.fill(clip, known, Rng.of(5, batch=B)).frames
    assert torch.equal(one.fill(clip, known, Rng.of(5, batch=B)).frames, together)
    for i in range(B):
        alone = one.fill(example(clip, [i]), known[i : i + 1], Rng.of(5, batch=B)[[i]]).frames
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=0)
    other = one.fill(clip, known, Rng.of(6, batch=B)).frames
    assert (
        torch.equal(other, together) if family.startswith("mim4d") else not torch.allclose(other, together, atol=1e-3)
    )


REFUSED = {
    "two views": (lambda: clip_of(v=2), lambda: these_frames([True, True, False, False], 1, 2), "one view"),
    "another size": (lambda: clip_of(size=8), lambda: these_frames([True, True, False, False]), "16 x 16"),
    "colour": (lambda: clip_of(c=3), lambda: these_frames([True, True, False, False]), "1 x 16 x 16"),
    "a mask of another length": (clip_of := lambda v=1, c=1, size=SIZE: of_frames(torch.zeros(1, v, 4, c, size, size)),
                                 lambda: these_frames([True, True, False]), "the clip has"),
    "a grid that does not divide": (lambda: clip_of(), lambda: torch.ones(1, 1, 4, 3, 3, dtype=torch.bool), "3x3"),
    "too little to go on": (lambda: clip_of(), lambda: these_frames([True, False, False, False]), "at least 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_words(case: str) -> None:
    """Law 5."""
    clip, known, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        mcvd_family().fill(clip(), known(), Rng.of(0, batch=1))


def test_a_model_that_sees_no_future_refuses_to_look_back() -> None:
    """Law 5."""
    one = mcvd_family(future=0)
    known = past_and_future(0, 3, 2)
    with pytest.raises(ValueError, match="no after it"):
        one.fill(clip_for(one, known), known, Rng.of(0, batch=1))


def test_generators_must_be_one_for_each_example() -> None:
    """Law 5."""
    one = mcvd_family()
    known = past_and_future(2, 2, 2, B)
    with pytest.raises(ValueError, match="1 random generators for a batch of 3"):
        one.fill(clip_for(one, known), known, Rng.of(0, batch=1))


@pytest.mark.parametrize("family", ["mcvd", "mcvd ours"])
def test_actions_change_nothing_for_a_family_that_has_none(family: str) -> None:
    """Law 6, in its strongest form; the actions pass through."""
    one = FAMILIES[family]()
    known = past_and_future(2, 4, 0, B)
    clip = clip_for(one, known)
    with_actions = dataclasses.replace(clip, actions=torch.randn(B, 6, 2))
    filled = one.fill(with_actions, known, Rng.of(1, batch=B))
    assert torch.equal(filled.frames, one.fill(clip, known, Rng.of(1, batch=B)).frames)
    assert filled.actions is with_actions.actions


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name.startswith(("mcvd", "forcing", "voc", "maskgwm", "mim4d"))]
)
def test_every_parameter_learns(family: str) -> None:
    """Law 7."""
    one = FAMILIES[family]()
    assert one.net and one.objective and one.draw
    batch = 8
    frames = Rng.of(2, batch=batch).uniform((one.views, one.num_frames, one.channels, SIZE, SIZE)) * 2 - 1
    rng = Rng.of(3, batch=batch)
    known = one.draw(batch, one.views, one.num_frames, rng)
    actions = Rng.of(4, batch=batch).normal((one.num_frames, one.actions)) * 0.1
    rewards = Rng.of(5, batch=batch).normal((one.num_frames,))
    cameras = None if one.cameras is None else one.cameras(batch, one.views, one.num_frames)
    clip = dataclasses.replace(of_frames(frames), actions=actions, rewards=rewards, cameras=cameras)
    loss = one.objective(one.net, clip, known, rng)
    assert loss.total.shape == (batch,)
    learns = {name: value for name, value in one.net.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad(loss.total.mean(), list(learns.values()), allow_unused=True)
    for (name, value), gradient in zip(learns.items(), gradients, strict=True):
        assert gradient is not None and bool(torch.isfinite(gradient).all()), name
        assert bool(gradient.any()), f"{name} of shape {tuple(value.shape)} gets no gradient"


@pytest.mark.parametrize("family", ["forcing actions", "maskgwm", "maskgwm views"])
def test_actions_change_nothing_before_they_are_felt(family: str) -> None:
    """Law 6, whatever is known: the action at a frame changes that frame and those before it in nothing."""
    one = FAMILIES[family]()
    cases = ("predict", "look back", "interpolate", "a view is missing", "another for each example")
    for case, known in one.honours().items():
        if case not in cases:
            continue
        clip = clip_for(one, known)
        actions = torch.randn(B, clip.shape[2], one.actions) * 0.1
        before = one.fill(dataclasses.replace(clip, actions=actions), known, Rng.of(1, batch=B)).frames
        differ = False
        for t in range(clip.shape[2]):
            changed = actions.clone()
            changed[:, t] += 0.4
            after = one.fill(dataclasses.replace(clip, actions=changed), known, Rng.of(1, batch=B)).frames
            assert torch.equal(after[:, :, : t + 1], before[:, :, : t + 1]), f"{case}: the action at {t}"
            differ |= not torch.equal(after, before)
        assert differ, f"{case}: no action is felt"


@pytest.mark.parametrize("family", ["mcvd", "mcvd spatin", "mcvd ours"])
def test_the_objective_does_not_read_hidden_context(family: str) -> None:
    """Law 2 for training: what the draw hides does not change the loss."""
    one = FAMILIES[family]()
    assert isinstance(one.net, mcvd.MCVD) and one.objective
    config = one.net.config
    known = past_and_future(config.past, config.current, config.future, B)
    known[:, :, : config.past] = False
    frames = Rng.of(2, batch=B).uniform((1, config.num_frames, one.channels, SIZE, SIZE)) * 2 - 1
    changed = frames.clone()
    changed[:, :, : config.past] = torch.nan
    losses = [one.objective(one.net, of_frames(f), known, Rng.of(4, batch=B)).total for f in (frames, changed)]
    assert torch.equal(*losses)
    shown = past_and_future(config.past, config.current, config.future, B)
    assert not torch.allclose(one.objective(one.net, of_frames(frames), shown, Rng.of(4, batch=B)).total, losses[0])
