"""Ablations: against one forward pass per component, against the costs that theory predicts, and what they refuse."""

import numpy as np
import pytest
import torch
from cases import HAAR, N_CTX, D
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint
from zoo import ForeignDiagonal, orthogonal_model, unitary_model

import ar_interp as ari
from ar_interp.probes import ablations
from ar_interp.probes.ablations import ablate_heads, ablate_layers, ablate_positions
from ar_interp.theory import factor_heads, kappa_family
from ar_interp.theory.ablations import METHODS

LENGTH = 6


def general(**options) -> ari.HookedARTransformer:
    make = ari.ModelConfig.augmented if options.pop("augmented", True) else ari.ModelConfig.full
    return ari.HookedARTransformer(make(dim=4, n_ctx=LENGTH, init_scale=0.2, **options), process=HAAR, seed=1)


def random(process, n_heads: int = 4) -> ari.HookedARTransformer:
    """Far from any minimum."""
    config = ari.ModelConfig.diagonal(dim=D, n_heads=n_heads, n_ctx=N_CTX, init_scale=0.5)
    return ari.HookedARTransformer(config, process=process, seed=4)


def foreign() -> ForeignDiagonal:
    torch.manual_seed(0)
    solution = kappa_family(dim=D, kappa=1.0, n_ctx=N_CTX, scale=1.4)
    return ForeignDiagonal(*factor_heads(solution.C, n_heads=3, seed=1), solution.P)


class SeparateHeads(HookedRootModule):
    """A foreign model of two layers with hook_z and no hook_result, each head computed by itself."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64) / 3
        self.blocks = nn.ModuleList()
        for _ in range(2):
            attn = nn.Module()
            attn.hook_z, attn.hook_pattern = HookPoint(), HookPoint()
            self.blocks.append(nn.ModuleDict({"attn": attn}))
        self.setup()

    def forward(self, tokens):
        x = tokens
        for block, weights in zip(self.blocks, self.weights, strict=True):
            attn, (QK, OV) = block["attn"], weights.transpose(0, 1)
            scores = [(x @ W @ x.mT).tril() for W in QK]
            pattern = attn.hook_pattern(torch.stack(scores, dim=1))
            z = attn.hook_z(torch.stack([p @ x for p in pattern.unbind(1)], dim=2))
            x = x + sum(z[:, :, h] @ W for h, W in enumerate(OV))
        return x


MODELS = {
    "diagonal": lambda: random(ari.CommutingOrthogonal(D)),
    "positional only": lambda: ari.HookedARTransformer(
        ari.ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.3), process=ari.CommutingUnitary(1, mu=30.0)
    ),
    "plain": lambda: general(augmented=False, n_heads=3, n_layers=2, residual=True),
    "augmented, deep": lambda: general(n_heads=2, n_layers=3),
    "softmax, MLP": lambda: general(n_heads=2, n_layers=2, attention="softmax", d_mlp=5),
    "figure 5": lambda: ari.HookedARTransformer(
        ari.ModelConfig.paper_figure5(dim=4, n_ctx=LENGTH, n_layers=2, dtype="float64"), process=HAAR
    ),
    "figure 7": lambda: ari.HookedARTransformer(
        ari.ModelConfig.paper_figure7(dim=4, n_ctx=LENGTH, n_heads=3, dtype="float64"), process=HAAR
    ),
    "foreign": lambda: foreign(),
    "foreign, deep": SeparateHeads,
}


def sequences_for(model, n: int) -> ari.Sequences:
    process = getattr(model, "process", None) or (
        ari.CommutingOrthogonal(D) if isinstance(model, ForeignDiagonal) else HAAR
    )
    length = LENGTH if isinstance(process, ari.HaarOrthogonal) else N_CTX
    return process.sample(n, length + 1, seed=5)


@torch.no_grad()
def naive(model, sequences, hook, places, method, seed):
    """One forward pass per component, all sequences at once: the losses of each sequence. `places` are (layer, index)
    of what is removed; a cycle through the sequences, drawn as the probe draws it, says who replaces whom."""
    inputs, targets = sequences.tokens[:, :-1], sequences.tokens[:, 1:]
    cycle = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)).tolist()
    other = {cycle[i]: cycle[i - 1] for i in range(len(cycle))}
    losses = []
    for layer, index in places:
        name = f"blocks.{layer}.{hook}"
        value = model.run_with_cache(inputs, names_filter=[name])[1][name]
        own, norm = None, getattr(model.blocks[layer], "ln1_post", None)
        if "hook_result" in hook and getattr(norm, "hook_scale", None) is not None:
            scale = model.run_with_cache(inputs)[1][f"blocks.{layer}.ln1_post.hook_scale"][..., None]
            value = norm.w * (value - value.mean(-1, keepdim=True)) / scale  # what each head writes
            own, name = value[:, :, index], f"blocks.{layer}.hook_attn_out"
        replaced = torch.zeros_like(value)
        if method == "mean":
            replaced = value.mean(0, keepdim=True).expand_as(value)
        if method == "resample":
            replaced = torch.stack([value[other[i]] for i in range(len(inputs))])

        def edit(activation, hook, index=index, replaced=replaced, own=own):
            activation = activation.clone()
            if hook.name.endswith("pattern"):
                for T in range(index, activation.shape[-1]):
                    activation[:, :, T, T - index] = replaced[:, :, T, T - index]
            elif hook.name.endswith("_out"):
                activation += (replaced[:, :, index] - own) if index is not None else replaced - activation
            else:
                activation[:, :, index] = replaced[:, :, index]
            return activation

        with model.hooks(fwd_hooks=[(name, edit)]):
            error = model(inputs) - targets
        losses.append(error[:, 1:].abs().square().sum(-1).mean(-1))
    return torch.stack(losses).double()


FEW = 7  # sequences at a time: some components of few sequences
CASES = [(name, None) for name in MODELS] + [(name, FEW) for name in ("diagonal", "plain", "foreign, deep")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "batch_size"), CASES)
def test_heads_are_those_removed_one_by_one(name, method, batch_size):
    model = MODELS[name]()
    sequences = sequences_for(model, 5)
    result = ablate_heads(model, sequences, method=method, seed=3, batch_size=batch_size)
    table = result.to_frame()
    hook = "attn.hook_result" if isinstance(model, ari.HookedARTransformer) else "attn.hook_z"
    losses = naive(model, sequences, hook, table[["layer", "head"]].to_numpy().tolist(), method, seed=3)
    with torch.no_grad():
        clean = (model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:].abs().square().sum(-1).mean(-1)
    assert (result.hook, result.method, result.n) == (hook.removeprefix("attn."), method, 5)
    np.testing.assert_allclose(table["loss"], losses.mean(1), rtol=1e-9)
    np.testing.assert_allclose(table["cost"], (losses - clean).mean(1), rtol=1e-7, atol=1e-12)
    assert result.loss == pytest.approx(clean.mean().item())
    assert result.loss_se == pytest.approx((clean.std() / 5**0.5).item())
    if method != "resample":
        np.testing.assert_allclose(table["cost_se"], (losses - clean).std(1) / 5**0.5, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "batch_size"), CASES)
def test_positions_are_those_cut_one_by_one(name, method, batch_size):
    model = MODELS[name]()
    sequences = sequences_for(model, 4)
    for layer in {0, len(model.blocks) - 1}:
        result = ablate_positions(model, sequences, method=method, layer=layer, seed=8, batch_size=batch_size)
        table = result.to_frame()
        assert table["offset"].tolist() == list(range(sequences.tokens.shape[1] - 1))
        losses = naive(
            model, sequences, "attn.hook_pattern", table[["layer", "offset"]].to_numpy().tolist(), method, seed=8
        )
        np.testing.assert_allclose(table["loss"], losses.mean(1), rtol=1e-9)
        np.testing.assert_allclose(table["cost"], (losses.mean(1) - result.loss), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["diagonal", "augmented, deep", "softmax, MLP", "figure 5", "figure 7"])
def test_layers_are_those_removed_one_by_one(name, method):
    model = MODELS[name]()
    sequences = sequences_for(model, 5)
    table = ablate_layers(model, sequences, method=method, seed=2).to_frame()
    parts = ["attention", "mlp"] if "MLP" in name else ["attention"]
    assert table["part"].tolist() == parts * model.config.n_layers
    for part, hook in ablations.LAYERS.items():
        rows = table[table["part"] == part]
        places = [(layer, None) for layer in rows["layer"]]
        if places:
            losses = naive(model, sequences, hook, places, method, seed=2)
            np.testing.assert_allclose(rows["loss"], losses.mean(1), rtol=1e-9)
    assert table["predicted"].isna().all()


def test_a_head_of_its_own_leaves_biases_behind_and_a_layer_nothing():
    model = MODELS["figure 5"]().requires_grad_(False)
    sequences = sequences_for(model, 5)
    head, layer = (probe(model, sequences).to_frame()["cost"] for probe in (ablate_heads, ablate_layers))
    assert (head != layer).all()
    for block in model.blocks:
        block.attn.b_O.zero_()
        block.ln1_post.b.zero_()
    head, layer = (probe(model, sequences).to_frame()["cost"] for probe in (ablate_heads, ablate_layers))
    np.testing.assert_allclose(head, layer, rtol=1e-9)


def test_trimmed_costs_leave_out_a_hundredth_of_the_sequences():
    model = general(n_layers=2)
    sequences = sequences_for(model, 200)
    losses = naive(model, sequences, "hook_attn_out", [(0, None), (1, None)], "zero", seed=0)
    with torch.no_grad():
        clean = (model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:].abs().square().sum(-1).mean(-1)
    kept = np.sort((losses - clean).numpy(), axis=1)[:, :198]
    table = ablate_layers(model, sequences).to_frame()
    np.testing.assert_allclose(table["trimmed"], kept.mean(1), rtol=1e-7)
    np.testing.assert_allclose(table["trimmed_se"], kept.std(1, ddof=1) / 198**0.5, rtol=1e-7)
    assert (table["trimmed"] < table["cost"]).all()


def test_the_eleventh_layer_is_the_last():
    model = general(n_layers=11)
    sequences = sequences_for(model, 2)
    table = ablate_heads(model, sequences).to_frame()
    assert table["layer"].tolist() == list(range(11))
    losses = naive(model, sequences, "attn.hook_result", table[["layer", "head"]].to_numpy().tolist(), "zero", seed=0)
    np.testing.assert_allclose(table["loss"], losses.mean(1), rtol=1e-9)


def test_some_layers_and_some_offsets():
    model = MODELS["augmented, deep"]()
    sequences = sequences_for(model, 6)
    every = ablate_heads(model, sequences).to_frame().set_index(["layer", "head"])
    some = ablate_heads(model, sequences, layers=[2, 0, 2]).to_frame()
    assert some["layer"].tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(some.set_index(["layer", "head"])["cost"], every.loc[[0, 2], "cost"], rtol=1e-9)
    every = ablate_positions(model, sequences, layer=1).to_frame().set_index("offset")
    some = ablate_positions(model, sequences, layer=1, offsets=[4, 1]).to_frame()
    assert some["offset"].tolist() == [1, 4]
    np.testing.assert_allclose(some["cost"], every.loc[[1, 4], "cost"], rtol=1e-9)
    assert set(some["layer"]) == {1}


# ---- what theory predicts


KNOWN = {
    "unitary minimum": lambda: unitary_model(4),
    "more heads": lambda: unitary_model(9),
    "kappa": lambda: orthogonal_model(7, kappa=0.4),
    "kappa one": lambda: orthogonal_model(3, kappa=1.0),
    "random": lambda: random(ari.CommutingOrthogonal(D)),
    "random unitary": lambda: random(ari.CommutingUnitary(D)),
    "slow": MODELS["positional only"],
    "foreign": foreign,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", KNOWN)
def test_costs_are_the_predicted_ones(name, method):
    """Four standard errors; the few sequences of a mean, 40, would be off by 2.5 % without the 1/n."""
    model = KNOWN[name]()
    process = getattr(model, "process", None) or ari.CommutingOrthogonal(D)
    sequences = process.sample(40 if method == "mean" else 600, N_CTX + 1, seed=6)
    for probe in (ablate_heads, ablate_positions):
        table = probe(model, sequences, method=method, process=process).to_frame()
        off = (table["cost"] - table["predicted"]).abs()
        assert (off <= 4 * table["cost_se"] + 1e-9).all(), table
        assert (table["n"] == len(sequences)).all()
        assert table["predicted"].abs().max() > 0.005


@pytest.mark.parametrize("probe", [ablate_heads, ablate_positions])
def test_a_mean_over_few_sequences_is_predicted_too(probe):
    """Of two sequences half of what is removed stays: the factor 1 - 1/n is what the costs average to."""
    model = KNOWN["random"]()
    tables = [probe(model, model.process.sample(2, 5, seed=seed), method="mean").to_frame() for seed in range(40)]
    costs = np.stack([table["cost"] for table in tables])
    mean, standard_error = costs.mean(0), costs.std(0, ddof=1) / len(costs) ** 0.5 + 1e-12
    assert (np.abs(mean - tables[0]["predicted"]) / standard_error).max() < 4
    assert (np.abs(mean - 2 * tables[0]["predicted"]) / standard_error).max() > 6


def test_standard_errors_of_resampling_are_those_of_many_runs():
    """Neighbours on the cycle share a sequence: errors of independent costs would be too small."""
    model = orthogonal_model(3, kappa=1.0)
    tables = [
        ablate_heads(model, model.process.sample(40, 5, seed=seed), method="resample", seed=seed).to_frame()
        for seed in range(60)
    ]
    spread = np.stack([table["cost"] for table in tables]).std(0, ddof=1)
    said = np.sqrt(np.mean([table["cost_se"] ** 2 for table in tables], axis=0))
    np.testing.assert_allclose(said, spread, rtol=0.2)


def test_balanced_heads_cost_one_and_two():
    model = unitary_model(4)
    sequences = model.process.sample(50, N_CTX + 1, seed=0)
    for method, cost in {"zero": 1, "mean": 1 - 1 / 50, "resample": 2}.items():
        assert ablate_heads(model, sequences, method=method).to_frame()["predicted"].to_numpy() == pytest.approx(cost)


def test_nothing_is_predicted_where_theory_is_silent():
    model = unitary_model(4)
    family = ari.CommutingUnitary
    silent = [
        family(D, noise=0.1), family(D, first_token="signs"), family(D, mu=2.0),
        family(D, first_token=ari.FirstToken("ones", scale=2.0)),
    ]  # fmt: skip
    sequences = model.process.sample(8, N_CTX + 1, seed=0)
    for process in silent:
        assert ablate_heads(model, sequences, process=process).to_frame()["predicted"].isna().all()
        assert ablate_positions(model, sequences, process=process).to_frame()["predicted"].isna().all()
    other_first = family(D, first_token="gaussian").sample(8, N_CTX + 1, seed=0)
    rotated = ari.CommutingOrthogonal(D).sample(8, N_CTX + 1, seed=0, basis="rotation")
    for elsewhere in (other_first, rotated):
        assert ablate_heads(model, elsewhere).to_frame()["predicted"].isna().all()
    nameless = ari.HookedARTransformer.from_diagonal(model.A, model.B, model.P)
    assert ablate_heads(nameless, sequences).to_frame()["predicted"].isna().all()
    assert ablate_heads(nameless, sequences, process=family(D)).to_frame()["predicted"].notna().all()
    assert ablate_heads(general(n_heads=2), sequences_for(general(), 3)).to_frame()["predicted"].isna().all()


def test_shorter_contexts_have_their_own_costs():
    model = KNOWN["random"]()
    sequences = model.process.sample(1500, 5, seed=1)
    table = ablate_positions(model, sequences).to_frame()
    assert len(table) == 4
    assert ((table["cost"] - table["predicted"]).abs() <= 4 * table["cost_se"] + 1e-9).all()


# ---- hooks and errors


@pytest.mark.parametrize("probe", [ablate_heads, ablate_positions])
@pytest.mark.parametrize("name", ["augmented, deep", "foreign, deep"])
def test_hooks_are_gone_after_an_exception(name, probe, monkeypatch):
    model = MODELS[name]()
    sequences = sequences_for(model, 4)
    calls = []

    def fails_when_hooked(*args):
        if any(point.has_hooks() for point in model.hook_dict.values()):
            calls.append(len(args))
            raise RuntimeError("broken")

    model.register_forward_pre_hook(fails_when_hooked)
    monkeypatch.setattr(ablations, "_example", lambda model, sequences, name: torch.zeros(1, 3, LENGTH, LENGTH))
    with pytest.raises(RuntimeError, match="broken"):
        probe(model, sequences)
    assert calls
    assert not any(point.has_hooks() for point in model.hook_dict.values())


def test_the_model_stays_as_it_is():
    model = MODELS["plain"]()
    sequences = sequences_for(model, 4)
    before = model(sequences.tokens[:, :-1])
    ablate_heads(model, sequences, method="resample")
    ablate_positions(model, sequences)
    assert torch.equal(model(sequences.tokens[:, :-1]), before)


def test_what_is_refused():
    model = MODELS["augmented, deep"]()
    sequences = sequences_for(model, 4)
    with pytest.raises(ValueError, match="method must be one of 'zero', 'mean', 'resample', got 'knockout'"):
        ablate_heads(model, sequences, method="knockout")
    with pytest.raises(ValueError, match="layers must be at most 2, got 3"):
        ablate_heads(model, sequences, layers=[3])
    with pytest.raises(ValueError, match="layers is empty; leave it out for all"):
        ablate_heads(model, sequences, layers=[])
    with pytest.raises(ValueError, match="layer must be at most 2, got 3"):
        ablate_positions(model, sequences, layer=3)
    with pytest.raises(ValueError, match="offsets must be at most 5, got 6"):
        ablate_positions(model, sequences, offsets=[6])
    with pytest.raises(ValueError, match="sequences must hold at least 2 sequences for this probe, got 1"):
        ablate_heads(model, sequences[:1], method="resample")
    with pytest.raises(ValueError, match="contexts must be at least 2 inputs long, got 1"):
        ablate_positions(model, HAAR.sample(4, 2, seed=0))
    with pytest.raises(ValueError, match="process has dim 5 but the sequences have dim 4"):
        ablate_heads(model, sequences, process=ari.HaarOrthogonal(5))
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        ablate_heads(model, sequences, method="resample", seed=-1)


def test_a_model_without_the_hooks_is_refused():
    sequences = HAAR.sample(4, 4, seed=0)
    with pytest.raises(
        ValueError, match=r"Linear cannot be probed: it lacks run_with_cache, hooks, blocks\.0\.attn\.hook_"
    ):
        ablate_heads(nn.Linear(2, 2), sequences)
    bare = SeparateHeads()
    for name in ("blocks.1.attn.hook_z", "blocks.0.attn.hook_pattern"):
        del bare.hook_dict[name]
    with pytest.raises(ValueError, match=r"it lacks blocks\.1\.attn\.hook_result\|hook_z\. ablate_heads needs"):
        ablate_heads(bare, sequences)
    with pytest.raises(ValueError, match=r"it lacks blocks\.0\.attn\.hook_pattern\. ablate_positions needs"):
        ablate_positions(bare, sequences)
