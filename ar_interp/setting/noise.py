"""Theory of models that were trained on noisy tokens: the step, the two newest keys, and what a stack cannot cross."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from ar_interp import seeds
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.models.weights import diagonal_weights
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, HaarOrthogonal
from ar_interp.setting.augmented import UNIT_NORM, StepAlone, is_one_layer
from ar_interp.setting.base import EXACT, ExpectedLoss, Hypothesis, Parameters, Setting
from ar_interp.setting.diagonal import heads_of
from ar_interp.setting.sampled import is_block_scalar_stack
from ar_interp.theory import (
    NoisyKeys,
    kappa_family,
    noisy_heads_loss,
    noisy_keys,
    noisy_mixing,
    noisy_step_minimum,
    noisy_step_size,
)
from ar_interp.theory.noise import step_gains

N_HELD_OUT, PART = 2048, 64  # contexts that members are compared on, and how many at once


class _Noisy(Setting):
    """Base of all three parts."""

    @property
    def noise(self) -> dict[str, float]:
        """The variances, as functions of theory call them."""
        process = self.process
        return {
            "process_variance": process.process_noise**2,
            "observation_variance": process.observation_noise**2,
        }


class NoisyStep(_Noisy, StepAlone):
    """One layer of block scalars on commuting unitary W whose tokens are noisy: the gradient step becomes shorter."""

    kind = "noisy gradient step"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            is_one_layer(config, "linear")
            and config.heads == "block-scalar"
            and type(process) is CommutingUnitary
            and _is_noisy(process)
        )

    @property
    def product(self) -> float:
        return noisy_step_size(**self._sizes)

    @property
    def least(self) -> float:
        return noisy_step_minimum(**self._sizes)

    @property
    def power(self) -> float:
        return self.config.dim * self.product * float(step_gains(**self._sizes).mean())

    @property
    def _sizes(self) -> dict[str, Any]:
        sizes = {"dim": self.config.dim, "max_length": self.config.n_ctx, "stationary": self.process.stationary}
        return sizes | self.noise


class NoisyHeads(_Noisy):
    """Diagonal heads on a commuting process whose tokens are noisy: any noise leaves one minimum, up to a scale.

    Of at least dim heads it is kappa = 0 and the newest key alone; of dim / 2 heads, for conjugate pairs, it is
    kappa = 1, older keys that average, and a little of the other pairs.
    """

    kind = "noisy heads"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            type(config) is ModelConfig
            and config.heads == "diagonal"
            and config.dim == process.dim
            and type(process) in (CommutingUnitary, CommutingOrthogonal)
            and _is_noisy(process)
            and not process.stationary
            and (config.n_heads >= config.dim or (type(process).conjugate_pairs and 2 * config.n_heads == config.dim))
        )

    @property
    def pairs(self) -> bool:
        """Eigenvalues come in conjugate pairs."""
        return type(self.process).conjugate_pairs

    @property
    def kappa(self) -> float:
        """kappa of the minimum."""
        return float(self.config.n_heads < self.config.dim)

    @property
    def rank(self) -> int:
        """Rank of C at the minimum."""
        return min(self.config.n_heads, self.config.dim)

    @property
    def hypothesis(self) -> Hypothesis | None:
        return None if self.kappa else (0,)

    def keys(self, length: int) -> NoisyKeys:
        """The best positional weights at T, where C has a diagonal of ones."""
        return noisy_keys(dim=self.config.dim, length=length, kappa=self.kappa, mixing=self.mixing, **self.noise)

    @cached_property
    def mixing(self) -> float:
        """C_ji / C_jj of the best C for i of another pair."""
        return noisy_mixing(dim=self.config.dim, max_length=self.config.n_ctx, **self.noise) if self.kappa else 0.0

    @property
    def minimum(self) -> float | None:
        return None if self.no_exact_loss else self.best

    @cached_property
    def best(self) -> float:
        """The smallest error, mean over T = 2..n_ctx."""
        return float(np.mean([self.keys(T).loss for T in range(2, self.config.n_ctx + 1)]))

    @property
    def no_exact_loss(self) -> str | None:
        if self.pairs and not self.process.process_noise:
            return None
        return "closed forms of all noisy heads hold for conjugate pairs and noise of observation alone"

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        """The expected loss of every member, as `Setting.exact_loss`, with respect to the clean target."""
        if self.no_exact_loss:
            return super().exact_loss(parameters)
        return self._loss(parameters[HEAD_B].mT @ parameters[HEAD_A], parameters[POSITIONAL_P])

    def expected_loss(self, model: Any) -> ExpectedLoss:
        if self.no_exact_loss:
            return super().expected_loss(model)
        weights = diagonal_weights(model)
        total = self._loss(weights.C, weights.P).item()
        return ExpectedLoss(total / (self.config.n_ctx - 1), 0.0, EXACT)

    def _loss(
        self, C: Float[Tensor, "*ensemble dim dim"], P: Float[Tensor, "*ensemble query key"]
    ) -> Float[Tensor, "*ensemble"]:
        return noisy_heads_loss(C, P, observation_variance=self.noise["observation_variance"])

    def previous_key(self, kappa: float) -> float | None:
        return None if self.kappa else 0.0

    def ideal(self, model: Any) -> Any:
        """C = I + kappa J, and what it has of other pairs, with the best keys."""
        n_ctx, dim = self.config.n_ctx, self.config.dim
        C = torch.eye(dim, dtype=torch.float64, device="cpu")
        if self.pairs:
            family = kappa_family(dim=dim, kappa=self.kappa, n_ctx=2).C
            C = torch.where(family == 0, self.mixing, family) if self.kappa else family
        P = torch.zeros(n_ctx, n_ctx, dtype=torch.float64, device="cpu")
        for T in range(2, n_ctx + 1):
            P[T - 2, :T] = torch.from_numpy(self.keys(T).p)
        return heads_of(C, P, self.config.n_heads, self.process, model.W_Q.device)

    @property
    def sentences(self) -> Mapping[str, str]:
        if self.kappa:
            ratio = "In theory noise bends p<sub>T−1</sub>/p<sub>T</sub> away from −1/2, and older keys average"
            return {"ratio": ratio, "positional": ratio}
        return {
            "heads": "In theory any noise makes C = BᵀA a multiple of the identity: κ = 0",
            "positional": "In theory only the newest key is used, and shrunk by the noise",
            "ratio": "In theory p<sub>T−1</sub>/p<sub>T</sub> = 0 at every T",
        }


class NoisyStack(_Noisy):
    """Residual stacks of block scalars on Haar W whose tokens, of norm 1, are observed with noise; softmax as well."""

    kind = "noisy Haar stack"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            (is_block_scalar_stack(config) or _is_softmax_stack(config))
            and type(process) is HaarOrthogonal
            and process.observation_noise > 0
            and not (process.noise or process.stationary)
            and process.initial in UNIT_NORM
        )

    def of_members(self, parameters: Parameters) -> Mapping[str, Real[Tensor, "ensemble"]]:
        """The error of the clean token at the longest T, on contexts that all members share, as `last`."""
        first = next(iter(parameters.values()))
        generator = seeds.generator_of(seeds.FINAL_LOSSES, first.device)
        sizes = {"n": N_HELD_OUT, "length": self.config.n_ctx, "dtype": self.config.torch_dtype}
        parts = self.process.contexts(**sizes, generator=generator).split(PART)
        model = self.config.build(self.process, device=first.device).requires_grad_(False)
        found = []
        for k in range(len(first)):
            model.load_state_dict({name: values[k].detach() for name, values in parameters.items()})
            errors = torch.cat([part.errors(model(part.inputs))[:, -1] for part in parts])
            found.append(errors.double().mean())
        return {"last": torch.stack(found)}


def _is_softmax_stack(config: Any) -> bool:
    """Residual layers of block scalars on augmented tokens, with softmax attention of any number of heads."""
    return (
        type(config) is ModelConfig
        and (config.heads, config.attention, config.positional) == ("block-scalar", "softmax", "none")
        and config.bare
        and config.residual
    )


def _is_noisy(process: Any) -> bool:
    """A uniform commuting family with noise of its own law that starts at 1_dim, or is stationary."""
    return not process.noiseless and not process.noise and process.mu == 1 and process.initial == FirstToken()
