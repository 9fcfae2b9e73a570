"""Contact sheets of the ground truth, to look at: the smallest, largest and most suspicious objects of a class. No torch.

A tile is a square of the image around one object, with its mask's outline and its ``bbox``; N annotations in shapes.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.analysis.mask_window import draw
from mmext.data.coco_file import MEDIUM, SMALL, CocoFile
from mmext.data.mask_pairs import box_iou
from mmext.data.mask_shapes import MaskShapes, read_shapes
from mmext.errors import InputError

PER_SHEET = 24
_COLUMNS, _LEAST_COLUMNS = 6, 3
_TILE = 240  # px of a tile's side
_GAP, _HEADER, _LINE = 14, 68, 18
_FONT, _TITLE_FONT = 13, 18
_AROUND = 1.4  # side of the square, in the longer sides of the object
_LEAST_SIDE = 40  # px of the image, so that a speck is seen in its surroundings
_SHARP_FROM = 2  # enlarged more than this, pixels are shown as squares
# Okabe and Ito's yellow and sky blue, told apart by the colour-blind; a black line beside them keeps them seen on bright
_OUTLINE, _BOX = (240, 228, 66), (86, 180, 233)
_BARS = '#0072B2'
_EMPTY = 128  # grey of what lies outside the image
_RIM = 0.04  # of a tile's side: so much of it is shown, for an outline along the image's edge
_SUB_PIXEL_BITS = 4  # cv2 takes corners in 1/16 px
# doubt 4 of `suspicion`: eight median absolute deviations are five standard deviations of a normal distribution
_DEVIATIONS = 8
_COCO_SIZES = (math.isqrt(SMALL), math.isqrt(MEDIUM))  # as sides, px


@dataclass(frozen=True)
class Tile:
    """One object to show: its annotation, its image's entry, its mask's box x1, y1, x2, y2, and what is suspicious."""

    annotation: Mapping
    image: Mapping
    box: np.ndarray
    remark: str = ''


@dataclass(frozen=True)
class Square:
    """A square of an image: its left and top in pixels, its side, and the pixels in RGB, None when there are none."""

    left: int
    top: int
    side: int
    pixels: np.ndarray | None

    @property
    def scale(self) -> float:
        return _TILE / self.side


def write_sheets(
    coco: CocoFile, folder: str | Path, out: Path, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write the sheets of each class and a histogram of sizes as PNG.

    ``01_Fiber_suspicious.png``, ``01_Fiber_smallest.png`` and ``01_Fiber_largest.png`` with up to 24 objects each, and
    ``sizes.png``. The same data give the same bytes. Images are shown as MMDetection loads them, EXIF's turn included; those
    of more than 8 bits are stretched, so that something is seen. Objects whose mask cannot be drawn are left out.

    Args:
        coco: of which every class is shown.
        folder: of the images.
        out: made when it is not there.
        progress: called with (done, all) classes.

    Returns:
        The files, sheets first.

    Raises:
        InputError: matplotlib is not installed; ``out`` cannot be written.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise InputError("--show needs matplotlib, which is not installed: pip install 'mmext[report]'.")
    shapes = read_shapes(coco)
    scores, remarks = suspicion(coco, shapes)
    size = np.sqrt((shapes.least + shapes.most) / 2)
    category = np.array([annotation['category_id'] for annotation in coco.annotations], int)
    sizes, paths = {}, []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number, entry in enumerate(coco.categories):
            mine = np.flatnonzero(shapes.sound & (category == entry['id']))
            if len(mine):
                sizes[entry['name']] = size[mine]
                orders = {'most suspicious': -scores[mine], 'smallest': size[mine], 'largest': -size[mine]}
                chosen = {kind: mine[np.argsort(order, kind='stable')][:PER_SHEET] for kind, order in orders.items()}
                tiles = _tiles(coco, shapes, chosen, remarks)
                squares = _squares([tile for of_kind in tiles.values() for tile in of_kind], Path(folder))
                for kind, of_kind in tiles.items():
                    title = f'{entry["name"]}: {kind} first, {len(of_kind)} of {len(mine):,} objects'
                    paths.append(out / f'{number + 1:02d}_{_slug(entry["name"])}_{kind.rpartition(" ")[2]}.png')
                    _sheet(title, str(coco.path), of_kind, squares).save(paths[-1])
            if progress:
                progress(number + 1, len(coco.categories))
        if sizes:
            paths.append(out / 'sizes.png')
            _histogram(sizes, str(coco.path), paths[-1])
    except OSError as error:
        raise InputError(f'{out}: cannot be written: {error.strerror or error}. Give another folder to --show.') from None
    return paths


def suspicion(coco: CocoFile, shapes: MaskShapes) -> tuple[np.ndarray, list[str]]:
    """How suspicious each annotation is, 0 to 1: the largest of four doubts, and that one in words.

    1. ``bbox`` against the box of the mask: 1 - IoU.
    2. ``area`` against the mask's: the share that is missing or too much.
    3. An outline that crosses itself: the share by which that changes the area.
    4. A mask that fills less of its box than the others of its class (a spur, a hole, a part that was forgotten): how far it
       is below the class's median, on a logarithmic scale, 1 at eight median absolute deviations.

    Returns:
        Scores (N,), 0 for a mask that cannot be drawn, and a remark for each.
    """
    if not coco.annotations:
        return np.zeros(0), []
    boxes = np.array([annotation['bbox'] for annotation in coco.annotations], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    given = np.array([annotation['area'] for annotation in coco.annotations], float)
    category = np.array([annotation['category_id'] for annotation in coco.annotations], int)
    sides = shapes.box[:, 2:] - shapes.box[:, :2]
    with np.errstate(divide='ignore', invalid='ignore'):
        overlap = box_iou(boxes, shapes.box)
        nearest = np.clip(given, shapes.least, shapes.most)
        wrong_area = np.abs(given - nearest) / np.maximum(np.abs(given), nearest)
    filled = (shapes.least + shapes.most) / 2 / np.maximum(sides.prod(1), 1)
    lacking, usual = np.zeros(len(given)), np.zeros(len(given))
    for label in np.unique(category):
        mine = shapes.sound & (category == label)
        if mine.any():
            share = np.log(np.maximum(filled[mine], 1e-6))
            middle = np.median(share)
            spread = max(np.median(np.abs(share - middle)), 0.01)  # all the same: rounding is no doubt
            lacking[mine] = np.clip((middle - share) / (_DEVIATIONS * spread), 0, 1)
            usual[mine] = np.exp(middle)
    doubts = np.clip(np.nan_to_num(np.stack([1 - overlap, wrong_area, shapes.crossing, lacking], 1)), 0, 1)
    doubts[~shapes.sound] = 0
    worst = doubts.argmax(1)
    words = (
        lambda i: f'box IoU {overlap[i]:.2f}',
        lambda i: f'area {given[i]:.0f}, mask {nearest[i]:.0f}',
        lambda i: f'crosses itself, {doubts[i, 2]:.0%}',
        lambda i: f'fills {filled[i]:.0%} of its box, usual {usual[i]:.0%}',
    )
    remarks = [words[kind](i) if doubts[i, kind] else '' for i, kind in enumerate(worst)]
    return doubts.max(1), remarks


def _slug(name: str) -> str:
    return re.sub(r'[^\w-]+', '-', name)[:40]


def _tiles(
    coco: CocoFile, shapes: MaskShapes, chosen: Mapping[str, np.ndarray], remarks: Sequence[str]
) -> dict[str, list[Tile]]:
    images = {image['id']: image for image in coco.images}

    def tile(i: int, kind: str) -> Tile:
        annotation = coco.annotations[i]
        remark = remarks[i] if kind == 'most suspicious' else ''
        return Tile(annotation, images[annotation['image_id']], shapes.box[i], remark)

    return {kind: [tile(i, kind) for i in places] for kind, places in chosen.items()}


def _squares(tiles: Sequence[Tile], folder: Path) -> dict[int, Square]:
    """Annotation id to its square; each image is read once."""
    of_image: dict[str, dict[int, Tile]] = {}
    for tile in tiles:
        of_image.setdefault(tile.image['file_name'], {})[tile.annotation['id']] = tile
    found = {}
    for name, wanted in of_image.items():
        picture = read_picture(folder, name)
        found |= {identity: _square(picture, tile) for identity, tile in wanted.items()}
    return found


def read_picture(folder: Path, name: str) -> np.ndarray | None:
    """An image in RGB, 8 bits; None when it cannot be read."""
    import cv2

    try:
        picture = cv2.imdecode(np.frombuffer((folder / name).read_bytes(), np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except (OSError, ValueError, cv2.error):  # not there; a null character in the name; empty or too large
        return None
    if picture is not None and picture.dtype != np.uint8:
        low, high = np.percentile(picture, [0.1, 99.9])
        picture = (np.clip((picture - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _square(picture: np.ndarray | None, tile: Tile) -> Square:
    """A square around mask and ``bbox``, moved into the image where it fits."""
    import cv2

    x, y, width, height = tile.annotation['bbox']
    corners = np.sort([(x, y), (x + width, y + height)], axis=0)  # width and height may be negative
    low, high = np.minimum(tile.box[:2], corners[0]), np.maximum(tile.box[2:], corners[1])
    side = round(max(_AROUND * (high - low).max(), _LEAST_SIDE))
    corner = np.round((low + high - side) / 2).astype(int)
    if picture is None:
        return Square(*corner.tolist(), side, None)
    limits = np.array(picture.shape[1::-1])
    rim = round(side * _RIM)
    # what is larger than the image, or beside it, stays in the middle
    fits = (limits + 2 * rim >= side) & (high > 0) & (low < limits)
    corner = np.where(fits, np.clip(corner, -rim, np.maximum(limits + rim - side, -rim)), corner)
    left, top = corner.tolist()
    pixels = np.full((_TILE, _TILE, 3), _EMPTY, np.uint8)
    x1, y1 = np.maximum(corner, 0).tolist()
    x2, y2 = np.minimum(corner + side, limits).tolist()
    if x2 > x1 and y2 > y1:
        scale = _TILE / side
        columns = slice(round((x1 - left) * scale), round((x2 - left) * scale))
        rows = slice(round((y1 - top) * scale), round((y2 - top) * scale))
        size = columns.stop - columns.start, rows.stop - rows.start
        way = cv2.INTER_NEAREST if scale > _SHARP_FROM else cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        if min(size):
            pixels[rows, columns] = cv2.resize(picture[y1:y2, x1:x2], size, interpolation=way)
    return Square(left, top, side, pixels)


def _mask_on_tile(tile: Tile, square: Square) -> np.ndarray:
    """The object's mask at the tile's resolution: (_TILE, _TILE) uint8, 0 or 1."""
    import cv2
    from pycocotools import mask as coco_mask

    segmentation, mask = tile.annotation['segmentation'], np.zeros((_TILE, _TILE), np.uint8)
    if isinstance(segmentation, list):
        for polygon in segmentation:
            corners = (np.array(polygon, float).reshape(-1, 2) - (square.left, square.top)) * square.scale - 0.5
            part = np.zeros_like(mask)
            cv2.fillPoly(part, [np.round(corners * 2**_SUB_PIXEL_BITS).astype(np.int32)], 1, shift=_SUB_PIXEL_BITS)
            mask |= part
        return mask
    height, width = int(tile.image['height']), int(tile.image['width'])
    rle = segmentation
    if isinstance(rle['counts'], list):
        rle = coco_mask.frPyObjects(rle, height, width)
    left, top = max(square.left, 0), max(square.top, 0)
    right, bottom = min(square.left + square.side, width), min(square.top + square.side, height)
    whole = np.zeros((square.side, square.side), np.uint8)
    if right > left and bottom > top:
        rows = slice(top - square.top, bottom - square.top)
        columns = slice(left - square.left, right - square.left)
        whole[rows, columns] = draw(rle, (left, top, right, bottom))
    return cv2.resize(whole, (_TILE, _TILE), interpolation=cv2.INTER_NEAREST)


def _drawn(tile: Tile, square: Square):
    """The square with ``bbox`` and outline. Both run just outside, so that nothing of the object is covered."""
    import cv2
    from PIL import Image, ImageDraw

    if square.pixels is None:
        missing = Image.new('RGB', (_TILE, _TILE), (_EMPTY, _EMPTY, _EMPTY))
        ImageDraw.Draw(missing).text((20, _TILE // 2 - 8), 'the image cannot be read', font=_font(), fill='white')
        return missing
    picture = square.pixels.copy()
    mask = _mask_on_tile(tile, square)
    rings = [cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))) for r in (2, 3)]
    x, y, width, height = tile.annotation['bbox']
    corners = (
        np.array([(x - square.left, y - square.top), (x + width - square.left, y + height - square.top)]) * square.scale
    )
    # a box far outside costs Pillow time and is not seen; Pillow refuses one of negative width or height
    (x1, y1), (x2, y2) = np.sort(np.clip(np.round(corners), -_TILE, 2 * _TILE).astype(int), axis=0).tolist()
    shown = Image.fromarray(picture)
    pen = ImageDraw.Draw(shown)
    pen.rectangle((x1 - 3, y1 - 3, x2 + 2, y2 + 2), outline='black')
    pen.rectangle((x1 - 2, y1 - 2, x2 + 1, y2 + 1), outline=_BOX, width=2)
    picture = np.array(shown)
    picture[(rings[1] > 0) & (mask == 0)] = 0
    picture[(rings[0] > 0) & (mask == 0)] = _OUTLINE
    return Image.fromarray(picture)


def _sheet(title: str, source: str, tiles: Sequence[Tile], squares: Mapping[int, Square]):
    """One sheet: a title, what the colours mean, and the tiles in rows, each with id, size, image and remark under it."""
    from PIL import Image, ImageDraw

    lines = 3 if any(tile.remark for tile in tiles) else 2
    columns = min(_COLUMNS, max(len(tiles), _LEAST_COLUMNS))
    across, down = _TILE + _GAP, _TILE + _GAP + lines * _LINE
    sheet = Image.new('RGB', (_GAP + columns * across, _HEADER + -(-len(tiles) // columns) * down), 'white')
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), _cut(title, sheet.width - 2 * _GAP, _font(_TITLE_FONT)), font=_font(_TITLE_FONT), fill='black')
    x = _GAP
    for colour, text in ((_OUTLINE, 'mask'), (_BOX, 'bbox')):
        pen.rectangle((x, 45, x + 26, 51), fill=colour, outline='black')
        pen.text((x + 33, 39), text, font=_font(), fill='black')
        x += 33 + round(_font().getlength(text)) + 20
    pen.text((x, 39), _cut(source, sheet.width - x - _GAP, _font()), font=_font(), fill=(90, 90, 90))
    for number, tile in enumerate(tiles):
        left, top = _GAP + number % columns * across, _HEADER + number // columns * down
        sheet.paste(_drawn(tile, squares[tile.annotation['id']]), (left, top))
        width, height = tile.box[2:] - tile.box[:2]
        crowd = ', crowd' if tile.annotation.get('iscrowd') else ''
        name = tile.image['file_name'].replace('\\', '/').rpartition('/')[2]
        words = f'id {tile.annotation["id"]}, {width:.0f}x{height:.0f} px{crowd}', name, tile.remark
        for line, text in enumerate(words[:lines]):
            place = left, top + _TILE + 3 + line * _LINE
            pen.text(place, _cut(text, _TILE, _font()), font=_font(), fill=(160, 50, 0) if line == 2 else (30, 30, 30))
    return sheet


def _font(size: int = _FONT):
    import matplotlib
    from PIL import ImageFont

    # Pillow's own knows Latin alone
    return ImageFont.truetype(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'), size)


def _printable(text: str) -> str:
    """One line, without halves of characters, which a broken export may hold."""
    return ' '.join(text.encode('utf-8', 'replace').decode().split())


def _cut(text: str, width: float, font) -> str:
    """A text that fits: the middle gives way, since file names differ at their ends."""
    text = _printable(text)
    keep, shown = len(text) // 2, text
    while font.getlength(shown) > width and keep > 1:
        keep -= 1
        shown = f'{text[:keep]}…{text[-keep:]}'
    return shown


def _histogram(sizes: Mapping[str, np.ndarray], source: str, path: Path) -> None:
    """A panel a class on one logarithmic axis: how many objects have which size, the square root of the mask's area."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    together = np.concatenate(list(sizes.values()))
    low, high = max(together.min(), 0.5), max(together.max(), 1)
    edges = np.geomspace(low / 1.05, high * 1.05, 31)
    columns = 1 if len(sizes) <= 4 else 3
    rows = -(-len(sizes) // columns)
    shape = (7.2 if columns == 1 else 12, 1.9 * rows + 1.2)
    figure, axes = plt.subplots(rows, columns, figsize=shape, sharex=True, squeeze=False, layout='constrained')
    for axis, (name, values) in zip(axes.flat, sizes.items(), strict=False):
        axis.hist(np.maximum(values, low), edges, color=_BARS, edgecolor='white', linewidth=0.6)
        axis.set_xscale('log')
        name = _printable(name).replace('$', r'\$')  # else matplotlib sets formulas
        axis.set_title(f'{name}: {len(values):,} objects, median {np.median(values):.0f} px', loc='left', fontsize=11)
        axis.set_ylabel('objects')
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.spines[['top', 'right']].set_visible(False)
        for limit in _COCO_SIZES:
            if edges[0] < limit < edges[-1]:
                axis.axvline(limit, color='0.35', linestyle='--', linewidth=1)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in list(axes.flat)[len(sizes) :]:
        axis.set_visible(False)
    small, large = _COCO_SIZES
    words = f"size: square root of the mask's area, px (dashed: COCO's small, under {small}, and large, over {large})"
    figure.supxlabel(words, fontsize=10)
    source = _printable(source)[-70:].replace('$', r'\$')
    figure.suptitle(f'Sizes of the objects in {source}', fontsize=12, x=0.01, ha='left')
    figure.savefig(path, dpi=120)
    plt.close(figure)
