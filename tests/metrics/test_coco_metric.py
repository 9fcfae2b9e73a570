import json
import logging
import sys

import numpy as np
import pycocotools.mask
import pytest
import torch
from mmdet.evaluation import CocoMetric as StockCocoMetric
from mmengine.logging import MMLogger

from mmext.errors import InputError
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


ALL = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
ALL += ['AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000']


@pytest.fixture
def lines():
    """What is logged."""
    logger, records = MMLogger.get_current_instance(), []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def slow_lines(lines):
    return [line for line in lines if 'evaluated by pycocotools' in line]


@pytest.mark.parametrize('more', [{}, {'proposal_nums': (1, 10, 100)}, {'iou_thrs': [0.5, 0.75]}, {'iou_thrs': 0.5}])
@pytest.mark.parametrize('kind', ['shifted', 'nothing'])
def test_backends_agree_to_the_bit(file, shifted, kind, more, lines):
    found = {'shifted': shifted, 'nothing': nothing}[kind]
    arguments = {'classwise': True, 'metric_items': ALL, **more}
    ours = evaluate(CocoMetric, file, found, **arguments)
    assert not slow_lines(lines)
    assert ours == evaluate(CocoMetric, file, found, backend='pycocotools', **arguments)
    assert not slow_lines(lines)
    assert len(ours) == 24 + 6
    # stock fails on a list of thresholds, and on one
    assert ours['coco/bbox_mAP_50'] > 0.3 or kind == 'nothing'


def test_a_missing_library_is_said_once(file, shifted, lines, monkeypatch):
    fast = evaluate(CocoMetric, file, shifted)
    monkeypatch.setitem(sys.modules, 'hotcoco', None)
    metric = CocoMetric(ann_file=str(file), metric=METRIC)
    metric.dataset_meta = {'classes': CLASSES}
    for _ in range(2):
        for image in json.loads(file.read_text())['images']:
            metric.process({}, [{'img_id': image['id'], 'ori_shape': (256, 256), 'pred_instances': shifted(image['id'])}])
        assert metric.evaluate(size=len(metric.results)) == fast
    (line,) = slow_lines(lines)
    assert 'and not by hotcoco: it cannot be imported' in line
    assert "pip install 'mmext[fast]'" in line


def test_unknown_backend_is_refused(file):
    with pytest.raises(InputError, match=r"backend is 'fast'; it must be 'auto' or 'pycocotools'"):
        CocoMetric(ann_file=str(file), backend='fast')


def test_files_are_stocks_and_only_where_asked_for(file, shifted, tmp_path, monkeypatch):
    evaluate(CocoMetric, file, shifted, outfile_prefix=str(tmp_path / 'ours'))
    evaluate(StockCocoMetric, file, shifted, outfile_prefix=str(tmp_path / 'stock'))
    for name in ('bbox.json', 'segm.json'):
        assert (tmp_path / f'ours.{name}').read_bytes() == (tmp_path / f'stock.{name}').read_bytes()
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(CocoMetric, 'results2json', None)
    evaluate(CocoMetric, file, shifted)


def test_classes_keep_their_names_in_a_file_that_is_not_sorted(file, shifted, tmp_path):
    document = json.loads(file.read_text())
    new = {category['id']: 30 - 10 * place for place, category in enumerate(document['categories'])}
    for category in document['categories']:
        category['id'] = new[category['id']]
    for annotation in document['annotations']:
        annotation['category_id'] = new[annotation['category_id']]
    (tmp_path / 'turned.json').write_text(json.dumps(document))
    ours = evaluate(CocoMetric, tmp_path / 'turned.json', shifted, classwise=True)
    sorted_file = evaluate(CocoMetric, file, shifted, classwise=True)
    for name in CLASSES:
        for metric in METRIC:
            assert ours[f'coco/{metric}_{name}_mAP'] == sorted_file[f'coco/{metric}_{name}_mAP']


def test_masks_that_are_not_there_are_said(file, shifted):
    def boxes(image):
        return {name: value for name, value in shifted(image).items() if name != 'masks'}

    with pytest.raises(InputError, match=r"metric has 'segm', but the model predicts no masks\. Set metric='bbox'\."):
        evaluate(CocoMetric, file, boxes)


def test_ground_truth_of_the_data_set_will_do(file, shifted):
    """Without ann_file the annotations come with the samples, as MMDetection's."""
    document = json.loads(file.read_text())
    labels = {category['id']: number for number, category in enumerate(document['categories'])}

    def numbers(kind):
        metric = kind(metric=METRIC)
        metric.dataset_meta = {'classes': CLASSES}
        for image in document['images']:
            instances = []
            for annotation in (each for each in document['annotations'] if each['image_id'] == image['id']):
                x, y, w, h = annotation['bbox']
                instances.append({'bbox': [x, y, x + w, y + h], 'bbox_label': labels[annotation['category_id']]})
                instances[-1]['mask'] = annotation['segmentation']
            sample = {'img_id': image['id'], 'ori_shape': (256, 256), 'instances': instances}
            metric.process({}, [{**sample, 'pred_instances': shifted(image['id'])}])
        return metric.evaluate(size=len(metric.results))

    ours = numbers(CocoMetric)
    assert {name: round(value, 3) for name, value in ours.items()} == numbers(StockCocoMetric)
    assert ours['coco/segm_mAP'] > 0.1


# ---- many objects


@pytest.fixture
def crowded(tmp_path):
    """A file with 250 squares of one class and 20 of another in an image, and a function that finds each of them."""
    squares = [[20 * (i % 20), 20 * (i // 20), 12, 12] for i in range(270)]
    labels = [int(i >= 250) for i in range(270)]
    rles = [pycocotools.mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], 400, 400)[0] for x, y, w, h in squares]
    rles = [{**rle, 'counts': rle['counts'].decode()} for rle in rles]
    annotations = [
        {'id': i + 1, 'image_id': 1, 'category_id': label + 1, 'bbox': box, 'area': 144, 'iscrowd': 0, 'segmentation': rle}
        for i, (box, label, rle) in enumerate(zip(squares, labels, rles, strict=True))
    ]
    images = [{'id': 1, 'file_name': 'a.png', 'height': 400, 'width': 400}]
    categories = [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)]
    file = tmp_path / 'crowded.json'
    file.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))

    def found(image):
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in squares], dtype=torch.float)
        scores = torch.linspace(1, 0.5, 270)
        return {'bboxes': boxes, 'scores': scores, 'labels': torch.tensor(labels), 'masks': [dict(rle) for rle in rles]}

    return file, found


@pytest.mark.parametrize('backend', ['auto', 'pycocotools'])
def test_250_perfect_detections_are_perfect(crowded, backend, lines):
    items = ['mAP', 'mAP_50', 'mAP_s', 'AR@100', 'AR@300', 'AR@350', 'AR_s@350']
    found = evaluate(CocoMetric, *crowded, backend=backend, max_detections=350, metric_items=items, classwise=True)
    assert not slow_lines(lines)
    recall = (100 / 250 + 1) / 2  # of the two classes
    for metric in METRIC:
        values = {name: found[f'coco/{metric}_{name}'] for name in [*items, 'Fiber_mAP']}
        assert values.pop('AR@100') == pytest.approx(recall)
        assert values == dict.fromkeys(values, pytest.approx(1))


def test_stock_counts_a_hundred_in_its_map_alone(crowded):
    """What the option is for; without it ours is stock's."""
    found, stock = (evaluate(kind, *crowded) for kind in (CocoMetric, StockCocoMetric))
    assert {key: round(value, 3) for key, value in found.items()} == stock
    assert stock['coco/segm_mAP'] == pytest.approx((0.4 + 1) / 2, abs=0.01)
    assert stock['coco/segm_mAP_50'] == 1
    counted = evaluate(StockCocoMetric, *crowded, proposal_nums=(100, 300, 350))
    assert counted['coco/segm_mAP'] == stock['coco/segm_mAP']


@pytest.mark.parametrize(('most', 'expected'), [(50, (50 / 250 + 1) / 2), (150, (150 / 250 + 1) / 2), (250, 1.0)])
def test_so_many_count(crowded, most, expected):
    names = ['mAP', 'mAP_50', f'AR@{most}']
    for backend in ('auto', 'pycocotools'):
        found = evaluate(CocoMetric, *crowded, max_detections=most, metric_items=names, backend=backend)
        assert list(found.values()) == [pytest.approx(expected, abs=0.01)] * 6


def test_the_hundred_of_coco_are_a_hundred(file, shifted):
    """Where an image has fewer detections the limit makes no difference, to the bit."""
    with_limit = evaluate(CocoMetric, file, shifted, max_detections=1000, metric_items=ALL)
    assert with_limit == evaluate(CocoMetric, file, shifted, metric_items=ALL)


@pytest.mark.parametrize('most', [0, -1, 3.5, True, '350'])
def test_a_limit_is_a_number_from_1(file, most):
    with pytest.raises(InputError, match=r'max_detections is .*; it must be a whole number from 1'):
        CocoMetric(ann_file=str(file), max_detections=most)
