"""Annotations of any tool as COCO documents: a module a format, and which one files are of. No torch."""

import re
from collections.abc import Callable
from pathlib import Path

from mmext.data.coco_file import annotation_bytes
from mmext.data.formats import cvat, label_maps, labelme, via, yolo
from mmext.data.formats.content import Asked, Content, files_in
from mmext.data.image_windows import SUFFIXES
from mmext.errors import InputError, some

COCO = 'coco'
# each takes where the annotations are, the image folder and what the person said
READERS: dict[str, Callable[[Path, Path, Asked], Content]] = {
    'label-maps': label_maps.read,
    'yolo': yolo.read,
    'labelme': labelme.read,
    'cvat': cvat.read,
    'via': via.read,
}
NAMES = (COCO, *READERS)
_ALLOWED = (
    'Known are: a COCO file (.json), a folder of label maps (.png, .tif), YOLO segmentation (data.yaml, or a folder of '
    '.txt), a folder of LabelMe files (.json), CVAT for images (.xml), VGG Image Annotator 2 (.json, .csv).'
)
# those that are one file; of the others the folder is read
_ONE_FILE = (COCO, 'cvat', 'via')
# a whole file of JSON is not parsed to see whose it is: words that stand in it as keys
_JSON_KEYS = (
    ('via', (b'"_via_img_metadata"',)),
    (COCO, (b'"images"', b'"annotations"', b'"categories"')),
    ('via', (b'"shape_attributes"', b'"region_attributes"')),
    ('labelme', (b'"shapes"', b'"imagePath"')),
)
_YOLO_LINE = re.compile(rb'\s*\d+(\.0+)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}\s*(\n|\r|$)')
_HEAD = 4096
# of a folder: LabelMe's files hold their images, and may be thousands
_JSON_LOOKED_AT = 20


def recognise(path: Path, images: Path, asked: Asked) -> tuple[str, Path]:
    """The format of annotations, and the file or folder for its reader.

    Args:
        path: what a person named: a file, or a folder that holds annotations of one format.
        images: the image folder; it may be the same.
        asked: its ``format`` is taken where it is given.

    Raises:
        InputError: nothing is there, of no known format, or of several.
    """
    if not path.is_dir():
        if not path.exists() and (asked.format or path.suffix.lower() != '.json'):
            raise InputError(f'{path}: there is no such annotation file or folder.')
        return asked.format or _of_file(path), path
    found = _in_folder(path, images)
    if asked.format:
        found = {asked.format: found.get(asked.format, [])}
    if not found:
        raise InputError(f'{path}: no annotations of a known format in it. {_ALLOWED}')
    if len(found) > 1:
        seen = some(f'{name} ({files[0].relative_to(path)})' for name, files in found.items())
        raise InputError(f'{path}: annotations of several formats: {seen}. Say which is meant: --format {next(iter(found))}')
    (name, files), *_ = found.items()
    if name not in _ONE_FILE:
        return name, path
    if len(files) != 1:
        there = some(file.name for file in files) or 'none'
        raise InputError(f'{path}: one file of {name} is needed, and it has: {there}. Give the file in place of the folder.')
    return name, files[0]


def _of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == '.json':
        return (path.is_file() and _of_json(path)) or COCO  # its reader says what is wrong
    if suffix in yolo.YAML:
        return 'yolo'
    if suffix == '.xml':
        return 'cvat'
    if suffix == '.csv':
        return 'via'
    if suffix in SUFFIXES:
        raise InputError(f'{path}: one image. Of label maps give their folder: {path.parent}')
    if suffix in ('.zip', '.gz', '.tar', '.7z'):
        raise InputError(f'{path}: an archive. Unpack it, and give what is in it.')
    raise InputError(f'{path}: annotations of no known format. {_ALLOWED}')


def _of_json(path: Path) -> str | None:
    content = annotation_bytes(path)
    return next((name for name, keys in _JSON_KEYS if all(key in content for key in keys)), None)


def _in_folder(path: Path, images: Path) -> dict[str, list[Path]]:
    """Formats of which a folder has files, with these. Images count as label maps where there is nothing else."""
    found: dict[str, list[Path]] = {}
    for file in files_in(path, ('.json',))[:_JSON_LOOKED_AT]:
        name = _of_json(file)
        if name:
            found.setdefault(name, []).append(file)
    for suffixes, name, fits in (
        (('.xml',), 'cvat', lambda file: b'<annotations' in _head(file)),
        (('.csv',), 'via', via.is_csv),
        (('.txt',), 'yolo', lambda file: _YOLO_LINE.match(_head(file))),
        (yolo.YAML, 'yolo', yolo.has_names),
    ):
        files = [file for file in files_in(path, suffixes) if fits(file)]
        if files:
            found.setdefault(name, []).extend(files)
    if found:
        return found
    together = path.resolve() == images.resolve()
    maps = [one for one in files_in(path, SUFFIXES) if not together or label_maps.is_named_map(one)]
    return {'label-maps': maps} if maps else {}


def _head(path: Path) -> bytes:
    try:
        with path.open('rb') as file:
            return file.read(_HEAD)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}.') from None
