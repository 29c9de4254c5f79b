"""Video occupancy models: what is to be written, the objective, values; and a chain whose occupancy is known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from maskworld.clip import Clip, example
from maskworld.masks import past_and_future
from maskworld.noise import Rng, mix
from maskworld.papers import voc

VOCAB, GRID, NUM = 16, (1, 2), 2  # tokens of a frame


class Codes(nn.Module):
    """Stands for a tokenizer: frames are codes already. A code's vector is one-hot."""

    def __init__(self, vocab: int = VOCAB):
        super().__init__()
        self.vocab, self.grid, self.size, self.channels, self.dim, self.paints = vocab, GRID, 2, 1, vocab, False

    def vectors(self, codes: Tensor) -> Tensor:
        return nn.functional.one_hot(codes, self.vocab).float()


def net(seed: int = 0, bootstraps: bool = True, vocab: int = VOCAB, **changes) -> voc.VOC:
    """With weights that all speak, and a target that is not the network."""
    torch.manual_seed(seed)
    fields: dict[str, Any] = {"size": 2, "channels": 1, "vocab": vocab, "grid": GRID, "dim_code": vocab, "dim": 32}
    made = voc.VOC(voc.tiny(**fields | {"gammas": (0.8,), **changes}), Codes(vocab))
    made.begin(torch.tensor([0.0, 1.0]), bootstraps)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return made.eval()


def clip(b: int, t: int, **fields) -> Clip:
    """Frame i is (i, i + 1): the codes tell which frame it is."""
    codes = torch.arange(t)[:, None] + torch.arange(NUM)
    frames = codes.float()[None, None, :, None, None].expand(b, 1, t, 1, 1, NUM)
    return Clip(frames, **{"times": torch.arange(t).expand(b, t), **fields})


def ended(one: Clip, at: int, for_good: bool) -> Clip:
    """As if the episode ended with frame `at`, which then stands there again, with its own time."""
    last = torch.arange(one.shape[2]).clamp(max=at)
    discounts = torch.ones(one.times.shape)
    discounts[:, at:] = 0.0 if for_good else 1.0
    actions = one.actions
    if actions is not None:
        actions = actions[:, last].clone()
        actions[:, at:] = torch.nan
    return dataclasses.replace(
        one, frames=one.frames[:, :, last], times=one.times[:, last], discounts=discounts, actions=actions
    )


def told(b: int, gamma: float, does: Tensor | None = None) -> voc.Told:
    return voc.Told(torch.full((b,), gamma), does)


DRAWN = VOCAB - 1
"""What the false target writes, in every place."""


class Target(nn.Module):
    """Stands for the slow copy: it writes always the same, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.states: list[Tensor] = []
        self.told_of: list[voc.Told] = []
        self.modes: list[bool] = []
        self.asked: list[dict] = []

    @property
    def lm(self) -> Target:
        return self

    def told(self, told: voc.Told) -> None:
        self.told_of.append(told)

    def draw(self, state: Tensor, extra: None, uniform: Tensor, **asked) -> tuple[Tensor, Tensor | None]:
        self.states.append(state)
        self.modes.append(self.training)
        self.asked.append(asked)
        b, n = state.shape
        assert uniform.shape == (b, 1, n)
        logits = torch.ones(b, 1, n, VOCAB) if asked["keep_logits"] else None
        return torch.full((b, 1, n), DRAWN), logits


def falsely(made: voc.VOC) -> Target:
    made.target = Target()  # type: ignore[assignment]
    return made.target  # type: ignore[return-value]


# -- delays and stacks --------------------------------------------------------------------------------


def test_delays_are_geometric() -> None:
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    for gamma in (0.3, 0.8, 0.95):
        k = voc.delays(torch.full((n,), gamma), uniform)
        p = (1 - gamma) * gamma ** torch.arange(12, dtype=torch.float64)
        count = torch.tensor([int((k == i).sum()) for i in range(12)] + [int((k >= 12).sum())]).double()
        assert stats.chisquare(count, n * torch.cat([p, 1 - p.sum()[None]])).pvalue > 1e-3
        assert abs(k.double().mean() * (1 - gamma) / gamma - 1) < 0.05
    zero = voc.delays(torch.zeros(3), torch.tensor([0.0, 0.5, 1 - 2.0**-24]))
    assert zero.tolist() == [0, 0, 0]


def test_delays_below_a_limit_are_those_that_fall_there() -> None:
    n, gamma = 20_000, 0.9
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(1))
    for limit in (1, 2, 5):
        k = voc.delays(torch.full((n,), gamma), uniform, torch.full((n,), limit))
        p = gamma ** torch.arange(limit, dtype=torch.float64)
        count = torch.bincount(k, minlength=limit).double()
        assert len(count) == limit
        assert limit == 1 or stats.chisquare(count, n * p / p.sum()).pvalue > 1e-3
    edges = voc.delays(torch.full((2,), gamma), torch.tensor([0.0, 1 - 2.0**-24]), torch.full((2,), 5))
    assert edges.tolist() == [4, 0]
    assert voc.delays(torch.zeros(2), torch.tensor([0.0, 0.9]), torch.tensor([1, 3])).tolist() == [0, 0]


def test_a_state_is_its_frames_from_the_oldest_to_the_newest() -> None:
    codes = torch.arange(24).reshape(2, 4, 3)
    found = voc.stacked(codes, torch.tensor([1, 3]), 2)
    assert found.tolist() == [[0, 1, 2, 3, 4, 5], [18, 19, 20, 21, 22, 23]]
    with pytest.raises(AssertionError, match="begins before"):
        voc.stacked(codes, torch.tensor([0, 3]), 2)
    states = voc.states_of(net(stack=3), clip(1, 3))
    assert states[0].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 1, 2], [0, 1, 1, 2, 2, 3]]


# -- what is to be written ----------------------------------------------------------------------------


def shares(made: voc.VOC, td: voc.TD, one: Clip, gamma: float) -> tuple[dict[str, int], voc.Written]:
    """How often each frame is to be written, a draw of the model, or the end; every row being the same."""
    b = one.shape[0]
    found = voc.written(made, td, one, told(b, gamma), Rng.of(11, batch=b))
    newest = found.tokens[:, -NUM:]
    assert torch.equal(found.drawn, (found.tokens == DRAWN).all(1))
    names = {f"frame {i}": [i, i + 1] for i in range(one.shape[2])}
    names |= {"drawn": [DRAWN, DRAWN], "end": [VOCAB, VOCAB]}
    count = {name: int((newest == torch.tensor(tokens)).all(1).sum()) for name, tokens in names.items()}
    assert sum(count.values()) == b
    return count, found


def check_shares(count: dict[str, int], want: dict[str, float]) -> None:
    """Chi-square; what is not named in `want` must not occur."""
    assert abs(sum(want.values()) - 1) < 1e-9
    assert {name for name, n in count.items() if n} == set(want)
    total = sum(count.values())
    if len(want) > 1:
        observed = [count[name] for name in want]
        assert stats.chisquare(observed, [total * p for p in want.values()]).pvalue > 1e-3, (count, want)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("stack", [1, 2])
def test_n_steps_are_real_and_then_the_model_goes_on(steps: int, stack: int) -> None:
    """Frame k ahead with probability (1 - g) g^(k - 1), up to n; with g^n a draw from where the n-th frame stands."""
    g, b, last = 0.7, 1500, stack - 1
    made = net(stack=stack)
    target = falsely(made)
    count, found = shares(made, voc.TD(steps=steps), clip(b, 8), g)
    want = {f"frame {last + 1 + k}": (1 - g) * g**k for k in range(steps)}
    check_shares(count, want | {"drawn": g**steps})
    (states,), (asked,) = target.states, target.told_of
    assert len(states) == count["drawn"] == len(asked.gamma)
    assert (states == voc.states_of(made, clip(1, 8))[0, last + steps]).all(), "the draw goes on from another state"
    assert (asked.gamma == torch.tensor(g)).all() and asked.does is None
    # a real state is as it stood in the episode, its older frames too
    for k in range(steps):
        rows = (found.tokens[:, -NUM:] == torch.tensor([last + 1 + k, last + 2 + k])).all(1)
        assert (found.tokens[rows] == voc.states_of(made, clip(1, 8))[0, last + 1 + k]).all()


def test_no_discount_is_one_step_ahead_and_nothing_is_drawn() -> None:
    made = net(gammas=(0.0,))
    made.target = None
    for td in (voc.TD(steps=1), voc.TD(steps=3, loss="sample"), voc.TD(steps=None)):
        count, found = shares(made, td, clip(50, 5), 0.0)
        assert count["frame 1"] == 50 and found.logits is None and not found.drawn.any()


def test_monte_carlo_takes_all_that_there_is() -> None:
    """Beyond the clip it is drawn again: the geometric times that fall within it. No target is asked."""
    g, b = 0.8, 1500
    made = net(bootstraps=False)
    assert made.target is None
    count, found = shares(made, voc.TD(steps=None), clip(b, 6), g)
    left = 1 - g**5
    check_shares(count, {f"frame {1 + k}": (1 - g) * g**k / left for k in range(5)})
    assert found.logits is None


@pytest.mark.parametrize("steps", [1, 2, 4, None])
@pytest.mark.parametrize("for_good", [True, False])
def test_where_an_episode_ends(steps: int | None, for_good: bool) -> None:
    """Two real frames after the state. What comes after the end is the end; after a time limit the model goes on from
    the last frame, and Monte Carlo draws again. Frames that stand there again are never written."""
    g, b = 0.7, 1500
    made = net()
    target = falsely(made)
    if steps is None:
        made.target = None
    one = ended(clip(b, 7), 2, for_good)
    count, _ = shares(made, voc.TD(steps=steps), one, g)
    real = min(steps or 2, 2)
    want = {f"frame {1 + k}": (1 - g) * g**k for k in range(real)}
    if steps is None and not for_good:
        want = {name: p / (1 - g**2) for name, p in want.items()}
    elif steps == 1 or not for_good:
        want["drawn"] = g**real
    else:
        want["end"] = g**2
    check_shares(count, want)
    if "drawn" in want:
        assert (target.states[0] == torch.tensor([real, real + 1])).all()


def test_all_rows_end_where_the_next_frame_is_the_last() -> None:
    made = net()
    falsely(made)
    one = ended(clip(400, 4), 1, for_good=True)
    for steps in (1, 3):
        check_shares(shares(made, voc.TD(steps=steps), one, 0.7)[0], {"frame 1": 0.3, "end": 0.7})
    # ... where ends cannot be written, the last state is where it goes on
    made = net(ends=False)
    falsely(made)
    check_shares(shares(made, voc.TD(steps=3), one, 0.7)[0], {"frame 1": 0.3, "drawn": 0.7})
    with pytest.raises(ValueError, match="no frame after it"):
        shares(made, voc.TD(), ended(clip(2, 4), 0, for_good=True), 0.7)


def test_each_row_has_its_own_end_and_its_own_discount() -> None:
    b, g = 1200, torch.tensor([0.5, 0.9])
    made = net(gammas=(0.5, 0.9))
    target = falsely(made)
    two = [ended(clip(1, 5), 1, True), clip(1, 5, discounts=torch.ones(1, 5))]
    both = dataclasses.replace(
        two[0], **{n: torch.cat([getattr(c, n) for c in two]) for n in ("frames", "times", "discounts")}
    )
    many = example(both, [i % 2 for i in range(2 * b)])
    found = voc.written(made, voc.TD(steps=2), many, voc.Told(g.repeat(b)), Rng.of(5, batch=2 * b))
    ends, drawn = (found.tokens == VOCAB).all(1), found.drawn
    assert not ends[1::2].any() and not drawn[0::2].any()
    for share, p in ((ends[0::2], 0.5), (drawn[1::2], 0.81)):
        assert abs(share.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / b)
    assert (target.told_of[0].gamma == 0.9).all() and (target.states[0] == torch.tensor([2, 3])).all()


def test_the_bootstrap_is_told_what_is_done_where_it_goes_on() -> None:
    """SARSA: the action of the state from which it goes on, not of the first; untold where the first was, or where the
    episode does not say."""
    b, t, s = 64, 7, 2
    actions = torch.arange(t * 2.0).reshape(1, t, 2).expand(b, t, 2)
    made = net(stack=s, actions=2, gammas=(0.9,))
    for steps in (1, 3):
        one = clip(b, t, actions=actions)
        does = actions[:, s - 1].clone()
        does[::2] = torch.nan
        target = falsely(made)
        found = voc.written(made, voc.TD(steps=steps), one, told(b, 0.9, does), Rng.of(0, batch=b))
        asked = target.told_of[0].does
        assert asked is not None and found.drawn.sum() == len(asked) > 10
        want = actions[:, s - 1 + steps].clone()
        want[::2] = torch.nan
        torch.testing.assert_close(asked, want[found.drawn], equal_nan=True)
    target = falsely(made)
    stopped = ended(clip(b, t, actions=actions), 3, for_good=False)
    voc.written(made, voc.TD(steps=4), stopped, told(b, 0.9, actions[:, s - 1]), Rng.of(0, batch=b))
    asked = target.told_of[0].does
    assert asked is not None and asked.isnan().all()


def test_an_action_and_a_policy_are_told_one_by_one() -> None:
    """The action changes on the way, the policy is the row's; each is told, or not, as the row was."""
    b = 64
    actions = torch.cat([torch.arange(5.0)[:, None], torch.tensor([0.0, 1.0]).expand(5, 2)], dim=1).expand(b, 5, 3)
    does = actions[:, 0].clone()
    does[:20, 0], does[10:30, 1:] = torch.nan, torch.nan
    made = net(actions=1, policies=2, gammas=(0.9,))
    target = falsely(made)
    found = voc.written(made, voc.TD(steps=2), clip(b, 5, actions=actions), told(b, 0.9, does), Rng.of(0, batch=b))
    asked, rows = target.told_of[0].does, found.drawn
    assert asked is not None
    want = actions[:, 2].clone()
    want[:20, 0], want[10:30, 1:] = torch.nan, torch.nan
    torch.testing.assert_close(asked, want[rows], equal_nan=True)


def test_the_target_of_a_row_does_not_depend_on_the_batch() -> None:
    b, made = 12, net(stack=2, gammas=(0.9,))
    codes = torch.randint(0, VOCAB, (b, 1, 5, 1, 1, NUM), generator=torch.Generator().manual_seed(0)).float()
    one = Clip(codes, torch.arange(5).expand(b, 5))
    for td in (voc.TD(steps=2), voc.TD(steps=1, loss="sample")):
        all_ = voc.written(made, td, one, told(b, 0.9), Rng.of(3, batch=b))
        assert 0 < all_.drawn.sum() < b
        for i in range(b):
            alone = voc.written(made, td, example(one, [i]), told(1, 0.9), Rng.of(3, batch=b)[[i]])
            assert torch.equal(alone.tokens[0], all_.tokens[i])
            if all_.logits is not None and alone.logits is not None:
                torch.testing.assert_close(alone.logits[0], all_.logits[i], atol=1e-5, rtol=1e-5)


def test_only_rows_that_go_on_are_drawn() -> None:
    made = net()
    target = falsely(made)
    found = voc.written(made, voc.TD(steps=1), clip(200, 3), told(200, 0.6), Rng.of(0, batch=200))
    assert len(target.states[0]) == int(found.drawn.sum()) < 160
    assert found.logits is not None
    assert (found.logits[found.drawn] == 1).all() and (found.logits[~found.drawn] == 0).all()


@pytest.mark.parametrize("mode", [True, False])
def test_the_target_has_dropout_only_where_it_is_asked_for(mode: bool) -> None:
    made = net().train(mode)
    target = falsely(made)
    target.train()
    for dropout in (False, True):
        td = voc.TD(steps=1, loss="sample", dropout=dropout, top_k=3, temperature=0.5)
        voc.written(made, td, clip(9, 3), told(9, 0.8), Rng.of(0, batch=9))
        assert not target.training
    assert target.modes == [False, True]
    assert target.asked[0]["top_k"] == 3 and target.asked[0]["temperature"] == 0.5
    real = net().train()
    assert real.target is not None and not real.target.training and not real.tokenizer.training


def test_faults_of_the_draw_have_no_whole_distribution() -> None:
    for faults in ({"temperature": 0.9}, {"top_k": 2}):
        with pytest.raises(ValueError, match="exact draw"):
            voc.TD(**faults)
    for wrong in ({"steps": 0}, {"tau": 0.0}, {"tau": 1.1}):
        with pytest.raises(ValueError):
            voc.TD(**wrong)


# -- objective ----------------------------------------------------------------------------------------


def ask(made: voc.VOC, td: voc.TD, one: Clip, seed: int = 0) -> dict[str, Tensor]:
    b = one.shape[0]
    known = past_and_future(made.config.stack, one.shape[2] - made.config.stack, 0, b)
    return voc.objective(td)(made, one, known, Rng.of(seed, batch=b)).terms


def test_the_loss_is_the_cross_entropy_of_what_is_written() -> None:
    """With a discount of 0 that is the next state, after the state that is known."""
    made, one = net(stack=2, gammas=(0.0,), bootstraps=False), clip(3, 5)
    terms = ask(made, voc.TD(steps=1), one)
    states = voc.states_of(made, one)
    logits, own = made.occupancy(states[:, 1], told(3, 0.0), states[:, 2])
    want = nn.functional.cross_entropy(logits.transpose(1, 2), states[:, 2], reduction="none").mean(1)
    assert list(terms) == ["occupancy"] and own is None
    torch.testing.assert_close(terms["occupancy"], want)


def test_the_state_is_not_asked_and_what_comes_is_not_shown() -> None:
    made, one = net(gammas=(0.0,), bootstraps=False), clip(3, 5)
    loss = ask(made, voc.TD(steps=1), one)["occupancy"]
    for t, matters in ((0, True), (1, True), (2, False), (4, False)):
        frames = one.frames.clone()
        frames[:, :, t] = 9
        moved = (ask(made, voc.TD(steps=1), dataclasses.replace(one, frames=frames))["occupancy"] - loss).abs()
        assert bool((moved > 1e-4).all()) == matters and (matters or moved.max() == 0)


def test_both_losses_are_the_same_in_the_mean_and_one_has_less_variance() -> None:
    b = 1500
    made, one = net(gammas=(0.97,)), clip(b, 3)
    with torch.no_grad():
        sample = ask(made, voc.TD(steps=1, loss="sample"), one)["occupancy"]
        whole = ask(made, voc.TD(steps=1), one)["occupancy"]
    difference = sample - whole
    assert abs(difference.mean()) < 3 * difference.std() / math.sqrt(b)
    assert whole.std() < 0.7 * sample.std()


def test_the_whole_distribution_is_that_of_the_target() -> None:
    """Rows that were drawn have the cross-entropy with the target's logits, after the target's own tokens."""
    made, one, b = net(gammas=(0.97,)), clip(40, 3), 40
    with torch.no_grad():
        whole = ask(made, voc.TD(steps=1), one, seed=4)["occupancy"]
        rng = Rng.of(4, batch=b)
        rng.integers(0, 1, (1,))  # the discount is drawn first, and what is told of
        rng.uniform((2,))
        found = voc.written(made, voc.TD(steps=1), one, told(b, 0.97), rng)
        states = voc.states_of(made, one)
        log_p = made.occupancy(states[:, 0], told(b, 0.97), found.tokens)[0].log_softmax(-1)
        assert made.target is not None
        q = made.target(states[:, 1], told(b, 0.97), found.tokens)[0].softmax(-1)
    rows = found.drawn
    want = -(q * log_p).sum(-1).mean(1)
    torch.testing.assert_close(whole[rows], want[rows], atol=1e-4, rtol=1e-4)
    plain = nn.functional.cross_entropy(log_p.transpose(1, 2), found.tokens, reduction="none").mean(1)
    torch.testing.assert_close(whole[~rows], plain[~rows], atol=1e-4, rtol=1e-4)
    assert 0 < rows.sum() < b


def test_the_context_is_weighed_and_apart() -> None:
    """GPT-2 alone: the loss on the state's own tokens but its first."""
    made, one = net(gpt2=True, gammas=(0.0,), bootstraps=False, stack=2), clip(3, 4)
    plain, double = (ask(made, voc.TD(steps=1, context=c), one) for c in (0.0, 2.0))
    assert list(plain) == ["occupancy"] and list(double) == ["occupancy", "context"]
    torch.testing.assert_close(plain["occupancy"], double["occupancy"])
    states = voc.states_of(made, one)
    _, own = made.occupancy(states[:, 1], told(3, 0.0), states[:, 2], own=True)
    assert own is not None and own.shape[1] == 2 * NUM - 1
    want = nn.functional.cross_entropy(own.transpose(1, 2), states[:, 1, 1:], reduction="none").mean(1)
    torch.testing.assert_close(double["context"], 2 * want)
    with pytest.raises(ValueError, match="context is 0"):
        ask(net(), voc.TD(steps=1, context=1.0), clip(2, 3))


def test_nothing_flows_into_the_target() -> None:
    """It changes by following, in training, and by nothing else; and no gradient reaches it."""
    made, one, td = net(), clip(30, 4), voc.TD(steps=1, tau=0.25)
    assert made.target is not None
    assert not any(p.requires_grad for p in made.target.parameters())
    for value in made.target.parameters():
        value.requires_grad_()  # ... not even then
    before = [p.detach().clone() for p in made.target.parameters()]
    ask(made, td, one)
    assert all(torch.equal(p, q) for p, q in zip(made.target.parameters(), before, strict=True)), "not in training"
    made.train()
    sum(term.mean() for term in ask(made, td, one).values()).backward()  # type: ignore[union-attr]
    ours = list(made.occupancy.parameters())
    for new, old, now in zip(made.target.parameters(), before, ours, strict=True):
        torch.testing.assert_close(new, old + 0.25 * (now - old), atol=1e-7, rtol=1e-6)
        assert new.grad is None
    after = [p.detach().clone() for p in made.target.parameters()]
    torch.optim.SGD([p for p in made.parameters() if p.grad is not None], lr=0.1).step()
    assert all(torch.equal(p, q) for p, q in zip(made.target.parameters(), after, strict=True))
    assert all(p.grad is not None for p in ours)
    found = voc.written(made, td, one, told(30, 0.8), Rng.of(0, batch=30))
    assert found.logits is not None and not found.logits.requires_grad


def test_rewards_are_of_arriving_and_in_units_of_the_data() -> None:
    """The reward of the frame after the state, as a regression in standard deviations."""
    made, one = net(stack=2, gammas=(0.0,)), clip(2, 5)
    rewards = torch.tensor([[0.0, 1.0, 3.0, 7.0, 9.0]]).expand(2, 5)
    made.begin(torch.tensor([1.0, 5.0]), bootstraps=False)
    assert made.reward_mean == 3 and made.reward_std == 2
    state = torch.tensor([[0, 1, 1, 2]])
    said = made.reward(nn.functional.one_hot(state, VOCAB).flatten(1) / made.code_size)
    torch.testing.assert_close(made.rewards(state), 3 + 2 * said[:, 0])
    torch.testing.assert_close(made.code_size, torch.tensor(VOCAB**-0.5))  # one-hot vectors are of this size
    terms = ask(made, voc.TD(steps=1), dataclasses.replace(one, rewards=rewards))
    following = voc.states_of(made, one)[:, 2]
    torch.testing.assert_close(terms["reward"], ((made.rewards(following) - 3.0) / 2).square())
    assert "reward" not in ask(made, voc.TD(steps=1), one)
    made.begin(torch.full((4,), 1.5), bootstraps=False)
    assert "reward" not in ask(made, voc.TD(steps=1), dataclasses.replace(one, rewards=rewards))


def test_what_is_told_varies_over_what_is_learnt() -> None:
    """All discounts, each as often; an action and a policy untold now and then, each by itself."""
    made, b = net(gammas=(0.5, 0.8, 0.9), actions=1, policies=2, p_untold=0.25), 1200
    actions = torch.tensor([7.0, 0.0, 1.0]).expand(b, 3, 3)
    found = voc._drawn_told(made.config, clip(b, 3, actions=actions), Rng.of(0, batch=b))
    assert found.does is not None
    count = [int((found.gamma == torch.tensor(g)).sum()) for g in (0.5, 0.8, 0.9)]
    assert stats.chisquare(count).pvalue > 1e-3
    action, policy = found.does[:, 0].isnan(), found.does[:, 1:].isnan()
    assert torch.equal(policy[:, 0], policy[:, 1])
    joint = [int((action & policy[:, 0]).sum()), int((action & ~policy[:, 0]).sum())]
    joint += [int((~action & policy[:, 0]).sum()), int((~action & ~policy[:, 0]).sum())]
    assert stats.chisquare(joint, [b / 16, 3 * b / 16, 3 * b / 16, 9 * b / 16]).pvalue > 1e-3
    assert (found.does[~action, 0] == 7).all()
    for wrong, says in ((clip(2, 3), "the clip has none"), (clip(2, 3, actions=torch.zeros(2, 3, 5)), "not 5")):
        with pytest.raises(ValueError, match=says):
            voc._drawn_told(made.config, wrong, Rng.of(0, batch=2))


def test_actions_and_discounts_are_heard() -> None:
    made = net(gammas=(0.5, 0.9), actions=1, policies=2)
    one = torch.tensor([[0.3, 1.0, 0.0]])
    states = torch.zeros(1, NUM, dtype=torch.long)
    base = made.occupancy(states, told(1, 0.9, one), states)[0]
    others = [told(1, 0.5, one), told(1, 0.9), told(1, 0.9, torch.full_like(one, torch.nan))]
    others += [told(1, 0.9, torch.tensor([[0.4, 1.0, 0.0]])), told(1, 0.9, torch.tensor([[0.3, 0.0, 1.0]]))]
    found = [made.occupancy(states, other, states)[0] for other in others]
    assert all((x - base).abs().max() > 1e-4 for x in found)
    torch.testing.assert_close(found[1], found[2])  # not told at all, or NaN


# -- rewards that are written -----------------------------------------------------------------------

BINS = 5


def test_bins_of_rewards_keep_their_mean_and_few_values_exactly() -> None:
    made, generator = net(reward_bins=BINS), torch.Generator().manual_seed(0)
    rewards = torch.randn(3001, generator=generator).exp()
    made.begin(rewards, bootstraps=False)
    into = made.binned(rewards)
    assert torch.bincount(into, minlength=BINS).min() >= 600
    torch.testing.assert_close(made.reward_values[into].mean(), rewards.mean(), atol=1e-5, rtol=1e-5)
    assert (made.reward_values.diff() > 0).all()
    for few in ([0.0, 1.0], [-2.0, 0.0, 0.5, 7.0], [3.0]):
        some = torch.tensor(few)[torch.randint(0, len(few), (200,), generator=generator) % len(few)]
        some[:1] = few[-1]
        made.begin(some, bootstraps=False)
        torch.testing.assert_close(made.reward_values[made.binned(some)], some)


@pytest.mark.parametrize("steps", [2, None])
def test_the_reward_of_arriving_is_written_before_the_state(steps: int | None) -> None:
    """That of the frame which is drawn, the end's at the end, and the slow copy's own where it draws."""
    b = 300
    made = net(stack=2, gammas=(0.7,), reward_bins=BINS)
    made.begin(torch.arange(5.0).repeat(9), bootstraps=True)
    assert made.reward_values.tolist() == [0, 1, 2, 3, 4]
    one = dataclasses.replace(ended(clip(b, 5), 4, True), rewards=torch.arange(5.0).expand(b, 5))
    found = voc.written(made, voc.TD(steps=steps), one, told(b, 0.7), Rng.of(0, batch=b))
    assert found.tokens.shape == (b, 5)
    lead, last, end = found.tokens[:, 0], found.tokens[:, 3], (found.tokens == VOCAB).all(1)
    real = ~end & ~found.drawn
    assert (lead[real] == last[real]).all()  # the first code of frame i is i, and so is its reward
    assert set(last[real].tolist()) == ({2, 3} if steps else {2, 3, 4})
    assert end.any() == (steps is None) and found.drawn.any() == (steps is not None)
    if found.logits is not None:
        p = found.logits[found.drawn].softmax(-1)
        assert p.shape[1] == 5 and (p[:, 0, BINS:VOCAB] == 0).all() and lead[found.drawn].max() <= VOCAB
    terms = ask(made, voc.TD(steps=steps), one)
    assert set(terms) == {"occupancy", "arrival", "reward"} and (terms["arrival"] > 0).all()
    with pytest.raises(ValueError, match="writes the reward of each state; the clip has none"):
        ask(made, voc.TD(steps=steps), clip(b, 5))


def test_a_value_without_draws_is_the_mean_of_those_with() -> None:
    """The distribution of the first token, and the rewards that come with 4,000 draws; for several things told of one
    state as for each alone."""
    made = net(gammas=(0.0, 0.8), actions=2, reward_bins=BINS)
    made.begin(torch.tensor([-1.0, 0.0, 2.0, 3.0, 9.0]), bootstraps=False)
    states = torch.randint(0, VOCAB, (3, NUM), generator=torch.Generator().manual_seed(0))
    does = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    found = voc.value(made, states, told(3, 0.8, does), 1, Rng.of(0, batch=3))
    many = voc.drawn(made, states, told(3, 0.8, does), 4000, Rng.of(0, batch=3))
    assert many.states.shape == (3, 4000, NUM)
    error = many.rewards.std(1) / math.sqrt(4000) / 0.2
    assert ((many.rewards.mean(1) / 0.2 - found.mean).abs() < 4 * error).all() and (error > 0.01).all()
    assert found.error.isnan().all()
    alone = voc.value(made, states[1:2], told(1, 0.8, does[1:2]), 1, Rng.of(0))
    torch.testing.assert_close(alone.mean, found.mean[1:2])
    both = voc.expected(made, states, voc.Told(torch.tensor([0.8, 0.0]).repeat(3), does.repeat_interleave(2, 0)))
    torch.testing.assert_close(both.mean[0::2], found.mean)
    near = voc.value(made, states, told(3, 0.0, does), 1, Rng.of(0, batch=3))
    torch.testing.assert_close(both.mean[1::2], near.mean)
    # one step, unrolled once, is the value at discount 0; and what has ended is worth nothing
    once = voc.unrolled(made, states, 0.0, 1, 4000, Rng.of(0, batch=3))
    untold = voc.value(made, states, told(3, 0.0), 1, Rng.of(0, batch=3))
    assert ((once.mean - untold.mean).abs() < 4 * once.error).all()
    gone = voc.of_written(made, torch.full((1, 2, NUM + 1), VOCAB))
    assert (gone.rewards == 0).all() and (gone.states == VOCAB).all()


def test_what_cannot_write_rewards_is_refused() -> None:
    for wrong in ({"reward_bins": VOCAB + 1}, {"reward_bins": -1}, {"reward_bins": 2, "gpt2": True}):
        with pytest.raises(ValueError, match="rewards have at most as many values"):
            net(**wrong)
    made = net(reward_bins=BINS)
    with pytest.raises(ValueError, match=r"learnt 0\.8 alone"):
        voc.value(made, torch.zeros(1, NUM, dtype=torch.long), told(1, 0.9), 1, Rng.of(0))


# -- values -----------------------------------------------------------------------------------------


def test_a_constant_reward_is_worth_its_sum() -> None:
    """c / (1 - g), exactly, with no error; and a chain of draws and a roll-out say the same."""
    made = net(gammas=(0.0, 0.9), ends=False)
    with torch.no_grad():
        for value in made.reward.parameters():
            value.zero_()
    made.begin(torch.full((5,), 2.5), bootstraps=False)
    states = torch.zeros(3, NUM, dtype=torch.long)
    for gamma in (0.0, 0.5, 0.9):
        found = voc.value(made, states, told(3, gamma), 4, Rng.of(0, batch=3))
        torch.testing.assert_close(found.mean, torch.full((3,), 2.5 / (1 - gamma)), atol=0, rtol=1e-6)
        assert found.error.abs().max() < 1e-5 and found.ended.max() == 0
    for wanted in (0.5, 0.9, 0.97):
        found = voc.mve(made, states, 0.5, wanted, 3, 4, Rng.of(0, batch=3))
        torch.testing.assert_close(found.mean, torch.full((3,), 2.5 / (1 - wanted)), atol=0, rtol=1e-5)
    found = voc.unrolled(made, states, 0.9, 7, 2, Rng.of(0, batch=3))
    torch.testing.assert_close(found.mean, torch.full((3,), 25.0), atol=0, rtol=1e-5)


def test_a_value_is_the_mean_of_what_is_drawn_and_ends_are_worth_nothing() -> None:
    made = net(gammas=(0.8,))
    with torch.no_grad():
        made.occupancy.lm.head.weight[VOCAB].mul_(3)
    states = torch.zeros(2, NUM, dtype=torch.long)
    found = voc.draws(made, states, told(2, 0.8), 300, Rng.of(0, batch=2))
    gone = (found == VOCAB).any(2)
    assert 5 < int(gone.sum()) < 500
    rewards = made.rewards(found.flatten(0, 1)).view(2, 300)
    assert (rewards[gone] == 0).all() and rewards[~gone].abs().min() > 0
    value = voc.value(made, states, told(2, 0.8), 300, Rng.of(0, batch=2))
    torch.testing.assert_close(value.mean, rewards.mean(1) / 0.2)
    torch.testing.assert_close(value.error, rewards.std(1) / math.sqrt(300) / 0.2)
    torch.testing.assert_close(value.ended, gone.float().mean(1))
    assert (voc.draws(made, states, told(2, 0.8), 300, Rng.of(0, batch=2), ends=False) < VOCAB).all()


def test_an_end_stays_the_end() -> None:
    """Where all is over after the first draw, later ones in a chain count nothing."""
    made = net(gammas=(0.0, 0.8))
    with torch.no_grad():
        for value in made.reward.parameters():
            value.zero_()
        made.occupancy.lm.norm.weight.fill_(1.0)
        made.occupancy.lm.head.weight.zero_()  # all tokens are equally likely, the end among them
    made.begin(torch.full((5,), 1.0), bootstraps=False)
    states, num, alive = torch.zeros(1, NUM, dtype=torch.long), 4000, (VOCAB / (VOCAB + 1)) ** NUM
    weights, left = voc.mve_weights(0.8, 0.9, 3)
    found = voc.mve(made, states, 0.8, 0.9, 3, num, Rng.of(0))
    want = sum(float(w) * alive ** (i + 1) for i, w in enumerate(weights)) / (1 - left) / 0.1
    assert abs(found.mean - want) < 4 * found.error + 1e-6 and found.error < 0.1
    found = voc.unrolled(made, states, 0.8, 4, num, Rng.of(0))
    want = sum(0.8**i * alive ** (i + 1) for i in range(4)) / (1 - 0.8**4)
    assert abs(found.mean - want) < 4 * found.error
    assert abs(found.ended - (1 - alive**4)) < 0.03


def test_draws_do_not_depend_on_the_batch() -> None:
    made = net()
    states = torch.randint(0, VOCAB, (4, NUM), generator=torch.Generator().manual_seed(0))
    all_ = voc.draws(made, states, told(4, 0.8), 3, Rng.of(0, batch=4))
    for i in range(4):
        alone = voc.draws(made, states[i : i + 1], told(1, 0.8), 3, Rng.of(0, batch=4)[[i]])
        assert torch.equal(alone[0], all_[i])
    fewer = voc.draws(made, states, told(4, 0.8), 2, Rng.of(0, batch=4))
    assert torch.equal(fewer, all_[:, :2])


def chain(states: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(states, states, generator=generator, dtype=torch.float64), 1)


def occupancy(p: Tensor, gamma: float) -> Tensor:
    return (1 - gamma) * p @ torch.linalg.inv(torch.eye(len(p), dtype=torch.float64) - gamma * p)


def test_a_chain_of_draws_reaches_farther() -> None:
    """Weights of the draws (Janner et al. 2020, Theorem 1), on a chain, in float64: with what is left they make the
    longer occupancy, and with its value the value of the longer horizon."""
    p, rewards = chain(7), torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    eye = torch.eye(7, dtype=torch.float64)
    for gamma, wanted in ((0.5, 0.8), (0.8, 0.95), (0.0, 0.9), (0.7, 0.7)):
        m, long = occupancy(p, gamma), occupancy(p, wanted)
        value = torch.linalg.solve(eye - wanted * p, p @ rewards)
        torch.testing.assert_close(long @ rewards / (1 - wanted), value)
        for steps in (1, 2, 5, 30):
            weights, left = voc.mve_weights(gamma, wanted, steps)
            assert weights.dtype == torch.float64
            assert abs(float(weights.sum()) - (1 - left)) < 1e-12
            powers = [torch.linalg.matrix_power(m, n + 1) for n in range(steps)]
            parts = sum(w * power for w, power in zip(weights, powers, strict=True))
            torch.testing.assert_close(parts + left * powers[-1] @ long, long, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(
                parts @ rewards / (1 - wanted) + left * powers[-1] @ value, value, atol=1e-11, rtol=1e-11
            )
        assert voc.mve_weights(gamma, wanted, 200)[1] < 1e-4
    with pytest.raises(ValueError, match="cannot tell"):
        voc.mve_weights(0.9, 0.8, 3)
    with pytest.raises(ValueError, match="cannot tell"):
        voc.mve_weights(0.5, 0.8, 0)


def exact(p: Tensor, gammas: tuple[float, ...], rewards: Tensor) -> voc.VOC:
    """A model that knows a chain: its draws are those of the true occupancy of each of these discounts."""
    made = net(gammas=gammas, ends=False)
    table = {g: occupancy(p, g).float().cumsum(1) for g in gammas}

    def draw(state: Tensor, extra: Tensor, uniform: Tensor, **_: object) -> tuple[Tensor, None]:
        rows = []
        for s, g, u in zip(state[:, 0].tolist(), extra[:, 0, 0].tolist(), uniform[..., 0], strict=True):
            best = min(table, key=lambda known, g=g: abs(known - g))
            rows.append(torch.searchsorted(table[best][s], u.contiguous()).clamp(max=len(p) - 1))
        return torch.stack(rows)[..., None].expand(-1, -1, NUM), None

    made.occupancy.told = lambda told: told.gamma[:, None]  # type: ignore[method-assign]
    made.occupancy.lm.draw = draw  # type: ignore[assignment]
    made.rewards = lambda states: rewards[states[:, 0]].float()  # type: ignore[method-assign]
    return made


def test_three_ways_to_a_value_agree_with_the_truth() -> None:
    """On a model that draws from the true occupancies: directly, by a chain of shorter draws, by rolling out."""
    p, rewards = chain(5, 3), torch.tensor([0.0, 1.0, 4.0, -2.0, 0.5], dtype=torch.float64)
    made, num = exact(p, (0.0, 0.6, 0.9), rewards), 4000
    states = torch.arange(2)[:, None].expand(2, NUM)
    truth = (occupancy(p, 0.9) @ rewards / 0.1)[:2].float()
    for found in (
        voc.value(made, states, told(2, 0.9), num, Rng.of(0, batch=2)),
        voc.mve(made, states, 0.6, 0.9, 1, num, Rng.of(1, batch=2)),
        voc.mve(made, states, 0.6, 0.9, 3, num, Rng.of(2, batch=2)),
        voc.mve(made, states, 0.0, 0.9, 4, num, Rng.of(3, batch=2)),
        voc.unrolled(made, states, 0.9, 40, 500, Rng.of(4, batch=2)),
    ):
        assert ((found.mean - truth).abs() < 4 * found.error + 0.02 * truth.abs()).all(), (found, truth)
        assert (found.error < 0.6).all()


# -- what is refused ----------------------------------------------------------------------------------


def test_what_was_not_learnt_is_refused() -> None:
    made, states = net(gammas=(0.5, 0.9)), torch.zeros(1, NUM, dtype=torch.long)
    for gamma in (0.4, 0.95):
        with pytest.raises(ValueError, match=r"learnt those from 0\.5 to 0\.9"):
            voc.draws(made, states, told(1, gamma), 1, Rng.of(0))
    with pytest.raises(ValueError, match=r"learnt 0\.8 alone"):
        voc.draws(net(), states, told(1, 0.7), 1, Rng.of(0))
    with pytest.raises(ValueError, match="1 or more are needed"):
        voc.draws(made, states, told(1, 0.7), 0, Rng.of(0))
    for gamma in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="below 1"):
            voc.check_gamma(gamma)
    for wrong in ({"gammas": (1.0,)}, {"gammas": ()}, {"stack": 0}, {"gpt2": True, "gammas": (0.1, 0.2)}):
        with pytest.raises(ValueError):
            net(**wrong)
    assert voc.gammas_of(made.config, None) == (0.5, 0.9) and voc.gammas_of(made.config, [0.6]) == (0.6,)
    with pytest.raises(ValueError, match="learnt those from"):
        voc.gammas_of(made.config, [0.6, 0.95])


def test_a_tokenizer_that_does_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab 5 and not 16, dim 5 and not 16"):
        voc.VOC(net().config, Codes(5))
    with pytest.raises(ValueError, match="one view of 1 x 2 x 2"):
        net().codes(Clip(torch.zeros(1, 2, 3, 1, 2, 2), torch.arange(3)[None]))
    with pytest.raises(ValueError, match="cannot paint"):
        net().paint(torch.zeros(1, NUM, dtype=torch.long))


def test_the_presets_are_as_large_as_they_say() -> None:
    with torch.device("meta"):
        reference, clean = voc.Occupancy(voc.reference()), voc.Occupancy(voc.clean())
    assert sum(p.numel() for p in reference.parameters()) == 29_925_888
    assert 1.8e6 < sum(p.numel() for p in clean.parameters()) < 2.6e6
    td = voc.reference_td()
    assert (td.steps, td.loss, td.tau, td.context, td.top_k, td.dropout) == (1, "sample", 0.1, 1.0, 50, True)


# -- a chain whose occupancy is known -------------------------------------------------------------------


def digits(s: Tensor) -> Tensor:
    """A state of the chain, as two tokens."""
    return torch.stack([s // 4, s % 4], dim=-1)


def on_chain(
    td: voc.TD, gamma: float, rewards: Tensor, steps: int = 300, batch: int = 256, lr: float = 4e-3, **changes
) -> voc.VOC:
    """Trained on a chain of 8 states, each of which has its reward."""
    states = len(rewards)
    p = chain(states, 5)
    torch.manual_seed(0)
    config = voc.tiny(
        size=2, channels=1, vocab=4, grid=GRID, dim_code=4, gammas=(gamma,), dim=32, depth=1, ends=False, **changes
    )  # fmt: skip
    made = voc.VOC(config, Codes(4))
    made.begin(rewards, bootstraps=True)
    made.train()
    weights = list(made.occupancy.parameters())
    optimiser = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    state = torch.arange(batch) % states
    for step in range(steps):
        following = torch.searchsorted(
            p.cumsum(1)[state], torch.rand(batch, 1, generator=generator, dtype=torch.float64)
        )[:, 0].clamp(max=states - 1)
        frames = digits(torch.stack([state, following], dim=1)).float()[:, None, :, None, None]
        of = rewards[torch.stack([state, following], dim=1)]
        one = Clip(frames, torch.arange(2).expand(batch, 2), rewards=of)
        optimiser.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        sum(term.mean() for term in ask(made, td, one, mix(step)).values()).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return made.eval()


def learnt(td: voc.TD, gamma: float, **changes) -> float:
    """Total variation of what was learnt of a chain to (1 - g) P (I - g P)^-1."""
    states = 8
    made = on_chain(td, gamma, torch.zeros(states), **changes)
    first, then = digits(torch.arange(states).repeat_interleave(states)), digits(torch.arange(states).repeat(states))
    with torch.no_grad():
        log_p = made.occupancy(first, told(len(first), gamma), then)[0].log_softmax(-1)
    found = log_p.gather(-1, then[..., None])[..., 0].sum(1).exp().double().view(states, states)
    return float((0.5 * (found - occupancy(chain(states, 5), gamma)).abs().sum(1)).mean())


def test_generative_td_finds_the_occupancy_of_a_chain() -> None:
    assert learnt(voc.TD(steps=1, tau=0.1), 0.8) < 0.06


def test_generative_td_finds_the_values_of_a_chain_without_a_draw() -> None:
    """Of rewards that are written before the states: (I - g P)^-1 P r, to a quarter of how far values lie apart."""
    rewards, gamma = torch.tensor([0.0, 1.0, 4.0, -2.0, 0.0, 1.0, 4.0, -2.0]), 0.8
    made = on_chain(voc.TD(steps=1, tau=0.1), gamma, rewards, reward_bins=4)
    found = voc.value(made, digits(torch.arange(8)), told(8, gamma), 1, Rng.of(0, batch=8)).mean
    truth = (occupancy(chain(8, 5), gamma) @ rewards.double() / (1 - gamma)).float()
    assert (found - truth).square().mean().sqrt() < 0.25 * truth.std()


@pytest.mark.parametrize("fault", [{"temperature": 0.9}, {"top_k": 2}])
def test_an_inexact_draw_in_the_bootstrap_is_found(fault: dict) -> None:
    """What is hardly seen in one draw is applied again at every backup."""
    assert learnt(voc.TD(steps=1, loss="sample", tau=0.1, **fault), 0.8) > 0.1
