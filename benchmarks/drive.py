"""How fast the synthetic drive is: scenes made, and time steps rendered with all that is true of them.

    python benchmarks/drive.py [--quick] [--json] [--threads 1 2]

A time step is one frame of every camera: RGB, depth, ids and flow. To reach: 40 steps of 6 cameras of 96 x 160 per
second on two threads. The second size is what small models are trained on: one camera of 48 x 96. Scenes last 48
frames at 5 frames/s; rates are medians over scenes. CPU seconds are the process's own and hardly see its neighbours;
wall seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Before torch is loaded: threads that wait actively cost CPU seconds, several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from maskworld.data import drive

FRAMES, FPS = 48, 5.0
TARGET = 40.0  # steps of six cameras per second, two threads
SIZES: dict[str, tuple[int, tuple[int, int]]] = {
    "6 x 96 x 160": (6, (96, 160)),
    "3 x 48 x 96": (3, (48, 96)),
    "1 x 48 x 96": (1, (48, 96)),
}
DOMAINS = {"day": drive.DAY, "night": drive.Domain("night"), "haze": drive.Domain(haze=0.8)}


class Seconds(NamedTuple):
    wall: float
    cpu: float


def spent(work: Callable[[], object], device: torch.device) -> Seconds:
    """Seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def rates(scenes: Sequence[drive.Scene], rig: drive.Rig, steps: int, device: torch.device) -> dict[str, float]:
    """Time steps per second of wall time and of CPU time, after one warm run."""
    frames = range(min(steps, scenes[0].num_frames))
    drive.render(scenes[0], rig, frames, device)
    times = [spent(lambda scene=scene: drive.render(scene, rig, frames, device), device) for scene in scenes]
    wall, cpu = statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times)
    return {"per_wall_s": len(frames) / wall, "per_cpu_s": len(frames) / cpu}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two scenes, few steps, day alone; a few seconds")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--scenes", type=int, help="how many; default 5")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    if min(given.threads) < 1 or (given.scenes or 1) < 1:
        raise ValueError("at least one thread and one scene")
    device = torch.device(given.device)
    num, steps = given.scenes or (2 if given.quick else 5), 12 if given.quick else FRAMES
    domains = {"day": drive.DAY} if given.quick else DOMAINS

    torch.set_num_threads(1)
    drive.scene(0, FRAMES, FPS)
    made = [spent(lambda seed=seed: drive.scene(seed, FRAMES, FPS), torch.device("cpu")) for seed in range(1, num + 1)]
    making = Seconds(statistics.median(t.wall for t in made), statistics.median(t.cpu for t in made))
    print(f"a scene of {FRAMES} frames: {making.cpu:.3f} s of CPU ({making.wall:.3f} s)\n")
    print(f"{'cameras':15}{'domain':9}{'threads':>8}{'steps / CPU s':>15}{'(wall s)':>10}{'frames / CPU s':>16}")
    rows: list[dict[str, Any]] = []
    for domain, value in domains.items():
        scenes = [drive.scene(seed, FRAMES, FPS, value) for seed in range(1, num + 1)]
        for name, (cameras, size) in SIZES.items():
            for threads in given.threads:
                torch.set_num_threads(threads)
                rate = rates(scenes, drive.rig(cameras, size, value), steps, device)
                rows.append({"cameras": name, "domain": domain, "threads": threads, **rate})
                print(
                    f"{name:15}{domain:9}{threads:8}{rate['per_cpu_s']:15.1f}{rate['per_wall_s']:10.1f}"
                    f"{cameras * rate['per_cpu_s']:16.0f}",
                    flush=True,
                )
    print(f"\nTo reach: {TARGET:.0f} steps of 6 x 96 x 160 per second of wall time on two free threads.")
    if given.json:
        found = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "device": str(device)}
        print(
            json.dumps(
                {"benchmark": "drive", **found, "quick": given.quick, "scene_s": making._asdict(), "target": TARGET}
                | {"rows": rows}
            )
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
