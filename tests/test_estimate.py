"""Estimates: intervals that hold the truth as often as they say, and know what they do not know."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from ar_interp.claims import Estimate

RNG = np.random.default_rng(0)
N_TIMES = 2000


def covered(estimates, truth) -> float:
    return float(np.mean([low <= truth <= high for low, high in (each.interval for each in estimates)]))


@pytest.mark.parametrize("n", [3, 8, 100])
def test_the_interval_of_a_mean_covers_it_in_95_of_100(n):
    found = [Estimate.mean(RNG.normal(2, 3, n)) for _ in range(N_TIMES)]
    assert covered(found, 2) == pytest.approx(0.95, abs=4 * (0.05 * 0.95 / N_TIMES) ** 0.5)


def test_the_interval_of_a_ratio_knows_that_both_were_measured_together():
    found = []
    for _ in range(N_TIMES):
        below = RNG.exponential(1, 400) + 1
        found.append(Estimate.ratio(3 * below + RNG.normal(0, 0.5, 400), below))
    assert covered(found, 3) == pytest.approx(0.95, abs=0.02)
    assert found[0].half_width < 0.05


def test_the_interval_of_the_largest_holds_for_all_at_once():
    """Ten deviations, of which the largest is .5: its interval holds it, and none of all exceeds the upper end."""
    truth, error = np.linspace(0.05, 0.5, 10), np.full(10, 0.02)
    found = [Estimate.largest(truth + RNG.normal(0, error), error, 100) for _ in range(N_TIMES)]
    assert covered(found, 0.5) > 0.94
    flat = [Estimate.largest(RNG.normal(0, error), error, 100) for _ in range(N_TIMES)]
    assert np.mean([each.interval[0] == 0 for each in flat]) == pytest.approx(0.95, abs=0.02)
    assert flat[0].interval[1] == pytest.approx(flat[0].value + norm.ppf(1 - 0.05 / 20) * 0.02)


def test_a_share_has_an_interval_even_where_nothing_was_seen():
    low, high = Estimate.share(0, 40).interval
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(0.0876, abs=1e-3)  # Wilson
    assert Estimate.share(0, 400).interval[1] < 0.01
    assert math.isnan(Estimate.share(0, 0).value)


def test_references_that_were_estimated_count():
    loss, reference = Estimate(2.0, {"contexts": 0.03}, 50), Estimate(4.0, {"contexts": 0.2}, 9)
    ratio = loss.over(reference)
    assert ratio.value == 0.5
    assert ratio.spread == pytest.approx({"contexts": 0.0075, "an estimated reference": 0.025})
    assert ratio.limited_by == "an estimated reference"
    assert loss.less(reference).half_width == pytest.approx((0.03**2 + 0.2**2) ** 0.5)
    assert loss.over(4.0).spread == {"contexts": 0.0075}


def test_functions_move_both_ends():
    found = Estimate(4.0, {"contexts": 1.0}, 7)
    assert found.root().interval == pytest.approx((3**0.5, 5**0.5))
    assert found.exp().interval == pytest.approx((np.exp(3), np.exp(5)))
    assert found.distance(4.5).interval == pytest.approx((0, 1.5))
    assert found.distance(9).interval == pytest.approx((4, 6))
    assert found.widened(2.0).half_width == pytest.approx(5**0.5)
    assert Estimate(1.0, {"a": 0.1}, 2, (0.8, 1.3)).widened(0.1).interval == pytest.approx((0.7, 1.4))


def test_what_cannot_be_measured_is_nan():
    assert np.isnan(Estimate.ratio(np.ones(3), np.zeros(3)).value)
    assert np.isnan(Estimate(1.0).over(0.0).value)
    assert Estimate.mean(np.ones(1)).half_width == float("inf")


def test_it_is_written_with_its_uncertainty():
    assert str(Estimate(1.23456, {"contexts": 0.0123})) == "1.235 ± 0.012"
    assert f"{Estimate(1.23456):.6g}" == "1.23456"
