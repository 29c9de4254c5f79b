"""`maskworld tokens`: how well a tokenizer keeps what is in the frames."""

from __future__ import annotations

import json as json_
from pathlib import Path

import numpy as np

from maskworld.data.episodes import Episodes, read, split
from maskworld.tokenizers.base import measure
from maskworld.world import TOKENIZER, load_tokenizer


def tokens_command(name: str, data: Path, frames: int, json: bool) -> int:
    if frames < 1:
        raise ValueError(f"--frames {frames}: 1 or more")
    tokenizer, about = load_tokenizer(name)
    held_out = _evenly(split(read(data).at(tokenizer.size), "test"), frames)
    found = measure(tokenizer, held_out)
    gh, gw = tokenizer.grid
    kind = (about["config"] if about["family"] == TOKENIZER else about[TOKENIZER])["kind"]
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
