"""Readings of augmented layers that claims are made of: scalars of blocks, paths, and the estimate."""

from copy import deepcopy
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Measured
from ar_interp.estimators import GradientDescent
from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes.blocks import AugmentedBlocks, augmented_blocks, split_blocks
from ar_interp.probes.context import recover_context
from ar_interp.processes import Process
from ar_interp.studies.interventions import Expected, estimate_claim, excess_by_pair

READ_OUT, CURRENT, PREVIOUS = range(3)  # blocks of a token: (0, s_t, s_{t-1})
STEP, BACK = (1, 0), (2, 0)  # a2 b1 and a3 b1 among the products (a1..a4) x (b1, b2)


class BlocksMeasured(Measured):
    """An augmented model and the block view of its first layer."""

    RECOVERED = 256

    @cached_property
    def blocks(self) -> AugmentedBlocks:
        return augmented_blocks(self.model)

    @property
    def second_path(self) -> float:
        """a3 / a2."""
        return (self.blocks.products[BACK] / self.blocks.step_size).item()

    @property
    def second_value(self) -> float:
        """|b2 / b1|."""
        OV = self.blocks.OV
        return abs((OV[PREVIOUS, READ_OUT] / OV[CURRENT, READ_OUT]).item())

    def share_beside_step(self, *, second: bool = False) -> float:
        """Largest product of scalars but a2 b1, and but a3 b1 where it is the second path, over a2 b1."""
        products = self.blocks.products.clone()
        step = products[STEP].abs().item()
        products[STEP] = 0
        if second:
            products[BACK] = 0
        return products.abs().max().item() / step if step else float("nan")

    @property
    def step_defect(self) -> float:
        """Distance of the QK block (s_T, s_{t-1}) from a multiple of the identity, over its norm."""
        norms = self._QK_norms
        defect = self.blocks.QK_defect[CURRENT, PREVIOUS]
        return (defect * norms.max() / norms[CURRENT, PREVIOUS]).item()

    @property
    def value_defect(self) -> float:
        """The same of the OV block that writes s_t."""
        return self.blocks.OV_defect[CURRENT, READ_OUT].item()

    @property
    def other_blocks(self) -> float:
        """Largest norm of the other QK blocks, over that of the block (s_T, s_{t-1})."""
        norms = self._QK_norms
        others = norms[[CURRENT, PREVIOUS, PREVIOUS], [CURRENT, CURRENT, PREVIOUS]]
        return (others.max() / norms[CURRENT, PREVIOUS]).item()

    @property
    def _QK_norms(self) -> Float[Tensor, "3 3"]:
        QK = (self.model.W_Q[0, 0] @ self.model.W_K[0, 0].mT).detach()
        return split_blocks(QK, self.config.dim).norm(dim=(-2, -1))

    @property
    def reference(self) -> HookedARTransformer:
        """The layer of the best block scalars."""
        config = ModelConfig.augmented(
            dim=self.config.dim, n_ctx=self.config.n_ctx, heads="block-scalar", attention=self.config.attention
        )
        best = self.setting.best
        return layer_of(config, best.a, best.b, self.process)

    @property
    def second_query(self) -> Expected:
        """The target's s_{T-1}, which asks the moved state too where the best layer has a second path."""
        best = self.reference
        return Expected("s_{T-1} of the target asks, in the best block scalars", partial(excess_by_pair, best))

    def estimate_claim(self, step_size: float, *, source: str, predicted: float | None = None) -> Claim:
        """Claim that the estimate is as far from W as one gradient step of this size."""
        n_ctx = self.config.n_ctx
        shared = {"linear/keys": n_ctx, "linear/pairs": n_ctx - 1}.get(self.config.attention, 1)
        step = GradientDescent.of_steps(1, step_size / shared)
        return estimate_claim(
            self,
            "The estimate of W is as far from it as the best gradient step",
            source=source,
            reference=lambda contexts: step.estimate(contexts.pairs())[:, -1],
            predicted=predicted,
        )

    @property
    def distance_from_step(self) -> Estimate:
        """Relative distance of the estimate in the circuit from eta sum_t s_{t+1} s_t^*."""
        contexts = self.fresh(self.RECOVERED, seeds.ESTIMATES)
        recovered = recover_context(self.model, contexts)
        past, future = contexts.inputs[:, :-1], contexts.inputs[:, 1:]
        step = recovered.step_size * (future[..., :, None] * past[..., None, :].conj()).cumsum(1)
        estimate = recovered.estimate[:, 1:]
        off, size = ((x.abs() ** 2).flatten(1).sum(1) for x in (estimate - step, estimate))
        return Estimate.ratio(off, size).root()


def layer_of(config: ModelConfig, a: np.ndarray, b: np.ndarray, process: Process) -> HookedARTransformer:
    """One layer of these block scalars."""
    model = HookedARTransformer(config, process=process).requires_grad_(False)
    attn = model.blocks[0].attn
    for blocks in (attn.QK_blocks, attn.OV_blocks):
        blocks.zero_()
    attn.QK_blocks[0, CURRENT:, CURRENT:] = torch.as_tensor(a).reshape(2, 2)
    attn.OV_blocks[0, CURRENT:, READ_OUT] = torch.as_tensor(b)
    return model


def without_signs(model: Any, signs: Tensor | None = None) -> Any:
    """A copy of a full one-layer model whose query and prediction are multiplied by D, a diagonal of signs.

    Diagonal W commutes with D, so D Ŵ D errs as much as Ŵ does: the cross terms between coordinates, which D turns, are
    uncorrelated with each other and with the target. Full matrices therefore find a gradient step up to D only.

    Args:
        signs: D [dim]; those of the diagonal of the QK block (s_T, s_{t-1}) if left out, relative to the first.
    """
    if signs is None:
        QK = (model.W_Q[0, 0] @ model.W_K[0, 0].T).detach()
        diagonal = split_blocks(QK, model.config.dim)[CURRENT, PREVIOUS].diagonal()
        signs = (diagonal * diagonal[0]).sign()
    fixed = query_signs(model, signs)
    fixed.blocks[0].attn.W_O.mul_(torch.cat([signs, torch.ones_like(signs), torch.ones_like(signs)]))
    return fixed


def query_signs(model: Any, signs: Tensor) -> Any:
    """A copy of a full one-layer model with the query alone multiplied by a diagonal of signs: half of the gauge."""
    turned = deepcopy(model).requires_grad_(False)
    turned.blocks[0].attn.W_Q.mul_(torch.cat([signs] * 3)[:, None])
    return turned
