"""Plan, then render: the causal family with a drawing of where the objects will be (64 x 64, RGB).

After State and Dynamics (Wang et al., arXiv 2601.17067), Sec. 5: knowledge of what happens stands in a plan, and the
network turns it into pictures. Here the plans are the simulator's, of the training episodes of the probes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskworld import masks
from maskworld.clip import Clip, collate, to
from maskworld.noise import Rng
from maskworld.papers import forcing
from maskworld.papers.forcing import Config, mini
from maskworld.planners import draw, of_track
from maskworld.probes.base import ACTIONS
from maskworld.probes.films import PARTS, Films, question_of
from maskworld.probes.stage import VIEW
from maskworld.recipes.forcing import recipe
from maskworld.train import Recipe
from maskworld.verbs import Draw, Known

PERIODS = (8.0, 32.0)  # frames in which a wrong plan swings to and fro

# -- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """Films with a second view: the drawing of the simulator's plan for the same frames.

    Clip number `index` is a function of the fields and the index alone.

    p_wrong   how often every object of the plan is off its place, by a distance that swings slowly
    wrong     the most that it is off, in pixels
    p_none    how often the plan is empty, whatever is there
    """

    films: Films
    p_wrong: float = 0.0
    wrong: float = 2.0
    p_none: float = 0.0

    def __post_init__(self) -> None:
        if min(self.p_wrong, self.p_none) < 0 or self.p_wrong + self.p_none > 1:
            raise ValueError(f"p_wrong + p_none is a probability, from 0 to 1, not {self.p_wrong} + {self.p_none}")
        if self.wrong < 0:
            raise ValueError(f"a plan is off by 0 pixels or more, not {self.wrong}")

    @property
    def channels(self) -> int:
        return self.films.channels

    def __call__(self, index: int) -> Clip:
        clip, piece = self.films(index), self.films.piece(index)
        state = of_track(question_of(piece).track.at(list(piece.frames)))
        assert clip.cameras is not None
        rng = Rng.of(self.films.seed, PARTS.index(self.films.split), index, 1)
        kind = float(rng.uniform(())[0])
        place = state.position - clip.cameras.pose[:, 0, :, None, :2, 3]
        if kind < self.p_wrong:
            place = place + self.wrong * swing(clip.times, place.shape[2], rng)
        size = state.radius * state.there * (kind < 1 - self.p_none)
        plan = draw(place, size, state.colour, VIEW)
        return dataclasses.replace(clip, frames=torch.cat([clip.frames, plan[:, None]], dim=1))


def swing(times: Tensor, n: int, rng: Rng) -> Float[Tensor, "b t n 2"]:
    """How far n objects are off, 1 at most: each on a line of its own, to and fro as a sine of time."""
    length, turn, period, phase = rng.uniform((4, n)).unbind(1)
    low, high = PERIODS
    speed = 2 * math.pi / (low + (high - low) * period)
    along = length[:, None] * torch.sin(times[..., None] * speed[:, None] + 2 * math.pi * phase[:, None])
    angle = 2 * math.pi * turn[:, None]
    return torch.stack([along * angle.cos(), along * angle.sin()], dim=-1)


def with_plan(draws: Draw) -> Draw:
    """What is known is drawn for the first view; the plan is known at every frame."""

    def run(b: int, v: int, t: int, rng: Rng) -> Known:
        known = draws(b, v, t, rng).clone()
        known[:, 1:] = True
        return known

    return run


# -- recipe ---------------------------------------------------------------------------------------


def forcing_plans(
    config: Config = mini(actions=len(ACTIONS), plan=True),
    families: tuple[str, ...] = ("P3", "P4", "C1", "C2", "C3"),
    shares: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0),
    history: int = 8,
    ahead: int = 4,
    batch: int = 8,
    lr: float = 1.5e-3,
    p_wrong: float = 0.4,
    wrong: float = 2.0,
    p_none: float = 0.15,
    p_other: float = 0.0,
    seed: int = 0,
    look_every: int = 1000,
) -> Recipe:
    """Train the causal family to render plans, on the train split of the probes.

    Args:
        config: the network, which takes a plan.
        families: of the probes, by id.
        shares: how often each is drawn, in proportion.
        history: frames before what is ahead; they may lie far back, with gaps.
        ahead: frames to fill in.
        batch: clips a step.
        lr: learning rate after the warm-up.
        p_wrong: how often the plan's objects are off their places, so that it is not trusted to the pixel.
        wrong: the most that they are off then, in pixels.
        p_none: how often the plan is empty, so that the network also works without one.
        p_other: how often the history is not what is known, but both ends, the end, or nothing.
        seed: of the weights, the data, what is hidden and the noise.
        look_every: steps between two strips of samples.
    """
    if not config.plan:
        raise ValueError("this recipe's network takes a plan: --config.plan")
    data, valid = (
        Planned(Films(families, shares, history, ahead, split, seed), p_wrong, wrong, p_none)
        for split in ("train", "valid")
    )
    about = {"name": "probes", "families": list(families), "shares": list(shares), "fps": 8.0}
    made = recipe(
        config, data, valid, about, batch, lr, history, ahead, False, 3, p_other, 0.0, 0.0, seed, look_every
    )  # fmt: skip
    look = Look(dataclasses.replace(valid, p_wrong=0.0, p_none=0.0), history)
    return dataclasses.replace(made, draw=with_plan(made.draw), look=look)


@dataclass(frozen=True)
class Look:
    """Draws a strip of samples: what happens, its plan, what is made of it, and what is made without one."""

    data: Planned
    history: int
    num_clips: int = 3

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, forcing.Forcing)
        truth = to(collate([self.data(i) for i in range(self.num_clips)]), next(net.parameters()).device)
        b, v, t = truth.shape[:3]
        known = with_plan(masks.prefix(self.history, self.history))(b, v, t, Rng.of(step, batch=b))
        known = known.to(truth.frames.device)
        none = truth.frames.clone()
        none[:, 1] = -1.0
        fill = forcing.fill(net)
        rows = [Row.of("truth", truth.frames[i, 0]) for i in range(b)]
        rows += [Row.of("plan", truth.frames[i, 1]) for i in range(b)]
        for name, clip in (("rendered", truth), ("no plan", dataclasses.replace(truth, frames=none))):
            drawn = fill(clip, known, Rng.of(step, batch=b))
            rows += [Row.of(name, drawn.frames[i, 0], known[i, 0]) for i in range(b)]
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)
