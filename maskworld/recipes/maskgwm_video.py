"""MaskGWM on any folder or file of videos: one view, no actions."""

from __future__ import annotations

from pathlib import Path

from maskworld.data.video import VideoClips
from maskworld.papers.maskgwm import Config, Way, small
from maskworld.recipes.maskgwm import Encoded, fitted, latents, recipe
from maskworld.train import Recipe


def maskgwm_video(
    data: Path,
    tokenizer: str = "maskgwm-long",
    config: Config = small(actions=(), rays=False),
    fps: float = 5.0,
    flip: bool = True,
    held_out: float = 0.2,
    way: Way = Way(),
    masking: bool = True,
    batch: int = 8,
    lr: float = 1.5e-3,
    seed: int = 0,
    look_every: int = 500,
) -> Recipe:
    """Train MaskGWM on your own videos.

    Args:
        data: a video, or a folder of them.
        tokenizer: a checkpoint of a continuous tokenizer, such as `maskworld train vae` makes, or of a model that holds
            one; `pixels` for none.
        config: the network; it takes no actions.
        fps: frames a second at which the videos are read; the model fills in at this rate.
        flip: show half of the clips mirrored.
        held_out: share of the videos (of each one's end, where they are few) that is never trained on.
        way: what training hides, and how that is filled in.
        masking: whether anything is hidden.
        batch: clips a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data, what is known and hidden, and the noise.
        look_every: steps between two strips of samples.
    """
    if config.views != 1 or config.actions:
        raise ValueError("a video is one view without actions: --config.views 1, --config.actions nothing")
    of = latents(tokenizer)
    config = fitted(config, of)
    grey, shares = config.channels == 1, (1 - held_out, held_out, 0.0)
    read = VideoClips(data, config.num_frames, config.size, fps, grey, "train", seed, flip, shares)
    held = VideoClips(data, config.num_frames, config.size, fps, grey, "valid", seed, shares=shares)
    train, valid = (Encoded(one, of, config.num_frames, cuts=1, seed=seed) for one in (read, held))
    about = {"name": "video", "fps": fps, "held_out": held_out}
    return recipe(config, of, train, valid, about, way, masking, batch, lr, seed, look_every)
