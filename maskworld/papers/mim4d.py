"""MIM4D: masked modelling with multi-view video for autonomous driving (Zou et al., IJCV 2025; arXiv 2403.08760).

Cameras of a car, a few frames: patches of the images are hidden, what is left is lifted into one volume of voxels for
each frame, and the volume is rendered: colour and depth along rays are the only teachers. Then a whole frame is
dropped. Its volume is made from those of the others, moved by the car's own motion into its place and mixed by a
decoder with a short and a long memory, and is rendered by the very same rays. The encoder that results knows depth and
motion without a label.

What the public code does otherwise than it means to is not repeated here: volumes are moved in metres and not in cells,
the short memory looks at the nearest frames, centres of cells are centres everywhere, every camera has its own pose.

Sections: network - frames and poses - memory - rays - objective - fill - views - presets.
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
    dims: tuple[int, ...] = (48, 96, 128)
    depths: tuple[int, ...] = (2, 2, 3)
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
        near = near_of(places.ego, k, self.config.jump) & places.own & places.own[:, k, None]
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
            first = int(gaps.abs().argmin())
            nearest, gap = aligned[:, first], float(gaps[first])
            velocity = self.flow(nearest).float()
            return moved(nearest, velocity * -gap, self.config.grid), near[:, others[first]], velocity
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
    own         False for a frame that only stands in for one that there is not: the next has the same time
    """

    intrinsics: Float[Tensor, "b v 3 3"]
    to_ego: Float[Tensor, "b v t 4 4"]
    ego: Float[Tensor, "b t 4 4"]
    own: Bool[Tensor, "b t"]


def places_of(clip: Clip, config: Config) -> Places:
    """Every camera's own pose, seen from the car of its frame.

    Where nobody says where the car is, it is below the middle of the cameras, as high as the first stands above ground
    (1.5 m), and heads where the first one looks, level.
    Raises ValueError for a clip without cameras, with a calibration or poses that are none, or of another shape than
    the network's.
    """
    _, v, t, c, h, w = clip.shape
    if (v, c, h, w) != (config.views, config.channels, *config.size):
        raise ValueError(
            f"this model sees {config.views} views of {config.channels} x {config.size[0]} x {config.size[1]} images; "
            f"the clip has {v} of {c} x {h} x {w}"
        )
    cameras = clip.cameras
    if cameras is None:
        raise ValueError("this model wants to know where cameras stand: the clip has no calibration and no poses")
    _check_cameras(cameras, (h, w))
    pose = cameras.pose.double()
    ego = _below(pose) if cameras.ego is None else cameras.ego.double()
    to_ego = torch.linalg.solve(ego[:, None].expand_as(pose), pose)
    own = torch.ones(len(ego), t, dtype=torch.bool, device=ego.device)
    own[:, :-1] = clip.times[:, 1:] != clip.times[:, :-1]
    return Places(cameras.intrinsics.float(), to_ego.float(), ego, own)


def _check_cameras(cameras: Cameras, size: tuple[int, int]) -> None:
    """Raise ValueError for what stands in the place of a calibration or a pose that nobody knows: zeros, NaN, the
    identity as intrinsics. A camera that sees 169 degrees or more is no pinhole: its focal length is a twentieth of
    its picture."""
    found = [cameras.intrinsics, cameras.pose] + ([] if cameras.ego is None else [cameras.ego])
    if not all(bool(torch.isfinite(one).all()) for one in found):
        raise ValueError("the cameras' poses or calibration hold NaN or infinity")
    focal = torch.diagonal(cameras.intrinsics, dim1=-2, dim2=-1)[..., :2]
    wide = (focal * 20 < focal.new_tensor([size[1], size[0]])).any(-1).any(0)
    if bool(wide.any()):
        view = int(wide.nonzero()[0])
        raise ValueError(
            f"camera {view}, counted from 0, has no calibration: a focal length of {focal[:, view].min().item():g} "
            f"pixels for images of {size[0]} x {size[1]}"
        )
    for what, matrix in (("camera's", cameras.pose), ("car's", cameras.ego)):
        if matrix is None:
            continue
        turn, still = matrix[..., :3, :3].double(), torch.eye(3, dtype=torch.float64, device=matrix.device)
        if bool(((turn @ turn.mT - still).abs() > 1e-2).any()) or bool((torch.linalg.det(turn) < 0).any()):
            raise ValueError(f"a {what} pose is no turn with a shift: zeros, or a mirror, where one is wanted")


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
    """Frames that a car can have come from, or gone to, from frame k: no pose between them jumps. What lies beyond a
    jump is none of this drive: such pairs are not used (`surround.jumps` names them)."""
    step = (ego[:, 1:, :3, 3] - ego[:, :-1, :3, 3]).norm(dim=-1) <= jump
    near = torch.ones(ego.shape[:2], dtype=torch.bool, device=ego.device)
    for j in range(k + 1, ego.shape[1]):
        near[:, j] = near[:, j - 1] & step[:, j - 1]
    for j in range(k - 1, -1, -1):
        near[:, j] = near[:, j + 1] & step[:, j]
    return near


# -- memory ---------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Bytes of a step, or of a fill, as far as they follow from the configuration.

    voxels      volumes: lifted, smoothed, moved and mixed, and what the lift looks up
    images      the backbone's
    rays        samples along rays
    parameters  weights; in training their gradients, the optimiser's moments and averages, too. A query for each cell
                of the map is one
    """

    voxels: int
    images: int
    rays: int
    parameters: int


def memory_of(config: Config, batch: int, training: bool = True) -> Memory:
    """What a step of so many clips takes, before anything is allocated: values, what is kept of them for gradients, and
    the gradients. Torch itself and the data are not in it. Numbers for each voxel, pixel and sample are such that peaks
    measured on a CPU, from 0.04 to 4 GB, are met within a quarter; one that only fills is met within a half."""
    t, v, (h, w), (x, y, z) = config.num_frames, config.views, config.size, config.cells
    stages = range(len(config.dims))
    at = [(h // (config.stem * 2**i)) * (w // (config.stem * 2**i)) for i in stages]  # pixels of each
    seen = sum(at[min(config.first + i, stages[-1])] for i in range(config.levels))  # of all levels of the neck
    one = volume_bytes(1, 1, 1, config.grid)
    # What the lift looks up: the corners of each point, their numbers and weights, and the same in the cells' order.
    looked = 40 * x * y * z * max(v / 5, 1) * config.levels if config.lift == "sample" else 20 * v * config.bins * seen
    depth = 3 * v * config.bins * seen
    samples = config.coarse + config.fine
    if training:
        drops = min(t - 1, 2)
        wide = t * (2 * config.dim + 3 * config.volume) + drops * (3 * (t - 1) + 4) * config.volume
        flat = 0 if config.flow else drops * 24 * (config.short * min(t - 1, 2) + config.long * (t - 1))
        voxels = one * wide + 4 * (x * y * flat + t * (looked + depth))
        blocks = sum(n * d * (11 * many + 8) for n, d, many in zip(at, config.dims, config.depths, strict=True))
        images = 4 * t * v * (blocks + 8 * seen * config.dim)
        times = min(t, 2) * (1 + bool(drops))  # frames that are rendered
        rays = 4 * times * v * config.rays * samples * (450 if config.alpha == "fd" else 1200)
    else:
        voxels = one * t * (config.dim + 2 * config.volume) + 4 * (looked + depth)
        images = 4 * v * (10 * at[0] * config.dims[0] + seen * config.dim)
        rays = 4 * Sampling().chunk * samples * 150
    with torch.device("meta"):
        weights = sum(value.numel() for value in MIM4D(config).parameters())
    many = batch if training else 1  # one after the other is rendered
    return Memory(int(batch * voxels), int(batch * images), int(many * rays), 4 * weights * (6 if training else 1))


def check_memory(config: Config, batch: int, device: torch.device | str = "cpu", training: bool = True) -> str:
    """The estimate in one line. Raises ValueError where it is more than is free on this device."""
    part = memory_of(config, batch, training)
    of = ", ".join(f"{name} {_gigabytes(value)}" for name, value in part._asdict().items())
    line = f"{'a step' if training else 'this'} takes about {_gigabytes(sum(part))} GB ({of})"
    free = free_memory(device)
    if free is None:
        return line
    if sum(part) > free:
        raise ValueError(f"{line}, and only {_gigabytes(free)} GB are free: take fewer voxels, rays or clips at once")
    return f"{line}; {_gigabytes(free)} GB are free"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f}" if number < 1e10 else f"{number / 1e9:.0f}"


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that can be had; None where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for row in file:
                if row.startswith("MemAvailable:"):
                    return int(row.split()[1]) * 1024
    except OSError:
        pass
    return None


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
    no temporal term; `net.single` counts those, and the loss tells their share (`single_frame_share`).

    Raises ValueError for clips of another shape than the network's, for cameras that cannot be those of one car, and
    for depth that cannot be in metres.
    """
    if not (temporal or direct):
        raise ValueError("nothing is asked for: temporal, direct, or both")

    def run(net: nn.Module, clip: Clip, known: Known, rng: Rng) -> Loss:
        assert isinstance(net, MIM4D)
        config = net.config
        _check(config, clip, known, rng)
        volumes, places = net.volumes(clip, known)
        check_rig(places, config)
        t = clip.frames.shape[2]
        alone = torch.zeros(len(rng), device=clip.frames.device)
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
                alone += ~there / len(frames)
                found = net.seen(volume, rays, jitter)
                _add(terms, "dropped ", found, rays, config, weight / len(frames), there)
        if temporal and t == 1:
            alone += 1
        return Loss(terms, {"single_frame_share": alone} if temporal else {})

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
    if clip.depth is not None:
        check_depth(clip.depth)


def check_depth(depth: Float[Tensor, "b v t h w"]) -> None:
    """Raise ValueError for what cannot be metres along the optical axis, 0 where nobody knows.

    Around a car a quarter of what is known, the ground before all, is within some ten metres. Where hardly any of it is
    within 100 it is in millimetres, centimetres or 256ths of a metre; where all of it is within 1 it is a share, an
    inverse or kilometres. Fewer than 100 known pixels say nothing of their units.
    """
    wrong = "depth is in metres along the optical axis, 0 where it is not known; this"
    if not bool(depth.isfinite().all()):
        raise ValueError(f"{wrong} holds NaN or infinity")
    if bool((depth < 0).any()):
        raise ValueError(f"{wrong} is below 0, down to {depth.min().item():g}")
    known = depth[depth > 0]
    if len(known) < 100:
        return
    near, far = known.kthvalue(len(known) // 4).values.item(), known.max().item()
    if near > 100:
        raise ValueError(f"{wrong} is beyond {near:.4g} for three pixels in four: is it in millimetres or centimetres?")
    if far <= 1:
        raise ValueError(f"{wrong} is nowhere more than {far:.4g}: is it a share of the farthest, or an inverse?")


def check_rig(places: Places, config: Config) -> None:
    """Raise ValueError where the cameras' poses and the car's do not go together. To render, a camera may stand
    anywhere."""
    stands = places.to_ego[..., :3, 3].norm(dim=-1)
    if bool((stands > config.jump).any()):
        raise ValueError(
            f"a camera stands {stands.max().item():.4g} m from its car: their poses are not of one world, or not in "
            "metres"
        )
    first = places.to_ego[:, :1]
    if config.views > 1 and bool(((places.to_ego - first).abs().flatten(1).amax(1) < 1e-4).any()):
        raise ValueError("all cameras stand in one place and look one way: they have no poses of their own")


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
    sees at once, of which nothing is known at all, or where all that is known lies across a jump of the poses.
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
                        volume, near, _ = net.dropped(volumes[i : i + 1], one[1], k, others)
                        if not bool(near):
                            raise ValueError(
                                f"frame {k} has no other that the car can have come from or gone to: its poses jump by "
                                f"more than {config.jump:g} m"
                            )
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


# -- views ----------------------------------------------------------------------------------------


class View(NamedTuple):
    """What cameras would see of voxels.

    frames  in [-1, 1]
    depth   metres along the optical axis
    weight  how much was seen: 1 is a wall
    """

    frames: Float[Tensor, "b v c h w"]
    depth: Float[Tensor, "b v h w"]
    weight: Float[Tensor, "b v h w"]


def look(
    net: MIM4D,
    volume: Float[Tensor, "b c z y x"],
    intrinsics: Float[Tensor, "b v 3 3"],
    to_ego: Float[Tensor, "b v 4 4"],
    every: int = 1,
    chunk: int = 4096,
) -> View:
    """Voxels seen by cameras of any number and at any pose (camera to car); of so many pixels each way, one ray."""
    h, w = net.config.size
    rows, columns = (torch.arange(0, n, every, device=volume.device) + 0.5 for n in (h, w))
    uv = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
    b, v = intrinsics.shape[:2]
    origins, directions = rays_of(uv.expand(b, v, -1, -1), intrinsics, to_ego)
    ahead = torch.einsum("bvri,bvi->bvr", directions, to_ego[..., :3, 2])
    parts = []
    with torch.no_grad():
        flat = (rearrange(x, "b v r i -> b (v r) i").split(chunk, 1) for x in (origins, directions))
        for origin, direction in zip(*flat, strict=True):
            rays = Rays(origin, direction, torch.zeros_like(origin), torch.zeros_like(origin[..., 0]))
            seen = net.seen(volume, rays, torch.full_like(rays.depth, 0.5))
            parts.append((seen.rgb, seen.depth, seen.weight))
    colour, depth, weight = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    shape = {"v": v, "h": len(rows), "w": len(columns)}
    depth, weight = (rearrange(x, "b (v h w) -> b v h w", **shape) for x in (depth, weight))
    colour = rearrange(colour, "b (v h w) c -> b v c h w", **shape)
    return View(
        colour.clamp(0, 1) * 2 - 1, depth * rearrange(ahead, "b v (h w) -> b v h w", **{"h": len(rows)}), weight
    )


class Ground(NamedTuple):
    """What is seen straight from above, for each cell along x and y.

    colour   0 to 1
    height   metres of what is seen
    weight   how much was seen
    """

    colour: Float[Tensor, "b x y c"]
    height: Float[Tensor, "b x y"]
    weight: Float[Tensor, "b x y"]


def from_above(net: MIM4D, volume: Float[Tensor, "b c z y x"], cells: int = 1) -> Ground:
    """Rays straight down, so many for each cell and side of the grid."""
    config, b = net.config, len(volume)
    (x0, y0, _), (x1, y1, top), (nx, ny, _) = config.low, config.high, config.cells
    nx, ny = nx * cells, ny * cells
    x = x0 + (torch.arange(nx, device=volume.device) + 0.5) * ((x1 - x0) / nx)
    y = y0 + (torch.arange(ny, device=volume.device) + 0.5) * ((y1 - y0) / ny)
    place = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1).flatten(0, 1)
    start = top + config.closest  # nothing is looked for before that
    origins = torch.cat([place, torch.full_like(place[:, :1], start)], -1).expand(b, -1, -1)
    down = origins.new_tensor([1e-4, 0.0, -1.0]).expand_as(origins)  # not along an axis exactly
    rays = Rays(
        origins, nn.functional.normalize(down, dim=-1), torch.zeros_like(origins), torch.zeros_like(origins[..., 0])
    )
    with torch.no_grad():
        seen = net.seen(volume, rays, torch.full_like(rays.depth, 0.5))
    found = (start - seen.depth).view(b, nx, ny)
    return Ground(seen.rgb.view(b, nx, ny, -1).clamp(0, 1), found, seen.weight.view(b, nx, ny))


def carried(
    net: MIM4D, volumes: Float[Tensor, "b t c z y x"], places: Places, k: int, j: int
) -> Float[Tensor, "b c z y x"]:
    """The voxels of frame j where frame k has them, if nothing but the car had moved."""
    return warp(volumes[:, j], net.config.grid, _between(places.ego[:, k], places.ego[:, j]))


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
    """1.6 M parameters: six cameras of 96 x 160, three frames; an hour or two of a CPU."""
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
