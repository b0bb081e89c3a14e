"""A file or folder of weights in, what it is in a few lines out: family, sizes, classes, what is missing, unused or to be given.

Nothing is loaded: the model that the tensors are compared with exists on the meta device only.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from semivss.models.weights.architecture import lacking, presets_for, settings_of, shape_settings
from semivss.models.weights.classes import named_set, nameless_set
from semivss.models.weights.given import given_settings
from semivss.models.weights.load import matched, not_filled, with_classes
from semivss.models.weights.recognise import Recognised, demand_known, open_recognised
from semivss.models.weights.shapes import read_sizes
from semivss.models.weights.weight_file import some
from semivss.models.zoo import build_segmenter
from semivss.settings import Model

_HEAD = "mask2former."


def inspect(path: Path, *, preset: str | None = None, config: Path | None = None, overrides: Sequence[str] = ()) -> str:
    """What lies in `path`, and whether it fits what is given about it.

    Args:
        path: file or folder.
        preset: as in `convert`, and so are `config` and `overrides`; nothing of them is needed.

    Raises:
        SemivssError: a file that cannot be read, of nobody's that we know, or of other sizes than those given. In one line.
    """
    tree = given_settings(preset, config, overrides)
    found = open_recognised(path)
    if not tree:
        demand_known(found)
    model = settings_of(found, tree) if tree else shape_settings(found)
    rows = {"file": _file(found), "family": found.says(), "sizes": _sizes(found), "head": _head(found), "classes": _classes(found)}
    rows |= _compared(found, model) if model else {"unused": _listed(found.unused)}
    if not tree and (names := lacking(found)):
        rows["to give"] = f"{', '.join(names)}: --preset {' or '.join(presets_for(found))}, or --config FILE"
    return "\n".join(f"{title:<9}{text}" for title, text in rows.items() if text)


def _file(found: Recognised) -> str:
    tensors = found.file.tensors.values()
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    millions = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point()) / 1e6
    size = sum(file.stat().st_size for file in found.file.files) / 1e6
    parts = f" in {len(found.file.files)} files" if len(found.file.files) > 1 else ""
    return f"{found.path}: {found.file.form}, {len(tensors)} tensors{parts}, {millions:.2f} M numbers of {', '.join(kinds)}, {size:.1f} MB"


def _sizes(found: Recognised) -> str:
    if found.family in ("semivss", "mask2former", "swin") and (model := shape_settings(found)):
        changed = model.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return _shown({key: value for key, value in changed.items() if key not in ("class_rows", "config", "mask2former")})
    return _shown(
        {key.replace("_x_", " x "): value for key, value in read_sizes(found.state).items() if "." not in key and key != "classes"}
    )


def _head(found: Recognised) -> str:
    return _shown({key.removeprefix(_HEAD): value for key, value in read_sizes(found.state).items() if key.startswith(_HEAD)})


def _classes(found: Recognised) -> str:
    names, count = found.classes, read_sizes(found.state).get("classes")
    if count is None:
        return "none: no classifier"
    if names is None:
        return f"{count} without names"
    if found.label_set is None and len(names) != count:
        return f"{count}, and {len(names)} names ({some(names)}), which cannot be: convert it with --source-classes"
    return f"{len(names)} ({named_set(names, found.path.stem).name}: {some(names)})"


def _compared(found: Recognised, model: Model) -> dict[str, str]:
    """Beside the model that the weights are for."""
    classes = nameless_set(len(found.label_set) if found.label_set else read_sizes(found.state).get("classes", 2))
    start = with_classes(found, model.head, classes, classes)
    with torch.device("meta"):
        segmenter = build_segmenter(model.model_copy(update={"class_rows": start.rows(model.head)}), classes)
    report, _ = matched(segmenter, start, str(found.path))
    lost = not_filled(report)
    anew = [name for name in lost if not name.startswith((found.part, "head."))]  # the adapter of a trunk alone
    missing = _listed([name for name in lost if name not in anew])
    return {"missing": missing, "anew": _listed(anew) if anew else "", "unused": _listed(report.unexpected)}


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({some(names)})" if names else "nothing"


def _shown(value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
        case list() | tuple():
            return "x".join(map(str, value))
        case float():
            return f"{value:g}"
    return str(value)
