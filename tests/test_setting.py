"""One place decides which theory speaks of a model, and everybody else agrees with it."""

import re
from dataclasses import dataclass, replace

import pytest
import torch

import ar_interp as ari
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, HaarOrthogonal
from ar_interp.recipes import RECIPES
from ar_interp.setting import (
    DiagonalHeads,
    FirstTokenLaw,
    GradientStep,
    HaarStack,
    NoisyStack,
    OneCoordinate,
    PaperFigure,
    PlainHeads,
    Setting,
    Silent,
    setting_of,
)
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

DIM, N_CTX = 4, 5


@dataclass(frozen=True)
class Damped(HaarOrthogonal):
    """Haar W times .95: a process of somebody else's."""

    kind = "damped-haar"

    def draw_matrices(self, batch, generator):
        return 0.95 * super().draw_matrices(batch, generator)


CONFIGS = {
    "two diagonal heads": ModelConfig.diagonal(dim=DIM, n_heads=2, n_ctx=N_CTX),
    "three diagonal heads": ModelConfig.diagonal(dim=DIM, n_heads=3, n_ctx=N_CTX),
    "six diagonal heads": ModelConfig.diagonal(dim=DIM, n_heads=6, n_ctx=N_CTX),
    "unit heads of four coordinates": ModelConfig(dim=DIM, n_ctx=N_CTX, n_heads=1, heads="unit"),
    "one layer": ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, heads="block-scalar", init_scale=0.3),
    "one layer per key": ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, heads="block-scalar", attention="linear/keys"),
    "one layer per pair": ModelConfig.augmented(
        dim=DIM, n_ctx=N_CTX, heads="block-scalar", attention="linear/pairs", init_scale=0.3
    ),
    "one full layer": ModelConfig.augmented(dim=DIM, n_ctx=N_CTX),
    "two layers": ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, n_layers=2, heads="block-scalar"),
    "two augmented heads": ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, n_heads=2),
    "three full heads": ModelConfig.full(dim=DIM, n_ctx=N_CTX, n_heads=3),
    "a residual stream of plain tokens": ModelConfig.full(dim=DIM, n_ctx=N_CTX, n_heads=1, residual=True),
    "softmax": ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, attention="softmax"),
}
PROCESSES = {
    "unitary": CommutingUnitary(DIM),
    "unitary with noise": CommutingUnitary(DIM, noise=0.3),
    "unitary from Gaussian tokens": CommutingUnitary(DIM, first_token="gaussian"),
    "unitary from signs": CommutingUnitary(DIM, first_token="signs"),
    "unitary from tokens twice as long": CommutingUnitary(DIM, first_token=FirstToken("ones", scale=2.0)),
    "slow unitary": CommutingUnitary(DIM, mu=2.0),
    "pairs": CommutingOrthogonal(DIM),
    "pairs with noise": CommutingOrthogonal(DIM, noise=0.3),
    "pairs from signs": CommutingOrthogonal(DIM, first_token="signs"),
    "Haar": HaarOrthogonal(DIM),
    "Haar on the sphere": HaarOrthogonal(DIM, first_token="sphere"),
    "Haar from Gaussian tokens": HaarOrthogonal(DIM, first_token="gaussian"),
    "Haar with noise": HaarOrthogonal(DIM, noise=0.1),
    "damped Haar": Damped(DIM),
}


def goes_together(config: ModelConfig, process: object) -> bool:
    try:
        ari.HookedARTransformer(config, process=process)
    except ValueError:
        return False
    return True


GRID = {
    f"{model}, {about}": (config, process)
    for model, config in CONFIGS.items()
    for about, process in PROCESSES.items()
    if goes_together(config, process)
} | {
    "one coordinate": (ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.1), CommutingUnitary(1)),
    "one slow coordinate": (ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.1), CommutingUnitary(1, mu=50.0)),
    "trained heads of one slow coordinate": (
        ModelConfig.diagonal(dim=1, n_heads=2, n_ctx=N_CTX),
        CommutingUnitary(1, mu=50.0),
    ),
    "merged heads": (
        ModelConfig.augmented(dim=2, n_ctx=N_CTX, heads="merged", attention="linear/pairs"),
        CommutingUnitary(2),
    ),
    "noisy step": (CONFIGS["one layer"], CommutingUnitary(DIM, process_noise=0.1, observation_noise=0.3)),
    "noisy heads": (CONFIGS["six diagonal heads"], CommutingOrthogonal(DIM, observation_noise=0.3)),
    "few noisy heads": (CONFIGS["two diagonal heads"], CommutingOrthogonal(DIM, observation_noise=0.3)),
    "noisy unitary heads": (CONFIGS["six diagonal heads"], CommutingUnitary(DIM, process_noise=0.2)),
    "noisy stack": (CONFIGS["two layers"], HaarOrthogonal(DIM, observation_noise=0.3)),
    "noisy softmax of block scalars": (
        ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, n_heads=2, heads="block-scalar", attention="softmax"),
        HaarOrthogonal(DIM, observation_noise=0.3),
    ),
    "noisy softmax": (CONFIGS["softmax"], HaarOrthogonal(DIM, observation_noise=0.3)),
    "figure 5": (ModelConfig.paper_figure5(), HaarOrthogonal(5)),
    "figure 5 with noise": (ModelConfig.paper_figure5(), HaarOrthogonal(5, noise=0.1)),
    "figure 7, other contexts": (ModelConfig.paper_figure7(n_ctx=20), HaarOrthogonal(5)),
}
grid = pytest.mark.parametrize(("config", "process"), GRID.values(), ids=GRID.keys())


def test_the_grid_is_wide():
    settings = {setting_of(*pair).kind for pair in GRID.values()}
    assert len(GRID) >= 50
    apart = {"regression in context", "regression in context by softmax", "chains"}  # tested with their models
    assert settings | apart == {
        part.kind for part in Setting.registered.values() if part.__module__.startswith("ar_interp.")
    }


@pytest.mark.parametrize(
    ("pair", "part"),
    [
        ("two diagonal heads, unitary", DiagonalHeads),
        ("six diagonal heads, pairs", DiagonalHeads),
        ("two diagonal heads, unitary with noise", Silent),
        ("two diagonal heads, slow unitary", Silent),
        ("unit heads of four coordinates, unitary", Silent),
        ("one coordinate", OneCoordinate),
        ("trained heads of one slow coordinate", OneCoordinate),
        ("one layer, unitary from signs", GradientStep),
        ("one full layer, pairs", GradientStep),
        ("one layer per pair, unitary from Gaussian tokens", FirstTokenLaw),
        ("one layer per pair, pairs", Silent),
        ("one layer per key, Haar", HaarStack),
        ("two layers, Haar on the sphere", HaarStack),
        ("noisy softmax of block scalars", NoisyStack),
        ("noisy softmax", Silent),
        ("two layers, Haar from Gaussian tokens", Silent),
        ("one layer, damped Haar", Silent),
        ("three full heads, Haar", PlainHeads),
        ("three full heads, damped Haar", Silent),
        ("a residual stream of plain tokens, Haar", Silent),
        ("softmax, Haar", Silent),
        ("figure 5", PaperFigure),
        ("figure 7, other contexts", Silent),
    ],
)
def test_which_part_of_theory_speaks(pair, part):
    setting = setting_of(*GRID[pair])
    assert type(setting) is part
    assert bool(setting.why_not) == (part is Silent)


@grid
def test_training_takes_the_exact_loss_that_the_setting_has(config, process):
    setting, training = setting_of(config, process), TrainConfig(steps=1, device="cpu")
    if setting.no_exact_loss:
        with pytest.raises(ValueError, match=re.escape(setting.no_exact_loss)):
            train(config, process, training, progress=False)
    else:
        run = train(config, process, training, progress=False)
        assert setting.minimum is None or run.members["loss"].min() >= setting.minimum - 1e-9


@grid
def test_an_expected_loss_is_the_mean_of_the_measured_one(config, process, assert_mean):
    setting = setting_of(config, process)
    model = ari.HookedARTransformer(replace(config, init_scale=0.3), process=process, seed=3)
    expected = setting.expected_loss(model)
    if expected.source == "none":
        return
    contexts = process.contexts(4000, config.n_ctx, seed=5)
    with torch.no_grad():
        losses = contexts.losses(model(contexts.inputs))
    if expected.source == "exact":
        assert_mean(losses, expected.loss)
    else:
        spread = (losses.var() / len(losses) + expected.standard_error**2) ** 0.5
        assert abs(losses.mean() - expected.loss) < 4 * spread


@grid
def test_theory_is_not_named_where_it_is_silent(config, process):
    setting = setting_of(config, process)
    said = [setting.sentence(what) for what in ("context", "circle", "heads", "spectrum", "positional", "residual")]
    assert not (isinstance(setting, Silent) and any("theory" in sentence for sentence in said))


def test_two_parts_that_speak_of_the_same_are_refused():
    class Mine(Setting):
        kind = "a second opinion"

        @classmethod
        def speaks_of(cls, config, process):
            return DiagonalHeads.speaks_of(config, process)

    try:
        with pytest.raises(ValueError, match=r"two parts of theory speak of .*DiagonalHeads and .*Mine\. Narrow"):
            setting_of(*GRID["two diagonal heads, unitary"])
    finally:
        del Setting.registered["a second opinion"]


def test_a_part_of_theory_from_outside_speaks():
    class Softmax(Setting):
        kind = "softmax on Haar"

        @classmethod
        def speaks_of(cls, config, process):
            return config.attention == "softmax" and type(process) is HaarOrthogonal

        @property
        def minimum(self):
            return 0.25

    try:
        assert setting_of(*GRID["softmax, Haar"]).minimum == 0.25
        assert setting_of(*GRID["softmax, damped Haar"]).minimum is None
        chains = RECIPES["chain-parity-joint"]
        with pytest.warns(
            UserWarning, match=r"Softmax\.speaks_of of test_setting fails, and is taken for no: Attribute"
        ):
            assert setting_of(chains.config, chains.process).kind == "chains"
    finally:
        del Setting.registered["softmax on Haar"]


@pytest.mark.parametrize(
    ("model", "process", "reason"),
    [
        ("two diagonal heads", None, "the process is not known; pass process=..."),
        ("two diagonal heads", CommutingUnitary(DIM, noise=0.3), "noise is 0.3, under which no part of theory speaks"),
        ("two diagonal heads", CommutingUnitary(DIM, mu=2.0), "mu is 2.0, and closed forms of trained heads hold for"),
        ("two diagonal heads", Damped(DIM), "process must be CommutingUnitary, CommutingOrthogonal or another whose W"),
        ("two diagonal heads", ari.processes.Parity(), "process must be an AutoregressiveProcess"),
        ("one layer", Damped(DIM), "on damped-haar, first token unit-ones"),
        ("one layer", HaarOrthogonal(DIM + 1), "process has dim 5 but the model has dim 4; they must agree"),
    ],
)
def test_a_silent_setting_says_why(model, process, reason):
    assert reason in setting_of(CONFIGS[model], process).why_not


def test_every_model_has_a_setting_on_every_process():
    """Pairs that cannot go together too: then theory is silent, whatever is asked."""
    configs = {recipe.config.summary: recipe.config for recipe in RECIPES.values()}
    for config in configs.values():
        for process in {recipe.process for recipe in RECIPES.values()}:
            setting = setting_of(config, process)
            assert isinstance(setting.no_exact_loss, str | None)
            assert not setting.why_not or setting.minimum is setting.hypothesis is None
