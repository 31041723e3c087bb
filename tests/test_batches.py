"""How many contexts are worked on at a time changes memory and time, and no result."""

from importlib import import_module
from inspect import signature

import pytest
from everything import contexts_of, differences, model_of, outcome, probes

import ar_interp as ari
from ar_interp import probes as package
from ar_interp.probes.protocol import PROTOCOL

GIVEN = {"sequences", "source", "tokens"}
OF_ONE = ("continue_chain",)  # context
ROUNDING = 1e-12  # of the largest number of a result
N = 60
SLOW = ("identify_algorithm", "function_deviation", "circuits", "estimator", "run_with_cache")
MANY = 10**9


def test_every_probe_of_contexts_says_how_many_at_a_time():
    modules = [import_module(f"ar_interp.probes.{name}") for name in package.__all__]
    found = {name: getattr(module, name) for module in modules for name in PROTOCOL if hasattr(module, name)}
    asked = {name: set(signature(probe).parameters) for name, probe in found.items() if name != "verify"}
    of_contexts = {name: names for name, names in asked.items() if names & GIVEN and name not in OF_ONE}
    assert [name for name, names in of_contexts.items() if "batch_size" not in names] == []
    assert len(asked) > 20


@pytest.mark.parametrize("kind", ["diagonal, pairs", "stack"])
def test_results_are_those_of_all_at_once(kind):
    model, (a, b) = model_of(kind), [contexts[:N] for contexts in contexts_of(kind)]
    left_out = SLOW if kind == "stack" else SLOW[1:]
    whole, parts = (
        {
            name: outcome(call)
            for name, call in probes(model, a, b, batch_size=size).items()
            if not name.startswith(left_out)
        }
        for size in (MANY, 25)
    )
    apart = [line for name in whole for line in differences(parts[name], whole[name], ROUNDING, name, floor=ROUNDING)]
    assert apart == []


@pytest.mark.parametrize("size", [0, -1, "a", True, 2.5])
def test_a_wrong_number_is_refused(size):
    model, (a, b) = model_of("stack"), contexts_of("stack")
    with pytest.raises(ValueError, match="batch_size must be"):
        ari.swap_context(model, a, b, batch_size=size)
    with pytest.raises(ValueError, match="batch_size must be"):
        ari.which_layer(model, a, batch_size=size)


def test_a_wrong_number_of_edited_contexts_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ari.edit_losses(model_of("stack"), "step size", [1.0], n=4, batch_size=0)
