"""Figures of every model, whether theory speaks of it or not, and the words for what they show."""

from ar_interp.studies.base import Exhibit, Structure, Study


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp.studies import behaviour_exhibits, intervention_exhibits, weights_exhibits

    return (*behaviour_exhibits.EXHIBITS, *weights_exhibits.EXHIBITS, *intervention_exhibits.EXHIBITS)


STRUCTURES = {
    "loss": Structure(
        title="How well it predicts",
        meaning="How far predictions are from the next token, beside the smallest error that theory allows a model of "
        "this kind, or, where theory has none, the best that is known. A model that reaches it has nothing "
        "left to learn, and what is found inside is how the problem is solved.",
        formulas=(
            "Losses are means over context lengths T of |prediction - s_{T+1}|^2, summed over the d coordinates.",
            "Diagonal heads: prediction_{j} = Σ_t p_t Σ_i C_{ji} conj(s_{T-1,i}) s_{t,i} s_{t,j}, C = B^T A.",
            "Independent eigenvalues: E|prediction - s_{T+1}|^2 = |C|^2 Σ_{t ≠ T-1} p_t^2 + p_{T-1}^2 Σ_j (Σ_i "
            "C_{ji})^2 - 2 p_T tr C + d, at least d - min(H, d) with H heads.",
            "Conjugate pairs (j, j'), with Q = Σ_{t ≠ T-1} p_t and Q_2 = Σ_{t ≠ T-1} p_t^2: Σ_j (p_T C_{jj} - 1)^2 + "
            "(Σ_{t ≤ T-2} p_t^2) Σ_j C_{jj}^2 + Q_2 Σ_j Σ_{i ≠ j, j'} C_{ji}^2 + Σ_j (p_{T-1} Σ_i C_{ji} + Q "
            "C_{jj'})^2, at least max(d - 2 H, 0).",
            "If W and -W have the same law, bias-free linear attention that asks with s_T has the wrong parity under "
            "s_t → (-1)^{t-1} s_t, and no weights beat predicting zero.",
        ),
    ),
    "estimate": Structure(
        title="The estimate of W",
        meaning="Before it can predict, the model must hold an estimate Ŵ of this sequence's own W. It is read from "
        "inside and compared with W, and with what statistics would make of the same context; where all of it "
        "lies in one place it is also moved to another sequence: a model that uses it must then predict with "
        "the W that was moved.",
        formulas=(
            "Ŵ_T is the matrix that the model applies to the last token s_T, keys and values as they are.",
            "Least squares (OLS) on the T - 1 pairs seen; for Haar W its error is E|prediction - s_{T+1}|^2 = "
            "max(0, d - T + 1)/d, which no estimator beats.",
            "Moved estimate: moved = score · W_{source} s_T + kept · (own prediction) + rest, by least squares over "
            "pairs of sequences. Nothing moved is (score, kept) = (0, 1), all (1, 0), a prediction erased (0, 0).",
        ),
    ),
}

STUDY = Study(
    name="any model",
    source="",
    question="What does the model hold, and what does it do with it?",
    covers=lambda setting: True,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
