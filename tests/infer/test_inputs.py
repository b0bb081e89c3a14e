"""What is recognised as something to segment, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.video import VideoWriter
from semivss.errors import DataError, DefectError
from semivss.infer.inputs import InputVideo, from_dataset, open_inputs


def pictures(folder: Path, *stems: str, suffix: str = ".jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, stem in enumerate(stems):
        Image.fromarray(np.full((8, 12, 3), 10 * index, np.uint8)).save(folder / f"{stem}{suffix}")
    return folder


def video(path: Path, count: int = 3) -> Path:
    with VideoWriter(path, 10) as writer:
        for index in range(count):
            writer.write(np.full((32, 32, 3), 40 * index, np.uint8))
    return path


def stems(source: InputVideo) -> list[str]:
    def fail(error: DefectError) -> None:
        raise error

    return [stem for stem, _ in source.frames(fail)]


def vspw(root: Path) -> Path:
    for name in ("one", "two"):
        pictures(root / "data" / name / "origin", "00000003", "00000004")
    pictures(root / "data" / "one" / "origin", "._00000003")
    (root / "test.txt").write_text("two")
    (root / "train.txt").write_text("one\r\n")
    return root


def test_a_folder_of_frames_is_one_video_without_hidden_files(tmp_path: Path) -> None:
    (clip,) = open_inputs(pictures(tmp_path / "clip", "b", "a", "._a"))
    assert (clip.name, stems(clip), clip.count(), clip.fps()) == ("clip", ["a", "b"], 2, None)


def test_folders_and_videos_side_by_side_are_many(tmp_path: Path) -> None:
    pictures(tmp_path / "in" / "frames", "1")
    video(tmp_path / "in" / "film.mov")
    (tmp_path / "in" / "notes.txt").write_text("not a video")
    found = open_inputs(tmp_path / "in")
    assert [(source.name, source.count()) for source in found] == [("frames", 1), ("film", 3)]
    assert stems(found[1]) == ["00000000", "00000001", "00000002"]
    assert found[1].fps() == pytest.approx(10)


def test_a_vspw_layout_gives_every_video_or_one_split(tmp_path: Path) -> None:
    root = vspw(tmp_path / "set")
    assert [source.name for source in open_inputs(root)] == ["one", "two"]
    (two,) = open_inputs(root, split="test")
    assert (two.name, stems(two)) == ("two", ["00000003", "00000004"])
    with pytest.raises(DataError, match=r"val\.txt"):
        open_inputs(root, split="val")


def test_several_sources_are_put_together(tmp_path: Path) -> None:
    found = open_inputs([pictures(tmp_path / "a", "1"), video(tmp_path / "b.mp4")])
    assert [source.name for source in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nowhere", "no such file or folder"),
        (lambda folder: folder, "no frames"),
        (lambda folder: pictures(folder, "one") / "one.jpg", "single picture"),
        (lambda folder: pictures(pictures(folder, "1") / "sub", "1").parent, "holds pictures and also sub"),
        (lambda folder: video(pictures(folder / "film", "1").parent / "film.mp4").parent, "second video named film"),
    ],
)
def test_what_cannot_be_segmented_is_one_line(tmp_path: Path, make, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        open_inputs(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_split_of_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set"):
        open_inputs(pictures(tmp_path / "clip", "1"), split="test")


def test_the_identity_tells_other_content_apart(tmp_path: Path) -> None:
    folder, film = pictures(tmp_path / "clip", "1", "2"), video(tmp_path / "film.mp4")
    clip, movie = open_inputs([folder, film])
    assert (clip.identity(), movie.identity()) == tuple(source.identity() for source in open_inputs([folder, film]))
    before = clip.identity(), movie.identity()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)).save(folder / "2.jpg")
    video(film, 4)
    assert clip.identity() != before[0]
    assert movie.identity() != before[1]
    (folder / "1.jpg").write_bytes(b"")
    assert len(clip.identity()) == 16


def test_a_data_set_of_clips_can_be_given_directly(tmp_path: Path) -> None:
    from semivss.data.toy import toy_dataset
    from semivss.settings import Toy

    dataset = toy_dataset(Toy(clips=2, frames=3, size=(48, 64)))
    found = from_dataset(dataset)
    assert [source.name for source in found] == [clip.name for clip in dataset.clips]
    assert stems(found[0]) == list(dataset.clips[0].stems)
    assert found[0].identity() != found[1].identity()
