"""The runner of the published tables: what its cells are made of, and its statistics."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # scripts, no package
ablation, groups, scoring, statistics = map(
    importlib.import_module, ("ablation", "ablations.groups", "ablations.scoring", "ablations.statistics")
)


def recipe(group: str, mode: str, tmp_path: Path, subset: int = 0):
    name = list(groups.GROUPS[group].subsets)[subset]
    options = argparse.Namespace(override=[], runs=tmp_path)
    overrides = ablation.overrides_of(groups.Cell(group, name, mode, 3), options, tmp_path / "none.jsonl")
    return ablation.resolved(groups.GROUPS[group].recipe, overrides)


@pytest.mark.parametrize("group", [name for name in groups.GROUPS if "all labels" in groups.GROUPS[name].modes])
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


def test_the_published_threshold_is_a_row_of_its_own(tmp_path):
    semi = recipe("toy", "online", tmp_path).semi
    assert (semi.threshold.alpha, semi.threshold.schedule, semi.threshold.per_class, semi.contrast.share) == (50, "constant", True, 1)
    assert recipe("toy", "offline", tmp_path).pseudo.align == 0
    falling = recipe("toy", "online, falling threshold", tmp_path).semi.threshold
    assert (falling.alpha, falling.schedule, falling.per_class) == (20, "linear", False)
    assert recipe("toy", "online", tmp_path).semi.controls == ()


@pytest.mark.parametrize("group", groups.GROUPS)
def test_every_cell_resolves(group, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "held_out_lists", lambda overrides, folder: overrides)  # which reads CamVid's lists
    for subset in range(len(groups.GROUPS[group].subsets)):
        for mode in groups.GROUPS[group].modes:
            if mode != groups.EQUAL_CPU:
                recipe(group, mode, tmp_path, subset)


def test_what_is_scored_in_full():
    toy, camvid = (groups.Cell(group, next(iter(groups.GROUPS[group].subsets)), "online", 0) for group in ("toy", "camvid"))
    assert ablation.is_scored_in_full(toy)
    assert ablation.is_scored_in_full(camvid)
    fractions = groups.Cell("camvid_fractions", "clips_1_8 seed 0", "online", 0)
    assert not ablation.is_scored_in_full(fractions)
    assert statistics.spread([1.0, 3.0], of=3) == "2.0 ± 1.4 (of 2)"


def row(mode: str, right: list[int], seed: int = 0) -> dict:
    """Two classes, a clip for each number: so many of 10 pixels of either class are right."""
    clips = {f"clip{n}": [[k, k], [10, 10], [10, 10]] for n, k in enumerate(right)}
    single = float(np.mean(right))
    return {"subset": "s", "seed": seed, "mode": mode, "clips": clips, "single": single, "cpu_seconds": seed + 1.0}


def pairs(rows: list[dict]) -> list:
    return statistics.pairs_of(rows, "online", groups.CONTROL)


def test_intervals_are_of_paired_differences():
    control = [row(groups.CONTROL, [5, 7, 3, 5], seed) for seed in range(2)]
    better = [row("online", [7, 9, 5, 7], seed) for seed in range(2)]
    low, high = statistics.clip_interval(pairs(control + better))
    assert 10 < low < high < 40  # every clip gains, whatever it shows
    low, high = statistics.clip_interval(pairs([*control, row("online", [5, 7, 3, 5])]))
    assert low == high == 0
    assert statistics.clip_interval(pairs([row(groups.CONTROL, [5, 5]), row("online", [6, 6])])) is None


def test_pixels_of_clips_give_the_miou_of_the_whole():
    tally, generator = scoring.Tally(3), np.random.default_rng(0)
    for clip in ("a", "b"):
        tally.begin(clip)
        truth, guess = (generator.integers(3, size=(4, 9)).astype(np.uint8) for _ in range(2))
        truth[0, 0] = 255
        tally.update(truth, guess)
    assert statistics.miou(np.sum(list(tally.pixels().values()), 0)) == pytest.approx(tally.miou(), abs=0.005)
    assert statistics.miou([[1, 0], [2, 0], [3, 1]]) == 25  # a class that truth never shows is left out


def test_the_table_is_of_one_setting(tmp_path, capsys):
    options = argparse.Namespace(group="toy", override=[], runs=tmp_path)
    cell = groups.Cell("toy", "clips 0-3", "online", 0)
    settings = ablation.fingerprint(ablation.resolved(groups.TOY.recipe, ablation.overrides_of(cell, options, tmp_path / "rows")))
    lines = [cell.key() | {"overrides": [], "settings": kind} for kind in (settings, "0123456789ab")]
    lines.append(lines[1] | {"mode": "offline"})
    lines.append(lines[1] | {"mode": "a mode of before"})
    (tmp_path / "rows").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ablation.newest(tmp_path / "rows", options) == lines[:1]
    assert "2 cells have rows of other settings alone" in capsys.readouterr().err


def test_the_table_names_what_was_not_run(capsys):
    rows = [row(groups.CONTROL, [5, 7, 3]), row("online", [7, 9, 5])]
    statistics.print_table(rows, (groups.CONTROL, "online", "offline"), (groups.CONTROL, groups.EQUAL_CPU))
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| offline | not run" in lines[-1]
    assert "+2.0" in lines[-2]
    assert "1 of 1" in lines[-2]


def test_subsets_that_are_no_repetitions_have_lines_of_their_own(capsys):
    more = {"val_single": 50.0, "val_single_vc8": 90.0}
    rows = [
        row(mode, right) | more | {"subset": subset}
        for subset, online in (("few", [7, 9]), ("many", [5, 6]))
        for mode, right in ((groups.CONTROL, [5, 7]), ("online", online))
    ]
    statistics.print_apart(rows, ("few", "many", "all"), (groups.CONTROL, "online"), groups.CONTROL)
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[-1] for line in lines[3:6:2]] == ["+2.0 |", "-0.5 |"]
    assert lines[-1].startswith("| all | online | not run |")


def test_what_the_contrast_adds_and_how_much_of_the_gap_is_closed(capsys):
    rows = [
        row(mode, right, seed)
        for seed in range(2)
        for mode, right in {
            groups.CONTROL: [4, 6, 5],
            "online": [6, 7, 8],
            "online, no L_c": [5, 7, 6],
            groups.EVERYTHING: [8, 9, 10],
        }.items()
    ]
    statistics.print_contrast(rows, tuple(groups.CORE), groups.WITHOUT)
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines if line}) == 1
    assert lines[-1].startswith("| online | 2 | +1.00 ± 0.00 |")
    assert lines[-1].endswith("| 2 of 2 | 1.00 |")
    statistics.print_closed(rows, tuple(groups.CORE), groups.CONTROL, groups.EVERYTHING)
    assert capsys.readouterr().out.splitlines()[-2:] == ["| online | 2 | 50 % |", "| online, no L_c | 2 | 25 % |"]
    statistics.print_closed(rows[:3], tuple(groups.CORE), groups.CONTROL, groups.EVERYTHING)
    assert not capsys.readouterr().out  # nothing to compare with


@pytest.mark.usefixtures("camvid")
def test_a_held_out_video_is_neither_labelled_nor_unlabelled(tmp_path):
    subset = groups.held_out("clips_1_32_seed0", "0016E5_a")
    values = [override.split("=", 1)[1] for override in groups.held_out_lists(subset.few, tmp_path)]
    labelled, unlabelled, videos, test = (Path(value).read_text().split() for value in values[:4])
    assert len(labelled) == 11
    assert len(unlabelled) == 367 - 11 - 68
    assert not any("0016E5_a" in line for line in labelled + unlabelled + videos)
    assert len(test) == 34
    assert all(line.startswith("0016E5_a/") for line in test)


def test_equal_cpu_takes_the_time_of_the_newest_row(tmp_path):
    results = tmp_path / "rows.jsonl"
    name = next(iter(groups.GROUPS["toy"].subsets))
    for mode, seconds in (("online", 500), (groups.CONTROL, 100), ("online", 250)):
        ablation.emit(groups.Cell("toy", name, mode, 0).key() | {"overrides": [], "cpu_seconds": seconds}, results)
    assert [json.loads(line)["cpu_seconds"] for line in results.read_text().splitlines()] == [500, 100, 250]
    options = argparse.Namespace(override=[], runs=tmp_path)
    overrides = ablation.overrides_of(groups.Cell("toy", name, groups.EQUAL_CPU, 0), options, results)
    assert overrides[-1] == "semi.train.steps=2500"  # 2.5 times the group's 1000


def test_a_setting_at_its_default_changes_no_fingerprint():
    one, same, other = (ablation.resolved(groups.MASKS, more) for more in ([], ["pseudo.align=0"], ["pseudo.align=1"]))
    assert ablation.fingerprint(one) == ablation.fingerprint(same) != ablation.fingerprint(other)
