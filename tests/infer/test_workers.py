"""Several processes label one folder as one would, whoever of them dies; and they refuse to work on different jobs."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from crew import PSEUDO, SHARES, VIDEOS, PixelModel, end, label, segment, start, write_clips
from filelock import FileLock

from semivss.errors import SemivssError
from semivss.infer.inputs import open_inputs
from semivss.infer.predict import predict
from semivss.infer.pseudo import pseudo_label
from semivss.lock import joined, locked
from semivss.settings import Predict


def everything(out: Path) -> dict[str, bytes]:
    """All files but the lock, hidden ones too: nothing may be left behind."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def labelled(inputs, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("reference")
    pseudo_label([PixelModel(pause=0)], open_inputs(inputs), out, PSEUDO, wanted=np.array(SHARES))
    return everything(out)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_make_the_files_of_one_and_share_the_videos(workers, inputs, tmp_path):
    predict([PixelModel(pause=0)], open_inputs(inputs), tmp_path / "one", Predict(batch=2))
    logs = [tmp_path / f"{number}.log" for number in range(workers)]
    crew = [start(segment, inputs, tmp_path / "out", log) for log in logs]
    assert end(*crew) == [0] * workers
    assert everything(tmp_path / "out") == everything(tmp_path / "one")
    frames = [int(found.group(1)) for log in logs for found in re.finditer(r"^(\d+) frames in", log.read_text(), re.MULTILINE)]
    assert len(frames) >= 2
    assert sum(frames) == VIDEOS * 4


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_a_worker_that_is_killed_changes_nothing(workers, seed, inputs, labelled, tmp_path):
    moment, out = random.Random(10 * seed + workers), tmp_path / "out"
    crew = [start(label, inputs, out) for _ in range(workers)]
    time.sleep(moment.uniform(0.05, 0.5))
    victim = crew.pop(moment.randrange(workers))
    victim.kill()
    victim.join()
    if not crew:
        crew = [start(label, inputs, out)]  # the same command again
    assert end(*crew) == [0] * len(crew)
    shutil.rmtree(out / ".workers", ignore_errors=True)  # stays where the victim was the last one there
    assert everything(out) == labelled


def test_a_shard_of_a_dead_worker_is_cleared_up_and_told_in_one_line(inputs, labelled, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    victim = start(label, inputs, out)
    while not list((out / "records").glob(".v0.jsonl.*.tmp")):
        time.sleep(0.002)
    victim.kill()
    assert victim.join() is None
    assert victim.exitcode == -signal.SIGKILL
    (out / "v0").mkdir(exist_ok=True)
    (out / "v0" / ".0000.png.abc.tmp").write_bytes(b"half")
    assert end(start(label, inputs, out, log)) == [0]
    lines = [line for line in log.read_text().splitlines() if "is gone" in line]
    assert len(lines) == 1
    assert re.fullmatch(rf"v0: process {victim.pid} on \S+ \(since .*\) began it and is gone; what it left is cleared up .*", lines[0])
    assert everything(out) == labelled


def test_a_worker_that_waits_says_for_whom(inputs, tmp_path, monkeypatch, capsys):
    out, said = tmp_path / "out", ""
    monkeypatch.setattr("semivss.infer.job._PATIENCE", 0.1)
    worker = threading.Thread(target=label, args=(inputs, out), daemon=True)
    worker.start()
    while not (out / ".workers" / "job.json").is_file():
        time.sleep(0.002)
    job = json.loads((out / ".workers" / "job.json").read_text())
    with joined(out, job) as other, other.claim(f"v{VIDEOS - 1}") as claim, claim.begun():
        until = time.monotonic() + 60
        while "waiting for" not in said and time.monotonic() < until:
            time.sleep(0.05)
            said += capsys.readouterr().err
    worker.join()
    assert f"waiting for v{VIDEOS - 1}: process {os.getpid()} on " in said


def test_who_waits_at_the_door_is_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("semivss.lock._PATIENCE", 0.02)
    door = FileLock(tmp_path / ".lock", thread_local=False)
    door.acquire()
    threading.Timer(0.5, door.release).start()
    with joined(tmp_path, {}):
        assert f"{tmp_path}: waiting for whoever holds .lock there" in capsys.readouterr().err


def test_a_worker_waits_for_the_video_of_another_and_takes_it_over(inputs, labelled, tmp_path):
    """The other holds the last video and never makes it."""
    out = tmp_path / "out"
    crew = start(label, inputs, out)
    while not (out / ".workers" / "job.json").is_file():
        time.sleep(0.002)
    job = json.loads((out / ".workers" / "job.json").read_text())
    with joined(out, job) as other, other.claim(f"v{VIDEOS - 1}") as claim:
        assert claim is not None
        while len(list((out / "records").glob("*.jsonl"))) < VIDEOS - 1:
            time.sleep(0.01)
        time.sleep(0.5)
        assert crew.is_alive()
        assert not (out / "manifest.json").exists()
    assert end(crew) == [0]
    assert everything(out) == labelled


@pytest.mark.parametrize("part", ["models", "views", "align", "input videos", "policy", "threads"])
def test_workers_with_unequal_jobs_are_refused(part, inputs, tmp_path, monkeypatch):
    out, settings, wanted, policy = tmp_path / "out", PSEUDO, SHARES, "strict"
    model, videos = PixelModel(), open_inputs(inputs)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64 if part.startswith("threads") else 1)
    with joined_by_another(out, inputs):
        match part:
            case "models":
                model = PixelModel(0.02)
            case "views":
                settings = PSEUDO.model_copy(update={"views": PSEUDO.views.model_copy(update={"flip": False})})
            case "align":
                part, wanted = r"shares of the classes \(--align-to\)", (0.1, 0.1, 0.8)
            case "input videos":
                videos = videos[1:]
            case "policy":
                policy = "skip"
            case "threads":
                part = r"threads \(--threads\)"
        with pytest.raises(
            SemivssError, match=rf"process .* is writing there with other {part}; start every worker with the same"
        ) as caught:
            pseudo_label([model], videos, out, settings, policy=policy, wanted=np.array(wanted))
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def joined_by_another(out: Path, inputs: Path) -> Iterator[None]:
    """A process that has begun to label the folder, stopped in its first video."""
    process = start(label, inputs, out)
    while not list((out / "records").glob(".v0.jsonl.*.tmp")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGSTOP)
    yield
    process.kill()
    process.join()


def test_a_folder_with_workers_is_nobodys_alone_and_the_other_way_round(tmp_path):
    out = tmp_path / "out"
    with joined(out, {"models": 1}), joined(out, {"models": 1}) as second:
        assert not second.first
        with pytest.raises(SemivssError, match=r"process \d+ on .* is writing there; wait for it to end"), locked(out):
            pass
        with pytest.raises(SemivssError, match="with other models"), joined(out, {"models": 2}):
            pass
    assert everything(out) == {}
    with locked(out), pytest.raises(SemivssError, match=r"process \d+ on .* is writing there; wait"), joined(out, {"models": 1}):
        pass
    with joined(out, {"models": 2}) as now:
        assert now.first


def test_a_worker_is_not_kept_out_by_the_note_of_a_dead_process(tmp_path):
    (tmp_path / ".lock.json").write_text(json.dumps({"pid": 1, "host": "gone", "since": "long ago"}))
    with FileLock(tmp_path / ".lock"):
        pass
    with joined(tmp_path, {"models": 1}), joined(tmp_path, {"models": 1}):
        pass
    assert everything(tmp_path) == {}
