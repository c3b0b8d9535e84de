"""A wish to stop, from a signal or the clock, noticed between two steps."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopWish:
    """Collects SIGTERM, SIGUSR1, Ctrl-C and the end of `max_hours`; a second Ctrl-C interrupts at once."""

    def __init__(self, max_hours: float | None) -> None:
        self._until = None if max_hours is None else time.monotonic() + 3600.0 * max_hours
        self._signal: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """Returns why to stop ("SIGTERM", "max_hours", ...) or None."""
        if self._signal is None and self._until is not None and time.monotonic() > self._until:
            return "max_hours"
        return self._signal

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets only this one set handlers
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
