"""Who is probed: a checkpoint of ours, any Python function, or one of the references."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld.clip import Clip, collate, of_uint8, span, to, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.memory.window import Window
from maskworld.noise import Rng, mix
from maskworld.probes.base import Asked, Setting, Subject
from maskworld.probes.references import reference
from maskworld.probes.stage import SIDE
from maskworld.rollout import ahead_of, rollout
from maskworld.world import World, load


def subject_of(model: str, setting: Setting, steps: int | None = None, solver: str | None = None) -> Subject:
    """`reference:NAME`, `python:MODULE:FUNCTION`, or a checkpoint by path, by name or as `hub:owner/name`.

    Raises ValueError where there is none such, and where a checkpoint's frames are not those of the setting.
    """
    kind, _, rest = model.partition(":")
    if kind in ("reference", "python") and (steps is not None or solver is not None):
        raise ValueError(f"only a checkpoint is sampled with --steps and --solver, not {model}")
    if kind == "reference":
        return reference(rest)
    if kind == "python":
        return of_function(function_of(rest), model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(model, device).sampled(steps, solver, fast_precision(device))
    config, side = world.config, SIDE[setting.tier]
    if (config.channels, config.size) != (3, side):
        colours = "grey" if config.channels == 1 else f"{config.channels}-channel"
        have = "RGB" if config.channels == 3 else colours
        raise ValueError(
            f"{model} makes {have} frames of {config.size} x {config.size}; "
            f"the {setting.tier} tier of the probes is RGB of {side} x {side}"
        )
    return of_world(world, model)


def grouped(keys: Sequence[Any], at_most: int | None = None) -> Iterator[list[int]]:
    """The places of equal keys together, in their order, `at_most` at a time."""
    places: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    for group in places.values():
        size = at_most or len(group)
        yield from (group[start : start + size] for start in range(0, len(group), size))


# -- checkpoints ----------------------------------------------------------------------------------


def of_world(world: World, name: str, rows: int = 16) -> Subject:
    """A model of ours, which takes no actions. It is shown of the prompt what it was trained to see.

    Each sample has its own noise, which depends on the episode and the sample alone: the branches of an episode share
    it, so that what differs between them has no other cause. Surprise, where the model has one, is measured under equal
    noise, too. `rows` are filled in together.
    """
    config = world.config
    watch = world.surprise_with_rng
    memory = Window(max(config.past, 1))

    def seen(question: Asked) -> Clip:
        prompt = of_uint8(torch.from_numpy(question.question.prompt(question.setting.tier)))
        t = prompt.frames.shape[2]
        return span(prompt, max(t - memory.length, 0), t)

    def answer(asked: Sequence[Asked]) -> list[np.ndarray]:
        prompts = [seen(one) for one in asked]
        many = [(place, sample) for place, one in enumerate(asked) for sample in range(one.question.num_samples)]
        lengths = [(prompts[place].frames.shape[2], asked[place].question.horizon) for place, _ in many]
        drawn: dict[tuple[int, int], np.ndarray] = {}
        for group in grouped(lengths, rows):
            part = [many[row] for row in group]
            rng = Rng([_generator(asked[place], sample) for place, sample in part])
            prompt = to(collate([prompts[place] for place, _ in part]), world.device)
            ahead = ahead_of(prompt, asked[part[0][0]].question.horizon)
            future = rollout(world.fill_with_rng, prompt, ahead, memory, config.current, rng)
            pixels = to_uint8(future.frames[:, 0]).cpu().numpy()
            drawn |= {which: pixels[row] for row, which in enumerate(part)}
        return [
            np.stack([drawn[place, sample] for sample in range(one.question.num_samples)])
            for place, one in enumerate(asked)
        ]

    def surprise(asked: Sequence[Asked]) -> list[np.ndarray]:
        assert watch is not None
        films = [of_uint8(torch.from_numpy(one.question.shown(one.setting.tier))) for one in asked]
        found: dict[int, np.ndarray] = {}
        for group in grouped([(one.question.num_context, one.question.horizon) for one in asked], rows):
            rng = Rng([_generator(asked[place]) for place in group])
            clip = to(collate([films[place] for place in group]), world.device)
            each = watch(clip, asked[group[0]].question.num_context, rng).double().cpu().numpy()
            found |= dict(zip(group, each, strict=True))
        return [found[place] for place in range(len(asked))]

    return Subject(name, answer, surprise if watch is not None else None, actions=False)


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
