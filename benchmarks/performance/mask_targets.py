"""Mask targets of one image: crop_and_resize of MMDetection's BitmapMasks, of its PolygonMasks, and of mmext.WindowMasks.

``python benchmarks/performance/mask_targets.py [--rounds 7] [--data DIR] [--out FILE]``

128 positive RoIs on the first 20 objects of an image of about 1000x800, as the training pipeline gives it: each is the box
of an object, moved by up to a tenth of its size. Polygons are MMDetection's own, which mmext.LoadInstanceMasks keeps.
They are drawn in the grid of the RoI, bitmaps and windows are resized to it, so each has its own equal.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from made import write_large
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from pycocotools import mask as coco_mask
from side_by_side import coco_parts, must_equal, options, side_by_side, write

from mmext.structures import WindowMasks

GRIDS = (14, 28, 56)
OBJECTS, ROIS = 20, 128
SCALE = (1333, 800)
POLYGONS, WINDOWS = 40, 20


def first_image(file: Path) -> tuple[PolygonMasks, WindowMasks]:
    """The objects of the first image that has as many as are wanted, else of the fullest, after the pipeline's resize."""
    content = json.loads(file.read_text())
    objects: dict[int, list] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        objects[annotation['image_id']].append([np.array(part, float) for part in annotation['segmentation']])
    full = (image for image in content['images'] if len(objects[image['id']]) >= OBJECTS)
    image = next(full, max(content['images'], key=lambda image: len(objects[image['id']])))
    size, polygons = (image['height'], image['width']), objects[image['id']][:OBJECTS]
    rles = [coco_mask.merge(coco_mask.frPyObjects(parts, *size)) for parts in polygons]
    masks = PolygonMasks(polygons, *size), WindowMasks.from_rles(rles, *size)
    return tuple(one.rescale(SCALE) for one in masks)


def positive_rois(masks: WindowMasks, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (128, 4), clipped to the image, the objects' own first, and the object of each."""
    rng = np.random.default_rng(seed)
    boxes = masks.get_bboxes('hbox').tensor.numpy()
    owners = np.concatenate([np.arange(len(masks)), rng.integers(0, len(masks), ROIS)])[:ROIS]
    sides = np.tile(boxes[owners, 2:] - boxes[owners, :2], 2)
    rois = boxes[owners] + rng.uniform(-0.1, 0.1, (ROIS, 4)) * sides * (np.arange(ROIS) >= len(masks))[:, None]
    return np.clip(rois, 0, [masks.width, masks.height] * 2).astype(np.float32), owners


def rows(data: str, file: Path, rounds: int) -> list[dict]:
    polygons, windows = first_image(file)
    bitmaps = BitmapMasks(windows.to_ndarray(), windows.height, windows.width)
    rois, owners = positive_rois(windows, 0)
    data = f'{data}, {len(windows)} objects in {windows.width}x{windows.height}'
    records = []
    for side in GRIDS:
        grid = (side, side)

        def targets(masks, grid=grid, **kwargs) -> np.ndarray:
            return masks.crop_and_resize(rois, grid, owners, **kwargs).to_ndarray()

        must_equal(np.array_equal(targets(windows), targets(bitmaps)), f'{data}: targets of {side}x{side}')
        soft = targets(windows, binarize=False), targets(bitmaps, binarize=False)
        must_equal(np.array_equal(*soft), f'{data}: soft targets of {side}x{side}')
        stock = {'MMDetection, bitmaps': lambda targets=targets: targets(bitmaps)}
        for kind, name, masks, equal, bound in (
            ('RLE', 'mmext, windows', windows, 'targets and soft targets, to the bit', WINDOWS),
            ('polygons', "mmext, MMDetection's polygons", polygons, 'the code of MMDetection for polygons itself', POLYGONS),
        ):
            sides = {**stock, name: lambda targets=targets, masks=masks: targets(masks)}
            row = f'{ROIS} targets of {side}x{side}, {kind}'
            records.append(side_by_side(row, data, sides, rounds, equal, bound, memory=True))
    soft = {
        name: lambda masks=masks: masks.crop_and_resize(rois, (28, 28), owners, binarize=False)
        for name, masks in (('MMDetection, bitmaps', bitmaps), ('mmext, windows', windows))
    }
    records.append(
        side_by_side(f'{ROIS} soft targets of 28x28, RLE', data, soft, rounds, 'soft targets, to the bit', None, memory=True)
    )
    return records


def main() -> int:
    args = options(__doc__, 'mask_targets', rounds=7)
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sources = {'made': write_large(Path(folder), 1, (0, 1))}
        if args.data:
            sources[args.data.name] = coco_parts(args.data)['train'][0]
        records = [record for data, file in sources.items() for record in rows(data, file, args.rounds)]
    write(records, args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
