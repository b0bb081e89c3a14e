"""Options that several verbs of the command line have, and what their texts mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semivss.errors import SemivssError

if TYPE_CHECKING:
    from semivss.settings import Views

RecipePath = Annotated[Path, typer.Argument(help="TOML recipe.", metavar="RECIPE")]
Overrides = Annotated[list[str] | None, typer.Option("-o", "--override", help="Change a setting: -o train.steps=100.", metavar="KEY=VALUE")]
ModelOverrides = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="Change a setting of the model: -o trunk.points=4.", metavar="KEY=VALUE")
]
Again = Annotated[bool, typer.Option("--again", help="Redo finished stages whose settings changed.")]
Policy = Annotated[
    Literal["strict", "skip", "ignore"], typer.Option(help="Damaged files: stop, leave the frame out, or use what is sound.")
]
StageName = Literal["teacher", "student", "pseudo-label", "retrain", "predict", "score", "report"]
Precision = Annotated[
    Literal["auto", "32", "bf16"], typer.Option(help="Of the models' forward pass; auto is bf16 on GPUs and on CPUs with AMX, else 32.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of an operator on the CPU; by default OMP_NUM_THREADS, or this process's share of the cores."),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the models: minutes for each size of window, remembered for later calls.")
]
ModelsAndInputs = Annotated[
    list[Path],
    typer.Argument(
        help="One or more model folders or exported files, then the input: videos, frame folders or a data set.",
        metavar="MODEL... INPUT...",
    ),
]
Preset = Annotated[str | None, typer.Option(help="Backbone with the sizes that no file tells: vit_adapter_l, one_peace_l, timm/NAME, ...")]
SizesFile = Annotated[Path | None, typer.Option("--config", help="JSON, TOML or mmseg Python file of sizes instead; it is never run.")]
Weights = Annotated[str | None, typer.Option(help="Weight of each model, such as 2,1; equal by default.")]
AnySplit = Annotated[str | None, typer.Option(help="Split of a data set in VSPW layout, such as test; by default every video.")]
ViewsPreset = Annotated[
    str | None, typer.Option("--views", help="Instead of the options below: single, fast, released (3 scales) or paper (8 scales).")
]
Whole = Annotated[bool, typer.Option("--whole", help="With --views or --budget: whole images instead of windows.")]
Budget = Annotated[str | None, typer.Option(help="Time such as 2h or 45m: take the largest preset that fits, up to the one of --views.")]
Scales = Annotated[str, typer.Option(help="Test-time scales, such as 0.75,1,1.25.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the flipped view.")]
Crop = Annotated[str | None, typer.Option(help="Sliding window HEIGHTxWIDTH.")]
Stride = Annotated[str | None, typer.Option(help="Step of the sliding window HEIGHTxWIDTH.")]
Base = Annotated[str | None, typer.Option(help="Resize frames to HEIGHTxWIDTH before the scales.")]
ShortSide = Annotated[int | None, typer.Option(help="Instead of --base: resize frames until their shorter side has so many pixels.")]
Sampling = Annotated[Literal["exact", "direct"], typer.Option(help="Views at the frame's pixels: exactly, or in one step (faster).")]
Memory = Annotated[str | None, typer.Option(help="Limit on the memory of the process, such as 4GB.")]
Kind = Literal["auto", "vspw", "ade20k", "coco_stuff", "coco_panoptic", "cityscapes", "folder"]


def views_of(
    verb: str,
    words: list[Path],
    preset: str | None,
    whole: bool,
    within: bool,
    scales: str,
    flip: bool,
    crop: str | None,
    stride: str | None,
    base: str | None,
    short_side: int | None,
    sampling: str,
) -> "Views":
    """The views that the options of `predict` and `pseudo-label` describe; and a first look at their words.

    `within` a budget they are found later, and these are the smallest ones.
    """
    from semivss.presets import preset_views
    from semivss.recipe import checked
    from semivss.settings import Views

    if len(words) < 2:
        raise SemivssError(f"{verb}: needs at least one model folder and one input; write semivss {verb} MODEL... INPUT")
    given = {"--scales": scales != "1", "--flip": flip, "--crop": crop, "--stride": stride, "--base": base, "--short-side": short_side}
    if (preset is not None or within) and (own := [option for option, value in given.items() if value]):
        named = "--views" if preset is not None else "--budget"
        raise SemivssError(f"{named} and {', '.join(own)}: presets bring sizes of their own; leave {named} or {', '.join(own)} out")
    if whole and preset is None and not within:
        raise SemivssError("--whole: goes with --views or --budget; views are whole images anyhow where there is no --crop")
    if preset is not None or within:
        return preset_views("single" if within or preset is None else preset, whole=whole).model_copy(update={"sampling": sampling})
    sizes = {"crop": size_of("--crop", crop), "stride": size_of("--stride", stride), "base": size_of("--base", base)}
    return checked(Views, verb, scales=numbers_of("--scales", scales), flip=flip, short_side=short_side, sampling=sampling, **sizes)


def size_of(option: str, text: str | None) -> tuple[int, int] | None:
    """Height and width of a text such as 240x320, none of none. Raises SemivssError for what is no size."""
    if text is None:
        return None
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise SemivssError(f"{option} {text}: not a size; write HEIGHTxWIDTH such as 240x320")
    return int(height), int(width)


def numbers_of(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them. Raises SemivssError for what are none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SemivssError(f"{option} {text}: not numbers; write them with commas such as 0.75,1,1.25") from None
