"""Data that the page sends to the browser, typed; `assets/contract.js` has the same for JavaScript."""

from typing import TypedDict

VERSION = 1

Numbers = list[float]
Matrix = list[Numbers]


class Curve(TypedDict):
    """y over x; se is the standard error of a measurement, empty where y is exact."""

    x: Numbers
    y: Numbers
    se: Numbers


class Claim(TypedDict):
    """A claim as it was measured with the checkpoint, and its control; what JSON cannot hold is a text."""

    name: str
    statement: str
    predicted: float | str
    measured: float | str
    control: float | str
    verdict: str


class DiagonalModel(TypedDict):
    """The trained weights of diagonal heads: A, B [head dim] and P [query key], zero where it is not used."""

    name: str
    dim: int
    n_ctx: int
    A: Matrix
    B: Matrix
    P: Matrix


class Pairs(TypedDict):
    """Theory of the model of conjugate pairs, and the cost of removing a part of it.

    C, M, P: at kappa = 1 and the measured scale. cut_last, cut_previous: the error without the key s_T, s_{T-1}.
    cut_head: without each head. claims: by name.
    """

    model: DiagonalModel
    scale: float
    C: Matrix
    M: Matrix
    P: Matrix
    cut_last: float
    cut_previous: float
    cut_head: Numbers
    claims: dict[str, Claim]


class Swap(TypedDict):
    """The model whose estimate is moved, with the score of the swap and the largest of its controls."""

    model: DiagonalModel
    score: float
    controls: float
    n: int


class Watched(TypedDict):
    """One sequence at T = 1..n_ctx, seen by a stack of layers, by one gradient step and by least squares.

    Estimates are [pos dim * dim], eigenvalues [pos dim 2] (real and imaginary part), errors those of this sequence.
    """

    name: str
    dim: int
    n_layers: int
    W: Numbers
    W_eigenvalues: Matrix
    estimate: Matrix
    eigenvalues: list[Matrix]
    error: Numbers
    step_estimate: Matrix
    least_squares_estimate: Matrix


class Experiment(TypedDict):
    """A way to break a model: what theory predicts, and what the model did.

    ask: the x at which the visitor guesses. neutral: the x as trained. limit: what theory's curve
    tends to with long contexts, where it tends to something.
    """

    key: str
    model: str
    x_range: Numbers
    y_max: float
    ask: float
    neutral: float
    theory: Curve
    measured: Curve
    limit: float | None
    n: int


class Depth(TypedDict):
    """A stack of layers: its error at every T, the gradient steps with that error, and its claims."""

    name: str
    n_layers: int
    curve: Curve
    steps: float
    interval: Numbers
    verdicts: dict[str, int]
    not_held: list[Claim]


class Payload(TypedDict):
    """Data for the browser. memorised: the error of the W of another sequence; sources: SHA-256 of the files."""

    version: int
    sources: dict[str, str]
    pairs: Pairs
    swap: Swap
    memorised: float
    watched: Watched
    least_squares: Curve
    one_step: Curve
    experiments: list[Experiment]
    depth: list[Depth]
