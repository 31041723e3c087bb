"""The closed forms that the package measures against.

One convention for the loss, everywhere: |prediction_T - target_T|^2, summed over coordinates, mean over contexts and
over T = 2..n_ctx (`Contexts.losses`; at T = 1 there is nothing to learn from). T is the number of tokens in the
context, and so the position of the prediction counted from 1; n_ctx, which functions of theory call max_length, is the
largest T. Functions that say "sum over T" leave out the division by n_ctx - 1. Exceptions:

    figures 5 and 7     of the paper count T = 1 too, and divide by dim
    first-token laws    call max_length the number of tokens in a training sequence, n_ctx + 1

Symbols, as in Sander et al. 2024 (arXiv 2402.05787):

    W           the matrix of the process, s_{t+1} = W s_t; lambda_j = exp(i theta_j) its eigenvalues
    s           [pos dim]   the sequence; s_1 = 1_dim in the eigenbasis here
    A, B        [head dim]  key and value diagonals of the heads; C = B^T A [dim dim], M = A B^T [head head]
    p           [pos]       positional weights of one context length T; p_T multiplies the newest key
    P           [query key] all of them: row r (from 0) holds p for T = r + 2 in its first r + 2 entries
    c           scale shared by C and 1 / p_T; its value and sign are gauge
    kappa       ratio of the off-diagonal to the diagonal entry in each 2x2 block of C (conjugate pairs)
    u, v        p_{T-1}, p_T
    n           n_ctx - 1, the number of context lengths in a loss
    mu          eigenvalues are exp(i theta / mu), theta uniform (positional-only attention)
    K           [pos pos]   the kernel of the positional-only loss

and for augmented tokens, Sander et al. 2024 and Zheng et al. 2024 (arXiv 2405.16845):

    eta         step size of one gradient step from W = 0; the layer's a2 b1
    a1..a4      key-query scalars of <s_t|s_T>, <s_{t-1}|s_T>, <s_t|s_{T-1}>, <s_{t-1}|s_{T-1}>
    b1, b2      value scalars of s_t and s_{t-1}
    r_m, t_m    <s_1, W^m s_1> and tr W^m (Haar W)
    h_T, G_T    sum_{m<T} E r_m^2 and sum_{m,m'<T} E r_m r_m' r_{|m-m'|}: loss = 1 - 2 eta h_T + eta^2 G_T
    kappa0..3   moments of the first token x_1, see `TokenMoments` (not the kappa of the blocks of C)
    a b         the product of scalars that is the step size there
"""

from ar_interp.theory.ablations import head_removal_cost, position_removal_cost, removal_cost_at_minimum
from ar_interp.theory.block_scalars import (
    BlockScalarMinimum,
    BlockScalarQuadratic,
    block_scalar_loss,
    block_scalar_minimum,
    block_scalar_quadratic,
    minimum_of_quadratic,
)
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
from ar_interp.theory.gradient_step import (
    BlockScalarOptimum,
    block_scalar_optimum,
    one_step_loss,
    one_step_minimum,
    optimal_step_size,
    optimal_step_size_at,
)
from ar_interp.theory.haar import (
    haar_error_limit,
    haar_error_limit_at,
    haar_one_step_loss,
    haar_one_step_minimum,
    haar_step_limit,
    haar_step_size,
    haar_step_size_at,
    ols_error,
    second_moment,
)
from ar_interp.theory.initial_token import (
    TokenMoments,
    first_token_moments,
    initial_token_error,
    initial_token_product,
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
    "BlockScalarMinimum",
    "BlockScalarOptimum",
    "BlockScalarQuadratic",
    "KappaFamily",
    "SpectralFilter",
    "TokenMoments",
    "block_scalar_loss",
    "block_scalar_minimum",
    "block_scalar_optimum",
    "block_scalar_quadratic",
    "descent_steps",
    "factor_heads",
    "first_token_moments",
    "gradient_descent_scale",
    "haar_error_limit",
    "haar_error_limit_at",
    "haar_one_step_loss",
    "haar_one_step_minimum",
    "haar_step_limit",
    "haar_step_size",
    "haar_step_size_at",
    "head_removal_cost",
    "initial_token_error",
    "initial_token_product",
    "kappa_family",
    "kappa_to_ratio",
    "legendre_profile",
    "minimum_of_quadratic",
    "ols_error",
    "one_step_loss",
    "one_step_minimum",
    "optimal_step_size",
    "optimal_step_size_at",
    "orthogonal_loss",
    "orthogonal_loss_as_squares",
    "orthogonal_minimum",
    "population_loss",
    "position_removal_cost",
    "positional_kernel",
    "positional_loss",
    "positional_optimum",
    "positional_population_loss",
    "positional_weights",
    "projector_family",
    "ratio_to_kappa",
    "removal_cost_at_minimum",
    "second_moment",
    "spectral_filter",
    "trapped_levels",
    "trapped_matrix",
    "unitary_loss",
    "unitary_minimum",
    "valley_at_infinity",
]
