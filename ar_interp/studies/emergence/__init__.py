"""How training finds the gradient step: plain descent beside its exact recursion, and the signs that it ends with."""

from ar_interp.setting import Emergence
from ar_interp.studies.base import Exhibit, Structure, Study
from ar_interp.studies.emergence.claims import claims_of
from ar_interp.studies.emergence.recipes import RECIPES


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp.studies.emergence.exhibits import EXHIBITS

    return EXHIBITS


STRUCTURES = {
    "emergence": Structure(
        title="How training finds the step",
        meaning="A gradient step is a layer whose two circuits are multiples a and b of the identity; its step size is "
        "a b. Plain descent from such a layer stays in this plane for many laws of the first token, and the whole path "
        "is known: a plateau whose length grows with the logarithm of the start, a drop, and an end that depends on "
        "the start in a and b, but not in a b. Where coordinates differ each has a plateau of its own.",
        formulas=(
            "loss/2 = d (constant - slope y + curvature y²/2), y = a b; slope = n κ₁, curvature = n κ₂ + κ₃ Σ 1/(t-1).",
            "Descent: a + b ← (1 + lr r)(a + b), a - b ← (1 - lr r)(a - b), r = slope - curvature a b.",
            "Flow conserves a² - b²; from a = b, y(t) = y*/(1 + (y*/y₀ - 1) e^{-2 slope t}).",
            "Gaussian coordinates of size σ_j: a_j b_j tends to about 1/(5 σ_j²), after a time of about "
            "ln(1/(5 σ_j² y₀))/(6 n σ_j⁴).",
        ),
    ),
    "signs": Structure(
        title="Reflected steps",
        meaning="For independent phases the loss does not see signs of coordinates that enter keys and values alike, "
        "so training from random weights ends with any pattern D of signs. Only D = ±I is a gradient step; the others "
        "compute D M D, a reflected step with the same loss on the training law, and another function.",
        formulas=(
            "L(B D, A D) = L(B, A) for every diagonal D of signs.",
            "Where W = λ I: prediction_j / target_j = a b D_j Σ_r D_r |x_{1r}|².",
        ),
    ),
}

STUDY = Study(
    name="emergence",
    source="Zheng et al. 2024, arXiv 2405.16845",
    question="How does training find the gradient step, and which one does it find?",
    covers=lambda setting: isinstance(setting, Emergence),
    recipes=RECIPES,
    claims=claims_of,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
