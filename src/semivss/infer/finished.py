"""A video's record and what it is to be made from in; whether its files may stay out, and no correction by hand is lost over it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from semivss.data.pseudo import RECORDS
from semivss.defaults import completed
from semivss.digest import file_sha256
from semivss.errors import SemivssError
from semivss.infer.writer import read_record


def is_finished(
    out: Path,
    video: str,
    key: dict[str, Any],
    *,
    keep_corrections: bool = False,
    absent: dict[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> bool:
    """Whether the record of `video` is of the same making (`key`) and its files have the recorded sizes.

    Args:
        keep_corrections: a label file changed by hand counts as it is.
        absent: what holds of parts of the key that a record of an earlier version does not name.
        tell: is told why a video that was finished once has to be made again.

    Raises:
        DataError: the record is damaged.
        SemivssError: under `keep_corrections`, making the video anew would write over a file that was changed by hand.
    """
    lines = list(read_record(out, video))
    if not lines:
        return False
    entries = [line for line in lines if "path" in line]
    corrected = _corrected(out, video, entries) if keep_corrections else []
    reason = _reason(out, lines[0], [entry for entry in entries if entry["path"] not in corrected], key, absent or {})
    if reason is None:
        return True
    if corrected:
        raise SemivssError(
            f"{out / corrected[0]}: corrected by hand, and {video} was {reason}: labelling it again would write over that; "
            "copy your file elsewhere and delete it here, or choose another folder with --out"
        )
    if tell is not None:
        tell(f"{video}: {reason}; making it again")
    return False


def _reason(out: Path, head: dict[str, Any], entries: Sequence[dict[str, Any]], key: dict[str, Any], absent: dict[str, Any]) -> str | None:
    """Why the video has to be made anew; none if it may stay."""
    before = completed(head.get("made_from", {}), absent)
    changed = [name for name in key if before.get(name) != key[name]]
    if changed:
        return f"made before with other {', '.join(changed)}"
    for entry in entries:
        if _size(out / entry["path"]) != entry["size"]:
            return f"made before, but {entry['path']} is gone or has another size"
    return None


def corrections(out: Path) -> list[str]:
    """Label files below `out` that were changed by hand, in its finished videos.

    Raises:
        DataError: a damaged record, without which nobody knows whether its video holds some.
    """
    found: list[str] = []
    records = out / RECORDS
    for record in sorted(records.rglob("*.jsonl")) if records.is_dir() else ():
        video = record.relative_to(records).with_suffix("").as_posix()
        found += _corrected(out, video, [line for line in read_record(out, video) if "path" in line])
    return found


def _corrected(out: Path, video: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    """Label files of the video that are pictures of another content than the recorded one: also those that no label can be read from,
    such as the colour picture that a paint program saves, are somebody's work.
    """
    labels = [entry for entry in entries if Path(entry["path"]).parent == Path(video) and Path(entry["path"]).suffix == ".png"]
    return [entry["path"] for entry in labels if _is_other(out / entry["path"], entry)]


def _is_other(path: Path, entry: dict[str, Any]) -> bool:
    try:
        if file_sha256(path) == entry["sha256"]:
            return False
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError):  # gone or damaged: nothing to lose
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
