"""The U-Net of MCVD: NCSN++ residual blocks that are told the time, and what is known.

What depends on the time alone (`when`) and on what is known alone (`see`) is computed apart from what depends
on the noisy frames (`forward`), so that a sampler computes the first two once for all its steps.

    out = unet(x, unet.when(label), unet.see(cond))

Sections: resampling - norms - residual block - U-Net.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.nets.attention import SpatialAttention
from maskworld.nets.embed import sinusoidal

# -- resampling -----------------------------------------------------------------------------------


class Resample(nn.Module):
    """Twice smaller or twice larger through the FIR filter [1, 3, 3, 1], as one depthwise convolution."""

    kernel: Tensor

    def __init__(self, dim: int, up: bool):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(taps, taps) / 64 * (4 if up else 1)
        self.register_buffer("kernel", kernel.expand(dim, 1, 4, 4).contiguous(), persistent=False)
        self.up = up

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h2 w2"]:
        resample = F.conv_transpose2d if self.up else F.conv2d
        # In bf16 a CPU takes thirty times as long for the transposed one, which is also the other's gradient.
        dtype = torch.float32 if x.device.type == "cpu" and x.dtype == torch.bfloat16 else x.dtype
        with torch.autocast(x.device.type, enabled=False):
            y = resample(x.to(dtype), self.kernel.to(dtype), stride=2, padding=1, groups=x.shape[1])
        return y.to(x.dtype)


# -- norms ----------------------------------------------------------------------------------------


def num_groups(dim: int) -> int:
    """dim / 4 groups, at most 32, lowered until they divide the width."""
    groups = min(dim // 4, 32)
    while dim % groups:
        groups -= 1
    return groups


class Map(NamedTuple):
    """SPATIN's scale (1 + gamma) and shift at every pixel of one norm."""

    scale: Float[Tensor, "b d h w"]
    shift: Float[Tensor, "b d h w"]


class Spatin(nn.Module):
    """Space-time adaptive normalisation: what is known says how each pixel is scaled and shifted (Sec. 4).

    SiLU and not ReLU after the shared convolution, and a nearest-neighbour map, as in the original.
    """

    def __init__(self, dim_cond: int, dim_hidden: int, dim: int):
        super().__init__()
        self.shared = conv3x3(dim_cond, dim_hidden)
        self.gamma = conv3x3(dim_hidden, dim)
        self.beta = conv3x3(dim_hidden, dim)

    def forward(self, cond: Float[Tensor, "b k h w"]) -> Map:
        hidden = F.silu(self.shared(cond))
        return Map(1 + self.gamma(hidden), self.beta(hidden))


class Norm(nn.Module):
    """GroupNorm, then SPATIN's map where there is one, then the time's scale and shift, then SiLU."""

    def __init__(self, dim: int, dim_time: int | None, spatin: tuple[int, int] | None):
        super().__init__()
        self.groups = num_groups(dim)
        self.eps = 1e-5 if spatin is None else 1e-6
        self.time = nn.Linear(dim_time, 2 * dim) if dim_time else None
        self.spatin = Spatin(*spatin, dim) if spatin else None
        plain = spatin is None and dim_time is None
        self.weight = nn.Parameter(torch.ones(dim)) if plain else None
        self.bias = nn.Parameter(torch.zeros(dim)) if plain else None

    def forward(
        self, x: Float[Tensor, "b d h w"], when: Float[Tensor, "n d2"] | None, seen: Map | None
    ) -> Float[Tensor, "b d h w"]:
        scale = shift = None
        if when is not None:
            scale, shift = when.to(x.dtype).chunk(2, dim=1)
        if seen is None and (scale is None or scale.shape[0] == 1):
            # One time for the whole batch: the affine part of the fused kernel does it.
            weight = self.weight if scale is None else 1 + scale[0]
            bias = self.bias if shift is None else shift[0]
            return _silu(_group_norm(x, self.groups, weight, bias, self.eps))
        h = _group_norm(x, self.groups, None, None, self.eps)
        if seen is not None:
            h = _affine(h, seen.scale, seen.shift)
        if scale is not None and shift is not None:
            h = _affine(h, 1 + scale[:, :, None, None], shift[:, :, None, None])
        return _silu(h)


def _group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)
    if slow and (torch.is_grad_enabled() or x.shape[-2] * x.shape[-1] <= 256):
        # In bf16 a CPU takes up to seven times as long with channels last: two copies cost less.
        h = F.group_norm(x.contiguous(), groups, weight, bias, eps)
        return h.contiguous(memory_format=torch.channels_last)
    return F.group_norm(x, groups, weight, bias, eps)


# In place where nothing has to be kept for a gradient: what is small and just written is still in the cache.


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, scale, out=None if torch.is_grad_enabled() else x)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not torch.is_grad_enabled())


# -- residual block -------------------------------------------------------------------------------


def conv3x3(dim_in: int, dim_out: int) -> nn.Conv2d:
    return nn.Conv2d(dim_in, dim_out, 3, padding=1)


class ResBlock(nn.Module):
    """Norm, (resample), convolve, norm, convolve, add the input and divide by sqrt(2): BigGAN's block in NCSN++."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        dim_time: int,
        spatin: tuple[int, int] | None,
        dropout: float,
        resample: str = "",
    ):
        super().__init__()
        self.norm0 = Norm(dim_in, dim_time, spatin)
        self.conv0 = conv3x3(dim_in, dim_out)
        self.norm1 = Norm(dim_out, dim_time, spatin)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = conv3x3(dim_out, dim_out)
        self.resample = Resample(dim_in, up=resample == "up") if resample else None
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if resample or dim_in != dim_out else None

    def forward(self, x: Tensor, when: Sequence[Tensor], seen: Sequence[Map | None]) -> Tensor:
        h = self.norm0(x, when[0], seen[0])
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.norm1(self.conv0(h), when[1], seen[1])
        h = self.conv1(self.dropout(h))
        if self.skip is not None:
            x = self.skip(x)
        if torch.is_grad_enabled():
            return (x + h) * 2**-0.5
        return h.add_(x).mul_(2**-0.5)


# -- U-Net ----------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What the network makes of the known frames, before it has looked at any noisy one."""

    stem: Float[Tensor, "b d h w"] | None
    maps: list[Map | None]  # one for each norm, in the order of `UNet.norms`


class UNet(nn.Module):
    """MCVD's network, App. A. x holds `dim_x` channels of noisy frames, cond `dim_cond` of known ones.

    multiples   width of each level, in units of `width`; the first is the finest
    blocks      residual blocks on each level
    attention   sizes of the feature maps that have attention; the coarsest, in the middle, always has
    spatin      hidden width of SPATIN; None concatenates the known frames to the noisy ones
    flagged     the network is told whether the past was shown (`cond_emb` in the original)

    Raises ValueError for a size that the levels cannot halve.
    """

    def __init__(
        self,
        *,
        size: int,
        dim_x: int,
        dim_cond: int,
        dim_out: int,
        width: int,
        multiples: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        dim_head: int,
        dropout: float,
        spatin: int | None = None,
        flagged: bool = False,
    ):
        super().__init__()
        levels = len(multiples)
        if size % 2 ** (levels - 1):
            raise ValueError(f"{levels} levels halve the frame {levels - 1} times: {size} cannot be")
        self.dim_x, self.dim_cond, self.size, self.width = dim_x, dim_cond, size, width
        dim_time = 4 * width + (width // 2 if flagged else 0)
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.flag = nn.Embedding(2, width // 2) if flagged else None
        self.stem = conv3x3(dim_x + (0 if spatin else dim_cond), width)
        spade = (dim_cond, spatin) if spatin else None

        def block(dim_in: int, dim_out: int, resample: str = "") -> ResBlock:
            return ResBlock(dim_in, dim_out, dim_time, spade, dropout, resample)

        def attend(dim: int) -> SpatialAttention:
            return SpatialAttention(dim, dim_head, num_groups(dim))

        # Modules stand in the order of the original, so that its checkpoints can be walked beside them.
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, dim, at = [width], width, size
        for i, multiple in enumerate(multiples):
            for _ in range(blocks):
                self.down.append(block(dim, width * multiple))
                dim = width * multiple
                if at in attention:
                    self.down.append(attend(dim))
                skips.append(dim)
            if i < levels - 1:
                self.down.append(block(dim, dim, "down"))
                skips.append(dim)
                at //= 2
        self.middle = nn.ModuleList([block(dim, dim), attend(dim), block(dim, dim)])
        for i, multiple in reversed(list(enumerate(multiples))):
            for _ in range(blocks + 1):
                self.up.append(block(dim + skips.pop(), width * multiple))
                dim = width * multiple
            if at in attention:
                self.up.append(attend(dim))
            if i > 0:
                self.up.append(block(dim, dim, "up"))
                at *= 2
        assert not skips, f"{len(skips)} skips were never used"
        self.norm = Norm(dim, None, spade)
        self.out = conv3x3(dim, dim_out)
        self._initialise()

    def _initialise(self) -> None:
        """Uniform with variance 1 / fan_avg, scaled by 0.1 in attention; nearly zero where a branch ends."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _variance_scaling(module, 1.0)
        for module in self.modules():
            if isinstance(module, SpatialAttention):
                for part in module.qkv.weight.data.chunk(3):
                    _uniform(part, 0.1, part.shape[0] + part.shape[1])
                _variance_scaling(module.out, 1e-10)
            elif isinstance(module, ResBlock):
                _variance_scaling(module.conv1, 1e-10)
        _variance_scaling(self.out, 1e-10)

    @property
    def norms(self) -> list[Norm]:
        """The norms that know the time or the known frames, in the order in which they are passed."""
        found = []
        for module in [*self.down, *self.middle, *self.up]:
            if isinstance(module, ResBlock):
                found += [module.norm0, module.norm1]
        return [*found, self.norm]

    def when(
        self, label: Float[Tensor, " n"] | Int[Tensor, " n"], flag: Int[Tensor, " n"] | None = None
    ) -> list[Tensor]:
        """The scale and shift that these times give to every norm."""
        embedded = self.time(sinusoidal(label.float(), self.width).to(self.stem.weight.dtype))
        if self.flag is not None:
            flag = torch.ones_like(label, dtype=torch.long) if flag is None else flag
            embedded = torch.cat([embedded, self.flag(flag)], dim=1)
        embedded = F.silu(embedded)
        return [norm.time(embedded) for norm in self.norms if norm.time is not None]

    def see(self, cond: Float[Tensor, "b k h w"]) -> Seen:
        """The stem's response to the known frames, or SPATIN's maps of them at every level."""
        norms = self.norms
        if self.norm.spatin is None:
            stem = F.conv2d(cond, self.stem.weight[:, self.dim_x :], padding=1) if self.dim_cond else None
            return Seen(stem, [None] * len(norms))
        smaller = {cond.shape[-1]: cond}
        maps: list[Map | None] = []
        for norm, size in zip(norms, self._sizes(cond.shape[-1]), strict=True):
            if size not in smaller:
                smaller[size] = F.interpolate(cond, size=(size, size), mode="nearest")
            assert norm.spatin is not None
            maps.append(norm.spatin(smaller[size]))
        return Seen(None, maps)

    def _sizes(self, size: int) -> list[int]:
        """The size of the feature map at each of `norms`."""
        sizes = []
        for module in [*self.down, *self.middle, *self.up]:
            if isinstance(module, ResBlock):
                sizes.append(size)
                if module.resample is not None:
                    size = size * 2 if module.resample.up else size // 2
                sizes.append(size)
        return [*sizes, size]

    def forward(self, x: Float[Tensor, "b dx h w"], when: Sequence[Tensor], seen: Seen) -> Tensor:
        """The network's output for noisy frames x; each of `when` has one row, or one for each example."""
        times, maps = iter(when), iter(seen.maps)

        def run(module: nn.Module, h: Tensor) -> Tensor:
            if isinstance(module, ResBlock):
                return module(h, (next(times), next(times)), (next(maps), next(maps)))
            return module(h)

        h = F.conv2d(x, self.stem.weight[:, : self.dim_x], self.stem.bias, padding=1)
        if seen.stem is not None:
            h = h + seen.stem
        skips = [h]
        for i, module in enumerate(self.down):
            h = run(module, h)
            if i + 1 == len(self.down) or not isinstance(self.down[i + 1], SpatialAttention):
                skips.append(h)
        for module in self.middle:
            h = run(module, h)
        for module in self.up:
            joins = isinstance(module, ResBlock) and module.resample is None
            h = run(module, torch.cat([h, skips.pop()], dim=1) if joins else h)
        h = self.norm(h, None, next(maps))
        assert next(times, None) is None and next(maps, None) is None, "a time or a map was left over"
        return self.out(h)


def _variance_scaling(layer: nn.Conv2d | nn.Linear, scale: float) -> None:
    area = math.prod(layer.weight.shape[2:])
    _uniform(layer.weight.data, scale, (layer.weight.shape[0] + layer.weight.shape[1]) * area)
    if layer.bias is not None:
        layer.bias.data.zero_()


def _uniform(weight: Tensor, scale: float, fans: int) -> None:
    bound = math.sqrt(3 * scale * 2 / fans)
    weight.uniform_(-bound, bound)


def to_depth(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b d gh gw"]:
    """Pixels of a factor x factor square become channels."""
    return rearrange(x, "b c (gh kh) (gw kw) -> b (c kh kw) gh gw", kh=factor, kw=factor)


def from_depth(x: Float[Tensor, "b d gh gw"], factor: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `to_depth`."""
    return rearrange(x, "b (c kh kw) gh gw -> b c (gh kh) (gw kw)", kh=factor, kw=factor)
