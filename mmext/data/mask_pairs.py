"""Pairs of masks in one image that nearly coincide, found without comparing all with all. No torch."""

from collections.abc import Iterator

import numpy as np

from mmext.data.coco_file import CocoFile
from mmext.data.mask_shapes import MaskShapes

# box IoU that it takes to compare two masks; masks of IoU 0.9 have boxes that differ more only by a thread
SAME_BOX = 0.8
# bounds on the work, for files that repeat one object thousands of times: pairs of boxes and of masks compared
_MOST_BOX_PAIRS, _MOST_MASK_PAIRS = 20_000_000, 20_000
_PAIRS_AT_ONCE = 2_000_000


def same_masks(
    coco: CocoFile, shapes: MaskShapes, rows: np.ndarray, least: float
) -> tuple[list[tuple[int, int, float]], bool]:
    """Pairs of annotations of one image with a mask IoU above ``least``.

    Args:
        coco: the file.
        shapes: its masks.
        rows: positions of the annotations to compare, their masks sound and in the image.
        least: mask IoU.

    Returns:
        Two positions and the IoU of each pair, in the order of the file; whether all were compared.
    """
    images = np.unique([coco.annotations[row]['image_id'] for row in rows], return_inverse=True)[1]
    sizes = {image['id']: (int(image['height']), int(image['width'])) for image in coco.images}
    slack = shapes.perimeter / 2 + 1  # between an outline's area and its pixels
    drawn: dict[int, dict] = {}

    def mask(row: int) -> dict:
        if row not in drawn:
            annotation = coco.annotations[row]
            drawn[row] = _rle(annotation['segmentation'], *sizes[annotation['image_id']])
        return drawn[row]

    pairs, compared = [], 0
    for one, other in near_pairs(images, shapes.box[rows]):
        one, other = rows[one], rows[other]
        smaller = np.minimum(shapes.most[one] + slack[one], shapes.most[other] + slack[other])
        larger = np.maximum(shapes.least[one] - slack[one], shapes.least[other] - slack[other])
        alike = smaller >= least * larger
        for i, j in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
            if compared == _MOST_MASK_PAIRS:
                return sorted(pairs), False
            compared += 1
            overlap = _iou(mask(i), mask(j))
            if overlap > least:
                pairs.append((min(i, j), max(i, j), overlap))
    return sorted(pairs), True


def near_pairs(groups: np.ndarray, box: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs within a group with a box IoU above ``SAME_BOX``, in portions: positions of the one and of the other.

    Sorted by x1, the partner of a box begins within a fifth of its width, so few of the others are looked at.
    """
    if len(groups) < 2:
        return
    span = np.ptp(box[:, [0, 2]]) + 1
    order = np.lexsort((box[:, 0], groups))
    key = groups[order] * 2 * span + box[order, 0] - box[:, 0].min()
    reach = key + (1 - SAME_BOX) * (box[order, 2] - box[order, 0])
    following = np.searchsorted(key, reach, side='right') - np.arange(len(key)) - 1
    total = np.cumsum(following)
    begin = 0
    while begin < len(key) and (begin == 0 or total[begin - 1] < _MOST_BOX_PAIRS):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _PAIRS_AT_ONCE, side='right')))
        number = following[begin:end]
        one = np.repeat(np.arange(begin, end), number)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(number) - number, number)
        near = box_iou(box[order[one]], box[order[other]]) > SAME_BOX
        yield order[one[near]], order[other[near]]
        begin = end


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU (N,) of boxes x1, y1, x2, y2 (N, 4), pair by pair."""
    common = np.clip(np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]), 0, None).prod(1)
    total = sum((box[:, 2:] - box[:, :2]).prod(1) for box in (one, other))
    return common / np.maximum(total - common, 1e-9)


def _rle(segmentation: list | dict, height: int, width: int) -> dict:
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    rle = {'size': [height, width], 'counts': segmentation['counts']}
    return coco_mask.frPyObjects(rle, height, width) if isinstance(segmentation['counts'], list) else rle


def _iou(one: dict, other: dict) -> float:
    from pycocotools import mask as coco_mask

    return float(coco_mask.iou([one], [other], [0])[0, 0])
