"""Reading training images: MMDetection's LoadAnnotations, with bitmaps and with polygons, and mmext.LoadInstanceMasks.

``python benchmarks/performance/train_pipeline.py [--rounds 5] [--data DIR] [--out FILE]``

Reads, resizes to 1333x800, flips and packs a few images in one thread. The annotations of a folder as four files: polygons
only; every mask as an RLE; every second one; polygons and one crowd region in each image. MMDetection's polygons are a side
of the first alone: it makes every RLE an ignore region. Reading the image is the same for all, and the most of what is left.
"""

import copy
import json
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from made import write_large
from mmdet.structures.mask import BaseInstanceMasks, PolygonMasks
from mmdet.utils import register_all_modules
from mmengine.registry import DATASETS
from pycocotools import mask as coco_mask
from side_by_side import coco_parts, must_equal, options, side_by_side, write

from mmext.data.demo import write_part
from mmext.structures import WindowMasks

IMAGES = 8
STOCK = {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}
SIDES = {
    'MMDetection, bitmaps': ('CocoDataset', {**STOCK, 'poly2mask': True}),
    'MMDetection, polygons': ('CocoDataset', {**STOCK, 'poly2mask': False}),
    'mmext': ('mmext.CocoInstanceDataset', {'type': 'mmext.LoadInstanceMasks'}),
}
KINDS = ('polygons', 'RLE', 'half RLE', 'polygons and a crowd')
EQUAL = 'images, boxes, labels, ignore regions, masks of every image'
GOAL = 8
# in the second there are few objects in a small image, and little to win beside reading it
LARGE, SMALL = 'made 1280x1024', 'demo 256x256'


def as_jpeg(file: Path) -> None:
    """Write the images of a COCO file anew as a camera does: reading PNG would take longer than all else together."""
    content = json.loads(file.read_text())
    for image in content['images']:
        picture, name = cv2.imread(str(file.parent / image['file_name'])), Path(image['file_name']).with_suffix('.jpg').name
        cv2.imwrite(str(file.parent / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        image['file_name'] = name
    file.write_text(json.dumps(content))


def first_images(file: Path) -> dict:
    """A COCO file of its first images that have objects, and these."""
    content = json.loads(file.read_text())
    filled = {annotation['image_id'] for annotation in content['annotations']}
    content['images'] = [image for image in content['images'] if image['id'] in filled][:IMAGES]
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [annotation for annotation in content['annotations'] if annotation['image_id'] in kept]
    return content


def as_kind(content: dict, kind: str) -> dict:
    """A copy whose masks are of this kind."""
    content = copy.deepcopy(content)
    images = {image['id']: image for image in content['images']}
    seen: set[int] = set()
    for number, annotation in enumerate(content['annotations']):
        crowd = kind == KINDS[3] and annotation['image_id'] not in seen
        seen.add(annotation['image_id'])
        if crowd or kind == KINDS[1] or (kind == KINDS[2] and number % 2):
            size = images[annotation['image_id']]['height'], images[annotation['image_id']]['width']
            rle = coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], *size))
            annotation['segmentation'] = {'size': list(size), 'counts': rle['counts'].decode()}
            annotation['iscrowd'] = int(crowd)
    return content


def read_all(dataset) -> list[dict]:
    """Every image, flipped or not as in any other call."""
    np.random.seed(0)
    return [dataset[place] for place in range(len(dataset))]


def data_sets(content: dict, images: Path, folder: Path) -> dict:
    """Name of a side to its data set."""
    file = folder / 'annotations.json'
    file.write_text(json.dumps(content))
    found = {}
    for name, (kind, loader) in SIDES.items():
        pipeline = [
            {'type': 'LoadImageFromFile'},
            loader,
            {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True},
            {'type': 'RandomFlip', 'prob': 0.5},
            {'type': 'PackDetInputs'},
        ]
        cfg = {'type': kind, 'ann_file': str(file), 'data_prefix': {'img': str(images)}, 'pipeline': pipeline}
        cfg['metainfo'] = {'classes': tuple(category['name'] for category in content['categories'])}
        found[name] = DATASETS.build(cfg)
    return found


def same_masks(one: BaseInstanceMasks, other: BaseInstanceMasks) -> bool:
    if isinstance(one, PolygonMasks) and isinstance(other, PolygonMasks):
        pairs = zip(one.masks, other.masks, strict=True)
        return all(np.array_equal(a, b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))
    return np.array_equal(one.to_ndarray(), other.to_ndarray())


def same(one: dict, other: dict) -> bool:
    found = torch.equal(one['inputs'], other['inputs'])
    for name in ('gt_instances', 'ignored_instances'):
        mine, theirs = (getattr(side['data_samples'], name) for side in (one, other))
        found &= torch.equal(mine.bboxes.tensor, theirs.bboxes.tensor) and torch.equal(mine.labels, theirs.labels)
        found &= same_masks(mine.masks, theirs.masks)
    return found


def size_of(masks: BaseInstanceMasks) -> int:
    """Bytes of the masks of an image."""
    if isinstance(masks, PolygonMasks):
        return sum(part.nbytes for parts in masks.masks for part in parts)
    return sum(window.pixels.nbytes for window in masks.windows) if isinstance(masks, WindowMasks) else masks.masks.nbytes


def row(data: str, kind: str, content: dict, images: Path, folder: Path, rounds: int) -> dict:
    sets = data_sets(as_kind(content, kind), images, folder)
    if kind != KINDS[0]:
        del sets['MMDetection, polygons']
    bitmaps, *_, ours = (read_all(one) for one in sets.values())
    reference = read_all(sets['MMDetection, polygons']) if kind == KINDS[0] else bitmaps
    must_equal(all(map(same, ours, reference)), f'{data}, {kind}: images, boxes or masks differ from those of MMDetection')
    number = sum(len(one['data_samples'].gt_instances) for one in bitmaps)
    must_equal(number == sum(len(one['data_samples'].gt_instances) for one in ours), f'{data}, {kind}: instances are lost')
    sizes = {
        name: sum(size_of(one['data_samples'].gt_instances.masks) for one in read_all(dataset)) // number
        for name, dataset in sets.items()
    }
    print(f'gt_masks, {data}, {kind}: ' + ', '.join(f'{size:,} bytes an object {name}' for name, size in sizes.items()))
    record = side_by_side(
        f'read {len(bitmaps)} training images, {kind}',
        f'{data}, {number / len(bitmaps):.0f} objects an image',
        {name: lambda dataset=dataset: read_all(dataset) for name, dataset in sets.items()},
        rounds,
        EQUAL,
        GOAL,
        memory=True,
    )
    return {**record, 'bytes_of_an_object': sizes}


def main() -> int:
    args = options(__doc__, 'train_pipeline', rounds=5)
    warnings.filterwarnings('ignore')
    register_all_modules()
    # as in a worker of the data loader
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        list(write_part(folder / 'demo', IMAGES, (0, 0)))
        as_jpeg(write_large(folder / 'large', IMAGES, (0, 1)))
        sources = {
            LARGE: (folder / 'large' / 'annotations.json', folder / 'large'),
            SMALL: (folder / 'demo' / 'annotations.json', folder / 'demo'),
        }
        if args.data:
            sources[args.data.name] = coco_parts(args.data)['train']
        for data, (file, images) in sources.items():
            content = first_images(file)
            records += [row(data, kind, content, images.resolve(), folder, args.rounds) for kind in KINDS]
    write(records, args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
