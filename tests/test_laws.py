"""The laws of `fill`, for every family and every kind of mask it honours, on tiny random networks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from maskworld import masks, solve
from maskworld.clip import Clip, example, of_frames
from maskworld.masks import on_pixels, past_and_future, these_frames
from maskworld.noise import Rng
from maskworld.papers import mcvd
from maskworld.probes.references import copy_known, linear_blend
from maskworld.verbs import Fill, Known, Objective

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
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "mcvd": mcvd_family,
    "mcvd spatin": lambda: mcvd_family(spatin=8),
    "mcvd flagged": lambda: mcvd_family(flagged=True),
    "mcvd ours": lambda: mcvd_family(
        solve.dpmpp_2m, stem=2, told=True, partial=True, predicts="x0", weight="min_snr", schedule="cosine"
    ),
    "mcvd v": lambda: mcvd_family(solve.heun, predicts="v", weight="min_snr"),
    "mcvd colour, ddpm": lambda: mcvd_family(solve.ddpm, channels=3),
    "mcvd fpndm": lambda: dataclasses.replace(mcvd_family(solve.fpndm, steps=5), honours=some_masks),
    "mcvd gamma": lambda: mcvd_family(solve.ddpm, gamma=True),
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
    return of_frames(frames, start=3)


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
    known = these_frames([True] * 5, B)
    clip = clip_for(one, known)
    assert torch.equal(one.fill(clip, known, Rng.of(0, batch=B)).frames, clip.frames)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("mcvd")])
@pytest.mark.parametrize("case", ["predict", "another for each example", "blocks"])
def test_the_same_seed_gives_the_same_pixels_in_any_batch(family: str, case: str) -> None:
    """Law 4; another seed gives others."""
    one = FAMILIES[family]()
    known = one.honours()[case]
    clip = clip_for(one, known)
    together = one.fill(clip, known, Rng.of(5, batch=B)).frames
    assert torch.equal(one.fill(clip, known, Rng.of(5, batch=B)).frames, together)
    for i in range(B):
        alone = one.fill(example(clip, [i]), known[i : i + 1], Rng.of(5, batch=B)[[i]]).frames
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=0)
    assert not torch.allclose(one.fill(clip, known, Rng.of(6, batch=B)).frames, together, atol=1e-3)


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


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("mcvd")])
def test_every_parameter_learns(family: str) -> None:
    """Law 7."""
    one = FAMILIES[family]()
    assert isinstance(one.net, mcvd.MCVD) and one.objective and one.draw
    batch = 8
    frames = Rng.of(2, batch=batch).uniform((1, one.net.config.num_frames, one.channels, SIZE, SIZE)) * 2 - 1
    rng = Rng.of(3, batch=batch)
    known = one.draw(batch, 1, one.net.config.num_frames, rng)
    loss = one.objective(one.net, of_frames(frames), known, rng)
    assert loss.total.shape == (batch,)
    gradients = torch.autograd.grad(loss.total.mean(), list(one.net.parameters()), allow_unused=True)
    for (name, value), gradient in zip(one.net.named_parameters(), gradients, strict=True):
        assert gradient is not None and bool(torch.isfinite(gradient).all()), name
        assert bool(gradient.any()), f"{name} of shape {tuple(value.shape)} gets no gradient"


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
