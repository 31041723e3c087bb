"""A positional encoding trained alone: it shows the spectral filter of descent that was stopped early."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ar_interp.checkpoints import TrainingRun
from ar_interp.claims import Claim, Subject, claim
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingUnitary
from ar_interp.setting import OneCoordinate
from ar_interp.studies.base import Exhibit, Recipe, Structure, Study
from ar_interp.theory import SpectralFilter, descent_steps, position_removal_cost, positional_loss, positional_optimum
from ar_interp.training.config import TrainConfig

FILTER = "Sander et al. 2024, positional encoding only; the filter by diagonalising gradient descent"
POWER = "the cost of a key by the exact population loss"
LR = 0.5  # on the mean over the n_ctx - 1 context lengths, as the authors train it
STOP = 1e-3


def _claims(subject: Subject) -> Iterator[Claim]:
    """The profile against the filter, which depends on how far descent went.

    Raises:
        ValueError: no run, or one that is not gradient descent from zero.
    """
    from ar_interp.studies.heads_measured import HeadsMeasured

    setting, run, filters = subject.setting, subject.run, _filters(subject)
    if run is None or not filters:
        raise ValueError(
            "a positional-only model is compared with descent from zero: pass its checkpoint or training run, made "
            "with optimizer 'gd', objective 'population' and init_scale 0."
        )
    n_ctx, mu, training = setting.config.n_ctx, setting.process.mu, run.training
    measured, last, e_T = HeadsMeasured(subject), filters[-1], positional_optimum(length=n_ctx)
    if training.stop_below is not None:
        wanted = {"n_ctx": n_ctx, "step_size": 2 * training.lr, "stop_below": training.stop_below}
        yield claim(
            "descent/steps",
            f"Descent falls below {training.stop_below:g} after a predicted number of steps",
            evidence="training",
            source=FILTER,
            tolerance="steps",
            predicted=descent_steps(mu=mu, **wanted),
            measured=run.steps,
            control=("steps predicted for 2 mu", descent_steps(mu=2 * mu, **wanted)),
        )
    yield from _path_claims(run, setting)
    weights = partial(measured.claim, evidence="weights", source=FILTER)
    yield weights(
        "filter/rows",
        "Every row of P is the filtered e_T, p = [I - (I - eta K)^k] e_T: largest deviation",
        lambda m: _largest_deviation(m.weights.P, filters),
        tolerance="filter",
    )
    yield weights(
        "filter/newest",
        f"The newest key at T = {n_ctx} has the filter's weight, far from the optimum's 1",
        lambda m: m.positions.profile[-1].item(),
        tolerance="filter",
        predicted=last.p[-1].item(),
        control=("the exact optimum e_T", 1.0),
    )
    yield weights(
        "filter/rank",
        "The filter has the predicted effective rank, measured mode by mode from p",
        lambda m: m.positions.filter_rank or float("nan"),
        tolerance="filter rank",
        predicted=last.rank,
    )
    yield claim(
        "filter/unfinished",
        "The optimum e_T has no loss at any mu, where descent stopped above it: its loss",
        evidence="weights",
        source=FILTER,
        tolerance="uniform",
        predicted=0,
        measured=positional_loss(e_T, mu=mu).item(),
        control=("the profile that descent reached", positional_loss(measured.positions.profile, mu=mu).item()),
    )
    filtered, optimum = _newest_key_costs(filters, mu)
    yield claim(
        "filter/cut",
        "Cutting the newest key costs what the filter says",
        evidence="causal",
        source=POWER,
        tolerance="removal",
        predicted=filtered,
        measured=measured.key_removal(0),
        control=("cutting it at the optimum e_T", optimum),
    )


def _path_claims(run: TrainingRun, setting: Any) -> Iterator[Claim]:
    """The filter after as many steps, at every snapshot: modes are learned in the order of their eigenvalues."""
    if not run.snapshots:
        return

    def deviation(factor: int) -> float:
        found = ((m.P.detach().cpu(), setting.filters(run.training, factor * k)) for k, m in run.models_along.items())
        return max(_largest_deviation(P, filters or []) for P, filters in found)

    yield claim(
        "filter/path",
        f"At {len(run.models_along)} steps along training, the last of them {run.steps}, every row of "
        "P is the filter of so many steps: largest deviation",
        evidence="training",
        source=FILTER,
        tolerance="filter",
        measured=deviation(1),
        control=("filters of twice as many steps", deviation(2)),
    )


def _newest_key_costs(filters: list[SpectralFilter], mu: float) -> list[float]:
    """Costs of losing the newest key, for the filter and at the optimum."""
    n_ctx = len(filters) + 1
    P = torch.zeros(2, n_ctx, n_ctx, dtype=torch.float64, device="cpu")
    for row, spectral in enumerate(filters):
        P[0, row, : row + 2] = spectral.p
        P[1, row, row + 1] = 1
    one = torch.ones(2, 1, 1, dtype=torch.float64, device="cpu")
    return position_removal_cost(one, P, family="unitary", mu=mu)[:, 0].tolist()


def _largest_deviation(P: torch.Tensor, filters: list[SpectralFilter]) -> float:
    return max((P[r, : r + 2] - spectral.p).abs().max().item() for r, spectral in enumerate(filters))


def _recipe(mu: float) -> Recipe:
    n_ctx = 30
    return Recipe(
        summary=f"Only a positional encoding, lambda = exp(i theta / {mu:g}): descent from zero, stopped early as the "
        "authors do. What it shows is the spectral filter of unfinished descent, not the optimum.",
        config=ModelConfig.positional_only(n_ctx=n_ctx),
        process=CommutingUnitary(1, mu=mu),
        training=TrainConfig(optimizer="gd", lr=LR / (n_ctx - 1), steps=2000, stop_below=STOP),
    )


def _exhibits() -> tuple[Exhibit, ...]:
    """The two figures of the filter; what others show of the positional encoding bears on it too."""
    from ar_interp import figures
    from ar_interp.probes.positional import positional_structure
    from ar_interp.studies.any_model import STUDY as ANY_MODEL
    from ar_interp.studies.exhibit import Result, exhibit

    result = Result(
        code={
            "structure": "ari.positional_structure(checkpoint.model)",
            "filter": "setting.filters(checkpoint.training, checkpoint.steps)[-1]",
        },
        measure=lambda subject: (positional_structure(subject.model), _filters(subject)[-1]),
        applies=lambda subject: bool(_filters(subject)),
    )
    shown = partial(exhibit, result=result, page="Positional encoding", structure="filter", evidence="weights")
    return (
        *(replace(e, structure="filter") for e in ANY_MODEL.exhibits() if e.structure == "positions"),
        shown(
            figures.filter_profile,
            title="The profile beside the filter",
            look="The trained weights as points, theory as a line, with no parameter fitted. Look for a point beside "
            "the line, and at how far this is from the optimum, all weight on the last key.",
        ),
        shown(
            figures.filter_response,
            title="Modes that have been learned",
            look="How far each mode of the signal has been learned when training stopped. Look at the edge between "
            "learned and not learned, and whether points and line agree on it.",
        ),
    )


def _filters(subject: Subject) -> list[SpectralFilter]:
    """The filters of descent from zero, one for each context length; none for any other training."""
    setting, run = subject.setting, subject.run
    assert isinstance(setting, OneCoordinate)
    return [] if run is None else setting.filters(run.training, run.steps) or []


STRUCTURES = {
    "filter": Structure(
        title="The filter of unfinished descent",
        meaning="A positional encoding that is trained alone on slow signals looks like a smooth filter. The optimum "
        "is to use only the newest key; the smoothness is that of gradient descent that was stopped early, and "
        "theory gives it number by number.",
        formulas=(
            "loss(p) = (p - e_T)^T K (p - e_T), K_{tt'} = sinc(4 (t - t')/mu), sinc(x) = sin(πx)/(πx).",
            "Gradient descent from zero with step eta: p = [I - (I - eta K)^k] e_T after k steps.",
        ),
    ),
}

STUDY = Study(
    name="unfinished descent",
    source="Sander et al. 2024, positional encoding only",
    question="Why does a positional encoding that is trained alone look smooth?",
    covers=lambda setting: isinstance(setting, OneCoordinate),
    recipes={f"positional-mu{mu:g}": _recipe(mu) for mu in (50.0, 100.0, 200.0, 300.0)},
    claims=_claims,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
