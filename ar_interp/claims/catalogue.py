"""Every claim by name, `structure/what`, with where its evidence comes from.

A structure is believed when it was read from the weights, seen in activations or behaviour, and used causally: each of
the three can fail where the others do not.
"""

from typing import Literal

Evidence = Literal["weights", "activations", "behaviour", "causal", "training"]

CATALOGUE: dict[str, Evidence] = {
    "loss/minimum": "weights",
    "loss/fresh": "behaviour",
    "loss/gain": "weights",
    "loss/relative": "behaviour",
    "loss/blow-ups": "behaviour",
    "loss/parity": "behaviour",
    "loss/one head": "behaviour",
    "loss/many heads": "behaviour",
    "loss/enough heads": "training",
    "loss/figure": "behaviour",
    "loss/best scale": "causal",
    "loss/removed": "causal",
    "heads/projector": "weights",
    "heads/pairs": "weights",
    "heads/same kappa": "weights",
    "heads/eigenvalues": "weights",
    "heads/kappa one": "weights",
    "heads/rank": "weights",
    "heads/frame": "weights",
    "heads/orthogonal": "weights",
    "heads/cosine": "weights",
    "positions/newest": "weights",
    "positions/scale": "weights",
    "positions/older keys": "weights",
    "positions/kappa": "weights",
    "positions/minus half": "weights",
    "positions/identity": "behaviour",
    "filter/rows": "weights",
    "filter/newest": "weights",
    "filter/rank": "weights",
    "filter/unfinished": "weights",
    "step/size": "weights",
    "step/others": "weights",
    "step/second path": "weights",
    "step/second value": "weights",
    "step/signs": "behaviour",
    "step/QK": "weights",
    "step/OV": "weights",
    "step/other blocks": "weights",
    "estimate/cos": "activations",
    "estimate/sin": "activations",
    "estimate/step": "activations",
    "estimate/swap": "causal",
    "estimate/controls": "causal",
    "depth/steps": "behaviour",
    "depth/better": "behaviour",
    "descent/scale": "training",
    "descent/balance": "training",
    "descent/levels": "training",
    "descent/escape": "training",
    "descent/dependence": "training",
    "descent/steps": "training",
}
