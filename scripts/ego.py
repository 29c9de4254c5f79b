"""Train the network that reads speed and yaw rate from pictures, and say how well it reads clips that are real.

python scripts/ego.py --minutes 8 [--films 200] [--out maskworld/probes/ego.safetensors]

The minutes are CPU time of one thread, the films' making included. The card in the file says how well it reads held-out
drives, by day and elsewhere, as they are and from half their size: the floor of all that is measured with it.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from tqdm import tqdm

from maskworld.commands.doctor import fast_precision
from maskworld.data.drive import DAY, SHIFTED, Domain, Drives
from maskworld.probes import driving, ego

HELD_OUT: dict[str, Domain] = {
    "day": DAY,
    "night": Domain("night"),
    "camera": Domain(fov=SHIFTED.fov, height=SHIFTED.height),
    "shifted": SHIFTED,
    "haze": Domain(haze=0.6),
}
FRAMES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=64, help="held out, in each domain")
    parser.add_argument("--out", type=Path, default=ego.SHIPPED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    precision = fast_precision()
    began = time.process_time()
    films = ego.films(options.films, options.seed, num_frames=100)
    spent = time.process_time() - began
    print(f"{len(films)} films of {len(films[0].frames)} frames, {spent:.0f} s", flush=True)
    began = time.process_time()
    ego.train(films, 10, options.seed, precision=precision)
    a_step = (time.process_time() - began) / 16  # and after the training 40 batches go through it once more
    steps = max(20, int((60 * options.minutes - spent) / a_step * 0.95))
    bar, losses = tqdm(total=steps, unit="step", mininterval=30), []

    def on_step(step: int, terms: Any) -> None:
        losses.append(terms)
        bar.update()
        bar.set_postfix({name: f"{np.mean([x[name] for x in losses[-100:]]):.4f}" for name in terms}, refresh=False)

    net = ego.train(films, steps, options.seed, precision=precision, on_step=on_step)
    bar.close()
    card: dict[str, Any] = {"steps": steps, "films": len(films), "seed": options.seed}
    ego.save(net, options.out, card)
    name, net, _ = ego.load(options.out)  # as it ships, in half precision
    card["held_out"] = {domain: read_again(net, domain, options.clips) for domain in HELD_OUT}
    ego.save(net, options.out, card)
    size = options.out.stat().st_size
    print(f"{name}: {sum(p.numel() for p in net.parameters())} weights, {size / 1e6:.2f} MB, {steps} steps")
    print(json.dumps(card, indent=1))


def read_again(net: ego.Ego, domain: str, clips: int) -> dict[str, dict[str, float]]:
    """How well motion is read from drives that it never saw, as they are and brought to half their size and back."""
    drives = Drives(FRAMES, 1, ego.SIZE, ego.FPS, HELD_OUT[domain], "test", seed=1)
    # Eight clips come from each scene: of every scene one.
    held = [drives(i // 8 * 64 + i % 8) for i in range(clips)]
    frames = torch.cat([clip.frames[:, 0] for clip in held])
    flat = F.avg_pool2d(rearrange(frames, "b t c h w -> (b t) c h w"), 2)
    flat = F.interpolate(flat, ego.SIZE, mode="bilinear", align_corners=False)
    coarse = rearrange(flat, "(b t) c h w -> b t c h w", b=clips)
    actions = torch.cat([clip.actions for clip in held if clip.actions is not None])
    rows = {}
    for how, seen in (("sharp", frames), ("half size", coarse)):
        found = driving.controllability(seen, actions, read=partial(ego.read_motion, net=net), resamples=200)
        rows[how] = {}
        for what, one in found.items():
            numbers = {"rmse": one.rmse.mean, "pearson": one.pearson.mean, "rank": one.rank.mean}
            numbers |= {"pearson_low": one.pearson.low, "pearson_high": one.pearson.high}
            rows[how] |= {f"{what}_{name}": round(value, 4) for name, value in numbers.items()}
    return rows


if __name__ == "__main__":
    main()
