"""Episodes: nothing is cut across their ends, every action and reward stands at its frame, and bad ones are refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld.data import episodes
from maskworld.data.episodes import Episode, Episodes, Transitions, clip_of

LENGTHS = (5, 2, 9, 3, 7)


def made(number: int, length: int, terminal: bool = False, size: int = 4, policy: str = "") -> Episode:
    """Pixels carry the episode (top left) and the frame; the action at t is t + .5, the reward on arrival 10 t."""
    frames = np.zeros((length, size, size, 3), np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 1, 0] = number, np.arange(length)
    t = np.arange(length, dtype=np.float32)
    actions = np.stack([t + 0.5, np.full(length, number, np.float32)], axis=1)
    actions[-1] = np.nan
    return Episode(frames, actions, 10 * t, terminal, policy)


@pytest.fixture
def five() -> list[Episode]:
    return [made(i, n, terminal=i % 2 == 0, policy="ab"[i % 2]) for i, n in enumerate(LENGTHS)]


@pytest.fixture
def folder(tmp_path: Path, five: list[Episode]) -> Path:
    episodes.write(tmp_path / "five", five, 12.0, {"world": "here"})
    return tmp_path / "five"


def same(a: Episode, b: Episode) -> bool:
    arrays = [(a.frames, b.frames), (a.actions, b.actions), (a.rewards, b.rewards)]
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") and x.dtype == y.dtype for x, y in arrays) and (
        (a.terminal, a.policy) == (b.terminal, b.policy)
    )


def pixel(clip, column: int) -> list[int]:
    """What `made` wrote into the pixels of each frame."""
    return ((clip.frames[0, 0, :, 0, 0, column] + 1) * 127.5).round().int().tolist()


# -- on disk ------------------------------------------------------------------------------------------


def test_what_is_written_is_read(folder, five):
    read = episodes.read(folder)
    assert (len(read), read.fps, read.name, read.actions, read.shape) == (5, 12.0, "five", 2, (4, 4, 3))
    assert (read.lengths, read.labels, read.policies) == (LENGTHS, tuple("ababa"), ("a", "b"))
    assert all(same(a, b) for a, b in zip(read, five, strict=True))
    assert episodes.about(folder) == {"world": "here"}
    again = pickle.loads(pickle.dumps(read))
    assert isinstance(again, Episodes) and all(same(a, b) for a, b in zip(again, five, strict=True))
    assert [len(e) for e in read[1:3]] == [2, 9] and same(read[-1], five[-1])
    with pytest.raises(IndexError):
        read[5]


def test_codes_of_a_tokenizer_are_frames_too(tmp_path):
    codes = np.arange(3 * 2 * 2, dtype=np.int32).reshape(3, 2, 2, 1) + 300
    one = Episode(codes, np.full((3, 0), np.nan, np.float32), np.zeros(3, np.float32), False)
    episodes.write(tmp_path / "codes", [one], 5.0, {})
    read = episodes.read(tmp_path / "codes")[0]
    assert same(read, one)
    clip = clip_of(read, np.array([1, 2]))
    assert clip.frames.flatten().tolist() == list(range(304, 312)) and clip.actions is None


def test_what_was_written_before_an_interruption_stays(tmp_path, five):
    out, source = tmp_path / "out", {"seed": 1, "sizes": (4, 4)}

    def interrupted():
        yield from five[:2]
        raise KeyboardInterrupt

    assert episodes.held(out, 8.0, source) == 0
    with pytest.raises(KeyboardInterrupt):
        episodes.write(out, interrupted(), 8.0, source)
    assert len(episodes.read(out)) == episodes.held(out, 8.0, source) == 2
    episodes.write(out, five[2:], 8.0, source, start=2)
    assert all(same(a, b) for a, b in zip(episodes.read(out), five, strict=True))
    for fps, other in ((8.0, {"seed": 2}), (9.0, source)):
        with pytest.raises(ValueError, match="other episodes"):
            episodes.held(out, fps, other)
    with pytest.raises(ValueError, match="number 7 is not the next"):
        episodes.write(out, five, 8.0, source, start=7)


def test_what_exists_is_only_replaced_by_force(folder, five):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists; --force"):
        episodes.write(folder, five[:1], 12.0, {})
    assert len(episodes.read(folder)) == 5
    episodes.write(folder, five[:1], 12.0, {}, force=True)
    assert len(episodes.read(folder)) == 1 and (folder / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["00000.npz", "episodes.json", "notes.txt"]


def test_reading_again_costs_nothing(folder, monkeypatch):
    read = episodes.read(folder)
    assert read[0] is read[0]
    monkeypatch.setattr(episodes, "HELD_BYTES", 300)  # of 240 for the first, 96 for the second
    small = episodes.read(folder)
    first = small[0]
    assert small[1] is small[1] and small[0] is not first


# -- splits -------------------------------------------------------------------------------------------


def numbers(part: Episodes) -> list[int]:
    return [int(e.frames[0, 0, 0, 0]) for e in part]


@pytest.mark.parametrize("n", [3, 4, 9, 10, 11, 25])
def test_a_split_is_of_whole_episodes_and_none_is_in_two(tmp_path, n):
    episodes.write(tmp_path / "x", [made(i, 2) for i in range(n)], 8.0, {})
    parts = [numbers(episodes.split(episodes.read(tmp_path / "x"), which)) for which in ("train", "valid", "test")]
    assert sorted(number for part in parts for number in part) == list(range(n)) and all(parts)


def test_a_split_stays_when_there_are_more(tmp_path):
    parts = []
    for n in (10, 30):
        episodes.write(tmp_path / "x", [made(i, 2) for i in range(n)], 8.0, {}, force=True)
        parts.append(numbers(episodes.split(episodes.read(tmp_path / "x"), "test")))
    assert parts == [[9], [9, 19, 29]]


def test_too_few_to_split(tmp_path):
    episodes.write(tmp_path / "x", [made(i, 2) for i in range(2)], 8.0, {})
    with pytest.raises(ValueError, match="3 or more"):
        episodes.split(episodes.read(tmp_path / "x"), "train")


# -- clips --------------------------------------------------------------------------------------------


def test_a_clip_of_an_episode(five):
    clip = clip_of(five[0], np.array([0, 0, 2, 4, 4]))
    assert clip.shape == (1, 1, 5, 3, 4, 4)
    assert clip.frames.min() == -1 and pixel(clip, 1) == [0, 0, 2, 4, 4] == clip.times[0].tolist()
    assert clip.rewards is not None and clip.rewards[0].tolist() == [0, 0, 20, 40, 40]
    assert clip.discounts is not None and clip.discounts[0].tolist() == [1, 1, 1, 0, 0]
    assert clip.actions is not None and clip.actions[0, :3, 0].tolist() == [0.5, 0.5, 2.5]
    assert clip.actions[0, 3:].isnan().all()
    over = clip_of(dataclasses.replace(five[0], terminal=False), torch.tensor([4]))
    assert over.discounts is not None and over.discounts[0].tolist() == [1]  # its time was over, and no more
    for times in ([], [-1], [5]):
        with pytest.raises(ValueError, match="none such"):
            clip_of(five[0], np.array(times, dtype=np.int64))


def test_transitions_are_uniform_and_never_leave_their_episode(five):
    source = Transitions(five, stack=3, ahead=2)
    last, count = (
        dict(enumerate(LENGTHS)),
        dict.fromkeys(((i, t) for i, n in enumerate(LENGTHS) for t in range(n - 1)), 0),
    )
    for index in range(1000):
        clip = source(index)
        times = clip.times[0].tolist()
        number = pixel(clip, 0)
        assert len(set(number)) == 1 and pixel(clip, 1) == times
        moment = source.moment(index)
        assert moment[0] == number[0] and times[2] == moment[1] < last[number[0]] - 1
        assert times == np.clip(np.arange(moment[1] - 2, moment[1] + 3), 0, last[number[0]] - 1).tolist()
        assert clip.rewards is not None and clip.rewards[0].tolist() == [10.0 * t for t in times]
        count[moment] += 1
    expected = 1000 / len(count)
    chi = sum((n - expected) ** 2 / expected for n in count.values())
    assert chi < 45.3  # 0.1 % of chi-square with 20 degrees of freedom
    assert len(count) == 21


def test_one_hundred_thousand_moments():
    """All of them have a next frame in their own episode, and the last that has one is drawn, too."""
    lengths = np.array([251, 2, 40])
    source = Transitions([made(i, n) for i, n in enumerate(lengths)], stack=3, ahead=1)
    rng = np.random.default_rng(0)
    ends = source._ends
    assert ends.tolist() == [250, 251, 290]
    moment = inspect.unwrap(Transitions.moment)  # without checking the types of each of them
    drawn = np.array([moment(source, int(i)) for i in rng.integers(0, 2**40, 100_000)])
    assert (drawn[:, 1] >= 0).all() and (drawn[:, 1] < lengths[drawn[:, 0]] - 1).all()
    for number, length in enumerate(lengths):
        mine = drawn[drawn[:, 0] == number, 1]
        assert mine.max() == length - 2 and mine.min() == 0
        share = (length - 1) / (lengths - 1).sum()
        assert abs(len(mine) / 1e5 - share) < 4 * (share * (1 - share) / 1e5) ** 0.5


def test_transitions_tell_who_acted(five):
    clips = [Transitions(five, 1, 2, policies=("b", "c", "a"))(i) for i in range(40)]
    for clip in clips:
        assert clip.actions is not None and clip.actions.shape == (1, 3, 5)
        who = [0, 0, 1] if pixel(clip, 0)[0] % 2 == 0 else [1, 0, 0]
        assert clip.actions[0, :, 2:].tolist() == [who] * 3
    assert any(clip.actions is not None and clip.actions[0, :, :2].isnan().any() for clip in clips)
    with pytest.raises(ValueError, match="'b'"):
        Transitions(five, 1, 2, policies=("a",))
    bare = [dataclasses.replace(e, actions=np.full((len(e), 0), np.nan, np.float32)) for e in five]
    assert Transitions(bare, 1, 1)(0).actions is None
    who = Transitions(bare, 1, 1, policies=("a", "b"))(0).actions
    assert who is not None and who.shape == (1, 2, 2)


def test_transitions_of_a_folder_are_those_of_its_list(folder, five):
    a, b = Transitions(episodes.read(folder), 2, 3, seed=4), Transitions(five, 2, 3, seed=4)
    for index in range(20):
        assert torch.equal(a(index).frames, b(index).frames) and torch.equal(a(index).times, b(index).times)
    moments = {seed: [Transitions(five, 2, 3, seed=seed).moment(i) for i in range(20)] for seed in (4, 5)}
    assert moments[4] != moments[5]
    for stack, ahead in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one"):
            Transitions(five, stack, ahead)
    with pytest.raises(ValueError, match="no episodes"):
        Transitions([], 1, 1)


# -- V-D4RL -------------------------------------------------------------------------------------------


def vd4rl(path: Path, lengths=LENGTHS, **changes) -> Path:
    """Record i has the action (100 episode + i) and the reward (i) that led to frame i; the first ones have dummies."""
    h5py = pytest.importorskip("h5py")
    t = np.concatenate([np.arange(n) for n in lengths])
    number = np.repeat(np.arange(len(lengths)), lengths)
    observation = np.zeros((len(t), 3, 4, 6), np.uint8)
    observation[:, 0, 0, 0], observation[:, 0, 0, 1], observation[:, 2, 3, 5] = number, t, 77
    last = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    records = {
        "observation": observation,
        "action": np.stack([100 * number + t, -t], axis=1).astype(np.float32),
        "reward": np.where(t == 0, 55, t).astype(np.float32),
        "discount": np.where(last & (number % 2 == 1), 0, 1).astype(np.float32),
        "step_type": np.where(t == 0, 0, np.where(last, 2, 1)).astype(np.int64),
    } | changes
    with h5py.File(path, "w") as file:
        for name, value in records.items():
            if value is not None:
                file[name] = value
    return path


def test_vd4rl_is_read_with_actions_shifted_and_its_ends(tmp_path):
    read = episodes.read(vd4rl(tmp_path / "0_medium_expert_x.hdf5"))
    assert (read.lengths, read.actions, read.shape) == (LENGTHS, 2, (4, 6, 3))
    assert read.policies == ("medium_expert",)
    for number, episode in enumerate(read):
        n = LENGTHS[number]
        assert (episode.frames[:, 0, 0, 0] == number).all() and episode.frames[:, 0, 1, 0].tolist() == list(range(n))
        assert (episode.frames[:, 3, 5, 2] == 77).all()
        assert episode.actions[:-1, 0].tolist() == [100 * number + t for t in range(1, n)]  # what led to the next
        assert np.isnan(episode.actions[-1]).all()
        assert episode.rewards.tolist() == list(range(n))  # on arrival; the dummy of the first is gone
        assert episode.terminal == (number % 2 == 1)
    clip = Transitions(read, 1, 1)(0)
    assert clip.frames.shape == (1, 1, 2, 3, 4, 6)


def test_a_folder_of_vd4rl_files(tmp_path):
    for name in ("1_random.hdf5", "0_expert.hdf5"):
        vd4rl(tmp_path / name, lengths=(3, 2))
    (tmp_path / "readme.txt").write_text("")
    read = episodes.read(tmp_path)
    assert read.lengths == (3, 2, 3, 2) and read.labels == ("expert", "expert", "random", "random")
    assert episodes.there(tmp_path) and not episodes.there(tmp_path / "readme.txt")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reward": None}, "has no reward"),
        ({"action": None, "discount": None}, "has no action, discount"),
        ({"action": np.zeros((3, 2), np.float32)}, "do not go together"),
        ({"observation": np.zeros((26, 3, 4, 6), np.float32)}, "uint8"),
        ({"step_type": np.ones(26, np.int64)}, "begins without"),
        ({"lengths": (3, 1, 2)}, "record 3 has one frame"),
        ({"lengths": ()}, "no records"),
    ],
)
def test_hdf5_that_is_not_as_it_should_be(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says) as error:
        if changes.get("lengths") == ():
            empty = {"observation": np.zeros((0, 3, 4, 6), np.uint8), "action": np.zeros((0, 2))}
            flat = {name: np.zeros(0) for name in ("reward", "discount", "step_type")}
            episodes.read(vd4rl(tmp_path / "x.hdf5", (2,), **empty, **flat))
        episodes.read(vd4rl(tmp_path / "x.hdf5", **changes))
    assert "x.hdf5" in str(error.value)


def test_hdf5_with_rewards_that_are_none(tmp_path):
    rewards = np.zeros(26, np.float32)
    rewards[6] = np.nan
    read = episodes.read(vd4rl(tmp_path / "x.hdf5", reward=rewards))
    with pytest.raises(ValueError, match=r"x.hdf5: the reward at frame 1 is NaN"):
        read[1]
    (tmp_path / "y.hdf5").write_bytes(b"not so")
    with pytest.raises(ValueError, match="not an hdf5 file"):
        episodes.read(tmp_path / "y.hdf5")


# -- bad input ----------------------------------------------------------------------------------------


def changed(name: str, at: object, value: float) -> dict[str, np.ndarray]:
    array = getattr(made(0, 4), name).copy()
    array[at] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames": np.zeros((1, 4, 4, 3), np.uint8)}, "1 frame"),
        ({"frames": np.zeros((4, 4, 4, 3), np.float32)}, "uint8"),
        ({"frames": np.zeros((4, 4, 4, 3), np.int32)}, "c = 1 for codes"),
        ({"frames": np.zeros((4, 0, 4, 3), np.uint8)}, r"\(t, h, w, c\)"),
        ({"frames": np.zeros((5, 4, 4, 3), np.uint8)}, "5 frames want actions"),
        ({"rewards": np.zeros(3, np.float32)}, "want rewards of shape"),
        (changed("rewards", 2, np.nan), "reward at frame 2 is NaN"),
        (changed("rewards", 1, np.inf), "reward at frame 1 is NaN or inf"),
        (changed("rewards", 0, 1), "first frame of an episode has no reward"),
        (changed("actions", (1, 0), np.nan), "action at frame 1 is NaN"),
        (changed("actions", (2, 1), -np.inf), "action at frame 2 is NaN or inf"),
        (changed("actions", -1, 0), "last frame"),
    ],
)
def test_what_is_no_episode(tmp_path, changes, says):
    good = made(0, 4)
    if "frames" not in changes and "shape" not in says:  # those are caught by the annotations here
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(good, **changes)
    arrays = {"frames": good.frames, "actions": good.actions, "rewards": good.rewards} | changes
    episodes.write(tmp_path / "x", [good], 8.0, {})
    np.savez(tmp_path / "x" / "00000.npz", **arrays, terminal=np.array(False), policy=np.array("a"))
    with pytest.raises(ValueError, match=says) as error:
        episodes.read(tmp_path / "x")[0]
    assert "00000.npz" in str(error.value)


def test_folders_that_hold_no_episodes(tmp_path, folder, five):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither episodes.json nor"):
        episodes.read(tmp_path / "empty")
    with pytest.raises(ValueError, match="no such file"):
        episodes.read(tmp_path / "absent")
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds no episodes"):
        episodes.read(tmp_path / "x.mp4")
    episodes.write(tmp_path / "none", [], 8.0, {})
    with pytest.raises(ValueError, match="no episodes yet"):
        episodes.read(tmp_path / "none")
    episodes.write(tmp_path / "sizes", [made(0, 3), made(1, 3, size=6)], 8.0, {})
    with pytest.raises(ValueError, match=r"different sizes.*00001"):
        episodes.read(tmp_path / "sizes")
    narrow = dataclasses.replace(five[0], actions=five[0].actions[:, :1])
    episodes.write(tmp_path / "channels", [five[0], narrow], 8.0, {})
    with pytest.raises(ValueError, match=r"2 action channels in .* but 1"):
        episodes.read(tmp_path / "channels")
    np.savez(folder / "00003.npz", frames=five[0].frames, actions=five[0].actions)
    with pytest.raises(ValueError, match=r"00003.npz has no rewards, terminal, policy"):
        episodes.read(folder)
    (folder / "00003.npz").write_bytes(b"PK, but no more")
    with pytest.raises(ValueError, match=r"00003.npz is damaged"):
        episodes.read(folder)
    (folder / "00003.npz").unlink()
    with pytest.raises(ValueError, match=r"has no 00003.npz, but a later one"):
        episodes.read(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "not of the format"),
        (json.dumps({"format": "other 1"}), "not of the format"),
        (json.dumps({"format": episodes.FORMAT, "fps": 3}), "has no source"),
        (json.dumps({"format": episodes.FORMAT, "fps": 0, "source": {}}), "fps is a number"),
        (json.dumps({"format": episodes.FORMAT, "fps": "8", "source": {}}), "fps is a number"),
    ],
)
def test_a_damaged_description(folder, text, says):
    (folder / "episodes.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        episodes.read(folder)


def test_frames_are_resized_as_they_are_read(tmp_path: Path) -> None:
    """To any size, antialiased: flat colours stay, means stay, and what is not a picture is not touched."""
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[:, :, 8:] = 200
    frames[2] = 77
    actions = np.zeros((4, 1), np.float32)
    actions[-1] = np.nan
    one = episodes.Episode(frames, actions, np.arange(4, dtype=np.float32), terminal=True, policy="p")
    episodes.write(tmp_path / "e", [one] * 3, 8.0, {})
    found = episodes.read(tmp_path / "e")
    small = found.at(8)
    assert small.shape == (8, 8, 3) and found.shape == (16, 16, 3) and len(small) == 3
    assert small[0].frames.shape == (4, 8, 8, 3) and (small[0].frames[2] == 77).all()
    assert (small[0].frames[0, :, :3] == 0).all() and (small[0].frames[0, :, 5:] == 200).all()
    assert abs(small[0].frames[0].astype(float).mean() - 100) < 1
    np.testing.assert_array_equal(small[0].rewards, one.rewards)
    assert small[0].terminal and episodes.split(small, "test").shape == (8, 8, 3)
    assert np.array_equal(found.at(16)[0].frames, one.frames)
    with pytest.raises(ValueError, match="square frames"):
        found.at(0)
