"""A small variational autoencoder (Kingma & Welling 2014) for frames of any height and width: pixels to latents, back.

Convolutions alone, the first and the last of them at half the frame's size. Latents are the mean of the posterior,
each channel scaled to zero mean and unit variance, as a network that adds noise to them likes it (Rombach et al. 2022,
App. G, do so by one number for all channels).

differs: what comes back is compared by its pixels and their differences to their neighbours, by which thin bright
lines survive; there is no adversary and no perceptual loss. In training, latents are drawn with at least `floor` of
noise, however sure the encoder is: what reads them is not to depend on their last digits.

Sections: configuration - convolutions - the tokenizer - the scale of latents - the objective.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.nets.quantise import float32
from maskworld.noise import Rng
from maskworld.tokenizers.latent import check_reads
from maskworld.tokenizers.vqvae import Spread, for_each
from maskworld.verbs import Known, Loss

# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """`widths` are channels after each halving of the frame: two make a latent of 4 x 4 pixels.

    size     height and width of the frames to train on; all multiples of the factor are read
    dim      numbers of a latent
    depth    residual blocks at each size; the decoder has one more at the smallest
    kl       weight of the divergence, which is in nats for one number of a latent
    floor    least noise on a latent in training, as a share of its standard deviation
    """

    size: tuple[int, int] = (48, 96)
    channels: int = 3
    dim: int = 8
    widths: tuple[int, ...] = (32, 64)
    depth: int = 1
    kl: float = 1e-4
    floor: float = 0.05

    def __post_init__(self) -> None:
        if not self.widths or min(self.channels, self.dim, self.depth, *self.widths) < 1:
            raise ValueError(
                f"channels, dim, depth and widths are 1 or more, not {self.channels}, {self.dim}, {self.depth} and "
                f"{tuple(self.widths)}"
            )
        if min(self.size) < 1 or any(side % self.factor for side in self.size):
            raise ValueError(f"a size is (height, width), each a multiple of {self.factor}, not {tuple(self.size)}")
        if self.kl < 0 or self.floor < 0:
            raise ValueError(f"kl and floor are 0 or more, not {self.kl:g} and {self.floor:g}")

    @property
    def factor(self) -> int:
        """Pixels from one latent to the next."""
        return 2 ** len(self.widths)


def tiny(size: tuple[int, int] = (8, 16), channels: int = 1) -> Config:
    return Config(size, channels, 2, (8, 8))


# -- convolutions ---------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions. Norms are slow on a CPU, and not missed."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(dim, dim, 3, padding=1)
        self.gain = nn.Parameter(torch.full((1, dim, 1, 1), 0.5))

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        return x + self.gain * self.second(F.silu(self.first(F.silu(x))))


class Gather(nn.Module):
    """2 x 2 cells become one cell of four times as many channels: `Spread`, back."""

    def forward(self, x: Float[Tensor, "n e H W"]) -> Float[Tensor, "n d h w"]:
        cells = rearrange(x, "n e (h i) (w j) -> n h w (i j e)", i=2, j=2)
        return rearrange(cells, "n h w d -> n d h w")


SURE = -4.0
"""The logarithm of the variance at the start: means are small then, and would drown in unit noise."""


class Encoder(nn.Module):
    """Pixels to the mean and the logarithm of the variance of each latent."""

    def __init__(self, config: Config):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((config.channels, *config.widths), config.widths, strict=False):
            kernel = 1 if layers else 3  # the first one, which sees pixels, looks around
            layers += [Gather(), nn.Conv2d(4 * before, width, kernel, padding=kernel // 2)]
            layers += [Block(width) for _ in range(config.depth)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(config.widths[-1], 2 * config.dim, 3, padding=1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias[config.dim :], SURE)

    def forward(
        self, frames: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n d gh gw"], Float[Tensor, "n d gh gw"]]:
        x = self.out(F.silu(self.layers(frames.contiguous(memory_format=torch.channels_last))))
        mean, log_var = x.float().chunk(2, 1)
        return mean, log_var.clamp(-20, 10)


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, config: Config):
        super().__init__()
        last = config.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(config.dim, last, 3, padding=1), Block(last)]
        for width, after in zip(config.widths[::-1], (*config.widths[-2::-1], 0), strict=True):
            layers += [Block(width) for _ in range(config.depth)]
            layers += [nn.Conv2d(width, 4 * after, 1), Spread()] if after else []
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(config.widths[0], 4 * config.channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n c h w"]:
        x = self.layers(latents.contiguous(memory_format=torch.channels_last))
        return F.pixel_shuffle(self.out(F.silu(x)).float(), 2)


# -- the tokenizer --------------------------------------------------------------------------------


class VAE(nn.Module):
    """Frames to latents, and back. `mean` and `var` are those of the encoder's means, channel by channel."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.size, self.channels = config.size, config.channels
        self.dim, self.factor = config.dim, config.factor
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("var", torch.ones(config.dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d gh gw"]:
        check_reads(frames, self.channels, self.factor)
        with float32(frames):
            return self.scaled(self.encoder(frames.float())[0])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n c h w"]:
        with float32(latents):
            return self.decoder(self.unscaled(latents.float())).clamp(-1, 1)

    def scaled(self, means: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n d gh gw"]:
        """What the encoder says, of zero mean and unit variance."""
        return (means - _by_channel(self.mean)) / _by_channel(self.std)

    def unscaled(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n d gh gw"]:
        """What the decoder is told."""
        return latents * _by_channel(self.std) + _by_channel(self.mean)

    @property
    def std(self) -> Float[Tensor, " d"]:
        return self.var.clamp(min=1e-8).sqrt()


def _by_channel(x: Float[Tensor, " d"]) -> Float[Tensor, "1 d 1 1"]:
    return rearrange(x, "d -> 1 d 1 1")


# -- the scale of latents -------------------------------------------------------------------------

MEMORY = 20
"""Steps over which the running scale of the latents is a mean; at first, over all there were. Many more, and it would
lag behind a training that has just begun."""


@torch.no_grad()
def follow(net: VAE, means: Float[Tensor, "n d gh gw"]) -> None:
    """Let the scale of the latents follow the encoder's means of one step.

    All of it is in the state, so that it is averaged over steps as the weights are, and is true of any checkpoint.
    """
    net.count += 1
    share = max(1 / net.count.item(), 1 / MEMORY)
    net.mean.lerp_(reduce(means, "n d gh gw -> d", "mean"), share)
    net.var.lerp_(reduce((means - _by_channel(net.mean)).square(), "n d gh gw -> d", "mean"), share)


@torch.no_grad()
def calibrate(net: VAE, frames: Iterable[Float[Tensor, "_ c _ _"]]) -> None:
    """Set the scale of the latents by these batches of frames: their mean is 0 then and their variance 1, channel by
    channel. What comes back of a frame is as before.

    Raises ValueError where there are no frames.
    """
    sums, squares, many = 0.0, 0.0, 0
    for some in frames:
        check_reads(some, net.channels, net.factor)
        with float32(some):
            numbers = rearrange(net.encoder(some.float())[0].double(), "n d gh gw -> d (n gh gw)")
        sums, squares, many = sums + numbers.sum(1), squares + numbers.square().sum(1), many + numbers.shape[1]
    if not many:
        raise ValueError("no frames to scale the latents by")
    mean = torch.as_tensor(sums / many)
    net.mean.copy_(mean)
    net.var.copy_(torch.as_tensor(squares / many) - mean.square())


# -- the objective --------------------------------------------------------------------------------

BEND = 0.02
"""Below this difference, of 2 from black to white, the absolute value is rounded to a square (Charbonnier)."""

SQUARE = 4.0
"""Weight of the squared difference beside the absolute one, which alone leaves out whatever is thin or rare."""

EDGES = 1.0
"""Weight of the differences between neighbours."""


def objective(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
    """Every frame is to come back from a draw of its latents; what is known plays no part. In training, the scale of
    the latents follows.
    """
    assert isinstance(net, VAE)
    b, v, t = clip.frames.shape[:3]
    frames = rearrange(clip.frames, "b v t c h w -> (b v t) c h w")
    check_reads(frames, net.channels, net.factor)
    means, log_var = net.encoder(frames)
    if net.training:
        follow(net, means)
    noise = rearrange(rng.normal((v * t, *means.shape[1:]), means.device), "b n d gh gw -> (b n) d gh gw")
    floor = net.config.floor * _by_channel(net.std)
    painted = net.decoder(means + torch.maximum((log_var / 2).exp(), floor) * noise)
    away = painted - frames
    terms = {
        "pixels": _differ(away),
        "edges": EDGES * (_differ(away.diff(dim=-1)) + _differ(away.diff(dim=-2))) / 2,
        "kl": net.config.kl * reduce(divergence(means, log_var), "n d gh gw -> n", "mean"),
    }
    return Loss(for_each(terms, b))


def divergence(mean: Float[Tensor, "*n"], log_var: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """KL(N(mean, exp(log_var)) || N(0, 1)), in nats (Kingma & Welling 2014, App. B)."""
    return (mean.square() + log_var.exp() - 1 - log_var) / 2


def _differ(away: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    square = away.square()
    return reduce((square + BEND**2).sqrt() - BEND + SQUARE * square, "n c h w -> n", "mean")
