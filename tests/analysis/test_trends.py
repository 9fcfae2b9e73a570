import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmext.analysis.trends import change, rise, slope, spikes


@pytest.mark.parametrize('n', [3, 5, 8, 30])
def test_slope_and_interval_are_scipys(n):
    from scipy.stats import theilslopes

    generator = np.random.default_rng(n)
    x, y = np.cumsum(generator.uniform(1, 3, n)), generator.normal(size=n)
    found, expected = slope(x, y), theilslopes(y, x, alpha=0.95)
    assert (found.value, found.low, found.high) == pytest.approx((expected.slope, expected.low_slope, expected.high_slope))


def test_a_wild_value_at_the_end_does_not_turn_a_slope():
    x = np.arange(20.0)
    y = np.append(-0.1 * x[:-1], 50.0)
    assert slope(x, y).high < 0


def test_of_noise_the_interval_holds_zero_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    found = [slope(np.arange(15), generator.normal(size=15)) for _ in range(400)]
    held = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.92 <= held <= 0.99


def test_change_is_a_factor_over_the_span_and_rise_a_difference():
    x = np.array([10, 20, 30, 40])
    assert change(x, 0.8 * 0.5 ** ((x - 10) / 30)).value == pytest.approx(0.5)
    assert rise(x, 0.1 + 0.01 * x).value == pytest.approx(0.3)


def test_what_is_no_number_or_too_little_is_left_out():
    assert slope([1, 2], [1, 2]) is None
    assert slope([1, 1, 1], [1, 2, 3]) is None
    assert slope([0, 1, 2, 3], [0, math.nan, 2, 3]).value == pytest.approx(1)
    assert change([0, 1, 2, 3], [1, 0, -1, math.inf]) is None


def test_many_points_are_averaged_down():
    x = np.arange(20_000.0)
    assert slope(x, 3 * x).value == pytest.approx(3)


def test_spikes_stand_out_from_what_is_around_them():
    y = 1.0 / np.arange(1, 40)  # a steep fall is none
    assert spikes(y, 2, 6) == []
    y[20] *= 5
    assert spikes(y, 2, 6) == [20]
    assert spikes(np.ones(4), 2, 6) == []


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=30))
def test_any_numbers_give_an_interval_or_none(points):
    x, y = zip(*points, strict=True) if points else ((), ())
    with np.errstate(all='ignore'):
        for found in (slope(x, y), change(x, y)):
            assert found is None or found.low <= found.value <= found.high or math.isnan(found.value)
    spikes(y, 2, 6)
