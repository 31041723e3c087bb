"""The law of the first token x_1 and one gradient step: diagonal unitary W with uniform phases.

The layer predicts pred_t = (a b / (t - 1)) sum_{i=1}^{t-1} x_{i+1} <x_i, x_t>, <x, y> = sum_j conj(x_j) y_j, and is
trained on the sum over t = 2..max_length - 1 of 1/2 E|pred_t - x_{t+1}|^2. Only a few moments of x_1 matter.
Source: Zheng et al. 2024 (arXiv 2405.16845); here for any law, by counting Fourier modes of the phases.
"""

from dataclasses import dataclass

from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp._shown import Shown

TOKEN_LAWS = ("ones", "unit-ones", "gaussian", "complex-gaussian", "sphere", "signs", "one-hot", "sparse")


@dataclass(frozen=True, kw_only=True)
class TokenMoments(Shown):
    """Moments of the first token, averages over its coordinates j.

    Attributes:
        kappa0: E|x_1j|^2; > 0.
        kappa1: E|x_1j|^4; > 0.
        kappa2: E|x_1j|^6; at least kappa1^2 / kappa0 (Cauchy-Schwarz).
        kappa3: sum_{r != j} E|x_1j|^2 |x_1r|^4.
    """

    kappa0: float
    kappa1: float
    kappa2: float
    kappa3: float

    def __post_init__(self) -> None:
        for name in ("kappa0", "kappa1", "kappa2"):
            check_number(name, getattr(self, name), low=0.0, strict=True)
        check_number("kappa3", self.kappa3, low=0.0)
        if self.kappa1**2 > self.kappa0 * self.kappa2 * (1 + 1e-9):
            raise ValueError(
                f"kappa1^2 = {self.kappa1**2:.6g} exceeds kappa0 kappa2 = {self.kappa0 * self.kappa2:.6g}: these are "
                "not the second, fourth and sixth moments of any law."
            )

    @property
    def limit_product(self) -> float:
        """a b that training tends to with long contexts: kappa1 / kappa2."""
        return self.kappa1 / self.kappa2

    @property
    def limit_relative_error(self) -> float:
        """E|error_j|^2 / E|x_1j|^2 that is left with long contexts: 1 - kappa1^2 / (kappa0 kappa2).

        0 if and only if |x_1j| takes a single value beside 0: otherwise one gradient step stays wrong for ever.
        """
        return max(0.0, 1 - self.kappa1**2 / (self.kappa0 * self.kappa2))


def check_moments(moments: object) -> None:
    """A ValueError where moments are not `TokenMoments`."""
    if not isinstance(moments, TokenMoments):
        raise ValueError(f"moments must be those of first_token_moments(law, dim=...), got {moments!r}.")


def first_token_moments(law: str, *, dim: int, scale: float = 1.0, n_nonzero: int | None = None) -> TokenMoments:
    """The moments of `scale` times a first-token law, in the eigenbasis.

    Names and parameters are those of `processes.FirstToken` (for its unitary family), and `complex-gaussian`: i.i.d.
    circular coordinates with E|x_1j|^2 = scale^2.

        law                 kappa0      kappa1          kappa2                    kappa3
        ones, signs         1           1               1                         dim - 1
        gaussian            1           3               15                        3 (dim - 1)
        complex-gaussian    1           2               6                         2 (dim - 1)
        one-hot             1/dim       1/dim           1/dim                     0
        sparse (n nonzero)  n/dim       n/dim           n/dim                     n (n - 1) / dim
        unit-ones           1/dim       1/dim^2         1/dim^3                   (dim - 1) / dim^3
        sphere              1/dim       3/(dim (d+2))   15/(dim (d+2) (d+4))      3 (dim - 1) / (dim (d+2) (d+4))

    times scale^2, scale^4, scale^6, scale^6; d = dim.

    Args:
        law: one of `TOKEN_LAWS`.
        dim: size of x_t; >= 1.
        scale: > 0.
        n_nonzero: entries of `sparse` that are not 0, and only there; 1..dim.
    Raises:
        ValueError: an unknown law, dim < 1, scale <= 0, or n_nonzero missing, out of range or out of place.
    """
    check_choice("law", law, TOKEN_LAWS)
    check_integer("dim", dim, low=1)
    check_number("scale", scale, low=0.0, strict=True)
    if (law == "sparse") != (n_nonzero is not None):
        raise ValueError(f"n_nonzero goes with the law 'sparse' and only with it: got {law!r}, n_nonzero={n_nonzero}.")
    if law == "sphere":
        fourth, sixth = dim * (dim + 2), dim * (dim + 2) * (dim + 4)
        moments = (1 / dim, 3 / fourth, 15 / sixth, 3 * (dim - 1) / sixth)
    elif law == "unit-ones":
        moments = (1 / dim, 1 / dim**2, 1 / dim**3, (dim - 1) / dim**3)
    elif law in ("one-hot", "sparse"):
        n = 1 if n_nonzero is None else check_integer("n_nonzero", n_nonzero, low=1, high=dim)
        moments = (n / dim, n / dim, n / dim, n * (n - 1) / dim)
    else:  # i.i.d. coordinates
        fourth, sixth = {"gaussian": (3, 15), "complex-gaussian": (2, 6)}.get(law, (1, 1))
        moments = (1, fourth, sixth, (dim - 1) * fourth)
    kappa0, kappa1, kappa2, kappa3 = (
        moment * scale**power for moment, power in zip(moments, (2, 4, 6, 6), strict=True)
    )
    return TokenMoments(kappa0=kappa0, kappa1=kappa1, kappa2=kappa2, kappa3=kappa3)


def initial_token_product(moments: TokenMoments, *, max_length: int) -> float:
    """a b that minimises the training loss: kappa1 / (kappa2 + kappa3 mean_t 1 / (t - 1)), t = 2..max_length - 1.

    Gradient flow on (a, b) reaches it and conserves a^2 - b^2. Among blocks that are multiples of the identity all
    others vanish at the optimum, for any law of x_1, by the invariance under a common phase.
    Source: Zheng et al. 2024 (arXiv 2405.16845); the kappa3 term and general laws by counting modes.

    Args:
        max_length: tokens in a training sequence; >= 3.
    Raises:
        ValueError: max_length < 3.
    """
    check_moments(moments)
    check_integer("max_length", max_length, low=3)
    harmonic = sum(1 / pairs for pairs in range(1, max_length - 1)) / (max_length - 2)
    return moments.kappa1 / (moments.kappa2 + moments.kappa3 * harmonic)


def initial_token_error(moments: TokenMoments, *, product: float, length: int) -> float:
    """E|pred_t - x_{t+1}|^2 per coordinate, at a b = `product` and t = `length`.

    kappa0 - 2 a b kappa1 + (a b)^2 (kappa2 + kappa3 / (t - 1)).
    Source: Zheng et al. 2024 (arXiv 2405.16845); for general laws by counting modes.

    Args:
        product: a b, any number.
        length: t, tokens in the context; >= 2.
    Raises:
        ValueError: length < 2 or a product that is not finite.
    """
    check_moments(moments)
    check_number("product", product, low=-float("inf"))
    check_integer("length", length, low=2)
    noise = moments.kappa2 + moments.kappa3 / (length - 1)
    return moments.kappa0 - 2 * product * moments.kappa1 + product**2 * noise
