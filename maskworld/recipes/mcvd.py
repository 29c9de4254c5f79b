"""What the recipes of MCVD have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskworld import masks
from maskworld.clip import Clip, collate, to
from maskworld.masks import past_and_future
from maskworld.noise import Rng, mix
from maskworld.papers import mcvd
from maskworld.train import Recipe, constant_ema, inverse_sqrt, power_ema, warm_up


def recipe(
    config: mcvd.Config,
    data: Callable[[int], Clip],
    valid: Callable[[int], Clip],
    about: Mapping[str, Any],
    batch: int,
    lr: float,
    p_hide: tuple[float, float, float],
    seed: int,
    look_every: int,
    probes: Probes | None = None,
    probes_every: int = 2000,
) -> Recipe:
    """A recipe for a data set; `p_hide` is (past, future, part). `about` says how to make the data again."""
    torch.manual_seed(mix(seed))  # the weights
    net = mcvd.MCVD(config)
    ours = config.weight == "min_snr"
    sides = (config.past, config.current, config.future)
    draw = masks.mcvd_partial(*sides, *p_hide) if config.partial else masks.mcvd(*sides, *p_hide[:2])
    return Recipe(
        about={"family": "mcvd", "config": dataclasses.asdict(config), "data": dict(about)},
        net=net,
        objective=mcvd.objective,
        draw=draw,
        data=data,
        valid=valid,
        # differs: the paper keeps the rate, and averages with 0.999 from the first step on.
        lr=inverse_sqrt(lr, 200, 4000) if ours else warm_up(lr, 1000),
        ema=power_ema(0.1) if ours else constant_ema(0.999),
        batch=batch,
        betas=(0.9, 0.99) if ours else (0.9, 0.999),
        seed=seed,
        look=Look(config, valid),
        look_every=look_every,
        probes=probes,
        probes_every=probes_every,
    )


class Probes:
    """Asks the network in training whether its world persists and causes have effects: a few episodes a family.

    Raises ValueError for a family that there is not, for one that wants actions, and for frames that are not the
    probes'.
    """

    def __init__(self, config: mcvd.Config, families: Sequence[str], episodes: int):
        from maskworld.probes.suite import Monitor, Suite, families_of

        if (config.channels, config.size) != (3, 64):
            raise ValueError("probes ask for RGB frames of 64 x 64: leave them out with --probe-every 0")
        asked = families_of(families)
        for family in asked:
            if family.acts:
                raise ValueError(f"{family.id} wants a model that takes actions, which this one does not")
        self.config, self.monitor = config, Monitor(Suite(asked, episodes))

    def __call__(self, net: nn.Module, step: int) -> Mapping[str, float]:
        from maskworld.commands.subjects import of_world
        from maskworld.world import World

        return self.monitor(of_world(World(net, self.config, {}), "in training"))


@dataclasses.dataclass(frozen=True)
class Look:
    """Draws a strip of samples for each of the paper's cases that the model can honour."""

    config: mcvd.Config
    data: Callable[[int], Clip]
    num_clips: int = 2

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, mcvd.MCVD)
        past, current, future = self.config.past, self.config.current, self.config.future
        truth = to(collate([self.data(i) for i in range(self.num_clips)]), next(net.parameters()).device)
        fill = mcvd.fill(net, mcvd.default_sampling(self.config))
        cases = {
            "predict": (True, False),
            "look back": (False, True),
            "interpolate": (True, True),
            "generate": (False,) * 2,
        }
        rows = []
        for i in range(self.num_clips):
            rows.append(Row.of("truth", truth.frames[i, 0]))
        for name, (left, right) in cases.items():
            if (left and not past) or (right and not future):
                continue
            known = past_and_future(past, current, future, self.num_clips)
            known[:, :, :past] &= left
            known[:, :, past + current :] &= right
            drawn = fill(truth, known.to(truth.frames.device), Rng.of(step, batch=self.num_clips))
            for i in range(self.num_clips):
                rows.append(Row.of(name, drawn.frames[i, 0], known[i, 0]))
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)
