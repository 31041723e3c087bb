"""Studies: each covers its own recipes, and one of somebody else is like ours."""

import sys
from collections import Counter
from dataclasses import replace

import pytest
from zoo import unitary_model

import ar_interp as ari
from ar_interp import _kinds, cli, recipes, studies
from ar_interp.claims import Measured, Tolerance, claim
from ar_interp.setting import Silent, setting_of

pytestmark = pytest.mark.usefixtures("known_function")

SILENT = ari.ModelConfig.augmented(dim=3, n_ctx=4, biases=True)


def loudness(subject):
    """Claims as a stranger writes them: with a control that is a number, and with an untrained model."""
    measured = Measured(subject)
    yield claim(
        "mine/size",
        "The prediction has norm 1",
        evidence="behaviour",
        source="a paper of mine",
        tolerance=Tolerance(0.1, "a reason of mine"),
        predicted=1,
        measured=1.05,
        control=("none", 0.0),
    )
    yield measured.claim(
        "mine/loss",
        "The loss is large",
        lambda m: m.loss(),
        evidence="behaviour",
        source="a paper of mine",
        tolerance=Tolerance(1e9, "no reason"),
    )


MINE = studies.Study(
    name="mine",
    source="a paper of mine",
    question="Is it loud?",
    covers=lambda setting: isinstance(setting, Silent),
    recipes={"augmented-unitary": next(iter(studies.STUDIES[0].recipes.values()))},
    claims=loudness,
)


@pytest.fixture
def with_mine(monkeypatch):
    monkeypatch.setattr(studies, "all_studies", lambda: (*studies.STUDIES, MINE))


def test_names_are_unique():
    assert max(Counter(study.name for study in studies.STUDIES).values()) == 1
    assert max(Counter(name for study in studies.STUDIES for name in study.recipes).values()) == 1


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_a_recipe_is_covered_by_its_study_and_by_no_other_with_recipes(name):
    recipe = recipes.RECIPES[name]
    covering = studies.studies_of(setting_of(recipe.config, recipe.process))
    assert [study.name for study in covering if study.recipes] == [
        study.name for study in studies.STUDIES if name in study.recipes
    ]


def test_where_theory_is_silent_only_the_study_of_any_model_covers():
    covering = studies.studies_of(setting_of(SILENT, ari.HaarOrthogonal(3)))
    assert [study.name for study in covering] == ["any model"]


def test_a_study_of_somebody_else_makes_claims(with_mine):
    claims = ari.verify(SILENT.build(), ari.HaarOrthogonal(3), seed=7, n=8)
    assert claims.seed == 7
    found = [(claim.name, claim.verdict) for claim in claims]
    assert found == [("model/function", "holds"), ("mine/size", "holds"), ("mine/loss", "void")]
    assert (claims["mine/size"].tolerance, claims["mine/size"].reason) == (0.1, "a reason of mine")
    assert claims["mine/loss"].n == 8
    assert claims.why_not == ""


def test_a_study_that_fails_on_models_that_it_does_not_know_is_a_warning(monkeypatch):
    narrow = replace(MINE, covers=lambda setting: setting.config.heads == "full")
    monkeypatch.setattr(studies, "all_studies", lambda: (*studies.STUDIES, narrow))
    chains = setting_of(recipes.RECIPES["chain-parity-joint"].config, recipes.RECIPES["chain-parity-joint"].process)
    with pytest.warns(UserWarning, match="<lambda> of test_studies fails, and is taken for no: AttributeError"):
        covering = studies.studies_of(chains)
    assert [study.name for study in covering] == ["chains", "any model"]
    assert narrow in studies.studies_of(setting_of(SILENT, ari.HaarOrthogonal(3)))


def test_a_recipe_of_a_taken_name_is_left_out(monkeypatch):
    monkeypatch.setattr(recipes, "all_studies", lambda: (*studies.STUDIES, MINE))
    with pytest.warns(UserWarning, match="recipe 'augmented-unitary' of study 'mine' is left out: the name is taken"):
        assert recipes._collected() == recipes.RECIPES


class Entry:
    """An entry point as importlib.metadata gives it."""

    def __init__(self, name, load):
        self.name, self.load = name, load


@pytest.fixture
def installed(monkeypatch):
    """Pretend that packages with these entry points are installed."""

    def forget():
        _kinds.load_plugins.cache_clear()
        studies.all_studies.cache_clear()

    def install(*entries):
        for module in (_kinds, cli):
            monkeypatch.setattr(module, "entry_points", lambda group: entries if group == "ar_interp.studies" else ())
        forget()

    yield install
    monkeypatch.undo()
    forget()


def test_studies_of_installed_packages_are_found(installed):
    installed(Entry("one", lambda: MINE), Entry("several", lambda: (MINE, MINE)))
    assert studies.all_studies() == (*studies.STUDIES, MINE, MINE, MINE)


@pytest.mark.parametrize(("load", "said"), [(lambda: 1 / 0, "ZeroDivision"), (lambda: sys.exit(3), "SystemExit")])
def test_a_study_that_cannot_be_loaded_is_a_warning(load, said, installed):
    installed(Entry("broken", load), Entry("whole", lambda: MINE))
    with pytest.warns(UserWarning, match=f"entry point 'broken' of ar_interp.studies cannot be loaded: {said}"):
        assert studies.all_studies() == (*studies.STUDIES, MINE)


@pytest.mark.filterwarnings("default")
def test_the_command_says_so_and_goes_on(installed, capsys):
    installed(Entry("broken", lambda: 1 / 0), Entry("whole", lambda: MINE))
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("ar-interp: entry point 'broken' of ar_interp.studies cannot be loaded: ZeroDivision")
    assert "mine: Is it loud?" in printed.out
    assert "diagonal-unitary-h5" in printed.out


@pytest.mark.parametrize("named", [MINE.claims, (MINE, 3), None])
def test_an_entry_point_that_names_something_else_is_left_out_with_a_warning(named, installed):
    installed(Entry("odd", lambda: named), Entry("whole", lambda: MINE))
    with pytest.warns(UserWarning, match="entry point 'odd' of ar_interp.studies is left out: it must name a Study"):
        found = studies.all_studies()
    assert found[len(studies.STUDIES) :] == ((MINE, MINE) if isinstance(named, tuple) else (MINE,))


def test_claims_are_measured_on_as_many_contexts_as_asked_for():
    few, many = (ari.verify(unitary_model(4), n=n) for n in (20, 50))
    for name in ("loss/fresh", "heads/ablation", "positions/scrub", "estimate/swap"):
        assert (few[name].n, many[name].n) == (20, 50)
    assert few["loss/minimum"] == many["loss/minimum"]


@pytest.mark.parametrize("n", [1, 0, 2.5, "many"])
def test_too_few_contexts_are_refused(n, without_type_checks):
    with pytest.raises(ValueError, match="n must be"):
        ari.verify(ari.load("diagonal-unitary-h5"), n=n)
