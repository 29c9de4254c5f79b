import math

import numpy as np
import pytest
import torch
from einops import rearrange

from maskworld.probes import quality as q


def frames(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def structured(n: int, t: int, c: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth blobs and not white noise, so that windows have covariances to get wrong."""
    coarse = frames(n * t, c, max(2, h // 6), max(2, w // 6), seed=seed)
    fine = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic")
    return rearrange(fine.clamp(-1, 1), "(n t) c h w -> n t c h w", n=n)


# -- errors ---------------------------------------------------------------------------------------


def test_psnr_of_a_known_error():
    truth = torch.zeros(2, 3, 1, 8, 8)
    pred = truth + 0.2  # 0.1 on [0, 1]: an MSE of 0.01 is 20 dB
    assert torch.allclose(q.psnr(pred, truth), torch.full((2,), 20.0, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(q.psnr_frames(pred, truth), torch.full((2, 3), 20.0, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(q.mse(pred, truth), torch.tensor(0.01, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(q.mae(pred, truth), torch.tensor(0.1, dtype=torch.float64), atol=1e-7)


def test_psnr_of_the_clip_is_not_the_mean_over_frames():
    truth = torch.zeros(1, 2, 1, 8, 8, dtype=torch.float64)
    pred = truth.clone()
    pred[:, 0] += 0.2  # 20 dB
    pred[:, 1] += 0.02  # 40 dB
    assert q.psnr(pred, truth, q.OPENSTL).item() == pytest.approx(30.0)
    assert q.psnr(pred, truth, q.MCVD).item() == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2))


def test_identical_frames_are_at_the_ceiling():
    truth = frames(2, 3, 3, 16, 16)
    for protocol in q.PROTOCOLS:
        assert (q.psnr(truth, truth, protocol) == q.PSNR_CEILING).all()
        assert torch.allclose(q.ssim(truth, truth, protocol), torch.ones(2, dtype=torch.float64), atol=1e-9)
        assert (q.mse(truth, truth, protocol) == 0).all() and (q.mae(truth, truth, protocol) == 0).all()


def test_openstl_sums_over_pixels_as_numpy_does():
    pred, truth = frames(4, 5, 3, 6, 7, seed=1) * 1.2, frames(4, 5, 3, 6, 7, seed=2)
    p, y = ((x.double().numpy() + 1) / 2 for x in (pred, truth))
    assert q.mse(pred, truth, q.OPENSTL).mean().item() == pytest.approx(((p - y) ** 2).mean((0, 1)).sum())
    assert q.mae(pred, truth, q.OPENSTL).mean().item() == pytest.approx(np.abs(p - y).mean((0, 1)).sum())


def test_what_is_outside_the_range_is_cut_off_where_the_protocol_says():
    truth = torch.ones(1, 1, 1, 4, 4)
    assert q.mse(truth * 3, truth, q.MCVD).item() == 0
    assert q.mse(truth * 3, truth, q.OPENSTL).item() == 16  # sixteen pixels, each off by one
    assert q.psnr(truth * 3, truth, q.OPENSTL).item() == q.PSNR_CEILING


def test_frames_of_other_sizes_are_refused():
    for measure in (q.mse, q.mae, q.psnr, q.ssim):
        with pytest.raises((ValueError, TypeError)):  # the type checker of the tests may be first
            measure(frames(1, 2, 1, 16, 16), frames(1, 3, 1, 16, 16))


# -- SSIM -----------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("c", [1, 3])
def test_ssim_is_scikit_images_on_pillow_luma(c):
    metrics, image = pytest.importorskip("skimage.metrics"), pytest.importorskip("PIL.Image")
    truth = structured(2, 3, c, 24, 31)
    pred = (truth + 0.3 * structured(2, 3, c, 24, 31, seed=1) + 0.05 * frames(2, 3, c, 24, 31)).clamp(-1, 1)

    def seen(x):
        bytes_ = (((x + 1) / 2) * 255).to(torch.uint8).movedim(-3, -1).numpy()  # cut off, not rounded
        return np.array(image.fromarray(bytes_).convert("L")) if c == 3 else bytes_[..., 0]

    settings = {"data_range": 255, "gaussian_weights": True, "use_sample_covariance": False}
    want = [
        [metrics.structural_similarity(seen(p), seen(y), **settings) for p, y in zip(*pair, strict=True)]
        for pair in zip(pred, truth, strict=True)
    ]
    got = q.ssim_frames(pred, truth, q.MCVD)
    assert 0.3 < got.min() and got.max() < 0.97  # a number that could be wrong
    np.testing.assert_allclose(got.numpy(), np.array(want), atol=1e-6)
    np.testing.assert_allclose(q.ssim(pred, truth).numpy(), np.mean(want, 1), atol=1e-6)


@pytest.mark.oracle
def test_openstl_ssim_is_scikit_images_default_on_floats():
    metrics = pytest.importorskip("skimage.metrics")
    truth = structured(1, 2, 3, 20, 17).double()
    pred = (truth + 0.3 * structured(1, 2, 3, 20, 17, seed=1)).clamp(-1, 1)
    want = [
        metrics.structural_similarity(((p + 1) / 2).numpy(), ((y + 1) / 2).numpy(), channel_axis=0, data_range=2.0)
        for p, y in zip(pred[0], truth[0], strict=True)
    ]
    np.testing.assert_allclose(q.ssim_frames(pred, truth, q.OPENSTL)[0].numpy(), want, atol=1e-6)


def test_cut_off_bytes_are_another_number_than_rounded_ones():
    value = torch.full((1, 1, 1, 2, 2), 100.7 / 127.5 - 1)
    rounded = q.Protocol("rounded", ssim_sees="rounded")
    assert (q._seen(value, q.MCVD) == 100).all() and (q._seen(value, rounded) == 101).all()


def test_digits_are_black_or_white_for_ssim_alone():
    truth = structured(1, 2, 1, 16, 16)
    pred = torch.where(truth > 0, truth * 0.5, truth * 0.5 - 0.01)  # the same side of grey everywhere
    assert q.ssim(pred, truth, q.MCVD_DIGITS).item() == pytest.approx(1)
    assert q.ssim(pred, truth, q.MCVD).item() < 0.95
    assert torch.equal(q.psnr(pred, truth, q.MCVD_DIGITS), q.psnr(pred, truth, q.MCVD))


def test_a_frame_smaller_than_the_window_is_refused():
    with pytest.raises(ValueError, match="11x11"):
        q.ssim(frames(1, 1, 1, 10, 16), frames(1, 1, 1, 10, 16))


def test_names_of_protocols_and_their_fields():
    assert q.protocol_of("openstl") is q.OPENSTL
    with pytest.raises(ValueError, match="did you mean 'openstl'"):
        q.protocol_of("opnstl")
    with pytest.raises(ValueError, match="range"):
        q.Protocol("mine", ssim_range=0.0)


# -- distances between sets -----------------------------------------------------------------------


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.oracle
@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 8), (400, 300, 16), (30, 20, 20)])
def test_frechet_is_the_formula_with_scipys_square_root(n, m, d):
    linalg = pytest.importorskip("scipy.linalg")
    mix = normal(d, d, seed=3)
    x, y = normal(n, d) @ mix, normal(m, d, seed=1) * 1.5 + 0.3
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    # A covariance of fewer samples than features is singular, and so is scipy's root: nudge it.
    root = linalg.sqrtm((cov_x + 1e-12 * np.eye(d)) @ (cov_y + 1e-12 * np.eye(d))).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(cov_x + cov_y - 2 * root)
    assert q.frechet(x, y) == pytest.approx(want, rel=1e-5)


def test_frechet_in_closed_form():
    x = normal(50, 6)
    assert q.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert q.frechet(x, x + 2) == pytest.approx(6 * 4)  # moved: the squared distance of the means
    trace = ((x - x.mean(0)) ** 2).sum().item() / 49
    assert q.frechet(x, x * 3) == pytest.approx(4 * trace + 4 * (x.mean(0) ** 2).sum().item())  # (3 - 1)^2
    few = normal(5, 12)  # fewer clips than features
    assert q.frechet(few, few) == pytest.approx(0, abs=1e-9)
    assert q.frechet(few, few + 1) == pytest.approx(12)


def test_frechet_is_symmetric_and_turns_with_the_features():
    x, y = normal(30, 7), normal(25, 7, seed=1) + 0.5
    turn = torch.linalg.qr(normal(7, 7, seed=2)).Q
    assert q.frechet(x, y) == pytest.approx(q.frechet(y, x))
    assert q.frechet(x @ turn, y @ turn) == pytest.approx(q.frechet(x, y))


def test_kernel_mmd_is_the_sum_over_pairs():
    x, y = normal(5, 3), normal(4, 3, seed=1) + 0.5

    def mean(a, b, skip):
        k = [float(a[i] @ b[j] / 3 + 1) ** 3 for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return sum(k) / len(k)

    want = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert q.kernel_mmd(x, y) == pytest.approx(want)


def test_kernel_mmd_of_one_distribution_is_zero_on_average():
    values = [q.kernel_mmd(normal(20, 4, seed=2 * s), normal(20, 4, seed=2 * s + 1)) for s in range(200)]
    mean, error = np.mean(values), np.std(values) / math.sqrt(len(values))
    assert abs(mean) < 4 * error and min(values) < 0


def test_sets_that_have_no_distance_are_refused():
    for distance in (q.frechet, q.kernel_mmd):
        with pytest.raises(ValueError, match="two clips"):
            distance(normal(1, 3), normal(5, 3))
        with pytest.raises((ValueError, TypeError)):
            distance(normal(5, 3), normal(5, 4))
        with pytest.raises(ValueError, match="finite"):
            distance(normal(5, 3) * math.nan, normal(5, 3))


# -- extractors -----------------------------------------------------------------------------------


def test_pixels8_is_the_mean_of_blocks_of_four_frames():
    clip = frames(2, 7, 1, 16, 24)
    got = q.extract(q.pixels8(), clip)
    blocks = rearrange(clip[:, [0, 2, 4, 6]], "n t c (a p) (b r) -> n (t c a b) p r", a=8, b=8).mean((2, 3))
    assert torch.allclose(got, blocks, atol=1e-6)


def test_random3d_is_the_same_net_every_time():
    clip = frames(3, 6, 1, 32, 32)
    got = q.extract(q.extractor_of("random3d"), clip)
    assert got.shape == (3, 448) and (got.std(0) > 0).float().mean() > 0.9
    assert torch.equal(got, q.extract(q.random3d(), clip))
    assert torch.allclose(got, q.extract(q.random3d(), clip, chunk=2), atol=1e-5)
    assert torch.allclose(got, q.extract(q.random3d(), clip.expand(-1, -1, 3, -1, -1)), atol=1e-5)
    # Motion is seen, not only pictures: the same frames in another order are other features.
    assert (got - q.extract(q.random3d(), clip[:, [3, 0, 5, 1, 4, 2]])).abs().max() > 1e-3
    # These weights are what makes numbers of today and tomorrow comparable.
    ramp = torch.linspace(-1, 1, 2 * 64 * 64).view(1, 2, 1, 64, 64)
    want = [0.088369, 0.127502, 0.175988]
    assert q.extract(q.random3d(), ramp)[0, :3].tolist() == pytest.approx(want, rel=1e-4)


class SumsOfFrames(torch.nn.Module):
    """Stands for I3D: the same switches, and features that tell what it was shown."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        if rescale or resize or not return_features:
            raise RuntimeError("switches")
        sizes = torch.tensor([x.size(1), x.size(2), x.size(3), x.size(4)], dtype=x.dtype)
        return torch.cat([x.mean(dim=[3, 4]).flatten(1), sizes.expand(x.size(0), 4)], dim=1)


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=[3, 4])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_shown_square_colour_frames(tmp_path):
    torch.jit.script(SumsOfFrames()).save(str(tmp_path / "i3d.pt"))
    extractor = q.extractor_of(f"torchscript:{tmp_path / 'i3d.pt'}")
    assert extractor.name == "torchscript:i3d.pt"
    value = torch.linspace(-1, 1, 10)
    clip = value.view(1, 10, 1, 1, 1).expand(2, 10, 1, 40, 60)
    got = q.extract(extractor, clip)
    assert got.shape == (2, 34) and got[0, -4:].tolist() == [3, 10, 224, 224]
    assert torch.allclose(got[0, :30], value.repeat(3), atol=1e-5)
    with pytest.raises(ValueError, match="10 frames"):
        q.extract(extractor, clip[:, :9])

    torch.jit.script(Plain()).save(str(tmp_path / "plain.pt"))
    assert q.extract(q.extractor_of(f"torchscript:{tmp_path / 'plain.pt'}"), clip).shape == (2, 30)
    (tmp_path / "broken.pt").write_bytes(b"no net")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        q.extractor_of(f"torchscript:{tmp_path / 'broken.pt'}")


def test_the_middle_is_cut_out():
    x = torch.zeros(1, 1, 4, 8)
    x[..., 2:6] = 1
    assert (q._square(x, 4, antialias=False) == 1).all()
    assert q._square(torch.zeros(1, 1, 100, 37), 224, antialias=False).shape == (1, 1, 224, 224)


@pytest.mark.oracle
def test_a_video_transformer_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    transformers.VideoMAEModel(config).save_pretrained(tmp_path)
    got = q.extract(q.extractor_of(f"hf:{tmp_path}"), frames(2, 9, 1, 24, 40))
    assert got.shape == (2, 8) and got.isfinite().all()
    with pytest.raises(ValueError, match="no VideoMAE"):
        q.extractor_of(f"hf:{tmp_path / 'nothing'}")


def test_hf_without_transformers_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"maskworld\[hf\]"):
        q.extractor_of("hf:somebody/videomae")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pixel8", "did you mean 'pixels8'"),
        ("random3", "did you mean 'random3d'"),
        ("torchscrip:i3d.pt", "did you mean 'torchscript:'"),
        ("torchscript", "torchscript:PATH"),
        ("hf:", "hf:NAME_OR_PATH"),
        ("domain", "domain:PATH"),
        ("domain:/nowhere/domain.safetensors", "no such file"),
        ("pixels8:4", "nothing after"),
        ("torchscript:/nowhere/i3d.pt", "no such file"),
        ("vgg", "there are pixels8, random3d"),
    ],
)
def test_a_wrong_extractor_is_an_error_that_helps(text, says):
    with pytest.raises(ValueError, match=says):
        q.extractor_of(text)


def test_grey_or_colour_and_nothing_else():
    with pytest.raises(ValueError, match="2 channels"):
        q.extract(q.random3d(), frames(1, 4, 2, 16, 16))
    with pytest.raises(ValueError, match="luma"):
        q.ssim(frames(1, 1, 2, 16, 16), frames(1, 1, 2, 16, 16))


def test_openstl_in_numbers_done_by_hand():
    """Two frames of 2 x 8 x 8: an error of 0.1 in one, 0.3 in the other."""
    truth = torch.zeros(1, 2, 2, 8, 8, dtype=torch.float64)
    pred = truth.clone()
    pred[:, 0] += 0.2
    pred[:, 1] += 0.6
    assert q.mse(pred, truth, q.OPENSTL).item() == pytest.approx(128 * (0.01 + 0.09) / 2)
    assert q.mae(pred, truth, q.OPENSTL).item() == pytest.approx(128 * (0.1 + 0.3) / 2)
    assert q.psnr(pred, truth, q.OPENSTL).item() == pytest.approx((20 - 10 * math.log10(0.09)) / 2)
    assert q.protocol_of("openstl") is q.OPENSTL
