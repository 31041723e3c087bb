"""Figures of next-token predictors: what each step reads, its directions, edited chains, attribution, samples."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ar_interp.figures.style import BLACK, BLUE, GREEN, GREY, LOG, ORANGE, VERMILLION, draw, mark, number, styled
from ar_interp.probes.chain_edits import ContinuedChain
from ar_interp.probes.chains import Attributions, ReadSources
from ar_interp.setting import Setting

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, BLACK, GREY)
CELLS = [[0, "#F2F2F2"], [0.25, "#F2F2F2"], [0.25, "#CFE3F1"], [0.5, "#CFE3F1"], [0.5, "#E2E2E2"], [0.75, "#E2E2E2"],
         [0.75, "#F5C9B0"], [1, "#F5C9B0"]]  # fmt: skip
MARKED, MANY = 12, 20  # directions and tokens with a number each
PROMPT, RIGHT, GIVEN, WRONG = range(4)  # kinds of cells, in the order of the colours


def read_positions(places: ReadSources, n_prompt: int, setting: Setting) -> go.Figure:
    """Norms of the centred maps, steps by sources; rings where exact weights read.

    Args:
        n_prompt: tokens of the prompt.
    """
    table = places.singular_values.norm(dim=-1).cpu().numpy()
    steps, sources = table.shape
    window = steps == 1 and setting.config.window is not None
    names = [f"−{s + 1}" if window else f"x{s + 1}" if s < n_prompt else f"z{s - n_prompt + 1}" for s in range(sources)]
    rows = ["any" if window else f"z{t + 1}" for t in range(steps)]
    figure = go.Figure(
        go.Heatmap(
            z=table.tolist(), x=names, y=rows, colorscale="Blues", zmin=0,
            colorbar={"title": {"text": "norm"}, "thickness": 12},
            hovertemplate="token %{y} reads %{x}<br>norm %{z:.3g}<extra></extra>",
        )
    )  # fmt: skip
    wanted = getattr(setting, "sources", None)
    best = table[0].argsort()[::-1][: len(wanted[0]) if wanted else 1] if window else table[:6].argmax(1)
    largest = ", ".join(names[int(source)] for source in best)
    title, expected = f"The largest maps stand at {largest}{' …' * (steps > 6)}", ""
    if wanted is not None:
        at = [(names[source - window], rows[step]) for step, want in enumerate(wanted) for source in sorted(want)]
        look = {"symbol": "circle-open", "size": 9, "color": VERMILLION, "line": {"width": 2}}
        at_x, at_y = [x for x, _ in at], [y for _, y in at]
        draw(figure, at_x, at_y, "exact weights", "%{y} reads %{x}", marker=look)
        expected = "Rings are where exact weights read"
    return styled(
        figure,
        title=title,
        measured="norms of the maps, centred over symbols read and written; x are tokens of the prompt, z of the chain",
        expected=expected,
        x={"title_text": "offset" if window else "token that is read", "type": "category"},
        y={"title_text": "token that is written", "autorange": "reversed", "type": "category"},
        wide=True,
    )


def chain_directions(places: ReadSources, n_prompt: int, setting: Setting) -> go.Figure:
    """Singular values of the largest centred map of each step, or of the two largest of a window."""
    values, window = places.singular_values, setting.config.window is not None
    norms = values.square().sum(-1)
    best = list(enumerate(places.first.tolist()))
    if window:
        best = [(0, int(source)) for source in norms[0].argsort(descending=True)[:2] if norms[0, source] > 0]
    figure, most = go.Figure(), 0
    for k, (step, source) in enumerate(best[:6]):
        shown = values[step, source][values[step, source] > 1e-12 * values.max()].tolist()
        most = max(most, len(shown))
        name = (
            f"offset {source + 1}"
            if window
            else f"z{step + 1} from " + (f"x{source + 1}" if source < n_prompt else f"z{source - n_prompt + 1}")
        )
        draw(figure, range(1, len(shown) + 1), shown, name, "%{x}: %{y:.4g}", mode="lines+markers",
             line={"color": COLOURS[k % len(COLOURS)]})  # fmt: skip
    states = getattr(setting.process, "modulus", None)
    expected = ""
    if states is not None:
        mark(figure, states - 0.5)
        expected = f"In theory the map of the newest token has {states - 1}, one less than there are states (dashed)"
    step, source = best[0]
    rank = places.rank(source, step=step)
    return styled(
        figure,
        title=f"The map of {'the newest token' if window else 'the first step'} has {rank} direction{'s' * (rank > 1)} "
        "before the first that is fifty times smaller",
        measured="singular values of centred maps; what is rounding is left out",
        expected=expected,
        x={"title_text": "direction", "dtick": 1 if most <= MARKED else None},
        y={"title_text": "singular value", **LOG},
    )


def attribution_agreement(attributions: Attributions) -> go.Figure:
    """Ablation and patching of every token against direct attribution, means over the chains."""
    table, figure = attributions.by_source, go.Figure()
    direct = table["direct"].to_numpy()
    ends = [float(direct.min()), float(direct.max())]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY}, hoverinfo="skip", showlegend=False)
    told = np.stack([table["step"] + 1, table["source"] + 1], axis=1).tolist()
    hover = "step %{customdata[0]}, source %{customdata[1]}<br>%{x:.4g}, %{y:.4g}"
    looks: dict[str, dict[str, Any]] = {
        "ablated": {"symbol": "circle-open", "size": 11, "color": BLUE},
        "patched": {"symbol": "x", "size": 6, "color": VERMILLION},
    }
    for name, look in looks.items():
        draw(figure, direct, table[name], name, hover, customdata=told, marker=look)
    return styled(
        figure,
        title=f"Attribution, ablation and patching agree to {number(attributions.largest_difference)}",
        measured="what each token adds to the logit of the right symbol over the mean of all, a point for each step "
        "and source; the number is the largest difference on any chain",
        expected="Logits are sums over tokens, so that the three are one number",
        x="direct attribution",
        y="by ablation, by patching",
    )


def edited_chain(continued: ContinuedChain) -> go.Figure:
    """A prompt, and below it the right chain, the model's own, and the one that goes on from the given tokens."""
    n, T, given = len(continued.prompt), len(continued.right), len(continued.given)
    rows = {
        "prompt": (continued.prompt, [PROMPT] * n),
        "right": (continued.right, [RIGHT] * T),
        "model alone": (continued.alone, _judged(continued.alone, continued.right, 0)),
        "after yours": (continued.written, _judged(continued.written, continued.right, given)),
    }
    width = max(n, T)
    z = [[*kinds, *[None] * (width - len(kinds))] for _, kinds in rows.values()]
    text = [[*symbols, *[""] * (width - len(symbols))] for symbols, _ in rows.values()]
    figure = go.Figure(
        go.Heatmap(
            z=z, x=list(range(1, width + 1)), y=list(rows), text=text, texttemplate="%{text}", colorscale=CELLS,
            zmin=0, zmax=3, showscale=False, xgap=2, ygap=4, hovertemplate="%{y}, token %{x}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    changed = [t + 1 for t, symbol in enumerate(continued.given) if symbol != continued.right[t]]
    named = ", ".join(map(str, changed))
    said = f"changed at {named}" if changed else "as the task has it" if given else "left to the model"
    answer, truth = (" ".join(chain[-continued.n_answer :]) for chain in (continued.written, continued.right))
    return styled(
        figure,
        title=f"The chain is {said}: the model answers {answer}, " + ("right" if answer == truth else f"not {truth}"),
        measured="grey: the prompt, and what was given; blue: as the task has it; red: another symbol",
        expected="Every token follows from those before it, so that a wrong one is carried to the answer",
        x={"title_text": "token", **({"dtick": 1} if width <= MANY else {"dtick": 5, "tick0": 5}), "showgrid": False},
        y={"autorange": "reversed", "showgrid": False, "type": "category"},
        height=220,
        wide=True,
        legend=False,
    )


def _judged(chain: tuple[str, ...], right: tuple[str, ...], given: int) -> list[int]:
    """The kind of each cell."""
    return [
        WRONG if symbol != true else GIVEN if t < given else RIGHT
        for t, (symbol, true) in enumerate(zip(chain, right, strict=True))
    ]


def answers_by_samples(answers: pd.DataFrame, guess: float) -> go.Figure:
    """Right answers against the number of chains trained on, a line for each chain.

    Args:
        answers: columns chain, n_samples, seed, answer.
        guess: the share that is right by chance.
    """
    figure, ends = go.Figure(), {}
    groups: Any = answers.groupby("chain", sort=False)
    for k, (chain, rows) in enumerate(groups):
        colour = COLOURS[k % len(COLOURS)]
        hover = f"{chain}<br>%{{x}} chains<br>%{{y:.4f}}"
        look = {"color": colour, "opacity": 0.4}
        draw(figure, rows["n_samples"], rows["answer"], str(chain), hover, marker=look, showlegend=False)
        mean: Any = rows.groupby("n_samples")["answer"].mean()
        draw(figure, mean.index, mean, str(chain), hover, mode="lines", line={"color": colour})
        ends[str(chain)] = float(mean.iloc[-1])
    figure.add_hline(y=guess, line={"color": GREY, "dash": "dash"})
    said = ", ".join(f"{share:.3f} by {chain}" for chain, share in ends.items())
    return styled(
        figure,
        title=f"After {answers['n_samples'].to_numpy().max()} chains the share of right answers is {said}",
        measured=f"fresh prompts, dots are {answers['seed'].nunique()} seeds; dashed: a guess",
        expected="In theory each step of a chain is one convex problem; running parity and no chain leave it nothing",
        x={"title_text": "chains to train on", "type": "log", "tickvals": sorted(set(answers["n_samples"]))},
        y={"title_text": "right answers", "range": [0.0, 1.03]},
        wide=True,
    )
