"""What `import ar_interp` promises: quick, lazy, complete, and floors that hold."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import ar_interp

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformer_lens", "plotly", "sklearn", "streamlit")


def loaded_by(*statements: str) -> list[set[str]]:
    """Which of HEAVY a fresh Python has loaded after each of the statements."""
    shown = f"\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))\n"
    code = "".join(statement + shown for statement in statements)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in result.stdout.splitlines()[-len(statements) :]]


def test_the_bare_import_loads_nothing_heavy():
    assert loaded_by("import ar_interp") == [set()]


def test_what_needs_no_model_waits_for_transformer_lens_which_a_model_loads():
    uses = """
import ar_interp as ari
ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8)
ari.CommutingUnitary(4).sample(2, 3, seed=0)
ari.TrainConfig(steps=3)
ari.theory.unitary_minimum(dim=4, n_heads=2)
ari.estimators.OLS()
ari.recipes.RECIPES
ari.available()
ari.load("diagonal-unitary-h5").history
ari.train
"""
    without, with_model = loaded_by(uses, "ari.HookedARTransformer")
    assert without == {"torch"}
    assert "transformer_lens" in with_model


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["verify", "--help"]])
def test_what_only_speaks_of_checkpoints_loads_nothing_heavy(arguments):
    code = f"from ar_interp.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\nprint()"
    assert loaded_by(code) == [set()]


@pytest.mark.parametrize("name", ar_interp.__all__)
def test_every_public_name_resolves(name):
    assert getattr(ar_interp, name) is not None
    assert name in dir(ar_interp)


def test_names_are_the_ones_of_their_modules():
    from ar_interp.models.transformer import HookedARTransformer
    from ar_interp.training.loop import train

    assert ar_interp.HookedARTransformer is HookedARTransformer
    assert ar_interp.train is train


def test_star_import_gives_every_public_name():
    names: dict[str, object] = {}
    exec("from ar_interp import *", names)
    assert set(ar_interp.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ar_interp' has no attribute 'HaarUnitary'"):
        _ = ar_interp.HaarUnitary


def test_the_floors_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_source_archive_carries_every_file_of_the_repository(tmp_path):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a clone")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert there <= names
