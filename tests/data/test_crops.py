import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.data.coco_file import CocoFile
from mmext.data.crops import even_parts, plan_crops, window_around, worth_keeping

PLACES = st.floats(0, 200).map(lambda value: round(value, 1))


@settings(max_examples=200, deadline=None)
@given(st.tuples(PLACES, PLACES, PLACES, PLACES), st.tuples(st.integers(1, 150), st.integers(1, 150)))
def test_every_window_holds_the_box_or_lies_in_it(corners, crop):
    size = (200, 200)
    box = np.array([*np.sort(corners[::2]), *np.sort(corners[1::2])])[[0, 2, 1, 3]]
    low, high = window_around(box, size, crop)
    assert (low <= high).all()
    for start in (low, high):
        end = start + crop
        assert (start >= 0).all()
        assert (end <= size).all()
        for axis in (0, 1):
            first, last = np.floor(box[axis]), np.ceil(box[axis + 2])
            holds = start[axis] <= first and last <= end[axis]
            inside = first <= start[axis] and end[axis] <= last
            assert holds if last - first <= crop[axis] else inside


def test_all_places_around_a_box_are_possible():
    low, high = window_around(np.array([50, 60, 70, 65]), (200, 200), (40, 40))
    assert (low.tolist(), high.tolist()) == ([30, 25], [50, 60])
    low, high = window_around(np.array([0, 190, 5, 200]), (200, 200), (40, 40))
    assert (low.tolist(), high.tolist()) == ([0, 160], [0, 160])
    low, high = window_around(np.array([10, 10, 20, 20]), (15, 200), (15, 40))  # an image narrower than the crop
    assert (low.tolist(), high.tolist()) == ([0, 0], [0, 10])


def test_what_is_hardly_left_is_dropped():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 40, 2], [0, 0, 0.5, 40], [0, 0, 9, 9]], float)
    areas, left = np.array([100, 1000, 10_000, 10, 100]), np.array([10, 90, 60, 10, 0])
    assert worth_keeping(areas, left, boxes, 0.1, 32).tolist() == [True, False, True, False, False]


@given(st.integers(1, 5000), st.integers(1, 3000))
def test_parts_are_even_and_no_larger_than_asked(length, most):
    parts = np.diff(even_parts(length, most))
    assert parts.sum() == length
    assert parts.max() <= most
    assert parts.max() - parts.min() <= 1
    assert len(parts) == -(-length // most)


def slides(side, objects, number=4, images=2):
    entries = [{'id': i + 1, 'file_name': f'{i}.tif', 'width': side, 'height': side} for i in range(images)]
    rng = np.random.default_rng(0)
    annotations = [
        {
            'id': i * number + j + 1,
            'image_id': i + 1,
            'category_id': 1,
            'bbox': [*(rng.uniform(0, side - max(objects), 2)).tolist(), *objects],
            'area': objects[0] * objects[1],
            'iscrowd': 0,
        }
        for i in range(images)
        for j in range(number)
    ]
    return CocoFile('a.json', entries, annotations, [{'id': 1, 'name': 'a'}])


@pytest.mark.parametrize(
    ('side', 'objects', 'scale'),
    [
        (4096, (40, 40), (1024, 1.0)),  # 8 px of the network's input
        (4096, (10, 300), (1024, 1.0)),  # a fiber: 55 px across, 11 at the input
        (4096, (100, 100), None),  # 20 px: seen well enough
        (1024, (12, 12), None),  # whole images are at 0.78 of their resolution already
        (1500, (25, 25), None),  # at 0.53
        (9000, (1000, 1000), (1024 / 0.51, 0.51)),  # too large to be held, objects too large for a crop at full resolution
        (9000, (5000, 4000), None),  # objects that need the whole image
    ],
)
def test_when_images_are_trained_on_in_crops(side, objects, scale):
    plan = plan_crops(slides(side, objects), (1333, 800))
    if scale is None:
        assert plan is None
        return
    assert plan.side == round(scale[0])
    assert plan.scale == scale[1]
    assert f'{side}x{side} px' in plan.reason


def test_an_epoch_has_as_many_crops_as_there_are_parts_with_objects():
    coco = slides(4096, (40, 40), number=300, images=3)
    plan = plan_crops(coco, (1333, 800))
    assert plan.times == 16
    assert 300 / 16 < plan.most < 60
    lonely = plan_crops(slides(4096, (40, 40), number=1), (1333, 800))
    assert (lonely.times, lonely.most) == (1, 1)
    assert 'shrunk to 0.2 of their size, and 100% of the objects would be under 16 px' in plan.reason
    assert 'too large to be held' in plan_crops(slides(9000, (300, 300)), (1333, 800)).reason


def test_the_crop_has_as_many_pixels_as_the_recipes_images():
    assert plan_crops(slides(4096, (30, 30)), (256, 256)).side == 256
    assert plan_crops(slides(4096, (30, 30)), (1600, 960)).side == 1216
