"""`maskworld doctor`: what this machine has, and what is missing or broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json as json_
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without that it is many times slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_precision(device: torch.device | str = "cpu") -> torch.dtype:
    """In which numbers a network computes fastest on this device."""
    import torch

    on_cpu = torch.device(device).type == "cpu"
    return torch.bfloat16 if (fast_bf16() if on_cpu else torch.cuda.is_bf16_supported()) else torch.float32


def use_threads(number: int | None) -> None:
    """All cores where no number is said. Raises ValueError for less than one."""
    import torch

    if number is not None and number < 1:
        raise ValueError(f"a command uses at least one thread, not {number}")
    if number is not None:
        torch.set_num_threads(number)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _imports(name: str) -> str:
    """`ok`, `absent`, or the last line of what an import says; in a process of its own, where it cannot do harm."""
    if importlib.util.find_spec(name) is None:
        return "absent"
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    return "ok" if done.returncode == 0 else "broken: " + done.stderr.strip().splitlines()[-1]


def _drawing() -> str:
    """Which of MuJoCo's renderers works; each draws a picture in a process of its own."""
    if _version("mujoco") is None:
        return "absent"
    from maskworld.data import control

    return ", ".join(f"{name}: {control.try_backend(name)}" for name in control.BACKENDS)


def doctor_command(json: bool) -> int:
    import av
    import torch

    from maskworld import checkpoint

    found = {
        "maskworld": _version("maskworld"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16 on the CPU": "in hardware" if fast_bf16() else "no: float32 is used",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "av": _version("av"),
        "H.264 encoder": "ok" if "libx264" in av.codecs_available else "absent: .mp4 cannot be written",
        "torchvision": _imports("torchvision"),
        "transformers, diffusers [hf]": f"{_version('transformers') or 'absent'}, {_version('diffusers') or 'absent'}",
        "mujoco [control]": _version("mujoco") or "absent",
        "dm_control, gymnasium [control]": f"{_version('dm-control') or 'absent'}, {_version('gymnasium') or 'absent'}",
        "h5py [control]": _version("h5py") or "absent",
        "drawing without a screen": _drawing(),
        "pyarrow [data]": _version("pyarrow") or "absent",
        "gradio [ui]": _version("gradio") or "absent",
        "rerun-sdk [viz]": _version("rerun-sdk") or "absent",
        "zoo": ", ".join(checkpoint.zoo()) or "empty",
    }
    if json:
        print(json_.dumps(found))
        return 0
    for name, value in found.items():
        print(f"{name:32} {value}")
    absent = [extra for name, extra in _EXTRAS.items() if _version(name) is None]
    if absent:
        print(f"\nWhat is absent is optional: pip install 'maskworld[{','.join(dict.fromkeys(absent))}]'")
    if "ok" not in found["drawing without a screen"] and _version("mujoco") is not None:
        print("\nControl tasks need EGL (apt-get install libegl1 libopengl0 libgl1-mesa-dri) or OSMesa (libosmesa6).")
    if found["torchvision"].startswith("broken"):
        print("\nA broken torchvision takes transformers and diffusers down; maskworld itself does not use it.")
    return 0


_EXTRAS = {
    "transformers": "hf",
    "diffusers": "hf",
    "mujoco": "control",
    "dm-control": "control",
    "gymnasium": "control",
    "h5py": "control",
    "pyarrow": "data",
    "gradio": "ui",
    "rerun-sdk": "viz",
}
