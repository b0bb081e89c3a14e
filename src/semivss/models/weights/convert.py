"""Weights of anybody in, a model folder of ours out: settings, classifier, tensors, card; all or nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from semivss.atomic import demand_folder, newest
from semivss.data.description import read_class_list
from semivss.data.labels import LabelSet, label_set
from semivss.digest import file_sha256
from semivss.errors import WeightsError
from semivss.models.folder import Origin, save_segmenter
from semivss.models.positions import Grid
from semivss.models.segmenter import Segmenter
from semivss.models.weights.architecture import settings_of
from semivss.models.weights.classes import BIAS, WEIGHT, nameless_set
from semivss.models.weights.colours import normalisation
from semivss.models.weights.given import given_settings
from semivss.models.weights.load import LoadReport, Start, load_start, matched, not_filled, own_classes, with_classes
from semivss.models.weights.recognise import Recognised, open_recognised
from semivss.models.weights.shapes import read_sizes
from semivss.models.weights.weight_file import CONFIG
from semivss.models.zoo import build_segmenter, empty_parts, trunk_sizes
from semivss.progress import say
from semivss.settings import Model

_SILENT = -20.0  # bias of a class that the classifier never learned: probability 2e-9 at most


def convert(
    path: Path,
    out: Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    classes: str | None = None,
    source_classes: str | None = None,
    force: bool = False,
) -> LoadReport:
    """Convert the weights in `path` to the model folder `out`, and say what became of them.

    Args:
        path: file or folder.
        out: a new folder.
        preset: name of a backbone of models/zoo.py, or timm/NAME.
        config: file of sizes instead.
        overrides: single settings of the section [model].
        classes: wanted: a shipped label set, or a class list's path; none = those of the file.
        source_classes: those of the file, likewise, where it does not name them.
        force: replace a model in `out`.

    Raises:
        SemivssError: weights, sizes or classes that cannot be used, in one line. Nothing is written then.
    """
    demand_folder(out)
    if newest(out, CONFIG).exists() and not force:
        raise WeightsError(f"{out}: holds a model already; choose another folder with --out, or replace it with --force")
    wanted = None if classes is None else _classes(classes)
    given = None if source_classes is None else _classes(source_classes)
    tree = given_settings(preset, config, overrides)
    found = open_recognised(path)
    if given is not None and found.label_set is not None:
        raise WeightsError(f"{path}: names its classes itself ({found.label_set.name}); leave --source-classes out")
    settings = settings_of(found, tree)
    source = own_classes(found, given)
    target = _target(found, source, wanted)
    start = replace(with_classes(found, settings.head, target, source), grid=_given_grid(found, settings))
    segmenter = _unfilled(settings.model_copy(update={"class_rows": start.rows(settings.head)}), target, start)
    report = load_start(segmenter, start, str(path), quiet=True)
    _silence(segmenter, start)
    report = replace(report, notes=(*start.notes, *_new_parts(start, report)))
    _normalise(segmenter, found)
    save_segmenter(segmenter.eval(), out, Origin({file.name: file_sha256(file) for file in found.file.files}, found.says(), report.notes))
    say(report.line())
    say(f"model: {out}")
    return report


def _classes(words: str) -> LabelSet:
    """A shipped label set, or the classes listed in a file."""
    path = Path(words)
    if not path.is_file():
        return label_set(words)
    rows = read_class_list(path)
    colors = tuple(row.color or color for row, color in zip(rows, nameless_set(len(rows)).colors, strict=True))
    return LabelSet(path.stem, tuple(row.name for row in rows), colors, tuple(row.thing for row in rows))


def _target(found: Recognised, source: LabelSet | None, wanted: LabelSet | None) -> LabelSet:
    """The classes of the model."""
    count = read_sizes(found.state).get("classes")
    if wanted is None and count is None:
        raise WeightsError(f"{found.path}: has no classifier, so its model needs classes; give --classes, such as vspw124 or a class list")
    if wanted is not None and source is None and count not in (None, len(wanted)):
        raise WeightsError(
            f"{found.path}: does not name its {count} classes, and {wanted.name} has {len(wanted)}; "
            "give --source-classes too, such as ade20k150, and they are mapped"
        )
    return wanted or source or nameless_set(count or 0)


def _unfilled(settings: Model, target: LabelSet, start: Start) -> Segmenter:
    """The model before the weights come: without values if they fill all of it."""
    with torch.random.fork_rng(devices=[]):
        if start.plan is not None and not start.plan.fresh():
            empty = Segmenter(*empty_parts(settings, len(target)), target, settings)
            report, _ = matched(empty, start, str(start.found.path))
            if not report.missing and not report.mismatched:
                return empty
        torch.manual_seed(0)  # what starts anew does so in the same way each time
        return build_segmenter(settings, target)


def _silence(segmenter: Segmenter, start: Start) -> None:
    """Let classes that the weights do not know keep out of predictions that come before any training."""
    if start.plan is not None and start.plan.wanted is not None and start.plan.fresh():
        new = start.plan.new(segmenter.settings.head)
        with torch.no_grad():
            segmenter.get_parameter(WEIGHT)[new] = 0.0
            segmenter.get_parameter(BIAS)[new] = _SILENT


def _given_grid(found: Recognised, settings: Model) -> Grid | None:
    """Of the positions of a whole model, which is converted to one of the same grid; those of a trunk alone are resized to the model's."""
    sizes = trunk_sizes(settings)
    return sizes.grid if sizes is not None and found.part == "backbone." else None


def _new_parts(start: Start, report: LoadReport) -> tuple[str, ...]:
    """What starts anew, in words."""
    parts = ["the adapter"] * any(name.startswith(("backbone.spm.", "backbone.fpn")) for name in not_filled(report))
    parts += ["the head"] * (start.plan is None)
    return (f"{' and '.join(parts)} start{'s' * (len(parts) == 1)} anew: train the model before it predicts",) if parts else ()


def _normalise(segmenter: Segmenter, found: Recognised) -> None:
    """Take over what a folder says about the colours of its frames."""
    if (numbers := normalisation(found.path, found.file.config)) is not None and found.family in ("mask2former", "timm", "swin"):
        for buffer, values in zip((segmenter.mean, segmenter.std), numbers, strict=True):
            buffer.copy_(torch.tensor(values).view(3, 1, 1) * 255)
