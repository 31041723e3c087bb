"""One figure per result: a frozen result in, a `plotly` figure out. Nothing is measured here.

Titles say what is seen, with its number; subtitles how it was measured and, where theory speaks of the model, what it
expects (`Setting.sentence`): where the two differ, one sees it.

Builders share these arguments: `sequence`, `pair`, `layer` and `head`, from 0; `position`, T, from 1; `untrained`, the
same result of the same architecture with fresh weights.
"""

from ar_interp.figures.algorithm import algorithm_match as algorithm_match
from ar_interp.figures.algorithm import error_by_position as error_by_position
from ar_interp.figures.algorithm import steps_by_layer as steps_by_layer
from ar_interp.figures.chains import answers_by_samples as answers_by_samples
from ar_interp.figures.chains import attribution_agreement as attribution_agreement
from ar_interp.figures.chains import chain_directions as chain_directions
from ar_interp.figures.chains import edited_chain as edited_chain
from ar_interp.figures.chains import read_positions as read_positions
from ar_interp.figures.circuits import block_distances as block_distances
from ar_interp.figures.circuits import block_shares as block_shares
from ar_interp.figures.circuits import circuit_eigenvalues as circuit_eigenvalues
from ar_interp.figures.circuits import circuit_spectra as circuit_spectra
from ar_interp.figures.circuits import composition_scores as composition_scores
from ar_interp.figures.circuits import effective_ranks as effective_ranks
from ar_interp.figures.context import context_error as context_error
from ar_interp.figures.context import context_matrices as context_matrices
from ar_interp.figures.context import phases_on_circle as phases_on_circle
from ar_interp.figures.context import prediction as prediction
from ar_interp.figures.emergence import emergence_stages as emergence_stages
from ar_interp.figures.emergence import phase_portrait as phase_portrait
from ar_interp.figures.emergence import plateau_and_drop as plateau_and_drop
from ar_interp.figures.emergence import reflected_step as reflected_step
from ar_interp.figures.emergence import sign_patterns as sign_patterns
from ar_interp.figures.heads import head_matrices as head_matrices
from ar_interp.figures.heads import head_spectrum as head_spectrum
from ar_interp.figures.heads import head_statistics as head_statistics
from ar_interp.figures.interventions import ablation_costs as ablation_costs
from ar_interp.figures.interventions import edit_curve as edit_curve
from ar_interp.figures.interventions import path_shares as path_shares
from ar_interp.figures.interventions import scrub_recovered as scrub_recovered
from ar_interp.figures.interventions import swap_by_layer as swap_by_layer
from ar_interp.figures.interventions import swap_scores as swap_scores
from ar_interp.figures.interventions import swapped_prediction as swapped_prediction
from ar_interp.figures.landscape import half_time_by_scale as half_time_by_scale
from ar_interp.figures.landscape import runaway_by_heads as runaway_by_heads
from ar_interp.figures.landscape import share_by_heads as share_by_heads
from ar_interp.figures.landscape import share_by_scale as share_by_scale
from ar_interp.figures.landscape import steps_by_depth as steps_by_depth
from ar_interp.figures.noise import bent_keys as bent_keys
from ar_interp.figures.noise import noisy_errors as noisy_errors
from ar_interp.figures.outside import outside_errors as outside_errors
from ar_interp.figures.outside import outside_table as outside_table
from ar_interp.figures.paper import save as save
from ar_interp.figures.positional import filter_profile as filter_profile
from ar_interp.figures.positional import filter_response as filter_response
from ar_interp.figures.positional import positional_matrix as positional_matrix
from ar_interp.figures.positional import positional_ratio as positional_ratio
from ar_interp.figures.positional import positional_rows as positional_rows
from ar_interp.figures.positional import residual_by_angle as residual_by_angle
from ar_interp.figures.readout import data_efficiency as data_efficiency
from ar_interp.figures.regression import excess_by_tasks as excess_by_tasks
from ar_interp.figures.regression import kernel_spectrum as kernel_spectrum
from ar_interp.figures.regression import learned_features as learned_features
from ar_interp.figures.regression import risk_by_length as risk_by_length
from ar_interp.figures.regression import risk_by_order as risk_by_order
from ar_interp.figures.text import text_regularity as text_regularity
from ar_interp.figures.training import along_training as along_training
from ar_interp.figures.training import member_levels as member_levels
from ar_interp.figures.training import training_history as training_history
from ar_interp.setting import setting_of

__all__ = [name for name, value in vars().items() if callable(value) and name != "setting_of"]  # pyright: ignore[reportUnsupportedDunderAll]
expected_of = setting_of  # what theory expects of a model, which builders take


def __dir__() -> list[str]:
    return __all__
