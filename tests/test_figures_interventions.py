"""Figures of interventions show where predictions were moved, and what edits and removals cost, as measured."""

import dataclasses
from functools import cached_property

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from oracles import check_titles, plain, trace

import ar_interp as ari
from ar_interp.probes.ablations import ablate_heads, ablate_positions
from ar_interp.probes.edits import EDITS, available_edits, edit_losses
from ar_interp.probes.paths import GRADIENT_STEP, has_paths, path_contributions
from ar_interp.probes.scrubbing import CONTROLS as SCRUB_CONTROLS
from ar_interp.probes.scrubbing import scrub
from ar_interp.probes.swap import CEILING, CONTROLS, SWAP, SwappedContext

N_CTX = 6
PAIR, POSITION = 2, 4
SETTINGS = {
    "unitary": (ari.CommutingUnitary(4), ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=N_CTX, init_scale=0.5)),
    "few heads": (ari.CommutingUnitary(4), ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX)),
    "orthogonal": (ari.CommutingOrthogonal(12), ari.ModelConfig.diagonal(dim=12, n_heads=6, n_ctx=N_CTX)),
    "positional": (ari.CommutingUnitary(1, mu=50.0), ari.ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.3)),
    "plain": (ari.HaarOrthogonal(3), ari.ModelConfig.full(dim=3, n_ctx=N_CTX, n_heads=2, init_scale=0.5)),
    "deep": (ari.HaarOrthogonal(4), ari.ModelConfig.augmented(dim=4, n_ctx=N_CTX, n_layers=2, init_scale=0.3)),
    "one step": (ari.HaarOrthogonal(3), ari.ModelConfig.augmented(dim=3, n_ctx=N_CTX, heads="block-scalar")),
    "figure 5": (ari.HaarOrthogonal(3), ari.ModelConfig.paper_figure5(dim=3, n_ctx=N_CTX, n_layers=2)),
}


class Moved:
    """The interventions of one setting, and every figure of them."""

    def __init__(self, setting: str) -> None:
        self.process, self.config = SETTINGS[setting]
        self.model = ari.HookedARTransformer(self.config, process=self.process, seed=3)
        self.setting = ari.setting_of(self.config, self.process)
        self.sources, self.targets = (self.process.sample(12, N_CTX + 1, seed=seed) for seed in (1, 0))
        self.swapped = self.swap()
        layers = range(self.config.n_layers)
        self.single = [self.swap(layers=[layer]) for layer in layers]
        self.cumulative = [self.swap(layers=range(layer + 1)) for layer in layers]
        last = self.config.n_layers - 1
        self.heads = ablate_heads(self.model, self.targets)
        self.keys = ablate_positions(self.model, self.targets, layer=last)
        self.paths = path_contributions(self.model, self.targets, layer=last) if has_paths(self.model) else None
        by_paths = self.config.encoding == "augmented"
        hypothesis = self.setting.hypothesis or ([GRADIENT_STEP] if by_paths else [0, 1])
        self.scrubbed = scrub(self.model, self.targets, hypothesis, layer=last)

    def swap(self, **options: object) -> SwappedContext:
        return ari.swap_context(self.model, self.sources, self.targets, **options)

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        figures = {
            "swapped_prediction": ari.figures.swapped_prediction(
                self.swapped, self.setting, pair=PAIR, position=POSITION
            ),
            "swap_scores": ari.figures.swap_scores(self.swapped, position=POSITION),
            "swap_by_layer": ari.figures.swap_by_layer(self.single, self.cumulative, position=POSITION),
            "ablation_costs": ari.figures.ablation_costs(self.heads),
            "ablation_costs of keys": ari.figures.ablation_costs(self.keys),
            "scrub_recovered": ari.figures.scrub_recovered(self.scrubbed),
        }
        if self.paths is not None:
            figures["path_shares"] = ari.figures.path_shares(self.paths)
        if available_edits(self.model):
            losses = edit_losses(self.model, available_edits(self.model)[0], [0.0, 1.0], n=2)
            figures["edit_curve"] = ari.figures.edit_curve(losses, losses)
        return figures


@pytest.fixture(scope="module")
def moved() -> dict[str, Moved]:
    return {setting: Moved(setting) for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_figure_has_titles_that_fit_and_named_axes(moved, setting):
    figures = moved[setting].figures
    check_titles(figures)
    for name, figure in figures.items():
        assert len(figure.layout.title.text) > 20, name
        assert figure.layout.title.subtitle.text, name
        axes = [axis for axis in [*figure.select_xaxes(), *figure.select_yaxes()] if axis.showticklabels is not False]
        assert all(axis.title.text for axis in axes), name
        figure.to_json()


def test_no_builder_is_left_out(moved):
    builders = {
        name for name in ari.figures.__all__ if getattr(ari.figures, name).__module__.endswith(".interventions")
    }
    drawn = set().union(*(given.figures for given in moved.values()))
    assert drawn - {"ablation_costs of keys"} == builders


@pytest.mark.parametrize("setting", ["unitary", "positional"])
def test_complex_predictions_turn_in_a_plane_for_every_coordinate(moved, setting):
    given = moved[setting]
    figure = given.figures["swapped_prediction"]
    at = given.swapped.positions.index(POSITION)
    own, tip, goal = (x[PAIR, at] for x in (given.swapped.own, given.swapped.moved, given.swapped.goal))
    for i in range(given.config.dim):
        ring, dot, arrow = (line for line in in_panel(figure, i) if line.name)
        assert (ring.x, ring.y) == ((goal[i].real.item(),), (goal[i].imag.item(),))
        assert (dot.x, dot.y) == ((own[i].real.item(),), (own[i].imag.item(),))
        assert arrow.x == (own[i].real.item(), tip[i].real.item())
        assert arrow.y == (own[i].imag.item(), tip[i].imag.item())
    assert not in_panel(figure, given.config.dim)


def test_of_many_coordinates_ten_are_drawn(moved):
    figure = moved["orthogonal"].figures["swapped_prediction"]
    assert len([line for line in figure.data if line.name == "moved by the swap"]) == 10


@pytest.mark.parametrize(("setting", "planes"), [("plain", [(0, 1), (1, 2)]), ("deep", [(0, 1), (2, 3)])])
def test_real_predictions_turn_in_planes_of_two_coordinates(moved, setting, planes):
    given = moved[setting]
    figure = given.figures["swapped_prediction"]
    at = given.swapped.positions.index(POSITION)
    own, tip = given.swapped.own[PAIR, at], given.swapped.moved[PAIR, at]
    for panel, (i, j) in enumerate(planes):
        arrow = in_panel(figure, panel)[-1]
        assert arrow.x == (own[i].item(), tip[i].item())
        assert arrow.y == (own[j].item(), tip[j].item())
    assert not in_panel(figure, len(planes))


def test_every_point_lies_within_its_panel(moved):
    for setting, given in moved.items():
        figure = given.figures["swapped_prediction"]
        for line in figure.data:
            if line.name:
                axes = [figure.layout[f"{axis}axis{getattr(line, f'{axis}axis')[1:]}"] for axis in "xy"]
                for axis, values in zip(axes, (line.x, line.y), strict=True):
                    assert all(axis.range[0] < value < axis.range[1] for value in values), setting


def test_predictions_that_hardly_differ_are_looked_at_closely(moved):
    checkpoint = ari.load("positional-mu100")
    sources, targets = (checkpoint.process.sample(2, 31, seed=seed) for seed in (1, 0))
    swapped = ari.swap_context(checkpoint.model, sources, targets, positions=[9])
    setting = ari.setting_of(checkpoint.config, checkpoint.process)
    low, high = ari.figures.swapped_prediction(swapped, setting, pair=0, position=9).layout.xaxis.range
    assert high - low < 0.5
    low, high = moved["unitary"].figures["swapped_prediction"].layout.xaxis.range
    assert low == -high < -0.5


def test_the_title_says_how_far_the_goal_is_before_and_after(moved):
    given = moved["unitary"]
    at = given.swapped.positions.index(POSITION)
    own, tip, goal = (x[PAIR, at] for x in (given.swapped.own, given.swapped.moved, given.swapped.goal))
    before, after = ((x - goal).norm().square() / goal.norm().square() for x in (own, tip))
    title = plain(given.figures["swapped_prediction"].layout.title.text)
    assert f"{before:.3g} before, {after:.3g} after" in title


def test_a_minimum_of_the_unitary_family_ends_in_the_rings():
    process = ari.CommutingUnitary(3)
    solution = ari.theory.kappa_family(dim=4, kappa=0.0, n_ctx=N_CTX)
    A, B = ari.theory.factor_heads(solution.C[:3, :3], n_heads=3)
    model = ari.HookedARTransformer.from_diagonal(A, B, solution.P, process=process)
    sources, targets = (process.sample(4, N_CTX + 1, seed=seed) for seed in (1, 0))
    swapped = ari.swap_context(model, sources, targets)
    setting = ari.setting_of(ari.ModelConfig.diagonal(dim=3, n_heads=3, n_ctx=N_CTX), process)
    figure = ari.figures.swapped_prediction(swapped, setting, pair=0, position=POSITION)
    for i in range(3):
        ring, _, arrow = (line for line in in_panel(figure, i) if line.name)
        assert (arrow.x[1], arrow.y[1]) == pytest.approx((ring.x[0], ring.y[0]))
    assert "every arrow ends in its ring" in plain(figure.layout.title.subtitle.text)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("unitary", "every arrow ends in its ring"),
        ("few heads", "as far as few heads can carry W"),
        ("orthogonal", "κ (λ̄ − λ̄<sub>target</sub>) s<sub>T</sub>"),
        ("positional", "older values, which stay, hold a part of W too"),
        ("deep", "as far as the model uses its estimate of W"),
    ],
)
def test_the_subtitle_says_what_theory_says_of_the_swap(moved, setting, said):
    assert said in plain(moved[setting].figures["swapped_prediction"].layout.title.subtitle.text)


@pytest.mark.parametrize("setting", ["unitary", "deep"])
def test_scores_are_drawn_with_their_ceiling_controls_and_errors(moved, setting):
    given = moved[setting]
    figure = given.figures["swap_scores"]
    table = given.swapped.by_position
    for condition in (SWAP, CEILING, *CONTROLS):
        rows = table[table["condition"] == condition]
        drawn = trace(figure, condition)
        assert list(drawn.x) == list(rows["T"])
        assert list(drawn.y) == list(rows["score"])
        assert list(drawn.error_y.array) == pytest.approx(1.96 * rows["score_se"].to_numpy())
    assert figure.layout.shapes[0].x0 == POSITION
    here = table[(table["condition"] == SWAP) & (table["T"] == POSITION)].iloc[0]
    said = plain(figure.layout.title.subtitle.text)
    assert f"at T = {POSITION}: swap {here['score']:.3f} ± {here['score_se']:.3f}, ceiling" in said
    assert "-0.000" not in said


def test_layers_are_drawn_alone_and_together(moved):
    given = moved["deep"]
    figure = given.figures["swap_by_layer"]
    for name, swaps in (
        ("in this layer alone", given.single),
        ("in all layers up to this one", given.cumulative),
    ):
        drawn = trace(figure, name)
        assert list(drawn.x) == [0, 1]
        assert list(drawn.y) == [score(swapped, SWAP) for swapped in swaps]
    assert trace(figure, "in this layer alone").y[1] != trace(figure, "in all layers up to this one").y[1]
    assert figure.layout.shapes[0].y0 == score(given.swapped, CEILING)


@pytest.mark.parametrize("builder", ["swap_scores", "swapped_prediction", "swap_by_layer"])
def test_a_position_that_was_not_swapped_is_refused(moved, builder):
    given = moved["deep"]
    arguments = {
        "swap_scores": ((given.swapped,), {}),
        "swapped_prediction": ((given.swapped, given.setting), {"pair": 0}),
        "swap_by_layer": ((given.single, given.cumulative), {}),
    }[builder]
    with pytest.raises(ValueError, match=r"position must be one that was swapped \(2, 3, 4, 5, 6\), got 7"):
        getattr(ari.figures, builder)(*arguments[0], **arguments[1], position=7)


def test_costs_are_bars_with_errors_and_theory_is_a_marker_on_each(moved):
    given = moved["unitary"]
    for name, ablation, component in (
        ("ablation_costs", given.heads, "head"),
        ("ablation_costs of keys", given.keys, "offset"),
    ):
        figure, table = given.figures[name], ablation.by_component
        bars, theory = trace(figure, "measured"), trace(figure, "theory")
        assert list(bars.x) == list(theory.x) == [str(k) for k in table[component]]
        assert list(bars.y) == list(table["cost"])
        assert list(bars.error_y.array) == pytest.approx(1.96 * table["cost_se"].to_numpy())
        assert list(theory.y) == list(table["predicted"])
        assert "In theory" in plain(figure.layout.title.subtitle.text)
        assert f"at most {table['cost'].max():.3g} ± " in plain(figure.layout.title.subtitle.text)


def test_where_theory_says_nothing_there_is_no_marker(moved):
    figures = moved["deep"].figures
    for name in ("ablation_costs", "ablation_costs of keys"):
        assert [bar.name for bar in figures[name].data] == ["measured"]
        assert "theory" not in plain(figures[name].layout.title.subtitle.text)
    assert list(figures["ablation_costs"].data[0].x) == ["0", "1"]  # layers, of one head each
    assert figures["ablation_costs"].layout.xaxis.title.text == "layer"


def test_a_head_without_which_the_stack_runs_off_does_not_hide_the_others(moved):
    ablation = moved["deep"].heads
    far = ablation.by_component.assign(cost=[1e9, 0.1])
    figure = ari.figures.ablation_costs(dataclasses.replace(ablation, by_component=far))
    assert figure.layout.yaxis.type == "log"
    assert moved["deep"].figures["ablation_costs"].layout.yaxis.type is None


def test_paths_are_drawn_by_effect_with_share_and_cost(moved):
    given = moved["deep"]
    figure = given.figures["path_shares"]
    table = given.paths.table.sort_values("effect").tail(8)
    share, cost = figure.data
    assert list(share.x) == list(table["share"])
    assert list(share.error_x.array) == list(table["share_se"])
    assert list(cost.x) == list(table["cost"])
    step = given.paths[GRADIENT_STEP]
    assert f"share {step['share']:.3f} ± {step['share_se']:.3f}" in plain(figure.layout.title.subtitle.text)
    assert "⟨s<sub>t−1</sub>|s<sub>T</sub>⟩ s<sub>t</sub>" in plain(figure.layout.title.text)
    assert not any("<s_" in name for name in share.y)


@pytest.mark.parametrize(
    ("name", "hypothesis", "kept"),
    [
        ("augmented-haar-short", None, "⟨s<sub>t−1</sub>|s<sub>T</sub>⟩"),
        ("plain-haar-h1", [0, 1], "keys T, T−1"),
    ],
)
def test_scrubbing_shows_the_hypothesis_its_controls_and_the_empty_layer(name, hypothesis, kept):
    checkpoint = ari.load(name)
    scrubbed = scrub(checkpoint.model, checkpoint.process.sample(32, checkpoint.config.n_ctx + 1, seed=0), hypothesis)
    figure = ari.figures.scrub_recovered(scrubbed)
    table = scrubbed.table.set_index("condition")
    conditions = ["hypothesis", *SCRUB_CONTROLS, "ablated"]
    bars = figure.data[0]
    assert list(bars.x) == list(table.loc[conditions, "recovered"])
    assert list(bars.error_x.array) == list(table.loc[conditions, "recovered_se"])
    assert bars.marker.color[0] not in bars.marker.color[1:]
    assert kept in plain(figure.layout.title.text)
    assert f"{scrubbed.recovered:.3f} ± " in plain(figure.layout.title.subtitle.text)


@pytest.mark.parametrize(
    ("setting", "edit", "source", "said"),
    [
        ("unitary", "head rotation", "exact", "closed form of the weights"),
        ("positional", "previous position", "exact", "closed form of the weights"),
        ("one step", "second path", "estimated", "estimated from other sequences"),
        ("plain", "positional scale", "none", "No closed form is known"),
    ],
)
def test_an_edit_is_predicted_and_measured_along_its_values_and_at_the_chosen_one(moved, setting, edit, source, said):
    given = moved[setting]
    losses = edit_losses(given.model, edit, [2.0, 0.5, -0.5], n=8)
    chosen = edit_losses(given.model, edit, [0.7], n=10)
    figure = ari.figures.edit_curve(losses, chosen)
    check_titles({"edit_curve": figure})
    table, here = losses.by_value.iloc[::-1], chosen.by_value.iloc[0]
    measured, marked = trace(figure, "measured"), trace(figure, "measured here")
    assert list(measured.x) == [-0.5, 0.5, 2.0]
    assert list(measured.y) == list(table["measured"])
    assert list(measured.error_y.array) == pytest.approx(1.96 * table["measured_se"].to_numpy())
    assert (marked.x, marked.y) == ((0.7,), (here["measured"],))
    assert figure.layout.shapes[0].x0 == EDITS[edit].neutral
    assert said in plain(figure.layout.title.subtitle.text)
    assert losses.source == source
    subtitle = plain(figure.layout.title.subtitle.text)
    assert (
        f"measured {here['measured']:.3g} ± {here['measured_se']:.3g}; 10 sequences; bars: 95 % intervals" in subtitle
    )
    if source == "none":
        assert "predicted" not in [line.name for line in figure.data]
        assert "predicted" not in plain(figure.layout.title.text)
    else:
        assert list(trace(figure, "predicted").y) == list(table["predicted"])
        assert f"predicted {here['predicted']:.3g}" in subtitle


def test_a_loss_of_rounding_is_drawn_as_zero():
    checkpoint = ari.load("diagonal-unitary-h10")
    losses = edit_losses(checkpoint.model, "previous position", [0.0, 1.0, 2.0], n=4)
    figure = ari.figures.edit_curve(losses, losses)
    assert losses.by_value["predicted"].max() < 1e-12
    assert figure.layout.yaxis.range[1] > 1e-10


def test_two_edits_are_not_drawn_as_one(moved):
    model = moved["unitary"].model
    with pytest.raises(ValueError, match="of one edit, got 'positional scale' and 'head rotation'"):
        ari.figures.edit_curve(
            edit_losses(model, "positional scale", [1.0], n=2), edit_losses(model, "head rotation", [1.0], n=2)
        )


def test_axes_name_weights_as_they_are_written(moved):
    losses = edit_losses(moved["unitary"].model, "previous position", [1.0], n=2)
    assert "p<sub>T−1</sub>" in ari.figures.edit_curve(losses, losses).layout.xaxis.title.text


def in_panel(figure: go.Figure, i: int) -> list[go.Scatter]:
    return [line for line in figure.data if line.xaxis == f"x{i + 1 if i else ''}"]


def score(swapped: SwappedContext, condition: str) -> float:
    table = swapped.by_position
    return table[(table["condition"] == condition) & (table["T"] == POSITION)]["score"].item()


def test_bars_are_the_middle_of_the_sequences_where_asked(moved):
    given = moved["unitary"]
    losses = edit_losses(given.model, available_edits(given.model)[0], [0.0, 1.0], n=9)
    scores = given.swapped.by_position[given.swapped.by_position["condition"] == SWAP]
    drawn = [
        (ari.figures.swap_scores(given.swapped, position=POSITION, band="quantile"), SWAP, scores, "score"),
        (ari.figures.ablation_costs(given.heads, band="quantile"), "measured", given.heads.by_component, "cost"),
        (ari.figures.edit_curve(losses, losses, band="quantile"), "measured", losses.by_value, "measured"),
    ]
    for figure, name, table, column in drawn:
        bars = trace(figure, name).error_y
        for ends, sign in (("high", 1), ("low", -1)):
            lengths = (sign * (table[f"{column}_{ends}"] - table[column])).clip(0)
            assert list(bars.array if sign == 1 else bars.arrayminus) == pytest.approx(lengths.to_numpy())
        assert "bars: the middle 80 % of the" in figure.layout.title.subtitle.text.replace("<br>", " ")
    with pytest.raises(ValueError, match=r"band must be one of"):
        ari.figures.swap_by_layer(given.single, given.cumulative, position=POSITION, band="sd")


def test_the_score_of_a_pair_is_its_own_least_squares(moved):
    swapped = moved["unitary"].swapped
    own, goal, to = (x[:, -1].resolve_conj() for x in (swapped.own, swapped.goal, swapped.moved))
    real = [torch.view_as_real(x).flatten(1) for x in (goal, own, to)]
    scores = [
        torch.linalg.lstsq(torch.stack([g, o], 1), m[:, None]).solution[0, 0] for g, o, m in zip(*real, strict=True)
    ]
    row = swapped.by_position[swapped.by_position["condition"] == SWAP].iloc[-1]
    expected = np.quantile(torch.stack(scores).numpy(), (0.1, 0.9))
    assert (row["score_low"], row["score_high"]) == pytest.approx(tuple(expected))
