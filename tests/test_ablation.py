"""The runner of the published tables: what its cells are made of, and its statistics."""

import argparse
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "ablation.py"
spec = importlib.util.spec_from_file_location("ablation", PATH)
ablation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ablation)
OPTIONS = argparse.Namespace(override=[])


def recipe(group: str, mode: str, tmp_path: Path, subset: int = 0):
    name = list(ablation.GROUPS[group].subsets)[subset]
    overrides = ablation.overrides_of(ablation.Cell(group, name, mode, 3), OPTIONS, tmp_path / "none.jsonl")
    return ablation.resolved(ablation.GROUPS[group].recipe, overrides)


@pytest.mark.parametrize("group", [name for name in ablation.GROUPS if "all labels" in ablation.GROUPS[name].modes])
def test_all_labels_means_all(group, tmp_path):
    few, every = (recipe(group, mode, tmp_path) for mode in ("online", "all labels"))
    source = every.data.train[0]
    assert source.labelled is None
    assert every.train.steps == few.train.steps + few.semi.train.steps
    assert every.train.seed == few.train.seed == 3
    if source.kind == "toy":
        assert source.toy.clips == few.data.train[0].toy.clips + few.data.unlabelled[0].toy.clips
        assert few.data.unlabelled[0].toy.first_clip == few.data.train[0].toy.first_clip + few.data.train[0].toy.clips
    else:
        assert few.data.train[0].labelled is not None


def test_the_modes_of_the_paper_have_its_settings(tmp_path):
    semi = recipe("toy", "offline", tmp_path).semi
    assert (semi.threshold.alpha, semi.threshold.schedule, semi.threshold.per_class, semi.contrast.share) == (20, "linear", False, 1)
    assert recipe("toy", "offline", tmp_path).pseudo.align == 0
    assert recipe("toy", "offline, by class, aligned", tmp_path).pseudo.align == 1


@pytest.mark.parametrize("group", ablation.GROUPS)
def test_every_cell_resolves(group, tmp_path):
    for subset in range(len(ablation.GROUPS[group].subsets)):
        for mode in ablation.GROUPS[group].modes:
            if mode != ablation.EQUAL_CPU:
                recipe(group, mode, tmp_path, subset)


def test_what_is_scored_in_full():
    toy, camvid = (ablation.Cell(group, next(iter(ablation.GROUPS[group].subsets)), "online", 0) for group in ("toy", "camvid"))
    assert ablation.is_scored_in_full(toy)
    assert ablation.is_scored_in_full(camvid)
    assert not ablation.is_scored_in_full(dataclasses.replace(camvid, mode="all labels"))
    assert not ablation.is_scored_in_full(dataclasses.replace(camvid, subset="clips_1_32 seed 1"))
    assert ablation.spread([1.0, 3.0], of=3) == "2.0 ± 1.4 (of 2)"


def row(mode: str, right: list[int], seed: int = 0) -> dict:
    """Two classes, a clip for each number: so many of 10 pixels of either class are right."""
    counts = {f"clip{n}": [[k, 10 - k, 0], [10 - k, k, 0], [0, 0, 0]] for n, k in enumerate(right)}
    single = float(np.mean(right))
    return {"subset": "s", "seed": seed, "mode": mode, "single_counts": counts, "single": single, "cpu_seconds": seed + 1.0}


def test_intervals_are_of_paired_differences():
    control = [row(ablation.CONTROL, [5, 7, 3, 5], seed) for seed in range(2)]
    better = [row("online", [7, 9, 5, 7], seed) for seed in range(2)]
    low, high = ablation.clip_interval(ablation.pairs_of(control + better, "online"))
    assert 10 < low < high < 40  # every clip gains, whatever it shows
    low, high = ablation.clip_interval(ablation.pairs_of([*control, row("online", [5, 7, 3, 5])], "online"))
    assert low == high == 0
    assert ablation.clip_interval(ablation.pairs_of([row(ablation.CONTROL, [5, 5]), row("online", [6, 6])], "online")) is None


def test_equal_cpu_takes_the_time_of_the_newest_row(tmp_path):
    results = tmp_path / "rows.jsonl"
    name = next(iter(ablation.GROUPS["toy"].subsets))
    for mode, seconds in (("online", 500), (ablation.CONTROL, 100), ("online", 250)):
        ablation.emit(ablation.Cell("toy", name, mode, 0).key() | {"overrides": [], "cpu_seconds": seconds}, results)
    assert [json.loads(line)["cpu_seconds"] for line in results.read_text().splitlines()] == [500, 100, 250]
    overrides = ablation.overrides_of(ablation.Cell("toy", name, ablation.EQUAL_CPU, 0), OPTIONS, results)
    assert overrides[-1] == "semi.train.steps=2000"  # 2.5 times the group's 800


def test_a_setting_at_its_default_changes_no_fingerprint():
    one, same, other = (ablation.resolved(ablation.MASKS, more) for more in ([], ["pseudo.align=0"], ["pseudo.align=1"]))
    assert ablation.fingerprint(one) == ablation.fingerprint(same) != ablation.fingerprint(other)
