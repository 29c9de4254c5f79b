"""`maskworld train RECIPE`: the recipe's own fields and those of the run, from one command line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json as json_
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.conf import arg

from maskworld.train import Recipe

ARGS = "Args:\n"
Out = Annotated[Path, arg(aliases=["-o"])]


def recipes() -> dict[str, Callable[..., Recipe]]:
    """Every recipe by its name at the command line."""
    from maskworld.recipes.forcing_discs import forcing_discs
    from maskworld.recipes.forcing_plans import forcing_plans
    from maskworld.recipes.maskgwm_drive import maskgwm_drive
    from maskworld.recipes.maskgwm_video import maskgwm_video
    from maskworld.recipes.mcvd_digits import mcvd_digits
    from maskworld.recipes.mcvd_discs import mcvd_discs
    from maskworld.recipes.mcvd_video import mcvd_video
    from maskworld.recipes.mim4d_drive import mim4d_drive
    from maskworld.recipes.tokenizer import tokenizer
    from maskworld.recipes.vae import vae
    from maskworld.recipes.voc_episodes import voc_episodes
    from maskworld.recipes.voc_toys import voc_chain, voc_clock

    return {
        function.__name__.replace("_", "-"): function
        for function in (
            forcing_discs,
            forcing_plans,
            maskgwm_drive,
            maskgwm_video,
            mcvd_digits,
            mcvd_discs,
            mcvd_video,
            mim4d_drive,
            tokenizer,
            vae,
            voc_chain,
            voc_clock,
            voc_episodes,
        )
    }


def run(
    recipe: Recipe,
    out: Out,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    start: str | None = None,
    workers: int = 1,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Train, and say how it went.

    Args:
        out: folder of the run: weights, state, metrics and strips of samples.
        steps: steps in all, earlier ones of a resumed run counted in.
        minutes: wall time of this call; what is done by then is saved and can be resumed.
        resume: go on with the training in OUT.
        start: begin with the weights of this checkpoint (a path, a name of the zoo, hub:OWNER/NAME) and not at random.
        workers: processes that make data; 0 makes it between the steps.
        threads: cores of the training itself; all otherwise.
        json: end with one line of JSON.
    """
    import torch

    from maskworld import train
    from maskworld.commands.doctor import fast_precision, use_threads

    use_threads(threads)
    for reason in dict.fromkeys(reason for clips in (recipe.data, recipe.valid) for reason in left_out(clips)):
        print(f"maskworld: {reason}", file=sys.stderr)
    if start is not None and not resume:
        begin_with(recipe, start)
    bf16 = fast_precision("cuda" if torch.cuda.is_available() else "cpu") == torch.bfloat16
    last = train.train(
        recipe,
        out,
        steps=steps,
        minutes=minutes,
        resume=resume,
        workers=workers,
        precision="bf16" if bf16 else "no",
    )
    numbers = {name: value for name, value in last.items() if isinstance(value, int | float)}
    if json:
        print(json_.dumps({"run": str(out), **numbers}))
    else:
        print(f"{out}: " + ", ".join(f"{name} {value:.5g}" for name, value in numbers.items()))
    return 0


def left_out(clips: object) -> tuple[str, ...]:
    """Which videos are broken or too short, and why; nothing of what is no folder of videos."""
    return getattr(clips, "left_out", ())


@contextmanager
def told() -> Iterator[None]:
    """Each warning as one line of stderr, without the place in the code that it comes from."""

    def show(message: Warning | str, *_: object) -> None:
        print(f"maskworld: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def begin_with(recipe: Recipe, start: str) -> None:
    """Give the recipe's network these weights. Learned memories and view attention that the checkpoint lacks, and what
    training alone has, are added to it as they are.

    Raises ValueError where the weights are not of such a network.
    """
    from maskworld import checkpoint
    from maskworld.world import TRAINING_ONLY, begin_memories, begin_target

    path = checkpoint.find(start)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    state = recipe.net.state_dict()
    wanted = {name: value.shape for name, value in state.items()}
    tensors = {n: value for n, value in tensors.items() if n in wanted or not n.startswith(TRAINING_ONLY)}
    added = {n for n in wanted if n not in tensors and (n.startswith(("memories.", *TRAINING_ONLY)) or _of_views(n))}
    there = {name: shape for name, shape in wanted.items() if name not in added}
    if about.get("family") != recipe.about["family"] or {k: v.shape for k, v in tensors.items()} != there:
        raise ValueError(f"--start {start}: its weights do not fit this recipe's network; {path} says {about}")
    recipe.net.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    begin_memories(recipe.net, {name.split(".")[1] for name in added if name.startswith("memories.")})
    begin_target(recipe.net)


def _of_views(name: str) -> bool:
    """Whether a weight is of what only a model of several views has."""
    return name == "view" or ".view." in name


def train_command(name: str, argv: list[str]) -> int:
    """Parse the rest of the command line for this recipe, and train it."""
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"no recipe is called {name}; {hint}")
    both = _joined(known[name], run)
    values = vars(tyro.cli(both, prog=f"maskworld train {name}", args=argv, config=(tyro.conf.FlagCreatePairsOff,)))
    own = inspect.signature(known[name]).parameters
    with told():
        recipe = known[name](**{key: values[key] for key in own})
    return run(recipe, **{key: value for key, value in values.items() if key not in own})


def _joined(make: Callable[..., Recipe], use: Callable[..., int]) -> type:
    """A dataclass with the fields of both, except for the recipe itself, for tyro to read."""
    fields: dict[str, tuple[str, Any, Any]] = {}
    for function in (use, make):
        hints = get_type_hints(function, include_extras=True)
        for name, parameter in inspect.signature(function).parameters.items():
            assert name not in fields, f"both have {name}"
            needed = parameter.default is parameter.empty
            fields[name] = (name, hints[name], dataclasses.field(default=MISSING if needed else parameter.default))
    del fields["recipe"]
    both = dataclasses.make_dataclass("Arguments", fields.values(), kw_only=True, frozen=True)
    summary, own = inspect.getdoc(make).split(ARGS)  # type: ignore[union-attr]
    both.__doc__ = f"{summary}{ARGS}{inspect.getdoc(use).split(ARGS)[1]}\n{own}"  # type: ignore[union-attr]
    return both
