"""World: a loaded model with its verbs.

world = load("mcvd-digits")
clip = world.predict(prompt, num_frames=10, seed=0)
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskworld import checkpoint, solve
from maskworld.clip import Clip, join, of_frames, span
from maskworld.masks import past_and_future, these_frames
from maskworld.memory.window import Window
from maskworld.noise import Rng, mix
from maskworld.papers import mcvd
from maskworld.rollout import ahead_of, at_least_one, blank, rollout
from maskworld.verbs import Fill, Known, Surprise

# -- loading --------------------------------------------------------------------------------------


def load(name: str | Path, device: torch.device | str = "cpu") -> World:
    """A model by path, by its name in the zoo, or as `hub:owner/name`.

    Raises ValueError where there is none, where it is not of a family this version knows, or holds NaN.
    """
    path = checkpoint.find(name)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    family = about.get("family")
    if family != "mcvd":
        raise ValueError(f"{path} is a model of the family {family!r}; this version knows mcvd")
    config = _config(mcvd.Config, about.get("config"), path)
    net = mcvd.MCVD(config)
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    if {key: value.shape for key, value in tensors.items()} != shapes:
        raise ValueError(f"{path}: its weights do not fit its own configuration")
    net.load_state_dict({key: value.float() for key, value in tensors.items()})
    net = net.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return World(net, config, about)


def _config(kind: type, values: Any, path: Path):
    """A configuration from JSON, where tuples have become lists.

    A field that it lacks is as it was before there was such a field: its default, the paper's way.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not say which configuration its weights belong to")
    unknown = set(values) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"{path} was written by a newer version: its configuration has {sorted(unknown)}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{path}: its configuration is damaged: {' '.join(str(error).split())}") from None


def _solver(name: str) -> solve.Solver:
    if name not in solve.SOLVERS:
        near = difflib.get_close_matches(name, solve.SOLVERS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(solve.SOLVERS)}"
        raise ValueError(f"no solver is called {name}; {hint}")
    return solve.SOLVERS[name]


# -- verbs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A model and how it is sampled. Every verb is `fill` with another mask, and seeded.

    about      the header of its checkpoint: family, configuration, data, steps of training
    sampling   steps and solver; None takes the family's default
    """

    net: nn.Module
    config: mcvd.Config
    about: Mapping[str, Any]
    sampling: mcvd.Sampling | None = None

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def fill_with_rng(self) -> Fill:
        """The bare `Fill` of the model: (clip, known, rng) -> clip."""
        assert isinstance(self.net, mcvd.MCVD)
        return mcvd.fill(self.net, self.sampling or mcvd.default_sampling(self.config))

    @property
    def surprise_with_rng(self) -> Surprise | None:
        """The bare `Surprise` of the model; None where its family has none."""
        assert isinstance(self.net, mcvd.MCVD)
        if not self.config.past:
            return None
        return mcvd.surprise(self.net, precision=(self.sampling or mcvd.default_sampling(self.config)).precision)

    def sampled(
        self,
        steps: int | None = None,
        solver: str | None = None,
        precision: torch.dtype | None = None,
        on_call: Callable[[int, int], None] | None = None,
    ) -> World:
        """The same model, sampled in another way. Raises ValueError for an unknown solver or number of steps."""
        now = self.sampling or mcvd.default_sampling(self.config)
        if steps is not None and not 1 <= steps <= self.config.num_times:
            raise ValueError(f"between 1 and {self.config.num_times} steps, not {steps}")
        changes: dict[str, Any] = {"on_call": on_call or now.on_call}
        changes |= {"steps": steps} if steps is not None else {}
        changes |= {"solver": _solver(solver)} if solver is not None else {}
        changes |= {"precision": precision} if precision is not None else {}
        return dataclasses.replace(self, sampling=dataclasses.replace(now, **changes))

    def fill(self, clip: Clip, known: Known, seed: int = 0) -> Clip:
        """Fill in the rest. The noise of an example depends on the seed and its place in the batch."""
        return self.fill_with_rng(clip, known, Rng.of(seed, batch=clip.frames.shape[0]))

    def predict(self, prompt: Clip, num_frames: int, seed: int = 0) -> Clip:
        """The prompt and the `num_frames` frames after it."""
        b, v, t = prompt.frames.shape[:3]
        known = past_and_future(t, num_frames, 0, b, v).to(prompt.frames.device)
        return self.fill(join([prompt, ahead_of(prompt, num_frames)]), known, seed)

    def lookback(self, clip: Clip, num_frames: int, seed: int = 0) -> Clip:
        """The `num_frames` frames before a clip, and the clip."""
        b, v, t = clip.frames.shape[:3]
        at_least_one("frames", num_frames)
        before = torch.arange(-num_frames, 0, device=clip.times.device)
        known = past_and_future(0, num_frames, t, b, v).to(clip.frames.device)
        return self.fill(join([blank(clip.times[:, :1] + before, clip), clip]), known, seed)

    def interpolate(self, left: Clip, right: Clip, seed: int = 0) -> Clip:
        """Two clips and the frames between them; how many is what their times say."""
        gap = (right.times[:, 0] - left.times[:, -1] - 1).tolist()
        if len(set(gap)) != 1 or gap[0] < 1:
            raise ValueError(f"the times of the two clips leave gaps of {gap} frames; one and the same gap is needed")
        b, v, t = left.frames.shape[:3]
        between = blank(left.times[:, -1:] + torch.arange(1, gap[0] + 1, device=left.times.device), left)
        known = past_and_future(t, gap[0], right.frames.shape[2], b, v).to(left.frames.device)
        return self.fill(join([left, between, right]), known, seed)

    def generate(self, num_frames: int, batch: int = 1, seed: int = 0) -> Clip:
        """Clips from nothing."""
        at_least_one("frames", num_frames)
        at_least_one("clips", batch)
        c, size = self.config.channels, self.config.size
        empty = of_frames(torch.zeros(batch, 1, num_frames, c, size, size, device=self.device))
        known = these_frames([False] * num_frames, batch).to(self.device)
        return self.fill(empty, known, seed)

    def surprise(self, clip: Clip, start: int = 1, seed: int = 0) -> Float[Tensor, "b n"]:
        """How unexpected each frame from `start` on is. Every example gets the same noise, so that films compare.

        Raises ValueError for a family or a model that has no surprise.
        """
        watch = self.surprise_with_rng
        if watch is None:
            raise ValueError("this model sees no past: nothing can surprise it")
        return watch(clip, start, Rng([torch.Generator().manual_seed(mix(seed)) for _ in range(clip.frames.shape[0])]))

    def rollout(self, prompt: Clip, num_frames: int, seed: int = 0) -> Clip:
        """The `num_frames` frames after a prompt, block by block, seeing only what the model was trained to see."""
        rng = Rng.of(seed, batch=prompt.frames.shape[0])
        memory = Window(max(self.config.past, 1))
        return rollout(self.fill_with_rng, prompt, ahead_of(prompt, num_frames), memory, self.config.current, rng)


def half(clip: Clip, at: int) -> tuple[Clip, Clip]:
    """The clip before frame `at`, and from it on."""
    return span(clip, 0, at), span(clip, at, clip.frames.shape[2])
