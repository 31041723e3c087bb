"""Structure of diagonal heads along training: when orthogonality, scale, kappa and balance form."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._moods import calm
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.heads import head_orthogonality
from ar_interp.probes.positional import positional_structure
from ar_interp.probes.results import Result
from ar_interp.processes import CommutingProcess
from ar_interp.setting import setting_of


@dataclass(frozen=True, kw_only=True)
class AlongTraining(Result):
    """Structural measurements of one member along training.

    Attributes:
        by_step: a row per step: loss above the minimum per context length; projector, |C^2 - m C| / m^2; scale, the
            largest |c p_T - 1|; previous, |p_{T-1} / p_T - (-kappa / (1 + kappa))| (-> 0 for independent eigenvalues);
            older, the share of |P|^2 on other keys; conserved, |D - D_0| over |A A^T| of the last step,
            D = A A^T - B B^T; formed, the same of A A^T itself.
    """

    by_step: pd.DataFrame


@calm()
def structure_along(models: Mapping[int, object], process: CommutingProcess) -> AlongTraining:
    """Measure models of diagonal heads at several steps of one training.

    Args:
        models: step -> model; two or more. The last is what others are compared with.
        process: what they were trained on.
    Raises:
        ValueError: fewer than two models.
    """
    if len(models) < 2:
        raise ValueError(f"models must hold two steps or more, got {len(models)}.")
    rows = []
    for step, changes in changes_of_grams(models).items():
        model = models[step]
        setting = setting_of(model.config, process)  # type: ignore[attr-defined]
        positions = positional_structure(model, process=process)
        ratio = setting.previous_key(positions.kappa)
        rows.append(
            {
                "step": step,
                "loss": setting.expected_loss(model).loss - (setting.minimum or 0.0),
                "projector": head_orthogonality(model).e_c,
                "scale": positions.scale_error,
                "previous": float("nan") if ratio is None else abs(positions.ratio - ratio),
                "older": positions.off_mass,
                **changes,
            }
        )
    return AlongTraining(by_step=pd.DataFrame(rows))


def changes_of_grams(models: Mapping[int, object]) -> dict[int, dict[str, float]]:
    """Step -> `conserved` and `formed` of `AlongTraining`, which the weights alone say."""
    weights = {step: diagonal_weights(models[step]) for step in sorted(models)}
    grams = {step: (one.A @ one.A.mT, one.B @ one.B.mT) for step, one in weights.items()}
    (A0, B0), (A_end, _) = grams[min(grams)], grams[max(grams)]
    return {
        step: {"conserved": _share(A - B - (A0 - B0), A_end), "formed": _share(A - A0, A_end)}
        for step, (A, B) in grams.items()
    }


def _share(X: Float[Tensor, "head head"], of: Float[Tensor, "head head"]) -> float:
    return (torch.linalg.matrix_norm(X) / torch.linalg.matrix_norm(of)).item()
