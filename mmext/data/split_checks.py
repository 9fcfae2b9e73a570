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
    information, and the very objects on an image of that name tell that it is one.

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
    by_name = {_base(image['file_name']): image for image in train.images}
    pairs = [(by_name[_base(image['file_name'])], image) for image in val.images if _base(image['file_name']) in by_name]
    if not pairs:
        return []
    objects = [_objects(coco, {pair[side]['id'] for pair in pairs}) for side, coco in enumerate((train, val))]
    certain, alike = [], []
    for ours, theirs in pairs:
        drawn = objects[0][ours['id']]
        same = bool(drawn) and drawn == objects[1][theirs['id']]
        (certain if same or _one_file(ours, theirs, folders) else alike).append((ours, theirs))
    if certain:
        text = (
            f'{len(certain)} of {len(val.images)} images to validate on are trained on too (same name, and the same file or '
            'the same objects): validation figures are too good.'
        )
        return [_finding('image-in-train-and-val', 'severe', text, certain)]
    text = f'{len(alike)} of {len(val.images)} images to validate on have the name of a training image, with other objects'
    if _numbered(train) and _numbered(val):
        text += '; the names are numbers, so they are probably other images'
        return [_finding('image-name-in-train-and-val', 'information', f'{text}.', alike)]
    return [_finding('image-name-in-train-and-val', 'warning', f'{text}.', alike)]


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


def _base(file_name: str) -> str:
    return file_name.replace('\\', '/').rsplit('/', 1)[-1]


def _one_file(ours: dict, theirs: dict, folders: tuple[Path, Path] | None) -> bool:
    if folders is None:
        return False
    paths = [os.path.realpath(folder / image['file_name']) for folder, image in zip(folders, (ours, theirs), strict=True)]
    return paths[0] == paths[1]


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
