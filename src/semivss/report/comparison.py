"""The models' scores in, the table that sets them side by side out: what retraining brought over a control of equal steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semivss.errors import DataError
from semivss.layout import ENSEMBLE, controls, final_models, plain_name, supervised, trained
from semivss.metrics.scores import percent
from semivss.recipe import Recipe
from semivss.report.plots import bars

WARNING = "warning"  # stands among the numbers of a set
_TITLES = {"miou": "mIoU", "weighted_iou": "weighted IoU"}


@dataclass(frozen=True)
class Cell:
    """One number of one model on one set."""

    value: float | None
    gain: float | None  # over the baseline; None for the baseline itself, and where one of the two was not measured
    best: bool  # of the column, as printed


@dataclass(frozen=True)
class Row:
    """One model."""

    title: str
    note: str  # what an ensemble is made of
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """The table, and its mIoU as a picture."""

    groups: tuple[tuple[str, int], ...]  # set, its number of columns
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    baseline: str  # title of the row that gains are measured from; empty without one
    fair: bool  # whether that row had as many steps as the retrained student
    warnings: tuple[tuple[str, str], ...]  # set, and what is to be known of its scores
    picture: str | None

    @property
    def names_contrast(self) -> bool:
        """Whether a row speaks of L_c."""
        return any("L_c" in row.title for row in self.rows)

    @property
    def starts(self) -> tuple[int, ...]:
        """Places of the columns with which a set begins."""
        return tuple(sum(width for _, width in self.groups[:k]) for k in range(len(self.groups)))


def comparison(recipe: Recipe, content: Mapping[str, Any]) -> Comparison | None:
    """The table of `content`: {model: {set: {metric: fraction or null}}}, as scores.json has it, perhaps with a `warning` among the
    metrics of a set. None without models.

    Raises:
        DataError: it is no such table.
    """
    _check(content)
    if not content:
        return None
    models = _ordered(recipe, content)
    columns = list(
        dict.fromkeys(
            (name, metric) for model in models for name, scores in content[model].items() for metric in scores if metric != WARNING
        )
    )
    names = list(dict.fromkeys(name for name, _ in columns))
    columns.sort(key=lambda column: names.index(column[0]))  # a metric that only a later model has joins its set
    values = {model: [content[model].get(name, {}).get(metric) for name, metric in columns] for model in models}
    control = controls(recipe).get("supervised", "")
    base = control if control in content else supervised(recipe)["student"]
    best = [max((value for value in column if value is not None), default=None) for column in zip(*values.values(), strict=True)]
    baseline = plain_name(recipe, base) if base in values else ""
    bar_sets = {name: [(plain_name(recipe, model), content[model].get(name, {}).get("miou")) for model in models] for name in names}
    return Comparison(
        groups=tuple((name, sum(own == name for own, _ in columns)) for name in names),
        columns=tuple(_TITLES.get(metric, metric.upper()) for _, metric in columns),
        rows=tuple(_row(recipe, model, values[model], values.get(base) if model != base else None, best) for model in models),
        baseline=baseline,
        fair=base == control,
        warnings=tuple({name: scores[WARNING] for model in models for name, scores in content[model].items() if WARNING in scores}.items()),
        picture=bars(bar_sets, baseline),
    )


def _row(
    recipe: Recipe, model: str, values: Sequence[float | None], base: Sequence[float | None] | None, best: Sequence[float | None]
) -> Row:
    before = base or [None] * len(values)
    cells = tuple(
        Cell(value, None if value is None or old is None else value - old, value is not None and percent(value) == percent(top))
        for value, old, top in zip(values, before, best, strict=True)
    )
    members = [plain_name(recipe, folder) for folder in final_models(recipe)]
    return Row(plain_name(recipe, model), " + ".join(members) if model == ENSEMBLE else "", cells)


def _ordered(recipe: Recipe, content: Mapping[str, Any]) -> list[str]:
    """The supervised student first; then as they were made, the ensemble last."""
    made = [supervised(recipe)["student"], *trained(recipe), ENSEMBLE]
    known = [name for name in dict.fromkeys(made) if name in content]
    return known + [name for name in content if name not in known]


def _check(content: Any) -> None:
    def numbers(scores: Any) -> bool:
        return isinstance(scores, dict) and all(
            isinstance(value, str) if name == WARNING else value is None or type(value) in (int, float) for name, value in scores.items()
        )

    def sets(model: Any) -> bool:
        return isinstance(model, dict) and all(map(numbers, model.values()))

    if not isinstance(content, Mapping) or not all(map(sets, content.values())):
        raise DataError("comparison: not {model: {set: {metric: number}}}; score again")
