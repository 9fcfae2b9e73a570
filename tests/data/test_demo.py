import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from mmext.data.coco_file import check_for_training, count_by_class, read_coco
from mmext.data.demo import SIDE, cut_at_border, fiber, write_part


def digest(folder):
    return hashlib.sha256(b''.join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        list(write_part(tmp_path / name, 3, (seed, 0)))
    assert digest(tmp_path / 'a') == digest(tmp_path / 'b')
    assert digest(tmp_path / 'a') != digest(tmp_path / 'c')


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    list(write_part(tmp_path / 'two', 2, (0, 0)))
    list(write_part(tmp_path / 'four', 4, (0, 0)))
    assert (tmp_path / 'two/0001.png').read_bytes() == (tmp_path / 'four/0001.png').read_bytes()


def test_files_are_sound_and_outlines_lie_on_dark_objects(demo_data):
    coco = read_coco(demo_data / 'train/annotations.json')
    assert check_for_training(coco, demo_data / 'train') == []
    assert list(count_by_class(coco)) == ['Fiber', 'Fragment', 'Film']
    assert min(count_by_class(coco).values()) > 0
    api = COCO(str(demo_data / 'train/annotations.json'))
    compared = 0
    for image in api.dataset['images']:
        picture = cv2.imread(str(demo_data / 'train' / image['file_name']), cv2.IMREAD_GRAYSCALE).astype(float)
        annotations = api.imgToAnns[image['id']]
        covered = np.any([api.annToMask(a) for a in annotations], axis=0)
        for annotation in annotations:
            mask = api.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation['area'] > 0
            around = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15))).astype(bool) & ~covered
            alone = mask & (sum(api.annToMask(a) for a in annotations) == 1)
            if alone.sum() > 20 and around.sum() > 20:
                assert picture[alone].mean() < picture[around].mean() - 3
                compared += 1
            left, top, width, height = annotation['bbox']
            assert min(left, top) >= 0
            assert max(left + width, top + height) <= SIDE
    assert compared > 0.8 * len(coco.annotations)


@pytest.mark.parametrize('seed', range(20))
def test_fibers_are_three_to_seven_pixels_wide(seed):
    outline = fiber(np.random.default_rng(seed))
    half = len(outline) // 2
    width = np.linalg.norm(outline[:half] - outline[half:][::-1], axis=1)
    assert np.ptp(width) < 1e-9
    assert 3 <= width[0] <= 7


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-400, 600), st.floats(-400, 600)), min_size=3, max_size=8))
def test_what_is_cut_lies_inside(points):
    cut = cut_at_border(np.array(points))
    assert np.all(cut >= -1e-6)
    assert np.all(cut <= SIDE + 1e-6)


def test_a_square_over_the_corner_loses_what_is_outside():
    cut = cut_at_border(np.array([[-10.0, -10], [10, -10], [10, 10], [-10, 10]]))
    assert sorted(map(tuple, cut)) == [(0, 0), (0, 10), (10, 0), (10, 10)]
