"""What the user gives about a model's sizes in (a preset's name, or a file, and single settings), a recipe's section [model] as a tree out.

A file is JSON or TOML in our words (a recipe's section [model], in which the backbone may be a family such as "vit_adapter") or in the
published ones (`backbone`, `decode_head`), or a Python configuration of mmseg, which is never run (`python_config.py`).
"""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semivss.errors import WeightsError
from semivss.models.published_config import published_head, published_sizes
from semivss.models.weights.python_config import Section, python_values
from semivss.recipe import checked, overridden
from semivss.settings import Model

_HEAD = {"channels": 1024, "queries": 200, "heads": 32, "encoder_feedforward": 4096, "feedforward": 4096}
PRESETS: dict[str, dict[str, Any]] = {  # the published models; any other backbone of models/zoo.py is a preset without a head
    "vit_adapter_l": {"drop_path": 0.3, "head": "mask2former", "mask2former": _HEAD},
    "one_peace_l": {"drop_path": 0.5, "head": "mask2former", "mask2former": _HEAD},
}
_START_VALUES = {"layer_scale", "injector_scale"}  # which a trained model does not need


def given_settings(preset: str | None, config: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's section [model] as a tree, complete or not; empty where nothing is given.

    Args:
        preset: a backbone of models/zoo.py, or timm/NAME.
        config: a file instead.
        overrides: `key=value`, applied last.

    Raises:
        WeightsError: preset and file at once, or a file that cannot be read or makes no sense.
        RecipeError: an override of another form, unknown settings or values of another kind.
    """
    if preset is not None and config is not None:
        raise WeightsError("--preset and --config: both say the sizes; give one of them, and -o for single ones")
    tree: dict[str, Any] = {}
    if preset is not None:
        tree = {"backbone": preset, **PRESETS.get(preset, {})}
    elif config is not None:
        tree = _in_our_words(_read(config), config)
    tree = overridden(tree, overrides)
    checked(Model, str(config or ("-o" if overrides else "--preset")), **tree)  # that values are of the right kind
    return tree


def _read(path: Path) -> Mapping[str, Any]:
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {".py": ("Python", python_values), ".json": ("JSON", json.loads)}
    form, reader = readers.get(path.suffix, ("TOML", tomllib.loads))
    try:
        tree = reader(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); give a JSON, TOML or Python file of sizes") from error
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(f"{path}: not valid {form} ({reason}); mend it") from error
    if not isinstance(tree, Mapping):
        raise WeightsError(f"{path}: not a table of settings; write backbone and its sizes")
    return tree


def _in_our_words(tree: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        return _translated(Section(tree))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _translated(tree: Section) -> dict[str, Any]:
    inner = tree.get("model", tree)
    backbone = inner.get("backbone") if isinstance(inner, Section) else None
    if not isinstance(inner, Section) or backbone is None:
        raise WeightsError("says no backbone; write a recipe's section [model], or the published sections backbone and decode_head")
    if isinstance(backbone, str):
        return inner.plain()
    if not isinstance(backbone, Section):
        raise WeightsError(f"backbone must be a name or a section, got {backbone!r}; correct it")
    family, sizes = published_sizes(backbone)
    head = published_head(inner["decode_head"]) if isinstance(inner.get("decode_head"), Section) else {}
    trunk = {key: value for key, value in dataclasses.asdict(sizes).items() if key not in _START_VALUES}
    ours = {"backbone": family, "trunk": trunk, "drop_path": backbone.get("drop_path_rate", 0.0)}
    ours |= {"mask2former": head} if head else {}
    own = {key: inner[key] for key in ("mask2former", "rule", "recompute", "drop_path") if key in inner}
    return ours | Section(own).plain()
