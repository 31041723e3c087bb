"""Theory of one layer whose circuits are its parameters: how training finds the gradient step (Zheng et al. 2024)."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from ar_interp.processes import CommutingUnitary, FirstToken
from ar_interp.setting.augmented import CIRCUITS, GRADIENT_STEP
from ar_interp.setting.base import EXACT, ExpectedLoss, Hypothesis, Parameters, Setting, is_uniform
from ar_interp.setting.sampled import is_bare_augmented
from ar_interp.theory import TokenMoments, first_token_moments, flow_path, initial_token_product, plane_loss
from ar_interp.theory.layer_quadratic import (
    MOST_SEQUENCES,
    LayerQuadratic,
    first_token_points,
    free_blocks,
    layer_quadratic,
    sequences_of_grid,
)

N_FLOWS = 24  # lines of a phase portrait from each of two circles


class Emergence(Setting):
    """One layer divided by the number of pairs, QK and OV its parameters, on diagonal unitary W.

    The plane A = a I, B = b I of gradient steps is what training is looked at in: A is the block of QK where s_T asks
    s_{t-1}, transposed, and B the block of OV that writes s_t, transposed.
    """

    kind = "emergence"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            is_bare_augmented(config)
            and config.heads == "merged"
            and (config.n_layers, config.attention) == (1, "linear/pairs")
            and type(process) is CommutingUnitary
            and is_uniform(process)
        )

    @property
    def law(self) -> FirstToken:
        """The law of s_1."""
        return self.process.initial

    @property
    def max_length(self) -> int:
        """Tokens in a training sequence, as `theory.emergence` counts."""
        return self.config.n_ctx + 1

    @property
    def in_plane(self) -> bool:
        """Training that starts in the plane stays in it: coordinates are alike, with free signs or one at a time."""
        return self.law.exchangeable and self.law.law in ("gaussian", "signs", "sphere", "one-hot", "sparse")

    @property
    def moments(self) -> TokenMoments | None:
        """Moments of the first token; None where its coordinates are not alike."""
        law = self.law
        if not law.exchangeable:
            return None
        return first_token_moments(law.law, dim=self.config.dim, scale=law.scale, n_nonzero=law.n_nonzero)

    @property
    def product(self) -> float:
        """a b of the best gradient step; nan where coordinates are not alike."""
        return float("nan") if self.moments is None else initial_token_product(self.moments, max_length=self.max_length)

    @property
    def hypothesis(self) -> Hypothesis:
        return (GRADIENT_STEP,)

    @property
    def no_exact_loss(self) -> str | None:
        if self.law.law == "sphere":
            return "first tokens on the sphere have no few points of the same moments"
        dim, n_ctx = self.config.dim, self.config.n_ctx
        size = sequences_of_grid(1, dim=dim, n_ctx=n_ctx)
        if size <= MOST_SEQUENCES:
            size = sequences_of_grid(len(_points(self.law, dim)[0]), dim=dim, n_ctx=n_ctx)
        if size > MOST_SEQUENCES:
            return f"its exact grid has {size:,} sequences, and at most {MOST_SEQUENCES:,} are summed"
        return None

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        if self.no_exact_loss:
            return super().exact_loss(parameters)
        quadratic = _quadratic_of(self.law, self.config.dim, self.config.n_ctx)
        return quadratic.loss(*free_blocks(parameters, self.config.dim))

    def expected_loss(self, model: Any) -> ExpectedLoss:
        if self.no_exact_loss:
            return super().expected_loss(model)
        own = {name: W.detach()[None] for name, W in model.named_parameters()}
        return ExpectedLoss(self.exact_loss(own).item() / (self.config.n_ctx - 1), 0.0, EXACT)

    def record(self, parameters: Parameters) -> Mapping[str, Float[Tensor, "ensemble"]]:
        """The numbers of `record_of`; where coordinates differ, the product of each as well."""
        return record_of(parameters, self.config.dim, each=bool(self.law.scales))

    def of_members(self, parameters: Parameters) -> Mapping[str, Real[Tensor, "ensemble"]]:
        """The coordinates with the rarer sign, as `minus`."""
        return {"minus": record_of(parameters, self.config.dim)["minus"]}

    def flows(self, start: Sequence[float] = (1.0, 1.0)) -> Float[np.ndarray, "start time 2"]:
        """Lines of gradient flow in the plane, half of them from near the saddle at 0 and half from beyond `start`.

        Raises:
            ValueError: coordinates that are not alike, which have no such plane.
        """
        if self.moments is None:
            raise ValueError(f"first tokens {self.law} have no plane of their own: their coordinates are not alike.")
        outer = 1.3 * max(self.product**0.5, *map(abs, start))
        slope = plane_loss(self.moments, max_length=self.max_length).slope
        times = np.geomspace(1, 1001, 101) - 1
        sizes = {"max_length": self.max_length, "times": times / times[-1] * 10 / slope}
        angles = 2 * np.pi * (np.arange(N_FLOWS) + 0.5) / N_FLOWS
        starts = np.concatenate([r * np.stack([np.cos(angles), np.sin(angles)], axis=1) for r in (0.05 * outer, outer)])
        return np.stack([flow_path(self.moments, a=a, b=b, **sizes) for a, b in starts])

    @property
    def sentences(self) -> Mapping[str, str]:
        context = "In theory one linear layer takes one gradient step, up to signs: an error remains at every T"
        return {"context": context} | CIRCUITS


def main_blocks(
    parameters: Parameters, dim: int
) -> tuple[Float[Tensor, "ensemble dim dim"], Float[Tensor, "ensemble dim dim"]]:
    """A [key s_{t-1}, query s_T] and B [read-out, value s_t] of merged heads."""
    QK, OV = free_blocks(parameters, dim)
    return _main(QK, OV, dim)


def record_of(parameters: Parameters, dim: int, *, each: bool = False) -> dict[str, Float[Tensor, "ensemble"]]:
    """The means a and b of the diagonals of A and B, and how far every member is from a gradient step.

    `off_plane` is the norm of what is left of all entries, `minus` the number of coordinates with the rarer sign in B;
    with `each` also the products A_jj B_jj, as product_1, product_2, ...
    """
    both = [part.detach().clone() for part in free_blocks(parameters, dim)]
    diagonals = [block.diagonal(0, -2, -1) for block in _main(both[0], both[1], dim)]
    products, (a, b) = diagonals[0] * diagonals[1], [x.mean(-1) for x in diagonals]
    negative = (diagonals[1] < 0).sum(-1)
    for diagonal, mean in zip(diagonals, (a, b), strict=True):
        diagonal -= mean[:, None]
    off_plane = torch.cat([part.flatten(1) for part in both], dim=1).norm(dim=1)
    found = {"a": a, "b": b, "off_plane": off_plane, "minus": torch.minimum(negative, dim - negative)}
    return found | ({f"product_{j + 1}": products[:, j] for j in range(dim)} if each else {})


def _main(QK: Tensor, OV: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return QK[:, :dim, dim:].mT, OV[:, :dim].mT


@cache
def _points(law: FirstToken, dim: int) -> tuple[Tensor, Tensor]:
    points, weights = first_token_points(law.law, dim=dim, n_nonzero=law.n_nonzero)
    return law.scale * (points if law.exchangeable else points @ law.mixing(dim).T), weights


@cache
def _quadratic_of(law: FirstToken, dim: int, n_ctx: int) -> LayerQuadratic:
    return layer_quadratic(*_points(law, dim), n_ctx=n_ctx)
