"""Masks that are moved, eroded, swapped or drawn twice are named with their part, and sound ones are not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmext.analysis.diagnose import Experiment
from mmext.analysis.mask_match import Objects
from mmext.probe.annotation import GROWTHS, OFFSETS, Change
from mmext.probe.ground_truth import VIEW, judge
from mmext.probe.truth import box_ious, overlaps, read_truth
from mmext.probe.views import View
from mmext.probe.weigh import Gain

SIDE = 200
ELLIPSE = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def box_of(mask):
    return coco_mask.toBbox(rle(mask))


def same(masks, rng):
    return masks


def moved(masks, rng):
    return [np.roll(mask, 3, 1) for mask in masks]


def eroded(masks, rng):
    return [cv2.erode(mask, ELLIPSE) for mask in masks]


def widened(masks, rng):
    return [cv2.dilate(mask, ELLIPSE, iterations=2) for mask in masks]


def swapped(masks, rng):
    return [masks[1], masks[0], *masks[2:]]


def elsewhere(masks, rng):
    return [np.roll(masks[0], 70, 0), *masks[1:]]


def views(change=same, boxes_too=False, contrast=80.0, images=12, seed=0, box_change=lambda box: box):
    """Six ellipses an image, in cells of a grid."""
    rng = np.random.default_rng(seed)
    for place in range(images):
        masks = []
        for cell in range(6):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            middle = 35 + 65 * (cell % 3) + rng.integers(-8, 9), 50 + 95 * (cell // 3) + rng.integers(-8, 9)
            axes = [int(one) for one in rng.integers(9, 18, 2)]
            cv2.ellipse(mask, [int(one) for one in middle], axes, float(rng.integers(180)), 0, 360, 1, -1)
            masks.append(mask)
        image = rng.normal(150, 5, (SIDE, SIDE, 3)) - contrast * sum(masks)[..., None]
        given = change(masks, rng)
        boxes = np.array([box_change(box_of(one)) for one in (given if boxes_too else masks)])
        yield View(
            place, image.clip(0, 255).astype(np.uint8), Objects(boxes, [rle(one) for one in given], np.arange(6) % 2), 6
        )


def truths(train=None, val=None, view=None):
    given = {'train': train or {}, 'val': {'seed': 1} | (val or {})} | ({} if view is None else {VIEW: view})
    return {name: read_truth(name, views(**changes), 0) for name, changes in given.items()}


def found(answer):
    return [(one.code, one.where) for one in answer[-1].findings]


def predicted(kind, change, where, here=0.1, there=-0.1):
    changes = OFFSETS if kind == 'moved' else GROWTHS
    gains = Gain(0.6, 0.6 + here, 0.005, 100), Gain(0.6, 0.6 + there, 0.005, 100)
    return Change(kind, changes.index(change), where, *gains)


def test_sound_masks_have_no_finding():
    answer = judge(truths(view={'seed': 2}))
    assert found(answer) == []
    assert set(answer[0].table) == {'train', 'val', VIEW}
    assert answer[0].table['train']['moved px'] == 0
    assert '12 of 12 images have an object, and 72 of 72 objects are left' in answer[0].text


@pytest.mark.parametrize('part', ['train', 'val'])
@pytest.mark.parametrize('boxes_too', [False, True])
@pytest.mark.parametrize(
    ('change', 'code', 'words'),
    [
        (moved, 'masks-moved', 'moved 3 px left, they lie where the image is steeper'),
        (eroded, 'masks-narrow', 'grown by 2 px, those not thin end where the image is steeper'),
        (widened, 'masks-wide', 'end where the image is steeper'),
    ],
)
def test_the_part_that_is_wrong_is_named(part, change, code, words, boxes_too):
    answer = judge(truths(**{part: {'change': change, 'boxes_too': boxes_too, 'seed': 3}}))
    assert found(answer) == [(code, part)]
    finding = answer[-1].findings[0]
    assert finding.severity == 'warning'
    assert words in finding.text
    assert f'of {part}' in finding.cause
    assert ('their boxes' in finding.text) == (not boxes_too)


def test_thin_objects_are_moved_too():
    def lines(change):
        for place, (end, middle) in enumerate(np.random.default_rng(0).integers(20, 180, (24, 2))):
            masks = [cv2.line(np.zeros((SIDE, SIDE), np.uint8), (20, int(end)), (180, int(middle)), 1, 3)]
            image = np.random.default_rng(place).normal(150, 5, (SIDE, SIDE, 3)) - 80.0 * masks[0][..., None]
            given = change(masks, None)
            truth = Objects(np.array([box_of(one) for one in given]), [rle(one) for one in given], np.zeros(1, int))
            yield View(place, image.clip(0, 255).astype(np.uint8), truth)

    def lower(masks, rng):
        return [np.roll(mask, 3, 0) for mask in masks]

    parts = {name: read_truth(name, lines(change), 0) for name, change in (('train', lower), ('val', same))}
    assert np.isnan(parts['train'].grown[:, 0]).all()
    answer = judge(parts)
    assert found(answer) == [('masks-moved', 'train')]
    assert 'moved 3 px up' in answer[0].findings[0].text


def test_without_contrast_the_edges_say_nothing():
    dull = {'contrast': 0.0}
    assert found(judge(truths(dull, dull))) == []
    assert found(judge(truths(dull | {'change': moved, 'boxes_too': True}, dull))) == []
    assert found(judge(truths(dull | {'change': moved}, dull))) == [('masks-moved', 'train')]  # the boxes do
    assert found(judge(truths(dull | {'change': eroded}, dull))) == [('masks-narrow', 'train')]


def test_boxes_that_are_off_are_not_blamed_on_masks():
    answer = judge(truths({'box_change': lambda box: box + np.array((4, 0, 0, 0))}))
    assert found(answer) == [('masks-moved', 'train')]
    assert answer[-1].findings[0].cause == 'the boxes of train lie 4 px beside their masks'
    loose = {'box_change': lambda box: box + np.array((-4, -4, 8, 8))}
    assert found(judge(truths(loose, loose))) == []


def test_both_parts_eroded_alike_are_named_and_no_more_than_worth_a_look_by_edges_alone():
    answer = judge(truths({'change': eroded}, {'change': eroded}))
    assert found(answer) == [('masks-narrow', 'train'), ('masks-narrow', 'val')]
    assert {one.severity for one in answer[-1].findings} == {'warning'}  # the boxes say so too
    answer = judge(truths(*[{'change': eroded, 'boxes_too': True}] * 2))
    assert [(one.code, one.severity) for one in answer[-1].findings] == [('masks-narrow', 'information')] * 2
    assert 'a halo, a wall' in answer[-1].findings[0].text


def test_masks_of_other_objects_are_severe_from_a_fifth_on():
    answer = judge(truths({'change': swapped}))
    assert found(answer) == [('masks-of-other-objects', 'train')]
    finding = answer[-1].findings[0]
    assert (finding.severity, finding.count) == ('severe', 24)
    assert '24 of 72 masks of train' in finding.text
    assert '24 of them in the box of another object' in finding.text
    some = judge(truths({'change': elsewhere}))
    assert [(one.code, one.severity) for one in some[-1].findings] == [('masks-of-other-objects', 'warning')]


def test_moved_masks_are_not_taken_for_those_of_others():
    thin = judge(truths({'change': lambda masks, rng: [np.roll(one, 12, 1) for one in masks], 'contrast': 0.0}))
    assert found(thin) == [('masks-moved', 'train')]


def test_masks_swapped_with_their_boxes_are_not_seen():
    assert found(judge(truths({'change': swapped, 'boxes_too': True}))) == []


def test_one_object_of_two_classes_is_named():
    answer = judge(truths({'change': lambda masks, rng: [masks[0], masks[0], *masks[2:]], 'boxes_too': True}))
    assert ('masks-overlap', 'train') in found(answer)


def test_masks_that_overlap_in_one_part_only_are_named():
    def blown(masks, rng):
        return [cv2.dilate(mask, np.ones((61, 61), np.uint8)) for mask in masks]

    one = truths({'change': blown, 'boxes_too': True, 'contrast': 0.0}, {'contrast': 0.0})
    assert found(judge(one)) == [('masks-overlap', 'train')]
    both = truths(*[{'change': blown, 'boxes_too': True, 'contrast': 0.0}] * 2)
    assert found(judge(both)) == []


def test_overlap_is_of_the_smaller_mask():
    large, small, far = (np.zeros((50, 50), np.uint8) for _ in range(3))
    large[5:35, 5:35] = small[10:20, 10:20] = far[40:, 40:] = 1
    covered, twin = overlaps(Objects(np.zeros((3, 4)), [rle(one) for one in (large, small, far)], np.arange(3)))
    np.testing.assert_allclose(covered, [1, 1, 0])
    assert not twin.any()
    again = overlaps(Objects(np.zeros((2, 4)), [rle(large), rle(large)], np.array([0, 1])))[1]
    assert again.all()
    assert not overlaps(Objects(np.zeros((2, 4)), [rle(large), rle(large)], np.array([1, 1])))[1].any()


def test_box_ious_are_those_of_coco():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 50, (2, 7, 4))
    corners = [np.concatenate([one[:, :2], one[:, :2] + one[:, 2:]], 1) for one in boxes]
    np.testing.assert_allclose(box_ious(*corners), coco_mask.iou(boxes[0], boxes[1], [0] * 7))


@pytest.mark.parametrize(('left', 'severity'), [(12, None), (5, 'warning'), (1, 'severe')])
def test_a_training_that_sees_no_object_is_severe(left, severity):
    nothing = Objects(np.zeros((0, 4)), [], np.zeros(0, int))
    seen = [one if one.place < left else replace(one, truth=nothing) for one in views(seed=2)]
    answer = judge(truths() | {VIEW: read_truth(VIEW, seen, 0)})
    assert [(one.code, one.severity) for one in answer[-1].findings] == (
        [('training-images-empty', severity)] if severity else []
    )


def test_nothing_at_all_is_survived():
    answer = judge({name: read_truth(name, [], 0) for name in ('train', 'val', VIEW)})
    assert found(answer) == []


def test_a_transform_that_moves_masks_is_named_and_a_wrong_file_is_said_once():
    assert found(judge(truths(view={'change': moved, 'boxes_too': True}))) == [('masks-moved', VIEW)]
    assert found(judge(truths({'change': moved}, view={'change': moved}))) == [('masks-moved', 'train')]


def test_what_predictions_found_is_said_once_with_its_weight():
    finding = judge(truths({'change': moved}))[-1].findings[0]
    differs = Experiment('annotation', 0.6, 0.7, 0.005, 100, findings=(replace(finding, code='annotated-differently'),))
    answer = judge(truths({'change': moved}), differs, predicted('moved', (-3, 0), 'val'))
    assert answer[0].findings == ()
    assert found(answer) == [('masks-moved', 'train')]
    assert answer[1].findings[0].explains == pytest.approx(0.1)
    assert 'predictions moved 3 px left fit the annotations of val better' in answer[1].findings[0].text
    # the predictions speak of width: another thing
    other = judge(truths({'change': moved}), differs, predicted('grown', 1, 'val'))
    assert len(other[0].findings) == 1
    assert other[1].findings[0].explains is None


def test_predictions_and_a_little_of_the_edges_name_the_part():
    def one_pixel(masks, rng):
        return [np.roll(mask, 1, 1) for mask in masks]

    sound = truths({'change': one_pixel, 'boxes_too': True})
    assert found(judge(sound)) == []
    finding = judge(truths({'change': moved}))[-1].findings[0]
    differs = Experiment('annotation', 0.6, 0.7, 0.005, 100, findings=(replace(finding, code='annotated-differently'),))
    answer = judge(sound, differs, predicted('moved', (-1, 0), 'val'))
    assert found(answer) == [('masks-moved', 'train')]
    assert answer[0].findings == ()
    # edges that fit on both parts do not tell which one it is
    unclear = judge(truths(), differs, predicted('moved', (-1, 0), 'val'))
    assert len(unclear[0].findings) == 1
    assert found(unclear) == []
