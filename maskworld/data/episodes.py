"""Episodes on disk and in memory: frames, what was done, what it brought; and transitions cut from them.

Frame t goes with the action taken at t, felt at t + 1 (the last frame has none: NaN), and with the reward received
on arrival at t (the first frame has none: 0). Times count from 0 within an episode. No cut ever crosses from one
episode into another.

Our format is a folder: `episodes.json` says the format, the frames per second and where they come from; `00000.npz`,
`00001.npz`, ... hold one episode each (frames, actions, rewards, terminal, policy).

Sections: an episode - many of them - ours on disk - V-D4RL - clips.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float32, Int, Int32, UInt8
from torch import Tensor

from maskworld.clip import Clip
from maskworld.noise import mix

Split = Literal["train", "valid", "test"]
FORMAT = "maskworld episodes 1"
ABOUT = "episodes.json"

UNTIMED_FPS = 25.0
"""Frames per second of hdf5 files, which do not say."""

HELD_BYTES = 2**30
"""Of episodes that were read, kept by each `Episodes` so that they need not be read again."""

# -- an episode -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode. `frames` are pixels of 8 bits, or the codes of a tokenizer (c = 1).

    terminal  whether it ended for good at its last frame, and not because its time was over
    policy    a label of who acted
    """

    frames: UInt8[np.ndarray, "t h w c"] | Int32[np.ndarray, "t h w 1"]
    actions: Float32[np.ndarray, "t a"]
    rewards: Float32[np.ndarray, " t"]
    terminal: bool
    policy: str = ""

    def __post_init__(self) -> None:
        _check(self.frames, self.actions, self.rewards)

    def __len__(self) -> int:
        return len(self.frames)


def _check(frames: Any, actions: Any, rewards: Any) -> None:
    """Raise ValueError, in one line, for what is no episode."""
    codes = frames.dtype == np.int32
    if not codes and frames.dtype != np.uint8:
        raise ValueError(f"frames are uint8 (or int32, the codes of a tokenizer), not {frames.dtype}")
    if frames.ndim != 4 or 0 in frames.shape[1:] or (codes and frames.shape[3] != 1):
        raise ValueError(f"frames are (t, h, w, c), with c = 1 for codes, not {frames.shape}")
    t = len(frames)
    if t < 2:
        raise ValueError(f"an episode of {t} frame(s): 2 or more are needed")
    if actions.ndim != 2 or len(actions) != t:
        raise ValueError(f"{t} frames want actions of shape ({t}, a), not {actions.shape}")
    if rewards.shape != (t,):
        raise ValueError(f"{t} frames want rewards of shape ({t},), not {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise ValueError(f"the reward at frame {int(np.flatnonzero(~np.isfinite(rewards))[0])} is NaN or infinite")
    if rewards[0] != 0:
        raise ValueError(f"the first frame of an episode has no reward: 0, not {rewards[0]:g}")
    if not np.isfinite(actions[:-1]).all():
        bad = int(np.flatnonzero(~np.isfinite(actions[:-1]).all(1))[0])
        raise ValueError(f"the action at frame {bad} is NaN or infinite")
    if not np.isnan(actions[-1]).all():
        raise ValueError("no action is taken at the last frame of an episode: NaN belongs there")


# -- many of them -----------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where an episode lies: a file of ours, or records start..stop - 1 of an hdf5 file."""

    path: Path
    start: int
    stop: int  # the number of frames is stop - start
    policy: str


class Episodes(Sequence[Any]):  # of Episode; but whoever checks types as they run would read one from the disk
    """Episodes on disk, read when they are asked for. Their sizes and labels are known without reading them."""

    def __init__(self, name: str, fps: float, places: Sequence[_Place], actions: int, shape: tuple[int, ...]):
        self.name, self.fps, self.actions, self.shape = name, fps, actions, shape
        self._places = tuple(places)
        self._held: OrderedDict[int, Episode] = OrderedDict()

    @property
    def lengths(self) -> tuple[int, ...]:
        """The frames of each."""
        return tuple(place.stop - place.start for place in self._places)

    @property
    def labels(self) -> tuple[str, ...]:
        """Who acted in each."""
        return tuple(place.policy for place in self._places)

    @property
    def policies(self) -> tuple[str, ...]:
        """Who acted, each once, sorted."""
        return tuple(sorted(set(self.labels)))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Episodes: ...
    def __getitem__(self, index: int | slice) -> Episode | Episodes:
        if isinstance(index, slice):
            return self._some(range(len(self))[index])
        number = range(len(self))[index]  # an IndexError ends a loop over a Sequence
        if number in self._held:
            self._held.move_to_end(number)
        else:
            self._held[number] = self._resized(_read_one(self._places[number]))
            while len(self._held) > 1 and sum(e.frames.nbytes for e in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        return self._held[number]

    def _some(self, numbers: Iterable[int]) -> Episodes:
        return Episodes(self.name, self.fps, [self._places[i] for i in numbers], self.actions, self.shape)

    def at(self, size: int) -> Episodes:
        """The same, with square frames resized to so many pixels of a side (antialiased) as they are read.

        Raises ValueError for frames that are not square, and where they would have no pixels.
        """
        h, w, c = self.shape
        if h != w or size < 1:
            raise ValueError(f"{self.name}: square frames can be resized to 1 pixel or more, not {h}x{w} to {size}")
        return Episodes(self.name, self.fps, self._places, self.actions, (size, size, c))

    def _resized(self, episode: Episode) -> Episode:
        if episode.frames.shape[1:] == self.shape or episode.frames.dtype != np.uint8:
            return episode
        frames = torch.from_numpy(episode.frames).movedim(-1, 1)
        frames = F.interpolate(frames, self.shape[:2], mode="bilinear", antialias=True)
        return replace(episode, frames=np.ascontiguousarray(frames.movedim(1, -1).numpy()))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict()}


def read(path: Path | str) -> Episodes:
    """Episodes of a folder of ours, of a V-D4RL hdf5 file, or of a folder of such files.

    Raises ValueError where there are none, and where their frames or actions differ in size.
    """
    path = Path(path)
    if path.is_dir() and (path / ABOUT).is_file():
        return _read_ours(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in _HDF5)
        if not files:
            raise ValueError(f"no episodes in {path}: it has neither {ABOUT} nor .hdf5 files")
        return _read_hdf5(path.name, files)
    if not path.is_file():
        raise ValueError(f"no episodes in {path}: there is no such file or folder")
    if path.suffix.lower() not in _HDF5:
        raise ValueError(f"{path} holds no episodes: a folder with {ABOUT} or an .hdf5 file is wanted")
    return _read_hdf5(path.stem, [path])


def there(path: Path | str) -> bool:
    """Whether a path is one that `read` reads."""
    path = Path(path)
    if path.is_dir():
        return (path / ABOUT).is_file() or any(p.suffix.lower() in _HDF5 for p in path.iterdir())
    return path.is_file() and path.suffix.lower() in _HDF5


def split(episodes: Episodes, which: Split) -> Episodes:
    """Whole episodes by their number: see `numbers`."""
    if which not in get_args(Split):
        raise ValueError(f"split is one of {', '.join(get_args(Split))}, not {which!r}")
    return episodes._some(numbers(len(episodes))[which])


def numbers(n: int) -> dict[Split, list[int]]:
    """Of n episodes, which belong to what: of every ten the ninth is for validation, the tenth for the test.

    Of fewer than ten, the last but one and the last. ValueError for fewer than three.
    """
    if n < 3:
        raise ValueError(f"{n} episodes cannot be split into train, valid and test: 3 or more are needed")
    valid, test = (set(range(8, n, 10)), set(range(9, n, 10))) if n >= 10 else ({n - 2}, {n - 1})
    return {"train": sorted(set(range(n)) - valid - test), "valid": sorted(valid), "test": sorted(test)}


def _together(name: str, fps: float, found: Sequence[tuple[_Place, tuple[int, ...], int]]) -> Episodes:
    """From (place, shape of a frame, action channels) of each."""
    first, shape, actions = found[0]
    for place, other, channels in found:
        if other != shape:
            raise ValueError(f"frames of different sizes: {shape} in {first.path}, {other} in {place.path}")
        if channels != actions:
            raise ValueError(f"{actions} action channels in {first.path}, but {channels} in {place.path}")
    return Episodes(name, fps, [place for place, _, _ in found], actions, shape)


def _read_one(place: _Place) -> Episode:
    return _one_of_hdf5(place) if place.path.suffix.lower() in _HDF5 else _one_of_ours(place.path)


def _made(path: Path, frames: Any, actions: Any, rewards: Any, terminal: bool, policy: str) -> Episode:
    """An episode of what a file holds, and the file's name before what is wrong with it."""
    try:
        if np.asarray(frames).dtype == np.int64:  # codes, as other programs write them
            frames = frames.astype(np.int32)
        for array in (actions, rewards):
            if array.dtype.kind not in "fiu":
                raise ValueError(f"actions and rewards are numbers, not {array.dtype}")
        actions, rewards = actions.astype(np.float32), rewards.astype(np.float32)
        _check(frames, actions, rewards)
        return Episode(frames, actions, rewards, terminal, policy)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


# -- ours on disk -----------------------------------------------------------------------------------

_KEYS = ("frames", "actions", "rewards", "terminal", "policy")


def write(
    folder: Path | str,
    episodes: Iterable[Episode],
    fps: float,
    source: Mapping[str, Any],
    force: bool = False,
    start: int = 0,
) -> None:
    """Write episodes one by one into a folder, each beside and then renamed: what is written stays, whatever happens.

    `source` says where they come from and is written as it is. `start` is the number of the first: a folder that
    already holds that many goes on (see `held`). ValueError where the folder holds episodes or other files and
    `force` is not given; `force` removes its episodes, and nothing else.
    """
    folder = Path(folder)
    if start and start != held(folder, fps, source):
        raise ValueError(f"{folder} holds {held(folder, fps, source)} episodes: number {start} is not the next")
    if not start:
        _clear(folder, force)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "fps": fps, "source": dict(source)}
        _whole(folder / ABOUT, json.dumps(about, indent=2).encode() + b"\n")
    for number, episode in enumerate(episodes, start):
        bytes_ = io.BytesIO()
        np.savez_compressed(
            bytes_,
            frames=episode.frames,
            actions=episode.actions,
            rewards=episode.rewards,
            terminal=np.array(episode.terminal),
            policy=np.array(episode.policy),
        )
        _whole(folder / f"{number:05d}.npz", bytes_.getvalue())


def held(folder: Path | str, fps: float, source: Mapping[str, Any]) -> int:
    """How many episodes a folder already holds of this source: 0 where there is no such folder.

    ValueError where it holds something else.
    """
    folder = Path(folder)
    if not folder.exists():
        return 0
    if not (folder / ABOUT).is_file():
        raise ValueError(f"{folder} exists and holds no episodes; --force writes into it all the same")
    about = _about(folder)
    if (about["fps"], about["source"]) != (fps, json.loads(json.dumps(dict(source)))):
        raise ValueError(f"{folder} holds other episodes, of {about['source']}; --force replaces them")
    return len(_numbered(folder))


def about(folder: Path | str) -> dict[str, Any]:
    """Where the episodes of a folder come from: what `write` was given as `source`."""
    return _about(Path(folder))["source"]


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / ABOUT} is no JSON: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{folder / ABOUT} is not of the format {FORMAT!r}")
    if missing := {"fps", "source"} - about.keys():
        raise ValueError(f"{folder / ABOUT} has no {', '.join(sorted(missing))}")
    fps = about["fps"]
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise ValueError(f"{folder / ABOUT}: fps is a number above 0, not {fps!r}")
    return about


def _numbered(folder: Path) -> list[Path]:
    """The episodes of a folder: 00000.npz and so on, without a gap."""
    files = sorted(p for p in folder.iterdir() if re.fullmatch(r"\d{5,}\.npz", p.name))
    for number, file in enumerate(files):
        if int(file.stem) != number:
            raise ValueError(f"{folder} has no {number:05d}.npz, but a later one")
    return files


def _clear(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; episodes need a folder")
    if not force and any(folder.iterdir()):
        raise ValueError(f"{folder} exists; --force replaces the episodes in it")
    for file in folder.iterdir():
        if file.name == ABOUT or re.fullmatch(r"\d{5,}\.npz", file.name):
            file.unlink()


def _whole(path: Path, bytes_: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(bytes_)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _read_ours(folder: Path) -> Episodes:
    fps = float(_about(folder)["fps"])
    files = _numbered(folder)
    if not files:
        raise ValueError(f"{folder} holds no episodes yet")
    return _together(folder.name, fps, [_look(file) for file in files])


def _look(path: Path) -> tuple[_Place, tuple[int, ...], int]:
    """(place, shape of a frame, action channels) from the headers of the arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            if missing := [key for key in _KEYS if f"{key}.npy" not in archive.namelist()]:
                raise ValueError(f"{path} has no {', '.join(missing)}")
            shapes = {}
            for key in ("frames", "actions"):
                with archive.open(f"{key}.npy") as file:
                    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                    shapes[key] = header[np.lib.format.read_magic(file)](file)[0]
            with archive.open("policy.npy") as file:
                policy = str(np.lib.format.read_array(file, allow_pickle=False))
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(shapes["frames"]) != 4 or len(shapes["actions"]) != 2:
        raise ValueError(f"{path}: frames are (t, h, w, c) and actions (t, a), not {shapes}")
    return _Place(path, 0, shapes["frames"][0], policy), shapes["frames"][1:], shapes["actions"][1]


def read_one(path: Path) -> Episode:
    """An episode of ours, from its file alone. Raises ValueError where it is damaged, or none."""
    return _one_of_ours(path)


def _one_of_ours(path: Path) -> Episode:
    try:
        with np.load(path, allow_pickle=False) as held:
            frames, actions, rewards, terminal, policy = (held[key] for key in _KEYS)
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}") from None
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return _made(path, frames, actions, rewards, bool(terminal), str(policy))


# -- V-D4RL -----------------------------------------------------------------------------------------

# Lu et al. 2022, arXiv 2206.04779. Record i holds a frame, and the action and reward that led to it.

_HDF5 = frozenset({".hdf5", ".h5"})
_RECORDS = ("observation", "action", "reward", "discount", "step_type")
_FIRST, _LAST = 0, 2
_QUALITIES = ("medium_replay", "medium_expert", "random", "medium", "expert")


def _open_hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path} needs h5py: pip install 'maskworld[control]'") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not an hdf5 file, or is truncated: {error}") from None


def _read_hdf5(name: str, files: Sequence[Path]) -> Episodes:
    return _together(name, UNTIMED_FPS, [one for file in files for one in _look_hdf5(file)])


def _look_hdf5(path: Path) -> Iterator[tuple[_Place, tuple[int, ...], int]]:
    with _open_hdf5(path) as file:
        if missing := [key for key in _RECORDS if key not in file]:
            raise ValueError(f"{path} has no {', '.join(missing)}; V-D4RL files have {', '.join(_RECORDS)}")
        sizes = {key: file[key].shape for key in _RECORDS}
        observation, action = sizes["observation"], sizes["action"]
        if file["observation"].dtype != np.uint8 or len(observation) != 4:
            raise ValueError(
                f"{path}: observation is uint8 of shape (n, c, h, w), not {file['observation'].dtype} of {observation}"
            )
        if len(action) != 2 or any(size[:1] != observation[:1] for size in sizes.values()):
            raise ValueError(f"{path}: its arrays do not go together: {sizes}")
        marks = file["step_type"][...].reshape(observation[0])
    if not len(marks):
        raise ValueError(f"{path} holds no records")
    starts = np.flatnonzero(marks == _FIRST)
    after_last = np.flatnonzero(marks[:-1] == _LAST) + 1
    if marks[0] != _FIRST or not np.isin(after_last, starts).all():
        raise ValueError(f"{path}: an episode begins without step_type {_FIRST}")
    c, h, w = observation[1:]
    label = next((quality for quality in _QUALITIES if quality in path.stem), "")
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(marks)], strict=True):
        if stop - start < 2:
            raise ValueError(f"{path}: the episode at record {start} has one frame: 2 or more are needed")
        yield _Place(path, start, stop, label), (h, w, c), action[1]


def _one_of_hdf5(place: _Place) -> Episode:
    with _open_hdf5(place.path) as file:
        observation, action, reward, discount, marks = (file[key][place.start : place.stop] for key in _RECORDS)
    t = place.stop - place.start
    frames = np.ascontiguousarray(rearrange(observation, "t c h w -> t h w c"))
    # What led to frame t + 1 was done at frame t; what the first record says led to nothing.
    actions = np.concatenate([action[1:], np.full_like(action[:1], np.nan, dtype=np.float32)])
    rewards = reward.reshape(t).astype(np.float32)
    rewards[0] = 0
    ended = marks.reshape(t)[-1] == _LAST and discount.reshape(t)[-1] == 0
    return _made(place.path, frames, actions, rewards, bool(ended), place.policy)


# -- clips ------------------------------------------------------------------------------------------


def clip_of(episode: Episode, times: Int[np.ndarray, " t"] | Int[Tensor, " t"]) -> Clip:
    """These frames of an episode, with their times and all that goes with them; a time may stand there twice.

    Pixels become [-1, 1]; codes become their numbers. ValueError for times that the episode does not have.
    """
    at = np.asarray(times)
    if not len(at) or at.min() < 0 or at.max() >= len(episode):
        raise ValueError(f"frames {at.tolist()} of an episode of {len(episode)} frames: there are none such")
    chosen = rearrange(torch.from_numpy(episode.frames[at]), "t h w c -> 1 1 t c h w").float()
    ended = (at == len(episode) - 1) & episode.terminal
    return Clip(
        frames=(chosen / 127.5 - 1 if episode.frames.dtype == np.uint8 else chosen).contiguous(),
        times=torch.from_numpy(at.astype(np.int64))[None],
        actions=torch.from_numpy(episode.actions[at])[None] if episode.actions.shape[1] else None,
        rewards=torch.from_numpy(episode.rewards[at])[None],
        discounts=torch.from_numpy(1 - ended.astype(np.float32))[None],
    )


@dataclass(frozen=True)
class Transitions:
    """Clip number `index` of an endless set: `stack` frames up to a moment, and `ahead` frames after it.

    The moment is uniform over all frames of all episodes that have a next one. Beyond the ends of an episode its
    first or last frame stands there again, with its own time. With `policies` the action channels are followed by
    which of them acted, one-hot, at every frame.
    """

    episodes: Sequence[Episode]
    stack: int
    ahead: int
    seed: int = 0
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stack < 1 or self.ahead < 1:
            raise ValueError(f"a stack of at least one frame and at least one ahead, not {self.stack} and {self.ahead}")
        if not len(self.episodes):
            raise ValueError("no episodes to cut clips from")
        if self.policies:
            labels = self.episodes.labels if isinstance(self.episodes, Episodes) else [e.policy for e in self.episodes]
            if strange := set(labels) - set(self.policies):
                raise ValueError(f"policies {sorted(strange)} are not among {', '.join(self.policies)}")

    @cached_property
    def _ends(self) -> np.ndarray:
        """Up to which number the moments of each episode go."""
        many = self.episodes
        lengths = many.lengths if isinstance(many, Episodes) else [len(episode) for episode in many]
        return np.cumsum(np.array(lengths) - 1)

    def moment(self, index: int) -> tuple[int, int]:
        """(number of the episode, frame) of clip `index`."""
        if index < 0:
            raise ValueError(f"clips are numbered from 0, not {index}")
        place = mix(self.seed, index) % int(self._ends[-1])
        number = int(np.searchsorted(self._ends, place, side="right"))
        return number, place - (int(self._ends[number - 1]) if number else 0)

    def __call__(self, index: int) -> Clip:
        number, moment = self.moment(index)
        episode = self.episodes[number]
        times = np.arange(moment - self.stack + 1, moment + self.ahead + 1).clip(0, len(episode) - 1)
        clip = clip_of(episode, times)
        if not self.policies:
            return clip
        who = torch.zeros(1, len(times), len(self.policies))
        who[..., self.policies.index(episode.policy)] = 1
        actions = who if clip.actions is None else torch.cat([clip.actions, who], dim=-1)
        return Clip(clip.frames, clip.times, actions, rewards=clip.rewards, discounts=clip.discounts)
