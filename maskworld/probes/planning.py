"""C9, planning utility: does a plan that was made in the model's pictures work in the world?

The subject foretells what candidates of a fixed planner would lead to, and the planner reads from those pictures, and
from nothing else, how far there would still be to go. What it chooses is done in the true world, and it looks again.

Sections: tasks - the world - planning - marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from maskworld import plan
from maskworld.data.discs import AGENT, LIGHT
from maskworld.noise import Rng
from maskworld.probes.base import ACTIONS, PUSH, Actions, Again, Ask, Episode, Family, Marks, Question, Ranges
from maskworld.probes.readout import read
from maskworld.probes.scenes import BOUNDS, GROUND, TOLERANCE, WALLS, between, colours, heading, scattered
from maskworld.probes.stage import VIEW, Bodies, Cast, Track, discs, simulate

# -- tasks ----------------------------------------------------------------------------------------

Task = Literal["interception", "pushing", "door"]
TASKS: tuple[Task, ...] = ("interception", "pushing", "door")
LOOK = 8  # frames before the first plan, in which nothing is done
AHEAD = 10  # frames that a plan foresees
DO = (5, 5, AHEAD)  # frames that are done of each plan, before the next is made
HOLD = 5  # frames for which a push is held
NUM, ITERATIONS, ELITES = 24, 3, 5
STRENGTH = 0.3  # of the strongest push used
LOST = float(VIEW)  # what is not found is so far away
CAP = 32.0  # pixels: what is further off at the end counts as this
WORTH = 4.0  # pixels that planning in the true world must gain over chance
DRAG = 0.03
DOOR, THICK = 18.0, 3.0  # width of the door, and half the thickness of its wall


@dataclass(frozen=True)
class Scene:
    """The agent is body 0, the disc that it must reach or push is body 1; walls come last."""

    task: Task
    bodies: Bodies
    colour: Float[np.ndarray, "n 3"]
    goal: tuple[float, float] | None
    door: tuple[float, float] | None
    grain: int

    @property
    def radius(self) -> Float[np.ndarray, " n"]:
        return self.bodies.half[:, 0]


def left_to_go(scene: Scene, centre: Float[np.ndarray, "... k 2"]) -> Float[np.ndarray, "..."]:
    """How far it still is, in pixels, given where the discs are; LOST if one that counts is nowhere (NaN).

    interception: between the rims of the agent and the disc. pushing: from the disc to the goal. door: the agent's
    way to the goal, through the door while it is on the other side.
    """
    agent = centre[..., 0, :]
    if scene.task == "interception":
        left = np.linalg.norm(agent - centre[..., 1, :], axis=-1) - scene.radius[:2].sum()
    elif scene.task == "pushing":
        left = np.linalg.norm(centre[..., 1, :] - np.array(scene.goal), axis=-1)
    else:
        goal, door = np.array(scene.goal), np.array(scene.door)
        here = (agent[..., 0] - door[0]) * (goal[0] - door[0]) > 0
        through = np.linalg.norm(agent - door, axis=-1) + np.linalg.norm(goal - door)
        left = np.where(here, np.linalg.norm(agent - goal, axis=-1), through)
    return np.where(np.isnan(left), LOST, np.maximum(left, 0.0))


def _draw_task(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    scene = _set(rng, TASKS[index % len(TASKS)], ranges)
    seed = int(rng.integers(2**31))
    chance = [_random(rng) for _ in range(8)]
    by_chance = float(np.mean([_end(scene, actions) for actions in chance]))
    if by_chance < WORTH:
        raise Again
    track = film_of(scene, np.zeros((LOOK + AHEAD, len(ACTIONS))))
    if left_to_go(scene, _discs(track)[-1]) < WORTH:  # it would come about by itself
        raise Again
    best = _end(scene, planned(scene, seed, partial(_true_costs, scene)))
    if by_chance - best < WORTH:
        raise Again
    actions = np.concatenate([chance[0][: LOOK + AHEAD - 1], np.zeros((1, len(ACTIONS)))])
    about = {"task": scene.task, "scene": scene, "seed": seed, "best": best, "by chance": by_chance}
    return Episode((question_of(scene, actions, LOOK),), about)


def _set(rng: np.random.Generator, task: Task, ranges: Ranges) -> Scene:
    """Where things are at the start. Discs that have no part in it stand about."""
    count = int(rng.integers(ranges.count[0], ranges.count[1] + 1))
    num = max(count, 2) if task != "door" else count
    radius = between(rng, ranges.radius, num)
    colour = np.concatenate([[AGENT], colours(rng, num - 1, ranges)])
    position = scattered(rng, radius, gap=3.0)
    velocity = np.zeros((num, 2))
    density = np.ones(num)
    goal = door = None
    walls: list[tuple[tuple[float, float], tuple[float, float]]] = []
    if task == "interception":
        velocity[1] = between(rng, ranges.speed) * heading(between(rng, (0.0, 2 * np.pi)))
    elif task == "pushing":
        density[1] = between(rng, ranges.ratio) ** float(rng.choice([-1, 1]))
        away = heading(between(rng, (0.0, 2 * np.pi)))
        askew = heading(np.arctan2(away[1], away[0]) + between(rng, (-0.25, 0.25)))
        position[1] = between(rng, (18.0, VIEW - 18.0), 2)
        position[0] = position[1] - askew * (radius[:2].sum() + between(rng, (4.0, 9.0)))
        goal = position[1] + away * between(rng, (12.0, 18.0))
        if not (radius[1] < goal).all() or not (goal < VIEW - radius[1]).all():
            raise Again
    else:
        door = np.array([VIEW / 2 + between(rng, (-4.0, 4.0)), between(rng, (16.0, VIEW - 16.0))])
        side = float(rng.choice([-1, 1]))
        position[0] = door[0] - side * between(rng, (14.0, 20.0)), between(rng, (10.0, VIEW - 10.0))
        goal = np.array([door[0] + side * between(rng, (14.0, 20.0)), between(rng, (10.0, VIEW - 10.0))])
        for top, bottom in ((0.0, door[1] - DOOR / 2), (door[1] + DOOR / 2, float(VIEW))):
            walls.append(((float(door[0]), (top + bottom) / 2), (THICK, (bottom - top) / 2)))
    free = discs(position, velocity, radius, density)
    if not _apart(position, radius, walls):
        raise Again
    bodies = Bodies(
        position=np.concatenate([free.position, np.reshape([place for place, _ in walls], (-1, 2))]),
        velocity=np.concatenate([free.velocity, np.zeros((len(walls), 2))]),
        half=np.concatenate([free.half, np.reshape([half for _, half in walls], (-1, 2))]),
        box=np.arange(num + len(walls)) >= num,
        density=np.concatenate([free.density, np.ones(len(walls))]),
        solid=np.ones(num + len(walls), dtype=bool),
        fixed=np.arange(num + len(walls)) >= num,
    )
    return Scene(
        task,
        bodies,
        np.concatenate([colour, np.tile(WALLS, (len(walls), 1))]),
        None if goal is None else (float(goal[0]), float(goal[1])),
        None if door is None else (float(door[0]), float(door[1])),
        int(rng.integers(2**31)),
    )


def _apart(position: Float[np.ndarray, "n 2"], radius: Float[np.ndarray, " n"], walls: Sequence[Any]) -> bool:
    """Whether no disc touches another, a wall or the bounds."""
    if not ((position > radius[:, None] + 1) & (position < VIEW - radius[:, None] - 1)).all():
        return False
    gap = np.linalg.norm(position[:, None] - position[None], axis=-1) - radius[:, None] - radius[None]
    np.fill_diagonal(gap, 2.0)
    for place, half in walls:
        to_wall = np.linalg.norm(np.maximum(np.abs(position - place) - half, 0), axis=-1) - radius
        if to_wall.min() < 1:
            return False
    return bool((gap > 1).all())


# -- the world ------------------------------------------------------------------------------------


def film_of(scene: Scene, actions: Actions) -> Track:
    """What happens under these actions, one for each frame, of which the last is not felt."""
    kicks = np.zeros((len(actions), len(scene.bodies.position), 2))
    kicks[:, 0] = PUSH * np.clip(actions[:, :2], -1, 1)
    position = simulate(scene.bodies, len(actions), bounds=BOUNDS, drag=DRAG, kicks=kicks).position
    cast = Cast(len(actions), GROUND, scene.grain)
    if scene.goal is not None:
        cast.add(scene.goal, 3.0, LIGHT, object=False)
    for i in range(len(scene.radius)):
        wall = bool(scene.bodies.fixed[i])
        cast.add(position[:, i], scene.bodies.half[i], scene.colour[i], box=wall, object=not wall)
    return cast.track()


def question_of(scene: Scene, actions: Actions, num_context: int) -> Question:
    """What do these actions lead to? The last that the prompt shows the effect of is num_context - 2."""
    return Question(film_of(scene, actions), num_context, actions, rerun=partial(film_of, scene))


def _discs(track: Track) -> Float[np.ndarray, "t k 2"]:
    return track.position[:, track.objects]


def _end(scene: Scene, actions: Actions) -> float:
    """How far there is left to go when all is done."""
    return min(CAP, float(left_to_go(scene, _discs(film_of(scene, actions))[-1])))


def _pushes(held: Float[np.ndarray, "k 2"]) -> Actions:
    """Actions of a push that is held for HOLD frames, and the next."""
    actions = np.zeros((len(held) * HOLD, len(ACTIONS)))
    actions[:, :2] = np.repeat(held, HOLD, axis=0)
    return actions


def _random(rng: np.random.Generator) -> Actions:
    """All actions of a film, drawn from what the planner draws from, without a plan."""
    pushes = _pushes(between(rng, (-STRENGTH, STRENGTH), sum(DO) // HOLD, 2))
    nothing = np.zeros((LOOK - 1, len(ACTIONS)))
    return np.concatenate([nothing, pushes, nothing[:1]])


# -- planning -------------------------------------------------------------------------------------

Costs = Callable[[Sequence[Question]], Float[np.ndarray, " n"]]
"""How far there would be left to go at the end of each question."""


def planned(scene: Scene, seed: int, costs: Costs) -> Actions:
    """All actions that the fixed planner takes, if `costs` says what its candidates lead to. A function of these."""
    done = np.zeros((LOOK - 1, len(ACTIONS)))
    knots = AHEAD // HOLD
    mean = torch.zeros(knots, 2)
    for step, frames in enumerate(DO):

        def cost(candidates: torch.Tensor, done: Actions = done) -> torch.Tensor:
            ahead = [_pushes(held) for held in candidates.double().numpy()]
            last = np.zeros((1, len(ACTIONS)))
            films = [np.concatenate([done, actions, last]) for actions in ahead]
            return torch.from_numpy(costs([question_of(scene, actions, len(done) + 1) for actions in films]))

        best = plan.cem(
            cost, -STRENGTH, STRENGTH, (knots, 2), NUM, ITERATIONS, ELITES, Rng.of(seed, step), mean=mean
        ).actions
        done = np.concatenate([done, _pushes(best.double().numpy())[:frames]])
        mean = torch.cat([best[1:], torch.zeros(1, 2)])
    return np.concatenate([done, np.zeros((1, len(ACTIONS)))])


def _true_costs(scene: Scene, questions: Sequence[Question]) -> Float[np.ndarray, " n"]:
    return left_to_go(scene, np.stack([_discs(question.track)[-1] for question in questions]))


def _seen_costs(scene: Scene, ask: Ask, questions: Sequence[Question]) -> Float[np.ndarray, " n"]:
    """The same from the last picture of each answer. The track says which colours to look for, not where they are."""
    pictures = np.concatenate([answer[0, -1:] for answer in ask(questions)])
    return left_to_go(scene, read(pictures, questions[0].track.at([-1] * len(pictures))).centre)


# -- marks ----------------------------------------------------------------------------------------


def _play(episode: Episode, ask: Ask) -> Marks:
    """Regret: 0 is as good as planning in the true world, 1 as bad as chance."""
    scene, best, by_chance = (episode.about[name] for name in ("scene", "best", "by chance"))
    end = _end(scene, planned(scene, episode.about["seed"], partial(_seen_costs, scene, ask)))
    done = float(end <= TOLERANCE)
    return Marks(
        error=(end - best, by_chance - best),
        numbers={
            "success": (done, 1.0),
            f"success, {scene.task}": (done, 1.0),
            "left to go": (end, 1.0),
            "left to go, true world": (best, 1.0),
            "left to go, chance": (by_chance, 1.0),
        },
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        id="C9",
        number=20,
        title="Planning utility",
        question="Does a plan made in the model's pictures work in the world?",
        axis="causality",
        draw=_draw_task,
        play=_play,
        kind="play",
        acts=True,
        period=len(TASKS),
    ),
)
