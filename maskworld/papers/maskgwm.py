"""MaskGWM: a driving world model with video mask reconstruction (Ni et al., CVPR 2025; arXiv 2502.11663).

A diffusion transformer over latents, space, time and views in turn, that learns the velocity of a rectified flow. Some
frames are references: given clean, at a time of their own, tau = 0. In training a quarter of the tokens are dropped
before the encoder, filled in by two small branches that only training has, and the same loss is asked of all:

    G(z_tau, M) = D(F(E(z_tau . M) . M + m_tau . (1 - M))),   E |G - (z0 - eps)|^2.

The token that stands for what was dropped carries the noise, m_tau = (1 - tau) f(eps) + tau p: what is left to find
there is the clean signal, as in a masked autoencoder. As many tokens are dropped in every row: what is kept stays a
grid, so that frames still meet place by place (shifted time attention) and views row by row.

Latents are those of a tokenizer that never changes, or, without one, pixels.

Sections: network - actions - what is dropped - objective - fill - presets.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld import masks, noise
from maskworld.clip import Cameras, Clip, at_frames, example
from maskworld.masks import check_fits, whole_frames
from maskworld.nets.embed import sinusoidal
from maskworld.nets.precision import computing
from maskworld.nets.spacetime import Grid, SpaceBlock, TimeBlock, bearing_angles, gather, scatter, time_angles
from maskworld.noise import Rng
from maskworld.verbs import Draw, Fill, Known, Loss, Objective

# -- network --------------------------------------------------------------------------------------

ACTIONS: Mapping[str, int] = {"speed": 1, "angle": 1, "trajectory": 8, "goal": 2, "command": 1}
"""What can be told of a drive, and in how many numbers (Sec. 3.1, after Vista): speed in m/s; angle as the path's
curvature in 1/m, to the left; four way points of the next two seconds and a goal, x and y in metres before and to the
left of the car; a command, 0 right, 1 left, 2 stop, 3 straight on."""

_UNITS: Mapping[str, float] = {"speed": 10.0, "angle": 0.1, "trajectory": 10.0, "goal": 20.0, "command": 2.0}
_LIMITS = {"speed": (70.0, "m/s"), "angle": (1.0, "1/m")}
_WAVES = 6  # of each number, each twice as short as the one before


@runtime_checkable
class Tokenizer(Protocol):
    """What turns frames into latents, as far as this family needs it."""

    channels: int
    dim: int
    factor: int

    def encode(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d gh gw"]: ...
    def decode(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n c h w"]: ...


@dataclass(frozen=True)
class Config:
    """One model.

    size, channels   height and width of frames in pixels, and their channels
    latent, factor   channels of latents, and pixels along a latent's side; the tokenizer's
    patch            latents along a token's side
    views            cameras
    num_frames       frames seen at once, of which up to `references` are shown clean
    dim, depth, heads, ratio   width, layers (each space, time and, for several views, view), heads, width of the MLPs
    dim_told         width of the vector that modulates a frame's tokens; 0: as wide as they are
    decoder          of the layers, the last so many are the decoder
    hidden           share of the tokens of each row that training drops
    actions          what it is told, by name
    along            time attention: at one place of all frames, or at one row of them, in which things move sideways
    across           view attention: along one row of all views, or at all tokens of all views
    causal           what is known sees what is known, what is unknown does not see later unknown frames, nor feel later
                     actions: so that nothing is caused by what comes after it
    rays             whether tokens know along which rays their camera looks
    bearing          whether view attention turns queries and keys by the bearing of each token's ray, so that tokens of
                     two cameras that look the same way find each other (an extension; it wants `rays`)
    shift            how far noise levels lean to much noise (Esser et al. 2024, Eq. 23)
    worn             most deviation of the noise that reference frames wear in training, so that the model expects
                     its own faults there
    shared           one filler for all instead of two branches (Tab. 4b)
    """

    size: tuple[int, int] = (48, 96)
    channels: int = 3
    latent: int = 3
    factor: int = 1
    patch: int = 8
    views: int = 1
    num_frames: int = 8
    references: int = 3
    dim: int = 128
    depth: int = 6
    decoder: int = 1
    heads: int = 4
    ratio: int = 4
    dim_told: int = 0
    hidden: float = 0.25
    actions: tuple[str, ...] = ("speed", "angle")
    along: Literal["places", "rows"] = "places"
    across: Literal["rows", "all"] = "rows"
    causal: bool = True
    rays: bool = True
    bearing: bool = False
    shift: float = 1.0
    worn: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        if min(self.channels, self.latent, self.factor, self.patch, self.dim, self.heads, self.ratio) < 1:
            raise ValueError("channels, latent, factor, patch, dim, heads and ratio are 1 or more")
        side = self.factor * self.patch
        if min(self.size) < 1 or self.size[0] % side or self.size[1] % side:
            raise ValueError(f"tokens of {side} pixels do not tile frames of {self.size[0]}x{self.size[1]}")
        if not 0 <= self.references < self.num_frames:
            raise ValueError(f"{self.references} references leave nothing to fill in of {self.num_frames} frames")
        if self.views < 1 or not 0 < self.decoder < self.depth:
            raise ValueError("one view or more, and a decoder of some of the layers")
        if not 0 <= self.hidden < 1 or abs(self.hidden * self.grid[1] - self.dropped) > 1e-6:
            fits = ", ".join(f"{n / self.grid[1]:.8g}" for n in range(self.grid[1]))
            raise ValueError(
                f"hidden = {self.hidden:g} is no whole number of the {self.grid[1]} tokens in a row; these are: {fits}"
            )
        for name in self.actions:
            if name not in ACTIONS:
                raise ValueError(f"no action is called {name}; there are {', '.join(ACTIONS)}")
        if len(set(self.actions)) < len(self.actions):
            raise ValueError(f"each action once, not {', '.join(self.actions)}")
        if self.bearing and not (self.rays and self.views > 1 and self.dim % (2 * self.heads) == 0):
            raise ValueError("bearing is of the rays of several views, in heads of an even number of channels")
        if self.shift <= 0 or not 0 <= self.worn <= 1 or self.dim_told < 0:
            raise ValueError("shift is above 0, worn from 0 to 1, dim_told not negative")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows of tokens, and tokens in a row."""
        side = self.factor * self.patch
        return self.size[0] // side, self.size[1] // side

    @property
    def dropped(self) -> int:
        """Tokens of each row that training drops."""
        return round(self.hidden * self.grid[1])

    @property
    def num_actions(self) -> int:
        """Channels of an action."""
        return sum(ACTIONS[name] for name in self.actions)


class Layer(nn.Module):
    """Space, then time, then, where there are several, views (Sec. 7.1)."""

    def __init__(self, config: Config):
        super().__init__()
        sizes = (config.dim, config.dim_told or config.dim, config.heads, config.ratio)
        self.space = SpaceBlock(*sizes)
        over = "time" if config.along == "places" else "times"
        self.time = TimeBlock(*sizes, acts=bool(config.actions), over=over)
        self.view = SpaceBlock(*sizes, "view" if config.across == "rows" else "views") if config.views > 1 else None

    def forward(self, x: Grid, told: Tensor, sight: Sight, within: Within | None = None) -> Grid:
        within = Within() if within is None else within
        x = self.space(x, told, within.space)
        looks = sight.time if within.time is None else within.time
        x = self.time(x, told, sight.angles, looks, sight.acts, sight.feels)
        if self.view is None:
            return x
        across = sight.across(x.shape[3], x.shape[4], self.view.attention.over, within)
        return self.view(x, told, across, angles=sight.bearings)


class Filler(nn.Module):
    """What training alone has (Sec. 3.2): the token for what was dropped, and the branches F_s and F_t."""

    def __init__(self, config: Config):
        super().__init__()
        dim, size = config.dim, config.latent * config.patch**2
        # differs: f is one linear map of a token's noise, where the public code's convolution sees its rim, too.
        self.of_noise = nn.Linear(size, dim)
        self.vector = nn.Parameter(torch.zeros(dim))
        self.place = nn.Linear(dim, dim)
        sizes = (dim, config.dim_told or dim, config.heads, config.ratio)
        self.space = SpaceBlock(*sizes)
        over = "time" if config.along == "places" else "times"
        self.time = TimeBlock(*sizes, acts=bool(config.actions), over=over)


class Within(NamedTuple):
    """Who may look at whom within a frame, along time, and whether a token may be looked at at all: for the ablations
    in which nothing is dropped and attention is masked instead."""

    space: Bool[Tensor, "n 1 q k"] | None = None
    time: Bool[Tensor, "n g q k"] | None = None
    kept: Bool[Tensor, "b v t gh w"] | None = None


class Sight(NamedTuple):
    """What all blocks need to know of a batch.

    angles  by which time turns queries and keys
    time    which frame of a view may look at which; None: all at all
    known   which frames of which view are references, where that makes a difference between views; else None
    acts    the action that each frame feels, as a vector; None: the network takes none
    feels   which frame may feel which action
    bearings  by which view attention turns queries and keys
    """

    angles: Float[Tensor, "b t p"]
    time: Bool[Tensor, "n 1 t t"] | None
    known: Bool[Tensor, "b v t"] | None
    acts: Float[Tensor, "b t d"] | None
    feels: Bool[Tensor, "n 1 t t"] | None
    bearings: Float[Tensor, "b v t gh w p"] | None = None

    def across(self, gh: int, w: int, over: str, within: Within) -> Bool[Tensor, "n 1 q k"] | None:
        """Which token of which view may look at which: what is known does not look at what is not."""
        may = None
        if self.known is not None:
            may = rearrange(self.known, "b v t -> b t 1 v") | ~rearrange(self.known, "b v t -> b t v 1")
            if over == "view":
                may = repeat(may, "b t q k -> (b t gh) 1 (q w) (k x)", gh=gh, w=w, x=w)
            else:
                may = repeat(may, "b t q k -> (b t) 1 (q n) (k m)", n=gh * w, m=gh * w)
        if within.kept is None:
            return may
        pattern = "b v t gh w -> (b t gh) (v w)" if over == "view" else "b v t gh w -> (b t) (v gh w)"
        seen = _or_itself(rearrange(within.kept, pattern))[:, None]
        return seen if may is None else seen & may


class Told(NamedTuple):
    """What is told of a clip beside its frames: actions felt, times, cameras, which frames are references."""

    known: Bool[Tensor, "b v t"]
    times: Int[Tensor, "b t"]
    acts: Float[Tensor, "b t a"] | None
    rays: Float[Tensor, "b v gh gw r"] | None


class MaskGWM(nn.Module):
    """The network with its configuration, and the tokenizer in whose latents it thinks, which never changes.

    Raises ValueError for a tokenizer that is not the configuration's.
    """

    def __init__(self, config: Config, tokenizer: nn.Module | None = None):
        super().__init__()
        self.config = config
        _check_tokenizer(config, tokenizer)
        self.tokenizer = None if tokenizer is None else tokenizer.eval().requires_grad_(False)
        dim, size = config.dim, config.latent * config.patch**2
        self.embed = nn.Linear(size, dim)
        self.view = nn.Parameter(torch.randn(config.views, dim) * 0.02) if config.views > 1 else None
        self.ray = nn.Linear(_RAY, dim, bias=False) if config.rays else None
        told = config.dim_told or dim
        self.level = nn.Sequential(nn.Linear(dim, told), nn.SiLU(), nn.Linear(told, told))
        self.act = None
        if config.actions:
            waves = (2 * _WAVES + 1) * config.num_actions + len(config.actions)
            self.act = nn.Sequential(nn.Linear(waves, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.last = nn.Linear(told, 2 * dim)
        self.project = nn.Linear(dim, size)
        self.filler: Filler | None = Filler(config)
        for linear in (self.last, self.project):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def train(self, mode: bool = True) -> MaskGWM:
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    # Latents.

    def latents(self, frames: Float[Tensor, "b v t c h w"], there: Bool[Tensor, "b v t"]) -> Grid:
        """Tokens of the frames that are `there`, zeros for the others; of latents that are made already, too."""
        config = self.config
        h, w = config.size[0] // config.factor, config.size[1] // config.factor
        if tuple(frames.shape[3:]) == (config.latent, h, w):
            z = torch.where(there[..., None, None, None], frames, 0.0)
        else:
            z = frames.new_zeros(*frames.shape[:3], config.latent, h, w)
            if bool(there.any()):
                assert self.tokenizer is not None
                of: Tokenizer = self.tokenizer  # type: ignore[assignment]
                with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
                    z[there] = of.encode(frames[there].float()).to(z.dtype)
        p = config.patch
        return rearrange(z, "b v t c (gh p) (gw q) -> b v t gh gw (c p q)", p=p, q=p)

    def paint(self, z: Float[Tensor, "n gh gw d"]) -> Float[Tensor, "n c h w"]:
        """The frames of tokens."""
        p = self.config.patch
        z = rearrange(z.float(), "n gh gw (c p q) -> n c (gh p) (gw q)", p=p, q=p)
        if self.tokenizer is not None:
            of: Tokenizer = self.tokenizer  # type: ignore[assignment]
            with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
                z = of.decode(z)
        return z.clamp(-1, 1)

    # What the network is told.

    def sight(self, told: Told) -> Sight:
        config, known = self.config, told.known
        b, v, t = known.shape
        angles = time_angles((told.times - told.times[:, :1]).float(), config.dim // config.heads)
        later = torch.arange(t, device=known.device)[:, None] < torch.arange(t, device=known.device)
        looks = feels = None
        flat = rearrange(known, "b v t -> (b v) 1 t")
        if config.causal:
            # The frames of a window stand in the order of time.
            looks = (flat[..., None, :] | (~flat[..., :, None] & ~later)).expand(-1, -1, t, t)
        if self.act is not None:
            feels = (~flat[..., :, None] & ~later) if config.causal else flat.new_ones(b * v, 1, t, t)
        mixed = config.causal and v > 1 and bool((known != known[:, :1]).any())
        return Sight(angles, looks, known if mixed else None, self._acts(told.acts), feels, self._bearings(told))

    def _bearings(self, told: Told) -> Float[Tensor, "b v t gh w p"] | None:
        config = self.config
        if not config.bearing or told.rays is None:
            return None
        ahead = told.rays[..., [0, _WAVED, 2 * _WAVED]]
        return repeat(
            bearing_angles(ahead, config.dim // config.heads), "b v gh w p -> b v t gh w p", t=told.known.shape[2]
        )

    def _acts(self, acts: Float[Tensor, "b t a"] | None) -> Float[Tensor, "b t d"] | None:
        """Every number in sines and cosines (Sec. 3.1), zeros where it is not told, and whether it is."""
        if self.act is None:
            return None
        assert acts is not None
        parts, first = [], 0
        for name in self.config.actions:
            group = acts[..., first : first + ACTIONS[name]]
            there = group.isfinite().all(-1, keepdim=True)
            x = torch.where(there, group, 0.0) / _UNITS[name]
            wave = x[..., None] * (math.pi / 2 * 2.0 ** torch.arange(_WAVES, device=x.device) / 2)
            waves = torch.cat([x[..., None], wave.sin(), wave.cos()], dim=-1).flatten(-2)
            parts += [torch.where(there, waves, 0.0), there.to(x.dtype)]
            first += ACTIONS[name]
        return self.act(torch.cat(parts, dim=-1))

    def place(self, like: Tensor) -> Float[Tensor, "gh gw d"]:
        """Where each token stands in its frame: half of the channels say the row, half the column."""
        (gh, gw), dim = self.config.grid, self.config.dim
        rows = sinusoidal(torch.arange(gh, device=like.device).float() * 8, dim // 2)
        columns = sinusoidal(torch.arange(gw, device=like.device).float() * 8, dim - dim // 2)
        return torch.cat([rows[:, None].expand(-1, gw, -1), columns[None].expand(gh, -1, -1)], dim=-1).to(like.dtype)

    def level_of(self, tau: Float[Tensor, "b v t"]) -> Float[Tensor, "b v t m"]:
        return self.level(sinusoidal(tau.flatten() * 1000, self.config.dim)).view(*tau.shape, -1)

    def enter(self, z: Grid, told: Told) -> Grid:
        """Tokens as the first layer sees them."""
        x = self.embed(z)
        x = x + self.place(x)
        if self.view is not None:
            x = x + self.view[: x.shape[1], None, None, None]
        if self.ray is not None and told.rays is not None:
            x = x + self.ray(told.rays)[:, :, None]
        return x

    def leave(self, x: Grid, level: Float[Tensor, "b v t m"]) -> Grid:
        shift, scale = self.last(nn.functional.silu(level))[:, :, :, None, None].chunk(2, dim=-1)
        return self.project(self.norm(x) * (1 + scale) + shift).float()

    def forward(self, z: Grid, tau: Float[Tensor, "b v t"], told: Told) -> Grid:
        """The velocity z0 - eps at every token; tau is 0 for references."""
        sight, level = self.sight(told), self.level_of(tau)
        x = self.enter(z, told)
        for layer in self.layers:
            x = layer(x, level, sight)
        return self.leave(x, level)

    def masked(
        self, z: Grid, tau: Float[Tensor, "b v t"], told: Told, eps: Grid, hidden: Hidden, way: Way
    ) -> tuple[Grid, Bool[Tensor, "b v t gh gw"]]:
        """The same where tokens are dropped before the encoder and filled in before the decoder (Eq. 2); and where it
        is answered for: everywhere, but for `filler` none, where what was dropped never comes back."""
        config, sight, level = self.config, self.sight(told), self.level_of(tau)
        whole = self.enter(z, told)
        within = _within(hidden.kept, sight) if hidden.places is None else None
        x = whole if hidden.places is None else gather(whole, hidden.places, config.grid[0])
        encoder, before = config.depth - config.decoder, sight
        if sight.bearings is not None and hidden.places is not None:
            before = sight._replace(bearings=gather(sight.bearings, hidden.places, config.grid[0]))
        for layer in self.layers[:encoder]:
            x = layer(x, level, before, within)
        everywhere = torch.ones_like(hidden.kept)
        if way.filler != "none":
            x = self._filled(x, z, tau, level, told, eps, hidden, sight, way)
        for layer in self.layers[encoder:]:
            x = layer(x, level, sight)
        out = self.leave(x, level)
        if way.filler != "none" or hidden.places is None:
            return out, everywhere
        return scatter(out, hidden.places, torch.zeros_like(z)), hidden.kept

    def _filled(
        self,
        x: Grid,
        z: Grid,
        tau: Float[Tensor, "b v t"],
        level: Float[Tensor, "b v t m"],
        told: Told,
        eps: Grid,
        hidden: Hidden,
        sight: Sight,
        way: Way,
    ) -> Grid:
        """E(z) . M + m . (1 - M), and F of it at what was dropped: what is visible passes by, as it is in use."""
        full, rows = z.new_zeros(*z.shape[:-1], self.config.dim, dtype=x.dtype), self.config.grid[0]
        full = x if hidden.places is None else scatter(x, hidden.places, full)
        if not self.config.dropped:
            return full
        tokens = self.token(eps, tau, told.known, way, z, hidden.dropped)
        full = scatter(tokens, hidden.dropped, full)
        filler, only = self._filler, hidden.dropped
        time = (sight.angles, sight.time, sight.acts, sight.feels)
        if self.config.shared:
            found = filler.time(filler.space(full, level), level, *time, only)
            return scatter(found, only, full)
        spatial = hidden.spatial
        if bool(spatial.all()):
            return scatter(filler.space(full, level, None, only), only, full)
        if not bool(spatial.any()):
            return scatter(filler.time(full, level, *time, only), only, full)
        found = gather(full, only, rows)
        some = spatial.nonzero()[:, 0]
        found = found.index_copy(0, some, filler.space(full[some], level[some], None, only[some]).to(found.dtype))
        some = (~spatial).nonzero()[:, 0]
        views = torch.arange(full.shape[0] * full.shape[1], device=some.device).view(full.shape[:2])[some].flatten()
        looks, feels = (None if one is None else one[views] for one in (sight.time, sight.feels))
        acts = None if sight.acts is None else sight.acts[some]
        made = filler.time(full[some], level[some], sight.angles[some], looks, acts, feels, only[some])
        return scatter(found.index_copy(0, some, made.to(found.dtype)), only, full)

    @property
    def _filler(self) -> Filler:
        if self.filler is None:
            raise ValueError("this model is for use: its filler, which training needs, was left out")
        return self.filler

    def token(
        self,
        eps: Grid,
        tau: Float[Tensor, "b v t"],
        known: Bool[Tensor, "b v t"],
        way: Way,
        z: Grid,
        places: Int[Tensor, "b v t m"],
    ) -> Float[Tensor, "b v t gh k d"]:
        """m_tau = (1 - tau) f(eps) + tau p at these places, and where it stands (Eq. 3)."""
        filler, rows = self._filler, self.config.grid[0]
        place = self.place(z).expand(*z.shape[:-1], -1)
        stands = filler.place(gather(place, places, rows))
        if way.token == "state":
            return filler.of_noise(gather(z, places, rows)) + stands
        vector = filler.vector[None, None, None, None, None]
        if way.token == "vector":
            return vector + stands
        made = filler.of_noise(gather(eps, places, rows))
        if way.token == "mix":
            tau = tau[..., None, None, None]
            made = (1 - tau) * made + tau * vector
        if not way.noise_on_references:
            # Nothing was added to a reference frame: its noise would say nothing.
            made = torch.where(known[..., None, None, None], vector.to(made.dtype), made)
        return made + stands


_WAVED = 2 * 3 + 1  # a coordinate in waves
_RAY = 3 * _WAVED + 3  # direction in waves, and where the camera stands


def _check_tokenizer(config: Config, tokenizer: nn.Module | None) -> None:
    if tokenizer is None:
        there = {"channels": config.channels, "latent": config.channels, "factor": 1}
    else:
        of: Tokenizer = tokenizer  # type: ignore[assignment]
        there = {"channels": of.channels, "latent": of.dim, "factor": of.factor}
    wanted = {"channels": config.channels, "latent": config.latent, "factor": config.factor}
    wrong = [f"{name} {there[name]} and not {wanted[name]}" for name in there if there[name] != wanted[name]]
    if wrong:
        which = "pixels do not go with this model: they have" if tokenizer is None else (
            "this tokenizer does not go with this model: it has"
        )  # fmt: skip
        raise ValueError(f"{which} {', '.join(wrong)}")


def rays_of(cameras: Cameras, size: tuple[int, int], grid: tuple[int, int]) -> Float[Tensor, "b v gh gw r"]:
    """Along which rays the tokens of each camera look, and where it stands, seen from the first camera, in the first
    frame: cameras are taken to be fixed to the car.

    Raises ValueError for cameras that are not finite or cannot be inverted.
    """
    (gh, gw), pose = grid, cameras.pose[:, :, 0].double()
    rows = (torch.arange(gh, device=pose.device) + 0.5) * size[0] / gh
    columns = (torch.arange(gw, device=pose.device) + 0.5) * size[1] / gw
    pixels = torch.stack(
        [columns.expand(gh, gw), rows[:, None].expand(gh, gw), torch.ones(gh, gw, device=pose.device)], -1
    ).double()
    if not bool(pose.isfinite().all() & cameras.intrinsics.isfinite().all()):
        raise ValueError("cameras with NaN or infinite numbers in their pose or intrinsics")
    try:
        rig, inverse = torch.linalg.solve(pose[:, :1], pose), cameras.intrinsics.double().inverse()
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        raise ValueError("a camera's pose or intrinsics have no inverse") from None
    directions = torch.einsum("bvij,bvjk,hwk->bvhwi", rig[..., :3, :3], inverse, pixels)
    directions = nn.functional.normalize(directions, dim=-1)
    wave = directions[..., None] * math.pi * directions.new_tensor([1.0, 2.0, 4.0])
    waves = torch.cat([directions[..., None], wave.sin(), wave.cos()], dim=-1).flatten(-2)
    stands = repeat(rig[..., :3, 3], "b v i -> b v gh gw i", gh=gh, gw=gw)
    return torch.cat([waves, stands], dim=-1).float()


# -- actions --------------------------------------------------------------------------------------


def actions_of(actions: Float[Tensor, "b t 2"], fps: float, names: Sequence[str]) -> Float[Tensor, "b t a"]:
    """From speed (m/s) and curvature (1/m) of each frame, the actions of these names; NaN where a clip ends before.

    The way points are those after 0.5, 1, 1.5 and 2 s; the goal is where the clip ends, of which the command speaks:
    stop below half a metre a second, left or right from 20 degrees on.
    What depends on an action that is NaN is NaN.
    Raises ValueError for numbers that cannot be m/s and 1/m, for a name that there is not, and for no frames a second.
    """
    check_units(actions, ("speed", "angle"))
    if not fps > 0:
        raise ValueError(f"frames a second are above 0, not {fps:g}")
    speed, curvature = actions[..., 0].double() / fps, actions[..., 1].double()
    b, t = speed.shape
    place, heading = [speed.new_zeros(b, 2)], [speed.new_zeros(b)]
    for i in range(t):
        half = speed[:, i] * curvature[:, i] / 2
        chord = speed[:, i] * torch.sinc(half / math.pi)
        way = heading[-1] + half
        place.append(place[-1] + chord[:, None] * torch.stack([way.cos(), way.sin()], -1))
        heading.append(heading[-1] + 2 * half)
    path, turned = torch.stack(place, 1), torch.stack(heading, 1)  # of t + 1 moments

    def seen(at: Tensor) -> Tensor:
        """Where the car is at these moments, seen from each frame; NaN beyond the end."""
        beyond = at > t + 1e-9
        low = at.clamp(max=t).floor().long().clamp(max=max(t - 1, 0))
        part = (at.clamp(max=t) - low)[None, :, None]
        there = path[:, low] * (1 - part) + path[:, low + 1] * part
        x, y = (there - path[:, :t]).unbind(-1)
        cos, sin = turned[:, :t].cos(), turned[:, :t].sin()
        found = torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
        return torch.where(beyond[None, :, None], math.nan, found)

    now = torch.arange(t, device=speed.device).double()
    goal = seen(torch.full_like(now, t))
    round_ = turned[:, -1:] - turned[:, :t]
    slow = speed.flip(1).cumsum(1).flip(1) / (t - now) * fps < 0.5
    command = torch.where(round_ > math.radians(20), 1.0, torch.where(round_ < -math.radians(20), 0.0, 3.0))
    command = torch.where(round_.isnan(), math.nan, torch.where(slow, 2.0, command))
    made = {
        "speed": actions[..., :1],
        "angle": actions[..., 1:],
        "trajectory": torch.cat([seen(now + second * fps) for second in (0.5, 1.0, 1.5, 2.0)], -1),
        "goal": goal,
        "command": command[..., None],
    }
    for name in names:
        if name not in made:
            raise ValueError(f"no action is called {name}; there are {', '.join(made)}")
    if not names:
        return actions[..., :0]
    return torch.cat([made[name].to(actions.dtype) for name in names], -1)


def check_units(actions: Float[Tensor, "b t a"], names: Sequence[str]) -> None:
    """Raise ValueError for actions of another shape than these names have, or that cannot be in their units."""
    wanted = sum(ACTIONS[name] for name in names)
    if actions.shape[2] != wanted:
        told = ", ".join(f"{name} ({ACTIONS[name]})" for name in names) or "none"
        raise ValueError(f"actions of {actions.shape[2]} channels; this model takes {wanted}: {told}")
    first = 0
    for name in names:
        group = actions[..., first : first + ACTIONS[name]].nan_to_num(0.0)
        first += ACTIONS[name]
        if name in _LIMITS and bool((group.abs() > _LIMITS[name][0]).any()):
            most, unit = _LIMITS[name]
            raise ValueError(f"{name} of {group.abs().max().item():.4g}: it is in {unit}, and at most {most:g}")


def felt_of(clip: Clip, names: Sequence[str]) -> Float[Tensor, "b t a"] | None:
    """The action that each frame feels, which was taken one frame before; NaN where it is not known.

    Raises ValueError for actions of another shape or in other units.
    """
    if not names:
        return None
    b, t = clip.times.shape
    felt = clip.frames.new_full((b, t, sum(ACTIONS[name] for name in names)), math.nan)
    if clip.actions is None:
        return felt
    check_units(clip.actions, names)
    follows = (clip.times[:, 1:] == clip.times[:, :-1] + 1)[..., None]
    felt[:, 1:] = torch.where(follows, clip.actions[:, :-1].to(felt.dtype), math.nan)
    return felt


def told_of(net: MaskGWM, clip: Clip, known: Bool[Tensor, "b v t"]) -> Told:
    """What the network is told of a clip. Raises ValueError as `felt_of` does."""
    rays = None
    if net.ray is not None and clip.cameras is not None:
        rays = rays_of(clip.cameras, net.config.size, net.config.grid)
    return Told(known, clip.times, felt_of(clip, net.config.actions), rays)


# -- what is dropped ------------------------------------------------------------------------------


class Hidden(NamedTuple):
    """Which tokens a training step hides.

    kept      the visible ones
    dropped   places of the others, in raster order
    places    of the visible ones, in the order in which the encoder sees them; None where attention is masked instead
    spatial   which examples have one mask for all frames (M_spatial, filled by F_s), and not another for each (M_time)
    """

    kept: Bool[Tensor, "b v t gh gw"]
    dropped: Int[Tensor, "b v t m"]
    places: Int[Tensor, "b v t n"] | None
    spatial: Bool[Tensor, " b"]


@dataclass(frozen=True)
class Way:
    """How training masks; as it is, the paper's. The rest are its ablations, and the public code's fault.

    p_space      share of the examples with M_spatial
    filler       `none`: what was dropped never comes back, and is not answered for
    token        of Eq. 3; or the vector p alone, f(eps) alone, or what is to be denoised itself
    order        in which kept tokens stand: `random` is a fault, for rows are then no rows
    attention    `shift` drops tokens; `masked` drops none and masks attention, anywhere or (`masked_rows`) row by row
    noise_on_references   whether the token on a reference frame speaks of noise that was never added to it
    """

    p_space: float = 0.5
    filler: Literal["branches", "none"] = "branches"
    token: Literal["mix", "vector", "noise", "state"] = "mix"
    order: Literal["raster", "random"] = "raster"
    attention: Literal["shift", "masked", "masked_rows"] = "shift"
    noise_on_references: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p_space <= 1:
            raise ValueError(f"p_space is a probability, from 0 to 1, not {self.p_space}")
        if self.filler == "none" and self.attention != "shift":
            raise ValueError("without a filler, tokens are dropped, and not masked")


def hide(config: Config, way: Way, b: int, v: int, t: int, rng: Rng) -> Hidden:
    """Draw what is hidden: exactly `config.dropped` tokens of every row, others in each view (Sec. 3.3)."""
    gh, gw = config.grid
    if way.attention != "shift" and config.along == "rows":
        raise ValueError("masked attention is along places, and this model looks along rows")
    spatial = rng.uniform(()) < way.p_space
    if way.attention == "masked":
        kept = masks.blocks(gh, gw, config.hidden)(b, v, t, rng)
    else:
        kept = masks.rows(gh, gw, config.dropped)(b, v, t, rng)
    kept = torch.where(spatial[:, None, None, None, None], kept[:, :, :1], kept)
    flat, many = rearrange(kept, "b v t gh gw -> b v t (gh gw)"), gh * config.dropped
    raster = torch.arange(gh * gw).expand_as(flat)
    dropped = torch.where(flat, gh * gw, raster).argsort(-1)[..., :many]
    if way.attention != "shift":
        return Hidden(kept, dropped, None, spatial)
    key = rng.uniform((v, t, gh * gw)) * gh * gw if way.order == "random" else raster
    places = torch.where(flat, key, gh * gw).argsort(-1)
    return Hidden(kept, dropped, places[..., : gh * gw - many], spatial)


def _or_itself(seen: Bool[Tensor, "n k"]) -> Bool[Tensor, "n k k"]:
    return seen[:, None] | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)


def _within(kept: Bool[Tensor, "b v t gh w"], sight: Sight) -> Within:
    """Attention that does not look at what is hidden."""
    space = _or_itself(rearrange(kept, "b v t gh w -> (b v t) (gh w)"))[:, None]
    n, t = kept.shape[3] * kept.shape[4], kept.shape[2]
    time = rearrange(_or_itself(rearrange(kept, "b v t gh w -> (b v gh w) t")), "(bv n) q k -> bv n q k", n=n)
    if sight.time is not None:
        time = time & (sight.time | torch.eye(t, dtype=torch.bool, device=kept.device))
    return Within(space, time, kept)


# -- objective ------------------------------------------------------------------------------------


def shifted(level: Tensor, shift: float) -> Tensor:
    """Noise levels from 0 to 1, moved towards 1 (Esser et al. 2024, Eq. 23)."""
    return shift * level / (1 + (shift - 1) * level)


def objective(
    way: Way = Way(), *, masking: bool = True, p_untold: float = 0.15, p_none: float = 0.1, p_no_rays: float = 0.1
) -> Objective:
    """The velocity loss of rectified flow on frames that are no references, with tokens dropped (Eq. 1 and 2).

    tau is logit-normal and one for all frames of an example; references have none. A share of the examples is not told
    each kind of action, none at all (for guidance), or its cameras.

    Raises ValueError for clips of another shape than the network's.
    """

    def run(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
        assert isinstance(net, MaskGWM)
        config = net.config
        there = _check(config, clip, known, rng)
        b, v, t = there.shape
        tau = shifted(torch.sigmoid(rng.normal(())), config.shift).to(clip.frames.device)
        coin = rng.uniform((len(ACTIONS) + 2,)).to(clip.frames.device)
        told = told_of(net, clip, there)
        told = told._replace(
            acts=None if told.acts is None else _forget(told.acts, config.actions, coin[:, 2:] < p_untold, coin[:, :1]
                                                        < p_none),
            rays=None if told.rays is None else told.rays * (coin[:, 1] >= p_no_rays)[:, None, None, None, None],
        )  # fmt: skip
        masks_by = way if masking and config.dropped else None
        error, counted = _error(net, clip, told, tau[:, None, None].expand(b, v, t), rng, masks_by)
        return Loss({"velocity": _mean(error, counted)})

    return run


def loss_at(net: MaskGWM, clip: Clip, known: Known, tau: float, rng: Rng) -> Float[Tensor, " b"]:
    """The loss of each example at one level of noise, nothing dropped."""
    there = _check(net.config, clip, known, rng)
    level = torch.full(there.shape, tau, device=clip.frames.device)
    with torch.no_grad():
        return _mean(*_error(net, clip, told_of(net, clip, there), level, rng, None))


def _error(
    net: MaskGWM, clip: Clip, told: Told, tau: Float[Tensor, "b v t"], rng: Rng, way: Way | None
) -> tuple[Float[Tensor, "b v t gh gw"], Bool[Tensor, "b v t gh gw"]]:
    """(squared error of the velocity at every token, those that count); `way` None: nothing is hidden. What is hidden
    is drawn last, so that the noise is the same whatever that is."""
    z0 = net.latents(clip.frames, torch.ones_like(told.known))
    eps = noise.gaussian(z0, rng)
    tau = torch.where(told.known, 0.0, tau)
    level = tau[..., None, None, None]
    z = (1 - level) * z0 + level * eps
    if net.config.worn and net.training:
        worn = rng.uniform(())[:, None, None, None, None, None].to(z.device) * net.config.worn
        z = torch.where(told.known[..., None, None, None], z0 + worn * noise.gaussian(z0, rng), z)
    if way is None:
        out, answers = net(z, tau, told), None
    else:
        b, v, t = told.known.shape
        hidden = hide(net.config, way, b, v, t, rng)
        if z.device.type != "cpu":
            hidden = Hidden(*(None if one is None else one.to(z.device) for one in hidden))  # type: ignore[arg-type]
        out, answers = net.masked(z, tau, told, eps, hidden, way)
    error = (out - noise.velocity_of(z0, eps)).square().mean(-1)
    counted = (~told.known)[..., None, None].expand_as(error)
    return error, counted if answers is None else counted & answers


def _mean(error: Tensor, counted: Bool[Tensor, "b v t gh gw"]) -> Float[Tensor, " b"]:
    return torch.where(counted, error, 0.0).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


def _forget(
    acts: Float[Tensor, "b t a"], names: Sequence[str], untold: Bool[Tensor, "b k"], none: Bool[Tensor, "b 1"]
) -> Float[Tensor, "b t a"]:
    """The actions, without those kinds of which an example is not told."""
    parts, first = [], 0
    for i, name in enumerate(names):
        part = acts[..., first : first + ACTIONS[name]]
        parts.append(torch.where((untold[:, i : i + 1] | none)[..., None], math.nan, part))
        first += ACTIONS[name]
    return torch.cat(parts, -1)


def references(config: Config, p_views: float = 0.5, p_after: float = 0.1, p_bare: float = 0.75) -> Draw:
    """What is known in training: the first 0 to `references` frames (Sec. 3.1), mostly all of them; sometimes one after
    what is filled in as well; and, of several views, sometimes all but a few, which with p_bare have no reference
    either: a camera that is missing has none."""

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        u = rng.uniform((4,))
        shares = torch.tensor([0.5**i for i in range(config.references + 1)])  # the most, one less, ...
        most = min(config.references, t - 1)
        first = most - torch.bucketize(u[:, 0].contiguous(), shares.cumsum(0) / shares.sum(), right=True).clamp(
            max=most
        )
        known = torch.arange(t) < first[:, None]
        if t > most + 1:
            known[:, -1] |= u[:, 1] < p_after
        known = repeat(known, "b t -> b v t", v=v).clone()
        if v > 1:
            seen = masks.views(0.5)(b, v, t, rng)[..., 0, 0]
            seen &= ~seen.flatten(1).all(1)[:, None, None]
            some = (u[:, 2] < p_views) & seen.flatten(1).any(1)
            known &= ~(some & (u[:, 3] < p_bare))[:, None, None]
            known |= some[:, None, None] & seen
        return known[..., None, None]

    return draw


def _check(config: Config, clip: Clip, known: Known, rng: Rng) -> Bool[Tensor, "b v t"]:
    """Which frames of which views are known whole. Raises ValueError for what the network cannot take."""
    check_fits(known, clip.frames)
    b, v, t, c, h, w = clip.shape
    latent = (config.latent, config.size[0] // config.factor, config.size[1] // config.factor)
    if v != config.views or (c, h, w) not in ((config.channels, *config.size), latent):
        many = "one view" if config.views == 1 else f"{config.views} views"
        raise ValueError(
            f"this model fills {many} of {config.channels} x {config.size[0]} x {config.size[1]} frames; "
            f"the clip has {v} of {c} x {h} x {w}"
        )
    if len(rng) != b:
        raise ValueError(f"{len(rng)} random generators for a batch of {b}")
    whole = whole_frames(known)
    if bool((known.flatten(3).any(-1) & ~whole).any()):
        raise ValueError("MaskGWM fills in whole frames of any views, not parts of a frame")
    if clip.actions is not None and clip.actions.shape[:2] != (b, t):
        raise ValueError(f"actions of (batch, frames) = {tuple(clip.actions.shape[:2])}; the clip has {(b, t)}")
    if clip.cameras is not None:
        pose, lens = tuple(clip.cameras.pose.shape[:3]), tuple(clip.cameras.intrinsics.shape[:2])
        if pose != (b, v, t) or lens != (b, v):
            raise ValueError(
                f"cameras for (batch, views, frames) = {pose}, with lenses for {lens}; the clip has {(b, v, t)}"
            )
    return whole.to(clip.frames.device)


# -- fill -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How unknown frames are drawn.

    steps       of Euler's method along the straight path, from noise to what is there
    guidance    by how much more than without its actions (Ho & Salimans 2022; the paper's is 4); 1: as it is
    precision   the type in which the network computes
    on_call     told (calls of the network so far, in all); a guided one, which is two, counts once
    """

    steps: int = 10
    guidance: float = 2.5
    precision: torch.dtype = torch.float32
    on_call: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.guidance >= 0:
            raise ValueError(f"{self.steps} steps, 1 or more, and a guidance of {self.guidance:g}, not negative")


def fill(net: MaskGWM, sampling: Sampling = Sampling()) -> Fill:
    """Fill in any whole frames of any views, of a clip of any length.

    Frames are filled in the order of time, so many at once that they and the references that are shown, those nearest
    in time, are `num_frames`: a roll-out of n pieces has T + (n - 1) (T - references) frames (Sec. 7.4). A frame that
    only some views lack is filled in from the others.

    The Fill raises ValueError for clips of another shape than the network's, for parts of frames, and for actions of
    another shape or in other units.
    """
    config = net.config
    size = config.num_frames - config.references

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        whole = _check(config, clip, known, rng)
        if clip.shape[3:] != (config.channels, *config.size):
            raise ValueError("latents are for training; frames are filled in")
        if not bool(torch.isfinite(clip.frames[whole]).all()):
            raise ValueError("frames that are known hold NaN or infinity")
        told_of(net, clip, whole)  # bad actions and cameras are refused even where nothing is to be done
        groups: dict[tuple, list[int]] = {}
        for i, (row, when) in enumerate(zip(whole.tolist(), clip.times.tolist(), strict=True)):
            groups.setdefault((str(row), tuple(t - when[0] for t in when)), []).append(i)
        plans = []
        for members in groups.values():
            row = whole[members[0]].all(0).tolist()
            plans.append((members, pieces_of(row, clip.times[members[0]].tolist(), config.references, size)))
        total, done = sampling.steps * sum(len(plan) for _, plan in plans), 0
        frames = clip.frames.clone()
        with torch.inference_mode(), computing(frames.device, sampling.precision):
            for members, plan in plans:
                place = torch.tensor(members, device=frames.device)
                part, some, when = example(clip, members), rng[members], clip.times[members[0]].tolist()
                now, seen = part.frames.clone(), whole[place].clone()
                for piece, shown in plan:
                    at = torch.tensor(sorted(piece + shown, key=when.__getitem__), device=frames.device)

                    def called() -> None:
                        nonlocal done
                        done += 1
                        if sampling.on_call is not None:
                            sampling.on_call(done, total)

                    made = _draw(net, _frames_at(dataclasses.replace(part, frames=now), at), seen[:, :, at], sampling,
                                 some, called)  # fmt: skip
                    now[:, :, at] = torch.where(seen[:, :, at, None, None, None], now[:, :, at], made.to(now.dtype))
                    seen[:, :, at] = True
                frames[place] = now
        return dataclasses.replace(clip, frames=frames)

    return run


def pieces_of(known: Sequence[bool], times: Sequence[int], window: int, size: int) -> list[tuple[list[int], list[int]]]:
    """(frames to fill together, frames that they are shown), in the order in which they are filled: of those that are
    known or filled the `window` nearest, of which those that come after take up to half."""
    there, pieces = [i for i, k in enumerate(known) if k], []
    todo = sorted((i for i, k in enumerate(known) if not k), key=lambda i: times[i])
    for start in range(0, len(todo), size):
        piece = todo[start : start + size]
        last = times[piece[-1]]
        after = sorted((i for i in there if times[i] > last), key=lambda i: times[i])
        before = sorted((i for i in there if times[i] <= last), key=lambda i: -times[i])
        num_after = min(len(after), max(window // 2, window - len(before)))
        pieces.append((piece, sorted(before[: window - num_after] + after[:num_after])))
        there += piece
    return pieces


def _frames_at(clip: Clip, at: Int[Tensor, " n"]) -> Clip:
    """These frames of a clip, and what the network is told of them."""
    cameras = clip.cameras
    return dataclasses.replace(
        clip,
        frames=clip.frames[:, :, at],
        times=clip.times[:, at],
        actions=None if clip.actions is None else clip.actions[:, at],
        cameras=None if cameras is None else at_frames(cameras, at),
        depth=None,
        memory=None,
        rewards=None,
        discounts=None,
    )


def _draw(
    net: MaskGWM, clip: Clip, known: Bool[Tensor, "b v t"], sampling: Sampling, rng: Rng, called: Callable[[], None]
) -> Float[Tensor, "b v t c h w"]:
    """The frames of one piece, from noise: dz = (z0 - eps) d tau, tau from 1 to 0."""
    told = told_of(net, clip, known)
    z0 = net.latents(clip.frames, known)
    fixed = known[..., None, None, None]
    z = torch.where(fixed, z0, noise.gaussian(z0, rng))
    levels = shifted(torch.linspace(1, 0, sampling.steps + 1, dtype=torch.float64), net.config.shift).tolist()
    guided = sampling.guidance != 1 and told.acts is not None and clip.actions is not None
    for level, after in itertools.pairwise(levels):
        tau = torch.where(known, 0.0, level)
        velocity = net(z, tau, told)
        if guided:
            assert told.acts is not None
            without = net(z, tau, told._replace(acts=torch.full_like(told.acts, math.nan)))
            velocity = without + sampling.guidance * (velocity - without)
        z = torch.where(fixed, z0, z + (level - after) * velocity.to(z.dtype))
        called()
    frames = clip.frames.clone()
    frames[~known] = net.paint(z[~known]).to(frames.dtype)
    return frames


# -- presets --------------------------------------------------------------------------------------


def tiny(**changes) -> Config:
    """For tests: every part of the network, some hundred thousand parameters."""
    config = Config(
        size=(16, 16), channels=1, latent=1, patch=4, num_frames=6, references=3, dim=32, depth=3, decoder=1, heads=2,
        ratio=2,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def small(**changes) -> Config:
    """About 3 M parameters, for the latents of a small tokenizer (4 channels, 4 pixels): an hour or two of a CPU."""
    config = Config(
        size=(48, 96), latent=4, factor=4, patch=2, dim=128, depth=6, heads=4, ratio=2, dim_told=48, worn=0.1
    )
    return dataclasses.replace(config, **changes)


def base(**changes) -> Config:
    """About 77 M parameters, 64 x 128: half an hour of a GPU."""
    config = Config(
        size=(64, 128), latent=4, factor=4, patch=2, num_frames=13, dim=384, depth=12, decoder=2, heads=6, worn=0.1
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def paper(**changes) -> Config:
    """The paper's size (Sec. 4.2): 288 x 512, the 16-channel autoencoder of Stable Diffusion 3, 24 layers of 1536
    channels, 25 frames of one view; with `views=6`, `num_frames=8`. Its text stream is left out, and its decoder's
    depth, which is not told, is a fifth of the layers."""
    config = Config(
        size=(288, 512), latent=16, factor=8, patch=2, num_frames=25, dim=1536, depth=24, decoder=5, heads=24,
        actions=tuple(ACTIONS), causal=False,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)
