"""Stochastic futures: the score is proper, so that the truth comes first, and what tempts otherwise is shown."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from maskworld.probes.base import SHIFTS, Episode, Marks, Question, Setting, fingerprint
from maskworld.probes.futures import (
    CONTEXT,
    FAMILIES,
    KINDS,
    NUM_SAMPLES,
    distance,
    energy_score,
    errors,
    exits_of,
    mode_distance,
    scored_frames,
)
from maskworld.probes.readout import FAR
from maskworld.probes.scenes import unseen
from maskworld.probes.stage import film

(FORK,) = FAMILIES
EXITS = np.array([[[40.0, 22.0]], [[40.0, 42.0]]])  # exits, frames, (x, y)
NOWHERE = np.full((1, 2), np.nan)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [FORK.episode(i) for i in range(6)]


# -- scores ---------------------------------------------------------------------------------------

Sampler = Callable[[np.random.Generator], np.ndarray]
SAMPLERS: dict[str, Sampler] = {
    "truth": lambda rng: EXITS[rng.integers(2, size=NUM_SAMPLES)],
    "mean": lambda rng: np.repeat(EXITS.mean(0)[None], NUM_SAMPLES, 0),
    "one mode": lambda rng: np.repeat(EXITS[:1], NUM_SAMPLES, 0),
    "90/10": lambda rng: EXITS[(rng.random(NUM_SAMPLES) < 0.1).astype(int)],
    "shotgun": lambda rng: (
        EXITS.mean(0) + np.stack([np.zeros((NUM_SAMPLES, 1)), rng.uniform(-25, 25, (NUM_SAMPLES, 1))], -1)
    ),
    "nothing": lambda rng: np.repeat(NOWHERE[None], NUM_SAMPLES, 0),
    "nothing, half the time": lambda rng: np.where(rng.random((NUM_SAMPLES, 1, 1)) < 0.5, EXITS[:1], NOWHERE),
}


def test_the_energy_score_puts_the_truth_first_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    scores: dict[str, np.ndarray] = {}
    for name, sampler in SAMPLERS.items():
        rows = []
        for _ in range(300):
            samples, truth = sampler(rng), EXITS[rng.integers(2)]
            off = errors(samples, truth)
            rows.append((energy_score(samples, truth), off.mean(), off.min()))
        scores[name] = np.mean(rows, 0)
    energy, expected, best = ({name: row[i] for name, row in scores.items()} for i in range(3))
    assert all(energy["truth"] < 0.95 * energy[name] for name in SAMPLERS if name != "truth")
    assert expected["mean"] < expected["truth"] + 3  # cannot tell the truth from what never happens
    assert best["shotgun"] < best["one mode"] and best["shotgun"] < best["mean"]  # rewards being everywhere
    assert energy["nothing"] == FAR


def test_distance_is_pixels_when_near_and_bounded_when_far() -> None:
    places = np.array([[0.0, 0.0], [0.1, 0.0], [60.0, 60.0], [np.nan, np.nan]])
    d = distance(places[:, None], places[None])
    assert d[0, 1] == pytest.approx(0.1, rel=0.01) and FAR < d[0, 2] < 2 * FAR
    assert d[3].tolist() == [FAR, FAR, FAR, 0] and (d == d.T).all() and (d.diagonal() == 0).all()


def test_distance_is_of_negative_type() -> None:
    """For weights that add to nothing, sum w_i w_j d_ij is never above 0: what makes the score proper."""
    places = np.concatenate([np.random.default_rng(1).uniform(0, 64, (200, 2)), NOWHERE])
    n = len(places)
    centred = np.eye(n) - 1 / n

    def largest(d: np.ndarray) -> float:
        return float(np.linalg.eigvalsh(centred @ d @ centred).max())

    assert largest(distance(places[:, None], places[None])) < 1e-9
    cut_off = np.fmin(np.linalg.norm(places[:, None] - places[None], axis=-1), 2 * FAR)  # not so, in the plane
    cut_off[-1], cut_off[:, -1], cut_off[-1, -1] = FAR, FAR, 0
    assert largest(cut_off) > 1


def test_the_energy_score_does_not_depend_on_the_number_of_samples() -> None:
    rng = np.random.default_rng(2)
    truth = EXITS[0]
    few, many = (
        np.mean([energy_score(EXITS[rng.integers(2, size=k)], truth) for _ in range(3000 // k)]) for k in (3, 50)
    )
    assert few == pytest.approx(many, abs=0.6)


def test_modes_are_counted() -> None:
    samples = np.concatenate([np.repeat(EXITS[:1], 3, 0), EXITS[1:] + 3.0, EXITS[:1] + 8.0, NOWHERE[None]])
    chosen = exits_of(samples, EXITS)
    assert chosen.tolist() == [0, 0, 0, -1, -1, -1]  # 3 pixels both ways are 4.2
    chosen = exits_of(samples - [0, 1], EXITS)
    assert chosen.tolist() == [0, 0, 0, 1, -1, -1]
    assert mode_distance(chosen, np.array([0.5, 0.5])) == 0.25
    assert mode_distance(chosen[-2:], np.array([0.5, 0.5])) == 1


# -- scene ----------------------------------------------------------------------------------------


def test_an_episode_is_a_function_of_its_number(episodes: list[Episode]) -> None:
    for i in (0, 2):
        again = FORK.episode(i)
        assert fingerprint(again) == fingerprint(episodes[i]) == fingerprint(pickle.loads(pickle.dumps(again)))


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_shift_has_episodes_of_the_same_lengths(shift, episodes: list[Episode]) -> None:
    for i in range(3):
        (drawn,), (usual,) = FORK.episode(i, Setting(shift=shift)).questions, episodes[i + 3].questions
        assert (drawn.num_context, drawn.horizon) == (usual.num_context, usual.horizon)
        assert len(scored_frames(drawn.future)) >= 2


def test_nothing_tells_which_exit_it_will_be(episodes: list[Episode]) -> None:
    for episode in episodes:
        (q,) = episode.questions
        assert sum(p for p, _ in q.chances) == 1 and any(track is q.track for _, track in q.chances)
        films = [film(track) for _, track in q.chances]
        assert all((one[: CONTEXT + 2] == films[0][: CONTEXT + 2]).all() for one in films)
        assert unseen(q.track)[CONTEXT - 2 : CONTEXT + 2, 0].all() and not unseen(q.track)[:CONTEXT, 0].all()
        ends = np.array([track.position[-1, 0, 1] for _, track in q.chances])
        assert np.abs(ends[:, None] - ends)[~np.eye(len(ends), dtype=bool)].min() >= 10


def test_exits_are_drawn_as_often_as_they_should_be() -> None:
    """Binomial: 80 draws of 0.75 lie within 0.17 of it but once in 2,000."""
    first = [q.chances[0][1] is q.track for i in range(80) for q in FORK.episode(len(KINDS) * i + 1).questions]
    assert abs(np.mean(first) - 0.75) < 0.17


# -- marks ----------------------------------------------------------------------------------------


def marked(episode: Episode, answer: Callable[[Question, np.random.Generator], np.ndarray]) -> Marks:
    assert FORK.mark is not None
    return FORK.mark(episode, [answer(episode.questions[0], np.random.default_rng(0))])


def drawn(question: Question, rng: np.random.Generator) -> np.ndarray:
    films = [film(track.part(CONTEXT, track.num_frames)) for _, track in question.chances]
    return np.stack([films[k] for k in rng.choice(len(films), NUM_SAMPLES, p=[p for p, _ in question.chances])])


def averaged(question: Question, rng: np.random.Generator) -> np.ndarray:
    """Not the mean of the pictures, but of what happens: a disc where none ever is."""
    tracks = [track.part(CONTEXT, track.num_frames) for _, track in question.chances]
    middle = tracks[0].changed(position=np.mean([track.position for track in tracks], 0))
    return np.repeat(film(middle)[None], NUM_SAMPLES, 0)


def copied(question: Question, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(question.prompt()[None, -1:], question.horizon, 1).repeat(NUM_SAMPLES, 0)


def test_the_truth_is_read_from_pictures(episodes: list[Episode]) -> None:
    energy = {}
    for name, answer in (("truth", drawn), ("mean", averaged), ("copy", copied)):
        marks = [marked(episode, answer) for episode in episodes]
        energy[name] = np.mean([m.error[0] for m in marks])
        valid = np.mean([m.numbers["validity"][0] for m in marks])
        # With three exits, one of them is straight on, and so is a mean of them where they are even.
        assert valid == 1 if name == "truth" else valid < 0.5
        if name == "truth":
            assert np.mean([m.numbers["mode distance"][0] for m in marks]) < 0.25
            assert all(m.numbers["best of 16"][0] < 0.3 for m in marks)
    assert energy["truth"] < energy["mean"] < energy["copy"] == FAR


def test_the_textured_tier_is_read_as_well(episodes: list[Episode]) -> None:
    (q,) = episodes[0].questions
    answer = np.repeat(q.truth("textured")[None], NUM_SAMPLES, 0)
    assert FORK.mark is not None
    marks = FORK.mark(episodes[0], [answer])
    assert marks.numbers["expected error"][0] < 0.5 and marks.numbers["validity"] == (1, 1)
