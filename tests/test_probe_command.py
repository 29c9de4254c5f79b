"""`maskworld probe`: every way in, files there and back, what is refused, what is resumed; and who can be asked."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld import checkpoint
from maskworld.__main__ import main
from maskworld.commands import subjects
from maskworld.commands.memories import memory_of
from maskworld.papers import mcvd
from maskworld.probes import suite as suite_
from maskworld.probes.base import ACTIONS, Asked, Episode, Family, Marks, Question, Ranges, Setting, check_answer
from maskworld.probes.exchange import opened
from maskworld.probes.references import reference
from maskworld.probes.stage import Cast
from maskworld.world import load

TOUR = Path(__file__).parents[1] / "docs/tour.md"

# -- two small families ---------------------------------------------------------------------------


def moves(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    cast = Cast(12, (0.1, 0.1, 0.1))
    way = rng.uniform(10, 20, 2) + np.arange(12)[:, None] * rng.uniform(1, 2, 2)
    cast.add(way, 5.0, ranges.palette[int(rng.integers(6))])
    return Episode((Question(cast.track(), 8),))


def acts(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Two branches with actions; the second is answered twice."""
    [question] = moves(rng, index, ranges).questions
    questions = [dataclasses.replace(question, actions=rng.uniform(-1, 1, (12, len(ACTIONS)))) for _ in range(2)]
    return Episode((questions[0], dataclasses.replace(questions[1], num_samples=2)))


def mark(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    wrong = [np.abs(a.astype(float) - q.truth()).mean() for a, q in zip(answers, episode.questions, strict=True)]
    return Marks((float(np.sum(wrong)), float(len(wrong))), points={"curve": [(1.0, float(wrong[0]))]})


def watched(episode: Episode, surprises: Sequence[np.ndarray]) -> Marks:
    return Marks((float(np.sum(surprises)), 1.0))


SMALL = {
    "T1": Family("T1", 911, "moves", "?", "persistence", moves, mark),
    "T2": Family("T2", 912, "acts", "?", "causality", acts, mark, acts=True),
    "T3": Family("T3", 913, "watched", "?", "causality", moves, watched, kind="surprise"),
    "T4": Family("T4", 914, "plays", "?", "causality", moves, play=lambda episode, ask: Marks((0.0, 1.0)), kind="play"),
}


@pytest.fixture
def small(monkeypatch):
    for name, family in SMALL.items():
        monkeypatch.setitem(suite_.FAMILIES, name, family)


@pytest.fixture
def cli(capsys, small, tmp_path, monkeypatch):
    """Runs `maskworld probe` in an empty folder; gives its exit code, and the lines of stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        workers = [] if argv[0] in ("export", "compare") else ["--workers", "0"]
        with pytest.raises(SystemExit) as end:
            main(["probe", *map(str, argv), *workers])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out.splitlines(), err.splitlines()

    return call


@pytest.fixture
def scores(cli):
    """Runs it with --json, over the small families where none are named; gives the JSON."""

    def call(*argv: object, code: int = 0) -> dict:
        which = () if argv[0] == "score" or "--families" in argv else ("--families", "T1,T2", "--episodes", 2)
        found, lines, errors = cli(*argv, *which, "--json")
        assert found == code and (errors == [] or code), (found, lines, errors)
        return json.loads(lines[-1])

    return call


# -- references -----------------------------------------------------------------------------------


def test_the_oracle_is_one_and_a_copy_is_none(scores):
    for name, value in (("oracle", 1.0), ("copy", 0.0)):
        found = scores(f"reference:{name}")
        assert (found["persistence"], found["causality"]) == (value, value)
        assert found["scores"] == {"T1": value, "T2": value}
        assert (found["reasons"], found["failed"], found["report"]) == ({}, [], None)
    assert found["curves"]["T1"]["curve"][0][0] == 1.0


def test_amnesia_recalls_as_far_as_its_window(cli):
    code, lines, _ = cli("reference:amnesia-8", "--families", "P2a", "--episodes", 5, "--json")
    [curve] = json.loads(lines[-1])["curves"]["P2a"].values()
    assert (code, curve) == (0, [[1, 1], [4, 1], [8, 1], [16, 0], [32, 0]])
    assert any("1: 1.00  4: 1.00  8: 1.00  16: 0.00  32: 0.00" in line for line in lines)


def test_the_table(cli):
    code, lines, errors = cli("reference:oracle", "--families", "T1", "--episodes", 2)
    assert (code, errors) == (0, [])
    assert lines[0].startswith("reference:oracle: ")
    assert re.fullmatch(r"T1 +1.00 \[1.00, 1.00\] +(linear|frozen|amnesia-8) .*2", lines[3])
    assert lines[-1] == "persistence: 1.00 [1.00, 1.00], mean of 1 of 1 families"


# -- functions ------------------------------------------------------------------------------------

MODEL = """
import numpy as np
calls = []
def predict(context, actions, horizon, num_samples, seed):
    calls.append((len(context), seed))
    assert context.dtype == np.uint8 and context.shape[2:] == (64, 64, 3)
    assert actions is None or (actions.dtype == np.float32 and actions.shape == (len(context), 8 + horizon, 9))
    return np.roll(context[:, None, -1:], 2, axis=-2).repeat(num_samples, 1).repeat(horizon, 2)
def passive(*asked):
    return predict(*asked)
passive.actions = False
def knowing(*asked):
    return predict(*asked)
knowing.surprise = lambda video, actions: np.arange(video.shape[1])[None].repeat(len(video), 0).astype(float)
def raises(*asked):
    raise RuntimeError("out of\\nmemory")
def short(*asked):
    return predict(*asked)[:, :, 1:]
def floats(*asked):
    return predict(*asked) * np.nan
def listed(*asked):
    return list(predict(*asked))
def halves(*asked):
    return predict(*asked)[:1]
"""


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "a_model.py").write_text(MODEL)
    sys.modules.pop("a_model", None)
    return tmp_path / "a_model.py"


def test_a_function_by_module_and_by_file(scores, model):
    by_module = scores("python:a_model:predict")
    by_file = scores(f"python:{model}:predict")
    assert by_module["scores"] == by_file["scores"]
    assert all(score is not None for score in by_module["scores"].values())


def test_a_function_that_takes_no_actions_is_not_asked_for_them(scores, model):
    found = scores("python:a_model:passive")
    assert found["scores"]["T1"] is not None
    assert (found["scores"]["T2"], found["causality"], found["failed"]) == (None, None, [])
    assert "takes no actions" in found["reasons"]["T2"]


def test_the_surprise_of_a_function(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = subjects.subject_of("python:a_model:knowing", Setting())
    assert subject.surprise is not None
    asked = [Asked(SMALL["T3"].episode(i).questions[0], SMALL["T3"], i, 0, Setting()) for i in range(2)]
    assert [x.tolist() for x in subject.surprise(asked)] == [[8, 9, 10, 11]] * 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "RuntimeError: out of"),
        ("short", "1 frames too few"),
        ("floats", "NaN"),
        ("listed", "returned list"),
        ("halves", "for 2 questions"),
    ],
)
def test_a_function_that_fails_is_named_with_the_episode(cli, scores, model, name, says):
    found = scores(f"python:a_model:{name}", "--families", "T1", "--episodes", 2, code=3)
    assert (found["scores"], found["failed"]) == ({"T1": None}, ["T1"])
    assert says in found["reasons"]["T1"] and "T1, episode 0" in found["reasons"]["T1"]
    code, lines, _ = cli(f"python:a_model:{name}", "--families", "T1", "--episodes", 2)
    assert code == 3 and lines[3].startswith("T1  n/a: T1, episode 0")


# -- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_colour(tmp_path_factory) -> Path:
    """MCVD with random weights, on RGB of 64 x 64."""
    config = dataclasses.replace(mcvd.tiny(), size=64, channels=3)
    rng = torch.Generator().manual_seed(0)
    state = mcvd.MCVD(config).state_dict()
    weights = {name: value + 0.05 * torch.randn(value.shape, generator=rng) for name, value in state.items()}
    path = tmp_path_factory.mktemp("model") / "colour.safetensors"
    checkpoint.write(path, weights, {"family": "mcvd", "config": dataclasses.asdict(config), "step": 0})
    return path


def test_a_checkpoint(scores, of_colour, tmp_path):
    found = scores(of_colour, "--families", "T1,T2,T3", "--episodes", 2, "--steps", 1, "-o", tmp_path / "out")
    assert found["scores"]["T1"] is not None and found["scores"]["T3"] is not None
    assert found["scores"]["T2"] is None and found["failed"] == []
    assert (tmp_path / "out/report.html").exists() and (tmp_path / "out/scores.json").exists()


def test_a_checkpoint_answers_whatever_the_batch(of_colour):
    subject = subjects.of_world(load(of_colour).sampled(steps=2), "m", rows=3)
    asked = []
    for index in range(2):
        for branch, question in enumerate(SMALL["T2"].episode(index).questions):
            asked.append(Asked(dataclasses.replace(question, actions=None), SMALL["T2"], index, branch, Setting()))
    together = subject.answer(asked)
    alone = [subject.answer([one])[0] for one in asked]
    for one, a, b in zip(asked, together, alone, strict=True):
        check_answer(one, a)
        assert np.abs(a.astype(int) - b).max() <= 2  # bf16 rounds by the batch
    assert not np.array_equal(together[1][0], together[1][1])  # two samples
    assert np.abs(together[0][0].astype(int) - together[1][0]).max() <= 2  # two branches of one prompt, one noise


def test_the_surprise_of_a_checkpoint_has_one_noise_for_all_branches(of_colour):
    subject = subjects.of_world(load(of_colour), "m")
    assert subject.surprise is not None and not subject.actions
    question = SMALL["T3"].episode(0).questions[0]
    asked = [Asked(question, SMALL["T3"], 0, branch, Setting()) for branch in range(2)]
    one, other = subject.surprise(asked)
    assert one.shape == (4,) and np.allclose(one, other, rtol=1e-3)


# -- checkpoints that take actions and have memories ------------------------------------------------


def asked_of(name: str, index: int = 0) -> list[Asked]:
    family = SMALL[name]
    return [Asked(q, family, index, i, Setting()) for i, q in enumerate(family.episode(index).questions)]


def test_a_memory_is_part_of_who_is_probed(scores, cli, forcing_checkpoint, tmp_path):
    which = ("--families", "T1,T2,T3", "--episodes", 2, "--steps", 1, "-o", tmp_path / "out")
    found = scores(forcing_checkpoint, *which, "--memory", "retrieve")
    assert found["failed"] == [] and None not in found["scores"].values()
    assert found["subject"] == f"{forcing_checkpoint} (retrieve)"
    told = {"name": "retrieve", "window": 8, "shown": 8, "tokens": 0, "kept": 256, "numbers": 0, "stride": 2}
    assert found["memory"] == told == json.loads((tmp_path / "out/scores.json").read_text())["memory"]
    page = (tmp_path / "out/report.html").read_text()
    assert f"maskworld probe {forcing_checkpoint} --families T1,T2,T3 --memory retrieve --window 8 --stride 2" in page
    assert scores(forcing_checkpoint, *which, "--memory", "retrieve")["scores"] == found["scores"]  # it goes on
    for other in (("--memory", "ssm"), (), ("--memory", "retrieve", "--stride", 1)):
        code, _, errors = cli(forcing_checkpoint, *which, *other)
        assert code == 2 and "holds another run (its memory differs)" in errors[0]


@pytest.mark.parametrize("memory", ["window", "sink", "retrieve-likeness", "consolidate", "canvas", "merge", "ssm"])
def test_every_memory_is_asked(forcing_checkpoint, memory):
    world = load(forcing_checkpoint).sampled(steps=1)
    subject = subjects.of_world(world, "m", rows=2, chosen=memory_of(memory, world, True, stride=3), stride=3)
    assert subject.actions and subject.surprise is not None
    asked = [*asked_of("T2"), *asked_of("T1", 1)]
    for one, answer in zip(asked, subject.answer(asked), strict=True):
        check_answer(one, answer)


def test_actions_reach_the_answer_and_the_surprise(forcing_checkpoint):
    subject = subjects.of_world(load(forcing_checkpoint).sampled(steps=1), "m")
    [one] = asked_of("T1")
    actions = np.zeros((12, len(ACTIONS)))
    found = []
    for change in (None, 0.0, 1.0):
        if change:
            actions[9, ACTIONS.index("push_x")] = change
        question = dataclasses.replace(one.question, actions=None if change is None else actions.copy())
        asked = [one._replace(question=question)]
        found.append((subject.answer(asked)[0], subject.surprise(asked)[0]))
    (none, _), (still, calm), (pushed, felt) = found
    assert np.array_equal(none, still)  # no actions are actions of 0
    assert np.array_equal(still[:, :2], pushed[:, :2]) and not np.array_equal(still[:, 2:], pushed[:, 2:])
    assert np.allclose(calm[:2], felt[:2]) and not np.isclose(calm[2], felt[2])


def test_a_window_that_is_long_enough_is_the_whole_past(forcing_checkpoint):
    world = load(forcing_checkpoint).sampled(steps=1)
    asked = asked_of("T2")
    window, sink = (subjects.of_world(world, "m", chosen=memory_of(name, world, True)) for name in ("window", "sink"))
    first = [subject.answer([of_one_block(asked[0])])[0] for subject in (window, sink)]
    assert np.abs(first[0].astype(int) - first[1]).max() <= 1  # 8 frames of context, all of which both show
    assert not np.array_equal(window.answer(asked[:1])[0][:, 2:], sink.answer(asked[:1])[0][:, 2:])


def of_one_block(asked: Asked) -> Asked:
    """The question, of no more frames than are filled in at once."""
    question = asked.question
    assert question.actions is not None
    short = dataclasses.replace(question, track=question.track.part(0, 10), actions=question.actions[:10])
    return asked._replace(question=short)


# -- files ----------------------------------------------------------------------------------------


def test_the_script_of_the_tour_fills_a_folder_with_the_oracle(cli, tmp_path):
    script = re.findall(r"```python\n(.*?)```", TOUR.read_text(), re.DOTALL)[-1]
    assert len(script.strip().splitlines()) <= 10
    (tmp_path / "fill.py").write_text(script)
    which = ("--families", "P1,C10", "--episodes", 2)
    code, lines, errors = cli("export", "D", *which)
    assert (code, errors, lines[0]) == (0, [], "4 questions of 2 families in D")
    done = subprocess.run([sys.executable, "fill.py", "D"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert cli("score", "D", "-o", "a")[0] == 0
    assert cli("reference:oracle", *which, "-o", "b")[0] == 0
    assert families(tmp_path / "a") == families(tmp_path / "b")


def families(out: Path) -> dict:
    return json.loads((out / "scores.json").read_text())["families"]


@pytest.mark.parametrize("layout", ["png", "worldproof"])
def test_scores_from_files_are_those_of_the_direct_run(cli, scores, model, tmp_path, layout):
    which = ("--families", "T1,T2,T3", "--episodes", 3, "--salt", "sea", "--samples", 2)
    scores("python:a_model:predict", *which, "-o", "direct")
    assert cli("export", "D", *which, "--format", layout)[0] == 0
    answer = subjects.subject_of("python:a_model:predict", Setting()).answer
    for place, asked in opened(Path("D"), SMALL, "sea"):
        np.save(place.with_suffix(".npy"), answer([asked])[0])
    found = scores("score", "D", "--salt", "sea", "-o", "files", "--name", "someone")
    assert (found["subject"], found["failed"]) == ("someone", [])
    assert families(tmp_path / "files") == families(tmp_path / "direct")
    assert "sea" not in (tmp_path / "files/scores.json").read_text()


def fill(folder: str) -> None:
    oracle = reference("oracle")
    for place, asked in opened(Path(folder), SMALL):
        np.save(place.with_suffix(".npy"), oracle.answer([asked])[0])


def test_missing_and_extra_files_are_listed(cli, scores, tmp_path):
    assert cli("export", "D", "--families", "T1,T2,T4", "--episodes", 13)[0] == 0
    code, lines, errors = cli("score", "D")
    assert code == 3 and len(errors) == 21
    assert errors[0] == "maskworld: missing: answers/T1-00000-0 (.npy, .npz or a folder)"
    assert errors[-1] == f"maskworld: and {3 * 13 - 20} more"
    assert "persistence: n/a, mean of 0 of 1 families" in lines
    fill("D")
    (tmp_path / "D/answers/notes.txt").write_text("?")
    code, lines, errors = cli("score", "D", "--json")
    assert (code, errors) == (0, ["maskworld: extra: answers/notes.txt answers no question"])
    found = json.loads(lines[-1])
    assert found["scores"] == {"T1": 1.0, "T2": 1.0, "T4": None}
    assert "step by step" in found["reasons"]["T4"]
    (tmp_path / "D/answers/T2-00003-1.npy").unlink()
    found = scores("score", "D", "-o", "out", code=3)
    assert (found["scores"]["T1"], found["scores"]["T2"], found["failed"]) == (1.0, None, ["T2"])
    assert found["reasons"]["T2"].startswith("missing: answers/T2-00003-1")
    (tmp_path / "D/answers/notes.txt").unlink()
    fill("D")  # answers that change are marked again
    assert scores("score", "D", "-o", "out")["scores"]["T2"] == 1.0


def test_who_takes_no_actions_leaves_those_questions_out(scores, cli):
    assert cli("export", "D", "--families", "T1,T2", "--episodes", 1)[0] == 0
    oracle = reference("oracle")
    for place, asked in opened(Path("D"), SMALL):
        if not asked.family.acts:
            np.save(place.with_suffix(".npy"), oracle.answer([asked])[0])
    assert scores("score", "D", "--passive")["scores"] == {"T1": 1.0, "T2": None}


# -- again ----------------------------------------------------------------------------------------


def test_finished_episodes_are_not_asked_again(scores, model, cli, tmp_path):
    first = scores("python:a_model:predict", "-o", "out")
    asked = len(sys.modules["a_model"].calls)
    again = scores("python:a_model:predict", "-o", "out")
    assert asked > 0 and len(sys.modules["a_model"].calls) == asked
    assert again["scores"] == first["scores"]
    more = scores("python:a_model:predict", "-o", "out", "--families", "T1", "--episodes", 3)
    assert len(sys.modules["a_model"].calls) == asked + 1 and more["scores"]["T1"] is not None
    which = ("--families", "T1", "--episodes", 2)
    code, _, errors = cli("python:a_model:passive", *which, "-o", "out")
    assert code == 2 and "holds another run (its model differs)" in errors[0]
    assert cli("python:a_model:passive", *which, "-o", "out", "--force")[0] == 0
    assert cli("python:a_model:passive", *which, "-o", model)[0] == 2


def test_an_interrupted_run_goes_on(cli, scores, tmp_path):
    (tmp_path / "stops.py").write_text(
        "from pathlib import Path\n"
        "def predict(context, actions, horizon, num_samples, seed):\n"
        "    if actions is not None and not Path('go').exists():\n"
        "        raise KeyboardInterrupt\n"
        "    return context[:, None, -1:].repeat(num_samples, 1).repeat(horizon, 2)\n"
    )
    which = ("--families", "T1,T2", "--episodes", 2)
    code, lines, errors = cli("python:stops.py:predict", *which, "-o", "out")
    assert (code, lines) == (130, [])
    assert errors == ["maskworld: interrupted; finished episodes are kept: again with -o out goes on"]
    assert (tmp_path / "out/episodes.jsonl").read_text().count('"T1"') == 2
    (tmp_path / "go").touch()
    assert scores("python:stops.py:predict", *which, "-o", "out")["scores"] == {"T1": 0.0, "T2": 0.0}


def test_two_runs_are_compared(cli, scores, tmp_path):
    for name in ("oracle", "copy"):
        scores(f"reference:{name}", "--families", "T1", "--episodes", 8, "-o", name)
    code, lines, errors = cli("compare", "oracle", "copy/scores.json", "--json")
    found = json.loads(lines[-1])
    assert (code, errors) == (0, [])
    assert found["families"]["T1"]["difference"]["mean"] == 1.0
    assert found["families"]["T1"]["p_holm"] < 0.05
    assert lines[1].split()[:4] == ["T1", "1.00", "0.00", "1.00"]
    scores("reference:oracle", "--families", "T1", "--episodes", 2, "--shift", "speed", "-o", "fast")
    code, _, errors = cli("compare", "oracle", "fast")
    assert code == 2 and "setting differs" in errors[0]


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["reference:orcle"], "did you mean oracle?"),
        (["reference:copy", "--steps", 3], "only a checkpoint"),
        (["python:a_model:predict", "--memory", "sink", "--stride", 2], "with --memory and --stride, not python"),
        (["python:a_model"], "no python:MODULE:FUNCTION"),
        (["python:no_such_module:f"], "no_such_module cannot be imported (ModuleNotFoundError"),
        (["python:a_model:absent"], "no attribute 'absent'"),
        (["python:a_model:calls"], "cannot be called"),
        (["absent.safetensors"], "no checkpoint"),
        (["reference:copy", "--families", "P9"], "no family is called 'P9'"),
        (["reference:copy", "--families", ","], "names none"),
        (["reference:copy", "--episodes", 0], "--episodes 0"),
        (["reference:copy", "--samples", -1], "--samples -1"),
        (["reference:copy", "--salt", ""], "--salt is empty"),
        (["reference:copy", "--salt", "x", "--split", "train"], "not the train split"),
        (["export", "."], "not an empty folder"),
        (["score", "."], "holds no questions"),
        (["score", ".", "--name", "reference:oracle"], "not of a reference"),
        (["compare", ".", "."], "no scores"),
        (["compare", "a_model.py", "a_model.py"], "does not hold the scores"),
    ],
)
def test_what_is_refused(cli, model, argv, says):
    code, lines, errors = cli(*argv)
    assert (code, lines, len(errors)) == (2, [], 1), (code, lines, errors)
    assert says in errors[0]


def test_models_of_other_frames_are_refused(cli, tiny_checkpoint, of_colour):
    code, _, errors = cli(tiny_checkpoint, "--families", "T1")
    assert code == 2 and "grey frames of 16 x 16; the flat tier of the probes is RGB of 64 x 64" in errors[0]
    code, _, errors = cli(of_colour, "--families", "T1", "--memory", "ssm")
    assert code == 2 and "its one memory is a window" in errors[0]
    code, _, errors = cli(of_colour, "--families", "T1", "--tier", "textured")
    assert code == 2 and "RGB frames of 64 x 64; the textured tier" in errors[0]


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom maskworld.__main__ import main\n"
        "try:\n    main(['probe', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'pymunk') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("[]")


def test_weights_that_are_not_there_are_not_available_and_the_rest_is(scores, tmp_path):
    (tmp_path / "dark.py").write_text(
        "import numpy as np\n"
        "def predict(context, actions, horizon, num_samples, seed):\n"
        "    b, _, h, w, _ = context.shape\n"
        "    return np.zeros((b, num_samples, horizon, h, w, 3), np.uint8)\n"
    )
    out, who = tmp_path / "out", f"python:{tmp_path / 'dark.py'}:predict"
    scores(who, "--families", "P1", "--episodes", 2, "-o", out, "--extractor", "torchscript:/no/i3d.pt")
    found = json.loads((out / "scores.json").read_text())["pictures"]
    assert found["distance"] is None and "/no/i3d.pt" in found["absent"]
    assert found["families"]["P1"]["psnr"]["n"] == 2
    assert "n/a" in (out / "report.html").read_text()


def test_an_extractor_that_there_is_not_is_bad_input(cli):
    code, _, errors = cli("reference:copy", "--families", "P1", "--extractor", "random3")
    assert code == 2 and len(errors) == 1 and "random3d" in errors[0]


def test_every_shift_has_its_column(scores, cli, tmp_path):
    out = tmp_path / "out"
    found = scores("reference:copy", "--families", "P1", "--episodes", 2, "--ood", "-o", out)
    assert list(found["shifted"]) == ["speed", "size", "mass", "count", "palette"]
    assert {one["scores"]["P1"] for one in found["shifted"].values()} == {0.0}
    page = (out / "report.html").read_text()
    assert "Out of distribution" in page and "palette" in page
    told = json.loads((out / "shifted" / "speed" / "scores.json").read_text())
    assert told["setting"]["shift"] == "speed"
    code, _, errors = cli("reference:copy", "--families", "P1", "--ood", "--shift", "speed")
    assert code == 2 and "--shift speed" in errors[0]
