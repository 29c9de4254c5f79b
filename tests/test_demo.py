"""The demo's page has a section of every model of the zoo, and nobody else's page is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maskworld import checkpoint


def test_the_page_of_another_is_kept(cli, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    code, lines, errors = cli("demo", "--quick", "-o", tmp_path)
    assert (code, lines, len(errors)) == (2, [], 1) and "not the demo's own" in errors[0]
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_every_model_is_shown(cli, tmp_path, threads):
    """One after the other, or two at a time; the page can be made again in its place."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        code, lines, _ = cli("demo", "--quick", "-o", tmp_path, "--json")
    finally:
        torch.set_num_threads(before)
    said = json.loads(lines[-1])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert code == 0 and all(name in page for name in checkpoint.zoo())
    assert said["videos"] and all(Path(name).stat().st_size > 0 for name in said["videos"])
    assert {name.split("-")[0] for name in said["scores"]} >= {"mcvd", "forcing", "mim4d", "voc"}
