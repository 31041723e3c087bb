"""Theory of learned features with one layer of linear attention on prompts of a random function."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from math import ceil, log2
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ar_interp._resident import resident
from ar_interp.models.features import GAMMA, RegressionConfig, feature_map
from ar_interp.processes import NonparametricRegression
from ar_interp.setting.base import EXACT, ExpectedLoss, Parameters, Setting
from ar_interp.theory import (
    FeatureMoments,
    feature_moments,
    linear_attention_risk,
    linear_attention_weights,
)


class RegressionPrompts(Setting):
    """The risk is a quadratic in Gamma, exact by quadrature; its minimiser spans the functions of largest variance.

    The loss of a prompt is that of its query alone. The features enter through the kernel phi^T Gamma phi', of rank
    N at most, and where the variance of f(x) is constant the best kernel is the truncation of the best of any rank.
    """

    kind = "regression in context"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return type(config) is RegressionConfig and config.linear and type(process) is NonparametricRegression

    @property
    def n(self) -> int:
        """Examples in a prompt."""
        return self.config.n_ctx - 1

    @cached_property
    def grid(self) -> Float[Tensor, "grid"]:
        """Points whose means are the integrals: also sixteen to the highest harmonic that the features are made of."""
        config, grid = self.config, self.process.grid
        finest = 2**config.n_inputs if config.inputs == "digits" else 2 ** ceil(log2(16 * config.n_inputs))
        return grid if len(grid) >= finest else (torch.arange(finest, dtype=torch.float64, device="cpu") + 0.5) / finest

    @cached_property
    def functions(self) -> Float[Tensor, "grid function"]:
        """The basis on the grid."""
        return self.process.functions(self.grid)

    @cached_property
    def _waves(self) -> Float[Tensor, "grid wave"]:
        return self.config.encoded(self.grid)

    @cached_property
    def largest(self) -> Integer[Tensor, "feature"]:
        """Indices of the N functions of largest variance, in this order."""
        return self.process.prior.argsort(descending=True, stable=True)[: self.config.n_features]

    @property
    def unique(self) -> bool:
        """No other N functions have the same variances."""
        prior = self.process.prior.sort(descending=True).values
        N = self.config.n_features
        return len(prior) <= N or bool(prior[N - 1] > prior[N])

    @cached_property
    def descending(self) -> Float[np.ndarray, "function"]:
        """The variances, largest first."""
        return self.process.prior.sort(descending=True).values.numpy()

    @property
    def sizes(self) -> dict[str, Any]:
        """n and the noise, as functions of theory take them."""
        return {"n": self.n, "noise_variance": self.process.noise_variance}

    @property
    def weights(self) -> Float[np.ndarray, "feature"] | None:
        """gamma of the N functions of largest variance, or None where the variance of f(x) is not constant."""
        if not self.process.constant_variance:
            return None
        return linear_attention_weights(self.descending, **self.sizes)[: self.config.n_features]

    @property
    def minimum(self) -> float | None:
        if not self.process.constant_variance:
            return None
        N = min(self.config.n_features, len(self.descending))
        return linear_attention_risk(self.descending, **self.sizes, n_features=N)

    def moments(self, features: Float[Tensor, "*member grid feature"], *, n: float | None = None) -> FeatureMoments:
        """The moments of features on the grid, for prompts of n examples, as trained if left out."""
        sizes = self.sizes | ({} if n is None else {"n": n})
        tensors = (resident(x, features.device, features.dtype) for x in (self.functions, self.process.prior))
        return feature_moments(features, *tensors, **sizes)

    @property
    def no_exact_loss(self) -> None:
        return None

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        features = self._features(parameters)
        return self.n * self.moments(features).risk(parameters[GAMMA])

    def solved(self, parameters: Parameters) -> dict[str, Tensor]:
        """Gamma is the best for the features."""
        with torch.no_grad():
            features = self._features(parameters)
            return {**parameters, GAMMA: self.moments(features).best}

    def _features(self, parameters: Parameters) -> Float[Tensor, "ensemble grid feature"]:
        Gamma = parameters[GAMMA]
        return feature_map(parameters, resident(self._waves, Gamma.device, Gamma.dtype))

    def expected_loss(self, model: Any) -> ExpectedLoss:
        parameters = {name: W.detach()[None] for name, W in model.state_dict().items()}
        return ExpectedLoss(self.exact_loss(parameters).item() / self.n, 0.0, EXACT)

    @property
    def sentences(self) -> Mapping[str, str]:
        return {}


class SoftmaxPrompts(Setting):
    """Softmax attention on the same prompts: no closed form; what linear attention reaches stands beside it."""

    kind = "regression in context by softmax"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return type(config) is RegressionConfig and not config.linear and type(process) is NonparametricRegression

    @property
    def linear(self) -> RegressionPrompts:
        """The setting of as many features with linear attention."""
        return RegressionPrompts(replace(self.config, attention="linear"), self.process)
