"""Assigning objects to the RPN's anchors, MMDetection's MaxIoUAssigner and mmext's.

``python benchmarks/performance/rpn_assignment.py [--rounds 5] [--data DIR] [--out FILE]``

Anchors of Mask R-CNN R50-FPN for a whole image; objects with sides of 20 to 200 pixels. The last made row is the whole
computation of the RPN's targets for two images. With ``--data`` the objects of that folder's first training images.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData
from side_by_side import coco_parts, must_equal, options, side_by_side, write

import mmext

SIDES = {'MMDetection': 'MaxIoUAssigner', 'mmext': 'mmext.MaxIoUAssigner'}
EQUAL = 'gt_inds, max_overlaps and labels of every anchor, to the bit'
SIZE = (800, 1088)
OBJECTS = (10, 30, 100, 300)
LEAST, MOST = 20, 200
GOAL = {30: 5}
# long edge, short edge: MMDetection's test and train size
SCALE = (1333, 800)
IMAGES = 8


def made_boxes(number: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Boxes (number, 4) in an image of height x width; sides are even in their logarithms."""
    rng = torch.Generator().manual_seed(seed)
    sides = LEAST * (MOST / LEAST) ** torch.rand(number, 2, generator=rng)
    room = torch.tensor(size[::-1]) - sides
    corners = torch.rand(number, 2, generator=rng) * room
    return torch.cat([corners, corners + sides], 1)


def instances(boxes: torch.Tensor) -> InstanceData:
    return InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))


def feature_sizes(head, size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-size[0] // y), -(-size[1] // x)) for x, y in head.prior_generator.strides]


def anchors_of(head, size: tuple[int, int]) -> torch.Tensor:
    return torch.cat(head.prior_generator.grid_priors(feature_sizes(head, size), device='cpu'))


def read_objects(folder: Path) -> list[tuple[tuple[int, int], torch.Tensor]]:
    """Height and width after the resize, and boxes, of the first training images that have objects."""
    file, _ = coco_parts(folder)['train']
    content = json.loads(file.read_text())
    boxes: dict[int, list] = {}
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        boxes.setdefault(annotation['image_id'], []).append([x, y, x + width, y + height])
    found = []
    for image in content['images']:
        if image['id'] in boxes and len(found) < IMAGES:
            edges = (image['height'], image['width'])
            scale = min(SCALE[0] / max(edges), SCALE[1] / min(edges))
            found.append((tuple(round(edge * scale) for edge in edges), torch.tensor(boxes[image['id']]) * scale))
    return found


def same(one, other) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ('gt_inds', 'max_overlaps', 'labels'))


def assignment_row(assigners: dict, data: str, images: list[tuple], rounds: int, bound: float | None) -> dict:
    """Assign the objects of each image to its anchors."""
    given = [(InstanceData(priors=anchors), instances(boxes)) for anchors, boxes in images]
    for priors, truth in given:
        found = [assigner.assign(priors, truth) for assigner in assigners.values()]
        must_equal(same(*found), f'the assignment of {data}')

    def all_of(assigner) -> Callable[[], object]:
        return lambda: [assigner.assign(*one) for one in given][-1]

    sides = {name: all_of(assigner) for name, assigner in assigners.items()}
    return side_by_side("objects to the RPN's anchors", data, sides, rounds, EQUAL, bound, memory=True)


def target_row(heads: dict, objects: int, rounds: int) -> dict:
    """Anchors, their flags, assignment, sample and targets of a batch of two images."""
    metas = [{'img_shape': SIZE, 'pad_shape': SIZE}] * 2
    truth = [instances(made_boxes(objects, SIZE, number)) for number in range(2)]

    def targets_of(head) -> Callable[[], tuple]:
        sizes = feature_sizes(head, SIZE)

        def targets() -> tuple:
            torch.manual_seed(0)
            return head.get_targets(*head.get_anchors(sizes, metas, device='cpu'), truth, metas)

        return targets

    sides = {name: targets_of(head) for name, head in heads.items()}
    (*stock, stock_samples), (*ours, our_samples) = (targets() for targets in sides.values())
    equal = all(torch.equal(one, other) for pair in zip(stock, ours, strict=True) for one, other in zip(*pair, strict=True))
    must_equal(equal and stock_samples == our_samples, "the RPN's targets")
    words = 'labels, box targets and their weights of all anchors, to the bit'
    data = f'2 images of {SIZE[0]} x {SIZE[1]}, {objects} objects each'
    return side_by_side("all targets of the RPN's losses", data, sides, rounds, words, memory=True)


def main() -> int:
    warnings.simplefilter('ignore')
    settings = options(__doc__, 'rpn_assignment', 5)
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r50_fpn_finetune')).model
    heads = {}
    for name, kind in SIDES.items():
        train_cfg = {**cfg.train_cfg.rpn, 'assigner': {**cfg.train_cfg.rpn.assigner, 'type': kind}}
        heads[name] = MODELS.build({**cfg.rpn_head, 'num_classes': 1, 'train_cfg': train_cfg})
    assigners = {name: TASK_UTILS.build(dict(head.train_cfg['assigner'])) for name, head in heads.items()}
    head = heads['mmext']
    anchors, records = anchors_of(head, SIZE), []
    for number in OBJECTS:
        data = f'made, {len(anchors):,} anchors, {number} objects'
        images = [(anchors, made_boxes(number, SIZE, number))]
        records.append(assignment_row(assigners, data, images, settings.rounds, GOAL.get(number)))
    records.append(target_row(heads, 30, settings.rounds))
    if settings.data:
        images = [(anchors_of(head, size), boxes) for size, boxes in read_objects(settings.data)]
        records.append(assignment_row(assigners, settings.data.resolve().name, images, settings.rounds, None))
    write(records, settings.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
