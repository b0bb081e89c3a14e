"""Video in: frame-exact, upright, honest about damage. Video out: true colours, complete or absent."""

import multiprocessing
import pickle
import resource
from pathlib import Path

import av
import numpy as np
import pytest
from tests.data.videos import content, write_video

from semivss.data.clips import Clip
from semivss.data.video import VideoFile, VideoWriter
from semivss.data.video_clip import OpenDecoders, VideoClip
from semivss.errors import DataError, DefectError, SemivssError

VARIABLE = [sum(33 if k % 3 else 90 for k in range(index)) for index in range(40)]
SHAPES = {
    "b-frames": {},
    "rotated": {"rotation": 90},
    "mirrored": {"rotation": 0, "hflip": True},
    "variable rate": {"times": VARIABLE},
    "open groups": {"options": {"x264-params": "open-gop=1:bframes=5:keyint=12:scenecut=0"}},
}


def test_every_frame_is_given_once_in_order(tmp_path):
    video = VideoFile(write_video(tmp_path / "a.mp4"))
    frames = list(video.stream())
    assert [stem for stem, _ in frames] == [f"{index:08d}" for index in range(40)]
    assert [round(frame[20:, 40:].mean() / 4) for _, frame in frames] == list(range(40))
    assert video.size == (48, 64)
    assert video.fps == pytest.approx(30000 / 1001)
    assert video.count() == 40


def test_variable_rate_loses_and_doubles_nothing(tmp_path):
    video = VideoFile(write_video(tmp_path / "a.mp4", times=VARIABLE))
    assert [round(frame[20:, 40:].mean() / 4) for _, frame in video.stream()] == list(range(40))
    assert 18 < video.fps < 21  # 40 frames in about 2.1 s


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, -1)])
def test_rotation_metadata_turns_the_frame(tmp_path, rotation, turns):
    upright = np.rot90(content(0), turns)
    _, frame = next(VideoFile(write_video(tmp_path / "a.mp4", rotation=rotation)).stream())
    assert frame.shape == upright.shape
    assert np.abs(frame.astype(int) - upright).mean() < 6


def test_matrix_of_a_phone_held_upright_turns_clockwise(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, ..., then the 3x3 matrix of the track header
    data[at : at + 20] = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -(1 << 16), 0))
    path.write_bytes(data)
    video = VideoFile(path)
    _, frame = next(video.stream())
    assert video.size == (64, 48)
    assert (frame[4, -6] > (200, -1, -1)).all()  # the red corner of the top left goes to the top right
    assert np.abs(frame.astype(int) - np.rot90(content(0), -1)).mean() < 6


@pytest.mark.parametrize("shape", SHAPES)
def test_random_access_gives_the_streamed_pixels(tmp_path, shape):
    path = write_video(tmp_path / "a.mp4", **SHAPES[shape])
    frames = [frame for _, frame in VideoFile(path).stream()]
    clip = VideoClip(path, len(frames))
    for index in [*np.random.default_rng(1).permutation(40), *range(3, 40, 5)]:
        np.testing.assert_array_equal(clip.frame(int(index)), frames[index])


def test_a_video_is_a_clip_that_survives_pickling_and_a_fork(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    clip = VideoClip(path, 40)
    assert isinstance(clip, Clip)
    assert (clip.name, clip.stems[7], clip.is_labelled(7)) == ("a", "00000007", False)
    expected = [clip.frame(5).mean(), clip.frame(6).mean()]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(_mean, [pickle.loads(pickle.dumps(clip))] * 2) == [expected] * 2  # noqa: S301
    assert [clip.frame(5).mean(), clip.frame(6).mean()] == expected


def _mean(clip: VideoClip) -> list[float]:
    return [clip.frame(5).mean(), clip.frame(6).mean()]


def test_many_clips_share_few_open_files(tmp_path):
    decoders = OpenDecoders(2)
    clips = [VideoClip(write_video(tmp_path / f"{k}.mp4", 3), 3, decoders=decoders) for k in range(5)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for clip in clips:
        clip.frame(1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_number_behind_the_end_is_told(tmp_path):
    with pytest.raises(DefectError, match=r"a\.mp4.*has 5 frames, number 7"):
        VideoClip(write_video(tmp_path / "a.mp4", 5), 9).frame(7)


def test_truncated_video_gives_its_good_frames_then_tells(tmp_path):
    path = write_video(tmp_path / "a.mp4", container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    seen = []
    with pytest.raises(DefectError, match=r"a\.mp4: the video is cut short: about \d+ frames are missing") as caught:
        seen.extend(round(frame[20:, 40:].mean() / 4) for _, frame in VideoFile(path).stream())
    assert caught.value.kind == "truncated"
    assert len(seen) > 10
    assert seen == sorted(set(seen))
    with pytest.raises(DefectError, match="cut short"):
        VideoFile(path).count()


def test_a_reader_may_take_the_defect_instead_of_the_exception(tmp_path):
    path = write_video(tmp_path / "a.mp4", container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    defects = []
    assert list(VideoFile(path).stream(on_defect=defects.append))
    assert [defect.kind for defect in defects] == ["truncated"]


def test_a_hole_in_the_middle_is_told(tmp_path):
    path = write_video(tmp_path / "a.mp4", container={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 1500] = bytes(1500)
    path.write_bytes(data)
    with pytest.raises(DefectError, match=r"a\.mp4: damaged"):
        list(VideoFile(path).stream())


def test_truncated_matroska_is_told(tmp_path):
    path = write_video(tmp_path / "a.mkv")
    assert len(list(VideoFile(path).stream())) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DefectError, match=r"a\.mkv"):
        list(VideoFile(path).stream())


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("this is no video\n" * 50)


def _picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48)).save(path, "PNG")


def _cut_index(path: Path) -> None:
    write_video(path)
    path.write_bytes(path.read_bytes()[:-600])


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_empty, "zero_byte"),
        (_text, "not_video"),
        (_picture, "not_video"),
        (_cut_index, "truncated"),
        (_sound, "not_video"),
        (lambda path: None, "missing_file"),
    ],
)
def test_no_video_is_one_line_with_the_file_and_a_remedy(tmp_path, make, kind):
    make(tmp_path / "bad.mp4")
    with pytest.raises(DefectError, match=r"bad\.mp4: .+; .+") as caught:
        VideoFile(tmp_path / "bad.mp4")
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("color", [(200, 30, 60), (0, 0, 0), (255, 255, 255), (0, 255, 0), (10, 20, 250)])
def test_flat_colour_survives_writing_and_reading(tmp_path, color):
    with VideoWriter(tmp_path / "a.mp4", fps=25) as video:
        for _ in range(3):
            video.write(np.full((47, 63, 3), color, np.uint8))
    file = VideoFile(tmp_path / "a.mp4")
    frames = [frame for _, frame in file.stream()]
    assert len(frames) == 3
    assert frames[0].shape == (48, 64, 3)  # one row and one column doubled
    assert np.abs(frames[1].astype(int) - color).max() <= 6
    assert file.fps == 25


def test_writer_hits_broadcast_rates_exactly(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", fps=29.97002997) as video:
        for index in range(3):
            video.write(content(index))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].average_rate.numerator, container.streams.video[0].average_rate.denominator) == (30000, 1001)
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_an_error_while_writing_keeps_the_previous_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    before = path.read_bytes()

    def write_and_fail():
        with VideoWriter(path, fps=10) as video:
            video.write(content(0))
            video.write(content(0, (32, 32)))

    with pytest.raises(DataError, match="32x32 does not fit"):
        write_and_fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", fps=10):
        pass
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_previous_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    before = path.read_bytes()
    process = multiprocessing.get_context("fork").Process(target=_write_on_a_full_disk, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _write_on_a_full_disk(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    noise = np.random.default_rng(0)
    try:
        with VideoWriter(path, fps=10) as video:
            for _ in range(60):
                video.write(noise.integers(0, 255, (96, 128, 3), np.uint8))
    except SemivssError as error:
        raise SystemExit(7 if "free space" in str(error) else 8) from None
