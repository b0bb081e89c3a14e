"""Models and videos in; a folder of label PNGs, entropy maps, probabilities and overlay videos out, with a manifest."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from semivss.data.clips import VideoDataset
from semivss.data.policy import DefectCounter, Policy
from semivss.defaults import defaults
from semivss.errors import SemivssError
from semivss.infer.answers import read_answers
from semivss.infer.inputs import InputVideo
from semivss.infer.job import Job, Predicted, run_job
from semivss.infer.manifest import made_from
from semivss.infer.memory import limit_of
from semivss.infer.onnx_model import without_doubt
from semivss.infer.precision import with_precision
from semivss.infer.score_map import Scores
from semivss.infer.stream import FrameModel, ensemble_shares
from semivss.infer.stream import stream_distribution as stream_distribution
from semivss.infer.views import views_from
from semivss.infer.writer import Product
from semivss.progress import say
from semivss.settings import Predict

__all__ = ["Predicted", "predict", "stream_distribution"]


def predict(
    models: Sequence[FrameModel],
    inputs: VideoDataset | Sequence[InputVideo],
    out: Path,
    settings: Predict,
    weights: Sequence[float] | None = None,
    *,
    policy: Policy = "strict",
    left_out: DefectCounter | None = None,
) -> Predicted:
    """Segment every frame of every video into `out`; `writer.py` describes the files. Memory does not grow with a video's length.

    A video with a record is finished: it is skipped when models, weights, views, settings and input are still the same and its files are
    there, and made anew (one line says why) otherwise. The frame rate of an overlay is that of the video file, else `settings.fps`.
    With a model that was exported to give labels alone there are no entropy maps.

    Args:
        models: one, or an ensemble of models of the same classes. They are set to evaluation mode and,
            where they lie on the CPU, moved to the machine's GPU if it has one; they stay there.
        inputs: a data set, or what `open_inputs` found.
        out: folder; other processes with the same job share the videos.
        settings: views, and what to write.
        weights: one a model, any scale; none = equal.
        policy: strict stops at the first frame that cannot be read; skip and ignore leave it out and count it.
        left_out: what `open_inputs` met; the manifest counts it, as it counts the defects of a data set.

    Raises:
        DefectError: a damaged frame, under strict. Everything written before it stays.
        SemivssError: models that do not fit together or whose output is not finite, a folder that cannot be written or is in use,
            outputs that would replace inputs, frames of another size than an exported model takes, or probabilities of labels.
    """
    job = predict_job(models, out, settings, weights, policy=policy)
    if (labels := without_doubt(models)) and settings.entropy:
        say(f"{labels.path} gives labels alone: no entropy maps")
    return run_job(job, inputs, left_out)


def predict_job(
    models: Sequence[FrameModel], out: Path, settings: Predict, weights: Sequence[float] | None = None, *, policy: Policy = "strict"
) -> Job:
    """What `predict` does with every video. Raises SemivssError as it does for models and settings."""
    if labels := without_doubt(models):
        if settings.probabilities != "none":
            raise SemivssError(f"{labels.path}: gives labels, no probabilities; leave them out, or export the model with --kind scores")
        settings = settings.model_copy(update={"entropy": False})
    automatic, settings = settings.precision == "auto", with_precision(settings, models)
    shares = ensemble_shares(models, weights)
    return Job(
        "predict",
        "predict",
        models,
        shares,
        views_from(settings.views),
        settings.batch,
        policy,
        Path(out),
        made_from(models, shares, settings),
        defaults(settings),
        partial(_product, settings=settings),
        precision=settings.precision,
        automatic=automatic,
        limit=limit_of(models, settings),
        overlay=settings.overlay,
        fps=settings.fps,
    )


def _product(stem: str, frame: np.ndarray, scores: Scores, settings: Predict) -> Product:
    return Product(stem, frame, read_answers(scores, entropy=settings.entropy, probabilities=settings.probabilities))
