"""A model in; the same model, whose forward pass is compiled at the first image of each size and remembered on disk."""

import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from semivss.errors import SemivssError
from semivss.progress import say

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_GIVEN = os.environ.get(_CACHE)  # asked before torch names a folder that the next start of the machine empties
_SIZES = 64  # of windows, that a model is compiled for; any more run uncompiled


def demand_compiler() -> None:
    """Raise SemivssError where there is no C++ compiler, without which nothing can be compiled. Looks for the one that torch would take."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = os.environ.get("CXX") or usual
    if shutil.which(name) is None:
        raise SemivssError(
            f"--compile: needs the C++ compiler {name}, which is not there; install it, name another one in CXX, or leave it out"
        )


def compile_model(model: Any) -> None:
    """Let torch.compile make a segmenter's forward pass, in place: weights and their names stay. Say what that costs."""
    import torch._dynamo

    os.environ[_CACHE] = _GIVEN or str(cache_folder())
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SIZES)
    warnings.filterwarnings("ignore", module=r"torch\._dynamo")  # its notes on what it leaves uncompiled
    model.compile(dynamic=False)
    say(f"compiling: minutes at the first window of each size, seconds once {os.environ[_CACHE]} knows it; results differ by rounding")


def cache_folder() -> Path:
    """Where compiled code is kept for later calls."""
    above = os.environ.get("XDG_CACHE_HOME")
    return (Path(above) if above else Path.home() / ".cache") / "semivss" / "compiled"
