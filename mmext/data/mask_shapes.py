"""What the segmentations of a COCO file say: box, area and outline of every mask, and which cannot be drawn. No torch.

Letters in shapes: A annotations, R rings (one per polygon), P points of all rings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from mmext.data.coco_file import CocoFile, shown

# px; farther out than any image is wide, and longer than any outline: pycocotools reserves 40 bytes a pixel of outline
FARTHEST = 1e6
LONGEST = 1e7
# a count of h * w < 2**32 pixels in groups of 5 bits and a sign takes seven at most
_LONGEST_COUNT = 7
# annotations measured together: memory does not grow with the file
_AT_ONCE = 10_000
# outlines among them that meet themselves and are measured: a third of a millisecond each to find out by how much
_MOST_CROSSINGS = 2000


@dataclass(frozen=True)
class MaskShapes:
    """One row per annotation, in the order of the file; rows that are not ``sound`` hold NaN.

    ``box`` (A, 4): x1, y1, x2, y2 of the mask's extremes, px. ``least`` and ``most`` (A,): bounds of its area, px²; they
    differ where polygons overlap or cross themselves. ``perimeter`` (A,): of the outline, px.
    ``crossing`` (A,): the share by which a crossing of the outline with itself changes the area; 0 where it only touches
    itself, NaN where it does not meet itself at all. ``unmeasured``: outlines that meet themselves and were too many to
    be measured; their crossing is NaN. ``faults``: code to positions of the annotations that have it, with what was found.
    """

    sound: np.ndarray
    box: np.ndarray
    least: np.ndarray
    most: np.ndarray
    perimeter: np.ndarray
    crossing: np.ndarray
    faults: dict[str, list[tuple[int, str]]]
    unmeasured: int = 0


@dataclass
class _Rings:
    """Polygons of all annotations behind each other."""

    owners: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    polygons: list[list] = field(default_factory=list)


def sound_masks(coco: CocoFile) -> list[dict]:
    """Annotations whose segmentation can be drawn: every polygon has three points or more, all of them usable numbers;
    an RLE has its image's size and counts that fill it. pycocotools may read past the end of any other."""
    shapes = read_shapes(coco)
    return [annotation for annotation, sound in zip(coco.annotations, shapes.sound, strict=True) if sound]


def read_shapes(coco: CocoFile) -> MaskShapes:
    """Measure every mask of a file without drawing one."""
    total = len(coco.annotations)
    shapes = MaskShapes(
        sound=np.zeros(total, bool),
        box=np.full((total, 4), np.nan),
        least=np.full(total, np.nan),
        most=np.full(total, np.nan),
        perimeter=np.full(total, np.nan),
        crossing=np.full(total, np.nan),
        faults={},
    )
    sizes = {image['id']: (int(image['height']), int(image['width'])) for image in coco.images}
    unmeasured = 0
    for start in range(0, total, _AT_ONCE):
        rings, rles = _Rings(), []
        for position, annotation in enumerate(coco.annotations[start : start + _AT_ONCE], start):
            found = _sort(position, annotation, sizes[annotation['image_id']], rings, rles)
            if found is not None:
                shapes.faults.setdefault(found[0], []).append((position, found[1]))
        unmeasured += _measure_rings(rings, shapes)
        _measure_rles(rles, shapes)
    return replace(shapes, unmeasured=unmeasured)


def _sort(position: int, annotation: dict, size: tuple[int, int], rings: _Rings, rles: list) -> tuple[str, str] | None:
    """Put one segmentation to the rings or the RLEs, or say what is wrong with it: a code and what was found."""
    segmentation = annotation.get('segmentation')
    if segmentation is None:
        return 'mask-missing', 'no segmentation'
    if isinstance(segmentation, dict):
        return _sort_rle(position, segmentation, size, rles)
    if not isinstance(segmentation, list):
        return 'mask-of-unknown-form', f'segmentation is {shown(segmentation)}'
    if not any(segmentation):
        return 'mask-empty', f'segmentation is {shown(segmentation)}'
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return 'mask-of-unknown-form', f'segmentation is {shown(segmentation)}'
    for polygon in segmentation:
        fault = _polygon_fault(polygon)
        if fault is not None:
            return fault
    rings.owners += [position] * len(segmentation)
    rings.lengths += [len(polygon) // 2 for polygon in segmentation]
    rings.polygons += segmentation
    return None


def _polygon_fault(polygon: list) -> tuple[str, str] | None:
    if not set(map(type, polygon)) <= {int, float}:
        return 'polygon-coordinates-unusable', f'polygon {shown(polygon)}'
    if len(polygon) % 2:
        return 'polygon-odd-coordinates', f'{len(polygon)} numbers in a polygon'
    if len(polygon) < 6:
        return 'polygon-too-few-points', f'a polygon of {len(polygon) // 2} points'
    # NaN fails every comparison, but min and max may pass over it: the sum does not
    if not (min(polygon) > -FARTHEST and max(polygon) < FARTHEST and math.isfinite(sum(polygon))):
        return 'polygon-coordinates-unusable', f'polygon with {shown(next(v for v in polygon if not abs(v) < FARTHEST))}'
    return None


def _sort_rle(position: int, segmentation: dict, size: tuple[int, int], rles: list) -> tuple[str, str] | None:
    counts, given = segmentation.get('counts'), segmentation.get('size')
    if not counts and not given:
        return 'mask-empty', f'segmentation is {shown(segmentation)}'
    if not isinstance(given, list) or len(given) != 2 or given != list(size):
        return 'rle-size-not-image', f'RLE size {shown(given)}, image (height, width) {list(size)}'
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0:
            return 'rle-counts-wrong', 'counts are not all whole numbers of 0 or more'
        if sum(counts) != size[0] * size[1]:
            return 'rle-counts-wrong', f'counts sum to {sum(counts)}, the image has {size[0] * size[1]} pixels'
    elif not isinstance(counts, str):
        return 'rle-counts-wrong', f'counts are {shown(counts)}'
    elif not counts.isascii() or not counts:
        return 'rle-counts-wrong', 'counts hold characters that no RLE has' if counts else 'counts are empty'
    rles.append((position, counts, size))
    return None


def _measure_rings(rings: _Rings, shapes: MaskShapes) -> int:
    """Box, area, perimeter and crossings of the polygons (R rings, P points); how many crossings were not measured."""
    if not rings.owners:
        return 0
    lengths, owners = np.array(rings.lengths), np.array(rings.owners)
    flat = np.fromiter(chain.from_iterable(rings.polygons), float, 2 * lengths.sum())
    points = flat.reshape(-1, 2)  # (P, 2)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts
    step = points[following] - points
    # from the ring's first point, since products of large coordinates lose digits
    local = points - np.repeat(points[starts], lengths, axis=0)
    twice = local[:, 0] * local[following, 1] - local[following, 0] * local[:, 1]
    area = np.abs(np.add.reduceat(twice, starts)) / 2  # shoelace formula
    perimeter = np.add.reduceat(np.hypot(step[:, 0], step[:, 1]), starts)
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    crossed, even_odd = _crossings(points, lengths)
    change = np.full(len(lengths), np.nan)
    larger = np.maximum(area[crossed], even_odd)
    change[crossed] = np.abs(area[crossed] - even_odd) / np.maximum(larger, 1e-9)
    least, most = area.copy(), area.copy()
    # not measured: anything up to the ring's box
    unmeasured = np.count_nonzero(np.isnan(even_odd))
    least[crossed] = np.nan_to_num(np.minimum(area[crossed], even_odd), nan=0)
    most[crossed] = np.where(np.isnan(even_odd), (high - low)[crossed].prod(1), larger)

    for row in np.unique(owners[perimeter > LONGEST]):
        shapes.faults.setdefault('polygon-coordinates-unusable', []).append((int(row), f'an outline beyond {LONGEST:g} px'))
    drawable = ~np.isin(owners, owners[perimeter > LONGEST])
    if not drawable.any():
        return unmeasured
    owners, low, high, perimeter = owners[drawable], low[drawable], high[drawable], perimeter[drawable]
    least, most, change = least[drawable], most[drawable], change[drawable]
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    rows = owners[firsts]
    shapes.sound[rows] = True
    shapes.box[rows] = np.hstack([np.minimum.reduceat(low, firsts), np.maximum.reduceat(high, firsts)])
    # polygons of one instance may overlap: their union has at least the area of the largest
    shapes.least[rows], shapes.most[rows] = np.maximum.reduceat(least, firsts), np.add.reduceat(most, firsts)
    shapes.perimeter[rows] = np.add.reduceat(perimeter, firsts)
    shapes.crossing[rows] = np.fmax.reduceat(change, firsts)
    return unmeasured


def _crossings(points: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rings whose outline meets itself, and the area that each covers by the even-odd rule, as pycocotools fills it.

    NaN for those that were not measured, when there are too many.
    """
    import shapely

    # a triangle cannot cross itself, and GEOS refuses one whose ends are the same point
    able = np.flatnonzero(lengths >= 4)
    if not len(able):
        return able, np.zeros(0)
    mine = np.repeat(lengths >= 4, lengths)
    polygons = shapely.polygons(shapely.linearrings(points[mine], indices=np.repeat(np.arange(len(able)), lengths[able])))
    invalid = np.flatnonzero(~shapely.is_valid(polygons))
    area = np.full(len(invalid), np.nan)
    measured = np.linspace(0, len(invalid) - 1, min(len(invalid), _MOST_CROSSINGS)).astype(int)
    area[measured] = shapely.area(shapely.make_valid(polygons[invalid[measured]]))
    return able[invalid], area


def _measure_rles(rles: Sequence[tuple[int, str | list, tuple[int, int]]], shapes: MaskShapes) -> None:
    """Box and area of RLEs; those whose counts are broken go to the faults."""
    from pycocotools import mask as coco_mask

    packed = [(row, counts, size) for row, counts, size in rles if isinstance(counts, str)]
    sizes = np.array([size for *_, size in packed]).reshape(-1, 2)
    areas, runs, reasons = check_counts([counts for _, counts, _ in packed], sizes)
    sound = []  # row, RLE, area, number of runs
    for (row, counts, size), area, number, reason in zip(packed, areas, runs, reasons, strict=True):
        if reason:
            shapes.faults.setdefault('rle-counts-wrong', []).append((row, reason))
        else:
            sound.append((row, {'size': list(size), 'counts': counts}, area, number))
    for row, counts, size in rles:
        if isinstance(counts, list):
            rle = coco_mask.frPyObjects({'size': list(size), 'counts': counts}, *size)
            sound.append((row, rle, sum(counts[1::2]), len(counts)))
    if not sound:
        return
    rows, objects, area, lines = (list(column) for column in zip(*sound, strict=True))
    rows, area, lines = np.array(rows), np.array(area, float), np.array(lines)
    box = coco_mask.toBbox(objects)
    empty = area == 0
    for row in rows[empty]:
        shapes.faults.setdefault('mask-empty', []).append((int(row), 'an RLE of no pixel'))
    rows, area, box, lines = rows[~empty], area[~empty], box[~empty], lines[~empty]
    shapes.sound[rows] = True
    shapes.box[rows] = np.hstack([box[:, :2], box[:, :2] + box[:, 2:]])
    shapes.least[rows] = shapes.most[rows] = area
    # every run of the mask is a piece of a column: one pixel of outline at both ends; the two sides are as high as the box
    shapes.perimeter[rows] = lines + 2 * box[:, 3]


def check_counts(texts: Sequence[str], sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read the compressed counts of RLEs as pycocotools writes them, without decoding a mask.

    Each character carries 5 bits of a number, the lowest first, and whether more follow; from the fourth number on, the one
    two before is to be added.

    Args:
        texts: ASCII strings, none of them empty.
        sizes: (N, 2) height and width.

    Returns:
        Area in px² and number of runs of each; what is wrong with each, empty when nothing is. (pycocotools' own ``area``
        fails for more than 255 masks at once.)
    """
    if not texts:
        return np.zeros(0, int), np.zeros(0, int), []
    code = np.frombuffer(''.join(texts).encode('ascii'), np.uint8).astype(np.int64) - 48
    lengths = np.array([len(text) for text in texts])
    ends = np.cumsum(lengths)
    alien = np.logical_or.reduceat((code < 0) | (code > 63), ends - lengths)
    cut = (code[ends - 1] & 32) > 0
    last = (code & 32) == 0
    last[ends - 1] = True  # so that a text that is cut off does not run into the next
    stops = np.flatnonzero(last)
    begins = np.concatenate([[0], stops[:-1] + 1])
    digits = stops - begins + 1
    owner = np.searchsorted(ends, stops, side='right')  # (C,) of C counts in all
    first = np.searchsorted(owner, np.arange(len(texts)))
    long = np.zeros(len(texts), bool)
    np.logical_or.at(long, owner, digits > _LONGEST_COUNT)

    place = np.minimum(np.arange(len(code)) - np.repeat(begins, digits), _LONGEST_COUNT)
    number = np.add.reduceat((code & 31) << (5 * place), begins)
    number -= np.where(code[stops] & 16, np.int64(1) << (5 * np.minimum(digits, _LONGEST_COUNT)), 0)
    index = np.arange(len(number)) - first[owner]
    count = number.copy()
    for chain_of in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        total = np.cumsum(np.where(chain_of, number, 0))
        before = total[first] - np.where(chain_of[first], number[first], 0)
        count[chain_of] = (total - before[owner])[chain_of]
    negative = np.minimum.reduceat(count, first) < 0
    sums = np.add.reduceat(count, first)
    areas = np.add.reduceat(np.where(index % 2, count, 0), first)
    pixels = sizes[:, 0].astype(np.int64) * sizes[:, 1]
    reasons = []
    for i in range(len(texts)):
        if alien[i]:
            reasons.append('counts hold characters that no RLE has')
        elif cut[i]:
            reasons.append('counts end in the middle of a number')
        elif long[i] or negative[i]:
            reasons.append('counts hold a run below 0 or beyond any image')
        elif sums[i] != pixels[i]:
            reasons.append(f'counts sum to {sums[i]}, the image has {pixels[i]} pixels')
        else:
            reasons.append('')
    return areas, np.diff(np.append(first, len(owner))), reasons
