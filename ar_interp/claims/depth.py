"""Claims about deep augmented linear attention on Haar W: how many gradient steps a depth is worth."""

import numpy as np
from scipy.stats import t as student

from ar_interp.checkpoints import Trained
from ar_interp.claims.core import Claim, claim
from ar_interp.claims.general import N_SEQUENCES, GeneralMeasured, GeneralSubject
from ar_interp.probes.algorithm import equivalent_steps, gradient_descent_curve

DOUBLING = (
    "numerical optimisation of two seeds a depth: layers transform keys and targets too, so that the degree in S grows "
    "geometrically, as in Newton-Schulz iterations"
)
TRIM = 0.01  # the share of worst sequences that the trimmed losses of a run leave out
LARGE = 1.0  # the zero predictor's error
FEWEST = 0.01  # of steps, so that their logarithm is finite


def depth_claims(subject: GeneralSubject, run: Trained | None) -> list[Claim]:
    """Of block-scalar stacks, raw or divided by the number of keys; those on seeds need the run."""
    config = subject.config
    per_pair = config.attention != "linear"
    claims = []
    if run is not None and "trimmed" in run.members:
        claims += _steps_claims(run, per_pair)
    lead = 0.015 if (config.n_layers, per_pair) == (4, False) else 0.0
    claims.append(
        subject.claim(
            "loss/blow-ups",
            f"Unseen sequences on which it errs more than predicting zero does, at T = {config.n_ctx}: share"
            + (" (earlier: 1 to 2 %)" if lead else ""),
            _blow_ups,
            source=DOUBLING,
            tolerance="blow-ups",
            predicted=lead,
            n=N_SEQUENCES,
            uncertainty=1.96 * (_blow_ups(subject) * (1 - _blow_ups(subject)) / N_SEQUENCES) ** 0.5,
        )
    )
    return claims


def _steps_claims(run: Trained, per_pair: bool) -> list[Claim]:
    n_layers, n_ctx = run.config.n_layers, run.config.n_ctx
    curve = gradient_descent_curve(run.process, length=n_ctx, per_pair=per_pair, trim=TRIM)
    losses = run.members["trimmed"].to_numpy()
    steps = np.maximum(np.asarray(equivalent_steps(losses, curve)), FEWEST)
    logs, n = np.log2(steps), len(steps)
    half_width = student.ppf(0.975, n - 1) * logs.std(ddof=1) / n**0.5 if n > 1 else 0.0
    doublings = 0 if n_layers == 1 else n_layers + (not per_pair)
    as_many = float(curve.loc[curve["k"] == n_layers, "error"].iloc[0])
    seen = f"{2 ** logs.mean():.1f} steps, seeds from {steps.min():.1f} to {steps.max():.1f}"
    worth = "one step" if n_layers == 1 else f"{2**doublings} steps"
    layers = "One layer behaves" if n_layers == 1 else f"{n_layers} layers behave"
    return [
        claim(
            "depth/steps",
            f"{layers} like {worth} of gradient descent: log2 of the number with the same error ({seen})",
            source=DOUBLING,
            tolerance="doublings",
            predicted=doublings,
            measured=float(logs.mean()),
            uncertainty=float(half_width),
            n=n,
            control=(("as many steps as layers", float(np.log2(n_layers))) if n_layers > 1 else ("two steps", 1.0)),
        ),
        claim(
            "depth/better",
            f"{n_layers} layer{'s do' if n_layers > 1 else ' does'} better than as many gradient steps, "
            f"{as_many:.4f}: share of seeds",
            source=DOUBLING,
            tolerance="every seed",
            predicted=1,
            measured=float((losses < as_many).mean()),
            n=n,
            control=("the gradient steps themselves", 0.0),
        ),
    ]


def _blow_ups(measured: GeneralMeasured) -> float:
    return (measured.errors[:, -1] > LARGE).double().mean().item()
