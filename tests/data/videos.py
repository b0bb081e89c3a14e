"""Small test videos with known content."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def content(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frame `index`: a texture that scrolls on the left, a grey level of 4 * index on the right, a red corner top left."""
    height, width = size
    texture = np.random.default_rng(0).integers(0, 255, (height // 8, 1, 3)).repeat(8, 0).repeat(width // 2, 1)
    frame = np.full((height, width, 3), 4 * index % 256, np.uint8)
    frame[:, : width // 2] = np.roll(texture, index, axis=0)
    frame[:12, :16] = (250, 0, 0)
    return frame


def write_video(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (48, 64),
    rotation: int | None = None,
    hflip: bool = False,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """h264 with three B-frames and a key frame every 12 frames; `times` are milliseconds of a variable rate."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "10", "bf": "3", "g": "12", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=hflip)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(content(index, size), format="rgb24")
            if times:
                frame.time_base, frame.pts = Fraction(1, 1000), times[index]
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
