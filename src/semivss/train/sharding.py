"""A model in training in, the same with weights, gradients and optimiser state shared out among processes out (FSDP, arXiv 2304.11277).

torch's `fully_shard` cuts every parameter along its first axis. Each trunk block, each injector and extractor and each layer of the head
is a unit: its weights are put together just before it runs and dropped after; what belongs to no unit stays together during a step. Names,
and the order of parameters, are those of the whole model, so a checkpoint of whole tensors serves any number of processes.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from semivss.models.mask2former import Mask2Former
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter

Module = TypeVar("Module", bound=nn.Module)


def units(segmenter: Segmenter) -> list[nn.Module]:
    """The parts that are put together one after the other: those that `recompute` wraps too."""
    head = segmenter.head
    return [*segmenter.backbone.units(), *(head.units() if isinstance(head, Mask2Former) else ())]


def shard(objective: Module, mesh: Any) -> Module:
    """Share out `objective` (a module with a `segmenter`) over the processes of `mesh`, in place."""
    from torch.distributed.fsdp import fully_shard

    over = mesh["data_parallel"]
    for parameter in objective.parameters():
        parameter.data = parameter.data.contiguous()  # fully_shard refuses the order channels_last
    for unit in units(objective.segmenter):  # type: ignore[arg-type]
        fully_shard(unit, mesh=over)
    fully_shard(objective, mesh=over)
    return objective


def is_sharded(module: nn.Module) -> bool:
    """Whether its parameters are shared out."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole(value: Any, *, keep: bool = True) -> Any:
    """Nested dicts and lists with every shared tensor put together, on the CPU; other values stay.

    All processes must call it. One that has no use for the tensors need not `keep` them: it gets none in their place.
    """
    match value:
        case DTensor():
            together: Tensor = cast(Any, value.detach()).full_tensor()
            return together.cpu() if keep else None
        case dict():
            return {key: whole(item, keep=keep) for key, item in value.items()}
        case list():
            return [whole(item, keep=keep) for item in value]
    return value


def whole_module(shared: Segmenter) -> Segmenter:
    """The same model with the weights of `shared` put together, on its device. All processes must call it."""
    device = next(shared.parameters()).device
    with torch.device("meta"):  # its own values would be thrown away
        made = build_segmenter(shared.settings.model_copy(update={"weights": None, "pretrained": False}), shared.label_set)
    made.load_state_dict({name: whole(value).to(device) for name, value in shared.state_dict().items()}, assign=True)
    for module, twin in zip(made.modules(), shared.modules(), strict=True):  # buffers that no checkpoint holds
        module._buffers.update(twin._buffers)
    return made


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict` of whole tensors, which every process has read; each takes its own part."""
    own = module.state_dict()
    module.load_state_dict({name: _part(value, own[name]) if name in own else value for name, value in state.items()})


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict` of whole tensors, likewise."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    owners = dict(zip(numbers, parameters, strict=True))
    parts = {
        number: {name: _part(value, owners[number]) if _fits(value, owners[number]) else value for name, value in own.items()}
        for number, own in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": parts})


def _fits(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 0


def _part(value: Tensor, own: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of `own`."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device, own.dtype), own.device_mesh, own.placements, src_data_rank=None)
