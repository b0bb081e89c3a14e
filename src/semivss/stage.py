"""A stage's folder and what it is made from in, whether it is finished out. The stamp beside the stage's files keeps the answer."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from semivss import __version__
from semivss.atomic import atomic_json
from semivss.errors import SemivssError
from semivss.lock import locked
from semivss.progress import say

LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Stage:
    """One step of a run. Its stamp lists, flat, every setting and input hash that made the folder.

    Of several processes that train together all ask, and come to the same answer; only the first changes anything.
    """

    name: str
    folder: Path
    inputs: Mapping[str, str]
    # gets names of inputs; raises SemivssError if a change of them would lose what nobody can make again
    guard: Callable[[Sequence[str]], None] | None = None
    piecewise: bool = False  # its work goes through the folder by itself, keeps what still fits and makes the rest anew

    def is_done(self, again: bool) -> bool:
        """Whether the folder was finished with these inputs.

        Raises:
            SemivssError: it was made (or begun) with others, and `again` does not allow to make it anew.
        """
        state = self._read()
        self._sweep()
        before = {} if state is None else state["inputs"]
        changed = self._changed(state)
        if state is not None and not changed:
            if not state["finished"]:
                self._tell_other_frames(before)
            elif again and self.piecewise and (gone := self._gone()):
                say(f"{self.name}: {gone} is gone and made anew")
                self._write(finished=False)
                return False
            else:
                say(f"{self.name}: done before, skipped ({self.folder})")
            return bool(state["finished"])
        if not self._is_bare() and (state is not None or not self.piecewise):
            what = _described(before, self.inputs, changed) if state is not None else "its stamp is gone"
            if not again:
                raise SemivssError(
                    f"{self.folder}: stage {self.name} was made with other inputs ({what}); add --again to redo it, or use another --out"
                )
            say(f"{self.name}: {'brought up to date' if self.piecewise else 'made anew'}, because of {what}")
            if not self.piecewise:
                self.clear()
            elif self.guard is not None:
                self.guard(changed)
        self._write(finished=False)
        return False

    def state(self) -> str:
        """What `is_done` would find, in words that begin with "done" for a finished stage; changes nothing."""
        state = self._read()
        if state is None:
            return "to do" if self.piecewise or self._is_bare() else "its stamp is gone, needs --again"
        if changed := self._changed(state):
            what = _described(state["inputs"], self.inputs, changed)
            return "to do" if self._is_bare() else f"made with other inputs ({what}), needs --again"
        return "done before" if state["finished"] else "begun, will go on"

    def clear(self) -> None:
        """Forget what was made before, all at once. Raises SemivssError where that would lose somebody's work."""
        if self.guard is not None:
            self.guard(list(self.inputs))
        if is_main_process() and self.folder.exists():
            self._sweep()
            with locked(self.folder):  # nobody else writes there
                self.folder.rename(self._trash)  # whoever is killed from here on leaves no half of it
            self._sweep()

    def wait(self) -> None:
        """Come back when the first process has finished the stage with these inputs; if it fails, the launcher ends all processes."""
        while (state := self._read()) is None or not state["finished"] or state["inputs"] != self.inputs:
            time.sleep(LOOK_EVERY)

    def _changed(self, state: dict[str, Any] | None) -> list[str]:
        """Names of the inputs that differ. A training that has begun goes on with other frames; a finished one is asked about them."""
        old = {} if state is None else state["inputs"]
        names = [key for key in sorted(old.keys() | self.inputs.keys()) if old.get(key) != self.inputs.get(key)]
        return [name for name in names if state is None or state["finished"] or not name.startswith("frames.")]

    def _tell_other_frames(self, before: Mapping[str, str]) -> None:
        """Say what `_changed` tolerates: days of training are not lost over a frame, but the result is of neither data set alone."""
        names = [name for name in self.inputs if name.startswith("frames.") and before.get(name) != self.inputs[name]]
        if names and is_main_process():
            say(f"{self.name}: begun with other frames or masks ({', '.join(names)}), goes on with those of now")

    def _gone(self) -> str:
        """The first file that the folder's manifest names and that is not there; empty if there is none."""
        try:
            files = json.loads((self.folder / "manifest.json").read_text())["files"]
            return next((entry["path"] for entry in files if not (self.folder / entry["path"]).is_file()), "")
        except (OSError, ValueError, TypeError, KeyError):
            return "manifest.json"

    @property
    def _trash(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.old")

    def _sweep(self) -> None:
        """Delete what `clear`, now or in a process that was killed, has put aside."""
        if is_main_process():
            shutil.rmtree(self._trash, ignore_errors=True)

    def _is_bare(self) -> bool:
        """Whether the stage failed before it wrote anything, as with a wrong path in the recipe: then nothing can be lost."""
        try:
            return all(entry.name == "stamp.json" or entry.name.startswith(".") for entry in self.folder.iterdir())
        except FileNotFoundError:  # the first process has just cleared it
            return True

    def finish(self) -> None:
        """Mark the folder as complete."""
        self._write(finished=True)

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / "stamp.json"
        try:
            state: dict[str, Any] = json.loads(path.read_text())
            return {"inputs": dict(state["inputs"]), "finished": bool(state["finished"])}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise SemivssError(f"{path}: not readable as a stage stamp ({error}); delete that file and add --again") from error

    def _write(self, *, finished: bool) -> None:
        if is_main_process():
            atomic_json(self.folder / "stamp.json", {"inputs": dict(self.inputs), "finished": finished, "versions": versions()})


def was_finished(folder: Path) -> bool:
    """Whether a stage's folder was finished, with whatever inputs."""
    try:
        return bool(json.loads((folder / "stamp.json").read_text())["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_main_process() -> bool:
    """Whether this process is the only one or the first of those that torchrun, or Lightning for several GPUs, has started."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    return {"semivss": __version__} | {name: metadata.version(name) for name in ("torch", "transformers", "timm", "numpy")}


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """A nested tree of settings as `a.b.0.c` -> JSON text, the form of a stamp's inputs."""
    if isinstance(tree, dict):
        pairs = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in tree.items())
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        pairs = ((f"{prefix}.{index}", value) for index, value in enumerate(tree))
    else:
        return {prefix: json.dumps(tree)}
    return {key: value for name, branch in pairs for key, value in flat(branch, name).items()}


def _described(old: Mapping[str, str], new: Mapping[str, str], changed: Sequence[str]) -> str:
    shown = [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in changed[:3]]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
