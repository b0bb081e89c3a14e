"""What is read of the machine, and the number of threads that follows."""

import os

import pytest
import torch

from semivss import processor
from semivss.processor import has_amx, is_amd, physical_cores
from semivss.threads import set_threads

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n\nprocessor\t: 1\nvendor_id\t: AuthenticAMD\n"
AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16\n"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Puts a text in the place of Linux's description."""

    def put(text: str | None) -> None:
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(processor, "_LISTED", path)
        processor._description.cache_clear()

    yield put
    processor._description.cache_clear()


@pytest.mark.parametrize(("text", "amd", "amx"), [(INTEL, False, True), (AMD, True, False), (None, False, False)])
def test_makers_and_matrix_instructions_are_read_of_the_first_processor(listed, text, amd, amx):
    listed(text)
    assert (is_amd(), has_amx()) == (amd, amx)


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= physical_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", 6), ("400000 100000", 4), ("50000 100000", 1), ("900000 100000", 6)])
def test_a_container_may_use_fewer_cores_than_there_are(tmp_path, monkeypatch, quota, expected):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(processor, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(processor, "_core", str)
    assert physical_cores() == expected


@pytest.fixture
def chosen(monkeypatch) -> list[int]:
    """Numbers of threads that torch is told, on a machine of eight cores."""
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr("semivss.threads.physical_cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return numbers


@pytest.mark.parametrize(
    ("wanted", "environment", "expected"),
    [
        (None, {}, [8]),
        (None, {"LOCAL_WORLD_SIZE": "3"}, [2]),
        (None, {"LOCAL_WORLD_SIZE": "16"}, [1]),
        (None, {"OMP_NUM_THREADS": "4", "LOCAL_WORLD_SIZE": "2"}, []),  # torch has read it
        (5, {"OMP_NUM_THREADS": "4", "LOCAL_WORLD_SIZE": "2"}, [5]),
    ],
)
def test_threads_are_the_wish_or_the_environments_or_a_share_of_the_cores(chosen, monkeypatch, wanted, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    set_threads(wanted)
    assert chosen == expected
