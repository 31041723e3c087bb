"""Conditional means where the noise is known: of a phase, of a matrix, and of the state behind noisy observations.

process_variance, q, and observation_variance, r, are those of a coordinate, as in `ar_interp.theory.noise`. Where what
is observed is noisy, a matrix times the newest observation keeps its noise: `PhaseGrid` and `Kalman` estimate the state
s_T too, so that their predictions are not `estimate` times y_T.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.estimators.least_squares import Context, Estimator, known, moments, running_sum
from ar_interp.theory import phase_information

AT_ONCE = 2**18  # phases times tokens of the grid
LEAST_POINTS = 512


@dataclass(frozen=True, kw_only=True)
class VonMises(Estimator):
    """The conditional mean of diagonal W with uniform phases under process noise: (I_1 / I_0)(2 |z| / q) z / |z|.

    z = sum_{t<T} y_{t,j} conj(x_{t,j}); given the context a phase has the von Mises law of arg z and 2 |z| / q. Both
    commuting families; of conjugate pairs with real noise each coordinate says all that its partner does.
    """

    process_variance: float

    def __post_init__(self) -> None:
        check_number("process_variance", self.process_variance, low=0.0, strict=True)

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        _, past, future = known(context)
        _in_eigenbasis(past)
        z = running_sum(future * past.conj())
        return torch.diag_embed(_ratio(2 * z.abs() / self.process_variance) * torch.sgn(z))


@dataclass(frozen=True, kw_only=True)
class PhaseGrid(Estimator):
    """The conditional mean where states are observed with noise, diagonal W, s_1 = 1_dim in the eigenbasis.

    For each lambda of a grid the rotated observations x_t = lambda^{-(t-1)} y_t are Gaussian, so that the state is a
    filter of them; the prediction is the mean of lambda^T (1 + c S^{-1} (x - 1)), S = cov(x), c_t = q (t - 1), over
    the grid with the weights exp(-(x - 1)^* S^{-1} (x - 1)). `estimate` is the mean of lambda.

    Attributes:
        observation_variance: > 0; without it use `VonMises`.
        points: phases of the grid; as many as leave one in each standard deviation of the phase at the longest T, and
            512 at least, if left out. Fewer miss the peak.
    """

    process_variance: float = 0.0
    observation_variance: float
    points: int | None = None

    def __post_init__(self) -> None:
        check_number("process_variance", self.process_variance, low=0.0)
        check_number("observation_variance", self.observation_variance, low=0.0, strict=True)
        if self.points is not None:
            check_integer("points", self.points, low=1)

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        return torch.diag_embed(self._means(context)[0])

    def __call__(self, context: Context) -> Inexact[Tensor, "batch pos dim"]:
        return self._means(context)[1]

    def _means(self, context: Context) -> tuple[Tensor, Tensor]:
        """The means of lambda and of the prediction, for every coordinate."""
        y = _in_eigenbasis(known(context).x)
        points = self.points or self._enough(y.shape[1])
        parts = y.split(max(1, AT_ONCE // (points * y[0].numel())))
        lambdas, predictions = zip(*(self._of_part(part, points) for part in parts), strict=True)
        return torch.cat(lambdas), torch.cat(predictions)

    def _enough(self, length: int) -> int:
        q, r = self.process_variance, self.observation_variance
        known = phase_information(length=max(length, 2), process_variance=q, observation_variance=r)
        return max(LEAST_POINTS, int(2 * torch.pi * known**0.5))

    def _of_part(self, y: Tensor, points: int) -> tuple[Tensor, Tensor]:
        times = torch.arange(y.shape[1], dtype=torch.float64, device=y.device)
        c = self.process_variance * times
        S = torch.minimum(c[:, None], c) + self.observation_variance * torch.eye(len(c), dtype=c.dtype, device=c.device)
        whiten = torch.linalg.inv(torch.linalg.cholesky(S))
        angles = 2 * torch.pi * torch.arange(points, dtype=c.dtype, device=c.device) / points
        turns = torch.exp(-1j * angles[:, None] * times)  # [point pos]
        white = torch.einsum("st,pt,btd->pbsd", whiten.to(turns), turns, y.to(turns.dtype))
        white = white - whiten.sum(1)[:, None]  # of the mean 1
        weights = torch.softmax(-white.abs().square().cumsum(2), dim=0)
        state = 1 + ((whiten @ c)[:, None] * white).cumsum(2)
        following = (
            turns.conj() * turns[:, 1:2].conj() if len(c) > 1 else turns.conj() * torch.exp(1j * angles)[:, None]
        )
        lambdas = torch.einsum("pbsd,p->bsd", weights.to(turns), torch.exp(1j * angles))
        predictions = torch.einsum("pbsd,ps->bsd", weights * state, following)
        return lambdas.to(y), predictions.to(y)


@dataclass(frozen=True, eq=False)
class Kalman(Estimator):
    """The conditional mean where W and the law of s_1 are known: the filter of one variance for all coordinates.

    m <- W (m + P / (P + r) (y_t - m)), P <- |W|^2 P r / (P + r) + q, since W is a multiple of an orthogonal matrix and
    the noise has no direction.

    Attributes:
        W: [batch dim dim], those of the contexts that it is called with.
        first: E s_1 [dim], in the coordinates of the tokens.
        first_variance: of each coordinate of s_1; 1 for stationary processes.
    """

    W: Inexact[Tensor, "batch dim dim"]
    first: Inexact[Tensor, "dim"]
    process_variance: float = 0.0
    observation_variance: float = 0.0
    first_variance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("process_variance", "observation_variance", "first_variance"):
            check_number(name, getattr(self, name), low=0.0)

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        return self.W[:, None].expand(-1, known(context).x.shape[1], -1, -1)

    def __call__(self, context: Context) -> Inexact[Tensor, "batch pos dim"]:
        y, r = known(context).x, self.observation_variance
        if len(y) != len(self.W):
            raise ValueError(f"W must be those of the {len(y)} contexts, got {len(self.W)}.")
        kept = self.W[0].abs().square().sum().item() / y.shape[-1]  # |W|^2 of each direction
        mean, P, predictions = self.first.to(y).expand_as(y[:, 0]), self.first_variance, []
        for observed in y.unbind(1):
            gain = P / (P + r) if P else 0.0
            mean = torch.einsum("bij,bj->bi", self.W, mean + gain * (observed - mean))
            P = kept * (1 - gain) * P + self.process_variance
            predictions.append(mean)
        return torch.stack(predictions, dim=1)


@dataclass(frozen=True)
class Procrustes(Estimator):
    """The orthogonal matrix that fits best: the polar factor U Vh of R_T = U S Vh.

    The most likely one for Haar W under process noise. Bad while T <= dim, where R_T leaves directions open.
    """

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        U, S, Vh = torch.linalg.svd(moments(context)[1])
        return torch.where((S[..., :1] > 0)[..., None], U @ Vh, 0)


@dataclass(frozen=True, kw_only=True)
class HaarPlane(Estimator):
    """The conditional mean of Haar W on O(2) under process noise of variance q per real coordinate.

    In the plane as C a rotation is s -> e^{i theta} s, a reflection s -> e^{i theta} conj(s). With
    z = sum_{t<T} y_t conj(x_t) and z' = sum_{t<T} y_t x_t they have the weights I_0(|z| / q) and I_0(|z'| / q), and the
    mean of e^{i theta} is (I_1 / I_0)(|z| / q) z / |z| each.
    """

    process_variance: float

    def __post_init__(self) -> None:
        check_number("process_variance", self.process_variance, low=0.0, strict=True)

    def estimate(self, context: Context) -> Float[Tensor, "batch pos dim dim"]:
        _, past, future = known(context)
        if past.shape[-1] != 2 or past.is_complex():
            raise ValueError(f"HaarPlane needs real tokens of dim 2, got {past.dtype} of dim {past.shape[-1]}.")
        x, y = (torch.view_as_complex(part.contiguous()) for part in (past, future))
        z = torch.stack([running_sum(y * x.conj()), running_sum(y * x)])
        size = z.abs() / self.process_variance
        weights = torch.softmax(size + torch.special.i0e(size).log(), dim=0)  # I_0(x) = e^x i0e(x)
        rotation, reflection = weights * _ratio(size) * torch.sgn(z)
        columns = rotation + reflection, 1j * (rotation - reflection)  # images of 1 and i
        return torch.stack([torch.view_as_real(column) for column in columns], dim=-1)


def _in_eigenbasis(tokens: Tensor) -> Tensor:
    """The tokens, complex as those of commuting families are."""
    if not tokens.is_complex():
        raise ValueError(
            f"tokens must be complex, in the eigenbasis of a commuting family, got {tokens.dtype}: coordinates of real "
            "tokens have no phases."
        )
    return tokens


def _ratio(x: Tensor) -> Tensor:
    """I_1 / I_0."""
    return torch.special.i1e(x) / torch.special.i0e(x)
