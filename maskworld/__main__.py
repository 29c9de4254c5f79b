"""The command line. Heavy imports are late: `maskworld --help` imports the standard library and tyro alone.

Exit codes: 0 done, 2 bad input, 3 done with parts missing, 130 interrupted (what was done is kept).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

T = TypeVar("T")
Shared = OmitArgPrefixes[T]
Solver = Literal["ddpm", "ddim", "dpmpp_2m", "euler", "heun", "fpndm"]
Checkpoint = Annotated[
    Positional[str], arg(metavar="CKPT", help="A file, a run's folder, a name of the zoo or hub:owner/name.")
]
Video = Annotated[
    Positional[Path],
    arg(metavar="VIDEO", help="A video file, .npz, GIF or folder of images; or a log of several cameras, or nuScenes."),
]
Scene = Annotated[int | None, arg(help="Which scene of a log; the first one, 0, otherwise.")]
Start = Annotated[
    int | None,
    arg(help="Frame at which the clip begins, known frames and all, counted at the model's rate; in place of --at."),
]
Out = Annotated[
    Path,
    arg(aliases=["-o"], metavar="OUT", help=".mp4, .gif, .mkv or .npz; or a folder with one video for each sample."),
]


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Before torch is loaded: threads that wait actively cost a busy machine several times the CPU seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _run(argv)
    except KeyboardInterrupt as interrupt:
        print("; ".join(["maskworld: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"maskworld: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _run(argv: list[str]) -> int:
    if argv[:1] == ["train"] and argv[1:] and not argv[1].startswith("-"):
        from maskworld.commands.train import train_command

        return train_command(argv[1], argv[2:])
    config = (tyro.conf.FlagCreatePairsOff,)
    if argv[:1] == ["probe"] and argv[1:2] and argv[1] in PROBE_COMMANDS:
        return tyro.extras.subcommand_cli_from_dict(
            PROBE_COMMANDS, prog="maskworld probe", args=argv[1:], config=config
        )
    if argv[:1] == ["data"]:
        return tyro.extras.subcommand_cli_from_dict(DATA_COMMANDS, prog="maskworld data", args=argv[1:], config=config)
    if argv[:1] == ["value"]:
        return tyro.extras.subcommand_cli_from_dict(
            VALUE_COMMANDS, prog="maskworld value", args=argv[1:], config=config
        )
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="maskworld", description=DESCRIPTION, args=argv, config=config
    )


DESCRIPTION = "Train, run and measure masked video world models: a mask says what is known, a model fills in the rest."

# -- filling in -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn and written.

    Args:
        samples: different fillings to draw.
        steps: steps of the solver; fewer is faster.
        solver: the model's own choice otherwise.
        guidance: how many times more a driving model follows its actions than it would untold: 2.5 unless said.
        seed: the same seed draws the same pixels.
        scale: enlarge what is written, by repeating pixels.
        json: end with one line of JSON.
        force: replace OUT where it exists.
    """

    samples: int = 1
    steps: int | None = None
    solver: Solver | None = None
    guidance: float | None = None
    seed: int = 0
    scale: int = 1
    json: bool = False
    force: bool = False


@dataclass(frozen=True)
class Asked:
    """Which frames of a video are known and which are filled in; what `commands.fill` is given."""

    verb: Literal["predict", "lookback", "interpolate", "generate", "fill"]
    frames: int | None = None
    past: int | None = None
    future: int | None = None
    at: float | None = None
    hide: str | None = None
    box: tuple[int, int, int, int] | None = None
    scene: int | None = None
    start: int | None = None


def _fill(checkpoint: str, video: Path | None, out: Path, asked: Asked, drawing: Drawing) -> int:
    from maskworld.commands.fill import fill_command

    return fill_command(checkpoint, video, out, asked, drawing)


def predict(
    checkpoint: Checkpoint,
    video: Video,
    out: Out,
    frames: int | None = None,
    past: int | None = None,
    at: float | None = None,
    scene: Scene = None,
    start: Start = None,
    drawing: Shared[Drawing] = Drawing(),
) -> int:
    """What happens after a video, or after a moment of it.

    Args:
        frames: how many to predict; as many as the model sees of the past otherwise.
        past: how many known frames to show; what the model was trained to see otherwise.
        at: seconds at which the prediction begins, and is held against the video; its end otherwise.
    """
    asked = Asked("predict", frames, past, 0, at, scene=scene, start=start)
    return _fill(checkpoint, video, out, asked, drawing)


def lookback(
    checkpoint: Checkpoint,
    video: Video,
    out: Out,
    frames: int | None = None,
    future: int | None = None,
    at: float | None = None,
    scene: Scene = None,
    start: Start = None,
    drawing: Shared[Drawing] = Drawing(),
) -> int:
    """What happened before a video, or before a moment of it.

    Args:
        frames: how many to fill in; as many as the model sees of the past otherwise.
        future: how many known frames to show; what the model was trained to see otherwise.
        at: seconds at which the known frames begin; the start of the video otherwise.
    """
    asked = Asked("lookback", frames, 0, future, at, scene=scene, start=start)
    return _fill(checkpoint, video, out, asked, drawing)


def interpolate(
    checkpoint: Checkpoint,
    video: Video,
    out: Out,
    frames: int | None = None,
    past: int | None = None,
    future: int | None = None,
    at: float | None = None,
    scene: Scene = None,
    start: Start = None,
    drawing: Shared[Drawing] = Drawing(),
) -> int:
    """What happens between: some frames of a video are hidden, filled in, and held against the truth.

    Args:
        frames: how many to hide and fill in; as many as the model sees of the past otherwise.
        past: how many known frames to show before the gap; what the model was trained to see otherwise.
        future: how many known frames to show after the gap; what the model was trained to see otherwise.
        at: seconds at which the gap begins; as early as the past allows otherwise.
    """
    asked = Asked("interpolate", frames, past, future, at, scene=scene, start=start)
    return _fill(checkpoint, video, out, asked, drawing)


def generate(checkpoint: Checkpoint, out: Out, frames: int | None = None, drawing: Shared[Drawing] = Drawing()) -> int:
    """Videos from nothing.

    Args:
        frames: how many; what the model was trained on otherwise.
    """
    return _fill(checkpoint, None, out, Asked("generate", frames, 0, 0), drawing)


def fill(
    checkpoint: Checkpoint,
    video: Video,
    out: Out,
    past: int | None = None,
    future: int | None = None,
    frames: int | None = None,
    at: float | None = None,
    hide: str | None = None,
    box: tuple[int, int, int, int] | None = None,
    scene: Scene = None,
    start: Start = None,
    drawing: Shared[Drawing] = Drawing(),
) -> int:
    """Fill in any frames of a video, or a box within its frames.

    Without --hide and --box: --past known frames, --frames hidden ones, --future known ones.

    Args:
        past: known frames before the hidden ones; what the model was trained to see otherwise.
        future: known frames after the hidden ones; none otherwise.
        frames: hidden frames; with --hide or --box, how many frames of the video to take in all.
        at: seconds at which the hidden frames begin; with --hide or --box, where the clip begins.
        hide: frames of the clip to hide, such as 3:8 or 0,4,7:9 (from 0, the end not included); or a view, such as
            camera:front or camera:front@3:8.
        box: top, bottom, left and right of a box to hide, in pixels of the model's frame: in all frames, or with
            --hide in those.
    """
    return _fill(checkpoint, video, out, Asked("fill", frames, past, future, at, hide, box, scene, start), drawing)


# -- rolling out -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remembering:
    """What a model is shown of the past.

    Args:
        memory: window (the last frames), sink, retrieve, retrieve-camera, retrieve-likeness, consolidate, canvas, or a
            learned one that the model holds: compress, merge, ssm, ttt, recurrent. All show as much.
        window: frames to show in all, as the model was trained otherwise.
        stride: frames filled in at a time; the model's own number otherwise.
    """

    memory: str | None = None
    window: int | None = None
    stride: int | None = None


def rollout(
    checkpoint: Checkpoint,
    video: Video,
    out: Annotated[
        Path,
        arg(
            aliases=["-o"],
            metavar="OUT",
            help=".mp4, .gif, .mkv or .npz; a folder with one video for each sample; or .html, a page of all futures.",
        ),
    ] = Path("rollout.mp4"),
    frames: int = 400,
    past: int | None = None,
    actions: Annotated[tuple[str, ...], arg(metavar="FILE|NAME")] = (),
    best_of: int = 1,
    scene: Scene = None,
    start: Start = None,
    remembering: Shared[Remembering] = Remembering(),
    drawing: Shared[Drawing] = Drawing(),
) -> int:
    """Far beyond the end of a video, or on from a moment of it, piece by piece, with a memory of what was before.

    Args:
        frames: how many to roll out.
        past: last frames of the video to begin with, or frames from --start on; 64 (for a model of drives as many as it
            sees at once), or all that it has, otherwise.
        actions: one or more, each of which gives a future of its own. For a model of drives: .npy or .csv with a row
            (speed in m/s, curvature in 1/m, to the left positive) for each new frame; or left, right (a quarter turn of
            0.06 / m, then straight on), straight (all these at 6 m/s) or stop (braking by 3 m/s^2). For other models
            that take actions: files with a row for each of the known frames and of those that follow.
        best_of: futures to draw of each piece, of which the one is kept that surprises the model least.
    """
    from maskworld.commands.rollout import Where, rollout_command

    where = Where(scene, start, past)
    return rollout_command(checkpoint, video, out, frames, where, actions, best_of, remembering, drawing)


# -- rendering ---------------------------------------------------------------------------------------


def render(
    checkpoint: Checkpoint,
    log: Annotated[
        Positional[Path | None],
        arg(metavar="LOG", help="A log of several cameras, or nuScenes; a held-out synthetic drive otherwise."),
    ] = None,
    out: Annotated[Path, arg(aliases=["-o"], metavar="OUT", help=".html, a page.")] = Path("voxels.html"),
    scene: int = 0,
    start: int = 0,
    moments: int = 6,
    flight: int = 32,
    every: int = 2,
    json: bool = False,
    force: bool = False,
) -> int:
    """A page of what a model of voxels sees: colours and depth, a frame that it is not shown, a flight, and its run.

    Args:
        scene: which one of the log, or of the drives.
        start: frame of the log at which the first clip begins.
        moments: how many in a row.
        flight: frames of the flight.
        every: pixels between two rays.
        json: end with one line of JSON.
        force: replace OUT where it exists.
    """
    from maskworld.commands.render import render_command

    return render_command(checkpoint, log, out, scene, start, moments, flight, every, json, force)


# -- training, data, measuring ----------------------------------------------------------------------


def train(recipe: Positional[str]) -> int:
    """Train a recipe: forcing-discs, mcvd-discs, mcvd-video, ... `maskworld train RECIPE --help` lists its fields.

    Args:
        recipe: forcing-discs, forcing-plans; maskgwm-drive, maskgwm-video, tokenizer, vae; mcvd-digits, mcvd-discs,
            mcvd-video; mim4d-drive; voc-chain, voc-clock or voc-episodes.
    """
    from maskworld.commands.train import train_command

    return train_command(recipe, [])


@dataclass(frozen=True)
class Driving:
    """Of a drive alone.

    Args:
        scenes: how many; 1 otherwise.
        cameras: 1 to 6, around the car; 6 otherwise.
        light: day (otherwise) or night.
        haze: 0 (clear, otherwise) to 1 (like heavy rain).
        fov: horizontal field of view, in degrees; 70 otherwise.
        height: of the cameras, in metres; 1.5 otherwise.
        density: of cars, walkers, trees and buildings, 0 to 2; 1 otherwise.
        speed: factor on the car's speeds; 1 otherwise.
        format: surround (a folder of .npz, otherwise) or nuscenes (a version v1.0-mini).
    """

    scenes: int | None = None
    cameras: int | None = None
    light: Literal["day", "night"] | None = None
    haze: float | None = None
    fov: float | None = None
    height: float | None = None
    density: float | None = None
    speed: float | None = None
    format: Literal["surround", "nuscenes"] | None = None


def data_make(
    world: Annotated[
        Positional[str],
        arg(metavar="WORLD", help="digits, discs; drive; chain, clock; control-cheetah, control-walker, ...; gym:ID."),
    ],
    out: Positional[Path],
    clips: int | None = None,
    frames: int | None = None,
    split: Literal["train", "valid", "test"] | None = None,
    fps: float | None = None,
    episodes: int | None = None,
    steps: int | None = None,
    policy: Literal["random", "scripted", "mixed", "all"] | None = None,
    look: Literal["fast", "suite"] | None = None,
    size: tuple[int, ...] | None = None,
    driving: Shared[Driving] = Driving(),
    seed: int = 0,
    force: bool = False,
) -> int:
    """Make clips of a toy world (digits, discs), drives with several cameras, or episodes with rewards (the others).

    Clips become one video, a folder of videos, or one .npz of all. Drives and episodes become a folder; where it was
    interrupted, or has fewer than are asked for, the same command goes on.

    Args:
        out: a file (.mkv and .npz are lossless, .mp4 and .gif are not), or a folder.
        clips: of digits and discs: how many; 1 otherwise.
        frames: of digits, discs and drives: frames of each; 20 otherwise, and 40 of a drive.
        split: of digits and discs: train, valid and test (otherwise) never share a digit's glyph.
        fps: of digits, discs and drives: frames a second of what is written; 8 otherwise, and 10 of a drive.
        episodes: how many; 20 otherwise.
        steps: decisions in an episode, which has one frame more; 250 otherwise.
        policy: who acts in control tasks; all (otherwise) lets the three take turns. Of gym:ID only random.
        look: of control tasks: fast (otherwise), or suite: with shadows, reflections and antialiasing.
        size: pixels of a side; 64 otherwise. Height and width of a drive; 96 160 otherwise. Chain and clock have
            their own.
        seed: of the world.
        force: replace OUT where it exists.
    """
    from maskworld.commands.data import make_command

    return make_command(
        world, out, clips, frames, split, fps, episodes, steps, policy, look, size, driving, seed, force
    )


def data_inspect(path: Positional[Path], sheet: Path | None = None, json: bool = False, force: bool = False) -> int:
    """What is in a video or a folder of videos, and which are broken (then the exit code is 3); in episodes; in drives.

    Args:
        path: a video, an array of uint8, a folder of images, or a folder of these; a folder of episodes; V-D4RL hdf5;
            a folder of drives or one of its .npz; a folder that holds nuScenes, or one version of it.
        sheet: .png to write: moments of the first drive, its cameras side by side, with their depth and the map.
        json: end with one line of JSON.
        force: replace the sheet where it exists.
    """
    from maskworld.commands.data import inspect_command

    return inspect_command(path, json, sheet, force)


def evaluate(
    checkpoint: Checkpoint,
    data: Positional[str | None] = None,
    protocol: str = "mcvd",
    past: int | None = None,
    frames: int | None = None,
    future: int | None = None,
    clips: int = 256,
    samples: int = 10,
    steps: int | None = None,
    solver: Solver | None = None,
    extractor: str = "random3d",
    batch: int = 40,
    threads: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """PSNR, SSIM (best of k, one, mean of k) and a Frechet distance on held-out clips, with bootstrap intervals.

    Args:
        data: digits, discs, or videos to cut into clips; what the model was trained on (held out) otherwise.
        protocol: mcvd (the paper's) or openstl (errors summed over pixels).
        past: known frames before the hidden ones; the model's otherwise.
        frames: hidden frames; otherwise as many as the model sees of the past, and twice that where no future is known.
        future: known frames after them; none otherwise.
        clips: how many clips.
        samples: fillings of each clip.
        steps: steps of the solver; fewer is faster.
        solver: the model's own choice otherwise.
        extractor: pixels8, random3d, torchscript:FILE or hf:NAME; distances compare within one extractor only.
        batch: fillings drawn together.
        threads: cores to use; all otherwise.
        seed: of the samples.
        json: end with one line of JSON.
    """
    from maskworld.commands.evaluate import evaluate_command

    return evaluate_command(
        checkpoint,
        data,
        protocol,
        past,
        frames,
        future,
        clips,
        samples,
        steps,
        solver,
        extractor,
        batch,
        threads,
        seed,
        json,
    )


# -- probing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probing:
    """Which questions are put to a model.

    Args:
        suite: quick takes minutes; full asks every family 200 times.
        families: such as P1,P2a,C2; all of the suite otherwise.
        episodes: of each family; the suite's number otherwise.
        samples: answers to each question, where it does not want more.
        split: dev is what everyone sees; train is for those who train on it.
        salt: draw a split of its own, that nobody has seen.
        tier: flat colours at 64 x 64, or textured and shaded at 128 x 128.
        shift: draw speed, size, mass, count or palette from where no training clip was.
    """

    suite: Literal["quick", "full"] = "quick"
    families: str | None = None
    episodes: int | None = None
    samples: int = 1
    split: Literal["dev", "train"] = "dev"
    salt: str | None = None
    tier: Literal["flat", "textured"] = "flat"
    shift: Literal["none", "speed", "size", "mass", "count", "palette"] = "none"


Folder = Annotated[Path | None, arg(aliases=["-o"], metavar="DIR", help="Folder for report.html and scores.json.")]


def probe(
    model: Annotated[
        Positional[str],
        arg(metavar="MODEL", help="A checkpoint, python:MODULE:FUNCTION or reference:NAME."),
    ],
    out: Folder = None,
    probing: Shared[Probing] = Probing(),
    remembering: Shared[Remembering] = Remembering(),
    workers: int = 2,
    steps: int | None = None,
    solver: Solver | None = None,
    extractor: str = "random3d",
    ood: bool = False,
    force: bool = False,
    json: bool = False,
) -> int:
    """Does its world persist, do its causes have effects? (`probe export`, `probe score`, `probe compare`, too.)

    Args:
        out: folder of report.html and scores.json; a run that was interrupted there goes on. Nothing is kept without.
        workers: processes that draw, film and mark.
        steps: steps of a checkpoint's solver; fewer is faster.
        solver: of a checkpoint; its own choice otherwise.
        extractor: features of the distances between sets of films that stand beside the scores in a folder: pixels8,
            random3d, domain:FILE, torchscript:FILE or hf:NAME; n/a where its weights are not there.
        ood: ask in every shift, too; the page has a column for each.
        force: begin again in a folder that holds another run.
        json: end with one line of JSON.
    """
    from maskworld.commands.probe import probe_command

    return probe_command(model, out, probing, remembering, workers, steps, solver, extractor, ood, force, json)


def probe_export(
    folder: Annotated[Positional[Path], arg(metavar="DIR")],
    probing: Shared[Probing] = Probing(),
    format: Literal["png", "mkv", "worldproof"] = "png",
    json: bool = False,
) -> int:
    """Write the questions as files, for any system to answer.

    Args:
        folder: a new one.
        format: prompts as PNG frames or as lossless video, or rollout folders of the package worldproof.
        json: end with one line of JSON.
    """
    from maskworld.commands.probe import export_command

    return export_command(folder, probing, format, json)


def probe_score(
    folder: Annotated[Positional[Path], arg(metavar="DIR")],
    out: Folder = None,
    salt: str | None = None,
    name: str | None = None,
    passive: bool = False,
    workers: int = 2,
    extractor: str = "random3d",
    force: bool = False,
    json: bool = False,
) -> int:
    """Mark the answers in a folder that `probe export` wrote.

    Args:
        folder: of the questions and answers.
        out: folder of report.html and scores.json; nothing is kept without.
        salt: that the questions were written with.
        name: of who answered; the folder's otherwise.
        passive: who answered takes no actions, and left out the questions that have them.
        workers: processes that draw, film and mark.
        extractor: features of the distances between sets of films, as for `probe`.
        force: begin again in a folder that holds another run.
        json: end with one line of JSON.
    """
    from maskworld.commands.probe import score_command

    return score_command(folder, out, salt, name, passive, workers, extractor, force, json)


def probe_compare(
    a: Annotated[Positional[Path], arg(metavar="A")],
    b: Annotated[Positional[Path], arg(metavar="B")],
    json: bool = False,
) -> int:
    """Two runs on the same episodes: the difference of each family, and whether it is more than chance.

    Args:
        a: a run's folder, or its scores.json.
        b: the other one.
        json: end with one line of JSON.
    """
    from maskworld.commands.probe import compare_command

    return compare_command(a, b, json)


PROBE_COMMANDS: dict[str, Callable[..., int]] = {
    "export": probe_export,
    "score": probe_score,
    "compare": probe_compare,
}


# -- values -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitting:
    """What is fitted to episodes; a fit that is resumed keeps to what it was begun with.

    Args:
        tokenizer: vqvae, fsq, mae, dino or dynamics, which is trained first; or a checkpoint of one that is trained.
        grid: codes along a side of a frame; only where a tokenizer is trained.
        vocab: codes in its codebook.
        size: pixels of a side to which frames are resized; their own, or the given tokenizer's, otherwise.
        weights: of DINOv2, a folder or a name on the hub; dino alone.
        gammas: discounts to learn; 0 alone makes a model that goes one frame ahead.
        td_steps: real steps before the model goes on by itself; 0: it never does (Monte Carlo).
        acts: tell the model the first action, so that it tells values of actions.
        policies: tell the model which of the data's policies goes on.
        stack: frames of a state.
        reward_bins: values of the reward's token, which is written before a state; at most as many as there are codes.
            0: there is none, and rewards are read from what is drawn, as in the paper.
        dim: channels of the transformer.
        depth: its layers.
        heads: of attention.
        batch: states a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data and the draws.
    """

    tokenizer: str = "vqvae"
    grid: int = 4
    vocab: int = 512
    size: int | None = None
    weights: str | None = None
    gammas: tuple[float, ...] = (0.8, 0.9, 0.95)
    td_steps: int = 4
    acts: bool = False
    policies: bool = False
    stack: int = 2
    reward_bins: int = 64
    dim: int = 192
    depth: int = 4
    heads: int = 4
    batch: int = 64
    lr: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """How many futures are drawn.

    Args:
        samples: draws of each state and discount.
        seed: the same seed draws the same futures.
        json: end with one line of JSON.
        force: replace what is in DIR.
    """

    samples: int = 100
    seed: int = 0
    json: bool = False
    force: bool = False


EpisodesAt = Annotated[
    Positional[Path], arg(metavar="DATA", help="Episodes: a folder of ours, or V-D4RL's .hdf5 files.")
]


def value_fit(
    data: EpisodesAt,
    out: Annotated[Path, arg(aliases=["-o"], metavar="RUN")],
    minutes: float = 30.0,
    steps: int | None = None,
    fitting: Shared[Fitting] = Fitting(),
    resume: bool = False,
    workers: int = 1,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Fit a video occupancy model to episodes: first a tokenizer, then the model.

    Args:
        out: folder of the run; the tokenizer's is in it.
        minutes: wall time in all, earlier calls counted in; a quarter, and 10 at most, for the tokenizer.
        steps: of the model, at most.
        resume: go on with the fit in RUN, wherever it was interrupted.
        workers: processes that make data; 0 makes it between the steps.
        threads: cores of the training itself; all otherwise.
        json: end with one line of JSON.
    """
    from maskworld.commands.value import fit_command

    return fit_command(data, out, fitting, minutes, steps, resume, workers, threads, json)


def value_estimate(
    checkpoint: Checkpoint,
    video: Annotated[
        Positional[Path], arg(metavar="VIDEO", help="A video, or episodes, whose true returns then stand beside.")
    ],
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="DIR", help="Folder for report.html.")] = None,
    gamma: tuple[float, ...] = (),
    every: int | None = None,
    policy: str | None = None,
    episode: int | None = None,
    drawing: Shared[Drawn] = Drawn(),
) -> int:
    """What the future of a video is worth, discounted, without a roll-out.

    Args:
        gamma: discounts, such as .8 .9; all that the model has learnt otherwise.
        every: frames between two moments; a few moments otherwise, more of them for a page.
        policy: who goes on, for models that are told; an episode's own otherwise.
        episode: which one; the first that the model did not learn from otherwise.
    """
    from maskworld.commands.value import estimate_command

    return estimate_command(checkpoint, video, gamma, every, policy, episode, out, drawing)


def value_evaluate(
    checkpoint: Checkpoint,
    data: EpisodesAt,
    mc: str | None = None,
    onestep: str | None = None,
    gamma: tuple[float, ...] = (),
    states: int = 200,
    unroll: int | None = None,
    drawing: Shared[Drawn] = Drawn(samples=64),
) -> int:
    """Values against the true returns of held-out episodes: bias, RMSE, correlation, beside what a value must beat.

    Args:
        mc: a checkpoint that was learnt by Monte Carlo, for a row of its own.
        onestep: a checkpoint that has learnt the discount 0, to be unrolled for a row of its own.
        gamma: discounts, such as .8 .9; all that the model has learnt otherwise.
        states: at each discount, evenly spread over the held-out episodes.
        unroll: steps of the one-step model; until 5 % of the return are left otherwise.
    """
    from maskworld.commands.value import evaluate_command

    return evaluate_command(checkpoint, data, mc, onestep, gamma, states, unroll, drawing)


def value_fit_actor(
    checkpoint: Checkpoint,
    data: EpisodesAt,
    minutes: float | None = None,
    steps: int = 2000,
    states: int = 4000,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Fit to a model that is told actions what acts by it: a policy that proposes them, and a critic. Both lie beside.

    Args:
        minutes: at most, once the episodes are read.
        steps: of each of the two networks.
        states: whose futures are drawn for the critic, at most.
        seed: of the weights, the states and the draws.
        json: end with one line of JSON.
    """
    from maskworld.commands.control import fit_command
    from maskworld.control import Fitting as Actor

    return fit_command(checkpoint, data, minutes, Actor(steps=steps, states=states, seed=seed), json)


def value_act(
    checkpoint: Checkpoint,
    task: Annotated[Positional[str], arg(metavar="TASK", help="Such as control-cheetah.")],
    how: Literal["behaviour", "improve", "critic", "mpc"] = "improve",
    episodes: int = 20,
    decisions: int | None = None,
    gamma: float | None = None,
    proposals: int | None = None,
    draws: int = 8,
    horizon: int = 3,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Act in the real environment by a model's values; returns beside those of random and scripted policies.

    Args:
        how: behaviour (as the data do), improve (the best of several actions by draws), critic (by a network that
            was distilled from draws), mpc (plans of a few steps, then the value).
        episodes: how many.
        decisions: of each; as many as the data's have otherwise.
        gamma: discount; the longest that was learnt otherwise.
        proposals: actions to choose among; as each way does otherwise.
        draws: futures of each action.
        horizon: steps of a plan; mpc alone.
        seed: of the episodes and the draws.
        json: end with one line of JSON.
    """
    from maskworld.commands.control import control_command

    return control_command(checkpoint, task, how, episodes, decisions, gamma, proposals, draws, horizon, seed, json)


VALUE_COMMANDS: dict[str, Callable[..., int]] = {
    "fit": value_fit,
    "estimate": value_estimate,
    "evaluate": value_evaluate,
    "fit-actor": value_fit_actor,
    "act": value_act,
}

# -- the rest ---------------------------------------------------------------------------------------


def tokens(
    checkpoint: Checkpoint,
    data: Annotated[
        Positional[Path], arg(metavar="DATA", help="Episodes; of a tokenizer that makes latents videos or logs, too.")
    ],
    frames: int = 512,
    json: bool = False,
) -> int:
    """How well a tokenizer keeps what is in frames it has not seen: PSNR, and the use of its codes or the scale of its
    latents.

    Args:
        frames: at most, evenly spaced over the episodes of the test split; for latents so many, drawn from it.
        json: end with one line of JSON.
    """
    from maskworld.commands.tokens import tokens_command

    return tokens_command(checkpoint, data, frames, json)


def export(
    checkpoint: Checkpoint,
    out: Annotated[Positional[Path], arg(metavar="OUT", help="A .safetensors file.")],
    json: bool = False,
    force: bool = False,
) -> int:
    """Write the encoder of a pre-trained model of several cameras (mim4d) alone, for use elsewhere.

    Args:
        json: end with one line of JSON.
        force: replace OUT where it exists.
    """
    from maskworld.commands.export import export_command

    return export_command(checkpoint, out, json, force)


def doctor(json: bool = False) -> int:
    """What this machine has: torch, threads, bf16, codecs, extras; and what is missing or broken.

    Args:
        json: end with one line of JSON.
    """
    from maskworld.commands.doctor import doctor_command

    return doctor_command(json)


def demo(
    out: Annotated[Path, arg(aliases=["-o"])] = Path("demo"), quick: bool = False, seed: int = 0, json: bool = False
) -> int:
    """Everything the zoo can do, on clips it has never seen, in one page.

    Args:
        out: folder for report.html and the videos.
        quick: fewer clips and steps.
        seed: of the clips and the samples.
        json: end with one line of JSON.
    """
    from maskworld.commands.demo import demo_command

    return demo_command(out, quick, seed, json)


def data() -> int:
    """Make clips, drives or episodes of a world (`data make`), or look into videos and these (`data inspect`)."""
    return _run(["data", "--help"])


def value() -> int:
    """What a video's future is worth: `value fit`, `estimate`, `evaluate`; and acting by it: `fit-actor`, `act`."""
    return _run(["value", "--help"])


DATA_COMMANDS: dict[str, Callable[..., int]] = {"make": data_make, "inspect": data_inspect}
COMMANDS: dict[str, Callable[..., int]] = {
    "fill": fill,
    "predict": predict,
    "lookback": lookback,
    "interpolate": interpolate,
    "generate": generate,
    "rollout": rollout,
    "render": render,
    "train": train,
    "data": data,
    "evaluate": evaluate,
    "probe": probe,
    "value": value,
    "tokens": tokens,
    "export": export,
    "doctor": doctor,
    "demo": demo,
}

if __name__ == "__main__":
    main()
