"""Plan, then render: a planner says where the objects will be, and its plan is drawn as a conditioning picture.

    plan = planner(past, None, 8)                                   # b 8 n 2
    draw(plan, past.radius, past.colour, 64)                        # b 8 3 64 64: a second view, all of it known

Planners can be exchanged, so that the error of the plan and the error of the picture can be told apart: `simulator`
knows the truth, `constant_velocity` knows nothing, `Learned` has seen tracks. Lengths are pixels, times are frames; a
place is counted from the left top corner of what the first frame shows, also where the camera moves.

Sections: states - planners - the learned planner - training - drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from maskworld.noise import Rng
from maskworld.probes.base import ACTIONS, Question
from maskworld.probes.films import Piece, question_of
from maskworld.probes.stage import VIEW, Track

# -- states ---------------------------------------------------------------------------------------


class State(NamedTuple):
    """The objects of a few worlds over a few frames. `there` is False where a world has fewer objects than others.

    position   of the centres
    colour     in [-1, 1], as in frames
    """

    position: Float[Tensor, "b t n 2"]
    radius: Float[Tensor, "b n"]
    colour: Float[Tensor, "b n 3"]
    there: Bool[Tensor, "b n"]

    @property
    def velocity(self) -> Float[Tensor, "b n 2"]:
        """The last step of each object. ValueError for a single frame."""
        if self.position.shape[1] < 2:
            raise ValueError("a velocity takes two frames, and the state has one")
        return self.position[:, -1] - self.position[:, -2]

    def at(self, start: int, stop: int) -> State:
        """Frames start..stop - 1."""
        return self._replace(position=self.position[:, start:stop])


def of_track(track: Track) -> State:
    """The true state of one world, without its scenery; a box counts as the disc of its width."""
    index = track.objects
    position = track.position[:, index] - track.camera[0]
    return State(
        position=torch.from_numpy(position).float()[None],
        radius=torch.from_numpy(track.half[index, 0]).float()[None],
        colour=torch.from_numpy(track.colour[0, index] * 2 - 1).float()[None],
        there=torch.from_numpy(track.shown[:, index].any(0))[None],
    )


def together(states: Sequence[State]) -> State:
    """Many worlds of the same frames as one batch: what a world lacks is filled up with zeros that are not there."""
    if not states or len({state.position.shape[1] for state in states}) > 1:
        raise ValueError(f"one state or more, of the same number of frames: {[s.position.shape[1] for s in states]}")
    most = max(state.radius.shape[1] for state in states)
    extra = [most - state.radius.shape[1] for state in states]
    return State(
        position=torch.cat([F.pad(s.position, (0, 0, 0, e)) for s, e in zip(states, extra, strict=True)]),
        radius=torch.cat([F.pad(s.radius, (0, e)) for s, e in zip(states, extra, strict=True)]),
        colour=torch.cat([F.pad(s.colour, (0, 0, 0, e)) for s, e in zip(states, extra, strict=True)]),
        there=torch.cat([F.pad(s.there, (0, e)) for s, e in zip(states, extra, strict=True)]),
    )


# -- planners -------------------------------------------------------------------------------------

Planner = Callable[[State, Float[Tensor, "b horizon a"] | None, int], Float[Tensor, "b horizon n 2"]]
"""(past, actions, horizon) -> where the objects are in the `horizon` frames after the past.

`actions[:, i]` are felt in frame i of the plan, so that they are taken one frame before it: the first of them at the
last frame of the past. None: nothing is done.
"""


def constant_velocity(
    past: State, actions: Float[Tensor, "b horizon a"] | None, horizon: int
) -> Float[Tensor, "b horizon n 2"]:
    """All go straight on as in the last two frames, whatever is done and through whatever stands there."""
    _check(past, actions, horizon)
    ahead = torch.arange(1, horizon + 1, device=past.position.device)
    return past.position[:, -1:] + ahead[:, None, None] * past.velocity[:, None]


def simulator(questions: Sequence[Question]) -> Planner:
    """What truly happens in these questions, one for each world of the batch; under other actions their rerun.

    The past that it is given begins at the first frame of the questions; no more is read of it than its length.
    """

    def plan(past: State, actions: Float[Tensor, "b horizon a"] | None, horizon: int) -> Float[Tensor, "b horizon n 2"]:
        _check(past, actions, horizon)
        b, start = past.position.shape[:2]
        if b != len(questions):
            raise ValueError(f"{len(questions)} questions for {b} worlds")
        tracks = []
        for i, question in enumerate(questions):
            length = question.track.num_frames
            if start + horizon > length:
                raise ValueError(f"{start} + {horizon} frames of a simulation of {length}")
            track = question.track
            if actions is not None:
                if question.actions is None or question.rerun is None:
                    raise ValueError("actions for a world in which nothing can be done")
                done = question.actions.copy()
                done[start - 1 : start - 1 + horizon] = actions[i].cpu().double().numpy()
                track = question.rerun(done)
            tracks.append(of_track(track))
        there = [state.at(start, start + horizon) for state in tracks]
        return together(there).position.to(past.position)

    return plan


def planner_error(
    plan: Float[Tensor, "b horizon n 2"], truth: Float[Tensor, "b horizon n 2"], there: Bool[Tensor, "b n"]
) -> Float[Tensor, " horizon"]:
    """How far objects are from where they should be, frame by frame: the mean over all that are there, in pixels."""
    apart = (plan - truth).norm(dim=-1)
    share = there / there.sum()
    return torch.einsum("b h n, b n -> h", apart, share.to(apart))


def _check(past: State, actions: Tensor | None, horizon: int) -> None:
    if horizon < 1:
        raise ValueError(f"a plan has one frame or more, not {horizon}")
    if actions is not None and actions.shape[1] != horizon:
        raise ValueError(f"{actions.shape[1]} actions for a plan of {horizon} frames")


# -- the learned planner --------------------------------------------------------------------------

SIGHT = 8.0  # pixels between two rims beyond which nothing is felt
LATER = 3.0  # frames ahead to which a meeting is foreseen
STRONGEST = 2.5  # times the speed of approach: more is never returned (2 by what is very heavy)
BOUNDS = (0.0, 0.0, float(VIEW), float(VIEW))


class Learned(nn.Module):
    """A planner that learns how objects and walls deflect each other: forces between pairs, equivariant to turns,
    mirrors and the order of the objects (after E(n)-equivariant networks, Satorras et al. 2021, Eqs. 3-6).

    Only what approaches is deflected, in proportion to its speed: `pull` gives the factors, for the step itself and
    for the velocity after it, along the line of centres and across it. A wall is a partner of its own kind. Over the
    past the velocity is followed by predicting each frame and correcting the prediction; untrained, the plan is
    `constant_velocity`.

    bounds    left, top, right, bottom of the walls
    """

    def __init__(self, dim: int = 64, bounds: tuple[float, float, float, float] = BOUNDS):
        super().__init__()
        self.bounds = bounds
        self.pull = nn.ModuleDict({kind: _perceptron(6, dim, 4) for kind in ("object", "wall")})
        self.push = nn.Linear(len(ACTIONS), 2, bias=False)
        self.pushed = nn.Linear(3, 1)  # who feels actions is told by its colour
        self.trust = nn.Parameter(torch.tensor(4.0))  # in what is seen rather than foreseen, as a logit
        nn.init.zeros_(self.push.weight)

    def forward(
        self, past: State, actions: Float[Tensor, "b horizon a"] | None, horizon: int
    ) -> Float[Tensor, "b horizon n 2"]:
        _check(past, actions, horizon)
        place, velocity = past.position[:, 0], past.at(0, 2).velocity
        for t in range(1, past.position.shape[1]):
            seen = past.position[:, t]
            if t > 1:
                foreseen, velocity = self._step(past, place, velocity)
                velocity = velocity + self.trust.sigmoid() * (seen - foreseen)
            place = seen
        plan = []
        for i in range(horizon):
            if actions is not None:
                felt = self.pushed(past.colour).sigmoid()
                velocity = velocity + felt * self.push(actions[:, i])[:, None]
            place, velocity = self._step(past, place, velocity)
            plan.append(place)
        return torch.stack(plan, 1)

    def _step(
        self, past: State, place: Float[Tensor, "b n 2"], velocity: Float[Tensor, "b n 2"]
    ) -> tuple[Float[Tensor, "b n 2"], Float[Tensor, "b n 2"]]:
        """One frame on: places and velocities."""
        radius, there = past.radius, past.there
        n = radius.shape[1]
        line = place[:, None] - place[:, :, None]  # b n m: from n to m
        course = velocity[:, :, None] - velocity[:, None]  # of n as m sees it
        rims = radius[:, None] + radius[:, :, None]
        when = _meeting(line, course, rims)
        objects = self._deflected(
            "object",
            along=_unit(line - course * when.clamp(0, 1)[..., None]),
            gap=line.square().sum(-1).add(1e-6).sqrt() - rims,
            when=when,
            course=course,
            sizes=torch.stack([radius[:, :, None].expand_as(rims), radius[:, None].expand_as(rims)], -1),
            meets=there[:, None] & there[:, :, None] & ~torch.eye(n, dtype=torch.bool, device=place.device),
        )
        left, top, right, bottom = self.bounds
        x, y = place.unbind(-1)
        size = radius[:, :, None].expand(-1, -1, 4)
        gap = torch.stack([x - left, y - top, right - x, bottom - y], -1) - size
        normal = place.new_tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])  # towards each of them
        course = velocity[:, :, None].expand(-1, -1, 4, -1)
        walls = self._deflected(
            "wall",
            along=normal.expand_as(course),
            gap=gap,
            when=(gap / (course * normal).sum(-1).clamp(min=1e-2)).clamp(-1, LATER),
            course=course,
            sizes=torch.stack([size, size], -1),
            meets=there[:, :, None].expand_as(gap),
        )
        jolt, turn = (objects + walls).unbind(2)
        return place + velocity + jolt, velocity + turn

    def _deflected(
        self,
        kind: str,
        *,
        along: Float[Tensor, "b n m 2"],
        gap: Float[Tensor, "b n m"],
        when: Float[Tensor, "b n m"],
        course: Float[Tensor, "b n m 2"],
        sizes: Float[Tensor, "b n m 2"],
        meets: Bool[Tensor, "b n m"],
    ) -> Float[Tensor, "b n 2 2"]:
        """What all partners together do to each object: to its step, and to its velocity.

        `along` is the direction to the partner when they are nearest, `gap` lies between their rims now.
        """
        speed = (course * along).sum(-1)  # of approach
        aside = course - speed[..., None] * along
        sideways = aside.square().sum(-1).add(1e-6).sqrt()
        about = [gap.clamp(-SIGHT, SIGHT), when, speed.clamp(-SIGHT, SIGHT), sideways.clamp(max=SIGHT)]
        about = torch.stack([*about, *(sizes - 5).unbind(-1)], -1)
        factor = STRONGEST * self.pull[kind](about).tanh()
        factor = rearrange(factor, "b n m (what way) -> b n m what way 1", what=2)
        ways = torch.stack([along, aside / sideways[..., None]], -2)[..., None, :, :]
        near = (meets & (gap < SIGHT)) * speed.clamp(min=0)
        return ((factor * ways).sum(-2) * near[..., None, None]).sum(2)


def _unit(vector: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
    return vector / vector.square().sum(-1, keepdim=True).add(1e-6).sqrt()


def _meeting(
    line: Float[Tensor, "*n 2"], course: Float[Tensor, "*n 2"], rims: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """In how many frames two discs touch that go straight on; LATER at most, and where they miss each other."""
    pace, closing = course.square().sum(-1) + 1e-6, (line * course).sum(-1)
    spare = closing**2 - pace * (line.square().sum(-1) - rims**2)
    when = (closing - spare.clamp(min=1e-3).sqrt()) / pace
    return torch.where((spare > 0) & (closing > 0), when.clamp(-1, LATER), LATER)


def _perceptron(dim_in: int, dim: int, dim_out: int) -> nn.Sequential:
    """Begins by giving zeros."""
    last = nn.Linear(dim, dim_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dim_in, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), last)


# -- training -------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A stretch of a world to learn from. `actions[:, t]` is taken at frame t; None: nothing is done."""

    state: State
    actions: Float[Tensor, "b t a"] | None = None


def of_piece(piece: Piece) -> Example:
    """What a film of the suite shows. To learn from, all its frames follow each other: Films(..., near=history)."""
    question, index = question_of(piece), list(piece.frames)
    actions = None if question.actions is None else torch.from_numpy(question.actions[index]).float()[None]
    return Example(of_track(question.track.at(index)), actions)


def train_planner(
    planner: nn.Module,
    source: Callable[[int], Example],
    steps: int = 1500,
    *,
    num_worlds: int = 512,
    batch: int = 64,
    past: int = 4,
    horizon: int = 8,
    lr: float = 3e-3,
    seed: int = 0,
) -> Float[Tensor, " steps"]:
    """Learn from worlds 0..num_worlds - 1 of a source, in place; gives the loss of each step.

    Each step cuts pieces of `past` + `horizon` frames out of some worlds, and compares the plans with what happens.
    All worlds have the same number of frames, that many at least. The defaults take about two minutes of one core.
    """
    worlds = [source(i) for i in range(num_worlds)]
    state = together([world.state for world in worlds])
    b, t = state.position.shape[:2]
    if t < past + horizon:
        raise ValueError(f"worlds of {t} frames, and {past} + {horizon} are cut out of them")
    acts = [world.actions if world.actions is not None else torch.zeros(1, t, len(ACTIONS)) for world in worlds]
    actions, acted = torch.cat(acts), any(world.actions is not None for world in worlds)
    rng = Rng.of(seed)
    adam = torch.optim.Adam(planner.parameters(), lr=lr)
    decay = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        which = rng.integers(0, b, (batch,))[0]
        frame = rng.integers(0, t - past - horizon + 1, (batch, 1))[0] + torch.arange(past + horizon)
        piece = State(
            state.position[which[:, None], frame], state.radius[which], state.colour[which], state.there[which]
        )
        felt = actions[which[:, None], frame[:, past - 1 : -1]] if acted else None
        plan = planner(piece.at(0, past), felt, horizon)
        off = F.smooth_l1_loss(plan, piece.position[:, past:], reduction="none").sum(-1)
        valid = piece.there[:, None].expand_as(off)
        loss = off[valid].mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(planner.parameters(), 1.0)
        adam.step()
        decay.step()
        losses.append(loss.detach())
    return torch.stack(losses)


# -- drawing --------------------------------------------------------------------------------------


def draw(
    position: Float[Tensor, "b t n 2"],
    radius: Float[Tensor, "b n"],
    colour: Float[Tensor, "b n 3"],
    size: int = VIEW,
) -> Float[Tensor, "b t 3 {size} {size}"]:
    """The plan as a picture, in [-1, 1]: discs on a ground of -1, later ones over earlier, antialiased as the suite's.

    A radius of 0 draws nothing. Where the camera moves, take its offset from the places first.
    """
    b, t, n = position.shape[:3]
    pixel = torch.arange(size, device=position.device) + 0.5
    frames = position.new_full((b, t, 3, size, size), -1.0)
    for i in range(n):
        dx, dy = (pixel - position[:, :, i, axis, None] for axis in (0, 1))
        away = (dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2).sqrt()
        r = rearrange(radius[:, i], "b -> b 1 1 1")
        share = torch.where(r > 0, (r + 0.5 - away).clamp(0, 1), 0.0)[:, :, None]
        frames = frames + share * (rearrange(colour[:, i], "b c -> b 1 c 1 1") - frames)
    return frames
