import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.agreement import ALL, ImagePair, Measured, agreement, compare, truth_of_image
from mmext.analysis.coco_ap import truth_of
from mmext.data.coco_file import CocoFile
from mmext.errors import InputError

# peak expiratory flow of 17 people by two meters, l/min: Bland and Altman 1986, table 1
WRIGHT = (494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427)
MINI = (512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451)


def bars(*corners, labels=None, size=60, **measures):
    """Measured rectangles x1, y1, x2, y2, with their longer side as the length."""
    masks = np.zeros((len(corners), size, size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = 1
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    lengths = np.array([max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners], float)
    crowd = measures.pop('crowd', None)
    return Measured(np.array(labels or [0] * len(corners), int), rles, {'length': lengths, **measures}, crowd)


def row(rows, **wanted):
    return next(one for one in rows if all(one[key] == value for key, value in wanted.items()))


def test_bland_and_altmans_own_example():
    found = agreement('flow', 'PEFR', MINI, WRIGHT)  # in the paper: large meter − mini meter
    assert (found.images, round(found.bias, 1), round(found.deviation, 1)) == (17, -2.1, 38.8)
    # theirs are ± 2 deviations (-79.7 and 75.5), and the interval is from -22.0 to 17.8
    assert (found.low, found.high) == pytest.approx((-2.118 - 1.96 * 38.765, -2.118 + 1.96 * 38.765), abs=0.01)
    assert (found.bias_low, found.bias_high) == pytest.approx((-22.0, 17.8), abs=0.1)
    assert found.correlation == pytest.approx(0.94, abs=0.005)
    assert found.relative_bias == pytest.approx(-2.118 / np.mean(MINI), abs=1e-5)


numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | numbers, st.none() | numbers), max_size=8))
def test_images_without_a_value_are_left_out(pairs):
    found = agreement('Fiber', 'mean length', [one for one, _ in pairs], [other for _, other in pairs])
    both = [pair for pair in pairs if None not in pair]
    assert found.images == len(both)
    apart = [other - one for one, other in both]
    if not both:
        assert (found.bias, found.true, found.low, found.correlation) == (None,) * 4
        return
    assert found.bias == pytest.approx(sum(apart) / len(apart), abs=1e-9)
    assert found.bias == pytest.approx(found.found - found.true, abs=1e-9)
    if len(both) == 1:
        assert (found.deviation, found.low, found.bias_high) == (None,) * 3
        return
    variance = sum((one - found.bias) ** 2 for one in apart) / (len(apart) - 1)
    assert found.deviation == pytest.approx(math.sqrt(variance), abs=1e-9)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.deviation, abs=1e-9)
    assert found.low <= found.bias_low + 1e-9 or len(both) < 5  # of few images the mean is known worse than that
    swapped = agreement('Fiber', 'mean length', [other for _, other in pairs], [one for one, _ in pairs])
    assert (swapped.bias, swapped.low) == pytest.approx((-found.bias, -found.high), abs=1e-9)
    assert found.correlation is None or -1 - 1e-9 <= found.correlation <= 1 + 1e-9


def test_what_never_changes_has_no_correlation_and_of_0_no_share():
    assert agreement('Fiber', 'count', [2, 2, 2], [1, 2, 3]).correlation is None
    assert agreement('Fiber', 'count', [0, 0], [1, 2]).relative_bias is None


def test_counts_lengths_areas_and_errors_by_class():
    long, short, other = (0, 0, 40, 4), (0, 10, 20, 14), (30, 30, 40, 40)
    first = ImagePair(
        'a.png',
        bars(long, short, other, labels=[0, 0, 1]),
        bars((0, 0, 20, 4), (21, 0, 40, 4), short, other, labels=[0, 0, 0, 1]),
    )
    # the other class is missed, and there is one that is none
    second = ImagePair('b.png', bars(short, other, labels=[0, 1]), bars(short, (50, 50, 55, 55), labels=[0, 0]))
    report = compare([first, second], ['Fiber', 'Film'])
    rows = report.image_rows()
    assert [(one['image'], one['class']) for one in rows] == [
        (image, name) for image in ('a.png', 'b.png') for name in ('Fiber', 'Film', ALL)
    ]
    assert rows[0] == {
        'image': 'a.png',
        'class': 'Fiber',
        'true count': 2,
        'predicted count': 3,
        'true total area': 240,
        'predicted total area': 236,
        'true mean area': 120,
        'predicted mean area': pytest.approx(236 / 3),
        'true total length': 60,
        'predicted total length': 59,
        'true mean length': 30,
        'predicted mean length': pytest.approx(59 / 3),
        'split': 1,
        'merges': 0,
        'missed': 0,
        'false': 0,
    }
    assert row(rows, image='b.png', **{'class': 'Film'})['predicted mean length'] is None
    both = row(rows, image='b.png', **{'class': ALL})
    assert [both[key] for key in ('true count', 'predicted count', 'true mean length', 'missed', 'false')] == [
        2,
        2,
        15,
        1,
        1,
    ]
    assert both['predicted mean length'] == pytest.approx((20 + 5) / 2)
    counts = row(report.to_rows(), quantity='count', **{'class': 'Fiber'})
    assert (counts['images'], counts['true'], counts['found'], counts['bias'], counts['deviation']) == (2, 1.5, 2.5, 1, 0)
    assert counts['relative_bias'] == pytest.approx(1 / 1.5)
    films = row(report.to_rows(), quantity='mean area', **{'class': 'Film'})
    assert (films['images'], films['bias'], films['low']) == (1, 0, None)
    assert row(report.error_rows(), **{'class': 'Fiber'}) == {
        'class': 'Fiber', 'objects': 3, 'predictions': 5, 'alone': 2, 'split': 1, 'pieces': 2, 'merged': 0, 'merges': 0,
        'missed': 0, 'false': 1,
    }  # fmt: skip
    total = row(report.error_rows(), **{'class': ALL})
    assert (total['objects'], total['predictions'], total['missed'], total['alone']) == (5, 6, 1, 3)


def test_objects_of_other_classes_are_not_joined():
    left, right = (0, 0, 20, 5), (20, 0, 40, 5)
    truth, found = bars(left, right, labels=[0, 1]), bars((0, 0, 40, 5), labels=[0])
    report = compare([ImagePair('a', truth, found)], ['Fiber', 'Film'])
    assert report.errors[ALL].merges == 0
    assert (report.errors['Film'].missed, report.errors['Fiber'].alone) == (1, 1)
    same = bars(left, right)
    report = compare([ImagePair('a', same, found)], ['Fiber'])
    assert list(report.errors) == ['Fiber']
    assert (report.errors['Fiber'].merges, report.errors['Fiber'].merged) == (1, 2)


def test_in_a_crowd_region_nothing_is_counted():
    inside, edge, own = (5, 5, 15, 9), (25, 5, 45, 9), (2, 20, 12, 24)
    truth = bars((0, 0, 30, 30), own, crowd=np.array([True, False]))
    found = bars(inside, edge, own, (0, 0, 5, 5), labels=[0, 0, 0, 1])
    report = compare([ImagePair('a', truth, found)], ['Fiber', 'Film'])
    fiber = row(report.image_rows(), **{'class': 'Fiber'})
    # counted: what lies mostly outside, and what is an object's own
    assert (fiber['true count'], fiber['predicted count'], fiber['predicted total length']) == (1, 2, 30)
    assert (report.errors['Fiber'].alone, report.errors['Fiber'].false) == (1, 1)
    assert report.errors['Film'].false == 1  # the region is of the other class
    assert row(report.image_rows(), **{'class': ALL})['predicted count'] == 3


def test_an_area_in_units_and_a_measure_that_is_missing():
    truth = bars((0, 0, 40, 4), (0, 10, 20, 14), area=np.array([16.0, 8.0]), width=np.array([math.nan, 4.0]))
    found = bars((0, 0, 40, 4), area=np.array([16.0]), width=np.array([math.nan]))
    values = compare([ImagePair('a', truth, found)], ['Fiber']).images[0]
    assert (values.true['total area'], values.true['total width'], values.true['mean width']) == (24, 4, 4)
    assert (values.found['total area'], values.found['total width'], values.found['mean width']) == (16, 0, None)
    assert list(values.true)[:3] == ['count', 'total area', 'mean area']


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 5))
def test_totals_fit_together(seed, images):
    rng = np.random.default_rng(seed)

    def some():
        corners = rng.integers(0, 40, (rng.integers(0, 5), 2))
        corners = np.concatenate([corners, corners + rng.integers(1, 20, (len(corners), 2))], 1)
        return bars(*corners.tolist(), labels=rng.integers(0, 2, len(corners)).tolist())

    pairs = [ImagePair(str(i), some(), some()) for i in range(images)]
    report = compare(pairs, ['Fiber', 'Film'])
    for name, one in report.errors.items():
        own = [row for row in report.images if row.name == name]
        assert one.objects == sum(row.true['count'] for row in own)
        assert one.predictions == sum(row.found['count'] for row in own)
        assert max(one.split, one.merged) <= one.objects - one.alone - one.missed <= one.split + one.merged
        count = row(report.to_rows(), quantity='count', **{'class': name})
        assert count['bias'] * images == pytest.approx(one.predictions - one.objects)
    every = [row for row in report.images if row.name == ALL]
    for pair, row_ in zip(pairs, every, strict=True):
        assert row_.true['total length'] == pair.truth.measures['length'].sum()
        assert row_.found['count'] == len(pair.found.labels)


def test_nothing_at_all():
    nothing = bars()
    report = compare([ImagePair('a', nothing, nothing)], ['Fiber'])
    assert report.images[0].true == {'count': 0, 'total area': 0, 'mean area': None, 'total length': 0, 'mean length': None}
    assert row(report.to_rows(), quantity='mean length')['images'] == 0
    assert compare([], ['Fiber']).to_rows()[0]['images'] == 0


def test_what_does_not_fit_is_said_all_at_once():
    good, wrong = bars((0, 0, 5, 5)), Measured(np.array([0, 1]), bars((0, 0, 5, 5)).rles, {'length': np.ones(1)})
    other = Measured(np.array([2]), good.rles, {'width': np.ones(1)})
    with pytest.raises(InputError) as error:
        compare([ImagePair('a.png', good, wrong), ImagePair('b.png', good, other)], ['Fiber', 'Film'])
    words = [
        r'a\.png, found: 2 labels, 1 masks, 1 length; there must be one of each for an object\.',
        r'b\.png, found: labels from 2 to 2; there are 2 classes\.',
        r"b\.png, found: measured are \['width'\], elsewhere \['length'\]\. Measure the same\.",
    ]
    for one in words:
        assert re.search(one, str(error.value))


def test_the_truth_of_an_image(tmp_path):
    square = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]]
    annotations = [
        {'id': i, 'image_id': 5, 'category_id': category, 'bbox': [1, 1, 8, 8], 'area': 64, 'iscrowd': i % 2}
        | {'segmentation': square}
        for i, category in enumerate((7, 3, 7))
    ]
    images = [{'id': one, 'file_name': f'{one}.png', 'width': 20, 'height': 10} for one in (5, 6)]
    categories = [{'id': 3, 'name': 'Fiber'}, {'id': 7, 'name': 'Film'}]
    truth = truth_of(CocoFile(tmp_path / 'x.json', images, annotations, categories), [5, 6], ['Fiber', 'Film'])
    labels, rles, crowd = truth_of_image(truth, 5)
    assert (labels.tolist(), crowd.tolist()) == ([0, 1, 1], [True, False, False])
    assert [int(coco_mask.area(rle)) for rle in rles] == [64] * 3
    assert [len(one) for one in truth_of_image(truth, 6)] == [0, 0, 0]
    bare = [{**one, 'segmentation': []} for one in annotations]
    with pytest.raises(InputError, match='have no outline, so there is nothing to measure'):
        truth_of_image(truth_of(CocoFile(tmp_path / 'x.json', images, bare, categories), [5], ['Film']), 5)
