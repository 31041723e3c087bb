"""What a ModelConfig says of a model: its initial parameters, the parity obstruction, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from cases import ARCHITECTURES, SIZES, draw, every_architecture
from torch import Tensor
from zoo import trained_like

from ar_interp.models.config import PLAIN_FIELDS, ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, HaarOrthogonal

DIM, N_CTX = SIZES["dim"], SIZES["n_ctx"]
BATCH = 2

# ---- initial parameters


def used_entries(config: ModelConfig) -> dict[str, Tensor]:
    """Which entries matter: all but those that read the zero block of augmented tokens in the first layer, those that
    write in the last layer where the read-out does not look, and rows and columns of P that no query has."""
    dim, last = config.dim, config.n_layers - 1
    reads_zeros = config.encoding == "augmented" and config.positional != "additive"
    used = {name: torch.ones(shape, dtype=torch.bool) for name, shape in config.parameter_shapes.items()}
    for name, mask in used.items():
        layer, part = name.split(".")[1], name.rpartition(".")[2]
        if part == "P":
            mask &= mask.tril(config.query_lag)
            mask[N_CTX - config.query_lag :] = False
        if reads_zeros and layer == "0" and part in ("W_Q", "W_K", "W_V"):
            mask[:, :dim] = False
        if reads_zeros and layer == "0" and part == "QK_blocks":
            mask[:, 0] = mask[:, :, 0] = False
        if reads_zeros and layer == "0" and part == "OV_blocks":
            mask[:, 0] = False
        if config.unembed or layer != str(last):
            continue
        if part in ("W_O", "shared_W_O", "b_O") and not (config.d_mlp or config.layer_norm):
            mask[..., dim:] = False
        if part == "OV_blocks" and not (config.d_mlp or config.layer_norm):
            mask[:, :, 1:] = False
        if ("ln1_post" in name and not config.d_mlp) or part in ("W_out", "b_out"):
            mask[..., dim:] = False
    return used


FRESH = {
    **ARCHITECTURES,
    "block-scalar, read-out": ModelConfig.augmented(**SIZES, heads="block-scalar", unembed=True),
    "block-scalar, MLP": ModelConfig.augmented(**SIZES, heads="block-scalar", n_layers=2, n_heads=2, d_mlp=4),
    "block-scalar, LayerNorm": ModelConfig.augmented(**SIZES, heads="block-scalar", n_layers=2, layer_norm=True),
    "block-scalar, positions": ModelConfig.augmented(**SIZES, heads="block-scalar", positional="additive"),
}
every_fresh_model = pytest.mark.parametrize("config", FRESH.values(), ids=list(FRESH))


@every_fresh_model
def test_every_parameter_of_a_fresh_model_receives_a_gradient(config):
    model = HookedARTransformer(replace(config, init_scale=0.5))
    tokens = draw(8, N_CTX, DIM)
    (model(tokens) * draw(8, N_CTX, DIM, seed=5)).sum().backward()
    used = used_entries(config)
    assert set(dict(model.named_parameters())) == set(model.state_dict()) == set(used)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad != 0, used[name]), name


@pytest.mark.parametrize("name", [name for name, config in FRESH.items() if config.heads == "block-scalar"])
def test_blocks_that_cannot_matter_start_at_zero_and_no_others(name):
    config = replace(FRESH[name], init_scale=0.5)
    for parameter, value in config.initial_parameters(seed=0).items():
        if parameter.endswith("_blocks"):
            assert torch.equal(value != 0, used_entries(config)[parameter]), parameter


def test_initial_weights_are_gaussian_and_layer_norm_is_the_identity(assert_mean):
    config = ModelConfig.augmented(dim=30, n_ctx=4, n_heads=3, layer_norm=True, biases=True, init_scale=0.3)
    weights = config.initial_parameters(seed=0)
    assert set(weights) == set(config.parameter_shapes)
    for name, shape in config.parameter_shapes.items():
        assert tuple(weights[name].shape) == shape
        if "ln1_post" in name:
            assert (weights[name] == float(name.endswith(".w"))).all()
        else:
            assert_mean(weights[name].flatten(), 0.0)
            assert_mean(weights[name].flatten() ** 2, 0.3**2)


@pytest.mark.parametrize(
    ("part", "inputs"),
    [("W_Q", 40), ("b_K", 40), ("W_V", 40), ("shared_W_O", 15), ("b_O", 15), ("W_in", 40), ("b_in", 40), ("W_out", 9),
     ("b_out", 9), ("W_U", 40), ("b_U", 40)],
)  # fmt: skip
def test_linear_initial_weights_are_uniform_within_the_bound(part, inputs, assert_mean):
    fields = {**dict.fromkeys(("biases", "shared_output", "unembed", "residual"), True), "positional": "additive"}
    config = ModelConfig.full(
        dim=20, n_ctx=60, n_heads=6, n_layers=4, repeats=2, d_head=15, d_mlp=9, init="linear", **fields
    )
    weights = config.initial_parameters(seed=0)
    value = torch.cat([value.flatten() for name, value in weights.items() if name.endswith(f".{part}")])
    bound = inputs**-0.5
    assert value.abs().max() <= bound
    assert value.abs().max() > 0.8 * bound
    assert_mean(value**2, bound**2 / 3)
    assert_mean(weights["pos_embed.W_pos"].flatten() ** 2, 1.0)


@every_architecture
def test_untrained_is_the_same_architecture_with_other_weights(config):
    model = HookedARTransformer(config)
    other = model.untrained(1)
    assert other.config == config
    assert any(not torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())


# ---- the parity obstruction

BARE = {**SIZES, "n_heads": 2, "heads": "full", "query_lag": 0, "positional": "none"}
OBSTRUCTED = {
    "s_T": {},
    "multiplicative positions": {"positional": "multiplicative"},
    "softmax positions": {"positional": "softmax"},
    "the number of keys": {"attention": "linear/keys"},
    "depth and a stream": {"n_layers": 3, "residual": True},
    "depth": {"n_layers": 2, "repeats": 2, "shared_output": True, "scale_scores": True, "d_head": 3},
    "two layers that ask with s_{T-1}": {"n_layers": 2, "query_lag": 1},
    "four layers that ask with s_{T-1}": {"n_layers": 4, "query_lag": 1, "positional": "multiplicative"},
}
FREE = {
    "s_{T-1}": {"query_lag": 1},
    "three layers that ask with s_{T-1}": {"query_lag": 1, "n_layers": 3},
    "s_{T-1} and a stream": {"query_lag": 1, "n_layers": 2, "residual": True},
    "augmented": {"encoding": "augmented"},
    "block-scalar": {"encoding": "augmented", "heads": "block-scalar"},
    "softmax": {"attention": "softmax"},
    "biases": {"biases": True},
    "LayerNorm": {"layer_norm": True},
    "MLP": {"d_mlp": 4, "residual": True},
    "read-out": {"unembed": True},
    "additive positions": {"positional": "additive"},
}


def paired_products(config: ModelConfig, is_complex: bool = False) -> tuple[Tensor, Tensor]:
    """<prediction, target> of sequences with W, and its mean with that of the same sequences with -W."""
    model = trained_like(config)
    W = HaarOrthogonal(DIM).sample(64, 1, seed=6).W
    W = W.to(torch.complex128) * (1j if is_complex else 1)
    first = draw(64, DIM, is_complex=is_complex).to(torch.complex128)
    turned = []
    for matrix in (W, -W):
        states = [first]
        for _ in range(N_CTX):
            states.append(torch.einsum("bij,bj->bi", matrix, states[-1]))
        tokens = torch.stack(states, dim=1)
        tokens = tokens if is_complex else tokens.real
        turned.append((model(tokens[:, :-1]).conj() * tokens[:, 1:]).sum(-1).real)
    return turned[0], (turned[0] + turned[1]) / 2


@pytest.mark.parametrize("fields", OBSTRUCTED.values(), ids=list(OBSTRUCTED))
def test_obstructed_models_cannot_beat_zero(fields):
    config = ModelConfig(**{**BARE, **fields})
    assert config.parity_obstruction is not None
    for is_complex in (False, True)[: 1 if config.needs_real_tokens else 2]:
        one, paired = paired_products(config, is_complex)
        assert one.abs().max() > 0.01
        assert paired.abs().max() < 1e-12 * one.abs().max()


@pytest.mark.parametrize("fields", FREE.values(), ids=list(FREE))
def test_what_escapes_the_obstruction_is_not_obstructed(fields):
    config = ModelConfig(**{**BARE, **fields})
    assert config.parity_obstruction is None
    one, paired = paired_products(config)
    assert paired.abs().max() > 0.01 * one.abs().max()


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({}, r"asks with s_T is even in W .* Use query_lag=1, encoding='augmented' or biases=True$"),
        (
            {"query_lag": 1, "n_layers": 2},
            r"asks with s_\{T-1\} 2 times over is even in W .* Use an odd n_layers, residual=True, ",
        ),
    ],
)
def test_the_obstruction_says_what_to_do(fields, advice):
    with pytest.raises(AssertionError, match=advice):
        raise AssertionError(ModelConfig(**{**BARE, **fields}).parity_obstruction)


@pytest.mark.parametrize(
    "config",
    [ModelConfig.diagonal(**SIZES, n_heads=2), ModelConfig.positional_only(n_ctx=4), ModelConfig.paper_figure5(),
     ModelConfig.paper_figure7(), ModelConfig.augmented(**SIZES), ModelConfig.full(**SIZES, n_heads=2)],
    ids=["diagonal", "positional only", "figure 5", "figure 7", "augmented", "full"],
)  # fmt: skip
def test_presets_are_not_obstructed(config):
    assert config.parity_obstruction is None


# ---- refusals

VALID = {
    "diagonal": {"heads": "diagonal"},
    "unit": {"heads": "unit"},
    "full": {"heads": "full"},
    "augmented": {"heads": "full", "encoding": "augmented", "query_lag": 0},
    "block-scalar": {"heads": "block-scalar", "encoding": "augmented", "query_lag": 0},
}
OTHER_THAN_PLAIN = {
    "n_layers": 2, "encoding": "augmented", "repeats": 2, "attention": "softmax", "scale_scores": True,
    "positional": "none", "query_lag": 0, "residual": True, "layer_norm": True, "biases": True, "shared_output": True,
    "d_mlp": 3, "unembed": True, "init": "linear",
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_configs_that_are_refused_next_are_valid_without_the_change(name):
    ModelConfig(**SIZES, n_heads=2, **VALID[name])


@pytest.mark.parametrize("heads", ["diagonal", "unit"])
@pytest.mark.parametrize("name", PLAIN_FIELDS)
def test_diagonal_heads_refuse_all_that_is_not_the_papers(heads, name):
    value = OTHER_THAN_PLAIN[name]
    with pytest.raises(ValueError, match=rf"heads='{heads}' goes with {name}=.* only, got {value!r}"):
        ModelConfig(**SIZES, n_heads=2, heads=heads, **{name: value})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("full", {"n_layers": 0}, "n_layers must be at least 1"),
        ("full", {"n_layers": 257}, "n_layers must be at most 256"),
        ("full", {"repeats": 0}, "repeats must be at least 1"),
        ("full", {"query_lag": 2}, "query_lag must be at most 1, got 2"),
        ("full", {"query_lag": True}, "query_lag must be an integer, got True"),
        ("full", {"d_mlp": -1}, "d_mlp must be at least 0"),
        ("full", {"d_head": 0}, "d_head must be at least 1"),
        ("full", {"encoding": "doubled"}, "encoding must be one of 'plain', 'augmented'.*, got 'doubled'"),
        ("full", {"attention": "linear/heads"}, "attention must be one of 'linear', 'linear/keys', 'linear/pairs', "),
        ("full", {"positional": "rotary"}, "positional must be one of 'none', 'multiplicative', 'additive', 'softmax'"),
        ("full", {"init": "zero"}, "init must be one of 'gaussian', 'linear', got 'zero'"),
        ("full", {"biases": 1}, "biases must be True or False, got 1"),
        ("full", {"residual": None}, "residual must be True or False, got None"),
        ("full", {"d_head": 65536, "n_heads": 4096}, "ask for .* parameters; at most 100,000,000 are allowed"),
        ("full", {"d_mlp": 3}, "d_mlp > 0 needs residual=True: an MLP adds to the residual stream"),
        ("full", {"heads": "block-scalar"}, "heads='block-scalar' are 3 x 3 blocks of augmented tokens: use encoding="),
        ("full", {"attention": "softmax"}, "attention='softmax' goes with positional 'none' or 'additive', got 'multi"),
        ("full", {"attention": "softmax", "positional": "softmax"}, "'none' or 'additive', got 'softmax'"),
        ("augmented", {"query_lag": 1}, r"augmented tokens hold s_\{t-1\} already: they go with query_lag=0 and rep"),
        ("augmented", {"repeats": 2}, r"augmented tokens hold s_\{t-1\} already: .* query_lag=0 and repeats=1"),
        ("block-scalar", {"biases": True}, "heads='block-scalar' go without biases; use heads='full'"),
        ("block-scalar", {"shared_output": True}, "heads='block-scalar' go without shared_output; use heads='full'"),
        ("block-scalar", {"scale_scores": True}, "heads='block-scalar' go without scale_scores; use heads='full'"),
        ("block-scalar", {"d_head": 3}, "d_head is d_model unless heads='full', got 3 with heads='block-scalar'"),
        ("diagonal", {"d_head": 2}, "d_head is d_model unless heads='full', got 2 with heads='diagonal'"),
    ],
)  # fmt: skip
def test_config_refuses(name, change, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**SIZES, "n_heads": 2, **VALID[name], **change})


@pytest.mark.parametrize(
    ("config", "process", "message"),
    [
        (ARCHITECTURES["plain"], "haar", "process must be an AutoregressiveProcess, such as HaarOrth"),
        (ModelConfig.diagonal(**SIZES, n_heads=2), HaarOrthogonal(DIM), "process must be CommutingUnitary, CommutingOr"
         r"thogonal or another .*: diagonal heads need an eigenbasis\. Got HaarOrthogonal"),
        (ModelConfig.positional_only(n_ctx=4), HaarOrthogonal(1), "unit heads need an eigenbasis"),
        (ARCHITECTURES["figure 5"], CommutingOrthogonal(DIM), "process must be HaarOrthogonal or another with real"
         r" tokens: .* LayerNorm and MLP have no complex version\. Got CommutingOrthogonal"),
        (ARCHITECTURES["softmax"], CommutingUnitary(DIM), "Got CommutingUnitary.*, which is sampled in its complex"),
        (ARCHITECTURES["augmented"], HaarOrthogonal(3), "process has dim 3 but the model has dim 2; they must agree"),
    ],
    ids=["not a process", "diagonal", "unit", "LayerNorm", "softmax", "dim"],
)  # fmt: skip
def test_processes_that_do_not_fit_are_refused(config, process, message):
    with pytest.raises(ValueError, match=message):
        config.check_process(process)


@every_architecture
def test_processes_that_fit_are_taken(config):
    process = HaarOrthogonal(DIM)
    model = HookedARTransformer(config, process=process)
    assert model.process is process
    if not config.needs_real_tokens:
        tokens = CommutingUnitary(DIM).sample(BATCH, N_CTX, seed=7).tokens
        assert HookedARTransformer(config, process=CommutingUnitary(DIM))(tokens).is_complex()


@pytest.mark.parametrize(
    ("config", "summary"),
    [
        (ModelConfig.paper_figure5(n_layers=4), "4 layers, 1 full head, linear attention, augmented tokens, residual "
         "stream, LayerNorm after attention, biases, affine read-out"),
        (ModelConfig.paper_figure7(n_heads=5), "one layer, 5 full heads, linear attention, asked with s_T, softmax "
         "positional encoding, LayerNorm after attention, biases, affine read-out"),
        (ARCHITECTURES["deep block-scalar"], "2 layers, 3 block-scalar heads, linear attention, augmented tokens, "
         "residual stream"),
        (ModelConfig.full(**SIZES, n_heads=1, residual=True, d_mlp=4), "one layer, 1 full head, linear attention, "
         "asked with s_{T-1}, multiplicative positional encoding, residual stream, MLP of width 4"),
    ],
    ids=["figure 5", "figure 7", "block-scalar", "MLP"],
)  # fmt: skip
def test_summaries(config, summary):
    assert config.summary == summary
