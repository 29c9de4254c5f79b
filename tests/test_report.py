"""The report: rows, strips, films, sprites, curves and the page itself."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from maskworld.report import film as films
from maskworld.report.curve import Curve, Series, Span, log_ticks, number, svg, ticks
from maskworld.report.film import BORDER, FILLED, GAP, GIVEN, LINE, MARGIN, Row
from maskworld.report.page import (
    Code,
    Facts,
    Film,
    Interval,
    Note,
    Page,
    Picture,
    Section,
    Table,
    Text,
    render,
    write_page,
)

GREY = np.uint8(90)


def _square(t: int = 6, side: int = 16, c: int = 3) -> np.ndarray:
    """A grey frame in which a white square moves one pixel a frame."""
    frames = np.full((t, side, side, c), GREY)
    for i in range(t):
        frames[i, 4:8, i : i + 4] = 255
    return frames


def _known(pattern: str) -> np.ndarray:
    return np.array([letter == "g" for letter in pattern])


def _is(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image[..., :3] == colour).all(-1)


# -- rows -----------------------------------------------------------------------------------------


def test_a_row_tells_given_filled_and_partly_given_frames_apart():
    grid = np.zeros((3, 4, 4), bool)
    grid[0], grid[1, 0, 0] = True, True
    assert films.states(Row("x", _square(3), grid)) == ["given", "partly", "filled"]
    assert films.states(Row("x", _square(3), _known("gfg"))) == ["given", "filled", "given"]
    assert films.states(Row("x", _square(3))) == ["plain"] * 3


def test_a_row_of_a_clip_has_its_pixels():
    frames = torch.full((2, 1, 4, 4), -1.0)
    frames[1, 0, 2, 3] = 1
    row = Row.of("x", frames, torch.tensor([True, False])[:, None, None])
    assert row.frames.shape == (2, 4, 4, 1) and row.frames.dtype == np.uint8
    assert row.frames.sum() == 255 and row.frames[1, 2, 3, 0] == 255
    assert films.states(row) == ["given", "filled"]


@pytest.mark.parametrize(
    ("frames", "known", "words"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), None, "at least one frame"),
        (np.zeros((2, 4, 4, 2), np.uint8), None, "1 or 3 channels"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.ones(3, bool), "2 frames, but 3"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.ones((2, 3, 1), bool), "3x1 does not divide"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(frames, known, words):
    with pytest.raises(ValueError, match=words):
        Row("x", frames, known)


def test_what_is_hidden_cannot_be_seen_and_the_rest_is_untouched():
    grid = np.ones((6, 4, 4), bool)
    grid[2, 1, :2] = False
    row = Row("x", _square(), grid)
    seen = films.hide(row, "seen").frames
    hidden = np.zeros((6, 16, 16), bool)
    hidden[2, 4:8, :8] = True
    np.testing.assert_array_equal(seen[~hidden], row.frames[~hidden])
    other = row.frames.copy()
    other[hidden] = 7
    np.testing.assert_array_equal(films.hide(replace(row, frames=other), "seen").frames, seen)
    with pytest.raises(ValueError, match="does not say what is known"):
        films.hide(Row("x", _square()), "seen")


# -- strips ---------------------------------------------------------------------------------------


def test_a_strip_lays_time_from_left_to_right_and_rows_from_top_to_bottom():
    frames, scale = _square(), 2
    rows = [Row("", frames), Row("", frames[:, ::-1].copy(), _known("ggffgg"))]
    image = films.strip(rows, scale=scale)
    cell = 16 * scale + 2 * BORDER
    assert image.shape == (
        MARGIN + LINE + 2 * (cell + GAP) - GAP + MARGIN,
        MARGIN + 6 * (cell + GAP) - GAP + MARGIN,
        4,
    )
    for r, row in enumerate(rows):
        for i in range(6):
            y = MARGIN + LINE + r * (cell + GAP) + BORDER
            x = MARGIN + i * (cell + GAP) + BORDER
            inside = image[y : y + 16 * scale, x : x + 16 * scale, :3]
            np.testing.assert_array_equal(inside[::scale, ::scale], row.frames[i])
            np.testing.assert_array_equal(inside[1::scale, 1::scale], row.frames[i])
            colour = (255, 255, 255) if r == 0 else GIVEN if i in (0, 1, 4, 5) else FILLED
            edge = image[y - BORDER : y + 16 * scale + BORDER, x - BORDER : x + 16 * scale + BORDER]
            assert _is(edge, colour)[[0, BORDER - 1, -1]].all() and _is(edge, colour)[:, [0, -1, -BORDER]].all()


def test_a_strip_marks_each_given_and_filled_frame_by_exactly_its_border():
    cell = 16 + 2 * BORDER
    around = cell**2 - 16**2
    image = films.strip([Row("sample", _square(), _known("ggffff"))], scale=1)
    assert _is(image, GIVEN).sum() == 2 * around and _is(image, FILLED).sum() == 4 * around
    partly = np.zeros((6, 2, 2), bool)
    partly[:, 0] = True
    image = films.strip([Row("sample", _square(), partly)], scale=1)
    both = _is(image, GIVEN).sum(), _is(image, FILLED).sum()
    assert sum(both) == 6 * around and min(both) > 0.4 * sum(both)


def test_a_strip_names_its_rows_on_opaque_paper_or_on_none():
    row = Row("a name", _square(), _known("ggffff"))
    plain, named = films.strip([replace(row, label="")]), films.strip([row])
    wider = named.shape[1] - plain.shape[1]
    assert wider > MARGIN + 20 and (named[..., 3] == 255).all()
    column = named[MARGIN + LINE :, : wider + MARGIN, :3]
    assert (column < 128).all(-1).sum() > 30  # ink
    np.testing.assert_array_equal(named[MARGIN + LINE :, wider:], plain[MARGIN + LINE :])
    clear = films.strip([row], paper=None)
    assert clear.shape == named.shape and clear[0, 0, 3] == 0 and clear[MARGIN + LINE + 5, wider + MARGIN, 3] == 255
    twice = films.strip([row], scale=1, dense=2)
    assert _is(twice, GIVEN).sum() == 4 * _is(films.strip([row], scale=1), GIVEN).sum()


def test_a_long_strip_shows_frames_from_first_to_last():
    frames = np.zeros((100, 8, 8, 1), np.uint8) + np.arange(100, dtype=np.uint8)[:, None, None, None]
    image = films.strip([Row("", frames)], scale=1, most=12)
    y, step = MARGIN + LINE + BORDER, 8 + 2 * BORDER + GAP
    shown = [int(image[y, MARGIN + BORDER + i * step, 0]) for i in range(12)]
    assert shown == [9 * i for i in range(12)]
    assert image.shape[1] == 2 * MARGIN + 12 * step - GAP


def test_a_row_that_ends_early_leaves_the_rest_of_its_line_blank():
    rows = [Row("", _square(6), _known("gfffff")), Row("", _square(3), _known("gff"))]
    around = (16 + 2 * BORDER) ** 2 - 16**2
    assert _is(films.strip(rows, scale=1), FILLED).sum() == (5 + 2) * around
    video = films.film(rows, scale=1)
    assert [int(_is(frame, FILLED).sum()) // around for frame in video] == [0, 2, 2, 1, 1, 1]


def test_rows_of_different_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="left 16x16, right 8x8"):
        films.strip([Row("left", _square()), Row("right", _square(side=8))])
    with pytest.raises(ValueError, match="no rows"):
        films.film([])
    with pytest.raises(ValueError, match="whole number from 1"):
        films.film([Row("x", _square())], scale=0)


# -- films and sprites ----------------------------------------------------------------------------


def test_views_stand_beside_each_other_in_one_row():
    known = np.array([[[True]], [[False]], [[True]]])
    rows = [Row("left", _square(3), known), Row("right", 255 - _square(3), ~known)]
    both = films.beside("both", rows)
    assert both.frames.shape == (3, 16, 32, 3) and films.states(both) == ["partly"] * 3
    assert np.array_equal(both.frames[:, :, :16], _square(3)) and both.known[:, 0, 0].tolist() == [True, False, True]
    assert films.states(films.beside("all", [rows[0], rows[0]])) == ["given", "filled", "given"]
    assert films.beside("plain", [Row("a", _square(3)), Row("b", _square(3))]).known is None
    with pytest.raises(ValueError, match="'both': what is known is said of 1 of its 2 views"):
        films.beside("both", [rows[0], Row("b", _square(3))])


def test_a_film_in_lines_is_made_of_films_of_one_line():
    rows = [Row(name, (_square(2) // (i + 1)).astype(np.uint8), _known("gf")) for i, name in enumerate("abcd")]
    whole = films.film(rows, scale=2, across=2)
    first, second = (films.film(rows[i : i + 2], scale=2) for i in (0, 2))
    line = first.shape[1] - MARGIN
    assert whole.shape == (2, 2 * line + MARGIN, first.shape[2], 3)
    assert np.array_equal(whole[:, :line], first[:, :line])
    assert np.array_equal(whole[:, line : 2 * line], second[:, :line])
    assert np.array_equal(films.film(rows, scale=2, across=9), films.film(rows, scale=2))
    with pytest.raises(ValueError, match="at least one video stands in a line"):
        films.film(rows, across=0)


@pytest.mark.parametrize("side", [15, 16])
def test_a_film_has_every_frame_of_every_row_beside_each_other(side):
    frames = _square(side=side)
    rows = [Row("truth", frames), Row("sample", frames, _known("gggfff")), Row("grey", frames[..., :1])]
    video = films.film(rows, scale=3)
    cell = 3 * side + 2 * BORDER
    t, h, w, c = video.shape
    assert (t, c) == (6, 3) and h % 2 == w % 2 == 0
    assert w - (2 * MARGIN + 3 * (cell + MARGIN) - MARGIN) in (0, 1)
    top = h - h % 2 - MARGIN - cell
    top = np.flatnonzero(_is(video[0], GIVEN).any(1))[0]
    for r in range(3):
        left = MARGIN + r * (cell + MARGIN) + BORDER
        inside = video[:, top + BORDER : top + cell - BORDER, left : left + 3 * side]
        np.testing.assert_array_equal(inside[:, ::3, ::3], frames)
    around = cell**2 - (3 * side) ** 2
    assert [int(_is(f, GIVEN).sum()) for f in video] == [around] * 3 + [0] * 3
    assert [int(_is(f, FILLED).sum()) for f in video] == [0] * 3 + [around] * 3


def test_a_long_name_stays_over_its_own_video():
    rows = [Row("a name that is far too long for a small video", _square()), Row("", _square())]
    video = films.film(rows, scale=4)
    second = 2 * MARGIN + 16 * 4 + 2 * BORDER
    assert (video[0, : MARGIN + LINE, second:] == video[0, 0, 0]).all()


@pytest.mark.parametrize("t", [1, 5, 7, 12])
def test_a_sprite_holds_every_frame_exactly(t):
    row = Row("x", np.random.default_rng(0).integers(0, 256, (t, 12, 20, 3), dtype=np.uint8))
    webp, columns = films.sprite(row)
    sheet = np.asarray(Image.open(io.BytesIO(webp)).convert("RGB"))
    for i in range(t):
        y, x = i // columns * 12, i % columns * 20
        np.testing.assert_array_equal(sheet[y : y + 12, x : x + 20], row.frames[i])


def test_a_heavy_sprite_gives_up_a_little_exactness(monkeypatch):
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([(127 + 60 * np.sin((x + y + 3 * i) / 9)) for i in range(8)])
    noise = np.random.default_rng(0).normal(0, 4, (8, 64, 64))
    row = Row("x", np.repeat((smooth + noise)[..., None], 3, -1).astype(np.uint8))
    exact = films.sprite(row)
    monkeypatch.setattr(films, "LOSSLESS_UP_TO", len(exact.webp) - 1)
    near = films.sprite(row)
    assert len(near.webp) < 0.8 * len(exact.webp)
    a, b = (np.asarray(Image.open(io.BytesIO(s.webp)).convert("RGB")).astype(float) for s in (exact, near))
    assert 0 < np.sqrt(((a - b) ** 2).mean()) < 4


def test_a_sprite_too_large_for_its_format_is_refused():
    with pytest.raises(ValueError, match="too many"):
        films.sprite(Row("x", np.zeros((2, 1, 17000, 1), np.uint8)))


def test_files_are_whole_and_never_written_over_unasked(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "strip.png"
    rows = [Row("x", _square(), _known("gggfff"))]
    films.strip_png(rows, path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), films.strip(rows))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        films.strip_png(rows, path, scale=1)
    assert path.read_bytes() == before

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(films.os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        films.strip_png(rows, path, scale=1, force=True)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["strip.png"]
    monkeypatch.undo()
    films.strip_png(rows, path, scale=1, force=True)
    assert path.read_bytes() != before


# -- curves ---------------------------------------------------------------------------------------

CURVE = Curve(
    [
        Series("best of <ten>", [0, 1, 2, 3], [30.0, 28.0, 27.0, 26.5], [29, 27, 26, 25], [31, 29, 28, 28]),
        Series("one sample", [0, 1, 2, 3], [28.0, 25.0, float("nan"), 22.0]),
        Series("copy last", [0, 3], [20.0, 20.0], baseline=True),
    ],
    "frame",
    "PSNR, dB",
    "How `well`.",
    [Span(0, 1, "given")],
)


def _svg(curve: Curve, width: int = 640) -> tuple[ET.Element, list[str]]:
    root = ET.fromstring(svg(curve, width))
    return root, [e.text or "" for e in root.findall(".//{*}text")]


@pytest.mark.parametrize("width", [350, 640])
def test_a_curve_names_its_series_and_axes(width):
    root, words = _svg(CURVE, width)
    for name in ("best of <ten>", "one sample", "copy last", "frame", "PSNR, dB", "given", "0", "3", "20", "30"):
        assert words.count(name) == 1, name
    dashed = [e for e in root.findall(".//{*}path") if e.get("stroke-dasharray")]
    assert len(dashed) == (1 if width == 640 else 2)  # the narrow drawing has a key above
    assert sum(e.get("fill-opacity") == "0.16" for e in root.findall(".//{*}path")) == 1  # one band


def test_a_curve_puts_its_points_where_the_ticks_say():
    root, _ = _svg(CURVE)
    place = {e.text: (float(e.get("x")), float(e.get("y"))) for e in root.findall(".//{*}text")}
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in root.findall(".//{*}circle")]
    x_of = lambda x: place["0"][0] + x / 3 * (place["3"][0] - place["0"][0])
    y_of = lambda y: place["20"][1] - 4 + (y - 20) / 10 * (place["30"][1] - place["20"][1])
    points = [(0, 30), (1, 28), (2, 27), (3, 26.5), (0, 28), (1, 25), (3, 22)]
    np.testing.assert_allclose(dots, [(x_of(x), y_of(y)) for x, y in points], atol=0.2)


def test_a_value_that_is_not_finite_breaks_the_line():
    root, _ = _svg(CURVE)
    lines = [e.get("d") for e in root.findall(".//{*}path") if e.get("stroke-width") == "2"]
    assert sorted(d.count("M") for d in lines) == [1, 2]


def test_names_at_the_ends_of_lines_never_touch():
    near = Curve([Series(f"line {i}", [0, 1], [0.0, 1.0 if i == 7 else 0.01 * i]) for i in range(8)], "x", "y")
    root, _ = _svg(near)
    y = sorted(float(e.get("y")) for e in root.findall(".//{*}text") if (e.text or "").startswith("line"))
    assert min(np.diff(y)) >= 14.9 and y[-1] < 300 and y[0] > 0


def test_ticks_are_round_and_enclose():
    assert ticks(0.3, 9.7, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(17.2, 31.4, 5) == [15, 20, 25, 30, 35]
    assert ticks(0.61, 0.69, 4) == [0.6, 0.62, 0.64, 0.66, 0.68, 0.7]
    assert 3 in ticks(3, 3, 5) and len(ticks(3, 3, 5)) > 2
    assert log_ticks(0.02, 0.6) == [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert log_ticks(3e-5, 20) == [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100]
    assert [number(x) for x in (20000, 2_500_000, 0.25, 3e-5, -4)] == ["20k", "2.5M", "0.25", "3e-05", "−4"]


def test_a_logarithmic_curve_spaces_decades_evenly():
    curve = Curve(
        [Series("loss", [0, 1, 2], [1.0, 0.1, 0.01], [0.5, 0.0, 0.005], [2, 0.2, 0.02])], "x", "y", log_y=True
    )
    root, words = _svg(curve)
    y = [float(e.get("cy")) for e in root.findall(".//{*}circle")]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2) and "0.1" in words and "nan" not in svg(curve)
    with pytest.raises(ValueError, match="above zero"):
        replace(curve, series=[Series("loss", [0, 1], [1.0, 0.0])])


def test_curves_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        Series("x", [0, 1], [1.0])
    with pytest.raises(ValueError, match="both, low and high"):
        Series("x", [0], [1.0], low=[0.5])
    with pytest.raises(ValueError, match="nothing to draw"):
        Curve([Series("x", [0], [float("nan")])], "x", "y")


# -- the page -------------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "link", "hr", "input"}


class _Reader(HTMLParser):
    """Every element with its attributes, and proof that all are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]


EVIL = "</title><script>alert(1)</script> & \"<b onclick='x'>\""


def _page(words: str = "words") -> Page:
    rows = [Row(f"truth {words}", _square()), Row("sample", _square(), _known("ggffgg"))]
    curve = replace(CURVE, caption=words, y_label=words)
    table = Table(
        ["what", "PSNR", "seconds"],
        [[words, Interval(24.31, 24.1, 24.52), 0.5], ["other", Interval(20, 19.5, 20.5), None]],
        words,
        {"PSNR": "higher", "seconds": "lower"},
    )
    blocks = [
        Film(rows, 8, words, with_strip=True),
        curve,
        curve,
        table,
        Code(words, words),
        Note(words),
        Note("careful", warning=True),
        Text(words),
        Facts([(words, words), ("clips", 25600)]),
        Picture(_square()[0], words),
    ]
    sections = [Section(words, words, blocks), Section("Other", "", []), Section("Other", "", [])]
    return Page(words, words, Facts([("PSNR", Interval(24.31, 24.1, 24.52))]), sections, words)


@functools.cache
def _html(words: str = "words") -> str:
    return render(_page(words))


@pytest.mark.parametrize("words", ["words", EVIL])
def test_a_page_is_well_formed_and_fetches_nothing(words):
    html = _html(words)
    reader = _Reader(html)
    for tag, attrs in reader.elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            if name in attrs:
                assert re.match(r"data:image/(webp|png);base64,|#", attrs[name] or ""), (tag, attrs)
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
    outside_images = re.sub(r"data:image/\w+;base64,[^\"]*", "", html).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|file:|@import|url\(", outside_images)


def test_a_page_allows_no_script_but_its_own():
    html = _html(EVIL)
    reader = _Reader(html)
    assert sum(tag == "script" for tag, _ in reader.elements) == 1
    own = re.search(r"<script>(.*)</script>", html, re.S)
    seal = base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode()
    policy = next(a["content"] for _, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{seal}'" in policy


def test_a_page_says_every_word_as_it_was_given():
    plain, evil = _Reader(_html("WORD")), _Reader(_html(EVIL))
    # one parse of the escaped page gives back the very words, as often as a harmless word stands there
    assert "".join(evil.words).count(EVIL) == "".join(plain.words).count("WORD") > 10
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in plain.elements]


def test_films_on_the_page_carry_frames_states_and_timeline():
    reader = _Reader(_html())
    assert [s["data-states"] for s in reader.having("screen")] == ["nnnnnn", "ggffgg"]
    (film,) = reader.having("film")
    assert film["data-frames"] == "6" and float(film["data-fps"]) == 8
    marks = [(a["class"], a["style"]) for t, a in reader.elements if t == "i" and "left" in (a.get("style") or "")]
    assert [m[0] for m in marks] == ["g", "f", "g"]
    lefts = [float(re.search(r"left: ([\d.]+)%", style)[1]) for _, style in marks]
    assert lefts == pytest.approx([0, 100 / 3, 200 / 3], abs=1e-3)
    sheet = next(a["src"] for t, a in reader.elements if t == "img" and a["src"].startswith("data:image/webp"))
    image = Image.open(io.BytesIO(base64.b64decode(sheet.partition(",")[2])))
    screen = reader.having("screen")[0]
    assert image.size == (int(screen["data-columns"]) * 16, 16 * -(-6 // int(screen["data-columns"])))


def test_a_timeline_says_filled_where_any_row_is():
    rows = [Row("a", _square(), _known("ggfggg")), Row("b", _square(4), _known("gffg")), Row("c", _square())]
    reader = _Reader(render(Page("t", sections=[Section("s", "", [Film(rows)])])))
    marks = [a for t, a in reader.elements if t == "i" and "left" in (a.get("style") or "")]
    assert [m["class"] for m in marks] == ["g", "f", "g"]
    widths = [float(re.search(r"width: ([\d.]+)%", m["style"])[1]) for m in marks]
    assert widths == pytest.approx([100 / 6, 200 / 6, 50], abs=1e-3)


def test_tables_show_intervals_and_set_the_best_bold():
    html = _html()
    assert '24.31 <span class="band">[24.10, 24.52]</span>' in html
    best = re.findall(r'<td class="number best">([^<]*)', html)
    assert [b.strip() for b in best] == ["24.31"]  # a column with a single number has no best one
    assert "25\N{THIN SPACE}600" in html and 'PSNR<span class="arrow">↑' in html
    lower = Table(["a", "s"], [["x", 3], ["y", 2.5], ["z", float("nan")]], better={"s": "lower"})
    html = render(Page("t", sections=[Section("s", "", [lower])]))
    assert re.findall(r'<td class="number best">([^<]*)', html) == ["2.5"]
    assert str(Interval(0.8612, 0.855, 0.87, digits=3)) == "0.861 [0.855, 0.870]"


def test_curves_in_a_row_stand_in_one_group_and_anchors_differ():
    reader = _Reader(_html())
    assert len(reader.having("curves")) == 1 and len(reader.having("curve")) == 2
    anchors = [a["id"] for t, a in reader.elements if t == "section"]
    links = [a["href"] for t, a in reader.elements if t == "a"]
    assert len(set(anchors)) == 3 and links == [f"#{a}" for a in anchors]


def test_blocks_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="2 columns has a row of 1"):
        Table(["a", "b"], [[1]])
    with pytest.raises(ValueError, match="no such column: c"):
        Table(["a", "b"], [[1, 2]], better={"c": "lower"})
    with pytest.raises(ValueError, match="at least one video"):
        Film([])
    with pytest.raises(ValueError, match="frames a second"):
        Film([Row("x", _square())], fps=0)


def test_a_page_is_the_same_each_time_and_written_whole(tmp_path):
    path = tmp_path / "demo" / "report.html"
    weight = write_page(path, _page())
    assert weight == path.stat().st_size and path.read_text("utf-8") == _html("words")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="exists already"):
        _page().save(path)
    assert _page("other").save(path, force=True) == path.stat().st_size != weight
