"""Figures show the result's own numbers, name their axes, and say what theory expects of the model at hand."""

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from oracles import check_titles, plain, trace

import ar_interp as ari

N_CTX = 7
SEQUENCE, POSITION = 2, 5
TESTED_APART = (
    ".chains",
    ".emergence",
    ".noise",
    ".paper",
    ".regression",
    ".text",
    "circuits",
    "interventions",
    ".landscape",
)
NOT_BUILDERS = {name for name in ari.figures.__all__ if getattr(ari.figures, name).__module__.endswith(TESTED_APART)}
TRAINING = {"objective": "sampled", "batch": 8, "steps": 3, "n_seeds": 4, "lr": 1e-4, "device": "cpu"}
SETTINGS = {
    "unitary": (ari.CommutingUnitary(4), ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=N_CTX)),
    "few heads": (ari.CommutingUnitary(4), ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX)),
    "orthogonal": (ari.CommutingOrthogonal(4), ari.ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=N_CTX)),
    "positional": (
        ari.CommutingUnitary(1, mu=50.0),
        ari.ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.3),
    ),
}


class Results:
    """Every result of one setting, and every figure of them."""

    def __init__(self, process: ari.processes.Process, config: ari.ModelConfig) -> None:
        self.process, self.config = process, config
        self.setting = ari.setting_of(self.config, self.process)
        self.model = ari.HookedARTransformer(self.config, process=self.process, seed=3)
        self.sequences = self.process.sample(5, N_CTX + 1, seed=0)
        self.predictions = self.model(self.sequences.tokens[:, :-1]).detach()
        self.recovered = ari.recover_context(self.model, self.sequences)
        self.heads = ari.head_orthogonality(self.model)
        self.untrained = ari.head_orthogonality(self.model.untrained(seed=1))
        self.structure = ari.positional_structure(self.model)
        self.run = ari.train(self.config, self.process, ari.TrainConfig(**TRAINING))
        self.identification = ari.identify_algorithm(self.model, self.process.sample(12, N_CTX + 1, seed=1))
        self.outside = ari.outside_errors(self.model, theory=self.setting.ideal(self.model), n=4)
        many = self.process.sample(128, N_CTX + 1, seed=2)
        self.read = ari.data_efficiency(self.model, many, hook="blocks.0.hook_attn_out", target="next token")
        self.filter = ari.theory.spectral_filter(mu=50.0, length=N_CTX, step_size=0.1, steps=5)

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        setting, place = self.setting, {"sequence": SEQUENCE, "position": POSITION}
        figures = {
            "prediction": ari.figures.prediction(self.sequences, self.predictions, setting, **place),
            "context_error": ari.figures.context_error(self.recovered, setting),
            "context_matrices": ari.figures.context_matrices(self.recovered, setting, **place),
            "phases_on_circle": ari.figures.phases_on_circle(self.recovered, setting, **place),
            "head_matrices": ari.figures.head_matrices(self.heads, setting),
            "head_spectrum": ari.figures.head_spectrum(self.heads, setting),
            "head_statistics": ari.figures.head_statistics(self.heads, self.untrained, setting),
            "positional_matrix": ari.figures.positional_matrix(self.structure, setting),
            "positional_rows": ari.figures.positional_rows(self.structure, setting),
            "positional_ratio": ari.figures.positional_ratio(self.structure, setting),
            "residual_by_angle": ari.figures.residual_by_angle(self.structure, setting),
            "error_by_position": ari.figures.error_by_position(self.identification),
            "algorithm_match": ari.figures.algorithm_match(self.identification),
            "steps_by_layer": ari.figures.steps_by_layer(self.identification),
            "filter_profile": ari.figures.filter_profile(self.structure, self.filter),
            "training_history": ari.figures.training_history(self.run.history, setting),
            "outside_errors": ari.figures.outside_errors(self.outside),
            "outside_table": ari.figures.outside_table(self.outside),
            "along_training": ari.figures.along_training(ari.structure_along(self.run.models_along, self.process)),
            "member_levels": ari.figures.member_levels(self.run.members),
            "data_efficiency": ari.figures.data_efficiency(self.read),
        }
        if self.structure.filter_response is not None:
            figures["filter_response"] = ari.figures.filter_response(self.structure, self.filter)
        return figures


@pytest.fixture(scope="module")
def results() -> dict[str, Results]:
    return {name: Results(*given) for name, given in SETTINGS.items()}


class GeneralResults:
    """Every figure that a model without diagonal heads has."""

    config: ari.ModelConfig

    def __init__(self, config: ari.ModelConfig) -> None:
        self.config, self.process = config, ari.HaarOrthogonal(4)
        self.model = ari.HookedARTransformer(self.config, process=self.process, seed=3)
        self.setting = ari.setting_of(self.config, self.process)
        self.sequences = self.process.sample(12, N_CTX + 1, seed=0)
        self.predictions = self.model(self.sequences.tokens[:, :-1]).detach()
        self.recovered = ari.recover_context(self.model, self.sequences)
        self.identification = ari.identify_algorithm(self.model, self.sequences)

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        setting, place = self.setting, {"sequence": SEQUENCE, "position": POSITION}
        losses = {f"loss_{which}": [2.0, 1.0] for which in ("min", "median", "max")}
        history = pd.DataFrame({"step": [1, 2], **losses})
        return {
            "prediction": ari.figures.prediction(self.sequences, self.predictions, setting, **place),
            "context_error": ari.figures.context_error(self.recovered, setting),
            "context_matrices": ari.figures.context_matrices(self.recovered, setting, **place),
            "error_by_position": ari.figures.error_by_position(self.identification),
            "algorithm_match": ari.figures.algorithm_match(self.identification),
            "steps_by_layer": ari.figures.steps_by_layer(self.identification),
            "training_history": ari.figures.training_history(history, setting),
        }


GENERAL = {
    "one layer": ari.ModelConfig.augmented(dim=4, n_ctx=N_CTX),
    "deep": ari.ModelConfig.augmented(dim=4, n_ctx=N_CTX, n_layers=3, attention="linear/keys"),
    "plain": ari.ModelConfig.full(dim=4, n_ctx=N_CTX, n_heads=2),
}


@pytest.fixture(scope="module")
def general() -> dict[str, GeneralResults]:
    return {setting: GeneralResults(config) for setting, config in GENERAL.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_figure_has_a_title_named_axes_and_a_signed_scale_centred_at_zero(results, setting):
    figures = results[setting].figures
    check_look(figures)
    assert set(figures) >= set(ari.figures.__all__) - NOT_BUILDERS - {"filter_response"}


@pytest.mark.parametrize("setting", GENERAL)
def test_figures_of_general_models_look_as_the_others_do(general, setting):
    figures = general[setting].figures
    check_look(figures)
    check_titles(figures)


def check_look(figures: dict[str, go.Figure]) -> None:
    for name, figure in figures.items():
        assert len(figure.layout.title.text) > 20, name
        assert figure.layout.title.subtitle.text, name
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
        if name.endswith("table"):
            continue
        assert axes, name
        assert all(axis.title.text for axis in axes), name
        heatmaps = [trace for trace in figure.data if trace.type == "heatmap"]
        assert all(trace.coloraxis == "coloraxis" for trace in heatmaps), name
        if heatmaps:
            assert figure.layout.coloraxis.cmid == 0, name
            assert figure.layout.coloraxis.colorscale is not None, name
        figure.to_json()


def test_no_builder_is_left_out(results):
    assert set(results["positional"].figures) == set(ari.figures.__all__) - NOT_BUILDERS


@pytest.mark.parametrize("setting", SETTINGS)
def test_titles_are_one_line_or_two_that_fit_half_a_page(results, setting):
    check_titles(results[setting].figures)


def test_algorithm_figures_draw_the_identification(general):
    found = general["deep"].identification
    figures = general["deep"].figures
    drawn = trace(figures["error_by_position"], "layer 2")
    rows = found.by_position[found.by_position["estimator"] == "model, layer 2"]
    assert list(drawn.y) == list(rows["error_per_token"])
    assert list(drawn.x) == list(rows["T"])
    assert {"OLS", "zero", "4 steps / pair"} < {line.name for line in figures["error_by_position"].data}
    match = trace(figures["algorithm_match"], "distance of predictions")
    rows = found.matches[found.matches["layer"] == 2].set_index("estimator")
    assert list(match.x) == [rows.loc[name, "distance_per_token"] for name in match.y]
    assert match.marker.color[match.y.index(found.best())] != match.marker.color[match.y.index("last token")]
    assert "4 steps" not in match.y  # of the other normalisation
    steps = trace(figures["steps_by_layer"], "the same error")
    rows = found.steps[found.steps["per_pair"] & (found.steps["by"] == "error")]
    assert list(steps.customdata) == list(rows["steps"])
    assert list(steps.x) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimators": ["magic"]}, "estimators must be some of 'model, layer 0', .*, got 'magic'"),
        ({"layers": [9]}, "layers must be at most 0, got 9"),
        ({"band": "foo"}, "band must be one of 'ci95', 'quantile', got 'foo'"),
    ],
)
def test_what_was_not_measured_cannot_be_drawn(options, message, general):
    with pytest.raises(ValueError, match=message):
        ari.figures.error_by_position(general["plain"].identification, **options)


def test_layers_estimators_and_bands_are_chosen(general):
    found = general["deep"].identification
    figure = ari.figures.error_by_position(found, layers=[0, 2], estimators=["OLS"], band="ci95")
    assert {line.name for line in figure.data if line.name} == {"layer 0", "layer 2", "OLS"}
    rows = found.by_position[found.by_position["estimator"] == "OLS"]
    upper = next(line for line in figure.data if line.legendgroup == "OLS")
    np.testing.assert_allclose(upper.y, (rows["error_per_token"] + 1.96 * rows["error_per_token_se"]).clip(1e-32))
    assert "95 % intervals of the means; what is below 1e-32 is drawn there" in plain(figure.layout.title.subtitle.text)


def test_real_sequences_are_drawn_as_real_numbers(general):
    given = general["one layer"]
    figures = given.figures
    W, estimate = given.recovered.W[SEQUENCE], given.recovered.estimate[SEQUENCE, POSITION - 1]
    for drawn, matrix in zip(figures["context_matrices"].data, (W, estimate), strict=True):
        assert torch.equal(torch.tensor(drawn.z, dtype=torch.float64), matrix)
    target, predicted = figures["prediction"].data[2:4]
    assert list(target.y) == given.sequences.tokens[SEQUENCE, POSITION].tolist()
    assert list(predicted.y) == given.predictions[SEQUENCE, POSITION - 1].tolist()
    assert list(trace(figures["training_history"], "the seed").y) == [2.0, 1.0]


def test_context_error_draws_the_errors_of_every_estimator(results):
    recovered = results["unitary"].recovered
    figure = ari.figures.context_error(recovered, results["unitary"].setting, band="quantile")
    for name, rows in recovered.errors.groupby("estimator"):
        line = trace(figure, "1 step" if name == "one gradient step" else name)
        assert list(line.x) == list(rows["T"])
        assert list(line.y) == list(rows["context_error_per_row"])
        np.testing.assert_allclose(
            line.error_y.array, rows["context_error_per_row_high"] - rows["context_error_per_row"]
        )
    assert figure.layout.yaxis.type == "log"


def test_context_matrices_draw_w_and_its_estimate(results):
    recovered = results["orthogonal"].recovered
    figure = ari.figures.context_matrices(
        recovered, results["orthogonal"].setting, sequence=SEQUENCE, position=POSITION
    )
    W, estimate = recovered.W[SEQUENCE], recovered.estimate[SEQUENCE, POSITION - 1]
    for drawn, matrix in zip(figure.data, (W.real, estimate.real, W.imag, estimate.imag), strict=True):
        assert torch.equal(torch.tensor(drawn.z, dtype=torch.float64), matrix)


def test_an_estimate_that_says_nothing_of_w_is_called_so(results):
    recovered, setting = results["unitary"].recovered, results["unitary"].setting
    for share in (0.0, 1.0):
        estimate = (share * recovered.W[:, None]).expand_as(recovered.estimate)
        figure = ari.figures.context_matrices(
            replace(recovered, estimate=estimate), setting, sequence=SEQUENCE, position=POSITION
        )
        assert ("no nearer to W than zero" in figure.layout.title.text) == (share == 0.0)


def test_phases_on_circle_draw_three_sets_of_eigenvalues(results):
    recovered = results["orthogonal"].recovered
    figure = ari.figures.phases_on_circle(
        recovered, results["orthogonal"].setting, sequence=SEQUENCE, position=POSITION
    )
    estimates = (m[SEQUENCE, POSITION - 1] for m in (recovered.estimate, recovered.in_context_map))
    for drawn, matrix in zip(figure.data, (recovered.W[SEQUENCE], *estimates), strict=False):
        assert list(drawn.x) == matrix.diagonal().real.tolist()
        assert list(drawn.y) == matrix.diagonal().imag.tolist()


def test_prediction_of_a_position_lies_on_the_next_token_of_the_sequence(results):
    given = results["unitary"]
    figure = given.figures["prediction"]
    over_time, predicted_over_time, target, predicted = figure.data[:4]
    assert list(over_time.y) == given.sequences.tokens[SEQUENCE, :, 0].real.tolist()
    at = list(predicted_over_time.x).index(POSITION + 1)
    assert predicted_over_time.y[at] == given.predictions[SEQUENCE, POSITION - 1, 0].real.item()
    assert list(target.x) == given.sequences.tokens[SEQUENCE, POSITION].real.tolist()
    assert list(predicted.y) == given.predictions[SEQUENCE, POSITION - 1].imag.tolist()


def test_head_figures_draw_the_weights_and_the_statistics(results):
    given = results["few heads"]
    figures = given.figures
    for drawn, matrix in zip(
        figures["head_matrices"].data, (given.heads.A, given.heads.B, given.heads.C, given.heads.M), strict=True
    ):
        assert torch.equal(torch.tensor(drawn.z, dtype=torch.float64), matrix)
    assert list(figures["head_spectrum"].data[0].y) == given.heads.singular_values.tolist()
    assert given.heads.e_c in trace(figures["head_statistics"], "this model").x
    assert given.untrained.e_c in trace(figures["head_statistics"], "untrained").x


def test_positional_figures_draw_p_and_the_residual(results):
    given = results["orthogonal"]
    figures, structure = given.figures, given.structure
    drawn = np.array(figures["positional_matrix"].data[0].z, dtype=float)
    used = np.tril(np.ones_like(drawn), 1) > 0
    assert (drawn[used] == structure.P.numpy()[used]).all()
    assert np.isnan(drawn[~used]).all()
    last_row = figures["positional_rows"].data[0]
    assert last_row.x[-1] == 0
    assert list(last_row.y) == structure.P[-1].tolist()
    assert list(figures["positional_ratio"].data[0].y) == structure.ratio_by_length.tolist()
    assert list(figures["residual_by_angle"].data[0].y) == structure.residual_by_angle.tolist()
    line = figures["positional_ratio"].layout.shapes[0]
    assert line.y0 == ari.theory.kappa_to_ratio(structure.kappa)


def test_data_efficiency_draws_a_line_for_the_probe_and_each_control(results):
    found = results["unitary"].read
    figure = results["unitary"].figures["data_efficiency"]
    assert {line.name for line in figure.data} == set(found.curve["source"])
    for line in figure.data:
        rows = found.curve[found.curve["source"] == line.name]
        assert list(line.x) == list(rows["n_train"])
        assert list(line.y) == list(rows["score"])


def test_filter_figures_draw_the_measured_beside_the_theory(results):
    given = results["positional"]
    figures = given.figures
    assert list(trace(figures["filter_profile"], "trained").y) == given.structure.profile.tolist()
    assert list(trace(figures["filter_profile"], "filter (theory)").y) == given.filter.p.tolist()
    assert list(trace(figures["filter_response"], "trained").y) == given.structure.filter_response.tolist()


def test_filter_response_needs_a_positional_only_model(results):
    with pytest.raises(ValueError, match="structure has no filter_response"):
        ari.figures.filter_response(results["unitary"].structure, results["unitary"].filter)


def test_training_figures_draw_the_loss_above_the_minimum_and_the_levels(results):
    given = results["few heads"]
    assert given.setting.minimum == 2
    figure = ari.figures.training_history(given.run.history, given.setting)
    assert list(trace(figure, "best seed").y) == list(given.run.history["loss_min"] - 2)
    sparse = pd.DataFrame({"step": [0, 40, 80], "loss_min": [10, 3, 2.5], "loss_median": 9, "loss_max": 9})
    said = ari.figures.training_history(sparse, given.setting).layout.title.subtitle.text.replace("<br>", " ")
    assert "93% of the descent lies between two rows of the log, at steps 0 and 40" in said
    levels = np.array([0.0, 0.4, 0.9])
    histogram = ari.figures.member_levels(given.run.members, levels)
    assert list(histogram.data[0].x) == list(given.run.members["loss"])
    assert [line.x0 for line in histogram.layout.shapes] == levels.tolist()


@pytest.mark.parametrize(
    ("process", "n_heads", "heads", "spectrum"),
    [
        (ari.CommutingUnitary(10), 10, "identity, and ABᵀ too", "10 singular values of C are |c|"),
        (ari.CommutingUnitary(10), 20, "ABᵀ is c times a projector of rank 10", "10 singular values of C are |c|"),
        (ari.CommutingUnitary(10), 5, "projector of rank 5, and ABᵀ is c I", "5 singular values of C are |c| and"),
        (ari.CommutingOrthogonal(10), 3, "3 equal 2×2 blocks of ones", "3 singular values of C are 2|c|"),
        (ari.CommutingOrthogonal(10), 5, "ABᵀ is 2c I", "5 singular values of C are 2|c|"),
        (ari.CommutingOrthogonal(10), 8, "ABᵀ has 5 eigenvalues 2c", "5 singular values of C are 2|c|"),
        (ari.CommutingOrthogonal(10), 10, "any κ but −1", "5 singular values are |c (1 + κ)|"),
    ],
)
def test_titles_say_what_theory_says_of_this_family_and_number_of_heads(process, n_heads, heads, spectrum):
    setting = ari.setting_of(ari.ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=3), process)
    assert heads in setting.sentence("heads")
    assert spectrum in setting.sentence("spectrum")
    exact = "the prediction is the next token" in setting.sentence("prediction")
    assert exact == (setting.minimum == 0)


def test_no_title_speaks_of_theory_where_it_is_silent():
    """Noise of .3: no closed form holds, and nothing is said to be exact."""
    process = ari.CommutingUnitary(4, noise=0.3)
    given = Results(process, ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=N_CTX))
    assert given.setting.why_not
    for name, figure in given.figures.items():
        if name not in ("filter_profile", "filter_response"):
            title = figure.layout.title
            words = f"{title.text} {title.subtitle.text}".lower()
            assert "in theory" not in words, name
            assert "exactly" not in words, name


@pytest.mark.parametrize(("n_heads", "kappa"), [(5, 1.0), (10, 0.3)])
def test_the_expected_spectrum_is_that_of_the_closed_form(n_heads, kappa):
    """Singular values of c [[1, k], [k, 1]] are |c (1 + k)| and |c (1 - k)|, as the titles say."""
    C = ari.theory.kappa_family(dim=10, kappa=kappa, n_ctx=3, scale=1.5).C
    values = torch.linalg.svdvals(C)
    assert torch.allclose(values[:5], torch.full((5,), 1.5 * (1 + kappa), dtype=torch.float64))
    assert torch.allclose(values[5:], torch.full((5,), 1.5 * (1 - kappa), dtype=torch.float64))
    config = ari.ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=3)
    assert ari.setting_of(config, ari.CommutingOrthogonal(10)).kappa_is_one == math.isclose(kappa, 1)


def test_a_model_that_misses_the_theory_shows_its_own_numbers(results):
    given = results["unitary"]
    figure = ari.figures.head_matrices(given.heads, given.setting)
    assert f"C = BᵀA is {given.heads.e_c:.3g} away" in plain(figure.layout.title.text)
    assert "In theory C = BᵀA" in plain(figure.layout.title.subtitle.text)


def test_the_ratio_is_drawn_where_theory_has_none():
    """kappa = -1: no finite p_{T-1} / p_T fits, so there is no line and the axis is that of the data."""
    minus = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    A, B = ari.theory.factor_heads(torch.block_diag(minus, minus), n_heads=2)
    P = ari.theory.positional_weights(n_ctx=N_CTX, previous=0.5, last=1.0)
    process = ari.CommutingOrthogonal(4)
    structure = ari.positional_structure(ari.HookedARTransformer.from_diagonal(A, B, P, process=process))
    setting = ari.setting_of(ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX), process)
    figure = ari.figures.positional_ratio(structure, setting)
    assert structure.ratio_from_kappa == math.inf
    assert not figure.layout.shapes
    assert np.isfinite(figure.layout.yaxis.range).all()
