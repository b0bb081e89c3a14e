"""Video files: a path in, upright RGB frames out, one at a time and frame-exact; and RGB frames in, an mp4 out.

Frames are numbered 0, 1, 2, ... in the order in which they are shown; the stem of a frame is its number in eight digits.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int64, UInt8

from semivss.atomic import atomic_file
from semivss.errors import DataError, DefectError

SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
REMAKE = "copy or export the video again, or leave it out"
_BT709, _LIMITED = 1, 1  # colour matrix and range that we write and tag, so that no player has to guess
_NO_VIDEO_FORMATS = ("image2", "tty", "hls", "dash", "concat", "sdp")  # FFmpeg would decode a picture or a text file as a "video"


def stem(index: int) -> str:
    """Name of frame `index` of a video, such as 00000012."""
    return f"{index:08d}"


class VideoFile:
    """One video on disk, turned upright as its rotation metadata says. Pixels stay as stored; no aspect ratio is applied."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, read its rate and decode its first frame.

        Raises:
            DefectError: kind missing_file, zero_byte, truncated, not_video or no_frames.
        """
        self.path = Path(path)
        with opened(self.path) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate or 25
            first = next(decoded(container, stream, Tally()), None)
            if first is None:
                raise DefectError(self.path, "no_frames", "no frame of the video can be decoded", REMAKE)
            self.upright = Upright(self.path, first)
        self.fps = float(rate)  # frames a second, the mean of a variable rate
        self.size: tuple[int, int] = self.upright.size  # height, width of the upright frames

    def stream(self, *, on_defect: Callable[[DefectError], None] | None = None) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """(stem, RGB frame) of every decodable frame in order, holding one at a time.

        Frames that the file promises and cannot give are told after the last sound one: the defect goes to `on_defect`, or is raised
        when there is none. Frames behind a gap keep counting without one.

        Raises:
            DefectError: kind truncated or corrupt_video, after all good frames were yielded.
        """
        tally = Tally()
        with opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            tally.expect(container, stream)
            for index, frame in enumerate(decoded(container, stream, tally)):
                yield stem(index), self.upright.rgb(frame)
        defect = tally.defect(self.path)
        if defect is None:
            return
        if on_defect is None:
            raise defect
        on_defect(defect)

    def count(self) -> int:
        """Number of frames, counted from the packets without decoding them.

        Raises:
            DefectError: kind truncated, the file is cut short.
        """
        times, _ = packet_times(self.path)
        return len(times)


@dataclass
class Tally:
    """What a video promised and what came."""

    packets: int = 0  # that should each become a frame
    frames: int = 0
    broken: int = 0  # packets refused by the decoder, and frames it flags as damaged
    beyond: int = 0  # frames that lie behind the end of the file
    declared: int = 0  # frames by the container's header, 0 where it does not say
    ends: float | None = None  # seconds by the stream's header
    reached: float | None = None  # end of the last packet in seconds
    spacing: float = 0.04  # seconds between frames

    def expect(self, container: Any, stream: Any) -> None:
        """Read the promises of the header."""
        size = Path(container.name).stat().st_size
        entries = list(stream.index_entries) if "mp4" in container.format.name else []
        self.beyond = sum(entry.pos + entry.size > size for entry in entries)
        self.declared = 0 if entries else stream.frames
        self.spacing = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        self.ends = None if entries or self.declared else _seconds(stream.metadata.get("DURATION"))

    def defect(self, path: Path) -> DefectError | None:
        """The difference, if any."""
        short = self.ends is not None and self.reached is not None and self.ends - self.reached > 2.5 * self.spacing
        missing = max(self.beyond, self.declared - self.frames, round((self.ends - self.reached) / self.spacing) if short else 0)  # type: ignore[operator]
        if self.beyond or short:
            return DefectError(
                path, "truncated", f"the video is cut short: about {missing} frames are missing after frame {self.frames - 1}", REMAKE
            )
        if self.broken or missing > 0 or self.packets > self.frames:
            lost = max(missing, self.packets - self.frames, 0)
            return DefectError(
                path, "corrupt_video", f"damaged: {self.frames} frames decoded, {lost} lost, {self.broken} parts broken", REMAKE
            )
        return None


def _seconds(text: str | None) -> float | None:
    """Seconds of a duration tag such as 00:00:02.500000000."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first real video stream."""
    if not path.is_file():
        raise DefectError(path, "missing_file", "no such video", "check the path")
    if path.stat().st_size == 0:
        raise DefectError(path, "zero_byte", "the file is empty (0 bytes)", REMAKE)
    try:  # only local files: a playlist must not make us open addresses
        container = av.open(os.fspath(path), metadata_errors="ignore", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path) from error
    with container:
        if any(name in container.format.name for name in _NO_VIDEO_FORMATS) or container.format.name.endswith("_pipe"):
            raise DefectError(
                path, "not_video", f"not a video (looks like {container.format.name})", "give an mp4, mov, mkv, webm or avi file"
            )
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise DefectError(path, "not_video", "holds no video track", "give a file with a video track")
        yield container, streams[0]


def _unreadable(path: Path) -> DefectError:
    with path.open("rb") as file:
        begins_like_mp4 = file.read(12)[4:8] == b"ftyp"
    if begins_like_mp4:  # the table of frames stands at the end of most mp4 files
        return DefectError(path, "truncated", "the video is cut short or damaged, its table of frames is missing", REMAKE)
    return DefectError(path, "not_video", "not a video that FFmpeg can read", "give an mp4, mov, mkv, webm or avi file")


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def decoded(container: Any, stream: Any, tally: Tally) -> Iterator[Any]:
    """Frames in order of presentation; refused packets are counted and passed over."""
    for packet in _packets(container, stream, tally):
        try:
            frames = packet.decode()
        except (av.FFmpegError, EOFError):
            tally.broken += 1
            continue
        for frame in frames:
            tally.frames += 1
            tally.broken += bool(frame.is_corrupt)
            yield frame


def _packets(container: Any, stream: Any, tally: Tally) -> Iterator[Any]:
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                tally.packets += "mp4" in container.format.name  # elsewhere a packet may hold half a frame, or none to show
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    tally.reached = max(tally.reached or 0.0, end)
            yield packet
    except av.FFmpegError:
        tally.broken += 1


class Upright:
    """Turns decoded frames of one video into upright RGB arrays."""

    def __init__(self, path: Path, first: Any) -> None:
        self._path, self._stored = path, (first.height, first.width)
        self._reformatter = VideoReformatter()
        # Asked of the first frame only: a frame and its side data refer to each other, so that every frame asked would wait for the
        # garbage collector, some hundred frames later.
        matrix = first.side_data.get("DISPLAYMATRIX")
        self._matrix = None if matrix is None else np.frombuffer(bytes(matrix), np.int32)
        self.size: tuple[int, int] = self.rgb(first).shape[:2]

    def rgb(self, frame: Any) -> UInt8[np.ndarray, "H W 3"]:
        if (frame.height, frame.width) != self._stored:
            detail = f"its frames change size from {self._stored[1]}x{self._stored[0]} to {frame.width}x{frame.height}"
            raise DefectError(self._path, "size_change", detail, "cut the video there or export it at one size")
        pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return pixels if self._matrix is None else turn_upright(pixels, self._matrix)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reformatter": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _reformatter=VideoReformatter())


def turn_upright(pixels: UInt8[np.ndarray, "H W 3"], matrix: np.ndarray) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Apply a display matrix (ISO 14496-12, 3x3: x' = a x + c y, y' = b x + d y), rounded to quarter turns and mirrors."""
    a, b, c, d = (int(matrix[k]) for k in (0, 1, 3, 4))
    if abs(a) + abs(d) < abs(b) + abs(c):  # x and y change places
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def packet_times(path: Path) -> tuple[Int64[np.ndarray, "frames"], Int64[np.ndarray, "keys"]]:
    """Presentation times of all frames, in order, and of the key frames, in units of the stream; read without decoding.

    Raises:
        DefectError: the file is no video, cut short, or has frames without a time.
    """
    times, keys, tally = [], [], Tally()
    with opened(path) as (container, stream):
        tally.expect(container, stream)
        for packet in _packets(container, stream, tally):
            if not packet.size or packet.is_discard:
                continue
            if packet.pts is None:
                raise DefectError(path, "no_times", "its frames have no time stamps", "convert the video to mp4")
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    tally.frames = len(times)
    defect = tally.defect(path)
    if defect:
        raise defect
    return np.unique(np.array(times, np.int64)), np.sort(np.array(keys, np.int64))


class VideoWriter:
    """Writes RGB frames of one size to an h264 mp4 that appears under its name only when complete.

    Frames of odd height or width get their last row or column doubled, which yuv420p asks for. Use as a context manager::

        with VideoWriter(path, fps=25) as video:
            video.write(frame)
    """

    def __init__(self, path: Path | str, fps: float | int | Fraction, size: tuple[int, int] | None = None) -> None:
        """`size` is (height, width); none = that of the first frame."""
        self.path, self._size = Path(path), size
        self._rate = Fraction(fps).limit_denominator(1001)  # 30000/1001 and its kin are hit exactly
        if self._rate <= 0:
            raise DataError(f"{self.path}: {fps} frames a second is no rate; give a number above 0")
        self._stack = contextlib.ExitStack()
        self._stream: Any = None

    def __enter__(self) -> "VideoWriter":
        self._file = self._stack.enter_context(atomic_file(self.path, sync=False))
        self._container = av.open(self._file, "w", format="mp4")
        return self

    def write(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Append one RGB frame.

        Raises:
            DataError: the frame has another size than the first one.
        """
        height, width = frame.shape[:2]
        self._size = self._size or (height, width)
        if (height, width) != self._size:
            raise DataError(
                f"{self.path}: a frame of {width}x{height} does not fit a video of {self._size[1]}x{self._size[0]}; write one size"
            )
        if self._stream is None:
            self._stream = self._add_stream(height + height % 2, width + width % 2)
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._mux(self._reformatter.reformat(picture, format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED, threads=1))

    def _add_stream(self, height: int, width: int) -> Any:
        stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED
        self._reformatter = VideoReformatter()
        return stream

    def _mux(self, picture: Any) -> None:
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if self._stream is None:
                    raise DataError(f"{self.path}: no frame was written; an mp4 needs at least one")
                self._mux(None)
                self._container.close()
        except BaseException as failure:
            self._leave(type(failure), failure, failure.__traceback__)
            raise
        self._leave(kind, error, trace)

    def _leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):  # the file goes away, whatever its trailer meets
                self._container.close()
        self._stack.__exit__(kind, error, trace)
