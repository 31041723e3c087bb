"""`Column`: what a sweep measures of every trained member beside its loss, one value each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp._kinds import Kind
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P
from ar_interp.setting import DiagonalHeads, Setting

Members = Mapping[str, Tensor]  # weights by name, [member ...], on the CPU
ON_LEVEL = 0.01  # of a loss; trapped levels are farther from each other
N_CONTEXTS = 1000  # on which gradient steps are counted


class Column(Kind, ABC, root=True):
    """A column of the table of a sweep: a number for each member, or None where there is none.

    A column of your own is a subclass with a `kind`, its name, and `values`; workers know it where an entry point of an
    installed package names it.

    Attributes:
        kind: the name.
        meaning: what it is, and of which models.
        integer: its numbers are integers.
    """

    meaning: ClassVar[str] = ""
    integer: ClassVar[bool] = False

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        """Whether models in this setting have it."""
        return True

    @classmethod
    @abstractmethod
    def values(
        cls, setting: Setting, members: Members, losses: Float[np.ndarray, "member"]
    ) -> Sequence[float | int | None]:
        """Its value for each member of a shard.

        Args:
            members: their weights.
            losses: final, per context length; nan where training diverged.
        """


class Kappa(Column):
    kind = "kappa"
    meaning = "sum_j C_jj' / sum_j C_jj, j' the conjugate partner; of diagonal heads on conjugate pairs"

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        return isinstance(setting, DiagonalHeads) and setting.pairs

    @classmethod
    def values(cls, setting: Setting, members: Members, losses: np.ndarray) -> list[float]:
        C = members[HEAD_B].double().mT @ members[HEAD_A].double()
        places = torch.arange(setting.config.dim, device=C.device)
        partners = C[..., places, places ^ 1]
        return (partners.sum(-1) / C.diagonal(0, -2, -1).sum(-1)).tolist()


class Ratio(Column):
    kind = "ratio"
    meaning = "p_{T-1} / p_T, the least-squares value over T = 2..n_ctx; of diagonal heads"

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        return isinstance(setting, DiagonalHeads)

    @classmethod
    def values(cls, setting: Setting, members: Members, losses: np.ndarray) -> list[float]:
        P = members[POSITIONAL_P].double()[:, :-1]
        previous, last = P.diagonal(0, -2, -1), P.diagonal(1, -2, -1)
        return ((previous * last).sum(-1) / last.square().sum(-1)).tolist()


class TrappedLevel(Column):
    kind = "trapped_level"
    meaning = (
        f"number of '-' blocks of the level of theory.trapped_levels that the loss is within {ON_LEVEL} of; of "
        "diagonal heads on conjugate pairs, dim / 2 of them at most"
    )
    integer = True

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        return setting.levels is not None

    @classmethod
    def values(cls, setting: Setting, members: Members, losses: np.ndarray) -> list[int | None]:
        assert setting.levels is not None  # else it does not speak
        distances = np.abs(losses[:, None] - setting.levels)
        nearest = np.where(np.isnan(losses), 0, distances.argmin(axis=1))
        return [m if distances[k, m] < ON_LEVEL else None for k, m in enumerate(nearest.tolist())]


class StepsEquivalent(Column):
    kind = "steps_equivalent"
    meaning = (
        f"number of gradient steps with the member's error, over {N_CONTEXTS} contexts that all members share; of "
        "models on real tokens"
    )

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        return setting.process.real_tokens

    @classmethod
    def values(cls, setting: Setting, members: Members, losses: np.ndarray) -> list[float | None]:
        from ar_interp.probes.steps import equivalent_steps_of  # and TransformerLens, which takes seconds

        config, process = setting.config, setting.process
        contexts = process.contexts(N_CONTEXTS, config.n_ctx, seed=seeds.SWEEP, dtype=config.torch_dtype)
        model: Any = config.build(process)

        def steps(member: int) -> float:
            model.load_state_dict({name: weights[member] for name, weights in members.items()})
            return equivalent_steps_of(model, contexts, process=process).steps

        return [None if lost else steps(k) for k, lost in enumerate(np.isnan(losses).tolist())]
