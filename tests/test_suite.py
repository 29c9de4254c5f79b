"""The suite around the families: who is asked what, what is kept, how scores follow from marks."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from maskworld.probes import suite as suite_
from maskworld.probes.base import Answer, Ask, Asked, Episode, Family, Marks, Question, Ranges, Setting, Subject
from maskworld.probes.readout import errors, read
from maskworld.probes.references import reference
from maskworld.probes.scenes import GROUND, SCREEN
from maskworld.probes.stage import Cast, Track
from maskworld.probes.suite import BESIDE, FAMILIES, Monitor, Result, Suite, as_dict, compare, full, quick, run

RED, GREEN = (0.90, 0.10, 0.12), (0.10, 0.75, 0.20)
NOW = 12


# -- toy families ---------------------------------------------------------------------------------


def corner(rng: np.random.Generator, ahead: int) -> Track:
    """A disc that turns a corner just after the context; and one that has been hidden behind a screen for 10 frames."""
    t = np.arange(NOW + ahead)
    place, speed = rng.uniform(8, 14, 2), rng.uniform(1, 2)
    turns = place + speed * np.stack([t.clip(max=NOW), (t - NOW).clip(min=0)], 1)
    screen = np.where(((t >= 2) & (t < NOW))[:, None], [[50.0, 50.0]], [[200.0, 50.0]])
    cast = Cast(len(t), GROUND)
    cast.add(turns, 4.0, RED)
    cast.add((50.0, 50.0), 4.0, GREEN)
    cast.add(screen, (8.0, 8.0), SCREEN, box=True, object=False)
    return cast.track()


def draw(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Two branches; the horizon is 4 or 5."""
    ahead = 4 + index % 2
    return Episode(tuple(Question(corner(rng, ahead), NOW) for _ in range(2)), {"ahead": ahead})


def mark(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    """How far the discs are off, and whether the first is where it should be in the end."""
    total, count, points = 0.0, 0.0, []
    for question, answer in zip(episode.questions, answers, strict=True):
        for sample in answer:
            found = errors(read(sample, question.future), question.future)
            total += float(found.distance[found.scored].sum()) / len(answer)
            count += float(found.scored.sum()) / len(answer)
            points += [(float(episode.about["ahead"]), float(found.located[-1, 0]))]
    return Marks((total, count), {"error, px": (total, count)}, {"located": tuple(points)})


def draw_surprise(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """In the second film all stands still from the cut on."""
    track = corner(rng, 4)
    still = track.at([*range(NOW), *[NOW - 1] * 4])
    return Episode((Question(track, NOW), Question(track, NOW, observed=still)))


def mark_surprise(episode: Episode, surprises: Sequence[np.ndarray]) -> Marks:
    fair, odd = (float(s.sum()) for s in surprises)
    return Marks((fair, fair + odd))


def play(episode: Episode, ask: Ask) -> Marks:
    """It asks twice, three questions and then one."""
    (question,) = episode.questions
    answers = ask([question] * 3) + ask([question])
    return mark(dataclasses.replace(episode, questions=(question,) * 4, about={"ahead": 4}), answers)


def draw_play(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    return Episode((Question(corner(rng, 4), NOW),))


TOY = Family(
    "T1", 91, "toy", "?", "persistence", draw, mark, acts=False, period=2, curves={"located": ("frames", "located")}
)
ACTING = dataclasses.replace(TOY, id="T2", number=92, axis="causality", acts=True)
WATCHED = Family("T3", 93, "toy", "?", "causality", draw_surprise, mark_surprise, kind="surprise")
PLAYED = Family("T4", 94, "toy", "?", "causality", draw_play, play=play, kind="play")
TOYS = (TOY, ACTING, WATCHED, PLAYED)


def toys(episodes: int = 3, families: tuple[Family, ...] = TOYS, **changes) -> Suite:
    return Suite(families, episodes, **changes)


def model(name: str = "model", of: str = "oracle", **changes) -> Subject:
    """A reference's answers, but not known as such."""
    return dataclasses.replace(Subject(name, reference(of).answer), **changes)


# -- scores ---------------------------------------------------------------------------------------


def test_the_oracle_is_one_and_the_floors_are_zero() -> None:
    for name, score in {"oracle": 1.0, "copy": 0.0}.items():
        result = run(reference(name), toys(), workers=0)
        assert [s.score.mean for s in result.scores.values() if s.score] == [score] * 4
        assert result.persistence.score and result.persistence.score.mean == score
        assert (result.causality.families, result.causality.of) == (3, 3) and not result.failed
    floors = run(reference("shuffled"), toys(families=(TOY,)), workers=0).scores["T1"].beside
    assert (
        min(floors["copy"].score, floors["shuffled"].score) < max(floors["copy"].score, floors["shuffled"].score) == 0
    )


def test_a_model_scores_what_the_reference_scores_whose_answers_it_gives() -> None:
    for name in ("oracle", "noise-1"):
        asked, known = run(model(of=name, batch=3), toys(), workers=0), run(reference(name), toys(), workers=0)
        for id, score in asked.scores.items():
            assert score.unclipped == known.scores[id].unclipped, (name, id)
            assert score.curves == known.scores[id].curves


def test_the_score_follows_from_the_marks() -> None:
    score = run(reference("linear"), toys(families=(TOY,)), workers=0).scores["T1"]
    m, floors = score.beside["linear"].error, [score.beside[name].error for name in ("copy", "shuffled")]
    assert score.unclipped and score.error and score.error.mean == m
    assert score.floor == min(floors) and score.ceiling == score.beside["oracle"].error < 0.5
    assert score.unclipped.mean == pytest.approx((score.floor - m) / (score.floor - score.ceiling))
    errors = score.marks["linear"].values()
    assert m == pytest.approx(sum(a for a, _ in errors) / sum(b for _, b in errors))
    assert score.best == min(("linear", "frozen", "amnesia-8"), key=lambda name: score.beside[name].error)
    assert score.over_best and score.over_best.mean <= 0 and (score.over_best.mean == 0) == (score.best == "linear")


def test_a_reference_that_is_perfect_is_not_the_one_to_beat() -> None:
    score = run(reference("oracle"), quick(families=suite_.families_of(["P2a"]), episodes=5), workers=0).scores["P2a"]
    assert score.beside["linear"].score > 0.99 and score.beside["frozen"].score > 0.99
    assert score.best == "amnesia-8" and score.over_best and score.over_best.mean == 1.0


def test_the_interval_narrows_with_episodes_and_holds_the_mean() -> None:
    few, many = (run(reference("noise-0.3"), toys(n, (TOY,)), workers=0).scores["T1"].unclipped for n in (6, 40))
    assert few and many and few.n == 6 and many.n == 40
    assert few.low < few.mean < few.high and many.high - many.low < few.high - few.low
    one = run(reference("noise-2"), toys(1, (TOY,)), workers=0).scores["T1"].score
    assert one and math.isnan(one.low) and one.n == 1


def test_curves_have_the_mean_at_each_x() -> None:
    score = run(reference("noise-2"), toys(6, (TOY,)), workers=0).scores["T1"]
    points = score.curves["located"]
    assert [(p.x, p.y.n) for p in points] == [(4.0, 3), (5.0, 3)]
    assert all(0 <= p.y.low <= p.y.mean <= p.y.high <= 1 for p in points)
    assert score.beside["oracle"].curves["located"] == [(4.0, 1.0), (5.0, 1.0)]


def test_where_the_oracle_is_no_better_there_is_no_score() -> None:
    same = dataclasses.replace(TOY, mark=_always)
    result = run(reference("oracle"), toys(families=(same,)), workers=0)
    assert result.scores["T1"].score is None and "no better" in (result.scores["T1"].reason or "")
    assert result.persistence.score is None and not result.failed


def _always(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    return Marks((1.0, 1.0))


# -- asking ---------------------------------------------------------------------------------------


class Spy:
    """The oracle, and how it was asked."""

    def __init__(self, change: Callable[[Asked, Answer], object] = lambda asked, answer: answer) -> None:
        self.batches: list[list[Asked]] = []
        self.change = change

    def __call__(self, asked: Sequence[Asked]) -> list:
        self.batches.append(list(asked))
        return [self.change(a, x) for a, x in zip(asked, reference("oracle").answer(asked), strict=True)]


def test_questions_of_one_shape_are_asked_together_over_episodes() -> None:
    spy = Spy()
    run(Subject("spy", spy, batch=4), toys(6, (TOY,)), workers=0)
    assert sorted(len(batch) for batch in spy.batches) == [2, 2, 4, 4]
    assert all(len({one.question.horizon for one in batch}) == 1 for batch in spy.batches)
    assert sorted((a.index, a.branch) for batch in spy.batches for a in batch) == [
        (i, b) for i in range(6) for b in range(2)
    ]


def test_a_player_is_asked_in_batches_and_branches_count_up() -> None:
    spy = Spy()
    run(Subject("spy", spy, batch=2), toys(1, (PLAYED,)), workers=0)
    assert [[one.branch for one in batch] for batch in spy.batches] == [[0, 1], [2], [3]]


def test_samples_are_asked_for_and_the_mark_takes_their_mean() -> None:
    spy = Spy()
    result = run(Subject("spy", spy), toys(2, (TOY,), samples=3), workers=0)
    assert {one.question.num_samples for batch in spy.batches for one in batch} == {3}
    assert result.scores["T1"].score and result.scores["T1"].score.mean == 1.0
    noisy = [run(reference("noise-1"), toys(2, (TOY,), samples=k), workers=0).scores["T1"] for k in (1, 4)]
    assert noisy[0].error and noisy[1].error and noisy[0].error.mean != noisy[1].error.mean


def test_who_takes_no_actions_is_not_asked_where_they_matter() -> None:
    result = run(model(actions=False), toys(), workers=0)
    assert result.scores["T2"].reason == "it takes no actions" and result.scores["T2"].score is None
    assert (result.causality.families, result.causality.of) == (2, 3) and not result.failed


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda answer: answer[:, :-1], "1 frames too few"),
        (lambda answer: answer.astype(np.float32), "is uint8"),
        (lambda answer: np.full(answer.shape, np.nan), "NaN"),
        (lambda answer: answer[..., :2], "shape"),
        (lambda answer: list(answer), "not list"),
        (lambda answer: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_bad_answer_costs_its_family_and_no_other(change: Callable, says: str) -> None:
    def sometimes(asked: Asked, answer: Answer) -> object:
        return change(answer) if (asked.family.id, asked.index) == ("T1", 1) else answer

    result = run(Subject("bad", Spy(sometimes), batch=1), toys(2, (TOY, ACTING)), workers=0)
    assert list(result.failed) == ["T1"] and result.scores["T1"].score is None and result.persistence.score is None
    assert result.failed["T1"].startswith("T1, episode 1: ") and says in result.failed["T1"]
    assert result.causality.score and result.causality.score.mean == 1.0


def test_a_wrong_number_of_answers_is_told() -> None:
    short = Subject("short", lambda asked: reference("oracle").answer(asked)[1:], batch=4)
    result = run(short, toys(2, (TOY,)), workers=0)
    assert "3 answers to 4 questions" in result.failed["T1"] or "1 answers to 2 questions" in result.failed["T1"]


def test_a_family_that_cannot_be_drawn_is_told_and_the_others_go_on() -> None:
    broken = dataclasses.replace(TOY, id="T9", draw=_never)
    result = run(reference("oracle"), toys(families=(broken, ACTING)), workers=0)
    assert "the suite itself failed" in result.failed["T9"] and "screens" in result.failed["T9"]
    assert result.scores["T2"].score


def _never(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    raise AssertionError("no episode passes the screens")


def test_a_surprise_of_ones_own_is_used_and_checked() -> None:
    told = Subject("told", reference("oracle").answer, surprise=lambda asked: [np.ones(4) for _ in asked])
    result = run(told, toys(2, (WATCHED,)), workers=0)
    assert result.scores["T3"].error and result.scores["T3"].error.mean == 0.5, "as surprised by one as by the other"
    bad = dataclasses.replace(told, surprise=lambda asked: [np.ones(3) for _ in asked])
    assert "one number a frame" in run(bad, toys(2, (WATCHED,)), workers=0).failed["T3"]


def test_workers_change_nothing() -> None:
    suite = quick(families=suite_.families_of(["C5"]), episodes=2)
    alone, helped = (as_dict(run(reference("noise-2"), suite, workers=n)) for n in (0, 1))
    assert json.dumps(alone) == json.dumps(helped)


def test_progress_counts_episodes() -> None:
    seen: list[suite_.Progress] = []
    run(model(), toys(2), on_progress=seen.append, workers=0)
    assert [p.done for p in seen] == list(range(1, 9)) and seen[-1].total == 8 and seen[-1].left == 0


# -- what is written ------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    whole = run(model(), toys(2), tmp_path / "whole", workers=0)

    class Stop(KeyboardInterrupt):
        pass

    def stop(progress: suite_.Progress) -> None:
        if progress.done == 3:
            raise Stop

    with pytest.raises(Stop):
        run(model(), toys(2), tmp_path / "broken", on_progress=stop, workers=0)
    log = tmp_path / "broken" / "episodes.jsonl"
    assert len(log.read_text().splitlines()) == 1 + 3
    with log.open("a") as file:
        file.write('{"family": "T2", "ind')  # the machine went down
    spy = Spy()
    result = run(Subject("model", spy), toys(2), tmp_path / "broken", workers=0)
    asked = {(one.family.id, one.index) for batch in spy.batches for one in batch}
    assert not asked & {("T1", i) for i in range(2)} and {("T3", i) for i in range(2)} <= asked
    assert as_dict(result) == as_dict(whole)
    assert all(json.loads(line) for line in log.read_text().splitlines())
    again = Spy()
    run(Subject("model", again), toys(2), tmp_path / "broken", workers=0)
    assert not again.batches and as_dict(result) == json.loads((tmp_path / "broken" / "scores.json").read_text())


def test_more_episodes_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    run(model(), toys(2, (TOY,)), tmp_path, workers=0)
    spy = Spy()
    result = run(Subject("model", spy), toys(4, (TOY,)), tmp_path, workers=0)
    assert {one.index for batch in spy.batches for one in batch} == {2, 3} and result.scores["T1"].n == 4


def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    run(model(), toys(1, (TOY,)), tmp_path, workers=0)
    for subject, suite in [
        (model("another"), toys(1, (TOY,))),
        (model(), toys(1, (TOY,), samples=2)),
        (model(), toys(1, (TOY,), setting=Setting(shift="speed"))),
    ]:
        with pytest.raises(ValueError, match="holds another run"):
            run(subject, suite, tmp_path, workers=0)


def test_a_salt_is_not_written_down(tmp_path: Path) -> None:
    run(model(), toys(1, (TOY,), setting=Setting("salted", salt="xyzzy")), tmp_path, workers=0)
    assert "xyzzy" not in "".join(p.read_text() for p in tmp_path.iterdir() if p.is_file())
    with pytest.raises(ValueError, match="another run"):
        run(model(), toys(1, (TOY,), setting=Setting("salted", salt="other")), tmp_path, workers=0)


@pytest.mark.parametrize("subject", [model(of="noise-1"), reference("noise-1")], ids=["model", "reference"])
def test_the_best_and_the_worst_episode_are_kept_as_films(tmp_path: Path, subject: Subject) -> None:
    result = run(subject, toys(3), tmp_path, workers=0)
    assert sorted(p.name for p in (tmp_path / "films").iterdir()) == sorted(
        f"{id}-{which}.npz" for id in result.scores for which in ("best", "worst")
    )
    rates = {i: a / b for i, (a, b) in result.scores["T1"].marks[""].items()}
    for which, end in (("best", min), ("worst", max)):
        with np.load(tmp_path / "films" / f"T1-{which}.npz") as held:
            index, branch = int(held["index"]), int(held["branch"])
            assert rates[index] == end(rates.values()) == float(held["error"])
            question = TOY.episode(index).questions[branch]
            assert (held["truth"] == question.truth()).all() and (held["prompt"] == question.prompt()).all()
            (answer,) = reference("noise-1").answer([Asked(question, TOY, index, branch, Setting())])
            assert (held["prediction"] == answer[0]).all()
    with np.load(tmp_path / "films" / "T3-worst.npz") as held:
        assert held["observed"].shape == held["truth"].shape if "observed" in held else True


# -- two results, and in training -----------------------------------------------------------------


def test_two_results_are_compared_on_what_both_have() -> None:
    near, far = (run(reference(f"noise-{s}"), toys(8, (TOY, ACTING)), workers=0) for s in (0.3, 2))
    a, b = as_dict(near), as_dict(far)
    found = compare(a, b)
    row = found["families"]["T1"]
    gap = near.scores["T1"].unclipped, far.scores["T1"].unclipped
    assert gap[0] and gap[1] and row["difference"]["mean"] == pytest.approx(gap[0].mean - gap[1].mean)
    assert row["n"] == 8 and row["p"] == pytest.approx(2 / 2**8) and row["p_holm"] == 2 * row["p"]
    assert row["difference"]["low"] > 0 and found["persistence"]["difference"]["mean"] > 0
    back = compare(b, a)
    assert back["families"]["T1"]["difference"]["mean"] == -row["difference"]["mean"]
    itself = compare(a, a)["families"]["T1"]
    assert itself["difference"]["mean"] == itself["difference"]["low"] == 0 and itself["p"] == 1
    fewer = as_dict(run(reference("noise-2"), toys(3, (TOY,)), workers=0))
    part = compare(a, fewer)
    assert part["families"]["T1"]["n"] == 3 and list(part["families"]) == ["T1"]


def test_what_cannot_be_compared_is_refused() -> None:
    a = as_dict(run(reference("oracle"), toys(2, (TOY,)), workers=0))
    with pytest.raises(ValueError, match="setting differs"):
        compare(a, as_dict(run(reference("oracle"), toys(2, (TOY,), setting=Setting(shift="size")), workers=0)))
    with pytest.raises(ValueError, match="no family in common"):
        compare(a, as_dict(run(reference("oracle"), toys(2, (ACTING,)), workers=0)))
    passive = as_dict(run(model(actions=False), toys(2, (ACTING,)), workers=0))
    acting = as_dict(run(model(), toys(2, (ACTING,)), workers=0))
    assert "takes no actions" in compare(passive, acting)["families"]["T2"]["reason"]


def test_a_monitor_works_references_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(toys(2))
    first = monitor(model())
    assert first == {"T1": 1.0, "T2": 1.0, "T3": 1.0, "T4": 1.0, "persistence": 1.0, "causality": 1.0}

    def refuse(name: str) -> Subject:
        raise AssertionError("known already")

    monkeypatch.setattr(suite_, "reference", refuse)
    monkeypatch.setattr(suite_, "drawn_episode", refuse)
    second = monitor(model(of="noise-0.5"))
    assert 0 < second["T1"] < 1 and second["persistence"] == second["T1"]
    bad = Subject("bad", lambda asked: [], actions=False)
    failed = monitor(bad)
    assert math.isnan(failed["T1"]) and "T2" not in failed and "persistence" not in failed


# -- suites ---------------------------------------------------------------------------------------


def test_families_in_order_and_by_name() -> None:
    numbers = [family.number for family in FAMILIES.values()]
    assert numbers == sorted(set(numbers)) and all(id == family.id for id, family in FAMILIES.items())
    assert [f.id for f in suite_.families_of(["C5", "P1"])] == ["P1", "C5"]
    with pytest.raises(ValueError, match="did you mean C5"):
        suite_.families_of(["C55"])


def test_presets_and_what_is_no_suite() -> None:
    assert quick().families == full().families == tuple(FAMILIES.values())
    assert quick().episodes < full().episodes == 200 and quick(episodes=3).episodes == 3
    for changes in ({"families": ()}, {"episodes": 0}, {"samples": 0}, {"families": (TOY, TOY)}):
        with pytest.raises(ValueError):
            quick(**changes)


def test_scores_are_json(tmp_path: Path) -> None:
    result: Result = run(model(), toys(1), tmp_path, workers=0)  # intervals of one episode have no ends
    found = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found == as_dict(result)
    assert found["persistence"] == found["causality"] == 1.0 and found["families"]["T1"]["score"]["low"] is None
    assert set(found["families"]["T1"]["references"]) == set(BESIDE)
    assert found["families"]["T1"]["curves"]["located"]["axes"] == ["frames", "located"]


def test_the_benchmark_tells_rates_and_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "probes.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_probes", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "quick", lambda **changes: quick(**{**changes, "episodes": 1}))
    assert benchmark.main(["--families", "P2a,P5", "--episodes", "1", "--workers", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["family"] for row in found["families"]] == ["P2a", "P5"]
    assert all(row[name] > 0 for row in found["families"] for name in ("draw_s", "film_s", "suite_s"))
    assert found["suites"]["quick"]["wall_s"] > 0 and list(found["suites"]) == ["quick"]
