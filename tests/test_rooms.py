"""Who may import whom: the table of the house, read from the imports themselves."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

import maskworld

PACKAGE = Path(maskworld.__file__).parent
NOUNS = {"clip", "noise", "solve", "reveal"}

# A room may import these rooms, itself and nothing else of ours.
MAY: dict[str, set[str]] = {
    "clip": set(),
    "noise": set(),
    "reveal": set(),
    "solve": {"noise"},
    "verbs": {"clip", "noise"},
    "masks": {"clip", "noise", "verbs"},
    "nets": set(),
    "tokenizers": {"clip", "noise", "masks", "verbs", "nets"},
    "papers": NOUNS | {"masks", "verbs", "nets"},
    "memory": {"clip", "nets"},
    "rollout": {"clip", "noise", "verbs", "memory"},
    "plan": {"clip", "noise", "verbs"},
    "planners": {"noise", "probes"},
    "control": {"clip", "noise", "verbs", "plan", "nets", "papers", "data"},
    "probes": {"clip", "noise", "masks", "verbs", "rollout", "plan", "data"},
    "returns": {"clip", "noise", "data", "papers", "probes"},
    "data": {"clip", "noise"},
    "report": {"clip"},
    "checkpoint": set(),
    "train": {"clip", "noise", "masks", "verbs", "checkpoint"},
    "convert": {"nets", "papers"},
}
EVERYTHING = {"world", "commands", "recipes", "__main__"}


def room(module: str) -> str:
    return module.split(".")[1]


def imports(file: Path) -> set[str]:
    """Rooms of ours that a file imports, late imports and those for types included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: a relative import"
            continue
        found |= {room(name) for name in names if name.startswith("maskworld.")}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def room_of(file: Path) -> str:
    part = file.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(file: Path) -> None:
    here = room_of(file)
    assert here in MAY or here in EVERYTHING, f"{here} is a new room: say in this table what it may import"
    if here in MAY:
        extra = imports(file) - MAY[here] - {here}
        assert not extra, f"{here} may not import {extra}"


def test_no_paper_imports_another() -> None:
    papers = [p for p in FILES if room_of(p) == "papers"]
    assert papers
    for file in papers:
        assert "papers" not in imports(file), f"{file.name} imports another paper"


def test_nobody_but_the_command_line_opens_a_recipe() -> None:
    for file in FILES:
        if room_of(file) not in {"recipes", "commands"}:
            assert "recipes" not in imports(file), f"{file} imports a recipe"


def test_inits_are_empty() -> None:
    for file in PACKAGE.rglob("__init__.py"):
        assert not file.read_text().strip(), f"{file} is not empty"


def test_the_table_has_no_rooms_that_are_gone() -> None:
    there = {room_of(file) for file in FILES}
    assert set(MAY) <= there, f"no such room: {set(MAY) - there}"


def test_the_table_has_no_circles() -> None:
    reach = {name: set(rooms) for name, rooms in MAY.items()}
    for middle, start in itertools.product(reach, reach):
        if middle in reach[start]:
            reach[start] |= reach[middle]
    for name, rooms in reach.items():
        assert name not in rooms, f"{name} comes back to itself"
