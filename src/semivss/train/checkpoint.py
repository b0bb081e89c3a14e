"""The state of a training run in, one file out, and back: written in one step, read without pickle, refused for another recipe.

A checkpoint holds tensors and plain values only. It needs no random states: everything drawn in training comes from generators
that are functions of (seed, step).
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from semivss.atomic import atomic_file
from semivss.defaults import defaults
from semivss.errors import SemivssError, WeightsError
from semivss.recipe import FREE, Recipe

FORMAT = 2


def save_checkpoint(path: Path, recipe: Recipe, state: Mapping[str, Any]) -> None:
    """Write `state` (nested dicts and lists of tensors, numbers, text) to `path` in one step, streaming.

    Raises:
        SemivssError: the disk is full or the folder cannot be written; the previous file is untouched.
    """
    with atomic_file(path) as file:
        sink = _Sink(file)
        torch.save({"format": FORMAT, "recipe": _settings(recipe), **state}, cast(IO[bytes], sink))
        if sink.error is not None:
            raise sink.error


def load_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, on the CPU.

    Raises:
        WeightsError: damaged file, or written by another version.
        SemivssError: made with other settings than `recipe`; the line names the first difference.
    """
    state = _read(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT or "recipe" not in state:
        raise WeightsError(f"{path}: no training checkpoint of this version; delete it to train from the start, or use another --out")
    if changed := _difference(json.loads(state["recipe"]), json.loads(_settings(recipe)), defaults(recipe)):
        raise SemivssError(f"{path}: was made with {changed}; set it back to go on, or train from the start with another --out")
    return state


def _read(path: Path) -> Any:
    remedy = "delete it to train from the start, or copy it again from where it is sound"
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads on over flipped bits: check the sums of all members first
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except Exception as error:  # the zip and pickle readers raise nearly every type on damaged input
        raise WeightsError(f"{path}: damaged checkpoint ({type(error).__name__}); {remedy}") from error
    raise WeightsError(f"{path}: damaged checkpoint (wrong check sum in {damaged}); {remedy}")


class _Sink:
    """A file for torch.save that remembers the first failed write instead of raising inside the C++ writer, which would abort."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        if self.error is None:
            self._file.flush()


def _settings(recipe: Recipe) -> str:
    return recipe.model_dump_json(exclude=FREE)


def _difference(old: Any, new: Any, usual: Any, key: str = "") -> str:
    """The first setting that differs, as "key old, now new"; empty when nothing does. `usual` is what `old` means where it is silent."""
    if isinstance(old, dict) and isinstance(new, dict):
        known = usual if isinstance(usual, dict) else {}
        names = dict.fromkeys((*old, *new))
        parts = [_difference(old.get(k, known.get(k)), new.get(k), known.get(k), f"{key}.{k}" if key else k) for k in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        others = usual if isinstance(usual, list) and len(usual) == len(new) else [None] * len(new)
        parts = [_difference(a, b, c, f"{key}.{i}") for i, (a, b, c) in enumerate(zip(old, new, others, strict=True))]
    else:
        return "" if old == new else f"{key} = {json.dumps(old)}, the recipe says {json.dumps(new)}"
    return next((part for part in parts if part), "")
