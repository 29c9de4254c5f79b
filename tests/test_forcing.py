"""The causal family: its transformer, its objective, its order of filling, its cache, its presets."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from maskworld import masks, reveal
from maskworld.clip import Clip, example, of_frames, planar, span
from maskworld.masks import past_and_future, these_frames
from maskworld.memory.sink import Sink
from maskworld.memory.window import Window
from maskworld.nets.attention import attend
from maskworld.nets.transformer import Rotary, Transformer
from maskworld.noise import Rng
from maskworld.papers import forcing
from maskworld.recipes.forcing import shows as recipe_shows
from maskworld.rollout import ahead_of, rollout

SIZE = 16


def net(seed: int = 0, **changes) -> forcing.Forcing:
    torch.manual_seed(seed)
    made = forcing.Forcing(forcing.tiny(**changes))
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return made.eval()


def clip(t: int, b: int = 2, c: int = 1, seed: int = 0, **fields) -> Clip:
    made = of_frames(Rng.of(seed, batch=b).uniform((1, t, c, SIZE, SIZE)) * 2 - 1, start=3)
    return dataclasses.replace(made, **fields)


# -- the transformer --------------------------------------------------------------------------------


def test_plain_attention_is_torchs() -> None:
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 5, 7) < 0.6
    mask[..., 0] = True
    for where in (None, mask):
        want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=where)
        torch.testing.assert_close(attend(q, k, v, where), want)


def test_rotary_positions_see_differences_only() -> None:
    rotary = Rotary(16)
    q, k = torch.randn(1, 1, 4, 16), torch.randn(1, 1, 4, 16)
    place = torch.randint(0, 20, (1, 4, 3)).float()
    scores = []
    for shift in (torch.zeros(3), torch.tensor([5.0, -3.0, 11.0])):
        angles = rotary.angles(place + shift)
        scores.append(rotary.turn(q, angles) @ rotary.turn(k, angles).transpose(-1, -2))
    torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-4)
    for axis in range(3):
        moved = place.clone()
        moved[:, 1, axis] += 1
        angles = rotary.angles(moved)
        other = rotary.turn(q, angles) @ rotary.turn(k, angles).transpose(-1, -2)
        assert not torch.allclose(other, scores[0], atol=1e-3), f"axis {axis} makes no difference"


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Rotary(12)
    with pytest.raises(ValueError, match="do not divide"):
        Transformer(30, 1, 4)


def test_unknown_frames_are_causal() -> None:
    """What is made of frame i depends on frames 0..i and not on later ones."""
    made = net().transformer.double()
    features = torch.randn(1, 4, 4, 32, dtype=torch.float64, requires_grad=True)
    place = torch.randint(0, 4, (1, 4, 4, 3)).float()
    out = made(features, place, torch.randn(1, 4, 32, dtype=torch.float64))
    for i in range(4):
        (gradient,) = torch.autograd.grad(out[:, i].sum(), features, retain_graph=True)
        reached = gradient.abs().amax((0, 2, 3)) > 0
        assert reached.tolist() == [j <= i for j in range(4)]


def test_each_known_frame_is_encoded_by_itself() -> None:
    """So that any set of frames is what its frames are: the law on which the cache stands."""
    made = net()
    frames = clip(5, b=1).frames[:, 0]
    there = torch.ones_like(frames[:, :, :1], dtype=torch.bool)
    place = made.place(torch.arange(5.0)[None], None, torch.zeros(1))
    together, _ = made.see(frames, there, place)
    for i in range(5):
        alone, _ = made.see(frames[:, i : i + 1], there[:, i : i + 1], place[:, i : i + 1])
        part = slice(4 * i, 4 * i + 4)
        torch.testing.assert_close(together.keys[:, :, part], alone.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.values[:, :, part], alone.values, atol=1e-5, rtol=1e-5)


# -- places and actions -----------------------------------------------------------------------------


def test_cameras_move_places_by_patches() -> None:
    made = net()
    times = torch.tensor([[0.0, 1.0, 200.0]])
    still = made.place(times, None, torch.tensor([1.0]))
    offset = torch.tensor([[[0.0, 0.0], [16.0, 8.0], [0.0, 0.0]]])  # x, y in pixels; a patch has 8
    moved = made.place(times, planar(offset, SIZE), torch.tensor([1.0]))
    assert still[0, :, 0].tolist() == [[-1, 0, 0], [0, 0, 0], [64, 0, 0]]  # time from now on, at most `reach`
    assert (moved - still)[0, :, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 0, 0]]
    assert still[0, 0, :, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_an_action_is_felt_one_frame_later_and_not_across_a_gap() -> None:
    one = clip(4, b=1, actions=torch.arange(8.0).reshape(1, 4, 2))
    one = dataclasses.replace(one, times=torch.tensor([[3, 4, 9, 10]]))
    felt = forcing.felt_of(one, 2)
    assert felt is not None
    assert felt[0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0], [4, 5, 1]]
    with pytest.raises(ValueError, match="actions of 3 channels; the clip has 2"):
        forcing.felt_of(one, 3)


def test_actions_matter_from_the_next_frame_on() -> None:
    """Law 6: an action at t changes nothing at or before t, whatever is known after it; and it changes what comes."""
    made = net(actions=2)
    fill = forcing.fill(made, forcing.Sampling(steps=2, block=2))
    known = these_frames([True, True, False, False, False, False, True], 1)
    actions = torch.randn(1, 7, 2)
    one = clip(7, b=1, actions=actions)
    before = fill(one, known, Rng.of(0)).frames[0, 0]
    for t in range(7):
        changed = actions.clone()
        changed[:, t] += 1
        after = fill(dataclasses.replace(one, actions=changed), known, Rng.of(0)).frames[0, 0]
        same = [torch.equal(after[i], before[i]) for i in range(7)]
        assert all(same[: t + 1]), f"the action at {t} changes {same}"
        if 1 <= t <= 4:
            assert not same[t + 1], f"the action at {t} is not felt"


# -- objective --------------------------------------------------------------------------------------


def test_the_loss_is_of_unknown_frames_and_reads_them_nowhere_else() -> None:
    made = net(context_noise=0.0)
    one, known = clip(6), past_and_future(4, 2, 0, 2)
    loss = forcing.objective()(made, one, known, Rng.of(1, batch=2))
    assert list(loss.terms) == ["x0"] and loss.total.shape == (2,)
    hidden = past_and_future(0, 2, 4, 2)
    back = forcing.objective()(made, one, hidden, Rng.of(1, batch=2))
    assert not torch.allclose(loss.total, back.total)
    everything = forcing.objective()(made, one, these_frames([True] * 6, 2), Rng.of(1, batch=2))
    assert everything.total.tolist() == [0, 0]


def test_a_perfect_network_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    made, one = net(context_noise=0.0), clip(5)
    monkeypatch.setattr(forcing.Forcing, "forward", lambda self, x, *rest: one.frames[:, 0, 2:])
    loss = forcing.objective(pairs=1.0)(made, one, past_and_future(2, 3, 0, 2), Rng.of(0, batch=2))
    assert loss.total.abs().max() == 0


def test_pairs_are_marked_by_the_difference_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is off by the same in both branches finds the effect; one that is off in one of them does not."""
    made, one = net(context_noise=0.0), clip(4)
    known = past_and_future(2, 2, 0, 2)
    for off, want in ((torch.tensor([0.5, 0.5]), 0.0), (torch.tensor([0.5, 0.0]), 0.25 * 2 / 4)):
        wrong = one.frames[:, 0, 2:] + off[:, None, None, None, None]
        monkeypatch.setattr(forcing.Forcing, "forward", lambda self, x, *rest, wrong=wrong: wrong)
        loss = forcing.objective(pairs=1.0)(made, one, known, Rng.of(0, batch=2))
        torch.testing.assert_close(loss.terms["pairs"], torch.full((2,), want), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="even number"):
        forcing.objective(pairs=1.0)(made, clip(4, b=3), past_and_future(2, 2, 0, 3), Rng.of(0, batch=3))


def test_resampling_degrades_the_history_alone() -> None:
    made, one = net(context_noise=0.0), clip(5)
    known = past_and_future(3, 2, 0, 2)
    plain, worse = (forcing.objective(resample=p)(made, one, known, Rng.of(2, batch=2)).total for p in (0.0, 1.0))
    assert not torch.allclose(plain, worse)
    nothing = these_frames([False] * 5, 2)
    assert torch.equal(
        *(forcing.objective(resample=p)(made, one, nothing, Rng.of(2, batch=2)).total for p in (0.0, 1.0))
    )


def test_memories_take_turns_among_the_examples() -> None:
    """Examples 0, 2 are shown all, examples 1, 3 what the memory shows; only prefixes go through memories."""
    made, one = net(context_noise=0.0), clip(6, b=4)
    window = Window(1)
    seen = []

    def show(history: Clip, ahead: Clip) -> Clip:
        assert bool((ahead.frames == 0).all()), "what is ahead is not for a memory to read"
        seen.append((history.frames.shape[0], history.frames.shape[2]))
        return window.recall(window.start(history), ahead)

    shows = [(None, lambda history, ahead: history), (None, show)]
    known = past_and_future(4, 2, 0, 4)
    both = forcing.objective(shows)(made, one, known, Rng.of(0, batch=4)).total
    assert seen == [(2, 4)]
    plain = forcing.objective()(made, one, known, Rng.of(0, batch=4)).total
    assert (both == plain).tolist()[::2] == [True, True] or torch.allclose(both[::2], plain[::2], atol=1e-5)
    assert not torch.allclose(both[1::2], plain[1::2], atol=1e-4)
    forcing.objective(shows)(made, one, past_and_future(2, 2, 2, 4), Rng.of(0, batch=4))
    assert len(seen) == 1


def asked(monkeypatch: pytest.MonkeyPatch, off: float = 0.0) -> dict[str, list]:
    """Every call of `see`, `told` and `forward`, by what is given; the network then finds `off` everywhere."""
    calls: dict[str, list] = {"seen": [], "sigma": [], "felt": [], "x": [], "where": []}
    see, told = forcing.Forcing.see, forcing.Forcing.told

    def seeing(self, frames, there, place):
        calls["seen"].append(frames)
        return see(self, frames, there, place)

    def telling(self, sigma, felt):
        calls["sigma"].append(sigma)
        calls["felt"].append(felt)
        return told(self, sigma, felt)

    def finding(self, x, there, told, place, context, plan):
        calls["x"].append(x)
        calls["where"].append(place)
        return torch.full_like(x, off)

    for name, run in (("see", seeing), ("told", telling), ("forward", finding)):
        monkeypatch.setattr(forcing.Forcing, name, run)
    return calls


def test_each_frame_has_a_level_of_its_own_and_a_velocitys_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the mean over unknown pixels of min(1 / s^2, 10) times the squared error, also in parts of frames."""
    made, one, calls = net(context_noise=0.0), clip(6, b=3), asked(monkeypatch, 0.25)
    parts = torch.ones(3, 1, 6, 2, 1, dtype=torch.bool)
    parts[:, :, 3:, 1] = False  # of the last three frames, the lower half
    for known, rows in ((past_and_future(3, 3, 0, 3), slice(0, 16)), (parts, slice(8, 16))):
        loss = forcing.objective()(made, one, known, Rng.of(3, batch=3)).total
        (s,), (x,) = calls["sigma"], calls["x"]
        assert s.shape == (3, 3) and len(set(s.flatten().tolist())) == 9 and 0 < s.min() and s.max() < 1
        truth, wide = one.frames[:, 0, 3:], s[..., None, None, None]
        error = (0.25 - truth).square() * wide.pow(-2).clamp(max=10)
        torch.testing.assert_close(loss, error[..., rows, :].flatten(1).mean(1))
        eps = ((x - (1 - wide) * truth) / wide)[..., rows, :]
        assert abs(float(eps.std()) - 1) < 0.1 and abs(float(eps.mean())) < 0.1
        assert torch.equal(x[..., : rows.start, :], truth[..., : rows.start, :])
        for call in calls.values():
            call.clear()


def test_half_of_the_histories_are_worn_and_some_know_no_action(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = net(context_noise=0.3, actions=2), asked(monkeypatch)
    one = clip(4, b=32, actions=torch.ones(32, 4, 2))
    forcing.objective(p_no_action=0.5)(made, one, past_and_future(3, 1, 0, 32), Rng.of(0, batch=32))
    worn = (calls["seen"][0] - one.frames[:, 0, :3]).flatten(1).std(1)
    assert 8 < int((worn == 0).sum()) < 24 and worn.max() < 0.33 and worn.max() > 0.15
    told = calls["felt"][0][:, 0]
    assert set(map(tuple, told.tolist())) == {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)}
    assert 8 < int(told[:, 0].sum()) < 24


def test_pairs_share_their_noise_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls, members = net(context_noise=0.3, actions=2), asked(monkeypatch), []
    half = clip(5, b=4, actions=torch.ones(4, 5, 2))
    twins = example(half, [0, 0, 1, 1, 2, 2, 3, 3])

    def show(history: Clip, ahead: Clip) -> Clip:
        members.append(history.frames.shape[0])
        return Window(2).recall(Window(2).start(history), ahead)

    shows = [(None, lambda history, ahead: history), (None, show)]
    known = past_and_future(3, 2, 0, 8)
    loss = forcing.objective(shows, pairs=1.0, p_no_action=0.5)(made, twins, known, Rng.of(1, batch=8))
    assert members == [4] and len(calls["x"]) == 2
    for call in (*calls["x"], *calls["seen"], *calls["sigma"], *calls["felt"]):
        assert torch.equal(call[0::2], call[1::2])
    for call in (*calls["x"], *calls["sigma"]):
        assert not torch.equal(call[0], call[2])
    assert loss.terms["pairs"].abs().max() == 0


def test_only_some_examples_are_degraded() -> None:
    made, one = net(context_noise=0.0), clip(5, b=8)
    known = past_and_future(3, 2, 0, 8)
    plain, some = (forcing.objective(resample=p)(made, one, known, Rng.of(2, batch=8)).total for p in (0.0, 0.5))
    same = (plain - some).abs() < 1e-6
    assert 0 < int(same.sum()) < 8


def test_the_loss_sees_where_frames_are_and_not_where_the_world_begins() -> None:
    made, one = net(context_noise=0.0), clip(5)
    known = past_and_future(3, 2, 0, 2)

    def loss(start: int, *offsets: float) -> torch.Tensor:
        way = torch.tensor(offsets)[None, :, None].expand(2, -1, 2)
        there = dataclasses.replace(one, cameras=planar(way, SIZE), times=one.times + start)
        return forcing.objective()(made, there, known, Rng.of(2, batch=2)).total

    torch.testing.assert_close(loss(500, *[24.0] * 5), loss(0, *[0.0] * 5), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(loss(0, 0.0, 0.0, 0.0, 8.0, 8.0), loss(0, *[0.0] * 5), atol=1e-4)


# -- fill -------------------------------------------------------------------------------------------


def test_blocks_go_forwards_and_see_what_is_nearest() -> None:
    known = [True, True, False, False, False, True]
    assert forcing.blocks_of(known, range(6), 2, 2) == [([2, 3], [1, 5]), ([4], [3, 5])]
    assert forcing.blocks_of(known, range(6), 1, 4) == [([2, 3, 4], [1])]
    assert forcing.blocks_of([False] * 3, range(3), 4, 2) == [([0, 1], []), ([2], [0, 1])]
    assert forcing.blocks_of([True] * 3, range(3), 4, 2) == []
    # Recalled frames lie far back, and are shown as long as there is room.
    assert forcing.blocks_of([True, True, False], [0, 90, 91], 2, 2) == [([2], [0, 1])]


@pytest.mark.parametrize("order", ["whole", "frame by frame", "pyramid"])
def test_any_order_of_revealing_fills(order: str) -> None:
    made = net()
    how = {"whole": reveal.whole, "frame by frame": reveal.frame_by_frame,
           "pyramid": lambda steps, frames: reveal.pyramid(steps, frames, 1)}[order]  # fmt: skip
    calls = []
    sampling = forcing.Sampling(steps=3, block=3, order=how, on_call=lambda done, total: calls.append((done, total)))
    filled = forcing.fill(made, sampling)(clip(5), past_and_future(2, 3, 0, 2), Rng.of(0, batch=2))
    assert bool(torch.isfinite(filled.frames).all())
    assert len(calls) == {"whole": 3, "frame by frame": 9, "pyramid": 5}[order]
    assert calls[-1][0] == calls[-1][1]


def test_frame_by_frame_is_blocks_of_one_where_nothing_later_is_seen() -> None:
    """A frame that is clean is not the same as a known one to this network; what has not begun is seen by nobody."""
    made = net()
    order = reveal.frame_by_frame(3, 2)
    fill = forcing.fill(made, forcing.Sampling(steps=3, block=2, order=lambda steps, frames: order))
    one, known = clip(4), past_and_future(2, 2, 0, 2)
    single = forcing.fill(made, forcing.Sampling(steps=3, block=1))
    first = fill(one, known, Rng.of(0, batch=2)).frames[:, 0, 2]
    noise = Rng.of(0, batch=2).normal((2, 1, SIZE, SIZE))[:, 0]
    alone = span(one, 0, 3)
    want = single(alone, past_and_future(2, 1, 0, 2), Rng.of(0, batch=2)).frames[:, 0, 2]
    assert noise.shape == first.shape
    torch.testing.assert_close(first, want, atol=1e-5, rtol=0)


def test_a_frame_goes_along_a_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a network that always finds the same, x at level s is (1 - s) x0 + s eps, with one eps for all steps."""
    made, calls = net(), asked(monkeypatch, 0.25)
    for lag in (0, 2):
        order = lambda steps, frames, lag=lag: reveal.pyramid(steps, frames, lag)
        fill = forcing.fill(made, forcing.Sampling(steps=4, block=3, order=order))
        out = fill(clip(5), past_and_future(2, 3, 0, 2), Rng.of(0, batch=2)).frames[:, 0, 2:]
        torch.testing.assert_close(out, torch.full_like(out, 0.25))
        eps = Rng.of(0, batch=2).normal((3, 1, SIZE, SIZE))
        levels = forcing.shifted(order(4, 3)[:-1].float(), made.config.shift)
        assert len(calls["x"]) == len(levels) == 4 + 2 * lag
        for x, told, row in zip(calls["x"], calls["sigma"], levels, strict=True):
            n = x.shape[1]
            torch.testing.assert_close(told, row[:n].expand(2, -1))
            s = told[..., None, None, None]
            torch.testing.assert_close(x, (1 - s) * 0.25 + s * eps[:, :n], atol=1e-5, rtol=0)
        for call in calls.values():
            call.clear()


def test_a_cached_rollout_is_the_uncached_one() -> None:
    made = net(actions=2)
    prompt = clip(8, actions=torch.randn(2, 8, 2), cameras=planar(torch.randn(2, 8, 2).cumsum(1), SIZE))
    ahead = ahead_of(prompt, 6)
    ahead = dataclasses.replace(ahead, actions=torch.randn(2, 6, 2), cameras=planar(torch.randn(2, 6, 2), SIZE))
    for memory, stride in itertools.product((Window(4), Sink(1, 3)), (1, 2)):
        films = [
            rollout(forcing.fill(made, forcing.Sampling(steps=2, cached=n)), prompt, ahead, memory, stride,
                    Rng.of(0, batch=2)).frames
            for n in (0, 3, 64)
        ]  # fmt: skip
        for film in films[1:]:
            torch.testing.assert_close(film, films[0], atol=1e-4, rtol=0)


def test_the_cache_stays_small_and_encodes_each_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = net()
    encoded = []
    see = forcing.Forcing.see
    monkeypatch.setattr(
        forcing.Forcing, "see", lambda self, frames, *rest: (encoded.append(len(frames)), see(self, frames, *rest))[1]
    )
    cache = forcing.Cache(made, 5)
    one = clip(8, b=1)
    for start in range(4):
        cache.see(span(one, start, start + 4), torch.zeros(1))
    assert sum(encoded) == 7 and len(cache.kept) == 5


def test_holes_in_known_frames_are_not_read() -> None:
    """NaN in a known frame: a memory knows it in part. The rest of it counts, and the hole is told from grey."""
    made = net()
    fill = forcing.fill(made, forcing.Sampling(steps=2))
    one, known = clip(4), past_and_future(3, 1, 0, 2)
    holes = one.frames.clone()
    holes[:, :, 1, :, :8] = torch.nan
    grey = one.frames.clone()
    grey[:, :, 1, :, :8] = 0.0
    seen = [fill(dataclasses.replace(one, frames=f), known, Rng.of(0, batch=2)).frames[:, :, 3] for f in (holes, grey)]
    assert bool(torch.isfinite(seen[0]).all())
    assert not torch.allclose(*seen, atol=1e-4)


def test_what_does_not_fit_is_refused_in_words() -> None:
    made = net()
    fill = forcing.fill(made)
    with pytest.raises(ValueError, match="one view of 1 x 16 x 16"):
        fill(clip(4, c=3), past_and_future(2, 2, 0, 2), Rng.of(0, batch=2))
    with pytest.raises(ValueError, match="1 random generators for a batch of 2"):
        fill(clip(4), past_and_future(2, 2, 0, 2), Rng.of(0, batch=1))
    with pytest.raises(ValueError, match="which of the model's memories"):
        fill(clip(4, memory=torch.zeros(2, 1, 4)), past_and_future(2, 2, 0, 2), Rng.of(0, batch=2))
    with pytest.raises(ValueError, match="holds no memory called ssm"):
        forcing.fill(made, reads="ssm")
    with pytest.raises(ValueError, match="do not tile"):
        forcing.Config(size=60)
    with pytest.raises(ValueError, match="speaks of the memories"):
        forcing.Forcing(forcing.tiny(memories=("ssm",)))


def test_a_plan_is_a_second_view_that_is_known() -> None:
    made = net(plan=True)
    frames = torch.rand(2, 2, 5, 1, SIZE, SIZE) * 2 - 1
    two = of_frames(frames)
    known = past_and_future(3, 2, 0, 2, 2)
    known[:, 1] = True
    fill = forcing.fill(made, forcing.Sampling(steps=2))
    filled = fill(two, known, Rng.of(0, batch=2))
    assert torch.equal(filled.frames[:, 1], frames[:, 1])
    other = frames.clone()
    other[:, 1, 4] *= -1
    changed = fill(dataclasses.replace(two, frames=other), known, Rng.of(0, batch=2))
    assert torch.equal(changed.frames[:, 0, 3], filled.frames[:, 0, 3])  # the plan of frame 4 is for frame 4 on
    assert not torch.allclose(changed.frames[:, 0, 4], filled.frames[:, 0, 4], atol=1e-4)
    known[:, 1, 4] = False
    with pytest.raises(ValueError, match="known at every frame"):
        fill(two, known, Rng.of(0, batch=2))


# -- surprise ---------------------------------------------------------------------------------------


def test_surprise_is_of_the_frame_and_of_what_was_before() -> None:
    made = net()
    watch = forcing.surprise(made, num_levels=3)
    one = clip(6)
    found = watch(one, 2, Rng.of(0, batch=2))
    assert found.shape == (2, 4)
    later = one.frames.clone()
    later[:, :, 5] *= -1
    again = watch(dataclasses.replace(one, frames=later), 2, Rng.of(0, batch=2))
    torch.testing.assert_close(again[:, :3], found[:, :3], atol=1e-6, rtol=0)
    assert not torch.allclose(again[:, 3], found[:, 3])
    with pytest.raises(ValueError, match="frames from 6 on"):
        watch(one, 6, Rng.of(0, batch=2))


def test_surprise_feels_the_action_before_and_sees_one_window() -> None:
    made = net(actions=2, window=3)
    watch = forcing.surprise(made, num_levels=2)
    one = clip(7, b=1, actions=torch.randn(1, 7, 2))
    found = watch(one, 1, Rng.of(0))
    for t in range(7):
        acts, frames = one.actions.clone(), one.frames.clone()  # type: ignore[union-attr]
        acts[:, t] += 3
        frames[:, :, t] *= -1
        acted = watch(dataclasses.replace(one, actions=acts), 1, Rng.of(0))
        assert [i + 1 for i in range(6) if abs(acted[0, i] - found[0, i]) > 1e-6] == ([t + 1] if t < 6 else [])
        seen = watch(dataclasses.replace(one, frames=frames), 1, Rng.of(0))
        differ = [i + 1 for i in range(6) if abs(seen[0, i] - found[0, i]) > 1e-6]
        assert differ == [i for i in range(max(t, 1), min(t + 4, 7))]


# -- presets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "low", "high"), [("mini", 1.3, 1.6), ("small", 4.8, 5.8), ("base", 33, 40)])
def test_presets_are_as_large_as_they_say(preset: str, low: float, high: float) -> None:
    with torch.device("meta"):
        made = forcing.Forcing(getattr(forcing, preset)(actions=9))
    assert low < sum(p.numel() for p in made.parameters()) / 1e6 < high


def test_the_recipes_memories_show_any_prefix() -> None:
    """Short prefixes leave more ahead than a roll-out fills at once: a canvas is made for all of it."""
    made = net()
    (_, plain), (reads, canvas) = recipe_shows(made, 2, True)
    one = clip(9, cameras=planar(torch.zeros(2, 9, 2), SIZE))
    for past in (1, 3, 8):
        history, ahead = span(one, 0, past), span(one, past, 9)
        assert torch.equal(plain(history, ahead).frames, history.frames)
        shown = canvas(history, dataclasses.replace(ahead, frames=torch.zeros_like(ahead.frames)))
        assert reads is None and shown.frames.shape[2] == 9 - past + min(past, 2)
        assert torch.equal(shown.frames[:, :, 0], history.frames[:, :, -1])


# -- draws ------------------------------------------------------------------------------------------


def test_a_batch_takes_one_draw_together() -> None:
    draw = masks.together([(1.0, masks.prefix(1, 4)), (1.0, masks.between(2, 2))])
    kinds = set()
    for seed in range(30):
        known = draw(3, 1, 6, Rng.of(seed, batch=3))
        rows = {tuple(row) for row in known[:, 0, :, 0, 0].tolist()}
        assert len(rows) == 1
        kinds |= rows
    wants = {tuple(i < n for i in range(6)) for n in range(1, 5)} | {(True, True, False, False, True, True)}
    assert kinds == wants
    with pytest.raises(ValueError, match="leaves nothing unknown"):
        masks.prefix(1, 6)(1, 1, 6, Rng.of(0))
    with pytest.raises(ValueError, match="leave nothing unknown"):
        masks.between(3, 3)(1, 1, 6, Rng.of(0))


def test_holes_within_frames_that_are_filled_in_are_filled_in_too() -> None:
    """A NaN among the given pixels of a frame is no pixel; the others come back as they are."""
    one = clip(4)
    known = these_frames([True] * 4, 2).expand(-1, -1, -1, SIZE, SIZE).clone()
    known[:, :, 3, :8] = False
    frames = one.frames.clone()
    frames[:, :, 3, :, 12:, 12:] = torch.nan
    filled = forcing.fill(net(), forcing.Sampling(steps=2))(
        dataclasses.replace(one, frames=frames), known, Rng.of(0, batch=2)
    ).frames
    assert bool(torch.isfinite(filled[:, :, 3, :, :8]).all())
    assert torch.equal(filled[:, :, 3, :, 8:12], one.frames[:, :, 3, :, 8:12])


def test_cameras_that_turn_or_come_nearer_are_refused() -> None:
    one, known = clip(4), past_and_future(2, 2, 0, 2)
    cameras = planar(torch.zeros(2, 4, 2), SIZE)
    nearer, turned = cameras.pose.clone(), cameras.pose.clone()
    nearer[:, :, 2, 2, 3] = 5.0
    turned[:, :, 1, :2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    for pose in (nearer, turned):
        moved = dataclasses.replace(one, cameras=dataclasses.replace(cameras, pose=pose))
        with pytest.raises(ValueError, match="none may turn or come nearer"):
            forcing.fill(net())(moved, known, Rng.of(0, batch=2))


def test_draws_of_a_batch_come_as_often_as_their_weights() -> None:
    draws = [masks.prefix(1, 1), masks.prefix(2, 2)]
    for weights, low, high in (((3.0, 1.0), 0.65, 0.85), ((1.0, 0.0), 1, 1), ((0.0, 2.0), 0, 0)):
        draw = masks.together(list(zip(weights, draws, strict=True)))
        first = [int(draw(1, 1, 4, Rng.of(seed)).sum()) == 1 for seed in range(200)]
        assert low <= sum(first) / 200 <= high, weights
