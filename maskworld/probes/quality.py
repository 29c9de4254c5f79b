"""How close frames are to the truth, and how close a set of clips is to another set.

Frames are in [-1, 1] as in a Clip; every error is measured on [0, 1]. Benchmarks differ in what PSNR is
averaged over and what SSIM sees, and the same clips change by decibels with it: a `Protocol` says which.

Sections: protocols - errors - SSIM - distances between sets - extractors.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

PSNR_CEILING = 100.0
"""Decibels given to identical frames: a mean with one infinity in it says nothing. It is an MSE of 1e-10."""

# -- protocols ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """Everything that must be equal before two tables may be compared.

    psnr_over   "clip": PSNR of the MSE over all frames; "frame": mean of the PSNR of each frame
    sums        MSE and MAE are sums over the pixels of a frame and not means
    clamp       predictions are cut to [0, 1] before MSE and MAE too (before PSNR and SSIM they always are)
    ssim_sees   what SSIM is given: 8-bit pixels cut off ("truncated") or "rounded", or "floats" in [0, 1]
    binary      0 or 1, whichever is nearer, before SSIM (the rule for MNIST)
    window      of SSIM: "gaussian" (sigma 1.5, 11 taps, population covariance) or
                "uniform" (7x7, sample covariance)
    ssim_range  what SSIM takes as the range of the values
    colour      SSIM of the "luma" or the mean over "channels"
    """

    name: str
    psnr_over: Literal["clip", "frame"] = "clip"
    sums: bool = False
    clamp: bool = True
    ssim_sees: Literal["truncated", "rounded", "floats"] = "rounded"
    binary: bool = False
    window: Literal["gaussian", "uniform"] = "gaussian"
    ssim_range: float = 255.0
    colour: Literal["luma", "channels"] = "luma"

    def __post_init__(self) -> None:
        for field, allowed in (
            ("psnr_over", ("clip", "frame")),
            ("ssim_sees", ("truncated", "rounded", "floats")),
            ("window", ("gaussian", "uniform")),
            ("colour", ("luma", "channels")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is one of {', '.join(allowed)}, not {getattr(self, field)!r}")
        if not self.ssim_range > 0:
            raise ValueError(f"ssim_range is more than 0, not {self.ssim_range}")


MCVD = Protocol("mcvd", ssim_sees="truncated")
"""MCVD, Sec. 4 and its code: PSNR of the clip's MSE, SSIM of luma bytes that were cut off and not rounded."""

MCVD_DIGITS = Protocol("mcvd-digits", ssim_sees="truncated", binary=True)
"""As `MCVD` on (moving) MNIST, where SSIM sees black and white only; MSE and PSNR see grey."""

OPENSTL = Protocol(
    "openstl",
    psnr_over="frame",
    sums=True,
    clamp=False,
    ssim_sees="floats",
    window="uniform",
    ssim_range=2.0,  # what scikit-image up to 0.19, to which it is pinned, takes for floats
    colour="channels",
)
"""OpenSTL (Tan et al. 2023): sums over pixels, PSNR frame by frame, SSIM with a 7x7 box on floats."""

PROTOCOLS = (MCVD, MCVD_DIGITS, OPENSTL)


def protocol_of(name: str) -> Protocol:
    """A protocol by its name."""
    by_name = {protocol.name: protocol for protocol in PROTOCOLS}
    if name not in by_name:
        raise ValueError(f"no protocol {name!r}{_did_you_mean(name, list(by_name))}")
    return by_name[name]


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


# -- errors ---------------------------------------------------------------------------------------


def unit(frames: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """[-1, 1] -> [0, 1], and cut to it."""
    return ((frames + 1) / 2).clamp(0, 1)


def _error(
    pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"], clamp: bool
) -> Float[Tensor, "*n t c h w"]:
    """The difference on [0, 1]; what is made of it is added up in float64."""
    if pred.shape != truth.shape:
        raise ValueError(f"frames of {tuple(pred.shape)} are compared with frames of {tuple(truth.shape)}")
    return unit(pred) - unit(truth) if clamp else (pred - truth) / 2


def mse(
    pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"], protocol: Protocol = MCVD
) -> Float[Tensor, " *n"]:
    """Squared error: the mean over everything, or with `protocol.sums` summed over a frame's pixels."""
    return _averaged(_error(pred, truth, protocol.clamp).square(), protocol)


def mae(
    pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"], protocol: Protocol = MCVD
) -> Float[Tensor, " *n"]:
    """Absolute error, averaged as `mse`."""
    return _averaged(_error(pred, truth, protocol.clamp).abs(), protocol)


def _averaged(error: Float[Tensor, "*n t c h w"], protocol: Protocol) -> Float[Tensor, " *n"]:
    of_frame = torch.sum if protocol.sums else torch.mean
    return of_frame(error, (-3, -2, -1), dtype=torch.float64).mean(-1)


def decibels(mean_squared: Float[Tensor, " *n"]) -> Float[Tensor, " *n"]:
    """10 log10(1 / MSE), at most `PSNR_CEILING`."""
    return -10 * torch.log10(mean_squared.clamp(min=10 ** (-PSNR_CEILING / 10)))


def psnr_frames(pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"]) -> Float[Tensor, "*n t"]:
    """PSNR of each frame, in decibels: a curve over time."""
    return decibels(_error(pred, truth, clamp=True).square().mean((-3, -2, -1), dtype=torch.float64))


def psnr(
    pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"], protocol: Protocol = MCVD
) -> Float[Tensor, " *n"]:
    """PSNR of each clip, in decibels: of its whole MSE or the mean over its frames, as the protocol says."""
    if protocol.psnr_over == "frame":
        return psnr_frames(pred, truth).mean(-1)
    return decibels(_error(pred, truth, clamp=True).square().mean((-4, -3, -2, -1), dtype=torch.float64))


# -- SSIM -----------------------------------------------------------------------------------------


def ssim_frames(
    pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"], protocol: Protocol = MCVD
) -> Float[Tensor, "*n t"]:
    """Structural similarity of each frame (Wang et al. 2004), equal to scikit-image's, which tables hold.

    Raises ValueError where a frame is smaller than the window.
    """
    if pred.shape != truth.shape:
        raise ValueError(f"frames of {tuple(pred.shape)} are compared with frames of {tuple(truth.shape)}")
    h, w = pred.shape[-2:]
    taps, covariance = _window(protocol)
    if min(h, w) < len(taps):
        raise ValueError(f"SSIM looks through {len(taps)}x{len(taps)} pixels; the frames have {h}x{w}")
    x, y = _seen(pred, protocol), _seen(truth, protocol)

    # A separable filter as two banded matrices: many small frames go through it five times as fast as
    # through a convolution in float64. Only whole windows count, so there is no padding.
    down, across = _band(taps, h).to(x), _band(taps, w).to(x)

    def blur(image: Tensor) -> Tensor:
        return down @ image @ across.mT

    mean_x, mean_y = blur(x), blur(y)
    var_x = covariance * (blur(x * x) - mean_x**2)
    var_y = covariance * (blur(y * y) - mean_y**2)
    cov = covariance * (blur(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * protocol.ssim_range) ** 2, (0.03 * protocol.ssim_range) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    likeness = likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return likeness.mean((-3, -2, -1))


def ssim(
    pred: Float[Tensor, "*n t c h w"], truth: Float[Tensor, "*n t c h w"], protocol: Protocol = MCVD
) -> Float[Tensor, " *n"]:
    """Structural similarity of each clip: the mean over its frames."""
    return ssim_frames(pred, truth, protocol).mean(-1)


def _window(protocol: Protocol) -> tuple[Float[Tensor, " taps"], float]:
    """The taps of one direction, and what turns population covariance into the one that is asked for."""
    if protocol.window == "uniform":
        return torch.full((7,), 1 / 7, dtype=torch.float64), 49 / 48
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    return taps / taps.sum(), 1.0


def _band(taps: Float[Tensor, " taps"], length: int) -> Float[Tensor, "out length"]:
    out = length - len(taps) + 1
    band = torch.zeros(out, length, dtype=torch.float64)
    for place, tap in enumerate(taps.tolist()):
        band.diagonal(place)[:] = tap
    return band


def _seen(frames: Float[Tensor, "*n t c h w"], protocol: Protocol) -> Float[Tensor, "*n t k h w"]:
    """What SSIM is given of frames in [-1, 1], in float64."""
    value = unit(frames)
    if protocol.binary:
        value = value.round()
    if protocol.ssim_sees != "floats":
        value = value * 255
        value = value.floor() if protocol.ssim_sees == "truncated" else value.round()
    value = value.double()
    channels = value.shape[-3]
    if protocol.colour == "channels" or channels == 1:
        return value
    if channels != 3:
        raise ValueError(f"luma is of 3 channels, red, green and blue; these frames have {channels}")
    # ITU-R 601 in 16-bit fixed point, as Pillow converts to "L"; floats need no rounding.
    weights = torch.tensor([19595.0, 38470.0, 7471.0], dtype=torch.float64, device=value.device)
    luma = (value * weights[:, None, None]).sum(-3, keepdim=True)
    return luma / 65536 if protocol.ssim_sees == "floats" else ((luma + 32768) / 65536).floor()


# -- distances between sets -----------------------------------------------------------------------


def frechet(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """The squared Frechet distance of two Gaussians fitted to features (Heusel et al. 2017, Eq. 6).

    Covariances are unbiased. It shrinks with the number of clips: compare only values of equal n.

    The trace of (S_real S_fake)^1/2 is the sum of the singular values of X_fake X_real^T, with X the centred
    features over sqrt(n - 1). So there is no square root of a near-singular matrix to take, which is where
    this distance is usually lost, and it holds for fewer clips than features too.
    """
    _sets(real, fake)
    x, y = real.double(), fake.double()
    difference = x.mean(0) - y.mean(0)
    x = (x - x.mean(0)) / math.sqrt(x.shape[0] - 1)
    y = (y - y.mean(0)) / math.sqrt(y.shape[0] - 1)
    shared = torch.linalg.svdvals(_triangle(y) @ _triangle(x).mT).sum()
    value = difference.square().sum() + x.square().sum() + y.square().sum() - 2 * shared
    return max(0.0, value.item())  # below zero by rounding alone


def _triangle(x: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
    """A shorter matrix of the same x^T x."""
    return torch.linalg.qr(x, mode="r").R if x.shape[0] > x.shape[1] else x


def kernel_mmd(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Unbiased squared MMD with the kernel (x y / d + 1)^3 (Binkowski et al. 2018, KID); may be negative."""
    _sets(real, fake)
    x, y = real.double(), fake.double()
    n, m, d = x.shape[0], y.shape[0], x.shape[1]
    xx, yy, xy = ((a @ b.mT / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within_x = (xx.sum() - xx.diagonal().sum()) / (n * (n - 1))
    within_y = (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    return (within_x + within_y - 2 * xy.mean()).item()


def _sets(real: Tensor, fake: Tensor) -> None:
    if min(real.shape[0], fake.shape[0]) < 2:
        raise ValueError("a distance between sets wants at least two clips in each")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of {real.shape[1]} are compared with features of {fake.shape[1]}")
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise ValueError("features that are not finite")


# -- extractors -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extractor:
    """Features of clips, always named: distances over different features are different quantities.

    `features` takes frames in [-1, 1], at least `min_frames` of them; ask it through `extract`.
    """

    name: str
    features: Callable[[Float[Tensor, "n t c h w"]], Float[Tensor, "n d"]]
    min_frames: int = 1


def extract(extractor: Extractor, frames: Float[Tensor, "n t c h w"], chunk: int = 16) -> Float[Tensor, "n d"]:
    """Features on the CPU, a few clips at a time. Raises ValueError for clips that are too short."""
    if frames.shape[1] < extractor.min_frames:
        raise ValueError(f"{extractor.name} looks at {extractor.min_frames} frames or more, not at {frames.shape[1]}")
    with torch.no_grad():
        return torch.cat([extractor.features(part.clamp(-1, 1)).float().cpu() for part in frames.split(chunk)])


def extractor_of(text: str, device: torch.device | str = "cpu") -> Extractor:
    """An extractor by its name: pixels8, random3d, domain:PATH, torchscript:PATH or hf:NAME_OR_PATH.

    Raises ValueError for any other, and where the file or package behind it is not there.
    """
    kind, colon, rest = text.partition(":")
    plain = {"pixels8": pixels8, "random3d": random3d}
    loaded = {"domain": _domain, "torchscript": torchscript, "hf": video_transformer}
    if not colon and kind in plain:
        return plain[kind]()
    if colon and rest and kind in loaded:
        return loaded[kind](rest, device)
    if kind in loaded:
        raise ValueError(f"{kind}: which one? as in {kind}:{'NAME_OR_PATH' if kind == 'hf' else 'PATH'}")
    if kind in plain:
        raise ValueError(f"{kind} takes nothing after its name, not {rest!r}")
    names = [*plain, *(f"{name}:" for name in loaded)]
    raise ValueError(f"no extractor {text!r}{_did_you_mean(kind + colon, names)}")


def _domain(path: str, device: torch.device | str) -> Extractor:
    from maskworld.probes import domain

    return domain.extractor(Path(path), device)


def _some(frames: Float[Tensor, "n t c h w"], count: int) -> Float[Tensor, "n count c h w"]:
    """`count` frames, evenly spaced from the first to the last; some twice where there are fewer."""
    return frames[:, torch.linspace(0, frames.shape[1] - 1, count).round().long()]


def _three(frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n t 3 h w"]:
    """Grey as red, green and blue."""
    if frames.shape[2] not in (1, 3):
        raise ValueError(f"this extractor sees grey or colour, not {frames.shape[2]} channels")
    return frames.expand(-1, -1, 3, -1, -1)


def pixels8() -> Extractor:
    """Four frames of the clip, each averaged to 8x8: the crudest look: layout and light alone."""

    def features(frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n d"]:
        n = frames.shape[0]
        small = F.adaptive_avg_pool2d(rearrange(_some(frames.float(), 4), "n t c h w -> (n t) c h w"), 8)
        return rearrange(small, "(n t) c h w -> n (t c h w)", n=n)

    return Extractor("pixels8", features)


def random3d() -> Extractor:
    """Moments of a 3D convolutional net whose weights are random and always the same (seed 0).

    A weak yardstick, comparable only with itself: it sees edges and motion, and no meaning. Three layers of
    3x3x3 with ReLU at 64x64 pixels; of each channel its mean and spread over space and time: 448 features.
    """
    rng = torch.Generator().manual_seed(0)
    widths, strides = (3, 32, 64, 128), ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    kernels = [
        torch.randn(out, into, 3, 3, 3, generator=rng) * math.sqrt(2 / (27 * into))
        for into, out in itertools.pairwise(widths)
    ]

    def features(frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n d"]:
        n = frames.shape[0]
        x = rearrange(_three(frames.float()), "n t c h w -> (n t) c h w")
        if x.shape[-2:] != (64, 64):
            x = F.interpolate(x, (64, 64), mode="bilinear", align_corners=False, antialias=True)
        x = rearrange(x, "(n t) c h w -> n c t h w", n=n)
        moments = []
        for kernel, stride in zip(kernels, strides, strict=True):
            x = F.relu(F.conv3d(x, kernel.to(x.device), stride=stride, padding=1))
            moments += [x.mean((2, 3, 4)), x.std((2, 3, 4), correction=0)]
        return torch.cat(moments, 1)

    return Extractor("random3d", features)


def torchscript(path: str, device: torch.device | str = "cpu") -> Extractor:
    """Any TorchScript file that takes (n, 3, t, 224, 224) in [-1, 1], prepared as for FVD.

    Made for the I3D of StyleGAN-V, whose switches are set as there (features of 400, no resizing of its own).
    The short side becomes 224, bilinear without antialiasing, and the middle is cut out; grey becomes
    three channels.
    """
    if not os.path.isfile(path):
        raise ValueError(f"torchscript:{path}: there is no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the format is frozen, and so are the files
        try:
            net = torch.jit.load(path, map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(f"torchscript:{path}: not a TorchScript file ({str(error).splitlines()[0]})") from error
    takes = {argument.name for argument in net.forward.schema.arguments}
    switches = {"rescale": False, "resize": False, "return_features": True}
    switches = {name: value for name, value in switches.items() if name in takes}

    def features(frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n d"]:
        n = frames.shape[0]
        x = rearrange(_three(frames.float()), "n t c h w -> (n t) c h w")
        x = rearrange(_square(x, 224, antialias=False), "(n t) c h w -> n c t h w", n=n)
        return net(x.to(device), **switches).flatten(1)

    return Extractor(f"torchscript:{os.path.basename(path)}", features, min_frames=10)


def _square(x: Float[Tensor, "n c h w"], size: int, antialias: bool) -> Float[Tensor, "n c size size"]:
    """The short side to `size`, then the middle."""
    scale = size / min(x.shape[-2:])
    to = [max(size, math.ceil(side * scale - 1e-6)) for side in x.shape[-2:]]
    x = F.interpolate(x, to, mode="bilinear", align_corners=False, antialias=antialias)
    top, left = (to[0] - size) // 2, (to[1] - size) // 2
    return x[..., top : top + size, left : left + size]


def video_transformer(name: str, device: torch.device | str = "cpu") -> Extractor:
    """A VideoMAE of the transformers package, from a folder or the hub: the mean of its last tokens."""
    try:
        from transformers import VideoMAEModel
    except ImportError as error:
        raise ValueError(f"hf:{name} needs transformers: pip install 'maskworld[hf]'") from error
    try:
        net = VideoMAEModel.from_pretrained(name).eval()
        torch.nn.Module.to(net, device)
    except (OSError, ValueError) as error:
        raise ValueError(f"hf:{name}: no VideoMAE there ({str(error).splitlines()[0]})") from error
    size, count = net.config.image_size, net.config.num_frames
    assert isinstance(size, int), f"frames of {size}: square ones are wanted"
    mean = torch.tensor([0.485, 0.456, 0.406], device=device)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device=device)[:, None, None]

    def features(frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n d"]:
        n = frames.shape[0]
        x = rearrange(_three(_some(frames.float().to(device), count)), "n t c h w -> (n t) c h w")
        x = (unit(_square(x, size, antialias=True)) - mean) / std
        tokens = net(rearrange(x, "(n t) c h w -> n t c h w", n=n)).last_hidden_state
        return reduce(tokens, "n l d -> n d", "mean")

    return Extractor(f"hf:{name}", features)
