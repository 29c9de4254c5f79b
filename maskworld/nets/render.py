"""A volume, rendered: rays of cameras, samples along them, a signed distance and a colour at each, and NeuS weights.

After UniPAD (Yang et al. 2024, Sec. 3.3), whose head MIM4D keeps, and NeuS (Wang et al. 2021). Everything outside is
in metres of the ego frame; the field sees points scaled so that the farthest face of the grid lies at 1.

Sections: rays - samples - the field - rendering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.nets.voxel import Grid, sample

# -- rays -----------------------------------------------------------------------------------------


def rays_of(
    pixels: Float[Tensor, "b v r 2"], intrinsics: Float[Tensor, "b v 3 3"], to_ego: Float[Tensor, "b v 4 4"]
) -> tuple[Float[Tensor, "b v r 3"], Float[Tensor, "b v r 3"]]:
    """(origins, directions) of the rays through points (u, v) of the images: metres, and unit vectors, in the ego
    frame. The middle of the first pixel is (.5, .5)."""
    with torch.autocast(pixels.device.type, enabled=False):
        ahead = einsum(to_ego[..., :3, :3], _looking(pixels, intrinsics), "b v i j, b v r j -> b v r i")
    return to_ego[..., None, :3, 3].expand_as(ahead), F.normalize(ahead, dim=-1)


def slant(pixels: Float[Tensor, "b v r 2"], intrinsics: Float[Tensor, "b v 3 3"]) -> Float[Tensor, "b v r"]:
    """Metres along the ray for each metre along the optical axis."""
    with torch.autocast(pixels.device.type, enabled=False):
        return _looking(pixels, intrinsics).norm(dim=-1)


def _looking(pixels: Float[Tensor, "b v r 2"], intrinsics: Float[Tensor, "b v 3 3"]) -> Float[Tensor, "b v r 3"]:
    """In the camera's frame, one metre away along its axis."""
    return einsum(torch.linalg.inv(intrinsics), F.pad(pixels, (0, 1), value=1.0), "b v i j, b v r j -> b v r i")


# -- samples --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class March:
    """How a ray is cut: from `near` metres on, `coarse` even pieces, then `fine` more where a surface seems to be.

    `sharp` is the inverse standard deviation, in scaled units, by which a surface is looked for.
    """

    near: float = 1.0
    coarse: int = 72
    fine: int = 24
    sharp: float = 64.0

    def __post_init__(self) -> None:
        if self.near < 0 or self.coarse < 1 or self.fine < 0 or self.sharp <= 0:
            raise ValueError(f"near and fine are at least 0, coarse at least 1, sharp above 0; not {self}")


def crossing(
    grid: Grid, origins: Float[Tensor, "b r 3"], directions: Float[Tensor, "b r 3"], near: float
) -> tuple[Float[Tensor, "b r"], Float[Tensor, "b r"], Bool[Tensor, "b r"]]:
    """(enter, leave, hits): between which distances, in metres and not before `near`, a ray is inside the grid's box,
    and whether it ever is; the distances of one that is not mean nothing, but are numbers."""
    low, high = (torch.tensor(edge, dtype=origins.dtype, device=origins.device) for edge in (grid.low, grid.high))
    tiny = torch.full_like(directions, 1e-9).copysign(directions)
    slope = torch.where(directions.abs() < 1e-9, tiny, directions)
    one, two = (low - origins) / slope, (high - origins) / slope
    enter = torch.minimum(one, two).amax(-1).clamp(min=near)
    leave = torch.maximum(one, two).amin(-1)
    hits = leave > enter
    return torch.where(hits, enter, near), torch.where(hits, leave, near + 1), hits


def cut(
    enter: Float[Tensor, "b r"], leave: Float[Tensor, "b r"], jitter: Float[Tensor, "b r"], pieces: int
) -> Float[Tensor, "b r e"]:
    """The ends of even pieces, all moved by `jitter` (0 to 1, one for each ray) between the pieces' middles."""
    even = torch.linspace(0, 1, pieces + 1, dtype=enter.dtype, device=enter.device)
    middles = (even[1:] + even[:-1]) / 2
    lower, upper = torch.cat([even[:1], middles]), torch.cat([middles, even[-1:]])
    return enter[..., None] + (leave - enter)[..., None] * torch.lerp(lower, upper, jitter[..., None])


def finer(
    edges: Float[Tensor, "b r e"],
    sdf: Float[Tensor, "b r e"],
    jitter: Float[Tensor, "b r"],
    march: March,
    scale: float,
) -> Float[Tensor, "b r f"]:
    """`march.fine` more distances, in order, drawn by the weights that this signed distance (scaled) gives to the
    pieces (NeuS, App. C). A piece's slope is the steeper of its own and the one before it, against thin walls."""
    length = edges.diff(dim=-1) * scale
    slope = sdf.diff(dim=-1) / (length + 1e-5)
    slope = torch.minimum(slope, F.pad(slope[..., :-1], (1, 0))).clamp(-1e3, 0)
    middle, half = (sdf[..., 1:] + sdf[..., :-1]) / 2, slope * length / 2
    weights = _weights(_log_clear(middle - half, middle + half, march.sharp)) + 1e-5
    total = F.pad((weights / weights.sum(-1, keepdim=True)).cumsum(-1), (1, 0)).contiguous()
    even = torch.arange(march.fine, dtype=edges.dtype, device=edges.device)
    place = ((even + jitter[..., None]) / march.fine).contiguous()
    after = torch.searchsorted(total, place, right=True).clamp(1, edges.shape[-1] - 1)
    low, high = total.gather(-1, after - 1), total.gather(-1, after)
    part = ((place - low) / (high - low)).clamp(0, 1)
    return torch.lerp(edges.gather(-1, after - 1), edges.gather(-1, after), part)


# -- the field ------------------------------------------------------------------------------------


class Conditioned(nn.Module):
    """An MLP of a point that is told something at every layer: x = W p, then x <- act(W_i (x + U_i told))."""

    def __init__(self, told: int, dim: int, out: int, layers: int, activation: nn.Module):
        super().__init__()
        self.point, self.told = nn.Linear(3, dim), nn.Linear(told, layers * dim)
        widths = [dim] * (layers - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(dim, width) for width in widths)
        self.activation = activation

    def forward(self, points: Float[Tensor, "b n 3"], told: Float[Tensor, "b n k"]) -> Float[Tensor, "b n o"]:
        x = self.point(points)
        parts = self.told(told).chunk(len(self.layers), dim=-1)
        for i, (layer, part) in enumerate(zip(self.layers, parts, strict=True)):
            x = layer(x + part)
            if i + 1 < len(self.layers):
                x = self.activation(x)
        return x


class Field(nn.Module):
    """What is at a point: the signed distance to the nearest surface (scaled), and the colour seen from a direction.

    `channels` of the volume are read; both decoders are so small that what they know must come from there. With
    `normals` the colour is told the distance's gradient too, which needs alpha="autograd" (UniPAD, Sec. 3.3).
    Raises ValueError where a decoder has no layer.
    """

    def __init__(
        self,
        channels: int = 32,
        dim: int = 16,
        layers: tuple[int, int] = (6, 4),
        geometry: int = 16,
        normals: bool = True,
    ):
        super().__init__()
        if min(layers) < 1:
            raise ValueError(f"a decoder has at least one layer, not {layers}")
        self.channels, self.normals = channels, normals
        self.distance = Conditioned(channels, dim, 1 + geometry, layers[0], nn.Softplus(beta=100))
        told = 3 + channels + 3 * normals + geometry
        self.colour = Conditioned(told, dim, 3, layers[1], nn.ReLU())
        self.sharpness = nn.Parameter(torch.tensor(0.3))

    def sharp(self) -> Float[Tensor, ""]:
        """The inverse standard deviation by which distances become opacities: about 20 at the start, learned."""
        return (10 * self.sharpness).exp().clamp(1e-6, 1e6)

    def sdf(
        self, points: Float[Tensor, "b n 3"], features: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n g"]]:
        """(signed distances, what the colour is told of the shape) at scaled points."""
        out = self.distance(points, features)
        return out[..., 0], out[..., 1:]

    def rgb(self, points: Float[Tensor, "b n 3"], told: list[Float[Tensor, "b n _"]]) -> Float[Tensor, "b n 3"]:
        """Colours from 0 to 1. Told: direction, features, the gradient of the distance (with `normals`), shape."""
        out = self.colour(points, torch.cat(told, dim=-1))
        return out.to(torch.promote_types(out.dtype, torch.float32)).sigmoid()


# -- rendering ------------------------------------------------------------------------------------


class Rendered(NamedTuple):
    """What rays saw. A ray that misses the box saw nothing: weight, colour and depth are 0."""

    rgb: Float[Tensor, "b r 3"]
    """From 0 to 1, before black."""
    depth: Float[Tensor, "b r"]
    """Metres along the ray, of what was seen: it says nothing where there is hardly any weight."""
    weight: Float[Tensor, "b r"]
    """How much was seen: 1 is a wall."""
    edges: Float[Tensor, "b r e"]
    """Where pieces begin and end, in metres, in order."""
    alpha: Float[Tensor, "b r s"]
    """Each piece's opacity."""
    weights: Float[Tensor, "b r s"]
    """Each piece's share of what is seen."""


def render(
    field: Field,
    volume: Float[Tensor, "b c z y x"],
    grid: Grid,
    origins: Float[Tensor, "b r 3"],
    directions: Float[Tensor, "b r 3"],
    jitter: Float[Tensor, "b r"],
    march: March,
    alpha: Literal["fd", "autograd"],
) -> Rendered:
    """March along rays through a volume. `jitter`, from 0 (included) to 1 (excluded), moves each ray's samples.

    "autograd" takes the distance and its gradient in the middle of each piece, as NeuS does, and so differentiates
    the sampling of the volume twice in training. "fd" takes the distance at both ends of each piece (NeuS, Eq. 13):
    no second derivatives, and the coarse samples are used again. For a linear distance both are the same.

    Distances, opacities and weights are computed in float32 or better, whatever the type of the volume or autocast.
    Raises ValueError for a volume that is not the field's or the grid's, or a field with normals and "fd".
    """
    _check(field, volume, grid, alpha)
    full = torch.promote_types(volume.dtype, torch.float32)
    ray = Ray(origins.to(full), directions.to(full))
    scale = 1 / max(abs(edge) for edge in (*grid.low, *grid.high))
    enter, leave, hits = crossing(grid, *ray, march.near)
    coarse = cut(enter, leave, jitter.to(full), march.coarse)
    seen = _Seen(field, volume.to(full), grid, scale)
    if alpha == "fd":
        edges, log_clear, colours = _by_ends(seen, ray, coarse, jitter.to(full), march)
    else:
        edges, log_clear, colours = _by_normals(seen, ray, coarse, jitter.to(full), march)

    weights = _weights(log_clear) * hits[..., None]
    weight, middles = weights.sum(-1), (edges[..., 1:] + edges[..., :-1]) / 2
    depth = (weights * middles).sum(-1) / (weight + 1e-10)
    depth = torch.where(hits, depth.clamp(edges[..., 0], edges[..., -1]), 0)
    rgb = (weights[..., None] * colours).sum(2)  # no product of matrices: autocast would halve it
    return Rendered(rgb, depth, weight, edges, -torch.expm1(log_clear), weights)


class Ray(NamedTuple):
    origins: Float[Tensor, "b r 3"]
    directions: Float[Tensor, "b r 3"]

    def at(self, distances: Float[Tensor, "b r e"]) -> Float[Tensor, "b n 3"]:
        """The points so many metres along: all of a ray, then the next ray's."""
        points = self.origins[:, :, None] + self.directions[:, :, None] * distances[..., None]
        return rearrange(points, "b r e i -> b (r e) i")

    def towards(self, each: int) -> Float[Tensor, "b n 3"]:
        """The direction at each of those points."""
        return rearrange(self.directions[:, :, None].expand(-1, -1, each, -1), "b r e i -> b (r e) i")


class _Seen(NamedTuple):
    """What is looked at."""

    field: Field
    volume: Tensor
    grid: Grid
    scale: float

    def distance(self, points: Tensor, twice: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(signed distance, shape, features) at scaled points; not in half precision: a step of bfloat16 is metres."""
        with torch.autocast(points.device.type, enabled=False):
            features = rearrange(sample(self.volume, points / self.scale, self.grid, twice), "b c n -> b n c")
            return *self.field.sdf(points, features), features


def _by_ends(seen: _Seen, ray: Ray, coarse: Tensor, jitter: Tensor, march: March) -> tuple[Tensor, Tensor, Tensor]:
    """(edges, log of what each piece lets through, its colour), from the distances at the pieces' ends."""
    # differs: no gradient of the distance; a piece's colour is the mean of those at its ends.
    found, edges = [_look(seen, ray, coarse)], coarse
    if march.fine:
        more = finer(coarse, found[0][0].detach(), jitter, march, seen.scale)
        found.append(_look(seen, ray, more))
        edges, order = torch.cat([coarse, more], dim=-1).sort(dim=-1, stable=True)
        sdf = torch.cat([each for each, _ in found], dim=-1).gather(-1, order)
        colours = torch.cat([each for _, each in found], dim=2)
        colours = colours.gather(2, order[..., None].expand_as(colours))
    else:
        sdf, colours = found[0]
    log_clear = _log_clear(sdf[..., :-1], sdf[..., 1:], seen.field.sharp())
    return edges, log_clear, (colours[:, :, 1:] + colours[:, :, :-1]) / 2


def _look(seen: _Seen, ray: Ray, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(signed distances, colours) at these distances along the rays."""
    points, each = ray.at(edges) * seen.scale, edges.shape[-1]
    sdf, shape, features = seen.distance(points, twice=False)
    colours = seen.field.rgb(points, [ray.towards(each), features, shape])
    return rearrange(sdf, "b (r e) -> b r e", e=each), rearrange(colours, "b (r e) i -> b r e i", e=each)


def _by_normals(seen: _Seen, ray: Ray, coarse: Tensor, jitter: Tensor, march: March) -> tuple[Tensor, Tensor, Tensor]:
    """(edges, log of what each piece lets through, its colour), from the distance and its gradient in the middles."""
    edges = coarse
    if march.fine:
        with torch.no_grad():
            sdf, _, _ = seen.distance(ray.at(coarse) * seen.scale, twice=False)
            more = finer(coarse, rearrange(sdf, "b (r e) -> b r e", e=coarse.shape[-1]), jitter, march, seen.scale)
        edges = torch.cat([coarse, more], dim=-1).sort(dim=-1).values
    # differs: the middles, as NeuS; the code looks at where a piece begins, so that uneven pieces leave gaps.
    middles, towards = (edges[..., 1:] + edges[..., :-1]) / 2, ray.towards(edges.shape[-1] - 1)
    learning = torch.is_grad_enabled()
    with torch.enable_grad():
        points = (ray.at(middles) * seen.scale).detach().requires_grad_()
        sdf, shape, features = seen.distance(points, twice=True)
        with torch.autocast(points.device.type, enabled=False):
            (normals,) = torch.autograd.grad(sdf.sum(), points, create_graph=learning)
    if not learning:
        sdf, shape, features = sdf.detach(), shape.detach(), features.detach()
    points = points.detach()
    told = [towards, features, normals, shape] if seen.field.normals else [towards, features, shape]
    colours, each = seen.field.rgb(points, told), middles.shape[-1]
    falls = -F.relu(-(towards * normals).sum(-1))
    sdf, falls = (rearrange(one, "b (r s) -> b r s", s=each) for one in (sdf, falls))
    half = falls * edges.diff(dim=-1) * (seen.scale / 2)
    log_clear = _log_clear(sdf - half, sdf + half, seen.field.sharp())
    return edges, log_clear, rearrange(colours, "b (r s) i -> b r s i", s=each)


def _log_clear(before: Tensor, after: Tensor, sharp: Tensor | float) -> Tensor:
    """log(1 - alpha) of pieces between two signed distances (NeuS, Eq. 13)."""
    # differs: logarithms of the sigmoids, which do not vanish, in place of small numbers added to them.
    return (F.logsigmoid(sharp * after) - F.logsigmoid(sharp * before)).clamp(max=0)


def _weights(log_clear: Tensor) -> Tensor:
    """Each piece's opacity times what all before it let through (NeuS, Eq. 11)."""
    return F.pad(log_clear[..., :-1], (1, 0)).cumsum(-1).exp() * -torch.expm1(log_clear)


def _check(field: Field, volume: Tensor, grid: Grid, alpha: str) -> None:
    x, y, z = grid.cells
    if tuple(volume.shape[1:]) != (field.channels, z, y, x):
        raise ValueError(
            f"the field reads {field.channels} channels of {z} x {y} x {x} cells (z y x), "
            f"and the volume has {' x '.join(map(str, volume.shape[1:]))}"
        )
    if alpha == "fd" and field.normals:
        raise ValueError(
            'a field whose colours are told normals needs alpha="autograd": give it normals=False for "fd"'
        )
