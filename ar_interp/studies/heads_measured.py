"""Readings of diagonal heads that claims are made of, and copies of such a model in which one structure is broken."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Estimate, Measured
from ar_interp.claims.measured import StandIn
from ar_interp.models.closed_form import closed_form
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.models.opened import as_model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.models.weights import DiagonalWeights, diagonal_weights
from ar_interp.probes.ablations import ablate_heads, ablate_positions
from ar_interp.probes.context import SCORES
from ar_interp.probes.heads import RANK_TOLERANCE, HeadOrthogonality, head_orthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.readout import probe_activations
from ar_interp.probes.readout_fits import MIN_SEQUENCES
from ar_interp.processes import Process, Sequences
from ar_interp.studies.interventions import Expected, energy
from ar_interp.theory import largest_error_bound, removal_cost_at_minimum


def _with(model: Any, process: Process, **changed: Tensor) -> HookedARTransformer:
    found = replace(diagonal_weights(model), **changed)
    return HookedARTransformer.from_diagonal(found.A, found.B, found.P, process=process).to(as_model(model).device)


def untrained(model: Any, process: Process) -> HookedARTransformer:
    """Gaussian weights of the model's own size."""
    return _with(model, process).untrained(seeds.UNTRAINED)


def permuted_heads(model: Any, process: Process) -> HookedARTransformer:
    """Each value diagonal b_h paired with the key diagonal of the next head."""
    return _with(model, process, A=diagonal_weights(model).A.roll(1, 0))


def shifted_positions(model: Any, process: Process) -> HookedARTransformer:
    """Every positional weight one key too early."""
    return _with(model, process, P=diagonal_weights(model).P.roll(-1, 1))


def flipped_previous(model: Any, process: Process) -> HookedARTransformer:
    """The sign of p_{T-1} turned."""
    P = diagonal_weights(model).P
    return _with(model, process, P=P - 2 * P.diagonal().diag())


def _measured(change: Callable[[Any, Process], HookedARTransformer]) -> Any:
    """The changed model, measured in the same way, once."""
    return cached_property(lambda self: self.of(change(self.model, self.process)))


class HeadsMeasured(Measured):
    """A model of diagonal heads with all that the probes say of it.

    Attributes:
        READ, REMOVED: how many contexts other measurements are planned with.
    """

    NEEDED, SEED, PART = 256, seeds.HEADS, 256  # of differences from the closed form, which are rounding
    READ, REMOVED = 2000, 256

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
        real = found.real.sort()[0] - torch.tensor(expected, dtype=torch.float64, device="cpu").sort()[0]
        return max(real.abs().max().item(), found.imag.abs().max().item())

    @cached_property
    def phases_read(self) -> pd.DataFrame:
        """Regressions of cos and sin of the phases on the scores, by target."""
        contexts, targets = self.fresh(self.READ, seeds.READOUT, least=MIN_SEQUENCES), ("cos", "sin")
        place = {"hooks": SCORES, "positions": [contexts.length]}
        found = probe_activations(self.model, contexts, target=targets, untrained=self.untrained.model, **place)
        return found.frame.set_index("target")

    def farthest_ratio(self, expected: float) -> float:
        """p_{T-1} / p_T at the T where it is farthest from what is expected."""
        return _farthest(self.positions.ratio_by_length, expected)

    def farthest_kappa(self, expected: float) -> float:
        """C_jj' / C_jj at the coordinate where it is farthest from what is expected, of those that C covers."""
        C, j = self.weights.C, torch.arange(self.process.dim, device="cpu")
        diagonal, partners = C.diagonal(), C[j, j ^ 1]
        covered = torch.maximum(diagonal.abs(), partners.abs()) > RANK_TOLERANCE * C.abs().max()
        return _farthest(partners[covered] / diagonal[covered], expected)

    @property
    def scale_deviation(self) -> float:
        """Largest |c p_T - 1| over T; for c every C_jj that a minimum asks to be c."""
        C, last = self.weights.C, self.positions.P.diagonal(1)
        each = self.setting.pairs or self.setting.rank == self.process.dim
        scales = C.diagonal() if each else torch.tensor([self.positions.scale], dtype=torch.float32, device="cpu")
        covered = scales.abs() > RANK_TOLERANCE * scales.abs().max()
        return (scales[covered, None] * last - 1).abs().max().item() if covered.any() else float("nan")

    @property
    def older_keys(self) -> float:
        """Largest share of |p|^2 on keys before T-1 over T."""
        squares = self.positions.P.square()
        used = squares.diagonal() + squares.diagonal(1)
        return (1 - used / squares.sum(1)).max().clamp(min=0).item()

    @property
    def largest_error(self) -> Estimate:
        """Over all angles by the weights, and over a grid of angles by the predictions: the larger."""
        bound = largest_error_bound(self.weights.C, self.weights.P, family=self.setting.family).item()
        return Estimate(max(bound, self.positions.residual), n=len(self.positions.angles))

    @property
    def stand_in(self) -> StandIn:
        """The closed form of its own weights."""
        return StandIn(self.predict, self.expected_loss)

    def predict(self, inputs: Inexact[Tensor, "batch pos dim"], **changed: Tensor) -> Inexact[Tensor, "batch pos dim"]:
        """The prediction of the closed form, of weights with some of A, B and P changed."""
        found = replace(self.weights, **changed)
        config = ModelConfig.diagonal(dim=found.A.shape[1], n_heads=len(found.A), n_ctx=len(found.P))
        names = {HEAD_A: found.A, HEAD_B: found.B, POSITIONAL_P: found.P}
        return closed_form(config, names, inputs)

    @cached_property
    @np.errstate(divide="ignore", invalid="ignore")  # at no minimum
    def head_removal(self) -> Estimate:
        """Largest relative deviation of the cost of a head from |a_h|^2 |b_h|^2 / c^2.

        For kappa != 0 see `theory.removal_cost_at_minimum`. The cost is that of the weights, exactly, and the mean
        difference between the hooked model's and the closed form's; of a head that writes nothing it is divided by the
        largest cost. nan far from any minimum.
        """
        positions, pairs = self.positions, self.setting.pairs
        if positions.scale == 0 or (pairs and not np.isfinite(positions.ratio_from_kappa)):
            return Estimate(np.nan)
        A, B = self.weights.A, self.weights.B
        expected = removal_cost_at_minimum(
            A[:, None], B[:, None], scale=positions.scale, kappa=positions.kappa if pairs else 0.0
        )
        contexts = self.fresh(self.REMOVED, seeds.REMOVAL, least=2)
        found = ablate_heads(self.model, contexts, process=self.process)
        whole = self.predict(contexts.inputs)
        parts = [self.predict(contexts.inputs, A=a[None], B=b[None]) for a, b in zip(A, B, strict=True)]
        removed = (torch.stack([contexts.losses(whole - part) for part in parts]) - contexts.losses(whole)).cpu()
        exact = self.setting.head_removal_costs(self.model, length=contexts.length, method="zero")
        unit = torch.where(expected > RANK_TOLERANCE**2 * expected.max(), expected, expected.max())[:, None]
        beyond = (found.costs - removed) / unit
        deviation = (exact - expected) / unit[:, 0] + beyond.mean(1)
        return Estimate.largest(deviation, beyond.std(1) / len(contexts) ** 0.5, len(contexts))

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
        """Growth of the loss without the key s_{T-offset}: of the weights, and the mean difference from it."""
        contexts = self.fresh(self.REMOVED, seeds.REMOVAL, least=2)
        costs = ablate_positions(self.model, contexts, offsets=[offset], process=self.process).costs[0]
        P = self.weights.P
        kept = P - torch.diag_embed(P.diagonal(1 - offset), 1 - offset)
        without, whole = (self.predict(contexts.inputs, P=each) for each in (kept, P))
        exact = self.setting.position_removal_costs(self.model, length=contexts.length, method="zero")[offset]
        return Estimate.mean(costs - (contexts.losses(without) - contexts.losses(whole)).cpu()).less(-exact.item())


def _farthest(values: Float[Tensor, "value"], target: float) -> float:
    """The value that deviates most from a target; nan where there is none."""
    return values[(values - target).abs().nan_to_num(torch.inf).argmax()].item() if len(values) else float("nan")
