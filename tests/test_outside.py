"""A package of somebody else's (tests/outside/) adds a process, an attention type and a study; no file of ours changes.

As far as Python can tell it is installed: its folder, with an entry point, is on the path. Whoever has it runs in a
process of their own, so that its kinds are unknown to the rest of the suite; few processes, as each imports torch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ar_interp import cli

HERE = Path(__file__).parent
OUTSIDE = HERE / "outside"
ROOT = HERE.parent


def run(*arguments: object, **environment: str) -> str:
    """What Python prints, output and errors, with their package on its path."""
    path = os.pathsep.join([str(ROOT), str(OUTSIDE)])
    env = {**os.environ, **environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WALK = """
import json, os, shutil, sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from streamlit.testing.v1 import AppTest
import ar_interp as ari
from ar_interp.cli import main

output, app = map(Path, sys.argv[2:])
assert main(["train", "rectified", "--output", sys.argv[1], "--quiet"]) == 0
folder = shutil.copytree(Path(sys.argv[1]) / "rectified", output / "rectified")
checkpoint = ari.load(folder)
contexts = checkpoint.process.contexts(4, 6, seed=0)
cache = checkpoint.model.run_with_cache(contexts.inputs)[1]
scores, pattern = (cache[f"blocks.0.attn.hook_{name}"] for name in ("attn_scores", "pattern"))
loaded = {
    "process": f"{type(checkpoint.process).__module__}.{type(checkpoint.process).__name__}",
    "attention": checkpoint.config.attention,
    "linear": checkpoint.config.linear,
    "negative scores": bool((scores < 0).any()),
    "largest weight of a negative score": pattern[scores < 0].abs().max().item(),
    "largest residual": (contexts.pairs().y - contexts.pairs().x @ contexts.W.mT).abs().max().item(),
}

with redirect_stdout(StringIO()) as listed:
    assert main(["list"]) == 0
with redirect_stdout(StringIO()) as verified:
    assert main(["verify", str(folder), "--json", str(output / "claims.json")]) == 0
assert main(["report", str(folder), "-o", str(output / "report.html")]) == 0

os.environ["AR_INTERP_ALLOW"] = str(folder.parent)
at = AppTest.from_file(app, default_timeout=120)
at.query_params["checkpoint"] = str(folder)
at.switch_page("pages/others.py").run()
shown = {"exceptions": [e.message for e in at.exception], "specs": [e.proto.json for e in at.get("bidi_component")]}
sections = {"loaded": loaded, "listed": listed.getvalue(), "verified": verified.getvalue(), "shown": shown}
(output / "walk.json").write_text(json.dumps(sections))
"""


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """What somebody finds who trains, loads, lists, verifies, reports and explores their recipe, whatever the locale.

    And the folder of the files, `output`.
    """
    pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")
    output = tmp_path_factory.mktemp("walk")
    run("-c", WALK, output / "ŵ", output, ROOT / "apps" / "explorer.py", **ASCII_ONLY)
    return {**json.loads((output / "walk.json").read_text()), "output": output}


@pytest.fixture(scope="module")
def folder(walk):
    """Their recipe, trained by our command."""
    return walk["output"] / "ŵ" / "rectified"


def test_their_recipe_is_trained(folder):
    config = json.loads((folder / "config.json").read_text())
    assert (config["process"]["kind"], config["process"]["rate"]) == ("shrinking", 0.9)
    assert config["model"]["attention"] == "rectified"
    card = (folder / "README.md").read_text("utf-8")
    assert "Rectified heads leave half of their keys out" in card
    assert not card.isascii()


def test_their_recipe_is_listed(walk):
    assert "rectified" in walk["listed"]


def test_what_was_saved_is_loaded_as_it_was(walk):
    loaded = walk["loaded"]
    assert (loaded["process"], loaded["attention"]) == ("theirs.process.Shrinking", "rectified")
    assert not loaded["linear"]
    assert loaded["negative scores"]
    assert loaded["largest weight of a negative score"] == 0
    assert loaded["largest residual"] < 1e-6


def test_their_claim_is_verified(walk):
    assert "holds      Rectified heads leave half" in walk["verified"]
    assert "keys/silent" in (walk["output"] / "claims.json").read_text()


def test_their_figure_is_in_the_report(walk):
    page = (walk["output"] / "report.html").read_text()
    assert "of their keys out" in page
    assert "A bar per head. Look whether they are near one half." in page
    assert "W is a multiple of a Haar-distributed matrix" in page


def test_their_figure_is_on_a_page_of_the_explorer(walk):
    assert walk["shown"]["exceptions"] == []
    assert any("of their keys out" in spec for spec in walk["shown"]["specs"])


def test_without_the_package_its_kinds_are_refused_by_name(folder, capsys, without_type_checks):
    assert cli.main(["verify", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "attention must be one of 'linear'" in said
    assert "got 'rectified'" in said
