"""Input without an answer is refused at the door, by every probe in the same words; singular W is no such input."""

from copy import deepcopy
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from everything import MODELS, contexts_of, differences, model_of, outcome, plain, probes
from safetensors.torch import save_file

import ar_interp as ari
from ar_interp.probes.chains import attribute, chain_accuracy, read_sources

KINDS = ("diagonal", "augmented", "plain")
WITHOUT_DATA = {"head_orthogonality", "positional_structure", "augmented_blocks", "circuits", "structure_along"}
NO_PROBES = ("edit ", "estimator ", "run_with_cache", "outside_errors", *WITHOUT_DATA)
NORMAL = torch.randn(99, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SAMPLES = {kind: contexts_of(kind) for kind in KINDS}


def with_entry(sequences, value):
    tokens = sequences.tokens.clone()
    tokens[3, 2, 0] = value
    return replace(sequences, tokens=tokens)


def refused(kind, sequences):
    """What each probe that takes sequences says to them."""
    found = probes(model_of(kind), sequences, SAMPLES[kind][1])
    return {name: outcome(call) for name, call in found.items() if not name.startswith(NO_PROBES)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_entries_that_are_not_finite_are_named_by_sequence_and_position(kind, value):
    lacking = ("cannot be probed",)
    for name, said in refused(kind, with_entry(SAMPLES[kind][0], value)).items():
        assert isinstance(said, str), name
        assert "sequence 3, position 2, coordinate 0" in said or any(word in said for word in lacking), (name, said)


@pytest.mark.parametrize("kind", KINDS)
def test_no_sequences_and_no_context_are_refused_in_the_same_words(kind):
    sequences = SAMPLES[kind][0]
    for few, words in ((sequences[:0], ("at least", "must not be empty")), (shortened(sequences, 1), ("at least",))):
        for name, said in refused(kind, few).items():
            assert isinstance(said, str), name
            assert any(word in said for word in (*words, "must not be empty", "cannot be probed")), (name, said)


def shortened(sequences, n_tokens):
    return replace(sequences, tokens=sequences.tokens[:, :n_tokens])


@pytest.mark.parametrize("kind", ["diagonal", "augmented"])
@pytest.mark.parametrize(("n", "length"), [(1, 6), (2, 1)])
def test_few_and_short_contexts_are_answered_or_refused(kind, n, length):
    """Nothing but a `ValueError`; warnings are errors in the suite."""
    refused(kind, shortened(SAMPLES[kind][0][:n], length + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_singular_W_is_answered_or_refused(kind):
    sequences = SAMPLES[kind][0]
    W = sequences.W.clone()
    W[..., 0] = 0
    tokens = sequences.tokens.clone()
    for t in range(1, tokens.shape[1]):
        tokens[:, t] = torch.einsum("bij,bj->bi", W, tokens[:, t - 1])
    said = refused(kind, replace(sequences, tokens=tokens, W=W))
    assert not isinstance(said["recover_context"], str)


CHAINS, PROMPTS = (ari.load(name) for name in ("chain-parity-running", "regression-smooth"))


def with_nan(model):
    model = deepcopy(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    return model


@pytest.mark.parametrize("probe", [attribute, chain_accuracy, read_sources], ids=lambda probe: probe.__name__)
@pytest.mark.parametrize(
    ("model", "contexts", "message"),
    [
        (CHAINS, lambda chains: chains[:0], "at least 1 sequence"),
        (CHAINS, lambda chains: chains.tokens, "contexts must be Chains, got Tensor"),
        (CHAINS, lambda chains: PROMPTS.process.contexts(2, 4, seed=0), "contexts must be Chains, got Prompts"),
        (
            CHAINS,
            lambda chains: ari.load("chain-counting-q2").process.contexts(2, seed=0),
            "draw them from the process of the model",
        ),
        (PROMPTS, lambda chains: chains, "HookedRegression cannot be probed: it lacks"),
        (with_nan(CHAINS.model), lambda chains: chains, "HookedNextToken has NaN or infinite entries in W"),
    ],
)
def test_probes_of_chains_refuse_what_they_cannot_read(probe, model, contexts, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        probe(model, contexts(CHAINS.process.contexts(4, seed=0)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_ids_of_whatever_integers_are_the_same_ids(dtype, without_type_checks):
    chains = CHAINS.process.contexts(4, seed=0)
    found = chain_accuracy("chain-parity-running", replace(chains, tokens=chains.tokens.to(dtype)))
    assert not differences(plain(found), plain(chain_accuracy(CHAINS, chains)), 0)
    assert torch.equal(CHAINS.model(chains.inputs.to(dtype)), CHAINS.model(chains.inputs))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ari.recover_context("diagonal-unitary-h5", CHAINS.process.contexts(2, seed=0)), "got Chains"),
        (lambda: ari.descent_along("diagonal-unitary-h5"), "a record of a and b"),
        (lambda: ari.stage_times(CHAINS.model), "a record of a and b"),
        (lambda: ari.sign_pattern(CHAINS.model), "one layer with one head"),
        (lambda: ari.sign_pattern(with_nan(ari.load("emergence-gaussian").model)), "NaN or infinite entries"),
        (lambda: ari.text_regularity([torch.ones(99, 4)] * 2, dim=2), r"documents\[0\] has one vector at every place"),
        (lambda: ari.text_regularity([NORMAL, NORMAL[:, :3]], dim=2), r"vectors of \[3, 4\] numbers"),
        (lambda: ari.text_regularity([NORMAL, 1e200 * NORMAL], dim=2), r"documents\[1\] must have finite squares"),
        (lambda: ari.TextEmbedding((1, 2), NORMAL[:2]), "each of words must be"),
    ],
)
def test_the_neighbours_refuse_what_has_no_answer(call, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_model_can_be_asked_what_can_be_asked_of_it():
    assert ari.conformance(CHAINS).set_index("probe")["usable"]["verify"]


def exploded(kind, scale):
    model = model_of(kind)
    for weights in model.parameters():
        weights.data.mul_(scale)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_weights_that_overflow_are_refused_by_verify(kind):
    with pytest.raises(ValueError, match="overflows: its errors on sequences"):
        ari.verify(exploded(kind, 1e200), seed=0)


def test_weights_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match=r"NaN or infinite entries in blocks.0.attn.A, blocks.0.attn.B"):
        ari.head_orthogonality(exploded("diagonal", np.nan))


def test_weights_that_overflow_are_refused_at_load(tmp_path):
    run = ari.load("diagonal-unitary-h5")
    huge = {name: 1e70 * weights for name, weights in run.parameters.items()}
    folder = tmp_path / "huge"
    copytree(run.path, folder)
    save_file(huge, folder / "model.safetensors")
    with pytest.raises(ari.CheckpointError, match=r"model\.safetensors: the weights overflow: .* goes up to "):
        ari.load(folder)
    with pytest.raises(ValueError, match="the weights overflow"):
        replace(run, parameters=huge).save(tmp_path / "saved")


ABSURD = {
    "negative": -1, "broken": 2.5, "large": 10**23, "endless": 10**5000, "nan": float("nan"), "infinite": float("inf"),
    "empty": "", "word": "x", "tensor": torch.tensor(3), "numpy": np.float32(0.5), "object": object(),
}  # fmt: skip
FINE = {"seed": ("large", "endless"), "lr": ("broken", "large", "numpy")}


def with_numbers():
    """Functions by the argument that is to be absurd."""
    model, a = model_of("augmented"), SAMPLES["augmented"][0]
    hook = "blocks.0.hook_attn_out"
    return {
        "seed": lambda value: ari.ablate_heads(model, a, method="resample", seed=value),
        "process": lambda value: ari.ablate_heads(model, a, process=value),
        "layers": lambda value: ari.ablate_heads(model, a, layers=value),
        "estimators": lambda value: ari.identify_algorithm(model, a, estimators=value),
        "hypothesis": lambda value: ari.scrub(model, a, value),
        "positions": lambda value: ari.probe_activations(model, a, hooks=[hook], positions=value),
        "target": lambda value: ari.probe_activations(model, a, hooks=[hook], target=value),
        "n_untrained": lambda value: ari.circuits(model, n_untrained=value),
        "n": lambda value: ari.verify(model, n=value),
        "batch": lambda value: ari.HaarOrthogonal(3).sample(value, 2, seed=0),
        "length": lambda value: ari.HaarOrthogonal(3).sample(2, value, seed=0),
        "steps": lambda value: ari.TrainConfig(steps=value),
        "lr": lambda value: ari.TrainConfig(lr=value),
    }


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", with_numbers())
def test_absurd_arguments_are_named_in_a_line(name):
    call = with_numbers()[name]
    for label, value in ABSURD.items():
        if label not in FINE.get(name, ()):
            with pytest.raises(ValueError, match=name) as found:
                call(value)
            assert len(str(found.value)) < 300
            assert "\n" not in str(found.value)
