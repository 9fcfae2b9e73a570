import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmext.analysis.bootstrap import (
    LEAST_IMAGES,
    least_detectable,
    needed_for,
    over_folds,
    over_images,
    over_seeds,
    resampled,
)
from mmext.errors import InputError

VALUES = st.floats(-1, 1).map(lambda value: round(value, 6))


def test_every_draw_has_as_many_images():
    weights = resampled(40, 200)
    assert weights.shape == (200, 40)
    assert (weights.sum(1) == 40).all()
    assert np.array_equal(weights, resampled(40, 200))
    assert not np.array_equal(weights, resampled(40, 200, seed=1))


@pytest.mark.parametrize('images', [15, 60, 200])
def test_of_a_mean_the_interval_is_that_of_t(images):
    """Of a mean the right answer is known; the resampled values of a plain percentile interval are too narrow."""
    values = np.random.default_rng(images).normal(0.02, 0.1, images)
    draws = resampled(images, 20_000) @ values / images
    found = over_images(values.mean(), draws, images)
    import scipy.stats

    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05 * width)
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(images), rel=0.03)
    plain = np.quantile(draws, 0.975) - np.quantile(draws, 0.025)
    assert plain < found.high - found.low


@pytest.mark.parametrize(('shift', 'verdict'), [(0.1, 'better'), (-0.1, 'worse'), (0.0, 'cannot be told apart')])
def test_the_verdict_is_of_the_second(shift, verdict):
    draws = np.random.default_rng(0).normal(shift, 0.02, 1000)
    found = over_images(shift, draws, 50)
    assert (found.verdict, found.noise, found.number) == (verdict, 'images', 50)
    assert found.needed is None  # told already, or no difference at all
    assert found.detectable == pytest.approx(2.87 * 0.02, rel=0.1)


def test_few_images_or_draws_give_no_verdict():
    draws = np.random.default_rng(0).normal(0.1, 0.02, 1000)
    assert over_images(0.1, draws, LEAST_IMAGES - 1) is None
    assert over_images(0.1, draws, 100, LEAST_IMAGES - 1) is None
    some = np.where(np.arange(1000) < 150, np.nan, draws)
    assert over_images(0.1, some, 100) is None
    some = np.where(np.arange(1000) < 50, np.nan, draws)
    assert over_images(0.1, some, 100).verdict == 'better'
    assert over_images(math.nan, draws, 100) is None


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=10))
def test_over_seeds_is_the_paired_t_test(pairs):
    import scipy.stats

    first, second = zip(*pairs, strict=True)
    found = over_seeds(first, second)
    apart = np.subtract(second, first)
    assert found.value == pytest.approx(apart.mean())
    if apart.std() > 1e-9:
        expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert (found.noise, found.number) == ('seeds', len(pairs))


def test_over_folds_takes_the_shared_training_images_into_account():
    first, second = [0.30, 0.32, 0.29, 0.35, 0.31], [0.33, 0.33, 0.33, 0.36, 0.35]
    plain, folds = over_seeds(first, second), over_folds(first, second, train=80, test=20)
    # Nadeau and Bengio 2003: 1/k + n_test/n_train = 0.2 + 0.25 instead of 1/k
    assert folds.error == pytest.approx(plain.error * math.sqrt(0.45 / 0.2))
    assert (plain.verdict, folds.verdict, folds.noise) == ('better', 'cannot be told apart', 'folds')


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(InputError, match='over seeds needs as many values of both, at least 2; there are 1 and 1'):
        over_seeds([0.1], [0.2])
    with pytest.raises(InputError, match='there are 3 and 2'):
        over_folds([0.1, 0.2, 0.3], [0.2, 0.3], 80, 20)
    with pytest.raises(InputError, match='80 training and 0 test images'):
        over_folds([0.1, 0.2], [0.2, 0.3], 80, 0)
    with pytest.raises(InputError, match='needs finite values'):
        over_seeds([0.1, math.nan], [0.2, 0.3])


def test_so_many_tell_a_difference_in_four_of_five_cases():
    """Against simulation: paired t tests of normal differences."""
    import scipy.stats

    deviation, value = 0.1, 0.03
    needed = needed_for(value, deviation / math.sqrt(20), 20)
    rng = np.random.default_rng(0)
    samples = rng.normal(value, deviation, (4000, needed))
    assert (scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)
    assert least_detectable(deviation / math.sqrt(needed), needed) == pytest.approx(value, rel=0.02)


@given(st.floats(1e-4, 1), st.floats(1e-4, 1), st.integers(2, 500))
def test_more_are_needed_for_less(value, error, number):
    needed, less = needed_for(value, error, number), needed_for(value / 2, error, number)
    assert needed == needed_for(-value, error, number)
    if less is not None:
        assert needed is not None
        assert needed <= less <= 100 * number
    if needed is not None and value < 1.9 * error:
        assert needed > number


def test_what_more_folds_cannot_tell_is_not_promised():
    # of k folds n_test/n_train of the variance stays, however many there are
    assert needed_for(0.01, 0.02, 5, shared=0.25) is None
    assert needed_for(0.0, 0.02, 5) is None
    assert needed_for(0.0, 0.0, 5) is None
