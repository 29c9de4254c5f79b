"""Checkpoints of mcvd-pytorch (`checkpoint_N.pt` beside its `config.yml`), read into ours.

A checkpoint is a list [model, optimiser, epoch, step, ema]; the averaged weights are taken where they are there.
The original numbers its modules in the order in which they run, so ours are walked beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from maskworld.nets.attention import SpatialAttention
from maskworld.nets.unet import Norm, ResBlock, UNet
from maskworld.papers.mcvd import MCVD, Config

_BUFFERS = {"betas", "alphas", "alphas_prev", "unet.sigmas", "k", "k_cum", "theta_t"}


def read(checkpoint: Path, config: Path | None = None) -> MCVD:
    """The network of an original checkpoint, in eval mode. Nothing but tensors is unpickled.

    Raises ValueError where the file or its configuration is not of mcvd-pytorch, or a weight is left over.
    """
    config = config or checkpoint.with_name("config.yml")
    if not config.is_file():
        raise ValueError(f"the configuration of {checkpoint} should stand beside it as {config.name}")
    with open(config, encoding="utf-8") as file:
        settings = _plain(file.read())
    try:
        parts = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{checkpoint} is not a checkpoint of mcvd-pytorch: {error}") from None
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], Mapping):
        raise ValueError(f"{checkpoint} is not a checkpoint of mcvd-pytorch: it should hold a list")
    weights = parts[4] if len(parts) > 4 else parts[0]
    return of_state(settings, {name.removeprefix("module."): value for name, value in weights.items()})


def _plain(text: str) -> dict[str, Any]:
    """The data and model parts of a config.yml, whose objects (argparse.Namespace) are read as plain mappings."""

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> dict:
        assert isinstance(node, yaml.MappingNode)
        return loader.construct_mapping(node, deep=True)

    Loader.add_multi_constructor("tag:yaml.org,2002:python/object", mapping)
    settings = yaml.load(text, Loader)  # SafeLoader's child: builds mappings, never objects
    if not isinstance(settings, dict) or not {"data", "model"} <= set(settings):
        raise ValueError("the configuration has no parts `data` and `model`: is it of mcvd-pytorch?")
    return settings


def config_of(settings: Mapping[str, Any]) -> Config:
    """Our configuration from the original's. Raises ValueError for networks other than the 2-D U-Net."""
    data, model = settings["data"], settings["model"]
    if model.get("arch") not in ("unetmore", "unetmorepseudo3d", "unetmore3d") or "3d" in model["arch"]:
        raise ValueError(f"only the 2-D U-Net `unetmore` is read, not {model.get('arch')!r}")
    if model.get("noise_in_cond") or model.get("output_all_frames"):
        raise ValueError("noise_in_cond and output_all_frames are not read: no published model uses them")
    return Config(
        size=data["image_size"],
        channels=data["channels"],
        past=data.get("num_frames_cond", 0),
        current=data["num_frames"],
        future=data.get("num_frames_future", 0),
        width=model["ngf"],
        multiples=tuple(model["ch_mult"]),
        blocks=model["num_res_blocks"],
        attention=tuple(model["attn_resolutions"]),
        dim_head=model["n_head_channels"],
        dropout=model.get("dropout", 0.0),
        spatin=model.get("spade_dim", 128) if model.get("spade") else None,
        flagged=bool(model.get("cond_emb")),
        num_times=model["num_classes"],
        schedule="cosine_unclipped" if model.get("sigma_dist") == "cosine" else "linear",
        gamma=bool(model.get("gamma")),
        loss="l1" if settings.get("training", {}).get("L1") else "l2",
    )


def of_state(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> MCVD:
    """The network from the original's configuration and tensors; every tensor is used, or it is an error."""
    net = MCVD(config_of(settings)).eval()
    left = {name: value for name, value in state.items() if name not in _BUFFERS}
    for target, name, transpose in _walk(net.unet):
        if name not in left:
            raise ValueError(f"the checkpoint has no {name}: another configuration?")
        value = left.pop(name)
        value = value.T if transpose else value
        if value.shape != target.shape:
            raise ValueError(f"{name} is {tuple(value.shape)}, the configuration wants {tuple(target.shape)}")
        with torch.no_grad():
            target.copy_(value)
    if left:
        raise ValueError(f"{len(left)} tensors of the checkpoint have no place here, {next(iter(left))} first")
    return net


def _walk(net: UNet) -> Iterator[tuple[Tensor, str, bool]]:
    """(our tensor, its original name, whether it stands transposed there), module by module."""
    modules: list[nn.Module] = [net.time[0], net.time[2]]
    modules += [net.flag] if net.flag is not None else []
    modules += [net.stem, *net.down, *net.middle, *net.up, net.norm, net.out]
    for i, module in enumerate(modules):
        at = f"unet.all_modules.{i}"
        if isinstance(module, ResBlock):
            yield from _norm(module.norm0, f"{at}.actnorm0")
            yield from _plain_layer(module.conv0, f"{at}.Conv_0")
            yield from _norm(module.norm1, f"{at}.actnorm1")
            yield from _plain_layer(module.conv1, f"{at}.Conv_1")
            if module.skip is not None:
                yield from _plain_layer(module.skip, f"{at}.Conv_2")
        elif isinstance(module, SpatialAttention):
            yield from _plain_layer(module.norm, f"{at}.GroupNorm_0")
            weights, biases = module.qkv.weight.data.chunk(3), module.qkv.bias.data.chunk(3)
            for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                yield weight, f"{at}.NIN_{n}.W", True
                yield bias, f"{at}.NIN_{n}.b", False
            yield module.out.weight.data, f"{at}.NIN_3.W", True
            yield module.out.bias.data, f"{at}.NIN_3.b", False
        elif isinstance(module, Norm):
            yield from _norm(module, at)
        else:
            yield from _plain_layer(module, at)


def _norm(norm: Norm, at: str) -> Iterator[tuple[Tensor, str, bool]]:
    if norm.time is not None:
        yield from _plain_layer(norm.time, f"{at}.Dense_0")
    if norm.spatin is not None:
        yield from _plain_layer(norm.spatin.shared, f"{at}.Norm_0.mlp_shared.0")
        yield from _plain_layer(norm.spatin.gamma, f"{at}.Norm_0.mlp_gamma")
        yield from _plain_layer(norm.spatin.beta, f"{at}.Norm_0.mlp_beta")
    if norm.weight is not None and norm.bias is not None:
        yield norm.weight.data, f"{at}.Norm_0.weight", False
        yield norm.bias.data, f"{at}.Norm_0.bias", False


def _plain_layer(layer: nn.Module, at: str) -> Iterator[tuple[Tensor, str, bool]]:
    for name, value in layer.named_parameters():
        yield value.data, f"{at}.{name}", False
