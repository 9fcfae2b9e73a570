"""A part of a mask, drawn from its RLE or made into one: memory follows the part, not the image. No torch."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mmext.errors import InputError

# pycocotools counts pixels in 32 bits
_MOST_PIXELS = 2**32
# from each of these on a run length takes one more character
_CHARACTER_LIMITS = 16 << 5 * np.arange(7)


def run_lengths(counts: bytes | str) -> np.ndarray:
    """Lengths of the runs of a compressed RLE, background first, down the columns.

    A character is six bits, counted from ``'0'``: five of the number, lowest first, and one that says whether more follow;
    the number's highest bit is its sign. From the fourth run on it is the difference to the run two before (``rleFrString``
    in pycocotools' maskApi.c).
    """
    codes = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    places = np.arange(len(codes)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((codes & 31) << 5 * places, starts)
    lengths -= np.where(codes[ends] & 16, 1 << 5 * sizes, 0)
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def write_counts(lengths: np.ndarray) -> bytes:
    """Counts of a compressed RLE from the lengths of its runs (``rleToString`` in maskApi.c); undone by ``run_lengths``."""
    numbers = lengths.astype(np.int64)
    numbers[3:] -= lengths[1:-2]
    sizes = np.searchsorted(_CHARACTER_LIMITS, numbers ^ (numbers >> 63), 'right') + 1
    ends = sizes.cumsum()
    places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
    codes = (np.repeat(numbers, sizes) >> 5 * places & 31) + 80
    codes[ends - 1] -= 32
    return codes.astype(np.uint8).tobytes()


def window_of(*rles: dict) -> tuple[int, int, int, int]:
    """Smallest window x1, y1, x2, y2 that holds the boxes of masks of one image; masks without a pixel take no room."""
    boxes = coco_mask.toBbox(list(rles)).astype(int)
    boxes = boxes[boxes[:, 2] > 0]
    if not len(boxes):
        return 0, 0, 0, 0
    (x1, y1), (x2, y2) = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    return int(x1), int(y1), int(x2), int(y2)


def draw(rle: dict, window: Sequence[int]) -> np.ndarray:
    """The mask inside a window x1, y1, x2, y2 of its image: (y2 - y1, x2 - x1) uint8, 0 or 1."""
    (height, _), (x1, y1, x2, y2) = rle['size'], window
    rows, columns = y2 - y1, x2 - x1
    if not rows or not columns:
        return np.zeros((rows, columns), np.uint8)
    bounds = run_lengths(rle['counts']).cumsum()
    stops = _between(bounds[1::2], x1 * height, x2 * height)
    starts = _between(bounds[::2][: len(stops)], x1 * height, x2 * height)
    there = stops > starts
    starts, stops = starts[there], stops[there]
    column, starts, stops = _by_column(starts, stops, height)
    head, shift = column * height, (column - x1) * rows - y1
    edges = np.empty(2 * len(column) + 2, np.int64)
    edges[0], edges[-1] = 0, rows * columns
    edges[1:-1:2] = _between(starts - head, y1, y2) + shift
    edges[2:-1:2] = _between(stops - head, y1, y2) + shift
    values = np.zeros(len(edges) - 1, np.uint8)
    values[1::2] = 1
    pixels = np.repeat(values, edges[1:] - edges[:-1])
    return np.ascontiguousarray(pixels.reshape(columns, rows).T)


def encode(mask: np.ndarray, x1: int, y1: int, size: Sequence[int]) -> dict:
    """The compressed RLE of an image that holds a mask at a place and nothing else; undone by ``draw``.

    Args:
        mask: (h, w) bool or uint8.
        x1, y1: where its first pixel is in the image.
        size: height and width of the image.

    Returns:
        ``size`` and ``counts``, the bytes that pycocotools gives for the whole image.

    Raises:
        InputError: the mask leaves the image, or the image has too many pixels for pycocotools.
    """
    (rows, columns), (height, width) = mask.shape, size
    if x1 < 0 or y1 < 0 or x1 + columns > width or y1 + rows > height:
        raise InputError(
            f'encode: a mask of {columns}x{rows} at {x1}, {y1} leaves its image of {width}x{height}. Cut it first.'
        )
    # a pixel of background before each column, so that every run ends in its own
    padded = np.zeros(columns * (rows + 1) + 1, bool)
    padded[:-1].reshape(columns, rows + 1)[:, 1:] = mask.T
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    edges = changes + changes // (rows + 1) * (height - rows - 1) + x1 * height + y1
    if rows == height:
        inner = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate((2 * inner + 1, 2 * inner + 2)))
    return _rle(edges, size)


def column_runs(rle: dict) -> np.ndarray:
    """The pixels of a mask as runs down its columns: (3, R) int64, column, first row and the row after the last.

    They are in order, and no two of a column touch.
    """
    height = rle['size'][0]
    bounds = run_lengths(rle['counts']).cumsum()
    stops = bounds[1::2]
    starts = bounds[::2][: len(stops)]
    there = stops > starts
    column, starts, stops = _by_column(starts[there], stops[there], height)
    head = column * height
    return np.stack([column, np.maximum(starts - head, 0), np.minimum(stops - head, height)])


def encode_runs(runs: np.ndarray, size: Sequence[int]) -> dict:
    """The compressed RLE of all pixels of column runs (3, R), which may overlap and be in any order."""
    column, first, last = runs
    starts, stops = column * size[0] + first, column * size[0] + last
    return _rle(np.stack(joined(starts, stops), 1).reshape(-1), size)


def joined(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Union of intervals in any order: starts and stops of those that neither overlap nor touch, in order."""
    if not len(starts):
        return starts, stops
    order = starts.argsort(kind='stable')
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    apart = starts[1:] > stops[:-1]
    return starts[np.concatenate(([True], apart))], stops[np.concatenate((apart, [True]))]


def _rle(edges: np.ndarray, size: Sequence[int]) -> dict:
    """The RLE whose runs change at these places, counted down the columns."""
    height, width = (int(length) for length in size)
    pixels = height * width
    if pixels >= _MOST_PIXELS:
        raise InputError(
            f'RLE: an image of {width}x{height} has {pixels} pixels; pycocotools counts up to {_MOST_PIXELS - 1}. '
            'Cut it into several images.'
        )
    bounds = np.concatenate(([0], edges, [pixels]) if not len(edges) or edges[-1] < pixels else ([0], edges))
    return {'size': [height, width], 'counts': write_counts(bounds[1:] - bounds[:-1])}


def _by_column(starts: np.ndarray, stops: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column, start and stop of each piece: a run that leaves a column at its foot goes on at the head of the next, and has
    its own start and stop in every one."""
    column = starts // height
    pieces = (stops - 1) // height - column + 1
    if (pieces > 1).any():
        starts, stops = np.repeat(starts, pieces), np.repeat(stops, pieces)
        column = np.repeat(column + pieces - pieces.cumsum(), pieces) + np.arange(len(starts))
    return column, starts, stops


def _between(values: np.ndarray, least: int, most: int) -> np.ndarray:
    """``np.clip``, which takes much longer on a few numbers."""
    return np.minimum(np.maximum(values, least), most)
