"""Parts of large images to train and to validate on: where they lie, and which objects are left in them. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmext.data.coco_file import CocoFile

# An object that a crop cuts stays where this share of its area is inside, or where what is left is so many pixels long:
# a fiber through ten crops has a tenth of itself in each, and is to be found in all of them. 32 px is the side of COCO's
# small objects.
LEAST_SHARE, LEAST_SIDE = 0.1, 32.0
# Half the side of the smallest anchor of our recipes and of MMDetection's, 32 px: with a smaller object its IoU is below
# 0.25, and under 0.3 the RPN is taught nothing. So many of the objects may be as small.
_TINY, _MANY = 16, 0.05
# More are not held for one crop: 8192² px, 200 MB as they are shown
_PIXELS = 2**26
_STEP = 32  # px: the network pads to it


def window_around(box: np.ndarray, size: tuple[int, int], crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where a crop may begin that holds a box, or that lies in it where the box is longer than the crop.

    Args:
        box: (4,) x1, y1, x2, y2 in pixels.
        size: width and height of the image.
        crop: width and height of the crop, not above those of the image.

    Returns:
        The least and the largest x1, y1 of the crop, each (2,) int.
    """
    size, crop = np.array(size), np.array(crop)
    first, last = np.clip(np.floor(box[:2]), 0, size), np.clip(np.ceil(box[2:]), 0, size)
    ends = np.clip(np.sort([last - crop, first], axis=0), 0, size - crop)
    return ends[0].astype(int), ends[1].astype(int)


def worth_keeping(
    areas: np.ndarray, left: np.ndarray, boxes: np.ndarray, least_share: float, least_side: float
) -> np.ndarray:
    """Which of N objects that a crop cuts are objects of the crop.

    Args:
        areas: (N,) px² of each before the cut.
        left: (N,) px² that are inside.
        boxes: (N, 4) x1, y1, x2, y2 of what is inside.
        least_share: of an object's area that must be inside,
        least_side: unless what is inside is so many pixels long.

    Returns:
        (N,) bool; of less than a pixel nothing is kept.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    enough = (left >= least_share * areas) | (sides.max(1) >= least_side)
    return enough & (left > 0) & (sides.min(1) >= 1)


def even_parts(length: int, most: int) -> list[int]:
    """Edges that cut a length into the fewest parts of at most ``most`` pixels, as equal as can be."""
    return np.linspace(0, length, max(-(-length // most), 1) + 1).round().astype(int).tolist()


@dataclass(frozen=True)
class CropPlan:
    """Training on crops: their ``side`` in px of the file, the ``scale`` at which the network sees them, how many an image
    gives an epoch (``times``), objects in the fullest (``most``), and why in words."""

    side: int
    scale: float
    times: int
    most: int
    reason: str


def plan_crops(coco: CocoFile, input_scale: Sequence[int]) -> CropPlan | None:
    """Whether images are to be trained on in crops, because whole they would be too small for the network or too large to
    hold; None where they are not.

    A crop has as many pixels at the network's input as the recipe's images have. It is at the resolution of the file, or at
    a lower one of which 95 % of the objects fit into half of it; crops are made where that is at least twice the
    resolution of the whole images.

    Args:
        coco: to train on.
        input_scale: (width, height) into which the recipe fits an image.
    """
    sizes_of = {image['id']: (image['width'], image['height']) for image in coco.images}
    chosen = [one for one in coco.annotations if not one.get('iscrowd')] or coco.annotations
    boxes = np.maximum(np.array([one['bbox'] for one in chosen], float)[:, 2:], 0)  # width and height
    sizes = np.array([sizes_of[one['image_id']] for one in chosen], float)
    shrunk = np.minimum(max(input_scale) / sizes.max(1), min(input_scale) / sizes.min(1))
    tiny = np.sqrt(boxes.prod(1)) * shrunk < _TINY
    most_pixels = max(width * height for width, height in sizes_of.values())
    if tiny.mean() <= _MANY and most_pixels <= _PIXELS:
        return None
    side = max(int((input_scale[0] * input_scale[1]) ** 0.5) // _STEP, 1) * _STEP
    scale = min(1.0, float(f'{side / 2 / max(np.quantile(boxes.max(1), 0.95), 1):.2g}'))
    whole = float(np.median(shrunk))
    if scale < 2 * whole:
        return None
    side = round(side / scale)
    filled, most = _fill(coco, sizes_of, side)
    reason = f'Images of up to {_largest(sizes_of)} px'
    if tiny.mean() > _MANY:
        reason += (
            f' would be shrunk to {whole:.2g} of their size, and {tiny.mean():.0%} of the objects would be under {_TINY} px '
            "at the network's input"
        )
    else:
        reason += ' are too large to be held whole'
    return CropPlan(side, scale, max(1, round(filled)), most, f'{reason}.')


def _largest(sizes: Mapping[int, tuple[int, int]]) -> str:
    width, height = max(sizes.values(), key=lambda size: size[0] * size[1])
    return f'{width}x{height}'


def _fill(coco: CocoFile, sizes: Mapping[int, tuple[int, int]], side: int) -> tuple[float, int]:
    """Of images cut into even parts: those with an object, a mean over images with objects, and objects in the fullest."""
    edges = {key: [even_parts(int(length), side) for length in size] for key, size in sizes.items()}
    grids: dict[int, np.ndarray] = {}
    for one in coco.annotations:
        across, down = edges[one['image_id']]
        grid = grids.setdefault(one['image_id'], np.zeros((len(across) - 1, len(down) - 1), int))
        x, y, width, height = one['bbox']
        (x1, x2), (y1, y2) = (
            np.clip(np.searchsorted(part, ends, 'right') - 1, 0, len(part) - 2)
            for part, ends in ((across, (x, x + width)), (down, (y, y + height)))
        )
        grid[x1 : x2 + 1, y1 : y2 + 1] += 1
    return float(np.mean([(grid > 0).sum() for grid in grids.values()])), max(int(grid.max()) for grid in grids.values())
