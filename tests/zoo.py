"""Models and claims made by hand, whose structure is known, and models written outside the package."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import HAAR, N_CTX, D
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import ar_interp as ari
from ar_interp import diagnoses, theory
from ar_interp.claims import Claim, Control, Estimate
from ar_interp.claims.estimate import as_estimate
from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes.function import FunctionDeviation

QK, OV = "blocks.0.attn.QK_blocks", "blocks.0.attn.OV_blocks"

ETA = theory.optimal_step_size(dim=4, max_length=9)


def projector(rank: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0][:, :rank]
    return Q @ Q.T


def model_of(solution, n_heads: int, process, seed: int | None = 3) -> HookedARTransformer:
    A, B = theory.factor_heads(solution.C, n_heads=n_heads, seed=seed)
    return HookedARTransformer.from_diagonal(A, B, solution.P, process=process)


def unitary_model(n_heads: int, scale: float = -1.3) -> HookedARTransformer:
    solution = theory.projector_family(projector(min(n_heads, D)), n_ctx=N_CTX, scale=scale)
    return model_of(solution, n_heads, ari.CommutingUnitary(D))


def orthogonal_model(n_heads: int, kappa: float, scale: float = 1.7) -> HookedARTransformer:
    n_pairs = min(n_heads, D // 2)
    solution = theory.kappa_family(dim=D, kappa=kappa, n_ctx=N_CTX, scale=scale, n_pairs=n_pairs)
    return model_of(solution, n_heads, ari.CommutingOrthogonal(D))


class ForeignWeights(torch.nn.Module):
    """Weights of diagonal heads without a forward pass: those of `model`, spread over Q, K, V and O."""

    def __init__(self, model: HookedARTransformer) -> None:
        super().__init__()
        twos = 2 * torch.eye(D, dtype=torch.float64).expand(1, len(model.A), D, D)
        self.W_Q, self.W_K = twos, model.W_K.detach() / 2
        self.W_O, self.W_V = twos, model.W_V.detach() / 2
        self.P = model.P.detach()


def augmented(process=HAAR, seed: int = 1, **options) -> ari.HookedARTransformer:
    config = ari.ModelConfig.augmented(**{"dim": 4, "n_ctx": 9, "init_scale": 0.2, **options})
    return ari.HookedARTransformer(config, process=process, seed=seed)


def scalar_layer(a, b=(1, 0), *, process, gauge: float = 1, n_ctx: int = 10, **options) -> ari.HookedARTransformer:
    """One augmented layer of block scalars a1..a4, b1, b2, frozen; the gauge changes no product."""
    config = ari.ModelConfig.augmented(dim=process.dim, n_ctx=n_ctx, heads="block-scalar", **options)
    model = ari.HookedARTransformer(config, process=process).requires_grad_(False)
    attn = model.blocks[0].attn
    attn.QK_blocks[0, 1:, 1:] = gauge * torch.as_tensor(a, dtype=torch.float64).reshape(2, 2)
    attn.OV_blocks[0, 1:, 0] = torch.as_tensor(b, dtype=torch.float64) / gauge
    return model


def optimal(process, gauge: float = 1) -> ari.HookedARTransformer:
    """The layer of least loss over contexts up to 10."""
    best = theory.block_scalar_minimum(dim=process.dim, max_length=10, conjugate_pairs=process.conjugate_pairs)
    return scalar_layer(best.a, best.b, process=process, gauge=gauge)


def one_gradient_step(eta: float, process=HAAR) -> ari.HookedARTransformer:
    """a2 = eta and b1 = 1, for contexts up to 9."""
    return scalar_layer([0, eta, 0, 0], process=process, n_ctx=9, init_scale=0)


def edited(model, edit):
    """The diagonal model with `edit` made of its A, B and P."""
    weights = [x.detach().clone() for x in (model.A, model.B, model.P)]
    return ari.HookedARTransformer.from_diagonal(*edit(*weights), process=model.process)


def with_row(X: torch.Tensor, row: int, value) -> torch.Tensor:
    X[row] = value
    return X


def step(eta: float = ETA, process=None, *, a1: float = 0, a3: float = 0, a4: float = 0) -> ari.HookedARTransformer:
    """One gradient step, d = 4, contexts up to 9, and other products beside it."""
    return scalar_layer([a1, eta, a3, a4], process=process or ari.CommutingUnitary(4), n_ctx=9, init_scale=0)


@cache
def turned_signs():
    """Full matrices in another gauge of signs, and blocks that are none too even."""
    model = augmented(ari.CommutingUnitary(4), heads="full", init_scale=0)
    signs = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64).diag()
    with torch.no_grad():
        attn = model.blocks[0].attn
        attn.W_Q[0, 4:8, :4] = ETA * signs
        attn.W_K[0, 8:, :4] = torch.eye(4)
        attn.W_V[0, 4:8, :4] = signs
        attn.W_O[0, :4, :4] = torch.eye(4)
    return model


def best_step(process) -> ari.HookedARTransformer:
    """The best block scalars of another process, said to be of the unitary family."""
    a1, a2, a3, a4 = diagnoses.best_products(process, 9, "linear")[:, 0]
    return step(a2, a1=a1, a3=a3, a4=a4)


def copying() -> ari.HookedARTransformer:
    """A model that predicts s_T again, whatever the context."""
    model = augmented(unembed=True, init_scale=0)
    with torch.no_grad():
        model.unembed.W_U[4:8] = torch.eye(4)
    return model


def claim(**changes) -> Claim:
    """A claim that holds, but for the changes; `measured`, `control` and `uncertainty` are of its estimates."""
    values = {
        "name": "heads/a",
        "evidence": "weights",
        "statement": "a",
        "source": "b",
        "predicted": 1.0,
        "tolerance": 0.1,
        "reason": "r",
        "measured": Estimate(1.05),
        "control": 2.0,
    }
    values |= changes
    measured, control = (as_estimate(values.pop(name)) for name in ("measured", "control"))
    return Claim(estimate=measured, control=Control(description="c", estimate=control), **values)


@contextmanager
def known_function() -> Iterator[None]:
    """Every model computes what its weights say, and nobody looks."""
    known = FunctionDeviation(checks={"closed form": 0.0}, changed=1e9, n=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ar_interp.probes.function.function_deviation", lambda *_, **__: known)
        yield


class Exposed(HookedRootModule):
    """Says at the end of each block what it is told to say: a function of the tokens."""

    def __init__(self, *functions):
        super().__init__()
        self.functions = functions
        self.blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"hook_resid_post": HookPoint()}) for _ in functions])
        self.setup()

    def forward(self, tokens):
        for block, function in zip(self.blocks, self.functions, strict=True):
            block["hook_resid_post"](function(tokens))
        return tokens


def table(values):
    """A hook that holds, at every position, what stands in the table under the number of the sequence."""
    rows = torch.from_numpy(np.asarray(values, dtype=float))
    return lambda tokens: rows[tokens[:, 0, 0].long()][:, None].expand(-1, tokens.shape[1], -1)


def tabled(values):
    return Exposed(table(values))


def trained_like(config: ModelConfig, seed: int = 0, scale: float = 0.6) -> HookedARTransformer:
    """No parameter is zero or one, LayerNorm and inert blocks included; frozen, in evaluation mode."""
    model = HookedARTransformer(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


# ---- foreign models: nothing of ours but the names in `probes.protocol`


class Attention(nn.Module):
    """Linear attention with full weight matrices, one head after the other."""

    def __init__(self, W_Q, W_K, W_V, W_O, P):
        super().__init__()
        self.W_Q, self.W_K, self.W_V, self.W_O, self.P = W_Q, W_K, W_V, W_O, P
        for name in ("v", "attn_scores", "pattern", "z"):
            setattr(self, f"hook_{name}", HookPoint())

    def forward(self, x):
        weights = [W.to(x.dtype) for W in (self.W_Q, self.W_K, self.W_V, self.W_O)]
        q, k, v = (torch.einsum("bti,hij->bthj", x, W) for W in weights[:3])
        scores = torch.zeros(len(x), len(self.W_Q), x.shape[1], x.shape[1], dtype=x.dtype)
        scores[:, :, 1:] = torch.einsum("bthi,bshi->bhts", q[:, :-1].conj(), k)
        rows = torch.zeros_like(self.P)
        rows[1:] = self.P[:-1].tril(1)
        scores = self.hook_attn_scores(scores.tril())
        pattern = self.hook_pattern(scores * rows[: x.shape[1], : x.shape[1]])
        z = self.hook_z(torch.einsum("bhts,bshj->bthj", pattern, self.hook_v(v)))
        return torch.einsum("bthj,hji->bti", z, weights[3])


def rotations(*shape):
    return torch.linalg.qr(torch.randn(*shape, dtype=torch.float64))[0]


class OneLayer(HookedRootModule):
    """The weights of `blocks[0]`, where probes look for them."""

    attn = property(lambda self: self.blocks[0]["attn"])
    W_Q = property(lambda self: self.attn.W_Q[None])
    W_K = property(lambda self: self.attn.W_K[None])
    W_V = property(lambda self: self.attn.W_V[None])
    W_O = property(lambda self: self.attn.W_O[None])


class ForeignDiagonal(OneLayer):
    """Diagonal heads A, B with positions P, in any basis inside the heads."""

    def __init__(self, A, B, P):
        super().__init__()
        d = A.shape[1]
        turns = rotations(2, len(A), d, d)  # any inside the heads
        attn = Attention(turns[0], torch.diag_embed(A) @ turns[0], torch.diag_embed(B) @ turns[1], turns[1].mT, P)
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attn, "hook_attn_out": HookPoint()})])
        self.setup()

    P = property(lambda self: self.attn.P)

    def forward(self, tokens):
        return self.blocks[0]["hook_attn_out"](self.attn(tokens))


class AugmentedAttention(nn.Module):
    """One head of linear attention, read through its key-value state; keys are conjugated."""

    def __init__(self, W_Q, W_K, W_V, W_O):
        super().__init__()
        self.W_Q, self.W_K, self.W_V, self.W_O = (nn.Parameter(W) for W in (W_Q, W_K, W_V, W_O))
        for name in ("q", "k", "v", "attn_scores", "pattern", "kv_state", "z", "result"):
            setattr(self, f"hook_{name}", HookPoint())

    def forward(self, x):
        q, k, v = (
            hook(torch.einsum("btm,hmi->bthi", x, W.to(x.dtype)))
            for hook, W in ((self.hook_q, self.W_Q), (self.hook_k, self.W_K), (self.hook_v, self.W_V))
        )
        scores = self.hook_attn_scores(torch.einsum("bthi,bshi->bhts", q, k.conj()).tril())
        z = torch.einsum("bhts,bshj->bthj", self.hook_pattern(scores), v)
        state = torch.einsum("bthi,bthj->bthij", k.conj(), v).cumsum(1)
        z = z + torch.einsum("bthi,bthij->bthj", q, self.hook_kv_state(state) - state)  # what a hook changes of it
        return self.hook_result(torch.einsum("bthi,him->bthm", self.hook_z(z), self.W_O.to(x.dtype))).sum(2)


class GradientStep(OneLayer):
    """s_T asks the keys s_{t-1} and is answered with eta s_t, written where the prediction is read."""

    def __init__(self, *, dim, step_size):
        super().__init__()
        form = {"attention": "linear", "linear": True, "biases": False, "layer_norm": False}
        self.config = SimpleNamespace(encoding="augmented", dim=dim, n_layers=1, **form)
        asks, writes = rotations(2, dim, dim)  # any inside the head
        W_Q, W_K, W_V, W_O = torch.zeros(4, 3 * dim, dim, dtype=torch.float64)
        W_Q[dim : 2 * dim] = W_K[2 * dim :] = asks
        W_V[dim : 2 * dim] = step_size * writes
        W_O[:dim] = writes
        attn = AugmentedAttention(W_Q[None], W_K[None], W_V[None], W_O.mT[None])
        hooks = {f"hook_{name}": HookPoint() for name in ("resid_pre", "attn_out", "resid_post")}
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attn, **hooks})])
        self.hook_embed = HookPoint()
        self.W_U = torch.eye(3 * dim, dim, dtype=torch.float64)
        self.setup()

    def forward(self, tokens):
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        resid = self.hook_embed(torch.cat([torch.zeros_like(tokens), tokens, before], dim=-1))
        block = self.blocks[0]
        resid = block["hook_resid_pre"](resid)
        return self.read_out(block["hook_resid_post"](resid + block["hook_attn_out"](self.attn(resid))))

    def read_out(self, resid):
        return resid @ self.W_U.to(resid.dtype)


class ForeignAugmented(HookedRootModule):
    """One layer of linear attention with three heads, written without the package."""

    def __init__(self, W_Q, W_K, W_V, W_O):
        super().__init__()
        self.W_Q, self.W_K, self.W_V, self.W_O = W_Q, W_K, W_V, W_O
        self.dim = W_Q.shape[2] // 3
        self.W_U = torch.eye(3 * self.dim, self.dim, dtype=W_Q.dtype)
        self.config = SimpleNamespace(encoding="augmented", linear=True, biases=False, layer_norm=False)
        attn = nn.Module()
        attn.hook_q, attn.hook_k, attn.hook_v = HookPoint(), HookPoint(), HookPoint()
        attn.hook_attn_scores, attn.hook_pattern, attn.hook_z = HookPoint(), HookPoint(), HookPoint()
        block = nn.Module()
        block.attn, block.hook_resid_pre, block.hook_attn_out = attn, HookPoint(), HookPoint()
        self.blocks = nn.ModuleList([block])
        self.setup()

    def forward(self, tokens):
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        block = self.blocks[0]
        x = block.hook_resid_pre(torch.cat([torch.zeros_like(tokens), tokens, before], dim=-1))
        q, k, v = (
            hook(torch.einsum("bti,hij->bthj", x, W[0]))
            for hook, W in (
                (block.attn.hook_q, self.W_Q),
                (block.attn.hook_k, self.W_K),
                (block.attn.hook_v, self.W_V),
            )
        )
        pattern = block.attn.hook_attn_scores(torch.einsum("bthi,bshi->bhts", q, k).tril())
        z = block.attn.hook_z(torch.einsum("bhts,bshi->bthi", block.attn.hook_pattern(pattern), v))
        return (x + block.hook_attn_out(torch.einsum("bthi,hij->btj", z, self.W_O[0])))[..., : self.dim]


def foreign_and_ours() -> tuple[ForeignAugmented, ari.HookedARTransformer]:
    """The same weights twice."""
    ours = augmented(n_heads=3, d_head=5)
    return ForeignAugmented(*(getattr(ours, f"W_{part}").detach() for part in "QKVO")), ours
