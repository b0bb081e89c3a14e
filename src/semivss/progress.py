"""Progress bars with throughput and remaining time on standard error; where it is no terminal, a line from time to time."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
EVERY = 30.0  # seconds between the lines


def track(items: Iterable[Item], description: str, *, total: int | None = None, unit: str = "frames", start: int = 0) -> Iterator[Item]:
    """Yield `items` while a bar shows count, `unit`/s and the time left. `start` counts what an earlier run has done."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _told(items, description, total, unit, start)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Throughput(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} {unit}/s" if task.speed else f"- {unit}/s", style="cyan")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Throughput(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=start)
        for item in items:
            yield item
            bar.advance(task)


def _told(items: Iterable[Item], description: str, total: int | None, unit: str, start: int) -> Iterator[Item]:
    """Yield `items`, and say how far it is whenever `EVERY` seconds have passed: a log of a long run shows that it lives."""
    began = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            of = f" of {total}" if total else ""
            say(f"{description}: {start + done}{of} {unit}, {done / (now - began):.1f} a second")


def say(message: str) -> None:
    """One line for a person, on standard error, where progress bars live too."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)
