"""Counts and frames of pseudo labels in; the picture of their entropies and a sheet of frames out, as PNG files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from semivss.atomic import atomic_file
from semivss.data.codes import BINS, HIGHEST, cuts_of
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.palette import colorize
from semivss.metrics.reliability import Reliability
from semivss.report.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = 128
_COLUMNS = 6  # of the legend
_FADED = 0.25  # brightness left to unreliable pixels
_FADED_ERROR = 0.5  # there, where nothing else is bright
_WRONG, _RIGHT, _UNKNOWN = (214, 39, 40), (214, 226, 214), (0, 0, 0)


@dataclass(frozen=True)
class Row:
    """One frame of the sheet."""

    title: str
    frame: UInt8[np.ndarray, "H W 3"] | None
    labels: UInt8[np.ndarray, "H W"]
    doubt: Float[np.ndarray, "H W"]  # sqrt(H / log C), 0..1
    reliable: Bool[np.ndarray, "H W"]
    truth: UInt8[np.ndarray, "H W"] | None


def write_histogram(path: Path, counts: Reliability, thresholds: Int64[np.ndarray, "C"]) -> None:
    """Pixels by sqrt(H / log C), the wrong ones apart where masks tell them, and the threshold; of several, lowest and highest."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        _bars(axes, counts)
        cuts = cuts_of(thresholds)
        for number, code in enumerate(sorted({*cuts[:1], *cuts[-1:]})):
            label = None if number else "threshold" if len(cuts) == 1 else "lowest and highest threshold of a class"
            axes.axvline(code / HIGHEST, color="#1e293b", linewidth=1.2, linestyle="--", label=label)
        axes.set_xlabel("entropy, as sqrt(H / log C)")
        axes.set_ylabel("% of the pixels")
        axes.set_yscale("log")
        axes.legend(fontsize=8)
        _save(figure, path, 150)


def _bars(axes: "Axes", counts: Reliability) -> None:
    edges = np.linspace(0, 1, _BARS + 1)

    def grouped(values: Int64[np.ndarray, "C 4096"]) -> np.ndarray:
        return values.sum(0).reshape(_BARS, BINS // _BARS).sum(1)

    total = max(int(counts.pixels.sum()), 1)
    axes.stairs(100 * grouped(counts.pixels) / total, edges, fill=True, color="#93c5fd", label="of all pixels")
    if counts.scored.any():
        scored = max(int(counts.scored.sum()), 1)
        axes.stairs(
            100 * grouped(counts.scored - counts.right) / scored,
            edges,
            fill=True,
            color="#dc2626",
            alpha=0.7,
            label="wrong, of the pixels with a mask",
        )
    axes.set_ylim(bottom=1e-3)


def write_sheet(path: Path, rows: Sequence[Row], label_set: LabelSet) -> None:
    """A line a frame: frame, label colours with unreliable pixels dark, entropy, and with a mask truth and errors."""
    from matplotlib.figure import Figure

    columns = ["frame"] * any(row.frame is not None for row in rows) + ["pseudo label (dark: unreliable)", "entropy"]
    columns += ["truth", "errors (dark: unreliable)"] * any(row.truth is not None for row in rows)
    height, width = rows[0].labels.shape
    classes = _shown_classes(rows, label_set)
    legend = 0.2 * math.ceil(len(classes) / _COLUMNS)
    figure = Figure(figsize=(3 * len(columns), 3 * len(rows) * height / width + 0.3 * len(rows) + legend), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for axes, column in zip(line, columns, strict=True):
            picture = _picture(row, column, label_set)
            axes.set_axis_off()
            if picture is not None:
                axes.imshow(picture, interpolation="nearest", **({"cmap": "magma", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}))
            axes.set_title(f"{row.title}  {column}".replace("$", r"\$") if column == columns[0] else column, fontsize=8, loc="left")
    _legend(figure, classes)
    _save(figure, path, 110)


def _shown_classes(rows: Sequence[Row], label_set: LabelSet) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes that the sheet shows."""
    shown = np.unique(np.concatenate([part.ravel() for row in rows for part in (row.labels, row.truth) if part is not None]))
    return [(label_set.names[index], label_set.colors[index]) for index in shown if index < len(label_set)]


def _legend(figure: "Figure", classes: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=[part / 255 for part in color], label=name.replace("$", r"\$")) for name, color in classes]
    figure.legend(handles=patches, loc="outside lower left", ncols=_COLUMNS, fontsize=8, frameon=False)


def _picture(row: Row, column: str, label_set: LabelSet) -> np.ndarray | None:
    match column.split()[0]:
        case "frame":
            return row.frame
        case "pseudo":
            return faded(colorize(row.labels, label_set.colors), row.reliable)
        case "entropy":
            return row.doubt
        case "truth":
            return None if row.truth is None else colorize(row.truth, label_set.colors)
        case _:
            return None if row.truth is None else faded(_errors(row.labels, row.truth), row.reliable, _FADED_ERROR)


def _errors(labels: UInt8[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    picture = np.where((labels == truth)[..., None], np.array(_RIGHT, np.uint8), np.array(_WRONG, np.uint8))
    picture[(truth == IGNORE) | (labels == IGNORE)] = _UNKNOWN
    return picture


def faded(picture: UInt8[np.ndarray, "H W 3"], reliable: Bool[np.ndarray, "H W"], left: float = _FADED) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with `left` of its brightness where pixels are unreliable."""
    return np.where(reliable[..., None], picture, (picture * left).astype(np.uint8))


def _save(figure: Any, path: Path, dpi: int) -> None:
    with atomic_file(path, sync=False) as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
