"""What a lab reports, predicted against true: counts and measures of each class by image, and their agreement. No torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.coco_ap import Truth
from mmext.analysis.split_merge import Assigned, assign
from mmext.errors import InputError, raise_all

AREA, COUNT = 'area', 'count'
ALL = 'all classes'
# Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8: 95 % of normal differences are within so many deviations
LIMITS = 1.96
LEVEL = 0.95
# a prediction that lies in crowd regions by more than so much of its area is not counted
_IN_CROWD = 0.5


@dataclass(frozen=True)
class Measured:
    """N objects of one image: ``labels`` (N,) from 0; ``rles``, compressed; ``measures``: name to (N,) numbers such as
    ``length``, NaN where an object has none. ``crowd`` (N,) of the truth: regions in which nothing is counted.

    ``area`` is measured in pixels unless it is among the measures.
    """

    labels: np.ndarray
    rles: Sequence[dict]
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)
    crowd: np.ndarray | None = None


@dataclass(frozen=True)
class ImagePair:
    """One image: what is on it and what was found, each of which counts (the threshold was applied before)."""

    name: str
    truth: Measured
    found: Measured


@dataclass(frozen=True)
class Errors:
    """Counts of one class, in one image or in all: ``objects`` and ``predictions``; objects ``alone`` in one prediction of
    their own, ``split`` into ``pieces``, ``merged`` by ``merges`` predictions, ``missed``; ``false`` predictions."""

    objects: int
    predictions: int
    alone: int
    split: int
    pieces: int
    merged: int
    merges: int
    missed: int
    false: int


@dataclass(frozen=True)
class ImageRow:
    """One class, or all of them, in one image: ``true`` and ``found`` by quantity (``count``, ``total area``, ``mean area``
    and so on; a mean of nothing is None), and what became of the objects."""

    image: str
    name: str
    true: Mapping[str, float | None]
    found: Mapping[str, float | None]
    errors: Errors


@dataclass(frozen=True)
class Agreement:
    """How well one quantity of one class agrees over images (Bland and Altman 1986).

    ``images``: those where both have a value; ``true`` and ``found``: its mean over these images. ``bias``: mean of found −
    true with its 95 % interval ``bias_low`` to ``bias_high`` (Student's t); ``relative_bias``: bias ÷ mean of the true ones.
    ``deviation`` of the differences, and limits of agreement ``low`` to ``high``, bias ± 1.96 deviations: about 95 % of
    images are expected within. ``correlation``: Pearson's. None where there are too few images, or no spread.
    """

    name: str
    quantity: str
    images: int
    true: float | None
    found: float | None
    bias: float | None
    bias_low: float | None
    bias_high: float | None
    relative_bias: float | None
    deviation: float | None
    low: float | None
    high: float | None
    correlation: float | None


@dataclass(frozen=True)
class Report:
    """``images``: of each image a row for each class, and one for all of them where there are several; ``agreements`` and
    ``errors`` (by class name) of the same classes over the images."""

    images: tuple[ImageRow, ...]
    agreements: tuple[Agreement, ...]
    errors: Mapping[str, Errors]

    def to_rows(self) -> list[dict]:
        """A row for each class and quantity: numbers as they are, None where there is none."""
        return [{'class': one.name, **{k: v for k, v in vars(one).items() if k != 'name'}} for one in self.agreements]

    def error_rows(self) -> list[dict]:
        """A row for each class."""
        return [{'class': name, **vars(one)} for name, one in self.errors.items()]

    def image_rows(self) -> list[dict]:
        """A row for each image and class: ``true count``, ``predicted count`` and so on, and the errors."""
        rows = []
        for one in self.images:
            row = {'image': one.image, 'class': one.name}
            for quantity, value in one.true.items():
                row |= {f'true {quantity}': value, f'predicted {quantity}': one.found[quantity]}
            rows.append(row | {key: getattr(one.errors, key) for key in ('split', 'merges', 'missed', 'false')})
        return rows


def truth_of_image(truth: Truth, image_id: object) -> tuple[np.ndarray, list[dict], np.ndarray]:
    """Labels (N,), RLEs and crowd flags (N,) of one image of a ground truth, to measure them.

    Raises:
        InputError: some objects of the ground truth have no outline.
    """
    if not truth.outlined:
        raise InputError('Some objects of the annotation file have no outline, so there is nothing to measure or to match.')
    labels, rles, crowd = [], [], []
    for label, category in enumerate(truth.category_ids):
        objects = truth.objects.get((image_id, category))
        if objects is not None:
            labels += [label] * len(objects.rles)
            rles += objects.rles
            crowd += objects.crowd.tolist()
    return np.array(labels, np.int64), rles, np.array(crowd, bool)


# ---- the comparison


def compare(pairs: Sequence[ImagePair], class_names: Sequence[str]) -> Report:
    """Predicted against true, class by class and image by image.

    Splits and merges are those within a class. A prediction that lies in crowd regions of its class by more than half of its
    area, and is no object's pair, is not counted.

    Args:
        pairs: images, all with the same measures on both sides.
        class_names: in the order of the labels.

    Raises:
        InputError: labels, masks and measures are not equally many, a label has no class, or measures differ.
    """
    measures = _measures(pairs, len(class_names))
    rows = [row for pair in pairs for row in _rows_of(pair, class_names, measures)]
    names = [*class_names, ALL] if len(class_names) > 1 else list(class_names)
    by_name = {name: rows[place :: len(names)] for place, name in enumerate(names)}
    agreements = [
        agreement(name, quantity, [row.true[quantity] for row in own], [row.found[quantity] for row in own])
        for name, own in by_name.items()
        for quantity in _quantities(measures)
    ]
    errors = {name: _sum([row.errors for row in own]) for name, own in by_name.items()}
    return Report(tuple(rows), tuple(agreements), errors)


def _measures(pairs: Sequence[ImagePair], classes: int) -> list[str]:
    """Names of the measures, area first."""
    sides = [(f'{pair.name}, {side}', one) for pair in pairs for side, one in (('true', pair.truth), ('found', pair.found))]
    wanted = list(sides[0][1].measures) if sides else []
    mistakes = []
    for where, one in sides:
        counts = {'labels': len(one.labels), 'masks': len(one.rles)}
        counts |= {name: len(values) for name, values in one.measures.items()}
        counts |= {} if one.crowd is None else {'crowd': len(one.crowd)}
        if len(set(counts.values())) > 1:
            words = ', '.join(f'{number} {name}' for name, number in counts.items())
            mistakes.append(f'{where}: {words}; there must be one of each for an object.')
        elif len(one.labels) and not 0 <= min(one.labels) <= max(one.labels) < classes:
            mistakes.append(f'{where}: labels from {min(one.labels)} to {max(one.labels)}; there are {classes} classes.')
        if set(one.measures) != set(wanted):
            mistakes.append(f'{where}: measured are {sorted(one.measures)}, elsewhere {sorted(wanted)}. Measure the same.')
    raise_all(mistakes)
    return [AREA, *(name for name in wanted if name != AREA)]


def _quantities(measures: Sequence[str]) -> list[str]:
    return [COUNT, *(f'{kind} {name}' for name in measures for kind in ('total', 'mean'))]


def _rows_of(pair: ImagePair, class_names: Sequence[str], measures: Sequence[str]) -> Iterator[ImageRow]:
    truth, found = pair.truth, pair.found
    crowd = np.zeros(len(truth.labels), bool) if truth.crowd is None else np.asarray(truth.crowd, bool)
    counted, errors = np.zeros(len(found.labels), bool), []
    for label, name in enumerate(class_names):
        own = np.flatnonzero((truth.labels == label) & ~crowd)
        regions = [truth.rles[i] for i in np.flatnonzero((truth.labels == label) & crowd)]
        places = _outside(np.flatnonzero(found.labels == label), found.rles, regions, [truth.rles[i] for i in own])
        counted[places] = True
        errors.append(_errors(assign([truth.rles[i] for i in own], [found.rles[i] for i in places])))
        true = _values(truth, own, measures)
        yield ImageRow(pair.name, name, true, _values(found, places, measures), errors[-1])
    if len(class_names) > 1:
        true = _values(truth, np.flatnonzero(~crowd), measures)
        yield ImageRow(pair.name, ALL, true, _values(found, np.flatnonzero(counted), measures), _sum(errors))


def _outside(places: np.ndarray, rles: Sequence[dict], regions: Sequence[dict], objects: Sequence[dict]) -> np.ndarray:
    """The predictions at these places without those that lie in crowd regions and are no object's pair."""
    if not len(places) or not regions:
        return places
    found = [rles[i] for i in places]
    within = coco_mask.iou(found, [coco_mask.merge(list(regions))], [1])[:, 0] > _IN_CROWD
    within[list(assign(objects, found).pairs.values())] = False
    return places[~within]


def _values(measured: Measured, places: np.ndarray, measures: Sequence[str]) -> dict[str, float | None]:
    values: dict[str, float | None] = {COUNT: float(len(places))}
    for name in measures:
        if name in measured.measures:
            each = np.asarray(measured.measures[name], float)[places]
        else:  # one at a time: pycocotools 2.0.11 fails on more than 255
            each = np.array([float(coco_mask.area(measured.rles[i])) for i in places])
        there = each[~np.isnan(each)]
        values[f'total {name}'] = float(there.sum())
        values[f'mean {name}'] = float(there.mean()) if len(there) else None
    return values


def _errors(assigned: Assigned) -> Errors:
    return Errors(
        assigned.objects,
        assigned.predictions,
        len(assigned.alone),
        len(assigned.splits),
        sum(map(len, assigned.splits.values())),
        len({one for objects in assigned.merges.values() for one in objects}),
        len(assigned.merges),
        len(assigned.missed),
        len(assigned.false),
    )


def _sum(errors: Sequence[Errors]) -> Errors:
    return Errors(*(sum(getattr(one, name) for one in errors) for name in Errors.__dataclass_fields__))


def agreement(name: str, quantity: str, true: Sequence[float | None], found: Sequence[float | None]) -> Agreement:
    """Bias and limits of agreement of one quantity.

    Args:
        true, found: one value an image; an image in which either is None is left out.
    """
    both = [(one, other) for one, other in zip(true, found, strict=True) if one is not None and other is not None]
    if not both:
        return Agreement(name, quantity, 0, *[None] * 10)
    first, second = np.array(both, float).T
    apart, count = second - first, len(both)
    mean, bias = float(first.mean()), float(apart.mean())
    relative = bias / mean if mean else None
    if count < 2:
        return Agreement(name, quantity, 1, mean, float(second.mean()), bias, None, None, relative, *[None] * 4)
    from scipy.special import stdtrit

    deviation = float(apart.std(ddof=1))
    half = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * deviation / math.sqrt(count)
    spread = float(first.std() * second.std())
    correlation = float(np.mean((first - mean) * (second - second.mean())) / spread) if spread else None
    return Agreement(
        name,
        quantity,
        count,
        mean,
        float(second.mean()),
        bias,
        bias - half,
        bias + half,
        relative,
        deviation,
        bias - LIMITS * deviation,
        bias + LIMITS * deviation,
        correlation,
    )
