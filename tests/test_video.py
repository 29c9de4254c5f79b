"""Videos: what is written comes back, time stamps are kept to, bad files are named, splits do not meet."""

import os
import pickle
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld.clip import Clip
from maskworld.data import video

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MASKWORLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "video"


def numbered(t: int, h: int = 16, w: int = 24, c: int = 3, gain: int = 4) -> torch.Tensor:
    """Frame k is of grey level `gain` k, so that a frame says which it is."""
    return (gain * torch.arange(t, dtype=torch.uint8))[:, None, None, None].expand(t, h, w, c).contiguous()


def numbers(frames: torch.Tensor, gain: int = 4) -> list[int]:
    """Which frames these are; rounded, for lossy video."""
    return (frames.float().mean((1, 2, 3)) / gain).round().int().tolist()


def noise(t: int, h: int, w: int, c: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (t, h, w, c), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(t: int, h: int, w: int) -> torch.Tensor:
    """Slow colour waves that move."""
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    waves = [torch.stack([torch.sin(3 * x + k * y + 0.2 * i) for k in (1, 2, 3)], -1) for i in range(t)]
    return ((torch.stack(waves) + 1) * 110 + 15).to(torch.uint8)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (a.double() - b.double()).square().mean()))


def encode(path: Path, frames: np.ndarray, codec: str, pixels: str, source: str = "rgb24", fps: int = 10) -> Path:
    """Plain PyAV, so that reading is not only held against our own writing."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=source)))
        out.mux(stream.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    """The first part of a file under another name."""
    data = path.read_bytes()
    part = path.with_name("cut_" + path.name)
    part.write_bytes(data[: int(len(data) * share)])
    return part


# -- round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mkv", "a.npz", "a"])
@pytest.mark.parametrize(("h", "w", "c"), [(16, 24, 3), (15, 21, 3), (16, 16, 1)])
def test_lossless_comes_back_exactly(tmp_path, name, h, w, c):
    frames = noise(7, h, w, c)
    back = video.read(video.write(tmp_path / name, frames, 12), grey=c == 1)
    assert torch.equal(back.frames, frames)
    assert back.fps == 12
    assert back.note == ("made grey" if c == 1 else "")


def test_grey_is_luma_and_three_equal_channels_when_asked_for_colour(tmp_path):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(2, 8, 8, 3).contiguous()
    path = video.write(tmp_path / "a.npz", red, 5)
    assert video.read(path, grey=True).frames.unique().tolist() == [76]  # 0.299 * 255
    path = video.write(tmp_path / "b.npz", noise(2, 8, 8, 1), 5)
    assert torch.equal(video.read(path).frames, noise(2, 8, 8, 1).expand(-1, -1, -1, 3))


def test_mp4_is_close_and_keeps_its_colours(tmp_path):
    frames = smooth(20, 48, 64)
    path = video.write(tmp_path / "a.mp4", frames, 10)
    back = video.read(path)
    assert psnr(back.frames, frames) > 35
    assert (back.frames.double().mean((0, 1, 2)) - frames.double().mean((0, 1, 2))).abs().max() < 1
    assert video.probe(path) == video.VideoInfo(20, 2.0, 10.0, 64, 48, "h264")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can start before it has all


@pytest.mark.parametrize(("h", "w"), [(15, 20), (16, 21), (17, 17)])
def test_mp4_of_odd_size_repeats_a_row(tmp_path, h, w):
    frames = smooth(4, h, w)
    back = video.read(video.write(tmp_path / "a.mp4", frames, 10, crf=5)).frames
    assert back.shape[1:3] == (h + h % 2, w + w % 2)
    assert psnr(back[:, :h, :w], frames) > 35


def test_mp4_of_grey_frames(tmp_path):
    back = video.read(video.write(tmp_path / "a.mp4", numbered(10, c=1), 10), grey=True)
    assert back.frames.shape[-1] == 1
    assert numbers(back.frames) == list(range(10))


def test_gif_comes_back(tmp_path):
    grey = noise(5, 12, 16, 1)
    assert torch.equal(video.read(video.write(tmp_path / "grey.gif", grey, 10), grey=True).frames, grey)
    palette = noise(1, 1, 100)[0, 0]
    few = palette[torch.arange(5 * 12 * 16).reshape(5, 12, 16) * 7 % 100]
    back = video.read(video.write(tmp_path / "few.gif", few, 10))
    assert torch.equal(back.frames, few)
    assert back.fps == 10
    many = smooth(6, 32, 32)
    path = video.write(tmp_path / "many.gif", many, 25)
    assert psnr(video.read(path).frames, many) > 30
    assert b"NETSCAPE2.0\x03\x01\x00\x00" in path.read_bytes()  # looped without end


def test_scale_repeats_pixels(tmp_path):
    frames = noise(3, 4, 5)
    back = video.read(video.write(tmp_path / "a.npz", frames, 5, scale=3)).frames
    assert back.shape == (3, 12, 15, 3)
    for dy, dx in [(0, 0), (2, 1)]:
        assert torch.equal(back[:, dy::3, dx::3], frames)


# -- time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.npz", "a"])
def test_resampling_takes_the_frames_at_the_right_times(tmp_path, name):
    path = video.write(tmp_path / name, numbered(30), 30)
    assert numbers(video.read(path, fps=10).frames) == list(range(0, 30, 3))
    assert numbers(video.read(path, fps=10, start=0.5).frames) == list(range(15, 30, 3))
    assert numbers(video.read(path, fps=60, num_frames=6).frames) == [0, 0, 1, 1, 2, 2]
    # 30 k / 7 to the nearest
    assert numbers(video.read(path, fps=7).frames) == [0, 4, 9, 13, 17, 21, 26]
    assert numbers(video.read(path, start=0.7, seconds=0.2).frames) == list(range(21, 27))
    assert numbers(video.read(path, start=0.7, seconds=0.2, fps=15).frames) == [21, 23, 25]
    assert numbers(video.read(path, start=0.9).frames) == [27, 28, 29]
    assert numbers(video.read(path, start=0.9, seconds=5).frames) == [27, 28, 29]
    assert video.read(path, fps=10).note == "30 frames/s resampled to 10"


def test_seeking_finds_the_frames_that_decoding_everything_finds(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(60).numpy(), "libx264", "yuv420p")  # one key frame: at the start
    dense = video.write(tmp_path / "b.mp4", numbered(60), 10)  # one each second
    for k in (0, 1, 9, 10, 11, 37, 59):
        for file in (path, dense):
            assert numbers(video.read(file, start=k / 10, num_frames=1).frames) == [k]


def test_seeking_does_not_decode_everything(tmp_path, monkeypatch):
    path = video.write(tmp_path / "a.mp4", numbered(60), 10)
    decoded = []
    pixels = video._decoded
    monkeypatch.setattr(video, "_decoded", lambda s: (decoded.append(f) or f for f in pixels(s)))
    list(video._frames(path, 5.5, None, None, 2, None, False, "center", 0))
    assert 2 <= len(decoded) <= 10


def test_a_seek_that_lands_too_late_is_not_believed(tmp_path, monkeypatch):
    path = video.write(tmp_path / "a.mp4", numbered(30), 10)
    shots = video._shots_of

    def late(path, stream, sought=False):
        return (shot for shot in shots(path, stream, sought) if not sought or shot.time > 2.7)

    monkeypatch.setattr(video, "_shots_of", late)
    assert numbers(video.read(path, start=2.5).frames) == [25, 26, 27, 28, 29]


def test_gif_frames_stay_as_long_as_they_say(tmp_path):
    stills = [Image.fromarray(frame.numpy()) for frame in numbered(4, gain=40)]
    path = tmp_path / "a.gif"
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=[100, 300, 100, 200], loop=0)
    info = video.probe(path)
    assert (info.frames, info.whole) == (4, True)
    assert info.seconds == pytest.approx(0.7)
    assert info.fps == pytest.approx(4 / 0.7)
    assert numbers(video.read(path).frames, 40) == [0, 1, 2, 3]
    assert numbers(video.read(path, fps=10).frames, 40) == [0, 1, 1, 1, 2, 3, 3]
    assert numbers(video.read(path, fps=10, start=0.3).frames, 40) == [1, 2, 3, 3]


def test_stills_are_read_in_natural_order(tmp_path):
    for k in range(12):
        Image.fromarray(numbered(12)[k].numpy()).save(tmp_path / f"frame{k}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert numbers(video.read(tmp_path).frames) == list(range(12))
    assert video.read(tmp_path).fps == video.UNTIMED_FPS
    (tmp_path / "fps.txt").write_text("6")
    assert video.probe(tmp_path).seconds == 2
    (tmp_path / "fps.txt").write_text("six")
    with pytest.raises(ValueError, match=r"fps\.txt should hold one number"):
        video.probe(tmp_path)


# -- sizes and formats --------------------------------------------------------------------------------


def test_crop_takes_the_middle_and_stretch_takes_all(tmp_path):
    wide = torch.zeros(1, 20, 60, 3, dtype=torch.uint8)
    wide[:, :, 20:40] = 200
    path = video.write(tmp_path / "a.npz", wide, 5)
    middle = video.read(path, size=(10, 10))
    assert (middle.frames[:, :, 3:-3] == 200).all() and middle.frames.min() > 150
    assert middle.note == "60x20 resized to 10x10, cut to the middle 20x20"
    left, mid, right = video.read(path, size=(10, 10), crop="stretch").frames[0, 5, ::4, 0].tolist()
    assert max(left, right) < 20 and mid > 180
    tall = video.write(tmp_path / "b.npz", wide.transpose(1, 2).contiguous(), 5)
    assert torch.equal(video.read(tall, size=(10, 10)).frames, middle.frames.transpose(1, 2))


def test_resizing_is_antialiased(tmp_path):
    stripes = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    path = video.write(tmp_path / "a.npz", stripes, 5)
    inner = video.read(path, size=(8, 8)).frames[:, :, 1:-1].float()
    assert (inner - 127.5).abs().max() < 3  # taking every eighth pixel would give 0 or 255


@pytest.mark.parametrize(
    ("codec", "pixels"), [("ffv1", "yuv420p10le"), ("ffv1", "gray"), ("ffv1", "gray10le"), ("ffv1", "yuv444p")]
)
def test_other_pixel_formats(tmp_path, codec, pixels):
    frames = numbered(12, 15, 21)
    path = encode(tmp_path / "a.mkv", frames.numpy(), codec, pixels)
    back = video.read(path)
    assert back.frames.shape == (12, 15, 21, 3)
    assert (back.frames.int() - frames.int()).abs().max() <= 2


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.mov", "libx264")])
def test_other_containers(tmp_path, name, codec):
    path = encode(tmp_path / name, numbered(20, 32, 48, gain=12).numpy(), codec, "yuv420p")
    info = video.probe(path)
    assert (info.frames, info.fps, info.width, info.height, info.whole) == (20, 10, 48, 32, True)
    assert info.seconds == pytest.approx(2)
    assert numbers(video.read(path).frames, 12) == list(range(20))
    assert numbers(video.read(path, start=1.5).frames, 12) == [15, 16, 17, 18, 19]


def test_deep_images_are_brought_to_eight_bits(tmp_path):
    Image.fromarray(np.full((8, 8), 0x8040, dtype=np.uint16)).save(tmp_path / "0.png")
    assert video.read(tmp_path).frames.unique().tolist() == [0x80]


def test_a_phone_held_upright(tmp_path):
    """The display matrix of an mp4 turns the picture: patched in by hand, a quarter clockwise."""
    frames = torch.zeros(4, 16, 32, 3, dtype=torch.uint8)
    frames[:, :, :8] = 240  # the left of what is stored is the top of what is shown
    path = video.write(tmp_path / "a.mp4", frames, 10)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    info = video.probe(path)
    assert (info.height, info.width) == (32, 16)
    shown = video.read(path).frames
    assert shown.shape == (4, 32, 16, 3)
    assert shown[:, :7].float().mean() > 200 > 50 > shown[:, 9:].float().mean()


def test_arrays_of_several_videos(tmp_path):
    array = torch.stack([numbered(6), numbered(6) + 100]).numpy()
    for path in (tmp_path / "a.npy", tmp_path / "b.npz"):
        np.save(path, array) if path.suffix == ".npy" else np.savez(path, array)
        assert video.probe(path).videos == 2
        assert torch.equal(video.read(path, item=1).frames, torch.from_numpy(array[1]))
        with pytest.raises(ValueError, match="videos 0 to 1, not 2"):
            video.read(path, item=2)


# -- what is not a video ------------------------------------------------------------------------------


def test_find(tmp_path):
    for name in ("v10.npz", "v2.npz", "b/v1.npz", "b/deep/x.npz"):
        video.write(tmp_path / name, numbered(2), 5)
    video.write(tmp_path / "b" / "stills", numbered(3), 5)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / ".hidden.mp4").write_bytes(b"x")
    (tmp_path / "cover1.jpg").write_bytes(b"x")
    found = [str(p.relative_to(tmp_path)) for p in video.find(tmp_path)]
    assert found == ["b/deep/x.npz", "b/stills", "b/v1.npz", "v2.npz", "v10.npz"]
    assert video.find(tmp_path / "v2.npz") == [tmp_path / "v2.npz"]


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """What can be wrong with a file, and what should be said of it."""
    text = folder / "text.mp4"
    text.write_text("these are words " * 40)
    empty = folder / "empty.mp4"
    empty.touch()
    whole = encode(folder / "plain.mp4", noise(20, 32, 32).numpy(), "libx264", "yuv420p")  # index at the end
    still = folder / "one.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(still)
    floats = folder / "floats.npy"
    np.save(floats, np.zeros((2, 4, 4, 3), np.float32))
    none = folder / "none.npy"
    np.save(none, np.zeros((0, 4, 4, 3), np.uint8))
    two = folder / "two.npz"
    np.savez(two, left=np.zeros((2, 4, 4, 3), np.uint8), right=np.zeros((2, 4, 4, 3), np.uint8))
    broken = cut(video.write(folder / "zip.npz", noise(4, 16, 16), 5), 0.5)
    sound = folder / "sound.mkv"
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (folder / "void").mkdir()
    return {
        "text": (text, "not a video"),
        "empty": (empty, "empty, 0 bytes"),
        "no index": (cut(whole, 0.5), "^truncated"),
        "a still": (still, "single image"),
        "floats": (floats, "float32"),
        "no frames": (none, "has no frames"),
        "two arrays": (two, "should be `frames`"),
        "half an npz": (broken, "no whole numpy file"),
        "sound": (sound, "no moving picture"),
        "missing": (folder / "missing.mp4", "no such file"),
        "words": (folder / "void", "no numbered images"),
    }


def test_bad_files_are_named(tmp_path):
    for what, (path, message) in bad_files(tmp_path).items():
        for look in (video.probe, video.read):
            with pytest.raises(ValueError, match=message) as caught:
                look(path)
            assert path.name in str(caught.value), what
    with pytest.raises(ValueError, match=r"no videos under .*void"):
        video.find(tmp_path / "void")
    with pytest.raises(ValueError, match="no such file or folder"):
        video.find(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not a video: .*one\.png"):
        video.find(tmp_path / "one.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif"])
def test_a_truncated_video_gives_what_it_has_and_no_more(tmp_path, name):
    frames = noise(40, 32, 32)
    path = cut(video.write(tmp_path / name, frames, 10), 0.6)
    info = video.probe(path)
    assert not info.whole
    assert 15 <= info.frames <= 30
    some = video.read(path, num_frames=10)
    assert torch.equal(some.frames, video.read(tmp_path / name, num_frames=10).frames)
    with pytest.raises(video.Truncated, match=rf"truncated: .*{info.frames} frames could be read"):
        video.read(path)
    for wish in ({"num_frames": info.frames + 1}, {"fps": 10}, {"fps": 5, "seconds": 4}):
        with pytest.raises(video.Truncated):
            video.read(path, **wish)
    assert len(video.read(path, num_frames=info.frames).frames) == info.frames
    assert len(video.read(path, num_frames=info.frames, fps=10).frames) == info.frames


def test_a_truncated_image_is_named(tmp_path):
    video.write(tmp_path / "a", noise(3, 32, 32), 5)
    file = tmp_path / "a" / "00001.png"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"truncated: the image .*00001.png"):
        video.read(tmp_path / "a")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(file)
    with pytest.raises(ValueError, match=r"00001.png is 5x5, the first image 32x32"):
        video.read(tmp_path / "a")


def test_impossible_wishes(tmp_path):
    path = video.write(tmp_path / "a.mkv", numbered(20), 10)
    with pytest.raises(ValueError, match=r"has 20 frames, 21 are wanted"):
        video.read(path, num_frames=21)
    with pytest.raises(ValueError, match=r"has 5 frames at 5 frames/s from 1 s on, 6 are wanted"):
        video.read(path, num_frames=6, fps=5, start=1)
    with pytest.raises(ValueError, match=r"no frames from 7 s on: it lasts 2 s"):
        video.read(path, start=7)
    with pytest.raises(ValueError, match="not both"):
        video.read(path, num_frames=2, seconds=1)
    wishes = [{"size": (0, 8)}, {"fps": 0}, {"fps": float("nan")}, {"start": -1}, {"seconds": 0}, {"num_frames": 0}]
    for wish in wishes:
        with pytest.raises(ValueError):
            video.read(path, **wish)


# -- writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.mkv", "a.npz", "a"])
def test_nothing_is_overwritten_without_force(tmp_path, name):
    path = video.write(tmp_path / name, numbered(3), 10)
    with pytest.raises(ValueError, match="exists"):
        video.write(path, numbered(5), 10)
    assert video.probe(path).frames == 3
    video.write(path, numbered(5), 10, force=True)
    assert video.probe(path).frames == 5
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_force_does_not_sweep_away_a_folder_of_other_things(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="other things"):
        video.write(folder, numbered(3), 10, force=True)
    assert (folder / "weights.bin").exists()


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.mkv", "a"])
def test_no_half_of_a_file_stays(tmp_path, monkeypatch, name):
    class Stop(BaseException):
        """As Ctrl-C: not an Exception."""

    left, frames = [0], smooth(8, 16, 16)
    place, what = (Image, "fromarray") if name == "a" else (video, "_rgb")
    real = getattr(place, what)

    def failing(pixels):
        left[0] -= 1
        if left[0] == 0:
            raise Stop
        return real(pixels)

    old = video.write(tmp_path / name, numbered(2), 10)
    monkeypatch.setattr(place, what, failing)
    for path in (old, tmp_path / f"new{name}"):
        left[0] = 4
        with pytest.raises(Stop):
            video.write(path, frames, 10, force=True)
        assert left[0] == 0
        assert [p.name for p in tmp_path.iterdir()] == [name]
    monkeypatch.undo()
    assert video.probe(old).frames == 2


def test_a_folder_that_cannot_be_replaced_is_kept(tmp_path, monkeypatch):
    path = video.write(tmp_path / "a", numbered(2), 10)

    def full(source, target):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "replace", full)
        video.write(path, numbered(5), 10, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert video.probe(path).frames == 2


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="no frames to write"):
        video.write(tmp_path / "a.mp4", numbered(0), 10)
    with pytest.raises(ValueError, match="no frames to write"):
        video.write(tmp_path / "a.mp4", numbered(2, h=0), 10)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        video.write(tmp_path / "a.mp4", numbered(2, c=2), 10)
    with pytest.raises(ValueError, match=r"known are \.mp4"):
        video.write(tmp_path / "a.xyz", numbered(2), 10)
    with pytest.raises(ValueError, match="fps"):
        video.write(tmp_path / "a.mp4", numbered(2), 0)
    with pytest.raises(ValueError, match="at most 50"):
        video.write(tmp_path / "a.gif", numbered(2), 60)
    with pytest.raises((ValueError, TypeError)):
        video.write(tmp_path / "a.mp4", numbered(2).float(), 10)
    assert list(tmp_path.iterdir()) == []


# -- clips --------------------------------------------------------------------------------------------


def clip_numbers(clip: Clip, gain: int = 1) -> list[int]:
    assert clip.frames.shape[:2] == (1, 1)
    return numbers((clip.frames[0, 0] + 1) * 127.5, gain)


def test_clips_are_consecutive_frames_scaled_to_one(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(100, gain=1), 10)
    source = video.VideoClips(path, 5, (8, 8))
    for index in range(20):
        clip = source(index)
        assert clip.frames.shape == (1, 1, 5, 3, 8, 8)
        assert clip.frames.dtype == torch.float32
        assert clip_numbers(clip) == clip.times[0].tolist()
        assert (clip.times.diff() == 1).all()
    assert source(0).frames.min() >= -1


def test_splits_in_time_cover_the_video_and_do_not_meet(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(100, gain=2), 10)
    seen = {}
    for split in ("train", "valid", "test"):
        source = video.VideoClips(path, 3, (8, 8), split=split)
        seen[split] = {n for index in range(250) for n in clip_numbers(source(index), 2)}
    assert seen == {"train": set(range(80)), "valid": set(range(80, 90)), "test": set(range(90, 100))}


def test_splits_by_video_keep_their_order(tmp_path):
    for k in range(1, 21):
        video.write(tmp_path / f"v{k}.npz", numbered(3, gain=0) + k, 10)
    seen = {}
    for split in ("train", "valid", "test"):
        source = video.VideoClips(tmp_path, 3, (8, 8), split=split)
        seen[split] = sorted({n for index in range(200) for n in clip_numbers(source(index))})
    assert seen == {"train": list(range(1, 17)), "valid": [17, 18], "test": [19, 20]}


def test_items_of_an_array_are_split_like_files(tmp_path):
    np.save(tmp_path / "a.npy", torch.stack([numbered(4, gain=0) + k for k in range(10)]).numpy())
    source = video.VideoClips(tmp_path / "a.npy", 4, (8, 8), split="valid")
    assert [clip_numbers(clip) for clip in source.windows()] == [[8] * 4]


def test_other_shares(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(100, gain=1), 10)
    source = video.VideoClips(path, 30, (8, 8), split="test", shares=(0.7, 0, 0.3))
    assert clip_numbers(source(5)) == list(range(70, 100))
    with pytest.raises(ValueError, match="add up to 1"):
        video.VideoClips(path, 30, (8, 8), shares=(0.7, 0.1, 0.1))
    with pytest.raises(ValueError, match="valid split"):
        video.VideoClips(path, 30, (8, 8), split="valid", shares=(0.7, 0, 0.3))


def test_a_held_frame_is_not_on_both_sides_of_a_border(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(50, gain=4), 10)
    ends = {}
    for split in ("train", "valid", "test"):
        source = video.VideoClips(path, 3, (8, 8), fps=30, split=split, shares=(0.33, 0.34, 0.33))
        ends[split] = {n for index in range(300) for n in clip_numbers(source(index), 4)}
    assert not ends["train"] & ends["valid"]
    assert not ends["valid"] & ends["test"]


def test_slower_clips_start_at_any_frame(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(100, gain=2), 20)
    source = video.VideoClips(path, 4, (8, 8), fps=5)
    clips = [source(index) for index in range(100)]
    read = [clip_numbers(clip, 2) for clip in clips]
    assert all(b - a == 4 for numbers_ in read for a, b in pairwise(numbers_))
    assert {n[0] % 4 for n in read} == {0, 1, 2, 3}
    assert max(n[-1] for n in read) <= 79
    for clip, n in zip(clips, read, strict=True):
        assert clip.times[0].tolist() == [k // 4 for k in n]


def test_windows_do_not_overlap_and_leave_no_room_for_another(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(100, gain=2), 10)
    source = video.VideoClips(path, 3, (8, 8), split="test", flip=True)
    windows = [clip_numbers(clip, 2) for clip in source.windows()]
    assert windows == [[90, 91, 92], [93, 94, 95], [96, 97, 98]]
    assert source.num_windows == 3
    half = video.VideoClips(path, 3, (8, 8), fps=5, split="test")
    assert [clip_numbers(clip, 2) for clip in half.windows()] == [[90, 92, 94]]
    assert half.num_windows == 1


def test_a_split_that_is_too_short_says_so_with_numbers(tmp_path):
    path = video.write(tmp_path / "a.npz", numbered(40), 10)
    with pytest.raises(ValueError, match=r"valid split .* has no 5 frames in a row .* has 4 frames for it at 10"):
        video.VideoClips(path, 5, (8, 8), split="valid")
    assert video.VideoClips(path, 4, (8, 8), split="valid").num_windows == 1


def test_clips_depend_on_their_fields_and_index_alone(tmp_path):
    path = video.write(tmp_path / "a.npz", noise(60, 8, 8), 10)
    source = video.VideoClips(path, 3, (8, 8), seed=1)
    again, sent = video.VideoClips(path, 3, (8, 8), seed=1), pickle.loads(pickle.dumps(source))
    order = [5, 0, 10**12, 5]
    for index in order:
        assert torch.equal(source(index).frames, again(index).frames)
        assert torch.equal(source(index).frames, sent(index).frames)
    assert sent == source

    def starts(clips: video.VideoClips) -> list[int]:
        return [int(clips(index).times[0, 0]) for index in range(40)]

    other = video.VideoClips(path, 3, (8, 8), seed=2)
    assert starts(source) != starts(other)
    # the splits do not draw the same places in turn
    left, right = (video.VideoClips(path, 3, (8, 8), seed=1, split=s, shares=(0.5, 0.5, 0)) for s in ("train", "valid"))
    assert starts(left) != [n - 30 for n in starts(right)]


def test_flip_mirrors_half_of_the_clips(tmp_path):
    frames = noise(20, 8, 8)
    path = video.write(tmp_path / "a.npz", frames, 10)
    plain, flipped = (video.VideoClips(path, 3, (8, 8), flip=flip) for flip in (False, True))
    same = 0
    for index in range(100):
        a, b = plain(index).frames, flipped(index).frames
        same += torch.equal(a, b)
        assert torch.equal(a, b) or torch.equal(a, b.flip(-1))
    assert 30 < same < 70


@pytest.mark.parametrize(
    ("name", "fps"),
    [("a.mp4", None), ("a.mp4", 4), ("a.mkv", 7.5), ("a.gif", None), ("a.gif", 4), ("a.npz", 25), ("a", 7.5)],
)
def test_clips_are_the_same_with_and_without_the_cache(tmp_path, cache, name, fps):
    path = video.write(tmp_path / name, smooth(40, 24, 32), 10)
    fields = {"num_frames": 3, "size": (16, 16), "fps": fps, "grey": True, "split": "all"}
    direct = video.VideoClips(path, cache_bytes=0, **fields)
    assert not cache.exists()
    cached = video.VideoClips(path, **fields)
    assert len(list(cache.glob("*.npy"))) == 1
    assert [s._replace(cache=None) for s in cached.spans] == list(direct.spans)
    for index in range(6):
        assert torch.equal(direct(index).frames, cached(index).frames)
    *_, last = direct.windows()
    *_, last_cached = cached.windows()
    assert torch.equal(last.frames, last_cached.frames)
    assert last.frames.shape == (1, 1, 3, 1, 16, 16)


def test_the_cache_is_made_once_and_anew_when_the_video_changes(tmp_path, cache, monkeypatch):
    path = video.write(tmp_path / "a.npz", numbered(20, gain=1), 10)
    assert clip_numbers(video.VideoClips(path, 16, (8, 8))(0)) == list(range(16))
    (first,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(video, "_frames", None)  # it must not decode again
        video.VideoClips(path, 16, (8, 8))
    video.write(path, numbered(20, gain=1) + 100, 10, force=True)
    os.utime(path, ns=(1, 1))
    assert clip_numbers(video.VideoClips(path, 16, (8, 8))(0)) == list(range(100, 116))
    (second,) = cache.iterdir()  # the old one is gone
    assert first != second
    video.VideoClips(path, 16, (8, 10))
    video.VideoClips(path, 16, (8, 8), grey=True)
    assert len(list(cache.iterdir())) == 3


def test_a_cache_swept_away_is_made_again(tmp_path, cache):
    path = video.write(tmp_path / "a.npz", numbered(20, gain=1), 10)
    source = video.VideoClips(path, 16, (8, 8))
    for file in cache.iterdir():
        file.unlink()
    video._mapped.cache_clear()
    assert clip_numbers(source(0)) == list(range(16))


def test_a_failed_cache_leaves_nothing(tmp_path, cache, monkeypatch):
    path = video.write(tmp_path / "a.npz", numbered(20, gain=1), 10)
    left = [5]
    fit = video._fit

    def failing(*args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return fit(*args)

    monkeypatch.setattr(video, "_fit", failing)
    with pytest.raises(KeyboardInterrupt):
        video.VideoClips(path, 4, (8, 8))
    assert list(cache.iterdir()) == []


def test_broken_and_short_videos_are_left_out_and_named(tmp_path):
    video.write(tmp_path / "good.mkv", noise(40, 16, 16), 10)
    cut(tmp_path / "good.mkv", 0.6)
    video.write(tmp_path / "short.npz", numbered(2), 10)
    (tmp_path / "text.mp4").write_text("words " * 50)
    source = video.VideoClips(tmp_path, 8, (8, 8))
    assert {span.path.name for span in source.spans} == {"good.mkv", "cut_good.mkv"}
    reasons = "\n".join(source.left_out)
    for part in ("truncated: ", "too short: ", "not a video: "):
        assert reasons.count(part) == 1
    assert len(source.left_out) == 3
    for clip in source.windows():
        assert clip.frames.shape == (1, 1, 8, 3, 8, 8)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "text.mp4").write_text("words " * 50)
    with pytest.raises(ValueError, match=r"nothing can be read .*not a video: .*text.mp4"):
        video.VideoClips(alone, 8, (8, 8))


# -- show ---------------------------------------------------------------------------------------------


def test_inspect_counts_and_names(tmp_path):
    video.write(tmp_path / "a.mp4", numbered(20, 16, 32), 10)
    video.write(tmp_path / "b.npz", numbered(5), 10)
    (tmp_path / "c.mp4").write_text("words " * 50)
    rows = video.inspect(tmp_path)
    assert [row.path.name for row in rows] == ["a.mp4", "b.npz", "c.mp4"]
    assert [row.info is None for row in rows] == [False, False, True]
    found = video.summary(rows)
    assert (found["videos"], found["files"], found["frames"], found["seconds"]) == (2, 3, 25, 2.5)
    assert found["sizes"] == {"32x16": 1, "24x16": 1}
    assert found["fps"] == {"10": 2}
    assert len(found["broken"]) == 1
    assert "c.mp4" in found["broken"][0]


def test_still_sheet(tmp_path):
    frames = noise(5, 4, 6)
    sheet = video.still_sheet(frames, 3, gap=1)
    assert sheet.shape == (9, 20, 3)
    assert torch.equal(sheet[5:9, 7:13], frames[4])
    assert (sheet[4] == 255).all()
    assert (sheet[5:, 14:] == 255).all()
    path = video.write_still(tmp_path / "a.png", sheet)
    assert np.array_equal(np.asarray(Image.open(path)), sheet.numpy())
    with pytest.raises(ValueError, match="exists"):
        video.write_still(path, sheet)
    with pytest.raises(ValueError, match="a frame and a column"):
        video.still_sheet(frames[:0], 3)
