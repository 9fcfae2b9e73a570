"""COCO instance files: reading them, and saying in words what is wrong with one. No torch."""

import gc
import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmext.errors import InputError, raise_all, some

# COCO's areas below which objects are small and medium, in pixels of the original image: pycocotools' Params.areaRng
SMALL, MEDIUM = 32**2, 96**2
# what MMDetection reads of each entry, with the type it must have
_FIELDS = {
    'images': {'id': int, 'file_name': str, 'width': numbers.Real, 'height': numbers.Real},
    'annotations': {'id': int, 'image_id': int, 'category_id': int, 'bbox': list, 'area': numbers.Real},
    'categories': {'id': int, 'name': str},
}


_LONGEST_SHOWN = 40


@dataclass(frozen=True)
class CocoFile:
    """A COCO file that has been checked: ``images``, ``annotations`` and ``categories`` as they stand in it; ``unusable``
    counts the annotations that were left out of it, as they name no image or have no box."""

    path: Path
    images: list[dict]
    annotations: list[dict]
    categories: list[dict]
    unusable: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Category names in the order of the file, which is the order of MMDetection's labels."""
        return tuple(category['name'] for category in self.categories)


def read_coco(path: str | Path) -> CocoFile:
    """Read a COCO file and check all that MMDetection relies on.

    Raises:
        InputError: names every kind of mistake at once: missing, not readable, truncated, not COCO, an entry without a
            field or with a wrong type, an id twice, an annotation whose image or category is not there.
    """
    path = Path(path)
    document = read_document(path)
    mistakes = [mistake for key, fields in _FIELDS.items() for mistake in _field_mistakes(key, document[key], fields)]
    if not mistakes:  # ids can be compared only when they are there
        mistakes = _reference_mistakes(document)
    raise_all([f'{path}: {mistake}' for mistake in mistakes])
    return CocoFile(path, document['images'], document['annotations'], document['categories'])


def read_document(path: Path) -> dict:
    """The JSON object of a COCO file, with its three lists; nothing in them is checked.

    Raises:
        InputError: missing, not readable, truncated, not JSON, not COCO.
    """
    document = _read_json(path)
    if not isinstance(document, dict):
        raise InputError(f'{path}: not a COCO file: it holds a {_kind(document)}, not an object with {", ".join(_FIELDS)}.')
    missing = [key for key in _FIELDS if not isinstance(document.get(key), list)]
    if missing:
        have = ', '.join(map(repr, list(document)[:8])) or 'nothing'
        raise InputError(
            f'{path}: not a COCO instance file: it has no list {" and no list ".join(map(repr, missing))}. It has: {have}.'
        )
    return document


def _kind(value: object) -> str:
    names = {dict: 'object', list: 'list', str: 'text', bool: 'true or false', type(None): 'null'}
    return names.get(type(value), 'number')


def shown(value: object) -> str:
    """A JSON value for a message: short, on one line, ASCII, whatever is in it."""

    def item(value: object) -> str:
        if isinstance(value, (list, dict)):
            return '[...]' if isinstance(value, list) else '{...}'
        text = json.dumps(value)
        return text if len(text) <= _LONGEST_SHOWN else f'{text[: _LONGEST_SHOWN - 3]}...'

    if isinstance(value, dict):
        return '{' + ', '.join(item(key) for key in list(value)[:6]) + '}'
    if not isinstance(value, list):
        return item(value)
    return f'[{", ".join([*map(item, value[:6]), *(["..."] if len(value) > 6 else [])])}]'


def annotation_bytes(path: Path) -> bytes:
    """Content of an annotation file of any format.

    Raises:
        InputError: missing, not readable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f'{path}: there is no such annotation file.') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}.') from None


def _read_json(path: Path) -> object:
    try:
        text = annotation_bytes(path).decode('utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(f'{path}: not a text file, so not COCO JSON.') from None
    if not text.strip():
        raise InputError(f'{path}: the file is empty.')
    # the collector would walk through the million lists of a large file again and again: two thirds of the time
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # a file that was cut off goes wrong at its end
        cut = ' The file ends there: it seems truncated; copy or export it again.' if error.pos >= len(text) - 1 else ''
        raise InputError(f'{path}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}.{cut}') from None
    except RecursionError:
        raise InputError(f'{path}: not COCO: its lists are nested thousands deep.') from None
    except ValueError as error:  # a number of too many digits
        raise InputError(f'{path}: not readable JSON: {error}.') from None
    finally:
        if collects:
            gc.enable()


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, kind) and (not isinstance(value, float) or math.isfinite(value))


def _field_mistakes(key: str, entries: list, fields: dict[str, type]) -> list[str]:
    wrong: dict[str, list[str]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            wrong.setdefault(f'{key} that are not objects', []).append(f'number {position + 1}')
            continue
        for field, kind in fields.items():
            if field not in entry:
                wrong.setdefault(f'{key} without {field!r}', []).append(_name(entry, position))
            elif not _is(entry[field], kind):
                wanted = {int: 'a whole number', str: 'text', list: 'a list', numbers.Real: 'a number'}[kind]
                found = f'{_name(entry, position)}: {shown(entry[field])}'
                wrong.setdefault(f'{key} whose {field!r} is not {wanted}', []).append(found)
        box = entry.get('bbox')
        if key == 'annotations' and isinstance(box, list) and not (len(box) == 4 and all(_is(v, numbers.Real) for v in box)):
            found = f'{_name(entry, position)}: {shown(box)}'
            wrong.setdefault("annotations whose 'bbox' is not [x, y, width, height]", []).append(found)
    return [f'{len(where)} {what}: {some(where)}.' for what, where in wrong.items()]


def _name(entry: dict, position: int) -> str:
    return f'id {entry["id"]}' if _is(entry.get('id'), int) else f'number {position + 1}'


def _reference_mistakes(document: dict) -> list[str]:
    mistakes = []
    for key in _FIELDS:
        twice = [number for number, count in Counter(entry['id'] for entry in document[key]).items() if count > 1]
        if twice:
            mistakes.append(f'{len(twice)} ids of {key} stand more than once: {some(twice)}. Ids must be unique.')
    names = Counter(category['name'] for category in document['categories'])
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        mistakes.append(f'{len(twice)} category names stand more than once: {some(twice)}. Names must be unique.')
    for field, key in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in document[key]}
        lost = [a for a in document['annotations'] if a[field] not in known]
        if lost:
            where = some(f'annotation {a["id"]} ({field} {a[field]})' for a in lost)
            mistakes.append(f'{len(lost)} annotations whose {field} is not among the {key}: {where}.')
    return mistakes


def count_by_class(coco: CocoFile) -> dict[str, int]:
    """Category name to number of annotations, in the order of the file; names without annotations included."""
    counts = Counter(annotation['category_id'] for annotation in coco.annotations)
    return {category['name']: counts[category['id']] for category in coco.categories}


def objects_per_image(coco: CocoFile) -> dict[int, int]:
    """Image id to number of annotations, for the images that have any."""
    return dict(Counter(annotation['image_id'] for annotation in coco.annotations))


def has_outline(segmentation: object) -> bool:
    """Whether a segmentation tells a shape: an RLE, or at least one polygon of three points or more."""
    if isinstance(segmentation, dict):
        return bool(segmentation.get('counts')) and bool(segmentation.get('size'))
    polygons = segmentation if isinstance(segmentation, list) else []
    return any(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)


def without_mask(annotations: Iterable[dict]) -> list[dict]:
    """Annotations without an outline that are not crowd regions, so that nothing tells the object's shape."""
    return [a for a in annotations if not has_outline(a.get('segmentation')) and not a.get('iscrowd')]


def dropped_in_training(coco: CocoFile) -> list[dict]:
    """Annotations that MMDetection leaves out in silence: marked ignore, area 0, or a box that is under 1 px or outside."""
    images = {image['id']: image for image in coco.images}

    def dropped(annotation: dict) -> bool:
        image = images[annotation['image_id']]
        x, y, width, height = annotation['bbox']
        inside_x = min(x + width, image['width']) - max(x, 0)
        inside_y = min(y + height, image['height']) - max(y, 0)
        empty = annotation['area'] <= 0 or width < 1 or height < 1 or inside_x <= 0 or inside_y <= 0
        return bool(annotation.get('ignore')) or empty

    return [annotation for annotation in coco.annotations if dropped(annotation)]


def missing_images(coco: CocoFile, folder: str | Path) -> list[str]:
    """File names of the COCO file that are not in the folder."""
    return [image['file_name'] for image in coco.images if not Path(folder, image['file_name']).is_file()]


def same_stem(wanted: str, names: Iterable[str]) -> str | None:
    """The first name that is the wanted one but for its suffix and for capitals."""
    stem = wanted.rsplit('.', 1)[0].lower()
    return next((name for name in names if name.rsplit('.', 1)[0].lower() == stem), None)


def _other_suffix(wanted: Path) -> str:
    """A hint at the file of the same name with another suffix; nothing where there is none."""
    there = sorted(file.name for file in wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    same = same_stem(wanted.name, there)
    return f' There is {same}: write file_name as the files are called.' if same else ''


def check_for_training(coco: CocoFile, folder: str | Path) -> list[str]:
    """What keeps a COCO file and its image folder from being trained on, in words."""
    mistakes = []
    if not Path(folder).is_dir():
        mistakes.append(f'{folder}: there is no such image folder.')
    elif not coco.images:
        mistakes.append(f'{coco.path}: the list of images is empty.')
    else:
        missing = missing_images(coco, folder)
        if missing:
            mistakes.append(
                f'{coco.path}: {len(missing)} of {len(coco.images)} images are not in {folder}: {some(missing)}. '
                f'file_name must be relative to the image folder.{_other_suffix(Path(folder, missing[0]))}'
            )
    if not coco.categories:
        mistakes.append(f'{coco.path}: the list of categories is empty, so there is no class to learn.')
    elif not coco.annotations:
        mistakes.append(f'{coco.path}: the list of annotations is empty, so there is no object to learn.')
    elif len(dropped_in_training(coco)) == len(coco.annotations):
        mistakes.append(
            f'{coco.path}: MMDetection would drop every annotation: area 0, box under 1 px or outside the image. '
            'Write area and bbox (x, y, width, height in pixels) for each.'
        )
    bare = without_mask(coco.annotations)
    if bare:
        where = some(f'annotation {a["id"]} of image {a["image_id"]}' for a in bare)
        share = 'none of the annotations has a mask' if len(bare) == len(coco.annotations) else f'{len(bare)} have no mask'
        mistakes.append(
            f"{coco.path}: {share} ('segmentation' is missing, empty or has no polygon of three points): {where}. "
            'Mask R-CNN needs an outline for every object; export with polygons or RLE.'
        )
    return mistakes


def class_difference(train: CocoFile, val: CocoFile) -> list[str]:
    """How the classes of two files differ, order included, since MMDetection numbers labels in the order of each file."""
    if train.classes == val.classes:
        return []
    if sorted(train.classes) == sorted(val.classes):
        return [
            f'{train.path} and {val.path} list the same classes in another order: {", ".join(train.classes)} and '
            f'{", ".join(val.classes)}. MMDetection numbers labels in the order of each file. Give both the same order.'
        ]
    return [
        f'{train.path} and {val.path} have other classes: {_names(train.classes)} and {_names(val.classes)}. '
        f'Only in the first: {_names(set(train.classes) - set(val.classes))}. '
        f'Only in the second: {_names(set(val.classes) - set(train.classes))}. Give both the same list of categories.'
    ]


def _names(names: Sequence[str] | set[str]) -> str:
    return ', '.join(sorted(names) if isinstance(names, set) else names) or 'none'
