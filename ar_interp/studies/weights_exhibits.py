"""Exhibits of what is in the weights: heads, positional encoding, circuits."""

from functools import partial
from typing import Any

import plotly.graph_objects as go

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.circuits import Circuits, circuits
from ar_interp.probes.context import UNTRAINED_SEED
from ar_interp.probes.heads import HeadOrthogonality, head_orthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.protocol import missing
from ar_interp.studies.base import Control, Exhibit
from ar_interp.studies.behaviour_exhibits import SETTING

N_UNTRAINED = 30  # models whose layers compose as chance has it, where blocks are scalars

HEADS = f"{SETTING}heads = ari.head_orthogonality(checkpoint.model)\n"
STRUCTURE = f"{SETTING}structure = ari.positional_structure(checkpoint.model)\n"
OPENED = "circuits = ari.circuits(checkpoint.model)\n"
BOTH = f"{OPENED}untrained = ari.circuits(checkpoint.model.untrained(seed={UNTRAINED_SEED}))\n"
PLACE = "layer={layer}, head={head}).show()"


def layer_control(subject: Subject, label: str = "Layer", **options: Any) -> Control:
    """The layer that a figure looks at."""
    return Control(name="layer", label=label, high=subject.config.n_layers - 1, **options)


def _layer_and_head(subject: Subject) -> tuple[Control, ...]:
    return layer_control(subject), Control(name="head", label="Head", high=subject.config.n_heads - 1)


def _has_diagonal_heads(subject: Subject) -> bool:
    try:
        diagonal_weights(subject.model)
    except ValueError:
        return False
    return bool(subject.process and subject.process.has_eigenbasis)


def _has_several_weights(subject: Subject) -> bool:
    """Whether there is anything to compare: more than one head on one coordinate."""
    return _has_diagonal_heads(subject) and diagonal_weights(subject.model).A.numel() > 1


def _has_circuits(subject: Subject) -> bool:
    return subject.config.dim > 1 and not missing(subject.model, "circuits")


def has_several_heads(subject: Subject) -> bool:
    """Whether there is more than one head, in all layers together."""
    return subject.config.n_layers * subject.config.n_heads > 1


def _heads(subject: Subject) -> tuple[HeadOrthogonality, HeadOrthogonality]:
    untrained = subject.model.untrained(seed=UNTRAINED_SEED)
    return head_orthogonality(subject.model), head_orthogonality(untrained)


def _positions(subject: Subject) -> PositionalStructure:
    return positional_structure(subject.model)


def _circuits(subject: Subject) -> tuple[Circuits, Circuits]:
    return circuits(subject.model), circuits(subject.model.untrained(seed=UNTRAINED_SEED))


def _composition(subject: Subject) -> tuple[Circuits, list[Circuits]]:
    fresh = [subject.model.untrained(seed=seed) for seed in range(N_UNTRAINED)] if _has_scalars(subject) else []
    return circuits(subject.model), [circuits(model) for model in fresh]


def _has_scalars(subject: Subject) -> bool:
    return hasattr(subject.model, "block_scalars")


def _has_blocks(subject: Subject) -> bool:
    return _has_circuits(subject) and subject.config.encoding == "augmented"


def _draw_first(name: str, subject: Subject, result: Any) -> go.Figure:
    return getattr(figures, name)(result[0], subject.setting)


def _draw_structure(name: str, subject: Subject, result: Any) -> go.Figure:
    return getattr(figures, name)(result, subject.setting)


def _draw_head(name: str, subject: Subject, result: Any, **place: int) -> go.Figure:
    return getattr(figures, name)(*result, subject.setting, **place)


def _draw_blocks(name: str, subject: Subject, result: Any, **place: int) -> go.Figure:
    return getattr(figures, name)(result[0], **place)


_head = partial(
    Exhibit, page="Heads", structure="heads", evidence="weights", measure=_heads, applies=_has_several_weights
)
_position = partial(
    Exhibit,
    page="Positional encoding",
    structure="positions",
    evidence="weights",
    measure=_positions,
    applies=_has_diagonal_heads,
)
_circuit = partial(Exhibit, page="Circuits", evidence="weights", measure=_circuits, applies=_has_circuits)

EXHIBITS = (
    _head(
        name="head_matrices",
        title="Heads and their products",
        look="A and B have a row per head; blue is positive, red negative. Look at the two products on the right: what "
        "colour is left off their diagonal, or off its blocks.",
        draw=partial(_draw_first, "head_matrices"),
        code=f"{HEADS}ari.figures.head_matrices(heads, setting).show()",
        wide=True,
    ),
    _head(
        name="head_spectrum",
        title="Singular values of C",
        look="Singular values of C. Look whether they are all at the dashed line or at zero, with nothing between.",
        draw=partial(_draw_first, "head_spectrum"),
        code=f"{HEADS}ari.figures.head_spectrum(heads, setting).show()",
    ),
    _head(
        name="head_statistics",
        title="Orthogonality of the heads",
        look="Distances from orthogonal heads on a logarithmic axis, this model in blue, an untrained one in red. Look "
        "at how many powers of ten lie between the two.",
        draw=lambda subject, result: figures.head_statistics(*result, setting=subject.setting),
        code=f"{HEADS}untrained = ari.head_orthogonality(checkpoint.model.untrained(seed={UNTRAINED_SEED}))\n"
        "ari.figures.head_statistics(heads, untrained, setting).show()",
    ),
    _position(
        name="positional_matrix",
        title="Positional weights",
        look="A row per context length; blue is positive, red negative. Look for a single coloured diagonal, the "
        "newest key, or two.",
        draw=partial(_draw_structure, "positional_matrix"),
        code=f"{STRUCTURE}ari.figures.positional_matrix(structure, setting).show()",
    ),
    _position(
        name="positional_rows",
        title="Last rows of the positional weights",
        look="The last rows of P on top of each other, newest key on the right. Look whether they coincide, and what "
        "older keys have.",
        draw=partial(_draw_structure, "positional_rows"),
        code=f"{STRUCTURE}ari.figures.positional_rows(structure, setting).show()",
    ),
    _position(
        name="positional_ratio",
        title="The last key but one",
        look="The weight of the last key but one, over that of the last. Look whether all points are on the line where "
        "there is one: it is predicted from the heads alone.",
        draw=partial(_draw_structure, "positional_ratio"),
        code=f"{STRUCTURE}ari.figures.positional_ratio(structure, setting).show()",
        applies=_has_several_weights,
    ),
    _position(
        name="residual_by_angle",
        title="Error by angle",
        evidence="behaviour",
        look="The largest error at each angle that an eigenvalue can have: no sampling, every W at once. Look how near "
        "the line comes to the precision of the computer.",
        draw=partial(_draw_structure, "residual_by_angle"),
        code=f"{STRUCTURE}ari.figures.residual_by_angle(structure, setting).show()",
    ),
    _circuit(
        name="circuit_spectra",
        title="Spectra of a head's circuits",
        structure="heads",
        look="How the strength of one head is spread over directions. Look how much flatter, or steeper, it is than "
        "untrained.",
        draw=partial(_draw_head, "circuit_spectra"),
        code=SETTING + BOTH + f"ari.figures.circuit_spectra(circuits, untrained, setting, {PLACE}",
        controls=_layer_and_head,
    ),
    _circuit(
        name="circuit_eigenvalues",
        title="Eigenvalues of a head's circuits",
        structure="heads",
        look="Eigenvalues of QK and OV of one head, over their largest singular value. Look whether they lie in one "
        "point, on a line, or all over the circle as untrained ones do.",
        draw=partial(_draw_head, "circuit_eigenvalues"),
        code=SETTING + BOTH + f"ari.figures.circuit_eigenvalues(circuits, untrained, setting, {PLACE}",
        controls=_layer_and_head,
    ),
    _circuit(
        name="block_shares",
        title="Blocks of a head's circuits",
        structure="step",
        look="QK and OV as 3 × 3 blocks. Look whether all of QK is where s_T asks for s_{t-1}, and all of OV where s_t "
        "is written to the read-out; in the last layer nothing reads the other columns of OV.",
        draw=partial(_draw_blocks, "block_shares"),
        code=OPENED + f"ari.figures.block_shares(circuits, {PLACE}",
        controls=_layer_and_head,
        applies=_has_blocks,
    ),
    _circuit(
        name="block_distances",
        title="Shape of the blocks",
        structure="step",
        look="How far each block is from a multiple of the identity. Look at the large markers only: the others are "
        "blocks with next to nothing in them.",
        draw=partial(_draw_blocks, "block_distances"),
        code=OPENED + f"ari.figures.block_distances(circuits, {PLACE}",
        controls=_layer_and_head,
        applies=lambda subject: _has_blocks(subject) and not _has_scalars(subject),  # which have no other shape
    ),
    _circuit(
        name="effective_ranks",
        title="Effective ranks of all heads",
        structure="heads",
        look="How many directions each head asks for (QK) and writes (OV), beside untrained heads of the same size. "
        "Look for heads that have become narrower.",
        draw=lambda subject, result: figures.effective_ranks(*result),
        code=f"{BOTH}ari.figures.effective_ranks(circuits, untrained).show()",
        applies=lambda subject: _has_circuits(subject) and has_several_heads(subject),
        wide=True,
    ),
    _circuit(
        name="composition_scores",
        title="Composition of layers",
        structure="depth",
        look="How much each later head reads of what an earlier one wrote, through query, key and value. White is what "
        "unrelated heads have; look for colour.",
        measure=_composition,
        draw=lambda subject, result: figures.composition_scores(result[0], untrained=result[1]),
        code=f"{OPENED}scalars = hasattr(checkpoint.model, 'block_scalars')  # those of dense heads compose otherwise\n"
        f"fresh = [checkpoint.model.untrained(seed=seed) for seed in range({N_UNTRAINED} * scalars)]\n"
        "untrained = [ari.circuits(model) for model in fresh]\n"
        "ari.figures.composition_scores(circuits, untrained=untrained).show()",
        applies=lambda subject: _has_circuits(subject) and subject.config.n_layers > 1,
        wide=True,
    ),
)
