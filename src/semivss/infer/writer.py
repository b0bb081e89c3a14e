"""Labels, entropies and probabilities of one video in; its files and the record of what was written out.

Under the output folder: ``<video>/<stem>.png`` (8-bit palette PNG, pixel = class id), ``entropy/<video>/<stem>.png`` (16 bit, codes of
`data/codes.py`), ``probabilities/<video>/<stem>.npz`` (`p`, C x H x W, times `scale` = probability), ``confidence/<video>/<stem>.png``
(8 bit, 255 * largest probability), ``top_classes/<video>/<stem>.npz`` (`ids`, K x h x w, most likely first, a cell is 8 x 8 pixels),
``histograms/<video>.npz`` (`counts`, C x 4096: pixels of each class by entropy code), ``<video>.mp4``, and ``records/<video>.jsonl``:
what the video was made from, a line for each file, and a last line with the counts. A video without that record is unfinished.
"""

import contextlib
import glob
import hashlib
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt16
from PIL import Image

from semivss.atomic import atomic_bytes, atomic_file
from semivss.data.codes import code_histogram
from semivss.data.labels import LabelSet
from semivss.data.pseudo import CONFIDENCE, ENTROPY, HISTOGRAMS, RECORDS, TOP
from semivss.data.video import VideoWriter
from semivss.digest import file_sha256
from semivss.errors import DataError
from semivss.infer.answers import Answers
from semivss.infer.overlay import compose
from semivss.infer.png16 import png16

PROBABILITIES = "probabilities"
MAPS = (ENTROPY, PROBABILITIES, CONFIDENCE, TOP)  # folders with a folder for each video
RESERVED = (*MAPS, HISTOGRAMS, RECORDS)  # folders beside those of the videos
_ENCODERS = 2  # threads that compress and write; the libraries let go of the interpreter meanwhile
_AHEAD = 4  # frames that may wait for them


@dataclass(frozen=True)
class Product:
    """What is written for one frame."""

    stem: str
    frame: UInt8[np.ndarray, "H W 3"]
    answers: Answers


class VideoFiles:
    """Writes one video's files and their record; the record appears when the block ends without an exception.

    Files are compressed and written by `_ENCODERS` threads, the record, the histogram and the overlay by one more, in the order of the
    frames; all of them are at most `_AHEAD` frames behind.
    """

    def __init__(
        self, out: Path, video: str, label_set: LabelSet, made_from: Any, overlay: str, fps: Callable[[], float], *, histogram: bool
    ) -> None:
        """`made_from` is what `read_record` gives back later; `fps` of the overlay is asked when the first frame is there."""
        self._out, self._video, self._labels, self._made_from = out, video, label_set, made_from
        self._style, self._fps = overlay, fps
        self._counts: Int64[np.ndarray, "C 4096"] | int | None = 0 if histogram else None
        self._overlay: VideoWriter | None = None
        self._overlay_size: tuple[int, int] | None = None
        self._stack = contextlib.ExitStack()
        self._overlays = contextlib.ExitStack()
        self._waiting: deque[Future[None]] = deque()
        self._frames = 0

    def __enter__(self) -> "VideoFiles":
        if self._counts is not None:  # tells pseudo labels from predictions until there is a manifest
            (self._out / HISTOGRAMS).mkdir(parents=True, exist_ok=True)
        self._record: IO[bytes] = self._stack.enter_context(atomic_file(record_path(self._out, self._video)))
        self._line({"video": self._video, "made_from": self._made_from})
        self._stack.push(self._overlays)
        self._encoders = self._stack.enter_context(ThreadPoolExecutor(_ENCODERS, "encoder"))
        self._recorder = self._stack.enter_context(ThreadPoolExecutor(1, "recorder"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:  # frames that wait are still written: they are whole
            self._stack.__exit__(kind, error, trace)

    def write(self, product: Product) -> None:
        """Take over one frame. Raises SemivssError when it, or an earlier one, cannot be written."""
        while len(self._waiting) >= _AHEAD:
            self._waiting.popleft().result()
        files = self._encoders.submit(self._encode, product)
        self._waiting.append(self._recorder.submit(self._enter, product, files))

    def finish(self, summary: dict[str, Any]) -> int:
        """Complete the overlay and the record, whose last line is `summary` and the number of frames, which is returned."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
            self._overlays.close()
            if isinstance(self._counts, np.ndarray):
                self._line(self._file(histogram_path(self._out, self._video), histogram_file(self._counts)))
            if self._overlay is not None:
                self._line(self._entry(self._overlay.path, self._overlay.path.stat().st_size, file_sha256(self._overlay.path)))
            self._line({"frames": self._frames, **summary})
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.close()
        return self._frames

    def _encode(self, product: Product) -> list[dict[str, Any]]:
        """Write the files of one frame; their lines of the record."""
        video, stem, found = Path(self._video), product.stem, product.answers
        entries = [self._file(self._out / video / f"{stem}.png", index_png(found.labels, self._labels))]
        if found.codes is not None:
            entries.append(self._file(self._out / ENTROPY / video / f"{stem}.png", grey_png(found.codes)))
        if found.probabilities is not None:
            entries.append(self._file(self._out / PROBABILITIES / video / f"{stem}.npz", probability_file(found.probabilities)))
        if found.confidence is not None:
            entries.append(self._file(self._out / CONFIDENCE / video / f"{stem}.png", grey_png(found.confidence)))
        if found.top_classes is not None:
            entries.append(self._file(self._out / TOP / video / f"{stem}.npz", _arrays(ids=found.top_classes)))
        return entries

    def _enter(self, product: Product, files: Future[list[dict[str, Any]]]) -> None:
        """What happens frame after frame, once the files are there."""
        for entry in files.result():
            self._line(entry)
        if product.answers.codes is not None and self._counts is not None:
            self._counts = self._counts + code_histogram(product.answers.labels, product.answers.codes, len(self._labels))
        if self._style != "none":
            self._draw(product)
        self._frames += 1

    def _draw(self, product: Product) -> None:
        picture = compose(product.frame, product.answers.labels, self._labels, self._style, self._overlay_size)
        if self._overlay is None:
            self._overlay_size = (picture.shape[0], picture.shape[1])
            self._overlay = self._overlays.enter_context(VideoWriter(overlay_path(self._out, self._video), self._fps()))
        self._overlay.write(picture)

    def _file(self, path: Path, data: bytes) -> dict[str, Any]:
        atomic_bytes(path, data, sync=False)
        return self._entry(path, len(data), hashlib.sha256(data).hexdigest())

    def _entry(self, path: Path, size: int, sha256: str) -> dict[str, Any]:
        return {"path": path.relative_to(self._out).as_posix(), "size": size, "sha256": sha256}

    def _line(self, value: Any) -> None:
        self._record.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def index_png(labels: UInt8[np.ndarray, "H W"], label_set: LabelSet) -> bytes:
    """An 8-bit palette PNG whose pixel values are class ids and whose palette is the classes' colours."""
    image = Image.fromarray(labels)
    image.putpalette(label_set.palette())
    return _png(image)


def grey_png(values: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]) -> bytes:
    """A grey PNG of 8 or 16 bits."""
    return png16(values) if values.dtype == np.uint16 else _png(Image.fromarray(values))


def probability_file(p: np.ndarray) -> bytes:
    """A compressed .npz of `p` (C, H, W; uint8 or float16) and `scale`, by which `p` has to be multiplied."""
    return _arrays(p=p, scale=np.float32(1 / 255 if p.dtype == np.uint8 else 1))


def histogram_file(counts: Int64[np.ndarray, "C 4096"]) -> bytes:
    """A compressed .npz of `counts`."""
    return _arrays(counts=counts)


def _arrays(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    """zlib looks for runs alone: for label maps that is faster than the lowest level with matches, and smaller (docs/scaling.md)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def clear_leftovers(out: Path, video: str, *, maps: bool) -> None:
    """Remove the half-written files that a killed process left behind. Only for the holder of the video's lock.

    With `maps` also everything but the labels: without a record nobody knows by which settings it was written.
    """
    name = Path(video)
    for folder in (out / name, *(out / kind / name for kind in MAPS)):
        for path in (*folder.glob(".*.png.*.tmp"), *folder.glob(".*.npz.*.tmp")):  # an overlay would be that of a video inside this one
            path.unlink(missing_ok=True)
    for path in (path for kind in MAPS if maps for path in (out / kind / name).glob("*.*") if path.is_file()):
        path.unlink(missing_ok=True)
    for target in (overlay_path(out, video), histogram_path(out, video), record_path(out, video)):
        for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            path.unlink(missing_ok=True)


def clear_shared(out: Path) -> None:
    """Remove what killed processes have left of the files that belong to no single video. Only once all videos are finished."""
    for path in (*out.glob(".*.json.*.tmp"), *out.glob(".*.npz.*.tmp")):
        path.unlink(missing_ok=True)


def overlay_path(out: Path, video: str) -> Path:
    """Where the overlay of a video goes."""
    return out / f"{video}.mp4"


def histogram_path(out: Path, video: str) -> Path:
    """Where the histogram of a video's entropy codes goes."""
    return out / HISTOGRAMS / f"{video}.npz"


def record_path(out: Path, video: str) -> Path:
    """Where the record of a finished video lies."""
    return out / RECORDS / f"{video}.jsonl"


def read_record(out: Path, video: str) -> Iterator[dict[str, Any]]:
    """The lines of a finished video's record: head, one a file, summary. Nothing for an unfinished video.

    Raises:
        DataError: the record is damaged.
    """
    path = record_path(out, video)
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}: not readable as a record of predictions; delete it to make that video again, which writes over its files"
                ) from error
