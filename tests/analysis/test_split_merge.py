import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.split_merge import assign
from mmext.data.demo import SIDE, cut_at_border, fiber

WIDE = 90


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def boxes(*corners, size=60):
    """RLEs of rectangles x1, y1, x2, y2."""
    masks = np.zeros((len(corners), size, size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = True
    return [rle(mask) for mask in masks]


def fibers(rng, number):
    """Masks of made fibers, which cross each other but do not lie on each other by more than a quarter."""
    masks = []
    while len(masks) < number:
        outline = cut_at_border(fiber(rng))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if len(outline) >= 3:
            cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
        if mask.sum() > 250 and all((mask & other).sum() < min(mask.sum(), other.sum()) / 4 for other in masks):
            masks.append(mask)
    return masks


def cut(mask, share):
    """The two sides of a gap across a fiber, by distance along its longer side."""
    y, x = np.nonzero(mask)
    line = x if np.ptp(x) > np.ptp(y) else y
    place = np.quantile(line, share)
    values = np.indices(mask.shape)[1 if np.ptp(x) > np.ptp(y) else 0]
    return mask * (values < place), mask * (values > place + 1)


def nibbled(mask, rng):
    """With a tenth of the outline's pixels taken away."""
    rim = mask - cv2.erode(mask, np.ones((3, 3), np.uint8))
    return mask * ~((rim == 1) & (rng.random(mask.shape) < 0.1))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_planted_splits_and_merges_are_counted_exactly(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    split, merged, missed, false, right = (data.draw(st.integers(0, 3)) for _ in range(5))
    truth = fibers(rng, split + 2 * merged + missed + right)
    others = iter(truth)
    predicted = []
    for _ in range(split):
        predicted += cut(next(others), rng.uniform(0.25, 0.75))
    for _ in range(merged):
        predicted.append(next(others) | next(others))
    for _ in range(missed):
        next(others)
    predicted += others
    predicted = [nibbled(mask, rng) for mask in predicted]
    taken = np.add.reduce(truth, dtype=int) if truth else np.zeros((SIDE, SIDE), int)
    for _ in range(false):  # a speck, mostly on the background
        speck = np.zeros((SIDE, SIDE), np.uint8)
        while not speck.any() or (speck * (taken > 0)).sum() > 10:
            x, y = rng.integers(0, SIDE - 9, 2)
            speck[:] = 0
            speck[y : y + 9, x : x + 9] = 1
        predicted.append(speck)
    order, places = rng.permutation(len(predicted)), rng.permutation(len(truth))
    found = assign([rle(truth[i]) for i in places], [rle(predicted[i]) for i in order])
    assert {tuple(sorted(order[list(pieces)])) for pieces in found.splits.values()} == {
        (2 * i, 2 * i + 1) for i in range(split)
    }
    assert {tuple(sorted(places[list(objects)])) for objects in found.merges.values()} == {
        (split + 2 * i, split + 2 * i + 1) for i in range(merged)
    }
    first = split + 2 * merged
    assert sorted(places[list(found.missed)]) == list(range(first, first + missed))
    assert sorted(places[list(found.alone)]) == list(range(first + missed, len(truth)))
    assert len(found.false) == false
    assert (found.objects, found.predictions) == (len(truth), len(predicted))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), objects=st.integers(0, 6), predictions=st.integers(0, 6))
def test_everything_is_somewhere_and_groups_have_two_or_more(seed, objects, predictions):
    rng = np.random.default_rng(seed)

    def some(number):
        corners = rng.integers(0, 40, (number, 2))
        return boxes(*np.concatenate([corners, corners + rng.integers(0, 21, (number, 2))], 1))

    truth, found = some(objects), some(predictions)
    one = assign(truth, found)
    merged = {i for group in one.merges.values() for i in group}
    pieces = {i for group in one.splits.values() for i in group}
    assert sorted([*one.alone, *({*one.splits} | merged), *one.missed]) == list(range(objects))
    singles = {one.pairs[i] for i in one.pairs}
    assert sorted([*(singles | pieces | {*one.merges}), *one.false]) == list(range(predictions))
    assert all(len(group) > 1 for group in (*one.splits.values(), *one.merges.values()))
    # the roles exchanged, splits are merges
    turned = assign(found, truth)
    if set(one.pairs.items()) == {(i, j) for j, i in turned.pairs.items()}:  # equal IoUs are taken in the order of objects
        assert (dict(turned.splits), dict(turned.merges)) == (dict(one.merges), dict(one.splits))


def test_a_crossing_is_no_merge_and_no_split():
    across, down = (0, 28, 60, 32), (28, 0, 32, 60)
    found = assign(boxes(across, down), boxes(down, across))
    assert (dict(found.pairs), found.alone) == ({0: 1, 1: 0}, (0, 1))
    assert not found.splits
    assert not found.merges
    # one of them missed: the crossing is not the other's
    found = assign(boxes(across, down), boxes(across))
    assert (found.alone, found.missed, dict(found.merges)) == ((0,), (1,), {})
    # both as one: a merge, crossing or not
    cross = coco_mask.merge(boxes(across, down))
    assert dict(assign(boxes(across, down), [cross]).merges) == {0: (0, 1)}
    # one of them broken where the other crosses it
    found = assign(boxes(across, down), boxes(across, (28, 0, 32, 28), (28, 32, 32, 60)))
    assert (dict(found.splits), found.alone, dict(found.merges)) == ({1: (1, 2)}, (0,), {})


def test_an_object_on_another_is_no_merge():
    film, on_it = (0, 0, 50, 50), (10, 10, 20, 20)
    found = assign(boxes(film, on_it), boxes(film))
    assert (found.alone, found.missed, dict(found.merges)) == ((0,), (1,), {})
    found = assign(boxes(film, on_it), boxes(film, on_it))
    assert (found.alone, dict(found.splits), dict(found.merges)) == ((0, 1), {}, {})
    found = assign(boxes(film), boxes(film, on_it))
    assert (found.alone, found.false, dict(found.splits)) == ((0,), (1,), {})


@pytest.mark.parametrize(('clear', 'merged'), [(21, True), (20, False), (19, False)])
def test_an_object_hidden_by_half_is_not_told_to_be_merged(clear, merged):
    first, second = (0, 0, 40, 10), (clear, 0, 40 + clear, 10)
    found = assign(boxes(first, second, size=WIDE), boxes((0, 0, 40 + clear, 10), size=WIDE))
    assert bool(found.merges) == merged
    assert found.missed == (() if merged else (1,))


def test_a_second_detection_is_no_split():
    whole, again = (0, 0, 50, 6), (0, 1, 48, 6)
    found = assign(boxes(whole), boxes(again, whole))
    assert (dict(found.pairs), dict(found.splits), found.false) == ({0: 1}, {}, (0,))


def test_pieces_that_cover_too_little_are_false_and_the_object_is_missed():
    pieces = (0, 0, 12, 6), (38, 0, 50, 6)
    found = assign(boxes((0, 0, 50, 6)), boxes(*pieces))
    assert (found.missed, found.false, dict(found.splits)) == ((0,), (0, 1), {})
    found = assign(boxes((0, 0, 50, 6)), boxes(*pieces, (13, 0, 20, 6)))
    assert (found.missed, found.false, dict(found.splits)) == ((), (), {0: (0, 1, 2)})


def test_a_prediction_of_everything_is_no_merge():
    found = assign(boxes((0, 0, 10, 10), (30, 30, 40, 40)), boxes((0, 0, 60, 60)))
    assert (found.missed, found.false, dict(found.merges)) == ((0, 1), (0,), {})


def test_an_object_may_be_split_and_merged():
    truth = boxes((0, 0, 40, 6), (40, 0, 60, 6))
    found = assign(truth, boxes((0, 0, 10, 6), (10, 0, 60, 6)))
    assert (dict(found.splits), dict(found.merges)) == ({0: (0, 1)}, {1: (0, 1)})
    assert (found.alone, found.missed, found.false) == ((), (), ())


def test_nothing_and_empty_masks():
    nothing = assign([], [])
    assert (nothing.missed, nothing.false, nothing.objects) == ((), (), 0)
    found = assign(boxes((0, 0, 0, 0), (0, 0, 5, 5)), boxes((3, 3, 3, 3)))
    assert (found.missed, found.false) == ((0, 1), (0,))


def test_more_than_255_objects():
    corners = [(3 * (i % 30), 3 * (i // 30), 3 * (i % 30) + 2, 3 * (i // 30) + 2) for i in range(600)]
    truth = boxes(*corners, size=WIDE)
    found = assign(truth, [coco_mask.merge(truth[i : i + 2]) for i in range(0, 400, 2)] + truth[400:])
    assert dict(found.merges) == {i: (2 * i, 2 * i + 1) for i in range(200)}
    assert found.alone == tuple(range(400, 600))
