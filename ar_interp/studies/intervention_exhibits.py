"""Exhibits of interventions: the swap of the estimate of W, edits of weights, removals, paths and their scrubbing."""

from functools import partial
from typing import Any

import torch

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.probes.ablations import ablate_heads, ablate_layers, ablate_positions
from ar_interp.probes.edits import EDITS, Edit, EditLosses, available_edits, edit_losses
from ar_interp.probes.paths import has_paths, path_contributions
from ar_interp.probes.protocol import missing
from ar_interp.probes.scrubbing import scrub
from ar_interp.probes.swap import SwappedContext, swap_context
from ar_interp.seeds import EXHIBITS as SEED
from ar_interp.seeds import EXHIBITS_SOURCE as SOURCE_SEED
from ar_interp.studies.base import Control, Exhibit
from ar_interp.studies.controls import N, has_blocks
from ar_interp.studies.exhibit import Result, contexts_code, contexts_of, exhibit, has_estimate, probed

N_DEEP = 32  # pairs for swaps layer by layer
N_CURVE, N_CHOSEN, N_VALUES = 256, 512, 13  # contexts along the curve of an edit and at one value, values on the curve

STRUCTURES = {"head rotation": "heads", "step size": "step", "second path": "step"}  # others: positions


def _pairs(subject: Subject, n: int = N) -> tuple[Any, Any]:
    """Sources and targets."""
    return contexts_of(subject, n, SOURCE_SEED), contexts_of(subject, n)


def _pairs_code(n: int = N) -> str:
    return f"targets = {contexts_code(n)}\nsources = {contexts_code(n, SOURCE_SEED)}\n"


def _swap_pair(subject: Subject, *, source: int, target: int, position: int) -> tuple[SwappedContext, int]:
    """One pair and, since a swap takes two, the pair before."""
    sources, targets = _pairs(subject)
    chosen = [torch.tensor([i, i - 1], dtype=torch.int64, device="cpu") for i in (source, target)]
    return swap_context(subject.model, sources[chosen[0]], targets[chosen[1]], positions=[position]), 0


def _swap_layers(subject: Subject) -> tuple[list[SwappedContext], list[SwappedContext]]:
    pairs, layers = _pairs(subject, N_DEEP), range(subject.config.n_layers)
    single = [swap_context(subject.model, *pairs, layers=[layer]) for layer in layers]
    deeper = [swap_context(subject.model, *pairs, layers=range(layer + 1)) for layer in layers[1:]]
    return single, [single[0], *deeper]


def _has_positions(subject: Subject) -> bool:
    """Whether keys have positional weights."""
    return getattr(subject.model, "P", None) is not None


def _edit(edit: Edit) -> Exhibit:
    """The exhibit of one edit."""
    name, (low, high) = edit.name.replace(" ", "_"), edit.span

    def measure(subject: Subject, **chosen: float) -> tuple[EditLosses, EditLosses]:
        values = [low + (high - low) * step / (N_VALUES - 1) for step in range(N_VALUES)]
        options: dict[str, Any] = {"process": subject.process, "seed": SEED}
        curve = edit_losses(subject.model, edit.name, values, n=N_CURVE, **options)
        return curve, edit_losses(subject.model, edit.name, [chosen[name]], n=N_CHOSEN, **options)

    control = Control(
        name=name,
        label=edit.name.capitalize(),
        kind="number",
        default=edit.neutral,
        low=low,
        high=high,
        meaning=f"{edit.what} {edit.meaning}",
    )
    losses = f"ari.edit_losses(model, {edit.name!r}"
    edited = Result(
        before=f"model, options = checkpoint.model, dict(process=checkpoint.process, seed={SEED})\n"
        f"values = [{low} + {high - low} * step / {N_VALUES - 1} for step in range({N_VALUES})]\n",
        code={
            "losses": f"{losses}, values, n={N_CURVE}, **options)",
            "chosen": f"{losses}, [{{{name}!r}}], n={N_CHOSEN}, **options)",
        },
        measure=measure,
        remeasures=(name,),
        controls={name: lambda subject: control},
        applies=lambda subject: edit.name in available_edits(subject.model, subject.process),
    )
    return _intervention(
        figures.edit_curve,
        edited,
        name=f"edit {edit.name}",
        title=f"Edit: {edit.name}",
        structure=STRUCTURES.get(edit.name, "positions"),
        look="The weights are edited, more and more. Look for circles beside the line of theory, where there is one, "
        "and whether its lowest point is where training left the model.",
    )


_intervention = partial(exhibit, page="Interventions", evidence="causal")
_swapped = partial(_intervention, structure="estimate", wide=True)
_swaps = partial(
    Result,
    applies=lambda subject: not missing(subject.model, "swap_context") and has_estimate(subject),
)
_pair_swapped = _swaps(
    before=f"import torch\n\n{_pairs_code()}"
    "source, target = torch.tensor([{source}, {source} - 1]), torch.tensor([{target}, {target} - 1])\n",
    code={
        "swapped": "ari.swap_context(checkpoint.model, sources[source], targets[target], positions=[{position}])",
        "pair": "0",
    },
    measure=_swap_pair,
    remeasures=("position", "source", "target"),
)
_all_swapped = _swaps(
    before=_pairs_code(),
    code={"swapped": "ari.swap_context(checkpoint.model, sources, targets)"},
    measure=lambda subject: (swap_context(subject.model, *_pairs(subject)),),
)
_layers_swapped = _swaps(
    before=f"{_pairs_code(N_DEEP)}layers = range(checkpoint.config.n_layers)\n",
    code={
        "single": "[ari.swap_context(checkpoint.model, sources, targets, layers=[layer]) for layer in layers]",
        "cumulative": "[\n"
        "    ari.swap_context(checkpoint.model, sources, targets, layers=range(layer + 1)) for layer in layers\n"
        "]",
    },
    measure=_swap_layers,
)
_keys = partial(
    _intervention,
    figures.ablation_costs,
    probed("ablation", ablate_positions, layer="layer"),
    title="Cost of each key",
    look="Each bar is the price of cutting the key at that distance from the newest. Look for bars that miss the "
    "diamond of theory, where there is one, and for keys that cost nothing.",
)
_scrubbed = partial(
    _intervention,
    figures.scrub_recovered,
    probed("scrubbed", scrub, hypothesis="hypothesis", layer="layer"),
    look="All but what the hypothesis names is taken from another sequence. Look whether the model still does its "
    "work (1), and whether it fails when what is named is taken away instead.",
)

EXHIBITS = (
    _swapped(
        figures.swapped_prediction,
        _pair_swapped,
        title="One swap of the estimate",
        look="The estimate of W of one sequence, the source, is put into another, the target. Look whether the arrow "
        "ends in the ring, where a model goes that predicts with the W that was moved.",
    ),
    _swapped(
        figures.swap_scores,
        _all_swapped,
        title="All swaps of the estimate",
        look="1 is a prediction that follows the estimate that was moved, 0 one that does not care. Look whether the "
        "swap reaches its ceiling, the same swap into a sequence of the source's W, while the controls stay at 0: the "
        "state of a sequence with the same W, that of another source, a random one.",
    ),
    _swapped(
        figures.swap_by_layer,
        _layers_swapped,
        title="Swaps layer by layer",
        look="The same swap in one layer alone and in all layers up to one. Look from which layer on the estimate is "
        "there.",
        applies=lambda subject: subject.config.n_layers > 1,
    ),
    *(_edit(edit) for edit in EDITS.values()),
    _intervention(
        figures.ablation_costs,
        probed("ablation", ablate_heads),
        name="head_costs",
        title="Cost of each head",
        structure="heads",
        look="Each bar is the price of removing one head. Look for bars that miss the diamond of theory, where there "
        "is one, and for heads that cost nothing.",
        applies=lambda subject: subject.config.n_heads > 1,
    ),
    _intervention(
        figures.ablation_costs,
        probed("ablation", ablate_layers),
        name="layer_costs",
        title="Cost of each layer",
        structure="estimate",
        look="Each bar is the price of removing what a layer writes to the residual stream. Look for layers that cost "
        "nothing, and for those that cost more than predicting nothing at all.",
        applies=lambda subject: subject.config.n_layers > 1,
    ),
    _keys(name="key_costs", structure="positions", applies=_has_positions),
    _keys(name="context_costs", structure="estimate", applies=lambda subject: not _has_positions(subject)),
    _intervention(
        figures.path_shares,
        probed("paths", path_contributions, layer="layer"),
        title="Paths through a layer",
        structure="step",
        look="Everything that the layer writes is a sum of 27 paths; the largest are shown, with what the loss grows "
        "by without them. Look whether one of them is all, and what the second is.",
        applies=lambda subject: has_paths(subject.model),
    ),
    _scrubbed(
        name="scrub_keys",
        title="What all other keys are worth",
        structure="positions",
        applies=lambda subject: not has_blocks(subject),
    ),
    _scrubbed(
        name="scrub_paths",
        title="What all other paths are worth",
        structure="step",
        applies=has_blocks,
    ),
)
