"""`maskworld value fit-actor` and `maskworld value act`: a policy and a critic for a model, and what they get in the
real environment."""

from __future__ import annotations

import dataclasses
import json as json_
import math
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from maskworld import checkpoint as checkpoint_
from maskworld import control
from maskworld.commands.doctor import fast_precision
from maskworld.data.control import POLICIES, TASKS, Env, Suite, load
from maskworld.data.episodes import ABOUT, Episodes, about, read, split
from maskworld.papers import voc
from maskworld.probes.statistics import Interval, difference, interval
from maskworld.world import load as load_world

CONTROLLER = "controller.safetensors"
FAMILY = "controller"
How = Literal["behaviour", "improve", "critic", "mpc"]
DECISIONS = 125
"""Of an episode, where no data say how many are usual."""
PROPOSALS: Mapping[How, int] = {"behaviour": 1, "improve": 8, "critic": 32, "mpc": 8}
"""Actions among which each way to act chooses, unless it is told how many."""

# -- fitting ----------------------------------------------------------------------------------------


def fit_command(
    checkpoint: str,
    data: Path,
    minutes: float | None,
    fitting: control.Fitting,
    json: bool,
) -> int:
    """Fit proposals and critic to episodes, and write them beside the model."""
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes {minutes:g}: above 0")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = checkpoint_.find(checkpoint)
    net, policies = acting(checkpoint, device)
    episodes = read(data).at(net.config.size)
    began = math.inf

    def until(share: float) -> float | None:
        return None if minutes is None else began + share * minutes * 60

    bar = tqdm(total=fitting.states, unit="state", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def progress(done: int, _: int) -> None:
        bar.update(done - bar.n)

    with bar:
        bar.set_postfix_str("reads the episodes")
        train, valid = (control.decisions_of(net, split(episodes, which), policies) for which in ("train", "valid"))
        actor = control.actor_of(net, fitting.seed)
        began = time.monotonic()
        bar.set_postfix_str("imitates")
        policy = control.fit_proposals(net, actor, train, valid, fitting, until(0.3))
        bar.set_postfix_str("draws futures")
        targets = control.draw_targets(net, actor, train, fitting, until(0.8), progress, fast_precision(device))
        bar.set_postfix_str("distils")
        critic = control.fit_critic(net, actor, targets, fitting, until(1.0))
    out = path.with_name(CONTROLLER)
    checkpoint_.write(
        out,
        actor.state_dict(),
        {
            "family": FAMILY,
            "config": dataclasses.asdict(actor.config),
            "of": fingerprint(net),
            "fitting": dataclasses.asdict(fitting),
            "data": {"name": episodes.name, "source": _source(data), "episodes": _totals(episodes)},
        },
    )
    numbers = {"states": len(targets.states), **policy, **{f"critic_{name}": value for name, value in critic.items()}}
    if json:
        print(json_.dumps({"command": "fit-actor", "out": str(out), **{k: _number(v) for k, v in numbers.items()}}))
        return 0
    print(f"{out}: from {len(train.states)} decisions of {data}")
    print(
        f"proposals   log-likelihood {policy['log_p']:.3f} of what was done in held-out episodes; "
        f"{policy['log_p_before']:.3f} before"
    )
    print(
        f"critic      from {len(targets.states)} states x {fitting.num} actions x {fitting.draws} draws; on states "
        f"kept back it correlates {critic['r']:.2f} with what was drawn, {critic['r_actions']:.2f} among the actions "
        "of a state"
    )
    return 0


def acting(checkpoint: str, device: str) -> tuple[voc.VOC, tuple[str, ...]]:
    """A video occupancy model that is told actions, and the names of the policies of which it is told. ValueError for
    any other model."""
    world = load_world(checkpoint, device)
    if not isinstance(world.net, voc.VOC):
        raise ValueError(f"{checkpoint} is of the family {world.about.get('family')}: only voc has values to act by")
    control.check_told(world.net)
    return world.net, tuple(world.about.get("policies", ()))


def fingerprint(net: voc.VOC) -> int:
    """A number that tells one model's weights from another's."""
    found = 0
    for name, value in sorted(net.state_dict().items()):
        if not name.startswith("target."):
            found = zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), found)
    return found


def _source(data: Path) -> dict[str, Any]:
    """Where episodes of ours come from; nothing of other files."""
    return about(data) if (data / ABOUT).is_file() else {}


def _totals(episodes: Episodes) -> list[tuple[str, float, int]]:
    """(label, sum of the rewards, decisions) of each."""
    return [(episode.policy, float(episode.rewards.sum()), len(episode) - 1) for episode in episodes]


# -- acting -----------------------------------------------------------------------------------------


def control_command(
    checkpoint: str,
    task: str,
    how: str,
    episodes: int,
    decisions: int | None,
    gamma: float | None,
    proposals: int | None,
    draws: int,
    horizon: int,
    seed: int,
    json: bool,
) -> int:
    """Exit code 0, or 130 where it was interrupted: the numbers are then of the episodes done by that time."""
    if how not in get_args(How):
        raise ValueError(f"--how is one of {', '.join(get_args(How))}, not {how}")
    for name, value in (("episodes", episodes), ("draws", draws), ("horizon", horizon)):
        if value < 1:
            raise ValueError(f"--{name} {value}: 1 or more")
    for name, value in (("decisions", decisions), ("proposals", proposals)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: 1 or more")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, _ = acting(checkpoint, device)
    actor, of = controller(checkpoint, net, needed=how != "mpc")
    gamma = control.discount(net, gamma)
    data = of.get("data", {})
    collected = [(str(label), float(total), int(many)) for label, total, many in data.get("episodes", [])]
    if decisions is None:
        decisions = int(np.median([many for _, _, many in collected])) if collected else DECISIONS
    ways = ways_of(net, actor, how, gamma, proposals, draws, horizon, fast_precision(device))
    env = _environment(task, net, data.get("source", {}))
    ways |= {"random": control.of_policy(env, POLICIES["random"])}
    if isinstance(env, Suite):
        ways |= {"scripted": control.of_policy(env, POLICIES["scripted"])}
    found: dict[str, list[control.Outcome]] = {}
    stopped, seconds = False, {}
    bar = tqdm(total=len(ways) * episodes, unit="episode", leave=False, disable=not sys.stderr.isatty())
    try:
        for name, begin in ways.items():
            bar.set_postfix_str(name)
            began, rows = time.monotonic(), found.setdefault(name, [])
            for outcome in control.returns(env, begin, episodes, decisions, seed):
                rows.append(outcome)
                seconds[name] = (time.monotonic() - began) / sum(row.decisions for row in rows)
                bar.update()
    except KeyboardInterrupt:
        stopped = True
    finally:
        bar.close()
        env.close()
    rows = [_row(name, outcomes) for name, outcomes in found.items() if outcomes]
    for label in dict.fromkeys(label for label, _, _ in sorted(collected)):
        own = [control.Outcome(total, many) for name, total, many in collected if name == label]
        rows.append(_row(f"data: {label or 'all'}", own))
    if len({label for label, _, _ in collected}) > 1:
        rows.append(_row("data: all", [control.Outcome(total, many) for _, total, many in collected]))
    report = {
        "command": "act", "checkpoint": checkpoint, "task": env.name, "how": how, "episodes": episodes,
        "decisions": decisions, "gamma": gamma, "seed": seed, "interrupted": stopped,
        "rows": _with_share(rows, decisions), "seconds": seconds, "above": _above(found, how, collected, decisions),
    }  # fmt: skip
    _show(report)
    if json:
        print(json_.dumps(_clean(report)))
    return 130 if stopped else 0


def ways_of(
    net: voc.VOC,
    actor: control.Actor | None,
    how: str,
    gamma: float,
    proposals: int | None,
    draws: int,
    horizon: int,
    precision: torch.dtype,
) -> dict[str, control.Begin]:
    """The way that is asked, and the policy that imitates the data beside it, where there is one."""
    num = PROPOSALS[how] if proposals is None else proposals  # type: ignore[index]
    ways: dict[str, control.Begin] = {}
    if how == "mpc":
        state = torch.zeros(1, net.config.tokens, dtype=torch.long, device=next(net.parameters()).device)
        control.mpc_cost(net, state, gamma, horizon, draws, control.Rng.of(0), precision)  # refuses what cannot be
        ways["mpc"] = control.mpc(net, gamma, horizon, num, draws, precision=precision)
    if actor is None:
        return ways
    if how == "improve":
        ways["improve"] = control.improved(net, actor, gamma, num, draws, precision)
    if how == "critic":
        ways["critic"] = control.by_critic(net, actor, gamma, num)
    return ways | {"behaviour": control.behaviour(net, actor)}


def controller(checkpoint: str, net: voc.VOC, needed: bool = True) -> tuple[control.Actor | None, Mapping[str, Any]]:
    """What acts, from beside the model, and the header of its file; (None, {}) where there is none and none is needed.

    Raises ValueError where it is missing, or was fitted to another model.
    """
    path = checkpoint_.find(checkpoint).with_name(CONTROLLER)
    if not path.is_file():
        if needed:
            raise ValueError(f"there is no {path}: `maskworld value fit-actor {checkpoint} DATA` makes it")
        return None, {}
    tensors, header = checkpoint_.read(path)
    checkpoint_.finite(tensors, path)
    if header.get("family") != FAMILY:
        raise ValueError(f"{path} is of the family {header.get('family')}, not {FAMILY}")
    if header.get("of") != fingerprint(net):
        raise ValueError(f"{path} was fitted to another model than {checkpoint}: fit it again")
    actor = control.actor_of(net, 0)
    if _shapes(tensors) != _shapes(actor.state_dict()):
        raise ValueError(f"{path}: its weights do not fit this model")
    actor.load_state_dict(tensors)
    return actor.eval().requires_grad_(False), header


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def _environment(task: str, net: voc.VOC, source: Mapping[str, Any]) -> Env:
    """The task, drawn as its data were, in frames of the model's size. ValueError where it does not go with it."""
    if net.config.channels != 3:
        raise ValueError(f"control tasks are seen in colour; this model sees {net.config.channels} channel(s)")
    name = task.removeprefix("control-")
    env = load(name, net.config.size, source.get("look", "fast"))
    if env.actions != net.config.actions:
        env.close()
        raise ValueError(
            f"{task} takes actions of {env.actions} channels, and this model is told {net.config.actions}: "
            f"it was trained on another task (there are {', '.join(TASKS)})"
        )
    return env


# -- the table --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Row:
    name: str
    returns: Interval
    decisions: float
    share: float = math.nan


def _row(name: str, outcomes: Sequence[control.Outcome]) -> _Row:
    found = interval([outcome.total for outcome in outcomes])
    return _Row(name, found, float(np.mean([outcome.decisions for outcome in outcomes])))


def _with_share(rows: Sequence[_Row], decisions: int) -> list[_Row]:
    """Of episodes as long as those that were asked: where between the random and the scripted policy they are."""
    means = {row.name: row.returns.mean for row in rows}
    low, high = means.get("random", math.nan), means.get("scripted", math.nan)
    return [
        dataclasses.replace(row, share=control.normalised(row.returns.mean, low, high))
        if not row.name.startswith("data: ") or row.decisions == decisions
        else row
        for row in rows
    ]


def _above(
    found: Mapping[str, Sequence[control.Outcome]],
    how: str,
    collected: Sequence[tuple[str, float, int]],
    decisions: int,
) -> dict[str, Interval]:
    """How much more the way that was asked gets: than others in the same episodes, and than the data's mean."""
    own = [outcome.total for outcome in found.get(how, [])]
    above = {}
    for name in ("behaviour", "random"):
        other = [outcome.total for outcome in found.get(name, [])]
        n = min(len(own), len(other))
        if name != how and n:
            above[name] = difference(own[:n], other[:n])
    if own and collected and all(many == decisions for _, _, many in collected):
        mean = float(np.mean([total for _, total, _ in collected]))
        above["the data's mean"] = interval([total - mean for total in own])
    return above


def _show(report: Mapping[str, Any]) -> None:
    print(
        f"{report['task']}: {report['episodes']} episodes of {report['decisions']} decisions, discount "
        f"{report['gamma']:g}; mean return, 95 % interval, return a decision, 0 = random and 1 = scripted"
    )
    for row in report["rows"]:
        r = row.returns
        share = f"{row.share:7.2f}" if math.isfinite(row.share) else "       "
        took = f"  {report['seconds'][row.name]:.3g} s a decision" if row.name in report["seconds"] else ""
        print(
            f"{row.name:<20}{r.mean:9.2f}  [{r.low:.2f}, {r.high:.2f}]  {r.mean / row.decisions:8.4f} {share}  "
            f"n = {r.n}{took}"
        )
    for name, r in report["above"].items():
        print(f"{report['how']} is above {name} by {r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]")
    if report["interrupted"]:
        print("interrupted: of the episodes that were done", file=sys.stderr)


def _clean(value: Any) -> Any:
    """For JSON, which knows no NaN."""
    if isinstance(value, _Row):
        return {**_clean(dataclasses.asdict(value)), "a_decision": value.returns.mean / value.decisions}
    if isinstance(value, Interval):
        return _clean(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return _number(value)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
