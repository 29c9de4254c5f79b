"""Are they still the same digits? What a reader makes of each predicted frame.

    python studies/digits_kept.py mcvd-digits [CKPT ...] [--clips 128] [--steps 5] [--json]

Five known frames of held-out clips, ten predicted ones, one sample. The reader knows every glyph of the split. It finds
the one whose strokes are most like some place of a frame (the cosine of the glyph and of the field under it), takes its
ink away, and finds another. A digit is kept where one of the two has its label. The frames of the truth are read in the
same way: more cannot be reached, since digits hide each other.
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskworld.clip import collate
from maskworld.commands.doctor import fast_precision
from maskworld.data.digits import Glyphs, MovingDigits
from maskworld.masks import past_and_future
from maskworld.world import load

PAST, FUTURE = 5, 10


class Reader:
    """Reads two digits off frames, by the glyphs of a split."""

    def __init__(self, glyphs: Glyphs):
        self.ink = torch.from_numpy(glyphs.images).float()[:, None] / 255
        self.size = self.ink.flatten(1).norm(dim=1)
        self.labels = torch.from_numpy(glyphs.labels).long()

    def read(self, frames: Float[Tensor, "b 1 h w"], digits: int = 2) -> Int[Tensor, "b n"]:
        """Labels, the plainest first, of frames in [-1, 1]."""
        ink = (frames + 1) / 2
        field, found = self.ink.shape[-1], []
        for _ in range(digits):
            shared = F.conv2d(ink, self.ink)
            under = F.avg_pool2d(ink.square(), field, 1) * field**2
            like = shared / (self.size[:, None, None] * under.sqrt() + 1e-3)
            best = like.flatten(1).argmax(1)
            glyph, place = best // like[0, 0].numel(), best % like[0, 0].numel()
            found.append(self.labels[glyph])
            ink = ink.clone()
            for i, (g, at) in enumerate(zip(glyph.tolist(), place.tolist(), strict=True)):
                y, x = divmod(at, like.shape[-1])
                ink[i, 0, y : y + field, x : x + field] *= 1 - self.ink[g, 0]
        return torch.stack(found, dim=1)


def kept(read: Int[Tensor, "b n"], true: Int[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """The share of the true labels that were read, each as often as it is there."""
    counts = [F.one_hot(labels, 10).sum(1) for labels in (read, true)]
    return torch.minimum(*counts).sum(1) / true.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    data = MovingDigits("test", PAST + FUTURE)
    reader = Reader(data.drawings())
    truth = collate([data(i) for i in range(options.clips)])
    true = torch.stack([torch.from_numpy(data.states(i).label) for i in range(options.clips)])
    known = past_and_future(PAST, FUTURE, 0, options.clips)
    films = {"truth": truth.frames}
    for name in options.checkpoints:
        films[name] = load(name).sampled(options.steps, precision=fast_precision()).fill(truth, known, 0).frames
    shares = {
        name: [kept(reader.read(frames[:, 0, i]), true).mean().item() for i in range(PAST, PAST + FUTURE)]
        for name, frames in films.items()
    }
    print(f"share of the digits that are read as what they are, {options.clips} clips")
    print("predicted frame" + "".join(f"{i + 1:6}" for i in range(FUTURE)) + "  mean")
    for name, values in shares.items():
        print(f"{name[-15:]:15}" + "".join(f"{value:6.2f}" for value in values) + f"{sum(values) / FUTURE:6.2f}")
    if options.json:
        print(json.dumps({"clips": options.clips, "steps": options.steps, "kept": shares}))


if __name__ == "__main__":
    main()
