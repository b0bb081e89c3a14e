"""A run folder in, one self-contained HTML page out: scores, curves, pictures, film strips, recipe, versions, hashes."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semivss.atomic import atomic_bytes, newest
from semivss.data.labels import LabelSet, distinct_colors
from semivss.data.source import open_source
from semivss.digest import file_sha256
from semivss.errors import DataError, SemivssError
from semivss.metrics.scores import Scores, notes, percent
from semivss.progress import track
from semivss.recipe import Recipe, evaluation_sets, load_recipe
from semivss.report import pictures, plots
from semivss.settings import Source

FILM_BYTES = 4_500_000  # of all film strips together; the rest of a page is far below 3 MB
MOST_FILMS = 24
_NOT_SETS = ("provenance",)  # other keys of scores.json


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
    sets = evaluation_sets(recipe)
    scored = [name for name in content if name not in _NOT_SETS]
    share = max(len(scored), 1)
    sections = [
        _section(run, name, content[name], sets.get(name), recipe, MOST_FILMS // share, FILM_BYTES // share)
        for name in track(scored, "report", total=len(scored), unit="sets")
    ]
    page = _render(
        recipe=recipe,
        recipe_text=(run / "recipe.toml").read_text(encoding="utf-8"),
        sections=sections,
        classes=_class_rows(sections, _colors(recipe, sections)),
        curves=_curves(run / "student" / "metrics.csv"),
        facts=list(_facts(run, recipe, content, sections)),
        defects=list(_defects(run, sections)),
    )
    path = run / "report" / "index.html"
    atomic_bytes(path, page.encode())
    return path


def _scores_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _json(path)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise DataError(f"{path}: not a scores file; score again")
    return content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); repeat the stage that wrote it") from error


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


def _curves(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return plots.curves(list(csv.DictReader(file)))


def _facts(run: Path, recipe: Recipe, content: Mapping[str, Any], sections: list[SetSection]) -> Iterator[tuple[str, str]]:
    """What identifies the result: seed, hashes, versions."""
    provenance = content.get("provenance", {})
    yield "recipe hash", recipe.digest() + _stale(provenance.get("recipe"), recipe.digest())
    yield "seed", str(provenance.get("seed", recipe.train.seed))
    weights = newest(run / "student" / "model", "model.safetensors")
    digest = file_sha256(weights) if weights.is_file() else ""
    yield "model SHA-256", (digest or "no model in this run") + _stale(provenance.get("model"), digest)
    for section in sections:
        if section.split_hash:
            yield f"frames of {section.name}, hash", section.split_hash
        manifest = run / "predictions" / section.name / "manifest.json"
        if manifest.is_file():
            yield f"prediction manifest of {section.name}, SHA-256", file_sha256(manifest)
    for name, version in provenance.get("versions", {}).items():
        yield f"{name} version", str(version)


def _stale(recorded: Any, now: str) -> str:
    return f" (scored with {recorded}: score again)" if recorded and now and recorded != now else ""


def _defects(run: Path, sections: list[SetSection]) -> Iterator[tuple[str, str, int, str]]:
    """Stage, kind, number of files, examples."""
    files = [("training", run / "student" / "defects.json", False)]
    files += [(f"prediction of {section.name}", run / "predictions" / section.name / "manifest.json", True) for section in sections]
    for stage, path, nested in files:
        if path.is_file():
            content = _json(path)
            found = content.get("defects", {}) if nested else content
            yield from ((stage, kind, *_files(value)) for kind, value in (found or {}).items())
    for section in sections:
        yield from ((f"scoring of {section.name}", kind, count, "") for kind, count in section.scores.defects.items())


def _files(value: Any) -> tuple[int, str]:
    """A defect entry: {"count", "files"}, a list of files, or a bare count."""
    if isinstance(value, Mapping):
        return int(value.get("count", 0)), ", ".join(map(str, value.get("files", [])[:3]))
    if isinstance(value, list):
        return len(value), ", ".join(map(str, value[:3]))
    return int(value), ""


def _render(**parts: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("semivss.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    out = io.StringIO()
    out.writelines(environment.get_template("template.html.j2").generate(**parts))
    return out.getvalue()
