"""World: the verbs are `fill` with another mask; a model that cannot be loaded is refused in words."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from maskworld import checkpoint, solve
from maskworld.clip import Clip, example, of_frames, planar, span
from maskworld.masks import past_and_future
from maskworld.memory.evict import Evicting
from maskworld.memory.window import Window
from maskworld.noise import Rng
from maskworld.papers import forcing, maskgwm, mcvd, voc
from maskworld.world import BRICKS, TRAINING_ONLY, Reach, World, bricks, half, load, network, reach


@pytest.fixture(scope="module")
def world(tiny_checkpoint) -> World:
    return load(tiny_checkpoint).sampled(steps=3, solver="ddim")


def clip(t: int, b: int = 1, start: int = 4) -> Clip:
    rng = torch.Generator().manual_seed(t)
    return of_frames(torch.rand(b, 1, t, 1, 16, 16, generator=rng) * 2 - 1, start)


# -- verbs ------------------------------------------------------------------------------------------------


def test_predict_continues(world):
    start = clip(3)
    out = world.predict(start, 5)
    assert torch.equal(out.times, torch.arange(4, 12)[None])
    assert torch.equal(out.frames[:, :, :3], start.frames)
    assert out.frames[:, :, 3:].abs().max() <= 1
    assert out.frames[:, :, 3:].std() > 0.01


def test_lookback_precedes(world):
    start = clip(3)
    out = world.lookback(start, 5)
    assert torch.equal(out.times, torch.arange(-1, 7)[None])
    assert torch.equal(out.frames[:, :, 5:], start.frames)
    assert out.frames[:, :, :5].std() > 0.01


def test_interpolate_joins(world):
    left, right = half(clip(7), 2)
    right = span(right, 3, 5)
    out = world.interpolate(left, right)
    assert torch.equal(out.times, torch.arange(4, 11)[None])
    assert torch.equal(out.frames[:, :, :2], left.frames)
    assert torch.equal(out.frames[:, :, 5:], right.frames)
    known = past_and_future(2, 3, 2)
    grey = dataclasses.replace(out, frames=torch.where(known[..., None], out.frames, 0.5))
    assert torch.equal(out.frames, world.fill(grey, known).frames)


@pytest.mark.parametrize("start", [3, 6, 5])
def test_interpolate_needs_one_gap(world, start):
    left = clip(2)  # times 4 and 5
    with pytest.raises(ValueError, match="gap"):
        world.interpolate(left, clip(2, start=start))
    right = dataclasses.replace(clip(2, b=2), times=torch.tensor([[8, 9], [9, 10]]))
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        world.interpolate(clip(2, b=2), right)


def test_generate_makes_what_is_asked(world):
    out = world.generate(5, batch=2)
    assert out.shape == (2, 1, 5, 1, 16, 16)
    assert torch.equal(out.times, torch.arange(5).expand(2, 5))
    assert (out.frames[0] - out.frames[1]).abs().max() > 0.1


def test_rollout_is_predict_where_the_window_is_the_context(world):
    # Blocks draw from one stream of noise, and a block sees the two frames before it, either way.
    start = clip(2, b=2)
    rolled = world.rollout(start, 6, seed=3)
    predicted = world.predict(start, 6, seed=3)
    assert torch.equal(rolled.times, predicted.times[:, 2:])
    torch.testing.assert_close(rolled.frames, predicted.frames[:, :, 2:], atol=1e-5, rtol=0)


def test_fill_hides_a_box(world):
    full = clip(6)
    known = torch.ones(1, 1, 6, 16, 16, dtype=torch.bool)
    known[:, :, 2:4, 4:8, 4:12] = False
    out = world.fill(full, known)
    there = known[:, :, :, None].expand_as(full.frames)
    assert torch.equal(out.frames[there], full.frames[there])
    assert (out.frames[~there] != full.frames[~there]).float().mean() > 0.9


# -- seeds --------------------------------------------------------------------------------------------------


def test_the_seed_says_it_all(world):
    outs = [world.predict(clip(2), 2, seed=seed).frames for seed in (7, 7, 8)]
    assert torch.equal(outs[0], outs[1])
    assert (outs[0] - outs[2]).abs().max() > 0.05


def test_global_randomness_is_neither_used_nor_touched(world):
    torch.manual_seed(1)
    first, after = world.generate(2).frames, torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, world.generate(2).frames)


def test_an_example_does_not_depend_on_its_batch(world):
    torch.testing.assert_close(world.generate(4, batch=3).frames[:1], world.generate(4).frames, atol=1e-4, rtol=0)
    many = clip(3, b=3)
    torch.testing.assert_close(
        world.predict(many, 3).frames[:1], world.predict(example(many, [0]), 3).frames, atol=1e-4, rtol=0
    )


# -- how it is sampled ----------------------------------------------------------------------------------------


def test_sampled_changes_what_is_named_and_nothing_else(world, tiny_checkpoint):
    plain = load(tiny_checkpoint)
    assert plain.sampling is None
    assert plain.sampled() == dataclasses.replace(plain, sampling=mcvd.default_sampling(plain.config))
    calls: list[tuple[int, int]] = []
    other = world.sampled(steps=4, on_call=lambda done, total: calls.append((done, total)))
    assert other.sampling.steps == 4 and other.sampling.solver is solve.ddim
    assert world.sampling.steps == 3
    other.generate(4)
    assert calls == [(i, 8) for i in range(1, 9)]
    assert other.sampled(precision=torch.bfloat16).sampling.on_call is other.sampling.on_call


def test_another_solver_draws_other_pixels(world):
    assert (world.generate(2).frames - world.sampled(solver="heun").generate(2).frames).abs().max() > 1e-3


def test_half_precision_is_near(world):
    full, fast = world.predict(clip(2), 2), world.sampled(precision=torch.bfloat16).predict(clip(2), 2)
    assert torch.equal(fast.frames[:, :, :2], full.frames[:, :, :2])
    assert 0 < (fast.frames - full.frames).abs().mean() < 0.05


@pytest.mark.parametrize("steps", [0, -1, 51])
def test_steps_that_there_are_not(world, steps):
    with pytest.raises(ValueError, match=f"between 1 and 50 steps, not {steps}"):
        world.sampled(steps=steps)


def test_a_solver_that_there_is_not(world):
    with pytest.raises(ValueError, match=r"no solver is called dimm; did you mean ddim\?"):
        world.sampled(solver="dimm")
    with pytest.raises(ValueError, match="there are ddpm"):
        world.sampled(solver="xyz")


# -- what cannot be done --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [0, -2])
def test_no_frames(world, frames):
    for verb in (world.generate, lambda n: world.predict(clip(2), n), lambda n: world.lookback(clip(2), n)):
        with pytest.raises(ValueError, match="1 or more"):
            verb(frames)
    with pytest.raises(ValueError, match="1 or more"):
        world.rollout(clip(2), frames)
    with pytest.raises(ValueError, match="1 or more"):
        world.generate(2, batch=frames)


def test_less_than_the_context(world):
    for verb in (world.predict, world.lookback, world.rollout):
        with pytest.raises(ValueError, match=r"at least 2 frame\(s\)"):
            verb(clip(1), 2)


def test_other_sizes(world):
    wide = of_frames(torch.zeros(1, 1, 2, 1, 16, 20))
    colour = of_frames(torch.zeros(1, 1, 2, 3, 16, 16))
    for other in (wide, colour):
        with pytest.raises(ValueError, match="one view of 1 x 16 x 16"):
            world.predict(other, 2)


# -- loading ----------------------------------------------------------------------------------------------------


def altered(tiny_checkpoint: Path, path: Path, change) -> Path:
    tensors, about = checkpoint.read(tiny_checkpoint)
    change(tensors, about)
    checkpoint.write(path, tensors, about)
    return path


def drop_field(tensors: dict, about: dict) -> None:
    del about["config"]["width"]


def add_field(tensors: dict, about: dict) -> None:
    about["config"]["colour"] = 3


def other_family(tensors: dict, about: dict) -> None:
    about["family"] = "dreamer"


def no_family(tensors: dict, about: dict) -> None:
    del about["family"]


def no_config(tensors: dict, about: dict) -> None:
    del about["config"]


def wrong_type(tensors: dict, about: dict) -> None:
    about["config"]["size"] = "sixteen"


def size_zero(tensors: dict, about: dict) -> None:
    about["config"]["size"] = 0


def wider(tensors: dict, about: dict) -> None:
    about["config"]["width"] = 16


def lost_weight(tensors: dict, about: dict) -> None:
    del tensors[next(iter(tensors))]


def nan(tensors: dict, about: dict) -> None:
    next(iter(tensors.values())).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop_field, "its weights do not fit"),
        (add_field, r"newer version: its configuration has \['colour'\]"),
        (other_family, "family dreamer; this version knows mcvd, forcing, voc, maskgwm"),
        (no_family, "family None"),
        (no_config, "which configuration"),
        (wrong_type, "configuration is damaged"),
        (size_zero, "size is 1 or more, not 0"),
        (wider, "do not fit its own configuration"),
        (lost_weight, "do not fit its own configuration"),
        (nan, "NaN"),
    ],
)
def test_what_is_no_model_is_refused(tiny_checkpoint, tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        load(altered(tiny_checkpoint, tmp_path / "model.safetensors", change))


def test_a_model_comes_back_as_it_was(tiny_checkpoint, tmp_path):
    world = load(tiny_checkpoint)
    tensors, about = checkpoint.read(tiny_checkpoint)
    assert world.config == mcvd.tiny() and world.about == about
    assert all(torch.equal(value, tensors[name]) for name, value in world.net.state_dict().items())
    assert not world.net.training and not any(p.requires_grad for p in world.net.parameters())
    shutil.copy(tiny_checkpoint, tmp_path / checkpoint.MODEL)
    again = load(tmp_path)
    rng = [Rng.of(0) for _ in range(2)]
    known = past_and_future(2, 2, 2)
    fills = [w.sampled(steps=2).fill_with_rng(clip(6), known, r) for w, r in zip((world, again), rng, strict=True)]
    assert torch.equal(fills[0].frames, fills[1].frames)


# -- the causal family ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal(forcing_checkpoint) -> World:
    return load(forcing_checkpoint).sampled(steps=2)


def film(t: int, b: int = 1) -> Clip:
    rng = torch.Generator().manual_seed(t)
    return of_frames(torch.rand(b, 1, t, 3, 64, 64, generator=rng) * 2 - 1)


def acts(t: int, b: int = 1) -> torch.Tensor:
    return torch.rand(b, t, 9, generator=torch.Generator().manual_seed(t)) * 2 - 1


def test_what_both_families_say_of_themselves(world, causal):
    assert [(w.size, w.channels) for w in (world, causal)] == [((16, 16), 1), ((64, 64), 3)]
    assert world.reach == Reach(2, 2, (2, 2), 2, 2, 6)
    assert causal.reach == Reach(8, 8, (4, 4), 2, 8, 10, 8, 9, ("merge", "ssm"))
    values = voc.Config(stack=3, actions=6)
    assert reach(values) == Reach(3, 0, (3, 0), 1, 1, 4, None, 6)


def test_every_verb_of_the_causal_family(causal):
    prompt = film(4)
    out = causal.predict(prompt, 3)
    assert out.shape == (1, 1, 7, 3, 64, 64) and torch.equal(out.frames[:, :, :4], prompt.frames)
    assert torch.equal(causal.lookback(prompt, 3).frames[:, :, 3:], prompt.frames)
    left, right = span(film(7), 0, 2), span(film(7), 5, 7)
    assert torch.equal(causal.interpolate(left, right).frames[:, :, 5:], right.frames)
    assert causal.generate(3, batch=2).shape == (2, 1, 3, 3, 64, 64)
    assert causal.surprise(film(5), 2).shape == (1, 3)
    again = causal.rollout(prompt, 3, memory=Window(4))
    torch.testing.assert_close(again.frames[:, :, :2], out.frames[:, :, 4:6], atol=1e-4, rtol=0)


def test_the_causal_family_has_steps_and_no_solvers(causal):
    with pytest.raises(ValueError, match="forcing has no solvers"):
        causal.sampled(solver="ddim")
    with pytest.raises(ValueError, match="between 1 and 1000 steps, not 1001"):
        causal.sampled(steps=1001)
    calls: list[tuple[int, int]] = []
    causal.sampled(steps=3, on_call=lambda *call: calls.append(call)).generate(4)
    assert calls == [(i, 6) for i in range(1, 7)]


def test_learned_memories_come_back_as_they_were(causal, forcing_checkpoint):
    tensors, _ = checkpoint.read(forcing_checkpoint)
    assert isinstance(causal.config, forcing.Config)
    assert list(bricks(causal.config)) == ["merge", "ssm"]
    assert {name for name in tensors if name.startswith("memories.")} == {
        f"memories.{name}" for name in causal.net.get_submodule("memories").state_dict()
    }
    for name in ("merge", "ssm"):
        brick: Any = causal.net.get_submodule(f"memories.{name}")
        memory = Evicting(4, partial(causal.net.write, name), brick.empty, 0)
        rolled = causal.rollout(film(7), 3, memory=memory, reads=name)
        # what was evicted matters: other frames, that are shown to nobody, and another future
        earlier = dataclasses.replace(
            film(7), frames=film(7).frames * torch.tensor([-1.0] * 3 + [1.0] * 4)[:, None, None, None]
        )
        assert not torch.equal(rolled.frames, causal.rollout(earlier, 3, memory=memory, reads=name).frames)


@pytest.mark.parametrize("name", BRICKS)
def test_every_learned_memory_is_built_by_its_name(name):
    config = forcing.tiny(memories=(name,))
    net = network(config)
    assert isinstance(net, forcing.Forcing) and list(net.memories) == [name]
    shapes = [{key: value.shape for key, value in network(config).state_dict().items()} for _ in range(2)]
    assert shapes[0] == shapes[1]


def test_a_learned_memory_that_there_is_not(causal):
    with pytest.raises(ValueError, match=r"no learned memory is called sms; did you mean ssm\?"):
        bricks(forcing.tiny(memories=("sms",)))
    with pytest.raises(ValueError, match="it holds merge, ssm"):
        causal.rollout(film(4), 2, reads="ttt")


def test_a_rollout_is_told_its_actions_and_cameras(causal):
    prompt, actions = film(4), acts(9)
    rolled = causal.rollout(prompt, 5, actions=actions)
    assert torch.equal(rolled.actions, actions[:, 4:])
    later = actions.clone()
    later[:, 6:] = -later[:, 6:]  # felt at frame 7: the fourth that is new, in the second block
    changed = causal.rollout(prompt, 5, actions=later)
    assert torch.equal(changed.frames[:, :, :2], rolled.frames[:, :, :2])
    assert not torch.equal(changed.frames[:, :, 3], rolled.frames[:, :, 3])
    cameras = planar(torch.arange(9.0)[None, :, None].expand(1, 9, 2) * 8, 64)
    seen = causal.rollout(prompt, 5, actions=actions, cameras=cameras)
    assert torch.equal(seen.cameras.pose, cameras.pose[:, :, 4:])
    assert not torch.equal(seen.frames, rolled.frames)


def test_a_rollout_that_cannot_be(world, causal):
    with pytest.raises(ValueError, match="actions for 8 frames; 4 are known and 5 new: 1 are missing"):
        causal.rollout(film(4), 5, actions=acts(8))
    with pytest.raises(ValueError, match=r"cameras for 7 frames; .* 2 are missing"):
        causal.rollout(film(4), 5, cameras=planar(torch.zeros(1, 7, 2), 64))
    with pytest.raises(ValueError, match="actions of 9 channels, not 2"):
        causal.rollout(film(4), 5, actions=acts(9)[..., :2])
    with pytest.raises(ValueError, match="takes no actions"):
        world.rollout(clip(2), 2, actions=torch.zeros(1, 4, 9))
    with pytest.raises(ValueError, match="a stride of 9 frames is longer than the window of 8"):
        causal.rollout(film(4), 5, stride=9)
    with pytest.raises(ValueError, match="shows up to 9 frames, more than the window of 8"):
        causal.rollout(film(4), 5, memory=Window(9))
    with pytest.raises(ValueError, match="its family has none"):
        world.rollout(clip(2), 2, reads="ssm")


def test_a_clip_with_actions_is_predicted_looked_back_from_and_interpolated() -> None:
    """Of what lies ahead nothing more is known than its times."""
    world = World(network(forcing.tiny(actions=2)).eval(), forcing.tiny(actions=2), {}).sampled(steps=1)
    clip = of_frames(torch.rand(1, 1, 4, 1, 16, 16) * 2 - 1)
    acted = dataclasses.replace(clip, actions=torch.ones(1, 4, 2))
    after = dataclasses.replace(acted, times=acted.times + 6)
    for verb in (lambda c: world.predict(c, 2), lambda c: world.lookback(c, 2)):
        assert torch.equal(verb(acted).frames, verb(clip).frames)
    assert world.interpolate(acted, after).frames.shape[2] == 10


# -- the family of drives ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Three views of 16 x 24, random weights, those of training alone among them."""
    config = maskgwm.tiny(size=(16, 24), views=3, hidden=1 / 3)
    rng = torch.Generator().manual_seed(0)
    state = network(config).state_dict().items()
    weights = {name: value + 0.1 * torch.randn(value.shape, generator=rng) for name, value in state}
    path = tmp_path_factory.mktemp("drives") / checkpoint.MODEL
    checkpoint.write(path, weights, {"family": "maskgwm", "config": dataclasses.asdict(config), "step": 0})
    return path, weights


def test_frames_that_are_not_square_in_several_views(drives):
    world = load(drives[0]).sampled(steps=2)
    assert world.size == (16, 24) and world.reach == Reach(3, 3, (2, 1), 3, 3, 6, None, 2, (), 3)
    assert world.generate(4, batch=2).shape == (2, 3, 4, 1, 16, 24)
    prompt = of_frames(torch.rand(1, 3, 3, 1, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    out = world.predict(prompt, 5)
    assert out.shape == (1, 3, 8, 1, 16, 24) and torch.equal(out.frames[:, :, :3], prompt.frames)
    rolled = world.rollout(prompt, 4, actions=torch.tensor([[[5.0, 0.1]]]).expand(1, 7, 2))
    assert rolled.frames.shape == (1, 3, 4, 1, 16, 24) and rolled.frames.std() > 0.01


def test_what_training_alone_has_is_not_loaded(drives, tmp_path):
    path, weights = drives
    assert any(name.startswith("filler.") for name in weights)
    world = load(path)
    assert not any(name.startswith("filler.") for name in world.net.state_dict())
    tensors, about = checkpoint.read(path)
    kept = {name: value for name, value in tensors.items() if not name.startswith(TRAINING_ONLY)}
    checkpoint.write(tmp_path / checkpoint.MODEL, kept, about)  # as in the zoo
    again = [w.sampled(steps=1).generate(2).frames for w in (world, load(tmp_path))]
    assert torch.equal(*again)


def test_what_the_family_of_drives_has_not(drives):
    world = load(drives[0])
    with pytest.raises(ValueError, match="MaskGWM has no solvers"):
        world.sampled(solver="euler")
    with pytest.raises(ValueError, match="nothing can surprise it"):
        world.surprise(of_frames(torch.zeros(1, 3, 4, 1, 16, 24)))
    assert world.surprise_with_rng is None
    calls: list[tuple[int, int]] = []
    world.sampled(steps=2, on_call=lambda *call: calls.append(call)).generate(4)
    assert calls[-1] == (4, 4)
