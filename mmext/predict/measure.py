"""Shapes of instances: the numbers of the per-instance table and its summary. No torch.

What each number is, its error as measured, and what it is not good for: docs/measure.md.
"""

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmext.analysis.mask_window import draw, window_of
from mmext.errors import InputError
from mmext.predict.centerline import length_and_width
from mmext.predict.instances import Instances

# as they are written in names of columns; both code points of the micro sign mean um
UNITS = ('nm', 'um', 'mm', 'cm', 'm')
# powers of a length: of these a pixel size makes columns in units
LENGTHS = {
    'area': 2,
    'perimeter': 1,
    'length': 1,
    'width': 1,
    'feret_max': 1,
    'feret_min': 1,
    'centroid_x': 1,
    'centroid_y': 1,
}
SUMMARISED = ('area', 'length', 'width')
# a sum of widths is no quantity
SUMMED = ('area', 'length')


@dataclass(frozen=True)
class Shape:
    """Of one mask, in pixels of its image; NaN where a mask has none: all but the area and the border of an empty mask.

    Args:
        area: its pixels; the holes are not in it.
        perimeter: Crofton's, over four directions (scikit-image), of the whole mask: pieces, holes, and the cut at a border.
        length: along the centre line of the largest piece, from edge to edge, ends included (``centerline``).
        width: mean across that line.
        feret_max: largest distance between two parallel tangents, of the whole mask.
        feret_min: smallest such distance.
        circularity: 4 π area / perimeter², not clipped: a value above 1 says that the mask is too small for it.
        centroid_x: from the image's left edge: the first pixel's middle is at 0.5, as in the boxes.
        centroid_y: from its top edge.
        touches_border: a pixel lies in the image's first or last row or column: the object may go on outside.
    """

    area: float
    perimeter: float
    length: float
    width: float
    feret_max: float
    feret_min: float
    circularity: float
    centroid_x: float
    centroid_y: float
    touches_border: bool


@dataclass(frozen=True)
class PixelSize:
    """Side of a pixel: ``value`` in ``unit``, one of ``UNITS``."""

    value: float
    unit: str


def parse_pixel_size(text: str) -> PixelSize:
    """``'0.65um'``, ``'0.65 µm'`` or ``'650 nm'``.

    Raises:
        InputError: not a positive number followed by a unit.
    """
    found = re.fullmatch(r'\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*', text)
    value, unit = (float(found[1]), found[2].translate({0xB5: 'u', 0x3BC: 'u'})) if found else (math.nan, '')
    if unit not in UNITS or not 0 < value < math.inf:
        raise InputError(
            f'pixel size {text!r}: it must be a positive number with a point and one of the units {", ".join(UNITS)} '
            '(µm is um). Write the side of a pixel, for example 0.65um.'
        )
    return PixelSize(value, unit)


def measure(rle: Mapping) -> Shape:
    """Shape of a mask, drawn on its own window alone: time and memory follow the object, not the image.

    Args:
        rle: compressed COCO RLE with ``size`` (height, width) and ``counts``.
    """
    height, width = rle['size']
    window = x1, y1, x2, y2 = window_of(rle)
    mask = draw(rle, window).astype(bool)
    if not mask.any():
        return Shape(0.0, *[math.nan] * 8, touches_border=False)
    from skimage.measure import perimeter_crofton

    area = float(np.count_nonzero(mask))
    perimeter = float(perimeter_crofton(mask, directions=4))
    rows, columns = np.nonzero(mask)
    return Shape(
        area,
        perimeter,
        *length_and_width(mask),
        *feret_diameters(mask),
        4 * math.pi * area / perimeter**2,
        float(columns.mean()) + x1 + 0.5,
        float(rows.mean()) + y1 + 0.5,
        touches_border=x1 == 0 or y1 == 0 or x2 == width or y2 == height,
    )


def feret_diameters(mask: np.ndarray) -> tuple[float, float]:
    """Largest and smallest distance between two parallel lines that hold the mask between them.

    The hull is that of the middles of the pixels' sides, scikit-image's choice: the corners would make round and oblique
    objects larger. The smallest distance stands on a side of the hull (rotating calipers, Toussaint 1983), the largest joins
    two of its corners.

    Args:
        mask: (H, W) bool, not empty.
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    points = []
    for filled, order in ((mask, (0, 1)), (mask.T, (1, 0))):
        lines = np.flatnonzero(filled.any(1))
        first = filled[lines].argmax(1)
        last = filled.shape[1] - filled[lines, ::-1].argmax(1)
        points += [np.stack((lines + 0.5, side), 1)[:, order] for side in (first, last)]
    points = np.concatenate(points)
    hull = points[ConvexHull(points).vertices]
    sides = np.roll(hull, -1, 0) - hull
    across = np.stack((-sides[:, 1], sides[:, 0])) / np.linalg.norm(sides, axis=1)
    return float(pdist(hull).max()), float(np.ptp(hull @ across, axis=0).min())


def columns(pixel_size: PixelSize | None = None) -> list[str]:
    """Names of the columns of ``table``, in their order; each length or area ends in its unit."""
    in_pixels = [f'{name}_px' for name in LENGTHS]
    in_units = [_in_units(name, pixel_size) for name in LENGTHS] if pixel_size else []
    place = in_pixels.index('centroid_x_px')
    return [
        *('image', 'instance', 'class', 'score'),
        *in_pixels[:place],
        'circularity',
        *in_pixels[place:],
        'touches_border',
        *in_units,
    ]


def table(instances: Instances, image_name: str, pixel_size: PixelSize | None = None) -> list[dict]:
    """One row an instance, in their order; ``instance`` counts from 1. None where a mask has no such number.

    Args:
        instances: of one image.
        image_name: goes into each row.
        pixel_size: adds the columns in units; those in pixels stay.
    """
    rows = []
    for number, (label, score, rle) in enumerate(zip(instances.labels, instances.scores, instances.rles, strict=True), 1):
        shape = measure(rle)
        row = {
            'image': image_name,
            'instance': number,
            'class': instances.class_names[label],
            'score': float(score),
            'circularity': _number(shape.circularity),
            'touches_border': shape.touches_border,
        }
        for name, power in LENGTHS.items():
            value = getattr(shape, name)
            row[f'{name}_px'] = _number(value)
            if pixel_size:
                row[_in_units(name, pixel_size)] = _number(value * pixel_size.value**power)
        rows.append({name: row[name] for name in columns(pixel_size)})
    return rows


def summary_columns(pixel_size: PixelSize | None = None) -> list[str]:
    """Names of the columns of ``summary``, in their order."""
    units = [f'{name}_px' for name in SUMMARISED]
    if pixel_size:
        units += [_in_units(name, pixel_size) for name in SUMMARISED]
    return ['image', 'class', 'count', *(name for unit in units for name in _statistics_of(unit))]


def summary(rows: Sequence[Mapping], images: Iterable[str] = (), classes: Iterable[str] = ()) -> list[dict]:
    """One row an image and class: count; mean, standard deviation and median of area, length, width; sums of the first two.

    Args:
        rows: of ``table``, of any number of images.
        images: all that were looked at; with ``classes`` they give a row of count 0 where nothing was found, without which a
            mean count over images is too high.
        classes: all that there are.

    Returns:
        First every given image with every given class, then what else the rows hold. The standard deviation is that of a
        sample (n - 1), None of one instance; a number is None where there is nothing to take it of.
    """
    groups = {place: [] for place in itertools.product(images, classes)}
    for row in rows:
        groups.setdefault((row['image'], row['class']), []).append(row)
    measured = [name for row in rows[:1] for name in row if name.rsplit('_', 1)[0] in SUMMARISED]
    return [
        {'image': image, 'class': kind, 'count': len(group)}
        | {name: value for column in measured for name, value in _statistics(column, group).items()}
        for (image, kind), group in groups.items()
    ]


def _statistics(column: str, rows: Sequence[Mapping]) -> dict[str, float | None]:
    values = [row[column] for row in rows if row[column] is not None]
    found = (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
        statistics.median(values) if values else None,
        math.fsum(values),
    )
    return dict(zip(_statistics_of(column), found, strict=False))


def _statistics_of(column: str) -> list[str]:
    names = ['mean', 'sd', 'median', *(['sum'] if column.rsplit('_', 1)[0] in SUMMED else [])]
    return [f'{column}_{name}' for name in names]


def _in_units(name: str, pixel_size: PixelSize) -> str:
    power = LENGTHS[name]
    return f'{name}_{pixel_size.unit}{power if power > 1 else ""}'


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
