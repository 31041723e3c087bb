"""One model in several threads: hooks act in the thread that set them, so that every number is what it is alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from everything import differences, neighbours, outcome
from zoo import HAAR, ForeignDiagonal, augmented

import ar_interp as ari
from ar_interp.models.weights import diagonal_weights

N, LENGTH, ROUNDS = 24, 9, 12


PROCESS = ari.CommutingUnitary(3)
CONTEXTS, OTHERS = (PROCESS.contexts(N, LENGTH, seed=seed) for seed in (0, 1))


def diagonal():
    return ari.HookedARTransformer(ari.ModelConfig.diagonal(dim=3, n_heads=2, n_ctx=LENGTH), process=PROCESS, seed=1)


def in_threads(function, n=ROUNDS):
    """What the function gives in each of many calls, four at a time."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(function, range(n)))


def foreign():
    weights = diagonal_weights(diagonal())
    model = ForeignDiagonal(weights.A, weights.B, weights.P)
    model.process = PROCESS
    return model


def diagonal_jobs(model):
    return [
        lambda: ari.recover_context(model, CONTEXTS).estimate,
        lambda: ari.swap_context(model, CONTEXTS, OTHERS).moved,
        lambda: model(OTHERS.inputs),
        lambda: ari.ablate_heads(model, CONTEXTS).costs,
        lambda: model.run_with_cache(CONTEXTS.inputs)[1]["blocks.0.attn.hook_pattern"],
    ]


def augmented_jobs(model):
    a, b = (HAAR.contexts(N, LENGTH, seed=seed) for seed in (0, 1))
    return [
        lambda: ari.recover_context(model, a).estimate,
        lambda: ari.recover_context(model, b, kind="full").estimate,
        lambda: ari.path_contributions(model, a).written,
        lambda: model(b.inputs),
    ]


@pytest.mark.parametrize(
    ("model", "jobs_of"),
    [(diagonal(), diagonal_jobs), (foreign(), diagonal_jobs), (augmented(), augmented_jobs)],
    ids=["diagonal", "foreign", "augmented"],
)
def test_probes_and_predictions_side_by_side_are_what_they_are_alone(model, jobs_of):
    jobs = jobs_of(model)[: 4 if isinstance(model, ForeignDiagonal) else None]  # its own cache is not ours to keep
    alone = [job() for job in jobs]
    together = in_threads(lambda i: jobs[i % len(jobs)](), ROUNDS * len(jobs))
    assert all(torch.equal(found, alone[i % len(jobs)]) for i, found in enumerate(together))


def test_probes_of_the_neighbours_side_by_side_are_what_they_are_alone():
    jobs = [call for name, call in neighbours().items() if "text" not in name]
    alone = [outcome(job) for job in jobs]
    together = in_threads(lambda i: outcome(jobs[i % len(jobs)]), 3 * len(jobs))
    assert not [line for i, found in enumerate(together) for line in differences(found, alone[i % len(jobs)], 0)]


def test_hooks_of_one_thread_are_not_seen_by_another_nor_copied():
    model = diagonal()
    tokens = CONTEXTS.inputs
    alone = model(tokens)

    def halve(value, hook):
        return value / 2

    with model.hooks([("blocks.0.attn.hook_z", halve)]):
        assert torch.equal(model(tokens), alone / 2)
        assert torch.equal(in_threads(lambda _: model(tokens), 1)[0], alone)
        assert torch.equal(in_threads(lambda _: deepcopy(model)(tokens), 1)[0], alone)
        assert torch.equal(deepcopy(model)(tokens), alone)
        model.reset_hooks()  # of the model, which has none
        assert torch.equal(model(tokens), alone / 2)
    model.add_hook("blocks.0.attn.hook_z", halve)
    assert torch.equal(in_threads(lambda _: model(tokens), 1)[0], alone / 2)
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", halve)]), alone / 4)


def test_a_thread_may_wait_for_another_inside_of_hooks():
    """A lock would never come free."""
    model = diagonal()
    tokens = CONTEXTS.inputs
    found = []
    with model.hooks([("hook_embed", lambda value, hook: 0 * value)]):
        thread = threading.Thread(target=lambda: found.append(ari.ablate_heads(model, CONTEXTS).loss), daemon=True)
        thread.start()
        thread.join(60)
    assert found == [ari.ablate_heads(model, CONTEXTS).loss]
    assert model(tokens).abs().sum() > 0


def test_gradients_pass_through_hooks_of_the_backward_pass():
    model = diagonal()
    tokens = CONTEXTS.inputs
    seen = []
    with model.hooks(bwd_hooks=[("hook_embed", lambda gradient, hook: seen.append(gradient.shape))]):
        leaf = tokens.clone().requires_grad_()
        model(leaf).abs().square().sum().backward()
    assert seen == [tokens.shape]
    with model.hooks(bwd_hooks=[("hook_embed", lambda gradient, hook: (2 * gradient,))]):
        twice = tokens.clone().requires_grad_()
        model(twice).abs().square().sum().backward()
    assert torch.allclose(twice.grad, 2 * leaf.grad)


def test_ids_stand_for_the_sequences_that_their_own_thread_registered():
    model = diagonal()
    ids = model.register_sequences(CONTEXTS.inputs)
    in_threads(lambda _: model.register_sequences(OTHERS.inputs), 1)
    assert torch.equal(model(ids), model(CONTEXTS.inputs))
