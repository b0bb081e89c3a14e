"""Numbers made by the published U2PL code with its defects mended: masks, ranks and banks exactly, losses and gradients to 1e-4."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.losses import u2pl


def files(golden: Path, wanted: Callable[[int, int], bool]) -> list[Path]:
    """Those whose number of processes and steps is `wanted`; never none."""
    found = [file for file in sorted((golden / "u2pl").glob("case_*.npz")) if wanted(*u2pl.worlds(file))]
    assert found, f"no such case_*.npz in {golden / 'u2pl'}"
    return found


def test_golden_u2pl(golden):
    for file in files(golden, lambda world, _: world == 1):
        assert u2pl.judge(file) > 0


def test_golden_u2pl_goes_on_from_a_saved_bank(golden, tmp_path):
    for file in files(golden, lambda world, steps: world == 1 and steps > 1):
        assert u2pl.judge(file, folder=tmp_path) > 0


def test_golden_u2pl_ddp(golden, tmp_path):
    for file in files(golden, lambda world, _: world > 1):
        world, meeting = u2pl.worlds(file)[0], tmp_path / f"{file.stem}.store"
        words = [[sys.executable, u2pl.__file__, str(file), str(rank), str(world), str(meeting)] for rank in range(world)]
        processes = [subprocess.Popen(word, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for word in words]
        outputs = [process.communicate(timeout=120) for process in processes]
        for process, (said, complaint) in zip(processes, outputs, strict=True):
            assert process.returncode == 0, complaint
            assert int(said) > 0
