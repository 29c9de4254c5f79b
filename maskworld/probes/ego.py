"""What the front camera's pictures say of the car that carries it: how fast it goes and turns, how many cars it sees.

A small network, trained on rendered drives in all their domains and then frozen. It is a yardstick: it reads motion
back from clips that a model made, and its features stand under a Frechet distance, which is comparable only with
itself. Its name carries the hash of its weights; its card says how well it reads clips that are real.

It looks at 48 x 96 pixels. Each step of a reading comes from two neighbouring frames alone, so that no memory of the
network can smooth what a model made uneven. What distinguishes light, haze, camera and sharpness is asked of it in
training, so that its features hold it.

Sections: network - reading - films - training - files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from maskworld.data import drive
from maskworld.noise import mix
from maskworld.probes.quality import Extractor

SIZE = (48, 96)
FPS = 5.0
"""What clips are taken to run at where nothing is said."""

# -- network --------------------------------------------------------------------------------------

DIM = 32
ACROSS, DOWN = 5, 2  # how far it looks for a patch of one frame in the next, in cells of two pixels
CONDITIONS = ("night", "haze", "fov", "height", "blur")
"""What is told of a clip as a whole: each about from -1 to 1."""


class Ego(nn.Module):
    """Features of each frame, their correlation with the next frame's, and a hidden layer that sees both whole."""

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.GroupNorm(4, 16), nn.SiLU(),
            nn.Conv2d(16, 16, 3, 1, 1),
        )  # fmt: skip
        seen = (2 * ACROSS + 1) * (2 * DOWN + 1) + 2 * 16
        self.second = nn.Sequential(
            nn.Conv2d(seen, 48, 3, 2, 1), nn.GroupNorm(8, 48), nn.SiLU(),
            nn.Conv2d(48, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, 64, 3, 1, 1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, 16, 1),
        )  # fmt: skip
        self.hidden = nn.Linear(16 * (SIZE[0] // 8) * (SIZE[1] // 8), DIM)
        self.motion = nn.Linear(DIM, 2)
        self.cars = nn.Linear(DIM, 1)
        self.condition = nn.Linear(DIM, len(CONDITIONS))
        self.register_buffer("centre", torch.zeros(DIM))
        self.register_buffer("spread", torch.ones(DIM))

    def forward(self, x: Float[Tensor, "b t 3 48 96"]) -> Float[Tensor, "b s d"]:
        """Frames in [-1, 1] to what is seen at each of the t - 1 steps."""
        b = x.shape[0]
        seen = rearrange(self.first(rearrange(x, "b t c h w -> (b t) c h w")), "(b t) c h w -> b t c h w", b=b)
        now, after = (rearrange(part, "b s c h w -> (b s) c h w") for part in (seen[:, :-1], seen[:, 1:]))
        joined = torch.cat([_correlation(now, after), F.silu(now), F.silu(after)], 1)
        hidden = F.silu(self.hidden(rearrange(self.second(joined), "n c h w -> n (c h w)")))
        return rearrange(hidden, "(b s) d -> b s d", b=b)


def _correlation(one: Float[Tensor, "n c h w"], other: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
    """The likeness (cosine) of each cell of `one` to those of `other` that are up to ACROSS and DOWN away."""
    h, w = one.shape[-2:]
    one, other = F.normalize(one, dim=1), F.normalize(other, dim=1)
    other = F.pad(other, (ACROSS, ACROSS, DOWN, DOWN))
    rows = rearrange(one, "n c h w -> n h w c")
    place = torch.arange(w, device=one.device)[:, None] + torch.arange(2 * ACROSS + 1, device=one.device)
    likeness = []
    for down in range(2 * DOWN + 1):
        row = rows @ rearrange(other[:, :, down : down + h], "n c h x -> n h c x")  # each cell with a whole row
        likeness.append(row.gather(-1, place.expand(*row.shape[:2], -1, -1)))
    return 4 * rearrange(torch.cat(likeness, -1), "n h w k -> n k h w")


# -- reading --------------------------------------------------------------------------------------


def read_motion(
    frames: Float[Tensor, "b t c h w"], fps: float = FPS, net: Ego | None = None, chunk: int = 32
) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Speed in m/s and yaw rate in rad/s (positive to the left) of each step from a frame to the next.

    Clips of another size are brought to 48 x 96; of higher ones the middle is looked at. A mirrored clip gives exactly
    the same speed and the opposite yaw rate: both ways round are read.

    Args:
        frames: of the front camera, two or more, in colour.
        fps: frames a second.
        net: None: the one that ships.
        chunk: clips at a time.

    Raises:
        ValueError: fewer than two frames, no colour, or frames more than twice as wide as high.
    """
    if not fps > 0:
        raise ValueError(f"frames a second are more than 0, not {fps}")
    net = shipped()[1] if net is None else net
    with torch.no_grad():
        parts = [_motion(net, prepare(part)) for part in frames.split(chunk)]
    metres, turned = torch.cat(parts).unbind(-1)
    return metres * fps, turned * fps


def _motion(net: Ego, x: Float[Tensor, "b t 3 48 96"]) -> Float[Tensor, "b s 2"]:
    """Metres and radians of each step."""
    x = x.to(net.centre.device)
    plain, mirrored = net.motion(net(x)), net.motion(net(x.flip(-1)))
    return torch.stack([plain[..., 0] + mirrored[..., 0], plain[..., 1] - mirrored[..., 1]], -1).cpu() / 2 * _UNITS


def count_cars(frames: Float[Tensor, "b t c h w"], net: Ego | None = None) -> Float[Tensor, " b"]:
    """How many cars are in view, on average over the frames."""
    net = shipped()[1] if net is None else net
    with torch.no_grad():
        return net.cars(net(prepare(frames).to(net.centre.device)))[..., 0].mean(1).cpu() * _CARS


def features(frames: Float[Tensor, "b t c h w"], net: Ego | None = None) -> Float[Tensor, "b d"]:
    """The hidden layer, its mean over time, each number in units of its own spread over real clips."""
    net = shipped()[1] if net is None else net
    with torch.no_grad():
        hidden = net(prepare(frames).to(net.centre.device)).mean(1)
        return ((hidden - net.centre) / net.spread).cpu()


def extractor(name: str, net: Ego) -> Extractor:
    """The features under the network's name, for distances between sets (never to be called FVD)."""
    return Extractor(name, functools.partial(features, net=net), min_frames=2)


def prepare(frames: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t 3 48 96"]:
    """Frames as the network wants them: the middle rows of higher frames, at 48 x 96. ValueError as `read_motion`."""
    b, t, c, h, w = frames.shape
    if t < 2:
        raise ValueError(f"motion is read from two frames or more, not from {t}")
    if c != 3:
        raise ValueError(f"motion is read from colour, not from {c} channels")
    if w > 2 * h:
        raise ValueError(f"motion is read from frames at most twice as wide as high, not {h} x {w}")
    top = (h - math.ceil(w / 2)) // 2
    x = rearrange(frames.float().clamp(-1, 1), "b t c h w -> (b t) c h w")[:, :, top : top + math.ceil(w / 2)]
    if x.shape[-2:] != SIZE:
        x = F.interpolate(x, SIZE, mode="bilinear", align_corners=False, antialias=True)
    return rearrange(x, "(b t) c h w -> b t c h w", b=b)


_UNITS = torch.tensor([2.0, 0.1])  # metres and radians a step that count as 1
_CARS = 4.0

# -- films ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Film:
    """What the network learns from: frames of the front camera, and what was true.

    motion      speed (m/s) and yaw rate (rad/s) from each frame to the next
    cars        cars in view, at each frame
    condition   night (1, else 0), haze, fov (as a share of 10 degrees from 62.5) and height (metres above 1.8)
    """

    frames: UInt8[np.ndarray, "t 48 96 3"]
    motion: Float[np.ndarray, "t 2"]
    cars: Float[np.ndarray, " t"]
    condition: Float[np.ndarray, " 4"]
    fps: float


CAR_PIXELS = 6
"""So many pixels of a car are a car in view."""


def film(seed: int, num_frames: int, fps: float, domain: drive.Domain) -> Film:
    """One drive, seen by its front camera."""
    scene = drive.scene(seed, num_frames, fps, domain)
    views = drive.render(scene, drive.rig(1, SIZE, domain), None, "cpu")
    rgb = rearrange(views.rgb[0], "t c h w -> t h w c")
    actions = scene.actions.double()
    motion = torch.stack([actions[:, 0], actions[:, 0] * actions[:, 1]], -1)
    condition = (float(domain.light == "night"), domain.haze, (domain.fov - 62.5) / 10, domain.height - 1.8)
    return Film(
        ((rgb + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy(),
        motion.float().numpy(),
        np.array([_cars(scene, t, views.ids[0, t]) for t in range(num_frames)], np.float32),
        np.array(condition, np.float32),
        fps,
    )


def _cars(scene: drive.Scene, frame: int, ids: Tensor) -> int:
    boxes = drive.boxes(scene, frame)
    cars = [int(boxes.ids[i]) for i, name in enumerate(boxes.category) if "car" in name]
    seen = torch.bincount(ids.flatten().long(), minlength=max(cars, default=0) + 1)
    return sum(int(seen[i]) >= CAR_PIXELS for i in cars)


def any_domain(rng: np.random.Generator) -> drive.Domain:
    """Light, haze, camera, density and speed, each drawn by itself; the day as it is, one time in five."""
    if rng.random() < 0.2:
        return drive.DAY
    return drive.Domain(
        light="night" if rng.random() < 0.45 else "day",
        haze=float(rng.uniform(0, 1)) if rng.random() < 0.3 else 0.0,
        fov=float(rng.uniform(55, 70)) if rng.random() < 0.7 else 70.0,
        height=float(rng.uniform(1.4, 2.3)) if rng.random() < 0.7 else 1.5,
        density=float(rng.uniform(0.4, 1.6)),
        speed=float(rng.uniform(0.6, 1.4)),
    )


def films(num: int, seed: int, num_frames: int = 80, fps: float = 10.0) -> list[Film]:
    """Drives in all domains; another seed, other drives."""
    made = []
    for i in range(num):
        domain = any_domain(np.random.default_rng(mix(seed, i)))
        made.append(film(mix(seed, i, 1) % 2**31, num_frames, fps, domain))
    return made


# -- training -------------------------------------------------------------------------------------


def train(
    films: Sequence[Film],
    steps: int,
    seed: int,
    batch: int = 12,
    length: int = 5,
    rate: float = 3e-3,
    precision: torch.dtype = torch.float32,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Ego:
    """A network that has learned from these films: pieces of `length` frames, every first, second or third of them.

    Pieces are mirrored, blurred, made noisy, lighter and darker at random: what models make is never quite sharp. The
    same arguments give the same weights on one machine.

    Args:
        films: what was driven.
        steps: how often it learns from `batch` pieces.
        seed: of the weights and of the pieces.
        batch, length: pieces at a time, frames of each.
        rate: the largest learning rate.
        precision: in which all but the last layers are computed.
        on_step: told the number of the step and its losses.

    Raises:
        ValueError: no films, or one that is too short for a piece.
    """
    reach = 3 * (length - 1) + 1
    if not films or min(len(one.frames) for one in films) < reach:
        raise ValueError(f"it learns from films of {reach} frames or more; there are none, or shorter ones")
    rng = np.random.default_rng([12, seed])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Ego()
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    average = {name: value.clone() for name, value in net.state_dict().items()}
    warm = max(1, min(100, steps // 10))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        x, motion, cars, condition = _batch(films, batch, length, rng)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            hidden = net(x)
        losses = _losses(net, hidden.float(), motion, cars, condition)
        loss = sum(losses.values(), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        kept = min(0.99, step / (step + 10))
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - kept)
        if on_step:
            on_step(step, {name: value.item() for name, value in losses.items()})
    net.load_state_dict(average)
    net.eval()
    with torch.no_grad():
        clean = [net(_batch(films, batch, length, rng, spoil=False)[0]).mean(1) for _ in range(40)]
    hidden = torch.cat(clean)
    net.centre.copy_(hidden.mean(0))
    net.spread.copy_(hidden.std(0).clamp(min=1e-2))
    return net


def _losses(
    net: Ego,
    hidden: Float[Tensor, "b s d"],
    motion: Float[Tensor, "b s 2"],
    cars: Float[Tensor, " b"],
    condition: Float[Tensor, "b k"],
) -> dict[str, Tensor]:
    mean = hidden.mean(1)
    error = F.smooth_l1_loss(net.motion(hidden), motion / _UNITS, beta=0.2, reduction="none").mean((0, 1))
    return {
        "speed": error[0],
        "yaw": 3 * error[1],
        "cars": 0.1 * F.smooth_l1_loss(net.cars(hidden)[..., 0].mean(1), cars / _CARS),
        "condition": 0.1 * F.smooth_l1_loss(net.condition(mean), condition),
    }


def _batch(
    films: Sequence[Film], batch: int, length: int, rng: np.random.Generator, spoil: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pixels, motion, cars, condition = [], [], [], []
    for _ in range(batch):
        one = films[int(rng.integers(len(films)))]
        stride = int(rng.choice(3, p=(0.25, 0.55, 0.2))) + 1
        room = len(one.frames) - stride * (length - 1)
        start = int(rng.integers(room))
        for _ in range(2):  # turns are rare: of three starts the one that turns most, half of the time
            other = int(rng.integers(room))
            if rng.random() < 0.5 and abs(one.motion[other, 1]) > abs(one.motion[start, 1]):
                start = other
        place = start + stride * np.arange(length)
        rates = one.motion[start : place[-1]].reshape(length - 1, stride, 2).mean(1)
        mirrored = rng.random() < 0.5
        frames = one.frames[place][:, :, ::-1] if mirrored else one.frames[place]
        pixels.append(np.ascontiguousarray(frames))
        motion.append(rates * (1, -1 if mirrored else 1) * stride / one.fps)
        cars.append(one.cars[place].mean())
        condition.append([*one.condition, 0.0])
    x = rearrange(torch.from_numpy(np.stack(pixels)).float() / 127.5 - 1, "b t h w c -> b t c h w")
    told = torch.tensor(np.array(condition), dtype=torch.float32)
    if spoil:
        x, told[:, -1] = _spoil(x, rng)
    return x, torch.tensor(np.stack(motion), dtype=torch.float32), torch.tensor(np.array(cars)).float(), told


def _spoil(
    x: Float[Tensor, "b t c h w"], rng: np.random.Generator
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, " b"]]:
    """Blurred, coarser, noisier, darker or lighter, each clip in its own way; and how much was blurred, from 0 to 1."""
    b = x.shape[0]

    def draw(p: float, low: float, high: float, otherwise: float) -> Float[Tensor, " b"]:
        return torch.tensor(np.where(rng.random(b) < p, rng.uniform(low, high, b), otherwise), dtype=torch.float32)

    blur, coarse = draw(0.4, 0.2, 1.0, 0.0), draw(0.35, 1.0, 1.0, 0.0)
    taps = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 1.6) ** 2)
    kernel = repeat(taps / taps.sum(), "k -> c 1 k", c=3)
    flat = F.pad(rearrange(x, "b t c h w -> (b t) c h w"), (4, 4, 4, 4), mode="replicate")
    soft = F.conv2d(F.conv2d(flat, kernel[..., None], groups=3), kernel[:, :, None], groups=3)
    flat = flat[..., 4:-4, 4:-4]
    small = F.interpolate(flat, scale_factor=0.5, mode="bilinear", antialias=True)
    small = F.interpolate(small, flat.shape[-2:], mode="bilinear", align_corners=False)
    soft, small = (rearrange(part, "(b t) c h w -> b t c h w", b=b) for part in (soft, small))
    x = x.lerp(small, _each(coarse)).lerp(soft, _each(blur))
    noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
    x = x * _each(draw(0.5, 0.8, 1.2, 1.0)) + _each(draw(0.5, -0.1, 0.1, 0.0))
    x = x + noise * _each(draw(0.5, 0.0, 0.12, 0.0))
    return x.clamp(-1, 1), torch.maximum(blur, 0.4 * coarse)


def _each(amount: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1 1"]:
    return rearrange(amount, "b -> b 1 1 1 1")


# -- files ----------------------------------------------------------------------------------------

SHIPPED = Path(__file__).with_name("ego.safetensors")
_KEY = "maskworld-ego"


@functools.cache
def shipped() -> tuple[str, Ego]:
    """The name and the network that come with the package."""
    name, net, _ = load(SHIPPED)
    return name, net


def save(net: Ego, path: Path, card: Mapping[str, Any]) -> str:
    """Writes the weights in half precision, with a card of what is known of them; gives their name."""
    halves = {name: value.detach().half().contiguous() for name, value in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(halves, beside, metadata={_KEY: _name(halves), "card": json.dumps(card)})
        beside.chmod(0o644)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return _name(halves)


def load(path: Path) -> tuple[str, Ego, dict[str, Any]]:
    """The network's name, which is that of its weights, the network and its card.

    Raises:
        ValueError: no such file, not a network of this kind, or its weights are not those that were written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            halves = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; python scripts/ego.py trains one") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file, or truncated ({error})") from None
    net = Ego()
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    if _KEY not in header or {name: value.shape for name, value in halves.items()} != wanted:
        raise ValueError(f"{path}: holds tensors, but no network that reads motion")
    if header[_KEY] != _name(halves):
        raise ValueError(f"{path}: written as {header[_KEY]}, but its weights are {_name(halves)}")
    net.load_state_dict({name: value.float() for name, value in halves.items()})
    return header[_KEY], net.eval().requires_grad_(False), json.loads(header.get("card", "{}"))


def _name(halves: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(halves):
        digest.update(f"{name} {tuple(halves[name].shape)} ".encode())
        digest.update(halves[name].cpu().numpy().astype("<f2").tobytes())
    return f"ego-{digest.hexdigest()[:8]}"
