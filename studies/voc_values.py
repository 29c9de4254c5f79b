"""Values of what a video shows: occupancy models against a one-step model unrolled, for two tokenizers.

python studies/voc_values.py DATA --out runs/values [--minutes 20] [--tokenizer-minutes 6] [--tokenizers vqvae mae]
                             [--gammas 0.8 0.9 0.95] [--states 120] [--samples 16] [--write docs/results.md] [--json]

DATA are episodes (`maskworld data make control-cheetah DATA --episodes 240 --policy all`). For each tokenizer a model
is trained by generative TD (10 steps, whole distributions) that writes the reward of each state before it; for the
first, three more of the same size for the same minutes: by Monte Carlo; one step ahead alone (discount 0); and by TD
as in the paper, without rewards, which are read from what is drawn. They are asked for values of states of held-out
episodes; the one-step model is unrolled until 5 % of the return are left. What is done is kept in --out, and nothing
is done twice.

With `--write docs/results.md` the tables are put between the two marks that stand there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import between
import torch

from maskworld import checkpoint, returns
from maskworld.commands.doctor import fast_precision
from maskworld.data import episodes
from maskworld.papers import voc
from maskworld.recipes.tokenizer import tokenizer
from maskworld.recipes.voc_episodes import voc_episodes
from maskworld.train import STATE, Recipe, train
from maskworld.world import load

ARMS = ("td", "mc", "onestep", "paper")
READ = "rewards read from draws"

# -- training -------------------------------------------------------------------------------------


def trained(recipe: Recipe, run: Path, minutes: float) -> Path:
    """The run of a recipe; nothing is trained twice."""
    if not (run / "done").exists():
        precision = "bf16" if fast_precision("cpu") == torch.bfloat16 else "no"
        resume = (run / STATE).exists()
        train(recipe, run, minutes=minutes, resume=resume, workers=0, precision=precision, quiet=True)
        (run / "done").touch()
    return run


def model(options: argparse.Namespace, kind: str, arm: str) -> Path:
    """An occupancy model with this tokenizer, learnt in this way."""
    of = options.out / f"tokenizer-{kind}"
    if not (of / "done").exists():
        trained(tokenizer(options.data, kind, grid=4, vocab=options.vocab), of, options.tokenizer_minutes)
    run = options.out / f"{kind}-{arm}"
    if (run / "done").exists():
        return run
    td = {"mc": voc.TD(steps=None), "onestep": voc.TD(steps=1)}.get(arm, voc.TD(steps=10))
    config = dataclasses.replace(
        options.config,
        gammas=(0.0,) if arm == "onestep" else tuple(options.gammas),
        reward_bins=0 if arm == "paper" else options.reward_bins,
    )
    recipe = voc_episodes(options.data, str(of), config, td)
    return trained(recipe, run, options.minutes)


# -- asking ---------------------------------------------------------------------------------------


def asked(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The table of a tokenizer's models."""
    found = options.out / f"{kind}.json"
    if found.exists():
        return json.loads(found.read_text())
    runs = {arm: model(options, kind, arm) for arm in (ARMS if kind == options.tokenizers[0] else ARMS[:1])}
    subjects = {}
    for arm, run in runs.items():
        net = load(run).net
        assert isinstance(net, voc.VOC)
        subjects[arm] = returns.Subject(net)
    all_ = episodes.read(options.data)
    before = returns.outcomes(episodes.split(all_, "train"))
    held = [*episodes.split(all_, "valid"), *episodes.split(all_, "test")]
    asked = returns.Asked(
        subjects["td"], subjects.get("mc"), subjects.get("onestep"), states=options.states, samples=options.samples,
        precision=fast_precision("cpu"),
    )  # fmt: skip
    judged = [returns.as_dict(one) for one in returns.evaluate(asked, held, before, options.gammas)]
    if "paper" in subjects:
        asked = dataclasses.replace(asked, model=subjects["paper"], monte_carlo=None, one_step=None)
        for one, other in zip(judged, returns.evaluate(asked, held, before, options.gammas), strict=True):
            rows = {"model": one["rows"].pop("model"), READ: returns.as_dict(other)["rows"]["model"]}
            one["rows"] = rows | one["rows"]
    row = {
        "tokenizer": kind,
        "steps": {arm: checkpoint.read_about(run / checkpoint.MODEL)["step"] for arm, run in runs.items()},
        "judged": judged,
    }
    found.write_text(json.dumps(row))
    return row


# -- telling --------------------------------------------------------------------------------------


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: one table for each tokenizer."""
    lines = []
    for row in rows:
        steps = ", ".join(f"{arm} {many:,}" for arm, many in row["steps"].items())
        lines += ["", f"Tokenizer `{row['tokenizer']}`; steps of training: {steps}.", ""]
        for one in row["judged"]:
            lines += [
                f"| gamma {one['gamma']:g}: {one['states']} states of {one['episodes']} episodes, returns "
                f"{one['true']['mean']:.3g} ± {one['true']['std']:.3g} | bias | RMSE | correlation | CPU ms a state |",
                "|---|---|---|---|---|",
            ]
            for name, cells in one["rows"].items():
                numbers = " | ".join(_cell(cells[key]) for key in ("bias", "rmse", "correlation"))
                seconds = cells["cpu_seconds"]
                lines.append(f"| {name} | {numbers} | {'' if seconds is None else f'{1000 * seconds:.0f}'} |")
            lines.append("")
    return "\n".join(lines)


def _cell(x: dict[str, float | None]) -> str:
    if x["mean"] is None:
        return ""
    return f"{x['mean']:.2f}" + ("" if x["low"] is None else f" [{x['low']:.2f}, {x['high']:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/values"))
    parser.add_argument("--minutes", type=float, default=20.0, help="of each occupancy model")
    parser.add_argument("--tokenizer-minutes", type=float, default=6.0)
    parser.add_argument("--tokenizers", nargs="+", default=["vqvae", "mae"])
    parser.add_argument("--gammas", nargs="+", type=float, default=[0.8, 0.9, 0.95])
    parser.add_argument("--vocab", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--reward-bins", type=int, default=64)
    parser.add_argument("--states", type=int, default=120)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--only", help="train this model alone, such as vqvae-td, and ask nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a document with marks, between which the tables are put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.config = voc.Config(dim=options.dim, depth=options.depth, heads=4)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        kind, arm = options.only.split("-")
        print(model(options, kind, arm))
        return
    rows = [asked(options, kind) for kind in options.tokenizers]
    print(tables(rows))
    if options.write is not None:
        between.write(options.write, "voc_values", tables(rows))
    if options.json:
        print(json.dumps({"study": "voc_values", "rows": rows}))


if __name__ == "__main__":
    main()
