import itertools
import math
import statistics
import tracemalloc
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.errors import InputError
from mmext.predict.instances import Instances
from mmext.predict.measure import (
    PixelSize,
    columns,
    feret_diameters,
    measure,
    parse_pixel_size,
    summary,
    summary_columns,
    table,
)

MICRON = PixelSize(0.65, 'um')


def encoded(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def rectangle(x, y, width, height, size=(60, 80)):
    mask = np.zeros(size, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def instances(*masks, labels=None, class_names=('Fiber', 'Film')):
    number = len(masks)
    size = masks[0].shape if masks else (60, 80)
    return Instances(
        size,
        np.zeros(number, np.int64) if labels is None else np.array(labels),
        np.linspace(0.9, 0.5, number, dtype=np.float32),
        np.zeros((number, 4), np.float32),
        [encoded(mask) for mask in masks],
        class_names,
    )


def noise(data):
    """Noise of any density, on an image of up to 12 x 12."""
    size = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    return rng.random(size) < data.draw(st.sampled_from([0.05, 0.3, 0.6, 1]))


def test_a_rectangle():
    shape = measure(encoded(rectangle(20, 30, 10, 3)))
    assert (shape.area, shape.touches_border) == (30, False)
    # the middle, counted from the image's edges
    assert (shape.centroid_x, shape.centroid_y) == (25, 31.5)
    assert (shape.length, shape.width) == pytest.approx((10, 3), abs=0.05)
    assert shape.feret_min == pytest.approx(3)
    assert shape.feret_max == pytest.approx(math.hypot(10, 2))
    assert shape.circularity == pytest.approx(4 * math.pi * 30 / shape.perimeter**2)


def test_perimeter_is_that_of_scikit_image():
    from skimage.measure import regionprops

    y, x = np.mgrid[:60, :80]
    for mask in (np.hypot(x - 30, y - 30) < 18, rectangle(20, 30, 10, 3) > 0):
        shape, (region,) = measure(encoded(mask)), regionprops(mask.astype(int))
        assert shape.perimeter == pytest.approx(region.perimeter_crofton)
        assert (shape.centroid_y - 0.5, shape.centroid_x - 0.5) == pytest.approx(region.centroid)


def test_a_disc_is_round():
    y, x = np.mgrid[:60, :80]
    shape = measure(encoded(np.hypot(x - 30, y - 30) < 18))
    assert shape.circularity == pytest.approx(1, abs=0.03)
    assert shape.perimeter == pytest.approx(2 * math.pi * 18, rel=0.02)
    assert (shape.feret_max, shape.feret_min) == pytest.approx((36, 36), abs=1)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_feret_diameters_are_the_largest_and_smallest_shadow(data):
    mask = noise(data)
    if not mask.any():
        mask[0, 0] = True
    most, least = feret_diameters(mask)
    y, x = np.nonzero(mask)
    sides = [(x + dx, y + dy) for dx, dy in ((0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1))]
    points = np.concatenate([np.stack(side, 1) for side in sides])
    angles = np.deg2rad(np.arange(0, 180, 0.25))
    shadows = np.ptp(points @ np.stack((np.cos(angles), np.sin(angles))), axis=0)
    assert most == pytest.approx(shadows.max(), abs=0.01)
    # the smallest shadow stands in a narrow valley between two directions
    assert shadows.min() - 0.1 <= least <= shadows.min() + 1e-9
    assert most >= least


@pytest.mark.parametrize('side', ['left', 'top', 'right', 'bottom', None])
def test_touching_the_border(side):
    x, y = {'left': (0, 20), 'top': (20, 0), 'right': (75, 20), 'bottom': (20, 50)}.get(side, (1, 1))
    mask = rectangle(x, y, 5, 10)
    assert measure(encoded(mask)).touches_border is (side is not None)


def test_an_object_cut_by_the_border_is_measured_as_far_as_it_is_seen():
    shape = measure(encoded(rectangle(0, 20, 40, 4)))
    assert (shape.length, shape.width) == pytest.approx((40, 4), abs=0.05)


def test_an_empty_mask_has_an_area_and_nothing_else():
    shape = measure(encoded(np.zeros((5, 6))))
    assert (shape.area, shape.touches_border) == (0, False)
    assert all(math.isnan(value) for value in astuple(shape)[1:-1])


def test_one_pixel():
    shape = measure(encoded(rectangle(3, 4, 1, 1)))
    assert (shape.area, shape.length, shape.width, shape.feret_max) == (1, 1, 1, 1)
    assert (shape.centroid_x, shape.centroid_y) == (3.5, 4.5)
    # not clipped: no outline of one pixel is a circle's
    assert shape.circularity > 1


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_mask_has_finite_numbers(data):
    mask = noise(data)
    shape = measure(encoded(mask))
    assert shape.area == mask.sum()
    if mask.any():
        assert all(math.isfinite(value) for value in astuple(shape))
        assert shape.perimeter > 0
        border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        assert shape.touches_border is bool(border)


def test_an_object_has_the_same_shape_anywhere_in_a_huge_image():
    polygon = np.array([50, 50, 110, 52, 108, 90, 55, 88], float)
    (small,), (large,) = (
        coco_mask.frPyObjects([(polygon + by).tolist()], side, side) for by, side in ((0, 200), (5000, 10_000))
    )
    expected = measure(small)
    tracemalloc.start()
    try:
        found = measure(large)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert astuple(found)[:7] == astuple(expected)[:7]
    assert (found.centroid_x - 5000, found.centroid_y - 5000) == pytest.approx((expected.centroid_x, expected.centroid_y))
    assert peak < 5e6


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('0.65um', (0.65, 'um')),
        ('0.65 \u00b5m', (0.65, 'um')),
        (' .65\u03bcm ', (0.65, 'um')),
        ('650nm', (650, 'nm')),
        ('6.5e-4 mm', (6.5e-4, 'mm')),
        ('1.cm', (1, 'cm')),
        ('+2e-3m', (2e-3, 'm')),
    ],
)
def test_pixel_sizes(text, expected):
    assert parse_pixel_size(text) == PixelSize(*expected)


@pytest.mark.parametrize(
    'text', ['', '0.65', 'um', '0um', '-1um', '0,65um', '1e999um', 'nanum', 'infum', '1 parsec', '1 um x', '1UM', '1e-999um']
)
def test_bad_pixel_sizes_say_what_to_write(text):
    with pytest.raises(InputError, match=r'must be a positive number.*units nm, um, mm, cm, m.*for example 0.65um') as error:
        parse_pixel_size(text)
    assert repr(text) in str(error.value)


def test_a_table_has_a_row_an_instance_and_its_columns_in_order():
    found = instances(rectangle(20, 30, 10, 3), rectangle(0, 0, 5, 5), labels=[1, 0])
    rows = table(found, 'a.png', MICRON)
    assert [(row['image'], row['instance'], row['class']) for row in rows] == [('a.png', 1, 'Film'), ('a.png', 2, 'Fiber')]
    assert [row['score'] for row in rows] == pytest.approx([0.9, 0.5])
    assert [row['touches_border'] for row in rows] == [False, True]
    for row in rows:
        assert list(row) == columns(MICRON)
        assert row['area_um2'] == pytest.approx(row['area_px'] * 0.65**2)
        for name in ('perimeter', 'length', 'width', 'feret_max', 'feret_min', 'centroid_x', 'centroid_y'):
            assert row[f'{name}_um'] == pytest.approx(row[f'{name}_px'] * 0.65)
    assert rows[0]['area_px'] == 30
    assert [list(row) for row in table(found, 'a.png')] == [columns()] * 2
    assert columns(MICRON)[: len(columns())] == columns()


def test_a_table_without_instances_and_one_of_an_empty_mask():
    assert table(instances(), 'a.png') == []
    (row,) = table(instances(np.zeros((5, 6))), 'a.png', MICRON)
    assert (row['area_px'], row['area_um2']) == (0, 0)
    assert row['length_px'] is row['length_um'] is row['circularity'] is row['centroid_x_px'] is None


def test_a_summary_is_what_the_rows_hold():
    first = table(instances(*(rectangle(5, 5, 20 + n, 3) for n in (0, 4, 11))), 'a.png', MICRON)
    second = table(instances(rectangle(5, 5, 30, 4), np.zeros((60, 80)), labels=[1, 1]), 'b.png', MICRON)
    found = summary(first + second)
    assert [(row['image'], row['class'], row['count']) for row in found] == [('a.png', 'Fiber', 3), ('b.png', 'Film', 2)]
    for row in found:
        assert list(row) == summary_columns(MICRON)
    for name in ('area_px', 'length_um', 'width_px'):
        values = [row[name] for row in first]
        assert found[0][f'{name}_mean'] == pytest.approx(statistics.mean(values))
        assert found[0][f'{name}_sd'] == pytest.approx(statistics.stdev(values))
        assert found[0][f'{name}_median'] == statistics.median(values)
    assert found[0]['length_um_sum'] == pytest.approx(sum(row['length_um'] for row in first))
    assert 'width_px_sum' not in found[0]
    # the empty mask is counted, and has an area of 0, but no length
    assert found[1]['area_px_mean'] == 60
    assert (found[1]['length_px_mean'], found[1]['length_px_sd']) == (pytest.approx(30, abs=0.1), None)


def test_a_summary_counts_nothing_where_nothing_was_found():
    rows = table(instances(rectangle(5, 5, 20, 3)), 'b.png')
    found = summary(rows, images=['a.png', 'b.png'], classes=['Film', 'Fiber'])
    expected = list(itertools.product(['a.png', 'b.png'], ['Film', 'Fiber']))
    assert [(row['image'], row['class']) for row in found] == expected
    assert [row['count'] for row in found] == [0, 0, 0, 1]
    assert (found[0]['area_px_mean'], found[0]['area_px_sum']) == (None, 0)
    assert [list(row) for row in found] == [summary_columns()] * 4
    assert summary([]) == []
