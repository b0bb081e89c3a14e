"""What does reading a video frame by frame cost beside a bare PyAV loop, and does its memory stay constant?

    OMP_NUM_THREADS=1 python benchmarks/video_read.py          3000 frames of 480x853, h264; --quick: 300 frames of 120x160

Both loops decode every frame to RGB; they take turns in one process, and the ratio is that of the process CPU times of each turn (median).
The memory is the peak of a fresh process that streams the whole video, against its peak after a fifth of it. One JSON row a line.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from semivss.data.video import VideoFile, VideoWriter

PEAK = """
import resource, sys
from semivss.data.video import VideoFile
for index, _ in enumerate(VideoFile(sys.argv[1]).stream(), 1):
    if index == int(sys.argv[2]):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """Write the video, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    frames, size, turn = (300, (120, 160), 100) if options.quick else (3000, (480, 853), 300)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drift.mp4"
        write(path, frames, size)
        loops: dict[str, Callable[[], None]] = {"bare": lambda: bare(path, turn), "stream": lambda: stream(path, turn)}
        spent: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.rounds + 1):
            for name, loop in loops.items():
                spent[name].append(cpu_seconds(loop))
        peaks = [
            int(line)
            for line in subprocess.run([sys.executable, "-c", PEAK, path, str(frames // 5)], capture_output=True, check=True).stdout.split()
        ]
    ratios = sorted(ours / theirs for ours, theirs in zip(spent["stream"][1:], spent["bare"][1:], strict=True))
    what = f"{size[1]}x{size[0]} h264"
    rate = turn / statistics.median(spent["stream"][1:])
    spread = {"rounds": len(ratios), "lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3)}
    emit(
        what=f"stream {what}",
        value=round(rate, 1),
        unit="frames per CPU s",
        ratio=statistics.median(ratios),
        against="bare PyAV loop",
        **spread,
    )
    emit(
        what=f"peak memory of {frames} frames, {what}",
        value=peaks[1] / 1024,
        unit="MiB",
        ratio=peaks[1] / peaks[0],
        against=f"after {frames // 5} frames",
    )


def write(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A texture that drifts."""
    texture = np.random.default_rng(0).integers(0, 255, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with VideoWriter(path, 30) as video:
        for index in range(frames):
            video.write(np.roll(texture, (index, 2 * index), (0, 1))[: size[0], : size[1]])


def bare(path: Path, frames: int) -> None:
    """What one writes without a library around PyAV."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0), 1):
            frame.to_ndarray(format="rgb24")
            if index == frames:
                return


def stream(path: Path, frames: int) -> None:
    """Ours."""
    for index, _ in enumerate(VideoFile(path).stream(), 1):
        if index == frames:
            return


def cpu_seconds(work: Callable[[], None]) -> float:
    """Process time of one turn."""
    start = time.process_time()
    work()
    return time.process_time() - start


def emit(**row: Any) -> None:
    """Print one JSON row."""
    print(json.dumps(row | {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}), flush=True)


if __name__ == "__main__":
    main()
