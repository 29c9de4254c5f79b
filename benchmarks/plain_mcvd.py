"""MCVD as its authors compute it, written down plainly in float32: what `benchmarks/mcvd.py` measures ours against.

Everything is computed anew at every call of the network: the input is concatenated, the time is embedded and
projected for each block, and SPATIN's maps are made of the known frames. Resampling inserts zeros, pads, convolves
each channel as an image of its own at full resolution, and throws pixels away. Attention projects q, k and v one by
one and writes its weights out. Tensors are contiguous, channels first. The weights are those of one of our networks.

Sections: resampling - norms - blocks - network - sampling.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld import noise
from maskworld.nets.attention import SpatialAttention
from maskworld.nets.unet import Norm, ResBlock, Spatin, from_depth, to_depth
from maskworld.noise import Rng, gaussian
from maskworld.papers.mcvd import MCVD, Config

# -- resampling -----------------------------------------------------------------------------------


def fir(
    x: Float[Tensor, "b d h w"], kernel: Float[Tensor, "4 4"], up: int, down: int, pad: tuple[int, int]
) -> Float[Tensor, "b d h2 w2"]:
    """Insert zeros (`up`), pad, filter, keep every `down`-th pixel."""
    b, d, h, w = x.shape
    x = x.reshape(b * d, 1, h, 1, w, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(b * d, 1, h * up, w * up)
    x = F.conv2d(F.pad(x, (*pad, *pad)), kernel.flip(0, 1)[None, None])
    return x[:, :, ::down, ::down].reshape(b, d, h * up // down, w * up // down)


def larger(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h2 w2"]:
    return fir(x, _kernel(4.0), up=2, down=1, pad=(2, 1))


def smaller(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h2 w2"]:
    return fir(x, _kernel(1.0), up=1, down=2, pad=(1, 1))


def _kernel(gain: float) -> Float[Tensor, "4 4"]:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / taps.sum() ** 2 * gain


# -- norms ----------------------------------------------------------------------------------------


def spatin(layer: Spatin, h: Float[Tensor, "b d h w"], cond: Float[Tensor, "b k h0 w0"]) -> Float[Tensor, "b d h w"]:
    """Section 4 of the paper: a map of the known frames scales and shifts what was normalised."""
    hidden = F.silu(layer.shared(F.interpolate(cond, size=h.shape[-2:], mode="nearest")))
    return h * (1 + layer.gamma(hidden)) + layer.beta(hidden)


def norm(
    layer: Norm, x: Float[Tensor, "b d h w"], time: Float[Tensor, "b e"] | None, cond: Tensor | None
) -> Float[Tensor, "b d h w"]:
    h = F.group_norm(x, layer.groups, layer.weight, layer.bias, layer.eps)
    if layer.spatin is not None:
        assert cond is not None
        h = spatin(layer.spatin, h, cond)
    if layer.time is not None:
        assert time is not None
        scale, shift = layer.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return F.silu(h)


# -- blocks ---------------------------------------------------------------------------------------


def residual(block: ResBlock, x: Tensor, time: Tensor, cond: Tensor | None) -> Tensor:
    h = norm(block.norm0, x, time, cond)
    if block.resample is not None:
        resample = larger if block.resample.up else smaller
        h, x = resample(h), resample(x)
    h = norm(block.norm1, block.conv0(h), time, cond)
    h = block.conv1(block.dropout(h))
    if block.skip is not None:
        x = block.skip(x)
    return (x + h) / math.sqrt(2)


def attend(layer: SpatialAttention, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
    b, d, height, width = x.shape
    heads = layer.num_heads
    h = layer.norm(x)
    weights, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
    q, k, v = (
        project(h, weight, bias).reshape(b * heads, d // heads, height, width)
        for weight, bias in zip(weights, biases, strict=True)
    )
    score = torch.einsum("bchw,bcij->bhwij", q, k) * (d // heads) ** -0.5
    score = F.softmax(score.reshape(b * heads, height, width, height * width), dim=-1)
    score = score.reshape(b * heads, height, width, height, width)
    h = torch.einsum("bhwij,bcij->bchw", score, v).reshape(b, d, height, width)
    return (x + project(h, layer.out.weight, layer.out.bias)) / math.sqrt(2)


def project(x: Float[Tensor, "b d h w"], weight: Float[Tensor, "e d"], bias: Float[Tensor, " e"]) -> Tensor:
    """A linear layer over the channels, which are moved last and back."""
    return (torch.einsum("bhwd,ed->bhwe", x.permute(0, 2, 3, 1), weight) + bias).permute(0, 3, 1, 2)


# -- network --------------------------------------------------------------------------------------


class Plain:
    """The network with the weights of one of ours, which is not touched.

    Raises ValueError for a network that is told of hidden contexts by an embedding, or trained on Gamma noise: the
    loop below does without.
    """

    def __init__(self, net: MCVD):
        if net.config.flagged or net.config.gamma:
            raise ValueError("only networks without cond_emb and Gamma noise are written down plainly")
        self.config = net.config
        self.unet = copy.deepcopy(net.unet).to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]

    def __call__(
        self, x: Float[Tensor, "b dx h w"], label: Int[Tensor, " b"], cond: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, "b dx h w"]:
        """What the U-Net says of noisy frames x, stacked along channels. Label 0 is the most noise."""
        unet = self.unet
        time = unet.time(embed(label, unet.time[0].in_features))
        shown = None if unet.norm.spatin is None else cond

        def run(module: nn.Module, h: Tensor) -> Tensor:
            return residual(module, h, time, shown) if isinstance(module, ResBlock) else attend(module, h)

        h = unet.stem(torch.cat([x, cond], dim=1) if shown is None else x)
        skips = [h]
        for i, module in enumerate(unet.down):
            h = run(module, h)
            if i + 1 == len(unet.down) or isinstance(unet.down[i + 1], ResBlock):
                skips.append(h)
        for module in unet.middle:
            h = run(module, h)
        for module in unet.up:
            if isinstance(module, ResBlock) and module.resample is None:
                h = torch.cat([h, skips.pop()], dim=1)
            h = run(module, h)
        return unet.out(norm(unet.norm, h, None, shown))


def condition(config: Config, context: Float[Tensor, "b n c h w"], shown: Bool[Tensor, "b n"]) -> Tensor:
    """The known frames [past | future] as the network takes them: hidden ones grey, stacked along channels."""
    context = torch.where(shown[:, :, None, None, None], context, 0.0)
    cond = to_depth(context.flatten(1, 2), config.stem)
    if config.told:
        told = shown[:, :, None, None].expand(-1, -1, *cond.shape[-2:])
        cond = torch.cat([cond, told.to(cond.dtype)], dim=1)
    return cond


def embed(label: Int[Tensor, " b"], dim: int) -> Float[Tensor, "b d"]:
    """Sines and cosines of the label, as in DDPM."""
    half = dim // 2
    rate = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angle = label.float()[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


# -- sampling -------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    plain: Plain,
    context: Float[Tensor, "b n c h w"],
    shown: Bool[Tensor, "b n"],
    steps: int,
    rng: Rng,
    *,
    denoise_label: bool = True,
) -> Float[Tensor, "b k c h w"]:
    """One block by DDPM on every (T / steps)-th time; tables run from the most noise to the least.

    `denoise_label` is the call that the paper's code adds after the last step, with the wrong label.
    Raises ValueError where `steps` does not divide T.
    """
    config = plain.config
    if config.num_times % steps:
        raise ValueError(f"the paper's loop takes a number of steps that divides {config.num_times}, not {steps}")
    alpha_bar = config.noise_schedule().alpha_bar.flip(0).float()[:: config.num_times // steps]
    before = torch.cat([alpha_bar[1:], torch.ones(1)])  # less noise: where the step goes
    beta = 1 - alpha_bar / before
    b, _, c, h, w = context.shape
    x = gaussian(context.new_zeros(b, config.current * c, h, w), rng)

    def estimate(x: Tensor, label: int, level: int) -> noise.Estimate:
        cond = condition(config, context, shown)
        output = from_depth(plain(to_depth(x, config.stem), torch.full((b,), label), cond), config.stem)
        read = {"eps": noise.as_eps, "v": noise.as_v, "x0": noise.as_x0}[config.predicts]
        return read(output, x, alpha_bar[level].sqrt(), (1 - alpha_bar[level]).sqrt())

    for i, label in enumerate(range(0, config.num_times, config.num_times // steps)):
        x0 = estimate(x, label, i).x0.clamp(-1, 1)
        kept = (1 - before[i]) / (1 - alpha_bar[i])
        x = before[i].sqrt() * beta[i] / (1 - alpha_bar[i]) * x0 + (1 - beta[i]).sqrt() * kept * x
        if i + 1 < steps:
            x = x + (kept * beta[i]).sqrt() * gaussian(x, rng)
    if denoise_label:
        x = x - (1 - alpha_bar[-1]).sqrt() * estimate(x, steps - 1, -1).eps
    return x.unflatten(1, (config.current, c))
