"""SIGINT and SIGTERM: they end the process, raise an error, or wait until what is at hand is done."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDINGS = {signal.SIGINT: (130, "interrupted."), signal.SIGTERM: (143, "terminated.")}  # exit code, what is said


def exit_at_signals() -> None:
    """Let either signal end the process at once in one line: for a time in which nothing is written.

    An exception would not do there: modules that are being imported catch it, or print it as ignored.
    """

    def end(number: int, frame: object) -> None:
        code, said = ENDINGS[signal.Signals(number)]
        with suppress(OSError):
            if sys.stderr is not None:
                os.write(sys.stderr.fileno(), f"ar-interp: {said}\n".encode())
        os._exit(code)

    _handle(end)


@contextmanager
def raising() -> Iterator[list[int]]:
    """A list of the signals that came, each of which raises KeyboardInterrupt in the block.

    Signals that are ignored stay so, and outside the main thread, where Python handles none, nothing changes.
    """
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = _handle(interrupt)
    try:
        yield came
    finally:
        _restore(before)


@contextmanager
def held() -> Iterator[list[int]]:
    """A list of the signals that came, each of which acts only once the block is over.

    A block that finds one in the list should end soon. A second SIGINT does not wait. Signals that are ignored stay so,
    and outside the main thread, where Python handles none, nothing is held.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        if came.count(signal.SIGINT) > 1:
            _restore(before)
            signal.raise_signal(number)

    before = _handle(note)
    try:
        yield came
    finally:
        waited = came[:1] if before else []
        _restore(before)
        for number in waited:
            signal.raise_signal(number)


def _handle(handler: Callable[[int, object], None]) -> dict[int, Any]:
    """Let a function handle the signals that are not ignored; those that handled them before."""
    before: dict[int, Any] = {}
    try:
        for number in ENDINGS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        pass
    return before


def _restore(before: dict[int, Any]) -> None:
    while before:
        signal.signal(*before.popitem())
