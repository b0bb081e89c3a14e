"""What a folder of transformers or timm says about the colours of its frames in, their mean and deviation out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semivss.errors import WeightsError

PREPROCESSOR = "preprocessor_config.json"  # of transformers; timm says it in config.json
Colours = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation(folder: Path, config: Mapping[str, Any]) -> Colours | None:
    """Mean and deviation of the three colours, in 0..1; none where the folder does not say them.

    Args:
        folder: of the weights; a file has no such neighbour.
        config: its config.json.

    Raises:
        WeightsError: what it says is damaged.
    """
    path = folder / PREPROCESSOR
    try:
        if path.is_file():
            return _of_transformers(json.loads(path.read_text(encoding="utf-8")))
        said = config.get("pretrained_cfg", {})
        return _three(said["mean"], said["std"], 1.0) if "mean" in said and "std" in said else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder}: its mean and deviation of the colours are damaged ({error}); get the folder again") from error


def _of_transformers(config: Mapping[str, Any]) -> Colours | None:
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    if config.get("do_normalize", True) is False:
        return _three((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255 * scale)
    if "image_mean" not in config or "image_std" not in config:
        return None
    return _three(config["image_mean"], config["image_std"], 255 * scale)


def _three(mean: Any, std: Any, scale: float) -> Colours:
    """Those of colours in 0..1, where `mean` and `std` are of colours in 0..scale."""
    numbers = tuple(float(value) / scale for value in mean), tuple(float(value) / scale for value in std)
    if any(len(values) != 3 for values in numbers) or not all(numbers[1]):
        raise ValueError("three numbers each, and no deviation of 0")
    return numbers
