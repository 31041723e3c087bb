"""`Setting`: what theory says of one model config on one process, in plain values; `setting_of` finds the one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from ar_interp._kinds import Kind, load_plugins, says_yes
from ar_interp._shown import Shown
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, Process
from ar_interp.setting.sampled import is_bare_layer, sampled_quadratic
from ar_interp.theory import block_scalar_loss

EXACT, ESTIMATED, NONE = "exact", "estimated", "none"
UNIT_COORDINATES = (FirstToken("ones"), FirstToken("signs"))  # of modulus 1 in the eigenbasis
N_PARTS = 25  # batches of 200 sequences that an expectation is estimated from

Parameters = Mapping[str, Tensor]  # of an ensemble by name, [ensemble ...]
Hypothesis = tuple[int, ...] | tuple[tuple[str, str, str], ...]

SENTENCES = {
    "context": "The estimate of W and the prediction, beside what statistics makes of the same context",
    "estimate": "The nearer the estimate Ŵ is to W, the more alike the panels look",
    "circle": "The diagonal of Ŵ beside the eigenvalues of W",
    "prediction": "The better the model knows W, the nearer its dots lie to the circles",
    "heads": "Keys A and values B of the heads, and their products C = BᵀA and ABᵀ",
    "spectrum": "Singular values of C = BᵀA",
    "statistics": "Distances of the heads from orthogonality, beside untrained heads",
    "positional": "The weight of each key at every context length T",
    "ratio": "p<sub>T−1</sub>/p<sub>T</sub> at every T",
    "residual": "The largest error of the prediction at each angle",
    "turn": "The prediction turns to W<sub>source</sub> s<sub>T</sub> as far as the model uses its estimate of W",
    "circuit spectra": "Strength of a head's QK and OV by direction, beside untrained weights",
    "circuit eigenvalues": "Eigenvalues of a head's QK and OV, beside untrained weights",
}


class ExpectedLoss(NamedTuple):
    """The expectation of a model's loss.

    Attributes:
        loss: mean over T = 2..n_ctx; nan where it is not known.
        standard_error: 0 where the loss is exact.
        source: `exact` (a closed form), `estimated` (from other sequences) or `none`.
    """

    loss: float
    standard_error: float
    source: str


@dataclass(frozen=True)
class Setting(Shown, Kind, ABC, root=True):
    """A part of theory, applied to one model config and one process.

    A part of theory of your own is a subclass with a `kind`, `speaks_of`, and whichever answers it has; every answer
    that is left out says that theory does not know. No two parts may speak of the same (config, process).

    Attributes:
        config, process: what it speaks of.
        minimum: smallest loss per context length, or None.
        hypothesis: what a layer needs for the prediction, offsets of keys (0 is the newest) or paths (blocks of query,
            key and value); None where theory does not say.
        why_not: why theory is silent; empty where it speaks.
    """

    config: Any
    process: Any

    why_not: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        """Whether this part of theory holds for the pair, of any kind that is registered."""

    @property
    def minimum(self) -> float | None:
        return None

    @property
    def hypothesis(self) -> Hypothesis | None:
        return None

    @property
    def no_exact_loss(self) -> str | None:
        """Why the loss has no closed form; None where `exact_loss` has one."""
        return self.why_not or f"the loss of {self.config.summary} on {self.process.kind} has no closed form"

    def exact_loss(self, parameters: Parameters) -> Float[Tensor, "ensemble"]:
        """The expected loss of every member, summed over coordinates and T = 2..n_ctx, differentiable.

        Raises:
            ValueError: it has no closed form.
        """
        raise ValueError(f"no exact population loss here: {self.no_exact_loss}. Use TrainConfig(objective='sampled').")

    def solved(self, parameters: Parameters) -> dict[str, Tensor]:
        """Weights of every member, with those that have a best value for given others at that value.

        No gradient goes through these: where they are best the loss does not depend on them to first order.

        Raises:
            ValueError: theory solves for none.
        """
        raise ValueError(
            f"solve must be False here: theory solves for no weights of {self.config.summary} on {self.process.kind}."
        )

    def expected_loss(self, model: Any) -> ExpectedLoss:
        """The expectation of the loss of a model's weights.

        One bare layer of block scalars has a loss that is quadratic in their products on any process: where there is no
        closed form it is estimated from 5000 sequences.
        """
        if not is_bare_layer(self.config) or self.process is None:
            return ExpectedLoss(float("nan"), float("nan"), NONE)
        a, b = model.block_scalars.a, model.block_scalars.b
        exact = _exact_layer_loss(self.config, self.process, a, b)
        if exact is not None:
            return ExpectedLoss(exact, 0.0, EXACT)
        quadratic = sampled_quadratic(self.process, self.config.n_ctx, self.config.attention, N_PARTS)
        return ExpectedLoss(*quadratic.loss(a, b), ESTIMATED)

    def record(self, parameters: Parameters) -> Mapping[str, Float[Tensor, "ensemble"]]:
        """Numbers of every member by name that theory follows through training: columns of the history."""
        return {}

    def of_members(self, parameters: Parameters) -> Mapping[str, Real[Tensor, "ensemble"]]:
        """Numbers of every trained member of an ensemble by name: columns of `members`."""
        return {}

    def head_removal_costs(self, model: Any, *, length: int, method: str) -> Float[Tensor, "head"] | None:
        """The growth of the loss over T = 2..length without each head, see `theory.head_removal_cost`; or None."""
        return None

    def position_removal_costs(self, model: Any, *, length: int, method: str) -> Float[Tensor, "offset"] | None:
        """The growth of the loss over T = 2..length without the key s_{T-k}, for each offset k; or None."""
        return None

    @property
    def levels(self) -> Float[np.ndarray, "level"] | None:
        """Losses per context length on which descent settles, see `theory.trapped_levels`; or None."""
        return None

    def previous_key(self, kappa: float) -> float | None:
        """p_{T-1} / p_T at the minimum where the heads mix in the conjugate eigenvalue kappa times, or None."""
        return None

    @property
    def best_products(self) -> Float[np.ndarray, "4 2"] | None:
        """(a1, a2, a3, a4) times (b1, b2) of the best layer of block scalars, or None.

        Where one bare layer has no closed form they are those of the estimated quadratic, see `expected_loss`.
        """
        if not is_bare_layer(self.config):
            return None
        best = sampled_quadratic(self.process, self.config.n_ctx, self.config.attention).minimum
        return np.outer(best.a, best.b)

    def ideal(self, model: Any) -> Any:
        """A model of the weights that theory gives, which computes what it says that this one does, or None.

        What theory leaves open is read from the weights. Its errors stand beside the model's where no closed form is.
        """
        return None

    def sentence(self, what: str) -> str:
        """The sentence on what one should see in a figure: theory's words where it speaks of that, else what is drawn.

        Args:
            what: one of `SENTENCES`.
        """
        return self.sentences.get(what, SENTENCES[what])

    @property
    def sentences(self) -> Mapping[str, str]:
        """Theory's words, those of them that it has, by what they speak of."""
        return {}


class Silent(Setting):
    """Theory says nothing of this (config, process); `why_not` says why."""

    kind = "silent"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return False

    @property
    def why_not(self) -> str:  # type: ignore[override]
        config, process = self.config, self.process
        if isinstance(config, Config) and process is not None and (misfit := _misfit(config, process)):
            return misfit
        if not isinstance(config, ModelConfig):
            return f"no part of theory knows models of kind {getattr(config, 'kind', type(config).__name__)!r}"
        if process is None:
            return "the process is not known; pass process=..., e.g. HaarOrthogonal(5)"
        for name in ("noise", "process_noise", "observation_noise"):
            if getattr(process, name, 0):
                return f"{name} is {getattr(process, name):g}, under which no part of theory speaks of {config.summary}"
        if config.heads in ("diagonal", "unit") and process.initial != FirstToken():
            return f"first_token is {process.initial}, and closed forms of diagonal heads hold for ones"
        if getattr(process, "mu", 1) != 1:
            return f"mu is {process.mu}, and closed forms of trained heads hold for mu = 1"
        return f"no part of theory speaks of {config.summary} on {process.kind}{process.facts}"


def setting_of(config: Any, process: Process | None) -> Setting:
    """The part of theory that speaks of a model on a process, or a silent one that says why there is none.

    Args:
        config: the model's, ours or one of a registered kind.
        process: the data that the model is about; None where it is not known.
    Raises:
        ValueError: two parts of theory speak of it.
    """
    load_plugins()
    speaking = []
    if process is not None and isinstance(config, Config) and not _misfit(config, process):
        speaking = [part for part in Setting.registered.values() if says_yes(part.speaks_of, config, process)]
    if len(speaking) > 1:
        names = " and ".join(f"{part.__module__}.{part.__qualname__}" for part in speaking)
        raise ValueError(f"two parts of theory speak of {config.summary} on {process}: {names}. Narrow one speaks_of.")
    return (speaking[0] if speaking else Silent)(config, process)


def _misfit(config: Config, process: Process) -> str:
    """Why the model cannot be about the process; empty where it can."""
    try:
        config.check_process(process)
    except ValueError as error:
        return str(error).rstrip(".")
    return ""


def is_uniform(process: Any) -> bool:
    """A commuting family without noise, its phases uniform on the circle; a subclass is another process."""
    return type(process) in (CommutingUnitary, CommutingOrthogonal) and process.noiseless and process.mu == 1


def _exact_layer_loss(
    config: ModelConfig, process: Any, a: Float[np.ndarray, "4"], b: Float[np.ndarray, "2"]
) -> float | None:
    """Mean loss over T = 2..n_ctx of the layer with these block scalars; None where there is no closed form.

    There is where the coordinates of s_1 have modulus 1 in the eigenbasis of a uniform commuting family. Scores divided
    by T or T - 1 are block scalars a / T or a / (T - 1) at each T.
    """
    if not is_uniform(process) or process.initial not in UNIT_COORDINATES:
        return None
    n_ctx, pairs = config.n_ctx, type(process).conjugate_pairs

    def total(a: np.ndarray, max_length: int) -> float:
        if max_length < 2:
            return 0.0
        return block_scalar_loss(a, b, dim=config.dim, max_length=max_length, conjugate_pairs=pairs).item()

    if config.attention == "linear":
        return total(a, n_ctx) / (n_ctx - 1)
    each = [(T, a / (T - (config.attention == "linear/pairs"))) for T in range(2, n_ctx + 1)]
    return float(np.mean([total(scaled, T) - total(scaled, T - 1) for T, scaled in each]))
