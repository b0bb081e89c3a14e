"""Recognised weights and what the user gives about their sizes in, the settings of their model out.

Shapes do not tell everything (`UNREADABLE`): what is given nowhere is an error, and so is what is given otherwise than the shapes say.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semivss.errors import RecipeError, WeightsError
from semivss.models.sizes import TrunkSizes
from semivss.models.weights.recognise import Recognised, demand_known
from semivss.models.weights.shapes import SEEDS, read_sizes, read_swin
from semivss.models.zoo import TRUNKS, swin_section
from semivss.recipe import checked
from semivss.settings import Model

_ADAPTER = ("stages", "points", "deform_heads")
UNREADABLE = {  # by family of backbones, sizes as in TrunkSizes
    "vit_adapter": _ADAPTER,
    "vit_adapter_plain": ("heads", "windows", *_ADAPTER),
    "one_peace": _ADAPTER,
    "beit": ("stages",),
}
_WHOLE = {"vit_adapter": "vit_adapter", "vit_adapter_plain": "vit_adapter_plain", "one_peace": "one_peace", "beit_segmenter": "beit"}
_TRUNK_ALONE = {"beit": ("vit_adapter", "beit"), "vit": ("vit_adapter_plain",), "one_peace_trunk": ("one_peace",)}
_FAMILIES = {family: (backbone,) for family, backbone in _WHOLE.items()} | _TRUNK_ALONE  # family of weights -> of backbones
_FIELDS = {field.name for field in dataclasses.fields(TrunkSizes)}


def settings_of(found: Recognised, tree: Mapping[str, Any]) -> Model:
    """The model of these weights, as a recipe's section [model].

    Args:
        found: the weights.
        tree: from `given_settings`.

    Raises:
        WeightsError, RecipeError: sizes that nobody says or that contradict each other, a backbone of another family.
    """
    if not str(tree.get("backbone", "")).startswith("timm/"):  # whose names may lie in any file
        demand_known(found)
    where = str(found.path)
    if found.model is not None:
        if "backbone" in tree:
            raise WeightsError(f"{where}: says its sizes itself; leave --preset and --config out")
        return checked(Model, where, **_changed(_dumped(found.model), tree))
    if found.family in _FAMILIES:
        sizes = _sizes(found)
        if SEEDS in found.state and "mask2former.channels" not in sizes:
            raise WeightsError(f"{where}: damaged: its Mask2Former head lacks tensors, or they have impossible shapes; get the file again")
        return _complete(tree, _family(found, tree.get("backbone")), sizes, found.path)
    if found.family == "swin":
        return checked(Model, where, **_changed(_swin(found), tree))
    name = tree.get("backbone") or (f"timm/{architecture}" if (architecture := found.file.config.get("architecture")) else None)
    if name is None:
        raise WeightsError(f"{where}: {found.says()}, which does not say the model that it goes into; give --preset timm/NAME")
    return checked(Model, where, **{**tree, "backbone": name})


def _changed(own: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """A section with single settings replaced, those of its subsections too."""
    both = {key: own[key] | value for key, value in tree.items() if isinstance(value, dict) and isinstance(own.get(key), dict)}
    return dict(own) | dict(tree) | both


def lacking(found: Recognised) -> tuple[str, ...]:
    """What must be given about these weights, named as in a recipe's section [model]."""
    if found.family in _WHOLE:
        return _unreadable(_WHOLE[found.family], _sizes(found))
    says_itself = found.model is not None or found.family == "swin" or "architecture" in found.file.config
    return () if says_itself and found.family not in _TRUNK_ALONE else ("backbone",)


def presets_for(found: Recognised) -> tuple[str, ...]:
    """Backbones of models/zoo.py of the weights' family, only those of their sizes if there are such."""
    sizes = {key: value for key, value in _sizes(found).items() if key in _FIELDS - {"grid"}}
    names = [name for family in _FAMILIES.get(found.family, ()) for name in _of_family(family)]
    exact = [name for name in names if all(_plain(getattr(TRUNKS[name], key)) == _plain(value) for key, value in sizes.items())]
    return tuple(exact or names or ["timm/NAME"])


def shape_settings(found: Recognised) -> Model | None:
    """Settings of a model with the same names and shapes, whatever its function; none where that needs the backbone's name.

    What no shape tells changes no shape either, so anything will do.
    """
    families = _FAMILIES.get(found.family)
    if families is None:
        return None if lacking(found) else settings_of(found, {})
    family, sizes = families[0], _sizes(found)
    depth, product = sizes.get("depth", 0), sizes.get("heads_x_points", 4)
    if depth < 4:  # of which features are taken after four
        raise WeightsError(f"{found.path}: damaged: {found.says()} of depth {depth}, where none has less than 4; get the file again")
    ends = [number * depth // 4 for number in range(5)]
    points = 1 if product % 4 else 4
    guess: dict[str, Any] = {
        "heads": sizes.get("heads", 1),
        "windows": [],
        "stages": [[first, last - 1] for first, last in itertools.pairwise(ends)],
        "points": points,
        "deform_heads": product // points,
        "grid": read_sizes(found.state).get("grid", (2, 2)),
    }
    heads = {"mask2former": {"heads": sizes["mask2former.heads"]}} if "mask2former.heads" in sizes else {}
    return _complete({"backbone": family, "trunk": guess, **heads}, family, sizes, found.path)


def _family(found: Recognised, name: str | None) -> str:
    """Of the backbone that the weights go into."""
    families = _FAMILIES[found.family]
    presets = " or ".join(presets_for(found))
    if name is None:
        if len(families) == 1:
            return families[0]
        raise WeightsError(f"{found.path}: {found.says()}, which does not say the model that it goes into; give --preset {presets}")
    for family in families:
        if name == family or name in _of_family(family):
            return family
    raise WeightsError(f"{found.path}: {found.says()}, which is no {name}; give --preset {presets}, or the configuration of this model")


def _sizes(found: Recognised) -> dict[str, Any]:
    """What the shapes tell. The grid of a trunk alone tells nothing: it is resized to that of the model."""
    sizes = read_sizes(found.state)
    return {key: value for key, value in sizes.items() if key != "grid"} if found.family in _TRUNK_ALONE else sizes


def _complete(tree: Mapping[str, Any], family: str, sizes: Mapping[str, Any], where: Path) -> Model:
    """The settings of the model of this family whose trunk (and Mask2Former head) have the shapes `sizes`."""
    name = tree.get("backbone")
    preset = dataclasses.asdict(TRUNKS[name]) if name in TRUNKS else {}
    if "grid" in sizes:
        preset.pop("grid", None)  # the same model may have been trained at another size
    given = preset | {key: value for key, value in dict(tree.get("trunk") or {}).items() if value is not None}
    head = dict(tree.get("mask2former") or {})
    known = given | {f"mask2former.{key}": value for key, value in head.items()}
    _demand_agreement(known, sizes, where)
    _demand_all(known, sizes, family, where)
    trunk = {key: value for key, value in sizes.items() if key in _FIELDS} | given
    if family == "beit" and not preset:
        trunk["deform_heads"] = trunk["heads"]  # of no adapter, but it must divide the width
    chosen = name if name in TRUNKS else _nearest(family, trunk)
    departures = {key: value for key, value in trunk.items() if _plain(value) != _plain(getattr(TRUNKS[chosen], key, None))}
    sections: dict[str, Any] = {"backbone": chosen} | ({"trunk": departures} if departures else {})
    if "mask2former.channels" in sizes:
        read = {key.removeprefix("mask2former."): value for key, value in sizes.items() if key.startswith("mask2former.")}
        sections |= {"head": "mask2former", "mask2former": read | head}
    elif head:
        sections["mask2former"] = head
    rest = {key: value for key, value in tree.items() if key not in ("backbone", "trunk", "mask2former")}
    return checked(Model, str(where), **(rest | sections))


def _unreadable(family: str, sizes: Mapping[str, Any]) -> tuple[str, ...]:
    trunk = UNREADABLE[family] + (() if "grid" in sizes else ("grid",))
    return tuple(f"trunk.{key}" for key in trunk) + (("mask2former.heads",) if "mask2former.channels" in sizes else ())


def _demand_all(known: Mapping[str, Any], sizes: Mapping[str, Any], family: str, where: Path) -> None:
    """Raise WeightsError naming what is given nowhere."""
    absent = [name for name in _unreadable(family, sizes) if known.get(name.removeprefix("trunk.")) is None]
    if absent:
        remedy = f"give --preset, or --config with it, or -o {absent[0]}=..."
        raise WeightsError(f"{where}: its shapes do not tell {', '.join(absent)}; {remedy}")


def _demand_agreement(known: Mapping[str, Any], sizes: Mapping[str, Any], where: Path) -> None:
    """Raise WeightsError for sizes that are given otherwise than the shapes say."""
    wrong = [
        f"{key} {_shown(value)} in the file, {_shown(known[key])} given"
        for key, value in sizes.items()
        if known.get(key) is not None and not _agree(key, known[key], value, sizes.get("width", 1))
    ]
    product = sizes.get("heads_x_points")
    if product and {"deform_heads", "points"} <= known.keys() and known["deform_heads"] * known["points"] != product:
        wrong.append(f"deform_heads x points {product} in the file, {known['deform_heads']} x {known['points']} given")
    if wrong:
        more = f"; {len(wrong) - 3} more differ" if len(wrong) > 3 else ""
        raise WeightsError(
            f"{where}: {'; '.join(wrong[:3])}{more}; give the preset or configuration of this model, or single sizes with -o"
        )


def _agree(key: str, given: Any, read: Any, width: int) -> bool:
    if key == "grid" and isinstance(given, list | tuple) and len(given) == 2:
        high, wide = given
        side = read[0]  # as if it were square: a grid of as many steps, or of as many patches, has the same shapes
        return bool((2 * high - 1) * (2 * wide - 1) == (2 * side - 1) ** 2 or high * wide == side * side)
    if isinstance(read, float) and isinstance(given, int | float):
        return int(given * width) == round(read * width)  # shares of the width
    return bool(_plain(given) == _plain(read))


def _swin(found: Recognised) -> dict[str, Any]:
    try:
        return swin_section(read_swin(found.state))
    except KeyError as error:
        raise WeightsError(f"{found.path}: a Swin without {error.args[0]}; get the file again") from error
    except (IndexError, TypeError, RecipeError) as error:
        raise WeightsError(f"{found.path}: a damaged Swin ({error}); get the file again") from error


def _of_family(family: str) -> list[str]:
    return [name for name in TRUNKS if name.rpartition("_")[0] == family]


def _nearest(family: str, trunk: Mapping[str, Any]) -> str:
    """The preset of the family that differs in the fewest sizes."""
    return min(
        _of_family(family), key=lambda name: sum(_plain(value) != _plain(getattr(TRUNKS[name], key, None)) for key, value in trunk.items())
    )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def _dumped(model: Model) -> dict[str, Any]:
    left_out = {"weights", "pretrained", "class_rows"}
    return model.model_dump(mode="json", exclude=left_out, exclude_none=True)
