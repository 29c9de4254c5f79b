"""The suite measures what it says: references that are wrong in a known way get the numbers that follow from it.

Everything here is asked of a few episodes, and in the slow tests of 200.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from maskworld.probes.base import VERSION, Asked, Marks, Setting, Subject
from maskworld.probes.futures import NUM_SAMPLES
from maskworld.probes.references import drawn, reference
from maskworld.probes.stage import film
from maskworld.probes.suite import FAMILIES, FLOORS, marks_of, quick, run

LADDER = ("oracle", "noise-0.1", "noise-0.35", "noise-1", "noise-2")
NEAR = {"P4": 2, "C2-null": 6, "C3": 6, "C7": 6, "C9": 2}
"""Episodes of a family where it is asked a few; of most it is FEW."""
FEW, MANY = 8, 200
SUITE = quick()

many = pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])
every_family = pytest.mark.parametrize("id", list(FAMILIES))
few_and_many = pytest.mark.parametrize("count", [FEW, many])


@cache
def marks(id: str, name: str, count: int) -> tuple[Marks, ...]:
    family, subject = FAMILIES[id], reference(name)
    episodes = range(NEAR.get(id, FEW) if count == FEW else count)
    return tuple(marks_of(subject, family, drawn(family, i, Setting()), i, SUITE) for i in episodes)


def error(id: str, name: str, count: int) -> float:
    total, of = np.sum([m.error for m in marks(id, name, count)], axis=0)
    return float(total / of)


def floor_of(id: str, count: int) -> float:
    """Of a few plans only copy's: another world's pictures cost as much as all the rest."""
    return min(error(id, name, count) for name in (FLOORS[:1] if (id, count) == ("C9", FEW) else FLOORS))


def score(id: str, name: str, count: int) -> float:
    floor = floor_of(id, count)
    return (floor - error(id, name, count)) / (floor - error(id, "oracle", count))


def number(id: str, name: str, which: str, count: int) -> float:
    found = [m.numbers[which] for m in marks(id, name, count) if which in m.numbers]
    total, of = np.sum(found, axis=0)
    return float(total / of)


def recall(id: str, name: str, count: int) -> dict[float, float]:
    at: dict[float, list[float]] = {}
    for m in marks(id, name, count):
        for x, y in m.points["recall"]:
            at.setdefault(x, []).append(y)
    return {x: float(np.mean(ys)) for x, ys in sorted(at.items())}


@few_and_many
@every_family
def test_the_oracle_is_far_above_the_floors(id: str, count: int) -> None:
    floor, ceiling = floor_of(id, count), error(id, "oracle", count)
    assert ceiling < 0.4 * floor, (ceiling, floor)
    assert score(id, "oracle", count) == 1.0
    assert score(id, "copy", count) <= 0.0 and (score(id, "copy", count) == 0.0 or score(id, "shuffled", count) == 0.0)


def test_a_run_says_so_too() -> None:
    families = tuple(FAMILIES[id] for id in ("P2a", "P5", "C5"))
    for name, value in (("oracle", 1.0), ("copy", 0.0)):
        result = run(reference(name), quick(families=families, episodes=4), workers=0)
        assert [s.score.mean for s in result.scores.values() if s.score] == [value] * 3


@few_and_many
@every_family
def test_more_noise_scores_less(id: str, count: int) -> None:
    few = count == FEW
    if id == "C9":  # a few pushes hardly tell near steps apart
        names: tuple[str, ...] = ("oracle", "noise-2") if few else ("oracle", "noise-0.35", "noise-2")
    elif FAMILIES[id].kind == "surprise" and few:
        names = ("oracle", "noise-0.35", "noise-2")
    elif id == "P4" and few:
        names = ("oracle", "noise-0.35", "noise-1")
    else:
        names = LADDER
    errors = [error(id, name, count) for name in names]
    assert errors == sorted(errors) and errors[-1] > errors[0], dict(zip(names, errors, strict=True))


@few_and_many
@pytest.mark.parametrize("id", ["P1", "P2a"])
def test_recall_falls_at_exactly_the_window(id: str, count: int) -> None:
    gaps = (1, 4, 8, 16, 32)
    assert recall(id, "oracle", count) == {gap: 1.0 for gap in gaps}
    for window in (8, 16, 32):
        assert recall(id, f"amnesia-{window}", count) == {gap: float(gap <= window) for gap in gaps}, window


@few_and_many
def test_a_world_that_stops_fails_where_it_should(count: int) -> None:
    for id in ("P1", "P2b", "C1"):
        assert score(id, "frozen", count) < 0.1, id
    assert score("P2a", "frozen", count) == pytest.approx(1.0, abs=0.01)
    assert number("P2b", "frozen", "unfreeze", count) == pytest.approx(0.0, abs=0.02)
    assert number("P2b", "frozen", "exists", count) > 0.99, "all is there, in the wrong place"
    assert number("P2b", "oracle", "unfreeze", count) == pytest.approx(1.0, abs=0.02)


@few_and_many
def test_without_causes_there_is_no_effect(count: int) -> None:
    for name in ("copy", "linear"):
        assert number("C2", name, "effect R2", count) == pytest.approx(0.0, abs=0.01), name
        assert number("C2", name, "slope", count) == pytest.approx(0.0, abs=0.01), name
    assert number("C2", "oracle", "effect R2", count) > 0.98


@few_and_many
def test_nothing_leaks_where_nothing_was_changed(count: int) -> None:
    assert number("C2-null", "oracle", "null leak px", count) == 0.0
    assert number("C2-null", "noise-1", "null leak px", count) > 0.5


@few_and_many
def test_actions_that_are_not_taken_have_no_effect(count: int) -> None:
    for id in ("C3", "C7"):
        assert score(id, "noop", count) == pytest.approx(0.0, abs=0.01), id
        assert score(id, "random", count) < 0, id
    for id in ("P2a", "P5", "P6"):
        assert score(id, "noop", count) <= 0.0, id


@few_and_many
def test_matched_films_hide_nothing_in_their_frames(count: int) -> None:
    for name in ("frame-difference", "copy-context"):
        assert {m.error[0] / m.error[1] for m in marks("C5", name, count)} == {0.5}, name
    assert number("C5", "oracle", "2x2 accuracy", count) == 1.0


@few_and_many
def test_free_flight_has_no_arrow(count: int) -> None:
    assert number("C6", "oracle", "elastic control", count) == 0.5
    n = len(marks("C6", "frame-difference", count))
    for name in ("frame-difference", "linear"):
        assert abs(number("C6", name, "elastic control", count) - 0.5) <= 1.5 / n**0.5, name  # three deviations


@few_and_many
def test_of_all_samplers_the_truth_has_the_best_energy_score(count: int) -> None:
    """The score that is expected, over what chance could have drawn."""

    def sampled(asked: list[Asked], how: str) -> list[np.ndarray]:
        answers = []
        for one in asked:
            question = one.question
            films = [film(t.part(question.num_context, t.num_frames)) for _, t in question.chances]
            rng = np.random.default_rng([one.index, 5])
            p = np.array([p for p, _ in question.chances])
            if how == "one mode":
                p = (np.arange(len(p)) == p.argmax()).astype(float)
            elif how == "wrong chances":
                p = (
                    p[::-1]
                    if len(set(p)) > 1
                    else np.arange(1, len(p) + 1) ** 3 / np.sum(np.arange(1, len(p) + 1) ** 3)
                )
            which = np.repeat(
                np.arange(len(p)), np.diff(np.round(np.concatenate([[0], p.cumsum()]) * NUM_SAMPLES).astype(int))
            )
            chosen = np.stack([films[k] for k in rng.permutation(which)])
            if how == "mean":
                chosen = np.repeat(chosen.mean(0, keepdims=True).round().astype(np.uint8), NUM_SAMPLES, axis=0)
            answers.append(chosen)
        return answers

    family, episodes = FAMILIES["C10"], range(6 if count == FEW else count)
    assert family.mark is not None
    expected: dict[str, float] = dict.fromkeys(("truth", "one mode", "wrong chances", "mean"), 0.0)
    expected |= {"noise-2": 0.0, "blur": 0.0, "copy": 0.0, "shuffled": 0.0}
    for index in episodes:
        episode = drawn(family, index, Setting())
        (question,) = episode.questions
        for name in expected:
            asked = [Asked(question, family, index, 0, Setting())]
            known = name in ("noise-2", "blur", "copy", "shuffled")
            answer = reference(name).answer(asked) if known else sampled(asked, name)
            for share, track in question.chances:
                drawn_so = dataclasses.replace(episode, questions=(dataclasses.replace(question, track=track),))
                total, of = family.mark(drawn_so, answer).error
                expected[name] += share * total / of / len(episodes)
    best = expected.pop("truth")
    assert best < min(expected.values()) - 0.1, (best, expected)


@few_and_many
def test_a_plan_in_true_pictures_is_as_good_as_one_in_the_true_world(count: int) -> None:
    assert abs(error("C9", "oracle", count)) < 0.2
    assert error("C9", "copy", count) > 0.4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_family
@pytest.mark.parametrize(
    "setting",
    [Setting(tier="textured"), *(Setting(shift=s) for s in ("speed", "size", "mass", "count", "palette"))],
    ids=lambda setting: f"{setting.tier}-{setting.shift}",
)
def test_oracle_and_floors_elsewhere(id: str, setting: Setting) -> None:
    suite = quick(families=(FAMILIES[id],), episodes=4 if id == "C9" else 20, setting=setting)
    result = run(Subject("oracle", reference("oracle").answer), suite, workers=0).scores[id]
    assert result.score is not None, result.reason
    assert result.score.mean == 1.0 and result.ceiling is not None and result.floor is not None
    assert result.ceiling < 0.4 * result.floor


# -- golden ---------------------------------------------------------------------------------------


def test_episodes_are_those_that_were_written_down() -> None:
    """Run scripts/golden.py where a scene was changed on purpose."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from golden import FILE, golden, made_by

    held = json.loads(FILE.read_text())
    assert (held["version"], list(held["families"])) == (VERSION, list(FAMILIES)), "scripts/golden.py was not run"
    if held["made by"] != made_by():
        pytest.skip(f"written down on {held['made by']}, where numbers may round otherwise")
    now = golden()["families"]
    states = {id: [states for tier in tiers.values() for states, _ in tier] for id, tiers in now.items()}
    assert states == {id: [s for tier in tiers.values() for s, _ in tier] for id, tiers in held["families"].items()}
    assert now == held["families"], "the same states, but other pixels"
