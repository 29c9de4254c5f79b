"""What the scenes of all families share: colours, places, screens.

Sections: colours - places - screens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from maskworld.data.discs import BAR, DARK, OCCLUDER
from maskworld.probes.base import Again, Ranges
from maskworld.probes.stage import VIEW, Bodies, Motion, Numbers, Track, visible

GROUND, SCREEN, WALLS = DARK, OCCLUDER, BAR
"""The colours of what no read-out looks for: the background, what hides, what stands."""
BOUNDS = (0.0, 0.0, float(VIEW), float(VIEW))

# -- colours --------------------------------------------------------------------------------------


def colours(rng: np.random.Generator, n: int, ranges: Ranges) -> Float[np.ndarray, "n 3"]:
    """n different colours of the palette."""
    assert n <= len(ranges.palette), f"{n} colours of {len(ranges.palette)}"
    return np.array(ranges.palette)[rng.permutation(len(ranges.palette))[:n]]


# -- places ---------------------------------------------------------------------------------------


def between(rng: np.random.Generator, low_high: tuple[float, float], *shape: int) -> Any:
    """Uniform from (low, high); a number, or an array of this shape."""
    return rng.uniform(*low_high, shape) if shape else float(rng.uniform(*low_high))


def heading(angle: float) -> Float[np.ndarray, " 2"]:
    """The unit vector at this angle; 0 is to the right, a quarter turn is down."""
    return np.array([np.cos(angle), np.sin(angle)])


def scattered(
    rng: np.random.Generator,
    radius: Numbers,
    box: tuple[float, float, float, float] = BOUNDS,
    gap: float = 1.0,
) -> Float[np.ndarray, "n 2"]:
    """Places inside a box where no two discs are nearer than `gap`, nor a disc and the box. Again if none is found."""
    r = np.asarray(radius, dtype=np.float64)
    left, top, right, bottom = box
    low, high = np.array([left, top]) + r[:, None] + gap, np.array([right, bottom]) - r[:, None] - gap
    if (low > high).any():
        raise Again
    for _ in range(200):
        place = rng.uniform(low, high)
        apart = np.linalg.norm(place[:, None] - place[None], axis=-1) - r[:, None] - r[None] - gap
        np.fill_diagonal(apart, 1.0)
        if (apart > 0).all():
            return place
    raise Again


# -- screens --------------------------------------------------------------------------------------

EPSILON = 0.1  # pixels by which the chaos screen moves every body
TOLERANCE = 4.0  # tau of the read-out: a centre is right within so many pixels


def steady(
    run: Callable[[Float[np.ndarray, "n 2"]], Float[np.ndarray, "t n 2"]],
    path: Float[np.ndarray, "t n 2"],
    rng: np.random.Generator,
    tries: int = 10,
) -> bool:
    """The chaos screen: whether starts that are EPSILON off end within half a TOLERANCE of `path`, every one.

    `run` gives the path for starts moved by so much; what it gives is compared with `path` as it is, so both hold
    only the bodies and frames that count. Pixels cannot tell such starts apart: where this fails, nobody can know.
    """
    n = path.shape[1]
    for _ in range(tries):
        angle = rng.uniform(0, 2 * np.pi, n)
        moved = run(EPSILON * np.stack([np.cos(angle), np.sin(angle)], 1))
        if moved.shape != path.shape or np.linalg.norm(moved - path, axis=-1).max() > TOLERANCE / 2:
            return False
    return True


def shifted(bodies: Bodies, by: Float[np.ndarray, "n 2"]) -> Bodies:
    """The bodies with their starts moved; what is fixed stays."""
    return dataclasses.replace(bodies, position=bodies.position + np.where(bodies.fixed[:, None], 0.0, by))


def meet(motion: Motion, a: int, b: int) -> list[int]:
    """The frames after which the two bodies begin to touch."""
    return [c.frame for c in motion.contacts if {c.a, c.b} == {a, b}]


def unseen(track: Track, share: float = 1e-6) -> Bool[np.ndarray, "t n"]:
    """Which things are entirely hidden or out of view, frame by frame."""
    return visible(track) <= share
