"""The last frames, and nothing before them: the memory of every model that has none."""

from __future__ import annotations

from dataclasses import dataclass

from maskworld.clip import Clip
from maskworld.memory.base import Cost, after, alike, last


@dataclass(frozen=True)
class Window:
    """Keeps `length` frames; the state is the clip of them. Raises ValueError for a window without frames."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a window of {self.length} frames shows nothing; it needs 1 or more")

    @property
    def cost(self) -> Cost:
        return Cost(shown=self.length, tokens=0, kept=self.length)

    def start(self, clip: Clip) -> Clip:
        return last(clip, self.length)

    def recall(self, state: Clip, ahead: Clip) -> Clip:
        return alike(state, ahead)

    def store(self, state: Clip, new: Clip) -> Clip:
        return self.start(after(state, new))
