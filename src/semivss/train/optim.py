"""A model and the recipe's train section in, AdamW with its parameter groups and the learning rate of each step out."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import Parameter

from semivss.settings import Train

# Learned positions, queries and level marks: added to features as they are, so shrinking them towards 0 is no regularisation.
EMBEDDINGS = ("pos_embed", "position_bias", "level_embed", "query_embed", "query_feat", "cls_token")


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """AdamW over four groups: backbone and the rest, each with and without weight decay.

    The backbone (parameters under `backbone.`) learns at `train.backbone_lr` times the rate. Norms, biases and embeddings (learned
    queries included) do not decay. Frozen parameters are left out. Every group carries its share of the rate in `scale`.
    """
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for name, parameter, decays in named_roles(model):
        groups.setdefault(("backbone" in name.split("."), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": train.backbone_lr if backbone else 1.0,
                "weight_decay": train.weight_decay if decays else 0.0,
            }
            for (backbone, decays), parameters in sorted(groups.items())
        ],
        lr=train.lr,
        betas=train.betas,
        fused=True,  # one pass over the weights, three times as fast on a CPU
    )


def named_roles(model: nn.Module) -> Iterator[tuple[str, Parameter, bool]]:
    """(name, parameter, whether it decays) of all trained parameters; a parameter shared between modules comes once."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or id(parameter) in embeddings or any(part in name for part in EMBEDDINGS)
            yield name, parameter, not exempt


def learning_rate(step: int, train: Train) -> float:
    """The rate of optimiser step `step` (from 0): linear warm-up, then constant or (1 - step / steps) ** power of `train.lr`."""
    warmup = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    match train.schedule:
        case "constant":
            return train.lr * warmup
        case "poly":
            return float(train.lr * warmup * (1 - step / train.steps) ** train.power)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
