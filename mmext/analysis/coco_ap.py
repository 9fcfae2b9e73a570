"""COCO's average precision from matches that are kept by image, so that it can be had again for any weighting of the images.

Shapes: A areas (all, small, medium, large), T IoU thresholds (0.5, 0.55, ..., 0.95), I images, N detections of one class in
all images, B weightings. The numbers are pycocotools' (COCOeval), to rounding. No torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import to_rle
from mmext.analysis.predictions import Predictions
from mmext.data.coco_file import MEDIUM, SMALL, CocoFile, has_outline
from mmext.errors import InputError

# pycocotools' Params; arange would give thresholds a little above these
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {'all': (0, 1e10), 'small': (0, SMALL), 'medium': (SMALL, MEDIUM), 'large': (MEDIUM, 1e10)}
# what is reported: number of the area, and the IoU thresholds it is the mean over
NUMBERS: dict[str, tuple[int, slice]] = {
    'AP': (0, slice(None)),
    'AP50': (0, slice(0, 1)),
    'AP75': (0, slice(5, 6)),
    'AP small': (1, slice(None)),
    'AP medium': (2, slice(None)),
    'AP large': (3, slice(None)),
}
KINDS = {'bbox': 'box', 'segm': 'mask'}
# weights (B, N) that are worked on at a time: what the processor's cache holds
_BLOCK = 50_000


@dataclass(frozen=True)
class ClassMatches:
    """What the detections of one class have matched, best score first.

    ``image`` (N,): the image's place; ``score`` (N,); ``hit`` (A, T, N): matched an object; ``ignored`` (A, T, N): matched a
    crowd region or an object of another size, or none and is itself of another size; ``positives`` (A, I): objects to be
    found; ``iou`` (N,): with the object matched at the lowest threshold, 0 without one.
    """

    image: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray
    iou: np.ndarray


@dataclass(frozen=True)
class Matches:
    """The matches of a run: number of images, and those of each class in the order of ``classes``."""

    images: int
    classes: tuple[str, ...]
    by_class: tuple[ClassMatches, ...]


@dataclass(frozen=True)
class ClassTruth:
    """Ground truth of one class in one image: boxes (G, 4) as x, y, width, height, ``rles`` of their outlines (empty without
    any), areas (G,), crowd (G,), and annotation ids (G,)."""

    boxes: np.ndarray
    rles: Sequence[dict]
    areas: np.ndarray
    crowd: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class Truth:
    """Ground truth of a validation: image ids in ascending order, names of their files, classes and their category ids, what
    is in each (image id, category id), and whether every object has an outline."""

    image_ids: tuple
    files: tuple[str, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    objects: Mapping[tuple, ClassTruth]
    outlined: bool


def truth_of(coco: CocoFile, image_ids: Iterable, classes: Sequence[str]) -> Truth:
    """The ground truth of some images and classes of a COCO file. Categories are in the file's order, as in MMDetection.

    Raises:
        InputError: an image id or a class is not in the file.
    """
    images = {image['id']: image for image in coco.images}
    ids = sorted(set(image_ids))
    unknown = [one for one in ids if one not in images]
    if unknown:
        raise InputError(
            f'{coco.path}: image {unknown[0]!r}, which was validated, is not in it. Give the file of that time.'
        )
    missing = [name for name in classes if name not in coco.classes]
    if missing:
        raise InputError(
            f'{coco.path}: class {missing[0]!r}, which was validated, is not in it. Give the file of that time.'
        )
    categories = [category for category in coco.categories if category['name'] in classes]
    wanted, numbers = set(ids), {category['id'] for category in categories}
    chosen = [a for a in coco.annotations if a['image_id'] in wanted and a['category_id'] in numbers]
    outlined = all(has_outline(annotation.get('segmentation')) for annotation in chosen)
    groups: dict[tuple, list[dict]] = {}
    for annotation in chosen:
        groups.setdefault((annotation['image_id'], annotation['category_id']), []).append(annotation)
    return Truth(
        tuple(ids),
        tuple(images[one]['file_name'] for one in ids),
        tuple(category['name'] for category in categories),
        tuple(category['id'] for category in categories),
        {key: _class_truth(group, images[key[0]], outlined) for key, group in groups.items()},
        outlined,
    )


def _class_truth(annotations: Sequence[dict], image: dict, outlined: bool) -> ClassTruth:
    size = image['height'], image['width']
    return ClassTruth(
        np.array([annotation['bbox'] for annotation in annotations], float).reshape(-1, 4),
        [to_rle(annotation['segmentation'], *size) for annotation in annotations] if outlined else [],
        np.array([annotation['area'] for annotation in annotations], float),
        np.array([bool(annotation.get('iscrowd')) for annotation in annotations], bool),
        np.array([annotation['id'] for annotation in annotations]),
    )


def match_predictions(truth: Truth, predictions: Predictions, kind: str) -> Matches:
    """Match the predictions of a validation with the ground truth as COCOeval does, all of them.

    COCO's mAP stops at 100 detections of a class in an image. A model with MMDetection's ``max_per_img`` of 100 has no more;
    one whose limit was raised was to find more objects, and these count here.

    Args:
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        InputError: masks are asked for and there are none.
    """
    if kind == 'segm' and predictions.rles is None:
        raise InputError(f'{predictions.path}: there are no masks in it.')
    if kind == 'segm' and not truth.outlined:
        raise InputError('Some objects of the annotation file have no outline, so there is no mask AP.')
    scores = predictions.mask_scores if kind == 'segm' else predictions.scores
    areas = predictions.boxes[:, 2] * predictions.boxes[:, 3]
    if kind == 'segm':  # one at a time: pycocotools 2.0.11 fails on more than 255
        areas = np.array([float(coco_mask.area(rle)) for rle in predictions.rles])
    ranges = {image_id: (first, last) for image_id, first, last in reversed(list(predictions.ranges()))}
    absent = [image_id for image_id in truth.image_ids if image_id not in ranges]
    if absent:
        raise InputError(f'{predictions.path}: image {absent[0]!r} is not in it.')
    parts: list[list[tuple]] = [[] for _ in truth.classes]
    positives = np.zeros((len(truth.classes), len(AREAS), len(truth.image_ids)), np.int32)
    nothing = _class_truth([], {'height': 0, 'width': 0}, True)
    for place, image_id in enumerate(truth.image_ids):
        first, last = ranges[image_id]
        labels = predictions.labels[first:last]
        for number, category in enumerate(truth.category_ids):
            objects = truth.objects.get((image_id, category), nothing)
            found = first + np.flatnonzero(labels == number)
            found = found[np.argsort(-scores[found], kind='stable')]
            ious = _overlaps(objects, predictions, found, kind)
            hit, ignored, iou, counted = match_class(ious, objects.areas, objects.crowd, areas[found], objects.ids == 0)
            parts[number].append((np.full(len(found), place), scores[found], hit, ignored, iou))
            positives[number, :, place] = counted
    joined = [join_images(part, positives[number]) for number, part in enumerate(parts)]
    return Matches(len(truth.image_ids), truth.classes, tuple(joined))


def _overlaps(objects: ClassTruth, predictions: Predictions, found: np.ndarray, kind: str) -> np.ndarray:
    if not len(found) or not len(objects.ids):
        return np.zeros((len(found), len(objects.ids)))
    if kind == 'segm':
        return coco_mask.iou([predictions.rles[i] for i in found], list(objects.rles), objects.crowd.tolist())
    return coco_mask.iou(predictions.boxes[found], objects.boxes, objects.crowd.tolist())


def match_class(
    ious: np.ndarray, areas: np.ndarray, crowd: np.ndarray, detected_areas: np.ndarray, nameless: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """COCOeval's greedy matching of one class in one image, for all areas and thresholds at once.

    Each detection takes the free object of highest IoU, the last one of several; an object that is ignored (crowd, or of
    another size) only where there is no other. A crowd region may be taken by many.

    Args:
        ious: (D, G), detections in descending order of score.
        areas: (G,) and ``crowd`` (G,) of the objects; ``detected_areas`` (D,).
        nameless: (G,) objects whose annotation has the id 0; pycocotools takes a detection that has matched one for a miss.

    Returns:
        hit (A, T, D), ignored (A, T, D), IoU with the object matched at the lowest threshold (D,), and objects to be found
        in each area (A,).
    """
    ranges = np.array(list(AREAS.values()))
    apart = crowd | (areas < ranges[:, :1]) | (areas > ranges[:, 1:])
    shape = (len(ranges), len(IOU_THRESHOLDS), len(detected_areas))
    hit, ignored, iou = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(len(detected_areas))
    limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    free = np.ones((*shape[:2], len(areas)), bool)
    for i in np.flatnonzero((ious >= limits[0]).any(1)) if len(areas) else ():
        # turned round: argmax then finds the last of equal ones
        near = np.flatnonzero(ious[i] >= limits[0])[::-1]
        able = (ious[i, near] >= limits[:, None]) & (free[:, :, near] | crowd[near])
        wanted = able & ~apart[:, None, near]
        wanted |= able & ~wanted.any(2, keepdims=True)
        found = wanted.any(2)
        places = near[np.where(wanted, ious[i, near], -1).argmax(2)]
        area, level = np.nonzero(found)
        free[area, level, places[found]] = False
        off = apart[area, places[found]]
        named = ~nameless[places[found]] if nameless is not None else True
        hit[area, level, i], ignored[area, level, i] = ~off & named, off
        iou[i] = ious[i, places[0, 0]] if hit[0, 0, i] else 0
    outside = (detected_areas < ranges[:, :1]) | (detected_areas > ranges[:, 1:])
    ignored |= ~hit & outside[:, None]
    return hit, ignored, iou, (~apart).sum(1)


def join_images(parts: Sequence[tuple], positives: np.ndarray) -> ClassMatches:
    """Matches of one class in all images, in COCOeval's order: by score, equal ones in the order of images and detections.

    Args:
        parts: for each image in its order: place of the image (N,), score (N,), hit, ignored (A, T, N), IoU (N,).
        positives: (A, I).
    """
    image, score, hit, ignored, iou = (np.concatenate(column, axis=-1) for column in zip(*parts, strict=True))
    order = np.argsort(-score, kind='stable')
    return ClassMatches(image[order], score[order], hit[..., order], ignored[..., order], positives, iou[order])


def average_precision(matches: Matches, weights: np.ndarray | None = None, areas: int = len(AREAS)) -> np.ndarray:
    """Average precision of each class at each area and IoU threshold, for weightings of the images.

    Args:
        weights: (B, I) whole numbers: how many times each image counts; every image once when None.
        areas: how many of the areas to look at; the others are NaN.

    Returns:
        (B, A, T, classes); NaN without an object to be found, where COCOeval has -1.
    """
    if weights is None:
        weights = np.ones((1, matches.images), np.int32)
    weights = np.asarray(weights).astype(np.int32, casting='same_kind')
    result = np.full((len(weights), len(AREAS), len(IOU_THRESHOLDS), len(matches.by_class)), np.nan)
    for number, found in enumerate(matches.by_class):
        rows = max(1, _BLOCK // max(len(found.image), 1))
        for first in range(0, len(weights), rows):
            block = weights[first : first + rows]
            drawn = np.take(block, found.image, axis=1)
            for area in range(areas):
                positives = block @ found.positives[area]
                some = positives > 0
                if some.any():
                    levels = _levels(drawn[some], positives[some], found.hit[area], found.ignored[area])
                    result[first : first + rows, area, :, number][some] = levels
    return result


def _levels(drawn: np.ndarray, positives: np.ndarray, hit: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Average precision (B, T) of one class and area.

    Args:
        drawn: (B, N) weights of the detections' images; ``positives`` (B,); ``hit``, ``ignored`` (T, N).
    """
    rows, most = len(drawn), int(positives.max()) + 1
    # place of a row's first entry in the table, of how many recalls each number of found objects reaches
    lift = np.arange(rows)[:, None] * most
    counts = np.bincount((_hits_wanted(positives) + lift).ravel(), minlength=rows * most)
    recalls_reached = counts.reshape(rows, most).cumsum(1).ravel()
    level, ranks = np.zeros((rows, len(hit))), None
    for i in range(len(hit)):
        # precision is highest where an object is found, so these places say all
        places = np.flatnonzero(hit[i])
        if not len(places):
            continue
        if ranks is None or (ignored[i] != ignored[i - 1]).any():  # mostly the same at all thresholds
            ranks = np.multiply(drawn, ~ignored[i]).cumsum(1, dtype=np.int32)
        hits = np.take(drawn, places, axis=1).cumsum(1, dtype=np.int64)
        precision = hits / (np.take(ranks, places, axis=1) + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        hits += lift
        reached = np.diff(np.take(recalls_reached, hits), axis=1, prepend=0)
        level[:, i] = np.einsum('bn,bn->b', envelope, reached) / len(RECALLS)
    return level


def _hits_wanted(positives: np.ndarray) -> np.ndarray:
    """Least number of found objects (B, 101) that is each of the recalls, in the rounding of pycocotools."""
    least = np.ceil(RECALLS * positives[:, None]).astype(np.int64)
    least -= (least - 1) / positives[:, None] >= RECALLS
    least += least / positives[:, None] < RECALLS
    return least.clip(0)


def numbers(precision: np.ndarray) -> dict[str, np.ndarray]:
    """COCO's numbers (B,) by name, means over classes and thresholds; NaN where there is no object to be found.

    Args:
        precision: (B, A, T, classes) of :func:`average_precision`.
    """
    return {name: mean_of(precision[:, area, levels]) for name, (area, levels) in NUMBERS.items()}


def mean_of(precision: np.ndarray) -> np.ndarray:
    """Mean (B,) over all but the first axis, of what is not NaN."""
    flat = precision.reshape(len(precision), -1)
    there = ~np.isnan(flat)
    count = there.sum(1)
    return np.where(count > 0, np.where(there, flat, 0).sum(1) / np.maximum(count, 1), np.nan)
