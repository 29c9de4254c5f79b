"""The read-out: where things are, from pixels alone.

A pixel takes the nearest of the colours that the scene may show, or none where all are far; an object is where its
colour is. What is missing counts as FAR away: it is never left out and never guessed. An object painted in many
places is not found, because there is too much of its colour.

Sections: reading - errors - colours at a place - colour tables - components.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from maskworld.data.discs import AGENT, PALETTE
from maskworld.probes.base import HELD_OUT
from maskworld.probes.scenes import TOLERANCE
from maskworld.probes.stage import VIEW, Numbers, Track, visible

FAR = 16.0  # pixels: a quarter of the view, and the error of what is missing
REJECT = 0.30  # distance in RGB, 0..1, beyond which a pixel shows no known colour
AREA = (0.4, 2.2)  # of an object's full area: with less or more of its colour it is not found
CORE = 0.05  # of an object's full area, which must be in its own colour and not blended with the ground
SPECK = 12.0  # square pixels: a colour that does not belong counts if there is more of it
SCORED = 0.8  # share of an object that must be visible for its place to be asked

# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What was seen of each object of a track, in their order; pixels are those of a 64 x 64 view.

    centre     place in the view, NaN where the object was not found
    area       square pixels of its colour (of the piece that was taken for it, where objects share a colour)
    found      whether it is there: neither too little nor too much of it
    spurious   how many colours are in the picture that the scene never has
    """

    centre: Float[np.ndarray, "t n 2"]
    area: Float[np.ndarray, "t n"]
    found: Bool[np.ndarray, "t n"]
    spurious: Int[np.ndarray, " t"]


def read(frames: UInt8[np.ndarray, "t h w 3"], track: Track) -> Reading:
    """Looks for the objects of a track, frame by frame: each in the colour that it has in that frame.

    The track also says what else may be there (scenery, background). Its places are used only to tell objects
    of one colour apart.

    Raises:
        ValueError: not as many frames as the track has, or frames that are not square.
    """
    t, height, width = frames.shape[:3]
    if t != track.num_frames or height != width:
        raise ValueError(f"{t} frames of {height} x {width} are read as {track.num_frames} square ones")
    unit = height / VIEW
    objects = track.objects
    colours = np.round(track.colour, 4)
    ground = np.round(track.background, 4)
    always = np.unique(np.concatenate([colours.reshape(-1, 3), ground[None]]), axis=0)
    strange = np.array([colour for colour in KNOWN if not _near(colour, always)]).reshape(-1, 3)
    full = np.where(track.box, 4 * track.half.prod(1), np.pi * track.half[:, 0] ** 2)[objects]
    truth = (track.position - track.camera[:, None])[:, objects]
    shown = track.shown[:, objects]
    heads, head_of = _runs(frames, colours)
    centre, spurious = np.full((t, len(objects), 2), np.nan), np.zeros(t, dtype=np.int64)
    area, core = np.zeros((2, t, len(objects)))
    sets, set_of = np.unique(colours[heads].reshape(len(heads), -1), axis=0, return_inverse=True)
    for number, row in enumerate(sets):
        mine = heads[set_of.reshape(-1) == number]  # the frames in which these colours are looked for
        wanted, label_of = np.unique(row.reshape(-1, 3)[objects], axis=0, return_inverse=True)
        table = _table(*(np.ascontiguousarray(x).tobytes() for x in (wanted, strange, always, ground)))
        labels = _settled(table[_codes(frames[mine])], reach=round(3 * unit))
        places, sizes, cores = _moments(labels, 1 + len(wanted) + len(strange))
        spurious[mine] = _strangers(labels, sizes, range(1 + len(wanted), sizes.shape[1]), unit)
        for label in range(len(wanted)):
            those = np.nonzero(label_of.reshape(-1) == label)[0]
            if len(those) == 1:
                here = np.isin(head_of, mine)
                of = np.searchsorted(mine, head_of[here])
                centre[here, those[0]] = (places[of, 1 + label] + 0.5) / unit
                area[here, those[0]] = sizes[of, 1 + label] / unit**2
                core[here, those[0]] = cores[of, 1 + label] / unit**2
                continue
            for head, picture in zip(mine.tolist(), labels, strict=True):
                pieces = _components(picture, 1 + label, unit)
                for i in np.nonzero(head_of == head)[0].tolist():  # the pictures are equal, the truths may differ
                    centre[i, those], area[i, those], core[i, those] = _matched(
                        pieces, truth[i, those], full[those], shown[i, those]
                    )
    found = (area >= AREA[0] * full) & (area <= AREA[1] * full) & (core >= CORE * full)
    return Reading(np.where(found[..., None], centre, np.nan), area, found, spurious[head_of])


def _runs(
    frames: UInt8[np.ndarray, "t h w 3"], colours: Float[np.ndarray, "t n 3"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " t"]]:
    """The frames that are not as the one before them (or have other colours to find), and which each frame equals."""
    new = np.ones(len(frames), dtype=bool)
    new[1:] = (frames[1:] != frames[:-1]).any((1, 2, 3)) | (colours[1:] != colours[:-1]).any((1, 2))
    heads = np.nonzero(new)[0]
    return heads, heads[np.cumsum(new) - 1]


# -- errors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """How far each object was from where it should be.

    distance   pixels, at most FAR; FAR where it was not found
    scored     whether its place is asked at all: more than SCORED of it can be seen in the truth
    located    found within TOLERANCE
    """

    distance: Float[np.ndarray, "t n"]
    scored: Bool[np.ndarray, "t n"]
    located: Bool[np.ndarray, "t n"]


def errors(reading: Reading, track: Track) -> Errors:
    """A reading against the truth, which is the track itself."""
    objects = track.objects
    truth = (track.position - track.camera[:, None])[:, objects]
    distance = np.linalg.norm(reading.centre - truth, axis=-1)
    distance = np.where(reading.found, np.minimum(distance, FAR), FAR)
    return Errors(
        distance=distance,
        scored=visible(track)[:, objects] > SCORED,
        located=reading.found & (distance <= TOLERANCE),
    )


# -- colours at a place ---------------------------------------------------------------------------


def colour_at(
    frame: UInt8[np.ndarray, "h w 3"],
    place: Numbers,
    radius: float | int,
    colours: Float[np.ndarray, "m 3"],
) -> int | None:
    """Which of the colours fills most of a disc of the view; None if none covers a fifth of it."""
    unit = frame.shape[0] / VIEW
    x, y = np.asarray(place, dtype=np.float64) * unit
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    inside = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= (radius * unit) ** 2
    pixels = frame[inside].astype(np.float64) / 255
    if not len(pixels) or not len(colours):
        return None
    far = np.linalg.norm(pixels[:, None] - np.asarray(colours, dtype=np.float64), axis=-1)
    counts = np.bincount(far.argmin(1)[far.min(1) <= REJECT], minlength=len(colours))
    best = int(counts.argmax())
    return best if counts[best] >= 0.2 * len(pixels) else None


# -- colour tables --------------------------------------------------------------------------------

BITS = 5  # of each channel: pixels that agree in them take the same colour
PURE = 128  # added to a label where a pixel is near the colour itself, and not only near a blend of it
KNOWN = np.array([*PALETTE, *HELD_OUT, AGENT])


def _near(colour: Float[np.ndarray, " 3"], colours: Float[np.ndarray, "n 3"]) -> bool:
    return bool((np.linalg.norm(colours - colour, axis=1) < REJECT - 0.01).any())


@functools.lru_cache(maxsize=256)
def _table(wanted: bytes, strange: bytes, always: bytes, ground: bytes) -> UInt8[np.ndarray, " codes"]:
    """The label of every colour: 1.. for those wanted, then the strange ones; 0 for all else, known or not.

    A rim, or a whole disc that was blurred, blends a colour with the ground and passes on the way by other colours
    (dark magenta is near purple, dark pink near brown). So the blends are prototypes too: from one half on they
    belong to the colour, below to the ground.
    """
    want, odd, rest, floor = (np.frombuffer(x).reshape(-1, 3) for x in (wanted, strange, always, ground))
    points = [(colour, 0, colour) for colour in rest if not (want == colour).all(1).any()]
    points += [(colour, 1 + len(want) + k, colour) for k, colour in enumerate(odd)]
    for k, colour in enumerate(want):
        points += [(s * colour + (1 - s) * floor[0], (1 + k) * (s > 0.5), colour) for s in (0.2, 0.4, 0.6, 0.8, 1.0)]
    levels = ((np.arange(1 << BITS) << (8 - BITS)) + ((1 << (8 - BITS)) - 1) / 2).astype(np.float32) / 255
    red, green, blue = levels[:, None, None], levels[:, None], levels

    def squares(point: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "r g b"]:
        r, g, b = point.astype(np.float32)
        return (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2

    nearest = np.full((1 << BITS,) * 3, REJECT**2, dtype=np.float32)
    labels = np.zeros(nearest.shape, dtype=np.uint8)
    for point, label, colour in points:
        far = squares(point)
        nearer = far < nearest
        nearest[nearer] = far[nearer]
        labels[nearer] = label + PURE * (squares(colour)[nearer] < REJECT**2) if label else 0
    return labels.reshape(-1)


def _codes(frames: UInt8[np.ndarray, "t h w 3"]) -> Int[np.ndarray, "t h w"]:
    red, green, blue = ((frames[..., axis] >> (8 - BITS)).astype(np.int32) for axis in range(3))
    return (red << (2 * BITS)) | (green << BITS) | blue


def _settled(labels: UInt8[np.ndarray, "t h w"], reach: int) -> UInt8[np.ndarray, "t h w"]:
    """Takes the label from pixels that cannot be part of a thing.

    Those are noise that share it with fewer than two of their eight neighbours, and blends that lead to no pure pixel
    within `reach` steps: they are rims of something else (of the grey of a wall, on the way to white).
    """
    t, height, width = labels.shape
    row = width + 2
    padded = np.zeros((t, height + 2, row), dtype=np.uint8)
    padded[:, 1:-1, 1:-1] = labels
    flat = padded.reshape(-1)
    steps = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    used = np.flatnonzero(flat)
    alike = np.zeros(len(used), dtype=np.uint8)
    plain = flat % PURE
    for step in steps:
        alike += plain[used + step] == plain[used]
    flat[used[alike < 2]] = 0
    rims = used[(alike >= 2) & (flat[used] < PURE)]
    led = np.where(flat >= PURE, plain, 0)
    for _ in range(reach):
        leads = (led[rims[:, None] + steps] == flat[rims, None]).any(1)
        led[rims[leads]] = flat[rims[leads]]
        rims = rims[~leads]
        if not leads.any() or not len(rims):
            break
    flat[rims] = 0
    return padded[:, 1:-1, 1:-1]


def _moments(
    labels: UInt8[np.ndarray, "t h w"], count: int
) -> tuple[Float[np.ndarray, "t count 2"], Int[np.ndarray, "t count"], Int[np.ndarray, "t count"]]:
    """Of each label in each frame: mean column and row (NaN where there is none), how many pixels, how many pure."""
    t, height, width = labels.shape
    used = np.flatnonzero(labels)
    value = labels.reshape(-1)[used]
    frame, pixel = used // (height * width), used % (height * width)
    key = frame * count + value % PURE
    sizes = np.bincount(key, minlength=t * count).reshape(t, count)
    cores = np.bincount(key[value >= PURE], minlength=t * count).reshape(t, count)
    sums = [np.bincount(key, weights, t * count).reshape(t, count) for weights in (pixel % width, pixel // width)]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, -1) / sizes[..., None], sizes, cores


# -- components -----------------------------------------------------------------------------------


def _strangers(
    labels: UInt8[np.ndarray, "t h w"], sizes: Int[np.ndarray, "t count"], strange: range, unit: float
) -> Int[np.ndarray, " t"]:
    """How many of the labels are in each frame. Thin lines do not count: they are where two other colours blend."""
    found = np.zeros(len(labels), dtype=np.int64)
    block = np.ones((2 * round(unit) + 1,) * 2, dtype=bool)
    for label in strange:
        for i in np.nonzero(sizes[:, label] > SPECK * unit**2)[0].tolist():
            solid = ndimage.binary_opening(labels[i] % PURE == label, block)
            found[i] += int(solid.sum() > SPECK * unit**2)
    return found


_Pieces = tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]


def _components(labels: UInt8[np.ndarray, "h w"], label: int, unit: float) -> _Pieces:
    """The connected pieces of one label, in pixels of the view: their centres, areas and pure areas."""
    pieces = np.empty(labels.shape, dtype=np.int32)
    ndimage.label(labels % PURE == label, output=pieces)
    count = int(pieces.max())
    rows, columns = np.nonzero(pieces)
    of = pieces[rows, columns] - 1
    sizes = np.bincount(of, minlength=count)
    cores = np.bincount(of[labels[rows, columns] >= PURE], minlength=count)
    centres = np.stack([np.bincount(of, weights, count) for weights in (columns, rows)], 1) / sizes[:, None]
    return (centres + 0.5) / unit, sizes / unit**2, cores / unit**2


def _matched(
    pieces: _Pieces, truth: Float[np.ndarray, "n 2"], full: Float[np.ndarray, " n"], shown: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Which piece is which object: the least distance in all, none more than FAR off and none of a wrong size.

    No object is found where there is more of the colour than all the objects that are there could have.
    """
    place, size, pure = pieces
    centre, area, core = np.full((len(truth), 2), np.nan), np.zeros(len(truth)), np.zeros(len(truth))
    if not len(place) or size.sum() > AREA[1] * full[shown].sum():
        return centre, area, core
    distance = np.linalg.norm(truth[:, None] - place, axis=-1)
    share = size / full[:, None]
    fits = (distance <= FAR) & (share >= AREA[0]) & (share <= AREA[1]) & shown[:, None]
    for i, k in np.transpose(linear_sum_assignment(np.where(fits, distance, 1e3))).tolist():
        if fits[i, k]:
            centre[i], area[i], core[i] = place[k], size[k], pure[k]
    return centre, area, core
