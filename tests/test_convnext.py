"""ConvNeXt sees what is kept and nothing else; the pyramid passes on what is coarse; depths are probabilities."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskworld.nets import convnext
from maskworld.nets.convnext import FPN, Block, DepthHead, DepthNet, MaskedConvNeXt, depthwise


def net(drop_path: float = 0.0, seed: int = 0, **more) -> MaskedConvNeXt:
    """Three stages of random weights, none of them zero; float64."""
    torch.manual_seed(seed)
    made = MaskedConvNeXt(3, (8, 12, 16), (1, 2, 1), drop_path=drop_path, **more).double().eval()
    return shaken(made, seed)


def shaken(module, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=rng, dtype=torch.float64))
    return module


def blocks_of(stage: nn.Module) -> list[Block]:
    return [block for block in stage.children() if isinstance(block, Block)]


def images(n: int = 2, h: int = 32, w: int = 48, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid(n: int = 2, gh: int = 2, gw: int = 3, seed: int = 2) -> Tensor:
    kept = torch.rand(n, gh, gw, generator=torch.Generator().manual_seed(seed)) < 0.6
    assert 0 < kept.sum() < kept.numel()
    return kept


def on(kept: Tensor, h: int, w: int) -> Tensor:
    """By index, where the net repeats."""
    y, x = torch.arange(h) * kept.shape[1] // h, torch.arange(w) * kept.shape[2] // w
    return kept[:, y[:, None], x[None, :]]


# -- what is hidden ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [(2, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("normed", ["all", "last"])
def test_hidden_pixels_are_not_read_and_hidden_cells_are_zero(cells: tuple[int, int], normed) -> None:
    model, x = net(normed=normed), images()
    kept = grid(2, *cells) if cells != (1, 1) else torch.tensor([[[True]], [[False]]])
    found = model(x, kept)
    hidden = ~on(kept, 32, 48)[:, None]
    for other in (torch.where(hidden, 100 * images(seed=5), x), x.masked_fill(hidden, math.nan)):
        for a, b in zip(found, model(other, kept), strict=True):
            assert torch.equal(a, b)
    for a, plain in zip(found, model(x), strict=True):
        seen = on(kept, *a.shape[-2:])[:, None].expand_as(a)
        assert (a[~seen] == 0).all() and (a[seen] != 0).all()
        assert not torch.allclose(a[seen], plain[seen]) or cells == (
            1,
            1,
        )  # visible cells do feel what is hidden beside


def test_it_is_the_dense_network_with_its_convolutions_multiplied_by_kept() -> None:
    """SparK as it is written: every convolution of the whole map, and zeros put back after each."""
    model, x, kept = net(), images(), grid()
    y, want = x * on(kept, 32, 48)[:, None], []
    for i, (down, stage) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        at = on(kept, 32 // model.strides[i], 48 // model.strides[i])[:, None]
        for layer in down.children():
            if isinstance(layer, nn.Conv2d):
                y = layer(y) * at
            else:
                y = layer(y.movedim(1, -1)).movedim(-1, 1) * (at if i == 0 else on(kept, *y.shape[-2:])[:, None])
        for block in blocks_of(stage):
            branch = block.norm((block.dwconv(y) * at).movedim(1, -1)) * at.movedim(1, -1)
            branch = block.gamma * block.pwconv2(F.gelu(block.pwconv1(branch)))
            y = y + branch.movedim(-1, 1) * at
        want.append(model.norms[str(i)](y.movedim(1, -1)).movedim(-1, 1) * at)
    for a, b in zip(model(x, kept), want, strict=True):
        # The norms of the network work in what they are given; its stream is float32 or wider.
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_nothing_hidden_is_the_network_without_kept_and_all_hidden_is_zero() -> None:
    model, x = net(), images()
    for a, b in zip(model(x), model(x, torch.ones(2, 2, 3, dtype=torch.bool)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=0)
    assert all((a == 0).all() for a in model(x, torch.zeros(2, 2, 3, dtype=torch.bool)))


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, x, kept = net(), images(3), grid(3)
    for i in range(3):
        for a, b in zip(model(x, kept), model(x[i : i + 1], kept[i : i + 1]), strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-12, rtol=0)


def test_gradients_reach_every_parameter_and_no_hidden_pixel() -> None:
    model, x, kept = net().train(), images().requires_grad_(), grid()
    torch.stack([each.square().sum() for each in model(x, kept)]).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
    assert x.grad is not None and torch.equal((x.grad != 0).all(1), on(kept, 32, 48))


def test_half_precision_agrees_and_its_zeros_are_exact() -> None:
    model, x, kept = net().float(), images().float(), grid()
    want = model(x, kept)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, kept)
    for a, b in zip(found, want, strict=True):
        assert ((a == 0) == (b == 0)).all()
        assert (a - b).norm() < 0.03 * b.norm()
    torch.stack([each.square().sum() for each in found]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# -- the convolution --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 9), (2, 3), (11, 8)])
def test_the_depthwise_convolution_has_the_gradients_of_the_plain_one(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()
    given = draw(2, 3, *size), draw(3, 1, 7, 7), draw(3)
    assert torch.equal(depthwise(*given), F.conv2d(*given, padding=3, groups=3))
    up = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    ours = torch.autograd.grad(depthwise(*given), given, up)
    plain = torch.autograd.grad(F.conv2d(*given, padding=3, groups=3), given, up)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(depthwise, given, fast_mode=True)


# -- sizes --------------------------------------------------------------------------------------------


def count(channels: int, dims: tuple[int, ...], depths: tuple[int, ...]) -> int:
    """As the paper defines it, with one norm at the end."""
    total = (4 * 4 * channels + 1 + 2) * dims[0]
    total += sum(2 * a + (4 * a + 1) * b for a, b in pairwise(dims))
    total += sum(
        n * ((49 + 1) * d + 2 * d + (d + 1) * 4 * d + (4 * d + 1) * d + d) for d, n in zip(dims, depths, strict=True)
    )
    return total + 2 * dims[-1]


@pytest.mark.parametrize(
    ("size", "known"),
    [(convnext.TINY, 27_820_128), (convnext.SMALL, 49_454_688), (convnext.BASE, 87_566_464)],
    ids=["tiny", "small", "base"],
)
def test_the_paper_s_networks_have_as_many_parameters(size: convnext.Size, known: int) -> None:
    with torch.device("meta"):
        last, each = MaskedConvNeXt(3, *size, normed="last"), MaskedConvNeXt(3, *size)
        maps = each(torch.empty(2, 3, 64, 96))
    assert sum(p.numel() for p in last.parameters()) == count(3, *size) == known
    assert sum(p.numel() for p in each.parameters()) == known + 2 * sum(size[0][:-1])
    assert [m.shape for m in maps] == [(2, d, 16 >> i, 24 >> i) for i, d in enumerate(size[0])]
    assert last.strides == (4, 8, 16, 32) and last.num_blocks == sum(size[1])


@pytest.mark.parametrize(("dims", "depths"), [((4, 6), (1, 1)), ((4, 6, 8, 10), (1, 1, 1, 1)), ((5,), (2,))])
def test_any_number_of_stages(dims: tuple[int, ...], depths: tuple[int, ...]) -> None:
    found = MaskedConvNeXt(1, dims, depths, stem=2)(torch.zeros(1, 1, 32, 16))
    assert [m.shape for m in found] == [(1, d, 16 >> i, 8 >> i) for i, d in enumerate(dims)]


def test_it_computes_what_another_library_computes() -> None:
    transformers = pytest.importorskip("transformers")
    try:
        config = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16], depths=[1, 2, 1], num_stages=3)
        other = shaken(transformers.ConvNextModel(config).double().eval(), 7)
    except ImportError as absent:
        pytest.skip(f"transformers cannot show it here: {absent}")
    model = net(normed="last")
    taken = dict(other.state_dict())
    names = {"layernorm": "norm", "layer_scale_parameter": "gamma", "downsampling_layer": "downsample", "layers": ""}
    state = {}
    for name, value in taken.items():
        parts = name.split(".")
        if parts[0] == "embeddings":
            new = ["downsample_layers", "0", "0" if parts[1] == "patch_embeddings" else "1", parts[-1]]
        elif parts[0] == "layernorm":
            continue  # of the mean over the map
        elif parts[3] == "downsampling_layer":
            new = ["downsample_layers", parts[2], parts[4], parts[5]]
        else:
            new = ["stages", parts[2], parts[4], *(names.get(part, part) for part in parts[5:])]
        state[".".join(new)] = value
    lost = model.load_state_dict(state, strict=False)
    assert set(lost.missing_keys) == {"norms.2.weight", "norms.2.bias"} and not lost.unexpected_keys
    model.norms.clear()
    want = other(images(), output_hidden_states=True).hidden_states
    for a, b in zip(model(images()), want[-3:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


# -- stochastic depth -------------------------------------------------------------------------------


def test_dropped_branches_follow_the_numbers_that_are_passed_in() -> None:
    model, x, kept = net(drop_path=0.5), images(), grid()
    plain = model(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(plain, model(x, kept, torch.zeros(2, 4).double()), strict=True))
    model.train()
    assert model.drops == pytest.approx((0, 1 / 6, 1 / 3, 1 / 2))
    chance = torch.full((2, 4), 0.9, dtype=torch.float64)
    chance[1] = 0.0  # all that can be dropped is
    for where in (kept, None):
        found = model(x, where, chance)
        assert all(torch.equal(a, b) for a, b in zip(found, model(x, where, chance), strict=True))
        shorter = net(drop_path=0.5)
        with torch.no_grad():
            for n, blocks in enumerate(shorter.stages):
                for m, block in enumerate(blocks_of(blocks)):
                    block.gamma.mul_(0.0 if n + m else 1.0)
        for a, b in zip(found, shorter(x, where), strict=True):
            torch.testing.assert_close(a[1], b[1], atol=1e-12, rtol=0)
        with torch.no_grad():
            weighted = net(drop_path=0.5)
            blocks = [block for stage in weighted.stages for block in blocks_of(stage)]
            for block, p in zip(blocks, model.drops, strict=True):
                block.gamma.div_(1 - p)
        for a, b in zip(found, weighted(x, where), strict=True):
            torch.testing.assert_close(a[0], b[0], atol=1e-12, rtol=0)


def test_without_numbers_branches_are_dropped_in_training_alone() -> None:
    model, x = net(drop_path=0.9), images()
    assert all(torch.equal(a, b) for a, b in zip(model(x), model(x), strict=True))
    model.train()
    torch.manual_seed(0)
    assert any(not torch.equal(model(x)[-1], model(x)[-1]) for _ in range(6))


# -- pyramid and depth ------------------------------------------------------------------------------


def test_a_pyramid_has_one_width_and_goes_from_the_top_down() -> None:
    pyramid = shaken(FPN((8, 12, 16), 10, 4).double())
    maps = [torch.randn(2, d, *size, dtype=torch.float64) for d, size in ((8, (9, 12)), (12, (5, 6)), (16, (3, 3)))]
    found = pyramid(maps)
    assert [m.shape for m in found] == [(2, 10, 9, 12), (2, 10, 5, 6), (2, 10, 3, 3), (2, 10, 2, 2)]

    def changed(i: int) -> list[bool]:
        other = [m + 1.0 * (i == n) for n, m in enumerate(maps)]
        return [not torch.equal(a, b) for a, b in zip(found, pyramid(other), strict=True)]

    assert changed(2) == [True, True, True, True]
    assert changed(1) == [True, True, False, False]
    assert changed(0) == [True, False, False, False]
    torch.testing.assert_close(found[3], pyramid.extra[0](found[2].relu()))
    torch.testing.assert_close(pyramid([m[:1] for m in maps])[0], found[0][:1])


def test_a_pyramid_gives_the_finest_levels_that_are_asked_for() -> None:
    one = FPN((768,), 256, 1)
    assert sum(p.numel() for p in one.parameters()) == 768 * 256 + 256 + 9 * 256**2 + 256
    assert [m.shape for m in one([torch.zeros(1, 768, 3, 5)])] == [(1, 256, 3, 5)]
    fewer = FPN((4, 6, 8), 5, 2)
    maps = [torch.randn(1, d, 8 >> i, 8 >> i) for i, d in enumerate((4, 6, 8))]
    assert [m.shape for m in fewer(maps)] == [(1, 5, 8, 8), (1, 5, 4, 4)]
    assert not torch.equal(fewer(maps)[0], fewer([*maps[:2], maps[2] + 1])[0])


@pytest.mark.parametrize("make", [lambda: DepthHead(16, 9), lambda: DepthNet(16, 9, wide=8, dilations=(1, 2))])
def test_depths_are_probabilities_of_each_image_alone(make) -> None:
    head = shaken(make().double()).eval()
    x = torch.randn(3, 16, 4, 6, dtype=torch.float64)
    found = head(x)
    assert found.shape == (3, 9, 4, 6) and (found > 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))
    torch.testing.assert_close(head(x[1:2]), found[1:2], atol=1e-6, rtol=1e-5)
    head.train()
    (head(x) * torch.rand(9, 1, 1)).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in head.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert head.float()(x.float()).dtype == torch.float32


def test_the_depth_network_looks_at_the_whole_image() -> None:
    head = shaken(DepthNet(16, 5, wide=8, dilations=(1,)).double()).eval()
    x = torch.randn(1, 16, 3, 40, dtype=torch.float64)
    other = x.clone()
    other[..., -1] += 3
    assert (head(x)[..., 0] != head(other)[..., 0]).any()
    with torch.device("meta"):
        assert DepthNet(256, 118)(torch.empty(1, 256, 15, 25)).shape == (1, 118, 15, 25)


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: net()(images(1, 32, 40)), "multiples of 16"),
        (lambda: net()(images(1, 24, 32)), "multiples of 16"),
        (lambda: net()(images(), grid(2, 4, 3)), "grid of 4 x 3"),
        (lambda: net()(images(), grid(2, 2, 2)), "grid of 2 x 2"),
        (lambda: net(drop_path=0.1).train()(images(), None, torch.zeros(2, 3)), "chance"),
        (lambda: MaskedConvNeXt(3, (8, 16), (1, 1, 1)), "each stage"),
        (lambda: MaskedConvNeXt(3, (), ()), "each stage"),
        (lambda: MaskedConvNeXt(3, (8, 0), (1, 1)), "1 or more"),
        (lambda: MaskedConvNeXt(3, (8,), (1,), drop_path=1.0), "drop_path"),
        (lambda: FPN((), 8, 1), "at least one"),
        (lambda: FPN((4,), 8, 0), "at least one"),
        (lambda: FPN((4, 8), 8, 2)([torch.zeros(1, 4, 4, 4)]), "1 maps"),
        (lambda: DepthNet(8, 4, dilations=()), "dilations"),
    ],
)
def test_what_cannot_be_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
