"""How near the pictures come, beside what they show: PSNR, SSIM and distances between sets of films.

These numbers enter no score. A film of another world's future is perfect to a distance between sets, and a blur in
which nothing is left is good to PSNR: so they stand beside the scores, never in them. Answers are taken down as they
come (`watched`), the context is never part of them, and every distance says over which features, of how many films of
how many frames it is, beside the distance of real films from real ones at the same number.

Sections: taking down - summing up.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskworld.clip import of_uint8
from maskworld.probes.base import Asked, Subject, check_answer
from maskworld.probes.quality import MCVD, Extractor, Protocol, extract, frechet, kernel_mmd, psnr, ssim
from maskworld.probes.stage import VIEW
from maskworld.probes.statistics import intervals

FRAMES = 8
"""Of each answer, from its first on, that a distance between sets looks at: as many as every family has."""

# -- taking down ----------------------------------------------------------------------------------


@dataclass
class Pictures:
    """What was taken down of the answers, and where it is kept: a file to go on from, or nowhere.

    Only families that ask for one future are taken: with chance, many are right. An extractor whose weights are not
    there is n/a, and never another one under its name.
    """

    extractor: Extractor | None = None
    protocol: Protocol = MCVD
    path: Path | None = None
    rows: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short as it was written
            if row["extractor"] == self._name:
                self.rows[row["family"], row["index"], row["branch"]] = row

    @property
    def _name(self) -> str | None:
        return None if self.extractor is None else self.extractor.name

    def take(self, asked: Asked, answer: np.ndarray) -> None:
        """Compare one answer with the truth. What is no answer is left to those who mark it."""
        question = asked.question
        if asked.family.kind != "predict" or question.chances:
            return
        try:
            check_answer(asked, answer)
        except ValueError:
            return
        truth = of_uint8(torch.from_numpy(question.truth(asked.setting.tier))).frames[:, 0]
        drawn = torch.cat([of_uint8(torch.from_numpy(one)).frames[:, 0] for one in answer])
        row: dict[str, Any] = {
            "family": asked.family.id,
            "index": asked.index,
            "branch": asked.branch,
            "extractor": self._name,
            "size": truth.shape[-1],
            "samples": len(drawn),
            "psnr": psnr(drawn, truth.expand_as(drawn), self.protocol).max().item(),
            "ssim": ssim(drawn, truth.expand_as(drawn), self.protocol).max().item(),
        }
        if self.extractor is not None and question.horizon >= FRAMES:
            both = torch.cat([truth[:, :FRAMES], drawn[:1, :FRAMES]])
            if both.shape[-1] != VIEW:
                flat = both.flatten(0, 1)
                flat = torch.nn.functional.interpolate(flat, (VIEW, VIEW), mode="bilinear", antialias=True)
                both = flat.unflatten(0, both.shape[:2])
            real, fake = extract(self.extractor, both)
            row |= {"real": real.tolist(), "fake": fake.tolist()}
        self.rows[row["family"], row["index"], row["branch"]] = row
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def watched(subject: Subject, pictures: Pictures) -> Subject:
    """The same subject; its answers are taken down on their way."""

    def answer(asked: Sequence[Asked]) -> list[np.ndarray]:
        answers = subject.answer(asked)
        if isinstance(answers, list) and len(answers) == len(asked):
            for one, given in zip(asked, answers, strict=True):
                pictures.take(one, given)
        return answers

    return dataclasses.replace(subject, answer=answer)


# -- summing up -----------------------------------------------------------------------------------


def summary(pictures: Pictures, families: Sequence[str]) -> dict[str, Any]:
    """Means with intervals over episodes for each family, and the distances of all their films together.

    `real_halves` is the distance of every other real film from the rest, and `filled_halves` that of every other
    answer from the same rest: like for like. All numbers are plain, for JSON; what was not measured is None.
    """
    rows = [row for row in pictures.rows.values() if row["family"] in families]
    by_family: dict[str, Any] = {}
    for name in families:
        mine = [row for row in rows if row["family"] == name]
        if not mine:
            continue
        table = np.array([[row["psnr"], row["ssim"]] for row in mine])
        both = intervals(table, [row["index"] for row in mine])
        by_family[name] = {
            which: {"mean": x.mean, "low": _finite(x.low), "high": _finite(x.high), "n": x.n}
            for which, x in zip(("psnr", "ssim"), both, strict=True)
        }
    return {
        "protocol": pictures.protocol.name,
        "best_of": max((row["samples"] for row in rows), default=None),
        "size": max((row["size"] for row in rows), default=None),
        "context_included": False,
        "families": by_family,
        "distance": _distance(pictures, rows),
    }


def _distance(pictures: Pictures, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    rows = [row for row in rows if "real" in row]
    if pictures.extractor is None or len(rows) < 4:
        return None
    real, fake = (torch.tensor([row[which] for row in rows], dtype=torch.float64) for which in ("real", "fake"))

    def measured(of: Callable[[Tensor, Tensor], float]) -> dict[str, float]:
        return {
            "all": of(real, fake),
            "real_halves": of(real[::2], real[1::2]),
            "filled_halves": of(real[::2], fake[1::2]),
        }

    return {
        "extractor": pictures.extractor.name,
        "films": len(rows),
        "frames": FRAMES,
        "size": VIEW,
        "frechet": measured(frechet),
        "mmd": measured(kernel_mmd),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
