"""The shipped checkpoints by name, and what the studies say of them: for those who wait for nothing heavy."""

from pathlib import Path

LISTING = Path(__file__).with_name("listing.json")  # `recipes.listing()` of our own studies, kept equal by a test


def trained_folder() -> Path:
    """Where the shipped checkpoints lie: inside an installed package, beside it in a clone."""
    package = Path(__file__).parent
    inside = package / "trained"
    return inside if inside.is_dir() else package.parent / "trained"


def available() -> list[str]:
    """Names of the shipped checkpoints."""
    folder = trained_folder()
    return sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file()) if folder.is_dir() else []
