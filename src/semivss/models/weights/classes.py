"""The classes of somebody's classifier and those that are wanted in; which row counts for which class out, and the rows themselves.

Classes are matched through a shipped label map where there is one for the two sets, otherwise by equal names. Several rows may count for
one class: `class_rows.py` adds up their probabilities. Rows that no class wants count for none; a class that no row fits gets one of a
fresh classifier.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semivss.data.labels import IGNORE, LabelSet, distinct_colors, label_map_names, label_set, load_label_map
from semivss.models.weights.weight_file import some

_ALIKE = 0.8  # share of names in their places that makes a list of classes a known set, spelling apart
_SETS = ("ade20k150", "camvid11", "cityscapes19", "coco_panoptic133", "coco_stuff171", "vspw124")
UNNAMED = "unnamed"
WEIGHT, BIAS = "head.classify.weight", "head.classify.bias"


@dataclass(frozen=True)
class ClassPlan:
    """What becomes of a classifier."""

    wanted: tuple[int | None, ...] | None  # the class that each row counts for, None = no class; none = all rows start anew
    classes: int  # that are wanted
    said: str  # for a person

    @property
    def same(self) -> bool:
        """Whether row c counts for class c, and that is all."""
        return self.wanted == tuple(range(self.classes))

    def fresh(self) -> tuple[int, ...]:
        """Classes without a row."""
        return tuple(sorted(set(range(self.classes)) - set(self.wanted or ())))

    def rows(self, head: str) -> tuple[int, ...] | None:
        """`model.class_rows` of a model with this kind of head. Masks may be of no class, pixels not: there such rows are left out."""
        if self.wanted is None or self.same:
            return None
        known = (self.classes if row is None else row for row in self.wanted if row is not None or head == "mask2former")
        return (*known, *self.fresh())

    def new(self, head: str) -> slice:
        """Rows of such a model that start anew, of a classifier that keeps some."""
        every = self.rows(head) or ()
        return slice(len(every) - len(self.fresh()), len(every))


def plan_classes(source: LabelSet | None, count: int | None, target: LabelSet, own_rows: Sequence[int] | None = None) -> ClassPlan:
    """How a classifier of `count` rows serves the classes of `target`.

    Args:
        source: its classes; none = not known, and then rows are taken as they are if their number fits.
        count: rows, the one for "no object" left out; none = there is no classifier.
        target: classes wanted.
        own_rows: `class_rows` of the model that it comes from: rows count for classes of `source` already.
    """
    classes = len(target)
    if count is None:
        return ClassPlan(None, classes, f"there is no classifier, so that of {target.name} starts anew")
    if source is None:
        if count == classes and target.name == UNNAMED:
            return ClassPlan(tuple(range(classes)), classes, f"{classes} without names")
        if count == classes:
            return ClassPlan(tuple(range(classes)), classes, f"its {count} nameless classes are taken for those of {target.name}")
        return ClassPlan(None, classes, f"its {count} classes have no names, so the classifier of {target.name} starts anew")
    found = _match(source, target)
    if found is None:
        return ClassPlan(None, classes, f"no class of {source.name} is one of {target.name}, so the classifier starts anew")
    through, table = found
    rows = own_rows if own_rows is not None else range(count)
    plan = ClassPlan(tuple(table[row] if row < len(table) else None for row in rows), classes, "")
    if table == tuple(range(classes)):
        return ClassPlan(plan.wanted, classes, f"those of {target.name}, as they are")
    lost = [name for name, goal in zip(source.names, table, strict=True) if goal is None]
    fresh = plan.fresh()
    parts = [f"{len(table) - len(lost)} of {len(table)} classes of {source.name} make {classes - len(fresh)} of {target.name} ({through})"]
    parts += [f"{len(lost)} count for none ({some(lost)})"] if lost else []
    parts += [f"{len(fresh)} start anew ({some(target.names[index] for index in fresh)})"] if fresh else []
    return ClassPlan(plan.wanted, classes, ", ".join(parts))


def adapt_classifier(state: Mapping[str, Tensor], plan: ClassPlan, head: str, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the classifier's rows as `plan.rows` says, of which the new ones are those that `model` was built with.

    Without a classifier where all starts anew; as it is where the model's is of another width. Nothing is written over.
    """
    adapted = dict(state)
    if plan.wanted is None:
        for name in (WEIGHT, BIAS):
            adapted.pop(name, None)
        return adapted
    if plan.same or any(name not in state or state[name].shape[1:] != model[name].shape[1:] for name in (WEIGHT, BIAS)):
        return adapted
    kept = [number for number, goal in enumerate(plan.wanted) if goal is not None or head == "mask2former"]
    last = slice(len(plan.wanted), None)  # "no object", where the head has it
    for name in (WEIGHT, BIAS):
        parts = (state[name][kept], model[name][plan.new(head)], state[name][last])
        adapted[name] = torch.cat([part for part in parts if len(part)])  # a model without memory has rows of nothing, and cannot be joined
    return adapted


def named_set(names: Sequence[str], name: str) -> LabelSet:
    """The shipped set whose classes these are, whatever their spelling; otherwise a set of these names, called `name`."""
    for known in _SETS:
        shipped = label_set(known)
        if len(shipped) == len(names) and _alike(names, shipped.names) >= _ALIKE:
            return shipped
    unique = [text if names.index(text) == number else f"{text} ({number})" for number, text in enumerate(names)]
    return LabelSet(name, tuple(unique), distinct_colors(len(names)), (False,) * len(names))


def nameless_set(count: int) -> LabelSet:
    """Classes that only have numbers."""
    return LabelSet(UNNAMED, tuple(f"class {number}" for number in range(count)), distinct_colors(count), (False,) * count)


def _match(source: LabelSet, target: LabelSet) -> tuple[str, tuple[int | None, ...]] | None:
    """How, and the target of each class of the source."""
    if source.names == target.names:
        return "the same names", tuple(range(len(target)))
    map_name = f"{source.name}_to_{target.name}"
    if (
        map_name in label_map_names()
        and load_label_map(map_name).source_names == source.names
        and label_set(target.name).names == target.names
    ):
        ids = load_label_map(map_name).ids[: len(source)].tolist()
        return f"label map {map_name}", tuple(None if goal == IGNORE else goal for goal in ids)
    places = {_bare(name): index for index, name in reversed(list(enumerate(target.names)))}
    table = tuple(places.get(_bare(name)) for name in source.names)
    return ("by name", table) if any(goal is not None for goal in table) else None


def _alike(names: Sequence[str], others: Sequence[str]) -> float:
    return sum(_bare(name) == _bare(other) for name, other in zip(names, others, strict=True)) / len(names)


def _bare(name: str) -> str:
    """The first of several names, without case, blanks and signs."""
    return re.sub(r"[\W_]", "", re.split(r"[,;]", name)[0].lower())
