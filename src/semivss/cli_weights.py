"""The verbs `semivss weights ...`; as in `cli.py`, each imports its work only when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from semivss.cli_options import ModelOverrides, Preset, SizesFile

weights = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at weight files of others and convert them.")


@weights.command("inspect")
def weights_inspect(
    path: Annotated[Path, typer.Argument(help="Weight file or folder.", metavar="FILE")],
    preset: Preset = None,
    config: SizesFile = None,
    override: ModelOverrides = None,
) -> None:
    """Family, sizes, classes, what is missing, unused or to be given. Loads nothing, runs nothing."""
    from semivss.models.weights.inspect import inspect

    typer.echo(inspect(path, preset=preset, config=config, overrides=override or []))


@weights.command("convert")
def weights_convert(
    path: Annotated[Path, typer.Argument(help="Weight file or folder.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Model folder; models/<name of the file> by default.")] = None,
    preset: Preset = None,
    config: SizesFile = None,
    override: ModelOverrides = None,
    classes: Annotated[str | None, typer.Option(help="Classes of the model: vspw124, ..., or a class list; by default the file's.")] = None,
    source_classes: Annotated[str | None, typer.Option("--source-classes", help="Classes of a file that does not name them.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
) -> None:
    """Turn a checkpoint or model of others into a model folder. Takes pre-training files, and transformers, timm and torchvision models."""
    from semivss.models.weights.convert import convert

    convert(
        path,
        out or Path("models") / path.resolve().stem,
        preset=preset,
        config=config,
        overrides=override or [],
        classes=classes,
        source_classes=source_classes,
        force=force,
    )
