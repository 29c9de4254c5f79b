"""Acting by a video occupancy model: a toy in which the picture shows where one is and an action goes left or right."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from maskworld import checkpoint, control
from maskworld.clip import collate, example
from maskworld.commands.control import CONTROLLER, control_command, fingerprint, fit_command
from maskworld.control import Begin, Fitting
from maskworld.data.control import random
from maskworld.data.episodes import Episode, Transitions, write
from maskworld.masks import past_and_future
from maskworld.noise import Rng, mix
from maskworld.papers import voc
from maskworld.plan import lookahead
from maskworld.tokenizers.flat import Config as FlatConfig
from maskworld.tokenizers.flat import Flat

PLACES, GAMMA = 4, 0.8


class Line:
    """Four places in a row, one bright patch each. An action above 0 goes right, others left; the reward is how far to
    the right one has got, from 0 to 1. Who goes left from the first place or right from the last stays there."""

    name, actions, size, fps = "line", 1, 16, 8.0

    def __init__(self) -> None:
        self.place = 0

    def look(self) -> np.ndarray:
        frame = np.zeros((16, 16, 3), np.uint8)
        row, column = divmod(self.place, 2)
        frame[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
        return frame

    def reset(self, seed: int) -> np.ndarray:
        self.place = mix(seed) % PLACES
        return self.look()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.place = int(np.clip(self.place + (1 if action[0] > 0 else -1), 0, PLACES - 1))
        return self.look(), self.place / (PLACES - 1), False

    def close(self) -> None:
        pass


def truth() -> tuple[torch.Tensor, torch.Tensor]:
    """(Q of left and right at each place when a coin decides afterwards, the best V)."""
    place = torch.arange(PLACES)
    then = torch.stack([(place - 1).clamp(min=0), (place + 1).clamp(max=PLACES - 1)], dim=1)
    reward, value, best = place / (PLACES - 1), torch.zeros(PLACES), torch.zeros(PLACES)
    for _ in range(200):
        value = (reward + GAMMA * value)[then].mean(1)
        best = (reward + GAMMA * best)[then].max(1).values
    return (reward + GAMMA * value)[then], best


def wander(env: Line, seed: int, steps: int = 30) -> Episode:
    rng = np.random.default_rng(seed)
    frames, rewards = [env.reset(seed)], [0.0]
    actions = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
    for action in actions:
        frame, reward, _ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
    last = np.full((1, 1), np.nan, np.float32)
    return Episode(np.stack(frames), np.concatenate([actions, last]), np.array(rewards, np.float32), False, "coin")


EPISODES = [wander(Line(), seed) for seed in range(40)]
TOKENIZER = FlatConfig(16, 3, 8, 2)


def model(**changes) -> voc.VOC:
    torch.manual_seed(0)
    tokenizer = Flat(TOKENIZER)
    config = voc.tiny(dim=32, depth=1, actions=1, gammas=(0.0, GAMMA), **changes)
    return voc.VOC(voc.of_tokenizer(config, tokenizer), tokenizer)


AHEAD, STEPS = 16, 200


def coded(net: voc.VOC, episode: Episode) -> Episode:
    """The same in the tokenizer's codes."""
    codes = net.codes(control.of_uint8(torch.from_numpy(episode.frames)))
    return dataclasses.replace(episode, frames=codes.reshape(-1, 2, 2, 1).numpy().astype(np.int32))


@pytest.fixture(scope="module")
def net() -> voc.VOC:
    return fitted(model())


def fitted(net: voc.VOC) -> voc.VOC:
    """Trained for a few seconds."""
    rewards = torch.cat([torch.from_numpy(one.rewards[1:]) for one in EPISODES])
    net.begin(rewards, bootstraps=False)
    data, objective = Transitions([coded(net, one) for one in EPISODES], 1, AHEAD), voc.objective(voc.TD(steps=None))
    clips, known = collate([data(i) for i in range(1200)]), past_and_future(1, AHEAD, 0, 128)
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    net.train()
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / STEPS)
        rows = Rng.of(step, 1).integers(0, 1200, (128,))[0]
        optimiser.zero_grad()
        objective(net, example(clips, rows), known, Rng.of(step, batch=128)).total.mean().backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


FITTING = Fitting(steps=120, batch=128, lr=3e-3, states=192, num=4, draws=16, expectile=0.5)


@pytest.fixture(scope="module")
def actor(net: voc.VOC) -> control.Actor:
    actor = control.actor_of(net, 0)
    train, valid = (control.decisions_of(net, some) for some in (EPISODES[:32], EPISODES[32:]))
    found = control.fit_proposals(net, actor, train, valid, FITTING)
    assert found["log_p_before"] <= found["log_p"] < -0.4  # they were uniform: -log 2 is all that can be had
    said = control.fit_critic(net, actor, control.draw_targets(net, actor, train, FITTING), FITTING)
    assert said["r"] > 0.8 and said["r_actions"] > 0.6
    return actor


def right(begin: Begin, repeats: int) -> float:
    """How often it goes right, over all places."""
    env, found = Line(), []
    for seed in range(repeats):
        act = begin(seed)
        for place in range(PLACES):
            env.place = place
            found.append(float(act([env.look()])[0] > 0))
    return float(np.mean(found))


def states(net: voc.VOC) -> torch.Tensor:
    env, found = Line(), []
    for place in range(PLACES):
        env.place = place
        found.append(control.state_of(net, [env.look()]))
    return torch.cat(found)


# -- values -----------------------------------------------------------------------------------------


def test_the_value_of_an_action_is_the_true_one(net: voc.VOC) -> None:
    actions = torch.tensor([-0.5, 0.5]).expand(PLACES, 2)[..., None]
    gamma = torch.full((PLACES,), GAMMA)
    q = control.mean_rewards(net, states(net), actions, gamma, 400, Rng.of(0, batch=PLACES)) / (1 - GAMMA)
    exact, _ = truth()
    assert (q - exact).abs().max() < 0.45  # of values from 1.2 to 3.8
    assert ((q[:, 1] - q[:, 0]) > 0.3 * (exact[:, 1] - exact[:, 0])).all()


def test_where_rewards_are_written_the_value_of_an_action_needs_no_draw() -> None:
    """The true one, the same whatever the luck; and plans that are rolled out know where to go."""
    net = fitted(model(reward_bins=4))
    actions = torch.tensor([-0.5, 0.5]).expand(PLACES, 2)[..., None]
    gamma = torch.full((PLACES,), GAMMA)
    q, again = (control.mean_rewards(net, states(net), actions, gamma, 1, Rng.of(i, batch=PLACES)) for i in (0, 1))
    assert torch.equal(q, again)
    exact, _ = truth()
    assert (q / (1 - GAMMA) - exact).abs().max() < 0.45
    cost = control.mpc_cost(net, states(net)[1:2], GAMMA, 2, 16, Rng.of(0))
    left, right = cost(torch.tensor([-0.5, 0.5]).expand(2, 2).T[..., None])
    assert right < left - 0.5


def test_reading_a_state_once_changes_nothing(net: voc.VOC) -> None:
    """The same numbers as from voc.value, which reads it for every action."""
    x, actions = states(net)[1:2], torch.tensor([[[-0.5], [0.1], [0.9]]])
    shared = control.mean_rewards(net, x, actions, torch.tensor([GAMMA]), 8, Rng.of(5))[0]
    for i in range(3):
        alone = voc.value(net, x, voc.Told(torch.tensor([GAMMA]), actions[:, i]), 8, Rng.of(5)).mean
        assert float(shared[i]) == pytest.approx(float(alone) * (1 - GAMMA), abs=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(net: voc.VOC) -> None:
    x, gamma = states(net), torch.full((PLACES,), GAMMA)
    actions = torch.linspace(-1, 1, 2 * PLACES).reshape(PLACES, 2, 1)
    whole = control.mean_rewards(net, x, actions, gamma, 4, Rng.of(1, batch=PLACES))
    rng = Rng.of(1, batch=PLACES)[[2]]
    assert torch.allclose(whole[2:3], control.mean_rewards(net, x[2:3], actions[2:3], gamma[:1], 4, rng), atol=1e-5)


def test_a_policy_is_told_after_the_action(net: voc.VOC) -> None:
    """The last channels; and where none is said, it is as if there were none to say."""
    told = model(policies=2)
    for name, value in told.named_parameters():
        if value.requires_grad and "tokenizer" not in name:
            torch.nn.init.normal_(value, std=0.3)
    x, actions, gamma = states(told), torch.zeros(PLACES, 1, 1), torch.full((PLACES,), GAMMA)

    def ask(policies: torch.Tensor | None) -> torch.Tensor:
        return control.mean_rewards(told, x, actions, gamma, 32, Rng.of(0, batch=PLACES), policies=policies)

    who = torch.tensor([0, 1, 0, 1])
    does = torch.cat([actions[:, 0], torch.nn.functional.one_hot(who, 2).float()], dim=1)
    by_hand = voc.value(told, x, voc.Told(gamma, does), 32, Rng.of(0, batch=PLACES)).mean * (1 - GAMMA)
    assert torch.allclose(ask(who[:, None])[:, 0], by_hand, atol=1e-5)
    assert not torch.allclose(ask(who[:, None]), ask(1 - who[:, None]))
    unsaid = torch.cat([actions[:, 0], torch.full((PLACES, 2), float("nan"))], dim=1)
    by_hand = voc.value(told, x, voc.Told(gamma, unsaid), 32, Rng.of(0, batch=PLACES)).mean * (1 - GAMMA)
    assert torch.allclose(ask(None)[:, 0], by_hand, atol=1e-5)


def test_a_plan_costs_what_the_world_says(net: voc.VOC) -> None:
    """The model of one step against the world itself, with the value of the coin at the end of both."""
    exact, _ = truth()
    value = exact.mean(1)
    plans = torch.tensor([[[0.5], [0.5]], [[-0.5], [-0.5]], [[0.5], [-0.5]]])
    for place in (0, 2):
        real = lookahead(
            lambda n, place=place: torch.full((n,), place),
            lambda x, a: (x + torch.where(a[:, 0] > 0, 1, -1)).clamp(0, PLACES - 1),
            lambda x: x / (PLACES - 1),
            lambda x: value[x],
            GAMMA,
        )(plans)
        said = control.mpc_cost(net, states(net)[place : place + 1], GAMMA, 2, 64, Rng.of(0))(plans)
        assert torch.allclose(said, real, atol=0.5)
        assert said.argmin() == real.argmin() == 0


def test_where_all_is_over_nothing_comes_any_more() -> None:
    """A model that always writes the end: no reward, in no step and not at the end."""
    net = model().eval()
    net.reward_mean.fill_(7.0)
    with torch.no_grad():
        net.occupancy.lm.head.weight[:] = 0
        net.occupancy.lm.norm.weight[:] = 0
    logits = torch.full((net.config.vocab + 1,), -50.0)
    logits[-1] = 50.0
    net.occupancy.lm.logits = lambda x, lead=False: logits.expand(*x.shape[:-1], -1)  # type: ignore[method-assign]
    cost = control.mpc_cost(net, states(net)[:1], GAMMA, 3, 2, Rng.of(0))
    assert torch.equal(cost(torch.zeros(4, 3, 1)), torch.zeros(4))


# -- ways to act ------------------------------------------------------------------------------------


def test_every_way_goes_right_and_the_data_do_not(net: voc.VOC, actor: control.Actor) -> None:
    shares = {
        "behaviour": right(control.behaviour(net, actor), 30),
        "improve": right(control.improved(net, actor, GAMMA, 6, 32), 6),
        "critic": right(control.by_critic(net, actor, GAMMA, 6), 12),
        "mpc": right(control.mpc(net, GAMMA, 2, 8, 8), 4),
    }
    assert 0.35 < shares["behaviour"] < 0.65
    for how in ("improve", "critic", "mpc"):
        assert shares[how] > 0.85, shares


def test_what_acts_better_returns_more(net: voc.VOC, actor: control.Actor) -> None:
    env = Line()
    outcomes = {
        name: [one.total for one in control.returns(env, begin, 8, 12, seed=3)]
        for name, begin in {
            "coin": control.of_policy(env, random),
            "behaviour": control.behaviour(net, actor),
            "critic": control.by_critic(net, actor, GAMMA, 8),
            "right": lambda seed: lambda frames: np.ones(1),
        }.items()
    }
    assert min(np.subtract(outcomes["critic"], outcomes["behaviour"])) > -1
    assert np.mean(outcomes["critic"]) > np.mean(outcomes["behaviour"]) + 2
    assert np.mean(outcomes["right"]) >= np.mean(outcomes["critic"]) - 1e-9
    means = {name: float(np.mean(totals)) for name, totals in outcomes.items()}
    assert 0.6 < control.normalised(means["critic"], means["coin"], means["right"]) <= 1


def test_an_episode_is_a_function_of_its_seed(net: voc.VOC, actor: control.Actor) -> None:
    begin = control.improved(net, actor, GAMMA, 3, 4)
    twice = [list(control.returns(Line(), begin, 2, 5, seed=seed)) for seed in (1, 1, 2)]
    assert twice[0] == twice[1] != twice[2]
    later = list(control.returns(Line(), begin, 4, 5, seed=1))
    assert later[:2] == twice[0]  # what follows changes nothing before


def test_only_the_last_frames_count(net: voc.VOC) -> None:
    deep = model(stack=3)
    env = Line()
    frames = []
    for place in (0, 1, 2, 3):
        env.place = place
        frames.append(env.look())
    long, short = control.state_of(deep, frames), control.state_of(deep, frames[1:])
    assert torch.equal(long, short) and long.shape == (1, 12)
    assert torch.equal(control.state_of(deep, frames[3:]), control.state_of(net, frames[3:]).repeat(1, 3))


def test_an_episode_ends_where_the_world_does() -> None:
    class Cliff(Line):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
            frame, _, _ = super().step(action)
            return frame, 1.0, self.place == PLACES - 1

    found = control.episode_return(Cliff(), lambda frames: np.ones(1), 50, 0)
    assert found == (PLACES - 1 - mix(0) % PLACES, PLACES - 1 - mix(0) % PLACES) or found.decisions <= PLACES


def test_normalised() -> None:
    assert control.normalised(5.0, 1.0, 9.0) == 0.5
    assert control.normalised(1.0, 1.0, 9.0) == 0 and control.normalised(9.0, 1.0, 9.0) == 1
    assert np.isnan(control.normalised(1.0, 2.0, 2.0))


# -- fitting ----------------------------------------------------------------------------------------


def test_decisions_are_the_data_without_the_last_frames(net: voc.VOC) -> None:
    found = control.decisions_of(net, EPISODES[:2], frames=7)
    assert found.states.shape == (60, 4) and found.actions.shape == (60, 1)
    for row in (0, 13, 29, 30, 59):
        episode, t = EPISODES[row // 30], row % 30
        assert torch.equal(found.states[row : row + 1], control.state_of(net, [episode.frames[t]]))
        assert float(found.actions[row, 0]) == pytest.approx(float(episode.actions[t, 0]))


def test_codes_do_as_pixels_do(net: voc.VOC) -> None:
    pixels = EPISODES[0]
    codes = coded(net, pixels)
    assert torch.equal(control.decisions_of(net, [codes]).states, control.decisions_of(net, [pixels]).states)


def test_fitting_is_a_function_of_its_seed_and_moves_nothing_of_the_model(net: voc.VOC) -> None:
    before = fingerprint(net)
    data = control.decisions_of(net, EPISODES[:4])
    fitting = Fitting(steps=5, batch=8, states=20, num=2, draws=2)

    def fit(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        actor = control.actor_of(net, seed)
        now = dataclasses.replace(fitting, seed=seed)
        control.fit_proposals(net, actor, data, data, now)
        control.fit_critic(net, actor, control.draw_targets(net, actor, data, now), now)
        return actor.proposals.mean.weight.clone(), actor.critic.out[-1].weight.clone()  # type: ignore[union-attr]

    one, same, other = fit(0), fit(0), fit(1)
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert fingerprint(net) == before


def test_a_higher_expectile_hopes_for_more(net: voc.VOC, actor: control.Actor) -> None:
    data = control.decisions_of(net, EPISODES[:8])
    few = dataclasses.replace(FITTING, draws=2, states=64, steps=50)
    targets = control.draw_targets(net, actor, data, few)
    gamma, values = torch.full((PLACES,), GAMMA), []
    for expectile in (0.1, 0.5, 0.9):
        fresh = control.actor_of(net, 0)
        control.fit_critic(net, fresh, targets, dataclasses.replace(few, expectile=expectile))
        with torch.no_grad():
            x = control.vectors(net, states(net))
            values.append(float(fresh.critic(x, torch.zeros(PLACES, 1, 1), gamma).mean()))
    assert values[0] + 0.1 < values[1] < values[2] - 0.1


def test_time_that_is_over_ends_the_draws_and_the_steps(net: voc.VOC, actor: control.Actor) -> None:
    data = control.decisions_of(net, EPISODES[:2])
    now = time.monotonic()
    assert len(control.draw_targets(net, actor, data, FITTING, until=now).states) == 16
    fresh = control.actor_of(net, 0)
    control.fit_proposals(net, fresh, data, data, dataclasses.replace(FITTING, steps=10**6), until=now)


# -- bad input --------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_one_line(net: voc.VOC, actor: control.Actor) -> None:
    torch.manual_seed(0)
    mute = voc.VOC(dataclasses.replace(net.config, actions=0), Flat(TOKENIZER))
    blind = voc.VOC(dataclasses.replace(net.config, gammas=(GAMMA,)), Flat(TOKENIZER))
    two = dataclasses.replace(EPISODES[0], actions=np.repeat(EPISODES[0].actions, 2, axis=1))
    x = states(net)[:1]
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: control.actor_of(mute, 0), "told no actions"),
        (lambda: control.behaviour(mute, actor), "told no actions"),
        (lambda: control.mpc(mute, GAMMA, 2, 8, 2), "told no actions"),
        (lambda: control.mpc_cost(blind, x, GAMMA, 2, 2, Rng.of(0)), "0 among its gammas"),
        (lambda: control.mpc_cost(net, x, GAMMA, 0, 2, Rng.of(0)), "at least one step"),
        (lambda: control.mpc(net, GAMMA, 2, 1, 2), "2 or more candidates"),
        (lambda: control.decisions_of(net, [two]), "1 channels; those of the episodes have 2"),
        (lambda: control.decisions_of(net, []), "no episodes"),
        (lambda: control.discount(net, 0.95), "learnt those from 0 to 0.8"),
        (lambda: Fitting(expectile=1.0), "between 0 and 1"),
        (lambda: Fitting(draws=0), "draws is 1 or more"),
        (lambda: control.returns(Line(), control.behaviour(net, actor), 0, 5, 0), "at least one episode"),
        (lambda: control.episode_return(Line(), lambda frames: np.ones(1), 0, 0), "at least one decision"),
        (lambda: control.state_of(net, [np.zeros((8, 8, 3), np.uint8)]), "the clip has 1 of 3 x 8 x 8"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()


# -- at the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(net: voc.VOC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("line")
    header = {
        "family": "voc",
        "config": dataclasses.asdict(net.config),
        "tokenizer": {"kind": "flat", **dataclasses.asdict(TOKENIZER)},
        "step": 250,
    }
    checkpoint.write(folder / checkpoint.MODEL, net.state_dict(), header)
    write(folder / "data", EPISODES, 8.0, {"world": "line"})
    return folder


SMALL = Fitting(steps=60, batch=64, lr=3e-3, states=48, num=4, draws=8, expectile=0.5)
act = partial(
    control_command, how="critic", episodes=3, decisions=None, gamma=None, proposals=None, draws=4, horizon=2, seed=0,
    json=True,
)  # fmt: skip


@pytest.fixture
def gym_line() -> str:
    """The line as an environment of gymnasium."""
    gymnasium = pytest.importorskip("gymnasium")

    class Env(gymnasium.Env):
        metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 8}
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)

        def __init__(self, render_mode: str | None = None):
            self.line, self.render_mode = Line(), render_mode

        def reset(self, *, seed: int | None = None, options: dict | None = None):
            self.line.reset(seed or 0)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            _, reward, _ = self.line.step(action)
            return np.zeros(1, np.float32), reward, False, False, {}

        def render(self):
            return self.line.look()

    if "Line-v0" not in gymnasium.registry:
        gymnasium.register("Line-v0", entry_point=Env, disable_env_checker=True, order_enforce=False)
    return "gym:Line-v0"


def test_fit_and_act(trained: Path, gym_line: str, capsys: pytest.CaptureFixture) -> None:
    assert fit_command(str(trained), trained / "data", None, SMALL, True) == 0
    fitted = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fitted["states"] == 48 and Path(fitted["out"]) == trained / CONTROLLER
    assert act(str(trained), gym_line) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    rows = {row["name"]: row for row in report["rows"]}
    assert report["decisions"] == 30 and set(rows) == {"critic", "behaviour", "random", "data: coin"}
    assert rows["data: coin"]["returns"]["n"] == len(EPISODES)
    mean = np.mean([one.rewards.sum() for one in EPISODES])
    assert rows["data: coin"]["returns"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert rows["critic"]["returns"]["low"] > rows["behaviour"]["returns"]["mean"]
    assert report["above"]["behaviour"]["low"] > 0 and report["above"]["the data's mean"]["low"] > 0
    assert rows["critic"]["share"] is None  # nothing is scripted in it
    assert any("critic is above behaviour by" in line for line in lines)
    assert act(str(trained), gym_line, how="mpc", episodes=1, decisions=2) == 0
    assert act(str(trained), gym_line, how="improve", episodes=1, decisions=2, proposals=2) == 0


def test_an_interrupted_run_shows_what_is_done(
    trained: Path, gym_line: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (trained / CONTROLLER).is_file():
        fit_command(str(trained), trained / "data", None, SMALL, True)
    whole, asked = control.episode_return, []

    def some(*args):
        asked.append(args)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(control, "episode_return", some)
    capsys.readouterr()
    assert act(str(trained), gym_line, decisions=3) == 130
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["interrupted"] and report["rows"][0]["returns"]["n"] == 2


def test_the_command_refuses_in_one_line(
    trained: Path, gym_line: str, tiny_checkpoint: Path, net: voc.VOC, tmp_path: Path
) -> None:
    if not (trained / CONTROLLER).is_file():
        fit_command(str(trained), trained / "data", None, SMALL, True)
    other = tmp_path / "other"
    header = json.loads(json.dumps(checkpoint.read_about(trained / checkpoint.MODEL)))
    changed = {name: value + 0.1 if value.is_floating_point() else value for name, value in net.state_dict().items()}
    checkpoint.write(other / checkpoint.MODEL, changed, header)
    alone = tmp_path / "alone"
    checkpoint.write(alone / checkpoint.MODEL, net.state_dict(), header)
    checkpoint.write(other / CONTROLLER, *checkpoint.read(trained / CONTROLLER))
    mute_net = voc.VOC(dataclasses.replace(net.config, actions=0), Flat(TOKENIZER))
    mute = tmp_path / "mute"
    checkpoint.write(mute / checkpoint.MODEL, mute_net.state_dict(), {**header, "config": vars(mute_net.config)})
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: act(str(trained), "cartpol"), "no control task cartpol: did you mean cartpole"),
        (lambda: act(str(trained), gym_line, how="guess"), "--how is one of behaviour, improve, critic, mpc"),
        (lambda: act(str(trained), gym_line, episodes=0), "--episodes 0"),
        (lambda: act(str(trained), gym_line, gamma=0.99), "learnt those from 0 to 0.8"),
        (lambda: act(str(tiny_checkpoint), gym_line), "of the family mcvd: only voc"),
        (lambda: act(str(mute), gym_line), "told no actions"),
        (lambda: act(str(alone), gym_line), "fit-actor .* makes it"),
        (lambda: act(str(other), gym_line), "fitted to another model"),
        (lambda: act(str(trained), "gym:Nowhere-v0"), "cannot be made"),
        (lambda: fit_command(str(trained), tmp_path / "none", None, SMALL, False), "no such file or folder"),
        (lambda: fit_command(str(trained), trained / "data", 0.0, SMALL, False), "--minutes 0"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
