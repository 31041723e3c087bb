"""Weights of the authors' two general models, against our own plain writing of what those models compute."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ar_interp.checkpoints import from_ical_state_dict
from ar_interp.models.config import ModelConfig
from ar_interp.processes import HaarOrthogonal

DIM, N_POSITIONS, LENGTH, BATCH = 5, 100, 12, 4
PROCESS = HaarOrthogonal(DIM)  # one augmented layer has the shapes of a plain one of three times the dim


# ---- the two models, with the authors' names of the weights


class PlainAttention(nn.Module):
    """Linear heads, each as wide as the stream, whose sum goes through one affine map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.values, self.keys, self.queries = (nn.Linear(width, width * heads) for _ in range(3))
        self.fc_out = nn.Linear(width, width)

    def scores(self, x: Tensor) -> Tensor:
        """[..., head, query, key]"""
        q, k = (part(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (self.queries, self.keys))
        return q @ k.mT / math.sqrt(x.shape[-1])

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        pattern = torch.where(allowed, self.scores(x), 0.0)
        if positions is not None:
            pattern = pattern * torch.where(allowed, self.scores(positions), -math.inf).softmax(-1)
        v = self.values(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        return self.fc_out((pattern @ v).sum(1))


class PlainLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = PlainAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)  # unused, as theirs
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))  # unused


class PlainDecoder(nn.Module):
    def __init__(self, width: int, heads: int, n_layers: int) -> None:
        super().__init__()
        self.position_embedding = nn.Embedding(N_POSITIONS, width)
        self.layers = nn.ModuleList(PlainLayer(width, heads) for _ in range(n_layers))


class Augmented(nn.Module):
    """Tokens (0, s_t, s_{t-1}), residual stream, no positions; the first dim of 3 dim outputs count."""

    def __init__(self, dim: int = DIM, n_layers: int = 1, heads: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.decoder = PlainDecoder(3 * dim, heads, n_layers)
        self.fc_out = nn.Linear(3 * dim, 3 * dim)

    def forward(self, s: Tensor) -> Tensor:
        before = nn.functional.pad(s, (0, 0, 1, 0))[:, :-1]
        x = torch.cat([torch.zeros_like(s), s, before], dim=-1)
        for layer in self.decoder.layers:
            x = x + layer.norm1(layer.attention(x, None))
        return self.fc_out(x)[..., : self.dim]


class NonAugmented(nn.Module):
    """Tokens (s_t, s_t), no residual stream, softmax over positions multiplies the scores."""

    def __init__(self, dim: int = DIM, heads: int = 1) -> None:
        super().__init__()
        self.decoder = PlainDecoder(2 * dim, heads, 1)
        self.fc_out = nn.Linear(2 * dim, dim)

    def forward(self, s: Tensor) -> Tensor:
        positions = self.decoder.position_embedding.weight[: s.shape[1]]
        layer = self.decoder.layers[0]
        return self.fc_out(layer.norm1(layer.attention(torch.cat([s, s], dim=-1), positions)))


THEIRS = {
    "augmented, 1 layer": (Augmented, {"n_layers": 1}),
    "augmented, 2 layers": (Augmented, {"n_layers": 2}),
    "augmented, 4 layers": (Augmented, {"n_layers": 4}),
    "non-augmented, 1 head": (NonAugmented, {"heads": 1}),
    "non-augmented, 5 heads": (NonAugmented, {"heads": 5}),
    "non-augmented, 25 heads": (NonAugmented, {"heads": 25}),
}
every_model = pytest.mark.parametrize("name", THEIRS)


def make(name: str, seed: int = 0, dim: int = DIM) -> nn.Module:
    """Weights as after training: nothing is at its initial 0 or 1, LayerNorm included."""
    kind, sizes = THEIRS[name]
    torch.manual_seed(seed)
    model = kind(dim, **sizes).requires_grad_(False)
    for weight in model.parameters():
        weight += 0.3 * weight.abs().mean() * torch.randn_like(weight)
    for layer in model.decoder.layers:
        layer.norm1.bias += 0.2 * torch.randn_like(layer.norm1.bias)
    return model


@pytest.fixture(scope="module")
def tokens():
    return HaarOrthogonal(DIM).sample(BATCH, LENGTH, seed=1).tokens


# ---- outputs


def assert_same_outputs(theirs: nn.Module, tokens: Tensor) -> None:
    """1e-12 in float64. In float32 1e-6, or a few times what rounding does to their own outputs: LayerNorm divides by
    the spread of the heads' sum, and four in a row have been seen to make 1.5e-5 of it."""
    state, process = theirs.state_dict(), HaarOrthogonal(tokens.shape[-1])
    single, double = (from_ical_state_dict(state, process=process, dtype=dtype) for dtype in ("float32", "float64"))
    in_single = theirs(tokens.float())
    exact = theirs.double()(tokens)
    assert exact.std() > 0.02
    rounding = float((in_single - exact).abs().max())
    assert rounding < 1e-4
    assert single(tokens.float()).dtype == torch.float32
    assert_close(single(tokens.float()), in_single, rtol=0, atol=max(1e-6, 5 * rounding))
    assert_close(double(tokens), exact, rtol=1e-12, atol=1e-12)
    assert_close(single(tokens), exact, rtol=1e-12, atol=1e-12)  # float32 weights are exact in float64


@every_model
@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_are_theirs(name, seed, tokens):
    assert_same_outputs(make(name, seed), tokens)


@every_model
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_outputs_are_theirs_in_other_dimensions(name, dim):
    """3 dim and 2 dim divide each other's widths at dim = 3 and 6: the shapes must still tell the two models apart."""
    assert_same_outputs(make(name, dim=dim), HaarOrthogonal(dim).sample(BATCH, LENGTH, seed=2).tokens)


@every_model
def test_outputs_are_theirs_at_every_length(name, tokens):
    theirs = make(name).double()
    ours = from_ical_state_dict(theirs.state_dict(), process=PROCESS, dtype="float64")
    for length in (1, 2, LENGTH - 1):
        assert_close(ours(tokens[:, :length]), theirs(tokens[:, :length]), rtol=1e-12, atol=1e-12)
    longest = HaarOrthogonal(DIM).sample(1, N_POSITIONS, seed=3).tokens
    assert_close(ours(longest), theirs(longest), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["augmented, 2 layers", "non-augmented, 5 heads"])
def test_outputs_of_trained_weights_are_theirs(name, tokens):
    theirs = make(name).requires_grad_(True)
    process = HaarOrthogonal(DIM)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        batch = process.sample(64, LENGTH + 1, seed=step, dtype=torch.float32).tokens
        loss = (theirs(batch[:, :-1]) - batch[:, 1:]).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert_same_outputs(theirs.requires_grad_(False), tokens)


@every_model
def test_the_control_notices_every_weight_that_is_used(name, tokens):
    """Each tensor of ours changes the output, so that none can be loaded wrongly and go unnoticed."""
    model = from_ical_state_dict(make(name).state_dict(), process=PROCESS, dtype="float64").requires_grad_(False)
    before = model(tokens)
    for parameter, value in model.named_parameters():
        value += torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)
        assert (model(tokens) - before).abs().max() > 1e-6, parameter
        value -= torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)


# ---- what is made


@every_model
def test_the_config_is_read_off_the_shapes(name):
    config = from_ical_state_dict(make(name).state_dict(), process=PROCESS).config
    sizes = THEIRS[name][1]
    preset = ModelConfig.paper_figure5 if name.startswith("augmented") else ModelConfig.paper_figure7
    key = "n_layers" if "n_layers" in sizes else "n_heads"
    assert config == preset(dim=DIM, n_ctx=N_POSITIONS, **{key: next(iter(sizes.values()))})


@every_model
def test_arrays_are_taken_too(name, tokens):
    state = make(name).state_dict()
    arrays = {key: value.numpy() for key, value in state.items()}
    mixed = {key: value.numpy()[::1] if "fc_out" in key else value for key, value in state.items()}
    nested = {key: value.double().tolist() for key, value in state.items()}
    models = [from_ical_state_dict(each, process=PROCESS) for each in (arrays, mixed, nested)]
    expected = from_ical_state_dict(state, process=PROCESS)(tokens)
    for model in models:
        assert torch.equal(model(tokens), expected)
    assert isinstance(models[0].unembed.W_U, nn.Parameter)


@every_model
def test_the_callers_weights_are_not_shared(name):
    state = make(name).double().state_dict()
    before = {key: value.clone() for key, value in state.items()}
    model = from_ical_state_dict(state, process=PROCESS, dtype="float64").requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    assert set(state) == set(before)
    for key, value in state.items():
        assert torch.equal(value, before[key]), key


def test_the_process_is_passed_on():
    process = HaarOrthogonal(DIM)
    state = make("augmented, 2 layers").state_dict()
    assert from_ical_state_dict(state, process=process).process is process
    assert from_ical_state_dict(state).process is None
    with pytest.raises(ValueError, match="process has dim 4 but the model has dim 5; they must agree"):
        from_ical_state_dict(state, process=HaarOrthogonal(4))


@pytest.mark.parametrize("name", ["augmented, 2 layers", "non-augmented, 5 heads"])
def test_what_they_never_call_may_be_missing(name, tokens):
    state = make(name).state_dict()
    used = {key: value for key, value in state.items() if "norm2" not in key and "feed_forward" not in key}
    assert len(used) < len(state)
    assert torch.equal(from_ical_state_dict(used)(tokens), from_ical_state_dict(state)(tokens))


# ---- refusals

LAYER = "decoder.layers.0."
QUERIES = LAYER + "attention.queries.weight"


@every_model
def test_every_name_is_needed(name):
    state = make(name).state_dict()
    for key in state:
        if "norm2" not in key and "feed_forward" not in key:
            without = {other: value for other, value in state.items() if other != key}
            with pytest.raises(ValueError, match=rf"state_dict (lacks|has no matrix) '{key}'"):
                from_ical_state_dict(without, process=PROCESS)


@every_model
@pytest.mark.parametrize("extra", [LAYER + "attention.rotary", "decoder.position.weight", "module.fc_out.weight"])
def test_unknown_names_are_refused(name, extra):
    state = make(name).state_dict() | {extra: torch.ones(2, 2)}
    with pytest.raises(ValueError, match=f"state_dict has '{extra}', which neither of the authors' general models has"):
        from_ical_state_dict(state, process=PROCESS)


def test_a_second_layer_of_the_non_augmented_model_is_refused():
    state = make("non-augmented, 1 head").state_dict()
    second = {key.replace("layers.0", "layers.1"): value for key, value in state.items() if "layers.0" in key}
    with pytest.raises(ValueError, match=r"state_dict has 'decoder\.layers\.1\.attention\.values\.weight', which"):
        from_ical_state_dict(state | second)


@every_model
@pytest.mark.parametrize("change", ["a row more", "a row less", "another axis", "one axis less", "a number"])
def test_every_wrong_shape_is_refused(name, change):
    """Whichever tensor it is; where it decides what the model is, the message is about another tensor or the model."""
    state = make(name).state_dict()
    changes = {
        "a row more": lambda value: torch.cat([value, value[:1]]),
        "a row less": lambda value: value[:-1],
        "another axis": lambda value: value[None],
        "one axis less": lambda value: value[0],
        "a number": lambda value: value.flatten()[0],
    }
    for key, value in state.items():
        rows_are_free = key == "decoder.position_embedding.weight" and change.startswith("a row")
        if "norm2" not in key and "feed_forward" not in key and not rows_are_free:
            with pytest.raises(ValueError, match=r"^state_dict"):
                from_ical_state_dict({**state, key: changes[change](value)}, process=PROCESS)


def test_a_wrong_shape_is_named():
    state = make("non-augmented, 5 heads").state_dict()
    with pytest.raises(ValueError, match=r"state_dict\['decoder\.layers\.0\.norm1\.weight'\] must have shape \[10\], "):
        from_ical_state_dict(state | {LAYER + "norm1.weight": torch.ones(9)})


@pytest.mark.parametrize("key", [QUERIES, "fc_out.bias", "decoder.position_embedding.weight", LAYER + "norm2.weight"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@every_model
def test_nan_is_refused(name, key, bad):
    state = make(name).state_dict()
    state[key].view(-1)[-1] = bad
    with pytest.raises(ValueError, match=rf"state_dict\['{key}'\] has NaN or infinite entries"):
        from_ical_state_dict(state, process=PROCESS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(15, 15) * 1j, "must be real, got torch.complex64"),
        (np.ones((15, 0)), r"must not be empty, got shape \[15, 0\]"),
        ("ones", "must be an array of numbers"),
        (None, "must be an array of numbers"),
        ([[1.0], [1.0, 2.0]], "must be an array of numbers"),
    ],
    ids=["complex", "empty", "text", "None", "ragged"],
)
def test_what_is_no_real_array_is_refused(value, message):
    with pytest.raises(ValueError, match=r"state_dict\['fc_out\.weight'\] " + message):
        from_ical_state_dict(make("augmented, 1 layer").state_dict() | {"fc_out.weight": value})


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        ({}, "fc_out.weight"),
        (nn.Linear(3, 3).state_dict(), "fc_out.weight"),
        ({"A": torch.ones(2, 3), "B": torch.ones(2, 3), "P": torch.ones(4, 4)}, "fc_out.weight"),
        ({"fc_out.weight": torch.ones(6, 6)}, "decoder.position_embedding.weight"),
    ],
    ids=["nothing", "a linear layer", "diagonal heads", "a read-out"],
)
def test_other_models_are_refused(state, missing):
    with pytest.raises(ValueError, match=f"no matrix '{missing}': it is not one of .* HookedARTransformer.from_d"):
        from_ical_state_dict(state)


def test_a_read_out_that_fits_neither_model_is_refused():
    state = make("augmented, 1 layer").state_dict()
    with pytest.raises(ValueError, match="read-out maps 15 to 4: the augmented model maps 3 dim to 3 dim, the other"):
        from_ical_state_dict(state | {"fc_out.weight": torch.ones(4, 15)})


def test_the_augmented_model_has_one_head():
    state = Augmented(heads=3).state_dict()
    with pytest.raises(ValueError, match="state_dict of the augmented model must have one head, got 3"):
        from_ical_state_dict(state, process=PROCESS)


@pytest.mark.parametrize("heads", [1, 3])
def test_shapes_that_both_models_have_are_a_question(heads):
    state = Augmented(heads=heads).state_dict()
    for process in (None, HaarOrthogonal(4)):
        with pytest.raises(ValueError, match=r"maps 15 to 15: is it the augmented model with dim 5, or .* dim 15"):
            from_ical_state_dict(state, process=process)
    assert from_ical_state_dict(state, process=HaarOrthogonal(15)).config.repeats == 1


@pytest.mark.parametrize(("prefix", "wrapper"), [("_orig_mod.", "torch.compile"), ("module.", "DataParallel")])
def test_a_wrapper_is_named(prefix, wrapper):
    state = {prefix + name: x for name, x in make("augmented, 2 layers").state_dict().items()}
    with pytest.raises(ValueError, match=f"All names start with '{prefix}', as {wrapper} writes them"):
        from_ical_state_dict(state)


def test_the_dtype_is_one_of_two():
    with pytest.raises(ValueError, match="dtype must be one of 'float64', 'float32', got 'float16'"):
        from_ical_state_dict(make("augmented, 2 layers").state_dict(), dtype="float16")
