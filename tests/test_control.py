"""Control tasks: the same seed films the same episode, the script beats chance, and what is missing is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskworld.data import control, episodes
from maskworld.data.episodes import Episode

gymnasium = pytest.importorskip("gymnasium")
try:
    control.choose_backend()
except ValueError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def cartpole():
    env = control.load("cartpole", 32)
    yield env
    env.close()


def returns(env: control.Suite, policy: str, num: int, steps: int) -> float:
    """The mean over episodes, none of which is drawn."""
    found = []
    for i in range(num):
        env.begin(i)
        act = control.POLICIES[policy](env, np.random.default_rng(i))
        found.append(sum(env.advance(act()) for _ in range(steps)))
    return float(np.mean(found))


# -- environments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "actions", "fps"),
    [("cheetah", 6, 50), ("walker", 6, 20), ("hopper", 4, 25), ("cartpole", 1, 25), ("reacher", 2, 25)]
    + [("pointmass", 2, 25)],
)
def test_every_task_is_filmed(name, actions, fps):
    env = control.load(name, 40)
    assert (env.name, env.actions, env.size) == (f"control-{name}", actions, 40)
    assert env.fps == pytest.approx(fps)
    first = env.reset(1)
    assert first.shape == (40, 40, 3) and first.dtype == np.uint8 and first.std() > 3
    frame, reward, ended = env.step(np.full(actions, 0.5))
    for _ in range(15):
        frame, reward, ended = env.step(np.full(actions, 0.5))
    assert not np.array_equal(frame, first) and 0 <= reward <= 4 and ended is False
    assert np.array_equal(env.reset(1), first) and not np.array_equal(env.reset(2), first)
    env.close()


def test_an_action_is_held_and_its_rewards_are_summed(cartpole):
    cartpole.begin(3)
    before = float(cartpole.physics.data.time)
    reward = cartpole.advance(np.array([1.0]))
    assert cartpole.physics.data.time - before == pytest.approx(4 * 0.01)
    cartpole.begin(3)
    single = sum(cartpole._env.step(np.array([1.0])).reward for _ in range(4))
    assert reward == pytest.approx(single)
    cartpole.begin(3)
    assert cartpole.advance(np.array([7.0])) == reward  # what is beyond 1 is 1
    for bad in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(ValueError, match="1 finite numbers"):
            cartpole.advance(bad)


def test_the_suites_look_has_shadows():
    frames = {}
    for look in ("fast", "suite"):
        env = control.load("walker", 48, look)
        frames[look] = env.reset(0).astype(int)
        env.close()
    assert 0.5 < np.abs(frames["fast"] - frames["suite"]).mean() < 30


def test_names_and_sizes_that_are_none():
    for name, says in (("cheeta", "did you mean cheetah"), ("xyzzy", "there are cheetah"), ("gym:Nope-v0", "Nope")):
        with pytest.raises(ValueError, match=says):
            control.load(name)
    with pytest.raises(ValueError, match="16 pixels"):
        control.load("cheetah", 8)


def test_a_renderer_that_is_none_is_said(monkeypatch):
    assert control.try_backend("nonsense") != "ok"
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(ValueError, match=r"cannot draw .*nonsense.*apt-get install"):
        control.choose_backend.__wrapped__()
    monkeypatch.setattr(control.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'maskworld\[control\]'"):
        control.choose_backend.__wrapped__()


def test_leaving_without_closing_is_silent():
    """Nothing complains, neither where somebody has let MuJoCo choose a screen before, nor at the end, where a
    renderer outlives what it needs.
    """
    code = (
        "import mujoco; from maskworld.data.control import load; env = load('cheetah', 16); print(env.reset(0).shape)"
    )
    free = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=free)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(16, 16, 3)\n", "")


# -- policies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num", "steps", "least"),
    [("cheetah", 4, 150, 40), ("walker", 6, 150, 20), ("cartpole", 3, 125, 250), ("reacher", 4, 120, 100)]
    + [("pointmass", 3, 150, 60)],
)
def test_the_script_is_better_than_chance(name, num, steps, least):
    env = control.load(name)
    assert isinstance(env, control.Suite)
    scripted, chance = returns(env, "scripted", num, steps), returns(env, "random", num, steps)
    assert scripted > max(least, 1.5 * chance), (scripted, chance)


def test_random_actions_are_smooth(cartpole):
    moves, sizes = [], []
    for i in range(20):
        act = control.random(cartpole, np.random.default_rng(i))
        path = np.array([act() for _ in range(300)])
        assert path.shape == (300, 1) and np.abs(path).max() <= 1
        moves.append(np.abs(np.diff(path, axis=0)).mean())
        sizes.append(path.std())
    assert np.mean(moves) < 0.8 * np.mean(sizes)  # of white noise it would be 1.13 of them
    assert min(sizes) > 0.15


# -- collecting ---------------------------------------------------------------------------------------


def same(a: Episode, b: Episode) -> bool:
    return (
        np.array_equal(a.frames, b.frames)
        and np.array_equal(a.actions, b.actions, equal_nan=True)
        and np.array_equal(a.rewards, b.rewards)
        and a.policy == b.policy
    )


def test_episodes_are_functions_of_their_number(cartpole):
    made = list(control.collect(cartpole, "all", 4, 12, 5))
    assert [e.policy for e in made] == ["random", "scripted", "mixed", "random"]
    assert [len(e) for e in made] == [13] * 4 and not any(e.terminal for e in made)
    later = list(control.collect(cartpole, "all", 4, 12, 5, start=2))
    assert all(same(a, b) for a, b in zip(later, made[2:], strict=True))
    other = next(iter(control.collect(cartpole, "all", 1, 12, 6)))
    assert not np.array_equal(other.actions[:-1], made[0].actions[:-1])
    assert not np.array_equal(made[0].actions[:-1], made[3].actions[:-1])


def test_an_episode_can_be_lived_again(cartpole):
    """The actions of an episode, taken again from its seed, show its frames and bring its rewards."""
    (episode,) = control.collect(cartpole, "mixed", 1, 20, 3)
    frames, rewards = [cartpole.reset(control.mix(3, 0))], [0.0]
    for action in episode.actions[:-1]:
        frame, reward, _ = cartpole.step(action)
        frames.append(frame)
        rewards.append(reward)
    assert np.array_equal(np.stack(frames), episode.frames)
    assert np.allclose(rewards, episode.rewards)


def test_what_cannot_be_collected(cartpole):
    with pytest.raises(ValueError, match="random, scripted, mixed or all"):
        control.collect(cartpole, "best", 1, 5, 0)
    with pytest.raises(ValueError, match="at least one step"):
        control.collect(cartpole, "random", 1, 0, 0)


# -- gymnasium ----------------------------------------------------------------------------------------


class Lamp(gymnasium.Env):
    """Its light is what was done last; it ends for good when that is at its highest."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, render_mode=None, discrete=False):
        self.render_mode = render_mode
        box = gymnasium.spaces.Box(np.array([0.0, -4.0], np.float32), np.array([10.0, 4.0], np.float32))
        self.action_space = gymnasium.spaces.Discrete(3, start=5) if discrete else box
        self.observation_space = gymnasium.spaces.Box(0, 10, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.light = float(self.np_random.uniform(0, 1))
        return np.array([self.light], np.float32), {}

    def step(self, action):
        self.light = float(action) if isinstance(self.action_space, gymnasium.spaces.Discrete) else float(action[0])
        return np.array([self.light], np.float32), self.light, self.light > 9.9, False, {}

    def render(self):
        return np.full((40, 60, 3), int(self.light * 20), np.uint8)


@pytest.fixture
def lamp():
    gymnasium.register("Lamp-v0", lambda **how: Lamp(**how), max_episode_steps=3)
    yield
    gymnasium.registry.pop("Lamp-v0")


def test_a_gymnasium_environment(lamp):
    env = control.load("gym:Lamp-v0", 16)
    assert (env.name, env.actions, env.size, env.fps) == ("gym:Lamp-v0", 2, 16, 7)
    first = env.reset(1)
    assert first.shape == (16, 16, 3) and np.array_equal(first, env.reset(1))
    for _ in range(5):  # its time limit of 3 steps is not ours
        frame, reward, ended = env.step(np.array([-0.5, 0.0]))
        assert (reward, ended, int(frame.max())) == (2.5, False, 50)
    assert env.step(np.array([1.0, 0.0]))[1:] == (10.0, True)
    ends = [e for e in control.collect(env, "random", 6, 60, 0) if e.terminal]
    assert ends and all(e.rewards[-1] > 9.9 and len(e) < 61 and e.policy == "random" for e in ends)
    for policy in ("scripted", "mixed", "all"):
        with pytest.raises(ValueError, match="no scripted policy"):
            control.collect(env, policy, 1, 5, 0)
    env.close()


def test_one_of_n_actions(lamp):
    gymnasium.register("Lamps-v0", lambda **how: Lamp(discrete=True, **how))
    env = control.load("gym:Lamps-v0", 16)
    assert env.actions == 3
    env.reset(0)
    assert [env.step(np.eye(3)[i])[1] for i in range(3)] == [5, 6, 7]
    gymnasium.registry.pop("Lamps-v0")


# -- the command --------------------------------------------------------------------------------------


def test_made_episodes_are_kept_and_gone_on_with(cli, tmp_path):
    out = tmp_path / "cp"
    make = ("data", "make", "control-cartpole", out, "--steps", 6, "--size", 16)
    assert cli(*make, "--episodes", 2)[:2] == (0, [f"{out}: 2 episodes, 14 frames, 16 x 16, colour"])
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert cli(*make, "--episodes", 4)[1] == [f"{out}: 4 episodes, 2 of them were there, 28 frames, 16 x 16, colour"]
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in out.iterdir()}.items()
    whole = tmp_path / "whole"
    assert cli("data", "make", "control-cartpole", whole, "--steps", 6, "--size", 16, "--episodes", 4)[0] == 0
    assert all(same(a, b) for a, b in zip(episodes.read(out), episodes.read(whole), strict=True))
    code, lines, errors = cli(*make, "--seed", 1)
    assert (code, lines) == (2, []) and "other episodes" in errors[0] and "--force" in errors[0]
    assert cli(*make, "--seed", 1, "--episodes", 1, "--force")[0] == 0
    assert len(episodes.read(out)) == 1

    code, lines, _ = cli("data", "inspect", whole)
    assert code == 0 and "4 episodes of 7 frames, 28 in all, 16 x 16" in lines[0] and len(lines) == 4
    found = json.loads(cli("data", "inspect", whole, "--json")[1][-1])
    assert (found["episodes"], found["frames"], found["actions"]) == (4, 28, 1)
    mine = [e.rewards.sum() for e in episodes.read(whole) if e.policy == "random"]
    assert found["policies"]["random"]["mean_return"] == pytest.approx(np.mean(mine), rel=1e-5)


def test_an_interrupted_collection_is_kept(cli, tmp_path, monkeypatch):
    from maskworld.commands import data

    out, collect = tmp_path / "x", control.collect

    def interrupted(*asked, **how):
        made = iter(collect(*asked, **how))
        yield next(made)
        raise KeyboardInterrupt

    monkeypatch.setattr(data.control, "collect", interrupted)
    make = ("data", "make", "control-cartpole", out, "--episodes", 3, "--steps", 4, "--size", 16)
    code, _, errors = cli(*make)
    assert code == 130 and "keeps 1 of 3 episodes; the same command goes on" in errors[-1]
    monkeypatch.undo()
    assert cli(*make)[0] == 0 and len(episodes.read(out)) == 3


@pytest.mark.parametrize("world", ["chain", "clock"])
def test_toy_episodes(cli, tmp_path, world):
    out = tmp_path / world
    assert cli("data", "make", world, out, "--episodes", 3, "--steps", 20)[0] == 0
    found = json.loads(cli("data", "inspect", out, "--json")[1][-1])
    assert (found["episodes"], found["frames"], found["channels"], found["actions"]) == (3, 63, 1, 0)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["control-cheeta"], "did you mean cheetah"),
        (["disks"], "did you mean discs"),
        (["nowhere"], "control-walker"),
        (["control-cheetah", "--clips", "3"], "takes no --clips"),
        (["chain", "--policy", "random"], "takes no --policy"),
        (["clock", "--size", "64"], "takes no --size"),
        (["discs", "--episodes", "3"], "takes no --episodes"),
        (["control-cheetah", "--episodes", "0"], "--episodes 0"),
        (["chain", "--steps", "0"], "--steps 0"),
        (["clock", "--seed", "-1"], "--seed -1"),
        (["control-cheetah", "--size", "3"], "16 pixels"),
        (["gym:Nope-v3"], "gym:Nope-v3 cannot be made"),
    ],
)
def test_what_cannot_be_made(cli, tmp_path, argv, says):
    out: Path = tmp_path / "out"
    code, lines, errors = cli("data", "make", argv[0], out, *argv[1:])
    assert (code, lines, len(errors)) == (2, [], 1) and says in errors[0]
    assert not out.exists()
