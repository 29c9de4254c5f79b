"""What the model is shown of the past. State is a value: carried in, carried out."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

from maskworld.clip import Clip

State = TypeVar("State")


@runtime_checkable
class Memory(Protocol[State]):
    """`rollout` asks `recall` for what to show before each new piece, and gives the piece to `store`."""

    def start(self, clip: Clip) -> State:
        """The state after the prompt."""
        ...

    def recall(self, state: State, ahead: Clip) -> Clip:
        """Known frames to show before `ahead`."""
        ...

    def store(self, state: State, new: Clip) -> State:
        """The state after a new piece."""
        ...
