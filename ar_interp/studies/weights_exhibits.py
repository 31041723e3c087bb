"""Exhibits of what is in the weights: heads, positional encoding, circuits."""

from functools import partial

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.circuits import Circuits, circuits
from ar_interp.probes.heads import head_orthogonality
from ar_interp.probes.positional import positional_structure
from ar_interp.probes.protocol import missing
from ar_interp.studies.controls import has_blocks
from ar_interp.studies.exhibit import Result, beside_untrained, exhibit

N_UNTRAINED = 30  # models whose layers compose as chance has it, where blocks are scalars


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


def _has_scalars(subject: Subject) -> bool:
    return hasattr(subject.model, "block_scalars")


def _composition(subject: Subject) -> tuple[Circuits, list[Circuits]]:
    fresh = [subject.model.untrained(seed=seed) for seed in range(N_UNTRAINED)] if _has_scalars(subject) else []
    return circuits(subject.model), [circuits(model) for model in fresh]


_positions = Result(
    code={"structure": "ari.positional_structure(checkpoint.model)"},
    measure=lambda subject: (positional_structure(subject.model),),
    applies=_has_diagonal_heads,
)
_composed = Result(
    before="scalars = hasattr(checkpoint.model, 'block_scalars')  # those of dense heads compose otherwise\n"
    f"fresh = [checkpoint.model.untrained(seed=seed) for seed in range({N_UNTRAINED} * scalars)]\n",
    code={"circuits": "ari.circuits(checkpoint.model)", "untrained": "[ari.circuits(model) for model in fresh]"},
    measure=_composition,
    applies=lambda subject: _has_circuits(subject) and subject.config.n_layers > 1,
)
_weights = partial(exhibit, evidence="weights")
_head = partial(
    _weights,
    result=beside_untrained("heads", head_orthogonality, _has_several_weights),
    page="Heads",
    structure="heads",
)
_position = partial(exhibit, result=_positions, page="Positional encoding", structure="positions")
_circuit = partial(_weights, result=beside_untrained("circuits", circuits, _has_circuits), page="Circuits")

EXHIBITS = (
    _head(
        figures.head_matrices,
        title="Heads and their products",
        look="A and B have a row per head; blue is positive, red negative. Look at the two products on the right: what "
        "colour is left off their diagonal, or off its blocks.",
        wide=True,
    ),
    _head(
        figures.head_spectrum,
        title="Singular values of C",
        look="Singular values of C. Look whether they are all at the dashed line or at zero, with nothing between.",
    ),
    _head(
        figures.head_statistics,
        title="Orthogonality of the heads",
        look="Distances from orthogonal heads on a logarithmic axis, this model in blue, an untrained one in red. Look "
        "at how many powers of ten lie between the two.",
    ),
    _position(
        figures.positional_matrix,
        title="Positional weights",
        evidence="weights",
        look="A row per context length; blue is positive, red negative. Look for a single coloured diagonal, the "
        "newest key, or two.",
    ),
    _position(
        figures.positional_rows,
        title="Last rows of the positional weights",
        evidence="weights",
        look="The last rows of P on top of each other, newest key on the right. Look whether they coincide, and what "
        "older keys have.",
    ),
    _position(
        figures.positional_ratio,
        title="The last key but one",
        evidence="weights",
        look="The weight of the last key but one, over that of the last. Look whether all points are on the line where "
        "there is one: it is predicted from the heads alone.",
        applies=_has_several_weights,
    ),
    _position(
        figures.residual_by_angle,
        title="Error by angle",
        evidence="behaviour",
        look="The largest error at each angle that an eigenvalue can have: no sampling, every W at once. Look how near "
        "the line comes to the precision of the computer.",
        applies=lambda subject: _has_diagonal_heads(subject) and getattr(subject.process, "noiseless", True),
    ),
    _circuit(
        figures.circuit_spectra,
        title="Spectra of a head's circuits",
        structure="heads",
        look="How the strength of one head is spread over directions. Look how much flatter, or steeper, it is than "
        "untrained.",
    ),
    _circuit(
        figures.circuit_eigenvalues,
        title="Eigenvalues of a head's circuits",
        structure="heads",
        look="Eigenvalues of QK and OV of one head, over their largest singular value. Look whether they lie in one "
        "point, on a line, or all over the circle as untrained ones do.",
    ),
    _circuit(
        figures.block_shares,
        title="Blocks of a head's circuits",
        structure="step",
        look="QK and OV as 3 × 3 blocks. Look whether all of QK is where s_T asks for s_{t-1}, and all of OV where s_t "
        "is written to the read-out; in the last layer nothing reads the other columns of OV.",
        applies=has_blocks,
    ),
    _circuit(
        figures.block_distances,
        title="Shape of the blocks",
        structure="step",
        look="How far each block is from a multiple of the identity. Look at the large markers only: the others are "
        "blocks with next to nothing in them.",
        applies=lambda subject: has_blocks(subject) and not _has_scalars(subject),  # which have no other shape
    ),
    _circuit(
        figures.effective_ranks,
        title="Effective ranks of all heads",
        structure="heads",
        look="How many directions each head asks for (QK) and writes (OV), beside untrained heads of the same size. "
        "Look for heads that have become narrower.",
        applies=has_several_heads,
        wide=True,
    ),
    _circuit(
        figures.composition_scores,
        result=_composed,
        title="Composition of layers",
        structure="depth",
        look="How much each later head reads of what an earlier one wrote, through query, key and value. The middle of "
        "the scale is what unrelated heads have; look for colour.",
        wide=True,
    ),
)
