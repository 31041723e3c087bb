"""The hooked model against loops straight from its equation, its hooks, and TransformerLens's tools on it."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformer_lens import ActivationCache, FactoredMatrix

from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken

DIM, N_HEADS, N_CTX, BATCH = 4, 3, 6, 2
ATTN = "blocks.0.attn."
SHAPES = {
    "hook_embed": (BATCH, N_CTX, DIM),
    "blocks.0.hook_resid_pre": (BATCH, N_CTX, DIM),
    ATTN + "hook_q": (BATCH, N_CTX, N_HEADS, DIM),
    ATTN + "hook_k": (BATCH, N_CTX, N_HEADS, DIM),
    ATTN + "hook_v": (BATCH, N_CTX, N_HEADS, DIM),
    ATTN + "hook_attn_scores": (BATCH, N_HEADS, N_CTX, N_CTX),
    ATTN + "hook_pos_weights": (N_CTX, N_CTX),
    ATTN + "hook_pattern": (BATCH, N_HEADS, N_CTX, N_CTX),
    ATTN + "hook_kv_state": (BATCH, N_CTX, N_HEADS, DIM, DIM),
    ATTN + "hook_z": (BATCH, N_CTX, N_HEADS, DIM),
    ATTN + "hook_result": (BATCH, N_CTX, N_HEADS, DIM),
    "blocks.0.hook_attn_out": (BATCH, N_CTX, DIM),
    "blocks.0.hook_resid_post": (BATCH, N_CTX, DIM),
}
KV_STATE = ATTN + "hook_kv_state"
every_hook = pytest.mark.parametrize("name", SHAPES)


def naive_predictions(A: torch.Tensor, B: torch.Tensor, P: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """prediction_T = sum_t p_t sum_h b_h * s_t <s_{T-1} | a_h * s_t>, the bracket conjugating its first factor."""
    predictions = torch.zeros_like(tokens)
    batch, length, dim = tokens.shape
    for b, T, j in itertools.product(range(batch), range(2, length + 1), range(dim)):
        for t, h in itertools.product(range(1, T + 1), range(len(A))):
            s, query = tokens[b, t - 1], tokens[b, T - 2]
            score = sum(query[i].conj() * A[h, i] * s[i] for i in range(dim))
            predictions[b, T - 1, j] += P[T - 2, t - 1] * score * B[h, j] * s[j]
    return predictions


@pytest.fixture
def weights(random_tensor):
    return random_tensor(N_HEADS, DIM, seed=0), random_tensor(N_HEADS, DIM, seed=1), random_tensor(N_CTX, N_CTX, seed=2)


@pytest.fixture
def model(weights):
    return HookedARTransformer.from_diagonal(*weights, process=CommutingUnitary(DIM)).requires_grad_(False)


@pytest.fixture
def tokens():
    return CommutingUnitary(DIM, first_token=FirstToken("gaussian"), noise=0.3).sample(BATCH, N_CTX, seed=3).tokens


# ---- predictions


@pytest.mark.parametrize("is_complex", [True, False])
def test_predictions_are_the_equation(model, weights, tokens, is_complex):
    tokens = tokens if is_complex else tokens.real
    predictions = model(tokens)
    assert predictions.dtype == tokens.dtype
    assert_close(predictions, naive_predictions(*weights, tokens), rtol=1e-12, atol=1e-12)
    assert not predictions[:, 0].any()


def test_positional_only_predictions_are_the_equation(random_tensor):
    model = HookedARTransformer(ModelConfig.positional_only(n_ctx=5)).requires_grad_(False)
    P, one = random_tensor(5, 5, seed=4), torch.ones(1, 1)
    model.P.copy_(P)
    tokens = CommutingUnitary(1, mu=3.0).sample(3, 5, seed=5).tokens
    assert_close(model(tokens), naive_predictions(one, one, P, tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", range(1, N_CTX + 1))
def test_shorter_sequences_give_the_same_predictions(model, tokens, length):
    assert_close(model(tokens[:, :length]), model(tokens)[:, :length], rtol=1e-13, atol=1e-13)


@given(seed=st.integers(0, 10**6), cut=st.integers(1, 7), n_heads=st.integers(1, 3), is_real=st.booleans())
def test_the_future_never_changes_the_past(seed, cut, n_heads, is_real):
    model = HookedARTransformer(ModelConfig.diagonal(dim=2, n_heads=n_heads, n_ctx=8, init_scale=1.0), seed=seed)
    process = CommutingOrthogonal(2, first_token=FirstToken("gaussian"), noise=0.5)
    tokens, other = process.sample(4, 8, seed=seed, basis="rotation" if is_real else "eigen").tokens.chunk(2)
    changed = torch.cat([tokens[:, :cut], other[:, cut:]], dim=1)
    before, after = model(tokens), model(changed)
    assert torch.equal(after[:, :cut], before[:, :cut])
    assert not torch.isclose(after[:, cut:], before[:, cut:]).all()


def test_what_the_layout_leaves_unused_is_unused(model, weights, tokens):
    A, B, P = weights
    unused = torch.ones(N_CTX, N_CTX).triu(2)
    unused[-1] = 1
    other = HookedARTransformer.from_diagonal(A, B, P + unused)
    assert torch.equal(other(tokens), model(tokens))


def test_the_gauge_of_the_heads_leaves_predictions(model, weights, tokens, random_tensor):
    A, B, P = weights
    G = random_tensor(N_HEADS, N_HEADS, seed=6)
    turned = HookedARTransformer.from_diagonal(G @ A, torch.linalg.inv(G).T @ B, P)
    assert_close(turned(tokens), model(tokens), rtol=1e-11, atol=1e-11)


def test_every_parameter_of_a_fresh_model_receives_a_gradient(tokens):
    model = HookedARTransformer(ModelConfig.diagonal(dim=DIM, n_heads=N_HEADS, n_ctx=N_CTX))
    model(tokens).abs().square().sum().backward()
    assert set(dict(model.named_parameters())) == set(model.state_dict())
    for name, parameter in model.named_parameters():
        used = torch.ones_like(parameter, dtype=torch.bool)
        if name.endswith("P"):
            used = used.tril(1)
            used[-1] = False
        assert torch.equal(parameter.grad != 0, used), name


@pytest.mark.parametrize(
    ("dtype", "tokens_dtype"),
    [
        ("float32", torch.complex64),
        ("float32", torch.float32),
        ("float64", torch.complex128),
        ("float64", torch.float64),
    ],
)
def test_precisions(tokens, weights, dtype, tokens_dtype):
    config = ModelConfig.diagonal(dim=DIM, n_heads=N_HEADS, n_ctx=N_CTX, dtype=dtype, init_scale=1.0)
    model = HookedARTransformer(config, seed=7).requires_grad_(False)
    tokens = (tokens if tokens_dtype.is_complex else tokens.real).to(tokens_dtype)
    predictions, cache = model.run_with_cache(tokens)
    assert predictions.dtype == tokens_dtype
    assert {value.dtype for value in cache.values()} == {tokens_dtype, config.torch_dtype}
    wide = torch.complex128 if tokens_dtype.is_complex else torch.float64
    oracle = naive_predictions(*(w.double() for w in (model.A, model.B, model.P)), tokens.to(wide))
    rounding = 1e-5 if dtype == "float32" else 1e-13
    assert_close(predictions.to(wide), oracle, rtol=rounding, atol=rounding * float(oracle.abs().max()))


# ---- hooks


def test_every_hook_is_named_and_cached_with_its_shape(model, tokens):
    predictions, cache = model.run_with_cache(tokens)
    assert isinstance(cache, ActivationCache)
    assert model.hook_names() == list(SHAPES) == list(cache)  # in the order of the forward pass
    assert {name: tuple(value.shape) for name, value in cache.items()} == SHAPES
    # Listening to everything includes the key-value state and still changes nothing.
    assert torch.equal(predictions, model(tokens))


def test_cached_activations_are_their_definitions(model, weights, tokens):
    A, B, P = weights
    _, cache = model.run_with_cache(tokens)
    b, T, h = 1, 5, 2  # one sequence, one destination, one head
    s, query = tokens[b], tokens[b, T - 2].conj()
    assert_close(cache["q", 0][b, :, h], s)
    assert_close(cache["k", 0][b, :, h], s * A[h])
    assert_close(cache["v", 0][b, :, h], s * B[h])
    scores = (s[:T] * A[h]) @ query
    assert_close(cache["attn_scores", 0][b, h, T - 1, :T], scores)
    assert_close(cache["pattern", 0][b, h, T - 1, :T], scores * P[T - 2, :T])
    assert not cache["pattern", 0].triu(1).any()
    assert not cache["attn_scores", 0].triu(1).any()
    assert_close(cache[ATTN + "hook_pos_weights"][T - 1, :T], P[T - 2, :T])
    state = sum(P[T - 2, t] * torch.outer(s[t] * A[h], s[t] * B[h]) for t in range(T))
    assert_close(cache[KV_STATE][b, T - 1, h], state)
    assert_close(cache["z", 0][b, T - 1, h], query @ state)
    assert_close(cache["result", 0].sum(2), cache["attn_out", 0])
    assert_close(cache["resid_post", 0], model(tokens))
    assert_close(cache["resid_pre", 0], tokens)


@every_hook
def test_a_hook_that_does_nothing_changes_nothing(model, tokens, name):
    seen = []
    hooked = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: seen.append(hook.name) or value)])
    assert torch.equal(hooked, model(tokens))
    assert seen == [name]


@every_hook
def test_a_hook_that_doubles_changes_the_prediction(model, tokens, name):
    before = model(tokens)
    hooked = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: 2 * value)])
    times = {"hook_embed": 8, "blocks.0.hook_resid_pre": 8}.get(name, 2)  # cubic in the tokens, linear in the rest
    assert_close(hooked, times * before, rtol=1e-12, atol=1e-12)


def test_hooks_are_gone_after_an_exception(model, tokens):
    before = model(tokens)

    def fail(value, hook):
        raise RuntimeError("on purpose")

    def double(value, hook):
        return 2 * value

    with pytest.raises(RuntimeError, match="on purpose"):
        model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", double), (ATTN + "hook_z", fail)])
    assert not any(hook.has_hooks() for hook in model.hook_dict.values())
    assert torch.equal(model(tokens), before)


def test_an_unknown_hook_leaves_the_others_unset(model):
    hooks = [("hook_embed", lambda value, hook: 0 * value), ("hook_nowhere", lambda value, hook: value)]
    with pytest.raises(ValueError, match="hook 'hook_nowhere' does not exist"):
        model.hooks(hooks).__enter__()
    assert not any(hook.has_hooks() for hook in model.hook_dict.values())


def test_a_hook_stays_until_reset(model, tokens):
    before = model(tokens)
    model.add_hook(ATTN + "hook_v", lambda value, hook: 2 * value)
    assert_close(model(tokens), 2 * before)
    model.reset_hooks()
    assert torch.equal(model(tokens), before)


def test_a_backward_hook_sees_the_gradient(model, tokens):
    seen = {}
    model.requires_grad_(True)

    def watch(gradient, hook):
        seen[hook.name] = gradient

    with model.hooks(bwd_hooks=[(ATTN + "hook_z", watch)]) as hooked:
        hooked(tokens.real).sum().backward()
    assert_close(seen[ATTN + "hook_z"], torch.ones(BATCH, N_CTX, N_HEADS, DIM, dtype=torch.float64))


def test_swapping_states_swaps_predictions():
    """s_1 = conj(lambda), so both sequences ask with s_2 = 1: with the other's state each predicts the other's next."""
    heads = torch.eye(DIM, dtype=torch.float64)
    P = torch.ones(N_CTX - 1, dtype=torch.float64).diag(1)  # p_T = 1 and no other
    model = HookedARTransformer.from_diagonal(heads, heads, P).requires_grad_(False)
    phases = CommutingUnitary(DIM).sample(2, 1, seed=8).phases
    tokens = CommutingUnitary(DIM).rollout(phases, 4, first_tokens=torch.exp(-1j * phases)).tokens
    context, following = tokens[:, :3], tokens[:, 3]
    assert (following - following.flip(0)).abs().min() > 0.1
    assert_close(model(context)[:, -1], following)
    states = model.run_with_cache(context, names_filter=KV_STATE)[1][KV_STATE]
    swapped = model.run_with_hooks(context, fwd_hooks=[(KV_STATE, lambda state, hook: states.flip(0))])
    assert_close(swapped[:, -1], following.flip(0))


def test_state_edits_reach_the_output_through_the_query(model, tokens, random_tensor):
    """The prediction is linear in the state, with the conjugated previous token as coefficients."""
    change = random_tensor(BATCH, N_CTX, N_HEADS, DIM, DIM, seed=9)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(KV_STATE, lambda state, hook: state + change)])
    difference = edited - model(tokens)
    for T in range(2, N_CTX + 1):
        expected = torch.einsum("bi,bhij->bj", tokens[:, T - 2].conj(), change[:, T - 1].to(tokens.dtype))
        assert_close(difference[:, T - 1], expected, rtol=1e-11, atol=1e-11)
    assert not difference[:, 0].any()


# ---- filters


@pytest.mark.parametrize(
    ("names_filter", "names"),
    [
        (None, set(SHAPES)),
        ("hook_embed", {"hook_embed"}),
        ([ATTN + "hook_q", ATTN + "hook_k"], {ATTN + "hook_q", ATTN + "hook_k"}),
        ((ATTN + "hook_z",), {ATTN + "hook_z"}),
        (lambda name: name.endswith("resid_post"), {"blocks.0.hook_resid_post"}),
    ],
)
def test_a_filter_selects(model, tokens, names_filter, names):
    assert set(model.run_with_cache(tokens, names_filter=names_filter)[1]) == names


@pytest.mark.parametrize(
    ("names_filter", "message"),
    [
        ("blocks.0.hook_resid", r"hook 'blocks.0.hook_resid' does not exist \(the model has 1 block\)\. Did you mean "
         "'blocks.0.hook_resid_p"),
        ("blocks.0.attn.hook_patern", "Did you mean 'blocks.0.attn.hook_pattern'"),
        ("blocks.2.hook_resid_pre", "Did you mean 'blocks.0.hook_resid_pre'"),
        (["hook_embed", "hook_emed"], r"hook 'hook_emed' does not exist .* Did you mean 'hook_embed'"),
        ([], "names_filter is empty and selects no hook"),
        (lambda name: "mlp" in name, "names_filter selects no hook of this model"),
    ],
)  # fmt: skip
def test_a_filter_that_selects_nothing_is_an_error(model, tokens, names_filter, message):
    with pytest.raises(ValueError, match=message):
        model.run_with_cache(tokens, names_filter=names_filter)


@pytest.mark.parametrize("name", ["hook_emed", lambda name: False])
@pytest.mark.parametrize("direction", ["fwd_hooks", "bwd_hooks"])
def test_run_with_hooks_refuses_what_does_not_exist(model, tokens, direction, name):
    with pytest.raises(ValueError, match=r"does not exist|selects no hook"):
        model.run_with_hooks(tokens, **{direction: [(name, lambda value, hook: value)]})


def test_add_hook_refuses_what_does_not_exist(model):
    with pytest.raises(ValueError, match=r"'hook_emed' does not exist .* Did you mean 'hook_embed'"):
        model.add_hook("hook_emed", lambda value, hook: value)


# ---- TransformerLens's tools


def test_circuits_are_factored_matrices(model, weights):
    A, B, _ = weights
    assert isinstance(model.QK, FactoredMatrix)
    assert isinstance(model.OV, FactoredMatrix)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        assert getattr(model, name).shape == (1, N_HEADS, DIM, DIM)
    for h in range(N_HEADS):
        assert_close(model.QK.AB[0, h], A[h].diag())
        assert_close(model.OV.AB[0, h], B[h].diag())
        assert_close(model.QK.svd()[1][0, h], A[h].abs().sort(descending=True).values)


def test_the_weights_generate_the_activations(model, tokens):
    _, cache = model.run_with_cache(tokens)
    for hook, W in (("q", model.W_Q), ("k", model.W_K), ("v", model.W_V)):
        computed = torch.einsum("bpd,hde->bphe", tokens, W[0].to(tokens.dtype))
        assert_close(cache[hook, 0], computed)
    assert_close(cache["result", 0], torch.einsum("bphe,hed->bphd", cache["z", 0], model.W_O[0].to(tokens.dtype)))


def test_cfg_says_what_transformer_lens_asks(model):
    cfg = model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.n_ctx) == (1, N_HEADS, DIM, DIM, N_CTX)
    assert cfg.attn_only
    assert cfg.use_attn_result
    assert cfg.normalization_type is None
    assert cfg.dtype == torch.float64


def test_cache_methods(model, tokens):
    predictions, cache = model.run_with_cache(tokens)
    results, labels = cache.stack_head_results(return_labels=True)
    assert labels == ["L0H0", "L0H1", "L0H2"]
    assert_close(results.sum(0), predictions)
    with pytest.raises(ValueError, match="decompose_resid needs a residual stream: here each layer replaces its input"):
        cache.decompose_resid()
    assert torch.equal(cache.accumulated_resid()[-1], predictions)
    assert torch.equal(cache.stack_activation("z")[0], cache["z", 0])
    single = model.run_with_cache(tokens[:1])[1].remove_batch_dim()
    assert single["z", 0].shape == (N_CTX, N_HEADS, DIM)


# ---- making models


def test_names_of_the_state():
    diagonal = HookedARTransformer(ModelConfig.diagonal(dim=2, n_heads=3, n_ctx=4))
    shapes = {name: tuple(tensor.shape) for name, tensor in diagonal.state_dict().items()}
    assert shapes == {ATTN + "A": (3, 2), ATTN + "B": (3, 2), ATTN + "positional.P": (4, 4)}
    assert shapes == diagonal.config.parameter_shapes
    assert diagonal.config.n_parameters == 28
    positional = HookedARTransformer(ModelConfig.positional_only(n_ctx=4))
    assert list(positional.state_dict()) == [ATTN + "positional.P"]
    assert not positional.P.any()
    assert positional.A.tolist() == positional.B.tolist() == [[1.0]]


def test_initial_weights_are_gaussian_and_by_seed(assert_mean):
    config = ModelConfig.diagonal(dim=60, n_heads=50, n_ctx=70, init_scale=0.3)
    once, again, other = (HookedARTransformer(config, seed=seed).state_dict() for seed in (0, 0, 1))
    for name, tensor in once.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, config.initial_parameters(seed=0)[name])
        assert not torch.isclose(tensor, other[name]).all()
        assert_mean(tensor.flatten(), 0.0)
        assert_mean(tensor.flatten() ** 2, 0.3**2)


@pytest.mark.parametrize(
    "config", [ModelConfig.diagonal(dim=2, n_heads=3, n_ctx=4), ModelConfig.positional_only(n_ctx=4)]
)
def test_untrained_is_the_same_architecture_with_random_weights(config):
    process = CommutingUnitary(config.dim)
    model = HookedARTransformer(config, process=process)
    control, other = model.untrained(1), model.untrained(2)
    assert control.config.parameter_shapes == config.parameter_shapes
    assert control.config.heads == config.heads
    assert control.process is process
    assert 0.01 < control.P.std() < 0.3
    assert not torch.isclose(control.P, model.P).all()
    assert not torch.isclose(control.P, other.P).all()
    assert torch.equal(control.P, model.untrained(1).P)


def test_from_diagonal_takes_arrays_and_lists(weights, tokens, model):
    A, B, P = weights
    for convert in (torch.Tensor.numpy, torch.Tensor.tolist, lambda w: w.numpy()[::-1, ::-1].copy()[::-1, ::-1]):
        same = HookedARTransformer.from_diagonal(*map(convert, (A, B, P)))
        assert torch.equal(same(tokens), model(tokens))
    assert HookedARTransformer.from_diagonal(A, B, P).process is None
    model.A.zero_()
    assert A.any()  # the caller's array is not shared


A23, P44 = torch.ones(2, 3), torch.ones(4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A23, torch.ones(3, 3), P44), r"B must have shape \[2 3\], got \[3, 3\]"),
        ((A23[0], A23, P44), r"A must have shape \[head dim\], got \[3\]"),
        ((A23, A23, torch.ones(4, 5)), r"P must be \[n_ctx n_ctx\] with n_ctx >= 2, got \[4, 5\]"),
        ((A23, A23, torch.ones(1, 1)), r"n_ctx >= 2, got \[1, 1\]"),
        ((A23, A23, P44[0]), r"P must have shape \[n_ctx n_ctx\], got \[4\]"),
        ((A23 * math.nan, A23, P44), "A has NaN or infinite entries"),
        ((A23, A23, P44 * math.inf), "P has NaN or infinite entries"),
        ((A23, 1j * A23, P44), "B must be real, got torch.complex64"),
        ((A23[:0], A23[:0], P44), r"A must not be empty, got shape \[0, 3\]"),
        (("abc", A23, P44), "A must be an array of numbers"),
        (([[1.0], [1.0, 2.0]], A23, P44), "A must be an array of numbers"),
    ],
)
def test_from_diagonal_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        HookedARTransformer.from_diagonal(*arguments)


def test_process_and_model_must_agree():
    with pytest.raises(ValueError, match="process has dim 4 but the model has dim 3"):
        HookedARTransformer.from_diagonal(A23, A23, P44, process=CommutingUnitary(4))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(2, 4, 5), r"tokens must have shape \[batch pos 4\], got \[2, 4, 5\]"),
        (torch.ones(4, 4), r"tokens must have shape \[batch pos 4\], got \[4, 4\]"),
        (torch.ones(2, 7, 4), "tokens must hold 1 to n_ctx = 6 positions, got 7"),
        (torch.ones(2, 0, 4), "tokens must hold 1 to n_ctx = 6 positions, got 0"),
        (torch.ones(2, 4, 4, dtype=torch.int64), "tokens must be real or complex floating point, got torch.int64"),
    ],
)
def test_forward_refuses(model, tokens, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        model(tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be at least 1"),
        ({"dim": 10**9}, "dim must be at most 4096, got 1000000000"),
        ({"n_heads": 10**9}, "n_heads must be at most 4096"),
        ({"n_ctx": 1}, "n_ctx must be at least 2"),
        ({"n_ctx": 10**9}, "n_ctx must be at most 1048576"),
        ({"n_ctx": 16384}, "ask for 268,435,480 parameters; at most 100,000,000 are allowed"),
        ({"n_heads": 2.0}, r"n_heads must be an integer, got 2\.0"),
        ({"heads": "round"}, "heads must be one of 'diagonal', 'unit', 'full', 'block-scalar', 'merged', got 'round'"),
        ({"init_scale": -1.0}, r"init_scale must be at least 0\.0"),
        ({"init_scale": math.inf}, "init_scale must be a finite number"),
        ({"dtype": "float16"}, "dtype must be one of 'float64', 'float32', got 'float16'"),
    ],
)
def test_config_refuses(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"dim": 4, "n_ctx": 6, "n_heads": 3, **options})


def test_config_takes_keywords_it_knows():
    with pytest.raises(TypeError, match="layers"):
        ModelConfig(dim=4, n_ctx=6, n_heads=3, layers=2)
