"""Learned memories: what was written can be read; the state is a value of constant size; the fast forms equal the
slow ones; and those that name places learn, in seconds, to find a thing where it was seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskworld.clip import Clip, join, of_frames, planar, span
from maskworld.memory import ssm
from maskworld.memory.base import Memory
from maskworld.memory.compress import Compress
from maskworld.memory.evict import NUM_WAVES, Evicting, plane_waves
from maskworld.memory.merge import Merge, merge
from maskworld.memory.recurrent import Squeeze
from maskworld.memory.ssm import GatedDelta, delta_rule
from maskworld.memory.ttt import TTTLinear, inner_step
from maskworld.nets.transformer import Evicted
from maskworld.noise import Rng
from maskworld.papers import forcing
from maskworld.rollout import ahead_of, rollout

DIM, DEPTH, HEADS, PATCH, SIZE = 32, 2, 2, 4, 32
GRID = SIZE // PATCH

BRICKS: dict[str, Callable[[], nn.Module]] = {
    "compress": lambda: Compress(DIM, 1, PATCH, SIZE, (1, 2, 4)),
    "merge": lambda: Merge(DIM, 96),
    "ssm": lambda: GatedDelta(DIM, DEPTH, HEADS, dim_key=16, dim_value=8),
    "ttt": lambda: TTTLinear(DIM, DEPTH, HEADS, dim_head=16),
    "recurrent": lambda: Squeeze(DIM, 5, HEADS, segment=2),
}


def brick_of(name: str, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BRICKS[name]()


def frames_out(f: int, b: int = 2, seed: int = 0, first: int = 0) -> Evicted:
    """Frames of noise, seen while the camera slides one patch to the right with each."""
    rng = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).float()
    place = torch.zeros(b, f, GRID**2, 3)
    place[..., 1:] = grid
    place[..., 0] = torch.arange(first, first + f)[:, None]
    place[..., 2] += place[..., 0]
    pixels = torch.randn(b, f, 2, SIZE, SIZE, generator=rng)
    pixels[:, :, 1] = 1
    features = torch.randn(b, f, GRID**2, DIM, generator=rng)
    return Evicted(pixels, features, place, torch.randn(DEPTH, b, f, GRID**2, DIM, generator=rng))


def part(evicted: Evicted, start: int, stop: int) -> Evicted:
    pixels, features, place, hidden = evicted
    cut = slice(start, stop)
    return Evicted(pixels[:, cut], features[:, cut], place[:, cut], hidden[:, :, cut])


def look(brick: Any, memory: Tensor) -> list[Tensor]:
    """All that the network can see of a memory."""
    if not brick.layered:
        features, place, valid = brick.tokens(memory)
        return [features * valid[..., None], place * valid[..., None], valid.float()]
    query = frames_out(1, memory.shape[0], seed=9)
    return [brick.read(memory, i, query.hidden[i, :, 0], query.place[:, 0]) for i in range(DEPTH)]


# -- every brick ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BRICKS)
def test_the_state_is_a_value_of_constant_size(name):
    brick = brick_of(name)
    with torch.no_grad():
        memory = brick.empty(2)
        before = memory.clone()
        for i in range(40):
            after = brick.write(memory, frames_out(1 + i % 3, seed=i, first=2 * i))
            assert after.shape == before.shape and after.isfinite().all()
            assert torch.equal(memory, before), "the state that was given has changed"
            memory, before = after, after.clone()
        assert all(x.isfinite().all() for x in look(brick, memory))


@pytest.mark.parametrize("name", BRICKS)
def test_what_was_written_is_seen_and_what_was_not_is_not(name):
    brick, one = brick_of(name), frames_out(3)
    other = one._replace(
        pixels=one.pixels.index_add(0, torch.tensor([1]), torch.ones_like(one.pixels[:1])),
        features=one.features.index_add(0, torch.tensor([1]), torch.randn(1, 3, GRID**2, DIM)),
        hidden=one.hidden.index_add(1, torch.tensor([1]), torch.randn(DEPTH, 1, 3, GRID**2, DIM)),
    )
    seen = [look(brick, brick.write(brick.empty(2), x)) for x in (one, other)]
    nothing = look(brick, brick.empty(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*seen, strict=True)), "an example sees its neighbour"
    assert any((a[1] - b[1]).abs().max() > 1e-4 for a, b in zip(*seen, strict=True))
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(seen[0], nothing, strict=True))
    if not brick.layered:
        assert not brick.tokens(brick.empty(2))[2].any()


@pytest.mark.parametrize("name", ["compress", "merge", "ssm", "ttt"])
def test_one_by_one_or_all_at_once(name):
    brick, seven = brick_of(name).double(), Evicted(*[x.double() for x in frames_out(13)])
    memory = brick.empty(2)
    for i in range(13):
        memory = brick.write(memory, part(seven, i, i + 1))
    torch.testing.assert_close(memory, brick.write(brick.empty(2), seven), rtol=1e-9, atol=1e-9)


def test_a_recurrent_state_depends_on_its_segments():
    brick, four = brick_of("recurrent"), frames_out(4)
    at_once = brick.write(brick.empty(2), four)
    by_segment = brick.write(brick.write(brick.empty(2), part(four, 0, 2)), part(four, 2, 4))
    torch.testing.assert_close(at_once, by_segment)
    one_by_one = brick.empty(2)
    for i in range(4):
        one_by_one = brick.write(one_by_one, part(four, i, i + 1))
    assert (one_by_one - at_once)[..., :DIM].abs().max() > 1e-3


@pytest.mark.parametrize("name", BRICKS)
def test_every_weight_learns_from_one_write_and_one_read(name):
    brick = brick_of(name)
    seen = look(brick, brick.write(brick.empty(2), frames_out(9)))
    torch.stack([(x * torch.randn(x.shape)).sum() for x in seen]).sum().backward()
    for label, weight in brick.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), label
        rows = weight.grad.flatten(1) if weight.ndim > 1 else weight.grad[None]
        assert (rows.abs().amax(1) > 0).all(), f"{label}: part of it learns nothing"


@pytest.mark.parametrize("name", ["ssm", "ttt"])
def test_at_first_a_layer_reads_little(name):
    """Less than half as much as attention hands on at first (values of unit size, averaged, are less than 1)."""
    brick = brick_of(name)
    assert all(x.square().mean().sqrt() < 0.5 for x in look(brick, brick.write(brick.empty(2), frames_out(9))))


@pytest.mark.parametrize("name", BRICKS)
def test_under_bfloat16_the_state_and_the_places_stay_exact(name):
    brick, evicted = brick_of(name), frames_out(9, first=1000)
    exact = brick.write(brick.empty(2), evicted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = brick.write(brick.empty(2), evicted)
        if brick.layered:
            hidden = evicted.hidden[0, :, 0].bfloat16()
            assert brick.read(rough, 0, hidden, evicted.place[:, 0]).dtype == torch.bfloat16
        else:
            assert torch.equal(brick.tokens(rough)[1], brick.tokens(exact)[1])
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.2 * exact.abs().max()


def test_plane_waves_are_alike_only_in_the_same_place():
    near = torch.cartesian_prod(torch.zeros(1), torch.arange(12.0), torch.arange(12.0))
    waves = plane_waves(near)
    assert waves.shape == (144, NUM_WAVES)
    alike = waves @ waves.T / (NUM_WAVES / 2)
    torch.testing.assert_close(alike.diagonal(), torch.ones(144))
    assert (alike - torch.eye(144)).max() < 0.85
    torch.testing.assert_close(plane_waves(near + torch.tensor([7.0, 0.0, 0.0])), waves, atol=0, rtol=0)


# -- compression ----------------------------------------------------------------------------------


def test_a_constant_picture_gives_the_same_token_at_every_age():
    brick, embed = brick_of("compress"), nn.Linear(2 * PATCH**2, DIM)
    brick.start_from(embed.weight, embed.bias)
    evicted = frames_out(30)
    evicted.pixels[:, :, 0] = 0.3
    features, _, valid = brick.tokens(brick.write(brick.empty(2), evicted))
    assert valid.all() and features.shape[1] == brick.num_tokens == 16 + 4 + 1 + 1
    base = embed(torch.cat([torch.full((PATCH**2,), 0.3), torch.ones(PATCH**2)]))
    torch.testing.assert_close(features, base.expand_as(features), atol=1e-5, rtol=0)


def test_coarse_tokens_are_the_mean_of_what_they_cover():
    """With weights that are replicated, a coarse token is the base embedding of the frames averaged over its patch."""
    brick, embed = brick_of("compress"), nn.Linear(2 * PATCH**2, DIM)
    brick.start_from(embed.weight, embed.bias)
    evicted = frames_out(7)
    features, place, _ = brick.tokens(brick.write(brick.empty(2), evicted))
    patches = F.avg_pool2d(evicted.pixels[:, 4:6].mean(1), 4).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    torch.testing.assert_close(
        features[:, 16:20], embed(patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 4, -1)), atol=1e-5, rtol=1e-4
    )
    corners = evicted.place[:, 4:6].mean(1).view(2, 2, 4, 2, 4, 3).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(place[:, 16:20], corners)


def test_frames_grow_old_through_the_levels_and_end_in_their_mean():
    brick = brick_of("compress")
    for count, filled in ((0, (0, 0, 0, 0)), (1, (16, 0, 0, 0)), (2, (16, 4, 0, 0)), (4, (16, 4, 1, 0))):
        memory = brick.empty(2) if not count else brick.write(brick.empty(2), frames_out(count))
        valid = brick.tokens(memory)[2][0]
        assert [int(x.sum()) for x in valid.split([16, 4, 1, 1])] == list(filled)
    _, place, valid = brick.tokens(brick.write(brick.empty(2), frames_out(20)))
    assert valid.all()
    # Newest 19; then 17 and 18; then 13 to 16; then all of 0 to 12.
    assert [float(x) for x in place[0, [0, 16, 20, 21], 0]] == pytest.approx([19, 17.5, 14.5, 6], abs=1e-4)


@pytest.mark.parametrize("frames", [(), (1, 1), (1, 2, 4, 8), (0,)])
def test_queues_that_do_not_fit_are_refused(frames):
    with pytest.raises(ValueError, match=r"patches of|queues of"):
        Compress(DIM, 1, PATCH, SIZE, frames)


# -- merging --------------------------------------------------------------------------------------


def test_merging_takes_the_pairs_most_alike_and_adds_them():
    def token(x: float, y: float, place: float, size: float) -> Tensor:
        return torch.tensor([x, y, place, 0, 0, 1]) * size

    a, b = token(1, 0.0, 10, 1), token(0, 1, 2, 1)
    c, d = token(-1, 0.2, 3, 1), token(1, 0.1, 4, 3)
    out = merge(torch.stack([a, b, c, d])[None], dim=2, num=1)
    # Of the even ones, a has the best partner, d.
    torch.testing.assert_close(out, torch.stack([c, b, a + d])[None])
    assert (a + d)[2] / (a + d)[5] == pytest.approx((10 + 3 * 4) / 4)


def test_nothing_is_merged_while_there_is_room_and_nothing_is_lost_after():
    brick, evicted = brick_of("merge"), frames_out(6)
    memory = brick.write(brick.empty(2), part(evicted, 0, 1))
    features, place, valid = brick.tokens(memory)
    assert valid.sum(1).tolist() == [64, 64]
    torch.testing.assert_close(features[:, 32:], evicted.features[:, 0])
    torch.testing.assert_close(place[:, 32:], evicted.place[:, 0])
    memory = brick.write(memory, part(evicted, 1, 6))
    assert brick.tokens(memory)[2].all()
    sums = memory.sum(1)
    torch.testing.assert_close(sums[:, :DIM], evicted.features.sum((1, 2)), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(sums[:, DIM:-1], evicted.place.sum((1, 2)), atol=1e-1, rtol=1e-5)
    assert sums[:, -1].tolist() == [6 * 64] * 2


def test_the_same_frame_twice_is_merged_with_itself():
    """64 tokens for 64 patches: a second look at a picture that did not change adds nothing but to the sizes."""
    brick, evicted = Merge(DIM, 64), part(frames_out(2), 0, 1)
    # The order of tokens: each patch and its double stand in different sets of the matching.
    memory = brick.write(brick.empty(2), evicted)
    turned = evicted._replace(features=evicted.features.roll(1, 2), place=evicted.place.roll(1, 2))
    features, place, valid = brick.tokens(brick.write(memory, turned))
    alike = F.normalize(features, dim=-1) @ F.normalize(evicted.features[:, 0], dim=-1).mT
    assert valid.all()
    assert (alike.amax(1) > 0.999).all(), "a patch was lost"
    assert (place[..., 1:] % 1 == 0).all()


def test_features_that_were_merged_can_be_learned():
    brick, evicted = Merge(DIM, 16), frames_out(2)
    features = evicted.features.requires_grad_()
    brick.tokens(brick.write(brick.empty(2), evicted._replace(features=features)))[0].square().sum().backward()
    assert features.grad is not None and (features.grad.abs().sum(-1) > 0).all()


# -- the gated delta state ------------------------------------------------------------------------


def slow_delta(state, keys, values, beta, log_decay):
    """Token by token."""
    for f in range(keys.shape[-3]):
        state = state * math.e ** log_decay[..., f, None, None]
        for n in range(keys.shape[-2]):
            k, v, b = keys[..., f, n, :], values[..., f, n, :], beta[..., f, n, None]
            new = b * (v - torch.einsum("...k,...kv->...v", k, state))
            state = state + torch.einsum("...k,...v->...kv", k, new)
    return state


def test_the_chunk_form_equals_the_recurrence():
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    keys = F.normalize(draw(2, 3, 5, 20, 8), dim=-1)
    arguments = (draw(2, 3, 8, 6), keys, draw(2, 3, 5, 20, 6), draw(2, 3, 5, 20).sigmoid(), -draw(2, 3, 5).exp())
    assert (delta_rule(*arguments) - slow_delta(*arguments)).abs().max() < 1e-10


def test_a_delta_state_gives_back_what_it_was_last_told():
    """With keys at right angles and beta of 1 the rule is a table; a second writing replaces the first."""
    keys = torch.eye(8, dtype=torch.float64)[None]
    values = torch.randn(2, 8, 3, dtype=torch.float64)
    one, no_decay = torch.ones(1, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    state = torch.zeros(8, 3, dtype=torch.float64)
    for v in values:
        state = delta_rule(state, keys, v[None], one, no_decay)
    torch.testing.assert_close(keys[0] @ state, values[1])
    faded = delta_rule(state, keys, values[:1], 0 * one, no_decay - math.log(2))
    torch.testing.assert_close(faded, state / 2)


def test_layers_without_a_state_read_nothing():
    brick = GatedDelta(DIM, DEPTH, HEADS, 16, 8, layers=(1,))
    seen = look(brick, brick.write(brick.empty(2), frames_out(2)))
    assert not seen[0].any() and seen[1].any()
    with pytest.raises(ValueError, match="no such layers"):
        GatedDelta(DIM, DEPTH, HEADS, layers=(2,))


# -- weights as state -----------------------------------------------------------------------------


def test_the_inner_step_is_the_gradient_step():
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    weight, bias = draw(3, 8, 8).requires_grad_(), draw(3, 1, 8).requires_grad_()
    keys, values, rate, scale, shift = (
        draw(3, 20, 8),
        draw(3, 20, 8),
        draw(3, 20).sigmoid(),
        draw(3, 1, 8),
        draw(3, 1, 8),
    )
    out = F.layer_norm(keys @ weight + bias, (8,), eps=1e-6) * scale + shift
    loss = (rate * (out - (values - keys)).square().sum(-1)).sum()
    slow = [x - g for x, g in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True)]
    fast = inner_step(weight, bias, keys, values, rate, scale, shift)
    for a, b in zip(slow, fast, strict=True):
        assert (a - b).abs().max() < 1e-10
    # The dual form of the output: queries see the step through their products with the keys, never the new weights.
    queries = draw(3, 5, 8)
    step = torch.linalg.lstsq(
        torch.cat([keys, torch.ones_like(keys[..., :1])], -1).mT, torch.cat([weight - fast[0], bias - fast[1]], 1)
    ).solution
    dual = queries @ weight + bias - (queries @ keys.mT + 1) @ step
    torch.testing.assert_close(dual, queries @ fast[0] + fast[1], atol=1e-8, rtol=1e-8)


# -- learning to find a thing where it was seen ---------------------------------------------------


class Toy:
    """Frames of 8 patches with one code each, all over a world of 16 x 16. The first frame's codes are asked for,
    `after` frames later, by where they were."""

    def __init__(self) -> None:
        self.codes = F.normalize(torch.randn(8, DIM, generator=torch.Generator().manual_seed(0)), dim=-1) * DIM**0.5

    def draw(self, b: int, after: int, rng: torch.Generator) -> tuple[Evicted, Tensor, Tensor]:
        """(frames, places asked for, numbers of the right codes)"""
        f = 1 + after
        spot = torch.stack([torch.randperm(256, generator=rng)[: 8 * f] for _ in range(b)]).view(b, f, 8)
        place = torch.stack([torch.zeros_like(spot), spot // 16, spot % 16], -1).float()
        which = torch.randint(8, (b, f, 8), generator=rng)
        hidden = self.codes[which]
        return Evicted(torch.zeros(b, f, 1, 1, 1), hidden, place, hidden[None]), place[:, 0], which[:, 0]


@pytest.mark.parametrize("name", ["ssm", "ttt"])
def test_a_thing_is_found_where_it_was_seen_after_much_else(name):
    toy, rng = Toy(), torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        brick: Any = GatedDelta(DIM, 1, 4, 32, 16) if name == "ssm" else TTTLinear(DIM, 1, 4, 32)
    optimiser = torch.optim.Adam(brick.parameters(), lr=1e-2)

    def guess(evicted: Evicted, asked: Tensor) -> Tensor:
        blank = torch.ones(*asked.shape[:2], DIM)
        found = brick.read(brick.write(brick.empty(asked.shape[0]), evicted), 0, blank, asked)
        return found @ toy.codes.T / DIM**0.5

    for _ in range(100):
        evicted, asked, right = toy.draw(16, 4, rng)
        loss = F.cross_entropy(guess(evicted, asked).flatten(0, 1), right.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        evicted, asked, right = toy.draw(64, 12, rng)
        share = (guess(evicted, asked).argmax(-1) == right).float().mean()
        elsewhere = (guess(evicted, asked.roll(1, 1)).argmax(-1) == right).float().mean()
    assert share > 0.6, f"{share:.2f} of what was seen is found 12 frames and 96 other things later"
    assert elsewhere < 0.25, "the right answer is given wherever one asks"


# -- what leaves the window -----------------------------------------------------------------------


class Ledger:
    """A memory whose state is the sum of what was written, with a log."""

    def __init__(self) -> None:
        self.log: list[list[int]] = []

    def empty(self, b: int) -> Tensor:
        return torch.zeros(b, 1, 1)

    def write(self, memory: Tensor | None, clip: Clip) -> Tensor:
        assert clip.memory is None
        self.log.append(clip.times[0].tolist())
        total = clip.frames.flatten(1).sum(1)[:, None, None]
        return total if memory is None else memory + total


def numbered(t: int) -> Clip:
    return of_frames(torch.arange(float(t)).view(1, 1, t, 1, 1, 1).expand(2, 1, t, 1, 2, 2).contiguous())


def test_each_frame_is_written_once_and_in_order():
    ledger = Ledger()
    memory = Evicting(3, ledger.write, ledger.empty, 0)
    assert isinstance(memory, Memory) and memory.cost.shown == 3 and memory.size == 1
    clip = numbered(20)
    state = memory.start(span(clip, 0, 2))
    shown = memory.recall(state, span(clip, 2, 3))
    assert ledger.log == [] and shown.memory is not None and not shown.memory.any()
    for start, stop in ((2, 3), (3, 5), (5, 12), (12, 13)):
        new = dataclasses.replace(span(clip, start, stop), memory=torch.ones(2, 1, 1))
        state = memory.store(state, new)
    assert ledger.log == [[0, 1], [2, 3, 4, 5, 6, 7, 8], [9]]
    shown = memory.recall(state, span(clip, 13, 14))
    assert shown.times[0].tolist() == [10, 11, 12] and shown.memory is not None
    assert shown.memory.flatten().tolist() == [4 * sum(range(10))] * 2
    at_once = memory.recall(memory.start(span(clip, 0, 13)), span(clip, 13, 14))
    assert torch.equal(at_once.memory, shown.memory) and torch.equal(at_once.frames, shown.frames)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Evicting(0, ledger.write, ledger.empty, 0)


def net_with(name: str) -> forcing.Forcing:
    config = forcing.tiny(size=SIZE, patch=PATCH, memories=(name,))
    return forcing.Forcing(config, {name: brick_of(name)})


@pytest.mark.parametrize("name", BRICKS)
def test_a_network_rolls_out_with_it_and_learns_through_it(name):
    net = net_with(name)
    brick: Any = net.memories[name]
    memory = Evicting(2, lambda m, clip: net.write(name, m, clip), brick.empty, 0)
    rng = torch.Generator().manual_seed(0)
    clip = of_frames(torch.rand(1, 1, 6, 1, SIZE, SIZE, generator=rng) * 2 - 1)
    clip = dataclasses.replace(clip, cameras=planar(torch.arange(6.0)[None, :, None].repeat(1, 1, 2) * PATCH, SIZE))
    fill = forcing.fill(net, forcing.Sampling(steps=2), reads=name)
    ahead = dataclasses.replace(ahead_of(clip, 4), cameras=planar(torch.zeros(1, 4, 2), SIZE))
    out = rollout(fill, clip, ahead, memory, 2, Rng.of(0))
    assert out.frames.shape[2] == 4 and out.frames.isfinite().all()
    # Frames that are no longer shown make a difference, through the memory alone.
    changed = clip.frames.clone()
    changed[:, :, :2] = -changed[:, :, :2]
    other = rollout(fill, dataclasses.replace(clip, frames=changed), ahead, memory, 2, Rng.of(0))
    assert (other.frames - out.frames).abs().max() > 1e-5
    # And what is written is learned.
    show = (name, lambda history, ahead: memory.recall(memory.start(history), ahead))
    known = torch.zeros(1, 1, 6, 1, 1, dtype=torch.bool)
    known[:, :, :5] = True
    forcing.objective([show])(net, clip, known, Rng.of(0)).total.sum().backward()
    grads = [w.grad is not None and bool(w.grad.any()) for w in brick.parameters()]
    assert sum(grads) > len(grads) / 2
    assert memory.store(memory.start(clip), clip).memory.grad_fn is None


def told(net: forcing.Forcing, name: str, clip: Clip, memory: Tensor | None) -> Tensor:
    """The frame after a clip, as the network fills it in with this memory."""
    ahead = dataclasses.replace(ahead_of(clip, 1), cameras=planar(torch.zeros(1, 1, 2), SIZE))
    both = dataclasses.replace(join([clip, ahead]), memory=memory)
    known = torch.ones(1, 1, both.frames.shape[2], 1, 1, dtype=torch.bool)
    known[:, :, -1] = False
    fill = forcing.fill(net, forcing.Sampling(steps=2), reads=None if memory is None else name)
    return fill(both, known, Rng.of(0)).frames[:, :, -1]


def slid(t: int, start: int = 0) -> Clip:
    rng = torch.Generator().manual_seed(0)
    clip = of_frames(torch.rand(1, 1, t, 1, SIZE, SIZE, generator=rng) * 2 - 1, start)
    way = torch.arange(float(t))[None, :, None].repeat(1, 1, 2) * PATCH
    return dataclasses.replace(clip, cameras=planar(way, SIZE))


@pytest.mark.parametrize("name", BRICKS)
def test_only_how_long_ago_matters(name):
    """A film that begins 900 frames later is the same film."""
    net, made = net_with(name), []
    for start in (0, 900):
        clip = slid(7, start)
        memory = net.write(name, None, span(clip, 0, 5))
        made.append(told(net, name, span(clip, 5, 7), memory))
    torch.testing.assert_close(*made, atol=2e-3, rtol=0)
    elsewhere = dataclasses.replace(span(slid(7), 0, 5), times=torch.arange(-40, -35)[None])
    older = told(net, name, span(slid(7), 5, 7), net.write(name, None, elsewhere))
    assert ((older - made[0]).abs().max() > 1e-4) == (name in ("compress", "merge", "recurrent"))


@pytest.mark.parametrize("name", ["compress", "merge", "recurrent"])
def test_an_empty_memory_is_as_none(name):
    net, brick = net_with(name), brick_of(name)
    one = told(net, name, slid(2), brick.empty(1))
    torch.testing.assert_close(one, told(net, name, slid(2), None), atol=1e-5, rtol=0)


def test_a_delta_state_fades_and_is_heard_the_more_the_longer_the_past(monkeypatch):
    brick, evicted, decays = brick_of("ssm"), frames_out(3), []
    rule = ssm.delta_rule
    monkeypatch.setattr(ssm, "delta_rule", lambda *given: (decays.append(given[-1]), rule(*given))[1])
    memory = brick.write(brick.empty(2), evicted)
    fades = 1 - decays[0].exp()  # of itself, with each frame
    assert decays[0].shape == (DEPTH, 2, HEADS, 3) and 1e-4 < fades.min() and fades.max() < 0.1
    longer = memory.clone()
    longer[:, -1] += 100
    query = frames_out(1, seed=9)
    few, many = (brick.read(x, 0, query.hidden[0, :, 0], query.place[:, 0]) for x in (memory, longer))
    ratio = float((many.norm() / few.norm()).detach())
    torch.testing.assert_close(many, few * ratio)
    assert ratio == pytest.approx((1 + math.exp(-math.log(4 / 16) + 1)) / (1 + math.exp(-math.log(104 / 16) + 1)), 1e-3)


def test_weights_are_read_as_the_paper_reads_them():
    """tanh(alpha) (q + LN(q W + b)), the norm with its own scale and shift."""
    brick = brick_of("ttt")
    with torch.no_grad():
        brick.scale.mul_(0).add_(2.0)
        brick.shift.add_(0.5)
    query, memory = frames_out(1, seed=9), brick.empty(2)
    hidden, place = query.hidden[1, :, 0], query.place[:, 0]
    q = brick.query(hidden[None], place, slice(1, 2))[0]
    read = q + F.layer_norm(q @ brick.weight[1] + brick.bias[1], (16,), eps=1e-6) * 2 + 0.5
    want = torch.tanh(brick.alpha[1]) * (read.transpose(1, 2).flatten(2) @ brick.out[1])
    torch.testing.assert_close(brick.read(memory, 1, hidden, place), want)


def test_a_recurrent_state_gives_way_by_its_gate():
    brick, evicted, asked = brick_of("recurrent"), frames_out(2), []
    first = brick.empty(2)
    with torch.no_grad():
        brick.gate.weight.zero_()
        for bias, least, most in ((-30.0, 0.0, 1e-6), (-1.0, 0.1, 10.0)):
            brick.gate.bias.fill_(bias)
            change = (brick.write(first, evicted) - first)[..., :DIM].abs().amax()
            assert least <= change <= most
        new = brick.write(first, evicted)[..., :DIM] - first[..., :DIM]
        brick.gate.bias.fill_(30.0)
        torch.testing.assert_close(
            new, (brick.write(first, evicted) - first)[..., :DIM] / (1 + math.e), atol=1e-4, rtol=1e-4
        )
    # Squeeze: what is new asks what was known before.
    brick.squeeze.register_forward_pre_hook(lambda _, given: asked.append([x.shape[1] for x in given]))
    brick.write(first, evicted)
    assert asked == [[2 * GRID**2, 5]]


def test_an_empty_slot_is_the_first_to_go():
    one, far, farther = (torch.tensor([x, y, 0, 0, 0, 1]) for x, y in ((1.0, 0.0), (1.0, 0.1), (0.1, -1.0)))
    out = merge(torch.stack([torch.zeros(6), one, far, farther])[None], dim=2, num=1)
    torch.testing.assert_close(out, torch.stack([far, one, farther])[None])
