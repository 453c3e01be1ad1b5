"""Ending a run in order when it is told to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

# Exit statuses that tell a restart loop to give the same command again.
EXIT_PREEMPTED = 75  # saved and stopped because of SIGTERM
EXIT_WORKER_LOST = 76  # another worker stopped answering


class StopSignals:
    """Notes SIGTERM and SIGINT instead of dying from them.

    SIGTERM is what a TPU VM gets before maintenance, a preemptible machine
    before it is taken, and a container before it is stopped. A second SIGINT
    raises `KeyboardInterrupt` as usual, for those who cannot wait.

    Outside of the main thread, where Python allows no handlers, nothing is
    noted and signals work as they did.

    Example:

    >>> import signal
    >>> with StopSignals() as stop:
    ...     for step in range(1000):
    ...         if stop.received is not None:
    ...             break
    ...         if step == 2:  # meanwhile, somebody
    ...             signal.raise_signal(signal.SIGTERM)
    >>> step, stop.received.name
    (3, 'SIGTERM')
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
