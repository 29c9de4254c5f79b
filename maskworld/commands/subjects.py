"""Who is probed: a checkpoint of ours, any Python function, or one of the references."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskworld.__main__ import Remembering
from maskworld.clip import Clip, collate, join, of_uint8, span, to, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.commands.memories import Chosen, memory_of
from maskworld.memory.base import last
from maskworld.memory.window import Window
from maskworld.noise import Rng, mix
from maskworld.probes.base import ACTIONS, Asked, Setting, Subject
from maskworld.probes.films import reckoned
from maskworld.probes.references import reference
from maskworld.probes.stage import SIDE
from maskworld.rollout import ahead_of, rollout
from maskworld.world import World, load


class Probed(NamedTuple):
    """Who is probed, with which memory and how many frames at a time: None where there is no choice of memories."""

    subject: Subject
    chosen: Chosen | None = None
    stride: int | None = None


def probed(
    model: str,
    setting: Setting,
    steps: int | None = None,
    solver: str | None = None,
    remembering: Remembering = Remembering(),
) -> Probed:
    """`reference:NAME`, `python:MODULE:FUNCTION`, or a checkpoint by path, by name or as `hub:owner/name`.

    Raises ValueError where there is none such, where a checkpoint's frames or actions are not those of the setting,
    and where it cannot be shown what the memory shows.
    """
    kind, _, rest = model.partition(":")
    asked = {"steps": steps, "solver": solver, **dataclasses.asdict(remembering)}
    given = [f"--{name}" for name, value in asked.items() if value is not None]
    if kind in ("reference", "python") and given:
        raise ValueError(f"only a checkpoint is sampled with {' and '.join(given)}, not {model}")
    if kind == "reference":
        return Probed(reference(rest))
    if kind == "python":
        return Probed(of_function(function_of(rest), model))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(model, device).sampled(steps, solver, fast_precision(device))
    side = SIDE[setting.tier]
    if (world.channels, world.size, world.reach.views) != (3, (side, side), 1):
        colours = "grey" if world.channels == 1 else f"{world.channels}-channel"
        have = "RGB" if world.channels == 3 else colours
        raise ValueError(
            f"{model} makes {have} frames of {world.size[0]} x {world.size[1]}"
            f"{f' in {world.reach.views} views' if world.reach.views > 1 else ''}; "
            f"the {setting.tier} tier of the probes is RGB of {side} x {side}"
        )
    if world.reach.actions not in (0, len(ACTIONS)):
        raise ValueError(
            f"{model} takes actions of {world.reach.actions} channels; those of the probes have {len(ACTIONS)}: "
            f"{', '.join(ACTIONS)}"
        )
    stride = world.reach.stride if remembering.stride is None else remembering.stride
    chosen = memory_of(remembering.memory or "window", world, True, remembering.window, stride)
    if world.reach.window is None:  # it has no choice of memories
        return Probed(of_world(world, model, stride=stride), None, None)
    return Probed(of_world(world, f"{model} ({chosen.name})", chosen=chosen, stride=stride), chosen, stride)


def subject_of(model: str, setting: Setting, steps: int | None = None, solver: str | None = None) -> Subject:
    """Who is probed, as `probed`; a checkpoint with the memory that it always has."""
    return probed(model, setting, steps, solver).subject


def grouped(keys: Sequence[Any], at_most: int | None = None) -> Iterator[list[int]]:
    """The places of equal keys together, in their order, `at_most` at a time."""
    places: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    for group in places.values():
        size = at_most or len(group)
        yield from (group[start : start + size] for start in range(0, len(group), size))


# -- checkpoints ----------------------------------------------------------------------------------


def of_world(
    world: World, name: str, rows: int = 16, chosen: Chosen | None = None, stride: int | None = None
) -> Subject:
    """A model of ours. It is shown of the prompt what a memory shows; what it was trained to see where none is chosen.

    A model that takes actions is told those of all frames (0 where a question has none), and the cameras that follow
    from them by dead reckoning.

    Each sample has its own noise, which depends on the episode and the sample alone: the branches of an episode share
    it, so that what differs between them has no other cause. Surprise, where the model has one, is measured under equal
    noise, too. `rows` are filled in together, `stride` frames at a time.

    Raises ValueError for a stride below 1 or longer than the window of the model.
    """
    watch = world.surprise_with_rng
    chosen = memory_of("window", world, True) if chosen is None else chosen
    memory, stride = chosen.memory, world.reach.stride if stride is None else stride
    if stride < 1 or (world.reach.window is not None and stride > world.reach.window):
        raise ValueError(f"a stride of {stride} frames: 1 or more, and no more than the window of the model")

    def told(asked: Asked, film: Clip) -> Clip:
        """With the actions and cameras of its frames, the first of the question's."""
        if world.reach.window is None:
            return film
        t, actions = film.frames.shape[2], torch.zeros(1, film.frames.shape[2], len(ACTIONS))
        if asked.question.actions is not None:
            actions = torch.from_numpy(asked.question.actions[:t]).float()[None]
        cameras = reckoned(actions, world.size[0])
        return dataclasses.replace(film, actions=actions if world.reach.actions else None, cameras=cameras)

    def prompt_and_ahead(asked: Asked) -> tuple[Clip, Clip]:
        prompt = of_uint8(torch.from_numpy(asked.question.prompt(asked.setting.tier)))
        t = prompt.frames.shape[2]
        whole = told(asked, join([prompt, ahead_of(prompt, asked.question.horizon)]))
        prompt, ahead = span(whole, 0, t), span(whole, t, whole.frames.shape[2])
        # A window sees nothing but the last frames: questions that differ only before them are asked together.
        return last(prompt, memory.length) if isinstance(memory, Window) else prompt, ahead

    @torch.no_grad()
    def answer(asked: Sequence[Asked]) -> list[np.ndarray]:
        clips = [prompt_and_ahead(one) for one in asked]
        many = [(place, sample) for place, one in enumerate(asked) for sample in range(one.question.num_samples)]
        lengths = [(clips[place][0].frames.shape[2], asked[place].question.horizon) for place, _ in many]
        fill = world.fill_of(chosen.reads, rows)
        drawn: dict[tuple[int, int], np.ndarray] = {}
        for group in grouped(lengths, rows):
            part = [many[row] for row in group]
            rng = Rng([_generator(asked[place], sample) for place, sample in part])
            prompt, ahead = (to(collate([clips[place][i] for place, _ in part]), world.device) for i in (0, 1))
            future = rollout(fill, prompt, ahead, memory, stride, rng)
            pixels = to_uint8(future.frames[:, 0]).cpu().numpy()
            drawn |= {which: pixels[row] for row, which in enumerate(part)}
        return [
            np.stack([drawn[place, sample] for sample in range(one.question.num_samples)])
            for place, one in enumerate(asked)
        ]

    def surprise(asked: Sequence[Asked]) -> list[np.ndarray]:
        assert watch is not None
        films = [told(one, of_uint8(torch.from_numpy(one.question.shown(one.setting.tier)))) for one in asked]
        found: dict[int, np.ndarray] = {}
        for group in grouped([(one.question.num_context, one.question.horizon) for one in asked], rows):
            rng = Rng([_generator(asked[place]) for place in group])
            clip = to(collate([films[place] for place in group]), world.device)
            each = watch(clip, asked[group[0]].question.num_context, rng).double().cpu().numpy()
            found |= dict(zip(group, each, strict=True))
        return [found[place] for place in range(len(asked))]

    return Subject(name, answer, surprise if watch is not None else None, actions=bool(world.reach.actions))


def _generator(asked: Asked, *more: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix(asked.family.number, asked.index, *more))


# -- functions ------------------------------------------------------------------------------------


def function_of(name: str) -> Callable[..., Any]:
    """MODULE:FUNCTION; the module by its name, from the working directory too, or a .py file by its path.

    Raises ValueError where it cannot be imported, or holds no such function.
    """
    module, colon, path = name.rpartition(":")
    if not (module and colon and path):
        raise ValueError(f"python:{name} is no python:MODULE:FUNCTION, such as python:my_model:predict")
    try:
        found = attrgetter(path)(_imported(module))
    except AttributeError as error:
        raise ValueError(f"python:{name}: {error}") from None
    except Exception as error:
        # importing runs what others wrote: anything may come out of it
        raise ValueError(f"python:{name}: {module} cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(found):
        raise ValueError(f"python:{name} is {type(found).__name__}, which cannot be called")
    return found


def _imported(module: str) -> Any:
    if module.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"probed_{Path(module).stem}", module)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = made
        spec.loader.exec_module(made)
        return made
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(Path.cwd()))


def of_function(predict: Callable[..., Any], name: str) -> Subject:
    """Any function on pixels.

    predict(context uint8 [b, tc, h, w, 3], actions float32 [b, tc + th, 9] or None, horizon, num_samples, seed)
    -> uint8 [b, num_samples, th, h, w, 3]. Two attributes of it are asked for:

    actions    False: it takes none, and is asked no questions that have them
    surprise   (video uint8 [b, t, h, w, 3], actions or None) -> [b, t]: how unexpected each frame is

    A call has questions of one length; its seed follows from the first of them.
    """
    acts, watch = getattr(predict, "actions", True), getattr(predict, "surprise", None)
    if not isinstance(acts, bool):
        raise ValueError(f"{name}: its attribute `actions` is True or False, not {acts!r}")
    if watch is not None and not callable(watch):
        raise ValueError(f"{name}: its attribute `surprise` is a function, not {type(watch).__name__}")

    def done(asked: Sequence[Asked]) -> np.ndarray | None:
        actions = [one.question.actions for one in asked]
        return None if actions[0] is None else np.stack(actions).astype(np.float32)  # type: ignore[arg-type]

    def answer(asked: Sequence[Asked]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for group in grouped([_length(one) for one in asked]):
            part = [asked[place] for place in group]
            context = np.stack([one.question.prompt(one.setting.tier) for one in part])
            first = part[0]
            seed = mix(first.family.number, first.index, first.branch) % 2**31
            made = predict(context, done(part), first.question.horizon, first.question.num_samples, seed)
            found |= dict(zip(group, _each(made, len(part)), strict=True))
        return [found[place] for place in range(len(asked))]

    def surprise(asked: Sequence[Asked]) -> list[np.ndarray]:
        assert watch is not None
        found: dict[int, np.ndarray] = {}
        for group in grouped([_length(one) for one in asked]):
            part = [asked[place] for place in group]
            films = np.stack([one.question.shown(one.setting.tier) for one in part])
            made = _each(watch(films, done(part)), len(part))
            if made.shape != films.shape[:2]:
                raise ValueError(f"surprise is one number for each frame, {films.shape[:2]}, not {made.shape}")
            found |= dict(zip(group, made[:, part[0].question.num_context :], strict=True))
        return [found[place] for place in range(len(asked))]

    return Subject(name, answer, surprise if watch is not None else None, actions=acts)


def _length(asked: Asked) -> tuple[int, int, int, bool]:
    question = asked.question
    return question.num_context, question.horizon, question.num_samples, question.actions is None


def _each(made: Any, many: int) -> np.ndarray:
    if not isinstance(made, np.ndarray):
        raise ValueError(f"the function returned {type(made).__name__}, not a NumPy array")
    if made.ndim == 0 or len(made) != many:
        raise ValueError(
            f"the function returned an array of {made.shape} for {many} questions: the first axis is theirs"
        )
    return made
