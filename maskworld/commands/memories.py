"""Memories by their names at the command line, all on one budget: what a model is shown of the past, window in all."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal

from maskworld.memory.base import Memory
from maskworld.memory.canvas import Canvas
from maskworld.memory.consolidate import Consolidate
from maskworld.memory.evict import Evicting
from maskworld.memory.retrieve import Retrieve
from maskworld.memory.sink import Sink
from maskworld.memory.window import Window
from maskworld.papers.forcing import Forcing
from maskworld.world import BRICKS, World, evicting

# -- by name ----------------------------------------------------------------------------------------

BANK = 256  # frames that retrieval keeps: beyond, every piece would spend a tenth of its time on copying them
PLAIN = ("window", "sink", "retrieve", "retrieve-camera", "retrieve-likeness", "consolidate", "canvas")
"""Memories that need nothing learned: any model of the causal family can be shown what they show."""


@dataclass(frozen=True)
class Chosen:
    """A memory by its name, and its budget in frames; `reads` names the learned one of the model that it keeps."""

    name: str
    memory: Memory[Any]
    window: int
    reads: str | None = None

    @property
    def numbers(self) -> int:
        """In the state of a learned memory, for one example; 0 for others."""
        return self.memory.size if isinstance(self.memory, Evicting) else 0

    def as_dict(self) -> dict[str, Any]:
        """Its name, budget and cost, for JSON."""
        return {"name": self.name, "window": self.window, **self.memory.cost._asdict(), "numbers": self.numbers}

    def told(self) -> str:
        """Its name and cost, for people."""
        cost = self.memory.cost
        shows = f"{cost.shown} frames" + (f" and {cost.tokens} tokens" if cost.tokens else "")
        keeps = "all frames" if cost.kept is None else f"{cost.kept} frames"
        by = f" by {self.memory.by}" if isinstance(self.memory, Retrieve) and self.name == "retrieve" else ""
        return f"{self.name}{by} (shows {shows}, keeps {keeps}{f' and {self.numbers} numbers' if self.numbers else ''})"


def memory_of(name: str, world: World, cameras: bool, window: int | None = None, stride: int | None = None) -> Chosen:
    """The memory of this name within a budget of `window` frames shown, or of all that the model takes.

    What a memory shows beside the last frames takes their place: a quarter of the window for a sink and for what is
    retrieved, three eighths for consolidation, a frame for each one ahead for a canvas, and for learned tokens the
    frames that have as many. `cameras` says whether the clip has them; `stride` is how many frames lie ahead at once.

    Raises ValueError for a name that there is not, for a memory that the model does not hold, for one that needs
    cameras where there are none, and for a window that is too large or too small for it.
    """
    known = (*PLAIN, *BRICKS)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"no memory is called {name}; {hint}")
    if world.reach.window is None:
        if name != "window" or window is not None:
            raise ValueError(
                f"this model sees only the {world.reach.past} frames before: its one memory is a window of that size"
            )
        return Chosen(name, Window(max(world.reach.past, 1)), max(world.reach.past, 1))
    size = world.reach.window if window is None else window
    if not 1 <= size <= world.reach.window:
        raise ValueError(f"a window of {size} frames: this model is shown 1 to {world.reach.window}")
    if name in BRICKS:
        return _learned(name, world, size)
    if name in ("canvas", "retrieve-camera") and not cameras:
        raise ValueError(
            f"the memory {name} needs to know where each frame was seen from: give actions that say how the camera "
            "moves, or choose retrieve-likeness"
        )
    return Chosen(name, _plain(name, size, cameras, world.reach.stride if stride is None else stride), size)


def _plain(name: str, size: int, cameras: bool, stride: int) -> Memory[Any]:
    part = size // 4
    if name == "window":
        return Window(size)
    if part == 0:
        raise ValueError(f"a window of {size} frames has no room for the memory {name}: it needs 4 or more")
    if name == "sink":
        return Sink(part, size - part)
    if name == "consolidate":
        return Consolidate(part // 2, size - part - part // 2, part)
    if name == "canvas":
        if size <= stride:
            raise ValueError(f"a window of {size} frames has no room for a canvas as {stride} frames ahead see it")
        return Canvas(size - stride, ahead=stride)
    by: Literal["camera", "likeness"] = (
        "camera" if name == "retrieve-camera" or (name == "retrieve" and cameras) else "likeness"
    )
    return Retrieve(size - part, part, by, BANK, chunk=part)


def _learned(name: str, world: World, size: int) -> Chosen:
    if name not in world.reach.memories:
        raise ValueError(
            f"this model holds no memory called {name}; it holds {', '.join(world.reach.memories) or 'none'}"
        )
    net = world.net
    assert isinstance(net, Forcing)
    tokens = evicting(net, name, 1).cost.tokens
    recent = size - math.ceil(tokens / net.config.tokens)
    if recent < 1:
        raise ValueError(f"a window of {size} frames has no room for the {tokens} tokens of {name}")
    return Chosen(name, evicting(net, name, recent), size, name)
