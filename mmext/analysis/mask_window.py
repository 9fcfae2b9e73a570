"""A part of a mask, drawn from its RLE or made into one: memory follows the part, not the image. No torch."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mmext.errors import InputError

# pycocotools counts pixels in 32 bits
_MOST_PIXELS = 2**32
# from each of these on a run length takes one more character
_CHARACTER_LIMITS = 16 << 5 * np.arange(7)
# bits between the columns of a mask that is an integer
GAP = 2
# pairs of masks are drawn together up to so many bytes, or one alone
_BYTES_TOGETHER = 2**21
# pycocotools fails on the areas of more
_MOST_AREAS = 255


def to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    """A COCO segmentation (polygons, RLE, compressed RLE) as compressed RLE."""
    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, height, width)
        return parts[0] if len(parts) == 1 else coco_mask.merge(parts)
    if isinstance(segmentation['counts'], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def run_lengths(counts: bytes | str) -> np.ndarray:
    """Lengths of the runs of a compressed RLE, background first, down the columns.

    A character is six bits, counted from ``'0'``: five of the number, lowest first, and one that says whether more follow;
    the number's highest bit is its sign. From the fourth run on it is the difference to the run two before (``rleFrString``
    in pycocotools' maskApi.c).
    """
    lengths = _numbers(counts)[0]
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def write_counts(lengths: np.ndarray) -> bytes:
    """Counts of a compressed RLE from the lengths of its runs (``rleToString`` in maskApi.c); undone by ``run_lengths``."""
    numbers = lengths.astype(np.int64)
    numbers[3:] -= lengths[1:-2]
    return _characters(numbers)[0]


def _characters(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Numbers as counts are written, and where the characters of each end."""
    sizes = np.searchsorted(_CHARACTER_LIMITS, numbers ^ (numbers >> 63), 'right') + 1
    ends = sizes.cumsum()
    places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
    codes = (np.repeat(numbers, sizes) >> 5 * places & 31) + 80
    codes[ends - 1] -= 32
    return codes.astype(np.uint8).tobytes(), ends


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
    return np.ascontiguousarray(_filled(edges).reshape(columns, rows).T)


def draw_each(
    rles: Sequence[dict], name_of: Callable[[int], str] = lambda place: f'mask {place + 1}'
) -> list[tuple[np.ndarray, int, int]]:
    """Masks of one image, each in the smallest window that holds it: (h, w) uint8, 0 or 1, and x1, y1.

    All in one go: the masks of an image are many and small.

    Args:
        rles: compressed, all of one size.
        name_of: from a place in the list to what the mask is called in an error.

    Raises:
        InputError: an RLE whose runs do not fit into its image.
    """
    if not rles:
        return []
    runs = _column_runs_of_each(rles, name_of)
    x1, y1, x2, y2 = _boxes(*runs, len(rles))
    rows, columns = y2 - y1, x2 - x1
    sizes = rows * columns
    pixels = _in_windows(*runs, x1, y1, rows, sizes)
    offsets = sizes.cumsum() - sizes
    parts = zip(offsets.tolist(), columns.tolist(), rows.tolist(), x1.tolist(), y1.tolist(), strict=True)
    return [(pixels[o : o + w * h].reshape(w, h).T, x, y) for o, w, h, x, y in parts]


def draw_pairs(rles: Sequence[dict], others: Sequence[dict]) -> Iterator[tuple[int, int, int]]:
    """Masks of one image two by two, each as an integer, in the smallest window that holds both.

    A pixel is a bit: what two masks share is ``one & other``, and ``(one & other).bit_count()`` the number of its pixels.
    Pixels go down the columns from the lowest bit on, and after each column there are ``GAP`` bits more, all 0, so that what
    is shifted by as much does not run from one column into the next.

    Args:
        rles: compressed, all of one size.
        others: the other of each, of the same size.

    Yields:
        Both masks, and the bits from a column to the next: rows of the window + ``GAP``.

    Raises:
        InputError: masks of images of different sizes; an RLE whose runs do not fit into its image.
    """
    both = [rle for pair in zip(rles, others, strict=True) for rle in pair]
    if not both:
        return
    images = sorted({tuple(rle['size']) for rle in both})
    if len(images) > 1:
        found = ' and '.join(f'{height}x{width}' for height, width in images)
        raise InputError(
            f'There are masks of {found} (height x width) of one image. Objects and detections must have its size: correct '
            'height and width in the annotation file.'
        )
    runs = _column_runs_of_each(both, lambda place: f'mask {place // 2 + 1}')
    x1, y1, x2, y2 = _boxes(*runs, len(both)).reshape(4, -1, 2)
    # what has no pixel takes no room
    x1, y1 = (np.where(x1 < x2, side, _MOST_PIXELS).min(1) for side in (x1, y1))
    strides = np.maximum(y2.max(1) - y1, 0) + GAP
    sizes = (np.maximum(x2.max(1) - x1, 0) * strides + 7) // 8
    together = (sizes.cumsum() - sizes) // _BYTES_TOGETHER
    for begin, end in itertools.pairwise([0, *(np.flatnonzero(np.diff(together)) + 1).tolist(), len(sizes)]):
        inside = slice(*runs[0].searchsorted((2 * begin, 2 * end)))
        owner, *rest = (values[inside] for values in runs)
        windows = (np.repeat(values[begin:end], 2) for values in (x1, y1, strides, 8 * sizes))
        text = np.packbits(_in_windows(owner - 2 * begin, *rest, *windows), bitorder='little').tobytes()
        place = 0
        for size, stride in zip(sizes[begin:end].tolist(), strides[begin:end].tolist(), strict=True):
            one, other = text[place : place + size], text[place + size : place + 2 * size]
            yield int.from_bytes(one, 'little'), int.from_bytes(other, 'little'), stride
            place += 2 * size


def to_array(mask: int, stride: int, columns: int) -> np.ndarray:
    """A mask of ``draw_pairs`` in so many columns of its window: (rows, columns) uint8, 0 or 1."""
    codes = np.frombuffer(mask.to_bytes((columns * stride + 7) // 8, 'little'), np.uint8)
    return np.unpackbits(codes, count=columns * stride, bitorder='little').reshape(columns, stride)[:, :-GAP].T


def areas(rles: Sequence[dict]) -> np.ndarray:
    """Pixels of each mask, (N,) int64."""
    parts = [coco_mask.area(list(rles[i : i + _MOST_AREAS])) for i in range(0, len(rles), _MOST_AREAS)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def draw_whole(rles: Sequence[dict], size: Sequence[int]) -> np.ndarray:
    """Masks of one image at its full size: (N, height, width) uint8, 0 or 1."""
    found = np.zeros((len(rles), *size), np.uint8)
    for mask, (window, x1, y1) in zip(found, draw_each(rles), strict=True):
        mask[y1 : y1 + len(window), x1 : x1 + window.shape[1]] = window
    return found


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


def encode_columns(pixels: np.ndarray, windows: np.ndarray, size: Sequence[int]) -> list[dict]:
    """RLEs of several masks of one image as ``encode`` gives them, all in one go.

    Args:
        pixels: flat bool: the columns of one window after the other, a pixel of background before each, and one at the end.
        windows: (N, 4) int64 x1, y1, x2, y2 inside of the image; those without a pixel take none.
        size: height and width of the image.

    Returns:
        N RLEs, empty masks among them.

    Raises:
        InputError: the image has too many pixels for pycocotools.
    """
    height, total = int(size[0]), _pixels_of(size)
    x1, y1, x2, y2 = windows.T
    steps = y2 - y1 + 1
    sizes = np.where(steps > 1, (x2 - x1) * steps, 0)
    offsets = sizes.cumsum() - sizes
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    owner = offsets.searchsorted(changes, 'right') - 1
    changes -= offsets[owner]
    edges = changes + changes // steps[owner] * (height - steps[owner]) + (x1 * height + y1)[owner]
    if (steps > height).any():  # a run that ends at the foot of a column goes on at the head of the next
        inner = np.flatnonzero((edges[1:-1:2] == edges[2::2]) & (owner[1:-1:2] == owner[2::2]))
        gone = np.concatenate((2 * inner + 1, 2 * inner + 2))
        edges, owner = np.delete(edges, gone), np.delete(owner, gone)
    # of each mask 0, its edges and the number of all pixels
    counts = np.bincount(owner, minlength=len(windows))
    ends = (counts + 2).cumsum()
    bounds = np.zeros(ends[-1] if len(ends) else 0, np.int64)
    bounds[np.arange(len(edges)) + 2 * owner + 1] = edges
    bounds[ends - 1] = total
    lengths = bounds[1:] - bounds[:-1]
    kept = np.ones(len(lengths), bool)
    kept[ends[:-1] - 1] = False
    kept[ends - 2] = (lengths[ends - 2] > 0) | (counts == 0)
    lasts = kept.cumsum()[ends - 2]
    lengths = lengths[kept]
    numbers = lengths.copy()
    later = np.flatnonzero(_places(np.diff(lasts, prepend=0)) > 2)
    numbers[later] -= lengths[later - 2]
    text, stops = _characters(numbers)
    stops = [0, *stops[lasts - 1].tolist()]
    return [{'size': [height, int(size[1])], 'counts': text[a:b]} for a, b in itertools.pairwise(stops)]


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


def _numbers(counts: bytes | str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of counts as they are written, and where the characters of each end."""
    codes = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    sizes = np.diff(ends, prepend=-1)
    starts, bits = ends + 1 - sizes, (codes & 31).astype(np.int64)
    numbers = bits[starts]
    for place in range(1, sizes.max(initial=0)):  # most have one character
        longer = np.flatnonzero(sizes > place)
        numbers[longer] += bits[starts[longer] + place] << 5 * place
    numbers -= (bits[ends] & 16) << 5 * sizes - 4
    return numbers, ends


def _run_lengths_of_each(counts: Sequence[bytes | str]) -> tuple[np.ndarray, np.ndarray]:
    """``run_lengths`` of several masks, one after the other, and how many each has."""
    texts = [text.encode() if isinstance(text, str) else text for text in counts]
    lengths, ends = _numbers(b''.join(texts))
    numbers = np.diff(ends.searchsorted(np.cumsum([len(text) for text in texts])), prepend=0)
    places = _places(numbers)
    odd = places & 1 == 1
    even = ~odd & (places > 0)
    for chosen, many in ((odd, numbers // 2), (even, np.maximum(numbers - 1, 0) // 2)):
        chosen = np.flatnonzero(chosen)  # takes less time than bools, twice
        lengths[chosen] = _sums_of_each(lengths[chosen], many)
    return lengths, numbers


def _column_runs_of_each(
    rles: Sequence[dict], name_of: Callable[[int], str] = lambda place: f'mask {place + 1}'
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``column_runs`` of several masks of one size, one after the other: whose each is, and as there. Errors as in
    ``draw_each``."""
    height, width = rles[0]['size']
    lengths, numbers = _run_lengths_of_each([rle['counts'] for rle in rles])
    bounds, ends = _sums_of_each(lengths, numbers), numbers.cumsum()
    broken = np.flatnonzero((lengths < 0) | (bounds > height * width))
    if len(broken):
        raise InputError(
            f'{name_of(int(ends.searchsorted(broken[0], "right")))} has a broken RLE: its runs do not fit into '
            f'{height}x{width} (height x width), the size of its image. Export the annotations again.'
        )
    # as if the images stood side by side, so that a column says whose it is
    bounds += np.repeat(np.arange(len(rles)) * (height * width), numbers)
    odd = np.flatnonzero(_places(numbers) & 1)
    starts, stops = bounds[odd - 1], bounds[odd]
    there = stops > starts
    column, starts, stops = _by_column(starts[there], stops[there], height)
    owner, head = column // width, column * height
    return owner, column - owner * width, np.maximum(starts - head, 0), np.minimum(stops - head, height)


def _in_windows(
    owner: np.ndarray,
    column: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    x1: np.ndarray,
    y1: np.ndarray,
    strides: np.ndarray,
    sizes: np.ndarray,
) -> np.ndarray:
    """Pixels of what has these runs down columns, 0 or 1: flat, the columns of one window after the other.

    Args:
        owner, column, first, last: runs in order.
        x1, y1: (N,) where each window begins,
        strides: how far its columns are apart,
        sizes: and how much room it takes.
    """
    shift = (sizes.cumsum() - sizes - x1 * strides - y1)[owner] + column * strides[owner]
    edges = np.zeros(2 * len(column) + 2, np.int64)
    edges[-1], edges[1:-1:2], edges[2:-1:2] = sizes.sum(), first + shift, last + shift
    return _filled(edges)


def _places(numbers: np.ndarray) -> np.ndarray:
    """0, 1, 2... for each of several lists that stand one after the other."""
    return np.arange(numbers.sum()) - np.repeat(numbers.cumsum() - numbers, numbers)


def _sums_of_each(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """``cumsum`` that starts anew with each of several lists that stand one after the other."""
    sums = np.concatenate(([0], values.cumsum()))
    return sums[1:] - np.repeat(sums[numbers.cumsum() - numbers], numbers)


def _boxes(owner: np.ndarray, column: np.ndarray, first: np.ndarray, last: np.ndarray, number: int) -> np.ndarray:
    """x1, y1, x2, y2 (4, number) of what has these runs down columns, in order; 0 of what has none.

    pycocotools' ``toBbox`` gives boxes outside the image for runs of length 0.
    """
    boxes = np.zeros((4, number), np.int64)
    counts = np.bincount(owner, minlength=number)
    there, ends = counts > 0, counts.cumsum()
    if len(owner):
        starts = (ends - counts)[there]
        found = (
            column[starts],
            np.minimum.reduceat(first, starts),
            column[ends[there] - 1] + 1,
            np.maximum.reduceat(last, starts),
        )
        boxes[:, there] = found
    return boxes


def _filled(edges: np.ndarray) -> np.ndarray:
    """Pixels 0 and 1 in turns, 0 first, that change at each edge but the first and the last, which are the ends."""
    values = np.zeros(len(edges) - 1, np.uint8)
    values[1::2] = 1
    return np.repeat(values, edges[1:] - edges[:-1])


def _rle(edges: np.ndarray, size: Sequence[int]) -> dict:
    """The RLE whose runs change at these places, counted down the columns."""
    pixels = _pixels_of(size)
    bounds = np.concatenate(([0], edges, [pixels]) if not len(edges) or edges[-1] < pixels else ([0], edges))
    return {'size': [int(length) for length in size], 'counts': write_counts(bounds[1:] - bounds[:-1])}


def _pixels_of(size: Sequence[int]) -> int:
    height, width = (int(length) for length in size)
    if height * width >= _MOST_PIXELS:
        raise InputError(
            f'RLE: an image of {width}x{height} has {height * width} pixels; pycocotools counts up to {_MOST_PIXELS - 1}. '
            'Cut it into several images.'
        )
    return height * width


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
