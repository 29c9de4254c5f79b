"""The page of a probe run: everything that was scored is on it, and nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskworld.report import probes
from maskworld.report.film import webp
from maskworld.report.page import Entry, Film, Interval, Page, Part, Score, Scores, Section, render

SIDE, PROMPT, HORIZON = 16, 4, 6


def _between(mean: float | None, reach: float = 0.03) -> dict[str, Any]:
    ends = (None, None) if mean is None else (mean - reach, mean + reach)
    return {"mean": mean, "low": ends[0], "high": ends[1], "n": 24}


def _reference(score: float, **curves: list[list[float]]) -> dict[str, Any]:
    return {"error": 0.8 * (1 - score), "score": score, "numbers": {"located": 0.5}, "curves": curves}


def _family(axis: str, title: str, score: float | None, **more: Any) -> dict[str, Any]:
    """What a run says of one family; None where it was not asked."""
    words = {"title": title, "question": f"Is {title} there?", "axis": axis, "failed": False}
    names = ("score", "unclipped", "over_best", "error", "floor", "ceiling", "best")
    if score is None:
        nothing = {"n": 0, "reason": "it takes no actions", "numbers": {}, "curves": {}, "references": {}}
        return words | dict.fromkeys(names) | nothing | more
    references = {"oracle": 1.0, "copy": 0.0, "shuffled": -0.1, "linear": 0.57, "frozen": 0.21, "amnesia-8": 0.61}
    return {
        **words,
        "n": 24,
        "score": _between(score),
        "unclipped": _between(score),
        "over_best": _between(-0.25),
        "error": _between(0.312),
        "floor": 0.816,
        "ceiling": 0.0107,
        "best": "amnesia-8",
        "reason": None,
        "numbers": {"located": _between(0.8312), "effect R2": _between(0.002, 0.001)},
        "curves": {},
        "references": {name: _reference(value) for name, value in references.items()},
        **more,
    }


def _scores(subject: str = "some-model") -> dict[str, Any]:
    means = (0.9, 0.7, None, 0.2)
    recall = {
        "axes": ["frames unseen", "located share"],
        "points": [{"x": float(2**i), **_between(mean, 0.1)} for i, mean in enumerate(means)],
    }
    p1 = _family("persistence", "occlusion", 0.435, curves={"recall": recall})
    for name, y in (("oracle", 1.0), ("copy", 0.0), ("frozen", 0.5)):
        p1["references"][name] = _reference(y, recall=[[1, y], [8, y]])
    return {
        "schema": "maskworld.probe/1",
        "version": 3,
        "subject": subject,
        "setting": {"split": "dev", "tier": "flat", "shift": "speed", "salt": ""},
        "episodes": 24,
        "samples": 2,
        "persistence": 0.435,
        "causality": None,
        "indices": {
            "persistence": {"score": _between(0.435), "families": 1, "of": 2},
            "causality": {"score": None, "families": 0, "of": 1},
        },
        "families": {
            "P1": p1,
            "P2a": _family("persistence", "look-away", None),
            "C1": _family("causality", "collision", 0.123, unclipped=_between(-0.345)),
        },
    }


def _films(folder: Path, *names: str, rng: np.random.Generator | None = None, **more: Any) -> Path:
    """Films whose prediction differs from the truth by 51 of 255 in one square."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = np.full((HORIZON, SIDE, SIDE, 3), 30, np.uint8)
    answer = truth.copy()
    answer[:, 4:8, 4:8, 1] += 51
    if rng is not None:
        answer = rng.integers(0, 255, answer.shape).astype(np.uint8)
    held = {"prompt": np.full((PROMPT, SIDE, SIDE, 3), 30, np.uint8), "truth": truth, "prediction": answer} | more
    for name in names:
        np.savez(folder / f"{name}.npz", **{k: v for k, v in held.items() if v is not None})
    return folder


class _Reader(HTMLParser):
    """The words of a page, and what its elements point at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data"):
                self.links.append(value or "")
            if name == "id":
                self.anchors.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def html(tmp_path: Path) -> str:
    films = _films(tmp_path / "films", "P1-best", index=np.array(17), error=np.array(0.25))
    return probes.write(_scores(), films, tmp_path, force=False).read_text()


# -- what is on the page --------------------------------------------------------------------------


def test_the_page_fetches_nothing(html: str):
    page = _Reader(html)
    assert page.links and all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "default-src 'none'" in html and "http" not in html.replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.anchors)


def test_every_family_is_there_with_its_score_its_interval_and_the_references(html: str):
    text = _Reader(html).text
    for words in ("Occlusion", "Look-away", "Collision", "Is occlusion there?", "some-model"):
        assert words in text
    assert "0.12 [0.09, 0.15]" in text and "-0.34" in text, "the score, and the unclipped value"
    assert "amnesia-8 0.61" in text, "the best of the simple references"
    assert "0.83 [0.80, 0.86]" in text and "0.0020 [0.0010, 0.0030]" in text, "numbers at digits that fit"
    assert "effect R\N{SUPERSCRIPT TWO}" in text
    assert "Mean of 1 of 2 families" in text and "n/a: no family of it has a score" in text
    assert "maskworld probe some-model --families P1,P2a,C1 --episodes 24 --samples 2 --shift speed -o DIR" in text


def test_the_salt_stays_a_secret_and_its_command_names_no_split(tmp_path: Path):
    scores = _scores()
    scores["setting"] = {"split": "salted", "tier": "textured", "shift": "none", "salt": "0123abcd"}
    text = _Reader(probes.write(scores, tmp_path, tmp_path, force=False).read_text()).text
    assert "--samples 2 --tier textured --salt THE_SALT -o DIR" in text


def test_a_family_that_was_not_asked_says_why(html: str):
    text = _Reader(html).text
    assert text.count("it takes no actions") == 2  # in the table, and at the end of its section
    assert 'id="family-P1"' in html and "family-P2a" not in html


def test_bars_stand_at_the_score_and_ticks_at_the_references():
    score = Score(Interval(0.25, 0.2, 0.3), {"linear": 0.4, "frozen": -0.2}, "linear")
    html = render(Page("t", sections=[Section("s", "", [Scores([("g", [Entry("P1", "a", "b", score)])])])]))
    bar = html[html.index('<svg class="bar"') : html.index("</svg>", html.index('<svg class="bar"'))]
    assert '<rect class="fill" y="7" width="25.0%"' in bar
    assert '<line class="main" x1="40.0%"' in bar and '<line class="other" x1="0.0%"' in bar
    assert '<line class="whisker" x1="20.0%" x2="30.0%"' in bar
    alone = render(Page("t", sections=[Section("s", "", [Part(Entry("P1", "a", "b", _alone()))])]))
    assert "nan" not in alone.split("</style>")[1].split("<script>")[0] and 'class="whisker"' not in alone


def _alone() -> Score:
    return Score(Interval(0.5, float("nan"), float("nan")))


def test_curves_hold_the_points_the_gaps_and_the_references(html: str):
    data = [json.loads(d.replace("&quot;", '"')) for d in re.findall(r'data-plot="([^"]*)"', html)]
    lines = {s["label"]: s for s in data[0]["series"]}
    assert lines["this model"]["x"] == ["1", "2", "8"] and lines["this model"]["y"][0] == "0.9 [0.8, 1]"
    assert set(lines) == {"this model", "oracle", "copy"}


def test_films_show_truth_prediction_and_error(tmp_path: Path):
    films = _films(tmp_path / "films", "P1-best", index=np.array(17), error=np.array(0.25))
    shown = [f for f in _all(probes.page(_scores(), films)) if isinstance(f, Film)]
    assert [f.caption for f in shown] == ["Best: episode 17, error 0.25"]
    truth, answer, error = shown[0].rows
    assert [row.label for row in shown[0].rows] == ["truth", "prediction", "error"]
    assert answer.known is not None and answer.known.tolist() == [True] * PROMPT + [False] * HORIZON
    assert truth.known is None and (answer.frames[:PROMPT] == truth.frames[:PROMPT]).all()
    wrong = np.count_nonzero(error.frames.max(-1), axis=(1, 2)).tolist()
    assert wrong == [0] * PROMPT + [16] * HORIZON
    assert error.frames[-1, 5, 5].tolist() == [93, 45, 4], "two fifths of the way from black to orange"


def test_where_best_and_worst_are_one_episode_it_is_shown_once(tmp_path: Path):
    films = _films(tmp_path, "P1-best", "P1-worst", index=np.array(4))
    shown = [f for f in _all(probes.page(_scores(), films)) if isinstance(f, Film)]
    assert [f.caption for f in shown] == ["Best and worst: episode 4"]


def test_a_film_of_surprise_shows_what_was_shown_and_how_unexpected_it_was(tmp_path: Path):
    shown = np.full((HORIZON, SIDE, SIDE, 3), 99, np.uint8)
    films = _films(tmp_path, "C1-worst", prediction=None, observed=shown, surprise=np.arange(HORIZON, dtype=float))
    page = probes.page(_scores(), films)
    assert [[r.label for r in b.rows] for b in _all(page) if isinstance(b, Film)] == [["truth", "shown"]]
    assert any(getattr(b, "y_label", "") == "surprise" for b in _all(page))


def _all(page: Page) -> list[Any]:
    parts = [block for section in page.sections for block in section.blocks]
    return [inner for b in parts for inner in (b.blocks if isinstance(b, Part) else [b])]


def test_names_are_escaped(tmp_path: Path):
    scores = _scores('<script>alert("x")</script>')
    scores["families"]["P1"]["title"] = "<b>bold</b>"
    scores["families"]["P2a"]["reason"] = "<img src=x>"
    html = probes.write(scores, tmp_path, tmp_path, force=False).read_text()
    assert "<script>alert" not in html and "<b>bold" not in html and "<img src=x" not in html
    assert "&lt;b&gt;bold" in html


def test_without_films_and_references_there_is_still_a_page(tmp_path: Path):
    scores = _scores()
    for family in scores["families"].values():
        family["references"] = {}
        family["best"] = None
    html = probes.write(scores, tmp_path / "nowhere", tmp_path, force=False).read_text()
    assert "given to the model" not in html and "Occlusion" in html


def test_heavy_films_keep_to_their_weight():
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    heavy, light = webp(noise), webp(noise, 60_000)
    assert len(light) <= 60_000 < len(heavy)
    assert Image.open(io.BytesIO(light)).size == (256, 256)
    flat = np.full((64, 64, 3), 77, np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(webp(flat, 500))).convert("RGB")) == 77).all(), "exact where it fits"


def test_the_weight_of_a_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    films = _films(tmp_path / "films", "P1-best", "P1-worst", "C1-best", "C1-worst", rng=rng)
    weights = {}
    for bound in (100_000, 20_000):
        monkeypatch.setattr(probes, "WEIGHT", bound)
        html = probes.write(_scores(), films, tmp_path, force=True).read_text()
        sheets = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", html)
        assert len(sheets) == 12
        weights[bound] = sum(len(base64.b64decode(sheet)) for sheet in sheets)
        assert weights[bound] <= bound
    assert weights[20_000] < weights[100_000]


# -- what is refused ------------------------------------------------------------------------------


def test_a_page_is_not_written_over_unasked(tmp_path: Path):
    path = probes.write(_scores(), tmp_path, tmp_path, force=False)
    assert path == tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        probes.write(_scores(), tmp_path, tmp_path, force=False)
    assert path.read_text() == "mine"
    probes.write(_scores(), tmp_path, tmp_path, force=True)
    assert "some-model" in path.read_text()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("families",), {}, "no family"),
        (("families",), [1], "families of the scores"),
        (("families", "P1"), 3, "P1 should be names"),
        (("families", "P1", "axis"), "beauty", "axis of P1"),
        (("families", "P1", "score"), "high", "P1: 'score'"),
        (("families", "P1", "title"), None, "'title'"),
        (("families", "P1", "score"), {"mean": "high"}, "P1: 'score'"),
        (("families", "P1", "n"), None, "P1: 'n'"),
        (("families", "P2a", "reason"), None, "P2a: 'reason'"),
        (("families", "P1", "curves", "recall", "points"), 7, "a list is wanted"),
        (("families", "P1", "curves", "recall", "axes"), ["x"], "two names"),
        (("families", "P1", "references", "linear"), "much", "reference linear of P1"),
        (("episodes",), "many", "'episodes'"),
        (("families", "../P1"), {}, "named by letters"),
        (("subject",), None, "'subject'"),
        (("indices", "persistence", "score"), True, "index of persistence"),
    ],
)
def test_scores_that_make_no_sense_are_refused(tmp_path: Path, place: tuple[str, ...], value: Any, words: str):
    scores = copy.deepcopy(_scores())
    at = scores
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(ValueError, match=words):
        probes.write(scores, tmp_path, tmp_path, force=False)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prediction": np.zeros((2, SIDE, SIDE, 3), np.uint8)}, "prediction is uint8"),
        ({"truth": np.zeros((HORIZON, SIDE, SIDE, 3))}, "truth is float64"),
        ({"prompt": None}, "holds no prompt"),
        ({"surprise": np.zeros(3)}, "one number a frame"),
    ],
)
def test_films_that_do_not_fit_are_refused(tmp_path: Path, more: dict[str, Any], words: str):
    films = _films(tmp_path, "P1-best", **more)
    with pytest.raises(ValueError, match=words):
        probes.page(_scores(), films)


def test_a_file_that_is_no_film_is_refused_by_name(tmp_path: Path):
    (tmp_path / "P1-best.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"P1-best\.npz is not a film"):
        probes.page(_scores(), tmp_path)


def test_blocks_of_scores_are_checked():
    with pytest.raises(ValueError, match="wants a reason"):
        Score(None)
    with pytest.raises(ValueError, match="2 cells under a head of 1"):
        Scores([("g", [Entry("P1", "a", "b", _alone(), (1, 2))])], ("one",))
