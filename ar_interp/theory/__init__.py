"""The closed forms that the package measures against.

Symbols, as in Sander et al. 2024 (arXiv 2402.05787):

    W           the matrix of the process, s_{t+1} = W s_t; lambda_j = exp(i theta_j) its eigenvalues
    s           [pos dim]   the sequence; s_1 = 1_dim in the eigenbasis here
    A, B        [head dim]  key and value diagonals of the heads; C = B^T A [dim dim], M = A B^T [head head]
    p           [pos]       positional weights of one context length T; p_T multiplies the newest key
    P           [query key] all of them: row r (from 0) holds p for T = r + 2 in its first r + 2 entries
    c           scale shared by C and 1 / p_T; its value and sign are gauge
    kappa       ratio of the off-diagonal to the diagonal entry in each 2x2 block of C (conjugate pairs)
    u, v        p_{T-1}, p_T
    n           n_ctx - 1, the number of context lengths T = 2..n_ctx in a training loss
    mu          eigenvalues are exp(i theta / mu), theta uniform (positional-only attention)
    K           [pos pos]   the kernel of the positional-only loss
"""

from ar_interp.theory.constructions import (
    KappaFamily,
    factor_heads,
    kappa_family,
    positional_weights,
    projector_family,
    valley_at_infinity,
)
from ar_interp.theory.diagonal import (
    gradient_descent_scale,
    kappa_to_ratio,
    orthogonal_loss,
    orthogonal_loss_as_squares,
    orthogonal_minimum,
    population_loss,
    ratio_to_kappa,
    unitary_loss,
    unitary_minimum,
)
from ar_interp.theory.positional import (
    SpectralFilter,
    descent_steps,
    legendre_profile,
    positional_kernel,
    positional_loss,
    positional_optimum,
    positional_population_loss,
    spectral_filter,
)
from ar_interp.theory.traps import trapped_levels, trapped_matrix

__all__ = [
    "KappaFamily",
    "SpectralFilter",
    "descent_steps",
    "factor_heads",
    "gradient_descent_scale",
    "kappa_family",
    "kappa_to_ratio",
    "legendre_profile",
    "orthogonal_loss",
    "orthogonal_loss_as_squares",
    "orthogonal_minimum",
    "population_loss",
    "positional_kernel",
    "positional_loss",
    "positional_optimum",
    "positional_population_loss",
    "positional_weights",
    "projector_family",
    "ratio_to_kappa",
    "spectral_filter",
    "trapped_levels",
    "trapped_matrix",
    "unitary_loss",
    "unitary_minimum",
    "valley_at_infinity",
]
