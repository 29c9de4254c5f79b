"""Memories: states are values, budgets are kept, and what is recalled is what was seen there."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from maskworld.clip import Cameras, Clip, join, of_frames, planar, span
from maskworld.memory.base import Memory, after, alike, pick
from maskworld.memory.canvas import Canvas
from maskworld.memory.consolidate import Consolidate
from maskworld.memory.retrieve import Retrieve, inside, looked_at, pooled
from maskworld.memory.sink import Sink
from maskworld.memory.window import Window
from maskworld.noise import Rng
from maskworld.rollout import ahead_of, rollout
from maskworld.verbs import Known

SIZE = 8

MEMORIES: dict[str, Memory[Any]] = {
    "window": Window(5),
    "sink": Sink(2, 3),
    "consolidate": Consolidate(1, 3, 4),
    "consolidate evenly": Consolidate(0, 2, 3, "even"),
    "camera": Retrieve(2, 3, "camera", bank=20, chunk=2),
    "likeness": Retrieve(2, 4, "likeness", bank=21, chunk=2),
    "canvas": Canvas(3, extent=2, ahead=7),
}


# -- a small world --------------------------------------------------------------------------------


def world(seed: int = 0, across: int = 6) -> torch.Tensor:
    """A flat picture, `across` views wide and 3 high."""
    return torch.rand(1, 3 * SIZE, across * SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def there(offset: torch.Tensor) -> Cameras:
    return planar(offset.float(), SIZE)


def wander(t: int, b: int = 2) -> torch.Tensor:
    """Offsets (x, y) that go back and forth, each example in its own way."""
    return torch.stack([torch.stack([((i + 1) * torch.arange(t)) % 9 - 4.0, torch.zeros(t)], -1) for i in range(b)])


def photograph(picture: torch.Tensor, offset: torch.Tensor, start: int = 0) -> Clip:
    """What a camera sees of the picture whose middle view is at offset 0; whole offsets "b t 2"."""
    x0, y0 = (picture.shape[2] - SIZE) // 2, (picture.shape[1] - SIZE) // 2
    frames = [
        [picture[:, y0 + int(y) : y0 + int(y) + SIZE, x0 + int(x) : x0 + int(x) + SIZE] for x, y in row]
        for row in offset.tolist()
    ]
    clip = of_frames(torch.stack([torch.stack(row) for row in frames])[:, None], start)
    return dataclasses.replace(clip, cameras=there(offset))


def equipped(t: int, b: int = 2) -> tuple[Clip, Clip]:
    """(prompt of 3 frames, t frames ahead), both with actions and cameras."""
    offset = wander(3 + t, b)
    start = dataclasses.replace(photograph(world(), offset[:, :3]), actions=torch.ones(b, 3, 2))
    ahead = dataclasses.replace(ahead_of(start, t), actions=torch.ones(b, t, 2), cameras=there(offset[:, 3:]))
    return start, ahead


def number(clip: Clip, known: Known, rng: Rng) -> Clip:
    """A fill that paints each frame with its own time, holes and all else aside."""
    frames = clip.times[:, None, :, None, None, None].float().expand(clip.frames.shape)
    return dataclasses.replace(clip, frames=torch.where(known[..., None, :, :], clip.frames, frames))


def copy(clip: Clip, known: Known, rng: Rng) -> Clip:
    """A fill that repeats the last frame shown."""
    shown = int(known[0, 0].sum())
    t = clip.frames.shape[2]
    last = clip.frames[:, :, shown - 1 : shown].expand(-1, -1, t - shown, -1, -1, -1)
    return dataclasses.replace(clip, frames=torch.cat([clip.frames[:, :, :shown], last], 2))


def tensors(state: Any) -> list[torch.Tensor]:
    """All tensors in a state, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, tuple):
        return [x for part in state for x in tensors(part)]
    if dataclasses.is_dataclass(state):
        return [x for field in dataclasses.fields(state) for x in tensors(getattr(state, field.name))]
    return []


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(one, other, strict=True)
    )


def cams(clip: Clip) -> Cameras:
    assert clip.cameras is not None
    return clip.cameras


def acts(clip: Clip) -> torch.Tensor:
    assert clip.actions is not None
    return clip.actions


# -- laws of every memory -------------------------------------------------------------------------


@pytest.fixture(params=MEMORIES, ids=lambda name: name.replace(" ", "-"))
def memory(request: pytest.FixtureRequest) -> Memory[Any]:
    return MEMORIES[request.param]


def test_state_is_a_value(memory):
    start, ahead = equipped(30)
    assert isinstance(memory, Memory)
    state = memory.start(start)
    for at in range(0, 30, 5):
        piece = span(ahead, at, at + 5)
        before = [x.clone() for x in tensors(state)]
        assert same(tensors(memory.recall(state, piece)), tensors(memory.recall(state, piece)))
        new = dataclasses.replace(piece, frames=torch.full_like(piece.frames, float(at)))
        later = memory.store(state, new)
        assert same(tensors(state), before) and not same(tensors(later), before)
        assert same(tensors(memory.store(state, new)), tensors(later))
        state = later


def test_recalled_clips_join_with_what_is_ahead(memory):
    start, ahead = equipped(4)
    bare = dataclasses.replace(ahead, actions=None)
    with_depth = dataclasses.replace(start, depth=torch.ones(2, 1, 3, SIZE, SIZE), memory=torch.ones(2, 1, 1))
    for prompt, piece in ((start, ahead), (with_depth, ahead), (with_depth, bare)):
        shown = memory.recall(memory.start(prompt), piece)
        assert (shown.actions is None) == (piece.actions is None) and shown.depth is None and shown.memory is None
        assert join([shown, piece]).frames.shape[2] == shown.frames.shape[2] + 4
    without = dataclasses.replace(start, actions=None)
    with pytest.raises(ValueError, match="has actions, and the prompt has none"):
        memory.recall(memory.start(without), ahead)


@pytest.mark.parametrize("stride", [4, 7])
def test_the_budget_is_kept_for_a_hundred_frames(memory, stride):
    cost, shown = memory.cost, []

    class Watched:
        """The memory, and the sizes of what goes in and out of it."""

        sizes: list[int] = []  # noqa: RUF012
        cost = memory.cost

        def start(self, clip: Clip) -> Any:
            return memory.start(clip)

        def recall(self, state: Any, ahead: Clip) -> Clip:
            out = memory.recall(state, ahead)
            shown.append(out.frames.shape[2])
            return out

        def store(self, state: Any, new: Clip) -> Any:
            state = memory.store(state, new)
            self.sizes.append(sum(x.numel() for x in tensors(state)))
            kept = max(x.shape[2] for x in tensors(state) if x.ndim == 6)
            assert kept <= cost.kept
            return state

    start, ahead = equipped(100)
    out = rollout(copy, start, ahead, Watched(), stride, Rng.of(0, batch=2))
    assert torch.equal(out.times, ahead.times)
    torch.testing.assert_close(out.frames, start.frames[:, :, -1:].expand_as(out.frames), rtol=0, atol=0)
    assert max(shown) <= cost.shown and cost.tokens == 0
    assert max(Watched.sizes[30 // stride :]) <= max(Watched.sizes[: 30 // stride + 1])
    assert isinstance(memory, Canvas) or max(shown) == cost.shown


def test_frames_are_shown_once_and_in_order(memory):
    start, ahead = equipped(60)
    numbers = start.times[:, None, :, None, None, None].float().expand(start.frames.shape)
    start, seen = dataclasses.replace(start, frames=numbers), []

    def fill(clip: Clip, known: Known, rng: Rng) -> Clip:
        seen.append(span(clip, 0, int(known[0, 0].sum())))
        return number(clip, known, rng)

    rollout(fill, start, ahead, memory, 3, Rng.of(0, batch=2))
    for step, clip in enumerate(seen):
        times = clip.times[:, 3:] if isinstance(memory, Canvas) else clip.times
        frames = clip.frames[:, :, 3:] if isinstance(memory, Canvas) else clip.frames
        assert (times.diff(dim=1) > 0).all() and times[0, -1] == 2 + 3 * step
        torch.testing.assert_close(frames[:, 0, :, 0, 0, 0], times.float())
        expected = wander(63)[torch.arange(2)[:, None], times][..., 0]
        torch.testing.assert_close(cams(clip).pose[:, 0, -times.shape[1] :, 0, 3], expected)


def test_a_batch_is_its_examples(memory):
    start, ahead = equipped(40)
    whole = memory.recall(memory.store(memory.start(start), ahead), span(ahead, 0, 2))
    for i in range(2):
        alone = [
            dataclasses.replace(
                clip,
                frames=clip.frames[i : i + 1],
                times=clip.times[i : i + 1],
                actions=acts(clip)[i : i + 1],
                cameras=Cameras(cams(clip).intrinsics[i : i + 1], cams(clip).pose[i : i + 1]),
            )
            for clip in (start, ahead)
        ]
        one = memory.recall(memory.store(memory.start(alone[0]), alone[1]), span(alone[1], 0, 2))
        assert same([x[i : i + 1] for x in tensors(whole)], tensors(one))


def test_fields_of_one_and_the_other():
    start, ahead = equipped(4)
    assert after(start, dataclasses.replace(ahead, actions=None)).actions is None
    with pytest.raises(ValueError, match="has actions and cameras, and the prompt has none"):
        alike(dataclasses.replace(start, actions=None, cameras=None), ahead)
    which = torch.tensor([[2, 0], [1, 1]])
    some = pick(start, which)
    assert torch.equal(some.times, which)
    assert torch.equal(some.frames[0, 0, 0], start.frames[0, 0, 2])
    assert torch.equal(cams(some).pose[1, :, 0], cams(start).pose[1, :, 1])


# -- sink and consolidation -----------------------------------------------------------------------


def counted(t: int, b: int = 1) -> Clip:
    return of_frames(torch.arange(t).float()[None, None, :, None, None, None].expand(b, 1, t, 1, 2, 2))


def times_after(memory: Memory[Any], t: int, stride: int = 1) -> list[int]:
    start = counted(3)
    out = rollout(number, start, ahead_of(start, t - 3), memory, stride, Rng.of(0))
    state = memory.start(join([start, out]))
    return memory.recall(state, ahead_of(out, 1)).times[0].tolist()


@pytest.mark.parametrize("t", [1, 2, 4, 5, 6, 9])
def test_sink_is_the_first_and_the_last(t):
    shown = Sink(2, 3).recall(Sink(2, 3).start(counted(t)), ahead_of(counted(t), 1)).times[0].tolist()
    assert shown == sorted({*range(min(2, t)), *range(max(t - 3, 0), t)})


@pytest.mark.parametrize("spacing", ["growing", "even"])
@pytest.mark.parametrize("first", [0, 2])
def test_slots_do_not_depend_on_the_pieces(spacing, first):
    memory = Consolidate(first, 3, 4, spacing)
    clip = counted(31)
    states = []
    for stride in (1, 4, 30):
        state = memory.start(span(clip, 0, 1))
        for at in range(1, 31, stride):
            state = memory.store(state, span(clip, at, min(at + stride, 31)))
        states.append(state.times[0].tolist())
    assert all(state == states[0] for state in states)
    assert states[0][:first] == list(range(first)) and states[0][-3:] == [28, 29, 30] and len(states[0]) == first + 7


def test_slots_reach_over_the_whole_past():
    clip = counted(500)
    for length in (60, 137, 256, 500):
        part = span(clip, 0, length)
        even = Consolidate(1, 2, 6, "even").start(part).times[0, :-2]
        assert even[-1] == length - 3 and even.diff()[:-1].max() <= 4 * even.diff()[:-1].min()
        assert even.diff().max() < length / 2
        growing = Consolidate(1, 2, 6, "growing").start(part).times[0, :-2]
        age = (length - 2 - growing).float()[1:]
        assert (age[:-1] / age[1:]).max() < 8 and (age > 1).any()
        assert growing.diff()[-1] < even.diff().max()


# -- retrieval ------------------------------------------------------------------------------------


def chosen(memory: Retrieve, clip: Clip, ahead: Clip) -> list[list[int]]:
    """The times of what is shown beside the recent frames."""
    return memory.recall(memory.start(clip), ahead).times[:, : -memory.recent].tolist()


def test_camera_finds_the_frames_that_see_the_target():
    """A camera steps away from a place; coming back between two of its stops, both are found, newest first."""
    stops = [0, 4, 8, 12, 16, 20, 20, 20, 20]
    offset = torch.tensor([[[x, 0] for x in stops], [[-x, 0] for x in stops]]).float()
    clip = photograph(world(across=9), offset)
    ahead = dataclasses.replace(ahead_of(clip, 1), cameras=there(torch.tensor([[[6.0, 0]], [[-2.0, 0]]])))
    assert chosen(Retrieve(2, 2, "camera", bank=9, chunk=1, grid=SIZE), clip, ahead) == [[1, 2], [0, 1]]
    again = dataclasses.replace(ahead_of(clip, 2), cameras=there(torch.tensor([[[0.0, 0], [8, 0]]] * 2)))
    assert chosen(Retrieve(2, 2, "camera", bank=9, chunk=1), clip, again)[0] == [0, 2]


def test_camera_covers_what_is_not_covered_yet():
    """Three frames see most of the target, and one the rest of it: one of the three comes, and that one."""
    clip = photograph(world(across=12), torch.tensor([[[x, 0] for x in [9, 0, 0, 0, 30, 30, 30]]]).float())
    ahead = dataclasses.replace(ahead_of(clip, 1), cameras=there(torch.tensor([[[3.0, 0]]])))
    assert chosen(Retrieve(2, 2, "camera", bank=7, chunk=1, grid=SIZE), clip, ahead) == [[0, 3]]
    seen = dataclasses.replace(clip, cameras=there(cams(clip).pose[:, 0, [1, 2, 3, 4, 0, 1, 1], :2, 3]))
    assert chosen(Retrieve(3, 1, "camera", bank=7, chunk=1, grid=SIZE), seen, ahead) == [[3]]  # all is shown already


def test_camera_prefers_the_newest_of_equals():
    clip = photograph(world(), torch.tensor([[[x, 0] for x in [0, 0, 0, 16, 16, 16, 16]]]).float())
    ahead = dataclasses.replace(ahead_of(clip, 1), cameras=there(torch.zeros(1, 1, 2)))
    assert chosen(Retrieve(2, 1, "camera", bank=7, chunk=1), clip, ahead) == [[2]]
    older = Retrieve(2, 1, "camera", bank=7, chunk=1, age_penalty=-0.2)
    assert chosen(older, clip, ahead) == [[0]]


def turned(angles: list[float]) -> Cameras:
    """Cameras at one place that look round: rotation about the vertical axis, 90 degrees wide."""
    pose = torch.eye(4).repeat(1, 1, len(angles), 1, 1)
    for i, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        pose[0, 0, i, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return Cameras(torch.tensor([[[[4.0, 0, 4], [0, 4, 4], [0, 0, 1]]]]), pose)


def test_camera_that_turns():
    angles = [0.0, 90, 180, 270, 0, 0, 0]
    clip = dataclasses.replace(of_frames(torch.zeros(1, 1, 7, 1, SIZE, SIZE)), cameras=turned(angles))
    for target, expected in ((90.0, [1]), (180.0, [2]), (270.0, [3]), (-90.0, [3])):
        ahead = dataclasses.replace(ahead_of(clip, 1), cameras=turned([target]))
        for depth in (None, 3.0, (1.0, 10.0)):
            assert chosen(Retrieve(2, 1, "camera", bank=7, chunk=1, depth=depth), clip, ahead) == [expected]
    ahead = dataclasses.replace(ahead_of(clip, 1), cameras=turned([135.0]))
    assert chosen(Retrieve(2, 2, "camera", bank=7, chunk=1), clip, ahead) == [[1, 2]]


def test_camera_that_advances_sees_by_depth():
    """From behind, a near thing is in view that has passed by when the camera has come nearer."""
    pose = torch.eye(4).repeat(1, 1, 2, 1, 1)
    pose[0, 0, 1, 2, 3] = 5
    cameras = Cameras(turned([0.0]).intrinsics, pose)
    near, far = (looked_at(turned([0.0]), (SIZE, SIZE), 4, (depth,)) for depth in (2.0, 100.0))
    assert inside(cameras, near, (SIZE, SIZE)).all(2).tolist() == [[True, False]]
    assert not inside(cameras, near, (SIZE, SIZE))[0, 1].any()
    assert inside(cameras, far, (SIZE, SIZE))[0].float().mean(1).tolist() == [1.0, 1.0]
    assert torch.allclose(near[..., 2], torch.tensor(2.0).double())
    assert near[0].abs().max() <= 2  # 90 degrees wide


def test_likeness_finds_the_chunk_that_looks_the_same():
    a, b, c = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows = [[a, a, b, b, c, c, b, b], [c, c, a, a, b, b, c, c]]
    clip = of_frames(torch.stack([torch.stack(row) for row in rows])[:, None])
    ahead = ahead_of(clip, 1)
    assert chosen(Retrieve(2, 2, "likeness", bank=8, chunk=2), clip, ahead) == [[2, 3], [0, 1]]
    opposite = Retrieve(2, 2, "likeness", bank=8, chunk=2, key=lambda x: x.flatten(1)[:, :1] * 0 + 1)
    assert len(chosen(opposite, clip, ahead)[0]) == 2
    key = pooled(torch.stack([a, 0.5 * a + 0.1, -a]))
    torch.testing.assert_close((key @ key.T)[0], torch.tensor([1.0, 1, -1]))


def test_a_full_bank_lets_the_oldest_go_but_not_the_first():
    for by in ("camera", "likeness"):
        memory = Retrieve(2, 2, by, bank=9, chunk=2)
        offset = wander(40, 1)
        clip = photograph(world(), offset)
        state = memory.start(span(clip, 0, 3))
        for at in range(3, 40):
            state = memory.store(state, span(clip, at, at + 1))
            times = state.clip.times[0].tolist()
            assert times[:2] == [0, 1] and len(times) in (at + 1, 8, 9) and times[-1] == at
            assert times[2:] == list(range(times[2], at + 1)) and times[2] % 2 == 0
        assert state.keys.shape == (1, len(times), 0 if by == "camera" else 64)


def test_fewer_frames_than_count_are_all_shown():
    for by in ("camera", "likeness"):
        memory = Retrieve(2, 4, by, bank=20, chunk=2)
        for t in range(1, 7):
            clip = photograph(world(), wander(t, 1))
            ahead = dataclasses.replace(ahead_of(clip, 1), cameras=there(torch.zeros(1, 1, 2)))
            assert memory.recall(memory.start(clip), ahead).times[0].tolist() == list(range(t))


# -- canvas ---------------------------------------------------------------------------------------


def test_canvas_remembers_after_looking_away():
    """Away, sideways and down, and back: what was photographed comes back bit for bit, and no more."""
    path = torch.tensor([[[0, 0], [3, 1], [8, 1], [16, 0], [16, 0], [16, 0]]] * 2).float()
    path[1] = -path[1]
    picture, memory = world(across=7), Canvas(2, extent=3, ahead=3)
    start = photograph(picture, path[:, :1])
    ahead = dataclasses.replace(photograph(picture, path[:, 1:], 1))
    state = memory.store(memory.start(start), ahead)
    back = torch.tensor([[[0, 0], [8, 1], [5, 0]]] * 2).float()
    back[1] = -back[1]
    truth = photograph(picture, back, 6)
    shown = memory.recall(state, dataclasses.replace(truth, frames=torch.zeros_like(truth.frames)))
    assert shown.times[0].tolist() == [6, 7, 8, 4, 5]
    assert torch.equal(shown.frames[:, :, :2], truth.frames[:, :, :2])
    holes = shown.frames[:, :, 2].isnan()
    assert torch.equal(shown.frames[:, :, 2][~holes], truth.frames[:, :, 2][~holes])
    hidden = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    hidden[0, 8 - 5 :] = True  # the row that only the first view showed, which ended at 8; this one begins at 5
    assert torch.equal(holes[0, 0, 0], hidden) and torch.equal(holes[1, 0, 0], hidden.flip(0, 1))


def test_canvas_where_nobody_looked_and_beyond_its_edge():
    memory = Canvas(1, extent=1, ahead=2)
    picture = world(across=9)
    far = torch.tensor([[[0, 0], [24, 0], [-4, 0]]]).float()
    state = memory.start(photograph(picture, far))
    ahead = photograph(picture, torch.tensor([[[24, 0], [-8, 0]]]).float(), 3)
    shown = memory.recall(state, ahead).frames[0, 0, :, 0]
    assert shown[0].isnan().all()
    assert torch.equal(shown[1][:, 4:], ahead.frames[0, 0, 1, 0][:, 4:]) and shown[1][:, :4].isnan().all()


def test_canvas_shows_the_newest():
    memory = Canvas(1, ahead=1)
    clip = dataclasses.replace(
        counted(3), frames=torch.tensor([1.0, 2, 3])[None, None, :, None, None, None].expand(1, 1, 3, 1, 2, 2)
    )
    at = planar(torch.tensor([[[0.0, 0], [1, 0], [40, 0]]]), 2)
    state = memory.start(dataclasses.replace(clip, cameras=at))
    ahead = dataclasses.replace(ahead_of(clip, 1), cameras=planar(torch.zeros(1, 1, 2), 2))
    assert memory.recall(state, ahead).frames[0, 0, 0, 0].tolist() == [[1, 2], [1, 2]]
    late = dataclasses.replace(clip, cameras=at, times=torch.tensor([[5, 1, 6]]))
    assert memory.recall(memory.start(late), ahead).frames[0, 0, 0, 0].tolist() == [[1, 1], [1, 1]]


def test_canvas_between_pixels_is_bilinear():
    slope = torch.arange(6 * SIZE).float().expand(1, 3 * SIZE, -1) / 10
    memory = Canvas(1, extent=2, ahead=1)
    wide = photograph(slope, torch.tensor([[[0, 0], [SIZE, 0]]]).float())
    state = memory.start(wide)
    for x in (0.25, 0.5, 3.75):
        ahead = dataclasses.replace(ahead_of(wide, 1), cameras=there(torch.tensor([[[x, 0.0]]])))
        shown = memory.recall(state, ahead).frames[0, 0, 0, 0]
        torch.testing.assert_close(shown, wide.frames[0, 0, 0, 0] + x / 10)
        there_and_back = memory.store(state, dataclasses.replace(ahead, frames=shown[None, None, None, None]))
        still = memory.recall(there_and_back, dataclasses.replace(ahead, cameras=there(torch.zeros(1, 1, 2))))
        torch.testing.assert_close(still.frames[0, 0, 0, 0], wide.frames[0, 0, 0, 0])
    nearly = dataclasses.replace(ahead_of(wide, 1), cameras=there(torch.tensor([[[SIZE - 1e-4, 0.0]]])))
    assert torch.equal(memory.recall(state, nearly).frames[:, :, 0], wide.frames[:, :, 1])


def test_canvas_frames_take_what_is_ahead_and_act_not():
    start, ahead = equipped(4)
    memory = Canvas(2, ahead=4)
    shown = memory.recall(memory.start(start), ahead)
    assert acts(shown).tolist() == [[[0.0, 0.0]] * 4 + [[1.0, 1.0]] * 2] * 2
    assert torch.equal(cams(shown).pose[:, :, :4], cams(ahead).pose)
    with pytest.raises(ValueError, match="made for up to 3"):
        Canvas(2, ahead=3).recall(memory.start(start), ahead)


def test_holes_are_not_written():
    memory = Canvas(1, ahead=1)
    start = photograph(world(), torch.zeros(1, 1, 2))
    state = memory.start(start)
    torn = start.frames.clone()
    torn[..., :4] = torch.nan
    torn[..., 4:] = 0.5
    later = memory.store(state, dataclasses.replace(start, frames=torn, times=start.times + 1))
    ahead = dataclasses.replace(ahead_of(start, 1), cameras=there(torch.zeros(1, 1, 2)))
    shown = memory.recall(later, ahead).frames[:, :, :1]
    assert torch.equal(shown[..., :4], start.frames[..., :4]) and (shown[..., 4:] == 0.5).all()


# -- bad input ------------------------------------------------------------------------------------


def test_cameras_that_are_missing():
    bare, (start, ahead) = of_frames(torch.zeros(1, 1, 3, 1, SIZE, SIZE)), equipped(4)
    needy: list[Memory[Any]] = [Retrieve(1, 1, "camera", bank=9, chunk=1), Canvas(1)]
    for memory in needy:
        with pytest.raises(ValueError, match="the prompt has no cameras: give its intrinsics and poses"):
            memory.start(bare)
        with pytest.raises(ValueError, match="what lies ahead has no cameras"):
            memory.recall(memory.start(start), dataclasses.replace(ahead, cameras=None))
    with pytest.raises(ValueError, match="has cameras, and the prompt has none"):
        rollout(copy, dataclasses.replace(start, cameras=None), ahead, Window(2), 2, Rng.of(0, batch=2))


def test_cameras_that_do_not_slide_past_a_plane():
    clip = of_frames(torch.zeros(1, 1, 2, 1, SIZE, SIZE))
    near, zoom, wide = there(torch.zeros(1, 2, 2)), there(torch.zeros(1, 2, 2)), there(torch.zeros(1, 2, 2))
    near.pose[:, :, 1, 2, 3] = 1
    for cameras, words in (
        (turned([0.0, 30.0]), "one is turned"),
        (near, "one comes nearer"),
        (Cameras(torch.tensor([[[[8.0, 0, 4], [0, 9, 4], [0, 0, 1]]]]), wide.pose), "square pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            Canvas(1).start(dataclasses.replace(clip, cameras=cameras))
    state = Canvas(1).start(dataclasses.replace(clip, cameras=zoom))
    tele = Cameras(zoom.intrinsics * torch.tensor([2.0, 2, 1])[:, None], zoom.pose)
    with pytest.raises(ValueError, match="zooms"):
        Canvas(1).recall(state, dataclasses.replace(clip, cameras=tele))
    two = of_frames(torch.zeros(1, 2, 2, 1, SIZE, SIZE))
    both = Cameras(zoom.intrinsics.expand(1, 2, 3, 3), zoom.pose.expand(1, 2, 2, 4, 4))
    with pytest.raises(ValueError, match="2 views"):
        Canvas(1).start(dataclasses.replace(two, cameras=both))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Sink(0, 2), "1 or more of each"),
        (lambda: Sink(1, 0), "1 or more of each"),
        (lambda: Consolidate(0, 1, 0), "0, 1 and 1"),
        (lambda: Consolidate(0, 0, 1), "0, 1 and 1"),
        (lambda: Retrieve(0, 1, "camera"), "1 or more of each"),
        (lambda: Retrieve(1, 0, "camera"), "1 or more of each"),
        (lambda: Retrieve(1, 3, "likeness", chunk=2), "not whole chunks of 2"),
        (lambda: Retrieve(4, 4, "camera", bank=11), "needs 12 or more"),
        (lambda: Retrieve(1, 1, "camera", depth=0.0), "more than 0"),
        (lambda: Retrieve(1, 1, "camera", depth=(1.0, -1.0)), "more than 0"),
        (lambda: Canvas(0), "1, 0 and 1"),
        (lambda: Canvas(1, ahead=0), "1, 0 and 1"),
    ],
)
def test_sizes_that_make_no_memory(make, words):
    with pytest.raises(ValueError, match=words):
        make()
