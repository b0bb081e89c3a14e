"""What does each part of the method bring? A table of runs, resumable: one JSON row a run, finished rows are kept.

    python benchmarks/ablation.py toy --results toy.jsonl            do what is missing, two runs side by side
    python benchmarks/ablation.py toy --results toy.jsonl --table    print the table; what was not run says so
    python benchmarks/ablation.py toy --results toy.jsonl --plot toy.png     the differences to the control, with their intervals
    python benchmarks/ablation.py --quick                            a few steps of two cells: shows that the script works

Every cell is scored on the test clips with one view and with the recipe's views, alone and with the teacher, CamVid's also on the
validation video, most of them in one view and alone: the rest would cost as much as training. Rows keep the confusion matrix of
every clip, so that the table can give the interval of a difference to the control over resampled clips.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from semivss.atomic import atomic_bytes

WRITING = Lock()
RECIPES = Path(__file__).parents[1] / "recipes"
STUDENT = "labelled only"
CONTROL = "control, equal steps"
EQUAL_CPU = "control, equal CPU"  # as many more steps as "online", the dearest mode, takes CPU time
LIKELIHOOD = "online, -log p"  # the cross-entropy of equations 4 and 5 beside the losses of masks
SUREST = 'semi.threshold={alpha=50, schedule="constant", per_class=true}'  # the surer half of every pseudo class, to the end
CORE: dict[str, list[str]] = {
    STUDENT: [],
    CONTROL: ["semi.mode=supervised"],
    "online": ["semi.mode=online"],
    EQUAL_CPU: ["semi.mode=supervised"],
    "online, no L_c": ["semi.mode=online", "semi.contrast.weight=0"],
    "offline": ["semi.mode=offline"],
    "offline, no L_c": ["semi.mode=offline", "semi.contrast.weight=0"],
    "offline, by class": ["semi.mode=offline", SUREST],
    "offline, by class, aligned": ["semi.mode=offline", SUREST, "pseudo.align=1"],
    "all labels": [],
}
FURTHER = {
    LIKELIHOOD: ["semi.mode=online", "semi.likelihood=1"],
    "online, two strong views": ["semi.mode=online", "semi.contrast.weight=0", "semi.strong.views=2"],
    "online, earlier teachers": ["semi.mode=online", "semi.contrast.weight=0", "semi.previous=3", "semi.previous_every=50"],
    "offline, 2 rounds": ["semi.mode=offline", "semi.contrast.weight=0", "semi.rounds=2"],
}
# What could make L_c matter: ten and a hundred times its weight, then one thing at a time at ten times.
CONTRAST = {
    f"online, {name}": ["semi.mode=online", "semi.contrast.weight=1", *more]
    for name, more in {
        "L_c x 10": [],
        "L_c x 100": ["semi.contrast.weight=10"],
        "L_c x 10, tau 0.1": ["semi.contrast.temperature=0.1"],
        "L_c x 10, 1024 anchors, 200 negatives": ["semi.contrast.anchors=1024", "semi.contrast.negatives=200"],
        "L_c x 10, ranks 1 to 6": [  # classes that a pixel is more easily taken for
            "semi.contrast.low_rank=1",
            "semi.contrast.high_rank=6",
        ],
        "L_c x 10, bank of one step": ["semi.contrast.bank=256"],
        "L_c x 10, bank of 16 steps": ["semi.contrast.bank=4096"],
        "L_c x 10, stride 4": ["semi.contrast.stride=4"],
        "L_c x 10, alpha 60": ['semi.threshold={alpha=60, schedule="constant"}'],  # three times the unsure pixels, to the end
    }.items()
}
MODES = CORE | FURTHER | CONTRAST
QUICK = [
    'data.absent_classes="allow"',
    "train.steps=2",
    "train.batch=2",
    "train.warmup=0",
    "semi.train.steps=2",
    "semi.train.batch=2",
    "semi.unlabelled_batch=2",
    "data.augment.crop=[32, 64]",
    "data.unlabelled.0.toy={clips=1, frames=2, size=[60, 80]}",
    "data.train.0.toy={clips=1, frames=2, size=[60, 80]}",
    "data.test.0.toy={clips=1, frames=2, size=[60, 80], first_clip=2000}",
]


COLUMNS = {
    "one view": "single",
    "scales + flip": "tta",
    "with teacher": "ensemble_tta",
    "teacher alone": "teacher_tta",
    "val, one view": "val_single",
    "val, scales + flip": "val_tta",
    "VC8 on val": "val_single_vc8",
}


@dataclass(frozen=True)
class Subset:
    """What is labelled and what is not, as overrides; and further ones that label everything."""

    few: list[str]
    everything: list[str]


@dataclass(frozen=True)
class Group:
    """Runs that share a recipe and its overrides."""

    recipe: Path
    subsets: dict[str, Subset]
    fixed: tuple[str, ...] = ()
    modes: tuple[str, ...] = tuple(CORE)
    seeds: tuple[int, ...] = (0, 1, 2)
    validation: bool = False  # score the validation video too
    # modes that are scored with scales, flip and teacher too, on the first subset under the first seed; None = every cell
    in_full: tuple[str, ...] | None = None
    shares: str = ""  # group whose supervised models and pseudo labels serve this one too; none = its own


def toy_subset(first: int) -> Subset:
    """4 labelled clips from `first` on, and the 44 after them."""
    unlabelled = f"data.unlabelled.0.toy={{clips=44, first_clip={first + 4}}}"
    few, everything = (f"data.train.0.toy={{clips={clips}, first_clip={first}}}" for clips in (4, 48))
    return Subset([few, unlabelled], [everything])


def camvid_subset(name: str) -> Subset:
    """The lists `semi/<name>_labeled.txt` and `semi/<name>_unlabeled.txt`."""
    few = [f"data.train.0.labelled=semi/{name}_labeled.txt", f"data.unlabelled.0.split=semi/{name}_unlabeled.txt"]
    return Subset(few, ["data.train.0.split=train", "data.train.0.labelled="])


def cropped(subset: Subset, crop: str) -> Subset:
    """The same with crops of another size."""
    return Subset(*([*part, f"data.augment.crop={crop}"] for part in (subset.few, subset.everything)))


CAMVID = RECIPES / "camvid" / "semi_1_32.toml"
MASKS = RECIPES / "camvid" / "semi_mask2former_1_8.toml"
SINGLE = (STUDENT, CONTROL, "online", "offline")
CROPS = {"96x128": "[96, 128]", "288x384": "[288, 384]"}  # beside the recipe's 192x256
TRIES = (
    "data.test.0.toy={clips=24, frames=8, first_clip=3000}",
    "semi.train.steps=400",
    "semi.train.ema=0.99",
)  # on clips of no other table
LAST = ("train.evaluate_every=100000", "semi.train.evaluate_every=100000")  # no choice by the validation clips
TOY = Group(
    RECIPES / "toy.toml",
    {f"clips {first}-{first + 3}": toy_subset(first) for first in (0, 4)},
    (
        "data.test.0.toy={clips=24, frames=8, first_clip=2000}",
        "train.steps=800",
        "semi.train.steps=800",
        "semi.train.ema=0.995",
        "semi.contrast.share=1",
        "semi.contrast.anchors=256",
        "semi.threshold={alpha=20}",
        "pseudo.align=0",
        *LAST,
    ),
)
BEYOND = ("online, two strong views", "online, earlier teachers", "offline, no L_c", "offline, 2 rounds")
GROUPS = {
    "toy": TOY,
    "toy_contrast": replace(
        TOY,
        fixed=(*TOY.fixed, *TRIES),
        modes=(CONTROL, "online", "online, no L_c", *CONTRAST),
        in_full=(),
        shares="toy",
    ),
    "toy_beyond": replace(TOY, fixed=(*TOY.fixed, *TRIES), modes=(CONTROL, "online, no L_c", *BEYOND), in_full=(), shares="toy"),
    "camvid": Group(
        CAMVID,
        {f"clips_1_32 seed {n}": camvid_subset(f"clips_1_32_seed{n}") for n in range(3)},
        modes=tuple(mode for mode in CORE if mode not in (EQUAL_CPU, "offline, by class")),
        seeds=(0,),
        validation=True,
        in_full=(CONTROL, "online", "offline"),
    ),
    "camvid_fractions": Group(
        CAMVID,
        {
            f"{name} seed 0": camvid_subset(f"{name}_seed0")
            for name in ("clips_1_16", "clips_1_8", "clips_1_4", "frames_1_32", "frames_1_8")
        },
        modes=SINGLE,
        seeds=(0,),
        validation=True,
        in_full=(),
    ),
    "camvid_crops": Group(
        CAMVID,
        {f"crop {name}": cropped(camvid_subset("clips_1_32_seed0"), crop) for name, crop in CROPS.items()},
        modes=(STUDENT, CONTROL, "online"),
        seeds=(0,),
        validation=True,
        in_full=(),
    ),
    "camvid_mask2former": Group(
        MASKS,
        {"clips_1_8 seed 0": camvid_subset("clips_1_8_seed0")},
        modes=(*SINGLE, LIKELIHOOD),
        seeds=(0, 1),
        validation=True,
        in_full=(CONTROL, "online", "offline"),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    group: str
    subset: str
    mode: str
    seed: int

    @property
    def name(self) -> str:
        """Folder name."""
        return "_".join(part.replace(" ", "-").replace(",", "") for part in (self.group, self.subset, self.mode, f"seed{self.seed}"))

    def key(self) -> dict[str, Any]:
        """What finds its row."""
        return {"group": self.group, "subset": self.subset, "mode": self.mode, "seed": self.seed}


def main() -> None:
    """Parse, then run what is missing or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", choices=GROUPS, default="toy")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="all of the group by default")
    parser.add_argument("--subsets", nargs="+", type=int, default=None, help="numbers of the labelled subsets; all by default")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None, help="all of the group by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with one thread")
    parser.add_argument("-o", "--override", action="append", default=[], help="as semivss run -o, for every cell; named in the rows")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.subsets, options.modes, options.jobs = [0], [0], [STUDENT, "offline"], 1
        options.override, options.runs = [*QUICK, *options.override], options.runs / "quick"
        shutil.rmtree(options.runs, ignore_errors=True)
    group = GROUPS[options.group]
    options.seeds, options.modes = options.seeds or group.seeds, options.modes or group.modes
    subsets = [name for number, name in enumerate(group.subsets) if options.subsets is None or number in options.subsets]
    results = options.results or options.runs / "results.jsonl"
    if options.table or options.plot:
        every = [row for row in rows(results) if row["group"] == options.group and row["overrides"] == options.override]
        done = list({(row["subset"], row["mode"], row["seed"]): row for row in every}.values())  # the newest of each cell
        if options.table:
            print_table(done, group.modes)
        if options.plot:
            plot(done, group.modes, options.plot)
        return
    chains = [(options.group, subset, seed) for seed in options.seeds for subset in subsets]
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in pool.map(lambda chain: run_chain(*chain, options, results), chains):
            assert done is None


def run_chain(group: str, subset: str, seed: int, options: argparse.Namespace, results: Path) -> None:
    """All modes on one labelled subset under one seed: they share the supervised models and the pseudo labels."""
    for mode in options.modes:
        cell = Cell(group, subset, mode, seed)
        out = options.runs / cell.name
        base = options.runs / Cell(GROUPS[group].shares or group, subset, "base", seed).name
        overrides = overrides_of(cell, options, results)
        settings = fingerprint(resolved(GROUPS[group].recipe, overrides))
        if any(row["settings"] == settings for row in matching(rows(results), cell, options.override)):
            continue
        if mode != "all labels":
            semivss(base, GROUPS[group].recipe, [*base_overrides(cell, options), "semi.mode=offline"], "pseudo-label")
            adopt(base, out, labels=not any(override.startswith("pseudo.") for override in MODES[mode]))
        semivss(out, GROUPS[group].recipe, overrides, "student" if mode in (STUDENT, "all labels") else "retrain")
        row = cell.key() | {"overrides": options.override, "settings": settings}
        emit(row | measured(out, cell), results)


def base_overrides(cell: Cell, options: argparse.Namespace) -> list[str]:
    """Subset and seed."""
    group = GROUPS[cell.group]
    return [*group.fixed, *group.subsets[cell.subset].few, f"train.seed={cell.seed}", *options.override]


def overrides_of(cell: Cell, options: argparse.Namespace, results: Path) -> list[str]:
    """Settings of one cell. Raises SystemExit when it depends on a cell that was not run."""
    base = base_overrides(cell, options)
    if cell.mode == "all labels":
        recipe = resolved(GROUPS[cell.group].recipe, base)
        return [*base, *GROUPS[cell.group].subsets[cell.subset].everything, f"train.steps={recipe.train.steps + recipe.semi.train.steps}"]
    if cell.mode == EQUAL_CPU:
        done = rows(results)
        slow, fast = (matching(done, Cell(cell.group, cell.subset, mode, cell.seed), options.override) for mode in ("online", CONTROL))
        if not (slow and fast):
            sys.exit(f"{cell.name}: needs the cells online and {CONTROL} first; name them before it in --modes")
        steps = resolved(GROUPS[cell.group].recipe, base).semi.train.steps
        return [*base, *MODES[cell.mode], f"semi.train.steps={round(steps * slow[-1]['cpu_seconds'] / fast[-1]['cpu_seconds'])}"]
    return [*base, *MODES[cell.mode]]


def resolved(recipe: Path, overrides: list[str]) -> Any:
    """The recipe with its overrides."""
    from semivss.recipe import load_recipe

    return load_recipe(recipe, overrides)


def fingerprint(recipe: Any) -> str:
    """Short hash of what a recipe sets: a key that comes later, at its default, changes nothing."""
    return hashlib.sha256(json.dumps(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=True).encode()).hexdigest()[:12]


def semivss(out: Path, recipe: Path, overrides: list[str], until: str) -> None:
    """Run the stages in a process of its own; what is finished is skipped."""
    words = [word for override in overrides for word in ("-o", override)]
    command = [sys.executable, "-m", "semivss", "run", str(recipe), "--out", str(out), "--until", until, *words]
    done = subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(done.returncode)


def adopt(base: Path, out: Path, labels: bool) -> None:
    """Take over the supervised models, and pseudo labels where these are the cell's own too, as hard links: they are only read."""
    for name in ("teacher", "student", *(["pseudo"] if labels else [])):
        if (base / name).is_dir() and not (out / name).exists():
            half = out / f".{name}"
            shutil.rmtree(half, ignore_errors=True)  # of a call that was killed
            shutil.copytree(base / name, half, copy_function=os.link)
            half.rename(out / name)


def measured(out: Path, cell: Cell) -> dict[str, Any]:
    """Scores of the cell's model in one view, in full also with the recipe's views and with the teacher; and its cost."""
    import torch

    from semivss.data.source import open_source
    from semivss.infer.views import View, views_from
    from semivss.layout import final_models
    from semivss.models.segmenter import Segmenter
    from semivss.recipe import load_recipe

    torch.set_num_threads(1)  # as the runs have it
    recipe, in_full = load_recipe(out / "recipe.toml"), is_scored_in_full(cell)
    folder = out / ("student" if cell.mode in (STUDENT, "all labels") else final_models(recipe)[-1])
    models = [Segmenter.from_pretrained(folder / "model")]
    if in_full and (out / "teacher").is_dir():
        models.append(Segmenter.from_pretrained(out / "teacher" / "model"))
    views = {"single": (View(base=recipe.predict.views.base),)} | ({"tta": views_from(recipe.predict.views)} if in_full else {})
    row: dict[str, Any] = {"recipe": recipe.digest(), "cpu_seconds": cpu_seconds(folder / "metrics.csv")}
    for kind, chosen in views.items():
        row |= evaluated(models, open_source(recipe.data.test[0], "strict").clips, chosen, kind)
        if GROUPS[cell.group].validation and recipe.data.val is not None:
            row |= evaluated(models[:1], open_source(recipe.data.val, "strict").clips, chosen, f"val_{kind}")
    return row


def is_scored_in_full(cell: Cell) -> bool:
    """Whether scales, flip and teacher are scored too."""
    group = GROUPS[cell.group]
    first = cell.subset == next(iter(group.subsets)) and cell.seed == group.seeds[0]
    return group.in_full is None or (first and cell.mode in group.in_full)


def cpu_seconds(journal: Path) -> float:
    """CPU time of the last training, of all its starts: the supervised models and labelling before it, which modes share, are left out."""
    header, *_, last = journal.read_text().splitlines()
    return float(last.split(",")[header.split(",").index("cpu_seconds")])


def evaluated(models: list[Any], clips: Any, views: Any, name: str) -> dict[str, Any]:
    """Scores of the first model, and of the second (the teacher) and of both together: each looks at every frame once."""
    from semivss.infer.stream import stream_distribution

    tallies = {role: Tally(len(models[0].label_set)) for role in ("", "teacher_", "ensemble_")[: 1 if len(models) == 1 else 3]}
    for clip in clips:
        for tally in tallies.values():
            tally.begin(clip.name)
        streams = [stream_distribution([model], None, (frame for _, frame in clip.stream()), views) for model in models]
        for index, answers in enumerate(zip(*streams, strict=True)):
            if clip.is_labelled(index):
                truth = clip.labels(index)
                for tally, p in zip(tallies.values(), (*answers, sum(answers)), strict=False):  # the sum has the arg max of the mean
                    tally.update(truth, p.argmax(0).byte().numpy())
    return {f"{role}{name}{key}": value for role, tally in tallies.items() for key, value in tally.row().items()}


class Tally:
    """Counts of every clip, and the windows of VC8."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.clips: dict[str, tuple[Any, Any]] = {}

    def begin(self, clip: str) -> None:
        """A new clip."""
        from semivss.metrics.confusion import Confusion
        from semivss.metrics.consistency import VideoConsistency

        self.now = self.clips[clip] = Confusion(self.classes), VideoConsistency((8,))

    def update(self, truth: Any, labels: Any) -> None:
        """The clip's next labelled frame."""
        for part in self.now:
            part.update(truth, labels)

    def row(self) -> dict[str, Any]:
        """Pooled mIoU and VC8 in percent (none for clips of at most 8 frames), and the counts."""
        from semivss.metrics.consistency import window_mean

        counts = {name: confusion.counts for name, (confusion, _) in self.clips.items()}
        vc8 = window_mean([value for _, consistency in self.clips.values() for value in consistency.windows[8].ratios()])
        return {
            "": round(miou(sum(counts.values())), 2),
            "_vc8": None if vc8 is None else round(100 * vc8, 2),
            "_counts": {name: one.tolist() for name, one in counts.items()},
        }


def rows(results: Path) -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def matching(done: list[dict[str, Any]], cell: Cell, override: list[str]) -> list[dict[str, Any]]:
    """The rows of a cell, whatever settings they are of, the newest last."""
    key = cell.key() | {"overrides": override}
    return [row for row in done if key.items() <= row.items()]


def emit(row: dict[str, Any], results: Path) -> None:
    """Append, and print without the counts."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS=1, {os.environ.get('CPU_MODEL', platform.processor())}"
    full = row | {"what": "ablation mIoU", "unit": "percent", "ratio": None, "machine": machine}
    with WRITING:  # one chain at a time, and a reader or a kill meets whole lines only
        atomic_bytes(results, (results.read_bytes() if results.exists() else b"") + json.dumps(full).encode() + b"\n")
    print(json.dumps({key: value for key, value in full.items() if not key.endswith("_counts")}), flush=True)


def print_table(done: list[dict[str, Any]], modes: Sequence[str]) -> None:
    """Markdown: mean and spread over runs, difference to the control with its interval over resampled clips. Empty columns are left out."""
    columns = {title: key for title, key in COLUMNS.items() if any(row.get(key) is not None for row in done)}
    heads = ["mode", "runs", "CPU seconds", *columns, "minus control", "95 % interval", "minus equal CPU", "95 % interval"]
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for mode in modes:
        own = [row for row in done if row["mode"] == mode]
        if not own:
            print(f"| {mode} | not run {'| ' * (len(heads) - 2)}|")
            continue
        values = [spread([row[key] for row in own if row.get(key) is not None], of=len(own)) for key in columns.values()]
        for control in (CONTROL, EQUAL_CPU):
            pairs = pairs_of(done, mode, control)
            interval = clip_interval(pairs)
            values.append(spread([row["single"] - other["single"] for row, other in pairs], sign=True))
            values.append("" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}")
        print(f"| {mode} | {len(own)} | {np.mean([row['cpu_seconds'] for row in own]):.0f} | {' | '.join(values)} |")
    for clip in sorted({name for row in done for name in row["single_counts"]} if done and len(done[0]["single_counts"]) < 3 else ()):
        print(f"\n{clip}, one view, minus control:")
        for mode in modes:
            pairs = pairs_of(done, mode)
            own = [miou(np.array(row["single_counts"][clip])) for row in done if row["mode"] == mode]
            more = [miou(np.array(row["single_counts"][clip])) - miou(np.array(other["single_counts"][clip])) for row, other in pairs]
            print(f"- {mode}: {spread(own)} ({spread(more, sign=True)})")


def pairs_of(done: list[dict[str, Any]], mode: str, against: str = CONTROL) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of a mode, each with the control of the same subset and seed; none for the control itself."""
    control = {(row["subset"], row["seed"]): row for row in done if row["mode"] == against}
    own = [row for row in done if row["mode"] == mode and mode != against]
    return [(row, control[at]) for row in own if (at := (row["subset"], row["seed"])) in control]


def plot(done: list[dict[str, Any]], modes: Sequence[str], path: Path) -> None:
    """Each run's difference to its control as a dot, the mean as a line, its interval as a bar."""
    from matplotlib.figure import Figure

    shown = [mode for mode in modes if pairs_of(done, mode)]
    figure = Figure(figsize=(7, 0.55 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.use_sticky_edges = False  # bars would end at the frame
    axes.axvline(0, color="#64748b", linewidth=1)
    for place, mode in enumerate(shown):
        pairs = pairs_of(done, mode)
        differences = [row["single"] - control["single"] for row, control in pairs]
        mean, interval = np.mean(differences), clip_interval(pairs)
        if interval is not None:
            axes.barh(place, interval[1] - interval[0], 0.5, left=interval[0], color="#bfdbfe")
        axes.plot([mean, mean], [place - 0.25, place + 0.25], color="#1d4ed8", linewidth=2)
        axes.plot(differences, [place] * len(pairs), "o", color="#0f172a", markersize=4)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    legend = "dot: a run, line: their mean, bar: 95 % over test clips"
    axes.set_xlabel(f"mIoU of the test clips, one view, minus the control of equal steps (points)\n{legend}")
    figure.savefig(path, dpi=150)


def spread(values: list[float], sign: bool = False, of: int = 0) -> str:
    """Mean and standard deviation over runs; how many these are, if they should be more."""
    if not values:
        return ""
    mean = f"{np.mean(values):+.1f}" if sign else f"{np.mean(values):.1f}"
    return mean + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "") + (f" (of {len(values)})" if len(values) < of else "")


def clip_interval(pairs: list[tuple[dict[str, Any], dict[str, Any]]], draws: int = 2000) -> tuple[float, float] | None:
    """95 % interval of the mean difference in one view over resampled test clips, the same for all runs; none for fewer than 3 clips."""
    stacks = [tuple(np.array(list(row["single_counts"].values())) for row in pair) for pair in pairs]
    if not stacks or len(stacks[0][0]) < 3:
        return None
    number = len(stacks[0][0])
    chosen = np.random.default_rng(0).integers(number, size=(draws, number))
    drawn = [np.mean([miou(a[pick].sum(0)) - miou(b[pick].sum(0)) for a, b in stacks]) for pick in chosen]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def miou(counts: np.ndarray) -> float:
    """In percent."""
    from semivss.metrics.confusion import Confusion

    return 100 * (Confusion(len(counts) - 1, counts).scores().miou or 0.0)


if __name__ == "__main__":
    main()
