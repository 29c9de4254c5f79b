"""`maskworld render`: views of voxels from any pose, from above, on a page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskworld import checkpoint
from maskworld.clip import Clip, collate
from maskworld.commands import render
from maskworld.data import drive
from maskworld.masks import these_frames
from maskworld.nets.render import Rendered
from maskworld.noise import Rng
from maskworld.papers import mim4d
from maskworld.recipes.mim4d_drive import mim4d_drive
from maskworld.report.around import Above, depth_colours
from maskworld.train import METRICS


@pytest.fixture(scope="module")
def net() -> mim4d.MIM4D:
    torch.manual_seed(0)
    made = mim4d.MIM4D(mim4d.tiny(flow=True))
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.02)
    return made.eval()


@pytest.fixture(scope="module")
def clip() -> Clip:
    source = drive.Drives(3, 2, (32, 48), 4.0, depth=True)
    return dataclasses.replace(collate([source(0)]), actions=None)


@pytest.fixture(scope="module")
def run(net: mim4d.MIM4D, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("voxels")
    about = {"family": "mim4d", "config": dataclasses.asdict(net.config), "step": 7,
             "data": {"name": "drive", "fps": 4.0, "cameras": list(drive.rig(2).names)}}  # fmt: skip
    checkpoint.write(path / checkpoint.MODEL, net.state_dict(), about)
    rows: list[dict[str, Any]] = [
        {"step": s, "loss": 2.0, "colour": 1.0 / s, "probes/abs_rel_seen": 0.3} for s in (1, 2)
    ]
    (path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- views --------------------------------------------------------------------------------------------


def test_a_hidden_camera_is_filled_with_what_is_seen_from_its_place(net: mim4d.MIM4D, clip: Clip) -> None:
    known = these_frames([True] * 3, 1, 2)
    known[:, 1, 2] = False
    filled = mim4d.fill(net)(clip, known, Rng.of(0, batch=1))
    with torch.no_grad():
        volumes, places = net.volumes(clip, known)
    seen = mim4d.look(net, volumes[:, 2], places.intrinsics, places.to_ego[:, :, 2], chunk=100)
    torch.testing.assert_close(seen.frames[:, 1], filled.frames[:, 1, 2], rtol=0, atol=1e-5)
    few = mim4d.look(net, volumes[:, 2], places.intrinsics, places.to_ego[:, :, 2], every=4)
    for one, other in zip(few, seen, strict=True):
        torch.testing.assert_close(one, other[..., ::4, ::4], rtol=0, atol=1e-5)
    assert seen.depth.min() >= 0 and 0 <= seen.weight.min() and seen.weight.max() <= 1 + 1e-5


class Hill(mim4d.MIM4D):
    """Sees a ground that rises ahead, and cells in the colour of their place."""

    def seen(self, volume, rays, jitter, march=None):
        height = 0.1 * rays.origins[..., 0]
        depth = (rays.origins[..., 2] - height) / -rays.directions[..., 2]
        rgb = rays.origins / 16 + 0.5
        none = torch.zeros_like(depth)[..., None]
        return Rendered(rgb, depth, torch.ones_like(depth), none, none, none)


def test_from_above_cells_stand_where_the_grid_has_them() -> None:
    hill = Hill(mim4d.tiny())
    grid = hill.config.grid
    ground = mim4d.from_above(hill, torch.zeros(1, 32, 4, 8, 8))
    centres = grid.centres(torch.device("cpu"), torch.float32)[0]  # y x 3
    torch.testing.assert_close(ground.height[0], 0.1 * centres[..., 0].mT, rtol=0, atol=2e-3)
    torch.testing.assert_close(ground.colour[0, ..., :2] * 16 - 8, centres[..., :2].transpose(0, 1), rtol=0, atol=1e-4)
    assert mim4d.from_above(hill, torch.zeros(1, 32, 4, 8, 8), 2).height.shape == (1, 16, 16)


def test_voxels_are_carried_over_by_the_cars_own_motion(net: mim4d.MIM4D, clip: Clip) -> None:
    assert clip.cameras is not None
    still = dataclasses.replace(clip.cameras, ego=clip.cameras.ego[:, :1].expand(-1, 3, -1, -1))  # type: ignore[index]
    still = dataclasses.replace(still, pose=clip.cameras.pose[:, :, :1].expand(-1, -1, 3, -1, -1))
    known = these_frames([True] * 3, 1, 2)
    with torch.no_grad():
        volumes, places = net.volumes(dataclasses.replace(clip, cameras=still), known)
        torch.testing.assert_close(mim4d.carried(net, volumes, places, 2, 1), volumes[:, 1], rtol=0, atol=1e-4)
        volumes, places = net.volumes(clip, known)
        assert float((mim4d.carried(net, volumes, places, 2, 1) - volumes[:, 1]).abs().max()) > 1e-3


def test_a_flight_begins_at_the_front_and_goes_once_around() -> None:
    poses = render.flight(61, 5.4)
    turn = poses[:, :3, :3]
    torch.testing.assert_close(turn.mT @ turn, torch.eye(3).expand(61, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(61), rtol=0, atol=1e-5)
    torch.testing.assert_close(poses[0, :3, 3], torch.tensor([1.5, 0.0, 1.5]), rtol=0, atol=1e-5)
    torch.testing.assert_close(poses[0, :3, 2], torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-2)
    assert bool((poses[:, 2, 1] < 0).all())  # the image's down is down
    angle = np.unwrap(np.arctan2(*poses[18:, [1, 0], 3].T.numpy()))
    assert abs(angle[-1] - angle[0]) == pytest.approx(2 * math.pi, abs=1e-4)
    torch.testing.assert_close(poses[18:, :2, 3].norm(dim=1), torch.full((43,), 10.0), rtol=0, atol=1e-4)


def test_relative_errors_are_of_what_is_near() -> None:
    true, made = torch.tensor([0.0, 10.0, 20.0, 50.0]), torch.tensor([9.0, 11.0, 19.0, 0.0])
    assert render.abs_rel(made, true) == pytest.approx((0.1 + 0.05) / 2)
    assert math.isnan(render.abs_rel(made, torch.full((4,), 60.0)))


# -- drawing ------------------------------------------------------------------------------------------


def test_ahead_is_up_and_the_left_is_left() -> None:
    def middle(draw: Callable[[Above], None]) -> tuple[float, float]:
        """Rows and columns of what was drawn, metres ahead and to the left."""
        before, now = (Above((-10.0, 10.0, -10.0, 10.0), 200) for _ in range(2))
        draw(now)
        rows, columns = np.nonzero((before.picture != now.picture).any(-1))
        return 10 - rows.mean() / 10, 10 - columns.mean() / 10

    assert middle(lambda on: on.box("car", np.array([6.0, 3.0]), (4.0, 2.0), 0.3)) == pytest.approx((6, 3), abs=0.1)
    assert middle(lambda on: on.arrows(np.array([[0.0, 0.0]]), np.array([[0.0, 8.0]])))[1] > 3
    cells = np.full((20, 20, 3), (238, 236, 230), np.uint8)
    cells[19, 10:12] = 0
    assert middle(lambda on: on.paint(cells)) == pytest.approx((9.5, 1.0), abs=0.1)


def test_depth_goes_from_bright_to_dark_and_none_is_grey() -> None:
    shown = depth_colours(np.array([0.0, 2.0, 10.0, 80.0, 500.0])).astype(int).sum(-1)
    assert shown[0] == 3 * 225 and shown[1] > shown[2] > shown[3] == shown[4]


# -- the command --------------------------------------------------------------------------------------


FEW = ("--moments", 2, "--flight", 3, "--every", 4)


def test_a_page_of_a_run(run: Path, tmp_path: Path, cli) -> None:
    out = tmp_path / "page.html"
    code, text, _ = cli("render", run, "-o", out, *FEW, "--json")
    row = json.loads(text[-1])
    assert code == 0 and set(row["abs_rel"]) == {"seen", "not shown", "carried over"}
    assert all(0 < value < 5 for value in row["abs_rel"].values())
    page = out.read_text()
    for heading in ("Colours and depth", "From above", "A flight", "Training"):
        assert f">{heading}<" in page
    assert "screens wide" not in page and "Arrows: how far" in page


def test_a_page_of_a_log(run: Path, tmp_path: Path, cli) -> None:
    made = ("--cameras", 2, "--frames", 8, "--size", 48, 72, "--fps", 4)
    assert cli("data", "make", "drive", tmp_path / "log", *made)[0] == 0
    out = tmp_path / "page.html"
    code, text, _ = cli("render", run, tmp_path / "log", "-o", out, *FEW, "--start", 3)
    assert code == 0 and "not shown" in text[0]
    code, _, error = cli("render", run, tmp_path / "log", "-o", out, *FEW, "--start", 5, "--force")
    assert code == 2 and "8 frames" in error[0]
    code, _, error = cli("render", run, tmp_path / "log", "-o", out, *FEW, "--scene", 1, "--force")
    assert code == 2 and "scenes 0 to 0" in error[0]


@pytest.mark.parametrize(
    "argv, words",
    [
        (("-o", "page.png"), "written as .html"),
        (("-o", "there.html"), "--force"),
        (("-o", "p.html", "--moments", 0), "1 or more"),
        (("nowhere", "-o", "p.html"), "no log"),
        (("-o", "p.html", "--scene", -1), "0 or more"),
    ],
)
def test_bad_input_is_one_line(run: Path, tmp_path: Path, cli, monkeypatch, argv, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.html").write_text("mine")
    code, _, error = cli("render", run, *argv)
    assert code == 2 and len(error) == 1 and words in error[0]
    assert Path("there.html").read_text() == "mine" and not Path("p.html").exists()


def test_only_voxels_are_rendered(tiny_checkpoint: Path, tmp_path: Path, cli) -> None:
    code, _, error = cli("render", tiny_checkpoint, "-o", tmp_path / "p.html")
    assert code == 2 and "mim4d has voxels" in error[0]


# -- along a training ---------------------------------------------------------------------------------


def test_a_strip_is_written_along_the_way(tmp_path: Path) -> None:
    recipe = mim4d_drive(config=mim4d.tiny())
    assert recipe.look is not None and recipe.probes is not None
    recipe.look(recipe.net, tmp_path, 3)
    assert (tmp_path / "step_0000003.png").stat().st_size > 1000
