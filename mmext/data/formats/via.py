"""VGG Image Annotator 2 (and 1): a project, its annotations as JSON, or as CSV. No torch."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from mmext.data.coco_file import shown
from mmext.data.formats import outlines
from mmext.data.formats.content import Annotated, Asked, Content, Faults, ImageFolder, Picture, read_json, read_text
from mmext.errors import InputError, did_you_mean, some

_CSV_COLUMNS = ('filename', 'region_shape_attributes', 'region_attributes')
# a polygon of many corners is one cell
_LONGEST_CELL = 2**24

# file name, region number, shape_attributes, region_attributes
_Region = tuple[str, str, object, object]


def read(path: Path, folder: Path, asked: Asked) -> Content:
    """Read a file of VIA.

    The class of a region is one of its attributes: ``asked.class_attribute``, or the only one that regions have. Where none
    has any, all are of one class, ``asked.only_class``.

    Args:
        path: JSON (project or annotations) or CSV.
        folder: the images.

    Raises:
        InputError: all that is wrong with the file, at once.
    """
    images, faults = ImageFolder(folder), Faults(path)
    names, regions, listed = _from_csv(path) if path.suffix.lower() == '.csv' else _from_json(path, faults)
    faults.raise_all()
    attribute = _class_attribute(path, regions, asked)
    classes = listed.get(attribute, ())
    pictures: dict[str, Picture] = {}
    for name in names:
        picture = images.find(name, faults, 'filename')
        if picture is not None:
            pictures[name] = picture
    objects = []
    for name, number, shape, attributes in regions:
        place = f'{name} region {number}'
        label = asked.only_class if attribute is None else _label(attributes, attribute, faults, place)
        if label is not None and classes and label not in classes:
            what = f'regions of a class that the project does not list (it has: {some(classes)}). Correct them, or list it'
            faults.add(what, f'{place}: {label}')
            continue
        if label is None or name not in pictures:
            continue
        outline = _outline(shape, pictures[name], faults, f'{place} ({label})')
        if outline is not None:
            objects.append(Annotated(pictures[name].file_name, label, [outline]))
    faults.raise_all()
    told = f'region attribute {attribute!r}' if attribute else 'all regions: none has an attribute (--class-name names it)'
    origins = dict.fromkeys([*classes, *(one.name for one in objects)], told)
    return Content(path, 'VGG Image Annotator', list(pictures.values()), objects, classes, origins)


def _from_json(path: Path, faults: Faults) -> tuple[list[str], list[_Region], dict[str, tuple[str, ...]]]:
    """File names, regions, and the options of each attribute, which a project lists."""
    document = read_json(path)
    listed = {}
    if isinstance(document, dict) and '_via_img_metadata' in document:
        listed = _listed(document.get('_via_attributes'))
        document = document['_via_img_metadata']
    if not isinstance(document, dict):
        raise InputError(f'{path}: not of VIA: it holds no object of images.')
    names, regions = [], []
    for key, entry in document.items():
        if not isinstance(entry, dict) or not isinstance(entry.get('filename'), str):
            faults.add("images without a 'filename'. Export the file again", key)
            continue
        names.append(entry['filename'])
        # VIA 1 numbers them in an object
        given = entry.get('regions') or []
        if not isinstance(given, (dict, list)):
            faults.add("images whose 'regions' are no list. Export the file again", entry['filename'])
            continue
        for number, region in given.items() if isinstance(given, dict) else enumerate(given, 1):
            if not isinstance(region, dict):
                faults.add('regions that are no objects. Export the file again', f'{entry["filename"]} region {number}')
                continue
            regions.append((entry['filename'], str(number), region.get('shape_attributes'), region.get('region_attributes')))
    return list(dict.fromkeys(names)), regions, listed


def _listed(attributes: object) -> dict[str, tuple[str, ...]]:
    """Options of each region attribute that has some: those to choose from."""
    regions = attributes.get('region') if isinstance(attributes, dict) else None
    return {
        name: tuple(one['options'])
        for name, one in (regions.items() if isinstance(regions, dict) else ())
        if isinstance(one, dict) and isinstance(one.get('options'), dict)
    }


def _from_csv(path: Path) -> tuple[list[str], list[_Region], dict[str, tuple[str, ...]]]:
    names, regions = {}, []
    for line, row in _rows(path):
        names[row['filename']] = None
        try:
            shape, attributes = (json.loads(row[key] or '{}') for key in _CSV_COLUMNS[1:])
        except (ValueError, RecursionError):
            raise InputError(
                f'{path}: line {line}: its shape or its attributes are not JSON. Export the file again.'
            ) from None
        if shape:
            regions.append((row['filename'], row.get('region_id') or f'in line {line}', shape, attributes))
    return list(names), regions, {}


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=''))
    try:
        columns = [name.lstrip('#').strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        missing = [name for name in _CSV_COLUMNS if name not in columns]
        if missing:
            raise InputError(f'{path}: not of VIA: no column {some(missing)}. It has: {some(columns) or "nothing"}.')
        for row in reader:
            if any(row.get(name) is None for name in _CSV_COLUMNS):
                raise InputError(f'{path}: line {reader.line_num} has too few cells. If it was cut off, export it again.')
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f'{path}: line {reader.line_num}: not CSV: {error}.') from None


def is_csv(path: Path) -> bool:
    """Whether a CSV file has VIA's columns."""
    try:
        with path.open(encoding='utf-8-sig', errors='replace') as file:
            return 'region_shape_attributes' in file.readline()
    except OSError:
        return False


def _class_attribute(path: Path, regions: list[_Region], asked: Asked) -> str | None:
    """The attribute that holds the class; None where no region has any."""
    found = dict.fromkeys(
        name for *_, attributes in regions if isinstance(attributes, dict) for name, value in attributes.items() if value
    )
    if asked.class_attribute is not None:
        if asked.class_attribute not in found:
            raise InputError(
                f'--class-attribute: no region of {path} has {asked.class_attribute!r}. '
                f'{did_you_mean(asked.class_attribute, found)}They have: {some(found) or "no attribute"}.'
            )
        return asked.class_attribute
    if len(found) > 1:
        raise InputError(
            f'{path}: regions have several attributes: {some(found)}. Say which is the class: --class-attribute '
            f'{next(iter(found))}'
        )
    return next(iter(found), None)


def _label(attributes: object, attribute: str, faults: Faults, place: str) -> str | None:
    """A region's class: text, or of a checkbox the option that is ticked."""
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        if len(ticked) > 1:
            return faults.add(f'regions of several classes ({attribute}). Keep one', f'{place}: {", ".join(ticked)}')
        value = ticked[0] if ticked else None
    label = str(value).strip() if value is not None else ''
    return label or faults.add(f'regions without a class ({attribute}). Set it, or delete them', place)


def _outline(shape: object, picture: Picture, faults: Faults, place: str) -> list[float] | None:
    if not isinstance(shape, dict):
        return faults.add('regions without a shape. Export the file again', place)
    kind = shape.get('name')
    value = shape.get
    if kind == 'polygon':
        xs, ys = value('all_points_x'), value('all_points_y')
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            return faults.add(outlines.NO_NUMBERS, place)
        return outlines.polygon(list(zip(xs, ys, strict=True)), picture, faults, place)
    if kind == 'rect':
        x, y, width, height = (value(key) for key in ('x', 'y', 'width', 'height'))
        if not all(isinstance(one, (int, float)) for one in (x, y, width, height)):
            return faults.add(outlines.NO_NUMBERS, place)
        return outlines.rectangle(x, y, x + width, y + height, picture, faults, place)
    if kind == 'circle':
        return outlines.ellipse(value('cx'), value('cy'), value('r'), value('r'), picture, faults, place)
    if kind == 'ellipse':
        turn = value('theta') or 0  # radians; VIA 1 has none
        return outlines.ellipse(value('cx'), value('cy'), value('rx'), value('ry'), picture, faults, place, turn)
    what = 'shapes without an area. Draw an outline in their place, or delete them'
    return faults.add(what, f'{place}: {shown(kind)}')
