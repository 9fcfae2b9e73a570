import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops.roi_align import roi_align
from mmdet.structures.mask import BitmapMasks

from mmext.errors import InputError
from mmext.structures import Window, WindowMasks
from mmext.structures import mask_targets as module

GRIDS = [(14, 14), (28, 28), (7, 11), (1, 1), (28, 5), (56, 56)]


@st.composite
def images(draw):
    """Rectangles, whose edges halve cells, and noise, in a small image or where float32 has few digits left."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    height, width = draw(st.sampled_from([(1, 1), (9, 40), (33, 60), (40, 1400), (1300, 30)]))
    masks = np.zeros((draw(st.integers(1, 4)), height, width), np.uint8)
    for mask in masks:
        y, x = rng.integers(0, height), rng.integers(0, width)
        part = mask[y : y + rng.integers(0, 60), x : x + rng.integers(0, 60)]
        part[:] = rng.random(part.shape) < rng.choice([0.5, 1, 1])
    return masks, rng


def boxes_at(masks, rng, step, dtype):
    """Boxes around the pixels of the masks and anywhere, on a lattice of ``step`` or on none: empty and outside too."""
    height, width = masks.shape[1:]
    owners = rng.integers(0, len(masks), 12)
    boxes = rng.uniform(-20, [width + 20, height + 20] * 2, (12, 4))
    for box, mask in zip(boxes[:8], masks[owners], strict=False):
        rows, columns = np.nonzero(mask)
        if len(rows):
            box[:] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            box += rng.normal(0, 3, 4) * rng.integers(0, 2)
    boxes = np.round(boxes / step) * step if step else boxes
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    boxes[-1, 2:] = boxes[-1, :2]
    return boxes.astype(dtype), owners


@given(images(), st.sampled_from([1, 0.5, 0]), st.sampled_from(GRIDS), st.sampled_from([np.float32] * 3 + [np.float64]))
@settings(deadline=None, max_examples=150)
def test_targets_are_those_of_bitmaps_to_the_bit(image, step, grid, dtype):
    masks, rng = image
    boxes, owners = boxes_at(masks, rng, step, dtype)
    ours, stock = WindowMasks(list(masks), *masks.shape[1:]), BitmapMasks(masks, *masks.shape[1:])
    for binarize in (True, False):
        mine, theirs = (one.crop_and_resize(boxes, grid, owners, binarize=binarize) for one in (ours, stock))
        assert type(mine) is BitmapMasks
        assert (mine.height, mine.width) == grid
        assert mine.masks.dtype == theirs.masks.dtype
        assert np.array_equal(mine.masks, theirs.masks)


@given(images(), st.sampled_from([1, 0.5, 0]), st.sampled_from(GRIDS))
@settings(deadline=None, max_examples=60)
def test_the_product_is_as_near_to_the_kernel_as_it_says(image, step, grid):
    masks, rng = image
    boxes, owners = boxes_at(masks, rng, step, np.float32)
    windows, order = WindowMasks(list(masks), *masks.shape[1:]).windows, owners.argsort()
    values, errors = module._products(windows, masks.shape[1:], boxes[order], owners[order], grid)
    rois = torch.from_numpy(np.concatenate([owners[order, None], boxes[order]], 1).astype(np.float32))
    theirs = roi_align(torch.from_numpy(masks[:, None].astype(np.float32)), rois, grid, 1.0, 0, 'avg', True)
    assert (np.abs(values - theirs[:, 0].numpy()) <= errors[:, None, None]).all()
    assert errors.max() < 0.01


def test_cells_that_are_one_half_are_left_to_the_kernel(monkeypatch):
    """A rectangle and a box whose cells its edges halve: only their RoI needs the kernel."""
    mask = np.zeros((40, 1000), np.uint8)
    mask[10:31, 900:921] = 1
    ours, stock = WindowMasks([mask], *mask.shape), BitmapMasks(mask[None], *mask.shape)
    boxes = np.array([[899, 9, 927, 37], [896.13, 8.3, 925.4, 33.1]], np.float32)
    asked, kernel = [], module._kernel
    monkeypatch.setattr(module, '_kernel', lambda *args: asked.append(args[2].tolist()) or kernel(*args))
    inds = np.zeros(2, int)
    soft = stock.crop_and_resize(boxes, (14, 14), inds, binarize=False).masks
    assert (np.abs(soft[0] - 0.5) < 1e-6).any()
    found = ours.crop_and_resize(boxes, (14, 14), inds).masks
    assert np.array_equal(found, stock.crop_and_resize(boxes, (14, 14), inds).masks)
    assert asked == [boxes[:1].tolist()]


@pytest.mark.parametrize('kind', ['tensors', 'no boxes', 'no masks', 'other values', 'half'])
def test_what_else_may_be_given(kind):
    masks = np.zeros((2, 30, 40), np.uint8)
    masks[0, 3:20, 5:30], masks[1, 10:12, 10:39] = 1, 1
    boxes, inds = np.array([[3.2, 1, 20, 25], [9, 8, 40, 14]], np.float32), np.array([1, 0])
    if kind == 'tensors':
        boxes, inds = torch.from_numpy(boxes).requires_grad_(), torch.from_numpy(inds)
    elif kind == 'half':
        boxes = boxes.astype(np.float16)
    elif kind == 'other values':
        masks *= 3
    elif kind == 'no boxes':
        boxes, inds = boxes[:0], inds[:0]
    else:
        masks = masks[:0]
    mine, theirs = (
        cls(list(masks), 30, 40).crop_and_resize(boxes, (7, 9), inds).masks for cls in (WindowMasks, BitmapMasks)
    )
    assert mine.dtype == theirs.dtype
    assert np.array_equal(mine, theirs)


def test_boxes_that_are_none():
    masks = WindowMasks([np.ones((30, 40), np.uint8)], 30, 40)
    for box in ([10, 5, 9, 20], [0, 0, np.nan, 3]):
        with pytest.raises(InputError, match=r'box \[.*\] \(x1, y1, x2, y2\) has a negative size or none. Leave out'):
            masks.crop_and_resize(np.array([[0, 0, 5, 5], box], np.float32), (7, 7), np.array([0, 0]))


def test_a_huge_image_takes_no_memory():
    side = 20_000
    masks = WindowMasks([Window(np.ones((60, 50), np.uint8), 9_000, 15_000)] * 5, side, side)
    boxes = np.array([[8_990, 14_990, 9_051.3, 15_061]] * 5, np.float32)
    tracemalloc.start()
    try:
        found = (
            masks.flip()
            .resize((side // 2, side))
            .flip()
            .crop_and_resize(boxes * np.float32([1, 0.5, 1, 0.5]), (28, 28), np.arange(5))
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.masks[0].mean() == pytest.approx(60 * 50 / (61.3 * 71), abs=0.05)
    assert peak < 3e6
