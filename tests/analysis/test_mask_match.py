import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmext.analysis.mask_match import Objects, match


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
