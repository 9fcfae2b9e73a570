import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import encode
from mmext.errors import InputError
from mmext.predict.instances import Instances
from mmext.predict.tiles import Window, join_tiles, predict_tiled, tile_grid

CLASSES = ('Fiber', 'Film')
# two tiles side by side, which share the columns 80 to 100
LEFT, RIGHT, SIZE = Window(0, 0, 100, 100), Window(80, 0, 180, 100), (100, 180)


def instances(size, *found, class_names=CLASSES):
    """Of (mask of the whole picture, label, score)."""
    rles = [encode(mask, 0, 0, size) for mask, _, _ in found]
    boxes = [coco_mask.toBbox(rle) for rle in rles]
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32).reshape(-1, 4)
    labels, scores = np.array([one[1] for one in found], np.int64), np.array([one[2] for one in found], np.float32)
    return Instances(size, labels, scores, boxes, rles, class_names)


def rows(first, last, x1, x2, size=SIZE):
    """A bar, as a mask of the image."""
    mask = np.zeros(size, bool)
    mask[first:last, x1:x2] = True
    return mask


def in_tile(window, *found):
    """Of (mask of the image[, label[, score]]), cut to a tile; what is not there is left out."""
    x1, y1, x2, y2 = window
    cut = [(one[0][y1:y2, x1:x2], *one[1:], *(0, 0.5)[len(one) - 1 :]) for one in found]
    return window, instances((y2 - y1, x2 - x1), *(one for one in cut if one[0].any()))


def line(start, end, width, size):
    """The pixels within half a width of a straight line between two points x, y."""
    (x1, y1), (x2, y2) = start, end
    y, x = np.mgrid[: size[0], : size[1]]
    along = np.clip(((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2), 0, 1)
    return np.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1)) <= width / 2


def counts(masks):
    return sorted(encode(mask, 0, 0, mask.shape)['counts'] for mask in masks)


def assert_objects(found, *masks):
    assert sorted(rle['counts'] for rle in found.rles) == counts(masks)


# ---- the grid


@given(st.integers(1, 900), st.integers(1, 900), st.integers(64, 200), st.floats(0, 0.5))
@settings(deadline=None)
def test_tiles_cover_the_image_and_overlap(height, width, tile, overlap):
    windows = tile_grid((height, width), tile, overlap)
    seen = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in windows:
        assert (x2 - x1, y2 - y1) == (min(tile, width), min(tile, height))
        seen[y1:y2, x1:x2] = True
    assert seen.all()
    assert len(set(windows)) == len(windows)
    columns = sorted({window.x1 for window in windows})
    assert all(tile - (after - before) >= round(tile * overlap) for before, after in itertools.pairwise(columns))


def test_the_last_tile_is_moved_inwards():
    assert [window.x1 for window in tile_grid((1, 2000), 1000, 0.2)] == [0, 800, 1000]
    assert tile_grid((1024, 1024)) == [(0, 0, 1024, 1024)]
    assert tile_grid((30, 1100), 1024, 0.2) == [(0, 0, 1024, 30), (76, 0, 1100, 30)]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (((9, 9), 63, 0.2), 'a tile of 63 px; it must be a whole number from 64 on, such as 1024'),
        (((9, 9), 100.5, 0.2), 'a tile of 100.5 px'),
        (((9, 9), 100, 0.6), 'an overlap of 0.6; it must be a share of the tile, 0 to 0.5, such as 0.2'),
        (((9, 9), 100, -0.1), 'an overlap of -0.1'),
        (((9, 9), 100, float('nan')), 'an overlap of nan'),
        (((0, 9), 100, 0.2), 'the image has height 0 and width 9'),
    ],
)
def test_a_grid_that_cannot_be(arguments, words):
    with pytest.raises(InputError, match=words):
        tile_grid(*arguments)


# ---- perfect predictions


@given(st.integers(0, 9999))
@settings(deadline=None, max_examples=8)
def test_lines_of_any_direction_come_back_as_they_were(seed):
    rng = np.random.default_rng(seed)
    size = (260, 330)
    masks = []
    while len(masks) < 12:
        middle, half, angle = rng.uniform(0, size[::-1]), rng.uniform(10, 120), rng.uniform(0, np.pi)
        ends = [middle + sign * half * np.array([np.cos(angle), np.sin(angle)]) for sign in (-1, 1)]
        mask = line(*ends, rng.uniform(2, 5), size)
        masks += [mask] if mask.any() else []
    windows = tile_grid(size, int(rng.integers(64, 140)), rng.choice([0.15, 0.25, 0.5]))
    rng.shuffle(windows)
    found = join_tiles([in_tile(Window(*window), *((mask,) for mask in masks)) for window in windows], size)
    assert_objects(found, *masks)
    assert found.size == size
    assert found.class_names == CLASSES


def test_a_line_through_many_tiles_a_ring_and_one_along_a_seam():
    size = (500, 500)
    y, x = np.mgrid[:500, :500]
    ring = np.abs(np.hypot(x - 250, y - 250) - 120) < 3
    masks = [line((5, 8), (490, 480), 4, size), line((90, 5), (90, 495), 3, size), ring]
    parts = [in_tile(window, *((mask,) for mask in masks)) for window in tile_grid(size, 100, 0.2)]
    assert_objects(join_tiles(parts, size), *masks)


def test_an_image_of_one_tile_stays_as_it_is():
    mask = rows(10, 20, 5, 60)
    window, found = in_tile(Window(0, 0, 180, 100), (mask, 1, 0.75))
    joined = join_tiles([(window, found)], SIZE)
    assert_objects(joined, mask)
    assert (joined.labels.tolist(), joined.scores.tolist(), joined.boxes.tolist()) == ([1], [0.75], [[5, 10, 60, 20]])


def test_nothing_found():
    assert len(join_tiles([in_tile(LEFT), in_tile(RIGHT)], SIZE)) == 0
    assert join_tiles([in_tile(LEFT)], SIZE).class_names == CLASSES
    assert len(join_tiles([], SIZE)) == 0


def test_an_instance_without_a_pixel_stands_alone():
    rle = encode(np.zeros((100, 100), bool), 0, 0, (100, 100))
    empty = Instances((100, 100), np.array([1]), np.float32([0.75]), np.float32([[3, 3, 4, 4]]), [rle], CLASSES)
    joined = join_tiles([(LEFT, empty), (RIGHT, in_tile(RIGHT, (rows(10, 20, 5, 95),))[1])], SIZE)
    assert joined.scores.tolist() == [0.75, 0.5]
    assert coco_mask.area(joined.rles[0]) == 0
    assert joined.boxes[0].tolist() == [3, 3, 4, 4]


# ---- predictions with faults


def both(left, right, size=SIZE):
    return join_tiles([in_tile(LEFT, *left), in_tile(RIGHT, *right)], size)


@pytest.mark.parametrize('width', [1, 3])
def test_a_mask_that_is_off_by_a_pixel(width):
    one, two = rows(50, 50 + width, 20, 150), rows(51, 51 + width, 20, 150)
    found = both([(one,)], [(two,)])
    whole = one.copy()
    whole[:, 80:] |= two[:, 80:]
    whole[:, 100:] = two[:, 100:]
    assert_objects(found, whole)


@pytest.mark.parametrize('shift', [-1, 0, 1])
def test_parallel_lines_two_pixels_apart_stay_two(shift):
    above, below = rows(50, 53, 20, 150), rows(55, 58, 20, 150)
    moved = [np.roll(mask, shift, 0) for mask in (above, below)]
    assert len(both([(above,), (below,)], [(moved[0],), (moved[1],)])) == 2
    assert len(both([(above,)], [(moved[1],)])) == 2


def test_crossing_lines_stay_two_where_one_tile_misses_one():
    one, two = line((20, 20), (160, 80), 4, SIZE), line((20, 80), (160, 20), 4, SIZE)
    assert_objects(both([(one,), (two,)], [(one,), (two,)]), one, two)
    left = np.where(np.arange(180) < 100, two, False)
    assert_objects(both([(one,), (two,)], [(one,)]), one, left)


def test_a_stump_falls_to_the_whole():
    whole = rows(40, 46, 90, 150)
    # cut after ten pixels, and drawn too small
    stump = rows(42, 44, 92, 100)
    assert_objects(both([(stump, 0, 0.3)], [(whole, 0, 0.9)]), whole)
    assert_objects(both([(whole, 0, 0.9)], [(rows(42, 44, 82, 100), 0, 0.3)]), rows(42, 44, 82, 90) | rows(40, 46, 90, 100))


def test_pieces_of_a_ring_that_a_tile_saw_apart_are_one():
    y, x = np.mgrid[:100, :180]
    ring = np.abs(np.hypot(x - 115, y - 50) - 28) < 3
    upper, lower = ring & (y < 50), ring & (y >= 50)
    whole = ring & (x >= 80)
    assert not (ring & (x < 80)).any()
    # the left tile sees the ring open at its edge: an upper and a lower arc
    opened = ring & ((x > 92) | (x < 0))
    assert_objects(both([(upper & opened,), (lower & opened,)], [(whole,)]), ring)


def test_a_small_object_in_the_overlap_is_counted_once_with_scores_by_pixels():
    small = rows(40, 50, 85, 95)
    found = both([(small, 0, 0.9)], [(small, 0, 0.5)])
    assert_objects(found, small)
    assert found.scores.tolist() == pytest.approx([0.7])
    part = rows(40, 44, 85, 95) | rows(44, 50, 85, 95)
    assert len(both([(part, 0, 0.9)], [])) == 1
    found = both([(rows(40, 50, 70, 100), 0, 0.9)], [(rows(40, 50, 90, 100), 0, 0.1), (rows(40, 50, 80, 90), 0, 0.1)])
    assert found.scores[0] == pytest.approx((0.9 * 300 + 0.1 * 100) / 400)


def test_a_line_end_on_another_line_is_not_joined_with_it():
    through, ending = rows(50, 54, 10, 170), rows(20, 54, 82, 86)
    found = both([(through,), (ending,)], [(through,)])
    assert_objects(found, through, ending)


def test_a_line_that_ends_on_one_which_the_other_tile_sees_alone_stays_its_own():
    through, ending = rows(10, 90, 81, 85), rows(50, 53, 20, 84)
    # in the common region the line that ends is almost all on the other one
    assert_objects(both([(through,), (ending,)], [(through,)]), through, ending)
    assert_objects(both([(ending,)], [(through,)]), through, ending)


def test_of_several_that_agree_the_one_with_most_overlap_is_the_partner():
    one, two = rows(50, 56, 20, 150), rows(53, 59, 20, 150)
    assert_objects(both([(one,), (two,)], [(two,), (one,)]), one, two)


def test_a_corner_that_cannot_tell_two_objects_apart_does_not_join_them():
    size = (180, 180)
    a, b, c, d = tile_grid(size, 100, 0.2)
    # alike in the corner that all four tiles see, 80 to 100; they part to the left of it and below
    core = rows(82, 86, 80, 92, size) | rows(82, 100, 88, 92, size)
    one = core | rows(82, 86, 20, 80, size) | rows(100, 170, 88, 92, size)
    two = core | rows(82, 92, 76, 80, size) | rows(88, 92, 20, 76, size)
    two |= rows(100, 104, 88, 98, size) | rows(104, 170, 94, 98, size)
    order = {a: (one, two), b: (one, two), c: (one, two), d: (two, one)}
    found = join_tiles([in_tile(window, *((mask,) for mask in masks)) for window, masks in order.items()], size)
    assert_objects(found, one, two)


def test_classes_are_decided_by_pixels_times_score():
    bar = rows(50, 56, 60, 170)
    found = both([(bar, 0, 0.9)], [(bar, 1, 0.6)])
    assert_objects(found, bar)
    # 240 pixels of 0.9 against 540 of 0.6
    assert found.labels.tolist() == [1]
    assert both([(bar, 0, 0.9)], [(bar, 1, 0.3)]).labels.tolist() == [0]


def test_a_partner_of_the_same_class_comes_first():
    bar, shifted = rows(50, 56, 60, 170), rows(51, 57, 60, 170)
    found = both([(bar, 0, 0.9), (bar, 1, 0.5)], [(bar, 1, 0.5), (shifted, 0, 0.9)])
    assert sorted(found.labels.tolist()) == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])


def test_what_one_tile_saw_whole_and_apart_stays_apart():
    first, second = rows(40, 46, 10, 90), rows(40, 46, 84, 95)
    # the right tile's bar agrees with both; the left tile ends neither at its edge
    found = both([(first,), (second,)], [(rows(40, 46, 80, 91),)])
    assert len(found) == 2


def test_the_box_holds_the_parts_boxes_and_the_best_score_is_first():
    bar, other = rows(50, 56, 60, 170), rows(5, 9, 10, 20)
    found = both([(bar, 0, 0.5), (other, 0, 0.6)], [(bar, 0, 0.5)])
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])
    assert found.boxes.tolist() == [[10, 5, 20, 9], [60, 50, 170, 56]]
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)


def test_agreement_can_be_asked_for():
    one, two = rows(50, 60, 20, 150), rows(55, 65, 20, 150)
    parts = [in_tile(LEFT, (one,)), in_tile(RIGHT, (two,))]
    # of ten rows, the five in common and one beside them agree
    assert len(join_tiles(parts, SIZE, 0.6)) == 1
    assert len(join_tiles(parts, SIZE, 0.65)) == 2
    for wrong in (0, 1.1, float('nan')):
        with pytest.raises(InputError, match=r'it must be above 0 and at most 1, such as 0\.5'):
            join_tiles(parts, SIZE, wrong)


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        (
            [(Window(80, 0, 181, 100), instances((100, 101)))],
            r'x2=181.* is not within the image of width 180 and height 100',
        ),
        ([(LEFT, instances((100, 180)))], r'of a picture of height and width \(100, 180\); the window has \(100, 100\)'),
        (
            [(LEFT, instances((100, 100))), (RIGHT, instances((100, 100), class_names=('Film',)))],
            r"has the classes \('Film',\), the first tile \('Fiber', 'Film'\). Predict all tiles with one model",
        ),
    ],
)
def test_parts_that_do_not_fit(parts, words):
    with pytest.raises(InputError, match=words):
        join_tiles(parts, SIZE)


# ---- reading and predicting


def test_predict_tiled_reads_each_window_once_and_tells_how_far_it_is():
    image = np.zeros(SIZE, np.uint8)
    image[40:60, 30:150] = 1
    image[70:80, 150:170] = 2
    read, told = [], []

    def predict(picture):
        return instances(picture.shape, *(((picture == k), k - 1, 0.5) for k in (1, 2) if (picture == k).any()))

    def window_of_image(window):
        read.append(window)
        return image[window.y1 : window.y2, window.x1 : window.x2]

    found = predict_tiled(predict, window_of_image, SIZE, 64, 0.25, lambda *one: told.append(one))
    assert_objects(found, image == 1, image == 2)
    assert sorted(found.labels.tolist()) == [0, 1]
    assert read == tile_grid(SIZE, 64, 0.25)
    assert told == [('tiles', done, len(read)) for done in range(1, len(read) + 1)]


def test_a_picture_of_another_size_than_its_window():
    with pytest.raises(InputError, match=r'was read as \(5, 5\); it must be \(100, 100\), then channels if any'):
        predict_tiled(None, lambda window: np.zeros((5, 5)), (100, 100), 100, 0.2)


def test_memory_follows_the_tile_and_not_the_image():
    def peak(side):
        def read(window):
            return np.full((window.y2 - window.y1, window.x2 - window.x1), window.x1 == 0 and window.y1 == 0, np.uint8)

        def predict(picture):
            mask = np.zeros(picture.shape, bool)
            mask[5:25, 5:25] = picture[0, 0]
            return instances(picture.shape, *([(mask, 0, 0.5)] if mask.any() else []))

        tracemalloc.start()
        try:
            found = predict_tiled(predict, read, (side, side), 256, 0.2)
            return len(found), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(600)
    (one, small), (same, large) = peak(600), peak(3000)
    assert one == same == 1
    # thirty times as many tiles: their list grows, an image of 9 MB is never made
    assert large < small + 1e6


def test_it_loads_no_torch():
    code = (
        'import sys, mmext.predict.tiles, mmext.data.image_windows; print({"torch", "cv2", "tifffile"} & set(sys.modules))'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == 'set()'
