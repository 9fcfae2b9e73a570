import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy import ndimage

from mmext.analysis.mask_shape import TOLERANCE, band_width, centerline_recall, compare_shapes, core, is_thin
from mmext.analysis.mask_window import GAP, draw_pairs, to_array


def encoded(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def reference(truth, prediction):
    """Boundary IoU as Cheng et al. 2021 define it: of a mask the pixels at most d from its contour, d 2 % of the diagonal; a
    mask ends at the image's border. On whole masks, d erosions of one pixel."""
    d = max(1, round(0.02 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    rims = []
    for mask in (truth > 0, prediction > 0):
        core = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=d, border_value=0)
        rims.append(mask & ~core)
    return (rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum()


def integers(*masks):
    """Two masks (H, W) as integers in one window, and its stride."""
    return next(draw_pairs(*([encoded(mask)] for mask in masks)))


def compared(truth, prediction):
    return compare_shapes(*integers(truth, prediction), band_width(*truth.shape))


def thin(mask):
    one, _, stride = integers(mask, mask)
    return is_thin(one, stride)


@st.composite
def pairs(draw):
    """Two blobs of an image of up to 400 px, drawn from ellipses that may cross its border, with holes and specks."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    height, width = draw(st.integers(2, 400)), draw(st.integers(2, 400))
    found = []
    centre, axes = rng.integers(0, (width, height)), rng.integers(1, max(width, height) // 2 + 2, 2)
    for _ in range(2):
        mask = np.zeros((height, width), np.uint8)
        shift = rng.integers(-3, 4, 2)
        cv2.ellipse(mask, (centre + shift).tolist(), (axes + abs(shift)).tolist(), 30, 0, 360, 1, -1)
        holes = rng.random(mask.shape) < draw(st.sampled_from([0, 0, 0.001, 0.3]))
        found.append(mask ^ holes)
    return found


@given(pairs(), st.integers(0, 40))
@settings(deadline=None)
def test_a_core_is_an_erosion_by_a_square(masks, width):
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        whole = np.zeros_like(mask, bool)
        if len(rows):
            one, _, stride = integers(mask, mask)
            place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            whole[place] = to_array(core(one, stride, width), stride, whole[place].shape[1])
        assert np.array_equal(whole, ndimage.binary_erosion(mask, np.ones((2 * width + 1,) * 2)))


@given(pairs())
@settings(deadline=None, max_examples=200)
def test_boundary_iou_is_the_papers(masks):
    assume(all(mask.any() for mask in masks))
    assert compared(*masks).boundary_iou == pytest.approx(reference(*masks), abs=1e-6)


@pytest.mark.parametrize('box', [(0, 0, 300, 200), (0, 40, 90, 120), (210, 130, 300, 200), (100, 60, 180, 140)])
def test_boundary_iou_at_the_border_of_the_image(box):
    x1, y1, x2, y2 = box
    truth, prediction = np.zeros((2, 200, 300), np.uint8)
    truth[y1:y2, x1:x2], prediction[y1 + 5 : y2, x1 : x2 - 3] = 1, 1
    found = compared(truth, prediction)
    assert found.boundary_iou == pytest.approx(reference(truth, prediction), abs=1e-6)
    assert not found.swallowed


def test_a_small_object_is_all_band():
    """The band of an image of 600 x 800 is 20 px wide."""
    assert band_width(600, 800) == 20
    truth, prediction = np.zeros((2, 600, 800), np.uint8)
    truth[50:80, 70:110], prediction[52:80, 70:105] = 1, 1
    found = compared(truth, prediction)
    assert found.swallowed
    assert found.boundary_iou == (truth & prediction).sum() / (truth | prediction).sum() == reference(truth, prediction)
    prediction[20:200, 30:200] = 1  # wide: the band leaves a part of it
    found = compared(truth, prediction)
    assert found.swallowed
    assert found.boundary_iou == pytest.approx(reference(truth, prediction), abs=1e-6)


def test_a_mask_without_pixels_has_no_outline():
    truth, prediction = np.zeros((2, 60, 80), np.uint8)
    assert compared(truth, prediction).boundary_iou == 0
    prediction[10:30, 10:30] = 1
    assert compared(truth, prediction).boundary_iou == compared(prediction, truth).boundary_iou == 0
    assert compared(truth, prediction).centerline_recall is None


def line(*points, width=5, size=(120, 200)):
    mask = np.zeros(size, np.uint8)
    cv2.polylines(mask, [np.array(points)], False, 1, width)
    return mask


CURVE = [(10, 100), (40, 30), (90, 20), (140, 60), (190, 20)]


def test_a_fibre_is_thin_and_a_fragment_is_not():
    square, disc = line((50, 50), (60, 50), width=1), np.zeros((120, 200), np.uint8)
    cv2.circle(disc, (60, 60), 30, 1, -1)
    square[40:80, 40:80] = 1
    assert thin(line(*CURVE))
    assert thin(line((10, 10), (40, 90), width=1))
    assert not thin(square)
    assert not thin(disc)
    assert not thin(np.zeros((120, 200), np.uint8))


@st.composite
def bent(draw):
    """A line of any width, straight or bent, or what lies between its corners."""
    rng, (height, width) = np.random.default_rng(draw(st.integers(0, 9999))), draw(st.tuples(*[st.integers(1, 150)] * 2))
    corners, mask = rng.integers(0, (width, height), (draw(st.integers(2, 5)), 2)), np.zeros((height, width), np.uint8)
    if draw(st.booleans()):
        cv2.fillPoly(mask, [corners], 1)
    cv2.polylines(mask, [corners], False, 1, draw(st.integers(1, 20)))
    return mask


@given(bent())
@settings(deadline=None, max_examples=300)
def test_thin_is_by_the_largest_distance_to_the_outside(mask):
    around = np.pad(mask, 1)
    width = 2 * float(cv2.distanceTransform(around, cv2.DIST_L2, cv2.DIST_MASK_5).max())
    assert thin(mask) == (mask.sum() >= max(12, 3 * width**2))


@pytest.mark.parametrize(('length', 'expected'), [(29, False), (30, True)])
def test_thin_is_three_times_as_long_as_wide(length, expected):
    mask = np.zeros((120, 200), np.uint8)
    mask[110:120, 0:length] = 1  # at the border: what is outside is no part of it
    assert thin(mask) is expected


def test_centre_line_is_recalled_by_its_length():
    fibre = np.zeros((60, 210), np.uint8)
    fibre[20:25, 5:205] = 1
    assert centerline_recall(*integers(fibre, fibre)) == 1
    for missing in (40, 100):
        part = fibre.copy()
        part[:, 50 : 50 + missing] = 0
        assert centerline_recall(*integers(fibre, part)) == pytest.approx(1 - missing / 200, abs=0.03)
    assert centerline_recall(*integers(fibre, np.zeros_like(fibre))) == 0


@pytest.mark.parametrize(('shift', 'recall'), [(0, 1), (2, 1), (3, 0)])
def test_centre_line_may_err_by_two_pixels(shift, recall):
    fibre, hair = np.zeros((2, 60, 210), np.uint8)
    fibre[20:25, 5:205], hair[22 + shift, 5:205] = 1, 1
    assert centerline_recall(*integers(fibre, hair)) == pytest.approx(recall, abs=0.02)  # the skeleton forks at its ends


def test_what_is_near_stays_in_its_column():
    assert TOLERANCE <= GAP


def test_only_a_thin_object_has_a_centre_line():
    assert compared(line(*CURVE), line(*CURVE, width=3)).centerline_recall == 1
    disc = np.zeros((120, 200), np.uint8)
    cv2.circle(disc, (60, 60), 30, 1, -1)
    assert compared(disc, line(*CURVE)).centerline_recall is None
