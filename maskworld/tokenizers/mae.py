"""Patch features of a small masked autoencoder (He et al. 2022), trained here without labels, as codes.

It stands in for DINO where no weights can be had: features that serve to guess three quarters of a picture from the
rest, from minutes of training on the pictures at hand. They are not DINO's, and nothing here says they are as good.

Sections: configuration - the autoencoder - the tokenizer - the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.masks import patch
from maskworld.nets.attention import attend
from maskworld.nets.embed import sinusoidal
from maskworld.nets.quantise import float32
from maskworld.noise import Rng
from maskworld.tokenizers.base import check_fits
from maskworld.tokenizers.distil import Distil
from maskworld.tokenizers.vqvae import for_each
from maskworld.verbs import Known, Loss

# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """A token of `width` numbers for each patch through `depth` layers; a decoder half as deep and half as wide.

    `widths` are of the painter, channels after each halving of the frame; their number says how large a patch is.
    """

    size: int = 64
    channels: int = 3
    width: int = 128
    depth: int = 4
    heads: int = 4
    dim: int = 32
    vocab: int = 512
    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        if self.channels < 1 or not self.widths or min(self.widths) < 1 or self.depth < 1:
            raise ValueError("channels, depth and widths are 1 or more")
        if self.size < self.patch or self.size % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not tile frames of {self.size}")
        if self.heads < 1 or self.width % (4 * self.heads):
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width} into multiples of 4")

    @property
    def patch(self) -> int:
        return 2 ** len(self.widths)


def tiny(size: int = 16, channels: int = 1) -> Config:
    return Config(size, channels, 16, 2, 2, 4, 16, (8, 8))


# -- the autoencoder ------------------------------------------------------------------------------


class Layer(nn.Module):
    """Attention among all tokens and two linear layers, each on normed tokens and added to them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b n (three g d) -> three b g n d", three=3, g=self.heads)
        x = x + self.out(rearrange(attend(q, k, v), "b g n d -> b n (g d)"))
        return x + self.mlp(self.norm2(x))


class MAE(nn.Module):
    """An encoder that is shown some patches, and a decoder that guesses the others."""

    places: Tensor

    def __init__(self, config: Config):
        super().__init__()
        d, half, side = config.width, config.width // 2, config.size // config.patch
        pixels = config.channels * config.patch**2
        self.patch, self.side = config.patch, side
        self.embed = nn.Linear(pixels, d)
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        places = torch.cat([sinusoidal(at.flatten().float(), half) for at in (row, column)], 1)
        self.register_buffer("places", places, persistent=False)
        self.encoder = nn.Sequential(*(Layer(d, config.heads) for _ in range(config.depth)), nn.LayerNorm(d))
        self.to_decoder = nn.Linear(d, half)
        self.hidden = nn.Parameter(0.02 * torch.randn(half))
        self.to_place = nn.Linear(d, half)
        self.decoder = nn.Sequential(
            *(Layer(half, config.heads) for _ in range(max(config.depth // 2, 1))), nn.LayerNorm(half)
        )
        self.to_pixels = nn.Linear(half, pixels)

    def patches(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n m p"]:
        return rearrange(patch(frames[:, None, None], self.patch, self.patch), "n 1 1 gh gw p -> n (gh gw) p")

    def features(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n gh gw d"]:
        """Of the whole picture: every patch is shown."""
        tokens = self.encoder(self.embed(self.patches(frames)) + self.places)
        return rearrange(tokens, "n (gh gw) d -> n gh gw d", gh=self.side)

    def forward(self, patches: Float[Tensor, "n m p"], shown: Int[Tensor, "n s"]) -> Float[Tensor, "n m p"]:
        """A guess at every patch, from those whose numbers are `shown` alone."""
        n, m, _ = patches.shape
        places = self.places.expand(n, m, -1)
        seen = self.encoder(self.embed(_take(patches, shown)) + _take(places, shown))
        told = self.to_decoder(seen)
        tokens = self.hidden.to(told.dtype).expand(n, m, -1).clone()
        tokens = tokens.scatter(1, shown[..., None].expand_as(told), told)
        return self.to_pixels(self.decoder(tokens + self.to_place(self.places)))


def _take(tokens: Float[Tensor, "n m d"], which: Int[Tensor, "n s"]) -> Float[Tensor, "n s d"]:
    return tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[-1]))


# -- the tokenizer --------------------------------------------------------------------------------


class MAETokenizer(nn.Module):
    """The features of every patch, as codes; a painter shows what they say."""

    paints = True

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.size, self.channels = config.size, config.channels
        self.vocab, self.dim = config.vocab, config.dim
        self.grid = (config.size // config.patch, config.size // config.patch)
        self.mae = MAE(config)
        self.distil = Distil(config.width, config.dim, config.vocab, config.channels, config.widths)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        check_fits(frames, self.size, self.channels)
        with float32(frames):
            return self.distil.encode(self.mae.features(frames.float()))

    def vectors(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        return self.distil.quantiser.vectors(codes)

    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        return self.distil.decode(codes)


# -- the objective --------------------------------------------------------------------------------


def objective(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
    """Guess the patches that are not known from those that are; the whole picture's features are to become codes.

    The guess is at patches normed to mean 0 and variance 1 (He et al. 2022, Sec. 3), over those that were hidden.
    As many patches of each frame are known, on the tokenizer's grid; ValueError otherwise.
    """
    assert isinstance(net, MAETokenizer)
    frames = rearrange(clip.frames, "b v t c h w -> (b v t) c h w")
    check_fits(frames, net.size, net.channels)
    if tuple(known.shape[-2:]) != net.grid:
        raise ValueError(f"a masked autoencoder of {net.grid} patches, and a mask grid of {tuple(known.shape[-2:])}")
    shown = rearrange(known, "b v t gh gw -> (b v t) (gh gw)")
    many = int(shown[0].sum())
    if not 0 < many < shown.shape[1] or bool((shown.sum(1) != many).any()):
        raise ValueError("a masked autoencoder wants some patches known, not all, and as many in each frame")
    numbers = shown.nonzero()[:, 1].view(len(shown), many)
    patches = net.mae.patches(frames)
    normed = F.layer_norm(patches, patches.shape[-1:], eps=1e-4)
    away = reduce((net.mae(patches, numbers).float() - normed).square(), "n m p -> n m", "mean")
    terms = {"mae": (away * ~shown).sum(1) / (~shown).sum(1)}
    with torch.no_grad():
        features = net.mae.features(frames)
    return Loss(for_each({**terms, **net.distil.terms(features, frames, rng)}, len(clip.frames)))
