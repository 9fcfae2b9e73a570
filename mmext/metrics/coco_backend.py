"""COCO's precision and recall of what a validation found: by hotcoco where that is installed, else by pycocotools.

Both get arrays and no file. hotcoco is many times faster and gives the same numbers to the bit; where it would not, it is
not asked (:func:`beyond_hotcoco`). Its classes alone are used: what it can put in pycocotools' place for everybody breaks
MMDetection.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from pycocotools.cocoeval import Params

from mmext.errors import InputError, some


@dataclass(frozen=True)
class Found:
    """N detections of I images, image by image.

    ``image_ids`` (I,) and ``counts`` (I,) of detections; ``category_ids`` (N,); ``boxes`` (N, 4) float64, x, y, width and
    height in pixels; ``scores`` by metric, ``bbox`` and ``segm``, (N,) float64; ``rles`` (N,), None without masks.
    """

    image_ids: Sequence
    counts: np.ndarray
    category_ids: Sequence
    boxes: np.ndarray
    scores: Mapping[str, np.ndarray]
    rles: Sequence[dict] | None


def found_in(predictions: Sequence[Mapping], category_ids: Sequence) -> Found:
    """Put the results of all images one after the other, as exact as they would be in a JSON file.

    Args:
        predictions: of each image ``img_id``, ``bboxes`` (n, 4) as x1, y1, x2, y2, ``scores`` (n,), ``labels`` (n,), and of
            some models ``masks``, n RLEs, and ``mask_scores`` (n,).
        category_ids: by label.
    """
    corners = np.concatenate([np.reshape(each['bboxes'], (-1, 4)) for each in predictions]).astype(float)
    scores = {
        'bbox': [each['scores'] for each in predictions],
        'segm': [each.get('mask_scores', each['scores']) for each in predictions],
    }
    return Found(
        image_ids=[each['img_id'] for each in predictions],
        counts=np.array([len(each['labels']) for each in predictions]),
        category_ids=[category_ids[label] for each in predictions for label in each['labels'].tolist()],
        boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1),
        scores={metric: np.concatenate(parts).astype(float) for metric, parts in scores.items()},
        rles=[rle for each in predictions for rle in each['masks']] if 'masks' in predictions[0] else None,
    )


def check_images(truth: COCO, found: Found) -> None:
    """Refuse detections on images that the annotation file does not have.

    Raises:
        InputError: names the images.
    """
    counts = zip(found.image_ids, found.counts.tolist(), strict=True)
    strangers = [repr(image) for image, count in counts if count and image not in truth.imgs]
    if strangers:
        raise InputError(
            f'CocoMetric: ann_file has no image with the id {some(strangers)}, on which something was detected. Give '
            'val_evaluator the ann_file of the data set in val_dataloader (test_evaluator: test_dataloader).'
        )


def evaluate(
    truth: COCO, found: Found, metric: str, choose: Callable[[Params], None], fast: bool = True
) -> tuple[COCOeval, str | None]:
    """Evaluate detections and sum up.

    Args:
        metric: ``'bbox'`` or ``'segm'``.
        choose: sets the parameters of an evaluation: images, categories, IoU thresholds (an array), caps.
        fast: by hotcoco if it can.

    Returns:
        pycocotools' evaluation with its ``params``, ``eval`` (precision, recall) and ``stats``, and, where it was to be
        fast and is not, why.

    Raises:
        InputError: detections on images that the annotation file does not have.
    """
    check_images(truth, found)
    evaluation = COCOeval(truth, None, metric)
    params = evaluation.params
    choose(params)
    # as COCOeval.evaluate has them: between equal scores the order of the images decides
    params.imgIds, params.catIds = np.unique(params.imgIds).tolist(), np.unique(params.catIds).tolist()
    params.maxDets = sorted(params.maxDets)
    reason = None
    with contextlib.redirect_stdout(io.StringIO()):
        if fast:
            evaluation.eval, reason = _try_hotcoco(truth, found, params)
        if not evaluation.eval:
            evaluation.cocoDt = as_coco(truth, found, metric)
            evaluation.evaluate()
            evaluation.accumulate()
        evaluation.summarize()
    return evaluation, reason


def _try_hotcoco(truth: COCO, found: Found, params: Params) -> tuple[dict, str | None]:
    """Its numbers, or none and the reason."""
    try:
        objects = _objects(truth, params)
        reason = beyond_hotcoco(objects, found, params)
        return ({}, reason) if reason else (by_hotcoco(truth, objects, found, params), None)
    except ImportError as error:
        return {}, f"it cannot be imported ({error}). To install it: pip install 'mmext[fast]'"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is not an Exception
        return {}, f'it failed with {type(error).__name__}: {error}'


def beyond_hotcoco(objects: Sequence[Mapping], found: Found, params: Params) -> str | None:
    """Why hotcoco 1.3.0 may have other numbers than pycocotools here; None where they are the same.

    Args:
        objects: the annotations that are evaluated.
    """
    if not params.imgIds or not params.catIds:
        return 'there is no image or no class to evaluate'
    if any(each['id'] == 0 for each in objects):
        return 'an annotation has the id 0, and pycocotools counts what matches it as a false detection. Number them from 1'
    if np.min(params.iouThrs) <= 0:  # masks of different sizes: pycocotools has an IoU of -1 for them, hotcoco 0
        return 'iou_thrs has a threshold of 0'
    sizes = np.array([(*each['bbox'], each.get('area', 0)) for each in objects if 'bbox' in each], float)
    if not np.isfinite(sizes).all() or not np.isfinite(found.boxes).all():
        return 'there are boxes or areas that are infinite or not a number'
    return None


def _objects(truth: COCO, params: Params) -> list[dict]:
    """The annotations that are evaluated, in pycocotools' order."""
    images, categories = set(params.imgIds), set(params.catIds)
    objects = truth.loadAnns(truth.getAnnIds(imgIds=params.imgIds, catIds=params.catIds))
    # an id given twice stands for its last annotation, which may be of another image
    return [each for each in objects if each['image_id'] in images and each['category_id'] in categories]


def by_hotcoco(truth: COCO, objects: Sequence[Mapping], found: Found, params: Params) -> dict[str, np.ndarray]:
    """``precision`` (IoU thresholds, recalls, classes, areas, caps) and ``recall`` (the same without recalls).

    Images, categories and annotations go by their places, so that ids of any kind will do.
    """
    import hotcoco

    masks = params.iouType == 'segm'
    images = {image: place for place, image in enumerate(params.imgIds, 1)}
    categories = {category: place for place, category in enumerate(params.catIds, 1)}
    sizes = [truth.imgs[image] if masks else {'height': 1, 'width': 1} for image in images]
    objects_of = hotcoco.COCO.from_arrays(
        [{'id': place, 'height': size['height'], 'width': size['width']} for place, size in enumerate(sizes, 1)],
        [{'id': place, 'name': str(place)} for place in categories.values()],
        np.array([images[each['image_id']] for each in objects], np.int64),
        np.array([categories[each['category_id']] for each in objects], np.int64),
        np.array([each['bbox'] for each in objects], float).reshape(-1, 4),
        area=np.array([each['area'] for each in objects], float),
        iscrowd=np.array([int(each['iscrowd']) for each in objects], np.int64),
        segmentation=[each['segmentation'] for each in objects] if masks else None,
    )
    rows = np.empty((len(found.boxes), 7))
    rows[:, 0] = np.repeat([images.get(image, 0) for image in found.image_ids], found.counts)
    rows[:, 1:5], rows[:, 5] = found.boxes, found.scores[params.iouType]
    rows[:, 6] = [categories.get(category, 0) for category in found.category_ids]
    wanted = np.flatnonzero((rows[:, 0] > 0) & (rows[:, 6] > 0))
    rles = [found.rles[i] for i in wanted] if masks else None
    detections = objects_of.loadRes(rows[wanted], segmentation=rles)
    if rles:  # it has the area of the box, which makes an object small, medium or large
        detections.update_anns(ids=np.arange(1, len(rles) + 1), area=hotcoco.mask.area(rles))
    evaluation = hotcoco.COCOeval(objects_of, detections, params.iouType)
    chosen = evaluation.params
    chosen.imgIds, chosen.catIds = list(images.values()), list(categories.values())
    chosen.iouThrs, chosen.recThrs = params.iouThrs.tolist(), params.recThrs.tolist()
    chosen.maxDets, chosen.areaRng, chosen.areaRngLbl = params.maxDets, params.areaRng, params.areaRngLbl
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ('precision', 'recall')}


def as_coco(truth: COCO, found: Found, metric: str) -> COCO:
    """The detections as pycocotools wants them, an empty list too (``COCO.loadRes`` fails on that one)."""
    images = [image for image, count in zip(found.image_ids, found.counts.tolist(), strict=True) for _ in range(count)]
    # with a box beside the mask, pycocotools takes the box's area for the object's (small, medium, large)
    shapes = (
        [{'segmentation': rle} for rle in found.rles] if metric == 'segm' else [{'bbox': b} for b in found.boxes.tolist()]
    )
    entries = [
        {'image_id': image, 'category_id': category, 'score': score, **shape}
        for image, category, score, shape in zip(
            images, found.category_ids, found.scores[metric].tolist(), shapes, strict=True
        )
    ]
    if entries:
        return truth.loadRes(entries)
    empty = COCO()
    empty.dataset = {'images': truth.dataset['images'], 'categories': truth.dataset['categories'], 'annotations': []}
    empty.createIndex()
    return empty
