"""Video Occupancy Models (Tomar et al. 2024, arXiv 2407.09533): one draw is a state of the discounted future.

From a state s the future is a chain s1, s2, ...; at a geometric time K, with Pr(K = k) = (1 - gamma) gamma^k, it stands
at x = s_{1 + K}. The occupancy m_gamma(x | s) is the distribution of that state. It satisfies a Bellman equation,

    m(. | s) = (1 - gamma) P(. | s) + gamma E_{s' ~ P(. | s)} m(. | s'),

and so it can be learnt by temporal differences (generative TD; Janner et al. 2020, arXiv 2010.14496): what is to be
written after a state is its real successor, with probability 1 - gamma, or else a draw of the model itself from there.
The value of the state is the mean reward of what is drawn, over 1 - gamma: no roll-out.

What is drawn may carry its reward (`reward_bins`, an extension): one token before those of the frames. The mean reward
is then that of a distribution which the model holds itself, and a value needs no draw.

A state is a stack of frames in a tokenizer's codes; the model is a transformer that reads one stack and writes another.
The occupancy is that of whoever made the data, or, where an action is told, of doing that first.

Sections: network - what is to be written - objective - draws and values - fill - presets.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.masks import check_fits, whole_frames
from maskworld.nets.prefix import PrefixLM
from maskworld.noise import Rng
from maskworld.verbs import Fill, Known, Loss, Objective

# -- network --------------------------------------------------------------------------------------


@runtime_checkable
class Tokenizer(Protocol):
    """What turns frames into codes, as far as this family needs it."""

    vocab: int
    grid: tuple[int, int]
    size: int
    channels: int
    dim: int
    paints: bool

    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]: ...
    def vectors(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]: ...
    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]: ...


@dataclass(frozen=True)
class Config:
    """The network. The first fields are the tokenizer's.

    size, channels   of frames
    vocab, grid      codes there are, and how many of them a frame has in rows and columns
    dim_code         channels of a code's vector
    stack            frames of a state; two or three show velocities
    gammas           discounts that are learnt; others between the least and the greatest are asked of the same network
    actions          channels of the actions that are told; 0: none
    policies         channels after those: which of so many policies acts
    p_untold         how often an action or a policy is not told in training, so that it need not be told later
    gpt2, dropout    the public code's transformer, and its dropout of features and of attention
    ends             whether it can be written that there is no more state
    reward_bins      values of a token that is written before a state: the reward of arriving there; 0: none, and
                     rewards are read from states, as in the paper
    """

    size: int = 64
    channels: int = 3
    vocab: int = 512
    grid: tuple[int, int] = (4, 4)
    dim_code: int = 64
    stack: int = 2
    dim: int = 192
    depth: int = 4
    heads: int = 4
    gammas: tuple[float, ...] = (0.8, 0.9, 0.95)
    actions: int = 0
    policies: int = 0
    p_untold: float = 0.2
    dim_reward: int = 256
    gpt2: bool = False
    dropout: tuple[float, float] = (0.0, 0.0)
    ends: bool = True
    reward_bins: int = 0

    def __post_init__(self) -> None:
        for gamma in self.gammas:
            check_gamma(gamma)
        if not self.gammas or self.stack < 1:
            raise ValueError(f"at least one discount and one frame in a state, not {self.gammas} and {self.stack}")
        if self.gpt2 and (len(self.gammas) > 1 or self.actions or self.policies):
            raise ValueError("GPT-2's layers are told nothing: one discount, no actions, no policies")
        if not 0 <= self.reward_bins <= (0 if self.gpt2 else self.vocab):
            raise ValueError(
                "rewards have at most as many values as there are codes, and none in GPT-2's layers, "
                f"not {self.reward_bins}"
            )

    @property
    def tokens(self) -> int:
        """Of a state."""
        return self.stack * self.grid[0] * self.grid[1]

    @property
    def written(self) -> int:
        """Tokens of a draw: a state, and perhaps its reward before it."""
        return self.tokens + (self.reward_bins > 0)


def check_gamma(gamma: float) -> None:
    """Raises ValueError for a discount outside of [0, 1)."""
    if not 0 <= gamma < 1:
        raise ValueError(f"a discount gamma is at least 0 and below 1, not {gamma}")


class Told(NamedTuple):
    """What a draw is told. Where an action or a policy is NaN it is not told.

    gamma   of each row
    does    the action that is done first, then the policy that goes on, one-hot; None where the network takes neither
    """

    gamma: Float[Tensor, " b"]
    does: Float[Tensor, "b a"] | None = None

    def __getitem__(self, rows: Tensor) -> Told:  # type: ignore[override]
        return Told(self.gamma[rows], None if self.does is None else self.does[rows])


class Occupancy(nn.Module):
    """The transformer over tokens, and what it is told."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.lm = PrefixLM(
            config.vocab, config.grid, config.stack, config.dim, config.depth, config.heads,
            ends=config.ends, leads=config.reward_bins, gpt2=config.gpt2, dropout=config.dropout,
        )  # fmt: skip
        if not config.gpt2:
            self.gamma = nn.Sequential(nn.Linear(8, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim))
        for name, width in (("action", config.actions), ("policy", config.policies)):
            if width:
                self.add_module(
                    name, nn.Sequential(nn.Linear(width, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim))
                )
                self.register_parameter(f"no_{name}", nn.Parameter(torch.zeros(config.dim)))

    def told(self, told: Told) -> Float[Tensor, "b d"] | None:
        """One vector for each row. The horizon 1 / (1 - gamma) counts by its logarithm."""
        if self.config.gpt2:
            return None
        x = -torch.log1p(-told.gamma.float())[:, None] * told.gamma.new_tensor([0.5, 1.0, 2.0, 4.0]).float()
        found = self.gamma(torch.cat([x.sin(), x.cos()], dim=1))
        first = 0
        for name, width in (("action", self.config.actions), ("policy", self.config.policies)):
            if not width:
                continue
            nothing = self.get_parameter(f"no_{name}")
            if told.does is None:
                found = found + nothing
                continue
            part = told.does[:, first : first + width].float()
            there = part.isfinite().all(1, keepdim=True)
            found = found + torch.where(there, self.get_submodule(name)(part.nan_to_num()), nothing)
            first += width
        return found

    def forward(
        self, state: Int[Tensor, "b n"], told: Told, other: Int[Tensor, "b m"], own: bool = False
    ) -> tuple[Float[Tensor, "b m v"], Float[Tensor, "b l v"] | None]:
        """Logits of what is written, token by token; and, if asked, of the state's own tokens but its first, where it
        is read causally."""
        own = own and self.config.gpt2
        read = self.lm.read(state, last=own)
        found = self.lm(read, state, self.told(told), other)
        return found, None if read.last is None else self.lm.logits(read.last)


class VOC(nn.Module):
    """The occupancy, the reward of a state, and the tokenizer in whose codes both are written, which never changes.

    Raises ValueError for a tokenizer that is not the configuration's.
    """

    reward_mean: Tensor
    reward_std: Tensor
    reward_edges: Tensor
    reward_values: Tensor
    code_size: Tensor

    def __init__(self, config: Config, tokenizer: nn.Module):
        super().__init__()
        self.config = config
        of: Tokenizer = tokenizer  # type: ignore[assignment]
        there = {"size": of.size, "channels": of.channels, "vocab": of.vocab, "grid": tuple(of.grid), "dim": of.dim}
        wanted = {
            "size": config.size,
            "channels": config.channels,
            "vocab": config.vocab,
            "grid": tuple(config.grid),
            "dim": config.dim_code,
        }
        wrong = [f"{name} {there[name]} and not {wanted[name]}" for name in there if there[name] != wanted[name]]
        if wrong:
            raise ValueError(f"this tokenizer does not go with this transformer: it has {', '.join(wrong)}")
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.occupancy = Occupancy(config)
        self.target: Occupancy | None = None
        dim = config.tokens * config.dim_code
        self.reward = nn.Sequential(
            nn.Linear(dim, config.dim_reward),
            nn.SiLU(),
            nn.Linear(config.dim_reward, config.dim_reward),
            nn.SiLU(),
            nn.Linear(config.dim_reward, 1),
        )
        nn.init.zeros_(self.reward[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.reward[-1].bias)  # type: ignore[arg-type]
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))
        if config.reward_bins:
            self.register_buffer("reward_edges", torch.zeros(config.reward_bins - 1))
            self.register_buffer("reward_values", torch.zeros(config.reward_bins))
        self.register_buffer("code_size", torch.ones(()))

    def begin(self, rewards: Float[Tensor, " n"], bootstraps: bool) -> None:
        """Make it ready to be trained: in which units rewards and codes come, and the slow copy that is drawn from.

        A constant reward is known from then on.
        """
        self.reward_mean.fill_(rewards.mean())
        self.reward_std.fill_(rewards.std(correction=0))
        if self.config.reward_bins:
            self._bin(rewards.to(self.reward_edges))
        some = torch.linspace(0, self.config.vocab - 1, min(self.config.vocab, 4096)).round().long()
        of: Tokenizer = self.tokenizer  # type: ignore[assignment]
        vectors = of.vectors(some[:, None, None].to(self.code_size.device)).float()
        self.code_size.fill_(vectors.square().mean().sqrt())
        self.target = copy.deepcopy(self.occupancy).eval().requires_grad_(False) if bootstraps else None

    def _bin(self, rewards: Float[Tensor, " n"]) -> None:
        """Bins with equally many of these rewards, each worth the mean of its own: the mean of all is kept."""
        bins = self.config.reward_bins
        order = rewards.sort().values
        self.reward_edges.copy_(order[torch.arange(1, bins, device=order.device) * (len(order) - 1) // bins])
        into = self.binned(rewards)
        total = torch.zeros(bins, dtype=torch.float64, device=order.device).index_add_(0, into, rewards.double())
        count = torch.bincount(into, minlength=bins)
        nearest = torch.cat([self.reward_edges, order[-1:]])  # of rewards that are all alike nothing is left to learn
        self.reward_values.copy_(torch.where(count > 0, total / count, nearest))

    def binned(self, rewards: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The token of each reward."""
        return torch.bucketize(rewards.to(self.reward_edges), self.reward_edges)

    def train(self, mode: bool = True) -> VOC:
        super().train(mode)
        self.tokenizer.eval()
        if self.target is not None:
            self.target.eval()
        return self

    def codes(self, clip: Clip) -> Int[Tensor, "b t n"]:
        """The tokens of every frame, of a clip in pixels or one that is in codes already.

        Raises ValueError for clips of more than one view, or of frames that are neither.
        """
        b, v, _, c, h, w = clip.shape
        config = self.config
        if v == 1 and (c, h, w) == (1, *config.grid):
            return rearrange(clip.frames.round().long(), "b 1 t 1 gh gw -> b t (gh gw)")
        if v != 1 or (c, h, w) != (config.channels, config.size, config.size):
            raise ValueError(
                f"this model sees one view of {config.channels} x {config.size} x {config.size} frames; "
                f"the clip has {v} of {c} x {h} x {w}"
            )
        of: Tokenizer = self.tokenizer  # type: ignore[assignment]
        with torch.no_grad(), torch.autocast(clip.frames.device.type, enabled=False):
            codes = of.encode(rearrange(clip.frames, "b 1 t c h w -> (b t) c h w"))
        return rearrange(codes, "(b t) gh gw -> b t (gh gw)", b=b)

    def rewards(self, states: Int[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """The reward of arriving at each state; 0 where there is none any more. In the units of the data."""
        gone = (states == self.config.vocab).any(1)
        of: Tokenizer = self.tokenizer  # type: ignore[assignment]
        gh, gw = self.config.grid
        codes = rearrange(states.clamp(max=self.config.vocab - 1), "b (s gh gw) -> (b s) gh gw", gh=gh, gw=gw)
        with torch.no_grad():
            vectors = of.vectors(codes).float()
        x = rearrange(vectors, "(b s) gh gw d -> b (s gh gw d)", b=len(states)) / self.code_size
        found = self.reward(x)[:, 0].float() * self.reward_std + self.reward_mean
        return torch.where(gone, torch.zeros_like(found), found)

    def paint(self, states: Int[Tensor, "b n"]) -> Float[Tensor, "b s c h w"]:
        """The frames of states. Raises ValueError where the tokenizer cannot paint."""
        of: Tokenizer = self.tokenizer  # type: ignore[assignment]
        if not of.paints:
            raise ValueError("this model's tokenizer cannot paint its codes: there are values, but no pictures")
        gh, gw = self.config.grid
        codes = rearrange(states.clamp(max=self.config.vocab - 1), "b (s gh gw) -> (b s) gh gw", gh=gh, gw=gw)
        with torch.no_grad():
            return rearrange(of.decode(codes).float().clamp(-1, 1), "(b s) c h w -> b s c h w", b=len(states))


# -- what is to be written ------------------------------------------------------------------------


@dataclass(frozen=True)
class TD:
    """How the occupancy is learnt.

    steps         real steps before the model goes on by itself (n-step); None: all there are, and it never does
                  (Monte Carlo). Beyond the end of an episode whose time was over it is drawn again
    loss          `sample`: the tokens of what was drawn (the paper). `distribution`: of a draw of the model itself the
                  whole distribution of each token, given those before it; the same in the mean, with less variance
    tau           how fast the slow copy, from which is drawn, follows
    context       weight of the loss on the tokens that are read, which the theory does not know (GPT-2 only)
    temperature, top_k, dropout   faults of the draw that this learns from; the public code has top_k 50 and dropout
    """

    steps: int | None = 4
    loss: Literal["sample", "distribution"] = "distribution"
    tau: float = 0.01
    context: float = 0.0
    temperature: float = 1.0
    top_k: int | None = None
    dropout: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"the model goes on after 1 or more real steps, not {self.steps}")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau is above 0 and at most 1, not {self.tau}")
        if self.loss == "distribution" and (self.temperature != 1.0 or self.top_k is not None):
            raise ValueError("the whole distribution is that of an exact draw: temperature 1, no top_k")


class Written(NamedTuple):
    """What is to be written after each state.

    tokens      of a real state, of a draw, or the end; before them, where it is written, the reward's
    logits      where they were drawn by the model: of every token; else zeros
    drawn       whether they were
    """

    tokens: Int[Tensor, "b m"]
    logits: Float[Tensor, "b m v"] | None
    drawn: Bool[Tensor, " b"]


def delays(
    gamma: Float[Tensor, " b"], uniform: Float[Tensor, " b"], limit: Int[Tensor, " b"] | None = None
) -> Int[Tensor, " b"]:
    """Geometric times, Pr(K = k) = (1 - gamma) gamma^k, one uniform number each; below `limit` where there is one."""
    gamma, uniform = gamma.double(), uniform.double()
    if limit is not None:
        beyond = gamma ** limit.double()
        uniform = beyond + (1 - beyond) * uniform
    uniform = uniform.clamp(min=1e-300)
    found = torch.where(gamma > 0, (uniform.log() / gamma.clamp(min=1e-300).log()).floor(), torch.zeros_like(gamma))
    found = found.clamp(max=2**40).long()
    return found if limit is None else torch.minimum(found, limit - 1)


def stacked(codes: Int[Tensor, "b t n"], last: Int[Tensor, " b"], stack: int) -> Int[Tensor, "b m"]:
    """The `stack` frames that end with frame `last` of each row, oldest first, as one row of tokens."""
    index = last[:, None] + torch.arange(1 - stack, 1, device=codes.device)
    assert bool((index >= 0).all()), "a stack begins before the clip"
    rows = torch.arange(len(codes), device=codes.device)[:, None]
    return rearrange(codes[rows, index], "b s n -> b (s n)")


def written(net: VOC, td: TD, clip: Clip, told: Told, rng: Rng) -> Written:
    """The target of generative TD after the first `stack` frames of a clip (Fig. 1; n-step and Monte Carlo likewise).

    One Bernoulli draw for each row, never for each token; only the rows that go on are drawn from the slow copy. The
    frames after the state are real ones up to where times repeat.
    """
    config, codes = net.config, net.codes(clip)
    b, device, s = len(codes), codes.device, net.config.stack
    chance = rng.uniform((1,), device)[:, 0]
    there = clip.times[:, -1] - clip.times[:, s - 1]
    if bool((there < 1).any()):
        raise ValueError("a state with no frame after it: nothing can be learnt from it")
    over = torch.zeros(b, dtype=torch.bool, device=device)
    if clip.discounts is not None and config.ends:
        over = clip.discounts[:, s:].eq(0).any(1)
    if td.steps is None:
        real = there
        k = torch.where(over, delays(told.gamma, chance), delays(told.gamma, chance, there))
        over_here = over
    else:
        real = there.clamp(max=td.steps)
        k = delays(told.gamma, chance)
        rows = torch.arange(b, device=device)
        over_here = over & (clip.discounts[rows, s - 1 + real] == 0) if clip.discounts is not None else over
    data = k < real
    last = s - 1 + torch.where(data, 1 + k.clamp(max=clip.shape[2]), real)
    tokens = stacked(codes, last, s)
    if config.reward_bins:
        if clip.rewards is None:
            raise ValueError("this model writes the reward of each state; the clip has none")
        reward = net.binned(clip.rewards[torch.arange(b, device=device), last])
        tokens = torch.cat([reward[:, None], tokens], dim=1)
    end = ~data & over_here
    tokens = torch.where(end[:, None], torch.full_like(tokens, config.vocab), tokens)
    drawn = ~data & ~over_here
    uniform = rng.uniform((1, config.written), device)
    if td.steps is None or not bool(drawn.any()):
        return Written(tokens, None, torch.zeros_like(drawn))
    assert net.target is not None, "there is nothing to draw from: begin the training with VOC.begin"
    goes_on = drawn.nonzero()[:, 0]
    # What is done next is done from there on (SARSA). Where the episode does not say, it is not told.
    then = told[goes_on]
    if told.does is not None and clip.actions is not None:
        does = clip.actions[goes_on, (s - 1 + real)[goes_on]].to(told.does)
        then = Told(then.gamma, torch.where(then.does.isfinite(), does, then.does))  # type: ignore[union-attr]
    net.target.train(td.dropout)
    state = tokens[goes_on, -config.tokens :]
    extra = net.target.told(then)
    found, logits = net.target.lm.draw(
        state,
        None if extra is None else extra[:, None],
        uniform[goes_on],
        precision=_precision(device),
        temperature=td.temperature,
        top_k=td.top_k,
        keep_logits=td.loss == "distribution",
    )
    net.target.eval()
    tokens = tokens.index_put((goes_on,), found[:, 0])
    if logits is None:
        return Written(tokens, None, drawn)
    full = logits.new_zeros(b, *logits.shape[2:])
    return Written(tokens, full.index_put((goes_on,), logits[:, 0]), drawn)


def _precision(device: torch.device) -> torch.dtype:
    """That of the training around."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


# -- objective ------------------------------------------------------------------------------------


def objective(td: TD = TD()) -> Objective:
    """Generative TD and the reward of real states: terms `occupancy`, `reward` (in standard deviations), `arrival` (of
    the rewards' tokens) where they are written and, for GPT-2's layers, `context`. What is known is not asked: the
    first `stack` frames are, and no more.

    A step of a network in training first lets the slow copy follow.
    """

    def loss(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
        assert isinstance(net, VOC)
        config, s = net.config, net.config.stack
        if net.training and net.target is not None:
            _follow(net.target, net.occupancy, td.tau)
        codes = net.codes(clip)
        state = stacked(codes, torch.full_like(clip.times[:, 0], s - 1), s)
        told = _drawn_told(config, clip, rng)
        other = written(net, td, clip, told, rng)
        logits, own = net.occupancy(state, told, other.tokens, own=td.context > 0)
        log_p = logits.float().log_softmax(-1)
        nll = -log_p.gather(-1, other.tokens[..., None])[..., 0]
        if other.logits is not None:
            soft = -(other.logits.softmax(-1) * log_p).sum(-1)
            nll = torch.where(other.drawn[:, None], soft, nll)
        terms = {"occupancy": nll[:, -config.tokens :].mean(1)}
        if config.reward_bins:
            terms["arrival"] = nll[:, 0]
        if td.context:
            if own is None:
                raise ValueError("a state that is read all at once has no loss of its own: context is 0")
            terms["context"] = td.context * F.cross_entropy(
                own.float().transpose(1, 2), state[:, 1:], reduction="none"
            ).mean(1)
        if clip.rewards is not None and bool(net.reward_std > 0):
            following = stacked(codes, torch.full_like(clip.times[:, 0], s), s)
            error = (net.rewards(following) - clip.rewards[:, s]) / net.reward_std
            terms["reward"] = error.float().square()
        return Loss(terms)

    return loss


def _drawn_told(config: Config, clip: Clip, rng: Rng) -> Told:
    """A discount for each row; its action and its policy, each of them not told now and then."""
    device, b = clip.frames.device, clip.shape[0]
    pick = rng.integers(0, len(config.gammas), (1,), device)[:, 0]
    gamma = torch.tensor(config.gammas, device=device)[pick]
    chance = rng.uniform((2,), device) < config.p_untold
    width = config.actions + config.policies
    if not width:
        return Told(gamma)
    if clip.actions is None:
        raise ValueError(f"this model is told {width} channels of actions and policies; the clip has none")
    if clip.actions.shape[2] != width:
        raise ValueError(f"this model is told {width} channels of actions and policies, not {clip.actions.shape[2]}")
    does = clip.actions[:, config.stack - 1].clone()
    untold = torch.cat([chance[:, :1].expand(b, config.actions), chance[:, 1:].expand(b, config.policies)], dim=1)
    return Told(gamma, does.masked_fill(untold, math.nan))


@torch.no_grad()
def _follow(target: nn.Module, net: nn.Module, tau: float) -> None:
    ours: list[Tensor] = list(target.parameters())
    theirs: list[Tensor] = list(net.parameters())
    torch._foreach_lerp_(ours, theirs, tau)  # pyright: ignore[reportPrivateImportUsage]


# -- draws and values -----------------------------------------------------------------------------


class Drawn(NamedTuple):
    """States that were drawn, and the reward of arriving at each: 0 at the end, which is tokens `vocab`."""

    states: Int[Tensor, "b k n"]
    rewards: Float[Tensor, "b k"]


class Value(NamedTuple):
    """The value of each state, its standard error over draws, and the share of draws in which all is over. Where
    nothing was drawn the error is NaN, as of a single draw, and the share a probability."""

    mean: Float[Tensor, " b"]
    error: Float[Tensor, " b"]
    ended: Float[Tensor, " b"]


def states_of(net: VOC, clip: Clip) -> Int[Tensor, "b t n"]:
    """The state at every frame of a clip: it and those before it, the first one again where there are none."""
    codes, s = net.codes(clip), net.config.stack
    padded = torch.cat([codes[:, :1].expand(-1, s - 1, -1), codes], dim=1)
    return torch.cat([padded[:, i : i + codes.shape[1]] for i in range(s)], dim=2)


def draws(
    net: VOC,
    states: Int[Tensor, "b n"],
    told: Told,
    num: int,
    rng: Rng,
    *,
    precision: torch.dtype = torch.float32,
    ends: bool = True,
) -> Int[Tensor, "b k n"]:
    """`num` states of each state's discounted future. Tokens `vocab` are its end, if it may end.

    Raises ValueError for a discount that was not learnt, or that lies beyond those that were.
    """
    return _write(net, states, told, num, rng, precision, ends)[..., -net.config.tokens :]


def drawn(
    net: VOC, states: Int[Tensor, "b n"], told: Told, num: int, rng: Rng, precision: torch.dtype = torch.float32
) -> Drawn:
    """The same with the reward of each: the one that was written before it, or else what is read from it."""
    return of_written(net, _write(net, states, told, num, rng, precision, True))


@torch.no_grad()
def _write(
    net: VOC, states: Int[Tensor, "b n"], told: Told, num: int, rng: Rng, precision: torch.dtype, ends: bool
) -> Int[Tensor, "b k m"]:
    _check_learnt(net, told)
    if num < 1:
        raise ValueError(f"{num} draws of each state: 1 or more are needed")
    extra = net.occupancy.told(told)
    extra = None if extra is None else extra[:, None].expand(-1, num, -1)
    uniform = rng.uniform((num, net.config.written), states.device)
    return net.occupancy.lm.draw(states, extra, uniform, precision=precision, ends=ends and net.config.ends)[0]


def of_written(net: VOC, tokens: Int[Tensor, "b k m"]) -> Drawn:
    """What the transformer wrote, as states with their rewards."""
    states = tokens[..., -net.config.tokens :]
    if not net.config.reward_bins:
        with torch.no_grad():
            rewards = net.rewards(rearrange(states, "b k n -> (b k) n"))
        return Drawn(states, rearrange(rewards, "(b k) -> b k", b=len(tokens)))
    gone = (tokens == net.config.vocab).any(2)
    bins = tokens[..., 0].clamp(max=net.config.reward_bins - 1)
    return Drawn(states, torch.where(gone, 0.0, net.reward_values[bins]))


def _check_learnt(net: VOC, told: Told) -> None:
    low, high = min(net.config.gammas), max(net.config.gammas)
    if bool(((told.gamma < low - 1e-6) | (told.gamma > high + 1e-6)).any()):
        raise ValueError(
            f"a discount of {told.gamma.max().item():.4g}; this model has learnt "
            + (f"{low:g} alone" if low == high else f"those from {low:g} to {high:g}")
        )


def value(
    net: VOC, states: Int[Tensor, "b n"], told: Told, num: int, rng: Rng, precision: torch.dtype = torch.float32
) -> Value:
    """V = E[r(x)] / (1 - gamma) over x drawn from the occupancy: of the policy of the data or, where an action is
    told, of doing that first (then it is Q). Where the reward is written, its mean is known, and nothing is drawn.

    Raises ValueError for a discount that was not learnt.
    """
    if net.config.reward_bins:
        return expected(net, states, told)
    found = drawn(net, states, told, num, rng, precision)
    scale = 1 / (1 - told.gamma)
    error = found.rewards.std(1) / math.sqrt(num) if num > 1 else torch.full_like(told.gamma, math.nan)
    ended = (found.states == net.config.vocab).any(2).float().mean(1)
    return Value(found.rewards.mean(1) * scale, error * scale, ended)


@torch.no_grad()
def expected(net: VOC, states: Int[Tensor, "b n"], told: Told) -> Value:
    """The value from the distribution of the reward that is written first. `told` has as many rows as there are states,
    or k times as many: then it is k things for each, in a row, and the state is read once for all of them.

    Raises ValueError for a discount that was not learnt.
    """
    _check_learnt(net, told)
    lm, config = net.occupancy.lm, net.config
    k = len(told.gamma) // len(states)
    read = lm.read(states)
    if k > 1:
        keys, values = ([x.repeat_interleave(k, 0) for x in parts] for parts in (read.keys, read.values))
        read, states = read._replace(keys=tuple(keys), values=tuple(values)), states.repeat_interleave(k, 0)
    first = torch.zeros_like(states[:, :1])
    likely = lm(read, states, net.occupancy.told(told), first)[:, 0].softmax(-1)
    mean = likely[:, : config.reward_bins] @ net.reward_values
    ended = likely[:, config.vocab :].sum(1)
    return Value(mean / (1 - told.gamma), torch.full_like(mean, math.nan), ended)


def mve_weights(gamma: float, wanted: float, steps: int) -> tuple[Float[Tensor, " n"], float]:
    """How much the first, second, ... draw in a chain of draws at `gamma` counts for the longer horizon of `wanted`,
    and what is left after them (Janner et al. 2020, Theorem 1): with a_n = (1 - w) (w - g)^(n - 1) / (1 - g)^n,
    m_w = sum a_n m_g^(n), and ((w - g) / (1 - g))^n is left.

    Raises ValueError where `wanted` is below gamma.
    """
    check_gamma(gamma)
    check_gamma(wanted)
    if wanted < gamma or steps < 1:
        raise ValueError(f"a chain of {steps} draws at {gamma} cannot tell of {wanted}")
    ratio = (wanted - gamma) / (1 - gamma)
    n = torch.arange(steps, dtype=torch.float64)
    return (1 - wanted) / (1 - gamma) * ratio**n, ratio**steps


def mve(
    net: VOC,
    states: Int[Tensor, "b n"],
    gamma: float,
    wanted: float,
    steps: int,
    num: int,
    rng: Rng,
    precision: torch.dtype = torch.float32,
) -> Value:
    """The value at a longer horizon than was learnt, from a chain of `steps` draws at `gamma` (gamma-MVE). What is left
    after them is taken from the model where it has learnt `wanted`, and else shared out among the draws."""
    weights, left = mve_weights(gamma, wanted, steps)
    b, device = len(states), states.device
    now = drawn(net, states, Told(torch.full((b,), gamma, device=device)), num, rng, precision)
    gone = torch.zeros(b, num, dtype=torch.bool, device=device)
    total = torch.zeros(b, num, device=device)
    for i in range(steps):
        gone = gone | (now.states == net.config.vocab).any(2)
        total = total + weights[i].item() * torch.where(gone, 0.0, now.rewards)
        if i + 1 < steps:
            now = _onwards(net, now.states, gamma, rng, precision)
    if min(net.config.gammas) <= wanted <= max(net.config.gammas):
        last = _onwards(net, now.states, wanted, rng, precision)
        total = total + left * torch.where(gone, 0.0, last.rewards)
    else:
        total = total / (1 - left)
    error = total.std(1) / math.sqrt(num) if num > 1 else torch.full((b,), math.nan, device=device)
    return Value(total.mean(1) / (1 - wanted), error / (1 - wanted), gone.float().mean(1))


def unrolled(
    net: VOC,
    states: Int[Tensor, "b n"],
    gamma: float,
    steps: int,
    num: int,
    rng: Rng,
    precision: torch.dtype = torch.float32,
) -> Value:
    """The baseline: `num` roll-outs of `steps` draws one step ahead each (discount 0), their rewards discounted; what
    comes after is taken to go on as it was, by dividing by 1 - gamma^steps."""
    check_gamma(gamma)
    b, device = len(states), states.device
    now = drawn(net, states, Told(torch.zeros(b, device=device)), num, rng, precision)
    total = torch.zeros(b, num, device=device)
    gone = torch.zeros(b, num, dtype=torch.bool, device=device)
    for i in range(steps):
        gone = gone | (now.states == net.config.vocab).any(2)
        total = total + gamma**i * torch.where(gone, 0.0, now.rewards)
        if i + 1 < steps:
            now = _onwards(net, now.states, 0.0, rng, precision)
    total = total / (1 - gamma**steps)
    error = total.std(1) / math.sqrt(num) if num > 1 else torch.full((b,), math.nan, device=device)
    return Value(total.mean(1), error, gone.float().mean(1))


def _onwards(net: VOC, states: Int[Tensor, "b k n"], gamma: float, rng: Rng, precision: torch.dtype) -> Drawn:
    """One draw from each of the k states of every example."""
    b, k, _ = states.shape
    flat = rearrange(states.clamp(max=net.config.vocab - 1), "b k n -> (b k) n")
    with torch.no_grad():
        extra = net.occupancy.told(Told(torch.full((b * k,), gamma, device=states.device)))
        uniform = rearrange(rng.uniform((k, net.config.written), states.device), "b k m -> (b k) 1 m")
        found, _ = net.occupancy.lm.draw(
            flat, None if extra is None else extra[:, None], uniform, precision=precision, ends=net.config.ends
        )
    return of_written(net, rearrange(found, "(b k) 1 m -> b k m", b=b))


# -- fill -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How an unknown frame is drawn.

    gamma       of how far a future; None: the longest that was learnt
    precision   the type in which the network computes
    """

    gamma: float | None = None
    precision: torch.dtype = torch.float32


def fill(net: VOC, sampling: Sampling = Sampling()) -> Fill:
    """The last frame of a clip, if it is unknown, is a draw of the discounted future of those before it: some later
    frame, and it is not said how much later. It is drawn under the condition that there is one.

    The Fill raises ValueError for any other mask, for clips of another shape than the network's, and where the
    tokenizer does not paint.
    """
    config = net.config
    gamma = max(config.gammas) if sampling.gamma is None else sampling.gamma

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        check_fits(known, clip.frames)
        b, v, _, c, h, w = clip.shape
        if (v, c, h, w) != (1, config.channels, config.size, config.size):
            raise ValueError(
                f"this model fills one view of {config.channels} x {config.size} x {config.size} frames; "
                f"the clip has {v} of {c} x {h} x {w}"
            )
        if len(rng) != b:
            raise ValueError(f"{len(rng)} random generators for a batch of {b}")
        whole = whole_frames(known)[:, 0]
        asked = ~whole[:, -1]
        part = known.flatten(3).any(-1)[:, 0] & ~whole
        if not bool(whole[:, :-1].all()) or bool(part.any()) or (bool(asked.any()) and clip.shape[2] < 2):
            raise ValueError(
                "a video occupancy model fills in one frame, the last one, whole, after one or more that are known: "
                "a draw of the discounted future, not a frame at a given time"
            )
        rows = asked.nonzero()[:, 0]
        if not len(rows):
            return clip
        past = dataclasses.replace(
            clip, frames=clip.frames[rows, :, :-1], times=clip.times[rows, :-1], actions=None, cameras=None,
            depth=None, memory=None, rewards=None, discounts=None,
        )  # fmt: skip
        states = states_of(net, past)[:, -1]
        does = None
        if clip.actions is not None and config.actions + config.policies:
            does = clip.actions[rows, -2]
        told = Told(torch.full((len(rows),), gamma, device=states.device), does)
        found = draws(net, states, told, 1, rng[rows.tolist()], precision=sampling.precision, ends=False)[:, 0]
        frames = clip.frames.clone()
        frames[rows, 0, -1] = net.paint(found)[:, -1].to(frames.dtype)
        return dataclasses.replace(clip, frames=frames)

    return run


# -- presets --------------------------------------------------------------------------------------


def of_tokenizer(config: Config, tokenizer: Tokenizer) -> Config:
    """The configuration for this tokenizer; rewards have at most as many values as it has codes."""
    return dataclasses.replace(
        config,
        reward_bins=min(config.reward_bins, tokenizer.vocab),
        size=tokenizer.size,
        channels=tokenizer.channels,
        vocab=tokenizer.vocab,
        grid=(tokenizer.grid[0], tokenizer.grid[1]),
        dim_code=tokenizer.dim,
    )


def tiny(**changes) -> Config:
    """For tests and toy worlds."""
    return dataclasses.replace(Config(dim=64, depth=2, heads=2, stack=1, dim_reward=64), **changes)


def clean(**changes) -> Config:
    """About 2 M parameters: what a core trains in half an hour."""
    return dataclasses.replace(Config(), **changes)


def reference(**changes) -> Config:
    """As the public code really ran: a stack of 3 frames of 5 x 5 codes, GPT-2 of 4 layers and 768 channels (the
    typed width of 512 was ignored), dropout of features 0.2 and of attention 0.1; 29.93 M parameters. Train it with
    `reference_td`, batches of 64 and a rate of 3e-4."""
    config = Config(
        size=80, vocab=1024, grid=(5, 5), dim_code=256, stack=3, dim=768, depth=4, heads=8, gammas=(0.8,), gpt2=True,
        dropout=(0.2, 0.1), ends=False,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def reference_td() -> TD:
    """One step, samples of the 50 likeliest tokens from a slow copy that is not slow and has dropout on, and half of
    the loss on the tokens that are read."""
    return TD(steps=1, loss="sample", tau=0.1, context=1.0, top_k=50, dropout=True)


def gammas_of(config: Config, asked: Sequence[float] | None) -> tuple[float, ...]:
    """The discounts to tell of: those that are asked, or all that were learnt.

    Raises ValueError for one outside of [0, 1) or of what was learnt.
    """
    if not asked:
        return config.gammas
    low, high = min(config.gammas), max(config.gammas)
    for gamma in asked:
        check_gamma(gamma)
        if not low <= gamma <= high:
            raise ValueError(f"a discount of {gamma:g}; this model has learnt those from {low:g} to {high:g}")
    return tuple(asked)
