"""What a part's ground truth looks like: its masks against image edges, against their boxes, and against each other."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_match import Objects
from mmext.probe.annotation import GROWTHS, OFFSETS
from mmext.probe.edges import outline_steepness
from mmext.probe.views import View

SAME_OBJECT = 0.9  # mask IoU, as in mmext check
ELSEWHERE = 0.5  # box IoU: what COCO counts as another object
_OUTLINES = 8  # of an image, at most: those of one image are alike
_PIXELS = 4_000_000  # of an image's outlines, at most: about a second


@dataclass(frozen=True)
class Truth:
    """Masks of N objects of a part: ``train``, ``val``, or ``train view`` as the training's pipeline gives them.

    ``images`` (N,) the image of each; ``boxes`` as annotated and ``mask_boxes`` those of the masks' pixels, (N, 4) x1 y1 x2
    y2; ``covered`` (N,) the largest share that a mask has in common with another one, of the smaller of both; ``twin`` (N,)
    whether nearly the same pixels belong to an object of another class. ``moved`` (M, 81) and ``grown`` (M, 7): steepness
    of the image along M outlines (mmext.probe.edges), ``steps`` (M,) their step in pixels, ``outline_images`` (M,).
    ``left`` and ``before`` (V,): objects of each image looked at, after and before its pipeline; NaN where that cannot be
    told.
    """

    name: str
    images: np.ndarray
    boxes: np.ndarray
    mask_boxes: np.ndarray
    covered: np.ndarray
    twin: np.ndarray
    outline_images: np.ndarray
    moved: np.ndarray
    grown: np.ndarray
    steps: np.ndarray
    left: np.ndarray
    before: np.ndarray


def read_truth(name: str, views: Iterable[View], seed: int, progress: Callable[[int], None] | None = None) -> Truth:
    """Measure the ground truth of some images.

    Args:
        name: of the part.
        views: its images; those of one place count as one image.
        seed: of the outlines that are looked at.
        progress: called with the number of images done.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ('images', 'boxes', 'mask_boxes', 'covered', 'twin', 'left', 'before')}
    outlines, outline_images = [], []
    for number, view in enumerate(views):
        truth = _with_pixels(view.truth)
        columns['left'].append(len(truth.rles))
        columns['before'].append(np.nan if view.before is None else view.before)
        if truth.rles:
            covered, twin = overlaps(truth)
            columns['images'] += [view.place] * len(truth.rles)
            columns['boxes'].append(_corners(truth.boxes))
            columns['mask_boxes'].append(_corners(coco_mask.toBbox(truth.rles)))
            columns['covered'].append(covered)
            columns['twin'].append(twin)
            found = _outlines(view.image, truth, rng)
            outlines += found
            outline_images += [view.place] * len(found)
        if progress:
            progress(number + 1)
    wide = {'boxes': 4, 'mask_boxes': 4}
    joined = {
        key: np.concatenate([np.zeros((0, wide[key]) if key in wide else 0), *columns[key]])
        for key in ('boxes', 'mask_boxes', 'covered', 'twin')
    }
    return Truth(
        name,
        np.array(columns['images'], int),
        **joined,
        outline_images=np.array(outline_images, int),
        moved=np.array([one.moved for one in outlines]).reshape(-1, len(OFFSETS)),
        grown=np.array([one.grown for one in outlines]).reshape(-1, len(GROWTHS)),
        steps=np.array([one.step for one in outlines], float),
        left=np.array(columns['left'], float),
        before=np.array(columns['before'], float),
    )


def overlaps(truth: Objects) -> tuple[np.ndarray, np.ndarray]:
    """``covered`` and ``twin`` of Truth, of the N objects of one image."""
    areas = np.array([float(coco_mask.area(rle)) for rle in truth.rles])
    ious = coco_mask.iou(list(truth.rles), list(truth.rles), [0] * len(areas))
    np.fill_diagonal(ious, 0)
    common = ious * (areas[:, None] + areas) / (1 + ious)
    twin = ((ious >= SAME_OBJECT) & (truth.labels[:, None] != truth.labels)).any(1)
    return (common / np.minimum(areas[:, None], areas)).max(1), twin


def of_others(truth: Truth, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which masks lie elsewhere than their boxes.

    Args:
        truth: of a part.
        shift: (2,) pixels by which all its masks are moved, which is another fault.

    Returns:
        (N,) whether a mask's own box has an IoU under ELSEWHERE with the annotated one; whether one of another object fits
        it better; whether most of it lies outside of the annotated one.
    """
    apart, fits_other = np.zeros(len(truth.images), bool), np.zeros(len(truth.images), bool)
    mask_boxes = truth.mask_boxes - np.tile(shift, 2)
    for image in np.unique(truth.images):
        mine = np.flatnonzero(truth.images == image)
        ious = box_ious(mask_boxes[mine], truth.boxes[mine])
        own = np.diag(ious).copy()
        apart[mine] = own < ELSEWHERE
        fits_other[mine] = ious.max(1) > np.maximum(own, ELSEWHERE)
    common = np.minimum(mask_boxes[:, 2:], truth.boxes[:, 2:]) - np.maximum(mask_boxes[:, :2], truth.boxes[:, :2])
    area = (mask_boxes[:, 2:] - mask_boxes[:, :2]).prod(1)
    return apart, fits_other, common.clip(0).prod(1) < ELSEWHERE * area


def box_ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) IoUs of boxes (N, 4) and (M, 4), x1 y1 x2 y2."""
    sides = (np.minimum(one[:, None, 2:], other[:, 2:]) - np.maximum(one[:, None, :2], other[:, :2])).clip(0)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    common = sides.prod(2)
    return common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-9)


def _with_pixels(truth: Objects) -> Objects:
    kept = [i for i, rle in enumerate(truth.rles) if coco_mask.area(rle)]
    return Objects(truth.boxes[kept], [truth.rles[i] for i in kept], truth.labels[kept])


def _outlines(image: np.ndarray, truth: Objects, rng: np.random.Generator) -> list:
    if tuple(truth.rles[0]['size']) != image.shape[:2]:  # a pipeline that pads the image alone
        return []
    found, pixels = [], 0
    for i in rng.permutation(len(truth.rles))[:_OUTLINES]:
        pixels += coco_mask.toBbox(truth.rles[i])[2:].prod()
        if pixels > _PIXELS:
            break
        one = outline_steepness(image, truth.rles[i])
        found += [one] if one is not None else []
    return found


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
