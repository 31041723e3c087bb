"""How probes are fitted and scored: the split by sequence, ridge and logistic regression, the bootstrap.

scikit-learn is imported where a probe is fitted, so that all else opens without it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped
from threadpoolctl import ThreadpoolController

from ar_interp.seeds import narrowed

Features = Float[np.ndarray, "batch feature"]  # of one activation
Values = Shaped[np.ndarray, "batch value"]  # of one target; integers are classes
Counts = Integer[np.ndarray, "draw batch"]  # how often each test sequence is drawn
Scores = Float[np.ndarray, "draw"]  # of the test sequences, and of them drawn again

PENALTIES = np.logspace(-6, 2, 5)  # per sequence, of features scaled together: what is 1e-3 of the rest is not read
N_FOLDS = 3
MIN_SEQUENCES = 50
MIN_PER_CLASS = 8  # in the training part: all of them in one fold of three happens once in 2000
TEST_SHARE = 0.3
N_BOOTSTRAP = 200
INTERVAL = (0.025, 0.975)
SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which sequences a probe is trained and tested on.

    Attributes:
        train, test: indices of sequences.
        shuffled: `train` in another order: the sequences whose targets the control of that name is given.
        counts: how often each test sequence is drawn; the first row is each of them once, the others the bootstrap's.
    """

    train: Integer[np.ndarray, "train"]
    test: Integer[np.ndarray, "test"]
    shuffled: Integer[np.ndarray, "train"]
    counts: Integer[np.ndarray, "draw test"]

    @classmethod
    def of(cls, n: int, *, seed: int) -> "Split":
        """Seven tenths of n sequences to train on.

        Raises:
            ValueError: fewer than 50 sequences.
        """
        from sklearn.model_selection import train_test_split

        if n < MIN_SEQUENCES:
            raise ValueError(f"a regression probe needs at least {MIN_SEQUENCES} sequences to split, got {n}.")
        train, test = map(np.asarray, train_test_split(np.arange(n), test_size=TEST_SHARE, random_state=narrowed(seed)))
        draws = np.random.default_rng(seed).integers(len(test), size=(N_BOOTSTRAP, len(test)))
        counts = [np.ones_like(test), *(np.bincount(draw, minlength=len(test)) for draw in draws)]
        shuffled = np.random.default_rng(seed).permutation(train)
        return cls(train=train, test=test, shuffled=shuffled, counts=np.stack(counts))

    def rows_of_targets(self, source: str) -> Integer[np.ndarray, "train"]:
        """The sequences whose targets the probe of the model, or of the control so named, is trained on."""
        return self.shuffled if source == "shuffled" else self.train


def discrete(Y: Values) -> bool:
    """Integers are classes."""
    return Y.dtype.kind == "i"


def fit_probe(X: Features, Y: Values) -> Any:
    """Ridge regression, or a logistic regression per column of integers, with a penalty chosen within these rows.

    All features are divided by one number, their root mean square: scaled one by one, rounding errors would count as
    much as the signal, and could be read. One penalty for all columns, among PENALTIES per row: by leave-one-out for
    ridge, by the likelihood in three folds for logistic regression.

    Raises:
        ValueError: a class of which there are too few rows.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.multioutput import MultiOutputClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    if discrete(Y):
        for column in Y.T:
            sizes = np.sort(np.unique(column, return_counts=True)[1]).tolist()
            if len(sizes) < 2 or sizes[-2] < MIN_PER_CLASS:
                raise ValueError(
                    f"a discrete target needs two classes of at least {MIN_PER_CLASS} training sequences, got {sizes}: "
                    "sample more sequences."
                )
        estimator = GridSearchCV(
            MultiOutputClassifier(LogisticRegression(max_iter=10_000)),
            {"estimator__C": 1 / (PENALTIES * len(X))},
            scoring=lambda classifier, X, Y: log_probabilities(classifier, X, Y).mean(),
            cv=KFold(N_FOLDS, shuffle=True, random_state=0),
        )
    else:
        estimator = RidgeCV(PENALTIES * len(X), store_cv_results=True)
    scale = np.sqrt(np.mean(X**2)) or 1.0  # an activation that is zero holds nothing
    with threads().limit(limits=1, user_api="blas"):  # products are small: more threads would wait for each other
        return make_pipeline(FunctionTransformer(lambda X: X / scale), estimator).fit(X, Y)


@cache
def threads() -> ThreadpoolController:
    """Control over the libraries for linear algebra that are loaded by now, scikit-learn's among them."""
    return ThreadpoolController()


def penalty_of(probe: Any, n: int) -> float:
    """Penalty that a probe fitted to n rows has chosen, per row."""
    fitted = probe[-1]
    total = fitted.alpha_ if hasattr(fitted, "alpha_") else 1 / fitted.best_params_["estimator__C"]
    return float(total / n)


def log_probabilities(classifier: Any, X: Features, Y: Values) -> Float[np.ndarray, "batch value"]:
    """log_2 of the probability that each column's classifier gives to the class that came, at least -52."""
    columns = []
    for estimator, y in zip(classifier.estimators_, Y.T, strict=True):
        came = y[:, None] == estimator.classes_
        columns.append((estimator.predict_proba(X) * came).sum(1))
    return np.log2(np.stack(columns, axis=1).clip(min=SMALLEST))


def held_out(X: Features, Y: Values, split: Split, source: str) -> Scores:
    """`scores_of` a probe fitted to the training part."""
    probe = fit_probe(X[split.train], Y[split.rows_of_targets(source)])
    return scores_of(Y[split.test], probe.predict(X[split.test]), split.counts)


def scores_of(truth: Values, predicted: Shaped[np.ndarray, "batch *value"], counts: Counts) -> Scores:
    """R^2 of numbers or accuracy of integers, mean over the columns, for test sequences drawn so often.

    R^2 is scikit-learn's r2_score with sample weights; where a column does not vary, 1 if it is met and 0 if not.
    """
    predicted = predicted.reshape(truth.shape)
    if discrete(truth):
        return counts @ (truth == predicted).mean(1) / counts.sum(1)
    centred = truth - truth.mean(0)
    residual = counts @ (truth - predicted) ** 2
    total = counts @ centred**2 - (counts @ centred) ** 2 / counts.sum(1, keepdims=True)
    unexplained = np.divide(residual, total, out=(residual > 0).astype(float), where=total > 0)
    return (1 - unexplained).mean(1)


def interval(scores: Scores) -> tuple[float, float, float]:
    """The score, and its bootstrap 95 % interval around it.

    Resamples score less than the sample by their own bias, for R^2 (1 - R^2) / n: each is measured from its own mean.
    """
    low, high = scores[0] + np.quantile(scores[1:], INTERVAL) - scores[1:].mean()
    return float(scores[0]), float(low), float(high)
