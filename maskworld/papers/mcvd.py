"""MCVD: Masked Conditional Video Diffusion (Voleti, Jolicoeur-Martineau, Pal; NeurIPS 2022; arXiv 2205.09853).

A U-Net denoises a block of `current` frames and is shown `past` frames before and `future` frames after it.
In training either side is hidden at random, so that one network predicts (past shown), looks back (future
shown), interpolates (both) and generates (neither). Longer videos are filled block by block, and what has
been filled is the context of the next block.

The order is the paper's: network - objective (Sec. 3) - fill (Sec. 3.1) - surprise (ours) - presets (App. A).
`# differs:` marks where new models depart from the paper; the presets named after data sets do not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld import noise, solve
from maskworld.clip import Clip
from maskworld.masks import check_fits, on_pixels, whole_frames
from maskworld.nets.motion import DEPTH, aligned, extrapolated, num_aligned, num_extrapolated
from maskworld.nets.precision import computing
from maskworld.nets.unet import Seen, UNet, from_depth, to_depth
from maskworld.noise import Estimate, Level, Rng, Schedule
from maskworld.verbs import Fill, Known, Loss, Surprise

# -- network --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """One MCVD model. The defaults are the paper's for SMMNIST (App. A)."""

    size: int = 64
    channels: int = 1
    past: int = 5
    current: int = 5
    future: int = 0
    width: int = 64
    multiples: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (8, 16, 32)
    dim_head: int = 64
    dropout: float = 0.1
    spatin: int | None = None
    flagged: bool = False
    num_times: int = 1000
    schedule: Literal["linear", "cosine", "cosine_unclipped"] = "linear"
    gamma: bool = False
    loss: Literal["l2", "l1"] = "l2"
    # differs: what follows is ours; the values here are the paper's way.
    stem: int = 1
    predicts: Literal["eps", "v", "x0"] = "eps"
    weight: Literal["sum", "min_snr"] = "sum"
    told: bool = False
    partial: bool = False
    context_noise: float = 0.0
    own_context: float = 0.0
    motions: int = 0
    followed: int = 0
    reach: int = 4

    def __post_init__(self) -> None:
        if self.current < 1 or self.past < 0 or self.future < 0:
            raise ValueError("a model fills at least one frame and sees no negative number of them")
        positive = ("size", "channels", "stem", "width", "blocks", "dim_head", "num_times")
        for name, value in [(name, getattr(self, name)) for name in positive] + [("spatin", self.spatin)]:
            if value is not None and value < 1:
                raise ValueError(f"{name} is 1 or more, not {value}")
        if not self.multiples or min(*self.multiples, *self.attention, 1) < 1:
            raise ValueError(
                f"multiples {self.multiples} of the width are some, and 1 or more, as sizes of attention are"
            )
        if self.size % self.stem:
            raise ValueError(f"a stem of {self.stem} pixels does not divide frames of {self.size}")
        if self.gamma and self.predicts != "eps":
            raise ValueError("Gamma noise is defined for a network that predicts the noise")
        if not 0 <= self.context_noise <= 1:
            raise ValueError(f"context_noise is a standard deviation from 0 to 1, not {self.context_noise}")
        if not 0 <= self.own_context <= 1:
            raise ValueError(f"own_context is a share of the examples from 0 to 1, not {self.own_context}")
        if self.own_context and not self.partial:
            raise ValueError(
                "context of its own is drawn from a part of the rest: such a network sees part of it (partial)"
            )
        if self.followed and (self.followed < 2 or not self.motions):
            raise ValueError(
                f"{self.motions} motions are followed through {self.followed} frames: some are, through two or more"
            )
        seen_moving = max(self.past, self.future) > 1 and self.predicts == "x0"
        if self.motions < 0 or self.reach < 1 or (self.motions and not seen_moving):
            raise ValueError(
                f"{self.motions} motions of at most {self.reach} pixels a frame, with {self.past} frames seen before, "
                f"{self.future} after and {self.predicts} predicted: a motion is 1 pixel or more, is seen in two "
                "frames of one side, and leads to a clean frame (x0)"
            )

    @property
    def num_frames(self) -> int:
        return self.past + self.current + self.future

    @property
    def num_context(self) -> int:
        return self.past + self.future

    @property
    def num_extrapolated(self) -> int:
        """Pictures of where motions lead, for each frame of the block (`MCVD.extrapolated`)."""
        return sum(num_extrapolated(side, self.motions, self.followed) for side in (self.past, self.future))

    @property
    def num_aligned(self) -> int:
        """The same of the frames next to the block, moved to where the noise has them (`MCVD.aligned`)."""
        return sum(num_aligned(side, self.motions, self.followed) for side in (self.past, self.future))

    def noise_schedule(self) -> Schedule:
        if self.schedule == "linear":
            return noise.linear(self.num_times)
        return noise.cosine(self.num_times, None if self.schedule == "cosine_unclipped" else 0.999)


class Choose(nn.Module):
    """How much each of the pictures of a frame counts at each pixel, by what is there in all of them."""

    def __init__(self, dim: int, shares: int, width: int = 64):
        super().__init__()
        self.look = nn.Conv2d(dim, width, 3, padding=1)
        self.compare = nn.Conv2d(width, width, 1)
        self.score = nn.Conv2d(width, shares, 1)
        assert self.score.bias is not None
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        with torch.no_grad():
            self.score.bias[0] = 2.0  # what is painted, which comes first and is yet to be learnt

    def forward(self, looks: Float[Tensor, "b k m c h w"]) -> Float[Tensor, "b k n h w"]:
        h = rearrange(looks, "b k m c h w -> (b k) (m c) h w").contiguous(memory_format=torch.channels_last)
        h = F.silu(self.look(h))
        h = h + F.silu(self.compare(h))
        return self.score(h).unflatten(0, looks.shape[:2]).float()


class Side(NamedTuple):
    """The context frame next to the block, whether it is shown, and what it is made of (`Extrapolated.layers`)."""

    frame: Float[Tensor, "b c h w"]
    shown: Bool[Tensor, " b"]
    layers: Float[Tensor, "b l c h w"] | None = None


class Context(NamedTuple):
    """What a block is drawn from.

    seen      what the network makes of the context frames
    pictures  of each frame of the block, where motions lead; None where they are not looked for
    there     which of all pictures, the aligned ones last, say something
    sides     what is aligned
    """

    seen: Seen
    pictures: Float[Tensor, "b k m c h w"] | None = None
    there: Bool[Tensor, "b m"] | None = None
    sides: Sequence[Side] = ()


class MCVD(nn.Module):
    """The network with its configuration. Frames are stacked along channels: [current | past | future], with what is
    aligned to the current ones after these, and at the end what is extrapolated and which frames are shown."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        per_frame, shares = config.channels * config.stem**2, 0
        if config.motions:
            shares = 1 + config.num_extrapolated + config.num_aligned
            self.choose = Choose(config.channels * (shares + 1), shares)
        self.unet = UNet(
            size=config.size // config.stem,
            dim_x=config.current * per_frame * (1 + config.num_aligned),
            dim_cond=(config.num_context + config.current * config.num_extrapolated) * per_frame
            + config.num_context * config.told,
            dim_out=config.current * (per_frame + shares),
            width=config.width,
            multiples=config.multiples,
            blocks=config.blocks,
            attention=config.attention,
            dim_head=config.dim_head,
            dropout=config.dropout,
            spatin=config.spatin,
            flagged=config.flagged,
        )

    def label(self, time: Float[Tensor, " n"] | Int[Tensor, " n"]) -> Tensor:
        """The original counts from the most noise: label 0 is time T - 1."""
        return self.config.num_times - 1 - time

    def see(self, context: Float[Tensor, "b n c h w"], shown: Bool[Tensor, "b n"]) -> Context:
        """What the network makes of the context frames [past | future]; a hidden one is grey (0)."""
        config = self.config
        context = torch.where(shown[:, :, None, None, None], context, 0.0)
        frames, pictures, there, sides = context, None, None, []
        if config.motions:
            pictures, there, sides = self.extrapolated(context, shown)
            frames = torch.cat([context, pictures.flatten(1, 2).to(context.dtype)], dim=1)
        cond = to_depth(rearrange(frames, "b n c h w -> b (n c) h w"), config.stem)
        if config.told:
            # differs: a grey frame and a hidden one look alike in the paper; one more channel tells them apart.
            told = shown[:, :, None, None].expand(-1, -1, *cond.shape[-2:])
            cond = torch.cat([cond, told.to(cond.dtype)], dim=1)
        return Context(self.unet.see(cond), pictures, there, sides)

    def extrapolated(
        self, context: Float[Tensor, "b n c h w"], shown: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b k m c h w"], Bool[Tensor, "b a"], list[Side]]:
        """differs: what the context frames would show in each frame of the block, if all went on as it goes: the
        motion-compensated prediction of video coding, from either side. Then which pictures say something, those that
        will be aligned among them, and of what these will be."""
        config = self.config
        past, future = slice(0, config.past), slice(config.past, None)
        pictures, there, sides, aligned_there = [], [], [], []
        for frames, which, nearest in (
            (context[:, past].flip(1), shown[:, past].flip(1), range(1, config.current + 1)),
            (context[:, future], shown[:, future], range(config.current, 0, -1)),
        ):
            s = frames.shape[1]
            if s == 0:
                continue
            one, both = which[:, :1], which[:, :2].all(1, keepdim=True)
            layers = None
            if s > 1:
                found, layers = extrapolated(frames, which, nearest, followed=config.followed, **self._search())
                pictures.append(found)
                of_all = both.expand(-1, found.shape[2])
                there.append(of_all & which[:, :DEPTH].repeat(1, config.motions) if layers is None else of_all)
            sides.append(Side(frames[:, 0], which[:, 0], layers))
            of_layers = num_aligned(s, config.motions, config.followed) - config.motions
            aligned_there += [one.expand(-1, config.motions), both.expand(-1, of_layers)]
        return torch.cat(pictures, dim=2), torch.cat(there + aligned_there, dim=1), sides

    def aligned(
        self, x: Float[Tensor, "b k c h w"], alpha: Float[Tensor, " n"], sides: Sequence[Side]
    ) -> Float[Tensor, "b k m c h w"]:
        """differs: the frames next to the block, moved to where a noisy block has what they show, and their layers
        after them. Where a thing goes at a wall is decided with the noise; from then on it looks as it did."""
        k, alpha = self.config.current, alpha.expand(len(x))
        blocks = []
        for i in range(k):
            distances = [i + 1] * (self.config.past > 0) + [k - i] * (self.config.future > 0)
            found = [
                aligned(x[:, i], alpha, side.frame, side.shown, distance, layers=side.layers, **self._search())
                for side, distance in zip(sides, distances, strict=True)
            ]
            blocks.append(torch.cat(found, dim=1))
        return torch.stack(blocks, dim=1)

    def _search(self) -> dict[str, int]:
        """What is compared is a quarter of the frame."""
        config = self.config
        return {"motions": config.motions, "reach": config.reach, "window": 2 * (config.size // 8) + 1}

    def when(self, time: Tensor, shown: Bool[Tensor, "b n"]) -> list[Tensor]:
        """The times' part of the network; `flagged` models are told whether the past is shown (all of it)."""
        flag = None
        if self.config.flagged:
            flag = shown[:, : self.config.past].all(1).long().expand(time.shape[0])
        when = self.unet.when(self.label(time), flag)
        if self.config.motions:
            when.append(_schedule(self.config).at(time)[0].float()[:, None])
        return when

    def forward(self, x: Float[Tensor, "b k c h w"], when: Sequence[Tensor], context: Context) -> Tensor:
        """The network's output for a noisy block, in float32 and in the block's shape."""
        (k, c), stem = x.shape[1:3], self.config.stem
        frames = x[:, :, None]
        if context.sides:
            *when, alpha = when
            frames = torch.cat([frames, self.aligned(x, alpha[:, 0], context.sides).to(x.dtype)], dim=2)
        h = to_depth(rearrange(frames, "b k m c h w -> b (m k c) h w"), stem)
        out = self.unet(h.contiguous(memory_format=torch.channels_last), when, context.seen).float()
        drawn = k * c * stem**2
        painted = rearrange(from_depth(out[:, :drawn], stem), "b (k c) h w -> b k c h w", k=k, c=c)
        if context.pictures is None or context.there is None:
            return painted
        # differs: each pixel is painted, or is that of a picture of where motions lead. What a thing looks like is
        # then carried on and not drawn anew (masks: Finn, Goodfellow, Levine 2016, arXiv 1605.07157).
        looks = torch.cat([painted[:, :, None], context.pictures, frames[:, :, 1:]], dim=2)
        scores = F.interpolate(out[:, drawn:], scale_factor=stem).unflatten(1, (k, -1))  # one for all pixels of a cell
        scores = scores + self.choose(torch.cat([looks, x[:, :, None]], dim=2))
        there = torch.cat([torch.ones_like(context.there[:, :1]), context.there], dim=1)
        shares = scores.masked_fill(~there[:, None, :, None, None], float("-inf")).softmax(2)
        return (shares[:, :, :, None] * looks).sum(2)

    def estimate(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Estimate:
        read = {"eps": noise.as_eps, "v": noise.as_v, "x0": noise.as_x0}[self.config.predicts]
        return read(output, x, alpha, sigma)


# -- objective (Sec. 3) ---------------------------------------------------------------------------

OWN = 3  # blocks next to the one that is learnt that the network may have drawn itself


def objective(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
    """Eq. 2-4: noise the current block at a random time; how well is the noise found, seeing the rest?

    Context frames that are not known are hidden. The block in the middle is always the unknown one.
    Raises ValueError for a clip of another shape than the network's.
    """
    assert isinstance(net, MCVD)
    config = net.config
    frames, context, shown = _window(config, clip, known)
    if config.own_context and net.training:
        context = _own(net, context, shown, rng)
    time = rng.integers(0, config.num_times, (), frames.device)
    alpha, sigma = (level.to(frames.dtype) for level in _schedule(config).at(time))
    eps = _draw_noise(config, frames, time, rng)
    wide = (slice(None), None, None, None, None)
    x = alpha[wide] * frames + sigma[wide] * eps
    output = net(x, net.when(time, shown), net.see(_worn(config, context, rng), shown))
    v = noise.v_of(frames, eps, alpha[wide], sigma[wide])
    error = output - {"eps": eps, "v": v, "x0": frames}[config.predicts]
    error = 0.5 * error**2 if config.loss == "l2" else error.abs()
    if config.weight == "sum":
        return Loss({config.predicts: error.flatten(1).sum(1)})
    # differs: a mean over pixels, so that the size of a frame does not change the step, and no weight of a noise
    # level above 5 (`noise.min_snr`).
    return Loss({config.predicts: error.flatten(1).mean(1) * noise.min_snr(alpha, sigma, config.predicts)})


def _window(config: Config, clip: Clip, known: Known) -> tuple[Tensor, Tensor, Tensor]:
    """(current frames, context frames, which context frames are shown) of one training clip."""
    check_fits(known, clip.frames)
    _, v, t, c, h, w = clip.shape
    if (v, t, c, h, w) != (1, config.num_frames, config.channels, config.size, config.size):
        raise ValueError(
            f"this model trains on one view of {config.num_frames} frames, {config.channels} x {config.size} x "
            f"{config.size}; the clip has {v} of {t}, {c} x {h} x {w}"
        )
    frames, there = clip.frames[:, 0], whole_frames(known)[:, 0]
    middle = slice(config.past, config.past + config.current)
    outside = [i for i in range(t) if not middle.start <= i < middle.stop]
    return frames[:, middle], frames[:, outside], there[:, outside]


@torch.no_grad()
def _own(net: MCVD, context: Float[Tensor, "b n c h w"], shown: Bool[Tensor, "b n"], rng: Rng) -> Tensor:
    """Context that the network has drawn.

    differs: in a share of the examples, `own_context`, the frames next to the block, up to OWN blocks of them on either
    side, are what the network makes of those beyond, where there are any, and of themselves under some noise: they are
    where they were, and err as a roll-out's frames do (scheduled sampling; Bengio et al. 2015, arXiv 1506.03099, with
    one step of the solver).
    """
    config, k = net.config, net.config.current
    often, level = rng.uniform((2,), context.device).unbind(1)
    time = ((0.1 + 0.5 * level) * config.num_times).long()
    context = context.clone()
    blocks = rng.integers(1, OWN + 1, (), context.device)
    frame = torch.arange(config.num_context, device=context.device)
    for places in (frame[: config.past].flip(0), frame[config.past :]):  # the nearest first
        for at in range((OWN - 1) * k, -1, -k):  # the farthest block first: the next ones see what became of it
            near, beyond = places[at : at + k], places[at + k :]
            if not len(beyond):
                continue
            mine = (often < config.own_context) & (at < k * blocks) & shown[:, near].all(1) & shown[:, beyond[0]]
            near = near.sort().values  # as time goes
            eps = _draw_noise(config, context[:, near], time, rng)
            if not bool(mine.any()):
                continue
            was, there, moved = context[mine], shown[mine], places[: len(beyond)]
            seen, told = torch.zeros_like(was), torch.zeros_like(there)
            seen[:, moved], told[:, moved] = was[:, beyond], there[:, beyond]
            levels = _schedule(config).at(time[mine])
            alpha, sigma = (one.to(context.dtype)[:, None, None, None, None] for one in levels)
            x = alpha * was[:, near] + sigma * eps[mine]
            drawn = net.estimate(net(x, net.when(time[mine], told), net.see(seen, told)), x, alpha, sigma).x0
            context[mine.nonzero(), near] = drawn.clamp(-1, 1).to(context.dtype)
    return context


def _worn(config: Config, context: Tensor, rng: Rng) -> Tensor:
    """Context as a roll-out's own frames are: not quite right.

    differs: half of the examples see their context under noise of a deviation up to `context_noise`, so that small
    errors of the blocks before are mended and not handed on.
    """
    if not config.context_noise:
        return context
    often, strength = rng.uniform((2, 1, 1, 1, 1), context.device).unbind(1)
    strength = torch.where(often < 0.5, 0.0, strength * config.context_noise)
    return context + strength * noise.gaussian(context, rng)


@functools.cache
def _schedule(config: Config) -> Schedule:
    return config.noise_schedule()


@functools.cache
def _gamma(config: Config) -> noise.GammaNoise:
    return noise.GammaNoise.of(_schedule(config))


def _draw_noise(config: Config, like: Tensor, time: Tensor, rng: Rng) -> Tensor:
    if config.gamma:
        return _gamma(config).draw(like, time, rng)
    return noise.gaussian(like, rng)


# -- fill (Sec. 3.1) ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How a block is drawn.

    clip           keep the estimate of the clean frames within [-1, 1]
    denoise_label  one more call after the last step, told a label that is too noisy: the original's way when it
                   takes fewer steps than it was trained with, kept because published numbers include it
    precision      the type in which the network computes
    on_call        told (done, total) after each call of the network
    """

    steps: int = 100
    solver: solve.Solver | None = None
    clip: bool = True
    denoise_label: bool = False
    precision: torch.dtype = torch.float32
    on_call: Callable[[int, int], None] | None = None


def default_sampling(config: Config) -> Sampling:
    """The paper's 100 steps of DDPM; for networks that do not predict the noise, a few of a second-order solver."""
    if config.predicts == "eps":
        return Sampling(steps=min(100, config.num_times))
    return Sampling(steps=min(5, config.num_times), solver=solve.dpmpp_2m)


@dataclass(frozen=True)
class Block:
    """One call of the sampler: the current frames start at `start`; context slots that are None are hidden."""

    start: int
    past: tuple[int | None, ...]
    future: tuple[int | None, ...]


def blocks_of(known: Sequence[bool], config: Config) -> list[Block]:
    """In which order the unknown frames of a clip are filled, and what each block is shown.

    A gap that is open on one side is filled from its known end; one that is closed on both is filled from both
    ends in turn, until one block closes it; where nothing is known the first block is generated.
    differs: the paper interpolates exactly one block, and never runs its training case (0, 1) backwards.

    Raises ValueError where the model cannot see what it would have to continue.
    """
    filled = list(known)
    _refuse_blind(filled, config)
    plan: list[Block] = []
    from_left = True
    while not all(filled):
        start, stop = _first_gap(filled)
        left, right = start > 0, stop < len(filled)
        if stop - start <= config.current and left and right:
            fits = [_block(s, filled, config) for s in (start, max(stop - config.current, 0))]
            block = max(fits, key=_num_shown)
        elif left and right:
            block = _block(start if from_left else stop - config.current, filled, config)
            from_left = not from_left
        else:
            block = _block(start if left or not right else stop - config.current, filled, config)
        plan.append(block)
        for i in range(max(block.start, 0), min(block.start + config.current, len(filled))):
            filled[i] = True
    return plan


def _num_shown(block: Block) -> int:
    return sum(i is not None for i in block.past + block.future)


def _first_gap(filled: Sequence[bool]) -> tuple[int, int]:
    start = list(filled).index(False)
    stop = start
    while stop < len(filled) and not filled[stop]:
        stop += 1
    return start, stop


def _block(start: int, filled: Sequence[bool], config: Config) -> Block:
    """The context of a block: on each side the frames next to it, as far as they are there without a break."""

    def there(i: int) -> bool:
        return 0 <= i < len(filled) and filled[i]

    past = [start - 1 - i for i in range(config.past)]
    future = [start + config.current + i for i in range(config.future)]
    past = past[: next((n for n, i in enumerate(past) if not there(i)), len(past))]
    future = future[: next((n for n, i in enumerate(future) if not there(i)), len(future))]
    if not config.partial:
        # Trained with whole sides only: an incomplete one is shown only where there is nothing better.
        if len(past) < config.past and len(future) == config.future > 0:
            past = []
        elif len(future) < config.future and past:
            future = []
    pad_past = (None,) * (config.past - len(past))
    return Block(start, pad_past + tuple(reversed(past)), tuple(future) + (None,) * (config.future - len(future)))


def _refuse_blind(known: Sequence[bool], config: Config) -> None:
    """Every gap beside a known frame must have a side that the model was trained to be shown."""
    if not any(known):
        return
    left = right = 0
    need_left = 1 if config.partial else max(config.past, 1)
    need_right = 1 if config.partial else max(config.future, 1)
    runs: list[tuple[bool, int]] = []
    for frame in known:
        if runs and runs[-1][0] == frame:
            runs[-1] = (frame, runs[-1][1] + 1)
        else:
            runs.append((frame, 1))
    for i, (frame, _) in enumerate(runs):
        if frame:
            continue
        left = runs[i - 1][1] if i > 0 else 0
        right = runs[i + 1][1] if i + 1 < len(runs) else 0
        sees_left = config.past > 0 and left >= need_left
        sees_right = config.future > 0 and right >= need_right
        if not (sees_left or sees_right):
            raise ValueError(
                f"this model continues at least {need_left if config.past else 'no'} frame(s) before a gap and "
                f"{need_right if config.future else 'no'} after it; here {left} are known before one and {right} after"
            )


def fill(net: MCVD, sampling: Sampling = Sampling()) -> Fill:
    """Fill in any frames of a clip of any length, and any unknown part of a frame.

    The Fill raises ValueError for several views, for frames of another size or number of colours, and for a
    mask that the model cannot honour (see `blocks_of`).
    """
    config = net.config
    draw_block = BlockSampler(net, sampling)

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
        there = whole_frames(known)[:, 0]
        # Examples with the same known frames are filled together.
        groups: dict[tuple[bool, ...], list[int]] = {}
        for i, row in enumerate(there.tolist()):
            groups.setdefault(tuple(row), []).append(i)
        plans = {row: blocks_of(row, config) for row in groups}
        draw_block.expect(sum(len(plan) for plan in plans.values()))
        pixels = on_pixels(known, h, w)[:, 0, :, None]
        given = torch.where(pixels, clip.frames[:, 0], 0.0)
        out = given.clone()
        with torch.inference_mode(), computing(out.device, sampling.precision):
            for row, members in groups.items():
                place = torch.tensor(members, device=out.device)
                frames, keep = given[place], pixels[place].expand(-1, -1, c, h, w).clone()
                for block in plans[row]:
                    _fill_block(draw_block, block, frames, keep, rng[members])
                out[place] = frames
        out = torch.where(pixels, clip.frames[:, 0], out.clamp(-1, 1))
        return dataclasses.replace(clip, frames=out[:, None])

    return run


def _fill_block(draw: BlockSampler, block: Block, frames: Tensor, keep: Tensor, rng: Rng) -> None:
    """Draw one block and write it into `frames`, except where `keep` says that a pixel was given or filled."""
    b, t, c, h, w = frames.shape
    config = draw.net.config
    slots = block.past + block.future
    context = frames.new_zeros(b, len(slots), c, h, w)
    for n, i in enumerate(slots):
        if i is not None:
            context[:, n] = frames[:, i]
    shown = torch.tensor([i is not None for i in slots], device=frames.device).expand(b, -1)
    lo, hi = max(block.start, 0), min(block.start + config.current, t)
    inside = slice(lo - block.start, hi - block.start)
    fixed = frames.new_zeros(b, config.current, c, h, w)
    fixed[:, inside] = frames[:, lo:hi]
    is_fixed = torch.zeros_like(fixed, dtype=torch.bool)
    is_fixed[:, inside] = keep[:, lo:hi]
    drawn = draw(context, shown, rng, fixed if bool(is_fixed.any()) else None, is_fixed)
    frames[:, lo:hi] = torch.where(is_fixed, fixed, drawn)[:, inside]
    keep[:, lo:hi] = True


class BlockSampler:
    """Draws blocks; keeps what only depends on the times, and counts its calls."""

    def __init__(self, net: MCVD, sampling: Sampling):
        self.net, self.sampling = net, sampling
        self.schedule = _schedule(net.config)
        self.levels = self.schedule.levels(sampling.steps)
        self.solver = sampling.solver or solve.ddpm
        self.done = self.total = 0

    def expect(self, blocks: int) -> None:
        """Count from here: so many blocks are to come."""
        a_block = solve.calls(self.solver, self.levels) + self.sampling.denoise_label
        self.done, self.total = 0, blocks * a_block

    def __call__(
        self,
        context: Float[Tensor, "b n c h w"],
        shown: Bool[Tensor, "b n"],
        rng: Rng,
        fixed: Float[Tensor, "b k c h w"] | None,
        is_fixed: Bool[Tensor, "b k c h w"],
    ) -> Float[Tensor, "b k c h w"]:
        config, sampling, net = self.net.config, self.sampling, self.net
        b, _, c, h, w = context.shape
        first = self.levels[0]
        start = context.new_zeros(b, config.current, c, h, w)
        x = self.noise(start, first, rng) * (first.sigma if config.gamma else 1.0)
        seen = net.see(context, shown)
        when = self._times(shown)
        # differs: the paper conditions on whole frames alone. Known pixels within the block are put back, at the
        # noise of each level, before the network looks (replacement; Lugmayr et al. 2022 without resampling).
        noise_of_fixed = noise.gaussian(start, rng) if fixed is not None else start

        def output(x: Tensor, time: float) -> Tensor:
            out = net(x, when(time), seen)
            self.done += 1
            if sampling.on_call is not None:
                sampling.on_call(self.done, self.total)
            return out

        def denoise(x: Tensor, level: Level) -> Estimate:
            if fixed is not None:
                x = torch.where(is_fixed, level.alpha * fixed + level.sigma * noise_of_fixed, x)
            x0, eps = net.estimate(output(x, level.time), x, level.alpha, level.sigma)
            if sampling.clip:
                # The noise is not recomputed after clipping, as in the original.
                x0 = x0.clamp(-1, 1)
            if fixed is not None:
                x0, eps = torch.where(is_fixed, fixed, x0), torch.where(is_fixed, noise_of_fixed, eps)
            return Estimate(x0, eps)

        x = self._solve(denoise, x, rng)
        if sampling.denoise_label:
            last = self.levels[-2]
            wrong_time = float(config.num_times - sampling.steps)  # label steps - 1
            x = x - last.sigma * net.estimate(output(x, wrong_time), x, last.alpha, last.sigma).eps
        return x

    def _solve(self, denoise: solve.Denoise, x: Tensor, rng: Rng) -> Tensor:
        if self.solver is solve.fpndm:
            return solve.fpndm(denoise, x, self.levels, rng, schedule=self.schedule)
        if self.solver is solve.ddpm and self.net.config.gamma:
            return solve.ddpm(denoise, x, self.levels, rng, noise=self.noise)
        return self.solver(denoise, x, self.levels, rng)

    def noise(self, like: Tensor, level: Level, rng: Rng) -> Tensor:
        time = torch.full((like.shape[0],), int(level.time), device=like.device)
        return _draw_noise(self.net.config, like, time, rng)

    def _times(self, shown: Bool[Tensor, "b n"]) -> Callable[[float], list[Tensor]]:
        """Every level's part of the network in one pass; a level between them is computed when it is met."""
        times = [level.time for level in self.levels[:-1]]
        flag = shown[:1] if self.net.config.flagged else shown
        rows = self.net.when(torch.tensor(times, device=shown.device), flag)
        place = {time: i for i, time in enumerate(times)}

        def when(time: float) -> list[Tensor]:
            if time not in place:
                return self.net.when(torch.tensor([time], device=shown.device), flag)
            i = place[time]
            return [row[i : i + 1] for row in rows]

        return when


# -- surprise -------------------------------------------------------------------------------------


def surprise(net: MCVD, num_levels: int = 10, precision: torch.dtype = torch.float32) -> Surprise:
    """How unexpected each frame is after those before it: the denoising loss, a bound of its log-likelihood,
    averaged over `num_levels` noise levels (as in LikePhys, 2510.11512).

    The noise of an example depends on its generator alone, and not on its frames: films that are given equal
    generators are compared under equal noise. The Surprise raises ValueError as `fill` does, for a network without
    a past, and for a `start` outside of the clip.
    """
    config = net.config
    if not config.past:
        raise ValueError("this model sees no past: nothing can surprise it")
    schedule = _schedule(config)
    times = ((torch.arange(num_levels) + 0.5) / num_levels * config.num_times).long()

    def run(clip: Clip, start: int, rng: Rng) -> Tensor:
        b, v, t, c, h, w = clip.shape
        if (v, c, h, w) != (1, config.channels, config.size, config.size):
            raise ValueError(
                f"this model watches one view of {config.channels} x {config.size} x {config.size} frames; "
                f"the clip has {v} of {c} x {h} x {w}"
            )
        if not 0 < start < t or len(rng) != b:
            raise ValueError(f"frames from {start} on of a clip of {t}, with {len(rng)} generators for {b} examples")
        k = config.current
        frames = torch.cat([clip.frames[:, 0], clip.frames[:, 0, -1:].expand(-1, k - 1, -1, -1, -1)], dim=1)
        when = times.to(frames.device)
        alpha, sigma = (x.to(frames.dtype)[:, None, None, None, None] for x in schedule.at(when))
        found = frames.new_zeros(b, t - start)
        with torch.inference_mode(), computing(frames.device, precision):
            for first in range(start, t, k):
                slots = [i if i >= 0 else None for i in range(first - config.past, first)] + [None] * config.future
                context = frames.new_zeros(b, len(slots), c, h, w)
                for n, i in enumerate(slots):
                    if i is not None:
                        context[:, n] = frames[:, i]
                shown = torch.tensor([i is not None for i in slots], device=frames.device).expand(b, -1)
                block = frames[:, first : first + k]
                eps = rng.normal((num_levels, *block.shape[1:]), frames.device).to(frames.dtype)
                for i in range(b):  # one film at all levels
                    many = (num_levels, -1, -1, -1, -1)
                    x = alpha * block[i] + sigma * eps[i]
                    times_, seen = net.when(when, shown[i].expand(num_levels, -1)), context[i].expand(many)
                    output = net(x, times_, net.see(seen, shown[i].expand(num_levels, -1)))
                    error = (net.estimate(output, x, alpha, sigma).x0 - block[i]) ** 2
                    stop = min(k, t - first)
                    found[i, first - start : first - start + stop] = error.mean((0, 2, 3, 4))[:stop]
        return found

    return run


# -- presets (App. A) -----------------------------------------------------------------------------


def tiny(**changes) -> Config:
    """For tests: every part of the network, a few thousand parameters."""
    config = Config(
        size=16, past=2, current=2, future=2, width=8, multiples=(1, 2), blocks=1, attention=(8,), dim_head=8,
        dropout=0.0, num_times=50,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def small(**changes) -> Config:
    """What two CPU cores or half an hour of GPU can train; docs/log.md says which departures were measured.

    differs: works on squares of pixels as channels, predicts the clean frames on a cosine schedule with weights
    limited as in min-SNR, is told which context frames are shown, and is trained with incomplete contexts and with
    noise on them.
    """
    config = Config(
        size=64, past=5, current=1, future=5, width=48, multiples=(1, 1, 2), blocks=1, attention=(8,), dim_head=48,
        dropout=0.0, schedule="cosine", stem=2, predicts="x0", weight="min_snr", told=True, partial=True,
        context_noise=0.4,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def smmnist(spatin: bool = False, **changes) -> Config:
    """Stochastic Moving MNIST, 5 -> 5 frames of 64 x 64."""
    return dataclasses.replace(Config(spatin=128 if spatin else None), **changes)


def kth(spatin: bool = False, **changes) -> Config:
    """KTH, 10 -> 5 frames of 64 x 64."""
    config = Config(past=10, width=192 if spatin else 96, dim_head=96, spatin=192 if spatin else None)
    return dataclasses.replace(config, **changes)


def bair(spatin: bool = False, **changes) -> Config:
    """BAIR, 1 (or 2) -> 5 frames of 64 x 64 in colour."""
    config = Config(channels=3, past=1, width=192, dim_head=192, spatin=128 if spatin else None)
    return dataclasses.replace(config, **changes)


def cityscapes(spatin: bool = False, **changes) -> Config:
    """Cityscapes, 2 -> 5 frames of 128 x 128 in colour."""
    width = 256 if spatin else 192
    config = Config(
        size=128, channels=3, past=2, width=width, multiples=(1, 1, 2, 3, 4), dim_head=width, dropout=0.0,
        spatin=128 if spatin else None,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def ucf101(spatin: bool = False, **changes) -> Config:
    """UCF-101, 4 -> 4 frames of 64 x 64 in colour."""
    config = Config(channels=3, past=4, current=4, width=288, dim_head=288, spatin=192 if spatin else None)
    return dataclasses.replace(config, **changes)
