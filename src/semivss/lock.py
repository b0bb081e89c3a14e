"""An output folder in; for the length of a block it belongs to this process alone, or to it and others that share the same job.

Hidden in the folder: ``.lock`` is held by whoever has the folder alone, whom ``.lock.json`` names, and by the others just while they come
and go. As long as there are others, ``.workers`` holds ``job.json``, what they do, and a lock for each of them and for each of their items.
The operating system frees the locks of a process that dies.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from semivss.atomic import atomic_bytes, atomic_json
from semivss.errors import SemivssError
from semivss.progress import say

_LOCK = ".lock"
_HOLDER = ".lock.json"  # who has the folder alone, for the one who is turned away
_WORKERS = ".workers"
_JOB = "job.json"
_PATIENCE = 1.0  # seconds after which the lock is looked at again; whoever comes or goes holds it for milliseconds
_TELLING = 5  # times, after which a line says so
_END_OF_PATIENCE = 60  # times


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder `out`, which is made if needed, alone.

    Raises:
        SemivssError: another process writes there (the line says which, and since when), or it cannot be written.
    """
    with _entrance(out):
        for other in _alive(out):
            raise SemivssError(_taken(out, other))
        try:
            atomic_json(out / _HOLDER, _self())
            yield
        finally:
            (out / _HOLDER).unlink(missing_ok=True)


@dataclass(frozen=True)
class Claim:
    """An item of a job that is this worker's as long as it holds the lock."""

    note: Path

    @contextlib.contextmanager
    def begun(self) -> Iterator[str]:
        """Keep a note, for the length of the block, that this process works on it. Who died over it before; empty for nobody."""
        before = _who(self.note) if self.note.exists() else ""
        atomic_bytes(self.note, json.dumps(_self()).encode(), sync=False)
        try:
            yield before
        finally:
            self.note.unlink(missing_ok=True)


@dataclass(frozen=True)
class Crew:
    """The workers of one job, for one of them."""

    out: Path
    number: int  # of this one
    first: bool  # nobody else was there when this one came

    def agree(self, terms: Mapping[str, Any]) -> None:
        """Add to what all of them must have the same. Raises SemivssError if another one has it otherwise."""
        with _entrance(self.out):
            job, wanted = _job(self.out), _plain(terms)
            _demand_equal(self.out, {name: job[name] for name in wanted if name in job}, wanted, _alive(self.out, self.number))
            atomic_json(self.out / _WORKERS / _JOB, job | wanted)

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Do something that one worker does at a time; the others wait for their turn."""
        with FileLock(self.out / _WORKERS / f"{what}.lock"):
            yield

    @contextlib.contextmanager
    def claim(self, item: str) -> Iterator[Claim | None]:
        """Hold `item` for the length of the block; none if another worker holds it."""
        path = self._path(item)
        lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield None
            return
        try:
            yield Claim(path)
        finally:
            lock.release()

    def holder(self, item: str) -> str:
        """Who works on `item`, for people."""
        return _who(self._path(item))

    def _path(self, item: str) -> Path:
        """Of the note on an item."""
        return self.out / _WORKERS / f"{hashlib.sha256(item.encode()).hexdigest()[:32]}.json"


@contextlib.contextmanager
def joined(out: Path, job: Mapping[str, Any]) -> Iterator[Crew]:
    """Work in the folder `out`, which is made if needed, together with whoever does the same job there.

    Args:
        job: by name, what all workers must have the same; plain values for JSON.

    Raises:
        SemivssError: another process does another job there (the line says what differs), has the folder alone, or nothing can be written.
    """
    wanted = _plain(job)
    with contextlib.ExitStack() as place:
        with _entrance(out):
            first = not any(_alive(out))
            if not first:
                there = _job(out)
                _demand_equal(out, {name: there.get(name) for name in wanted}, wanted, _alive(out))
            else:
                before = _job(out)
                if {name: before.get(name) for name in wanted} != wanted:
                    shutil.rmtree(out / _WORKERS, ignore_errors=True)
                atomic_json(out / _WORKERS / _JOB, wanted)
            number = place.enter_context(_place(out))
        try:
            yield Crew(out, number, first)
        finally:
            with _entrance(out):
                place.close()
                if not any(_alive(out)):  # the last one puts out the light
                    shutil.rmtree(out / _WORKERS, ignore_errors=True)


@contextlib.contextmanager
def _entrance(out: Path) -> Iterator[None]:
    """Hold ``.lock``: nobody comes or goes meanwhile."""
    lock = FileLock(out / _LOCK, timeout=_PATIENCE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _END_OF_PATIENCE + 1):
            try:
                lock.acquire()
                break
            except Timeout as error:
                if (out / _HOLDER).exists() or attempt == _END_OF_PATIENCE:
                    raise SemivssError(_taken(out, _who(out / _HOLDER))) from error
                if attempt == _TELLING:
                    say(f"{out}: waiting for whoever holds {_LOCK} there, {_END_OF_PATIENCE * _PATIENCE:.0f} s at the most")
    except OSError as error:
        raise SemivssError(f"{out}: cannot write there ({error.strerror}); choose another folder with --out") from error
    try:
        (out / _HOLDER).unlink(missing_ok=True)  # of a process that died
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _place(out: Path) -> Iterator[int]:
    """Hold the first free place among the workers; its number."""
    number = 0
    while True:
        lock = FileLock(out / _WORKERS / f"worker_{number}.lock", timeout=0)
        try:
            lock.acquire()
            break
        except Timeout:
            number += 1
    try:
        atomic_bytes(out / _WORKERS / f"worker_{number}.json", json.dumps(_self()).encode(), sync=False)
        yield number
    finally:
        lock.release()


def _alive(out: Path, but: int | None = None) -> Iterator[str]:
    """Who works there now besides number `but`, for people."""
    for path in sorted((out / _WORKERS).glob("worker_*.lock")):
        if path.stem == f"worker_{but}":
            continue
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            yield _who(path.with_suffix(".json"))


def _job(out: Path) -> dict[str, Any]:
    """What the workers of the folder do, or did before they died; empty where nobody knows."""
    try:
        return dict(json.loads((out / _WORKERS / _JOB).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _demand_equal(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], others: Iterator[str]) -> None:
    if changed := [name for name in theirs if theirs[name] != ours[name]]:
        who = next(others, "another process")
        raise SemivssError(
            f"{out}: {who} is writing there with other {', '.join(changed)}; "
            "start every worker with the same command and versions, or choose another folder with --out"
        )


def _taken(out: Path, who: str) -> str:
    return f"{out}: {who} is writing there; wait for it to end, or choose another folder with --out"


def _plain(job: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return dict(json.loads(json.dumps(job)))


def _self() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _who(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
