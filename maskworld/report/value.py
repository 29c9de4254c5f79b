"""The page of values along a video: what the future brings at each discount, and pictures of it.

Sections: what is shown - page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from maskworld.report.curve import Curve, Series
from maskworld.report.film import Row
from maskworld.report.page import Block, Code, Facts, Film, Interval, Note, Page, Section, Still, Stills, Table

MOST = 400  # frames of the video that are shown

# -- what is shown --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Along:
    """Values at one discount along a video.

    frames   at which there is one
    error    standard error over draws; NaN where there is none, as of a single one, or where nothing was drawn
    ended    share of the draws in which all is over
    true     returns of the episode, where they are known; NaN where they are not
    """

    gamma: float
    frames: Sequence[int]
    value: Sequence[float]
    error: Sequence[float]
    ended: Sequence[float]
    true: Sequence[float] | None = None


class Drawn(NamedTuple):
    """A draw of the future.

    image  of its last frame; None where all is over
    delay  frames from the moment to the real later frame that is most like it; None where there is none later
    apart  share of the codes in which both differ
    """

    image: UInt8[np.ndarray, "h w c"] | None
    delay: int | None
    apart: float | None


class Moment(NamedTuple):
    """A moment of the video, and draws of its future."""

    frame: int
    image: UInt8[np.ndarray, "h w c"]
    draws: Sequence[Drawn]


@dataclass(frozen=True)
class Told:
    """All that the page tells.

    video    its frames; None where there are none to show
    moments  with their draws, at the discount `gamma`
    blind    why there are no pictures of draws; empty where there are
    """

    title: str
    facts: Sequence[tuple[str, str]]
    fps: float
    along: Sequence[Along]
    video: UInt8[np.ndarray, "t h w c"] | None
    moments: Sequence[Moment]
    gamma: float
    blind: str
    command: str


# -- page -----------------------------------------------------------------------------------------


def value_page(told: Told) -> Page:
    """The video, the values along it, and futures."""
    if not told.along or not told.along[0].frames:
        raise ValueError("no values: there is nothing to show")
    sections = [_last(told), curves(told), futures(told)]
    again = Section("Once more", "The same seed draws the same futures.", [Code(told.command)])
    return Page(
        told.title,
        "The value of a moment is the sum of all rewards to come, those further away discounted by gamma for every "
        "frame. It is the mean reward of the discounted future, without a roll-out: each draw is one state that the "
        "video may come to, at a random delay.",
        Facts(list(told.facts)),
        [*sections, again],
    )


def _last(told: Told) -> Section:
    rows = []
    truth = any(one.true is not None for one in told.along)
    for one in told.along:
        spread = 1.96 * one.error[-1]
        value = Interval(one.value[-1], one.value[-1] - spread, one.value[-1] + spread, _digits(one.value))
        row = [f"{one.gamma:g}", f"{1 / (1 - one.gamma):.3g}", value, f"{100 * one.ended[-1]:.0f} %"]
        if truth:
            last = math.nan if one.true is None else one.true[-1]
            row.append(last if math.isfinite(last) else None)
        rows.append(row)
    head = ["gamma", "frames ahead, in the mean", "value", "all is over", *(["true return"] * truth)]
    frame = told.along[0].frames[-1]
    table = Table(head, rows, f"{_over_draws(told)}Frame {frame}, at {frame / told.fps:.2f} s.")
    blocks: list[Block] = [table]
    if told.video is not None:
        every = -(-len(told.video) // MOST)
        caption = "" if every == 1 else f"Of every {every} frames one is shown."
        film = Film([Row("video", told.video[::every])], max(told.fps / every, 1.0), caption, with_strip=True)
        blocks.insert(0, film)
    return Section("The end of the video", "What is to come after its last frame.", blocks)


def _over_draws(told: Told) -> str:
    if any(math.isfinite(error) for one in told.along for error in one.error):
        return "With 95 % intervals over draws. "
    return "The model holds these values itself, and nothing was drawn for them. "


def curves(told: Told) -> Section:
    """The value at each discount along the video."""
    blocks: list[Block] = []
    for one in told.along:
        spread = [1.96 * e if math.isfinite(e) else 0.0 for e in one.error]
        low = [v - s for v, s in zip(one.value, spread, strict=True)]
        high = [v + s for v, s in zip(one.value, spread, strict=True)]
        series = [Series("value", one.frames, one.value, low, high)]
        if one.true is not None and any(map(math.isfinite, one.true)):
            series.append(Series("true return", one.frames, one.true, baseline=True))
        blocks.append(Curve(series, "frame", f"value, gamma {one.gamma:g}"))
    if len(told.along) > 1:
        scaled = [
            Series(f"gamma {one.gamma:g}", one.frames, [v * (1 - one.gamma) for v in one.value]) for one in told.along
        ]
        blocks.append(Curve(scaled, "frame", "mean reward of the future, (1 - gamma) value"))
    text = _over_draws(told).strip()
    if any(one.true is not None for one in told.along):
        text += (
            " The true return is of the rewards that really came; unless the episode ended for good, it is divided by "
            "1 - gamma^left, as if what follows the last frame were like what came before, and near the end that is "
            "little to go by."
        )
    return Section("Along the video", text, blocks)


def futures(told: Told) -> Section:
    """Draws after a few of its moments."""
    if not told.moments:
        return Section("Draws of the future", "", [Note(told.blind, warning=True)])
    mean = 1 / (1 - told.gamma)
    text = (
        f"What may follow a moment (green), drawn at gamma {told.gamma:g}: each is a frame that lies, on average, "
        f"{mean:.3g} frames ahead, and the model does not say how far. The number under a draw is estimated: how many "
        "frames later in this very video the state is found that differs from it in the fewest codes, and in what "
        "share of them it differs. There is none at the end of the video, and a draw may be of what never comes here."
    )
    blocks: list[Block] = []
    for moment in told.moments:
        stills = [Still(moment.image, f"frame {moment.frame}", given=True)]
        stills += [Still(draw.image, _label(draw)) for draw in moment.draws]
        blocks.append(Stills(stills))
    return Section("Draws of the future", text, blocks)


def _label(draw: Drawn) -> str:
    if draw.image is None:
        return "all is over"
    if draw.delay is None or draw.apart is None:
        return "-"
    return f"+{draw.delay}, {100 * draw.apart:.0f} %"


def _digits(values: Sequence[float]) -> int:
    most = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return 1 if most >= 100 else 2 if most >= 10 else 3
