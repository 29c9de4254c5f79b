"""Probes of persistence: is what the camera does not see still there, and where it has come to be meanwhile?

P1 occlusion permanence   a disc passes behind a screen
P2a look-away, static     the camera turns away from things that rest, and back
P2b look-away, moving     as P2a, but one of the things moves
P2c mirror                a walk of the camera, and the same way back
P3 conservation           discs that move for long and never meet
P4 long-horizon drift     many times the context
P5 delayed recall         discs under lids; one lid is opened
P6 containment            a disc in a box that is pushed elsewhere and opened

The gap of an episode is how many frames at the end of the context show nothing of the thing that is asked for.

Sections: curves - marking - occlusion - looking away - mirror - conservation - drift - recall - containment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8

from maskworld.probes import quality
from maskworld.probes.base import ACTIONS, PAN, PUSH, Actions, Again, Episode, Family, Frames, Marks, Question, Ranges
from maskworld.probes.readout import Errors, Reading, colour_at, errors, read
from maskworld.probes.scenes import (
    BOUNDS,
    GROUND,
    SCREEN,
    TOLERANCE,
    WALLS,
    between,
    colours,
    heading,
    scattered,
    shifted,
    steady,
    unseen,
)
from maskworld.probes.stage import SIDE, VIEW, Bodies, Cast, Tier, Track, discs, film, simulate, visible

GAPS = (1, 4, 8, 16, 32)
PUSH_X, PUSH_Y, PAN_X, PAN_Y, REACH_X, REACH_Y, OPEN = (
    ACTIONS.index(name) for name in ("push_x", "push_y", "pan_x", "pan_y", "reach_x", "reach_y", "open")
)
OPENS = 0.5  # an `open` above this opens

# -- curves ---------------------------------------------------------------------------------------


def auc_recall(points: Sequence[tuple[float, float]]) -> float:
    """The area under recall over log2 of the gap, as a share of the range of gaps: 1 where all is recalled."""
    gaps, recall = _curve(points)
    if len(gaps) == 1:
        return float(recall[0])
    x = np.log2(gaps)
    return float(((recall[1:] + recall[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def half_life(points: Sequence[tuple[float, float]]) -> float:
    """The gap at which recall falls through one half, on straight lines between the gaps; infinite if it never does.

    At gap 0 everything is in sight: recall there counts as 1.
    """
    gaps, recall = _curve(points)
    gaps, recall = np.concatenate([[0.0], gaps]), np.concatenate([[1.0], recall])
    below = np.nonzero(recall < 0.5)[0]
    if not len(below):
        return math.inf
    i = int(below[0])
    return float(gaps[i - 1] + (gaps[i] - gaps[i - 1]) * (recall[i - 1] - 0.5) / (recall[i - 1] - recall[i]))


def _curve(points: Sequence[tuple[float, float]]) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """The gaps in rising order, and the mean recall at each."""
    if not points:
        raise ValueError("a recall curve of no points")
    at: dict[float, list[float]] = defaultdict(list)
    for gap, recall in points:
        at[float(gap)].append(float(recall))
    gaps = sorted(at)
    return np.array(gaps), np.array([np.mean(at[gap]) for gap in gaps])


# -- marking --------------------------------------------------------------------------------------


def _over_samples(
    one: Callable[[Episode, Frames], Marks], episode: Episode, answers: Sequence[UInt8[np.ndarray, "k t h w 3"]]
) -> Marks:
    """The expected marks: the mean over the samples of the one answer."""
    (answer,) = answers
    each = [one(episode, frames) for frames in answer]
    k = len(each)

    def mean(ratios: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return sum(a for a, _ in ratios) / k, sum(b for _, b in ratios) / k

    return Marks(
        error=mean([marks.error for marks in each]),
        numbers={name: mean([marks.numbers[name] for marks in each]) for name in each[0].numbers},
        points={name: tuple(p for marks in each for p in marks.points[name]) for name in each[0].points},
    )


def _measured(episode: Episode, frames: Frames) -> tuple[Track, Reading, Errors]:
    """What should be there, what is read, and how far it is off."""
    future = episode.questions[0].future
    reading = read(frames, future)
    return future, reading, errors(reading, future)


def _share(values: Bool[np.ndarray, "*n"] | Float[np.ndarray, "*n"], of: Bool[np.ndarray, "*n"]) -> tuple[float, float]:
    """The sum of the values where it counts, and how often it does."""
    return float(values[of].sum()), float(of.sum())


def _asked(episode: Episode, far: Errors) -> Bool[np.ndarray, "t n"]:
    """The scored pairs of the things that are asked for: they come first among the objects."""
    return far.scored & (np.arange(far.scored.shape[1]) < episode.about["asked"])


def _tier(frames: Frames) -> Tier:
    return "flat" if frames.shape[1] == SIDE["flat"] else "textured"


def _grain(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _counted(rng: np.random.Generator, ranges: Ranges) -> int:
    return int(rng.integers(ranges.count[0], ranges.count[1] + 1))


# -- occlusion ------------------------------------------------------------------------------------

BEFORE, LEAD, AFTER = 6, 2, 6
"""Frames in which the disc is in full view; in which it stays hidden after the context; in full view again."""


def _crossing(gap: int, ranges: Ranges) -> tuple[tuple[float, float], int, int]:
    """Speeds from and to, frames before the disc is hidden, and the horizon: they depend on gap and ranges alone.

    The whole way lies within the view, so that the speeds of the ranges are cut to what the gap leaves time for.
    """
    largest = ranges.radius[1]
    across = 2 * largest + 1
    slow = min(ranges.speed[0], (58 - 6 * largest) / (BEFORE + LEAD + AFTER + 3 + gap))
    before = BEFORE + math.ceil(across / slow)
    horizon = LEAD + math.ceil(1 / slow) + math.ceil(across / slow) + AFTER
    fast = (VIEW - 2 * largest - 2.5) / (before + gap + horizon - 1)
    return (slow, max(slow, min(fast, ranges.speed[1]))), before, horizon


def _draw_occlusion(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """The disc and one or two others run in lanes beside each other; a screen stands in the disc's lane."""
    gap = GAPS[index % len(GAPS)]
    speeds, before, horizon = _crossing(gap, ranges)
    num_frames, num_others = before + gap + horizon, int(rng.integers(1, 3))
    radius, speed = between(rng, ranges.radius, 1 + num_others), between(rng, speeds)
    r = radius[0]

    phase = between(rng, (0.3, 0.7))  # of a frame since its edge has passed the screen's
    lowest = math.ceil((before - phase) * speed + 0.5)
    highest = math.floor(VIEW - 2 * r - 0.5 - (num_frames - 1 - before + phase) * speed)
    if lowest > highest:
        raise Again
    left = int(rng.integers(lowest, highest + 1))
    right = left + math.ceil(2 * r + (phase + gap + LEAD - 1) * speed)
    x = left + r + (np.arange(num_frames) - before + phase) * speed

    height = 2 * radius + 2 + 5 * (np.arange(1 + num_others) == 0)  # the screen is higher than its disc
    order = rng.permutation(1 + num_others)
    spare = rng.dirichlet(np.ones(2 + num_others)) * (VIEW - height.sum())
    lanes = np.empty(1 + num_others)
    lanes[order] = np.cumsum(height[order]) - height[order] / 2 + np.cumsum(spare)[:-1]
    top, bottom = math.floor(lanes[0] - r - 1.5), math.ceil(lanes[0] + r + 1.5)

    start = np.stack([rng.uniform(radius[1:] + 1, VIEW - radius[1:] - 1), lanes[1:]], 1)
    velocity = between(rng, ranges.speed, num_others) * rng.choice([-1, 1], num_others)
    others = discs(start, np.stack([velocity, np.zeros(num_others)], 1), radius[1:])
    others_at = simulate(others, num_frames, bounds=BOUNDS).position

    # The next of the same gap comes out on the other side: a borrowed future is no lucky guess.
    flip, transpose = np.array([index // len(GAPS) % 2 == 1, rng.random() < 0.5]), rng.random() < 0.5

    def turned(place: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        place = np.where(flip, VIEW - place, place)
        return place[..., ::-1] if transpose else place

    colour = colours(rng, 1 + num_others, ranges)
    cast = Cast(num_frames, GROUND, _grain(rng))
    cast.add(turned(np.stack([x, np.full(num_frames, lanes[0])], 1)), r, colour[0])
    for i in range(num_others):
        cast.add(turned(others_at[:, i]), radius[1 + i], colour[1 + i])
    half = np.array([right - left, bottom - top]) / 2
    middle = np.array([left + right, top + bottom]) / 2
    cast.add(turned(middle), half[::-1] if transpose else half, SCREEN, box=True, object=False)
    track = cast.track()
    _check_gap(track, before + gap, gap, 1)
    return Episode((Question(track, before + gap),), {"gap": gap, "asked": 1})


def _check_gap(track: Track, num_context: int, gap: int, asked: int) -> None:
    """Again, unless the first `asked` things are out of sight in the last `gap` frames and in none before."""
    away = unseen(track.part(0, num_context))[:, :asked]
    if away[: num_context - gap].any() or not away[num_context - gap :].all():
        raise Again


def _mark_occlusion(episode: Episode, frames: Frames) -> Marks:
    future, reading, far = _measured(episode, frames)
    scored = _asked(episode, far)
    hidden = unseen(future)[:, future.objects] & (np.arange(len(future.objects)) < 1)
    located = _share(far.located, scored)
    return Marks(
        error=_share(far.distance, scored),
        numbers={
            "located": located,
            "exists": _share(reading.found, scored),
            "premature": _share(reading.found, hidden),
        },
        points={"recall": [(float(episode.about["gap"]), located[0] / located[1])]},
    )


# -- looking away ---------------------------------------------------------------------------------

LOOK, STAY = 8, 10  # frames before the camera turns away, and after it has come back
AWAY = 2  # pans that take the camera to the other side of the world
WORLD = (2.0 * VIEW, 1.0 * VIEW)  # what the camera stays in


def _looked(track: Track, world: tuple[float, float], actions: Actions) -> Track:
    """The same world as a camera sees it that these actions lead."""
    camera = np.empty_like(track.camera)
    camera[0] = track.camera[0]
    for t, step in enumerate(PAN * actions[: len(camera) - 1, [PAN_X, PAN_Y]]):
        camera[t + 1] = np.clip(camera[t] + step, 0, np.array(world) - VIEW)
    return track.changed(camera=camera)


def _elsewhere(rng: np.random.Generator, cast: Cast, colour: Float[np.ndarray, "n 3"], ranges: Ranges) -> None:
    """Discs that rest on the other side of the world, so that there is something to see there."""
    radius = between(rng, ranges.radius, len(colour))
    for place, r, c in zip(
        scattered(rng, radius, (float(VIEW), 0.0, 2.0 * VIEW, float(VIEW))), radius, colour, strict=True
    ):
        cast.add(place, r, c)


def _draw_static(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """All that is asked for rests in the left half of the first view: one pan takes it out of sight."""
    gap, asked = GAPS[index % len(GAPS)], _counted(rng, ranges)
    steps, num_context = min(AWAY, gap), LOOK + gap  # in one frame the camera gets half-way
    num_frames = num_context + steps + STAY
    radius = between(rng, ranges.radius, asked)
    colour = colours(rng, min(asked + 2, len(ranges.palette)), ranges)
    cast = Cast(num_frames, GROUND, _grain(rng))
    for place, r, c in zip(scattered(rng, radius, (0.0, 0.0, PAN, float(VIEW))), radius, colour[:asked], strict=True):
        cast.add(place, r, c)
    _elsewhere(rng, cast, colour[asked:], ranges)
    return _away_and_back(cast.track(), num_context, steps, 0, {"gap": gap, "asked": asked})


def _away_and_back(track: Track, num_context: int, steps: int, linger: int, about: dict) -> Episode:
    """The camera turns away after LOOK frames, and back `linger` frames after the context has ended."""
    actions = np.zeros((track.num_frames, len(ACTIONS)))
    back = num_context - 1 + linger
    actions[LOOK - 1 : LOOK - 1 + steps, PAN_X] = 1
    actions[back : back + steps, PAN_X] = -1
    rerun = partial(_looked, track, WORLD)
    track = rerun(actions)
    _check_gap(track, num_context, about["gap"], about["asked"])
    return Episode((Question(track, num_context, actions, rerun),), about)


def _mark_static(episode: Episode, frames: Frames) -> Marks:
    _, reading, far = _measured(episode, frames)
    scored = _asked(episode, far)
    located = _share(far.located, scored)
    return Marks(
        error=_share(far.distance, scored),
        numbers={"located": located, "exists": _share(reading.found, scored)},
        points={"recall": [(float(episode.about["gap"]), located[0] / located[1])]},
    )


UNSEEN = 10  # frames at least from the last sight of the mover to the next
MOVED = 10.0  # pixels at least that it goes meanwhile


def _draw_moving(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """One disc goes up or down in a lane of its own, past others that rest.

    After a short gap the camera stays away a little longer, so that the mover gets somewhere; for a long gap the speed
    of the ranges is cut to what keeps it in the view.
    """
    gap, n = GAPS[index % len(GAPS)], _counted(rng, ranges)
    linger = max(0, UNSEEN - AWAY - gap)
    num_context = LOOK + gap
    num_frames = num_context + linger + AWAY + STAY
    radius = between(rng, ranges.radius, n)
    r = radius[0]

    room = VIEW - 2 * r - 2
    speed = min(between(rng, ranges.speed), room / (num_frames - 1) * between(rng, (0.9, 1.0)))
    way = speed * (num_frames - 1)
    if speed * (gap + linger + AWAY) < MOVED:
        raise Again
    y = r + 1 + between(rng, (0.0, room - way)) + speed * np.arange(num_frames)
    x = r + between(rng, (0.5, 1.0))
    rest = scattered(rng, radius[1:], (x + r, 0.0, PAN, float(VIEW)), gap=0.5)
    mirrored = rng.random() < 0.5  # within the left half of the view
    upwards = index // len(GAPS) % 2 == 1  # the next of the same gap goes the other way: no lucky guesses
    x, rest[:, 0] = (PAN - x, PAN - rest[:, 0]) if mirrored else (x, rest[:, 0])
    y = VIEW - y if upwards else y

    colour = colours(rng, min(n + 2, len(ranges.palette)), ranges)
    cast = Cast(num_frames, GROUND, _grain(rng))
    cast.add(np.stack([np.full(num_frames, x), y], 1), r, colour[0])
    for i in range(1, n):
        cast.add(rest[i - 1], radius[i], colour[i])
    _elsewhere(rng, cast, colour[n:], ranges)
    back = linger + AWAY - 1  # the frame of the future in which all is in view again
    return _away_and_back(cast.track(), num_context, AWAY, linger, {"gap": gap, "asked": 1, "back": back})


def _mark_moving(episode: Episode, frames: Frames) -> Marks:
    """The unfreeze ratio is 1 where the mover has come as far as it should, 0 where it has stayed, or is lost."""
    future, reading, far = _measured(episode, frames)
    scored, back = _asked(episode, far), episode.about["back"]
    left = episode.questions[0].track.position[LOOK - 1, 0]
    moved = future.position[back, 0] - left
    guess = reading.centre[back, 0] + future.camera[back] - left
    came = float(guess @ moved) if reading.found[back, 0] else 0.0
    located = _share(far.located, scored)
    return Marks(
        error=_share(far.distance, scored),
        numbers={
            "located": located,
            "exists": _share(reading.found, scored),
            "unfreeze": (came, float(moved @ moved)),
        },
        points={"recall": [(float(episode.about["gap"]), located[0] / located[1])]},
    )


# -- mirror ---------------------------------------------------------------------------------------

WALK, REST = 8, 4  # pans of the walk, and frames before it
BROAD = (2.0 * VIEW, 2.0 * VIEW)


def _draw_mirror(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """The camera walks over a world that rests, a pan at a time, and goes the same way back."""
    num_context, horizon = REST + WALK, WALK + 2
    places = [rng.integers(0, 3, 2)]
    for _ in range(WALK):
        ahead = [places[-1] + step for step in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        ahead = [p for p in ahead if (0 <= p).all() and (p <= 2).all()]
        ahead = [p for p in ahead if len(places) == 1 or (p != places[-2]).any()]
        places.append(ahead[rng.integers(len(ahead))])
    actions = np.zeros((num_context + horizon, len(ACTIONS)))
    actions[REST - 1 : num_context - 1, [PAN_X, PAN_Y]] = np.diff(places, axis=0)
    actions[num_context - 1 : -1] = -actions[num_context - 1 - horizon : num_context - 1][::-1]

    n = min(_counted(rng, ranges) + 3, len(ranges.palette))
    quarter = np.concatenate([rng.permutation(4), rng.integers(0, 4, n)])[:n]  # something in each
    radius, colour = between(rng, ranges.radius, n), colours(rng, n, ranges)
    cast = Cast(len(actions), GROUND, _grain(rng), np.tile(PAN * places[0], (len(actions), 1)))
    for q in range(4):
        (inside,) = np.nonzero(quarter == q)
        corner = np.array([q % 2, q // 2]) * VIEW
        for i, place in zip(inside, scattered(rng, radius[inside]) + corner, strict=True):
            cast.add(place, radius[i], colour[i])
    rerun = partial(_looked, cast.track(), BROAD)
    question = Question(rerun(actions), num_context, actions, rerun)
    if not (visible(question.future) > 0.8).any(1).all():
        raise Again
    return Episode((question,), {"asked": n})


def _mark_mirror(episode: Episode, frames: Frames) -> Marks:
    """Against the truth; and against the way there, which needs no truth (and which a world that rests satisfies)."""
    _, reading, far = _measured(episode, frames)
    question = episode.questions[0]
    there = question.prompt(_tier(frames))[question.num_context - 1 - question.horizon : -1][::-1]
    similarity = quality.ssim(_tensor(frames), _tensor(there))
    scored = _asked(episode, far)
    return Marks(
        error=_share(far.distance, scored),
        numbers={
            "located": _share(far.located, scored),
            "exists": _share(reading.found, scored),
            "self-consistency": (float(similarity), 1.0),
        },
    )


def _tensor(frames: Frames) -> torch.Tensor:
    """In [-1, 1], with channels before rows."""
    return torch.from_numpy(rearrange(frames, "t h w c -> t c h w").copy()).float() / 127.5 - 1


# -- conservation ---------------------------------------------------------------------------------


def _draw_conservation(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Discs that bounce off the walls and never meet: nothing happens, so nothing may change."""
    num_context, horizon = 10, 32
    n = _counted(rng, ranges)
    bodies = _strangers(rng, between(rng, ranges.radius, n), ranges, num_context + horizon)
    motion = simulate(bodies, num_context + horizon, bounds=BOUNDS)
    if motion.between():
        raise Again
    track = _discs_only(rng, bodies, motion.position, ranges)
    return Episode((Question(track, num_context),), {"asked": n})


def _discs_only(
    rng: np.random.Generator, bodies: Bodies, position: Float[np.ndarray, "t n 2"], ranges: Ranges
) -> Track:
    cast = Cast(len(position), GROUND, _grain(rng))
    for i, colour in enumerate(colours(rng, position.shape[1], ranges)):
        cast.add(position[:, i], bodies.half[i, 0], colour)
    return cast.track()


def _strangers(
    rng: np.random.Generator, radius: Float[np.ndarray, " n"], ranges: Ranges, num_frames: int, tries: int = 200
) -> Bodies:
    """Discs that come no nearer to each other than a pixel within so many frames. Again if none are found."""
    fine = np.linspace(0, num_frames - 1, 4 * num_frames - 3)  # four looks a frame
    start, velocity, paths = [], [], []
    for i, r in enumerate(radius):
        angle = rng.uniform(0, 2 * np.pi, tries)
        v = between(rng, ranges.speed, tries)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        p = rng.uniform(r + 1, VIEW - r - 1, (tries, 2))
        room = VIEW - 2 * r
        along = (p[:, None] - r + v[:, None] * fine[:, None]) % (2 * room)
        path = r + np.minimum(along, 2 * room - along)  # there and back between the walls
        near = np.zeros(tries, dtype=bool)
        for other, other_path in zip(radius[:i], paths, strict=True):
            near |= (np.linalg.norm(path - other_path, axis=-1) < r + other + 1).any(1)
        (free,) = np.nonzero(~near)
        if not len(free):
            raise Again
        first = free[0]
        start.append(p[first])
        velocity.append(v[first])
        paths.append(path[first])
    return discs(np.array(start), np.array(velocity), radius)


def _mark_conservation(episode: Episode, frames: Frames) -> Marks:
    future, reading, far = _measured(episode, frames)
    n = len(future.objects)
    scored = _asked(episode, far)
    count = reading.found.sum(1) + reading.spurious
    area = np.where(reading.found, reading.area, 0.0)  # what is lost has no area
    there = area.mean(0) > 0
    variation = area.std(0)[there] / area.mean(0)[there]
    return Marks(
        error=_share(far.distance, scored),
        numbers={
            "located": _share(far.located, scored),
            "count error": (float((np.abs(count - n) / n).sum()), float(len(count))),
            "identity swaps": _share(_swapped(future, reading, far), scored),
            "area variation": (float(variation.sum()), float(there.sum())),
            "spurious": (float(reading.spurious.sum()), float(len(count))),
        },
    )


def _swapped(future: Track, reading: Reading, far: Errors) -> Bool[np.ndarray, "t n"]:
    """Whether an object is not where it should be, but another one is."""
    truth = future.position[:, future.objects] - future.camera[:, None]
    apart = np.linalg.norm(truth[:, :, None] - reading.centre[:, None], axis=-1)  # t, true, read
    taken = (apart <= TOLERANCE) & reading.found[:, None] & ~np.eye(truth.shape[1], dtype=bool)
    return taken.any(2) & ~far.located


# -- drift ----------------------------------------------------------------------------------------

LATE = 40  # frame of the clip from which on drift is scored
WINDOW = 5  # frames over which the located rate is taken
FAR_FROM_THINGS = 3.0  # pixels from the edge of an object: background for certain


def _draw_drift(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """One or two discs bounce for long; where they meet, it must be so that pixels tell what follows."""
    num_context, horizon = 8, 64
    n = int(rng.integers(1, 3))
    radius = between(rng, ranges.radius, n)
    velocity = [between(rng, ranges.speed) * heading(between(rng, (0.0, 2 * np.pi))) for _ in range(n)]
    bodies = discs(scattered(rng, radius), np.array(velocity), radius)

    run = partial(_bounced, bodies, num_context + horizon)
    motion = simulate(bodies, num_context + horizon, bounds=BOUNDS)
    if any(contact.frame < num_context for contact in motion.between()) or not steady(run, motion.position, rng):
        raise Again
    track = _discs_only(rng, bodies, motion.position, ranges)
    return Episode((Question(track, num_context),), {"asked": n})


def _bounced(bodies: Bodies, num_frames: int, by: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "t n 2"]:
    return simulate(shifted(bodies, by), num_frames, bounds=BOUNDS).position


def _mark_drift(episode: Episode, frames: Frames) -> Marks:
    future, _, far = _measured(episode, frames)
    question = episode.questions[0]
    late = np.arange(len(frames)) >= LATE - question.num_context
    scored = _asked(episode, far)
    truth = film(future, _tier(frames)).astype(np.float32) / 255
    guess = frames.astype(np.float32) / 255
    ground = _background(future, frames.shape[1])
    times = np.nonzero(scored.any(1))[0]

    def by_time(values: np.ndarray) -> list[tuple[float, float]]:
        return [(float(t + 1), float(values[t][scored[t]].mean())) for t in times]

    return Marks(
        error=_share(far.distance, scored & late[:, None]),
        numbers={
            "located": _share(far.located, scored & late[:, None]),
            "horizon": (float(_lasts(far.located, scored)), 1.0),
            "background difference": _share(np.abs(guess - truth).mean(-1), ground),
            "sharpness": (_sharpness(guess[late]), _sharpness(truth[late])),
        },
        points={"error by time": by_time(far.distance), "located by time": by_time(far.located)},
    )


def _lasts(located: Bool[np.ndarray, "t n"], scored: Bool[np.ndarray, "t n"]) -> int:
    """Frames until less than half of the objects are located, over WINDOW frames; all frames if that never comes."""
    for t in range(len(located) - WINDOW + 1):
        part = slice(t, t + WINDOW)
        if scored[part].any() and located[part][scored[part]].mean() < 0.5:
            return t
    return len(located)


def _background(track: Track, side: int) -> Bool[np.ndarray, "t h w"]:
    """The pixels that are far from every object. There is no scenery."""
    grid = (np.arange(side) + 0.5) * VIEW / side
    centre = track.position - track.camera[:, None]
    dx, dy = grid - centre[..., :1], grid - centre[..., 1:]
    apart = np.hypot(dx[:, :, None, :], dy[:, :, :, None])
    return np.all(apart > track.half[:, 0, None, None] + FAR_FROM_THINGS, axis=1)


def _sharpness(frames: Float[np.ndarray, "t h w 3"]) -> float:
    """The variance of the Laplacian of the grey frames, summed over them."""
    grey = frames.mean(-1)
    inner = -4 * grey[:, 1:-1, 1:-1]
    laplacian = inner + grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return float(laplacian.var((1, 2)).sum())


# -- recall ---------------------------------------------------------------------------------------

PLACES = 6  # two rows of three
SHOWN, COVERED, OPENED = 8, 8, 8  # frames with the discs in view, under their lids, and after one has opened
SURE = 4  # frames at the end that count


def _draw_recall(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """1 to 6 discs of different colours at six places; lids cover all places, and one over a disc is opened."""
    k = min(1 + index % PLACES, len(ranges.palette))
    num_context = SHOWN + COVERED
    num_frames = num_context + OPENED
    radius = between(rng, ranges.radius, k)
    column, row = np.arange(PLACES) % 3, np.arange(PLACES) // 3
    cell = np.array([VIEW / 3, VIEW / 2])
    wander = np.array([1.0, 4.0])
    place = (np.stack([column, row], 1) + 0.5) * cell + rng.uniform(-wander, wander, (PLACES, 2))
    taken = rng.permutation(PLACES)[:k]
    cued = int(rng.integers(k))

    cast = Cast(num_frames, GROUND, _grain(rng))
    for i, colour in enumerate(colours(rng, k, ranges)):
        cast.add(place[taken[i]], radius[i], colour)
    lid = ranges.radius[1] + 1.5
    for i in range(PLACES):
        cast.add(place[i], lid, SCREEN, box=True, object=False, shown=np.arange(num_frames) >= SHOWN)
    actions = np.zeros((num_frames, len(ACTIONS)))
    actions[num_context - 1, [REACH_X, REACH_Y]] = 2 * place[taken[cued]] / VIEW - 1
    actions[num_context - 1, OPEN] = 1
    rerun = partial(_opened, cast.track())
    track = rerun(actions)
    _check_gap(track, num_context, COVERED, k)
    return Episode((Question(track, num_context, actions, rerun),), {"asked": k, "cued": cued})


def _opened(track: Track, actions: Actions) -> Track:
    """A lid is gone for good from the frame after a hand has opened it; other places have nothing to open."""
    shown = track.shown.copy()
    reach = (actions[:, [REACH_X, REACH_Y]] + 1) / 2 * VIEW
    for t in np.nonzero(actions[:-1, OPEN] > OPENS)[0].tolist():
        under = (np.abs(track.position[t] - reach[t]) <= track.half).all(1)
        shown[t + 1 :, under & ~track.object & shown[t]] = False
    return track.changed(shown=shown)


def _mark_recall(episode: Episode, frames: Frames) -> Marks:
    future, cued = episode.questions[0].future, episode.about["cued"]
    palette = future.colour[-1, future.objects]
    place = tuple(float(x) for x in future.position[-1, cued])
    radius = float(future.half[cued, 0])
    right = [colour_at(frame, place, radius, palette) == cued for frame in frames[-SURE:]]
    accuracy = float(np.mean(right))
    return Marks(
        error=(1 - accuracy, 1.0),
        numbers={"accuracy": (accuracy, 1.0)},
        points={"capacity": [(float(episode.about["asked"]), accuracy)]},
    )


# -- containment ----------------------------------------------------------------------------------

CLOSED, PUSHED, SEEN = 1, 8, 9
"""Frames with the disc at rest inside; of pushes within the context; in view after opening."""
FURTHER = 10  # frames of the future before it is opened
CARRIED, CARRIED_UNSEEN = 20.0, 10.0  # pixels at least that it is moved, and that it is moved after the context


def _draw_containment(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """A disc sinks into a box from above; the box is pushed along, within the context and beyond, and opened."""
    largest = ranges.radius[1]
    enters = BEFORE + math.ceil((2 * largest + 2.5) / ranges.speed[0])  # the frame at which it is in
    num_context = enters + CLOSED + PUSHED
    num_frames = num_context + FURTHER + SEEN
    radius = between(rng, ranges.radius, 2)  # the disc's, and that of a bystander
    r = radius[0]
    half = math.ceil(r + 1.5)
    bottom = VIEW - half - between(rng, (1.0, 4.0))
    speed = min(between(rng, ranges.speed), (bottom - r - 1) / enters)
    if (enters - BEFORE + 1) * speed < half + r + 0.5:  # in full view before
        raise Again

    actions = np.zeros((num_frames, len(ACTIONS)))
    way = 1.0 if index % 2 else -1.0  # a borrowed future is no lucky guess
    first, more = int(rng.integers(5, PUSHED + 1)), int(rng.integers(6, FURTHER + 1))
    begin = enters + CLOSED
    actions[begin : begin + first, PUSH_X] = way * between(rng, (0.7, 1.0), first)
    actions[num_context - 1 : num_context - 1 + more, PUSH_X] = way * between(rng, (0.7, 1.0), more)
    actions[num_context - 1 + FURTHER, OPEN] = 1
    unseen_way, whole = (PUSH * float(np.abs(actions[t:, PUSH_X]).sum()) for t in (num_context - 1, 0))
    if whole < CARRIED or unseen_way < CARRIED_UNSEEN:
        raise Again
    ends = sorted((half + 1 - min(0.0, way * whole), VIEW - half - 1 - max(0.0, way * whole)))
    start = np.array([between(rng, (ends[0], ends[1])), bottom])

    colour = colours(rng, 2, ranges)
    cast = Cast(num_frames, GROUND, _grain(rng))
    sinks = np.minimum(np.arange(num_frames) - enters, 0) * speed
    cast.add(start + sinks[:, None] * np.array([0.0, 1.0]), r, colour[0])
    bystander = scattered(rng, radius[1:], (0.0, 0.0, float(VIEW), bottom - half))[0]
    if abs(bystander[0] - start[0]) < radius.sum() + 1:
        raise Again
    cast.add(bystander, radius[1], colour[1])
    cast.add(start, half, WALLS, box=True, object=False)
    rerun = partial(_carried, cast.track(), enters)
    question = Question(rerun(actions), num_context, actions, rerun)
    away = unseen(question.track)[:, 0]
    if away[:BEFORE].any() or not away[enters : num_context + FURTHER].all() or away[num_context + FURTHER :].any():
        raise Again
    return Episode((question,), {"asked": 1, "gap": int(away[:num_context].sum())})


def _carried(track: Track, enters: int, actions: Actions) -> Track:
    """Pushes move the box (the last thing), and from `enters` on the disc in it (the first), until it is opened."""
    position, shown = track.position.copy(), track.shown.copy()
    disc, box = 0, position.shape[1] - 1
    low, high = track.half[box], VIEW - track.half[box]
    for t in range(track.num_frames - 1):
        here = position[t, box]
        there = np.clip(here + PUSH * actions[t, [PUSH_X, PUSH_Y]], low, high) if shown[t, box] else here
        position[t + 1 :, box] = there
        if t >= enters:
            position[t + 1 :, disc] += there - here
        if actions[t, OPEN] > OPENS:
            shown[t + 1 :, box] = False
    return track.changed(position=position, shown=shown)


def _mark_containment(episode: Episode, frames: Frames) -> Marks:
    _, reading, far = _measured(episode, frames)
    scored = _asked(episode, far)
    return Marks(
        error=_share(far.distance, scored),
        numbers={"located": _share(far.located, scored), "exists": _share(reading.found, scored)},
    )


# -- families -------------------------------------------------------------------------------------

_RECALL = ("frames unseen", "located")

FAMILIES: tuple[Family, ...] = (
    Family(
        id="P1",
        number=1,
        title="Occlusion permanence",
        question="Does a disc that went behind a screen come out on the other side, when it should?",
        axis="persistence",
        draw=_draw_occlusion,
        mark=partial(_over_samples, _mark_occlusion),
        period=len(GAPS),
        curves={"recall": _RECALL},
    ),
    Family(
        id="P2a",
        number=2,
        title="Look away, static",
        question="Are things that rest still in their places when the camera comes back?",
        axis="persistence",
        draw=_draw_static,
        mark=partial(_over_samples, _mark_static),
        acts=True,
        period=len(GAPS),
        curves={"recall": _RECALL},
    ),
    Family(
        id="P2b",
        number=3,
        title="Look away, moving",
        question="Has a thing that moved gone on moving while the camera looked away?",
        axis="persistence",
        draw=_draw_moving,
        mark=partial(_over_samples, _mark_moving),
        acts=True,
        period=len(GAPS),
        curves={"recall": _RECALL},
    ),
    Family(
        id="P2c",
        number=4,
        title="Mirror",
        question="Does the way back show what the way there has shown?",
        axis="persistence",
        draw=_draw_mirror,
        mark=partial(_over_samples, _mark_mirror),
        acts=True,
    ),
    Family(
        id="P3",
        number=5,
        title="Conservation",
        question="Do number, colours and sizes stay while things move and nothing happens to them?",
        axis="persistence",
        draw=_draw_conservation,
        mark=partial(_over_samples, _mark_conservation),
    ),
    Family(
        id="P4",
        number=6,
        title="Long-horizon drift",
        question="How long do simple motions stay right, and the picture sharp and of one colour?",
        axis="persistence",
        draw=_draw_drift,
        mark=partial(_over_samples, _mark_drift),
        curves={"error by time": ("frames predicted", "error, px"), "located by time": ("frames predicted", "located")},
    ),
    Family(
        id="P5",
        number=7,
        title="Delayed recall",
        question="Which colour lies under the lid that an action opens?",
        axis="persistence",
        draw=_draw_recall,
        mark=partial(_over_samples, _mark_recall),
        acts=True,
        period=PLACES,
        curves={"capacity": ("discs to remember", "right colour")},
    ),
    Family(
        id="P6",
        number=8,
        title="Containment",
        question="Is the disc in the box where the box has been pushed to?",
        axis="persistence",
        draw=_draw_containment,
        mark=partial(_over_samples, _mark_containment),
        acts=True,
    ),
)
