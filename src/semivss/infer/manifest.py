"""Models and settings in, what predictions were made from out; and the manifest: every file with size and hash, versions, defects."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semivss import __version__
from semivss.atomic import atomic_file
from semivss.data.labels import LabelSet
from semivss.data.policy import DefectCounter
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.onnx_model import OnnxModel
from semivss.infer.stream import FrameModel
from semivss.infer.writer import read_record
from semivss.settings import Predict, PseudoLabels


def made_from(models: Sequence[FrameModel], shares: Sequence[float], settings: Predict | PseudoLabels) -> dict[str, Any]:
    """What decides the content of the files besides the input. The batch size and a limit on memory do not belong to it."""
    kept = settings.model_dump(mode="json", exclude={"batch", "views", "weights", "memory"})
    views = settings.views.model_dump(mode="json")
    return {"models": [model_hash(model) for model in models], "weights": list(shares), "views": views, **kept}


def model_hash(model: FrameModel) -> str:
    """SHA-256 over classes, distribution rule, settings that are not at their default, and every weight of a model; or that of its file."""
    if isinstance(model, OnnxModel):
        return model.sha256
    if isinstance(model, ModelOnDemand):
        with model.lent() as lent:
            return model_hash(lent)
    settings = getattr(model, "settings", None)  # a Segmenter's; other models are told apart by their type
    kind = settings.model_dump(mode="json", exclude_defaults=True) if settings else type(model).__name__
    described = [list(model.label_set.names), model.label_set.colors, model.rule, kind]
    digest = hashlib.sha256(json.dumps(described).encode())
    if isinstance(model, nn.Module):
        for name, value in sorted(model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the files depend on."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "pillow", "av")}
    return {"semivss": __version__, **packages, "zlib": zlib.ZLIB_RUNTIME_VERSION}


def write_manifest(
    out: Path, videos: Sequence[str], made: dict[str, Any], label_set: LabelSet, left_out: DefectCounter, more: dict[str, Any]
) -> None:
    """Gather the records of all videos in `out`/manifest.json, line by line.

    `input_sha256` of a video is over the pixels of its frames in their order, as they were decoded. `left_out` is what the reader of the
    data set met, such as a listed video that is not there; `more` comes first in the file.
    """
    rows, counter = summaries(out, videos, left_out)
    described = {"made_from": made, "classes": list(label_set.names), "versions": versions()}
    head = more | described | {"videos": rows, "defects": counter.to_dict()}
    with atomic_file(out / "manifest.json") as file:
        file.write(json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}").encode() + b',\n "files": [')
        entries = (line for video in videos for line in read_record(out, video) if "path" in line)
        for number, entry in enumerate(entries):
            file.write((b",\n  " if number else b"\n  ") + json.dumps(entry, ensure_ascii=False).encode())
        file.write(b"\n ]\n}\n")


def summaries(out: Path, videos: Sequence[str], left_out: DefectCounter) -> tuple[list[dict[str, Any]], DefectCounter]:
    """A row of the manifest for each video, and the defects: theirs and `left_out`."""
    counter, rows = DefectCounter(), []
    counter.merge(left_out)
    for video in videos:
        summary: dict[str, Any] = {}
        for summary in read_record(out, video):  # noqa: B007 -- the last line is meant
            pass
        own = DefectCounter.from_dict(summary.get("defects", {}))
        counter.merge(own)
        counts = {"frames": summary.get("frames", 0), "defects": sum(own.counts().values())}
        rows.append({"name": video, **counts, "input_sha256": summary.get("input_sha256")})
    return rows, counter
