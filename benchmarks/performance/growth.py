"""How time and memory grow with objects and image size: ``python benchmarks/performance/growth.py [--out FILE]``.

Loading and resizing annotations (as polygons and as RLE), mask targets (one RoI an object), masks of predictions and the
file checks of `mmext check`: with 10 to 1,000 objects in an image of 2048 x 2048, and with 100 objects in images of 512 to
8192 pixels a side, 40 to 80 px each. No picture is read: decoding follows the pixels whatever is done with the masks. The
exponent is the slope in log-log over the upper half, where what is fixed counts no longer. Writes
``docs/images/growth.png``; exit code 1 when an exponent is above 1.15: one is linear.
"""

import argparse
import json
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, TRANSFORMS
from pycocotools import mask as coco_mask
from side_by_side import machine, peak_bytes

from mmext.data.coco_file import read_coco
from mmext.data.file_checks import check_file
from mmext.data.mask_checks import check_masks

HERE = Path(__file__).resolve().parent
FIGURE = HERE.parents[1] / 'docs' / 'images' / 'growth.png'
OBJECTS, SIDE = (10, 30, 100, 300, 1000), 2048
SIDES, NUMBER = (512, 1024, 2048, 4096, 8192), 100
MOST = 1.15  # 1 is linear; a fit over few points on a busy machine is that much off
REPEATS = 5
# what is below is a matter of pages that the process had already
_LEAST = {'seconds': 0, 'peak_bytes': 2**16}


def outlines(number: int, side: int, seed: int = 0) -> list[list[float]]:
    """Polygons of 24 points, 40 to 80 px across, anywhere in the image."""
    rng = np.random.default_rng([seed, number, side])
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = rng.uniform(20, 40, (number, 1)) * rng.uniform(0.8, 1, (number, 24))
    centres = rng.uniform(40, side - 40, (number, 1, 2))
    points = centres + radii[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    return np.round(points, 2).reshape(number, -1).tolist()


def boxes_of(polygons: list[list[float]]) -> np.ndarray:
    points = np.array(polygons, np.float32).reshape(len(polygons), -1, 2)
    return np.concatenate([points.min(1), points.max(1)], 1)


def steps(number: int, side: int, folder: Path) -> dict[str, Callable[[], object]]:
    """The steps that are measured, ready to call."""
    polygons = outlines(number, side)
    rles = [coco_mask.merge(coco_mask.frPyObjects([polygon], side, side)) for polygon in polygons]
    rles = [{**rle, 'counts': rle['counts'].decode()} for rle in rles]  # as a JSON file has it
    boxes = boxes_of(polygons)
    load = TRANSFORMS.build({'type': 'mmext.LoadInstanceMasks'})

    def loaded(masks: list):
        instances = [
            {'bbox': box.tolist(), 'bbox_label': 0, 'mask': mask, 'ignore_flag': 0}
            for box, mask in zip(boxes, masks, strict=True)
        ]
        found = load({'ori_shape': (side, side), 'img_shape': (side, side), 'instances': instances, 'img_id': 1})
        return found['gt_masks'].resize((side * 3 // 4, side * 3 // 4))

    as_polygons, as_rle = loaded([[polygon] for polygon in polygons]), loaded(rles)
    rois, inds = boxes * 0.75, np.arange(number)
    head = MODELS.build({'type': 'mmext.FCNMaskHead', 'num_convs': 0, 'in_channels': 8, 'num_classes': 1})
    torch.manual_seed(0)
    logits, found_boxes = torch.randn(number, 1, 28, 28), torch.from_numpy(boxes)
    meta = {'scale_factor': (1.0, 1.0), 'ori_shape': (side, side)}
    test_cfg = ConfigDict(mask_thr_binary=0.5)
    file = folder / f'{number}_{side}.json'
    annotations = [
        {
            'id': place + 1,
            'image_id': 1,
            'category_id': 1,
            'segmentation': [polygon],
            'bbox': [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            'area': int(coco_mask.area(rle)),
            'iscrowd': 0,
        }
        for place, (polygon, rle, box) in enumerate(zip(polygons, rles, boxes, strict=True))
    ]
    images = [{'id': 1, 'file_name': 'one.png', 'width': side, 'height': side}]
    categories = [{'id': 1, 'name': 'object'}]
    file.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))
    return {
        'annotations, polygons': lambda: loaded([[polygon] for polygon in polygons]),
        'annotations, RLE': lambda: loaded(rles),
        'mask targets, polygons': lambda: as_polygons.crop_and_resize(rois.copy(), (28, 28), inds, 'cpu'),
        'mask targets, RLE': lambda: as_rle.crop_and_resize(rois.copy(), (28, 28), inds, 'cpu'),
        'masks of predictions': lambda: head._predict_by_feat_single(
            logits, found_boxes.clone(), torch.zeros(number, dtype=torch.long), meta, test_cfg, True
        ),
        'check of the files': lambda: (check_file(file, folder, 'train', None), check_masks(read_coco(file), 'train')),
    }


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Slope of the upper half of a curve in log-log."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9)), 1)[0])


def curve(pairs: list[tuple[int, int]], folder: Path) -> dict[str, dict[str, list[float]]]:
    """Least seconds and peak bytes of each step at each size."""
    found: dict[str, dict[str, list[float]]] = {}
    for number, side in pairs:
        for name, call in steps(number, side, folder).items():
            call()
            peak = peak_bytes(call)
            # timeit keeps Python's collector of cycles out: it walks through all that the imports have made
            times = timeit.repeat(call, number=1, repeat=REPEATS)
            row = found.setdefault(name, {'seconds': [], 'peak_bytes': []})
            row['seconds'].append(min(times))
            row['peak_bytes'].append(peak)
    return found


def draw(curves: dict[str, dict], out: Path) -> None:
    """Two rows, time and memory; a column against objects, one against the image's side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout='constrained')
    panels = figure.subplots(2, 2, sharey='row')
    for column, (axis, sizes) in enumerate(
        (('objects in 2048 x 2048', OBJECTS), ('side of the image, px; 100 objects', SIDES))
    ):
        for row, (key, label, unit) in enumerate(
            (('seconds', 'time, ms', 1e-3), ('peak_bytes', 'extra memory, MiB', 2**20))
        ):
            panel = panels[row, column]
            for name, values in curves[axis].items():
                slopes = ', '.join(f'{of_axis[name]["exponent"]:.2f}' for of_axis in curves.values())
                entry = f'{name} ({slopes})' if row == column == 0 else None
                panel.plot(sizes, np.maximum(values[key], _LEAST[key]) / np.float64(unit), marker='o', ms=3, label=entry)
            panel.set(xscale='log', yscale='log', xlabel=axis, ylabel=label if not column else None)
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    title = 'in brackets the exponents of time: against objects, against the side'
    figure.legend(loc='outside upper center', ncols=3, fontsize=8, title=title, title_fontsize=8)
    figure.savefig(out, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, help='taken by all scripts of this folder; this one makes its own data')
    parser.add_argument('--out', type=Path, default=HERE / 'growth.json')
    parser.add_argument('--figure', type=Path, default=FIGURE)
    chosen = parser.parse_args()
    register_all_modules(init_default_scope=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        curves = {
            'objects in 2048 x 2048': curve([(number, SIDE) for number in OBJECTS], folder),
            'side of the image, px; 100 objects': curve([(NUMBER, side) for side in SIDES], folder),
        }
    too_steep = []
    for axis, sizes in zip(curves, (OBJECTS, SIDES), strict=True):
        print(axis)
        for name, row in curves[axis].items():
            row['exponent'] = exponent(sizes, row['seconds'])
            times = ', '.join(f'{seconds * 1e3:.3g}' for seconds in row['seconds'])
            peaks = ', '.join(f'{peak / 2**20:.1f}' for peak in row['peak_bytes'])
            print(f'  {name}: exponent {row["exponent"]:.2f}; {times} ms; {peaks} MiB')
            if row['exponent'] > MOST:
                too_steep.append(f'{name} against {axis}: {row["exponent"]:.2f}')
    draw(curves, chosen.figure)
    record = {'machine': machine(), 'sizes': {'objects': OBJECTS, 'sides': SIDES}, 'curves': curves}
    chosen.out.write_text(json.dumps(record, indent=1) + '\n')
    if too_steep:
        print(f'Above linear: {"; ".join(too_steep)}')
    return 1 if too_steep else 0


if __name__ == '__main__':
    sys.exit(main())
