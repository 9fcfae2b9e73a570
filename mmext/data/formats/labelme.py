"""LabelMe: a JSON file an image. Its group_id joins the parts of one object. No torch."""

import base64
import binascii
import io
from pathlib import Path

import numpy as np

from mmext.data.coco_file import shown
from mmext.data.formats import outlines
from mmext.data.formats.content import (
    Annotated,
    Asked,
    Content,
    Faults,
    ImageFolder,
    Picture,
    check_size,
    files_in,
    read_json,
)
from mmext.errors import InputError

_POLYGONS = (None, '', 'polygon', 'oriented_rectangle', 'rotation')


def read(path: Path, folder: Path, asked: Asked) -> Content:
    """Read LabelMe's JSON files.

    Args:
        path: a folder with them, subfolders included, or one file.
        folder: the images; those without a JSON file are not annotated, so they are left out.

    Raises:
        InputError: all that is wrong with the files, at once.
    """
    files = [path] if path.is_file() else files_in(path, ('.json',))
    images, faults = ImageFolder(folder), Faults(path)
    root = path if path.is_dir() else path.parent
    pictures: dict[str, str] = {}
    found, objects = [], []
    for file in files:
        name = file.relative_to(root).as_posix()
        try:
            document = read_json(file)
        except InputError as error:
            faults.add('files that cannot be read', str(error).removesuffix('.'))
            continue
        given = _content_fault(document)
        if given is not None:
            faults.add("files that are not LabelMe's. Move them out of the folder", f'{name}: {given}')
            continue
        in_folder = f'{name.rpartition("/")[0]}/{document["imagePath"]}'.lstrip('/')
        picture = images.find(document['imagePath'], faults, name, in_folder)
        if picture is None or not check_size(picture, document.get('imageWidth'), document.get('imageHeight'), faults, name):
            continue
        if picture.file_name in pictures:
            faults.add('images with two files. Keep one', f'{picture.file_name}: {pictures[picture.file_name]} and {name}')
            continue
        pictures[picture.file_name] = name
        found.append(picture)
        objects += _objects(document['shapes'], picture, faults, name)
    faults.raise_all()
    left = len(images.names) - len(found)
    remarks = [f'{left} images of {folder} have no LabelMe file and are left out.'] if left else []
    origins = {one.name: 'label in LabelMe files' for one in objects}
    return Content(path, f'{len(files)} LabelMe files', found, objects, origins=origins, remarks=remarks)


def _content_fault(document: object) -> str | None:
    if not isinstance(document, dict) or not isinstance(document.get('shapes'), list):
        return "it has no list 'shapes'"
    if not isinstance(document.get('imagePath'), str) or not document['imagePath']:
        return f"'imagePath' is {shown(document.get('imagePath'))}"
    return None


def _objects(shapes: list, picture: Picture, faults: Faults, name: str) -> list[Annotated]:
    """Objects of one file: shapes of the same label and group_id are one."""
    parts: dict[tuple, list[outlines.Part]] = {}
    for number, shape in enumerate(shapes, 1):
        place = f'{name} shape {number}'
        if not isinstance(shape, dict) or not isinstance(shape.get('label'), str) or not shape['label'].strip():
            faults.add('shapes without a label. Label or delete them', place)
            continue
        label = shape['label'].strip()
        part = _part(shape, picture, faults, f'{place} ({label})')
        if part is None:
            continue
        group = shape.get('group_id')
        key = (label, number, None) if group is None else (label, 0, str(group))
        parts.setdefault(key, []).append(part)
    return [Annotated(picture.file_name, key[0], outlines.segmentation(some, picture)) for key, some in parts.items()]


def _part(shape: dict, picture: Picture, faults: Faults, place: str) -> outlines.Part | None:
    kind, points = shape.get('shape_type'), shape.get('points')
    if kind == 'mask':
        return _mask(shape, picture, faults, place)
    if kind in _POLYGONS or (kind == 'rectangle' and isinstance(points, list) and len(points) == 4):
        return outlines.polygon(points, picture, faults, place)
    if kind not in ('rectangle', 'circle'):
        what = 'shapes without an area. Draw an outline in their place, or delete them'
        return faults.add(what, f'{place}: {shown(kind)}')
    ends = _two_points(points)
    if ends is None:
        return faults.add(outlines.NO_NUMBERS, f'{place}: a {kind} needs two points')
    (x1, y1), (x2, y2) = ends
    if kind == 'rectangle':
        return outlines.rectangle(x1, y1, x2, y2, picture, faults, place)
    radius = float(np.hypot(x2 - x1, y2 - y1))
    return outlines.ellipse(x1, y1, radius, radius, picture, faults, place)


def _two_points(points: object) -> np.ndarray | None:
    try:
        ends = np.array(points, float)
    except (TypeError, ValueError, OverflowError):
        return None
    return ends if ends.shape == (2, 2) and np.isfinite(ends).all() else None


def _mask(shape: dict, picture: Picture, faults: Faults, place: str) -> dict | None:
    """A PNG in base64 between the first and the last pixel of the object."""
    from PIL import Image

    ends = _two_points(shape.get('points'))
    if ends is None:
        return faults.add(outlines.NO_NUMBERS, f'{place}: a mask needs two points')
    (x1, y1), (x2, y2) = ends.astype(int)
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.get('mask') or '', validate=True))) as opened:
            if opened.size != (x2 - x1 + 1, y2 - y1 + 1):  # before it is decoded: a small file may hold a huge image
                size = f'{opened.width}x{opened.height}, its points say {x2 - x1 + 1}x{y2 - y1 + 1}'
                return faults.add('masks of another size than their points say. Draw them again', f'{place}: {size}')
            pixels = np.array(opened.convert('L')) > 0
    except (binascii.Error, TypeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        # SyntaxError is Pillow's word for a broken PNG
        return faults.add('masks that are no PNG in base64. Draw them again', place)
    return outlines.mask(pixels, int(x1), int(y1), picture, faults, place)
