"""Every page draws for every kind of model, keeps its selection in the URL, and survives what users give it."""

import json
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
from safetensors.torch import load_file, save_file

import ar_interp as ari
from ar_interp.claims import Control

streamlit = pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")
AppTest = pytest.importorskip("streamlit.testing.v1", reason="the explorer needs the extra 'app'").AppTest

APPS = Path(__file__).parents[1] / "apps"
PAGES = ("overview", "in_context_w", "algorithm", "heads", "positional_encoding")
CHECKPOINTS = ("diagonal-unitary-h10", "diagonal-orthogonal-h5", "positional-mu100")
FIGURES = {  # number on each page
    "overview": (1, 2, 1),
    "in_context_w": (4, 4, 3),
    "algorithm": (2, 2, 2),
    "heads": (3, 3, 0),
    "positional_encoding": (4, 4, 5),
}
GENERAL = {
    "deep": ari.ModelConfig.augmented(dim=4, n_ctx=8, n_layers=2),
    "plain": ari.ModelConfig.full(dim=4, n_ctx=8, n_heads=2),
}
GENERAL_FIGURES = {"overview": (1, 1), "in_context_w": (3, 3), "algorithm": (3, 2)}
TIMEOUT = 120

pytestmark = pytest.mark.usefixtures("without_type_checks")  # the app as users run it


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """What `streamlit run` does: the folder of the main script is on sys.path."""
    monkeypatch.syspath_prepend(APPS)


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


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_page_draws_its_figures_and_their_code_reproduces_them(page, name, monkeypatch):
    at = open_page(page, checkpoint=name, position=6, sequence=3)
    check_page(at, FIGURES[page][CHECKPOINTS.index(name)], monkeypatch)


@pytest.fixture(scope="module")
def general(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints without diagonal heads."""
    folders = {}
    training = ari.TrainConfig(objective="sampled", optimizer="adam", lr=1e-3, steps=2, batch=8, device="cpu")
    for name, config in GENERAL.items():
        run = ari.train(config, ari.HaarOrthogonal(4), training)
        folders[name] = ari.checkpoints.save(run, tmp_path_factory.mktemp("general") / name)
    return folders


@pytest.mark.parametrize("page", GENERAL_FIGURES)
@pytest.mark.parametrize("name", GENERAL)
def test_page_draws_what_a_general_model_has(page, name, general, monkeypatch):
    monkeypatch.setattr("ar_interp.claims.verify", lambda checkpoint: ari.Claims(checkpoint.name, ()))
    at = open_page(page, checkpoint=general[name], position=4, sequence=3)
    check_page(at, GENERAL_FIGURES[page][list(GENERAL).index(name)], monkeypatch)


@pytest.mark.parametrize(
    ("page", "lacks"), [("heads", "no diagonal heads"), ("positional_encoding", "no positional weights")]
)
@pytest.mark.parametrize("name", GENERAL)
def test_what_a_general_model_lacks_is_said(page, lacks, name, general):
    at = open_page(page, checkpoint=general[name])
    assert not at.exception
    assert not at.error
    assert not specs(at)
    assert lacks in at.info[0].value


def test_diagonal_heads_are_told_their_yardstick():
    assert "diagonal OLS" in open_page("algorithm", checkpoint="diagonal-unitary-h5").info[0].value


def check_page(at: AppTest, n_figures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without faults, whose code reproduces its figures."""
    assert not at.exception
    assert not at.error
    assert len(specs(at)) == n_figures

    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    monkeypatch.setattr("ar_interp.claims.verify", lambda checkpoint: ari.Claims(checkpoint.name, ()))
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
            measured=measured,
            uncertainty=0.0,
            n=1,
            tolerance=0.1,
            reason="a reason",
            control=Control(description="untrained", measured=control),
        )

    claims = ari.Claims("made up", (claim(0, 1), claim(1, 1), claim(0, 0)))
    monkeypatch.setattr("ar_interp.claims.verify", lambda checkpoint: claims)
    streamlit.cache_resource.clear()
    at = open_page("overview", checkpoint="diagonal-unitary-h10")
    streamlit.cache_resource.clear()
    table = at.table[0].value
    assert list(table.columns) == ["Verdict", "Statement", "Predicted", "Measured", "n", "Tolerance", "Control"]
    for cell, verdict in zip(table["Verdict"], ("✓ holds", "✗ fails", "○ void"), strict=True):
        assert verdict in cell.replace("\N{NO-BREAK SPACE}", " ")
    assert table["Statement"][0] == r"p\_\{T\-1\} \* \[c\]"  # Markdown shows it as written


def test_heads_of_a_positional_only_model_are_said_to_be_untrained():
    at = open_page("heads", checkpoint="positional-mu100")
    assert "no trained heads" in at.info[0].value


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
    assert len(at.error) == 1
    assert fault in at.error[0].value.replace("\\", "")
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
    assert "no trained heads" in at.info[0].value


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
