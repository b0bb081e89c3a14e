"""A file or a folder in, its SHA-256 out."""

import hashlib
from pathlib import Path

from semivss.atomic import newest
from semivss.errors import SemivssError


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read piece by piece. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_sha256(path: Path) -> str:
    """That of a file, or of the names and contents of all files of a folder. Raises SemivssError for one that cannot be read."""
    try:
        if path.is_file():
            return file_sha256(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n" for file in files]
    except OSError as error:
        raise SemivssError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_hash(folder: Path) -> str:
    """SHA-256 of a model folder: its weights, and the settings and classes they are read with. Raises SemivssError where there is none."""
    digest = hashlib.sha256()
    for path in (newest(folder, name) for name in ("model.safetensors", "config.json")):
        if not path.is_file():
            raise SemivssError(f"{path}: missing; train the model, in a run with --from and the stage of that folder")
        digest.update(file_sha256(path).encode())
    return digest.hexdigest()
