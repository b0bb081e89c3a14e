"""A stage's folder and what it is made from in, whether it is finished out. The stamp beside the stage's files keeps the answer."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from semivss import __version__
from semivss.atomic import atomic_json
from semivss.digest import file_sha256
from semivss.errors import SemivssError
from semivss.lock import locked
from semivss.progress import say
from semivss.ranks import is_main_process

LOOK_EVERY = 0.5  # seconds
AUTO = "auto "  # begins the value of a setting that was left to the machine, in front of what it took
FILES = "file."  # begins the names of inputs that are hashes of files outside the run
_MANIFEST = "manifest.json"  # of a piecewise stage


@dataclass(frozen=True)
class Verdict:
    """What stands in a stage's folder."""

    kind: Literal["to do", "begun", "done", "other"]  # other: made, or begun, from something else
    what: str = ""  # of "other": the difference, for people
    changed: tuple[str, ...] = ()  # names of the inputs that differ

    def text(self, again: bool) -> str:
        """What a run would do, for people; `again`: make anew what was made from something else."""
        match self.kind:
            case "other":
                return f"{self.what}, {'will be made anew' if again else 'needs --again'}"
            case "begun":
                return "begun, will go on"
            case "done":
                return "done before"
            case "to do":
                return "to do"


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
    absent: Mapping[str, str] = field(default_factory=dict)  # what holds of inputs that a stamp of an earlier version does not name
    piecewise: bool = False  # its work goes through the folder by itself, keeps what still fits and makes the rest anew

    def verdict(self) -> Verdict:
        """What stands in the folder; changes nothing."""
        state = _read(self.folder)
        if state is None:
            unknown = not (self.piecewise or self._is_bare())
            return Verdict("other", "its stamp is gone", tuple(self.inputs)) if unknown else Verdict("to do")
        if changed := self._changed(state):
            what = f"made with other inputs ({_described(self._known(state), self.inputs, changed)})"
            return Verdict("to do") if self._is_bare() else Verdict("other", what, changed)
        if not state["finished"]:
            return Verdict("begun")
        touched = self._touched(state) if self.piecewise else ""
        return Verdict("other", touched) if touched else Verdict("done")

    def is_done(self, again: bool, anew: bool = False) -> bool:
        """Whether the folder was finished with these inputs. If not, it is stamped as begun, and what is of another making put aside.

        Args:
            again: make anew what was made with others.
            anew: it is being made anew on purpose, so that what was put aside is no answer.

        Raises:
            SemivssError: it was made (or begun) with others, and `again` does not allow to make it anew; or the guard objects.
        """
        if not anew:
            self._take_back()
        verdict = self.verdict()
        match verdict.kind:
            case "done":
                say(f"{self.name}: done before, skipped ({self.folder})")
                return True
            case "begun":
                self._tell_other_frames()
                return False
            case "other" if not again:
                refused = f"{self.folder}: stage {self.name}: {verdict.what}"
                try:
                    self.ask(verdict.changed)
                except SemivssError as error:
                    raise SemivssError(f"{refused}; --again will not do: {error}") from error
                raise SemivssError(f"{refused}; add --again to redo it, or use another --out")
        self.ask(verdict.changed)
        if verdict.kind == "other":
            say(f"{self.name}: {'brought up to date' if self.piecewise else 'made anew'}, because: {verdict.what}")
            if not self.piecewise:
                self.clear()
        self._write(finished=False)
        return False

    def ask(self, changed: Sequence[str]) -> None:
        """Raise SemivssError if making it with these inputs changed would lose somebody's work, or cannot work."""
        if self.guard is not None:
            self.guard(changed)

    def clear(self) -> None:
        """Put aside what was made before, all at once: whoever is killed from here on leaves no half of it.

        A finished making that lies aside already is not given up for one that was only begun.
        """
        if not is_main_process() or self._is_bare():
            return
        old, here = _read(self._aside), _read(self.folder)
        with locked(self.folder):  # nobody else writes there
            if old is not None and old["finished"] and not (here is not None and here["finished"]):
                self._discard()
            else:
                shutil.rmtree(self._aside, ignore_errors=True)
                self.folder.rename(self._aside)

    def restore(self) -> bool:
        """Take back what `clear` has put aside, if nothing was made in its place; whether that was so."""
        if not (is_main_process() and self._aside.exists() and self._is_bare()):
            return False
        self._discard()
        self._aside.rename(self.folder)
        return True

    def _take_back(self) -> None:
        """A change that was taken back costs nothing as long as its own making is not finished."""
        old, here = _read(self._aside), _read(self.folder)
        if not is_main_process() or old is None or not old["finished"] or self._changed(old):
            return
        if self._is_bare() or (here is not None and not here["finished"] and self._known(here) != self.inputs):
            say(f"{self.name}: what was made with these inputs is taken back ({self.folder})")
            self._discard()
            self._aside.rename(self.folder)

    def wait(self) -> None:
        """Come back when the first process has finished the stage with these inputs; if it fails, the launcher ends all processes."""
        while (state := _read(self.folder)) is None or not state["finished"] or self._changed(state):
            time.sleep(LOOK_EVERY)

    def finish(self) -> None:
        """Mark the folder as complete; what was put aside for it is no longer wanted."""
        self._write(finished=True)
        if is_main_process():
            shutil.rmtree(self._aside, ignore_errors=True)

    def _changed(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the inputs that differ. A training that has begun goes on with other frames; a finished one is asked about them.

        A file that is no longer there, or that the stamp does not know yet, is no difference; nor is any precision, where it is left to the
        machine.
        """
        old = self._known(state)
        gone = {key for key in old.keys() ^ self.inputs.keys() if key.startswith(FILES)}
        every = sorted((old.keys() | self.inputs.keys()) - gone)
        names = [key for key in every if not _agree(old.get(key), self.inputs.get(key))]
        return tuple(name for name in names if state["finished"] or not name.startswith("frames."))

    def _known(self, state: Mapping[str, Any]) -> dict[str, str]:
        """Inputs that the stamp says something of, by name or by not naming them."""
        return {key: value for key, value in self.absent.items() if key in self.inputs} | state["inputs"]

    def _tell_other_frames(self) -> None:
        """Say what `_changed` tolerates: days of training are not lost over a frame, but the result is of neither data set alone."""
        before = (_read(self.folder) or {"inputs": {}})["inputs"]
        names = [name for name in self.inputs if name.startswith("frames.") and before.get(name) != self.inputs[name]]
        if names and is_main_process():
            say(f"{self.name}: begun with other frames or masks ({', '.join(names)}), goes on with those of now")

    def _touched(self, state: Mapping[str, Any]) -> str:
        """What another command has made of the folder since, or somebody has taken out of it; empty for neither."""
        manifest = self.folder / _MANIFEST
        try:
            if file_sha256(manifest) != state["manifest"]:
                return "made over by another command since (other manifest.json)"
            content = json.loads(manifest.read_text())
            named = [entry["path"] for entry in (*content["files"], *([content["histogram"]] if "histogram" in content else []))]
        except (OSError, ValueError, TypeError, KeyError):
            return f"{_MANIFEST} is gone or damaged"
        gone = next((name for name in named if not (self.folder / name).is_file()), "")
        return f"{gone} is gone" if gone else ""

    @property
    def _aside(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.old")

    def _discard(self) -> None:
        """Delete the folder, which is out of the way at once."""
        gone = self.folder.with_name(f".{self.folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _is_bare(self) -> bool:
        """Whether the stage failed before it wrote anything, as with a wrong path in the recipe: then nothing can be lost."""
        try:
            return all(entry.name == "stamp.json" or entry.name.startswith(".") for entry in self.folder.iterdir())
        except FileNotFoundError:  # the first process has just cleared it
            return True

    def _write(self, *, finished: bool) -> None:
        if is_main_process():
            made = {"manifest": file_sha256(self.folder / _MANIFEST)} if finished and self.piecewise else {}
            atomic_json(self.folder / "stamp.json", {"inputs": dict(self.inputs), "finished": finished, **made, "versions": versions()})


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "stamp.json"
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        return {"inputs": dict(state["inputs"]), "finished": bool(state["finished"]), "manifest": state.get("manifest")}
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


def _agree(old: str | None, new: str | None) -> bool:
    """Whether two values of an input are the same. "auto 32" was left to the machine, which took 32."""
    if old is None or new is None:
        return old == new
    return new.startswith(AUTO) or old.removeprefix(AUTO) == new
