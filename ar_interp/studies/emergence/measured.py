"""Readings of merged heads that claims about emergence are made of."""

from copy import deepcopy
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.checkpoints import TrainingRun
from ar_interp.claims import Estimate, Measured
from ar_interp.claims.estimate import SEEDS
from ar_interp.probes.emergence import DescentAlong, SignPattern, descent_along, half_step, sign_pattern, stage_times
from ar_interp.processes import FirstToken
from ar_interp.setting.merged import main_blocks, record_of
from ar_interp.theory import half_time, plane_loss

REACHED = 1e-4  # above the block optimum, relative; the next fixed point is far higher


class EmergenceMeasured(Measured):
    """A layer of merged heads, its training where that is known, and its sign pattern."""

    @property
    def run(self) -> TrainingRun:
        assert self.subject.run is not None
        return self.subject.run

    @property
    def own(self) -> dict[str, Tensor]:
        """The weights as those of an ensemble of one."""
        names = ("QK", "OV")
        attn = self.model.blocks[0].attn
        return {f"blocks.0.attn.{name}": getattr(attn, name).detach().double().cpu()[None] for name in names}

    @property
    def blocks(self) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, "dim dim"]]:
        """A and B."""
        A, B = main_blocks(self.own, self.config.dim)
        return A[0], B[0]

    # ---- the path of training

    @cached_property
    def along(self) -> DescentAlong:
        return descent_along(self.run)

    @property
    def stays(self) -> bool:
        """Training stays in the plane where it starts there."""
        run = self.subject.run
        return self.setting.in_plane or (run is not None and run.training.entries == "diagonal")

    @property
    def leaves(self) -> bool:
        """Training on the exact loss leaves the plane at once, with a gradient that is known."""
        law, exact = self.setting.law, self.run.training.objective == "population"
        return exact and not self.stays and (law.law == "ones" or (law.correlation > 0 and not law.scales))

    @property
    def follows(self) -> bool:
        """The recursion in the plane speaks of this training, by what the run states of it."""
        return self.stays and "predicted_product" in self.along.by_step

    @property
    def mu(self) -> float:
        """Step size times slope."""
        return self.along.lr * plane_loss(self.setting.moments, max_length=self.setting.max_length).slope

    @property
    def off_plane(self) -> float:
        """Largest norm of what lies off the plane over the record, over that of what lies in it at the end."""
        table = self.along.by_step
        inside = (self.config.dim * (table["a"].to_numpy()[-1] ** 2 + table["b"].to_numpy()[-1] ** 2)) ** 0.5
        return float(table["off_plane"].to_numpy().max() / inside)

    @property
    def off_plane_of_weights(self) -> float:
        """Norm of what lies off the plane in the weights as they are, over their own norm."""
        found = record_of(self.own, self.config.dim)
        size = sum(W.square().sum() for W in self.own.values()) ** 0.5
        return float(found["off_plane"][0] / size)

    @property
    def other_law(self) -> FirstToken:
        """A law that the same steps are compared with."""
        return FirstToken("gaussian" if self.setting.law.law in ("signs", "ones") else "signs")

    def deviation(self, *names: str, law: FirstToken | None = None) -> float:
        """The largest distance of these columns from the recursion, for another law if one is given."""
        return (self.along if law is None else descent_along(self.run, law)).deviation(*names)

    @property
    def swapped_deviation(self) -> float:
        """The distance of (a, b) from the recursion's (b, a)."""
        table = self.along.by_step
        return float(np.abs(table[["a", "b"]].to_numpy() - table[["predicted_b", "predicted_a"]].to_numpy()).max())

    @property
    def exchanged_deviation(self) -> float:
        """The distance of the coordinates' products from those of the recursion in the opposite order."""
        names = [f"product_{j + 1}" for j in range(self.config.dim)]
        predicted = [f"predicted_{name}" for name in reversed(names)]
        return float(np.abs(self.along.by_step[names].to_numpy() - self.along.by_step[predicted].to_numpy()).max())

    @property
    def difference_left(self) -> tuple[float, float]:
        """a^2 - b^2 at the end over that of the start, measured and by the recursion."""
        table = self.along.by_step
        found = (table[name].to_numpy() for name in ("difference", "predicted_difference"))
        measured, predicted = (float(values[-1] / values[0]) for values in found)
        return measured, predicted

    def half_time_ratio(self, factor: float = 1.0) -> float:
        """The step at which a b is half of its end, over the flow's from a start `factor` times as large."""
        table, setting = self.along.by_step, self.setting
        start = self.run.training.start[0] ** 2 * factor
        predicted = half_time(setting.moments, product=start, max_length=setting.max_length) / self.along.lr
        return half_step(table["step"].to_numpy(dtype=float), table["product"].to_numpy(), setting.product) / predicted

    @cached_property
    def stages(self) -> pd.DataFrame | None:
        """The table of `stage_times`; None where coordinates are alike."""
        return stage_times(self.run).by_coordinate if self.setting.law.scales else None

    @property
    def end_ratio(self) -> float:
        """A_jj B_jj of the last coordinate over that of the first."""
        A, B = self.blocks
        products = A.diagonal() * B.diagonal()
        return (products[-1] / products[0]).item()

    @property
    def first_step(self) -> dict[str, float]:
        """Minus the change of the off-diagonal of A (keys) and B (values) by the first step, over the step size."""
        before, after = (
            main_blocks({name: W[None] for name, W in self.run.snapshots[step].items()}, self.config.dim)
            for step in (0, 1)
        )
        changes = (float(_off_diagonal(old[0] - new[0])) for old, new in zip(before, after, strict=True))
        return dict(zip(("keys", "values"), (change / self.along.lr for change in changes), strict=True))

    # ---- where it ends

    def of_training_loss(self, loss: float) -> float:
        """Per context length and without 1/2, from the loss as `theory.emergence` counts."""
        return 2 * loss / (self.config.n_ctx - 1)

    @property
    def best_loss(self) -> float:
        """The smallest loss in the plane, as `theory.emergence` counts."""
        return self.config.dim * plane_loss(self.setting.moments, max_length=self.setting.max_length).at(
            self.setting.product
        )

    @property
    def masked_loss(self) -> float:
        """`best_loss` per context length and without 1/2."""
        return self.of_training_loss(self.best_loss)

    @property
    def off_diagonal(self) -> dict[str, float]:
        """Mean off-diagonal over mean diagonal entry, in the gauge of signs of the first row, of A and B."""
        found = (float(_off_diagonal(block) / block.diagonal().mean()) for block in self.blocks)
        return dict(zip(("keys", "values"), found, strict=True))

    @cached_property
    def pattern(self) -> SignPattern:
        return sign_pattern(self.model)

    def signs_that_differ(self) -> float:
        """Coordinates where the signs of values, keys and behaviour are not the same up to a common one."""
        table = self.pattern.by_coordinate
        signs = np.stack(
            [table[name].to_numpy() * table[name].to_numpy()[0] for name in ("values", "keys", "behaviour")]
        )
        return float((np.ptp(signs, axis=0) > 0).sum())

    def gain_deviation(self, column: str, *, flipped: bool = False) -> float:
        """Largest distance of the gains from a prediction, over a step's; `flipped` reflects one coordinate more."""
        table = self.pattern.by_coordinate
        predicted = table[column].to_numpy()
        if flipped:
            signs = table["values"].to_numpy().copy()
            signs[0] *= -1
            predicted = self.pattern.product * signs * signs.sum()
        return float(np.abs(table["gain"].to_numpy() - predicted).max() / table["one_step"].to_numpy()[0])

    @cached_property
    def half_turned(self) -> Any:
        """A model with one sign turned in the values and not in the keys, measured in the same way."""
        other = deepcopy(self.model).requires_grad_(False)
        d = self.config.dim
        other.blocks[0].attn.OV[0, d] *= -1
        return self.of(other)

    @torch.no_grad()
    def distance_from_step(self, *, turned: bool = False, flipped: bool = False) -> Estimate:
        """Root mean square distance from the gradient step of its own size, over the step's; at all T >= 2.

        Args:
            turned: with its signs on query and prediction.
            flipped: with one sign more there.
        """
        signs = torch.from_numpy(self.pattern.by_coordinate["values"].to_numpy(copy=True))
        signs = signs.to(self.parts[0].inputs.device)
        signs = signs if turned or flipped else torch.ones_like(signs)
        signs[0] *= -1 if flipped else 1
        step = self.of(deepcopy(self.model).requires_grad_(False)).model
        step.load_state_dict(self.config.gradient_step(self.pattern.product, 1.0))
        other, d = deepcopy(self.model).requires_grad_(False), self.config.dim
        other.blocks[0].attn.QK[0, d : 2 * d] *= signs[:, None]
        other.blocks[0].attn.OV[0, :, :d] *= signs
        off, size = [], []
        for part in self.parts:
            wanted = step(part.inputs)[:, 1:]
            off.append((other(part.inputs)[:, 1:] - wanted).abs().square().sum((1, 2)))
            size.append(wanted.abs().square().sum((1, 2)))
        return Estimate.ratio(torch.cat(off), torch.cat(size)).root()

    # ---- random starts

    @property
    def reached(self) -> Estimate:
        """Share of the members that are at the block optimum."""
        return Estimate.share(int(self._at_optimum.sum()), len(self.run.members), SEEDS)

    @property
    def one_step_share(self) -> Estimate:
        """Share of those at the block optimum whose signs are all alike."""
        alike = self.run.members["minus"].to_numpy() == 0
        return Estimate.share(int((alike & self._at_optimum).sum()), int(self._at_optimum.sum()), SEEDS)

    @property
    def _at_optimum(self) -> np.ndarray:
        return self.run.members["loss"].to_numpy() < self.masked_loss * (1 + REACHED)


def _off_diagonal(block: Float[Tensor, "dim dim"]) -> Float[Tensor, ""]:
    """The mean of the entries off the diagonal."""
    return (block.sum() - block.diagonal().sum()) / (block.numel() - len(block))
