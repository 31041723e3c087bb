"""Mechanistic interpretability of transformers that learn s_{t+1} = W s_t in context.

    process -> contexts -> model (hooks) -> predictions + cache -> probes -> claims against theory

Names are loaded on first use, so that `import ar_interp` is quick and TransformerLens waits for a model. Only type
checkers run the imports below; the package reads from them where each name is to be found.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ar_interp import checkpoints as checkpoints
    from ar_interp import claims as claims
    from ar_interp import estimators as estimators
    from ar_interp import figures as figures
    from ar_interp import probes as probes
    from ar_interp import processes as processes
    from ar_interp import recipes as recipes
    from ar_interp import report as report
    from ar_interp import studies as studies
    from ar_interp import testing as testing
    from ar_interp import theory as theory
    from ar_interp.checkpoints import Checkpoint as Checkpoint
    from ar_interp.checkpoints import CheckpointError as CheckpointError
    from ar_interp.checkpoints import TrainingRun as TrainingRun
    from ar_interp.checkpoints import available as available
    from ar_interp.checkpoints import load as load
    from ar_interp.claims import Claim as Claim
    from ar_interp.claims import Claims as Claims
    from ar_interp.claims import Control as Control
    from ar_interp.claims import Estimate as Estimate
    from ar_interp.models.config import ModelConfig as ModelConfig
    from ar_interp.models.features import RegressionConfig as RegressionConfig
    from ar_interp.models.next_token import HookedNextToken as HookedNextToken
    from ar_interp.models.next_token_config import NextTokenConfig as NextTokenConfig
    from ar_interp.models.transformer import HookedARTransformer as HookedARTransformer
    from ar_interp.probes.ablations import ablate_heads as ablate_heads
    from ar_interp.probes.ablations import ablate_layers as ablate_layers
    from ar_interp.probes.ablations import ablate_positions as ablate_positions
    from ar_interp.probes.adapted import adapt as adapt
    from ar_interp.probes.algorithm import identify_algorithm as identify_algorithm
    from ar_interp.probes.along import structure_along as structure_along
    from ar_interp.probes.circuits import circuits as circuits
    from ar_interp.probes.conforming import conformance as conformance
    from ar_interp.probes.context import recover_context as recover_context
    from ar_interp.probes.edits import edit_losses as edit_losses
    from ar_interp.probes.emergence import descent_along as descent_along
    from ar_interp.probes.emergence import sign_pattern as sign_pattern
    from ar_interp.probes.emergence import stage_times as stage_times
    from ar_interp.probes.heads import head_orthogonality as head_orthogonality
    from ar_interp.probes.last_token import replace_last_token as replace_last_token
    from ar_interp.probes.layers import which_layer as which_layer
    from ar_interp.probes.outside import outside_errors as outside_errors
    from ar_interp.probes.paths import path_contributions as path_contributions
    from ar_interp.probes.positional import positional_structure as positional_structure
    from ar_interp.probes.readout import probe_activations as probe_activations
    from ar_interp.probes.readout_efficiency import data_efficiency as data_efficiency
    from ar_interp.probes.scrubbing import scrub as scrub
    from ar_interp.probes.swap import swap_context as swap_context
    from ar_interp.probes.text import text_regularity as text_regularity
    from ar_interp.processes import CommutingOrthogonal as CommutingOrthogonal
    from ar_interp.processes import CommutingUnitary as CommutingUnitary
    from ar_interp.processes import FirstToken as FirstToken
    from ar_interp.processes import HaarOrthogonal as HaarOrthogonal
    from ar_interp.processes import NonparametricRegression as NonparametricRegression
    from ar_interp.processes import Sequences as Sequences
    from ar_interp.processes.text import TextEmbedding as TextEmbedding
    from ar_interp.setting import Setting as Setting
    from ar_interp.setting import setting_of as setting_of
    from ar_interp.studies import verify as verify
    from ar_interp.sweeps.columns import Column as Column
    from ar_interp.sweeps.landscape import landscape as landscape
    from ar_interp.sweeps.run import SweepError as SweepError
    from ar_interp.sweeps.run import sweep as sweep
    from ar_interp.training.config import TrainConfig as TrainConfig
    from ar_interp.training.loop import DivergenceError as DivergenceError
    from ar_interp.training.loop import train as train

_IMPORTS = [node for node in ast.walk(ast.parse(Path(__file__).read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
_MODULES = {name.name: str(node.module) for node in _IMPORTS for name in node.names if name.asname}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("ar_interp")
    if name not in _MODULES:
        raise AttributeError(f"module 'ar_interp' has no attribute {name!r}")
    if _MODULES[name] == "ar_interp":
        return import_module(f"ar_interp.{name}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*_MODULES, "__version__"]
