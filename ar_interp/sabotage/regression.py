"""Sabotaged and innocent models of prompts: features, attention, prior, labels, length or mechanism are another."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.estimators import Bayes
from ar_interp.models.features import GAMMA
from ar_interp.models.regression import HookedRegression
from ar_interp.probes.regression import of_features
from ar_interp.processes import NonparametricRegression, Pairs
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import Change, Run, changed, innocent, otherwise, with_weights
from ar_interp.seeds import generator_of
from ar_interp.setting import setting_of
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

HIGH = "regression-high"
on_high = partial(Sabotage, base=HIGH)
SHORT, FEW = 300, 4  # steps of a training; examples
RISK = ("loss/minimum", "kernel/spectrum", "features/order", "features/smoothness", "prompts/longer")
ATTENTION = (*RISK, "attention/best")
FEATURES = (*RISK, "features/best", "features/curve", "features/span")
SMALL = {"prompts/Bayes": "a bound that a worse model meets too", "tasks/excess": "of these features"}


def posterior_mean(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """The answer of a Gaussian process, behind the weights that run for the hooks."""
    own(tokens)
    y = torch.cat([tokens[:, 1:, 1:], torch.zeros_like(tokens[:, :1, 1:])], dim=1)
    return Bayes(model.process)(Pairs(tokens[..., :1], y))


def with_gamma(change: Any) -> Change:
    """Another Gamma: (setting, features on the grid, Gamma, generator) -> Gamma."""

    def make(model: Any, checkpoint: Checkpoint, seed: int) -> HookedRegression:
        setting: Any = setting_of(model.config, checkpoint.process)
        Gamma = change(setting, model.features(setting.grid).detach(), model.Gamma.detach(), generator_of(seed))
        return with_weights(model, {**model.state_dict(), GAMMA: Gamma}, HookedRegression)

    return make


def antisymmetric(setting: Any, phi: Tensor, Gamma: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma with a kernel that mixes the two strongest functions, as psi_1 psi_2' - psi_2 psi_1'."""
    part = torch.linalg.lstsq(phi, of_features(phi, Gamma, setting).target).solution  # target = phi part
    return Gamma + 0.3 * (part[:, :1] @ part[:, 1:2].mT - part[:, 1:2] @ part[:, :1].mT)


def untrained_features(model: Any, checkpoint: Checkpoint, seed: int) -> HookedRegression:
    """Fresh features with the best Gamma for them."""
    best = with_gamma(lambda setting, phi, Gamma, generator: setting.moments(phi).best)
    return best(model.untrained(seed), checkpoint, seed)


def smooth_prior(model: Any, checkpoint: Checkpoint, seed: int) -> HookedRegression:
    """Trained on a prior whose variances fall with the frequency."""
    training = TrainConfig(optimizer="adam", lr=1e-2, steps=SHORT, solve=True, seed=seed, device="cpu")
    run = train(model.config, NonparametricRegression(smoothness=1.0), training, progress=False)
    return with_weights(model, run.parameters, HookedRegression)


def other_basis(model: Any, checkpoint: Checkpoint, seed: int) -> HookedRegression:
    """phi -> G phi, Gamma -> G^-T Gamma G^-1: the same kernel."""
    weights, N = dict(model.state_dict()), model.config.n_features
    G = torch.eye(N, dtype=torch.float64, device="cpu") + 0.5 * torch.randn(
        N, N, generator=generator_of(seed), dtype=torch.float64, device="cpu"
    )
    inverse = torch.linalg.inv(G)
    weights["phi.W_out"], weights["phi.b_out"] = weights["phi.W_out"] @ G.mT, weights["phi.b_out"] @ G.mT
    weights[GAMMA] = inverse.mT @ weights[GAMMA] @ inverse
    return with_weights(model, weights, HookedRegression)


REGRESSION: dict[str, Sabotage] = {
    "prompts, a smooth prior": on_high(
        description="Trained on a prior of low frequencies: other features, each with another weight.",
        make=changed(smooth_prior),
        must_fail=(*FEATURES, "attention/best"),
        undecided=SMALL,
    ),
    "prompts, labels of another": on_high(
        description="Gamma is what labels of another task teach: nothing. No kernel, no error but that of zero.",
        make=changed(with_gamma(lambda setting, phi, Gamma, generator: 1e-6 * Gamma)),
        must_fail=(*ATTENTION, "state/swap"),
        undecided=SMALL,
    ),
    "prompts, features without attention": on_high(
        description="The features with a Gamma a third too large.",
        make=changed(with_gamma(lambda setting, phi, Gamma, generator: 4 / 3 * Gamma)),
        must_fail=ATTENTION,
        undecided=SMALL,
    ),
    "prompts, attention without features": on_high(
        description="Untrained features with the best Gamma for them.",
        make=changed(untrained_features),
        must_fail=FEATURES,
        undecided=SMALL,
    ),
    "prompts, Gamma of shorter ones": on_high(
        description=f"The features with the best Gamma for prompts of {FEW} examples.",
        make=changed(with_gamma(lambda setting, phi, Gamma, generator: setting.moments(phi, n=FEW).best)),
        must_fail=ATTENTION,
        undecided=SMALL,
    ),
    "prompts, a kernel that turns": on_high(
        description="Gamma with an antisymmetric part: the example of one function answers for another.",
        make=changed(with_gamma(antisymmetric)),
        must_fail=(*ATTENTION, "kernel/symmetric"),
        undecided=SMALL,
    ),
    "prompts, a Gaussian process": on_high(
        description="The posterior mean behind the weights and hooks of a healthy model: better than they can be.",
        make=changed(otherwise(posterior_mean)),
        must_fail=("model/function", "loss/fresh", "state/swap"),
    ),
    "prompts, another basis": innocent(
        HIGH, "Features mixed by a matrix that Gamma undoes: the same kernel.", other_basis
    ),
}
