"""Weights and state on disk: safetensors with a JSON header, written beside and renamed.

A model is one file: its tensors, and in the header which family and configuration they belong to. It is found
by path (a file or a run's folder), by the name of a model that ships with the package, or by a hub repository.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY = "maskworld"
MODEL = "model.safetensors"
ALIASES = {"maskgwm-drive": "maskgwm-long"}  # other names of models of the zoo


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what they are about; never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(plain, beside, metadata={_KEY: json.dumps(about)})
        beside.chmod(0o644)  # safetensors makes it private
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, what they are about). Raises ValueError for a file that is not a checkpoint of maskworld."""
    about = read_about(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, about
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None


def read_about(path: Path) -> dict[str, Any]:
    """The header alone, without reading the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file, or is truncated: {error}") from None
    if _KEY not in header:
        raise ValueError(f"{path} holds tensors, but was not written by maskworld")
    try:
        about = json.loads(header[_KEY])
    except json.JSONDecodeError:
        about = None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: its header is damaged")
    return about


def finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError where a weight is NaN or infinite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: the weights {name} hold NaN or infinite values; the training diverged")


def zoo() -> dict[str, Path]:
    """The models that ship with the package, by name."""
    folder = Path(str(importlib.resources.files("maskworld") / "zoo"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """The file of a model: a path to it or to its run, a name of the zoo, or `hub:owner/name`.

    Raises ValueError, with the nearest name, where there is none.
    """
    path, models = Path(name), zoo()
    models |= {alias: models[model] for alias, model in ALIASES.items() if model in models}
    if path.is_file():
        return path
    if path.is_dir():
        if (path / MODEL).is_file():
            return path / MODEL
        raise ValueError(f"the folder {path} has no {MODEL}: has its training saved anything yet?")
    if str(name) in models:
        return models[str(name)]
    if str(name).startswith("hub:"):
        return _of_hub(str(name).removeprefix("hub:"))
    near = difflib.get_close_matches(str(name), models, 1)
    hint = f"did you mean {near[0]}?" if near else f"the zoo has {', '.join(models) or 'none'}"
    raise ValueError(f"no checkpoint {name}: it is neither a file, a run's folder nor a name of the zoo; {hint}")


def _of_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, MODEL))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(f"could not get {MODEL} of the hub repository {repository}: {error}") from None
