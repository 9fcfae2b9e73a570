import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import draw, run_lengths, window_of


def encoded(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


@st.composite
def masks(draw):
    """Noise of any density and grain: long runs, runs over several columns, empty and full masks."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    noise = rng.random((draw(st.integers(1, 9)), draw(st.integers(1, 9)))) < draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1]))
    grain = np.ones((draw(st.sampled_from([1, 2, 70])), draw(st.sampled_from([1, 3, 50]))))
    return np.kron(noise, grain).astype(np.uint8)


@given(masks(), st.data())
@settings(deadline=None)
def test_a_window_is_that_part_of_what_pycocotools_decodes(mask, data):
    (y1, y2), (x1, x2) = (sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in mask.shape)
    found = draw(encoded(mask), (x1, y1, x2, y2))
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask[y1:y2, x1:x2])


@given(masks())
@settings(deadline=None)
def test_run_lengths_are_those_that_were_encoded(mask):
    column = mask.T.reshape(-1)
    bounds = np.flatnonzero(np.diff(column, prepend=0)).tolist()
    expected = np.diff([0, *bounds, column.size])
    assert run_lengths(encoded(mask)['counts']).tolist() == expected.tolist()


def test_counts_may_be_text_as_in_a_json_file():
    mask = np.zeros((30, 40), np.uint8)
    mask[3:20, 5:30] = 1
    rle = encoded(mask)
    rle['counts'] = rle['counts'].decode()
    assert np.array_equal(draw(rle, (0, 0, 40, 30)), mask)


def test_the_window_of_several_masks_holds_them_all():
    first, second, empty = np.zeros((3, 30, 40), np.uint8)
    first[3:8, 5:9], second[6:20, 30:31] = 1, 1
    assert window_of(encoded(first), encoded(second), encoded(empty)) == (5, 3, 31, 20)
    assert window_of(encoded(empty)) == (0, 0, 0, 0)
    assert draw(encoded(empty), (0, 0, 0, 0)).shape == (0, 0)


def test_a_huge_image_is_never_drawn():
    side = 10_000
    polygon = [5000.0, 5000.0, 5060.0, 5000.0, 5060.0, 5040.0, 5000.0, 5040.0]
    rle = coco_mask.frPyObjects([polygon], side, side)[0]
    tracemalloc.start()
    try:
        found = draw(rle, window_of(rle))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.sum() == coco_mask.area(rle)
    assert peak < 1e6
