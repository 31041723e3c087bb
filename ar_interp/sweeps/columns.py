"""`Column`: what a sweep measures of every trained member beside its loss, one value each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from ar_interp import seeds
from ar_interp._kinds import Kind
from ar_interp.checkpoints import TrainingRun
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P
from ar_interp.setting import DiagonalHeads, Emergence, Setting
from ar_interp.theory import plane_loss

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
        """Whether models in this setting have the column."""
        return True

    @classmethod
    @abstractmethod
    def values(
        cls, setting: Setting, run: TrainingRun, losses: Float[np.ndarray, "member"]
    ) -> Sequence[float | int | None]:
        """The column's value for each member of a shard.

        Args:
            run: their training; `run.ensemble` has the weights of all of them.
            losses: final, per context length; nan where training diverged.
        """


class Kappa(Column):
    kind = "kappa"
    meaning = "sum_j C_jj' / sum_j C_jj, j' the conjugate partner; of diagonal heads on conjugate pairs"

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        return isinstance(setting, DiagonalHeads) and setting.pairs

    @classmethod
    def values(cls, setting: Setting, run: TrainingRun, losses: np.ndarray) -> list[float]:
        C = run.ensemble[HEAD_B].double().mT @ run.ensemble[HEAD_A].double()
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
    def values(cls, setting: Setting, run: TrainingRun, losses: np.ndarray) -> list[float]:
        P = run.ensemble[POSITIONAL_P].double()[:, :-1]
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
    def values(cls, setting: Setting, run: TrainingRun, losses: np.ndarray) -> list[int | None]:
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
    def values(cls, setting: Setting, run: TrainingRun, losses: np.ndarray) -> list[float | None]:
        from ar_interp.models.opened import as_model  # and TransformerLens, which takes seconds
        from ar_interp.probes.algorithm import spectra_at_a_time
        from ar_interp.probes.steps import count_steps, descent_errors

        config, process = setting.config, setting.process
        contexts = process.contexts(N_CONTEXTS, config.n_ctx, seed=seeds.SWEEP, dtype=config.torch_dtype)
        model: Any = config.build(process)
        opened = as_model(model)
        parts = list(contexts.split(spectra_at_a_time(None, contexts, opened)))
        options: Any = {"process": process, "length": config.n_ctx, "per_pair": opened.normalises}
        curves = torch.cat([descent_errors(part, **options).double().mean(1) for part in parts]).numpy()

        @torch.no_grad()
        def steps(member: int) -> float:
            model.load_state_dict({name: weights[member] for name, weights in run.ensemble.items()})
            errors = torch.cat([part.errors(model(part.inputs))[:, 1:].double().mean(1) for part in parts])
            return count_steps(errors.numpy()[:, None], curves[:, None]).item()

        return [None if lost else steps(k) for k, lost in enumerate(np.isnan(losses).tolist())]


class HalfTime(Column):
    kind = "half_time"
    meaning = (
        "step at which a quarter is left of the way from the loss of predicting zero to that of the best gradient "
        "step, as where a b is half of its end; of merged heads that can stay in the plane of gradient steps"
    )

    @classmethod
    def speaks_of(cls, setting: Setting) -> bool:
        return isinstance(setting, Emergence) and setting.in_plane

    @classmethod
    def values(cls, setting: Setting, run: TrainingRun, losses: np.ndarray) -> list[float | None]:
        from ar_interp.probes.emergence import half_step  # and TransformerLens, which takes seconds

        assert isinstance(setting, Emergence)  # else it does not speak
        assert setting.moments is not None
        assert run.curves is not None  # a shard is trained in one go
        loss = plane_loss(setting.moments, max_length=setting.max_length)
        nothing, best = (
            2 * setting.config.dim / (setting.config.n_ctx - 1) * loss.at(y) for y in (0.0, setting.product)
        )
        left = (run.curves - best) / (nothing - best)
        steps, products = run.history["step"].to_numpy(dtype=float), 1 - left.clip(min=0.0) ** 0.5
        times = [half_step(steps, own, 1.0) for own in products.T]
        return [None if np.isnan(time) else time for time in times]
