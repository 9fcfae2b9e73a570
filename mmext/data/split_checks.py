"""Whether the training data holds what the model is validated on. No torch."""

import os
import re
from collections import defaultdict
from pathlib import Path

from mmext.analysis.findings import Finding, first
from mmext.data.coco_file import CocoFile

# frame_0012.png: a prefix without digits and a number, as every folder of a film or a microscope counts anew
_COUNTED = re.compile(r'(\D*)(\d+)\.\w+')


def check_split(train: CocoFile, val: CocoFile, folders: tuple[Path, Path] | None = None) -> list[Finding]:
    """Look for images of the validation in the training data, by name and by what is drawn on them.

    A name alone proves little where each folder counts from 0 (``train/0000.png``, ``val/0000.png``): such names are
    information, and the very objects on an image of that name tell that it is one. So are names in folders of their own
    (``slide_1/a.png``, ``slide_2/a.png``).

    Args:
        train: what is trained on.
        val: what is validated on.
        folders: of their images, which tell whether two names are one file; None when they are not known.

    Returns:
        At most one finding.
    """
    if _same_file(train, val):
        text = (
            f'train and val read the same annotations ({val.path}): validation says how well the model knows its training.'
        )
        remedy = 'Split the images in two files and set val_dataloader.dataset.ann_file and val_evaluator.ann_file.'
        return [Finding('same-annotation-file', 'severe', text, len(val.images), remedy=remedy, where='val')]
    certain, alike = _pairs(train, val, folders)
    if certain:
        text = (
            f'{len(certain)} of {len(val.images)} images to validate on are trained on too (same name, and the same file or '
            'the same objects): validation figures are too good.'
        )
        return [_finding('image-in-train-and-val', 'severe', text, certain)]
    if not alike:
        return []
    # slide_1/0.png and slide_2/0.png: names of one folder a slide tell nothing
    telling = [pair for pair in alike if _path(pair[0]) == _path(pair[1])]
    alike = telling or alike
    text = f'{len(alike)} of {len(val.images)} images to validate on have the name of a training image, with other objects'
    if _numbered(train) and _numbered(val):
        text += '; the names are numbers, so they are probably other images'
        return [_finding('image-name-in-train-and-val', 'information', f'{text}.', alike)]
    if not telling:
        text += ' and in another folder, so they are probably other images'
    severity = 'warning' if telling else 'information'
    return [_finding('image-name-in-train-and-val', severity, f'{text}.', alike)]


def _pairs(train: CocoFile, val: CocoFile, folders: tuple[Path, Path] | None) -> tuple[list, list]:
    """Pairs of an image of train and one of val with the same base name: those that are one image for certain, by the file
    or by their objects, and the others. Of each image of val at most one."""
    shared = {_base(image['file_name']) for image in train.images} & {_base(image['file_name']) for image in val.images}
    ours, theirs = ([image for image in coco.images if _base(image['file_name']) in shared] for coco in (train, val))
    drawn, seen = (_objects(coco, {image['id'] for image in images}) for coco, images in ((train, ours), (val, theirs)))
    # the first of each: the examples follow the order of the file
    of_file = {} if folders is None else {_file(folders[0], image): image for image in reversed(ours)}
    of_objects = {(_base(image['file_name']), frozenset(drawn.get(image['id'], ()))): image for image in reversed(ours)}
    of_name = {_base(image['file_name']): image for image in reversed(ours)}
    of_path = {_path(image): image for image in reversed(ours)}
    certain, alike = [], []
    for image in theirs:
        base, objects = _base(image['file_name']), frozenset(seen.get(image['id'], ()))
        same = (of_file.get(_file(folders[1], image)) if folders else None) or (
            of_objects.get((base, objects)) if objects else None
        )
        (certain if same else alike).append((same or of_path.get(_path(image)) or of_name[base], image))
    return certain, alike


def _finding(code: str, severity: str, text: str, pairs: list[tuple[dict, dict]]) -> Finding:
    examples = first(
        f'{theirs["file_name"]}: image {theirs["id"]} of val, image {ours["id"]} of train' for ours, theirs in pairs
    )
    remedy = 'Take them out of one of the two files.'
    if code == 'image-name-in-train-and-val':
        remedy = 'Run `mmext check CONFIG --images`, which compares the pictures; take equal ones out of one file.'
    return Finding(code, severity, text, len(pairs), examples, remedy, 'val')


def _same_file(train: CocoFile, val: CocoFile) -> bool:
    if os.path.realpath(train.path) == os.path.realpath(val.path):
        return True
    return bool(val.annotations) and (train.images, train.annotations) == (val.images, val.annotations)


def _path(image: dict) -> str:
    return image['file_name'].replace('\\', '/')


def _base(file_name: str) -> str:
    return file_name.replace('\\', '/').rsplit('/', 1)[-1]


def _file(folder: Path, image: dict) -> str:
    return os.path.realpath(folder / image['file_name'])


def _objects(coco: CocoFile, images: set[int]) -> dict[int, set[tuple]]:
    """Boxes of the objects on each of some images, in tenths of a pixel."""
    found = defaultdict(set)
    for annotation in coco.annotations:
        if annotation['image_id'] in images:
            found[annotation['image_id']].add(tuple(round(value, 1) for value in annotation['bbox']))
    return found


def _numbered(coco: CocoFile) -> bool:
    """Whether all file names are one prefix and a number."""
    matches = [_COUNTED.fullmatch(_base(image['file_name'])) for image in coco.images]
    return all(matches) and len({match[1] for match in matches}) == 1
