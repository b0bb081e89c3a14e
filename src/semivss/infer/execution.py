"""Models that were opened and settings in; models and process that run as the settings say out. What is predicted stays the same."""

from collections.abc import Sequence
from functools import partial

from semivss.infer.compiled import compile_model
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.stream import FrameModel
from semivss.models.bias_memory import biases_of
from semivss.models.segmenter import Segmenter
from semivss.settings import Forward
from semivss.threads import set_threads


def prepare(models: Sequence[FrameModel], settings: Forward) -> None:
    """Set threads, room for biases and compilation. Exported models, which onnxruntime runs, take the threads alone.

    Models that may have to take turns in memory keep no biases.
    """
    set_threads(settings.threads)
    for model in models:
        match model:
            case Segmenter():
                _prepare(model, settings.bias_cache, settings.compile)
            case ModelOnDemand():
                model.on_load = partial(_prepare, bias_cache=0.0, compiled=settings.compile)


def _prepare(model: Segmenter, bias_cache: float, compiled: bool) -> None:
    for memory in biases_of(model):
        memory.limit = round(bias_cache * 2**30)
    if compiled:
        compile_model(model)
