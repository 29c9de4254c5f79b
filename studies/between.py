"""Tables of a study, and putting them between the two marks that a document has for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
