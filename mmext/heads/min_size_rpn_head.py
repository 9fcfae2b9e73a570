"""An RPN that is not taught objects below a size."""

import numbers

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from mmext.errors import raise_all
from mmext.registry import MODELS

_FILTERS = ('gt', 'proposal')
# an anchor larger than this many times a small object is about something else
_AREA_LIMIT = 16
# anchors of one scale and several ratios have the same area but for that
_ROUNDING = 1e-3


def is_small(boxes: Tensor, min_size: float) -> Tensor:
    """Whether a side of each box (N, 4), x1 y1 x2 y2, is under ``min_size``; (N,) bool."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(1) < min_size


def belongs_to_small(anchors: Tensor, truth: Tensor, min_size: float, stride: float, least_area: Tensor | float) -> Tensor:
    """Whether an anchor is about an object under ``min_size``, or is so small itself.

    About an object: its centre lies in the object's box, and it has at most 16 times its area. An object of a few pixels
    may have no such anchor, and yet those around it see nothing else: its box counts as one stride wide at least, and the
    smallest anchors are never too large for it.

    Args:
        anchors: (A, 4), x1 y1 x2 y2 in pixels of the network's input.
        truth: boxes of the image's objects (G, 4).
        min_size: least side in those pixels.
        stride: of the finest feature map, in those pixels.
        least_area: of the smallest anchors.

    Returns:
        (A,) bool.
    """
    small = truth[is_small(truth, min_size)]
    middle, half = (small[:, :2] + small[:, 2:]) / 2, ((small[:, 2:] - small[:, :2]) / 2).clamp(min=stride / 2)
    centres = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    within = ((centres - middle).abs() <= half).all(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (anchors, small)]
    limits = (_AREA_LIMIT * areas[1]).clamp(min=least_area * (1 + _ROUNDING))
    return (within & (areas[0][:, None] <= limits)).any(1) | is_small(anchors, min_size)


@MODELS.register_module()
class MinSizeRPNHead(RPNHead):
    """MMDetection's RPNHead whose losses leave out what is small.

    ``model.rpn_head=dict(type='mmext.MinSizeRPNHead', min_size=20)``.

    Predictions are stock's. The losses are stock's with weight 0 at some of the sampled anchors; they are still divided by
    the number of all sampled ones, so that nothing changes at the others; an image crowded with small objects therefore
    leaves little of its sample to the large ones. Unlike ``gt_instances_ignore``, which the RPN's
    assigner does not look at with MMDetection's settings, this reaches the small objects' background anchors too.

    Source: an example that leaves proposals of fewer than 20 pixels out of the RPN's loss. It looks at the *predicted*
    boxes, so the network escapes a loss by predicting small ones; that is ``'proposal'``, kept for comparison.

    Args:
        min_size: least side, in pixels of the network's input (after Resize). 0 leaves nothing out: stock's losses, to
            the bit.
        filter_by: ``'gt'`` leaves out the anchors of a small object (assigned to it, or with their centre in it and at most
            16 times its area, the nearest and smallest ones in any case) and anchors that are small themselves, unless they
            are assigned to a larger object;
            ``'proposal'`` those whose predicted box is small.
        kwargs: of RPNHead.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(self, *args, min_size: float = 20, filter_by: str = 'gt', **kwargs):
        mistakes = []
        if isinstance(min_size, bool) or not isinstance(min_size, numbers.Real) or not min_size >= 0:
            mistakes.append(f'MinSizeRPNHead: min_size is {min_size!r}; it must be a number of pixels, 0 or more.')
        if filter_by not in _FILTERS:
            mistakes.append(f'MinSizeRPNHead: filter_by is {filter_by!r}; allowed: {", ".join(_FILTERS)}.')
        raise_all(mistakes)
        super().__init__(*args, **kwargs)
        self.min_size, self.filter_by = min_size, filter_by
        self._stride = float(min(map(min, self.prior_generator.strides)))
        sizes = torch.cat([anchors[:, 2:] - anchors[:, :2] for anchors in self.prior_generator.base_anchors])
        self._least_area = float(sizes.prod(1).min())

    def _get_targets_single(
        self, flat_anchors, valid_flags, gt_instances, img_meta, gt_instances_ignore=None, unmap_outputs=True
    ) -> tuple:
        """MMDetection's targets of one image, with weight 0 where ``'gt'`` leaves an anchor out."""
        targets = super()._get_targets_single(
            flat_anchors, valid_flags, gt_instances, img_meta, gt_instances_ignore, unmap_outputs
        )
        if not self.min_size or self.filter_by != 'gt':
            return targets
        _, label_weights, _, bbox_weights, positive, negative, sampled = targets
        anchors, truth = get_box_tensor(flat_anchors), get_box_tensor(gt_instances.bboxes)
        inside = anchor_inside_flags(flat_anchors, valid_flags, img_meta['img_shape'][:2], self.train_cfg['allowed_border'])
        places = inside.nonzero().squeeze(1)
        # what was not sampled has weight 0 already; a positive anchor is its object's, whatever else lies in it
        lost = [
            positive[is_small(truth, self.min_size)[sampled.pos_assigned_gt_inds]],
            negative[belongs_to_small(anchors[places[negative]], truth, self.min_size, self._stride, self._least_area)],
        ]
        index = torch.cat(lost)
        index = places[index] if unmap_outputs else index
        label_weights[index] = 0
        bbox_weights[index] = 0
        return targets

    def loss_by_feat_single(
        self, cls_score, bbox_pred, anchors, labels, label_weights, bbox_targets, bbox_weights, avg_factor
    ) -> tuple:
        """MMDetection's losses of one level, with weight 0 where ``'proposal'`` leaves an anchor out."""
        if self.min_size and self.filter_by == 'proposal':
            deltas = bbox_pred.detach().permute(0, 2, 3, 1).reshape(-1, self.bbox_coder.encode_size)
            boxes = get_box_tensor(self.bbox_coder.decode(anchors.reshape(-1, anchors.size(-1)), deltas))
            kept = ~is_small(boxes, self.min_size).reshape(label_weights.shape)
            label_weights, bbox_weights = label_weights * kept, bbox_weights * kept[..., None]
        return super().loss_by_feat_single(
            cls_score, bbox_pred, anchors, labels, label_weights, bbox_targets, bbox_weights, avg_factor
        )
