"""What the recipes of the causal family have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskworld import masks
from maskworld.clip import Clip, collate, to
from maskworld.memory.canvas import Canvas
from maskworld.noise import Rng, mix
from maskworld.papers import forcing
from maskworld.train import Recipe, inverse_sqrt, power_ema
from maskworld.world import begin_memories, evicting, network


def recipe(
    config: forcing.Config,
    data: Callable[[int], Clip],
    valid: Callable[[int], Clip],
    about: Mapping[str, Any],
    batch: int,
    lr: float,
    history: int,
    ahead: int,
    canvas: bool,
    recent: int,
    p_other: float,
    pairs: float,
    resample: float,
    seed: int,
    look_every: int,
) -> Recipe:
    """A recipe for clips of `history` + `ahead` frames. `about` says how to make the data again.

    Most batches know the history, in part or whole, and are to find what is ahead; with probability `p_other` they
    know both ends, the end, or nothing. Examples take the memories in turn: none, which shows the history as it is,
    then each learned one of the configuration, and a canvas.
    """
    torch.manual_seed(mix(seed))  # the weights
    net = network(config)
    assert isinstance(net, forcing.Forcing)
    begin_memories(net, config.memories)
    t = history + ahead
    draw = masks.together(
        [
            (1 - p_other, masks.together([(0.75, masks.prefix(history, history)), (0.25, masks.prefix(1, history))])),
            (p_other * 0.4, masks.between(history // 2, t - history // 2 - ahead)),
            (p_other * 0.3, masks.between(0, t - ahead)),
            (p_other * 0.3, masks.prefix(0, 0)),
        ]
    )
    return Recipe(
        about={"family": "forcing", "config": dataclasses.asdict(config), "data": dict(about)},
        net=net,
        objective=forcing.objective(shows(net, recent, t if canvas else 0), pairs=pairs, resample=resample),
        draw=draw,
        data=data,
        valid=valid,
        lr=inverse_sqrt(lr, 100, 4000),
        ema=power_ema(0.1),
        batch=batch,
        betas=(0.9, 0.99),
        seed=seed,
        look=Look(valid, history),
        look_every=look_every,
        valid_clips=64,
    )


def shows(net: forcing.Forcing, recent: int, canvas: int) -> list[forcing.Show]:
    """The memories to train with: none, each learned one, and a canvas that is warped into up to `canvas` frames ahead
    (0: none); all but the first show `recent` frames as they are."""
    found: list[forcing.Show] = [(None, lambda history, ahead: history)]
    for name in net.config.memories:
        memory = evicting(net, name, recent)
        found.append((name, lambda history, ahead, memory=memory: memory.recall(memory.start(history), ahead)))
    if canvas:

        def warped(history: Clip, ahead: Clip) -> Clip:
            screen = Canvas(recent, ahead=ahead.shape[2])  # short prefixes leave more ahead than a roll-out does
            return screen.recall(screen.start(history), ahead)

        found.append((None, warped))
    return found


@dataclasses.dataclass(frozen=True)
class Look:
    """Draws a strip of samples: what is ahead, what was before, and what lies between."""

    data: Callable[[int], Clip]
    history: int
    num_clips: int = 3

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, forcing.Forcing)
        truth = to(collate([self.data(i) for i in range(self.num_clips)]), next(net.parameters()).device)
        t = truth.frames.shape[2]
        fill = forcing.fill(net)
        rows = [Row.of("truth", truth.frames[i, 0]) for i in range(self.num_clips)]
        for name, past, future in (
            ("predict", self.history, 0),
            ("look back", 0, self.history),
            ("interpolate", t // 3, t // 3),
        ):
            known = masks.past_and_future(past, t - past - future, future, self.num_clips).to(truth.frames.device)
            drawn = fill(truth, known, Rng.of(step, batch=self.num_clips))
            rows += [Row.of(name, drawn.frames[i, 0], known[i, 0]) for i in range(self.num_clips)]
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)
