"""The domain encoder: it learns, its file is what its name says, and its features see space and time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import ndimage

from maskworld.data.discs import PALETTE
from maskworld.probes import domain, scenes, stage
from maskworld.probes import quality as q


@pytest.fixture(scope="module")
def films():
    """Discs that fall and stop bouncing: time has a direction."""
    made = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        radius = rng.uniform(4, 6, 2)
        bodies = stage.discs(scenes.scattered(rng, radius), rng.uniform(-2, 2, (2, 2)), radius)
        motion = stage.simulate(bodies, 20, bounds=scenes.BOUNDS, gravity=(0.0, 0.15), elasticity=0.4)
        cast = stage.Cast(20, scenes.GROUND, grain=seed)
        for i in range(2):
            cast.add(motion.position[:, i], radius[i], PALETTE[int(rng.integers(3)) + 3 * i])
        made.append(cast.track())
    return made


@pytest.fixture(scope="module")
def trained(films):
    losses = []
    encoder = domain.train(films, steps=18, seed=1, batch=2, measured=8, on_step=lambda step, loss: losses.append(loss))
    return encoder, losses


def pixels(frames):
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


def test_it_learns(trained):
    encoder, losses = trained
    assert len(losses) == 18 and np.mean(losses[-6:]) < 0.9 * np.mean(losses[:3])
    assert 150_000 < sum(p.numel() for p in encoder.parameters()) < 300_000


def test_the_same_seed_gives_the_same_weights_and_leaves_global_randomness_alone(films):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (domain.train(films, steps=1, seed=seed, batch=1, measured=2).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["hidden.weight"], other["hidden.weight"])


def test_what_is_asked_of_it_is_what_the_simulator_says():
    cast = stage.Cast(3, scenes.GROUND, camera=np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]))
    cast.add([(16, 16), (16, 18), (16, 20)], 5.0, PALETTE[2])
    cast.add((40, 48), (8, 6), scenes.SCREEN, box=True, object=False)
    cast.add((40, 48), 4.0, PALETTE[0], shown=[False, True, True])
    there, centre, velocity, count = domain._targets(cast.track())
    blue, red = ((domain.COLOURS == PALETTE[k]).all(1).argmax() for k in (2, 0))
    screen = (domain.COLOURS == scenes.SCREEN).all(1).argmax()
    assert there[:, blue].all() and there[:, screen].all() and there[:, red].tolist() == [False, True, True]
    assert there.sum() == 8
    np.testing.assert_allclose(centre[0, blue], (16 / 32 - 1, 16 / 32 - 1), atol=1e-6)
    np.testing.assert_allclose(velocity[0, blue], (-0.5, 1.0), atol=1e-6)  # the camera moves too
    assert count.tolist() == [1, 2, 2]


def test_a_film_too_short_is_refused(films):
    with pytest.raises(ValueError, match="16 frames"):
        domain.train([films[0].part(0, 15)], steps=1, seed=0)


def test_its_file_is_named_by_its_weights(trained, tmp_path):
    encoder, _ = trained
    path = domain.save(encoder, tmp_path)
    name, again = domain.load(path)
    assert path.name == f"{name}.safetensors" and len(name) == len("domain-") + 8
    assert path.stat().st_size < 0.6e6
    renamed = path.rename(tmp_path / "other.safetensors")
    assert domain.load(renamed)[0] == name
    assert domain.save(again, tmp_path / "twice").name == path.name
    for key, value in again.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[key].half().float())


def test_files_that_are_something_else_are_refused(trained, tmp_path):
    path = domain.save(trained[0], tmp_path)
    halves = load_file(path)
    with pytest.raises(ValueError, match="no such file"):
        q.extractor_of(f"domain:{tmp_path / 'nothing'}")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(ValueError, match="not a safetensors file"):
        domain.load(tmp_path / "text")
    save_file(halves, tmp_path / "stranger")
    with pytest.raises(ValueError, match="no domain encoder"):
        domain.load(tmp_path / "stranger")
    changed = halves | {"hidden.bias": halves["hidden.bias"] + 1}
    save_file(changed, tmp_path / "changed", metadata={"maskworld-domain": path.stem})
    with pytest.raises(ValueError, match="its weights are"):
        domain.load(tmp_path / "changed")


def test_it_is_an_extractor_like_the_others(trained, films, tmp_path):
    path = domain.save(trained[0], tmp_path)
    extractor = q.extractor_of(f"domain:{path}")
    assert extractor.name == path.stem
    frames = stage.film(films[0].part(0, 16))
    features = q.extract(extractor, pixels(frames))
    blurred = ndimage.gaussian_filter(frames, (0, 1.5, 1.5, 0))
    assert (q.extract(extractor, pixels(blurred)) - features).norm() > 1.0
    assert features.shape == (1, domain.DIM_FEATURES) and features.isfinite().all()
    still = q.extract(extractor, pixels(frames[[0] * 16]))
    backward = q.extract(extractor, pixels(frames[::-1].copy()))
    assert (features - still).norm() > 1e-3 and (features - backward).norm() > 1e-3
    large = q.extract(extractor, pixels(stage.film(films[0].part(0, 16), "textured")))
    assert large.shape == features.shape
    with pytest.raises(ValueError, match="8 frames or more"):
        q.extract(extractor, pixels(frames[:7]))
    with pytest.raises(ValueError, match="colour"):
        q.extract(extractor, pixels(frames)[:, :, :1])
