"""Words of the report, in the notation of `typeset`: for readers who have never seen the project."""

from typing import NamedTuple

from ar_interp.claims import Evidence

SEQUENCES = (
    "A sequence of vectors follows s_{t+1} = W s_t, and every sequence has a W of its own, drawn at random: nobody can "
    "predict the next vector without first working out W from the vectors seen so far.",
    "Small transformers are trained to predict the next vector, which they can only do by inferring W *in context*, "
    "without any change of their weights, and then applying it.",
)
PROMPTS = (
    "A prompt holds all that a small model is told of a task: examples of a function drawn at random, or the bits of a "
    "problem. What it answers it can only have from there and from its weights, which do not change any more.",
)
INTRODUCTION = (
    "Theory says, in formulas without free parameters, what training should find, in which weights, with which error "
    "left.",
    "This report opens trained models and holds each statement of that theory against them: the number predicted, the "
    "number measured with its uncertainty, and the same measurement on a *control*, where the structure is absent.",
    "A structure is believed when it was shown in three ways that can each fail where the others do not: read from the "
    "weights, seen in activations or behaviour, and used, which only intervening can tell.",
)

VERDICTS = {
    "holds": ("✓", "what was measured agrees with the prediction to within the tolerance, and the control does not"),
    "undecided": (
        "?",
        "an interval reaches over a bound of what agrees: more contexts are needed, or the value sits on it",
    ),
    "void": ("○", "both agree: the measurement cannot tell, and shows nothing, however well it agrees"),
    "fails": ("✗", "what was measured disagrees with the prediction"),
}
KNOWN = "A failure that is *known* is a finding: the recipe of the model names it, and it is not expected to go away."


VERBS = {
    "holds": ("holds", "hold"),
    "undecided": ("is undecided", "are undecided"),
    "void": ("is void", "are void"),
    "fails": ("fails", "fail"),
}

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
    """A kind of evidence: where it comes from, in words."""

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


UNCERTAINTY = (
    "n counts the sequences, seeds or angles that a number rests on. Sequences are drawn with fixed seeds that "
    "training does not use, so that the same command gives the same numbers.",
    "± is the half-width of a 95 % interval; without it the number is exact but for rounding. A claim holds where the "
    "whole interval lies within the tolerance of the prediction and that of its control wholly outside, fails where it "
    "lies wholly outside, and is undecided where either reaches over a bound: imprecision never helps. Tolerances were "
    "set beforehand, each with its reason.",
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
