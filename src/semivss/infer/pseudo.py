"""Models and unlabelled videos in; a folder of pseudo labels with entropies, their histogram and a manifest out. No threshold is applied.

Files as `writer.py` describes them, and ``histogram.npz`` (`counts`, C x 4096: pixels of each class by entropy code over all videos), from
which the percentiles of the data set come when a model is trained. `data/pseudo.py` reads the folder.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from semivss.atomic import atomic_bytes
from semivss.data.clips import VideoDataset
from semivss.data.codes import BINS
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.policy import DefectCounter, Policy
from semivss.data.pseudo import HISTOGRAM, KIND
from semivss.defaults import defaults
from semivss.errors import SemivssError
from semivss.infer.alignment import aligned
from semivss.infer.answers import read_answers
from semivss.infer.inputs import InputVideo
from semivss.infer.job import Job, Predicted, run_job
from semivss.infer.manifest import made_from
from semivss.infer.memory import limit_of
from semivss.infer.onnx_model import without_doubt
from semivss.infer.precision import with_precision
from semivss.infer.score_map import Scores
from semivss.infer.stream import FrameModel, ensemble_shares
from semivss.infer.views import views_from
from semivss.infer.writer import Product, histogram_file, histogram_path
from semivss.settings import PseudoLabels


def pseudo_label(
    models: Sequence[FrameModel],
    inputs: VideoDataset | Sequence[InputVideo],
    out: Path,
    settings: PseudoLabels,
    *,
    policy: Policy = "strict",
    left_out: DefectCounter | None = None,
    wanted: Float64[np.ndarray, "C"] | None = None,
) -> Predicted:
    """Label every frame of every video with the ensemble's mean distribution: its arg max, and its entropy as a 16-bit code.

    Views, ensemble, device, restart and policies are those of `predict`.
    With `settings.window` the distributions of neighbouring frames, warped by
    optical flow, join the mean. Label files that a person corrected are kept, and never written over.

    Args:
        wanted: shares of the classes in labelled frames, which `settings.align` asks for.

    Raises:
        DefectError: a damaged frame, under strict. Everything written before it stays.
        SemivssError: as `predict`; labelling again would write over a correction; or an exported model gives labels without entropies.
    """
    return run_job(pseudo_job(models, out, settings, policy=policy, wanted=wanted), inputs, left_out)


def pseudo_job(
    models: Sequence[FrameModel],
    out: Path,
    settings: PseudoLabels,
    *,
    policy: Policy = "strict",
    wanted: Float64[np.ndarray, "C"] | None = None,
) -> Job:
    """What `pseudo_label` does with every video. Raises SemivssError as it does for models and settings."""
    if labels := without_doubt(models):
        raise SemivssError(f"{labels.path}: gives labels alone, pseudo labels need entropies; export the model with --kind scores")
    if settings.align and wanted is None:
        raise SemivssError("pseudo.align needs labelled frames to take the shares of the classes from; name their data set")
    automatic, settings = settings.precision == "auto", with_precision(settings, models)
    shares = ensemble_shares(models, settings.weights or None)
    out, label_set = Path(out), models[0].label_set
    return Job(
        "pseudo-label",
        "pseudo",
        models,
        shares,
        views_from(settings.views),
        settings.batch,
        policy,
        out,
        made_from(models, shares, settings),
        defaults(settings),
        partial(_product, settings=settings),
        precision=settings.precision,
        automatic=automatic,
        limit=limit_of(models, settings),
        window=settings.window,
        histogram=True,
        keep_corrections=True,
        head=partial(_head, out, label_set),
        prepare=partial(aligned, wanted=wanted, strength=settings.align) if settings.align and wanted is not None else None,
    )


def _product(stem: str, frame: np.ndarray, scores: Scores, settings: PseudoLabels) -> Product:
    return Product(stem, frame, read_answers(scores, entropy=True, confidence=settings.confidence, top_classes=settings.top_classes))


def _head(out: Path, label_set: LabelSet, videos: Sequence[str]) -> dict[str, Any]:
    """Add up the videos' histograms into one file, and say in the manifest what the folder is."""
    total = np.zeros((len(label_set), BINS), np.int64)
    for video in videos:
        path = histogram_path(out, video)
        if path.is_file():  # a video without a readable frame has none
            with np.load(path, allow_pickle=False) as file:
                total += file["counts"]
    data = histogram_file(total)
    atomic_bytes(out / HISTOGRAM, data)
    histogram = {"path": HISTOGRAM, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "bins": BINS}
    ids = {"label_set": label_set.name, "ids": dict(enumerate(label_set.names)), "ignore": IGNORE, "colors": list(label_set.colors)}
    return {"kind": KIND, **ids, "histogram": histogram}
