"""Masks learnt from targets that fade across the outline."""

import torch
from torch import Tensor, nn

from mmext.errors import InputError, raise_all
from mmext.losses.parts import chosen_reduction, common_mistakes, is_number, own_channel, reduced
from mmext.registry import MODELS


def distance_transform(masks: Tensor) -> Tensor:
    """Exact Euclidean distance from each pixel of a mask to the nearest pixel outside it; 0 outside.

    As scipy.ndimage.distance_transform_edt: between the centres of pixels, so that a pixel at the outline has 1. What lies
    beyond the edge is neither inside nor outside; a mask without a pixel outside has infinity everywhere.

    In two steps, along rows and then across them (Felzenszwalb and Huttenlocher 2012, section 2.1). The second goes through
    the rows of all masks at once, so that it holds a few (N, H, W) and never (N, H, H, W).

    Args:
        masks: (N, H, W), anything but 0 is inside; on any device. Sides up to 2896 pixels are exact.

    Returns:
        (N, H, W) float32, in pixels.
    """
    outside = masks == 0
    height, width = masks.shape[-2:]
    x = torch.arange(width, device=masks.device, dtype=torch.float32)
    before = torch.where(outside, x, -torch.inf).cummax(-1).values
    after = torch.where(outside, x, torch.inf).flip(-1).cummin(-1).values.flip(-1)
    along = torch.minimum(x - before, after - x).square()
    y = torch.arange(height, device=masks.device, dtype=torch.float32)[:, None]
    nearest = torch.full_like(along, torch.inf)
    for row in range(height):
        torch.minimum(nearest, along[:, row : row + 1] + (y - row).square(), out=nearest)
    return nearest.sqrt_()


def soft_target(masks: Tensor, width: float) -> Tensor:
    """``clip(0.5 + (d_in - d_out) / (2 * width), 0, 1)``.

    d_in is the distance of an inside pixel to the nearest outside one, d_out that of an outside pixel to the nearest inside
    one, the other of the two 0. So with width 2 the pixels along the outline have 0.75 and 0.25, and from the second on 1
    and 0. An empty or full mask stays 0 or 1. A mask cut by the edge of its RoI does not fade there.

    Args:
        masks: (R, H, W), anything but 0 is inside.
        width: in mask pixels, above 0.

    Returns:
        (R, H, W) float32, 0 to 1.
    """
    signed = distance_transform(masks) - distance_transform(masks == 0)
    return (0.5 + signed / (2 * width)).clamp(0, 1)


@MODELS.register_module()
class SoftMaskLoss(nn.Module):
    """|p - soft target|, the target fading over ``width`` pixels on both sides of the outline.

    ``loss_mask=dict(_delete_=True, type='mmext.SoftMaskLoss', width=2.0)``. For mask heads only: a distance needs whole
    masks, which PointRend's ``loss_point`` does not have.

    The gradient in a logit is p * (1 - p), up or down: a pixel that is wrong by a wide margin pulls little, one at p = 0.5
    most. Mask targets of ``soft_mask_target=True`` are cut at 0.5 first, where mmdet would cut them.

    Source: S2 names the loss and gives no formula; this one is requirement F2's.

    Args:
        width: in pixels of the mask target (28 a side in the base recipe), not of the image; above 0.
        reduction: none, mean or sum.
        loss_weight: factor of the whole.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(self, width: float = 2.0, reduction: str = 'mean', loss_weight: float = 1.0):
        mistakes = common_mistakes('SoftMaskLoss', reduction, loss_weight)
        if not is_number(width) or not 0 < width < float('inf'):
            mistakes.append(f'SoftMaskLoss: width is {width!r}; it must be a number of mask pixels above 0.')
        raise_all(mistakes)
        super().__init__()
        self.width, self.reduction, self.loss_weight = width, reduction, loss_weight

    def forward(
        self,
        mask_preds: Tensor,
        mask_targets: Tensor,
        labels: Tensor,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss, called as FCNMaskHead calls it.

        Args:
            mask_preds: logits (R, C, H, W), R positive RoIs.
            mask_targets: (R, H, W), 0 to 1.
            labels: class of each RoI (R,); all 0 for a class-agnostic head.
            avg_factor: what a mean divides by, instead of the number of pixels.
            reduction_override: instead of the constructor's reduction.

        Returns:
            Scalar; with reduction none (R, H, W).

        Raises:
            InputError: the targets are no masks; reduction_override is unknown.
            ValueError: mmdet's, at an avg_factor with reduction sum.
        """
        reduction = chosen_reduction('SoftMaskLoss', self.reduction, reduction_override)
        if mask_targets.dim() != 3:
            raise InputError(
                f'SoftMaskLoss: the targets have shape {tuple(mask_targets.shape)}; whole masks (R, H, W) are needed. '
                'It is for loss_mask of a mask head; for loss_point take mmext.GCELoss.'
            )
        target = soft_target(mask_targets >= 0.5, self.width)
        logits = own_channel(mask_preds, labels)
        logits = logits.to(torch.promote_types(logits.dtype, target.dtype))
        loss = (logits.sigmoid() - target.to(logits.dtype)).abs()
        return self.loss_weight * reduced(loss, None, reduction, avg_factor)
