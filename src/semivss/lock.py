"""An output folder in; for the length of a block no other process writes there."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from semivss.atomic import atomic_json
from semivss.errors import SemivssError

_LOCK = ".lock"
_HOLDER = ".lock.json"  # who holds it, for the one who is turned away


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder `out`, which is made if needed.

    Raises:
        SemivssError: another process holds it (the line says which, and since when), or it cannot be written.
    """
    lock = FileLock(out / _LOCK, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise SemivssError(f"{out}: {_holder(out)} is writing there; wait for it to end, or choose another folder with --out") from error
    except OSError as error:
        raise SemivssError(f"{out}: cannot write there ({error.strerror}); choose another folder with --out") from error
    try:
        atomic_json(out / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        (out / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(out: Path) -> str:
    try:
        holder = json.loads((out / _HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
