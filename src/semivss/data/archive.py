"""A zip from elsewhere in, a folder with some of its files out, within limits and nowhere else."""

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from semivss.errors import DataError, DefectError

MAX_BYTES = 2 * 1024**3  # of everything unpacked
MAX_RATIO = 100  # unpacked to packed
_SMALL = 1024**2  # files below this may be packed as tightly as they like


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> int:
    """Unpack the regular files whose names `wanted` accepts below `folder`; returns their number.

    Raises:
        DefectError: kind not_zip, truncated, unsafe_zip (names that leave the folder, links, encryption) or zip_bomb (more than 2 GB, or
            packed more than 100-fold). Nothing is unpacked from an unsafe archive.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [member for member in source.infolist() if not member.is_dir()]
            for member in members:
                _check_member(archive, member)
            chosen = [member for member in members if wanted(member.filename)]
            _check_size(archive, chosen)
            for member in chosen:
                _write(source, member, folder / member.filename)
            return len(chosen)
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked into {folder} ({error.strerror or error}); check path and free space") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zipfile.LargeZipFile, ValueError) as error:
        kind = "truncated" if _starts_like_zip(archive) else "not_zip"
        raise DefectError(archive, kind, f"not a complete zip ({error})", "export or copy it again") from error


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise DefectError(archive, "unsafe_zip", f"{member.filename!r} would leave the folder", "do not use this archive; export it again")
    if kind not in (0, stat.S_IFREG):
        raise DefectError(archive, "unsafe_zip", f"{member.filename!r} is a link or device", "do not use this archive; export it again")
    if member.flag_bits & 1:
        raise DefectError(archive, "unsafe_zip", f"{member.filename!r} is encrypted", "export it without a password")


def _check_size(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Sizes as declared; zipfile never unpacks more than that and compares the checksum."""
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        detail = f"unpacks to {total / 1024**3:.1f} GB, more than {MAX_BYTES / 1024**3:.0f} GB"
        raise DefectError(archive, "zip_bomb", detail, "export in parts, or unpack it yourself and import the folder")
    for member in members:
        if member.file_size > _SMALL and member.file_size > MAX_RATIO * max(member.compress_size, 1):
            detail = f"{member.filename!r} is packed more than {MAX_RATIO}-fold"
            raise DefectError(archive, "zip_bomb", detail, "check where it comes from; unpack it yourself and import the folder")


def _write(source: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(member) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, 1024**2)


def _starts_like_zip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"PK"
