"""Whether a curve falls, and how sure that is: robust slopes instead of the first value against the last. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# 97.5th percentile of the normal distribution: a two-sided interval of 95 %
_NORMAL = 1.96
# all pairs of points are looked at: more points are averaged down to so many
_MOST_POINTS = 200


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def slope(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Theil-Sen slope: the median over all pairs of points, with Sen's interval (1968, doi:10.1080/01621459.1968.10480934).

    Points that are not finite are left out. None with fewer than three points, or when all have the same x.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = _thinned(x[good]), _thinned(y[good])
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] - x[first]
    slopes = np.sort((y[second] - y[first])[apart != 0] / apart[apart != 0])
    n = len(x)
    if n < 3 or not len(slopes):
        return None
    # Kendall's statistic has this deviation when there is no trend; the interval's ends are slopes by their rank
    width = _NORMAL * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(round((len(slopes) - width) / 2) - 1, 0)
    high = min(round((len(slopes) + width) / 2), len(slopes) - 1)
    return Interval(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def _thinned(values: np.ndarray) -> np.ndarray:
    if len(values) <= _MOST_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, _MOST_POINTS)])


def change(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Factor by which positive values change from the first x to the last, by the slope of their logarithms."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y) & (y > 0)
    x, y = x[good], y[good]
    found = slope(x, np.log(y))
    if found is None:
        return None
    span = float(x.max() - x.min())
    return Interval(*(float(np.exp(np.clip(one * span, -50, 50))) for one in (found.value, found.low, found.high)))


def rise(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """By how much values change from the first x to the last, by their slope."""
    found = slope(x, y)
    if found is None:
        return None
    span = max(x) - min(x)
    return Interval(found.value * span, found.low * span, found.high * span)


def spikes(y: Sequence[float], factor: float, deviations: float, window: int = 7) -> list[int]:
    """Where single values stand out from those on both sides of them.

    Args:
        y: the values in their order; those that are not finite and above 0 are passed over.
        factor: how many times the median of the window around it a value must be.
        deviations: and how many standard deviations of the logarithms it must be above it (robust: 1.48 x median deviation).
        window: values that a median is of, an odd number.
    """
    y = np.asarray(y, float)
    places = np.flatnonzero(np.isfinite(y) & (y > 0))
    if len(places) < window:
        return []
    logs = np.log(y[places])
    half = window // 2
    around = np.lib.stride_tricks.sliding_window_view(logs, window)
    above = logs[half : half + len(around)] - np.median(around, axis=1)
    limit = max(math.log(factor), deviations * 1.4826 * float(np.median(np.abs(above))))
    return [int(place) for place, one in zip(places[half:], above, strict=False) if one > limit]
