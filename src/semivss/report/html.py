"""A run folder in, one self-contained HTML page out: scores, comparison, curves, pictures, film strips, recipe, versions, hashes."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semivss.atomic import atomic_bytes
from semivss.data.labels import LabelSet, distinct_colors
from semivss.data.source import open_source
from semivss.errors import DataError, SemivssError
from semivss.layout import plain_name, trained
from semivss.metrics.scores import Scores, notes, percent
from semivss.progress import track
from semivss.recipe import Recipe, evaluation_sets, load_recipe
from semivss.report import pictures, plots
from semivss.report.comparison import Comparison, comparison
from semivss.report.origin import defects, facts, read_json
from semivss.report.reliable import reliable_pixels
from semivss.settings import Source

FILM_BYTES = 4_500_000  # of all film strips together; the rest of a page is far below 3 MB
MOST_FILMS = 24
_NOT_SETS = ("provenance", "comparison")  # other keys of scores.json


@dataclass(frozen=True)
class ClassRow:
    """One line of the class table: a class with its numbers in every set."""

    name: str
    color: str
    cells: tuple[tuple[float | None, float], ...]  # per set: IoU, share of the labelled pixels


@dataclass(frozen=True)
class SetSection:
    """What the page shows of one evaluation set."""

    name: str
    scores: Scores
    split_hash: str
    notes: tuple[str, ...]
    warning: str  # about videos that the training has seen labelled; empty where there are none
    confusion: str | None
    confused: tuple[tuple[str, str, float, int], ...]  # truth, prediction, share of the truth's pixels, pixels
    panels: tuple[pictures.Panel, ...]
    films: tuple[pictures.Film, ...]
    gap: str  # why there are no pictures, or which videos are left out


def write_report(run: Path) -> Path:
    """Write <run>/report/index.html and return its path.

    Parts that the run does not have (yet) are left out, with a sentence in their place.

    Raises:
        SemivssError: there is no readable recipe.toml or scores.json, or the page cannot be written.
    """
    run = Path(run)
    if not (run / "recipe.toml").is_file():
        raise DataError(f"{run}: no recipe.toml there; give the folder of a run, such as runs/demo")
    recipe = load_recipe(run / "recipe.toml")
    content = _scores_file(run / "scores.json")
    provenance = content.get("provenance", {})
    sets = evaluation_sets(recipe)
    scored = [name for name in content if name not in _NOT_SETS]
    share = max(len(scored), 1)
    sections = [
        _section(run, name, content[name], sets.get(name), recipe, MOST_FILMS // share, FILM_BYTES // share)
        for name in track(scored, "report", total=len(scored), unit="sets")
    ]
    page = _render(
        run=run.as_posix(),
        measurable=bool(sets),
        recipe=recipe,
        recipe_text=(run / "recipe.toml").read_text(encoding="utf-8"),
        sections=sections,
        classes=_class_rows(sections, _colors(recipe, sections)),
        comparison=_comparison(run, recipe, content),
        curves=list(_curves(run, recipe)),
        reliable=reliable_pixels(run, recipe, provenance.get("edited_pseudo_labels", [])),
        facts=list(facts(run, recipe, provenance, {section.name: section.split_hash for section in sections})),
        defects=list(_defects(run, recipe, sections)),
    )
    path = run / "report" / "index.html"
    atomic_bytes(path, page.encode())
    return path


def _scores_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise DataError(f"{path}: not a scores file; score again")
    return content


def _section(run: Path, name: str, value: Mapping[str, Any], source: Source | None, recipe: Recipe, films: int, budget: int) -> SetSection:
    try:
        scores = Scores.from_dict(value)
    except DataError as error:
        raise DataError(f"{run / 'scores.json'}: {name}: {error}") from error
    shown, strips, gap = _pictures(run, name, scores, source, recipe, films, budget)
    return SetSection(
        name=name,
        scores=scores,
        split_hash=str(value.get("split_hash", "")),
        notes=tuple(notes(scores)),
        warning=str(value.get("warning", "")),
        confusion=None if scores.confusion is None else plots.confusion_picture(scores.confusion, scores.classes),
        confused=tuple(_confused(scores)),
        panels=tuple(shown),
        films=tuple(strips),
        gap=gap,
    )


def _pictures(
    run: Path, name: str, scores: Scores, source: Source | None, recipe: Recipe, films: int, budget: int
) -> tuple[list[pictures.Panel], list[pictures.Film], str]:
    if source is None:
        return [], [], "No pictures: the recipe has no set of this name."
    try:
        dataset = open_source(source, recipe.data.policy)
    except SemivssError as error:  # the numbers are worth a page even where the data has moved
        return [], [], f"No pictures: {error}"
    material = pictures.Material(dataset, run / "predictions" / name, scores)
    strips = pictures.films(material, max(films, 1), budget)
    gap = ""
    if not strips:
        gap = f"No pictures: {run / 'predictions' / name} holds no predictions of these videos."
    elif len(strips) < len(scores.videos):
        gap = f"{len(strips)} of {len(scores.videos)} videos, spread evenly from the best to the worst mIoU."
    return pictures.panels(material), strips, gap


def _confused(scores: Scores, most: int = 8) -> Iterator[tuple[str, str, float, int]]:
    """The largest mistakes."""
    if scores.confusion is None:
        return
    wrong = scores.confusion[:-1, :-1].copy()
    wrong[range(len(wrong)), range(len(wrong))] = 0
    for flat in (-wrong).ravel().argsort(kind="stable")[:most].tolist():
        truth, predicted = divmod(flat, len(wrong))
        if pixels := int(wrong[truth, predicted]):
            yield scores.classes[truth], scores.classes[predicted], pixels / scores.overall.truth_pixels[truth], pixels


def _colors(recipe: Recipe, sections: list[SetSection]) -> dict[str, str]:
    """CSS colour of each class name."""
    names = list(dict.fromkeys(name for section in sections for name in section.scores.classes))
    found = dict(zip(names, map(pictures.css, distinct_colors(len(names))), strict=True))
    for source in evaluation_sets(recipe).values():
        try:
            label_set: LabelSet = open_source(source, recipe.data.policy).label_set
        except SemivssError:
            continue
        found |= {name: pictures.css(color) for name, color in zip(label_set.names, label_set.colors, strict=True)}
    return found


def _class_rows(sections: list[SetSection], colors: Mapping[str, str]) -> list[ClassRow]:
    """Classes that occur in any set, the largest first."""
    rows = []
    for name in dict.fromkeys(name for section in sections for name in section.scores.classes):
        cells = tuple(_cell(section.scores, name) for section in sections)
        if any(iou is not None for iou, _ in cells):
            rows.append(ClassRow(name, colors[name], cells))
    return sorted(rows, key=lambda row: -max(share for _, share in row.cells))


def _cell(scores: Scores, name: str) -> tuple[float | None, float]:
    if name not in scores.classes:
        return None, 0.0
    k = scores.classes.index(name)
    return scores.overall.iou[k], scores.overall.truth_pixels[k] / max(scores.labelled_pixels, 1)


def _comparison(run: Path, recipe: Recipe, content: Mapping[str, Any]) -> Comparison | None:
    try:
        return comparison(recipe, content.get("comparison", {}))
    except DataError as error:
        raise DataError(f"{run / 'scores.json'}: {error}") from error


def _curves(run: Path, recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """Folder, plain name and picture of each training of the run."""
    for folder in trained(recipe):
        path = run / folder / "metrics.csv"
        picture = None
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                picture = plots.curves(list(csv.DictReader(file)))
        yield folder, plain_name(recipe, folder), picture


def _defects(run: Path, recipe: Recipe, sections: list[SetSection]) -> Iterator[tuple[str, str, int, str]]:
    """Stage, kind, number of files, examples."""
    yield from defects(run, recipe, [section.name for section in sections])
    for section in sections:
        yield from ((f"scoring of {section.name}", kind, count, "") for kind, count in section.scores.defects.items())


def _render(**parts: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("semivss.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["gain"] = lambda value: f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")
    out = io.StringIO()
    out.writelines(environment.get_template("template.html.j2").generate(**parts))
    return out.getvalue()
