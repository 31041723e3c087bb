"""Claims about one augmented linear-attention layer: it takes one step of gradient descent, and what else it does."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ar_interp.claims.core import Claim, claim
from ar_interp.claims.general import N_SEQUENCES as N_FRESH
from ar_interp.claims.general import GeneralMeasured, GeneralSubject
from ar_interp.claims.removal import step_removal_claim
from ar_interp.probes.blocks import split_blocks
from ar_interp.probes.context import recover_context
from ar_interp.processes import CommutingProcess
from ar_interp.setting.sampled import N_SEQUENCES, best_block_scalars
from ar_interp.theory import (
    block_scalar_minimum,
    haar_one_step_minimum,
    haar_step_size,
    one_step_minimum,
    optimal_step_size,
)

STEP = "Sander et al. 2024, augmented tokens; exact step size by counting modes"
PAIRS = "not in Sander et al. 2024: conjugate pairs reach the target through the partner too; by counting modes"
HAAR = "one gradient step on Haar W by moments of traces; best block scalars by least squares on sequences"
GAUGE = "diagonal W commutes with diagonal signs D, so that D Ŵ D errs as Ŵ does"
STEP_PRODUCT, BACK_PRODUCT = (1, 0), (2, 0)  # a2 b1 and a3 b1
RECOVERED_SEQUENCES = 256


def augmented_claims(subject: GeneralSubject, *, exact: bool) -> list[Claim]:
    """Of a single layer with a single linear head.

    Args:
        exact: trained on the exact loss, so that its weights should have the theory's digits.
    """
    if not isinstance(subject.process, CommutingProcess):
        return _haar_claims(subject)
    claims = _loss_claims(subject, exact)
    if subject.config.heads == "full":
        claims.append(_sign_claim(subject))
        subject = GeneralSubject(without_signs(subject.model), subject.config, subject.process)
        claims += _full_claims(subject)
    claims += _pair_claims(subject, exact) if _pairs(subject) else _step_claims(subject, exact)
    return [*claims, _estimate_claim(subject), step_removal_claim(subject)]


def _pairs(subject: GeneralSubject) -> bool:
    return isinstance(subject.process, CommutingProcess) and subject.process.conjugate_pairs


def _loss_claims(subject: GeneralSubject, exact: bool) -> list[Claim]:
    sizes = {"dim": subject.config.dim, "max_length": subject.config.n_ctx}
    pairs = _pairs(subject)
    source = PAIRS if pairs else STEP
    minimum = block_scalar_minimum(**sizes, conjugate_pairs=pairs).loss
    claims = []
    if exact:
        claims.append(
            subject.claim(
                "loss/minimum",
                "The loss is at its minimum over all block scalars",
                lambda m: m.population_loss,
                source=source,
                tolerance="minimum",
                predicted=minimum,
            )
        )
    claims.append(
        subject.loss_claim(
            "loss/fresh",
            "The error of the hooked model on fresh sequences, over that minimum",
            source=source,
            tolerance="loss ratio",
            reference=minimum,
        )
    )
    if pairs and exact:
        pure = one_step_minimum(**sizes)
        claims.append(
            subject.claim(
                "loss/gain",
                f"It lies below the best pure gradient step, {pure:.6g}, by the share of the gain that theory allows",
                lambda m: (pure - m.population_loss) / (pure - minimum),
                source=source,
                tolerance="gain",
                predicted=1,
                control=("the best pure gradient step", 0.0),
            )
        )
    return claims


def _step_claims(subject: GeneralSubject, exact: bool) -> list[Claim]:
    kind = "exact" if exact else "sampled"
    eta = optimal_step_size(dim=subject.config.dim, max_length=subject.config.n_ctx)
    return [
        subject.claim(
            "step/size",
            f"The step size a2 b1 over eta = 3 / (2 T_max + 3 d - 4) = {eta:.8f}",
            lambda m: m.blocks.step_size / eta,
            source=STEP,
            tolerance=f"step size, {kind}",
            predicted=1,
            control=("the step size for contexts half as long", _half_as_long(subject) / eta),
        ),
        subject.claim(
            "step/others",
            "Every other product of scalars is zero: largest, over a2 b1",
            lambda m: m.other_products,
            source=STEP,
            tolerance=f"other scalars, {kind}",
        ),
    ]


def _half_as_long(subject: GeneralSubject) -> float:
    return optimal_step_size(dim=subject.config.dim, max_length=subject.config.n_ctx // 2)


def _pair_claims(subject: GeneralSubject, exact: bool) -> list[Claim]:
    kind = "exact" if exact else "sampled"
    best = block_scalar_minimum(dim=subject.config.dim, max_length=subject.config.n_ctx, conjugate_pairs=True)
    pure = optimal_step_size(dim=subject.config.dim, max_length=subject.config.n_ctx)
    return [
        subject.claim(
            "step/size",
            f"The step size a2 b1 over the optimum's {best.a[1]:.8f}",
            lambda m: m.blocks.step_size / best.a[1],
            source=PAIRS,
            tolerance=f"step size, {kind}",
            predicted=1,
            control=("the best pure gradient step", pure / best.a[1]),
        ),
        subject.claim(
            "step/second path",
            "A second path, a3: it is negative, a3 / a2",
            lambda m: (m.blocks.products[BACK_PRODUCT] / m.blocks.step_size).item(),
            source=PAIRS,
            tolerance=f"other scalars, {kind}",
            predicted=best.a[2] / best.a[1],
            control=("the best pure gradient step", 0.0),
        ),
        subject.claim(
            "step/others",
            "Every other product of scalars is zero: largest, over a2 b1",
            lambda m: m.share_beside((STEP_PRODUCT, BACK_PRODUCT)),
            source=PAIRS,
            tolerance=f"other scalars, {kind}",
        ),
    ]


def without_signs(model: Any, signs: Tensor | None = None) -> Any:
    """A copy of a full one-layer model whose query and prediction are multiplied by D, a diagonal of signs.

    Diagonal W commutes with D, so D Ŵ D errs as much as Ŵ does: the cross terms between coordinates, which D turns, are
    uncorrelated with each other and with the target. Full matrices therefore find a gradient step up to D only.

    Args:
        signs: D [dim]; those of the diagonal of the QK block (s_T, s_{t-1}) if left out, relative to the first.
    """
    dim = model.config.dim
    diagonal = (model.W_Q[0, 0] @ model.W_K[0, 0].T).detach()[dim : 2 * dim, 2 * dim :].diagonal()
    turn = (diagonal * diagonal[0]).sign() if signs is None else signs
    ones = torch.ones_like(turn)
    fixed = deepcopy(model).requires_grad_(False)
    attn = fixed.blocks[0].attn
    attn.W_Q.mul_(torch.cat([turn] * 3)[:, None])
    attn.W_O.mul_(torch.cat([turn, ones, ones]))
    return fixed


def _sign_claim(subject: GeneralSubject) -> Claim:
    """Full matrices have a gauge that block scalars have not."""
    turned = torch.ones(subject.config.dim, dtype=torch.float64)
    turned[::2] = -1
    other = GeneralSubject(without_signs(subject.model, turned), subject.config, subject.process)
    half = deepcopy(subject.model).requires_grad_(False)
    half.blocks[0].attn.W_Q.mul_(torch.cat([turned] * 3)[:, None])
    halved = GeneralSubject(half, subject.config, subject.process)
    loss = subject.loss()
    return claim(
        "step/signs",
        "A gauge of full matrices: with every other coordinate of query and prediction negated the loss is the same",
        source=GAUGE,
        tolerance="loss ratio",
        predicted=1,
        measured=other.loss() / loss,
        uncertainty=2**0.5 * subject.loss_error() / loss,
        n=N_FRESH,
        control=("only the query's negated", halved.loss() / loss),
    )


def _full_claims(subject: GeneralSubject) -> list[Claim]:
    """Nothing forces full matrices to be block-scalar but the law of s_1."""
    return [
        subject.claim(
            "step/QK",
            "Full matrices: the QK block (s_T, s_{t-1}) is a multiple of the identity, distance over its norm",
            lambda m: (m.blocks.QK_defect[1, 2] * _norms(m).max() / _norms(m)[1, 2]).item(),
            source=STEP,
            tolerance="full blocks",
        ),
        subject.claim(
            "step/OV",
            "and so is the OV block that writes s_t",
            lambda m: m.blocks.OV_defect[1, 0].item(),
            source=STEP,
            tolerance="full blocks",
        ),
        subject.claim(
            "step/other blocks",
            "The other QK blocks carry nothing: largest norm, over that of the first",
            lambda m: (_norms(m)[[1, 2, 2], [1, 1, 2]].max() / _norms(m)[1, 2]).item(),
            source=STEP,
            tolerance="full blocks",
        ),
    ]


def _norms(measured: GeneralMeasured) -> Tensor:
    """Of every QK block, [3 3]."""
    QK = (measured.model.W_Q[0, 0] @ measured.model.W_K[0, 0].mT).detach()
    return split_blocks(QK, measured.config.dim).norm(dim=(-2, -1))


def _estimate_claim(subject: GeneralSubject) -> Claim:
    """What the model applies to s_T, read from its circuit, is the gradient step itself."""
    sequences = subject.process.sample(RECOVERED_SEQUENCES, subject.config.n_ctx + 1, seed=0)

    def distance(measured: GeneralMeasured) -> float:
        recovered = recover_context(measured.model, sequences)
        past, future = sequences.tokens[:, :-2], sequences.tokens[:, 1:-1]
        step = recovered.step_size * (future[..., :, None] * past[..., None, :].conj()).cumsum(1)
        estimate = recovered.estimate[:, 1:]
        return ((estimate - step).norm() / estimate.norm()).item()

    return subject.claim(
        "estimate/step",
        "The estimate of W in its circuit is eta sum_t s_{t+1} s_t^*: relative distance",
        distance,
        source=STEP,
        tolerance="estimate",
        n=RECOVERED_SEQUENCES,
    )


def _haar_claims(subject: GeneralSubject) -> list[Claim]:
    config = subject.config
    per_key = config.attention != "linear"
    best = best_block_scalars(subject.process, config.n_ctx, per_key)
    sizes = {"dim": config.dim, "max_length": config.n_ctx}
    claims = []
    if per_key:
        claims.append(
            subject.loss_claim(
                "loss/fresh",
                f"The error on fresh sequences is that of the best block scalars, {best.loss:.4f}",
                source=HAAR,
                tolerance="loss ratio",
                reference=best.loss,
            )
        )
    else:
        pure = haar_one_step_minimum(**sizes)
        claims += [
            subject.loss_claim(
                "loss/fresh",
                f"The error on fresh sequences is that of the best block scalars, {best.loss:.4f}, below the best pure "
                f"gradient step's {pure:.4f}",
                source=HAAR,
                tolerance="loss ratio",
                reference=best.loss,
                control=("the best pure gradient step", pure / best.loss),
            ),
            subject.claim(
                "step/size",
                "The step size a2 b1 over that of the best pure gradient step",
                lambda m: m.blocks.step_size / haar_step_size(**sizes),
                source=HAAR,
                tolerance="step size, Haar",
                predicted=best.a[1] / haar_step_size(**sizes),
                n=N_SEQUENCES,
            ),
        ]
    return [
        *claims,
        subject.claim(
            "step/second path",
            "A second path, a3 / a2, as in the best block scalars",
            lambda m: (m.blocks.products[BACK_PRODUCT] / m.blocks.step_size).item(),
            source=HAAR,
            tolerance="second path, Haar",
            predicted=best.a[2] / best.a[1],
            n=N_SEQUENCES,
        ),
        subject.claim(
            "step/second value",
            "and the value of s_{t-1}: |b2 / b1|",
            lambda m: abs((m.blocks.OV[2, 0] / m.blocks.OV[1, 0]).item()),
            source=HAAR,
            tolerance="second value, Haar",
            predicted=abs(best.b[1]),
            n=N_SEQUENCES,
        ),
        step_removal_claim(subject),
    ]
