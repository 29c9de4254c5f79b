"""MIM4D on drives: the synthetic one, or logs of real cars; no labels."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maskworld import masks
from maskworld.clip import Clip, to
from maskworld.data.drive import DAY, Domain, Drives, rig
from maskworld.data.surround import ABOUT, Jump, LogClips, said, there
from maskworld.masks import these_frames
from maskworld.noise import mix
from maskworld.papers import mim4d
from maskworld.train import Recipe, inverse_sqrt, power_ema

EVERY = 2  # of the rows and columns of pixels, in pictures


def mim4d_drive(
    data: Path | None = None,
    config: mim4d.Config = mim4d.small(),
    fps: float = 4.0,
    domain: Domain = DAY,
    hidden: float = 0.3,
    temporal: bool = True,
    direct: bool = True,
    batch: int = 1,
    lr: float = 1e-3,
    seed: int = 0,
    look_every: int = 200,
) -> Recipe:
    """Pre-train an encoder of several cameras on drives: hidden patches and dropped frames are rendered.

    It is said first what a step takes of the memory, and where the poses of logs jump: nothing is carried across.
    Frames of logs with too few before them are rendered by themselves, and counted (single_frame_share).

    Args:
        data: logs of cars with calibration and poses, a folder of ours or of nuScenes; the synthetic drive otherwise.
        config: the network.
        fps: frames a second. At 12, as nuScenes' images come, hardly anything moves from one to the next.
        domain: of the synthetic drive.
        hidden: share of the patches of each image that are hidden, 0..1.
        temporal: whether frames are dropped and made from the others.
        direct: whether frames are rendered from their own voxels.
        batch: clips a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data, what is hidden and the rays.
        look_every: steps between two strips of what was rendered.
    """
    print(mim4d.check_memory(config, batch, "cuda" if torch.cuda.is_available() else "cpu"), file=sys.stderr)
    views, t = config.views, config.num_frames
    if data is None:
        train: Callable[[int], Clip] = Still(Drives(t, views, config.size, fps, domain, "train", seed, depth=True))
        valid: Callable[[int], Clip] = Still(Drives(t, views, config.size, fps, domain, "valid", seed, depth=True))
        names = list(rig(views, config.size).names)
        about = {"name": "drive", "fps": fps, "cameras": names, "domain": asdict(domain)}
    else:
        if data.is_dir() and not there(data):
            raise ValueError(
                f"{data} has no calibration and no poses: logs of cars are wanted, a folder with {ABOUT} or of nuScenes"
            )
        logs = LogClips(data, t, views, config.size, fps, "train", seed, depth=True, cut=True)
        held = LogClips(data, t, views, config.size, fps, "valid", seed, depth=True)
        warn_of_jumps({**logs.jumps(config.jump), **held.jumps(config.jump)})
        train, valid = Checked(logs, config), Checked(held, config)
        about = {"name": "logs", "fps": fps, "cameras": list(logs.cameras)}
    torch.manual_seed(mix(seed))  # the weights
    net = mim4d.MIM4D(config)
    return Recipe(
        about={
            "family": "mim4d",
            "config": dataclasses.asdict(config),
            "data": about,
            "objective": {"temporal": temporal, "direct": direct, "hidden": hidden},
        },
        net=net,
        objective=mim4d.objective(temporal=temporal, direct=direct),
        draw=masks.blocks(*config.patches, hidden),
        data=train,
        valid=valid,
        lr=inverse_sqrt(lr, 100, 1000),
        ema=power_ema(0.1),
        batch=batch,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        seed=seed,
        look=Look(valid),
        look_every=look_every,
        probes=Look(valid).numbers,
        probes_every=look_every,
        valid_clips=16,
    )


@dataclass(frozen=True)
class Still:
    """Clips without actions."""

    clips: Callable[[int], Clip]

    def __call__(self, index: int) -> Clip:
        return dataclasses.replace(self.clips(index), actions=None)


@dataclass(frozen=True)
class Checked:
    """Clips of logs, whose cameras and depth were looked at; a log without depth knows none anywhere. ValueError names
    the log and the frames."""

    logs: LogClips
    config: mim4d.Config

    def __call__(self, index: int) -> Clip:
        clip = self.logs(index)
        depth = torch.zeros_like(clip.frames[:, :, :, 0]) if clip.depth is None else clip.depth
        try:
            mim4d.check_rig(mim4d.places_of(clip, self.config), self.config)
            mim4d.check_depth(depth)
        except ValueError as error:
            raise ValueError(f"{self.logs.where(index)}: {error}") from None
        return dataclasses.replace(clip, actions=None, depth=depth)


def warn_of_jumps(found: Mapping[str, Sequence[Jump]], most: int = 10) -> None:
    """One warning for each log, of the first ones."""
    for name in sorted(found)[:most]:
        warnings.warn(f"{name}: the car jumps {said(found[name])}; nothing is carried across", stacklevel=3)
    if len(found) > most:
        warnings.warn(f"the car jumps in {len(found) - most} more logs, too", stacklevel=3)


@dataclass(frozen=True)
class Look:
    """Renders the present of a held-out clip: from its own voxels, and dropped, from those of the other frames."""

    data: Callable[[int], Clip]
    measured: int = 8

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, mim4d.MIM4D)
        clip = to(self.data(0), next(net.parameters()).device)
        rows = [Row.of("truth", clip.frames[0, :, -1, :, ::EVERY, ::EVERY])]
        if clip.depth is not None:
            rows.append(Row.of("depth", _grey(clip.depth[0, :, -1, ::EVERY, ::EVERY], net)))
        for name, dropped in (("seen", False), ("dropped", True)):
            rgb, depth = self._rendered(net, clip, dropped, EVERY)
            rows += [Row.of(name, rgb), Row.of(f"{name}: depth", _grey(depth, net))]
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)

    def numbers(self, net: nn.Module, step: int) -> dict[str, float]:
        """Absolute relative error of the depth up to 30 m, of the present: seen, and dropped; nothing where no depth is
        known."""
        assert isinstance(net, mim4d.MIM4D)
        found: dict[str, float] = {}
        for name, dropped in (("seen", False), ("dropped", True)):
            errors = []
            for i in range(self.measured):
                clip = to(self.data(i), next(net.parameters()).device)
                truth = torch.zeros(()) if clip.depth is None else clip.depth[0, :, -1, ::4, ::4]
                near = (truth > 1) & (truth < 30)
                if bool(near.any()):
                    depth = self._rendered(net, clip, dropped, every=4)[1]
                    errors.append(((depth - truth).abs() / truth)[near].mean())
            if errors:
                found[f"abs_rel_{name}"] = torch.stack(errors).mean().item()
        return found

    def _rendered(self, net: mim4d.MIM4D, clip: Clip, dropped: bool, every: int) -> tuple[Tensor, Tensor]:
        """(colours, depth along the optical axis) of the present of every camera, every so many pixels."""
        b, v, t = clip.shape[:3]
        known = these_frames([True] * t, b, v).to(clip.frames.device)
        with torch.no_grad(), torch.autocast(clip.frames.device.type, enabled=False):
            volumes, places = net.volumes(clip, known)
            volume = volumes[:, -1]
            if dropped and t > 1:
                volume = net.dropped(volumes, places, t - 1, range(t - 1))[0]
        seen = mim4d.look(net, volume, places.intrinsics, places.to_ego[:, :, -1], every)
        return seen.frames[0], seen.depth[0]


def _grey(depth: Tensor, net: mim4d.MIM4D) -> Tensor:
    """Near is bright; what is far or not known is black."""
    bright = 1 - (depth / net.config.far).clamp(0, 1).sqrt()
    return torch.where(depth > 0, bright, 0.0)[:, None].expand(-1, 3, -1, -1) * 2 - 1
