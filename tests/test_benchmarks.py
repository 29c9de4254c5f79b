"""The benchmark compares like with like: the network written down plainly gives our network's frames."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from maskworld.papers import mcvd

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import mcvd as benchmark
import plain_mcvd

SIZES = {"num_times": 1000, "blocks": 1}


@pytest.mark.parametrize("changes", [{}, {"spatin": 16}, {"channels": 3, "stem": 2, "told": True}])
def test_the_plain_loop_and_ours_give_the_same_frames(changes: dict) -> None:
    assert benchmark.check(mcvd.tiny(**SIZES, **changes), steps=4) < 1e-4


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = plain_mcvd.smaller
    monkeypatch.setattr(plain_mcvd, "smaller", lambda x: usual(x) * 1.01)
    with pytest.raises(ValueError, match="not fair"):
        benchmark.check(mcvd.tiny(**SIZES), steps=4)


def test_what_the_plain_loop_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="cond_emb"):
        plain_mcvd.Plain(mcvd.MCVD(mcvd.tiny(flagged=True)))


def test_resampling_written_down_plainly_is_the_depthwise_one() -> None:
    from maskworld.nets.unet import Resample

    x = torch.randn(2, 5, 8, 8)
    torch.testing.assert_close(plain_mcvd.smaller(x), Resample(5, up=False)(x))
    torch.testing.assert_close(plain_mcvd.larger(x), Resample(5, up=True)(x))
