"""World: a loaded model with its verbs.

world = load("mcvd-digits")
clip = world.predict(prompt, num_frames=10, seed=0)

Five families are known: mcvd; forcing, whose learned memories are built again by their names; voc, which holds the
tokenizer in whose codes it thinks; maskgwm, which may hold one for its latents, and sees several views; and mim4d,
which lifts several views into voxels, and renders them.

Sections: loading - what families have in common - learned memories - verbs.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskworld import checkpoint, solve
from maskworld.clip import Cameras, Clip, at_frames, join, of_frames, span
from maskworld.masks import past_and_future, these_frames
from maskworld.memory.base import Memory
from maskworld.memory.compress import Compress
from maskworld.memory.evict import Evicting
from maskworld.memory.merge import Merge
from maskworld.memory.recurrent import Squeeze
from maskworld.memory.ssm import GatedDelta
from maskworld.memory.ttt import TTTLinear
from maskworld.memory.window import Window
from maskworld.noise import Rng, mix
from maskworld.papers import forcing, maskgwm, mcvd, mim4d, voc
from maskworld.rollout import ahead_of, at_least_one, blank, rollout
from maskworld.tokenizers import hub, kinds
from maskworld.tokenizers.base import Tokenizer
from maskworld.tokenizers.latent import Continuous
from maskworld.verbs import Fill, Known, Surprise

# -- loading --------------------------------------------------------------------------------------

Config = mcvd.Config | forcing.Config | voc.Config | maskgwm.Config | mim4d.Config
Sampling = mcvd.Sampling | forcing.Sampling | voc.Sampling | maskgwm.Sampling | mim4d.Sampling
CONFIGS: Mapping[str, type[Config]] = {
    "mcvd": mcvd.Config,
    "forcing": forcing.Config,
    "voc": voc.Config,
    "maskgwm": maskgwm.Config,
    "mim4d": mim4d.Config,
}
TOKENIZER = "tokenizer"  # the family of what is no world, but part of one
ENCODER = "mim4d encoder"  # the family of what sees several cameras, and renders nothing
TRAINING_ONLY = ("target.", "filler.")  # how weights begin that only a training reads
MOST_STEPS = 1000  # of a family whose levels of noise are a continuum


def load(name: str | Path, device: torch.device | str = "cpu") -> World:
    """A model by path, by its name in the zoo, or as `hub:owner/name`.

    Raises ValueError where there is none, where it is not of a family this version knows, or holds NaN.
    """
    path = checkpoint.find(name)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    family = str(about.get("family"))
    if family == ENCODER:
        raise ValueError(f"{path} is an encoder and no world: `maskworld.world.load_encoder` reads it")
    if family == TOKENIZER:
        raise ValueError(f"{path} is a tokenizer and no world: `maskworld tokens` measures it, `value fit` uses it")
    if family not in CONFIGS:
        raise ValueError(f"{path} is a model of the family {family}; this version knows {', '.join(CONFIGS)}")
    config = _config(CONFIGS[family], about.get("config"), path)
    made = network(config, about.get(TOKENIZER))
    if isinstance(made, maskgwm.MaskGWM):
        made.filler = None  # training alone has it
    net = _with_weights(made, tensors, path).to(device)
    if family == "mcvd":
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return World(net, config, about)


def load_tokenizer(
    name: str | Path, device: torch.device | str = "cpu"
) -> tuple[Tokenizer | Continuous, Mapping[str, Any]]:
    """A tokenizer, trained by itself or held by a world, and the header of its checkpoint. `flat`, which has no
    weights, is had by its file alone, too; `kl:` and `tiny:` before a folder or a name of the hub, as in
    `kl:OWNER/NAME`, read diffusers' AutoencoderKL and AutoencoderTiny.

    Raises ValueError where there is none.
    """
    kind, _, place = str(name).partition(":")
    if kind in get_args(hub.Kind):
        found = hub.pretrained(place, kind)  # type: ignore[arg-type]
        return found.to(device), {"family": TOKENIZER, "config": kinds.config_of(found)}
    path = checkpoint.find(name)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    config = about.get("config") if about.get("family") == TOKENIZER else about.get(TOKENIZER)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is a model of the family {about.get('family')} and holds no tokenizer")
    if about["family"] != TOKENIZER:
        first = "tokenizer."
        tensors = {key.removeprefix(first): value for key, value in tensors.items() if key.startswith(first)}
    net = kinds.build(config)
    assert isinstance(net, nn.Module)
    return _with_weights(net, tensors, path).to(device), about  # type: ignore[return-value]


def load_codes(name: str | Path, device: torch.device | str = "cpu") -> tuple[Tokenizer, Mapping[str, Any]]:
    """`load_tokenizer`, where frames are to become codes. Raises ValueError for a tokenizer that makes latents."""
    net, about = load_tokenizer(name, device)
    if not isinstance(net, Tokenizer):
        raise ValueError(f"{name} makes latents of frames, and codes are wanted: `maskworld train tokenizer`")
    return net, about


def load_latents(name: str | Path, device: torch.device | str = "cpu") -> tuple[Continuous, Mapping[str, Any]]:
    """`load_tokenizer`, where frames are to become latents. Raises ValueError for a tokenizer that makes codes."""
    net, about = load_tokenizer(name, device)
    if not isinstance(net, Continuous):
        raise ValueError(f"{name} makes codes of frames, and latents are wanted: `maskworld train vae`")
    return net, about


def load_encoder(name: str | Path, device: torch.device | str = "cpu") -> mim4d.Encoder:
    """The encoder of several cameras that `maskworld export` wrote, or that a model of the family mim4d holds.

    Raises ValueError where there is none.
    """
    path = checkpoint.find(name)
    tensors, about = checkpoint.read(path)
    checkpoint.finite(tensors, path)
    if about.get("family") == "mim4d":
        first = "encoder."
        tensors = {key.removeprefix(first): value for key, value in tensors.items() if key.startswith(first)}
    elif about.get("family") != ENCODER:
        raise ValueError(f"{path} is a model of the family {about.get('family')} and holds no encoder of cameras")
    net = mim4d.Encoder(_config(mim4d.Config, about.get("config"), path))
    return _with_weights(net, tensors, path).to(device)  # type: ignore[return-value]


def network(config: Config, tokenizer: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of a configuration, with the learned memories of which it speaks and the tokenizer that is its own;
    weights at random.

    Raises ValueError for a tokenizer that does not go with it.
    """
    if isinstance(config, mcvd.Config):
        return mcvd.MCVD(config)
    if isinstance(config, forcing.Config):
        return forcing.Forcing(config, bricks(config))
    if isinstance(config, mim4d.Config):
        return mim4d.MIM4D(config)
    of = None if tokenizer is None else kinds.build(tokenizer)
    assert of is None or isinstance(of, nn.Module)
    if isinstance(config, maskgwm.Config):
        return maskgwm.MaskGWM(config, of)
    if of is None:
        raise ValueError("a video occupancy model without a tokenizer: its checkpoint is damaged")
    return voc.VOC(config, of)


def _with_weights(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network with these weights, for use and not for training."""
    tensors = {key: value for key, value in tensors.items() if not key.startswith(TRAINING_ONLY)}
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    if {key: value.shape for key, value in tensors.items()} != shapes:
        raise ValueError(f"{path}: its weights do not fit its own configuration")
    net.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in tensors.items()})
    return net.eval().requires_grad_(False)


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
        return kind(**{key: _tuples(value) for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{path}: its configuration is damaged: {' '.join(str(error).split())}") from None


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _solver(name: str) -> solve.Solver:
    if name not in solve.SOLVERS:
        near = difflib.get_close_matches(name, solve.SOLVERS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(solve.SOLVERS)}"
        raise ValueError(f"no solver is called {name}; {hint}")
    return solve.SOLVERS[name]


# -- what families have in common -------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """What a family sees and fills in, whatever it calls it.

    past, future   most known frames before and after what is filled in
    around         the same, where both are shown
    stride         frames filled in together
    ahead          frames filled in where nobody says how many
    num_frames     frames seen at once, known and unknown
    window         most known frames shown at once, wherever they come from; None: the last ones are
    actions        channels of the actions that it takes
    memories       names of the learned memories that it holds
    views          cameras seen at once
    """

    past: int
    future: int
    around: tuple[int, int]
    stride: int
    ahead: int
    num_frames: int
    window: int | None = None
    actions: int = 0
    memories: tuple[str, ...] = ()
    views: int = 1


def reach(config: Config) -> Reach:
    """What the family of this configuration sees and fills in."""
    if isinstance(config, mcvd.Config):
        return Reach(
            config.past, config.future, (config.past, config.future), config.current,
            max(config.current, config.past), config.num_frames,
        )  # fmt: skip
    if isinstance(config, forcing.Config):
        w, n = config.window, config.block
        return Reach(w, w, (w - w // 2, w // 2), n, max(n, w), w + n, w, config.actions, config.memories)
    if isinstance(config, maskgwm.Config):
        r, n = config.references, config.num_frames - config.references
        return Reach(
            r, r, (r - r // 2, r // 2), n, n, config.num_frames, None, config.num_actions, (), config.views
        )  # fmt: skip
    if isinstance(config, mim4d.Config):
        t = config.num_frames
        return Reach(t - 1, t - 1, (1, max(t - 2, 1)), 1, 1, t, None, 0, (), config.views)
    # A frame of the discounted future is no next frame: nothing can follow it.
    return Reach(config.stack, 0, (config.stack, 0), 1, 1, config.stack + 1, None, config.actions)


def default_sampling(config: Config) -> Sampling:
    """How the family of this configuration is sampled where nobody says how."""
    if isinstance(config, mcvd.Config):
        return mcvd.default_sampling(config)
    if isinstance(config, maskgwm.Config):
        return maskgwm.Sampling()
    if isinstance(config, mim4d.Config):
        return mim4d.Sampling()
    return forcing.Sampling() if isinstance(config, forcing.Config) else voc.Sampling()


# -- learned memories -----------------------------------------------------------------------------


def _compress(config: forcing.Config) -> nn.Module:
    # As many levels, each twice as coarse as the one before, as tile the frames.
    queues = tuple(n for i, n in enumerate((2, 4, 16)) if config.size % (2 ** (i + 1) * config.patch) == 0)
    if not queues:
        raise ValueError(
            f"patches of {2 * config.patch} pixels do not tile frames of {config.size}: nothing to compress"
        )
    return Compress(config.dim, config.channels, config.patch, config.size, queues)


def _half(number: int) -> int:
    return max(number // 2, 1)


BRICKS: Mapping[str, Callable[[forcing.Config], nn.Module]] = {
    "compress": _compress,
    "merge": lambda config: Merge(config.dim, 4 * config.tokens),
    # every other layer, the last one among them
    "ssm": lambda config: GatedDelta(
        config.dim, config.depth, _half(config.heads), layers=range(1 - config.depth % 2, config.depth, 2)
    ),
    "ttt": lambda config: TTTLinear(config.dim, config.depth, _half(config.heads)),
    "recurrent": lambda config: Squeeze(config.dim, num_heads=config.heads),
}
"""Learned memories by name, made for a network of this configuration. A change of sizes here orphans checkpoints."""


def bricks(config: forcing.Config) -> dict[str, nn.Module]:
    """The learned memories of which a configuration speaks, weights at random: their sizes follow from it alone.

    Raises ValueError for a name that there is not.
    """
    made = {}
    for name in config.memories:
        if name not in BRICKS:
            near = difflib.get_close_matches(name, BRICKS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BRICKS)}"
            raise ValueError(f"no learned memory is called {name}; {hint}")
        made[name] = BRICKS[name](config)
    return made


def begin_memories(net: nn.Module, names: Collection[str]) -> None:
    """Give new memories of a network what they begin with that is in it: its embedding of patches."""
    for name in names:
        brick = net.get_submodule(f"memories.{name}")
        if isinstance(brick, Compress):
            embed = net.get_submodule("embed")
            assert isinstance(embed, nn.Linear)
            brick.start_from(embed.weight, embed.bias)


def begin_target(net: nn.Module) -> None:
    """Let the slow copy from which a training draws begin as what it is a copy of."""
    if isinstance(net, voc.VOC) and net.target is not None:
        net.target.load_state_dict(net.occupancy.state_dict())


def evicting(net: forcing.Forcing, name: str, recent: int) -> Evicting:
    """The learned memory of this name: shows `recent` frames, and writes what falls out of them."""
    brick: Any = net.memories[name]
    tokens = 0 if brick.layered else brick.tokens(brick.empty(1))[0].shape[1]
    return Evicting(recent, partial(net.write, name), brick.empty, tokens)


# -- verbs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A model and how it is sampled. Every verb is `fill` with another mask, and seeded.

    about      the header of its checkpoint: family, configuration, data, steps of training
    sampling   steps, solver, precision; None takes the family's default
    """

    net: nn.Module
    config: Config
    about: Mapping[str, Any]
    sampling: Sampling | None = None

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        size = self.config.size
        return (size, size) if isinstance(size, int) else size

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def reach(self) -> Reach:
        return reach(self.config)

    @property
    def _sampling(self) -> Sampling:
        return default_sampling(self.config) if self.sampling is None else self.sampling

    def fill_of(self, reads: str | None = None, rows: int = 1) -> Fill:
        """The bare `Fill` of the model: (clip, known, rng) -> clip.

        `reads` names the learned memory to which `Clip.memory` belongs. A roll-out of `rows` examples uses one Fill
        for all of its pieces: what it has seen of their frames is kept for the next piece.
        Raises ValueError for a memory that the model does not hold.
        """
        sampling = self._sampling
        if isinstance(self.net, forcing.Forcing):
            assert isinstance(sampling, forcing.Sampling)
            if sampling.cached:
                sampling = dataclasses.replace(sampling, cached=max(sampling.cached, rows * self.reach.num_frames))
            return forcing.fill(self.net, sampling, reads)
        if reads is not None:
            raise ValueError(f"this model holds no memory called {reads}: its family has none")
        if isinstance(self.net, voc.VOC):
            assert isinstance(sampling, voc.Sampling)
            return voc.fill(self.net, sampling)
        if isinstance(self.net, maskgwm.MaskGWM):
            assert isinstance(sampling, maskgwm.Sampling)
            return maskgwm.fill(self.net, sampling)
        if isinstance(self.net, mim4d.MIM4D):
            assert isinstance(sampling, mim4d.Sampling)
            return mim4d.fill(self.net, sampling)
        assert isinstance(self.net, mcvd.MCVD) and isinstance(sampling, mcvd.Sampling)
        return mcvd.fill(self.net, sampling)

    @property
    def fill_with_rng(self) -> Fill:
        """The bare `Fill` of the model, which reads no learned memory."""
        return self.fill_of()

    @property
    def surprise_with_rng(self) -> Surprise | None:
        """The bare `Surprise` of the model; None where it has none."""
        if isinstance(self.net, forcing.Forcing):
            return None if self.net.config.plan else forcing.surprise(self.net, precision=self._sampling.precision)
        if not isinstance(self.net, mcvd.MCVD) or not self.reach.past:
            return None
        return mcvd.surprise(self.net, precision=self._sampling.precision)

    def sampled(
        self,
        steps: int | None = None,
        solver: str | None = None,
        precision: torch.dtype | None = None,
        on_call: Callable[[int, int], None] | None = None,
        guidance: float | None = None,
    ) -> World:
        """The same model, sampled in another way. Raises ValueError for an unknown solver or number of steps, and for
        guidance of what takes no actions."""
        now = self._sampling
        if guidance is not None and not (isinstance(now, maskgwm.Sampling) and self.reach.actions):
            raise ValueError("guidance is by actions, of a driving model that takes them; this one is none")
        most = self.config.num_times if isinstance(self.config, mcvd.Config) else MOST_STEPS
        if steps is not None and not 1 <= steps <= most:
            raise ValueError(f"between 1 and {most} steps, not {steps}")
        if solver is not None and isinstance(now, forcing.Sampling | maskgwm.Sampling):
            family = "forcing" if isinstance(now, forcing.Sampling) else "MaskGWM"
            raise ValueError(f"{family} has no solvers, {solver} or other; it takes --steps")
        if isinstance(now, mim4d.Sampling):
            if steps is not None or solver is not None:
                raise ValueError("MIM4D renders what it saw, and draws nothing: it takes no --steps, no --solver")
            rendered = dataclasses.replace(now, precision=precision or now.precision, on_call=on_call or now.on_call)
            return dataclasses.replace(self, sampling=rendered)
        if isinstance(now, voc.Sampling):
            if steps is not None or solver is not None:
                raise ValueError(
                    "a video occupancy model draws one token after another: it takes no --steps, no --solver"
                )
            return dataclasses.replace(self, sampling=dataclasses.replace(now, precision=precision or now.precision))
        changes: dict[str, Any] = {"on_call": on_call or now.on_call}
        changes |= {"steps": steps} if steps is not None else {}
        changes |= {"solver": _solver(solver)} if solver is not None else {}
        changes |= {"precision": precision} if precision is not None else {}
        changes |= {"guidance": guidance} if guidance is not None else {}
        return dataclasses.replace(self, sampling=dataclasses.replace(now, **changes))

    def features(self, clip: Clip, known: Known | None = None) -> mim4d.Features:
        """Voxels of each frame and their view from above, with where they are in metres.

        Raises ValueError for a family that has none, and for a clip without cameras.
        """
        if not isinstance(self.net, mim4d.MIM4D):
            raise ValueError("this model has no voxels: mim4d has")
        with torch.inference_mode():
            return self.net.features(clip, known)

    def fill(self, clip: Clip, known: Known, seed: int = 0) -> Clip:
        """Fill in the rest. The noise of an example depends on the seed and its place in the batch."""
        return self.fill_with_rng(clip, known, Rng.of(seed, batch=clip.frames.shape[0]))

    def predict(self, prompt: Clip, num_frames: int, seed: int = 0) -> Clip:
        """The prompt and the `num_frames` frames after it. Nothing is told of what is done there: `rollout` is."""
        prompt = _bare(prompt)
        b, v, t = prompt.frames.shape[:3]
        known = past_and_future(t, num_frames, 0, b, v).to(prompt.frames.device)
        return self.fill(join([prompt, ahead_of(prompt, num_frames)]), known, seed)

    def lookback(self, clip: Clip, num_frames: int, seed: int = 0) -> Clip:
        """The `num_frames` frames before a clip, and the clip."""
        clip = _bare(clip)
        b, v, t = clip.frames.shape[:3]
        at_least_one("frames", num_frames)
        before = torch.arange(-num_frames, 0, device=clip.times.device)
        known = past_and_future(0, num_frames, t, b, v).to(clip.frames.device)
        return self.fill(join([blank(clip.times[:, :1] + before, clip), clip]), known, seed)

    def interpolate(self, left: Clip, right: Clip, seed: int = 0) -> Clip:
        """Two clips and the frames between them; how many is what their times say."""
        left, right = _bare(left), _bare(right)
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
        shape = (batch, self.reach.views, num_frames, self.channels, *self.size)
        empty = of_frames(torch.zeros(shape, device=self.device))
        known = these_frames([False] * num_frames, batch, self.reach.views).to(self.device)
        return self.fill(empty, known, seed)

    def surprise(self, clip: Clip, start: int = 1, seed: int = 0) -> Float[Tensor, "b n"]:
        """How unexpected each frame from `start` on is. Every example gets the same noise, so that films compare.

        Raises ValueError for a family or a model that has no surprise.
        """
        watch = self.surprise_with_rng
        if watch is None:
            why = {
                forcing.Config: "draws what a plan says",
                mcvd.Config: "sees no past",
                maskgwm.Config: "has no number for what it did not expect",
                mim4d.Config: "has no number for what it did not expect",
            }
            why = why.get(type(self.config), "tells of no frame at a given time")
            raise ValueError(f"this model {why}: nothing can surprise it")
        return watch(clip, start, Rng([torch.Generator().manual_seed(mix(seed)) for _ in range(clip.frames.shape[0])]))

    def rollout(
        self,
        prompt: Clip,
        num_frames: int,
        seed: int = 0,
        memory: Memory[Any] | None = None,
        actions: Float[Tensor, "b t a"] | None = None,
        cameras: Cameras | None = None,
        reads: str | None = None,
        stride: int | None = None,
    ) -> Clip:
        """The `num_frames` frames after a prompt, `stride` at a time, seeing what a memory shows of what was before.

        Without a memory these are the last frames that the model was trained to see; without a stride it is the
        model's own. `actions` and `cameras` are those of the prompt's frames and of all that follow; `reads` names the
        learned memory that `memory` keeps.
        Raises ValueError where they are shorter than that, for actions that the model does not take, and for a stride
        or a memory longer than the window of the model.
        """
        b = prompt.frames.shape[0]
        prompt, ahead = self.told(prompt, num_frames, actions, cameras)
        memory = Window(max(self.reach.past, 1)) if memory is None else memory
        fill, rng = self.fill_of(reads, b), Rng.of(seed, batch=b)
        return rollout(
            fill, prompt, ahead, memory, self.reach.stride if stride is None else stride, rng, window=self.reach.window
        )

    def told(
        self,
        prompt: Clip,
        num_frames: int,
        actions: Float[Tensor, "b t a"] | None = None,
        cameras: Cameras | None = None,
    ) -> tuple[Clip, Clip]:
        """A prompt and the `num_frames` frames after it, without pixels, each with its share of actions and cameras.

        Raises ValueError as `rollout` does.
        """
        ahead, t = ahead_of(prompt, num_frames), prompt.frames.shape[2]
        if actions is not None:
            if not self.reach.actions:
                raise ValueError("this model takes no actions")
            if actions.shape[2] != self.reach.actions:
                raise ValueError(f"this model takes actions of {self.reach.actions} channels, not {actions.shape[2]}")
            _enough("actions", actions.shape[1], t, num_frames)
            prompt = dataclasses.replace(prompt, actions=actions[:, :t])
            ahead = dataclasses.replace(ahead, actions=actions[:, t : t + num_frames])
        if cameras is not None:
            _enough("cameras", cameras.pose.shape[2], t, num_frames)
            prompt = dataclasses.replace(prompt, cameras=at_frames(cameras, slice(0, t)))
            ahead = dataclasses.replace(ahead, cameras=at_frames(cameras, slice(t, t + num_frames)))
        return prompt, ahead


def _enough(what: str, given: int, prompt: int, num_frames: int) -> None:
    if (missing := prompt + num_frames - given) > 0:
        raise ValueError(f"{what} for {given} frames; {prompt} are known and {num_frames} new: {missing} are missing")


def _bare(clip: Clip) -> Clip:
    """Frames and times alone, to be joined with frames of which no more is known."""
    return Clip(clip.frames, clip.times)


def half(clip: Clip, at: int) -> tuple[Clip, Clip]:
    """The clip before frame `at`, and from it on."""
    return span(clip, 0, at), span(clip, at, clip.frames.shape[2])
