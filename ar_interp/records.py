"""`claims.json` beside a checkpoint: its claims as they were measured, bound to the weights that they are about.

It is untrusted like every file of a checkpoint: it is what whoever made the folder says of it.
"""

from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from ar_interp._checks import check_integer
from ar_interp._files import (
    CheckpointError,
    check_keys,
    check_text,
    check_versions,
    faults_of,
    name_of,
    parse,
    read_text,
)
from ar_interp._writing import write_file
from ar_interp.checkpoints import CLAIMS as FILE
from ar_interp.checkpoints import Checkpoint, TrainingRun, is_shipped
from ar_interp.claims import Claims
from ar_interp.claims.core import SCHEMA, VERDICTS, claims_json

MAX_BYTES = 2**22
NUMBERS = ("predicted", "measured", "uncertainty", "n", "tolerance")
TEXTS = ("name", "evidence", "statement", "source", "side", "reason", "verdict", "limit")
ROW = {*NUMBERS, *TEXTS, "interval", "spread", "control"}
LONGEST_STATEMENT = 1000
NOT_FINITE = ("nan", "inf", "-inf")


@dataclass(frozen=True, kw_only=True)
class Record:
    """The claims of a folder as its maker measured them.

    Attributes:
        rows: the claims, see `Claim.to_dict`, in reading order.
        seed: that the contexts were drawn with.
        versions: of the libraries, by name.
        shipped: the folder is one of ours.
    """

    rows: tuple[dict[str, Any], ...]
    seed: int
    versions: dict[str, str]
    shipped: bool


def fingerprint(run: TrainingRun) -> str:
    """SHA-256 of the weights: names, dtypes, shapes and bytes, in the order of the names."""
    digest = sha256()
    for name in sorted(run.parameters):
        tensor = run.parameters[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write(run: TrainingRun, claims: Claims, folder: str | Path) -> Path:
    """Write the claims about a run into its checkpoint folder."""
    path = Path(folder).absolute() / FILE
    return write_file(path, claims_json({path.parent.name: claims}, seed=claims.seed, weights=fingerprint(run)))


def read(checkpoint: Checkpoint) -> Record | None:
    """The record in the folder of a checkpoint, or None where there is none.

    Raises:
        CheckpointError: it is not such a file, or about other weights.
    """
    path = checkpoint.path / FILE
    if not path.exists():
        return None
    where = name_of(path)
    raw = parse(read_text(path, MAX_BYTES), where)
    keys = {"schema", "seed", "versions", "weights", "checkpoints"}
    check_keys(raw, keys, keys, where)
    _check(
        type(raw["schema"]) is int and raw["schema"] == SCHEMA, where, f"schema must be {SCHEMA}, got {raw['schema']!r}"
    )
    _check(raw["weights"] == fingerprint(checkpoint), where, "it is about other weights; verify the checkpoint again")
    with faults_of(where):
        check_integer("seed", raw["seed"], low=0)
    versions, lists = check_versions(raw["versions"], where), raw["checkpoints"]
    one = isinstance(lists, dict) and len(lists) == 1 and isinstance(next(iter(lists.values())), list)
    _check(one, where, "checkpoints must hold one list of claims")
    rows = tuple(next(iter(lists.values())))
    for row in rows:
        _check_row(row, where)
    return Record(rows=rows, seed=raw["seed"], versions=versions, shipped=is_shipped(checkpoint))


def _check_row(row: Any, where: str) -> None:
    check_keys(row, ROW, ROW, where)
    control, spread = row["control"], row["spread"]
    check_keys(control, {"description", "measured", "interval"}, {"description", "measured", "interval"}, where)
    _check(
        isinstance(spread, dict) and all(map(_is_number, spread.values())), where, "spread must map names to numbers"
    )
    with faults_of(where):
        for name, text in {**{key: row[key] for key in TEXTS}, "description": control["description"]}.items():
            check_text(f"{name} of a claim", text, longest=LONGEST_STATEMENT)
        for name in spread:
            check_text("spread of a claim", name)
    for key in NUMBERS:
        _check(_is_number(row[key]), where, f"{key} of a claim must be a number, got {row[key]!r}")
    _check(row["verdict"] in VERDICTS, where, f"verdict must be one of {', '.join(VERDICTS)}, got {row['verdict']!r}")
    for holder in (row, control):
        _check(_is_interval(holder["interval"]), where, "interval of a claim must be two numbers")
    _check(_is_number(control["measured"]), where, "measured of a control must be a number")


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return (type(value) in (int, float) and isfinite(value)) or (isinstance(value, str) and value in NOT_FINITE)


def _check(true: bool, where: str, fault: str) -> None:
    if not true:
        raise CheckpointError(f"{where}: {fault}.")
