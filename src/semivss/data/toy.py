"""Toy settings in, a data set of generated clips out: frames, exact labels, exact optical flow; no files needed.

Clip k of a world is a function of (seed, k), frame i of (seed, k, i): any of them can be asked for alone and in any order.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet, vspw124
from semivss.data.toy_render import Raster, expose, flow_between, rasterise, still_visible
from semivss.data.toy_scene import NAMES
from semivss.data.toy_world import build_scene
from semivss.errors import DataError
from semivss.settings import Toy

# VSPW's own colours are near the same red for grass, road, house, sky, bus and tree: no picture could be read.
_COLORS = {
    "wall": (150, 110, 160),
    "ground": (205, 175, 105),
    "grass": (120, 200, 70),
    "road": (110, 110, 125),
    "path": (240, 140, 170),
    "building": (190, 75, 60),
    "house": (245, 160, 50),
    "sky": (95, 170, 235),
    "car": (40, 60, 200),
    "bus": (0, 190, 190),
    "person": (250, 235, 60),
    "tree": (25, 110, 45),
}
_SMALL = 160 * 240  # pixels; of frames up to this size whole stretches are kept
_STRETCH = 8  # frames drawn together: building a scene costs as much as some ten small frames


def toy_labels() -> LabelSet:
    """The 12 classes of the toy world: names and thing flags of VSPW, in its order."""
    things = dict(zip(vspw124().names, vspw124().things, strict=True))
    return LabelSet("toy12", NAMES, tuple(_COLORS[name] for name in NAMES), tuple(things[name] for name in NAMES))


def toy_dataset(toy: Toy) -> VideoDataset:
    """`toy.clips` clips, of which the first `toy.labelled_clips` (none = all) have labels."""
    labelled = toy.clips if toy.labelled_clips is None else toy.labelled_clips
    clips = tuple(ToyClip(toy.seed, toy.first_clip + place, toy.frames, toy.size, place < labelled) for place in range(toy.clips))
    return VideoDataset("toy", toy_labels(), clips)


@dataclass(frozen=True)
class ToyClip:
    """A Clip (see `clips.py`) with optical flow. Pixels of lamp posts, which are no class, are 255."""

    seed: int
    number: int  # of the clip in its world
    length: int  # frames
    size: tuple[int, int]  # height, width
    labelled: bool = True

    @property
    def name(self) -> str:
        return f"{self.number:04d}_toy{self.seed}"

    @property
    def stems(self) -> Sequence[str]:
        return tuple(f"{index:08d}" for index in range(self.length))

    def is_labelled(self, index: int) -> bool:
        """The same for all frames of a clip."""
        return self.labelled

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB frame. Raises IndexError outside 0..length-1."""
        return self._drawn(index)[0].copy()

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Ids 0..11 at the middle of the exposure, 255 for lamp posts.

        Raises:
            DataError: the clip is an unlabelled one.
        """
        if not self.labelled:
            raise DataError(f"{self.name}/{index:08d}: this toy clip is unlabelled; raise labelled_clips to use its labels")
        return self._drawn(index)[1].copy()

    def stream(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """(stem, frame) in order."""
        for index, stem in enumerate(self.stems):
            yield stem, self.frame(index)

    def flow(self, index: int) -> Float32[np.ndarray, "2 H W"]:
        """Exact flow from frame `index` to the next one, in pixels, channel 0 = x: content at p lies at p + flow(p) there.

        Also given where the content gets hidden or leaves the picture; see `visible`. Raises IndexError for the last frame.
        """
        self._check(index, self.length - 1)
        return flow_between(build_scene(self.seed, self.number), self._raster(index), index + 1)

    def visible(self, index: int) -> Bool[np.ndarray, "H W"]:
        """Pixels of frame `index` whose surface is seen in the next frame too, at the pixel nearest to p + flow(p)."""
        return still_visible(self._raster(index), self.flow(index), self._raster(index + 1))

    def _check(self, index: int, end: int) -> None:
        if not 0 <= index < end:
            raise IndexError(f"{self.name}: frame {index} is not in 0..{end - 1}")

    def _drawn(self, index: int) -> "Drawn":
        self._check(index, self.length)
        if self.size[0] * self.size[1] > _SMALL:
            return _large_frame(self.seed, self.number, self.size, index)
        first = index - index % _STRETCH
        return _small_frames(self.seed, self.number, self.size, first, min(self.length, first + _STRETCH))[index - first]

    def _raster(self, index: int) -> Raster:
        return _raster(self.seed, self.number, self.size, index)


Drawn = tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]  # frame and labels


def _draw(seed: int, number: int, size: tuple[int, int], index: int) -> Drawn:
    scene = build_scene(seed, number)
    raster = rasterise(scene, index, size)
    return expose(scene, raster, index, np.random.default_rng((seed, number, 1, index))), raster.labels


# The caches hold results of pure functions: they change the speed, never a value.
@functools.lru_cache(maxsize=64)  # at most 80 MB
def _small_frames(seed: int, number: int, size: tuple[int, int], first: int, end: int) -> tuple[Drawn, ...]:
    return tuple(_draw(seed, number, size, index) for index in range(first, end))


@functools.lru_cache(maxsize=2)  # a frame and its labels are mostly asked for together
def _large_frame(seed: int, number: int, size: tuple[int, int], index: int) -> Drawn:
    return _draw(seed, number, size, index)


@functools.lru_cache(maxsize=2)
def _raster(seed: int, number: int, size: tuple[int, int], index: int) -> Raster:
    return rasterise(build_scene(seed, number), index, size)
