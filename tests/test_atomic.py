"""Atomic files: the old content survives a failing writer, a full disk and a killed process."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from semivss.atomic import atomic_bytes, atomic_file, atomic_json
from semivss.errors import SemivssError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_replaces_and_leaves_nothing_beside(tmp_path):
    target = tmp_path / "deep" / "file.bin"
    atomic_bytes(target, b"old")
    atomic_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["file.bin"]


def test_a_failing_writer_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    atomic_bytes(target, b"old")

    def write_half() -> None:
        with atomic_file(target) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_full_disk_is_one_line_and_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    atomic_bytes(target, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(SemivssError, match="cannot write") as caught:
            atomic_bytes(target, bytes(4096))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(target) in str(caught.value)
    assert "free space" in str(caught.value)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_foreign_errors_without_errno_pass_unchanged(tmp_path):
    with pytest.raises(OSError, match="cannot identify") as caught, atomic_file(tmp_path / "x"):
        raise OSError("cannot identify image")
    assert caught.value.errno is None


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SemivssError, match="cannot write"):
        atomic_json(tmp_path / "file" / "x.json", {})


HALF = """
import sys, time
from semivss.atomic import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("in", flush=True)
    time.sleep(60)
"""


def test_kill_in_the_middle_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    atomic_bytes(target, b"old")
    process = subprocess.Popen([sys.executable, "-c", HALF, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert target.read_bytes() == b"old"
