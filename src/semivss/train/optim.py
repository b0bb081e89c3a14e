"""A model and the recipe's train section in, AdamW with its parameter groups and the learning rate of each step out."""

import re
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import Parameter

from semivss.errors import RecipeError
from semivss.settings import Train

# Learned positions, queries and level marks: added to features as they are, so shrinking them towards 0 is no regularisation.
EMBEDDINGS = ("pos_embed", "position_bias", "level_embed", "query_embed", "query_feat", "cls_token", "cls_embedding")

_TRUNK = re.compile(r"(?:^|\.)backbone\.trunk\.(?:(?:blocks|encoder\.layers)\.(\d+)\.)?")
_PREDICTORS = re.compile(r"(?:^|\.)head\.(?:classify|transformer\.(?:queries_|level_embed|decoder\.mask_predictor))")


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """AdamW over groups of parameters, each with its share of the rate in `scale` and its weight decay. Frozen parameters are left out.

    Raises:
        RecipeError: `train.layer_decay` for a model whose backbone has no trunk of equal blocks.
    """
    groups = two_rates(model, train) if train.layer_decay is None else layer_rates(model, train)
    return torch.optim.AdamW(
        [
            {"params": parameters, "scale": scale, "weight_decay": train.weight_decay if decays else 0.0}
            for scale, decays, parameters in groups
        ],
        lr=train.lr,
        betas=train.betas,
        fused=True,  # one pass over the weights, three times as fast on a CPU
    )


def two_rates(model: nn.Module, train: Train) -> list[tuple[float, bool, list[Parameter]]]:
    """Backbone and the rest, each with and without weight decay, as (scale, decays, parameters).

    The backbone (parameters under `backbone.`) learns at `train.backbone_lr` times the rate. Norms, biases and embeddings (learned
    queries included) do not decay.
    """
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for name, parameter, decays in named_roles(model):
        groups.setdefault(("backbone" in name.split("."), decays), []).append(parameter)
    return [(train.backbone_lr if backbone else 1.0, decays, parameters) for (backbone, decays), parameters in sorted(groups.items())]


def layer_rates(model: nn.Module, train: Train) -> list[tuple[float, bool, list[Parameter]]]:
    """Rates that fall from a trunk's last block to its first (arXiv 2106.08254), as (scale, decays, parameters).

    Block i of n learns at `layer_decay ** (n - i)` times the rate, what comes before the blocks at `layer_decay ** (n + 1)`, adapter and
    head at the rate. Weight decay is as in `two_rates`.

    `train.compat` gives the groups of the published ViT-Adapter and ONE-PEACE trainings instead. They differ in two ways that look like
    oversights: what predicts classes and masks, and the queries, learn as slowly as the stem; and only vectors and biases are exempt
    from decay, so that tokens, tables and queries shrink.
    """
    assert train.layer_decay is not None
    depth = _depth(model)
    groups: dict[tuple[float, bool], list[Parameter]] = {}
    for name, parameter, wanted in named_roles(model):
        scale = train.layer_decay ** (depth + 1 - _layer(name, depth, train.compat))
        decays = parameter.ndim > 1 and not name.endswith(".bias") if train.compat else wanted
        groups.setdefault((scale, decays), []).append(parameter)
    return [(scale, decays, parameters) for (scale, decays), parameters in sorted(groups.items())]


def named_roles(model: nn.Module) -> Iterator[tuple[str, Parameter, bool]]:
    """(name, parameter, whether it decays) of all trained parameters; a parameter shared between modules comes once."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or id(parameter) in embeddings or any(part in name for part in EMBEDDINGS)
            yield name, parameter, not exempt


def _depth(model: nn.Module) -> int:
    """Blocks of the trunk."""
    blocks = [int(found[1]) for name, _ in model.named_parameters() if (found := _TRUNK.search(name)) and found[1]]
    if not blocks:
        raise RecipeError(
            "train.layer_decay needs a backbone with a trunk of equal blocks (beit_*, vit_adapter_*, one_peace_*); "
            "take it out and set train.backbone_lr"
        )
    return max(blocks) + 1


def _layer(name: str, depth: int, compat: bool) -> int:
    """0 for what comes before the trunk's blocks, i + 1 for block i, depth + 1 for all that is no trunk."""
    if found := _TRUNK.search(name):
        return int(found[1]) + 1 if found[1] else 0
    return 0 if compat and _PREDICTORS.search(name) else depth + 1


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
