"""Pure parts: gains with their errors, moves and growth, and what each experiment says of given numbers."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext import recipe
from mmext.analysis.diagnose import diagnose_run, rank
from mmext.analysis.report import to_text
from mmext.analysis.runs import Run
from mmext.optim.group_report import load_config
from mmext.probe import annotation, boxes, channel, fit, grid, ground_truth, threshold
from mmext.probe.annotation import GROWTHS, OFFSETS, offsets_ious, resized_ious
from mmext.probe.objects import THRESHOLDS, Located, Measured, Part
from mmext.probe.weigh import Gain, paired, standard_error


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def part(name='val', images=10, each=4, **changes):
    """A sample whose objects all have the same IoUs, but for a little noise from image to image."""
    noise = np.random.default_rng(0).normal(0, 0.01, images)
    still, moved = OFFSETS.index((0, 0)), OFFSETS.index((3, 0))
    values = {'now': 0.7, 'with_truth_box': 0.75, 'ceilings': (0.95, 0.96)} | changes
    offset = np.full(len(OFFSETS), 0.3)
    offset[still], offset[moved] = values['now'], values.pop('moved', 0.5)
    curve = values.pop('by_threshold', {})
    ious = tuple(curve.get(one, 0.6) for one in THRESHOLDS)
    growth = tuple(values['now'] if one == 0 else 0.5 for one in GROWTHS)
    one = Measured(0, 0, by_threshold=ious, by_offset=offset, by_growth=growth, **values)
    objects = [
        replace(one, image=i, with_truth_box=one.with_truth_box + noise[i]) for i in range(images) for _ in range(each)
    ]
    return Part(name, images, images, objects, [Located(i, 0.7, 0.7, False) for i in range(images) for _ in range(each)])


def codes(experiment):
    return [finding.code for finding in experiment.findings]


def test_objects_of_one_image_count_as_one_draw():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 25)
    alone = standard_error(values, np.arange(100))
    assert alone == pytest.approx(values.std(ddof=1) / 10)
    assert standard_error(values, np.repeat(np.arange(4), 25)) == pytest.approx(alone * 5, rel=0.2)
    assert standard_error(values[:25], np.zeros(25)) == math.inf


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_same_before_and_after_is_never_a_gain(values):
    values = np.array(values)
    gain = paired(values, values, np.arange(len(values)) // 2)
    assert gain.value == 0
    assert not gain.surely(0.0)


def test_few_objects_say_nothing():
    assert Gain(0.5, 0.9, 0.01, 20).surely(0.1)
    assert not Gain(0.5, 0.9, 0.01, 19).surely(0.1)
    assert not Gain(0.5, 0.9, 0.3, 20).surely(0.1)


@pytest.mark.parametrize('offset', [(0, 0), (3, -2), (-4, 4)])
def test_the_offset_that_was_planted_is_the_best(offset):
    mask = np.zeros((60, 50), bool)
    mask[20:35, 20:30] = mask[30:40, 25:33] = True
    ious = offsets_ious(rle(np.roll(mask, offset[::-1], (0, 1))), rle(mask))
    assert OFFSETS[int(ious.argmax())] == offset
    assert ious.max() == 1
    stays = coco_mask.iou([rle(mask)], [rle(np.roll(mask, offset[::-1], (0, 1)))], [0])[0, 0]
    assert ious[OFFSETS.index((0, 0))] == pytest.approx(stays)


def test_a_mask_at_the_border_of_its_image_can_be_moved():
    mask = np.zeros((20, 20), bool)
    mask[:6, :6] = True
    assert offsets_ious(rle(mask), rle(mask)).max() == 1


@pytest.mark.parametrize('pixels', [-2, 0, 2])
def test_the_growth_that_was_planted_is_the_best(pixels):
    import cv2

    mask = np.zeros((60, 60), np.uint8)
    cv2.circle(mask, (30, 30), 12, 1, -1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    truth = cv2.dilate(mask, kernel) if pixels > 0 else cv2.erode(mask, kernel)
    ious = resized_ious(rle(truth), rle(mask))
    assert GROWTHS[int(np.argmax(ious))] == pixels
    assert max(ious) == 1


def test_boxes_are_named_from_two_steps_of_ap_on():
    assert codes(boxes.judge(part(with_truth_box=0.75))) == []
    found = boxes.judge(part(with_truth_box=0.85))
    assert codes(found) == ['boxes-hold-masks-back']
    assert found.findings[0].explains == pytest.approx(0.15, abs=0.01)


def test_the_threshold_has_a_line_to_paste():
    assert codes(threshold.judge(part(now=0.6), 0.5)) == []
    small = threshold.judge(part(now=0.6, by_threshold={0.4: 0.65}), 0.5).findings[0]
    assert (small.severity, dict(small.settings)) == ('information', {'model.test_cfg.rcnn.mask_thr_binary': 0.4})
    assert threshold.judge(part(now=0.4, by_threshold={0.4: 0.65}), 0.9).findings[0].severity == 'warning'


@pytest.mark.parametrize(
    ('there', 'here', 'expected'),
    [
        (0.76, 0.75, []),
        (0.85, 0.75, ['masks-learnt-by-heart']),
        (0.60, 0.75, ['training-masks-worse']),
        (0.30, 0.30, ['training-masks-not-learnt']),
    ],
)
def test_train_against_val(there, here, expected):
    assert codes(fit.judge(part('train', with_truth_box=there), part(with_truth_box=here), 0.02)) == expected


def test_only_one_part_moved_is_annotated_differently():
    still, moved = part('train'), part('val', moved=0.85)
    assert codes(annotation.judge(still, part('val'))) == []
    found = annotation.judge(still, moved)
    assert codes(found) == ['annotated-differently']
    assert 'moved 3 px right fit the annotations of val' in found.findings[0].text
    assert codes(annotation.judge(part('train', moved=0.85), moved)) == ['masks-moved']
    assert codes(annotation.judge(part('train', moved=0.71), part('val', moved=0.73))) == []


def test_a_little_better_on_one_part_and_much_worse_on_the_other_is_a_difference():
    found = annotation.judge(part('train', moved=0.6), part('val', moved=0.73))
    assert codes(found) == ['annotated-differently']


def test_classes_mixed_up_need_most_objects():
    few = part()
    assert codes(channel.judge(few)) == []
    many = replace(few, located=[replace(one, confused=True) for one in few.located])
    assert codes(channel.judge(many)) == ['classes-mixed-up']
    assert channel.judge(replace(few, located=[])) is None


def test_experiments_stand_in_the_answer_and_explain_what_they_bring_about():
    moved = part('val', moved=0.85, with_truth_box=0.6)
    made = [annotation.judge(part('train'), moved), fit.judge(part('train'), moved, None)]
    diagnosis = diagnose_run(Run(Run.__module__, train=({'loss': 1.0},)), made, ('Experiments on x.pth.',))
    assert [(one.code, one.follows_from) for one in diagnosis.findings][:2] == [
        ('annotated-differently', None),
        ('masks-learnt-by-heart', 'annotated-differently'),
    ]
    assert diagnosis.findings[0].text.startswith('Predictions moved')
    text = to_text(diagnosis)
    assert 'train against val' in text
    assert 'mending it wins 0.150' in text
    assert [one['name'] for one in diagnosis.to_record()['experiments']] == ['annotation', 'train against val']


def test_each_code_is_documented():
    root = Path(__file__).parents[2]
    sources = ''.join(path.read_text() for path in root.glob('mmext/probe/*.py'))
    found = set(re.findall(r"Cause\(\s*'([a-z-]+)'", sources)) | set(ground_truth.LIE)
    section = (root / 'docs/diagnosis.md').read_text().partition('## Experiments')[2].partition('\n## ')[0]
    assert found == set(re.findall(r'`([a-z]+(?:-[a-z]+)+)`', section))


def test_the_greater_gain_stands_first():
    found = [
        *boxes.judge(part(with_truth_box=0.82)).findings,
        *threshold.judge(part(now=0.3, by_threshold={0.4: 0.65}), 0.9).findings,
    ]
    assert [one.code for one in rank(found)] == ['mask-threshold', 'boxes-hold-masks-back']


@pytest.mark.parametrize(
    ('now', 'ceilings', 'severity'),
    [(0.466, (0.723, 0.873), 'warning'), (0.7, (0.93, 0.97), 'information'), (0.7, (0.95, 0.96), None)],
)
def test_a_coarse_grid_is_a_problem_from_one_step_of_iou_on(now, ceilings, severity):
    cfg = load_config(recipe('mask-rcnn_r18_fpn_finetune'))
    found = grid.judge(part(now=now, ceilings=ceilings), cfg).findings
    assert [(one.code, one.severity) for one in found] == ([('mask-grid-coarse', severity)] if severity else [])
