"""The README's Python runs as it stands; what README and docs name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FOLDERS = sorted({folder.name for place in (ROOT, ROOT / "ar_interp") for folder in place.iterdir() if folder.is_dir()})
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
pytestmark = pytest.mark.usefixtures("few_contexts", "known_function")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_runs(block, capsys):
    exec(block, {})
    assert "print" not in block or capsys.readouterr().out


def test_the_first_example_is_fifteen_lines_of_code():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda page: page.name,
)
def test_files_and_commands_exist(page):
    text = page.read_text("utf-8")
    for named in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.{{}},]*)`", text):
        before, several, after = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", named).groups()
        for path in (before + one + after for one in (several or "").split(",")):
            assert (ROOT / path).exists() or (ROOT / "ar_interp" / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ +)make (\w+)", text, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).is_file(), link
