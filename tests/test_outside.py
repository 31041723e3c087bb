"""A package of somebody else's (tests/outside/) adds a process, an attention type and a study; no file of ours changes.

As far as Python can tell it is installed: its folder, with an entry point, is on the path. Everything runs in processes
of their own, so that its kinds are unknown to the rest of the suite.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OUTSIDE = HERE / "outside"
ROOT = HERE.parent


def run(*arguments: object, path: Path | None = OUTSIDE, fails: bool = False) -> str:
    """What Python prints, output and errors, with a folder of packages on its path."""
    places = [str(ROOT), *([] if path is None else [str(path)])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    return result.stdout + result.stderr


def command(*arguments: object, **options: object) -> str:
    return run("-c", "import sys; from ar_interp.cli import main; sys.exit(main())", *arguments, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Their recipe, trained by our command."""
    output = tmp_path_factory.mktemp("theirs")
    command("train", "rectified", "--output", output, "--quiet")
    return output / "rectified"


def test_their_recipe_is_listed_and_trained(folder):
    assert "rectified" in command("list")
    config = json.loads((folder / "config.json").read_text())
    assert (config["process"]["kind"], config["process"]["rate"]) == ("shrinking", 0.9)
    assert config["model"]["attention"] == "rectified"
    assert "Rectified heads leave half of their keys out" in (folder / "README.md").read_text()


def test_what_was_saved_is_loaded_as_it_was(folder):
    code = f"""
import ar_interp as ari, torch
checkpoint = ari.load({str(folder)!r})
from theirs.process import Shrinking
assert type(checkpoint.process) is Shrinking and checkpoint.config.attention == "rectified"
assert not checkpoint.config.linear
contexts = checkpoint.process.contexts(4, 6, seed=0)
cache = checkpoint.model.run_with_cache(contexts.inputs)[1]
scores, pattern = (cache[f"blocks.0.attn.hook_{{name}}"] for name in ("attn_scores", "pattern"))
assert (scores < 0).any() and (pattern[scores < 0] == 0).all()
assert torch.allclose(contexts.pairs().y, contexts.pairs().x @ contexts.W.mT)
print("as it was")
"""
    assert "as it was" in run("-c", code)


def test_their_claim_is_verified(folder, tmp_path):
    said = command("verify", folder, "--json", tmp_path / "claims.json")
    assert "holds  Rectified heads leave half" in said
    assert "keys/silent" in (tmp_path / "claims.json").read_text()


def test_their_figure_is_in_the_report(folder, tmp_path):
    command("report", folder, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "of their keys out" in page
    assert "A bar per head. Look whether they are near one half." in page
    assert "W is a multiple of a Haar-distributed matrix" in page


def test_their_figure_is_on_a_page_of_the_explorer(folder):
    code = f"""
from streamlit.testing.v1 import AppTest
at = AppTest.from_file({str(ROOT / "apps" / "explorer.py")!r}, default_timeout=120)
at.query_params["checkpoint"] = {str(folder)!r}
at.switch_page("pages/heads.py").run()
assert not at.exception, at.exception
specs = [element.proto.spec for element in at.get("plotly_chart")]
assert any("of their keys out" in spec for spec in specs), specs
print("shown")
"""
    assert "shown" in run("-c", code)


def test_without_the_package_its_kinds_are_refused_by_name(folder):
    said = command("verify", folder, path=None, fails=True)
    assert "attention must be one of 'linear'" in said
    assert "got 'rectified'" in said


def test_a_package_that_cannot_be_imported_is_a_warning(tmp_path):
    shutil.copytree(OUTSIDE, tmp_path / "broken")
    (tmp_path / "broken" / "theirs" / "study.py").write_text("import no_such_module\n")
    said = command("list", path=tmp_path / "broken")
    assert "entry point 'rectified' of ar_interp.studies cannot be loaded" in said
    assert "diagonal-unitary-h5" in said
