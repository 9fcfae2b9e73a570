"""What a lab reports, predicted against true, of the images of ``mmext predict``. No torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mmext.analysis.agreement import Agreement, Errors, ImagePair, Measured, Report, compare, truth_of_image
from mmext.analysis.coco_ap import Truth, truth_of
from mmext.data.coco_file import CocoFile, read_coco
from mmext.errors import InputError, some
from mmext.predict.export import csv_text
from mmext.predict.instances import Instances
from mmext.predict.measure import LENGTHS, PixelSize, measure

# what is compared besides the count, and of which power of a length it is
_MEASURES = ('area', 'length')


@dataclass(frozen=True)
class TruthFile:
    """An annotation file and which of its images are predicted: ``of_file``, file name to image id."""

    coco: CocoFile
    of_file: Mapping[str, int]

    def image_ids(self, file_names: Sequence[str]) -> dict[str, int]:
        """An id for each image: the file's own, and numbers above them for images that are not in it."""
        following = max((image['id'] for image in self.coco.images), default=0) + 1
        others = [name for name in file_names if name not in self.of_file]
        return {**self.of_file, **{name: following + i for i, name in enumerate(others)}}

    def category_ids(self, class_names: Sequence[str]) -> list[int]:
        """The file's id of each class, and numbers above them for classes that are not in it."""
        own = {category['name']: category['id'] for category in self.coco.categories}
        following = max(own.values(), default=0) + 1
        others = [name for name in class_names if name not in own]
        return [own[name] if name in own else following + others.index(name) for name in class_names]


def read_truth(ann_file: Path, file_names: Sequence[str]) -> TruthFile:
    """Find the predicted images in an annotation file: by the same path, or else by the name alone where only one has it.

    Args:
        ann_file: COCO.
        file_names: of the predicted images, relative to the folder that they share.

    Raises:
        InputError: the file cannot be read, or has none of the images.
    """
    coco = read_coco(ann_file)
    paths = {image['file_name'].replace('\\', '/'): image['id'] for image in coco.images}
    theirs = Counter(PurePosixPath(path).name for path in paths)
    ours = Counter(PurePosixPath(name).name for name in file_names)
    by_name = {PurePosixPath(path).name: number for path, number in paths.items()}
    found = {}
    for name in file_names:
        last = PurePosixPath(name).name
        if name in paths:
            found[name] = paths[name]
        elif theirs[last] == 1 and ours[last] == 1:
            found[name] = by_name[last]
    if not found:
        raise InputError(
            f'--truth: {ann_file} has none of the images: it has {some(paths, 3)}; predicted are {some(file_names, 3)}.'
        )
    return TruthFile(coco, found)


def check_truth(truth: TruthFile, class_names: Sequence[str]) -> None:
    """Refuse an annotation file that nothing can be compared with.

    Raises:
        InputError: it has none of the classes, or objects without an outline.
    """
    if not set(class_names) & set(truth.coco.classes):
        raise InputError(
            f'--truth: {truth.coco.path} has the classes {some(truth.coco.classes)}; the model has {some(class_names)}.'
        )
    truth_of_image(_truth(truth, class_names), None)


def _truth(truth: TruthFile, class_names: Sequence[str]) -> Truth:
    return truth_of(truth.coco, truth.of_file.values(), [name for name in class_names if name in truth.coco.classes])


def compare_with_truth(
    truth: TruthFile,
    found: Mapping[str, Instances],
    rows: Mapping[str, Sequence[Mapping]],
    class_names: Sequence[str],
    pixel_size: PixelSize | None,
) -> tuple[Report, list[str]]:
    """Counts, areas and lengths of each class, image by image.

    Args:
        truth: from :func:`read_truth`.
        found: file name to instances.
        rows: file name to its rows of :func:`mmext.predict.measure.table`.
        class_names: those that are compared.
        pixel_size: areas and lengths are in its unit; None: in pixels.

    Returns:
        The report, and a remark where images could not be compared.

    Raises:
        InputError: each image has another size than the annotation file says.
    """
    whole = _truth(truth, class_names)
    sizes = {image['id']: (image['height'], image['width']) for image in truth.coco.images}
    known = [name for name in found if name in truth.of_file]
    other = {
        name: f'{name} ({_shown(found[name].size)}, in the file {_shown(sizes[truth.of_file[name]])})'
        for name in known
        if tuple(found[name].size) != sizes[truth.of_file[name]]
    }
    if other and len(other) == len(known):
        raise InputError(
            f'--truth: {truth.coco.path} has other sizes for all images, width by height: {some(other.values())}. Give the '
            'annotations of the images as they are predicted.'
        )
    pairs = [
        ImagePair(
            name, _true(whole, truth.of_file[name], class_names, pixel_size), _found(found[name], rows[name], class_names)
        )
        for name in known
        if name not in other
    ]
    left = len(found) - len(known)
    remarks = [f'{left} of {len(found)} images are not in {truth.coco.path} and are not compared.'] if left else []
    if other:
        remarks.append(
            f'{len(other)} of {len(found)} images have another size in {truth.coco.path} and are not compared, width by '
            f'height: {", ".join(other.values())}.'
        )
    return compare(pairs, class_names), remarks


def _shown(size: Sequence[int]) -> str:
    return f'{size[1]}×{size[0]}'


def _true(truth: Truth, image_id: int, class_names: Sequence[str], pixel_size: PixelSize | None) -> Measured:
    labels, rles, crowd = truth_of_image(truth, image_id)
    # labels of the file follow its own order of categories
    labels = np.array([class_names.index(truth.classes[label]) for label in labels], np.int64)
    shapes = [measure(rle) for rle in rles]
    side = pixel_size.value if pixel_size else 1.0
    values = {name: np.array([getattr(one, name) for one in shapes], float) * side ** LENGTHS[name] for name in _MEASURES}
    return Measured(labels, rles, values, crowd)


def _found(instances: Instances, rows: Sequence[Mapping], class_names: Sequence[str]) -> Measured:
    kept = [i for i, label in enumerate(instances.labels) if instances.class_names[label] in class_names]
    labels = np.array([class_names.index(instances.class_names[instances.labels[i]]) for i in kept], np.int64)
    values = {}
    for name in _MEASURES:
        # columns in units stand after those in pixels
        column = next((key for key in reversed(rows[0]) if key.rsplit('_', 1)[0] == name), None) if rows else None
        values[name] = np.array([_or_nan(rows[i][column]) for i in kept], float)
    return Measured(labels, [instances.rles[i] for i in kept], values)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def tables(report: Report, pixel_size: PixelSize | None) -> dict[str, str]:
    """File name to CSV: agreement of each class and quantity, splits and merges of each class, and both for each image."""
    named = {
        'agreement.csv': [{**row, 'quantity': _with_unit(row['quantity'], pixel_size)} for row in report.to_rows()],
        'errors.csv': report.error_rows(),
        'agreement_by_image.csv': [
            {_with_unit(key, pixel_size): value for key, value in row.items()} for row in report.image_rows()
        ],
    }
    return {name: csv_text(list(rows[0]), rows) for name, rows in named.items() if rows}


def _with_unit(name: str, pixel_size: PixelSize | None) -> str:
    """``total area`` as ``total area px`` or ``total area um2``; what is no area or length stays."""
    power = LENGTHS.get(name.rpartition(' ')[2])
    if power is None:
        return name
    unit = f'{pixel_size.unit}{power if power > 1 else ""}' if pixel_size else 'px'
    return f'{name} {unit}'


def lines_of(report: Report) -> list[str]:
    """A line for each class: how many there are and were found, the bias a image with its limits, splits and merges."""
    counts = {one.name: one for one in report.agreements if one.quantity == 'count'}
    return [
        f'Predicted against true, {len({row.image for row in report.images})} images:',
        *(_line(counts[name], errors) for name, errors in report.errors.items()),
    ]


def _line(count: Agreement, errors: Errors) -> str:
    limits = '' if count.low is None else f', limits of agreement {count.low:+.2f} to {count.high:+.2f}'
    bias = '' if count.bias is None else f'; {count.bias:+.2f} an image{limits}'
    return (
        f'  {count.name}: {errors.objects} true, {errors.predictions} predicted{bias}; {errors.split} split, '
        f'{errors.merges} merging several, {errors.missed} missed, {errors.false} false'
    )
