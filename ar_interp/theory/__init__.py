"""The closed forms that the package measures against.

One convention for the loss, everywhere: |prediction_T - target_T|^2, summed over coordinates, mean over contexts and
over T = 2..n_ctx (`Contexts.losses`; at T = 1 there is nothing to learn from). T is the number of tokens in the
context, and so the position of the prediction counted from 1; n_ctx, which functions of theory call max_length, is the
largest T. Functions that say "sum over T" leave out the division by n_ctx - 1. Exceptions:

    figures 5 and 7     of the paper count T = 1 too, and divide by dim
    first-token laws    call max_length the number of tokens in a training sequence, n_ctx + 1
    emergence           the same, and the loss is 1/2 of the sum over T and coordinates, as Zheng et al. train it

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
    a b         the product of scalars that is the step size there, y; m = a^2 - b^2
    slope, curvature    of the training loss in y, see `theory.emergence`

and for noise:

    q, r        process and observation variance, per coordinate; losses are those of the clean target
    x           lambda^{-(t-1)} y_t, the observed tokens without their phases

Regression in context (`ar_interp.theory.regression`) has letters, and a loss at the query alone, of its own.
"""

from ar_interp.theory.ablations import head_removal_cost as head_removal_cost
from ar_interp.theory.ablations import position_removal_cost as position_removal_cost
from ar_interp.theory.ablations import removal_cost_at_minimum as removal_cost_at_minimum
from ar_interp.theory.block_scalars import BlockScalarMinimum as BlockScalarMinimum
from ar_interp.theory.block_scalars import BlockScalarQuadratic as BlockScalarQuadratic
from ar_interp.theory.block_scalars import block_scalar_loss as block_scalar_loss
from ar_interp.theory.block_scalars import block_scalar_minimum as block_scalar_minimum
from ar_interp.theory.block_scalars import block_scalar_quadratic as block_scalar_quadratic
from ar_interp.theory.block_scalars import minimum_of_quadratic as minimum_of_quadratic
from ar_interp.theory.block_scalars import product_place as product_place
from ar_interp.theory.chains import best_halfspace_agreement as best_halfspace_agreement
from ar_interp.theory.chains import binary_entropy as binary_entropy
from ar_interp.theory.chains import elimination_probability as elimination_probability
from ar_interp.theory.chains import noisy_xor_loss as noisy_xor_loss
from ar_interp.theory.chains import parity_complexity as parity_complexity
from ar_interp.theory.chains import parity_gradient as parity_gradient
from ar_interp.theory.chains import parity_length as parity_length
from ar_interp.theory.constructions import KappaFamily as KappaFamily
from ar_interp.theory.constructions import factor_heads as factor_heads
from ar_interp.theory.constructions import kappa_family as kappa_family
from ar_interp.theory.constructions import positional_weights as positional_weights
from ar_interp.theory.constructions import projector_family as projector_family
from ar_interp.theory.constructions import valley_at_infinity as valley_at_infinity
from ar_interp.theory.diagonal import gradient_descent_scale as gradient_descent_scale
from ar_interp.theory.diagonal import kappa_to_ratio as kappa_to_ratio
from ar_interp.theory.diagonal import largest_error_bound as largest_error_bound
from ar_interp.theory.diagonal import orthogonal_loss as orthogonal_loss
from ar_interp.theory.diagonal import orthogonal_loss_as_squares as orthogonal_loss_as_squares
from ar_interp.theory.diagonal import orthogonal_minimum as orthogonal_minimum
from ar_interp.theory.diagonal import population_loss as population_loss
from ar_interp.theory.diagonal import ratio_to_kappa as ratio_to_kappa
from ar_interp.theory.diagonal import unitary_loss as unitary_loss
from ar_interp.theory.diagonal import unitary_minimum as unitary_minimum
from ar_interp.theory.emergence import OnesOptimum as OnesOptimum
from ar_interp.theory.emergence import PlaneLoss as PlaneLoss
from ar_interp.theory.emergence import StepSizes as StepSizes
from ar_interp.theory.emergence import anisotropic_loss as anisotropic_loss
from ar_interp.theory.emergence import anisotropic_path as anisotropic_path
from ar_interp.theory.emergence import descent_path as descent_path
from ar_interp.theory.emergence import equal_phase_gain as equal_phase_gain
from ar_interp.theory.emergence import flow_limit as flow_limit
from ar_interp.theory.emergence import flow_path as flow_path
from ar_interp.theory.emergence import half_time as half_time
from ar_interp.theory.emergence import largest_start as largest_start
from ar_interp.theory.emergence import off_plane_gradient as off_plane_gradient
from ar_interp.theory.emergence import one_step_share as one_step_share
from ar_interp.theory.emergence import ones_loss as ones_loss
from ar_interp.theory.emergence import ones_optimum as ones_optimum
from ar_interp.theory.emergence import plane_loss as plane_loss
from ar_interp.theory.emergence import squared_gradient as squared_gradient
from ar_interp.theory.emergence import stage_half_times as stage_half_times
from ar_interp.theory.emergence import step_sizes as step_sizes
from ar_interp.theory.gradient_step import BlockScalarOptimum as BlockScalarOptimum
from ar_interp.theory.gradient_step import block_scalar_optimum as block_scalar_optimum
from ar_interp.theory.gradient_step import one_step_loss as one_step_loss
from ar_interp.theory.gradient_step import one_step_minimum as one_step_minimum
from ar_interp.theory.gradient_step import optimal_step_size as optimal_step_size
from ar_interp.theory.gradient_step import optimal_step_size_at as optimal_step_size_at
from ar_interp.theory.haar import haar_error_limit as haar_error_limit
from ar_interp.theory.haar import haar_error_limit_at as haar_error_limit_at
from ar_interp.theory.haar import haar_one_step_loss as haar_one_step_loss
from ar_interp.theory.haar import haar_one_step_minimum as haar_one_step_minimum
from ar_interp.theory.haar import haar_step_limit as haar_step_limit
from ar_interp.theory.haar import haar_step_size as haar_step_size
from ar_interp.theory.haar import haar_step_size_at as haar_step_size_at
from ar_interp.theory.haar import ols_error as ols_error
from ar_interp.theory.haar import second_moment as second_moment
from ar_interp.theory.initial_token import TokenMoments as TokenMoments
from ar_interp.theory.initial_token import first_token_moments as first_token_moments
from ar_interp.theory.initial_token import initial_token_error as initial_token_error
from ar_interp.theory.initial_token import initial_token_product as initial_token_product
from ar_interp.theory.noise import NoisyKeys as NoisyKeys
from ar_interp.theory.noise import bent_ratio as bent_ratio
from ar_interp.theory.noise import kalman_error as kalman_error
from ar_interp.theory.noise import kappa_penalty as kappa_penalty
from ar_interp.theory.noise import last_token_error as last_token_error
from ar_interp.theory.noise import noisy_heads_loss as noisy_heads_loss
from ar_interp.theory.noise import noisy_keys as noisy_keys
from ar_interp.theory.noise import noisy_mixing as noisy_mixing
from ar_interp.theory.noise import noisy_step_loss as noisy_step_loss
from ar_interp.theory.noise import noisy_step_minimum as noisy_step_minimum
from ar_interp.theory.noise import noisy_step_size as noisy_step_size
from ar_interp.theory.noise import phase_error as phase_error
from ar_interp.theory.noise import phase_information as phase_information
from ar_interp.theory.outside import last_pair_noise_error as last_pair_noise_error
from ar_interp.theory.outside import least_squares_noise_error as least_squares_noise_error
from ar_interp.theory.outside import recurrence_error as recurrence_error
from ar_interp.theory.outside import step_error as step_error
from ar_interp.theory.positional import SpectralFilter as SpectralFilter
from ar_interp.theory.positional import descent_steps as descent_steps
from ar_interp.theory.positional import legendre_profile as legendre_profile
from ar_interp.theory.positional import positional_kernel as positional_kernel
from ar_interp.theory.positional import positional_loss as positional_loss
from ar_interp.theory.positional import positional_optimum as positional_optimum
from ar_interp.theory.positional import positional_population_loss as positional_population_loss
from ar_interp.theory.positional import spectral_filter as spectral_filter
from ar_interp.theory.regression import FeatureMoments as FeatureMoments
from ar_interp.theory.regression import effective_prompt_length as effective_prompt_length
from ar_interp.theory.regression import feature_moments as feature_moments
from ar_interp.theory.regression import linear_attention_risk as linear_attention_risk
from ar_interp.theory.regression import linear_attention_risk_at as linear_attention_risk_at
from ar_interp.theory.regression import linear_attention_weights as linear_attention_weights
from ar_interp.theory.regression import pretraining_excess as pretraining_excess
from ar_interp.theory.regression import regression_rate as regression_rate
from ar_interp.theory.regression import regression_rate_constant as regression_rate_constant
from ar_interp.theory.traps import trapped_levels as trapped_levels
from ar_interp.theory.traps import trapped_matrix as trapped_matrix

__all__ = [name for name, value in vars().items() if callable(value)]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return __all__
