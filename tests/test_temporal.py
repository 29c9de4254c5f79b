"""The decoder of a dropped frame: attention that equals a loop, frames that are seen by whom they should be."""

from __future__ import annotations

import math

import pytest
import torch

from maskworld.nets import temporal
from maskworld.nets.temporal import Decoder, DeformableAttention


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stirred(net: torch.nn.Module) -> torch.nn.Module:
    """In float64, with no weight left at its first value."""
    rng = torch.Generator().manual_seed(0)
    net.double()
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=rng, dtype=torch.float64)
    return net


def decoder(cells: tuple[int, int] = (5, 7), frames: int = 4) -> Decoder:
    torch.manual_seed(0)
    net = Decoder(3, 2, cells, frames, dim_short=16, dim_long=8, heads=(4, 2), points=3)
    stirred(net)
    return net


# -- deformable attention ---------------------------------------------------------------------------


def test_attention_equals_a_loop():
    b, t, g, e, p, y, x = 2, 3, 2, 4, 3, 5, 4
    values, weights = noise(b, t, g, e, y, x), noise(b, t, g, p, y, x, seed=1).softmax(3)
    offsets = 1.5 * noise(b, t, g, p, y, x, 2, seed=2)
    found = temporal.deform(values, offsets, weights)
    loop = torch.zeros(b, g, e, y, x, dtype=torch.float64)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in (b, t, g, p, y, x))).tolist():
        i, f, h, _, row, column = index
        at_x, at_y = column + offsets[(*index, 0)].item(), row + offsets[(*index, 1)].item()
        for r in (math.floor(at_y), math.floor(at_y) + 1):
            for c in (math.floor(at_x), math.floor(at_x) + 1):
                if 0 <= r < y and 0 <= c < x:
                    share = (1 - abs(at_y - r)) * (1 - abs(at_x - c)) * weights[tuple(index)] / t
                    loop[i, h, :, row, column] += share * values[i, f, h, :, r, c]
    assert (found - loop).abs().max() < 1e-12


def test_without_offsets_it_is_the_mean_over_frames():
    values = noise(2, 3, 2, 4, 5, 7)
    found = temporal.deform(
        values, torch.zeros(2, 3, 2, 4, 5, 7, 2).double(), torch.full((2, 3, 2, 4, 5, 7), 0.25).double()
    )
    assert (found - values.mean(1)).abs().max() < 1e-12
    alone = temporal.deform(
        values[:, :1], torch.zeros(2, 1, 2, 1, 5, 7, 2).double(), torch.ones(2, 1, 2, 1, 5, 7).double()
    )
    assert (alone - values[:, 0]).abs().max() < 1e-12


def test_at_first_a_head_reads_its_part_of_the_ring():
    heads = temporal.ring(4, 3)
    right, down, left, up = (
        [[s * (i + 1), u * (i + 1)] for i in range(3)] for s, u in ((1, 0), (0, 1), (-1, 0), (0, -1))
    )
    assert (heads - torch.tensor([right, down, left, up])).abs().max() < 1e-6
    assert temporal.ring(8, 1)[1, 0].tolist() == pytest.approx([1.0, 1.0])
    attention = DeformableAttention(8, 4, 3, gaps=2).double()
    with torch.no_grad():
        for layer in (attention.value, attention.out):
            layer.weight.copy_(torch.eye(8))
    values = noise(2, 1, 9, 9, 8)
    found = attention(noise(2, 9, 9, 8, seed=1), noise(9, 9, 8, seed=2), values, torch.tensor([1]))
    for head, (dx, dy) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
        part = slice(2 * head, 2 * head + 2)
        seen = [values[:, 0, 3 + i * dy : 6 + i * dy, 3 + i * dx : 6 + i * dx, part] for i in (1, 2, 3)]
        assert (found[:, 3:6, 3:6, part] - torch.stack(seen).mean(0)).abs().max() < 1e-6


def test_every_gap_looks_where_it_likes():
    attention = DeformableAttention(8, 2, 2, gaps=3).double()
    with torch.no_grad():
        attention.offset.bias.view(3, 2, 2, 2)[2] = torch.tensor([2.0, -1.0])
        for layer in (attention.value, attention.out):
            layer.weight.copy_(torch.eye(8))
    values = noise(1, 1, 6, 6, 8)
    found = attention(noise(1, 6, 6, 8), noise(6, 6, 8), values, torch.tensor([2]))
    assert (found[:, 1:, :4] - values[:, 0, :5, 2:]).abs().max() < 1e-12
    other = attention(noise(1, 6, 6, 8), noise(6, 6, 8), values, torch.tensor([0]))
    assert (found - other).abs().max() > 0.1


def test_the_position_tells_cells_apart():
    where = temporal.sine((5, 7), 16)
    assert where.shape == (5, 7, 16)
    assert (where[2, :, :8] == where[2, :1, :8]).all() and (where[:, 3, 8:] == where[:1, 3, 8:]).all()
    assert torch.pdist(where.flatten(0, 1)).min() > 0.1
    assert where[2, 0, 0].item() == pytest.approx(math.sin(math.pi), abs=1e-6)  # the middle of five rows
    with pytest.raises(ValueError, match="4 divides"):
        temporal.sine((5, 7), 18)


# -- the decoder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells, frames, published", [(64, 3, 1.36e6), (128, 3, 3.7e6), (180, 4, 6.8e6)])
def test_the_size_of_the_original(cells, frames, published):
    net = Decoder(32, 5, (cells, cells), frames - 1)
    num = sum(weight.numel() for weight in net.parameters())
    # What gaps have and places in the list have not: 2 (T - 1) tables of the short branch's 48 rows in place of one,
    # 2 (T - 1) of the long one's 24 in place of T - 1, in two layers each; and T - 1 vectors.
    more = 2 * (2 * (frames - 1) - 1) * 48 * 129 + 2 * (frames - 1) * 24 * 65 + (frames - 1) * 128
    assert num == cells**2 * 192 + 574_016 + (frames - 3) * (2 * 24 * 65 + 128) + more
    assert num - more == pytest.approx(published, rel=0.01)
    assert num == pytest.approx(published, rel=0.035)


@pytest.mark.parametrize(
    "gaps, short", [([1], [True]), ([-1, 1], [True, True]), ([-2, -1, 1, 2], [False, True, True, False])]
)
@pytest.mark.parametrize("cells", [(5, 7), (8, 3)])
def test_any_number_of_frames_and_odd_sizes(gaps, short, cells):
    net = decoder(cells)
    aligned = noise(2, len(gaps), 3, 2, *cells)
    both = net(aligned, torch.tensor(gaps), torch.tensor(short))
    assert both.shape == (2, 3, 2, *cells)
    for i in range(2):
        one = net(aligned[i : i + 1], torch.tensor(gaps), torch.tensor(short))
        assert (one - both[i : i + 1]).abs().max() < 1e-10
    assert (both[0] - both[1]).abs().max() > 0.01


def test_the_dropped_frame_is_never_read():
    volumes = noise(1, 4, 3, 2, 5, 7).requires_grad_()
    dropped, others = 1, [0, 2, 3]
    net = decoder()
    found = net(volumes[:, others], torch.tensor(others) - dropped, torch.tensor([True, True, False]))
    (grad,) = torch.autograd.grad((found * noise(*found.shape, seed=3)).sum(), volumes)
    assert not grad[:, dropped].any()
    assert (grad[:, others].abs().amax((0, 2, 3, 4, 5)) > 1e-4).all()


def test_the_short_branch_sees_its_frames_alone():
    net = decoder()
    with torch.no_grad():
        net.join.weight[:, 16:] = 0  # the long branch says nothing
    gaps, short = torch.tensor([-2, -1, 1, 2]), torch.tensor([False, True, True, False])
    aligned = noise(1, 4, 3, 2, 5, 7)
    found = net(aligned, gaps, short)
    for i in range(4):
        changed = aligned.clone()
        changed[:, i] += noise(1, 3, 2, 5, 7, seed=4)
        difference = (net(changed, gaps, short) - found).abs().max()
        assert difference > 1e-3 if short[i] else difference == 0


def test_the_long_branch_sees_all():
    net = decoder()
    with torch.no_grad():
        net.join.weight[:, :16] = 0
    gaps, short = torch.tensor([-2, -1, 1, 2]), torch.tensor([False, True, True, False])
    aligned = noise(1, 4, 3, 2, 5, 7)
    found = net(aligned, gaps, short)
    for i in range(4):
        changed = aligned.clone()
        changed[:, i] += noise(1, 3, 2, 5, 7, seed=4)
        assert (net(changed, gaps, short) - found).abs().max() > 1e-3


def test_a_frame_is_known_by_its_gap_and_not_by_its_place():
    net, order = decoder(), [2, 0, 1]
    aligned, gaps, short = noise(1, 3, 3, 2, 5, 7), torch.tensor([-1, 1, 3]), torch.tensor([True, True, False])
    found = net(aligned, gaps, short)
    assert (net(aligned[:, order], gaps[order], short[order]) - found).abs().max() < 1e-12
    assert (net(aligned, torch.tensor([1, -1, 3]), short) - found).abs().max() > 1e-3


def test_height_and_channel_come_back_where_they_were():
    """In a decoder whose short branch hands on what it gets, each channel and height is where it was."""
    net = Decoder(2, 2, (3, 4), 1, dim_short=4, dim_long=4, heads=(1, 1)).double()
    aligned = noise(1, 1, 2, 2, 3, 4)
    with torch.no_grad():
        net.enter[0].weight = torch.nn.Parameter(torch.eye(4).double())
        net.join.weight.zero_()
        net.join.weight[:, :4, 1, 1] = torch.eye(4)
        net.gap.zero_()
    net.short.forward = lambda values, which: values[:, 0]  # type: ignore[method-assign]
    found = net(aligned, torch.tensor([1]), torch.tensor([True]))
    flat = aligned[:, 0].permute(0, 3, 4, 1, 2).flatten(-2)
    expected = torch.nn.functional.layer_norm(flat, (4,)).unflatten(-1, (2, 2)).permute(0, 3, 4, 1, 2)
    assert (found - expected).abs().max() < 1e-4


def test_every_parameter_learns():
    torch.manual_seed(0)
    net = Decoder(3, 2, (5, 7), 1, dim_short=16, dim_long=8)
    found = net(noise(1, 2, 3, 2, 5, 7).float(), torch.tensor([-1, 1]), torch.tensor([True, True]))
    (found * noise(*found.shape, seed=3).float()).sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_half_precision_is_near():
    net = decoder().float()
    given = noise(1, 2, 3, 2, 5, 7).float(), torch.tensor([-1, 1]), torch.tensor([True, False])
    plain = net(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(*given)
    assert (half.float() - plain).abs().max() < 0.1 * plain.abs().max()


def test_it_learns_where_a_moving_thing_will_be():
    """One cell of a map is taken and moves by two to the right: carried over from the frame before, it is never
    there."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    net = Decoder(4, 1, (6, 10), 1, dim_short=16, dim_long=8, layers=1, heads=(2, 2))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    gaps, short = torch.tensor([-1]), torch.tensor([True])

    def maps(num: int) -> tuple[torch.Tensor, torch.Tensor]:
        taken = torch.zeros(2, num, 1, 6, 10)
        row, column = (torch.randint(n, (num,), generator=rng) for n in (6, 8))
        for i, shift in enumerate((0, 2)):
            taken[i, torch.arange(num), 0, row, column + shift] = 1
        before, now = taken[:, :, 0]
        nothing = torch.zeros_like(before)
        return torch.stack([before, 1 - before, nothing, nothing], dim=1)[:, None, :, None], now

    for _ in range(80):
        before, now = maps(16)
        found = net(before, gaps, short)
        score = 3 * (found[:, 0, 0] - found[:, 1, 0]).flatten(1)
        loss = torch.nn.functional.cross_entropy(score, now.flatten(1).argmax(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    before, now = maps(64)
    with torch.no_grad():
        found = net(before, gaps, short)
    guessed = (found[:, 0, 0] - found[:, 1, 0]).flatten(1).argmax(1)
    assert (guessed == now.flatten(1).argmax(1)).double().mean() > 0.9


def test_bad_arguments():
    net = decoder(frames=2)
    aligned = noise(1, 2, 3, 2, 5, 7)
    yes = torch.tensor([True, True])
    for gaps in ([0, 1], [-3, 1]):
        with pytest.raises(ValueError, match="gaps of 1 to 2 frames"):
            net(aligned, torch.tensor(gaps), yes)
    with pytest.raises(ValueError, match="at least one frame"):
        net(aligned, torch.tensor([-1, 1]), ~yes)
    with pytest.raises(ValueError, match=r"\(2, 7, 5\)"):
        net(aligned.transpose(-1, -2), torch.tensor([-1, 1]), yes)
    with pytest.raises(ValueError, match="one or more"):
        Decoder(3, 2, (5, 7), 0)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        Decoder(3, 2, (5, 7), 1, heads=(3, 2))
