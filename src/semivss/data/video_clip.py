"""A video file as a clip with random access: a path and a frame number in, the very pixels that streaming gives there out."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from semivss.data.container import REMAKE, Tally, decoded, opened, packet_times
from semivss.data.files import LabelReader
from semivss.data.video import VideoFile, stem
from semivss.errors import DefectError


class _Decoder:
    """An open video file that is decoded forward from a place near the wanted frame."""

    def __init__(self, path: Path) -> None:
        self._stack = ExitStack()
        # One decoding thread (the default): a decoder with threads could not be closed after a fork.
        self._container, self._stream = self._stack.enter_context(opened(path))
        self._frames: Iterator[Any] = iter(())
        self.ahead = -1  # number of the frame that comes next; -1 = nothing comes

    def close(self) -> None:
        self._stack.close()

    def seek(self, time: int | None) -> None:
        """Go to the last key frame shown at `time` or before (stream units); none = where a fresh file stands."""
        if time is not None:
            self._container.seek(time, stream=self._stream, backward=True)
        self._frames = decoded(self._container, self._stream, Tally())

    def forward(self, times: Int64[np.ndarray, "frames"], index: int) -> Any:
        """Decode up to frame `index`; none if it does not come."""
        for frame in self._frames:
            if frame.pts is not None and frame.pts >= times[index]:
                self.ahead = int(np.searchsorted(times, frame.pts)) + 1
                return frame if frame.pts == times[index] and not frame.is_corrupt else None
        self.ahead = -1
        return None


class OpenDecoders:
    """At most `limit` open video files, shared by the clips of a data set, so that thousands of clips need few file handles.

    Belongs to one process: a copy in another process starts empty.
    """

    def __init__(self, limit: int = 4) -> None:
        self._limit, self._owner = limit, os.getpid()
        self._decoders: OrderedDict[Path, _Decoder] = OrderedDict()

    def get(self, path: Path, *, fresh: bool = False) -> _Decoder:
        """The open decoder of `path`, opened if needed or if it must be `fresh`. Raises DefectError as `VideoFile` does."""
        if self._owner != os.getpid():  # a forked copy shares its file positions with the parent: leave its handles alone
            self._decoders, self._owner = OrderedDict(), os.getpid()
        if fresh and path in self._decoders:
            self._decoders.pop(path).close()
        if path not in self._decoders:
            self._decoders[path] = _Decoder(path)
        self._decoders.move_to_end(path)
        while len(self._decoders) > self._limit:
            self._decoders.popitem(last=False)[1].close()
        return self._decoders[path]

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit, "_owner": -1, "_decoders": OrderedDict()}


@dataclass(eq=False)
class VideoClip:
    """A video as a clip. Implements `Clip`; labels come from mask files of some of its frames."""

    path: Path
    count: int  # frames, as `VideoFile.count` says
    label: str = ""  # name in the data set; empty = the file's stem
    masks_of: Mapping[int, Path] = field(default_factory=dict)  # frame number -> mask file
    read_labels: LabelReader | None = None
    decoders: OpenDecoders = field(default_factory=lambda: OpenDecoders(1), repr=False)
    _known: tuple[VideoFile, np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the video; unique in its data set."""
        return self.label or self.path.stem

    @property
    def stems(self) -> tuple[str, ...]:
        """Frame numbers in eight digits."""
        return tuple(stem(index) for index in range(self.count))

    @property
    def masks(self) -> tuple[Path | None, ...]:
        """Mask file of each frame, as a clip of picture files has them."""
        return tuple(self.masks_of.get(index) for index in range(self.count))

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB frame `index`. Raises DefectError when it cannot be decoded."""
        file, times, keys = self._index()
        if not 0 <= index < len(times):
            raise DefectError(self.path, "truncated", f"has {len(times)} frames, number {index} is asked for", "import the video again")
        found = self._next(times, keys, index) or self._sought(times, keys, index)
        if found is None:
            raise DefectError(self.path, "corrupt_video", f"frame {index} cannot be decoded", REMAKE)
        return file.upright.rgb(found)

    def _next(self, times: np.ndarray, keys: np.ndarray, index: int) -> Any:
        """The frame by decoding on from the last one, where no key frame lies between; else none."""
        decoder = self.decoders.get(self.path)
        if not 0 <= decoder.ahead <= index or np.searchsorted(keys, times[decoder.ahead], "right") != np.searchsorted(
            keys, times[index], "right"
        ):
            return None
        return decoder.forward(times, index)

    def _sought(self, times: np.ndarray, keys: np.ndarray, index: int) -> Any:
        """The frame by seeking. Pictures that lead an open group need the group before; the last resort is the file's beginning."""
        key = int(np.searchsorted(keys, times[index], side="right")) - 1
        for start in (key, key - 1, None):
            decoder = self.decoders.get(self.path, fresh=start is None)
            decoder.seek(int(keys[start]) if start is not None and start >= 0 else None)
            found = decoder.forward(times, index)
            if found is not None:
                return found
        return None

    def _index(self) -> tuple[VideoFile, np.ndarray, np.ndarray]:
        if self._known is None:
            self._known = (VideoFile(self.path), *packet_times(self.path))
        return self._known

    def is_labelled(self, index: int) -> bool:
        """Whether the frame has a mask that this data set may open."""
        return index in self.masks_of

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Training ids, 255 = ignore. Raises DefectError for a damaged or unsuitable mask."""
        if self.read_labels is None or index not in self.masks_of:
            raise IndexError(f"frame {index} of {self.name} has no labels")
        return self.read_labels(self.masks_of[index])

    def stream(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """(stem, frame) in order, holding one frame at a time. Raises DefectError after the last sound frame of a damaged file."""
        return VideoFile(self.path).stream()
