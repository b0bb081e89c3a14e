"""A stream in, the same stream out, while a thread works ahead of its reader or behind it. Order and errors stay as they are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()


def read_ahead(items: Iterable[Item], most: int) -> Iterator[Item]:
    """Yield `items`, up to `most` of which a thread has fetched before they are asked for; what they raise is raised in its place."""
    iterator = iter(items)
    waiting: deque[Future[Item]] = deque()
    reader = ThreadPoolExecutor(1, "reader")
    try:
        while True:
            while len(waiting) <= most:
                waiting.append(reader.submit(next, iterator, _END))
            item = waiting.popleft().result()
            if item is _END:
                return
            yield item
            del item  # not held while the next one is waited for
    finally:
        reader.shutdown(cancel_futures=True)
        if (close := getattr(iterator, "close", None)) is not None:
            close()


def map_behind(function: Callable[[Item], Result], items: Iterable[Item], most: Callable[[Item], int] = lambda item: 1) -> Iterator[Result]:
    """Yield `function(item)` of all items, computed by a thread while the next ones are made: results come late, none is lost.

    `most` says of an item how many may wait: those that were made together, such as the frames of a batch, so that all of them are worked
    on while the next are made.

    What `items` raises is raised after the result of the last item that it gave.
    """
    iterator = iter(items)
    stopped: BaseException | None = None
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, "post-processing") as thread:
        while stopped is None:
            try:
                item = next(iterator)
            except BaseException as error:  # noqa: BLE001 -- told below
                stopped = error
                continue
            waiting.append(thread.submit(function, item))
            room = most(item)
            del item
            while len(waiting) > room:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    if not isinstance(stopped, StopIteration):
        raise stopped
