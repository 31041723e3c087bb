"""The figures that bear on each structure of a model, measured afresh, with a sentence on what to look at."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch

from ar_interp import figures
from ar_interp.checkpoints import Checkpoint
from ar_interp.claims import Evidence
from ar_interp.figures import Expected, ExpectedGeneral
from ar_interp.probes.ablations import ablate_heads, ablate_positions
from ar_interp.probes.algorithm import identify_algorithm
from ar_interp.probes.circuits import circuits
from ar_interp.probes.context import UNTRAINED_SEED, recover_context
from ar_interp.probes.edits import EDITS, available_edits, edit_losses
from ar_interp.probes.heads import head_orthogonality
from ar_interp.probes.paths import has_paths, path_contributions
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.scrubbing import scrub
from ar_interp.probes.swap import swap_context
from ar_interp.processes import Sequences
from ar_interp.theory import spectral_filter, trapped_levels

N_SEQUENCES = 256
N_REPEATED = 64  # for swaps in each layer by itself
N_VALUES = 13  # of an edit
SAME_LOSS = 1e-6  # seeds that end so close to each other make no figure
SEED, TARGET_SEED = 0, 1
SEQUENCE = 0  # where a figure shows one


class Reading(NamedTuple):
    """How to read a figure: where its evidence comes from, whether it takes the page's width, what to look at."""

    evidence: Evidence
    wide: bool
    look: str


READINGS = {
    "prediction": Reading(
        "behaviour", True,
        "Rings are one sequence, dots what the model predicts from all that came before; the right panel has every "
        "coordinate of the token at the dashed line. Look for dots outside their rings.",
    ),
    "error_by_position": Reading(
        "behaviour", True,
        "Solid lines are the model after each of its layers, the others are statistical estimators on the same "
        "contexts. Look for the line that the model's last layer lies on.",
    ),
    "algorithm_match": Reading(
        "behaviour", True,
        "Each row is an estimator. Look for one that is near in its predictions (left) and alike both in its errors "
        "and in how its estimate of W looks (right, 1 is the same).",
    ),
    "steps_by_layer": Reading(
        "behaviour", True,
        "How many steps of gradient descent are as good as the prediction after each layer. Look whether the points "
        "follow the dotted line, a step per layer, or leave it upwards.",
    ),
    "context_error": Reading(
        "activations", False,
        "The error of the estimate of W that is read from inside the model, beside what statistics makes of the same "
        "context. Look at how early and how far the model's line falls.",
    ),
    "phases_on_circle": Reading(
        "activations", False,
        "One sequence in the complex plane: rings are the eigenvalues of the true W, dots what the model's estimate "
        "has in their place, crosses what its heads carry alone. Look whether dots sit in rings.",
    ),
    "swap_scores": Reading(
        "causal", True,
        "The estimate of W of one sequence is put into another: 1 is a prediction that follows the estimate, 0 one "
        "that does not care. Look whether the swap reaches its ceiling while the three controls stay at 0.",
    ),
    "swap_by_layer": Reading(
        "causal", True,
        "The same, in one layer alone and in all layers up to one. Look from which layer on the estimate is there.",
    ),
    "ablation_costs": Reading(
        "causal", False,
        "Each bar is the price of removing one head, or one key at that distance from the newest. Look for bars that "
        "miss the diamond of theory, where there is one, and for parts that cost nothing.",
    ),
    "edit_curve": Reading(
        "causal", False,
        "The weights are edited, more and more, and the loss must follow the line that theory draws. Look for circles "
        "beside the line, and whether its lowest point is where training left the model.",
    ),
    "path_shares": Reading(
        "causal", False,
        "Everything that the layer writes is a sum of 27 paths; the largest are shown, with what the loss grows by "
        "without them. Look whether one of them is all, and what the second is.",
    ),
    "scrub_recovered": Reading(
        "causal", False,
        "All that theory calls irrelevant is taken from another sequence. Look whether the model still does its work "
        "(1), and whether it fails when what matters is taken away instead.",
    ),
    "head_matrices": Reading(
        "weights", True,
        "A and B have a row per head; blue is positive, red negative. Look at the two products on the right: what "
        "colour is left off their diagonal, or off its blocks.",
    ),
    "head_spectrum": Reading(
        "weights", False,
        "Singular values of C. Look whether they are all at the dashed line or at zero, with nothing between.",
    ),
    "head_statistics": Reading(
        "weights", False,
        "Distances from the structure of theory on a logarithmic axis, this model in blue, an untrained one in red. "
        "Look at how many powers of ten lie between the two.",
    ),
    "effective_ranks": Reading(
        "weights", True,
        "How many directions each head asks for (QK) and writes (OV), beside untrained heads of the same size. Look "
        "for heads that have become narrower.",
    ),
    "circuit_spectra": Reading(
        "weights", False,
        "How the strength of the first head is spread over directions. Look how much flatter, or steeper, it is than "
        "untrained.",
    ),
    "block_shares": Reading(
        "weights", False,
        "QK and OV as 3 × 3 blocks. Look whether all of QK is where s_T asks for s_{t-1}, and all of OV where s_t is "
        "written to the read-out; in the last layer nothing reads the other columns of OV.",
    ),
    "block_distances": Reading(
        "weights", False,
        "How far each block is from a multiple of the identity. Look at the large markers only: the others are blocks "
        "with next to nothing in them.",
    ),
    "composition_scores": Reading(
        "weights", True,
        "How much each later head reads of what an earlier one wrote, through query, key and value. White is what "
        "unrelated heads have; look for colour.",
    ),
    "positional_matrix": Reading(
        "weights", False,
        "A row per context length; blue is positive, red negative. Look for a single coloured diagonal, the newest "
        "key, or two.",
    ),
    "positional_rows": Reading(
        "weights", False,
        "The last rows of the same matrix on top of each other, newest key on the right. Look whether they coincide, "
        "and what older keys have.",
    ),
    "positional_ratio": Reading(
        "weights", False,
        "The weight of the last key but one, over that of the last. Look whether all points are on the line, which is "
        "predicted from the heads alone.",
    ),
    "residual_by_angle": Reading(
        "behaviour", False,
        "The largest error at each angle that an eigenvalue can have: no sampling, every W at once. Look how near the "
        "line comes to the precision of the computer.",
    ),
    "filter_profile": Reading(
        "weights", False,
        "The trained weights as points, theory as a line, with no parameter fitted. Look for a point beside the line, "
        "and at how far this is from the optimum, all weight on the last key.",
    ),
    "filter_response": Reading(
        "weights", False,
        "How far each mode of the signal has been learned when training stopped. Look at the edge between learned and "
        "not learned, and whether points and line agree on it.",
    ),
    "training_history": Reading(
        "training", True, "Both axes are logarithmic. Look at the plateaus, and at where the line ends.",
    ),
    "member_levels": Reading(
        "training", True,
        "Where training ended from each of its random beginnings; the best one is the model of this report. Look at "
        "how rare the left-most bar is, and whether the others stand at the dashed lines where theory has any.",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A figure that bears on the claims about a structure with the same kind of evidence.

    Attributes:
        name: of its builder in `ar_interp.figures`.
        wide: as wide as the page, not half of it.
        look: what to look at.
    """

    structure: str
    evidence: Evidence
    name: str
    figure: go.Figure
    wide: bool
    look: str

    def to_dict(self) -> dict[str, Any]:
        """The figure as plotly's JSON, which `plotly.io.from_json` reads, without the template that all share."""
        found = json.loads(str(self.figure.to_json()))
        found["layout"].pop("template", None)
        return found


def exhibits_of(checkpoint: Checkpoint) -> tuple[Exhibit, ...]:
    """Every figure that this kind of model has."""
    config, process, model = checkpoint.config, checkpoint.process, checkpoint.model
    expected = figures.expected_of(config, process)
    sequences = process.sample(N_SEQUENCES, config.n_ctx + 1, seed=SEED)
    with torch.no_grad():
        predictions = model(sequences.tokens[:, :-1])
    place = {"sequence": SEQUENCE, "position": config.n_ctx // 2}
    return (
        _exhibit("loss", "prediction", sequences, predictions, expected, **place),
        *_estimate(checkpoint, sequences, expected, place),
        *(
            _diagonal(checkpoint, sequences, expected)
            if isinstance(expected, Expected)
            else _general(checkpoint, sequences)
        ),
        *_training(checkpoint, expected),
    )


def _exhibit(structure: str, name: str, *results: Any, **place: Any) -> Exhibit:
    evidence, wide, look = READINGS[name]
    figure = getattr(figures, name)(*results, **place)
    return Exhibit(structure=structure, evidence=evidence, name=name, figure=figure, wide=wide, look=look)


def _estimate(
    checkpoint: Checkpoint, sequences: Sequences, expected: Expected | ExpectedGeneral, place: dict[str, int]
) -> Iterator[Exhibit]:
    config, model = checkpoint.config, checkpoint.model
    recovered = recover_context(model, sequences)
    yield _exhibit("estimate", "context_error", recovered, expected)
    if sequences.phases is not None:
        yield _exhibit("estimate", "phases_on_circle", recovered, expected, **place)
    if config.heads != "diagonal" and config.encoding != "augmented":  # no one place where all of the estimate lies
        return
    target = checkpoint.process.sample(N_SEQUENCES, config.n_ctx + 1, seed=TARGET_SEED)
    yield _exhibit("estimate", "swap_scores", swap_context(model, sequences, target), position=config.n_ctx)
    if config.n_layers > 1:
        layers = range(config.n_layers)
        few = sequences[:N_REPEATED], target[:N_REPEATED]
        single, cumulative = (
            [swap_context(model, *few, layers=chosen, positions=[config.n_ctx]) for chosen in sets]
            for sets in ([[layer] for layer in layers], [range(layer + 1) for layer in layers])
        )
        yield _exhibit("estimate", "swap_by_layer", single, cumulative, position=config.n_ctx)


def _diagonal(checkpoint: Checkpoint, sequences: Sequences, expected: Expected) -> Iterator[Exhibit]:
    config, model = checkpoint.config, checkpoint.model
    structure = positional_structure(model)
    keys = ablate_positions(model, sequences)
    if config.heads == "unit":
        yield from _filter(checkpoint, structure, expected)
        yield _exhibit("filter", "ablation_costs", keys)
        return
    heads = head_orthogonality(model)
    untrained = head_orthogonality(model.untrained(UNTRAINED_SEED))
    yield _exhibit("heads", "head_matrices", heads, expected)
    yield _exhibit("heads", "head_spectrum", heads, expected)
    yield _exhibit("heads", "head_statistics", heads, untrained, expected)
    yield _exhibit("heads", "ablation_costs", ablate_heads(model, sequences))
    yield from _edit("heads", checkpoint, "head rotation")
    yield _exhibit("positions", "positional_matrix", structure, expected)
    yield _exhibit("positions", "positional_rows", structure, expected)
    if expected.process.conjugate_pairs:
        yield _exhibit("positions", "positional_ratio", structure, expected)
        yield from _edit("positions", checkpoint, "previous position")
    yield _exhibit("positions", "residual_by_angle", structure, expected)
    yield _exhibit("positions", "ablation_costs", keys)
    yield _exhibit("positions", "scrub_recovered", scrub(model, sequences))


def _filter(checkpoint: Checkpoint, structure: PositionalStructure, expected: Expected) -> Iterator[Exhibit]:
    config, training = checkpoint.config, checkpoint.training
    if training.objective == "population" and training.optimizer == "gd" and config.init_scale == 0:
        filtered = spectral_filter(
            mu=expected.process.mu, length=config.n_ctx, step_size=2 * training.lr, steps=checkpoint.steps
        )
        yield _exhibit("filter", "filter_profile", structure, filtered)
        yield _exhibit("filter", "filter_response", structure, filtered)
    yield _exhibit("filter", "positional_matrix", structure, expected)
    yield _exhibit("filter", "positional_rows", structure, expected)
    yield _exhibit("filter", "residual_by_angle", structure, expected)


def _general(checkpoint: Checkpoint, sequences: Sequences) -> Iterator[Exhibit]:
    config, model = checkpoint.config, checkpoint.model
    opened, untrained = circuits(model), circuits(model.untrained(UNTRAINED_SEED))
    if config.encoding == "plain":
        yield _exhibit("heads", "effective_ranks", opened, untrained)
        yield _exhibit("heads", "ablation_costs", ablate_heads(model, sequences))
    elif config.n_layers == 1:
        yield _exhibit("step", "block_shares", opened, layer=0, head=0)
        yield _exhibit("step", "block_distances", opened, layer=0, head=0)
        if has_paths(model):
            yield _exhibit("step", "path_shares", path_contributions(model, sequences))
        yield _exhibit("step", "scrub_recovered", scrub(model, sequences))
        yield from _edit("step", checkpoint, "step size")
        yield from _edit("step", checkpoint, "second path")
    identified = identify_algorithm(model, sequences)
    structure = "depth" if config.n_layers > 1 else "loss"
    yield _exhibit(structure, "error_by_position", identified)
    yield _exhibit(structure, "algorithm_match", identified)
    if config.n_layers > 1:
        yield _exhibit("depth", "steps_by_layer", identified)
        yield _exhibit("depth", "composition_scores", opened)


def _edit(structure: str, checkpoint: Checkpoint, edit: str) -> Iterator[Exhibit]:
    model, process = checkpoint.model, checkpoint.process
    if edit in available_edits(model, process):
        values = np.linspace(*EDITS[edit].span, N_VALUES).tolist()
        curve, here = (
            edit_losses(model, edit, chosen, process=process, n=N_SEQUENCES, seed=SEED)
            for chosen in (values, [EDITS[edit].neutral])
        )
        yield _exhibit(structure, "edit_curve", curve, here)


def _training(checkpoint: Checkpoint, expected: Expected | ExpectedGeneral) -> Iterator[Exhibit]:
    config = checkpoint.config
    if len(checkpoint.history):
        yield _exhibit("descent", "training_history", checkpoint.history, expected)
    losses = checkpoint.members["loss"].to_numpy()
    if losses.max() - losses.min() > SAME_LOSS:
        pairs = isinstance(expected, Expected) and expected.process.conjugate_pairs
        known = pairs and config.heads == "diagonal" and 2 * config.n_heads <= config.dim
        levels = trapped_levels(dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx) if known else None
        yield _exhibit("descent", "member_levels", checkpoint.members, levels)
