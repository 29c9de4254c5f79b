"""The references that answer for whole worlds: each wrong in its own, known way, and the same every time."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from maskworld.probes.base import ACTIONS, Asked, Episode, Family, Question, Ranges, Setting
from maskworld.probes.readout import errors, read
from maskworld.probes.references import REFERENCES, reference
from maskworld.probes.scenes import GROUND, SCREEN
from maskworld.probes.stage import Cast, Track, film, visible

RED, GREEN, BLUE = (0.90, 0.10, 0.12), (0.10, 0.75, 0.20), (0.15, 0.30, 1.00)
NOW, AHEAD = 12, 6


def world(actions: np.ndarray | None = None, start: float = 10.0, camera: float = 0.0) -> Track:
    """A red disc that goes right and is pushed, a green one that stands at (50, 50), and a screen at the left edge."""
    t = NOW + AHEAD
    pushed = np.zeros(t) if actions is None else np.concatenate([[0.0], actions[:-1, 0].cumsum()])
    cast = Cast(t, GROUND, camera=np.arange(t)[:, None] * np.array([[camera, 0.0]]))
    cast.add(np.stack([start + 1.5 * np.arange(t) + pushed, np.full(t, 20.0)], 1), 4.0, RED)
    cast.add((50.0, 50.0), 4.0, GREEN)
    cast.add((2.0, 50.0), (4.0, 8.0), SCREEN, box=True, object=False)
    return cast.track()


def hidden_for(gap: int) -> Track:
    """A disc that stands behind a screen in the last `gap` frames of the context, and comes back after them."""
    t = 40
    cast = Cast(t + AHEAD, GROUND)
    cast.add((32.0, 32.0), 4.0, RED)
    away = (np.arange(t + AHEAD) < t - gap) | (np.arange(t + AHEAD) >= t)
    cast.add(np.where(away[:, None], [[200.0, 32.0]], [[32.0, 32.0]]), (8.0, 8.0), SCREEN, box=True, object=False)
    return cast.track()


def draw(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Two branches that start elsewhere in every episode."""
    place = float(rng.uniform(8, 20))
    return Episode(tuple(Question(world(start=place + branch), NOW) for branch in range(2)))


FAMILY = Family("T1", 91, "toy", "?", "persistence", draw, period=3)


def asked(question: Question, index: int = 0, branch: int = 0, family: Family = FAMILY) -> Asked:
    return Asked(question, family, index, branch, Setting())


def answer(name: str, question: Question, **where: int) -> np.ndarray:
    (found,) = reference(name).answer([asked(question, **where)])
    assert found.dtype == np.uint8 and found.shape[:2] == (question.num_samples, question.horizon)
    return found


def off(frames: np.ndarray, question: Question) -> np.ndarray:
    """How far each object is off, frame by frame."""
    return errors(read(frames, question.future), question.future).distance


def test_the_oracle_tells_the_truth_as_often_as_it_is_asked() -> None:
    question = Question(world(), NOW, num_samples=3)
    assert (answer("oracle", question) == question.truth()).all()


def test_where_there_is_chance_the_oracle_draws_from_it() -> None:
    one, other = world(start=10.0), world(start=14.0)
    question = Question(one, NOW, num_samples=400, chances=((0.75, one), (0.25, other)))
    films = [film(track.part(NOW, NOW + AHEAD)) for track in (one, other)]
    which = [[(sample == true).all() for true in films] for sample in answer("oracle", question)]
    assert all(sum(each) == 1 for each in which)
    assert 0.65 < np.mean([first for first, _ in which]) < 0.85


@pytest.mark.parametrize("name", [name for name in REFERENCES if name not in ("frame-difference", "copy-context")])
def test_a_question_is_always_answered_the_same(name: str) -> None:
    question = Question(world(), NOW, num_samples=2)
    assert (answer(name, question, index=4, branch=1) == answer(name, question, index=4, branch=1)).all()


def test_noise_walks_and_leaves_scenery_alone() -> None:
    question = Question(world(), NOW, num_samples=16)
    assert (answer("noise-0", question) == question.truth()).all()
    frames = answer("noise-0.5", question)
    assert not (frames[0] == frames[1]).all(), "each sample is another"
    assert (frames[:, :, 40:, :6] == question.truth()[:, 40:, :6]).all(), "the screen stands"
    assert not (answer("noise-0.5", question, branch=1) == frames).all()
    away = np.stack([off(sample, question) for sample in frames]).mean((0, 2))
    assert away[-1] == pytest.approx(away[0] * AHEAD**0.5, rel=0.35), "as the root of time"


def test_more_noise_is_further_off() -> None:
    question = Question(world(), NOW, num_samples=8)
    means = [np.mean([off(x, question).mean() for x in answer(f"noise-{s}", question)]) for s in (0.1, 0.35, 1, 2)]
    assert means == sorted(means) and means[-1] > 10 * means[0]


def test_linear_goes_on_where_nothing_happens() -> None:
    question = Question(world(camera=0.5), NOW)
    assert (answer("linear", question) == question.truth()).all()


def test_linear_goes_on_from_where_it_last_saw() -> None:
    t = NOW + AHEAD
    cast = Cast(t, GROUND)
    cast.add(np.stack([10 + 2.0 * np.arange(t), np.full(t, 20.0)], 1), 4.0, RED)
    cast.add((33.0, 20.0), (9.0, 9.0), SCREEN, box=True, object=False)
    question = Question(cast.track(), NOW)
    assert visible(question.track)[NOW - 1, 0] < 0.1
    np.testing.assert_array_equal(answer("linear", question)[0], question.truth())


def test_linear_goes_through_walls_and_forgets_what_was_never_seen() -> None:
    track = world()
    bounced = track.position.copy()
    bounced[NOW:, 0, 0] = 2 * bounced[NOW - 1, 0, 0] - bounced[NOW:, 0, 0]
    shown = track.shown.copy()
    shown[:NOW, 1] = False
    question = Question(track.changed(position=bounced, shown=shown), NOW)
    straight = Question(track.changed(shown=np.array([[True, False, True]]).repeat(NOW + AHEAD, 0)), NOW)
    np.testing.assert_array_equal(answer("linear", question)[0], straight.truth())


def test_frozen_stands_where_it_was_last_seen_while_the_camera_moves() -> None:
    question = Question(world(camera=1.0), NOW)
    stands = question.track.at([NOW - 1] * AHEAD).changed(camera=question.future.camera)
    np.testing.assert_array_equal(answer("frozen", question)[0], film(stands))


def test_frozen_stops_when_the_camera_turns_away_and_knows_nothing_that_it_never_saw() -> None:
    t = NOW + AHEAD
    camera = np.where(((np.arange(t) >= 5) & (np.arange(t) < NOW + 2))[:, None], [[64.0, 0.0]], [[0.0, 0.0]])
    track = world().changed(camera=camera)
    question = Question(track, NOW)
    frames = answer("frozen", question)[0]
    away = np.linalg.norm(read(frames, question.future).centre[3:, 0] - track.position[4, 0], axis=-1)
    assert (away < 0.5).all(), "the disc is where it was in the last frame before"
    shown = track.shown.copy()
    shown[:NOW, 1] = False
    question = Question(track.changed(shown=shown), NOW)
    assert not read(answer("frozen", question)[0], question.future).found[:, 1].any()


def test_copy_is_the_last_frame() -> None:
    question = Question(world(camera=1.0), NOW)
    assert (answer("copy", question)[0] == question.prompt()[-1]).all()


@pytest.mark.parametrize("window", [1, 8, 16])
def test_amnesia_forgets_what_was_out_of_sight_for_longer_than_its_window(window: int) -> None:
    for gap in (0, window - 1, window, window + 1, 32):
        question = Question(hidden_for(gap), 40)
        found = read(answer(f"amnesia-{window}", question)[0], question.future).found
        assert found.all() == found.any() == (gap <= window), gap


def test_blur_is_nowhere() -> None:
    question = Question(world(), NOW, num_samples=2)
    frames = answer("blur", question)
    assert (frames[0] == frames[1]).all()
    assert off(frames[0], question)[-1].mean() > 1.0
    assert frames[0, -1].max() < question.truth()[-1].max()


def test_shuffled_and_typical_are_true_elsewhere() -> None:
    questions = FAMILY.episode(5).questions
    borrowed = FAMILY.episode(5 + FAMILY.period).questions
    for branch, question in enumerate(questions):
        assert (answer("shuffled", question, index=5, branch=branch) == borrowed[branch].truth()).all()
    typical = [answer("typical", question, index=5, branch=branch) for branch, question in enumerate(questions)]
    apart = [off(frames[0], questions[0])[0, 0] for frames in typical]
    assert apart[1] - apart[0] != pytest.approx(1.0, abs=0.3), "branches of one episode are 1 px apart"


def test_another_length_is_cut_or_held() -> None:
    question, other = Question(world().part(0, NOW + 2), NOW), FAMILY.episode(3).questions[0]
    assert (answer("shuffled", question)[0] == other.truth()[:2]).all()
    longer = Question(world().at(np.arange(NOW + AHEAD + 3).clip(max=NOW + AHEAD - 1)), NOW)
    frames = answer("shuffled", longer)[0]
    assert (frames[:AHEAD] == other.truth()).all() and (frames[AHEAD:] == other.truth()[-1]).all()


def test_other_actions_have_other_effects_and_the_context_stays() -> None:
    actions = np.zeros((NOW + AHEAD, len(ACTIONS)))
    actions[:, 0] = 0.5
    question = Question(world(actions), NOW, actions, rerun=partial(world))
    idle = actions.copy()
    idle[NOW - 1 :] = 0  # what is done in the last frame of the context is felt after it
    np.testing.assert_array_equal(answer("noop", question)[0], film(world(idle).part(NOW, NOW + AHEAD)))
    assert off(answer("random", question)[0], question)[-1, 0] > 0.5
    passive = dataclasses.replace(question, rerun=None)
    for name in ("noop", "random"):
        assert (answer(name, passive)[0] == question.truth()).all()


def test_the_cheats_are_surprised_without_a_model() -> None:
    question = Question(world(), NOW, observed=world().at([*range(NOW), *[NOW - 1] * AHEAD]))
    for name in ("frame-difference", "copy-context"):
        subject = reference(name)
        assert subject.surprise is not None
        (still,) = subject.surprise([asked(question)])
        (moving,) = subject.surprise([asked(dataclasses.replace(question, observed=None))])
        assert still.shape == (AHEAD,) and (still == 0).all() and (moving > 0).all()


def test_names() -> None:
    for name in REFERENCES:
        assert reference(name).name == reference(f"reference:{name}").name == f"reference:{name}"
    assert reference("amnesia-5").name == "reference:amnesia-5"
    with pytest.raises(ValueError, match="did you mean oracle"):
        reference("oracel")
    for name in ("noise", "noise-x", "noise--1", "noise-inf", "noise-nan", "amnesia", "amnesia-1.5", "zzzz", ""):
        with pytest.raises(ValueError, match="no reference is called"):
            reference(name)
