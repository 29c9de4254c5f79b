"""An encoder of the suite's own world, for distances between sets of films.

Encoders that were trained on videos of people say little about discs. This one learned from the simulator what is
where, how it moves and which way time runs; its features are what it uses to say so. It looks at 64 x 64 pixels.

Its name carries the hash of its weights: distances under two names are two quantities.

Sections: network - targets - training - files.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from maskworld.probes.quality import Extractor, unit
from maskworld.probes.readout import KNOWN
from maskworld.probes.scenes import SCREEN, WALLS
from maskworld.probes.stage import VIEW, Tier, Track, film, visible

NUM_FRAMES = 16  # of the clips that it learns from
MIN_FRAMES = 8  # of the clips that it looks at
COLOURS = np.array([*KNOWN, SCREEN, WALLS])
"""What it tells about: the colours of all palettes, and of what stands."""

# -- network --------------------------------------------------------------------------------------

WIDTHS = (3, 16, 32, 48, 48)
STRIDES = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 1, 1))
SHARP = 2  # layers whose spread is among the features: sharpness, to which a sense of place is blind
DIM = 64
DIM_FEATURES = 2 * DIM + sum(WIDTHS[1 : 1 + SHARP])


class Encoder(nn.Module):
    """Four 3-D convolutions and a hidden layer that sees the whole view, for every second frame."""

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i, stride in enumerate(STRIDES):
            side = 5 if i == 0 else 3
            conv = nn.Conv3d(WIDTHS[i], WIDTHS[i + 1], (3, side, side), stride, (1, side // 2, side // 2))
            self.layers.append(nn.Sequential(conv, nn.GroupNorm(8, WIDTHS[i + 1]), nn.SiLU()))
        self.narrow = nn.Conv3d(WIDTHS[-1], 16, 1)
        self.hidden = nn.Linear(16 * 8 * 8, DIM)
        self.register_buffer("centre", torch.zeros(DIM_FEATURES))
        self.register_buffer("spread", torch.ones(DIM_FEATURES))

    def forward(self, x: Float[Tensor, "n 3 t 64 64"]) -> tuple[Float[Tensor, "n s d"], Float[Tensor, "n f"]]:
        """Pixels in [0, 1] to what it sees at frames 0, 2, 4, ..., and to the features of the clip.

        The features are the mean over time of each hidden number, how much it changes from look to look, and the
        spread of the first channels; each in units of its own spread over real films.
        """
        x = x - 0.5
        sharp = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < SHARP:
                sharp.append(x.std((2, 3, 4), correction=0))
        seen = F.silu(self.hidden(rearrange(self.narrow(x), "n c s h w -> n s (c h w)")))
        change = (seen[:, 1:] - seen[:, :-1]).square().mean(1).add(1e-8).sqrt()
        return seen, (torch.cat([seen.mean(1), change, *sharp], 1) - self.centre) / self.spread


class _Heads(nn.Module):
    """What is asked during training, and thrown away after it."""

    def __init__(self) -> None:
        super().__init__()
        self.things = nn.Linear(DIM, 5 * len(COLOURS))  # there?, x, y, velocity x, velocity y
        self.count = nn.Linear(DIM, 1)
        self.direction = nn.Sequential(nn.Linear(DIM_FEATURES, DIM), nn.SiLU(), nn.Linear(DIM, 1))


# -- targets --------------------------------------------------------------------------------------

_Targets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _targets(track: Track) -> _Targets:
    """At every frame of each colour: whether it is seen, its centre and its velocity; and how many objects are seen.

    Centres are in [-1, 1] of the view, velocities in half pixels of the view per frame, relative to the camera.
    """
    t = track.num_frames
    place = track.position - track.camera[:, None]
    velocity = np.zeros_like(place)
    velocity[:-1] = place[1:] - place[:-1]
    seen = visible(track)
    area = seen * np.where(track.box, 4 * track.half.prod(1), np.pi * track.half[:, 0] ** 2)
    same = np.linalg.norm(track.colour[:, :, None] - COLOURS, axis=-1) < 0.02  # t n colours
    weight = area[:, :, None] * same
    total = weight.sum(1)
    share = (weight / np.maximum(total, 1e-6)[:, None]).swapaxes(1, 2)  # t colours n
    there = total > 12.0
    centre = (share @ np.clip(place, 0, VIEW) / (VIEW / 2)) - 1
    speed = np.clip(share @ velocity, -8, 8) / 2
    count = (seen[:, track.object] > 0.3).sum(1) if track.object.any() else np.zeros(t)
    return there, np.where(there[..., None], centre, 0), np.where(there[..., None], speed, 0), count


def _loss(encoder: Encoder, heads: _Heads, x: Float[Tensor, "n 3 t 64 64"], targets: dict[str, Tensor]) -> Tensor:
    seen, features = encoder(x)
    said = rearrange(heads.things(seen), "n s (k five) -> n s k five", five=5)
    there = targets["there"]
    weight = there / there.sum().clamp(min=1)
    loss = F.binary_cross_entropy_with_logits(said[..., 0], there)
    loss = loss + 4 * ((said[..., 1:3] - targets["centre"]).square().sum(-1) * weight).sum()
    loss = loss + ((said[..., 3:5] - targets["velocity"]).square().sum(-1) * weight).sum()
    loss = loss + 0.1 * (heads.count(seen)[..., 0] - targets["count"]).square().mean()
    backward = heads.direction(features)[:, 0]
    return loss + 0.3 * F.binary_cross_entropy_with_logits(backward, targets["backward"])


# -- training -------------------------------------------------------------------------------------


def train(
    films: Sequence[Track],
    steps: int,
    seed: int,
    batch: int = 16,
    measured: int = 256,
    on_step: Callable[[int, float], None] | None = None,
) -> Encoder:
    """An encoder that has learned from these films, in pieces of 16 frames; half of the pieces run backwards.

    One film in four is shown as the textured tier paints it. The same arguments give the same weights on one machine.

    Args:
        films: what happens; those of fewer than 16 frames are left out.
        steps: how often it learns from `batch` pieces.
        seed: of the weights and of the pieces.
        batch: pieces at a time.
        measured: pieces, real ones, by which the features are scaled in the end.
        on_step: told the number of the step and its loss.

    Raises:
        ValueError: no film is long enough.
    """
    films = [track for track in films if track.num_frames >= NUM_FRAMES]
    if not films:
        raise ValueError(f"the encoder learns from films of {NUM_FRAMES} frames or more; there are none")
    rng = np.random.default_rng([11, seed])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, heads = Encoder(), _Heads()
    rate, warm = 2e-3, max(1, min(100, steps // 10))
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            falling = 0.5 + 0.5 * math.cos(math.pi * step / steps)
            group["lr"] = rate * min((step + 1) / warm, falling)
        x, targets = _batch(films, batch, rng)
        loss = _loss(encoder, heads, x, targets)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if on_step:
            on_step(step, loss.item())
    encoder.eval()
    real = [_small(film(_piece(films, rng))) for _ in range(measured)]
    with torch.no_grad():
        features = torch.cat([encoder(_channels_first(real[i : i + batch]))[1] for i in range(0, len(real), batch)])
        encoder.centre.copy_(features.mean(0))
        encoder.spread.copy_(features.std(0).clamp(min=1e-3))
    return encoder


def _piece(films: Sequence[Track], rng: np.random.Generator) -> Track:
    track = films[int(rng.integers(len(films)))]
    start = int(rng.integers(track.num_frames - NUM_FRAMES + 1))
    return track.part(start, start + NUM_FRAMES)


def _channels_first(films: Sequence[np.ndarray]) -> Float[Tensor, "n 3 t h w"]:
    return rearrange(torch.from_numpy(np.stack(films)), "n t h w c -> n c t h w")


def _batch(
    films: Sequence[Track], batch: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "n 3 t 64 64"], dict[str, Tensor]]:
    pixels, rows = [], []
    for _ in range(batch):
        track = _piece(films, rng)
        tier: Tier = "textured" if rng.random() < 0.25 else "flat"
        backward = bool(rng.random() < 0.5)
        if backward:
            track = track.at(range(NUM_FRAMES)[::-1])
        pixels.append(_small(film(track, tier)))
        rows.append((*(value[::2] for value in _targets(track)), backward))
    names = ("there", "centre", "velocity", "count", "backward")
    targets = {
        name: torch.from_numpy(np.stack(values).astype(np.float32))
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    return _channels_first(pixels), targets


def _small(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t 64 64 3"]:
    """Pixels in [0, 1], of either tier at the size of the flat one."""
    k = frames.shape[1] // VIEW
    blocks = rearrange(frames, "t (h i) (w j) c -> t h w c (i j)", i=k, j=k)
    return (blocks.mean(-1, dtype=np.float32) / 255).astype(np.float32)


# -- files ----------------------------------------------------------------------------------------

_KEY = "maskworld-domain"


def save(encoder: Encoder, folder: Path) -> Path:
    """Writes the weights in half precision as FOLDER/domain-HASH.safetensors; gives the path."""
    halves = {name: value.detach().half().contiguous() for name, value in encoder.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_name(halves)}.safetensors"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(halves, beside, metadata={_KEY: _name(halves)})
        beside.chmod(0o644)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def load(path: Path) -> tuple[str, Encoder]:
    """The encoder and its name, which is that of its weights whatever the file is called.

    Raises:
        ValueError: no such file, not an encoder of this kind, or its weights are not those that were written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            halves = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise ValueError(f"domain:{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"domain:{path}: not a safetensors file, or truncated ({error})") from None
    encoder = Encoder()
    wanted = {name: value.shape for name, value in encoder.state_dict().items()}
    if _KEY not in header or {name: value.shape for name, value in halves.items()} != wanted:
        raise ValueError(f"domain:{path}: holds tensors, but no domain encoder")
    if header[_KEY] != _name(halves):
        raise ValueError(f"domain:{path}: written as {header[_KEY]}, but its weights are {_name(halves)}")
    encoder.load_state_dict({name: value.float() for name, value in halves.items()})
    return _name(halves), encoder.eval()


def _name(halves: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(halves):
        digest.update(f"{name} {tuple(halves[name].shape)} ".encode())
        digest.update(halves[name].cpu().numpy().astype("<f2").tobytes())
    return f"domain-{digest.hexdigest()[:8]}"


def extractor(path: Path, device: torch.device | str = "cpu") -> Extractor:
    """The features of an encoder on file, under its own name. Raises ValueError as `load`."""
    name, encoder = load(path)
    return extractor_of_encoder(name, encoder.to(device))


def extractor_of_encoder(name: str, encoder: Encoder) -> Extractor:
    """The features of an encoder; films of another size are brought to 64 x 64."""
    return Extractor(name, functools.partial(_features, encoder), min_frames=MIN_FRAMES)


def _features(encoder: Encoder, frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n d"]:
    if frames.shape[2] != 3:
        raise ValueError(f"this extractor sees colour, not {frames.shape[2]} channels")
    n = frames.shape[0]
    x = rearrange(unit(frames.float()), "n t c h w -> (n t) c h w").to(next(encoder.parameters()).device)
    if x.shape[-2:] != (VIEW, VIEW):
        x = F.interpolate(x, (VIEW, VIEW), mode="bilinear", align_corners=False, antialias=True)
    return encoder(rearrange(x, "(n t) c h w -> n c t h w", n=n))[1]
