"""The three call signatures of every family: Objective, Fill, Predict; and Loss.

A contract is a call signature with laws (tests/test_laws.py), not a base class:
what is known comes back bit for bit, and what is unknown is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.noise import Rng

Known = Bool[Tensor, "b v t gh gw"]
"""True = given, False = to fill in. A grid of (1, 1) knows whole frames, (h, w) knows pixels."""

Draw = Callable[[int, int, int, Rng], Known]
"""(b, v, t, rng) -> what is known, drawn at random for training."""


class Loss(NamedTuple):
    """One number per example and name. The loop averages; nothing is averaged before.

    terms   what is brought down
    told    what is only reported: how often something had to be left out
    """

    terms: dict[str, Float[Tensor, " b"]]
    told: Mapping[str, Float[Tensor, " b"]] = MappingProxyType({})

    @property
    def total(self) -> Float[Tensor, " b"]:
        return sum(self.terms.values())  # type: ignore[return-value]


Objective = Callable[[nn.Module, Clip, Known, Rng], Loss]
"""How badly the rest is filled in."""

Fill = Callable[[Clip, Known, Rng], Clip]
"""Fill in the rest."""

Predict = Callable[[Clip, Clip, Rng], Clip]
"""(prompt, ahead, rng) -> what happens; `ahead` has times, actions and cameras, and no frames to read."""

Surprise = Callable[[Clip, int, Rng], Float[Tensor, "b n"]]
"""(clip, start, rng) -> how unexpected each frame from `start` on is, after those before it. Only its order counts."""
