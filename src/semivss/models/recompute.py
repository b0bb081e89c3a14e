"""A module in; the same module, which in training keeps its inputs alone and computes the rest anew for the gradient."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module) -> None:
    """Trade time for memory (activation checkpointing, arXiv 1604.06174): the results, gradients and parameters' names stay the same.

    The module must not keep running statistics, which a second pass would change again. Random draws are repeated. A deep copy of the
    module computes with its own weights.
    """
    # transformers' and our own layers alike are called by code that does not know of this, so it cannot be a wrapper with another name
    setattr(module, "forward", partial(_twice, module.forward))  # noqa: B010  # mypy: a method is no variable


def recompute_all(modules: Iterable[nn.Module]) -> None:
    """`recompute` each of them."""
    for module in modules:
        recompute(module)


def without_statistics(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that keep no running statistics, inside them either: what may be computed twice."""
    kinds = nn.modules.batchnorm._NormBase  # of batch and instance norms
    return [module for module in modules if not any(isinstance(part, kinds) and part.track_running_stats for part in module.modules())]


def alter_recomputed(module: nn.Module, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `change` of it in place of what a module that `recompute` has wrapped computes, both times; other modules stay as they are."""
    wrapped = module.__dict__.get("forward")
    if isinstance(wrapped, partial) and wrapped.func is _twice:
        setattr(module, "forward", partial(_twice, change(wrapped.args[0])))  # noqa: B010  # as above


def _twice(forward: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **more)
    return checkpoint(forward, *arguments, use_reentrant=False, **more)
