"""Pictures beside the scores: known values, what a distance between sets cannot see, and going on from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maskworld.probes.base import Asked, Setting
from maskworld.probes.pictures import FRAMES, Pictures, summary, watched
from maskworld.probes.quality import random3d
from maskworld.probes.references import drawn, reference
from maskworld.probes.suite import FAMILIES


def asked(id: str, index: int) -> list[Asked]:
    family = FAMILIES[id]
    episode = drawn(family, index, Setting())
    return [Asked(question, family, index, branch, Setting()) for branch, question in enumerate(episode.questions)]


def taken(name: str, ids: tuple[str, ...] = ("P1", "C1"), episodes: int = 6, **given) -> dict:
    pictures = Pictures(**given)
    subject = watched(reference(name), pictures)
    for id in ids:
        for index in range(episodes):
            subject.answer(asked(id, index))
    return summary(pictures, ids)


def test_the_truth_is_at_the_ceiling_and_a_copy_is_not() -> None:
    truth, copy = taken("oracle"), taken("copy")
    assert [truth["families"][id]["psnr"]["mean"] for id in ("P1", "C1")] == [100.0, 100.0]
    assert truth["families"]["P1"]["ssim"]["mean"] == pytest.approx(1.0)
    assert copy["families"]["C1"]["psnr"]["mean"] < 30
    assert truth["families"]["C1"]["psnr"]["n"] == 6 and truth["distance"] is None
    assert truth["protocol"] == "mcvd" and truth["context_included"] is False


def test_distances_name_what_they_stand_on_and_do_not_see_whose_future_it_is() -> None:
    """The same films in another order are perfect to a distance between sets."""
    extractor = random3d()
    truth = taken("oracle", ("C1",), 8, extractor=extractor)["distance"]
    other = taken("shuffled", ("C1",), 8, extractor=extractor)["distance"]
    frozen = taken("frozen", ("C1",), 8, extractor=extractor)["distance"]
    assert (truth["extractor"], truth["films"], truth["frames"], truth["size"]) == (extractor.name, 8, FRAMES, 64)
    assert truth["frechet"]["all"] == pytest.approx(0, abs=1e-6)
    assert truth["frechet"]["real_halves"] == pytest.approx(truth["frechet"]["filled_halves"])
    assert other["frechet"]["all"] < 0.5 * frozen["frechet"]["all"]


def test_what_was_taken_down_is_read_again_and_half_a_line_is_not(tmp_path: Path) -> None:
    path = tmp_path / "pictures.jsonl"
    first = taken("noise-1", path=path)
    with path.open("a") as file:
        file.write('{"family": "P1", "ind')
    again = summary(Pictures(path=path), ["P1", "C1"])
    assert again == first
    assert summary(Pictures(random3d(), path=path), ["P1"])["families"] == {}  # of other features: taken anew
    assert all(json.loads(line)["extractor"] is None for line in path.read_text().splitlines()[:-1])


def test_chance_surprise_and_what_is_no_answer_are_left_out() -> None:
    pictures = Pictures()
    for id in ("C10", "C5"):
        watched(reference("oracle"), pictures).answer(asked(id, 0))
    pictures.take(asked("P1", 0)[0], np.zeros((1, 2, 64, 64, 3), np.uint8))
    assert not pictures.rows
