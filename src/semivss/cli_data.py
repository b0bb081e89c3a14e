"""The verbs `semivss data ...`; as in `cli.py`, each imports its work only when it is called."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from semivss.cli_options import Kind, Policy, size_of
from semivss.errors import SemivssError

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at, import, remap, shrink and generate data sets.")


@data.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="Data set, dataset.toml or video.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    kind: Annotated[Kind, typer.Option(help="What the data set is.")] = "auto",
    policy: Policy = "strict",
    out: Annotated[Path | None, typer.Option(help="Preview picture; ./check_<name>.png by default.")] = None,
) -> None:
    """Read everything and show what was understood. Classes with pixel counts, a preview, every defect; exit code 2 on errors."""
    from semivss.data.check import run_check

    raise typer.Exit(run_check(path, split=split, kind=kind, policy=policy, out=out))


@data.command("remap")
def data_remap(
    source: Annotated[Path, typer.Argument(help="Folder of index PNGs.")],
    out: Annotated[Path, typer.Argument(help="Folder for the remapped PNGs.")],
    name: Annotated[str, typer.Option("--map", help="Shipped label map, such as ade20k150_to_vspw124.")],
    encoding: Annotated[Literal["ids", "vspw"], typer.Option(help="ids: 0..C-1 and 255; vspw: id + 1 and 0.")] = "ids",
    source_ids: Annotated[
        bool,
        typer.Option("--source-ids", help="The masks hold ids 0..C-1 and 255, as predictions do, not the values of the data set's files."),
    ] = False,
) -> None:
    """Turn a tree of masks into another label set, once and for all."""
    from semivss.data.remap import remap_tree

    remap_tree(source, out, name, encoding=encoding, source_ids=source_ids)


@data.command("toy")
def data_toy(
    out: Annotated[Path, typer.Argument(help="New folder in VSPW layout.")],
    clips: Annotated[int, typer.Option(min=1, help="Training clips; a quarter as many are written for val and for test.")] = 48,
    frames: Annotated[int, typer.Option(min=1, help="Frames a clip.")] = 24,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH.")] = "240x320",
    seed: Annotated[int, typer.Option(help="Same seed, same world.")] = 0,
    flow: Annotated[bool, typer.Option("--flow", help="Write the exact optical flow too.")] = False,
) -> None:
    """Generate a toy world with exact masks, as files."""
    from semivss.data.toy_files import write_toy

    shape = size_of("--size", size)
    assert shape is not None
    write_toy(out, clips=clips, frames=frames, size=shape, seed=seed, flow=flow)


@data.command("cache")
def data_cache(
    source: Annotated[Path, typer.Argument(help="Data set in VSPW layout, or with dataset.toml.")],
    out: Annotated[Path, typer.Argument(help="New folder for the copy.")],
    short_side: Annotated[int, typer.Option(min=16, help="Pixels of the shorter side; smaller frames are copied as they are.")] = 480,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs.")] = 95,
    policy: Policy = "strict",
) -> None:
    """Copy a data set with smaller frames and masks, to decode less in training. The same command goes on where it stopped."""
    from semivss.data.cache import cache_copies

    cache_copies(source, out, short_side, quality=quality, policy=policy)


@data.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="Folder of frames, CVAT 'Segmentation mask 1.1' zip, video, or folder of videos.")],
    out: Annotated[Path, typer.Argument(help="New data set folder.")],
    masks: Annotated[Path | None, typer.Option(help="Folder of masks of the frames or videos.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list: one name a line, 'name: r,g,b', or JSON id2label.")] = None,
    offset: Annotated[
        int | None,
        typer.Option(min=0, max=254, help="Mask value of the first class; what is smaller is ignored. By default as the masks say."),
    ] = None,
    frames: Annotated[Path | None, typer.Option(help="Folder of frames, for a CVAT zip that has none.")] = None,
    background_class: Annotated[bool, typer.Option("--background-class", help="CVAT: keep 'background' as a class of its own.")] = False,
    val: Annotated[list[str] | None, typer.Option(help="Video for the split val; can be given several times.", metavar="VIDEO")] = None,
    val_share: Annotated[float | None, typer.Option(help="Share of the labelled videos for the split val, such as 0.2.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing description.")] = False,
) -> None:
    """Make a data set of own frames, masks, videos or a CVAT zip, without code."""
    from semivss.data.holdout import Holdout
    from semivss.data.importer import import_any

    if val and val_share is not None:
        raise SemivssError("--val and --val-share: both say which videos are for validation; give one of them")
    import_any(
        source,
        out,
        masks=masks,
        classes=classes,
        offset=offset,
        frames=frames,
        background_class=background_class,
        holdout=Holdout(tuple(val or ()), val_share),
        force=force,
    )
