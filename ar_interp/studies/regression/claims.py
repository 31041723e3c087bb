"""Claims of the study of regression: what features, kernel, Gamma and prompts must be, and what tasks must be paid."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp.checkpoints import available, load
from ar_interp.claims import Claim, Estimate, Measured, Subject
from ar_interp.claims.estimate import SEEDS
from ar_interp.models.features import RegressionConfig
from ar_interp.processes import Process
from ar_interp.setting import SoftmaxPrompts, setting_of
from ar_interp.studies.logged import log_claims
from ar_interp.studies.regression.recipes import RECIPES
from ar_interp.theory import (
    linear_attention_risk,
    linear_attention_risk_at,
    linear_attention_weights,
    pretraining_excess,
)

LONG = 4096  # examples
TASKS = 16  # for each weight of a full Gamma
REPEATS = 96  # samples of tasks
MOST = 2_000_000  # examples of all of them
COARSE = 0.5  # smoothness of a class that is coarser than the priors of the study
LENGTHS = (1, 8, 32, 128, 512, 4096)  # examples, of the curve


class PromptsMeasured(Measured):
    """A model of prompts, its kernel, and its errors at the query."""

    SOURCE = "Kim, Nakamaki and Suzuki 2024, arXiv 2408.12186; derived here for a Gaussian prior and finite prompts"
    NEEDED = 12_000
    PART = 2000

    @cached_property
    def structure(self) -> Any:
        """Features and kernel of the model."""
        from ar_interp.probes.regression import kernel_structure

        return kernel_structure(self.model, self.process)

    def with_gamma(self, Gamma: Float[Tensor, "feature feature"]) -> Any:
        """The structure of the same features with another Gamma."""
        from ar_interp.probes.regression import of_features

        phi = self.model.features(self.setting.grid).detach().double().cpu()
        return of_features(phi, Gamma.cpu(), self.setting)

    @cached_property
    def query_losses(self) -> Float[Tensor, "batch"]:
        """|answer - f(x)|^2 at the query of every prompt."""
        return self._losses_of(self.model)

    @torch.no_grad()
    def _losses_of(self, predict: Any) -> Tensor:
        return torch.cat([part.losses(predict(part.inputs)) for part in self.parts]).double().cpu()

    def fresh_risk(self) -> Estimate:
        """The mean over fresh prompts; sampled is only the difference from the best series, whose risk is known."""
        series = torch.cat([part.losses(self._best_series(part)) for part in self.parts]).double().cpu()
        return Estimate.mean(self.query_losses - series).less(-self.setting.minimum)

    def _best_series(self, prompts: Any) -> Tensor:
        """The answers of the functions of largest variance with gamma."""
        from ar_interp.estimators.regression import linear_attention

        x, y = prompts.pairs()
        phi = self.process.functions(x[..., 0], of=self.setting.largest)
        return linear_attention(phi, y, torch.diag(torch.from_numpy(self.setting.weights).to(phi)))

    @cached_property
    def swapped(self) -> tuple[Estimate, Estimate]:
        """Squared error over the risk with the state of another prompt: for its function, and for the own one."""
        theirs, own = [], []
        parts: Any = self.parts
        for part in parts:
            state: dict[str, Tensor] = {}

            def keep(value: Tensor, hook: Any, state: dict[str, Tensor] = state) -> None:
                state["z"] = value.detach()

            def put(value: Tensor, hook: Any, state: dict[str, Tensor] = state) -> Tensor:
                return state["z"].roll(1, 0)

            with torch.no_grad():
                self.model.run_with_hooks(part.inputs, fwd_hooks=[("hook_state", keep)])
                moved = self.model.run_with_hooks(part.inputs, fwd_hooks=[("hook_state", put)])[:, -1, 0]
            psi = self.process.functions(part.x[:, -1])
            values = (psi * part.coefficients.roll(1, 0)).sum(-1)
            theirs.append((moved - values).square())
            own.append((moved - part.clean_targets[:, -1, 0]).square())
        return tuple(Estimate.mean(torch.cat(found).double()).over(self.structure.risk) for found in (theirs, own))  # type: ignore[return-value]

    @cached_property
    def bayes_ratio(self) -> Estimate:
        """The risk over that of the posterior mean."""
        from ar_interp.estimators import Bayes

        prompts = self.fresh(2000, seeds.REFERENCES)
        bayes = prompts.losses(Bayes(self.process)(prompts.pairs()))
        return Estimate(self.structure.risk).over(Estimate.mean(bayes))

    def fitted_excess(self, n_tasks: int, features: Callable[[Tensor], Tensor] | None = None) -> Estimate:
        """Mean excess of Gamma by least squares to tasks with one noisy answer each, over that of a Gaussian design.

        Args:
            features: those of the model if left out.
        """
        of = features or (lambda x: self.model.features(x).detach().double())
        moments, excess = self.setting.moments(of(self.setting.grid)), []
        repeats = max(8, min(REPEATS, MOST // (n_tasks * self.setting.n)))
        prompts = self.fresh(repeats * n_tasks, seeds.ESTIMATES, least=repeats * n_tasks)
        for part in prompts.split(n_tasks):
            phi = of(part.x)
            z = (part.y[:, :-1, None] * phi[:, :-1]).mean(1)
            design = (phi[:, -1, :, None] * z[:, None, :]).flatten(1)
            answers = part.y[:, -1:].double()
            Gamma = torch.linalg.lstsq(design.cpu(), answers.cpu(), driver="gelsd").solution  # a GPU has no such driver
            excess.append(moments.risk(Gamma.view_as(moments.Q).to(moments.Q)) - moments.risk(moments.best))
        return Estimate.mean(torch.stack(excess), SEEDS).over(self.excess_of("noisy", n_tasks))

    def functions(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points feature"]:
        """The N functions of largest variance."""
        return self.process.functions(x.double(), of=self.setting.largest)

    @property
    def curve_deviation(self) -> float:
        """Largest relative deviation of the least risk at any length with any number of functions from theory's."""
        found = []
        for n in LENGTHS:
            risks = self.setting.moments(_phi(self), n=n).least_risks
            sizes = {**self.setting.sizes, "n": n}
            found += [
                abs(float(risk) / linear_attention_risk(self.setting.descending, **sizes, n_features=k) - 1)
                for k, risk in enumerate(risks, start=1)
            ]
        return max(found)

    @cached_property
    def members_excess(self) -> Float[np.ndarray, "seed"]:
        """The excess over the least risk of every training seed."""
        assert self.subject.run is not None  # asked of trained models alone
        return self.subject.run.members["loss"].to_numpy() - self.setting.minimum

    def excess_of(self, answers: str, n_tasks: int) -> float:
        """Theory's excess after so many tasks, for the best features."""
        sizes = {**self.setting.sizes, "n_features": self.config.n_features, "n_tasks": n_tasks}
        return pretraining_excess(self.setting.descending, answers=answers, **sizes)


def claims_of(subject: Subject) -> Iterator[Claim]:
    """Claims about a model of prompts: of linear attention, of one trained on T tasks, or of softmax."""
    m = PromptsMeasured(subject)
    if isinstance(m.setting, SoftmaxPrompts):
        return _of_softmax(m)
    return _of_tasks(m) if subject.run is not None and subject.run.training.pool else _of_linear(m)


def _of_linear(m: PromptsMeasured) -> Iterator[Claim]:
    setting, N, n = m.setting, m.config.n_features, m.setting.n
    prior, sizes = setting.descending, setting.sizes
    minimum, gamma = setting.minimum, setting.weights
    weights = partial(m.claim, evidence="weights")
    yield weights(
        "loss/minimum",
        f"The risk is that of the {N} functions of largest variance with the best Gamma, {minimum:.5f}: its excess",
        lambda found: found.structure.risk - minimum,
        tolerance="prompt risk",
    )
    yield m.claim(
        "loss/fresh",
        "The error at the query of fresh prompts is the exact risk of the weights: their ratio",
        lambda found: found.fresh_risk().over(m.structure.risk),
        evidence="behaviour",
        source="the risk is a quadratic in Gamma",
        tolerance="fresh prompts",
        predicted=1,
    )
    yield weights(
        "features/best",
        "With the best Gamma for them the features reach the least risk of any: its excess",
        lambda found: found.structure.best_risk - minimum,
        tolerance="prompt risk",
        control=("untrained features with their best Gamma", m.untrained),
    )
    if setting.unique:
        yield weights(
            "features/span",
            "The features span the functions of largest variance: largest principal angle in L2, degrees",
            lambda found: found.structure.angle,
            tolerance="span",
        )
    yield weights(
        "kernel/spectrum",
        f"The eigenvalues of the kernel are gamma_j = n lambda_j / ((n - 1) lambda_j + c), n = {n}: largest difference",
        lambda found: found.structure.spectrum_error,
        tolerance="kernel",
        control=(
            "gamma of prompts twice as long",
            float(np.abs(linear_attention_weights(prior, **{**sizes, "n": 2 * n})[:N] - gamma).max()),
        ),
    )
    yield weights(
        "kernel/symmetric",
        "The kernel is symmetric, though nothing in the architecture makes it so: |k - k^T| / |k|",
        lambda found: found.structure.asymmetry,
        tolerance="kernel",
        control=(
            "Gamma with its rows moved by one",
            m.with_gamma(m.model.Gamma.detach().double().roll(1, 0)).asymmetry,
        ),
    )
    yield weights(
        "attention/best",
        "Gamma is the best for these features, so that what is left is not attention's fault: excess over its risk",
        lambda found: found.structure.risk - found.structure.best_risk,
        tolerance="prompt risk",
        control=("Gamma that projects on the features", _of_projection(m)),
    )
    yield weights(
        "features/curve",
        f"With the best Gamma for prompts of n = {', '.join(map(str, LENGTHS))} and for any number of functions up to "
        f"{N} the features lie on theory's curve: largest relative deviation of the risk",
        lambda found: found.curve_deviation,
        tolerance="curve",
    )
    order = linear_attention_risk(m.process.prior, **sizes, n_features=N)
    if order > 1.01 * minimum:
        yield weights(
            "features/order",
            f"Learned features leave {minimum / order:.3f} of the risk of the first {N} functions by frequency",
            lambda found: found.structure.risk / order,
            tolerance="order",
            predicted=minimum / order,
        )
    coarse = _of_smoothness(m.process, n)
    if coarse > 1.1 * minimum:
        yield weights(
            "features/smoothness",
            f"Learned features leave {minimum / coarse:.3f} of the risk of all functions by frequency with the weights "
            f"that are best for smoothness {COARSE:g}",
            lambda found: found.structure.risk / coarse,
            tolerance="order",
            predicted=minimum / coarse,
        )
    yield m.claim(
        "state/swap",
        "Another prompt's state makes the answer that of its function: squared error over the risk",
        lambda found: found.swapped[0],
        evidence="causal",
        source="the layer is a function of the query and its state",
        tolerance="moved state",
        predicted=1,
        control=("beside the own function", m.swapped[1]),
    )
    yield weights(
        "prompts/longer",
        f"Longer prompts do not cure a Gamma that was trained short: risk at {LONG} examples",
        lambda found: float(found.setting.moments(_phi(found), n=LONG).risk(found.model.Gamma.detach().double())),
        tolerance="prompt risk",
        predicted=linear_attention_risk_at(gamma, prior, **{**sizes, "n": LONG}),
        control=("Gamma of that length", linear_attention_risk(prior, **{**sizes, "n": LONG}, n_features=N)),
    )
    yield m.claim(
        "prompts/Bayes",
        "The signal of other functions acts as noise: the risk over that of the posterior mean, which at one example "
        "the best layer is",
        lambda found: found.bayes_ratio,
        evidence="behaviour",
        tolerance="signal",
        predicted=1.25,
        side="at least",
        control=("the best layer at one example, exactly", 1.0),
    )
    if TASKS * N**2 * REPEATS * n <= MOST:
        tasks = TASKS * N**2
        yield m.claim(
            "tasks/excess",
            f"Gamma fitted to T = {tasks} tasks with a noisy answer each costs (R + sigma^2) p / (T - p - 1), "
            f"p = N^2 = {N**2}, or a third more: mean excess over this",
            lambda found: found.fitted_excess(tasks),
            evidence="behaviour",
            source="least squares with a Gaussian design; the design's tails add up to a third, measured",
            tolerance="design",
            predicted=1.15,
            control=(
                "the cost if T had to exceed N alone, over this",
                m.excess_of("exact", tasks) / m.excess_of("noisy", tasks),
            ),
        )


def _of_tasks(m: PromptsMeasured) -> Iterator[Claim]:
    """Claims about features and Gamma that were trained on a pool of T tasks."""
    run = m.subject.run
    assert run is not None  # `claims_of` asks
    tasks: Any = run.training.pool
    formula, own = m.excess_of("noisy", tasks), m.members_excess
    yield from log_claims(m, "tasks")
    yield m.claim(
        "tasks/joint",
        f"Features learned from T = {tasks} tasks cost more than Gamma alone would: mean excess of {len(own)} training "
        f"seeds over (R + sigma^2) p / (T - p - 1), p = N^2 = {m.config.n_features**2}",
        lambda found: Estimate.mean(own, SEEDS).over(formula),
        evidence="training",
        source="the formula is of fixed features; measured",
        tolerance="joint",
        predicted=2,
        side="at least",
        control=("Gamma alone, on the functions of largest variance", m.fitted_excess(tasks, m.functions)),
    )
    fewer = joint_excess(m.config, m.process, below=tasks).to_numpy()
    if len(own) > 1 and len(fewer):
        less = int(fewer[:, 0].max())
        theirs = fewer[fewer[:, 0] == less, 1]
        yield m.claim(
            "tasks/order",
            f"With T = {tasks} tasks in place of {less} the excess is a fraction: ratio of geometric means over seeds",
            lambda found: Estimate.mean(np.log(own), SEEDS).less(Estimate.mean(np.log(theirs), SEEDS)).exp(),
            evidence="training",
            source="the pretraining gap vanishes with T; only its order is claimed",
            tolerance="fewer tasks",
            predicted=0.6,
            side="at most",
            control=("if their number did not matter", 1.0),
        )


def joint_excess(config: RegressionConfig, process: Process, *, below: float = np.inf) -> pd.DataFrame:
    """The excess risk of the shipped models that were trained on a pool of tasks, in this architecture and process.

    Args:
        below: only of fewer tasks than this.
    Returns:
        Columns tasks, excess (over the least risk); a row for each training seed.
    """
    frames = [pd.DataFrame({"tasks": [], "excess": []})]
    for name, recipe in RECIPES.items():
        tasks = recipe.training.pool
        theirs: Any = recipe.config
        alike = (replace(theirs, dtype=config.dtype), recipe.process) == (config, process)
        if tasks is not None and tasks < below and alike and name in available():
            excess = load(name).members["loss"] - setting_of(config, process).minimum  # type: ignore[operator]
            frames.append(pd.DataFrame({"tasks": tasks, "excess": excess}))
    return pd.concat(frames[1:] or frames)


def _of_softmax(m: PromptsMeasured) -> Iterator[Claim]:
    """Where softmax attention stands between the best linear layer and the posterior mean."""
    from ar_interp.estimators import Bayes

    linear = m.setting.linear
    yield m.claim(
        "softmax/linear",
        f"Softmax attention errs less than the best linear layer of any {m.config.n_features} features, "
        f"{linear.minimum:.5f}: its risk over this",
        lambda found: Estimate.mean(found.query_losses).over(linear.minimum),
        evidence="behaviour",
        source="no theory; measured, as a baseline",
        tolerance="softmax",
        predicted=0.75,
        side="at most",
    )
    prompts: Any = m.parts[0]
    bayes = prompts.losses(Bayes(m.process)(prompts.pairs())).double()
    yield m.claim(
        "softmax/Bayes",
        "The model does not reach the posterior mean: its risk over that on the same prompts",
        lambda found: Estimate.ratio(found.query_losses[: len(bayes)], bayes),
        evidence="behaviour",
        source="no theory; measured, as a baseline",
        tolerance="softmax",
        predicted=1.03,
        side="at least",
        control=("the posterior mean itself", 1.0),
    )


def _phi(found: PromptsMeasured) -> Tensor:
    return found.model.features(found.setting.grid).detach().double()


def _of_smoothness(process: Any, n: int) -> float:
    """The risk of all functions by frequency with the weights that are best for a prior of smoothness `COARSE`."""
    known = replace(process, variances=None, smoothness=COARSE, n_functions=len(process.prior))
    sizes = {"n": n, "noise_variance": process.noise_variance}
    return linear_attention_risk_at(linear_attention_weights(known.prior, **sizes), process.prior, **sizes)


def _of_projection(found: PromptsMeasured) -> float:
    """Excess of Gamma = Q^{-1} over the best."""
    moments = found.structure.moments
    return float(moments.risk(torch.linalg.pinv(moments.Q, hermitian=True)) - moments.risk(moments.best))
