import contextlib
import copy
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmext.analysis.coco_ap import NUMBERS, average_precision, match_predictions, mean_of, numbers, truth_of
from mmext.analysis.predictions import pack, read_predictions
from mmext.data.coco_file import CocoFile
from mmext.errors import InputError

SIDE, CLASSES = 200, ('Fiber', 'Fragment', 'Film')
SIZES = (4, 10, 30, 32, 40, 96, 120)


def rectangle(x, y, width, height):
    return [[float(one) for one in (x, y, x + width, y, x + width, y + height, x, y + height)]]


def made_validation(seed, images=6, distinct=False):
    """A COCO document and predictions on it: crowd, equal scores, areas at the limits, images and classes without objects.

    With ``distinct`` no two detections have one score.
    """
    rng = np.random.default_rng(seed)
    document = {'images': [], 'annotations': [], 'categories': []}
    document['categories'] = [{'id': 3 * number + 1, 'name': name} for number, name in enumerate(CLASSES)]
    used = rng.choice([1, 4, 7], rng.integers(1, 4))
    predictions = []
    for image_id in rng.permutation(3 * images)[:images].tolist():
        document['images'].append({'id': image_id, 'file_name': f'{image_id}.png', 'width': SIDE, 'height': SIDE})
        boxes = []
        for _ in range(rng.integers(0, 7)):
            box = [*rng.integers(0, 80, 2), *rng.choice(SIZES, 2)]
            category, crowd = int(rng.choice(used)), int(rng.random() < 0.1)
            outline = rectangle(*box)
            if crowd:
                rle = coco_mask.frPyObjects(outline, SIDE, SIDE)[0]
                outline = {'size': rle['size'], 'counts': rle['counts'].decode()}
            document['annotations'].append(
                {
                    'id': len(document['annotations']),  # from 0 on, of which pycocotools makes a miss
                    'image_id': image_id,
                    'category_id': category,
                    'bbox': [float(one) for one in box],
                    'area': float(box[2] * box[3] * rng.choice([1, 0.5])),
                    'iscrowd': crowd,
                    'segmentation': outline,
                }
            )
            boxes.append((*box, category))
        one = {'image_id': image_id, 'size': (SIDE, SIDE), 'labels': [], 'scores': [], 'boxes': [], 'rles': []}
        for _ in range(rng.integers(0, 11)):
            x, y, width, height, category = (*rng.integers(0, 80, 2), *rng.choice(SIZES, 2), int(rng.choice([1, 4, 7])))
            if boxes and rng.random() < 0.8:
                x, y, width, height, category = boxes[rng.integers(len(boxes))]
                x, y, width, height = np.maximum(np.array([x, y, width, height]) + rng.integers(-2, 3, 4), (0, 0, 1, 1))
            score = rng.random() if distinct or rng.random() < 0.3 else rng.integers(0, 6) / 5
            one['labels'].append((category - 1) // 3)
            one['scores'].append(float(np.float32(score)))
            one['boxes'].append([x, y, x + width, y + height])
            one['rles'].append(coco_mask.frPyObjects(rectangle(x, y, width, height), SIDE, SIDE)[0])
        predictions.append(one)
    return document, predictions


def about(document, **changes):
    classes = [category['name'] for category in document['categories']]
    return {'epoch': 1, 'iteration': 9, 'begin': 0, 'classes': classes, 'ann_file': 'x.json', 'sha256': '', **changes}


def matches_of(document, predictions, kind, folder):
    path = Path(folder, 'predictions.npz')
    path.write_bytes(pack(predictions, about(document)))
    found = read_predictions(path)
    file = CocoFile(Path('x.json'), document['images'], document['annotations'], document['categories'])
    return match_predictions(truth_of(file, found.about['image_ids'], found.about['classes']), found, kind)


def cocoeval(document, predictions, kind):
    """COCOeval's six numbers of average precision, of all detections, and the average precision of each class."""
    found = []
    for image in predictions:
        for label, score, (x1, y1, x2, y2), rle in zip(
            *(image[k] for k in ('labels', 'scores', 'boxes', 'rles')), strict=True
        ):
            entry = {'image_id': image['image_id'], 'category_id': 3 * label + 1, 'score': score}
            shape = {'bbox': [float(one) for one in (x1, y1, x2 - x1, y2 - y1)]} if kind == 'bbox' else {'segmentation': rle}
            found.append(copy.deepcopy(entry | shape))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(document)
        truth.createIndex()
        detected = COCO()
        detected.dataset = {**truth.dataset, 'annotations': []}
        detected.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found) if found else detected, kind)
        evaluation.params.maxDets = [1, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    there = precision[precision > -1]
    mean = there.mean() if there.size else -1  # COCOeval's own is that of 100 detections
    return [mean, *evaluation.stats[1:6]], [precision[:, :, k].mean() for k in range(len(CLASSES))]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 8), kind=st.sampled_from(['bbox', 'segm']))
def test_numbers_are_cocoevals(tmp_path_factory, seed, images, kind):
    document, predictions = made_validation(seed, images)
    stats, by_class = cocoeval(document, predictions, kind)
    precision = average_precision(matches_of(document, predictions, kind, tmp_path_factory.getbasetemp()))
    ours = [value[0] for value in numbers(precision).values()]
    assert np.nan_to_num(ours, nan=-1) == pytest.approx(stats, abs=1e-12)
    assert np.nan_to_num(precision[0, 0].mean(0), nan=-1) == pytest.approx(by_class, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    kind=st.sampled_from(['bbox', 'segm']),
)
def test_an_image_drawn_twice_counts_as_two_images(tmp_path_factory, seed, weights, kind):
    document, predictions = made_validation(seed, 5, distinct=True)
    for annotation in document['annotations']:
        annotation['id'] += 1  # 0 is a case of its own
    drawn, found = {**document, 'images': [], 'annotations': []}, []
    order = sorted(image['id'] for image in document['images'])
    for image, prediction in zip(document['images'], predictions, strict=True):
        for time in range(weights[order.index(image['id'])]):
            number = 10 * image['id'] + time
            drawn['images'].append({**image, 'id': number})
            found.append({**prediction, 'image_id': number})
            for annotation in document['annotations']:
                if annotation['image_id'] == image['id']:
                    drawn['annotations'].append({**annotation, 'image_id': number, 'id': len(drawn['annotations']) + 1})
    stats = cocoeval(drawn, found, kind)[0] if found else [-1] * 6
    matches = matches_of(document, predictions, kind, tmp_path_factory.getbasetemp())
    ours = numbers(average_precision(matches, np.array([weights, [1] * 5])))
    assert np.nan_to_num([value[0] for value in ours.values()], nan=-1) == pytest.approx(stats, abs=1e-12)
    alone = numbers(average_precision(matches))
    assert [value[1] for value in ours.values()] == pytest.approx([value[0] for value in alone.values()], nan_ok=True, abs=0)


def test_many_weightings_are_those_one_by_one(tmp_path, monkeypatch):
    document, predictions = made_validation(0, 12)
    matches = matches_of(document, predictions, 'segm', tmp_path)
    weights = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=30)
    whole = average_precision(matches, weights)
    assert np.isnan(whole).any()
    assert mean_of(whole[:, 0]).std() > 0.01
    monkeypatch.setattr('mmext.analysis.coco_ap._BLOCK', 40)
    np.testing.assert_array_equal(average_precision(matches, weights), whole)
    one_by_one = [average_precision(matches, row[None])[0] for row in weights]
    np.testing.assert_allclose(np.array(one_by_one), whole, atol=1e-14)
    assert np.isnan(average_precision(matches, weights, areas=1)[:, 1:]).all()


def test_weights_must_be_whole_numbers(tmp_path):
    matches = matches_of(*made_validation(0), 'bbox', tmp_path)
    with pytest.raises(TypeError, match='float64'):
        average_precision(matches, np.full((1, 6), 0.5))


def test_more_than_a_hundred_detections_of_a_class_count(tmp_path):
    document, predictions = made_validation(3, 1)
    label = (document['annotations'][0]['category_id'] - 1) // 3
    one = predictions[0]
    for name, value in (('labels', label), ('boxes', [150, 150, 151, 151]), ('rles', one['rles'][0])):
        one[name] = [value] * 100 + one[name]
    one['scores'] = [2.0] * 100 + one['scores']
    stats, _ = cocoeval(document, predictions, 'bbox')
    ours = numbers(average_precision(matches_of(document, predictions, 'bbox', tmp_path)))
    assert np.nan_to_num([value[0] for value in ours.values()], nan=-1) == pytest.approx(stats, abs=1e-12)
    assert 0 < ours['AP50'][0] < 0.05  # behind a hundred wrong ones
    assert list(ours) == list(NUMBERS)


def test_what_cannot_be_matched_is_said(tmp_path):
    document, predictions = made_validation(0)
    without = [{key: value for key, value in one.items() if key != 'rles'} for one in predictions]
    with pytest.raises(InputError, match=r'predictions\.npz: there are no masks in it'):
        matches_of(document, without, 'segm', tmp_path)
    file = CocoFile(Path('x.json'), document['images'], document['annotations'], document['categories'])
    with pytest.raises(InputError, match=r'x\.json: image 99, which was validated, is not in it'):
        truth_of(file, [99], CLASSES)
    with pytest.raises(InputError, match=r"x\.json: class 'Pellet', which was validated, is not in it"):
        truth_of(file, [], ['Pellet'])
    bare = [{**annotation, 'segmentation': []} for annotation in document['annotations']]
    with pytest.raises(InputError, match='have no outline, so there is no mask AP'):
        matches_of({**document, 'annotations': bare}, predictions, 'segm', tmp_path)
    assert matches_of({**document, 'annotations': bare}, predictions, 'bbox', tmp_path).images == 6
