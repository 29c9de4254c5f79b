"""Clips to look at: videos side by side, strips of frames laid out in time, and sprites for the page.

Every frame says how the model came by it: green was given, orange the model filled in, and a border of both
marks a frame of which a part was given. Frames that no model was asked about, such as the truth, have none.

Sections: rows - drawing - strips - films - sprites - files.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from maskworld.clip import to_uint8

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# -- rows -----------------------------------------------------------------------------------------

State = Literal["given", "filled", "partly", "plain"]
"""How a frame came about: given to the model, filled in by it, a part of both, or not its doing."""

Colour = tuple[int, int, int]

# A green and an orange that stay apart for eyes that do not tell red from green.
GIVEN: Colour = (0, 158, 115)
FILLED: Colour = (232, 113, 10)


@dataclass(frozen=True, eq=False)
class Row:
    """One video and its name. `known` is True where a frame, or a cell of its mask grid, was given.

    Frames are grey (c = 1) or colour (c = 3), 0 to 255.
    """

    label: str
    frames: UInt8[np.ndarray, "t h w c"]
    known: Bool[np.ndarray, " _"] | Bool[np.ndarray, "_ gh gw"] | None = None

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if 0 in shape or shape[-1] not in (1, 3):
            raise ValueError(f"'{self.label}' wants at least one frame of 1 or 3 channels, not {shape}")
        if self.known is None:
            return
        if len(self.known) != len(self.frames):
            raise ValueError(f"'{self.label}' has {len(self.frames)} frames, but {len(self.known)} say what is known")
        if self.known.ndim == 3 and (shape[1] % self.known.shape[1] or shape[2] % self.known.shape[2]):
            grid = "{}x{}".format(*self.known.shape[1:])
            raise ValueError(f"'{self.label}': a mask grid of {grid} does not divide frames of {shape[1]}x{shape[2]}")

    @classmethod
    def of(cls, label: str, frames: Float[Tensor, "t c h w"], known: Bool[Tensor, "t gh gw"] | None = None) -> Row:
        """One view of one example, in [-1, 1]: `Row.of("sample", clip.frames[b, v], known[b, v])`."""
        bytes_ = to_uint8(frames.detach()).cpu().numpy()
        return cls(label, bytes_, None if known is None else known.cpu().numpy())


def states(row: Row) -> list[State]:
    """How each frame of a row came about."""
    if row.known is None:
        return ["plain"] * len(row.frames)
    share = row.known.reshape(len(row.frames), -1).mean(1)
    return ["given" if s == 1 else "filled" if s == 0 else "partly" for s in share]


def hide(row: Row, label: str) -> Row:
    """What the model was shown: as `row`, and a chequered grey wherever nothing was given."""
    if row.known is None:
        raise ValueError(f"'{row.label}' does not say what is known, so nothing can be hidden")
    t, h, w, _ = row.frames.shape
    grid = row.known.reshape(t, *(row.known.shape[1:] or (1, 1)))
    known = grid.repeat(h // grid.shape[1], 1).repeat(w // grid.shape[2], 2)
    side = max(1, min(h, w) // 16)
    y, x = np.mgrid[:h, :w] // side
    chequer = np.where((y + x) % 2 == 0, 118, 138).astype(np.uint8)
    return Row(label, np.where(known[..., None], row.frames, chequer[None, :, :, None]), row.known)


def beside(label: str, rows: Sequence[Row]) -> Row:
    """Several views of one video as one row: from left to right, without gaps.

    Raises ValueError where of some of them it is said what is known, and of others not.
    """
    _check(rows)
    grids = [row.known for row in rows if row.known is not None]
    known = [grid.reshape(len(grid), *(grid.shape[1:] or (1, 1))) for grid in grids]
    if 0 < len(known) < len(rows):
        raise ValueError(f"'{label}': what is known is said of {len(known)} of its {len(rows)} views")
    frames = np.concatenate([row.frames for row in rows], axis=2)
    return Row(label, frames, np.concatenate(known, axis=2) if known else None)


def _check(rows: Sequence[Row]) -> tuple[int, int, int]:
    """(t, h, w): the length of the longest row, and the size of a frame, which all must share."""
    if not rows:
        raise ValueError("no rows to show")
    sizes = {row.frames.shape[1:3] for row in rows}
    if len(sizes) > 1:
        raise ValueError(
            "all rows want frames of one size, not "
            + ", ".join(f"{row.label} {row.frames.shape[1]}x{row.frames.shape[2]}" for row in rows)
        )
    h, w = sizes.pop()
    return max(len(row.frames) for row in rows), h, w


def _check_scale(scale: int) -> int:
    if scale < 1:
        raise ValueError(f"frames are enlarged by a whole number from 1, not {scale}")
    return scale


# -- drawing --------------------------------------------------------------------------------------

BORDER = 3  # pixels around every frame, in the colour of its state
GAP = 4  # pixels between frames
MARGIN = 10  # pixels around everything
LINE = 18  # pixels in height for a line of text


def _rgb(frame: UInt8[np.ndarray, "h w c"], scale: int) -> UInt8[np.ndarray, "H W 3"]:
    """In colour, and enlarged without smoothing, so that small frames stay crisp."""
    return np.broadcast_to(frame, (*frame.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)


def _put(
    image: UInt8[np.ndarray, "H W k"],
    frame: UInt8[np.ndarray, "h w 3"],
    state: State,
    top: int,
    left: int,
    border: int,
) -> None:
    """Lay a frame into an image, with its border; (top, left) is the border's corner."""
    bottom, right = top + frame.shape[0] + 2 * border, left + frame.shape[1] + 2 * border
    if state != "plain":
        opaque = [255] * (image.shape[-1] - 3)
        image[top:bottom, left:right] = [*(FILLED if state == "filled" else GIVEN), *opaque]
    if state == "partly":
        image[bottom - border : bottom, left:right] = [*FILLED, *opaque]
        image[top:bottom, right - border : right] = [*FILLED, *opaque]
    inside = image[top + border : bottom - border, left + border : right - border]
    inside[..., :3] = frame
    inside[..., 3:] = 255


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _width(text: str, font: FreeTypeFont | ImageFont) -> int:
    return int(np.ceil(font.getlength(text)))


def _elide(text: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    """As much of the text as fits."""
    if _width(text, font) <= width:
        return text
    while text and _width(text + "...", font) > width:
        text = text[:-1].rstrip()
    return text + "..."


# -- strips ---------------------------------------------------------------------------------------


def strip(
    rows: Sequence[Row],
    *,
    scale: int | None = None,
    most: int = 16,
    paper: Colour | None = (255, 255, 255),
    dense: int = 1,
) -> UInt8[np.ndarray, "H W 4"]:
    """A still picture: each row's frames from left to right in time, its name before it, numbers above.

    Without a `scale`, frames are enlarged to about 64 pixels. Of more than `most` frames, that many are
    shown, evenly spaced from the first to the last. A `paper` of None is transparent, under ink for light and
    dark. With `dense` at 2 all is twice as large, to be shown at half its size on screens of fine pixels.
    """
    from PIL import Image, ImageDraw

    t, h, w = _check(rows)
    if most < 1:
        raise ValueError(f"a strip shows at least one frame, not {most}")
    scale = max(1, round(dense * 64 / max(h, w))) if scale is None else dense * _check_scale(scale)
    shown = np.linspace(0, t - 1, min(t, most)).round().astype(int)
    font, small = _font(13 * dense), _font(10 * dense)

    border, gap, margin, line = (dense * size for size in (BORDER, GAP, MARGIN, LINE))
    names = max(_width(row.label, font) for row in rows)
    across, down = w * scale + 2 * border, h * scale + 2 * border
    left, top = margin + (names + margin if names else 0), margin + line
    size = (
        top + len(rows) * (down + gap) - gap + margin,
        left + len(shown) * (across + gap) - gap + margin,
    )
    image = np.zeros((*size, 4), np.uint8)
    ink, faint = ((125, 129, 135), (125, 129, 135)) if paper is None else _inks(paper)
    image[..., :3] = ink if paper is None else paper  # under transparency: no foreign fringe around letters
    image[..., 3] = 0 if paper is None else 255

    for r, row in enumerate(rows):
        how = states(row)
        for column, i in enumerate(shown):
            if i < len(row.frames):
                y, x = top + r * (down + gap), left + column * (across + gap)
                _put(image, _rgb(row.frames[i], scale), how[i], y, x, border)

    canvas = Image.fromarray(image)
    words = Image.new("RGBA", canvas.size, (*ink, 0))
    pen = ImageDraw.Draw(words)
    for r, row in enumerate(rows):
        middle = top + r * (down + gap) + down / 2
        pen.text((margin, middle), row.label, (*ink, 255), font, anchor="lm")
    for column, i in enumerate(shown):
        middle = left + column * (across + gap) + across / 2
        pen.text((middle, margin + line / 2 - 2), str(i), (*faint, 255), small, anchor="mm")
    return np.asarray(Image.alpha_composite(canvas, words))


def _inks(paper: Colour) -> tuple[Colour, Colour]:
    """Ink for names and for numbers on this paper."""
    return ((40, 42, 46), (140, 144, 150)) if sum(paper) > 382 else ((226, 227, 229), (140, 144, 150))


def strip_png(
    rows: Sequence[Row], path: Path | str, *, scale: int | None = None, most: int = 16, force: bool = False
) -> None:
    """`strip` as a PNG file. Raises ValueError where the file exists, unless `force`."""
    write_whole(path, png(strip(rows, scale=scale, most=most)), force=force)


# -- films ----------------------------------------------------------------------------------------


def film(
    rows: Sequence[Row], *, scale: int | None = None, paper: Colour = (18, 19, 22), across: int | None = None
) -> UInt8[np.ndarray, "t H W 3"]:
    """Videos side by side with their names above, as frames of one video; H and W are even, as H.264 asks.

    All stand in one line, or `across` of them in each. Without a `scale`, frames are enlarged to about 192 pixels. A
    row that ends before the others goes blank.
    """
    from PIL import Image, ImageDraw

    t, h, w = _check(rows)
    scale = max(1, round(192 / max(h, w))) if scale is None else _check_scale(scale)
    font = _font(14)
    columns = len(rows) if across is None else min(across, len(rows))
    if columns < 1:
        raise ValueError(f"at least one video stands in a line, not {across}")
    wide, down = w * scale + 2 * BORDER, h * scale + 2 * BORDER
    top = MARGIN + LINE + 2
    width = 2 * MARGIN + columns * (wide + MARGIN) - MARGIN
    height = -(-len(rows) // columns) * (top + down) + MARGIN

    def corner(r: int) -> tuple[int, int]:
        """Where a row begins with its name: the top of its line, and its left."""
        return r // columns * (top + down), MARGIN + r % columns * (wide + MARGIN)

    still = Image.new("RGB", (width + width % 2, height + height % 2), paper)
    pen = ImageDraw.Draw(still)
    for r, row in enumerate(rows):
        line, left = corner(r)
        name = _elide(row.label, font, wide)
        pen.text((left, line + MARGIN + LINE / 2 - 2), name, _inks(paper)[0], font, anchor="lm")

    video = np.asarray(still)[None].repeat(t, 0)
    for r, row in enumerate(rows):
        for i, state in enumerate(states(row)):
            line, left = corner(r)
            _put(video[i], _rgb(row.frames[i], scale), state, line + top, left, BORDER)
    return video


# -- sprites --------------------------------------------------------------------------------------

LOSSLESS_UP_TO = 300_000  # bytes of one image; toy worlds stay far below, camera video does not
_WEBP_SIDE = 16_383  # pixels, the format's limit


class Sprite(NamedTuple):
    """All frames of a row in one image, `columns` to a line, in reading order: any browser can show it."""

    webp: bytes
    columns: int


def sprite(row: Row, weight: int | None = None) -> Sprite:
    """A row's frames as one image of about this `weight` at most, in bytes (see `webp`).

    Raises ValueError where they are too many or too large for its format.
    """
    t, h, w, _ = row.frames.shape
    columns = min(t, int(np.ceil(np.sqrt(t * h / w))))
    lines = -(-t // columns)
    if max(columns * w, lines * h) > _WEBP_SIDE:
        raise ValueError(f"'{row.label}': {t} frames of {h}x{w} are too many for one image; show fewer or smaller")
    sheet = np.zeros((lines * h, columns * w, 3), np.uint8)
    for i, frame in enumerate(row.frames):
        y, x = i // columns * h, i % columns * w
        sheet[y : y + h, x : x + w] = frame
    return Sprite(webp(sheet, weight), columns)


def webp(image: UInt8[np.ndarray, "h w k"], weight: int | None = None) -> bytes:
    """Colour, with or without alpha, as WebP: exact, or at quality 88 where that would be over LOSSLESS_UP_TO.

    With a `weight`, exact up to that many bytes, else of the best quality that fits; the least, 40, where none does.
    """
    from PIL import Image

    picture, out = Image.fromarray(image), io.BytesIO()
    exact_up_to = LOSSLESS_UP_TO if weight is None else min(weight, LOSSLESS_UP_TO)
    # Exact WebP is slow where it is large, so first a guess from every eighth line; it comes out at a fifth to
    # two thirds of zlib's size.
    if 8 * len(zlib.compress(image[::8].tobytes(), 1)) <= 3 * exact_up_to:
        picture.save(out, "WEBP", lossless=True, quality=70, method=4, exact=True)
        if out.tell() <= exact_up_to:
            return out.getvalue()
    for quality in (88,) if weight is None else (88, 75, 60, 40):
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=quality, method=2)
        if weight is not None and out.tell() <= weight:
            break
    return out.getvalue()


# -- files ----------------------------------------------------------------------------------------


def png(image: UInt8[np.ndarray, "h w k"]) -> bytes:
    """A grey, colour, or colour-and-alpha image as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(out, "PNG")
    return out.getvalue()


def write_whole(path: Path | str, content: bytes, *, force: bool = False) -> None:
    """Write a file that is there whole or not at all: beside its place first, then renamed into it.

    Makes the folder where there is none. Raises ValueError where the file exists, unless `force`.
    """
    path = Path(path)
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; it is only written over when forced")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
