"""Figures of circuits show the spectra, blocks and scores that were measured, and those of untrained weights."""

from functools import cached_property

import plotly.graph_objects as go
import pytest
import torch
from oracles import check_titles, plain, trace

import ar_interp as ari
from ar_interp.probes.circuits import CIRCUITS, COMPOSITIONS, Circuits

N_CTX = 6
SETTINGS = {
    "diagonal": (ari.CommutingUnitary(4), ari.ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=N_CTX)),
    "unit": (ari.CommutingUnitary(1, mu=50.0), ari.ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.3)),
    "plain": (ari.HaarOrthogonal(3), ari.ModelConfig.full(dim=3, n_ctx=N_CTX, n_heads=2)),
    "wide": (ari.HaarOrthogonal(3), ari.ModelConfig.paper_figure7(dim=3, n_ctx=N_CTX, n_heads=5)),
    "deep": (ari.HaarOrthogonal(3), ari.ModelConfig.paper_figure5(dim=3, n_ctx=N_CTX, n_layers=3)),
    "block scalars": (
        ari.HaarOrthogonal(3),
        ari.ModelConfig.augmented(dim=3, n_ctx=N_CTX, n_layers=2, heads="block-scalar"),
    ),
    "many": (ari.HaarOrthogonal(2), ari.ModelConfig.augmented(dim=2, n_ctx=N_CTX, n_layers=3, n_heads=2)),
}


class Opened:
    """The circuits of one setting, and every figure of them."""

    def __init__(self, setting: str) -> None:
        self.process, self.config = SETTINGS[setting]
        model = ari.HookedARTransformer(self.config, process=self.process, seed=3)
        self.setting = ari.setting_of(self.config, self.process)
        self.circuits = ari.circuits(model)
        self.untrained = ari.circuits(model.untrained(seed=1))
        self.layer, self.head = self.config.n_layers - 1, self.config.n_heads - 1

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        found, place = (self.circuits, self.untrained), {"layer": self.layer, "head": self.head}
        figures = {
            "circuit_spectra": ari.figures.circuit_spectra(*found, self.setting, **place),
            "circuit_eigenvalues": ari.figures.circuit_eigenvalues(*found, self.setting, **place),
            "effective_ranks": ari.figures.effective_ranks(*found),
        }
        if self.circuits.block_view is not None:
            figures["block_shares"] = ari.figures.block_shares(self.circuits, **place)
            figures["block_distances"] = ari.figures.block_distances(self.circuits, **place)
        if self.config.n_layers > 1:
            figures["composition_scores"] = ari.figures.composition_scores(self.circuits)
        return figures


@pytest.fixture(scope="module")
def opened() -> dict[str, Opened]:
    return {setting: Opened(setting) for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_figure_has_titles_that_fit_and_named_axes(opened, setting):
    figures = opened[setting].figures
    check_titles(figures)
    for name, figure in figures.items():
        assert len(figure.layout.title.text) > 20, name
        assert figure.layout.title.subtitle.text, name
        assert all(axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()]), name
        figure.to_json()


def test_no_builder_is_left_out(opened):
    builders = {name for name in ari.figures.__all__ if getattr(ari.figures, name).__module__.endswith(".circuits")}
    assert set().union(*(given.figures for given in opened.values())) == builders


@pytest.mark.parametrize("setting", SETTINGS)
def test_spectra_are_those_of_the_head_that_was_asked_for(opened, setting):
    given = opened[setting]
    figure = given.figures["circuit_spectra"]
    for name in CIRCUITS:
        for label, found in ((name, given.circuits), (f"{name} untrained", given.untrained)):
            spectrum = getattr(found, f"{name}_spectrum")
            values = torch.linalg.svdvals(dense(found, name)[given.layer, given.head])
            shares = values.square() / values.square().sum()
            drawn = trace(figure, label)
            assert list(drawn.y) == spectrum.shares[given.layer, given.head].tolist()
            assert torch.allclose(torch.tensor(drawn.y, dtype=torch.float64), shares, atol=1e-12)
            assert f"{spectrum.effective_rank[given.layer, given.head]:.3g}" in plain(figure.layout.title.subtitle.text)
        others = [line for line in figure.data if line.name.startswith(f"{name} of head")]
        assert len(others) == given.config.n_heads - 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_eigenvalues_lie_in_the_circle_and_are_those_of_the_dense_circuit(opened, setting):
    given = opened[setting]
    figure = given.figures["circuit_eigenvalues"]
    for name in CIRCUITS:
        circuit = dense(given.circuits, name)[given.layer, given.head]
        largest = torch.linalg.svdvals(circuit).max()
        expected = torch.linalg.eigvals(circuit) / largest
        drawn = trace(figure, name)
        found = torch.complex(*(torch.tensor(axis, dtype=torch.float64) for axis in (drawn.x, drawn.y)))
        assert (found.abs() <= 1 + 1e-12).all()
        for power in (1, 2, 3):  # power sums, as eigenvalues have no order
            assert torch.allclose(found.pow(power).sum(), expected.pow(power).sum(), atol=1e-10)


def test_a_gradient_step_has_d_equal_singular_values_and_no_eigenvalue():
    """Weights by hand: QK takes s_t to s_{t-1}, OV takes s_t to the read-out."""
    dim = 3
    given = ari.circuits(gradient_step(dim))
    setting = ari.setting_of(ari.ModelConfig.augmented(dim=dim, n_ctx=N_CTX), ari.HaarOrthogonal(dim))
    spectra = ari.figures.circuit_spectra(given, given, setting, layer=0, head=0)
    eigenvalues = ari.figures.circuit_eigenvalues(given, given, setting, layer=0, head=0)
    for name in CIRCUITS:
        assert list(trace(spectra, name).y) == pytest.approx([1 / dim] * dim + [0] * 2 * dim)
        assert list(trace(eigenvalues, name).x) == pytest.approx([0] * 3 * dim)
    assert "QK 3 (untrained 3) and OV 3 (untrained 3), of 9" in plain(spectra.layout.title.subtitle.text)
    shares = ari.figures.block_shares(given, layer=0, head=0)
    assert "1 of |QK|² and 1 of |OV|²" in plain(shares.layout.title.text)


@pytest.mark.parametrize("setting", ["plain", "wide", "many"])
def test_effective_ranks_have_a_point_for_every_head(opened, setting):
    given = opened[setting]
    figure = given.figures["effective_ranks"]
    n_layers, n_heads = given.config.n_layers, given.config.n_heads
    for name in CIRCUITS:
        drawn = trace(figure, name)
        assert list(drawn.y) == getattr(given.circuits, f"{name}_spectrum").effective_rank.flatten().tolist()
        assert len(set(drawn.x)) == n_layers * n_heads
        assert drawn.x[-1] == ("2, 1" if setting == "many" else str(n_heads - 1))
        assert list(trace(figure, f"{name} untrained").y) != list(drawn.y)


@pytest.mark.parametrize("setting", ["deep", "block scalars", "many"])
def test_block_shares_sum_to_one_and_are_those_of_the_dense_blocks(opened, setting):
    given = opened[setting]
    figure = given.figures["block_shares"]
    dim = given.config.dim
    for drawn, name in zip(figure.data, CIRCUITS, strict=True):
        circuit = dense(given.circuits, name)[given.layer, given.head]
        assert sum(map(sum, drawn.z)) == pytest.approx(1)
        block = circuit[dim : 2 * dim, :dim]  # s_t, read-out
        assert drawn.z[1][0] == pytest.approx((block.norm() / circuit.norm()).square().item())
        assert drawn.y == ("read-out", "s<sub>t</sub>", "s<sub>t−1</sub>") == drawn.x
        assert drawn.text[1][0] == f"{drawn.z[1][0]:.2f}"


def test_block_distances_have_the_untrained_expectation_beside_them(opened):
    given = opened["deep"]
    figure = given.figures["block_distances"]
    view = given.circuits.block_view
    for i, name in enumerate(CIRCUITS):
        to_identity, to_diagonal = (line for line in figure.data if line.name == name)
        assert list(to_identity.x) == view.distance[i, given.layer, given.head].flatten().tolist()
        assert list(to_diagonal.x) == view.off_diagonal[i, given.layer, given.head].flatten().tolist()
        assert to_identity.y[3] == "s<sub>t</sub>, read-out"
        assert to_identity.marker.size.index(max(to_identity.marker.size)) == int(
            view.share[i, given.layer, given.head].argmax()
        )
    assert [line.x0 for line in figure.layout.shapes] == [view.untrained_distance, view.untrained_off_diagonal]


def test_blocks_of_plain_tokens_cannot_be_drawn(opened):
    with pytest.raises(ValueError, match="circuits have no block_view: their tokens are not augmented"):
        ari.figures.block_shares(opened["plain"].circuits, layer=0, head=0)


def test_composition_is_drawn_from_earlier_to_later_and_white_at_the_untrained_mean(opened):
    given = opened["many"]
    figure = given.figures["composition_scores"]
    table = given.circuits.composition.set_index(
        ["kind", "earlier_layer", "earlier_head", "later_layer", "later_head"]
    )["score"]
    assert len(figure.data) == len(COMPOSITIONS)
    for drawn, kind in zip(figure.data, COMPOSITIONS, strict=True):
        rows, columns = list(drawn.y), list(drawn.x)
        assert rows == ["0, 0", "0, 1", "1, 0", "1, 1"]
        assert columns == ["1, 0", "1, 1", "2, 0", "2, 1"]
        assert drawn.z[rows.index("0, 1")][columns.index("2, 0")] == table[kind, 0, 1, 2, 0]
        assert drawn.z[rows.index("1, 0")][columns.index("1, 1")] != drawn.z[rows.index("1, 0")][columns.index("1, 1")]
    mean, sd = given.circuits.untrained_composition
    assert figure.layout.coloraxis.cmid == mean
    assert f"{mean:.3g} ± {sd:.3g} (sd)" in plain(figure.layout.title.subtitle.text)
    farthest = table[(table - mean).abs().idxmax()]
    assert f"is {farthest:.3g}, {(farthest - mean) / sd:.3g} sd from untrained" in plain(figure.layout.title.text)


def test_composition_of_block_scalars_is_compared_with_untrained_block_scalars(opened):
    given = opened["block scalars"]
    fresh = [ari.HookedARTransformer(given.config, seed=seed) for seed in range(10)]
    untrained = [ari.circuits(model, n_untrained=2) for model in fresh]
    figure = ari.figures.composition_scores(given.circuits, untrained=untrained)
    scores = torch.tensor([score for other in untrained for score in other.composition["score"]])
    assert figure.layout.coloraxis.cmid == pytest.approx(scores.mean().item())
    assert f"{scores.mean():.3g} ± {scores.std():.3g} (sd)" in plain(figure.layout.title.subtitle.text)


def test_one_layer_has_nothing_to_compose_with(opened):
    with pytest.raises(ValueError, match="circuits are those of one layer: composition needs two or more"):
        ari.figures.composition_scores(opened["plain"].circuits)


@pytest.mark.parametrize(
    ("setting", "spectra", "eigenvalues"),
    [
        ("diagonal", "one alone may have any", "real and diagonal"),
        ("plain", "has equal singular values", "all its eigenvalues are at one point"),
        ("block scalars", "d equal singular values", "nilpotent"),
        ("deep", "beside untrained weights", "beside untrained weights"),  # theory is silent
    ],
)
def test_subtitles_say_what_theory_says_of_this_kind_of_head(opened, setting, spectra, eigenvalues):
    figures = opened[setting].figures
    assert spectra in plain(figures["circuit_spectra"].layout.title.subtitle.text)
    assert eigenvalues in plain(figures["circuit_eigenvalues"].layout.title.subtitle.text)


def dense(circuits: Circuits, name: str) -> torch.Tensor:
    factored = getattr(circuits, name)
    return factored.A @ factored.B


def gradient_step(dim: int) -> ari.HookedARTransformer:
    """Full heads: scores <s_{t-1}|s_T>, values s_t into the read-out."""
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=dim, n_ctx=N_CTX), seed=0)
    width = 3 * dim
    eye, wanted = torch.eye(width, dtype=torch.float64), torch.zeros(2, width, width, dtype=torch.float64)
    wanted[0, dim : 2 * dim, 2 * dim :] = torch.eye(dim)
    wanted[1, dim : 2 * dim, :dim] = torch.eye(dim)
    attention = model.blocks[0].attn
    with torch.no_grad():
        for name, value in {"W_Q": wanted[0], "W_K": eye, "W_V": wanted[1], "W_O": eye}.items():
            getattr(attention, name)[0] = value
    return model
