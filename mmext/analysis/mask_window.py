"""A part of a mask, drawn from its RLE alone: memory follows the part, not the image. No torch."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask


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
    # a run that leaves a column at its foot goes on at the head of the next: one piece for each column
    column = starts // height
    pieces = (stops - 1) // height - column + 1
    if (pieces > 1).any():
        starts, stops = np.repeat(starts, pieces), np.repeat(stops, pieces)
        column = np.repeat(column + pieces - pieces.cumsum(), pieces) + np.arange(len(starts))
    head, shift = column * height, (column - x1) * rows - y1
    edges = np.empty(2 * len(column) + 2, np.int64)
    edges[0], edges[-1] = 0, rows * columns
    edges[1:-1:2] = _between(starts - head, y1, y2) + shift
    edges[2:-1:2] = _between(stops - head, y1, y2) + shift
    values = np.zeros(len(edges) - 1, np.uint8)
    values[1::2] = 1
    pixels = np.repeat(values, edges[1:] - edges[:-1])
    return np.ascontiguousarray(pixels.reshape(columns, rows).T)


def _between(values: np.ndarray, least: int, most: int) -> np.ndarray:
    """``np.clip``, which takes much longer on a few numbers."""
    return np.minimum(np.maximum(values, least), most)
