"""A model written outside the package, with nothing of ours but the names a conforming model has."""

import pytest
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import ar_interp as ari
from ar_interp.probes.context import SCORES
from ar_interp.theory import factor_heads, kappa_family


class Attention(nn.Module):
    """Linear attention with full weight matrices, one head after the other."""

    def __init__(self, W_Q, W_K, W_V, W_O, P):
        super().__init__()
        self.W_Q, self.W_K, self.W_V, self.W_O, self.P = W_Q, W_K, W_V, W_O, P
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()

    def forward(self, x):
        weights = [W.to(x.dtype) for W in (self.W_Q, self.W_K, self.W_V, self.W_O)]
        q, k, v = (torch.einsum("bti,hij->bhtj", x, W) for W in weights[:3])
        scores = torch.zeros(len(x), len(self.W_Q), x.shape[1], x.shape[1], dtype=x.dtype)
        scores[:, :, 1:] = torch.einsum("bhti,bhsi->bhts", q[:, :, :-1].conj(), k)
        rows = torch.zeros_like(self.P)
        rows[1:] = self.P[:-1].tril(1)
        scores = self.hook_attn_scores(scores.tril())
        pattern = self.hook_pattern(scores * rows[: x.shape[1], : x.shape[1]])
        return torch.einsum("bhts,bhsj,hji->bti", pattern, v, weights[3])


class Foreign(HookedRootModule):
    def __init__(self, A, B, P):
        super().__init__()
        d = A.shape[1]
        turns = torch.linalg.qr(torch.randn(2, len(A), d, d, dtype=torch.float64))[0]  # any rotation inside the heads
        attn = Attention(turns[0], torch.diag_embed(A) @ turns[0], torch.diag_embed(B) @ turns[1], turns[1].mT, P)
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attn})])
        self.setup()

    @property
    def attn(self):
        return self.blocks[0]["attn"]

    W_Q = property(lambda self: self.attn.W_Q[None])
    W_K = property(lambda self: self.attn.W_K[None])
    W_V = property(lambda self: self.attn.W_V[None])
    W_O = property(lambda self: self.attn.W_O[None])
    P = property(lambda self: self.attn.P)

    def forward(self, tokens):
        return self.attn(tokens)


@pytest.fixture(scope="module")
def foreign():
    torch.manual_seed(0)
    solution = kappa_family(dim=6, kappa=1.0, n_ctx=8, scale=1.4)
    return Foreign(*factor_heads(solution.C, n_heads=3, seed=1), solution.P)


@pytest.fixture(scope="module")
def process():
    return ari.CommutingOrthogonal(6)


def test_every_claim_can_be_made_of_it(foreign, process):
    claims = ari.verify(foreign, process=process)
    assert [claim.statement for claim in claims if claim.verdict == "fails"] == []
    assert sum(claim.verdict == "holds" for claim in claims) >= 12


def test_its_estimate_of_W_is_recovered(foreign, process):
    sequences = process.sample(60, 9, seed=0)
    control = ari.HookedARTransformer(ari.ModelConfig.diagonal(dim=6, n_heads=3, n_ctx=8), seed=9)
    recovered = ari.recover_context(foreign, sequences, probe_hook=SCORES, untrained=control)
    torch.testing.assert_close(recovered.estimate[:, 1:], sequences.W[:, None].expand(-1, 7, -1, -1))
    assert recovered.readouts[1].r2 < 0.05 < 0.9 < recovered.readouts[1].untrained_r2


def test_sabotage_of_it_fails(foreign, process):
    broken = Foreign(foreign.attn.W_K.diagonal(0, -2, -1), torch.ones(3, 6, dtype=torch.float64), foreign.P)
    assert not ari.verify(broken, process=process).passed


def test_a_control_must_be_given_where_none_can_be_made(foreign, process):
    with pytest.raises(ValueError, match="untrained must be given: Foreign cannot make its own control"):
        ari.recover_context(foreign, process.sample(60, 9, seed=0), probe_hook=SCORES)


def test_what_is_missing_is_named(process):
    with pytest.raises(ValueError, match="Linear cannot be probed: it lacks W_V, W_O, run_with_cache"):
        ari.recover_context(nn.Linear(2, 2), process.sample(4, 9, seed=0))
