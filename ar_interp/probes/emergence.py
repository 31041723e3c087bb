"""How training found a gradient step: its steps beside the recursion of theory, stages, and the signs it ended with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._moods import calm
from ar_interp.checkpoints import TrainingRun, loaded, model_of
from ar_interp.models.encodings import Augmented
from ar_interp.models.opened import as_model
from ar_interp.probes.results import Result
from ar_interp.processes import CommutingUnitary, FirstToken
from ar_interp.seeds import EXHIBITS, generator_of
from ar_interp.setting import Emergence, setting_of
from ar_interp.setting.merged import main_blocks, record_of
from ar_interp.theory import (
    anisotropic_path,
    descent_path,
    equal_phase_gain,
    first_token_moments,
    stage_half_times,
)

N_PHASES = 16


@dataclass(frozen=True, kw_only=True)
class DescentAlong(Result):
    """Plain descent beside the recursion, before every recorded step and at the end.

    Attributes:
        by_step: step, loss (per context length), a, b, product (a b), difference (a^2 - b^2), off_plane, minus, and
            product_1, ... where coordinates differ; `predicted_` and a name for what the recursion says of it, where
            there is one. Weights are read where a snapshot or the end has them, the log elsewhere.
        lr: the step size for half the loss summed over coordinates and T, as theory counts.
    """

    by_step: pd.DataFrame
    lr: float

    def deviation(self, *names: str) -> float:
        """The largest |measured - predicted| of these columns over the steps."""
        both = ((self.by_step[name], self.by_step[f"predicted_{name}"]) for name in names)
        return max(float(np.abs(found.to_numpy() - predicted.to_numpy()).max()) for found, predicted in both)

    @property
    def predicted(self) -> bool:
        """The recursion speaks of this training."""
        return any(str(name).startswith("predicted_") for name in self.by_step)


@calm()
def descent_along(run: Any, law: FirstToken | None = None) -> DescentAlong:
    """The recorded training of merged heads by plain descent, and the exact recursion from the same start.

    Args:
        run: a run or checkpoint, or its name or folder, with a record of a and b, see `Setting.record`.
        law: of the first tokens that the recursion is for; those that the run was trained on if left out.
    Raises:
        ValueError: no such record.
    """
    run = loaded(run, "run")
    setting = setting_of(run.config, run.process) if isinstance(run, TrainingRun) else None
    if not isinstance(setting, Emergence) or "a" not in run.history or run.history.empty:
        raise ValueError("run must be a training of merged heads with a record of a and b in its history.")
    table, dim, training = run.history.copy(), run.config.dim, run.training
    table = table.rename(columns={"loss_min": "loss"}).drop(columns=["loss_median", "loss_max"])
    for step, parameters in {**run.snapshots, run.steps: run.parameters}.items():
        found = record_of({name: W[None] for name, W in parameters.items()}, dim, each=bool(setting.law.scales))
        for name, value in found.items():
            table.loc[table["step"] == step, name] = value.item()
    table["product"], table["difference"] = table["a"] * table["b"], table["a"] ** 2 - table["b"] ** 2
    lr, law = 2 * training.lr, law or setting.law
    steps = table["step"].to_numpy()
    if training.start and training.schedule == "constant" and not training.warmup:
        a, b = training.start
        sizes: dict[str, Any] = {"max_length": setting.max_length, "lr": lr, "steps": int(steps.max())}
        if law.scales:
            path = anisotropic_path(a=[a] * dim, b=[b] * dim, scales=np.multiply(law.scale, law.scales), **sizes)
            for j, products in enumerate(path.prod(1)[steps].T):
                table[f"predicted_product_{j + 1}"] = products
        elif law.exchangeable:
            moments = first_token_moments(law.law, dim=dim, scale=law.scale, n_nonzero=law.n_nonzero)
            table["predicted_a"], table["predicted_b"] = descent_path(moments, a=a, b=b, **sizes)[steps].T
            table["predicted_product"] = table["predicted_a"] * table["predicted_b"]
            table["predicted_difference"] = table["predicted_a"] ** 2 - table["predicted_b"] ** 2
    return DescentAlong(by_step=table, lr=lr)


def half_step(steps: Float[np.ndarray, "row"], products: Float[np.ndarray, "row"], end: float) -> float:
    """The step at which a product first passes half of its end, by a line between steps; nan if it never does."""
    above = products >= end / 2
    if not above.any() or above[0]:
        return float("nan")
    k = int(above.argmax())
    share = (end / 2 - products[k - 1]) / (products[k] - products[k - 1])
    return float(steps[k - 1] + share * (steps[k] - steps[k - 1]))


@dataclass(frozen=True, kw_only=True)
class StageTimes(Result):
    """Half times of the coordinates of an anisotropic law.

    Attributes:
        by_coordinate: coordinate (from 1), scale, measured (the step at which its product is half of its end),
            predicted (the same of the recursion), alone (of the closed form for one coordinate), end and predicted_end
            (of the product).
    """

    by_coordinate: pd.DataFrame


@calm()
def stage_times(run: Any) -> StageTimes:
    """The half times of every coordinate, measured, by the recursion, and in closed form.

    Raises:
        ValueError: coordinates of one size, or a start that is not balanced, a = b > 0.
    """
    run = loaded(run, "run")
    along = descent_along(run)
    setting, start, table = setting_of(run.config, run.process), run.training.start, along.by_step
    if not setting.process.initial.scales or len(start) != 2 or not start[0] == start[1] > 0:
        raise ValueError("run must have coordinates of several sizes and a balanced start, a = b > 0.")
    law, steps = setting.process.initial, table["step"].to_numpy(dtype=float)
    scales = np.multiply(law.scale, law.scales)
    alone = stage_half_times(scales, product=start[0] * start[1], max_length=run.config.n_ctx + 1) / along.lr
    rows = []
    for j, scale in enumerate(scales):
        name = f"product_{j + 1}"
        measured, predicted = table[name].to_numpy(), table[f"predicted_{name}"].to_numpy()
        rows.append(
            {
                "coordinate": j + 1,
                "scale": scale,
                "measured": half_step(steps, measured, measured[-1]),
                "predicted": half_step(steps, predicted, predicted[-1]),
                "alone": alone[j],
                "end": measured[-1],
                "predicted_end": predicted[-1],
            }
        )
    return StageTimes(by_coordinate=pd.DataFrame(rows))


@dataclass(frozen=True, kw_only=True)
class SignPattern(Result):
    """The signs D that a layer's gradient step is turned by, D M D in place of M, from its weights and its predictions.

    Attributes:
        by_coordinate: coordinate (from 1), values and keys (signs of the diagonals of B and A), behaviour (from the
            gains, relative to the first as weights have it), gain (prediction over target where W = lambda I and
            |x_1j| = 1), predicted (by D of the values), one_step (by D = I).
        product: mean of |A_jj B_jj|.
    """

    by_coordinate: pd.DataFrame
    product: float

    @property
    def reflected(self) -> bool:
        """Whether signs differ, so that the layer is no gradient step."""
        return bool(np.ptp(self.by_coordinate["values"].to_numpy()))


@calm()
def sign_pattern(model: object, *, seed: int = EXHIBITS) -> SignPattern:
    """Read D from the diagonals of the blocks of QK and OV, and from predictions where all eigenvalues are one number.

    There prediction_j / target_j = a b D_j sum_r D_r |x_1r|^2, linear in |x_1r|^2: first tokens that differ in one
    coordinate give D_j D_r.

    Args:
        model: one layer with one head on augmented tokens.
        seed: of the phases.
    Raises:
        ValueError: another kind of model.
    """
    opened = as_model(model_of(model))
    one_layer = opened.is_augmented and opened.n_layers == 1
    if not one_layer or opened.W_Q.shape[1] > 1:
        raise ValueError("model must have one layer with one head on augmented tokens: its signs are those of a step.")
    opened.check_finite()
    W_Q, W_K, W_V, W_O = (W[0] for W in (opened.W_Q, opened.W_K, opened.W_V, opened.W_O))
    dim = W_Q.shape[1] // len(Augmented.blocks)
    blocks = {"blocks.0.attn.QK": W_Q @ W_K.mT, "blocks.0.attn.OV": W_V @ W_O}
    own = {name: W.detach().double().cpu()[None] for name, W in blocks.items()}
    A, B = (block[0].diagonal() for block in main_blocks(own, dim))
    signs, keys = (np.where(x.numpy() < 0, -1.0, 1.0) for x in (B, A))
    product = float((A * B).abs().mean())
    ones = torch.ones(1, dim, dtype=torch.float64, device="cpu")
    first = torch.cat([ones, ones + (2**0.5 - 1) * torch.diag_embed(ones[0])])
    gains = _gains(opened, first, opened.n_ctx or 2, seed)
    kernel = gains[1:] - gains[0]  # [r j], a b D_j D_r
    rows = pd.DataFrame(
        {
            "coordinate": range(1, dim + 1),
            "values": signs,
            "keys": keys,
            "behaviour": np.where(kernel[0].numpy() < 0, -1.0, 1.0) * signs[0],
            "gain": gains[0].numpy(),
            "predicted": equal_phase_gain(signs, np.ones(dim), product=product),
            "one_step": equal_phase_gain(np.ones(dim), np.ones(dim), product=product),
        }
    )
    return SignPattern(by_coordinate=rows, product=product)


@torch.no_grad()
def _gains(model: Any, first: Float[Tensor, "case dim"], n_ctx: int, seed: int) -> Float[Tensor, "case dim"]:
    """Prediction over target at the longest context, mean over phases, W = lambda I."""
    n, dim = first.shape
    angles = 2 * torch.pi * torch.rand(N_PHASES, 1, generator=generator_of(seed), dtype=torch.float64, device="cpu")
    phases, tokens = angles.expand(-1, dim).repeat(n, 1), first.to(torch.complex128).repeat_interleave(N_PHASES, 0)
    dtype = model.W_Q.dtype
    sequences = CommutingUnitary(dim).rollout(phases, n_ctx + 1, first_tokens=tokens, dtype=dtype).to(model.device)
    predictions, targets = model(sequences.inputs)[:, -1], sequences.targets[:, -1]
    return (predictions / targets).real.double().cpu().unflatten(0, (n, N_PHASES)).mean(1)
