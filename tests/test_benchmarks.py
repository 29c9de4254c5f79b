"""The benchmark compares like with like: the network written down plainly gives our network's frames."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from maskworld import checkpoint
from maskworld.noise import Rng
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


def test_steps_that_do_not_divide_the_times_are_refused() -> None:
    plain = plain_mcvd.Plain(mcvd.MCVD(mcvd.tiny(num_times=100)))
    context, shown = torch.zeros(1, 4, 1, 16, 16), torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="divides 100"):
        plain_mcvd.sample(plain, context, shown, 30, Rng.of(0))


def test_the_plain_network_is_contiguous_and_leaves_ours_as_it_was() -> None:
    net = mcvd.MCVD(mcvd.tiny()).to(memory_format=torch.channels_last)
    theirs, ours = plain_mcvd.Plain(net).unet.stem.weight, net.unet.stem.weight
    assert theirs.is_contiguous() and not ours.is_contiguous()
    assert theirs.data_ptr() != ours.data_ptr() and torch.equal(theirs, ours)


def test_works_stand_in_turn() -> None:
    done: list[str] = []
    spent = benchmark.in_turn([lambda: done.append("a"), lambda: done.append("b")], 2)
    assert done == ["a", "b"] * 3  # one turn to warm up
    assert len(spent) == 2 and all(t.wall > 0 and t.cpu >= 0 for t in spent)


def test_operations_are_counted_and_attention_too() -> None:
    q = torch.zeros(2, 3, 10, 8)
    attention = benchmark.gflop_of(lambda: F.scaled_dot_product_attention(q, q, q))
    assert attention == pytest.approx(2 * (2 * 2 * 3 * 10 * 10 * 8) / 1e9)  # q k and the weighted v
    x, weight = torch.zeros(1, 4, 6, 6), torch.zeros(5, 4, 3, 3)
    assert benchmark.gflop_of(lambda: F.conv2d(x, weight, padding=1)) == pytest.approx(2 * 36 * 5 * 4 * 9 / 1e9)


def test_the_whole_benchmark_on_a_tiny_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = mcvd.tiny(size=36, attention=(), past=1, current=1, future=0, num_times=100, width=4, dim_head=4, stem=2)
    config = dataclasses.replace(config, schedule="cosine", predicts="x0")
    about = {"family": "mcvd", "config": dataclasses.asdict(config), "data": {"name": "digits"}, "step": 0}
    checkpoint.write(tmp_path / "tiny.safetensors", benchmark.lively(config).state_dict(), about)
    monkeypatch.setattr(benchmark, "MODELS", {"big5": mcvd.tiny(num_times=100)})
    monkeypatch.setattr(benchmark, "MATMUL", 64)
    quick = ["--quick", "--json", "--models", "big5", "--batches", "2", "--clips", "2", "--samples", "1", "--few", "3"]
    assert benchmark.main([*quick, "--checkpoint", str(tmp_path / "tiny.safetensors")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = found["speed"]
    assert (row["model"], row["batch"], row["threads"], row["block_steps"]) == ("big5", 2, 1, 2)
    call = row["call_s"]
    assert row["call_ratio"]["cpu"] == pytest.approx(call["plain"]["cpu"] / call["ours"]["cpu"])
    rows = {r["sampler"]: r for r in found["equal_psnr"]["rows"]}
    assert set(rows) == {"ddpm-100", "dpmpp_2m-3", "ddim-3"}
    assert rows["ddim-3"]["ratio"]["cpu"] > 5  # 3 calls for 100

    assert benchmark.main([*quick, "--checkpoint", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    assert "skipped" in out and json.loads(out.splitlines()[-1])["equal_psnr"] is None
