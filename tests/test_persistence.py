"""Persistence: the gaps are what they say, the truth is right, what forgets or stands still is wrong."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from maskworld.probes.base import Actions, Episode, Family, Marks, Question, Setting, Shift, fingerprint
from maskworld.probes.persistence import (
    BEFORE,
    FAMILIES,
    GAPS,
    LATE,
    LEAD,
    LOOK,
    OPEN,
    PUSH_X,
    auc_recall,
    half_life,
)
from maskworld.probes.readout import FAR
from maskworld.probes.scenes import unseen
from maskworld.probes.stage import VIEW, Tier, Track, film, visible

BY_ID = {family.id: family for family in FAMILIES}
SHIFTED: tuple[Shift, ...] = ("speed", "size", "mass", "count", "palette")
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.id)


def marks(family: Family, episode: Episode, *futures: Track, tier: Tier = "flat") -> Marks:
    """Of an answer whose samples are these futures."""
    return marks_of(family, episode, np.stack([film(future, tier) for future in futures]))


def marks_of(family: Family, episode: Episode, answer: np.ndarray) -> Marks:
    assert family.mark is not None
    return family.mark(episode, [answer])


def acting(question: Question) -> tuple[Actions, Callable[[Actions], Track]]:
    """Its actions, and what happens under others."""
    assert question.actions is not None and question.rerun is not None
    return question.actions.copy(), question.rerun


def mean(ratio: tuple[float, float]) -> float:
    return ratio[0] / ratio[1]


def lost(future: Track, *things: int) -> Track:
    shown = future.shown.copy()
    shown[:, list(things)] = False
    return future.changed(shown=shown)


# -- every family -----------------------------------------------------------------------------------


def test_the_families_are_eight_and_their_numbers_stay() -> None:
    assert [(f.id, f.number) for f in FAMILIES] == list(
        zip(("P1", "P2a", "P2b", "P2c", "P3", "P4", "P5", "P6"), range(1, 9), strict=True)
    )
    assert {f.id for f in FAMILIES if f.acts} == {"P2a", "P2b", "P2c", "P5", "P6"}


@each_family
def test_an_episode_is_a_function_of_its_number(family: Family) -> None:
    one, again, other = family.episode(1), family.episode(1), family.episode(1 + family.period)
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)
    assert fingerprint(pickle.loads(pickle.dumps(one))) == fingerprint(one)
    (question,), (other_question,) = one.questions, other.questions
    assert (question.num_context, question.horizon) == (other_question.num_context, other_question.horizon)
    assert question.num_context >= 8
    assert (question.actions is not None) == (question.rerun is not None) == family.acts
    if family.acts:
        actions, rerun = acting(question)
        assert np.abs(actions).max() == 1
        rerun = pickle.loads(pickle.dumps(rerun))(actions)
        np.testing.assert_array_equal(film(rerun), film(question.track))


@each_family
@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_the_truth_is_right_and_the_last_frame_is_not(family: Family, tier: Tier) -> None:
    floor = 1.0 if family.id == "P5" else 11.0 if family.id == "P3" else 13.0
    episodes = [family.episode(i) for i in range(2 if tier == "textured" else 4)]
    wrong = []
    for episode in episodes:
        (question,) = episode.questions
        right = marks(family, episode, question.future, tier=tier)
        assert 0 <= mean(right.error) < 0.4 and right.error[1] > 0
        assert mean(right.numbers.get("located", (1, 1))) == 1
        last = question.track.at([question.num_context - 1] * question.horizon)
        wrong.append(marks(family, episode, last, tier=tier).error)
    assert mean(tuple(np.sum(wrong, 0))) >= floor - 2 * (family.id in ("P2c", "P3"))


@each_family
def test_samples_count_in_the_mean(family: Family) -> None:
    episode = family.episode(2)
    (question,) = episode.questions
    last = question.track.at([question.num_context - 1] * question.horizon)
    right, wrong = marks(family, episode, question.future), marks(family, episode, last)
    both = marks(family, episode, question.future, last)
    assert both.error == pytest.approx((np.array(right.error) + wrong.error) / 2)
    assert both.error[1] == right.error[1] == wrong.error[1]
    assert set(both.points) == set(family.curves)


@each_family
@pytest.mark.parametrize("shift", SHIFTED)
def test_every_shift_draws(family: Family, shift: Shift) -> None:
    setting = Setting(shift=shift)
    for index in (0, family.period - 1):
        episode = family.episode(index, setting)
        (question,) = episode.questions
        track = question.track
        if shift == "size":
            assert (track.half[track.object] >= 6).all()
        if shift == "palette":
            held_out = {tuple(c) for c in setting.ranges.palette}
            assert {tuple(c) for c in track.colour[0, track.objects]} <= held_out
        if shift == "count" and family.id in ("P2a", "P3"):
            assert episode.about["asked"] == 5
        assert mean(marks(family, episode, question.future).error) < 0.4


@pytest.mark.parametrize("id", ["P1", "P2a", "P2b"])
def test_gaps_are_exact(id: str) -> None:
    for index in (0, 1, 2, 3, 4, 6):
        episode = BY_ID[id].episode(index)
        (question,) = episode.questions
        gap = GAPS[index % len(GAPS)]
        asked = question.track.objects[: episode.about["asked"]]
        away = unseen(question.track)[: question.num_context, asked]
        assert episode.about["gap"] == gap and len(asked)
        assert away[-gap:].all() and not away[:-gap].any()
        assert (visible(question.track)[:BEFORE, asked] > 0.99).all()
        assert (visible(question.future)[-1, asked] > 0.99).all()


# -- curves -----------------------------------------------------------------------------------------


def test_recall_curves_in_one_number() -> None:
    step = [(1.0, 1.0), (4.0, 1.0), (8.0, 1.0), (16.0, 0.0), (32.0, 0.0)]
    assert auc_recall(step) == pytest.approx((2 + 1 + 0.5) / 5)
    assert half_life(step) == pytest.approx(12)
    always, never = ([(float(gap), recall) for gap in GAPS] for recall in (1.0, 0.0))
    assert auc_recall(always) == 1 and math.isinf(half_life(always))
    assert auc_recall(never) == 0 and half_life(never) == pytest.approx(0.5)
    assert auc_recall([(8.0, 1.0), (2.0, 0.0), (8.0, 0.5), (2.0, 0.5)]) == pytest.approx(
        0.5
    )  # means at each gap, in any order
    with pytest.raises(ValueError, match="no points"):
        half_life([])


# -- occlusion --------------------------------------------------------------------------------------


def test_a_disc_behind_a_screen_goes_straight_on() -> None:
    family = BY_ID["P1"]
    sides = []
    for index in (0, 3, 5):
        episode = family.episode(index)
        (question,) = episode.questions
        path = question.track.position[:, 0]
        np.testing.assert_allclose(np.diff(path, 2, axis=0), 0, atol=1e-9)
        hidden = unseen(question.future)[:, 0]
        assert LEAD <= hidden.sum() <= LEAD + 2 and hidden[:LEAD].all()
        others = np.linalg.norm(question.track.position[:, :1] - question.track.position[:, 1:-1], axis=-1)
        assert (others > question.track.half[0, 0] + question.track.half[1:-1, 0]).all()

        stays = question.track.at([question.num_context - 1] * question.horizon)
        still = marks(family, episode, stays)
        assert mean(still.error) == FAR and mean(still.numbers["exists"]) == 0
        bare = marks(family, episode, lost(question.future, -1))
        assert mean(bare.numbers["premature"]) == 1  # no screen: it is seen all the time
        assert mean(marks(family, episode, question.future).numbers["premature"]) == 0
        assert marks(family, episode, question.future).points["recall"] == ((GAPS[index % 5], 1.0),)
        axis = int(np.abs(path[-1] - path[0]).argmax())
        sides.append(np.sign(path[-1] - path[0])[axis])
    assert sides == [1, 1, -1]  # the next of a gap comes out on the other side


# -- looking away -----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["P2a", "P2b"])
def test_a_camera_that_is_not_turned_back_sees_nothing_of_it(id: str) -> None:
    family = BY_ID[id]
    for index in (0, 2):
        episode = family.episode(index)
        (question,) = episode.questions
        actions, rerun = acting(question)
        actions[question.num_context - 1 :] = 0
        away = rerun(actions).part(question.num_context, question.track.num_frames)
        assert (away.camera == away.camera[0]).all() and away.camera[0, 0] > 0
        assert mean(marks(family, episode, away).error) == FAR
        wild = rerun(np.sign(np.random.default_rng(0).normal(size=actions.shape)))
        assert (wild.camera >= 0).all() and (wild.camera <= [VIEW, 0]).all()


def test_a_world_that_stands_still_while_unseen_is_right_only_if_nothing_moved() -> None:
    for id, right in (("P2a", True), ("P2b", False)):
        family = BY_ID[id]
        for index in range(5):
            episode = family.episode(index)
            (question,) = episode.questions
            still = question.future.changed(
                position=np.repeat(question.track.position[LOOK - 1 : LOOK], question.horizon, 0)
            )
            answered = marks(family, episode, still)
            assert (mean(answered.error) < 0.4) == right
            assert mean(answered.numbers["exists"]) == 1
            if id == "P2b":
                assert mean(answered.error) > 8 and mean(answered.numbers["located"]) == 0
                assert mean(answered.numbers["unfreeze"]) == pytest.approx(0, abs=0.05)
                truth = marks(family, episode, question.future)
                assert mean(truth.numbers["unfreeze"]) == pytest.approx(1, abs=0.05)
                assert truth.numbers["unfreeze"][1] >= 10**2
                gone = marks(family, episode, lost(question.future, 0))
                assert mean(gone.numbers["unfreeze"]) == 0 and mean(gone.error) == FAR


# -- mirror -----------------------------------------------------------------------------------------


def test_the_way_back_is_the_way_there_reversed() -> None:
    family = BY_ID["P2c"]
    for index in range(3):
        episode = family.episode(index)
        (question,) = episode.questions
        np.testing.assert_array_equal(question.truth(), question.prompt()[::-1][1 : 1 + question.horizon])
        assert len({tuple(place) for place in question.future.camera}) >= 4
        right = marks(family, episode, question.future)
        assert mean(right.numbers["self-consistency"]) == pytest.approx(1)
        last = question.track.at([question.num_context - 1] * question.horizon)
        assert mean(marks(family, episode, last).numbers["self-consistency"]) < 0.97


# -- conservation -----------------------------------------------------------------------------------


def test_conservation_counts_what_is_lost_exchanged_or_swollen() -> None:
    family = BY_ID["P3"]
    for index in range(3):
        episode = family.episode(index)
        (question,) = episode.questions
        future = question.future
        n = future.position.shape[1]
        apart = np.linalg.norm(question.track.position[:, :, None] - question.track.position[:, None], axis=-1)
        touch = question.track.half[:, 0] + question.track.half[:, :1]
        assert (apart + 100 * np.eye(n) > touch).all()

        right = marks(family, episode, future)
        assert (
            right.numbers["count error"][0] == right.numbers["identity swaps"][0] == right.numbers["spurious"][0] == 0
        )
        assert mean(right.numbers["area variation"]) < 0.06
        fewer = marks(family, episode, lost(future, 0))
        assert mean(fewer.numbers["count error"]) == pytest.approx(1 / n)
        assert mean(fewer.numbers["located"]) == pytest.approx(1 - 1 / n)
        assert mean(fewer.error) == pytest.approx(FAR / n, abs=0.4)
        turn = np.roll(np.arange(n), 1)
        exchanged = marks(family, episode, future.changed(colour=future.colour[:, turn]))
        assert mean(exchanged.numbers["identity swaps"]) > 0.9
        assert exchanged.numbers["identity swaps"][0] + exchanged.numbers["located"][0] == right.numbers["located"][0]
        beating = future.shown & (np.arange(len(future.shown)) % 2 == 0)[:, None]
        assert mean(marks(family, episode, future.changed(shown=beating)).numbers["area variation"]) == pytest.approx(
            1, 0.1
        )


# -- drift ------------------------------------------------------------------------------------------


def test_drift_is_scored_late_and_says_when_it_went_wrong() -> None:
    family, episode = BY_ID["P4"], BY_ID["P4"].episode(1)
    (question,) = episode.questions
    future, wrong_from = question.future, 20
    right = marks(family, episode, future)
    assert right.numbers["horizon"] == (64.0, 1.0) and question.track.num_frames == 72
    assert right.error[1] == (72 - LATE) * future.position.shape[1]
    assert mean(right.numbers["sharpness"]) == pytest.approx(1) and right.numbers["background difference"][0] == 0
    assert [x for x, _ in right.points["located by time"]] == list(range(1, 65))

    shown = future.shown & (np.arange(64) < wrong_from)[:, None]
    gone = marks(family, episode, future.changed(shown=shown))
    assert mean(gone.error) == FAR
    assert gone.numbers["horizon"][0] == wrong_from - 2  # from there on two of five frames at most are right
    assert dict(gone.points["error by time"])[20] < 0.5 and dict(gone.points["error by time"])[21] == FAR

    early = marks(family, episode, future.changed(shown=future.shown & (np.arange(64) >= 30)[:, None]))
    assert mean(early.error) == mean(right.error) and early.numbers["horizon"][0] == 0

    frames = film(future)
    tinted = marks_of(family, episode, (frames.astype(np.int64) + 25).clip(0, 255).astype(np.uint8)[None])
    assert mean(tinted.numbers["background difference"]) == pytest.approx(25 / 255, abs=1e-6)
    soft = (frames.astype(float) + np.roll(frames, 1, 1) + np.roll(frames, 1, 2) + np.roll(frames, (1, 1), (1, 2))) / 4
    assert mean(marks_of(family, episode, soft.astype(np.uint8)[None]).numbers["sharpness"]) < 0.5


# -- recall -----------------------------------------------------------------------------------------


def test_recall_asks_for_the_colour_under_one_lid() -> None:
    family = BY_ID["P5"]
    for index in range(6):
        episode = family.episode(index)
        (question,) = episode.questions
        k, cued = 1 + index, episode.about["cued"]
        track = question.track
        assert len(track.objects) == k and len(track.half) == k + 6
        away = unseen(track)[:, track.objects]
        assert not away[:8].any() and away[8:16].all()
        assert (away[16:].all(0) == (np.arange(k) != cued)).all()  # one lid is open, and it is right
        right = marks(family, episode, question.future)
        assert right.error == (0, 1) and right.points["capacity"] == ((k, 1.0),)
        assert marks(family, episode, lost(question.future, cued)).error == (1, 1)
        colour = question.future.colour.copy()
        colour[:, cued] = colour[:, cued - 1] if k > 1 else 1.0
        assert marks(family, episode, question.future.changed(colour=colour)).error == (1, 1)
        shown = question.future.shown.copy()
        shown[-2:, cued] = False
        assert marks(family, episode, question.future.changed(shown=shown)).error == (0.5, 1)  # of the last four

        nothing, rerun = acting(question)
        nothing[question.num_context - 1 :] = 0
        assert unseen(rerun(nothing))[8:, track.objects].all()
        gently, _ = acting(question)
        gently[:, OPEN] *= 0.4
        np.testing.assert_array_equal(rerun(gently).shown, rerun(nothing).shown)


# -- containment ------------------------------------------------------------------------------------


def test_a_box_takes_what_is_in_it_along() -> None:
    family = BY_ID["P6"]
    ways = []
    for index in range(4):
        episode = family.episode(index)
        (question,) = episode.questions
        track, now = question.track, question.num_context
        disc, box = track.position[:, 0], track.position[:, -1]
        away = unseen(track)[:, 0]
        assert episode.about["gap"] == away[:now].sum() >= 8
        assert np.linalg.norm(disc[-1] - disc[away.argmax() + 2]) >= 20
        assert np.linalg.norm(disc[-1] - disc[now - 1]) >= 10
        assert away[-10] and (visible(track)[-9:, 0] > 0.99).all()
        np.testing.assert_allclose((disc - box)[-25:], 0, atol=1e-9)
        ways.append(np.sign(disc[-1, 0] - disc[now - 1, 0]))

        place = np.repeat(track.position[now - 1 : now], question.horizon, 0)
        stayed = marks(family, episode, question.future.changed(position=place))
        assert (
            mean(stayed.error) >= 9.9 and mean(stayed.numbers["located"]) == 0 and mean(stayed.numbers["exists"]) == 1
        )
        idle, rerun = acting(question)
        idle[now - 1 :] = 0
        assert unseen(rerun(idle))[now:, 0].all()
        idle[now - 1 :, PUSH_X] = -1
        pushed = rerun(idle).position[-1, -1, 0]
        assert pushed == pytest.approx(track.half[-1, 0])  # it stops at the edge of the view
    assert ways == [-1, 1, -1, 1]
