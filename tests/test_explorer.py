"""Every page draws for every kind of model, keeps its selection in the URL, and survives what users give it."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

import ar_interp as ari
from ar_interp import records
from ar_interp.studies import Exhibit

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
SHOWN = {  # figures of every model that a page speaks of
    "overview": {"training_history"},
    "in_context_w": {"prediction", "context_error"},
    "algorithm": {"error_by_position", "algorithm_match"},
    "heads": {"head_matrices", "head_spectrum", "head_statistics"},
    "positional_encoding": {"positional_matrix", "positional_rows"},
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
    ("positional_encoding", "pairs"): {"positional_ratio", "residual_by_angle"},
    ("positional_encoding", "positional-mu100"): {"filter_profile", "filter_response", "residual_by_angle"},
    ("circuits", "deep"): {"block_shares", "effective_ranks", "composition_scores"},
    ("interventions", "pairs"): {"edit_curve"},
    ("interventions", "positional-mu100"): {"edit_curve"},
    ("interventions", "deep"): {"swap_by_layer", "path_shares"},
}
MADE = {  # small models, so that what pages measure is measured quickly
    "deep": (ari.ModelConfig.augmented(dim=4, n_ctx=8, n_layers=2), ari.HaarOrthogonal(4)),
    "plain": (ari.ModelConfig.full(dim=4, n_ctx=8, n_heads=2), ari.HaarOrthogonal(4)),
    "pairs": (ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8), ari.CommutingOrthogonal(4)),
    "silent": (ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=8), ari.CommutingUnitary(4, noise=0.3)),
}
WITHOUT = {  # pages that have nothing of a model
    "deep": {"heads", "positional_encoding"},
    "positional-mu100": {"heads", "circuits"},
}
OPENED = {  # where another model shows what is like it
    "pairs": PAGES,
    "deep": ("algorithm", "heads", "positional_encoding", "circuits", "interventions"),
    "plain": ("in_context_w", "circuits", "interventions"),
    "silent": ("overview", "in_context_w", "heads", "positional_encoding", "interventions"),
    "positional-mu100": ("in_context_w", "heads", "positional_encoding", "interventions"),
}
DRAWN = [(page, name) for name, pages in OPENED.items() for page in pages]
TIMEOUT = 120

pytestmark = pytest.mark.usefixtures("without_type_checks")  # the app as users run it


@pytest.fixture(autouse=True)
def _started(monkeypatch, tmp_path_factory):
    """What `streamlit run apps/explorer.py -- --allow FOLDER` does: apps/ is on sys.path, the folder may be opened."""
    monkeypatch.syspath_prepend(APPS)
    monkeypatch.setenv("AR_INTERP_ALLOW", str(tmp_path_factory.getbasetemp()))
    # AppTest would look through all that is installed at every run, for components that the app has not
    monkeypatch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)


def open_page(page: str, **query: object) -> AppTest:
    at = AppTest.from_file(APPS / "explorer.py", default_timeout=TIMEOUT)
    for name, value in query.items():
        at.query_params[name] = str(value)
    return at.switch_page(f"pages/{page}.py").run()


def shown(at: AppTest) -> list[dict]:
    """The figures of a page with their words and code, see plots.py."""
    return [json.loads(element.proto.json) for element in at.get("bidi_component")]


def selection(at: AppTest) -> dict[str, str]:
    """What the URL says, once the page has run."""
    return {name: value if isinstance(value, str) else value[-1] for name, value in at.query_params.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint of the user's own."""
    return shutil.copytree(ari.checkpoints.trained_folder() / "positional-mu100", tmp_path / "my-model")


@pytest.mark.parametrize(("page", "name"), DRAWN)
def test_page_draws_what_a_model_has_with_code_that_reproduces_it_or_says_that_it_has_nothing(
    page, name, made, checked, monkeypatch
):
    at = open_page(page, checkpoint=made.get(name, name), position=6, sequence=3)
    assert not at.exception
    assert not at.error
    if page in WITHOUT.get(name, ()):
        assert not shown(at)
        assert "Nothing on this page applies to this model" in at.info[0].value
        return
    drawn = "".join(figure["code"] for figure in shown(at))
    assert SHOWN[page] | ALSO_SHOWN.get((page, name), set()) <= set(re.findall(r"figures\.(\w+)\(", drawn))
    assert all(figure["title"] and figure["measured"] and figure["look"] for figure in shown(at))
    check_code([figure for figure in shown(at) if figure["id"] not in checked], monkeypatch)
    checked |= {figure["id"] for figure in shown(at)}
    if name == "silent":
        assert "in theory" not in "".join(f"{figure['title']} {figure['measured']}".lower() for figure in shown(at))
        if page == "overview":
            assert "Theory makes no claims about this model: noise is 0.3" in at.info[1].value.replace("\\", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of MADE, hardly trained."""
    folders = {}
    training = {"objective": "sampled", "optimizer": "adam", "lr": 1e-3, "steps": 2, "batch": 8, "device": "cpu"}
    for name, (config, process) in MADE.items():
        run = ari.train(config, process, ari.TrainConfig(**training, n_seeds=2))
        folders[name] = ari.checkpoints.save(run, tmp_path_factory.mktemp("made") / name)
    return folders


@pytest.fixture(scope="module")
def checked() -> set[str]:
    """Figures whose code has been run, of whatever model."""
    return set()


def check_code(figures: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that a page shows reproduces its figures."""
    drawn: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: drawn.append(figure))
    for figure in figures:
        exec(figure["code"], {})
    assert [json.loads(figure.to_json())["data"] for figure in drawn] == [f["figure"]["data"] for f in figures]


def test_figures_of_shipped_models_carry_the_claims_that_they_bear_on_and_others_carry_none(folder):
    shipped = shown(open_page("positional_encoding", checkpoint="positional-mu100"))
    assert {figure["verdict"] for figure in shipped if figure["claims"]} == {"holds"}
    assert all("measured" in claim and "predicted" in claim for figure in shipped for claim in figure["claims"])
    assert not any(figure["claims"] for figure in shown(open_page("positional_encoding", checkpoint=folder)))


def test_overview_shows_the_record_of_a_folder_as_its_makers_word(folder):
    mine = ari.load(folder)
    records.write(mine, ari.Claims("mine", (zoo.claim(),), seed=9), mine.path)
    at = open_page("overview", checkpoint=str(mine.path))
    assert any("Measured by whoever made this folder" in text.value for text in at.markdown)
    at = open_page("overview", checkpoint="positional-mu100")
    assert any("Measured by the makers of this package" in text.value for text in at.markdown)


def test_a_number_that_is_none_is_said_in_words():
    view = import_module("view")
    assert view.numeral("nan") == "not a number"
    assert view.numeral("-inf") == "-∞"
    assert view.numeral(3e-30, 1e-30) == "0 (to rounding)"
    assert view.numeral(1.5, 0.25) == "1.5 ± 0.25"


def test_claims_are_measured_again_in_the_background_in_turn_and_can_be_stopped(folder, monkeypatch):
    at = open_page("overview", checkpoint=folder)
    measuring = import_module("measuring")
    with monkeypatch.context() as full:
        full.setattr(measuring, "MOST", 0)
        (again,) = (button for button in at.button if "again" in button.label)
        again.click().run()
        assert any("number 1 in line" in info.value for info in at.info)
        assert not any("Stop" in button.label for button in at.button)
    at.run()
    (stop,) = (button for button in at.button if "Stop" in button.label)
    stop.click().run()
    assert not at.exception
    (again,) = (button for button in at.button if "again" in button.label)
    again.click().run()
    (job,) = measuring._jobs.values()
    job.process.wait(TIMEOUT)
    at.run()
    assert not at.exception
    assert any("Measured here" in text.value for text in at.markdown), [e.value for e in at.error]
    assert shown(open_page("positional_encoding", checkpoint=folder))


def test_models_by_question_and_the_glossary_have_every_study_and_the_papers():
    at = open_page("models")
    assert not at.exception
    text = " ".join(part.value for part in (*at.markdown, *at.caption))
    questions = [study.question for study in ari.studies.all_studies() if study.recipes]
    assert all(question[:20] in text for question in questions)
    at = open_page("glossary")
    assert not at.exception
    assert "arxiv.org/abs/2402.05787" in at.markdown[0].value


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


@pytest.mark.parametrize(
    ("page", "damage"), [("overview", break_config), ("heads", break_weights), ("overview", remove_all)]
)
def test_a_broken_checkpoint_shows_its_error_and_the_page_recovers(page, damage, folder):
    fault = damage(folder)
    at = open_page(page, checkpoint=folder)
    assert not at.exception
    (error,) = at.error
    assert fault in error.value.replace("\\", "")
    assert not shown(at)
    at.selectbox(key="checkpoint chosen").select("positional-mu100").run()
    assert not at.exception
    assert not at.error
    assert selection(at)["checkpoint"] == "positional-mu100"


@pytest.mark.parametrize("size", [1e50, 1e150])
def test_absurd_weights_are_sentences(size, folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: size * (tensor + 1) for name, tensor in tensors.items()}, folder / "model.safetensors")
    at = open_page("in_context_w", checkpoint=folder)
    assert not at.exception
    assert at.error or shown(at)


def test_an_exception_in_a_figure_leaves_the_others(monkeypatch):
    result = Exhibit.result

    def fail(self, *rest):
        if self.name == "positional_rows":
            raise ZeroDivisionError("no *such* thing")
        return result(self, *rest)

    streamlit.cache_resource.clear()  # what other tests have drawn
    monkeypatch.setattr(Exhibit, "result", fail)
    at = open_page("positional_encoding", checkpoint="positional-mu100")
    assert not at.exception
    (error,) = at.error
    assert "stopped unexpectedly" in error.value
    assert len(shown(at)) > 2


def test_a_folder_that_was_not_allowed_is_refused_in_the_same_words_whether_it_is_there(monkeypatch, folder):
    monkeypatch.setenv("AR_INTERP_ALLOW", "")
    said = [open_page("heads", checkpoint=path).error[0].value for path in (folder, "/root", "/no/such")]
    assert len(set(said)) == 1
    assert "allowed to open when it was started" in said[0]


def test_a_folder_of_ones_own_is_drawn_and_drawn_afresh_once_it_changes(folder):
    at = open_page("positional_encoding", checkpoint=folder)
    before = shown(at)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    after = shown(at.run())
    old, new = (figures[1]["figure"]["data"][0]["y"] for figures in (before, after))
    assert new == [2 * value for value in old]


def own_claims() -> str:
    """Claims with words that are no HTML, about a model with a name that is no Markdown."""
    control = ari.Control(description="<img src=x onerror=alert(1)>", estimate=ari.Estimate(2.0, {}, 3))
    claim = ari.Claim(
        name="own/size", evidence="weights", statement="<script>alert(1)</script> is small", source="my notes",
        predicted=0.0, estimate=ari.Estimate(float("nan"), {}, 3), tolerance=0.1, reason="seen", control=control,
    )  # fmt: skip
    return ari.Claims("my *model*", (claim,), seed=3).to_json()


def test_claims_of_ones_own_are_shown_from_a_file_and_their_words_are_words():
    at = open_page("claims")
    assert not at.exception
    at.file_uploader(key="claims").set_value(("own.json", own_claims().encode(), "application/json")).run()
    assert not at.exception
    assert not at.error
    assert at.subheader[0].value == r"my \*model\*"
    (said,) = [element.proto.body for element in at.get("html") if "<details" in element.proto.body]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; is small" in said
    assert "<script" not in said
    assert "<img" not in said
    assert "not a number" in said
    assert "fails" in said


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"/etc/passwd", "no JSON object"),
        (b"\xff\xfe{", "no JSON object"),
        (b"{", "not valid JSON"),
        (b'{"schema": 1, "seed": 0, "checkpoints": {"a": [{}]}}', "is missing"),
        (b'{"schema": %s, "seed": 0, "checkpoints": {"a": []}}' % (b"9" * 4000), "digits"),
        (own_claims().replace('"holds"', "1").replace('"n": 3', '"n": "inf"').encode(), "n "),
        (own_claims().replace('"name": "own/size"', '"name": 5').encode(), "name of a claim"),
    ],
    ids=range(7),
)
def test_a_file_that_holds_no_claims_is_a_sentence(content, fault):
    at = open_page("claims")
    at.file_uploader(key="claims").set_value(("own.json", content, "application/json")).run()
    assert not at.exception
    (error,) = at.error
    assert fault in error.value.replace("\\", "")
    assert len(error.value) < 700


def test_the_url_selects_and_the_widgets_write_to_it(made):
    at = open_page("in_context_w", checkpoint=made["pairs"], position=7, sequence=5)
    assert (at.slider(key="position").value, at.slider(key="sequence").value) == (7, 5)
    assert "At T = 7 " in shown(at)[0]["title"]
    at.slider(key="position").set_value(8).run()
    assert selection(at) == {"checkpoint": str(made["pairs"]), "position": "8", "sequence": "5"}
    assert "At T = 8 " in shown(at)[0]["title"]
    at.query_params["position"] = "4"
    at.run()
    assert at.slider(key="position").value == 4


@pytest.mark.parametrize(
    ("page", "control", "asked"),
    [
        ("in_context_w", "position", {"99": 8, "-3": 2, "1e9": 4, "": 4, "٣": 3}),
        ("circuits", "head", {"99": 1, "-3": 0, "1.5": 0, "x": 0, "": 0}),
        ("interventions", "positional_scale", {"99": 2, "-3": 0, "nan": 1, "inf": 1, "x": 1, "": 1}),
    ],
)
def test_what_does_not_exist_is_brought_inside(page, control, asked, made):
    at = open_page(page, checkpoint=made["pairs"])
    for value, shown in asked.items():
        at.query_params[control] = value
        at.run()
        assert not at.exception
        assert at.slider(key=control).value == shown, value


@pytest.mark.parametrize(("n_ctx", "page", "sliders"), [(2, "interventions", []), (3, "in_context_w", ["position"])])
def test_the_shortest_contexts_have_a_position_to_look_at(n_ctx, page, sliders, tmp_path):
    config = ari.ModelConfig.diagonal(dim=2, n_heads=1, n_ctx=n_ctx)
    run = ari.train(config, ari.CommutingUnitary(2), ari.TrainConfig(lr=1e-4, steps=2, device="cpu"))
    at = open_page(page, checkpoint=ari.checkpoints.save(run, tmp_path / "short"))
    assert not at.exception
    assert selection(at)["position"] == "2"
    assert [slider.key for slider in at.slider if slider.key == "position"] == sliders


def test_landscapes_are_drawn_with_what_their_rows_show():
    at = open_page("landscapes")
    assert not at.exception
    figures = shown(at)
    assert {each["id"] for each in figures} > {"pairs-share-by-heads", "emergence-half-time-by-scale"}
    assert all("claims" in each and each["claims"] for each in figures)


def test_the_selection_survives_a_change_of_page(made):
    chosen = {"checkpoint": str(made["pairs"]), "position": "7", "sequence": "5", "head": "1"}
    at = AppTest.from_file(APPS / "explorer.py", default_timeout=TIMEOUT)
    at.query_params.update(chosen)
    at.run()
    for page in ("circuits", "heads", "in_context_w"):
        at.query_params.clear()  # as the browser does on a change of page
        at.switch_page(f"pages/{page}.py").run()
        assert not at.exception
        assert selection(at).items() >= chosen.items()
    assert at.slider(key="position").value == 7


def test_layer_and_head_are_chosen_where_there_are_several(made):
    at = open_page("circuits", checkpoint=made["pairs"], head=1)
    assert at.slider(key="head").value == 1
    assert "layer 0, head 1" in shown(at)[0]["title"].lower()
    at.slider(key="head").set_value(0).run()
    assert selection(at)["head"] == "0"
    assert "layer 0, head 0" in shown(at)[0]["title"].lower()
    at = open_page("circuits", checkpoint=made["deep"], layer=1)
    assert [slider.key for slider in at.slider] == ["layer"]
    assert "layer 1, head 0" in shown(at)[0]["title"].lower()


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
    return next(trace for trace in shown(at)[0]["figure"]["data"] if trace.get("name") == "moved by the swap")


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
    figure = next(figure for figure in shown(at) if figure["title"].startswith("Positional scale"))
    return next(trace for trace in figure["figure"]["data"] if trace.get("name") == "measured here")
