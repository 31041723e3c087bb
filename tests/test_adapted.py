"""A model of somebody else, with names, an embedding and an output of its own: adapted, tried, probed and verified."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import ar_interp as ari
from ar_interp.probes import protocol
from ar_interp.probes.jacobian import full_jacobian

pytestmark = pytest.mark.usefixtures("without_type_checks")

PROCESS, N_CTX, WIDTH, HEADS = ari.HaarOrthogonal(3), 6, 8, 2
HOOKS = {
    "hook_embed": "hook_start",
    "blocks.{layer}.attn.hook_k": "layers.{layer}.hook_key",
    "blocks.{layer}.attn.hook_v": "layers.{layer}.hook_value",
    "blocks.{layer}.attn.hook_pattern": "layers.{layer}.hook_weights",
    "blocks.{layer}.attn.hook_attn_scores": "layers.{layer}.hook_logits",
    "blocks.{layer}.attn.hook_z": "layers.{layer}.hook_mixed",
    "blocks.{layer}.hook_attn_out": "layers.{layer}.hook_attended",
    "blocks.{layer}.hook_resid_post": "layers.{layer}.hook_out",
}


class Layer(nn.Module):
    """Softmax attention and an MLP, both behind a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.queries, self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        for name in ("key", "value", "logits", "weights", "mixed", "attended", "out"):
            setattr(self, f"hook_{name}", HookPoint())

    def forward(self, x):
        q, k, v = (part(self.first(x)).unflatten(-1, (HEADS, -1)) for part in (self.queries, self.keys, self.values))
        k, v = self.hook_key(k), self.hook_value(v)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        logits = self.hook_logits(torch.einsum("bthi,bshi->bhts", q, k).masked_fill(later, -torch.inf))
        mixed = self.hook_mixed(torch.einsum("bhts,bshi->bthi", self.hook_weights(logits.softmax(-1)), v))
        x = x + self.hook_attended(self.out(mixed.flatten(2)))
        return self.hook_out(x + self.mlp(self.second(x)))


class Mine(HookedRootModule):
    """An embedding wider than the tokens, learned positions, two layers; gives predictions and the stream."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.head = nn.Linear(PROCESS.dim, WIDTH), nn.Linear(WIDTH, PROCESS.dim)
        self.positions = nn.Parameter(0.1 * torch.randn(N_CTX, WIDTH))
        self.layers, self.hook_start = nn.ModuleList([Layer(), Layer()]), HookPoint()
        self.setup()

    def forward(self, tokens):
        x = self.hook_start(self.embedding(tokens) + self.positions[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x)
        return self.head(x), x

    def _weights(self, name):
        return torch.stack([getattr(layer, name).weight.T.unflatten(1, (HEADS, -1)) for layer in self.layers])

    W_Q = property(lambda self: self._weights("queries").transpose(1, 2))
    W_K = property(lambda self: self._weights("keys").transpose(1, 2))
    W_V = property(lambda self: self._weights("values").transpose(1, 2))
    W_O = property(lambda self: torch.stack([layer.out.weight.T.unflatten(0, (HEADS, -1)) for layer in self.layers]))


def first(output):
    return output[0]


@pytest.fixture(scope="module")
def mine():
    """Trained by a loop of its own."""
    model = Mine()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(30):
        contexts = PROCESS.contexts(64, N_CTX, seed=step, dtype=torch.float32)
        loss = contexts.losses(model(contexts.inputs)[0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def adapted(mine):
    options = {"hooks": HOOKS, "predict": first, "untrained": lambda seed: Mine(seed + 1)}
    return ari.adapt(mine, process=PROCESS, n_ctx=N_CTX, **options)


def why_not(model, **options):
    return ari.conformance(model, **options).set_index("probe")["why_not"]


def test_all_that_is_said_to_be_usable_is(adapted):
    """The calls are run as they are said; what is not usable says why not."""
    frame = ari.conformance(adapted)
    assert frame["usable"].eq(frame["why_not"] == "").all()
    assert set(frame["probe"][~frame["usable"]]) == {
        "attribute", "augmented_blocks", "chain_accuracy", "continue_chain", "exact_circuit", "excess_by_tasks",
        "head_orthogonality", "kernel_structure", "read_sources",
        "path_contributions", "positional_structure", "query_jacobian", "risks_by_length", "risks_by_order",
    }  # fmt: skip
    known = {name: getattr(ari, name) for name in ("verify", "conformance")}
    for module in ("jacobian", "blocks", "function", "steps", "last_token", "noise"):
        known |= vars(__import__(f"ar_interp.probes.{module}", fromlist=["x"]))
    known |= {name: getattr(ari, name) for name in protocol.PROTOCOL if hasattr(ari, name)}
    sequences, other = (PROCESS.contexts(120, N_CTX, seed=seed) for seed in (0, 1))
    known |= {"model": adapted, "sequences": sequences, "source": other, "target": sequences}
    known |= {
        "noisy": ari.HaarOrthogonal(3, process_noise=0.1),
        "tokens": sequences.inputs[:3],
        "hook": "blocks.1.hook_resid_post",
        "hypothesis": [0],
    }
    for call in frame["call"][frame["usable"]]:
        for asked, given in {"hook": "hook", "hypothesis": "hypothesis", "process": "noisy"}.items():
            call = call.replace(f"{asked}=...", f"{asked}={given}")
        eval(call, known)


def test_it_is_seen_through_its_own_hooks(mine, adapted):
    inputs = PROCESS.contexts(4, N_CTX, seed=0).inputs
    predictions, cache = adapted.run_with_cache(inputs)
    single = inputs.float()
    assert torch.equal(predictions, mine(single)[0])
    assert torch.equal(cache["blocks.1.hook_resid_post"], mine(single)[1])
    assert torch.equal(adapted.read_out(cache["blocks.1.hook_resid_post"]), predictions)
    assert cache["blocks.0.attn.hook_pattern"].sum(-1).sub(1).abs().max() < 1e-6
    assert not any(hook.has_hooks() for hook in mine.hook_points())
    naive = [torch.autograd.functional.jacobian(lambda row: mine(row[None])[0][0, 3], row)[:, 3] for row in single]
    torch.testing.assert_close(full_jacobian(adapted, inputs)[:, 3].float(), torch.stack(naive), rtol=1e-5, atol=1e-6)


def test_verify_has_the_row_of_every_model(adapted):
    claims = ari.verify(adapted, seed=0, n=32)
    assert claims["model/function"].verdict == "holds"
    assert "no part of theory" in claims.why_not


def test_what_it_does_not_know_is_asked_for(mine):
    adapted = ari.adapt(mine, dim=3, n_ctx=N_CTX, hooks=HOOKS, predict=first)
    calls = ari.conformance(adapted).set_index("probe")["call"]
    assert calls["identify_algorithm"] == "identify_algorithm(model, sequences, process=...)"
    assert calls["probe_activations"] == "probe_activations(model, sequences, untrained=...)"
    assert calls["recover_context"] == "recover_context(model, sequences, kind='full')"
    assert calls["swap_context"] == "swap_context(model, source, target, what='keys and values')"


def test_a_shape_that_does_not_fit_is_no_use(mine):
    wrong = HOOKS | {"blocks.{layer}.attn.hook_pattern": "layers.{layer}.hook_mixed"}
    del wrong["blocks.{layer}.attn.hook_z"]
    reasons = why_not(ari.adapt(mine, process=PROCESS, n_ctx=N_CTX, hooks=wrong, predict=first))
    assert reasons["ablate_positions"] == (
        "blocks.0.attn.hook_pattern is [2, 6, 2, 4], and must be [batch head query key], with batch 2 by its tokens, "
        "head 2 by blocks.0.attn.hook_k, query 6 by its tokens, key 6 by its tokens"
    )
    assert reasons["ablate_layers"] == ""
    augmented = ari.adapt(mine, process=PROCESS, n_ctx=N_CTX, hooks=HOOKS, predict=first, encoding="augmented")
    assert "must be [batch pos d_model], with batch 2 by its tokens, pos 6" in why_not(augmented)["query_jacobian"]


def test_a_run_that_fails_is_no_use(adapted):
    longer = ari.HaarOrthogonal(4).contexts(2, N_CTX, seed=0)
    reasons = why_not(adapted, sequences=longer)
    assert reasons["verify"].startswith("its forward pass fails on tokens [2, 6, 4] float64: RuntimeError: ")
    with pytest.raises(ValueError, match="contexts must be at most n_ctx = 6 inputs long, got 7"):
        ari.recover_context(adapted, PROCESS.contexts(2, 7, seed=0), kind="full")
    with pytest.raises(ValueError, match="sequences must be contexts to try the model on, got Tensor: make two with"):
        ari.conformance(adapted, longer.inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": nn.Linear(3, 3)}, "model must be a transformer_lens HookedRootModule, got Linear: derive from it"),
        ({"model": "diagonal-unitary-h5"}, "must be a transformer_lens HookedRootModule, got str"),
        ({"model": HookedRootModule()}, r"HookedRootModule has no hooks: .* call self.setup\(\)"),
        ({"process": None}, "dim or process is needed to know the size of a token"),
        ({"process": "haar"}, "process must be an AutoregressiveProcess, .* got 'haar'"),
        ({"dim": 4}, "process has dim 3 but dim is 4; they must agree"),
        ({"n_ctx": None}, "n_ctx is needed, the longest context that the model takes"),
        ({"n_ctx": 7}, r"the model fails on tokens \[2, 7, 3\], real: RuntimeError: .* must take every length up to"),
        ({"process": ari.CommutingUnitary(3)}, r"fails on tokens \[2, 6, 3\], complex: .*; pass embed=\.\.\. where"),
        ({"predict": None}, r"the model gives tuple for .* pass predict=\.\.\., e\.g\. .*output\[\.\.\., :3\]"),
        ({"predict": lambda output: output[1]}, r"the model gives \[2, 6, 8\] for"),
        ({"predict": lambda output: output[0] / 0}, "the model gives NaN or infinite predictions"),
        ({"predict": lambda output: torch.rand_like(output[0])}, "predicts something else at a second call"),
        ({"hooks": {"blocks.{layer}.hook_resid_pots": "hook_start"}}, "which no probe reads. Did you mean '.*post'"),
        ({"hooks": {"hook_embed": "hook_strat"}}, "the model has no hook 'hook_strat', .* mean 'hook_start'"),
        ({"hooks": {"hook_embed": "layers.{layer}.hook_out"}}, r"must have \{layer\} in both names or in none"),
        ({"hooks": ["hook_start"]}, "hooks must map names to names of hooks of the model, got list"),
        ({"heads_number": 2}, "adapt takes no 'heads_number'; what it may be told of the model is encoding, dim"),
        ({"process": ari.HaarOrthogonal}, "process must be an AutoregressiveProcess"),
        ({"embed": "tokens"}, "embed must be a function, got str"),
        ({"untrained": Mine()}, "untrained must be a function, got Mine"),
        ({"n_layers": "two"}, "n_layers must be an integer, got 'two'"),
        ({"encoding": "learned"}, "encoding must be one of 'plain', 'augmented', got 'learned'"),
        ({"attention": True}, "attention must be a name, such as 'softmax' or 'linear', got True"),
    ],
)
def test_wrong_calls_say_what_to_pass(mine, changes, message):
    options = {"model": mine, "process": PROCESS, "n_ctx": N_CTX, "predict": first} | changes
    with pytest.raises(ValueError, match=message):
        ari.adapt(**options)


def test_a_model_with_these_names_is_adapted_by_one_call():
    model = HookedRootModule()
    model.cfg = SimpleNamespace(n_ctx=4)
    model.blocks = nn.ModuleList([nn.ModuleDict({"hook_resid_post": HookPoint()})])
    model.scale = nn.Parameter(torch.tensor(0.5))
    model.forward = lambda tokens: model.blocks[0]["hook_resid_post"](model.scale * tokens)
    model.setup()
    adapted = ari.adapt(model, process=PROCESS)
    recovered = ari.recover_context(adapted, PROCESS.contexts(5, 4, seed=0), kind="full")
    assert torch.equal(recovered.estimate, 0.5 * torch.eye(3).expand(5, 4, 3, 3))
    assert isinstance(ari.conformance(adapted), pd.DataFrame)
    with pytest.raises(ValueError, match="type Adapted has these names already: pass it to probes as it is"):
        ari.adapt(adapted, process=PROCESS)
    control = ari.adapt(model, process=PROCESS, untrained=lambda seed: model)
    with pytest.raises(ValueError, match=r"untrained\(seed\) must give a new model .*, got the model itself"):
        control.untrained(0)
