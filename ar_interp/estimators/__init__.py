"""Estimators of W from a context: pairs (x_t, y_t) in; at every T an estimate from those before it and a prediction.

One signature: an estimator called on `contexts.pairs()` returns the predictions of y_T at every position T, and
`estimate(pairs)` the matrix that it applies to x_T, [batch pos out dim]. Tokens s_1..s_n [batch pos dim] stand for the
pairs (s_t, s_{t+1}), so that an estimator takes what a model of sequences takes. At T = 1 there is no pair to learn
from, and estimates from pairs are 0.

With S_T = sum_{t<T} x_t x_t^* and R_T = sum_{t<T} y_t x_t^*, the gradient of the least-squares loss
1/2 sum_{t<T} |y_t - W x_t|^2 at W is W S_T - R_T.

Those of `regression` answer with a function that is no matrix: from prompts alone, with the same call.

Those of `chains` are fitted on symbols: elimination over GF(2), which learns a parity, and counts of n-grams.

Where noise is known, in `noise`: the conditional means, which some of them reach by estimating the state too.
"""

from ar_interp.estimators.chains import NGrams as NGrams
from ar_interp.estimators.chains import ParityElimination as ParityElimination
from ar_interp.estimators.chains import eliminate as eliminate
from ar_interp.estimators.least_squares import OLS as OLS
from ar_interp.estimators.least_squares import DiagonalOLS as DiagonalOLS
from ar_interp.estimators.least_squares import Estimator as Estimator
from ar_interp.estimators.least_squares import GradientDescent as GradientDescent
from ar_interp.estimators.least_squares import Kaczmarz as Kaczmarz
from ar_interp.estimators.least_squares import LastToken as LastToken
from ar_interp.estimators.least_squares import NewtonSchulz as NewtonSchulz
from ar_interp.estimators.least_squares import Polynomial as Polynomial
from ar_interp.estimators.least_squares import PreviousToken as PreviousToken
from ar_interp.estimators.least_squares import Ridge as Ridge
from ar_interp.estimators.least_squares import Zero as Zero
from ar_interp.estimators.least_squares import apply as apply
from ar_interp.estimators.least_squares import tuned as tuned
from ar_interp.estimators.noise import HaarPlane as HaarPlane
from ar_interp.estimators.noise import Kalman as Kalman
from ar_interp.estimators.noise import PhaseGrid as PhaseGrid
from ar_interp.estimators.noise import Procrustes as Procrustes
from ar_interp.estimators.noise import VonMises as VonMises
from ar_interp.estimators.regression import Bayes as Bayes
from ar_interp.estimators.regression import KernelRidge as KernelRidge
from ar_interp.estimators.regression import Nearest as Nearest
from ar_interp.estimators.regression import TruncatedSeries as TruncatedSeries

__all__ = [name for name in vars() if name[0].isupper()] + ["apply", "eliminate", "tuned"]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return __all__
