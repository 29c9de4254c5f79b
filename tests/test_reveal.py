"""Reveal orders: from all noise to none, never back, each frame in even steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskworld import reveal
from maskworld.noise import linear

few = st.integers(1, 7)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def is_an_order(order: torch.Tensor, steps: int, frames: int) -> None:
    assert order.dtype == torch.float64 and order.shape[1] == frames
    assert bool((order[0] == 1).all()) and bool((order[-1] == 0).all())
    fall = -order.diff(dim=0)
    assert bool((fall >= 0).all()), "a frame gets noisier"
    assert bool((fall > 0).any(1).all()), "a step does nothing"
    moving = fall[fall > 0]
    torch.testing.assert_close(moving, torch.full_like(moving, 1 / steps), rtol=0, atol=1e-12)
    assert moving.numel() == steps * frames


@quick
@given(steps=few, frames=few, lag=st.integers(0, 9))
def test_pyramid(steps: int, frames: int, lag: int) -> None:
    lag = min(lag, steps)  # with a longer lag there are steps in which nothing moves
    order = reveal.pyramid(steps, frames, lag)
    is_an_order(order, steps, frames)
    assert order.shape[0] == steps + lag * (frames - 1) + 1
    for frame in range(1, frames):  # each frame does what the one before did, `lag` steps later
        assert torch.equal(order[lag:, frame], order[: len(order) - lag, frame - 1])
    assert bool((order.diff(dim=1) >= 0).all()), "a later frame is clearer"


@quick
@given(steps=few, frames=few, block=few)
def test_block_by_block(steps: int, frames: int, block: int) -> None:
    order = reveal.block_by_block(steps, frames, block)
    is_an_order(order, steps, frames)
    assert order.shape[0] == steps * -(-frames // block) + 1
    for a in range(frames):
        for b in range(frames):
            if a // block == b // block:
                assert torch.equal(order[:, a], order[:, b])
            elif a < b:  # a block begins when the one before is clean
                assert bool(((order[:, a] == 0) | (order[:, b] == 1)).all())


@quick
@given(steps=few, frames=few)
def test_the_ends_of_the_family(steps: int, frames: int) -> None:
    whole, single = reveal.whole(steps, frames), reveal.frame_by_frame(steps, frames)
    is_an_order(whole, steps, frames)
    is_an_order(single, steps, frames)
    assert torch.equal(whole, reveal.block_by_block(steps, frames, frames))
    assert torch.equal(whole, reveal.pyramid(steps, frames, 0))
    assert torch.equal(single, reveal.block_by_block(steps, frames, 1))
    assert torch.equal(single, reveal.pyramid(steps, frames, steps))


def test_a_pyramid_written_out() -> None:
    expected = [[2, 2, 2], [1, 2, 2], [0, 1, 2], [0, 0, 1], [0, 0, 0]]
    assert (reveal.pyramid(2, 3, 1) * 2).tolist() == expected


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20, 100, 1000])
def test_times_are_those_of_a_schedule(steps: int) -> None:
    times = reveal.times(reveal.whole(steps, 2), 1000)
    assert times[:, 0].tolist() == times[:, 1].tolist() == [level.time for level in linear().levels(steps)]


def test_bad_input_is_refused() -> None:
    for call in (
        lambda: reveal.whole(0, 3),
        lambda: reveal.frame_by_frame(3, 0),
        lambda: reveal.pyramid(3, 3, -1),
        lambda: reveal.block_by_block(3, 3, 0),
    ):
        with pytest.raises(ValueError, match="is at least"):
            call()
