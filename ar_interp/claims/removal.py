"""Claims about what is lost when parts are removed or replaced: heads, keys, and all that a hypothesis leaves out."""

from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from ar_interp.claims.controls import flipped_previous
from ar_interp.claims.core import Claim, claim
from ar_interp.claims.diagonal_subject import Measured, Subject
from ar_interp.claims.general import GeneralSubject
from ar_interp.probes.ablations import ablate_heads, ablate_positions
from ar_interp.probes.paths import GRADIENT_STEP
from ar_interp.probes.scrubbing import COMPLEMENT, LAST_KEY, LAST_TWO_KEYS, WRONG_KEYS, scrub
from ar_interp.processes import CommutingProcess, Sequences
from ar_interp.setting.sampled import best_block_scalars, sampled_quadratic
from ar_interp.theory import (
    SpectralFilter,
    block_scalar_minimum,
    block_scalar_quadratic,
    position_removal_cost,
    removal_cost_at_minimum,
)

POWER = "at a minimum a part costs the power of what it writes; by the exact population losses"
SCRUBBING = "Chan et al. 2022, causal scrubbing, of the structure that Sander et al. 2024 find"
N_SEQUENCES = 1024
N_FOR_HEADS = 4096  # what one head writes has a standard deviation as large as its mean
SEED = 2**43 + 2  # apart from training, its evaluation and all other samples
STEP = 2  # a2 b1 among the products (a1 b1, a1 b2, a2 b1, ...)


def diagonal_removal_claims(subject: Subject) -> list[Claim]:
    """Of diagonal heads on a commuting family."""
    sequences = _sample(subject.process, len(subject.weights.P), subject.weights.P.dtype)
    claims = [_heads_claim(subject)]
    if subject.process.conjugate_pairs:
        claims.append(_previous_claim(subject, sequences))
    return [*claims, _keys_claim(subject, sequences)]


def _heads_claim(subject: Subject) -> Claim:
    P = subject.weights.P
    sequences = _sample(subject.process, len(P), P.dtype, N_FOR_HEADS)

    @np.errstate(divide="ignore", invalid="ignore")  # of a head that writes nothing
    def costs(measured: Measured) -> tuple[float, float]:
        """Largest relative deviation from the closed form, and the largest standard error."""
        positions, pairs = measured.positions, measured.process.conjugate_pairs
        if positions.scale == 0 or (pairs and not np.isfinite(positions.ratio_from_kappa)):
            return np.nan, np.nan  # far from any minimum
        A, B = measured.weights.A[:, None], measured.weights.B[:, None]
        expected = removal_cost_at_minimum(A, B, scale=positions.scale, kappa=positions.kappa if pairs else 0.0)
        if not (expected > 0).all():
            return np.nan, np.nan  # a head that writes nothing
        found = ablate_heads(measured.model, sequences, process=measured.process).to_frame()
        deviation = np.abs(found["cost"].to_numpy() / expected.numpy() - 1)
        return float(deviation.max()), float((found["cost_se"].to_numpy() / expected.numpy()).max())

    measured, error = costs(subject)
    return subject.claim(
        "heads/ablation",
        "Removing a head costs what it writes, (|a_h| |b_h| / c)^2 for kappa = 0: largest relative deviation",
        lambda m: measured if m is subject else costs(m)[0],
        source=POWER,
        tolerance="removal",
        n=N_FOR_HEADS,
        uncertainty=float(norm.ppf(1 - 0.025 / subject.n_heads)) * error,
    )


def _previous_claim(subject: Subject, sequences: Sequences) -> Claim:
    covered = min(2 * subject.n_heads, subject.dim)

    def cut(measured: Measured) -> Any:
        return ablate_positions(measured.model, sequences, offsets=[1], process=measured.process).to_frame().iloc[0]

    found = cut(subject)
    return subject.claim(
        "positions/cut",
        f"Cutting the key s_{{T-1}} costs kappa^2 for each of the {covered} coordinates that heads cover",
        lambda m: float(found["cost"] if m is subject else cut(m)["cost"]),
        source=POWER,
        tolerance="removal",
        predicted=subject.positions.kappa**2 * covered,
        n=N_SEQUENCES,
        uncertainty=1.96 * float(found["cost_se"]),
        control=("p_{T-1} with its sign turned", subject.sabotaged(flipped_previous)),
    )


def _keys_claim(subject: Subject, sequences: Sequences) -> Claim:
    keys = LAST_TWO_KEYS if subject.process.conjugate_pairs else LAST_KEY
    scrubbed = scrub(subject.model, sequences, keys, n_resamples=1)
    return claim(
        "positions/scrub",
        f"Only the key{'s T and T-1 matter' if len(keys) > 1 else ' T matters'}: share of the loss that is recovered "
        "with all else taken from another sequence",
        source=SCRUBBING,
        tolerance="scrubbed keys",
        predicted=1,
        measured=scrubbed.recovered,
        uncertainty=1.96 * scrubbed.standard_error,
        n=N_SEQUENCES,
        control=("older keys instead", scrubbed.controls[WRONG_KEYS]),
    )


def filter_removal_claim(model: Any, process: CommutingProcess, filters: list[SpectralFilter]) -> Claim:
    """Of a positional-only model: what its newest key is worth while descent is unfinished."""
    n_ctx = len(filters) + 1
    P = torch.zeros(2, n_ctx, n_ctx, dtype=torch.float64)
    for row, spectral in enumerate(filters):
        P[0, row, : row + 2] = spectral.p
        P[1, row, row + 1] = 1
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    filtered, optimum = position_removal_cost(one, P, family="unitary", mu=process.mu)[:, 0].tolist()
    sequences = _sample(process, n_ctx, torch.float64)
    found = ablate_positions(model, sequences, offsets=[0], process=process).to_frame().iloc[0]
    return claim(
        "filter/cut",
        "Cutting the newest key costs what the filter says",
        source=POWER,
        tolerance="removal",
        predicted=filtered,
        measured=found["cost"],
        uncertainty=1.96 * float(found["cost_se"]),
        n=N_SEQUENCES,
        control=("cutting it at the optimum e_T", optimum),
    )


def step_removal_claim(subject: GeneralSubject) -> Claim:
    """Of one augmented layer: how much of it is the gradient step alone."""
    config = subject.config
    scrubbed = scrub(
        subject.model, _sample(subject.process, config.n_ctx, config.torch_dtype), [GRADIENT_STEP], n_resamples=1
    )
    return claim(
        "step/scrub",
        "Only <s_{t-1}, s_T> s_t matters, as far as in the best block scalars: share of the loss that is recovered "
        "with all other paths taken from another sequence",
        source=SCRUBBING,
        tolerance="scrubbed paths",
        predicted=_recovered_at_optimum(subject),
        measured=scrubbed.recovered,
        uncertainty=1.96 * scrubbed.standard_error,
        n=N_SEQUENCES,
        control=("all other paths instead", scrubbed.controls[COMPLEMENT]),
    )


def _recovered_at_optimum(subject: GeneralSubject) -> float:
    """With g the products, k those of the step and r the rest: g_k . (h + G g_r) / h . g, since W and -W are alike."""
    process, config = subject.process, subject.config
    if config.attention == "linear/pairs":
        return 1.0  # only the step has the phases of the target, whatever the first token
    if isinstance(process, CommutingProcess):
        sizes = {"dim": config.dim, "max_length": config.n_ctx, "conjugate_pairs": process.conjugate_pairs}
        best, quadratic = block_scalar_minimum(**sizes), block_scalar_quadratic(**sizes)
    else:
        best = best_block_scalars(process, config.n_ctx, config.attention != "linear")
        quadratic = sampled_quadratic(process, config.n_ctx, config.attention).mean
    g = np.outer(best.a, best.b).ravel()
    step = np.where(np.arange(8) == STEP, g, 0)
    return float(step @ (quadratic.h + quadratic.G @ (g - step)) / (quadratic.h @ g))


def _sample(process: Any, n_ctx: int, dtype: torch.dtype, n: int = N_SEQUENCES) -> Sequences:
    return process.sample(n, n_ctx + 1, seed=SEED, dtype=dtype)
