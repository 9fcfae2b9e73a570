import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.data.coco_file import CocoFile
from mmext.data.mask_shapes import check_counts, read_shapes, sound_masks

SIZE = (30, 40)  # height, width


def coco_of(*segmentations):
    """A file with one image of 40 x 30 px and an annotation for each segmentation."""
    annotations = [
        {'id': i + 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 5, 5], 'area': 25, 'segmentation': segmentation}
        for i, segmentation in enumerate(segmentations)
    ]
    images = [{'id': 1, 'file_name': 'a.png', 'width': SIZE[1], 'height': SIZE[0]}]
    return CocoFile('a.json', images, annotations, [{'id': 1, 'name': 'thing'}])


def compressed(counts, size=SIZE):
    return coco_mask.frPyObjects({'size': list(size), 'counts': counts}, *size)['counts'].decode()


def test_a_polygon_is_measured_by_its_corners():
    shapes = read_shapes(coco_of([[2, 3, 12, 3, 12, 8, 2, 8]]))
    assert shapes.sound.all()
    assert shapes.box.tolist() == [[2, 3, 12, 8]]
    assert shapes.least == shapes.most == 50
    assert shapes.perimeter == 30
    assert np.isnan(shapes.crossing).all()


def test_overlapping_polygons_bound_the_area_of_their_union():
    one, other = [0, 0, 10, 0, 10, 10, 0, 10], [5, 0, 15, 0, 15, 10, 5, 10]
    shapes = read_shapes(coco_of([one, other]))
    assert (shapes.least[0], shapes.most[0]) == (100, 200)
    assert shapes.box.tolist() == [[0, 0, 15, 10]]


@pytest.mark.parametrize(
    ('polygon', 'change'),
    [
        ([0, 0, 10, 10, 10, 0, 0, 10], 1),  # a bow tie: its halves cancel out in the shoelace formula
        ([0, 0, 10, 0, 10, 10, 14, 10, 10, 10, 0, 10], 0),  # a spike there and back
        ([0, 0, 10, 0, 10, 0, 10, 10, 0, 10, 0, 0], None),  # a point twice, and closed: nothing unusual
    ],
)
def test_only_a_crossing_that_changes_the_area_counts(polygon, change):
    (found,) = read_shapes(coco_of([polygon])).crossing
    assert np.isnan(found) if change is None else found == pytest.approx(change, abs=1e-6)


@pytest.mark.parametrize(
    ('segmentation', 'code', 'words'),
    [
        (None, 'mask-missing', 'no segmentation'),
        ([], 'mask-empty', r'segmentation is \[\]'),
        ([[]], 'mask-empty', ''),
        ({}, 'mask-empty', ''),
        ('text', 'mask-of-unknown-form', 'segmentation is "text"'),
        ([1, 2, 3, 4, 5, 6], 'mask-of-unknown-form', r'\[1, 2, 3, 4, 5, 6\]'),
        ([[0, 0, 5, 5]], 'polygon-too-few-points', 'a polygon of 2 points'),
        ([[0, 0, 5, 0, 5, 5], [1, 1]], 'polygon-too-few-points', 'a polygon of 1 points'),
        ([[0, 0, 5, 0, 5, 5, 7]], 'polygon-odd-coordinates', '7 numbers'),
        ([[0, 0, 5, 0, 5, '5']], 'polygon-coordinates-unusable', ''),
        ([[0, 0, 5, 0, 5, float('nan')]], 'polygon-coordinates-unusable', 'polygon with NaN'),
        ([[0, 0, float('inf'), 0, 5, 5]], 'polygon-coordinates-unusable', 'polygon with Infinity'),
        ([[0, 0, 10**400, 0, 5, 5]], 'polygon-coordinates-unusable', 'polygon with 1000'),
        ([[0, 0, 9e5, 9e5] * 20], 'polygon-coordinates-unusable', r'an outline beyond 1e\+07 px'),
        ({'size': [40, 30], 'counts': [1200]}, 'rle-size-not-image', r'RLE size \[40, 30\], image .* \[30, 40\]'),
        ({'counts': [1200]}, 'rle-size-not-image', 'RLE size null'),
        ({'size': [30, 40], 'counts': [100, 5]}, 'rle-counts-wrong', 'counts sum to 105, the image has 1200 pixels'),
        ({'size': [30, 40], 'counts': [1205, -5]}, 'rle-counts-wrong', 'whole numbers of 0 or more'),
        ({'size': [30, 40], 'counts': 7}, 'rle-counts-wrong', 'counts are 7'),
        ({'size': [30, 40], 'counts': ''}, 'rle-counts-wrong', 'counts are empty'),
        ({'size': [30, 40], 'counts': 'é'}, 'rle-counts-wrong', 'characters that no RLE has'),
        ({'size': [30, 40], 'counts': compressed([100, 5, 1095])[:-1]}, 'rle-counts-wrong', ''),
        ({'size': [30, 40], 'counts': compressed([100, 5, 1094])}, 'rle-counts-wrong', 'sum to 1199'),
        ({'size': [30, 40], 'counts': [1200]}, 'mask-empty', 'an RLE of no pixel'),
    ],
)
def test_what_cannot_be_drawn_is_named(segmentation, code, words):
    coco = coco_of([[1, 1, 9, 1, 9, 9]], segmentation)
    shapes = read_shapes(coco)
    (where,) = shapes.faults[code]
    assert len(shapes.faults) == 1
    assert where[0] == 1
    assert re.search(words, where[1])
    assert sound_masks(coco) == coco.annotations[:1]


def masks():
    """Random masks, runs long and short."""
    shape = st.tuples(st.integers(1, 30), st.integers(1, 30))

    def draw(shape_and_seed):
        (height, width), seed, share = shape_and_seed
        rng = np.random.default_rng(seed)
        return np.asfortranarray(rng.random((height, width)) < share, np.uint8)

    return st.tuples(shape, st.integers(0, 10**6), st.sampled_from([0, 0.02, 0.5, 1])).map(draw)


@settings(max_examples=100, deadline=None)
@given(st.lists(masks(), min_size=1, max_size=4))
def test_what_pycocotools_writes_is_read_as_it_reads_it(drawn):
    rles = [coco_mask.encode(mask) for mask in drawn]
    areas, _, reasons = check_counts([rle['counts'].decode() for rle in rles], np.array([mask.shape for mask in drawn]))
    assert reasons == [''] * len(rles)
    assert areas.tolist() == [int(coco_mask.area(rle)) for rle in rles]


def test_large_images_have_numbers_of_many_characters():
    sizes = np.array([[60_000, 70_000]])
    counts = [3_000_000_000, 1_000_000_000, 200_000_000]
    areas, runs, reasons = check_counts([compressed(counts, sizes[0].tolist())], sizes)
    assert (areas.tolist(), runs.tolist(), reasons) == ([1_000_000_000], [3], [''])


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('P', 'end in the middle of a number'),
        ('o' * 12 + '0', 'below 0 or beyond any image'),
        ('N', 'below 0 or beyond any image'),
        ('~', 'characters that no RLE has'),
        ('5', 'counts sum to 5, the image has 12 pixels'),
    ],
)
def test_broken_counts_do_not_touch_their_neighbours(text, words):
    good = compressed([4, 5, 3], (3, 4))
    areas, _, reasons = check_counts([good, text, good], np.array([[3, 4]] * 3))
    assert words in reasons[1]
    assert [reasons[0], reasons[2]] == ['', '']
    assert areas[[0, 2]].tolist() == [5, 5]


def test_both_forms_of_an_rle_measure_the_same():
    counts = [34, 5, 25, 5, 1131]
    rows = [{'size': list(SIZE), 'counts': counts}, {'size': list(SIZE), 'counts': compressed(counts)}]
    shapes = read_shapes(coco_of(*rows))
    assert shapes.box.tolist() == [[1, 4, 3, 9]] * 2
    assert shapes.most.tolist() == [10, 10]
    assert (shapes.perimeter[0], shapes.perimeter[1]) == (15, 15)
