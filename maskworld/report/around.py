"""What is around a car: depth in colours, and a map seen from above, ahead up and the left at the left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt8

if TYPE_CHECKING:
    from maskworld.report.film import Colour

# -- depth ----------------------------------------------------------------------------------------

_NEAR, _FAR = 2.0, 80.0  # metres, of the colours of depth
_COLOURS = np.array(
    [
        [255, 245, 190],
        [250, 200, 95],
        [240, 140, 70],
        [210, 80, 90],
        [150, 50, 120],
        [85, 35, 125],
        [25, 20, 75],
    ],
    float,
)
"""From near to far."""


def depth_colours(depth: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Depth in metres, on a logarithmic scale from 2 (bright) to 80 m (dark); grey where there is none (0)."""
    share = np.log(np.clip(depth, _NEAR, _FAR) / _NEAR) / np.log(_FAR / _NEAR) * (len(_COLOURS) - 1)
    low = np.minimum(share.astype(int), len(_COLOURS) - 2)
    part = (share - low)[..., None]
    colour = (1 - part) * _COLOURS[low] + part * _COLOURS[low + 1]
    return np.where((depth > 0)[..., None], colour, 225).round().astype(np.uint8)


# -- from above -----------------------------------------------------------------------------------

_BLANK: Colour = (238, 236, 230)
_GROUND: Colour = (226, 230, 214)
_LAYERS: tuple[Colour, ...] = ((176, 176, 178), (252, 250, 235), (46, 98, 160))  # road, marks, cars
_KINDS: tuple[tuple[str, Colour], ...] = (
    ("car", (46, 98, 160)),
    ("vehicle", (46, 98, 160)),
    ("walker", (205, 75, 60)),
    ("human", (205, 75, 60)),
    ("tree", (96, 150, 90)),
    ("building", (170, 160, 150)),
)
_ROUND = ("walker", "human", "tree")


class Above:
    """A square map of what is around, to be drawn on. Places are metres ahead and to the left of the car."""

    def __init__(self, extent: tuple[float, float, float, float], side: int = 480):
        """`extent`: from and to, ahead; from and to, to the left. `side`: pixels."""
        from PIL import Image, ImageDraw

        self.extent, self.side = extent, side
        self.scale = side / (extent[1] - extent[0])
        self._picture = Image.new("RGB", (side, side), _BLANK)
        self._pen = ImageDraw.Draw(self._picture)

    @property
    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        return np.array(self._picture)

    def _at(self, places: Float[np.ndarray, "n 2"]) -> list[tuple[float, float]]:
        return [((self.extent[3] - y) * self.scale, (self.extent[1] - x) * self.scale) for x, y in places.tolist()]

    def paint(self, colours: UInt8[np.ndarray, "gx gy 3"]) -> None:
        """Cells in colours, the first at the least of the extent."""
        from PIL import Image

        whole = Image.fromarray(np.ascontiguousarray(colours[::-1, ::-1]))
        self._picture.paste(whole.resize((self.side, self.side), Image.Resampling.NEAREST))

    def ground(self, bev: Bool[np.ndarray, "layer gx gy"]) -> None:
        """Road, marks of lanes, cars."""
        colours = np.full((*bev.shape[1:], 3), _GROUND, np.uint8)
        for layer, colour in zip(bev, _LAYERS, strict=False):
            colours[layer] = colour
        self.paint(colours)

    def points(self, places: Float[np.ndarray, "n 2"]) -> None:
        for place in self._at(places):
            self._pen.point(place, (90, 90, 90))

    def box(self, kind: str, place: Float[np.ndarray, " 2"], size: tuple[float, float], yaw: float) -> None:
        """A thing of so many metres along and across, turned by `yaw`; what is round is at least large enough to see.
        A kind without a name (``""``) is an outline."""
        colour = next((colour for start, colour in _KINDS if kind.startswith(start)), (140, 110, 160))
        l, w = size[0] / 2, size[1] / 2
        if kind.startswith(_ROUND):
            ((x, y),) = self._at(place[None])
            radius = max(self.side / 96, l * self.scale)
            self._pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour, (255, 255, 255))
            return
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        corners = np.array([[l, w], [l, -w], [-l, -w], [-l, w]]) @ turn.T + place
        if kind:
            self._pen.polygon(self._at(corners), colour, (255, 255, 255))
        else:
            self._pen.line(self._at(np.concatenate([corners, corners[:1]])), (20, 20, 20), 2)

    def way(self, places: Float[np.ndarray, "n 2"]) -> None:
        if len(places) > 1:
            self._pen.line(self._at(places), (230, 130, 30), 3)

    def arrows(
        self, places: Float[np.ndarray, "n 2"], ways: Float[np.ndarray, "n 2"], colour: Colour = (200, 30, 60)
    ) -> None:
        """From each place, so many metres."""
        for (x, y), (u, v) in zip(self._at(places), self._at(places + ways), strict=True):
            self._pen.line((x, y, u, v), colour, 2)
            long = float(np.hypot(u - x, v - y))
            if long > 4:
                a, b = (u - x) / long, (v - y) / long
                head = min(6.0, long / 2)
                sides = [(u - head * (a + s * b), v - head * (b - s * a)) for s in (-0.5, 0.5)]
                self._pen.polygon([(u, v), *sides], colour)

    def car(self) -> None:
        """The car itself, at the origin."""
        self._pen.polygon(self._at(np.array([[3.5, 0.0], [-1.0, 1.2], [-1.0, -1.2]])), (20, 20, 20))
