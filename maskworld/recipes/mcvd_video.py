"""MCVD on any folder or file of videos, cut to a square and resized to the model's size."""

from __future__ import annotations

from pathlib import Path

from maskworld.data.video import VideoClips
from maskworld.papers.mcvd import Config, small
from maskworld.recipes.mcvd import recipe
from maskworld.train import Recipe


def mcvd_video(
    data: Path,
    config: Config = small(channels=3, past=2, future=2),
    fps: float = 5.0,
    flip: bool = True,
    held_out: float = 0.2,
    batch: int = 16,
    lr: float = 2e-3,
    p_hide_past: float = 0.35,
    p_hide_future: float = 0.35,
    p_part: float = 0.3,
    seed: int = 0,
    look_every: int = 500,
) -> Recipe:
    """Train MCVD on your own videos.

    Args:
        data: a video, or a folder of them.
        config: the network; `--config.channels 1` makes it grey.
        fps: frames a second at which the videos are read; the model fills in at this rate.
        flip: show half of the clips mirrored.
        held_out: share of the videos (of each one's end, where they are few) that is never trained on.
        batch: clips a step.
        lr: learning rate after the warm-up.
        p_hide_past: how often the past is hidden, 0..1.
        p_hide_future: how often the future is hidden, 0..1.
        p_part: how often a side that is shown is shown in part, 0..1.
        seed: of the weights, the data, what is hidden and the noise.
        look_every: steps between two strips of samples.
    """
    size, grey = (config.size, config.size), config.channels == 1
    shares = (1 - held_out, held_out, 0.0)
    train = VideoClips(data, config.num_frames, size, fps, grey, "train", seed, flip, shares)
    valid = VideoClips(data, config.num_frames, size, fps, grey, "valid", seed, shares=shares)
    about = {"name": "video", "fps": fps, "held_out": held_out}
    return recipe(config, train, valid, about, batch, lr, (p_hide_past, p_hide_future, p_part), seed, look_every)
