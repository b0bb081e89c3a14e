"""Somebody's weights and a model of ours in; the model with those weights and a report of what fitted out. Nothing is downloaded.

A trunk that was pre-trained at another image size gets its positions resized once, as published. docs/weights.md tells what is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from semivss.data.labels import LabelSet
from semivss.errors import WeightsError
from semivss.models.positions import Grid
from semivss.models.segmenter import Segmenter, fill_or_take
from semivss.models.weights.classes import BIAS, WEIGHT, ClassPlan, adapt_classifier, named_set, plan_classes
from semivss.models.weights.fit import Fit, fit_by_likeness, fit_by_name
from semivss.models.weights.lite0 import LITE0, LITE0_BACKBONE, LITE0_INSTALL, lite0_file
from semivss.models.weights.recognise import Recognised, open_recognised
from semivss.models.weights.shapes import SEEDS, read_sizes
from semivss.models.weights.weight_file import demand_finite, some
from semivss.progress import say

_ENOUGH = 0.5  # share of the backbone below which a file is taken for that of another model, whose stem happens to fit
_NOT_COMPARED = {"grid", "classes"}  # positions are resized, classifiers adapted
_COUNTER = "num_batches_tracked"  # of batch norms; some files lack it, and no result needs it
_MAY_LACK = {"vit": ("gamma1", "gamma2")}  # factors that a plain ViT has none of; they start at 1
_OF_ANY_BACKBONE = ("timm", "other")  # whose names tell no family, so nobody can say what such a file should have


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor; names as in the module, `unexpected` as in the file."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]  # in the module only: keep their initial values
    unexpected: tuple[str, ...]  # in the file only, such as the classifier
    mismatched: tuple[str, ...]  # in both with different shapes: keep their initial values
    part: str = "backbone"  # "model" with a head
    notes: tuple[str, ...] = ()  # about the head and its classes

    def line(self) -> str:
        """One line for a person."""
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{len(self.matched)} of {total} {self.part} tensors loaded"]
        labels = (
            ("not in the file, which keep their initial values", self.missing),
            ("of another shape", self.mismatched),
            ("in the file but unused", self.unexpected),
        )
        parts += [f"{len(names)} {label} ({some(names)})" for label, names in labels if names]
        return f"weights {self.source}: " + "; ".join([", ".join(parts), *self.notes])


@dataclass(frozen=True)
class Start:
    """Weights to start from, with a head that fits the recipe's, or none."""

    found: Recognised
    plan: ClassPlan | None = None  # of the classifier; none = there is no head to use
    notes: tuple[str, ...] = ()
    grid: Grid | None = None  # of patches that its positions are for, where the user says it; none = a square one, or as its folder says

    def rows(self, head: str) -> tuple[int, ...] | None:
        """`model.class_rows` of a model with these weights and this kind of head."""
        return self.plan.rows(head) if self.plan else None


def starting_point(path: Path, head: str, label_set: LabelSet) -> Start:
    """What a recipe with this head and these classes can take from the weights in `path`. Raises WeightsError as `read_weights` does."""
    found = open_recognised(path)
    return with_classes(found, head, label_set, own_classes(found))


def own_classes(found: Recognised, given: LabelSet | None = None) -> LabelSet | None:
    """The classes of the file's classifier: `given` if it is given, otherwise those that the file names; none where it names none.

    Raises:
        WeightsError: its classifier has another number of classes.
    """
    known = found.label_set or given or (named_set(found.classes, found.path.stem) if found.classes else None)
    count = read_sizes(found.state).get("classes")
    merged = found.model is not None and found.model.class_rows is not None  # several rows of ours may be of one class
    if known is not None and count is not None and not merged and len(known) != count:
        remedy = "convert it with --source-classes that are its own"
        raise WeightsError(f"{found.path}: its classifier has {count} classes, {known.name} has {len(known)}; {remedy}")
    return known


def with_classes(found: Recognised, head: str, label_set: LabelSet, source: LabelSet | None) -> Start:
    """The weights with their classifier of the classes `source` adapted to `label_set`; without their head where it is of another kind."""
    if not found.has_head():
        return Start(found)
    kind = "mask2former" if SEEDS in found.state else "pixel"
    if kind != head:
        bare = {name: tensor for name, tensor in found.state.items() if not name.startswith("head.")}
        return Start(replace(found, state=bare), notes=(f"its {kind} head is not used, for the model has a {head} head",))
    plan = plan_classes(source, read_sizes(found.state).get("classes"), label_set, found.model.class_rows if found.model else None)
    return Start(found, plan, (f"classes: {plan.said}",))


def load_backbone_weights(backbone: nn.Module, weights: str) -> LoadReport:
    """Fill `backbone` in place from a local file and say in one line what fitted.

    Args:
        backbone: its state names may start with a wrapper's name (`body.`).
        weights: path of a weight file or folder (`weight_file.py`), or "lite0" for the ImageNet weights of the package of that extra.
            Where that package is not installed, one line says what is lost and the backbone stays as it was initialised.

    Raises:
        WeightsError: no such file, not a file of tensors, damaged, or it fits less than half of the backbone, which then is unchanged.
    """
    if weights != LITE0:
        return load_start(backbone, Start(open_recognised(Path(weights))), weights)
    path = lite0_file()
    if path is None:
        say(
            f"weights lite0: the package is not installed, so the backbone starts from random values instead of ImageNet's: "
            f"expect a lower mIoU and a slower start; {LITE0_INSTALL} adds it"
        )
        return LoadReport(LITE0, (), tuple(backbone.state_dict()), (), ())
    return load_start(backbone, Start(open_recognised(path)), LITE0)


def load_start(module: nn.Module, start: Start, source: str, *, quiet: bool = False) -> LoadReport:
    """Fill a Segmenter, or a backbone alone, in place from recognised weights, and say in one line what fitted.

    Raises:
        WeightsError: other sizes, less than half of the backbone, a part missing that weights of this family have, or values that are
            not finite. The module is unchanged then.
    """
    report, tensors = matched(module, start, source)
    _demand_complete(start, not_filled(report, "" if isinstance(module, Segmenter) else "backbone."))
    demand_finite(start.found.path, tensors)
    fill_or_take(module, tensors)
    if not quiet:
        say(report.line())
    return report


def matched(module: nn.Module, start: Start, source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """What `load_start` would say, and load. The module may be on the meta device. Raises as `load_start` does, but looks at no value."""
    whole = isinstance(module, Segmenter)
    lead = "" if whole else "backbone."
    state = {lead + name: tensor for name, tensor in module.state_dict().items() if not whole or name not in ("mean", "std")}
    state = state if start.plan else {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    if start.plan:
        kind = "mask2former" if SEEDS in start.found.state else "pixel"
        start = replace(start, found=replace(start.found, state=adapt_classifier(start.found.state, start.plan, kind, state)))
    found = start.found
    fit = _fit(module, found, state, _own_grid(found) or start.grid)
    _demand_fit(start, fit, state, source)
    names = fit.tensors.keys() | set(fit.mismatched)
    report = LoadReport(
        source,
        matched=tuple(name.removeprefix(lead) for name in state if name in fit.tensors),
        missing=tuple(name.removeprefix(lead) for name in state if name not in names),
        unexpected=fit.unexpected,
        mismatched=tuple(name.removeprefix(lead) for name in fit.mismatched),
        part="model" if start.plan else "backbone",
        notes=start.notes,
    )
    normalisation = {name: found.file.tensors[name] for name in ("mean", "std") if whole and found.family == "semivss"}
    return report, {name.removeprefix(lead): tensor for name, tensor in fit.tensors.items()} | normalisation


def not_filled(report: LoadReport, lead: str = "") -> tuple[str, ...]:
    """What the file does not fill, by the names of a whole model: `lead` is what the module's names leave out in front."""
    return tuple(lead + name for name in (*report.missing, *report.mismatched) if not name.endswith(_COUNTER))


def _demand_complete(start: Start, absent: Sequence[str]) -> None:
    """Raise WeightsError where a part is missing that weights of this family have."""
    found = start.found
    if found.family in _OF_ANY_BACKBONE:
        return
    may_lack = (*_MAY_LACK.get(found.family, ()), *((WEIGHT, BIAS) if start.plan and start.plan.wanted is None else ()))
    expected = (found.part, *(("head.",) if start.plan else ()))
    if needed := [name for name in absent if name.startswith(expected) and not name.endswith(may_lack)]:
        if found.family == "semivss" and set(needed) <= found.state.keys():  # whole folders are checked when they are read
            raise WeightsError(
                f"{found.path}: is of other sizes than the recipe's model ({some(needed)}); "
                "copy what its config.json says under model into the recipe's [model]"
            )
        raise WeightsError(
            f"{found.path}: incomplete, {len(needed)} tensors of {found.says()} are missing or of another shape "
            f"({some(needed)}); get the file again, or give the configuration of this model"
        )


def _fit(module: nn.Module, found: Recognised, state: Mapping[str, Tensor], source: Grid | None) -> Fit:
    """Under our names where the family has them; under the file's own where those fit better."""
    backbone = module.backbone if isinstance(module, Segmenter) else module
    target = getattr(getattr(backbone, "trunk", None), "grid", None)
    direct = fit_by_name(found.state, state, target, source)
    if len(direct.tensors) >= _ENOUGH * len(_filled(found, state)):
        return replace(direct, unexpected=tuple(sorted({*found.unused, *direct.unexpected})))
    theirs = found.state if found.family in ("timm", "other") else found.file.tensors
    alike = fit_by_likeness(theirs, {name: tensor for name, tensor in state.items() if name.startswith("backbone.")})
    return alike if len(alike.tensors) > len(direct.tensors) else direct


def _own_grid(found: Recognised) -> Grid | None:
    """The grid of a model of semivss, which may be no square."""
    from semivss.models.zoo import trunk_sizes

    sizes = None if found.family != "semivss" or found.model is None else trunk_sizes(found.model)
    return None if sizes is None else sizes.grid


def _filled(found: Recognised, state: Mapping[str, Tensor]) -> list[str]:
    """The part of a backbone that the file is for; all of a backbone that has no such part."""
    return [name for name in state if name.startswith(found.part)] or [name for name in state if name.startswith("backbone.")]


def _demand_fit(start: Start, fit: Fit, state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError for a file of another model."""
    found = start.found
    theirs, ours = read_sizes(found.state), read_sizes(state)
    if wrong := [key for key in theirs.keys() & ours.keys() - _NOT_COMPARED if theirs[key] != ours[key]]:
        told = ", ".join(f"{key} {theirs[key]:g} in the file, {ours[key]:g} in the model" for key in sorted(wrong))
        raise WeightsError(f"{found.path}: {found.says()} of other sizes: {told}; give the weights of this model, or change the model")
    filled = _filled(found, state)
    fits = sum(name in fit.tensors for name in filled)
    if fits < _ENOUGH * len(filled):
        raise WeightsError(_misfit(found, fits, filled, source))


def _misfit(found: Recognised, fits: int, filled: list[str], source: str) -> str:
    remedy = (
        f'these weights need backbone = "{LITE0_BACKBONE}"'
        if source == LITE0
        else "give the file of this backbone, or name the backbone of this file"
    )
    known = "" if found.family == "other" else f"{found.says()}, "
    expected = some(name.removeprefix("backbone.") for name in filled)
    return (
        f"{found.path}: {fits} of {len(filled)} backbone tensors fit; the file holds {known}{some(found.file.tensors)}, "
        f"the backbone expects {expected}; {remedy}"
    )
