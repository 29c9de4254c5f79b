"""`maskworld export`: the encoder of a pre-trained model alone, with its configuration."""

from __future__ import annotations

import json as json_
from pathlib import Path

from maskworld import checkpoint
from maskworld.world import ENCODER


def export_command(name: str, out: Path, json: bool, force: bool) -> int:
    path = checkpoint.find(name)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    if about.get("family") != "mim4d":
        raise ValueError(f"{path} is a model of the family {about.get('family')}: mim4d has an encoder to export")
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: an encoder is written as .safetensors")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; --force replaces it")
    first = "encoder."
    found = {key.removeprefix(first): value for key, value in tensors.items() if key.startswith(first)}
    kept = {key: about[key] for key in ("config", "data", "step") if key in about}
    checkpoint.write(out, found, {"family": ENCODER, **kept})
    row = {"out": str(out), "parameters": sum(value.numel() for value in found.values())}
    if json:
        print(json_.dumps({"command": "export", "checkpoint": name, **row}))
    else:
        print(f"{out}: {row['parameters']:,} parameters; `maskworld.world.load_encoder` reads it")
    return 0
