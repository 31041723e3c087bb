"""Figures of the battery: every cell in its colour, the most sensitive claim first."""

import numpy as np
import pandas as pd

from ar_interp.figures.sabotage import KINDS, battery_matrix, noise_sensitivity

CELLS = {
    "a": ("holds", "fail", "false positive", "false positive"),
    "b": ("fails", "hold", "miss", "miss"),
    "c": ("void", "hold", "void", "void"),
    "d": ("void", "free", "free", "left open by theory"),
    "e": ("holds", "hold", "ok", "holds, or as before, as it must"),
    "f": ("fails", "fail", "ok", "fails, as it must"),
    "g": ("void", "unchanged", "ok", "holds, or as before, as it must"),
}


def test_the_battery_shows_every_cell_in_its_colour():
    rows = [(f"model {name}", f"heads/{name}", *cell[:3]) for name, cell in CELLS.items()]
    rows.append(("model a", "heads/b", "fails", "fail", "ok"))
    figure = battery_matrix(pd.DataFrame(rows, columns=["model", "claim", "verdict", "expected", "outcome"]))
    trace = figure.data[0]
    codes = np.array(trace.z, dtype=float)
    kinds = [list(KINDS)[int(code)] for code in np.diagonal(codes)]
    assert kinds == [cell[3] for cell in CELLS.values()]
    assert np.isfinite(codes).sum() == len(rows)  # blank where a claim is not made
    assert list(KINDS)[int(codes[0, 1])] == "fails, as it must"
    assert [trace.text[0][0], trace.text[1][1], trace.text[2][2], trace.text[2][0]] == ["+", "−", "○", ""]
    assert trace.colorscale[2 * list(KINDS).index("miss")][1] == KINDS["miss"]
    assert (
        "7 models, 8 cells: false positives 1, misses 1, void 1, left open by theory 1"
        in figure.layout.title.subtitle.text
    )
    assert [trace.name for trace in figure.data[1:]] == list(KINDS)


def test_claims_stand_together_by_structure_and_models_in_their_order():
    rows = [("z", claim, "holds", "hold", "ok") for claim in ("loss/b", "heads/a", "loss/a")]
    rows += [("a", "heads/a", "holds", "hold", "ok")]
    trace = battery_matrix(pd.DataFrame(rows, columns=["model", "claim", "verdict", "expected", "outcome"])).data[0]
    assert list(trace.x) == ["heads/a", "loss/a", "loss/b"]
    assert list(trace.y) == ["z", "a"]


def test_of_noise_the_most_sensitive_claim_comes_first():
    rows = [("a/a", 0.1, 1.0), ("a/a", 1.0, 0.5), ("b/b", 0.1, 0.5), ("b/b", 1.0, 0.0)]
    frame = pd.DataFrame(rows, columns=["claim", "noise", "share"]).assign(n=2)
    trace = noise_sensitivity(frame, base="x").data[0]
    assert list(trace.y) == ["b/b", "a/a"]
    assert np.array(trace.z).tolist() == [[0.5, 0.0], [1.0, 0.5]]
    assert list(trace.x) == ["0.1", "1"]
