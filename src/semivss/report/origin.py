"""A run folder in, what identifies its result and what was wrong with its files out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semivss.atomic import newest
from semivss.digest import file_sha256, weights_hash
from semivss.errors import DataError
from semivss.layout import final_models, plain_name, pseudo_folders, rounds, trained
from semivss.recipe import Recipe
from semivss.wording import counted

_MOST_NAMES = 8  # of frames corrected by hand


def facts(run: Path, recipe: Recipe, provenance: Mapping[str, Any], sets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name and value: hashes, seed, versions. `sets` gives the hash of each scored set's frames."""
    yield "recipe hash", recipe.digest() + _stale(provenance.get("recipe"), recipe.digest())
    yield "seed", str(provenance.get("seed", recipe.train.seed))
    yield from _models(run, recipe, provenance.get("models", {}))
    yield from _pseudo(run, recipe)
    if edited := provenance.get("edited_pseudo_labels", []):
        yield "corrected by hand", _names(edited)
    for name, split_hash in sets.items():
        if split_hash:
            yield f"frames of {name}, hash", split_hash
        manifest = run / "predictions" / name / "manifest.json"
        if manifest.is_file():
            yield f"prediction manifest of {name}, SHA-256", file_sha256(manifest)
    for name, version in provenance.get("versions", {}).items():
        yield f"{name} version", str(version)


def _models(run: Path, recipe: Recipe, recorded: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    folders = final_models(recipe)
    for folder in folders:
        model = run / folder / "model"
        digest = weights_hash(model) if newest(model, "model.safetensors").is_file() else ""
        name = "model hash" if len(folders) == 1 else f"model hash: {plain_name(recipe, folder)}"
        yield name, (digest or "no model in this run") + _stale(recorded.get(folder), digest)


def _pseudo(run: Path, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for folder in (folder for number in rounds(recipe) for folder in pseudo_folders(recipe, number)):
        manifest = run / folder / "manifest.json"
        if manifest.is_file():
            yield f"pseudo-label manifest of {folder}, SHA-256", file_sha256(manifest)


def _stale(recorded: Any, now: str) -> str:
    return f" (scored with {recorded}: score again)" if recorded and now and recorded != now else ""


def _names(edited: Sequence[str]) -> str:
    more = f" and {len(edited) - _MOST_NAMES} more" if len(edited) > _MOST_NAMES else ""
    return f"{counted(len(edited), 'pseudo-labelled frame')}: {', '.join(map(str, edited[:_MOST_NAMES]))}{more}"


def defects(run: Path, recipe: Recipe, sets: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    """Stage, kind, number of files, examples: of every training, of the pseudo labels, of the predictions of `sets`.

    Raises:
        DataError: one of the files is no JSON.
    """
    folders = trained(recipe)
    for folder in folders:
        stage = "training" if len(folders) == 1 else f"training: {plain_name(recipe, folder)}"
        yield from _listed(stage, _content(run / folder / "defects.json"))
    for folder in (folder for number in rounds(recipe) for folder in pseudo_folders(recipe, number)):
        yield from _listed(f"pseudo labels in {folder}", _content(run / folder / "manifest.json").get("defects", {}))
    for name in sets:
        yield from _listed(f"prediction of {name}", _content(run / "predictions" / name / "manifest.json").get("defects", {}))


def _content(path: Path) -> dict[str, Any]:
    return dict(read_json(path) or {}) if path.is_file() else {}


def read_json(path: Path) -> Any:
    """What the file holds. Raises DataError if that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); repeat the stage that wrote it") from error


def _listed(stage: str, found: Mapping[str, Any] | None) -> Iterator[tuple[str, str, int, str]]:
    yield from ((stage, kind, *_files(value)) for kind, value in (found or {}).items())


def _files(value: Any) -> tuple[int, str]:
    """A defect entry: {"count", "files"}, a list of files, or a bare count."""
    if isinstance(value, Mapping):
        return int(value.get("count", 0)), ", ".join(map(str, value.get("files", [])[:3]))
    if isinstance(value, list):
        return len(value), ", ".join(map(str, value[:3]))
    return int(value), ""
