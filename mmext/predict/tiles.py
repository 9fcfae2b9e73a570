"""Large images by overlapping tiles: which tiles, and how what was found in them becomes one list of objects. No torch.

The rule: two instances of two tiles are one object when their masks agree where both tiles look, in their common region. How
much of an object each tile sees plays no part, so a line through five tiles is joined as surely as one through two.

1. An instance has at most one partner in another tile: of those with which it agrees, one of its own class before others,
   then the one that it overlaps most. Agreement is the share of both masks' pixels in the common region that lie within 1 px
   of the other mask; at least ``AGREEMENT``.
2. A piece, which its tile's edge cuts and which has no partner, belongs to the instance of the other tile that holds the
   same share of its pixels there.
3. Both go from tile to tile, partners first, those with most pixels in agreement first. No link makes one object of two
   instances of the same tile, unless its edge cuts both.
4. An object's mask is the union of its parts, its box the smallest around theirs, its score their mean weighted by pixels,
   its class the one with the greatest sum of score times pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mmext.analysis.mask_window import column_runs, encode_runs
from mmext.errors import InputError, raise_all
from mmext.predict.instances import Instances
from mmext.predict.seams import Link, Tile, Window, cut_by, links_between, overlapping, runs_of

TILE, OVERLAP = 1024, 0.2
# docs/large-images.md: what other values do
AGREEMENT = 0.5
_LEAST_TILE, _MOST_OVERLAP = 64, 0.5


def tile_grid(size: tuple[int, int], tile: int = TILE, overlap: float = OVERLAP) -> list[Window]:
    """Windows that cover an image, row by row, each as large as the others.

    The last row and column are moved inwards, so that they overlap more. A side shorter than a tile is covered by one window
    of its own length. (sahi's ``get_slice_bboxes`` gives the same windows; these lines need none of its dependencies.)

    Args:
        size: height and width of the image.
        tile: side of a tile in pixels, at least 64.
        overlap: of neighbouring tiles, as a share of the side, 0 to 0.5. With 0 nothing is joined.

    Raises:
        InputError: an image without pixels, a tile or an overlap that is not allowed.
    """
    mistakes = []
    if min(size) < 1:
        mistakes.append(f'tiles: the image has height {size[0]} and width {size[1]}; both must be at least 1.')
    if tile != int(tile) or tile < _LEAST_TILE:
        mistakes.append(f'tiles: a tile of {tile} px; it must be a whole number from {_LEAST_TILE} on, such as {TILE}.')
    if not 0 <= overlap <= _MOST_OVERLAP:
        mistakes.append(
            f'tiles: an overlap of {overlap}; it must be a share of the tile, 0 to {_MOST_OVERLAP}, such as {OVERLAP}.'
        )
    raise_all(mistakes)
    side, step = int(tile), int(tile) - round(tile * overlap)
    rows, columns = ([*range(0, max(length - side, 0), step), max(length - side, 0)] for length in size)
    height, width = size
    return [Window(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def predict_tiled(
    predict: Callable[[np.ndarray], Instances],
    read: Callable[[Window], np.ndarray],
    size: tuple[int, int],
    tile: int = TILE,
    overlap: float = OVERLAP,
    progress: Callable[[str, int, int], None] | None = None,
) -> Instances:
    """The objects of an image, tile by tile; the pixels of one tile are held at a time.

    Args:
        predict: gives the instances of a picture, in its own pixels.
        read: gives the picture in a window, (h, w) or (h, w, channels), such as ``open_windows(path).read`` of
            ``mmext.data.image_windows``.
        size: height and width of the image.
        tile, overlap: as for ``tile_grid``.
        progress: takes what is counted, tiles done and all tiles, as what ``mmext.console.progress_bars`` gives.

    Returns:
        As ``join_tiles``.

    Raises:
        InputError: as ``tile_grid`` and ``join_tiles``; a picture without the size of its window.
    """
    windows = tile_grid(size, tile, overlap)

    def parts() -> Iterator[tuple[Window, Instances]]:
        for done, window in enumerate(windows, 1):
            picture = read(window)
            needed = _size(window)
            if picture.shape[:2] != needed:
                raise InputError(f'tiles: {window} was read as {picture.shape}; it must be {needed}, then channels if any.')
            yield window, predict(picture)
            if progress is not None:
                progress('tiles', done, len(windows))

    return join_tiles(parts(), size)


def join_tiles(
    parts: Iterable[tuple[Sequence[int], Instances]], size: tuple[int, int], agreement: float = AGREEMENT
) -> Instances:
    """The objects of an image from the instances of its tiles, by the rule at the head of this file.

    Tiles are taken one at a time and kept as RLEs; nothing of the image's size is made.

    Args:
        parts: window x1, y1, x2, y2 and instances of each tile, in pixels of the tile; tiles in any order. Leave out what is
            below the score threshold before: a part that is joined makes its object larger.
        size: height and width of the image.
        agreement: least share of the pixels that agree, above 0 and up to 1.

    Returns:
        The objects in pixels of the image, best score first.

    Raises:
        InputError: an agreement that is not allowed, a window outside the image, instances that have not the size of their
            window, tiles with other classes than the first.
    """
    if not 0 < agreement <= 1:
        raise InputError(f'tiles: an agreement of {agreement}; it must be above 0 and at most 1, such as {AGREEMENT}.')
    tiles: list[Tile] = []
    founds: list[Instances] = []
    links: list[Link] = []
    windows = np.zeros((0, 4), np.int64)
    count = 0
    for place, found in parts:
        window = Window(*place)
        _check_part(window, found, size, founds)
        runs = runs_of(found.rles, np.arange(len(found)), window)
        extents = runs.extents(len(found))
        tile = Tile(
            window,
            np.arange(count, count + len(found)),
            found.labels,
            found.rles,
            extents,
            runs.pixels(len(found)),
            cut_by(extents, window, Window(0, 0, size[1], size[0])),
        )
        for other in overlapping(windows, window):
            links += links_between(tiles[other], tile, runs, agreement)
        windows = np.vstack([windows, window])
        tiles.append(tile)
        founds.append(found)
        count += len(found)
    if not founds:
        return Instances(tuple(size), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), [], ())
    return _objects(tiles, founds, _groups(tiles, links), size)


def _size(window: Window) -> tuple[int, int]:
    return window.y2 - window.y1, window.x2 - window.x1


def _check_part(window: Window, found: Instances, size: tuple[int, int], before: Sequence[Instances]) -> None:
    height, width = size
    if not (0 <= window.x1 < window.x2 <= width and 0 <= window.y1 < window.y2 <= height):
        raise InputError(f'tiles: {window} is not within the image of width {width} and height {height}.')
    if tuple(found.size) != _size(window):
        raise InputError(
            f'tiles: the instances of {window} are of a picture of height and width {tuple(found.size)}; '
            f'the window has {_size(window)}. Give them in pixels of the tile.'
        )
    if before and tuple(found.class_names) != tuple(before[0].class_names):
        raise InputError(
            f'tiles: {window} has the classes {tuple(found.class_names)}, the first tile {tuple(before[0].class_names)}. '
            'Predict all tiles with one model.'
        )


def _groups(tiles: Sequence[Tile], links: Sequence[Link]) -> list[list[int]]:
    """Numbers of the instances of each object: what the links join, the surest first."""
    place = np.repeat(np.arange(len(tiles)), [len(tile.numbers) for tile in tiles]).tolist()
    cut = np.concatenate([tile.cut for tile in tiles]).tolist()
    # the tiles of a group, and its instances in each
    groups = [{tile: [number]} for number, tile in enumerate(place)]
    group_of = list(range(len(place)))
    for link in sorted(links, key=lambda link: (link.piece, -link.pixels)):
        one, two = group_of[link.first], group_of[link.second]
        if one == two or not _may_join(groups[one], groups[two], link, place, cut):
            continue
        if len(groups[one]) < len(groups[two]):
            one, two = two, one
        for tile, numbers in groups[two].items():
            groups[one].setdefault(tile, []).extend(numbers)
            for number in numbers:
                group_of[number] = one
        groups[two] = {}
    return [sorted(number for numbers in group.values() for number in numbers) for group in groups if group]


def _may_join(one: dict, two: dict, link: Link, place: Sequence[int], cut: Sequence[bool]) -> bool:
    """Whether an object may hold both groups. A tile that saw something whole beside something else saw two objects."""
    if not link.piece and place[link.second] in one and place[link.first] in two:
        return False  # each has a better partner in the other's tile already
    return all(cut[number] for tile in one.keys() & two.keys() for number in (*one[tile], *two[tile]))


def _objects(tiles: Sequence[Tile], founds: Sequence[Instances], groups: Sequence[list[int]], size: tuple) -> Instances:
    labels, scores = (np.concatenate([getattr(found, name) for found in founds]) for name in ('labels', 'scores'))
    corners = [np.array(tile.window, np.float32)[[0, 1, 0, 1]] for tile in tiles]
    boxes = np.concatenate([found.boxes + corner for found, corner in zip(founds, corners, strict=True)])
    areas = np.concatenate([tile.areas for tile in tiles])
    where = [(tile, i) for tile in tiles for i in range(len(tile.numbers))]
    joined_labels, joined_scores, joined_boxes, rles = [], [], [], []
    for numbers in groups:
        weights = np.maximum(areas[numbers], 1)  # what has no pixel stands alone, with its own score
        votes = np.bincount(labels[numbers], weights * scores[numbers])
        joined_labels.append(int(votes.argmax()) if len(numbers) > 1 else labels[numbers[0]])
        joined_scores.append(np.average(scores[numbers], weights=weights))
        low, high = boxes[numbers, :2].min(0), boxes[numbers, 2:].max(0)
        joined_boxes.append([*low, *high])
        rles.append(_union([where[number] for number in numbers], size))
    order = np.argsort(-np.array(joined_scores, np.float32), kind='stable')
    return Instances(
        tuple(size),
        np.array(joined_labels, np.int64)[order],
        np.array(joined_scores, np.float32)[order],
        np.array(joined_boxes, np.float32).reshape(-1, 4)[order],
        [rles[i] for i in order],
        tuple(founds[0].class_names),
    )


def _union(members: Sequence[tuple[Tile, int]], size: tuple[int, int]) -> dict:
    shifts = [np.array([[tile.window.x1], [tile.window.y1], [tile.window.y1]]) for tile, _ in members]
    runs = [column_runs(tile.rles[i]) + shift for (tile, i), shift in zip(members, shifts, strict=True)]
    return encode_runs(np.concatenate(runs, 1), size)
