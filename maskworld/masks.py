"""What is known: draws for training, plain masks for the verbs, and patch, gather, scatter.

A tensor is never called mask: `known` is True where a pixel is given, `kept` is True where an encoder
keeps a token. Draws are functions that return a `Draw`: (b, v, t, rng) -> known.

Sections: plain masks - draws - tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.noise import Rng
from maskworld.verbs import Draw, Known

# -- plain masks ----------------------------------------------------------------------------------


def these_frames(known: Sequence[bool] | Bool[Tensor, " t"], b: int = 1, v: int = 1) -> Known:
    """Whole frames, the same for every example and view."""
    return repeat(torch.as_tensor(known, dtype=torch.bool), "t -> b v t 1 1", b=b, v=v).clone()


def past_and_future(past: int, hidden: int, future: int, b: int = 1, v: int = 1) -> Known:
    """`past` known frames, then `hidden` unknown ones, then `future` known ones."""
    return these_frames([True] * past + [False] * hidden + [True] * future, b, v)


def on_pixels(known: Known, h: int, w: int) -> Bool[Tensor, "b v t h w"]:
    """The same mask with one value per pixel. A grid that does not divide the frame is refused."""
    gh, gw = known.shape[-2:]
    if h % gh or w % gw:
        raise ValueError(f"a mask grid of {gh}x{gw} does not divide frames of {h}x{w}")
    return repeat(known, "b v t gh gw -> b v t (gh kh) (gw kw)", kh=h // gh, kw=w // gw)


def whole_frames(known: Known) -> Bool[Tensor, "b v t"]:
    """True where all of a frame is known."""
    return known.flatten(-2).all(-1)


def check_fits(known: Bool[Tensor, "kb kv kt gh gw"], frames: Float[Tensor, "b v t c h w"]) -> None:
    """Raise ValueError where a mask does not belong to these frames."""
    b, v, t, _, h, w = frames.shape
    if tuple(known.shape[:3]) != (b, v, t):
        raise ValueError(f"the mask is for (batch, views, frames) = {tuple(known.shape[:3])}, the clip has {(b, v, t)}")
    on_pixels(known[:1, :1, :1], h, w)


# -- draws ----------------------------------------------------------------------------------------


def mcvd(past: int, current: int, future: int, p_hide_past: float, p_hide_future: float) -> Draw:
    """MCVD, Sec. 3.2: the middle is unknown; the whole past and the whole future are hidden independently.

    The four cases are prediction (past only), looking back (future only), interpolation (both) and
    generation (neither).
    """
    _probability(p_hide_past=p_hide_past, p_hide_future=p_hide_future)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        _length(t, past + current + future)
        known = past_and_future(past, current, future, b, v)
        hide = rng.uniform((2,))
        known[:, :, :past] &= (hide[:, 0] >= p_hide_past)[:, None, None, None, None]
        known[:, :, past + current :] &= (hide[:, 1] >= p_hide_future)[:, None, None, None, None]
        return known

    return draw


def mcvd_partial(past: int, current: int, future: int, p_hide_past: float, p_hide_future: float, p_part: float) -> Draw:
    """As `mcvd`, and where a side is shown, with probability `p_part` only its nearest 1..n frames are.

    differs: the paper shows each side whole or not at all; a model trained so must be given its full
    context, one trained with parts starts from a single frame too.
    """
    _probability(p_hide_past=p_hide_past, p_hide_future=p_hide_future, p_part=p_part)
    whole = mcvd(past, current, future, p_hide_past, p_hide_future)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        known = whole(b, v, t, rng)
        part, length = rng.uniform((2,)), rng.uniform((2,))
        for side, n in ((0, past), (1, future)):
            if n == 0:
                continue
            shown = 1 + (length[:, side] * n).long().clamp(max=n - 1)
            shown = torch.where(part[:, side] < p_part, shown, n)
            distance = torch.arange(n - 1, -1, -1) if side == 0 else torch.arange(n)  # from the middle
            near = (distance[None] < shown[:, None])[:, None, :, None, None]
            where = slice(0, past) if side == 0 else slice(past + current, t)
            known[:, :, where] &= near
        return known

    return draw


def some_frames(p_known: float) -> Draw:
    """Each frame of each view is known with probability `p_known`; never all of a clip."""
    _probability(p_known=p_known)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        u = rng.uniform((v, t))
        known = u < p_known
        known &= u < u.flatten(1).amax(1)[:, None, None]  # the largest is hidden even where all are below p
        return known[..., None, None]

    return draw


def rows(gh: int, gw: int, hidden: int) -> Draw:
    """Exactly `hidden` cells are unknown in each row of the grid (MaskGWM, Sec. 3.3)."""
    if not 0 <= hidden <= gw:
        raise ValueError(f"cannot hide {hidden} of {gw} cells in a row")

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        return _rank(rng.uniform((v, t, gh, gw))) >= hidden

    return draw


def blocks(gh: int, gw: int, share: float) -> Draw:
    """A `share` of the cells of each frame is unknown, others in each frame (MAE)."""
    _probability(share=share)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        rank = _rank(rng.uniform((v, t, gh * gw)))
        return rearrange(rank >= round(share * gh * gw), "b v t (gh gw) -> b v t gh gw", gh=gh)

    return draw


def tubes(gh: int, gw: int, share: float) -> Draw:
    """A `share` of the cells is unknown, the same ones through all frames (VideoMAE)."""
    one = blocks(gh, gw, share)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        return one(b, v, 1, rng).expand(b, v, t, gh, gw).clone()

    return draw


def views(p_hidden: float) -> Draw:
    """Each view is hidden whole with probability `p_hidden`; one of them is always known."""
    _probability(p_hidden=p_hidden)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        u = rng.uniform((v,))
        known = (u >= p_hidden) | (u == u.amax(1, keepdim=True))
        return repeat(known, "b v -> b v t 1 1", t=t).clone()

    return draw


def one_of(draws: Sequence[tuple[float, Draw]]) -> Draw:
    """Each example takes one of several draws, with these weights. All have the same grid."""
    edges = _edges("one_of", draws)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        choice = torch.bucketize(rng.uniform(()).double() * edges[-1], edges, right=True)
        candidates = torch.stack([each(b, v, t, rng) for _, each in draws])
        return candidates[choice.clamp(max=len(draws) - 1), torch.arange(b)]

    return draw


def together(draws: Sequence[tuple[float, Draw]]) -> Draw:
    """The whole batch takes one of several draws, with these weights: examples with the same known frames go through
    a network at once. Which one says the first example's generator."""
    edges = _edges("together", draws)

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        choice = int(torch.bucketize(rng[[0]].uniform(())[0].double() * edges[-1], edges, right=True))
        return draws[min(choice, len(draws) - 1)][1](b, v, t, rng)

    return draw


def prefix(shortest: int, longest: int) -> Draw:
    """The first frames of the clip are known, as many for all of the batch: `shortest` to `longest`."""
    if not 0 <= shortest <= longest:
        raise ValueError(f"a prefix of {shortest} to {longest} frames")

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        if longest >= t:
            raise ValueError(f"a prefix of {longest} frames leaves nothing unknown in a clip of {t}")
        past = int(rng[[0]].integers(shortest, longest + 1, ()))
        return past_and_future(past, t - past, 0, b, v)

    return draw


def between(past: int, future: int) -> Draw:
    """So many frames at either end are known, and nothing between them."""

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        if past + future >= t:
            raise ValueError(f"{past} and {future} known frames leave nothing unknown in a clip of {t}")
        return past_and_future(past, t - past - future, future, b, v)

    return draw


def _edges(name: str, draws: Sequence[tuple[float, Draw]]) -> Float[Tensor, " n"]:
    """Where the share of each draw ends."""
    if not draws or min(w for w, _ in draws) < 0 or sum(w for w, _ in draws) <= 0:
        raise ValueError(f"{name} wants draws with weights that are not negative and not all zero")
    return torch.tensor([w for w, _ in draws], dtype=torch.float64).cumsum(0)


def _rank(u: Float[Tensor, "*n m"]) -> Int[Tensor, "*n m"]:
    """The place of each value among the last axis: 0 for the smallest."""
    return u.argsort(-1).argsort(-1)


def _length(t: int, want: int) -> None:
    if t != want:
        raise ValueError(f"this mask is for clips of {want} frames, not {t}")


def _probability(**values: float) -> None:
    for name, p in values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name} is a probability, from 0 to 1, not {p}")


# -- tokens ---------------------------------------------------------------------------------------


def patch(frames: Float[Tensor, "b v t c h w"], ph: int, pw: int) -> Float[Tensor, "b v t gh gw d"]:
    """Cut frames into patches of ph x pw pixels; d = (ph pw c)."""
    h, w = frames.shape[-2:]
    if h % ph or w % pw:
        raise ValueError(f"patches of {ph}x{pw} do not divide frames of {h}x{w}")
    return rearrange(frames, "b v t c (gh ph) (gw pw) -> b v t gh gw (ph pw c)", ph=ph, pw=pw)


def unpatch(patches: Float[Tensor, "b v t gh gw d"], ph: int, pw: int) -> Float[Tensor, "b v t c h w"]:
    """The inverse of `patch`."""
    return rearrange(patches, "b v t gh gw (ph pw c) -> b v t c (gh ph) (gw pw)", ph=ph, pw=pw)


def gather(tokens: Float[Tensor, "b n d"], kept: Bool[Tensor, "b n"]) -> Float[Tensor, "b m d"]:
    """The kept tokens in their order of place (raster order survives, so a row stays a row).

    Raises ValueError unless every example keeps the same number.
    """
    counts = kept.sum(1)
    if not bool((counts == counts[0]).all()):
        raise ValueError(f"examples keep different numbers of tokens: {sorted(set(counts.tolist()))}")
    return rearrange(tokens[kept], "(b m) d -> b m d", b=tokens.shape[0])


def scatter(
    tokens: Float[Tensor, "b m d"], kept: Bool[Tensor, "b n"], fill: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n d"]:
    """Put gathered tokens back to their places among `fill`; the inverse of `gather`."""
    out = fill.clone()
    out[kept] = rearrange(tokens, "b m d -> (b m) d").to(out.dtype)
    return out
