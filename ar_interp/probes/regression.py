"""Learned features and the kernel that attention makes of them, beside the functions of largest variance.

Only the kernel k(x, x') = phi(x)^T Gamma phi(x') enters a prediction: phi -> G phi with Gamma -> G^{-T} Gamma G^{-1}
changes nothing, and nothing here depends on it. All is exact, by means over a grid of x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._moods import calm
from ar_interp.checkpoints import model_of
from ar_interp.estimators import Bayes
from ar_interp.probes.results import Result
from ar_interp.processes import Process
from ar_interp.seeds import REFERENCES
from ar_interp.setting import setting_of
from ar_interp.theory import FeatureMoments


@dataclass(frozen=True, kw_only=True)
class KernelStructure(Result):
    """Span of a model's features, and the kernel on them.

    Attributes:
        spectrum: a row per feature: eigenvalue of the kernel, the real part and beside it the imaginary one, gamma of
            theory (nan where it says none).
        x: the grid.
        span: orthonormal functions in L2 with the span of the features, turned to the best match of `target`.
        target: the functions of largest variance.
        angle: largest principal angle between the two, degrees.
        asymmetry: |k - k^T| / |k|.
        risk: E (prediction - f(x))^2 of the weights as they are.
        best_risk: the same with the best Gamma for these features: what is left is the features' fault.
        minimum: of any N features, where theory has it; nan.
        moments: that make the risk.
    """

    spectrum: pd.DataFrame
    x: Float[Tensor, "grid"]
    span: Float[Tensor, "grid feature"]
    target: Float[Tensor, "grid feature"]
    angle: float
    asymmetry: float
    risk: float
    best_risk: float
    minimum: float
    moments: FeatureMoments

    @property
    def spectrum_error(self) -> float:
        """The largest difference of an eigenvalue from gamma."""
        real, imaginary, gamma = self.spectrum[["eigenvalue", "imaginary", "gamma"]].to_numpy().T
        return float(np.hypot(real - gamma, imaginary).max())


@calm()
def kernel_structure(model: Any, process: Process | None = None) -> KernelStructure:
    """Compare features and kernel with the reduced-rank theorem, free of gauge.

    Args:
        model: with `features(x)`, `Gamma` and a config that theory speaks of; or a checkpoint, run, name or folder.
        process: the prompts; the model's own if left out.
    Raises:
        ValueError: theory does not speak of the model.
    """
    found, setting = _opened(model, process)
    return of_features(found.features(setting.grid).double(), found.Gamma.detach().double(), setting)


@calm()
def risks_by_length(
    model: Any,
    process: Process | None = None,
    *,
    lengths: Sequence[int] | None = None,
    n: int = 256,
    seed: int = REFERENCES,
) -> pd.DataFrame:
    """The risk at prompts of other lengths than trained on: the model's, the best Gamma's for each, and Bayes's.

    All but Bayes's are exact.

    Args:
        model, process: see `kernel_structure`.
        lengths: numbers of examples; powers of two up to four times that of training if left out.
        n: prompts that the risk of Bayes is the mean over.
        seed: of these.
    Returns:
        Columns predictor, n, risk, half_width (of a 95 % interval).
    """
    found, setting = _opened(model, process)
    if lengths is None:
        lengths = sorted({setting.n, *(2**k for k in range((4 * setting.n).bit_length()))})
    phi, Gamma = found.features(setting.grid).double(), found.Gamma.detach().double()
    prompts = setting.process.contexts(n, max(lengths) + 1, seed=seed)
    errors = prompts.errors(Bayes(setting.process)(prompts.pairs()))
    rows = []
    for examples in lengths:
        moments = setting.moments(phi, n=examples)
        functions = setting.moments(setting.functions, n=examples)
        own = errors[:, examples]
        exact = {
            "model": moments.risk(Gamma),
            "best Γ at each n": moments.risk(moments.best),
            "linear attention, all functions": functions.risk(functions.best),
        }
        rows += [(name, examples, float(risk), 0.0) for name, risk in exact.items()]
        rows.append(("Bayes", examples, float(own.mean()), 1.96 * float(own.std()) / n**0.5))
    return pd.DataFrame(rows, columns=["predictor", "n", "risk", "half_width"])


def _opened(model: Any, process: Process | None) -> tuple[Any, Any]:
    """The model, and the part of theory on prompts that speaks of it."""
    found = model_of(model)
    setting: Any = setting_of(getattr(found, "config", None), process or getattr(found, "process", None))
    if not hasattr(setting, "moments") or not hasattr(found, "features"):
        raise ValueError(
            f"model must answer prompts of a NonparametricRegression, as RegressionConfig builds it, got "
            f"{type(found).__name__}: {setting.why_not or 'it has no features(x)'}."
        )
    return found, setting


def of_features(
    phi: Float[Tensor, "grid feature"], Gamma: Float[Tensor, "feature feature"], setting: Any
) -> KernelStructure:
    """`kernel_structure` of any features on the grid of a setting, with any Gamma."""
    U, R = torch.linalg.qr(phi / len(phi) ** 0.5)
    K = R @ Gamma @ R.mT
    target = setting.functions[:, setting.largest]
    V, _, Wh = torch.linalg.svd(U.mT @ target / len(phi) ** 0.5, full_matrices=False)
    missed = target / len(phi) ** 0.5 - U @ (U.mT @ target) / len(phi) ** 0.5
    sine = torch.linalg.matrix_norm(missed, 2).clamp(max=1)
    eigenvalues = torch.linalg.eigvals(K)
    eigenvalues = eigenvalues[eigenvalues.real.argsort(descending=True)]
    moments = setting.moments(phi)
    gamma = np.full(len(K), np.nan) if setting.weights is None else setting.weights
    missing = np.zeros(len(K) - len(gamma))  # where there are more features than functions
    return KernelStructure(
        spectrum=pd.DataFrame(
            {
                "eigenvalue": eigenvalues.real.numpy(),
                "imaginary": eigenvalues.imag.numpy(),
                "gamma": [*gamma, *missing],
            }
        ),
        x=setting.grid,
        span=len(phi) ** 0.5 * U @ V @ Wh,
        target=target,
        angle=float(torch.rad2deg(torch.asin(sine))),
        asymmetry=float((K - K.mT).norm() / K.norm()),
        risk=float(moments.risk(Gamma)),
        best_risk=float(moments.risk(moments.best)),
        minimum=float("nan") if setting.minimum is None else setting.minimum,
        moments=moments,
    )
