"""Learned features and the kernel that attention makes of them, beside the functions of largest variance.

Only the kernel k(x, x') = phi(x)^T Gamma phi(x') enters a prediction: phi -> G phi with Gamma -> G^{-T} Gamma G^{-1}
changes nothing, and nothing here depends on it. All is exact, by means over a grid of x.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp._shown import brief
from ar_interp.estimators import Bayes
from ar_interp.models.config import MAX_CTX
from ar_interp.models.opened import Model
from ar_interp.probes.protocol import needs, process_option
from ar_interp.probes.results import Result
from ar_interp.processes import Process
from ar_interp.seeds import ESTIMATES, REFERENCES, generator_of
from ar_interp.setting import SoftmaxPrompts, setting_of
from ar_interp.theory import FeatureMoments, linear_attention_weights, pretraining_excess


def _fits(model: Model) -> None:
    """Refuse a model of whose own task theory says nothing."""
    if model.process is not None:
        _setting_of(model, None)


of_prompts = partial(
    needs, "config", "features", "Gamma", scope="prompts of examples", options=process_option, fits=_fits
)
EXAMPLES = 2**20  # of all tasks that are sampled


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


@of_prompts()
def kernel_structure(model: Model, process: Process | None = None) -> KernelStructure:
    """Compare features and kernel with the reduced-rank theorem, free of gauge.

    Args:
        model: with `features(x)`, `Gamma` and a config that theory speaks of; or a checkpoint, run, name or folder.
        process: the prompts; the model's own if left out.
    Raises:
        ValueError: theory does not speak of the model.
    """
    setting = _setting_of(model, process)
    return of_features(*_weights(model, setting), setting)


@of_prompts()
def risks_by_length(
    model: Model,
    process: Process | None = None,
    *,
    lengths: Sequence[int] | None = None,
    n: int = 256,
    seed: int = REFERENCES,
) -> pd.DataFrame:
    """The risk at prompts of other lengths than trained on: the model's, the best Gamma's for each, and Bayes's.

    All but Bayes's are exact; of softmax attention the model's is measured too, on the same prompts, no longer
    than those of training.

    Args:
        model, process: see `kernel_structure`.
        lengths: numbers of examples; powers of two up to four times that of training if left out.
        n: prompts that the risk of Bayes is the mean over.
        seed: of these.
    Returns:
        Columns predictor, n, risk, half_width (of a 95 % interval).
    """
    found: Any = setting_of(model.module.config, process or model.process)
    exactly = not isinstance(found, SoftmaxPrompts)
    setting = _setting_of(model, process) if exactly else found.linear
    powers = {setting.n, *(2**k for k in range((4 * setting.n).bit_length()))}
    chosen = _integers("lengths", lengths, powers if exactly else {k for k in powers if k <= setting.n})
    check_integer("n", n, low=2)
    phi, Gamma = _weights(model, setting)
    prompts = setting.process.contexts(n, max(chosen) + 1, seed=seed)
    sampled = {"Bayes": prompts.errors(Bayes(setting.process)(prompts.pairs()))}
    if not exactly:
        inputs = prompts.inputs.to(model.device, model.dtype)
        sampled = {"model": prompts.errors(model(inputs).double().cpu()), **sampled}
    rows = []
    for examples in chosen:
        moments = setting.moments(phi, n=examples)
        functions = setting.moments(setting.functions, n=examples)
        exact = {"linear attention, all functions": functions.risk(functions.best)}
        if exactly:
            exact = {"model": moments.risk(Gamma), "best Γ at each n": moments.risk(moments.best), **exact}
        rows += [(name, examples, float(risk), 0.0) for name, risk in exact.items()]
        for name, errors in sampled.items():
            own = errors[:, examples]
            rows.append((name, examples, float(own.mean()), 1.96 * float(own.std()) / n**0.5))
    return pd.DataFrame(rows, columns=["predictor", "n", "risk", "half_width"])


@of_prompts()
def risks_by_order(
    model: Model,
    process: Process | None = None,
    *,
    smoothness: float = 0.5,
    lengths: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The exact risk of learned features beside that of functions in the order of their frequency.

    Args:
        model, process: see `kernel_structure`.
        smoothness: a > 0, all that the second knows of the prior: its Gamma is best for variances that fall as
            frequency^-(2 a + 1).
        lengths: numbers of examples; powers of two from 32 to 4096 if left out.
    Returns:
        Columns predictor, n, risk; the features have the best Gamma at each n.
    """
    setting = _setting_of(model, process)
    chosen = _integers("lengths", lengths, {2**k for k in range(5, 13)})
    phi, _ = _weights(model, setting)
    known, noise = setting.process, {"noise_variance": setting.process.noise_variance}
    coarse = replace(known, variances=None, smoothness=smoothness, n_functions=len(known.prior)).prior
    rows = []
    for n in chosen:
        moments, functions = (setting.moments(of, n=n) for of in (phi, setting.functions))
        by_frequency = torch.diag(torch.from_numpy(linear_attention_weights(coarse, n=n, **noise)))
        found = {
            "learned features": moments.risk(moments.best),
            "all functions, by variance": functions.risk(functions.best),
            f"all functions, by frequency, γ of a = {smoothness:g}": functions.risk(by_frequency),
        }
        rows += [(name, n, float(risk)) for name, risk in found.items()]
    return pd.DataFrame(rows, columns=["predictor", "n", "risk"])


@of_prompts()
def excess_by_tasks(
    model: Model,
    process: Process | None = None,
    *,
    tasks: Sequence[int] | None = None,
    repeats: int | None = None,
    seed: int = ESTIMATES,
) -> pd.DataFrame:
    """The risk that Gamma costs when it is fitted to T sampled tasks by least squares, the features left as they are.

    The protocols of `theory.pretraining_excess`: one noisy answer to one query of each task and a full Gamma, the same
    with a diagonal one in the basis that is turned to theory's functions, and all of f for each task.

    Args:
        model, process: see `kernel_structure`.
        tasks: values of T; 2 N and powers of two times N^2 up to 16 N^2 if left out.
        repeats: samples of T tasks; as many as a million examples allow, 8 to 32, if left out.
        seed: of these.
    Returns:
        Columns protocol, weights (of Gamma, p), tasks, excess (the mean over the samples), half_width (of its 95 %
        interval), formula (theory's for the best features). Rows with T <= p + 1, where the mean is not finite, are
        left out.
    """
    setting = _setting_of(model, process)
    if setting.weights is None:
        raise ValueError(f"process must have a constant variance of f(x) for this, got {setting.process}.")
    N = setting.config.n_features
    chosen = _integers("tasks", tasks, {2 * N, *(2**k * N**2 for k in range(1, 5))})
    if repeats is None:
        repeats = min(32, max(8, EXAMPLES // (chosen[-1] * setting.config.n_ctx)))
    check_integer("repeats", repeats, low=2)
    phi, Gamma = _weights(model, setting)
    span = of_features(phi, Gamma, setting).span
    turn = torch.linalg.lstsq(phi, span, driver="gelsd").solution  # features to the basis of the span
    moments = setting.moments(span)
    caught = setting.functions.mT @ span / len(span)
    generator = generator_of(seed)
    samples = [
        _Tasks.drawn(setting, chosen[-1], generator, lambda x: model.module.features(x).double() @ turn, caught)
        for _ in range(repeats)
    ]
    rows = []
    for name, (fitted, answers, weights) in PROTOCOLS.items():
        p = N**2 if (answers, weights) == ("noisy", "full") else N
        best = torch.diag(moments.P.diagonal() / moments.S.diagonal()) if weights == "diagonal" else moments.best
        for T in chosen:
            if p + 1 >= T:
                continue
            excess = torch.stack([moments.risk(fitted(sample.first(T))) - moments.risk(best) for sample in samples])
            sizes = {**setting.sizes, "n_features": N, "n_tasks": T, "answers": answers, "weights": weights}
            half = 1.96 * float(excess.std()) / repeats**0.5
            rows.append((name, p, T, float(excess.mean()), half, pretraining_excess(setting.descending, **sizes)))
    return pd.DataFrame(rows, columns=["protocol", "weights", "tasks", "excess", "half_width", "formula"])


class _Tasks(NamedTuple):
    """Sampled tasks as a fit of Gamma sees them: states, features and noisy answers of queries, and f in the basis."""

    z: Float[Tensor, "task feature"]
    query: Float[Tensor, "task feature"]
    y: Float[Tensor, "task 1"]
    f: Float[Tensor, "task feature"]

    @classmethod
    def drawn(
        cls, setting: Any, n: int, generator: torch.Generator, features: Callable[[Tensor], Tensor], caught: Tensor
    ) -> "_Tasks":
        prompts = setting.process.contexts(n, setting.config.n_ctx, generator=generator)
        phi = features(prompts.x)
        z = (prompts.y[:, :-1, None] * phi[:, :-1]).mean(1)
        return cls(z, phi[:, -1], prompts.y[:, -1:], prompts.coefficients @ caught)

    def first(self, n: int) -> "_Tasks":
        return _Tasks(*(value[:n] for value in self))


def _full(tasks: _Tasks) -> Float[Tensor, "feature feature"]:
    design = (tasks.query[:, :, None] * tasks.z[:, None, :]).flatten(1)
    Gamma = torch.linalg.lstsq(design, tasks.y, driver="gelsd").solution
    return Gamma.view(tasks.z.shape[1], -1)


def _diagonal(tasks: _Tasks) -> Float[Tensor, "feature feature"]:
    return torch.diag(torch.linalg.lstsq(tasks.query * tasks.z, tasks.y, driver="gelsd").solution[:, 0])


def _of_functions(tasks: _Tasks) -> Float[Tensor, "feature feature"]:
    return torch.linalg.lstsq(tasks.z, tasks.f, driver="gelsd").solution.mT


PROTOCOLS = {
    "one noisy answer, full Γ": (_full, "noisy", "full"),
    "one noisy answer, diagonal Γ": (_diagonal, "noisy", "diagonal"),
    "all of f, full Γ": (_of_functions, "exact", "full"),
}  # name -> the fit, and the arguments of `pretraining_excess`


def _integers(name: str, given: Sequence[int] | None, otherwise: Iterable[int]) -> list[int]:
    """Numbers of examples or tasks in ascending order, each once."""
    if given is None:
        return sorted(otherwise)
    if not isinstance(given, Sequence):
        raise ValueError(f"{name} must be several integers, such as [2, 4], got {brief(given)}.")
    chosen = sorted({check_integer(f"{name}[{k}]", x, low=1, high=MAX_CTX) for k, x in enumerate(given)})
    if not given:
        raise ValueError(f"{name} must not be empty: leave it out for {sorted(otherwise)}.")
    return chosen


def _setting_of(model: Model, process: Process | None) -> Any:
    """The part of theory on prompts that speaks of the model.

    Raises:
        ValueError: none does.
    """
    setting: Any = setting_of(model.module.config, process or model.process)
    if not hasattr(setting, "moments"):
        raise ValueError(
            f"model must answer prompts of a NonparametricRegression by linear attention, as RegressionConfig builds "
            f"it, got {model.name}: {setting.why_not or 'theory has no exact risk for it'}."
        )
    return setting


def _weights(model: Model, setting: Any) -> tuple[Tensor, Tensor]:
    """Features on the grid, and Gamma."""
    return model.module.features(
        setting.grid.to(model.device)
    ).detach().double().cpu(), model.module.Gamma.detach().double().cpu()


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
