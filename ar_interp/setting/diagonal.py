"""Theory of diagonal heads on commuting processes, and of a single coordinate at any speed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.models.weights import diagonal_weights
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken
from ar_interp.setting.base import EXACT, ExpectedLoss, Hypothesis, Parameters, Setting
from ar_interp.theory import (
    SpectralFilter,
    factor_heads,
    head_removal_cost,
    kappa_family,
    kappa_to_ratio,
    orthogonal_minimum,
    population_loss,
    position_removal_cost,
    positional_population_loss,
    positional_weights,
    spectral_filter,
    trapped_levels,
    unitary_minimum,
)

LAST_KEY, LAST_TWO_KEYS = (0,), (0, 1)
EVERYTHING_KNOWN = "In theory the estimate Ŵ equals W: the two pairs of panels look the same"
TWO_COSINES = "In theory the heads alone carry 2 cos θ, on the real line; older keys turn it into λ"
GOAL = "W<sub>source</sub> s<sub>T</sub>"
CIRCUITS = {
    "circuit spectra": "In theory only all heads together are fixed: one alone may have any spectrum",
    "circuit eigenvalues": "In theory QK and OV are real and diagonal: the eigenvalues lie on the real line",
}


class _Diagonal(Setting):
    """Base of both parts: the loss depends on C = B^T A and P alone."""

    @property
    def pairs(self) -> bool:
        """Eigenvalues come in conjugate pairs."""
        return type(self.process).conjugate_pairs

    @property
    def family(self) -> str:
        """The name of the family in `theory`."""
        return "orthogonal" if self.pairs else "unitary"

    @property
    def no_exact_loss(self) -> None:
        return None

    def expected_loss(self, model: Any) -> ExpectedLoss:
        weights = diagonal_weights(model)
        P = weights.P[None]
        total = self._loss(weights.C[None], P).item()
        return ExpectedLoss(total / (P.shape[-1] - 1), 0.0, EXACT)

    def _loss(
        self, C: Float[Tensor, "ensemble dim dim"], P: Float[Tensor, "ensemble query key"]
    ) -> Float[Tensor, "ensemble"]:
        return population_loss(C, P, family=self.family)

    def previous_key(self, kappa: float) -> float:
        if not self.pairs:
            return 0.0
        return kappa_to_ratio(kappa) if kappa != -1 else float("inf")

    def head_removal_costs(self, model: Any, *, length: int, method: str) -> Float[Tensor, "head"]:
        found = diagonal_weights(model)
        P = found.P[:length, :length]
        return head_removal_cost(found.A, found.B, P, family=self.family, mu=self.process.mu, method=method)

    def position_removal_costs(self, model: Any, *, length: int, method: str) -> Float[Tensor, "offset"]:
        found = diagonal_weights(model)
        P = found.P[:length, :length]
        return position_removal_cost(found.C, P, family=self.family, mu=self.process.mu, method=method)


class DiagonalHeads(_Diagonal):
    """Diagonal heads on a commuting process with uniform phases (Sander et al. 2024, non-augmented tokens)."""

    kind = "diagonal heads"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return (
            _is_noiseless_ones(process)
            and process.mu == 1
            and type(config) is ModelConfig
            and (config.heads == "diagonal" and config.dim == process.dim)
        )

    @property
    def kappa_is_one(self) -> bool:
        """The heads are too few for any other kappa."""
        return self.pairs and self.config.n_heads < self.config.dim

    @property
    def rank(self) -> int:
        """Rank of C at the minimum, of one with kappa = 1 where eigenvalues come in pairs."""
        return min(self.config.n_heads, self.process.n_free)

    @property
    def minimum(self) -> float:
        least = orthogonal_minimum if self.pairs else unitary_minimum
        return least(dim=self.config.dim, n_heads=self.config.n_heads)

    @property
    def hypothesis(self) -> Hypothesis:
        return LAST_TWO_KEYS if self.pairs else LAST_KEY

    def ideal(self, model: Any) -> Any:
        """C = m times a projector and its keys; what few heads carry, and kappa where it is free, are the model's."""
        found, kappa = diagonal_weights(model).C, 1.0 if self.kappa_is_one else 0.0
        if self.pairs and not self.kappa_is_one:
            partner = torch.arange(len(found), device=found.device) ^ 1
            read = found[partner, torch.arange(len(found), device=found.device)].sum() / found.trace()
            kappa = read.item() if read.isfinite() else 0.0  # of a C without a trace
        if self.rank == self.process.n_free:
            C = torch.eye(len(found), dtype=torch.float64, device=found.device)
            C = kappa_family(dim=len(C), kappa=kappa, n_ctx=2).C if self.pairs else C
        else:
            strongest = torch.linalg.eigh((found + found.T) * found.trace().sign()).eigenvectors[:, -self.rank :]
            C = (1 + kappa) * strongest @ strongest.T
        P = positional_weights(n_ctx=self.config.n_ctx, previous=self.previous_key(kappa), last=1.0)
        return heads_of(C, P, len(C), self.process, model.W_Q.device)

    @property
    def levels(self) -> Float[np.ndarray, "level"] | None:
        config = self.config
        if not self.pairs or 2 * config.n_heads > config.dim:
            return None
        return trapped_levels(dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx)

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        return self._loss(parameters[HEAD_B].mT @ parameters[HEAD_A], parameters[POSITIONAL_P])

    @property
    def sentences(self) -> Mapping[str, str]:
        return (_exact_sentences(self) if self.minimum == 0 else _few_sentences(self)) | {
            "heads": _heads_sentence(self),
            "spectrum": _spectrum_sentence(self),
            "statistics": _statistics_sentence(self),
            "positional": _positional_sentence(self),
            "ratio": "In theory p<sub>T−1</sub>/p<sub>T</sub> = −κ/(1 + κ) at every T, with κ read from the heads"
            if self.pairs
            else "In theory p<sub>T−1</sub>/p<sub>T</sub> = 0 at every T",
            **CIRCUITS,
        }


class OneCoordinate(_Diagonal):
    """One coordinate, lambda = exp(i theta / mu): all that matters is the positional encoding (Sander et al. 2024)."""

    kind = "one coordinate"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        if not _is_noiseless_ones(process) or type(config) is not ModelConfig or (config.dim, process.dim) != (1, 1):
            return False
        return config.heads == "unit" or (config.heads == "diagonal" and process.mu != 1)

    @property
    def minimum(self) -> float:
        return 0.0

    @property
    def hypothesis(self) -> Hypothesis:
        return LAST_KEY

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        P = parameters[POSITIONAL_P]
        if self.config.heads == "unit":
            return positional_population_loss(P, mu=self.process.mu)
        return self._loss(parameters[HEAD_B].mT @ parameters[HEAD_A], P)

    def _loss(
        self, C: Float[Tensor, "ensemble dim dim"], P: Float[Tensor, "ensemble query key"]
    ) -> Float[Tensor, "ensemble"]:
        return positional_population_loss(C * P, mu=self.process.mu)

    def filters(self, training: Any, steps: int) -> list[SpectralFilter] | None:
        """Descent from zero after so many steps, for T = 2..n_ctx; None for any other training."""
        config = self.config
        if (config.heads, config.init_scale, training.objective, training.optimizer) != ("unit", 0, "population", "gd"):
            return None
        return [
            spectral_filter(mu=self.process.mu, length=T, step_size=2 * training.lr, steps=steps)
            for T in range(2, config.n_ctx + 1)
        ]

    @property
    def sentences(self) -> Mapping[str, str]:
        return {
            "context": "In theory the optimum knows W from T = 2 on; training that is stopped early leaves an error",
            "estimate": EVERYTHING_KNOWN,
            "circle": "In theory the newest key alone carries a part of λ; older keys add the rest",
            "prediction": "In theory the prediction of a model that is stopped early is close to the next token, "
            "not equal",
            "positional": "In theory the optimum is p<sub>T</sub> alone; training stopped early spreads over older "
            "keys",
            "ratio": "In theory p<sub>T−1</sub>/p<sub>T</sub> = 0 at every T",
            "residual": "In theory training that is stopped early leaves a residual far above rounding",
            "turn": f"In theory the prediction turns toward {GOAL}; older values, which stay, hold a part of W too",
            **CIRCUITS,
        }


def heads_of(C: Tensor, P: Tensor, n_heads: int, process: Any, device: torch.device) -> Any:
    """A model of so many diagonal heads that make C, with the positional weights P."""
    A, B = factor_heads(C, n_heads=n_heads)
    model = ModelConfig.diagonal(dim=len(C), n_heads=n_heads, n_ctx=len(P)).build(process, device=device)
    model.load_state_dict({HEAD_A: A, HEAD_B: B, POSITIONAL_P: P})
    return model.requires_grad_(False)


def _is_noiseless_ones(process: Any) -> bool:
    """A commuting family without noise whose sequences start at 1_dim; a subclass is another process."""
    known = type(process) in (CommutingUnitary, CommutingOrthogonal)
    return known and process.noiseless and process.initial == FirstToken()


def _exact_sentences(setting: DiagonalHeads) -> dict[str, str]:
    if setting.kappa_is_one:
        circle = TWO_COSINES
    elif setting.pairs:
        circle = "In theory the heads alone carry λ + κ λ̄; older keys turn it into λ"
    else:
        circle = "In theory the heads carry λ itself: every dot lies in its circle"
    turned = f"In theory the prediction becomes {GOAL}: every arrow ends in its ring"
    if setting.pairs:
        left = "κ (λ̄ − λ̄<sub>target</sub>) s<sub>T</sub>"
        turned = f"In theory older values, which stay, leave {left} from ring to tip: where κ = 1 as much as before"
    return {
        "turn": turned,
        "context": "In theory the model knows W exactly from T = 2 on; OLS needs T = d + 1",
        "estimate": EVERYTHING_KNOWN,
        "circle": circle,
        "prediction": "In theory the prediction is the next token: every dot lies in its circle",
        "residual": "At the minimum of theory the prediction is exact at every angle; training ends before it",
    }


def _few_sentences(setting: DiagonalHeads) -> dict[str, str]:
    few = "In theory the heads are too few to carry every λ: the dots fall short of their circles"
    return {
        "turn": f"In theory the prediction turns to {GOAL} as far as few heads can carry W",
        "context": f"In theory an error of {setting.minimum:g}/d remains at every T: the heads are too few to carry W",
        "estimate": "In theory Ŵ keeps only what few heads can carry: its entries fall short of those of W",
        "circle": TWO_COSINES if setting.kappa_is_one else few,
        "prediction": "In theory few heads cannot predict every coordinate: some dots miss their circles",
        "residual": "In theory few heads cannot be exact: the residual stays far from zero at every angle",
    }


def _heads_sentence(setting: DiagonalHeads) -> str:
    n_heads, dim = setting.config.n_heads, setting.config.dim
    if setting.pairs:
        if not setting.kappa_is_one:
            return "In theory C = BᵀA has equal 2×2 blocks c [[1, κ], [κ, 1]] and nothing else; any κ but −1"
        if n_heads < dim // 2:
            return f"In theory C = BᵀA has {n_heads} equal 2×2 blocks of ones, one pair per head; ABᵀ is 2c I"
        across = "is 2c I" if n_heads == dim // 2 else f"has {dim // 2} eigenvalues 2c"
        return f"In theory C = BᵀA has equal 2×2 blocks of ones (κ = 1), nothing else; ABᵀ {across}"
    if n_heads < dim:
        return f"In theory C = BᵀA is c times a projector of rank {n_heads}, and ABᵀ is c I"
    across = "ABᵀ too" if n_heads == dim else f"ABᵀ is c times a projector of rank {dim}"
    return f"In theory C = BᵀA is c times the identity, and {across}"


def _spectrum_sentence(setting: DiagonalHeads) -> str:
    n_heads, dim = setting.config.n_heads, setting.config.dim
    if setting.pairs:
        if not setting.kappa_is_one:
            return f"In theory {dim // 2} singular values are |c (1 + κ)| and {dim // 2} are |c (1 − κ)|"
        return f"In theory {min(n_heads, dim // 2)} singular values of C are 2|c| and the rest are zero"
    rest = " and the rest are zero" if n_heads < dim else ""
    return f"In theory {min(n_heads, dim)} singular values of C are |c|{rest}"


def _statistics_sentence(setting: DiagonalHeads) -> str:
    if setting.pairs and not setting.kappa_is_one:
        return "In theory C is a multiple of a projector only at κ = 0 or 1; at any other κ the defects stay"
    if setting.pairs and setting.config.n_heads > setting.config.dim // 2:
        return "In theory the projector defect of C vanishes; more heads than pairs leave M and the cosines free"
    if setting.config.n_heads > setting.config.dim:
        return "In theory both projector defects vanish; |M/m − I| and the cosines do not (H > d)"
    return "In theory the defects and cos(a,b) vanish; cos(a,a) is small after descent from small weights"


def _positional_sentence(setting: DiagonalHeads) -> str:
    if setting.kappa_is_one:
        return "In theory two keys are used, p<sub>T</sub> = 1/c and p<sub>T−1</sub> = −p<sub>T</sub>/2"
    if setting.pairs:
        return "In theory two keys are used: p<sub>T−1</sub>/p<sub>T</sub> = −κ/(1 + κ), p<sub>T</sub> = 1/c"
    return "In theory only the newest key is used, p<sub>T</sub> = 1/c"
