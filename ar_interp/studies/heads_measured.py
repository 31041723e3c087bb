"""Readings of diagonal heads that claims are made of, and copies of such a model in which one structure is broken."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Estimate, Measured
from ar_interp.claims.estimate import CONTEXTS
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.models.weights import DiagonalWeights, diagonal_weights
from ar_interp.probes.ablations import ablate_heads, ablate_positions
from ar_interp.probes.context import SCORES
from ar_interp.probes.heads import HeadOrthogonality, head_orthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.readout import probe_activations
from ar_interp.probes.readout_fits import MIN_SEQUENCES
from ar_interp.processes import Process, Sequences
from ar_interp.studies.interventions import Expected, energy
from ar_interp.theory import removal_cost_at_minimum


def _with(process: Process, weights: DiagonalWeights, **changed: Tensor) -> HookedARTransformer:
    found = replace(weights, **changed)
    return HookedARTransformer.from_diagonal(found.A, found.B, found.P, process=process)


def untrained(model: Any, process: Process) -> HookedARTransformer:
    """Gaussian weights of the model's own size."""
    return _with(process, diagonal_weights(model)).untrained(seeds.UNTRAINED)


def permuted_heads(model: Any, process: Process) -> HookedARTransformer:
    """Each value diagonal b_h paired with the key diagonal of the next head."""
    weights = diagonal_weights(model)
    return _with(process, weights, A=weights.A.roll(1, 0))


def shifted_positions(model: Any, process: Process) -> HookedARTransformer:
    """Every positional weight one key too early."""
    weights = diagonal_weights(model)
    return _with(process, weights, P=weights.P.roll(-1, 1))


def flipped_previous(model: Any, process: Process) -> HookedARTransformer:
    """The sign of p_{T-1} turned."""
    weights = diagonal_weights(model)
    return _with(process, weights, P=weights.P - 2 * weights.P.diagonal().diag())


def _measured(change: Callable[[Any, Process], HookedARTransformer]) -> Any:
    """The changed model, measured in the same way, once."""
    return cached_property(lambda self: self.of(change(self.model, self.process)))


class HeadsMeasured(Measured):
    """A model of diagonal heads with all that the probes say of it.

    Attributes:
        READ, REMOVED, HEADS_REMOVED: how many contexts other measurements are planned with.
    """

    NEEDED, SEED, PART = 2048, seeds.HEADS, 2048
    READ, REMOVED = 2000, 1024
    HEADS_REMOVED = 4096  # what one head writes has a standard deviation as large as its mean

    untrained = _measured(untrained)
    permuted = _measured(permuted_heads)
    shifted = _measured(shifted_positions)
    turned = _measured(flipped_previous)

    @cached_property
    def weights(self) -> DiagonalWeights:
        return diagonal_weights(self.model)

    @cached_property
    def heads(self) -> HeadOrthogonality:
        return head_orthogonality(self.model)

    @cached_property
    def positions(self) -> PositionalStructure:
        return positional_structure(self.model, process=self.process)

    @property
    def projector_defect(self) -> float:
        """|C^2 - m C| / m^2 with m = tr C over the rank that theory gives C, not the one that is found."""
        C = self.weights.C
        scale = C.trace() / self.setting.rank
        return ((C @ C - scale * C).norm() / scale**2).item()

    @property
    def eigenvalue_deviation(self) -> float:
        """Largest deviation of the eigenvalues of C / c (and of M / c, but for zeros) from 1 +- kappa and 0."""
        dim, covered = self.process.dim, self.setting.rank
        kappa, scale = self.positions.kappa, self.positions.scale
        expected = [1 + kappa] * covered + [1 - kappa] * covered + [0.0] * (dim - 2 * covered)
        scaled = self.weights.C / scale
        if not scaled.isfinite().all():
            return float("nan")
        found = torch.linalg.eigvals(scaled)
        real = found.real.sort()[0] - torch.tensor(expected, dtype=torch.float64).sort()[0]
        return max(real.abs().max().item(), found.imag.abs().max().item())

    @cached_property
    def phases_read(self) -> pd.DataFrame:
        """Regressions of cos and sin of the phases on the scores, by target."""
        contexts, targets = self.fresh(self.READ, seeds.READOUT, least=MIN_SEQUENCES), ("cos", "sin")
        place = {"hooks": SCORES, "positions": [contexts.length]}
        found = probe_activations(self.model, contexts, target=targets, untrained=self.untrained.model, **place)
        return found.frame.set_index("target")

    @cached_property
    @np.errstate(divide="ignore", invalid="ignore")  # of a head that writes nothing
    def head_removal(self) -> Estimate:
        """Largest relative deviation of the cost of a head from |a_h|^2 |b_h|^2 / c^2.

        For kappa != 0 see `theory.removal_cost_at_minimum`. nan far from any minimum, and where a head writes nothing.
        """
        positions, pairs = self.positions, self.setting.pairs
        if positions.scale == 0 or (pairs and not np.isfinite(positions.ratio_from_kappa)):
            return Estimate(np.nan)
        A, B = self.weights.A[:, None], self.weights.B[:, None]
        expected = removal_cost_at_minimum(A, B, scale=positions.scale, kappa=positions.kappa if pairs else 0.0)
        if not (expected > 0).all():
            return Estimate(np.nan)
        contexts = self.fresh(self.HEADS_REMOVED, seeds.REMOVAL)
        found = ablate_heads(self.model, contexts, process=self.process).to_frame()
        cost, error = (found[name].to_numpy() / expected.numpy() for name in ("cost", "cost_se"))
        return Estimate.largest(cost - 1, error, len(contexts))

    def covered_part(self, contexts: Sequences) -> Tensor:
        """W projected on the rows of C, which is as near to W as so many heads of the unitary family can be."""
        rows = torch.linalg.svd(self.weights.C)[2][: self.setting.rank].to(contexts.W)
        return torch.diag_embed(contexts.W.diagonal(0, -2, -1) @ rows.mH @ rows)

    @property
    def left_behind(self) -> Expected:
        """The target's s_{T-1} = W^{-1} s_T, which the swap of a pattern leaves in the prediction, kappa times."""
        kappa, covered = self.positions.kappa, 2 * self.setting.rank / self.process.dim
        kappa = kappa if np.isfinite(kappa) else 0.0

        def by_pair(source: Sequences, target: Sequences) -> Tensor:
            backwards = (source.W - target.W).mH  # W^{-1} = W^*
            return kappa**2 * covered * energy(torch.einsum("bij,btj->bti", backwards, target.inputs[:, -1:]))

        return Expected("s_{T-1} of the target adds, 2 kappa^2", by_pair, 2 * kappa**2 * covered)

    def key_removal(self, offset: int) -> Estimate:
        """Growth of the loss without the key s_{T-offset}."""
        contexts = self.fresh(self.REMOVED, seeds.REMOVAL)
        found = ablate_positions(self.model, contexts, offsets=[offset], process=self.process).to_frame().iloc[0]
        return Estimate(float(found["cost"]), {CONTEXTS: 1.96 * float(found["cost_se"])}, len(contexts))
