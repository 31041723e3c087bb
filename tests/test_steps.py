"""How many gradient steps a model is worth: descent is worth its own steps, whatever hides in the mean is seen by T."""

import pytest
import torch
from cases import HAAR

from ar_interp import estimators
from ar_interp.probes.algorithm import step_sizes
from ar_interp.probes.steps import COUNTED, equivalent_steps_of

LENGTH, N = 12, 400
CONTEXTS = HAAR.contexts(N, LENGTH, seed=5)


class Predictor(torch.nn.Module):
    """An estimator as a model."""

    attention = "linear"
    process = HAAR

    def __init__(self, estimator):
        super().__init__()
        self.estimator = estimator

    def forward(self, tokens):
        return self.estimator(tokens)


def counted(estimator, **options):
    return equivalent_steps_of(Predictor(estimator), CONTEXTS, **options)


@pytest.mark.parametrize("per_pair", [False, True])
def test_descent_is_worth_its_own_steps_at_every_length(per_pair):
    size = dict(zip(COUNTED, step_sizes(HAAR, length=LENGTH, per_pair=per_pair, steps=COUNTED), strict=True))[6]
    found = counted(estimators.GradientDescent.of_steps(6, size, per_pair=per_pair), per_pair=per_pair)
    assert found.steps == pytest.approx(6)
    assert found.interval == pytest.approx((6, 6))
    assert found.least[0] == pytest.approx(6)
    assert found.largest[0] == pytest.approx(6)
    assert found.by_position["steps"].to_numpy() == pytest.approx(6)
    assert found.nearest == 6
    assert found.last[0] == pytest.approx(found.last[1])
    assert found.n == N


def test_predicting_zero_is_worth_no_step_and_least_squares_more_than_any_that_is_counted():
    assert counted(estimators.Zero()).steps == pytest.approx(0)
    found = counted(estimators.OLS())
    assert found.largest[0] == COUNTED[-1]
    assert found.least[0] == COUNTED[-1]


def test_junk_at_one_length_is_seen():
    size = step_sizes(HAAR, length=LENGTH, steps=(6,))[0]
    descent = estimators.GradientDescent.of_steps(6, size)

    def spoiled(tokens):
        predictions = descent(tokens).clone()
        predictions[:, 7] += 1
        return predictions

    found = counted(spoiled)
    assert found.least[0] == 0
    assert found.largest[0] == pytest.approx(6, rel=0.05)


def test_intervals_shrink_with_the_contexts():
    mixed = Predictor(lambda tokens: 0.8 * estimators.OLS()(tokens))
    few, many = (equivalent_steps_of(mixed, HAAR.contexts(n, LENGTH, seed=6)) for n in (100, 1600))
    widths = [high - low for low, high in (few.interval, many.interval)]
    assert widths[1] < 0.6 * widths[0]
    assert many.interval[0] <= many.steps <= many.interval[1]


def test_without_a_process_there_are_no_step_sizes():
    model = Predictor(estimators.Zero())
    model.process = None
    with pytest.raises(ValueError, match="process is needed to tune the step sizes"):
        equivalent_steps_of(model, CONTEXTS)
