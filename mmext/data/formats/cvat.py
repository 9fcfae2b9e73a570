"""CVAT for images 1.1: one XML file. Shapes of one label with the same group_id are parts of one object. No torch."""

import math
from pathlib import Path

import numpy as np

from mmext.data.coco_file import annotation_bytes
from mmext.data.formats import outlines
from mmext.data.formats.content import Annotated, Asked, Content, Faults, ImageFolder, Picture, check_size
from mmext.errors import InputError

_SHAPES = ('polygon', 'mask', 'box', 'ellipse')
_WITHOUT_AREA = ('polyline', 'points', 'cuboid', 'skeleton')
# of the meta part, whose labels hold others where there are skeletons
_LABEL_PATHS = ('meta/task/labels', 'meta/project/labels', 'meta/job/labels')


def read(path: Path, folder: Path, asked: Asked) -> Content:
    """Read a file of CVAT.

    Objects keep their whole outline where others lie over them; they are in CVAT's order of drawing (z_order).

    Args:
        path: the XML file.
        folder: the images. Where it has the name of one of a project's subsets, only the images of that are read.

    Raises:
        InputError: all that is wrong with the file, at once.
    """
    root = _parse(path)
    if root.tag != 'annotations':
        raise InputError(f'{path}: not CVAT: its root is <{root.tag}>, not <annotations>.')
    if root.find('track') is not None:
        raise InputError(f"{path}: CVAT for video (it has tracks). Export the task as 'CVAT for images 1.1'.")
    entries = root.findall('image')
    subset = folder.name if folder.name in {entry.get('subset') for entry in entries} else None
    entries = [entry for entry in entries if subset is None or entry.get('subset') == subset]
    if not entries:
        raise InputError(f'{path}: no <image> in it. Export the task again, as CVAT for images 1.1.')
    images, faults = ImageFolder(folder), Faults(path)
    labels = _labels(root)
    pictures: dict[str, Picture] = {}
    objects, tags = [], 0
    for number, entry in enumerate(entries, 1):
        name = entry.get('name') or f'image number {number}'
        picture = images.find(name, faults, name, f'{entry.get("subset")}/{name}')
        size = _integer(entry.get('width')), _integer(entry.get('height'))
        if picture is None or not check_size(picture, *size, faults, name):
            continue
        if picture.file_name in pictures:
            faults.add('images that stand twice in the file. Keep one', name)
            continue
        pictures[picture.file_name] = picture
        tags += len(entry.findall('tag'))
        objects += _objects(entry, picture, labels, faults, name)
    faults.raise_all()
    remarks = [f'{tags} tags are of whole images and are not used.'] if tags else []
    origins = dict.fromkeys([*labels, *(one.name for one in objects)], f'label in {path.name}')
    return Content(path, 'CVAT for images', list(pictures.values()), objects, tuple(labels), origins, remarks)


def _parse(path: Path):
    """The root element. Entities, with which a small file can stand for gigabytes, are refused."""
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ImportError:
        raise InputError(f"{path}: reading XML needs the package defusedxml: pip install 'mmext[formats]'") from None
    content = annotation_bytes(path)
    try:
        return ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException:
        raise InputError(f'{path}: the XML declares a document type or entities, which CVAT does not write.') from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that Python lacks
        raise InputError(f'{path}: not whole XML: {error}. If it was cut off, copy or export it again.') from None


def _labels(root) -> dict[str, None]:
    """Names of the task's labels in their order; those of a skeleton's parts left out."""
    found: dict[str, None] = {}
    for place in _LABEL_PATHS:
        for label in root.findall(f'{place}/label'):
            name = label.findtext('name')
            if name and label.findtext('parent') is None:
                found[name] = None
    return found


def _integer(text: str | None) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _objects(entry, picture: Picture, labels: dict, faults: Faults, name: str) -> list[Annotated]:
    parts: dict[tuple, list[outlines.Part]] = {}
    shapes = [shape for shape in entry if shape.tag in _SHAPES + _WITHOUT_AREA]
    for number, shape in sorted(enumerate(shapes, 1), key=lambda item: _integer(item[1].get('z_order')) or 0):
        label = shape.get('label')
        place = f'{name} {shape.tag} {number}'
        if not label:
            faults.add('shapes without a label. Label or delete them', place)
            continue
        place = f'{place} ({label})'
        if labels and label not in labels:
            faults.add(
                f'shapes of a label that the file does not list (it lists: {", ".join(labels)}). Export it again', place
            )
            continue
        part = _part(shape, picture, faults, place)
        if part is None:
            continue
        group = _integer(shape.get('group_id')) or 0
        parts.setdefault((label, group, 0 if group else number), []).append(part)
    return [Annotated(picture.file_name, key[0], outlines.segmentation(some, picture)) for key, some in parts.items()]


def _part(shape, picture: Picture, faults: Faults, place: str) -> outlines.Part | None:
    if shape.tag in _WITHOUT_AREA:
        return faults.add('shapes without an area. Draw an outline in their place, or delete them', place)
    if shape.tag == 'mask':
        return _mask(shape, picture, faults, place)
    if shape.tag == 'polygon':
        points = [_floats(pair.split(',')) for pair in shape.get('points', '').split(';') if pair.strip()]
        return outlines.polygon(points, picture, faults, place)
    turn = _floats([shape.get('rotation', '0')])
    turn = math.radians(turn[0]) if turn else None
    keys = ('xtl', 'ytl', 'xbr', 'ybr') if shape.tag == 'box' else ('cx', 'cy', 'rx', 'ry')
    values = _floats([shape.get(key, '') for key in keys])
    if values is None or turn is None:
        return faults.add(outlines.NO_NUMBERS, place)
    draw = outlines.rectangle if shape.tag == 'box' else outlines.ellipse
    return draw(*values, picture, faults, place, turn)


def _floats(words: list[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _mask(shape, picture: Picture, faults: Faults, place: str) -> dict | None:
    """Runs along the rows of a window, background first."""
    left, top, width, height = (_integer(shape.get(key)) for key in ('left', 'top', 'width', 'height'))
    runs = _floats(shape.get('rle', '').split(','))
    window = [left, top, width, height]
    if None in window or runs is None or min(width, height) < 1 or not all(run >= 0 and run == int(run) for run in runs):
        return faults.add('masks whose rle, left, top, width or height are no whole numbers. Export them again', place)
    # before anything is drawn: a few characters may say gigabytes
    if left < 0 or top < 0 or left + width > picture.width or top + height > picture.height:
        reach = f'x {left} to {left + width}, y {top} to {top + height}, image {picture.width}x{picture.height}'
        return faults.add(outlines.OUTSIDE, f'{place}: {reach}')
    # some versions leave out a last run of background
    if sum(runs) > width * height:
        words = f'{sum(runs):g} pixels in a window of {width}x{height}'
        return faults.add('masks whose runs do not fill their window. Export them again', f'{place}: {words}')
    pixels = np.zeros(width * height, bool)
    runs = np.array(runs, np.int64)
    drawn = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    pixels[: len(drawn)] = drawn
    return outlines.mask(pixels.reshape(height, width), left, top, picture, faults, place)
