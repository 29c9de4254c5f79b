"""In which type a network computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def computing(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """The time of a `with` in which networks compute in this type; float32 is as they are.

    Entered once around a whole fill: entering it at each call would cast all weights each time.
    """
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)
