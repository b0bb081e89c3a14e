"""The precision that settings ask for and models in, the one that they run in out: bfloat16 where the machine multiplies it much faster."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from semivss.accelerator import choose_accelerator
from semivss.infer.onnx_model import OnnxModel
from semivss.infer.stream import FrameModel
from semivss.processor import has_amx
from semivss.settings import Forward

How = TypeVar("How", bound=Forward)


def with_precision(settings: How, models: Sequence[FrameModel] = ()) -> How:
    """The same settings, where "auto" has become "bf16" or "32".

    bf16: GPUs of NVIDIA and AMD that have it, and CPUs with AMX. A CPU whose bfloat16 instructions work on vectors alone gains little,
    and exported models run in float32.
    """
    if settings.precision != "auto":
        return settings
    exported = any(isinstance(model, OnnxModel) for model in models)
    return settings.model_copy(update={"precision": "bf16" if _is_fast() and not exported else "32"})


def _is_fast() -> bool:
    match choose_accelerator():
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            return has_amx()
    return False
