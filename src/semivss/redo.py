"""A run folder and the stage of `--from` in; which stages that call has yet to clear out, also when it was stopped and is repeated."""

import json
import time
from pathlib import Path

from semivss.atomic import atomic_json
from semivss.stage import LOOK_EVERY


class Redo:
    """What `--from` has cleared so far, kept in the run folder until the run has come to its end."""

    def __init__(self, out: Path, start: str | None, recipe: str) -> None:
        """`start` is the stage, None without `--from`; `recipe` a hash of all settings. A call with others begins anew."""
        self._path, self._call = out / "redo.json", {"from": start, "recipe": recipe}
        self._cleared: list[str] = []
        try:
            known = json.loads(self._path.read_text())
            if {name: known[name] for name in self._call} == self._call:
                self._cleared = [str(name) for name in known["cleared"]]
        except (OSError, ValueError, TypeError, KeyError):
            pass  # nobody stopped such a call, or nobody knows

    def is_done(self, folder: Path) -> bool:
        """Whether the stage of that folder has been cleared by this call or by one that it repeats."""
        return self._name(folder) in self._cleared

    def wait(self, folder: Path) -> None:
        """Come back when the first process has cleared the stage; if it fails, the launcher ends all processes."""
        while not Redo(self._path.parent, self._call["from"], str(self._call["recipe"])).is_done(folder):
            time.sleep(LOOK_EVERY)

    def note(self, folder: Path) -> None:
        """Keep that it has been cleared."""
        self._cleared.append(self._name(folder))
        self._keep()

    def forget(self, folder: Path) -> None:
        """Keep that nothing came of it."""
        self._cleared.remove(self._name(folder))
        self._keep()

    def _keep(self) -> None:
        atomic_json(self._path, self._call | {"cleared": self._cleared})

    def _name(self, folder: Path) -> str:
        """The same however the run folder is spelled."""
        return folder.relative_to(self._path.parent).as_posix()

    def finish(self) -> None:
        """The run has come to its end: the same call would begin anew."""
        self._path.unlink(missing_ok=True)
