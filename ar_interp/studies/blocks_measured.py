"""Readings of augmented layers that claims are made of: scalars of blocks, paths, and the estimate."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import as_tensor
from ar_interp.claims import Claim, Estimate, Measured
from ar_interp.claims.measured import StandIn
from ar_interp.estimators import GradientDescent
from ar_interp.models.block_scalars import CURRENT, PREVIOUS, READ_OUT
from ar_interp.models.closed_form import closed_form, head_matrices, own_weights
from ar_interp.models.config import ModelConfig
from ar_interp.models.opened import as_model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes.blocks import AugmentedBlocks, augmented_blocks, split_blocks
from ar_interp.probes.context import recover_context
from ar_interp.probes.swap import swap_context
from ar_interp.processes import Process, Sequences
from ar_interp.studies.interventions import Expected, estimate_claim, excess_of

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
        return _defect(self._QK[CURRENT, PREVIOUS])

    @property
    def value_defect(self) -> float:
        """Distance of the OV block that writes s_t into the read-out from a multiple of the identity, over its norm."""
        return _defect(self._OV[CURRENT, READ_OUT])

    @property
    def other_paths(self) -> float:
        """Largest norm of a path into the read-out but the step's, over that of the step.

        A path is a QK block and an OV block; its norm is the product of theirs.
        """
        norms = self._QK[CURRENT:, CURRENT:].norm(dim=(-2, -1)).flatten()
        paths = norms[:, None] * self._OV[CURRENT:, READ_OUT].norm(dim=(-2, -1))  # as `products`
        step = paths[STEP].item()
        paths[STEP] = 0
        return paths.max().item() / step if step else float("nan")

    @property
    def _QK(self) -> Float[Tensor, "3 3 dim dim"]:
        return split_blocks((self.model.W_Q[0, 0] @ self.model.W_K[0, 0].mT).detach().double(), self.config.dim)

    @property
    def _OV(self) -> Float[Tensor, "3 3 dim dim"]:
        return split_blocks((self.model.W_V[0, 0] @ self.model.W_O[0, 0]).detach().double(), self.config.dim)

    @property
    def stand_in(self) -> StandIn:
        """The layer of the best block scalars; of full matrices in the model's gauge of signs."""
        predict = predictor(self.reference)
        if as_model(self.model).has_full_heads:
            config, weights = own_weights(as_model(self.reference))
            matrices = {f"blocks.0.attn.{name}": W[0] for name, W in head_matrices(config, weights).items()}
            _turn(matrices["blocks.0.attn.W_Q"], matrices["blocks.0.attn.W_O"], signs_of(self.model))
            predict = partial(closed_form, replace(config, heads="full"), matrices)
        return StandIn(predict, self.setting.best.loss, self.setting.power)

    def beside(self, a: Sequence[float], b: Sequence[float]) -> Callable[[Tensor], Tensor]:
        """The prediction of one layer of these block scalars."""
        return predictor(layer_of(self.reference.config, np.array(a), np.array(b), self.process))

    @cached_property
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

        def by_pair(source: Sequences, target: Sequences) -> Tensor:
            return excess_of(swap_context(self.reference, source, target, positions=[target.length]))

        return Expected("s_{T-1} of the target asks, in the best block scalars", by_pair)

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
    attn.QK_blocks[0, CURRENT:, CURRENT:] = as_tensor(a).reshape(2, 2)
    attn.OV_blocks[0, CURRENT:, READ_OUT] = as_tensor(b)
    return model


def predictor(model: Any) -> Callable[[Tensor], Tensor]:
    """The closed form of a model's weights."""
    config, weights = own_weights(as_model(model))
    return partial(closed_form, config, weights)


def _defect(block: Float[Tensor, "dim dim"]) -> float:
    """Distance of a block from the nearest multiple of the identity, over its norm."""
    rest = block - block.diagonal().mean() * torch.eye(len(block), dtype=block.dtype, device=block.device)
    return (rest.norm() / block.norm()).item()


def without_signs(model: Any, signs: Tensor | None = None) -> Any:
    """A copy of a full one-layer model whose query and prediction are multiplied by D, a diagonal of signs.

    Diagonal W commutes with D, so D Ŵ D errs as much as Ŵ does: the cross terms between coordinates, which D turns, are
    uncorrelated with each other and with the target. Full matrices therefore find a gradient step up to D only.

    Args:
        signs: D [dim]; those of the diagonal of the QK block (s_T, s_{t-1}) if left out, relative to the first.
    """
    fixed = deepcopy(model).requires_grad_(False)
    attn = fixed.blocks[0].attn
    _turn(attn.W_Q, attn.W_O, signs_of(model) if signs is None else signs)
    return fixed


def signs_of(model: Any) -> Float[Tensor, "dim"]:
    """The signs of the diagonal of the QK block (s_T, s_{t-1}), relative to the first."""
    QK = (model.W_Q[0, 0] @ model.W_K[0, 0].T).detach()
    diagonal = split_blocks(QK, model.config.dim)[CURRENT, PREVIOUS].diagonal()
    return torch.where(diagonal * diagonal[0] < 0, -1.0, 1.0).to(QK)


def _turn(W_Q: Tensor, W_O: Tensor, signs: Float[Tensor, "dim"]) -> None:
    """Multiply query and prediction by D, in place."""
    signs = signs.to(W_Q)
    W_Q.mul_(torch.cat([signs] * 3)[:, None])
    W_O.mul_(torch.cat([signs, torch.ones_like(signs), torch.ones_like(signs)]))


def query_signs(model: Any, signs: Tensor) -> Any:
    """A copy of a full one-layer model with the query alone multiplied by a diagonal of signs: half of the gauge."""
    turned = deepcopy(model).requires_grad_(False)
    turned.blocks[0].attn.W_Q.mul_(torch.cat([signs] * 3)[:, None].to(turned.blocks[0].attn.W_Q))
    return turned
