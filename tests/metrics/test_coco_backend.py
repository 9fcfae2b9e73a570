import contextlib
import copy
import io
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as coco_mask

from mmext.errors import InputError
from mmext.metrics.coco_backend import check_images, evaluate, found_in

# sides of squares at the borders of small, medium and large, and of none
SIDES = (0, 1, 5, 31, 32, 33, 95, 96, 97)
AREAS = (0, 1023.999, 1024, 1024.001, 9216, 9216.5, 1e10, 1e11)


def coco(images, annotations, categories):
    truth = COCO()
    truth.dataset = {
        'images': [{'id': image, 'height': height, 'width': width} for image, height, width in images],
        'annotations': annotations,
        'categories': [{'id': category, 'name': f'class {category}'} for category in categories],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def square(side, height, width, y=0, x=0):
    mask = np.zeros((height, width), np.uint8, order='F')
    mask[y : y + side, x : x + side] = 1
    return coco_mask.encode(mask)


def uncompressed(rle):
    pixels = coco_mask.decode(rle).ravel('F')
    changes = np.flatnonzero(np.diff(np.concatenate(([0], pixels)))).tolist()
    return {'size': rle['size'], 'counts': np.diff([0, *changes, len(pixels)]).tolist()}


def as_found(image, boxes, scores, labels, rles, **more):
    boxes = np.reshape(boxes, (-1, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = np.array(scores, np.float32), np.array(labels, int)
    return {'img_id': image, 'bboxes': boxes, 'scores': scores, 'labels': labels, 'masks': rles, **more}


@st.composite
def validations(draw):
    """Ground truth, predictions, ids of the categories by label, and what is chosen of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True))
    if draw(st.booleans()):
        ids = [f'image {each}' for each in ids]
    categories = draw(st.lists(st.integers(0, 90), min_size=1, max_size=3, unique=True))
    height, width = draw(st.integers(20, 120)), draw(st.integers(20, 120))
    turned, nothing, crowded = draw(st.booleans()), draw(st.booleans()) and draw(st.booleans()), draw(st.booleans())

    def shape():
        return square(rng.choice(SIDES), height, width, rng.integers(0, height), rng.integers(0, width))

    annotations, predictions = [], []
    for image in ids:
        objects = []
        for _ in range(rng.integers(0, 6)):
            rle = shape()
            kind = rng.integers(4)
            segmentation = [{**rle, 'counts': rle['counts'].decode()}, rle, uncompressed(rle), None][kind]
            if kind == 3:
                segmentation = [
                    (rng.integers(-20, 260, 2 * rng.integers(3, 9)) / 2).tolist() for _ in range(rng.integers(1, 3))
                ]
                rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
            objects.append(rle)
            annotation = {'id': len(annotations) + 1, 'image_id': image, 'category_id': int(rng.choice(categories))}
            annotation |= {'segmentation': segmentation, 'bbox': coco_mask.toBbox(rle).tolist()}
            annotation |= {'area': float(rng.choice([*AREAS, coco_mask.area(rle)])), 'iscrowd': int(rng.random() < 0.2)}
            annotations.append({**annotation, 'ignore': 1} if rng.random() < 0.2 else annotation)
        number = 0 if nothing or rng.random() < 0.2 else 130 if crowded and image == ids[0] else rng.integers(0, 12)
        rles = [objects[rng.integers(len(objects))] if objects and rng.random() < 0.7 else shape() for _ in range(number)]
        boxes = [coco_mask.toBbox(rle) + rng.normal(0, rng.choice([0, 1]), 4) for rle in rles]
        if turned and rles:  # an image of another size than the file says
            rles[0] = {'size': [height + 1, width], 'counts': rles[0]['counts']}
        labels = rng.integers(len(categories), size=number)
        more = {'mask_scores': np.float32(rng.integers(4, size=number) / 4)} if rng.random() < 0.2 else {}
        predictions.append(as_found(image, boxes, rng.integers(4, size=number) / 4, labels, rles, **more))
    truth = coco([(image, height, width) for image in ids], annotations, categories)
    chosen = {
        'imgIds': draw(st.lists(st.sampled_from(ids), min_size=1, unique=True)),
        'catIds': draw(st.lists(st.sampled_from(categories), min_size=1, unique=True)),
        'maxDets': draw(st.sampled_from([[100, 300, 1000], [1, 10, 100], [10, 1, 3]])),
        'iouThrs': np.array(draw(st.sampled_from([np.linspace(0.5, 0.95, 10), [0.5], [0.3, 0.75], [0.02, 1]]))),
    }
    return truth, found_in(predictions, categories), chosen


def both(truth, found, metric, chosen):
    """The evaluation that mmext chooses, why it was slow, and pycocotools'."""

    def choose(params):
        for name, value in chosen.items():
            setattr(params, name, value)

    ours, reason = evaluate(copy.deepcopy(truth), found, metric, choose)
    theirs, none = evaluate(copy.deepcopy(truth), found, metric, choose, fast=False)
    assert none is None
    return ours, reason, theirs


def must_be_equal(ours, theirs):
    assert np.array_equal(ours.stats, theirs.stats)
    for name in ('precision', 'recall'):
        assert ours.eval[name].shape == theirs.eval[name].shape
        assert np.array_equal(ours.eval[name], theirs.eval[name])


@settings(max_examples=100, deadline=None)
@given(validations(), st.sampled_from(['bbox', 'segm']))
def test_numbers_are_pycocotools_to_the_bit(validation, metric):
    truth, found, chosen = validation
    ours, reason, theirs = both(truth, found, metric, chosen)
    assert reason is None
    must_be_equal(ours, theirs)


def test_equal_scores_go_by_the_order_of_image_ids():
    rle = square(20, 40, 40)
    objects = [{'id': 1, 'image_id': 20, 'category_id': 1, 'bbox': [0, 0, 20, 20], 'area': 400, 'iscrowd': 0}]
    truth = coco([(20, 40, 40), (3, 40, 40)], [{**objects[0], 'segmentation': rle}], [1])
    predictions = [as_found(image, [[0, 0, 20, 20]], [0.5], [0], [rle]) for image in (20, 3)]
    for metric in ('bbox', 'segm'):
        ours, reason, theirs = both(truth, found_in(predictions, [1]), metric, {})
        must_be_equal(ours, theirs)
        # that on image 3, which has no object, goes first
        assert (reason, ours.stats[0]) == (None, 0.5)


def test_size_of_a_detection_is_its_masks():
    """A medium box around a small mask, that matches nothing: false among the small ones only."""
    truth_mask, small = square(20, 200, 200), square(32, 200, 200, 100, 100)
    annotation = {'id': 7, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 20, 20], 'area': 400, 'iscrowd': 0}
    truth = coco([(1, 200, 200)], [{**annotation, 'segmentation': truth_mask}], [1])
    found = found_in([as_found(1, [[90, 90, 60, 60], [0, 0, 20, 20]], [0.9, 0.5], [0, 0], [small, truth_mask])], [1])
    for metric, small_precision in (('bbox', 1), ('segm', 0.5)):
        ours, reason, theirs = both(truth, found, metric, {'maxDets': [100, 300, 1000]})
        must_be_equal(ours, theirs)
        assert (reason, ours.stats[3]) == (None, pytest.approx(small_precision))


@pytest.fixture
def simple():
    """One object, found."""
    rle = square(20, 40, 40)
    annotation = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 20, 20], 'area': 400, 'iscrowd': 0}
    truth = coco([(1, 40, 40)], [{**annotation, 'segmentation': rle}], [1])
    return truth, found_in([as_found(1, [[0, 0, 20, 20]], [0.5], [0], [rle])], [1])


def slow(simple, metric='segm', **chosen):
    """Why pycocotools evaluated; the numbers are its."""
    ours, reason, theirs = both(*simple, metric, chosen)
    must_be_equal(ours, theirs)
    return reason


def test_what_hotcoco_has_other_numbers_for_is_pycocotools(simple):
    assert slow(simple) is None
    truth, found = simple
    assert 'a threshold of 0' in slow(simple, iouThrs=np.array([0, 0.5]))
    truth.dataset['annotations'][0]['area'] = np.nan
    assert 'infinite or not a number' in slow(simple)
    truth.dataset['annotations'][0] |= {'area': 400, 'id': 0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    assert 'has the id 0, and pycocotools counts what matches it as a false detection' in slow(simple)
    truth.dataset['annotations'][0]['id'] = 5
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    found.scores['segm'][0] = np.nan
    assert 'it failed with ValueError: ' in slow(simple)
    assert slow(simple, 'bbox') is None
    found.boxes[0, 2] = np.inf
    assert 'infinite or not a number' in slow(simple, 'bbox')


def test_an_id_given_twice_is_its_last_annotation(simple):
    truth, _ = simple
    first = truth.dataset['annotations'][0]
    truth.dataset['annotations'] += [{**first, 'category_id': 2}, {**first, 'id': 2}]
    truth.dataset['categories'].append({'id': 2, 'name': 'other'})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    assert slow(simple, catIds=[1]) is None


def test_without_the_library(simple, monkeypatch):
    monkeypatch.setitem(sys.modules, 'hotcoco', None)
    assert (
        "it cannot be imported (import of hotcoco halted; None in sys.modules). To install it: pip install 'mmext[fast]'"
        in slow(simple)
    )


class Panic(BaseException):
    """As pyo3's."""


def broken(error):
    def fail(*_, **__):
        raise error

    module = types.ModuleType('hotcoco')
    module.COCO = types.SimpleNamespace(from_arrays=fail)
    return module


def test_a_broken_library(simple, monkeypatch):
    monkeypatch.setitem(sys.modules, 'hotcoco', broken(Panic('index out of bounds')))
    assert slow(simple) == 'it failed with Panic: index out of bounds'
    monkeypatch.setitem(sys.modules, 'hotcoco', types.ModuleType('hotcoco'))
    assert slow(simple).startswith('it failed with AttributeError: ')
    monkeypatch.setitem(sys.modules, 'hotcoco', broken(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        slow(simple)


def test_detections_on_an_unknown_image_are_refused(simple):
    truth, _ = simple
    nothing = as_found('b', [], [], [], [])
    check_images(truth, found_in([nothing], [1]))
    strange = as_found('a', [[0, 0, 20, 20]], [0.5], [0], [square(20, 40, 40)])
    with pytest.raises(
        InputError, match=r"has no image with the id 'a', on which something was detected\. Give val_evaluator"
    ):
        both(truth, found_in([strange, nothing], [1]), 'bbox', {})
