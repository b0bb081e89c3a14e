"""A Segmenter in, an ONNX file for frames of one size out, compared with PyTorch before it is kept.

The graph holds everything from the frame to the answer: normalisation, backbone, head, the rule that makes mask votes a distribution, and
the way to the frame's size. `onnx_model.py` says what the metadata tell, and runs the file.
"""

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from semivss import __version__
from semivss.atomic import atomic_file, demand_folder
from semivss.data.toy import toy_dataset
from semivss.digest import file_sha256
from semivss.errors import SemivssError, WeightsError
from semivss.infer.manifest import model_hash
from semivss.infer.onnx_model import (
    FORMAT,
    INPUT,
    Description,
    Kind,
    Parity,
    data_path,
    demand_packages,
    first_line,
    open_session,
    write_metadata,
)
from semivss.models.segmenter import Segmenter
from semivss.posterior import pixel_distribution
from semivss.settings import Toy

OPSET = 18  # that torch's translations are written for; a later one is a conversion of it
TOLERANCE = 1e-4  # most that a probability may differ from PyTorch's
EQUAL_LABELS = 0.999  # least share of the pixels
LARGEST = 2**31 - 2**26  # bytes of weights in one file: protobuf ends at 2 GiB, and the graph takes some of it
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_FRAMES = 2  # of each kind
_SEED = 0

Result = UInt8[np.ndarray, "1 H W"] | Float32[np.ndarray, "1 C H W"]


def export_onnx(
    segmenter: Segmenter, out: Path, size: tuple[int, int], kind: Kind = "scores", *, tolerance: float = TOLERANCE
) -> Description:
    """Write `out`, and for a model of more than 2 GiB the weights beside it. A file whose results differ from PyTorch's is not kept.

    Args:
        segmenter: on the CPU; set to evaluation mode.
        out: ends with .onnx; an earlier file is replaced.
        size: height and width of the frames, which the graph takes as uint8 RGB (1, 3, H, W).
        kind: scores: the graph gives the class distribution, float32 (1, C, H, W), which sums to 1 in each pixel;
            labels: its arg max, uint8 (1, H, W).
        tolerance: largest difference of a probability that is accepted.

    Returns:
        What the metadata say, with the measured differences.

    Raises:
        SemivssError: a part of the model has no counterpart in ONNX, the results differ, a package is missing, or nothing can be
            written there.
    """
    demand_packages("export", PACKAGES)
    out = Path(out)
    demand_folder(out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    graph = _Graph(segmenter.eval(), size, kind)
    program = _trace(graph)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        made = Path(folder) / out.name
        program.save(made, external_data=_weight_bytes(segmenter) > LARGEST)
        del program
        parity = _compare(graph, made)
        _demand_equal(parity, out, tolerance)
        description = _describe(graph, data_path(made), parity)
        _set_metadata(made, write_metadata(description))
        for path in (data_path(made), made):  # the graph last, for it holds the hash of its weights
            if path.is_file():
                with path.open("rb") as source, atomic_file(out.with_name(path.name)) as file:
                    shutil.copyfileobj(source, file)
    return description


class _Graph(nn.Module):
    """What becomes the graph: frames of one size in, the file's result out."""

    def __init__(self, segmenter: Segmenter, size: tuple[int, int], kind: Kind) -> None:
        super().__init__()
        self.segmenter, self.size, self.kind = segmenter, size, kind
        self.eval()

    def forward(self, frames: UInt8[Tensor, "1 3 H W"]) -> Tensor:
        """Scores or labels, see `export_onnx`."""
        p = pixel_distribution(self.segmenter(frames), self.size, self.segmenter.rule)
        return p if self.kind == "scores" else p.argmax(1).to(torch.uint8)


def _trace(graph: _Graph) -> torch.onnx.ONNXProgram:
    frames = torch.zeros(1, 3, *graph.size, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            graph(frames)  # what the parts remember for a size must be tensors with values, not those of the tracing
            program = torch.onnx.export(
                graph, (frames,), dynamo=True, input_names=[INPUT], output_names=[graph.kind], opset_version=OPSET, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise _unsupported(graph.segmenter, error.__cause__ or error) from error
    assert program is not None
    return program


def _unsupported(segmenter: Segmenter, reason: BaseException) -> SemivssError:
    model = segmenter.settings
    return SemivssError(
        f"backbone {model.backbone} with head {model.head} cannot be exported ({first_line(reason)}); predict with the model folder "
        "itself, or train a student with another backbone, such as timm/tf_efficientnet_lite0 or vit_adapter_b"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own work."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _weight_bytes(segmenter: Segmenter) -> int:
    return sum(value.numel() * value.element_size() for value in segmenter.state_dict().values())


def _compare(graph: _Graph, path: Path) -> dict[str, Parity]:
    """PyTorch and onnxruntime on noise and on rendered street scenes, the same frames each time."""
    try:
        session = open_session(path)
    except WeightsError as error:
        raise _unsupported(graph.segmenter, error.__cause__ or error) from error
    return {name: _parity(graph, session, frames) for name, frames in (("random", _noise(graph.size)), ("natural", _scenes(graph.size)))}


def _noise(size: tuple[int, int]) -> UInt8[np.ndarray, "N 3 H W"]:
    return np.random.default_rng(_SEED).integers(0, 256, (_FRAMES, 3, *size), dtype=np.uint8)


def _scenes(size: tuple[int, int]) -> UInt8[np.ndarray, "N 3 H W"]:
    clips = toy_dataset(Toy(clips=_FRAMES, frames=1, size=size, seed=_SEED)).clips
    return np.stack([clip.frame(0).transpose(2, 0, 1) for clip in clips])


@torch.inference_mode()
def _parity(graph: _Graph, session: Any, frames: UInt8[np.ndarray, "N 3 H W"]) -> Parity:
    differences, equal = [], []
    for frame in frames:
        wanted: Result = graph(torch.from_numpy(frame[None])).numpy()
        given: Result = session.run(None, {INPUT: frame[None]})[0]
        if graph.kind == "scores":
            differences.append(float(np.abs(given - wanted).max()))
            wanted, given = wanted.argmax(1), given.argmax(1)
        equal.append(float((given == wanted).mean()))
    return Parity(frames=len(frames), scores=float(np.max(differences)) if differences else None, labels=float(np.mean(equal)))


def _demand_equal(parity: dict[str, Parity], out: Path, tolerance: float) -> None:
    for name, found in parity.items():
        if found.scores is not None and not found.scores <= tolerance:  # NaN too
            raise SemivssError(
                f"{out}: not written, on {name} frames its scores differ from PyTorch's by {found.scores:.1e}, more than {tolerance:g}; "
                f"predict with the model folder itself, or accept it with --tolerance"
            )
        if found.labels < EQUAL_LABELS:
            raise SemivssError(
                f"{out}: not written, on {name} frames {found.labels:.2%} of its labels are PyTorch's, less than {EQUAL_LABELS:.1%}; "
                "predict with the model folder itself"
            )


def _describe(graph: _Graph, data: Path, parity: dict[str, Parity]) -> Description:
    segmenter = graph.segmenter
    labels = segmenter.label_set
    return Description(
        format=FORMAT,
        kind=graph.kind,
        size=graph.size,
        rule=segmenter.rule,
        label_set=labels.name,
        names=labels.names,
        colors=labels.colors,
        things=labels.things,
        model=segmenter.settings.model_dump(mode="json", exclude={"weights", "pretrained"}),
        model_hash=model_hash(segmenter),
        data_sha256=file_sha256(data) if data.is_file() else None,
        versions={"semivss": __version__} | {name: metadata.version(name) for name in ("torch", *PACKAGES)},
        parity=parity,
    )


def _set_metadata(path: Path, entries: dict[str, str]) -> None:
    """Ours alone: the exporter's tell of the machine's folders, and of nothing that anybody needs."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (proto.graph, *proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer, *proto.functions):
        del part.metadata_props[:]
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, entries)
    onnx.save(proto, path)
