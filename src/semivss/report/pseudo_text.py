"""What `inspect_pseudo` found in; tables on the terminal out."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from semivss.report.pseudo import Inspection
from semivss.wording import counted

if TYPE_CHECKING:
    from rich.table import Table


def render(found: Inspection, title: str) -> None:
    """Print the table over alpha, the classes and the videos, and what has to be said beside them."""
    from rich.console import Console

    screen = Console(highlight=False)
    screen.print(title, style="bold", markup=False, soft_wrap=True)
    screen.print(_table("alpha", ((f"{row['alpha']:g}", row) for row in found.table)))
    screen.print(_table(f"class, alpha {found.alpha:g}", ((name, row) for name, row in found.classes.items() if row["share"])))
    screen.print(_table(f"video, alpha {found.alpha:g}", found.videos.items()))
    for line in _notes(found):
        screen.print(line, markup=False, soft_wrap=True)


def _table(first: str, rows: Iterable[tuple[str, Mapping[str, float | None]]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(first)
    listed, columns = list(rows), {"kept": "kept %", "accuracy": "right of the kept %", "accuracy_rest": "right of the rest %"}
    shown = [key for key in columns if key == "kept" or any(row[key] is not None for _, row in listed)]  # no masks, no accuracies
    for key in shown:
        table.add_column(columns[key], justify="right", no_wrap=True)
    for name, row in listed:
        table.add_row(Text(name), *(_percent(row[key]) for key in shown))
    return table


def _notes(found: Inspection) -> Iterator[str]:
    cuts = sorted({cut for cut in found.gamma if cut is not None})
    cut = f"cuts at {' to '.join(f'{cut:.4f}' for cut in (*cuts[:1], *cuts[1:][-1:]))} nats" if cuts else "keeps every pixel"
    yield f"{counted(found.frames, 'frame')}, {found.frames_with_truth} with a mask; alpha {found.alpha:g} % {cut}."
    if not found.overall["kept"]:
        yield "no pixel is reliable at this alpha: the models are equally unsure everywhere, or alpha is too large."
    if found.overall["accuracy_all"] is not None:
        names = {"accuracy_all": "all pixels", "accuracy_at_80": "the surest 80 %"}
        parts = [f"{name} {_percent(found.overall[key])} %" for key, name in names.items()]
        yield f"accuracy: {', '.join(parts)}; AUROC of right against wrong {_percent(found.overall['auroc'])} %."
    if unused := [name for name, row in found.classes.items() if not row["share"]]:
        yield f"no pixel was labelled {', '.join(unused)}."
    if found.worst:
        yield f"worst frames: {', '.join(found.worst)}."
    if found.defects:
        yield "masks left out: " + ", ".join(f"{kind} {count}" for kind, count in found.defects.items()) + "."
    if found.edited:
        more = f" and {len(found.edited) - 5} more" if len(found.edited) > 5 else ""
        yield f"corrected by hand, and taken as certain: {', '.join(found.edited[:5])}{more}."


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
