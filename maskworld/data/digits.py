"""Stochastic moving digits by the rules of SMMNIST (Denton & Fergus 2018, as in MCVD), made on the fly.

The digits are those of E. Alpaydin and C. Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, CC BY 4.0: 8x8 pixels, here enlarged smoothly; or MNIST's, from the user's files.

Sections: glyphs - motion - the source.
"""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from maskworld.clip import Clip, of_frames

GLYPH = 32  # pixels, as SMMNIST's
SPLITS = ("train", "valid", "test")

# -- glyphs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Glyphs:
    """Drawings of digits, 0 = background to 255 = stroke, and what they show."""

    images: UInt8[np.ndarray, "n 32 32"]
    labels: UInt8[np.ndarray, " n"]


@functools.cache
def uci_glyphs(split: str) -> Glyphs:
    """The glyphs that come with the package, enlarged to 24x24 in a field of 32x32.

    The file keeps the order of the forms on which the digits were written, one writer after another; the
    splits are contiguous blocks that end where a form does: first 1287 train, then 128 valid, then 382 test.
    """
    part = {"train": slice(0, 1287), "valid": slice(1287, 1415), "test": slice(1415, None)}[split]
    with np.load(Path(__file__).with_name("uci_digits.npz")) as file:
        counts, labels = file["images"][part], file["labels"][part]
    # A pixel counts the ink in a block of 4x4 (0..16). Cubic interpolation with empty blocks around, then a
    # contrast curve that puts a stroke's border at about half coverage: clean strokes, as wide as MNIST's.
    coverage = torch.nn.functional.pad(torch.from_numpy(counts).float()[:, None] / 16, (2, 2, 2, 2))
    large = torch.nn.functional.interpolate(coverage, scale_factor=3, mode="bicubic")[:, 0, 2:-2, 2:-2]
    ink = ((large - 0.3) / 0.45).clamp(0, 1)
    images = (ink * ink * (3 - 2 * ink) * 255).round().to(torch.uint8).numpy()
    return Glyphs(images, labels)


@functools.cache
def mnist_glyphs(folder: Path, split: str) -> Glyphs:
    """MNIST from its idx files (.gz or not) in `folder`, resized to 32x32 as in SMMNIST.

    train is MNIST's training set, test the first 256 of MNIST's test set, as in the original SMMNIST (so that
    figures compare with published ones), valid the other 9744. ValueError for missing or broken files.
    """
    from PIL import Image

    stem = "train" if split == "train" else "t10k"
    images = _read_idx(folder, f"{stem}-images-idx3-ubyte", ndim=3)
    labels = _read_idx(folder, f"{stem}-labels-idx1-ubyte", ndim=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} images in {stem}, but {len(labels)} labels")
    part = {"train": slice(None), "valid": slice(256, None), "test": slice(0, 256)}[split]
    images, labels = images[part], labels[part]
    if len(images) == 0:
        raise ValueError(f"{folder}: no digits for the split {split!r}")
    large = [Image.fromarray(image).resize((GLYPH, GLYPH), Image.Resampling.BILINEAR) for image in images]
    return Glyphs(np.stack([np.asarray(image) for image in large]), labels)


def _read_idx(folder: Path, name: str, ndim: int) -> np.ndarray:
    """An array of bytes from an idx file: 0, 0, type 8 (uint8), ndim; ndim big-endian uint32; the data."""
    # Copies of MNIST differ in one character: "-idx3-ubyte" and ".idx3-ubyte".
    names = [n + end for n in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no MNIST file {name} (or {name}.gz)")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    start = 4 + 4 * ndim
    if len(data) < start or data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{path} is not an idx file of bytes with {ndim} axes")
    shape = tuple(np.frombuffer(data, ">u4", ndim, 4).tolist())
    if len(data) - start != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path}: {len(data) - start} bytes of data, its header promises {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


# -- motion ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DigitStates:
    """The truth of a clip. A digit's position (x, y) is the top left pixel of its glyph in that frame; its
    velocity, in pixels per frame, is the one with which it leaves (a bounce is already in it).
    """

    position: Int[np.ndarray, "t n 2"]
    velocity: Int[np.ndarray, "t n 2"]
    glyph: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]


def move(
    x: int,
    y: int,
    dx: int,
    dy: int,
    num_frames: int,
    room: int,
    deterministic: bool,
    rng: np.random.Generator,
) -> list[tuple[int, int, int, int]]:
    """(x, y, dx, dy) of one digit in each frame, 0 <= x, y < room: SMMNIST's rules, and its order of draws.

    At a wall the digit goes back to the nearest place and draws a new velocity that leaves the wall; the
    velocity along the wall is drawn too. Deterministic: it is mirrored instead.
    """
    states = []
    for _ in range(num_frames):
        if y < 0 or y >= room:
            low = y < 0
            y = 0 if low else room - 1
            if deterministic:
                dy = -dy
            else:
                dy = int(rng.integers(1, 5)) if low else int(rng.integers(-4, 0))
                dx = int(rng.integers(-4, 5))
        if x < 0 or x >= room:
            low = x < 0
            x = 0 if low else room - 1
            if deterministic:
                dx = -dx
            else:
                dx = int(rng.integers(1, 5)) if low else int(rng.integers(-4, 0))
                dy = int(rng.integers(-4, 5))
        states.append((x, y, dx, dy))
        x, y = x + dx, y + dy
    return states


def render(states: DigitStates, glyphs: Glyphs, size: int) -> Float[np.ndarray, "t 1 h w"]:
    """Frames in [-1, 1]: glyphs added onto black, limited to white. Pure."""
    t, n = states.position.shape[:2]
    frames = np.zeros((t, 1, size, size), np.float32)
    strokes = glyphs.images[states.glyph].astype(np.float32) * np.float32(2 / 255)
    for frame, places in zip(frames[:, 0], states.position.tolist(), strict=True):
        for (x, y), stroke in zip(places, strokes, strict=True):
            frame[y : y + GLYPH, x : x + GLYPH] += stroke
    if n > 1:
        np.minimum(frames, 2, out=frames)
    frames -= 1
    return frames


# -- the source -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MovingDigits:
    """Clip number `index` of an endless set: a function of the fields and the index alone.

    `glyphs` is a folder with MNIST's idx files; None takes the digits of the package. The same index in
    another split is another clip, of other glyphs.
    """

    split: Literal["train", "valid", "test"] = "train"
    num_frames: int = 20
    size: int = 64  # pixels
    num_digits: int = 2
    seed: int = 0
    deterministic: bool = False
    glyphs: Path | str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.num_frames < 1 or self.num_digits < 1:
            raise ValueError(f"at least one frame and one digit, not {self.num_frames} and {self.num_digits}")
        if self.size <= GLYPH:
            raise ValueError(f"frames wider than a digit's {GLYPH} pixels, not {self.size}")
        if self.seed < 0:
            raise ValueError(f"seed is 0 or more, not {self.seed}")
        if self.glyphs is not None and not Path(self.glyphs).is_dir():
            raise ValueError(f"glyphs is a folder with MNIST's idx files; there is none at {self.glyphs}")

    @property
    def channels(self) -> int:
        return 1

    def drawings(self) -> Glyphs:
        """The glyphs of this split (loaded once per process)."""
        if self.glyphs is None:
            return uci_glyphs(self.split)
        return mnist_glyphs(Path(self.glyphs).resolve(), self.split)

    def states(self, index: int) -> DigitStates:
        """Where every digit is, exactly."""
        if index < 0:
            raise ValueError(f"clips are numbered from 0, not {index}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        labels, room = self.drawings().labels, self.size - GLYPH
        glyph, paths = [], []
        for _ in range(self.num_digits):
            glyph.append(int(rng.integers(len(labels))))
            x, y = rng.integers(room, size=2).tolist()
            dx, dy = rng.integers(-4, 5, size=2).tolist()
            paths.append(move(x, y, dx, dy, self.num_frames, room, self.deterministic, rng))
        path = np.array(paths).transpose(1, 0, 2)
        return DigitStates(path[..., :2], path[..., 2:], np.array(glyph), labels[glyph].astype(np.int64))

    def __call__(self, index: int) -> Clip:
        frames = render(self.states(index), self.drawings(), self.size)
        return of_frames(torch.from_numpy(frames)[None, None])
