"""What a cross-validation found: each number over the folds, and once over all images, predicted out of fold. No torch."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.analysis.coco_ap import KINDS, NUMBERS, average_precision, match_predictions, mean_of, numbers, truth_of
from mmext.analysis.compare import BEST, COLUMNS, LAST, Column, compare, finite
from mmext.analysis.compare_report import Sheet
from mmext.analysis.config_diff import MISSING
from mmext.analysis.digest import FINISHED, STOPPED
from mmext.analysis.noise import kept_predictions
from mmext.analysis.predictions import Predictions, file_hash, pack, read_predictions
from mmext.analysis.seeds import mean_and_spread
from mmext.atomic_file import write_atomically
from mmext.console import console
from mmext.data.coco_file import CocoFile, read_coco
from mmext.errors import InputError, some

SCHEMA_VERSION = 1
# the joined predictions, in the folder of the runs
JOINED = 'out_of_fold.npz'
# rows of the table beside COCO's numbers
_SHOWN = ('mask_iou', 'coverage', 'boundary_iou', 'val_loss')
_OF_COCO = {
    f'{kind}_{name}': f'{KINDS[kind]} {metric}'
    for kind in ('segm', 'bbox')
    for metric, name in (
        ('AP', 'mAP'),
        ('AP50', 'mAP_50'),
        ('AP75', 'mAP_75'),
        ('AP small', 'mAP_s'),
        ('AP medium', 'mAP_m'),
        ('AP large', 'mAP_l'),
    )
}


@dataclass(frozen=True)
class Number:
    """A number of a cross-validation: its value in each fold and out of fold, over all images; None where there is none."""

    name: str
    folds: tuple[float | None, ...]
    pooled: float | None = None

    @property
    def over_folds(self) -> tuple[float, float | None] | None:
        """Mean and standard deviation (n - 1)."""
        return mean_and_spread(self.folds)


@dataclass(frozen=True)
class CrossValidation:
    """``names`` of the folds; ``epochs``: of the validation of each, None of one without; ``unfinished``: names of those
    that have not come to their end; ``metric``, ``at``: as in `mmext compare`; ``images`` that the out-of-fold numbers are
    of; ``remarks`` in words."""

    names: tuple[str, ...]
    epochs: tuple[float | None, ...]
    unfinished: tuple[str, ...]
    metric: str
    at: str
    numbers: tuple[Number, ...]
    images: int
    remarks: tuple[str, ...]

    def to_record(self) -> dict:
        """For JSON: docs/many-runs.md has the schema."""
        return finite(
            {
                'schema_version': SCHEMA_VERSION,
                'metric': self.metric,
                'at': self.at,
                'folds': [
                    {'name': name, 'finished': name not in self.unfinished, 'epoch': epoch}
                    for name, epoch in zip(self.names, self.epochs, strict=True)
                ],
                'numbers': {
                    one.name: {
                        'folds': list(one.folds),
                        'mean': one.over_folds and one.over_folds[0],
                        'deviation': one.over_folds and one.over_folds[1],
                        'out_of_fold': one.pooled,
                    }
                    for one in self.numbers
                },
                'images': self.images,
                'remarks': list(self.remarks),
            }
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_record(), indent=2, allow_nan=False) + '\n', encoding='utf-8')

    def to_sheet(self) -> Sheet:
        """COCO's numbers, those of each class, and the quality of the masks, as a table."""
        other = {COLUMNS[name].heading for name in _SHOWN}
        shown = {*_OF_COCO.values(), *other}
        rows = [one for one in self.numbers if one.name in shown or one.name.startswith(('mask AP, ', 'box AP, '))]
        rows = [one for one in rows if one.over_folds or one.pooled is not None]
        cells = tuple(
            (one.name, *map(_cell, one.folds), _mean_cell(one.over_folds), '' if one.name in other else _cell(one.pooled))
            for one in rows
        )
        return Sheet('Over the folds', ('number', *self.names, 'mean±sd', 'out-of-fold'), cells, frozenset({0}))

    def print(self) -> None:
        out = console()
        sheet = self.to_sheet()
        if sheet.rows:
            # the folds' own columns may go, their mean may not
            shown = sheet.fitted(out.width, range(len(self.names), 0, -1))
            out.print(shown.title, style='bold', markup=False)
            out.print(shown.to_table())
            if shown.hidden:
                out.print(f'No room for: {", ".join(shown.hidden)}. --json FILE has all.', soft_wrap=True, markup=False)
        for line in self.remarks:
            out.print(line, soft_wrap=True, markup=False)


def _cell(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else f'{value:.3f}'


def _mean_cell(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return MISSING
    mean, spread = found
    return f'{mean:.3f}' + ('' if spread is None else f' ± {spread:.3f}')


def collect(
    work_dirs: Sequence[Path], ann_file: Path, folder: Path, metric: str | None = None, at: str = BEST
) -> CrossValidation:
    """Put the results of a cross-validation together, and write ``out_of_fold.npz`` when every fold has its predictions.

    Args:
        work_dirs: of the folds; one whose run has not ended, or has not begun, is left out and named.
        ann_file: the COCO file that was cut into folds.
        folder: where ``out_of_fold.npz`` is written.
        metric: by which `mmext compare` takes the best validation; mask AP where there is one.
        at: ``'best'`` or ``'last'`` validation.

    Raises:
        InputError: no fold has ended.
    """
    answer = compare(work_dirs, metric, at)
    names = tuple(path.name for path in work_dirs)
    found = [
        next((place for place in reversed(range(len(answer.runs))) if answer.runs[place].path == path), None)
        for path in work_dirs
    ]
    ended = [place is not None and answer.runs[place].state in (FINISHED, STOPPED) for place in found]
    if not any(ended):
        raise InputError(
            f'{folder}: none of its {len(names)} folds has come to its end, so there is nothing to put together.'
        )
    rows = [answer.rows[place] if there else None for place, there in zip(found, ended, strict=True)]
    unfinished = tuple(name for name, there in zip(names, ended, strict=True) if not there)
    measured = {name: column for name, column in answer.columns.items() if column.key}
    found_numbers = [_of_column(name, column, rows) for name, column in measured.items()]
    remarks = [f'Not finished, and left out: {some(unfinished, 10)}.'] if unfinished else []
    starts = [
        [answer.runs[place].path / start for start in answer.runs[place].starts] if there else []
        for place, there in zip(found, ended, strict=True)
    ]
    kept, which = _kept(starts, ended, at)
    coco = read_coco(ann_file)
    of_classes = _by_class(kept, coco)
    pooled, images, problem = _pooled(kept, coco, names, folder)
    if problem:
        remarks.append(f'There is no out-of-fold score: {problem}')
    epochs = tuple(row and row['validation'] for row in rows)
    most = max(len(answer.runs[place].val) for place, there in zip(found, ended, strict=True) if there)
    remarks += _about_validations(names, epochs, kept, which, answer.columns[answer.metric], at, most)
    every = {one.name: one for one in [*found_numbers, *of_classes]}
    for name, value in pooled.items():
        every[name] = Number(name, every[name].folds if name in every else (None,) * len(names), value)
    if pooled:
        remarks.append(
            f'Out of fold: all {images} images in one list, each predicted by the model that had not seen it; one AP of '
            'the whole. Mean: of the AP of each fold by itself. They are different numbers: the list ranks the scores of '
            f'{len(names)} models together, and has enough objects of rare classes and sizes; the mean is what one such '
            'model gets on a fold.'
        )
    remarks.append(
        'The folds share training images, so ± is their spread and no confidence interval '
        '(mmext.analysis.bootstrap.over_folds has the corrected one for two settings).'
    )
    order = [*_OF_COCO.values(), *(one.name for one in of_classes)]
    ranked = sorted(every.values(), key=lambda one: order.index(one.name) if one.name in order else len(order))
    return CrossValidation(names, epochs, unfinished, answer.metric, at, tuple(ranked), images, tuple(remarks))


def _of_column(name: str, column: Column, rows: Sequence[Mapping | None]) -> Number:
    key = column.key.removeprefix('coco/')
    return Number(_OF_COCO.get(key, column.heading), tuple(None if row is None else row[name] for row in rows))


def _kept(starts: Sequence[Sequence[Path]], ended: Sequence[bool], at: str) -> tuple[list[Predictions | None], str]:
    """The predictions of each fold: of the best checkpoint where all have one, else of the last validation."""
    kept: list[Predictions | None] = [None] * len(starts)
    for which in (LAST,) if at == LAST else (BEST, LAST):
        kept = [kept_predictions(one, which) if there else None for one, there in zip(starts, ended, strict=True)]
        if all(one is not None for one, there in zip(kept, ended, strict=True) if there):
            return kept, which
    return kept, LAST


def _by_class(kept: Sequence[Predictions | None], coco: CocoFile) -> list[Number]:
    """AP of each class in each fold, from the predictions."""
    scores = [{} if one is None else _scores(one, coco)[1] for one in kept]
    names = dict.fromkeys(name for one in scores for name in one)
    return [Number(name, tuple(one.get(name) for one in scores)) for name in names]


def _scores(predictions: Predictions, coco: CocoFile) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """COCO's numbers of all classes by name (``mask AP50``), and the AP of each class (``mask AP, Fiber``)."""
    about = predictions.about
    truth = truth_of(coco, about['image_ids'], about['classes'])
    of_all, of_class = {}, {}
    for kind in ('segm', 'bbox') if truth.outlined and predictions.rles is not None else ('bbox',):
        precision = average_precision(match_predictions(truth, predictions, kind))
        found = numbers(precision)
        of_all |= {f'{KINDS[kind]} {metric}': _or_none(found[metric][0]) for metric in NUMBERS}
        of_class |= {
            f'{KINDS[kind]} AP, {name}': _or_none(mean_of(precision[:, 0, :, number])[0])
            for number, name in enumerate(truth.classes)
        }
    return of_all, of_class


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pooled(
    kept: Sequence[Predictions | None], coco: CocoFile, names: Sequence[str], folder: Path
) -> tuple[dict[str, float | None], int, str | None]:
    """Numbers of all images together, how many there are, and what keeps them from being had."""
    without = [name for name, one in zip(names, kept, strict=True) if one is None]
    if without:
        return {}, 0, f'predictions are missing of {some(without, 10)}.'
    try:
        data = pack(join(kept, coco), _about(kept, coco, names))
    except InputError as error:
        return {}, 0, str(error)
    write_atomically(data, folder / JOINED)
    of_all, of_class = _scores(read_predictions(folder / JOINED), coco)
    return {**of_all, **of_class}, len(coco.images), None


def join(kept: Sequence[Predictions], coco: CocoFile) -> list[dict]:
    """The predictions of all folds as :func:`mmext.analysis.predictions.pack` takes them, images in the file's order.

    Raises:
        InputError: an image was predicted in no fold or in several, or the folds have other classes, or some no masks.
    """
    classes = {tuple(one.about['classes']) for one in kept}
    if len(classes) > 1:
        raise InputError(f'the folds have different classes: {" and ".join(map(str, sorted(classes)))}.')
    masks = {one.rles is not None for one in kept if len(one.labels)}
    if len(masks) > 1:
        raise InputError('some folds have predicted masks, and some have not.')
    places: dict[object, tuple[Predictions, int, int]] = {}
    for one in kept:
        for image_id, first, last in one.ranges():
            if image_id in places:
                raise InputError(f'image {image_id!r} was predicted in two folds.')
            places[image_id] = one, first, last
    lost = [image['id'] for image in coco.images if image['id'] not in places]
    if lost:
        raise InputError(f'{len(lost)} images of {coco.path} were predicted in no fold: {some(lost)}.')
    found = []
    for image in coco.images:
        one, first, last = places[image['id']]
        record = {
            'image_id': image['id'],
            'size': [image['height'], image['width']],
            'labels': one.labels[first:last],
            'scores': one.scores[first:last],
            'boxes': one.corners[first:last],
        }
        if True in masks:
            record |= {'rles': (one.rles or [])[first:last], 'mask_scores': one.mask_scores[first:last]}
        found.append(record)
    return found


def _about(kept: Sequence[Predictions], coco: CocoFile, names: Sequence[str]) -> dict:
    epochs = {one.about['epoch'] for one in kept}
    return {
        # 0 as in a training by iterations: the folds may have ended at different epochs
        'epoch': epochs.pop() if len(epochs) == 1 else 0,
        'iteration': 0,
        'begin': 0,
        'classes': list(kept[0].about['classes']),
        'ann_file': str(coco.path.absolute()),
        'sha256': file_hash(coco.path),
        'metrics': {},
        'folds': [
            {'name': name, **{key: one.about[key] for key in ('epoch', 'iteration', 'image_ids')}}
            for name, one in zip(names, kept, strict=True)
        ],
    }


def _about_validations(
    names: Sequence[str],
    epochs: Sequence[float | None],
    kept: Sequence[Predictions | None],
    which: str,
    column: Column,
    at: str,
    validations: int,
) -> list[str]:
    """Which validations the numbers are of, where that leaves a doubt."""
    lines = []
    other = [
        f'{name} ({epoch:.0f} and {one.about["epoch"]})'
        for name, epoch, one in zip(names, epochs, kept, strict=True)
        if one is not None and epoch is not None and one.about['epoch'] not in (0, epoch)
    ]
    if other:
        lines.append(
            f'APs of classes and out-of-fold numbers are of the {which} predictions that were kept, the others of the '
            f'validation with the {"lowest" if column.better < 0 else "highest"} {column.heading}; the epochs differ in '
            f'{some(other, 10)}.'
        )
    if at == BEST and validations > 1:
        lines.append(
            f'A fold also chose its epoch, the best of up to {validations} validations, so its numbers are a little too '
            'good; --at last has them without that choice.'
        )
    return lines
