"""Every kind of bad input in one table: each command gives one line with file and remedy, and exit code 2."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.data.owndata import NAMES, color_mask, frame, ids, save
from tests.data.videos import write_video

from semivss.cli import main
from semivss.data.policy import read_pair
from semivss.data.vspw import read_vspw
from semivss.errors import DefectError

FRAME, MASK = "data/v1/origin/00000001.jpg", "data/v1/mask/00000001.png"


def write_set(root: Path) -> Path:
    """Two videos of three labelled frames in the VSPW layout, all sound."""
    for video in ("v1", "v2"):
        for index in range(3):
            save(
                root / "data" / video / "origin" / f"{index:08d}.jpg", np.random.default_rng(index).integers(0, 255, (20, 30, 3), np.uint8)
            )
            save(root / "data" / video / "mask" / f"{index:08d}.png", np.where(ids(index) == 255, 0, ids(index) + 1).astype(np.uint8))
    (root / "train.txt").write_text("v1\nv2\n")
    return root


def cut(name: str, keep: float = 0.6) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[: int((root / name).stat().st_size * keep)]) and None


def fill(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def flip(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[-30] ^= 4  # inside the picture data, which Pillow does not check
        (root / name).write_bytes(data)

    return spoil


def as_jpeg(root: Path) -> None:
    save(root / "x.jpg", ids(1))
    (root / "x.jpg").rename(root / MASK)


def no_frames(root: Path) -> None:
    for path in (root / "data" / "v2" / "origin").iterdir():
        path.unlink()


def png_frame(root: Path) -> None:
    (root / FRAME).unlink()
    save(root / FRAME.replace(".jpg", ".png"), frame(1))
    cut(FRAME.replace(".jpg", ".png"))(root)


SET = {
    "frame truncated": (cut(FRAME), r"00000001\.jpg"),
    "frame cut in its header": (cut(FRAME, 0.01), r"00000001\.jpg"),
    "frame zero bytes": (fill(FRAME, b""), r"00000001\.jpg.*empty"),
    "frame is text": (fill(FRAME, b"hello" * 99), r"00000001\.jpg"),
    "frame PNG truncated": (png_frame, r"origin/00000001\.png"),
    "frame gone": (lambda root: (root / FRAME).unlink(), r"mask/00000001\.png.*no frame"),
    "mask truncated": (cut(MASK), r"mask/00000001\.png"),
    "mask zero bytes": (fill(MASK, b""), r"mask/00000001\.png.*empty"),
    "mask is text": (fill(MASK, b"hello" * 99), r"mask/00000001\.png"),
    "mask is a JPEG": (as_jpeg, r"mask/00000001\.png.*JPEG"),
    "mask with a flipped bit": (flip(MASK), r"mask/00000001\.png.*checksum"),
    "mask RGB": (lambda root: save(root / MASK, color_mask(ids(1))), r"mask/00000001\.png.*colour picture"),
    "mask RGBA": (lambda root: save(root / MASK, np.zeros((20, 30, 4), np.uint8)), r"mask/00000001\.png.*colour picture"),
    "mask 16-bit": (lambda root: save(root / MASK, np.full((20, 30), 700, np.uint16)), r"mask/00000001\.png.*16-bit"),
    "mask of another size": (lambda root: save(root / MASK, np.zeros((20, 31), np.uint8)), r"mask/00000001\.png.*31x20.*30x20"),
    "mask id outside": (lambda root: save(root / MASK, np.full((20, 30), 252, np.uint8)), r"mask/00000001\.png.*252"),
    "mask palette, id outside": (lambda root: save(root / MASK, np.full((20, 30), 200, np.uint8), bytes(768)), r"mask/00000001\.png.*200"),
    "mask gone": (lambda root: (root / MASK).unlink(), r"mask/00000001\.png.*no mask"),
    "no frames in a video": (no_frames, r"v2/origin.*no frames"),
    "list names a missing video": (fill("train.txt", b"v1\nv2\nv3\n"), r"v3|train\.txt"),
    "list empty": (fill("train.txt", b"\n\n"), r"train\.txt.*empty"),
    "list not text": (fill("train.txt", b"\xff\xfe\x00v1"), r"train\.txt.*UTF-8"),
}
SOUND = {
    "CRLF": fill("train.txt", b"v1\r\nv2\r\n"),
    "no last newline": fill("train.txt", b"v1\nv2"),
    "byte-order mark": fill("train.txt", b"\xef\xbb\xbfv1\nv2\n"),
    "dot files": lambda root: (root / "data" / "v1" / "mask" / "._00000001.png").write_bytes(b"AppleDouble"),
    "palette mask": lambda root: save(root / MASK, ids(1) + np.uint8(1), bytes(range(256)) * 3),
    "grey frame": lambda root: save(root / FRAME, frame(1)[..., 0]),
    "16-bit mask of small ids": lambda root: save(root / MASK, np.full((20, 30), 3, np.uint16)),
}


def run(monkeypatch, capsys, *words: object) -> tuple[int, list[str]]:
    """Exit code and lines of `semivss <words>`."""
    monkeypatch.setattr(sys, "argv", ["semivss", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    return int(left.value.code or 0), (printed.out + printed.err).splitlines()


def told(lines: list[str], pattern: str) -> list[str]:
    return [line for line in lines if re.search(pattern, line)]


@pytest.mark.parametrize("case", SET)
def test_bad_file_is_one_line_with_remedy_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    spoil, pattern = SET[case]
    spoil(write_set(tmp_path / "set"))
    code, lines = run(monkeypatch, capsys, "data", "check", tmp_path / "set", "--out", tmp_path / "look.png")
    assert code == 2, lines
    (line,) = told(lines, pattern)
    assert "; " in line
    assert not told(lines, "Traceback")


@pytest.mark.parametrize("case", SOUND)
def test_odd_but_sound_input_is_taken(case, tmp_path, monkeypatch, capsys):
    SOUND[case](write_set(tmp_path / "set"))
    code, lines = run(monkeypatch, capsys, "data", "check", tmp_path / "set", "--out", tmp_path / "look.png")
    assert code == 0, lines
    assert told(lines, r"train: 2 videos, 6 frames, 6 labelled")


@pytest.mark.parametrize("case", [case for case in SET if case.startswith(("frame", "mask")) and "gone" not in case])
def test_no_bad_file_is_used_silently(case, tmp_path):
    SET[case][0](write_set(tmp_path / "set"))
    dataset = read_vspw(tmp_path / "set", "train")
    with pytest.raises(DefectError):
        read_pair(dataset.clips[0], 1, "strict")
    pair, defects = read_pair(dataset.clips[0], 1, "skip")
    assert pair is None
    assert len(defects) == 1


@pytest.mark.parametrize("policy", ["skip", "ignore"])
def test_other_policies_count_and_go_on(policy, tmp_path, monkeypatch, capsys):
    root = write_set(tmp_path / "set")
    for case in ("mask 16-bit", "no frames in a video"):
        SET[case][0](root)
    code, lines = run(monkeypatch, capsys, "data", "check", root, "--policy", policy, "--out", tmp_path / "look.png")
    assert code == 0, lines
    assert told(lines, r"\b2 defects, policy")


RECIPE = """
[data]
absent_classes = "allow"
[[data.train]]
kind = "vspw"
path = "$SEMIVSS_TEST_SET"
[data.augment]
crop = [32, 32]
[model.pixel]
channels = 8
[train]
steps = 2
batch = 6  # all frames of the set in every step
warmup = 0
threads = 1
checkpoint_every = 1
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """Training that was stopped after its first of two steps, predictions and scores, all made while the set was sound."""
    home = tmp_path_factory.mktemp("begun")
    write_set(home / "set")
    (home / "tiny.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMIVSS_TEST_SET", str(home / "set"))
        patch.setattr("semivss.train.loop.agree", lambda fabric, value: False)  # as Ctrl-C does it
        for words in commands(home, home / "set").values():
            patch.setattr(sys, "argv", ["semivss", *map(str, words)])
            with pytest.raises(SystemExit) as left:
                main()
            assert not left.value.code
    stamp = home / "run" / "student" / "stamp.json"
    stamp.write_text(stamp.read_text().replace('"finished": true', '"finished": false'))
    return home


def commands(home: Path, root: Path) -> dict[str, tuple[object, ...]]:
    model, predictions = home / "run" / "student" / "model", home / "predictions"
    return {
        "train": ("train", home / "tiny.toml", "--out", home / "run"),
        "predict": ("predict", model, root, "--split", "train", "--out", predictions, "--overlay", "none"),
        "score": ("score", predictions, root, "--split", "train", "--json", home / "scores.json"),
    }


def made(home: Path) -> dict[str, bytes]:
    """What must not be lost: checkpoint, model, predictions, scores."""
    return {
        str(path.relative_to(home)): path.read_bytes() for end in ("*.ckpt", "model/*", "*.png", "scores.json") for path in home.rglob(end)
    }


# Predictions are made without masks, scores without frames. Single files that are gone are counted: VSPW as released lacks some.
READS = {
    "train": [case for case in SET if "gone" not in case],
    "predict": [case for case in SET if "gone" not in case and not case.startswith("mask")],
    "score": [case for case in SET if "gone" not in case and not case.startswith("frame")],
}
OTHER_WORDS = {("score", "mask of another size"): r"v1/00000001\.png.*30x20.*31x20"}  # it compares the mask with the prediction


@pytest.mark.parametrize(("command", "case"), [(command, case) for command, cases in READS.items() for case in cases])
def test_no_command_works_on_a_spoiled_set_and_none_loses_what_there_was(command, case, begun, tmp_path, monkeypatch, capsys):
    home, root = tmp_path / "home", tmp_path / "set"
    shutil.copytree(begun, home)
    spoil, pattern = SET[case]
    spoil(write_set(root))
    pattern = OTHER_WORDS.get((command, case), pattern)
    before = made(home)
    monkeypatch.setenv("SEMIVSS_TEST_SET", str(root))
    code, lines = run(monkeypatch, capsys, *commands(home, root)[command])
    assert code == 2, lines
    (line,) = told(lines, pattern)
    assert "; " in line
    assert not told(lines, "Traceback")
    assert made(home) == before
    assert len(before) > 10


@pytest.mark.parametrize(
    ("command", "case", "way"),
    [
        ("train", "frame truncated", "or leave it out with -o data.policy=skip"),
        ("train", "mask id outside", "or read it as 255 with -o data.policy=ignore"),
        ("predict", "frame truncated", "or leave it out with --policy skip"),
        ("score", "mask id outside", "or read it as 255 with --policy ignore"),
    ],
)
def test_the_policy_that_goes_on_is_told_as_the_command_takes_it(command, case, way, begun, tmp_path, monkeypatch, capsys):
    shutil.copytree(begun, tmp_path / "home")
    SET[case][0](write_set(tmp_path / "set"))
    monkeypatch.setenv("SEMIVSS_TEST_SET", str(tmp_path / "set"))
    code, lines = run(monkeypatch, capsys, *commands(tmp_path / "home", tmp_path / "set")[command])
    assert code == 2
    assert lines[-1].endswith(way)


def test_no_policy_is_told_where_there_is_none(tmp_path, monkeypatch, capsys):
    SET["mask truncated"][0](write_set(tmp_path / "set"))
    source, masks = tmp_path / "set" / "data" / "v1" / "origin", tmp_path / "set" / "data" / "v1" / "mask"
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    words = ("data", "import", source, tmp_path / "out", "--masks", masks, "--classes", tmp_path / "classes.txt")
    code, lines = run(monkeypatch, capsys, *words)
    assert code == 2
    assert lines[-1].endswith("; copy the file again from its source")
    code, lines = run(monkeypatch, capsys, "data", "check", tmp_path / "set", "--out", tmp_path / "look.png")
    assert told(lines, r"mask/00000001\.png.*; copy the file again from its source$")
    assert told(
        lines, r"1 defect; mend them, or go on without: train and run with -o data\.policy=skip, predict and score with --policy skip$"
    )


@pytest.mark.parametrize(
    ("command", "case", "count"),
    [
        ("train", "frame gone", "missing_frame 1"),
        ("train", "mask gone", "missing_mask 1"),
        ("predict", "frame gone", "missing_frame 1"),
        ("predict", "mask gone", ""),  # predictions need no masks
    ],
)
def test_a_file_that_is_gone_is_counted(command, case, count, begun, tmp_path, monkeypatch, capsys):
    shutil.copytree(begun, tmp_path / "home")
    SET[case][0](write_set(tmp_path / "set"))
    monkeypatch.setenv("SEMIVSS_TEST_SET", str(tmp_path / "set"))
    code, lines = run(monkeypatch, capsys, *commands(tmp_path / "home", tmp_path / "set")[command])
    assert code == 0, lines
    assert bool(told(lines, "missing")) == bool(count)
    assert told(lines, count)
    assert bool(told(lines, f"set: left out before training: {count}, such as .*0001.png")) == (command == "train")


VIDEOS = {
    "truncated": (lambda path: write_video(path, container={"movflags": "faststart"}) and _halve(path), "cut short"),
    "index cut off": (lambda path: write_video(path) and _halve(path), "cut short"),
    "zero bytes": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_bytes(b"hello" * 99), "not a video"),
    "a picture": (lambda path: save(path.with_suffix(".png"), frame(1)).rename(path), "not a video"),
}


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("case", VIDEOS)
def test_bad_video_is_one_line_with_remedy_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    spoil, words = VIDEOS[case]
    spoil(tmp_path / "drive.mp4")
    code, lines = run(monkeypatch, capsys, "data", "check", tmp_path / "drive.mp4", "--out", tmp_path / "look.png")
    assert code == 2, lines
    (line,) = told(lines, rf"drive\.mp4.*{words}")
    assert "; " in line


WORDS = {
    "empty folder": (("check", "."), "the folder is empty"),
    "no such folder": (("check", "gone"), "no such file"),
    "import of nothing": (("import", "gone", "out"), "no such file"),
    "import of an empty folder": (("import", ".", "out"), "no pictures"),
    "import without masks folder": (("import", "frames", "out", "--masks", "gone", "--classes", "classes.txt"), "gone: no such folder"),
    "import without class list": (("import", "frames", "out", "--masks", "frames"), "--classes"),
    "import with a missing class list": (("import", "frames", "out", "--masks", "frames", "--classes", "gone.txt"), r"gone\.txt"),
}


@pytest.mark.parametrize("case", WORDS)
def test_wrong_words_are_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    words, pattern = WORDS[case]
    monkeypatch.chdir(tmp_path)
    if "frames" in words:
        save(tmp_path / "frames" / "v" / "1.png", frame(1))
        (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    code, lines = run(monkeypatch, capsys, "data", *words)
    assert code == 2
    assert len(lines) == 1
    assert re.search(pattern, lines[0])
    assert not (tmp_path / "out").exists()
