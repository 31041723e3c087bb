"""Figure of `DataEfficiency`: how many contexts a probe needs to read a target off an activation."""

import numpy as np
import plotly.graph_objects as go

from ar_interp.figures.style import BLUE, GREY, ORANGE, VERMILLION, draw, number, styled, whiskers
from ar_interp.probes.readout_efficiency import DataEfficiency

LOOKS = ((BLUE, "solid", "circle"), (VERMILLION, "dash", "diamond-open"), (ORANGE, "dot", "square-open"),
         (GREY, "dashdot", "x"))  # fmt: skip


def data_efficiency(found: DataEfficiency) -> go.Figure:
    """Held-out score of the probe against the number of contexts that it was fitted to, beside its controls."""
    figure = go.Figure()
    curve = found.curve
    for source, (colour, dash, symbol) in zip(dict.fromkeys(curve["source"]), LOOKS, strict=False):
        rows = curve[curve["source"] == source]
        draw(
            figure, rows["n_train"], rows["score"], source, "%{x} contexts<br>%{y:.3g}", mode="lines+markers",
            error=whiskers(rows["high"] - rows["score"], rows["score"] - rows["low"]),
            line={"color": colour, "dash": dash, "width": 1.5}, marker={"symbol": symbol, "size": 8},
        )  # fmt: skip
    own = np.asarray(curve["source"]) == "model"
    n, score = int(np.asarray(curve["n_train"])[own][-1]), float(np.asarray(curve["score"])[own][-1])
    codes = zip(found.codes["source"].tolist(), found.codes["saved"].tolist(), strict=True)
    saved = ", ".join(f"{number(bits)} ({source})" for source, bits in codes)
    return styled(
        figure,
        title=f"Fitted to {n} contexts the probe scores {number(score)} on others; 1 reads all",
        measured=f"95 % intervals. Bits saved per value by knowing the activation: {saved}",
        x={"title_text": "contexts that the probe is fitted to", "type": "log"},
        y={"title_text": "held-out score", "range": [min(-0.3, max(-1, curve["score"].min())), 1.05]},
        wide=True,
    )
