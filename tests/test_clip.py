"""Clip: what is cut can be joined again, what belongs together stays together, 8 bits survive."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from maskworld import clip
from maskworld.clip import Cameras, Clip

NAMES = [field.name for field in dataclasses.fields(Clip)]


def full(b: int = 2, v: int = 2, t: int = 5, seed: int = 0) -> Clip:
    """A clip with every field, and other numbers in every place."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return Clip(
        frames=rand(b, v, t, 3, 4, 6),
        times=torch.arange(t).repeat(b, 1) + 10 * torch.arange(b)[:, None] + 100 * seed,
        actions=rand(b, t, 2),
        cameras=Cameras(rand(b, v, 3, 3), rand(b, v, t, 4, 4)),
        depth=rand(b, v, t, 4, 6).abs(),
        memory=rand(b, 7, 8),
    )


def tensors(one: Clip) -> dict[str, torch.Tensor]:
    found = {name: getattr(one, name) for name in NAMES if name != "cameras"}
    if one.cameras is not None:
        found |= {"intrinsics": one.cameras.intrinsics, "pose": one.cameras.pose}
    return {name: value for name, value in found.items() if value is not None}


def assert_same(a: Clip, b: Clip) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_a_clip_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        full().frames = torch.zeros(1, 1, 1, 1, 1, 1)  # type: ignore[misc]
    assert full().shape == (2, 2, 5, 3, 4, 6)


def test_of_frames_counts_times_from_start() -> None:
    made = clip.of_frames(torch.zeros(2, 1, 3, 1, 4, 4), start=7)
    assert made.times.tolist() == [[7, 8, 9], [7, 8, 9]]
    assert list(tensors(made)) == ["frames", "times"]


def test_8_bits_survive() -> None:
    video = torch.arange(256, dtype=torch.uint8).view(1, 4, 8, 8, 1).repeat(2, 1, 1, 1, 3)
    video[..., 1] = video[..., 1].flip(1)
    made = clip.of_uint8(video)
    assert made.shape == (2, 1, 4, 3, 8, 8)
    assert (made.frames.min().item(), made.frames.max().item()) == (-1, 1)
    assert torch.equal(clip.to_uint8(made.frames)[:, 0], video)
    assert torch.equal(clip.of_uint8(video[0]).frames, made.frames[:1])
    half = clip.to_uint8(made.frames.double())
    assert half.dtype == torch.uint8 and torch.equal(half[:, 0], video)


def test_to_uint8_rounds_and_stays_in_range() -> None:
    values = torch.tensor([-1.5, -1.0, -0.001, 0.001, 1.0, 1.5]).view(1, 1, 6)
    assert clip.to_uint8(values).flatten().tolist() == [0, 0, 127, 128, 255, 255]


def test_spans_join_to_the_whole() -> None:
    whole = full()
    for cut in (1, 2, 4):
        assert_same(clip.join([clip.span(whole, 0, cut), clip.span(whole, cut, 5)]), whole)
    assert_same(clip.span(whole, 0, 5), whole)
    assert_same(clip.span(clip.span(whole, 1, 5), 1, 3), clip.span(whole, 2, 4))


def test_a_span_takes_what_belongs_to_its_frames() -> None:
    whole, part = full(), clip.span(full(), 1, 3)
    assert part.shape == (2, 2, 2, 3, 4, 6)
    assert part.times.tolist() == [[1, 2], [11, 12]]
    assert part.actions is not None and part.cameras is not None and part.depth is not None
    assert torch.equal(part.actions, whole.actions[:, 1:3])
    assert torch.equal(part.cameras.pose, whole.cameras.pose[:, :, 1:3])
    assert torch.equal(part.cameras.intrinsics, whole.cameras.intrinsics)
    assert torch.equal(part.depth, whole.depth[:, :, 1:3])
    assert torch.equal(part.memory, whole.memory)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 6), (2, 2), (3, 1), (5, 6)])
def test_a_span_that_is_not_there_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="of a clip of 5 frames"):
        clip.span(full(), start, stop)


def test_joined_clips_keep_the_memory_of_the_last() -> None:
    a, b = full(seed=0), full(seed=1)
    both = clip.join([a, b])
    assert both.shape == (2, 2, 10, 3, 4, 6)
    assert torch.equal(both.memory, b.memory)
    assert both.times[1].tolist() == [*range(10, 15), *range(110, 115)]


def test_examples_collate_to_the_batch() -> None:
    batch = full(b=3)
    apart = [clip.example(batch, [i]) for i in range(3)]
    assert_same(clip.collate(apart), batch)
    assert_same(clip.example(batch, slice(1, 3)), clip.collate(apart[1:]))
    assert_same(clip.example(batch, torch.tensor([2, 0, 2])), clip.collate([apart[2], apart[0], apart[2]]))


def test_examples_are_chosen_by_a_boolean_too() -> None:
    batch = full(b=3)
    assert_same(clip.example(batch, torch.tensor([True, False, True])), clip.example(batch, [0, 2]))


def test_a_part_of_the_fields_is_enough() -> None:
    for name in NAMES[2:]:
        one = dataclasses.replace(full(), **{name: None})
        assert_same(clip.join([clip.span(one, 0, 2), clip.span(one, 2, 5)]), one)
        assert_same(clip.collate([clip.example(one, [0]), clip.example(one, [1])]), one)


@pytest.mark.parametrize("together", [clip.join, clip.collate])
def test_clips_with_other_fields_do_not_go_together(together: Callable[[list[Clip]], Clip]) -> None:
    with pytest.raises(ValueError, match="different fields"):
        together([full(), dataclasses.replace(full(), depth=None)])
    with pytest.raises(ValueError, match="no clips"):
        together([])


def test_to_moves_every_tensor() -> None:
    moved = clip.to(full(), "meta")
    assert len(tensors(moved)) == 7
    assert all(value.device.type == "meta" for value in tensors(moved).values())
    assert_same(clip.to(full(), "cpu"), full())
