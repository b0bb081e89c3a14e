"""A container of video in, its packets and decoded frames out, with an account of what the file promised and did not give."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Int64

from semivss.errors import DefectError

REMAKE = "copy or export the video again, or leave it out"
_NO_VIDEO_FORMATS = ("image2", "tty", "hls", "dash", "concat", "sdp")  # FFmpeg would decode a picture or a text file as a "video"


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
