"""Predicted masks against the ground truth's, pair by pair, on RLE. No torch."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import draw_pairs

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
    pairs = pair_up(truth, prediction, box_iou)
    drawn = draw_pairs([truth.rles[i] for i, _, _ in pairs], [prediction.rles[j] for _, j, _ in pairs])
    return [compare_masks(pair, mask, found) for pair, (mask, found, _) in zip(pairs, drawn, strict=True)]


def pair_up(truth: Objects, prediction: Objects, box_iou: float = BOX_IOU) -> list[tuple[int, int, float]]:
    """What ``match`` finds by the boxes: of each pair the places of object and detection, and the IoU of their boxes."""
    if not len(truth.labels) or not len(prediction.labels):
        return []
    overlaps = coco_mask.iou(prediction.boxes.astype(float), truth.boxes.astype(float), [0] * len(truth.labels))
    possible = (overlaps >= box_iou) & (prediction.labels[:, None] == truth.labels)
    overlaps[~possible] = -1
    order = np.argsort(-prediction.scores, kind='stable')
    pairs = []
    for j in order[possible.any(1)[order]].tolist():
        i = int(overlaps[j].argmax())
        best = float(overlaps[j, i])
        if best >= box_iou:
            pairs.append((i, j, best))
            overlaps[:, i] = -1  # no longer free
    return pairs


def compare_masks(pair: tuple[int, int, float], truth: int, prediction: int) -> Pair:
    """What the masks of a pair say.

    Args:
        pair: of ``pair_up``.
        truth, prediction: its masks, as ``draw_pairs`` gives them.
    """
    shared, area, predicted = (truth & prediction).bit_count(), truth.bit_count(), prediction.bit_count()
    ratios = (shared / area, predicted / area) if area else (math.nan, math.nan)
    return Pair(*pair, shared / max(area + predicted - shared, 1), *ratios)


def union_ious(truth: Objects, prediction: Objects) -> dict[int | None, float]:
    """IoU of the best-scoring predicted mask with the union of all ground-truth masks: of each class that has some, by its
    label, and of all classes together, None.

    S3's "mIoU". It is blind to all other instances: on an image with many objects it is low however good the masks are.
    """
    if not len(truth.labels):
        return {}
    masks = defaultdict(list)
    for label, rle in zip(truth.labels.tolist(), truth.rles, strict=True):
        masks[label].append(rle)
    unions = {label: coco_mask.merge(rles) for label, rles in masks.items()}
    unions[None] = coco_mask.merge(list(unions.values()))
    order = np.argsort(-prediction.scores, kind='stable')[::-1]
    best = dict(zip(prediction.labels[order].tolist(), order.tolist(), strict=True))  # of each class the last one stays
    if len(order):
        best[None] = int(order[-1])
    return {
        label: float(coco_mask.iou([prediction.rles[best[label]]], [union], [0])[0, 0]) if label in best else 0.0
        for label, union in unions.items()
    }
