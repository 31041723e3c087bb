"""What happens to the predictions if one changes what the model holds inside."""

from __future__ import annotations

import streamlit as st
import view

import ar_interp as ari

LAST_TWO_KEYS = [0, 1]
SOURCE_SEED = view.SEED + 1
N_EDITED, N_CURVE, N_VALUES = 512, 256, 13  # sequences at the chosen value and along the curve, and its values
N_DEEP = 32  # pairs for the swaps layer by layer
SWAPPED = f"""
targets = checkpoint.process.sample({{n}}, checkpoint.config.n_ctx + 1, seed={view.SEED})
sources = checkpoint.process.sample({{n}}, checkpoint.config.n_ctx + 1, seed={SOURCE_SEED})"""


@view.cached("Swapping the estimate of W …")
def swap(checkpoint: ari.Checkpoint):
    sources, targets = pairs(checkpoint, view.N_SEQUENCES)
    return ari.swap_context(checkpoint.model, sources, targets)


@view.cached("Swapping one pair …")
def swap_pair(checkpoint: ari.Checkpoint, source: int, target: int, position: int):
    import torch

    sources, targets = pairs(checkpoint, view.N_SEQUENCES)
    chosen = [torch.tensor([i, i - 1]) for i in (source, target)]
    return ari.swap_context(checkpoint.model, sources[chosen[0]], targets[chosen[1]], positions=[position])


@view.cached("Swapping layer by layer …")
def swap_layers(checkpoint: ari.Checkpoint):
    sources, targets = pairs(checkpoint, N_DEEP)
    layers = range(checkpoint.config.n_layers)
    single = [ari.swap_context(checkpoint.model, sources, targets, layers=[layer]) for layer in layers]
    deeper = [ari.swap_context(checkpoint.model, sources, targets, layers=range(layer + 1)) for layer in layers[1:]]
    return single, [single[0], *deeper]


def pairs(checkpoint: ari.Checkpoint, n: int) -> tuple[ari.Sequences, ari.Sequences]:
    """Sources and targets."""
    length = checkpoint.config.n_ctx + 1
    return checkpoint.process.sample(n, length, seed=SOURCE_SEED), checkpoint.process.sample(n, length, seed=view.SEED)


@view.cached("Editing the weights …")
def applying_edits(checkpoint: ari.Checkpoint):
    from ar_interp.probes.edits import EDITS, available_edits

    return [EDITS[name] for name in available_edits(checkpoint.model, checkpoint.process)]


@view.cached("Editing the weights …")
def edit_losses(checkpoint: ari.Checkpoint, edit: str, values: list[float], n: int):
    return ari.edit_losses(checkpoint.model, edit, values, process=checkpoint.process, n=n, seed=view.SEED)


@view.cached("Removing heads …")
def remove_heads(checkpoint: ari.Checkpoint):
    return ari.ablate_heads(checkpoint.model, sample(checkpoint))


@view.cached("Cutting keys …")
def cut_keys(checkpoint: ari.Checkpoint, layer: int):
    return ari.ablate_positions(checkpoint.model, sample(checkpoint), layer=layer)


@view.cached("Following the paths …")
def follow_paths(checkpoint: ari.Checkpoint, layer: int):
    from ar_interp.probes.paths import has_paths

    if not has_paths(checkpoint.model):
        return None
    return ari.path_contributions(checkpoint.model, sample(checkpoint), layer=layer)


@view.cached("Scrubbing …")
def scrub_rest(checkpoint: ari.Checkpoint, layer: int):
    hypothesis = LAST_TWO_KEYS if no_default(checkpoint) else None
    return ari.scrub(checkpoint.model, sample(checkpoint), hypothesis, layer=layer)


def no_default(checkpoint: ari.Checkpoint) -> bool:
    """Theory names no paths or keys of this kind of model."""
    return checkpoint.config.encoding == "plain" and not isinstance(checkpoint.process, ari.processes.CommutingProcess)


def sample(checkpoint: ari.Checkpoint) -> ari.Sequences:
    return checkpoint.process.sample(view.N_SEQUENCES, checkpoint.config.n_ctx + 1, seed=view.SEED)


selected = view.open_page(
    "Interventions",
    "Does the model *use* what one finds in it? Put the estimate of W of one sequence, the source, into the forward "
    "pass of another, the target, whose tokens stay: the prediction should turn from $W_\\mathrm{target}\\, s_T$ to "
    "$W_\\mathrm{source}\\, s_T$.",
    position=True,
)
source = view.select_number("source", "Source sequence", 0, view.N_SEQUENCES - 1)
target = view.select_number("target", "Target sequence", 0, view.N_SEQUENCES - 1)
checkpoint, T = selected.checkpoint, selected.position
layer = view.select_number("layer", "Layer to take apart", 0, checkpoint.config.n_layers - 1)
view.import_all()
expected = selected.expected
with view.errors_shown():
    swapped = swap(checkpoint)
    pair = swap_pair(checkpoint, source, target, T)

st.subheader("Swap the estimate of W")
selected.show(
    ari.figures.swapped_prediction(pair, expected, pair=0, position=T),
    f"""
import torch

{view.EXPECTED}{SWAPPED.format(n=view.N_SEQUENCES)}
source, target = torch.tensor([{source}, {source - 1}]), torch.tensor([{target}, {target - 1}])  # and the pair before
swapped = ari.swap_context(checkpoint.model, sources[source], targets[target], positions=[{T}])
ari.figures.swapped_prediction(swapped, expected, pair=0, position={T}).show()
""",
)
selected.show(
    ari.figures.swap_scores(swapped, position=T),
    f"""{SWAPPED.format(n=view.N_SEQUENCES)}
swapped = ari.swap_context(checkpoint.model, sources, targets)
ari.figures.swap_scores(swapped, position={T}).show()
""",
)
st.caption(
    "*Ceiling*: the same swap into the sequence of $W_\\mathrm{source}$ that passes through the target's $s_T$. "
    "Controls swap in the state of a sequence with the *same W* as the target, of a source with an *other W*, and a "
    "*random state* of the same norm."
)
if checkpoint.config.n_layers > 1:
    selected.show(
        ari.figures.swap_by_layer(*swap_layers(checkpoint), position=T),
        f"""{SWAPPED.format(n=N_DEEP)}
layers = range(checkpoint.config.n_layers)
single = [ari.swap_context(checkpoint.model, sources, targets, layers=[layer]) for layer in layers]
cumulative = [ari.swap_context(checkpoint.model, sources, targets, layers=range(layer + 1)) for layer in layers]
ari.figures.swap_by_layer(single, cumulative, position={T}).show()
""",
    )

st.subheader("Edit the weights")
with view.errors_shown():
    edits = applying_edits(checkpoint)
if not edits:
    st.info("None of the edits that theory gives a meaning applies to this model.", icon=":material/info:")
columns = [column for _ in edits[::2] for column in st.columns(2)]
for column, edit in zip(columns, edits, strict=False):
    low, high = edit.span
    with column, view.errors_shown():
        name = edit.name.replace(" ", "_")
        value = view.select_value(name, edit.name.capitalize(), low, high, edit.neutral, meaning=view.plain(edit.what))
        values = [low + (high - low) * step / (N_VALUES - 1) for step in range(N_VALUES)]
        selected.show(
            ari.figures.edit_curve(
                edit_losses(checkpoint, edit.name, values, N_CURVE),
                edit_losses(checkpoint, edit.name, [value], N_EDITED),
            ),
            f"""
            model, options = checkpoint.model, {{"process": checkpoint.process, "seed": {view.SEED}}}
            values = [{low} + {high - low} * step / {N_VALUES - 1} for step in range({N_VALUES})]
            losses = ari.edit_losses(model, {edit.name!r}, values, n={N_CURVE}, **options)
            chosen = ari.edit_losses(model, {edit.name!r}, [{value!r}], n={N_EDITED}, **options)
            ari.figures.edit_curve(losses, chosen).show()
            """,
        )

st.subheader("Take a part away")
columns = iter([*st.columns(2), *st.columns(2)])
if checkpoint.config.n_layers * checkpoint.config.n_heads > 1:
    with next(columns), view.errors_shown():
        selected.show(
            ari.figures.ablation_costs(remove_heads(checkpoint)),
            f"""
            {view.SEQUENCES}
            ablation = ari.ablate_heads(checkpoint.model, sequences)
            ari.figures.ablation_costs(ablation).show()
            """,
        )
with next(columns), view.errors_shown():
    selected.show(
        ari.figures.ablation_costs(cut_keys(checkpoint, layer)),
        f"""
        {view.SEQUENCES}
        ablation = ari.ablate_positions(checkpoint.model, sequences, layer={layer})
        ari.figures.ablation_costs(ablation).show()
        """,
    )
paths = follow_paths(checkpoint, layer)
if paths is not None:
    with next(columns):
        selected.show(
            ari.figures.path_shares(paths),
            f"""
            {view.SEQUENCES}
            paths = ari.path_contributions(checkpoint.model, sequences, layer={layer})
            ari.figures.path_shares(paths).show()
            """,
        )
with next(columns), view.errors_shown():
    hypothesis = f"{LAST_TWO_KEYS}, " if no_default(checkpoint) else ""
    selected.show(
        ari.figures.scrub_recovered(scrub_rest(checkpoint, layer)),
        f"""
        {view.SEQUENCES}
        scrubbed = ari.scrub(checkpoint.model, sequences, {hypothesis}layer={layer})
        ari.figures.scrub_recovered(scrubbed).show()
        """,
    )
