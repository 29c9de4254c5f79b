"""Every kind of tokenizer by name, built from a configuration and written as one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from maskworld.tokenizers import dino, dynamics, flat, hub, mae, vae, vqvae
from maskworld.tokenizers.base import Tokenizer
from maskworld.tokenizers.latent import Continuous

KINDS: Mapping[str, tuple[type, Callable[[Any], nn.Module]]] = {
    "flat": (flat.Config, flat.Flat),
    "vqvae": (vqvae.Config, vqvae.VQVAE),
    "fsq": (vqvae.FSQConfig, vqvae.VQVAE),
    "mae": (mae.Config, mae.MAETokenizer),
    "dino": (dino.Config, dino.DINOTokenizer),
    "dynamics": (dynamics.Config, dynamics.Dynamics),
    "vae": (vae.Config, vae.VAE),
    "kl": (hub.KLConfig, hub.Pretrained),
    "tiny": (hub.TinyConfig, hub.Pretrained),
}
"""The configuration of each, and what is made of it; the last three make latents, the others codes."""


def build(config: Mapping[str, Any]) -> Tokenizer | Continuous:
    """The tokenizer of {"kind": ..., its fields}, weights at random; a list from JSON is a tuple.

    Raises ValueError for a kind or a field that there is not, and for values that make no tokenizer.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"no tokenizer is called {kind}; {_hint(str(kind), KINDS)}")
    make, network = KINDS[kind]
    fields = {field.name for field in dataclasses.fields(make)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key != "kind"}
    for name in values:
        if name not in fields:
            raise ValueError(f"a tokenizer of the kind {kind} has no {name}; {_hint(name, fields)}")
    try:
        made = make(**values)
    except TypeError as error:
        raise ValueError(f"the tokenizer's configuration is damaged: {' '.join(str(error).split())}") from None
    net = network(made)
    assert isinstance(net, Tokenizer | Continuous)
    return net


def config_of(tokenizer: nn.Module) -> dict[str, Any]:
    """{"kind": ..., its fields}: what `build` makes the same tokenizer of, but for its weights."""
    for kind, (make, network) in KINDS.items():
        config: Any = tokenizer.config if type(tokenizer) is network else None
        if type(config) is make:
            return {"kind": kind, **dataclasses.asdict(config)}
    raise ValueError(f"{type(tokenizer).__name__} is no kind of tokenizer; there are {', '.join(KINDS)}")


def _hint(name: str, known: Mapping[str, object] | set[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
