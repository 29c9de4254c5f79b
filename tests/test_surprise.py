"""Probes of surprise: pictures agree where they should, laws hold, and cheats stay at one half."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from maskworld.probes import surprise
from maskworld.probes.base import SHIFTS, Episode, Family, Marks, Setting, fingerprint
from maskworld.probes.scenes import unseen
from maskworld.probes.stage import film
from maskworld.probes.surprise import (
    ARROW_CONTEXT,
    CONTEXT,
    FAMILIES,
    GRAVITY,
    copy_context,
    frame_difference,
    more,
    permutation_p,
)

VIOLATION, ARROW = FAMILIES
COUNT = 9


@pytest.fixture(scope="module")
def episodes() -> dict[str, list[Episode]]:
    return {family.id: [family.episode(i) for i in range(COUNT + family.period)] for family in FAMILIES}


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean squared difference of each frame."""
    return ((one.astype(np.int64) - other) ** 2).mean((1, 2, 3))


def oracle(episode: Episode) -> list[np.ndarray]:
    """The surprise of one who knows what follows."""
    return [apart(q.truth(), q.shown()[q.num_context :]) for q in episode.questions]


def accuracy(family: Family, all_: list[list[np.ndarray]], episodes: list[Episode]) -> list[float]:
    assert family.mark is not None
    return [1 - family.mark(episode, given).error[0] for episode, given in zip(episodes, all_, strict=False)]


# -- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.id)
def test_an_episode_is_a_function_of_its_number(family: Family, episodes: dict[str, list[Episode]]) -> None:
    for i in (0, 1, 2):
        again = family.episode(i)
        assert (
            fingerprint(again) == fingerprint(episodes[family.id][i]) == fingerprint(pickle.loads(pickle.dumps(again)))
        )
    assert len({fingerprint(episode)[0] for episode in episodes[family.id]}) == COUNT + family.period


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.id)
@pytest.mark.parametrize("shift", SHIFTS)
def test_every_shift_has_episodes_of_the_same_lengths(family: Family, shift, episodes) -> None:
    for i in range(family.period):
        drawn = family.episode(i, Setting(shift=shift)).questions
        usual = episodes[family.id][i + family.period].questions
        assert [(q.num_context, q.horizon) for q in drawn] == [(q.num_context, q.horizon) for q in usual]
        assert all(q.num_context >= 8 for q in drawn)


def test_sums_that_differ_by_rounding_are_a_tie() -> None:
    assert more(0.1 + 0.2, 0.3) == 0.5 and more(0.0, 0.0) == 0.5
    assert more(0.3001, 0.3) == 1 and more(0.3, 0.3001) == 0


# -- violation of expectation ---------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_the_four_films_agree_around_the_cut(tier, episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C5"][:6]:
        shown = [q.shown(tier)[CONTEXT - 2 : CONTEXT + 2] for q in episode.questions]
        assert all((one == shown[0]).all() for one in shown[1:])


def test_the_disc_is_hidden_at_the_cut_and_seen_before_and_after(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C5"]:
        for q in episode.questions[:2]:
            disc = q.track.objects[-1]
            hidden = unseen(q.track)[:, disc]
            assert hidden[CONTEXT - 2 : CONTEXT + 2].all()
            if q.track.shown[:, disc].all():
                assert not hidden[:CONTEXT].all() and not hidden[CONTEXT:].all()


def test_an_impossible_film_is_the_start_of_one_and_the_end_of_the_other(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C5"][:3]:
        a, b, ab, ba = (q.shown() for q in episode.questions)
        for mixed, start, end in ((ab, a, b), (ba, b, a)):
            assert (mixed[:CONTEXT] == start[:CONTEXT]).all() and (mixed[CONTEXT:] == end[CONTEXT:]).all()
        assert (a[:CONTEXT] != b[:CONTEXT]).any() and (a[CONTEXT:] != b[CONTEXT:]).any()
        assert [(q.prompt() == q.shown()[:CONTEXT]).all() for q in episode.questions] == [True] * 4


def test_kinds_differ_in_what_their_names_say(episodes: dict[str, list[Episode]]) -> None:
    for i, episode in enumerate(episodes["C5"]):
        a, b = (q.track for q in episode.questions[:2])
        disc = a.objects[-1]
        differ = {
            "permanence": bool((a.shown != b.shown).any()),
            "colour": bool((a.colour != b.colour).any()),
            "teleport": bool((a.position != b.position).any()),
        }
        assert [kind for kind, yes in differ.items() if yes] == [surprise.KINDS[i % 3]]
        assert (np.delete(a.position, disc, 1) == np.delete(b.position, disc, 1)).all()  # the others are the same


def test_who_knows_what_follows_is_always_right(episodes: dict[str, list[Episode]]) -> None:
    marks = [surprise._mark_violation(episode, oracle(episode)) for episode in episodes["C5"][:COUNT]]
    assert all(m.error == (0, 1) and m.numbers["2x2 accuracy"] == (1, 1) for m in marks)
    assert all(m.numbers["excess"] == (1, 1) for m in marks)
    assert permutation_p(marks) == pytest.approx(2 / 2**COUNT)  # all signs agree: 2 of all


def test_additive_cheats_are_at_one_half_exactly(episodes: dict[str, list[Episode]]) -> None:
    kept = episodes["C5"][:COUNT]
    for cheat in (frame_difference, copy_context):
        given = [[cheat(q.shown(), CONTEXT) for q in episode.questions] for episode in kept]
        assert accuracy(VIOLATION, given, kept) == [0.5] * COUNT
        marks = [surprise._mark_violation(e, g) for e, g in zip(kept, given, strict=True)]
        assert permutation_p(marks) == 1
    future_of_another = [
        [apart(other.truth(), q.shown()[CONTEXT:]) for q, other in zip(e.questions, o.questions, strict=True)]
        for e, o in zip(kept, episodes["C5"][VIOLATION.period :], strict=False)
    ]
    assert accuracy(VIOLATION, future_of_another, kept) == [0.5] * COUNT


def test_over_whole_films_sums_are_safe_and_maxima_are_not(episodes: dict[str, list[Episode]]) -> None:
    """The trap: where a disc appears or vanishes, the largest difference of all frames gives the impossible away."""
    gone = [episode for episode in episodes["C5"] if episode.about["kind"] == "permanence"]
    for episode in gone:
        aa, bb, ab, ba = (frame_difference(q.shown(), 1) for q in episode.questions)
        assert more(ab.sum() + ba.sum(), aa.sum() + bb.sum()) == 0.5
    by_max = []
    for episode in gone:
        aa, bb, ab, ba = (apart(q.shown()[1:], q.shown()[:-1]).max() for q in episode.questions)
        by_max.append(more(ab + ba, aa + bb))
    assert np.mean(by_max) != 0.5


def test_no_surprise_at_all_is_a_tie(episodes: dict[str, list[Episode]]) -> None:
    marks = surprise._mark_violation(episodes["C5"][0], [np.zeros(16)] * 4)
    assert marks.error == (0.5, 1) and marks.numbers["excess"] == (0, 1)


# -- arrow of time --------------------------------------------------------------------------------


def test_energy_is_lost_and_comes_back_in_the_reversed_film(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C6"][:COUNT]:
        forward, backward = (q.observed or q.track for q in episode.questions[:2])
        for track, sign in ((forward, 1), (backward, -1)):
            mass = track.half[:, 0] ** 2
            middle = (track.position[1:] + track.position[:-1]) / 2
            energy = (mass * (np.diff(track.position, axis=0) ** 2).sum(-1) / 2 - mass * GRAVITY * middle[..., 1]).sum(
                1
            )
            assert sign * (energy[-1] - energy[0]) < 0


def test_both_directions_show_the_same_frames_after_the_context(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C6"][:3]:
        for forward, backward in (episode.questions[:2], episode.questions[2:]):
            assert (forward.shown()[ARROW_CONTEXT:] == backward.shown()[ARROW_CONTEXT:][::-1]).all()


def test_the_expected_film_goes_on_from_the_reversed_start(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C6"][:COUNT]:
        backward = episode.questions[1]
        assert backward.observed is not None
        assert (backward.prompt() == film(backward.observed)[:ARROW_CONTEXT]).all()
        away = np.linalg.norm(backward.track.position - backward.observed.position, axis=-1).max(1)
        assert (away[:ARROW_CONTEXT] == 0).all() and away[ARROW_CONTEXT] < 4 < away[ARROW_CONTEXT:].max()


def test_free_flight_is_its_own_reverse(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C6"][:COUNT]:
        for q in episode.questions[2:]:
            assert q.observed is None
            position, radius = q.track.position, q.track.half[:, 0]
            bend = np.linalg.norm(np.diff(position, 2, axis=0), axis=-1)
            step = np.linalg.norm(np.diff(position, axis=0), axis=-1).max(0)
            rim = np.minimum(position - radius[:, None], 64 - radius[:, None] - position).min(-1)[1:-1]
            assert (rim > -1e-9).all() and (bend[rim > step] < 1e-9).all()  # straight on, but at the walls
            gap = np.linalg.norm(position[:, :, None] - position[:, None], axis=-1) - radius[:, None] - radius
            assert (gap[:, ~np.eye(len(radius), dtype=bool)] > 0).all()  # and nothing is met


def test_who_knows_the_law_tells_the_arrow_and_is_at_one_half_without_one(episodes: dict[str, list[Episode]]) -> None:
    for episode in episodes["C6"][:COUNT]:
        marks: Marks = surprise._mark_arrow(episode, oracle(episode))
        assert marks.error == (0, 1)
        assert marks.numbers == {"arrow accuracy": (1, 1), "elastic control": (0.5, 1)}


# -- cheats ---------------------------------------------------------------------------------------


def test_cheats_by_hand() -> None:
    frames = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    frames[1:, 0, 0], frames[3, 1, 1] = 255, 51
    assert frame_difference(frames, 2).tolist() == pytest.approx([0, 0.05])
    assert frame_difference(frames, 1).tolist() == pytest.approx([0.25, 0, 0.05])
    assert copy_context(frames, 1).tolist() == pytest.approx([0.25, 0.25, 0.26])
