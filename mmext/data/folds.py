"""A COCO file cut into folds for cross-validation: even in its classes, and no sample in two of them. No torch."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmext.atomic_file import write_atomically
from mmext.data.coco_file import CocoFile, read_coco, read_document
from mmext.errors import InputError, some

SCHEMA_VERSION = 1
# what was done, in the folder of the folds
RECORD = 'folds.json'


@dataclass(frozen=True)
class Folds:
    """``fold`` (0 to ``number`` - 1) in which each image of ``coco`` is validated on and its ``group``, both in the file's
    order, and what they were made with."""

    coco: CocoFile
    sha256: str
    fold: tuple[int, ...]
    group: tuple[str, ...]
    number: int
    seed: int
    group_by: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f'fold{k}' for k in range(self.number))


@dataclass(frozen=True)
class FoldRow:
    """Images, groups and instances of each class of a fold, each as (train, val). Crowd regions are no instances."""

    name: str
    images: tuple[int, int]
    groups: tuple[int, int]
    instances: dict[str, tuple[int, int]]


def make_folds(ann_file: str | Path, number: int, group_by: str | None = None, seed: int = 0) -> Folds:
    """Cut a COCO file into folds.

    Args:
        ann_file: the COCO file.
        number: of folds, at least 2.
        group_by: regular expression that is searched for in each image's ``file_name``; its first group, or without one the
            whole match, names the sample that the image is of, and a sample stays in one fold. None: each file is one.
        seed: same seed, same folds.

    Raises:
        InputError: the file cannot be used, ``group_by`` is no regular expression or is not found in a name, or there are
            fewer groups than folds.
    """
    from mmext.analysis.predictions import file_hash  # inside: it needs NumPy

    if number < 2:
        raise InputError(f'--folds: {number} is too few. Give 2 or more; 5 is usual.')
    coco = read_coco(ann_file)
    groups = groups_of([image['file_name'] for image in coco.images], group_by)
    different = len(set(groups))
    if different < number:
        what = f"groups by '{group_by}'" if group_by else 'images'
        raise InputError(
            f'{coco.path}: {different} {what} cannot fill {number} folds: each needs one at least. Give --folds {different} '
            f'or fewer{", or a --group-by that tells more samples apart" if group_by else ""}.'
            if different > 1
            else f'{coco.path}: {different} {what}: there is nothing to cut into folds.'
        )
    return Folds(coco, file_hash(coco.path), assign(coco, groups, number, seed), tuple(groups), number, seed, group_by)


def groups_of(file_names: Sequence[str], group_by: str | None) -> list[str]:
    """The group of each file name.

    Raises:
        InputError: ``group_by`` is no regular expression, or is not found in some names.
    """
    if group_by is None:
        return list(file_names)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(f"--group-by: '{group_by}' is not a regular expression: {error}.") from None
    found = [pattern.search(name) for name in file_names]
    keys = [match and match[1 if pattern.groups else 0] for match in found]
    without = [name for name, key in zip(file_names, keys, strict=True) if not key]
    if without:
        raise InputError(
            f"--group-by: '{group_by}' finds no group in {len(without)} of {len(file_names)} file names: {some(without)}. "
            'Every image must have one: (.*) before what numbers the frames of a sample, as in "(.*)_frame" for '
            'slide1_frame02.png.'
        )
    return keys


def assign(coco: CocoFile, groups: Sequence[str], number: int, seed: int) -> tuple[int, ...]:
    """The fold of each image, so that each has its share of the instances of every class, and of the images.

    An image has instances of several classes, and scikit-learn's StratifiedGroupKFold takes one label a sample. So its
    samples are the instances, with their classes, and each image once more under a label of its own; they are held together
    by the group of their image.

    Args:
        groups: of each image, at least ``number`` different ones.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    place = {image['id']: i for i, image in enumerate(coco.images)}
    objects = [(place[a['image_id']], a['category_id']) for a in coco.annotations if not a.get('iscrowd')]
    label = {category['id']: i for i, category in enumerate(coco.categories, 1)}
    of_image = np.array([*range(len(coco.images)), *(i for i, _ in objects)])
    labels = np.array([0] * len(coco.images) + [label[category] for _, category in objects])
    keys = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    of_group = np.array([keys[key] for key in groups])[of_image]
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    folds = np.zeros(len(coco.images), int)
    with warnings.catch_warnings():
        # a class of fewer instances than folds: fold_lines says it with the class's name
        warnings.filterwarnings('ignore', message='The least populated class')
        for k, (_, held_out) in enumerate(splitter.split(labels, labels, of_group)):
            folds[of_image[held_out]] = k
    return tuple(folds.tolist())


def fold_rows(folds: Folds) -> list[FoldRow]:
    """What is in each fold."""
    fold_of = dict(zip((image['id'] for image in folds.coco.images), folds.fold, strict=True))
    names = {category['id']: category['name'] for category in folds.coco.categories}
    chosen = [a for a in folds.coco.annotations if not a.get('iscrowd')]
    counts = Counter((names[a['category_id']], fold_of[a['image_id']]) for a in chosen)
    total = Counter(names[a['category_id']] for a in chosen)
    groups = len(set(folds.group))
    rows = []
    for k, name in enumerate(folds.names):
        images = folds.fold.count(k)
        held_out = len({group for group, fold in zip(folds.group, folds.fold, strict=True) if fold == k})
        rows.append(
            FoldRow(
                name,
                (len(folds.fold) - images, images),
                (groups - held_out, held_out),
                {one: (total[one] - counts[one, k], counts[one, k]) for one in folds.coco.classes},
            )
        )
    return rows


def to_table(rows: Sequence[FoldRow]):
    """The rows as a table for the console, ``train / val`` in each cell."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title='Folds: train / val', title_justify='left')
    table.add_column('fold')
    for heading in ('images', 'groups', *rows[0].instances):
        table.add_column(escape(heading), justify='right')
    for row in rows:
        pairs = row.images, row.groups, *row.instances.values()
        table.add_row(row.name, *(f'{train} / {val}' for train, val in pairs))
    return table


def fold_lines(rows: Sequence[FoldRow]) -> list[str]:
    """How even the folds are, and a warning for each class that one of them lacks."""
    shares, lines = [], []
    for name in rows[0].instances:
        total = sum(rows[0].instances[name])
        if not total:
            lines.append(f'Warning: {name} has no instance in the whole file.')
            continue
        shares += [(row.instances[name][1] / total, name, row.name) for row in rows]
        for place, part in enumerate(('train', 'val')):
            without = [row.name for row in rows if not row.instances[name][place]]
            if without:
                cost = 'it is not learnt there' if part == 'train' else 'it has no AP there'
                lines.append(f'Warning: {name} is missing from {part} of {", ".join(without)}: {cost}.')
    if shares:
        (least, *where), (most, *there) = min(shares), max(shares)
        lines.insert(
            0,
            f'Of the instances of a class a fold validates on {least:.1%} ({", ".join(where)}) to {most:.1%} '
            f'({", ".join(there)}); even would be {1 / len(rows):.1%}.',
        )
    return lines


def write_folds(folds: Folds, folder: str | Path) -> list[tuple[Path, Path]]:
    """Write ``fold0/train.json``, ``fold0/val.json``, ... and ``folds.json``, which says what was done.

    Images stay where they are: the image folder of every file is that of the original. Categories are whole and in order in
    every file.

    Returns:
        Paths of train and val of each fold.

    Raises:
        InputError: other folds lie there.
    """
    folder = Path(folder)
    record = (json.dumps(to_record(folds), indent=2, ensure_ascii=False) + '\n').encode()
    file = folder / RECORD
    if file.exists() and file.read_bytes() != record:
        raise InputError(
            f'{folder}: other folds lie there, of another file, seed, number, grouping or scikit-learn ({RECORD} says of '
            'which). Give another folder, or remove this one.'
        )
    document = read_document(folds.coco.path)
    fold_of = dict(zip((image['id'] for image in folds.coco.images), folds.fold, strict=True))
    written = []
    for k, name in enumerate(folds.names):
        paths = folder / name / 'train.json', folder / name / 'val.json'
        for path, held_out in zip(paths, (False, True), strict=True):
            part = {
                **document,
                'images': [one for one in folds.coco.images if (fold_of[one['id']] == k) == held_out],
                'annotations': [one for one in folds.coco.annotations if (fold_of[one['image_id']] == k) == held_out],
            }
            write_atomically((json.dumps(part, ensure_ascii=False) + '\n').encode(), path)
        written.append(paths)
    write_atomically(record, file)
    return written


def to_record(folds: Folds) -> dict:
    """What was done, for ``folds.json``."""
    import sklearn

    ids = [image['id'] for image in folds.coco.images]
    return {
        'schema_version': SCHEMA_VERSION,
        'ann_file': folds.coco.path.name,
        'sha256': folds.sha256,
        'number': folds.number,
        'seed': folds.seed,
        'group_by': folds.group_by,
        'scikit_learn': sklearn.__version__,
        'folds': [
            {
                'name': row.name,
                'images': list(row.images),
                'groups': list(row.groups),
                'instances': {name: list(pair) for name, pair in row.instances.items()},
                'val_image_ids': [one for one, fold in zip(ids, folds.fold, strict=True) if fold == k],
            }
            for k, row in enumerate(fold_rows(folds))
        ],
    }
