"""`maskworld tokens`: how well a tokenizer keeps what is in the frames."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld import checkpoint
from maskworld.data.episodes import Episodes, read, split
from maskworld.tokenizers.base import Tokenizer, measure
from maskworld.tokenizers.kinds import build


def load_tokenizer(name: str | Path, device: torch.device | str = "cpu") -> tuple[Tokenizer, dict[str, Any]]:
    """(tokenizer, what its checkpoint says of it), by path, by its name in the zoo, or as `hub:owner/name`.

    Raises ValueError where there is none, where it is a model of another family, or holds NaN.
    """
    path = checkpoint.find(name)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    if about.get("family") != "tokenizer" or not isinstance(about.get("config"), dict):
        raise ValueError(f"{path} is a model of the family {about.get('family')!r}, not a tokenizer")
    net = build(about["config"])
    assert isinstance(net, torch.nn.Module)
    if {key: value.shape for key, value in tensors.items()} != {k: v.shape for k, v in net.state_dict().items()}:
        raise ValueError(f"{path}: its weights do not fit its own configuration")
    net.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in tensors.items()})
    return net.eval().requires_grad_(False).to(device), about


def tokens_command(name: str, data: Path, frames: int, json: bool) -> int:
    if frames < 1:
        raise ValueError(f"--frames {frames}: 1 or more")
    tokenizer, about = load_tokenizer(name)
    held_out = _evenly(split(read(data).at(tokenizer.size), "test"), frames)
    found = measure(tokenizer, held_out)
    gh, gw = tokenizer.grid
    kind = about["config"]["kind"]
    if json:
        row = {"kind": kind, "vocab": tokenizer.vocab, "grid": [gh, gw], "frames": len(held_out), **found}
        print(json_.dumps({"checkpoint": name, "data": str(data), **row}))
        return 0
    print(f"{name}: {kind}, {gh} x {gw} codes of {tokenizer.vocab}, on {len(held_out)} frames that it has not seen")
    print(f"PSNR        {found['psnr']:.2f} dB" if "psnr" in found else "PSNR        none: it does not paint")
    print(f"in use      {100 * found['use']:.1f} % of the codes")
    print(f"perplexity  {found['perplexity']:.1f}")
    return 0


def _evenly(episodes: Episodes, many: int) -> np.ndarray:
    """`many` frames of all episodes, evenly spaced, or all there are."""
    ends = np.cumsum(episodes.lengths)
    places = np.linspace(0, ends[-1] - 1, min(many, int(ends[-1]))).round().astype(int)
    numbers = np.searchsorted(ends, places, side="right")
    found = []
    for number in np.unique(numbers):
        frames = episodes[int(number)].frames
        if frames.dtype != np.uint8:
            raise ValueError(f"{episodes.name} holds codes; a tokenizer is measured on pixels")
        found.append(frames[places[numbers == number] - (ends[number - 1] if number else 0)])
    return np.concatenate(found)
