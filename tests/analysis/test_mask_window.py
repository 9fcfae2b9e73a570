import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import (
    GAP,
    areas,
    column_runs,
    draw,
    draw_each,
    draw_pairs,
    encode,
    encode_columns,
    encode_runs,
    joined,
    run_lengths,
    to_array,
    to_rle,
    window_of,
    write_counts,
)
from mmext.errors import InputError


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


@given(st.lists(masks(), max_size=5), st.data())
@settings(deadline=None)
def test_masks_of_an_image_are_each_drawn_in_the_smallest_window(several, data):
    size = np.max([[9, 9], *(mask.shape for mask in several)], axis=0)
    several = [np.pad(mask, [(0, n) for n in size - mask.shape]) for mask in several]
    rles = [encoded(mask) for mask in several]
    for rle in rles:
        if data.draw(st.booleans()):
            rle['counts'] = rle['counts'].decode()
    found = draw_each(rles)
    assert len(found) == len(several)
    for mask, rle, (window, x1, y1) in zip(several, rles, found, strict=True):
        assert window.dtype == np.uint8
        assert (x1, y1, x1 + window.shape[1], y1 + window.shape[0]) == window_of(rle)
        whole = np.zeros_like(mask)
        whole[y1 : y1 + window.shape[0], x1 : x1 + window.shape[1]] = window
        assert np.array_equal(whole, mask)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=4))
@settings(deadline=None)
def test_runs_of_length_0_and_images_that_are_not_filled(several):
    """Some programs write them; what no run tells of is background."""
    rles = [{'size': [9, 10], 'counts': write_counts(np.array(runs))} for runs in several]
    for runs, (window, x1, y1) in zip(several, draw_each(rles), strict=True):
        column = np.zeros(90, np.uint8)
        for start, run in zip(np.cumsum(runs)[::2], runs[1::2], strict=False):
            column[start : start + run] = 1
        whole = np.zeros((9, 10), np.uint8)
        whole[y1 : y1 + window.shape[0], x1 : x1 + window.shape[1]] = window
        assert np.array_equal(whole, column.reshape(10, 9).T)


def test_runs_that_do_not_fit_into_the_image():
    sound = {'size': [9, 10], 'counts': write_counts(np.array([3, 87]))}
    for runs in ([3, 88], [3, 20, 70], [91], [5, -2, 10]):
        broken = {'size': [9, 10], 'counts': write_counts(np.array(runs))}
        with pytest.raises(InputError, match=r'mask 2 has a broken RLE: its runs do not fit into 9x10 \(height x width\)'):
            draw_each([sound, broken, sound])


@pytest.mark.parametrize('together', [1, 2**21])
@given(several=st.lists(masks(), max_size=6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_are_integers_in_the_window_that_holds_both(monkeypatch, together, several):
    monkeypatch.setattr('mmext.analysis.mask_window._BYTES_TOGETHER', together)
    size = np.max([[9, 9], *(mask.shape for mask in several)], axis=0)
    several = [np.pad(mask, [(0, n) for n in size - mask.shape]) for mask in several]
    pairs = list(itertools.pairwise(several))
    drawn = list(draw_pairs(*([encoded(pair[k]) for pair in pairs] for k in (0, 1))))
    assert len(drawn) == len(pairs)
    for pair, (*found, stride) in zip(pairs, drawn, strict=True):
        x1, y1, x2, y2 = window_of(*map(encoded, pair))
        assert stride == y2 - y1 + GAP
        for mask, one in zip(pair, found, strict=True):
            assert one.bit_count() == mask.sum()
            assert np.array_equal(to_array(one, stride, x2 - x1), mask[y1:y2, x1:x2])
        assert (found[0] & found[1]).bit_count() == (pair[0] & pair[1]).sum()


def test_pairs_of_different_images_are_an_error():
    one, other = (encoded(np.ones(size)) for size in ((20, 10), (10, 20)))
    with pytest.raises(InputError, match=r'masks of 10x20 and 20x10 \(height x width\) of one image.*annotation file'):
        list(draw_pairs([one], [other]))
    broken = {'size': [20, 10], 'counts': write_counts(np.array([10, 300]))}
    with pytest.raises(InputError, match='mask 2 has a broken RLE'):
        list(draw_pairs([one, one], [one, broken]))


def test_areas_of_more_masks_than_pycocotools_takes():
    several = [np.arange(40).reshape(5, 8) < number % 41 for number in range(600)]
    assert areas([encoded(mask) for mask in several]).tolist() == [mask.sum() for mask in several]
    assert areas([]).tolist() == []


@pytest.mark.parametrize('parts', [1, 3])
@given(st.integers(0, 9999))
def test_polygons_are_those_of_pycocotools_in_one_mask(parts, seed):
    polygons = np.random.default_rng(seed).uniform(-5, 45, (parts, 10)).tolist()
    assert to_rle(polygons, 30, 40) == coco_mask.merge(coco_mask.frPyObjects(polygons, 30, 40))


def test_a_huge_image_is_never_drawn():
    side = 10_000
    polygon = [5000.0, 5000.0, 5060.0, 5000.0, 5060.0, 5040.0, 5000.0, 5040.0]
    rle = coco_mask.frPyObjects([polygon], side, side)[0]
    tracemalloc.start()
    try:
        found = draw(rle, window_of(rle))
        one, other, _ = next(draw_pairs([rle], [rle]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.sum() == one.bit_count() == other.bit_count() == coco_mask.area(rle)
    assert peak < 1e6


@given(masks(), st.data())
@settings(deadline=None)
def test_encode_gives_the_bytes_of_pycocotools_for_the_whole_image(mask, data):
    left, top, right, bottom = (data.draw(st.sampled_from([0, 0, 1, 40])) for _ in range(4))
    whole = np.pad(mask, ((top, bottom), (left, right)))
    dtype = data.draw(st.sampled_from([bool, np.uint8]))
    assert encode(mask.astype(dtype), left, top, whole.shape) == encoded(whole)


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=30))
def test_counts_are_written_as_they_are_read(lengths):
    assert run_lengths(write_counts(np.array(lengths))).tolist() == lengths


@given(masks())
@settings(deadline=None)
def test_counts_are_those_of_pycocotools(mask):
    counts = encoded(mask)['counts']
    assert write_counts(run_lengths(counts)) == counts


@given(masks(), masks(), st.integers(0, 9999))
@settings(deadline=None)
def test_column_runs_are_the_pixels_and_together_give_the_union(one, two, seed):
    size = np.maximum(one.shape, two.shape)
    one, two = (np.pad(mask, [(0, n) for n in size - mask.shape]) for mask in (one, two))
    runs = [column_runs(encoded(mask)) for mask in (one, two)]
    for mask, (column, first, last) in zip((one, two), runs, strict=True):
        drawn = np.zeros_like(mask)
        for x, y1, y2 in zip(column, first, last, strict=True):
            assert not drawn[y1:y2, x].any()
            drawn[y1:y2, x] = 1
        assert np.array_equal(drawn, mask)
    mixed = np.random.default_rng(seed).permutation(np.concatenate(runs, 1), axis=1)
    assert encode_runs(mixed, size) == encoded(one | two)


def test_intervals_that_touch_are_one():
    starts, stops = joined(np.array([7, 0, 2, 9, 20]), np.array([9, 3, 5, 12, 21]))
    assert starts.tolist() == [0, 7, 20]
    assert stops.tolist() == [5, 12, 21]
    assert [len(one) for one in joined(np.zeros(0, int), np.zeros(0, int))] == [0, 0]


def test_encode_makes_nothing_of_the_images_size():
    mask = np.ones((100, 100), bool)
    encode(mask, 0, 0, (200, 200))
    tracemalloc.start()
    try:
        rle = encode(mask, 50_000, 40_000, (65_000, 65_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2e5
    assert np.array_equal(draw(rle, (49_999, 40_000, 50_100, 40_100))[:, 1:], mask)
    assert coco_mask.area(rle) == 10_000


@pytest.mark.parametrize('place', [(-1, 0), (0, -1), (36, 0), (0, 26)])
def test_a_mask_that_leaves_its_image(place):
    with pytest.raises(InputError, match=f'a mask of 5x5 at {place[0]}, {place[1]} leaves its image of 40x30. Cut it'):
        encode(np.ones((5, 5), bool), *place, (30, 40))


def test_an_image_beyond_32_bits():
    with pytest.raises(
        InputError, match='an image of 65536x65536 has 4294967296 pixels; pycocotools counts up to 4294967295'
    ):
        encode(np.ones((5, 5), bool), 0, 0, (65_536, 65_536))


def laid_out(parts):
    """Masks (h, w) as encode_columns wants them."""
    columns = [np.pad(part, ((1, 0), (0, 0))).T.ravel() for part in parts if part.size]
    return np.concatenate([*columns, [False]]).astype(bool)


@given(st.data())
@settings(deadline=None)
def test_several_masks_are_encoded_as_each_alone(data):
    height, width = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 7))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    dense = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    parts, windows = [], []
    for _ in range(data.draw(st.integers(0, 6))):
        full = data.draw(st.booleans())  # masks of whole columns go on from one to the next
        y1, y2 = (0, height) if full else sorted(rng.integers(0, height + 1, 2))
        x1, x2 = sorted(rng.integers(0, width + 1, 2))
        parts.append(rng.random((y2 - y1, x2 - x1)) < dense)
        windows.append((x1, y1, x2, y2))
    found = encode_columns(laid_out(parts), np.array(windows, int).reshape(-1, 4), (height, width))
    assert found == [encode(part, x1, y1, (height, width)) for part, (x1, y1, _, _) in zip(parts, windows, strict=True)]
    whole = np.zeros((len(parts), height, width), np.uint8)
    for mask, part, (x1, y1, x2, y2) in zip(whole, parts, windows, strict=True):
        mask[y1:y2, x1:x2] = part
    assert found == [coco_mask.encode(np.asfortranarray(mask)) for mask in whole]


def test_masks_of_an_image_beyond_32_bits():
    with pytest.raises(InputError, match='an image of 65536x65536 has 4294967296 pixels'):
        encode_columns(np.zeros(1, bool), np.zeros((1, 4), int), (65536, 65536))
