"""A mask head's probabilities, before the threshold, for boxes of the detector or for others."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.analysis.mask_window import draw

Window = tuple[int, int, int, int]


@dataclass
class Grids:
    """What the mask head gave for N boxes: probabilities (N, C, h, w) and boxes (N, 4) x1 y1 x2 y2, in pixels of the
    original image."""

    probabilities: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1))
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))

    def channel(self, box: int, label: int) -> Tensor:
        """(h, w) probabilities of a class in a box; of the only channel where one serves all classes."""
        return self.probabilities[box, label if self.probabilities.size(1) > 1 else 0]


def mask_head_of(model: nn.Module) -> nn.Module | None:
    """The mask head that predicts a grid for each box, of a cascade the last one; None where there is none like it."""
    head = getattr(getattr(model, 'roi_head', None), 'mask_head', None)
    head = head[-1] if isinstance(head, nn.ModuleList) and len(head) else head
    return head if isinstance(head, FCNMaskHead) else None


@contextlib.contextmanager
def kept_grids(head: nn.Module) -> Iterator[list[Grids]]:
    """While the block runs, what a mask head hands on for each image is kept in the list; predictions are as ever."""
    kept, stock = [], head.predict_by_feat

    def predict_by_feat(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale=False, activate_map=False):
        for logits, results, meta in zip(mask_preds, results_list, batch_img_metas, strict=True):
            factor = results.bboxes.new_tensor(meta['scale_factor']).repeat((1, 2))
            # a copy, as MMDetection rescales the boxes in place
            probabilities = torch.as_tensor(logits) if activate_map else logits.sigmoid()
            kept.append(Grids(probabilities.detach(), results.bboxes.detach().clone() / factor))
        return stock(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale, activate_map)

    head.predict_by_feat = predict_by_feat
    try:
        yield kept
    finally:
        del head.predict_by_feat  # the class's own is there again


def grids_for_boxes(
    model: nn.Module, features: Sequence[Tensor], meta: dict, boxes: np.ndarray, labels: np.ndarray
) -> Grids:
    """What the mask head predicts for given boxes of an image.

    Args:
        model: with a mask head of :func:`mask_head_of`.
        features: of the image, as ``extract_feat`` gives them.
        meta: its metainfo.
        boxes: (N, 4) x, y, width, height in pixels of the original image.
        labels: (N,).
    """
    if not len(boxes):
        return Grids()
    device = features[0].device
    factor = np.tile(meta['scale_factor'], 2)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    instances = InstanceData(
        bboxes=torch.as_tensor(corners * factor, dtype=torch.float32, device=device),
        labels=torch.as_tensor(labels, device=device),
        scores=torch.ones(len(boxes), device=device),
    )
    with kept_grids(mask_head_of(model)) as kept:
        model.roi_head.predict_mask(features, [meta], [instances], rescale=True)
    return kept[0]


def paste(grid: Tensor, box: Tensor, height: int, width: int) -> tuple[np.ndarray, Window]:
    """A grid of probabilities (h, w) where its box is: by MMDetection's code, in a window of the image.

    Returns:
        Probabilities (y2 - y1, x2 - x1), and the window x1, y1, x2, y2; outside of it they are 0.
    """
    pasted, (rows, columns) = _do_paste_mask(grid[None, None].cpu(), box[None].cpu(), height, width, skip_empty=True)
    return pasted[0].numpy(), (int(columns.start), int(rows.start), int(columns.stop), int(rows.stop))


def iou_at(probabilities: np.ndarray, inside: np.ndarray, area: float, threshold: float) -> float:
    """Mask IoU of what reaches a threshold.

    Args:
        probabilities: (h, w) in a window.
        inside: (h, w) the ground truth there.
        area: its pixels in the whole image.
        threshold: of the probabilities; under 0 MMDetection cuts nothing, and 0.5 is meant.
    """
    predicted = probabilities >= (threshold if threshold >= 0 else 0.5)
    common = np.count_nonzero(predicted & inside)
    union = area + np.count_nonzero(predicted) - common
    return common / union if union else 0.0


def truth_in(rle: dict, window: Window) -> np.ndarray:
    """(h, w) bool: a mask in a window."""
    return draw(rle, window).astype(bool)
