"""Writes down what the first episodes of every family are, as hashes of their states and their pixels.

    python scripts/golden.py    -> maskworld/probes/golden.json

Run it when a scene changes on purpose, together with a new VERSION of the suite. Another platform may round otherwise;
the file says where it was made.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pymunk

import maskworld.probes
from maskworld.probes.base import VERSION, Setting, fingerprint
from maskworld.probes.stage import Tier
from maskworld.probes.suite import FAMILIES

FILE = Path(maskworld.probes.__file__).parent / "golden.json"
EPISODES: dict[Tier, int] = {"flat": 3, "textured": 1}


def made_by() -> dict[str, str]:
    """On what the numbers may depend."""
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "pymunk": pymunk.version,
    }


def golden() -> dict[str, Any]:
    """The first episodes of the dev split: [SHA-256 of the states, of the pixels] of each."""
    return {
        "version": VERSION,
        "made by": made_by(),
        "families": {
            id: {
                tier: [list(fingerprint(family.episode(index, Setting(tier=tier)), tier)) for index in range(count)]
                for tier, count in EPISODES.items()
            }
            for id, family in FAMILIES.items()
        },
    }


def main() -> int:
    FILE.write_text(json.dumps(golden(), indent=1) + "\n")
    print(f"{len(FAMILIES)} families in {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
