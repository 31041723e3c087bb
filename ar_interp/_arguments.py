"""The arguments of the command line: which command they ask for, or in one line what is wrong with them."""

import re
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from io import StringIO

import tyro

from ar_interp._files import LONGEST_MESSAGE, shortened

KINDS = {"int": "an integer", "float": "a number", "yyyy-mm-dd": "a date, year-month-day"}
_UNREADABLE = re.compile(
    rf"Error parsing (--[\w-]+): .*?({'|'.join(KINDS)})(?:eger)?\b.*?(?:[\[ ]((['\"]).*\4)\]?|has (\d+ digits).*)", re.I
)


def parsed(commands: dict[str, Callable[..., int]], argv: list[str] | None) -> Callable[[], int]:
    """The command that the arguments ask for.

    Raises:
        ValueError: they ask for none.
    """

    def unready(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
        return wraps(command)(lambda *given, **options: partial(command, *given, **options))

    said = StringIO()
    try:
        with redirect_stderr(said):
            later = {name: unready(command) for name, command in commands.items()}
            return tyro.extras.subcommand_cli_from_dict(later, prog="ar-interp", args=argv)
    except SystemExit as end:
        if not end.code:  # help was asked for
            raise
        raise ValueError(_line_of(said.getvalue())) from None


def _line_of(box: str) -> str:
    """The fault in a box of tyro's, the options that it offers instead, and where help is, in one line."""
    lines = [line.strip("│ ") for line in box.splitlines() if line[:1] not in "╭╰"]
    parts = [part.strip().split("\n") for part in re.split(r"^[─-]+$", "\n".join(lines), flags=re.MULTILINE)]
    _, fault, *others = parts if "╭" not in box else [[], *parts]
    if not others:
        return " ".join(box.split())
    fault = fault[: fault.index("")] if "" in fault else fault  # what tyro tried comes after it
    told = [_plainly(" ".join(fault).rstrip(".")) + "."]
    for first, *rest in others:
        offered = dict.fromkeys(line.split()[0].rstrip(",") for line in rest if line.startswith("--"))
        if first.startswith("Perhaps"):
            told.append(f"Did you mean {' or '.join(offered)}?")
        elif not first.startswith("Argument"):
            told.append(f"{' '.join([first, *rest])}.")
    return " ".join(told)


def _plainly(fault: str) -> str:
    """The fault in at most 300 letters, in plain words where a number or a date was asked for."""
    found = _UNREADABLE.fullmatch(fault)
    if found:
        option, kind, value, _, digits = found.groups()
        fault = f"{option} must be {KINDS[kind.lower()]}, got {value or digits}"
    return shortened(fault, LONGEST_MESSAGE)
