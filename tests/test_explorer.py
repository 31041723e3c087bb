"""Every page draws for every kind of model, keeps its selection in the URL, and survives what users give it."""

import json
import re
import shutil
from math import nan
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

import ar_interp as ari
from ar_interp import records
from ar_interp.claims import Control, Estimate

streamlit = pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")
AppTest = pytest.importorskip("streamlit.testing.v1", reason="the explorer needs the extra 'app'").AppTest

APPS = Path(__file__).parents[1] / "apps"
PAGES = (
    "overview",
    "in_context_w",
    "algorithm",
    "heads",
    "positional_encoding",
    "circuits",
    "readout",
    "interventions",
)
CHECKPOINTS = ("diagonal-unitary-h10", "pairs", "positional-mu100")
SHOWN = {  # figures of every model that a page speaks of
    "overview": {"training_history"},
    "in_context_w": {"prediction", "context_error"},
    "algorithm": {"error_by_position", "algorithm_match"},
    "heads": {"head_matrices", "head_spectrum", "head_statistics"},
    "positional_encoding": {"positional_matrix", "positional_rows", "residual_by_angle"},
    "circuits": {"circuit_spectra", "circuit_eigenvalues"},
    "readout": {"data_efficiency"},
    "interventions": {"swapped_prediction", "swap_scores", "ablation_costs", "scrub_recovered"},
}
ALSO_SHOWN = {
    ("overview", "pairs"): {"member_levels"},
    ("in_context_w", "pairs"): {"phases_on_circle", "context_matrices"},
    ("in_context_w", "positional-mu100"): {"phases_on_circle"},
    ("in_context_w", "plain"): {"context_matrices"},
    ("algorithm", "deep"): {"steps_by_layer"},
    ("positional_encoding", "pairs"): {"positional_ratio"},
    ("positional_encoding", "positional-mu100"): {"filter_profile", "filter_response"},
    ("circuits", "diagonal-unitary-h10"): {"effective_ranks"},
    ("circuits", "augmented-unitary"): {"block_shares"},
    ("circuits", "figure5-l2"): {"block_shares", "block_distances", "effective_ranks", "composition_scores"},
    ("interventions", "pairs"): {"edit_curve"},
    ("interventions", "positional-mu100"): {"edit_curve"},
    ("interventions", "augmented-unitary"): {"edit_curve", "path_shares"},
    ("interventions", "deep"): {"swap_by_layer", "path_shares"},
}
GENERAL = ("deep", "plain")
MADE = {  # small models, so that what pages measure is measured quickly
    "deep": (ari.ModelConfig.augmented(dim=4, n_ctx=8, n_layers=2), ari.HaarOrthogonal(4)),
    "plain": (ari.ModelConfig.full(dim=4, n_ctx=8, n_heads=2), ari.HaarOrthogonal(4)),
    "pairs": (ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8), ari.CommutingOrthogonal(4)),
}
OF_DIAGONAL_HEADS = ("heads", "positional_encoding")
OTHER_KINDS = ("augmented-unitary", "figure5-l2", "figure7-h5")
WITHOUT_TRAINED_HEADS = [("heads", "positional-mu100"), ("circuits", "positional-mu100")]
ENOUGH_OF_PAIRS = [("algorithm", "diagonal-unitary-h10"), ("interventions", "diagonal-unitary-h10")]  # slow to measure
DRAWN = [
    (page, name)
    for page in PAGES
    for name in CHECKPOINTS
    if (page, name) not in (*WITHOUT_TRAINED_HEADS, *ENOUGH_OF_PAIRS)
]
TIMEOUT = 120

pytestmark = pytest.mark.usefixtures("without_type_checks")  # the app as users run it


@pytest.fixture(autouse=True)
def _started(monkeypatch, tmp_path_factory):
    """What `streamlit run apps/explorer.py -- --allow FOLDER` does: apps/ is on sys.path, the folder may be opened."""
    monkeypatch.syspath_prepend(APPS)
    monkeypatch.setenv("AR_INTERP_ALLOW", str(tmp_path_factory.getbasetemp()))


def open_page(page: str, **query: object) -> AppTest:
    at = AppTest.from_file(APPS / "pages" / f"{page}.py", default_timeout=TIMEOUT)
    for name, value in query.items():
        at.query_params[name] = str(value)
    return at.run()


def specs(at: AppTest) -> list[dict]:
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def selection(at: AppTest) -> dict[str, str]:
    """What the URL says, once the page has run."""
    return {name: value if isinstance(value, str) else value[-1] for name, value in at.query_params.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint of the user's own."""
    return shutil.copytree(ari.checkpoints.trained_folder() / "positional-mu100", tmp_path / "my-model")


@pytest.mark.parametrize(("page", "name"), DRAWN)
def test_page_draws_its_figures_and_their_code_reproduces_them(page, name, made, monkeypatch):
    monkeypatch.setattr("ar_interp.studies.verify", no_claims)
    at = open_page(page, checkpoint=made.get(name, name), position=6, sequence=3)
    check_page(at, page, name)
    check_code(at, monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of MADE, hardly trained."""
    folders = {}
    training = {"objective": "sampled", "optimizer": "adam", "lr": 1e-3, "steps": 2, "batch": 8, "device": "cpu"}
    for name, (config, process) in MADE.items():
        run = ari.train(config, process, ari.TrainConfig(**training, n_seeds=2))
        folders[name] = ari.checkpoints.save(run, tmp_path_factory.mktemp("made") / name)
    return folders


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OF_DIAGONAL_HEADS])
@pytest.mark.parametrize("name", GENERAL)
def test_page_draws_what_a_general_model_has(page, name, made, monkeypatch):
    monkeypatch.setattr("ar_interp.studies.verify", no_claims)
    at = open_page(page, checkpoint=made[name], position=4, sequence=3)
    check_page(at, page, name)
    check_code(at, monkeypatch)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_circuits_and_interventions_draw_every_kind_of_shipped_model(name, monkeypatch):
    at = open_page("circuits", checkpoint=name, layer=1, head=2)
    check_page(at, "circuits", name)
    check_code(at, monkeypatch)
    check_page(open_page("interventions", checkpoint=name), "interventions", name)


@pytest.mark.parametrize("page", OF_DIAGONAL_HEADS)
@pytest.mark.parametrize("name", GENERAL)
def test_a_page_that_has_nothing_of_a_model_says_so_in_a_sentence(page, name, made):
    at = open_page(page, checkpoint=made[name])
    assert not at.exception
    assert not at.error
    assert not specs(at)
    assert "Nothing on this page applies to this model" in at.info[0].value


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Path:
    """A checkpoint of a model of which theory is silent, since its process is noisy."""
    training = ari.TrainConfig(objective="sampled", lr=1e-3, steps=2, batch=8, n_seeds=2, device="cpu")
    config = ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=8)
    run = ari.train(config, ari.CommutingUnitary(4, noise=0.3), training)
    return ari.checkpoints.save(run, tmp_path_factory.mktemp("silent") / "noisy")


@pytest.mark.parametrize("page", PAGES)
def test_a_model_of_which_theory_is_silent_shows_its_figures_and_why_there_are_no_claims(page, silent, monkeypatch):
    at = open_page(page, checkpoint=silent)
    check_page(at, page, "silent")
    check_code(at, monkeypatch)
    assert "in theory" not in "".join(spec["layout"]["title"]["text"].lower() for spec in specs(at))
    if page == "overview":
        assert "Theory makes no claims about this model: noise is 0.3" in at.info[0].value.replace("\\", "")


def no_claims(checkpoint, seed) -> ari.Claims:
    return ari.Claims(checkpoint.name, ())


def check_page(at: AppTest, page: str, name: str) -> None:
    """A page without faults, with all the figures that it should have."""
    assert not at.exception
    assert not at.error
    shown = set(re.findall(r"figures\.(\w+)\(", "".join(snippet.value for snippet in at.code)))
    assert SHOWN[page] | ALSO_SHOWN.get((page, name), set()) <= shown


def check_code(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that a page shows reproduces its figures."""
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    for snippet in at.code:
        exec(snippet.value, {})
    assert [json.loads(figure.to_json()) for figure in shown] == specs(at)


def test_overview_tells_the_verdict_of_every_claim_in_words(monkeypatch):
    def claim(measured: float, control: float) -> ari.Claim:
        return ari.Claim(
            name="positions/c",
            evidence="weights",
            statement="p_{T-1} * [c]",
            source="a source",
            predicted=0.0,
            estimate=Estimate(measured),
            tolerance=0.1,
            reason="a reason",
            control=Control(description="untrained", estimate=Estimate(control)),
        )

    claims = ari.Claims("made up", (claim(0, 1), claim(1, 1), claim(0, 0), claim(0, nan)))
    monkeypatch.setattr("ar_interp.studies.verify", lambda checkpoint, seed: claims)
    monkeypatch.setattr("ar_interp.records.read", lambda checkpoint: None)
    streamlit.cache_resource.clear()
    at = open_page("overview", checkpoint="diagonal-unitary-h10")
    streamlit.cache_resource.clear()
    table = at.table[0].value
    assert list(table.columns) == ["Verdict", "Statement", "Predicted", "Measured", "n", "Tolerance", "Control"]
    for cell, verdict in zip(table["Verdict"], ("✓ holds", "✗ fails", "○ void", "? undecided"), strict=True):
        assert verdict in cell.replace("\N{NO-BREAK SPACE}", " ")
    assert table["Statement"][0] == r"p\_\{T\-1\} \* \[c\]"  # Markdown shows it as written


def test_overview_shows_the_record_of_a_folder_as_its_makers_word(tmp_path):
    shutil.copytree(ari.checkpoints.trained_folder() / "positional-mu300", tmp_path / "mine")
    mine = ari.load(tmp_path / "mine")
    records.write(mine, ari.Claims("mine", (zoo.claim(),), seed=9), mine.path)
    at = open_page("overview", checkpoint=str(mine.path))
    assert at.table[0].value["Verdict"].tolist() == [":blue[**✓\N{NO-BREAK SPACE}holds**]"]
    assert [caption.value for caption in at.caption if "seed 9" in caption.value] == [
        "Measured by whoever made this folder, seed 9."
    ]


@pytest.mark.parametrize("page", ["heads", "circuits"])
def test_a_positional_only_model_has_no_heads_to_show(page):
    at = open_page(page, checkpoint="positional-mu100")
    assert not at.exception
    assert not at.error
    assert not specs(at)
    assert "Nothing on this page" in at.info[0].value


def break_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"schema": 1, ')
    return "not valid JSON"


def break_weights(folder: Path) -> str:
    file = folder / "model.safetensors"
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(file).items()}, file)
    return "NaN"


def remove_all(folder: Path) -> str:
    shutil.rmtree(folder)
    return "no checkpoint"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("damage", [break_config, break_weights, remove_all])
def test_a_broken_checkpoint_shows_its_error_and_the_page_recovers(page, damage, folder):
    fault = damage(folder)
    at = open_page(page, checkpoint=folder)
    assert not at.exception
    (error,) = at.error
    assert fault in error.value.replace("\\", "")
    assert not specs(at)
    at.selectbox(key="shipped").select("positional-mu100").run()
    assert not at.exception
    assert not at.error
    assert selection(at)["checkpoint"] == "positional-mu100"


def test_a_folder_of_ones_own_is_drawn_and_drawn_afresh_once_it_changes(folder):
    at = open_page("positional_encoding", checkpoint=folder)
    before = specs(at)
    assert at.text_input(key="folder").value == str(folder)
    assert at.selectbox(key="shipped").value is None
    tensors = load_file(folder / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    after = specs(at.run())
    assert after[1]["data"][0]["y"] == [2 * value for value in before[1]["data"][0]["y"]]


def test_typing_a_folder_selects_it(folder):
    at = open_page("heads", checkpoint="diagonal-unitary-h10")
    at.text_input(key="folder").input(str(folder)).run()
    assert selection(at)["checkpoint"] == str(folder)
    assert "Nothing on this page" in at.info[0].value


def test_the_url_selects_and_the_widgets_write_to_it():
    at = open_page("in_context_w", checkpoint="diagonal-unitary-h5", position=7, sequence=5)
    assert (at.slider(key="position").value, at.slider(key="sequence").value) == (7, 5)
    assert "sequence 5 at T = 7" in specs(at)[0]["layout"]["title"]["subtitle"]["text"]
    at.slider(key="position").set_value(9).run()
    assert selection(at) == {"checkpoint": "diagonal-unitary-h5", "position": "9", "sequence": "5"}
    assert "sequence 5 at T = 9" in specs(at)[0]["layout"]["title"]["subtitle"]["text"]
    at.query_params["position"] = "4"
    at.run()
    assert at.slider(key="position").value == 4


@pytest.mark.parametrize(("asked", "shown"), [("99", 20), ("-3", 2), ("1e9", 10), ("", 10), ("٣", 3)])
def test_a_position_that_does_not_exist_is_brought_inside(asked, shown):
    at = open_page("in_context_w", checkpoint="diagonal-unitary-h5", position=asked)
    assert not at.exception
    assert at.slider(key="position").value == shown


@pytest.mark.parametrize(("n_ctx", "sliders"), [(2, []), (3, ["position"])])
def test_the_shortest_contexts_have_a_position_to_look_at(n_ctx, sliders, tmp_path):
    config = ari.ModelConfig.diagonal(dim=2, n_heads=1, n_ctx=n_ctx)
    run = ari.train(config, ari.CommutingUnitary(2), ari.TrainConfig(lr=1e-4, steps=2, device="cpu"))
    at = open_page("interventions", checkpoint=ari.checkpoints.save(run, tmp_path / "short"))
    assert not at.exception
    assert selection(at)["position"] == "2"
    assert [slider.key for slider in at.slider if slider.key == "position"] == sliders


def test_the_selection_survives_a_change_of_page():
    at = AppTest.from_file(APPS / "explorer.py", default_timeout=TIMEOUT)
    at.query_params.update({"checkpoint": "diagonal-unitary-h5", "position": "7", "sequence": "5"})
    at.run()
    for page in ("heads", "in_context_w"):
        at.query_params.clear()  # as the browser does on a change of page
        at.switch_page(f"pages/{page}.py").run()
        assert not at.exception
        assert selection(at) == {"checkpoint": "diagonal-unitary-h5", "position": "7", "sequence": "5"}
    assert at.selectbox(key="shipped").value == "diagonal-unitary-h5"
    assert at.slider(key="position").value == 7


def test_layer_and_head_are_chosen_where_there_are_several(made):
    at = open_page("circuits", checkpoint="diagonal-unitary-h10", head=3)
    assert at.slider(key="head").value == 3
    assert "layer 0, head 3" in specs(at)[0]["layout"]["title"]["subtitle"]["text"]
    at.slider(key="head").set_value(0).run()
    assert selection(at)["head"] == "0"
    assert "layer 0, head 0" in specs(at)[0]["layout"]["title"]["subtitle"]["text"]
    at = open_page("circuits", checkpoint=made["deep"], layer=1)
    assert [slider.key for slider in at.slider] == ["layer"]
    assert "layer 1, head 0" in specs(at)[0]["layout"]["title"]["subtitle"]["text"]


@pytest.mark.parametrize(("asked", "shown"), [("99", 9), ("-3", 0), ("1.5", 0), ("x", 0), ("", 0)])
def test_a_head_that_does_not_exist_is_brought_inside(asked, shown):
    at = open_page("circuits", checkpoint="diagonal-unitary-h10", head=asked)
    assert not at.exception
    assert at.slider(key="head").value == shown


def test_another_source_turns_the_same_prediction_elsewhere():
    at = open_page("interventions", checkpoint="positional-mu100", source=0, target=4, position=9)
    before = arrow(at)
    at.slider(key="source").set_value(63).run()
    after = arrow(at)
    assert selection(at)["source"] == "63"
    assert after["x"][0] == pytest.approx(before["x"][0])  # the target's own prediction
    assert after["x"][1] != pytest.approx(before["x"][1])
    at.slider(key="target").set_value(5).run()
    assert arrow(at)["x"][0] != pytest.approx(before["x"][0])


def arrow(at: AppTest) -> dict:
    return next(trace for trace in specs(at)[0]["data"] if trace.get("name") == "moved by the swap")


def test_an_edit_moves_the_loss_and_the_url():
    at = open_page("interventions", checkpoint="positional-mu100", positional_scale=0.5)
    slider = at.slider(key="positional_scale")
    assert slider.value == 0.5
    assert chosen_edit(at)["x"] == [0.5]
    slider.set_value(0.0).run()  # a value that is false
    assert at.slider(key="positional_scale").value == 0
    assert float(selection(at)["positional_scale"]) == 0
    assert chosen_edit(at)["x"] == [0]
    assert chosen_edit(at)["y"][0] == pytest.approx(1)  # of predicting nothing, |s|^2
    assert at.slider(key="previous_position").value == 1


def chosen_edit(at: AppTest) -> dict:
    """Of the second edit, the marked loss."""
    figure = next(spec for spec in specs(at) if spec["layout"]["title"]["text"].startswith("Positional scale"))
    return next(trace for trace in figure["data"] if trace.get("name") == "measured here")


@pytest.mark.parametrize(("asked", "shown"), [("99", 2), ("-3", 0), ("nan", 1), ("inf", 1), ("x", 1), ("", 1)])
def test_an_edit_that_does_not_exist_is_brought_inside(asked, shown):
    at = open_page("interventions", checkpoint="positional-mu100", positional_scale=asked)
    assert not at.exception
    assert at.slider(key="positional_scale").value == shown


def test_the_head_survives_a_change_of_page():
    at = AppTest.from_file(APPS / "explorer.py", default_timeout=TIMEOUT)
    at.query_params["checkpoint"] = "diagonal-unitary-h5"
    at.run()
    at.switch_page("pages/circuits.py").run()
    at.slider(key="head").set_value(4).run()
    for page in ("heads", "circuits"):
        at.query_params.clear()
        at.switch_page(f"pages/{page}.py").run()
        assert not at.exception
    assert at.slider(key="head").value == 4
    assert selection(at)["head"] == "4"
