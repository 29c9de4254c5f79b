"""Questions and answers as files: whoever can read pictures can be probed.

    DIR/manifest.json                      what is asked, and where each answer goes
    DIR/questions/ID/prompt/00000.png ...  what is shown (or prompt.mkv, lossless)
    DIR/questions/ID/actions.json          one row for each frame of prompt and answer; absent where nothing acts
    DIR/questions/ID/cameras.json          where the view is at each frame of the prompt, in pixels from its first
    DIR/answers/ID.npy, ID.npz             the answer: uint8 of (samples, frames, height, width, 3)
    DIR/answers/ID/0/00000.png ...         or its frames, a folder for each sample
    DIR/answers/ID/0.mkv                   or a lossless video for each sample

The layout "worldproof" writes each question as a rollout folder of the package of that name (its format
0.1-provisional) under DIR/rollouts, and takes the answer from the rollout's `predictions`.

Sections: what is asked - out - in - rollouts of worldproof.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from maskworld.data import video
from maskworld.probes.base import (
    ACTIONS,
    VERSION,
    Answer,
    Asked,
    Episode,
    Family,
    Question,
    Setting,
    Subject,
    check_answer,
)
from maskworld.probes.stage import SIDE

Layout = Literal["png", "mkv", "worldproof"]
LAYOUTS: tuple[Layout, ...] = ("png", "mkv", "worldproof")
FPS = 10.0  # of the files; a probe knows frames and no seconds
MANIFEST = "manifest.json"
_FORMAT = "maskworld probes 1"

# -- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One question of a folder."""

    id: str
    family: str
    index: int
    branch: int
    num_context: int
    horizon: int
    num_samples: int
    size: int  # of a side, in pixels
    answer: str  # where it goes, from the folder on and without a suffix


@dataclass(frozen=True)
class Manifest:
    """What a folder asks. Its salt, where it has one, is not written down.

    episodes   of each family
    samples    answers to each question, where it does not want more
    digests    family -> SHA-256 of the pixels of its first prompt: a wrong salt is noticed
    left_out   family -> why it is not asked in files
    """

    suite: str
    split: str
    tier: str
    shift: str
    layout: Layout
    episodes: int
    samples: int
    digests: Mapping[str, str]
    left_out: Mapping[str, str]
    questions: tuple[Entry, ...]

    def setting(self, salt: str = "") -> Setting:
        """Raises ValueError where a salt is missing, or there is one too many."""
        if (self.split == "salted") != bool(salt):
            raise ValueError(
                "these questions are of a salted split: the salt that they were written with is needed"
                if not salt
                else f"these questions are of the {self.split} split, which has no salt"
            )
        return Setting(self.split, self.tier, self.shift, salt)  # type: ignore[arg-type]


def identity(family: str, index: int, branch: int) -> str:
    """The name of a question in file names."""
    return f"{family}-{index:05d}-{branch}"


def manifest_of(folder: Path) -> Manifest:
    """What a folder asks. Raises ValueError where it asks nothing, or is of another version."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no questions: it has no {MANIFEST} (maskworld probe export writes one)")
    try:
        found = json.loads(path.read_text())
        if found.get("format") != _FORMAT:
            raise ValueError(f"{path} is no manifest of probes")
        if found["suite_version"] != VERSION:
            raise ValueError(f"{path} is of version {found['suite_version']} of the suite; this is version {VERSION}")
        names = [field.name for field in dataclasses.fields(Entry)]
        entries = tuple(Entry(**{name: entry[name] for name in names}) for entry in found["questions"])
        kept = [field.name for field in dataclasses.fields(Manifest) if field.name != "questions"]
        manifest = Manifest(**{name: found[name] for name in kept}, questions=entries)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from None
    if manifest.layout not in LAYOUTS:
        raise ValueError(f"{path} is damaged: no layout is called {manifest.layout!r}")
    return manifest


def opened(folder: Path, families: Mapping[str, Family], salt: str = "") -> Iterator[tuple[Path, Asked]]:
    """Every question of a folder with the place of its answer (a path without a suffix), drawn anew.

    Raises ValueError where what is drawn is not what was written: another salt, or another suite.
    """
    manifest = manifest_of(folder)
    setting = manifest.setting(salt)
    checked(manifest, families, setting)
    now: tuple[str, int] | None = None
    episode: Episode | None = None
    for entry in manifest.questions:
        if (entry.family, entry.index) != now or episode is None:
            now = entry.family, entry.index
            episode = families[entry.family].episode(entry.index, setting)
        question = dataclasses.replace(episode.questions[entry.branch], num_samples=entry.num_samples)
        yield folder / entry.answer, Asked(question, families[entry.family], entry.index, entry.branch, setting)


def checked(manifest: Manifest, families: Mapping[str, Family], setting: Setting) -> None:
    """Raise ValueError where the questions are not those that these families draw."""
    for name, digest in manifest.digests.items():
        if name not in families:
            raise ValueError(f"no family is called {name}; there are {', '.join(families)}")
        if _digest(families[name].episode(0, setting).questions[0].prompt(setting.tier)) != digest:
            raise ValueError(
                f"the prompts of {name} are others than this suite draws: "
                + ("is the salt right?" if setting.salt else "they are of another suite, or were changed")
            )


def _digest(frames: UInt8[np.ndarray, "t h w 3"]) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


# -- out ------------------------------------------------------------------------------------------


def export(
    folder: Path,
    families: Sequence[Family],
    episodes: int,
    setting: Setting = Setting(),
    *,
    suite: str = "custom",
    samples: int = 1,
    layout: Layout = "png",
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the questions of these families; truths, states and the salt stay here.

    Args:
        folder: made by this, all of it or nothing. Raises ValueError where it exists and is not empty.
        families: whose questions. Those that play cannot be asked in files, and are left out.
        episodes: of each family.
        setting: which episodes, and how they are filmed.
        suite: a name for the manifest.
        samples: answers to each question, where it does not want more.
        layout: of the files.
        on_progress: told (episodes written, episodes in all).
    """
    if layout not in LAYOUTS:
        raise ValueError(f"a layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    if episodes < 1 or samples < 1:
        raise ValueError(f"{episodes} episodes of {samples} samples: 1 or more of both are needed")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: questions are written into a new one")
    asked = [f for f in families if f.kind != "play"]
    left_out = {f.id: "it is played step by step, which files cannot" for f in families if f.kind == "play"}
    if not asked:
        raise ValueError(f"nothing to write: {', '.join(left_out) or 'no family'} cannot be asked in files")
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    entries, digests, done, total = [], {}, 0, len(asked) * episodes
    try:
        for family in asked:
            for index in range(episodes):
                for branch, question in enumerate(family.episode(index, setting).questions):
                    prompt = question.prompt(setting.tier)
                    if (index, branch) == (0, 0):
                        digests[family.id] = _digest(prompt)
                    entry = _entry(family, index, branch, question, setting, samples, layout)
                    _write_question(beside, entry, question, prompt, layout)
                    entries.append(entry)
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
        manifest = Manifest(
            suite=suite,
            split=setting.split,
            tier=setting.tier,
            shift=setting.shift,
            layout=layout,
            episodes=episodes,
            samples=samples,
            digests=digests,
            left_out=left_out,
            questions=tuple(entries),
        )
        about = {f.id: {"title": f.title, "question": f.question, "kind": f.kind} for f in asked}
        _write_json(beside / MANIFEST, {**_head(layout), **dataclasses.asdict(manifest), "families": about})
        if layout != "worldproof":
            (beside / "answers").mkdir()
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def _head(layout: Layout) -> dict[str, Any]:
    how = (
        "rollouts/ID/predictions/sample_00/frame_00000.png"
        if layout == "worldproof"
        else "answers/ID.npy or .npz (uint8, samples x frames x height x width x 3), answers/ID/0/00000.png, "
        "or answers/ID/0.mkv (lossless)"
    )
    return {
        "format": _FORMAT,
        "suite_version": VERSION,
        "actions": list(ACTIONS),
        "how": f"For each question write `num_samples` futures of `horizon` RGB frames, {how}. "
        "An action is taken at its frame and felt at the next one.",
    }


def _entry(
    family: Family,
    index: int,
    branch: int,
    question: Question,
    setting: Setting,
    samples: int,
    layout: Layout,
) -> Entry:
    name = identity(family.id, index, branch)
    return Entry(
        id=name,
        family=family.id,
        index=index,
        branch=branch,
        num_context=question.num_context,
        horizon=question.horizon,
        num_samples=max(samples, question.num_samples),
        size=SIDE[setting.tier],
        answer=f"{'rollouts' if layout == 'worldproof' else 'answers'}/{name}",
    )


def _write_question(
    folder: Path, entry: Entry, question: Question, prompt: UInt8[np.ndarray, "t h w 3"], layout: Layout
) -> None:
    place = folder / ("rollouts" if layout == "worldproof" else "questions") / entry.id
    place.mkdir(parents=True)
    if layout == "worldproof":
        felt = np.zeros((entry.horizon, len(ACTIONS)), np.float32)
        if question.actions is not None:
            felt = question.actions[entry.num_context - 1 : -1].astype(np.float32)
        # There, rollouts of one context under several actions have its name in common.
        same = f"{entry.family}-{entry.index:05d}-{_digest(prompt)[:8]}"
        write_rollout(place, prompt, felt, num_samples=entry.num_samples, context=same)
    elif layout == "mkv":
        video.write(place / "prompt.mkv", prompt, FPS)
    else:
        _write_frames(place / "prompt", prompt, "")
    if question.actions is not None:
        _write_json(place / "actions.json", question.actions.astype(np.float32).tolist())
    camera = question.track.camera[: entry.num_context]
    _write_json(place / "cameras.json", (camera - camera[0]).tolist())


def _write_frames(place: Path, frames: UInt8[np.ndarray, "t h w 3"], prefix: str) -> None:
    place.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(place / f"{prefix}{i:05d}.png")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1 if isinstance(value, dict) else None) + "\n")


# -- in -------------------------------------------------------------------------------------------


class Trouble(NamedTuple):
    """What is wrong with a folder; `family` is the one that cannot be scored for it, if there is one."""

    family: str | None
    what: str


def subject(folder: Path, name: str | None = None, actions: bool = True) -> Subject:
    """Who wrote the answers of a folder; it raises ValueError for an answer that is missing or is none."""
    entries = {entry.id: entry for entry in manifest_of(folder).questions}

    def answer(asked: Sequence[Asked]) -> list[np.ndarray]:
        found = []
        for one in asked:
            entry = entries.get(identity(one.family.id, one.index, one.branch))
            if entry is None:
                raise ValueError(f"episode {one.index} of {one.family.id} was not asked in {folder}")
            found.append(check_answer(one, read_answer(folder / entry.answer, entry), entry.num_samples))
        return found

    return Subject(name or folder.resolve().name, answer, actions=actions, batch=64)


def troubles(folder: Path, leave: Sequence[str] = ()) -> list[Trouble]:
    """All that is missing, extra or of a wrong size among the answers of a folder, one line each.

    leave   families of which no answers are expected
    """
    manifest = manifest_of(folder)
    found = []
    for entry in manifest.questions:
        if entry.family not in leave:
            try:
                read_answer(folder / entry.answer, entry)
            except ValueError as error:
                found.append(Trouble(entry.family, str(error).replace(f"{folder}/", "")))
    names = {entry.id for entry in manifest.questions}
    for room in sorted({str(Path(entry.answer).parent) for entry in manifest.questions}):
        for path in sorted((folder / room).iterdir()) if (folder / room).is_dir() else ():
            if not path.name.startswith(".") and _question_of(path) not in names:
                found.append(Trouble(None, f"extra: {room}/{path.name} answers no question"))
    return found


def _question_of(path: Path) -> str:
    return path.stem if path.suffix in _FILES and path.is_file() else path.name


_FILES = (".npy", ".npz", ".mkv")


def read_answer(place: Path, entry: Entry) -> Answer:
    """The answer to one question; `place` has no suffix. Raises ValueError for one that is missing or is none."""
    files = [path for path in (place.with_name(place.name + suffix) for suffix in _FILES) if path.is_file()]
    inside = [path for path in place.iterdir() if not path.name.startswith(".")] if place.is_dir() else []
    rollout = any(path.name == _PREDICTIONS for path in inside)
    if place.is_dir() and (place / MANIFEST).is_file() and not rollout:
        inside = []  # a rollout that is not filled in
    if not files and not inside:
        raise ValueError(f"missing: {place} (.npy, .npz or a folder)")
    if len(files) + bool(inside) > 1:
        raise ValueError(f"twice: {place} is answered by {', '.join(path.name for path in files)} and again")
    if rollout:
        answer = read_rollout(place).predictions
    elif files and files[0].suffix == ".mkv":
        answer = _read_video(files[0])[None]
    elif files:
        answer = _read_array(files[0])
    else:
        answer = _stacked(
            [_read_video(path) if path.suffix == ".mkv" else _read_frames(path) for path in _numbered(place)], place
        )
    want = (entry.num_samples, entry.horizon, entry.size, entry.size, 3)
    if answer.dtype != np.uint8 or answer.shape != want:
        raise ValueError(f"wrong: {place} is {answer.dtype} of {answer.shape}, not uint8 of {want}")
    return answer


def _read_array(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if name != "fps"]
            if "frames" not in names and len(names) != 1:
                raise ValueError(f"it has arrays {names[:4]}, one of which should be `frames`")
            return arrays["frames" if "frames" in names else names[0]]
    except Exception as error:
        # NumPy's and zipfile's complaints about damaged files are of many kinds; ours is one
        raise ValueError(f"wrong: {path} cannot be read ({error})") from None


def _read_video(path: Path) -> UInt8[np.ndarray, "t h w 3"]:
    try:
        return video.read(path).frames.numpy()
    except ValueError as error:
        raise ValueError(f"wrong: {error}") from None


def _read_frames(place: Path) -> UInt8[np.ndarray, "t h w c"]:
    if not place.is_dir():
        raise ValueError(f"extra: {place} is neither a folder of PNG frames nor a .mkv")
    return _stacked([_read_image(path) for path in _numbered(place)], place)


def _read_image(path: Path) -> UInt8[np.ndarray, "h w c"]:
    try:
        with Image.open(path) as image:
            if path.suffix.lower() != ".png" or image.mode not in ("RGB", "L"):
                raise ValueError(f"wrong: {path} is {image.format} of {image.mode}, not PNG of RGB")
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # what PIL says of a damaged PNG
        raise ValueError(f"wrong: {path} is no whole image ({type(error).__name__})") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _numbered(place: Path) -> list[Path]:
    """What is in a folder by the numbers at the ends of its names: 0, 1, 2 ... with none left out."""
    found: dict[int, Path] = {}
    for path in sorted(place.iterdir()):
        if path.name.startswith(".") or path.name == "fps.txt":
            continue
        number = re.search(r"(\d+)$", path.stem)
        if number is None:
            raise ValueError(f"extra: {path} has no number at the end of its name")
        if int(number[1]) in found:
            raise ValueError(f"twice: {path} has the number of {found[int(number[1])].name}")
        found[int(number[1])] = path
    for i in range(len(found)):
        if i not in found:
            raise ValueError(f"missing: number {i} in {place} (numbers begin at 0)")
    return [found[i] for i in range(len(found))]


def _stacked(parts: Sequence[np.ndarray], place: Path) -> np.ndarray:
    if not parts:
        raise ValueError(f"missing: {place} is empty")
    shapes = Counter(part.shape for part in parts)
    if len(shapes) > 1:
        raise ValueError(f"wrong: {place} holds parts of several sizes, {', '.join(map(str, shapes))}")
    return np.stack(parts)


# -- rollouts of worldproof -----------------------------------------------------------------------

WORLDPROOF = "0.1-provisional"
"""The version of worldproof's folder format that is written and read."""
_PREDICTIONS = "predictions"


class Rollout(NamedTuple):
    """One rollout of worldproof: what was shown, what was done at each predicted frame, what was predicted."""

    context: UInt8[np.ndarray, "t h w c"]
    actions: Float[np.ndarray, "n ..."]
    predictions: UInt8[np.ndarray, "k n h w c"]
    truth: UInt8[np.ndarray, "n h w c"] | None
    about: Mapping[str, Any]


def write_rollout(
    folder: Path,
    prompt: UInt8[np.ndarray, "t h w 3"],
    actions: Float[np.ndarray, "n a"],
    answer: UInt8[np.ndarray, "k n h w 3"] | None = None,
    *,
    num_samples: int | None = None,
    context: str | None = None,
    model: str = "unknown",
) -> None:
    """Write one rollout folder; without an answer, all of it but the predictions.

    Args:
        folder: made if it is not there.
        prompt: what is shown.
        actions: the one that leads to each predicted frame.
        answer: the predictions.
        num_samples: how many predictions there will be, where there is no answer yet.
        context: a name that rollouts of one prompt share.
        model: who predicts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "actions.npy", actions)
    _write_frames(folder / "context", prompt, "frame_")
    for i, sample in enumerate(() if answer is None else answer):
        _write_frames(folder / _PREDICTIONS / f"sample_{i:02d}", sample, "frame_")
    manifest = {
        "format_version": WORLDPROOF,
        "modality": "pixels",
        "storage": "png_sequence",
        "fps": FPS,
        "resolution": list(prompt.shape[1:3]),
        "channels": 3,
        "model_id": model,
        "seed": None,
        "camera_id": None,
        "lossy_source": False,
        "inference_latency_s": None,
        "context_id": context,
        "is_failure": None,
        "horizon": len(actions),
        "n_samples": num_samples if answer is None else len(answer),
        "has_ground_truth": False,
    }
    _write_json(folder / MANIFEST, manifest)


def read_rollout(folder: Path) -> Rollout:
    """One rollout folder. Raises ValueError for latents, for lossy video and for what is missing."""
    try:
        about = json.loads((folder / MANIFEST).read_text())
        version, kind, storage = about["format_version"], about["modality"], about["storage"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"wrong: {folder / MANIFEST} cannot be read ({type(error).__name__})") from None
    if version != WORLDPROOF:
        raise ValueError(f"wrong: {folder} has the format {version}; {WORLDPROOF} can be read")
    if (kind, storage) != ("pixels", "png_sequence"):
        raise ValueError(f"wrong: {folder} holds {kind} as {storage}; pixels as png_sequence can be marked")
    samples = [_read_frames(path) for path in _numbered(folder / _PREDICTIONS)]
    return Rollout(
        context=_read_frames(folder / "context"),
        actions=_read_array(folder / "actions.npy"),
        predictions=_stacked(samples, folder / _PREDICTIONS),
        truth=_read_frames(folder / "ground_truth") if about.get("has_ground_truth") else None,
        about=about,
    )
