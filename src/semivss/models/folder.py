"""A Segmenter in, a folder of config.json, model.safetensors and README.md out, and back; offline, without pickle."""

import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

import semivss
from semivss.atomic import atomic_set, newest
from semivss.data.labels import LabelSet
from semivss.digest import file_sha256
from semivss.errors import DataError, WeightsError
from semivss.models.segmenter import Segmenter, fill_or_take
from semivss.models.weights.weight_file import CONFIG, WeightFile, read_config
from semivss.settings import Model

WEIGHTS, CARD = "model.safetensors", "README.md"
FORMAT = 1  # of config.json; raised when an older reader would misunderstand it
_REMEDY = "copy the model folder again or train anew"

Kind = TypeVar("Kind", bound=Segmenter)


@dataclass(frozen=True)
class Origin:
    """Where converted weights came from; part of config.json and of the card."""

    files: dict[str, str]  # name without its folder, SHA-256
    family: str  # in words
    notes: tuple[str, ...] = ()  # what became of classes and head


def save_segmenter(segmenter: Segmenter, folder: Path, origin: Origin | None = None) -> None:
    """Write the three files in one step: config.json holds the hash of the weights, and a kill must not leave the one without the other.

    The weights go from where they lie into the file; those of a model on the CPU are in memory once.

    Raises:
        SemivssError: the folder cannot be written or is full.
    """
    config = _config(segmenter) | ({} if origin is None else {"origin": asdict(origin)})

    def weights(path: Path) -> None:
        _write_weights({key: value.detach().cpu().contiguous() for key, value in segmenter.state_dict().items()}, path)

    def described(path: Path) -> bytes:
        complete = config | {"weights_sha256": file_sha256(path.with_name(WEIGHTS))}
        return (json.dumps(complete, indent=1, ensure_ascii=False) + "\n").encode()

    atomic_set(folder, {WEIGHTS: weights, CARD: _card(config).encode(), CONFIG: described})


def load_segmenter(kind: type[Kind], folder: Path) -> Kind:
    """Rebuild the model saved in `folder`, in evaluation mode, on the CPU.

    Raises:
        WeightsError: a file is missing, damaged, from a newer version, or does not belong to the others.
    """
    from semivss.models.zoo import empty_parts

    config = _read_config(newest(folder, CONFIG))
    settings, labels = _described(config, newest(folder, CONFIG))
    segmenter = kind(*empty_parts(settings, len(labels)), labels, settings)
    _fill(segmenter, _read_weights(newest(folder, WEIGHTS), config.get("weights_sha256")), newest(folder, WEIGHTS))
    return segmenter.eval()


def is_ours(folder: Path) -> bool:
    """Whether semivss wrote the folder. Raises WeightsError for a config.json that is no JSON table."""
    return read_config(folder).get("library") == "semivss"


def read_description(folder: Path) -> tuple[Model, LabelSet]:
    """What the model saved in `folder` was built from, and its classes. Raises WeightsError as `load_segmenter` does."""
    return _described(_read_config(newest(folder, CONFIG)), newest(folder, CONFIG))


def read_folder(folder: Path) -> tuple[WeightFile, Model, LabelSet]:
    """What is saved in `folder`, without building the model. Raises WeightsError as `load_segmenter` does."""
    config, weights = _read_config(newest(folder, CONFIG)), newest(folder, WEIGHTS)
    settings, labels = _described(config, newest(folder, CONFIG))
    return WeightFile(folder, "safetensors", _read_weights(weights, config.get("weights_sha256")), (weights,), config), settings, labels


def _write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Raises OSError for a file that cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(state, path)
    except SafetensorError as error:
        code = re.search(r"code: (\d+)|os error (\d+)", str(error))  # it tells the error of the system in words only
        number = int(code[1] or code[2]) if code else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _config(segmenter: Segmenter) -> dict[str, Any]:
    labels = segmenter.label_set
    built_from = segmenter.settings.model_copy(update={"weights": None, "pretrained": False})  # the file beside holds the weights
    return {
        "architectures": ["Segmenter"],
        "library": "semivss",
        "version": semivss.__version__,
        "format": FORMAT,
        "model": built_from.model_dump(mode="json"),
        "label_set": labels.name,
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
        "colors": [list(color) for color in labels.colors],
        "things": list(labels.things),
        "image_mean": (segmenter.mean.flatten() / 255).tolist(),
        "image_std": (segmenter.std.flatten() / 255).tolist(),
        "parameters": sum(parameter.numel() for parameter in segmenter.parameters()),
    }


def _card(config: dict[str, Any]) -> str:
    model, names = config["model"], list(config["label2id"])
    classes = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    return f"""---
library_name: semivss
pipeline_tag: image-segmentation
tags: [semantic-segmentation, video]
---

# {model["backbone"]} with a {model["head"]} head

Semantic segmentation of video frames into {len(names)} classes ({config["label_set"]}): {classes}.
{config["parameters"] / 1e6:.2f} M parameters; written by semivss {config["version"]}.
{_origin(config.get("origin"))}

```python
from semivss.models.segmenter import Segmenter
from semivss.posterior import pixel_distribution

model = Segmenter.from_pretrained("this/folder")
p = pixel_distribution(model(frames), frames.shape[-2:], model.rule)  # frames: uint8 RGB (B, 3, H, W); p sums to 1
```

Or: `semivss predict this/folder VIDEO --out predictions`.
"""


def _origin(origin: Mapping[str, Any] | None) -> str:
    if origin is None:
        return "How it was trained stands in the `recipe.toml` of its run."
    files = ", ".join(f"`{name}` (SHA-256 {digest})" for name, digest in origin["files"].items())
    return " ".join([f"Converted from {origin['family']}: {files}.", *(f"{note[0].upper()}{note[1:]}." for note in origin["notes"])])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found; give the folder that holds a model's {CONFIG} and {WEIGHTS}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); give the folder that holds a model's {CONFIG}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: damaged, not JSON; {_REMEDY}") from error
    if not isinstance(config, dict) or config.get("library") != "semivss":
        raise WeightsError(
            f"{path}: was not written by semivss; give the folder of a model that it saved, or convert it first: semivss weights convert"
        )
    if config.get("format") != FORMAT:
        writer = config.get("version")
        raise WeightsError(f"{path}: format {config.get('format')}, this version reads {FORMAT}; install semivss {writer}, which wrote it")
    return config


def _described(config: dict[str, Any], path: Path) -> tuple[Model, LabelSet]:
    try:
        settings = Model.model_validate(config["model"])
        names = tuple(config["id2label"][str(index)] for index in range(len(config["id2label"])))
        labels = LabelSet(config["label_set"], names, tuple((r, g, b) for r, g, b in config["colors"]), tuple(config["things"]))
    except (KeyError, TypeError, ValueError, ValidationError, DataError) as error:
        raise WeightsError(f"{path}: damaged, its model or class section makes no sense; {_REMEDY}") from error
    return settings, labels


def _read_weights(path: Path, digest: object) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file_sha256(path) != digest:
            raise WeightsError(f"{path}: damaged, or not the weights that {CONFIG} belongs to (SHA-256 differs); {_REMEDY}")
        return load_file(path)  # mapped, not read: a large model is in memory once
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file; {_REMEDY}") from error


def _fill(segmenter: Segmenter, state: dict[str, Tensor], path: Path) -> None:
    expected = segmenter.state_dict()
    if wrong := sorted(key for key in expected.keys() | state.keys() if _shape(expected, key) != _shape(state, key)):
        raise WeightsError(f"{path}: {len(wrong)} tensors do not fit the model in {CONFIG}, the first is {wrong[0]}; {_REMEDY}")
    fill_or_take(segmenter, state)


def _shape(state: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
