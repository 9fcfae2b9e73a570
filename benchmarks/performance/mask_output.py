"""From a mask head's logits to the RLEs of a metric: ``python benchmarks/performance/mask_output.py``.

Stock is MMDetection's head, which draws each mask into an array of the whole image, and the encoding of its CocoMetric; ours
is the same head with RLEs as its output. The logits are made: ellipses with a ragged rim. Most boxes have sides of 20 to 200
pixels, one in twenty up to 500. Of Mask Scoring R-CNN the scores alone are other than Mask R-CNN's; cascades hand on
probabilities, the mean of their stages. The rows of FCN at three sizes show how memory grows with the image.

With ``--data DIR`` the boxes and classes are those of the objects in DIR's validation images.
"""

import itertools
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.structures.mask import encode_mask_results
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from side_by_side import coco_parts, must_equal, options, side_by_side, write

from mmext.data.coco_file import read_coco
from mmext.metrics.mask_quality import encoded

CLASSES = 3
THRESHOLD = 0.5
# family: its head, side of its grid, whether probabilities are handed on
FAMILIES = {
    'Mask R-CNN': ('FCNMaskHead', 28, False),
    'Mask Scoring R-CNN': ('FCNMaskHead', 28, False),
    'PointRend': ('CoarseMaskHead', 224, False),
    'Cascade Mask R-CNN': ('FCNMaskHead', 28, True),
    'HTC': ('HTCMaskHead', 28, True),
}
# family, detections, height and width, ratio aimed at; a stock call of the largest takes a quarter of a minute
ROWS = [
    ('Mask R-CNN', 100, (1024, 1280), 12),
    ('Mask R-CNN', 100, (2048, 2560), None),
    ('Mask R-CNN', 300, (3000, 4000), 50),
    *((family, 100, (1024, 1280), 12) for family in list(FAMILIES)[1:]),
]
LARGE_ROUNDS = 2
EQUAL = 'RLEs and boxes, all the same to the byte'


def random_boxes(number: int, height: int, width: int) -> np.ndarray:
    """(N, 4) x1 y1 x2 y2 of objects inside of an image; the same sizes whatever the image's."""
    rng = np.random.default_rng(number)
    sides = np.exp(rng.uniform(np.log(20), np.log(200), (number, 2)))
    large = rng.random(number) < 0.05
    sides[large] = rng.uniform(200, 500, (large.sum(), 2))
    corners = rng.random((number, 2)) * (np.array([width, height]) - sides)
    return np.concatenate([corners, corners + sides], 1)


def ellipses(number: int, side: int) -> torch.Tensor:
    """Logits (N, C, side, side), high in ellipses that nearly fill the grid, with noise at the rim."""
    rng = np.random.default_rng(side)
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    axes = rng.uniform(0.6, 1, (2, number, CLASSES, 1, 1))
    values = 4 * (1 - (x / axes[0]) ** 2 - (y / axes[1]) ** 2)
    return torch.from_numpy((values + rng.normal(0, 0.3, values.shape)).astype(np.float32))


class Case:
    """Detections of an image for a head: boxes (N, 4), labels (N,), and made logits or probabilities."""

    def __init__(self, family: str, boxes: np.ndarray, labels: np.ndarray, size: Sequence[int]):
        self.kind, side, self.activated = FAMILIES[family]
        self.boxes, self.labels = torch.tensor(boxes, dtype=torch.float32), torch.from_numpy(labels)
        preds = ellipses(len(boxes), side)
        self.preds = preds.sigmoid() if self.activated else preds
        self.meta = {'ori_shape': tuple(size), 'img_shape': tuple(size), 'scale_factor': (1.0, 1.0)}

    def predict(self, head: torch.nn.Module, preds: torch.Tensor) -> InstanceData:
        found = InstanceData(bboxes=self.boxes.clone(), labels=self.labels)
        test_cfg = ConfigDict(mask_thr_binary=THRESHOLD)
        return head.predict_by_feat([preds], [found], [self.meta], test_cfg, True, self.activated)[0]


def side_of(scope: str, cases: Sequence[Case], calls: int) -> Callable[[], list]:
    """Boxes and RLEs of each case by the heads of one side, to be called so many times."""
    settings = {'num_classes': CLASSES, 'in_channels': 8, 'conv_out_channels': 8, 'num_convs': 1}
    heads = {case.kind: MODELS.build({'type': f'{scope}.{case.kind}', **settings}) for case in cases}

    # made beforehand: heads that write into their logits are given new ones each time, as a RoI head gives them
    given = {
        case: iter([case.preds.clone() for _ in range(calls)])
        if getattr(heads[case.kind], 'logits_are_its_own', False)
        else itertools.repeat(case.preds)
        for case in cases
    }

    def call() -> list:
        found = [case.predict(heads[case.kind], next(given[case])) for case in cases]
        if scope == 'mmext':
            return [(one.bboxes, encoded(one.masks)) for one in found]
        return [(one.bboxes, encode_mask_results(one.masks.detach().cpu().numpy())) for one in found]

    return call


def row(family: str, data: str, cases: Sequence[Case], rounds: int, bound: float | None) -> dict:
    number = sum(len(case.boxes) for case in cases)
    # one to compare, one to measure memory, and the rounds
    stock, ours = (side_of(scope, cases, rounds + 2) for scope in ('mmdet', 'mmext'))
    for theirs, own in zip(stock(), ours(), strict=True):
        must_equal(torch.equal(theirs[0], own[0]) and theirs[1] == own[1], f'{family}, {data}: boxes or RLEs')
    sides = {'stock': stock, 'mmext': ours}
    return side_by_side(f'{family}, {number} masks', data, sides, rounds, EQUAL, bound, memory=True)


def cases_of(folder: Path, images: int = 10) -> list[Case]:
    """The objects of validation images as detections."""
    coco = read_coco(coco_parts(folder)['val'][0])
    places = {name: number for number, name in enumerate(coco.classes)}
    names = {category['id']: category['name'] for category in coco.categories}
    objects = defaultdict(list)
    for one in coco.annotations:
        objects[one['image_id']].append(one)
    cases = []
    for image in itertools.islice((image for image in coco.images if objects[image['id']]), images):
        boxes = np.array([one['bbox'] for one in objects[image['id']]], float)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([places[names[one['category_id']]] % CLASSES for one in objects[image['id']]])
        cases.append(Case('Mask R-CNN', boxes, labels, (image['height'], image['width'])))
    return cases


def main() -> int:
    chosen = options(__doc__, 'mask_output', 5)
    register_all_modules()
    warnings.filterwarnings('ignore', message='To copy construct from a tensor')
    records = []
    for family, number, (height, width), bound in ROWS:
        labels = np.random.default_rng(0).integers(0, CLASSES, number)
        case = Case(family, random_boxes(number, height, width), labels, (height, width))
        rounds = min(chosen.rounds, LARGE_ROUNDS) if number > 100 else chosen.rounds
        records.append(row(family, f'made, {width}x{height}', [case], rounds, bound))
        stock, ours = (side['peak_bytes'] for side in records[-1]['sides'].values())
        words = f'{stock / ours:.0f} times as much' if ours else 'mmext found room in what was held'
        print(f'  most memory: stock {stock / 2**20:.1f} MiB, mmext {ours / 2**20:.1f} MiB: {words}', flush=True)
    if chosen.data:
        records.append(row('Mask R-CNN', chosen.data.name, cases_of(chosen.data), chosen.rounds, None))
    write(records, chosen.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
