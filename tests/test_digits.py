"""Moving digits: SMMNIST's rules, the glyphs and their splits, MNIST's files."""

import gzip
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskworld.data.digits import DigitStates, Glyphs, MovingDigits, mnist_glyphs, move, render, uci_glyphs

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))
from digits_kept import Reader, kept


def test_a_clip_is_a_function_of_its_number():
    source = MovingDigits(num_frames=7, seed=3)
    first = [source(i) for i in range(4)]
    again = [pickle.loads(pickle.dumps(source))(i) for i in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(first, again, strict=True))
    clip = first[0]
    assert clip.shape == (1, 1, 7, 1, 64, 64) and clip.frames.dtype == torch.float32
    assert clip.frames.min() == -1 and clip.frames.max() == 1 and clip.times.tolist() == [list(range(7))]
    fields = ((4, "train"), (3, "valid"), (3, "test"))
    others = [source(10**12), *(MovingDigits(num_frames=7, seed=s, split=p)(0) for s, p in fields)]
    assert not any(torch.equal(clip.frames, other.frames) for other in [*first[1:], *others])
    paths = [MovingDigits(split=split).states(0).position for split in ("train", "valid", "test")]
    assert not (np.array_equal(paths[0], paths[1]) or np.array_equal(paths[1], paths[2]))


def test_a_longer_clip_of_one_digit_begins_as_the_shorter_one():
    short, long = (MovingDigits(num_frames=t, num_digits=1)(2).frames for t in (5, 30))
    assert torch.equal(short, long[:, :, :5])


# -- motion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [33, 48, 64])
def test_every_step_follows_the_rules(size):
    room, bounces = size - 32, 0
    source = MovingDigits(size=size, num_frames=25, num_digits=3)
    for index in range(40):
        states = source.states(index)
        p, v = states.position, states.velocity
        assert p.min() >= 0 and p.max() < room and abs(v).max() <= 4
        want = p[:-1] + v[:-1]
        assert (p[1:] == want.clip(0, room - 1)).all()
        low, high = want < 0, want >= room
        free = ~(low | high).any(-1)
        assert (v[1:][free] == v[:-1][free]).all()
        # x is looked at after y, so where both bounce only x is sure to leave its wall
        sure = np.stack([np.ones_like(free), ~(low | high)[..., 0]], -1)
        assert (v[1:][low & sure] > 0).all() and (v[1:][high & sure] < 0).all()
        bounces += int((~free).sum())
    assert bounces > 100


class Script(np.random.Generator):
    """Answers with the least it may, and notes what it was asked."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))
        self.asked = []

    def integers(self, low, high=None, size=None):
        self.asked.append((low, high))
        return low


@pytest.mark.parametrize(
    ("start", "asked", "bounced"),
    [
        ((10, -1, 2, -3), [(1, 5), (-4, 5)], (10, 0, -4, 1)),
        ((10, 32, 2, 3), [(-4, 0), (-4, 5)], (10, 31, -4, -4)),
        ((-2, 10, -2, 3), [(1, 5), (-4, 5)], (0, 10, 1, -4)),
        ((33, 10, 2, 3), [(-4, 0), (-4, 5)], (31, 10, -4, -4)),
        ((-2, 34, -2, 3), [(-4, 0), (-4, 5), (1, 5), (-4, 5)], (0, 31, 1, -4)),
        ((0, 31, -2, 3), [], (0, 31, -2, 3)),
    ],
)
def test_what_is_drawn_at_a_wall(start, asked, bounced):
    rng = Script()
    assert move(*start, num_frames=1, room=32, deterministic=False, rng=rng) == [bounced]
    assert rng.asked == asked


def test_a_deterministic_digit_is_mirrored_at_the_walls():
    rng = Script()
    path = move(30, 1, 3, -2, num_frames=3, room=32, deterministic=True, rng=rng)
    assert path == [(30, 1, 3, -2), (31, 0, -3, 2), (28, 2, -3, 2)]
    assert rng.asked == []


def test_starts_are_uniform():
    states = [MovingDigits(num_frames=1).states(i) for i in range(1500)]
    places = np.concatenate([s.position[0].ravel() for s in states])
    speeds = np.concatenate([s.velocity[0].ravel() for s in states])
    for values, low, high in ((places, 0, 31), (speeds, -4, 4)):
        counts = np.bincount(values - low, minlength=high - low + 1)
        mean = len(values) / (high - low + 1)
        assert len(counts) == high - low + 1
        # chi squared: mean k - 1, variance 2 (k - 1); five sigma
        assert ((counts - mean) ** 2 / mean).sum() < len(counts) - 1 + 5 * np.sqrt(2 * (len(counts) - 1))


# -- drawing ----------------------------------------------------------------------------------------


def test_glyphs_are_added_and_limited():
    images = np.zeros((2, 32, 32), np.uint8)
    images[0, 0, 0], images[1, 0, 0], images[1, 0, 1] = 200, 100, 51
    states = DigitStates(
        position=np.array([[[3, 5], [3, 5]], [[3, 5], [2, 5]]]),
        velocity=np.zeros((2, 2, 2), int),
        glyph=np.array([0, 1]),
        label=np.array([0, 1]),
    )
    frames = (render(states, Glyphs(images, np.array([0, 1], np.uint8)), 40) + 1) / 2 * 255
    want = np.zeros((2, 1, 40, 40))
    want[0, 0, 5, 3], want[0, 0, 5, 4] = 255, 51
    want[1, 0, 5, 3], want[1, 0, 5, 2] = 251, 100
    assert np.allclose(frames, want, atol=1e-3)


def test_the_last_row_and_column_are_never_lit():
    frames = torch.cat([MovingDigits(num_digits=4)(i).frames for i in range(30)])
    assert (frames[..., 63, :] == -1).all() and (frames[..., :, 63] == -1).all()


# -- glyphs -----------------------------------------------------------------------------------------


def test_no_glyph_is_in_two_splits():
    splits = [uci_glyphs(split) for split in ("train", "valid", "test")]
    assert [len(g.images) for g in splits] == [1287, 128, 382]
    with np.load(Path(__file__).parent.parent / "maskworld" / "data" / "uci_digits.npz") as file:
        assert np.array_equal(np.concatenate([g.labels for g in splits]), file["labels"])
        assert "Alpaydin" in str(file["credit"]) and "CC BY 4.0" in str(file["credit"])
    seen = [{image.tobytes() for image in g.images} for g in splits]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    for g in splits:
        assert np.bincount(g.labels, minlength=10).min() >= 10


def test_glyphs_are_clean_strokes_that_show_what_the_label_says():
    train, test = uci_glyphs("train"), uci_glyphs("test")
    images = train.images
    border = np.concatenate([images[:, :2].ravel(), images[:, -2:].ravel()])
    assert border.max() == 0 and images[:, :, :2].max() == 0 and images[:, :, -2:].max() == 0
    assert (images.max((1, 2)) == 255).all()
    assert (images == 0).mean() > 0.7 and ((images > 0) & (images < 255)).mean() < 0.15
    mean = np.stack([images[train.labels == d].mean(0).ravel() for d in range(10)])
    distance = ((test.images.reshape(-1, 1, 1024) - mean[None]) ** 2).sum(-1)
    assert (distance.argmin(1) == test.labels).mean() > 0.8


def test_states_name_the_digits_that_are_drawn():
    source = MovingDigits(num_digits=1, num_frames=1, split="valid")
    for index in range(5):
        s = source.states(index)
        x, y = s.position[0, 0]
        drawn = (source(index).frames[0, 0, 0, 0, y : y + 32, x : x + 32].numpy() + 1) * 127.5
        assert np.allclose(drawn, uci_glyphs("valid").images[s.glyph[0]], atol=1e-3)
        assert s.label[0] == uci_glyphs("valid").labels[s.glyph[0]]


# -- MNIST's files ----------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, num_test: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for stem, n in (("train", 12), ("t10k", num_test)):
        made[stem] = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(made[stem]))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n) % 10)))
    return made


def test_mnist_is_read_and_resized(tmp_path):
    made = write_mnist(tmp_path)
    train, valid, test = (mnist_glyphs(tmp_path, split) for split in ("train", "valid", "test"))
    assert [len(g.images) for g in (train, valid, test)] == [12, 44, 256]
    assert valid.labels[0] == 256 % 10 and test.labels[0] == 0
    want = np.asarray(Image.fromarray(made["t10k"][256]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(valid.images[0], want)
    clip = MovingDigits(glyphs=tmp_path, num_frames=3, split="test")(0)
    assert clip.shape == (1, 1, 3, 1, 64, 64)
    assert torch.equal(clip.frames, MovingDigits(glyphs=str(tmp_path), num_frames=3, split="test")(0).frames)


def break_magic(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(b"\x00\x00\x0d\x03" + path.read_bytes()[4:])


def cut_short(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def cut_gzip(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])


def not_gzip(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"hello")


def fewer_labels(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(11))))


def remove(folder):
    (folder / "train-images-idx3-ubyte").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (break_magic, "not an idx file"),
        (cut_short, "promises"),
        (cut_gzip, "not a whole gzip"),
        (not_gzip, "not a whole gzip"),
        (fewer_labels, "12 images in train, but 11 labels"),
        (remove, "no MNIST file train-images-idx3-ubyte"),
    ],
)
def test_broken_mnist_is_refused(tmp_path, spoil, says):
    write_mnist(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=says):
        MovingDigits(glyphs=tmp_path)(0)


def test_an_mnist_too_small_for_a_split_is_refused(tmp_path):
    write_mnist(tmp_path, num_test=256)
    with pytest.raises(ValueError, match="no digits for the split 'valid'"):
        mnist_glyphs(tmp_path, "valid")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_frames": 0}, "at least one frame"),
        ({"num_digits": 0}, "one digit"),
        ({"size": 32}, "wider than a digit"),
        ({"seed": -1}, "seed"),
        ({"glyphs": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_bad_fields_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        MovingDigits(**fields)


def test_an_unknown_split_is_refused():
    source = MovingDigits()
    object.__setattr__(source, "split", "trial")  # past the type check, as an untyped caller comes
    with pytest.raises(ValueError, match="split is one of train, valid, test, not 'trial'"):
        source.__post_init__()


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="numbered from 0"):
        MovingDigits()(-1)


def test_a_reader_tells_digits_apart_and_counts_each_once():
    """What `studies/digits_kept.py` reads with: glyphs that it knows, side by side; a digit twice is there twice."""
    drawings = uci_glyphs("valid")
    shown = np.array([[0, 1], [5, 9], [17, 17], [30, 44]])
    place = np.array([[[2, 0], [32, 31]]])
    frames = [
        render(DigitStates(place, np.zeros_like(place), glyph, drawings.labels[glyph].astype(int)), drawings, 64)
        for glyph in shown
    ]
    true = torch.from_numpy(drawings.labels[shown].astype(np.int64))
    read = Reader(drawings).read(torch.from_numpy(np.concatenate(frames)))
    assert torch.equal(read.sort(1).values, true.sort(1).values) and kept(read, true).tolist() == [1.0] * 4
    cases = {((3, 3), (3, 3)): 1.0, ((3, 3), (3, 4)): 0.5, ((3, 4), (4, 3)): 1.0, ((1, 2), (3, 4)): 0.0}
    for (one, other), share in cases.items():
        assert kept(torch.tensor([one]), torch.tensor([other])).item() == share
