"""The table of what probes need, against what they read: a model that has only this, and remembers what was used."""

import re
from dataclasses import asdict, replace
from functools import cache
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from cases import HAAR
from torch import nn
from zoo import ForeignDiagonal, GradientStep, augmented

import ar_interp as ari
from ar_interp.models.features import RegressionConfig
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.probes import protocol
from ar_interp.probes.ablations import ablate_heads, ablate_layers, ablate_positions
from ar_interp.probes.blocks import augmented_blocks
from ar_interp.probes.chain_edits import continue_chain
from ar_interp.probes.chains import attribute, chain_accuracy, read_sources
from ar_interp.probes.conforming import conformance
from ar_interp.probes.context import SCORES
from ar_interp.probes.function import function_deviation
from ar_interp.probes.jacobian import exact_circuit, full_jacobian, query_jacobian, value_jacobian
from ar_interp.probes.last_token import replace_last_token
from ar_interp.probes.noise import noisy_errors
from ar_interp.probes.paths import GRADIENT_STEP, path_contributions
from ar_interp.probes.protocol import NAMES, PROTOCOL, check, missing, needed
from ar_interp.probes.readout import probe_activations
from ar_interp.probes.readout_efficiency import data_efficiency
from ar_interp.probes.regression import excess_by_tasks, kernel_structure, risks_by_length, risks_by_order
from ar_interp.probes.scrubbing import scrub
from ar_interp.probes.steps import equivalent_steps_of
from ar_interp.processes import Parity
from ar_interp.theory import factor_heads, kappa_family, optimal_step_size

DIM, N_CTX = 4, 8
PAIRS = ari.CommutingOrthogonal(DIM)
PROMPTS = ari.NonparametricRegression(smoothness=1.0, n_functions=5)
PARITY = Parity(3, (2, 0), chain_of="joint")


class Only:
    """A model that has these names and no others, and remembers in `read` which of them were used."""

    def __init__(self, model, names, read=None, prefix=""):
        self._model, self._names, self._prefix = model, names, prefix
        self.read = set() if read is None else read
        self._by_hook = {hook: name for name in names if "hook_" in name for hook in self._either(name)}

    def __getattr__(self, name):
        path = self._prefix + name
        if path == "hook_dict":
            return {hook: self._model.hook_dict.get(hook) for hook in self._by_hook}
        if path in self._names:
            self.read.add(path)
            return {"run_with_cache": self._run_with_cache, "hooks": self._hooks}.get(path, getattr(self._model, name))
        if any(known.startswith(f"{path}.") for known in self._names):
            return Only(getattr(self._model, name), self._names, self.read, f"{path}.")
        raise AttributeError(f"{path} is not in the table")

    def __call__(self, tokens):
        return self.forward(tokens)

    def _run_with_cache(self, tokens, names_filter):
        return self._model.run_with_cache(tokens, names_filter=self._chosen(names_filter))

    def _hooks(self, fwd_hooks):
        chosen = [(name, hook) for names_filter, hook in fwd_hooks for name in self._chosen(names_filter)]
        return self._model.hooks(fwd_hooks=chosen)

    def _either(self, name):
        """The hook of that name, or with | between names those that the model has."""
        *parts, last = name.split(".")
        hooks = [".".join([*parts, hook]) for hook in last.split("|")]
        return [hook for hook in hooks if len(hooks) == 1 or hook in self._model.hook_dict]

    def _chosen(self, names_filter):
        if callable(names_filter):
            chosen = [name for name in self.hook_dict if names_filter(name)]
        else:
            chosen = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        assert set(chosen) <= set(self._by_hook), f"{chosen} are not all in the table"
        self.read.update(self._by_hook[name] for name in chosen)
        return chosen


@cache
def model_of(name):
    torch.manual_seed(0)
    solution = kappa_family(dim=DIM, kappa=1.0, n_ctx=N_CTX)
    sizes = {"dim": DIM, "n_ctx": N_CTX, "n_heads": 2}
    return {
        "diagonal": lambda: ForeignDiagonal(*factor_heads(solution.C, n_heads=2, seed=1), solution.P),
        "step": lambda: GradientStep(dim=DIM, step_size=optimal_step_size(dim=DIM, max_length=N_CTX)),
        "our diagonal": lambda: ari.HookedARTransformer(ari.ModelConfig.diagonal(**sizes), process=PAIRS),
        "our bare": lambda: ari.HookedARTransformer(ari.ModelConfig.full(**sizes)),
        "our plain": lambda: ari.HookedARTransformer(ari.ModelConfig.full(**sizes, n_layers=2)),
        "our residual": lambda: ari.HookedARTransformer(ari.ModelConfig.full(**sizes, residual=True)),
        "our linear": lambda: augmented(n_layers=2, scale_scores=True),
        "our softmax": lambda: augmented(n_layers=2, attention="softmax"),
        "our prompts": lambda: RegressionConfig(n_features=3, n_ctx=6, n_inputs=2, width=8).build(PROMPTS),
        "our chains": lambda: NextTokenConfig.of(PARITY).build(PARITY),
    }[name]()


DIAGONAL = ("diagonal", "our diagonal")
AUGMENTED = ("step", "our linear", "our softmax")
EIGENBASIS = (*DIAGONAL, "our bare")
GENERAL = (*AUGMENTED, "our plain")
FOLLOWED = (*EIGENBASIS, *AUGMENTED, "our residual")
ALL = (*EIGENBASIS, *GENERAL)


def sample(name, n, seed=0):
    return (PAIRS if name in EIGENBASIS else HAAR).sample(n, N_CTX + 1, seed=seed)


def inputs(name):
    return sample(name, 3).tokens[:, :-1]


def identify(model, name):
    process = PAIRS if name in EIGENBASIS else HAAR
    return ari.identify_algorithm(model, sample(name, 12), process=process, estimators={"OLS": ari.estimators.OLS()})


USES = {
    "circuits": (ALL, lambda model, name: ari.circuits(model, n_untrained=2)),
    "augmented_blocks": (("step", "our linear"), lambda model, name: augmented_blocks(model)),
    "head_orthogonality": (DIAGONAL, lambda model, name: ari.head_orthogonality(model)),
    "positional_structure": (DIAGONAL, lambda model, name: ari.positional_structure(model, process=PAIRS)),
    "recover_context": (FOLLOWED, lambda model, name: ari.recover_context(model, sample(name, 3))),
    "full_jacobian": ((*GENERAL, "our diagonal", "our bare"), lambda model, name: full_jacobian(model, inputs(name))),
    "replace_last_token": (ALL, lambda model, name: replace_last_token(model, sample(name, 3))),
    "query_jacobian": (AUGMENTED, lambda model, name: query_jacobian(model, inputs(name))),
    "value_jacobian": (("our plain",), lambda model, name: value_jacobian(model, inputs(name))),
    "exact_circuit": (("our linear",), lambda model, name: exact_circuit(model, inputs(name))),
    "identify_algorithm": ((*ALL, "our residual"), identify),
    "equivalent_steps_of": (
        ALL,
        lambda model, name: equivalent_steps_of(
            model, sample(name, 12), process=PAIRS if name in EIGENBASIS else HAAR, per_pair=False
        ),
    ),
    "swap_context": (FOLLOWED, lambda model, name: ari.swap_context(model, sample(name, 3), sample(name, 3, seed=1))),
    "ablate_heads": (GENERAL, lambda model, name: ablate_heads(model, sample(name, 3))),
    "ablate_layers": (GENERAL, lambda model, name: ablate_layers(model, sample(name, 3))),
    "ablate_positions": (GENERAL, lambda model, name: ablate_positions(model, sample(name, 3))),
    "path_contributions": (("step",), lambda model, name: path_contributions(model, sample(name, 3))),
    "scrub": (
        ("our diagonal", "step"),
        lambda model, name: scrub(model, sample(name, 9), [0] if name == "our diagonal" else [GRADIENT_STEP]),
    ),
    "probe_activations": (
        DIAGONAL,
        lambda model, name: probe_activations(
            model, sample(name, 60), hooks=SCORES, positions=[N_CTX], target="cos", untrained=model_of("our diagonal")
        ),
    ),
    "data_efficiency": (
        DIAGONAL,
        lambda model, name: data_efficiency(
            model, sample(name, 120), hook=SCORES, target="cos", untrained=model_of("our diagonal")
        ),
    ),
    "function_deviation": (ALL, lambda model, name: function_deviation(model, contexts=inputs(name), seed=1)),
    "outside_errors": (
        ALL,
        lambda model, name: ari.outside_errors(model, PAIRS if name in EIGENBASIS else HAAR, n_ctx=N_CTX, n=3),
    ),
    "noisy_errors": (
        ("our diagonal",),
        lambda model, name: noisy_errors(model, replace(PAIRS, process_noise=0.1), n_ctx=N_CTX, n=3),
    ),
    "kernel_structure": (("our prompts",), lambda model, name: kernel_structure(model, PROMPTS)),
    "risks_by_length": (("our prompts",), lambda model, name: risks_by_length(model, PROMPTS, lengths=[2], n=3)),
    "risks_by_order": (("our prompts",), lambda model, name: risks_by_order(model, PROMPTS, lengths=[2])),
    "excess_by_tasks": (
        ("our prompts",),
        lambda model, name: excess_by_tasks(model, PROMPTS, tasks=[12], repeats=2),
    ),
    "read_sources": (("our chains",), lambda model, name: read_sources(model, PARITY.contexts(8, seed=0))),
    "attribute": (("our chains",), lambda model, name: attribute(model, PARITY.contexts(8, seed=0))),
    "continue_chain": (
        ("our chains",),
        lambda model, name: continue_chain(model, PARITY.contexts(1, seed=0).tokens[0, :4], process=PARITY),
    ),
    "chain_accuracy": (("our chains",), lambda model, name: chain_accuracy(model, PARITY.contexts(8, seed=0))),
    "verify": (("diagonal",), lambda model, name: ari.verify(model, process=PAIRS, seed=0, n=32)),
}
COMPOSED = "which_layer"  # of other probes: a model that lacks what one of them needs lacks a column
READERS = ("probe_activations", "data_efficiency")
THE_CALLERS = {probe: {SCORES} for probe in READERS}  # and not in the table
DOORS = (
    "circuits", "augmented_blocks", "head_orthogonality", "positional_structure", "query_jacobian", "value_jacobian",
    "exact_circuit", "identify_algorithm", "recover_context", "swap_context", "path_contributions", "scrub",
)  # fmt: skip
every_use = pytest.mark.parametrize(
    ("probe", "name"), [(probe, name) for probe, (names, _) in USES.items() for name in names]
)


def names_of(probe, model):
    """What the table asks of a model of this kind that is not ours."""
    config = getattr(model, "config", None)
    if config is not None:
        names = ("encoding", "heads", "linear", "n_layers")
        config = SimpleNamespace(**{name: getattr(config, name, None) for name in names})
    return needed(SimpleNamespace(config=config, hook_dict=model.hook_dict), probe)


def of_any_layer(name):
    return re.sub(r"^blocks\.\d+", "blocks.{layer}", name)


def stripped_of(probe, name):
    """Models that lack one thing each; of a config and of the last layer something else is left."""
    model = model_of(name)
    names = names_of(probe, model)
    there = {f"blocks.{len(getattr(model, 'blocks', [0])) - 1}.hook_x"}
    if any(needed.startswith("config.") for needed in names):
        there.add("config.x")
    return [(lacking, Only(model, {*names, *there} - {lacking})) for lacking in names]


def numbers(result):
    if isinstance(result, pd.DataFrame):
        return result
    if isinstance(result, tuple):
        return pd.DataFrame(map(asdict, result))
    return pd.DataFrame(result.flatten()) if isinstance(result, torch.Tensor) else result.to_frame()


@cache
def use(probe, name):
    """What a probe finds in a model that has what the table lists alone, and what it read, without the check."""
    model = model_of(name)
    only = Only(model, {*names_of(probe, model)} | THE_CALLERS.get(probe, set()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "missing", lambda model, probe: ())
        result = USES[probe][1](only, name)
    return result, only.read


def test_every_probe_of_the_table_is_used_here():
    assert set(USES) == set(PROTOCOL) - {COMPOSED}


def test_the_table_has_every_public_probe():
    probes = {name for name, module in ari._MODULES.items() if module.startswith("ar_interp.probes.")}
    probes -= {"edit_losses", "structure_along"}  # of weights of this package's models, edited or along training
    probes -= {"descent_along", "sign_pattern", "stage_times"}  # of histories
    probes -= {"adapt", "conformance", "text_regularity"}  # which ask nothing of a model's inside
    assert len(probes) >= 6
    assert probes | {"verify"} <= set(PROTOCOL)


def test_all_names_are_needed_and_mean_something():
    used = {name for needs in PROTOCOL.values() for names in (needs.always, *needs.when.values()) for name in names}
    assert {of_any_layer(name) for name in used} == set(NAMES)


@every_use
def test_a_model_with_what_the_table_lists_and_nothing_else_will_do(probe, name):
    model = model_of(name)
    check(Only(model, names_of(probe, model)), probe)
    found, whole = numbers(use(probe, name)[0]), numbers(USES[probe][1](model, name))
    if probe == "function_deviation":  # which compares what there is
        whole = whole[whole["check"].isin(found["check"])].reset_index(drop=True)
    if probe == "outside_errors":  # only ours are lengthened
        whole = whole[whole["condition"].isin(found["condition"])]
    pd.testing.assert_frame_equal(found, whole, atol=1e-3 if probe == "function_deviation" else 1e-8)


@pytest.mark.parametrize("probe", USES)
def test_nothing_is_asked_for_that_is_not_read(probe):
    asked, read = {}, {}
    for name in USES[probe][0]:
        config = getattr(model_of(name), "config", None)
        kind = tuple(getattr(config, field, None) for field in ("encoding", "heads", "linear"))
        asked.setdefault(kind, set()).update(map(of_any_layer, names_of(probe, model_of(name))))
        found = use(probe, name)[1] - THE_CALLERS.get(probe, set())
        read.setdefault(kind, set()).update(map(of_any_layer, found))
    assert read == asked


@every_use
def test_each_thing_that_is_missing_is_named(probe, name):
    for lacking, stripped in stripped_of(probe, name):
        assert lacking in missing(stripped, probe)
        what = re.escape(f"{lacking} {NAMES[of_any_layer(lacking)]}")
        with pytest.raises(ValueError, match=f"type Only cannot be probed: it lacks .*{probe} needs .*{what}"):
            check(stripped, probe)


@pytest.mark.parametrize("probe", DOORS)
def test_the_probe_itself_refuses(probe):
    names, call = USES[probe]
    for name in names:
        for lacking, stripped in stripped_of(probe, name):
            with pytest.raises(ValueError, match=f"it lacks .*{re.escape(lacking)}.* {probe} needs"):
                call(stripped, name)


def test_what_to_do_is_said():
    model = SimpleNamespace(W_Q=torch.ones(1, 1, 2, 2), W_K=None, W_V=torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match="SimpleNamespace") as refusal:
        check(model, "circuits")
    assert str(refusal.value) == (
        "model of type SimpleNamespace cannot be probed: it lacks W_K, W_O. circuits needs W_K [layer head d_model "
        "d_head]; W_O [layer head d_head d_model]. Give it weights and config as attributes or properties, hooks as "
        "HookPoints of these names before it calls setup(), or use ari.adapt; ari.conformance(model) says what the "
        "other probes need."
    )


def test_hooks_are_asked_for_in_every_layer_of_the_config():
    config = SimpleNamespace(encoding="augmented", linear=False, n_layers=3)
    hooks = {f"blocks.{layer}.attn.hook_{x}": None for layer in range(3) for x in "kv"}
    model = SimpleNamespace(config=config, hook_dict=hooks)
    assert not any("hook_k" in name for name in missing(model, "swap_context"))
    del hooks["blocks.2.attn.hook_k"]
    assert [name for name in missing(model, "swap_context") if "hook_k" in name] == ["blocks.2.attn.hook_k"]
    del hooks["blocks.2.attn.hook_v"]  # by the config alone there is a third layer
    assert "blocks.2.attn.hook_v" in missing(model, "swap_context")


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("diagonal", {"head_orthogonality", "positional_structure"}),
        ("step", {"query_jacobian", "full_jacobian", "path_contributions", "augmented_blocks"}),
    ],
)
def test_conformance_is_a_row_per_probe(name, usable):
    frame = conformance(model_of(name))
    assert frame.columns.tolist() == ["probe", "usable", "call", "why_not"]
    assert frame["probe"].tolist() == list(PROTOCOL)
    by_any = {"circuits", "recover_context", "identify_algorithm", "swap_context", "verify"}
    by_any |= {"ablate_heads", "ablate_layers", "ablate_positions", "scrub"}
    by_any |= {
        "function_deviation",
        "outside_errors",
        "noisy_errors",
        "equivalent_steps_of",
        "replace_last_token",
        *READERS,
    }
    assert set(frame["probe"][frame["usable"]]) - {COMPOSED} == by_any | usable
    assert frame["usable"].eq(frame["why_not"] == "").all()


def test_conformance_says_what_is_missing():
    step, linear = (conformance(model).set_index("probe")["why_not"] for model in (model_of("step"), nn.Linear(2, 2)))
    assert step["head_orthogonality"] == "it lacks P"
    assert step["value_jacobian"] == (
        "value_jacobian is for plain tokens, and this model has augmented tokens, linear attention"
    )
    assert linear["probe_activations"] == "it lacks run_with_cache"
    assert linear["function_deviation"].startswith("the size of its tokens is not known: pass conformance(model, seq")


@pytest.mark.parametrize("name", ["our diagonal", "our linear"])
def test_every_claim_of_this_package_is_about_its_own_models(name):
    assert missing(model_of(name), "verify") == ()


def test_a_probe_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match=r"probe must be one of 'ablate_heads', .*, got 'heads'"):
        missing(nn.Identity(), "heads")


@pytest.mark.parametrize(("kind", "task"), [("our prompts", PROMPTS), ("our chains", PARITY)])
def test_probes_of_sequences_say_nothing_of_other_tasks(kind, task):
    found = conformance(model_of(kind)).set_index("probe")
    mine = ("kernel_structure", "risks_by_length") if kind == "our prompts" else ("attribute", "continue_chain")
    assert found.loc[[*mine, "verify"], "usable"].all()
    theirs = ("outside_errors", "noisy_errors", "replace_last_token", "probe_activations")
    assert not found.loc[[*theirs, "read_sources" if kind == "our prompts" else "kernel_structure"], "usable"].any()
    with pytest.raises(ValueError, match=f"for Sequences, and the task of this model, '{task.kind}', makes"):
        ari.outside_errors(model_of(kind), n=4)
    contexts = HAAR.contexts(3, 4, seed=0)
    with pytest.raises(ValueError, match="contexts must be Chains, got Sequences"):
        attribute(model_of("our chains"), contexts)
