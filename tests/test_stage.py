"""Stamps of stages: what a killed process, a lost stamp and other inputs lead to."""

from pathlib import Path

import pytest

from semivss.errors import SemivssError
from semivss.stage import Stage


def made(folder: Path, **inputs: str) -> Stage:
    """A finished stage with a model, a checkpoint and a stamp."""
    stage = Stage("train", folder, inputs)
    assert not stage.is_done(again=False)
    (folder / "model").mkdir()
    (folder / "last.ckpt").write_text("old")
    stage.finish()
    return stage


def test_what_was_made_is_put_aside_until_something_takes_its_place(tmp_path):
    first = made(tmp_path / "student", lr="1")
    other = Stage("train", tmp_path / "student", {"lr": "2"})
    assert not other.is_done(again=True)
    assert not (tmp_path / "student" / "last.ckpt").exists()
    assert other.restore()  # its making failed at once
    assert first.is_done(again=False)
    assert not other.is_done(again=True)
    assert first.is_done(again=False)  # it was stopped, and the setting taken back
    assert (tmp_path / "student" / "last.ckpt").read_text() == "old"
    assert not other.is_done(again=True)
    (tmp_path / "student" / "last.ckpt").write_text("new")
    assert not other.restore()
    other.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_kill_while_a_folder_is_put_aside_leaves_no_half_of_it(tmp_path, monkeypatch):
    made(tmp_path / "student", lr="1")
    other = Stage("train", tmp_path / "student", {"lr": "2"})
    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        rename(path, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            other.is_done(again=True)
    assert not (tmp_path / "student").exists()
    assert other.state() == "to do"
    assert not other.is_done(again=False)
    (tmp_path / "student" / "last.ckpt").write_text("new")
    other.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_folder_whose_stamp_is_gone_is_of_unknown_making(tmp_path):
    stage = made(tmp_path / "student", lr="1")
    (tmp_path / "student" / "stamp.json").unlink()
    assert stage.state() == "its stamp is gone, needs --again"
    with pytest.raises(SemivssError, match=r"its stamp is gone.*--again"):
        stage.is_done(again=False)
    assert (tmp_path / "student" / "last.ckpt").is_file()
    assert not stage.is_done(again=True)
    assert not (tmp_path / "student" / "last.ckpt").exists()


def test_a_guard_is_asked_before_a_stamp_is_changed(tmp_path):
    made(tmp_path / "pseudo", frames="1", views="1")
    asked = []

    def guard(changed):
        asked.append(list(changed))
        raise SemivssError("no")

    stage = Stage("label", tmp_path / "pseudo", {"frames": "1", "views": "2"}, guard, piecewise=True)
    with pytest.raises(SemivssError, match="no"):
        stage.is_done(again=True)
    assert asked == [["views"]]
    assert Stage("label", tmp_path / "pseudo", {"frames": "1", "views": "1"}).is_done(again=False)
