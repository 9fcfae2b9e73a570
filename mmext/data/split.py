"""Training and validation annotations as a config needs them: of any format, without crowds, split. No torch."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from mmext.data import formats
from mmext.data.coco_file import CocoFile, check_for_training, class_difference, count_by_class, read_coco, read_document
from mmext.data.crowd import NOTABLE, as_instances, crowd_by_class
from mmext.data.folds import assign, groups_of
from mmext.data.formats.content import Asked, Content, check_names, class_lines, classes_of, to_coco
from mmext.errors import InputError, raise_all, some

# stands first in every annotation file that we write, and says so
MARK = 'mmext_init'
# a share of images to validate on is made of folds; more tell shares apart that nobody needs
_MOST_FOLDS = 20
# a share that is missed by more is said
_FAR = 0.1


@dataclass(frozen=True)
class Part:
    """Annotations to train or to validate on, ``train`` or ``val``, from ``source``, with their image ``folder``;
    ``document``: what is to be written at ``coco.path``, None where the person's own file is used; ``lines``: for the
    person."""

    name: str
    source: Path
    coco: CocoFile
    folder: Path
    document: dict | None = None
    lines: tuple[str, ...] = ()


def copy_path(out: Path, part: str) -> Path:
    """Where the annotations of a part without crowds are written, beside the config that uses them."""
    return out.with_name(f'{out.stem}_{part}_crowd-as-instances.json')


def annotations_path(out: Path, part: str) -> Path:
    """Where the annotations of a part that were converted or split are written, beside the config that uses them."""
    return out.with_name(f'{out.stem}_{part}_annotations.json')


def read_parts(
    given: Mapping[str, tuple[Path, Path]], out: Path, asked: Asked, crowd_as_instances: bool = False, split: bool = False
) -> list[Part]:
    """Read the annotations of each part, whatever their format, and check them for training.

    Args:
        given: part to annotations and image folder.
        out: the config beside which files will be written.
        asked: what the person says of the formats.
        crowd_as_instances: every ``iscrowd=1`` with a mask becomes 0, in a copy.
        split: whether the one part will be split.

    Raises:
        InputError: all that is wrong with the files, at once.
    """
    parts, contents, mistakes = {}, {}, []
    for name, (path, folder) in given.items():
        try:
            kind, file = formats.recognise(path, folder, asked)
            if kind == formats.COCO:
                copy = annotations_path(out, name) if split else copy_path(out, name)
                parts[name] = _coco_part(name, read_coco(file), folder, copy if crowd_as_instances else None)
            else:
                contents[name] = formats.READERS[kind](file, folder, asked)
                check_names(contents[name])
                if not contents[name].objects:
                    raise InputError(f'{path}: {contents[name].kind} without an object, so there is nothing to learn from.')
        except InputError as error:
            mistakes.append(str(error))
    if not mistakes:  # the classes of what is converted are those of all parts together
        listed = dict.fromkeys(one for part in parts.values() for one in part.coco.classes)
        classes = tuple(dict.fromkeys((*listed, *classes_of(list(contents.values())))))
        for name, content in contents.items():
            parts[name] = _converted(name, content, classes, given[name][1], annotations_path(out, name))
    found = [parts[name] for name in given if name in parts]
    for part in found:
        mistakes += check_for_training(part.coco, part.folder)
    if len(found) == 2:
        mistakes += class_difference(*(part.coco for part in found))
    raise_all(mistakes)
    return found


def _coco_part(name: str, coco: CocoFile, folder: Path, copy: Path | None) -> Part:
    """A COCO file as it is, or without crowds in ``copy``."""
    if copy is None:
        return Part(name, coco.path, coco, folder, None, tuple(_crowd_lines(coco, name)))
    document, changed = as_instances(read_document(coco.path))
    if not changed:
        line = f'  {coco.path}: no annotation is iscrowd=1 with a mask, so it is used as it is.'
        return Part(name, coco.path, coco, folder, None, (line,))
    left = sum(bool(annotation.get('iscrowd')) for annotation in document['annotations'])
    rest = f' {left} crowds without a mask stay as they are.' if left else ''
    line = (
        f'  {coco.path}: {changed} of {len(coco.annotations)} annotations are set from iscrowd=1 to 0 in a copy, {copy}. '
        f'The file itself is left as it is.{rest}'
    )
    changed_file = replace(coco, path=copy, annotations=document['annotations'])
    return Part(name, coco.path, changed_file, folder, document, (line,))


def _crowd_lines(coco: CocoFile, part: str) -> list[str]:
    """Classes that are crowd regions to a notable part, and the option that makes objects of them."""
    crowded = [f'{crowd} of {n} {name}' for name, (crowd, n) in crowd_by_class(coco).items() if crowd > NOTABLE * n]
    if not crowded:
        return []
    use = 'does not train on them' if part == 'train' else 'measures nothing against them'
    return [
        f'  {coco.path}: crowd regions (iscrowd=1): {some(crowded)}. MMDetection {use}. If each is one object (CVAT writes '
        'masks so), run this again with --crowd-as-instances --force.'
    ]


def _converted(name: str, content: Content, classes: Sequence[str], folder: Path, target: Path) -> Part:
    document = {MARK: {'from': content.path.name, 'format': content.kind}, **to_coco(content, classes)}
    coco = CocoFile(target, document['images'], document['annotations'], document['categories'])
    lines = [f'  {content.path}: {content.kind}, as COCO in {target}', *class_lines(content)]
    lines += [f'    {remark}' for remark in content.remarks]
    return Part(name, content.path, coco, folder, document, tuple(lines))


def split_part(part: Part, share: float, group_by: str | None, seed: int, out: Path) -> list[Part]:
    """Cut the annotations of one part into train and val, even in their classes; no sample is in both.

    The share is made of folds (:func:`mmext.data.folds.assign`), of which those are taken whose images and objects of each
    class come nearest to it.

    Args:
        share: of the images to validate on, between 0 and 1.
        group_by: regular expression that finds the sample in a file name, as :func:`mmext.data.folds.groups_of` takes it.
        seed: same seed, same parts.

    Raises:
        InputError: there are fewer than two samples, or one of the parts would have no object.
    """
    coco = part.coco
    groups = groups_of([image['file_name'] for image in coco.images], group_by)
    different = len(set(groups))
    if different < 2:
        what = f"sample by '{group_by}'" if group_by else 'image'
        raise InputError(
            f'--split: {part.source} has {different} {what}, which cannot be in both parts. Give --val, or a --group-by '
            'that tells more samples apart.'
        )
    folds = _fraction(share, min(different, _MOST_FOLDS))
    held_out = _nearest(coco, assign(coco, groups, folds.denominator, seed), folds, share)
    document = part.document if part.document is not None else read_document(coco.path)
    mark = {'split': share, 'group_by': group_by, 'seed': seed}
    parts = []
    for name, is_val in (('train', False), ('val', True)):
        images = [one for one in coco.images if (one['id'] in held_out) == is_val]
        annotations = [one for one in coco.annotations if (one['image_id'] in held_out) == is_val]
        if not annotations:
            raise InputError(
                f'--split: {name} would have {len(images)} of {len(coco.images)} images and no object. Give another --seed '
                'or share, or a validation part with --val.'
            )
        origin = {'from': part.source.name} | (document.get(MARK) or {})
        rest = {key: value for key, value in document.items() if key != MARK}
        cut = {MARK: {**origin, 'part': name, **mark}, **rest, 'images': images, 'annotations': annotations}
        path = annotations_path(out, name)
        cut_file = replace(coco, path=path, images=images, annotations=annotations)
        parts.append(Part(name, part.source, cut_file, part.folder, cut))
    lines = (*part.lines, *_split_lines(parts, group_by))
    got = len(held_out) / len(coco.images)
    if abs(got - share) > _FAR:
        asked = f'{share:.0%} were asked for: {different} whole samples allow no more.'
        lines += (f'    {got:.0%} of the images are in val, {asked}',)
    return [replace(parts[0], lines=lines), parts[1]]


def _fraction(share: float, most: int) -> Fraction:
    """The fraction of up to ``most`` parts that is nearest to a share, and neither 0 nor 1."""
    found = Fraction(share).limit_denominator(most)
    return min(max(found, Fraction(1, most)), Fraction(most - 1, most))


def _nearest(coco: CocoFile, fold_of: Sequence[int], folds: Fraction, share: float) -> set[int]:
    """Ids of the images in so many neighbouring folds of all, round in a circle, that their shares of the images and of each
    class's objects are nearest to the one that is asked for; the first ones of several alike."""
    fold_of_image = dict(zip((image['id'] for image in coco.images), fold_of, strict=True))
    counts = [Counter() for _ in range(folds.denominator)]  # of each class, and of images under None
    for fold in fold_of:
        counts[fold][None] += 1
    for one in coco.annotations:
        if not one.get('iscrowd'):
            counts[fold_of_image[one['image_id']]][one['category_id']] += 1
    total = sum(counts, Counter())

    def taken(first: int) -> list[int]:
        return [(first + i) % folds.denominator for i in range(folds.numerator)]

    def distance(first: int) -> float:
        inside = sum((counts[fold] for fold in taken(first)), Counter())
        of = {key: abs(inside[key] / number - share) for key, number in total.items()}
        images = of.pop(None)
        return round(images + (sum(of.values()) / len(of) if of else 0), 9)

    chosen = taken(min(range(folds.denominator), key=distance))
    return {image for image, fold in fold_of_image.items() if fold in chosen}


def _split_lines(parts: Sequence[Part], group_by: str | None) -> list[str]:
    """A table: images, samples and objects of each class in both parts."""
    rows = [['part', 'images', 'samples', *parts[0].coco.classes]]
    for part in parts:
        samples = len(set(groups_of([image['file_name'] for image in part.coco.images], group_by)))
        counts = count_by_class(part.coco).values()
        rows.append([part.name, *map(str, (len(part.coco.images), samples, *counts))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    told = f"by '{group_by}'" if group_by else 'each image (frames of one specimen: --group-by)'
    return [
        f'  Split into {parts[0].coco.path} and {parts[1].coco.path}; a sample is {told}, and none is in both:',
        *('    ' + '  '.join(map(str.rjust, row, widths)) for row in rows),
    ]


def encoded(document: dict) -> bytes:
    """A document as it is written: the same bytes for the same content."""
    return (json.dumps(document, ensure_ascii=False) + '\n').encode()


def check_targets(parts: Sequence[Part], force: bool) -> None:
    """Refuse to write over what is there: without ``force`` anything, with it whatever is not of ours.

    Raises:
        InputError: a file that would be written over.
    """
    for part in parts:
        path = part.coco.path
        if part.document is None or not path.exists():
            continue
        if not force:
            raise InputError(f'--out: {path} is there already. Give another name, or --force to write over it.')
        if MARK in part.document and not _is_ours(path):
            raise InputError(
                f'--out: {path} is there already and was not written by `mmext init`. Give another name, or move that file.'
            )


def _is_ours(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(len(MARK) + 4).startswith(f'{{"{MARK}"'.encode())
