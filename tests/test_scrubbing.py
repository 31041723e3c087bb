"""Causal scrubbing: against loops, against exact losses, at known answers, with controls that fail."""

from itertools import product

import numpy as np
import pytest
import torch
from cases import HAAR, N_CTX, D
from oracles import attend, number_of, path_alone, project, read_out, streams
from torch.testing import assert_close
from zoo import augmented, foreign_and_ours, one_gradient_step, orthogonal_model, scalar_layer, unitary_model

import ar_interp as ari
from ar_interp.probes import paths
from ar_interp.probes.blocks import BLOCK_NAMES
from ar_interp.probes.paths import CURRENT, GRADIENT_STEP, PATHS, PREVIOUS, READ_OUT, SECOND_PATH, Path
from ar_interp.probes.scrubbing import (
    ABLATED,
    COMPLEMENT,
    EVERYTHING,
    HYPOTHESIS,
    MODEL,
    WRONG_KEYS,
    _donors,
    _standard_error,
    scrub,
)
from ar_interp.theory import block_scalar_quadratic

PAIRS, UNITARY = ari.CommutingOrthogonal(4), ari.CommutingUnitary(4)
ERRORS = 4  # standard errors
BOTH = [GRADIENT_STEP, SECOND_PATH]
WRONG = Path(CURRENT, CURRENT, CURRENT)
CURRENT_ONLY = [WRONG, GRADIENT_STEP]  # keys of both kinds
BY_PATHS = {
    "full": (HAAR, {"n_heads": 2, "n_layers": 2, "init_scale": 0.4}),
    "complex": (UNITARY, {"n_layers": 2, "attention": "linear/keys", "d_mlp": 0, "init_scale": 0.5}),
    "dressed": (HAAR, {"n_layers": 2, "unembed": True, "d_mlp": 6, "scale_scores": True}),
}
FIGURE_5 = {"layer_norm": True, "biases": True, "unembed": True, "scale_scores": True, "shared_output": True}
BY_INPUTS = {
    "figure 5": (HAAR, {"n_layers": 2, "init": "linear", **FIGURE_5}),
    "softmax": (HAAR, {"n_layers": 2, "n_heads": 2, "attention": "softmax", "init_scale": 0.7}),
    "complex": (UNITARY, {"n_layers": 2, "n_heads": 2, "init_scale": 0.4}),
}
BY_KEYS = {
    "figure 7": {"query_lag": 0, "positional": "softmax", "init": "linear", **FIGURE_5},
    "softmax": {"n_layers": 2, "attention": "softmax", "positional": "none", "residual": True, "init_scale": 0.7},
    "lag": {"n_heads": 2, "n_layers": 2, "residual": True, "init_scale": 0.6},
}


def losses(result) -> dict[str, float]:
    return dict(zip(result.table["condition"], result.table["loss"], strict=True))


def row(result, condition: str) -> dict:
    return result.table.set_index("condition").loc[condition].to_dict()


def projected(model, layer, stream):
    return [project(model, layer, stream, part) for part in "QKV"]


def mixed_paths(model, layer, kept, own, other):
    parts = [path_alone(model, layer, own if path in kept else other, path) for path in PATHS]
    return sum(parts[1:], parts[0])


def mixed_inputs(model, layer, kept, own, other):
    inputs = []
    for role, part in enumerate("QKV"):
        named = {path[role] for path in kept}
        blocks = zip(BLOCK_NAMES, own.chunk(3, -1), other.chunk(3, -1), strict=True)
        stream = torch.cat([mine if name in named else theirs for name, mine, theirs in blocks], dim=-1)
        inputs.append(project(model, layer, stream, part))
    return attend(model, layer, *inputs)


def mixed_keys(model, layer, kept, own, other):
    return attend(model, layer, *projected(model, layer, own), other=projected(model, layer, other), own_keys=kept)


@torch.no_grad()
def check_against_loops(model, sequences, hypothesis, wrong, mix, layer, **options):
    n = len(sequences)
    n_resamples = (n - 1) // 2
    result = scrub(model, sequences, hypothesis, layer=layer, n_resamples=n_resamples, seed=3, **options)
    found = {condition: [] for condition in losses(result)}
    befores = [streams(model, tokens[:-1]) for tokens in sequences.tokens]
    for resample, i in product(range(n_resamples), range(n)):
        j = _donors(n, n_resamples, 3)[resample, i].item()
        own, other = befores[i][layer], befores[j][layer]
        outputs = {
            EVERYTHING: attend(model, layer, *projected(model, layer, other)),
            ABLATED: torch.zeros_like(own),
            HYPOTHESIS: mix(model, layer, set(hypothesis), own, other),
            COMPLEMENT: mix(model, layer, set(hypothesis), other, own),
            WRONG_KEYS: mix(model, layer, set(wrong), own, other),
        }
        inputs, targets = sequences.tokens[i, :-1], sequences.tokens[i, 1:]
        predictions = {name: read_out(model, streams(model, inputs, out, layer)[-1]) for name, out in outputs.items()}
        predictions[MODEL] = read_out(model, befores[i][-1])
        for condition, prediction in predictions.items():
            found[condition].append((prediction - targets)[1:].abs().square().sum(-1).mean().item())
    for condition, values in found.items():
        assert losses(result)[condition] == pytest.approx(np.mean(values), rel=1e-7), condition
    gap = np.mean(found[EVERYTHING]) - np.mean(found[MODEL])
    recovered = (np.mean(found[EVERYTHING]) - np.mean(found[HYPOTHESIS])) / gap
    assert np.isnan(result.recovered) or result.recovered == pytest.approx(recovered, rel=1e-6)


@pytest.mark.parametrize("stack", BY_PATHS)
@pytest.mark.parametrize("layer", [0, 1])
def test_by_paths_is_the_loops(stack, layer):
    process, options = BY_PATHS[stack]
    model, sequences = augmented(process, seed=5, **options), process.sample(3, 5, seed=1)
    kept = [Path(READ_OUT, PREVIOUS, CURRENT), Path(CURRENT, CURRENT, CURRENT), GRADIENT_STEP]
    wrong = [Path(READ_OUT, CURRENT, CURRENT)]  # the two others exchange with each other
    check_against_loops(model, sequences, kept, wrong, mixed_paths, layer)


@pytest.mark.parametrize("stack", BY_INPUTS)
@pytest.mark.parametrize("layer", [0, 1])
def test_by_inputs_is_the_loops(stack, layer):
    process, options = BY_INPUTS[stack]
    model, sequences = augmented(process, seed=5, **options), process.sample(3, 5, seed=1)
    queries, keys, wrong_keys, values = (CURRENT, PREVIOUS), (READ_OUT, PREVIOUS), (CURRENT,), (CURRENT,)
    kept, wrong = ([Path(*names) for names in product(queries, k, values)] for k in (keys, wrong_keys))
    check_against_loops(model, sequences, kept, wrong, mixed_inputs, layer, by="inputs")


@pytest.mark.parametrize("stack", BY_KEYS)
def test_by_keys_is_the_loops(stack):
    config = ari.ModelConfig.full(**{"dim": 4, "n_ctx": 6, "n_heads": 1, **BY_KEYS[stack]})
    model = ari.HookedARTransformer(config, seed=5)
    for layer in range(config.n_layers):
        check_against_loops(model, HAAR.sample(5, 6, seed=1), [0, 2], [3, 5], mixed_keys, layer)


def test_by_keys_of_diagonal_heads_and_of_augmented_tokens_is_the_loops():
    model = orthogonal_model(D, kappa=0.4).untrained(1)
    check_against_loops(model, model.process.sample(5, N_CTX + 1, seed=1), [1], [3], mixed_keys, 0)
    model = augmented(UNITARY, n_heads=2, init_scale=0.5)
    check_against_loops(model, UNITARY.sample(5, 6, seed=1), [0, 1], [2, 3], mixed_keys, 0)


def zero_modes(path: Path, T: int, *, pairs: bool) -> int:
    """The mean of coordinate j of a path's feature for dim 4: i is j, its partner or one of two others."""
    key, query, value = (name == PREVIOUS for name in (path.key, path.query, path.value))
    count = 0
    for t in range(1 + max(key, value), T + 1):
        others, own = T - t + key - query, t - 1 - value  # exponents of lambda_i and lambda_j
        count += (others + own == 0) + (others == own if pairs else others == own == 0) + 2 * (others == own == 0)
    return count


@pytest.mark.parametrize("process", [UNITARY, PAIRS], ids=lambda p: p.kind)
@pytest.mark.parametrize("kept", [[GRADIENT_STEP], BOTH, CURRENT_ONLY], ids=["step", "both", "two keys"])
def test_every_condition_has_its_exact_loss(process, kept):
    """E|t - k(x) - r(y)|^2 = E|t - k|^2 + E|r|^2 + 2 Re <E k, E r>, since E t = 0."""
    a, b, n = [0.03, 0.14, -0.05, 0.02], [1.0, 0.2], 4
    quadratic = block_scalar_quadratic(dim=4, max_length=5, conjugate_pairs=process is PAIRS)
    used = [path for path in PATHS if READ_OUT not in path]
    means = np.zeros((8, n))
    for path in used:
        means[number_of(path)] = [zero_modes(path, T, pairs=process is PAIRS) for T in range(2, 6)]
    g = np.outer(a, b).ravel()

    def loss(own: np.ndarray) -> float:
        k, r = np.where(own, g, 0), np.where(own, 0, g)
        crossed = 4 * (k @ means) @ (r @ means)
        return (quadratic.constant - 2 * quadratic.h @ k + k @ quadratic.G @ k + r @ quadratic.G @ r + 2 * crossed) / n

    def chosen(some) -> np.ndarray:
        return np.isin(np.arange(8), [number_of(path) for path in some])

    exchange = {CURRENT: PREVIOUS, PREVIOUS: CURRENT}
    wrong = {path._replace(key=exchange[path.key]) for path in kept} - set(kept)
    truth = {
        MODEL: loss(chosen(used)),
        HYPOTHESIS: loss(chosen(kept)),
        EVERYTHING: loss(chosen([])),
        ABLATED: 4.0,
        COMPLEMENT: loss(~chosen(kept)),
        WRONG_KEYS: loss(chosen(wrong)),
    }
    result = scrub(scalar_layer(a, b, process=process, n_ctx=5), process.sample(600, 6, seed=2), kept)
    for condition, exact in truth.items():
        found = row(result, condition)
        assert abs(found["loss"] - exact) < ERRORS * found["loss_se"] + 1e-12, condition
        recovered = (truth[EVERYTHING] - exact) / (truth[EVERYTHING] - truth[MODEL])
        assert abs(found["recovered"] - recovered) < ERRORS * found["recovered_se"] + 1e-12, condition


@pytest.mark.parametrize("by", ["paths", "inputs"])
def test_of_one_gradient_step_nothing_else_matters(by):
    """eta is the optimal step, so that silence recovers half."""
    process = ari.CommutingUnitary(4)
    eta = ari.theory.optimal_step_size(dim=4, max_length=9)
    result = scrub(one_gradient_step(eta, process), process.sample(400, 10, seed=3), by=by)
    assert result.recovered == pytest.approx(1, abs=1e-12)
    assert result.standard_error < 1e-12
    assert result.controls[COMPLEMENT] == pytest.approx(0, abs=1e-12)
    step = process.dim - ari.theory.one_step_minimum(dim=4, max_length=9)  # E|prediction|^2 at the best scale
    everything = row(result, EVERYTHING)
    assert abs(everything["loss"] - (process.dim + step)) < ERRORS * everything["loss_se"]
    assert abs(result.ablated - 0.5) < ERRORS * row(result, ABLATED)["recovered_se"]
    if by == "paths":
        assert result.controls[WRONG_KEYS] == pytest.approx(0, abs=1e-12)
    else:  # own query and values through another's keys: noise, of smaller size than another's prediction
        assert 0.1 < result.controls[WRONG_KEYS] < result.ablated


def test_an_untrained_model_does_not_pass():
    """More than 1 is a failure too: the rest does harm, where the hypothesis says that it does nothing."""
    for seed in range(4):
        result = scrub(one_gradient_step(0.1).untrained(seed), HAAR.sample(200, 10, seed=3))
        assert not abs(result.recovered - 1) < 0.5


def test_a_unitary_minimum_attends_to_the_last_key():
    for n_heads, level in ((D, 0), (2, D - 2)):
        model = unitary_model(n_heads)
        result = scrub(model, model.process.sample(300, N_CTX + 1, seed=4))
        assert (result.by, result.kept) == ("keys", (0,))
        assert result.recovered == pytest.approx(1, abs=1e-9)
        assert list(result.controls.values()) == pytest.approx([0, 0], abs=1e-9)
        for condition, exact in ((MODEL, level), (EVERYTHING, D + n_heads), (ABLATED, D)):
            found = row(result, condition)
            assert abs(found["loss"] - exact) < ERRORS * found["loss_se"] + 1e-9


@pytest.mark.parametrize("kappa", [0.4, 1.0])
def test_conjugate_pairs_need_two_keys(kappa):
    """kappa s_{T-1} is written by the key T and taken back by T - 1: without the other each leaves it, twice over.

    At T = 2 it is s_1, the same in every sequence.
    """
    model = orthogonal_model(D, kappa=kappa)
    sequences = model.process.sample(200, N_CTX + 1, seed=5)
    result = scrub(model, sequences)
    assert result.kept == (0, 1)
    assert result.recovered == pytest.approx(1, abs=1e-9)
    assert list(result.controls.values()) == pytest.approx([0, 0], abs=1e-9)
    lengths = N_CTX - 1
    missing = kappa**2 * (lengths - 1) / lengths
    for hypothesis, loss, recovered in (([0], 2 * D * missing, 1 - missing), ([1], 2 * D * (1 + missing), -missing)):
        found = row(scrub(model, sequences, hypothesis), HYPOTHESIS)
        assert abs(found["loss"] - loss) < ERRORS * found["loss_se"]
        assert abs(found["recovered"] - recovered) < ERRORS * found["recovered_se"]


def test_noise_that_stays_noise_costs_nothing():
    """<s_t|s_T> s_t has no part along the target, so another sequence's is as bad; cutting it would help."""
    model, sequences = scalar_layer([0.1, 0.15, 0.0, 0.0], process=UNITARY, n_ctx=5), UNITARY.sample(600, 6, seed=6)
    result = scrub(model, sequences)
    found = row(result, HYPOTHESIS)
    assert abs(found["recovered"] - 1) < ERRORS * found["recovered_se"]
    assert found["recovered_se"] < 0.05
    cost = paths.path_contributions(model, sequences)[WRONG]
    assert cost["cost"] < -ERRORS * cost["cost_se"]


@pytest.mark.parametrize("a3", [0.1, -0.1])
def test_what_misleads_can_recover_more_than_all_and_less_than_nothing(a3):
    """Conjugate pairs ask for a3 < 0: a positive one does harm, and the right one is of no use alone."""
    model = scalar_layer([0.0, 0.15, a3, 0.0], process=PAIRS, n_ctx=5)
    sequences = PAIRS.sample(600, 6, seed=6)
    step, second = (scrub(model, sequences, [path]) for path in BOTH)
    assert step.controls[COMPLEMENT] == pytest.approx(second.recovered)
    if a3 > 0:
        assert step.recovered > 1 + ERRORS * step.standard_error
    else:
        assert second.recovered < -ERRORS * second.standard_error


@pytest.mark.parametrize(
    ("name", "hypothesis", "passes"),
    [
        ("augmented-orthogonal", BOTH, True),
        ("augmented-haar-short", BOTH, True),
        ("augmented-haar-short", [WRONG], False),
        ("diagonal-orthogonal-h5", (0,), False),
        ("figure5-l1", None, True),
        ("positional-mu100", None, False),  # unfinished descent spreads over many keys
    ],
)
def test_shipped_models(name, hypothesis, passes):
    checkpoint = ari.load(name)
    n_ctx = checkpoint.model.config.n_ctx
    result = scrub(checkpoint.model, checkpoint.process.sample(64, n_ctx + 1, seed=7), hypothesis, n_resamples=1)
    assert (result.recovered > 0.95) == passes
    if passes:
        assert max(result.controls.values()) < 0.3


def test_a_layer_that_does_nothing_has_nothing_to_recover():
    result = scrub(one_gradient_step(0.0), HAAR.sample(20, 6, seed=8))
    assert result.table["recovered"].isna().all()
    assert result.table["recovered_se"].isna().all()


# ---- stand-ins and standard errors


@pytest.mark.parametrize(("n", "n_resamples"), [(3, 1), (9, 4), (20, 5)])
def test_no_two_sequences_meet_twice(n, n_resamples):
    donors = _donors(n, n_resamples, 0)
    assert donors.shape == (n_resamples, n)
    assert (donors.sort(dim=1).values == torch.arange(n)).all()
    pairs = {frozenset((i, donors[r, i].item())) for r, i in product(range(n_resamples), range(n))}
    assert len(pairs) == n * n_resamples
    assert all(len(pair) == 2 for pair in pairs)


def test_the_seed_changes_who_stands_in():
    assert not torch.equal(_donors(20, 2, 0), _donors(20, 2, 1))


def test_the_standard_error_counts_all_pairs_that_share_a_sequence(random_tensor):
    n, n_resamples = 11, 3
    donors = _donors(n, n_resamples, 0).numpy()
    noise, own, lent = (random_tensor(*shape, seed=1).numpy() for shape in ((n_resamples, n), (n,), (n,)))
    values = noise + 2 * own + 3 * lent[donors]
    cells = list(product(range(n_resamples), range(n)))
    off = values - values.mean()
    variance = sum(
        off[a] * off[b] for a in cells for b in cells if {a[1], donors[a]} & {b[1], donors[b]}
    ) / len(cells) ** 2  # fmt: skip
    assert variance > 0
    assert _standard_error(values, donors) == pytest.approx((variance * n / (n - 1)) ** 0.5)
    single = values[:1]
    assert _standard_error(single, donors[:0]) == pytest.approx(single.std(ddof=1) / n**0.5)
    opposed = own - own[donors]  # cancels from sequence to sequence
    assert _standard_error(opposed, donors) == pytest.approx(opposed.std() * (n / (n - 1) / opposed.size) ** 0.5)


def test_standard_errors_are_the_spread_over_samples():
    model = scalar_layer([0.03, 0.14, -0.05, 0.02], [1.0, 0.2], process=UNITARY, n_ctx=5)
    found = []
    for seed in range(30):
        table = scrub(model, UNITARY.sample(24, 6, seed=100 + seed), BOTH, seed=seed, n_resamples=2).table
        found.append(table[["loss", "loss_se", "recovered", "recovered_se"]].to_numpy(float))
    loss, loss_se, recovered, recovered_se = np.stack(found, axis=-1).transpose(1, 0, 2)
    for values, errors, rows in ((loss, loss_se, [0, 1, 2, 4, 5]), (recovered, recovered_se, [1, 3, 4, 5])):
        ratio = np.sqrt((errors[rows] ** 2).mean(1)) / values[rows].std(1, ddof=1)
        assert ((ratio > 0.65) & (ratio < 1.55)).all(), ratio  # a spread of 30 is known to 13 %


# ---- the rest


def test_chunks_and_seeds(monkeypatch):
    model, sequences = augmented(n_layers=2), HAAR.sample(7, 6, seed=1)

    def table(seed: int, batch_size: int | None = None):
        return scrub(model, sequences, BOTH, layer=1, seed=seed, n_resamples=2, batch_size=batch_size).table

    whole = table(4)
    assert whole.equals(table(4))
    assert not whole.equals(table(5))
    parts = table(4, batch_size=3)
    for name in ("loss", "loss_se"):
        np.testing.assert_allclose(parts[name], whole[name])


def test_all_paths_or_all_keys_are_the_model():
    model, sequences = augmented(n_heads=2, init_scale=0.5), HAAR.sample(9, 6, seed=1)
    for hypothesis, by in ((PATHS, "paths"), (PATHS, "inputs"), (range(5), None)):
        found = losses(scrub(model, sequences, hypothesis, by=by))
        assert found[HYPOTHESIS] == pytest.approx(found[MODEL])
        assert found[COMPLEMENT] == pytest.approx(found[EVERYTHING])
        assert found[WRONG_KEYS] == pytest.approx(found[EVERYTHING])  # there are no others


def test_a_foreign_model_is_scrubbed():
    sequences = HAAR.sample(9, 9, seed=2)
    for hypothesis, by in ((BOTH, "paths"), ([GRADIENT_STEP], "inputs"), ([0, 3], None)):
        foreign, ours = (scrub(model, sequences, hypothesis, by=by) for model in foreign_and_ours())
        np.testing.assert_allclose(foreign.table["loss"], ours.table["loss"])


def test_the_frame_says_what_was_kept():
    model, sequences = augmented(), HAAR.sample(9, 6, seed=1)
    result = scrub(model, sequences, BOTH[::-1], n_resamples=2)
    assert (result.kept, result.by, result.layer, result.n, result.n_resamples) == (tuple(BOTH), "paths", 0, 9, 2)
    step, second = "<s_{t-1}|s_T> s_t", "<s_t|s_{T-1}> s_t"
    words = [
        "all", f"{step} + {second}", "nothing", "nothing", f"all but {step} + {second}",
        "<s_t|s_T> s_t + <s_{t-1}|s_{T-1}> s_t",
    ]  # fmt: skip
    assert result.to_frame()["kept"].tolist() == words
    assert (result.to_frame()["n"] == 9).all()
    offsets = scrub(model, sequences, [2, 0])
    assert offsets.kept == (0, 2)
    assert offsets.to_frame()["kept"].tolist()[1::4] == ["keys T, T-2", "keys T-3, T-5"]
    assert scrub(model, sequences, PATHS).to_frame()["kept"].tolist()[-1] == "nothing"


@pytest.mark.usefixtures("without_type_checks")
def test_tuples_are_paths_and_a_path_is_no_list():
    model, sequences = augmented(), HAAR.sample(9, 6, seed=1)
    assert scrub(model, sequences, [tuple(GRADIENT_STEP)]).kept == (GRADIENT_STEP,)
    for hypothesis in (GRADIENT_STEP, [GRADIENT_STEP, 0], [GRADIENT_STEP[:2]]):
        with pytest.raises(ValueError, match=r"must be a list of Path\(query, key, value\)"):
            scrub(model, sequences, hypothesis)
    with pytest.raises(ValueError, match=r"must be an integer, got 0\.5"):
        scrub(model, sequences, [0.5])


def test_hooks_are_gone_after_an_error():
    model, calls = augmented(), []

    def fail(value, hook):
        calls.append(hook.name)
        if len(calls) == 12:
            raise RuntimeError

    with model.hooks([("blocks.0.hook_resid_post", fail)]), pytest.raises(RuntimeError):
        scrub(model, HAAR.sample(9, 6, seed=0), BOTH)
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_errors():
    model, sequences = augmented(), HAAR.sample(9, 6, seed=0)
    plain = ari.HookedARTransformer(ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=1))
    softmax = augmented(attention="softmax")
    with pytest.raises(ValueError, match="hypothesis must be given: the process is not known"):
        scrub(plain, sequences)
    with pytest.raises(ValueError, match=r"hypothesis must be given: no part of theory speaks of .*=\[GRADIENT_STEP\]"):
        scrub(model, sequences)
    with pytest.raises(ValueError, match="hypothesis is empty"):
        scrub(model, sequences, [])
    with pytest.raises(ValueError, match=r"list of Path\(query, key, value\), each of the blocks 'read-out', 's_t'"):
        scrub(model, sequences, [Path("s_T", CURRENT, CURRENT)])
    with pytest.raises(ValueError, match=r"hypothesis \(an offset\) must be at most 4, got 5"):
        scrub(plain, sequences, [5])
    with pytest.raises(ValueError, match="hypothesis must be offsets of keys"):
        scrub(plain, sequences, [GRADIENT_STEP])
    with pytest.raises(ValueError, match="by, for a hypothesis of offsets, must be one of 'keys', got 'paths'"):
        scrub(plain, sequences, [0], by="paths")
    with pytest.raises(ValueError, match="by, for a hypothesis of paths, must be one of 'paths', 'inputs', got 'keys'"):
        scrub(model, sequences, BOTH, by="keys")
    with pytest.raises(ValueError, match="by='paths' needs linear attention without biases or LayerNorm"):
        scrub(softmax, sequences, BOTH, by="paths")
    with pytest.raises(ValueError, match=r"every path from its blocks.*which are 4; got <s_\{t-1\}\|s_T> s_t \+"):
        scrub(softmax, sequences, BOTH)
    with pytest.raises(ValueError, match="layer must be at most 0, got 1"):
        scrub(model, sequences, BOTH, layer=1)
    with pytest.raises(ValueError, match="n_resamples must be at least 1"):
        scrub(model, sequences, BOTH, n_resamples=0)
    with pytest.raises(ValueError, match="more than 2 n_resamples = 10, got 9"):
        scrub(model, sequences, BOTH, n_resamples=5)
    with pytest.raises(ValueError, match="contexts must be at least 2 inputs long, got 1"):
        scrub(model, HAAR.sample(9, 2, seed=0), BOTH)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        scrub(model, sequences, BOTH, seed=-1)
    with pytest.raises(ValueError, match="it lacks"):
        scrub(torch.nn.Linear(2, 2), sequences)


def test_the_loss_of_the_model_has_the_usual_standard_error():
    model, sequences = augmented(n_layers=2), HAAR.sample(9, 6, seed=1)
    with torch.no_grad():
        errors = (model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:].square().sum(-1).mean(1)
    found = row(scrub(model, sequences, BOTH, n_resamples=1), MODEL)
    assert_close(found["loss"], errors.mean().item())
    assert_close(found["loss_se"], (errors.std() / 3).item())
