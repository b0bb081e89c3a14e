"""Rows of the ablation in, its markdown tables and its plot out: means and spreads over runs, intervals over resampled test clips."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Pair = tuple[Row, Row]  # a run, and the control of the same subset and seed

COLUMNS = {
    "one view": "single",
    "scales + flip": "tta",
    "with teacher": "ensemble_tta",
    "teacher alone": "teacher_tta",
    "val, one view": "val_single",
    "val, scales + flip": "val_tta",
    "VC8 on val": "val_single_vc8",
}


def print_table(rows: Sequence[Row], modes: Sequence[str], controls: Sequence[str]) -> None:
    """Markdown: mean and spread over runs, difference to the controls with its interval. Columns that no row fills are left out."""
    columns = {title: key for title, key in COLUMNS.items() if any(row.get(key) is not None for row in rows)}
    against = [control for control in controls if any(row["mode"] == control for row in rows)]
    heads = ["mode", "runs", "CPU seconds", *columns]
    for number, control in enumerate(against):
        heads += [f"minus {control}", "95 % interval"] + ([] if number else ["better in"])
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for mode in modes:
        own = [row for row in rows if row["mode"] == mode]
        if not own:
            print(f"| {mode} | not run {'| ' * (len(heads) - 2)}|")
            continue
        values = [spread([row[key] for row in own if row.get(key) is not None], of=len(own)) for key in columns.values()]
        for number, control in enumerate(against):
            pairs = pairs_of(rows, mode, control)
            values += [spread(differences(pairs), sign=True), interval_text(pairs)]
            if not number:
                values.append(f"{sum(value > 0 for value in differences(pairs))} of {len(pairs)}" if pairs else "")
        print(f"| {mode} | {len(own)} | {np.mean([row['cpu_seconds'] for row in own]):.0f} | {' | '.join(values)} |")


def print_apart(rows: Sequence[Row], subsets: Sequence[str], modes: Sequence[str], control: str) -> None:
    """Markdown: every subset's modes under each other, each test video by itself."""
    videos = sorted({name for row in rows for name in row["clips"]})
    heads = ["labelled", "mode", "CPU seconds", "test", *videos, "val", "VC8 on val", f"test minus {control}"]
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for subset in subsets:
        own = [row for row in rows if row["subset"] == subset]
        for mode in modes:
            found = [row for row in own if row["mode"] == mode]
            if not found:
                print(f"| {subset} | {mode} | not run {'| ' * (len(heads) - 3)}|")
                continue
            numbers = [
                spread([row["single"] for row in found]),
                *(spread([miou(row["clips"][video]) for row in found]) for video in videos),
            ]
            numbers += [spread([row[key] for row in found]) for key in ("val_single", "val_single_vc8")]
            cost = f"{np.mean([row['cpu_seconds'] for row in found]):.0f}"
            gain = spread(differences(pairs_of(own, mode, control)), sign=True)
            print(f"| {subset} | {mode} | {cost} | {' | '.join(numbers)} | {gain} |")


def print_views(rows: Sequence[Row], modes: Sequence[str]) -> None:
    """What scales and flip, and the ensemble with the teacher, add in every run that was scored with them."""
    full = [row for row in rows if row.get("ensemble_tta") is not None]
    if not full:
        return
    print("\n| mode | runs | scales + flip, gain | better in | ensemble minus its better member | better in |")
    print("| --- " * 6 + "|")
    for mode in modes:
        own = [row for row in full if row["mode"] == mode]
        if own:
            views = [row["tta"] - row["single"] for row in own]
            members = [row["ensemble_tta"] - max(row["tta"], row["teacher_tta"]) for row in own]
            cells = [part for gains in (views, members) for part in (spread(gains, sign=True), f"{sum(gain > 0 for gain in gains)}")]
            print(f"| {mode} | {len(own)} | {' | '.join(cells)} |")


def print_contrast(rows: Sequence[Row], modes: Sequence[str], without: str) -> None:
    """What L_c adds: each mode minus the same one without it, `without` after its name."""
    pairs = {mode: found for mode in modes if (found := pairs_of(rows, mode, mode + without))}
    if pairs:
        print("\n| mode | runs | with L_c minus without | 95 % interval | better in | CPU time, ratio |")
        print("| --- " * 6 + "|")
    for mode, own in pairs.items():
        gains = differences(own)
        cost = np.mean([row["cpu_seconds"] / other["cpu_seconds"] for row, other in own])
        better = f"{sum(gain > 0 for gain in gains)} of {len(own)}"
        print(f"| {mode} | {len(own)} | {spread(gains, sign=True, digits=2)} | {interval_text(own, 2)} | {better} | {cost:.2f} |")


def print_closed(rows: Sequence[Row], modes: Sequence[str], control: str, everything: str) -> None:
    """How much of the gap between the control and all labels each mode closes, in the mean of its runs."""
    found = {mode: pairs_of(rows, mode, control) for mode in modes}
    gaps = {(row["subset"], row["seed"]): row["single"] - other["single"] for row, other in found.get(everything, [])}
    if gaps:
        print("\n| mode | runs | of the gap to all labels closed |\n| --- | --- | --- |")
    for mode, pairs in found.items():
        own = [(row["single"] - other["single"], gaps[at]) for row, other in pairs if (at := (row["subset"], row["seed"])) in gaps]
        if own and mode != everything:
            gain, gap = np.mean(own, 0)
            print(f"| {mode} | {len(own)} | {100 * gain / gap:.0f} % |")


def print_videos(rows: Sequence[Row], modes: Sequence[str], control: str) -> None:
    """Each test video by itself, where there are too few of them to resample."""
    videos = sorted({name for row in rows for name in row["clips"]})
    if not videos or len(videos) > 2:
        return
    print(f"\n| mode | {' | '.join(f'{video} | minus control' for video in videos)} |")
    print("| --- " * (1 + 2 * len(videos)) + "|")
    for mode in modes:
        own = [row for row in rows if row["mode"] == mode]
        if own:
            cells = [spread([miou(row["clips"][video]) for row in own]) for video in videos]
            pairs = pairs_of(rows, mode, control)
            more = [spread([miou(a["clips"][video]) - miou(b["clips"][video]) for a, b in pairs], sign=True) for video in videos]
            print(f"| {mode} | {' | '.join(part for both in zip(cells, more, strict=True) for part in both)} |")


def pairs_of(rows: Sequence[Row], mode: str, control: str) -> list[Pair]:
    """The rows of a mode, each with the control of the same subset and seed; none for the control itself."""
    controls = {(row["subset"], row["seed"]): row for row in rows if row["mode"] == control}
    own = [row for row in rows if row["mode"] == mode and mode != control]
    return [(row, controls[at]) for row in own if (at := (row["subset"], row["seed"])) in controls]


def differences(pairs: Sequence[Pair]) -> list[float]:
    """Of the mIoU in one view, in points."""
    return [row["single"] - other["single"] for row, other in pairs]


def plot(rows: Sequence[Row], modes: Sequence[str], control: str, path: Path) -> None:
    """Each run's difference to its control as a dot, the mean as a line, its interval as a bar."""
    from matplotlib.figure import Figure

    shown = [mode for mode in modes if pairs_of(rows, mode, control)]
    figure = Figure(figsize=(7, 0.55 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.use_sticky_edges = False  # bars would end at the frame
    axes.axvline(0, color="#64748b", linewidth=1)
    legend = "dot: a run, line: their mean"
    for place, mode in enumerate(shown):
        pairs = pairs_of(rows, mode, control)
        mean, interval = np.mean(differences(pairs)), clip_interval(pairs)
        if interval is not None:
            axes.barh(place, interval[1] - interval[0], 0.5, left=interval[0], color="#bfdbfe")
            legend = "dot: a run, line: their mean, bar: 95 % over test clips"
        axes.plot([mean, mean], [place - 0.25, place + 0.25], color="#1d4ed8", linewidth=2)
        axes.plot(differences(pairs), [place] * len(pairs), "o", color="#0f172a", markersize=4)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.set_xlabel(f"mIoU on the test clips, one view, minus {control} (points)\n{legend}")
    figure.savefig(path, dpi=150)


def spread(values: Sequence[float], sign: bool = False, of: int = 0, digits: int = 1) -> str:
    """Mean and standard deviation over runs; how many these are, if they should be more."""
    if not values:
        return ""
    mean = f"{np.mean(values):{'+' if sign else ''}.{digits}f}"
    return (
        mean + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "") + (f" (of {len(values)})" if len(values) < of else "")
    )


def interval_text(pairs: Sequence[Pair], digits: int = 1) -> str:
    """The interval for a table; empty where there is none."""
    interval = clip_interval(pairs)
    return "" if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def clip_interval(pairs: Sequence[Pair], draws: int = 2000) -> tuple[float, float] | None:
    """95 % interval of the mean difference in one view over resampled test clips, the same for all runs; none for fewer than 3 clips."""
    stacks = [tuple(np.array(list(row["clips"].values())) for row in pair) for pair in pairs]
    if not stacks or len(stacks[0][0]) < 3:
        return None
    number = len(stacks[0][0])
    chosen = np.random.default_rng(0).integers(number, size=(draws, number))
    drawn = [np.mean([miou(a[pick].sum(0)) - miou(b[pick].sum(0)) for a, b in stacks]) for pick in chosen]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def miou(pixels: Any) -> float:
    """In percent, from the correct, true and predicted pixels of each class (3 x C); over the classes that truth shows."""
    correct, truth, predicted = np.asarray(pixels)
    there = truth > 0
    return float(100 * np.mean((correct / np.maximum(truth + predicted - correct, 1))[there])) if there.any() else 0.0
