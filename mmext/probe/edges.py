"""Where the image is steepest along an object's outline: where it was drawn, or beside that?"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import draw, window_of
from mmext.probe.annotation import GROWTHS, OFFSETS, REACH

STEP = 0.03  # of an object's diameter: what a person is off by grows with the object, so an outline grows in such steps
_LEAST_STEP = 1.0  # pixels
_POINTS = 1000  # of an outline, at most: a mean of more is no better
_MOST = 2_000_000  # pixels of a window; what is larger is left out, as a few pixels are nothing there
# of the outline that must be left where it is moved over the image's border, or shrinks to nothing
_LEFT = 0.5
_EVEN = 1e-4  # of the largest value: far above what single precision adds to an even image


@dataclass(frozen=True)
class Steepness:
    """Mean gradient of the image along an outline, as shares of the largest of all: ``moved`` by each of OFFSETS,
    ``grown`` by each of GROWTHS times ``step`` pixels; NaN where an object is too thin to be shrunk so far."""

    moved: np.ndarray
    grown: np.ndarray
    step: float


def outline_steepness(image: np.ndarray, rle: dict) -> Steepness | None:
    """Move and grow a mask's outline over its image.

    A person draws an outline where the image changes most, so a gradient that is higher beside it says where the mask
    should be. Shares of an object's own maximum: one of strong contrast counts no more than others.

    Args:
        image: (H, W, C), of any scale of grey values.
        rle: of the same size.

    Returns:
        None for a mask without a pixel or without an outline within the image, one too large, and an even image.
    """
    import cv2

    (height, width), (x1, y1, x2, y2) = rle['size'], window_of(rle)
    area = float(coco_mask.area(rle))
    step = max(_LEAST_STEP, STEP * 2 * np.sqrt(area / np.pi))
    margin = int(np.ceil(max(REACH, max(GROWTHS) * step))) + 2
    window = max(x1 - margin, 0), max(y1 - margin, 0), min(x2 + margin, width), min(y2 + margin, height)
    rows, columns = np.s_[window[1] : window[3]], np.s_[window[0] : window[2]]
    if not area or (window[2] - window[0]) * (window[3] - window[1]) > _MOST:
        return None
    smooth = cv2.GaussianBlur(np.ascontiguousarray(image[rows, columns], np.float32), (0, 0), 1.0)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=1) for order in ((1, 0), (0, 1)))
    steep = np.sqrt((across**2 + down**2).reshape(*smooth.shape[:2], -1).sum(-1))
    depth = _depth(draw(rle, window))
    # the pixels that any of the outlines runs through
    ys, xs = np.nonzero(np.abs(depth) < max(GROWTHS) * step + 1)
    depths, along = depth[ys, xs], steep[ys, xs]
    drawn = np.abs(depths) < 1
    inside = drawn & (xs >= REACH) & (xs < steep.shape[1] - REACH) & (ys >= REACH) & (ys < steep.shape[0] - REACH)
    least = _LEFT * np.count_nonzero(drawn)
    if not np.count_nonzero(inside) or np.count_nonzero(inside) < least:
        return None
    every = max(1, np.count_nonzero(inside) // _POINTS)
    ys, xs, offsets = ys[inside][::every], xs[inside][::every], np.array(OFFSETS)
    moved = steep[ys + offsets[:, 1:], xs + offsets[:, :1]].mean(1)
    lines = [along[np.abs(depths - pixels * step) < 1] for pixels in GROWTHS]
    grown = np.array([line.mean() if len(line) and len(line) >= least else np.nan for line in lines])
    most = max(moved.max(), np.nanmax(grown))
    if most <= _EVEN * np.abs(smooth).max():
        return None
    return Steepness(moved / most, grown / most, step)


def _depth(mask: np.ndarray) -> np.ndarray:
    """(H, W) distance of each pixel's centre to the outline, inside under 0; the window's border is no outline."""
    import cv2

    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    outside, inside = (cv2.distanceTransform(one, cv2.DIST_L2, 5) for one in (1 - padded, padded))
    return np.where(padded > 0, 0.5 - inside, outside - 0.5)[1:-1, 1:-1]
