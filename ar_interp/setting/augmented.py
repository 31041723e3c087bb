"""Theory of linear attention on augmented tokens: the gradient step, laws of the first token, Haar W and depth."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.models.block_scalars import CURRENT, READ_OUT
from ar_interp.processes import CommutingUnitary, FirstToken, HaarOrthogonal
from ar_interp.setting.base import UNIT_COORDINATES, Hypothesis, Parameters, Setting, is_uniform
from ar_interp.setting.sampled import (
    N_SEQUENCES,
    SampledQuadratic,
    is_bare_augmented,
    is_block_scalar_stack,
    sampled_quadratic,
)
from ar_interp.theory import (
    BlockScalarMinimum,
    BlockScalarQuadratic,
    TokenMoments,
    block_scalar_loss,
    block_scalar_minimum,
    block_scalar_quadratic,
    first_token_moments,
    initial_token_error,
    initial_token_product,
    product_place,
)

GRADIENT_STEP = ("s_t", "s_{t-1}", "s_t")  # s_T asks s_{t-1} and is answered s_t: a2 b1
STEP_PRODUCT = product_place("a2 b1")
CIRCUITS = {
    "circuit spectra": "A gradient step needs d equal singular values in QK and in OV, the others 0",
    "circuit eigenvalues": "A gradient step moves one block into another: nilpotent, all eigenvalues 0",
}
UNIT_NORM = (FirstToken("unit-ones"), FirstToken("sphere"))


class OneLayer(Setting):
    """Base of the parts that speak of one layer and its gradient step."""

    @property
    def hypothesis(self) -> Hypothesis:
        return (GRADIENT_STEP,)

    def recovered_by_step(self) -> float:
        """Share of the loss that the best layer recovers with all paths but the gradient step from another sequence.

        With g the products, k those of the step and r the rest: g_k . (h + G g_r) / h . g, since W and -W are alike.
        """
        best, quadratic = self.best, self.quadratic
        g = np.outer(best.a, best.b)
        step = np.zeros_like(g)
        step[STEP_PRODUCT] = g[STEP_PRODUCT]
        g, step = g.ravel(), step.ravel()
        return float(step @ (quadratic.h + quadratic.G @ (g - step)) / (quadratic.h @ g))

    @property
    def best(self) -> BlockScalarMinimum:
        """The best block scalars."""
        raise NotImplementedError

    @property
    def power(self) -> float:
        """E|prediction|^2 of the best layer, mean over T = 2..n_ctx."""
        return float(self.quadratic.h @ np.outer(self.best.a, self.best.b).ravel()) / (self.config.n_ctx - 1)

    @property
    def quadratic(self) -> BlockScalarQuadratic:
        """The loss as a quadratic in the products of block scalars."""
        raise NotImplementedError

    def ideal(self, model: Any) -> Any:
        """The best block scalars."""
        products = None if self.config.n_layers > 1 else self.best_products
        if products is None:
            return None
        U, S, Vh = np.linalg.svd(products)
        a, b = U[:, 0] * S[0], Vh[0]
        ideal = replace(self.config, heads="block-scalar", d_head=None, dtype="float64")
        ideal = ideal.build(self.process, device=model.W_Q.device)
        QK, OV = (torch.zeros(1, 3, 3, dtype=torch.float64, device="cpu") for _ in range(2))
        QK[0, CURRENT:, CURRENT:] = torch.from_numpy(a).reshape(2, 2)
        OV[0, CURRENT:, READ_OUT] = torch.from_numpy(b)
        ideal.load_state_dict({"blocks.0.attn.QK_blocks": QK, "blocks.0.attn.OV_blocks": OV})
        return ideal.requires_grad_(False)

    @property
    def sentences(self) -> Mapping[str, str]:
        context = "In theory one linear layer takes one gradient step: an error remains at every T"
        return {"context": context} | CIRCUITS


class GradientStep(OneLayer):
    """One layer on a commuting process whose first tokens have coordinates of modulus 1 (Sander et al. 2024)."""

    kind = "gradient step"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            is_one_layer(config, "linear")
            and config.heads in ("full", "block-scalar")
            and is_uniform(process)
            and process.initial in UNIT_COORDINATES
        )

    @property
    def full(self) -> bool:
        """Heads are full matrices, not scalars of blocks."""
        return self.config.heads == "full"

    @property
    def pairs(self) -> bool:
        """Eigenvalues come in conjugate pairs, which open a second path a3."""
        return type(self.process).conjugate_pairs

    @property
    def minimum(self) -> float | None:
        return self.best.loss if self.config.heads == "block-scalar" else None

    @property
    def best(self) -> BlockScalarMinimum:
        return block_scalar_minimum(**self._sizes)

    @property
    def quadratic(self) -> BlockScalarQuadratic:
        return block_scalar_quadratic(**self._sizes)

    @property
    def best_products(self) -> Float[np.ndarray, "4 2"]:
        return np.outer(self.best.a, self.best.b)

    @property
    def no_exact_loss(self) -> str | None:
        if self.config.heads == "block-scalar":
            return None
        return "heads are full, and closed forms hold for diagonal and block-scalar ones"

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        if self.no_exact_loss:
            return super().exact_loss(parameters)
        QK, OV = (parameters[f"blocks.0.attn.{name}_blocks"][:, 0] for name in ("QK", "OV"))
        return block_scalar_loss(QK[:, CURRENT:, CURRENT:].flatten(1), OV[:, CURRENT:, READ_OUT], **self._sizes)

    @property
    def _sizes(self) -> dict[str, Any]:
        return {"dim": self.config.dim, "max_length": self.config.n_ctx, "conjugate_pairs": self.pairs}


class StepAlone(OneLayer):
    """Base of the parts in which no product of scalars but a2 b1, the step, has the phases of the target."""

    @property
    def product(self) -> float:
        """a2 b1 of the best layer."""
        raise NotImplementedError

    @property
    def least(self) -> float:
        """The loss of the best layer, mean over T = 2..n_ctx."""
        raise NotImplementedError

    @property
    def best(self) -> BlockScalarMinimum:
        return BlockScalarMinimum(np.array([0.0, self.product, 0.0, 0.0]), np.array([1.0, 0.0]), self.least)

    @property
    def best_products(self) -> Float[np.ndarray, "4 2"]:
        return np.outer(self.best.a, self.best.b)

    def recovered_by_step(self) -> float:
        return 1.0


class FirstTokenLaw(StepAlone):
    """One layer divided by the number of pairs, on diagonal unitary W: the law of s_1 sets the step (Zheng et al.)."""

    kind = "first token"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            is_one_layer(config, "linear/pairs")
            and config.heads == "block-scalar"
            and type(process) is CommutingUnitary
            and is_uniform(process)
            and process.initial.exchangeable
        )

    @property
    def moments(self) -> TokenMoments:
        """Moments of the first token."""
        first: FirstToken = self.process.initial
        return first_token_moments(first.law, dim=self.config.dim, scale=first.scale, n_nonzero=first.n_nonzero)

    @property
    def product(self) -> float:
        return initial_token_product(self.moments, max_length=self.config.n_ctx + 1)

    @property
    def least(self) -> float:
        lengths = range(2, self.config.n_ctx + 1)
        errors = [initial_token_error(self.moments, product=self.product, length=T) for T in lengths]
        return self.config.dim * float(np.mean(errors))

    @property
    def power(self) -> float:
        return self.config.dim * self.product * self.moments.kappa1


class HaarStack(OneLayer):
    """Residual stacks of block scalars on Haar W with first tokens of norm 1, raw or divided by the number of keys."""

    kind = "Haar stack"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return is_block_scalar_stack(config) and is_unit_haar(process)

    @property
    def per_key(self) -> bool:
        """Scores are divided by the number of keys."""
        return self.config.attention == "linear/keys"

    @property
    def best(self) -> BlockScalarMinimum:
        """The best single layer, by least squares on `N_SEQUENCES` sequences."""
        return self._reference.minimum

    def near(self, ratio: float, read: Callable[[BlockScalarMinimum], float]) -> tuple[float, float]:
        """A number read off the local minimum downhill from |b2 / b1| = ratio, and its standard error."""
        return read(self._reference.near(ratio)), self._reference.spread(read, ratio)

    @property
    def n_reference(self) -> int:
        """Sequences that `best` rests on."""
        return N_SEQUENCES

    @property
    def quadratic(self) -> BlockScalarQuadratic:
        return self._reference.mean

    @property
    def _reference(self) -> SampledQuadratic:
        return sampled_quadratic(self.process, self.config.n_ctx, self.config.attention)

    @property
    def sentences(self) -> Mapping[str, str]:
        return super().sentences if self.config.n_layers == 1 else CIRCUITS


def is_unit_haar(process: Any) -> bool:
    """Haar W without noise, first tokens of norm 1; a subclass is another process."""
    return type(process) is HaarOrthogonal and process.noiseless and process.initial in UNIT_NORM


def is_one_layer(config: Any, attention: str) -> bool:
    """One bare augmented layer with one head and scores that are divided like this."""
    return is_bare_augmented(config) and (config.n_layers, config.attention) == (1, attention)
