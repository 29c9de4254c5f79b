"""What video mask reconstruction brings a driving world model, at equal cost: arms that fork from one checkpoint.

python studies/maskgwm.py --out runs/maskgwm --minutes 60 [--arms A0 A1 A5 A6 A7] [--seeds 3] [--preset nano]
                          [--clips 128] [--domains in night camera shifted] [--only pretrain | A5-1]
                          [--write docs/results.md] [--json] [--quick]

A model is trained without masking for a share of the minutes. Every arm goes on from it for the same number of steps,
on the same clips in the same order, at the same levels of noise; seeds differ in order, levels, noise and masks. Then
each is asked for the velocity loss of held-out clips at fixed levels, nothing dropped, and rolled out over windows from
prompts by day and in domains that it never saw: at night, from another camera, both. Distances are Frechet distances
over features of the ego regressor (maskworld/probes/ego.py); what real clips get at the same number is the floor.

Which way each answer would have to fall was written down before (QUESTIONS). An answer is `yes` or `the other way`
where the 95 % interval over clips and seeds excludes zero, and else `null`.

What is done is kept in --out, and nothing is done twice. Several processes may each do one part (--only).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import between
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from maskworld import checkpoint
from maskworld.clip import Clip, example, of_frames, span, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.data.drive import DAY, SHIFTED, Domain, Drives
from maskworld.noise import Rng, mix
from maskworld.papers.maskgwm import Config, MaskGWM, Sampling, Way, fill, loss_at, objective, references
from maskworld.probes import driving, ego
from maskworld.probes.statistics import Interval, interval, interval_of_sets
from maskworld.train import METRICS, STATE, Recipe, train, warm_up

# -- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One way of going on. `way` None: nothing is masked. `changes` are of the configuration."""

    says: str
    way: Way | None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


ARMS: dict[str, Arm] = {
    "A0": Arm("no mask reconstruction", None),
    "A1": Arm("tokens dropped, nothing filled in", Way(filler="none")),
    "A2": Arm("one mask for all frames, F_s", Way(p_space=1.0)),
    "A3": Arm("a mask for each frame, masked attention", Way(p_space=0.0, attention="masked")),
    "A4": Arm("the same, row by row", Way(p_space=0.0, attention="masked_rows")),
    "A5": Arm("row by row and shifted, F_t", Way(p_space=0.0)),
    "A6": Arm("as A5, kept tokens in random order", Way(p_space=0.0, order="random")),
    "A7": Arm("both branches: the method", Way()),
    "A8": Arm("as A7, one filler for both", Way(), {"shared": True}),
    "A9a": Arm("as A7, mask token p alone", Way(token="vector")),
    "A9b": Arm("as A7, mask token f(eps) alone", Way(token="noise")),
    "A9c": Arm("as A7, z_tau as mask token", Way(token="state")),
    "A10a": Arm("as A7, 1 of 12 dropped", Way(), {"hidden": 1 / 12}),
    "A10b": Arm("as A7, 5 of 12 dropped", Way(), {"hidden": 5 / 12}),
}
BASE = "A0"
START = "before the fork"

SIZE = (24, 48)
TIME, GIVEN, WINDOWS = 6, 3, 5
WINDOW = TIME - GIVEN
LEVELS = (0.2, 0.5, 0.8)
PRESETS: dict[str, Config] = {
    name: Config(
        size=SIZE, patch=4, num_frames=TIME, references=GIVEN, dim=dim, depth=depth, decoder=1, heads=4, rays=False
    )
    for name, dim, depth in (("nano", 64, 4), ("micro", 96, 5))
}
DOMAINS: dict[str, Domain] = {
    "in": DAY,
    "night": dataclasses.replace(DAY, light=SHIFTED.light),
    "camera": dataclasses.replace(DAY, fov=SHIFTED.fov, height=SHIFTED.height),
    "shifted": SHIFTED,
}


@dataclass(frozen=True)
class Question:
    """One less another, and below (-1) or above (+1) zero as it should be; `what` is a measure in a domain."""

    asks: str
    one: str
    other: str
    what: tuple[str, str]
    direction: int


QUESTIONS: tuple[Question, ...] = (
    Question("the method's distance grows more slowly than that of equal steps without masks", "A7", "A0",
             ("slope", "shifted"), -1),
    Question("its mean distance is lower", "A7", "A0", ("mean", "shifted"), -1),
    Question("and by day, too", "A7", "A0", ("mean", "in"), -1),
    Question("reconstruction does more than dropping alone", "A7", "A1", ("slope", "shifted"), -1),
    Question("its mean distance is lower than that of dropping alone", "A7", "A1", ("mean", "shifted"), -1),
    Question("two branches do more than F_t alone", "A7", "A5", ("mean", "shifted"), -1),
    Question("kept tokens in random order do harm: distance", "A6", "A5", ("mean", "shifted"), 1),
    Question("kept tokens in random order do harm: loss at 0.5", "A6", "A5", ("loss 0.5", "shifted"), 1),
    Question("the loss falls faster with masks (as the paper has it)", "A7", "A0", ("loss 0.5", "in"), -1),
    Question("colours drift less than without masks", "A7", "A0", ("colour", "shifted"), -1),
)  # fmt: skip

# -- clips ----------------------------------------------------------------------------------------


def filmed(split: str, domain: Domain, num: int, frames: int) -> dict[str, np.ndarray]:
    """Clips of the front camera, rendered at twice the size and averaged; no two from one scene."""
    drives = Drives(frames, 1, (2 * SIZE[0], 2 * SIZE[1]), domain=domain, split=split)  # type: ignore[arg-type]
    pixels, actions = [], []
    for i in range(num):
        clip = drives(i // 8 * 64 + i % 8)  # eight clips come from each scene: of every scene one
        assert clip.actions is not None
        pixels.append(to_uint8(F.avg_pool2d(clip.frames[0, 0], 2)).numpy())
        actions.append(clip.actions[0].numpy())
    return {"frames": np.stack(pixels), "actions": np.stack(actions).astype(np.float32)}


def clips_of(arrays: Mapping[str, np.ndarray]) -> Clip:
    frames = rearrange(torch.from_numpy(arrays["frames"]).float() / 127.5 - 1, "n t h w c -> n 1 t c h w")
    return dataclasses.replace(of_frames(frames), actions=torch.from_numpy(arrays["actions"]))


def large(frames: torch.Tensor) -> torch.Tensor:
    """Frames at the size that the regressor looks at; real ones and made ones alike."""
    n = frames.shape[0]
    flat = rearrange(frames, "n t c h w -> (n t) c h w")
    flat = F.interpolate(flat, ego.SIZE, mode="bilinear", align_corners=False)
    return rearrange(flat, "(n t) c h w -> n t c h w", n=n)


class Cuts:
    """An endless order of pieces of the training clips; another seed, another order."""

    def __init__(self, arrays: Mapping[str, np.ndarray], seed: int):
        self.arrays, self.seed = arrays, seed

    def __call__(self, index: int) -> Clip:
        frames, actions = self.arrays["frames"], self.arrays["actions"]
        draw = np.random.default_rng(mix(self.seed, index))
        one, start = int(draw.integers(len(frames))), int(draw.integers(frames.shape[1] - TIME + 1))
        cut = slice(start, start + TIME)
        return clips_of({"frames": frames[one : one + 1, cut], "actions": actions[one : one + 1, cut]})


# -- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What all parts share; `plan` is made once and kept in `out`."""

    out: Path
    preset: str
    batch: int
    clips: int
    domains: tuple[str, ...]
    steps: int
    precision: torch.dtype
    quick: bool
    resamples: int

    @property
    def pool(self) -> dict[str, np.ndarray]:
        num, frames = (8, 12) if self.quick else (300, 60)
        return between.kept(self.out / "train.npz", lambda: filmed("train", DAY, num, frames))

    def real(self, domain: str) -> dict[str, np.ndarray]:
        """What prompts are taken from (`test`), and what is compared with (`valid`): no scene is in both."""
        frames = GIVEN + WINDOWS * WINDOW

        def make() -> dict[str, np.ndarray]:
            found = {}
            for split in ("test", "valid"):
                arrays = filmed(split, DOMAINS[domain], self.clips, frames)
                found |= {f"{split}.{name}": value for name, value in arrays.items()}
            return found

        return between.kept(self.out / f"real-{domain}-{self.clips}.npz", make)


def recipe(study: Study, arm: Arm, seed: int) -> Recipe:
    config = dataclasses.replace(PRESETS[study.preset], **arm.changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MaskGWM(config)
    way = Way() if arm.way is None else arm.way
    return Recipe(
        about={"family": "maskgwm", "config": dataclasses.asdict(config)},
        net=net,
        objective=objective(way, masking=arm.way is not None),
        draw=references(config),
        data=Cuts(study.pool, mix(seed, 1)),
        valid=Cuts(study.pool, -1),
        lr=warm_up(1e-3, 50),
        ema=lambda step: min(0.999, (step + 1) / (step + 10)),
        batch=study.batch,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        seed=seed,
        valid_every=10**9,
        valid_clips=0,
        log_every=1 if study.quick else 10,
    )


def seconds_a_step(study: Study, arm: Arm, steps: int) -> float:
    """CPU seconds of a step, the least of a few."""
    made = recipe(study, arm, 0)
    spent = []
    for step in range(steps):
        clips = [made.data(step * study.batch + i) for i in range(study.batch)]
        clip = dataclasses.replace(
            of_frames(torch.cat([one.frames for one in clips])),
            actions=torch.cat([one.actions for one in clips if one.actions is not None]),
        )
        rng = Rng.of(step, batch=study.batch)
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=study.precision == torch.bfloat16):
            loss = made.objective(made.net, clip, made.draw(study.batch, 1, TIME, rng), rng)
        loss.total.mean().backward()
        made.net.zero_grad()
        spent.append(time.process_time() - began)
    return min(spent)


def planned(study: Study, options: argparse.Namespace) -> dict[str, Any]:
    """How many steps there are before the fork and after it: those of the first run in this folder."""
    path = study.out / "plan.json"
    if not path.exists():
        cost = seconds_a_step(study, ARMS[BASE], 2 if study.quick else 5)
        minutes = options.minutes
        forks = len(options.arms) * options.seeds
        plan = {
            "preset": study.preset,
            "batch": study.batch,
            "before": 4 if study.quick else max(1, round(60 * minutes * options.share / cost)),
            "after": 4 if study.quick else max(1, round(60 * minutes * (1 - options.share) / forks / cost)),
        }
        path.write_text(json.dumps(plan))
    plan = json.loads(path.read_text())
    print(f"{plan['before']} steps before the fork and {plan['after']} after it, as {path} has it", flush=True)
    for name, value in (("preset", study.preset), ("batch", study.batch)):
        if plan[name] != value:
            raise ValueError(f"{study.out} holds a study with {name} {plan[name]}, not {value}: take another folder")
    return plan


def trained(study: Study, name: str, made: Recipe, steps: int) -> Path:
    """The run of a recipe; nothing is trained twice."""
    run = study.out / name
    if (run / "done.json").exists():
        return run
    resume = (run / STATE).exists()
    before = checkpoint.read_about(run / STATE)["step"] if resume else 0
    began = time.process_time()
    precision = "bf16" if study.precision == torch.bfloat16 else "no"
    train(made, run, steps=steps, resume=resume, workers=0, precision=precision, quiet=True)
    spent = time.process_time() - began
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    late = losses[-max(1, len(losses) // 3) :]
    done = {"steps": steps, "cpu_seconds_a_step": spent / max(1, steps - before), "train_loss": float(np.mean(late))}
    (run / "done.json").write_text(json.dumps(done))
    print(
        f"{name}: {steps} steps, {done['cpu_seconds_a_step']:.3f} CPU s each, loss {done['train_loss']:.4f}", flush=True
    )
    return run


def pretrained(study: Study, plan: Mapping[str, Any]) -> Path:
    return trained(study, "pretrain", recipe(study, ARMS[BASE], 0), plan["before"])


def forked(study: Study, plan: Mapping[str, Any], arm: str, seed: int) -> Path:
    """An arm that went on from the checkpoint: from its last weights, not their average."""
    name = f"{arm}-{seed}"
    if (study.out / name / "done.json").exists():
        return study.out / name
    tensors, _ = checkpoint.read(pretrained(study, plan) / STATE)
    made = recipe(study, ARMS[arm], mix(seed, 2) % 2**31)
    weights = {key.removeprefix("net."): value for key, value in tensors.items() if key.startswith("net.")}
    made.net.load_state_dict(weights)
    return trained(study, name, made, plan["after"])


# -- asking ---------------------------------------------------------------------------------------


def network(study: Study, run: Path) -> MaskGWM:
    tensors, about = checkpoint.read(run / checkpoint.MODEL)
    net = MaskGWM(Config(**{**about["config"], "size": SIZE, "actions": tuple(about["config"]["actions"])}))
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False)


def asked(study: Study, run: Path, domain: str) -> dict[str, np.ndarray]:
    """What a model is worth in a domain, clip by clip: losses, features, light and motion of its roll-outs."""
    name, _ = ego.shipped()
    about = f"{domain}-{study.clips}-{study.steps}-{name}.npz"
    return between.kept(run / about, lambda: _asked(study, network(study, run), domain))


def _asked(study: Study, net: MaskGWM, domain: str) -> dict[str, np.ndarray]:
    real = study.real(domain)
    clips = clips_of({name: real[f"test.{name}"] for name in ("frames", "actions")})
    n, t = clips.times.shape
    known = (torch.arange(t) < GIVEN).expand(n, 1, t)[..., None, None]
    losses, frames = [], []
    filling = fill(net, Sampling(study.steps, 1.0, study.precision))
    for start in range(0, n, 16):
        part = example(clips, slice(start, start + 16))
        now = known[start : start + 16]
        b = len(now)
        short = span(part, 0, TIME)
        losses.append(
            [
                loss_at(net, short, now[:, :, :TIME], level, Rng.of(5, start, i, batch=b)).numpy()
                for i, level in enumerate(LEVELS)
            ]
        )
        frames.append(filling(part, now, Rng.of(6, start, batch=b)).frames[:, 0])
    made = torch.cat(frames)
    return {
        "loss": np.concatenate([np.stack(rows, 1) for rows in losses]),
        **_looked(made, clips),
        "sample": to_uint8(made[:4]).numpy(),
    }


def _looked(frames: torch.Tensor, clips: Clip) -> dict[str, np.ndarray]:
    """All that is read from frames, made or real."""
    assert clips.actions is not None
    seen = large(frames)
    speed, yaw_rate = ego.read_motion(seen[:, GIVEN - 1 :])
    return {
        "features": driving.window_features(seen[:, GIVEN:], WINDOW, ego.extractor(*ego.shipped())),
        "light": driving.light(frames, GIVEN, WINDOW).numpy(),
        "motion": torch.stack([speed, yaw_rate], -1).numpy(),
    }


def floors(study: Study, domain: str) -> dict[str, np.ndarray]:
    """The same of real clips: the prompts' own, and the features of those that are compared with."""
    name, _ = ego.shipped()

    def make() -> dict[str, np.ndarray]:
        real = study.real(domain)
        clips = {
            split: clips_of({k: real[f"{split}.{k}"] for k in ("frames", "actions")}) for split in ("test", "valid")
        }
        found = {split: _looked(clip.frames[:, 0], clip) for split, clip in clips.items()}
        return {**found["test"], "reference": found["valid"]["features"], "actions": real["test.actions"]}

    return between.kept(study.out / f"floor-{domain}-{study.clips}-{name}.npz", make)


# -- telling --------------------------------------------------------------------------------------

Found = dict[str, dict[str, dict[str, np.ndarray]]]
"""arm -> domain -> arrays, the first axis seeds."""


def gathered(study: Study, plan: Mapping[str, Any], arms: Sequence[str], seeds: int) -> Found:
    found: Found = {}
    for arm in (START, *arms):
        runs = [pretrained(study, plan)] if arm == START else [forked(study, plan, arm, s) for s in range(seeds)]
        for domain in study.domains:
            parts = [asked(study, run, domain) for run in runs]
            found.setdefault(arm, {})[domain] = {k: np.stack([part[k] for part in parts]) for k in parts[0]}
    return found


def minus(study: Study, found: Found, one: str, other: str, what: tuple[str, str]) -> Interval:
    """A measure of one arm less that of another, over clips and seeds."""
    measure, domain = what
    a, b = found[one][domain], found[other][domain]
    if measure in ("slope", "mean"):
        real = floors(study, domain)["reference"]
        statistic = driving.slope if measure == "slope" else lambda values: float(values.mean())
        return driving.compared(real, a["features"], b["features"], statistic, study.resamples)
    if measure == "colour":
        each = a["light"][..., -1, 2] - b["light"][..., -1, 2]
    else:
        each = (a["loss"] - b["loss"])[..., LEVELS.index(float(measure.removeprefix("loss ")))]
    return over_seeds(each, study.resamples)


def over_seeds(values: np.ndarray, resamples: int) -> Interval:
    """The mean of values of seeds x clips; both are drawn again."""
    if len(values) == 1:
        return interval(values[0].astype(np.float64), resamples=resamples)
    return interval_of_sets(
        lambda clips, seeds: float(clips[:, seeds].mean()),
        [values.T.astype(np.float64), np.arange(len(values))],
        resamples=resamples,
    )


def answer(question: Question, found: Interval) -> str:
    if not (np.isfinite(found.low) and (found.low > 0 or found.high < 0)):
        return "null"
    return "yes" if np.sign(found.mean) == question.direction else "the other way"


def told(study: Study, plan: Mapping[str, Any], arms: Sequence[str], seeds: int) -> between.Told:
    """Tables, one for each question of the protocol."""
    found, say = gathered(study, plan, arms, seeds), between.Told()
    bases = {(arm, what): minus(study, found, arm, BASE, what) for arm in arms if arm != BASE and BASE in arms
             for what in [(m, d) for m in ("slope", "mean", "colour") for d in study.domains]}  # fmt: skip
    runs = {START: ["pretrain"], **{arm: [f"{arm}-{s}" for s in range(seeds)] for arm in arms}}
    done = {
        arm: [json.loads((study.out / run / "done.json").read_text()) for run in names] for arm, names in runs.items()
    }

    def against(arm: str, what: tuple[str, str]) -> str:
        return _cell(bases[arm, what]) if (arm, what) in bases else ""

    say.lines.append(
        f"`{study.preset}`, {plan['before']} steps without masks and then {plan['after']} for each arm and seed, "
        f"batches of {plan['batch']}; {seeds} seeds, {study.clips} clips, {study.steps} steps of Euler's method, "
        f"features of `{ego.shipped()[0]}`."
    )
    cost = [
        [arm, ARMS[arm].says if arm in ARMS else "", f"{np.mean([d['cpu_seconds_a_step'] for d in done[arm]]):.3f}",
         f"{np.mean([d['train_loss'] for d in done[arm]]):.4f}"]
        for arm in found
    ]  # fmt: skip
    say.table("**Cost and training loss** (the last third of the steps).", ["arm", "", "CPU s a step", "loss"], cost)
    for level in LEVELS if not study.quick else LEVELS[1:2]:
        body = []
        for arm in found:
            row = [arm]
            for domain in study.domains:
                mean = found[arm][domain]["loss"][..., LEVELS.index(level)].mean()
                cell = f"{mean:.4f}"
                if arm not in (START, BASE) and BASE in arms:
                    cell += f" ({_cell(minus(study, found, arm, BASE, (f'loss {level}', domain)))})"
                row.append(cell)
            body.append(row)
        title = f"**Held-out velocity loss at tau = {level}**, nothing dropped (less {BASE})."
        say.table(title, ["arm", *study.domains], body)
    for domain in study.domains:
        floor = floors(study, domain)
        real = floor["reference"]
        body = []
        for arm in found:
            each = np.array([driving.distances(real, one) for one in found[arm][domain]["features"]])
            body.append([arm, *(f"{x:.2f}" for x in each.mean(0)), f"{np.mean([driving.slope(e) for e in each]):.3f}",
                         against(arm, ("slope", domain)), against(arm, ("mean", domain))])  # fmt: skip
            say.rows.setdefault("distances", {}).setdefault(arm, {})[domain] = each.tolist()
        values = driving.distances(real, floor["features"])
        body.append(["real", *(f"{x:.2f}" for x in values), f"{driving.slope(values):.3f}", "", ""])
        say.rows["distances"].setdefault("real", {})[domain] = [values.tolist()]
        head = ["arm", *(f"window {k + 1}" for k in range(WINDOWS)), "slope", f"slope less {BASE}", f"mean less {BASE}"]
        say.table(f"**Frechet distance of roll-outs, {domain}.**", head, body)
    body = []
    for arm in (*found, "real"):
        row = [arm]
        for domain in study.domains:
            light = floors(study, domain)["light"][None] if arm == "real" else found[arm][domain]["light"]
            brightness, contrast, colour = light[:, :, -1].mean((0, 1))
            row.append(f"{brightness:+.3f}, {contrast:+.3f}, {colour:.3f}")
            row.append(against(arm, ("colour", domain)))
        body.append(row)
    head = ["arm"] + [cell for d in study.domains for cell in (d, f"colour less {BASE}")]
    say.table("**Drift in the last window**: brightness, contrast, colour, on [0, 1], from the prompt's.", head, body)
    body = []
    for arm in (*found, "real"):
        row = [arm]
        for domain in study.domains:
            floor = floors(study, domain)
            motion = floor["motion"][None] if arm == "real" else found[arm][domain]["motion"]
            said = floor["actions"][:, GIVEN - 1 : -1]
            rates = np.stack([said[..., 0], said[..., 0] * said[..., 1]], -1)
            read = rearrange(motion, "s n t two -> n (s t) two")
            meant = rearrange(np.broadcast_to(rates, motion.shape), "s n t two -> n (s t) two")
            for k in range(2):
                row.append(_cell(driving.agreement(meant[..., k], read[..., k], resamples=study.resamples).pearson))
        body.append(row)
    head = ["arm"] + [f"{d}: {name}" for d in study.domains for name in ("speed", "yaw rate")]
    say.table("**Commanded against read motion**: correlation over steps.", head, body)
    body = []
    for question in QUESTIONS:
        if {question.one, question.other} <= set(arms) and question.what[1] in study.domains:
            seen = minus(study, found, question.one, question.other, question.what)
            sign = "below" if question.direction < 0 else "above"
            body.append([question.asks, f"{question.one} - {question.other}, {' '.join(question.what)}", f"{sign} 0",
                         _cell(seen), answer(question, seen)])  # fmt: skip
            say.rows.setdefault("questions", []).append(
                {**dataclasses.asdict(question), "found": dataclasses.asdict(seen), "answer": answer(question, seen)}
            )
    if "A9a" in arms and "A7" in arms:
        rise = float(np.mean([d["train_loss"] for d in done["A9a"]]) - np.mean([d["train_loss"] for d in done["A7"]]))
        share = PRESETS[study.preset].hidden
        right = "yes" if abs(rise - share) <= 0.1 * share else "no"
        asks = "p alone costs r Var(eps) of training loss"
        body.append([asks, "A9a - A7, training loss", f"{share:.3f}", f"{rise:.3f}", right])
    say.table("**What was asked before**, and what was found (95 %).", ["", "", "expected", "found", "answer"], body)
    say.rows |= {"plan": dict(plan), "seeds": seeds, "clips": study.clips, "cost": cost}
    return say


def _cell(x: Interval) -> str:
    return f"{x.mean:+.3g}" + ("" if np.isnan(x.low) else f" [{x.low:.3g}, {x.high:.3g}]")


# -- the command ----------------------------------------------------------------------------------


def only(study: Study, plan: Mapping[str, Any], part: str) -> None:
    """Train and ask one part alone, for several processes to share the work. The arms wait for what is before them."""
    if part == "pretrain":
        run = pretrained(study, plan)
    else:
        arm, _, seed = part.partition("-")
        if arm not in ARMS or not seed.isdigit():
            raise ValueError(f"--only takes pretrain or an arm and a seed, as in A5-1, not {part}")
        if not (study.out / "pretrain" / "done.json").exists():
            raise ValueError(f"{study.out} has no checkpoint to fork from yet: --only pretrain makes it")
        run = forked(study, plan, arm, int(seed))
    for domain in study.domains:
        asked(study, run, domain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/maskgwm"))
    parser.add_argument("--minutes", type=float, default=60.0, help="CPU minutes of training, of all parts together")
    parser.add_argument("--share", type=float, default=0.3, help="of the minutes, before the fork")
    parser.add_argument("--arms", nargs="+", default=["A0", "A1", "A5", "A6", "A7"], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", choices=list(PRESETS), default="nano")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--clips", type=int, default=128, help="prompts in each domain, and as many to compare with")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(DOMAINS))
    parser.add_argument("--steps", type=int, default=8, help="steps of Euler's method")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, where that is fast")
    parser.add_argument("--only", help="do this part alone: pretrain, or an arm and a seed, as in A5-1")
    parser.add_argument("--quick", action="store_true", help="a check of the script: numbers mean nothing")
    parser.add_argument("--write", type=Path, help="a document with marks, between which the tables are put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not (0 < options.share < 1 and options.minutes > 0 and options.seeds > 0 and options.clips > 1):
        parser.error("minutes and seeds are above 0, clips above 1, the share is between 0 and 1")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(
        options.out, options.preset, 4 if options.quick else options.batch, 8 if options.quick else options.clips,
        tuple(options.domains), 2 if options.quick else options.steps,
        fast_precision() if options.bf16 else torch.float32, options.quick, 20 if options.quick else 300,
    )  # fmt: skip
    try:
        plan = planned(study, options)
        if options.only:
            only(study, plan, options.only)
            return
    except ValueError as error:
        parser.error(str(error))
    say = told(study, plan, options.arms, options.seeds)
    text = "\n".join(say.lines)
    print(text)
    if options.write is not None:
        between.write(options.write, "maskgwm", text)
    if options.json:
        print(json.dumps({"study": "maskgwm", **say.rows}))


if __name__ == "__main__":
    main()
