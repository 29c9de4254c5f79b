"""Control tasks as video: dm_control (MuJoCo) and gymnasium environments rendered off-screen, policies, episodes.

Everything here needs `pip install 'maskworld[control]'`, and imports it late. Positions of a policy's decisions are
counted from 0; a decision is held for some control steps (`repeat`), and its reward is the sum over them.

Sections: the renderer - environments - tasks - policies - collecting.
"""

from __future__ import annotations

import atexit
import difflib
import functools
import importlib
import importlib.util
import logging
import math
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.data.episodes import Episode
from maskworld.noise import mix

EXTRA = "pip install 'maskworld[control]'"

# -- the renderer -----------------------------------------------------------------------------------

BACKENDS = ("egl", "osmesa")

_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="plane" size="9 9 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
pixels = renderer.render()
renderer.close()
assert pixels.max() > 0, "the picture is black"
"""


def try_backend(backend: str) -> str:
    """`ok`, or the last line of what MuJoCo says: it draws a picture in a process of its own, where a backend that
    is missing can do no harm.
    """
    if importlib.util.find_spec("mujoco") is None:
        return f"mujoco is absent: {EXTRA}"
    env = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": backend}
    done = subprocess.run([sys.executable, "-c", _RENDER], capture_output=True, text=True, env=env, check=False)
    said = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return "ok" if done.returncode == 0 else (said[-1].strip() if said else f"it ends with code {done.returncode}")


@functools.cache
def choose_backend() -> str:
    """Decide how MuJoCo draws without a screen: what MUJOCO_GL says, else EGL, else OSMesa.

    ValueError where none of them works, with what to install. Elsewhere than on Linux MuJoCo's own choice stands.
    """
    for name in ("mujoco", "dm_control"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"control tasks need {name}: {EXTRA}")
    asked = os.environ.get("MUJOCO_GL", "")
    if platform.system() != "Linux":
        return asked or "native"
    told = {}
    for backend in (asked,) if asked else BACKENDS:
        told[backend] = try_backend(backend)
        if told[backend] == "ok":
            os.environ["MUJOCO_GL"] = backend
            for name in [] if asked else list(sys.modules):
                if name.startswith("mujoco.") and name.endswith(".gl_context"):  # imported before: it chose a screen
                    importlib.reload(sys.modules[name])
            return backend
    raise ValueError(
        f"MuJoCo cannot draw without a screen ({'; '.join(f'{b}: {why}' for b, why in told.items())}). On Debian and "
        "Ubuntu: apt-get install libegl1 libopengl0 libgl1-mesa-dri for EGL, or libosmesa6 for OSMesa"
        + (f"; or unset MUJOCO_GL, which is {asked!r}" if asked else "")
    )


def _close_at_exit(env: Env) -> None:
    """Close it, if it is still there, before MuJoCo takes down what it needs: to be asked once something is drawn."""
    still = weakref.ref(env)
    atexit.register(lambda: env.close() if (env := still()) is not None else None)


# -- environments -----------------------------------------------------------------------------------

Look = Literal["fast", "suite"]
"""fast: a small shadow map, no shadows, reflections or antialiasing (ten times faster), and all of the rail of the
cart and pole in view. suite: as dm_control draws."""


_COSTLY = (0, 2)  # mjRND_SHADOW and mjRND_REFLECTION


@runtime_checkable
class Env(Protocol):
    """A world that is seen as pixels and moved by actions in [-1, 1]."""

    name: str
    actions: int
    size: int
    fps: float

    def reset(self, seed: int) -> UInt8[np.ndarray, "h w 3"]:
        """Begin an episode: a function of the seed alone."""
        ...

    def step(self, action: Float[np.ndarray, " a"]) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool]:
        """(what is seen then, the reward on the way, whether it has ended for good: in a terminal state)."""
        ...

    def close(self) -> None: ...


def load(name: str, size: int = 64, look: Look = "fast") -> Env:
    """The environment of this name: one of TASKS, or gym:ID.

    ValueError for an unknown name, a missing extra, or where nothing can be drawn.
    """
    if size < 16:
        raise ValueError(f"frames of at least 16 pixels, not {size}")
    if look not in get_args(Look):
        raise ValueError(f"a look is one of {', '.join(get_args(Look))}, not {look!r}")
    if name.startswith("gym:"):
        return Gym(name.removeprefix("gym:"), size)
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)} and gym:ID"
        raise ValueError(f"no control task {name}: {hint}")
    return Suite(name, size, look)


class Suite:
    """A task of dm_control's suite (Tassa et al. 2018), through its camera 0. It never ends by itself."""

    def __init__(self, name: str, size: int, look: Look):
        choose_backend()
        with _quiet():
            from dm_control import suite

            task = TASKS[name]
            self._env: Any = suite.load(task.domain, task.task, task_kwargs={"random": 0, "time_limit": math.inf})
        self.name, self.size, self.look = f"control-{name}", size, look
        self.task = task
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum, spec.maximum
        self.actions = int(spec.shape[0])
        self.fps = 1 / (self._env.control_timestep() * task.repeat)
        self._renderer: Any = None

    @property
    def physics(self) -> Any:
        """dm_control's own: what a law of a scripted policy reads."""
        return self._env.physics

    def begin(self, seed: int) -> None:
        """Begin an episode, and draw nothing."""
        self._env.task.random.seed(seed % 2**32)
        self._env.reset()

    def advance(self, action: Float[np.ndarray, " a"]) -> float:
        """Go on by one decision, and draw nothing. Gives the reward."""
        control = _scaled(action, self._low, self._high)
        return float(sum(self._env.step(control).reward for _ in range(self.task.repeat)))

    def reset(self, seed: int) -> UInt8[np.ndarray, "h w 3"]:
        self.begin(seed)
        return self._draw()

    def step(self, action: Float[np.ndarray, " a"]) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool]:
        reward = self.advance(action)
        return self._draw(), reward, False

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _draw(self) -> UInt8[np.ndarray, "h w 3"]:
        import mujoco

        if self._renderer is None:
            model = self.physics.model.ptr
            if self.look == "fast":
                model.vis.quality.shadowsize, model.vis.quality.offsamples = 512, 0  # read when a context is made
                if self.task.fovy is not None:
                    model.cam_fovy[0] = self.task.fovy
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.size)
            model.vis.global_.offheight = max(model.vis.global_.offheight, self.size)
            self._renderer = mujoco.Renderer(model, self.size, self.size)
            _close_at_exit(self)
            if self.look == "fast":
                for flag in _COSTLY:
                    self._renderer.scene.flags[flag] = 0
        self._renderer.update_scene(self.physics.data.ptr, camera=0)
        return self._renderer.render()


class Gym:
    """A gymnasium environment: its picture scaled to a square, its box of actions to [-1, 1], without a time limit.

    Where actions are one of n, there are n channels and the largest is done.
    """

    def __init__(self, name: str, size: int):
        if importlib.util.find_spec("gymnasium") is None:
            raise ValueError(f"gym:{name} needs gymnasium: {EXTRA}")
        import gymnasium

        try:
            spec = gymnasium.spec(name)
            own: dict[str, Any] = {}
            if str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
                choose_backend()
                own = {"width": size, "height": size}
            self._env: Any = gymnasium.make(name, render_mode="rgb_array", max_episode_steps=-1, **own)
        except (gymnasium.error.Error, ImportError) as error:
            raise ValueError(f"gym:{name} cannot be made: {error}") from None
        space = self._env.action_space
        self._discrete = isinstance(space, gymnasium.spaces.Discrete)
        if self._discrete:
            self.actions, self._first = int(space.n), int(space.start)
        elif isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
            self.actions, self._low, self._high = int(space.shape[0]), space.low, space.high
        else:
            self._env.close()
            raise ValueError(f"gym:{name}: its actions are {space}; a bounded vector or one of n is wanted")
        self.name, self.size = f"gym:{name}", size
        self.fps = float(self._env.metadata.get("render_fps", 25))
        self._drawn = False

    def reset(self, seed: int) -> UInt8[np.ndarray, "h w 3"]:
        self._env.reset(seed=seed % 2**31)
        return self._draw()

    def step(self, action: Float[np.ndarray, " a"]) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool]:
        if self._discrete:
            control: Any = self._first + int(_scaled(action, -np.ones(self.actions), np.ones(self.actions)).argmax())
        else:
            control = _scaled(action, self._low, self._high).astype(self._env.action_space.dtype)
        _, reward, terminated, _, _ = self._env.step(control)
        return self._draw(), float(reward), bool(terminated)

    def close(self) -> None:
        self._env.close()

    def _draw(self) -> UInt8[np.ndarray, "h w 3"]:
        from PIL import Image

        pixels = np.asarray(self._env.render(), np.uint8)
        if not self._drawn:
            self._drawn = True
            _close_at_exit(self)
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BOX))


def _scaled(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """From [-1, 1] to what the world wants."""
    if action.shape != low.shape or not np.isfinite(action).all():
        raise ValueError(f"an action is {len(low)} finite numbers from -1 to 1, not {action}")
    return low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without absl's warnings: they are about dm_control's own XML."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


# -- tasks ------------------------------------------------------------------------------------------

Law = Callable[[Any], np.ndarray]
"""(dm_control's Physics) -> an action: what a scripted policy does. It sees the state, and not the picture."""


@dataclass(frozen=True)
class Gait:
    """Every joint swings as a sine of one frequency, and leans against the pitch of the trunk:
    offset + swing sin(2 pi frequency t + phase) + lean pitch + damp pitch'. Pitch in radians, frequency in Hz.
    """

    frequency: float
    offset: tuple[float, ...]
    swing: tuple[float, ...]
    phase: tuple[float, ...]
    lean: tuple[float, ...]
    damp: tuple[float, ...]

    def __call__(self, physics: Any) -> Float[np.ndarray, " a"]:
        pitch = float(physics.named.data.qpos["rooty"][0])
        pitch = (pitch + math.pi) % (2 * math.pi) - math.pi
        rate = float(physics.named.data.qvel["rooty"][0])
        offset, swing, phase, lean, damp = map(np.array, (self.offset, self.swing, self.phase, self.lean, self.damp))
        sine = np.sin(2 * np.pi * self.frequency * physics.data.time + phase)
        return np.clip(offset + swing * sine + lean * pitch + damp * rate, -1, 1)


def swing_up(physics: Any) -> Float[np.ndarray, " a"]:
    """Cart and pole: pump energy until the pole is nearly upright, then balance it (Astrom and Furuta 2000)."""
    x, angle = physics.data.qpos
    velocity, turning = physics.data.qvel
    angle = (angle + math.pi) % (2 * math.pi) - math.pi  # 0 is upright
    if abs(angle) < 0.63 and abs(turning) < 5:
        return np.clip([0.57 * x + 0.9 * velocity + 8.84 * angle + 2.68 * turning], -1, 1)
    lacking = turning**2 / 2 - 1.5 * 9.81 * (1 - math.cos(angle))  # of a thin rod of 1 m, over (m l^2 / 3)
    return np.clip([0.24 * lacking * turning * math.cos(angle) + 0.13 * x - 0.71 * velocity], -1, 1)


def _reach(physics: Any) -> Float[np.ndarray, " a"]:
    """The finger is drawn to the target by a spring, through the transposed Jacobian."""
    shoulder = physics.named.data.xpos["arm", :2]
    wrist = physics.named.data.xpos["hand", :2]
    finger = physics.named.data.geom_xpos["finger", :2]
    pull = physics.named.data.geom_xpos["target", :2] - finger
    jacobian = np.array([[-(finger - joint)[1], (finger - joint)[0]] for joint in (shoulder, wrist)])
    return np.clip(60 * jacobian @ pull - 0.25 * np.asarray(physics.data.qvel), -1, 1)


def _to_centre(physics: Any) -> Float[np.ndarray, " a"]:
    return np.clip(-20 * np.asarray(physics.data.qpos) - 18 * np.asarray(physics.data.qvel), -1, 1)


@dataclass(frozen=True)
class Task:
    """A task of the suite, the law of its scripted policy, and how many control steps a decision is held.

    fovy  degrees of the camera's view from top to bottom, where the suite's own loses sight of what it films
    """

    domain: str
    task: str
    law: Law
    repeat: int = 2
    fovy: float | None = None


# The numbers of the gaits were found by scripts/gaits.py.
CHEETAH = Gait(
    frequency=2.675,
    offset=(0.11, 0.52, -0.23, -0.2, -0.08, 0.4),
    swing=(1.34, 0.86, 1.3, 0.15, 1.03, 0.13),
    phase=(-1.22, -1.93, -1.91, 0.7, 0.91, -2.1),
    lean=(0.62, 0.14, 0.19, 0.35, 1.44, 0.08),
    damp=(-0.1, 0.62, 0.06, -0.4, 0.08, 0.45),
)
WALKER = Gait(
    frequency=2.296,
    offset=(-0.28, 0.3, 0.48, -0.01, -0.27, 0.15),
    swing=(1.2, 1.23, 0.85, 0.52, 1.18, 0.38),
    phase=(0.76, -0.76, -0.51, -0.65, -1.07, 0.22),
    lean=(-0.18, -0.55, -0.23, -0.32, -0.83, 0.26),
    damp=(0.53, -0.22, -0.64, 0.81, -0.4, 0.78),
)
HOPPER = Gait(
    frequency=3.964,
    offset=(0.41, 0.52, 0.12, -0.47),
    swing=(0.48, 0.67, 1.15, 1.08),
    phase=(-0.74, 0.92, 0.45, 1.46),
    lean=(0.36, 0.82, -1.03, -1.08),
    damp=(0.34, 0.15, 0.59, 0.36),
)

TASKS: dict[str, Task] = {
    "cheetah": Task("cheetah", "run", CHEETAH),
    "walker": Task("walker", "walk", WALKER),
    "hopper": Task("hopper", "hop", HOPPER),
    "cartpole": Task("cartpole", "swingup", swing_up, repeat=4, fovy=55.0),
    "reacher": Task("reacher", "easy", _reach),
    "pointmass": Task("point_mass", "easy", _to_centre),
}

# -- policies ---------------------------------------------------------------------------------------

Act = Callable[[], Float[np.ndarray, " a"]]
Policy = Callable[[Env, np.random.Generator], Act]
"""Begins an episode, and gives the function that is asked at each decision."""


def random(env: Env, rng: np.random.Generator) -> Act:
    """Smooth noise: an Ornstein-Uhlenbeck process for each channel, of a strength and a memory drawn per episode."""
    keep, strength = rng.uniform(0.6, 0.95), rng.uniform(0.4, 1.0)
    state = rng.normal(size=env.actions)

    def act() -> Float[np.ndarray, " a"]:
        nonlocal state
        action = np.clip(strength * state, -1, 1)
        state = keep * state + math.sqrt(1 - keep**2) * rng.normal(size=env.actions)
        return action

    return act


def scripted(env: Env, rng: np.random.Generator) -> Act:
    """The law of the task. ValueError where there is none."""
    if not isinstance(env, Suite):
        raise ValueError(f"{env.name} has no scripted policy, only a random one")
    return lambda: env.task.law(env.physics)


def mixed(env: Env, rng: np.random.Generator) -> Act:
    """Between the scripted policy and the random one, by a share that is drawn per episode."""
    share = rng.uniform(0.1, 0.9)
    good, noise = scripted(env, rng), random(env, rng)
    return lambda: (1 - share) * good() + share * noise()


POLICIES: dict[str, Policy] = {"random": random, "scripted": scripted, "mixed": mixed}

# -- collecting -------------------------------------------------------------------------------------


def labels(policy: str) -> Sequence[str]:
    """The policies that take turns, episode by episode: `all` is every one of POLICIES."""
    if policy == "all":
        return tuple(POLICIES)
    if policy not in POLICIES:
        raise ValueError(f"a policy is one of {', '.join(POLICIES)} or all, not {policy!r}")
    return (policy,)


def collect(env: Env, policy: str, episodes: int, steps: int, seed: int, start: int = 0) -> Iterator[Episode]:
    """Episodes number `start` to `episodes` - 1, of `steps` decisions each, or fewer where one ends for good.

    Each is a function of the environment, its policy, the seed and its number. With `all` the policies take turns.
    """
    turns = labels(policy)
    if steps < 1:
        raise ValueError(f"at least one step an episode, not {steps}")
    if set(turns) != {"random"} and not isinstance(env, Suite):
        raise ValueError(f"{env.name} has no scripted policy, only a random one")
    return (_episode(env, turns[i % len(turns)], steps, seed, i) for i in range(start, episodes))


def _episode(env: Env, label: str, steps: int, seed: int, number: int) -> Episode:
    act = POLICIES[label](env, np.random.default_rng([seed, number]))
    frames, actions, rewards, ended = [env.reset(mix(seed, number))], [], [0.0], False
    while len(frames) <= steps and not ended:
        action = act().astype(np.float32)
        frame, reward, ended = env.step(action)
        frames.append(frame)
        actions.append(action)
        rewards.append(reward)
    last = np.full(env.actions, np.nan, np.float32)
    return Episode(np.stack(frames), np.stack([*actions, last]), np.array(rewards, np.float32), ended, label)
