import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.mask_match import Objects, match, union_ious


def rectangles(*corners, labels=None, scores=None):
    """Objects that are rectangles: x1, y1, x2, y2."""
    masks = np.zeros((len(corners), 50, 50), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = 1
    boxes = np.array([[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners], float).reshape(-1, 4)
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    labels = np.array(labels or [0] * len(corners))
    return Objects(boxes, rles, labels, None if scores is None else np.array(scores))


def test_pairs_are_one_to_one_best_score_first():
    truth = rectangles((0, 0, 10, 10), (20, 20, 30, 30))
    prediction = rectangles((0, 0, 10, 9), (0, 0, 10, 10), (20, 20, 30, 28), scores=[0.9, 0.5, 0.8])
    pairs = match(truth, prediction)
    assert [(pair.truth, pair.prediction) for pair in pairs] == [(0, 0), (1, 2)]
    assert [pair.mask_iou for pair in pairs] == pytest.approx([0.9, 0.8])
    assert [pair.coverage for pair in pairs] == pytest.approx([0.9, 0.8])


def test_coverage_is_of_the_ground_truth_and_iou_of_both():
    truth = rectangles((0, 0, 10, 10))
    too_large = match(truth, rectangles((0, 0, 10, 16), scores=[1.0]))[0]
    assert (too_large.coverage, too_large.mask_iou) == pytest.approx((1.0, 10 / 16))


def test_other_class_and_small_overlap_do_not_match():
    truth = rectangles((0, 0, 10, 10))
    assert match(truth, rectangles((0, 0, 10, 10), labels=[1], scores=[0.9])) == []
    assert match(truth, rectangles((0, 0, 10, 4), scores=[0.9])) == []
    assert match(truth, rectangles(scores=[])) == []
    assert match(rectangles(), rectangles((0, 0, 1, 1), scores=[0.9])) == []


@given(st.integers(0, 9999), st.sampled_from([0.02, 0.5, 1]))
def test_numbers_of_pairs_are_pycocotools_own_to_the_bit(seed, density):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 50, (6, 2, 2)), 1).reshape(6, 4) + np.array([0, 0, 1, 1])
    sides = [rectangles(*corners.tolist(), scores=scores) for scores in (None, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])]
    noisy = []
    for one in sides:
        masks = coco_mask.decode(list(one.rles)) * (rng.random((50, 50, 6)) < density)
        noisy.append(Objects(one.boxes, coco_mask.encode(np.asfortranarray(masks.astype(np.uint8))), one.labels, one.scores))
    truth, prediction = noisy
    pairs = match(truth, prediction)
    assert len(pairs) == 6
    for pair in pairs:
        one, other = [truth.rles[pair.truth]], [prediction.rles[pair.prediction]]
        area, predicted = (int(coco_mask.area(rles[0])) for rles in (one, other))
        # against a crowd region the intersection is divided by the area of the first
        expected = [coco_mask.iou(other, one, [0])[0, 0], coco_mask.iou(one, other, [1])[0, 0], predicted / max(area, 1)]
        assert pair.mask_iou == expected[0]
        assert [pair.coverage, pair.area_ratio] == expected[1:] if area else np.isnan([pair.coverage, pair.area_ratio]).all()


def test_the_free_object_of_highest_overlap_is_taken():
    truth = rectangles((0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 10, 8))
    prediction = rectangles((0, 0, 10, 9), (0, 0, 10, 9), (0, 0, 10, 9), (0, 0, 10, 9), scores=[0.5, 0.5, 0.9, 0.1])
    assert [(pair.truth, pair.prediction) for pair in match(truth, prediction)] == [(1, 2), (0, 0), (2, 1)]


def test_union_is_of_each_class_and_of_all():
    truth = rectangles((0, 0, 10, 10), (5, 0, 20, 10), (30, 30, 40, 40), labels=[0, 0, 2])
    prediction = rectangles((0, 0, 20, 5), (30, 30, 40, 35), (0, 0, 20, 10), labels=[0, 1, 0], scores=[0.9, 0.95, 0.5])
    assert union_ious(truth, prediction) == pytest.approx({0: 0.5, 2: 0, None: 50 / 300})
    assert union_ious(truth, rectangles(scores=[])) == {0: 0, 2: 0, None: 0}
    assert union_ious(rectangles(), prediction) == {}


def test_of_equal_scores_the_first_is_best():
    truth = rectangles((0, 0, 10, 10))
    assert union_ious(truth, rectangles((0, 0, 10, 10), (0, 0, 10, 5), scores=[0.9, 0.9])) == {0: 1, None: 1}
