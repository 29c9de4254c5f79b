"""Train the domain encoder on the suite's films (train split) and say what its distance can tell apart.

python scripts/domain.py --episodes 100 --steps 3000 -o runs/domain
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from maskworld.probes import domain
from maskworld.probes.base import Setting
from maskworld.probes.quality import Extractor, extract, frechet, kernel_mmd
from maskworld.probes.stage import Track, film
from maskworld.probes.suite import FAMILIES

CLIPS = 200  # in each set that is compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="of each family")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/domain"))
    options = parser.parse_args()
    films = tracks(options.episodes, Setting(split="train"))
    start, losses = time.monotonic(), []
    bar = tqdm(total=options.steps, unit="step")

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        bar.update()
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")

    encoder = domain.train(films, options.steps, options.seed, options.batch, on_step=on_step)
    bar.close()
    path = domain.save(encoder, options.out)
    print(f"{len(films)} films, {time.monotonic() - start:.0f} s, {path}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"loss {np.mean(losses[:20]):.3f} -> {np.mean(losses[-20:]):.3f}")
    told_apart(domain.extractor(path), tracks(2 * CLIPS // len(FAMILIES) + 40, Setting(split="dev")))


def tracks(episodes: int, setting: Setting) -> list[Track]:
    """The films of all families; of an episode with branches the first."""
    return [
        family.episode(index, setting).questions[0].track
        for family in tqdm(FAMILIES.values(), unit="family")
        for index in range(episodes)
    ]


CHEATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "real": lambda frames: frames,
    "reversed": lambda frames: frames[::-1].copy(),
    "blurred": lambda frames: ndimage.gaussian_filter(frames, (0, 1.5, 1.5, 0)),
    "frozen": lambda frames: frames[[0] * len(frames)],
    "mixed": lambda frames: frames[np.random.default_rng(0).permutation(len(frames))],
}


def told_apart(extractor: Extractor, films: list[Track]) -> None:
    """Prints distances of real films from other real films and from spoilt ones, over random halves."""
    rng = np.random.default_rng(1)
    long = [track for track in films if track.num_frames >= domain.NUM_FRAMES]
    chosen = [long[i] for i in rng.permutation(len(long))[: 2 * CLIPS]]
    starts = [int(rng.integers(track.num_frames - domain.NUM_FRAMES + 1)) for track in chosen]
    clips = [film(track.part(s, s + domain.NUM_FRAMES)) for track, s in zip(chosen, starts, strict=True)]
    features = {
        name: extract(extractor, _frames([spoil(frames) for frames in clips])) for name, spoil in CHEATS.items()
    }
    rounds = {name: [] for name in CHEATS}
    for _ in range(20):
        order = torch.from_numpy(rng.permutation(len(clips)))
        one, other = order[: len(clips) // 2], order[len(clips) // 2 :]
        for name, value in features.items():
            real = features["real"][one]
            rounds[name].append((frechet(real, value[other]), kernel_mmd(real, value[other])))
    print(f"{extractor.name}: {len(clips) // 2} clips of {domain.NUM_FRAMES} frames against as many, 20 random halves")
    floor = np.array(rounds["real"])
    for name, values in rounds.items():
        found = np.array(values)
        wins = (found[:, 0] > floor[:, 0]).mean()
        print(f"{name:9} Frechet {found[:, 0].mean():8.4f}  MMD {found[:, 1].mean():8.4f}  above real in {wins:.2f}")


def _frames(clips: list[np.ndarray]) -> torch.Tensor:
    """Bytes to [-1, 1], as in a Clip."""
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


if __name__ == "__main__":
    main()
