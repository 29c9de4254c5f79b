"""Curves as SVG, drawn by hand: y over x with bands of uncertainty, each line named at its end.

An SVG of ours has no style sheet: its colours are custom properties of the page around it, with fallbacks
that read on light and dark, so that it also stands alone.

Sections: data - scales - drawing.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, NamedTuple

# -- data -----------------------------------------------------------------------------------------

Real = int | float


@dataclass(frozen=True)
class Series:
    """One line. `low` and `high` bound its band; a y that is not finite leaves a gap; baselines are dashed."""

    label: str
    x: Sequence[Real]
    y: Sequence[Real]
    low: Sequence[Real] | None = None
    high: Sequence[Real] | None = None
    baseline: bool = False

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"'{self.label}' has one side of a band; it wants both, low and high, or neither")
        lengths = {len(v) for v in (self.x, self.y, self.low, self.high) if v is not None}
        if len(lengths) > 1:
            raise ValueError(f"'{self.label}' has x, y, low and high of different lengths: {sorted(lengths)}")


@dataclass(frozen=True)
class Span:
    """A stretch of the x axis in the colour of frames that were given, or filled in."""

    start: Real
    stop: Real
    label: str
    state: Literal["given", "filled"] = "given"


@dataclass(frozen=True)
class Curve:
    """Several series over one pair of axes; `log_y` for what falls over decades."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    caption: str = ""
    spans: Sequence[Span] = ()
    log_y: bool = False

    def __post_init__(self) -> None:
        values = [y for s in self.series for x, y in zip(s.x, s.y, strict=True) if _finite(x, y)]
        if not values:
            raise ValueError(f"nothing to draw: no finite value of '{self.y_label}' over '{self.x_label}'")
        if self.log_y and min(values) <= 0:
            raise ValueError(f"a logarithmic axis wants '{self.y_label}' above zero, not {min(values):g}")


def _finite(*values: Real) -> bool:
    return all(math.isfinite(v) for v in values)


# -- scales ---------------------------------------------------------------------------------------


def ticks(low: Real, high: Real, about: int) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that enclose [low, high]."""
    if high <= low:
        pad = abs(low) / 10 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, about)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: Real, high: Real) -> list[float]:
    """Powers of ten around [low, high]; within two decades also 2 and 5 times them."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    each = (1,) if last - first > 2 else (1, 2, 5)
    every = max(1, (last - first) // 6)
    marks = [float(f"{m}e{p}") for p in range(first, last + 1, every) for m in each]
    below, above = [m for m in marks if m <= low * 1.0001], [m for m in marks if m >= high * 0.9999]
    start, stop = below[-1] if below else low, above[0] if above else high
    return [m for m in marks if start <= m <= stop]


def number(value: Real) -> str:
    """A tick's value, as short as it stays readable: 20k, 0.25, 3e-05."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.3g}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.5g}".replace("-", "\N{MINUS SIGN}")


class _Axis(NamedTuple):
    """A map from values to pixels, and the ticks on it."""

    marks: list[float]
    low: Real
    high: Real
    from_: Real
    to: Real
    log: bool = False

    def __call__(self, value: Real) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.from_ + (value - low) / (high - low) * (self.to - self.from_)


# -- drawing --------------------------------------------------------------------------------------

# Mid tones that read on white and on black; a page sets --line-0 and so on for its own light and dark.
COLOURS = ("#3f7fe0", "#c4559c", "#17918f", "#8b6be0", "#a37c12", "#d2524a")
_INK, _FAINT, _HAIR = "var(--ink-2, #7b8087)", "var(--ink-3, #8d9299)", "var(--hair, #8884)"
_TEXT = 12  # pixels
_PER_LETTER = 6.3  # pixels of width, on average at this size


def _colour(curve: Curve, index: int) -> str:
    if curve.series[index].baseline:
        return _FAINT
    order = sum(not s.baseline for s in curve.series[:index]) % len(COLOURS)
    return f"var(--line-{order}, {COLOURS[order]})"


def svg(curve: Curve, width: int = 640, height: int = 300) -> str:
    """The curve as one <svg> element of this size in pixels; it scales with its surroundings.

    Lines are named at their ends where there is room, else above the plot.
    """
    xs = [x for s in curve.series for x, y in zip(s.x, s.y, strict=True) if _finite(x, y)]
    xs += [edge for span in curve.spans for edge in (span.start, span.stop)]
    ys = [
        v for s in curve.series for values in (s.y, s.low, s.high) if values is not None for v in values if _finite(v)
    ]
    ys = [v for v in ys if v > 0] if curve.log_y else ys
    y_marks = log_ticks(min(ys), max(ys)) if curve.log_y else ticks(min(ys), max(ys), max(3, height // 60))
    x_marks = ticks(min(xs), max(xs), max(3, width // 70))

    names = max(len(s.label) for s in curve.series) * _PER_LETTER
    at_ends = width >= 480 and names < 0.34 * width
    legend = [] if at_ends else _legend(curve, width)
    left = 14 + max(len(number(m)) for m in y_marks) * _PER_LETTER
    right = width - (names + 18 if at_ends else 12)
    top, bottom = 30 + 17 * (legend[-1][2] + 1 if legend else 0), height - 38
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (x_marks[0], x_marks[-1])
    x_axis = _Axis([m for m in x_marks if x_low <= m <= x_high], x_low, x_high, left, right)
    y_low, y_high = min([*y_marks, *ys]), max([*y_marks, *ys])
    y_axis = _Axis(y_marks, y_low, y_high, bottom, top, curve.log_y)

    parts = _frame(curve, x_axis, y_axis, width)
    for i, index, line in legend:
        y = 34 + 17 * line
        parts.append(_stroke(curve, index, f"M{i:.1f} {y - 4}h16"))
        parts.append(_words(i + 22, y, curve.series[index].label, _INK))
    order = sorted(range(len(curve.series)), key=lambda i: not curve.series[i].baseline)  # baselines below
    for index in order:
        parts += _series(curve, index, x_axis, y_axis)
    if at_ends:
        parts += _end_labels(curve, x_axis, y_axis)
    name = f"{curve.y_label} over {curve.x_label}: " + ", ".join(s.label for s in curve.series)
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="ui-sans-serif, system-ui, sans-serif" font-size="{_TEXT}" '
        f'aria-label="{escape(name)}" data-plot="{escape(_readings(curve, x_axis, y_axis))}">'
        + "".join(parts)
        + "</svg>"
    )


def _words(x: Real, y: Real, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _stroke(curve: Curve, index: int, path: str) -> str:
    dashed = ' stroke-dasharray="5 4" stroke-width="1.5"' if curve.series[index].baseline else ' stroke-width="2"'
    return (
        f'<path d="{path}" fill="none" stroke="{_colour(curve, index)}"{dashed} '
        'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _legend(curve: Curve, width: int) -> list[tuple[float, int, int]]:
    """(x, series, line) of each name above the plot, broken into lines."""
    places, x, line = [], 2.0, 0
    for index, series in enumerate(curve.series):
        room = 22 + len(series.label) * _PER_LETTER
        if x > 2 and x + room > width:
            x, line = 2.0, line + 1
        places.append((x, index, line))
        x += room + 16
    return places


def _frame(curve: Curve, x_axis: _Axis, y_axis: _Axis, width: int) -> list[str]:
    """Spans, grid, ticks and the names of the axes."""
    left, right, bottom, top = x_axis.from_, x_axis.to, y_axis.from_, y_axis.to
    parts = []
    for span in curve.spans:
        x, stop = x_axis(span.start), x_axis(span.stop)
        colour = "var(--given, #009e73)" if span.state == "given" else "var(--filled, #e8710a)"
        ink = f"var(--{span.state}-ink, {colour})"
        parts.append(
            f'<rect x="{x:.1f}" y="{top}" width="{stop - x:.1f}" height="{bottom - top}" '
            f'fill="{colour}" fill-opacity="0.09"/>'
        )
        if (stop - x) > len(span.label) * _PER_LETTER:
            parts.append(_words((x + stop) / 2, bottom - 8, span.label, ink, "middle"))
    for mark in y_axis.marks:
        y = y_axis(mark)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{_HAIR}"/>')
        parts.append(_words(left - 8, y + 4, number(mark), _FAINT, "end"))
    for mark in x_axis.marks:
        parts.append(_words(x_axis(mark), bottom + 17, number(mark), _FAINT, "middle"))
    parts.append(_words(2, 14, curve.y_label, _INK))
    parts.append(_words((left + right) / 2, bottom + 34, curve.x_label, _INK, "middle"))
    return parts


def _series(curve: Curve, index: int, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """Its band, its line, broken at gaps, and dots where there are few points."""
    series, colour = curve.series[index], _colour(curve, index)
    floor = y_axis.low  # a band that falls to zero ends at the edge of a logarithmic plot
    parts, lines, run = [], [], []
    for x, y in [*zip(series.x, series.y, strict=True), (math.nan, math.nan)]:
        if _finite(x, y):
            run.append(f"{x_axis(x):.1f} {y_axis(y):.1f}")
        elif run:
            lines.append("M" + "L".join(run) + ("h0" if len(run) == 1 else ""))
            run = []
    for stretch in _bands(series):
        above = [f"{x_axis(x):.1f} {y_axis(max(high, floor)):.1f}" for x, _, high in stretch]
        below = [f"{x_axis(x):.1f} {y_axis(max(low, floor)):.1f}" for x, low, _ in reversed(stretch)]
        parts.append(f'<path d="M{"L".join(above + below)}Z" fill="{colour}" fill-opacity="0.16"/>')
    if lines:
        parts.append(_stroke(curve, index, "".join(lines)))
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if _finite(x, y)]
    if len(points) <= 30 and not series.baseline:
        parts += [f'<circle cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="2.6" fill="{colour}"/>' for x, y in points]
    return parts


def _bands(series: Series) -> list[list[tuple[Real, Real, Real]]]:
    """Stretches of (x, low, high) without gaps."""
    if series.low is None or series.high is None:
        return []
    stretches: list[list[tuple[Real, Real, Real]]] = [[]]
    for point in zip(series.x, series.low, series.high, strict=True):
        if _finite(*point):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [s for s in stretches if len(s) > 1]


def _end_labels(curve: Curve, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """Each name beside its line's end, moved apart where they would touch."""
    ends = []
    for index, series in enumerate(curve.series):
        points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if _finite(x, y)]
        if points:
            x, y = max(points)
            ends.append([y_axis(y), x_axis(x), y_axis(y), index])
    ends.sort()
    for above, end in itertools.pairwise(ends):
        end[0] = max(end[0], above[0] + 15)
    limit = y_axis.from_ - 3  # above the ticks of x
    for end in reversed(ends):
        end[0] = min(end[0], limit)
        limit = end[0] - 15
    parts = []
    for y, x_end, y_end, index in ends:
        x = x_axis.to + 8
        if abs(y - y_end) > 4 or x - x_end > 12:
            parts.append(
                f'<path d="M{x_end + 4:.1f} {y_end:.1f}L{x - 2:.1f} {y:.1f}" fill="none" '
                f'stroke="{_colour(curve, index)}" stroke-opacity="0.4"/>'
            )
        parts.append(_words(x + 2, y + 4, curve.series[index].label, _colour(curve, index)))
    return parts


def _readings(curve: Curve, x_axis: _Axis, y_axis: _Axis) -> str:
    """What the page's script shows under the pointer: each point's place and its value in words."""
    series = []
    for index, s in enumerate(curve.series):
        places = [i for i, (x, y) in enumerate(zip(s.x, s.y, strict=True)) if _finite(x, y)]
        band = [
            f" [{s.low[i]:.4g}, {s.high[i]:.4g}]" if s.low is not None and s.high is not None else "" for i in places
        ]
        series.append(
            {
                "label": s.label,
                "colour": _colour(curve, index),
                "px": [round(x_axis(s.x[i]), 1) for i in places],
                "py": [round(y_axis(s.y[i]), 1) for i in places],
                "x": [f"{s.x[i]:.6g}" for i in places],
                "y": [f"{s.y[i]:.4g}{b}" for i, b in zip(places, band, strict=True)],
            }
        )
    return json.dumps({"x": curve.x_label, "top": y_axis.to, "bottom": y_axis.from_, "series": series})
