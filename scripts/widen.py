"""A checkpoint of MCVD, with a longer context and moved frames: what it has learnt, in a network that can do more.

python scripts/widen.py CKPT OUT [--past 10] [--moves 2] [--context-noise 0.4]

The weights of frames that the network did not see are 0; those of moves are as at the beginning of a training. Train
it on with `maskworld train RECIPE --start OUT`, told the same configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from maskworld import checkpoint
from maskworld.papers import mcvd
from maskworld.world import load


def widened(net: mcvd.MCVD, config: mcvd.Config) -> mcvd.MCVD:
    """The same network for a configuration with more context frames on either side.

    Raises ValueError for one with fewer of them, and for SPATIN, whose maps mix frames.
    """
    old, added = net.config, (config.past - net.config.past, config.future - net.config.future)
    if min(added) < 0 or old.spatin is not None:
        raise ValueError("a network that concatenates can be given more context frames, and no fewer")
    made = mcvd.MCVD(config)
    per_frame = old.channels * old.stem**2
    frames = torch.arange(old.num_context) + added[0]  # where each of the old context frames stands now
    with torch.no_grad():
        theirs = net.state_dict()
        for name, value in made.state_dict().items():
            if value.shape == theirs[name].shape:
                value.copy_(theirs[name])
                continue
            was = theirs[name]
            if name.startswith("unet.out."):  # what is painted stands first
                value[: len(was)] = was
                continue
            first = value.shape[1] - config.num_context * (per_frame + config.told)
            pixels = (first + per_frame * frames[:, None] + torch.arange(per_frame)).flatten()
            told = first + per_frame * config.num_context + frames
            place = torch.cat([torch.arange(first), pixels, *([told] if config.told else [])])
            value.zero_()[:, place] = was
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--past", type=int, default=10)
    parser.add_argument("--moves", type=int, default=2)
    parser.add_argument("--context-noise", type=float, default=0.4)
    options = parser.parse_args()
    world = load(options.checkpoint)
    assert isinstance(world.net, mcvd.MCVD)
    config = dataclasses.replace(
        world.net.config, past=options.past, moves=options.moves, context_noise=options.context_noise,
        nearest_worn=True,
    )  # fmt: skip
    about = {**world.about, "config": dataclasses.asdict(config)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(options.out, widened(world.net, config).state_dict(), about)
    print(json.dumps({"out": str(options.out), "config": about["config"]}))


if __name__ == "__main__":
    main()
