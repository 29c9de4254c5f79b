"""Acting with a video occupancy model: from frames to actions, without a roll-out or with a short one.

A model that is told an action draws the futures of doing it first and then going on as the data do; the mean reward of
those is its value, Q. What is chosen among are proposals of a policy that imitates the data; where the model is told
which of the data's policies goes on, of each of them, and the choice is among policies and actions (generalised policy
improvement; Barreto et al. 2017). Four ways to act:

    behaviour   a proposal as it comes, of one policy for an episode: the floor
    improve     the best of several by Q from draws: one step of policy improvement
    critic      the best of several by a critic that was distilled from such draws: no draws any more
    mpc         the cross-entropy method over a few steps of the model at discount 0, and the value of where they end

Sections: what acts - values - ways to act - fitting - returns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from maskworld.clip import of_frames, of_uint8
from maskworld.data.control import Env, Policy
from maskworld.data.episodes import Episode, clip_of
from maskworld.nets.critic import Critic, Proposals, log_prob, sample
from maskworld.noise import Rng, mix
from maskworld.papers import voc
from maskworld.plan import cem, expectile_loss, improve, lookahead

# -- what acts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Of the networks that act: numbers of a state's vector, channels of an action, policies that are told apart (at
    least 1), normals of a mixture, width."""

    dim: int
    actions: int
    policies: int = 1
    components: int = 5
    width: int = 256


class Actor(nn.Module):
    """Policies that imitate the data, how often each is at work there, and a critic."""

    shares: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.register_buffer("shares", torch.full((config.policies,), 1 / config.policies))
        self.proposals = Proposals(config.dim, config.actions, config.components, config.width, config.policies)
        self.critic = Critic(config.dim, config.actions, config.width)


def actor_of(net: voc.VOC, seed: int) -> Actor:
    """An actor for this model, weights at random. ValueError for a model that is told no actions."""
    check_told(net)
    device = next(net.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed))
        policies = max(net.config.policies, 1)
        return Actor(Config(net.config.tokens * net.config.dim_code, net.config.actions, policies)).to(device)


def check_told(net: voc.VOC) -> None:
    """Raises ValueError for a model that is told no actions."""
    if not net.config.actions:
        raise ValueError("this model is told no actions, and so it cannot choose among them: train one that is")


def discount(net: voc.VOC, asked: float | None) -> float:
    """The discount that is asked, or the greatest that was learnt. ValueError for one beyond what was learnt."""
    return max(net.config.gammas) if asked is None else voc.gammas_of(net.config, (asked,))[0]


@torch.no_grad()
def vectors(net: voc.VOC, states: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
    """A state as the vectors of its codes, one after another."""
    gh, gw = net.config.grid
    codes = rearrange(states, "b (s gh gw) -> (b s) gh gw", gh=gh, gw=gw)
    of: voc.Tokenizer = net.tokenizer  # type: ignore[assignment]
    return rearrange(of.vectors(codes).float(), "(b s) gh gw d -> b (s gh gw d)", b=len(states))


@torch.no_grad()
def proposed(actor: Actor, x: Float[Tensor, "b d"], who: Int[Tensor, "b k"], rng: Rng) -> Float[Tensor, "b k a"]:
    """An action for each state vector and policy, as that would do."""
    k = who.shape[1]
    uniform, normal = rng.uniform((k, 1), x.device), rng.normal((k, 1, actor.config.actions), x.device)
    mixture = actor.proposals(repeat(x, "b d -> (b k) d", k=k), rearrange(who, "b k -> (b k)"))
    found = sample(mixture, rearrange(uniform, "b k 1 -> (b k) 1"), rearrange(normal, "b k 1 a -> (b k) 1 a"))
    return rearrange(found, "(b k) 1 a -> b k a", k=k)


def in_turn(actor: Actor, b: int, num: int) -> Int[Tensor, "b k"]:
    """The policies one after another, `num` in all, for each of b states."""
    return (torch.arange(num, device=actor.shares.device) % actor.config.policies).expand(b, num)


# -- values -----------------------------------------------------------------------------------------


@torch.no_grad()
def mean_rewards(
    net: voc.VOC,
    states: Int[Tensor, "b n"],
    actions: Float[Tensor, "b k a"],
    gamma: Float[Tensor, " b"],
    num: int,
    rng: Rng,
    *,
    policies: Int[Tensor, "b k"] | None = None,
    precision: torch.dtype = torch.float32,
) -> Float[Tensor, "b k"]:
    """(1 - gamma) Q of each of k actions: the mean reward of `num` draws of the future that begins with it; where the
    model writes rewards, their mean itself.

    A state is read once for all its actions and draws, and its actions are compared under the same random numbers.
    `policies` are those that go on after each action; they are not told otherwise, or where the model is told none.
    """
    k = actions.shape[1]
    told = voc.Told(repeat(gamma, "b -> (b k)", k=k), _does(net, actions, policies))
    if net.config.reward_bins:
        return rearrange(voc.expected(net, states, told).mean * (1 - told.gamma), "(b k) -> b k", k=k)
    extra = net.occupancy.told(told)
    assert extra is not None, "a model that is told actions is told something"
    uniform = repeat(rng.uniform((num, net.config.written), states.device), "b n m -> b (k n) m", k=k)
    extra = repeat(extra, "(b k) d -> b (k n) d", k=k, n=num)
    found, _ = net.occupancy.lm.draw(states, extra, uniform, precision=precision, ends=net.config.ends)
    return reduce(voc.of_written(net, found).rewards, "b (k n) -> b k", "mean", k=k)


def _does(net: voc.VOC, actions: Float[Tensor, "b k a"], policies: Int[Tensor, "b k"] | None) -> Float[Tensor, "n w"]:
    """What a draw is told: the action, and which policy goes on or, NaN, that it is not said."""
    b, k, _ = actions.shape
    who = actions.new_full((b, k, net.config.policies), math.nan)
    if policies is not None and net.config.policies:
        who = torch.nn.functional.one_hot(policies, net.config.policies).to(actions)
    return rearrange(torch.cat([actions, who], dim=2), "b k w -> (b k) w")


class _Ahead(NamedTuple):
    """Where n candidates stand after some steps: p draws of each. At first there is one state for all of them."""

    at: voc.Drawn
    steps: int


def mpc_cost(
    net: voc.VOC,
    state: Int[Tensor, "1 n"],
    gamma: float,
    horizon: int,
    draws: int,
    rng: Rng,
    precision: torch.dtype = torch.float32,
) -> Callable[[Float[Tensor, "n t a"]], Float[Tensor, " n"]]:
    """What sequences of `horizon` actions would cost from a state: each is rolled out in `draws` futures, one step at
    a time at discount 0, and ends with a draw at `gamma` from where it got. All candidates meet the same luck.

    ValueError for a model that has not learnt the discount 0, which is one step.
    """
    check_told(net)
    if min(net.config.gammas) > 0:
        raise ValueError(
            f"a model of one step is a draw at discount 0; this model has learnt {_listed(net.config.gammas)}: "
            "train one with 0 among its gammas, or act by improve or critic"
        )
    if horizon < 1 or draws < 1:
        raise ValueError(f"a plan of at least one step and one draw, not {horizon} and {draws}")
    device, end = state.device, net.config.vocab
    luck = rng.uniform((horizon + 1, draws, net.config.written), device)[0]

    def drawn(x: _Ahead, told: voc.Told, n: int) -> _Ahead:
        extra = net.occupancy.told(told)
        assert extra is not None
        if x.steps == 0:  # all begin in the same state, which is read once
            extra = repeat(extra, "n d -> 1 (n p) d", p=draws)
            uniform = repeat(luck[0], "p m -> 1 (n p) m", n=n)
            found, _ = net.occupancy.lm.draw(state, extra, uniform, precision=precision, ends=net.config.ends)
            return _Ahead(voc.of_written(net, rearrange(found, "1 (n p) m -> n p m", p=draws)), 1)
        extra = repeat(extra, "n d -> (n p) 1 d", p=draws)
        uniform = repeat(luck[x.steps], "p m -> (n p) 1 m", n=n)
        before = rearrange(x.at.states, "n p m -> (n p) m")
        found, _ = net.occupancy.lm.draw(
            before.clamp(max=end - 1), extra, uniform, precision=precision, ends=net.config.ends
        )
        over = (before == end).any(1)[:, None]
        found = rearrange(found[:, 0].masked_fill(over, end), "(n p) m -> n p m", p=draws)
        return _Ahead(voc.of_written(net, found), x.steps + 1)

    def start(n: int) -> _Ahead:
        return _Ahead(voc.Drawn(repeat(state, "1 m -> n p m", n=n, p=draws), torch.zeros(n, draws, device=device)), 0)

    def step(x: _Ahead, actions: Float[Tensor, "n a"]) -> _Ahead:
        told = voc.Told(torch.zeros(len(actions), device=device), _does(net, actions[:, None], None))
        return drawn(x, told, len(actions))

    def reward(x: _Ahead) -> Float[Tensor, " n"]:
        return x.at.rewards.mean(1)

    def value(x: _Ahead) -> Float[Tensor, " n"]:
        n = len(x.at.states)
        return reward(drawn(x, voc.Told(torch.full((n,), gamma, device=device)), n)) / (1 - gamma)

    return torch.no_grad()(lookahead(start, step, reward, value, gamma))


def _listed(gammas: Sequence[float]) -> str:
    return ", ".join(f"{gamma:g}" for gamma in gammas)


# -- ways to act --------------------------------------------------------------------------------------

Act = Callable[[Sequence[UInt8[np.ndarray, "h w c"]]], Float[np.ndarray, " a"]]
"""(the frames of the episode until now) -> what is done next, from -1 to 1."""
Begin = Callable[[int], Act]
"""(seed) -> what acts in a new episode."""


def state_of(net: voc.VOC, frames: Sequence[UInt8[np.ndarray, "h w c"]]) -> Int[Tensor, "1 n"]:
    """The state at the last of these frames. ValueError for frames of another size than the model's."""
    seen = of_uint8(torch.from_numpy(np.stack(frames[-net.config.stack :])))
    return voc.states_of(net, of_frames(seen.frames.to(next(net.parameters()).device)))[:, -1]


def behaviour(net: voc.VOC, actor: Actor) -> Begin:
    """What the data would do: one of their policies, drawn for the episode, as often as it is at work there."""
    check_told(net)

    def begin(seed: int) -> Act:
        rng = Rng.of(seed)
        reached = actor.shares.cpu().cumsum(0)
        drawn = torch.searchsorted(reached, rng.uniform((1,)) * reached[-1], right=True)
        who = drawn.clamp(max=len(reached) - 1).to(actor.shares.device)
        return lambda frames: _plain(proposed(actor, vectors(net, state_of(net, frames)), who, rng)[0, 0])

    return begin


def improved(
    net: voc.VOC, actor: Actor, gamma: float, num: int, draws: int, precision: torch.dtype = torch.float32
) -> Begin:
    """The best of `num` proposals, of the policies in turn, by the mean of `draws` draws of what comes of each, if the
    policy that proposed it goes on."""
    check_told(net)
    discounts = torch.full((1,), gamma, device=next(net.parameters()).device)

    def begin(seed: int) -> Act:
        rng = Rng.of(seed)

        def q(states: Int[Tensor, "b n"], actions: Float[Tensor, "b k a"]) -> Float[Tensor, "b k"]:
            who = in_turn(actor, len(states), actions.shape[1])
            found = mean_rewards(net, states, actions, discounts, draws, rng, policies=who, precision=precision)
            return found / (1 - gamma)

        def propose(states: Int[Tensor, "b n"], many: int, rng: Rng) -> Float[Tensor, "b k a"]:
            return proposed(actor, vectors(net, states), in_turn(actor, len(states), many), rng)

        return lambda frames: _plain(improve(q, propose, state_of(net, frames), num, rng)[0])

    return begin


def by_critic(net: voc.VOC, actor: Actor, gamma: float, num: int) -> Begin:
    """The best of `num` proposals, of the policies in turn, by the critic."""
    check_told(net)
    discounts = torch.full((1,), gamma, device=next(net.parameters()).device)

    @torch.no_grad()
    def q(x: Float[Tensor, "b d"], actions: Float[Tensor, "b k a"]) -> Float[Tensor, "b k"]:
        return actor.critic(x, actions, discounts)

    def begin(seed: int) -> Act:
        rng = Rng.of(seed)

        def propose(x: Float[Tensor, "b d"], many: int, rng: Rng) -> Float[Tensor, "b k a"]:
            return proposed(actor, x, in_turn(actor, len(x), many), rng)

        return lambda frames: _plain(improve(q, propose, vectors(net, state_of(net, frames)), num, rng)[0])

    return begin


def mpc(
    net: voc.VOC,
    gamma: float,
    horizon: int,
    num: int,
    draws: int,
    iterations: int = 2,
    precision: torch.dtype = torch.float32,
) -> Begin:
    """The first of `horizon` actions that the cross-entropy method finds, from `num` candidates in each of some
    iterations. It begins with what is left of the plan of the decision before."""
    check_told(net)
    if num < 2:
        raise ValueError(f"the cross-entropy method chooses among 2 or more candidates, not {num}")

    def begin(seed: int) -> Act:
        rng, shape = Rng.of(seed), (horizon, net.config.actions)
        plan = torch.zeros(shape)

        def act(frames: Sequence[UInt8[np.ndarray, "h w c"]]) -> Float[np.ndarray, " a"]:
            nonlocal plan
            state = state_of(net, frames)
            cost = mpc_cost(net, state, gamma, horizon, draws, rng, precision)
            found = cem(
                lambda actions: cost(actions.to(state.device)).cpu(), -1.0, 1.0, shape, num, iterations,
                max(num // 4, 2), rng, mean=plan,
            ).actions  # fmt: skip
            plan = torch.cat([found[1:], torch.zeros_like(found[:1])])
            return _plain(found[0])

        return act

    return begin


def of_policy(env: Env, policy: Policy) -> Begin:
    """A policy that needs no frames: a random one, or one that looks into the simulator."""

    def begin(seed: int) -> Act:
        act = policy(env, np.random.default_rng(seed))
        return lambda frames: act()

    return begin


def _plain(action: Float[Tensor, " a"]) -> Float[np.ndarray, " a"]:
    return action.cpu().numpy()


# -- fitting ------------------------------------------------------------------------------------------


class Decisions(NamedTuple):
    """States, what was done in them, and by whom."""

    states: Int[Tensor, "n m"]
    actions: Float[Tensor, "n a"]
    who: Int[Tensor, " n"]


@dataclass(frozen=True)
class Fitting:
    """How an actor is fitted; all of it is a function of these numbers, the data and the model.

    steps         of each of the two networks, with batches of `batch` and a rate of `lr` that falls to 0
    states        states whose futures are drawn for the critic, at most
    num, draws    actions in each of them, the first of them that of the data, and draws of each
    expectile     0.5 is the mean; more leans to what the better draws and, where the model is told policies, the
                  better of them bring
    """

    steps: int = 2000
    batch: int = 256
    lr: float = 1e-3
    states: int = 4000
    num: int = 4
    draws: int = 8
    expectile: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "states", "num", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        expectile_loss(torch.zeros(()), self.expectile)


@torch.no_grad()
def decisions_of(
    net: voc.VOC, episodes: Sequence[Episode], policies: Sequence[str] = (), frames: int = 64
) -> Decisions:
    """All of some episodes, in pixels or in codes; `frames` are encoded at a time. `policies` are the names of those of
    which the model is told, in its order.

    Raises ValueError for frames or actions that are not the model's, and for a policy that it does not know.
    """
    check_told(net)
    device = next(net.parameters()).device
    states, actions, who = [], [], []
    for episode in episodes:
        if episode.actions.shape[1] != net.config.actions:
            raise ValueError(
                f"this model is told actions of {net.config.actions} channels; those of the episodes have "
                f"{episode.actions.shape[1]}"
            )
        parts = np.split(np.arange(len(episode)), range(frames, len(episode), frames))
        codes = torch.cat([net.codes(of_frames(clip_of(episode, part).frames.to(device))) for part in parts], dim=1)
        gh, gw = net.config.grid
        coded = of_frames(rearrange(codes, "1 t (gh gw) -> 1 1 t 1 gh gw", gh=gh, gw=gw).float())
        states.append(voc.states_of(net, coded)[0, :-1])
        actions.append(torch.from_numpy(episode.actions[:-1]).to(device))
        if policies and episode.policy not in policies:
            raise ValueError(f"this model knows the policies {', '.join(policies)}, and no {episode.policy!r}")
        number = policies.index(episode.policy) if policies else 0
        who.append(torch.full((len(episode) - 1,), number, device=device))
    if not states:
        raise ValueError("no episodes to learn from")
    return Decisions(torch.cat(states), torch.cat(actions).clamp(-1, 1), torch.cat(who))


def fit_proposals(
    net: voc.VOC,
    actor: Actor,
    data: Decisions,
    valid: Decisions,
    fitting: Fitting,
    until: float | None = None,
) -> Mapping[str, float]:
    """Imitate: maximum likelihood of what was done. Keeps the weights that were best on `valid`.

    `until` is a time of time.monotonic() at which it ends early. Gives the held-out log-likelihood of an action,
    `log_p`, and `log_p_before`, what it was before, when all states were alike.
    """
    policy = actor.proposals
    policy.scaled.begin(vectors(net, data.states[:: max(len(data.states) // 2000, 1)]))
    actor.shares.copy_(torch.bincount(data.who, minlength=actor.config.policies) / len(data.who))

    def loss(rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        return -log_prob(policy(vectors(net, data.states[rows]), data.who[rows]), data.actions[rows]).mean()

    def held_out() -> float:
        parts = zip(*(part.split(4096) for part in valid), strict=True)
        total = sum(float(log_prob(policy(vectors(net, x), who), a).sum()) for x, a, who in parts)
        return -total / len(valid.states)

    before, least = _fit(policy, loss, held_out, len(data.states), fitting, 0, until)
    return {"log_p": -least, "log_p_before": -before}


class Targets(NamedTuple):
    """For some states, k actions of each: the mean reward of what was drawn to come, (1 - gamma) Q."""

    states: Int[Tensor, "n m"]
    actions: Float[Tensor, "n k a"]
    gamma: Float[Tensor, " n"]
    rewards: Float[Tensor, "n k"]


def draw_targets(
    net: voc.VOC,
    actor: Actor,
    data: Decisions,
    fitting: Fitting,
    until: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    precision: torch.dtype = torch.float32,
) -> Targets:
    """Draw what comes of the data's actions and of the policy's proposals beside them, in states of the data.

    A discount of those that were learnt is drawn for each state. The first action is that of the data, the others are
    of the policies in turn, and each goes on as whoever did it would: a policy is an intention, and an expectile above
    0.5 leans to the better ones (Zheng et al. 2025, Sec. 4).
    differs: all targets are drawn first, and the critic then sees each of them several times, as draws are dear.
    """
    device, config = data.states.device, net.config
    gammas = torch.tensor([gamma for gamma in config.gammas if gamma > 0] or config.gammas, device=device)
    found, done = [], 0
    while done < fitting.states and not (found and until is not None and time.monotonic() >= until):
        b = min(16, fitting.states - done)
        rng = Rng.of(fitting.seed, 2, done, batch=b)
        rows = rng.integers(0, len(data.states), (), device)
        states = data.states[rows]
        actions, who = data.actions[rows][:, None], data.who[rows][:, None]
        if fitting.num > 1:
            others = in_turn(actor, b, fitting.num - 1)
            actions = torch.cat([actions, proposed(actor, vectors(net, states), others, rng)], dim=1)
            who = torch.cat([who, others], dim=1)
        gamma = gammas[rng.integers(0, len(gammas), (), device)]
        rewards = mean_rewards(net, states, actions, gamma, fitting.draws, rng, policies=who, precision=precision)
        found.append(Targets(states, actions, gamma, rewards))
        done += b
        if progress is not None:
            progress(done, fitting.states)
    return Targets(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def fit_critic(
    net: voc.VOC, actor: Actor, targets: Targets, fitting: Fitting, until: float | None = None
) -> Mapping[str, float]:
    """Distil: expectile regression of Q onto what was drawn. Keeps the weights that were best on every tenth state.

    Gives on those the correlation of the critic with the targets, `r`, and `r_actions`, that of what it says of the
    actions of one state, beside their mean. Both are of noisy targets. NaN where there is nothing to correlate.
    """
    critic, n = actor.critic, len(targets.states)
    if n < 10:
        raise ValueError(f"futures of {n} states were drawn: a critic needs those of 10 or more")
    critic.scaled.begin(vectors(net, targets.states[:: max(n // 2000, 1)]))
    critic.reward.begin(targets.rewards)
    place = torch.arange(n, device=targets.states.device)
    train, valid = (
        Targets(*(part[place % 10 == 9 if held else place % 10 != 9] for part in targets)) for held in (0, 1)
    )

    def error(of: Targets) -> Float[Tensor, "b k"]:
        return critic.reward(of.rewards) - critic.standard(vectors(net, of.states), of.actions, of.gamma)

    def loss(rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        return expectile_loss(error(Targets(*(part[rows] for part in train))), fitting.expectile).mean()

    def held_out() -> float:
        return float(expectile_loss(error(valid), fitting.expectile).mean())

    _, least = _fit(critic, loss, held_out, len(train.states), fitting, 1, until)
    with torch.no_grad():
        said = critic.standard(vectors(net, valid.states), valid.actions, valid.gamma)
    apart = [x - x.mean(1, keepdim=True) for x in (said, valid.rewards)]
    return {"loss": least, "r": _correlation(said, valid.rewards), "r_actions": _correlation(*apart)}


def _correlation(a: Float[Tensor, "*n"], b: Float[Tensor, "*n"]) -> float:
    a, b = a.flatten().double() - a.double().mean(), b.flatten().double() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else math.nan


def _fit(
    net: nn.Module,
    loss: Callable[[Int[Tensor, " b"]], Float[Tensor, ""]],
    held_out: Callable[[], float],
    num: int,
    fitting: Fitting,
    which: int,
    until: float | None,
) -> tuple[float, float]:
    """Adam with a rate that falls to 0 along a cosine; keeps the weights that were best by `held_out`. Gives what that
    was before, and what it is with those."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=fitting.lr, weight_decay=1e-2)
    device = next(net.parameters()).device
    with torch.no_grad():
        before = best = held_out()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    every = max(fitting.steps // 20, 1)
    net.train()
    for step in range(fitting.steps):
        late = until is not None and time.monotonic() >= until
        rows = Rng.of(fitting.seed, which, step).integers(0, num, (fitting.batch,), device)[0]
        for group in optimiser.param_groups:
            group["lr"] = fitting.lr * (1 + math.cos(math.pi * step / fitting.steps)) / 2
        loss(rows).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % every == 0 or step + 1 == fitting.steps or late:
            with torch.no_grad():
                now = held_out()
            if now < best:
                best, kept = now, {name: value.clone() for name, value in net.state_dict().items()}
        if late:
            break
    net.load_state_dict(kept)
    net.eval()
    if not math.isfinite(best):
        raise FloatingPointError(f"what acts cannot be fitted: its loss is {best} before the first step")
    return before, best


# -- returns ------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """Of one episode: the sum of its rewards, and how many decisions it had."""

    total: float
    decisions: int


def episode_return(env: Env, act: Act, decisions: int, seed: int) -> Outcome:
    """One episode in the real environment, of as many decisions or fewer where it ends for good."""
    if decisions < 1:
        raise ValueError(f"at least one decision an episode, not {decisions}")
    frames, total = [env.reset(seed)], 0.0
    for done in range(1, decisions + 1):
        frame, reward, ended = env.step(np.asarray(act(frames), np.float32))
        frames.append(frame)
        total += reward
        if ended:
            return Outcome(total, done)
    return Outcome(total, decisions)


def returns(env: Env, begin: Begin, episodes: int, decisions: int, seed: int) -> Iterator[Outcome]:
    """Episode after episode. Number i begins where it does for everybody who is asked with this seed, so that two who
    act can be compared episode by episode."""
    if episodes < 1:
        raise ValueError(f"at least one episode, not {episodes}")
    return (episode_return(env, begin(mix(seed, i, 1)), decisions, mix(seed, i)) for i in range(episodes))


def normalised(value: float, low: float, high: float) -> float:
    """0 where it is `low` (a random policy's return), 1 where it is `high` (the best scripted one's); NaN where the
    second is not above the first."""
    return (value - low) / (high - low) if high > low else math.nan
