"""What studies share: arrays that are made once, tables, and putting them between the two marks of a document."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Told:
    """What is written (Markdown) and what is handed on (JSON)."""

    lines: list[str] = field(default_factory=list)
    rows: dict[str, Any] = field(default_factory=dict)

    def table(self, title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> None:
        self.lines += ["", title, "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        self.lines += [f"| {' | '.join(row)} |" for row in body]

    def keep(self, kind: str, **row: Any) -> None:
        self.rows.setdefault(kind, []).append(row)


def kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from a file, which is made where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{os.getpid()}.{path.name}")
        np.savez(beside, **make())  # type: ignore[arg-type]
        os.replace(beside, path)
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write(path: Path, study: str, text: str) -> None:
    """Replace what stands between `<!-- studies/STUDY.py -->` and its end. Raises ValueError where there are no such
    marks. The document is written beside and renamed."""
    first, last = f"<!-- studies/{study}.py -->", f"<!-- end of studies/{study}.py -->"
    old = path.read_text(encoding="utf-8")
    if first not in old or last not in old:
        raise ValueError(f"{path} lacks the marks {first} and {last}, between which the tables go")
    before, rest = old.split(first, 1)
    beside = path.with_suffix(".part")
    beside.write_text(f"{before}{first}\n{text}\n{last}{rest.split(last, 1)[1]}", encoding="utf-8")
    beside.replace(path)
