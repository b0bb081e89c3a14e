"""Nothing in, the kind of device that trains and predicts out: a GPU where the machine has one, else the CPU."""

import torch

from semivss.ranks import local_rank


def choose_accelerator() -> str:
    """A device type of torch: "cuda" (NVIDIA, and AMD's ROCm under the same name), "mps" (Apple) or "cpu", the first that is there.

    "cuda" means the GPU that this process has been given. An empty CUDA_VISIBLE_DEVICES leaves the CPU.
    """
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def own_device(kind: str) -> str:
    """The device of this type for this process: of several GPUs each process that torchrun has started on the machine takes another one.

    Where there are more processes than GPUs they share them.
    """
    if kind != "cuda" or torch.cuda.device_count() < 2:
        return kind
    return f"cuda:{local_rank() % torch.cuda.device_count()}"
