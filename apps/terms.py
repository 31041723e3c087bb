"""The words of the explorer: term -> meaning, in the notation of `report.typeset`."""

import re

TERMS = {
    "s_t": "The token at time t: a vector of d numbers, real or complex. A sequence is s_1, s_2, …, with s_{t+1} = W "
    "s_t.",
    "W": "The matrix that makes a sequence. Every sequence has its own, drawn at random, so that no model can "
    "memorise it.",
    "context, T": "The tokens s_1, …, s_T that the model has seen. T is the length of the context.",
    "in context": "Learned from the tokens of one sequence while the weights of the model stay as they are.",
    "Ŵ": "The model's estimate of W: the matrix that it applies to the last token s_T to predict s_{T+1}.",
    "Γ": "The part of Ŵ that the heads carry at the newest key alone.",
    "lambda, theta": "An eigenvalue of W and its angle. W keeps lengths, so that lambda = exp(i theta) lies on "
    "the unit circle.",
    "conjugate pairs": "A real W turns planes: its eigenvalues come in pairs, lambda and its mirror image.",
    "Haar": "The uniform law of rotations and reflections: every direction is as likely as every other.",
    "head": "A part of a layer that compares the last token with earlier ones (keys) and adds up what they hold "
    "(values).",
    "A, B": "Their rows a_h and b_h are what diagonal head h multiplies keys and values by.",
    "C, M": "C = B^T A and M = A B^T. Predictions depend on the heads through C alone.",
    "P, p_t": "The positional encoding: p_t is the weight of the key at position t.",
    "kappa": "How much of the mirror image of an eigenvalue the heads mix in, where eigenvalues come in pairs.",
    "QK, OV": "The two matrices of a head: what it asks for, x QK y^*, and what it writes, x OV.",
    "gauge": "A change of weights that changes no prediction. What is measured here does not depend on it.",
    "augmented token": "A token that holds s_t and its predecessor s_{t-1} side by side.",
    "gradient step": "One step of gradient descent on Σ_t |s_{t+1} - W s_t|^2 from W = 0, done by a layer in "
    "its forward pass.",
    "OLS": "Ordinary least squares: the W that fits the pairs seen best. It needs d + 1 tokens to be exact.",
    "diagonal OLS": "Least squares where the eigenvectors of W are known: one pair of tokens is enough.",
    "swap": "The estimate of one sequence is put into the forward pass of another. A model that uses it turns its "
    "prediction.",
    "ablation": "A head, a layer or a key is taken out; what the loss grows by is its cost.",
    "scrubbing": "All but what a hypothesis names is replaced by another sequence's. If the hypothesis is "
    "right, nothing is lost.",
    "ceiling": "The best score that an intervention can reach: the same one with a sequence of the same W.",
    "claim": "A statement of theory with a predicted number, a measured one with its interval, and a tolerance set "
    "beforehand.",
    "control": "The same measurement where the structure must be absent, such as an untrained model. It has to fail.",
    "holds": "The whole interval lies within the tolerance, and that of the control wholly outside.",
    "fails": "The interval lies wholly outside the tolerance.",
    "undecided": "An interval, or that of the control, reaches over a bound: more contexts are needed, or none "
    "would help.",
    "void": "The control agrees too, so that the measurement tells nothing.",
    "not a number": "The measurement divides nothing by nothing, for example where no error is left to recover.",
    "counting": "Layers, heads and sequences are counted from 0, as in the code; tokens, coordinates, rows and columns "
    "from 1, as in the papers.",
    "seed": "The number that fixes all that is random, so that the same command gives the same numbers.",
    "rounding": "A computer keeps about 16 digits. Differences below 2.2e-16 are as good as zero.",
}


def plain(text: str) -> str:
    """Text that Markdown leaves as it is; two hyphens that stand alone are code, since a dash is made of others."""
    escaped = re.sub(r"([\\`*_{}\[\]()<>#+!|$~:^-])", r"\\\1", text)
    return re.sub(r"(?<!\S)\\-\\-(?!\S)", "`--`", escaped)
