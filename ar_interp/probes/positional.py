"""The structure of the positional encoding: which keys it uses, kappa, and the trigonometric identity."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._shown import Shown
from ar_interp.models.opened import Model
from ar_interp.models.weights import DiagonalWeights, diagonal_weights, process_of
from ar_interp.probes.heads import RANK_TOLERANCE
from ar_interp.probes.protocol import WEIGHTS, needs, process_option
from ar_interp.processes import CommutingProcess
from ar_interp.seeds import ANGLES, generator_of
from ar_interp.theory import kappa_to_ratio, positional_kernel, ratio_to_kappa

N_ANGLES = 360
N_OFFSETS = 4  # relative angles of the coordinates: all equal, and three random draws
CHUNK = 180


@dataclass(frozen=True, kw_only=True)
class PositionalStructure(Shown):
    """The encoding that P and C give the prediction p_T C(..) s_T + p_{T-1} C(..) s_{T-1}.

    Attributes:
        ratio: p_{T-1} / p_T, the least-squares value over T = 2..n_ctx; ratio_by_length, the same for each T, and
            ratio_spread, the largest difference between the two.
        kappa: sum_j C_jj' / sum_j C_jj, j' the conjugate partner; nan where dim is odd.
        kappa_spread: largest |C_jj' / C_jj - kappa| over the coordinates that C covers.
        ratio_from_kappa: -kappa / (1 + kappa); equal to ratio at zero loss; inf where kappa is -1.
        kappa_from_P: -ratio / (1 + ratio); equal to kappa at zero loss.
        block_mass: share of |C|^2 outside the 2x2 blocks of the pairs.
        off_mass: share of |P|^2 on keys other than T-1 and T.
        scale: c; tr C / rank C (unitary), tr C / covered coordinates (conjugate pairs); scale_error, the largest
            |c p_T - 1| over T.
        residual: the trigonometric residual, sup over angles and T of |prediction - lambda^T| through the hooks;
            residual_by_length, sup over angles for T = 2..n_ctx; residual_by_angle, sup over coordinates at T = n_ctx,
            all coordinates at the same angle of lambda, which is one of `angles`, in radians.
        profile: p for T = n_ctx.
        filter_response: for a positional-only model, how far each mode of the kernel has been learned; filter_rank, its
            sum, the effective rank of the filter; else None.
        P: the used weights, row for T = 2..n_ctx.
    """

    ratio: float
    ratio_by_length: Float[Tensor, "length"]
    ratio_spread: float
    kappa: float
    kappa_spread: float
    ratio_from_kappa: float
    kappa_from_P: float
    block_mass: float
    off_mass: float
    scale: float
    scale_error: float
    residual: float
    residual_by_length: Float[Tensor, "length"]
    angles: Float[Tensor, "angle"]
    residual_by_angle: Float[Tensor, "angle"]
    profile: Float[Tensor, "pos"]
    filter_response: Float[Tensor, "mode"] | None
    filter_rank: float | None
    P: Float[Tensor, "length key"]

    def to_frame(self) -> pd.DataFrame:
        """A row per context length: T, ratio, residual."""
        lengths = np.arange(2, len(self.ratio_by_length) + 2)
        return pd.DataFrame({"T": lengths, "ratio": self.ratio_by_length, "residual": self.residual_by_length})


@needs(
    "forward",
    *WEIGHTS,
    "P",
    scope="one layer of diagonal heads",
    options=process_option,
    fits=lambda model: (diagonal_weights(model), model.process and process_of(model, None)),
)
def positional_structure(model: Model, *, process: CommutingProcess | None = None) -> PositionalStructure:
    """Measure the positional encoding of a diagonal model.

    At zero loss for conjugate pairs p_{T-1} / p_T = -kappa / (1 + kappa), so that with kappa = 1 the prediction is the
    trigonometric identity s_{T+1} = 2 cos(theta) s_T - s_{T-1} (Sander et al. 2024, orthogonal case).

    Args:
        process: the family; the model's own if left out.
    """
    weights = diagonal_weights(model)
    process = process_of(model, process)
    n_ctx = len(weights.P)
    P = weights.P[:-1] * torch.ones(n_ctx - 1, n_ctx, dtype=torch.float64, device=weights.P.device).tril(1)
    previous, last = P.diagonal(), P.diagonal(1)
    ratio = ((previous * last).sum() / last.square().sum()).item()
    total = P.square().sum()
    scale = _scale(weights, process)
    kappa, kappa_spread, block_mass = _pair_structure(weights.C)
    angles, residuals = _residuals(model, process, n_ctx)
    response = _filter_response(P[-1], process) if weights.C.shape == (1, 1) else None
    return PositionalStructure(
        ratio=ratio,
        ratio_by_length=previous / last,
        ratio_spread=(previous / last - ratio).abs().max().item(),
        kappa=kappa,
        kappa_spread=kappa_spread,
        ratio_from_kappa=kappa_to_ratio(kappa) if kappa != -1 else float("inf"),
        kappa_from_P=ratio_to_kappa(ratio) if ratio != -1 else float("inf"),
        block_mass=block_mass,
        off_mass=((total - previous.square().sum() - last.square().sum()).clamp(min=0) / total).item(),
        scale=scale,
        scale_error=(scale * last - 1).abs().max().item(),
        residual=residuals.max().item(),
        residual_by_length=residuals.amax((0, 1)),
        angles=angles,
        residual_by_angle=residuals[0, :, -1],
        profile=P[-1],
        filter_response=response,
        filter_rank=None if response is None else response.sum().item(),
        P=P,
    )


def _scale(weights: DiagonalWeights, process: CommutingProcess) -> float:
    C = weights.C
    if process.conjugate_pairs:
        covered = _covered(C).sum()
    else:
        singular_values = torch.linalg.svdvals(C)
        covered = (singular_values > RANK_TOLERANCE * singular_values[0]).sum()
    return (C.trace() / covered.clamp(min=1)).item()


def _covered(C: Float[Tensor, "dim dim"]) -> Tensor:
    """Coordinates that C writes to within their pair, if by the partner alone."""
    j = torch.arange(len(C), device=C.device)
    written = torch.maximum(C.diagonal().abs(), C[j, j ^ 1].abs())
    return written > RANK_TOLERANCE * written.max()


def _pair_structure(C: Float[Tensor, "dim dim"]) -> tuple[float, float, float]:
    """kappa, its spread over the covered coordinates, and the share of |C|^2 outside the pairs' blocks."""
    dim = len(C)
    if dim % 2:
        return float("nan"), float("nan"), float("nan")
    j = torch.arange(dim, device=C.device)
    diagonal, partners = C.diagonal(), C[j, j ^ 1]
    kappa = partners.sum() / diagonal.sum()
    covered = _covered(C)
    spread = (
        (partners[covered] / diagonal[covered] - kappa).abs().max() if covered.any() else kappa.new_tensor(torch.inf)
    )
    inside = diagonal.square().sum() + partners.square().sum()
    outside = (1 - inside / C.square().sum()).clamp(min=0)
    return kappa.item(), spread.item(), outside.item()


@torch.no_grad()
def _residuals(
    model: Model, process: CommutingProcess, n_ctx: int
) -> tuple[Float[Tensor, "angle"], Float[Tensor, "offset angle length"]]:
    """sup over coordinates of |prediction - lambda^T|; every coordinate runs over the whole grid at each offset."""
    angles = torch.arange(N_ANGLES, dtype=torch.float64, device="cpu") * (2 * torch.pi / process.mu / N_ANGLES)
    n_free = process.n_free
    generator = generator_of(ANGLES)
    offsets = 2 * torch.pi * torch.rand(N_OFFSETS, n_free, generator=generator, dtype=torch.float64, device="cpu")
    offsets[0] = 0
    if n_free == 1:
        offsets = offsets[:1]
    phases = (angles[None, :, None] + offsets[:, None, :]).flatten(0, 1)
    if process.conjugate_pairs:
        phases = torch.stack([phases, -phases], dim=-1).flatten(1)
    device = model.P.device
    residuals = []
    for chunk in phases.split(CHUNK):
        contexts = process.rollout(chunk.to(device), n_ctx + 1)
        deviations = (model(contexts.inputs) - contexts.targets)[:, 1:]
        residuals.append(deviations.abs().amax(-1).cpu())
    return angles, torch.cat(residuals).unflatten(0, (len(offsets), N_ANGLES))


def _filter_response(profile: Float[Tensor, "pos"], process: CommutingProcess) -> Float[Tensor, "mode"]:
    """<u_i, p> / <u_i, e_T> for the kernel's eigenvectors u_i: the measured spectral filter, no step count assumed."""
    modes = torch.linalg.eigh(positional_kernel(mu=process.mu, length=len(profile)))[1].flip(1)
    return (modes.T @ profile) / modes[-1]
