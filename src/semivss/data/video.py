"""Video files: a path in, upright RGB frames out, one at a time and frame-exact; and RGB frames in, an mp4 out.

Frames are numbered 0, 1, 2, ... in the order in which they are shown; the stem of a frame is its number in eight digits.
"""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from semivss.atomic import atomic_file
from semivss.data.container import REMAKE, Tally, decoded, opened, packet_times
from semivss.errors import DataError, DefectError

SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
_BT709, _LIMITED = 1, 1  # colour matrix and range that we write and tag, so that no player has to guess


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
            DefectError: kind truncated, corrupt_video or size_change, after all good frames before it were yielded.
        """
        tally = Tally()
        with opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            tally.expect(container, stream)
            for index, frame in enumerate(decoded(container, stream, tally)):
                try:
                    picture = self.upright.rgb(frame)
                except DefectError as error:  # of another size, and so is what follows
                    if on_defect is None:
                        raise
                    on_defect(error)
                    return
                yield stem(index), picture
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
        # Same frames, same bytes: with look-ahead and several threads x264 gave other files from call to call (7 % smaller ones).
        options = {"crf": "20", "preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
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
