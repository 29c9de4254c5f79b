"""ConvNeXt on what is visible of an image, a feature pyramid on top of it, and heads that say how far away it is.

What is hidden is an argument: `kept` is True where a cell of the image may be seen. A stage's map is exactly zero where
it is hidden, and what is visible does not depend on what is hidden (SparK, Tian et al. 2023, Sec. 3.2). Maps are kept
channels-last. Only the depthwise convolution looks beside a cell, so that all that follows it is computed at visible
cells alone: the fewer there are, the faster.

Sections: depthwise convolution - visible cells - ConvNeXt - pyramid - depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Size = tuple[tuple[int, ...], tuple[int, ...]]

TINY: Size = (96, 192, 384, 768), (3, 3, 9, 3)
SMALL: Size = (96, 192, 384, 768), (3, 3, 27, 3)
BASE: Size = (128, 256, 512, 1024), (3, 3, 27, 3)
"""`dims` and `depths` of ConvNeXt-T, -S and -B (Liu et al. 2022, Sec. 3)."""

# -- depthwise convolution --------------------------------------------------------------------------

KERNEL = 7


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are convolutions, too.

    On a CPU the gradient that PyTorch has for the weights takes twenty times as long as the convolution. It is what
    one finds where the incoming gradient, as one large kernel for each image and channel, slides over the input.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=KERNEL // 2, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        n, c = x.shape[:2]
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = F.conv2d(grad, weight.flip(2, 3), padding=KERNEL // 2, groups=c)
        if ctx.needs_input_grad[1]:
            image, kernel = rearrange(x, "n c h w -> 1 (n c) h w"), rearrange(grad, "n c h w -> (n c) 1 h w")
            found = F.conv2d(image, kernel, padding=KERNEL // 2, groups=n * c)
            of_weight = rearrange(found, "1 (n c) kh kw -> n c 1 kh kw", n=n).sum(0)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def depthwise(
    x: Float[Tensor, "n c h w"], weight: Float[Tensor, "c 1 7 7"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "n c h w"]:
    """Each channel through a 7 x 7 kernel of its own, zeros outside; in the type of autocast where that is on."""
    kind = x.device.type
    if kind != "cpu":
        return F.conv2d(x, weight, bias, padding=KERNEL // 2, groups=x.shape[1])
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return _Depthwise.apply(x.to(dtype), weight.to(dtype), bias.to(dtype))  # pyright: ignore[reportReturnType]


# -- visible cells ----------------------------------------------------------------------------------

Maps = Float[Tensor, "n h w c"]
"""Channels last."""


def _cells(x: Maps, places: Int[Tensor, " m"] | None) -> Float[Tensor, "*m c"]:
    """The visible cells of the maps as rows; the maps as they are where all is visible."""
    return x if places is None else x.flatten(0, 2).index_select(0, places)


def _lay(x: Float[Tensor, "*m c"], places: Int[Tensor, " m"] | None, size: tuple[int, int, int]) -> Maps:
    """Rows back at their places, and zeros elsewhere."""
    if places is None:
        return x
    n, h, w = size
    return x.new_zeros(n * h * w, x.shape[-1]).index_copy(0, places, x).view(n, h, w, -1)


def _at(kept: Bool[Tensor, "n gh gw"], h: int, w: int) -> Bool[Tensor, "n h w"]:
    gh, gw = kept.shape[1:]
    return repeat(kept, "n gh gw -> n (gh kh) (gw kw)", kh=h // gh, kw=w // gw)


def _conv(layer: nn.Conv2d, x: Maps) -> Float[Tensor, "n h2 w2 d"]:
    return rearrange(layer(rearrange(x, "n h w c -> n c h w")), "n d h w -> n h w d")


# -- ConvNeXt ---------------------------------------------------------------------------------------


class Block(nn.Module):
    """A depthwise convolution, a norm over channels, two layers; added to what came in (Liu et al. 2022, Fig. 4)."""

    def __init__(self, dim: int, layer_scale: float):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim))

    def forward(self, x: Maps, places: Int[Tensor, " m"] | None, weight: Float[Tensor, " n"] | None) -> Maps:
        """`weight` says how much of each image's branch is added: 0 where it is dropped."""
        bias = self.dwconv.bias
        assert bias is not None
        y = depthwise(rearrange(x, "n h w c -> n c h w"), self.dwconv.weight, bias)
        y = self.norm(_cells(rearrange(y, "n c h w -> n h w c"), places))
        # The scale of the layer is folded into its last weights: they are smaller than the maps.
        last, shift = self.gamma[:, None] * self.pwconv2.weight, self.gamma * self.pwconv2.bias
        y = F.linear(F.gelu(self.pwconv1(y)), last, shift).to(x.dtype)
        if places is None:
            return x + y if weight is None else torch.addcmul(x, y, weight.to(y.dtype)[:, None, None, None])
        if weight is not None:
            image = places // (x.shape[1] * x.shape[2])
            y = y * weight.to(y.dtype)[image, None]
        return x.flatten(0, 2).index_add(0, places, y).view_as(x)


class MaskedConvNeXt(nn.Module):
    """ConvNeXt that sees the kept cells of its images alone. Weights are named as in the original.

    dims, depths  width and number of blocks of each stage; `TINY`, `SMALL`, `BASE`
    stem          pixels to a side of the first stage's cells; each further stage halves the resolution
    drop_path     part of the blocks' branches that are dropped in training, rising from 0 to this over the blocks
    layer_scale   at the start, how much of a branch is added
    normed        which stages' maps have a norm before they are given out: all of them, or the last one alone

    Raises ValueError for dims and depths that do not belong together.
    """

    def __init__(
        self,
        channels: int = 3,
        dims: Sequence[int] = TINY[0],
        depths: Sequence[int] = TINY[1],
        stem: int = 4,
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
        normed: Literal["all", "last"] = "all",
    ):
        super().__init__()
        if not dims or len(dims) != len(depths):
            raise ValueError(f"dims and depths have one number for each stage, not {tuple(dims)} and {tuple(depths)}")
        if min(*dims, *depths, stem, channels) < 1:
            raise ValueError(f"dims {tuple(dims)}, depths {tuple(depths)}, stem {stem}: all are 1 or more")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is from 0 to less than 1, not {drop_path}")
        self.strides = tuple(stem * 2**i for i in range(len(dims)))
        norm = lambda dim: nn.LayerNorm(dim, eps=1e-6)
        self.downsample_layers = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(channels, dims[0], stem, stem), norm(dims[0])])]
        )
        for narrow, wide in pairwise(dims):
            self.downsample_layers.append(nn.ModuleList([norm(narrow), nn.Conv2d(narrow, wide, 2, 2)]))
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(dim, layer_scale) for _ in range(depth))
            for dim, depth in zip(dims, depths, strict=True)
        )
        last = len(dims) - 1
        self.norms = nn.ModuleDict({str(i): norm(dim) for i, dim in enumerate(dims) if normed == "all" or i == last})
        num = sum(depths)
        self.drops = tuple(drop_path * i / max(num - 1, 1) for i in range(num))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    @property
    def num_blocks(self) -> int:
        return len(self.drops)

    def forward(
        self,
        images: Float[Tensor, "n c h w"],
        kept: Bool[Tensor, "n gh gw"] | None = None,
        chance: Float[Tensor, "n blocks"] | None = None,
    ) -> list[Float[Tensor, "n _ _ _"]]:
        """A map of each stage, finest first: zero where nothing is kept.

        `kept` is True at visible cells; None is all of them. `chance` are numbers from 0 to 1 (excluded), one for each
        image and block, that say which branches are dropped in training; without them they are drawn as dropout is.
        Raises ValueError for images that the coarsest cells do not divide, or a grid that does not divide those cells.
        """
        n, _, h, w = images.shape
        coarsest = self.strides[-1]
        if h % coarsest or w % coarsest:
            raise ValueError(f"images of {h} x {w} pixels: both sides must be multiples of {coarsest}")
        if kept is not None:
            kept = kept.to(images.device)
            gh, gw = kept.shape[1:]
            if (h // coarsest) % gh or (w // coarsest) % gw:
                raise ValueError(
                    f"a grid of {gh} x {gw} does not divide the {h // coarsest} x {w // coarsest} coarsest cells"
                    f" of an image of {h} x {w} pixels"
                )
            images = images.masked_fill(~_at(kept, h, w)[:, None], 0.0)
        weights = self._weights(n, images.device, chance)
        x = rearrange(images, "n c h w -> n h w c")
        found, block = [], 0
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            size = n, h // self.strides[i], w // self.strides[i]
            places = None if kept is None else _at(kept, *size[1:]).flatten().nonzero()[:, 0]
            # A visible cell is made of visible ones alone: what a norm or a bias writes into hidden ones is not read.
            for layer in down.children():
                x = _conv(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
            x = _lay(_cells(x, places), places, size)
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            for layer in stage.children():
                x = layer(x, places, weights[block])
                block += 1
            out = x
            if str(i) in self.norms:
                out = _lay(self.norms[str(i)](_cells(x, places)), places, size)
            found.append(rearrange(out, "n h w c -> n c h w"))
        return found

    def _weights(
        self, n: int, device: torch.device, chance: Float[Tensor, "n blocks"] | None
    ) -> list[Float[Tensor, " n"] | None]:
        """Of each block's branch in each image: 0, or so much that the mean is 1."""
        if not self.training:
            return [None] * self.num_blocks
        if chance is None:
            return [F.dropout(torch.ones(n, device=device), p) if p else None for p in self.drops]
        if chance.shape != (n, self.num_blocks):
            raise ValueError(f"chance has a number for each of {n} images and {self.num_blocks} blocks")
        chance = chance.to(device)
        return [(chance[:, i] >= p).to(chance.dtype) / (1 - p) if p else None for i, p in enumerate(self.drops)]


# -- pyramid ----------------------------------------------------------------------------------------


class FPN(nn.Module):
    """Maps of one width from a backbone's: each is told what the coarser ones know (Lin et al. 2017, Sec. 3).

    dims    widths of the maps that come in, finest first
    levels  maps that go out, finest first; more than come in are each made from the one before, at half its resolution

    Raises ValueError for no maps in or out.
    """

    def __init__(self, dims: Sequence[int], dim: int, levels: int):
        super().__init__()
        if not dims or levels < 1:
            raise ValueError(f"a pyramid of {levels} levels from maps of {tuple(dims)} channels: at least one of each")
        self.lateral = nn.ModuleList(nn.Conv2d(each, dim, 1) for each in dims)
        self.out = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(min(levels, len(dims))))
        self.extra = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, padding=1) for _ in range(levels - len(dims)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Float[Tensor, "n _ _ _"]]) -> list[Float[Tensor, "n d _ _"]]:
        """Raises ValueError where there are other maps than it was made for."""
        if len(maps) != len(self.lateral):
            raise ValueError(f"{len(maps)} maps for a pyramid of {len(self.lateral)}")
        sides = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for i in range(len(sides) - 1, 0, -1):
            sides[i - 1] = sides[i - 1] + F.interpolate(sides[i], size=sides[i - 1].shape[-2:], mode="nearest")
        found = [out(side) for out, side in zip(self.out, sides[: len(self.out)], strict=True)]
        for extra in self.extra:
            found.append(extra(F.relu(found[-1])))
        return found


# -- depth ------------------------------------------------------------------------------------------


class DepthHead(nn.Module):
    """How likely each bin of depth is at each place: one layer."""

    def __init__(self, dim: int, bins: int):
        super().__init__()
        self.out = nn.Conv2d(dim, bins, 1)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n k h w"]:
        return self.out(x).float().softmax(1)


def _groups(dim: int) -> int:
    """Of 8 channels or more, at most 32."""
    return max(g for g in range(1, 33) if dim % g == 0 and (g == 1 or dim // g >= 8))


def _convolve(dim: int, wide: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    # differs: groups of channels are normalised and not batches, so that an image's depth is its own matter.
    conv = nn.Conv2d(dim, wide, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(_groups(wide), wide), nn.ReLU())


class _Residual(nn.Module):
    """Two convolutions, added to what came in (He et al. 2016)."""

    def __init__(self, dim: int):
        super().__init__()
        self.one, self.two = _convolve(dim, dim, 3), _convolve(dim, dim, 3)[:2]

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        return F.relu(x + self.two(self.one(x)))


class DepthNet(nn.Module):
    """As `DepthHead`, with a network of its own before it: residual blocks, and a look around at several distances and
    at the whole image at once (ASPP, Chen et al. 2017; BEVDepth, Li et al. 2023, Sec. 3.2).

    wide       channels of each look around
    dilations  how far apart its places lie, in cells
    dropout    of what the looks around found, in training
    """

    def __init__(
        self,
        dim: int,
        bins: int,
        wide: int = 96,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.5,
    ):
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations of 1 or more, not {tuple(dilations)}")
        self.first = _convolve(dim, dim, 3)
        self.blocks = nn.Sequential(*[_Residual(dim) for _ in range(3)])
        self.around = nn.ModuleList(_convolve(dim, wide, 1 if d == 1 else 3, d) for d in dilations)
        self.whole = _convolve(dim, wide, 1)
        self.join = _convolve((len(dilations) + 1) * wide, dim, 1)
        self.dropout = dropout
        self.head = DepthHead(dim, bins)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n k h w"]:
        x = self.blocks(self.first(x))
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        y = self.join(torch.cat([*(look(x) for look in self.around), whole], dim=1))
        return self.head(F.dropout(y, self.dropout, self.training))
