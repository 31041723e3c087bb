"""Mechanistic interpretability of transformers that learn s_{t+1} = W s_t in context.

    process -> sequences -> model (hooks) -> predictions + cache -> probes -> claims against theory

Names are loaded on first use, so that `import ar_interp` is quick and TransformerLens waits for a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ar_interp import checkpoints, claims, estimators, figures, probes, processes, recipes, report, testing, theory
    from ar_interp.checkpoints import Checkpoint, CheckpointError, available, load
    from ar_interp.claims import Claim, Claims, verify
    from ar_interp.models.config import ModelConfig
    from ar_interp.models.transformer import HookedARTransformer
    from ar_interp.probes.ablations import ablate_heads, ablate_positions
    from ar_interp.probes.algorithm import identify_algorithm
    from ar_interp.probes.circuits import circuits
    from ar_interp.probes.context import recover_context
    from ar_interp.probes.edits import edit_losses
    from ar_interp.probes.heads import head_orthogonality
    from ar_interp.probes.paths import path_contributions
    from ar_interp.probes.positional import positional_structure
    from ar_interp.probes.readout import probe_activations
    from ar_interp.probes.readout_efficiency import data_efficiency
    from ar_interp.probes.scrubbing import scrub
    from ar_interp.probes.swap import swap_context
    from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, HaarOrthogonal, Sequences
    from ar_interp.training.config import TrainConfig
    from ar_interp.training.loop import DivergenceError, TrainingRun, train

_MODULES = (
    "checkpoints",
    "claims",
    "estimators",
    "figures",
    "probes",
    "processes",
    "recipes",
    "report",
    "testing",
    "theory",
)
_NAMES = {
    "Checkpoint": "checkpoints",
    "CheckpointError": "checkpoints",
    "available": "checkpoints",
    "load": "checkpoints",
    "Claim": "claims",
    "Claims": "claims",
    "verify": "claims",
    "ModelConfig": "models.config",
    "HookedARTransformer": "models.transformer",
    "ablate_heads": "probes.ablations",
    "ablate_positions": "probes.ablations",
    "identify_algorithm": "probes.algorithm",
    "circuits": "probes.circuits",
    "recover_context": "probes.context",
    "data_efficiency": "probes.readout_efficiency",
    "edit_losses": "probes.edits",
    "head_orthogonality": "probes.heads",
    "path_contributions": "probes.paths",
    "positional_structure": "probes.positional",
    "probe_activations": "probes.readout",
    "scrub": "probes.scrubbing",
    "swap_context": "probes.swap",
    "CommutingOrthogonal": "processes",
    "CommutingUnitary": "processes",
    "FirstToken": "processes",
    "HaarOrthogonal": "processes",
    "Sequences": "processes",
    "TrainConfig": "training.config",
    "DivergenceError": "training.loop",
    "TrainingRun": "training.loop",
    "train": "training.loop",
}

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Claim",
    "Claims",
    "CommutingOrthogonal",
    "CommutingUnitary",
    "DivergenceError",
    "FirstToken",
    "HaarOrthogonal",
    "HookedARTransformer",
    "ModelConfig",
    "Sequences",
    "TrainConfig",
    "TrainingRun",
    "ablate_heads",
    "ablate_positions",
    "available",
    "checkpoints",
    "circuits",
    "claims",
    "data_efficiency",
    "edit_losses",
    "estimators",
    "figures",
    "head_orthogonality",
    "identify_algorithm",
    "load",
    "path_contributions",
    "positional_structure",
    "probe_activations",
    "probes",
    "processes",
    "recipes",
    "recover_context",
    "report",
    "scrub",
    "swap_context",
    "testing",
    "theory",
    "train",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"ar_interp.{name}")
    if name in _NAMES:
        return getattr(import_module(f"ar_interp.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'ar_interp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
