"""Signals that ask a run to stop: SIGINT (Ctrl-C), SIGTERM, and SIGUSR1, Slurm's warning before its limit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class StopRequest:
    """While a ``with`` block runs, a signal only sets ``received``; a second one ends the process at once.

    Args:
        grace: seconds in which a repeated signal is the same request. A launcher hands Ctrl-C on to processes that
            the terminal has already sent it to.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.grace = grace
        self.received = 0
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > self.grace:
            os._exit(128 + number)


@contextlib.contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """SIGTERM ends a ``with`` block as an exception does, so that what is to be done at its end is done."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # elsewhere Python takes no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def outlive_the_step(_: int) -> None:
    """For processes that load data: a signal that reaches them too must not take the data from under the step that is
    to be finished. They end when the process that trains stops them, by a second SIGTERM, or after a while."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):

        def leave_later(number: int, _: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)
            signal.alarm(30)

        signal.signal(signal.SIGTERM, leave_later)
