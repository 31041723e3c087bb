"""Claims about where gradient descent ends: the scale it picks, the traps, and the share of seeds that escape."""

import numpy as np
from scipy.stats import binomtest

from ar_interp.checkpoints import Trained
from ar_interp.claims.core import Claim, claim
from ar_interp.claims.diagonal_subject import Subject
from ar_interp.theory import gradient_descent_scale, orthogonal_minimum, trapped_levels

FLOW = "conservation of |A|^2 - |P|^2 under gradient flow"
BALANCE = "conservation of A A^T - B B^T under gradient flow from small weights"
TRAPS = "local minima of the orthogonal loss, by numerical optimisation of their structure"
REFERENCE = (5, 10, 20)  # n_heads, dim, n_ctx of an earlier run of 256 seeds
REFERENCE_SHARE = 16 / 256
ON_LEVEL = 1e-3  # far below the distance between levels
ESCAPED = 0.01  # above the global minimum; the next level is .45 higher


def landscape_claims(subject: Subject, run: Trained) -> list[Claim]:
    """What theory says of the run's descent; `subject` is its model."""
    config, training, process = run.config, run.training, subject.process
    descent = training.optimizer == "gd" and config.heads == "diagonal"
    claims = []
    if descent and (not process.conjugate_pairs or 2 * config.n_heads == config.dim):
        claims += [_scale_claim(subject, run), _balance_claim(subject)]
    if descent and process.conjugate_pairs and 2 * config.n_heads <= config.dim and len(run.members) > 1:
        claims.append(_level_claim(run))
        if (config.n_heads, config.dim, config.n_ctx) == REFERENCE:
            claims += _escape_claims(run)
    return claims


def _scale_claim(subject: Subject, run: Trained) -> Claim:
    config = run.config
    family = "orthogonal" if subject.process.conjugate_pairs else "unitary"
    predicted = gradient_descent_scale(
        dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx, init_scale=config.init_scale, family=family
    )
    return subject.claim(
        "descent/scale",
        "The scale |c| that descent picks, from what gradient flow conserves",
        lambda m: abs(m.positions.scale),
        source=FLOW,
        tolerance="init scale",
        predicted=predicted,
    )


def _balance_claim(subject: Subject) -> Claim:
    """What balance, A A^T ~ B B^T, adds to the minimum; other gauges of the same minimum do not have it."""
    if subject.n_heads > subject.dim:
        return subject.claim(
            "descent/balance",
            "More heads than coordinates form a tight frame: E_M = sqrt(1 - d / H)",
            lambda m: m.heads.e_m,
            source=BALANCE,
            tolerance="balanced frame",
            predicted=(1 - subject.dim / subject.n_heads) ** 0.5,
        )
    return subject.claim(
        "descent/balance",
        "Keys become orthogonal among themselves: rms cos(a_h, a_h')",
        lambda m: m.heads.cosine_aa,
        source=BALANCE,
        tolerance="balanced cosine",
    )


def _level_claim(run: Trained) -> Claim:
    config = run.config
    losses = run.members["loss"].to_numpy()
    n = len(losses)
    size = {"dim": config.dim, "n_heads": config.n_heads}
    settled = _share_on(losses, trapped_levels(**size, max_length=config.n_ctx))
    low, high = _wilson(round(settled * n), n)
    return claim(
        "descent/levels",
        f"Seeds end on a predicted level, one for each number of '-' blocks: share within {ON_LEVEL} "
        f"({round((1 - settled) * n)} of {n} are on none)",
        source=TRAPS,
        tolerance="levels",
        predicted=1,
        measured=settled,
        uncertainty=(high - low) / 2,
        n=n,
        control=(
            "levels of contexts half as long",
            _share_on(losses, trapped_levels(**size, max_length=config.n_ctx // 2)),
        ),
    )


def _escape_claims(run: Trained) -> list[Claim]:
    """The share of seeds that escape every trap, at the size that an earlier run was made for."""
    losses = run.members["loss"].to_numpy()
    n = len(losses)
    minimum = orthogonal_minimum(dim=run.config.dim, n_heads=run.config.n_heads)
    escaped = int((losses < minimum + ESCAPED).sum())
    low, high = _wilson(escaped, n)
    independent = 0.5**run.config.n_heads
    return [
        claim(
            "descent/escape",
            f"Share of seeds that escape every trap, {escaped} of {n}; an earlier run had 16 of 256",
            source=TRAPS,
            tolerance="share",
            predicted=REFERENCE_SHARE,
            measured=escaped / n,
            uncertainty=(high - low) / 2,
            n=n,
            control=("every seed escapes", 1.0),
        ),
        claim(
            "descent/dependence",
            f"Heads are not trapped independently: 2^-H = {independent:.3g} lies below the 95 % interval of that "
            f"share, [{low:.3g}, {high:.3g}]; by how much it does not",
            source=TRAPS,
            tolerance="independence",
            predicted=0,
            measured=max(0.0, independent - low),
            n=n,
            control=("as many seeds with independent heads", independent - _wilson(round(n * independent), n)[0]),
        ),
    ]


def _share_on(losses: np.ndarray, levels: np.ndarray) -> float:
    return float((np.abs(losses[:, None] - levels).min(axis=1) < ON_LEVEL).mean())


def _wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return interval.low, interval.high
