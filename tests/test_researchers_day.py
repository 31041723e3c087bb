"""A day with the package from outside it: claims, processes, figures and tests of one's own, without a detour."""

import io
import json
import re
import sys
from dataclasses import dataclass
from typing import ClassVar

import plotly.graph_objects as go
import pytest
import torch

import ar_interp as ari
from ar_interp.probes.algorithm import step_sizes
from ar_interp.probes.last_token import replace_last_token

pytestmark = pytest.mark.usefixtures("without_type_checks", "few_contexts", "known_function")

NAME, SMALL = "diagonal-orthogonal-h5", "positional-mu100"
LONGEST = 2000
PUBLIC = ("checkpoints", "claims", "estimators", "figures", "probes", "processes", "recipes", "report", "studies",
          "testing", "theory")  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint():
    return ari.load(NAME)


@pytest.fixture(scope="module")
def sequences(checkpoint):
    return checkpoint.process.contexts(32, 20, seed=0)


def own_claim(**changes) -> ari.Claim:
    fields = {
        "name": "mine/halves",
        "statement": "The encoding is a half",
        "evidence": "weights",
        "source": "a notebook",
        "predicted": -0.5,
        "estimate": ari.Estimate(-0.5, {"contexts": 0.01}, 64),
        "tolerance": 0.05,
        "reason": "a tenth",
        "control": ari.Control(description="untrained", estimate=0),
    }
    return ari.Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "halves"}, r"name of a claim must be structure/what, e\.g\. 'estimate/damped', got 'halves'"),
        ({"evidence": "hearsay"}, "evidence must be one of 'weights', .*, got 'hearsay'"),
        ({"side": "about"}, "side must be one of 'equal to', 'at least', 'at most', got 'about'"),
        ({"statement": " "}, "statement of the claim 'mine/halves' must be words"),
        ({"tolerance": -1}, "tolerance of the claim 'mine/halves' must be at least 0"),
        ({"predicted": float("inf")}, "predicted of the claim 'mine/halves' must be a finite number, got inf"),
        ({"estimate": torch.ones(3)}, r"must be an Estimate, e\.g\. ari\.Estimate\.mean\(values\), .* got Tensor"),
        ({"control": 0.0}, "control of the claim 'mine/halves' must be a Control, got 0.0"),
    ],
)
def test_a_claim_of_one_s_own_is_checked_when_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        own_claim(**changes)


def test_a_claim_of_one_s_own_goes_with_ours_into_json_report_and_assertion(tmp_path):
    """Also one-sided; what is added twice, of another model or changed in the file is refused."""
    another = ari.Control(description="another", estimate=2)
    small = own_claim(name="mine/small", side="at most", predicted=0, estimate=-0.5, control=another)
    own = ari.Claims(SMALL, [own_claim(), small])
    report = ari.report.build([SMALL], extra=[own])
    claims = report.examined[0].claims
    assert claims["mine/halves"].verdict == claims["mine/small"].verdict == "holds"
    text = claims.to_json(tmp_path / "claims.json")
    assert ari.Claims.from_json(text).to_json() == text
    assert ari.Claims.from_json(tmp_path / "claims.json")["mine/small"] == own["mine/small"]
    assert "The encoding is a half" in report.to_html()
    assert "mine" in json.loads(report.to_json())["checkpoints"][0]["structures"]
    assert ari.testing.assert_claim(own["mine/halves"]).measured == -0.5
    with pytest.raises(AssertionError, match=r"The claim fails: .*\n.*\n  measured   3 \(n = 1, from weights\)"):
        ari.testing.assert_claim(own_claim(estimate=3))
    with pytest.raises(ValueError, match="claims must have names of their own, got 'mine/halves' 2 times"):
        claims + own
    with pytest.raises(ValueError, match="'x' and 'positional-mu100' are no claims about one model"):
        ari.Claims("x", []) + own
    with pytest.raises(ValueError, match="extra holds claims about 'x', which is none of 'positional-mu100'"):
        ari.report.build([SMALL], extra=[ari.Claims("x", [])])
    text = own.to_json().replace('"holds"', '"void"', 1)
    with pytest.raises(ValueError, match="verdict of 'mine/halves' is 'void', and its numbers say 'holds'"):
        ari.Claims.from_json(text)


def test_one_subject_is_taken_everywhere(checkpoint):
    subjects = (NAME, checkpoint.path, checkpoint, checkpoint.model)
    assert len({ari.head_orthogonality(subject).e_m for subject in subjects}) == 1
    assert len({ari.testing.assert_heads_orthogonal(subject, tolerance=1e-3).e_m for subject in subjects}) == 1
    assert ari.conformance(NAME).equals(ari.conformance(checkpoint))
    assert ari.verify(SMALL, seed=0, n=16)["filter/rows"] == ari.verify(ari.load(SMALL), seed=0, n=16)["filter/rows"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, s: c.model(s), r"tokens must be a tensor \[batch pos 10\], got Sequences: pass its \.inputs"),
        (lambda c, s: c.model.run_with_cache(s), r"got Sequences: pass its \.inputs"),
        (lambda c, s: ari.recover_context(c, s.tokens), "sequences must be Sequences, got Tensor: they hold W beside"),
        (lambda c, s: ari.recover_context(s, c), r"model must be a model, a checkpoint or run, .* got Sequences"),
        (lambda c, s: ari.probe_activations(c, s, untrained=...), "untrained must be a model, .* got ellipsis"),
        (lambda c, s: ari.verify(s), "subject must be a model, a checkpoint or run, .* got Sequences"),
        (lambda c, s: ari.verify("diagonal-orthogonal-h6"), "no checkpoint .*Did you mean 'diagonal-orthogonal-h8'"),
        (lambda c, s: ari.load(c), "name_or_path must be a name or a folder, got Checkpoint"),
        (lambda c, s: ari.checkpoints.save(c.model, "x"), "run must be a TrainingRun, got HookedARTransformer"),
        (lambda c, s: ari.train(c.process, c.config), r"config must be a Config, .*: train\(config, process\)"),
        (lambda c, s: ari.report.build([c.model]), "a report is about checkpoints, got HookedARTransformer"),
        (lambda c, s: ari.testing.assert_claim(c), "claim must be a Claim, .* got Checkpoint"),
    ],
)
def test_what_is_passed_by_mistake_is_told_what_to_pass(checkpoint, sequences, call, message):
    with pytest.raises(ValueError, match=message):
        call(checkpoint, sequences)


def test_objects_show_themselves_in_a_few_lines(checkpoint, sequences):
    other, squares = checkpoint.process.contexts(32, 20, seed=1), ari.load("regression-squares")
    found = [
        checkpoint, checkpoint.model, checkpoint.process, checkpoint.config, checkpoint.training, sequences,
        sequences.pairs(), own_claim(), ari.Claims(NAME, [own_claim()]), ari.verify(SMALL, seed=0, n=16),
        ari.recover_context(NAME, sequences), ari.head_orthogonality(NAME), ari.positional_structure(NAME),
        ari.circuits(NAME), ari.swap_context(NAME, sequences, other), ari.ablate_heads(NAME, sequences),
        ari.setting_of(checkpoint.config, checkpoint.process), ari.load("augmented-haar-l4-keys").model,
        ari.theory.kappa_family(dim=10, kappa=1.0, n_ctx=20), ari.recipes.RECIPES[NAME], ari.recipes.RECIPES,
        ari.studies.STUDIES, ari.testing.BATTERY, ari.setting_of(squares.config, squares.process), squares.process,
        ari.verify(checkpoint, seed=0, n=64),
    ]  # fmt: skip
    modules = [ari, *(getattr(ari, name) for name in PUBLIC)]
    public = [getattr(module, entry) for module in modules for entry in dir(module)]
    for item in [*found, *public]:
        html = item._repr_html_() if hasattr(item, "_repr_html_") and not isinstance(item, type) else "<"
        assert "<" in html
        assert max(len(repr(item)), len(html)) < LONGEST, type(item).__name__
    assert "tokens=complex128 [32, 21, 10]" in repr(sequences)
    assert repr(ari.studies.STUDIES[0]) == f"Study('diagonal heads', {len(ari.studies.STUDIES[0].recipes)} recipes)"
    assert repr(ari.recipes.RECIPES).startswith(f"{len(ari.recipes.RECIPES)} by name: diagonal-unitary-h5, diagonal-")
    assert repr(found[8]) == f"Claims('{NAME}', seed None: 1 holds, 0 fails, 0 undecided, 0 void)"
    assert "e_m=5.73" in repr(found[11])
    assert "error_per_token" in found[10]._repr_html_()


@pytest.mark.parametrize("name", PUBLIC)
def test_dir_lists_what_is_public(name):
    module = getattr(ari, name)
    assert dir(module)
    assert not [entry for entry in dir(module) if entry.startswith("_")]
    for entry in dir(module):
        assert getattr(module, entry).__class__.__name__ != "module" or name == "probes"
        assert getattr(getattr(module, entry), "__module__", "ar_interp").startswith(("ar_interp", "typing"))
    assert set(PUBLIC) | {"__version__"} <= set(dir(ari))
    assert ari.__version__ == "0.1.0"


@pytest.mark.parametrize("seen", [True, False])
def test_what_takes_long_shows_how_far_it_is_at_a_terminal_alone(monkeypatch, seen):
    """Runs of the model in a probe, claims of verify, checkpoints of a report; probes within a probe show no bar."""
    terminal = io.StringIO()
    terminal.isatty = lambda: seen
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("ar_interp._shown.WAIT", 0)
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=3, n_ctx=5), process=ari.HaarOrthogonal(3))
    sequences = model.process.contexts(60, 5, seed=0)
    ari.recover_context(model, sequences)
    ari.which_layer(model, sequences)
    names = re.compile(r"([\w ]+)[\w -]*: ")
    shown = set(names.findall(terminal.getvalue()))
    assert shown == ({"recover_context", "which_layer", "step sizes", "probe_activations"} if seen else set())
    ari.verify(SMALL, seed=0, n=16)
    assert ("verify positional" in set(names.findall(terminal.getvalue()))) == seen


def test_layers_are_compared_in_one_table():
    """The second layer of a stack whose second layer writes nothing is neither used nor needed."""
    config = ari.ModelConfig.augmented(dim=3, n_ctx=8, n_layers=2, heads="block-scalar", init_scale=0)
    model = ari.HookedARTransformer(config, process=ari.HaarOrthogonal(3))
    with torch.no_grad():
        model.blocks[0].attn.QK_blocks[0, 1, 2] = 0.4
        model.blocks[0].attn.OV_blocks[0, 1, 0] = 1.0
    sequences = model.process.contexts(60, 8, seed=0)
    found = ari.which_layer(model, sequences)
    assert found.missing == {}
    assert {name: found.first[name] for name in ("steps", "cosine", "swap", "cost")} == dict.fromkeys(
        ("steps", "cosine", "swap", "cost"), 0
    )
    assert abs(found.to_frame()["swap"][1]) < 1e-6
    assert found.to_frame()["cost"][1] == pytest.approx(0, abs=1e-9)
    assert ("All agree" in found.reading) == (len(set(found.first.values())) == 1)
    early, late = (ari.recover_context(model, sequences, layer=layer) for layer in (0, None))
    assert torch.equal(early.estimate, late.estimate)
    with pytest.raises(ValueError, match="layer must be at most 1, got 2"):
        ari.recover_context(model, sequences, layer=2)


def test_weights_are_changed_fine_tuned_and_exported_with_their_provenance(tmp_path):
    checkpoint = ari.load("augmented-unitary")
    model = ari.load("augmented-unitary").model
    with torch.no_grad():
        model.blocks[0].attn.OV_blocks *= 1.01
    changed = checkpoint.with_weights(model)
    changed.save(tmp_path / "changed")
    again = ari.load(tmp_path / "changed")
    assert again.origin == "weights changed elsewhere, from augmented-unitary"
    assert (again.steps, len(again.history), len(again.members)) == (0, 0, 1)
    card = (tmp_path / "changed" / "README.md").read_text()
    assert again.origin in card
    assert "optimizer" not in card
    assert "ar-interp train" not in card
    training = ari.TrainConfig(objective="sampled", optimizer="adam", lr=1e-3, steps=20, batch=16)
    tuned = ari.train(checkpoint.config, checkpoint.process, training, init=tmp_path / "changed", progress=False)
    assert tuned.origin == "training began from the weights of changed"
    assert (
        tuned.history["loss_min"].iloc[0]
        < 0.7 * ari.train(checkpoint.config, checkpoint.process, training, progress=False).history["loss_min"].iloc[0]
    )
    inputs = checkpoint.process.contexts(4, 10, seed=0).inputs
    plain = again.to_torch()
    assert not plain.training
    assert (plain(inputs) - again.model(inputs)).abs().max() < 1e-12
    exported = torch.export.export(plain, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    assert (exported.module()(inputs[:3]) - plain(inputs[:3])).abs().max() < 1e-12
    with pytest.raises(
        ValueError, match=r"init must have the names and shapes of the config: .*, and missing in the config"
    ):
        ari.train(checkpoint.config, checkpoint.process, training, init=NAME)
    with pytest.raises(ValueError, match=r"weights must be finite: blocks\.0\.attn\.OV_blocks is not"):
        checkpoint.with_weights({**model.state_dict(), "blocks.0.attn.OV_blocks": torch.full((1, 3, 3), torch.inf)})


@dataclass(frozen=True)
class Damped(ari.HaarOrthogonal):
    """W = radius Q, off the unit circle."""

    radius: float = 0.9

    kind: ClassVar[str] = "day-damped"

    def draw_matrices(self, batch, generator):
        return self.radius * super().draw_matrices(batch, generator)


@dataclass(frozen=True)
class NarrowBand(ari.CommutingUnitary):
    """Angles within +- band radians."""

    band: float = 0.3

    kind: ClassVar[str] = "day-narrow-band"

    def draw_phases(self, batch, generator):
        options = {"dtype": torch.float64, "device": generator.device}
        return self.band * (2 * torch.rand(batch, self.dim, generator=generator, **options) - 1)


class SecondOrder(ari.HaarOrthogonal):
    """x_{t+1} = W_1 x_t + W_2 x_{t-1} on states (x_t, x_{t-1}); dim is that of the state."""

    kind: ClassVar[str] = "day-second-order"

    def draw_matrices(self, batch, generator):
        half = self.dim // 2
        options = {"dtype": torch.float64, "device": generator.device}
        both = 0.4 * torch.randn(batch, half, self.dim, generator=generator, **options)
        shift = torch.eye(half, self.dim, **options).expand(batch, half, self.dim)
        return torch.cat([both, shift], dim=1)


@dataclass(frozen=True)
class TwoMatrices(ari.HaarOrthogonal):
    """s_{t+1} = W_1 s_t + W_2 s_{t-1}, of which tokens hold s_t alone."""

    kind: ClassVar[str] = "day-two-matrices"
    n_matrices: ClassVar[int] = 2

    def draw(self, batch, length, generator, dtype):
        W = 0.4 * torch.randn(batch, 2, self.dim, self.dim, generator=generator, dtype=torch.float64)
        tokens = [self.initial.draw(batch, self.dim, generator) for _ in range(2)]
        while len(tokens) < length:
            tokens.append(torch.einsum("bkij,kbj->bi", W, torch.stack(tokens[:-3:-1])))
        return ari.Sequences(tokens=torch.stack(tokens[:length], 1).to(dtype), W=W.to(dtype))


class Unsaid(TwoMatrices):
    kind: ClassVar[str] = "day-unsaid"
    n_matrices: ClassVar[int] = 1


def test_several_matrices_are_compared_with_no_W():
    """What compares with W refuses them, and conformance knows; the rest is run as conformance says."""
    process = TwoMatrices(3)
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=3, n_ctx=5), process=process)
    sequences, other = (process.contexts(60, 5, seed=seed) for seed in (0, 1))
    rows = ari.conformance(model).set_index("probe")
    refused = {"recover_context": (sequences,), "swap_context": (sequences, other), "replace_last_token": (sequences,)}
    for name, data in refused.items():
        wanted = rf"must have one W each for {name}, got W \[batch 2 dim dim\].*full_jacobian, identify_algorithm"
        assert re.search(wanted, rows["why_not"][name])
        with pytest.raises(ValueError, match=wanted):
            getattr(ari, name, replace_last_token)(model, *data)
    with pytest.raises(ValueError, match="must have one W each for the target 'W'"):
        ari.probe_activations(model, sequences)
    assert rows["call"]["probe_activations"] == "probe_activations(model, sequences, target='next token')"
    assert set(ari.which_layer(model, sequences).missing) == {"cosine", "swap", "selectivity"}
    slower = ari.outside_errors(model, n=4).by_condition
    assert "|λ| = 0.9" in set(slower["condition"])
    with pytest.raises(ValueError, match=r"Unsaid must give W of 1 matrices.*got \[60, 2, 3, 3\]: say in the class"):
        Unsaid(3).contexts(60, 5, seed=0)


@pytest.mark.parametrize(
    "process", [Damped(4, radius=0.8), NarrowBand(4, band=0.2), SecondOrder(4)], ids=lambda process: process.kind
)
def test_processes_of_one_s_own(process, tmp_path):
    """They are sampled, trained on, saved, loaded and probed; theory says that it is silent."""
    sequences = process.contexts(64, 6, seed=0)
    moved = torch.einsum("bij,btj->bti", sequences.W.to(sequences.tokens.dtype), sequences.inputs)
    assert (moved - sequences.targets).abs().max() < 1e-12
    config = (
        ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=6)
        if process.has_eigenbasis
        else ari.ModelConfig.augmented(dim=4, n_ctx=6)
    )
    training = ari.TrainConfig(objective="sampled", optimizer="adam", lr=3e-3, steps=5, batch=16)
    ari.train(config, process, training, progress=False).save(tmp_path / "own")
    loaded = ari.load(tmp_path / "own")
    assert loaded.process == process
    assert ari.recover_context(loaded, sequences).errors["n"].iloc[0] == 64
    assert ari.setting_of(config, process).why_not
    assert process.meaning == type(process).__doc__.partition("\n")[0].rstrip(".")
    if isinstance(process, Damped):
        assert sequences.tokens[:, -1].norm(dim=1).mean() == pytest.approx(0.8**6, rel=1e-9)
    if isinstance(process, NarrowBand):
        assert sequences.phases.abs().max() <= 0.2


def test_step_sizes_are_found_where_sequences_grow():
    """A step too large is as bad as can be, and no overflow."""
    sizes = step_sizes(SecondOrder(4), length=12)
    assert all(0 < size < 1 for size in sizes)


def test_a_figure_is_as_wide_as_a_column(tmp_path, monkeypatch):
    """Kaleido is an extra, and stands apart: what is given to it is looked at here."""
    written = {}
    monkeypatch.setattr("ar_interp.figures.paper.find_spec", lambda name: None)
    log = {"type": "log", "range": [-2, 0]}
    figure = go.Figure(layout={"title": "Seen", "showlegend": True, "yaxis": log}).add_scatter(y=[1, 2], name="model")
    before = figure.to_json()
    with pytest.raises(ImportError, match=r"needs the extra paper: pip install 'ar-interp\[paper\]'"):
        ari.figures.save(figure, tmp_path / "error.pdf")
    monkeypatch.undo()
    monkeypatch.setattr("ar_interp.figures.paper.find_spec", lambda name: name)
    monkeypatch.setattr(go.Figure, "write_image", lambda self, path, scale: written.update(figure=self, path=path))
    assert ari.figures.save(figure, tmp_path / "error.pdf", width=3.3) == tmp_path / "error.pdf" == written["path"]
    layout = written["figure"].layout
    assert (layout.width, layout.title.text) == (pytest.approx(3.3 * 96), None)
    assert layout.xaxis.tickfont.size == pytest.approx(8 * 96 / 72)
    assert (layout.yaxis.dtick, 1.25 * layout.yaxis.tickfont.size) == (1, pytest.approx(8 * 96 / 72))
    assert figure.to_json() == before
    ari.figures.save(figure.update_yaxes(range=[-31, 2]), tmp_path / "error.pdf")
    assert written["figure"].layout.yaxis.dtick == 6  # decades: labels at each would lie on each other
    with pytest.raises(ValueError, match=r"the ending of path must be one of '\.pdf', '\.svg', '\.png', got '\.gif'"):
        ari.figures.save(figure, tmp_path / "error.gif")


@pytest.mark.parametrize("name", ["augmented-haar-l2-keys", "figure5-l4"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The feature will be removed")
def test_the_older_exporter_to_onnx_knows_every_operator(name):
    checkpoint = ari.load(name)
    tokens = checkpoint.process.contexts(3, 6, seed=0).inputs
    try:
        torch.onnx.export(checkpoint.to_torch(), (tokens,), io.BytesIO(), dynamo=False)
    except torch.onnx.errors.OnnxExporterError as fault:
        if "onnx is not installed" not in str(fault):  # all that is left to do needs it
            raise
