"""What claims of diagonal heads are made of: a model measured once, beside its untrained control."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from ar_interp.claims.controls import untrained
from ar_interp.claims.core import Compared
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.heads import HeadOrthogonality, head_orthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.processes import CommutingProcess
from ar_interp.theory import population_loss

N_SEQUENCES = 2048
SAMPLE_SEED = 0


class Measured:
    """A model with all that the probes say of it."""

    def __init__(self, model: Any, process: CommutingProcess) -> None:
        self.model, self.process = model, process
        self.weights = diagonal_weights(model)

    @cached_property
    def heads(self) -> HeadOrthogonality:
        return head_orthogonality(self.model)

    @cached_property
    def positions(self) -> PositionalStructure:
        return positional_structure(self.model, process=self.process)

    @property
    def loss(self) -> float:
        """Population loss per context length."""
        P = self.weights.P
        family = "orthogonal" if self.process.conjugate_pairs else "unitary"
        return population_loss(self.weights.C, P, family=family).item() / (len(P) - 1)

    @cached_property
    @torch.no_grad()
    def sampled_loss(self) -> tuple[float, float]:
        """Mean over fresh sequences of the squared error per context length, and its standard error."""
        P = self.model.P
        sequences = self.process.sample(N_SEQUENCES, len(P) + 1, seed=SAMPLE_SEED, device=P.device)
        error = (self.model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:]
        losses = error.abs().square().sum(-1).mean(-1)
        return losses.mean().item(), (losses.std() / N_SEQUENCES**0.5).item()

    @property
    def eigenvalue_deviation(self) -> float:
        """Largest deviation of the eigenvalues of C / c (and of M / c, but for zeros) from 1 +- kappa and 0."""
        dim, covered = self.process.dim, min(self.process.dim // 2, len(self.weights.A))
        kappa, scale = self.positions.kappa, self.positions.scale
        expected = [1 + kappa] * covered + [1 - kappa] * covered + [0.0] * (dim - 2 * covered)
        scaled = self.weights.C / scale
        if not scaled.isfinite().all():
            return float("nan")
        found = torch.linalg.eigvals(scaled)
        real = found.real.sort().values - torch.tensor(expected, dtype=torch.float64).sort().values
        return max(real.abs().max().item(), found.imag.abs().max().item())


class Subject(Measured, Compared):
    """The model that claims are made of, beside the untrained one that is the control of most."""

    def __init__(self, model: Any, process: CommutingProcess) -> None:
        super().__init__(model, process)
        self.n_heads, self.dim = self.weights.A.shape
        self.untrained = Measured(untrained(model, process), process)

    def sabotaged(self, sabotage: Callable[[Any, CommutingProcess], Any]) -> Measured:
        """A copy that `sabotage`, (model, process) -> model, has changed."""
        return Measured(sabotage(self.model, self.process), self.process)
