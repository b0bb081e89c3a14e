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
import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from semivss.atomic import atomic_bytes
from semivss.data.clips import VideoDataset
from semivss.data.codes import BINS
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.policy import DefectCounter, Policy
from semivss.data.pseudo import HISTOGRAM, KIND
from semivss.defaults import defaults
from semivss.errors import SemivssError
from semivss.infer.alignment import aligned
from semivss.infer.inputs import InputVideo
from semivss.infer.job import Job, Predicted, run_job
from semivss.infer.manifest import made_from
from semivss.infer.onnx_model import without_doubt
from semivss.infer.predict import entropy_codes, most_likely
from semivss.infer.stream import FrameModel, ensemble_shares
from semivss.infer.views import views_from
from semivss.infer.writer import Product, histogram_file, histogram_path
from semivss.settings import PseudoLabels

TOP_STRIDE = 8  # pixels a side of a cell of the likely classes


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
    if labels := without_doubt(models):
        raise SemivssError(f"{labels.path}: gives labels alone, pseudo labels need entropies; export the model with --kind scores")
    if settings.align and wanted is None:
        raise SemivssError("pseudo.align needs labelled frames to take the shares of the classes from; name their data set")
    shares = ensemble_shares(models, settings.weights or None)
    out, label_set = Path(out), models[0].label_set
    job = Job(
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
        window=settings.window,
        histogram=True,
        keep_corrections=True,
        head=partial(_head, out, label_set),
        prepare=partial(aligned, wanted=wanted, strength=settings.align) if settings.align and wanted is not None else None,
    )
    return run_job(job, inputs, left_out)


@torch.inference_mode()
def _product(stem: str, frame: np.ndarray, p: Tensor, settings: PseudoLabels) -> Product:
    return Product(
        stem,
        frame,
        most_likely(p),
        entropy_codes(p),
        confidence=np.asarray((p.max(0).values * 255).round_().to(torch.uint8).cpu()) if settings.confidence else None,
        top_classes=_top_classes(p, settings.top_classes) if settings.top_classes else None,
    )


def _top_classes(p: Tensor, count: int) -> np.ndarray:
    """Ids (K h w) of the `count` classes, or as many as there are, with the largest mean probability in each cell."""
    cells = F.avg_pool2d(p[None], TOP_STRIDE, ceil_mode=True, count_include_pad=False)[0]
    return np.asarray(cells.topk(min(count, len(cells)), 0).indices.to(torch.uint8).cpu())


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
