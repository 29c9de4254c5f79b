"""Codes of what an agent controls: which action was taken at s_t is to be found from the codes of s_t and s_{t+k}
(multi-step inverse kinematics: ACRO, Islam, Tomar et al. 2022, Sec. 3; quantised for Video Occupancy Models).

What no action moves, and no action depends on, need not be in the codes. A painter shows what is; nothing but itself
learns from it.

Sections: configuration - the tokenizer - the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.nets.quantise import Nearest, float32
from maskworld.noise import Rng
from maskworld.tokenizers.base import check_fits
from maskworld.tokenizers.vqvae import COMMIT, Encoder, Painter, check_widths, for_each, pixel_terms
from maskworld.verbs import Known, Loss

# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """As a VQ-VAE's, and: `actions` numbers of an action, in [-1, 1]; pairs of frames 1 to `ahead` apart.

    `uniform` is how many actions of no one stand beside those of the batch, among which the right one is to be found.
    """

    actions: int
    size: int = 64
    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128, 192)
    blocks: int = 1
    dim: int = 32
    vocab: int = 512
    ahead: int = 8
    hidden: int = 256
    uniform: int = 64

    def __post_init__(self) -> None:
        check_widths(self.size, self.channels, self.widths, self.blocks)
        if self.actions < 1 or self.ahead < 1 or self.hidden < 1 or self.uniform < 0:
            raise ValueError("actions, ahead and hidden are 1 or more, uniform 0 or more")


def tiny(size: int = 16, channels: int = 1, actions: int = 2) -> Config:
    return Config(actions, size, channels, (8, 8), 1, 4, 16, 3, 32, 8)


# -- the tokenizer --------------------------------------------------------------------------------


class Scorer(nn.Module):
    """How well an action fits two states, for every pair of states and every action.

    differs: the gap k is told, and there is no batch norm, which would mix right and wrong actions.
    """

    def __init__(self, dim_state: int, actions: int, ahead: int, hidden: int):
        super().__init__()
        self.state = nn.Linear(dim_state, hidden)
        self.both = nn.Linear(2 * hidden, hidden)
        self.gap = nn.Embedding(ahead, hidden)
        self.action = nn.Linear(actions, hidden)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(
        self,
        now: Float[Tensor, "b d"],
        later: Float[Tensor, "b d"],
        gap: Int[Tensor, " b"],
        actions: Float[Tensor, "b n a"],
    ) -> Float[Tensor, "b n"]:
        states = torch.cat([F.silu(self.state(now)), F.silu(self.state(later))], 1)
        told = self.both(states) + self.gap(gap - 1)
        return self.out(told[:, None] + self.action(actions))[..., 0].float()


class Dynamics(nn.Module):
    """A VQ-VAE's encoder and codebook, trained by actions; the painter only looks on."""

    paints = True

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.size, self.channels = config.size, config.channels
        self.vocab, self.dim = config.vocab, config.dim
        side = config.size // 2 ** len(config.widths)
        self.grid = (side, side)
        self.encoder = Encoder(config.channels, config.widths, config.blocks, config.dim)
        self.quantiser = Nearest(config.vocab, config.dim)
        self.scorer = Scorer(side * side * config.dim, config.actions, config.ahead, config.hidden)
        self.painter = Painter(config.channels, config.widths, config.blocks, config.dim)

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


def objective(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
    """Which action was taken between two frames? InfoNCE over the batch's actions and uniform ones; commitment; pixels.

    A clip is two frames, (t, t + k), with the action at t. What is known plays no part. In training, the codebook
    follows. Raises ValueError for other clips.
    """
    assert isinstance(net, Dynamics)
    b, v, t = clip.frames.shape[:3]
    if v != 1 or t != 2 or clip.actions is None or clip.actions.shape[-1] != net.config.actions:
        raise ValueError(f"pairs of frames with {net.config.actions} action channels are wanted")
    gap = clip.times[:, 1] - clip.times[:, 0]
    if int(gap.min()) < 1 or int(gap.max()) > net.config.ahead:
        raise ValueError(f"the frames of a pair are 1 to {net.config.ahead} apart")
    frames = rearrange(clip.frames, "b 1 t c h w -> (b t) c h w")
    check_fits(frames, net.size, net.channels)
    features = net.encoder(frames)
    found = net.quantiser(features)
    now, later = rearrange(found.vectors, "(b t) gh gw d -> t b (gh gw d)", t=2)
    actions = clip.actions[:, 0]
    uniform = rng.uniform((net.config.uniform, net.config.actions), actions.device) * 2 - 1
    choices = torch.cat([repeat(actions, "n a -> b n a", b=b), uniform], 1)
    scores = net.scorer(now, later, gap, choices)
    if net.training:
        net.quantiser.learn(features, found.codes, rng.generators[0])
    terms = {"commit": COMMIT * found.commitment, **pixel_terms(net.painter(found.vectors.detach()), frames)}
    which = torch.arange(b, device=scores.device)
    return Loss({"actions": F.cross_entropy(scores, which, reduction="none"), **for_each(terms, b)})
