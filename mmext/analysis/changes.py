"""What changed between two runs on the same images: image by image. No torch."""

from dataclasses import dataclass

import numpy as np

from mmext.analysis.coco_ap import Matches, Truth, average_precision, mean_of

MOST_CHANGED = 10
# a detection that matches nothing counts as false from here on; a detector gives many of low score, which cost little AP
SURE = 0.5
# images that are left out one by one; of more the likeliest are
_LEFT_OUT = 500


@dataclass(frozen=True)
class ImageChange:
    """What an image has of both runs (first, second), all classes together, at an IoU of 0.5.

    ``objects``: to be found; ``found``: matched by a detection of any score; ``iou``: their mean IoU, None without any;
    ``false``: detections with a score of at least 0.5 that match none. ``effect``: what the difference of the APs (second −
    first) has of this image, that is by how much it falls when the image is left out.
    """

    image_id: object
    file: str
    objects: int
    found: tuple[int, int]
    iou: tuple[float | None, float | None]
    false: tuple[int, int]
    effect: float


def most_changed(
    first: Matches, second: Matches, truth: Truth, weights: np.ndarray, draws: np.ndarray, number: int = MOST_CHANGED
) -> list[ImageChange]:
    """The images that the difference of the APs has most of, in either direction, the largest effect first.

    Args:
        weights: (B, I) how many times each image was drawn; ``draws`` (B,) the difference of the APs then. Of more than 500
            images those are looked at whose weight goes with the difference most.
    """
    candidates = np.arange(first.images)
    if len(candidates) > _LEFT_OUT:
        there = np.isfinite(draws)
        together = (weights[there] - 1).T @ (draws[there] - draws[there].mean())
        candidates = np.sort(np.argsort(-np.abs(together), kind='stable')[:_LEFT_OUT])
    effects = left_out_effects(first, second, candidates)
    order = np.argsort(-np.abs(np.nan_to_num(effects)), kind='stable')
    ranked = [(int(candidates[i]), float(effects[i])) for i in order[:number] if np.isfinite(effects[i]) and effects[i]]
    return [image_change(first, second, truth, place, effect) for place, effect in ranked]


def left_out_effects(first: Matches, second: Matches, images: np.ndarray) -> np.ndarray:
    """By how much AP(second) − AP(first) falls when each of these images, by its place, is left out; NaN where that leaves
    no object."""
    weights = np.ones((len(images) + 1, first.images), np.int32)
    weights[np.arange(len(images)), images] = 0
    differences = mean_of(average_precision(second, weights, 1)[:, 0]) - mean_of(average_precision(first, weights, 1)[:, 0])
    return differences[-1] - differences[:-1]


def image_change(first: Matches, second: Matches, truth: Truth, place: int, effect: float) -> ImageChange:
    """Counts of both runs on the image at a place."""
    sides = [_counts(matches, place) for matches in (first, second)]
    objects = sum(int(one.positives[0, place]) for one in first.by_class)
    found, iou, false = zip(*sides, strict=True)
    return ImageChange(truth.image_ids[place], truth.files[place], objects, found, iou, false, effect)


def _counts(matches: Matches, place: int) -> tuple[int, float | None, int]:
    found, ious, false = 0, [], 0
    for one in matches.by_class:
        here = one.image == place
        hit = here & one.hit[0, 0]
        found += int(hit.sum())
        ious += one.iou[hit].tolist()
        false += int((here & ~one.hit[0, 0] & ~one.ignored[0, 0] & (one.score >= SURE)).sum())
    return found, float(np.mean(ious)) if ious else None, false
