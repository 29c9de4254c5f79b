"""How fast video occupancy models train and draw: ours against the public implementation's recipe, at the same size.

    python benchmarks/voc.py [--quick] [--json] [--threads 2] [--sizes reference tiny]

The recipe is written down in plain_voc.py: Hugging Face's GPT-2 in float32, `generate` with its cache, every row of the
batch drawn, the loss over all tokens. Ours is the same network (`gpt2`), and the one that is ours by default, of the
same width, depth and heads (`layers`); in bf16 where the CPU has it in hardware. Only rows that go on are drawn, a
state is read once, its last layer only as far as it is looked at, and the loss is of what is written.

Parts: that both compute the same loss from the same weights - a training update - draws, one for each of 32 states, as
in training, and 4 for each of 32, as for values: the recipe draws those 32 at a time, and reads the states each time.
Both sides have the same threads, and stand in turn within one run (A B A B ...); medians are compared. CPU seconds are
the process's own, and hardly see its neighbours; wall seconds do. Without `--no-dropout` the recipe has its dropout, as
it ran; ours has none.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

# Before torch is loaded: threads that wait actively cost CPU seconds, several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from mcvd import Seconds, in_turn, ratio
from plain_voc import Plain
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.commands.doctor import fast_precision
from maskworld.masks import past_and_future
from maskworld.nets.precision import computing
from maskworld.nets.prefix import PrefixLM
from maskworld.noise import Rng
from maskworld.papers import voc

BATCH, MANY, GAMMA = 32, 4, 0.8
TOLERANCE = 1e-4  # of the check, in nats
TARGETS = {"update": 3.0, "draws": 4.0}

SIZES = {
    "reference": voc.reference(),
    "tiny": voc.reference(vocab=256, dim_code=64, stack=1, dim=128, depth=4, heads=8),
}
QUICK = {"quick": voc.reference(vocab=256, dim_code=64, stack=1, dim=256, depth=2, heads=4)}
"""The network's sizes: 4 x 768 with 75 + 75 tokens of 1024 kinds; 4 x 128 with 25 + 25 of 256."""

# -- the two --------------------------------------------------------------------------------------


class Codes(nn.Module):
    """Stands for a tokenizer: the frames are codes already."""

    def __init__(self, config: voc.Config):
        super().__init__()
        self.vocab, self.grid, self.size, self.channels = config.vocab, config.grid, config.size, config.channels
        self.dim, self.paints = config.dim_code, False
        self.table = nn.Embedding(config.vocab, config.dim_code)

    def vectors(self, codes: Tensor) -> Tensor:
        return self.table(codes)


class Ours:
    """A network in training, and what a step of `maskworld.train` does with it."""

    def __init__(self, config: voc.Config, gpt2: bool, precision: torch.dtype, seed: int = 0):
        torch.manual_seed(seed)
        changes = {"gpt2": gpt2, "dropout": (0.0, 0.0), "gammas": (GAMMA,)}
        self.net = voc.VOC(voc.reference(**{**vars(config), **changes}), Codes(config))
        self.net.begin(torch.randn(100), bootstraps=True)
        self.objective = voc.objective(voc.TD(steps=1, loss="sample"))
        self.precision, self.step = precision, 0
        weights = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(weights, lr=3e-4, weight_decay=0.01, fused=True)

    def update(self, clip: Clip) -> None:
        """One step of everything."""
        self.step += 1
        self.net.train()
        known = past_and_future(self.net.config.stack, 1, 0, BATCH)
        with computing(torch.device("cpu"), self.precision):
            loss = self.objective(self.net, clip, known, Rng.of(self.step, batch=BATCH))
        loss.total.mean().backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.net.parameters() if p.grad is not None], 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def draw(self, states: Tensor, num: int) -> Tensor:
        """`num` futures of each state."""
        self.net.eval()
        told = voc.Told(torch.full((len(states),), GAMMA))
        return voc.draws(self.net, states, told, num, Rng.of(0, batch=len(states)), precision=self.precision)


def same_weights(theirs: nn.Module, ours: PrefixLM) -> None:
    """Give our transformer the weights of transformers' GPT-2."""
    state = theirs.state_dict()
    pairs = {"norm": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj"}
    pairs |= {"norm_mlp": "ln_2", "widen": "mlp.c_fc", "narrow": "mlp.c_proj"}
    with torch.no_grad():
        ours.embed.weight.copy_(state["transformer.wte.weight"])
        ours.position.weight.copy_(state["transformer.wpe.weight"])
        for name, value in ours.norm.named_parameters():
            value.copy_(state[f"transformer.ln_f.{name}"])
        for i, layer in enumerate(ours.layers):
            for our, their in pairs.items():
                for name, value in layer.get_submodule(our).named_parameters():
                    found = state[f"transformer.h.{i}.{their}.{name}"]
                    value.copy_(found.T if found.ndim == 2 else found)  # theirs multiply from the other side


def example_of(config: voc.Config) -> tuple[Clip, Tensor, Tensor]:
    """A clip of codes with rewards, the states in it, and the states that follow."""
    generator = torch.Generator().manual_seed(0)
    t = config.stack + 1
    codes = torch.randint(0, config.vocab, (BATCH, t, config.grid[0] * config.grid[1]), generator=generator)
    frames = codes.unflatten(2, config.grid)[:, None, :, None].float()
    clip = Clip(frames, torch.arange(t).expand(BATCH, t), rewards=torch.randn(BATCH, t, generator=generator))
    return clip, codes[:, :-1].flatten(1), codes[:, 1:].flatten(1)


# -- parts ----------------------------------------------------------------------------------------


def check(config: voc.Config) -> float:
    """How far the losses of both are apart on the same weights. Raises ValueError where it is too far."""
    plain = Plain(config, GAMMA, (0.0, 0.0))
    ours = Ours(config, True, torch.float32).net.occupancy.eval()
    same_weights(plain.gpt, ours.lm)
    _, state, other = example_of(config)
    with torch.no_grad():
        theirs = plain.loss(state, other).item()
        written, own = ours(state, voc.Told(torch.full((BATCH,), GAMMA)), other, own=True)
        assert own is not None
        logits, tokens = torch.cat([own, written], dim=1), torch.cat([state[:, 1:], other], dim=1)
        apart = abs(nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).item() - theirs)
    if not apart < TOLERANCE:
        raise ValueError(f"both should have the same loss, but they differ by {apart:.1e}: the comparison is not fair")
    return apart


def compare(name: str, config: voc.Config, repeats: int, dropout: bool) -> dict[str, Any]:
    """Seconds of an update and of draws, in turn: the recipe's, ours with its layers, ours with our own."""
    precision = fast_precision()
    clip, state, following = example_of(config)
    rewards = clip.rewards[:, -1] if clip.rewards is not None else torch.zeros(BATCH)
    plain = Plain(config, GAMMA, (0.2, 0.1) if dropout else (0.0, 0.0))
    ours = {"gpt2": Ours(config, True, precision), "layers": Ours(config, False, precision)}
    works: dict[str, tuple[int, Callable[[], object], Callable[[Ours], object]]] = {
        "update": (1, lambda: plain.update(state, following, rewards), lambda one: one.update(clip)),
        "draws, 1 of each": (1, lambda: plain.draw(state), lambda one: one.draw(state, 1)),
        f"draws, {MANY} of each": (MANY, lambda: plain.draw(state), lambda one: one.draw(state, MANY)),
    }
    row: dict[str, Any] = {
        "size": name,
        "parameters": sum(p.numel() for p in plain.gpt.parameters()),
        "tokens": config.tokens,
        "precision": str(precision).removeprefix("torch."),
    }
    for what, (times, theirs, own) in works.items():
        all_ = in_turn([theirs, *(lambda one=one, own=own: own(one) for one in ours.values())], repeats)
        spent = {
            of: s if of == "plain" else Seconds(s.wall / times, s.cpu / times)
            for of, s in zip(("plain", *ours), all_, strict=True)
        }
        row[what] = {
            "seconds": {of: seconds._asdict() for of, seconds in spent.items()},
            "ratio": {of: ratio(spent["plain"], spent[of]) for of in ours},
        }
        if what != "update":
            row[what]["tokens_per_cpu_s"] = {of: BATCH * config.tokens / s.cpu for of, s in spent.items()}
        print(_line(name, what, spent, row[what]["ratio"]), flush=True)
    return row


def _line(name: str, what: str, spent: dict[str, Seconds], ratios: dict[str, dict[str, float]]) -> str:
    seconds = "".join(f"{s.cpu:9.3f}" for s in spent.values())
    times = "".join("{:>15}".format(f"{each['cpu']:.2f} ({each['wall']:.2f})") for each in ratios.values())
    return f"{name:11}{what:24}{seconds}{times}"


# -- command line ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller network and one repeat; under a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--no-dropout", action="store_true", help="the recipe without its dropout")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    sizes = QUICK if given.quick else {name: SIZES[name] for name in given.sizes}
    apart = check(QUICK["quick"])
    print(f"both have the same loss in float32: {apart:.1e} apart\n")
    print(f"{'size':11}{'CPU seconds':24}{'plain':>9}{'gpt2':>9}{'layers':>9}{'plain / gpt2':>15}{'/ layers':>15}")
    repeats = 1 if given.quick else given.repeats
    rows = [compare(name, config, repeats, not given.no_dropout) for name, config in sizes.items()]
    print("\nSeconds for 32 rows; ratios of CPU (wall) seconds. To reach, at the reference's size: " + str(TARGETS))
    if given.json:
        found = {"torch": torch.__version__, "threads": given.threads, "dropout": not given.no_dropout, "apart": apart}
        print(json.dumps({"benchmark": "voc", **found, "quick": given.quick, "rows": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
