"""Tables of a study, put between the two marks that a document has for it."""

from __future__ import annotations

from pathlib import Path


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
