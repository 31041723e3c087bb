"""Features and kernel of a model of prompts beside theory: probe, claims, figures, sabotaged models."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

import ar_interp as ari
from ar_interp import theory
from ar_interp.claims import subject_of
from ar_interp.models.features import RegressionConfig
from ar_interp.probes.regression import excess_by_tasks, kernel_structure, of_features, risks_by_length, risks_by_order
from ar_interp.sabotage import run_battery
from ar_interp.studies import exhibits_of
from ar_interp.studies.regression import claims as regression_claims
from ar_interp.studies.regression import recipes

NAME = "regression-high"
PROCESS = ari.NonparametricRegression(variances=[0.01, 0.2, 0.2, 0.05, 0.05, 0.3, 0.3])
SETTING = ari.setting_of(RegressionConfig(n_features=4, n_ctx=9), PROCESS)


def exact(rows: list[int], turn: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """These functions as features with gamma, in another basis where asked."""
    gamma = theory.linear_attention_weights(PROCESS.prior, n=8, noise_variance=0.25)[rows]
    phi, Gamma = SETTING.functions[:, rows], torch.diag(torch.from_numpy(gamma))
    if turn:
        G = torch.randn(len(rows), len(rows), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        phi, Gamma = phi @ G.mT, torch.linalg.inv(G).mT @ Gamma @ torch.linalg.inv(G)
    return phi, Gamma


@pytest.mark.parametrize("turn", [False, True])
def test_the_functions_of_largest_variance_with_gamma_are_the_minimum(turn):
    found = of_features(*exact([5, 6, 1, 2], turn), SETTING)
    assert found.risk == pytest.approx(SETTING.minimum, abs=1e-10)
    assert found.best_risk == pytest.approx(SETTING.minimum, abs=1e-10)
    assert found.angle < 1e-5
    assert found.spectrum_error < 1e-10
    assert found.asymmetry < 1e-10
    assert torch.allclose(found.span, found.target, atol=1e-8)


def test_what_is_wrong_is_told_apart():
    phi, Gamma = exact([5, 6, 1, 2])
    attention = of_features(phi, 1.5 * Gamma, SETTING)
    assert attention.best_risk == pytest.approx(SETTING.minimum)
    assert attention.risk > 1.1 * SETTING.minimum
    features = of_features(*exact([5, 6, 1, 3]), SETTING)
    assert features.risk == pytest.approx(features.best_risk)
    assert features.risk > 1.1 * SETTING.minimum
    assert features.angle == pytest.approx(90)
    turned = of_features(phi, Gamma.roll(1, 0), SETTING)
    assert turned.asymmetry > 0.5


def test_risks_by_length_are_those_of_theory():
    model = ari.load(NAME).model
    table = risks_by_length(model, lengths=[1, 32, 64], n=400).set_index(["n", "predictor"])["risk"].unstack()  # noqa: PD010
    setting = ari.setting_of(model.config, model.process)
    assert table.loc[32, "model"] == pytest.approx(setting.minimum, abs=1e-4)
    at = theory.linear_attention_risk_at(setting.weights, setting.descending, n=64, noise_variance=0.25)
    assert table.loc[64, "model"] == pytest.approx(at, abs=1e-3)
    every = theory.linear_attention_risk(model.process.prior, n=64, noise_variance=0.25)
    assert table.loc[64, "linear attention, all functions"] == pytest.approx(every, abs=1e-10)
    assert (table["Bayes"] < table["linear attention, all functions"] * 1.2).all()


def test_tasks_cost_what_theory_says():
    table = excess_by_tasks(ari.load(NAME), tasks=[8, 64, 128], repeats=64)
    by = table.set_index(["protocol", "tasks"])
    assert ("one noisy answer, full Γ", 8) not in by.index
    assert len(by) == 8
    within = (table["excess"] - table["formula"]).abs() < 2 * table["half_width"] + 0.4 * table["formula"]
    assert within.all()
    full, diagonal = by.loc[("one noisy answer, full Γ", 128)], by.loc[("one noisy answer, diagonal Γ", 128)]
    assert full["excess"] > 2.5 * diagonal["excess"]


def test_figures_of_order_and_tasks_say_what_is_seen():
    model = ari.load(NAME).model
    excesses = excess_by_tasks(model, tasks=[32, 64], repeats=2)
    joint = pd.DataFrame({"tasks": [64], "excess": [1.0]})
    figure = ari.figures.excess_by_tasks(excesses, joint)
    full = excesses["excess"].iloc[0]
    assert figure.layout.title.text.startswith(f"With one noisy answer a task, T = 32 tasks cost {full:.3g} of risk")
    assert "dashed: N² = 16; diamonds" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert len(figure.data) == 7
    assert all(not isinstance(shape.x0, str) and shape.x0 == 16 for shape in figure.layout.shapes)
    assert not figure.layout.annotations  # plotly takes their place on a logarithmic axis for an exponent
    figure = ari.figures.risk_by_order(risks_by_order(model, lengths=[32, 64]))
    assert figure.layout.title.text.startswith("At 64 examples the order of frequency costs 3.13 times")


def test_the_order_of_frequency_costs_where_variances_have_another():
    def ratio(model, a):
        rows = risks_by_order(model, smoothness=a, lengths=[32, 256]).set_index(["predictor", "n"])["risk"]
        names = rows.index.get_level_values(0).unique()
        return [rows[names[2], n] / rows[names[1], n] for n in (32, 256)]

    smooth = RegressionConfig(n_features=3, n_ctx=9).build(ari.NonparametricRegression(smoothness=1.0))
    assert ratio(smooth, 1.0) == pytest.approx([1, 1])
    assert min(ratio(smooth, 0.25)) > 1.05
    assert min(ratio(ari.load(NAME), 0.5)) > 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: excess_by_tasks(NAME, tasks=[]), r"tasks must not be empty: leave it out for \[8, 32, 64, 128, 256\]"),
        (lambda: excess_by_tasks(NAME, tasks=[0]), r"tasks\[0\] must be at least 1, got 0"),
        (lambda: excess_by_tasks(NAME, repeats=1), "repeats must be at least 2, got 1"),
        (lambda: risks_by_length(NAME, lengths=[]), "lengths must not be empty: leave it out for"),
        (lambda: risks_by_length(NAME, n=1), "n must be at least 2, got 1"),
        (lambda: risks_by_order(NAME, smoothness=0.0), "smoothness must be greater than 0"),
    ],
)
def test_bad_arguments_of_probes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_of_sequences_is_refused():
    model = ari.ModelConfig.full(dim=2, n_ctx=4, n_heads=1).build(ari.HaarOrthogonal(2))
    with pytest.raises(ValueError, match=r"HookedARTransformer cannot be probed: it lacks features, Gamma. kernel_str"):
        kernel_structure(model)
    softmax = RegressionConfig(n_features=2, n_ctx=4, width=4, attention="softmax").build(PROCESS)
    with pytest.raises(ValueError, match="by linear attention, as RegressionConfig builds it, got HookedRegression"):
        kernel_structure(softmax)


def test_recipes_do_not_depend_on_how_python_sums(monkeypatch):
    """Which is compensated from 3.12 on. A process that differs in a last digit would be another one."""
    monkeypatch.setattr(recipes, "sum", math.fsum, raising=False)
    high = recipes.RECIPES["regression-high"].process
    assert (
        recipes._by_rank([3, 5, 1, 2, 4, *range(6, 41)], constant=1e-3) == high == ari.load("regression-high").process
    )


def test_a_shipped_model_has_its_figures_and_none_of_sequences():
    checkpoint = ari.load(NAME)
    subject = replace(subject_of(checkpoint), run=None)
    exhibits, kept = exhibits_of(subject), {}
    names = ["learned_features", "kernel_spectrum", "risk_by_length", "risk_by_order", "excess_by_tasks"]
    assert [exhibit.name for exhibit in exhibits] == names
    exhibits = exhibits[:3]
    titles = [exhibit.draw(subject, exhibit.result(subject, {}, kept)).layout.title.text for exhibit in exhibits]
    assert titles[0].startswith("The features span the functions of largest variance to 0.")
    assert titles[1].startswith("Eigenvalues of the kernel are γ to")
    assert titles[2].startswith("The model's risk is 0.157 at 32 examples")


def test_sabotaged_models_fail_where_they_must(monkeypatch):
    monkeypatch.setattr(regression_claims, "REPEATS", 8)
    names = ["prompts, attention without features", "prompts, a Gaussian process", "prompts, another basis"]
    result = run_battery(names, n=400)
    assert result.false_positives.empty
    assert result.misses.empty
    failed = result.frame[(result.frame["expected"] == "fail")]
    assert set(failed["verdict"]) == {"fails"}
