"""Outlines as annotation tools write them, and the COCO segmentation of an object. No torch.

Coordinates are in px from the left and top edge of the image, as COCO has them: pixel 0 reaches from 0 to 1.
"""

import math
from collections.abc import Sequence

import numpy as np

from mmext.analysis.mask_window import encode, to_rle
from mmext.data.demo import cut_at_border
from mmext.data.formats.content import Faults, Picture

# px; points on the edge come out of the tools a little beside it
_OVER_EDGE = 1.0
# px by which the polygon of an ellipse may stay inside of it
_SAG = 0.02
_FEWEST_CORNERS, _MOST_CORNERS = 16, 720
_DIGITS = 3

# kinds of faults
OUTSIDE = 'outlines that leave their image. Correct them, or export the annotations for these very files'
NO_NUMBERS = 'outlines whose coordinates are no pairs of numbers. Export them again'
FEW_POINTS = 'polygons of fewer than three different points. Draw or delete them'
NO_SIZE = 'shapes without a size. Draw or delete them'

# of a polygon x1, y1, x2, y2, ...; or a compressed RLE
Part = list[float] | dict


def polygon(points: object, picture: Picture, faults: Faults, place: str) -> list[float] | None:
    """A polygon of an image as COCO writes it; None after a fault has been noted.

    Args:
        points: (P, 2) x and y. Up to a pixel outside of the image they are moved onto its edge.
        place: file and object, for the words.
    """
    corners = _pairs(points)
    if corners is None:
        return faults.add(NO_NUMBERS, place)
    different = len(np.unique(corners, axis=0))
    if different < 3:
        return faults.add(FEW_POINTS, f'{place}: {different}')
    size = np.array([picture.width, picture.height], float)
    low, high = corners.min(0), corners.max(0)
    if (low < -_OVER_EDGE).any() or (high > size + _OVER_EDGE).any():
        return faults.add(OUTSIDE, _reach(place, low, high, picture))
    return np.round(np.clip(corners, 0, size), _DIGITS).ravel().tolist()


def rectangle(
    x1: object, y1: object, x2: object, y2: object, picture: Picture, faults: Faults, place: str, turn: float = 0
) -> list[float] | None:
    """The polygon of a rectangle from two opposite corners, turned clockwise by ``turn`` radians around its centre."""
    ends = _pairs([[x1, y1], [x2, y2]])
    if ends is None:
        return faults.add(NO_NUMBERS, place)
    (x1, y1), (x2, y2) = ends.min(0), ends.max(0)
    if x1 == x2 or y1 == y2:
        return faults.add(NO_SIZE, place)
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    centre = corners.mean(0)
    return polygon((corners - centre) @ _rotation(turn) + centre, picture, faults, place)


def ellipse(
    cx: object, cy: object, rx: object, ry: object, picture: Picture, faults: Faults, place: str, turn: object = 0
) -> list[float] | None:
    """The polygon of an ellipse with half-axes ``rx`` and ``ry``, turned clockwise by ``turn`` radians; what is outside of
    the image is cut off, since a round thing at the edge is drawn so."""
    values = _pairs([[cx, cy], [rx, ry], [turn, 0]])
    if values is None:
        return faults.add(NO_NUMBERS, place)
    centre, radii, turn = values[0], values[1], float(values[2, 0])
    if radii.min() <= 0:
        return faults.add(NO_SIZE, place)
    sag = min(_SAG / radii.max(), 1.0)
    number = int(np.clip(math.ceil(math.pi / math.acos(1 - sag)), _FEWEST_CORNERS, _MOST_CORNERS))
    angle = np.arange(number) * 2 * np.pi / number
    outline = np.stack([np.cos(angle), np.sin(angle)], 1) * radii @ _rotation(turn) + centre
    inside = cut_at_border(outline, picture.width, picture.height)
    if len(inside) < 3:
        return faults.add(OUTSIDE, _reach(place, outline.min(0), outline.max(0), picture))
    return polygon(inside, picture, faults, place)


def mask(pixels: np.ndarray, x: int, y: int, picture: Picture, faults: Faults, place: str) -> dict | None:
    """The compressed RLE of an image from a part of it; None after a fault has been noted.

    Args:
        pixels: (h, w), true where the object is; ``x`` and ``y``: where its first pixel is in the image.
    """
    rows, columns = pixels.shape
    if x < 0 or y < 0 or x + columns > picture.width or y + rows > picture.height:
        return faults.add(OUTSIDE, _reach(place, (x, y), (x + columns, y + rows), picture))
    if not pixels.any():
        return faults.add('masks without a pixel. Draw or delete them', place)
    rle = encode(pixels.astype(bool), x, y, (picture.height, picture.width))
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def segmentation(parts: Sequence[Part], picture: Picture) -> list | dict:
    """COCO's segmentation of one object of several parts: polygons as long as all are, else an RLE of their union."""
    from pycocotools import mask as coco_mask

    if all(isinstance(part, list) for part in parts):
        return list(parts)
    if len(parts) == 1:
        return parts[0]
    size = picture.height, picture.width
    rle = coco_mask.merge([to_rle([part] if isinstance(part, list) else part, *size) for part in parts])
    return {'size': [int(side) for side in rle['size']], 'counts': rle['counts'].decode()}


def _rotation(turn: float) -> np.ndarray:
    """For (P, 2) @ it: clockwise on the screen, where y goes down."""
    return np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def _pairs(points: object) -> np.ndarray | None:
    """(P, 2) finite numbers, None of anything else."""
    if isinstance(points, np.ndarray):
        return points
    try:
        if any(isinstance(value, (bool, str)) for point in points for value in point):
            return None
        found = np.array(points, float)
    except (TypeError, ValueError, OverflowError):
        return None
    right = found.ndim == 2 and found.shape[1] == 2 and np.isfinite(found).all()
    return found if right or not len(found) else None


def _reach(place: str, low: Sequence[float], high: Sequence[float], picture: Picture) -> str:
    (x1, y1), (x2, y2) = low, high
    return f'{place}: x {x1:g} to {x2:g}, y {y1:g} to {y2:g}, image {picture.width}x{picture.height}'
