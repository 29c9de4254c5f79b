"""VQ-VAE (van den Oord et al. 2017): convolutions to a small grid, the nearest code, convolutions back to pixels.

The same network with a fixed grid of codes is FSQ (Mentzer et al. 2023). Pictures are compared by the absolute and
the squared difference of their pixels.

differs: no adversary and no perceptual loss (as VQGAN has them): a state must be read from the picture, not admired.
Each block is a 3 x 3 and a 1 x 1 convolution without norms, whose kernels are slow on a CPU with channels last.

Sections: configuration - convolutions - the tokenizer - the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.nets.quantise import Nearest, Scalar, float32
from maskworld.noise import Rng
from maskworld.tokenizers.base import check_fits
from maskworld.verbs import Known, Loss

# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """A codebook that learns. `widths` are channels after each halving of the frame: four turn 64 pixels into 4."""

    size: int = 64
    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128, 192)
    blocks: int = 1
    dim: int = 32
    vocab: int = 512

    def __post_init__(self) -> None:
        check_widths(self.size, self.channels, self.widths, self.blocks)


@dataclass(frozen=True)
class FSQConfig:
    """A fixed grid of codes: one number for each of `levels`."""

    size: int = 64
    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128, 192)
    blocks: int = 1
    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        check_widths(self.size, self.channels, self.widths, self.blocks)


def tiny(size: int = 16, channels: int = 1) -> Config:
    return Config(size, channels, (8, 8), 1, 4, 16)


def check_widths(size: int, channels: int, widths: tuple[int, ...], blocks: int) -> None:
    """Raise ValueError where frames cannot be halved as often as there are widths."""
    if channels < 1 or blocks < 1 or not widths or min(widths) < 1:
        raise ValueError(f"channels, blocks and widths are 1 or more, not {channels}, {blocks} and {tuple(widths)}")
    if size < 1 or size % 2 ** len(widths):
        raise ValueError(f"frames of {size} pixels cannot be halved {len(widths)} times, as {tuple(widths)} asks")


# -- convolutions ---------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block of a 3 x 3 and a 1 x 1 convolution."""

    def __init__(self, dim: int):
        super().__init__()
        self.wide = nn.Conv2d(dim, dim, 3, padding=1)
        self.point = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return x + self.point(F.relu(self.wide(F.relu(x))))


class Encoder(nn.Module):
    """Pixels to features, halved once for each width."""

    def __init__(self, channels: int, widths: tuple[int, ...], blocks: int, dim: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, 4, 2, 1), *(Block(width) for _ in range(blocks))]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b gh gw d"]:
        x = self.layers(frames.contiguous(memory_format=torch.channels_last))
        return rearrange(self.out(F.relu(x)), "b d gh gw -> b gh gw d")


class Painter(nn.Module):
    """Vectors of codes to pixels, doubled once for each width, the last one first."""

    def __init__(self, channels: int, widths: tuple[int, ...], blocks: int, dim: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1)]
        for width, after in zip(widths[::-1], widths[-2::-1], strict=False):
            layers += [*(Block(width) for _ in range(blocks)), nn.Conv2d(width, 4 * after, 1), Spread()]
        layers += [Block(widths[0]) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)

    def forward(self, vectors: Float[Tensor, "b gh gw d"]) -> Float[Tensor, "b c h w"]:
        x = self.layers(rearrange(vectors, "b gh gw d -> b d gh gw"))
        return F.pixel_shuffle(self.out(F.relu(x)), 2)


class Spread(nn.Module):
    """Four channels of a cell become four cells, as in a pixel shuffle, with channels last."""

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b e H W"]:
        cells = rearrange(x, "b (i j e) h w -> b (h i) (w j) e", i=2, j=2)
        return rearrange(cells, "b h w e -> b e h w")


# -- the tokenizer --------------------------------------------------------------------------------


class VQVAE(nn.Module):
    """Frames of `size` pixels to a grid of codes, and back."""

    paints = True

    def __init__(self, config: Config | FSQConfig):
        super().__init__()
        self.config = config
        scalar = isinstance(config, FSQConfig)
        self.quantiser = Scalar(config.levels) if scalar else Nearest(config.vocab, config.dim)
        self.size, self.channels = config.size, config.channels
        self.vocab, self.dim = self.quantiser.vocab, self.quantiser.dim
        side = config.size // 2 ** len(config.widths)
        self.grid = (side, side)
        self.encoder = Encoder(config.channels, config.widths, config.blocks, self.dim)
        self.painter = Painter(config.channels, config.widths, config.blocks, self.dim)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        check_fits(frames, self.size, self.channels)
        with float32(frames):
            return self.quantiser.nearest(self.encoder(frames.float()))

    def vectors(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        return self.quantiser.vectors(codes)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        return self.painter(self.vectors(codes)).float().clamp(-1, 1)


# -- the objective --------------------------------------------------------------------------------

COMMIT = 0.25
"""Weight of the commitment (van den Oord et al. 2017, Sec. 3.2)."""


def objective(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
    """Every frame is to come back; what is known plays no part. In training, the codebook follows."""
    assert isinstance(net, VQVAE)
    frames = rearrange(clip.frames, "b v t c h w -> (b v t) c h w")
    check_fits(frames, net.size, net.channels)
    features = net.encoder(frames)
    found = net.quantiser(features)
    terms = pixel_terms(net.painter(found.vectors), frames)
    if isinstance(net.quantiser, Nearest):
        terms["commit"] = COMMIT * found.commitment
        if net.training:
            net.quantiser.learn(features, found.codes, rng.generators[0])
    return Loss(for_each(terms, len(clip.frames)))


def pixel_terms(painted: Float[Tensor, "n c h w"], frames: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
    """The absolute and the squared difference of each frame, means over its pixels."""
    away = painted.float() - frames
    return {
        "l1": reduce(away.abs(), "n c h w -> n", "mean"),
        "l2": reduce(away.square(), "n c h w -> n", "mean"),
    }


def for_each(terms: dict[str, Tensor], b: int) -> dict[str, Tensor]:
    """Terms of each frame as terms of each example."""
    return {name: reduce(value, "(b n) -> b", "mean", b=b) for name, value in terms.items()}
