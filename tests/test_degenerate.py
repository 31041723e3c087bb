"""Input without an answer is refused at the door, by every probe in the same words; singular W is no such input."""

from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from everything import MODELS, contexts_of, model_of, outcome, probes
from safetensors.torch import save_file

import ar_interp as ari

KINDS = ("diagonal", "augmented", "plain")
WITHOUT_DATA = {"head_orthogonality", "positional_structure", "augmented_blocks", "circuits", "structure_along"}
NO_PROBES = ("edit ", "estimator ", "run_with_cache", "outside_errors", *WITHOUT_DATA)
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
