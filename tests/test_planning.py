"""Planning in pictures: the truth's pictures are as good as the true world, and empty ones are of no use."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from maskworld.probes.base import ACTIONS, PUSH, SHIFTS, Answer, Episode, Marks, Question, Setting, fingerprint
from maskworld.probes.planning import (
    AHEAD,
    DO,
    FAMILIES,
    HOLD,
    ITERATIONS,
    LOOK,
    LOST,
    NUM,
    STRENGTH,
    WORTH,
    film_of,
    left_to_go,
)
from maskworld.probes.stage import film

(PLANNING,) = FAMILIES


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [PLANNING.episode(i) for i in range(3)]


class Watched:
    """Answers by a rule, and remembers what was asked."""

    def __init__(self, answer) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.append(list(questions))
        return [self.answer(question)[None] for question in questions]


def play(episode: Episode, ask: Watched) -> Marks:
    assert PLANNING.play is not None
    return PLANNING.play(episode, ask)


def black(question: Question) -> np.ndarray:
    return np.zeros((question.horizon, 64, 64, 3), dtype=np.uint8)


def copied(question: Question) -> np.ndarray:
    last = question.num_context - 1
    return film(question.track.at([last] * question.horizon))


@pytest.fixture(scope="module")
def played(episodes: list[Episode]) -> list[tuple[Watched, Marks]]:
    """By the truth."""
    watched = [Watched(Question.truth) for _ in episodes]
    return [(ask, play(episode, ask)) for episode, ask in zip(episodes, watched, strict=True)]


def test_an_episode_is_a_function_of_its_number(episodes: list[Episode]) -> None:
    again = PLANNING.episode(1)
    assert fingerprint(again) == fingerprint(episodes[1]) == fingerprint(pickle.loads(pickle.dumps(again)))
    assert [episode.about["task"] for episode in episodes] == ["interception", "pushing", "door"]


@pytest.mark.parametrize("shift", SHIFTS[1:])
def test_every_shift_has_tasks_that_are_worth_a_plan(shift) -> None:
    index = 1 if shift == "mass" else 0
    episode = PLANNING.episode(index, Setting(shift=shift))
    assert episode.about["by chance"] - episode.about["best"] >= WORTH
    (question,) = episode.questions
    assert (question.num_context, question.horizon) == (LOOK, AHEAD)


def test_the_truths_pictures_are_as_good_as_the_true_world(episodes, played) -> None:
    regret = sum(m.error[0] for _, m in played) / sum(m.error[1] for _, m in played)
    assert abs(regret) < 0.1
    for episode, (_, marks) in zip(episodes, played, strict=True):
        assert marks.error[1] >= WORTH
        assert marks.numbers["left to go"][0] < episode.about["by chance"]


def test_pictures_that_say_nothing_are_of_no_use(episodes: list[Episode]) -> None:
    blank = [play(episode, Watched(black)) for episode in episodes]
    assert play(episodes[0], Watched(copied)) == blank[0]  # all candidates look alike: nothing is done
    assert sum(m.error[0] for m in blank) / sum(m.error[1] for m in blank) > 0.5


def test_the_same_answers_give_the_same_marks(episodes: list[Episode], played) -> None:
    assert play(episodes[0], Watched(Question.truth)) == played[0][1]


def test_the_budget_is_fixed(played) -> None:
    for ask, _ in played:
        assert [len(questions) for questions in ask.asked] == [NUM] * (ITERATIONS * len(DO))
        shapes = [{(q.num_context, q.horizon) for q in questions} for questions in ask.asked]
        done = np.cumsum([0, *DO[:-1]])
        assert shapes == [{(LOOK + int(d), AHEAD)} for d in done for _ in range(ITERATIONS)]


def test_what_is_asked_has_happened_up_to_now_and_goes_on_as_proposed(episodes: list[Episode], played) -> None:
    for episode, (ask, _) in zip(episodes, played, strict=True):
        first, last = ask.asked[0][0], ask.asked[-1][0]
        assert (first.actions[: LOOK - 1] == 0).all() and (first.actions[:, 2:] == 0).all()
        for questions in ask.asked:
            past = [q.actions[: q.num_context - 1] for q in questions]
            assert all((one == past[0]).all() for one in past)  # one past, many plans
            ahead = questions[-1].actions[questions[-1].num_context - 1 : -1, :2]
            assert np.abs(ahead).max() <= STRENGTH + 1e-6
            assert (ahead.reshape(-1, HOLD, 2) == ahead.reshape(-1, HOLD, 2)[:, :1]).all()
        chosen = last.actions[LOOK - 1 : LOOK - 1 + DO[0]]
        assert any((q.actions[LOOK - 1 : LOOK - 1 + DO[0]] == chosen).all() for qs in ask.asked[:3] for q in qs)
        assert last.rerun is not None and (last.rerun(last.actions).position == last.track.position).all()
        assert (last.track.position == film_of(episode.about["scene"], last.actions).position).all()


def test_a_push_is_felt_in_the_next_frame(episodes: list[Episode]) -> None:
    scene = episodes[2].about["scene"]
    actions = np.zeros((LOOK + 1, len(ACTIONS)))
    actions[3, 0] = 0.1
    moved = np.diff(film_of(scene, actions).position, axis=0)[:, film_of(scene, actions).objects[0]]
    assert (moved[:3] == 0).all() and moved[3, 0] == pytest.approx(0.1 * PUSH, rel=0.05)


def test_how_far_it_is_by_hand(episodes: list[Episode]) -> None:
    reach, push, door = (episode.about["scene"] for episode in episodes)
    nowhere = np.full((1, 2, 2), np.nan)
    discs = np.array([[[10.0, 10.0], [40.0, 50.0]]])
    assert left_to_go(reach, discs)[0] == pytest.approx(50 - reach.radius[:2].sum())
    assert left_to_go(reach, discs[:, :1] * np.ones((1, 2, 1)))[0] == 0
    assert left_to_go(push, np.array([[[0.0, 0.0], push.goal]]))[0] == 0
    goal, gap = np.array(door.goal), np.array(door.door)
    beyond = gap - np.sign(goal[0] - gap[0]) * np.array([12.0, 0.0])
    assert left_to_go(door, goal[None]) == pytest.approx(0)
    assert left_to_go(door, beyond[None]) == pytest.approx(12 + np.linalg.norm(goal - gap))
    assert [left_to_go(scene, nowhere)[0] for scene in (reach, push, door)] == [LOST] * 3
