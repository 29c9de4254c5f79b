"""`maskworld tokens`: how well a tokenizer keeps what is in the frames."""

from __future__ import annotations

import json as json_
from pathlib import Path

import numpy as np
from einops import rearrange

from maskworld.clip import collate, to_uint8
from maskworld.data.episodes import Episodes, read, split
from maskworld.tokenizers import latent
from maskworld.tokenizers.base import Tokenizer, measure
from maskworld.world import TOKENIZER, load_tokenizer


def tokens_command(name: str, data: Path, frames: int, json: bool) -> int:
    if frames < 1:
        raise ValueError(f"--frames {frames}: 1 or more")
    tokenizer, about = load_tokenizer(name)
    kind = (about["config"] if about["family"] == TOKENIZER else about[TOKENIZER])["kind"]
    if isinstance(tokenizer, Tokenizer):
        held_out = _evenly(split(read(data).at(tokenizer.size), "test"), frames)
        found = measure(tokenizer, held_out)
        gh, gw = tokenizer.grid
        row = {"kind": kind, "vocab": tokenizer.vocab, "grid": [gh, gw]}
        what = f"{gh} x {gw} codes of {tokenizer.vocab}"
    else:
        held_out = _drawn(data, tokenizer.size, frames)
        found = latent.measure(tokenizer, held_out)
        gh, gw = (side // tokenizer.factor for side in tokenizer.size)
        row = {"kind": kind, "dim": tokenizer.dim, "factor": tokenizer.factor, "grid": [gh, gw]}
        what = f"{gh} x {gw} latents of {tokenizer.dim}"
    if json:
        row = {**row, "frames": len(held_out), **found}
        print(json_.dumps({"checkpoint": name, "data": str(data), **row}))
        return 0
    print(f"{name}: {kind}, {what}, on {len(held_out)} frames that it has not seen")
    print(f"PSNR        {found['psnr']:.2f} dB" if "psnr" in found else "PSNR        none: it does not paint")
    if isinstance(tokenizer, Tokenizer):
        print(f"in use      {100 * found['use']:.1f} % of the codes")
        print(f"perplexity  {found['perplexity']:.1f}")
    else:
        print(f"latents     means of channels within {found['mean']:.2f} of 0")
        print(f"            their standard deviations {found['std_min']:.2f} to {found['std_max']:.2f}")
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


def _drawn(data: Path, size: tuple[int, int], many: int) -> np.ndarray:
    """`many` frames of videos, logs or episodes, drawn from what is held out for the test."""
    from maskworld.recipes.vae import frames_of

    source = frames_of(data, size, "test")
    clip = collate([source(i) for i in range(many)])
    return to_uint8(rearrange(clip.frames, "b v t c h w -> (b v t) c h w")).numpy()
