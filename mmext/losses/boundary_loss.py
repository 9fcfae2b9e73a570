"""How well predicted boundaries match those of the mask targets."""

import math

import torch.nn.functional as F
from mmdet.models.losses.dice_loss import dice_loss
from torch import Tensor, nn

from mmext.errors import raise_all
from mmext.losses.parts import is_number, own_channel
from mmext.registry import MODELS

# the smoothing term of the authors' Dice: an RoI without any boundary has a loss that falls with the predicted one
_DICE_SMOOTHING = 1.0


def mask_boundary(targets: Tensor) -> Tensor:
    """Boundary of each mask: its pixels that have a pixel of the background among their eight neighbours.

    One pixel of the mask grid thick, inside the mask; where the 3x3 Laplacian of the mask is above 0. The border of the RoI
    is no boundary in itself: a mask that goes on up to it may go on beyond, and the crop does not show it. So a mask that
    fills its RoI has no boundary, nor has an empty one. (The authors' code pads with background, which makes the sides of
    every box that cuts an object a boundary.)

    Args:
        targets: masks (R, H, W), 0 to 1; inside from 0.5 up.

    Returns:
        (R, H, W), 0 or 1, of the targets' type.
    """
    inside = (targets >= 0.5).to(targets.dtype)
    # max_pool2d pads with minus infinity: what lies beyond the border never counts as background
    eroded = -F.max_pool2d(-inside[:, None], kernel_size=3, stride=1, padding=1)[:, 0]
    return inside - eroded


def boundary_loss(logits: Tensor, targets: Tensor, bce_weight: float = 1.0, dice_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy, mean over pixels, plus Dice, mean over RoIs, of predicted boundaries.

    Not balanced between boundary and background: Dice is there for that.

    Args:
        logits: of the boundary (R, H, W), before the sigmoid, R positive RoIs.
        targets: boundaries (R, H, W), 0 or 1, see :func:`mask_boundary`.
        bce_weight, dice_weight: of the two terms.

    Returns:
        Scalar; 0 with a gradient when R = 0.
    """
    if not len(logits):
        return logits.sum()
    logits, targets = logits.float(), targets.float()
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    dice = dice_loss(logits.sigmoid(), targets, eps=_DICE_SMOOTHING, naive_dice=True)
    return bce_weight * bce + dice_weight * dice


@MODELS.register_module()
class BoundaryLoss(nn.Module):
    """Loss of a boundary branch: ``loss_boundary=dict(type='mmext.BoundaryLoss')`` of ``mmext.BoundaryMaskHead``.

    The target is made of the mask target, where it lies. Source: Cheng et al., Boundary-preserving Mask R-CNN, ECCV 2020,
    arXiv:2007.08921: cross-entropy and Dice with weights of 1; the Dice is that of the authors' code (sums, not squares,
    below the line; smoothing 1).

    Args:
        loss_weight: of the whole.
        dice_weight: of Dice in it.
        bce_weight: of the binary cross-entropy in it.

    Raises:
        InputError: a weight that is not a number of 0 or more.
    """

    def __init__(self, loss_weight: float = 1.0, dice_weight: float = 1.0, bce_weight: float = 1.0):
        super().__init__()
        weights = {'loss_weight': loss_weight, 'dice_weight': dice_weight, 'bce_weight': bce_weight}
        raise_all(
            [
                f'BoundaryLoss: {name} is {value!r}; it must be a number, 0 or more.'
                for name, value in weights.items()
                if not is_number(value) or not 0 <= value < math.inf
            ]
        )
        self.loss_weight, self.dice_weight, self.bce_weight = loss_weight, dice_weight, bce_weight

    def forward(self, boundary_preds: Tensor, mask_targets: Tensor, labels: Tensor) -> Tensor:
        """Loss of the labels' channels.

        Args:
            boundary_preds: logits (R, C, H, W), one channel a class, or one for all classes.
            mask_targets: masks (R, H, W), not boundaries.
            labels: channel of each RoI (R,).

        Returns:
            Scalar; 0 with a gradient when R = 0.
        """
        logits = own_channel(boundary_preds, labels)
        return self.loss_weight * boundary_loss(logits, mask_boundary(mask_targets), self.bce_weight, self.dice_weight)
