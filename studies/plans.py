"""Plan, then render: how much of what goes wrong is the plan's fault, and how much the picture's?

    python studies/plans.py --minutes 10 -o runs/plans [--episodes 20] [--best-of 4] [--json]

Trains the renderer (recipe forcing-plans) for so many minutes of CPU, and a planner on the tracks of the same training
episodes, unless the folder has them. Then the same questions of the probes go to the same renderer with the plans of
each planner: the simulator's, which are true, the learned one's, constant velocity, and none. So the score comes
apart: what the true plans leave to 1 is lost by the renderer, what a planner's plans leave to the true ones by it.
The two losses and the unclipped score of a planner add up to 1.

A planner is told the states of the objects over the frames of the context, not their pictures: seeing is the
simulator's here. `best of`: without a plan, each piece is drawn several times, and the one is kept that surprises the
renderer least. Resumable: what is trained or marked is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mcvd_choices import seconds_a_step
from torch import Tensor

from maskworld import checkpoint, planners
from maskworld.clip import Clip, collate, join, of_uint8, span, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.commands.subjects import grouped
from maskworld.memory.window import Window
from maskworld.noise import Rng, mix
from maskworld.papers import forcing
from maskworld.plan import along, best_of
from maskworld.planners import Learned, Planner, State, constant_velocity, of_piece, of_track, planner_error, together
from maskworld.probes.base import ACTIONS, Asked, Question, Setting, Subject
from maskworld.probes.films import Films, reckoned
from maskworld.probes.statistics import Interval, interval
from maskworld.probes.suite import Suite, as_dict, compare, families_of, run
from maskworld.recipes.forcing_plans import forcing_plans
from maskworld.rollout import ahead_of, rollout
from maskworld.train import STATE, train
from maskworld.world import World, load

FAMILIES = ("P3", "P4", "C1", "C2", "C3")
ROWS = 16  # roll-outs together
LEVELS = 3  # of noise, at which a future's surprise is measured
TRUE = "simulator"
PlannerOf = Callable[[Sequence[Question]], Planner]

# -- training -------------------------------------------------------------------------------------


def renderer(folder: Path, families: Sequence[str], minutes: float, quick: bool) -> World:
    """The renderer in this folder, trained if there is none: as many steps as the CPU minutes hold."""
    if not (folder / "done").exists():
        sizes = {"dim": 32, "depth": 2, "heads": 2, "ratio": 2} if quick else {}
        config = dataclasses.replace(forcing.mini(actions=len(ACTIONS), plan=True), **sizes)
        recipe = forcing_plans(config, tuple(families), (1.0,) * len(families))
        steps, held = 3, folder / "steps"
        if quick:
            recipe = dataclasses.replace(recipe, valid_clips=8)
        elif held.exists():
            steps = int(held.read_text())
        else:
            steps = max(1, round(minutes * 60 / seconds_a_step(recipe, fast_precision())))
            folder.mkdir(parents=True, exist_ok=True)
            held.write_text(str(steps))
        bf16 = "bf16" if fast_precision() == torch.bfloat16 else "no"
        train(recipe, folder, steps=steps, resume=(folder / STATE).exists(), workers=0, precision=bf16)
        (folder / "done").touch()
    return load(folder)


def learned(path: Path, families: Sequence[str], quick: bool) -> Learned:
    """The planner in this file, trained if there is none: on stretches of 24 frames of the training episodes."""
    torch.manual_seed(0)
    net = Learned()
    if not path.exists():
        films = Films(tuple(families), history=12, near=12, ahead=12, clips_per_episode=1, seed=1)
        steps, worlds = (3, 8) if quick else (1500, 512)
        losses = planners.train_planner(net, lambda i: of_piece(films.piece(i)), steps, num_worlds=worlds)
        about = {"planner": "learned", "steps": steps, "loss": float(losses[-50:].mean())}
        checkpoint.write(path, net.state_dict(), about)
    net.load_state_dict(checkpoint.read(path)[0])
    return net.eval().requires_grad_(False)


# -- planning and rendering -----------------------------------------------------------------------


def past_of(questions: Sequence[Question]) -> State:
    """The true states of the objects over the context, each of the same number of frames."""
    return together([of_track(question.track.part(0, question.num_context)) for question in questions])


def planned(planner: PlannerOf, questions: Sequence[Question]) -> Float[Tensor, "b horizon n 2"]:
    """Where this planner says that the objects will be. It is told the actions, where there are any."""
    first, past = questions[0], past_of(questions)
    actions = None
    if first.actions is not None:
        last = first.num_context - 1
        felt = [question.actions[last : last + first.horizon] for question in questions if question.actions is not None]
        actions = torch.from_numpy(np.stack(felt)).float()
    with torch.no_grad():
        return planner(questions)(past, actions, first.horizon)


def drawing_of(planner: PlannerOf | None, questions: Sequence[Question], whole: Clip) -> Float[Tensor, "b t c h w"]:
    """The plan as pictures, of every frame of the questions as its camera sees it; empty without a planner."""
    if planner is None:
        return torch.full_like(whole.frames[:, 0], -1.0)
    assert whole.cameras is not None
    past = past_of(questions)
    place = torch.cat([past.position, planned(planner, questions)], dim=1)
    offset = whole.cameras.pose[:, 0, :, None, :2, 3]
    return planners.draw(place - offset, past.radius * past.there, past.colour, whole.shape[4])


def subject_of(world: World, name: str, planner: PlannerOf | None, best: int = 1) -> Subject:
    """The renderer with the plans of this planner; of `best` futures it keeps the one that surprises it least.

    Each answer's noise depends on episode and sample alone: planners and branches of an episode share it.
    """
    net = world.net
    assert isinstance(net, forcing.Forcing)
    watch = forcing.surprise(net, LEVELS, fast_precision())

    def whole_of(asked: Asked) -> Clip:
        question = asked.question
        prompt = of_uint8(torch.from_numpy(question.prompt(asked.setting.tier)))
        both = join([prompt, ahead_of(prompt, question.horizon)])
        actions = torch.zeros(1, both.shape[2], len(ACTIONS))
        if question.actions is not None:
            actions = torch.from_numpy(question.actions).float()[None]
        return dataclasses.replace(both, actions=actions, cameras=reckoned(actions, world.size[0]))

    def answer(asked: Sequence[Asked]) -> list[np.ndarray]:
        many = [(place, sample) for place, one in enumerate(asked) for sample in range(one.question.num_samples)]
        questions = [asked[place].question for place, _ in many]
        drawn: dict[tuple[int, int], np.ndarray] = {}
        keys = [(question.num_context, question.horizon, question.actions is None) for question in questions]
        for group in grouped(keys, ROWS):
            part, t = [many[row] for row in group], questions[group[0]].num_context
            whole = collate([whole_of(asked[place]) for place, _ in part])
            drawing = drawing_of(planner, [questions[row] for row in group], whole)
            fill = world.fill_of(rows=len(group))
            fill = along(fill if best == 1 else best_of(fill, watch, best), drawing)
            seeds = [mix(asked[place].family.number, asked[place].index, sample) for place, sample in part]
            rng = Rng([torch.Generator().manual_seed(seed) for seed in seeds])
            prompt, ahead = span(whole, 0, t), span(whole, t, whole.shape[2])
            future = rollout(
                fill, prompt, ahead, Window(world.reach.past), world.reach.stride, rng, window=world.reach.window
            )
            drawn |= dict(zip(part, to_uint8(future.frames[:, 0]).numpy(), strict=True))
        return [
            np.stack([drawn[place, sample] for sample in range(one.question.num_samples)])
            for place, one in enumerate(asked)
        ]

    return Subject(name, answer)


def errors_of(planner: PlannerOf, family: str, episodes: int) -> tuple[Interval, Interval]:
    """How far its plans are off, in pixels: the mean over all frames, and in the last one; over episodes."""
    mean, last = [], []
    for index in range(episodes):
        questions = families_of([family])[0].episode(index, Setting()).questions
        past = past_of(questions)
        truth = together([of_track(question.track) for question in questions]).position[:, past.position.shape[1] :]
        off = planner_error(planned(planner, questions), truth, past.there)
        mean.append(float(off.mean()))
        last.append(float(off[-1]))
    return interval(mean), interval(last)


# -- the study ------------------------------------------------------------------------------------


def plain(value: Interval) -> dict[str, float | None]:
    return {name: end if np.isfinite(end) else None for name, end in dataclasses.asdict(value).items()}


def told(value: Mapping[str, Any] | None) -> str:
    """Mean and interval, for people."""
    if value is None or value["mean"] is None:
        return "n/a"
    return f"{value['mean']:.2f}" + ("" if value["low"] is None else f" [{value['low']:.2f}, {value['high']:.2f}]")


def table(title: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Lines with a name and a cell for each column."""
    cells = [[title, *next(iter(rows.values()))], *([name, *row.values()] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def marked(subject: Subject, suite: Suite, folder: Path, workers: int, like: Path) -> Mapping[str, Any]:
    """What the subject scores; marks of references are taken from the folder `like`, where they are the same."""
    held = like / "references.jsonl"
    if held.exists() and not (folder / held.name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(held, folder)
    return as_dict(run(subject, suite, folder, workers=workers))


def taken_apart(results: Mapping[str, Mapping[str, Any]], families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the renderer loses in each family, and what each planner does, in unclipped scores."""
    best = results[TRUE]
    apart: dict[str, dict[str, Any]] = {"renderer": {}}
    for family in families:
        score = best["families"][family]["unclipped"]
        ends = {"mean": "mean", "low": "high", "high": "low"}
        apart["renderer"][family] = score and {
            name: None if score[end] is None else 1 - score[end] for name, end in ends.items()
        }
    for name, other in results.items():
        if name != TRUE:
            found = compare(best, other)["families"]
            apart[name] = {family: found[family].get("difference") for family in families}
    return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU, to train the renderer")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="of the probes, to train on and to ask")
    parser.add_argument("--episodes", type=int, default=20, help="of each family")
    parser.add_argument("--steps", type=int, default=4, help="from noise to frames")
    parser.add_argument("--best-of", type=int, default=4, help="futures to choose from without a plan; 1 leaves it out")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw episodes")
    parser.add_argument("--quick", action="store_true", help="a check of the script: numbers mean nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/plans"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    families, quick, out = families_of(options.families), options.quick, options.out
    ids = [family.id for family in families]
    episodes, steps = (2, 1) if quick else (options.episodes, options.steps)

    planner = learned(out / "planner.safetensors", ids, quick)
    world = renderer(out / "renderer", ids, options.minutes, quick).sampled(steps, precision=fast_precision())
    rows: dict[str, PlannerOf] = {
        TRUE: planners.simulator,
        "learned": lambda _: planner,
        "constant velocity": lambda _: constant_velocity,
    }
    asked: dict[str, tuple[PlannerOf | None, int]] = {name: (of, 1) for name, of in rows.items()}
    asked["no plan"] = None, 1
    if options.best_of > 1:
        asked[f"no plan, best of {options.best_of}"] = None, options.best_of

    suite, results = Suite(families, episodes), {}
    for name, (of, best) in asked.items():
        subject = subject_of(world, _named(world, name, steps), of, best)
        folder = out / "marks" / name.replace(",", "").replace(" ", "-")
        results[name] = marked(subject, suite, folder, options.workers, out / "marks" / TRUE)
        print(f"{name}: asked", flush=True)
    scores = {name: result["families"] for name, result in results.items()}
    apart = taken_apart(results, ids)
    errors = {
        name: {id: dict(zip(("mean", "last"), map(plain, errors_of(of, id, episodes)), strict=True)) for id in ids}
        for name, of in rows.items()
    }
    print(f"\n{world.about['step']} steps of training, {episodes} episodes a family")
    print(table("score", {name: {id: told(row[id]["score"]) for id in ids} for name, row in scores.items()}) + "\n")
    print(table("lost, of 1", {name: {id: told(row[id]) for id in ids} for name, row in apart.items()}) + "\n")
    for which in ("mean", "last"):
        off = {name: {id: told(row[id][which]) for id in ids} for name, row in errors.items()}
        print(table(f"plan off by, px, {which}", off))
    if options.json:
        keys = ("score", "unclipped", "error", "reason")
        short = {name: {id: {key: row[id][key] for key in keys} for id in ids} for name, row in scores.items()}
        about = {"minutes": options.minutes, "training_steps": world.about["step"], "steps": steps}
        result = {"episodes": episodes, "scores": short, "lost": apart, "planner_px": errors}
        print(json.dumps({"study": "plans", **about, **result}))


def _named(world: World, row: str, steps: int) -> str:
    """Who is asked, such that marks of another renderer are not taken for its."""
    return f"plans after {world.about['step']} steps, drawn in {steps}: {row}"


if __name__ == "__main__":
    main()
