"""Whether two training folders hold the same: every tensor and number of the checkpoint, the model, the journal. Imported by name."""

import csv
from pathlib import Path

import torch


def result(out: Path) -> tuple[dict, bytes, list]:
    """Everything that a run must reproduce: the whole checkpoint, the best model's file, the journal without clock times."""
    state = torch.load(out / "last.ckpt", weights_only=True)
    for clock in ("seconds", "cpu_seconds"):
        state["counters"].pop(clock)
    with (out / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(file)]
    return state, (out / "model" / "model.safetensors").read_bytes(), rows


def assert_same(left: Path, right: Path) -> None:
    (state, best, rows), (other_state, other_best, other_rows) = result(left), result(right)
    flat, other_flat = dict(leaves(state)), dict(leaves(other_state))
    assert flat.keys() == other_flat.keys()
    for key, value in flat.items():
        same = torch.equal(value, other_flat[key]) if isinstance(value, torch.Tensor) else value == other_flat[key]
        assert same, key
    assert best == other_best
    assert rows == other_rows


def leaves(tree, key=""):
    if isinstance(tree, dict | list):
        for name, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(branch, f"{key}.{name}")
    else:
        yield key, tree
