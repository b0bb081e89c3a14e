"""The command line: one function a verb. A verb parses its words and calls the work, which it imports only then."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from semivss.atomic import FULL
from semivss.cli_data import data
from semivss.cli_options import (
    Again,
    AnySplit,
    Base,
    Budget,
    Compile,
    Crop,
    Flip,
    Kind,
    Memory,
    ModelsAndInputs,
    Overrides,
    Policy,
    Precision,
    RecipePath,
    Sampling,
    Scales,
    ShortSide,
    StageName,
    Stride,
    Threads,
    ViewsPreset,
    Weights,
    Whole,
    numbers_of,
    size_of,
    views_of,
)
from semivss.cli_weights import weights
from semivss.errors import DefectError, SemivssError

UsageError: Any = typer.BadParameter.__base__  # of the click that typer brings along
app = typer.Typer(
    name="semivss",
    help="Semi-supervised video semantic segmentation: a few labelled frames and a lot of video in, predictions and scores out.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich costs a third of the answer's time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data, name="data")
pseudo = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at pseudo labels.")
app.add_typer(pseudo, name="pseudo")
app.add_typer(weights, name="weights")


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False) -> None:
    """Options before the verb."""
    if version:
        from semivss import __version__

        typer.echo(f"semivss {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    override: Overrides = None,
    again: Again = False,
) -> None:
    """The whole method on a generated toy world. Train, pseudo-label, retrain, predict, score, report; needs no data."""
    from semivss.pipeline import demo_recipe, run

    run(demo_recipe(override or []), out, again=again)


@app.command("run")
def run_stages(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<recipe name> by default.")] = None,
    override: Overrides = None,
    again: Again = False,
    start: Annotated[StageName | None, typer.Option("--from", help="Redo this stage and all after it.")] = None,
    until: Annotated[StageName | None, typer.Option("--until", help="Stop after this stage.")] = None,
    accept_edited: Annotated[bool, typer.Option("--accept-edited", help="Use pseudo labels that were corrected by hand.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """All stages of a recipe, from training to the report. Train, pseudo-label, retrain, predict, score; finished stages are skipped."""
    from semivss.pipeline import run
    from semivss.recipe import load_recipe

    resolved = load_recipe(recipe, override or [])
    folder = out or Path("runs") / resolved.name
    run(resolved, folder, again=again, start=start, until=until, accept_edited=accept_edited, dry=dry_run)


@app.command()
def train(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<recipe name> by default.")] = None,
    override: Overrides = None,
    again: Annotated[bool, typer.Option("--again", help="Train from the start if the settings changed.")] = False,
) -> None:
    """Train a recipe's model on its labelled data. The same command resumes exactly where it stopped."""
    from semivss.pipeline import train_stage
    from semivss.recipe import load_recipe

    resolved = load_recipe(recipe, override or [])
    train_stage(resolved, out or Path("runs") / resolved.name, again=again)


@app.command()
def retrain(
    recipe: RecipePath,
    pseudo_labels: Annotated[
        list[Path] | None, typer.Option("--pseudo", help="Folder of pseudo labels; repeat it, one an unlabelled source.", metavar="FOLDER")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Model or run folder to start from; the run's own student by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<recipe name> by default.")] = None,
    override: Overrides = None,
    again: Again = False,
    accept_edited: Annotated[bool, typer.Option("--accept-edited", help="Use pseudo labels that were corrected by hand.")] = False,
) -> None:
    """Retrain a recipe's student with pseudo labels of any models. Its section [semi] says how; the model is RUN/retrained/model."""
    from semivss.pipeline import retrain_stage
    from semivss.recipe import load_recipe
    from semivss.verbs import model_folder

    resolved = load_recipe(recipe, override or [])
    folder = out or Path("runs") / resolved.name
    own = start is None or start.resolve() == folder.resolve()  # whose own student it is, not what came of it
    weights = None if own or start is None else model_folder(start)
    retrain_stage(resolved, folder, pseudo_labels or [], weights, again=again, accept_edited=accept_edited)


@app.command()
def predict(
    words: ModelsAndInputs,
    out: Annotated[Path, typer.Option(help="Folder for label PNGs, entropy maps and overlays.")] = Path("predictions"),
    weights: Weights = None,
    split: AnySplit = None,
    preset: ViewsPreset = None,
    whole: Whole = False,
    budget: Budget = None,
    scales: Scales = "1",
    flip: Flip = False,
    crop: Crop = None,
    stride: Stride = None,
    base: Base = None,
    short_side: ShortSide = None,
    sampling: Sampling = "exact",
    probabilities: Annotated[Literal["none", "uint8", "float16"], typer.Option(help="Also write class probabilities.")] = "none",
    entropy: Annotated[bool, typer.Option(help="Write entropy maps.")] = True,
    overlay: Annotated[Literal["none", "overlay", "side_by_side"], typer.Option(help="Overlay video.")] = "overlay",
    precision: Precision = "auto",
    memory: Memory = None,
    threads: Threads = None,
    compiled: Compile = False,
    policy: Policy = "strict",
) -> None:
    """Segment video with one model or an ensemble. Takes videos, frame folders or a data set; finished videos are skipped."""
    from semivss.presets import parse_budget
    from semivss.recipe import checked
    from semivss.settings import Predict
    from semivss.verbs import models_and_inputs, predict_paths

    time = None if budget is None else parse_budget(budget, up_to=preset, whole=whole)
    views = views_of("predict", words, preset, whole, time is not None, scales, flip, crop, stride, base, short_side, sampling)
    how = {"precision": precision, "memory": memory, "threads": threads, "compile": compiled}
    settings = checked(Predict, "predict", views=views, probabilities=probabilities, entropy=entropy, overlay=overlay, **how)
    shares = numbers_of("--weights", weights) if weights else None
    models, inputs = models_and_inputs(words)
    predict_paths(models, inputs, out, settings, weights=shares, split=split, policy=policy, budget=time)


@app.command("pseudo-label")
def pseudo_label(
    words: ModelsAndInputs,
    out: Annotated[Path, typer.Option(help="Folder for pseudo labels and their entropies.")] = Path("pseudo"),
    weights: Weights = None,
    split: AnySplit = None,
    preset: ViewsPreset = None,
    whole: Whole = False,
    budget: Budget = None,
    scales: Scales = "1",
    flip: Flip = False,
    crop: Crop = None,
    stride: Stride = None,
    base: Base = None,
    short_side: ShortSide = None,
    sampling: Sampling = "exact",
    window: Annotated[int, typer.Option(help="Frames on either side whose distributions, warped by optical flow, join the mean.")] = 0,
    align_to: Annotated[
        Path | None, typer.Option(help="Labelled data set whose shares of the classes the mean prediction is moved to.")
    ] = None,
    align_split: Annotated[str, typer.Option(help="Split of that data set.")] = "train",
    align_list: Annotated[
        str | None, typer.Option(help="List of that data set's frames whose masks count, relative to it, such as semi/labeled.txt.")
    ] = None,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also write the largest probability.")] = False,
    top_classes: Annotated[int, typer.Option(help="Also write the ids of so many likely classes, at stride 8.")] = 0,
    precision: Precision = "auto",
    memory: Memory = None,
    threads: Threads = None,
    compiled: Compile = False,
    policy: Policy = "strict",
) -> None:
    """Label video with one model or an ensemble, to train on. No threshold is applied yet. Finished videos are skipped."""
    from semivss.presets import parse_budget
    from semivss.recipe import checked
    from semivss.settings import PseudoLabels
    from semivss.verbs import models_and_inputs, pseudo_label_paths

    time = None if budget is None else parse_budget(budget, up_to=preset, whole=whole)
    views = views_of("pseudo-label", words, preset, whole, time is not None, scales, flip, crop, stride, base, short_side, sampling)
    shares = numbers_of("--weights", weights) if weights else ()
    extra = {
        "window": window,
        "align": 1.0 if align_to else 0.0,
        "confidence": confidence,
        "top_classes": top_classes,
        "precision": precision,
        "memory": memory,
        "threads": threads,
        "compile": compiled,
    }
    settings = checked(PseudoLabels, "pseudo-label", views=views, weights=shares, **extra)
    models, inputs = models_and_inputs(words)
    pseudo_label_paths(
        models,
        inputs,
        out,
        settings,
        split=split,
        policy=policy,
        align_to=align_to,
        align_split=align_split,
        align_list=align_list,
        budget=time,
    )


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model or run folder.", metavar="MODEL")],
    size: Annotated[tuple[int, int], typer.Option(help="Height and width of the frames, such as 480 853.", metavar="H W")],
    out: Annotated[Path | None, typer.Option(help="File; ./model_<H>x<W>.onnx by default.")] = None,
    kind: Annotated[
        Literal["scores", "labels"], typer.Option(help="What it gives: probabilities of the classes, or labels alone.")
    ] = "scores",
    tolerance: Annotated[float, typer.Option(min=0, help="Most that a probability may differ from PyTorch's.")] = 1e-4,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a model as an ONNX file for frames of one size. It is compared with PyTorch first; predict and pseudo-label take it."""
    from semivss.verbs import export_paths

    export_paths(model, size, out, kind, tolerance=tolerance, force=force)


@pseudo.command("inspect")
def pseudo_inspect(
    folder: Annotated[Path, typer.Argument(help="Folder written by pseudo-label.", metavar="DIR")],
    truth: Annotated[Path | None, typer.Option(help="Data set with the frames, and masks where there are some.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    kind: Annotated[Kind, typer.Option(help="What the data set is.")] = "auto",
    alpha: Annotated[float, typer.Option(min=0, max=100, help="Percent of the pixels that are unreliable.")] = 20.0,
    per_class: Annotated[bool, typer.Option("--per-class", help="Percentile within each class.")] = False,
    accept_edited: Annotated[bool, typer.Option("--accept-edited", help="Use labels that were corrected by hand.")] = False,
    worst: Annotated[int, typer.Option(min=1, help="Frames on the sheet.")] = 6,
    out: Annotated[Path | None, typer.Option(help="Folder for numbers and pictures; ./inspect_<its parent>_<its name> by default.")] = None,
    policy: Policy = "strict",
) -> None:
    """Reliable pixels by class and video, and the worst frames. Shares, accuracies where masks are, a histogram of the entropies."""
    from semivss.verbs import inspect_paths

    target = out or Path("_".join(("inspect", *folder.resolve().parts[-2:])))
    inspect_paths(
        folder,
        target,
        alpha=alpha,
        per_class=per_class,
        truth=truth,
        split=split,
        kind=kind,
        accept_edited=accept_edited,
        worst=worst,
        policy=policy,
    )


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted <video>/<stem>.png.")],
    truth: Annotated[Path, typer.Argument(help="Data set with masks.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    kind: Annotated[Kind, typer.Option(help="What the data set is.")] = "auto",
    vc_labels: Annotated[
        Literal["reduced", "raw"], typer.Option(help="VC convention: void merged with others, or labels as on disk.")
    ] = "reduced",
    missing: Annotated[Literal["error", "wrong"], typer.Option(help="A missing prediction is an error, or counts as wrong.")] = "error",
    flow: Annotated[Path | None, typer.Option(help="Folder of optical flow, <video>/<stem>.npz: adds TC.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the scores to this file.")] = None,
    policy: Policy = "strict",
) -> None:
    """mIoU, weighted IoU, VC8 and VC16 of predictions. Needs masks; pixel accuracy and the IoU of each class come along."""
    from semivss.settings import Score
    from semivss.verbs import score_paths

    score_paths(
        predictions, truth, Score(vc_labels=vc_labels), split=split, kind=kind, missing=missing, flow=flow, numbers=json, policy=policy
    )


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]) -> None:
    """Write RUN/report/index.html, one self-contained page."""
    from semivss.progress import say
    from semivss.report.html import write_report

    say(f"report: {write_report(run)}")


@app.command()
def submit(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted <video>/<stem>.png.")],
    frames: Annotated[Path, typer.Argument(help="Data set whose frames the challenge asks for.")],
    out: Annotated[Path, typer.Option(help="Zip file.")] = Path("submission.zip"),
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "test",
) -> None:
    """Write the challenge's zip of predictions, and check it."""
    from semivss.verbs import submit_paths

    submit_paths(predictions, frames, out, split=split)


@app.command()
def show(
    recipe: RecipePath,
    override: Overrides = None,
    cost: Annotated[bool, typer.Option("--cost", help="Instead: operations, memory by part and hours of each stage.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="With --cost: processes that train together, each on its device.")] = 1,
    device: Annotated[Literal["gpu", "cpu"], typer.Option(help="With --cost: what they run on.")] = "gpu",
    frame: Annotated[str, typer.Option(help="With --cost: HEIGHTxWIDTH of the frames to predict.")] = "480x853",
    tflops: Annotated[
        float | None,
        typer.Option(min=1e-6, help="With --cost: tera-operations a second that a device really does; by default those of a large GPU."),
    ] = None,
) -> None:
    """The resolved recipe, sizes, memory and views of each stage. Needs no data and makes no model."""
    from semivss.recipe import load_recipe

    resolved, size = load_recipe(recipe, override or []), size_of("--frame", frame)
    assert size is not None
    from semivss.cost.recipe_cost import Machine
    from semivss.summary import describe, describe_cost

    typer.echo(describe_cost(resolved, Machine(processes, device, size, tflops and tflops * 1e12)) if cost else describe(resolved))


def main() -> None:
    """Run the command line: one line and exit code 2 for what the user can mend, 130 for Ctrl-C."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks Linux for huge pages: fewer faults while large tensors come and go
    try:
        raise SystemExit(app(standalone_mode=False) or 0)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help text
            error.show()
            sys.exit(2)
        where = error.ctx.command_path if error.ctx else "semivss"
        told = " ".join(error.format_message().replace("Value error, ", "").split()).removesuffix(".")
        _fail(f"{told}; {where} --help lists what there is", 2)
    except DefectError as error:
        _fail(" ".join(error.told(_policy_option(sys.argv[1:])).split()), 2)
    except SemivssError as error:
        _fail(" ".join(str(error).split()), 2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer turns Ctrl-C into exit code 130
            raise
        _fail("interrupted; what is written stays: the same command goes on from there", 130)
    except BrokenPipeError:  # the reader of our output left, as `semivss show | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None and error.errno in FULL:  # of a library that does not say which file it was
            _fail(f"cannot write ({error.strerror}); what is written stays; free space and run the same command again", 2)
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; mend the path or its permissions", 2)


def _policy_option(words: list[str]) -> str | None:
    """How the verb of this command line takes a reading policy."""
    verb = next((word for word in words if word not in ("data", "pseudo")), "")
    if verb in ("run", "train", "demo"):
        return "-o data.policy={}"
    return "--policy {}" if verb in ("predict", "pseudo-label", "score", "check", "inspect") else None


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"semivss: {message}\n")
    sys.exit(code)
