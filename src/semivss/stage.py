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

    def is_done(self, again: bool, anew: bool = False) -> bool:
        """Whether the folder was finished with these inputs.

        Args:
            again: make anew what was made with others.
            anew: it is being made anew on purpose, so that what was put aside is no answer.

        Raises:
            SemivssError: it was made (or begun) with others, and `again` does not allow to make it anew.
        """
        if not anew:
            self._take_back_if_it_fits()
        state = self._read()
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

    def state(self, again: bool = False) -> str:
        """What `is_done` would find, in words that begin with "done" for a finished stage; changes nothing."""
        state = self._read()
        if state is None and (self.piecewise or self._is_bare()):
            return "to do"
        if state is None or (changed := self._changed(state)):
            if self._is_bare():
                return "to do"
            what = "its stamp is gone" if state is None else f"made with other inputs ({_described(state['inputs'], self.inputs, changed)})"
            return f"{what}, will be made anew" if again else f"{what}, needs --again"
        if state["finished"] and again and self.piecewise and (gone := self._gone()):
            return f"will make {gone}, which is gone"
        return "done before" if state["finished"] else "begun, will go on"

    def clear(self) -> None:
        """Put aside what was made before, all at once. Raises SemivssError where that would lose somebody's work."""
        if self.guard is not None:
            self.guard(list(self.inputs))
        if is_main_process() and not self._is_bare():  # a bare one: what was put aside is still the last whole making
            self._sweep()
            with locked(self.folder):  # nobody else writes there
                self.folder.rename(self._aside)  # whoever is killed from here on leaves no half of it

    def restore(self) -> bool:
        """Take back what `clear` has put aside, if nothing was made in its place; whether that was so."""
        if not (is_main_process() and self._aside.exists() and self._is_bare()):
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        self._aside.rename(self.folder)
        return True

    def _take_back_if_it_fits(self) -> None:
        """A call that was stopped before it made anything, and whose change was taken back, costs nothing."""
        old = _read(self._aside)
        if old is not None and old["finished"] and old["inputs"] == self.inputs:
            self.restore()

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
    def _aside(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.old")

    def _sweep(self) -> None:
        """Delete what `clear`, now or in a process that was killed, has put aside."""
        if is_main_process():
            shutil.rmtree(self._aside, ignore_errors=True)

    def _is_bare(self) -> bool:
        """Whether the stage failed before it wrote anything, as with a wrong path in the recipe: then nothing can be lost."""
        try:
            return all(entry.name == "stamp.json" or entry.name.startswith(".") for entry in self.folder.iterdir())
        except FileNotFoundError:  # the first process has just cleared it
            return True

    def finish(self) -> None:
        """Mark the folder as complete; what was put aside for it is no longer wanted."""
        self._write(finished=True)
        self._sweep()

    def _read(self) -> dict[str, Any] | None:
        return _read(self.folder)

    def _write(self, *, finished: bool) -> None:
        if is_main_process():
            atomic_json(self.folder / "stamp.json", {"inputs": dict(self.inputs), "finished": finished, "versions": versions()})


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "stamp.json"
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        return {"inputs": dict(state["inputs"]), "finished": bool(state["finished"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise SemivssError(f"{path}: not readable as a stage stamp ({error}); delete that file and add --again") from error


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
    shown = [f"{key}: {_short(old.get(key, 'absent'))} -> {_short(new.get(key, 'absent'))}" for key in changed[:3]]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _short(value: str) -> str:
    """A value for people: the beginning of a SHA-256, anything else as it is."""
    return value[:12] if len(value) == 64 and set(value) <= set("0123456789abcdef") else value
