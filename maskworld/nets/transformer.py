"""A frame-causal transformer over patches: frames that are known are encoded once, each by itself; frames that are
not look at them, at themselves and at those before them.

    seen, _ = net.encode(features, place, still)            what is known: keys and values of every layer
    out = net(features, place, told, net.context([seen]))   what is not

Because a known frame is encoded without its neighbours, its keys and values serve every window that shows it: a cache
of them is exact, whichever frames a memory recalls. Places are turned into angles only when they are looked at, so
that a cached frame grows older without being encoded again.

Sections: words - rotary positions - layers - the transformer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.nets.attention import attend

# -- words ----------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Keys and values of what is known, for every layer, before their places are turned into angles.

    place   time in frames, row and column in patches, counted in the world and not in the view
    """

    keys: Float[Tensor, "l b n d"]
    values: Float[Tensor, "l b n d"]
    place: Float[Tensor, "b n 3"]


class Evicted(NamedTuple):
    """Frames that leave the window, as a memory inside the network is told of them, oldest first.

    pixels     frames with one more channel: 1 where a pixel is known, 0 where there is a hole
    features   their embedded patches, row by row
    hidden     what each layer's attention was given of them
    """

    pixels: Float[Tensor, "b f c h w"]
    features: Float[Tensor, "b f n d"]
    place: Float[Tensor, "b f n 3"]
    hidden: Float[Tensor, "l b f n d"]


@runtime_checkable
class LayerState(Protocol):
    """A memory that every layer reads beside its attention: its keys and values never stand in a row."""

    def read(
        self, memory: Float[Tensor, "b m e"], layer: int, hidden: Float[Tensor, "b n d"], place: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n d"]:
        """What the layer adds to the output of its attention."""
        ...


class Context(NamedTuple):
    """All that unknown frames look at, ready for every layer: it is made once, and looked at in every step.

    keys, values   one for each layer, keys turned by their places; empty where nothing is seen
    valid          which of the seen tokens count; None: all
    state          a memory that the layers read beside their attention, and its value
    """

    keys: Sequence[Float[Tensor, "b g n e"]] = ()
    values: Sequence[Float[Tensor, "b g n e"]] = ()
    valid: Bool[Tensor, "b n"] | None = None
    state: tuple[LayerState, Float[Tensor, "b m e"]] | None = None


# -- rotary positions -----------------------------------------------------------------------------


class Rotary(nn.Module):
    """Rotary positions in time, row and column (Su et al. 2021, Sec. 3.2, each axis with channels of its own).

    A quarter of the channels turns with time, the rest with the two axes of space. The fastest pair of each makes a
    quarter turn from one frame or patch to the next, the slowest a quarter turn in `slowest` of them.
    """

    def __init__(self, dim_head: int, slowest: tuple[float, float, float] = (64.0, 32.0, 32.0)):
        super().__init__()
        if dim_head % 8:
            raise ValueError(f"heads of {dim_head} channels: rotary positions on three axes want a multiple of 8")
        pairs = dim_head // 2
        space = pairs * 3 // 8
        counts = (pairs - 2 * space, space, space)
        rates = [
            math.pi / 2 * slow ** -(torch.arange(n, dtype=torch.float64) / max(n - 1, 1))
            for n, slow in zip(counts, slowest, strict=True)
        ]
        axis = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
        self.register_buffer("rate", torch.cat(rates).float(), persistent=False)
        self.register_buffer("axis", axis, persistent=False)

    def angles(self, place: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 1 n p"]:
        return (place.float()[..., self.axis] * self.rate)[:, None]  # type: ignore[index]

    @staticmethod
    def turn(x: Float[Tensor, "b g n e"], angles: Float[Tensor, "#b 1 n p"]) -> Float[Tensor, "b g n e"]:
        """Turn each pair of channels (i, i + e / 2) by its angle."""
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        one, other = x.chunk(2, dim=-1)
        return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


# -- layers ---------------------------------------------------------------------------------------


class Layer(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by what its frame is told (adaLN; Peebles & Xie
    2023, Sec. 3.2, with one projection for all layers as in PixArt-alpha, Chen et al. 2023, Sec. 2.3)."""

    def __init__(self, dim: int, num_heads: int, ratio: int, depth: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.norm_q = nn.Parameter(torch.ones(dim // num_heads))
        self.norm_k = nn.Parameter(torch.ones(dim // num_heads))
        self.out = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, ratio * dim)
        self.narrow = nn.Linear(ratio * dim, dim)
        table = torch.zeros(6, dim)
        table[2], table[5] = 1.0, 1.0  # differs: gates begin open, and what they gate is small
        self.table = nn.Parameter(table)
        for last in (self.out, self.narrow):
            nn.init.normal_(last.weight, std=(2 * depth * last.in_features) ** -0.5)
            nn.init.zeros_(last.bias)

    def heads(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b g n e"]:
        return rearrange(x, "b n (g e) -> b g n e", g=self.num_heads)

    def project(self, h: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor, Tensor]:
        """(queries, keys, values) in heads, queries and keys normalised, nothing turned."""
        q, k, v = (self.heads(part) for part in self.qkv(h).chunk(3, dim=-1))
        size = q.shape[-1:]
        q = F.rms_norm(q, size, self.norm_q.to(q.dtype), 1e-6)
        k = F.rms_norm(k, size, self.norm_k.to(k.dtype), 1e-6)
        return q, k, v

    def perceive(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        h = self.norm(x) * (1 + scale) + shift
        return x + gate * self.narrow(F.gelu(self.widen(h), approximate="tanh"))


# -- the transformer ------------------------------------------------------------------------------


class Transformer(nn.Module):
    """`depth` layers over tokens that have places. Raises ValueError where heads do not divide the width."""

    def __init__(self, dim: int, depth: int, num_heads: int, ratio: int = 4):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a width of {dim}")
        self.rotary = Rotary(dim // num_heads)
        self.layers = nn.ModuleList([Layer(dim, num_heads, ratio, depth) for _ in range(depth)])
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))  # all layers' shifts, scales and gates
        self.last_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.last_told = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        for told in (self.told, self.last_told):
            nn.init.normal_(told[1].weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(told[1].bias)  # type: ignore[arg-type]

    def encode(
        self,
        features: Float[Tensor, "b f n d"],
        place: Float[Tensor, "b f n 3"],
        still: Float[Tensor, " d"],
        valid: Bool[Tensor, "b f n"] | None = None,
    ) -> tuple[Seen, Float[Tensor, "l b f n d"]]:
        """What is known, and what each layer's attention was given of it. Each of the f frames is encoded by itself;
        `still` is what known frames are told. Tokens that are not valid are looked at by themselves alone."""
        f, n = features.shape[1:3]
        x, where = rearrange(features, "b f n d -> (b f) n d"), rearrange(place, "b f n c -> (b f) n c")
        # Only differences matter: counted from the first token's time, a frame is the same at any age.
        where = torch.cat([where[..., :1] - where[:, :1, :1], where[..., 1:]], dim=-1)
        angles = self.rotary.angles(where)
        mask = None
        if valid is not None:
            itself = torch.eye(n, dtype=torch.bool, device=valid.device)
            mask = rearrange(valid, "b f n -> (b f) 1 1 n") | itself
        told = rearrange(self.told(still), "(six d) -> six 1 1 d", six=6)
        keys, values, hidden = [], [], []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            shift, scale, gate, *rest = told + layer.table[:, None, None]
            h = layer.norm(x) * (1 + scale) + shift
            q, k, v = layer.project(h)
            hidden.append(rearrange(h, "(b f) n d -> b f n d", f=f))
            keys.append(rearrange(k, "(b f) g n e -> b (f n) (g e)", f=f))
            values.append(rearrange(v, "(b f) g n e -> b (f n) (g e)", f=f))
            seen = attend(self.rotary.turn(q, angles), self.rotary.turn(k, angles), v, mask)
            x = x + gate * layer.out(rearrange(seen, "b g n e -> b n (g e)"))
            x = layer.perceive(x, *rest)
        place = rearrange(place, "b f n c -> b (f n) c")
        return Seen(torch.stack(keys), torch.stack(values), place), torch.stack(hidden)

    def context(
        self,
        seen: Sequence[Seen],
        valid: Bool[Tensor, "b n"] | None = None,
        state: tuple[LayerState, Float[Tensor, "b m e"]] | None = None,
    ) -> Context:
        """What unknown frames are to look at. `valid` says which of the seen tokens count."""
        if not seen:
            return Context((), (), None, state)
        angles = self.rotary.angles(torch.cat([part.place for part in seen], dim=1))
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            keys.append(self.rotary.turn(layer.heads(torch.cat([part.keys[i] for part in seen], dim=1)), angles))
            values.append(layer.heads(torch.cat([part.values[i] for part in seen], dim=1)))
        return Context(keys, values, valid, state)

    def forward(
        self,
        features: Float[Tensor, "b f n d"],
        place: Float[Tensor, "b f n 3"],
        told: Float[Tensor, "b f d"],
        context: Context | None = None,
    ) -> Float[Tensor, "b f n d"]:
        """What is made of frames that are not known. Frame i looks at all of the context, and at frames 0..i.

        `told` is what each frame is told (its noise, its action).
        """
        context = context or Context()
        b, f, n, _ = features.shape
        x, where = features, rearrange(place, "b f n c -> b (f n) c")
        angles = self.rotary.angles(where)
        per_frame = rearrange(self.told(told), "b f (six d) -> six b f 1 d", six=6)
        num_seen = context.keys[0].shape[2] if context.keys else 0
        mask = self._mask(b, f, n, num_seen, context.valid, x.device)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            shift, scale, gate, *rest = per_frame + layer.table[:, None, None, None]
            h = rearrange(layer.norm(x) * (1 + scale) + shift, "b f n d -> b (f n) d")
            q, k, v = layer.project(h)
            k = self.rotary.turn(k, angles)
            if num_seen:
                k = torch.cat([context.keys[i].to(k.dtype), k], dim=2)
                v = torch.cat([context.values[i].to(v.dtype), v], dim=2)
            found = attend(self.rotary.turn(q, angles), k, v, mask)
            found = layer.out(rearrange(found, "b g n e -> b n (g e)"))
            if context.state is not None:
                brick, memory = context.state
                found = found + brick.read(memory, i, h, where)
            x = x + gate * rearrange(found, "b (f n) d -> b f n d", f=f)
            x = layer.perceive(x, *rest)
        shift, scale = rearrange(self.last_told(told), "b f (two d) -> two b f 1 d", two=2)
        return self.last_norm(x) * (1 + scale) + shift

    @staticmethod
    def _mask(
        b: int, f: int, n: int, num_seen: int, valid: Bool[Tensor, "b s"] | None, device: torch.device
    ) -> Bool[Tensor, "b 1 q k"] | None:
        """Who looks at what; None where all look at all."""
        if f == 1 and valid is None:
            return None
        frame = torch.arange(f, device=device).repeat_interleave(n)
        own = (frame[None] <= frame[:, None])[None, None]
        if num_seen == 0:
            return own
        past = own.new_ones(b, num_seen) if valid is None else valid
        past = past[:, None, None].expand(-1, -1, f * n, -1)
        return torch.cat([past, own.expand(b, -1, -1, -1)], dim=-1)
