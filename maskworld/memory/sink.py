"""Attention sink and window: the first frames for ever, and the last ones.

Source: StreamingLLM (Xiao et al. 2023, "Efficient streaming language models with attention sinks"), which keeps the
keys and values of a text's first tokens beside a sliding window; LongLive (Yang et al. 2025) does so with the first
frames of a video.
"""

from __future__ import annotations

from dataclasses import dataclass

from maskworld.clip import Clip, join, span
from maskworld.memory.base import Cost, after, alike, last


@dataclass(frozen=True)
class Sink:
    """Keeps `first` frames from the beginning and the `recent` ones; the state is the clip of them.

    A clip that is no longer than both together is kept whole. Raises ValueError for fewer than 1 of either.
    """

    first: int
    recent: int

    def __post_init__(self) -> None:
        if self.first < 1 or self.recent < 1:
            raise ValueError(
                f"{self.first} first and {self.recent} recent frames: 1 or more of each are needed "
                "(a window keeps recent ones alone)"
            )

    @property
    def cost(self) -> Cost:
        return Cost(shown=self.first + self.recent, tokens=0, kept=self.first + self.recent)

    def start(self, clip: Clip) -> Clip:
        if clip.frames.shape[2] <= self.first + self.recent:
            return clip
        return join([span(clip, 0, self.first), last(clip, self.recent)])

    def recall(self, state: Clip, ahead: Clip) -> Clip:
        # differs: StreamingLLM counts places within the cache (Sec. 3.2); frames keep their true times here, and how
        # far they lie apart is for the model to read.
        return alike(state, ahead)

    def store(self, state: Clip, new: Clip) -> Clip:
        return self.start(after(state, new))
