"""Operating points: of each class the score from which on F1 is best in validation, kept with the run. No torch.

Shapes: N detections of one class in all images, best score first.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.coco_ap import KINDS, ClassMatches, Truth, join_images, match_class, truth_of
from mmext.analysis.noise import annotation_file, kept_predictions
from mmext.analysis.predictions import FILES, Predictions, file_hash
from mmext.atomic_file import write_atomically
from mmext.data.coco_file import read_coco
from mmext.errors import InputError

SCHEMA_VERSION = 1
# in the work_dir
FILE = 'operating_points.json'
# of a pair, mask IoU; box IoU where the model has no masks
IOU = 0.5
# the threshold of a class without an operating point
FALLBACK = 0.5
_HOW_TO_KEEP = "default_hooks = dict(predictions=dict(type='mmext.PredictionsHook')) keeps them"
_MADE_AGAIN = 'Delete it: it is made again from the predictions kept with the run.'
# how MMEngine ends the names of checkpoints
_STEP = re.compile(r'(epoch|iter)_(\d+)\.\w+$')


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold of best F1 of one class: detections with ``score >= threshold`` are kept.

    ``label`` from 0 and ``name``; ``precision``, ``recall`` and ``f1`` there; ``objects`` to be found, crowd regions not
    among them; ``detections`` of any score. ``reason``: why there is no threshold, in words; the numbers are None then.
    """

    label: int
    name: str
    threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    objects: int
    detections: int
    reason: str | None = None


@dataclass(frozen=True)
class Validation:
    """The operating points of one validation.

    ``predictions``: the file that they are of, relative to the work_dir, and its ``sha256``; ``epoch`` and ``iteration`` of
    its checkpoint; ``ann_file`` and ``ann_sha256`` of the ground truth; number of ``images``; ``kind``: ``'segm'``, or
    ``'bbox'`` where the model has no masks; ``points`` in the order of the labels.
    """

    predictions: str
    sha256: str
    epoch: int
    iteration: int
    ann_file: str
    ann_sha256: str
    images: int
    kind: str
    points: tuple[OperatingPoint, ...]

    def to_lines(self) -> list[str]:
        """In words: a line of what they are of, then one for each class."""
        when = f'epoch {self.epoch}' if self.epoch else f'iteration {self.iteration}'
        head = f'Thresholds of best F1 in the validation of {when} ({self.images} images, {KINDS[self.kind]} IoU {IOU}):'
        return [head, *map(_line, self.points)]


def _line(point: OperatingPoint) -> str:
    if point.threshold is None:
        return f'  {point.name}: none, {point.reason}'
    numbers = f'precision {point.precision:.3f}, recall {point.recall:.3f}, F1 {point.f1:.3f}'
    return f'  {point.name}: {point.threshold:.3f} ({numbers}, {point.objects} objects)'


# ---- the threshold


def best_cut(score: np.ndarray, hit: np.ndarray, ignored: np.ndarray, objects: int) -> tuple[int, float, float, float]:
    """How many of the detections are kept where F1 is best.

    Detections of equal score are kept or left out together. Of several cuts with the best F1 it is the highest score's.

    Args:
        score: (N,) best first, N >= 1; ``hit`` (N,) matched an object; ``ignored`` (N,) neither right nor wrong.
        objects: to be found, at least 1.

    Returns:
        Number kept, precision, recall and F1.
    """
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    found, counted = hit.cumsum()[ends], (~ignored).cumsum()[ends]
    f1 = 2 * found / (counted + objects)
    best = int(f1.argmax())
    precision = float(found[best] / max(counted[best], 1))
    return int(ends[best]) + 1, precision, float(found[best] / objects), float(f1[best])


def threshold_between(kept: float, below: float) -> float:
    """A threshold that keeps one score and leaves out the next, in single and in double precision alike.

    It is the middle between them, so that another machine's rounding of scores changes nothing, rounded to single
    precision; the score itself where the middle would round to the one below.

    Args:
        kept: lowest score that is kept; ``below``: the next one. Both are single precision numbers.
    """
    middle = np.float32((kept + below) / 2)
    return float(middle) if middle > np.float32(below) else kept


def operating_point(label: int, name: str, matches: ClassMatches) -> OperatingPoint:
    """The operating point of one class by what its detections have matched (all sizes, at an IoU of 0.5)."""
    score, hit, ignored = matches.score, matches.hit[0, 0], matches.ignored[0, 0]
    objects, detections = int(matches.positives[0].sum()), len(score)

    def none(reason: str) -> OperatingPoint:
        return OperatingPoint(label, name, None, None, None, None, objects, detections, reason)

    if not objects:
        return none('the annotations have no object of the class')
    if not detections:
        return none('the model has detected none')
    if not hit.any():
        return none(f'none of {detections} detections matches an object')
    kept, precision, recall, f1 = best_cut(score, hit, ignored, objects)
    # nothing is known below the last detection: halfway to 0
    below = float(score[kept]) if kept < detections else 0.0
    threshold = threshold_between(float(score[kept - 1]), below)
    return OperatingPoint(label, name, threshold, precision, recall, f1, objects, detections)


def operating_points(truth: Truth, predictions: Predictions, kind: str = 'segm') -> tuple[OperatingPoint, ...]:
    """Of each class the threshold of best F1.

    COCO's greedy matching goes by descending score, so the matches above a threshold do not depend on what is below it:
    one pass gives every threshold.

    Args:
        kind: ``'segm'`` or ``'bbox'``: which IoU counts.

    Raises:
        InputError: an image of the ground truth is not among the predictions.
    """
    joined = match_all(truth, predictions, kind)
    return tuple(
        operating_point(label, name, one) for label, (name, one) in enumerate(zip(truth.classes, joined, strict=True))
    )


def match_all(truth: Truth, predictions: Predictions, kind: str) -> list[ClassMatches]:
    """What the detections of each class have matched, objects of all sizes, by the score that a prediction is cut by."""
    ranges = {image_id: (first, last) for image_id, first, last in predictions.ranges()}
    absent = [image_id for image_id in truth.image_ids if image_id not in ranges]
    if absent:
        raise InputError(f'{predictions.path}: image {absent[0]!r} is not in it.')
    parts: list[list[tuple]] = [[] for _ in truth.classes]
    positives = np.zeros((len(truth.classes), 1, len(truth.image_ids)), np.int32)
    for place, image_id in enumerate(truth.image_ids):
        first, last = ranges[image_id]
        for label, category in enumerate(truth.category_ids):
            # the scores that a prediction is cut by; a mask score of its own, where there is one, is for AP alone
            found = first + np.flatnonzero(predictions.labels[first:last] == label)
            found = found[np.argsort(-predictions.scores[found], kind='stable')]
            objects = truth.objects.get((image_id, category))
            crowd = objects.crowd if objects else np.zeros(0, bool)
            areas = objects.areas if objects else np.zeros(0)
            ious = np.zeros((len(found), len(crowd)))
            if ious.size:
                masks = ([predictions.rles[i] for i in found], list(objects.rles)) if kind == 'segm' else None
                ious = coco_mask.iou(*(masks or (predictions.boxes[found], objects.boxes)), crowd.tolist())
            # of a detection that matches nothing, no size is out of range
            hit, ignored, iou, counted = match_class(ious, areas, crowd, np.zeros(len(found)))
            parts[label].append((np.full(len(found), place), predictions.scores[found], hit, ignored, iou))
            positives[label, 0, place] = counted[0]
    return [join_images(part, positives[label]) for label, part in enumerate(parts)]


# ---- of a run


def make(work_dir: str | Path, ann_file: str | Path | None = None) -> dict[str, Validation]:
    """The operating points of a run's kept validations, ``'best'`` before ``'last'``.

    Args:
        work_dir: the run's folder; its predictions lie in the folders of its starts.
        ann_file: where the annotation file lies now, if elsewhere than at the time of the training.

    Raises:
        InputError: there are no predictions, a file is broken, or the annotation file is gone or has changed.
    """
    found = _kept(Path(work_dir))
    if not found:
        raise InputError(
            f'{work_dir}: no predictions of a validation were kept in it, so there are no operating points. {_HOW_TO_KEEP}, '
            'with stock MMDetection too. Without them give a number as the threshold.'
        )
    made: dict[str, Validation] = {}
    for which, kept in found.items():
        digest = file_hash(kept.path)
        # after the first validation, and where the last is the best, both files are the same
        same = next((one for one in made.values() if one.sha256 == digest), None)
        made[which] = _validation(Path(work_dir), kept, digest, same.points if same else None, ann_file)
    return made


def _kept(work_dir: Path) -> dict[str, Predictions]:
    starts = sorted({path.parent for name in FILES.values() for path in work_dir.glob(f'*/{name}')})
    found = {which: kept_predictions(starts, which) for which in FILES}
    return {which: one for which, one in found.items() if one}


def _validation(
    work_dir: Path,
    kept: Predictions,
    digest: str,
    points: tuple[OperatingPoint, ...] | None,
    ann_file: str | Path | None,
) -> Validation:
    about, path = kept.about, annotation_file(kept, ann_file)
    truth = truth_of(read_coco(path), about['image_ids'], about['classes'])
    kind = 'segm' if kept.rles is not None and truth.outlined else 'bbox'
    return Validation(
        kept.path.relative_to(work_dir).as_posix(),
        digest,
        int(about['epoch']),
        int(about['iteration']),
        str(path),
        about['sha256'],
        len(truth.image_ids),
        kind,
        operating_points(truth, kept, kind) if points is None else points,
    )


def write(work_dir: str | Path, made: Mapping[str, Validation]) -> Path:
    """Keep the operating points with the run, in ``operating_points.json``; the file is there whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    record = {
        'schema_version': SCHEMA_VERSION,
        'iou': IOU,
        'validations': {which: asdict(validation) for which, validation in made.items()},
    }
    path = Path(work_dir, FILE)
    write_atomically((json.dumps(record, indent=2) + '\n').encode(), path)
    return path


def read(path: str | Path) -> dict[str, Validation]:
    """Read what :func:`write` has written.

    Raises:
        InputError: missing, broken, or of another version.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_bytes())
        if record['schema_version'] != SCHEMA_VERSION:
            raise InputError(f'{path}: version {record["schema_version"]}, this mmext reads {SCHEMA_VERSION}. {_MADE_AGAIN}')
        return {which: _read_validation(one) for which, one in record['validations'].items()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or error}.') from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f'{path}: not a file of operating points ({type(error).__name__}: {error}). {_MADE_AGAIN}'
        ) from None


def _read_validation(record: Mapping) -> Validation:
    points = tuple(OperatingPoint(**point) for point in record['points'])
    for point in points:
        if not isinstance(point.name, str) or not isinstance(point.threshold, (int, float, type(None))):
            raise ValueError(f'{point.name!r} has the threshold {point.threshold!r}')
    return Validation(**{**record, 'points': points})


def read_or_make(work_dir: str | Path, ann_file: str | Path | None = None) -> dict[str, Validation]:
    """The operating points of a run: those kept with it, or made anew when they are missing or of other predictions.

    The file alone will do where the run's predictions were not copied with it.

    Args:
        ann_file: where the annotation file lies now, if elsewhere than at the time of the training.

    Returns:
        Validations by ``'best'`` and ``'last'``, of which one may be missing.

    Raises:
        InputError: the run has no predictions, or they cannot be used.
    """
    work_dir = Path(work_dir)
    path = work_dir / FILE
    found = _kept(work_dir)
    if not found and path.is_file():
        return read(path)
    if path.is_file():
        try:
            stored = read(path)
        except InputError:  # broken, or another version's: it is made again below
            stored = {}
        if {which: one.sha256 for which, one in stored.items()} == {
            which: file_hash(one.path) for which, one in found.items()
        }:
            return stored
    return make(work_dir, ann_file)


# ---- for a checkpoint


def thresholds_for(
    checkpoint: str | Path, class_names: Sequence[str], ann_file: str | Path | None = None
) -> tuple[dict[str, float], list[str]]:
    """The threshold of each class for predictions by a checkpoint: from its own validation, where that was kept.

    Args:
        checkpoint: its folder is the run's work_dir.
        class_names: of the model, in the order of its labels.
        ann_file: where the annotation file lies now, if elsewhere than at the time of the training.

    Returns:
        Class name to threshold, 0.5 for a class without an operating point, and lines to print that say what was taken.

    Raises:
        InputError: the run has no predictions, or they are of other classes.
    """
    checkpoint = Path(checkpoint)
    made = read_or_make(checkpoint.parent, ann_file)
    which, own = _of_checkpoint(made, checkpoint.name)
    validation = made[which]
    names = [point.name for point in validation.points]
    if names != list(class_names):
        raise InputError(
            f'{checkpoint.parent}: its operating points are of the classes {", ".join(names)}; the model has '
            f'{", ".join(class_names)}. Give the checkpoint of that run, or a number as the threshold.'
        )
    lines = validation.to_lines()
    if not own:
        lines.append(f'  They are of the {which} validation: none of {checkpoint.name} itself was kept.')
    thresholds = {}
    for point in validation.points:
        thresholds[point.name] = FALLBACK if point.threshold is None else point.threshold
        if point.threshold is None:
            lines.append(f'  {point.name}: {FALLBACK} is taken, as there is no operating point.')
    return thresholds, lines


def _of_checkpoint(made: Mapping[str, Validation], name: str) -> tuple[str, bool]:
    """Which validation is used for a checkpoint, and whether it is of that very checkpoint."""
    step = _STEP.search(name)
    for which, one in made.items() if step else ():
        if int(step[2]) == (one.epoch if step[1] == 'epoch' else one.iteration):
            return which, True
    # of a renamed one nothing is known: what people pass on is the best
    wanted = 'best' if name.startswith('best') or not step else 'last'
    return (wanted if wanted in made else next(iter(made))), False
