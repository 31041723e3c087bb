"""How far predictions follow the W that was moved: scores over pairs, their errors, the share of the ceiling."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp.probes.results import SHOWN

Predictions = Inexact[Tensor, "batch pos dim"]

SWAP, CEILING = "swap", "ceiling"
SAME, OTHER, RANDOM = "same W", "other W", "random state"
CONTROLS = (SAME, OTHER, RANDOM)
CERTAIN = 3  # standard errors that a ceiling needs to be divided by
ROUNDING = 1e-9  # a ceiling below it is none
FAINTEST = 1e-12  # of the product of two energies: a smaller area is rounding


def scores(found: Mapping[str, Predictions], positions: tuple[int, ...]) -> pd.DataFrame:
    """The table of a `SwappedContext`, from the predictions of each condition, `own` and `goal`."""
    own, goal = (_double(found[name]) for name in ("own", "goal"))
    moved = {condition: _double(found[condition]) for condition in (SWAP, CEILING, *CONTROLS)}
    (ceiling, _), (pull, _) = _steering(moved[CEILING], goal, own)
    ceiling = np.where(ceiling > np.maximum(CERTAIN * _standard_error(pull), ROUNDING), ceiling, np.nan)
    energy, least = _energy(goal), _energy(moved[CEILING] - goal)
    tables = []
    for condition, predictions in moved.items():
        (score, kept), (influence, kept_influence) = _steering(predictions, goal, own)
        errors = _energy(predictions - goal)
        low, high = np.quantile(_pair_scores(predictions, goal, own), SHOWN, axis=0)
        excess = _ratio(errors - least, energy)
        columns = {
            "score": score,
            "score_se": _standard_error(influence),
            "score_low": low,
            "score_high": high,
            "kept": kept,
            "kept_se": _standard_error(kept_influence),
            "normalised": score / ceiling,
            "normalised_se": _standard_error((influence - score / ceiling * pull) / ceiling),
            "projection": _ratio(_inner(predictions - own, goal - own), _energy(goal - own)),
            "relative_error": _ratio(errors, energy),
            "relative_excess": excess,
            "relative_excess_se": _standard_error((errors - least - excess * energy) / energy.sum(0)),
            "change": _ratio(_energy(predictions - own), _energy(own)),
        }
        tables.append(pd.DataFrame({"condition": condition, "T": positions, "n": len(own), **columns}))
    return pd.concat(tables, ignore_index=True)


def _steering(
    moved: Predictions, goal: Predictions, own: Predictions
) -> tuple[Float[np.ndarray, "coefficient=2 pos"], Float[np.ndarray, "coefficient=2 batch pos"]]:
    """score and kept of moved = score goal + kept own + rest, and how far each pair pulls them."""
    parts = torch.stack([goal, own])  # [2 batch pos dim]
    gram = torch.einsum("anti,bnti->tab", parts.conj(), parts).real
    inverse = torch.linalg.pinv(gram, hermitian=True)  # a model may predict 0
    coefficients = torch.einsum("tab,bnti,nti->ta", inverse.to(parts.dtype), parts.conj(), moved).real
    rest = moved - torch.einsum("ta,anti->nti", coefficients.to(parts.dtype), parts)
    pulls = torch.einsum("anti,nti->nta", parts.conj(), rest).real
    return coefficients.T.cpu().numpy(), torch.einsum("tab,ntb->ant", inverse, pulls).cpu().numpy()


def _pair_scores(moved: Predictions, goal: Predictions, own: Predictions) -> Float[np.ndarray, "batch pos"]:
    """The score of each pair; along the goal alone where it has the direction of the target's own prediction."""
    (goal_energy, own_energy), overlap = (_energy(goal), _energy(own)), _inner(goal, own)
    along, beside = _inner(goal, moved), _inner(own, moved)
    area = goal_energy * own_energy - overlap**2
    apart = area > FAINTEST * goal_energy * own_energy
    above, below = np.where(apart, along * own_energy - overlap * beside, along), np.where(apart, area, goal_energy)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _standard_error(influence: Float[np.ndarray, "batch pos"]) -> Float[np.ndarray, "pos"]:
    n = len(influence)
    return np.sqrt((influence**2).sum(0) * n / (n - 1))


def _double(x: Predictions) -> Predictions:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _energy(x: Predictions) -> Float[np.ndarray, "batch pos"]:
    return x.abs().square().sum(-1).cpu().numpy()


def _inner(x: Predictions, y: Predictions) -> Float[np.ndarray, "batch pos"]:
    return (x.conj() * y).real.sum(-1).cpu().numpy()


def _ratio(x: Float[np.ndarray, "batch pos"], y: Float[np.ndarray, "batch pos"]) -> Float[np.ndarray, "pos"]:
    """Ratio of the sums over pairs; nan where there is nothing to divide by."""
    above, below = x.sum(0), y.sum(0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
