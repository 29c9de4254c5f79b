"""The protocol of values: what a return is, which states are judged, and rows whose numbers are known."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import torch

from maskworld import returns
from maskworld.clip import of_uint8
from maskworld.data.episodes import Episode
from maskworld.data.toys import STRIKE, Chain, Clock
from maskworld.papers import voc
from maskworld.returns import Asked, Outcome, Subject
from maskworld.tokenizers.flat import Config, Flat

GAMMAS = (0.0, 0.8, 0.9)


def flat_net(gammas: tuple[float, ...] = GAMMAS, size: int = 16, stack: int = 1, **changes) -> voc.VOC:
    """Random weights over the codes of a toy."""
    torch.manual_seed(0)
    tokenizer = Flat(Config(size))
    config = voc.of_tokenizer(voc.tiny(gammas=gammas, stack=stack, ends=False, **changes), tokenizer)
    return voc.VOC(config, tokenizer).eval()


def exact_net(chain: Chain, gammas: tuple[float, ...] = GAMMAS) -> voc.VOC:
    """A model that draws what the chain really does, and knows its rewards."""
    net = flat_net(gammas)
    grid = torch.from_numpy(chain.digits(np.arange(chain.states)).reshape(chain.states, -1))
    rewards = torch.from_numpy(chain.rewards).float()

    def read(states: torch.Tensor) -> torch.Tensor:
        return (states[..., None, :] == grid).all(-1).long().argmax(-1)

    @functools.cache
    def reached(gamma: float) -> torch.Tensor:
        return torch.from_numpy(np.cumsum(chain.occupancy(gamma), axis=1)[:, :-1])

    def draw(state, told, uniform, **_):
        (gamma,) = {round(one, 6) for one in told[:, 0, 0].tolist()}
        return grid[(uniform[:, :, :1] >= reached(gamma)[read(state)][:, None]).sum(-1)], None

    net.occupancy.told = lambda told: told.gamma[:, None]  # type: ignore[method-assign]
    net.occupancy.lm.draw = draw  # type: ignore[method-assign]
    net.rewards = lambda states: rewards[read(states)]  # type: ignore[method-assign]
    return net


def steady(length: int, reward: float, num: int = 4, terminal: bool = False) -> list[Episode]:
    """Episodes of the chain in which every step brings the same."""
    made = Chain(8).episodes(num, length, seed=1)
    given = np.full(length, reward, np.float32)
    given[0] = 0
    return [dataclasses.replace(episode, rewards=given, terminal=terminal) for episode in made]


# -- returns --------------------------------------------------------------------------------------


def test_a_reward_counts_from_the_frame_before_it_on() -> None:
    rewards = np.array([0, 1, 2, 4.0])
    assert returns.discounted(rewards, 0.5).tolist() == [3, 4, 4, 0]
    for t in range(1, 4):
        more = rewards.copy()
        more[t] += 1
        change = returns.discounted(more, 0.5) - returns.discounted(rewards, 0.5)
        assert change.tolist() == [0.5 ** (t - 1 - i) if i < t else 0 for i in range(4)]
    assert returns.discounted(rewards, 0.0).tolist() == [1, 2, 4, 0]


@pytest.mark.parametrize("gamma", [0.0, 0.8, 0.99])
def test_a_constant_reward_is_worth_as_much_at_every_frame(gamma: float) -> None:
    rewards = np.array([0.0] + [3.0] * 9)
    found = returns.true_returns(rewards, gamma, terminal=False)
    assert found[:-1] == pytest.approx(3 / (1 - gamma))
    assert math.isnan(found[-1])
    assert returns.true_returns(rewards, gamma, terminal=True)[-1] == 0  # all is over
    assert returns.true_returns(rewards, gamma, terminal=True)[-2] == 3


def test_the_clock_is_exact_wherever_whole_strokes_are_left() -> None:
    clock, length = Clock(64), 100
    (episode,) = clock.episodes(1, length, seed=3)
    start = int(clock.time_of(of_uint8(torch.from_numpy(episode.frames[:1])).frames)[0, 0, 0])
    for gamma in (0.8, 0.95):
        found = returns.true_returns(episode.rewards, gamma, False)
        for t in range((length - 1) % STRIKE, length - 1, STRIKE):
            assert found[t] == pytest.approx(clock.values(gamma)[(start + t) % 64], rel=1e-9)


def test_the_chain_is_met_in_the_mean() -> None:
    chain, gamma = Chain(8, seed=6), 0.8
    rng, early = np.random.default_rng(0), []
    for state in (0, 3, 5, 7):
        paths = [chain.walk(state, 1 + returns.frames_left(gamma, 1000), rng) for _ in range(300)]
        found = np.array([returns.true_returns(chain.rewards[path], gamma, False)[0] for path in paths])
        error = found.std() / math.sqrt(len(found))
        assert abs(found.mean() - chain.values(gamma)[state]) < 4 * error + 0.01 * found.mean()
        early.append(abs(found.mean() - gamma * chain.values(gamma)[state] - chain.rewards[state]) / error)
    assert max(early) > 10  # counted from the state's own reward on, it would be another number


@pytest.mark.parametrize(("gamma", "frames"), [(0.8, 21), (0.9, 44), (0.99, 459), (0.0, 1)])
def test_one_per_cent_at_most_is_beyond_the_end(gamma: float, frames: int) -> None:
    assert returns.frames_left(gamma, 5000) == frames
    assert gamma**frames <= 0.01
    assert returns.frames_left(gamma, 5000, terminal=True) == 1
    assert returns.frames_left(gamma, 21) == min(frames, 10)


# -- states ---------------------------------------------------------------------------------------


def test_states_are_spread_over_episodes_and_have_enough_left() -> None:
    of = [Outcome(np.zeros(n), ended) for n, ended in ((100, False), (60, False), (30, True))]
    chosen = returns.starts(of, 0.8, 50)
    assert len(set(chosen)) == 50
    assert {start.episode for start in chosen} == {0, 1, 2}
    for number, frame in chosen:
        left = len(of[number].rewards) - 1 - frame
        assert left >= (1 if of[number].terminal else 21)
    every = returns.starts(of, 0.8, 10_000)
    assert len(every) == 79 + 39 + 29
    assert every[-1] == (2, 28)


@pytest.mark.parametrize("stack", [1, 3])
def test_states_are_those_of_the_clip_however_they_are_cut(monkeypatch, stack: int) -> None:
    net = flat_net(stack=stack)
    frames = Chain().episodes(1, 20, 0)[0].frames
    whole = voc.states_of(net, of_uint8(torch.from_numpy(frames)))[0]
    monkeypatch.setattr(returns, "_FRAMES", 7)
    assert torch.equal(returns.states_along(net, frames), whole)
    codes = whole[:, -4:].reshape(20, 2, 2, 1).to(torch.int32).numpy()
    assert torch.equal(returns.states_along(net, codes), whole)


def test_a_state_is_drawn_from_as_if_alone(monkeypatch) -> None:
    subject = Subject(flat_net())
    subject.net.reward_std.fill_(1.0)
    torch.nn.init.normal_(subject.net.reward[-1].weight)  # type: ignore[arg-type]
    states = returns.states_along(subject.net, Chain().episodes(1, 6, 0)[0].frames)
    together = returns.values(subject, states, [""] * 6, 0.8, 4, seed=5)
    monkeypatch.setattr(returns, "_ROWS", 8)
    done: list[int] = []
    apart = returns.values(subject, states, [""] * 6, 0.8, 4, seed=5, on_done=done.append)
    assert done == [2, 2, 2]
    assert together.value == pytest.approx(apart.value, rel=1e-4)
    assert together.value.std() > 0
    other = returns.values(subject, states, [""] * 6, 0.8, 4, seed=6)
    assert np.abs(other.value - together.value).max() > 1e-3


def test_a_policy_is_told_by_its_name() -> None:
    net = flat_net(actions=2, policies=2)
    told = Subject(net, ("good", "bad")).told(0.9, ["bad", "", "good"])
    assert told.does is not None
    assert told.gamma.tolist() == pytest.approx([0.9] * 3)
    assert told.does[:, :2].isnan().all()
    assert told.does[[0, 2], 2:].tolist() == [[0, 1], [1, 0]]
    assert told.does[1].isnan().all()
    assert Subject(flat_net()).told(0.9, ["bad"]).does is None
    with pytest.raises(ValueError, match="2 policies, of which 1"):
        Subject(net, ("good",))


# -- rows -----------------------------------------------------------------------------------------


def test_a_row_says_what_numpy_says() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    found = truth + 0.5 + 0.3 * rng.normal(size=60)
    row = returns.judged("model", found, truth, [i // 6 for i in range(60)])
    assert row.bias.mean == pytest.approx((found - truth).mean())
    assert row.rmse.mean == pytest.approx(math.sqrt(((found - truth) ** 2).mean()))
    assert row.correlation.mean == pytest.approx(np.corrcoef(found, truth)[0, 1])
    assert row.bias.low < row.bias.mean < row.bias.high
    assert row.rmse.low < row.rmse.mean < row.rmse.high
    assert row.correlation.low < row.correlation.mean <= row.correlation.high <= 1
    assert row.bias.n == row.correlation.n == 10
    lone = returns.judged("model", found, truth, [0] * 60)
    assert math.isnan(lone.bias.low)
    assert math.isnan(lone.correlation.high)
    assert lone.correlation.mean == pytest.approx(row.correlation.mean)
    assert math.isnan(returns.judged("constant", np.full(60, 0.1), truth, [0] * 60).correlation.mean)


def test_whole_episodes_are_drawn_again() -> None:
    truth = np.zeros(100)
    found = np.repeat([1.0, -1.0, 2.0, -2.0], 25)
    by_episode = returns.judged("model", found, truth, np.repeat(range(4), 25).tolist()).bias
    by_state = returns.judged("model", found, truth, list(range(100))).bias
    assert by_episode.high - by_episode.low > 3 * (by_state.high - by_state.low)


# -- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [120, 12])
def test_a_constant_reward_is_exact_in_every_row(length: int) -> None:
    net = flat_net()
    net.begin(torch.full((10,), 2.5), bootstraps=False)
    subject, held = Subject(net), steady(length, 2.5)
    asked = Asked(subject, subject, subject, steps=4, states=5, samples=2)
    before = returns.outcomes(held)
    for judged in returns.evaluate(asked, held, before, (0.8, 0.9)):
        scale = 2.5 / (1 - judged.gamma)
        assert judged.mean == pytest.approx(scale)
        assert judged.std == pytest.approx(0, abs=1e-9)
        names = [row.name.split(" x ")[0] for row in judged.rows]
        assert names == ["model", "Monte Carlo", "one step", "oracle reward", "mean of the training data"]
        for row in judged.rows:
            assert row.bias.mean == pytest.approx(0, abs=2e-5 * scale), row.name
            assert row.rmse.mean == pytest.approx(0, abs=2e-5 * scale), row.name
            assert math.isnan(row.correlation.mean)
        assert judged.missing == pytest.approx(max(judged.gamma ** (length // 2 - 1), 0), abs=0.3)


def test_where_episodes_end_for_good_nothing_is_corrected() -> None:
    net = flat_net()
    net.begin(torch.full((10,), 1.0), bootstraps=False)
    held = steady(8, 1.0, terminal=True)
    (judged,) = returns.evaluate(Asked(Subject(net), samples=2), held, returns.outcomes(held), (0.9,))
    assert judged.ended == judged.episodes == 4
    assert judged.missing == 0
    assert judged.states == 4 * 7
    truth = np.mean([(1 - 0.9**left) / 0.1 for left in range(1, 8)])
    assert judged.mean == pytest.approx(truth)
    rows = {row.name: row for row in judged.rows}
    assert rows["model"].bias.mean == pytest.approx(10 - truth, abs=1e-4)  # it does not know of ends
    assert rows["oracle reward"].rmse.mean == pytest.approx(0, abs=1e-5)
    assert rows["mean of the training data"].bias.mean == pytest.approx(0, abs=1e-9)


def test_a_model_that_draws_the_truth_has_no_bias() -> None:
    chain = Chain(8, seed=6)
    subject = Subject(exact_net(chain))
    states = returns.states_along(subject.net, chain.frames(np.arange(8)))
    for gamma in (0.8, 0.9):
        exact = chain.values(gamma)
        found = returns.values(subject, states, [""] * 8, gamma, 500)
        assert (np.abs(found.value - exact) < 4.5 * found.error).all()
        assert found.error.max() < 0.1 * exact.std() / (1 - gamma)
        assert (found.ended == 0).all()
        steps = returns.steps_of(gamma)
        assert gamma**steps <= 0.05 < gamma ** (steps - 1)
        far = returns.unrolled_values(subject, states, gamma, 3 * steps, 60)
        assert (np.abs(far.value - exact) < 4.5 * far.error + 0.001 * exact).all()
    found = returns.values(subject, states, [""] * 8, 0.0, 400)
    assert np.abs(found.value - chain.transitions @ chain.rewards).max() < 4.5 * found.error.max()


def test_the_table_knows_a_model_that_draws_the_truth() -> None:
    chain = Chain(8, seed=6)
    subject = Subject(exact_net(chain))
    held, before = chain.episodes(12, 100, 0), returns.outcomes(chain.episodes(12, 100, 1))
    asked = Asked(subject, one_step=subject, states=120, samples=200)
    (judged,) = returns.evaluate(asked, held, before, (0.8,))
    rows = {row.name.split(" x ")[0]: row for row in judged.rows}
    assert rows["oracle reward"].rmse.mean == pytest.approx(0, abs=1e-5)
    assert rows["oracle reward"].correlation.mean == pytest.approx(1)
    assert rows["model"].rmse.mean < rows["mean of the training data"].rmse.mean
    assert rows["model"].correlation.mean > 0.3
    assert abs(rows["model"].bias.mean) < 0.2 * judged.std + rows["model"].rmse.mean / 3
    assert rows["model"].seconds is not None
    assert rows["one step"].seconds is not None
    assert rows["one step"].seconds > rows["model"].seconds > 0
    assert returns.mean_return(before, 0.8) == pytest.approx(rows["mean of the training data"].bias.mean + judged.mean)
    text = returns.as_table(judged)
    assert "one step x 14" in text
    assert "at most 0.92 %" in text
    held_json = json.loads(json.dumps(returns.as_dict(judged), allow_nan=False))
    assert held_json["rows"]["model"]["bias"]["mean"] == rows["model"].bias.mean
    assert held_json["rows"]["mean of the training data"]["correlation"]["mean"] is None


def test_a_reward_that_comes_late_shows() -> None:
    """Rewards told of the state that is left, and not of the one that is reached, are another return."""
    chain = Chain(8, seed=6)
    net = exact_net(chain)
    held = chain.episodes(3, 120, 0)
    late = [dataclasses.replace(e, rewards=np.concatenate([[0], e.rewards[:-1]]).astype(np.float32)) for e in held]
    asked = Asked(Subject(net), states=40, samples=2)
    (wrong,) = returns.evaluate(asked, late, returns.outcomes(late), (0.8,))
    (right,) = returns.evaluate(asked, held, returns.outcomes(held), (0.8,))
    assert right.rows[1].rmse.mean == pytest.approx(0, abs=1e-5)
    assert wrong.rows[1].rmse.mean > 0.1


# -- bad input ------------------------------------------------------------------------------------


def test_bad_input() -> None:
    net = flat_net()
    with pytest.raises(ValueError, match="at least 0 and below 1, not 1"):
        returns.discounted(np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="1 or more states"):
        returns.starts([Outcome(np.zeros(9), False)], 0.9, 0)
    with pytest.raises(ValueError, match="1 or more draws"):
        returns.values(Subject(net), torch.zeros(1, 4, dtype=torch.long), [""], 0.9, 0)
    with pytest.raises(ValueError, match="no mean return"):
        returns.mean_return([], 0.9)
    with pytest.raises(ValueError, match=r"has not learnt the discount 0, but 0\.8"):
        Asked(Subject(net), one_step=Subject(flat_net((0.8,))))
    with pytest.raises(ValueError, match="1 or more steps"):
        Asked(Subject(net), steps=0)
    with pytest.raises(ValueError, match="this model sees one view of 1 x 16 x 16"):
        returns.states_along(net, np.zeros((3, 8, 8, 3), np.uint8))
