"""Autoencoders that others trained: AutoencoderKL and AutoencoderTiny of the package diffusers.

A checkpoint holds their weights too, so that whoever reads it needs no hub.

Sections: configuration - the tokenizer - pre-trained weights.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.nets.quantise import float32
from maskworld.tokenizers.latent import check_reads

Kind = Literal["kl", "tiny"]
SIZE = (256, 256)
"""Of the frames, where nobody says: neither kind minds."""

# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class KLConfig:
    """`architecture` is AutoencoderKL's, by diffusers' names; `size` is that of the frames it is used for."""

    architecture: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = SIZE


@dataclass(frozen=True)
class TinyConfig:
    """`architecture` is AutoencoderTiny's, by diffusers' names; `size` is that of the frames it is used for."""

    architecture: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = SIZE


# -- the tokenizer --------------------------------------------------------------------------------


class Pretrained(nn.Module):
    """Frames to the mode of their latents, scaled as the autoencoder's own configuration says; nothing is learned."""

    def __init__(self, config: KLConfig | TinyConfig):
        super().__init__()
        self.config = config
        self.net: Any = _network(config)
        self.net.requires_grad_(False)
        about = self.net.config
        self.size, self.channels, self.dim = config.size, about.in_channels, about.latent_channels
        kl = isinstance(config, KLConfig)
        self.factor = 2 ** (len(about.block_out_channels if kl else about.num_encoder_blocks) - 1)
        self.centre, self.spread = _scale(about, kl)

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        self.net.eval()
        return self

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d gh gw"]:
        check_reads(frames, self.channels, self.factor)
        with float32(frames):
            found = self.net.encode(frames.float())
            latents = found.latent_dist.mode() if isinstance(self.config, KLConfig) else found.latents
            return (latents - self._by_channel(self.centre, frames)) / self._by_channel(self.spread, frames)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n c h w"]:
        with float32(latents):
            own = latents.float() * self._by_channel(self.spread, latents) + self._by_channel(self.centre, latents)
            return self.net.decode(own).sample.clamp(-1, 1)

    def _by_channel(self, values: tuple[float, ...], like: Tensor) -> Float[Tensor, "1 d 1 1"]:
        return torch.tensor(values, device=like.device)[None, :, None, None]


def _scale(about: Any, kl: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What is taken from each channel of its latents, and by what the rest is divided."""
    if kl and about.latents_mean is not None and about.latents_std is not None:
        return tuple(about.latents_mean), tuple(std / about.scaling_factor for std in about.latents_std)
    return (about.shift_factor or 0.0,) * about.latent_channels, (1 / about.scaling_factor,) * about.latent_channels


def _network(config: KLConfig | TinyConfig) -> Any:
    diffusers = _diffusers()
    kind = diffusers.AutoencoderKL if isinstance(config, KLConfig) else diffusers.AutoencoderTiny
    try:
        return kind(**config.architecture)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"the architecture of this {kind.__name__} is damaged: {line}") from None


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise ValueError("autoencoders of the hub need the package diffusers: pip install 'maskworld[hf]'") from None
    return diffusers


# -- pre-trained weights --------------------------------------------------------------------------


def pretrained(name_or_path: str | Path, kind: Kind, size: tuple[int, int] = SIZE) -> Pretrained:
    """An autoencoder from a folder or the hub, OWNER/NAME or OWNER/NAME/SUBFOLDER, in float32.

    Raises ValueError where there is none, where it is of another kind, and without the package diffusers.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"an autoencoder of the hub is {' or '.join(get_args(Kind))}, not {kind}")
    diffusers = _diffusers()
    of = diffusers.AutoencoderKL if kind == "kl" else diffusers.AutoencoderTiny
    place, subfolder = _place(str(name_or_path))
    try:
        with warnings.catch_warnings():  # of options that diffusers itself passes on
            warnings.simplefilter("ignore")
            about = of.load_config(place, subfolder=subfolder)
        if about.get("_class_name") != of.__name__:
            raise ValueError(f"it is {about.get('_class_name')} and no {of.__name__}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = of.from_pretrained(place, subfolder=subfolder, torch_dtype=torch.float32).state_dict()
    except (OSError, ValueError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"no {of.__name__} at {name_or_path}: neither a folder with its weights nor on a hub that answers "
            f"({line}); `maskworld train vae` needs none"
        ) from None
    names = set(inspect.signature(of.__init__).parameters) - {"self"}
    architecture = {key: value for key, value in about.items() if key in names}
    net = Pretrained((KLConfig if kind == "kl" else TinyConfig)(architecture, size))
    net.net.load_state_dict(weights)
    return net.eval()


def _place(name: str) -> tuple[str, str | None]:
    """A folder as it is; of a hub's name what lies behind OWNER/NAME apart."""
    parts = name.split("/")
    if os.path.isdir(name) or len(parts) < 3 or not parts[0]:
        return name, None
    return "/".join(parts[:2]), "/".join(parts[2:])
