"""A variational autoencoder on the frames of a synthetic drive, of videos, or of what several cameras recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from maskworld import masks
from maskworld.clip import Clip, collate, of_uint8, to_uint8
from maskworld.data import drive, episodes, surround
from maskworld.data.video import VideoClips
from maskworld.noise import mix
from maskworld.tokenizers.kinds import config_of
from maskworld.tokenizers.latent import Continuous, measure
from maskworld.tokenizers.vae import VAE, Config, objective
from maskworld.train import Recipe, inverse_sqrt, power_ema

Split = Literal["train", "valid", "test"]
Frames = Callable[[int], Clip]
"""Clip number `index` of an endless set."""


def vae(
    data: Path | None = None,
    size: tuple[int, int] = (48, 96),
    factor: int = 4,
    dim: int = 8,
    width: int = 32,
    depth: int = 1,
    kl: float = 1e-4,
    cameras: int = 3,
    fps: float = 5.0,
    varied: bool = True,
    batch: int = 36,
    lr: float = 4e-3,
    seed: int = 0,
    look_every: int = 500,
) -> Recipe:
    """Train an autoencoder: frames to latents, and back.

    Args:
        data: a video or a folder of them, logs of several cameras, or episodes; a synthetic drive otherwise.
        size: height and width of the frames.
        factor: pixels of a latent in each direction, a power of two.
        dim: numbers of a latent.
        width: channels at half the frame's size; twice as many from a quarter on.
        depth: residual blocks at each size.
        kl: weight of the divergence from a standard normal.
        cameras: of the synthetic drive, all of which are shown at each step.
        fps: frames a second at which videos are read.
        varied: a part of the drive at night, in haze, through other lenses and from other heights.
        batch: frames a step; of the drive, two of each camera for one of them.
        lr: learning rate after the warm-up.
        seed: of the weights, the data and the draws.
        look_every: steps between two strips of frames and what came back.
    """
    halvings = factor.bit_length() - 1
    if halvings < 1 or factor != 2**halvings:
        raise ValueError(f"the factor is a power of two, 2 or more, not {factor}")
    widths = tuple(width * min(2**i, 2) for i in range(halvings))
    config = Config(size, 3, dim, widths, depth, kl)
    train, valid = (frames_of(data, size, split, cameras, fps, varied, seed) for split in ("train", "valid"))
    torch.manual_seed(mix(seed))  # the weights
    net = VAE(config)
    shown = 2 * cameras if data is None else 1  # frames of a clip
    look = Look(valid, measured=max(1, 128 // shown))
    source = {"name": "drive", "varied": varied} if data is None else {"name": data.name, "fps": fps}
    return Recipe(
        about={"family": "tokenizer", "config": config_of(net), "data": source},
        net=net,
        objective=objective,
        draw=masks.blocks(1, 1, 0.0),
        data=train,
        valid=valid,
        lr=inverse_sqrt(lr, 50, 500),
        ema=power_ema(0.1),
        batch=max(1, batch // shown),
        betas=(0.9, 0.99),
        seed=seed,
        look=look,
        look_every=look_every,
        probes=look.numbers,
        probes_every=look_every,
        valid_every=look_every,
        valid_clips=max(1, 128 // shown),
    )


# -- frames ---------------------------------------------------------------------------------------


def frames_of(
    data: Path | None, size: tuple[int, int], split: Split, cameras: int = 1, fps: float = 5.0, varied: bool = True,
    seed: int = 0,
) -> Frames:  # fmt: skip
    """Frames of whatever is there; of the synthetic drive where `data` is None.

    Raises ValueError where there is nothing that can be read.
    """
    if data is None:
        return DriveFrames(size, split, cameras, varied, seed)
    if surround.there(data):
        return LogFrames(data, size, split, seed)
    if episodes.there(data):
        return EpisodeFrames(data, size, split, seed)
    return VideoClips(data, 1, size, fps, split=split, seed=seed)


VARIED = (
    drive.Domain("night"), drive.Domain(haze=0.6), drive.Domain(fov=55.0), drive.Domain(height=2.2),
)  # fmt: skip
"""What is not day as it always is, one switch at a time: half of the varied drive."""


SCENES, TURNS = 8, 32
"""Scenes of a drive that take turns, and how often each is looked at: to make one takes as long as 25 looks."""

SECONDS = 44
"""Of a scene; its frames are a second apart."""


@dataclass(frozen=True)
class DriveFrames:
    """Frames of the synthetic drive, two of each camera at a time, a second apart."""

    size: tuple[int, int]
    split: Split
    cameras: int = 1
    varied: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        drive.rig(self.cameras, self.size)

    def __call__(self, index: int) -> Clip:
        turn, place = divmod(index, SCENES * TURNS)
        place %= SCENES
        domain = VARIED[place] if self.varied and place < len(VARIED) else drive.DAY
        scene = _scene(mix(self.seed, _number(self.split), turn * SCENES + place), domain)
        start = mix(self.seed, _number(self.split), index, 0) % (SECONDS - 1)
        clip = drive.clip_of(scene, drive.rig(self.cameras, self.size, domain), start, start + 2)
        return Clip(clip.frames, torch.zeros_like(clip.times))


@lru_cache(maxsize=2 * SCENES)
def _scene(seed: int, domain: drive.Domain) -> drive.Scene:
    return drive.scene(seed, SECONDS, 1.0, domain)


@dataclass(frozen=True)
class LogFrames:
    """Single frames of any camera of any log. Of three or more logs, whole ones are held out; of fewer, their ends.

    Raises ValueError where no frame is left.
    """

    path: Path
    size: tuple[int, int]
    split: Split
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.logs:
            raise ValueError(f"{self.path} has no frames for the {self.split} split")

    @cached_property
    def logs(self) -> list[tuple[surround.Log, list[tuple[str, int]]]]:
        """Those of this split, each with its frames: (camera, number)."""
        logs = surround.read(self.path)
        whole = len(logs) >= 3
        found = []
        for number in episodes.numbers(len(logs))[self.split] if whole else range(len(logs)):
            log, (low, high) = logs[number], (0.0, 1.0) if whole else ENDS[self.split]
            of = range(int(low * log.num_frames), int(high * log.num_frames))
            frames = [(name, i) for row, name in zip(log.known, log.cameras, strict=True) for i in of if row[i]]
            found += [(log, frames)] if frames else []
        return found

    def __call__(self, index: int) -> Clip:
        turn, place = divmod(index, SCENES * TURNS)  # logs are read as a whole: they take turns as scenes do
        log, frames = self.logs[mix(self.seed, turn, place % SCENES) % len(self.logs)]
        name, i = frames[mix(self.seed, _number(self.split), index, 0) % len(frames)]
        clip, _ = log.clip(i, i + 1, [name], self.size)
        return Clip(clip.frames, clip.times)


ENDS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
"""Which part of a log is of which split, where there are too few to hold whole ones out."""


@dataclass(frozen=True)
class EpisodeFrames:
    """Single frames of any episode, resized to a square size.

    Raises ValueError for another size, and for what is no picture in colour.
    """

    path: Path
    size: tuple[int, int]
    split: Split
    seed: int = 0

    def __post_init__(self) -> None:
        h, w = self.size
        if h != w:
            raise ValueError(f"the frames of episodes are square: {self.path} cannot be read at {h}x{w}")
        if self.found.shape[-1] != 3 or self.found[0].frames.dtype != np.uint8:
            raise ValueError(f"{self.path} does not hold frames in colour")

    @cached_property
    def found(self) -> episodes.Episodes:
        """Those of this split."""
        return episodes.split(episodes.read(self.path).at(self.size[0]), self.split)

    def __call__(self, index: int) -> Clip:
        pick = mix(self.seed, _number(self.split), index)
        episode = self.found[pick % len(self.found)]
        frame = pick // 2**32 % len(episode)
        return of_uint8(torch.from_numpy(episode.frames[frame : frame + 1]))


def _number(split: Split) -> int:
    return get_args(Split).index(split)


# -- looking --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Writes a strip of held-out frames and what comes back of them; measures the tokenizer on more of them."""

    data: Frames
    shown: int = 8
    measured: int = 128

    @cached_property
    def frames(self) -> Tensor:
        clip = collate([self.data(i) for i in range(self.measured)])
        return rearrange(clip.frames, "b v t c h w -> (b v t) c h w")

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, Continuous)
        frames = self.frames[:: max(1, len(self.frames) // self.shown)][: self.shown]
        device = next(net.parameters()).device
        rows = [Row.of("frame", frames), Row.of("from latents", net.decode(net.encode(frames.to(device))))]
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)

    def numbers(self, net: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(net, Continuous)
        return measure(net, to_uint8(self.frames).numpy(), device=next(net.parameters()).device)
