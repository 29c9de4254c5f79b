"""Roll-outs: what the model is shown before each piece is what the memory keeps, and nothing of what lies ahead."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from maskworld.clip import Clip, join, of_frames, planar, span
from maskworld.memory.base import Cost, Memory
from maskworld.memory.window import Window
from maskworld.noise import Rng
from maskworld.rollout import ahead_of, blank, rollout
from maskworld.verbs import Known


def prompt(t: int = 3, b: int = 2, start: int = 5) -> Clip:
    return of_frames(torch.rand(b, 1, t, 1, 4, 4, generator=torch.Generator().manual_seed(t)), start)


class Calls:
    """A fill that adds 1 to the last known frame for each step in time, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Clip, Known]] = []

    def __call__(self, clip: Clip, known: Known, rng: Rng) -> Clip:
        self.seen.append((clip, known))
        shown = int(known[0, 0].sum())
        last = clip.frames[:, :, shown - 1 : shown]
        ahead = (clip.times[:, shown:] - clip.times[:, shown - 1 : shown])[:, None, :, None, None, None]
        return dataclasses.replace(clip, frames=torch.cat([clip.frames[:, :, :shown], last + ahead], 2))


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_pieces_add_up(stride, length):
    fill, start = Calls(), prompt()
    out = rollout(fill, start, ahead_of(start, 7), Window(length), stride, Rng.of(0, batch=2))
    count = torch.arange(1, 8)
    assert torch.equal(out.times, (7 + count).expand(2, 7))
    torch.testing.assert_close(out.frames, start.frames[:, :, -1:] + count[None, None, :, None, None, None])
    assert len(fill.seen) == -(-7 // stride)


def test_what_is_shown_is_the_window():
    fill, start = Calls(), prompt()
    out = rollout(fill, start, ahead_of(start, 5), Window(2), 2, Rng.of(0, batch=2))
    whole = join([start, out])
    for (clip, known), at, new in zip(fill.seen, (3, 5, 7), (2, 2, 1), strict=True):
        assert known.shape == (2, 1, 2 + new, 1, 1)
        assert known[0, 0, :, 0, 0].tolist() == [True] * 2 + [False] * new
        assert torch.equal(clip.times, whole.times[:, at - 2 : at + new])
        assert torch.equal(clip.frames[:, :, :2], span(whole, at - 2, at).frames)


def test_what_lies_ahead_is_never_read():
    start = prompt()
    ahead = ahead_of(start, 5)
    poisoned = dataclasses.replace(ahead, frames=torch.full_like(ahead.frames, float("nan")))
    outs = [rollout(Calls(), start, x, Window(2), 2, Rng.of(0, batch=2)).frames for x in (ahead, poisoned)]
    assert torch.equal(outs[0], outs[1])

    def echo(clip: Clip, known: Known, rng: Rng) -> Clip:
        return clip

    assert rollout(echo, start, poisoned, Window(2), 2, Rng.of(0, batch=2)).frames.abs().max() == 0


def test_actions_ahead_are_handed_on():
    start = dataclasses.replace(prompt(b=1), actions=torch.zeros(1, 3, 2))
    ahead = dataclasses.replace(ahead_of(start, 4), actions=torch.arange(8.0).view(1, 4, 2))
    fill = Calls()
    out = rollout(fill, start, ahead, Window(2), 2, Rng.of(0))
    assert fill.seen[1][0].actions.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]]]
    assert torch.equal(out.actions, ahead.actions)


def test_another_memory_is_asked_in_turn():
    asked: list[str] = []

    class First:
        """Shows the first frame of all, and counts."""

        cost = Cost(shown=1, tokens=0, kept=1)

        def start(self, clip: Clip) -> Clip:
            asked.append("start")
            return span(clip, 0, 1)

        def recall(self, state: Clip, ahead: Clip) -> Clip:
            asked.append(f"recall for {ahead.times[0].tolist()}")
            return state

        def store(self, state: Clip, new: Clip) -> Clip:
            asked.append(f"store {new.times[0].tolist()}")
            return state

    start = prompt()
    assert isinstance(First(), Memory) and isinstance(Window(1), Memory)
    out = rollout(Calls(), start, ahead_of(start, 3), First(), 2, Rng.of(0, batch=2))
    assert asked == ["start", "recall for [8, 9]", "store [8, 9]", "recall for [10]", "store [10]"]
    torch.testing.assert_close(out.frames[:, :, 0], start.frames[:, :, 0] + 3)


def test_blank_is_grey_at_its_times():
    start = prompt()
    times = torch.tensor([[9, 11], [2, 3]])
    clip = blank(times, start)
    assert torch.equal(clip.times, times)
    assert clip.shape == (2, 1, 2, 1, 4, 4) and not clip.frames.any()


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_that_never_arrives(stride):
    with pytest.raises(ValueError, match="never arrives"):
        rollout(Calls(), prompt(), ahead_of(prompt(), 2), Window(1), stride, Rng.of(0, batch=2))


def test_progress_is_told_after_each_piece():
    told: list[tuple[int, int]] = []
    start = prompt()
    rollout(Calls(), start, ahead_of(start, 5), Window(2), 2, Rng.of(0, batch=2), lambda *x: told.append(x))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_longer_than_the_window():
    start = prompt()
    with pytest.raises(ValueError, match="a stride of 5 frames is longer than the window of 4"):
        rollout(Calls(), start, ahead_of(start, 9), Window(2), 5, Rng.of(0, batch=2), window=4)
    with pytest.raises(ValueError, match="shows up to 5 frames, more than the window of 4"):
        rollout(Calls(), start, ahead_of(start, 9), Window(5), 2, Rng.of(0, batch=2), window=4)
    rollout(Calls(), start, ahead_of(start, 9), Window(4), 4, Rng.of(0, batch=2), window=4)


def test_actions_and_cameras_shorter_than_the_rollout():
    start = prompt()
    ahead = ahead_of(start, 5)
    object.__setattr__(ahead, "actions", torch.zeros(2, 3, 1))  # what a caller without checked shapes can bring
    with pytest.raises(ValueError, match="actions for 3 of the 5 frames ahead: 2 are missing"):
        rollout(Calls(), start, ahead, Window(2), 2, Rng.of(0, batch=2))
    ahead = ahead_of(start, 5)
    object.__setattr__(ahead, "cameras", planar(torch.zeros(2, 1, 2), 4))
    with pytest.raises(ValueError, match="cameras for 1 of the 5 frames ahead: 4 are missing"):
        rollout(Calls(), start, ahead, Window(2), 2, Rng.of(0, batch=2))


def test_fields_that_only_one_side_has():
    acting = dataclasses.replace(prompt(), actions=torch.ones(2, 3, 1), memory=torch.ones(2, 1, 1))
    fill = Calls()
    out = rollout(fill, acting, ahead_of(acting, 4), Window(2), 2, Rng.of(0, batch=2))
    assert out.actions is None and out.memory is None and all(clip.actions is None for clip, _ in fill.seen)
    ahead = dataclasses.replace(ahead_of(prompt(), 4), actions=torch.ones(2, 4, 1))
    with pytest.raises(ValueError, match="has actions, and the prompt has none"):
        rollout(Calls(), prompt(), ahead, Window(2), 2, Rng.of(0, batch=2))


def test_tokens_of_a_memory_reach_the_fill_and_go_no_further():
    class Counting(Window):
        """Shows how many frames it has been given."""

        def recall(self, state: Clip, ahead: Clip) -> Clip:
            last = state.times[:, -1].float()[:, None, None]
            return dataclasses.replace(super().recall(state, ahead), memory=last)

    fill, start = Calls(), prompt()
    out = rollout(fill, start, ahead_of(start, 4), Counting(2), 2, Rng.of(0, batch=2))
    assert [clip.memory[0].item() for clip, _ in fill.seen if clip.memory is not None] == [7, 9]
    assert out.memory is None


def test_nothing_ahead_and_nothing_behind():
    for frames in (0, -3):
        with pytest.raises(ValueError, match="1 or more"):
            ahead_of(prompt(), frames)
    for length in (0, -1):
        with pytest.raises(ValueError, match="shows nothing"):
            Window(length)
