"""Large images cut into files of their own to validate on, with what their annotations say there. No torch."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from mmext.analysis.mask_window import draw, encode, to_rle, window_of
from mmext.data.coco_file import CocoFile, has_outline, read_document
from mmext.data.crops import LEAST_SHARE, LEAST_SIDE, even_parts, worth_keeping
from mmext.data.large_image import Window, pixel_windows
from mmext.data.split import MARK, Part
from mmext.errors import InputError

ANNOTATIONS = 'annotations.json'


@dataclass(frozen=True)
class TileFile:
    """A file to be written: ``name``, and the ``window`` of the image ``source`` that it holds."""

    name: str
    source: str
    window: Window


def is_large(coco: CocoFile, side: int) -> bool:
    """Whether an image has a longer side than a tile."""
    return any(max(image['width'], image['height']) > side for image in coco.images)


def tiled_part(part: Part, side: int, folder: Path) -> tuple[Part, list[TileFile]]:
    """A part whose images are cut into even tiles of at most ``side`` pixels, each pixel in one; nothing is written.

    An object is in every tile that has enough of it, by the rule of ``mmext.CropAroundInstance``; what is left in the
    others is a crowd region there (``iscrowd=1``), so that finding it is neither right nor wrong.

    Args:
        folder: where the tiles will be.

    Returns:
        The part, its document at ``folder/annotations.json``; and the tiles.
    """
    coco = part.coco
    of_image: dict[int, list[dict]] = {}
    for one in coco.annotations:
        of_image.setdefault(one['image_id'], []).append(one)
    stems = Counter(_stem(image['file_name']) for image in coco.images)
    images, annotations, files = [], [], []
    for image in coco.images:
        width, height = int(image['width']), int(image['height'])
        columns, rows = even_parts(width, side), even_parts(height, side)
        stem = _stem(image['file_name'])
        stem = stem if stems[stem] == 1 else image['file_name']
        windows = [(x1, y1, x2, y2) for y1, y2 in pairwise(rows) for x1, x2 in pairwise(columns)]
        first = len(images) + 1
        for number, (x1, y1, x2, y2) in enumerate(windows, first):
            name = f'{stem}_{x1}_{y1}.tif'
            images.append({'id': number, 'file_name': name, 'width': x2 - x1, 'height': y2 - y1})
            files.append(TileFile(name, image['file_name'], (x1, y1, x2, y2)))
        for one in of_image.get(image['id'], ()):
            for place, cut in cut_annotation(one, (height, width), windows):
                annotations.append({**cut, 'id': len(annotations) + 1, 'image_id': first + place})
    mark = {'from': part.source.name, 'part': part.name, 'tiles': side}
    document = {MARK: mark, 'images': images, 'annotations': annotations, 'categories': coco.categories}
    path = folder / ANNOTATIONS
    crowds = sum(one['iscrowd'] for one in annotations)
    line = (
        f'  {part.source}: {len(coco.images)} images are cut into {len(images)} tiles of at most {side} px to validate on, '
        f'in {folder}; {crowds} rests of objects at their edges are left out (iscrowd=1).'
    )
    cut_file = CocoFile(path, images, annotations, coco.categories)
    return replace(part, coco=cut_file, folder=folder, document=document, lines=(*part.lines, line)), files


def cut_annotation(annotation: dict, size: tuple[int, int], windows: Sequence[Window]) -> Iterator[tuple[int, dict]]:
    """An annotation in each of the windows that has a pixel of it: the window's place, and the annotation in its pixels.

    What lies within one window keeps its polygons; what is cut becomes an RLE.

    Args:
        size: height and width of the image.
        windows: x1, y1, x2, y2.
    """
    from pycocotools import mask as coco_mask

    if not has_outline(annotation.get('segmentation')):  # a crowd without a mask
        return
    rle = to_rle(annotation['segmentation'], *size)
    if list(rle['size']) != list(size):
        raise InputError(
            f'annotation {annotation.get("id")} has an RLE mask of size {list(rle["size"])} (height, width), but its image '
            f'is {list(size)}. Export the annotations for these very files.'
        )
    area, extent = float(coco_mask.area(rle)), window_of(rle)
    for place, window in enumerate(windows):
        x1, y1, x2, y2 = _common(extent, window)
        if x1 >= x2 or y1 >= y2:
            continue
        tile = window[3] - window[1], window[2] - window[0]
        if (x1, y1, x2, y2) == extent and isinstance(annotation['segmentation'], list):
            segmentation = _moved(annotation['segmentation'], window)
            cut = to_rle(segmentation, *tile)
        else:
            cut = encode(draw(rle, (x1, y1, x2, y2)), x1 - window[0], y1 - window[1], tile)
            segmentation = {'size': cut['size'], 'counts': cut['counts'].decode('ascii')}
        left, box = int(coco_mask.area(cut)), np.array(window_of(cut))
        if not left:
            continue
        stays = worth_keeping(np.array([area]), np.array([left]), box[None], LEAST_SHARE, LEAST_SIDE)[0]
        crowd = annotation.get('iscrowd') or not stays
        bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
        yield place, {**annotation, 'segmentation': segmentation, 'bbox': bbox, 'area': left, 'iscrowd': int(bool(crowd))}


def write_tiles(
    folder: Path, source: Path, files: Sequence[TileFile], progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Write the tiles of images as TIFF, in the depth and with the channels of the image, opacity left out.

    Args:
        folder: of the tiles.
        source: folder of the images.
        files: those of one image together.
        progress: called with (what, done, all).

    Raises:
        InputError: an image that cannot be read.
    """
    import tifffile

    _remove_older(folder, {file.name for file in files})
    opened, read = None, None
    for done, file in enumerate(files, 1):
        if file.source != opened:
            opened, (_, read) = file.source, pixel_windows(source / file.source)
        pixels = read(file.window)
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = pixels.ndim == 3 and pixels.shape[2] == 3
        tifffile.imwrite(
            path,
            pixels.astype(np.uint8) * np.uint8(255) if pixels.dtype == bool else np.ascontiguousarray(pixels),
            photometric='rgb' if colours else 'minisblack',
            planarconfig='contig' if pixels.ndim == 3 else None,
            compression='zlib',
            metadata=None,
        )
        if progress:
            progress('tiles to validate on', done, len(files))


def _remove_older(folder: Path, kept: set[str]) -> None:
    """Remove the tiles of an earlier time, by the annotations beside them."""
    if (folder / ANNOTATIONS).exists():
        for image in read_document(folder / ANNOTATIONS)['images']:
            if image['file_name'] not in kept:
                (folder / image['file_name']).unlink(missing_ok=True)


def _stem(file_name: str) -> str:
    return Path(file_name).with_suffix('').as_posix()


def _common(one: Window, other: Window) -> Window:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _moved(polygons: list, window: Window) -> list:
    """Polygons in the pixels of a window."""
    return [[round(value - window[place % 2], 3) for place, value in enumerate(polygon)] for polygon in polygons]
