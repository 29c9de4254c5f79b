"""What acts: a policy that proposes actions, and the value of each; small perceptrons over a state's vector.

    mixture = proposals(x, who)                     once for each state and policy
    actions = sample(mixture, uniform, normal)      several of each
    values = critic(x, actions, gamma)

Actions are from -1 to 1: what falls beyond is moved to the bounds, and its likelihood is counted so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

LEAST_STD, GREATEST_STD = 0.03, 2.0


class Scaled(nn.Module):
    """Inputs in units of what was seen of them. One number for all channels: what is small stays small."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def begin(self, seen: Float[Tensor, "*n"]) -> None:
        """Take the units from these."""
        self.mean.copy_(seen.mean())
        self.std.copy_(seen.std(correction=0).clamp(min=1e-6))

    def forward(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (x - self.mean) / self.std

    def back(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """From those units."""
        return x * self.std + self.mean


# -- proposals ------------------------------------------------------------------------------------


class Mixture(NamedTuple):
    """Normals with axes along the channels, m of them for each state."""

    logit: Float[Tensor, "b m"]
    mean: Float[Tensor, "b m a"]
    log_std: Float[Tensor, "b m a"]


class Proposals(nn.Module):
    """What is done in a state, by each of several policies: a mixture of normals (Bishop 1994)."""

    def __init__(self, dim: int, actions: int, components: int, width: int, policies: int = 1):
        super().__init__()
        self.actions, self.components = actions, components
        self.scaled = Scaled()
        self.first = nn.Linear(dim, width)
        self.who = nn.Embedding(policies, width)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.logit = nn.Linear(width, components)
        self.mean = nn.Linear(width, components * actions)
        self.log_std = nn.Linear(width, components * actions)
        for last in (self.logit, self.mean, self.log_std):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        places = (torch.arange(components) + 0.5) / components * 2 - 1
        with torch.no_grad():
            self.mean.bias.copy_(repeat(places, "m -> (m a)", a=actions))
            self.log_std.bias.fill_(math.log(0.5))

    def forward(self, x: Float[Tensor, "b d"], who: Int[Tensor, " b"]) -> Mixture:
        h = self.layers(self.first(self.scaled(x)) + self.who(who))
        mean, log_std = (rearrange(f(h), "b (m a) -> b m a", m=self.components) for f in (self.mean, self.log_std))
        return Mixture(self.logit(h), mean, log_std.clamp(math.log(LEAST_STD), math.log(GREATEST_STD)))


def log_prob(mixture: Mixture, actions: Float[Tensor, "b a"]) -> Float[Tensor, " b"]:
    """Of actions from -1 to 1: the logarithm of a density between the bounds, and of a probability at them, where all
    lies that the normals have beyond."""
    there = actions[:, None]
    std = mixture.log_std.exp()
    z = (there - mixture.mean) / std
    within = -0.5 * z**2 - mixture.log_std - 0.5 * math.log(2 * math.pi)
    below, above = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)
    each = torch.where(there <= -1, below, torch.where(there >= 1, above, within))
    return (mixture.logit.log_softmax(-1) + each.sum(-1)).logsumexp(-1)


def sample(mixture: Mixture, uniform: Float[Tensor, "b k"], normal: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
    """k actions for each state: a uniform number chooses the normal, and normal numbers a place in it."""
    share = mixture.logit.softmax(-1).cumsum(-1)
    which = torch.searchsorted(share, (uniform * share[:, -1:]).contiguous(), right=True)
    which = which.clamp(max=mixture.logit.shape[1] - 1)
    rows = torch.arange(len(which), device=which.device)[:, None]
    return (mixture.mean[rows, which] + mixture.log_std[rows, which].exp() * normal).clamp(-1, 1)


# -- the value of each ----------------------------------------------------------------------------


class Critic(nn.Module):
    """Q(state, action) at any discount: of the mean reward that is to come, which is then divided by 1 - gamma.

    The horizon 1 / (1 - gamma) counts by its logarithm.
    """

    def __init__(self, dim: int, actions: int, width: int):
        super().__init__()
        self.scaled, self.reward = Scaled(), Scaled()
        self.state = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))
        self.action = nn.Linear(actions + 8, width)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def standard(
        self, x: Float[Tensor, "b d"], actions: Float[Tensor, "b k a"], gamma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b k"]:
        """The mean reward to come, (1 - gamma) Q, in the units of `reward`."""
        horizon = -torch.log1p(-gamma)[:, None] * gamma.new_tensor([0.5, 1.0, 2.0, 4.0])
        told = torch.cat([horizon.sin(), horizon.cos()], dim=1)
        told = torch.cat([actions, repeat(told, "b e -> b k e", k=actions.shape[1])], dim=2)
        return self.out(self.state(self.scaled(x))[:, None] + self.action(told))[..., 0]

    def forward(
        self, x: Float[Tensor, "b d"], actions: Float[Tensor, "b k a"], gamma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b k"]:
        return self.reward.back(self.standard(x, actions, gamma)) / (1 - gamma)[:, None]
