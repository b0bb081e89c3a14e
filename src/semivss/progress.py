"""Progress bars with throughput and remaining time on standard error; where it is no terminal, a line from time to time."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from semivss.ranks import is_main_process

Item = TypeVar("Item")
EVERY = 30.0  # seconds between the lines


def track(
    items: Iterable[Item],
    description: str,
    *,
    total: int | None = None,
    unit: str = "frames",
    start: int = 0,
    note: Callable[[], str] = str,
) -> Iterator[Item]:
    """Yield `items` while a bar shows count, `unit`/s and the time left. Of several processes that torchrun started the first shows it.

    `start` counts what an earlier run has done; `note` is asked again and again for a few more words.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not is_main_process():
        yield from items
        return
    if not console.is_terminal:
        yield from _told(items, description, total, unit, start, note)
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

    class Note(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(note())

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Throughput(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        Note(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=start)
        for item in items:
            yield item
            bar.advance(task)


def _told(items: Iterable[Item], description: str, total: int | None, unit: str, start: int, note: Callable[[], str]) -> Iterator[Item]:
    """Yield `items`, and say how far it is whenever `EVERY` seconds have passed: a log of a long run shows that it lives."""
    began = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            of, rate, more = f" of {total}" if total else "", done / (now - began), note()
            left = f", {timedelta(seconds=round((total - start - done) / rate))} left" if total else ""
            say(f"{description}: {start + done}{of} {unit}, {rate:.1f} a second{left}{', ' if more else ''}{more}")


def say(message: str) -> None:
    """One line for a person, on standard error, where progress bars live too."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)


def say_once(message: str) -> None:
    """As `say`, by the first of the processes that torchrun has started alone."""
    if is_main_process():
        say(message)
