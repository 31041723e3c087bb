"""SIGINT and SIGTERM that wait until what is at hand is done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WAITING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[list[int]]:
    """A list of the signals that came, each of which acts only once the block is over.

    A block that finds one in the list should end soon. A second SIGINT does not wait. Signals that are ignored stay so,
    and outside the main thread, where Python handles none, nothing is held.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, frame: object) -> None:
        came.append(number)
        if came.count(signal.SIGINT) > 1:
            restore()
            signal.raise_signal(number)

    try:
        for number in WAITING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread
        pass
    try:
        yield came
    finally:
        waited = came[:1] if before else []
        restore()
        for number in waited:
            signal.raise_signal(number)
