"""Patch features of DINOv2 (Oquab et al. 2023), frozen, as codes. Needs the package transformers.

A checkpoint holds DINOv2's weights too, so that whoever reads it needs no hub. There are other pictures of the world
than ours: frames are resized without torchvision and normed as ImageNet was.

Sections: configuration - the tokenizer - pre-trained weights - the objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.nets.quantise import float32
from maskworld.noise import Rng
from maskworld.tokenizers.base import check_fits
from maskworld.tokenizers.distil import Distil
from maskworld.tokenizers.vqvae import check_widths, for_each
from maskworld.verbs import Known, Loss

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels on [0, 1]: x is normed as (x - mean) / std."""

ARCHITECTURE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "image_size", "qkv_bias",
    "layer_norm_eps", "use_swiglu_ffn",
)  # fmt: skip
"""What transformers must be told to build the network again."""

# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """`architecture` is DINOv2's, by transformers' names. The frame is resized so that it has a patch for each code.

    `widths` are of the painter, channels after each halving of the frame; their number says how large the grid is.
    """

    architecture: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64
    channels: int = 3
    dim: int = 32
    vocab: int = 1024
    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        check_widths(self.size, self.channels, self.widths, 1)
        if self.channels not in (1, 3):
            raise ValueError(f"DINOv2 reads grey (1 channel) or colour (3), not {self.channels} channels")
        extra, missing = set(self.architecture) - set(ARCHITECTURE), set(ARCHITECTURE) - set(self.architecture)
        if extra or missing:
            raise ValueError(f"DINOv2's architecture lacks {sorted(missing)} and has {sorted(extra)} too much")


# -- the tokenizer --------------------------------------------------------------------------------


class DINOTokenizer(nn.Module):
    """The features of every patch, as codes; a painter shows what they say. DINOv2 itself learns nothing."""

    paints = True

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.size, self.channels = config.size, config.channels
        self.vocab, self.dim = config.vocab, config.dim
        side = config.size // 2 ** len(config.widths)
        self.grid = (side, side)
        self.dino = _network(config.architecture)
        self.dino.requires_grad_(False)
        width = config.architecture["hidden_size"]
        self.distil = Distil(width, config.dim, config.vocab, config.channels, config.widths)

    def train(self, mode: bool = True) -> DINOTokenizer:
        super().train(mode)
        self.dino.eval()
        return self

    @torch.no_grad()
    def features(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n gh gw d"]:
        """DINOv2's, of each patch."""
        tokens = self.dino(pixel_values=self.normed(frames)).last_hidden_state[:, 1:]  # the first is of the whole
        return rearrange(tokens, "n (gh gw) d -> n gh gw d", gh=self.grid[0])

    def normed(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """What DINOv2 is shown."""
        side = self.grid[0] * self.config.architecture["patch_size"]
        with float32(frames):
            x = (frames.float() + 1) / 2
            x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1).expand(-1, 3, -1, -1)
            mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
            return (x - mean) / std

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        check_fits(frames, self.size, self.channels)
        with float32(frames):
            return self.distil.encode(self.features(frames))

    def vectors(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        return self.distil.quantiser.vectors(codes)

    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        return self.distil.decode(codes)


# -- pre-trained weights --------------------------------------------------------------------------


def _network(architecture: Mapping[str, Any]) -> nn.Module:
    transformers = _transformers()
    return transformers.Dinov2Model(transformers.Dinov2Config(**architecture))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ValueError("DINOv2 needs the package transformers: pip install 'maskworld[hf]'") from None
    return transformers


def pretrained(
    name: str, size: int, channels: int, dim: int, vocab: int, widths: tuple[int, ...] = (32, 64, 128)
) -> DINOTokenizer:
    """DINOv2 from a folder or the hub; what makes codes of it is yet to be trained.

    Raises ValueError where there are no such weights, or they are not of a DINOv2.
    """
    transformers = _transformers()
    try:
        found = transformers.AutoConfig.from_pretrained(name)
        if found.model_type != "dinov2":
            raise ValueError(f"{name} is a {found.model_type}, not a dinov2")
        weights = transformers.Dinov2Model.from_pretrained(name).state_dict()
    except OSError as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no DINOv2 weights at {name}: neither a folder with them nor on a hub that answers ({line}); "
            "a masked autoencoder (--kind mae) needs none"
        ) from None
    config = Config({key: found.to_dict()[key] for key in ARCHITECTURE}, size, channels, dim, vocab, widths)
    net = DINOTokenizer(config)
    net.dino.load_state_dict(weights)
    return net


# -- the objective --------------------------------------------------------------------------------


def objective(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
    """The features are to become codes; what is known plays no part. In training, the codebook follows."""
    assert isinstance(net, DINOTokenizer)
    frames = rearrange(clip.frames, "b v t c h w -> (b v t) c h w")
    check_fits(frames, net.size, net.channels)
    return Loss(for_each(net.distil.terms(net.features(frames), frames, rng), len(clip.frames)))
