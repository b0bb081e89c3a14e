"""Paths of models and settings in; models and a process that run as the settings say out. What is predicted stays the same."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from semivss.errors import SemivssError
from semivss.infer.compiled import compile_model, demand_compiler
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.onnx_model import OnnxModel, open_model
from semivss.infer.stream import FrameModel
from semivss.models.bias_memory import biases_of
from semivss.models.segmenter import Segmenter
from semivss.settings import Forward
from semivss.threads import set_threads


def open_models(paths: Sequence[Path], settings: Forward) -> list[FrameModel]:
    """The models in folders and exported files, with the threads, the room for biases and the compilation that the settings ask for.

    Several folders under a limit of memory are not read before it is known whether there is room for all; such models keep no biases.

    Raises:
        SemivssError: a model cannot be read, or compilation is asked for where there is no compiler or of an exported model.
    """
    if settings.compile:
        demand_compiler()
    set_threads(settings.threads)  # first: a session of onnxruntime keeps the number that it begins with
    waits = settings.memory is not None and sum(path.is_dir() for path in paths) > 1
    members: list[FrameModel] = [ModelOnDemand(path) if waits and path.is_dir() else open_model(path) for path in paths]
    for model in members:
        match model:
            case OnnxModel() if settings.compile:
                raise SemivssError(f"{model.path}: is compiled already; leave --compile out, or take the model folder")
            case Segmenter():
                _prepare(model, settings.bias_cache, settings.compile)
            case ModelOnDemand():
                model.on_load = partial(_prepare, bias_cache=0.0, compiled=settings.compile)
    return members


def _prepare(model: Segmenter, bias_cache: float, compiled: bool) -> None:
    for memory in biases_of(model):
        memory.limit = round(bias_cache * 2**30)
    if compiled:
        compile_model(model)
