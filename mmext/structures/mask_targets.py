"""What a mask head learns in each RoI, from windows: the numbers that mmcv's RoIAlign gives for the whole bitmaps."""

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.ops.roi_align import roi_align

from mmext.errors import InputError
from mmext.structures.window import Window

# RoIs whose weights are in memory together: more at once are slower, since they leave the processor's cache
_AT_ONCE = 128


def mask_targets(
    windows: Sequence[Window],
    size: tuple[int, int],
    boxes: np.ndarray,
    owners: np.ndarray,
    grid: tuple[int, int],
    binarize: bool,
) -> np.ndarray:
    """RoIAlign (mean, adaptive sampling, aligned) of one mask in each box, equal to the bit to that of the whole bitmap.

    Its samples stand in rows and columns, so the mean over a cell is a product of matrices, weights of rows x mask x weights
    of columns. That decides which cells are at least one half, but for those within its rounding error of one half: their
    RoIs, and all when the values themselves are asked for, go to mmcv's kernel.

    Args:
        windows: of the masks.
        size: height and width of the image.
        boxes: (R, 4) x1, y1, x2, y2 in pixels.
        owners: (R,) the mask of each box.
        grid: rows and columns of cells.
        binarize: whether a cell is at least one half, rather than its value.

    Returns:
        (R, rows, columns), bool or of the type of the boxes.

    Raises:
        InputError: a box of negative size, or one that is not finite.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    wrong = ~((sizes >= 0) & np.isfinite(sizes)).all(1)
    if wrong.any():
        raise InputError(
            f'crop_and_resize: box {boxes[wrong][0].tolist()} (x1, y1, x2, y2) has a negative size or none. Leave out such '
            'boxes; the filter of the data set drops those of annotations.'
        )
    order = owners.argsort(kind='stable')
    targets = np.empty((len(boxes), *grid), bool if binarize else boxes.dtype)
    exact = np.ones(len(boxes), bool)
    if binarize and boxes.dtype in (np.float32, np.float64) and all(one.pixels.max(initial=0) <= 1 for one in windows):
        for begin in range(0, len(order), _AT_ONCE):
            part = order[begin : begin + _AT_ONCE]
            values, errors = _products(windows, size, boxes[part], owners[part], grid)
            targets[part] = values >= 0.5
            exact[part] = (np.abs(values - 0.5) <= errors[:, None, None]).any((1, 2))
    if exact.any():
        chosen = order[exact[order]]
        values = _kernel(windows, size, boxes[chosen], owners[chosen], grid)
        targets[chosen] = values >= 0.5 if binarize else values
    return targets


def _products(
    windows: Sequence[Window], size: tuple[int, int], boxes: np.ndarray, owners: np.ndarray, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Means of RoIAlign and how far the kernel's may be from them where it matters.

    Both are sums of the same products of weights, none of them negative, so their errors are relative. With u = 2**-24, s
    samples a cell, and (1 + u)**k <= 1 + k u / (1 - k u): the kernel rounds a product of weights, adds four of them, then s
    samples one after the other, and divides, s + 4 roundings; ours rounds the weights of rows and of columns and adds up h
    rows and w columns of the window, h + w + 2. A cell of which they disagree whether it is at least 0.5 is nearer to 0.5
    than 2 (s + h + w + 8) u: twice of what is needed, and where s is so large that this does not hold, it is 0.5 and more.

    Returns:
        (R, rows, columns) float32, of boxes in the order of their owners, and (R,).
    """
    present, firsts, owners, counts = np.unique(owners, return_index=True, return_inverse=True, return_counts=True)
    windows = [windows[place] for place in present.tolist()]
    heights, widths = np.array([one.pixels.shape for one in windows], int).reshape(-1, 2).T
    tops, lefts = np.array([(one.y1, one.x1) for one in windows], int).reshape(-1, 2).T
    down, in_rows = sample_weights(boxes[:, 1::2], size[0], grid[0], tops[owners], heights[owners])
    across, in_columns = sample_weights(boxes[:, 0::2], size[1], grid[1], lefts[owners], widths[owners])
    values = np.empty((len(boxes), *grid), np.float32)
    y = x = 0
    for window, first, count in zip(windows, firsts.tolist(), counts.tolist(), strict=True):
        height, width = window.pixels.shape
        rows = down[y : (y := y + count * grid[0] * height)].reshape(count * grid[0], height)
        columns = across[x : (x := x + count * grid[1] * width)].reshape(count, grid[1], width)
        left = (rows @ window.pixels.astype(np.float32)).reshape(count, grid[0], width)
        np.matmul(left, columns.transpose(0, 2, 1), out=values[first : first + count])
    return values, (in_rows * in_columns + heights[owners] + widths[owners] + 8) * 2.0**-23


def sample_weights(
    edges: np.ndarray, length: int, cells: int, first: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights that RoIAlign gives to pixels along one axis: bilinear, mean over the samples of each cell.

    Where the samples stand and what weight a pixel gets there is computed in the order and the precision of mmcv's kernel
    (``roi_align.cpp``): samples more than a pixel outside count as 0, those nearer take the pixel at the border.

    Args:
        edges: (R, 2) both edges of each RoI in pixels, float32 or float64.
        length: of the image.
        cells: into how many an RoI is divided.
        first, pixels: (R,) the part of the image that is asked for, as start and length.

    Returns:
        Weights as float32, (cells, pixels) of one RoI after the other, flat; and (R,) the samples of each cell.
    """
    dtype = edges.dtype.type
    start = edges[:, 0] - dtype(0.5)
    cell = (edges[:, 1] - dtype(0.5) - start) / dtype(cells)
    samples = np.ceil(cell).astype(int)
    number = np.repeat(samples, cells)
    owner = np.repeat(np.repeat(np.arange(len(edges)), cells), number)
    which = np.arange(number.sum()) - np.repeat(number.cumsum() - number, number)
    base = np.repeat((start[:, None] + np.arange(cells, dtype=dtype) * cell[:, None]).reshape(-1), number)
    place = base + (which.astype(dtype) + dtype(0.5)) * cell[owner] / samples.astype(dtype)[owner]
    inside = (place >= -1) & (place <= length)
    place = np.maximum(place, 0)
    low = np.minimum(place.astype(int), length - 1)
    upper = np.where(low == length - 1, 0, place - low).astype(dtype)
    # the kernel subtracts in double
    lower = (1.0 - upper.astype(float)).astype(dtype)
    sizes = np.repeat(pixels, cells)
    block = np.repeat(sizes.cumsum() - sizes, number) - first[owner]
    places, weights = [], []
    for pixel, weight in ((low, lower), (low + 1, upper)):
        there = inside & (pixel >= first[owner]) & (pixel < (first + pixels)[owner])
        places.append((block + pixel)[there])
        weights.append((weight / samples[owner])[there])
    summed = np.bincount(np.concatenate(places), np.concatenate(weights), minlength=int(sizes.sum()))
    return summed.astype(np.float32), samples


def _kernel(
    windows: Sequence[Window], size: tuple[int, int], boxes: np.ndarray, owners: np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """What mmcv's kernel gives, for one mask after the other in the same image: (R, rows, columns) of the boxes' type.

    It needs the place of a mask in its image, since it rounds where its samples stand. Of the empty image the system keeps
    only the pages that a window is written to.
    """
    image = np.zeros((1, 1, *size), boxes.dtype)
    rois = np.concatenate([np.zeros_like(boxes[:, :1]), boxes], 1)
    values = np.empty((len(boxes), *grid), boxes.dtype)
    for owner in np.unique(owners).tolist():
        mine, part = owners == owner, image[0, 0][windows[owner].place()]
        part[:] = windows[owner].pixels
        found = roi_align(torch.from_numpy(image), torch.from_numpy(rois[mine]), grid, 1.0, 0, 'avg', True)
        values[mine] = found[:, 0].numpy()
        part[:] = 0
    return values
