"""Merged heads: the exact loss of one layer, and plain descent on it from given and random starts, step by step."""

import dataclasses

import numpy as np
import pytest
import torch
from oracles import check_titles, trace

from ar_interp import (
    CommutingUnitary,
    FirstToken,
    ModelConfig,
    TrainConfig,
    figures,
    load,
    setting_of,
    theory,
    train,
    verify,
)
from ar_interp.probes.emergence import descent_along, half_step, sign_pattern, stage_times
from ar_interp.sabotage.emergence import EMERGENCE
from ar_interp.setting.merged import main_blocks
from ar_interp.theory import layer_quadratic as exact

pytestmark = pytest.mark.usefixtures("known_function")


def of_law(law: FirstToken | str, *, dim: int = 2, n_ctx: int = 4, **fields):
    config = ModelConfig.augmented(dim=dim, n_ctx=n_ctx, heads="merged", attention="linear/pairs", **fields)
    return config, CommutingUnitary(dim, first_token=law)


def descended(law: FirstToken | str, *, steps: int = 30, n_ctx: int = 4, init_scale: float = 0.1, **training):
    config, process = of_law(law, n_ctx=n_ctx, init_scale=init_scale)
    return train(config, process, TrainConfig(steps=steps, **training), progress=False)


@pytest.mark.parametrize(
    "law",
    [
        FirstToken("gaussian", scales=(1.5, 0.7), correlation=0.4, scale=0.9),
        FirstToken("sparse", n_nonzero=1, scale=1.3),
        FirstToken("one-hot"),
    ],
)
def test_the_exact_loss_is_the_mean_error_of_the_hooked_model(law):
    """On a denser grid of phases and points than the quadratic's own, every entry of QK and OV random."""
    config, process = of_law(law, n_ctx=3)
    model = config.build(process)
    with torch.no_grad():
        for W in model.parameters():
            W.copy_(torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    if law.law == "gaussian":
        nodes, sizes = np.polynomial.hermite_e.hermegauss(5)
        points = torch.cartesian_prod(*[torch.tensor(nodes)] * 2) @ law.mixing(2).T * law.scale
        weights = torch.cartesian_prod(*[torch.tensor(sizes / sizes.sum())] * 2).prod(1)
    else:
        points = torch.eye(2, dtype=torch.float64) * law.scale
        weights = torch.full((2,), 0.5, dtype=torch.float64)
    angles = 2 * torch.pi * torch.arange(13, dtype=torch.float64) / 13
    phases = torch.cartesian_prod(angles, angles)
    first = points.to(torch.complex128).repeat_interleave(len(phases), 0)
    sequences = process.rollout(phases.repeat(len(points), 1), 4, first_tokens=first)
    losses = sequences.losses(model(sequences.inputs)).view(len(points), -1).mean(1)
    found = setting_of(config, process).expected_loss(model)
    assert (found.loss, found.source) == (pytest.approx((losses @ weights).item(), rel=1e-12), "exact")


@pytest.mark.parametrize(("law", "start"), [("signs", (0.1, -0.3)), ("gaussian", (0.5, 1.5)), ("one-hot", (2.0, 2.0))])
def test_descent_on_all_entries_follows_the_recursion(law, start):
    run = descended(law, start=start, lr=0.002)
    moments = theory.first_token_moments(law, dim=2)
    path = theory.descent_path(moments, a=start[0], b=start[1], max_length=5, lr=0.004, steps=30)  # of half the loss
    assert run.history["step"].tolist() == list(range(31))
    assert np.abs(run.history[["a", "b"]].to_numpy() - path).max() < 1e-12
    assert run.history["off_plane"].to_numpy().max() < 1e-13
    loss = theory.plane_loss(moments, max_length=5)
    expected = [2 * 2 * loss.at(a * b) / 3 for a, b in path]  # coordinates, without 1/2, mean over T
    assert run.history["loss_min"].to_numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_members_from_random_starts_reach_the_block_optimum_up_to_signs():
    run = descended("signs", n_ctx=5, steps=300, lr=0.04, n_seeds=8)
    assert run.members["loss"].to_numpy() == pytest.approx([1.36986 / 2] * 8, abs=2e-5)
    assert set(run.members["minus"]) == {0, 1}
    (A,), (B,) = main_blocks({name: W[None] for name, W in run.parameters.items()}, 2)
    assert (A.diagonal().sign() * B.diagonal().sign()).unique().numel() == 1


def test_a_record_stands_beside_the_recursion_of_its_law_and_of_no_other():
    run = descended("gaussian", start=(0.5, 1.5), lr=0.002)
    along = descent_along(run)
    assert along.deviation("a", "b", "product", "difference") < 1e-12
    assert descent_along(run, FirstToken("signs")).deviation("product") > 0.05
    altered = dataclasses.replace(run, parameters={name: 1.1 * W for name, W in run.parameters.items()})
    assert descent_along(altered).deviation("product") > 0.01  # weights count, not the log alone
    assert half_step(np.array([0.0, 2.0, 4.0]), np.array([0.0, 1.0, 4.0]), 4.0) == pytest.approx(8 / 3)


def test_signs_are_read_from_weights_and_from_behaviour():
    config, process = of_law("signs", dim=3)
    model = config.build(process)
    D = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    QK, OV = (torch.zeros(9, 9, dtype=torch.float64) for _ in range(2))
    QK[3:6, 6:], OV[3:6, :3] = torch.diag(0.5 * D), torch.diag(0.8 * D)
    model.load_state_dict({"blocks.0.attn.QK": QK[None], "blocks.0.attn.OV": OV[None]})
    pattern = sign_pattern(model)
    table = pattern.by_coordinate
    for column in ("values", "keys", "behaviour"):
        assert table[column].tolist() == D.tolist()
    assert table["gain"].to_numpy() == pytest.approx(table["predicted"].to_numpy(), rel=1e-12)
    assert table["gain"].to_numpy() == pytest.approx([0.4, -0.4, 0.4], rel=1e-12)
    assert table["one_step"].tolist() == pytest.approx([1.2] * 3)
    assert pattern.reflected


@pytest.mark.parametrize("entries", ["main", "diagonal"])
def test_other_entries_stay_zero(entries):
    run = descended("ones", lr=0.01, entries=entries)
    (A,), (B,) = main_blocks({name: W[None] for name, W in run.parameters.items()}, 2)
    assert sum((W != 0).sum() for W in run.parameters.values()) == (8 if entries == "main" else 4)
    assert ((A - torch.diag(A.diagonal())).abs().max() > 1e-3) == (entries == "main")
    assert (B != 0).sum() == (4 if entries == "main" else 2)


def test_stages_of_unequal_coordinates_are_in_the_history_and_come_back(tmp_path):
    run = descended(FirstToken("gaussian", scales=(1.5, 1.0)), start=(0.2, 0.2), lr=0.002)
    path = theory.anisotropic_path(a=[0.2] * 2, b=[0.2] * 2, scales=[1.5, 1.0], max_length=5, lr=0.004, steps=30)
    assert run.history[["product_1", "product_2"]].to_numpy() == pytest.approx(path.prod(1), abs=1e-13)
    stages = stage_times(run).by_coordinate
    assert stages["measured"].tolist() == pytest.approx(stages["predicted"].tolist(), nan_ok=True)
    assert stages["end"].to_numpy() == pytest.approx(path[-1].prod(0), rel=1e-12)
    again = load(run.save(tmp_path / "run"))
    assert again.history.equals(run.history)
    assert (again.training, again.process) == (run.training, run.process)


def test_sampled_descent_is_near_the_recursion():
    run = descended("signs", objective="sampled", start=(0.1, 0.3), lr=0.01, batch=1024, steps=40)
    moments = theory.first_token_moments("signs", dim=2)
    path = theory.descent_path(moments, a=0.1, b=0.3, max_length=5, lr=0.02, steps=40).prod(1)
    assert run.history.eval("a * b").to_numpy() == pytest.approx(path, abs=0.03 * path[-1])


def test_first_tokens_have_the_covariance_asked_for(assert_mean):
    law = FirstToken("gaussian", scale=2.0, scales=(1.0, 0.5, 2.0), correlation=0.6)
    x = law.draw(40_000, 3, torch.Generator().manual_seed(0))
    scales = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
    same = torch.full((3, 3), 0.6, dtype=torch.float64).fill_diagonal_(1.0)
    assert_mean((x[:, :, None] * x[:, None]).flatten(1), (scales[:, None] * same * scales).flatten())
    assert law.mean_square(3) == 21.0


def test_figures_show_the_numbers_of_their_results():
    checkpoints = [load(f"emergence-{name}") for name in ("signs", "anisotropic", "random")]
    along, setting = descent_along(checkpoints[0]), setting_of(checkpoints[0].config, checkpoints[0].process)
    stages, members = stage_times(checkpoints[1]), checkpoints[2].members
    drawn = {
        "phase_portrait": figures.phase_portrait(along, setting.flows((0.1, -0.3)), setting),
        "plateau_and_drop": figures.plateau_and_drop(along),
        "emergence_stages": figures.emergence_stages(descent_along(checkpoints[1]), stages),
        "reflected_step": figures.reflected_step(sign_pattern(checkpoints[2])),
        "sign_patterns": figures.sign_patterns(members, 3),
    }
    check_titles(drawn)
    assert all(
        axis.title.text for figure in drawn.values() for axis in (*figure.select_xaxes(), *figure.select_yaxes())
    )
    assert trace(drawn["phase_portrait"], "training").x[-1] == along.by_step["a"].iloc[-1]
    assert "17 and 404 steps" in drawn["emergence_stages"].layout.title.text
    shares = drawn["sign_patterns"].data
    assert (shares[0].y[0], shares[1].y) == ((members["minus"] == 0).mean(), (0.25, 0.75))


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        ("Adam passed off as descent", {"emergence/path": "fails", "emergence/difference": "fails"}),
        ("a reflected step for a step", {"emergence/plane": "fails", "emergence/loss": "holds"}),
        ("a sign of the values alone", {"signs/behaviour": "fails", "signs/share": "holds"}),
    ],
)
def test_trainings_that_are_not_what_is_said_of_them_are_caught(name, verdicts):
    checkpoint = load(EMERGENCE[name].base)
    found = verify(EMERGENCE[name].make(checkpoint, 0), checkpoint.process, seed=0, n=64)
    assert {claim: found[claim].verdict for claim in verdicts} == verdicts


def test_masked_training_is_measured_on_contexts_where_the_grid_is_too_large():
    config, process = of_law("ones", dim=5, n_ctx=5)
    a = setting_of(config, process).product ** 0.5
    masked = TrainConfig(objective="sampled", start=(a, a), lr=1e-4, steps=2, batch=64, entries="diagonal")
    claims = verify(train(config, process, masked, progress=False), seed=0)
    assert (claims["emergence/masked loss"].verdict, claims["emergence/masked loss"].evidence) == ("holds", "behaviour")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stage_times(descended("ones", steps=1, start=(0.1, 0.1))), "must have coordinates of several sizes"),
        (lambda: sign_pattern("figure7-h1"), "one layer with one head on augmented tokens"),
        (lambda: FirstToken("signs", correlation=0.5), "scales and correlation go with the law 'gaussian'"),
        (lambda: FirstToken("gaussian", correlation=1.0), "correlation must be below 1, got 1"),
        (lambda: FirstToken("gaussian", scales=(1.0, 0.0)), r"scales\[1\] must be greater than 0"),
        (
            lambda: CommutingUnitary(3, first_token=FirstToken("gaussian", scales=(1.0, 2.0))),
            "must hold dim = 3 numbers",
        ),
        (lambda: TrainConfig(start=(1.0,)), "start must hold two numbers"),
        (lambda: TrainConfig(entries="some"), "entries must be one of 'all', 'main', 'diagonal'"),
        (
            lambda: ModelConfig.full(dim=2, n_ctx=4, n_heads=1).gradient_step(1.0, 1.0),
            "one layer with one block-scalar",
        ),
        (lambda: ModelConfig.augmented(dim=2, n_ctx=4).entries("main"), "entries='main' goes with heads='merged'"),
        (lambda: ModelConfig.full(dim=2, n_ctx=4, n_heads=1, heads="merged"), "heads='merged' are 3 x 3 blocks"),
        (lambda: exact.first_token_points("sphere", dim=2), "first tokens of law 'sphere' have no few points"),
        (
            lambda: exact.layer_quadratic(torch.ones(1, 5), torch.ones(1), n_ctx=20),
            "ask for a grid of .* sequences, more than 20000",
        ),
        (lambda: train(*of_law("ones", dim=5, n_ctx=20), progress=False), "its exact grid has .* sequences"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_block_scalar_layers_begin_in_the_plane_too():
    config = dataclasses.replace(of_law("signs")[0], heads="block-scalar")
    model = config.build(CommutingUnitary(2))
    model.load_state_dict(config.gradient_step(0.3, 0.7))
    assert (model.block_scalars.a.tolist(), model.block_scalars.b.tolist()) == ([0, 0.3, 0, 0], [0.7, 0])
