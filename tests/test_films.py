"""Training clips of the suite: which episodes they show, and whether times, actions and cameras fit the pixels."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.clip import Clip, collate, to_uint8
from maskworld.probes.base import ACTIONS, PAN, Setting
from maskworld.probes.films import Films, Pairs, clip_of, question_of, shape_of, turns
from maskworld.probes.scenes import GROUND
from maskworld.probes.stage import Track, film
from maskworld.probes.suite import FAMILIES

CHEAP = ("P1", "P2a", "P2b", "P2c", "P5", "P6", "C3", "C7")


def _fields(clip: Clip) -> list[Tensor]:
    assert clip.actions is not None and clip.cameras is not None
    return [clip.frames, clip.times, clip.actions, clip.cameras.intrinsics, clip.cameras.pose]


def test_a_clip_follows_from_fields_and_index_and_survives_a_pickle() -> None:
    films = Films(CHEAP, seed=3)
    copy = pickle.loads(pickle.dumps(films))
    assert copy == films
    late = [copy(i) for i in (200, 0, 57)]
    for clip, i in zip(late, (200, 0, 57), strict=True):
        for a, b in zip(_fields(clip), _fields(films(i)), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(films(0).frames, Films(CHEAP, seed=4)(0).frames)


@pytest.mark.parametrize("family", CHEAP)
def test_a_clip_is_the_episode_at_its_times(family: str) -> None:
    films = Films((family,), history=9, ahead=3, near=4)
    for i in range(4):
        clip, question = films(i), question_of(films.piece(i))
        times = clip.times[0].numpy()
        assert clip.shape == (1, 1, 12, 3, 64, 64) and clip.actions is not None and clip.actions.shape == (1, 12, 9)
        assert clip.actions.dtype == clip.frames.dtype == torch.float32
        assert (np.diff(times) > 0).all() and times[0] >= 0 and times[-1] < question.track.num_frames
        assert (np.diff(times[9 - 4 :]) == 1).all()
        assert (to_uint8(clip.frames[0, 0]).numpy() == film(question.track)[times]).all()
        wanted = np.zeros((12, 9)) if question.actions is None else question.actions[times]
        assert np.allclose(clip.actions[0].numpy(), wanted, atol=1e-6)


def test_times_have_gaps_and_histories_reach_far_back() -> None:
    times = np.stack([Films(("P4",), clips_per_episode=32)(i).times[0].numpy() for i in range(0, 32 * 32, 32)])
    gaps = np.diff(times[:, :9]).max(1) > 1
    assert not gaps[times[:, 8] == 8].any() and gaps[times[:, 8] > 8].mean() > 0.7
    assert (times[:, 8] - times[:, 0]).max() > 20


def test_dead_reckoning_is_where_the_camera_is() -> None:
    moved = 0
    for family in (f.id for f in FAMILIES.values() if f.kind == "predict"):
        films = Films((family,))
        for i in range(3):
            clip, question = films(i), question_of(films.piece(i))
            assert clip.cameras is not None
            track = question.track.at(clip.times[0].numpy())
            offset = clip.cameras.pose[0, 0, :, :2, 3].numpy()
            assert np.allclose(offset, track.camera - track.camera[0], atol=1e-4), (family, i)
            moved += int(np.abs(offset).max() > 0)
    assert moved > 2


def test_shifted_by_the_camera_still_worlds_look_the_same() -> None:
    films, overlaps = Films(("P2a", "P2c")), 0
    for i in range(12):
        clip = films(i)
        assert clip.cameras is not None
        place = clip.cameras.pose[0, 0, :, :2, 3].round().long()
        canvas = torch.full((3, 64 * 5, 64 * 5), torch.nan)
        for frame, (x, y) in zip(clip.frames[0, 0], (place + 128).tolist(), strict=True):
            there = canvas[:, y : y + 64, x : x + 64]
            known = ~there.isnan()
            overlaps += int(known.any() and not known.all())
            assert torch.allclose(there[known], frame[known], atol=0.01)
            canvas[:, y : y + 64, x : x + 64] = frame
    assert overlaps > 4


def test_an_action_is_felt_one_frame_later() -> None:
    films, pans = Films(("P2a",), history=3, near=3, ahead=17, p_turn=1.0), 0
    for i in range(8):
        clip = films(i)
        assert clip.cameras is not None and clip.actions is not None
        assert (clip.times.diff() == 1).all()
        step = clip.cameras.pose[0, 0, :, 0, 3].diff()
        pan = clip.actions[0, :-1, ACTIONS.index("pan_x")] * PAN
        assert torch.equal(step, pan)
        pans += int((pan != 0).sum())
    assert pans > 8


def test_train_valid_and_the_suite_share_no_episode() -> None:
    films = [Films(("P2a", "C3"), split=split, seed=seed) for split in ("train", "valid") for seed in (0, 1)]
    episodes = [{films_.piece(i)[:2] for i in range(32)} for films_ in films]
    assert all(len(numbers) > 12 for numbers in episodes)
    assert not (episodes[0] | episodes[1]) & (episodes[2] | episodes[3])
    for family in ("P2a", "C3"):
        train, valid = ({n for f, n in a | b if f == family} for a, b in (episodes[:2], episodes[2:]))
        assert max(train) < min(valid)
    for family, number in list(episodes[0])[:3] + list(episodes[2])[:3]:
        ours = FAMILIES[family].episode(number, Setting(split="train")).questions[0].track
        theirs = FAMILIES[family].episode(number, Setting()).questions[0].track
        assert ours.position.shape != theirs.position.shape or not np.allclose(ours.position, theirs.position)


def test_shares_turns_and_neighbours() -> None:
    films = Films(("P2a", "C3", "P5"), shares=(3.0, 1.0, 0.0), p_turn=1.0)
    pieces = [films.piece(i) for i in range(512)]
    often = np.mean([piece.family == "P2a" for piece in pieces])
    assert 0.6 < often < 0.9 and not any(piece.family == "P5" for piece in pieces)
    for i in range(0, 64, 7):
        question, start = question_of(films.piece(i)), pieces[i].frames[films.history]
        assert question.num_context in turns(question)
        assert min(abs(start - turn) for turn in turns(question)) <= films.ahead
    apart = [piece[:2] for piece in pieces]
    assert apart[:32] == apart[32:64] and len(set(apart[:32])) == 32  # as often as clips_per_episode, and far apart
    assert pieces[0].frames != pieces[32].frames
    assert not set(apart[:128]) & set(apart[128:256])


def test_a_turn_is_the_first_frame_that_feels_an_action() -> None:
    question = question_of(Films(("P2a",)).piece(0))
    start, acts = question.num_context, np.zeros((question.track.num_frames, 9))
    acts[start + 2 : start + 5, 0] = 1.0  # taken at the third frame after the context, felt one later
    assert turns(dataclasses.replace(question, actions=acts)) == (start, start + 3)
    acts[start - 4 : start - 1, 1] = 1.0  # in the context: nothing new
    assert turns(dataclasses.replace(question, actions=acts)) == (start, start + 3)
    assert turns(dataclasses.replace(question, actions=None)) == (start,)


def test_pairs_reach_every_branch() -> None:
    pairs = Pairs(("C3",))
    num = shape_of("C3").num_branches
    assert num > 2 and {pairs.piece(2 * i + 1).branch for i in range(40)} == set(range(1, num))


def test_long_histories_take_long_episodes() -> None:
    assert shape_of("P2a").num_frames == (20, 24, 28, 36, 52)
    films = Films(("P2a", "C3"), history=40)
    for i in range(6):
        assert films.piece(i).family == "P2a" and films(i).shape[2] == 44
    with pytest.raises(ValueError, match="the longest has 52"):
        Films(("P2a", "C3"), history=60)
    with pytest.raises(ValueError, match="the longest has 52"):
        Films(("P2a", "C3"), shares=(0.0, 1.0), history=40)


def test_clips_of_all_families_make_one_batch() -> None:
    films = Films(("P1", "P2b", "P6", "C3"))
    batch = collate([films(i) for i in range(6)])
    assert batch.shape == (6, 1, 12, 3, 64, 64) and batch.cameras is not None
    assert batch.cameras.pose.shape == (6, 1, 12, 4, 4)


@pytest.mark.parametrize("family", ["C2", "C2-null", "C3", "C7"])
def test_pairs_share_all_but_their_cause(family: str) -> None:
    pairs = Pairs((family,), seed=1)
    differ = 0
    for i in range(4):
        one, other = pairs.piece(2 * i), pairs.piece(2 * i + 1)
        assert one.branch == 0 < other.branch and one == other._replace(branch=0)
        a, b = clip_of(one), clip_of(other)
        assert torch.equal(pairs(2 * i + 1).frames, b.frames) and torch.equal(a.times, b.times)
        tracks = [question_of(pairs.piece(2 * i)).track, question_of(pairs.piece(2 * i + 1)).track]
        apart = (a.frames != b.frames)[0, 0].flatten(1).any(1)
        differ += int(apart.any())
        if family in ("C3", "C7"):  # other actions: before these nothing differs
            assert a.actions is not None and b.actions is not None
            full = [question_of(pairs.piece(2 * i + k)).actions for k in (0, 1)]
            first = int((full[0] != full[1]).any(1).nonzero()[0][0])
            assert not apart[a.times[0] <= first].any()
            assert torch.equal(a.actions[0, a.times[0] < first], b.actions[0, b.times[0] < first])
        else:  # another beginning: of one thing, and of nothing else
            assert a.actions is not None and torch.equal(a.actions, torch.zeros_like(a.actions))
            (changed,) = np.nonzero(_begins_otherwise(*tracks))[0]
            rest = [_without(track, int(changed)) for track in tracks]
            early = a.times[0][a.times[0] < 8].numpy()  # nothing has met yet
            assert (rest[0][early] == rest[1][early]).all()
    assert differ > 0


def _begins_otherwise(one: Track, other: Track) -> np.ndarray:
    """Which things have another size, another place in the first two frames, or are there in one world only."""
    return (
        (one.half != other.half).any(1)
        | (one.position[:2] != other.position[:2]).any((0, 2))
        | (one.shown != other.shown).any(0)
    )


def _without(track: Track, thing: int) -> np.ndarray:
    shown = track.shown.copy()
    shown[:, thing] = False
    return film(track.changed(shown=shown))


def test_backgrounds_are_the_ground() -> None:
    clip = Films(("P3",))(0)
    ground = torch.tensor(np.array(GROUND) * 2 - 1).float()
    share = ((clip.frames[0, 0].movedim(1, -1) - ground).abs().amax(-1) < 0.01).float().mean()
    assert 0.5 < share < 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"families": ()}, "one family or more"),
        ({"families": ("P2a", "P2a")}, "named once"),
        ({"families": ("P2x",)}, "no family is called"),
        ({"families": ("C5",)}, "probe of surprise"),
        ({"history": 0}, "history is 1 or more"),
        ({"ahead": 0}, "ahead is 1 or more"),
        ({"p_turn": 1.5}, "probability"),
        ({"shares": (1.0, 2.0)}, "2 shares for 1 families"),
        ({"shares": (-1.0,)}, "shares are 0 or more"),
        ({"seed": -1}, "seed is 0 or more"),
        ({"shares": (0.0,)}, "ever drawn"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(Films(("P2a",)), **fields)


def test_clips_are_numbered_from_0() -> None:
    with pytest.raises(ValueError, match="numbered from 0"):
        Films(("P2a",))(-1)
    with pytest.raises(ValueError, match="one branch only"):
        Pairs(("P2a",))
