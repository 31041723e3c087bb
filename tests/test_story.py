"""The story: its numbers are those of the checkpoints, and Python and JavaScript agree on what is sent."""

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest

import ar_interp as ari

AppTest = pytest.importorskip("streamlit.testing.v1", reason="the explorer needs the extra 'app'").AppTest

APPS = Path(__file__).parents[1] / "apps"
ASSETS = APPS / "storyboard" / "assets"
IN_JAVASCRIPT = {int: "number", float: "number", str: "string", NoneType: "null"}

pytestmark = pytest.mark.usefixtures("without_type_checks")  # the app as users run it


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """What `streamlit run` does: the folder of the main script is on sys.path."""
    monkeypatch.syspath_prepend(APPS)


@pytest.fixture
def payload() -> dict[str, Any]:
    return json.loads((APPS / "storyboard" / "payload.json").read_text("utf-8"))


def test_page_sends_the_payload_and_shows_nothing_else():
    at = AppTest.from_file(APPS / "pages" / "story.py", default_timeout=60).run()
    assert not at.exception
    assert not at.error
    (component,) = at.get("bidi_component")
    check("payload", json.loads(component.proto.json), payload_type())


def test_payload_is_what_the_checkpoints_and_theory_say(payload):
    from storyboard.payload import build

    where = "payload.json, which `PYTHONPATH=apps python -m storyboard` writes anew"
    compare(where, payload, json.loads(json.dumps(build())))


def test_payload_of_other_checkpoints_is_built_anew(payload, monkeypatch, tmp_path):
    from storyboard import payload as module

    monkeypatch.setattr(module, "build", lambda: "built")
    assert module.current() == payload
    monkeypatch.setattr(module, "FILE", tmp_path / "payload.json")
    payload["sources"][f"{module.PAIRS}/model.safetensors"] = "0" * 64
    module.FILE.write_text(json.dumps(payload), "utf-8")
    assert module.current() == "built"


def test_checkpoints_are_where_the_package_has_them():
    from storyboard.payload import _trained

    assert _trained() == ari.checkpoints.trained_folder()


def test_javascript_has_the_same_contract():
    from storyboard import contract

    script = (ASSETS / "contract.js").read_text("utf-8")
    assert f"const VERSION = {contract.VERSION};" in script
    declared = {
        name: {field: kind for kind, field in re.findall(r"@property \{(.+?)\} (\w+)", body)}
        for name, body in re.findall(r"@typedef \{Object\} (\w+)(.*?)\*/", script, flags=re.S)
    }
    ours = {
        name: {field: in_javascript(hint) for field, hint in get_type_hints(kind).items()}
        for name, kind in vars(contract).items()
        if is_typeddict(kind)
    }
    assert declared == ours


def test_names_in_the_url_are_those_that_python_knows():
    import storyboard

    scripts = [file.read_text("utf-8") for file in (ASSETS / "screens").glob("*.js")]
    params = [re.search(r"params: \{(.*?)\},?\n", script) for script in scripts]
    names = {name for found in params if found for name in re.findall(r"(\w+): \w+\(", found[1])}
    assert {"screen", *names} == set(storyboard.NAMES)


def test_the_end_leads_to_pages_that_exist():
    import storyboard

    (ways,) = re.findall(r"const WAYS_ON = (.*);", (ASSETS / "screens" / "9_end.js").read_text("utf-8"))
    assert [page for page, _ in json.loads(ways)] == list(storyboard.WAYS_ON)
    for page in storyboard.WAYS_ON:
        assert (APPS / "pages" / f"{page}.py").is_file()


def test_sentences_that_state_an_order_are_true_of_the_numbers(payload):
    pairs, tests = payload["pairs"], {test["key"]: test for test in payload["experiments"]}
    assert payload["memorised"] > 1  # "worse than saying nothing"
    assert pairs["cut_previous"] == pytest.approx(1, abs=1e-6)  # "as bad as saying nothing", "by exactly one radius"
    assert pairs["cut_last"] == pytest.approx(2, abs=1e-6)  # "twice as bad"
    assert at(tests["turn"]) > 1  # "worse than silent"
    assert at(tests["longer"]) > min(tests["longer"]["measured"]["y"])  # "more evidence, worse predictions"
    assert at(tests["gaussian"]) > tests["gaussian"]["limit"]  # "never gets below"
    assert 0.9 < payload["depth"][0]["steps"] < 1.5  # "one layer is worth about one gradient step"
    assert payload["depth"][1]["steps"] > 2  # "two layers do more than two steps"
    assert payload["swap"]["score"] == pytest.approx(1, abs=0.01)  # "the arrow obeys B"
    assert payload["swap"]["controls"] < 0.05


def test_code_that_is_taken_away_runs(capsys):
    script = (ASSETS / "screens" / "9_end.js").read_text("utf-8")
    (code,) = re.findall(r"const CODE = `(.+?)`;", script, flags=re.S)
    (training,) = re.findall(r"const TRAIN = `(.+?)`;", script, flags=re.S)
    *measured, verified = code.splitlines()
    assert "ari.verify(checkpoint)" in verified  # which other tests run
    exec("\n".join(measured), {})
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(-0.5)
    exec(training.replace("steps=3000, n_seeds=16", "steps=2, n_seeds=2"), {"ari": ari})


def payload_type() -> type:
    from storyboard.contract import Payload

    return Payload


def at(experiment: dict[str, Any]) -> float:
    """What was measured where the visitor guesses."""
    found = dict(zip(experiment["measured"]["x"], experiment["measured"]["y"], strict=True))
    return found[min(found, key=lambda x: abs(x - experiment["ask"]))]


def check(where: str, value: Any, kind: Any) -> None:
    """A value of JSON is of this type: a TypedDict, list, dict, union or plain type."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert set(value) == set(hints), where
        for name, hint in hints.items():
            check(f"{where}.{name}", value[name], hint)
    elif get_origin(kind) is list:
        assert isinstance(value, list), where
        for each in value:
            check(f"{where}[]", each, get_args(kind)[0])
    elif get_origin(kind) is dict:
        for name, each in value.items():
            check(f"{where}.{name}", each, get_args(kind)[1])
    else:
        allowed = get_args(kind) or (kind,)
        assert type(value) in allowed or (type(value) is int and float in allowed), f"{where}: {value!r}"


def in_javascript(kind: Any) -> str:
    """A type as JSDoc has it."""
    if is_typeddict(kind):
        return kind.__name__
    if get_origin(kind) is list:
        return f"{in_javascript(get_args(kind)[0])}[]"
    if get_origin(kind) is dict:
        return f"Object<string, {in_javascript(get_args(kind)[1])}>"
    return "|".join(IN_JAVASCRIPT[each] for each in (get_args(kind) or (kind,)))


def compare(where: str, known: Any, fresh: Any) -> None:
    """Equal to the digits that another machine may give."""
    if isinstance(known, dict):
        assert set(known) == set(fresh), where
        for name in known:
            compare(f"{where}.{name}", known[name], fresh[name])
    elif isinstance(known, list):
        assert len(known) == len(fresh), where
        for one, other in zip(known, fresh, strict=True):
            compare(where, one, other)
    elif isinstance(known, float):
        assert fresh == pytest.approx(known, rel=1e-4, abs=1e-4), where
    else:
        assert fresh == known, where
