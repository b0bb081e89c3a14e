"""The result of a check in; tables on the terminal and a contact sheet out."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semivss.atomic import atomic_file
from semivss.data.check_result import TILE, CheckResult, Sample, SplitResult
from semivss.data.labels import IGNORE
from semivss.wording import counted

_GAP, _LINE = 8, 18
_BACK, _TEXT = (24, 24, 28), (235, 235, 235)


def render(result: CheckResult) -> None:
    """Print what was understood on standard output, then every defect on a line of its own."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.print(f"{result.path}: {result.kind}", markup=False)
    for split in result.splits:
        console.print(_overview(split), markup=False)
        if split.labelled:
            console.print(_class_table(split))
            absent = [name for index, name in enumerate(split.label_set.names) if not split.pixels[index]]
            if absent:
                console.print(f"never seen in {split.name}: {', '.join(absent)}", markup=False)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for warning in result.warnings:
        console.print(f"warning: {warning}", markup=False)
    for defect in result.defects:
        console.print(f"{defect.kind}: {defect.line}", markup=False)


def _overview(split: SplitResult) -> str:
    sizes = ", ".join(f"{width}x{height} ({count})" for (height, width), count in split.sizes.most_common(5))
    more = f" and {len(split.sizes) - 5} more sizes" if len(split.sizes) > 5 else ""
    rates = ", ".join(f"{rate:g} fps ({count})" for rate, count in split.rates.most_common(5))
    words = [
        f"{split.name}: {counted(split.clips, 'video')}, {counted(split.frames, 'frame')}, {split.labelled} labelled",
        f"{sizes or 'no sizes'}{more}",
    ]
    return "; ".join([*words, *([rates] if rates else []), counted(len(split.defects), "defect")])


def _class_table(split: SplitResult) -> Table:
    """Classes that occur, in the order of their ids, and the ignored pixels."""
    table = Table(title=f"{split.name}: classes of {split.label_set.name}", title_justify="left")
    for column, justify in (("id", "right"), ("class", "left"), ("pixels", "right"), ("share", "right"), ("frames", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    total = int(split.pixels.sum())
    names = dict(enumerate(split.label_set.names)) | {IGNORE: "(ignored)"}
    for index, name in names.items():
        if pixels := int(split.pixels[index]):
            color = split.label_set.colors[index] if index != IGNORE else (128, 128, 128)
            label = Text.assemble(("■ ", f"rgb({color[0]},{color[1]},{color[2]})"), name)
            table.add_row(str(index), label, f"{pixels:,}", f"{pixels / total:.2%}", str(int(split.frames_with[index])))
    return table


def write_preview(result: CheckResult, path: Path) -> bool:
    """Write a PNG of frame | frame under class colours for a few frames, with a legend; false when there is nothing to show.

    Raises:
        SemivssError: the file cannot be written; an older one is kept.
    """
    samples = [sample for split in result.splits for sample in split.samples]
    if not samples:
        return False
    legend = _legend(result)
    columns = 4 if len(samples) > 1 else 2
    rows = _rows(samples, columns // 2)
    width = columns * (TILE + _GAP) + _GAP
    per_line = max(1, width // 210)
    legend_height = -(-len(legend) // per_line) * _LINE + 2 * _GAP if legend else 0
    height = sum(_row_height(row) for row in rows) + legend_height + _GAP
    sheet = Image.new("RGB", (width, height), _BACK)
    top = _GAP
    for row in rows:
        _draw_row(sheet, row, top)
        top += _row_height(row)
    _draw_legend(sheet, legend, top, per_line)
    with atomic_file(path, sync=False) as file:
        sheet.save(file, "PNG")
    return True


def _rows(samples: list[Sample], pairs: int) -> list[list[Sample]]:
    return [samples[start : start + pairs] for start in range(0, len(samples), pairs)]


def _row_height(row: list[Sample]) -> int:
    return max(sample.frame.shape[0] for sample in row) + _LINE + _GAP


def _draw_row(sheet: Image.Image, row: list[Sample], top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for place, sample in enumerate(row):
        left = _GAP + 2 * place * (TILE + _GAP)
        draw.text((left, top), sample.title[-90:], fill=_TEXT, font=_font())
        sheet.paste(Image.fromarray(sample.frame), (left, top + _LINE))
        if sample.colored is None:
            draw.text((left + TILE + 2 * _GAP, top + _LINE), "(no labels)", fill=_TEXT, font=_font())
        else:
            sheet.paste(Image.fromarray(sample.colored), (left + TILE + _GAP, top + _LINE))


def _legend(result: CheckResult) -> list[tuple[str, tuple[int, int, int]]]:
    """Classes that occur, the frequent ones first."""
    entries: dict[str, tuple[int, tuple[int, int, int]]] = {}
    for split in result.splits:
        for index, name in enumerate(split.label_set.names):
            if pixels := int(split.pixels[index]):
                entries[name] = (entries.get(name, (0, (0, 0, 0)))[0] + pixels, split.label_set.colors[index])
    return [(name, color) for name, (_, color) in sorted(entries.items(), key=lambda item: -item[1][0])]


def _draw_legend(sheet: Image.Image, legend: list[tuple[str, tuple[int, int, int]]], top: int, per_line: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for place, (name, color) in enumerate(legend):
        left, line = _GAP + place % per_line * 210, top + _GAP + place // per_line * _LINE
        draw.rectangle((left, line + 2, left + 12, line + 14), fill=color)
        draw.text((left + 18, line), name[:28], fill=_TEXT, font=_font())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)
