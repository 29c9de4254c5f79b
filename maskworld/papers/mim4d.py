"""MIM4D: masked modelling with multi-view video for autonomous driving (Zou et al., IJCV 2025; arXiv 2403.08760).

Cameras of a car, a few frames: patches of the images are hidden, what is left is lifted into one volume of voxels for
each frame, and the volume is rendered: colour and depth along rays are the only teachers. Then a whole frame is
dropped. Its volume is made from those of the others, moved by the car's own motion into its place and mixed by a
decoder with a short and a long memory, and is rendered by the very same rays. The encoder that results knows depth and
motion without a label.

What the public code does otherwise than it means to is not repeated here: volumes are moved in metres and not in cells,
the short memory looks at the nearest frames, centres of cells are centres everywhere, every camera has its own pose.

Sections: network - frames and poses - rays - objective - fill - presets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld.clip import Cameras, Clip
from maskworld.masks import check_fits, on_pixels
from maskworld.nets.convnext import FPN, DepthHead, DepthNet, MaskedConvNeXt
from maskworld.nets.precision import computing
from maskworld.nets.render import Field, March, Rendered, rays_of, render
from maskworld.nets.temporal import Decoder
from maskworld.nets.voxel import Bins, Grid, lift_sample, lift_splat, volume_bytes, warp
from maskworld.noise import Rng
from maskworld.verbs import Fill, Known, Loss, Objective

# -- network --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """One model.

    size, channels   height and width of images in pixels, and their channels
    views            cameras
    num_frames       frames of a clip, the last one the present
    low, high        the box of voxels, metres ahead, to the left and up from the car
    cells            voxels along these
    stem, dims, depths   of the backbone: pixels of its first cell, and width and blocks of each stage
    first            stage from which on the neck uses them
    levels, dim      of the neck
    near, far, bins  of the depth that is told for each pixel, metres
    deep             a deeper head for it (the released configuration with smaller voxels), or one convolution
    lift             `sample` the images at each voxel (UVTR), or `splat` each pixel into voxels (LSS)
    volume           channels of a voxel
    short, long      widths of the decoder's two branches
    alpha            how surfaces are found along a ray: by the normal (`autograd`), or by `fd`, finite differences
    closest          metres along a ray before which nothing is looked for
    coarse, fine     samples along a ray: evenly, and then where surfaces seem to be
    rays             for each camera and frame in training
    anywhere         share of the rays at any pixel, without depth; the others are where depth is known
    sky              whether what lies behind all voxels has a colour of its own, by direction; else black
    flow             an extension: a velocity for every voxel, by which it is moved to the dropped time
    jump             metres between frames beyond which a pose is no motion of a car
    """

    size: tuple[int, int] = (96, 160)
    channels: int = 3
    views: int = 6
    num_frames: int = 3
    low: tuple[float, float, float] = (-25.6, -25.6, -1.0)
    high: tuple[float, float, float] = (25.6, 25.6, 5.4)
    cells: tuple[int, int, int] = (64, 64, 8)
    stem: int = 4
    dims: tuple[int, ...] = (48, 96, 192)
    depths: tuple[int, ...] = (2, 2, 4)
    first: int = 1
    levels: int = 2
    dim: int = 64
    near: float = 0.5
    far: float = 40.0
    bins: int = 48
    deep: bool = False
    lift: Literal["sample", "splat"] = "sample"
    volume: int = 32
    short: int = 64
    long: int = 32
    alpha: Literal["fd", "autograd"] = "fd"
    closest: float = 1.0
    coarse: int = 40
    fine: int = 16
    rays: int = 96
    anywhere: float = 0.25
    sky: bool = True
    flow: bool = False
    jump: float = 20.0

    def __post_init__(self) -> None:
        total = self.unit
        if min(self.size) < 1 or self.size[0] % total or self.size[1] % total:
            raise ValueError(f"patches of {total} pixels do not tile images of {self.size[0]}x{self.size[1]}")
        if len(self.dims) != len(self.depths) or not 0 <= self.first < len(self.dims):
            raise ValueError("the backbone has as many widths as depths, and the neck uses one of its stages or more")
        if self.views < 1 or self.num_frames < 1 or self.rays < 1 or not 0 <= self.anywhere <= 1:
            raise ValueError("one view, frame and ray or more; anywhere is a share, from 0 to 1")
        if not 0 < self.near < self.far or self.bins < 2:
            raise ValueError("depth is told between near and far, both above 0, in two bins or more")

    @property
    def grid(self) -> Grid:
        return Grid(self.low, self.high, self.cells)

    @property
    def march(self) -> March:
        return March(self.closest, self.coarse, self.fine)

    @property
    def unit(self) -> int:
        """Pixels of a patch that is hidden or not: the backbone's last cell."""
        return self.stem * 2 ** (len(self.dims) - 1)

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.unit, self.size[1] // self.unit


class Encoder(nn.Module):
    """Images to voxels: what is kept after pre-training (`maskworld export`)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        # differs: blocks begin at a tenth of their size and not at a millionth, for trainings from scratch are short.
        self.backbone = MaskedConvNeXt(
            config.channels, dims=config.dims, depths=config.depths, stem=config.stem, layer_scale=0.1
        )
        used = config.dims[config.first :]
        self.neck = FPN(used, config.dim, config.levels)
        heads = []
        for _ in range(config.levels):
            heads.append(DepthNet(config.dim, config.bins) if config.deep else DepthHead(config.dim, config.bins))
        self.depth = nn.ModuleList(heads)
        self.project = nn.ModuleList(nn.Conv2d(config.dim, config.dim, 1) for _ in range(config.levels))

    def forward(
        self,
        images: Float[Tensor, "b v c h w"],
        kept: Bool[Tensor, "b v gh gw"] | None,
        intrinsics: Float[Tensor, "b v 3 3"],
        to_ego: Float[Tensor, "b v 4 4"],
    ) -> Float[Tensor, "b d z y x"]:
        """The voxels of one frame, in the frame of its car."""
        config = self.config
        b = len(images)
        flat = rearrange(images, "b v c h w -> (b v) c h w")
        shown = None if kept is None else rearrange(kept, "b v gh gw -> (b v) gh gw")
        stages = self.backbone(flat, shown)
        levels = self.neck(stages[config.first :])
        bins, lifted = Bins(config.near, config.far, config.bins), None
        lift = lift_sample if config.lift == "sample" else lift_splat
        for level, head, project in zip(levels, self.depth, self.project, strict=True):
            depth = rearrange(head(level), "(b v) k h w -> b v k h w", b=b)
            features = rearrange(project(level), "(b v) d h w -> b v d h w", b=b)
            with torch.autocast(images.device.type, enabled=False):
                part = lift(features.float(), depth.float(), bins, intrinsics, to_ego, config.size, config.grid)
            lifted = part if lifted is None else lifted + part
        assert lifted is not None
        return lifted


class Features(NamedTuple):
    """What an encoder sees: voxels of each frame, seen from above, and where they are.

    volume   in the frame of the car at each time
    bev      the same with its heights as channels
    grid     the box of voxels, metres in the frame of the car
    ego      car to world
    """

    volume: Float[Tensor, "b t d z y x"]
    bev: Float[Tensor, "b t e y x"]
    grid: Grid
    ego: Float[Tensor, "b t 4 4"]


class MIM4D(nn.Module):
    """The encoder, and what teaches it: the field that is rendered, and the decoder of dropped frames."""

    single: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.smooth = nn.Sequential(
            nn.Conv3d(config.dim, config.volume, 3, padding=1), nn.GroupNorm(8, config.volume), nn.ReLU()
        )
        self.field = Field(config.volume, normals=config.alpha == "autograd")
        x, y, z = config.cells
        self.decoder = None
        if config.num_frames > 1 and not config.flow:
            self.decoder = Decoder(config.volume, z, (y, x), config.num_frames - 1, config.short, config.long)
        # Of the frames that were dropped in training: how many had no other to be made from, and how many there were.
        self.register_buffer("single", torch.zeros(2, dtype=torch.int64), persistent=False)
        self.sky = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, config.channels)) if config.sky else None
        self.flow = None
        if config.flow:
            self.flow = nn.Sequential(
                nn.Conv3d(config.volume, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 3, 3, padding=1)
            )
            nn.init.zeros_(self.flow[2].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.flow[2].bias)  # type: ignore[arg-type]

    def lifted(self, clip: Clip, known: Known) -> tuple[Float[Tensor, "b t d z y x"], Places]:
        """The encoder's voxels of every frame, and where everything stands. What is not known is not read."""
        places = places_of(clip, self.config)
        pixels = on_pixels(known, *self.config.size)
        frames = torch.where(pixels[:, :, :, None], clip.frames, 0.0)
        gh, gw = self.config.patches
        kept = rearrange(pixels, "b v t (gh p) (gw q) -> b v t gh gw (p q)", gh=gh, gw=gw).all(-1)
        parts = []
        for i in range(clip.frames.shape[2]):
            shown = None if bool(kept[:, :, i].all()) else kept[:, :, i]
            parts.append(self.encoder(frames[:, :, i], shown, places.intrinsics, places.to_ego[:, :, i]))
        return torch.stack(parts, 1), places

    def volumes(self, clip: Clip, known: Known) -> tuple[Float[Tensor, "b t c z y x"], Places]:
        """The voxels that are rendered."""
        lifted, places = self.lifted(clip, known)
        b = lifted.shape[0]
        made = self.smooth(rearrange(lifted, "b t d z y x -> (b t) d z y x")).float()
        return rearrange(made, "(b t) c z y x -> b t c z y x", b=b), places

    def features(self, clip: Clip, known: Known | None = None) -> Features:
        """Voxels and their view from above. Raises ValueError as `places_of` does."""
        b, v, t = clip.frames.shape[:3]
        if known is None:
            known = torch.ones(b, v, t, 1, 1, dtype=torch.bool, device=clip.frames.device)
        lifted, places = self.lifted(clip, known)
        return Features(lifted, rearrange(lifted, "b t d z y x -> b t (d z) y x"), self.config.grid, places.ego)

    def dropped(
        self, volumes: Float[Tensor, "b t c z y x"], places: Places, k: int, others: Sequence[int]
    ) -> tuple[Float[Tensor, "b c z y x"], Bool[Tensor, " b"], Float[Tensor, "b 3 z y x"] | None]:
        """The voxels of frame k from those of others; which examples had any; and, of the flow, the velocity in metres
        a frame of the voxels that are moved there."""
        near = near_of(places.ego, k, self.config.jump)
        aligned = torch.stack(
            [
                warp(volumes[:, j], self.config.grid, _between(places.ego[:, k], places.ego[:, j]))
                * near[:, j, None, None, None, None]
                for j in others
            ],
            1,
        )
        gaps = torch.tensor([j - k for j in others], device=volumes.device)
        there = near[:, list(others)].any(1)
        if self.flow is not None:
            # An extension: the voxels of the nearest frame, each moved on by its own velocity.
            nearest = aligned[:, int(gaps.abs().argmin())]
            gap = float(gaps[gaps.abs().argmin()])
            velocity = self.flow(nearest).float()
            return moved(nearest, velocity * -gap, self.config.grid), there, velocity
        assert self.decoder is not None
        return self.decoder(aligned, gaps, nearest_of(gaps)).float(), there, None

    def seen(
        self, volume: Float[Tensor, "b c z y x"], rays: Rays, jitter: Float[Tensor, "b r"], march: March | None = None
    ) -> Rendered:
        """Colour and depth along rays; what lies behind all voxels is sky."""
        config = self.config
        with torch.autocast(volume.device.type, enabled=False):
            found = render(
                self.field, volume.float(), config.grid, rays.origins, rays.directions, jitter, march or config.march,
                config.alpha,
            )  # fmt: skip
            if self.sky is None:
                return found
            behind = torch.sigmoid(self.sky(rays.directions)) * (1 - found.weight)[..., None]
            return found._replace(rgb=found.rgb + behind)


def nearest_of(gaps: Int[Tensor, " t"]) -> Bool[Tensor, " t"]:
    """The nearest frames on each side: what the short branch looks at (the paper's t - 1 and t + 1)."""
    short = torch.zeros_like(gaps, dtype=torch.bool)
    for side in (gaps < 0, gaps > 0):
        if bool(side.any()):
            short |= side & (gaps.abs() == gaps[side].abs().min())
    return short


def moved(
    volume: Float[Tensor, "b c z y x"], way: Float[Tensor, "b 3 z y x"], grid: Grid
) -> Float[Tensor, "b c z y x"]:
    """Voxels moved by metres: out(p) = volume(p - way(p))."""
    centres = grid.centres(volume.device, volume.dtype)
    points = centres - rearrange(way, "b c z y x -> b z y x c")
    return nn.functional.grid_sample(
        volume, grid.unit(points), mode="bilinear", padding_mode="zeros", align_corners=False
    )


# -- frames and poses -----------------------------------------------------------------------------


class Places(NamedTuple):
    """Where cameras and car stand.

    intrinsics  pixels
    to_ego      camera to the car at the camera's own time
    ego         car to world
    """

    intrinsics: Float[Tensor, "b v 3 3"]
    to_ego: Float[Tensor, "b v t 4 4"]
    ego: Float[Tensor, "b t 4 4"]


def places_of(clip: Clip, config: Config) -> Places:
    """Every camera's own pose, seen from the car of its frame.

    Where nobody says where the car is, it is below the middle of the cameras, as high as the first stands above ground
    (1.5 m), and heads where the first one looks, level.
    Raises ValueError for a clip without cameras, or of another shape than the network's.
    """
    _, v, _, c, h, w = clip.shape
    if (v, c, h, w) != (config.views, config.channels, *config.size):
        raise ValueError(
            f"this model sees {config.views} views of {config.channels} x {config.size[0]} x {config.size[1]} images; "
            f"the clip has {v} of {c} x {h} x {w}"
        )
    cameras = clip.cameras
    if cameras is None:
        raise ValueError("this model wants to know where cameras stand: the clip has no calibration and no poses")
    if not bool(torch.isfinite(cameras.pose).all() and torch.isfinite(cameras.intrinsics).all()):
        raise ValueError("the cameras' poses or calibration hold NaN or infinity")
    pose = cameras.pose.double()
    ego = _below(pose) if cameras.ego is None else cameras.ego.double()
    to_ego = torch.linalg.solve(ego[:, None].expand_as(pose), pose)
    return Places(cameras.intrinsics.float(), to_ego.float(), ego)


def _below(pose: Float[Tensor, "b v t 4 4"]) -> Float[Tensor, "b t 4 4"]:
    """A car under cameras: in their middle, level, heading where the first one looks."""
    ahead = pose[:, 0, :, :3, 2] * pose.new_tensor([1.0, 1.0, 0.0])
    ahead = nn.functional.normalize(ahead, dim=-1)
    up = pose.new_tensor([0.0, 0.0, 1.0]).expand_as(ahead)
    found = torch.zeros(*ahead.shape[:2], 4, 4, dtype=pose.dtype, device=pose.device)
    found[..., :3, 0], found[..., :3, 1], found[..., :3, 2] = ahead, torch.linalg.cross(up, ahead), up
    found[..., :3, 3] = pose[..., :3, 3].mean(1) - pose.new_tensor([0.0, 0.0, 1.5])
    found[..., 3, 3] = 1.0
    return found


def _between(one: Float[Tensor, "b 4 4"], other: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 4 4"]:
    """Maps metric points of one car's frame into another's."""
    return torch.linalg.solve(other.double(), one.double()).float()


def near_of(ego: Float[Tensor, "b t 4 4"], k: int, jump: float) -> Bool[Tensor, "b t"]:
    """Frames that a car can have come from, or gone to, from frame k: no pose between them jumps. A clip that is cut
    short repeats a frame, and a pose that jumps is none of this drive: such pairs are not used."""
    step = (ego[:, 1:, :3, 3] - ego[:, :-1, :3, 3]).norm(dim=-1) <= jump
    near = torch.ones(ego.shape[:2], dtype=torch.bool, device=ego.device)
    for j in range(k + 1, ego.shape[1]):
        near[:, j] = near[:, j - 1] & step[:, j - 1]
    for j in range(k - 1, -1, -1):
        near[:, j] = near[:, j + 1] & step[:, j]
    return near


def memory_of(config: Config, batch: int) -> int:
    """Bytes of all voxels of a step, before anything is allocated: those that are lifted, rendered and aligned."""
    grid, t = config.grid, config.num_frames
    return volume_bytes(batch, t, config.dim, grid) + 3 * volume_bytes(batch, t, config.volume, grid)


# -- rays -----------------------------------------------------------------------------------------


class Rays(NamedTuple):
    """Rays of one frame in the frame of its car, and what is to be seen along them.

    target   colour, 0 to 1
    depth    metres along the ray; 0 where it is not known
    """

    origins: Float[Tensor, "b r 3"]
    directions: Float[Tensor, "b r 3"]
    target: Float[Tensor, "b r c"]
    depth: Float[Tensor, "b r"]


def rays_at(clip: Clip, places: Places, k: int, pixels: Int[Tensor, "b v r"]) -> Rays:
    """The rays through these pixels (row x width + column) of frame k: by each camera's own pose and own depth."""
    w = clip.frames.shape[-1]
    row, column = pixels // w, pixels % w
    uv = torch.stack([column + 0.5, row + 0.5], -1).float()
    origins, directions = rays_of(uv, places.intrinsics, places.to_ego[:, :, k])
    flat = rearrange(clip.frames[:, :, k], "b v c h w -> b v (h w) c")
    colour = flat.gather(2, pixels[..., None].expand(*pixels.shape, flat.shape[-1]))
    depth = torch.zeros_like(origins[..., 0])
    if clip.depth is not None:
        along = rearrange(clip.depth[:, :, k], "b v h w -> b v (h w)").gather(2, pixels)
        # Depth is told along the optical axis: along the ray it is more.
        axis = places.to_ego[:, :, k, :3, 2]
        depth = along / torch.einsum("bvri,bvi->bvr", directions, axis).clamp(min=1e-3)
    parts = (origins, directions, (colour.float() + 1) / 2, depth)
    return Rays(*(rearrange(part, "b v r ... -> b (v r) ...") for part in parts))


def chosen(clip: Clip, config: Config, k: int, rng: Rng) -> Int[Tensor, "b v r"]:
    """Pixels of frame k to look through: most where depth is known and in the box's reach (LiDAR-guided), some
    anywhere; anywhere at all where no depth is known."""
    _, v, _, _, h, w = clip.shape
    draw = rng.uniform((v, h * w), clip.frames.device)
    some = min(config.rays, h * w)
    if clip.depth is None:
        return draw.topk(some, dim=-1).indices
    depth = rearrange(clip.depth[:, :, k], "b v h w -> b v (h w)")
    far = max(abs(x) for x in (*config.low[:2], *config.high[:2]))
    good = (depth > config.march.near) & (depth < far)
    free = round(config.anywhere * some)
    near = torch.where(good, draw + 1, draw)  # those first; where there are too few, others fill in
    first = near.topk(some - free, dim=-1).indices
    if not free:
        return first
    rest = rng.integers(0, h * w, (v, free), clip.frames.device)
    return torch.cat([first, rest], dim=-1)


# -- objective ------------------------------------------------------------------------------------


def objective(*, temporal: bool = True, direct: bool = True, weight: float = 10.0) -> Objective:
    """Colour and depth along rays, of what is lifted (direct) and of what is made from other frames (temporal), for
    the present and one random frame of the past; hidden patches are the draw's (Sec. 3 and 4).

    Depth counts in units of the box's reach, as in UniPAD. Without a second frame, or where poses jump, an example has
    no temporal term; `net.single` counts those.

    Raises ValueError for clips of another shape than the network's, and for depth that cannot be in metres.
    """
    if not (temporal or direct):
        raise ValueError("nothing is asked for: temporal, direct, or both")

    def run(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
        assert isinstance(net, MIM4D)
        config = net.config
        _check(config, clip, known, rng)
        volumes, places = net.volumes(clip, known)
        t = clip.frames.shape[2]
        past = int(rng[[0]].integers(0, max(t - 1, 1), ())) if t > 1 else 0
        terms: dict[str, Tensor] = {}
        frames = sorted({past, t - 1})
        for k in frames:
            rays = rays_at(clip, places, k, chosen(clip, config, k, rng))
            jitter = rng.uniform((rays.depth.shape[1],), clip.frames.device)
            if direct:
                _add(terms, "", net.seen(volumes[:, k], rays, jitter), rays, config, weight / len(frames))
            if temporal and t > 1:
                volume, there, _ = net.dropped(volumes, places, k, [j for j in range(t) if j != k])
                net.single += torch.stack([(~there).sum(), torch.tensor(len(there), device=there.device)])
                found = net.seen(volume, rays, jitter)
                _add(terms, "dropped ", found, rays, config, weight / len(frames), there)
        return Loss(terms)

    return run


def _add(
    terms: dict[str, Tensor],
    name: str,
    found: Rendered,
    rays: Rays,
    config: Config,
    weight: float,
    there: Bool[Tensor, " b"] | None = None,
) -> None:
    reach = max(abs(x) for x in (*config.low, *config.high))
    inside = (rays.depth > 0) & (rays.depth < reach)
    colour = (found.rgb - rays.target).abs().mean((1, 2))
    depth = torch.where(inside, (found.depth - rays.depth).abs(), 0.0).sum(1) / inside.sum(1).clamp(min=1) / reach
    for what, value in (("colour", colour), ("depth", depth)):
        value = weight * (value if there is None else torch.where(there, value, 0.0))
        terms[name + what] = terms[name + what] + value if name + what in terms else value


def _check(config: Config, clip: Clip, known: Known, rng: Rng) -> None:
    check_fits(known, clip.frames)
    if clip.frames.shape[2] > config.num_frames:
        raise ValueError(f"this model sees {config.num_frames} frames at once; the clip has {clip.frames.shape[2]}")
    if len(rng) != clip.frames.shape[0]:
        raise ValueError(f"{len(rng)} random generators for a batch of {clip.frames.shape[0]}")
    depth = clip.depth
    if depth is not None and (bool((depth < 0).any()) or bool((depth > 1e4).any()) or not bool(depth.isfinite().all())):
        raise ValueError("depth is in metres along the optical axis, 0 where it is not known; this is not")


# -- fill -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How what is unknown is rendered.

    chunk       rays at a time
    precision   the type in which the encoder computes
    on_call     told (rays so far, in all)
    """

    chunk: int = 4096
    precision: torch.dtype = torch.float32
    on_call: Callable[[int, int], None] | None = None


def fill(net: MIM4D, sampling: Sampling = Sampling()) -> Fill:
    """Render whatever is unknown: patches, views, whole frames, and views from poses where no camera stood.

    A frame of which a part is known in any view is rendered from its own voxels; one of which nothing is known from the
    voxels of the others. There is one answer: nothing is drawn at random.

    The Fill raises ValueError for a clip without poses, of another shape than the network's, of more frames than it
    sees at once, or of which nothing is known at all.
    """
    config = net.config

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        _check(config, clip, known, rng)
        pixels = on_pixels(known, *config.size)
        if bool(pixels.all()):
            return clip
        bare = dataclasses.replace(clip, depth=None)
        there = pixels.flatten(3).any(-1).any(1)  # b t
        if not bool(there.any(1).all()):
            raise ValueError("nothing is known of a clip: there is nothing to render it from")
        frames, (h, w) = clip.frames.clone(), config.size
        total, done = int((~pixels).sum()), 0
        with torch.no_grad(), computing(frames.device, sampling.precision):
            volumes, places = net.volumes(bare, known)
            for i in range(clip.frames.shape[0]):
                one = _example(bare, places, i)
                for k in range(clip.frames.shape[2]):
                    views = (~pixels[i, :, k]).flatten(1)
                    if not bool(views.any()):
                        continue
                    volume = volumes[i : i + 1, k]
                    if not bool(there[i, k]):
                        others = there[i].nonzero()[:, 0].tolist()
                        volume = net.dropped(volumes[i : i + 1], one[1], k, others)[0]
                    for v in views.any(1).nonzero()[:, 0].tolist():
                        place = views[v].nonzero()[:, 0]
                        colour = []
                        for some in place.split(sampling.chunk):
                            rays = rays_at(one[0], one[1], k, some.expand(1, config.views, -1))
                            n = len(some)
                            rays = Rays(*(x[:, v * n : (v + 1) * n] for x in rays))
                            jitter = torch.full_like(rays.depth, 0.5)
                            colour.append(net.seen(volume, rays, jitter).rgb[0])
                            done += n
                            if sampling.on_call is not None:
                                sampling.on_call(done, total)
                        made = (torch.cat(colour).clamp(0, 1) * 2 - 1).to(frames.dtype)
                        frames[i, v, k].view(config.channels, h * w)[:, place] = made.mT
        return dataclasses.replace(clip, frames=frames)

    return run


def _example(clip: Clip, places: Places, i: int) -> tuple[Clip, Places]:
    """Example i; its pixels are no targets here."""
    frames = torch.zeros_like(clip.frames[i : i + 1])
    cameras = clip.cameras
    assert cameras is not None
    alone = Cameras(cameras.intrinsics[i : i + 1], cameras.pose[i : i + 1])
    return Clip(frames, clip.times[i : i + 1], None, alone), Places(*(x[i : i + 1] for x in places))


# -- presets --------------------------------------------------------------------------------------


def tiny(**changes) -> Config:
    """For tests: every part of the network, small."""
    config = Config(
        size=(32, 48), views=2, low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), cells=(8, 8, 4), dims=(8, 16),
        depths=(1, 1), first=0, levels=2, dim=16, far=12.0, bins=8, short=16, long=8, coarse=8, fine=4,
        rays=12,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def small(**changes) -> Config:
    """About 3 M parameters: six cameras of 96 x 160, three frames; an hour or two of a CPU."""
    return dataclasses.replace(Config(), **changes)


def base(**changes) -> Config:
    """About 30 M parameters, 128 x 224: half an hour of a GPU."""
    config = Config(
        size=(128, 224), low=(-51.2, -51.2, -2.0), high=(51.2, 51.2, 6.0), cells=(128, 128, 8), dims=(96, 192, 384),
        depths=(3, 3, 9), dim=128, far=60.0, bins=64, short=128, long=64, coarse=72, fine=24, rays=256,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def paper(**changes) -> Config:
    """The first released configuration: ConvNeXt-S at 480 x 800, voxels of 0.8 x 0.8 x 1.6 m, three frames, samples."""
    config = Config(
        size=(480, 800), low=(-51.2, -51.2, -5.0), high=(51.2, 51.2, 3.0), cells=(128, 128, 5),
        dims=(96, 192, 384, 768), depths=(3, 3, 27, 3), first=1, levels=4, dim=128, near=0.5, far=64.0, bins=64,
        short=128, long=64, alpha="autograd", coarse=72, fine=24, rays=2048, anywhere=0.0, sky=False,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def paper_fine(**changes) -> Config:
    """The second: voxels of 0.6 x 0.6 x 1.6 m, four frames, the last stage alone, a deep depth head, splats."""
    config = paper(
        low=(-54.0, -54.0, -5.0), high=(54.0, 54.0, 3.0), cells=(180, 180, 5), num_frames=4, first=3, levels=1,
        dim=256, near=1.0, far=60.0, bins=118, deep=True, lift="splat", rays=512,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)
