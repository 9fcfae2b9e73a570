"""MMDetection's assignment of objects to anchors, without the IoU of every object with every anchor.

Shape letters: G objects, A priors (anchors or proposals), K blocks of S consecutive priors, P pairs of an object and a
block, N pairs of an object and a prior.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmdet.models.task_modules import MaxIoUAssigner as StockMaxIoUAssigner
from mmdet.models.task_modules.assigners import AssignResult, BboxOverlaps2D
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from mmext.registry import TASK_UTILS

# Anchors stand row by row, some to a place, so that a block is a strip of a row. Longer ones reach further past an object,
# shorter ones cost more to look at than they save: from 16 to 128 the time differs little.
_BLOCK = 32
# pairs of an object and a block computed at once: the intermediate results stay in a core's cache; a GPU wants more at once
_PAIRS, _PAIRS_OF_GPU = 2048, 2**16
# pairs of an object and a block that are held against each other at once, at a byte for each of four sides
_COMPARED = 2**22
# Pairs of an object and a prior up to which a GPU does as MMDetection, in fewer steps. A pair takes 44 bytes at the peak of
# bbox_overlaps, so that is at most 0.7 GB; 60 objects in an image of 1333 x 800 stay below.
_DENSE_ON_GPU = 2**24
# of MMDetection's bbox_overlaps
_LEAST_AREA = 1e-6


@dataclass(frozen=True)
class Blocks:
    """Priors in blocks of neighbours; the last block is filled up with copies of the last prior.

    Attributes:
        sides: x1, y1, x2, y2, each (K, S).
        areas: (K, S).
        hulls: (4, K), x1, y1, x2, y2 of the smallest box that holds the block.
    """

    sides: tuple[Tensor, ...]
    areas: Tensor
    hulls: Tensor


@dataclass(frozen=True)
class Matches:
    """What an assignment needs of all IoUs.

    Attributes:
        highest: (A,) highest IoU of each prior with any object, -1 where it is ignored.
        best: (G,) highest IoU of each object with any prior that is not ignored, 0 without one.
        objects, priors, ious: (N,) pairs whose IoU reaches the threshold, or is above 0 and the object's best.
    """

    highest: Tensor
    best: Tensor
    objects: Tensor
    priors: Tensor
    ious: Tensor


def in_blocks(priors: Tensor) -> Blocks:
    """Priors (A, 4), A > 0, x1 y1 x2 y2, in blocks."""
    padded = priors.new_empty(4, -(-len(priors) // _BLOCK) * _BLOCK)
    padded[:, : len(priors)] = priors.T
    padded[:, len(priors) :] = priors[-1:].T
    planes = padded.view(4, -1, _BLOCK)
    x1, y1, x2, y2 = planes
    hulls = torch.cat([planes[:2].amin(2), planes[2:].amax(2)])
    return Blocks((x1, y1, x2, y2), areas(x1, y1, x2, y2), hulls)


def areas(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
    """Areas of boxes, negative where one side is."""
    return (x2 - x1) * (y2 - y1)


def touching_overlaps(boxes: Tensor, blocks: Blocks, over: str = 'union') -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Overlaps of boxes with the priors of the blocks that they touch, to the bit those that MMDetection's ``bbox_overlaps``
    gives; everywhere else it gives 0.

    Args:
        boxes: (G, 4), x1 y1 x2 y2.
        blocks: of the priors.
        over: what the area in common is divided by: ``'union'``, ``'box'`` or ``'prior'``.

    Yields:
        In the order of the boxes, some at a time: number of the box (P,), number of the block (P,), overlaps (P, S).
    """
    x1, y1, x2, y2 = boxes.T[:, :, None]
    box_areas = areas(x1, y1, x2, y2)
    for pairs in _touching_pairs(boxes, blocks):
        box, block = pairs.unbind(1)
        left, top, right, bottom = (side[block] for side in blocks.sides)
        width = torch.minimum(right, x2[box]).sub_(torch.maximum(left, x1[box])).clamp_(min=0)
        height = torch.minimum(bottom, y2[box]).sub_(torch.maximum(top, y1[box])).clamp_(min=0)
        common = width.mul_(height)
        if over == 'union':
            divisor = (box_areas[box] + blocks.areas[block]).sub_(common)
        else:
            divisor = box_areas[box] if over == 'box' else blocks.areas[block]
        yield box, block, common.div_(divisor.clamp(min=_LEAST_AREA))


def _touching_pairs(boxes: Tensor, blocks: Blocks) -> Iterator[Tensor]:
    """Numbers of the boxes and of the blocks that they touch, (P, 2), in the order of the boxes."""
    at_once = _PAIRS if boxes.device.type == 'cpu' else _PAIRS_OF_GPU
    left, top, right, bottom = blocks.hulls
    some = max(1, _COMPARED // len(left))
    for first in range(0, len(boxes), some):
        x1, y1, x2, y2 = boxes[first : first + some].T[:, :, None]
        touching = ((left < x2) & (right > x1) & (top < y2) & (bottom > y1)).nonzero()
        touching[:, 0] += first
        yield from touching.split(at_once)


def ignored_priors(regions: Tensor, blocks: Blocks, threshold: float, over: str) -> Tensor:
    """Whether the overlap of a prior with an ignore region (R, 4) is above a threshold of 0 or more; (K, S) bool."""
    ignored = torch.zeros_like(blocks.areas, dtype=torch.bool)
    for _, block, overlaps in touching_overlaps(regions, blocks, over):
        row, place = (overlaps > threshold).nonzero(as_tuple=True)
        ignored[block[row], place] = True
    return ignored


def find_matches(objects: Tensor, blocks: Blocks, number: int, threshold: float, ignored: Tensor | None) -> Matches:
    """IoUs of objects with priors, as far as they decide.

    Args:
        objects: (G, 4), x1 y1 x2 y2.
        blocks: of the priors.
        number: of priors.
        threshold: IoU above 0 from which on a pair is kept in any case.
        ignored: (K, S) bool, priors that no object has an overlap with.
    """
    highest = torch.zeros_like(blocks.areas)
    best = objects.new_zeros(len(objects))
    pairs, values = [objects.new_zeros((0, 2), dtype=torch.long)], [objects.new_zeros(0)]
    for box, block, ious in touching_overlaps(objects, blocks):
        if ignored is not None:
            ious.masked_fill_(ignored[block], -1)
        highest.scatter_reduce_(0, block[:, None].expand_as(ious), ious, 'amax')
        rows = ious.amax(1)
        best.scatter_reduce_(0, box, rows, 'amax')
        # most rows end here; a later piece may still outdo what is kept
        kept = ((rows >= threshold) | ((rows == best[box]) & (rows > 0))).nonzero()[:, 0]
        box, block, ious = box[kept], block[kept], ious[kept]
        row, place = ((ious >= threshold) | (ious == best[box, None])).nonzero(as_tuple=True)
        pairs.append(torch.stack([box[row], block[row] * _BLOCK + place], 1))
        values.append(ious[row, place])
    if ignored is not None:
        highest.masked_fill_(ignored, -1)
    (box, prior), iou = torch.cat(pairs).T, torch.cat(values)
    there = (prior < number) & ((iou >= threshold) | (iou == best[box]))
    return Matches(highest.view(-1)[:number], best, box[there], prior[there], iou[there])


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def is_worth_it(device: str, pairs: int) -> bool:
    """Whether blocks of priors pay for so many pairs of an object and a prior on a device: ``'cpu'``, ``'cuda'``."""
    return device == 'cpu' or (device == 'cuda' and pairs > _DENSE_ON_GPU)


@TASK_UTILS.register_module()
class MaxIoUAssigner(StockMaxIoUAssigner):
    """MMDetection's MaxIoUAssigner: the same result to the bit, many times faster on a CPU, in a fraction of the memory.

    ``model.train_cfg.rpn.assigner.type='mmext.MaxIoUAssigner'``; arguments are MMDetection's. Most anchors overlap no
    object: blocks of anchors that follow one another are held against the objects first, and an IoU is computed only where
    the two touch. Priors in any order get the same result; it is fast where neighbours follow one another.

    On a GPU MMDetection's own way is taken for up to 16 million pairs of an object and a prior, 60 objects in an image of
    1333 x 800, and this one beyond: memory does not grow with objects x priors, and nothing is moved to the CPU, whatever
    ``gpu_assign_thr`` is.

    MMDetection's own way is taken for an ``iou_calculator`` other than BboxOverlaps2D in full precision, with
    ``perm_repeat_gt_cfg``, and for thresholds that an IoU of 0 passes (``pos_iou_thr`` of 0, ``min_pos_iou`` below 0).
    """

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs) -> AssignResult:
        """Objects of ``priors`` (A, 4).

        Args:
            pred_instances: with ``priors``, x1 y1 x2 y2 in pixels.
            gt_instances: with ``bboxes`` (G, 4) and ``labels`` (G,).
            gt_instances_ignore: with ``bboxes`` (R, 4), ignore regions, looked at when ``ignore_iof_thr`` is above 0.

        Returns:
            ``gt_inds`` (-1 neither, 0 background, else the object's number from 1), ``max_overlaps`` and ``labels`` (-1
            without an object), (A,) each.
        """
        priors, objects = get_box_tensor(pred_instances.priors), get_box_tensor(gt_instances.bboxes)
        regions = objects[:0]
        if self.ignore_iof_thr > 0 and gt_instances_ignore is not None:
            regions = get_box_tensor(gt_instances_ignore.bboxes)
        blocks = in_blocks(priors) if self._is_served(priors, objects, regions) else None
        # the IoU of boxes that do not touch is 0 only where areas are numbers
        if blocks is None or not all(_finite(a) for a in (blocks.areas, areas(*objects.T), areas(*regions.T))):
            return super().assign(pred_instances, gt_instances, gt_instances_ignore, **kwargs)
        ignored = None
        if len(regions):
            over = 'prior' if self.ignore_wrt_candidates else 'box'
            ignored = ignored_priors(regions, blocks, self.ignore_iof_thr, over)
        matches = find_matches(objects, blocks, len(priors), self.pos_iou_thr, ignored)
        gt_inds = self._gt_inds(matches)
        labels = torch.full_like(gt_inds, -1)
        positive = gt_inds > 0
        labels[positive] = gt_instances.labels[gt_inds[positive] - 1]
        return AssignResult(len(objects), gt_inds, matches.highest, labels)

    def _is_served(self, *boxes: Tensor) -> bool:
        full_precision = type(self.iou_calculator) is BboxOverlaps2D and self.iou_calculator.dtype != 'fp16'
        if not full_precision or self.perm_repeat_gt_cfg is not None or self.pos_iou_thr <= 0 or self.min_pos_iou < 0:
            return False
        priors, objects, _ = boxes
        plain = all(b.device == priors.device and b.dtype == torch.float32 and b.shape[1:] == (4,) for b in boxes)
        pairs = len(priors) * len(objects)
        return plain and pairs > 0 and is_worth_it(priors.device.type, pairs)

    def _gt_inds(self, matches: Matches) -> Tensor:
        highest = matches.highest
        gt_inds = torch.full_like(highest, -1, dtype=torch.long)
        if isinstance(self.neg_iou_thr, float):
            gt_inds[(highest >= 0) & (highest < self.neg_iou_thr)] = 0
        elif isinstance(self.neg_iou_thr, tuple):
            least, most = self.neg_iou_thr
            gt_inds[(highest >= least) & (highest < most)] = 0
        own = (matches.ious >= self.pos_iou_thr) & (matches.ious == highest[matches.priors])
        # of objects with the same IoU the first, as in Tensor.max
        gt_inds.scatter_reduce_(0, matches.priors[own], matches.objects[own] + 1, 'amin', include_self=False)
        if self.match_low_quality:
            objects, priors = self._low_quality(matches)
            # of objects whose best prior is the same the last, as in MMDetection's loop
            gt_inds.scatter_reduce_(0, priors, objects + 1, 'amax', include_self=False)
        return gt_inds

    def _low_quality(self, matches: Matches) -> tuple[Tensor, Tensor]:
        """Objects and the priors that are theirs whatever others have there, (N,) each."""
        wanted = matches.best >= self.min_pos_iou
        kept = wanted[matches.objects] & (matches.ious == matches.best[matches.objects])
        objects, priors = matches.objects[kept], matches.priors[kept]
        # The best IoU of an object that overlaps nothing is 0, and so is that of all priors with it. The last such object
        # overrides the others.
        nowhere = (wanted & (matches.best == 0)).nonzero()[-1:, 0]
        if len(nowhere):
            free = (matches.highest >= 0).nonzero()[:, 0]
            objects, priors = torch.cat([objects, nowhere.expand(len(free))]), torch.cat([priors, free])
        if self.gt_max_assign_all:
            return objects, priors
        none = len(matches.highest)
        first = objects.new_full((len(matches.best),), none).scatter_reduce_(0, objects, priors, 'amin')
        objects = (first < none).nonzero()[:, 0]
        return objects, first[objects]
