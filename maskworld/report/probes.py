"""The page of a probe run: how far a world persists and obeys causes, beside worlds that are known.

Written from `scores.json` and the films beside it alone, so that a page can be made again without asking anybody.

Sections: page - scores - families - films - reading what is given.
"""

from __future__ import annotations

import math
import re
import shlex
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskworld.report.curve import Curve, Series
from maskworld.report.film import Row
from maskworld.report.page import (
    Block,
    Code,
    Entry,
    Facts,
    Figure,
    Film,
    Interval,
    Note,
    Page,
    Part,
    Score,
    Scores,
    Section,
    Table,
)

AXES = {
    "persistence": ("Persistence", "What is out of sight is still there, unchanged, and goes on moving."),
    "causality": ("Causality", "What happens has causes: other causes, other effects; no cause, no effect."),
}
SIMPLE = ("linear", "frozen", "amnesia-8")
"""References that answer by one simple rule."""
ORDER = ("oracle", *SIMPLE, "copy", "shuffled")
FPS = 8
WEIGHT = 4_000_000  # bytes for the films of a page, before base64 makes them a third heavier
CURVES_OF = ("oracle", "linear", "copy")  # references drawn into curves

# -- page -----------------------------------------------------------------------------------------


def write(scores: Mapping[str, Any], films: Path, out: Path, force: bool) -> Path:
    """Write `report.html` into the folder `out`; returns its path.

    Args:
        scores: what `scores.json` of a run holds.
        films: folder of `FAMILY-best.npz` and `FAMILY-worst.npz`; a family without them has no films.
        out: folder of the page.
        force: write over a page that is there.

    Raises ValueError where the scores or a film are not what a run writes, or a page is there and `force` is not.
    """
    path = Path(out) / "report.html"
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; it is only written over when forced")
    page(scores, Path(films)).save(path, force=force)
    return path


def page(scores: Mapping[str, Any], films: Path) -> Page:
    """The page as a value; see `write`."""
    subject = _word(scores, "subject", "the scores")
    families = _families(scores)
    setting = _mapping(scores.get("setting"), "the setting")
    sections = [
        Section("Scores", _READ, [_table(families), *_beside(families), Note(_READ_MORE)]),
        *_axes(families, films),
        *_shifted(scores, families),
        *_pictures(scores.get("pictures")),
        Section("Run it again", _AGAIN, [Code(_command(subject, scores, setting))]),
    ]
    return Page(
        f"{subject}: does its world persist, do its causes have effects?",
        "Short films of simple worlds are shown up to a point, and the model says how they go on. What it answers is "
        "judged by where things are, read from its pixels, and never by how close the pixels come.",
        _facts(scores, setting),
        sections,
        "Every episode of this page is fixed by suite version, family, split and number: it can be drawn again, and "
        "put to any other model.",
        _indices(scores),
    )


_READ = (
    "1 is what the true world scores through the same read-out, 0 what answers without content do: the last frame "
    "repeated, or the future of another episode. The thin line is a 95 % interval over episodes. Orange ticks are "
    "simple references: a world at constant velocity, a world that stands still, and a true one that forgets what it "
    "has not seen for 8 frames. The tall tick is the best of them: a bar that does not pass it shows nothing that "
    "such a rule would not, and where it stands at 1, the family does not ask for what that rule lacks."
)
_READ_MORE = (
    "PSNR is not asked. It prefers a blur in which no object is left to a sharp world that is a little off, and cannot "
    "tell a world that stopped from one that went on.\n\n"
    "`unclipped` is the score before it is cut to 0..1: below 0 is worse than no content. `over reference` runs from 0 "
    "at the best simple reference to 1 at the true world."
)
_AGAIN = "Episodes that are finished are not asked again; without the folder, all of them are."


def _indices(scores: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for axis, index in _mapping(scores.get("indices"), "the indices").items():
        where = f"the index of {axis}"
        value = _interval(_mapping(index, where), "score", where)
        count, of = (int(_number(index.get(key), f"{where}: '{key}'")) for key in ("families", "of"))
        title, text = AXES.get(axis, (axis, ""))
        stands = f"{text} Mean of {count} of {of} families."
        if of:
            figures.append(Figure(title, Score(value, why="" if value else "no family of it has a score"), stands))
    return figures


def _facts(scores: Mapping[str, Any], setting: Mapping[str, Any]) -> Facts:
    items: list[tuple[str, str | int | float | None]] = [
        ("episodes per family", int(_number(scores.get("episodes"), "'episodes'"))),
        ("answers to a question", int(_number(scores.get("samples"), "'samples'"))),
    ]
    items += [(_spoken(name), f"{value}") for name, value in setting.items() if value not in ("", None)]
    return Facts([*items, ("suite version", f"{scores.get('version', '?')}")])


def _command(subject: str, scores: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    memory = scores.get("memory", {})
    who = subject.removesuffix(f" ({memory['name']})") if memory else subject
    words = ["maskworld probe", shlex.quote(who), "--families", ",".join(scores["families"])]
    if memory:
        words.append(f"--memory {memory['name']} --window {memory['window']} --stride {memory['stride']}")
    words += [f"--episodes {scores['episodes']} --samples {scores['samples']}"]
    usual = {"split": "salted" if setting.get("salt") else "dev", "tier": "flat", "shift": "none"}
    words += [f"--{name} {setting[name]}" for name in usual if setting.get(name, usual[name]) != usual[name]]
    if setting.get("salt"):
        words.append("--salt THE_SALT")
    return " ".join([*words, "-o DIR"])


# -- scores ---------------------------------------------------------------------------------------


def _table(families: Mapping[str, Mapping[str, Any]]) -> Scores:
    groups = []
    for axis, members in _by_axis(families):
        groups.append((AXES[axis][0], [_entry(id, family) for id, family in members.items()]))
    return Scores(groups, _HEAD)


_HEAD = ("unclipped", "best simple reference", "over reference", "episodes")


def _entry(id: str, family: Mapping[str, Any]) -> Entry:
    score, n = _score(id, family), int(_number(family.get("n"), f"{id}: 'n'"))
    best = f"{score.main} {score.others[score.main]:.2f}" if score.main else None
    over = _interval(family, "over_best", id)
    cells = (_plain(_mean(family, "unclipped", id)), best, _plain(over and over.value), n)
    title, question = _word(family, "title", id), _word(family, "question", id)
    return Entry(id, _capital(title), question, score, cells, f"family-{id}" if score.value else "")


def _score(id: str, family: Mapping[str, Any]) -> Score:
    if (value := _interval(family, "score", id)) is None:
        return Score(None, why=_word(family, "reason", id))
    references = {name: _mean(one, "score", f"{name} of {id}") for name, one in _references(id, family).items()}
    simple = {name: x for name in SIMPLE if (x := references.get(name)) is not None}
    best = family.get("best")
    return Score(value, simple, best if best in simple else "")


def _references(id: str, family: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What each reference made of the same episodes, in our order, with those that we do not know at the end."""
    given = _mapping(family.get("references") or {}, f"the references of {id}")
    names = sorted(given, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return {name: _mapping(given[name], f"the reference {name} of {id}") for name in names}


def _beside(families: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """The scores beside those of every reference that was asked the same."""
    references = {id: _references(id, family) for id, family in families.items()}
    names = list(dict.fromkeys(name for one in references.values() for name in one))
    rows = []
    for id, family in families.items():
        if references[id]:
            given = (_mean(references[id].get(name, {}), "score", f"{name} of {id}") for name in names)
            title = _capital(_word(family, "title", id))
            rows.append([id, title, _plain(_mean(family, "unclipped", id)), *map(_plain, given)])
    caption = "Unclipped, on the same episodes."
    return [Table(["", "family", "this model", *names], rows, caption)] if rows else []


def _plain(value: float | None, digits: int = 2) -> Interval | None:
    """A number without an interval."""
    return None if value is None else Interval(value, math.nan, math.nan, digits)


def _shifted(scores: Mapping[str, Any], families: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """A column for each shift that was asked beside the suite's own ranges."""
    shifted = {name: _mapping(one, f"the shift {name}") for name, one in (scores.get("shifted") or {}).items()}
    if not shifted:
        return []
    rows = []
    for id, family in families.items():
        there = [_mapping(one.get("scores"), f"the scores of the shift {name}") for name, one in shifted.items()]
        rows.append([id, _interval(family, "score", id), *(_plain(_mean(one, id, id)) for one in there)])
    text = "One range at a time is moved to where no training clip was: faster, larger, heavier, more, other colours."
    return [Section("Out of distribution", text, [Table(["", "as trained", *shifted], rows)])]


def _pictures(given: Any) -> list[Section]:
    """PSNR, SSIM and distances between sets of films, which enter no score."""
    if given is None:
        return []
    pictures = _mapping(given, "the pictures")
    blocks: list[Block] = []
    rows: list[list[Any]] = []
    for id, one in _mapping(pictures.get("families"), "the pictures").items():
        psnr, ssim = (_interval(one, name, f"{name} of {id}") for name in ("psnr", "ssim"))
        rows.append([id, psnr, ssim])
    if rows:
        caption = (
            f"Protocol {pictures['protocol']}, best of {pictures['best_of']}, at {pictures['size']} x "
            f"{pictures['size']}; the context is left out. Intervals over episodes."
        )
        blocks.append(Table(["", "PSNR (dB)", "SSIM"], rows, caption))
    distance = pictures.get("distance")
    if distance is not None:
        names = {"all": "answers from real films", "filled_halves": "half of the answers from the other real half"}
        names["real_halves"] = "one real half from the other"
        kinds = {"frechet": "Frechet", "mmd": "squared MMD, unbiased"}
        rows = [
            [text, *(_plain(_mean(distance[kind], which, f"the {kind} distance"), 3) for kind in kinds)]
            for which, text in names.items()
        ]
        caption = (
            f"Features of {distance['extractor']}; {distance['films']} films of {distance['frames']} frames at "
            f"{distance['size']} x {distance['size']}, the context left out. The two halves compare like with like."
        )
        blocks.append(Table(["", *kinds.values()], rows, caption))
    if pictures.get("absent"):
        blocks.append(Note(f"Distances between sets of films: n/a. {pictures['absent']}", warning=True))
    return [Section("Pictures", _BESIDE, blocks)] if blocks else []


_BESIDE = (
    "How near the pixels come. None of this enters a score: a future of another world is perfect to a distance between "
    "sets, and a blur in which nothing is left is good to PSNR."
)


# -- families -------------------------------------------------------------------------------------


def _axes(families: Mapping[str, Mapping[str, Any]], films: Path) -> Iterator[Section]:
    shown = {id: _found(films, id) for id in families}
    videos = 1 + sum(1 + len(held) for found in shown.values() for held in found.values())  # about
    for axis, members in _by_axis(families):
        parts: list[Block] = []
        missing = []
        for id, family in members.items():
            entry = _entry(id, family)
            if entry.score.value is None:
                missing.append(f"{id} {entry.title.lower()}: {entry.score.why}.")
                continue
            blocks: list[Block] = [_film(held, which, WEIGHT // videos) for which, held in shown[id].items()]
            parts.append(Part(entry, [*blocks, *_surprise(shown[id]), *_curves(id, family), *_numbers(id, family)]))
        if missing:
            parts.append(Note("Not scored:\n\n" + "\n\n".join(missing), warning=True))
        yield Section(AXES[axis][0], AXES[axis][1], parts)


def _numbers(id: str, family: Mapping[str, Any]) -> list[Block]:
    """The raw error and what else was measured, beside the references."""
    references = _references(id, family)
    given = {"error": family, **dict.fromkeys(_mapping(family.get("numbers"), f"the numbers of {id}"), family)}
    rows = []
    for name in given:
        mine = _interval(family if name == "error" else family["numbers"], name, f"{name} of {id}")
        digits = mine.digits if mine else 2
        row = [_spoken(name), mine]
        for other, one in references.items():
            where = f"the reference {other} of {id}"
            of = one if name == "error" else _mapping(one.get("numbers") or {}, where)
            value = _mean(of, name, where)
            row.append(_plain(value, digits))
        rows.append(row)
    return [Table(["", "this model", *references], rows)]


def _curves(id: str, family: Mapping[str, Any]) -> list[Block]:
    out = []
    for name, curve in _mapping(family.get("curves"), f"the curves of {id}").items():
        where = f"the curve {name} of {id}"
        points = [_point(point, where) for point in _list(_mapping(curve, where).get("points"), where)]
        x, y, low, high = ([*column] for column in zip(*points, strict=True)) if points else ([], [], [], [])
        series = [Series("this model", x, y, low, high)]
        for other, one in _references(id, family).items():
            curves = _mapping(one.get("curves") or {}, where)
            if other in CURVES_OF and name in curves:
                pairs = [tuple(_number(v, where) for v in _list(p, where)) for p in _list(curves[name], where)]
                if any(len(pair) != 2 for pair in pairs):
                    raise ValueError(f"{where}: a point of {other} is x and y")
                series.append(Series(other, [p[0] for p in pairs], [p[1] for p in pairs], baseline=True))
        axes = _list(curve.get("axes"), where)
        if len(axes) != 2 or not all(isinstance(axis, str) for axis in axes):
            raise ValueError(f"{where}: its axes are two names, not {axes!r}")
        if any(math.isfinite(value) for value in y):
            out.append(Curve(series, axes[0] or "x", axes[1] or name))
    return out


def _point(given: Any, where: str) -> tuple[float, float, float, float]:
    """x, mean, low, high; NaN for what is missing."""
    point = _mapping(given, where)
    values = (point.get(key) for key in ("mean", "low", "high"))
    mean, low, high = (math.nan if value is None else _number(value, where) for value in values)
    return _number(point.get("x"), where), mean, low, high


# -- films ----------------------------------------------------------------------------------------


def _found(films: Path, id: str) -> dict[str, dict[str, np.ndarray]]:
    """The films of a family: best and worst, as far as there are any."""
    paths = {which: films / f"{id}-{which}.npz" for which in ("best", "worst")}
    told = {which: _told(path) for which, path in paths.items() if path.exists()}
    if len(told) == 2 and len({int(held.get("index", i)) for i, held in enumerate(told.values(), -2)}) == 1:
        return {"best and worst": told["best"]}
    return told


def _told(path: Path) -> dict[str, np.ndarray]:
    """What a film's file holds, checked. Raises ValueError where it is not a film of a run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a film of a run: {error}") from error
    if lost := {"prompt", "truth"} - set(held):
        raise ValueError(f"{path} is not a film of a run: it holds no {' and no '.join(sorted(lost))}")
    side, length = held["prompt"].shape[1:3], len(held["truth"])
    for name in ("prompt", *_AFTER):
        frames = held.get(name)
        if frames is None:
            continue
        want = len(frames) if name == "prompt" else length
        if not want or frames.dtype != np.uint8 or frames.shape != (want, *side, 3):
            raise ValueError(f"{path}: the {name} is {frames.dtype} {frames.shape}, not uint8 {(want, *side, 3)}")
    if "surprise" in held and held["surprise"].shape != (length,):
        raise ValueError(f"{path}: the surprise is one number a frame, not {held['surprise'].shape}")
    return held


_AFTER = ("truth", "observed", "prediction")  # what a film may hold of the frames after the prompt


def _film(held: Mapping[str, np.ndarray], which: str, weight: int) -> Film:
    """Truth, prediction and error side by side, and what was shown instead of the truth, where that is so."""
    prompt, truth = held["prompt"], held["truth"]
    known = np.arange(len(prompt) + len(truth)) < len(prompt)
    rows = [Row("truth", np.concatenate([prompt, truth]))]
    seen = truth
    if "observed" in held:
        seen = held["observed"]
        rows.append(Row("shown", np.concatenate([prompt, seen])))
    if "prediction" in held:
        rows.append(Row("prediction", np.concatenate([prompt, held["prediction"]]), known))
        rows.append(Row("error", np.concatenate([np.zeros_like(prompt), _error(seen, held["prediction"])])))
    episode = f": episode {int(held['index'])}" if "index" in held else ""
    error = f", error {float(held['error']):.2f}" if "error" in held else ""
    return Film(rows, FPS, _capital(which) + episode + error, small=True, weight=weight)


def _surprise(films: Mapping[str, Mapping[str, np.ndarray]]) -> list[Block]:
    """How unexpected the frames of these films were, where that was told."""
    series = []
    for which, held in films.items():
        if "surprise" in held:
            values = held["surprise"].astype(np.float64).tolist()
            series.append(Series(which, list(range(1, len(values) + 1)), values))
    return [Curve(series, "frames after the prompt", "surprise")] if series else []


def _error(truth: UInt8[np.ndarray, "t h w 3"], answer: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """The largest difference of the three channels, from black over orange to white."""
    share = np.abs(truth.astype(np.int16) - answer).max(-1).astype(np.float32)[..., None] / 255
    colours = np.array([[0, 0, 0], [232, 113, 10], [255, 244, 224]], np.float32)
    low, high = np.minimum(2 * share, 1), np.maximum(2 * share - 1, 0)
    return (colours[0] + low * (colours[1] - colours[0]) + high * (colours[2] - colours[1]) + 0.5).astype(np.uint8)


# -- reading what is given ------------------------------------------------------------------------


def _families(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    families = _mapping(scores.get("families"), "the families of the scores")
    if not families:
        raise ValueError("the scores hold no family")
    for id, family in families.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", id):
            raise ValueError(f"a family is named by letters and digits, not {id!r}")
        if (axis := _mapping(family, id).get("axis")) not in AXES:
            raise ValueError(f"the axis of {id} is one of {', '.join(AXES)}, not {axis!r}")
    return dict(families)


def _by_axis(families: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Mapping[str, Any]]]]:
    for axis in AXES:
        if members := {id: family for id, family in families.items() if family["axis"] == axis}:
            yield axis, members


def _mapping(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} should be names with values, not {given!r}")
    return given


def _word(given: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(word := given.get(key), str) or not word:
        raise ValueError(f"{where}: '{key}' should be a text, not {word!r}")
    return word


def _number(given: Any, where: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{where}: a number is wanted, not {given!r}")
    return float(given)


def _list(given: Any, where: str) -> Sequence[Any]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f"{where}: a list is wanted, not {given!r}")
    return given


def _interval(given: Mapping[str, Any], key: str, where: str) -> Interval | None:
    """A mean with its interval, at digits that fit its size; None where there is none."""
    if given.get(key) is None:
        return None
    held = _mapping(given[key], f"{where}: '{key}'")
    if (mean := held.get("mean")) is None:
        return None
    ends = [math.nan if (end := held.get(e)) is None else _number(end, f"{where}: '{key}'") for e in ("low", "high")]
    mean = _number(mean, f"{where}: '{key}'")
    size = max(abs(x) for x in (mean, *ends) if math.isfinite(x))
    digits = next((d for d, least in ((0, 99.95), (1, 9.995), (2, 0.0995), (3, 0.00995)) if size >= least), 4)
    return Interval(mean, ends[0], ends[1], digits if size > 0 else 2)


def _mean(given: Mapping[str, Any], key: str, where: str) -> float | None:
    """A mean alone; None where there is none."""
    value = given.get(key)
    if isinstance(value, Mapping):
        value = value.get("mean")
    if value is None:
        return None
    return value if math.isfinite(value := _number(value, f"{where}: '{key}'")) else None


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("R2", "R\N{SUPERSCRIPT TWO}")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
