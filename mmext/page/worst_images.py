"""The validation images with the worst masks, by the predictions that mmext.PredictionsHook has kept. No torch."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.coco_ap import Truth, truth_of
from mmext.analysis.digest import Digest
from mmext.analysis.mask_match import Objects, match
from mmext.analysis.noise import annotation_file, kept_predictions
from mmext.analysis.overlay import outlines
from mmext.analysis.predictions import Predictions
from mmext.analysis.runs import read_config
from mmext.data.coco_file import read_coco
from mmext.data.sheets import read_picture
from mmext.errors import InputError

MOST_IMAGES = 8
# so many runs side by side
MOST_RUNS = 4
# of a larger validation so many images are looked at, at an even distance
_LOOKED_AT = 500
# detections from here on are shown and counted
SCORE = 0.5
# a detection that lies in a crowd region by so much of its area is neither right nor wrong
_IN_CROWD = 0.5
_LONGEST_SIDE = 640  # px
_JPEG_QUALITY = 80
_FOUND, _MISSED, _MATCHED, _FALSE = 'found', 'missed', 'matched', 'false'


@dataclass(frozen=True)
class Shape:
    """An outline: ``path`` of an SVG in pixels of the original image; ``kind``: objects are found or missed, detections
    matched or false; ``words`` about it."""

    path: str
    kind: str
    words: str


@dataclass(frozen=True)
class View:
    """What a run made of an image. ``quality``: sum of the mask IoUs of matched pairs ÷ (pairs + half of the missed objects
    + half of the false detections): panoptic quality (Kirillov et al. 2019, arXiv:1801.00868), but pairs are by box IoU."""

    run: int
    quality: float
    words: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Picture:
    """An image: ``size`` height and width; ``jpeg`` as a data URI, None where it cannot be read, which ``problem`` says."""

    file: str
    size: tuple[int, int]
    jpeg: str | None
    problem: str | None
    views: tuple[View, ...]


@dataclass(frozen=True)
class Album:
    """The worst images, worst first, ``note`` how they were chosen, and what ``problems`` there are with which run."""

    note: str = ''
    pictures: tuple[Picture, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Judged:
    """One image under one run: objects and detections, their pairs, and the detections in crowd regions."""

    truth: Objects
    found: Objects
    pairs: tuple
    quality: float | None


def worst_images(runs: Sequence[Digest]) -> Album:
    """The images on which the masks of these runs are worst on average. What is wrong with files stands in the problems."""
    kept, problems = _kept(runs)
    if not kept:
        return Album(problems=(*problems, _how_to_keep()) if not problems else tuple(problems))
    (first, reference), *others = kept.items()
    try:
        ann_file = annotation_file(reference)
        coco = read_coco(ann_file)
        truth = truth_of(coco, reference.about['image_ids'], reference.about['classes'])
    except InputError as error:
        return Album(problems=(*problems, f'{runs[first].name}: {error}'))
    if not truth.outlined:
        return Album(problems=(*problems, f'{ann_file}: some objects have no outline.'))
    for place, one in others:
        if any(one.about[key] != reference.about[key] for key in ('sha256', 'classes', 'image_ids')):
            problems.append(f'{runs[place].name} was validated on other images than {runs[first].name}.')
            del kept[place]
    if len(kept) > MOST_RUNS:
        problems.append(f'Of {len(kept)} runs with predictions the first {MOST_RUNS} are shown.')
        kept = dict(list(kept.items())[:MOST_RUNS])
    try:
        judged = _judge(truth, kept)
    except InputError as error:  # the annotation file gives an image another size than the predictions have
        return Album(problems=(*problems, f'{ann_file}: {error}'))
    ranked = _ranked(judged)[:MOST_IMAGES]
    folder = image_folder(_settings(runs[first]), ann_file)
    sizes = {image['id']: (image['height'], image['width']) for image in coco.images}
    places = {image_id: place for place, image_id in enumerate(truth.image_ids)}
    pictures = [
        _picture(folder, truth.files[places[one]], sizes[one], {run: judged[run][one] for run in kept}, truth.classes)
        for one in ranked
    ]
    return Album(_note(len(pictures), len(next(iter(judged.values()))), truth, kept, runs), tuple(pictures), tuple(problems))


def _kept(runs: Sequence[Digest]) -> tuple[dict[int, Predictions], list[str]]:
    """The predictions of each run, the best validation's or else the last one's, and what is wrong with them."""
    found, problems = {}, []
    for place, run in enumerate(runs):
        starts = [run.path / start for start in run.starts]
        try:
            one = kept_predictions(starts, 'best') or kept_predictions(starts, 'last')
        except InputError as error:
            problems.append(f'{run.name}: {error}')
            continue
        if one is not None and one.rles is None:
            problems.append(f'{run.name} has kept boxes and no masks.')
        elif one is not None:
            found[place] = one
    return found, problems


def _how_to_keep() -> str:
    return (
        "No predictions were kept. default_hooks = dict(predictions=dict(type='mmext.PredictionsHook')) keeps those of the "
        'best and of the last validation, with stock MMDetection too.'
    )


def _note(shown: int, looked_at: int, truth: Truth, kept: Mapping[int, Predictions], runs: Sequence[Digest]) -> str:
    epochs = ', '.join(f'{runs[place].name} epoch {one.about["epoch"]}' for place, one in kept.items())
    of = f'{looked_at} of {len(truth.image_ids)}' if looked_at < len(truth.image_ids) else str(looked_at)
    return (
        f'The {shown} worst of {of} validation images ({epochs}), by their mask quality: the sum of the mask IoUs of '
        'matched pairs, divided by pairs + half of the missed objects + half of the false detections. '
        f'Detections of score {SCORE} and more; a pair has the same class and a box IoU of 0.5 or more.'
    )


# ---- judging


def _judge(truth: Truth, kept: Mapping[int, Predictions]) -> dict[int, dict[object, _Judged]]:
    ids = truth.image_ids
    chosen = {ids[i] for i in np.linspace(0, len(ids) - 1, min(_LOOKED_AT, len(ids))).round().astype(int)} if ids else set()
    return {
        run: {
            image_id: _judged(*_objects(truth, image_id), _detections(one, first, last))
            for image_id, first, last in one.ranges()
            if image_id in chosen
        }
        for run, one in kept.items()
    }


def _objects(truth: Truth, image_id: object) -> tuple[Objects, list[dict]]:
    """The objects of an image, and the masks of its crowd regions."""
    boxes, rles, labels, crowds = [], [], [], []
    for label, category in enumerate(truth.category_ids):
        one = truth.objects.get((image_id, category))
        for i in range(len(one.ids)) if one else ():
            if one.crowd[i]:
                crowds.append(one.rles[i])
            else:
                boxes.append(one.boxes[i])
                rles.append(one.rles[i])
                labels.append(label)
    return Objects(np.array(boxes, float).reshape(-1, 4), rles, np.array(labels, int)), crowds


def _detections(kept: Predictions, first: int, last: int) -> Objects:
    sure = first + np.flatnonzero(kept.scores[first:last] >= SCORE)
    return Objects(kept.boxes[sure], [kept.rles[i] for i in sure], kept.labels[sure], kept.scores[sure])


def _judged(truth: Objects, crowds: Sequence[dict], found: Objects) -> _Judged:
    pairs = match(truth, found)
    if crowds and len(found.labels):
        inside = coco_mask.iou(list(found.rles), list(crowds), [1] * len(crowds)).max(1) >= _IN_CROWD
        counted = sorted({pair.prediction for pair in pairs} | set(np.flatnonzero(~inside).tolist()))
        found = Objects(found.boxes[counted], [found.rles[i] for i in counted], found.labels[counted], found.scores[counted])
        pairs = match(truth, found)
    counts = len(truth.labels) + len(found.labels)  # each pair twice, all others once
    return _Judged(truth, found, tuple(pairs), 2 * sum(pair.mask_iou for pair in pairs) / counts if counts else None)


def _ranked(judged: Mapping[int, Mapping[object, _Judged]]) -> list:
    """Image ids by the mean quality over the runs, lowest first; without those that have neither objects nor detections."""
    means = {}
    for image_id in next(iter(judged.values())):
        values = [of_run[image_id].quality for of_run in judged.values() if of_run[image_id].quality is not None]
        if values:
            means[image_id] = float(np.mean(values))
    return sorted(means, key=means.get)


# ---- drawing


def _picture(
    folder: Path, file: str, size: tuple[int, int], judged: Mapping[int, _Judged], classes: Sequence[str]
) -> Picture:
    jpeg = _jpeg(folder, file)
    # a corner more than half a pixel of the shown image away from the outline is kept
    tolerance = max(1.0, max(size) / _LONGEST_SIDE) / 2
    views = tuple(_view(run, one, classes, tolerance) for run, one in judged.items())
    return Picture(file, size, jpeg, None if jpeg else f'the image cannot be read: {folder / file}', views)


def _view(run: int, judged: _Judged, classes: Sequence[str], tolerance: float) -> View:
    of_truth = {pair.truth: pair for pair in judged.pairs}
    of_found = {pair.prediction: pair for pair in judged.pairs}
    shapes = []
    for i, rle in enumerate(judged.found.rles):
        pair = of_found.get(i)
        kind = _FALSE if pair is None else _MATCHED
        how = 'matches no object' if pair is None else f'mask IoU {pair.mask_iou:.2f}, box IoU {pair.box_iou:.2f}'
        name = classes[judged.found.labels[i]]
        shapes.append(Shape(_path(rle, tolerance), kind, f'{name}, score {judged.found.scores[i]:.2f}: {how}'))
    for i, rle in enumerate(judged.truth.rles):
        kind = _FOUND if i in of_truth else _MISSED
        shapes.append(Shape(_path(rle, tolerance), kind, f'{classes[judged.truth.labels[i]]}, ground truth: {kind}'))
    pairs, objects = len(judged.pairs), len(judged.truth.labels)
    mean = f', mean mask IoU {np.mean([pair.mask_iou for pair in judged.pairs]):.2f}' if pairs else ''
    quality = f'quality {judged.quality:.2f}: ' if judged.quality is not None else ''
    words = f'{quality}{pairs} of {objects} found{mean}, {len(judged.found.labels) - pairs} false'
    return View(run, judged.quality or 0.0, words, tuple(shapes))


def _path(rle: dict, tolerance: float) -> str:
    """The outline of a mask as a path of SVG; a pixel's centre is half a pixel from its corner."""
    import cv2

    parts = (cv2.approxPolyDP(part.astype(np.int32).reshape(-1, 1, 2), tolerance, True) for part in outlines(rle))
    return ''.join('M' + ' '.join(f'{x + 0.5:g},{y + 0.5:g}' for x, y in part.reshape(-1, 2)) + 'Z' for part in parts)


def _jpeg(folder: Path, file: str) -> str | None:
    """An image, made smaller, as a data URI; None when it cannot be read."""
    import cv2

    picture = read_picture(folder, file)
    if picture is None:
        return None
    scale = _LONGEST_SIDE / max(picture.shape[:2])
    if scale < 1:
        size = max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode('.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return f'data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}'


def _settings(run: Digest) -> dict:
    try:
        return read_config(run.path / run.starts[-1] / 'vis_data' / 'config.py')
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # as read_run: the images are looked for anyway
        return {}


def image_folder(settings: Mapping, ann_file: Path) -> Path:
    """Where the images of a validation lie.

    Args:
        settings: the config of the run.
        ann_file: where its annotation file lies now. It shows where ``data_root`` is, which may be relative to the folder
            that the training was started in.
    """
    loader = settings.get('val_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    if not isinstance(dataset, Mapping):
        return ann_file.parent
    prefix = dataset.get('data_prefix')
    folder = (prefix.get('img') or prefix.get('img_path')) if isinstance(prefix, Mapping) else None
    root, written = Path(dataset.get('data_root') or ''), Path(dataset.get('ann_file') or '')
    if written.parts and not written.is_absolute() and ann_file.parts[-len(written.parts) :] == written.parts:
        root = Path(*ann_file.parts[: -len(written.parts)])
    return root / (folder or '')
