"""The loss of one linear layer on augmented tokens, exactly: a quadratic in the products of entries of QK and OV.

With free coordinates e_t = (x_t, x_{t-1}), x_0 = 0, the prediction is linear in the products OV[v, o] QK[q, k],

    pred_T[o] = sum_{v k q} OV[v, o] QK[q, k] phi_T[v, k, q],   phi_T = sum_{t<=T} e_t[v] conj(e_t[k]) e_T[q] / (T - 1),

and the loss needs the means of conj(phi) phi and conj(phi) x_{T+1} alone. For diagonal unitary W with uniform phases
and first tokens that few points can stand for, both are sums over a grid of phases and points, without any error.
Source: Zheng et al. 2024 (arXiv 2405.16845), the layer; the grid by counting the degrees of the phases.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ar_interp._checks import as_real_array, check_integer
from ar_interp._resident import resident
from ar_interp._shown import shown, shown_html

GLOBAL = 4  # angles of a common phase: the degrees of features differ by three at most
MOST_SEQUENCES = 20_000  # of a grid
PART = 512  # of them at a time
HERMITE = np.polynomial.hermite_e.hermegauss(4)  # exact to the seventh moment


class LayerQuadratic(NamedTuple):
    """The loss of a layer, summed over coordinates and T = 2..n_ctx: g G g - 2 h g + constant, summed over o.

    G [product product], h [o product], g[o] = OV[:, o] (x) QK^T in the order v, k, q; see the module.
    """

    G: Float[Tensor, "product product"]
    h: Float[Tensor, "dim product"]
    constant: float

    __repr__ = shown
    _repr_html_ = shown_html

    def loss(
        self, QK: Float[Tensor, "*member free free"], OV: Float[Tensor, "*member free dim"]
    ) -> Float[Tensor, "*member"]:
        """The loss of these blocks: queries and keys, then values, in (x_t, x_{t-1}); differentiable."""
        g = torch.einsum("...vo,...qk->...ovkq", OV, QK).flatten(-3)
        G, h = (resident(value, g.device, g.dtype) for value in (self.G, self.h))
        return ((g @ G - 2 * h) * g).sum((-2, -1)) + self.constant


def first_token_points(
    law: str, *, dim: int, n_nonzero: int | None = None
) -> tuple[Float[Tensor, "point dim"], Float[Tensor, "point"]]:
    """Points and weights with the moments of a first-token law up to the seventh: `FirstToken` of scale 1.

    Raises:
        ValueError: a law that has none here: on the sphere.
    """
    check_integer("dim", dim, low=1)
    one = {"ones": [1.0], "signs": [-1.0, 1.0], "gaussian": HERMITE[0], "unit-ones": [dim**-0.5]}
    if law in one:
        weights = HERMITE[1] / HERMITE[1].sum() if law == "gaussian" else np.full(len(one[law]), 1 / len(one[law]))
        points = list(itertools.product(one[law], repeat=dim))
        sizes = [float(np.prod(parts)) for parts in itertools.product(weights, repeat=dim)]
    elif law in ("one-hot", "sparse"):
        entries = [1.0] if law == "one-hot" else [-1.0, 1.0]
        places = itertools.combinations(range(dim), n_nonzero or 1)
        cases = itertools.product(places, itertools.product(entries, repeat=n_nonzero or 1))
        points = [[dict(zip(which, values, strict=True)).get(j, 0.0) for j in range(dim)] for which, values in cases]
        sizes = [1 / len(points)] * len(points)
    else:
        raise ValueError(f"first tokens of law {law!r} have no few points of the same moments.")
    return as_real_array("points", points, shape=("point", dim)), torch.tensor(sizes, dtype=torch.float64, device="cpu")


def sequences_of_grid(n_points: int, *, dim: int, n_ctx: int) -> int:
    """How many sequences the grid of `layer_quadratic` has."""
    return n_points * GLOBAL * _angles(n_ctx) ** (dim - 1)


def layer_quadratic(
    points: Float[Tensor, "point dim"], weights: Float[Tensor, "point"], *, n_ctx: int
) -> LayerQuadratic:
    """The quadratic for first tokens of these values and weights, and uniform phases.

    Args:
        points, weights: those of `first_token_points`, or others.
        n_ctx: the longest context; >= 2.
    Raises:
        ValueError: a grid of more than `MOST_SEQUENCES`.
    """
    check_integer("n_ctx", n_ctx, low=2)
    points = as_real_array("points", points, shape=("point", "dim"))
    weights = as_real_array("weights", weights, shape=(len(points),))
    dim = points.shape[1]
    size = sequences_of_grid(len(points), dim=dim, n_ctx=n_ctx)
    if size > MOST_SEQUENCES:
        raise ValueError(f"dim, n_ctx and points ask for a grid of {size} sequences, more than {MOST_SEQUENCES}.")
    relative = itertools.product(np.arange(_angles(n_ctx)) / _angles(n_ctx), repeat=dim - 1)
    turns = torch.tensor([[0.0, *rest] for rest in relative], dtype=torch.float64, device="cpu")
    turns = (turns[None] + torch.arange(GLOBAL, device="cpu")[:, None, None] / GLOBAL).flatten(0, 1)
    phases = 2 * torch.pi * turns
    n_free = (2 * dim) ** 3
    G = torch.zeros(n_free, n_free, dtype=torch.float64, device="cpu")
    h = torch.zeros(dim, n_free, dtype=torch.float64, device="cpu")
    constant, times = 0.0, torch.arange(n_ctx + 1, dtype=torch.float64, device="cpu")
    for first, weight in zip(points, weights / len(phases), strict=True):
        for part in phases.split(PART):
            x = torch.exp(1j * part[:, None] * times[:, None]) * first
            features, targets = _features(x[:, :n_ctx]), x[:, 2:].flatten(0, 1)
            G += weight * (features.mH @ features).real
            h += weight * (targets.mT @ features.conj()).real
            constant += float(weight * targets.abs().square().sum())
    return LayerQuadratic(G, h, constant)


def free_blocks(
    parameters: Mapping[str, Tensor], dim: int
) -> tuple[Float[Tensor, "member free free"], Float[Tensor, "member free dim"]]:
    """QK and OV of merged heads without the rows and columns of the block that holds nothing, and what nobody reads."""
    QK, OV = (parameters[f"blocks.0.attn.{name}"][:, 0] for name in ("QK", "OV"))
    return QK[:, dim:, dim:], OV[:, dim:, :dim]


def _angles(n_ctx: int) -> int:
    """Equal angles whose mean is exact: one phase has degrees up to 3 n_ctx in the loss."""
    return 3 * n_ctx + 2


def _features(x: Complex[Tensor, "batch pos dim"]) -> Complex[Tensor, "row product"]:
    """phi_T for T = 2..n_ctx, of contexts x_1..x_{n_ctx}."""
    e = torch.cat([x, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)], dim=-1)
    states = torch.einsum("btv,btk->btvk", e, e.conj()).cumsum(1)
    pairs = torch.arange(1, e.shape[1], dtype=torch.float64, device=e.device)[:, None, None, None]
    return (torch.einsum("btvk,btq->btvkq", states[:, 1:], e[:, 1:]) / pairs).flatten(2).flatten(0, 1)
