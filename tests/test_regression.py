"""Regression in context: prompts, estimators, the hooked model, its exact risk, and training as any model's."""

import json
from dataclasses import replace

import pytest
import torch

import ar_interp as ari
from ar_interp import estimators, theory
from ar_interp._parts import build_process
from ar_interp.models.features import RegressionConfig, feature_map
from ar_interp.seeds import FUNCTION
from ar_interp.training.objectives import sampled_objective

SMOOTH = ari.NonparametricRegression(smoothness=1.0, n_functions=9)
HAAR = ari.NonparametricRegression("haar", smoothness=0.4, n_functions=8, noise_variance=0.1)
COSINE = ari.NonparametricRegression("cosine", variances=[1.0, 0.5, 0.25])
PROCESSES = pytest.mark.parametrize("process", [SMOOTH, HAAR, COSINE], ids=lambda process: process.basis)
CONFIG = RegressionConfig(n_features=3, n_ctx=6, n_inputs=2, width=8)


@PROCESSES
def test_functions_are_orthonormal_and_prompts_are_made_of_them(process):
    functions = process.functions(process.grid)
    some = torch.tensor([2, 0])
    assert torch.equal(process.functions(process.grid, of=some), functions[..., some])
    identity = torch.eye(functions.shape[1], dtype=torch.float64)
    assert torch.allclose(functions.mT @ functions / len(functions), identity, atol=1e-12)
    prompts = process.contexts(2000, 5, seed=0)
    expected = (process.functions(prompts.x) @ prompts.coefficients[..., None])[..., 0]
    assert torch.allclose(prompts.values, expected, atol=1e-12)
    noise = (prompts.y - prompts.values).square().mean().item()
    assert noise == pytest.approx(process.noise_variance, rel=0.06)
    assert torch.allclose(prompts.coefficients.square().mean(0), process.prior, atol=0.12 * process.prior.max())
    again = process.contexts(2000, 5, seed=0)
    assert torch.equal(again.inputs, prompts.inputs)


@PROCESSES
def test_a_process_comes_back_from_json(process):
    assert build_process(json.loads(json.dumps(process.to_dict())), "process") == process


def test_prompts_are_contexts_of_which_the_query_counts():
    prompts = SMOOTH.contexts(4, 5, seed=1)
    x, y = prompts.pairs()
    assert torch.equal(prompts.inputs[..., 0], x[..., 0])
    assert torch.equal(prompts.inputs[:, 1:, 1], y[:, :-1, 0])
    assert torch.equal(prompts.targets, y)
    zero = torch.zeros_like(y)
    assert torch.equal(prompts.losses(zero), prompts.values[:, -1].square())
    assert torch.equal(prompts.losses(zero, observed=True), prompts.y[:, -1].square())
    assert len(prompts[1:3]) == 2


def test_priors_of_constant_variance_are_known():
    assert SMOOTH.constant_variance
    assert HAAR.constant_variance
    assert not COSINE.constant_variance
    assert not ari.NonparametricRegression(variances=[1, 1, 0.5]).constant_variance
    assert not ari.NonparametricRegression("haar", variances=[1, 1, 0.5]).constant_variance
    assert ari.NonparametricRegression("cosine", variances=[1]).constant_variance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the prior needs exactly one of variances and smoothness"),
        ({"variances": [1.0], "smoothness": 1.0}, "the prior needs exactly one of variances and smoothness"),
        ({"variances": [1.0, -1.0]}, "variances must be at most 8192 numbers, not negative nor all 0, got 2, the smal"),
        ({"variances": [1.0], "n_functions": 1}, "n_functions goes with smoothness"),
        ({"smoothness": 0.0}, "smoothness must be greater than 0"),
        ({"smoothness": 1.0, "basis": "wave"}, "basis must be one of 'fourier', 'cosine', 'haar', got 'wave'"),
        ({"smoothness": 1.0, "noise_variance": -1}, "noise_variance must be at least 0"),
    ],
)
def test_bad_processes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ari.NonparametricRegression(**arguments)


# ---- estimators


def test_bayes_is_the_conditional_mean_of_every_context():
    prompts = HAAR.contexts(2, 7, seed=3)
    answers = estimators.Bayes(HAAR)(prompts.pairs())[..., 0]
    for b in range(2):
        for T in range(7):
            psi = HAAR.functions(prompts.x[b, : T + 1])
            K = (psi * HAAR.prior) @ psi.mT
            weights = torch.linalg.solve(K[:T, :T] + 0.1 * torch.eye(T, dtype=K.dtype), K[:T, T])
            assert answers[b, T].item() == pytest.approx((weights @ prompts.y[b, :T]).item(), abs=1e-10)


def test_linear_attention_is_bayes_at_one_example_and_has_the_risk_of_theory_at_more(assert_mean):
    sizes = {"noise_variance": SMOOTH.noise_variance}
    one = SMOOTH.contexts(50, 2, seed=4)
    series = estimators.TruncatedSeries(SMOOTH, tuple(theory.linear_attention_weights(SMOOTH.prior, n=1, **sizes)))
    assert torch.allclose(series(one.pairs())[:, 1], estimators.Bayes(SMOOTH)(one.pairs())[:, 1], atol=1e-12)
    many = SMOOTH.contexts(20_000, 17, seed=5)
    gamma = theory.linear_attention_weights(SMOOTH.prior, n=16, **sizes)[:5]
    losses = many.losses(estimators.TruncatedSeries(SMOOTH, tuple(gamma))(many.pairs()))
    assert_mean(losses, theory.linear_attention_risk(SMOOTH.prior, n=16, n_features=5, **sizes))
    few = many[:2000]
    bayes, ridge, nearest = (
        few.losses(found(few.pairs())).mean()
        for found in (
            estimators.Bayes(SMOOTH),
            estimators.KernelRidge(lambda x, other: SMOOTH.functions(x) @ SMOOTH.functions(other).mT, 1.0),
            estimators.Nearest(1),
        )
    )
    assert bayes < losses.mean() < nearest
    assert bayes < ridge


def test_nearest_takes_those_before_on_the_circle():
    pairs = replace(
        SMOOTH.contexts(1, 4, seed=6), x=torch.tensor([[0.95, 0.5, 0.6, 0.02]], dtype=torch.float64)
    ).pairs()
    y = pairs.y[0, :, 0]
    for k, expected in ((1, [0, y[0], y[1], y[0]]), (2, [0, y[0], (y[0] + y[1]) / 2, (y[0] + y[2]) / 2])):
        answers = estimators.Nearest(k)(pairs)[0, :, 0]
        assert answers.tolist() == pytest.approx([float(value) for value in expected])


# ---- the model and its exact risk


def made(process=SMOOTH, config=CONFIG, seed=0):
    model = config.build(process)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator, dtype=torch.float64))
    return model


def test_the_model_is_its_formula_and_shows_it():
    model, prompts = made(), SMOOTH.contexts(3, 6, seed=7)
    answers, cache = model.run_with_cache(prompts.inputs)
    phi = model.features(prompts.x)
    for T in range(1, 6):
        z = (prompts.y[:, :T, None] * phi[:, :T]).mean(1)
        assert torch.allclose(cache["hook_state"][:, T], z)
        expected = torch.einsum("bi,ij,bj->b", phi[:, T], model.Gamma, z)
        assert torch.allclose(answers[:, T, 0], expected)
    assert not answers[:, 0].any()
    silenced = model.run_with_hooks(prompts.inputs, fwd_hooks=[("hook_state", lambda z, hook: 0 * z)])
    assert not silenced.any()


def test_softmax_is_its_formula_and_shows_it():
    model, prompts = made(config=replace(CONFIG, attention="softmax")), SMOOTH.contexts(3, 6, seed=7)
    answers, cache = model.run_with_cache(prompts.inputs)
    phi = model.features(prompts.x)
    for T in range(1, 6):
        scores = torch.einsum("bi,ij,btj->bt", phi[:, T], model.Gamma, phi[:, :T])
        assert torch.allclose(cache["hook_pattern"][:, T, 1 : T + 1], scores.softmax(-1))
        assert torch.allclose(answers[:, T, 0], (scores.softmax(-1) * prompts.y[:, :T]).sum(-1))
    assert not answers[:, 0].any()
    answers.sum().backward()
    assert all(torch.isfinite(weights.grad).all() for weights in model.parameters())
    assert ari.setting_of(model.config, SMOOTH).linear.config == CONFIG


def test_names_that_select_no_hook_are_errors():
    model, inputs = made(), SMOOTH.contexts(1, 6, seed=7).inputs
    wrong = r"hook 'hook_stat' does not exist. Did you mean 'hook_state'\? model.hook_names\(\) lists all"
    for call in (
        lambda: model.run_with_cache(inputs, names_filter="hook_stat"),
        lambda: model.run_with_hooks(inputs, fwd_hooks=[("hook_stat", lambda z, hook: z)]),
        lambda: model.add_hook("hook_stat", lambda z, hook: z),
    ):
        with pytest.raises(ValueError, match=wrong):
            call()


@pytest.mark.parametrize("process", [SMOOTH, HAAR, COSINE], ids=lambda process: process.basis)
def test_the_exact_loss_is_the_mean_over_prompts_and_solving_is_the_best(process, assert_mean):
    config = replace(CONFIG, inputs="digits") if process is HAAR else CONFIG
    model = made(process, config)
    with torch.no_grad():
        model.Gamma.mul_(0.1)
    setting = ari.setting_of(config, process)
    prompts = process.contexts(20_000, config.n_ctx, seed=8)
    with torch.no_grad():
        losses = prompts.losses(model(prompts.inputs))
    expected = setting.expected_loss(model)
    assert expected.source == "exact"
    assert_mean(losses, expected.loss)
    parameters = {name: W.detach()[None] for name, W in model.state_dict().items()}
    solved = setting.solved(parameters)
    best = setting.exact_loss(solved).item()
    for k in range(3):
        other = {**solved, "attn.Gamma": solved["attn.Gamma"] + 0.01 * made(seed=k).Gamma.detach()}
        assert setting.exact_loss(other).item() > best
    assert best <= setting.exact_loss(parameters).item()
    assert setting.minimum is None or best / setting.n > setting.minimum


def test_bad_models_and_tokens_are_refused(without_type_checks):
    with pytest.raises(ValueError, match="process must be a NonparametricRegression, got HaarOrthogonal"):
        CONFIG.build(ari.HaarOrthogonal(2))
    with pytest.raises(ValueError, match="process must be an AutoregressiveProcess"):
        ari.ModelConfig.full(dim=2, n_ctx=6, n_heads=1).check_process(SMOOTH)
    with pytest.raises(ValueError, match=r"tokens must be real \[batch pos 2\], .* got \[2, 3\]"):
        made()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="tokens must hold 1 to n_ctx = 6 positions, got 7"):
        made()(torch.zeros(2, 7, 2))
    with pytest.raises(ValueError, match="inputs must be one of 'harmonics', 'digits'"):
        replace(CONFIG, inputs="words")


# ---- training

SAMPLED = {"objective": "sampled"}


@pytest.mark.parametrize(
    "training",
    [{"solve": True}, {}, {**SAMPLED, "batch": 40, "fresh": False}, {**SAMPLED, "batch": 20, "pool": 40}],
    ids=["solved", "population", "40 tasks", "a pool of 40"],
)
def test_training_saves_and_loads(training, tmp_path):
    options = {"optimizer": "adam", "lr": 1e-2, "schedule": "cosine", "steps": 120, "device": "cpu", **training}
    run = ari.train(CONFIG, SMOOTH, ari.TrainConfig(**options), progress=False)
    loaded = ari.load(run.save(tmp_path / "model"))
    assert (loaded.config, loaded.process, loaded.training) == (run.config, run.process, run.training)
    inputs = SMOOTH.contexts(2, 6, seed=FUNCTION).inputs
    assert torch.equal(loaded.model(inputs), run.model(inputs))
    risk = ari.setting_of(CONFIG, SMOOTH).expected_loss(run.model).loss
    assert run.members["loss"].tolist() == pytest.approx([risk])
    if "batch" in training:  # learned by heart
        assert run.history["loss_min"].iloc[-1] < 0.8 * (risk + SMOOTH.noise_variance)
    else:
        minimum = ari.setting_of(CONFIG, SMOOTH).minimum
        assert minimum < risk < (1.1 if "solve" in training else 2) * minimum


@pytest.mark.parametrize(
    ("config", "process"),
    [(CONFIG, SMOOTH), (ari.ModelConfig.full(dim=2, n_ctx=4, n_heads=1, dtype="float64"), ari.HaarOrthogonal(2))],
    ids=["prompts", "sequences"],
)
def test_a_pool_is_drawn_once_and_batches_are_other_rows_of_it(config, process):
    def losses(n: int, **options) -> list[float]:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        objective = sampled_objective(config, process, generators=generators, **options)
        drawn = [config.initial_parameters(seed=seed) for seed in (1, 2)]
        stacked = {name: torch.stack([own[name] for own in drawn]) for name in drawn[0]}
        return [objective(stacked).tolist() for _ in range(n)]

    whole = losses(1, batch=8, fresh=False)[0]
    assert losses(1, batch=8, pool=8)[0] == pytest.approx(whole)
    parts = losses(80, batch=1, pool=8)
    assert len({round(value, 9) for value, _ in parts}) == len({round(value, 9) for _, value in parts}) == 8


def test_bad_pools_are_refused():
    with pytest.raises(ValueError, match="pool must be at least 256, got 10"):
        ari.TrainConfig(**SAMPLED, pool=10)
    with pytest.raises(
        ValueError, match=r"start goes with ModelConfig\.augmented\(\.\.\.\), not with RegressionConfig"
    ):
        ari.train(CONFIG, SMOOTH, ari.TrainConfig(start=(0.1, 0.1), steps=1), progress=False)
    with pytest.raises(ValueError, match="pool goes with objective 'sampled' and fresh batches from it: TrainConfig"):
        ari.TrainConfig(batch=5, pool=10)


def test_one_member_of_an_ensemble_is_the_same_alone():
    training = ari.TrainConfig(optimizer="adam", steps=5, n_seeds=2, solve=True, device="cpu")
    both = ari.train(CONFIG, SMOOTH, training, progress=False)
    alone = ari.train(CONFIG, SMOOTH, replace(training, n_seeds=1, seed=1), progress=False)
    assert both.members["loss"].iloc[1] == pytest.approx(alone.members["loss"].iloc[0], rel=1e-9)
    waves = CONFIG.encoded(SMOOTH.grid)
    stacked = {name: W.detach()[None] for name, W in alone.model.state_dict().items()}
    assert torch.allclose(feature_map(stacked, waves)[0], alone.model.features(SMOOTH.grid))


def test_solving_is_refused_where_theory_solves_for_nothing():
    config = ari.ModelConfig.diagonal(dim=2, n_heads=1, n_ctx=4)
    with pytest.raises(ValueError, match="solve must be False here: theory solves for no weights"):
        ari.train(config, ari.CommutingUnitary(2), ari.TrainConfig(solve=True), progress=False)
    with pytest.raises(ValueError, match="solve goes with objective 'population'"):
        ari.TrainConfig(objective="sampled", solve=True)
