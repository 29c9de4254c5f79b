"""Checkpoints: what is written comes back, and what is not one of ours is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskworld import checkpoint

TENSORS = {
    "weight": torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
}
ABOUT = {"family": "mcvd", "config": {"size": 16, "multiples": [1, 2]}, "step": 3}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, ABOUT)
    return path


def test_round_trip(path):
    tensors, about = checkpoint.read(path)
    assert about == ABOUT == checkpoint.read_about(path)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_layout_in_memory_and_gradients_do_not_matter(tmp_path):
    wide = TENSORS["weight"].to(memory_format=torch.channels_last).requires_grad_()
    checkpoint.write(tmp_path / "a" / "b.safetensors", {"weight": wide, "part": wide[:, 1:]}, ABOUT)
    tensors, _ = checkpoint.read(tmp_path / "a" / "b.safetensors")
    assert torch.equal(tensors["weight"], TENSORS["weight"])
    assert torch.equal(tensors["part"], TENSORS["weight"][:, 1:])


@pytest.mark.parametrize("size", [0, 4, 8, 60, -1])
def test_truncated(path, size):
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match="truncated"):
        checkpoint.read(path)


def test_not_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("these are not the weights that you are looking for")
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoint.read(path)


def test_of_others(tmp_path):
    path = tmp_path / "theirs.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file(TENSORS, path, metadata=metadata)
        with pytest.raises(ValueError, match="not written by maskworld"):
            checkpoint.read(path)


@pytest.mark.parametrize("header", ["{", "[1]", "null"])
def test_damaged_header(tmp_path, header):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"maskworld": header})
    with pytest.raises(ValueError, match="header is damaged"):
        checkpoint.read(path)


def test_a_header_that_lies_about_its_tensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["weight"]["shape"] = [2, 3, 2, 20]
    lie = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(lie)) + lie + raw[8 + length :])
    with pytest.raises(ValueError, match="truncated"):
        checkpoint.read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value):
    good = {"whole": torch.tensor([3]), "weight": torch.ones(3)}
    checkpoint.finite(good, Path("m"))
    with pytest.raises(ValueError, match=r"m: the weights bias hold NaN"):
        checkpoint.finite({**good, "bias": torch.tensor([0.0, value])}, Path("m"))


def test_a_failing_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def fails(tensors: dict, file: Path, metadata: dict) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write(path, {"weight": torch.zeros(1)}, ABOUT)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# -- finding -------------------------------------------------------------------------------------------


def test_found_by_file_and_by_run(path):
    assert checkpoint.find(path) == path
    assert checkpoint.find(str(path)) == path
    assert checkpoint.find(path.parent) == path


def test_a_run_that_has_saved_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        checkpoint.find(tmp_path)


def test_names_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"mcvd-digits": Path("/zoo/mcvd-digits.safetensors"), "mcvd-discs": Path("/zoo/mcvd-discs.safetensors")}
    monkeypatch.setattr(checkpoint, "zoo", lambda: models)
    assert checkpoint.find("mcvd-discs") == models["mcvd-discs"]
    with pytest.raises(ValueError, match=r"no checkpoint mcvd-digit: .* did you mean mcvd-digits\?"):
        checkpoint.find("mcvd-digit")
    with pytest.raises(ValueError, match="the zoo has mcvd-digits, mcvd-discs"):
        checkpoint.find("quark")
    (tmp_path / "mcvd-discs").write_text("")
    assert checkpoint.find("mcvd-discs") == Path("mcvd-discs")  # one's own file comes first


def test_another_name_of_a_model_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"maskgwm-long": Path("/zoo/maskgwm-long.safetensors")}
    monkeypatch.setattr(checkpoint, "zoo", lambda: dict(models))
    assert checkpoint.find("maskgwm-drive") == models["maskgwm-long"]
    models.clear()
    with pytest.raises(ValueError, match="no checkpoint maskgwm-drive"):
        checkpoint.find("maskgwm-drive")


def test_all_of_the_zoo_is_whole():
    for name, path in checkpoint.zoo().items():
        tensors, about = checkpoint.read(path)
        assert name.startswith(about["family"])
        checkpoint.finite(tensors, path)


@pytest.mark.parametrize("name", ["hub:nobody/nothing", "hub:not a name", "hub:a/b/c", "hub:"])
def test_the_hub_without_network(name):
    with pytest.raises(ValueError, match=r"could not get model\.safetensors of the hub repository"):
        checkpoint.find(name)
