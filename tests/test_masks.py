"""Masks: the draws hide what they say, as often as they say; what is cut to tokens comes back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskworld import masks
from maskworld.noise import Rng
from maskworld.verbs import Draw, Known

quick = settings(max_examples=50, deadline=None, derandomize=True, database=None)
few = st.integers(1, 4)
seeds = st.integers(0, 2**32)
probabilities = st.floats(0, 1)

DRAWS = {
    "mcvd": masks.mcvd(2, 2, 1, 0.5, 0.5),
    "mcvd_partial": masks.mcvd_partial(2, 2, 1, 0.3, 0.3, 0.5),
    "some_frames": masks.some_frames(0.5),
    "rows": masks.rows(2, 4, 3),
    "blocks": masks.blocks(2, 4, 0.5),
    "tubes": masks.tubes(2, 4, 0.5),
    "views": masks.views(0.5),
    "one_of": masks.one_of([(1.0, masks.rows(2, 4, 1)), (2.0, masks.tubes(2, 4, 0.75))]),
}


def drawn(draw: Draw, b: int, v: int, t: int, seed: int = 0) -> Known:
    known = draw(b, v, t, Rng.of(seed, batch=b))
    assert known.dtype == torch.bool and known.shape[:3] == (b, v, t)
    return known


# -- plain masks ----------------------------------------------------------------------------------


def test_past_and_future() -> None:
    known = masks.past_and_future(2, 3, 1, b=2, v=3)
    assert known.shape == (2, 3, 6, 1, 1)
    assert known[1, 2, :, 0, 0].tolist() == [True, True, False, False, False, True]
    assert torch.equal(known, masks.these_frames([True] * 2 + [False] * 3 + [True], 2, 3))
    known[0, 0, 0] = False  # each example has its own memory
    assert bool(known[1, 0, 0])


@quick
@given(gh=few, gw=few, kh=few, kw=few, seed=seeds)
def test_on_pixels_repeats_each_cell(gh: int, gw: int, kh: int, kw: int, seed: int) -> None:
    known = Rng.of(seed, batch=2).uniform((1, 3, gh, gw)) < 0.5
    pixels = masks.on_pixels(known, gh * kh, gw * kw)
    for y in range(gh * kh):
        for x in range(gw * kw):
            assert torch.equal(pixels[..., y, x], known[..., y // kh, x // kw])
    assert torch.equal(masks.whole_frames(known), masks.whole_frames(pixels))
    assert torch.equal(masks.whole_frames(known), known.all(-1).all(-1))


def test_a_mask_that_does_not_fit_is_refused() -> None:
    frames = torch.zeros(2, 1, 3, 1, 6, 8)
    masks.check_fits(torch.ones(2, 1, 3, 3, 4, dtype=torch.bool), frames)
    masks.check_fits(torch.ones(2, 1, 3, 1, 1, dtype=torch.bool), frames)
    for shape in ((2, 1, 3, 4, 4), (2, 1, 3, 3, 3), (2, 1, 3, 12, 8)):
        with pytest.raises(ValueError, match="does not divide"):
            masks.check_fits(torch.ones(shape, dtype=torch.bool), frames)
    for shape in ((1, 1, 3, 1, 1), (2, 2, 3, 1, 1), (2, 1, 4, 1, 1)):
        with pytest.raises(ValueError, match="the clip has"):
            masks.check_fits(torch.ones(shape, dtype=torch.bool), frames)


# -- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_seeded_and_apart(name: str) -> None:
    """The same seed gives the same mask, another seed another, whatever the batch an example stands in."""
    draw = DRAWS[name]
    eight = drawn(draw, 8, 2, 5, seed=3)
    assert torch.equal(eight, drawn(draw, 8, 2, 5, seed=3))
    assert not torch.equal(eight, drawn(draw, 8, 2, 5, seed=4))
    assert torch.equal(eight[5:6], draw(1, 2, 5, Rng.of(3, batch=8)[[5]]))
    assert len({tuple(one.flatten().tolist()) for one in eight}) > 1


def test_mcvd_hides_past_and_future_independently() -> None:
    b, p, q = 4000, 0.5, 0.25
    known = drawn(masks.mcvd(2, 2, 1, p, q), b, 2, 5)[..., 0, 0]
    assert not known[:, :, 2:4].any()
    assert bool((known == known[:, :1]).all())  # the same for all views
    past, future = known[:, 0, :2], known[:, 0, 4]
    assert torch.equal(past.any(1), past.all(1))  # a side is shown whole or not at all
    shown = past.all(1)
    for pair, expected in (
        (shown & future, (1 - p) * (1 - q)),
        (shown & ~future, (1 - p) * q),
        (~shown & future, p * (1 - q)),
        (~shown & ~future, p * q),
    ):
        assert pair.double().mean().item() == pytest.approx(expected, abs=4 * (0.25 / b) ** 0.5)


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_mcvd_with_certainty(p: float, q: float) -> None:
    known = drawn(masks.mcvd(2, 2, 1, p, q), 50, 1, 5)[:, 0, :, 0, 0]
    assert bool((known[:, :2] == (p == 0)).all()) and bool((known[:, 4:] == (q == 0)).all())


@pytest.mark.parametrize(("past", "future"), [(3, 0), (0, 3), (0, 0)])
def test_mcvd_without_a_side(past: int, future: int) -> None:
    for draw in (masks.mcvd(past, 2, future, 0.0, 0.0), masks.mcvd_partial(past, 2, future, 0.0, 0.0, 0.0)):
        known = drawn(draw, 1, 1, past + 2 + future)
        assert torch.equal(known, masks.past_and_future(past, 2, future))


def test_mcvd_partial_shows_the_frames_nearest_to_the_middle() -> None:
    b, past, future = 3000, 3, 2
    draw = masks.mcvd_partial(past, 2, future, 0.2, 0.0, 0.5)
    known = drawn(draw, b, 1, past + 2 + future)[:, 0, :, 0, 0]
    assert not known[:, past : past + 2].any()
    before, after = known[:, :past], known[:, past + 2 :]
    assert bool((before[:, :-1] <= before[:, 1:]).all())  # once shown, shown up to the middle
    assert bool((after[:, :-1] >= after[:, 1:]).all())
    near = 4 * (0.25 / b) ** 0.5
    shown = [(before.sum(1) == n).double().mean().item() for n in range(past + 1)]
    part = 0.8 * 0.5 / 3
    assert shown == pytest.approx([0.2, part, part, 0.4 + part], abs=near)
    assert (after.sum(1) == 1).double().mean().item() == pytest.approx(0.25, abs=near)
    assert bool(after[:, 0].all())  # the future is never hidden whole here
    both = ((after.sum(1) == 1) & (before.sum(1) == 1)).double().mean().item()
    assert both == pytest.approx(0.25 * part, abs=2 * (0.25 * part / b) ** 0.5)  # each side by itself


def test_mcvd_partial_without_parts_is_mcvd() -> None:
    whole, partial = masks.mcvd(2, 1, 2, 0.4, 0.6), masks.mcvd_partial(2, 1, 2, 0.4, 0.6, 0.0)
    assert torch.equal(drawn(whole, 40, 1, 5), drawn(partial, 40, 1, 5))


def test_some_frames() -> None:
    b, v, t = 2000, 2, 5
    known = drawn(masks.some_frames(0.7), b, v, t)
    assert not known.flatten(1).all(1).any()
    # frames are known with p, except that one is hidden where all ten would be known: rarely
    assert known.double().mean().item() == pytest.approx(0.7 - 0.7**10 / 10, abs=0.015)
    assert (drawn(masks.some_frames(1.0), 50, v, t).flatten(1).sum(1) == v * t - 1).all()
    assert not drawn(masks.some_frames(0.0), 50, v, t).any()


@quick
@given(gh=few, gw=few, hidden=st.integers(0, 4), seed=seeds)
def test_rows_hides_exactly_so_many_in_each_row(gh: int, gw: int, hidden: int, seed: int) -> None:
    hidden = min(hidden, gw)
    known = drawn(masks.rows(gh, gw, hidden), 2, 2, 3, seed)
    assert known.shape[3:] == (gh, gw)
    assert bool(((~known).sum(-1) == hidden).all())


@quick
@given(gh=few, gw=few, share=probabilities, seed=seeds)
def test_blocks_and_tubes_hide_a_share(gh: int, gw: int, share: float, seed: int) -> None:
    for draw in (masks.blocks(gh, gw, share), masks.tubes(gh, gw, share)):
        known = drawn(draw, 2, 2, 3, seed)
        assert known.shape[3:] == (gh, gw)
        hidden = (~known).flatten(3).sum(-1)
        assert bool((hidden == hidden[0, 0, 0]).all())
        assert abs(hidden[0, 0, 0].item() - share * gh * gw) <= 0.5
    assert bool((known == known[:, :, :1]).all())  # a tube is the same through all frames


def test_cells_are_hidden_evenly() -> None:
    for name in ("rows", "blocks", "tubes"):
        often = drawn(DRAWS[name], 2000, 1, 2).double().mean((0, 1, 2))
        assert torch.allclose(often, often.mean(), atol=0.06), name
    frames = drawn(DRAWS["blocks"], 20, 1, 2)
    assert bool((frames[:, :, 0] != frames[:, :, 1]).any())  # others in each frame


def test_views_leaves_one() -> None:
    known = drawn(masks.views(0.5), 2000, 3, 2)[..., 0, 0]
    assert bool((known == known[:, :, :1]).all())
    assert bool(known.any(1).all())
    share = known[:, :, 0].double().mean(0)
    # hidden with p, but the one with the largest draw stays even where all would be hidden
    assert torch.allclose(share, torch.full((3,), 0.5 + 0.5**3 / 3, dtype=torch.float64), atol=0.045)
    assert (drawn(masks.views(1.0), 50, 3, 2)[:, :, 0].sum(1) == 1).all()
    assert drawn(masks.views(0.0), 50, 3, 2).all()


def test_one_of_takes_by_weight() -> None:
    draw = masks.one_of([(1.0, masks.rows(1, 4, 1)), (0.0, masks.rows(1, 4, 2)), (3.0, masks.rows(1, 4, 3))])
    hidden = (~drawn(draw, 2000, 1, 1)).sum((1, 2, 3, 4))
    assert set(hidden.tolist()) == {1, 3}
    assert (hidden == 3).double().mean().item() == pytest.approx(0.75, abs=0.04)


def test_bad_draws_are_refused() -> None:
    for call in (
        lambda: masks.mcvd(1, 1, 1, 1.5, 0.0),
        lambda: masks.mcvd_partial(1, 1, 1, 0.0, 0.0, -0.1),
        lambda: masks.some_frames(float("nan")),
        lambda: masks.blocks(2, 2, 1.01),
        lambda: masks.tubes(2, 2, -1.0),
        lambda: masks.views(2.0),
    ):
        with pytest.raises(ValueError, match="is a probability"):
            call()
    for hidden in (-1, 5):
        with pytest.raises(ValueError, match="cells in a row"):
            masks.rows(2, 4, hidden)
    for bad in ([], [(0.0, DRAWS["rows"])], [(-1.0, DRAWS["rows"]), (2.0, DRAWS["rows"])]):
        with pytest.raises(ValueError, match="weights"):
            masks.one_of(bad)
    with pytest.raises(ValueError, match="clips of 5 frames, not 4"):
        drawn(DRAWS["mcvd"], 1, 1, 4)


# -- tokens ---------------------------------------------------------------------------------------


@quick
@given(gh=few, gw=few, ph=few, pw=few, c=few, seed=seeds)
def test_patches_come_back(gh: int, gw: int, ph: int, pw: int, c: int, seed: int) -> None:
    frames = Rng.of(seed, batch=2).normal((1, 2, c, gh * ph, gw * pw))
    patches = masks.patch(frames, ph, pw)
    assert patches.shape == (2, 1, 2, gh, gw, ph * pw * c)
    assert torch.equal(masks.unpatch(patches, ph, pw), frames)
    corner = frames[..., :ph, :pw].movedim(2 + 1, -1).flatten(-3)
    assert torch.equal(patches[..., 0, 0, :], corner)


def test_patches_and_masks_name_the_same_cells() -> None:
    """Hiding a cell of the grid hides the pixels of its patch and no others."""
    known = drawn(masks.rows(2, 3, 1), 2, 1, 2)
    pixels = masks.on_pixels(known, 4, 9)[:, :, :, None].float()
    cells = masks.patch(pixels, 2, 3)
    assert torch.equal(cells, known[..., None].float().expand_as(cells))


def test_patches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        masks.patch(torch.zeros(1, 1, 1, 1, 4, 6), 2, 4)


@quick
@given(gh=few, gw=few, hidden=st.integers(0, 4), seed=seeds)
def test_gathered_tokens_go_back_to_their_places(gh: int, gw: int, hidden: int, seed: int) -> None:
    hidden = min(hidden, gw)
    kept = drawn(masks.rows(gh, gw, hidden), 3, 1, 2, seed).flatten(1)
    tokens, fill = Rng.of(seed, 1, batch=3).normal((kept.shape[1], 4)), torch.full((3, kept.shape[1], 4), 9.0)
    few_tokens = masks.gather(tokens, kept)
    assert few_tokens.shape == (3, 2 * gh * (gw - hidden), 4)
    whole = masks.scatter(few_tokens, kept, fill)
    assert torch.equal(whole, torch.where(kept[..., None], tokens, fill))
    assert torch.equal(masks.gather(whole, kept), few_tokens)
    assert bool((fill == 9).all())  # scatter does not write into what it is given
    for one in range(3):  # in order of place
        assert torch.equal(few_tokens[one], tokens[one][kept[one]])


def test_uneven_numbers_of_tokens_are_refused() -> None:
    kept = torch.tensor([[True, True, False], [True, False, False]])
    with pytest.raises(ValueError, match="different numbers of tokens"):
        masks.gather(torch.zeros(2, 3, 1), kept)
