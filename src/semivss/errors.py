"""Errors for people: what was wrong, where, and what to do. The command line prints them as one line and exits with 2."""

from pathlib import Path


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

    def __init__(self, path: Path | str, kind: str, detail: str, remedy: str) -> None:
        super().__init__(f"{path}: {detail}; {remedy}")
        self.path, self.kind, self.detail, self.remedy = str(path), kind, detail, remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:  # loader workers send it to the main process
        return type(self), (self.path, self.kind, self.detail, self.remedy)
