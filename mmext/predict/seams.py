"""Which instances of two overlapping tiles are one object: what their masks say where both tiles look. No torch.

Shapes: N instances of a tile, R column runs of all its masks, K pairs of two tiles' instances. Places are in pixels of the
image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmext.analysis.mask_window import column_runs, joined

# a mask that ends this near its tile's edge, in pixels, is cut by it
_EDGE = 8


class Window(NamedTuple):
    """A part of an image, in pixels; x2 and y2 are the first column and row outside."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Runs:
    """Column runs of several masks, those of one together and in order: ``owner`` (R,) its place, ``column``, ``first`` row
    and ``last``, the row after it."""

    owner: np.ndarray
    column: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def chosen(self, keep: np.ndarray) -> 'Runs':
        return Runs(self.owner[keep], self.column[keep], self.first[keep], self.last[keep])

    def pixels(self, number: int) -> np.ndarray:
        """(number,) int64, of each mask."""
        return np.bincount(self.owner, self.last - self.first, number).astype(np.int64)

    def extents(self, number: int) -> np.ndarray:
        """(number, 4) int64: the smallest window of each mask; 0, 0, 0, 0 for one without a pixel."""
        found = np.zeros((number, 4), np.int64)
        if len(self.owner):
            owners, starts = np.unique(self.owner, return_index=True)
            found[owners, 0] = np.minimum.reduceat(self.column, starts)
            found[owners, 1] = np.minimum.reduceat(self.first, starts)
            found[owners, 2] = np.maximum.reduceat(self.column, starts) + 1
            found[owners, 3] = np.maximum.reduceat(self.last, starts)
        return found


@dataclass(frozen=True)
class Tile:
    """What was found in a tile: ``numbers`` (N,) through all tiles, ``labels`` (N,), RLEs of the tile's size, ``extents``
    (N, 4) and ``areas`` (N,) of the masks, ``cut`` (N,): by an edge of the tile behind which the image goes on."""

    window: Window
    numbers: np.ndarray
    labels: np.ndarray
    rles: Sequence[dict]
    extents: np.ndarray
    areas: np.ndarray
    cut: np.ndarray


class Link(NamedTuple):
    """Two instances, by number, that are one object: how many pixels of theirs agree, and whether one is a piece of the
    other, which may have several."""

    first: int
    second: int
    pixels: int
    piece: bool


def runs_of(rles: Sequence[dict], places: np.ndarray, window: Window) -> Runs:
    """Runs of the masks at these places, whose RLEs are of the window's size."""
    found = [column_runs(rles[place]) for place in places]
    owner = np.repeat(places, [one.shape[1] for one in found])
    column, first, last = np.concatenate([np.zeros((3, 0), np.int64), *found], 1)
    return Runs(owner.astype(np.int64), column + window.x1, first + window.y1, last + window.y1)


def cut_by(extents: np.ndarray, window: Window, seen: Window) -> np.ndarray:
    """(N,) bool: masks that end at an edge of their window behind which there is more of ``seen``."""
    x1, y1, x2, y2 = extents.T
    cut = np.zeros(len(extents), bool)
    if seen.x1 < window.x1:
        cut |= x1 < window.x1 + _EDGE
    if seen.y1 < window.y1:
        cut |= y1 < window.y1 + _EDGE
    if seen.x2 > window.x2:
        cut |= x2 > window.x2 - _EDGE
    if seen.y2 > window.y2:
        cut |= y2 > window.y2 - _EDGE
    return cut & (x2 > x1)


def overlapping(windows: np.ndarray, region: Sequence[int]) -> np.ndarray:
    """Places of those of the windows (N, 4) that have pixels in a region."""
    x1, y1, x2, y2 = windows.T
    return np.flatnonzero((x1 < region[2]) & (x2 > region[0]) & (y1 < region[3]) & (y2 > region[1]))


def links_between(first: Tile, second: Tile, runs: Runs, agreement: float) -> list[Link]:
    """Links between the instances of two tiles.

    Args:
        first, second: the tiles, which overlap.
        runs: those of ``second``.
        agreement: least share of the pixels in the common region that are within 1 px of the other mask.
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = first.window, second.window
    region = Window(max(ax1, bx1), max(ay1, by1), min(ax2, bx2), min(ay2, by2))
    here, there = overlapping(first.extents, region), overlapping(second.extents, region)
    if not len(here) or not len(there):
        return []
    one = _inside(runs_of(first.rles, here, first.window), region)
    two = _inside(runs.chosen(np.isin(runs.owner, there)), region)
    pairs = _compare(one, two, region)
    if not len(pairs.places[0]):
        return []
    same_class = first.labels[pairs.places[0]] == second.labels[pairs.places[1]]
    # a partner of another class only for those that have none of their own
    order = np.lexsort((-pairs.overlap, ~same_class))
    links, taken = [], (set(), set())
    for k in order[pairs.agreement[order] >= agreement]:
        i, j = int(pairs.places[0][k]), int(pairs.places[1][k])
        if i in taken[0] or j in taken[1]:
            continue
        taken[0].add(i)
        taken[1].add(j)
        links.append(Link(int(first.numbers[i]), int(second.numbers[j]), int(pairs.agreeing[k]), False))
    for side, (tile, other, part) in enumerate(((first, second, one), (second, first, two))):
        cut = cut_by(part.extents(len(tile.numbers)), tile.window, other.window)
        for k in order[pairs.held[side][order] >= agreement]:
            i = int(pairs.places[side][k])
            if i in taken[side] or not cut[i]:
                continue
            taken[side].add(i)
            numbers = first.numbers[pairs.places[0][k]], second.numbers[pairs.places[1][k]]
            links.append(Link(*map(int, numbers), int(pairs.agreeing[k]), True))
    return links


@dataclass(frozen=True)
class _Pairs:
    """Pairs whose parts in the common region come within 1 px, all (K,).

    ``places`` in the first and in the second tile; ``overlap`` of the parts, 2 |A ∩ B| / (|A| + |B|); ``agreement``, the
    same with the pixels within 1 px of the other part; ``agreeing``, the number of these; ``held``, their share in the first
    and in the second.
    """

    places: tuple[np.ndarray, np.ndarray]
    overlap: np.ndarray
    agreement: np.ndarray
    agreeing: np.ndarray
    held: tuple[np.ndarray, np.ndarray]


def _compare(one: Runs, two: Runs, region: Window) -> _Pairs:
    boxes = [part.extents(int(part.owner.max(initial=-1)) + 1) for part in (one, two)]
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (np.moveaxis(box, 1, 0) for box in boxes)
    near = (ax1[:, None] <= bx2) & (bx1 <= ax2[:, None]) & (ay1[:, None] <= by2) & (by1 <= ay2[:, None])
    near &= (ax2 > ax1)[:, None] & (bx2 > bx1)
    i, j = np.nonzero(near)
    area_one, area_two = one.pixels(len(boxes[0]))[i], two.pixels(len(boxes[1]))[j]
    starts = [_intervals(part, region) for part in (one, two)]
    wide = [_intervals(part, region, 1) for part in (one, two)]
    common = _shared(starts[0], starts[1], i, j, region)
    from_one, from_two = _shared(starts[0], wide[1], i, j, region), _shared(wide[0], starts[1], i, j, region)
    there = from_one + from_two > 0
    i, j, area_one, area_two = i[there], j[there], area_one[there], area_two[there]
    common, from_one, from_two = common[there], from_one[there], from_two[there]
    both = area_one + area_two
    return _Pairs(
        (i, j),
        2 * common / both,
        (from_one + from_two) / both,
        from_one + from_two,
        (from_one / area_one, from_two / area_two),
    )


def _inside(runs: Runs, region: Window) -> Runs:
    clipped = Runs(runs.owner, runs.column, np.maximum(runs.first, region.y1), np.minimum(runs.last, region.y2))
    return clipped.chosen((runs.column >= region.x1) & (runs.column < region.x2) & (clipped.first < clipped.last))


def _intervals(runs: Runs, region: Window, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The runs' pixels on one line, mask after mask and column after column, as starts and stops that neither overlap nor
    touch; each mask wider by ``margin``, 0 or 1, to all sides."""
    # a free place at both ends of every column keeps a wider run out of the next
    step = region.y2 - region.y1 + 3
    base = runs.owner * _room(region) + (runs.column - region.x1 + 1) * step + 1 - region.y1
    starts, stops = base + runs.first - margin, base + runs.last + margin
    if margin:
        shifts = np.array([-step, 0, step])
        starts, stops = (starts[:, None] + shifts).ravel(), (stops[:, None] + shifts).ravel()
    return joined(starts, stops)


def _room(region: Window) -> int:
    """Places that a mask has on the line of ``_intervals``."""
    return (region.y2 - region.y1 + 3) * (region.x2 - region.x1 + 2)


def _shared(
    one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray], i: np.ndarray, j: np.ndarray, region: Window
) -> np.ndarray:
    """(K,) pixels that mask i of the first and mask j of the second have in common."""
    room = _room(region)
    bounds = np.searchsorted(one[0], i * room), np.searchsorted(one[0], (i + 1) * room)
    number = bounds[1] - bounds[0]
    # the runs of mask i, moved to where mask j is on its line
    run = np.repeat(bounds[0] - number.cumsum() + number, number) + np.arange(number.sum())
    shift = np.repeat((j - i) * room, number)
    before = np.concatenate(([0], (two[1] - two[0]).cumsum()))

    def covered(place: np.ndarray) -> np.ndarray:
        """Pixels of the second's masks before a place."""
        last = np.searchsorted(two[0], place, 'right')
        inside = np.maximum(two[1][last - 1] - place, 0)
        return np.where(last > 0, before[last] - inside, 0)

    pixels = covered(one[1][run] + shift) - covered(one[0][run] + shift)
    return np.bincount(np.repeat(np.arange(len(i)), number), pixels, len(i)).astype(np.int64)
