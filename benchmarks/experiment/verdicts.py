"""The statistics of the experiment, and what counts as support and as refutation: docs/experiment.md in code. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from mmext.errors import InputError

ALPHA = 0.05
# H0, H1 and H2 have a primary outcome each
LEVEL = 1 - ALPHA / 3
# H0: boxes are good from this share of the cell's best box AP on, masks small below this coverage; with an area ratio below
# the third they are called small, else ragged
GOOD_BOXES, SMALL_COVERAGE, SMALL_AREA = 0.9, 0.6, 0.8
# H1: least difference in mask AP for which a recipe is worth changing
MARGIN = 0.02
# H2: this share of the gain
HALF = 0.5
# a run is good from this share of its cell's best mean mask AP on
GOOD_RUN = 0.9
# S4: the mask loss below 20 % of the total is undertrained, above 50 % it struggles
LOW_SHARE, HIGH_SHARE = 0.2, 0.5
# so close to another setting's final mask AP two settings meet
MEETS = 0.01
SUPPORTED, REFUTED, UNDECIDED = 'supported', 'refuted', 'undecided'


@dataclass(frozen=True)
class Interval:
    """Mean of ``number`` values with its t interval, and the two-sided ``p`` of a mean of 0."""

    value: float
    low: float
    high: float
    p: float
    number: int


def interval(numbers: Sequence[float], level: float = 1 - ALPHA) -> Interval:
    """Student's t interval of a mean.

    Raises:
        InputError: fewer than two values.
    """
    if len(numbers) < 2:
        raise InputError(f'An interval takes two values at least; there are {len(numbers)}.')
    from scipy import stats

    value = float(np.mean(numbers))
    if np.ptp(numbers) < 1e-12:  # scipy finds a spread in what rounding leaves
        return Interval(value, value, value, float(value == 0), len(numbers))
    test = stats.ttest_1samp(numbers, 0.0)
    bounds = test.confidence_interval(level)
    return Interval(value, float(bounds.low), float(bounds.high), float(test.pvalue), len(numbers))


def paired(first: Mapping[int, float], second: Mapping[int, float], level: float = 1 - ALPHA) -> Interval | None:
    """Second − first over the seeds that both have; None of fewer than two."""
    seeds = sorted(first.keys() & second.keys())
    return interval([second[seed] - first[seed] for seed in seeds], level) if len(seeds) > 1 else None


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979), in the same order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


@dataclass(frozen=True)
class Symptom:
    """H0 for one setting. ``share``: of the cell's best box AP; ``coverage``: with its interval, None of fewer than two
    runs with matched objects."""

    setting: str
    box_ap: float
    share: float
    coverage: Interval | None
    area_ratio: float | None

    @property
    def has_good_boxes(self) -> bool:
        return self.share >= GOOD_BOXES

    @property
    def masks(self) -> str:
        """What its masks are, by their means."""
        if self.coverage is None or self.area_ratio is None:
            return '-'
        if self.coverage.value >= SMALL_COVERAGE:
            return 'cover'
        return 'small' if self.area_ratio < SMALL_AREA else 'ragged'


def symptoms(box_ap: Mapping[str, Sequence[float]], coverage: Mapping, area_ratio: Mapping) -> list[Symptom]:
    """H0 in one cell.

    Args:
        box_ap, coverage, area_ratio: by setting, a value for each seed.
    """
    best = max(map(mean, box_ap.values()), default=0.0)
    level = 1 - (1 - LEVEL) / max(1, len(box_ap))  # one interval for each setting
    return [
        Symptom(
            name,
            mean(found),
            mean(found) / best if best else 0.0,
            interval(coverage[name], level) if len(coverage.get(name, ())) > 1 else None,
            mean(area_ratio[name]) if area_ratio.get(name) else None,
        )
        for name, found in box_ap.items()
    ]


def verdict_h0(found: Sequence[Symptom]) -> str:
    """Is there a setting with good boxes and small masks?"""
    good = [one for one in found if one.has_good_boxes]
    if any(one.coverage and one.coverage.high < SMALL_COVERAGE and one.masks == 'small' for one in good):
        return SUPPORTED
    return REFUTED if good and all(one.coverage and one.coverage.low >= SMALL_COVERAGE for one in good) else UNDECIDED


def verdict_h1(difference: Interval | None) -> str:
    """Is differential better than the best uniform rate? ``difference``: in mask AP, at LEVEL."""
    if difference is None:
        return UNDECIDED
    if difference.low > 0 and difference.value >= MARGIN:
        return SUPPORTED
    return REFUTED if difference.high < MARGIN else UNDECIDED


@dataclass(frozen=True)
class FreshShare:
    """H2. ``gain``: of 10x over uniform-low; ``share`` of it that fresh-10x has, None where there is no gain; ``contrast``:
    fresh − low − half of the gain, at LEVEL."""

    gain: Interval
    share: float | None
    contrast: Interval


def fresh_share(low: Mapping[int, float], fresh: Mapping[int, float], ten: Mapping[int, float]) -> FreshShare | None:
    """How much of the gain comes from the fresh tensors alone, in mask AP by seed; None of fewer than two seeds."""
    seeds = sorted(low.keys() & fresh.keys() & ten.keys())
    if len(seeds) < 2:
        return None
    gain = interval([ten[seed] - low[seed] for seed in seeds], LEVEL)
    alone = [fresh[seed] - low[seed] for seed in seeds]
    contrast = interval([one - HALF * (ten[seed] - low[seed]) for one, seed in zip(alone, seeds, strict=True)], LEVEL)
    return FreshShare(gain, float(np.mean(alone)) / gain.value if gain.low > 0 else None, contrast)


def verdict_h2(found: FreshShare | None) -> str:
    """Does at least half of the gain come from the fresh tensors alone? Without a gain there is nothing to share."""
    if found is None or found.gain.low <= 0:
        return UNDECIDED
    if found.contrast.low > 0:
        return SUPPORTED
    return REFUTED if found.contrast.high < 0 else UNDECIDED


def meeting(curve: Mapping[int, float], final: float) -> int | None:
    """First iteration of a curve at which it is within MEETS of a final value; None where it does not come to that."""
    return next((iteration for iteration, value in sorted(curve.items()) if value >= final - MEETS), None)


@dataclass(frozen=True)
class Roc:
    """A threshold's worth: ``false_alarms`` and ``found`` (shares of good and of bad runs that it names) at every threshold;
    ``area`` under that curve; the same two ``at`` the threshold of the source."""

    false_alarms: tuple[float, ...]
    found: tuple[float, ...]
    area: float
    at: tuple[float, float]


def roc(shares: Sequence[float], bad: Sequence[bool], threshold: float, is_bad_below: bool) -> Roc | None:
    """How well a threshold on the mask loss's share tells bad runs from good ones; None unless there are both.

    Args:
        shares: a number a run; bad: what it is.
        threshold: of the source.
        is_bad_below: whether runs below it are called bad, or those above it.
    """
    if len(shares) != len(bad):
        raise InputError(f'There are {len(shares)} shares and {len(bad)} judgements; each run needs both.')
    shares, bad = np.asarray(shares, float), np.asarray(bad, bool)
    if not bad.any() or bad.all():
        return None
    from sklearn.metrics import auc, roc_curve

    false_alarms, found, _ = roc_curve(bad, -shares if is_bad_below else shares, drop_intermediate=False)
    named = shares < threshold if is_bad_below else shares > threshold
    at = float(named[~bad].mean()), float(named[bad].mean())
    return Roc(tuple(false_alarms.tolist()), tuple(found.tolist()), float(auc(false_alarms, found)), at)


def is_bad(mask_ap: float | None, best: float) -> bool:
    """Whether a run is not good, by its cell's best mean mask AP."""
    return mask_ap is None or math.isnan(mask_ap) or mask_ap < GOOD_RUN * best
