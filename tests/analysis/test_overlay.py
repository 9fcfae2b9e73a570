import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_match import Objects
from mmext.analysis.overlay import COLOURS, outlines, side_by_side


def square(x, y, side, size=(60, 80)):
    mask = np.zeros(size, np.uint8)
    mask[y : y + side, x : x + side] = 1
    return coco_mask.encode(np.asfortranarray(mask))


def objects(*rles, labels=None, scores=None):
    boxes = coco_mask.toBbox(list(rles)) if rles else np.zeros((0, 4))
    labels = np.array(labels if labels is not None else [0] * len(rles), int)
    return Objects(boxes, list(rles), labels, None if scores is None else np.array(scores, float))


GREY = np.full((60, 80, 3), 100, np.uint8)


def test_outlines_run_along_the_mask():
    (outline,) = outlines(square(10, 20, 5))
    assert outline.min(0).tolist() == [10, 20]
    assert outline.max(0).tolist() == [14, 24]
    assert len(outlines(coco_mask.merge([square(0, 0, 3), square(40, 40, 3)]))) == 2
    assert outlines(square(0, 0, 0)) == []


def test_truth_left_prediction_right():
    drawn = side_by_side(GREY, objects(square(10, 10, 20)), objects(square(40, 30, 20), labels=[1], scores=[0.9]), 0.5, 80)
    assert drawn.shape == (60, 160, 3)
    left, right = drawn[:, :80], drawn[:, 80:]
    # lines are drawn smooth: their pixels are almost of their colour
    assert np.abs(left[10, 15] - np.array(COLOURS[0], float)).max() < 30
    assert right[10, 15].min() > 225
    assert np.abs(right[30, 45] - np.array(COLOURS[1], float)).max() < 30
    inside = np.array(COLOURS[1]) * 0.35 + 100 * 0.65
    assert np.abs(right[40, 50] - inside).max() <= 1
    assert left[40, 50].tolist() == [100, 100, 100]
    assert right[20, 20].tolist() == [100, 100, 100]


def test_low_scores_are_not_shown_and_nothing_at_all_is_no_crash():
    shown = side_by_side(GREY, objects(), objects(square(40, 30, 20), scores=[0.4]), 0.5, 80)
    assert (shown == 100).all()
    assert (side_by_side(GREY, objects(), objects(), 0.5, 80) == 100).all()


def test_a_large_picture_is_made_smaller_with_its_outlines():
    drawn = side_by_side(GREY, objects(square(20, 20, 20)), objects(), 0.5, 40)
    assert drawn.shape == (30, 80, 3)
    changed = np.argwhere((drawn[:, :40] != 100).any(-1))
    assert np.abs(changed.min(0) - 10).max() <= 1
    assert np.abs(changed.max(0) - 19).max() <= 1


def test_the_picture_given_is_left_alone():
    picture = GREY.copy()
    side_by_side(picture, objects(square(10, 10, 20)), objects(square(10, 10, 20), scores=[1.0]), 0.5, 80)
    assert (picture == GREY).all()
