"""An ONNX file written by `export.py` in; a model out that onnxruntime runs on the CPU and that predicts as one of PyTorch does."""

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from semivss.data.labels import LabelSet
from semivss.digest import file_sha256
from semivss.errors import DataError, SemivssError, WeightsError
from semivss.models.segmenter import Segmenter
from semivss.settings import Size
from semivss.tensors import Distribution

SUFFIX = ".onnx"
FORMAT = 1  # of the metadata; raised when an older reader would misunderstand it
INSTALL = 'pip install "semivss[export]"'
PREFIX = "semivss."  # of the metadata's keys; a value is JSON
INPUT = "frames"  # name of the graph's input: uint8 RGB (1, 3, H, W)
_LARGEST_CONSTANT = 2**24  # bytes
_REMEDY = "export the model again"

Kind = Literal["scores", "labels"]


class FrameSizeError(SemivssError):
    """Frames, or windows of them, of another size than a file was exported for."""


class Parity(BaseModel):
    """How the file's results differ from PyTorch's on some frames."""

    model_config = ConfigDict(frozen=True)

    frames: int
    scores: float | None  # largest absolute difference of a probability; none for a file that gives labels
    labels: float  # share of the pixels whose most likely class is the same


class Description(BaseModel):
    """What an exported file says about itself: one key of its metadata a field."""

    model_config = ConfigDict(frozen=True)

    format: int
    kind: Kind  # scores: a class distribution (1, C, H, W), float32; labels: its arg max (1, H, W), uint8
    size: Size  # height and width of the frames
    rule: str  # how mask votes became a distribution; the graph does it
    label_set: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    things: tuple[bool, ...]
    model: dict[str, JsonValue]  # settings of backbone and head
    model_hash: str  # of the exported model, as manifests of predictions have it
    data_sha256: str | None  # of the file beside that holds the weights of a large model
    versions: dict[str, str]
    parity: dict[str, Parity]  # by kind of frames


def write_metadata(description: Description) -> dict[str, str]:
    """The metadata of an ONNX file: keys with our prefix, values as JSON."""
    return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in description.model_dump(mode="json").items()}


def read_metadata(metadata: Mapping[str, str], path: Path) -> Description:
    """Raises WeightsError for a file of others, of a newer version, or whose metadata make no sense."""
    own = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if not own:
        raise WeightsError(f"{path}: was not written by semivss; give a file made by semivss export")
    try:
        fields = {key: json.loads(value) for key, value in own.items()}
        if (written := fields.get("format")) != FORMAT:
            raise WeightsError(f"{path}: format {written}, this version reads {FORMAT}; {_REMEDY} with the semivss installed here")
        return Description.model_validate(fields)
    except (ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: damaged, its metadata make no sense; {_REMEDY}") from error


def demand_packages(action: str, packages: Sequence[str]) -> None:
    """Raise SemivssError if one of the `packages` that `action` needs is missing; none is loaded."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise SemivssError(f"{action} needs {' and '.join(missing)}, not installed here: {INSTALL}")


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as torch has.

    Raises:
        WeightsError: the file cannot be read or run.
        SemivssError: onnxruntime is not installed.
    """
    demand_packages(f"{path}: running it", ["onnxruntime"])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # what depends on weights alone is computed once, unless it is as large as the position biases of large models
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_LARGEST_CONSTANT))
    options.log_severity_level = 4  # what is wrong comes as an exception too
    try:
        with path.open("rb"):  # an error of the system names the file; onnxruntime's would not say why
            pass
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    except Exception as error:  # onnxruntime's have no other class in common
        raise WeightsError(f"{path}: damaged, or its weights beside it are gone ({first_line(error)}); {_REMEDY}") from error


class OnnxModel:
    """A `FrameModel` without torch weights: they lie in the file, and it runs on the CPU in float32."""

    training = False

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of a file made by `semivss export`.

        Raises:
            WeightsError: the file is missing, damaged, or none of ours.
            SemivssError: onnxruntime is not installed.
        """
        self.path = Path(path)
        self._session = open_session(self.path)
        self.description = read_metadata(self._session.get_modelmeta().custom_metadata_map, self.path)
        self.sha256 = file_sha256(self.path)
        self._check_data()
        told = self.description
        try:
            self.label_set = LabelSet(told.label_set, told.names, told.colors, told.things)
        except DataError as error:
            raise WeightsError(f"{self.path}: damaged, its classes make no sense; {_REMEDY}") from error

    @property
    def rule(self) -> str:
        """Of the exported model; its distribution has been made by it already."""
        return self.description.rule

    @property
    def gives_labels(self) -> bool:
        """Whether the file gives labels alone, which know no doubt."""
        return self.description.kind == "labels"

    def parameters(self) -> Iterator[Tensor]:
        """None that torch could move."""
        return iter(())

    def __call__(self, frames: UInt8[Tensor, "B 3 H W"]) -> Distribution:
        """Distributions of frames of the file's size, one after the other. Labels have probability 1.

        Raises:
            FrameSizeError: frames of another size.
            MemoryError: they do not fit memory.
        """
        if (given := (frames.shape[-2], frames.shape[-1])) != self.description.size:
            raise FrameSizeError(self._other_size(given))
        results = [torch.from_numpy(self._run(frame[None])) for frame in frames.cpu().numpy()]
        if self.gives_labels:
            labels = torch.cat(results).long()[:, None]
            return Distribution(torch.zeros(len(labels), len(self.label_set), *given).scatter_(1, labels, 1.0))
        return Distribution(torch.cat(results))

    def _run(self, frame: UInt8[np.ndarray, "1 3 H W"]) -> UInt8[np.ndarray, "1 H W"] | Float32[np.ndarray, "1 C H W"]:
        try:
            result: np.ndarray = self._session.run(None, {INPUT: np.ascontiguousarray(frame)})[0]
        except Exception as error:  # as in `open_session`
            if isinstance(error, MemoryError) or "alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise WeightsError(f"{self.path}: onnxruntime cannot run it ({first_line(error)}); {_REMEDY}") from error
        return result

    def _check_data(self) -> None:
        """The weights of a large model lie beside the graph and could be those of another."""
        wanted, data = self.description.data_sha256, data_path(self.path)
        if wanted is not None and not (data.is_file() and file_sha256(data) == wanted):
            raise WeightsError(f"{data}: not the weights that {self.path.name} belongs to; {_REMEDY}, and keep the two files together")

    def _other_size(self, given: tuple[int, int]) -> str:
        made, got = (f"{high}x{wide}" for high, wide in (self.description.size, given))
        high, wide = given
        return (
            f"{self.path}: was exported for frames of {made}, these are {got}; export the model with --size {high} {wide}, "
            f"or resize frames with --base {made}, or cut them into windows with --crop {made}; "
            "named --views bring sizes of their own: leave them out"
        )


def open_model(path: Path) -> Segmenter | OnnxModel:
    """The model of a folder or of an exported file, on the CPU. Raises SemivssError as `load_segmenter` and `OnnxModel` do."""
    return OnnxModel(path) if path.suffix == SUFFIX else Segmenter.from_pretrained(path)


def data_path(path: Path) -> Path:
    """Where the weights of a model lie that is too large for one file."""
    return path.with_name(f"{path.name}.data")


def without_doubt(models: Sequence[object]) -> OnnxModel | None:
    """The first of the models that gives labels alone: entropies and probabilities of an ensemble with it would mean nothing."""
    return next((model for model in models if isinstance(model, OnnxModel) and model.gives_labels), None)


def first_line(error: BaseException) -> str:
    """What an error of a library says, shortened, for a line of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
