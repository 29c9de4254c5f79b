"""A causal video world: Diffusion Forcing (Chen et al., NeurIPS 2024; arXiv 2407.01392) on a frame-causal transformer,
with clean prefixes (Po et al. 2505.20171; FAR, Gu et al. 2503.19325) and a memory that can be exchanged (after State
and Dynamics, Wang et al., arXiv 2601.17067).

Every frame has a noise level of its own. What is known is clean and is encoded once, frame by frame; what is unknown
looks at all that is known, and at the unknown frames before it. Known frames may lie anywhere in time, so that one
network predicts, looks back, interpolates and generates; frames recalled from long ago are known frames like others.
What a memory keeps beyond frames arrives in `Clip.memory`, and is read by the brick of that name (`reads`).

Frames are pixels, or the latents of any tokenizer with as many channels as it likes (`Config.bounded` = False).

Sections: network - objective - fill - surprise - presets.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld import noise, reveal
from maskworld.clip import Cameras, Clip, example
from maskworld.masks import check_fits, on_pixels, whole_frames
from maskworld.nets.embed import sinusoidal
from maskworld.nets.precision import computing
from maskworld.nets.transformer import Context, Evicted, Seen, Transformer
from maskworld.noise import Rng
from maskworld.verbs import Fill, Known, Loss, Objective, Surprise

# -- network --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """One model.

    actions     channels of an action; 0: it takes none
    window      most known frames that are shown at once; where more are known, those nearest in time
    block       unknown frames that are filled together
    shift       how far noise levels lean to much noise, as in Esser et al. 2024, Eq. 23: flat pictures survive little
    reach       differences of time beyond so many frames look alike
    context_noise   most deviation of the noise that half of the known frames wear in training
    plan        whether the clip has a second view, wholly known: the drawing of a plan
    memories    names of the learned memories that it holds
    bounded     whether values lie in [-1, 1] (pixels do, latents do not)
    """

    size: int = 64
    channels: int = 3
    patch: int = 8
    dim: int = 256
    depth: int = 6
    heads: int = 8
    ratio: int = 4
    actions: int = 0
    window: int = 16
    block: int = 4
    shift: float = 3.0
    reach: int = 64
    context_noise: float = 0.2
    plan: bool = False
    memories: tuple[str, ...] = ()
    bounded: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not tile frames of {self.size}")
        if self.window < 1 or self.block < 1:
            raise ValueError("a model sees at least one frame and fills at least one")
        if self.actions < 0 or self.shift <= 0 or not 0 <= self.context_noise <= 1:
            raise ValueError("actions are 0 or more, shift is above 0, context_noise from 0 to 1")

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """Patches in a frame."""
        return self.grid**2


class Forcing(nn.Module):
    """The network with its configuration, and the learned memories that it holds, by name."""

    def __init__(self, config: Config, memories: Mapping[str, nn.Module] | None = None):
        super().__init__()
        memories = memories or {}
        if tuple(memories) != config.memories:
            raise ValueError(f"the configuration speaks of the memories {config.memories}, not {tuple(memories)}")
        self.config = config
        dim, patch = config.dim, config.patch
        self.embed = nn.Linear((config.channels + 1) * patch**2, dim)
        self.transformer = Transformer(dim, config.depth, config.heads, config.ratio)
        self.level = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.still = nn.Parameter(torch.randn(dim) * 0.5)
        self.act = None
        if config.actions:
            self.act = nn.Sequential(nn.Linear(config.actions + 1, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.planned = nn.Linear(config.channels * patch**2, dim, bias=False) if config.plan else None
        self.project = nn.Linear(dim, config.channels * patch**2)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)
        self.memories = nn.ModuleDict(memories)

    def patches(self, frames: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f n d"]:
        p = self.config.patch
        return rearrange(frames, "b f c (gh p) (gw q) -> b f (gh gw) (c p q)", p=p, q=p)

    def place(
        self, times: Float[Tensor, "b f"], cameras: Cameras | None, now: Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b f n 3"]:
        """Where each patch is: its frame's time, or how long after `now`, at most `reach` away; and its row and column
        in the world, as far as cameras tell."""
        config = self.config
        rows, columns = torch.meshgrid(*[torch.arange(config.grid, device=times.device)] * 2, indexing="ij")
        space = torch.stack([rows, columns], -1).flatten(0, 1).float()
        space = space.expand(*times.shape, -1, -1)
        if cameras is not None:
            # The flat world that a sliding camera sees lies at a depth of `size`: focal length x offset / depth.
            focal = torch.stack([cameras.intrinsics[:, 0, 1, 1], cameras.intrinsics[:, 0, 0, 0]], -1)
            offset = cameras.pose[:, 0, :, [1, 0], 3] * focal[:, None] / config.size / config.patch
            space = space + offset[:, :, None].float()
        when = times if now is None else (times - now[:, None]).clamp(-config.reach, config.reach)
        return torch.cat([repeat(when, "b f -> b f n 1", n=config.tokens), space], dim=-1)

    def see(
        self, frames: Float[Tensor, "b f c h w"], there: Bool[Tensor, "b f 1 h w"], place: Float[Tensor, "b f n 3"]
    ) -> tuple[Seen, Evicted]:
        """What the network makes of known frames; holes in them are where `there` is False."""
        pixels = torch.cat([torch.where(there, frames, 0.0), there.to(frames.dtype)], dim=2)
        features = self.embed(self.patches(pixels))
        seen, hidden = self.transformer.encode(features, place, self.still)
        return seen, Evicted(pixels, features, place, hidden)

    def write(self, name: str, memory: Float[Tensor, "b m e"] | None, clip: Clip) -> Float[Tensor, "b m e"]:
        """The frames of a clip, oldest first, enter a learned memory (None: an empty one)."""
        brick = self._memory(name)
        frames, there = _with_holes(clip.frames[:, 0])
        place = self.place(clip.times.float(), clip.cameras)
        _, evicted = self.see(frames, there, place)
        return brick.write(brick.empty(clip.shape[0]) if memory is None else memory, evicted)

    def _memory(self, name: str) -> Any:
        if name not in self.memories:
            raise ValueError(f"this model holds no memory called {name}; it holds {', '.join(self.memories) or 'none'}")
        return self.memories[name]

    def context(
        self, seen: Seen | None, now: Float[Tensor, " b"], reads: str | None, memory: Float[Tensor, "b m e"] | None
    ) -> Context:
        """What unknown frames look at: known frames, and a learned memory, as tokens or beside the attention."""
        parts = [] if seen is None else [seen]
        if reads is None or memory is None:
            return self.transformer.context(parts)
        brick = self._memory(reads)
        if brick.layered:
            return self.transformer.context(parts, state=(brick, memory))
        features, place, valid = brick.tokens(memory)
        when = (place[..., :1] - now[:, None, None]).clamp(-self.config.reach, self.config.reach)
        place = torch.cat([when, place[..., 1:]], dim=-1)
        whole = bool(valid.all())
        kept, _ = self.transformer.encode(
            features[:, None], place[:, None], self.still, None if whole else valid[:, None]
        )
        if whole:
            return self.transformer.context([*parts, kept])
        first = valid.new_ones(valid.shape[0], sum(part.place.shape[1] for part in parts))
        return self.transformer.context([*parts, kept], torch.cat([first, valid], dim=1))

    def told(self, sigma: Float[Tensor, "b f"], felt: Float[Tensor, "b f a"] | None) -> Float[Tensor, "b f d"]:
        """What each unknown frame is told: its noise level, and the action that it feels."""
        level = sinusoidal(rearrange(sigma, "b f -> (b f)") * 1000, self.config.dim)
        told = rearrange(self.level(level), "(b f) d -> b f d", b=sigma.shape[0])
        if self.act is not None:
            assert felt is not None
            told = told + self.act(felt)
        return told

    def forward(
        self,
        x: Float[Tensor, "b f c h w"],
        there: Bool[Tensor, "b f 1 h w"],
        told: Float[Tensor, "b f d"],
        place: Float[Tensor, "b f n 3"],
        context: Context | None,
        plan: Float[Tensor, "b f c h w"] | None,
    ) -> Float[Tensor, "b f c h w"]:
        """The clean frames, as far as the network can tell; `there` says which pixels of x are clean already."""
        features = self.embed(self.patches(torch.cat([x, there.to(x.dtype)], dim=2)))
        if self.planned is not None:
            assert plan is not None
            features = features + self.planned(self.patches(plan))
        out = self.project(self.transformer(features, place, told, context)).float()
        p, g = self.config.patch, self.config.grid
        return rearrange(out, "b f (gh gw) (c p q) -> b f c (gh p) (gw q)", gh=g, p=p, q=p)


def _with_holes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """(frames without NaN, where they are there): a memory may know a frame in part, and marks the rest as NaN."""
    there = torch.isfinite(frames).all(2, keepdim=True)
    return torch.where(there, frames, 0.0), there


def felt_of(clip: Clip, num_actions: int) -> Float[Tensor, "b t a"] | None:
    """The action that each frame feels, which was taken one frame before, and a 1; zeros where it is not known.

    Raises ValueError for actions with another number of channels.
    """
    if not num_actions:
        return None
    b, t = clip.times.shape
    felt = clip.frames.new_zeros(b, t, num_actions + 1)
    if clip.actions is None:
        return felt
    if clip.actions.shape[2] != num_actions:
        raise ValueError(f"this model takes actions of {num_actions} channels; the clip has {clip.actions.shape[2]}")
    follows = (clip.times[:, 1:] == clip.times[:, :-1] + 1)[..., None]
    felt[:, 1:, :-1] = torch.where(follows, clip.actions[:, :-1], 0.0)
    felt[:, 1:, -1:] = follows.to(felt.dtype)
    return felt


# -- objective ------------------------------------------------------------------------------------

Show = tuple[str | None, Callable[[Clip, Clip], Clip]]
"""A memory in training: the brick that reads, or None, and (history, ahead) -> what is shown of the history."""


def shifted(level: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """Noise levels from 0 to 1, moved towards 1 (Esser et al. 2024, Eq. 23)."""
    return shift * level / (1 + (shift - 1) * level)


def objective(
    shows: Sequence[Show] = (), *, pairs: float = 0.0, resample: float = 0.0, p_no_action: float = 0.1
) -> Objective:
    """Diffusion forcing: noise each unknown frame at a level of its own; how well are the clean frames found?

    The loss is that of the unknown frames alone, so that a draw of clean prefixes trains on the noised suffix only,
    and a draw that knows nothing is Diffusion Forcing (Alg. 1).
    differs: the network predicts clean frames on a straight path x = (1 - s) x0 + s eps, weighted as a velocity is,
    1 / s^2, at most 10.

    shows      the memories to train with: those examples of the batch whose known frames all lie before the unknown
               ones take them in turn. None: all known frames are shown.
    pairs      weight of |(x0_i' - x0_j') - (x0_i - x0_j)|^2 for neighbours in the batch, which the data make branches
               of one scene with one factor changed: the loss on an intervention's effect. They share their noise and
               their memory.
    resample   how often an example's known frames are degraded by the network itself: noised, and denoised by it
               (Resampling Forcing, Guo et al. 2512.15702). differs: in one step and all frames at once.

    Raises ValueError for clips of another shape than the network's.
    """

    def run(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
        assert isinstance(net, Forcing)
        config = net.config
        _check(config, clip, known, rng)
        if pairs and clip.shape[0] % 2:
            raise ValueError("pairs stand side by side in a batch: it needs an even number of clips")
        whole, b = whole_frames(known)[:, 0], clip.shape[0]
        level = shifted(rng.uniform((clip.shape[2],), clip.frames.device), config.shift).clamp(min=1e-3)
        eps = noise.gaussian(clip.frames[:, 0], rng)
        worn = _worn(config, clip, rng)
        coin = rng.uniform((2,), clip.frames.device)
        if pairs:
            first = torch.arange(b, device=eps.device) // 2 * 2
            level, eps, worn, coin = level[first], eps[first], worn[first], coin[first]
        felt = felt_of(clip, config.actions)
        if felt is not None:
            felt = torch.where(coin[:, :1, None] < p_no_action, 0.0, felt)
        one = torch.zeros(b, dtype=eps.dtype, device=eps.device)
        error, x0 = one, torch.zeros_like(eps)
        for members, which in _alike(whole, len(shows), 2 if pairs else 1):
            place = torch.tensor(members, device=eps.device)
            part = _Part(
                example(clip, members), known[place], None if felt is None else felt[place], level[place], eps[place]
            )
            degrade = coin[place, 1] < resample
            found, x0_part = _of_alike(net, part, worn[place], shows[which] if which is not None else None, degrade)
            error = error.index_add(0, place, found)
            x0 = x0.index_add(0, place, x0_part)
        terms = {"x0": error}
        if pairs:
            there = on_pixels(known, *clip.shape[4:])[:, 0, :, None]
            off = torch.where(there, 0.0, x0 - torch.where(there, 0.0, clip.frames[:, 0]))
            apart = (off[0::2] - off[1::2]).square().flatten(1).mean(1)
            terms["pairs"] = pairs * apart.repeat_interleave(2)
        return Loss(terms)

    return run


class _Part(NamedTuple):
    """Examples whose whole frames are known at the same places, and their noise."""

    clip: Clip
    known: Known
    felt: Tensor | None
    level: Tensor
    eps: Tensor


def _alike(whole: Bool[Tensor, "b t"], num_shows: int, together: int) -> list[tuple[list[int], int | None]]:
    """Examples that go through the network together: the same frames known, the same memory. So many neighbours in the
    batch as stand `together` have the same memory."""
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(whole.tolist()):
        first = row.index(False) if False in row else len(row)
        prefix = 0 < first < len(row) and not any(row[first:])
        groups.setdefault((*row, i // together % num_shows if num_shows and prefix else None), []).append(i)
    return [(members, key[-1]) for key, members in groups.items()]


def _of_alike(
    net: Forcing, part: _Part, worn: Tensor, show: Show | None, degrade: Bool[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b t c h w"]]:
    """(error of each example, clean frames as found; 0 where they are known)."""
    clip, known, felt, level, eps = part
    config = net.config
    whole = whole_frames(known)[0, 0]
    old, new = whole.nonzero()[:, 0], (~whole).nonzero()[:, 0]
    found = torch.zeros_like(eps)
    if len(new) == 0:
        return eps.new_zeros(eps.shape[0]), found
    ahead = _frames_of(clip, new)
    reads, memory, seen = None, None, None
    now = ahead.times[:, 0].float()
    if len(old):
        history = _frames_of(clip, old)
        history = dataclasses.replace(history, frames=history.frames + worn[:, old][:, None])
        if bool(degrade.any()):
            history = _degraded(net, history, eps[:, old], level[:, old], degrade)
        if show is not None:
            reads, shown = show[0], show[1](history, dataclasses.replace(ahead, frames=torch.zeros_like(ahead.frames)))
            memory = shown.memory
        else:
            shown = history
        frames, there = _with_holes(shown.frames[:, 0])
        seen, _ = net.see(frames, there, net.place(shown.times.float(), shown.cameras, now))
    context = net.context(seen, now, reads, memory)
    fixed = on_pixels(known, config.size, config.size)[:, 0, new, None]
    x0 = torch.where(fixed, clip.frames[:, 0, new], 0.0) if bool(fixed.any()) else None
    s = level[:, new]
    wide = s[..., None, None, None]
    x = (1 - wide) * clip.frames[:, 0, new] + wide * eps[:, new]
    x = x if x0 is None else torch.where(fixed, x0, x)
    told = net.told(s, None if felt is None else felt[:, new])
    plan = clip.frames[:, 1, new] if config.plan else None
    out = net(x, fixed, told, net.place(ahead.times.float(), ahead.cameras, now), context, plan)
    weight = (1 / s**2).clamp(max=10.0)[..., None, None, None]
    error = torch.where(fixed, 0.0, (out - clip.frames[:, 0, new]) ** 2 * weight)
    share = (~fixed).float().flatten(1).mean(1)
    found[:, new] = torch.where(fixed, 0.0, out).to(found.dtype)
    return error.flatten(1).mean(1) / share, found


def _worn(config: Config, clip: Clip, rng: Rng) -> Float[Tensor, "b t c h w"]:
    """Noise on what is known, of half of the examples: a roll-out's own frames are not quite right either, and small
    errors are to be mended and not handed on. Nothing is added when sampling."""
    frames = clip.frames[:, 0]
    if not config.context_noise:
        return torch.zeros_like(frames)
    often, strength = rng.uniform((2, 1, 1, 1, 1), frames.device).unbind(1)
    return torch.where(often < 0.5, 0.0, strength * config.context_noise) * noise.gaussian(frames, rng)


@torch.no_grad()
def _degraded(net: Forcing, history: Clip, eps: Tensor, level: Tensor, which: Bool[Tensor, " b"]) -> Clip:
    """The history as the network itself would have made it: noised to each frame's level, and denoised in one step."""
    frames = history.frames[:, 0]
    wide = level[..., None, None, None]
    x = (1 - wide) * frames + wide * eps
    now = history.times[:, 0].float()
    felt = felt_of(history, net.config.actions)
    there = torch.zeros_like(x[:, :, :1], dtype=torch.bool)
    place = net.place(history.times.float(), history.cameras, now)
    plan = history.frames[:, 1] if net.config.plan else None
    out = net(x, there, net.told(level, felt), place, None, plan)
    out = out.clamp(-1, 1) if net.config.bounded else out
    made = torch.where(which[:, None, None, None, None], out.to(frames.dtype), frames)
    return dataclasses.replace(history, frames=torch.cat([made[:, None], history.frames[:, 1:]], dim=1))


def _frames_of(clip: Clip, index: Int[Tensor, " n"]) -> Clip:
    """These frames of the clip, in this order."""
    cameras = clip.cameras and Cameras(clip.cameras.intrinsics, clip.cameras.pose[:, :, index])
    return Clip(
        frames=clip.frames[:, :, index],
        times=clip.times[:, index],
        actions=None if clip.actions is None else clip.actions[:, index],
        cameras=cameras,
        memory=clip.memory,
    )


def _check(config: Config, clip: Clip, known: Known, rng: Rng) -> None:
    check_fits(known, clip.frames)
    b, v, _, c, h, w = clip.shape
    views = 2 if config.plan else 1
    if (v, c, h, w) != (views, config.channels, config.size, config.size):
        wants = "two views (the second is the plan)" if config.plan else "one view"
        raise ValueError(
            f"this model fills {wants} of {config.channels} x {config.size} x {config.size} frames; "
            f"the clip has {v} of {c} x {h} x {w}"
        )
    if config.plan and not bool(known[:, 1].all()):
        raise ValueError("the second view is the plan, and has to be known at every frame")
    if len(rng) != b:
        raise ValueError(f"{len(rng)} random generators for a batch of {b}")
    if clip.cameras is not None:
        pose = clip.cameras.pose[:, 0]
        level = torch.eye(3, dtype=pose.dtype, device=pose.device)
        if not torch.allclose(pose[..., :3, :3], level, atol=1e-4) or not torch.allclose(
            pose[..., 2, 3], pose[:1, :1, 2, 3]
        ):
            raise ValueError("this model knows cameras that slide past a flat world: none may turn or come nearer")


# -- fill -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How unknown frames are drawn.

    steps       from noise to clean, for each frame
    block       frames filled together; None: as many as the network was trained with
    order       (steps, frames) -> which frame is how noisy when: `reveal.whole`, `reveal.frame_by_frame`, or a pyramid
    precision   the type in which the network computes
    cached      frames whose keys and values are kept for the next fill; 0 encodes every known frame again
    on_call     told (done, total) after each call of the network
    """

    steps: int = 8
    block: int | None = None
    order: Callable[[int, int], reveal.Order] = reveal.whole
    precision: torch.dtype = torch.float32
    cached: int = 64
    on_call: Callable[[int, int], None] | None = None


class Cache:
    """Keys and values of frames that were encoded before, by their pixels: a lookup that changes no result.

    Kept are the `size` frames used last.
    """

    def __init__(self, net: Forcing, size: int):
        self.net, self.size = net, size
        self.kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def see(self, clip: Clip, now: Float[Tensor, " b"]) -> Seen:
        """What the network makes of known frames (of one view)."""
        place = self.net.place(clip.times.float(), clip.cameras, now)
        frames, there = _with_holes(clip.frames[:, 0])
        if self.size == 0:
            return self.net.see(frames, there, place)[0]
        b, f = clip.times.shape
        names = [self._name(clip, i, j) for i in range(b) for j in range(f)]
        new = [k for k, name in enumerate(names) if name not in self.kept and names.index(name) == k]
        here = {name: self.kept[name] for name in names if name in self.kept}
        if new:
            rows = torch.tensor(new, device=frames.device)
            flat = [rearrange(x, "b f ... -> (b f) 1 ...")[rows] for x in (frames, there, place)]
            seen, _ = self.net.see(*flat)
            for k, both in zip(new, torch.stack([seen.keys, seen.values]).unbind(2), strict=True):
                here[names[k]] = both
        for name in names:
            self.kept[name] = here[name]
            self.kept.move_to_end(name)
        while len(self.kept) > self.size:
            self.kept.popitem(last=False)
        keys, values = rearrange(
            torch.stack([here[name] for name in names]), "(b f) two l n d -> two l b (f n) d", b=b
        ).unbind(0)
        return Seen(keys, values, rearrange(place, "b f n c -> b (f n) c"))

    @staticmethod
    def _name(clip: Clip, i: int, j: int) -> bytes:
        """A frame's pixels: it is encoded by itself, and where its camera stands makes no difference there."""
        return clip.frames[i, 0, j].float().cpu().numpy().tobytes()


def fill(net: Forcing, sampling: Sampling = Sampling(), reads: str | None = None) -> Fill:
    """Fill in any frames of a clip of any length, and any unknown part of a frame.

    Unknown frames are filled in the order of time, `block` at a time; each block is shown the `window` frames nearest
    to it that are known or filled. `reads` names the learned memory to which `Clip.memory` belongs.

    The Fill raises ValueError for clips of another shape than the network's, and for a memory that it does not hold.
    """
    if reads is not None:
        net._memory(reads)
    config, cache = net.config, Cache(net, sampling.cached)
    size = sampling.block or config.block
    if sampling.steps < 1 or size < 1:
        raise ValueError(f"{sampling.steps} steps for blocks of {size} frames: both are 1 or more")

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        _check(config, clip, known, rng)
        if clip.memory is not None and reads is None:
            raise ValueError("the clip carries a memory; say which of the model's memories reads it")
        whole = whole_frames(known)[:, 0]
        pixels = on_pixels(known, config.size, config.size)[:, 0, :, None]
        frames, there = _with_holes(torch.where(pixels, clip.frames[:, 0], 0.0))
        # A hole in a known frame stays one; within a frame that is filled in it is filled in, too.
        out = torch.where(whole[:, :, None, None, None], clip.frames[:, 0], frames)
        keep = pixels & there
        plans = _plans(whole.tolist(), clip.times.tolist(), config.window, size)
        calls = _Calls(sampling, sum(len(plan) for _, plan in plans))
        with torch.inference_mode(), computing(out.device, sampling.precision):
            for members, plan in plans:
                place = torch.tensor(members, device=out.device)
                part = dataclasses.replace(example(clip, members), frames=clip.frames[place].clone())
                part.frames[:, 0] = out[place]
                draw = _Draw(net, cache, sampling, reads, part, keep[place], rng[members], calls)
                for block, shown in plan:
                    part.frames[:, 0, block] = draw(block, shown)
                out[place] = part.frames[:, 0]
        frames = clip.frames.clone()
        frames[:, 0] = torch.where(pixels, clip.frames[:, 0], out)
        return dataclasses.replace(clip, frames=frames)

    return run


def blocks_of(known: Sequence[bool], times: Sequence[int], window: int, size: int) -> list[tuple[list[int], list[int]]]:
    """(frames to fill together, frames that they are shown), in the order in which they are filled."""
    there, plan = [i for i, k in enumerate(known) if k], []
    todo = sorted((i for i, k in enumerate(known) if not k), key=lambda i: times[i])
    for start in range(0, len(todo), size):
        block = todo[start : start + size]
        last = times[block[-1]]
        # The nearest: those after the block take up to half of the window, so that a long gap closes on both its ends.
        after = sorted((i for i in there if times[i] > last), key=lambda i: times[i])
        before = sorted((i for i in there if times[i] <= last), key=lambda i: -times[i])
        num_after = min(len(after), max(window // 2, window - len(before)))
        near = before[: window - num_after] + after[:num_after]
        plan.append((block, sorted(near, key=lambda i: (times[i], i))))
        there += block
    return plan


def _plans(
    known: Sequence[Sequence[bool]], times: Sequence[Sequence[int]], window: int, size: int
) -> list[tuple[list[int], list[tuple[list[int], list[int]]]]]:
    """Examples that are filled together, and how. Where all that is known is shown, its times make no difference."""
    groups: dict[tuple, list[int]] = {}
    for i, (row, when) in enumerate(zip(known, times, strict=True)):
        all_shown = sum(row) <= window and not any(row[row.index(False) :] if False in row else [])
        groups.setdefault((tuple(row), None if all_shown else tuple(t - when[0] for t in when)), []).append(i)
    return [(members, blocks_of(known[members[0]], times[members[0]], window, size)) for members in groups.values()]


class _Calls:
    """Counts calls of the network for whoever wants to know."""

    def __init__(self, sampling: Sampling, blocks: int):
        self.done, self.total, self.on_call = 0, blocks * sampling.steps, sampling.on_call

    def one(self) -> None:
        self.done += 1
        self.total = max(self.total, self.done)
        if self.on_call is not None:
            self.on_call(self.done, self.total)


class _Draw(NamedTuple):
    """Draws blocks of one clip along the sampling's order. `keep` says which pixels are given."""

    net: Forcing
    cache: Cache
    sampling: Sampling
    reads: str | None
    clip: Clip
    keep: Bool[Tensor, "b t 1 h w"]
    rng: Rng
    calls: _Calls

    def __call__(self, block: list[int], shown: list[int]) -> Float[Tensor, "b f c h w"]:
        """The clean frames of a block, which is shown these frames. Its given pixels are clean at every step."""
        net, clip, device = self.net, self.clip, self.clip.frames.device
        config, new = net.config, torch.tensor(block, device=device)
        ahead = _frames_of(clip, new)
        now = ahead.times[:, 0].float()
        seen = self.cache.see(_frames_of(clip, torch.tensor(shown, device=device)), now) if shown else None
        context = net.context(seen, now, self.reads, clip.memory)
        place = net.place(ahead.times.float(), ahead.cameras, now)
        fixed, given = self.keep[:, new], ahead.frames[:, 0]
        felt = felt_of(clip, config.actions)
        felt = None if felt is None else felt[:, new]
        x = noise.gaussian(given, self.rng)
        order = shifted(self.sampling.order(self.sampling.steps, len(block)).float(), config.shift).to(device)
        for level, after in itertools.pairwise(order):
            n = int((level != after).nonzero()[-1]) + 1  # nobody looks at the frames beyond
            a, b = level[:n].expand(x.shape[0], -1), after[:n].expand(x.shape[0], -1)
            now_x = torch.where(fixed[:, :n], given[:, :n], x[:, :n])
            told = net.told(a, None if felt is None else felt[:, :n])
            plan = ahead.frames[:, 1, :n] if config.plan else None
            x0 = net(now_x, fixed[:, :n], told, place[:, :n], context, plan)
            self.calls.one()
            x0 = x0.clamp(-1, 1) if config.bounded else x0
            # DDIM on the straight path: less of the noise that x is made of. What is clean already stays.
            left = torch.where(a > 0, b / a.clamp(min=1e-6), 1.0)[..., None, None, None]
            x = torch.cat([left * x[:, :n] + (1 - left) * x0, x[:, n:]], dim=1)
        return torch.where(fixed, given, x)


# -- surprise -------------------------------------------------------------------------------------


def surprise(net: Forcing, num_levels: int = 10, precision: torch.dtype = torch.float32) -> Surprise:
    """How unexpected each frame is after those before it: its denoising loss, averaged over `num_levels` levels of
    noise (as in LikePhys, 2510.11512), seen from the `window` frames before.

    The noise of an example depends on its generator alone. The Surprise raises ValueError as `fill` does, and for a
    `start` outside of the clip.
    """
    config = net.config

    def run(clip: Clip, start: int, rng: Rng) -> Float[Tensor, "b n"]:
        b, v, t, c, h, w = clip.shape
        views = 2 if config.plan else 1
        if (v, c, h, w) != (views, config.channels, config.size, config.size):
            raise ValueError(
                f"this model watches one view of {config.channels} x {config.size} x {config.size} frames"
                f"{', beside its plan' if config.plan else ''}; the clip has {v} of {c} x {h} x {w}"
            )
        if not 0 < start < t or len(rng) != b:
            raise ValueError(f"frames from {start} on of a clip of {t}, with {len(rng)} generators for {b} examples")
        felt, device, cache = felt_of(clip, config.actions), clip.frames.device, Cache(net, (config.window + 1) * b)
        s = shifted((torch.arange(num_levels, device=device) + 0.5) / num_levels, config.shift)
        found = clip.frames.new_zeros(b, t - start)
        with torch.inference_mode(), computing(device, precision):
            for i in range(start, t):
                past = torch.arange(max(i - config.window, 0), i, device=device)
                ahead = _frames_of(clip, torch.tensor([i], device=device))
                now = ahead.times[:, 0].float()
                context = net.context(cache.see(_frames_of(clip, past), now), now, None, None)
                place = net.place(ahead.times.float(), ahead.cameras, now)
                plan = ahead.frames[:, 1] if config.plan else None
                eps = rng.normal((num_levels, c, h, w), device).to(clip.frames.dtype)
                for n in range(num_levels):
                    x = (1 - s[n]) * clip.frames[:, 0, i] + s[n] * eps[:, n]
                    there = torch.zeros_like(x[:, None, :1], dtype=torch.bool)
                    told = net.told(s[n].expand(b, 1), None if felt is None else felt[:, i : i + 1])
                    out = net(x[:, None], there, told, place, context, plan)
                    found[:, i - start] += (out[:, 0] - clip.frames[:, 0, i]).square().flatten(1).mean(1) / num_levels
        return found

    return run


# -- presets --------------------------------------------------------------------------------------


def tiny(**changes) -> Config:
    """For tests: every part of the network, a few thousand parameters."""
    config = Config(size=16, channels=1, patch=8, dim=32, depth=2, heads=2, ratio=2, window=6, block=2)
    return dataclasses.replace(config, **changes)


def mini(**changes) -> Config:
    """1.4 M parameters: what two CPU cores train in twenty minutes on toy worlds."""
    return dataclasses.replace(Config(dim=128, depth=6, heads=4), **changes)


def small(**changes) -> Config:
    """About 5 M parameters, 64 x 64: hours of two CPU cores or half an hour of GPU."""
    return dataclasses.replace(Config(dim=256, depth=6, heads=8), **changes)


def base(**changes) -> Config:
    """About 34 M parameters, 64 x 64, patches of 4: for a GPU."""
    return dataclasses.replace(Config(patch=4, dim=512, depth=10, heads=8), **changes)
