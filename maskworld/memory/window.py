"""The last frames, and nothing before them: the memory of every model that has none."""

from __future__ import annotations

from dataclasses import dataclass

from maskworld.clip import Clip, join, span


@dataclass(frozen=True)
class Window:
    """Keeps `length` frames; the state is the clip of them. Raises ValueError for a window without frames."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a window of {self.length} frames shows nothing; it needs 1 or more")

    def start(self, clip: Clip) -> Clip:
        t = clip.frames.shape[2]
        return span(clip, max(t - self.length, 0), t)

    def recall(self, state: Clip, ahead: Clip) -> Clip:
        return state

    def store(self, state: Clip, new: Clip) -> Clip:
        return self.start(join([state, new]))
