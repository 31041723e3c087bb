"""Claims and figures of every model, whether theory speaks of it or not, and the words for what they show."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Measured, Subject, claim
from ar_interp.processes import Sequences
from ar_interp.studies.base import Exhibit, Structure, Study

PARTS = {
    "closed form": "its prediction beside the closed form of its weights",
    "clean copy": "its hooks beside those of a clean model of the same weights",
    "hooks": "what hooks do",
    "Gaussian tokens": "tokens of no process",
    "longer contexts": "the longest contexts",
    "derivative": "its derivative",
}


def claims(subject: Subject, earlier: tuple[Tensor, Tensor] | None = None) -> Iterator[Claim]:
    """The model computes what its weights say, and nothing else.

    Args:
        earlier: tokens, and what the model predicted there before anything else was asked.
    """
    from ar_interp.models.opened import as_model
    from ar_interp.probes.function import function_deviation

    contexts, process, n_ctx = None, subject.process, as_model(subject.model).n_ctx
    if process is not None and n_ctx is not None:  # those that errors are measured on, too
        dtype = getattr(subject.config, "torch_dtype", torch.float64)
        n, seed = subject.size(Measured.NEEDED), subject.seed_of(Measured.SEED)
        contexts = process.contexts(n, n_ctx, seed=seed, dtype=dtype).inputs
    seed = subject.seed_of(seeds.FUNCTION)
    found = function_deviation(subject.model, process=process, contexts=contexts, earlier=earlier, seed=seed)
    exact = "closed form" not in found.untested
    left_out = "; ".join(f"{PARTS[part]}, since {why}" for part, why in found.untested.items())
    gaussian = "on Gaussian tokens and " * ("Gaussian tokens" not in found.untested)
    statement = (
        f"The model computes {'what its weights say' if exact else 'one function'}, and nothing else: {gaussian}on "
        f"sequences of the process its prediction is {'the closed form of its weights, and ' * exact}the same in any "
        "batch, after other calls, before other tokens and under hooks that do nothing (largest deviation, in units of "
        "rounding)."
    )
    yield claim(
        "model/function",
        statement + (f" Not tested: {left_out}." if left_out else ""),
        evidence="behaviour",
        source="the definition of the model" if exact else "the definition of a causal model",
        tolerance="function",
        measured=Estimate(found.largest, n=found.n),
        control=(
            "the closed form with the weight that matters least changed by a hundredth"
            if exact
            else "the predictions of other sequences",
            found.changed,
        ),
    )


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp.studies import behaviour_exhibits, intervention_exhibits, weights_exhibits

    every = (*behaviour_exhibits.EXHIBITS, *weights_exhibits.EXHIBITS, *intervention_exhibits.EXHIBITS)
    return tuple(exhibit if exhibit.evidence == "training" else _of_sequences(exhibit) for exhibit in every)


def _of_sequences(exhibit: Exhibit) -> Exhibit:
    """The exhibit, of models of sequences alone: it shows tokens and the W that made them."""

    def applies(subject: Subject) -> bool:
        return bool(subject.process is not None and subject.process.makes is Sequences and exhibit.applies(subject))

    return replace(exhibit, applies=applies)


STRUCTURES = {
    "model": Structure(
        title="The function of the weights",
        meaning="What is read from weights and moved with hooks says something of the predictions only if these are "
        "made by the weights, through the hooks, and by nothing else. So the model is compared with the closed form of "
        "its own weights, computed apart, with a clean model of the same weights, and with itself: alone and in a "
        "batch, in another order, before other tokens, after other calls, under hooks that do nothing.",
        formulas=(
            "A layer makes x_t → [x_t] + LayerNorm(Σ_h Σ_{t' ≤ t} pattern_h(t, t') (x_{t'}, 1) W_V W_O), with scores "
            "(x_{t - lag}, 1) W_Q W_K^T (x_{t'}, 1)^T; biases are the rows of the weights for the coordinate 1.",
            "Deviation: |prediction - closed form| at a position over |closed form| there, in units of 1e-9 (double "
            "precision) or 1e-4 (single).",
        ),
    ),
    "loss": Structure(
        title="How well it predicts",
        meaning="How far predictions are from the next token, beside the smallest error that theory allows a model of "
        "this kind, or, where theory has none, the best that is known. A model that reaches it has nothing "
        "left to learn, and what is found inside is how the problem is solved.",
        formulas=(
            "Losses are means over context lengths T of |prediction - s_{T+1}|^2, summed over the d coordinates.",
            "Diagonal heads: prediction_{j} = Σ_t p_t Σ_i C_{ji} conj(s_{T-1,i}) s_{t,i} s_{t,j}, C = B^T A.",
            "Independent eigenvalues: E|prediction - s_{T+1}|^2 = |C|^2 Σ_{t ≠ T-1} p_t^2 + p_{T-1}^2 Σ_j (Σ_i "
            "C_{ji})^2 - 2 p_T tr C + d, at least d - min(H, d) with H heads.",
            "Conjugate pairs (j, j'), with Q = Σ_{t ≠ T-1} p_t and Q_2 = Σ_{t ≠ T-1} p_t^2: Σ_j (p_T C_{jj} - 1)^2 + "
            "(Σ_{t ≤ T-2} p_t^2) Σ_j C_{jj}^2 + Q_2 Σ_j Σ_{i ≠ j, j'} C_{ji}^2 + Σ_j (p_{T-1} Σ_i C_{ji} + Q "
            "C_{jj'})^2, at least max(d - 2 H, 0).",
            "If W and -W have the same law, bias-free linear attention that asks with s_T has the wrong parity under "
            "s_t → (-1)^{t-1} s_t, and no weights beat predicting zero.",
        ),
    ),
    "outside": Structure(
        title="Outside the training law",
        meaning="A model that has learned a rule follows it where it was never trained: under noise, on tokens of "
        "another norm or another first token, for W off the unit circle, in longer contexts. What it gets wrong there "
        "tells rules apart that agree on the training law: one that uses the last pair from least squares over all, a "
        "conjugate from an inverse, a step of fixed size from one that fits the tokens.",
        formulas=(
            "Diagonal heads use conj(s_{T-1}) for the inverse of s_{T-1}: for tokens r times as long and |lambda| = ρ "
            "the prediction is r^2 ρ^{2T-4} (s_{T+1} + kappa (ρ^2 - 1) s_{T-1}).",
            "Weak noise of size σ in each of d coordinates: E|prediction - s_{T+1}|^2 = 2 d (T - 1) σ^2 for the last "
            "pair by the conjugate, d σ^2 (1 + 1/(T - 1)) for least squares over all pairs.",
            "One gradient step of size eta on tokens r times as long is one of size r^2 eta; so is it for |lambda| ≠ 1 "
            "with w_t = ρ^{2t+T-2} in place of 1: d r^2 [(ρ^T - eta r^2 Σ_t w_t)^2 + (d - 1) eta^2 r^4 Σ_t w_t^2].",
            "Blocks that are multiples of the identity know no directions: f(Q s) = Q f(s) for every orthogonal Q.",
        ),
    ),
    "estimate": Structure(
        title="The estimate of W",
        meaning="Before it can predict, the model must hold an estimate Ŵ of this sequence's own W. It is read from "
        "inside and compared with W, and with what statistics would make of the same context; where all of it "
        "lies in one place it is also moved to another sequence: a model that uses it must then predict with "
        "the W that was moved.",
        formulas=(
            "Ŵ_T is the matrix that the model applies to the last token s_T, keys and values as they are.",
            "Least squares (OLS) on the T - 1 pairs seen; for Haar W its error is E|prediction - s_{T+1}|^2 = "
            "max(0, d - T + 1)/d, which no estimator beats.",
            "Moved estimate: moved = score · W_{source} s_T + kept · (own prediction) + rest, by least squares over "
            "pairs of sequences. Nothing moved is (score, kept) = (0, 1), all (1, 0), a prediction erased (0, 0).",
        ),
    ),
}

STUDY = Study(
    name="any model",
    source="",
    question="What does the model hold, and what does it do with it?",
    covers=lambda setting: True,
    claims=claims,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
