"""Recognised weights and what the user gives about their sizes in, the settings of the model that they are converted to out."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from semivss.errors import WeightsError
from semivss.models.given_sizes import UNREADABLE, complete_settings, unreadable
from semivss.models.read_sizes import read_sizes
from semivss.models.recognise import TRUNKS_FOR, Recognised, demand_known
from semivss.models.zoo import SWINS, TRUNKS
from semivss.recipe import checked
from semivss.settings import Model

_SIZED = {family: family for family in UNREADABLE} | {"beit_segmenter": "beit"}  # family of weights: of models/zoo.py
_OWN = ("semivss", "mask2former")  # say their sizes themselves


def settings_of(found: Recognised, tree: Mapping[str, Any]) -> Model:
    """The model, as a recipe's section [model].

    Args:
        found: the weights.
        tree: from `given_settings`.

    Raises:
        WeightsError, RecipeError: sizes that nobody says or that contradict each other, a backbone of another family.
    """
    demand_known(found)
    if found.model is not None:
        if "backbone" in tree:
            raise WeightsError(f"{found.path}: says its sizes itself; leave --preset and --config out")
        return checked(Model, str(found.path), **(_dumped(found.model) | dict(tree)))
    if family := _SIZED.get(found.family):
        return complete_settings(tree, family, read_sizes(found.state), found.path)
    if found.family == "swin":
        return checked(Model, str(found.path), **(_swin(found) | dict(tree)))
    if "backbone" not in tree and (name := found.file.config.get("architecture")):
        tree = {**tree, "backbone": f"timm/{name}"}
    return checked(Model, str(found.path), **_named(found, tree))


def lacking(found: Recognised) -> tuple[str, ...]:
    """What --preset or --config must say about these weights; the backbone's name where that alone is missing."""
    if family := _SIZED.get(found.family):
        return unreadable(family, read_sizes(found.state))
    return ("backbone",) if found.family in TRUNKS_FOR or (found.family == "timm" and "architecture" not in found.file.config) else ()


def shape_settings(found: Recognised) -> Model | None:
    """Settings of a model with the same names and shapes, whatever its function; none where that needs the backbone's name.

    What no shape tells changes no shape either, so anything will do.
    """
    family = _SIZED.get(found.family)
    if family is None:
        return settings_of(found, {}) if not lacking(found) else None
    sizes = read_sizes(found.state)
    depth, width = sizes.get("depth", 0), sizes.get("width", 0)
    if not depth or not width:
        return None
    points = next((points for points in (4, 1) if not sizes.get("heads_x_points", 4) % points), 1)
    ends = [number * depth // 4 for number in range(5)]
    guess: dict[str, Any] = {
        "heads": sizes.get("heads", 1),
        "windows": [],
        "stages": [[first, last - 1] for first, last in zip(ends, ends[1:], strict=False)],
        "points": points,
        "deform_heads": sizes.get("heads_x_points", points) // points,
        "grid": sizes.get("grid", (2, 2)),
    }
    heads = {"mask2former": {"heads": sizes["mask2former.heads"]}} if "mask2former.heads" in sizes else {}
    return complete_settings({"backbone": family, "trunk": guess, **heads}, family, sizes, found.path)


def _named(found: Recognised, tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree, if it names a backbone that these weights can be of."""
    name = tree.get("backbone")
    families = TRUNKS_FOR.get(found.family)
    fitting = [known for known in TRUNKS if families and known.rpartition("_")[0] in families] or ["timm/NAME"]
    if name is None:
        raise WeightsError(f"{found.path}: {found.says()}, which does not say the model that it goes into; give --preset {' or '.join(fitting)}")
    if families and name not in fitting:
        raise WeightsError(f"{found.path}: {found.says()}, which does not go into {name!r}; give --preset {' or '.join(fitting)}")
    return tree


def _swin(found: Recognised) -> dict[str, Any]:
    """Sizes of a Swin, all of which its shapes tell."""
    state = found.state
    table = "backbone.body.swin.encoder.layers.{}.blocks.0.attention.relative_position_bias.relative_position_bias_table"
    depths = [_count(state, rf"backbone\.body\.swin\.encoder\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
    try:
        sizes = {
            "width": len(state["backbone.body.swin.embeddings.patch_embeddings.projection.bias"]),
            "depths": depths,
            "heads": [state[table.format(stage)].shape[1] for stage in range(4)],
            "window": (math.isqrt(len(state[table.format(0)])) + 1) // 2,
        }
    except KeyError as error:
        raise WeightsError(f"{found.path}: a Swin without {error.args[0]}; get the file again") from error
    for name, preset in SWINS.items():
        if all(value == (list(known) if isinstance(known := getattr(preset, key), tuple) else known) for key, value in sizes.items()):
            return {"backbone": name}
    return {"backbone": "swin_t", "swin": sizes}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _dumped(model: Model) -> dict[str, Any]:
    return {key: value for key, value in model.model_dump(mode="json", exclude={"weights", "pretrained", "class_rows"}).items() if value is not None}
