"""MaskGWM on drives: the synthetic one, or logs of real cars."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from maskworld.data.drive import DAY, Domain, Drives, rig
from maskworld.data.surround import LogClips
from maskworld.papers.maskgwm import Config, Way, small
from maskworld.recipes.maskgwm import Encoded, fitted, latents, recipe
from maskworld.train import Recipe


def maskgwm_drive(
    tokenizer: str = "maskgwm-long",
    data: Path | None = None,
    config: Config = small(),
    fps: float = 5.0,
    domain: Domain = DAY,
    frames: int = 40,
    way: Way = Way(),
    masking: bool = True,
    missing: float = 0.5,
    batch: int = 8,
    lr: float = 1.5e-3,
    seed: int = 0,
    look_every: int = 1000,
) -> Recipe:
    """Train MaskGWM on drives, seen by one camera or several.

    Args:
        tokenizer: a checkpoint of a continuous tokenizer, or of a model that holds one; `pixels` for none.
        data: logs of cars, a folder of ours or of nuScenes; the synthetic drive otherwise.
        config: the network; `--config.views 3` is of three cameras.
        fps: frames a second.
        domain: of the synthetic drive.
        frames: of a scene at a time, from which clips are cut.
        way: what training hides, and how that is filled in.
        masking: whether anything is hidden.
        missing: share of the clips of several cameras of which some are missing all the time. To draw a camera from the
            others is learnt where it is asked for often: the overlap is a small part of a picture.
        batch: clips a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data, what is known and hidden, and the noise.
        look_every: steps between two strips of samples.
    """
    of = latents(tokenizer)
    config = fitted(config, of)
    if data is None:
        drives = [
            Drives(max(frames, config.num_frames), config.views, config.size, fps, domain, "train", seed),
            Drives(config.num_frames, config.views, config.size, fps, domain, "valid", seed),
        ]
        names = list(rig(config.views, config.size).names)
        about = {"name": "drive", "fps": fps, "cameras": names, "domain": asdict(domain)}
    else:
        drives = [
            LogClips(data, config.num_frames, config.views, config.size, fps, "train", seed),
            LogClips(data, config.num_frames, config.views, config.size, fps, "valid", seed),
        ]
        about = {"name": "logs", "fps": fps, "cameras": list(drives[0].cameras)}
    train, valid = (
        Encoded(one, of, config.num_frames, config.actions, fps, cuts=16 if data is None else 1, seed=seed)
        for one in drives
    )
    valid = replace(valid, cuts=1)
    return recipe(config, of, train, valid, about, way, masking, batch, lr, seed, look_every, missing)
