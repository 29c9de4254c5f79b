"""Questions and answers as files: what is written is what is asked, and what is read back is what was answered."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskworld.data import video
from maskworld.probes import exchange
from maskworld.probes.base import ACTIONS, Asked, Episode, Family, Marks, Question, Ranges, Setting
from maskworld.probes.stage import SIDE, Cast

# -- two families of a disc that goes right, and one that plays ---------------------------------------------


def draw(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Two branches: the disc goes on, or stops where the answer begins."""
    start, speed = rng.uniform(8, 20, 2), rng.uniform(*ranges.speed)
    camera = np.stack([0.5 * np.arange(7) + 3, np.zeros(7)], 1)
    actions = rng.uniform(-1, 1, (7, len(ACTIONS)))
    questions = []
    for stop in (7, 4):
        cast = Cast(7, (0.1, 0.1, 0.1), camera=camera)
        way = np.minimum(np.arange(7), stop) * speed
        cast.add(start + np.stack([way, 0 * way], 1), 4.0, ranges.palette[0])
        questions.append(Question(cast.track(), 4, actions, num_samples=2))
    return Episode(tuple(questions))


def quiet(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    [first, _] = draw(rng, index, ranges).questions
    return Episode((dataclasses.replace(first, actions=None, num_samples=1),))


def mark(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    wrong = [np.abs(a.astype(float) - q.truth()).mean() for a, q in zip(answers, episode.questions, strict=True)]
    return Marks(error=(float(np.sum(wrong)), len(wrong)))


A = Family("A", 901, "a", "?", "causality", draw, mark, acts=True)
B = Family("B", 902, "b", "?", "persistence", quiet, mark)
C = Family("C", 903, "c", "?", "causality", quiet, play=lambda episode, ask: Marks((0, 1)), kind="play")
FAMILIES = {"A": A, "B": B, "C": C}
SALTED = Setting("salted", salt="sea")


def truths(asked: Asked) -> np.ndarray:
    """The truth, and beside it the truth one level brighter: no two samples are alike."""
    truth = asked.question.truth(asked.setting.tier)
    return np.stack([truth + np.uint8(sample) for sample in range(asked.question.num_samples)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "D"
    exchange.export(folder, [A, B, C], 2)
    return folder


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy to fill."""
    return shutil.copytree(exported, tmp_path / "D")


def fill(folder: Path, salt: str = "") -> None:
    for place, asked in exchange.opened(folder, FAMILIES, salt):
        np.save(place.with_suffix(".npy"), truths(asked))


def what(folder: Path) -> list[str]:
    return [trouble.what for trouble in exchange.troubles(folder)]


# -- out ------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_asked(exported):
    found = json.loads((exported / "manifest.json").read_text())
    assert [entry["id"] for entry in found["questions"]] == [
        *("A-00000-0", "A-00000-1", "A-00001-0", "A-00001-1"),
        *("B-00000-0", "B-00001-0"),
    ]
    assert list(found["left_out"]) == ["C"]
    assert found["actions"] == list(ACTIONS)
    for entry in found["questions"]:
        question = FAMILIES[entry["family"]].episode(entry["index"]).questions[entry["branch"]]
        place = exported / "questions" / entry["id"]
        frames = [np.asarray(Image.open(path)) for path in sorted((place / "prompt").iterdir())]
        assert np.array_equal(frames, question.prompt())
        assert (entry["num_context"], entry["horizon"], entry["size"]) == (4, 3, 64)
        assert json.loads((place / "cameras.json").read_text()) == [[0, 0], [0.5, 0], [1, 0], [1.5, 0]]
        if question.actions is None:
            assert not (place / "actions.json").exists()
        else:
            actions = np.array(json.loads((place / "actions.json").read_text()))
            assert actions.shape == (7, 9) and np.abs(actions - question.actions).max() < 1e-7


def test_the_truth_is_not_written(exported):
    [entry, *_] = exchange.manifest_of(exported).questions
    assert len(list((exported / "questions" / entry.id / "prompt").iterdir())) == entry.num_context
    assert not list((exported / "answers").iterdir())


@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_prompts_as_lossless_videos(tmp_path, tier):
    exchange.export(tmp_path / "D", [B], 1, Setting(tier=tier), layout="mkv")
    frames = video.read(tmp_path / "D/questions/B-00000-0/prompt.mkv").frames.numpy()
    assert frames.shape[1] == SIDE[tier]
    assert np.array_equal(frames, B.episode(0, Setting(tier=tier)).questions[0].prompt(tier))


def test_an_export_is_all_or_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        assert total == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exchange.export(tmp_path / "D", [B], 2, on_progress=stop)
    assert not list(tmp_path.iterdir())
    (tmp_path / "D").mkdir()
    exchange.export(tmp_path / "D", [B], 1)
    with pytest.raises(ValueError, match="not an empty folder"):
        exchange.export(tmp_path / "D", [B], 1)
    with pytest.raises(ValueError, match="C cannot be asked in files"):
        exchange.export(tmp_path / "E", [C], 1)


def test_the_salt_stays_here_and_is_needed(tmp_path):
    folder = tmp_path / "D"
    exchange.export(folder, [B], 1, SALTED)
    assert not any(b"sea" in path.read_bytes() for path in folder.rglob("*.json"))
    fill(folder, "sea")
    assert what(folder) == []
    with pytest.raises(ValueError, match="is the salt right"):
        fill(folder, "lake")
    with pytest.raises(ValueError, match="salt that they were written with"):
        fill(folder)


# -- in -------------------------------------------------------------------------------------------


def answered(folder: Path) -> list[np.ndarray]:
    """What the subject of a folder answers, all families in one batch."""
    asked = [one for _, one in exchange.opened(folder, FAMILIES)]
    return exchange.subject(folder).answer(asked)


def as_npy(place: Path, answer: np.ndarray) -> None:
    np.save(place.with_suffix(".npy"), answer)


def as_npz(place: Path, answer: np.ndarray) -> None:
    np.savez_compressed(place.with_suffix(".npz"), frames=answer)


def as_png(place: Path, answer: np.ndarray) -> None:
    for i, sample in enumerate(answer):
        video.write(place / str(i), sample, 8)


def as_mkv(place: Path, answer: np.ndarray) -> None:
    for i, sample in enumerate(answer):
        video.write(place / f"sample{i}.mkv", sample, 8)


@pytest.mark.parametrize("write", [as_npy, as_npz, as_png, as_mkv])
def test_answers_come_back_bit_for_bit(folder, write):
    want = []
    for place, asked in exchange.opened(folder, FAMILIES):
        want.append(truths(asked))
        write(place, want[-1])
    assert what(folder) == []
    assert all(np.array_equal(a, b) for a, b in zip(answered(folder), want, strict=True))


def test_frames_are_ordered_by_number_and_not_by_name(folder):
    fill(folder)
    place = folder / "answers/B-00000-0"
    [answer] = np.load(place.with_suffix(".npy"))
    place.with_suffix(".npy").unlink()
    (place / "s-0").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(answer[i]).save(place / "s-0" / f"{'zyx'[i]}{i}.png")
    assert what(folder) == []
    assert np.array_equal(answered(folder)[-2][0], answer)


def test_what_is_missing_extra_or_wrong_is_listed(folder):
    assert what(folder) == [f"missing: answers/{name} (.npy, .npz or a folder)" for name in NAMES]
    fill(folder)
    assert what(folder) == []
    (folder / "answers/A-00000-0.npy").unlink()
    (folder / "answers/A-00009-0.npy").write_bytes(b"")
    (folder / "answers/.hidden").write_bytes(b"")
    np.save(folder / "answers/A-00000-1.npy", np.zeros((2, 2, 64, 64, 3), np.uint8))
    np.save(folder / "answers/A-00001-0.npy", np.zeros((2, 3, 64, 64, 3)))
    cut = folder / "answers/A-00001-1.npy"
    cut.write_bytes(cut.read_bytes()[:5000])
    as_npz(folder / "answers/B-00000-0", np.zeros((1, 3, 64, 64, 3), np.uint8))
    found = exchange.troubles(folder)
    assert [trouble.family for trouble in found] == ["A"] * 4 + ["B", None]
    lines = [trouble.what for trouble in found]
    assert lines[0].startswith("missing: answers/A-00000-0")
    assert lines[1] == "wrong: answers/A-00000-1 is uint8 of (2, 2, 64, 64, 3), not uint8 of (2, 3, 64, 64, 3)"
    assert "float64" in lines[2]
    assert lines[3].startswith("wrong: answers/A-00001-1.npy cannot be read")
    assert lines[4].startswith("twice: answers/B-00000-0")
    assert lines[5] == "extra: answers/A-00009-0.npy answers no question"
    assert [trouble.family for trouble in exchange.troubles(folder, leave=["A"])] == ["B", None]
    with pytest.raises(ValueError, match=r"missing: .*A-00000-0"):
        answered(folder)


NAMES = ("A-00000-0", "A-00000-1", "A-00001-0", "A-00001-1", "B-00000-0", "B-00001-0")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda place: (place / "0/00001.png").unlink(), "missing: number 1 in answers/A-00000-0/0"),
        (lambda place: (place / "1/00002.png").unlink(), "parts of several sizes"),
        (lambda place: shutil.rmtree(place / "1"), "is uint8 of (1, 3, 64, 64, 3)"),
        (lambda place: shutil.copytree(place / "1", place / "2"), "is uint8 of (3, 3, 64, 64, 3)"),
        (lambda place: shutil.copy(place / "0/00001.png", place / "0/00003.png"), "several sizes"),
        (lambda place: shutil.copy(place / "0/00001.png", place / "0/a1.png"), "twice: "),
        (lambda place: (place / "0/notes.txt").write_text("?"), "extra: answers/A-00000-0/0/notes.txt"),
        (lambda place: (place / "0/00001.png").write_bytes(b"PNG"), "no whole image"),
        (lambda place: Image.new("RGBA", (64, 64)).save(place / "0/00001.png"), "PNG of RGBA, not PNG of RGB"),
        (lambda place: Image.new("RGB", (32, 64)).save(place / "0/00001.png"), "several sizes"),
    ],
)
def test_what_is_wrong_inside_an_answer(folder, change, says):
    fill(folder)
    place = folder / "answers/A-00000-0"
    as_png(place, np.load(place.with_suffix(".npy")))
    place.with_suffix(".npy").unlink()
    assert what(folder) == []
    change(place)
    [trouble] = exchange.troubles(folder)
    assert trouble.family == "A" and says in trouble.what


def test_folders_that_ask_nothing(tmp_path, exported):
    with pytest.raises(ValueError, match="holds no questions"):
        exchange.manifest_of(tmp_path)
    good = json.loads((exported / "manifest.json").read_text())
    for change, says in (
        ({"format": "x"}, "no manifest of probes"),
        ({"suite_version": 99}, "version 99"),
        ({"questions": [{}]}, "damaged"),
        ({"layout": "x"}, "damaged"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=says):
            exchange.manifest_of(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        exchange.manifest_of(tmp_path)


# -- rollouts of worldproof -----------------------------------------------------------------------


def predicted(folder: Path) -> list[np.ndarray]:
    """Fill a folder of rollouts as worldproof does; the answers."""
    answers = []
    for place, asked in exchange.opened(folder, FAMILIES):
        answers.append(truths(asked))
        for i, sample in enumerate(answers[-1]):
            frames = place / "predictions" / f"sample_{i:02d}"
            frames.mkdir(parents=True)
            for t, frame in enumerate(sample):
                Image.fromarray(frame).save(frames / f"frame_{t:05d}.png")
    return answers


def test_rollouts_there_and_back(tmp_path):
    folder = tmp_path / "D"
    exchange.export(folder, [A, B], 1, layout="worldproof")
    assert what(folder) == [
        f"missing: rollouts/{n} (.npy, .npz or a folder)" for n in ("A-00000-0", "A-00000-1", "B-00000-0")
    ]
    answers = predicted(folder)
    assert what(folder) == []
    assert all(np.array_equal(a, b) for a, b in zip(answered(folder), answers, strict=True))
    question = A.episode(0).questions[0]
    found = exchange.read_rollout(folder / "rollouts/A-00000-0")
    assert np.array_equal(found.context, question.prompt())
    assert np.array_equal(found.predictions, answers[0])
    # The action that leads to a frame is the one that is taken at the frame before.
    assert question.actions is not None
    assert np.array_equal(found.actions, question.actions[3:6].astype(np.float32))
    names = {exchange.read_rollout(path).about["context_id"] for path in (folder / "rollouts").glob("A-*")}
    assert len(names) == 1  # both branches begin alike
    (folder / "rollouts/A-00000-1/manifest.json").write_text(json.dumps({"format_version": "9"}))
    assert "no whole" not in what(folder)[0] and "rollouts/A-00000-1" in what(folder)[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"format_version": "1"}, "has the format 1"), ({"storage": "video"}, "holds pixels as video")],
)
def test_rollouts_that_cannot_be_marked(tmp_path, change, says):
    question = B.episode(0).questions[0]
    exchange.write_rollout(tmp_path, question.prompt(), np.zeros((3, 9)), question.truth()[None])
    about = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(ValueError, match=says):
        exchange.read_rollout(tmp_path)


@pytest.mark.oracle
def test_worldproof_itself_reads_and_writes_them(tmp_path):
    worldproof = pytest.importorskip("worldproof")
    question, asked = A.episode(0).questions[0], tmp_path / "D"
    answer = np.stack([question.truth()] * 2)
    actions = np.asarray(question.actions)[3:6].astype(np.float32)
    exchange.write_rollout(tmp_path / "ours", question.prompt(), actions, answer, model="m", context="c")
    theirs = worldproof.load_rollout(tmp_path / "ours")
    assert np.array_equal(theirs.context, question.prompt())
    assert np.array_equal(theirs.actions, actions)
    assert np.array_equal(theirs.predictions, answer)
    assert (theirs.metadata.model_id, theirs.metadata.context_id, theirs.metadata.resolution) == ("m", "c", (64, 64))
    worldproof.save_rollout(theirs, tmp_path / "theirs")
    back = exchange.read_rollout(tmp_path / "theirs")
    assert np.array_equal(back.predictions, answer) and np.array_equal(back.context, question.prompt())
    exchange.export(asked, [A], 1, layout="worldproof")
    predicted(asked)
    assert len(list(worldproof.iter_rollouts(asked / "rollouts"))) == 2
