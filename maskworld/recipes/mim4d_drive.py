"""MIM4D on drives: the synthetic one, or logs of real cars; no labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maskworld import masks
from maskworld.clip import Clip, to
from maskworld.data.drive import DAY, Domain, Drives, rig
from maskworld.data.surround import LogClips
from maskworld.masks import these_frames
from maskworld.noise import mix
from maskworld.papers import mim4d
from maskworld.train import Recipe, inverse_sqrt, power_ema


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

    Args:
        data: logs of cars, a folder of ours or of nuScenes; the synthetic drive otherwise.
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
    torch.manual_seed(mix(seed))  # the weights
    net = mim4d.MIM4D(config)
    views, t = config.views, config.num_frames
    sources: tuple[Callable[[int], Clip], Callable[[int], Clip]]
    if data is None:
        sources = (
            Drives(t, views, config.size, fps, domain, "train", seed, depth=True),
            Drives(t, views, config.size, fps, domain, "valid", seed, depth=True),
        )
        names = list(rig(views, config.size).names)
        about = {"name": "drive", "fps": fps, "cameras": names, "domain": asdict(domain)}
    else:
        logs = [
            LogClips(data, t, views, config.size, fps, "train", seed, depth=True),
            LogClips(data, t, views, config.size, fps, "valid", seed, depth=True),
        ]
        sources, about = (logs[0], logs[1]), {"name": "logs", "fps": fps, "cameras": list(logs[0].cameras)}
    train, valid = (Still(one) for one in sources)
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
class Look:
    """Renders the present of a held-out clip: from its own voxels, and dropped, from those of the other frames."""

    data: Callable[[int], Clip]
    measured: int = 8

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, mim4d.MIM4D)
        clip = to(self.data(0), next(net.parameters()).device)
        views = range(clip.frames.shape[1])
        rows = [Row.of("truth", clip.frames[0, :, -1]), Row.of("depth", _grey(clip.depth[0, :, -1], net))]  # type: ignore[index]
        for name, (rgb, depth) in {
            "seen": self._rendered(net, clip, False),
            "dropped": self._rendered(net, clip, True),
        }.items():
            rows += [Row.of(name, rgb), Row.of(f"{name}: depth", _grey(depth, net))]
        assert len(views) == len(rows[0].frames)
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)

    def numbers(self, net: nn.Module, step: int) -> dict[str, float]:
        """Absolute relative error of the depth up to 30 m, of the present: seen, and dropped."""
        assert isinstance(net, mim4d.MIM4D)
        found: dict[str, float] = {}
        for name, dropped in (("seen", False), ("dropped", True)):
            errors = []
            for i in range(self.measured):
                clip = to(self.data(i), next(net.parameters()).device)
                if clip.depth is None:
                    return {}
                depth = self._rendered(net, clip, dropped, every=4)[1]
                truth = clip.depth[0, :, -1, ::4, ::4]
                near = (truth > 1) & (truth < 30)
                errors.append(((depth - truth).abs() / truth)[near].mean())
            found[f"abs_rel_{name}"] = torch.stack(errors).mean().item()
        return found

    def _rendered(self, net: mim4d.MIM4D, clip: Clip, dropped: bool, every: int = 2) -> tuple[Tensor, Tensor]:
        """(colours, depth along the optical axis) of the present of every camera, every so many pixels."""
        b, v, t, c, h, w = clip.shape
        known = these_frames([True] * t, b, v).to(clip.frames.device)
        with torch.no_grad(), torch.autocast(clip.frames.device.type, enabled=False):
            volumes, places = net.volumes(clip, known)
            volume = volumes[:, -1]
            if dropped and t > 1:
                volume = net.dropped(volumes, places, t - 1, range(t - 1))[0]
            rows, columns = torch.arange(0, h, every), torch.arange(0, w, every)
            pixels = (rows[:, None] * w + columns).flatten().to(clip.frames.device)
            rays = mim4d.rays_at(clip, places, t - 1, pixels.expand(b, v, -1))
            seen = net.seen(volume, rays, torch.full_like(rays.depth, 0.5))
            ahead = places.to_ego[:, :, -1, :3, 2].repeat_interleave(len(pixels), 1)
            depth = seen.depth * (rays.directions * ahead).sum(-1)
        shape = (v, len(rows), len(columns))
        return (seen.rgb[0].view(*shape, c).movedim(-1, 1).clamp(0, 1) * 2 - 1), depth[0].view(shape)


def _grey(depth: Tensor, net: mim4d.MIM4D) -> Tensor:
    """Near is bright."""
    far = net.config.far
    return (1 - (depth / far).clamp(0, 1).sqrt())[:, None].expand(-1, 3, -1, -1) * 2 - 1
