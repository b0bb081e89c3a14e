"""Label maps of a video in time order in, temporal scores out: VC_n (video consistency) and TC (consistency along given flow).

VC is defined as in the published VSPW evaluation; see `VideoConsistency`. VC never compares a prediction with the ground truth: a
constant prediction scores 1, so it says nothing without mIoU beside it. The correct-only variant asks for both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from semivss.data.labels import IGNORE
from semivss.errors import DataError
from semivss.metrics.confusion import ClassScores, Confusion, size_text


@dataclass
class Windows:
    """Integer counts of the windows of length n of one video; window t covers frames t .. t + n - 1."""

    stable: list[int] = field(default_factory=list)  # ``|S_t|``: pixels whose ground truth label stays the same
    kept: list[int] = field(default_factory=list)  # ``|S_t and Q_t|``: and whose prediction stays the same
    stable_labelled: list[int] = field(default_factory=list)  # S_t without ignored pixels
    kept_correct: list[int] = field(default_factory=list)  # and whose prediction stays the same and is right

    def ratios(self, *, correct: bool = False, last: bool = False) -> list[float | None]:
        """One value a window, None = 0/0.

        correct: only labelled pixels, and the prediction must also be right (not official).
        last: use all T - n + 1 windows; the published script never uses the last one.
        """
        above, below = (self.kept_correct, self.stable_labelled) if correct else (self.kept, self.stable)
        end = len(below) if last else len(below) - 1
        return [kept / stable if stable else None for kept, stable in zip(above[: max(end, 0)], below, strict=False)]


def window_mean(windows: Sequence[float | None]) -> float | None:
    """Mean of the windows that are not 0/0; None if there is none. The sum is exact, so the order of the videos changes no bit."""
    there = [value for value in windows if value is not None]
    return math.fsum(there) / len(there) if there else None


class VideoConsistency:
    """Windows of ONE video for every n in a single pass that remembers one frame.

    For a window at t, S_t are the pixels whose ground truth label is the same in n frames, Q_t those whose prediction is, and
    vc_t = ``|S_t and Q_t|`` / ``|S_t|``. VC_n is the mean of vc_t over all windows of all videos, empty S_t left out. Ignored pixels that
    stay ignored belong to S_t. Windows start at 0 .. T-n-1, so a video needs n + 1 frames: the last window is counted but not used.

    Two maps hold for how many frames in a row the ground truth (and both it and the prediction) stood still, up to a limit.
    """

    def __init__(self, ns: Sequence[int] = (8, 16)) -> None:
        if not all(n >= 2 for n in ns):
            raise ValueError(f"windows of {tuple(ns)} frames: every n must be at least 2")
        self.windows = {n: Windows() for n in ns}
        self.frames = 0
        self._longest = max(ns, default=2) - 1
        self._kind = np.uint8 if self._longest < 128 else np.uint16 if self._longest < 1 << 15 else np.uint32
        self._truth_run = self._both_run = np.zeros((0, 0), np.uint8)
        self._before: tuple[np.ndarray, np.ndarray | None] | None = None

    def update(
        self,
        truth: UInt8[np.ndarray, "H W"],
        prediction: UInt8[np.ndarray, "h w"] | None,
        raw: UInt8[np.ndarray, "H W"] | None = None,
    ) -> None:
        """Take the next frame: training ids with 255 = ignored, and the prediction (None = missing: no pixel of it is stable).

        raw: the mask as it is on disk. When given, stability is judged by it ("raw" convention: the disk's several ignored values
        are labels of their own, as in the script as shipped); otherwise by the reduced labels, which merges them.

        Raises:
            DataError: the frames of a video differ in size.
        """
        shown = truth if raw is None else raw
        if prediction is not None and prediction.shape != truth.shape:
            raise DataError(
                f"the prediction has size {size_text(prediction)}, the mask {size_text(truth)}; predict at the size of the mask"
            )
        if self._before is None:
            self._truth_run, self._both_run = np.zeros(truth.shape, self._kind), np.zeros(truth.shape, self._kind)
        else:
            self._extend(shown, prediction, self._before)
        self._before = (shown, prediction)
        self.frames += 1
        self._count(truth, prediction)

    def _extend(self, shown: np.ndarray, prediction: np.ndarray | None, before: tuple[np.ndarray, np.ndarray | None]) -> None:
        shown_before, prediction_before = before
        if shown_before.shape != shown.shape:
            raise DataError(f"the mask has size {size_text(shown)}, the one before {size_text(shown_before)}; VC needs one size a video")
        if self.frames % self._longest == 0:  # keep the runs from wrapping round; the type holds twice the longest
            for run in (self._truth_run, self._both_run):
                np.minimum(run, self._longest, out=run)
        same = shown_before == shown
        _advance(self._truth_run, same)
        if prediction is None or prediction_before is None:
            self._both_run[...] = 0
            return
        same &= prediction_before == prediction
        _advance(self._both_run, same)

    def _count(self, truth: np.ndarray, prediction: np.ndarray | None) -> None:
        if self.frames < min(self.windows, default=self.frames + 1):
            return
        labelled = truth != IGNORE
        # Inside a window that is stable in both, being right at its last frame means being right in all of them.
        right = labelled & (prediction == truth) if prediction is not None else np.zeros_like(labelled)
        for n, counts in self.windows.items():
            if self.frames < n:
                continue
            stable, kept = self._truth_run >= n - 1, self._both_run >= n - 1
            counts.stable.append(int(np.count_nonzero(stable)))
            counts.kept.append(int(np.count_nonzero(kept)))
            counts.stable_labelled.append(int(np.count_nonzero(stable & labelled)))
            counts.kept_correct.append(int(np.count_nonzero(kept & right)))


def _advance(run: np.ndarray, same: np.ndarray) -> None:
    """One more frame: add 1 where nothing changed, start from 0 elsewhere."""
    run += 1
    np.multiply(run, same.view(np.uint8), out=run)


class FlowConsistency:
    """TC: one confusion matrix over all pairs of neighbouring frames, the prediction at t in the role of the ground truth and the
    prediction at t + 1, pulled back along the flow, in that of the prediction. TC is its mIoU. Ground truth plays no part."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = Confusion(num_classes)

    def update(self, now: UInt8[np.ndarray, "H W"], after: UInt8[np.ndarray, "h w"], flow: Float32[np.ndarray, "2 Hf Wf"]) -> None:
        """Predictions at t and t + 1, and the flow in pixels (x, y) from t to t + 1. Raises DataError for different sizes."""
        if after.shape != now.shape or flow.shape[1:] != now.shape:
            sizes = f"predictions of {size_text(now)} and {size_text(after)} with a flow of {size_text(flow[0])}"
            raise DataError(f"{sizes}; all three must agree, so compute the flow at the size of the predictions")
        self.confusion.update(now, pull_back(after, flow))

    def scores(self) -> ClassScores:
        """`miou` is TC."""
        return self.confusion.scores()


def pull_back(labels: UInt8[np.ndarray, "H W"], flow: Float32[np.ndarray, "2 H W"]) -> UInt8[np.ndarray, "H W"]:
    """Labels at x + flow(x), nearest neighbour, as the published TC script samples them.

    Two quirks are part of the definition: coordinates are normalised with W - 1 and H - 1 but read with the half-pixel convention,
    a shift that grows to half a pixel towards the borders, and what lies outside becomes 0, which is also the id of a class.
    """
    height, width = labels.shape
    column = _nearest(np.arange(width, dtype=np.float32)[None, :] + flow[0], width)
    row = _nearest(np.arange(height, dtype=np.float32)[:, None] + flow[1], height)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = labels[np.where(inside, row, 0).astype(np.intp), np.where(inside, column, 0).astype(np.intp)]
    return np.where(inside, found, np.uint8(0))


def _nearest(position: np.ndarray, length: int) -> np.ndarray:
    normalised = np.float32(2) * position / np.float32(max(length - 1, 1)) - np.float32(1)
    return np.rint(((normalised + np.float32(1)) * np.float32(length) - np.float32(1)) / np.float32(2))
