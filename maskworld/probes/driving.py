"""How well a model drives: does it do what it is told, does it stay in its world, do its cameras agree.

Everything is read from pictures, by the same procedure from real clips, whose numbers are the floor: a figure without
its floor says nothing. Distances are Frechet distances over the features of `probes/ego.py` (or of another extractor),
comparable at equal numbers of clips and under one extractor's name.

Sections: controllability - distances over windows - drift - overlaps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from maskworld.clip import Cameras
from maskworld.probes import ego
from maskworld.probes.quality import Extractor, extract, frechet, unit
from maskworld.probes.statistics import Interval, interval_of_sets, intervals

Read = Callable[[Float[Tensor, "b t c h w"], float], tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]]
"""(frames, frames a second) -> speed in m/s and yaw rate in rad/s of each step."""

# -- controllability ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """What was commanded against what is read back, over all steps of all clips; intervals draw whole clips.

    A correlation of something that does not vary is NaN.
    """

    rmse: Interval
    pearson: Interval
    rank: Interval


def agreement(
    said: Float[np.ndarray, "b s"], read: Float[np.ndarray, "n m"], resamples: int = 500, seed: int = 0
) -> Agreement:
    """Root mean squared error, and Pearson's and Spearman's correlation. Raises ValueError for unequal shapes."""
    if said.shape != read.shape or said.size == 0:
        raise ValueError(f"steps of {said.shape} are compared with steps of {read.shape}")
    pairs = [np.stack([said, read], -1).astype(np.float64)]
    if not np.isfinite(pairs[0]).all():
        raise ValueError("motion that is not finite")

    def over(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        def pooled(drawn: np.ndarray) -> float:
            return statistic(*rearrange(drawn, "b s two -> two (b s)"))

        return interval_of_sets(pooled, pairs, resamples=resamples, seed=seed)

    return Agreement(over(lambda x, y: float(np.sqrt(np.mean((x - y) ** 2)))), over(_pearson), over(_spearman))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def controllability(
    frames: Float[Tensor, "b t c h w"],
    actions: Float[Tensor, "n s 2"],
    fps: float = ego.FPS,
    read: Read = ego.read_motion,
    resamples: int = 500,
) -> dict[str, Agreement]:
    """How far the front camera's pictures do what the actions say: of "speed" (m/s) and "yaw_rate" (rad/s).

    Frames are those that a model made, with the last that it was given before them; the last action is still to come
    and is not asked for. The reader errs too: ask the same of real clips for the floor.

    Args:
        frames: of the front camera, in colour.
        actions: speed in m/s and curvature in 1/m (positive to the left), from each frame to the next.
        fps: frames a second.
        read: what reads the motion.
        resamples: draws for the intervals.

    Raises:
        ValueError: other numbers of frames and actions, or what `read` refuses.
    """
    if actions.shape[:2] != frames.shape[:2]:
        raise ValueError(f"frames of {tuple(frames.shape[:2])} have actions of {tuple(actions.shape[:2])}")
    speed, yaw_rate = (rates.double().cpu().numpy() for rates in read(frames, fps))
    said = actions[:, :-1].double().cpu().numpy()
    return {
        "speed": agreement(said[..., 0], speed, resamples),
        "yaw_rate": agreement(said[..., 0] * said[..., 1], yaw_rate, resamples),
    }


# -- distances over windows -----------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Frechet distances, one for each window of a roll-out, and their slope a window.

    `floor` is of as many other real clips: what a perfect model would get. The name is the extractor's.
    """

    name: str
    made: list[Interval]
    floor: list[Interval]
    slope: Interval
    floor_slope: Interval


def frechet_by_window(
    real: Float[Tensor, "n t c h w"],
    made: Float[Tensor, "*made"],
    other: Float[Tensor, "*other"],
    window: int,
    extractor: Extractor,
    resamples: int = 200,
    seed: int = 0,
) -> Windows:
    """How the distance of what was made from what is real grows along a roll-out, window by window.

    Args:
        real: what is compared with.
        made: as many clips of a model.
        other: as many real clips again, for the floor: those that the model was prompted with, in full.
        window: frames of a window; frames after the last whole one are left out.
        extractor: of the features.
        resamples: draws of clips for the intervals.
        seed: of the draws.

    Raises:
        ValueError: sets of unequal sizes, or clips shorter than a window.
    """
    if not real.shape == made.shape == other.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (real, made, other))
        raise ValueError(f"distances are compared at equal numbers of clips and frames, not of {shapes}")
    seen = [window_features(frames, window, extractor) for frames in (real, made, other)]
    found = []
    for sets in ((seen[0], seen[1]), (seen[0], seen[2])):
        of_window = [
            interval_of_sets(_distance, [x[:, k] for x in sets], resamples=resamples, seed=seed)
            for k in range(seen[0].shape[1])
        ]
        found.append((of_window, interval_of_sets(_slope_of_sets, sets, resamples=resamples, seed=seed)))
    return Windows(extractor.name, found[0][0], found[1][0], found[0][1], found[1][1])


def window_features(
    frames: Float[Tensor, "n t c h w"], window: int, extractor: Extractor
) -> Float[np.ndarray, "n k d"]:
    """Features of each whole window of each clip. Raises ValueError for clips shorter than a window."""
    n, t = frames.shape[:2]
    if not 1 <= window <= t:
        raise ValueError(f"windows of {window} frames are not to be had from clips of {t}")
    cut = frames[:, : t // window * window]
    seen = extract(extractor, rearrange(cut, "n (k s) c h w -> (n k) s c h w", s=window), chunk=64)
    return rearrange(seen, "(n k) d -> n k d", n=n).double().numpy()


def slope(values: Float[np.ndarray, " k"]) -> float:
    """By how much it rises from window to window: of the line of least squares. 0 of one window alone."""
    place = np.arange(len(values)) - (len(values) - 1) / 2
    return float(place @ values / max((place**2).sum(), 1e-300))


def distances(real: Float[np.ndarray, "n k d"], made: Float[np.ndarray, "m k d"]) -> Float[np.ndarray, " k"]:
    """The Frechet distance of each window's features."""
    return np.array([_distance(real[:, k], made[:, k]) for k in range(real.shape[1])])


def _distance(real: np.ndarray, made: np.ndarray) -> float:
    return frechet(torch.from_numpy(real), torch.from_numpy(made))


def _slope_of_sets(real: np.ndarray, made: np.ndarray) -> float:
    return slope(distances(real, made))


def compared(
    real: Float[np.ndarray, "n k d"],
    one: Float[np.ndarray, "s m k d"],
    base: Float[np.ndarray, "*others"],
    statistic: Callable[[Float[np.ndarray, " k"]], float] = slope,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """A statistic of the distances (their slope, say) of one model less that of another, over trainings and clips.

    Both were given the same prompts, and training s of one goes with training s of the other: clips and trainings are
    drawn again, the same for both, and real clips for themselves. Few trainings say little of others: an interval over
    three is too narrow rather than too wide. With one training alone it speaks of clips only.

    Raises ValueError for features of unequal shapes.
    """
    if one.shape != base.shape:
        raise ValueError(f"features of {one.shape} are compared with features of {base.shape}: nothing can be paired")
    both = rearrange(np.stack([one, base]), "two s m k d -> m two s k d")

    def minus(real: np.ndarray, both: np.ndarray, trainings: np.ndarray = np.zeros(1, int)) -> float:
        # A training that is drawn twice counts twice, and is worked out once.
        found = {
            int(s): statistic(distances(real, both[:, 0, s])) - statistic(distances(real, both[:, 1, s]))
            for s in np.unique(trainings)
        }
        return float(np.mean([found[int(s)] for s in trainings]))

    sets = [real, both] + ([np.arange(len(one))] if len(one) > 1 else [])
    return interval_of_sets(minus, sets, resamples=resamples, seed=seed)


# -- drift ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """How light and colour leave those of the prompt, window by window, on [0, 1]; the mean over clips.

    brightness  the mean of the pixels, less that of the prompt
    contrast    the spread of the pixels of a frame, less that of the prompt
    colour      how far the means of red, green and blue have gone, root mean square: never less than 0
    """

    brightness: list[Interval]
    contrast: list[Interval]
    colour: list[Interval]


def drift(frames: Float[Tensor, "n t c h w"], prompt: int, window: int, resamples: int = 2000) -> Drift:
    """Light and colour of each whole window after the prompt, against those of the prompt's frames.

    Real clips drift as well, where the road leads elsewhere: ask the same of them for the floor. ValueError as `light`.
    """
    seen = light(frames, prompt, window).numpy()
    return Drift(*(intervals(seen[..., i], resamples=resamples) for i in range(3)))


def light(frames: Float[Tensor, "n t c h w"], prompt: int, window: int) -> Float[Tensor, "n k 3"]:
    """Of each clip and window: brightness, contrast and colour, as `Drift` has them.

    Raises ValueError where no frame is before, or no whole window after the end of the prompt.
    """
    t = frames.shape[1]
    if not 1 <= prompt < t:
        raise ValueError(f"a prompt of {prompt} frames in a clip of {t}: none before it ends, or none after")
    if not 1 <= window <= t - prompt:
        raise ValueError(f"windows of {window} frames are not to be had from {t - prompt} after the prompt")
    pixels = unit(frames.double())
    contrast = pixels.std((-2, -1), correction=0).mean(-1, keepdim=True)
    look = torch.cat([pixels.mean((-2, -1)), contrast], -1)
    k = (t - prompt) // window
    after = reduce(look[:, prompt : prompt + k * window], "n (k s) c -> n k c", "mean", k=k)
    change = after - look[:, None, :prompt].mean(2)
    colours = change[..., :-1]
    return torch.stack([colours.mean(-1), change[..., -1], colours.square().mean(-1).sqrt()], -1).cpu()


# -- overlaps -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """By how much the views of a clip disagree where two cameras see the same: mean absolute error on [0, 1].

    `share` of all pixels were compared. Blurred views agree easily: read it beside the contrast (`drift`).
    """

    error: Float[Tensor, " b"]
    share: Float[Tensor, " b"]


def overlap_error(
    frames: Float[Tensor, "b v t c h w"],
    cameras: Cameras,
    depth: Float[Tensor, "b v t h w"] | None = None,
    ground: float = 0.0,
) -> Overlap:
    """The photometric error in the overlaps of the cameras.

    With `depth` it is exact: each pixel goes to the other view by its own depth (sky by its direction), and counts
    where that view's depth says that the same thing is seen there. What a model makes has no depth; that of the true
    clip may be given where both show the same scene (a view that was filled in from its neighbours).

    Without, the world is taken for a plane and a far backdrop: what is seen below the horizon lies on the ground, what
    is seen above is infinitely far. Things that stand near then disagree in real clips as well: the same measure of
    real clips is the floor, and the ratio to it is the finding (`ratio`).

    Args:
        frames: of several views at once.
        cameras: of those frames.
        depth: metres along the optical axis, 0 where it is sky.
        ground: height of the ground in world metres, where no depth is given.

    Raises:
        ValueError: one view alone, or views that see nothing in common.
    """
    b, v, t, _, h, w = frames.shape
    if v < 2:
        raise ValueError("an overlap is of two views or more; there is one")
    pixels = unit(frames.float())
    intrinsics, pose = cameras.intrinsics.double(), cameras.pose.double()
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)], -1).double().to(frames.device)
    error, compared = torch.zeros(b, dtype=torch.float64), torch.zeros(b, dtype=torch.float64)
    for i, j in itertools.permutations(range(v), 2):
        if not _face_alike(intrinsics, pose, i, j, w):
            continue
        ray = torch.einsum("b k l, h w l -> b h w k", torch.linalg.inv(intrinsics[:, i]), place)
        direction = torch.einsum("b t k l, b h w l -> b t h w k", pose[:, i, :, :3, :3], ray)
        eye, other_eye = (rearrange(pose[:, n, :, :3, 3], "b t k -> b t 1 1 k") for n in (i, j))
        if depth is None:
            down = direction[..., 2]
            away = torch.where(down < 0, (ground - eye[..., 2]) / down.clamp(max=-1e-9), 0)
        else:
            away = depth[:, i].double()
        far = (away <= 0)[..., None]
        # A point at infinity is its direction alone: where the other eye stands makes no difference to it.
        beyond = torch.where(far, direction, eye + away[..., None] * direction - other_eye)
        seen = torch.einsum("b t l k, b t h w l -> b t h w k", pose[:, j, :, :3, :3], beyond)
        there = torch.einsum("b k l, b t h w l -> b t h w k", intrinsics[:, j], seen)
        before = there[..., 2] > 1e-3
        uv = there[..., :2] / there[..., 2:].clamp(min=1e-3)
        size = uv.new_tensor([w, h])
        valid = before & ((uv >= 0.5) & (uv <= size - 0.5)).all(-1)
        if depth is not None:
            valid &= _same_depth(depth[:, j].double(), uv, torch.where(far[..., 0], 0, seen[..., 2]))
        grid = rearrange(2 * uv / size - 1, "b t h w two -> (b t) h w two").float()
        sampled = F.grid_sample(rearrange(pixels[:, j], "b t c h w -> (b t) c h w"), grid, align_corners=False)
        off = (rearrange(sampled, "(b t) c h w -> b t c h w", b=b) - pixels[:, i]).abs().mean(2)
        error += (off.double() * valid).sum((1, 2, 3)).cpu()
        compared += valid.sum((1, 2, 3)).cpu()
    if not (compared > 0).all():
        raise ValueError("these cameras see nothing in common: there is no overlap to compare")
    return Overlap(error / compared, compared / (v * t * h * w))


def ratio(made: Overlap, real: Overlap, paired: bool = False, resamples: int = 1000, seed: int = 0) -> Interval:
    """The mean error of what was made over that of real clips; `paired`: clip by clip of the same scenes."""
    sets = [made.error.numpy(), real.error.numpy()]
    return interval_of_sets(lambda a, b: float(a.mean() / b.mean()), sets, paired, resamples=resamples, seed=seed)


def _face_alike(intrinsics: Tensor, pose: Tensor, i: int, j: int, w: int) -> bool:
    """Whether the directions of two views are near enough for them to share something, in any example."""
    ahead = pose[:, :, 0, :3, 2]
    angle = torch.arccos((ahead[:, i] * ahead[:, j]).sum(-1).clamp(-1, 1))
    half = torch.arctan(w / 2 / intrinsics[:, :, 0, 0])
    return bool((angle < half[:, i] + half[:, j]).any())


def _same_depth(
    depth: Float[Tensor, "b t h w"], uv: Float[Tensor, "b t h w 2"], expected: Float[Tensor, "b t h w"]
) -> Bool[Tensor, "b t h w"]:
    """Whether all four pixels round each place are as deep as expected, within a tenth and 5 cm; 0 is sky."""
    h, w = depth.shape[-2:]
    flat = rearrange(depth, "b t h w -> b t (h w)")
    low = (uv - 0.5).floor().long()
    same = torch.ones_like(expected, dtype=torch.bool)
    for right, down in itertools.product((0, 1), repeat=2):
        x, y = (low[..., 0] + right).clamp(0, w - 1), (low[..., 1] + down).clamp(0, h - 1)
        found = rearrange(flat.gather(-1, rearrange(y * w + x, "b t h w -> b t (h w)")), "b t (h w) -> b t h w", h=h)
        near = (found - expected).abs() <= 0.1 * expected + 0.05
        same &= torch.where(expected > 0, (found > 0) & near, found == 0)
    return same
