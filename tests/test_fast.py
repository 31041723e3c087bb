"""The fast steps against differentiating the hooked model: losses and gradients of every parameter."""

import pytest
import torch
from torch.testing import assert_close

from ar_interp.models.config import ModelConfig
from ar_interp.processes import HaarOrthogonal
from ar_interp.training.fast import fast_predictions, fast_step
from ar_interp.training.objectives import predictions_of, squared_errors, value_and_gradients

DIM, N_CTX, SEEDS, BATCH = 3, 27, (3, 4), 5  # more positions than a chunk, and not a multiple of it
SIZES = {"dim": DIM, "n_ctx": N_CTX}
DOUBLE = {**SIZES, "dtype": "float64"}
CPU = torch.device("cpu")
STEPS = {
    "one full layer": ModelConfig.augmented(**SIZES),
    "three full layers, narrow heads": ModelConfig.augmented(**SIZES, n_layers=3, d_head=4),
    "block scalars": ModelConfig.augmented(**SIZES, n_layers=2, heads="block-scalar", init_scale=0.3),
    "block scalars / keys": ModelConfig.augmented(
        **SIZES, n_layers=3, heads="block-scalar", attention="linear/keys", init_scale=0.5
    ),
    "divided by pairs, with biases": ModelConfig.augmented(
        **SIZES, n_layers=2, attention="linear/pairs", biases=True, scale_scores=True
    ),
    "LayerNorm without biases": ModelConfig.augmented(**SIZES, n_layers=2, layer_norm=True),
    "read-out alone": ModelConfig.augmented(**SIZES, n_layers=2, unembed=True),
    "plain tokens": ModelConfig.full(**SIZES, n_heads=1, n_layers=2, query_lag=0, positional="none", residual=True),
    "figure 5, one layer": ModelConfig.paper_figure5(**DOUBLE),
    "figure 5, four layers": ModelConfig.paper_figure5(**DOUBLE, n_layers=4),
    "figure 7, one head": ModelConfig.paper_figure7(**DOUBLE),
    "figure 7, four heads": ModelConfig.paper_figure7(**DOUBLE, n_heads=4),
    "figure 7, nine heads": ModelConfig.paper_figure7(**DOUBLE, n_heads=9),
    "figure 7, nine heads, tokens three times": ModelConfig.paper_figure7(**DOUBLE, n_heads=9, repeats=3),
    "figure 7, tokens three times": ModelConfig.paper_figure7(**DOUBLE, n_heads=2, repeats=3),
}


def ensemble(config: ModelConfig) -> dict[str, torch.Tensor]:
    members = [config.initial_parameters(seed=seed) for seed in SEEDS]
    perturbed = torch.Generator().manual_seed(0)  # LayerNorm's weights and inert blocks leave their special values
    return {
        name: torch.stack([m[name] for m in members])
        + 0.1 * torch.randn(len(SEEDS), *members[0][name].shape, generator=perturbed, dtype=torch.float64)
        for name in members[0]
    }


@pytest.fixture(scope="module")
def tokens():
    process = HaarOrthogonal(DIM, first_token="sphere", noise=0.1)
    return torch.stack([process.sample(BATCH, N_CTX + 1, seed=seed).tokens for seed in SEEDS])


@pytest.mark.parametrize("first_length", [1, 2, 4])
@pytest.mark.parametrize("name", STEPS)
def test_step_is_that_of_the_hooked_model(name, first_length, tokens):
    config, parameters = STEPS[name], ensemble(STEPS[name])
    step = fast_step(config)
    assert step is not None
    losses, gradients = step(parameters, tokens, first_length)
    predict = predictions_of(config, device=CPU)
    expected, truths = value_and_gradients(
        lambda p: squared_errors(predict, p, tokens, first_length).mean(1), parameters
    )
    assert_close(losses, expected, rtol=1e-11, atol=0)
    assert list(gradients) == list(truths)
    for key, truth in truths.items():
        assert_close(gradients[key], truth, rtol=1e-9, atol=1e-11 * truth.abs().max().item() + 1e-14, msg=key)


@pytest.mark.parametrize(
    "name", ["block scalars / keys", "figure 5, four layers", "figure 7, four heads", "figure 7, nine heads"]
)
def test_step_takes_shorter_sequences_and_a_large_batch(name, tokens):
    config, parameters = STEPS[name], ensemble(STEPS[name])
    many = HaarOrthogonal(DIM).sample(2 * 1024 + 3, 7, seed=0).tokens.expand(len(SEEDS), -1, -1, -1)
    step, predict = fast_step(config), predictions_of(config, device=CPU)
    assert step is not None
    losses, gradients = step(parameters, many, 2)
    expected, truths = value_and_gradients(lambda p: squared_errors(predict, p, many, 2).mean(1), parameters)
    assert_close(losses, expected, rtol=1e-11, atol=0)
    for key, truth in truths.items():
        assert_close(gradients[key], truth, rtol=1e-9, atol=1e-11 * truth.abs().max().item() + 1e-14, msg=key)


@pytest.mark.parametrize("query_lag", [0, 1])
@pytest.mark.parametrize("n_heads", [1, 4])
def test_predictions_of_heads_with_shared_positions_are_the_hooked_ones(n_heads, query_lag, tokens):
    config = ModelConfig.full(**SIZES, n_heads=n_heads, query_lag=query_lag, init_scale=0.5)
    parameters = ensemble(config)
    fast, predict = fast_predictions(config), predictions_of(config, device=CPU)
    assert fast is not None
    inputs = tokens[:, :, :-1]
    assert_close(fast(parameters, inputs), predict(parameters, inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig.diagonal(dim=3, n_heads=2, n_ctx=4),
        ModelConfig.augmented(**SIZES, n_heads=2),
        ModelConfig.augmented(**SIZES, d_mlp=4),
        ModelConfig.augmented(**SIZES, attention="softmax"),
        ModelConfig.augmented(**SIZES, residual=False),
        ModelConfig.augmented(**SIZES, positional="additive"),
        ModelConfig.full(**SIZES, n_heads=2, residual=True),
        ModelConfig.full(**SIZES, n_heads=2, biases=True),
        ModelConfig.full(**SIZES, n_heads=2, positional="softmax"),
    ],
    ids=lambda config: config.summary,
)
def test_other_architectures_are_left_to_the_hooked_model(config):
    assert fast_step(config) is None
    assert fast_predictions(config) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "name", ["block scalars / keys", "figure 5, four layers", "figure 7, one head", "figure 7, nine heads"]
)
def test_step_is_the_same_on_a_gpu(name, tokens):
    config, parameters = STEPS[name], ensemble(STEPS[name])
    step = fast_step(config)
    assert step is not None
    losses, gradients = step(parameters, tokens, 2)
    there = {key: tensor.cuda() for key, tensor in parameters.items()}
    losses_there, gradients_there = step(there, tokens.cuda(), 2)
    assert_close(losses_there.cpu(), losses, rtol=1e-9, atol=0)
    for key, gradient in gradients.items():
        assert_close(gradients_there[key].cpu(), gradient, rtol=1e-7, atol=1e-9)
