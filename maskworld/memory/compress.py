"""FramePack (Zhang & Agrawala 2025, arXiv 2504.12626): the older a frame, the larger the patches in which it is seen.

Frames that leave the window go through queues, one for each level. Level i sees its frames in patches of 2^i frames
by 2^(i + 1) p pixels on a side, p being the network's own patch, so that each level costs an eighth of the tokens of
the one before for the same frames, and all of them together a bounded number. What leaves the last queue ends in its
mean (the paper's option for the tail).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.nets.transformer import Evicted


class _Frames(NamedTuple):
    """Frames of a queue, oldest first. `filled` is 1 for a frame and 0 for an empty slot; of a mean, how many."""

    pixels: Float[Tensor, "b f c h w"]
    place: Float[Tensor, "b f 3 gh gw"]
    filled: Float[Tensor, "b f"]


class Compress(nn.Module):
    """Old frames as tokens for the input of the network; the state is the queues of pixels, of constant size.

    channels   of the frames; one more says which pixels are known, and an empty slot is a frame of holes
    frames     length of each level's queue: at level i a multiple of 2^i

    differs: level i keeps its frames at 1 / 2^i of the resolution, so that the state, too, is bounded by a series.
    What is read at first is what the network reads of any frame: nothing makes it small.
    Raises ValueError for a size that the largest patches do not tile.
    """

    layered = False

    def __init__(self, dim: int, channels: int, patch: int, size: int, frames: Sequence[int] = (2, 4, 16)):
        super().__init__()
        if not frames or size % (2 ** len(frames) * patch):
            raise ValueError(f"patches of {2 ** len(frames) * patch} pixels do not tile frames of {size}")
        if any(n < 1 or n % 2**i for i, n in enumerate(frames)):
            raise ValueError(f"queues of {tuple(frames)} frames: level i takes a multiple of 2^i, 1 or more")
        self.channels, self.patch, self.size, self.frames = channels + 1, patch, size, tuple(frames)
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.empty(dim, self.channels, 2**i, 2 * patch, 2 * patch)) for i in range(len(frames))]
        )
        self.bias = nn.Parameter(torch.zeros(len(frames), dim))
        fan = self.channels * patch**2
        self.start_from(torch.randn(dim, fan) * fan**-0.5, torch.zeros(dim))

    @torch.no_grad()
    def start_from(self, weight: Float[Tensor, "d k"], bias: Float[Tensor, " d"]) -> None:
        """Begin from the network's own embedding of patches (k = channels x p x p): replicated, and divided."""
        base = rearrange(weight, "d (c p q) -> d c p q", c=self.channels, p=self.patch)
        for i, kernel in enumerate(self.weights):
            kernel.copy_(repeat(base, "d c p q -> d c t (p y) (q x)", t=2**i, y=2, x=2) / (4 * 2**i))
        self.bias.copy_(bias.expand_as(self.bias))

    @property
    def num_tokens(self) -> int:
        """Tokens that are shown, the tail's included."""
        sides = [self.size // (2 ** (i + 1) * self.patch) for i in range(len(self.frames))]
        return sum(n // 2**i * sides[i] ** 2 for i, n in enumerate(self.frames)) + sides[-1] ** 2

    def empty(self, b: int) -> Float[Tensor, "b 1 e"]:
        shapes = itertools.chain.from_iterable(self._shapes())
        return self.bias.new_zeros(b, 1, sum(math.prod(shape) for shape in shapes))

    def write(self, memory: Float[Tensor, "b 1 e"], evicted: Evicted) -> Float[Tensor, "b 1 e"]:
        *queues, tail = self._open(memory)
        side = self.size // self.patch
        entering = _Frames(
            evicted.pixels.to(memory.dtype),
            rearrange(evicted.place.to(memory.dtype), "b f (gh gw) c -> b f c gh gw", gh=side),
            memory.new_ones(evicted.pixels.shape[:2]),
        )
        after = []
        for i, (queue, length) in enumerate(zip(queues, self.frames, strict=True)):
            entering = _halved(entering) if i else entering
            row = _Frames(*[torch.cat(pair, dim=1) for pair in zip(queue, entering, strict=True)])
            after.append(_Frames(*[x[:, -length:] for x in row]))
            entering = _Frames(*[x[:, :-length] for x in row])
        after.append(_mean(tail, entering))
        parts = [rearrange(x, "b f ... -> b 1 (f ...)") for frames in after for x in frames]
        return torch.cat(parts, dim=-1)

    def tokens(
        self, memory: Float[Tensor, "b 1 e"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n 3"], Bool[Tensor, "b n"]]:
        """Features, places (the mean of what a patch covers) and which slots are filled, newest level first."""
        *queues, tail = self._open(memory)
        found = [self._see(i, queue) for i, queue in enumerate(queues)]
        last = len(queues) - 1
        found.append(self._see(last, _Frames(*[repeat(x, "b 1 ... -> b t ...", t=2**last) for x in tail])))
        features, place, valid = zip(*found, strict=True)
        return torch.cat(features, dim=1), torch.cat(place, dim=1), torch.cat(valid, dim=1)

    def _see(self, level: int, frames: _Frames) -> tuple[Tensor, Tensor, Tensor]:
        """One level's patches."""
        t, p = 2**level, 2 * self.patch
        blocks = rearrange(frames.pixels, "b (f t) c (y p) (x q) -> b (f y x) (c t p q)", t=t, p=p, q=p)
        features = F.linear(blocks, self.weights[level].flatten(1), self.bias[level])
        side = frames.pixels.shape[-1] // p
        share = rearrange(frames.filled, "b (f t) -> b f t", t=t).clamp(max=1)
        share = share / share.sum(-1, keepdim=True).clamp(min=1)
        place = reduce(frames.place, "b f c (y p) (x q) -> b f c y x", "mean", p=2, q=2)
        place = (rearrange(place, "b (f t) c y x -> b f t c y x", t=t) * share[..., None, None, None]).sum(2)
        valid = repeat(share.sum(-1) > 0, "b f -> b (f y x)", y=side, x=side)
        return features, rearrange(place, "b f c y x -> b (f y x) c"), valid

    def _shapes(self) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Shapes of the pixels, the places and what is filled: of each queue, and of the tail."""
        levels = [*enumerate(self.frames), (len(self.frames) - 1, 1)]
        size, side = self.size, self.size // self.patch
        return [((n, self.channels, size >> i, size >> i), (n, 3, side >> i, side >> i), (n,)) for i, n in levels]

    def _open(self, memory: Float[Tensor, "b 1 e"]) -> list[_Frames]:
        """The queues in the state, and the tail."""
        shapes = list(itertools.chain.from_iterable(self._shapes()))
        parts = memory[:, 0].split([math.prod(shape) for shape in shapes], dim=-1)
        parts = [x.unflatten(-1, shape) for x, shape in zip(parts, shapes, strict=True)]
        return [_Frames(*parts[i : i + 3]) for i in range(0, len(parts), 3)]


def _halved(frames: _Frames) -> _Frames:
    """The same frames at half the resolution. A frame of holes stays one."""
    pixels = reduce(frames.pixels, "b f c (h p) (w q) -> b f c h w", "mean", p=2, q=2)
    place = reduce(frames.place, "b f c (h p) (w q) -> b f c h w", "mean", p=2, q=2)
    return _Frames(pixels, place, frames.filled)


def _mean(tail: _Frames, more: _Frames) -> _Frames:
    """The mean of all frames that ever left, one of them after the other."""
    filled = torch.cat([tail.filled, more.filled], dim=1)
    total = filled.sum(1, keepdim=True)
    share = filled / total.clamp(min=1)

    def mean(old: Tensor, new: Tensor) -> Tensor:
        return (torch.cat([old, new], dim=1) * share[..., None, None, None]).sum(1, keepdim=True)

    return _Frames(mean(tail.pixels, more.pixels), mean(tail.place, more.place), total)
