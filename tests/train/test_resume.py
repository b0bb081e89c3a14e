"""Stopped anywhere, training goes on and ends with the same bytes; a full disk or another recipe never costs what was saved."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import children
import pytest
import torch
from children import run_cli, run_train, start, wait
from same import assert_same, result

from semivss.errors import SemivssError, WeightsError
from semivss.pipeline import train_stage
from semivss.recipe import Recipe, dump_recipe
from semivss.train import loop
from semivss.train.checkpoint import load_checkpoint
from semivss.train.loop import train


@pytest.fixture(scope="module", autouse=True)
def temporary_files_elsewhere():
    """The fork server and its children keep $TMPDIR on another file system than the run folder, where there is one."""
    with pytest.MonkeyPatch.context() as patch:
        if os.access("/dev/shm", os.W_OK):
            patch.setenv("TMPDIR", "/dev/shm")
        children.server()
        yield


def changed(recipe: Recipe, **sections) -> Recipe:
    """The recipe with settings replaced: `train={"steps": 3}`."""
    updates = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=updates)


@contextlib.contextmanager
def power_cut(after: int) -> Iterator[None]:
    """Training inside the block ends after that many steps, without a word to anything."""
    whole, done = loop.train_step, []

    def step(*arguments):
        done.append(whole(*arguments))
        if len(done) == after:
            raise RuntimeError("power cut")
        return done[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(RuntimeError, match="power cut"):
            yield


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_it_ends_bitwise_equal(recipe, tmp_path, workers):
    recipe = changed(recipe, data={"workers": workers}, train={"steps": 24})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert wait(start(run_train, recipe, whole)) == 0
    moments, kills = random.Random(workers), 0
    orphans: set[int] = set()
    while kills < 3:
        shutil.rmtree(broken, ignore_errors=True)  # a process that was faster than its killer
        for _ in range(3):
            process = start(run_train, recipe, broken)
            process.join(moments.uniform(0.2, 1.5))
            kills += process.exitcode is None
            orphans |= loader_workers(process.pid)
            process.kill()
            process.join()
    assert wait(start(run_train, recipe, broken)) == 0
    assert_same(whole, broken)
    assert not list(broken.rglob("*.tmp"))
    deadline = time.monotonic() + 30  # a worker looks every five seconds whether its parent lives
    while any(Path(f"/proc/{child}").exists() for child in orphans) and time.monotonic() < deadline:
        wait(start(os.getpid))
    assert [child for child in orphans if Path(f"/proc/{child}").exists()] == []


def loader_workers(process: int) -> set[int]:
    """Children of a process, where the system tells."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return {int(child) for child in path.read_text().split()} if path.exists() else set()


def test_seventeen_steps_then_a_crash_then_the_rest(recipe, tmp_path):
    recipe = changed(recipe, train={"checkpoint_every": 17})
    train(recipe, tmp_path / "whole")
    with power_cut(25):
        train(recipe, tmp_path / "broken")
    assert torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)["counters"]["step"] == 17
    train(recipe, tmp_path / "broken")
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_mask2former_with_accumulation_bf16_and_dropout_resumes_bitwise(recipe, tmp_path):
    head = {
        "channels": 32,
        "queries": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "heads": 2,
        "encoder_feedforward": 16,
        "feedforward": 16,
    }
    model = {"head": "mask2former", "mask2former": recipe.model.mask2former.model_copy(update=head | {"points": 64})}
    recipe = changed(
        recipe, model=model, train={"steps": 8, "accumulate": 2, "precision": "bf16", "checkpoint_every": 3, "evaluate_every": 4}
    )
    train(recipe, tmp_path / "whole")
    with power_cut(5):
        train(recipe, tmp_path / "broken")
    train(recipe, tmp_path / "broken")
    assert_same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_ends(recipe, tmp_path, number, code):
    recipe = changed(recipe, train={"steps": 2000, "checkpoint_every": 2000, "evaluate_every": 2000}, data={"workers": 2})
    (tmp_path / "recipe.toml").write_text(dump_recipe(recipe))
    out, errors = tmp_path / "run", tmp_path / "errors"
    process = start(run_cli, ["train", str(tmp_path / "recipe.toml"), "--out", str(out)], errors)
    while not (out / "student" / "metrics.csv").exists() or "\n5," not in (out / "student" / "metrics.csv").read_text():
        assert process.is_alive(), errors.read_text()
        process.join(0.05)
    os.kill(process.pid, number)
    assert wait(process, 30) == code
    step = torch.load(out / "student" / "last.ckpt", weights_only=True)["counters"]["step"]
    lines = errors.read_text().splitlines()
    assert f"stopped after step {step} of 2000; the same command goes on from there" in lines
    assert not any("Traceback" in line for line in lines)


def test_an_evaluation_that_was_interrupted_is_made_up_for(recipe, tmp_path, monkeypatch):
    recipe = changed(recipe, train={"steps": 12, "checkpoint_every": 6, "evaluate_every": 6})
    train(recipe, tmp_path / "whole")
    original = loop.evaluate

    def interrupted(*given, **more):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*given, **more)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken")
    monkeypatch.setattr(loop, "evaluate", original)
    counters = torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)["counters"]
    assert (counters["step"], counters["evaluated"]) == (6, 0)
    train(recipe, tmp_path / "broken")
    state, best, _ = result(tmp_path / "whole")
    other_state, other_best, _ = result(tmp_path / "broken")
    assert best == other_best
    assert state["counters"] == other_state["counters"]


def test_a_full_disk_keeps_the_previous_checkpoint(recipe, tmp_path):
    recipe = changed(recipe, train={"steps": 12, "checkpoint_every": 6, "evaluate_every": 12})
    (tmp_path / "recipe.toml").write_text(dump_recipe(recipe))
    out, errors = tmp_path / "run", tmp_path / "errors"
    with power_cut(8):
        train_stage(recipe, out)
    before = (out / "student" / "last.ckpt").read_bytes()
    words = ["train", str(tmp_path / "recipe.toml"), "--out", str(out)]
    assert wait(start(run_cli, words, errors, len(before) // 2)) == 2
    assert (out / "student" / "last.ckpt").read_bytes() == before
    complaints = [line for line in errors.read_text().splitlines() if line.startswith("semivss: ")]
    assert len(complaints) == 1
    assert "last.ckpt: cannot write (File too large)" in complaints[0]
    assert not any("Traceback" in line for line in errors.read_text().splitlines())
    assert wait(start(run_cli, words, errors)) == 0  # space again: goes on
    train(recipe, tmp_path / "whole")
    assert_same(tmp_path / "whole", out / "student")


def test_another_recipe_is_refused_and_says_what_differs(recipe, tmp_path):
    short = changed(recipe, train={"steps": 4})
    train(short, tmp_path / "run")
    saved = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(SemivssError, match=r"last.ckpt: was made with train.lr = 0.003, the recipe says 0.01; set it back"):
        train(changed(short, train={"lr": 0.01}), tmp_path / "run")
    with pytest.raises(SemivssError, match=r"train.steps = 4, the recipe says 40"):
        train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == saved
    train(changed(short, data={"workers": 2, "cache_mb": 0}), tmp_path / "run")  # nothing that changes a weight
    train(changed(short, train={"lr": 0.01}), tmp_path / "run", resume=False)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() != saved


def test_a_checkpoint_of_before_a_setting_existed_goes_on(recipe, tmp_path):
    with power_cut(5):
        train(recipe, tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    settings = json.loads(state["recipe"])
    del settings["train"]["layer_decay"], settings["data"]["train"][0]["weight"], settings["model"]["mask2former"]["mask_channels"]
    torch.save(state | {"recipe": json.dumps(settings)}, tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt", recipe)["counters"]["step"] == 4
    with pytest.raises(SemivssError, match=r"was made with train\.layer_decay = null, the recipe says 0\.9"):
        load_checkpoint(tmp_path / "last.ckpt", changed(recipe, train={"layer_decay": 0.9}))


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "foreign"])
def test_a_damaged_checkpoint_is_one_line_with_a_remedy(recipe, tmp_path, damage):
    short = changed(recipe, train={"steps": 2})
    train(short, tmp_path / "run")
    path = tmp_path / "run" / "last.ckpt"
    data = bytearray(path.read_bytes())
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 16
            path.write_bytes(data)
        case "foreign":
            torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"^\S*last.ckpt: .*delete it to train from the start") as caught:
        train(short, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_code_inside_is_not_run(recipe, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "run").mkdir()
    torch.save({"format": 1, "recipe": Payload()}, tmp_path / "run" / "last.ckpt")
    with pytest.raises(WeightsError, match="damaged checkpoint"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "executed").exists()


def test_two_processes_never_share_a_folder(recipe, tmp_path):
    from filelock import FileLock

    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock.json").write_text(json.dumps({"pid": 4711, "host": "there", "since": "2024-01-01 10:00:00"}))
    with FileLock(out / ".lock"), pytest.raises(SemivssError, match=r"process 4711 on there .* is writing there; .*--out"):
        train(recipe, out)
