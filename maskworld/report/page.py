"""One self-contained HTML page of a run: films, curves, tables, facts and commands.

A page is a value, made of sections, made of blocks; `render` turns it into HTML, `write_page` into a file.
All lies inside the file, and its content policy forbids a browser to fetch anything; all text is escaped.

Sections: blocks - page - rendering.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from maskworld.report.curve import Curve, svg
from maskworld.report.film import Row, State, png, sprite, states, strip, webp, write_whole

if TYPE_CHECKING:
    from markupsafe import Markup

# -- blocks ---------------------------------------------------------------------------------------
#
# Texts and captions are plain: a blank line parts paragraphs, and `backticks` set code.


class Interval(NamedTuple):
    """A number and its interval of confidence, shown as 24.31 [24.10, 24.52]; as 24.31 where it has no ends."""

    value: float
    low: float
    high: float
    digits: int = 2

    def __str__(self) -> str:
        value, low, high = (f"{x:z.{self.digits}f}" for x in self[:3])
        return f"{value} [{low}, {high}]" if math.isfinite(self.low + self.high) else value


Cell = str | int | float | Interval | None
"""What stands in a table; None is a dash."""


@dataclass(frozen=True)
class Film:
    """Videos side by side that play together, looped; `with_strip` adds stills, at most `most` of each.

    Films in sequence that are `small` stand two in a line. `weight` bounds the bytes of each video, roughly.
    """

    rows: Sequence[Row]
    fps: float | int = 8
    caption: str = ""
    with_strip: bool = False
    most: int = 16
    small: bool = False
    weight: int | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a film wants at least one video")
        if not 0 < self.fps <= 120:
            raise ValueError(f"a film plays at more than 0 and at most 120 frames a second, not {self.fps}")


@dataclass(frozen=True, eq=False)
class Picture:
    """A still: grey, colour, or colour and alpha."""

    image: UInt8[np.ndarray, "h w k"]
    caption: str = ""


class Still(NamedTuple):
    """A small picture and the words under it; a blank where there is no picture. `given` sets it apart."""

    image: UInt8[np.ndarray, "h w c"] | None
    label: str
    given: bool = False


@dataclass(frozen=True)
class Stills:
    """Small pictures of one size in a line that wraps, each with its own words."""

    items: Sequence[Still]
    caption: str = ""

    def __post_init__(self) -> None:
        sizes = {still.image.shape[:2] for still in self.items if still.image is not None}
        if len(sizes) != 1:
            raise ValueError(f"stills want pictures of one size, not {sorted(sizes)}")


@dataclass(frozen=True)
class Table:
    """Rows under a head. `better` says of columns by name which way is good; the best of each is set bold."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    better: Mapping[str, Literal["higher", "lower"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a table of {len(self.head)} columns has a row of {len(row)} cells: {list(row)}")
        if strangers := set(self.better) - set(self.head):
            raise ValueError(f"no such column: {', '.join(sorted(strangers))}; there are {', '.join(self.head)}")


@dataclass(frozen=True)
class Facts:
    """Names and values: timings, a model card."""

    items: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Code:
    """Commands or code, with a button that copies them."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Note:
    """An aside; a `warning` says that something is missing or not to be trusted."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Text:
    """Paragraphs between other blocks."""

    text: str


@dataclass(frozen=True)
class Score:
    """A number of a scale from 0 to 1, drawn as a bar with its interval, and `others` as ticks beside it by name.

    Where there is no value, `why` says so; `main` of the others is drawn stronger.
    """

    value: Interval | None
    others: Mapping[str, float] = field(default_factory=dict)
    main: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.why:
            raise ValueError("a score that is missing wants a reason")


@dataclass(frozen=True)
class Entry:
    """What was scored: its short name, what it is called and what it asks, its score, and further cells."""

    name: str
    title: str
    text: str
    score: Score
    cells: Sequence[Cell] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Scores:
    """Entries with their bars, in named groups; `head` names the further cells."""

    groups: Sequence[tuple[str, Sequence[Entry]]]
    head: Sequence[str] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        for _, entries in self.groups:
            for entry in entries:
                if len(entry.cells) != len(self.head):
                    raise ValueError(f"{entry.name} has {len(entry.cells)} cells under a head of {len(self.head)}")


@dataclass(frozen=True)
class Part:
    """One entry by itself: a smaller heading with its score, and what is shown of it."""

    entry: Entry
    blocks: Sequence[Block] = ()


Block = Film | Picture | Stills | Table | Facts | Code | Note | Text | Scores | Part | Curve

# -- page -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A number that matters most, large, with its bar and a few words of what it stands on."""

    name: str
    score: Score
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, a few sentences, and what they speak of. Curves in sequence stand side by side."""

    heading: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Page:
    """What a reader gets: what it is, the few numbers that matter, and the sections."""

    title: str
    subtitle: str = ""
    facts: Facts | None = None
    sections: Sequence[Section] = ()
    footer: str = ""
    figures: Sequence[Figure] = ()

    def save(self, path: Path | str, *, force: bool = False) -> int:
        """See `write_page`."""
        return write_page(path, self, force=force)


def write_page(path: Path | str, page: Page, *, force: bool = False) -> int:
    """Write the page whole or not at all; returns its weight in bytes.

    Raises ValueError where the file exists, unless `force`.
    """
    content = render(page).encode()
    write_whole(path, content, force=force)
    return len(content)


# -- rendering ------------------------------------------------------------------------------------


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style, script, template = (_resource(name) for name in ("page.css", "page.js", "page.html.j2"))
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    seal = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    anchors = _anchors([section.heading for section in page.sections])
    sections = [
        {"anchor": anchor, "heading": s.heading, "text": prose(s.text), "blocks": _side_by_side(s.blocks)}
        for anchor, s in zip(anchors, page.sections, strict=True)
    ]
    shown = [{state for film in _films(s.blocks) for state in _all_states(film)} for s in page.sections]
    return jinja.from_string(template).render(
        page=page,
        subtitle=prose(page.subtitle),
        figures=[{"name": f.name, "text": f.text, "score": _score(f.score)} for f in page.figures],
        headline=_facts(page.facts) if page.facts else [],
        sections=sections,
        footer=prose(page.footer),
        shown={state for states_ in shown for state in states_},
        keyed=next((i for i, states_ in enumerate(shown) if states_ - {"plain"}), None),
        style=Markup(style),
        script=Markup(script),
        seal=seal,
    )


def _resource(name: str) -> str:
    return (resources.files("maskworld.report") / name).read_text("utf-8")


def _anchors(headings: Sequence[str]) -> list[str]:
    """One name for each heading, fit for a link and never the same twice."""
    taken: list[str] = []
    for heading in headings:
        name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
        number = sum(t == name or re.fullmatch(rf"{name}-\d+", t) is not None for t in taken)
        taken.append(f"{name}-{number + 1}" if number else name)
    return taken


def prose(text: str) -> Markup:
    """Plain text as HTML: escaped, paragraphs at blank lines, `code` between backticks."""
    from markupsafe import Markup, escape

    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
    coded = (re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(p))) for p in paragraphs)
    return Markup("").join(Markup(f"<p>{p}</p>") for p in coded)


def _films(blocks: Sequence[Block]) -> Iterator[Film]:
    """All films, those of parts included."""
    for block in blocks:
        if isinstance(block, Film):
            yield block
        elif isinstance(block, Part):
            yield from _films(block.blocks)


def _side_by_side(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """The blocks as the template takes them; curves, and small films, that follow each other become one group."""
    out: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, Curve) and out and out[-1]["kind"] == "curves":
            out[-1]["curves"].append(_curve(block))
        elif isinstance(block, Film) and block.small:
            if not out or out[-1]["kind"] != "films":
                out.append({"kind": "films", "films": []})
            out[-1]["films"].append(_film(block))
        else:
            out.append(_block(block))
    return out


def _block(block: Block) -> dict[str, Any]:
    match block:
        case Film():
            return _film(block)
        case Curve():
            return {"kind": "curves", "curves": [_curve(block)]}
        case Table():
            return _table(block)
        case Facts():
            return {"kind": "facts", "items": _facts(block)}
        case Code(text, caption):
            return {"kind": "code", "text": text.strip("\n"), "caption": prose(caption)}
        case Note(text, warning):
            return {"kind": "note", "text": prose(text), "warning": warning}
        case Text(text):
            return {"kind": "text", "text": prose(text)}
        case Scores():
            return _scores(block)
        case Part(entry, blocks):
            return {"kind": "part", "entry": _entry(entry, ()), "blocks": _side_by_side(blocks)}
        case Stills():
            return _stills(block)
        case Picture(image, caption):
            source = _data("image/png", png(image))
            return {"kind": "picture", "source": source, "width": image.shape[1], "caption": prose(caption)}


def _stills(stills: Stills) -> dict[str, Any]:
    h, w = next(still.image.shape[:2] for still in stills.items if still.image is not None)
    items = [
        {
            "source": None if still.image is None else _data("image/png", png(still.image)),
            "label": still.label,
            "given": still.given,
        }
        for still in stills.items
    ]
    return {"kind": "stills", "items": items, "h": h, "w": w, "caption": prose(stills.caption)}


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _curve(curve: Curve) -> dict[str, Any]:
    """Drawn twice, for wide and for narrow columns: one drawing scaled down would be too small to read."""
    from markupsafe import Markup

    return {
        "wide": Markup(svg(curve, 520, 290)),
        "narrow": Markup(svg(curve, 350, 270)),
        "caption": prose(curve.caption),
    }


def _all_states(film: Film) -> set[State]:
    return {state for row in film.rows for state in states(row)}


_LETTERS: dict[State, str] = {"given": "g", "filled": "f", "partly": "p", "plain": "n"}
_ROOM = 1040  # pixels across a page, for the videos of a film
_WIDE = 5  # times as wide as high: several cameras side by side stand in a line of their own


def _film(film: Film) -> dict[str, Any]:
    screens = []
    for row in film.rows:
        sheet, columns = sprite(row, film.weight)
        t, h, w, _ = row.frames.shape
        letters = "".join(_LETTERS[state] for state in states(row))
        source = _data("image/webp", sheet)
        screens.append(
            {"label": row.label, "source": source, "columns": columns, "states": letters} | {"t": t, "h": h, "w": w}
        )
    t = max(len(row.frames) for row in film.rows)
    still = strip(film.rows, most=film.most, paper=None, dense=2) if film.with_strip else None
    return {
        "kind": "film",
        "screens": screens,
        "t": t,
        "fps": film.fps,
        "width": _screen_width(max(s["w"] for s in screens), len(screens), _ROOM // 2 if film.small else _ROOM),
        "wide": any(s["w"] > _WIDE * s["h"] for s in screens),
        "timeline": _timeline([s["states"] for s in screens], t),
        "caption": prose(film.caption),
        "strip": None if still is None else {"source": _data("image/webp", webp(still)), "width": still.shape[1] // 2},
    }


def _screen_width(w: int, screens: int, room: int = _ROOM) -> int:
    """Pixels across one video: its largest whole multiple from 120 to 260 that lets all stand in a row."""
    gap = 18
    fits = [w * k for k in range(1, 64) if 120 <= w * k <= 260]
    return max((x for x in fits if screens * (x + gap) - gap <= room), default=min(fits, default=min(w, 260)))


def _timeline(rows: Sequence[str], t: int) -> list[tuple[str, float, float]]:
    """Stretches (state, start, stop) in per cent of the film, filled where any of the rows is."""
    asked = [row for row in rows if set(row) != {"n"}] or list(rows)
    here = [[row[i] for row in asked if i < len(row)] for i in range(t)]
    each = [next((s for s in "fpg" if s in states_), "n") for states_ in here]
    stretches: list[tuple[str, float, float]] = []
    for i, state in enumerate(each):
        start = stretches.pop()[1] if stretches and stretches[-1][0] == state else 100 * i / t
        stretches.append((state, round(start, 4), round(100 * (i + 1) / t, 4)))
    return stretches


def _facts(facts: Facts) -> list[tuple[str, str, str]]:
    return [(name, *_shown(value)) for name, value in facts.items]


def _shown(cell: Cell) -> tuple[str, str]:
    """What stands in a cell, and the interval after it, if there is one."""
    if isinstance(cell, Interval):
        value, _, band = str(cell).partition(" ")
        return value, band
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "\N{EN DASH}", ""
    if isinstance(cell, float):
        return f"{cell:.4g}", ""
    return f"{cell:,}".replace(",", "\N{THIN SPACE}") if isinstance(cell, int) else cell, ""


def _value(cell: Cell) -> float | None:
    """The number in a cell, if there is one."""
    if isinstance(cell, Interval):
        cell = cell.value
    return float(cell) if isinstance(cell, int | float) and math.isfinite(cell) else None


def _table(table: Table) -> dict[str, Any]:
    columns = []
    for i, name in enumerate(table.head):
        values = [_value(row[i]) for row in table.rows]
        there = [v for v in values if v is not None]
        best = None
        if name in table.better and len(there) > 1:
            best = max(there) if table.better[name] == "higher" else min(there)
        columns.append({"numeric": bool(there), "values": values, "best": best})
    rows = []
    for r, row in enumerate(table.rows):
        cells = []
        for cell, column in zip(row, columns, strict=True):
            main, band = _shown(cell)
            best = column["best"] is not None and column["values"][r] == column["best"]
            cells.append({"main": main, "band": band, "numeric": column["numeric"], "best": best})
        rows.append(cells)
    arrows = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
    head = [
        {"name": name, "numeric": column["numeric"], "arrow": arrows.get(table.better.get(name, ""), "")}
        for name, column in zip(table.head, columns, strict=True)
    ]
    return {"kind": "table", "head": head, "rows": rows, "caption": prose(table.caption)}


def _scores(scores: Scores) -> dict[str, Any]:
    groups = [(name, [_entry(entry, scores.head) for entry in entries]) for name, entries in scores.groups]
    return {"kind": "scores", "groups": groups, "head": scores.head, "caption": prose(scores.caption)}


def _entry(entry: Entry, head: Sequence[str]) -> dict[str, Any]:
    cells = [(name, *_shown(cell)) for name, cell in zip(head, entry.cells, strict=False)]
    return {
        "name": entry.name,
        "title": entry.title,
        "text": prose(entry.text),
        "anchor": entry.anchor,
        "score": _score(entry.score),
        "cells": cells,
    }


def _score(score: Score) -> dict[str, Any]:
    """Bar, whisker and ticks in per cent of the scale, and what they say in words."""
    out: dict[str, Any] = {"why": score.why, "value": None}
    if (value := score.value) is None:
        return out
    main, band = _shown(value)
    whisker = (_percent(value.low), _percent(value.high)) if math.isfinite(value.low + value.high) else None
    ticks = [(name, _percent(x), name == score.main) for name, x in score.others.items() if math.isfinite(x)]
    words = [f"{main} {band}".strip(), *(f"{name} {x:.2f}" for name, x in score.others.items())]
    return out | {
        "value": main,
        "band": band,
        "bar": _percent(value.value),
        "whisker": whisker,
        "ticks": ticks,
        "words": ", ".join(words),
    }


def _percent(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 2)
