"""What a model is held against before its numbers say anything: fills that know nothing, worlds known to be wrong.

Sections: fills - worlds.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.clip import Clip
from maskworld.masks import check_fits, on_pixels
from maskworld.noise import Rng
from maskworld.probes.base import Asked, Episode, Family, Setting, Subject
from maskworld.probes.stage import Track, film, visible
from maskworld.probes.surprise import copy_context, frame_difference
from maskworld.verbs import Known

# -- fills ----------------------------------------------------------------------------------------


def copy_known(clip: Clip, known: Known, rng: Rng) -> Clip:
    """Each unknown pixel as it was in the frame nearest in time where it is known; the earlier one of two.

    In prediction this is copy-last, in looking back copy-next. A pixel that is never known is mid-grey (0).
    """
    check_fits(known, clip.frames)
    before, after = _neighbours(known)
    away_before, away_after = _away(clip, before), _away(clip, after)
    earlier = away_before <= away_after
    nearest = torch.where(earlier, before, after)
    return _filled(clip, known, _take(clip.frames, nearest), nearest)


def linear_blend(clip: Clip, known: Known, rng: Rng) -> Clip:
    """Each unknown pixel on the straight line between its known neighbours in time.

    With one neighbour this is its copy; a pixel that is never known is mid-grey (0).
    """
    check_fits(known, clip.frames)
    before, after = _neighbours(known)
    away_before, away_after = _away(clip, before), _away(clip, after)
    share = torch.where(away_after.isinf(), 0.0, away_before / (away_before + away_after).clamp(min=1))
    share = torch.where(away_before.isinf(), 1.0, share)  # of the later one
    share = _on_frames(share, clip.frames).to(clip.frames.dtype)
    either = torch.where(before >= 0, before, after)
    first = _take(clip.frames, either)
    last = _take(clip.frames, torch.where(after >= 0, after, either))
    # Not a weighted sum: lerp of two equal pixels is that pixel, bit for bit.
    return _filled(clip, known, torch.lerp(first, last, share), either)


def _neighbours(
    known: Bool[Tensor, "b v t gh gw"],
) -> tuple[Int[Tensor, "b v t gh gw"], Int[Tensor, "b v t gh gw"]]:
    """The known frame at or before each frame, and the one at or after; -1 where there is none."""
    t = known.shape[2]
    place = torch.arange(t, device=known.device)[:, None, None]
    before = torch.where(known, place, -1).cummax(2).values
    after = torch.where(known, place, t).flip(2).cummin(2).values.flip(2)
    return before, torch.where(after == t, -1, after)


def _away(clip: Clip, place: Int[Tensor, "b v t gh gw"]) -> Float[Tensor, "b v t gh gw"]:
    """How far that frame is by the clip's times (memories leave gaps); infinite where there is none."""
    b, v, t, gh, gw = place.shape
    there = clip.times[:, None, :, None, None].expand(b, v, t, gh, gw).gather(2, place.clamp(min=0))
    away = (there - clip.times[:, None, :, None, None]).abs().float()
    return torch.where(place < 0, torch.inf, away)


def _on_frames(value: Tensor, frames: Float[Tensor, "b v t c h w"]) -> Tensor:
    """One value per cell of the grid -> per pixel, the same for all channels."""
    h, w = frames.shape[-2:]
    kh, kw = h // value.shape[-2], w // value.shape[-1]
    return value.repeat_interleave(kh, -2).repeat_interleave(kw, -1)[:, :, :, None]


def _take(frames: Float[Tensor, "b v t c h w"], place: Int[Tensor, "b v t gh gw"]) -> Tensor:
    """Each pixel from the frame that `place` names."""
    return frames.gather(2, _on_frames(place.clamp(min=0), frames).expand(frames.shape))


def _filled(clip: Clip, known: Known, guess: Tensor, place: Int[Tensor, "b v t gh gw"]) -> Clip:
    """The clip with the guess where nothing is known, and grey where there is no guess either."""
    h, w = clip.frames.shape[-2:]
    guess = torch.where(_on_frames(place, clip.frames) < 0, torch.zeros_like(guess), guess)
    given = rearrange(on_pixels(known, h, w), "b v t h w -> b v t 1 h w")
    return dataclasses.replace(clip, frames=torch.where(given, clip.frames, guess))


# -- worlds ---------------------------------------------------------------------------------------

NEAR = 4  # frames through which `linear` lays its line
SEEN = 0.8  # visible share from which on a place can be read
HIDDEN = 1e-6  # visible share up to which a thing is out of sight
BLURRED = 8  # futures whose mean is `blur`
FAR_OFF = 1009  # periods from one episode to the next that `typical` borrows

REFERENCES = (
    *("oracle", "noise-0.1", "noise-0.35", "noise-1", "noise-2"),
    *("linear", "frozen", "copy", "amnesia-8", "amnesia-16", "amnesia-32", "blur", "shuffled", "typical"),
    *("noop", "random", "frame-difference", "copy-context"),
)
"""Names to choose from; noise and amnesia go with any number."""

Change = Callable[[Asked, Track, np.random.Generator], Track]
"""The future that a reference shows, from the whole truth."""


def reference(name: str) -> Subject:
    """The subject `reference:NAME`; the prefix may be left out. It answers from the truth, in a way that is known:

    oracle            the truth; where there is chance, draws from the true futures
    noise-S           the truth, with a random walk of S pixels per frame on each object's place (noise-0.35)
    linear            each object goes on as it was last seen to move, through hidden times, walls and other objects;
                      what was never seen is not there; camera and scenery as in the truth
    frozen            all stands still from when it was last seen, and is never forgotten; the camera moves on
    copy              the last frame, again and again
    amnesia-W         the truth without the objects that have been out of sight for more than W frames (amnesia-8)
    blur              the mean of several futures with noise of 1 pixel per frame
    shuffled          the future of another episode of the same length
    typical           as shuffled, but for each branch from an episode of its own
    noop, random      what would have happened under no or random actions; the truth where there are none
    frame-difference  (surprise) how much each frame differs from the one before; it answers as copy
    copy-context      (surprise) how much each frame differs from those of the context; it answers as copy

    The same question is always answered the same. ValueError for a name that is none of these.
    """
    short = name.removeprefix("reference:")
    kind, _, number = short.partition("-")
    full = f"reference:{short}"
    if short in _SURPRISES:
        return Subject(full, _copied, surprise=partial(_surprised, _SURPRISES[short]))
    if short in _CHANGES:
        return Subject(full, partial(_filmed, _CHANGES[short], False))
    if short in _OTHERS:
        return Subject(full, _OTHERS[short])
    if kind == "noise" and _is_number(number):
        return Subject(full, partial(_filmed, partial(_noisy, float(number)), True))
    if kind == "amnesia" and number.isdecimal():
        return Subject(full, partial(_filmed, partial(_amnesic, int(number)), False))
    close = difflib.get_close_matches(short, REFERENCES, 1, 0.4)
    raise ValueError(
        f"no reference is called {short!r}"
        + (f": did you mean {close[0]}?" if close else "")
        + f" There are {', '.join(REFERENCES)}; noise and amnesia with any number"
    )


def _is_number(text: str) -> bool:
    """Whether it is a finite number from 0 on."""
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def _seeded(asked: Asked) -> np.random.Generator:
    return np.random.default_rng([asked.family.number, asked.index, asked.branch])


def _filmed(change: Change, anew: bool, asked: Sequence[Asked]) -> list[np.ndarray]:
    """Answers; `anew`: every sample is another one. Otherwise only samples of different truths are."""
    answers = []
    for one in asked:
        rng = _seeded(one)
        chances = one.question.chances or ((1.0, one.question.track),)
        shares = np.array([share for share, _ in chances])
        count = one.question.num_samples
        which = rng.choice(len(shares), count, p=shares / shares.sum()).tolist() if len(shares) > 1 else [0] * count
        films: dict[tuple[int, int], np.ndarray] = {}
        samples = []
        for k, chance in enumerate(which):  # all references that draw from chance draw the same
            key = (chance, k if anew else 0)
            if key not in films:
                films[key] = film(change(one, chances[chance][1], rng), one.setting.tier)
            samples.append(films[key])
        answers.append(np.stack(samples))
    return answers


def _copied(asked: Sequence[Asked]) -> list[np.ndarray]:
    answers = []
    for one in asked:
        question = one.question
        last = film(question.track.part(question.num_context - 1, question.num_context), one.setting.tier)
        answers.append(np.tile(last, (question.num_samples, question.horizon, 1, 1, 1)))
    return answers


def _blurred(asked: Sequence[Asked]) -> list[np.ndarray]:
    """It knows only one answer, the mean, and gives it for every sample."""
    answers = []
    for one in asked:
        many = one._replace(question=dataclasses.replace(one.question, num_samples=BLURRED))
        (films,) = _filmed(partial(_noisy, 1.0), True, [many])
        mean = films.mean(0).round().astype(np.uint8)
        answers.append(np.repeat(mean[None], one.question.num_samples, axis=0))
    return answers


def _surprised(measure: Callable, asked: Sequence[Asked]) -> list[np.ndarray]:
    return [measure(one.question.shown(one.setting.tier), one.question.num_context) for one in asked]


def _future(asked: Asked, track: Track) -> Track:
    return track.part(asked.question.num_context, track.num_frames)


def _truth(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    return _future(asked, track)


def _noisy(size: float, asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    future = _future(asked, track)
    walk = np.zeros_like(future.position)
    steps = rng.normal(0, size, (future.num_frames, len(future.objects), 2))
    walk[:, future.objects] = steps.cumsum(0)
    return future.changed(position=future.position + walk)


def _linear(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    context, future = track.part(0, asked.question.num_context), _future(asked, track)
    times = np.arange(asked.question.num_context, track.num_frames)
    seen = visible(context) > SEEN
    position, shown, colour = future.position.copy(), future.shown.copy(), future.colour.copy()
    for n in future.objects.tolist():
        frames = np.nonzero(seen[:, n])[0][-NEAR:]
        shown[:, n] = len(frames) > 0
        if not len(frames):
            continue
        place, since = context.position[frames, n], frames - frames.mean()
        velocity = since @ place / max(float(since @ since), 1.0)  # pixels per frame, least squares
        position[:, n] = place[-1] + (times - frames[-1])[:, None] * velocity
        colour[:, n] = context.colour[frames[-1], n]
    return future.changed(position=position, shown=shown, colour=colour)


def _frozen(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    now, future = asked.question.num_context, _future(asked, track)
    still = track.at([now - 1] * future.num_frames).changed(camera=future.camera)
    position, colour, shown = still.position.copy(), still.colour.copy(), still.shown.copy()
    seen = visible(track.part(0, now)) > HIDDEN
    for n in still.objects.tolist():
        frames = np.nonzero(seen[:, n])[0]
        shown[:, n] = len(frames) > 0
        if len(frames):
            position[:, n], colour[:, n] = track.position[frames[-1], n], track.colour[frames[-1], n]
    return still.changed(position=position, colour=colour, shown=shown)


def _amnesic(window: int, asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    now, future = asked.question.num_context, _future(asked, track)
    recent = track.part(max(0, now - window - 1), now)  # unseen in one frame more than the window is too long
    forgotten = track.object & (visible(recent) <= HIDDEN).all(0)
    return future.changed(shown=future.shown & ~forgotten)


def _shuffled(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    return _borrowed(asked, asked.index + asked.family.period)


def _typical(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    return _borrowed(asked, asked.index + (asked.branch + 2) * asked.family.period * FAR_OFF)


def _borrowed(asked: Asked, index: int) -> Track:
    """The future of the same branch of another episode, cut, or its last frame held, to the frames asked for."""
    questions = drawn(asked.family, index, asked.setting).questions
    future = questions[asked.branch % len(questions)].future
    return future.at(np.arange(asked.question.horizon).clip(max=future.num_frames - 1))


def drawn(family: Family, index: int, setting: Setting) -> Episode:
    """An episode of the family. The last few are kept: neighbours borrow from each other."""
    return _drawn(family.id, family.number, family.draw, index, setting)


@lru_cache(maxsize=64)
def _drawn(id: str, number: int, draw: Callable, index: int, setting: Setting) -> Episode:
    """Without the parts of a family that cannot be compared, and that its episodes do not depend on."""
    return Family(id, number, "", "", "persistence", draw).episode(index, setting)


def _noop(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    return _acted(asked, track, lambda shape: np.zeros(shape))


def _random(asked: Asked, track: Track, rng: np.random.Generator) -> Track:
    return _acted(asked, track, lambda shape: rng.uniform(-1, 1, shape))


def _acted(asked: Asked, track: Track, choose: Callable[[tuple[int, ...]], np.ndarray]) -> Track:
    """What happens where other actions follow those that the context has felt."""
    question = asked.question
    if question.rerun is None or question.actions is None:
        return _future(asked, track)
    first = question.num_context - 1  # its action is felt in the first frame asked for
    actions = question.actions.copy()
    actions[first:] = choose(actions[first:].shape)
    return _future(asked, question.rerun(actions))


_CHANGES: dict[str, Change] = {
    "oracle": _truth,
    "linear": _linear,
    "frozen": _frozen,
    "shuffled": _shuffled,
    "typical": _typical,
    "noop": _noop,
    "random": _random,
}
_OTHERS: dict[str, Callable] = {"copy": _copied, "blur": _blurred}
_SURPRISES: dict[str, Callable] = {"frame-difference": frame_difference, "copy-context": copy_context}
