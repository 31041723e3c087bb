"""Training: the same numbers every time, ensembles as loops, objectives that agree, laws that descent conserves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ar_interp import checkpoints, theory
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, HaarOrthogonal
from ar_interp.setting import setting_of
from ar_interp.training import loop
from ar_interp.training.config import TrainConfig
from ar_interp.training.descent import clipped
from ar_interp.training.loop import DivergenceError, train
from ar_interp.training.objectives import population_objective, sampled_objective, value_and_gradients

CONFIG = ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=5)
PROCESS = CommutingUnitary(4)
POSITIONAL = ModelConfig.positional_only(n_ctx=6)


def fit(config=CONFIG, process=PROCESS, **options):
    return train(config, process, TrainConfig(**{"device": "cpu", "steps": 20, **options}), progress=False)


# ---- reproducibility and ensembles

HOW = [
    {"optimizer": "gd"},
    {"optimizer": "adam"},
    {"optimizer": "lbfgs"},
    {"objective": "sampled", "batch": 8, "lr": 1e-3},
]
every_way = pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(str(value) for value in how.values()))


@every_way
def test_the_same_seed_gives_the_same_bits(how):
    first, second = fit(seed=3, **how), fit(seed=3, **how)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])
    assert first.history.equals(second.history)
    assert first.members.equals(second.members)
    assert not first.members["loss"].equals(fit(seed=4, **how).members["loss"])


@every_way
def test_a_member_is_a_run_of_its_own(how):
    ensemble = fit(seed=5, n_seeds=3, **how)
    assert ensemble.members["seed"].tolist() == [5, 6, 7]
    for row in ensemble.members.itertuples():
        single = fit(seed=row.seed, **how)
        assert single.members["loss"].item() == pytest.approx(row.loss, rel=1e-9)
        if row.seed == ensemble.seed:
            for name, tensor in single.model.state_dict().items():
                assert_close(ensemble.model.state_dict()[name], tensor, rtol=1e-7, atol=1e-9)


def test_members_draw_their_own_batches():
    run = fit(POSITIONAL, CommutingUnitary(1, mu=7.0), objective="sampled", batch=4, n_seeds=3)
    assert run.members["loss"].nunique() == 3  # all start from zero: only their batches differ


def test_the_best_member_becomes_the_model():
    run = fit(process=CommutingOrthogonal(4), n_seeds=8, steps=200)
    losses = run.members["loss"]
    assert losses.max() - losses.min() > 0.1
    assert run.seed == run.members["seed"][losses.argmin()]
    model = run.model
    loss = theory.population_loss(model.B.T @ model.A, model.P, family="orthogonal") / 4
    assert float(loss.detach()) == pytest.approx(losses.min(), rel=1e-12)
    assert model.process == run.process
    assert model.config == run.config


def test_global_randomness_is_neither_used_nor_changed():
    before = torch.random.get_rng_state()
    fit(objective="sampled", batch=4, steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- objectives


def explicit_descent(config, process, *, lr: float, steps: int) -> HookedARTransformer:
    """Gradient descent on the population loss of one model, written out."""
    model = HookedARTransformer(config, process=process)
    for _ in range(steps):
        model.zero_grad()
        theory.population_loss(model.B.T @ model.A, model.P, family="unitary").backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
    return model


def test_gd_is_gradient_descent_on_the_population_loss():
    explicit = explicit_descent(CONFIG, PROCESS, lr=0.02, steps=30)
    run = fit(lr=0.02, steps=30)
    for name, tensor in run.model.state_dict().items():
        assert_close(tensor, explicit.state_dict()[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("config", "process"),
    [
        (CONFIG, CommutingUnitary(4)),
        (CONFIG, CommutingOrthogonal(4)),
        (POSITIONAL, CommutingUnitary(1)),
        (POSITIONAL, CommutingUnitary(1, mu=7.0)),
    ],
)
def test_sampled_losses_and_gradients_have_the_population_mean(config, process, assert_mean):
    parameters = {name: 3 * w[None] for name, w in config.initial_parameters(seed=0).items()}
    if config.heads == "unit":
        parameters = {POSITIONAL_P: torch.full((1, 6, 6), 0.3, dtype=torch.float64)}
    exact = population_objective(setting_of(config, process))
    sampled = sampled_objective(config, process, batch=500, generators=[torch.Generator().manual_seed(1)])
    draws = 60
    losses, estimates = zip(*(value_and_gradients(sampled, parameters) for _ in range(draws)), strict=True)
    loss, truths = value_and_gradients(exact, parameters)
    assert_mean(torch.stack(losses), loss)
    for name, truth in truths.items():
        trained = truth[0] != 0  # the rest of P is never used
        assert trained.any()
        assert_mean(torch.stack([e[name][0][trained] for e in estimates]), truth[0][trained])
        assert not any(e[name][0][~trained].any() for e in estimates)


def test_sampled_training_reaches_the_minimum_of_the_population_loss():
    # At the minimum of H >= d the error of every single sequence is zero, so sampling adds no noise there.
    config = ModelConfig.diagonal(dim=2, n_heads=3, n_ctx=4)
    run = fit(config, CommutingUnitary(2), objective="sampled", optimizer="gd", lr=0.03, steps=400, batch=32)
    assert run.members["loss"].item() < 1e-6
    assert abs(run.history["loss_min"].iloc[-1]) < 1e-6


def test_where_there_is_no_closed_form_the_loss_is_held_out():
    process = CommutingUnitary(4, noise=0.1)
    run = fit(process=process, objective="sampled", steps=5, batch=16, lr=1e-3, n_seeds=2)
    tokens = process.sample(20_000, 6, seed=1).tokens
    with torch.no_grad():
        errors = (run.model(tokens[:, :-1]) - tokens[:, 1:])[:, 1:].abs().square().sum((-1, -2)) / 4
    # Both are means over fresh sequences, of 4096 and 20000.
    standard_error = float(errors.std()) * math.sqrt(1 / 4096 + 1 / 20_000)
    assert abs(run.members["loss"].min() - float(errors.mean())) < 4 * standard_error


def test_theoretical_minimum():
    assert setting_of(CONFIG, PROCESS).minimum == 1
    assert setting_of(CONFIG, CommutingOrthogonal(4)).minimum == 0
    assert setting_of(POSITIONAL, CommutingUnitary(1, mu=50.0)).minimum == 0
    assert setting_of(CONFIG, CommutingUnitary(4, noise=0.1)).minimum is None


# ---- optimizers


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        ({"optimizer": "gd", "lr": 0.08, "steps": 600}, 1e-9),
        ({"optimizer": "adam", "lr": 0.03, "steps": 800}, 1e-6),
        ({"optimizer": "lbfgs", "steps": 300}, 1e-12),
    ],
    ids=["gd", "adam", "lbfgs"],
)
def test_optimizers_reach_the_minimum(how, tolerance):
    run = fit(**how)
    assert run.members["loss"].item() == pytest.approx(1, abs=tolerance)


def test_training_stops_below():
    stopped = fit(n_seeds=3, lr=0.03, steps=400, stop_below=1.5)
    assert 0 < stopped.steps < 400
    last, before = stopped.history.iloc[-1], stopped.history.iloc[-2]
    assert last["step"] == stopped.steps
    assert last["loss_max"] < 1.5 <= before["loss_max"]
    assert stopped.members["loss"].max() == pytest.approx(last["loss_max"], rel=1e-12)
    # One step less would not have been enough.
    shorter = fit(n_seeds=3, lr=0.03, steps=stopped.steps - 1)
    assert shorter.members["loss"].max() >= 1.5


def test_positional_training_is_the_spectral_filter():
    mu, steps, n_ctx = 40.0, 300, 12
    config = ModelConfig.positional_only(n_ctx=n_ctx)
    run = fit(config, CommutingUnitary(1, mu=mu), lr=0.5 / 11, steps=steps)
    for T in range(2, n_ctx + 1):
        expected = theory.spectral_filter(mu=mu, length=T, step_size=1 / 11, steps=steps).p
        assert_close(run.model.P[T - 2, :T].detach(), expected, rtol=0, atol=1e-12)


# ---- history


def test_history_has_a_row_per_logged_step_and_more_of_them_in_the_beginning():
    run = fit(n_seeds=5, steps=850, lr=1e-3)
    history = run.history
    assert list(history) == ["step", "loss_min", "loss_median", "loss_max"]
    assert history["step"].tolist() == [*range(16), *range(16, 32, 2), *range(32, 850, 4), 850]
    assert (history["loss_min"] <= history["loss_median"]).all()
    assert (history["loss_median"] <= history["loss_max"]).all()
    for column in ("loss_min", "loss_median", "loss_max"):
        assert (history[column].diff().dropna() <= 0).all()  # a small lr never climbs
    final = run.members["loss"].to_numpy()
    assert history.iloc[-1].tolist() == pytest.approx([850, final.min(), np.median(final), final.max()], rel=1e-12)


@every_way
def test_history_counts_steps_once_up_to_the_last(how):
    run = fit(n_seeds=2, **how)
    assert run.history["step"].tolist() == list(range(run.steps + 1))
    assert run.history["loss_min"].iloc[-1] < run.history["loss_min"].iloc[0]


def test_history_starts_from_the_initial_weights():
    run = fit(n_seeds=2, steps=1)
    losses = []
    for seed in (0, 1):
        w = CONFIG.initial_parameters(seed=seed)
        losses.append(float(theory.population_loss(w[HEAD_B].T @ w[HEAD_A], w[POSITIONAL_P], family="unitary")) / 4)
    first = run.history.iloc[0]
    assert [first["loss_min"], first["loss_max"]] == pytest.approx(sorted(losses), rel=1e-12)


@pytest.mark.parametrize("family", [CommutingUnitary, CommutingOrthogonal])
def test_descent_conserves_what_gradient_flow_conserves(family):
    def conserved(A, B, P):
        used = torch.ones_like(P).tril(1)
        used[-1] = 0
        return A @ A.T - B @ B.T, A.square().sum() - (used * P).square().sum()

    start = CONFIG.initial_parameters(seed=0)
    before = conserved(start[HEAD_A], start[HEAD_B], start[POSITIONAL_P])
    drifts = []
    for lr in (8e-3, 4e-3):
        run = fit(process=family(4), lr=lr, steps=int(2 / lr))
        end = run.model.requires_grad_(False)
        after = conserved(end.A, end.B, end.P)
        assert end.A.square().sum() > 10 * start[HEAD_A].square().sum()  # it went somewhere
        drifts.append([float((x - y).abs().max()) for x, y in zip(after, before, strict=True)])
    assert max(drifts[0]) < 0.05
    for coarse, fine in zip(*drifts, strict=True):
        assert fine == pytest.approx(coarse / 2, rel=0.2)  # O(lr): half the step, half the drift


# ---- divergence


@pytest.mark.parametrize("how", [{"lr": 5.0}, {"lr": 1e200}, {"lr": 1e3, "objective": "sampled", "batch": 4}], ids=str)
def test_divergence_keeps_the_last_good_state(how):
    with pytest.raises(DivergenceError, match=r"diverged by step \d+ \(seeds \[.*\]\).*Try a smaller lr") as caught:
        fit(n_seeds=2, steps=50, **how)
    run = caught.value.run
    assert all(torch.isfinite(tensor).all() for tensor in run.model.state_dict().values())
    assert np.isfinite(run.history.to_numpy()).all()
    assert run.steps == run.history["step"].iloc[-1] < 50
    assert f"state at step {run.steps}" in str(caught.value)


def test_a_diverged_run_can_be_saved(tmp_path):
    from ar_interp.checkpoints import load

    with pytest.raises(DivergenceError, match="diverged") as caught:
        fit(lr=5.0, steps=50)
    assert load(caught.value.run.save(tmp_path / "diverged")).steps == caught.value.run.steps


# ---- devices


def test_auto_is_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert TrainConfig(device="auto").resolve_device().type == expected
    assert TrainConfig(device="cpu").resolve_device().type == "cpu"
    assert fit(device="cpu").device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match=r"device must be one that this machine has, .* got 'cuda'"):
        fit(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@every_way
def test_cuda_trains_like_the_cpu(how):
    on_cpu, on_gpu = fit(n_seeds=3, **how), fit(n_seeds=3, device="cuda", **how)
    assert on_gpu.model.P.device.type == "cpu"
    assert on_gpu.device == torch.cuda.get_device_name()
    assert np.isfinite(on_gpu.members["loss"]).all()
    if "objective" not in how:  # a GPU draws other random batches
        assert on_gpu.members["loss"].tolist() == pytest.approx(on_cpu.members["loss"].tolist(), rel=1e-9)


# ---- what is refused


@pytest.mark.parametrize(
    ("config", "process", "message"),
    [
        (CONFIG, HaarOrthogonal(4), "process must be CommutingUnitary, .*: diagonal heads need"),
        (CONFIG, CommutingUnitary(5), "process has dim 5 but the model has dim 4; they must agree"),
        (CONFIG, CommutingUnitary(4, noise=0.1), r"no exact population loss here: noise is 0\.1.*'sampled'"),
        (CONFIG, CommutingUnitary(4, first_token=FirstToken("gaussian")), "first_token is .*gaussian.* hold for ones"),
        (
            CONFIG,
            CommutingUnitary(4, first_token=FirstToken("ones", scale=2.0)),
            "closed forms of diagonal heads hold for ones",
        ),
        (CONFIG, CommutingUnitary(4, mu=2.0), r"mu is 2\.0, and closed forms of trained heads hold for mu = 1"),
        (POSITIONAL, CommutingUnitary(1, noise=0.1, mu=50.0), "no exact population loss here: noise is"),
    ],
)
def test_train_refuses(config, process, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        fit(config, process)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "exact"}, "objective must be one of 'population', 'sampled', got 'exact'"),
        ({"optimizer": "sgd"}, "optimizer must be one of 'gd', 'adam', 'lbfgs', got 'sgd'"),
        ({"lr": 0.0}, r"lr must be greater than 0\.0"),
        ({"lr": math.nan}, "lr must be a finite number, got nan"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, r"steps must be an integer, got 2\.5"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 10**9}, "batch must be at most 10000000"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"n_seeds": 0}, "n_seeds must be at least 1"),
        ({"stop_below": 0.0}, r"stop_below must be greater than 0\.0"),
        ({"objective": "sampled", "optimizer": "lbfgs"}, "optimizer 'lbfgs' needs one loss to minimise, got fresh"),
        ({"ridge": -1.0}, "ridge must be at least 0"),
        ({"optimizer": "lbfgs", "stop_below": 0.1}, "stop_below goes with 'gd' and 'adam'"),
        ({"device": "gpu"}, "device must be 'auto' or a torch device, got 'gpu'"),
    ],
    ids=str,
)
def test_config_refuses(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


# ---- general models


STACK = ModelConfig.augmented(dim=3, n_ctx=6, n_layers=2, heads="block-scalar", dtype="float32")
HAAR = HaarOrthogonal(3)


def test_schedules_and_warmup():
    steps = {"steps": 10}

    def shares(at, **how):
        return TrainConfig(**steps, **how).share_of_lr(torch.tensor(at, dtype=torch.float64)).tolist()

    assert shares([0, 9]) == [1.0, 1.0]
    assert shares([0, 5, 10], schedule="linear") == pytest.approx([1.0, 0.5, 0.0])
    assert shares([0, 5, 10], schedule="cosine") == pytest.approx([1.0, 0.5, 0.0])
    assert shares([2], schedule="cosine") > shares([2], schedule="linear")
    assert shares([0, 1, 2, 3, 4], warmup=4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_clipping_shortens_each_members_gradient_alone():
    gradients = torch.tensor([[3.0, 0.0, 4.0], [0.3, 0.0, 0.4], [0.0, 0.0, 0.0]])
    assert_close(clipped(gradients, 1.0), torch.tensor([[0.6, 0.0, 0.8], [0.3, 0.0, 0.4], [0.0, 0.0, 0.0]]))


def test_sampled_runs_know_their_worst_sequences(tmp_path):
    training = TrainConfig(objective="sampled", optimizer="adam", lr=1e-2, steps=20, batch=16, n_seeds=3, clip=1.0)
    run = train(STACK, HAAR, training, progress=False)
    assert (run.members["trimmed"] < run.members["loss"]).all()
    assert (run.members["trimmed"] > 0.9 * run.members["loss"] - 0.1).all()
    again = checkpoints.load(run.save(tmp_path / "stack"))
    assert again.members["trimmed"].tolist() == run.members["trimmed"].tolist()
    assert (again.config, again.process, again.training) == (STACK, HAAR, training)


def test_the_trimmed_loss_leaves_out_the_worst_hundredth(monkeypatch):
    errors = torch.arange(1.0, 4097.0).flip(0)
    monkeypatch.setattr(loop, "squared_errors", lambda form, p, tokens, first: errors[None, : tokens.shape[1]])
    monkeypatch.setitem(loop.EVALUATION_PART, "cpu", 4096)
    parameters = {name: tensor[None] for name, tensor in STACK.initial_parameters(seed=0).items()}
    final = loop._final_losses(parameters, setting_of(STACK, HAAR), TrainConfig(objective="sampled"), n_lengths=1)
    assert final["loss"].item() == pytest.approx(errors.mean().item())
    assert final["trimmed"].item() == pytest.approx(torch.arange(1.0, 1 + round(0.99 * 4096)).mean().item())


def test_first_length_chooses_the_contexts_that_count():
    parameters = {name: tensor[None] for name, tensor in STACK.initial_parameters(seed=0).items()}

    def loss(first_length: int) -> float:
        generators = [torch.Generator().manual_seed(0)]
        objective = sampled_objective(STACK, HAAR, batch=8, generators=generators, first_length=first_length)
        return objective(parameters).item()

    assert loss(1) == pytest.approx(loss(2) + 1.0, abs=0.05)  # at T = 1 a small model predicts about zero
    training = TrainConfig(objective="sampled", optimizer="adam", steps=2, batch=4, first_length=6)
    history = train(STACK, HAAR, training, progress=False).history
    assert history["loss_min"].iloc[0] == pytest.approx(1.0, abs=0.1)  # per context length: of one
    with pytest.raises(ValueError, match="first_length must be at most n_ctx = 6, got 7"):
        train(STACK, HAAR, replace(training, first_length=7), progress=False)


def test_training_in_vain_warns():
    config = ModelConfig.full(dim=3, n_ctx=5, n_heads=1, query_lag=0)
    training = TrainConfig(objective="sampled", optimizer="adam", steps=1, batch=4)
    with pytest.warns(UserWarning, match="training is in vain: bias-free linear attention on plain tokens"):
        train(config, HAAR, training, progress=False)


@pytest.mark.parametrize("process", [CommutingUnitary(4), CommutingOrthogonal(4)], ids=lambda p: p.kind)
def test_the_exact_loss_of_block_scalars_is_the_sampled_one(process, assert_mean):
    config = ModelConfig.augmented(dim=4, n_ctx=5, heads="block-scalar", init_scale=0.3)
    parameters = {name: tensor[None] for name, tensor in config.initial_parameters(seed=1).items()}
    exact, truths = value_and_gradients(population_objective(setting_of(config, process)), parameters)
    sampled = sampled_objective(config, process, batch=400, generators=[torch.Generator().manual_seed(1)])
    losses, estimates = zip(*(value_and_gradients(sampled, parameters) for _ in range(40)), strict=True)
    assert_mean(torch.stack(losses), exact)
    for name, truth in truths.items():
        used = truth[0] != 0
        assert_mean(torch.stack([e[name][0][used] for e in estimates]), truth[0][used])


@pytest.mark.parametrize(
    ("config", "process", "reason"),
    [
        (ModelConfig.augmented(dim=3, n_ctx=6), CommutingUnitary(3), "heads are full"),
        (STACK, CommutingUnitary(3), "no part of theory speaks of 2 layers"),
        (STACK, HAAR, "the loss of 2 layers.* on haar-orthogonal has no closed form"),
    ],
)
def test_general_models_without_an_exact_loss_say_so(config, process, reason):
    with pytest.raises(ValueError, match=f"no exact population loss here: .*{reason}"):
        population_objective(setting_of(config, process))
