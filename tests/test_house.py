"""The house: who may decide what, and what it costs to add a kind of one's own."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation

import ar_interp as ari
from ar_interp.claims import Estimate

PACKAGE = Path(ari.__file__).parent


def test_nobody_above_the_setting_decides_which_theory_applies():
    """Code outside processes, models and setting asks it: no tests of a process's type or of the kind of heads."""
    decides = re.compile(
        r"isinstance\([^()]*[pP]rocess|isinstance\([^()]*, \(?(Commuting|HaarOrthogonal)"
        r"|\.heads (==|!=|in|not in) |type\([^()]*process\) (is|in)"
    )
    below = {"processes", "models", "setting"}
    fast = {PACKAGE / "training" / name for name in ("batched.py", "linear_stack.py")}  # say which architectures
    files = [file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] not in below]
    files = [file for file in files if file not in fast]
    files += (PACKAGE.parent / "apps").rglob("*.py")
    found = [
        f"{file.name}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if decides.search(line)
    ]
    assert not found, "\n".join(found)


def test_nobody_above_the_processes_cuts_sequences_into_inputs_and_targets():
    cuts = re.compile(r"tokens\[:, (:-1|1:)\]|(sample|contexts)\([^()]*n_ctx \+ 1")
    here = {PACKAGE / "processes" / name for name in ("contexts.py", "chains.py")} | {
        PACKAGE / "estimators" / "least_squares.py"
    }
    here |= {PACKAGE / "training" / "linear_stack.py"}  # tokens without a process
    here |= {PACKAGE / "sabotage" / name for name in ("trained.py", "deceptions.py")}
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "apps").rglob("*.py")]
    found = [
        f"{file.name}:{number}: {line.strip()}"
        for file in files
        if file not in here
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if cuts.search(line)
    ]
    assert not found, "\n".join(found)


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
