"""A tokenizer on the frames of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from maskworld import masks
from maskworld.clip import Clip, collate, to_uint8
from maskworld.data.episodes import Episodes, clip_of, read, split
from maskworld.noise import mix
from maskworld.tokenizers import dino, dynamics, mae, vqvae
from maskworld.tokenizers.base import Tokenizer, measure
from maskworld.tokenizers.kinds import config_of
from maskworld.train import Recipe, constant_ema, inverse_sqrt
from maskworld.verbs import Objective

Kind = Literal["vqvae", "fsq", "mae", "dino", "dynamics"]
OBJECTIVES: dict[Kind, Objective] = {
    "vqvae": vqvae.objective,
    "fsq": vqvae.objective,
    "mae": mae.objective,
    "dino": dino.objective,
    "dynamics": dynamics.objective,
}


def tokenizer(
    data: Path,
    kind: Kind = "vqvae",
    grid: int = 4,
    vocab: int = 512,
    levels: tuple[int, ...] = (8, 5, 5, 5),
    dim: int = 32,
    width: int = 32,
    ahead: int = 8,
    weights: str = "facebook/dinov2-small",
    batch: int = 32,
    lr: float = 2e-3,
    size: int | None = None,
    seed: int = 0,
    look_every: int = 500,
) -> Recipe:
    """Train a tokenizer: frames to a grid of codes, and back.

    Args:
        data: episodes, a folder of ours or V-D4RL's.
        kind: vqvae; fsq, the same with fixed codes; mae or dino, features of a network without labels; dynamics, what
            actions move.
        grid: codes along a side of the frame; a power of two fewer than its pixels.
        vocab: codes in the codebook; fsq has the product of its levels.
        levels: of each number of a code; fsq alone.
        dim: numbers of a code; fsq has one for each of its levels.
        width: channels at half the frame's size; more where it is smaller.
        ahead: frames between which an action is to be found, at most; dynamics alone.
        weights: of DINOv2, a folder or a name on the hub; dino alone.
        batch: frames a step, or pairs of them.
        lr: learning rate after the warm-up.
        size: pixels of a side to which frames are resized; their own otherwise.
        seed: of the weights, the data, what is hidden and the noise.
        look_every: steps between two strips of frames and what came back.
    """
    episodes = read(data) if size is None else read(data).at(size)
    size, channels = _sizes(episodes, data)
    torch.manual_seed(mix(seed))  # the weights
    net = _network(
        kind, size, channels, _widths(size, grid, width), vocab, levels, dim, ahead, weights, episodes.actions
    )
    gap = ahead if kind == "dynamics" else 0
    train, valid = (Frames(split(episodes, part), gap, seed) for part in ("train", "valid"))
    look = Look(Frames(valid.episodes, 0, seed))
    return Recipe(
        about={
            "family": "tokenizer",
            "config": config_of(net),
            "data": {"name": episodes.name, "fps": episodes.fps, "episodes": len(episodes)},
        },
        net=net,
        objective=OBJECTIVES[kind],
        draw=masks.blocks(grid, grid, 0.75) if kind == "mae" else masks.blocks(1, 1, 0.0),
        data=train,
        valid=valid,
        lr=inverse_sqrt(lr, 100, 1000),
        ema=constant_ema(0.0),  # the mean of two codebooks is none
        batch=batch,
        betas=(0.9, 0.99),
        seed=seed,
        look=look,
        look_every=look_every,
        probes=look.numbers,
        probes_every=look_every,
        valid_every=look_every,
    )


def _sizes(episodes: Episodes, data: Path) -> tuple[int, int]:
    """(pixels of a side, channels) of the frames."""
    h, w, channels = episodes.shape
    if episodes[0].frames.dtype != np.uint8:
        raise ValueError(f"{data} holds codes; a tokenizer is trained on pixels")
    if h != w or channels not in (1, 3):
        raise ValueError(
            f"{data} has frames of {h}x{w} and {channels} channels; square ones, grey or colour, are wanted"
        )
    return h, channels


def _widths(size: int, grid: int, width: int) -> tuple[int, ...]:
    """Channels after each halving, from the frame's size to the grid's."""
    halvings = (size // max(grid, 1)).bit_length() - 1
    if grid < 1 or halvings < 1 or grid * 2**halvings != size:
        fits = [size // 2**i for i in range(1, size.bit_length()) if size % 2**i == 0]
        raise ValueError(f"a grid of {grid} does not fit frames of {size} pixels; {fits} do")
    return tuple(width * min(2**i, 6) for i in range(halvings))


def _network(
    kind: Kind, size: int, channels: int, widths: tuple[int, ...], vocab: int, levels: tuple[int, ...], dim: int,
    ahead: int, weights: str, actions: int,
) -> nn.Module:  # fmt: skip
    if kind == "vqvae":
        return vqvae.VQVAE(vqvae.Config(size, channels, widths, dim=dim, vocab=vocab))
    if kind == "fsq":
        return vqvae.VQVAE(vqvae.FSQConfig(size, channels, widths, levels=levels))
    if kind == "mae":
        return mae.MAETokenizer(mae.Config(size, channels, dim=dim, vocab=vocab, widths=widths))
    if kind == "dino":
        return dino.pretrained(weights, size, channels, dim, vocab, widths)
    if not actions:
        raise ValueError("the kind dynamics learns from actions, and these episodes have none")
    return dynamics.Dynamics(dynamics.Config(actions, size, channels, widths, dim=dim, vocab=vocab, ahead=ahead))


@dataclass(frozen=True)
class Frames:
    """Clip number `index` of an endless set: one frame of any episode; or, with a `gap`, two, 1 to `gap` frames apart.

    Every gap is as likely, and for each every pair of frames that far apart.
    """

    episodes: Episodes
    gap: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.gap and max(self.episodes.lengths) <= self.gap:
            raise ValueError(f"no episode is long enough for frames {self.gap} apart")

    def __call__(self, index: int) -> Clip:
        rng = np.random.default_rng([self.seed, index])
        k = int(rng.integers(1, self.gap + 1)) if self.gap else 0
        starts = np.maximum(np.array(self.episodes.lengths) - k, 0).cumsum()
        place = int(rng.integers(starts[-1]))
        number = int(np.searchsorted(starts, place, side="right"))
        first = place - (int(starts[number - 1]) if number else 0)
        clip = clip_of(self.episodes[number], np.array([first, first + k] if k else [first]))
        return clip if k else Clip(clip.frames, clip.times)


@dataclass(frozen=True)
class Look:
    """Writes a strip of held-out frames and what comes back of them; measures the tokenizer on more of them."""

    data: Callable[[int], Clip]
    shown: int = 12
    measured: int = 128

    @cached_property
    def frames(self) -> torch.Tensor:
        return collate([self.data(i) for i in range(self.measured)]).frames[:, 0, 0]

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, Tokenizer)
        frames = self.frames[: self.shown]
        device = next(net.parameters()).device
        rows = [Row.of("frame", frames), Row.of("from codes", net.decode(net.encode(frames.to(device))))]
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)

    def numbers(self, net: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(net, Tokenizer)
        return measure(net, to_uint8(self.frames).numpy(), device=next(net.parameters()).device)
