"""Head orthogonality, measured so that the gauge A -> G A, B -> G^{-T} B cannot fake or hide it."""

from dataclasses import asdict, dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._shown import Shown
from ar_interp.models.opened import Model
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.protocol import WEIGHTS, needs

RANK_TOLERANCE = 1e-2  # of the largest singular value: far above convergence errors, far below kappa's 1 - k


@dataclass(frozen=True, kw_only=True)
class HeadOrthogonality(Shown):
    """Statistics of M = A B^T, M_hh' = <a_h, b_h'>, and C = B^T A, which share their non-zero eigenvalues.

    Attributes:
        kind: `identity` where C has as many dimensions as there are heads (M = m I is possible), else `projector`
            (M / m can only be a projector of rank `rank`).
        scale: m = tr M / rank; c for the unitary family, 2c for kappa = 1.
        e_m: |M / m - I|_F / sqrt(n_heads). Zero in every gauge or in none.
        e_p, e_c: |M^2 - m M|_F / m^2 and |C^2 - m C|_F / m^2, projector defects; that of C is independent of the gauge.
        rank: singular values of C above 1 % of the largest.
        balancedness: |A A^T - B B^T|_F / |A A^T|_F; gradient descent from small weights keeps it small.
        cosine_ab, cosine_aa: rms over h != h' of cos(a_h, b_h') and cos(a_h, a_h'); nan for one head.
        alignment: sign(m) times the mean over h of cos(a_h, b_h).
        untrained_cosine: what the rms cosines are for independent Gaussian heads, 1 / sqrt(dim).
        singular_values: of C, descending.
    """

    kind: str
    scale: float
    e_m: float
    e_p: float
    e_c: float
    rank: int
    balancedness: float
    cosine_ab: float
    cosine_aa: float
    alignment: float
    untrained_cosine: float
    singular_values: Float[Tensor, "dim"]
    A: Float[Tensor, "head dim"]
    B: Float[Tensor, "head dim"]
    C: Float[Tensor, "dim dim"]
    M: Float[Tensor, "head head"]

    def to_frame(self) -> pd.DataFrame:
        """One row of the statistics."""
        return pd.DataFrame([{k: v for k, v in asdict(self).items() if not isinstance(v, Tensor)}])


@needs(*WEIGHTS, "P", scope="one layer of diagonal heads", fits=diagonal_weights)
def head_orthogonality(model: Model) -> HeadOrthogonality:
    """Measure how orthogonal the heads of a diagonal model are.

    At a global minimum of the unitary loss M = c I for n_heads <= dim and M / c is a projector of rank dim above; for
    conjugate pairs with kappa = 1 and dim / 2 heads M = 2c I. With more heads, up to dim, only its dim / 2 eigenvalues
    2c and zeros are fixed: M is 2c times a projector where the heads are balanced, and C / 2c is one always.
    Source: Sander et al. 2024, non-augmented tokens; M from C^2 = c C with A onto and B^T one-to-one.
    """
    weights = diagonal_weights(model)
    A, B, C, M = weights.A, weights.B, weights.C, weights.M
    n_heads, dim = A.shape
    singular_values = torch.linalg.svdvals(C)
    rank = max(1, int((singular_values > RANK_TOLERANCE * singular_values[0]).sum()))
    scale = M.trace() / rank
    gram = A @ A.T
    return HeadOrthogonality(
        kind="identity" if rank == n_heads else "projector",
        scale=scale.item(),
        e_m=((M / scale - torch.eye(n_heads, dtype=M.dtype, device=M.device)).norm() / n_heads**0.5).item(),
        e_p=((M @ M - scale * M).norm() / scale**2).item(),
        e_c=((C @ C - scale * C).norm() / scale**2).item(),
        rank=rank,
        balancedness=((gram - B @ B.T).norm() / gram.norm()).item(),
        cosine_ab=_rms_off_diagonal(_cosines(A, B)),
        cosine_aa=_rms_off_diagonal(_cosines(A, A)),
        alignment=(scale.sign() * _cosines(A, B).diagonal().mean()).item(),
        untrained_cosine=dim**-0.5,
        singular_values=singular_values,
        A=A,
        B=B,
        C=C,
        M=M,
    )


def _cosines(X: Tensor, Y: Tensor) -> Float[Tensor, "head head"]:
    return torch.nn.functional.normalize(X, dim=1) @ torch.nn.functional.normalize(Y, dim=1).T


def _rms_off_diagonal(cosines: Float[Tensor, "head head"]) -> float:
    n_heads = len(cosines)
    if n_heads == 1:
        return float("nan")
    off = cosines - torch.diag(cosines.diagonal())
    return (off.square().sum() / (n_heads * (n_heads - 1))).sqrt().item()
