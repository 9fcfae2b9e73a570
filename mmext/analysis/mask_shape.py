"""Outline and centre line of a found object's mask, on the part of the image that holds it. No torch."""

import math
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import draw, window_of

# source of each: Cheng et al. 2021, arXiv:2103.16562, section 4: 2 % of the image's diagonal
BAND = 0.02
# the length-to-diameter ratio above which a particle is a fibre: Regulation (EU) 2023/2055, entry 78, 1 (b) (ii)
SLENDER = 3
# pixels, ours: a hand-drawn outline errs by one or two
TOLERANCE = 2


@dataclass(frozen=True)
class Shape:
    """How well a prediction has an object's shape: boundary IoU, whether the band covers the whole object, and, of a thin
    object, the share of its centre line that the prediction follows (None of another)."""

    boundary_iou: float
    swallowed: bool
    centerline_recall: float | None


def band_width(height: int, width: int) -> int:
    """Width in pixels of the band inside an outline, for an image of this size."""
    return max(1, round(BAND * math.hypot(height, width)))


def band(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a mask at most ``width`` from its outline, as Cheng et al. erode it: the image's border is an outline too.

    Args:
        mask: (H, W) uint8, 0 or 1; what is outside counts as 0.
    """
    import cv2

    border = {'borderType': cv2.BORDER_CONSTANT, 'borderValue': 0}
    # OpenCV makes one square of the steps and takes rows, then columns: the time does not grow with the width's square
    return mask - cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=width, **border)


def iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Intersection over union; 0 of two empty masks."""
    return float(np.count_nonzero(truth & prediction) / max(np.count_nonzero(truth | prediction), 1))


def is_thin(mask: np.ndarray) -> bool:
    """Whether an object is at least three times as long as it is wide, however it bends.

    Its width is twice the largest distance to the outside, its length area over width. Lines of a pixel or two count as two
    wide: three times as long they have no centre line to speak of.

    Args:
        mask: (H, W) uint8, 0 or 1, the whole object.
    """
    area = np.count_nonzero(mask)
    if area < SLENDER * 2**2:
        return False
    import cv2

    around = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    width = 2 * float(cv2.distanceTransform(around, cv2.DIST_L2, cv2.DIST_MASK_5).max())
    return bool(area >= SLENDER * width**2)


def centerline_recall(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Share of the object's skeleton with a predicted pixel at most ``TOLERANCE`` away.

    The topology sensitivity of clDice (Shit et al. 2021, arXiv:2003.07311) with the tolerance that evaluations of road maps
    have (Heipke et al. 1997): a fibre's prediction that is broken, or ends early, falls by the missing length alone.

    Args:
        truth: (H, W) uint8, 0 or 1, the whole object.
        prediction: (H, W).
    """
    import cv2
    from skimage.morphology import skeletonize

    steps = np.arange(-TOLERANCE, TOLERANCE + 1)
    disc = (steps[:, None] ** 2 + steps**2 <= TOLERANCE**2).astype(np.uint8)
    near = cv2.dilate(prediction, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return float(near[skeletonize(truth.astype(bool))].mean())


def compare_shapes(truth: dict, prediction: dict, mask_iou: float) -> Shape:
    """Compare the masks of a matched pair.

    Args:
        truth: RLE of the object.
        prediction: RLE of the same image.
        mask_iou: of the pair; it is the boundary IoU where neither mask is wide enough for the band to leave any of it.
    """
    width = band_width(*truth['size'])
    narrow = all(min(box[2:]) <= 2 * width for box in coco_mask.toBbox([truth, prediction]))
    window = window_of(truth, prediction)
    mask = draw(truth, window)
    thin = is_thin(mask)
    if narrow and not thin:
        return Shape(mask_iou, True, None)
    found = draw(prediction, window)
    recall = centerline_recall(mask, found) if thin else None
    if narrow:
        return Shape(mask_iou, True, recall)
    rim = band(mask, width)
    return Shape(iou(rim, band(found, width)), bool((rim == mask).all()), recall)
