"""Signals that ask a run to stop: SIGINT (Ctrl-C), SIGTERM, and SIGUSR1, Slurm's warning before its limit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class StopRequest:
    """What a signal does while a run has it: it only sets ``received``; a second one ends the process at once.

    Args:
        grace: seconds in which a repeated signal is the same request. A launcher hands Ctrl-C on to processes that
            the terminal has already sent it to.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.grace = grace
        self.received = 0
        self._at = 0.0

    def __call__(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > self.grace:
            os._exit(128 + number)


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """In a ``with`` block signals call a handler; but in the main thread alone, since Python takes none elsewhere."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if is_main else {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


def leaving_on_sigterm() -> contextlib.AbstractContextManager[None]:
    """SIGTERM ends a ``with`` block as an exception does, so that what is to be done at its end is done."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    return handled((signal.SIGTERM,), leave)


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
