"""Plans beside films: where they say things are, how wrong they may be, and that the renderer follows them."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld import masks, planners
from maskworld.clip import Clip, collate
from maskworld.noise import Rng
from maskworld.papers import forcing
from maskworld.plan import along, best_of
from maskworld.planners import constant_velocity
from maskworld.probes.base import ACTIONS, Asked, Setting
from maskworld.probes.films import Films, Pairs, question_of
from maskworld.probes.suite import FAMILIES
from maskworld.recipes.forcing_discs import forcing_discs
from maskworld.recipes.forcing_plans import Planned, forcing_plans, swing, with_plan
from maskworld.world import World

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import plans as study

TINY = forcing.tiny(size=64, channels=3, depth=1, actions=len(ACTIONS), window=8, plan=True)


def _net(config: forcing.Config = TINY) -> forcing.Forcing:
    """Random weights, none of them zero."""
    net, rng = forcing.Forcing(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=rng))
    return net.eval()


def _centres(frames: torch.Tensor) -> torch.Tensor:
    """Where the bright pixels of each picture lie on average, x and y."""
    share = (frames.amax(-3) > -0.9).double()
    pixel = torch.arange(64, dtype=torch.float64) + 0.5
    total = share.sum((-1, -2))
    return torch.stack([(share.sum(-2) * pixel).sum(-1) / total, (share.sum(-1) * pixel).sum(-1) / total], -1)


# -- data -----------------------------------------------------------------------------------------


def test_a_true_plan_shows_what_the_film_shows() -> None:
    planned = pickle.loads(pickle.dumps(Planned(Films(("C1", "C2", "P2a"), seed=2))))
    for i in range(6):
        clip, film = planned(i), planned.films(i)
        assert clip.shape == (1, 2, 12, 3, 64, 64) and torch.equal(clip.frames[:, :1], film.frames)
        for name in ("times", "actions"):
            assert torch.equal(getattr(clip, name), getattr(film, name))
        view, plan = clip.frames[0].unbind(0)
        ground = film.frames[0, 0, 0].flatten(1).median(1).values[:, None, None]
        lit = (view - ground).abs().amax(1) > 0.02
        assert ((plan.amax(1) > -1) == lit).float().mean() > 0.98
        assert torch.equal(planned(i).frames, clip.frames)


def test_wrong_plans_are_off_by_so_much_and_slowly() -> None:
    times = torch.arange(40)[None]
    off = swing(times, 200, Rng.of(0))
    size = off.norm(dim=-1)
    assert size.max() <= 1 and size.amax(1).max() > 0.9 and size.mean() > 0.1
    assert off.diff(dim=1).norm(dim=-1).max() < 2 * torch.pi / 8 + 1e-3  # at most a turn in 8 frames
    assert torch.allclose(swing(times + 0.0, 200, Rng.of(0)), off)

    films = Films(("P3",), seed=1)
    right, wrong = Planned(films), Planned(films, p_wrong=1.0, wrong=2.0)
    apart = torch.stack([_centres(right(i).frames[0, 1]) - _centres(wrong(i).frames[0, 1]) for i in range(6)])
    assert 0.05 < apart.norm(dim=-1).max() < 2.3
    empty = Planned(films, p_none=1.0)(0)
    assert torch.equal(empty.frames[:, 1], torch.full_like(empty.frames[:, 1], -1.0))


def test_plans_are_wrong_and_missing_as_often_as_asked() -> None:
    films = Films(("C1",), history=2, near=2, ahead=1, seed=5)
    some, true = Planned(films, 0.4, 2.0, 0.25), Planned(films)
    none, wrong, n = 0, 0, 96
    for i in range(n):
        plan = some(i).frames[:, 1]
        none += int((plan == -1).all())
        wrong += int((plan != -1).any() and not torch.equal(plan, true(i).frames[:, 1]))
    assert 0.12 < none / n < 0.4 and 0.25 < wrong / n < 0.55


def test_what_is_gone_is_not_planned() -> None:
    """C2 takes a thing away: the branch without it has a plan without it."""
    films = Films(("C2",), history=2, near=2, ahead=1)
    seen = 0
    for i in range(64):
        track = question_of(films.piece(i)).track
        gone = ~track.shown[:, track.objects].any(0)
        if gone.any():
            state = planners.of_track(track.at(list(films.piece(i).frames)))
            x, y = state.position[0, 0, int(np.nonzero(gone)[0][0])].long().clamp(0, 63).tolist()
            others = state.position[0, 0, ~torch.from_numpy(gone)] - torch.tensor([x, y])
            if (others.norm(dim=-1) > state.radius[0, ~torch.from_numpy(gone)] + 2).all():
                assert (Planned(films)(i).frames[0, 1, 0, :, y, x] == -1).all()
                seen += 1
    assert seen > 0


# -- recipe ---------------------------------------------------------------------------------------


def test_the_recipe_knows_its_plan_and_learns_to_read_it() -> None:
    recipe = forcing_plans(TINY, ("P3", "C1"), (1.0, 1.0), batch=2, p_other=0.5)
    clip = collate([recipe.data(i) for i in range(2)])
    for seed in range(12):
        known = recipe.draw(2, 2, 12, Rng.of(seed, batch=2))
        assert known[:, 1].all() and not known[:, 0].all()
    loss = recipe.objective(recipe.net, clip, known, Rng.of(0, batch=2)).total.mean()
    loss.backward()
    weight = recipe.net.get_parameter("planned.weight")
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="takes a plan"):
        forcing_plans(dataclasses.replace(TINY, plan=False))
    for fields in ({"p_wrong": 0.7, "p_none": 0.6}, {"p_none": -0.1}, {"wrong": -1.0}):
        with pytest.raises(ValueError, match=r"probability|0 pixels or more"):
            Planned(Films(("P3",)), **fields)


def test_pairs_are_a_kind_of_data_and_a_weight() -> None:
    config = forcing.tiny(size=64, channels=3, depth=1, actions=len(ACTIONS))
    apart = {
        (paired, weight): forcing_discs(config, ("C2",), (1.0,), paired=paired, pairs=weight)
        for paired, weight in ((False, 0.0), (True, 0.0), (True, 1.0), (False, 1.0))
    }
    kinds = {key: type(recipe.data) for key, recipe in apart.items()}
    assert kinds == {(False, 0.0): Films, (True, 0.0): Pairs, (True, 1.0): Pairs, (False, 1.0): Pairs}
    clip = collate([apart[True, 0.0].data(i) for i in range(2)])
    assert torch.equal(clip.frames, collate([apart[True, 1.0].data(i) for i in range(2)]).frames)
    known = masks.past_and_future(8, 4, 0, 2)
    terms = {key: set(r.objective(r.net, clip, known, Rng.of(0, batch=2)).terms) for key, r in apart.items()}
    assert terms[True, 0.0] == {"x0"} and terms[True, 1.0] == {"x0", "pairs"}


# -- rendering ------------------------------------------------------------------------------------


def _planned_clip(b: int = 2) -> Clip:
    return collate([Planned(Films(("C1",), history=6, near=6, ahead=4))(i) for i in range(b)])


def test_along_a_plan_is_the_fill_with_a_second_view() -> None:
    clip, fill = _planned_clip(), forcing.fill(_net(), forcing.Sampling(steps=2))
    known = with_plan(masks.prefix(6, 6))(2, 2, 10, Rng.of(0, batch=2))
    both = fill(clip, known, Rng.of(1, batch=2))
    drawing = torch.full((2, 60, 3, 64, 64), torch.nan)
    for i, when in enumerate(clip.times):
        drawing[i, when] = clip.frames[i, 1]
    one = dataclasses.replace(clip, frames=clip.frames[:, :1])
    alone = along(fill, drawing)(one, known[:, :1], Rng.of(1, batch=2))
    assert torch.equal(alone.frames, both.frames[:, :1])
    other = along(fill, torch.full_like(drawing, -1.0))(one, known[:, :1], Rng.of(1, batch=2))
    assert not torch.allclose(other.frames[:, :, 6:], alone.frames[:, :, 6:], atol=1e-4)
    with pytest.raises(ValueError, match="and the clip others"):
        along(fill, drawing[:, :3])(one, known[:, :1], Rng.of(1, batch=2))
    with pytest.raises(ValueError, match="a plan for 1 examples"):
        along(fill, drawing[:1])(one, known[:, :1], Rng.of(1, batch=2))


def test_surprise_depends_on_the_plan() -> None:
    clip, watch = _planned_clip(), forcing.surprise(_net(), num_levels=2)
    found = watch(clip, 6, Rng.of(0, batch=2))
    frames = clip.frames.clone()
    frames[:, 1, 8] = -1.0
    other = watch(dataclasses.replace(clip, frames=frames), 6, Rng.of(0, batch=2))
    changed = (found - other).abs() > 1e-5
    assert changed[:, 2].all() and not changed[:, [0, 1, 3]].any()
    with pytest.raises(ValueError, match="beside its plan"):
        watch(dataclasses.replace(clip, frames=clip.frames[:, :1]), 6, Rng.of(0, batch=2))
    known = with_plan(masks.prefix(6, 6))(2, 2, 10, Rng.of(0, batch=2))
    best = best_of(forcing.fill(_net(), forcing.Sampling(steps=1)), watch, 2)(clip, known, Rng.of(0, batch=2))
    assert torch.equal(best.frames[:, 1], clip.frames[:, 1]) and torch.equal(
        best.frames[:, :, :6], clip.frames[:, :, :6]
    )


# -- the study ------------------------------------------------------------------------------------


def _asked(family: str, num: int = 1) -> list[Asked]:
    found = []
    for index in range(num):
        for branch, question in enumerate(FAMILIES[family].episode(index).questions):
            found.append(Asked(question, FAMILIES[family], index, branch, Setting()))
    return found


def test_the_simulators_plan_is_drawn_as_the_camera_sees_it() -> None:
    for family in ("C1", "C3"):
        asked = _asked(family)
        questions = [one.question for one in asked]
        past = study.past_of(questions)
        assert past.position.shape[1] == questions[0].num_context
        plan = study.planned(planners.simulator, questions)
        truth = planners.together([planners.of_track(q.track) for q in questions]).position
        assert torch.allclose(plan, truth[:, past.position.shape[1] :], atol=1e-3)
    mean, last = study.errors_of(lambda _: constant_velocity, "C1", 2)
    assert 1 < mean.mean < last.mean
    exact, _ = study.errors_of(planners.simulator, "C1", 2)
    assert exact.mean < 1e-4


def test_a_renderer_is_asked_with_every_planner() -> None:
    world = World(_net(), TINY, {"step": 0}).sampled(1)
    asked = _asked("C1", 2)
    given = {}
    for name, planner in (("true", planners.simulator), ("straight", lambda _: constant_velocity), ("none", None)):
        subject = study.subject_of(world, name, planner)
        given[name] = subject.answer(asked)
        assert [a.shape for a in given[name]] == [(1, one.question.horizon, 64, 64, 3) for one in asked]
        (alone,) = subject.answer(asked[1:])
        assert np.abs(alone.astype(int) - given[name][1]).max() <= 1  # whoever is asked beside
    assert (given["true"][0] != given["straight"][0]).any() and (given["true"][0] != given["none"][0]).any()
    # Until they meet, discs go straight on: so do the plans.
    first = asked[0].question
    soon = FAMILIES["C1"].episode(0).about["from"] - first.num_context - 1
    plans = [study.planned(of, [first])[:, :soon] for of in (planners.simulator, lambda _: constant_velocity)]
    assert soon >= 1 and torch.allclose(plans[0], plans[1], atol=1e-3)


def test_losses_add_up() -> None:
    ends = {"low": None, "high": None, "n": 4}

    def result(name: str, errors: list[float]) -> dict:
        marks = {"subject": [[i, e, 1.0] for i, e in enumerate(errors)]}
        marks |= {who: [[i, 10.0, 1.0] for i in range(4)] for who in ("copy", "shuffled")}
        marks["oracle"] = [[i, 0.0, 1.0] for i in range(4)]
        score = {"mean": 1 - sum(errors) / 40, **ends}
        family = {"axis": "causality", "reason": None, "unclipped": score, "marks": marks}
        return {"subject": name, "schema": 1, "version": 1, "setting": {}, "families": {"C1": family}}

    apart = study.taken_apart({study.TRUE: result("a", [1, 2, 3, 4]), "other": result("b", [3, 4, 4, 5])}, ["C1"])
    assert apart["renderer"]["C1"]["mean"] == pytest.approx(0.25)
    assert apart["other"]["C1"]["mean"] == pytest.approx(0.15)
