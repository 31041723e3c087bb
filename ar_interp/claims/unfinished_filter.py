"""Claims about positional-only models: they show the spectral filter of unfinished descent."""

from typing import Any

import torch

from ar_interp.checkpoints import Trained
from ar_interp.claims.controls import untrained
from ar_interp.claims.core import Claim, claim
from ar_interp.claims.removal import filter_removal_claim
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.positional import positional_structure
from ar_interp.processes import CommutingProcess
from ar_interp.theory import SpectralFilter, descent_steps, positional_loss, positional_optimum, spectral_filter

FILTER = "Sander et al. 2024, positional encoding only; the filter by diagonalising gradient descent"


def positional_claims(model: Any, process: CommutingProcess, run: Trained | None) -> list[Claim]:
    """The profile against the filter, which depends on how far descent went.

    Raises:
        ValueError: no run, or one that is not gradient descent from zero.
    """
    if run is None or run.training.optimizer != "gd" or run.config.init_scale != 0:
        raise ValueError(
            "a positional-only model is compared with descent from zero: pass its checkpoint or training run, made "
            "with optimizer 'gd' and init_scale 0."
        )
    mu, n_ctx, training = process.mu, run.config.n_ctx, run.training
    step_size = 2 * training.lr
    P = diagonal_weights(model).P
    structure = positional_structure(model, process=process)
    control_model = untrained(model, process)
    control = positional_structure(control_model, process=process)
    control_P = diagonal_weights(control_model).P
    filters = [spectral_filter(mu=mu, length=T, step_size=step_size, steps=run.steps) for T in range(2, n_ctx + 1)]
    last = filters[-1]

    claims = []
    if training.stop_below is not None:
        wanted = {"n_ctx": n_ctx, "step_size": step_size, "stop_below": training.stop_below}
        claims.append(
            claim(
                "descent/steps",
                f"Descent falls below {training.stop_below:g} after a predicted number of steps",
                source=FILTER,
                tolerance="steps",
                predicted=descent_steps(mu=mu, **wanted),
                measured=run.steps,
                control=("steps predicted for 2 mu", descent_steps(mu=2 * mu, **wanted)),
            )
        )
    e_T = positional_optimum(length=n_ctx)
    claims += [
        claim(
            "filter/rows",
            "Every row of P is the filtered e_T, p = [I - (I - eta K)^k] e_T: largest deviation",
            source=FILTER,
            tolerance="filter",
            predicted=0,
            measured=_largest_deviation(P, filters),
            n=n_ctx - 1,
            control=("untrained", _largest_deviation(control_P, filters)),
        ),
        claim(
            "filter/newest",
            f"Weight of the newest key at T = {n_ctx}, far from the optimum's 1",
            source=FILTER,
            tolerance="filter",
            predicted=last.p[-1].item(),
            measured=structure.profile[-1].item(),
            control=("the exact optimum e_T", 1.0),
        ),
        claim(
            "filter/rank",
            "Effective rank of the filter, measured mode by mode from p",
            source=FILTER,
            tolerance="filter rank",
            predicted=last.rank,
            measured=structure.filter_rank or float("nan"),
            n=n_ctx,
            control=("untrained", control.filter_rank or float("nan")),
        ),
        claim(
            "filter/unfinished",
            "The optimum is e_T for every mu: its loss, where descent stopped above it",
            source=FILTER,
            tolerance="uniform",
            predicted=0,
            measured=positional_loss(e_T, mu=mu).item(),
            control=("the profile that descent reached", positional_loss(structure.profile, mu=mu).item()),
        ),
        filter_removal_claim(model, process, filters),
    ]
    return claims


def _largest_deviation(P: torch.Tensor, filters: list[SpectralFilter]) -> float:
    return max((P[r, : r + 2] - spectral.p).abs().max().item() for r, spectral in enumerate(filters))
