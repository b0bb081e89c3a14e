"""Numbers in, pictures as data URIs out: training curves, bars and the confusion picture."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 32  # rows and columns of the confusion picture that can still be read
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4b2",
    "axes.labelcolor": "#334155",
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, and drawn with the reader's own fonts
    "svg.hashsalt": "semivss",  # the same numbers give the same bytes
}
_COLORS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#64748b")
_Points = list[tuple[float, float]]  # step, value
_SCORES = {"val_miou": "mIoU", "val_weighted_iou": "weighted IoU", "val_acc": "accuracy", "val_acc_class": "class accuracy"}


def curves(rows: Sequence[Mapping[str, str]]) -> str | None:
    """Loss, validation scores, reliable pixels and learning rate over steps as one SVG data URI; None if no row holds a number.

    Rows are those of metrics.csv: `step`, then any columns; an empty cell was not measured.
    """
    groups = _groups({name: points for name in _columns(rows) if (points := _points(rows, name))})
    if not groups:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=((3.7 if len(groups) < 4 else 3.1) * len(groups), 2.9), layout="constrained")
        for axes, (title, group) in zip(np.atleast_1d(figure.subplots(1, len(groups))), groups, strict=True):
            _draw(axes, title, group)
        return _svg(figure)


def _groups(series: Mapping[str, _Points]) -> list[tuple[str, dict[str, _Points]]]:
    """Titles of the pictures, and what is drawn in each."""
    losses = {name: points for name, points in series.items() if name.startswith("loss")}
    if "loss" in losses and len(losses) == 2:  # a single term is the total
        losses = {"loss": losses["loss"]}
    scores = {name: points for name, points in series.items() if name.startswith("val_")}
    reliable = {name: points for name, points in series.items() if name == "reliable"}
    if reliable and "alpha" in series:  # percent of unreliable pixels that the schedule asks for; drawn below what came of it
        reliable = {"100 % - alpha": [(step, 1 - alpha / 100) for step, alpha in series["alpha"]]} | reliable
    rates = {name: points for name, points in series.items() if name == "lr"}
    titles = ("Training loss", "Validation, %", "Reliable pixels, %", "Learning rate")
    return [(title, group) for title, group in zip(titles, (losses, scores, reliable, rates), strict=True) if group]


def _columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name != "step"]


def _points(rows: Sequence[Mapping[str, str]], name: str) -> _Points:
    points = []
    for row in rows:
        try:
            point = float(row["step"]), float(row.get(name) or "nan")
        except (KeyError, ValueError):
            continue
        if np.isfinite(point).all():
            points.append(point)
    return points


def _draw(axes: "Axes", title: str, group: Mapping[str, _Points]) -> None:
    percent = title.endswith("%")
    for color, (name, points) in zip(_COLORS * (len(group) // len(_COLORS) + 1), group.items(), strict=False):
        steps, values = np.array(points).T
        label = _SCORES.get(name, name.removeprefix("val_").removeprefix("loss_").replace("_", " "))
        style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) < 30 else {}
        axes.plot(
            steps, 100 * values if percent else values, color=color, linewidth=1.4, label="total" if label == "loss" else label, **style
        )
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0, top=105 if "reliable" in group else None)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.7)
    if len(group) > 1:
        axes.legend(fontsize=8)


def bars(sets: Mapping[str, Sequence[tuple[str, float | None]]], baseline: str = "") -> str | None:
    """A picture of bars for each set: names with fractions, that of `baseline` as a line that the others are measured from.

    None without a number. An SVG data URI.
    """
    shown = {title: entries for title, entries in sets.items() if any(value is not None for _, value in entries)}
    if not shown:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        most = max(map(len, shown.values()))
        figure = Figure(figsize=(2.2 + 3.4 * len(shown), 0.75 + 0.3 * most), layout="constrained")
        for axes, (title, entries) in zip(np.atleast_1d(figure.subplots(1, len(shown), sharey=True)), shown.items(), strict=True):
            _bars(axes, title, entries, baseline)
        return _svg(figure)


def _bars(axes: "Axes", title: str, entries: Sequence[tuple[str, float | None]], baseline: str) -> None:
    values = [100 * (value or 0.0) for _, value in entries]
    base = dict(entries).get(baseline)
    colors = ["#94a3b8" if name == baseline else "#2563eb" for name, _ in entries]
    axes.barh(range(len(entries)), values, color=colors, height=0.62)
    for place, (_, value) in enumerate(entries):
        text = "-" if value is None else f"{100 * value:.1f}"
        halo = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # the line does not run through the digits
        axes.annotate(text, (values[place], place), (4, 0), textcoords="offset points", va="center", fontsize=8, color="#334155", bbox=halo)
    if base is not None:
        axes.axvline(100 * base, color="#64748b", linewidth=0.9, linestyle="--", zorder=2.5)
    axes.set_yticks(range(len(entries)), [name.replace("$", r"\$") for name, _ in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(*values, 1.0))
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{title}: mIoU, %")


def confusion_picture(counts: Int64[np.ndarray, "C1 C1"], names: Sequence[str]) -> str | None:
    """Share of each class's labelled pixels (rows) by predicted class (columns), the largest classes first, as an SVG data URI.

    counts: as `Confusion.counts`. None without labelled pixels.
    """
    matrix = counts[:-1, :-1].astype(float)
    truth = counts[:-1].sum(1)
    shown = [int(k) for k in np.argsort(-truth, kind="stable") if truth[k]][:MOST_CLASSES]
    if not shown:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    shares = 100 * matrix[np.ix_(shown, shown)] / truth[shown, None]
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        side = 2.2 + 0.34 * len(shown)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        labels = [names[k].replace("$", r"\$") for k in shown]  # matplotlib would read $...$ as a formula
        axes.set_xticks(range(len(shown)), labels, rotation=90)
        axes.set_yticks(range(len(shown)), labels)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")
        if len(shown) <= 16:
            _annotate(axes, shares)
        figure.colorbar(image, ax=axes, shrink=0.7, label="% of the truth's pixels").outline.set_visible(False)
        return _svg(figure)


def _annotate(axes: "Axes", shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white" if share > 55 else "#1e293b")


def _svg(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def data_uri(content: bytes, kind: str) -> str:
    """`content` as a URI that needs no file and no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
