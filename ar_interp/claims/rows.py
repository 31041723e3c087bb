"""The JSON of claims: the fields of a row, and what is checked of rows and files from anybody."""

from collections.abc import Collection
from math import inf, isfinite
from typing import Any

from ar_interp._checks import check_seed
from ar_interp._files import CheckpointError, check_keys, check_text, faults_of, parse

SCHEMA = 1
MAX_BYTES = 2**22  # of a file of claims
LONGEST_STATEMENT = 1000
KEYS = {"schema", "seed", "versions", "weights", "rows", "checkpoints"}
NEEDED = {"schema", "seed", "checkpoints"}
NUMBERS = ("predicted", "measured", "uncertainty", "n", "tolerance")
TEXTS = ("name", "evidence", "statement", "source", "side", "reason", "verdict", "limit")
ROW = {*NUMBERS, *TEXTS, "interval", "spread", "control"}
CONTROL = {"description", "measured", "interval"}
NOT_FINITE = ("nan", "inf", "-inf")


def parsed(text: str, where: str, *, needed: Collection[str] = NEEDED) -> dict[str, Any]:
    """The content of a file of claims, checked down to the lists of rows, which `checkpoints` has by name.

    Args:
        where: what messages call the file.
        needed: the keys that it must have.
    Raises:
        CheckpointError: it is no such file.
    """
    raw = parse(text, where)
    check_keys(raw, KEYS, set(needed), where)
    schema, lists = raw["schema"], raw["checkpoints"]
    check(type(schema) is int and schema == SCHEMA, where, f"schema must be {SCHEMA}, got {schema!r}")
    known = isinstance(lists, dict) and bool(lists) and all(isinstance(found, list) for found in lists.values())
    check(known, where, "checkpoints must map names to lists of claims")
    if raw["seed"] is not None:
        with faults_of(where):
            check_seed(raw["seed"])
    return raw


def check_row(row: Any, where: str) -> None:
    """Refuse a row whose fields are not those of a claim."""
    check_keys(row, ROW, ROW, where)
    control, spread = row["control"], row["spread"]
    check_keys(control, CONTROL, CONTROL, where)
    known = isinstance(spread, dict) and all(map(_is_number, spread.values()))
    check(known, where, "spread must map names to numbers")
    with faults_of(where):
        for name, text in {**{key: row[key] for key in TEXTS}, "description": control["description"]}.items():
            check_text(f"{name} of a claim", text, longest=LONGEST_STATEMENT)
        for name in spread:
            check_text("spread of a claim", name)
    for key in NUMBERS:
        check(_is_number(row[key]), where, f"{key} of a claim must be a number, got {row[key]!r}")
    for holder in (row, control):
        check(_is_interval(holder["interval"]), where, "interval of a claim must be two numbers")
    check(_is_number(control["measured"]), where, "measured of a control must be a number")


def check(true: bool, where: str, fault: str) -> None:
    """Refuse a file with this fault unless something is true."""
    if not true:
        raise CheckpointError(f"{where}: {fault}.")


def finite(value: Any) -> Any:
    """Numbers that JSON cannot hold, as text."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < inf:
        return str(value)
    return value


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return (type(value) in (int, float) and isfinite(value)) or (isinstance(value, str) and value in NOT_FINITE)
