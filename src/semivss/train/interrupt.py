"""Signals in, a flag out: training finishes its step and saves before it ends."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """Context in which the first SIGINT or SIGTERM is only remembered; a second Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._remember)
            except ValueError:  # not the main thread: whoever runs there handles signals
                return self
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return self.signal is not None

    def leave(self) -> None:
        """End the program as the signal asks: KeyboardInterrupt for Ctrl-C, exit code 143 for SIGTERM. Does nothing without a signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
