"""`maskworld probe`: put questions to a model, or write them as files, mark what comes back, compare two runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json as json_
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tqdm import tqdm

from maskworld import checkpoint
from maskworld.__main__ import Probing, Remembering
from maskworld.commands.memories import Chosen
from maskworld.commands.subjects import probed
from maskworld.probes import exchange
from maskworld.probes import pictures as pictures_
from maskworld.probes import suite as suite_
from maskworld.probes.base import SHIFTS, Family, Setting, Subject
from maskworld.probes.pictures import Pictures, watched
from maskworld.probes.quality import Extractor, extractor_of
from maskworld.probes.statistics import Interval
from maskworld.probes.suite import FAMILIES, Index, Progress, Result, Score, Suite

LISTED = 20  # troubles that are told one by one

# -- commands -------------------------------------------------------------------------------------


def probe_command(
    model: str,
    out: Path | None,
    probing: Probing,
    remembering: Remembering,
    workers: int,
    steps: int | None,
    solver: str | None,
    extractor: str,
    ood: bool,
    force: bool,
    json: bool,
) -> int:
    """Exit code 0; 3 where the model failed at a family; 130 where it was interrupted."""
    began, suite = time.perf_counter(), _suite(probing)
    subject, chosen, stride = probed(model, suite.setting, steps, solver, remembering)
    features, absent = _extractor(extractor)
    if ood and suite.setting.shift != "none":
        raise ValueError(f"--ood asks in every shift beside none: leave out --shift {suite.setting.shift}")
    about: dict[str, Any] = {"model": model, "weights": _digest(model), "steps": steps, "solver": solver}
    if chosen is not None:
        about |= {"memory": {**chosen.as_dict(), "stride": stride}}
    _claim(out, about, force)
    pictures = Pictures(features, path=None if out is None else out / PICTURES)
    plain = out is None or model.startswith("reference:")  # which is marked where it is drawn, and not asked here
    result = _run(subject if plain else watched(subject, pictures), suite, out, workers)
    shifted = {}
    for shift in SHIFTS[1:] if ood else ():
        other = dataclasses.replace(suite, setting=dataclasses.replace(suite.setting, shift=shift))
        shifted[shift] = _run(subject, other, None if out is None else out / SHIFTED / shift, workers)
    return _tell(result, out, "probe", time.perf_counter() - began, json, pictures, absent, shifted, chosen, stride)


def export_command(folder: Path, probing: Probing, layout: exchange.Layout, json: bool) -> int:
    """Exit code 0."""
    suite = _suite(probing)
    with _bar("episode") as bar:
        manifest = exchange.export(
            folder,
            suite.families,
            suite.episodes,
            suite.setting,
            suite=probing.suite,
            samples=suite.samples,
            layout=layout,
            on_progress=lambda done, total: _move(bar, done, total),
        )
    where = "rollouts" if layout == "worldproof" else "answers"
    print(f"{len(manifest.questions)} questions of {len(manifest.digests)} families in {folder}")
    for name, why in manifest.left_out.items():
        print(f"{name} is left out: {why}")
    print(
        f"answers go into {folder / where}, as {folder / exchange.MANIFEST} says; then: maskworld probe score {folder}"
    )
    if json:
        found = {"questions": len(manifest.questions), "families": list(manifest.digests)}
        print(json_.dumps({"command": "probe export", "folder": str(folder), **found, "left_out": manifest.left_out}))
    return 0


def score_command(
    folder: Path,
    out: Path | None,
    salt: str | None,
    name: str | None,
    passive: bool,
    workers: int,
    extractor: str,
    force: bool,
    json: bool,
) -> int:
    """Exit code 0; 3 where answers are missing or wrong, each of which is told on stderr."""
    began = time.perf_counter()
    if name is not None and (not name or name.startswith("reference:")):
        raise ValueError(f"--name {name!r}: a name of who answered, and not of a reference")
    features, absent = _extractor(extractor)
    manifest = exchange.manifest_of(folder)
    setting = manifest.setting(salt or "")
    exchange.checked(manifest, FAMILIES, setting)
    asked = [FAMILIES[id] for id in manifest.digests]
    leave = [family.id for family in asked if passive and family.acts]
    troubles = exchange.troubles(folder, leave)
    for trouble in troubles[:LISTED]:
        print(f"maskworld: {trouble.what}", file=sys.stderr)
    if len(troubles) > LISTED:
        print(f"maskworld: and {len(troubles) - LISTED} more", file=sys.stderr)
    whole = tuple(family for family in asked if family.id not in {trouble.family for trouble in troubles})
    subject = exchange.subject(folder, name, actions=not passive)
    _claim(out, {"answers": str(folder.resolve()), "name": subject.name}, force)
    if out is not None:  # answers may have changed since
        for left in ("episodes.jsonl", PICTURES, "films"):
            _remove(out / left)
    suite = Suite(whole or tuple(asked), manifest.episodes, setting, manifest.samples)
    nothing = Index(None, 0, 0)
    pictures = Pictures(features, path=None if out is None else out / PICTURES)
    taken = subject if out is None else watched(subject, pictures)
    result = _run(taken, suite, out, workers) if whole else Result(subject.name, suite, {}, nothing, nothing)
    result = _completed(result, manifest, troubles)
    return _tell(result, out, "probe score", time.perf_counter() - began, json, pictures, absent)


def compare_command(a: Path, b: Path, json: bool) -> int:
    """Exit code 0."""
    found = suite_.compare(_scores(a), _scores(b))
    rows = [["", found["a"], found["b"], "difference", "p (Holm)", "n"]]
    for id, row in found["families"].items():
        if row.get("reason"):
            rows.append([id, "n/a: " + row["reason"]])
            continue
        ends = row["difference"]
        rows.append([id, _two(row["a"]), _two(row["b"]), _span(_interval(ends)), f"{row['p_holm']:.2g}", str(row["n"])])
    print(_columns(rows))
    print()
    for axis in AXES:
        index = found[axis]
        if index["difference"] is not None:
            print(f"{axis}: {_span(_interval(index['difference']))} over {index['families']} families")
    if json:
        print(json_.dumps({"command": "probe compare", **found}))
    return 0


# -- what is asked, and where it goes -------------------------------------------------------------


def _suite(probing: Probing) -> Suite:
    setting = Setting("salted" if probing.salt else probing.split, probing.tier, probing.shift, probing.salt or "")
    if probing.salt is not None and not probing.salt:
        raise ValueError("--salt is empty: a salted split needs a word that nobody knows")
    if probing.salt and probing.split != "dev":
        raise ValueError(f"--salt draws a split of its own, and not the {probing.split} split")
    for name in ("episodes", "samples"):
        if (count := getattr(probing, name)) is not None and count < 1:
            raise ValueError(f"--{name} {count}: 1 or more")
    changes: dict[str, Any] = {"setting": setting, "samples": probing.samples}
    if probing.episodes is not None:
        changes["episodes"] = probing.episodes
    if probing.families is not None:
        ids = [id.strip() for id in probing.families.split(",") if id.strip()]
        if not ids:
            raise ValueError(f"--families {probing.families!r} names none; there are {', '.join(FAMILIES)}")
        changes["families"] = suite_.families_of(ids)
    return (suite_.quick if probing.suite == "quick" else suite_.full)(**changes)


def _digest(model: str) -> str | None:
    """Of the weights of a checkpoint; None for what has no file."""
    if model.startswith(("reference:", "python:")):
        return None
    with checkpoint.find(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PICTURES, SHIFTED = "pictures.jsonl", "shifted"
_OURS = ("run.json", "episodes.jsonl", "references.jsonl", PICTURES, SHIFTED, "scores.json", "report.html", "films")


def _extractor(text: str) -> tuple[Extractor | None, str | None]:
    """The extractor of these words; or none, and why, where its weights or its package are not there."""
    try:
        return extractor_of(text), None
    except ValueError as error:
        if text.partition(":")[0] in ("domain", "torchscript", "hf") and text.partition(":")[2]:
            return None, f"{text}: {error}"
        raise


def _claim(out: Path | None, about: Mapping[str, Any], force: bool) -> None:
    """Make the folder this run's. Raises ValueError where it is another one's, unless it is forced."""
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, and no folder for scores")
    if force:
        for name in _OURS:
            _remove(out / name)
    path = out / "run.json"
    if path.exists():
        try:
            held = json_.loads(path.read_text())
        except json_.JSONDecodeError:
            held = {}
        if held != dict(about):
            differ = [name for name in {**held, **about} if held.get(name) != about.get(name)]
            raise ValueError(
                f"{out} holds another run (its {', '.join(differ)} differ{'s' * (len(differ) == 1)}): "
                "choose another folder, or begin again with --force"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    _write_json(path, dict(about))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json_.dumps(value) + "\n")
    os.replace(beside, path)


def _scores(path: Path) -> dict[str, Any]:
    file = path / "scores.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} has no scores: give the folder of a finished run, or its scores.json")
    try:
        found = json_.loads(file.read_text())
    except (json_.JSONDecodeError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict) or found.get("schema") != suite_.SCHEMA:
        raise ValueError(f"{file} does not hold the scores of a run")
    return found


# -- running --------------------------------------------------------------------------------------


def _run(subject: Subject, suite: Suite, out: Path | None, workers: int) -> Result:
    if workers < 0:
        raise ValueError(f"--workers {workers}: 0 (all in one process) or more")
    with _bar("episode") as bar:

        def show(progress: Progress) -> None:
            bar.set_description(progress.family, refresh=False)
            left = "" if progress.left is None else f", {tqdm.format_interval(int(progress.left))} left"
            bar.set_postfix_str(left, refresh=False)
            _move(bar, progress.done, progress.total)

        try:
            return suite_.run(subject, suite, out, show, workers)
        except KeyboardInterrupt:
            kept = "nothing is kept" if out is None else f"finished episodes are kept: again with -o {out} goes on"
            raise KeyboardInterrupt(kept) from None


@contextmanager
def _bar(unit: str) -> Iterator[tqdm]:
    form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    quiet = not sys.stderr.isatty()
    with tqdm(unit=unit, leave=False, disable=quiet, dynamic_ncols=True, bar_format=form) as bar:
        yield bar


def _move(bar: tqdm, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _completed(result: Result, manifest: exchange.Manifest, troubles: Sequence[exchange.Trouble]) -> Result:
    """With the families that were not run, and why."""
    scores = dict(result.scores)
    for id in (*manifest.digests, *manifest.left_out):
        mine = [trouble.what for trouble in troubles if trouble.family == id]
        if mine:
            more = f", and {len(mine) - 1} more" if len(mine) > 1 else ""
            scores[id] = Score(FAMILIES[id], 0, {}, reason=mine[0] + more, failed=True)
        elif id in manifest.left_out:
            scores[id] = Score(FAMILIES[id], 0, {}, reason=manifest.left_out[id])
    added = [FAMILIES[id] for id in scores if id not in result.scores]
    return dataclasses.replace(
        result,
        suite=dataclasses.replace(result.suite, families=tuple(FAMILIES[id] for id in FAMILIES if id in scores)),
        scores={id: scores[id] for id in FAMILIES if id in scores},
        **{axis: _wider(getattr(result, axis), axis, added) for axis in AXES},
    )


def _wider(index: Index, axis: str, added: Sequence[Family]) -> Index:
    return dataclasses.replace(index, of=index.of + sum(family.axis == axis for family in added))


# -- telling --------------------------------------------------------------------------------------

AXES: tuple[Literal["persistence", "causality"], ...] = ("persistence", "causality")
CURVED = ("P1", "P2a")  # families whose curves are told: what is recalled after a gap


def _tell(
    result: Result,
    out: Path | None,
    command: str,
    seconds: float,
    json: bool,
    pictures: Pictures,
    absent: str | None,
    shifted: Mapping[str, Result] = MappingProxyType({}),
    chosen: Chosen | None = None,
    stride: int | None = None,
) -> int:
    """The table, scores.json, the page and the line of JSON; gives the exit code."""
    page, memory = None, {} if chosen is None else {"memory": {**chosen.as_dict(), "stride": stride}}
    if out is not None:
        from maskworld.report.probes import write

        scores = suite_.as_dict(result)
        scores["pictures"] = {**pictures_.summary(pictures, list(result.scores)), "absent": absent}
        scores["shifted"] = {shift: summary(other) for shift, other in shifted.items()}
        scores |= memory
        _write_json(out / "scores.json", scores)
        page = write(scores, out / "films", out, force=True)
    print(as_table(result))
    if chosen is not None:
        print(f"memory: {chosen.told()}")
    if shifted:
        print(f"\n{shift_table(result, shifted)}")
    if page is not None:
        print(f"\n{page.resolve()}: open it in a browser")
    if json:
        print(
            json_.dumps(
                {
                    "command": command,
                    **summary(result),
                    **memory,
                    **({"shifted": {shift: summary(other) for shift, other in shifted.items()}} if shifted else {}),
                    "report": page and str(page),
                    "seconds": round(seconds, 1),
                }
            )
        )
    return 3 if any(one.failed for one in (result, *shifted.values())) else 0


def shift_table(result: Result, shifted: Mapping[str, Result]) -> str:
    """Scores in the suite's own ranges, and with one of them moved to where no training clip was."""
    every = {"none": result, **shifted}
    rows = [["shift", *every]]
    for id in result.scores:
        found = [one.scores[id].score for one in every.values()]
        rows.append([id, *("n/a" if score is None else _two(score.mean) for score in found)])
    for axis in AXES:
        indices = [getattr(one, axis).score for one in every.values()]
        rows.append([axis, *("n/a" if score is None else _two(score.mean) for score in indices)])
    return _columns(rows)


def as_table(result: Result) -> str:
    """The result for people: a line for each family, the recall curves, the indices."""
    rows = [["", "score [95 %]", "best simple reference", "over it", "episodes"]]
    for id, score in result.scores.items():
        if score.score is None:
            rows.append([id, f"n/a: {' '.join((score.reason or '').split())}"])
            continue
        best = f"{score.best} {_two(score.beside[score.best].score)}" if score.best else ""
        over = "-" if score.over_best is None else _two(score.over_best.mean)  # the reference itself scores 1
        rows.append([id, _span(score.score), best, over, str(score.n)])
    lines = [
        f"{result.subject}: 0 is no better than a copy or another world's future, 1 is the truth",
        "",
        _columns(rows),
    ]
    curves = [
        f"{id} {name}, {' -> '.join(score.family.curves.get(name, ('x', 'y')))}: "
        + "  ".join(f"{point.x:g}: {_two(point.y.mean)}" for point in points)
        for id, score in result.scores.items()
        for name, points in (score.curves.items() if id in CURVED else ())
    ]
    lines += ["", *curves] if curves else []
    lines.append("")
    for axis in AXES:
        index: Index = getattr(result, axis)
        if index.of:
            value = "n/a" if index.score is None else _span(index.score)
            lines.append(f"{axis}: {value}, mean of {index.families} of {index.of} families")
    return "\n".join(lines)


def summary(result: Result) -> dict[str, Any]:
    """The result for programs, in short; scores.json has all of it."""
    indices = {axis: getattr(result, axis).score for axis in AXES}
    return {
        "subject": result.subject,
        "episodes": result.suite.episodes,
        **{axis: score and score.mean for axis, score in indices.items()},
        "scores": {id: score.score and score.score.mean for id, score in result.scores.items()},
        "curves": {
            id: {name: [[point.x, point.y.mean] for point in points] for name, points in score.curves.items()}
            for id, score in result.scores.items()
            if score.curves
        },
        "reasons": {id: score.reason for id, score in result.scores.items() if score.reason},
        "failed": list(result.failed),
    }


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # and never -0.00


def _span(value: Interval) -> str:
    ends = "" if math.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]"
    return _two(value.mean) + ends


def _interval(plain: Mapping[str, Any]) -> Interval:
    mean, low, high = (math.nan if plain[name] is None else plain[name] for name in ("mean", "low", "high"))
    return Interval(mean, low, high, plain["n"])


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, aligned; a row that is shorter than the first may run over."""
    width = len(rows[0])
    widths = [max(len(row[i]) for row in rows if len(row) == width or i == 0) for i in range(width)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows)
