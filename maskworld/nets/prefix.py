"""A transformer that reads one state and writes another: tokens of the first look at each other (a prefix), tokens of
the second at the first and at those before them.

    read = net.read(state)                         once for each state
    logits = net(read, told, other)                of every token of the other, given those before it
    tokens, logits = net.draw(state, told, uniform) many others for each state, one token at a time

What is told of a draw (an action, a discount) enters with the tokens that are written, never with those that are read:
what was read of a state serves every action, every discount and every draw.

Two kinds of layer: `Layer` is what is usual today (RMSNorm, SwiGLU, rotary positions), `GPT2Layer` is GPT-2's.

Sections: words - layers - the transformer - drawing.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.nets.transformer import Rotary

# -- words ----------------------------------------------------------------------------------------


class Read(NamedTuple):
    """Keys and values that a state left in every layer; and, where it was asked for, what came out of the last one."""

    keys: tuple[Float[Tensor, "b n g e"], ...]
    values: tuple[Float[Tensor, "b n g e"], ...]
    last: Float[Tensor, "b n d"] | None


@runtime_checkable
class Multiply(Protocol):
    """A linear layer's product, or that of its outputs from `first` on; and what follows it, if it is GELU."""

    def __call__(
        self, linear: nn.Linear, x: Float[Tensor, "*b d"], first: int = 0, gelu: bool = False
    ) -> Float[Tensor, "*b o"]: ...


def _plainly(linear: nn.Linear, x: Tensor, first: int = 0, gelu: bool = False) -> Tensor:
    """With the weights as they are."""
    found = F.linear(x, linear.weight[first:], None if linear.bias is None else linear.bias[first:])
    return F.gelu(found, approximate="tanh") if gelu else found


class _Ready:
    """With weights that were made ready once for all products of a draw: of the type that is asked for and, on a CPU
    that multiplies it in hardware, in the order in which the product wants them."""

    def __init__(self, layers: nn.Module, precision: torch.dtype, rows: int):
        self.precision = precision
        linears = [module for module in layers.modules() if isinstance(module, nn.Linear)]
        self.weights = {module: module.weight.to(precision) for module in linears}
        self.biases = {module: None if module.bias is None else module.bias.to(precision) for module in linears}
        self.ordered: dict[nn.Module, Tensor] = {}
        if precision == torch.bfloat16 and all(w.device.type == "cpu" for w in self.weights.values()) and _ORDERS:
            self.ordered = {
                module: torch.ops.mkldnn._reorder_linear_weight(weight, rows) for module, weight in self.weights.items()
            }

    def __call__(self, linear: nn.Linear, x: Tensor, first: int = 0, gelu: bool = False) -> Tensor:
        x, bias = x.to(self.precision), self.biases[linear]
        if linear in self.ordered and not first:
            after = ("gelu", [], "tanh") if gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise(x, self.ordered[linear], bias, *after)
        found = F.linear(x, self.weights[linear][first:], None if bias is None else bias[first:])
        return F.gelu(found, approximate="tanh") if gelu else found


# What torch's own compiler uses; where a build has it not, products are a fifth slower.
_ORDERS = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
)


# -- layers ---------------------------------------------------------------------------------------


class Layer(nn.Module):
    """Attention and a gated perceptron (SwiGLU; Shazeer 2020), normalised by RMSNorm, no biases; queries and keys are
    normalised, too, and turned by their places."""

    def __init__(self, dim: int, num_heads: int, depth: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        hidden = -(-8 * dim // 3 // 32) * 32
        self.norm = nn.RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(dim // num_heads), nn.RMSNorm(dim // num_heads)
        self.out = nn.Linear(dim, dim, bias=False)
        self.norm_mlp = nn.RMSNorm(dim)
        self.widen = nn.Linear(dim, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, dim, bias=False)
        for last in (self.out, self.narrow):
            nn.init.normal_(last.weight, std=(2 * depth * last.in_features) ** -0.5)

    def project(
        self, x: Float[Tensor, "b n d"], angles: Float[Tensor, "1 1 n p"] | None, multiply: Multiply = _plainly
    ) -> tuple[Tensor, ...]:
        """(queries, keys, values) of tokens, in heads."""
        qkv = _in_heads(multiply(self.qkv, self.norm(x)), self.num_heads, 3)
        weights = torch.stack([self.norm_q.weight, self.norm_k.weight])
        q, k = self._turned(qkv[:, :, :2], weights, angles).unbind(2)
        return q, k, qkv[:, :, 2]

    def keep(
        self, x: Float[Tensor, "b n d"], angles: Float[Tensor, "1 1 n p"] | None, multiply: Multiply = _plainly
    ) -> tuple[Tensor, ...]:
        """(keys, values) alone."""
        kv = _in_heads(multiply(self.qkv, self.norm(x), x.shape[-1]), self.num_heads, 2)
        return self._turned(kv[:, :, :1], self.norm_k.weight[None], angles)[:, :, 0], kv[:, :, 1]

    @staticmethod
    def _turned(parts: Float[Tensor, "b n s g e"], weights: Tensor, angles: Tensor | None) -> Tensor:
        """Normalised over the channels of each head, in float32, and turned."""
        assert angles is not None
        normal = F.rms_norm(parts.float(), parts.shape[-1:]) * weights[:, None]
        turned = Rotary.turn(rearrange(normal, "b n s g e -> b (s g) n e"), angles)
        return rearrange(turned, "b (s g) n e -> b n s g e", s=parts.shape[2])

    def join(
        self, x: Float[Tensor, "b n d"], found: Float[Tensor, "b n d"], multiply: Multiply = _plainly
    ) -> Float[Tensor, "b n d"]:
        """Add what attention found, then what the perceptron makes of it. The sum is kept in float32."""
        x = x + _dropped(multiply(self.out, found), self.dropout, self.training)
        gate, value = multiply(self.widen, self.norm_mlp(x)).chunk(2, dim=-1)
        return x + _dropped(multiply(self.narrow, F.silu(gate) * value), self.dropout, self.training)


class GPT2Layer(nn.Module):
    """Attention and a perceptron as in GPT-2 (Radford et al. 2019): layer norm, biases, the tanh form of GELU."""

    def __init__(self, dim: int, num_heads: int, depth: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        for linear in (self.qkv, self.out, self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        for last in (self.out, self.narrow):
            nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * depth))

    def project(
        self, x: Float[Tensor, "b n d"], angles: Float[Tensor, "1 1 n p"] | None, multiply: Multiply = _plainly
    ) -> tuple[Tensor, ...]:
        """(queries, keys, values) of tokens, in heads."""
        return _in_heads(multiply(self.qkv, self.norm(x)), self.num_heads, 3).unbind(2)

    def keep(
        self, x: Float[Tensor, "b n d"], angles: Float[Tensor, "1 1 n p"] | None, multiply: Multiply = _plainly
    ) -> tuple[Tensor, ...]:
        """(keys, values) alone."""
        return _in_heads(multiply(self.qkv, self.norm(x), x.shape[-1]), self.num_heads, 2).unbind(2)

    def join(
        self, x: Float[Tensor, "b n d"], found: Float[Tensor, "b n d"], multiply: Multiply = _plainly
    ) -> Float[Tensor, "b n d"]:
        """Add what attention found, then what the perceptron makes of it. The sum is kept in float32."""
        x = x + _dropped(multiply(self.out, found), self.dropout, self.training)
        h = multiply(self.narrow, multiply(self.widen, self.norm_mlp(x), gelu=True))
        return x + _dropped(h, self.dropout, self.training)


def _in_heads(x: Float[Tensor, "b n d"], num_heads: int, parts: int) -> Float[Tensor, "b n s g e"]:
    """Parts of a product, each in heads; without einops, whose look at every pattern tells in a draw."""
    return x.unflatten(2, (parts, num_heads, -1))


def _dropped(x: Tensor, p: float, training: bool) -> Tensor:
    return F.dropout(x, p) if training and p else x


# -- the transformer ------------------------------------------------------------------------------


class PrefixLM(nn.Module):
    """Reads a state of tokens that lie in `stack` frames of a grid, and writes another one.

    vocab     tokens there are
    ends      whether one more may be written, which no state holds: the end of all things, number `vocab`
    leads     values of one more token, which is written before the others and told to them, and which no state holds;
              0: there is none. Its end is number `vocab`, too
    gpt2      GPT-2's layers, positions and tied embeddings; the state is read causally, too, and its last token is
              what the first written one follows. Nothing can be told then.
    dropout   of features, and of attention
    Raises ValueError for heads that do not divide the width, or into channels that cannot be turned on three axes;
    for more leads than the vocabulary has tokens, and for any with GPT-2's layers.
    """

    def __init__(
        self,
        vocab: int,
        grid: tuple[int, int],
        stack: int,
        dim: int,
        depth: int,
        num_heads: int,
        *,
        ends: bool = True,
        leads: int = 0,
        gpt2: bool = False,
        dropout: tuple[float, float] = (0.0, 0.0),
        positions: int = 1024,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a width of {dim}")
        if not 0 <= leads <= (0 if gpt2 else vocab):
            raise ValueError(f"a first token of {leads} values, beside {vocab} tokens" + gpt2 * ", in GPT-2's layers")
        rows, columns = grid
        self.num_tokens = stack * rows * columns
        self.num_written = self.num_tokens + (leads > 0)
        self.vocab, self.num_out, self.leads, self.gpt2 = vocab, vocab + ends, leads, gpt2
        self.dropout_features, self.dropout_attention = dropout
        kind = GPT2Layer if gpt2 else Layer
        self.layers = nn.ModuleList([kind(dim, num_heads, depth, self.dropout_features) for _ in range(depth)])
        if gpt2:
            if positions < 2 * self.num_tokens:
                raise ValueError(f"{positions} positions for a state of {self.num_tokens} tokens, read and written")
            self.embed = nn.Embedding(self.num_out, dim)
            self.position = nn.Embedding(positions, dim)
            self.norm = nn.LayerNorm(dim)
            for embedding in (self.embed, self.position):
                nn.init.normal_(embedding.weight, std=0.02)
            return
        # After the vocabulary: the end, what stands before the first written token, and the leads.
        self.embed = nn.Embedding(vocab + 2 + leads, dim)
        self.position = nn.Embedding(self.num_tokens + self.num_written, dim)
        for embedding in (self.embed, self.position):
            nn.init.normal_(embedding.weight, std=0.5)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, self.num_out + leads, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.rotary = Rotary(dim // num_heads, (2.0 * stack, float(max(rows, 2)), float(max(columns, 2))))
        place = torch.cartesian_prod(torch.arange(2 * stack), torch.arange(rows), torch.arange(columns)).float()
        if leads:  # it lies where the first token that follows it does
            place = torch.cat([place[: self.num_tokens + 1], place[self.num_tokens :]])
        self.register_buffer("angles", self.rotary.angles(place[None]), persistent=False)

    # Both are read and written with one list of positions: first the state, then the other, its lead first.

    def read(self, state: Int[Tensor, "b n"], last: bool = False) -> Read:
        """What every layer keeps of a state; and, if it is asked for, what comes out of the `last` one."""
        return self._read(state, last, _plainly)

    def _read(self, state: Tensor, last: bool, multiply: Multiply) -> Read:
        if self.gpt2:
            state = state[:, :-1]
        n = state.shape[1]
        assert n == self.num_tokens - self.gpt2, f"{n} tokens in a state of {self.num_tokens}"
        x = self.embed(state) + self.position.weight[:n]
        x = _dropped(x, self.dropout_features, self.training and self.gpt2).float()
        causal = torch.ones(n, n, dtype=torch.bool, device=x.device).tril() if self.gpt2 else None
        keys, values, angles = [], [], self._angles(0, n)
        for i, layer in enumerate(self.layers):
            ends = i + 1 == len(self.layers) and not last
            if ends:  # nobody looks at what it would go on to make of them
                k, v = layer.keep(x, angles, multiply)  # type: ignore[operator]
            else:
                q, k, v = layer.project(x, angles, multiply)  # type: ignore[operator]
                x = layer.join(x, self._attend(q, k, v, causal), multiply)  # type: ignore[operator]
            keys.append(k)
            values.append(v)
        return Read(tuple(keys), tuple(values), x if last else None)

    def forward(
        self,
        read: Read,
        state: Int[Tensor, "b n"],
        told: Float[Tensor, "b d"] | None,
        other: Int[Tensor, "b m"],
    ) -> Float[Tensor, "b m v"]:
        """Logits of every token of another state, or of the first m of them, given those before it. Where there is a
        lead it comes first, and what it cannot be has a logit of -1e9."""
        before = torch.cat([self._begin(state), other[:, :-1]], dim=1)
        m = before.shape[1]
        if self.leads and m > 1:
            before[:, 1] = self._of_lead(before[:, 1])
        first = self.num_tokens - self.gpt2
        x = self.embed(before) + self.position.weight[first : first + m]
        if told is not None:
            x = x + told[:, None]
        x = _dropped(x, self.dropout_features, self.training and self.gpt2).float()
        own = torch.ones(m, m, dtype=torch.bool, device=x.device).tril()
        mask = torch.cat([own.new_ones(m, read.keys[0].shape[1]), own], dim=1)
        angles = self._angles(first, m)
        for i, layer in enumerate(self.layers):
            q, k, v = layer.project(x, angles)  # type: ignore[operator]
            k, v = torch.cat([read.keys[i].to(k.dtype), k], dim=1), torch.cat([read.values[i].to(v.dtype), v], dim=1)
            x = layer.join(x, self._attend(q, k, v, mask))  # type: ignore[operator]
        if self.leads:
            return torch.cat([self.logits(x[:, :1], lead=True), self.logits(x[:, 1:])], dim=1)
        return self.logits(x)

    def logits(self, x: Float[Tensor, "*b d"], lead: bool = False) -> Float[Tensor, "*b v"]:
        """In float32 whatever the layers compute in: a rounded logit is a sharpened or blurred distribution."""
        with torch.autocast(x.device.type, enabled=False):
            weight = (self.embed.weight if self.gpt2 else self.head.weight).float()
            x = self.norm(x.float())
            if not lead:
                return F.linear(x, weight[: self.num_out])
            ends = F.linear(x, weight[self.vocab : self.num_out])
            never = ends.new_full((*x.shape[:-1], self.vocab - self.leads), -1e9)
            return torch.cat([F.linear(x, weight[self.num_out :]), never, ends], dim=-1)

    def _of_lead(self, lead: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Where its value is embedded."""
        return torch.where(lead == self.vocab, lead, lead + self.vocab + 2)

    def _begin(self, state: Int[Tensor, "b n"]) -> Int[Tensor, "b 1"]:
        return state[:, -1:] if self.gpt2 else torch.full_like(state[:, :1], self.vocab + 1)

    def _angles(self, first: int, n: int) -> Float[Tensor, "1 1 n p"] | None:
        return None if self.gpt2 else self.angles[:, :, first : first + n]  # type: ignore[index]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Float[Tensor, "b n d"]:
        """Few tokens: plain products are faster on a CPU than the fused kernel, and a GPU does not care."""
        q, k, v = (rearrange(x, "b n g e -> b g n e") for x in (q * q.shape[-1] ** -0.5, k, v))
        score = q @ k.transpose(-1, -2)
        if mask is not None:
            score = score.masked_fill(~mask, float("-inf"))
        weight = _dropped(score.softmax(-1), self.dropout_attention, self.training)
        return rearrange(weight.to(v.dtype) @ v, "b g n e -> b n (g e)")

    # -- drawing ----------------------------------------------------------------------------------

    @torch.no_grad()
    def draw(
        self,
        state: Int[Tensor, "b n"],
        told: Float[Tensor, "b k d"] | None,
        uniform: Float[Tensor, "b k m"],
        *,
        precision: torch.dtype = torch.float32,
        temperature: float = 1.0,
        top_k: int | None = None,
        ends: bool = True,
        keep_logits: bool = False,
    ) -> tuple[Int[Tensor, "b k m"], Float[Tensor, "b k m v"] | None]:
        """k other states for each, token by token, and the logits that each token was drawn from.

        A state is read once, and its keys and values are shared by all that is written after it; those of the written
        tokens stand in arrays of fixed size. `told` is told of each draw; `uniform` are numbers from 0 to 1 (excluded),
        one for each token: where they fall among the cumulated probabilities is what is drawn. Without `ends` the end
        is never written: what is drawn is what there is if there is no end.
        Temperatures and `top_k` other than 1 and None change what is drawn: they are there to show that.
        """
        with torch.autocast(state.device.type, enabled=False):
            multiply = _Ready(self.layers, precision, uniform.shape[0] * uniform.shape[1])
            return self._draw(state, told, uniform, multiply, temperature, top_k, ends, keep_logits)

    def _draw(
        self,
        state: Int[Tensor, "b n"],
        told: Float[Tensor, "b k d"] | None,
        uniform: Float[Tensor, "b k m"],
        multiply: Multiply,
        temperature: float,
        top_k: int | None,
        ends: bool,
        keep_logits: bool,
    ) -> tuple[Int[Tensor, "b k m"], Float[Tensor, "b k m v"] | None]:
        (b, num, m), device = uniform.shape, state.device
        assert m == self.num_written, f"{m} numbers for {self.num_written} tokens"
        read = self._read(state, False, multiply)
        caches = [_Cache(k, v, num, m) for k, v in zip(read.keys, read.values, strict=True)]
        rows, chances = b * num, uniform.flatten(0, 1).T.contiguous()
        written = torch.zeros(rows, m, dtype=torch.long, device=device)
        found = torch.zeros(rows, m, self.num_out if ends else self.vocab, device=device) if keep_logits else None
        before = self._begin(state).repeat_interleave(num, 0)[:, 0]
        first = self.num_tokens - self.gpt2
        extra = None if told is None else told.flatten(0, 1)
        for i in range(m):
            lead = i == 0 and self.leads > 0
            x = self.embed(before) + self.position.weight[first + i]
            if extra is not None:
                x = x + extra
            x = _dropped(x, self.dropout_features, self.training and self.gpt2).float()[:, None]
            angles = self._angles(first + i, 1)
            for layer, cache in zip(self.layers, caches, strict=True):
                q, k, v = layer.project(x, angles, multiply)  # type: ignore[operator]
                cache.keep(i, k, v)
                seen = cache.look(i, q, self.dropout_attention if self.training else 0.0)
                x = layer.join(x, seen, multiply)  # type: ignore[operator]
            logits = self.logits(x[:, 0], lead)
            if not ends:
                logits = logits[:, : self.vocab]
            before = _pick(logits, chances[i], temperature, top_k)
            written[:, i] = before
            if lead:
                before = self._of_lead(before)
            if found is not None:
                found[:, i] = logits
        tokens = rearrange(written, "(b k) m -> b k m", b=b)
        return tokens, None if found is None else rearrange(found, "(b k) m v -> b k m v", b=b)


class _Cache:
    """Keys and values of a layer, in arrays of fixed size: of the state, which the `num` rows of an example share, and
    of what was written, row by row. Where an example has one row alone, they stand in one array.

    One query at a time is no work for a matrix unit: the time goes into reading the arrays, and depends on how they
    lie. On a CPU they are float32; narrow heads have the tokens of their keys last, wide ones those of their values.
    Rows lie as (example, head, draw): those that share a state are neighbours. Here, too, no einops: see `_in_heads`.
    """

    def __init__(self, keys: Float[Tensor, "b n g e"], values: Float[Tensor, "b n g e"], num: int, size: int):
        b, n, g, e = keys.shape
        on_cpu = keys.device.type == "cpu"
        kind = torch.float32 if on_cpu else values.dtype
        self.num, self.scale, self.wide = num, e**-0.5, on_cpu and e >= WIDE
        self.first = n if num == 1 else 0
        last = self.first + size
        new = lambda *shape: torch.empty(b * g * num, *shape, dtype=kind, device=keys.device)
        self.keys, self.values = (new(last, e), new(e, last)) if self.wide else (new(e, last), new(last, e))
        # The same arrays by the same axes, whichever way they lie.
        ours = (self.keys.transpose(1, 2), self.values.transpose(1, 2)) if self.wide else (self.keys, self.values)
        self.new_keys, self.new_values = (x.unflatten(0, (b, g, num)) for x in ours)  # b g k e t, b g k t e
        keys = rearrange(keys * self.scale, "b n g e -> b g e n").to(kind)
        values = rearrange(values, "b n g e -> b g n e").to(kind)
        self.state: tuple[Tensor, Tensor] | None = None
        if num == 1:
            self.new_keys[:, :, 0, :, :n], self.new_values[:, :, 0, :n] = keys, values
        else:
            self.state = keys.flatten(0, 1).contiguous(), values.flatten(0, 1).contiguous()

    def keep(self, i: int, k: Float[Tensor, "r 1 g e"], v: Float[Tensor, "r 1 g e"]) -> None:
        """The i-th token of every row."""
        k, v = (x.unflatten(0, (-1, self.num))[:, :, 0].transpose(1, 2) for x in (k, v))
        torch.mul(k, self.scale, out=self.new_keys[..., self.first + i])
        self.new_values[..., self.first + i, :] = v

    def look(self, i: int, q: Float[Tensor, "r 1 g e"], dropout: float) -> Float[Tensor, "r 1 d"]:
        """What the i-th token of every row sees: the state, and its own row up to itself."""
        r, _, g, e = q.shape
        b, upto = r // self.num, self.first + i + 1
        q = q.to(self.keys.dtype).view(b, self.num, g, e).transpose(1, 2).reshape(b * g, self.num, e)
        each = q.reshape(-1, 1, e)
        # Not `@`, which would copy the part of an array first.
        if self.wide:
            score = torch.bmm(self.keys[:, :upto], each.transpose(1, 2)).transpose(1, 2)
        else:
            score = torch.bmm(each, self.keys[:, :, :upto])
        if self.state is not None:
            shared = torch.bmm(q, self.state[0])
            score = torch.cat([shared.view(r * g, 1, -1), score], dim=2)
        weight = score.softmax(2)
        weight = F.dropout(weight, dropout) if dropout else weight
        own = weight[:, :, weight.shape[2] - upto :]
        if self.wide:
            seen = torch.bmm(self.values[:, :, :upto], own.transpose(1, 2))
        else:
            seen = torch.bmm(own, self.values[:, :upto])
        seen = seen.view(b * g, self.num, e)
        if self.state is not None:
            of_state = weight[:, :, :-upto].reshape(b * g, self.num, -1)
            seen = seen + torch.bmm(of_state, self.state[1])
        return seen.view(b, g, self.num, e).transpose(1, 2).reshape(r, 1, g * e)


WIDE = 64
"""Channels of a head from which on its keys and values lie as wide ones."""


def _pick(
    logits: Float[Tensor, "r v"], uniform: Float[Tensor, " r"], temperature: float, top_k: int | None
) -> Int[Tensor, " r"]:
    """The token at which the cumulated probability passes a uniform number: an exact draw."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    total = (logits / temperature).softmax(-1).cumsum(-1)
    place = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)[:, 0]
    return place.clamp(max=logits.shape[-1] - 1)
