"""Errors for people: what was wrong, where, and what to do. The command line prints them as one line and exits with 2."""

from pathlib import Path

_GOES_ON = {"skip": "leave it out", "ignore": "read it as 255"}  # what a policy does


class SemivssError(Exception):
    """Something the user can mend. The message is one line: what, where, remedy."""


class RecipeError(SemivssError):
    """A recipe cannot be read or holds a wrong key or value."""


class DataError(SemivssError):
    """A data set, video or label map cannot be used as it is."""


class WeightsError(SemivssError):
    """A weight file or model folder cannot be used as it is."""


class DefectError(DataError):
    """One damaged or unsuitable file of a data set. The reading policy (strict | skip | ignore) decides what follows.

    `kind` is a short stable name such as "truncated" or "unknown_id" under which reports count it.
    """

    def __init__(self, path: Path | str, kind: str, detail: str, remedy: str, policy: str = "") -> None:
        """`policy` is the reading policy that goes on without the file, or with what is sound of it; empty where none does."""
        self.path, self.kind, self.detail, self.remedy, self.policy = str(path), kind, detail, remedy, policy
        super().__init__(self.told("policy {}"))

    def told(self, option: str | None) -> str:
        """The line for a person. `option` is how a policy is asked for, such as ``--policy {}``; none where that cannot be done."""
        way = f", or {_GOES_ON[self.policy]} with {option.format(self.policy)}" if self.policy and option else ""
        return f"{self.path}: {self.detail}; {self.remedy}{way}"

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str, str]]:  # loader workers send it to the main process
        return type(self), (self.path, self.kind, self.detail, self.remedy, self.policy)
