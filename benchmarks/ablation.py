"""What does each part of the method bring? A table of runs, resumable: one JSON row a run, finished rows are kept.

    python benchmarks/ablation.py toy                         do what is missing, two runs side by side
    python benchmarks/ablation.py toy --table                 print the table; what was not run says so
    python benchmarks/ablation.py toy --plot toy.png          the differences to the control, with their intervals
    python benchmarks/ablation.py --quick                     a few steps of two cells: shows that the script works

Every cell is scored on the test clips with one view and with the recipe's views, alone and with the teacher, CamVid's also on the
validation video; groups say which cells are scored in one view and alone, for the rest would cost as much as training. Rows keep the
pixel counts of every clip, so that the table can give the interval of a difference to the control over resampled clips. The rows of
the published tables lie in benchmarks/results/.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from ablations.groups import CONTROL, EQUAL_CPU, EVERYTHING, GROUPS, MODES, STUDENT, WITHOUT, Cell, held_out_lists
from ablations.scoring import measured
from ablations.statistics import plot, print_apart, print_closed, print_contrast, print_table, print_videos, print_views
from machine import machine
from semivss.atomic import atomic_bytes

RESULTS = Path(__file__).parent / "results"
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


def main() -> None:
    """Parse, then run what is missing or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", choices=GROUPS, default="toy")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="all of the group by default")
    parser.add_argument("--subsets", nargs="+", type=int, default=None, help="numbers of the labelled subsets; all by default")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None, help="all of the group by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--results", type=Path, default=None, help="file of rows; benchmarks/results/ablation_GROUP.jsonl by default")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with one thread")
    parser.add_argument("-o", "--override", action="append", default=[], help="as semivss run -o, for every cell; named in the rows")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    results = options.results or RESULTS / f"ablation_{options.group}.jsonl"
    if options.quick:
        options.seeds, options.subsets, options.modes, options.jobs = [0], [0], [STUDENT, "offline"], 1
        options.override, options.runs = [*QUICK, *options.override], options.runs / "quick"
        results = options.runs / "results.jsonl"
        shutil.rmtree(options.runs, ignore_errors=True)
    group = GROUPS[options.group]
    options.seeds, options.modes = options.seeds or group.seeds, options.modes or group.modes
    subsets = [name for number, name in enumerate(group.subsets) if options.subsets is None or number in options.subsets]
    if options.table or options.plot:
        done = newest(results, options)
        if options.table and group.apart:
            print_apart(done, subsets, group.modes, CONTROL)
        elif options.table:
            print_table(done, group.modes, (CONTROL, EQUAL_CPU))
            print_contrast(done, group.modes, WITHOUT)
            print_closed(done, group.modes, CONTROL, EVERYTHING)
            print_views(done, group.modes)
            print_videos(done, group.modes, CONTROL)
        if options.plot and group.apart:
            parser.error(f"--plot: the subsets of {options.group} are no repetitions, so they have no mean to draw")
        if options.plot:
            plot(done, group.modes, CONTROL, options.plot)
        return
    chains = [(options.group, subset, seed) for seed in options.seeds for subset in subsets]
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in pool.map(lambda chain: run_chain(*chain, options, results), chains):
            assert done is None


def run_chain(group: str, subset: str, seed: int, options: argparse.Namespace, results: Path) -> None:
    """All modes on one labelled subset under one seed: they share the supervised models and the pseudo labels."""
    for mode in options.modes:
        if mode == EVERYTHING and not GROUPS[group].subsets[subset].everything:
            continue
        cell = Cell(group, subset, mode, seed)
        out = options.runs / cell.name
        base = options.runs / Cell(GROUPS[group].shares or group, subset, "base", seed).name
        overrides = overrides_of(cell, options, results)
        settings = fingerprint(resolved(GROUPS[group].recipe, overrides))
        if any(row["settings"] == settings for row in matching(rows(results), cell, options.override)):
            continue
        if mode != EVERYTHING:
            semivss(base, GROUPS[group].recipe, [*base_overrides(cell, options), "semi.mode=offline"], "pseudo-label")
            adopt(base, out, labels=not any(override.startswith("pseudo.") for override in MODES[mode]))
        semivss(out, GROUPS[group].recipe, overrides, "student" if mode in (STUDENT, EVERYTHING) else "retrain")
        row = cell.key() | {"overrides": options.override, "settings": settings}
        shown = {"in_full": is_scored_in_full(cell), "validation": GROUPS[group].validation}
        emit(row | measured(out, *folders_of(out, mode), **shown), results)


def folders_of(out: Path, mode: str) -> tuple[str, str]:
    """The model that a cell is about, and the teacher that joins it in the ensemble."""
    from semivss.layout import final_models
    from semivss.recipe import load_recipe

    teacher, student = final_models(load_recipe(out / "recipe.toml"))
    return ("student", "teacher") if mode in (STUDENT, EVERYTHING) else (student, teacher)


def is_scored_in_full(cell: Cell) -> bool:
    """Whether scales, flip and teacher are scored too."""
    group = GROUPS[cell.group]
    first = cell.subset == next(iter(group.subsets)) and cell.seed == group.seeds[0]
    return group.in_full is None or (first and cell.mode in group.in_full)


def base_overrides(cell: Cell, options: argparse.Namespace) -> list[str]:
    """Subset and seed."""
    group = GROUPS[cell.group]
    few = held_out_lists(group.subsets[cell.subset].few, options.runs / "lists")
    return [*group.fixed, *few, f"train.seed={cell.seed}", *options.override]


def overrides_of(cell: Cell, options: argparse.Namespace, results: Path) -> list[str]:
    """Settings of one cell. Raises SystemExit when it depends on a cell that was not run."""
    base = base_overrides(cell, options)
    if cell.mode == EVERYTHING:
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


def rows(results: Path) -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def newest(results: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The row of each cell of the group under these overrides and with the settings of today. Says how many rows have others."""
    every = [row for row in rows(results) if row["group"] == options.group and row["overrides"] == options.override]
    of_today = {}
    for row in every:
        cell = Cell(row["group"], row["subset"], row["mode"], row["seed"])
        if cell.is_known() and row["settings"] == fingerprint(resolved(GROUPS[cell.group].recipe, overrides_of(cell, options, results))):
            of_today[row["subset"], row["mode"], row["seed"]] = row
    if left := len({(row["subset"], row["mode"], row["seed"]) for row in every}) - len(of_today):
        print(f"{left} cells have rows of other settings alone, which are left out", file=sys.stderr)
    return list(of_today.values())


def matching(done: list[dict[str, Any]], cell: Cell, override: list[str]) -> list[dict[str, Any]]:
    """The rows of a cell, whatever settings they are of, the newest last."""
    key = cell.key() | {"overrides": override}
    return [row for row in done if key.items() <= row.items()]


def emit(row: dict[str, Any], results: Path) -> None:
    """Append, and print without the counts."""
    full = row | {"what": "ablation mIoU", "unit": "percent", "ratio": None, "machine": f"{machine()}, OMP_NUM_THREADS=1"}
    with FileLock(f"{results}.lock"):  # one writer at a time, and a reader or a kill meets whole lines only
        line = json.dumps(full, separators=(",", ":")).encode() + b"\n"
        atomic_bytes(results, (results.read_bytes() if results.exists() else b"") + line)
    print(json.dumps({key: value for key, value in full.items() if key != "clips"}), flush=True)


if __name__ == "__main__":
    main()
