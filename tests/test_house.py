"""The house: who may decide what, and how things are said."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation

import ar_interp as ari
from ar_interp.claims import Estimate

PACKAGE = Path(ari.__file__).parent
ROOT = PACKAGE.parent
FILES = [*PACKAGE.rglob("*.py"), *(ROOT / "apps").rglob("*.py")]


def lines_with(pattern: str) -> dict[str, list[str]]:
    """The lines of package and apps in which the pattern is found, by file."""
    found = {
        str(file.relative_to(ROOT)): [line for line in file.read_text("utf-8").splitlines() if re.search(pattern, line)]
        for file in FILES
    }
    return {file: lines for file, lines in found.items() if lines}


def test_nobody_above_the_setting_decides_which_theory_applies():
    """Code outside processes, models and setting asks it: no tests of a process's type or of the kind of heads."""
    decides = (
        r"isinstance\([^()]*[pP]rocess|isinstance\([^()]*, \(?(Commuting|HaarOrthogonal)"
        r"|\.heads (==|!=|in|not in) |type\([^()]*process\) (is|in)"
    )
    below = tuple(f"ar_interp/{name}/" for name in ("processes", "models", "setting"))
    found = {file: lines for file, lines in lines_with(decides).items() if not file.startswith(below)}
    assert set(found) == {"ar_interp/training/batched.py"}, found  # which says how each architecture is computed


def test_nobody_above_the_processes_cuts_sequences_into_inputs_and_targets():
    found = lines_with(r"tokens\[:, (:-1|1:)\]|(sample|contexts)\([^()]*n_ctx \+ 1")
    ours = {"processes/contexts.py", "processes/chains.py", "estimators/least_squares.py"}
    cheats = {"sabotage/trained.py", "sabotage/deceptions.py"}  # which put other targets in their place
    assert set(found) == {f"ar_interp/{file}" for file in ours | cheats}, found


def test_blocks_of_tokens_are_told_by_name():
    """QK_blocks and OV_blocks hold the read-out, s_t and s_{t-1}: READ_OUT, CURRENT and PREVIOUS, not 0, 1 and 2."""
    found = lines_with(r"(QK|OV)(_blocks)?\[[^\]]*(?<![+*] )\b[12]:?[,\]]|(QK|OV)_blocks\[.*, 0\]")
    assert set(found) == {"ar_interp/models/attention.py"}, found  # where it is said which they are


def test_no_test_imports_another():
    for file in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(part.startswith("test_") for name in names for part in name.split(".")), file.name


# ---- words


REFERS = re.compile(r"(Of|What|As|So|That|It|Its|Those|And|Also)\b")  # to what stands elsewhere, or leaves the noun out


def documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of everything public below a node."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.ClassDef | ast.FunctionDef) and not part.name.startswith("_"):
            yield f"{name}.{part.name}", ast.get_docstring(part) or ""
            yield from documented(part, f"{name}.{part.name}")


def test_docstrings_begin_with_what_the_thing_is():
    modules = [(file.stem, ast.parse(file.read_text("utf-8"))) for file in FILES]
    found = [(name, ast.get_docstring(module) or "") for name, module in modules]
    found += [item for name, module in modules for item in documented(module, name)]
    assert not [f"{name}: {text}" for name, text in found if REFERS.match(text)]


def test_statements_can_be_read_alone():
    records = [json.loads(file.read_text("utf-8")) for file in (ROOT / "trained").glob("*/claims.json")]
    rows = [row for record in records for rows in record["checkpoints"].values() for row in rows]
    assert rows
    assert not [row["statement"] for row in rows if REFERS.match(row["statement"])]


# ---- types


def test_the_suite_asks_for_types_and_for_axes_that_agree():
    A, P = torch.zeros(2, 3), torch.zeros(4, 4)
    with pytest.raises(BeartypeCallHintParamViolation, match="parameter B="):
        ari.theory.head_removal_cost(A, A[:, :2], P, family="unitary")
    with pytest.raises(BeartypeCallHintParamViolation, match="parameter family=1"):
        ari.theory.head_removal_cost(A, A, P, family=1)
    with pytest.raises(BeartypeCallHintParamViolation, match="parameter description=1"):
        ari.Control(description=1, estimate=Estimate(2.0))
    control = ari.Control(description="zero", estimate=Estimate(2.0))
    object.__setattr__(control, "estimate", SimpleNamespace(value="two"))
    with pytest.raises(BeartypeCallHintReturnViolation, match=r"Control\.measured"):
        _ = control.measured
