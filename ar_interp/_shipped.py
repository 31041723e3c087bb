"""The shipped checkpoints by name, and what the studies say of them: for those who wait for nothing heavy."""

import difflib
import os
import warnings
from pathlib import Path

from ar_interp._files import CheckpointError

LISTING = Path(__file__).with_name("listing.json")  # `recipes.listing()` of our own studies, kept equal by a test
MAX_NAME = 255


def trained_folder() -> Path:
    """The folder of the shipped checkpoints."""
    return _folder("trained")


def landscapes_folder() -> Path:
    """The folder of the shipped landscapes."""
    return _folder("landscapes")


def _folder(name: str) -> Path:
    """Inside an installed package, beside it in a clone."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def available() -> list[str]:
    """Names of the shipped checkpoints."""
    folder = trained_folder()
    return sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file()) if folder.is_dir() else []


def find(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint: a shipped one by its name, or any that is there.

    Raises:
        CheckpointError: there is none; the message says which name is nearest.
    """
    name, path, names = str(name_or_path), Path(name_or_path), available()
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise CheckpointError(f"no checkpoint {name!r}: {error.strerror}.") from error
    if name in names:
        shipped = trained_folder() / name
        if is_folder and path.resolve() != shipped.resolve():
            warnings.warn(
                f"{name!r} is the shipped checkpoint of that name; for the folder here write '.{os.sep}{name}'.",
                stacklevel=3,
            )
        return shipped
    if is_folder:
        return path
    nearest = difflib.get_close_matches(name[:MAX_NAME], names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise CheckpointError(
        f"no checkpoint {name!r}: neither a shipped name nor a folder.{hint} `ar-interp list` shows those shipped."
    )
