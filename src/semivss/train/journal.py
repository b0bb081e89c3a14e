"""Rows of numbers in, metrics.csv and TensorBoard events out, consistent after an interruption."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from semivss.atomic import atomic_bytes

NAME = "metrics.csv"


class Journal:
    """Numbers of a run by step. Columns: `step`, then whatever rows bring, in order of appearance; a cell not measured is empty."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on in `folder` after step `step`: rows of later steps, which an interrupted run left behind, are dropped."""
        self._path = folder / NAME
        self._rows = [row for row in _read(self._path) if int(row["step"]) <= step]
        self._columns = list(dict.fromkeys(["step", *(key for row in self._rows for key in row)]))
        self._board = SummaryWriter(log_dir=str(folder), purge_step=step + 1 if step else None)
        self._rewrite()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row. Raises SemivssError when it cannot be written."""
        self._rows.append({"step": str(step)} | {key: f"{value:.6g}" for key, value in values.items()})
        self._columns = list(dict.fromkeys([*self._columns, *values]))
        self._rewrite()
        for key, value in values.items():
            self._board.add_scalar(key.replace("val_", "val/", 1), value, step)

    def close(self) -> None:
        self._board.close()

    def _rewrite(self) -> None:
        # The whole file each time: it stays small (one row a log interval), and a reader never meets half a line.
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        atomic_bytes(self._path, text.getvalue().encode(), sync=False)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
