import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import torch

from maskworld import masks
from maskworld.clip import Clip
from maskworld.noise import Rng, gaussian
from maskworld.probes import protocol
from maskworld.probes import quality as q
from maskworld.probes.protocol import METRICS, Task, as_dict, as_table, baselines
from maskworld.probes.references import copy_known, linear_blend
from maskworld.probes.statistics import interval_of_sets

PREDICTION, LOOKBACK, INTERPOLATION = Task(2, 3), Task(0, 3, 2), Task(2, 3, 1)


def clip_of(i: int, t: int = 6, v: int = 1, c: int = 1, size: int = 16) -> Clip:
    """Clip i of a small world, well inside [-1, 1]; its times tell which one it is."""
    frames = torch.rand(1, v, t, c, size, size, generator=torch.Generator().manual_seed(i)) - 0.5
    return Clip(frames, (100 * i + torch.arange(t))[None])


def truth_of(clip: Clip, c: int = 1) -> torch.Tensor:
    """What was blanked, for a toy fill that knows the world by heart."""
    _, v, t, c, _, _ = clip.shape
    return torch.cat([clip_of(int(time) // 100, v=v, c=c).frames[:, :, :t] for time in clip.times[:, 0]])


def oracle(sigma: float):
    """Truth plus noise: `sigma` on [-1, 1] is sigma / 2 on [0, 1]."""

    def fill(clip, known, rng):
        frames = truth_of(clip)
        noisy = frames + sigma * gaussian(frames, rng)
        given = masks.on_pixels(known, *frames.shape[-2:])[:, :, :, None]
        return dataclasses.replace(clip, frames=torch.where(given, clip.frames, noisy))

    return fill


evaluate = functools.partial(protocol.evaluate, resamples=200)
MOMENTS = q.Extractor("moments", lambda x: torch.stack([x.mean((1, 2, 3, 4)), x.std((1, 2, 3, 4))], 1))


# -- the numbers that theory says -----------------------------------------------------------------


@pytest.mark.parametrize("task", [PREDICTION, LOOKBACK, INTERPOLATION])
def test_noise_of_known_size_has_the_psnr_of_theory(task):
    report = evaluate(oracle(0.1), clip_of, task, num_clips=12, samples=4, seed=3)
    one, mean = report.scores["one"], report.scores["mean"]
    assert one["psnr"].mean == pytest.approx(-10 * math.log10(0.05**2), abs=0.1)
    assert one["mse"].mean == pytest.approx(0.05**2, rel=0.02)
    assert one["mae"].mean == pytest.approx(0.05 * math.sqrt(2 / math.pi), rel=0.02)
    assert mean["psnr"].mean - one["psnr"].mean == pytest.approx(10 * math.log10(4), abs=0.1)  # noise / 2
    assert report.scores["best"]["psnr"].mean > one["psnr"].mean
    for row in ("one", "mean", "best"):
        assert len(report.curves[row]) == 3
        assert report.curves[row][1].mean == pytest.approx(report.scores[row]["psnr"].mean, abs=0.3)
        gain = report.gains[row]["copy"]
        assert gain.mean == pytest.approx(report.scores[row]["psnr"].mean - report.scores["copy"]["psnr"].mean)


def test_a_perfect_fill():
    report = evaluate(oracle(0.0), clip_of, PREDICTION, num_clips=6, samples=2, extractor=q.pixels8())
    for row in ("best", "one", "mean"):
        assert report.scores[row]["psnr"].mean == q.PSNR_CEILING == report.curves[row][0].low
        assert report.scores[row]["ssim"].mean == pytest.approx(1)
        assert report.scores[row]["mse"].mean == 0 == report.scores[row]["mae"].high
    assert max(report.distance.trajectories) == pytest.approx(0, abs=1e-8)
    assert report.distance.real_halves == pytest.approx(report.distance.filled_halves) != 0


def test_the_best_of_more_samples_is_no_worse():
    reports = [evaluate(oracle(0.2), clip_of, PREDICTION, num_clips=5, samples=k, batch=4) for k in (2, 3, 6)]
    for metric, sign in zip(METRICS, (1, 1, -1, -1), strict=True):
        best = [sign * report.items["best"][metric] for report in reports]
        assert (best[0] <= best[1]).all() and (best[1] <= best[2]).all() and (best[0] < best[2]).any()
        per_sample = [sign * report.items["one"][metric] for report in reports]
        assert (best[2] > per_sample[2]).all()


def test_the_best_is_chosen_for_each_metric_by_itself():
    """One sample is right but for a bright spot, the other is wrong a little everywhere."""

    def fill(clip, known, rng):
        frames, second = truth_of(clip), rng.uniform(()) > 0.5
        spot, fog = torch.zeros_like(frames[0]), torch.full_like(frames[0], 0.04)
        spot[..., 4:6, 4:6] = 0.5
        frames = frames + torch.where(second[:, None, None, None, None, None], spot, fog)
        given = masks.on_pixels(known, 16, 16)[:, :, :, None]
        return dataclasses.replace(clip, frames=torch.where(given, clip.frames, frames))

    report = evaluate(fill, clip_of, PREDICTION, num_clips=4, samples=12)
    best = report.items["best"]
    assert best["mse"] == pytest.approx(0.02**2, rel=1e-3)  # of the fog; the spot has 4 / 256 / 16
    assert best["mae"] == pytest.approx(4 / 256 / 4, rel=1e-3)  # of the spot; the fog has 0.02
    assert [x.mean for x in report.curves["best"]] == pytest.approx([-20 * math.log10(0.02)] * 3, abs=0.01)  # fog


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in():
    want = evaluate(oracle(0.1), clip_of, PREDICTION, num_clips=4, samples=3, batch=100)
    for batch in (1, 5):
        got = evaluate(oracle(0.1), clip_of, PREDICTION, num_clips=4, samples=3, batch=batch)
        for row in want.items:
            for metric in METRICS:
                np.testing.assert_array_equal(got.items[row][metric], want.items[row][metric])
    other = evaluate(oracle(0.1), clip_of, PREDICTION, num_clips=4, samples=3, seed=1)
    assert (other.items["one"]["psnr"] != want.items["one"]["psnr"]).all()


def test_a_fill_is_asked_without_gradients():
    weight = torch.ones(1, requires_grad=True)

    def fill(clip, known, rng):
        assert not (clip.frames * weight).requires_grad
        return clip

    evaluate(fill, clip_of, PREDICTION, num_clips=1, samples=1)


def test_each_sample_has_its_own_seed():
    drawn = {}

    def fill(clip, known, rng):
        for i, value in zip(clip.times[:, 0] // 100, rng.uniform((2,)), strict=True):
            drawn.setdefault(int(i), []).append(value)
        return clip

    evaluate(fill, clip_of, PREDICTION, num_clips=3, samples=2, batch=4, seed=7)
    for i in range(3):
        for j in range(2):
            assert torch.equal(drawn[i][j], Rng.of(7, i, j).uniform((2,))[0])


def test_views_count_equally():
    def fill(clip, known, rng):
        frames = truth_of(clip)
        frames[:, 0, 2:5] += 0.2  # 20 dB
        frames[:, 1, 2:5] += 0.02  # 40 dB
        return dataclasses.replace(clip, frames=frames)

    report = evaluate(fill, lambda i: clip_of(i, v=2), PREDICTION, num_clips=4, samples=1, extractor=q.pixels8())
    assert report.scores["one"]["psnr"].mean == pytest.approx(30, abs=1e-3)
    assert report.size == (2, 1, 16, 16) and report.filled_frames == 4 * 2 * 3


def test_one_sample_has_neither_best_nor_mean():
    report = evaluate(oracle(0.1), clip_of, INTERPOLATION, num_clips=3, samples=1)
    assert list(report.scores) == ["one", "copy", "blend"] == list(report.curves)
    assert list(report.gains) == ["one"] and list(report.gains["one"]) == ["copy", "blend"]


def test_colour_under_openstl():
    report = evaluate(oracle(0.1), lambda i: clip_of(i, c=3), PREDICTION, num_clips=4, samples=2, protocol=q.OPENSTL)
    assert report.scores["one"]["mse"].mean == pytest.approx(0.05**2 * 3 * 16 * 16, rel=0.03)  # a sum
    assert report.scores["one"]["psnr"].mean == pytest.approx(26.02, abs=0.1)


# -- baselines ------------------------------------------------------------------------------------


def ramp(i: int, t: int = 6) -> Clip:
    """Every frame 0.1 brighter than the one before: 0.05 on [0, 1]."""
    frames = 0.1 * torch.arange(t, dtype=torch.float64).view(1, 1, t, 1, 1, 1).expand(1, 1, t, 1, 16, 16) - 0.3
    return Clip(frames.contiguous(), torch.arange(t)[None])


def test_copy_and_blend_of_a_steady_change():
    def curve(task, row):
        report = evaluate(copy_known, ramp, task, num_clips=2, samples=1)
        assert report.scores["one"] == report.scores["copy"]
        return [x.mean for x in report.curves[row]]

    steps = {n: -20 * math.log10(0.05 * n) for n in (1, 2, 3)}
    assert curve(PREDICTION, "copy") == pytest.approx([steps[1], steps[2], steps[3]])
    assert curve(LOOKBACK, "copy") == pytest.approx([steps[3], steps[2], steps[1]])
    assert curve(INTERPOLATION, "copy") == pytest.approx([steps[1], steps[2], steps[1]])
    assert curve(INTERPOLATION, "blend") == pytest.approx([q.PSNR_CEILING] * 3)
    assert set(baselines(PREDICTION)) == set(baselines(LOOKBACK)) == {"copy"}


@pytest.mark.parametrize("fill", [copy_known, linear_blend])
@pytest.mark.parametrize(
    "known",
    [
        Task(2, 2, 2).known(3, 2),
        Task(0, 4, 2).known(3, 2),
        Task(0, 6, 0).known(3, 2),
        Task(6, 1, 0).known(3, 2)[:, :, :6],
        masks.rows(4, 4, 2)(3, 2, 6, Rng.of(0, batch=3)),
        masks.tubes(4, 4, 0.5)(3, 2, 6, Rng.of(1, batch=3)),
        masks.some_frames(0.4)(3, 2, 6, Rng.of(2, batch=3)),
    ],
)
def test_baselines_keep_the_laws(fill, known):
    clip = Clip(clip_of(0, v=2).frames.expand(3, -1, -1, -1, -1, -1), torch.arange(6).expand(3, 6))
    given = masks.on_pixels(known, 16, 16)[:, :, :, None]
    rng = Rng.of(0, batch=3)
    got = fill(clip, known, rng).frames
    assert torch.equal(torch.where(given, got, 0), torch.where(given, clip.frames, 0))  # known comes back
    hidden = dataclasses.replace(clip, frames=torch.where(given, clip.frames, math.nan))
    assert torch.equal(fill(hidden, known, rng).frames, got)  # unknown is never read
    never = ~given.any(2, keepdim=True).expand_as(got)
    assert (got[never] == 0).all()
    alone = fill(Clip(clip.frames[1:2], clip.times[1:2]), known[1:2], Rng.of(0)).frames
    assert torch.equal(alone, got[1:2])


def test_baselines_go_by_time_and_not_by_place():
    frames = torch.tensor([0.0, 9.0, 9.0, 1.0]).view(1, 1, 4, 1, 1, 1)
    clip = Clip(frames, torch.tensor([[0, 1, 8, 10]]))
    known = masks.these_frames([True, False, False, True])
    assert linear_blend(clip, known, Rng.of(0)).frames.flatten().tolist() == pytest.approx([0, 0.1, 0.8, 1])
    assert copy_known(clip, known, Rng.of(0)).frames.flatten().tolist() == [0, 0, 1, 1]
    middle = dataclasses.replace(clip, times=torch.tensor([[0, 5, 8, 10]]))
    assert copy_known(middle, known, Rng.of(0)).frames[0, 0, 1] == 0  # of two as near, the earlier


def test_a_blend_of_two_equal_frames_is_that_frame_bit_for_bit():
    still = clip_of(0, t=1).frames.expand(-1, -1, 6, -1, -1, -1)
    clip = Clip(still, torch.arange(6)[None])
    assert torch.equal(linear_blend(clip, Task(1, 4, 1).known(), Rng.of(0)).frames, still)


def test_a_grid_that_does_not_divide_the_frame_is_refused():
    with pytest.raises(ValueError, match="3x3"):
        copy_known(clip_of(0), torch.ones(1, 1, 6, 3, 3, dtype=torch.bool), Rng.of(0))


# -- what a fill is shown, and what it may return -------------------------------------------------


def test_a_fill_cannot_see_what_it_is_to_fill():
    seen = []

    def clips(i):
        clip = clip_of(i, t=9)
        return dataclasses.replace(clip, depth=clip.frames[:, :, :, 0] + 5, actions=clip.frames[:, 0, :, 0, 0, :2])

    def fill(clip, known, rng):
        seen.append((clip, known))
        return clip

    evaluate(fill, clips, INTERPOLATION, num_clips=2, samples=2, batch=3)
    assert [len(clip.frames) for clip, _ in seen] == [3, 1]
    for clip, known in seen:
        whole = clips(int(clip.times[0, 0]) // 100)
        assert torch.equal(known[0, 0, :, 0, 0], torch.tensor([True, True, False, False, False, True]))
        assert (clip.frames[:, :, 2:5] == 0).all() and (clip.depth[:, :, 2:5] == 0).all()
        assert torch.equal(clip.frames[0, :, [0, 1, 5]], whole.frames[0, :, [0, 1, 5]])
        assert torch.equal(clip.depth[0, :, [0, 1, 5]], whole.depth[0, :, [0, 1, 5]])
        assert torch.equal(clip.actions[0], whole.actions[0, :6])  # given for all times


def changed(clip, at, value):
    frames = clip.frames.clone()
    frames[:, :, at] = value
    return dataclasses.replace(clip, frames=frames)


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (lambda clip, known, rng: changed(clip, 1, 0.123), "changed frames that were known"),
        (lambda clip, known, rng: changed(clip, 3, math.nan), "not finite"),
        (lambda clip, known, rng: dataclasses.replace(clip, frames=clip.frames[..., :8, :8]), "made"),
    ],
)
def test_a_fill_that_breaks_its_promise_is_refused(fill, says):
    with pytest.raises(ValueError, match=says):
        evaluate(fill, clip_of, PREDICTION, num_clips=1, samples=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": Task(5, 5)}, "6 frames; the task wants 10"),
        ({"clips": lambda i: clip_of(i, size=16 + 4 * i)}, "clip 1 has views, channels"),
        ({"clips": lambda i: changed(clip_of(i), 0, math.inf)}, "not finite"),
        ({"clips": lambda i: clip_of(i, size=8)}, "11x11"),
        ({"samples": 0}, "at least one"),
        ({"num_clips": 1, "extractor": q.pixels8()}, "two clips"),
        ({"extractor": dataclasses.replace(q.pixels8(), min_frames=10)}, "10 frames or more"),
        ({"task": Task(0, 5)}, "wants an extractor"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(settings, says):
    settings = {"clips": clip_of, "task": PREDICTION, "num_clips": 2, "samples": 2} | settings
    with pytest.raises(ValueError, match=says):
        evaluate(copy_known, **settings)


def test_a_task_says_its_verb():
    verbs = [task.verb for task in (PREDICTION, LOOKBACK, INTERPOLATION, Task(0, 4))]
    assert verbs == ["prediction", "lookback", "interpolation", "generation"]
    with pytest.raises(ValueError, match="at least one"):
        Task(3, 0)


# -- distances, clusters, interruption, report ----------------------------------------------------


def test_distances_are_over_whole_clips_with_what_is_known():
    shown = []

    def features(frames):
        shown.append(frames.clone())
        return frames[:, [0, 2]].mean((2, 3, 4))  # one known frame and one hidden one

    report = evaluate(oracle(0.3), clip_of, PREDICTION, num_clips=8, samples=3, extractor=q.Extractor("two", features))
    assert len(shown) == 8 and all(x.shape == (4, 5, 1, 16, 16) for x in shown)
    f = torch.stack([x[:, [0, 2]].mean((2, 3, 4)) for x in shown])  # clip, truth and samples, feature
    assert (f[:, 1:, 0] == f[:, :1, 0]).all() and (f[:, 1:, 1] != f[:, :1, 1]).all()
    d = report.distance
    real, fakes = f[:, 0], f[:, 1:]
    assert d.pooled.mean == pytest.approx(q.frechet(real, fakes.reshape(24, 2)), rel=1e-6)
    assert d.trajectories == pytest.approx([q.frechet(real, fakes[:, j]) for j in range(3)], rel=1e-6)
    assert d.mean_of_trajectories == pytest.approx(sum(d.trajectories) / 3)
    assert d.real_halves == pytest.approx(q.frechet(real[::2], real[1::2]), rel=1e-6)
    halves = [q.frechet(real[::2], fakes[1::2, j]) for j in range(3)]
    assert d.filled_halves == pytest.approx(sum(halves) / 3, rel=1e-6)
    assert d.mmd == pytest.approx(q.kernel_mmd(real, fakes.reshape(24, 2)))
    by_clip = interval_of_sets(
        lambda x, y: q.frechet(torch.from_numpy(x), torch.from_numpy(y).flatten(0, 1)),
        [real.numpy(), fakes.numpy()],
        paired=True,
        resamples=100,
    )
    assert (d.pooled.low, d.pooled.high) == pytest.approx((by_clip.low, by_clip.high), rel=1e-6)
    assert d.pooled.low < d.pooled.mean < d.pooled.high and (d.extractor, d.num_frames) == ("two", 5)


def test_generation_is_judged_by_its_set_alone():
    report = evaluate(copy_known, clip_of, Task(0, 6), num_clips=8, samples=2, extractor=MOMENTS)
    assert report.scores == report.curves == report.gains == {}
    assert report.distance.filled_halves > 10 * report.distance.real_halves  # grey is not the world
    better = evaluate(oracle(0.05), clip_of, Task(0, 6), num_clips=8, samples=2, extractor=MOMENTS)
    assert better.distance.pooled.mean < 0.01 * report.distance.pooled.mean
    assert "generation: 0 frames known, 6 filled in; 8 clips" in as_table(better)


def test_clusters_are_counted_instead_of_clips():
    report = evaluate(oracle(0.1), clip_of, PREDICTION, num_clips=6, samples=1, cluster=lambda i: i // 2)
    assert report.scores["one"]["psnr"].n == 3 == report.curves["one"][0].n == report.gains["one"]["copy"].n


def interrupted_after(calls: int):
    def fill(clip, known, rng):
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise KeyboardInterrupt
        return oracle(0.1)(clip, known, rng)

    return fill


def test_an_interruption_keeps_what_was_done():
    whole = evaluate(oracle(0.1), clip_of, PREDICTION, num_clips=9, samples=2, batch=3)
    part = evaluate(interrupted_after(3), clip_of, PREDICTION, num_clips=9, samples=2, batch=3)
    assert part.partial and not whole.partial and (part.num_clips, part.asked) == (4, 9)  # 9 rows: 4 clips and a half
    np.testing.assert_array_equal(part.items["one"]["psnr"], whole.items["one"]["psnr"][:4])
    assert "PARTIAL: interrupted after 4 of 9" in as_table(part) and "PARTIAL" not in as_table(whole)
    assert as_dict(part)["partial"] is True and as_dict(part)["clips"] == 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted_after(0), clip_of, PREDICTION, num_clips=9)


def test_progress_and_clips_are_asked_in_order_and_once():
    told, asked = [], []

    def clips(i):
        asked.append(i)
        return clip_of(i)

    evaluate(copy_known, clips, PREDICTION, 4, 3, batch=2, progress=lambda done, all_: told.append((done, all_)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] and asked == [0, 1, 2, 3]


def test_a_report_is_one_line_of_json_and_a_table():
    report = evaluate(oracle(0.1), clip_of, INTERPOLATION, num_clips=4, samples=2, extractor=q.pixels8())
    line = json.dumps(as_dict(report), allow_nan=False)
    back = json.loads(line)
    assert back["task"] == {"verb": "interpolation", "past": 2, "hidden": 3, "future": 1}
    assert back["scores"]["best"]["ssim"]["mean"] == report.scores["best"]["ssim"].mean
    assert len(back["psnr_by_frame"]["blend"]) == 3 and back["psnr_gain"]["mean"]["blend"]["n"] == 4
    assert back["frechet"]["extractor"] == "pixels8" and back["protocol"]["name"] == "mcvd"
    assert back["fill_wall_seconds"] > 0 and back["fill_cpu_seconds"] >= 0
    assert back["frames_per_second"] == pytest.approx(4 * 2 * 3 / back["fill_wall_seconds"])
    table = as_table(report)
    for words in (
        "interpolation: 2 + 1 frames known",
        "best of 2",
        "linear blend",
        "copy-nearest",
        "pixels8",
    ):
        assert words in table
    columns = [row.find("[") for row in table.splitlines()[3:8]]
    assert len(columns) == 5 and max(columns) - min(columns) <= 2  # columns stand under their names

    alone = evaluate(oracle(0.1), clip_of, LOOKBACK, num_clips=1, samples=1)
    assert json.loads(json.dumps(as_dict(alone), allow_nan=False))["scores"]["one"]["psnr"]["low"] is None
    assert "copy-next" in as_table(alone)
