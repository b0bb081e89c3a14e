"""Atomic files: a reader sees the old content or the new one, never half of it, whatever is killed or full."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from semivss.errors import SemivssError

_WRITING, _NEW = ".writing", ".new"  # folders of `atomic_set`: being filled; complete, and valid instead of what lies above
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # error numbers of a disk, quota or file size that is used up


@contextlib.contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` when the block ends without an exception.

    The temporary file lies beside the target (never in $TMPDIR, which may be another file system). `sync=False` leaves out the
    two fsyncs for files that a restart writes again anyway, such as one predicted frame.

    Raises:
        SemivssError: the folder cannot be written or is full; the previous file is untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # an error of a library that borrows the class, such as an image that cannot be identified
            raise
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path` in one step. Raises SemivssError as `atomic_file` does."""
    with atomic_file(path, sync=sync) as file:
        file.write(data)


def atomic_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON in one step. Raises SemivssError as `atomic_file` does."""
    atomic_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def atomic_set(folder: Path, files: Mapping[str, bytes | Callable[[Path], bytes | None]]) -> None:
    """Write files that belong together into `folder`: through `newest` a reader sees all the old ones or all the new ones.

    The new files are gathered in a hidden folder inside; one rename makes them valid, and then they move up one after the other. Whoever
    is killed in between leaves some of them in the hidden folder, where `newest` looks first and the next writer clears up.

    Args:
        folder: made if it is not there.
        files: by name, in the order of writing: the content, or what is called with the path to write to. That one writes the file
            itself, so that a large one is never in memory as bytes, or returns the content, after looking at the files before it.

    Raises:
        SemivssError: the folder cannot be written or is full; the previous files are untouched.
    """
    folder = Path(folder)
    try:
        _move_up(folder)
        shutil.rmtree(folder / _WRITING, ignore_errors=True)
        (folder / _WRITING).mkdir(parents=True)
        for name, content in files.items():
            path = folder / _WRITING / name
            data = content(path) if callable(content) else content
            if data is not None:
                atomic_bytes(path, data)
            else:
                _sync_file(path)
        (folder / _WRITING).rename(folder / _NEW)
        _sync_folder(folder)
        _move_up(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(folder / _WRITING, ignore_errors=True)


def newest(folder: Path, name: str) -> Path:
    """Where the valid file `name` of a folder written by `atomic_set` lies; it need not exist."""
    waiting = Path(folder) / _NEW / name
    return waiting if waiting.is_file() else Path(folder) / name


def _move_up(folder: Path) -> None:
    if not (folder / _NEW).is_dir():
        return
    for path in sorted((folder / _NEW).iterdir()):
        path.replace(folder / path.name)
    _sync_folder(folder)
    (folder / _NEW).rmdir()


def _sync_file(path: Path) -> None:
    path.chmod(0o644)
    _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def demand_folder(folder: Path) -> None:
    """Raise SemivssError if `folder` is none and cannot be made, or nothing can be written there. It is not made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise SemivssError(f"{there}: a file, not a folder; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SemivssError(f"{there}: nothing can be written there (permission denied); choose another folder")


def write_error(path: Path, error: OSError) -> SemivssError:
    """What to tell when writing `path` met `error`."""
    remedy = "free space there and run the same command again" if error.errno in FULL else "choose another place"
    return SemivssError(f"{path}: cannot write ({error.strerror}); what was there before is intact; {remedy}")
