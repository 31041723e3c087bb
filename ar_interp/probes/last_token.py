"""Put any other token in the place of the last one: does the prediction become W times it?"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp._checks import check_seed, check_several
from ar_interp.models.opened import Model
from ar_interp.probes.batches import at_a_time, numbers_in_pass
from ar_interp.probes.protocol import needs
from ar_interp.probes.results import Result
from ar_interp.processes import Sequences
from ar_interp.seeds import generator_of


@dataclass(frozen=True, kw_only=True)
class ReplacedToken(Result):
    """Predictions of contexts whose last token is another one.

    Attributes:
        by_position: a row per T: cosine of the prediction with W u, mean over the n sequences, and its standard error
            cosine_se; relative_error, |prediction - W u|^2 / |W u|^2 of the sums over sequences; and the same with the
            W of another sequence: control, control_se, control_relative_error.
        predictions, tokens: at T = `positions`, and u, [batch dim].
    """

    by_position: pd.DataFrame
    predictions: Inexact[Tensor, "batch asked dim"]
    tokens: Inexact[Tensor, "batch dim"]
    positions: tuple[int, ...]
    n: int


@needs("forward", sequences=2, length=2, compares=True)
def replace_last_token(
    model: Model,
    sequences: Sequences,
    *,
    positions: Iterable[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> ReplacedToken:
    """Put a random u, of the norm of s_T, in the place of s_T: a model that holds an estimate of W predicts Ŵ u.

    It is defined for every model, whatever path the estimate takes. u is uniform on the sphere and has not been made by
    W, so that a prediction near W u has learned W from the older tokens alone. The pair (s_{T-1}, u) is one more, and a
    false one: least squares over all pairs errs by it.

    Args:
        positions: T, from 2 to the length of the contexts; all if left out.
        seed: of u.
    Raises:
        ValueError: fewer than two sequences, contexts shorter than 2, positions that are not there.
    """
    asked = check_several("positions", positions, low=2, high=sequences.length)
    inputs, W = sequences.inputs, sequences.W
    generator = generator_of(check_seed(seed))
    u = torch.randn(inputs[:, 0].shape, generator=generator, dtype=inputs.dtype, device="cpu").to(inputs.device)
    rows, found = [], []
    for T in asked:
        token = u * (inputs[:, T - 1].norm(dim=-1) / u.norm(dim=-1))[:, None]
        tokens = torch.cat([inputs[:, : T - 1], token[:, None]], dim=1)
        size = at_a_time(batch_size, numbers_in_pass(model, T))
        prediction = torch.cat([model(part)[:, -1] for part in tokens.split(size)])
        found.append(prediction)
        row: dict[str, float] = {"T": T, "n": len(u)}
        for names, matrix in ((("cosine", "relative_error"), W), (("control", "control_relative_error"), W.roll(1, 0))):
            goal = torch.einsum("bij,bj->bi", matrix, token)
            product = (goal.conj() * prediction).sum(-1).real
            cosine = product / (goal.norm(dim=-1) * prediction.norm(dim=-1)).clamp(min=torch.finfo(product.dtype).tiny)
            error = (prediction - goal).abs().square().sum() / goal.abs().square().sum()
            row[names[0]], row[f"{names[0]}_se"] = cosine.mean().item(), (cosine.std() / len(u) ** 0.5).item()
            row[names[1]] = error.item()
        rows.append(row)
    return ReplacedToken(
        by_position=pd.DataFrame(rows), predictions=torch.stack(found, 1), tokens=u, positions=asked, n=len(u)
    )
