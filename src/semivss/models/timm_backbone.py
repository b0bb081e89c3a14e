"""Normalised frames in, feature maps of stride 4, 8, 16, 32 out: any model of timm that has such stages."""

import difflib
from collections.abc import Iterator
from typing import Any

import timm
from jaxtyping import Float
from torch import Tensor, nn

from semivss.errors import WeightsError
from semivss.models.pyramid import Pyramid
from semivss.models.recompute import without_statistics
from semivss.models.strides import STRIDES, demand_strides


class TimmBackbone(Pyramid):
    """`timm.create_model(name, features_only=True)` reduced to the four strides; `body` is timm's module."""

    def __init__(self, name: str, *, pretrained: bool = False, drop_path: float = 0.0) -> None:
        """
        Args:
            name: as timm spells it, with or without the tag of its weights.
            pretrained: let timm fetch its weights; needs a network or its cache.
            drop_path: chance of leaving out a residual branch in training (stochastic depth).

        Raises:
            WeightsError: timm has no such model, it has other strides or one image size only, or the weights cannot be fetched.
        """
        super().__init__()
        self.body = _create(name, pretrained, {"drop_path_rate": drop_path} if drop_path else {})
        info: Any = self.body.feature_info
        reductions = list(info.reduction())
        if missing := [stride for stride in STRIDES if stride not in reductions]:
            has = f"no feature map of stride {missing[0]} (strides {reductions})"
            raise WeightsError(f"backbone timm/{name}: {has}; take a model with stages such as timm/resnet18")
        self._picks = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        widths = info.channels()
        self.channels = tuple(widths[pick] for pick in self._picks)
        self._channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True) or timm.models.PretrainedCfg()
        self.mean, self.std = tuple(cfg.mean), tuple(cfg.std)
        demand_strides(self, f"timm/{name}")

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """See Pyramid."""
        maps = self.body(frames)
        picked = (maps[pick] for pick in self._picks)
        return tuple(level.permute(0, 3, 1, 2).contiguous() if self._channels_last else level for level in picked)

    def units(self) -> list[nn.Module]:
        """See Pyramid: timm's blocks, which are called so, as far as they have no batch norms."""
        return without_statistics(_blocks(self.body))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost ones."""
    for part in module.children():
        if type(part).__name__.endswith("Block"):
            yield part
        else:
            yield from _blocks(part)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`timm.list_models()` prints the names it knows"
        raise WeightsError(f"backbone timm/{name}: timm {timm.__version__} has no such model; {hint}")
    cfg = timm.get_pretrained_cfg(name)
    try:
        if cfg is not None and cfg.fixed_input_size:  # Swin then pads its windows itself; others do not know the option
            options = {**options, "strict_img_size": False}
        return _features(name, pretrained, options)
    except TypeError:
        options.pop("strict_img_size", None)
    try:
        return _features(name, pretrained, options)
    except TypeError as error:
        raise WeightsError(f"backbone timm/{name}: does not take {', '.join(options)}; leave it at 0") from error


def _features(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        body: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except (RuntimeError, OSError, ValueError, AttributeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        remedy = "check the network, or set model.weights to a local file" if pretrained else "take another model"
        raise WeightsError(f"backbone timm/{name}: timm cannot build its feature maps ({reason}); {remedy}") from error
    return body
