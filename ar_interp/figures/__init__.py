"""One figure per result: a frozen result in, a `plotly` figure out. Nothing is measured here.

Where theory speaks of the model, titles say what it expects (`Setting.sentence`), subtitles what was measured:
where the two differ, one sees it. Where theory is silent titles say what is drawn.
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
from ar_interp.figures.readout import data_efficiency
from ar_interp.figures.training import member_levels, training_history
from ar_interp.setting import setting_of as expected_of

__all__ = [
    "ablation_costs",
    "algorithm_match",
    "block_distances",
    "block_shares",
    "circuit_eigenvalues",
    "circuit_spectra",
    "composition_scores",
    "context_error",
    "context_matrices",
    "data_efficiency",
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
