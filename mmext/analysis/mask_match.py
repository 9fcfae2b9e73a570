"""Predicted masks against the ground truth's, pair by pair, on RLE. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

BOX_IOU = 0.5


@dataclass(frozen=True)
class Objects:
    """N instances of one image: ``boxes`` (N, 4) as x, y, width, height in pixels; ``rles``; ``labels``, ``scores`` (N,)."""

    boxes: np.ndarray
    rles: Sequence[dict]
    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Pair:
    """A matched pair: indices, IoU of the boxes, |prediction ∩ GT| / |prediction ∪ GT|, coverage |prediction ∩ GT| / |GT|,
    and area ratio |prediction| / |GT|. The last two are NaN when the ground truth has no pixel."""

    truth: int
    prediction: int
    box_iou: float
    mask_iou: float
    coverage: float
    area_ratio: float


def match(truth: Objects, prediction: Objects, box_iou: float = BOX_IOU) -> list[Pair]:
    """One-to-one pairs of the same class, best score first, each with the free object of highest box IoU.

    Args:
        truth: ground truth, without crowd regions.
        prediction: detections with scores.
        box_iou: least box IoU of a pair.

    Returns:
        The pairs; what is in none of them is a missed object or a false detection.
    """
    if not len(truth.labels) or not len(prediction.labels):
        return []
    overlaps = coco_mask.iou(prediction.boxes.astype(float), truth.boxes.astype(float), [0] * len(truth.labels))
    free = np.ones(len(truth.labels), bool)
    pairs = []
    for i in np.argsort(-prediction.scores, kind='stable'):
        candidates = np.where(free & (truth.labels == prediction.labels[i]), overlaps[i], -1)
        best = int(candidates.argmax())
        if candidates[best] < box_iou:
            continue
        free[best] = False
        iou = coco_mask.iou([prediction.rles[i]], [truth.rles[best]], [0])[0, 0]
        # against a crowd region pycocotools divides by the first one's area: turned round, that is the coverage
        area, predicted = (float(coco_mask.area(rle)) for rle in (truth.rles[best], prediction.rles[i]))
        covered = float(coco_mask.iou([truth.rles[best]], [prediction.rles[i]], [1])[0, 0]) if area else math.nan
        ratio = predicted / area if area else math.nan
        pairs.append(Pair(best, int(i), float(candidates[best]), float(iou), covered, ratio))
    return pairs


def union_iou(truth: Objects, prediction: Objects) -> float | None:
    """IoU of the best-scoring predicted mask with the union of all ground-truth masks; None without ground truth.

    S3's "mIoU". It is blind to all other instances: on an image with many objects it is low however good the masks are.
    """
    if not len(truth.labels):
        return None
    if not len(prediction.labels):
        return 0.0
    best = prediction.rles[int(prediction.scores.argmax())]
    return float(coco_mask.iou([best], [coco_mask.merge(list(truth.rles))], [0])[0, 0])
