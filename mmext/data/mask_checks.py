"""What is wrong with the masks of a COCO file, and whether box, area and mask of an object agree. No torch.

Nothing is drawn but pairs that may be one object twice: all else follows from the outlines' corners and the RLEs' runs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from mmext.analysis.findings import Finding, first
from mmext.data.coco_file import CocoFile
from mmext.data.mask_pairs import same_masks
from mmext.data.mask_shapes import MaskShapes, read_shapes

# px; boxes are written with and without the last pixel, rounded in or out: two conventions differ by 2 at most
EDGE_TOLERANCE = 2.0
# of the side, beside it: at a box off by 5 % at one edge the box IoU is still 0.95
SIDE_TOLERANCE = 0.05
# both sides of the mask against the box's: 0.8 leaves IoU 0.64 at most, what COCO counts as a poor match
SHRUNKEN = 0.8
# median over a file of so many; outlines drawn by hand stay within a pixel or two of their boxes
SHRUNKEN_MEDIAN, SYSTEMATIC_COUNT = 0.9, 10
# of the area: less than two people differ by who outline the same object (COCO's own annotators: mask IoU 0.9)
CROSSING_SHARE = 0.05
# of the masks that lie within the first pixel of their image
SHARES = 0.9
# px²; what covers less may fill no pixel at all
SMALLEST_AREA = 1.0
# of the mask's area, beside Pick's theorem: an outline through pixel centres has half its length less than the pixels
AREA_TOLERANCE = 0.1
# of a class's masks that are rectangles along the axes, and how many of at least which side it takes to say so
RECTANGLES, RECTANGLE_FILL, RECTANGLE_COUNT, RECTANGLE_SIDE = 0.9, 0.995, 10, 8.0
# mask IoU: two objects of a class never cover each other so far; the box IoU that it takes to compare the masks
SAME_OBJECT = 0.9

# code: what is wrong, what to do
_BROKEN = {
    'mask-missing': (
        'have no segmentation, so nothing tells the shape of the object',
        'Export with polygons or RLE; for boxes alone, draw the outlines or delete these annotations.',
    ),
    'mask-empty': ('have an empty mask', 'Draw the outline or delete these annotations.'),
    'mask-of-unknown-form': (
        'have a segmentation that is neither a list of polygons nor an RLE',
        'Write polygons as lists in a list, [[x1, y1, x2, y2, ...]], an RLE as {"size": [height, width], "counts": ...}.',
    ),
    'polygon-too-few-points': (
        'have a polygon of fewer than 3 points, which has no area',
        'Delete that polygon, or the annotation when it has no other.',
    ),
    'polygon-odd-coordinates': (
        'have a polygon of an odd number of coordinates, so that an x or a y is missing',
        'Export again: coordinates come in pairs, [x1, y1, x2, y2, ...].',
    ),
    'polygon-coordinates-unusable': (
        'have coordinates that are no usable numbers (text, NaN, infinite or beyond a million px)',
        'Export again, or delete these annotations.',
    ),
    'rle-size-not-image': (
        "have an RLE of another size than their image's, or of none",
        'Export for these very images; "size" is [height, width], in this order.',
    ),
    'rle-counts-wrong': (
        'have an RLE that is broken: its runs do not fill the image',
        'Export again. Uncompressed counts are a list of numbers, compressed ones the text that pycocotools writes.',
    ),
}


@dataclass(frozen=True)
class _File:
    """A file and the measures of its annotations, a row each: ``box`` x1, y1, x2, y2 and ``image`` width, height in px."""

    coco: CocoFile
    part: str
    shapes: MaskShapes
    box: np.ndarray
    area: np.ndarray
    image: np.ndarray
    file_names: dict[int, str]

    def name(self, row: int) -> str:
        annotation = self.coco.annotations[row]
        image_id = annotation['image_id']
        return f'annotation {annotation["id"]} of image {image_id} ({self.file_names[image_id]})'

    def finding(
        self, code: str, severity: str, text: str, rows: Iterable[int], remedy: str, detail: Callable[[int], str]
    ) -> list[Finding]:
        """One finding about some rows; none when there are none."""
        rows = [int(row) for row in rows]
        if not rows:
            return []
        examples = first(f'{self.name(row)}: {detail(row)}' for row in rows)
        text = f'{len(rows)} of {len(self.coco.annotations)} annotations {text}.'
        return [Finding(code, severity, text, len(rows), examples, remedy, self.part)]


def check_masks(coco: CocoFile, part: str) -> list[Finding]:
    """Hold every mask against its image, its box, its area and the other masks of the image.

    Args:
        coco: a file whose entries are sound but for their segmentations, as ``check_file`` gives it.
        part: train or val.

    Returns:
        Findings; none above information for a sound file.
    """
    if not coco.annotations:
        return []
    file = _measure(coco, part)
    shapes = file.shapes
    findings = _broken(file)
    shares = _shares_of_image(file)
    if shares:
        return findings + shares
    outside = shapes.sound & _outside(shapes.box, file.image)
    past = _past_edge(shapes.box, file.image)
    over = shapes.sound & ~outside & (past > EDGE_TOLERANCE)
    flat = shapes.sound & (shapes.most < SMALLEST_AREA)
    findings += _outlines(file, flat)
    findings += _places(file, outside, over, past)
    findings += _boxes(file, shapes.sound & ~outside & ~flat)
    findings += _areas(file, shapes.sound & ~outside & ~over & ~flat)
    findings += _rectangles(file, shapes.sound & ~outside)
    return findings + _twice(file, np.flatnonzero(shapes.sound & ~flat & ~outside))


def _measure(coco: CocoFile, part: str) -> _File:
    images = {image['id']: image for image in coco.images}
    box = np.array([annotation['bbox'] for annotation in coco.annotations], float).reshape(-1, 4)
    box = np.hstack([box[:, :2], box[:, :2] + box[:, 2:]])
    area = np.array([annotation['area'] for annotation in coco.annotations], float)
    of_image = {key: (image['width'], image['height']) for key, image in images.items()}
    image = np.array([of_image[annotation['image_id']] for annotation in coco.annotations], float).reshape(-1, 2)
    file_names = {key: image['file_name'] for key, image in images.items()}
    return _File(coco, part, read_shapes(coco), box, area, image, file_names)


def _broken(file: _File) -> list[Finding]:
    findings = []
    for code, (what, remedy) in _BROKEN.items():
        found = dict(file.shapes.faults.get(code, ()))
        # a crowd region is ignored in training whatever its shape
        rows = [row for row in found if not (code == 'mask-missing' and file.coco.annotations[row].get('iscrowd'))]
        findings += file.finding(code, 'severe', what, sorted(rows), remedy, found.__getitem__)
    return findings


def _shares_of_image(file: _File) -> list[Finding]:
    """A file in which hardly a mask reaches beyond the first pixel: x and y are shares of the image, as YOLO writes them."""
    sound = file.shapes.sound
    within = sound & (file.shapes.box.max(1) <= 1) & (file.image.min(1) > 1)
    if np.count_nonzero(within) < SHARES * np.count_nonzero(sound) or not within.any():
        return []
    what = 'have no coordinate above 1: x and y seem to be shares of the image (as in YOLO files), not pixels'
    remedy = 'Multiply x by the width and y by the height of the image, in segmentation and bbox.'
    return file.finding(
        'coordinates-are-shares',
        'severe',
        what,
        np.flatnonzero(within),
        remedy,
        lambda row: f'mask within {_box(file.shapes.box[row])}',
    )


def _outlines(file: _File, flat: np.ndarray) -> list[Finding]:
    shapes = file.shapes
    crossing = shapes.crossing > CROSSING_SHARE
    touching = ~crossing & np.isfinite(shapes.crossing) & ~flat
    return [
        *file.finding(
            'polygon-crosses-itself',
            'warning',
            f'have an outline that crosses itself and so covers an area that differs by more than {CROSSING_SHARE:.0%}'
            + (f' (at least: {shapes.unmeasured} outlines were not measured)' if shapes.unmeasured else ''),
            np.flatnonzero(crossing & ~flat),
            'Draw these outlines again: the points may be in the wrong order.',
            lambda row: f'the crossing changes its area by {shapes.crossing[row]:.0%}',
        ),
        *file.finding(
            'polygon-touches-itself',
            'information',
            f'have an outline that meets itself, without an effect on the mask (at most {CROSSING_SHARE:.0%} of its area)',
            np.flatnonzero(touching),
            'Nothing to do: outlines traced from masks often do so.',
            lambda row: f'{shapes.crossing[row]:.1%} of its area',
        ),
        *file.finding(
            'mask-zero-area',
            'warning',
            f'have a mask of less than {SMALLEST_AREA:g} px² (all points on a line or in one place)',
            np.flatnonzero(flat),
            'Draw the outline again or delete these annotations.',
            lambda row: f'area {shapes.most[row]:.2g} px², extremes {_box(shapes.box[row])}',
        ),
    ]


def _outside(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (box[:, 2:] <= 0).any(1) | (box[:, :2] >= image).any(1)


def _past_edge(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    """How far a box reaches over the edge of its image, px."""
    return np.maximum(-box[:, :2], box[:, 2:] - image).max(1)


def _places(file: _File, outside: np.ndarray, over: np.ndarray, past: np.ndarray) -> list[Finding]:
    shapes, image = file.shapes, file.image
    box_outside = (_sides(file.box) > 0).all(1) & _outside(file.box, image) & ~outside

    def where(row: int) -> str:
        return f'mask {_box(shapes.box[row])}, image {image[row, 0]:.0f} x {image[row, 1]:.0f}'

    remedy = 'Clip the outlines to the image when you export.'
    turned = _past_edge(shapes.box, image[:, ::-1]) <= EDGE_TOLERANCE
    if (over | outside).any() and turned[over | outside].all():
        remedy = 'All would be inside if width and height were exchanged: was the image turned (EXIF) or its size misread?'
    return [
        *file.finding(
            'mask-outside-image', 'severe', 'have a mask that lies outside its image', np.flatnonzero(outside), remedy, where
        ),
        *file.finding(
            'mask-over-edge',
            'warning',
            f'have a mask that reaches over the edge of its image by more than {EDGE_TOLERANCE:g} px',
            np.flatnonzero(over),
            remedy,
            lambda row: f'{past[row]:.0f} px over; {where(row)}',
        ),
        *file.finding(
            'box-outside-image',
            'severe',
            'have a box outside their image, so that MMDetection drops them in silence',
            np.flatnonzero(box_outside),
            'Compute bbox from the mask: [x, y, width, height] of its extremes, px.',
            lambda row: f'bbox {_bbox(file.box[row])}, image {image[row, 0]:.0f} x {image[row, 1]:.0f}',
        ),
    ]


def _sides(box: np.ndarray) -> np.ndarray:
    return box[:, 2:] - box[:, :2]


def _box(box: np.ndarray) -> str:
    return 'x {0:.6g} to {2:.6g}, y {1:.6g} to {3:.6g}'.format(*box)


def _bbox(box: np.ndarray) -> str:
    return '[{:.6g}, {:.6g}, {:.6g}, {:.6g}]'.format(*box[:2], *(box[2:] - box[:2]))


def _off(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether an edge of two boxes differs by more than the tolerance."""
    tolerance = np.maximum(EDGE_TOLERANCE, SIDE_TOLERANCE * _sides(other))
    return (np.abs(one - other) > np.hstack([tolerance, tolerance])).any(1)


def _boxes(file: _File, compared: np.ndarray) -> list[Finding]:
    """Boxes that are not their masks', and masks smaller than their boxes: ground truth that teaches small masks."""
    rows = np.flatnonzero(compared & (_sides(file.box) > 0).all(1) & ~_outside(file.box, file.image))
    box, mask, image = file.box[rows], file.shapes.box[rows], np.tile(file.image[rows], 2)
    off = _off(box, mask) & _off(box, np.clip(mask, 0, image))
    corners = np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])
    corners = off & ~(_off(corners, mask) & _off(corners, np.clip(mask, 0, image)))
    off &= ~corners
    ratio = _sides(mask) / _sides(box)
    shift = np.abs(mask[:, :2] + mask[:, 2:] - box[:, :2] - box[:, 2:]) / 2 / _sides(box)
    small = off & (ratio < SHRUNKEN).all(1) & (shift < (1 - SHRUNKEN)).all(1)
    share = np.sqrt(ratio.prod(1))
    gap = (_sides(box) - _sides(mask)).mean(1)
    enough = np.count_nonzero(~corners) >= SYSTEMATIC_COUNT
    median = np.median(share[~corners]) if enough else 1.0
    systematic = enough and median < SHRUNKEN_MEDIAN and np.median(gap[~corners]) > EDGE_TOLERANCE
    text = f"have a mask that is much smaller than its box, under {SHRUNKEN:g} of both of the box's sides"
    if systematic:
        small = off & (share < SHRUNKEN_MEDIAN)
        text = (
            f"have a mask that is smaller than its box, and the median mask of the file has {median:.2f} of its box's side: "
            'a model that learns from them predicts small masks'
        )
    share_of = dict(zip(rows.tolist(), share.tolist(), strict=True))

    def where(row: int) -> str:
        return f'bbox {_bbox(file.box[row])}, mask {_bbox(file.shapes.box[row])}'

    return [
        *file.finding(
            'mask-smaller-than-box',
            'severe' if systematic else 'warning',
            text,
            rows[small],
            'Look at them with `mmext check --show DIR`: draw the outline along the edge of the object, or set the box to '
            'the mask when the box is too large.',
            lambda row: f'{share_of[row]:.2f} of its side; {where(row)}',
        ),
        *file.finding(
            'box-not-of-mask',
            'warning',
            f"have a bbox with an edge more than {EDGE_TOLERANCE:g} px and {SIDE_TOLERANCE:.0%} of the side off the mask's",
            rows[off & ~small],
            'Compute bbox from the mask: [x, y, width, height] of its extremes, px.',
            where,
        ),
        *file.finding(
            'box-of-corners',
            'severe',
            'have a bbox that holds the corners x1, y1, x2, y2 of the mask, not [x, y, width, height]',
            rows[corners],
            'Write x2 - x1 and y2 - y1 in the place of x2 and y2.',
            where,
        ),
    ]


def _areas(file: _File, compared: np.ndarray) -> list[Finding]:
    shapes = file.shapes
    rim = shapes.perimeter / 2 + 1
    least = shapes.least * (1 - AREA_TOLERANCE) - rim
    most = shapes.most * (1 + AREA_TOLERANCE) + rim
    rows = np.flatnonzero(compared & (file.area > 0) & ((file.area < least) | (file.area > most)))
    of_box = _sides(file.box[rows]).prod(1)
    remedy = "Write the mask's area: pycocotools.mask.area of its RLE. COCO's mAP by size goes by it."
    if len(rows) and 2 * np.count_nonzero(np.abs(file.area[rows] - of_box) <= 0.01 * of_box) > len(rows):
        remedy = f'area is that of the box in most of them. {remedy}'
    return file.finding(
        'area-not-of-mask',
        'warning',
        f"have an area that is not the mask's: it differs by more than {AREA_TOLERANCE:.0%} and the pixels of the rim",
        rows,
        remedy,
        lambda row: f'area {file.area[row]:.6g}, mask {shapes.most[row]:.6g} px²',
    )


def _rectangles(file: _File, compared: np.ndarray) -> list[Finding]:
    """Classes whose masks are boxes, one finding for all of them."""
    sides = _sides(file.shapes.box)
    large = compared & (sides >= RECTANGLE_SIDE).all(1)
    with np.errstate(invalid='ignore'):
        full = large & (file.shapes.least >= RECTANGLE_FILL * sides.prod(1))
    labels = np.array([annotation['category_id'] for annotation in file.coco.annotations])
    named, rows = [], []
    for category in file.coco.categories:
        mine = large & (labels == category['id'])
        if mine.sum() >= RECTANGLE_COUNT and full[mine].mean() >= RECTANGLES:
            named.append(f'{category["name"]} ({full[mine].sum()} of {mine.sum()})')
            rows += np.flatnonzero(full & mine).tolist()
    return file.finding(
        'masks-are-boxes',
        'warning',
        f'have a rectangle along the image as mask, nearly all of these classes: {", ".join(named)}',
        sorted(rows),
        'If the objects are no rectangles, boxes were exported as masks: draw outlines, a model learns boxes from these.',
        lambda row: f'mask {_bbox(file.shapes.box[row])}',
    )


def _twice(file: _File, rows: np.ndarray) -> list[Finding]:
    """One finding about pairs of one class, one about pairs of two."""
    annotations = file.coco.annotations
    names = {category['id']: category['name'] for category in file.coco.categories}
    pairs, all_compared = same_masks(file.coco, file.shapes, rows, SAME_OBJECT)
    labels = [(annotations[one]['category_id'], annotations[other]['category_id']) for one, other, _ in pairs]

    def found(code: str, same: bool, what: str, remedy: str) -> list[Finding]:
        mine = [(pair, label) for pair, label in zip(pairs, labels, strict=True) if (label[0] == label[1]) == same]
        if not mine:
            return []
        examples = first(
            f'{file.name(one)} and annotation {annotations[other]["id"]}: IoU {overlap:.2f}, {names[a]} and {names[b]}'
            for (one, other, overlap), (a, b) in mine
        )
        number = f'{len(mine)}' if all_compared else f'at least {len(mine)}'
        text = f'{number} pairs of annotations cover each other with a mask IoU above {SAME_OBJECT:g}: {what}.'
        return [Finding(code, 'warning', text, len(mine), examples, remedy, file.part)]

    return [
        *found('instance-twice', True, 'one object is there twice', 'Delete one annotation of each pair.'),
        *found(
            'instance-of-two-classes',
            False,
            'one object has two classes',
            'Delete the annotation of the wrong class in each pair.',
        ),
    ]
