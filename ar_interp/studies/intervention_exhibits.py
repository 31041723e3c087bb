"""Exhibits of interventions: the swap of the estimate of W, edits of weights, removals, paths and their scrubbing."""

from functools import partial
from typing import Any

import plotly.graph_objects as go
import torch

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.probes.ablations import Ablation, ablate_heads, ablate_positions
from ar_interp.probes.edits import EDITS, Edit, EditLosses, available_edits, edit_losses
from ar_interp.probes.paths import GRADIENT_STEP, SECOND_PATH, Paths, has_paths, path_contributions
from ar_interp.probes.protocol import missing
from ar_interp.probes.scrubbing import Scrubbed, scrub
from ar_interp.probes.swap import SwappedContext, swap_context
from ar_interp.seeds import EXHIBITS as SEED
from ar_interp.seeds import EXHIBITS_SOURCE as SOURCE_SEED
from ar_interp.studies.base import Control, Exhibit
from ar_interp.studies.behaviour_exhibits import CONTEXTS, SETTING, N, contexts_of, position_control
from ar_interp.studies.weights_exhibits import has_several_heads, layer_control

N_DEEP = 32  # pairs for swaps layer by layer
N_CURVE, N_CHOSEN, N_VALUES = 256, 512, 13  # contexts along the curve of an edit and at one value, values on the curve

PAIRS = f"""\
targets = checkpoint.process.contexts({N}, checkpoint.config.n_ctx, seed={SEED})
sources = checkpoint.process.contexts({N}, checkpoint.config.n_ctx, seed={SOURCE_SEED})
"""
STRUCTURES = {"head rotation": "heads", "step size": "step", "second path": "step"}  # others: positions


def _pairs(subject: Subject, n: int = N) -> tuple[Any, Any]:
    """Sources and targets."""
    return contexts_of(subject, n, SOURCE_SEED), contexts_of(subject, n)


def _swap(subject: Subject) -> SwappedContext:
    return swap_context(subject.model, *_pairs(subject))


def _swap_pair(subject: Subject, *, source: int, target: int, position: int) -> SwappedContext:
    """One pair and, since a swap takes two, the pair before."""
    sources, targets = _pairs(subject)
    chosen = [torch.tensor([i, i - 1]) for i in (source, target)]
    return swap_context(subject.model, sources[chosen[0]], targets[chosen[1]], positions=[position])


def _swap_layers(subject: Subject) -> tuple[list[SwappedContext], list[SwappedContext]]:
    pairs, layers = _pairs(subject, N_DEEP), range(subject.config.n_layers)
    single = [swap_context(subject.model, *pairs, layers=[layer]) for layer in layers]
    deeper = [swap_context(subject.model, *pairs, layers=range(layer + 1)) for layer in layers[1:]]
    return single, [single[0], *deeper]


def _pair_controls(subject: Subject) -> tuple[Control, ...]:
    chosen = [
        Control(name=name, label=f"{name.capitalize()} sequence", high=N - 1, remeasures=True)
        for name in ("source", "target")
    ]
    return (position_control(subject, remeasures=True), *chosen)


def _remove_heads(subject: Subject) -> Ablation:
    return ablate_heads(subject.model, contexts_of(subject))


def _remove_keys(subject: Subject, *, layer: int) -> Ablation:
    return ablate_positions(subject.model, contexts_of(subject), layer=layer)


def _follow_paths(subject: Subject, *, layer: int) -> Paths:
    return path_contributions(subject.model, contexts_of(subject), layer=layer)


def _scrub(subject: Subject, *, layer: int, hypothesis: tuple[Any, ...]) -> Scrubbed:
    return scrub(subject.model, contexts_of(subject), hypothesis, layer=layer)


def _layer(subject: Subject) -> tuple[Control, ...]:
    return (layer_control(subject, remeasures=True),)


def _scrub_controls(subject: Subject) -> tuple[Control, ...]:
    step, second = tuple(GRADIENT_STEP), tuple(SECOND_PATH)
    paths = _has_blocks(subject)
    options = ((step,), (step, second)) if paths else ((0,), (0, 1), (0, 1, 2))
    default = subject.setting.hypothesis or options[0 if paths else 1]
    hypothesis = Control(
        name="hypothesis",
        label="All that matters",
        kind="choice",
        default=default,
        options=options,
        meaning="Paths (query, key, value), or offsets of keys from the newest, 0.",
        remeasures=True,
    )
    return (*_layer(subject), hypothesis)


def _has_blocks(subject: Subject) -> bool:
    """Its tokens have blocks, so that a layer is a sum of paths; else it is a sum over keys."""
    return getattr(subject.config, "encoding", "plain") == "augmented"


def _has_positions(subject: Subject) -> bool:
    """Keys have positional weights."""
    return getattr(subject.model, "P", None) is not None


def _draw(name: str, subject: Subject, result: Any, **chosen: Any) -> go.Figure:
    return getattr(figures, name)(result)


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
        remeasures=True,
    )
    return Exhibit(
        name=f"edit {edit.name}",
        title=f"Edit: {edit.name}",
        page="Interventions",
        structure=STRUCTURES.get(edit.name, "positions"),
        evidence="causal",
        look="The weights are edited, more and more. Look for circles beside the line of theory, where there is one, "
        "and whether its lowest point is where training left the model.",
        measure=measure,
        draw=lambda subject, result, **chosen: figures.edit_curve(*result),
        code=f"model, options = checkpoint.model, dict(process=checkpoint.process, seed={SEED})\n"
        f"values = [{low} + {high - low} * step / {N_VALUES - 1} for step in range({N_VALUES})]\n"
        f"losses = ari.edit_losses(model, {edit.name!r}, values, n={N_CURVE}, **options)\n"
        f"chosen = ari.edit_losses(model, {edit.name!r}, [{{{name}!r}}], n={N_CHOSEN}, **options)\n"
        "ari.figures.edit_curve(losses, chosen).show()",
        controls=lambda subject: (control,),
        applies=lambda subject: edit.name in available_edits(subject.model, subject.process),
    )


_swapped = partial(
    Exhibit,
    page="Interventions",
    structure="estimate",
    evidence="causal",
    applies=lambda subject: not missing(subject.model, "swap_context"),
    wide=True,
)
_removed = partial(Exhibit, page="Interventions", evidence="causal")
_keys = partial(
    _removed,
    title="Cost of each key",
    look="Each bar is the price of cutting the key at that distance from the newest. Look for bars that miss the "
    "diamond of theory, where there is one, and for keys that cost nothing.",
    measure=_remove_keys,
    draw=partial(_draw, "ablation_costs"),
    code=CONTEXTS + "ablation = ari.ablate_positions(checkpoint.model, contexts, layer={layer})\n"
    "ari.figures.ablation_costs(ablation).show()",
    controls=_layer,
)
_scrubbed = partial(
    _removed,
    look="All but what the hypothesis names is taken from another sequence. Look whether the model still does its "
    "work (1), and whether it fails when what is named is taken away instead.",
    measure=_scrub,
    draw=partial(_draw, "scrub_recovered"),
    code=CONTEXTS + "scrubbed = ari.scrub(checkpoint.model, contexts, {hypothesis!r}, layer={layer})\n"
    "ari.figures.scrub_recovered(scrubbed).show()",
    controls=_scrub_controls,
)

EXHIBITS = (
    _swapped(
        name="swapped_prediction",
        title="One swap of the estimate",
        look="The estimate of W of one sequence, the source, is put into another, the target. Look whether the arrow "
        "ends in the ring, where a model goes that predicts with the W that was moved.",
        measure=_swap_pair,
        draw=lambda subject, result, *, position, **pair: figures.swapped_prediction(
            result, subject.setting, pair=0, position=position
        ),
        code=f"import torch\n\n{SETTING}{PAIRS}"
        "source, target = torch.tensor([{source}, {source} - 1]), torch.tensor([{target}, {target} - 1])\n"
        "swapped = ari.swap_context(checkpoint.model, sources[source], targets[target], positions=[{position}])\n"
        "ari.figures.swapped_prediction(swapped, setting, pair=0, position={position}).show()",
        controls=_pair_controls,
    ),
    _swapped(
        name="swap_scores",
        title="All swaps of the estimate",
        look="1 is a prediction that follows the estimate that was moved, 0 one that does not care. Look whether the "
        "swap reaches its ceiling, the same swap into a sequence of the source's W, while the controls stay at 0: the "
        "state of a sequence with the same W, that of another source, a random one.",
        measure=_swap,
        draw=lambda subject, result, *, position: figures.swap_scores(result, position=position),
        code=PAIRS + "swapped = ari.swap_context(checkpoint.model, sources, targets)\n"
        "ari.figures.swap_scores(swapped, position={position}).show()",
        controls=lambda subject: (position_control(subject),),
    ),
    _swapped(
        name="swap_by_layer",
        title="Swaps layer by layer",
        look="The same swap in one layer alone and in all layers up to one. Look from which layer on the estimate is "
        "there.",
        measure=_swap_layers,
        draw=lambda subject, result, *, position: figures.swap_by_layer(*result, position=position),
        code=PAIRS.replace(f"({N},", f"({N_DEEP},") + "layers = range(checkpoint.config.n_layers)\n"
        "single = [ari.swap_context(checkpoint.model, sources, targets, layers=[layer]) for layer in layers]\n"
        "cumulative = [\n"
        "    ari.swap_context(checkpoint.model, sources, targets, layers=range(layer + 1)) for layer in layers\n"
        "]\n"
        "ari.figures.swap_by_layer(single, cumulative, position={position}).show()",
        controls=lambda subject: (position_control(subject),),
        applies=lambda subject: subject.config.n_layers > 1,
    ),
    *(_edit(edit) for edit in EDITS.values()),
    _removed(
        name="head_costs",
        title="Cost of each head",
        structure="heads",
        look="Each bar is the price of removing one head. Look for bars that miss the diamond of theory, where there "
        "is one, and for heads that cost nothing.",
        measure=_remove_heads,
        draw=partial(_draw, "ablation_costs"),
        code=f"{CONTEXTS}ablation = ari.ablate_heads(checkpoint.model, contexts)\n"
        "ari.figures.ablation_costs(ablation).show()",
        applies=lambda subject: has_several_heads(subject) and not missing(subject.model, "ablate_heads"),
    ),
    _keys(
        name="key_costs",
        structure="positions",
        applies=lambda subject: _has_positions(subject) and not missing(subject.model, "ablate_positions"),
    ),
    _keys(
        name="context_costs",
        structure="estimate",
        applies=lambda subject: not _has_positions(subject) and not missing(subject.model, "ablate_positions"),
    ),
    _removed(
        name="path_shares",
        title="Paths through a layer",
        structure="step",
        look="Everything that the layer writes is a sum of 27 paths; the largest are shown, with what the loss grows "
        "by without them. Look whether one of them is all, and what the second is.",
        measure=_follow_paths,
        draw=partial(_draw, "path_shares"),
        code=CONTEXTS + "paths = ari.path_contributions(checkpoint.model, contexts, layer={layer})\n"
        "ari.figures.path_shares(paths).show()",
        controls=_layer,
        applies=lambda subject: not missing(subject.model, "path_contributions") and has_paths(subject.model),
    ),
    _scrubbed(
        name="scrub_keys",
        title="What all other keys are worth",
        structure="positions",
        applies=lambda subject: not _has_blocks(subject) and not missing(subject.model, "scrub"),
    ),
    _scrubbed(
        name="scrub_paths",
        title="What all other paths are worth",
        structure="step",
        applies=lambda subject: _has_blocks(subject) and not missing(subject.model, "scrub"),
    ),
)
