"""What the report says in words, in the notation of `typeset`: for readers who have never seen the project."""

from typing import NamedTuple

from ar_interp.claims import Evidence

INTRODUCTION = (
    "A sequence of vectors follows s_{t+1} = W s_t, and every sequence has a W of its own, drawn at random: nobody can "
    "predict the next vector without first working out W from the vectors seen so far.",
    "Small transformers are trained to predict the next vector, which they can only do by inferring W *in context*, "
    "without any change of their weights, and then applying it.",
    "Theory says, in formulas without free parameters, what training should find: which estimate of W, in which "
    "weights, with which error left.",
    "This report opens trained models and holds each statement of that theory against them: the number predicted, the "
    "number measured with its uncertainty, and the same measurement on a *control*, where the structure is absent.",
    "A structure is believed when it was shown in three ways that can each fail where the others do not: read from the "
    "weights, seen in activations or behaviour, and used, which only intervening can tell.",
)

VERDICTS = {
    "holds": ("✓", "what was measured agrees with the prediction to within the tolerance, and the control does not"),
    "void": ("○", "both agree: the measurement cannot tell, and shows nothing, however well it agrees"),
    "fails": ("✗", "what was measured disagrees with the prediction"),
}
KNOWN = "A failure that is *known* is a finding: the recipe of the model names it, and it is not expected to go away."


VERBS = {"holds": ("holds", "hold"), "void": ("is void", "are void"), "fails": ("fails", "fail")}

FAILURES = {
    False: ". Here theory and measurement disagree:",
    True: ", as is known. What theory expected and is not there is a finding, named in the recipe of the model:",
}
SUMMARY = (
    "A row is a structure, a mark is a claim and leads to it; below the marks, how many of them hold. The last column "
    "counts the ways in which the structure was shown, where some claim holds and none fails: read from the weights, "
    "seen in activations or behaviour, and used.",
)
NO_CLAIM = "No claim rests on this alone."


class Kind(NamedTuple):
    """Where evidence comes from."""

    label: str
    heading: str
    meaning: str


KINDS: dict[Evidence, Kind] = {
    "weights": Kind("Weights", "Read from the weights", "read from the trained weights; the model is not run"),
    "activations": Kind("Activations", "Seen in activations", "read from what the model computes inside as it runs"),
    "behaviour": Kind("Behaviour", "Seen in behaviour", "read from its predictions on sequences it was not trained on"),
    "causal": Kind(
        "Intervention",
        "Tested by intervention",
        "something inside is moved, removed or replaced, and the prediction must follow as predicted",
    ),
    "training": Kind("Training", "Seen in training", "read from how training went and where its seeds ended"),
}
WAYS: tuple[tuple[Evidence, ...], ...] = (("weights",), ("activations", "behaviour"), ("causal",))
N_WAYS = ("–", "in one way", "in two ways", "in three ways")


class Structure(NamedTuple):
    """What claims of the form `structure/what` are about; formulas in order of use."""

    title: str
    meaning: str
    formulas: tuple[str, ...]


STRUCTURES = {
    "loss": Structure(
        "How well it predicts",
        "How far predictions are from the next token, beside the smallest error that theory allows a model of this "
        "kind, or, where theory has none, the best that is known. A model that reaches it has nothing left to learn, "
        "and what is found inside is how the problem is solved.",
        (
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
        "The estimate of W",
        "Before it can predict, the model must hold an estimate Ŵ of this sequence's own W. It is read from inside and "
        "compared with W, and with what statistics would make of the same context; where all of it lies in one place "
        "it is also moved to another sequence: a model that uses it must then predict with the W that was moved.",
        (
            "Ŵ_T is the matrix that the model applies to the last token s_T, keys and values as they are.",
            "Least squares (OLS) on the T - 1 pairs seen; for Haar W its error is E|prediction - s_{T+1}|^2 = "
            "max(0, d - T + 1)/d, which no estimator beats.",
            "Moved estimate: moved = score · W_{source} s_T + kept · (own prediction) + rest, by least squares over "
            "pairs of sequences. Nothing moved is (score, kept) = (0, 1), all (1, 0), a prediction erased (0, 0).",
        ),
    ),
    "heads": Structure(
        "The heads",
        "Attention heads decide what is asked for and what is passed on. A diagonal head h multiplies keys by a_h and "
        "values by b_h, and the prediction depends on all heads only through C = B^T A: theory says which C is best, "
        "and that it makes the heads orthogonal to each other.",
        (
            "Gauge: A → G A, B → G^{-T} B changes neither C = B^T A nor the eigenvalues of M = A B^T.",
            "Independent eigenvalues: at the minimum C = c Π, Π an orthogonal projector of rank min(H, d), c = 1/p_T; "
            "for H ≤ d that is M = c I in every gauge, so that ⟨a_h, b_h'⟩ = 0 for h != h'.",
            "Conjugate pairs: C = c blockdiag [[1, kappa], [kappa, 1]] with one kappa for all pairs; fewer heads than "
            "coordinates leave only kappa = 1.",
            "Haar W and a first token of rotation-invariant law: one head with A = B = I is as good as any number.",
        ),
    ),
    "positions": Structure(
        "The positional encoding",
        "At context length T the attention score of the key at t is multiplied by a learned weight p_t. Theory says "
        "that only the newest keys count, and where eigenvalues come in conjugate pairs that two of them complete the "
        "identity s_{T+1} = 2 cos(theta) s_T - s_{T-1}.",
        (
            "Independent eigenvalues: p_T = 1/c and p_t = 0 for every other key.",
            "Conjugate pairs: p_T = 1/c, p_{T-1}/p_T = -kappa/(1 + kappa), p_t = 0 for t ≤ T-2; for kappa = 1 that is "
            "(…, 0, -1/2, 1)/c.",
        ),
    ),
    "filter": Structure(
        "The filter of unfinished descent",
        "A positional encoding that is trained alone on slow signals looks like a smooth filter. The optimum is to use "
        "only the newest key; the smoothness is that of gradient descent that was stopped early, and theory gives it "
        "number by number.",
        (
            "loss(p) = (p - e_T)^T K (p - e_T), K_{tt'} = sinc(4 (t - t')/mu), sinc(x) = sin(πx)/(πx).",
            "Gradient descent from zero with step eta: p = [I - (I - eta K)^k] e_T after k steps.",
        ),
    ),
    "step": Structure(
        "The gradient step",
        "An augmented token holds s_t and its predecessor s_{t-1}. One layer can then correlate successors with "
        "predecessors, which is one step of gradient descent on Σ_t |s_{t+1} - W s_t|^2 from W = 0. Theory says how "
        "long the step is, and that every other path through the layer should be closed.",
        (
            "prediction = Σ_t (a1 ⟨s_t, s_T⟩ + a2 ⟨s_{t-1}, s_T⟩ + a3 ⟨s_t, s_{T-1}⟩ + a4 ⟨s_{t-1}, s_{T-1}⟩) (b1 s_t "
            "+ b2 s_{t-1}); a step of gradient descent is a2 b1 = eta alone: Ŵ = eta Σ_{t<T} s_{t+1} s_t^*.",
            "Independent eigenvalues, |s_{1,j}| = 1: eta = 3/(2 T_max + 3 d - 4), all other products 0.",
            "Conjugate pairs and Haar W reach the target through a3 too: a3/a2 < 0, and a little less error.",
            "Other laws of s_1, scores divided by the number of pairs: a2 b1 = kappa_1/(kappa_2 + kappa_3 mean "
            "1/(t-1)), moments of s_1; the relative error tends to 1 - kappa_1^2/(kappa_0 kappa_2).",
        ),
    ),
    "depth": Structure(
        "What depth is worth",
        "If each layer took one more gradient step, L layers would err as L steps do. They do better, since layers "
        "transform keys and values too; the question is how many steps they are worth.",
        (
            "k steps of gradient descent from 0: W_k = W (I - (I - eta S)^k), S = Σ_{t<T} s_t s_t^*, with tuned eta.",
            "k iterations of Newton and Schulz are 2^k steps of gradient descent.",
        ),
    ),
    "descent": Structure(
        "How training got there",
        "The loss over training, and where other random beginnings ended: some structures are forced by the minimum, "
        "others are chosen by the path of gradient descent, and some seeds are trapped on the way.",
        ("Gradient flow conserves A A^T - B B^T and |A|^2 - |P|^2: keys balance values, and the scale c is fixed.",),
    ),
}

UNCERTAINTY = (
    "n counts the sequences, seeds or angles that a number rests on. Sequences are drawn with fixed seeds that "
    "training does not use, so that the same command gives the same numbers.",
    "± is the half-width of a 95 % interval; without it the number is exact but for rounding. A measurement passes "
    "where |measured - predicted| ≤ tolerance + half-width. Tolerances were set beforehand, each with its reason.",
)
CONTROLS = (
    "A control is the same measurement, with the same tolerance, where the structure must be absent: in most cases on "
    "the same architecture with fresh random weights (untrained). Where those would differ for a trivial reason it is "
    "the trained model with one thing broken, or the value that a rival explanation predicts. A claim whose control "
    "passes too is void.",
)

SYMBOLS = {
    "d, H, T, L": "size of s_t, number of heads, length of the context, number of layers",
    "lambda, theta": "eigenvalue of W and its angle, lambda = exp(i theta)",
    "A, B": "rows a_h and b_h: what diagonal head h multiplies keys and values by; C = B^T A, M = A B^T",
    "P, p_t": "positional encoding: the weight of the key at t, at context length T",
    "kappa": "how much of the conjugate eigenvalue the heads mix in",
    "QK, OV": "W_Q W_K^T and W_V W_O: what a head asks for, and what it writes",
    "a1…a4, b1, b2": "multiples of the identity in the blocks of QK and OV of an augmented layer",
    "Ŵ, Γ": "the model's estimate of W, and the part of it that the heads carry at the newest key",
}
FAMILIES = {
    "commuting-unitary": "W is diagonal in a fixed basis, its eigenvalues independent and uniform on the unit circle",
    "commuting-orthogonal": "W is a real rotation: its eigenvalues come in conjugate pairs, with independent angles, "
    "in a fixed basis",
    "haar-orthogonal": "W is uniform among all orthogonal matrices (Haar), eigenvectors and all",
}
