"""Claims about the law of the first token: the step size it makes, and the error that one gradient step leaves."""

from dataclasses import replace

from ar_interp.claims.core import Claim
from ar_interp.claims.general import N_SEQUENCES, GeneralMeasured, GeneralSubject
from ar_interp.claims.removal import step_removal_claim
from ar_interp.processes import FirstToken
from ar_interp.theory import TokenMoments, first_token_moments, initial_token_error, initial_token_product

LAW = "Zheng et al. 2024, arXiv 2405.16845; general laws by counting modes"


def initial_token_claims(subject: GeneralSubject) -> list[Claim]:
    """Of one block-scalar layer divided by the number of pairs, on diagonal unitary W."""
    config, process = subject.config, subject.process
    moments = _moments(process.initial, config.dim)
    product = initial_token_product(moments, max_length=config.n_ctx + 1)
    other = FirstToken("signs") if process.initial.law == "gaussian" else FirstToken("gaussian")
    elsewhere = GeneralMeasured(subject.model, config, replace(process, first_token=other))
    limit = moments.limit_relative_error
    verdict = "never recovers the sequence" if limit > 0 else "recovers the sequence in the end"
    predicted = initial_token_error(moments, product=subject.blocks.step_size, length=config.n_ctx) / moments.kappa0
    return [
        subject.claim(
            "step/size",
            f"The step size a2 b1 over kappa1 / (kappa2 + kappa3 mean 1/(t-1)) = {product:.5f}",
            lambda m: m.blocks.step_size / product,
            source=LAW,
            tolerance="step size, sampled",
            predicted=1,
            control=(
                f"the step size for first tokens of law {other.law!r}",
                initial_token_product(_moments(other, config.dim), max_length=config.n_ctx + 1) / product,
            ),
        ),
        subject.claim(
            "step/others",
            "Every other product of scalars is zero, whatever the law: largest, over a2 b1",
            lambda m: m.other_products,
            source=LAW,
            tolerance="other scalars, sampled",
        ),
        subject.claim(
            "loss/relative",
            f"Relative error at T = {config.n_ctx}; it tends to {limit:.4g} with long contexts: one step {verdict}",
            lambda m: _relative_error(m, moments),
            source=LAW,
            tolerance="relative error",
            predicted=predicted,
            n=N_SEQUENCES,
            uncertainty=1.96 * _relative_spread(subject, moments),
            control=(
                f"the same weights on first tokens of law {other.law!r}",
                _relative_error(elsewhere, _moments(other, config.dim)),
            ),
        ),
        step_removal_claim(subject),
    ]


def _moments(first: FirstToken, dim: int) -> TokenMoments:
    return first_token_moments(first.law, dim=dim, scale=first.scale, n_nonzero=first.n_nonzero)


def _relative_error(measured: GeneralMeasured, moments: TokenMoments) -> float:
    return measured.errors[:, -1].mean().item() / (moments.kappa0 * measured.config.dim)


def _relative_spread(measured: GeneralMeasured, moments: TokenMoments) -> float:
    return (measured.errors[:, -1].std() / N_SEQUENCES**0.5).item() / (moments.kappa0 * measured.config.dim)
