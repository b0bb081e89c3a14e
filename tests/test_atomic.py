"""Atomic files: the old content survives a failing writer, a full disk and a killed process."""

import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from semivss.atomic import atomic_bytes, atomic_file, atomic_json, atomic_set, demand_folder, newest
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


def killed_at(step: int, folder: Path, files: dict[str, bytes]) -> bool:
    """Write the set in a process that dies before its `step`-th change to the file system; whether it got that far."""
    child = os.fork()
    if child == 0:
        steps = itertools.count()
        changes = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
        sys.addaudithook(lambda event, _: os._exit(9) if event in changes and next(steps) == step else None)
        atomic_set(folder, files)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def content(folder: Path) -> tuple[bytes, ...]:
    return tuple(newest(folder, name).read_bytes() for name in "abc")


def test_a_set_is_the_old_one_or_the_new_one_wherever_its_writer_is_killed(tmp_path):
    seen = []
    for step in itertools.count():
        folder = tmp_path / str(step)
        atomic_set(folder, dict.fromkeys("abc", b"old"))
        (folder / "own notes").write_bytes(b"stay")
        killed = killed_at(step, folder, dict.fromkeys("abc", b"new"))
        seen.append(content(folder))
        if killed:  # a second kill at the same place, and a writer that is left alone
            killed_at(step, folder, dict.fromkeys("abc", b"newer"))
            assert len(set(content(folder))) == 1
        atomic_set(folder, dict.fromkeys("abc", b"last"))
        assert content(folder) == (b"last",) * 3
        assert sorted(names(folder)) == ["a", "b", "c", "own notes"]
        if not killed:
            break
    changes = sorted(seen, reverse=True)
    assert seen == changes  # old until one step, new from there on
    assert set(seen) == {(b"old",) * 3, (b"new",) * 3}
    assert len(seen) > 10


def test_a_set_that_meets_a_full_disk_keeps_the_old_files(tmp_path):
    atomic_set(tmp_path, dict.fromkeys("abc", b"old"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(SemivssError, match="free space"):
            atomic_set(tmp_path, {"a": b"new", "b": bytes(4096), "c": b"new"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(tmp_path) == (b"old",) * 3
    assert sorted(names(tmp_path)) == ["a", "b", "c"]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    demand_folder(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SemivssError, match=r"file: a file, not a folder; choose another folder"):
        demand_folder(tmp_path / "file" / "deep")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(SemivssError, match=r"permission denied"):
        demand_folder(tmp_path / "new")


def test_a_set_takes_files_that_are_written_where_they_lie(tmp_path):
    def sized(path: Path) -> bytes:
        return str(path.with_name("a").stat().st_size).encode()

    atomic_set(tmp_path, {"a": lambda path: path.open("wb").close(), "b": b"own", "c": sized})
    assert content(tmp_path) == (b"", b"own", b"0")

    def failing(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SemivssError, match="free space"):
        atomic_set(tmp_path, {"a": failing, "b": b"new", "c": b"new"})
    assert content(tmp_path) == (b"", b"own", b"0")
    assert sorted(names(tmp_path)) == ["a", "b", "c"]
