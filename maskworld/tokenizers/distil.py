"""Features of a picture, made by another network, as codes: VQ-KD (Peng et al. 2022, Sec. 2.1), and a painter.

The features are what is to be kept: codes are trained to give them back, up to their length. The painter only shows
what the codes say; nothing but itself learns from it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.nets.quantise import Nearest, over_processes
from maskworld.noise import Rng
from maskworld.tokenizers.vqvae import Painter, pixel_terms


class Distil(nn.Module):
    """Features of `dim_features` numbers to one of `vocab` codes of `dim`, and back; codes to pixels.

    differs: one patch is turned back into features by itself, where VQ-KD has a transformer over all of them: a code
    then says what is at its place. And features are first brought to mean 0 and variance 1, by their running moments:
    what all of them share would else be most of their length, and one code enough.
    """

    DECAY = 0.98
    """How much of the running moments is kept at each step."""

    mean: Tensor
    square: Tensor

    def __init__(self, dim_features: int, dim: int, vocab: int, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim_features))
        self.register_buffer("square", torch.ones(dim_features))
        self.down = nn.Sequential(nn.Linear(dim_features, dim_features), nn.Tanh(), nn.Linear(dim_features, dim))
        self.quantiser = Nearest(vocab, dim, unit=True)
        self.up = nn.Sequential(nn.Linear(dim, dim_features), nn.Tanh(), nn.Linear(dim_features, dim_features))
        self.painter = Painter(channels, widths, 1, dim)

    def encode(self, features: Float[Tensor, "n gh gw f"]) -> Int[Tensor, "n gh gw"]:
        return self.quantiser.nearest(self.down(self.standard(features)))

    def standard(self, features: Float[Tensor, "n gh gw f"]) -> Float[Tensor, "n gh gw f"]:
        """Of mean 0 and variance 1."""
        return (features.float() - self.mean) / (self.square - self.mean.square()).clamp(min=1e-6).sqrt()

    @torch.no_grad()
    def follow(self, features: Float[Tensor, "n gh gw f"]) -> None:
        """One step of the running moments; the first one sets them."""
        kept = self.DECAY if self.quantiser.begun else 0.0
        for moment, now in ((self.mean, features.float()), (self.square, features.float().square())):
            count = over_processes(moment.new_ones(()))
            moment.lerp_(over_processes(reduce(now, "n gh gw f -> f", "mean")) / count, 1 - kept)

    def terms(
        self, features: Float[Tensor, "n gh gw f"], frames: Float[Tensor, "n c h w"], rng: Rng
    ) -> dict[str, Tensor]:
        """One minus the cosine of features and what the codes make of them, the commitment, and the pixels.

        No gradient reaches the features. In training, the moments and the codebook follow.
        """
        if self.training:
            self.follow(features.detach())
        features = self.standard(features.detach())
        drawn = self.down(features)
        found = self.quantiser(drawn)
        alike = F.cosine_similarity(self.up(found.vectors).float(), features, dim=-1)
        if self.training:
            self.quantiser.learn(drawn, found.codes, rng.generators[0])
        return {
            "features": 1 - reduce(alike, "n gh gw -> n", "mean"),
            "commit": found.commitment * self.quantiser.dim,  # the squared distance of vectors of length 1
            **pixel_terms(self.painter(found.vectors.detach()), frames),
        }

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        return self.painter(self.quantiser.vectors(codes)).float().clamp(-1, 1)
