"""One figure per result: a frozen result in, a `plotly` figure out. Nothing is measured here.

Titles say what theory expects (see `Expected`), subtitles what was measured: where the two differ, one sees it.
"""

from ar_interp.figures.algorithm import algorithm_match, error_by_position, steps_by_layer
from ar_interp.figures.circuits import (
    block_distances,
    block_shares,
    circuit_eigenvalues,
    circuit_spectra,
    composition_scores,
    effective_ranks,
)
from ar_interp.figures.context import context_error, context_matrices, phases_on_circle, prediction
from ar_interp.figures.expected import Expected, ExpectedGeneral, expected_of
from ar_interp.figures.heads import head_matrices, head_spectrum, head_statistics
from ar_interp.figures.interventions import (
    ablation_costs,
    edit_curve,
    path_shares,
    scrub_recovered,
    swap_by_layer,
    swap_scores,
    swapped_prediction,
)
from ar_interp.figures.positional import (
    filter_profile,
    filter_response,
    positional_matrix,
    positional_ratio,
    positional_rows,
    residual_by_angle,
)
from ar_interp.figures.training import member_levels, training_history

__all__ = [
    "Expected",
    "ExpectedGeneral",
    "ablation_costs",
    "algorithm_match",
    "block_distances",
    "block_shares",
    "circuit_eigenvalues",
    "circuit_spectra",
    "composition_scores",
    "context_error",
    "context_matrices",
    "edit_curve",
    "effective_ranks",
    "error_by_position",
    "expected_of",
    "filter_profile",
    "filter_response",
    "head_matrices",
    "head_spectrum",
    "head_statistics",
    "member_levels",
    "path_shares",
    "phases_on_circle",
    "positional_matrix",
    "positional_ratio",
    "positional_rows",
    "prediction",
    "residual_by_angle",
    "scrub_recovered",
    "steps_by_layer",
    "swap_by_layer",
    "swap_scores",
    "swapped_prediction",
    "training_history",
]
