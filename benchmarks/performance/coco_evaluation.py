#!/usr/bin/env python3
"""COCO evaluation of many masks: stock's, with pycocotools and JSON files, against mmext.CocoMetric with hotcoco.

Usage: python benchmarks/performance/coco_evaluation.py [--rounds N] [--data DIR] [--out FILE]

The evaluator alone on 2,000 images with 100,000 masks of 20 classes, then a validation end to end, box and mask: what the
metric does with every batch and at the end. Both sides get RLEs, so that encoding is in neither. Stock's evaluator turns
the polygons of the ground truth into RLEs in its first call, which does not count; hotcoco does it in every one.
"""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric as StockCocoMetric
from mmengine.logging import MMLogger
from pycocotools import mask as coco_mask
from side_by_side import coco_parts, must_equal, options, side_by_side, write

from mmext.data.demo import SIDE, cut_at_border, fiber, film, fragment
from mmext.metrics import CocoMetric
from mmext.metrics.coco_backend import evaluate, found_in

PROPOSALS = [100, 300, 1000]  # CocoMetric's default
NUMBERS = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
NUMBERS += ['AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000']
ROUNDS_OF_EVALUATOR = 2  # pycocotools takes more than ten seconds a round


def made_file(folder: Path, images: int, objects: int, classes: int) -> Path:
    """A COCO file of made particles; nothing here looks at the images themselves."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(1, images + 1):
        for number in range(objects):
            outline = (fiber, fragment, film)[number % 3](rng)
            outline = cut_at_border(outline - outline.mean(0) + rng.uniform(0.2, 0.8, 2) * SIDE)
            polygon = [outline.round(2).ravel().tolist()]
            low, high = outline.min(0), outline.max(0)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image,
                    'category_id': int(rng.integers(classes)) + 1,
                    'segmentation': polygon,
                    'bbox': [*low.tolist(), *(high - low).tolist()],
                    'area': float(coco_mask.area(coco_mask.frPyObjects(polygon, SIDE, SIDE))[0]),
                    'iscrowd': 0,
                }
            )
    document = {
        'images': [{'id': n, 'file_name': f'{n}.png', 'width': SIDE, 'height': SIDE} for n in range(1, images + 1)],
        'categories': [{'id': n, 'name': f'class {n}'} for n in range(1, classes + 1)],
        'annotations': annotations,
    }
    (folder / 'annotations.json').write_text(json.dumps(document))
    return folder / 'annotations.json'


def predicted(file: Path, each: int) -> list[dict]:
    """Data samples as a model gives them: objects of the image, moved by some pixels and scored at random, a tenth of the
    labels wrong; ``each`` detections an image, if it has an object."""
    document, rng = json.loads(file.read_text()), np.random.default_rng(1)
    labels = {category['id']: number for number, category in enumerate(document['categories'])}
    objects: dict[object, list] = {image['id']: [] for image in document['images']}
    for annotation in document['annotations']:
        if isinstance(annotation['segmentation'], list):
            objects[annotation['image_id']].append(annotation)
    samples = []
    for image in document['images']:
        size = image['height'], image['width']
        chosen = (
            [objects[image['id']][i] for i in rng.integers(len(objects[image['id']]), size=each)]
            if objects[image['id']]
            else []
        )
        shifts = rng.normal(0, 2, (len(chosen), 2))
        polygons = [
            [(np.reshape(part, (-1, 2)) + shift).ravel().tolist() for part in annotation['segmentation']]
            for annotation, shift in zip(chosen, shifts, strict=True)
        ]
        boxes = np.reshape([annotation['bbox'] for annotation in chosen], (-1, 4))
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) + np.tile(shifts, 2)
        right = [labels[annotation['category_id']] for annotation in chosen]
        wrong = rng.random(len(chosen)) < 0.1
        found = {
            'bboxes': torch.tensor(boxes, dtype=torch.float32),
            'scores': torch.tensor(rng.random(len(chosen)), dtype=torch.float32),
            'labels': torch.tensor((np.array(right, int) + wrong) % len(labels)),
            'masks': [coco_mask.merge(coco_mask.frPyObjects(parts, *size)) for parts in polygons],
        }
        samples.append({'img_id': image['id'], 'ori_shape': size, 'pred_instances': found})
    return samples


def evaluator_row(folder: Path, rounds: int) -> dict:
    """Masks that are in memory, by either library."""
    file = made_file(folder, 2000, 20, 20)
    samples = predicted(file, 50)
    with contextlib.redirect_stdout(io.StringIO()):
        truths = {'pycocotools': COCO(str(file)), 'hotcoco': COCO(str(file))}
    categories = truths['hotcoco'].get_cat_ids()
    predictions = [{'img_id': sample['img_id'], **sample['pred_instances']} for sample in samples]
    for prediction in predictions:
        prediction |= {name: prediction[name].numpy() for name in ('bboxes', 'scores', 'labels')}
    entries = [
        {'image_id': each['img_id'], 'category_id': categories[label], 'score': float(score), 'segmentation': rle}
        for each in predictions
        for label, score, rle in zip(each['labels'], each['scores'], each['masks'], strict=True)
    ]

    def choose(params) -> None:
        params.maxDets = list(PROPOSALS)

    def stock() -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            # copies: loadRes writes into the entries, and takes them for boxes the second time
            detections = truths['pycocotools'].loadRes([dict(entry) for entry in entries])
            evaluation = COCOeval(truths['pycocotools'], detections, 'segm')
            choose(evaluation.params)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation

    def ours() -> COCOeval:
        evaluation, reason = evaluate(truths['hotcoco'], found_in(predictions, categories), 'segm', choose)
        must_equal(reason is None, f'pycocotools evaluated on both sides: {reason}')
        return evaluation

    one, other = stock(), ours()
    for name in ('precision', 'recall'):
        must_equal(np.array_equal(one.eval[name], other.eval[name]), f'{name} of {len(entries):,} masks')
    must_equal(np.array_equal(one.stats, other.stats), f'{one.stats} and {other.stats}')
    data = f'{len(samples):,} images, {len(entries):,} masks, {len(categories)} classes'
    sides = {'pycocotools': stock, 'mmext (hotcoco)': ours}
    words = '12 numbers, and all of precision and recall, to the bit'
    return side_by_side('evaluator alone, masks', data, sides, rounds, words, bound=12, memory=True)


def validation_row(file: Path, data: str, each: int, rounds: int) -> dict:
    """All that the metric does in a validation, box and mask."""
    samples = predicted(file, each)
    classes = [category['name'] for category in json.loads(file.read_text())['categories']]

    def validation(kind: Callable, **arguments) -> Callable[[], dict]:
        with contextlib.redirect_stdout(io.StringIO()):
            metric = kind(ann_file=str(file), metric=['bbox', 'segm'], **arguments)
        metric.dataset_meta = {'classes': classes}

        def call() -> dict:
            with contextlib.redirect_stdout(io.StringIO()):
                for sample in samples:
                    metric.process({}, [sample])
                return metric.evaluate(len(samples))

        return call

    stock, ours = validation(StockCocoMetric), validation(CocoMetric)
    rounded = {name: round(value, 3) for name, value in ours().items()}
    must_equal(rounded == stock(), f'numbers of {data}, rounded as stock does')
    names = {'classwise': True, 'metric_items': NUMBERS}
    exact = [validation(CocoMetric, backend=backend, **names)() for backend in ('auto', 'pycocotools')]
    must_equal(exact[0] == exact[1], f'numbers of {data}, of hotcoco and pycocotools')
    data = f'{data}: {len(samples):,} images, {sum(len(s["pred_instances"]["masks"]) for s in samples):,} detections'
    words = "12 + 12 numbers and those of the classes to the bit; stock's as it rounds them"
    sides = {'stock CocoMetric': stock, 'mmext.CocoMetric': ours}
    return side_by_side('validation, box and mask', data, sides, rounds, words, bound=10, memory=True)


def main() -> None:
    arguments = options(__doc__, 'coco_evaluation', 4)
    MMLogger.get_instance('mmengine', log_level='ERROR').setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = [evaluator_row(folder, min(arguments.rounds, ROUNDS_OF_EVALUATOR))]
        records.append(validation_row(made_file(folder, 500, 20, 3), 'made', 40, arguments.rounds))
    if arguments.data:
        file, _ = coco_parts(arguments.data)['val']
        records.append(validation_row(file, arguments.data.name, 100, arguments.rounds))
    write(records, arguments.out)


if __name__ == '__main__':
    main()
