"""Consolidation: the first frames, the last ones, and between them a fixed number of old ones, sorted anew after
every piece.

The rule: a frame that leaves the window takes a slot. Where the slots are full, one of the older ones is given up:
the one whose neighbours in time lie closest together (spacing "even"), or closest together for its age (spacing
"growing"). So the slots always reach over all of the past, in gaps that are about equal or that grow with age, and
a roll-out without end keeps a state of constant size.

Inspired by FAR (Gu et al. 2025, "Long-context autoregressive video modeling with next-frame prediction": long
context in coarse patches beside a short one in fine patches) and StreamingT2V (Henschel et al. 2024: the last frames
of a piece, and an anchor frame for the whole).
differs: both learn how the old frames are made coarse, in space or in features. Nothing is learned here: the past is
coarse in time alone, and its frames keep all their pixels. The rule of the slots is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from maskworld.clip import Clip, join, span
from maskworld.memory.base import Cost, after, alike, last, pick


@dataclass(frozen=True)
class Consolidate:
    """Keeps `first` frames, `old` slots and the `recent` frames; the state is the clip of them, in order of time.

    The state does not depend on how the frames were cut into pieces. Without first frames, the oldest frame that
    came into a slot stays there. Raises ValueError for less than one recent frame or one slot.
    """

    first: int
    recent: int
    old: int
    spacing: Literal["growing", "even"] = "growing"

    def __post_init__(self) -> None:
        if self.first < 0 or self.recent < 1 or self.old < 1:
            raise ValueError(
                f"{self.first} first, {self.old} old and {self.recent} recent frames: consolidation needs 0, 1 and 1 "
                "or more of them"
            )
        if self.spacing not in ("growing", "even"):
            raise ValueError(f"a spacing of {self.spacing!r}: it is 'growing' or 'even'")

    @property
    def cost(self) -> Cost:
        total = self.first + self.old + self.recent
        return Cost(shown=total, tokens=0, kept=total)

    def start(self, clip: Clip) -> Clip:
        t = clip.frames.shape[2]
        if t <= self.first + self.old + self.recent:
            return clip
        between = span(clip, self.first, t - self.recent)
        begins = [span(clip, 0, self.first)] if self.first else []
        before = clip.times[:, self.first - 1] if self.first else None
        return join([*begins, pick(between, self._slots(between.times, before)), last(clip, self.recent)])

    def recall(self, state: Clip, ahead: Clip) -> Clip:
        return alike(state, ahead)

    def store(self, state: Clip, new: Clip) -> Clip:
        return self.start(after(state, new))

    def _slots(self, times: Int[Tensor, "b n"], before: Int[Tensor, " b"] | None) -> Int[Tensor, "b k"]:
        """Which of the frames at these times are in the slots after all of them came in, one after another."""
        b, n = times.shape
        start = torch.full((b, 1), -torch.inf, device=times.device)
        if before is not None:
            start = before[:, None].to(start)
        kept = torch.arange(self.old, device=times.device).expand(b, -1)
        for new in range(self.old, n):
            kept = torch.cat([kept, torch.full_like(kept[:, :1], new)], dim=1)
            at = times.gather(1, kept).to(start)
            gap = at[:, 1:] - torch.cat([start, at[:, :-2]], dim=1)  # between the neighbours of each but the newest
            if self.spacing == "growing":
                gap = gap / (at[:, -1:] - at[:, :-1])
            given_up = gap.argmin(1, keepdim=True)
            place = torch.arange(self.old, device=times.device)
            kept = kept.gather(1, place + (place >= given_up).long())
        return kept
