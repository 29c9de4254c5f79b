"""One thread, no network, and every annotation of the package checked as it runs; a tiny model and a small video."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start, too
os.environ["HF_HUB_OFFLINE"] = "1"

import jaxtyping

jaxtyping.install_import_hook("maskworld", "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Decoded videos are kept here and not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKWORLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MCVD with random weights, none of them zero: 2 + 2 + 2 grey frames of 16 x 16."""
    from maskworld import checkpoint
    from maskworld.papers import mcvd

    net = mcvd.MCVD(mcvd.tiny())
    rng = torch.Generator().manual_seed(0)
    weights = {name: value + 0.05 * torch.randn(value.shape, generator=rng) for name, value in net.state_dict().items()}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    checkpoint.write(path, weights, {"family": "mcvd", "config": dataclasses.asdict(net.config), "step": 0})
    return path


@pytest.fixture(scope="session")
def forcing_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The causal family with random weights: RGB of 64 x 64, the actions of the probes, a window of 8, blocks of 2."""
    from maskworld import checkpoint
    from maskworld.papers import forcing
    from maskworld.world import network

    config = forcing.tiny(size=64, channels=3, depth=1, actions=9, window=8, block=2, memories=("merge", "ssm"))
    rng = torch.Generator().manual_seed(0)
    state = network(config).state_dict()
    weights = {name: 0.1 * torch.randn(value.shape, generator=rng) for name, value in state.items()}
    path = tmp_path_factory.mktemp("model") / "forcing.safetensors"
    checkpoint.write(path, weights, {"family": "forcing", "config": dataclasses.asdict(config), "step": 0})
    return path


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Twelve colour frames of 20 x 24: a bright square goes right over a slope."""
    frames = np.broadcast_to(np.arange(24, dtype=np.uint8)[None, None, :, None] * 4, (12, 20, 24, 3)).copy()
    for i, frame in enumerate(frames):
        frame[6:12, i : i + 6] = 200, 220, 240
    return frames


@pytest.fixture(scope="session")
def video_file(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    """Those frames, lossless, at 8 frames/s."""
    path = tmp_path_factory.mktemp("video") / "square.npz"
    np.savez(path, frames=pixels, fps=8.0)
    return path


@pytest.fixture
def cli(capsys):
    """Runs a command; gives its exit code, and the lines of stdout and stderr."""

    def call(*argv: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        from maskworld.__main__ import main

        with pytest.raises(SystemExit) as end:
            main([str(part) for part in argv])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out.splitlines(), err.splitlines()

    return call
