"""What the recipes of MaskGWM have in common: clips in a tokenizer's latents, and the network with its filler."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from maskworld.clip import Clip, collate, span, to
from maskworld.masks import past_and_future
from maskworld.noise import Rng, mix
from maskworld.papers import maskgwm
from maskworld.tokenizers import kinds
from maskworld.train import Recipe, inverse_sqrt, power_ema
from maskworld.world import load_latents


def latents(name: str) -> nn.Module | None:
    """The continuous tokenizer of this checkpoint; None for `pixels`. Raises ValueError where there is none."""
    if name == "pixels":
        return None
    of, _ = load_latents(name)
    assert isinstance(of, nn.Module)
    return of


def fitted(config: maskgwm.Config, tokenizer: nn.Module | None) -> maskgwm.Config:
    """The configuration for this tokenizer, or for pixels: tokens stay as many pixels wide. ValueError where pixels are
    too many for the width."""
    side = config.factor * config.patch
    if tokenizer is None:
        if (wide := config.channels * side**2) > config.dim:
            raise ValueError(
                f"tokens of {side} x {side} pixels are {wide} numbers, more than the width {config.dim} of the network "
                f"can carry: what it makes of them would stay noise; --tokenizer maskgwm-long, or --config.dim {wide}"
            )
        return dataclasses.replace(config, latent=config.channels, factor=1, patch=side)
    of: maskgwm.Tokenizer = tokenizer  # type: ignore[assignment]
    if side % of.factor:
        raise ValueError(f"tokens of {side} pixels are not made of latents of {of.factor} pixels")
    return dataclasses.replace(config, channels=of.channels, latent=of.dim, factor=of.factor, patch=side // of.factor)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Clip number `index` of an endless set: `num_frames` of a longer one, its frames in a tokenizer's latents.

    long        number -> a clip of more frames; each is made and encoded once, and cut `cuts` times
    together    so many long clips are cut in turn, so that a batch is of different ones
    """

    long: Callable[[int], Clip]
    tokenizer: nn.Module | None
    num_frames: int
    actions: tuple[str, ...] = ()
    fps: float = 1.0
    cuts: int = 16
    together: int = 16
    seed: int = 0

    def __call__(self, index: int) -> Clip:
        block, place = divmod(index, self.cuts * self.together)
        clip = _encoded(self, block * self.together + place % self.together)
        first = np.random.default_rng([self.seed, index]).integers(clip.frames.shape[2] - self.num_frames + 1)
        found = span(clip, int(first), int(first) + self.num_frames)
        return dataclasses.replace(found, times=found.times - found.times[:, :1])


@lru_cache(maxsize=32)
def _encoded(of: Encoded, number: int) -> Clip:
    clip = of.long(number)
    actions = clip.actions
    if actions is not None and of.actions:
        actions = maskgwm.actions_of(actions, of.fps, of.actions)
    frames = clip.frames if of.tokenizer is None else _latents(of.tokenizer, clip.frames)
    return Clip(frames, clip.times, actions if of.actions else None, clip.cameras)


def _latents(tokenizer: nn.Module, frames: Tensor) -> Tensor:
    of: maskgwm.Tokenizer = tokenizer  # type: ignore[assignment]
    b, v = frames.shape[:2]
    flat = rearrange(frames, "b v t c h w -> (b v t) c h w")
    with torch.no_grad():
        made = torch.cat([of.encode(some) for some in flat.split(16)])
    return rearrange(made, "(b v t) d gh gw -> b v t d gh gw", b=b, v=v)


def recipe(
    config: maskgwm.Config,
    tokenizer: nn.Module | None,
    data: Callable[[int], Clip],
    valid: Callable[[int], Clip],
    about: Mapping[str, Any],
    way: maskgwm.Way,
    masking: bool,
    batch: int,
    lr: float,
    seed: int,
    look_every: int,
    missing: float = 0.5,
) -> Recipe:
    """A recipe for clips of `config.num_frames` frames or latents. `about` says where they are from."""
    if not 0 <= missing <= 1:
        raise ValueError(f"missing is a share of the clips, from 0 to 1, not {missing:g}")
    torch.manual_seed(mix(seed))  # the weights
    if tokenizer is not None:
        # The network's goes where the network goes; the clips are encoded where they are made.
        tokenizer.eval().requires_grad_(False)
    net = maskgwm.MaskGWM(config, copy.deepcopy(tokenizer))
    of = None if tokenizer is None else kinds.config_of(tokenizer)  # type: ignore[arg-type]
    return Recipe(
        about={
            "family": "maskgwm",
            "config": dataclasses.asdict(config),
            "tokenizer": of,
            "way": dataclasses.asdict(way),
            "masking": masking,
            "data": dict(about),
        },
        net=net,
        objective=maskgwm.objective(way, masking=masking),
        draw=maskgwm.references(config, missing),
        data=data,
        valid=valid,
        lr=inverse_sqrt(lr, 200, 2000),
        ema=power_ema(0.1),
        batch=batch,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        seed=seed,
        look=Look(valid),
        look_every=look_every,
        valid_clips=64,
    )


@dataclasses.dataclass(frozen=True)
class Look:
    """Draws a strip: what is ahead of the references, beside what was; and, of several views, one that is missing."""

    data: Callable[[int], Clip]
    num_clips: int = 3

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, maskgwm.MaskGWM)
        config = net.config
        clip = to(collate([self.data(i * 17) for i in range(self.num_clips)]), next(net.parameters()).device)
        b, v, t = clip.frames.shape[:3]
        pixels = self._painted(net, clip.frames)
        clip = dataclasses.replace(clip, frames=pixels)
        fill = maskgwm.fill(net, maskgwm.Sampling(steps=10))
        known = past_and_future(config.references, t - config.references, 0, b, v).to(pixels.device)
        rows = [Row.of("truth", pixels[i, j]) for i in range(b) for j in range(v)]
        made = fill(clip, known, Rng.of(step, batch=b)).frames
        rows += [Row.of("predict", made[i, j], known[i, j]) for i in range(b) for j in range(v)]
        if v > 1:
            known = torch.ones_like(known)
            known[:, v // 2] = False
            made = fill(clip, known, Rng.of(step, batch=b)).frames
            rows += [Row.of("a view", made[i, v // 2], known[i, v // 2]) for i in range(b)]
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)

    @staticmethod
    def _painted(net: maskgwm.MaskGWM, frames: Tensor) -> Tensor:
        """Frames of what may be latents."""
        if net.tokenizer is None:
            return frames
        b, v, t = frames.shape[:3]
        z = net.latents(frames, torch.ones(b, v, t, dtype=torch.bool, device=frames.device))
        made = net.paint(rearrange(z, "b v t gh gw d -> (b v t) gh gw d"))
        return rearrange(made, "(b v t) c h w -> b v t c h w", b=b, v=v)
