"""Outline and centre line of a found object's mask, on the part of the image that holds it. No torch.

A mask is an integer, and ``stride`` the bits from a column of it to the next: see ``draw_pairs`` in
:mod:`mmext.analysis.mask_window`.
"""

import functools
import math
import operator
from dataclasses import dataclass

import numpy as np

from mmext.analysis.mask_window import to_array

# source of each: Cheng et al. 2021, arXiv:2103.16562, section 4: 2 % of the image's diagonal
BAND = 0.02
# the length-to-diameter ratio above which a particle is a fibre: Regulation (EU) 2023/2055, entry 78, 1 (b) (ii)
SLENDER = 3
# pixels, ours: a hand-drawn outline errs by one or two. No more than GAP, since masks are shifted by it
TOLERANCE = 2
_STEPS = range(-TOLERANCE, TOLERANCE + 1)
_DISC = [(across, down) for across in _STEPS for down in _STEPS if across**2 + down**2 <= TOLERANCE**2]


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


def core(mask: int, stride: int, width: int) -> int:
    """Pixels of a mask more than ``width`` from its outline: a square that reaches so far to all sides of them is inside.

    Whatever is not in the window is outside.
    """
    inside, side = mask, 2 * width + 1
    for step in (1, stride):
        length = 1  # a bit says that so many pixels from its own on are inside
        while 2 * length <= side:
            inside &= inside >> length * step
            length *= 2
        inside &= inside >> (side - length) * step
    return inside << width * (stride + 1)


def band(mask: int, stride: int, width: int) -> int:
    """Pixels of a mask at most ``width`` from its outline, as Cheng et al. have it: the image's border is an outline too."""
    return mask ^ core(mask, stride, width)


def columns_of(mask: int, stride: int) -> int:
    """Columns of a window up to the last one in which a mask has a pixel."""
    return -(-mask.bit_length() // stride)


def is_thin(mask: int, stride: int) -> bool:
    """Whether an object is at least three times as long as it is wide, however it bends.

    Its width is twice the largest distance to the outside, its length area over width. Lines of a pixel or two count as two
    wide: three times as long they have no centre line to speak of.

    Args:
        mask: the whole object.
        stride: of its window.
    """
    area = mask.bit_count()
    if area < SLENDER * 2**2:
        return False
    # in steps to any of the eight neighbours the distance is s, from which on core() is empty; in OpenCV's, of which a
    # diagonal one counts 1.4, it is between s and 1.5 s: that decides most
    if core(mask, stride, math.isqrt(area // (SLENDER * 2**2))):
        return False
    if not core(mask, stride, math.isqrt(area // (SLENDER * 3**2))):
        return True
    import cv2

    pixels = to_array(mask, stride, columns_of(mask, stride))
    around = cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    width = 2 * float(cv2.distanceTransform(around, cv2.DIST_L2, cv2.DIST_MASK_5).max())
    return bool(area >= SLENDER * width**2)


def near(mask: int, stride: int) -> int:
    """Pixels at most ``TOLERANCE`` away from a mask, some of them beyond its window."""
    shifts = (across * stride + down for across, down in _DISC)
    return functools.reduce(operator.or_, (mask << shift if shift > 0 else mask >> -shift for shift in shifts))


def centerline_recall(truth: int, prediction: int, stride: int) -> float:
    """Share of the object's skeleton with a predicted pixel at most ``TOLERANCE`` away.

    The topology sensitivity of clDice (Shit et al. 2021, arXiv:2003.07311) with the tolerance that evaluations of road maps
    have (Heipke et al. 1997): a fibre's prediction that is broken, or ends early, falls by the missing length alone.

    Args:
        truth: the whole object.
        prediction: in the same window.
        stride: of the window.
    """
    from skimage.morphology import skeletonize

    columns = columns_of(truth, stride)
    line = skeletonize(to_array(truth, stride, columns).astype(bool))
    around = near(prediction, stride) & ((1 << columns * stride) - 1)
    return np.count_nonzero(line & to_array(around, stride, columns)) / np.count_nonzero(line)


def compare_shapes(truth: int, prediction: int, stride: int, width: int) -> Shape:
    """Compare the masks of a matched pair.

    Args:
        truth, prediction: in one window.
        stride: of the window.
        width: of the band, in pixels.
    """
    rim, other = (band(mask, stride, width) for mask in (truth, prediction))
    recall = centerline_recall(truth, prediction, stride) if is_thin(truth, stride) else None
    return Shape((rim & other).bit_count() / max((rim | other).bit_count(), 1), rim == truth, recall)
