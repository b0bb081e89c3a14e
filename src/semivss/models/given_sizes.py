"""A preset's name, or a file of settings, and what a weight file's shapes tell in; the complete settings of its model out.

Shapes do not tell everything (`UNREADABLE`). A file of settings is JSON or TOML in our words (a recipe's section [model], in which the
backbone may be a family such as "vit_adapter") or in the published ones (`backbone`, `decode_head`), or a Python configuration of mmseg,
of which only literal values are read.
"""

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semivss.errors import RecipeError, WeightsError
from semivss.models.published_config import published_head, published_sizes
from semivss.models.python_literals import python_literals
from semivss.models.sizes import TrunkSizes
from semivss.models.zoo import TRUNKS
from semivss.recipe import checked, overridden
from semivss.settings import Model

_HEAD = {"channels": 1024, "queries": 200, "heads": 32, "encoder_feedforward": 4096, "feedforward": 4096}
PRESETS: dict[str, dict[str, Any]] = {  # the published models; any other backbone of models/zoo.py is a preset without a head
    "vit_adapter_l": {"drop_path": 0.3, "head": "mask2former", "mask2former": _HEAD},
    "one_peace_l": {"drop_path": 0.5, "head": "mask2former", "mask2former": _HEAD},
}
_ADAPTER = ("stages", "points", "deform_heads")
UNREADABLE = {
    "vit_adapter": _ADAPTER,
    "vit_adapter_plain": ("heads", "windows", *_ADAPTER),
    "one_peace": _ADAPTER,
    "beit": ("stages",),
}
_ANY = {"layer_scale", "injector_scale"}  # start values, which a trained model does not need
_REMEDY = "give --preset, or --config with it"


def given_settings(preset: str | None, config: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's section [model] as a tree, complete or not; empty where nothing is given.

    Raises:
        WeightsError, RecipeError: no such preset, or a file that cannot be read or makes no sense.
    """
    if preset is not None and config is not None:
        raise WeightsError("--preset and --config: both say the sizes; give one of them, and -o for single ones")
    tree: dict[str, Any] = {}
    if preset is not None:
        tree = {"backbone": preset, **PRESETS.get(preset, {})}
    elif config is not None:
        tree = _in_our_words(_read(config), config)
    return overridden(tree, overrides)


def complete_settings(tree: Mapping[str, Any], family: str, sizes: Mapping[str, Any], where: Path) -> Model:
    """The settings of the model whose trunk (and Mask2Former head) have the shapes `sizes`.

    Args:
        tree: from `given_settings`.
        family: of the backbone: a key of UNREADABLE.
        sizes: from `read_sizes`.
        where: for messages: the weight file.

    Raises:
        WeightsError: something is given nowhere, or given otherwise than the shapes say.
    """
    name = tree.get("backbone", family)
    fitting = [known for known in TRUNKS if known.rpartition("_")[0] == family]
    if name not in (family, *fitting):
        raise WeightsError(f"{where}: holds a {family}, not {name!r}; give {' or '.join(fitting)}, or the configuration of this model")
    preset = dataclasses.asdict(TRUNKS[name]) if name in TRUNKS else {}
    given = preset | {key: value for key, value in dict(tree.get("trunk") or {}).items() if value is not None}
    head = dict(tree.get("mask2former") or {})
    known = given | {f"mask2former.{key}": value for key, value in head.items()}
    _demand_agreement(known, sizes, where)
    _demand_all(known, sizes, family, where)
    wanted = {field.name for field in dataclasses.fields(TrunkSizes)}
    trunk = {key: value for key, value in (dict(sizes) | given).items() if key in wanted}
    head = {key.removeprefix("mask2former."): value for key, value in sizes.items() if key.startswith("mask2former.")} | head
    chosen = name if name in TRUNKS else _nearest(family, trunk)
    if family == "beit" and name == family:
        trunk["deform_heads"] = trunk["heads"]  # of no adapter, but it must divide the width
    departures = {key: value for key, value in trunk.items() if _plain(value) != _plain(getattr(TRUNKS[chosen], key))}
    sections = {"backbone": chosen, "trunk": departures or None}
    if any(key.startswith("mask2former.") for key in sizes):
        sections |= {"head": "mask2former", "mask2former": head}
    rest = {key: value for key, value in tree.items() if key not in ("backbone", "trunk", "mask2former")}
    return checked(Model, str(where), **{key: value for key, value in (rest | sections).items() if value is not None})


def unreadable(family: str, sizes: Mapping[str, Any]) -> tuple[str, ...]:
    """What a model of the family needs and `sizes` does not tell, named as in a recipe's section [model]."""
    trunk = UNREADABLE.get(family, ())
    lacking = [f"trunk.{key}" for key in trunk] + (["trunk.grid"] if trunk and "grid" not in sizes else [])
    return tuple(lacking + (["mask2former.heads"] if "mask2former.channels" in sizes else []))


def _demand_agreement(known: Mapping[str, Any], sizes: Mapping[str, Any], where: Path) -> None:
    """Raise WeightsError for sizes that are given otherwise than the shapes say."""
    wrong = [
        f"{key} {_shown(value)} in the file, {_shown(known[key])} given"
        for key, value in sizes.items()
        if known.get(key) is not None and not _equal(known[key], value, sizes.get("width", 1))
    ]
    product = sizes.get("heads_x_points")
    if product and {"deform_heads", "points"} <= known.keys() and known["deform_heads"] * known["points"] != product:
        wrong.append(f"deform_heads x points {product} in the file, {known['deform_heads']} x {known['points']} given")
    if wrong:
        raise WeightsError(f"{where}: {'; '.join(wrong)}; give the preset or configuration of this model, or single sizes with -o")


def _demand_all(known: Mapping[str, Any], sizes: Mapping[str, Any], family: str, where: Path) -> None:
    """Raise WeightsError naming what is given nowhere."""
    lacking = [name for name in unreadable(family, sizes) if known.get(name.removeprefix("trunk.")) is None]
    if lacking:
        raise WeightsError(f"{where}: its shapes do not tell {', '.join(lacking)}; {_REMEDY}, or -o {lacking[0]}=...")


def _nearest(family: str, trunk: Mapping[str, Any]) -> str:
    """The preset of the family that differs in the fewest sizes."""
    names = [name for name in TRUNKS if name.rpartition("_")[0] == family]
    return min(names, key=lambda name: sum(_plain(value) != _plain(getattr(TRUNKS[name], key)) for key, value in trunk.items()))


def _in_our_words(tree: Mapping[str, Any], path: Path) -> dict[str, Any]:
    inner = tree.get("model", tree)
    backbone = inner.get("backbone") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or backbone is None:
        raise WeightsError(f"{path}: says no backbone; write a recipe's section [model], or the published sections backbone and decode_head")
    if isinstance(backbone, str):
        return dict(inner)
    if not isinstance(backbone, Mapping):
        raise WeightsError(f"{path}: backbone must be a name or a section, got {backbone!r}; correct it")
    family, sizes = published_sizes(backbone)
    ours: dict[str, Any] = {"backbone": family, "trunk": {k: v for k, v in dataclasses.asdict(sizes).items() if k not in _ANY}}
    for key in ("rule", "recompute", "drop_path"):
        ours |= {key: inner[key]} if key in inner else {}
    if isinstance(head := inner.get("decode_head"), Mapping) and (heads := published_head(head)):
        ours["mask2former"] = heads
    if isinstance(head := inner.get("mask2former"), Mapping):
        ours["mask2former"] = dict(head)
    return ours


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        match path.suffix:
            case ".py":
                return python_literals(text)
            case ".json":
                tree = json.loads(text)
            case _:
                tree = tomllib.loads(text)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); give a JSON, TOML or Python file of sizes") from error
    except (ValueError, SyntaxError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not valid {path.suffix or 'TOML'} ({reason}); mend it") from error
    if not isinstance(tree, Mapping):
        raise WeightsError(f"{path}: not a table of settings; write backbone and its sizes")
    return tree


def _equal(given: Any, read: Any, width: int) -> bool:
    if isinstance(read, float) and isinstance(given, int | float):
        return int(given * width) == round(read * width)  # shares of the width
    return bool(_plain(given) == _plain(read))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}" if isinstance(value, float) else str(value)
