"""Probes of causes: who knows the world makes no error, who answers without causes explains no effect at all."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest

from maskworld.probes import causality
from maskworld.probes.base import (
    ACTIONS,
    SHIFTS,
    Asked,
    Episode,
    Family,
    Marks,
    Question,
    Setting,
    check_answer,
    fingerprint,
)
from maskworld.probes.causality import FAMILIES
from maskworld.probes.readout import FAR
from maskworld.probes.scenes import meet
from maskworld.probes.stage import SIDE, film

BY_ID = {family.id: family for family in FAMILIES}
EFFECTS = ("C2", "C2-null", "C3", "C7")
COUNT = {"C1": 3, "C2": 6, "C2-null": 3, "C3": 2, "C4": 8, "C7": 2, "C8": 6}
EACH = pytest.mark.parametrize("id", list(BY_ID))


@cache
def episodes(id: str, shift: str = "none") -> tuple[Episode, ...]:
    return tuple(BY_ID[id].episode(i, Setting(shift=shift)) for i in range(COUNT[id]))  # type: ignore[arg-type]


def mark(family: Family, episode: Episode, answers: list[np.ndarray]) -> Marks:
    assert family.mark is not None
    return family.mark(episode, answers)


def copied(question: Question) -> np.ndarray:
    return np.repeat(question.prompt()[None, -1:], question.horizon, axis=1)


def straight(question: Question) -> np.ndarray:
    """All that was seen to move goes on like that, through everything."""
    place, future = question.track.position, question.future
    now = question.num_context - 1
    ahead = np.arange(1, question.horizon + 1)[:, None, None]
    scenery = ~question.track.object[:, None]
    line = place[now] + ahead * (place[now] - place[now - 1])
    return film(future.changed(position=np.where(scenery, future.position, line)))[None]


def table(id: str, answer) -> dict[str, float]:
    """All numbers of a family over its episodes."""
    sums: dict[str, np.ndarray] = {}
    for episode in episodes(id):
        marks = mark(BY_ID[id], episode, [answer(question) for question in episode.questions])
        for name, ratio in (("error", marks.error), *marks.numbers.items()):
            sums[name] = sums.get(name, np.zeros(2)) + ratio
    return {name: float(num / den) if den else float("nan") for name, (num, den) in sums.items()}


def true(question: Question) -> np.ndarray:
    return question.truth()[None]


# -- all families -----------------------------------------------------------------------------------


def test_numbers_and_names_are_fixed() -> None:
    numbers = {"C1": 11, "C2": 12, "C2-null": 13, "C3": 14, "C4": 15, "C7": 18, "C8": 19}
    assert {family.id: family.number for family in FAMILIES} == numbers
    assert {family.axis for family in FAMILIES} == {"causality"}
    assert [family.id for family in FAMILIES if family.acts] == ["C3", "C7"]


@EACH
def test_the_truth_makes_no_error_and_the_last_frame_does(id: str) -> None:
    oracle, copy = table(id, true)["error"], table(id, copied)["error"]
    if id in EFFECTS:
        assert 0 <= oracle < 0.004 and copy == 1.0
    else:
        assert 0 <= oracle < 0.3 and 5 < copy < FAR, "pixels"


@EACH
def test_an_episode_is_a_function_of_its_index_and_goes_through_pickle(id: str) -> None:
    first, again = episodes(id)[0], BY_ID[id].episode(0)
    assert fingerprint(first) == fingerprint(again) == fingerprint(pickle.loads(pickle.dumps(first)))
    assert fingerprint(first) != fingerprint(BY_ID[id].episode(0, Setting(split="train")))
    assert pickle.loads(pickle.dumps(BY_ID[id])).id == id


@EACH
def test_shapes_agree_modulo_the_period(id: str) -> None:
    family = BY_ID[id]
    for i in range(family.period):
        one, other = episodes(id)[i], family.episode(i + 2 * family.period)
        shapes = [[(q.num_context, q.horizon, q.num_samples) for q in e.questions] for e in (one, other)]
        assert shapes[0] == shapes[1]
        assert all(q.num_context >= 8 for q in one.questions)
        for b, question in enumerate(one.questions):
            check_answer(Asked(question, family, i, b, Setting()), true(question))


@EACH
@pytest.mark.parametrize("shift", SHIFTS[1:])
def test_every_shift_draws(id: str, shift: str) -> None:
    moved = [BY_ID[id].episode(i, Setting(shift=shift)) for i in range(BY_ID[id].period)]  # type: ignore[arg-type]
    assert fingerprint(moved[0]) != fingerprint(episodes(id)[0])
    for episode in moved:
        for question in episode.questions:
            assert np.isfinite(question.track.position).all()
            assert question.actions is None or abs(question.actions).max() <= 1


@EACH
def test_samples_are_averaged(id: str) -> None:
    """The truth and the last frame as two samples: half of the error of the last frame, and a little."""
    episode = episodes(id)[0]
    both = [np.concatenate([true(q), copied(q)]) for q in episode.questions]
    parts = [mark(BY_ID[id], episode, [answer[[k]] for answer in both]).error for k in (0, 1)]
    error = mark(BY_ID[id], episode, both).error
    np.testing.assert_allclose(error, np.mean(parts, axis=0))


@pytest.mark.parametrize("id", ["C3", "C7"])
def test_actions_rule_the_future_and_rerun_is_the_truth(id: str) -> None:
    for episode in episodes(id):
        first = episode.questions[0]
        assert first.actions is not None
        for question in episode.questions:
            assert question.actions is not None and question.rerun is not None
            assert question.actions.shape == (question.track.num_frames, len(ACTIONS))
            assert abs(question.actions).max() <= 1
            np.testing.assert_array_equal(question.actions[: first.num_context], first.actions[: first.num_context])
            np.testing.assert_array_equal(question.prompt(), first.prompt())
            np.testing.assert_array_equal(question.rerun(question.actions).position, question.track.position)
            np.testing.assert_array_equal(question.rerun(first.actions).position, first.track.position)


# -- C1 ---------------------------------------------------------------------------------------------


def test_collisions_come_after_the_context_and_change_the_courses() -> None:
    for episode in episodes("C1"):
        (question,) = episode.questions
        place, impact = question.track.position, episode.about["from"] - 1
        assert question.num_context + 1 <= impact <= question.num_context + 3
        before = np.diff(place[: impact + 1], axis=0)
        np.testing.assert_allclose(before, np.broadcast_to(before[0], before.shape), atol=1e-9)
        mass = np.array(episode.about["mass"])
        after = place[impact + 2] - place[impact + 1]
        np.testing.assert_allclose(mass @ after, mass @ before[0], atol=1e-6)
    numbers = table("C1", true)
    assert numbers["located"] == 1 and numbers["velocity error"] < 0.1
    assert numbers["momentum residual"] < 0.1 and abs(numbers["energy ratio"] - 1) < 0.05
    still = table("C1", copied)
    assert still["momentum residual"] == 1 and still["energy ratio"] == 0 and still["located"] < 0.5


def test_a_missing_disc_is_the_worst() -> None:
    gone = table("C1", lambda q: np.zeros_like(true(q)))
    expected = {"error": FAR, "located": 0, "velocity error": causality.VELOCITY_CAP, "momentum residual": 2}
    assert {name: gone[name] for name in expected} == expected
    assert table("C4", lambda q: np.zeros_like(true(q)))["error"] == FAR


# -- C2 ---------------------------------------------------------------------------------------------


def test_nothing_but_the_striker_differs_before_the_event() -> None:
    for episode in episodes("C2"):
        a, b = (question.track for question in episode.questions)
        others, start = list(episode.about["objects"]), episode.about["from"]
        assert start > 8
        np.testing.assert_array_equal(a.position[:start, others], b.position[:start, others])
        assert np.linalg.norm(a.position - b.position, axis=-1)[-1, others[-1]] >= 4
        striker = (a.shown != b.shown).any() or (a.half != b.half).any() or (a.position != b.position)[0:8].any()
        assert striker
    assert [episode.about["kind"] for episode in episodes("C2")[:3]] == list(causality.CHANGES)


def test_who_knows_no_causes_explains_exactly_nothing() -> None:
    copy, line = table("C2", copied), table("C2", straight)
    for change in causality.CHANGES:
        assert copy[f"effect R2, {change}"] == 0
    assert copy["effect R2"] == copy["slope"] == 0
    assert abs(line["effect R2"]) < 0.01, "but for rims: what passes behind a disc shows at its edge"
    oracle = table("C2", true)
    assert oracle["effect R2"] > 0.995 and abs(oracle["slope"] - 1) < 0.01


def test_the_wrong_way_round_is_worse_than_nothing() -> None:
    """Branches exchanged: D^ = -D, so R^2 = 1 - 4 and the slope is -1."""
    episode = episodes("C2")[0]
    marks = mark(BY_ID["C2"], episode, [true(q) for q in reversed(episode.questions)])
    size = marks.error[1]
    assert marks.error[0] / size == pytest.approx(4, rel=0.02)
    assert marks.numbers["slope"][0] / size == pytest.approx(-1, rel=0.02)


def test_missing_objects_never_cancel() -> None:
    """Nothing in either branch: FAR^2 for each, in every place that counts."""
    episode = episodes("C2")[0]
    blank = [np.zeros_like(true(q)) for q in episode.questions]
    frames = episode.questions[0].track.num_frames - episode.about["from"]
    error = mark(BY_ID["C2"], episode, blank).error[0]
    assert error == 2 * FAR**2 * frames * len(episode.about["objects"])


def test_effect_by_size_is_one_for_the_truth() -> None:
    episode = episodes("C2")[0]
    points = mark(BY_ID["C2"], episode, [true(q) for q in episode.questions]).points["effect by size"]
    assert points and all(x in causality.BINS and abs(y - 1) < 0.15 for x, y in points)
    points = mark(BY_ID["C2"], episode, [copied(q) for q in episode.questions]).points["effect by size"]
    assert points and all(y == 0 for _, y in points)


# -- C2-null ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_a_null_intervention_moves_nothing(tier) -> None:
    for episode in episodes("C2-null")[: 3 if tier == "flat" else 1]:
        fact, _, null = (question.track for question in episode.questions)
        others = list(episode.about["objects"])
        assert (fact.position[:, others] == null.position[:, others]).all(), "bit for bit"
        assert (episode.questions[0].prompt() != episode.questions[2].prompt()).any(), "and yet something was changed"
        marks = mark(BY_ID["C2-null"], episode, [q.truth(tier)[None] for q in episode.questions])
        assert marks.numbers["null leak (squared)"][0] == 0.0
        assert marks.numbers["null leak px"] == (0.0, 1.0)


def test_a_leak_is_measured() -> None:
    """The effect shown where there is none: its square is the effect's."""
    episode = episodes("C2-null")[0]
    fact, effect, _ = (true(q) for q in episode.questions)
    marks = mark(BY_ID["C2-null"], episode, [fact, effect, effect])
    leak, size = marks.numbers["null leak (squared)"]
    assert leak / size == pytest.approx(1, rel=0.15)
    assert marks.error[0] / marks.error[1] == pytest.approx(leak / size, rel=0.05)


# -- C3 ---------------------------------------------------------------------------------------------


def test_the_agent_alone_responds() -> None:
    for episode in episodes("C3"):
        tracks = [question.track for question in episode.questions]
        assert len(tracks) == 4
        for track in tracks:
            np.testing.assert_array_equal(track.position[:, 1:], tracks[0].position[:, 1:])
            touching = np.linalg.norm(track.position[:, 1:] - track.position[:, :1], axis=-1)
            assert (touching > track.half[1:, 0] + track.half[0, 0]).all()
        assert np.ptp([track.position[-1, 0] for track in tracks], axis=0).max() > 4
    oracle = table("C3", true)
    assert oracle["effect R2"] > 0.99 and abs(oracle["gain"] - 1) < 0.02
    assert oracle["latency"] == 0 and oracle["bystander leak"] == 0
    assert oracle["shuffled-action R2"] < -0.5
    still = table("C3", copied)
    assert still["effect R2"] == still["gain"] == 0 and np.isnan(still["latency"])


def test_gain_and_latency_are_what_they_say() -> None:
    def half(question: Question) -> np.ndarray:
        rest = np.mean([q.future.position for q in episode.questions], axis=0)
        return film(question.future.changed(position=(question.future.position + rest) / 2))[None]

    def late(question: Question) -> np.ndarray:
        frames = np.maximum(np.arange(question.horizon) - 2, 0)
        return film(question.future.at(frames))[None]

    for episode in episodes("C3"):
        numbers = mark(BY_ID["C3"], episode, [half(q) for q in episode.questions]).numbers
        assert numbers["gain"][0] / numbers["gain"][1] == pytest.approx(0.5, abs=0.02)
        assert numbers["effect R2"][0] / numbers["effect R2"][1] == pytest.approx(0.75, abs=0.02)
        assert mark(BY_ID["C3"], episode, [late(q) for q in episode.questions]).numbers["latency"] == (2.0, 1.0)


# -- C4 ---------------------------------------------------------------------------------------------


def test_laws_of_motion_hold() -> None:
    fallen = set()
    for episode in episodes("C4"):
        (question,), kind = episode.questions, episode.about["kind"]
        place = question.track.position
        bend = np.diff(place, 2, axis=0)
        if kind == "ballistic":
            np.testing.assert_allclose(bend[:, 0], np.tile([0, episode.about["gravity"]], (len(bend), 1)), atol=1e-9)
        elif kind == "free flight":
            np.testing.assert_allclose(bend, 0, atol=1e-9)
        elif kind == "friction":
            assert (place[-1] == place[-2]).all() and (place[7] != place[6]).any()
        else:
            drop = (place[-1] - place[7])[question.track.objects, 1]
            assert sorted(abs(drop) > 8) == [False, True], "one falls, one stays"
            fallen.add(int(abs(drop).argmax()))
    assert fallen == {0, 1}
    oracle, still, line = table("C4", true), table("C4", copied), table("C4", straight)
    assert oracle["stability accuracy"] == 1 and still["stability accuracy"] == line["stability accuracy"] == 0.5
    assert oracle["acceleration error"] < 0.1 and abs(still["acceleration error"] - 1) < 1e-9
    assert oracle["straight-line deviation"] < 0.2 and line["error, free flight"] < 0.2 < line["error, ballistic"]
    assert oracle["stop error"] < 0.3 and still["stop error"] > 4 and line["stop error"] > 4


# -- C7 ---------------------------------------------------------------------------------------------


def test_only_the_driver_moves_both() -> None:
    for episode in episodes("C7"):
        none, drive, push, light = (question.track for question in episode.questions)
        lamp, a, b = 0, 1, 2
        for track in (push, light):
            np.testing.assert_array_equal(track.position[:, b], none.position[:, b])
        np.testing.assert_array_equal(light.position, none.position)
        moved = drive.position - none.position
        assert abs(moved[-1, a]).max() > 3
        np.testing.assert_allclose(moved[:, a], moved[:, b], atol=1e-9)
        np.testing.assert_allclose((push.position - none.position)[:, a], moved[:, a], atol=1e-9)
        now = episode.questions[0].num_context
        lit = (none.colour[:, lamp] != none.colour[0, lamp]).any(-1)
        faster = np.zeros(len(lit), dtype=bool)
        speed = np.diff(none.position[:, b, 0])
        faster[2:] = abs(speed[1:] - speed[:-1] * (1 - causality.DRAG)) > 1e-6
        np.testing.assert_array_equal(lit[2:], faster[2:])
        assert lit[:now].sum() == 6 and not lit[now:].any()
        np.testing.assert_array_equal(drive.colour[:, lamp], light.colour[:, lamp])
    oracle = table("C7", true)
    assert oracle["driver -> B R2"] > 0.99
    assert oracle["do(A) -> B leak"] == oracle["light -> B leak"] == 0


def test_who_takes_a_correlate_for_a_cause_leaks() -> None:
    episode = episodes("C7")[0]
    none, drive, push, _ = (true(q) for q in episode.questions)
    numbers = mark(BY_ID["C7"], episode, [none, drive, push, drive]).numbers
    assert numbers["light -> B leak"][0] / numbers["light -> B leak"][1] == pytest.approx(1, rel=0.05)
    assert numbers["do(A) -> B leak"][0] == 0


# -- C8 ---------------------------------------------------------------------------------------------


def test_the_parameter_is_told_and_needed() -> None:
    for episode in episodes("C8"):
        (question,) = episode.questions
        now, mean, wrong = question.num_context, episode.about["mean"], episode.about["wrong"]
        assert len(set(question.track.half[:, 0])) == 1, "what is hidden cannot be seen"
        for track in (mean, wrong):
            assert (track.position[: causality.BEFORE] == question.track.position[: causality.BEFORE]).all()
            assert np.linalg.norm(track.position[-1] - question.track.position[-1], axis=-1).mean() >= 2
        if episode.about["kind"] == "mass":
            assert (mean.position[: now + 1] == question.track.position[: now + 1]).all()
    assert [episode.about["kind"] for episode in episodes("C8")[:3]] == list(causality.PARAMETERS)
    oracle = table("C8", true)
    assert oracle["error of the wrong parameter"] > oracle["error of the mean parameter"] > 1


def test_adaptivity_is_one_for_who_knows_and_zero_for_the_mean() -> None:
    for episode in episodes("C8")[:3]:
        (question,) = episode.questions
        now = question.num_context
        for track, expected in ((question.track, 1.0), (episode.about["mean"], 0.0)):
            marks = mark(BY_ID["C8"], episode, [film(track.part(now, track.num_frames))[None]])
            num, den = marks.numbers["adaptivity"]
            assert num / den == pytest.approx(expected, abs=1e-9) and den > 0.5
    assert SIDE["textured"] == 128
    (question,) = episode.questions
    marks = mark(BY_ID["C8"], episode, [question.truth("textured")[None]])
    assert marks.numbers["adaptivity"][0] == marks.numbers["adaptivity"][1]


# -- scenes -----------------------------------------------------------------------------------------


def test_rims_that_look_like_another_colour_are_kept_apart() -> None:
    yellow, orange, red = (1.0, 0.85, 0.0), (1.0, 0.5, 0.05), (0.9, 0.1, 0.12)
    assert causality._bleeds(yellow, orange) and not causality._bleeds(orange, red)


def test_two_that_are_sent_towards_each_other_meet_when_told() -> None:
    rng = np.random.default_rng(3)
    met = 0
    for _ in range(20):
        velocity = np.array([[1.5, 0.4], [-1.0, 0.2]])
        try:
            start = causality._towards(rng, np.array([4.0, 5.0]), velocity, 9.5)
        except causality.Again:
            continue
        motion = causality.simulate(causality.discs(start, velocity, [4, 5]), 16)
        assert meet(motion, 0, 1) == [9]
        met += 1
    assert met >= 5
