"""Edit a weight that has a meaning, by one number: does the loss move as theory says it must?"""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp._moods import calm
from ar_interp._shown import watched
from ar_interp.models.opened import as_model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes.batches import at_a_time
from ar_interp.probes.results import Result, middle_of
from ar_interp.processes import Contexts, Process
from ar_interp.seeds import EDITED
from ar_interp.setting import setting_of

SCORES = 32  # of a head that a forward pass holds, about
PARALLEL = 1e-6  # of its norm: less of b_1 orthogonal to b_0 is rounding


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of a model's weights by one number.

    Attributes:
        name: its key in `EDITS`.
        what: it does, a sentence.
        meaning, neutral, span: of the number; the one that changes nothing; those worth looking at, others are allowed.
        applies: whether a model has what it changes.
        change: of a model in place, (model, value).
    """

    name: str
    what: str
    meaning: str
    neutral: float
    span: tuple[float, float]
    applies: Callable[[Any], bool]
    change: Callable[[Any, float], None]

    @calm()
    def apply(self, model: Any, value: float) -> Any:
        """A copy of the model with the edit; the model stays as it is.

        Raises:
            ValueError: the edit does not apply to the model, a value that is not a finite number.
        """
        value = check_number("value", value, low=-float("inf"))
        if not self.applies(model):
            names = ", ".join(map(repr, _applying(model))) or "none"
            raise ValueError(f"edit {self.name!r} does not apply to this model; those that do: {names}.")
        edited = deepcopy(model)
        self.change(edited, value)
        return edited


@dataclass(frozen=True, kw_only=True)
class EditLosses(Result):
    """The loss of a model under one edit; means over T = 2..n_ctx, sums over coordinates.

    Attributes:
        by_value: a row per value. Columns: value; predicted, the expectation of the edited weights, and predicted_se,
            its standard error (0 where it is exact, nan where there is none); measured by the hooked model, the mean
            over n sequences, the same for all values, its standard error measured_se, and the 10 % and 90 % quantiles
            of the sequences, measured_low and measured_high.
        edit: its name.
        source: of the predictions: `exact` (a closed form), `estimated` (the quadratic in the block scalars, from other
            sequences) or `none`.
    """

    by_value: pd.DataFrame
    edit: str
    source: str
    n: int


@calm()
def edit_losses(
    model: Any,
    edit: str,
    values: Iterable[float],
    *,
    process: Process | None = None,
    n: int = 2048,
    seed: int = EDITED,
    batch_size: int | None = None,
) -> EditLosses:
    """The loss of the edited model, as the setting predicts it and as measured on fresh sequences.

    Args:
        model: a `HookedARTransformer`; it stays as it is.
        edit: one of `available_edits(model)`.
        values: of the edit, each by itself.
        process: that the sequences are of; the model's own if left out.
        n: sequences; >= 2.
        batch_size: sequences at a time.
    Raises:
        ValueError: an unknown edit or one that does not apply, no values or some that are not finite, no process or one
            that does not go with the model, n < 2.
    """
    chosen = EDITS[check_choice("edit", edit, tuple(EDITS))]
    check_integer("n", n, low=2)
    if batch_size is not None:
        check_integer("batch_size", batch_size, low=1)
    values = [check_number("values", value, low=-float("inf")) for value in values]
    if not values:
        raise ValueError(f"values is empty; {chosen.meaning}, e.g. {chosen.neutral:g}.")
    edited = [chosen.apply(model, value) for value in values]
    process = _process_of(model, process)
    contexts = process.contexts(
        n, model.config.n_ctx, seed=seed, device=next(model.parameters()).device, dtype=model.config.torch_dtype
    )
    setting = setting_of(model.config, process)
    predicted = [setting.expected_loss(changed) for changed in edited]
    shown = watched(iterable=edited, desc="edit_losses", unit=" edits")
    measured = torch.stack([_measured(changed, contexts, batch_size) for changed in shown]).cpu()
    table = {
        "value": values,
        "predicted": [found.loss for found in predicted],
        "predicted_se": [found.standard_error for found in predicted],
        "measured": measured.mean(1),
        "measured_se": measured.std(1) / n**0.5,
        **middle_of("measured", measured),
        "n": n,
    }
    return EditLosses(by_value=pd.DataFrame(table), edit=edit, source=predicted[0].source, n=n)


def available_edits(model: Any, process: Process | None = None) -> tuple[str, ...]:
    """The names of the edits that apply to a model; none to a foreign one.

    Args:
        process: that it would be measured on; the model's own if left out.
    Raises:
        ValueError: no process, or one that does not go with the model.
    """
    names = _applying(model)
    if names:
        _process_of(model, process)
    return names


def _measured(model: HookedARTransformer, contexts: Contexts, batch_size: int | None) -> Float[Tensor, "batch"]:
    size = at_a_time(batch_size, SCORES * model.config.n_heads * model.config.n_ctx**2, most=None)
    return torch.cat([part.losses(model(part.inputs)) for part in contexts.split(size)]).double()


def _process_of(model: HookedARTransformer, process: Process | None) -> Process:
    process = process or model.process
    if process is None:
        raise ValueError("process is needed to sample sequences; pass process=..., e.g. CommutingOrthogonal(10).")
    model.config.check_process(process)
    return process


def _applying(model: Any) -> tuple[str, ...]:
    return tuple(name for name, edit in EDITS.items() if edit.applies(model))


def _has_positions(model: Any) -> bool:
    return as_model(model).is_ours and (model.config.positional, model.config.n_layers) == ("multiplicative", 1)


def _has_two_directions(model: Any) -> bool:
    opened = as_model(model)
    if not (opened.is_ours and opened.is_diagonal) or model.config.n_heads < 2:
        return False
    return bool(_second_direction(model).norm() > PARALLEL * model.B[1].norm())


def _has_scalars(model: Any) -> bool:
    return as_model(model).is_ours and hasattr(model, "block_scalars")


def _second_direction(model: HookedARTransformer) -> Float[Tensor, "dim"]:
    """The part of b_1 that is orthogonal to b_0."""
    b_0, b_1 = model.B[:2].detach()
    return b_1 - b_0 * (b_0 @ b_1) / (b_0 @ b_0)


EDITS: dict[str, Edit] = {}
Change = Callable[[HookedARTransformer, float], None]


def _edit(
    name: str, meaning: str, *, applies: Callable[[Any], bool], span: tuple[float, float], neutral: float = 1.0
) -> Callable[[Change], Change]:
    """Put a change among `EDITS`; its docstring says what it does."""

    def declare(change: Change) -> Change:
        what = " ".join((change.__doc__ or "").split())
        EDITS[name] = Edit(
            name=name, what=what, meaning=meaning, neutral=neutral, span=span, applies=applies, change=change
        )
        return change

    return declare


@_edit("previous position", "factor; 0 removes p_{T-1}, -1 turns its sign", applies=_has_positions, span=(-1.0, 3.0))
def _scale_previous(model: HookedARTransformer, value: float) -> None:
    """Multiplies the positional weight p_{T-1} of s_{T-1}, at every T."""
    model.P.diagonal(model.config.query_lag - 1).mul_(value)  # with query_lag = 0 row r holds p for T = r + 1


@_edit("positional scale", "factor; 0 predicts nothing", applies=_has_positions, span=(0.0, 2.0))
def _scale_positions(model: HookedARTransformer, value: float) -> None:
    """Multiplies all positional weights, and with them the prediction."""
    model.P.mul_(value)


@_edit(
    "head rotation",
    "angle in radians; pi turns the sign of the head",
    applies=_has_two_directions,
    span=(-math.pi, math.pi),
    neutral=0.0,
)
def _rotate_head(model: HookedARTransformer, value: float) -> None:
    """Turns the value diagonal b_0 toward b_1, in their plane and at its length, so that head 0 comes to write what
    head 1 writes."""
    # The same whatever the scales of a_h against b_h (a sign turns the angle's), not however the heads are mixed; but
    # at a minimum of the unitary family with n_heads <= dim it costs 2 (1 - cos value) / cos^2(a_0, b_0) in any gauge.
    b_0, direction = model.B[0].clone(), _second_direction(model)
    model.B[0] = math.cos(value) * b_0 + math.sin(value) * b_0.norm() / direction.norm() * direction


@_edit("step size", "factor; 0 takes no step", applies=_has_scalars, span=(-1.0, 3.0))
def _scale_step(model: HookedARTransformer, value: float) -> None:
    """Multiplies a2, the key-query scalar of <s_{t-1}|s_T>: all of the gradient step a2 b1."""
    model.block_scalar("a2").mul_(value)


@_edit("second path", "factor; 0 cuts the path, -1 turns its sign", applies=_has_scalars, span=(-3.0, 3.0))
def _scale_second_path(model: HookedARTransformer, value: float) -> None:
    """Multiplies a3, the key-query scalar of <s_t|s_{T-1}>: the path beside the gradient step."""
    model.block_scalar("a3").mul_(value)
