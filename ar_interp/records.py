"""`claims.json` beside a checkpoint: its claims as they were measured, bound to the weights that they are about.

It is untrusted like every file of a checkpoint: it is what whoever made the folder says of it.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ar_interp._files import check_versions, name_of, read_text
from ar_interp._shown import Shown
from ar_interp._writing import write_file
from ar_interp.checkpoints import CLAIMS as FILE
from ar_interp.checkpoints import Checkpoint, TrainingRun, is_shipped
from ar_interp.claims import Claim, Claims
from ar_interp.claims.collected import claims_json
from ar_interp.claims.rows import KEYS, MAX_BYTES, check, parsed


@dataclass(frozen=True, kw_only=True)
class Record(Shown):
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
    raw = parsed(read_text(path, MAX_BYTES), where, needed=KEYS - {"rows"})  # which landscapes have
    check(raw["weights"] == fingerprint(checkpoint), where, "it is about other weights; verify the checkpoint again")
    check(raw["seed"] is not None, where, "seed must be a whole number, got None")
    versions, lists = check_versions(raw["versions"], where), raw["checkpoints"]
    check(len(lists) == 1, where, "checkpoints must hold one list of claims")
    rows = tuple(next(iter(lists.values())))
    for row in rows:
        Claim.from_dict(row, where)
    return Record(rows=rows, seed=raw["seed"], versions=versions, shipped=is_shipped(checkpoint))
