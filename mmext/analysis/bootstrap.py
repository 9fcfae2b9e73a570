"""Whether a difference between two runs is noise: by the images they were validated on, by their seeds, by their folds.

- Images: paired bootstrap (Efron and Tibshirani 1993, chapter 16). Images are drawn with replacement, the same for both
  runs, and both APs are counted again with each image as many times as it was drawn.
- Seeds: paired t interval.
- Folds: corrected resampled t interval, as the training sets of folds overlap (Nadeau and Bengio 2003,
  doi:10.1023/A:1024068626366).

No torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from mmext.errors import InputError

LEVEL = 0.95
# how often a difference of the size named is to be found, where we say how many images or seeds that takes
POWER = 0.8
RESAMPLES = 1000
# fewer images get no verdict: the interval has been checked by simulation from here on (benchmarks/compare/simulation.py)
LEAST_IMAGES = 15
# beyond so many times as many images or seeds a difference is too small to ask for more
MOST_TIMES = 100
BETTER, WORSE, CANNOT_BE_TOLD = 'better', 'worse', 'cannot be told apart'
NOISES = {'images': 'image', 'seeds': 'seed', 'folds': 'fold'}


@dataclass(frozen=True)
class Difference:
    """The second run's value − the first's with its 95 % interval.

    ``error``: standard error; ``noise``: what it is sampled from, ``'images'``, ``'seeds'`` or ``'folds'``; ``number`` of
    these. ``needed``: how many would tell a difference of this size apart, in four of five cases; None where the interval
    tells already, and where more than a hundred times as many are needed. ``detectable``: the least difference that as many
    as there are tell.
    """

    value: float
    low: float
    high: float
    error: float
    noise: str
    number: int
    needed: int | None
    detectable: float

    @property
    def verdict(self) -> str:
        """``'better'``, ``'worse'`` or ``'cannot be told apart'``: of the second run."""
        if self.low > 0:
            return BETTER
        return WORSE if self.high < 0 else CANNOT_BE_TOLD


def resampled(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How many times each image is drawn: (resamples, images), each row with the sum ``images``."""
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return drawn.astype(np.int32)


def over_images(value: float, draws: np.ndarray, images: int, filled: int | None = None) -> Difference | None:
    """The difference of two runs by the images that they were validated on.

    The interval is the percentile one at a wider level, which is right for the mean of a small sample (Hesterberg 2015,
    arXiv:1411.5279, section 3.6): plain percentiles are too narrow there.

    Args:
        value: on all images.
        draws: (resamples,) differences on resampled images; NaN where a resample has no object of the kind.
        images: of the validation.
        filled: how many of them have an object of the kind; all when None.

    Returns:
        None where fewer than 15 images have an object, or more than a tenth of the draws are NaN.
    """
    filled = images if filled is None else filled
    there = draws[np.isfinite(draws)]
    if filled < LEAST_IMAGES or len(there) < 0.9 * len(draws) or not np.isfinite(value):
        return None
    stretch = math.sqrt(filled / (filled - 1))
    tail = _normal_share(-stretch * _t_quantile(LEVEL, filled - 1))
    low, high = np.quantile(there, [tail, 1 - tail])
    return _difference(value, float(low), float(high), stretch * float(there.std(ddof=1)), 'images', images)


def over_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean difference of two settings over seeds: a paired t interval.

    Args:
        first, second: a metric of both settings, in the same order of seeds.

    Raises:
        InputError: fewer than two, or not as many of the one as of the other.
    """
    return _paired(first, second, 'seeds', 0.0)


def over_folds(first: Sequence[float], second: Sequence[float], train: int, test: int) -> Difference:
    """The mean difference of two settings over folds: the corrected resampled t interval.

    Two folds share most of their training images, so their results are alike, and sd / √k would be too small: the variance
    of the mean is taken as (1 / k + test / train) sd².

    Args:
        first, second: a metric of both settings, in the same order of folds.
        train, test: images that a fold is trained and tested on.

    Raises:
        InputError: fewer than two folds, not as many of the one as of the other, or a fold without images.
    """
    if train < 1 or test < 1:
        raise InputError(f'A fold has {train} training and {test} test images; both must be at least 1.')
    return _paired(first, second, 'folds', test / train)


def _paired(first: Sequence[float], second: Sequence[float], noise: str, shared: float) -> Difference:
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            f'A comparison over {noise} needs as many values of both, at least 2; there are {len(first)} and {len(second)}.'
        )
    apart = np.subtract(second, first, dtype=float)
    if not np.isfinite(apart).all():
        raise InputError(f'A comparison over {noise} needs finite values; there are {list(first)} and {list(second)}.')
    count = len(apart)
    error = float(apart.std(ddof=1)) * math.sqrt(1 / count + shared)
    width = _t_quantile(LEVEL, count - 1) * error
    value = float(apart.mean())
    return _difference(value, value - width, value + width, error, noise, count, shared)


def _difference(
    value: float, low: float, high: float, error: float, noise: str, number: int, shared: float = 0.0
) -> Difference:
    needed = None if low > 0 or high < 0 else needed_for(value, error, number, shared)
    return Difference(value, low, high, error, noise, number, needed, least_detectable(error, number, shared))


def needed_for(value: float, error: float, number: int, shared: float = 0.0) -> int | None:
    """How many images, seeds or folds tell a true difference of this size apart in four of five comparisons.

    Args:
        value: the difference.
        error: its standard error with ``number`` of them.
        shared: of folds, test images ÷ training images: that part of the variance does not fall with their number.

    Returns:
        None where more than a hundred times ``number`` would be needed.
    """
    if error == 0:
        return number if value else None
    deviation = error / math.sqrt(1 / number + shared)

    def told(count: int) -> bool:
        return abs(value) >= _reach(count) * deviation * math.sqrt(1 / count + shared)

    least, most = 1, MOST_TIMES * number
    if not told(most):
        return None
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if told(middle) else (middle, most)
    return most


def least_detectable(error: float, number: int, shared: float = 0.0) -> float:
    """The least true difference that a comparison with this standard error finds in four of five cases."""
    return _reach(number) * error


def _reach(number: int) -> float:
    """Standard errors that a difference must have to be found with the power of 0.8."""
    return _t_quantile(LEVEL, number - 1) + _normal_quantile(POWER) if number > 1 else math.inf


@lru_cache(maxsize=4096)
def _t_quantile(level: float, freedom: int) -> float:
    """Half the width of a two-sided interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def _normal_quantile(share: float) -> float:
    return NormalDist().inv_cdf(share)


def _normal_share(value: float) -> float:
    return NormalDist().cdf(value)
