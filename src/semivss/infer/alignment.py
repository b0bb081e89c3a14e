"""A labelling job and the classes' shares in labelled frames in; the job whose mean prediction has these shares out.

Distribution alignment (ReMixMatch, arXiv 1911.09785, section 3.1). Models of few labelled frames seldom choose some of the classes, and a
student of their labels would not choose them at all. The mean runs over a sample of the video, in one view.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from semivss.atomic import atomic_json
from semivss.errors import DefectError, SemivssError
from semivss.infer.finished import corrections
from semivss.infer.inputs import InputVideo
from semivss.infer.job import Job, scored_frames
from semivss.infer.score_map import Scores
from semivss.infer.views import Size
from semivss.infer.writer import Product
from semivss.lock import Crew
from semivss.posterior import align, class_factors
from semivss.progress import track

EVERY = 8  # of so many frames one is looked at
FILE = "alignment.json"


def aligned(job: Job, videos: Sequence[InputVideo], crew: Crew, wanted: Float64[np.ndarray, "C"], strength: float) -> Job:
    """The same job with every distribution multiplied by a factor for each class, which its folder keeps in `alignment.json`.

    One worker finds the factors, the others wait for them and read them.

    Args:
        wanted: shares of the classes in labelled frames, which sum to 1.
        strength: 1 = the mean prediction gets these shares, were there no normalisation in each pixel; 0 = nothing changes.

    Raises:
        SemivssError: a model's values are not finite; the factors change, and the folder holds a label corrected by hand; or another
            worker wants other shares.
    """
    crew.agree({"shares of the classes (--align-to)": wanted.tolist()})
    with crew.alone("alignment"):
        factors = _kept(job, videos, wanted, strength)

    def product(stem: str, frame: np.ndarray, scores: Scores) -> Product:
        return job.product(stem, frame, _AlignedScores(scores, tuple(factors)))

    return replace(job, product=product, made_from=job.made_from | {"factors": factors})


def _kept(job: Job, videos: Sequence[InputVideo], wanted: Float64[np.ndarray, "C"], strength: float) -> list[float]:
    """The factors that the folder holds for these models and videos, with which a run that is taken up again goes on; else new ones."""
    described = [job.made_from, wanted.tolist(), [(video.name, video.identity()) for video in videos]]
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    try:
        before = json.loads((job.out / FILE).read_text())
        if before["key"] == key:
            return [float(factor) for factor in before["factors"]]
    except (OSError, ValueError, TypeError, KeyError):
        pass  # none yet, or not readable
    if edited := corrections(job.out):
        raise SemivssError(
            f"{job.out / edited[0]}: corrected by hand, and other factors would label its video again, over that; "
            "copy your file elsewhere and delete it here, or choose another folder with --out"
        )
    mean = _mean_distribution(job, videos)
    factors = class_factors(torch.from_numpy(mean), torch.from_numpy(wanted), strength)
    found = [round(float(factor), 6) for factor in factors]
    atomic_json(job.out / FILE, {"key": key, "factors": found, "mean": mean.tolist(), "wanted": wanted.tolist()})
    return found


def _mean_distribution(job: Job, videos: Sequence[InputVideo]) -> Float64[np.ndarray, "C"]:
    single = replace(job, views=(replace(job.views[0], scale=1.0, flip=False),))
    total, pixels = np.zeros(len(job.label_set)), 0
    for video in track(videos, "look at the classes", total=len(videos), unit="videos"):
        sample = (pair for number, pair in enumerate(video.frames(_overlook)) if number % EVERY == 0)
        for one in scored_frames(single, video.name, sample):
            for _, p in one.scores.bands():
                total += p.cpu().double().sum((0, 1)).numpy()  # Apple's GPUs have no float64
                pixels += p.shape[0] * p.shape[1]
    return total / max(pixels, 1)


@dataclass(frozen=True)
class _AlignedScores:
    """Scores times a factor for each class."""

    scores: Scores
    factors: tuple[float, ...]

    @property
    def size(self) -> Size:
        return self.scores.size

    def bands(self) -> Iterator[tuple[slice, Float[Tensor, "r W C"]]]:
        for rows, p in self.scores.bands():
            yield rows, align(p, torch.tensor(self.factors, device=p.device), dim=-1)

    def whole(self) -> Float[Tensor, "C H W"]:
        p = self.scores.whole()
        return align(p[None], torch.tensor(self.factors, device=p.device))[0]


def _overlook(error: DefectError) -> None:
    """Labelling itself will tell of it, as the policy says."""
