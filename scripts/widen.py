"""A checkpoint of MCVD that sees more: a longer context, and where motions lead.

python scripts/widen.py CKPT OUT [--past 10] [--motions 2] [--followed 10]

The weights of what the network did not see are 0: it paints what it painted, though with motions that is a part
of each pixel only. Train it on with `maskworld train RECIPE --start OUT`, told the same configuration.
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
    """The same network for a configuration with more context frames on either side, or with motions.

    Raises ValueError for one that sees less, and for SPATIN, whose maps mix frames.
    """
    old, added = net.config, (config.past - net.config.past, config.future - net.config.future)
    if min(added) < 0 or old.motions or old.spatin is not None:
        raise ValueError("a network that concatenates can be given more context frames and motions, and nothing less")
    made = mcvd.MCVD(config)
    per_frame = old.channels * old.stem**2
    frames = torch.arange(old.num_context) + added[0]  # where each of the old context frames stands now
    with torch.no_grad():
        theirs = net.state_dict()
        for name, value in made.state_dict().items():
            if name not in theirs:  # what is chosen by nothing yet
                continue
            if name.startswith("unet.out."):  # what is painted stands first
                value[: len(theirs[name])] = theirs[name]
                value[len(theirs[name]) :] = 0
                continue
            if value.shape == theirs[name].shape:
                value.copy_(theirs[name])
                continue
            noisy = torch.arange(old.current * per_frame)
            pixels = (made.unet.dim_x + per_frame * frames[:, None] + torch.arange(per_frame)).flatten()
            told = value.shape[1] - config.num_context + frames
            place = torch.cat([noisy, pixels, *([told] if config.told else [])])
            value.zero_()[:, place] = theirs[name]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--past", type=int, default=10)
    parser.add_argument("--motions", type=int, default=2)
    parser.add_argument("--followed", type=int, default=10, help="frames; none without motions")
    options = parser.parse_args()
    world = load(options.checkpoint)
    assert isinstance(world.net, mcvd.MCVD)
    followed = options.followed if options.motions else 0
    config = dataclasses.replace(world.net.config, past=options.past, motions=options.motions, followed=followed)
    about = {**world.about, "config": dataclasses.asdict(config)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(options.out, widened(world.net, config).state_dict(), about)
    print(json.dumps({"out": str(options.out), "config": about["config"]}))


if __name__ == "__main__":
    main()
