"""Signals end the command in one line at any time, or wait for the end of a block."""

import signal
import subprocess
import sys
import threading

import pytest

from ar_interp._signals import held


class CameError(Exception):
    pass


@pytest.fixture
def handled():
    """SIGTERM raises, as in the command."""

    def act(*_):
        raise CameError

    before = signal.signal(signal.SIGTERM, act)
    yield act
    signal.signal(signal.SIGTERM, before)


def raise_in_turn(numbers, done):
    with held() as came:
        for number in numbers:
            signal.raise_signal(number)
            done.append(list(came))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, CameError)])
def test_a_signal_acts_once_the_block_is_over(handled, number, error):
    done = []
    with pytest.raises(error):
        raise_in_turn([number, signal.SIGTERM], done)
    assert done == [[number], [number, signal.SIGTERM]]
    assert signal.getsignal(signal.SIGTERM) is handled
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait(handled):
    done = []
    with pytest.raises(KeyboardInterrupt):
        raise_in_turn([signal.SIGINT] * 2, done)
    assert done == [[signal.SIGINT]]
    assert signal.getsignal(signal.SIGTERM) is handled


def test_what_is_ignored_and_what_other_threads_do_is_left_alone(handled):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held() as came:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not came
    found = []

    def elsewhere():
        with held():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [handled]


WHILE_IMPORTING = """
import signal, sys

module, number = sys.argv[1], int(sys.argv[2])

class Finder:
    def find_spec(self, name, *_):
        if name == module:
            signal.raise_signal(number)

sys.meta_path.insert(0, Finder())
from ar_interp.__main__ import main
sys.argv[1:] = ["verify", "positional-mu50"]
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "number", "code", "said"),
    [
        ("ar_interp.cli", signal.SIGINT, 130, "interrupted"),
        ("tyro", signal.SIGTERM, 143, "terminated"),
        ("torch", signal.SIGINT, 130, "interrupted"),
    ],
)
def test_the_command_ends_in_one_line_while_it_imports(module, number, code, said):
    command = [sys.executable, "-c", WHILE_IMPORTING, module, str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, f"ar-interp: {said}.\n")
