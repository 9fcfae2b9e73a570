"""Where an image is steepest along an outline: drawn objects, moved and grown outlines, and images without an edge."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.probe.annotation import GROWTHS, OFFSETS
from mmext.probe.edges import outline_steepness


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def disk(radius, middle=(60, 60), side=120):
    ys, xs = np.mgrid[:side, :side]
    return (xs - middle[0]) ** 2 + (ys - middle[1]) ** 2 <= radius**2


def picture(mask, contrast=-80.0, noise=3.0, seed=0):
    grain = np.random.default_rng(seed).normal(0, noise, (*mask.shape, 3))
    return np.clip(180 + contrast * mask[..., None] + grain, 0, 255).astype(np.uint8)


def best_move(found):
    return OFFSETS[int(found.moved.argmax())]


@pytest.mark.parametrize('contrast', [-80, 60])
@pytest.mark.parametrize('offset', [(0, 0), (3, 0), (-2, 4)])
def test_an_outline_is_led_back_to_its_object(contrast, offset):
    mask = disk(15)
    moved = np.roll(mask, offset[::-1], (0, 1))
    assert best_move(outline_steepness(picture(mask, contrast), rle(moved))) == (-offset[0], -offset[1])


@pytest.mark.parametrize(('radius', 'growth'), [(15, 0), (13, 2), (17, -2)])
def test_an_outline_within_its_object_is_grown(radius, growth):
    found = outline_steepness(picture(disk(15)), rle(disk(radius)))
    assert found.step == pytest.approx(1, abs=0.02)
    assert GROWTHS[int(np.argmax(found.grown))] == growth


def test_large_objects_are_grown_in_larger_steps():
    found = outline_steepness(picture(disk(100, (150, 150), 300)), rle(disk(88, (150, 150), 300)))
    assert found.step == pytest.approx(0.03 * 176, rel=0.02)
    assert GROWTHS[int(np.argmax(found.grown))] == 2


def test_contrast_and_scale_of_grey_values_do_not_count():
    mask, grain = disk(15), np.random.default_rng(0).normal(0, 0.02, (120, 120, 1))
    dim, bright = (outline_steepness(1000 + size * (mask[..., None] + grain), rle(disk(13))) for size in (1.0, 5000.0))
    np.testing.assert_allclose(dim.moved, bright.moved, atol=1e-3)


def test_an_even_image_and_an_empty_mask_say_nothing():
    flat = np.full((120, 120, 3), 90, np.uint8)
    assert outline_steepness(flat, rle(disk(15))) is None
    assert outline_steepness(picture(disk(15)), rle(np.zeros((120, 120)))) is None
    assert outline_steepness(picture(disk(15)), rle(np.ones((120, 120)))) is None  # its outline is the image's border


def test_the_image_border_is_no_outline():
    mask = disk(25, (60, 2))
    found = outline_steepness(picture(mask), rle(mask))
    assert best_move(found) == (0, 0)


def test_an_object_too_thin_to_shrink_has_no_number_there():
    mask = np.zeros((120, 120), np.uint8)
    cv2.line(mask, (20, 20), (100, 90), 1, 3)
    found = outline_steepness(picture(mask), rle(mask))
    assert np.isnan(found.grown[0])
    assert (found.grown[GROWTHS.index(0) :] > 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(-10, 130), st.integers(-10, 130), st.integers(0, 99))
def test_shares_lie_between_0_and_1(radius, x, y, seed):
    found = outline_steepness(
        np.random.default_rng(seed).integers(0, 255, (120, 120, 3), np.uint8), rle(disk(radius, (x, y)))
    )
    if found is not None:
        values = np.concatenate([found.moved, found.grown[np.isfinite(found.grown)]])
        assert 0 <= values.min() <= values.max() == 1
