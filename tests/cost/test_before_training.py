"""The line about memory before a training: near what the process then takes, and with what helps where that is too much."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from semivss.cost import before_training
from semivss.cost.before_training import memory_line
from semivss.pipeline import demo_recipe

CHILD = """
import sys
from pathlib import Path
from semivss import pipeline
from semivss.cost import before_training
from semivss.infer.memory import peak
told = []
line = before_training.memory_line
def noted(recipe, title):
    told.append(line(recipe, title))
    Path("/proc/self/clear_refs").write_text("5")
    return told[-1]
before_training.memory_line = noted
small = ["train.steps=4", "train.evaluate_every=100", "data.val=", "data.train.0.toy.clips=4"]
pipeline.run(pipeline.demo_recipe(small), Path(sys.argv[1]), until="teacher")
print(told[0])
print(peak() / 1e6)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_what_is_expected_is_within_a_fifth_of_what_is_taken(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, taken = done.stdout.splitlines()[-2:]
    number, unit = re.match(
        r"train teacher: ([0-9.]+) ([MG]B) of memory expected \(.* held already, activations .*\), .* free$", told
    ).groups()
    expected = float(number) * (1000 if unit == "GB" else 1)
    assert 0.8 < expected / float(taken) < 1.2


def test_too_much_is_told_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_training, "_free", lambda device: 1000)
    line = memory_line(demo_recipe(), "train student")
    helps = 'what helps: model.recompute = true or train.precision = "bf16" or a lower train.batch with a higher train.accumulate'
    assert line.endswith(f"it may not fit; {helps}")
    assert ", 1 kB free" in line


def test_processes_of_a_machine_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_training, "_free", lambda device: 3_000_000_000)
    assert memory_line(demo_recipe(), "train student").endswith(", 3.0 GB free")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory_line(demo_recipe(), "train student").endswith(", 1.5 GB free")


@pytest.mark.parametrize(("limit", "free"), [("3000000", 2_000_000), ("500000", 0), ("max", None)])
def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int | None) -> None:
    monkeypatch.setattr(before_training, "_CONTAINER", tmp_path)
    before = before_training._free("cpu")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    if free is None:
        assert before_training._free("cpu") == pytest.approx(before, rel=0.5)
    else:
        assert before_training._free("cpu") == free
