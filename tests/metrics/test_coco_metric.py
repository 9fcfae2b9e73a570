import json

import numpy as np
import pycocotools.mask
import pytest
import torch
from mmdet.evaluation import CocoMetric as StockCocoMetric

from mmext.metrics import CocoMetric

CLASSES = ('Fiber', 'Fragment', 'Film')
METRIC = ['bbox', 'segm']


def evaluate(kind, file, found, **arguments):
    metric = kind(ann_file=str(file), metric=METRIC, **arguments)
    metric.dataset_meta = {'classes': CLASSES}
    for image in json.loads(file.read_text())['images']:
        metric.process({}, [{'img_id': image['id'], 'ori_shape': (256, 256), 'pred_instances': found(image['id'])}])
    return metric.evaluate(size=len(metric.results))


@pytest.fixture
def file(demo_data):
    return demo_data / 'val' / 'annotations.json'


def nothing(image):
    return {'bboxes': torch.zeros(0, 4), 'scores': torch.zeros(0), 'labels': torch.zeros(0, dtype=int), 'masks': []}


@pytest.fixture
def shifted(file):
    """Ground truth, moved by some pixels and scored at random, a fifth of it lost and a fifth of the labels wrong."""
    document = json.loads(file.read_text())
    labels = {category['id']: number for number, category in enumerate(document['categories'])}

    def found(image):
        rng = np.random.default_rng(image)
        annotations = [a for a in document['annotations'] if a['image_id'] == image and rng.random() < 0.8]
        boxes, masks, classes = [], [], []
        for annotation in annotations:
            x, y, w, h = annotation['bbox'] + rng.normal(0, 1, 4)
            boxes.append([x, y, x + abs(w), y + abs(h)])
            masks.append(pycocotools.mask.merge(pycocotools.mask.frPyObjects(annotation['segmentation'], 256, 256)))
            masks[-1]['counts'] = masks[-1]['counts'].decode()
            wrong = rng.random() < 0.2
            classes.append((labels[annotation['category_id']] + wrong) % 3)
        return {
            'bboxes': torch.tensor(boxes).reshape(-1, 4),
            'scores': torch.tensor(rng.random(len(boxes))),
            'labels': torch.tensor(classes, dtype=int),
            'masks': masks,
        }

    return found


def test_values_are_stocks_before_it_rounds(file, shifted):
    ours, stock = evaluate(CocoMetric, file, shifted), evaluate(StockCocoMetric, file, shifted)
    assert {key: round(value, 3) for key, value in ours.items()} == stock
    assert ours['coco/bbox_mAP'] != stock['coco/bbox_mAP']
    assert 0.1 < ours['coco/segm_mAP'] < 0.9


def test_no_detection_gives_every_key(file, shifted):
    empty = evaluate(CocoMetric, file, nothing)
    assert set(empty) == set(evaluate(CocoMetric, file, shifted))
    assert empty['coco/segm_mAP'] == empty['coco/bbox_mAP_50'] == 0
    assert empty['coco/bbox_mAP_l'] == -1  # no object of the made data is large
    assert evaluate(StockCocoMetric, file, nothing) == {}


def test_keys_of_classes_do_not_collide(file, shifted):
    ours = evaluate(CocoMetric, file, shifted, classwise=True)
    stock = {name: evaluate_one(file, shifted, name) for name in METRIC}
    for name in CLASSES:
        for metric in METRIC:
            assert ours[f'coco/{metric}_{name}_mAP'] == pytest.approx(stock[metric][f'coco/{name}_precision'], abs=5e-4)
    assert ours['coco/bbox_Fiber_mAP'] != ours['coco/segm_Fiber_mAP']
    mean = np.mean([ours[f'coco/segm_{name}_mAP'] for name in CLASSES])
    assert ours['coco/segm_mAP'] == pytest.approx(mean)


def evaluate_one(file, found, metric):
    stock = StockCocoMetric(ann_file=str(file), metric=metric, classwise=True)
    stock.dataset_meta = {'classes': CLASSES}
    for image in json.loads(file.read_text())['images']:
        stock.process({}, [{'img_id': image['id'], 'ori_shape': (256, 256), 'pred_instances': found(image['id'])}])
    return stock.evaluate(size=len(stock.results))


def test_unknown_items_are_refused(file, shifted):
    with pytest.raises(KeyError, match=r"'mAP_90' is unknown\. There are: mAP, mAP_50"):
        evaluate(CocoMetric, file, shifted, metric_items=['mAP_90'])


def test_the_usual_rest_is_mmdetections(file, shifted, tmp_path):
    assert evaluate(CocoMetric, file, shifted, format_only=True, outfile_prefix=str(tmp_path / 'out')) == {}
    assert (tmp_path / 'out.segm.json').exists()
