"""Kinds that are defined here, outside the package: attention types, an encoding, a model, a process."""

import json
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import ar_interp as ari
from ar_interp.checkpoints import CheckpointError, load
from ar_interp.models.attention_types import AttentionType, LinearAttention, NonlinearAttention
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig, is_plain_full
from ar_interp.models.encodings import Encoding
from ar_interp.processes import HaarOrthogonal
from ar_interp.processes.base import AutoregressiveProcess
from ar_interp.setting import setting_of
from ar_interp.training.batched import OwnModel, Stack, form_of, is_paper_figure7
from ar_interp.training.config import TrainConfig
from ar_interp.training.fast import fast_step
from ar_interp.training.objectives import sampled_objective, value_and_gradients


class Relu(NonlinearAttention):
    kind = "relu"

    def pattern(self, scores):
        return scores.relu()


class Exponential(NonlinearAttention):
    """exp, written so that it is 1 in the future: the layer must not let that through."""

    kind = "exponential"

    def pattern(self, scores):
        return scores.clamp(min=0).exp()


class RootKeys(LinearAttention):
    kind = "linear/root keys"

    def share(self, T):
        return T**-0.5


class Recent(LinearAttention):
    """Scores times .5^age: a factor for each pair."""

    kind = "linear/recent"

    def share(self, T):
        return 0.5 ** (T - T.mT).clamp(min=0)


class Swapped(Encoding):
    """(s_{t-1}, s_t): two blocks."""

    kind = "swapped"
    blocks = ("s_{t-1}", "s_t")
    conjugated = "key"
    holds_previous = True

    def encode(self, tokens):
        return torch.cat([torch.cat([torch.zeros_like(tokens[..., :1, :]), tokens[..., :-1, :]], -2), tokens], -1)


@dataclass(frozen=True)
class Shrinking(HaarOrthogonal):
    """rho times a Haar W."""

    kind: ClassVar[str] = "shrinking"
    rho: float = 0.9

    def draw_matrices(self, batch, generator):
        return self.rho * super().draw_matrices(batch, generator)


class Guess(nn.Module):
    """One matrix for every context."""

    def __init__(self, config):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(config.dim, config.dim, dtype=config.torch_dtype))

    def forward(self, tokens):
        return tokens @ self.W.mT


@dataclass(frozen=True, kw_only=True)
class GuessConfig(Config):
    kind: ClassVar[str] = "guess"
    dim: int
    n_ctx: int

    parameter_shapes = property(lambda self: {"W": (self.dim, self.dim)})
    torch_dtype = torch.float64
    summary = "one matrix for every context"

    def check_process(self, process):
        if process.dim != self.dim:
            raise ValueError("process must have the model's dim")

    def initial_parameters(self, *, seed):
        return {"W": torch.eye(self.dim, dtype=torch.float64) * (1.0 + seed)}

    def build(self, process=None, *, device="cpu"):
        return Guess(self).to(device)


SIZES = {"dim": 3, "n_ctx": 6}
TRAINING = TrainConfig(objective="sampled", batch=32, steps=60, lr=1e-2, optimizer="adam", device="cpu")
CONFIGS = {
    "relu": ModelConfig.full(**SIZES, n_heads=2, attention="relu", init_scale=0.5),
    "exponential": ModelConfig.full(**SIZES, n_heads=2, attention="exponential", query_lag=1, positional="none"),
    "root keys": ModelConfig.augmented(**SIZES, attention="linear/root keys"),
    "recent": ModelConfig.full(**SIZES, n_heads=2, attention="linear/recent"),
    "swapped": ModelConfig.full(
        **SIZES, n_heads=2, encoding="swapped", query_lag=0, positional="none", unembed=True, attention="linear/keys"
    ),
    "guess": GuessConfig(**SIZES),
}


# ---- what a stranger wrote trains, saves, loads


@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_through_the_hooked_model_and_what_is_saved_is_loaded(name, tmp_path):
    config, process = CONFIGS[name], Shrinking(3, rho=0.8)
    run = ari.train(config, process, TRAINING, progress=False)
    contexts = process.contexts(500, 6, seed=0)
    start = config.build(process)
    start.load_state_dict(config.initial_parameters(seed=0))
    before, after = (contexts.losses(model(contexts.inputs)).mean() for model in (start, run.model))
    assert after < 0.95 * before
    loaded = load(run.save(tmp_path / "stranger"))
    assert (loaded.config, loaded.process) == (config, process)
    assert json.loads((tmp_path / "stranger/config.json").read_text())["model"]["kind"] == config.kind
    assert torch.equal(loaded.model(contexts.inputs), run.model(contexts.inputs))
    card = (tmp_path / "stranger/README.md").read_text()
    assert "shrinking, rho = 0.8," in card
    assert "ar-interp train" not in card  # no recipe has this name


@pytest.mark.parametrize("name", CONFIGS)
def test_it_has_no_fast_form_and_no_theory(name):
    config, theirs = CONFIGS[name], Shrinking(3)
    assert fast_step(form_of(config)) is None
    assert isinstance(form_of(config), (Stack, OwnModel))
    assert setting_of(config, theirs).why_not
    assert setting_of(config, HaarOrthogonal(3)).why_not


def test_linear_is_what_the_type_states_and_nothing_is_linear_because_it_is_not_softmax():
    assert [CONFIGS[name].linear for name in ("relu", "exponential", "root keys", "recent")] == [
        False,
        False,
        True,
        True,
    ]
    assert CONFIGS["relu"].needs_real_tokens


# ---- values and gradients against loops over positions


def written_out(config, parameters, tokens):
    """Predictions of one plain layer of full heads that asks with s_{T-1}, or one augmented head, term by term."""
    P = parameters.get("blocks.0.attn.positional.P")
    W = {part: parameters[f"blocks.0.attn.W_{part}"] for part in "QKVO"}
    factor = {
        "relu": lambda score, T, t: score.clamp(min=0),
        "exponential": lambda score, T, t: score.clamp(min=0).exp(),
        "linear/root keys": lambda score, T, t: score / T**0.5,
        "linear/recent": lambda score, T, t: score * 0.5 ** (T - t),
    }[config.attention]
    zero = torch.zeros_like(tokens[:, 0])
    augmented = config.encoding == "augmented"

    def token(t):
        return torch.cat([zero, tokens[:, t], tokens[:, t - 1] if t else zero], -1) if augmented else tokens[:, t]

    predictions = []
    for T in range(1, tokens.shape[1] + 1):
        total = token(T - 1) if config.residual else torch.zeros_like(token(0))
        asked = T - 1 - config.query_lag
        for h in range(config.n_heads if asked >= 0 else 0):
            for t in range(1, T + 1):
                score = ((token(asked) @ W["Q"][h]) * (token(t - 1) @ W["K"][h])).sum(-1, keepdim=True)
                weight = factor(score, T, t) * (1 if P is None else P[asked, t - 1])
                total = total + weight * (token(t - 1) @ W["V"][h] @ W["O"][h])
        predictions.append(total[:, : config.dim])
    return torch.stack(predictions, 1)


@pytest.mark.parametrize("name", ["relu", "exponential", "root keys", "recent"])
def test_losses_and_gradients_of_training_are_those_of_the_formula(name):
    config, process = CONFIGS[name], HaarOrthogonal(3)
    seeds = (3, 4)
    members = [config.initial_parameters(seed=seed) for seed in seeds]
    parameters = {key: 5 * torch.stack([member[key] for member in members]) for key in members[0]}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    objective = sampled_objective(config, process, batch=5, generators=generators)
    losses, gradients = value_and_gradients(objective, parameters)
    for i, seed in enumerate(seeds):
        leaves = {key: tensor[i].clone().requires_grad_() for key, tensor in parameters.items()}
        contexts = process.contexts(5, config.n_ctx, generator=torch.Generator().manual_seed(seed))
        loss = contexts.errors(written_out(config, leaves, contexts.inputs))[:, 1:].sum(1).mean()
        assert_close(losses[i], loss.detach(), rtol=1e-12, atol=0)
        for key, truth in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            assert_close(gradients[key][i], truth, rtol=1e-9, atol=1e-12, msg=key)
        assert loss.item() > 0.1


def test_the_state_of_a_linear_type_is_what_its_output_is_read_from():
    model = ari.HookedARTransformer(CONFIGS["recent"], seed=1)
    tokens = HaarOrthogonal(3).contexts(2, 6, seed=0).inputs
    _, cache = model.run_with_cache(tokens)
    q, state = cache["blocks.0.attn.hook_q"], cache["blocks.0.attn.hook_kv_state"]
    z = torch.einsum("bthi,bthij->bthj", q[:, :-1], state[:, 1:])
    assert_close(z, cache["blocks.0.attn.hook_z"][:, 1:])


def test_a_config_of_another_kind_is_no_figure_of_the_paper():
    assert not is_paper_figure7(CONFIGS["relu"])
    assert not is_plain_full(CONFIGS["relu"])

    @dataclass(frozen=True, kw_only=True)
    class Theirs(ModelConfig):
        kind = "theirs"

    for config in (Theirs.augmented(**SIZES), Theirs.full(**SIZES, n_heads=2), Theirs.paper_figure7()):
        assert fast_step(form_of(config)) is None
        assert isinstance(form_of(config), (Stack, OwnModel))


def test_an_encoding_says_how_wide_and_which_blocks():
    config = CONFIGS["swapped"]
    assert config.d_model == 6
    assert config.summary.startswith("one layer, 2 full heads, linear/keys attention, swapped tokens, affine")
    with pytest.raises(ValueError, match=r"swapped tokens hold s_\{t-1\} already: they go with query_lag=0"):
        ModelConfig.full(**SIZES, n_heads=1, encoding="swapped")
    embedded = ari.HookedARTransformer(config).run_with_cache(torch.ones(1, 2, 3))[1]["hook_embed"]
    assert embedded[0].tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6]


# ---- what is refused


@pytest.mark.parametrize("parent", [Relu, RootKeys, Swapped, ModelConfig, Shrinking], ids=lambda parent: parent.kind)
def test_a_subclass_without_a_name_of_its_own_is_refused_where_it_is_defined(parent):
    with pytest.raises(TypeError, match=rf"Nameless needs a name of its own, '{parent.kind}' is its parent's"):
        type("Nameless", (parent,), {})


@pytest.mark.parametrize(
    ("parent", "left"),
    [
        (AttentionType, "pattern, share"),
        (LinearAttention, "share"),
        (NonlinearAttention, "pattern"),
        (Encoding, "encode"),
        (Config, "build, check_process, initial_parameters, parameter_shapes, summary, torch_dtype"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_subclass_that_leaves_something_out_is_told_what(parent, left):
    with pytest.raises(TypeError, match=rf"Unfinished \(kind 'unfinished'\) must define {left}\."):
        type("Unfinished", (parent,), {"kind": "unfinished"})


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(
        TypeError, match=r"kind 'softmax' of Mine is taken by ar_interp\.models\.attention_types\.Softm"
    ):
        type("Mine", (Relu,), {"kind": "softmax"})
    assert AttentionType.find("softmax").__name__ == "Softmax"


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("model", "kind", "recurrent", "model: kind must be one of 'autoregressive'.*, got 'recurrent'.*own is known"),
        ("model", "attention", "hyperbolic", "attention must be one of 'linear', .*'relu'.*, got 'hyperbolic'"),
        ("model", "encoding", "woven", "encoding must be one of 'plain', 'augmented', .*'swapped'.*, got 'woven'"),
        ("process", "kind", "brownian", "process: kind must be one of .*, got 'brownian'"),
        ("process", "kind", "a_module_of_theirs:Process", "kind must be one of .*, got 'a_module_of_theirs:Process'"),
        ("model", "kind", "a_module_of_theirs.Config", "kind must be one of .*, got 'a_module_of_theirs.Config'"),
        ("model", "module", "a_module_of_theirs", "unknown key 'module'"),
    ],
)
def test_an_unknown_kind_in_a_file_is_refused_with_the_list_and_no_module_imported(
    part, key, value, message, relu_folder, tmp_path, monkeypatch
):
    (tmp_path / "a_module_of_theirs.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for root in (Config, AttentionType, Encoding, AutoregressiveProcess):  # kinds of other test files make lists longer
        ours = {
            kind: one for kind, one in root.registered.items() if one.__module__.startswith(("ar_interp.", __name__))
        }
        monkeypatch.setattr(root, "registered", ours)
    config = json.loads((relu_folder / "config.json").read_text())
    config[part][key] = value
    (relu_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(relu_folder)
    assert "a_module_of_theirs" not in sys.modules


def test_a_file_without_a_kind_is_an_autoregressive_model(relu_folder):
    config = json.loads((relu_folder / "config.json").read_text())
    assert config["model"].pop("kind") == "autoregressive"
    (relu_folder / "config.json").write_text(json.dumps(config))
    assert load(relu_folder).config == CONFIGS["relu"]


@pytest.fixture(scope="module")
def relu_run():
    return ari.train(CONFIGS["relu"], HaarOrthogonal(3), replace(TRAINING, steps=1), progress=False)


@pytest.fixture
def relu_folder(relu_run, tmp_path):
    return relu_run.save(tmp_path / "relu")


# ---- what would not load is not saved


class Undecorated(HaarOrthogonal):
    kind = "undecorated"
    rho: float = 0.9


class OwnInit(HaarOrthogonal):
    kind = "own init"

    def __init__(self, rho=0.9):
        super().__init__(3)
        object.__setattr__(self, "rho", rho)


class Forgetful(HaarOrthogonal):
    kind = "forgetful"

    def to_dict(self):
        return {"kind": self.kind, "dim": self.dim}


@dataclass(frozen=True)
class Tupled(HaarOrthogonal):
    kind = "tupled"
    center: tuple = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SetConfig(ModelConfig):
    kind: ClassVar[str] = "with a set"
    chosen: frozenset = frozenset((1,))


class PlainConfig(ModelConfig):
    kind = "plain config"
    extra: int = 0


@pytest.mark.parametrize(
    ("config", "process", "message"),
    [
        (
            CONFIGS["relu"],
            Undecorated(3),
            r"process cannot be saved, .* it loses rho\. Decorate Undecorated with @datac",
        ),
        (CONFIGS["relu"], OwnInit(0.5), r"process cannot be saved, .*OwnInit.* unexpected keyword argument"),
        (CONFIGS["relu"], Forgetful(3, noise=0.5), r"process cannot be saved, .* it loses noise\. Decorate Forgetful"),
        (CONFIGS["relu"], Tupled(3), "process cannot be saved, .* it loses center.* with fields that JSON can hold"),
        (SetConfig.full(**SIZES, n_heads=1), HaarOrthogonal(3), "config cannot be saved, .* frozenset is not JSON ser"),
        (PlainConfig.full(**SIZES, n_heads=1), HaarOrthogonal(3), "config cannot be saved, .* it loses extra"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_is_refused_before_anything_is_written(config, process, message, relu_run, tmp_path):
    with pytest.raises(ValueError, match=message):
        replace(relu_run, config=config, process=process).save(tmp_path / "lost" / "folder")
    assert list(tmp_path.iterdir()) == []
