"""Generalized cross-entropy: a wrong outline or label pulls at the network less than with cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmext.errors import InputError, raise_all
from mmext.losses.parts import chosen_reduction, common_mistakes, is_number, own_channel, reduced
from mmext.registry import MODELS

# F.cross_entropy's own, which mmdet's CrossEntropyLoss takes where none is given
_IGNORE_INDEX = -100
# below it the loss is cross-entropy to the last digit of float64; float32 would lose q * log p and divide 0 by 0
_LEAST_Q = 1e-20


def generalized(log_p: Tensor, q: float) -> Tensor:
    """``(1 - p**q) / q`` of each log p: from -log p as q goes to 0, to 1 - p at q = 1. Zhang and Sabuncu 2018,
    arXiv:1805.07836, equation 6.

    Its gradient in log p is ``-p**q``, at most 1 however small q is: nothing overflows at any finite log p.

    Args:
        log_p: any shape, at most 0.
        q: 0 < q <= 1.
    """
    q = max(q, _LEAST_Q)
    return -torch.expm1(q * log_p) / q


def mask_gce(logits: Tensor, targets: Tensor, q: float) -> Tensor:
    """Sigmoid form, pixel by pixel: ``t * loss(p) + (1 - t) * loss(1 - p)`` with p = sigmoid(logit).

    A target of 0 or 1 gives F1's (1 - p_t^q) / q exactly. In between, as ``soft_mask_target`` and PointRend's sampled
    points have them, a target is the share of the pixel that is inside: both sides count by their share, as in binary
    cross-entropy, to which it goes with q to 0.

    Args:
        logits: (R, *) before the sigmoid, in any floating type; computed in float32 at least.
        targets: (R, *), 0 to 1.
        q: 0 < q <= 1.

    Returns:
        (R, *), float32 or float64.
    """
    logits = _at_least_float32(logits)
    targets = targets.to(logits.dtype)
    # both sides by logsigmoid: log(1 - p) from log p loses its digits where p is near 0
    inside, outside = (generalized(F.logsigmoid(side), q) for side in (logits, -logits))
    return targets * inside + (1 - targets) * outside


def class_gce(scores: Tensor, labels: Tensor, q: float, ignore_index: int = _IGNORE_INDEX) -> Tensor:
    """Softmax form: (1 - p^q) / q with p the probability of the labelled class.

    Args:
        scores: (N, C, *) before the softmax, in any floating type; computed in float32 at least.
        labels: (N, *) number of the channel; a box head's last one is background.
        q: 0 < q <= 1.
        ignore_index: a label that costs nothing.

    Returns:
        (N, *), float32 or float64.
    """
    counts = labels != ignore_index
    log_p = F.log_softmax(_at_least_float32(scores), 1)
    log_p = log_p.gather(1, torch.where(counts, labels, 0).unsqueeze(1)).squeeze(1)
    return generalized(log_p, q) * counts


def _at_least_float32(values: Tensor) -> Tensor:
    # float16 ends at 65504: a sum over pixels would not fit
    return values.to(torch.promote_types(values.dtype, torch.float32))


@MODELS.register_module()
class GCELoss(nn.Module):
    """(1 - p_t^q) / q, p_t the probability of the truth, in the place of mmdet's CrossEntropyLoss.

    Mask head: ``loss_mask=dict(_delete_=True, type='mmext.GCELoss', q=0.7)``, PointRend's ``loss_point`` likewise.
    Classification: ``loss_cls=dict(_delete_=True, type='mmext.GCELoss', q=0.7, use_mask=False)``.

    At most 1/q a pixel: one that the annotation has wrong pulls with p_t^q of cross-entropy's gradient, the less the surer
    the network is of the contrary. So does a hard pixel, and the loss is smaller than cross-entropy: its share of the total
    falls, and the bands for shares do not hold.

    Source: Zhang and Sabuncu 2018, arXiv:1805.07836; q = 0.7 is theirs.

    Args:
        q: above 0, where the loss is cross-entropy, to 1, where it is 1 - p_t.
        use_mask: sigmoid of the channel of each RoI's class; False: softmax over all channels, for classification.
        reduction: none, mean or sum. A mean is over elements whatever their weights, or by ``avg_factor``, as in mmdet.
        class_weight: weight of each class, one per channel of the prediction. A mask counts with its class's weight; a box
            head has a channel more than classes, its last one is background.
        ignore_index: label that costs nothing; with ``use_mask=False`` only.
        loss_weight: factor of the whole.

    Raises:
        InputError: an argument out of range.
    """

    # heads that ask (Sparse R-CNN's, DETR's): a prediction has a channel for background
    use_sigmoid = False

    def __init__(
        self,
        q: float = 0.7,
        use_mask: bool = True,
        reduction: str = 'mean',
        class_weight: list[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
    ):
        mistakes = common_mistakes('GCELoss', reduction, loss_weight)
        if not is_number(q) or not 0 < q <= 1:
            mistakes.append(f'GCELoss: q is {q!r}; it must be above 0 (cross-entropy) and at most 1 (1 - p).')
        if class_weight is not None and not (
            isinstance(class_weight, (list, tuple)) and all(is_number(weight) and weight >= 0 for weight in class_weight)
        ):
            mistakes.append(f'GCELoss: class_weight is {class_weight!r}; it must be None or a list of numbers, 0 or more.')
        if use_mask and ignore_index is not None:
            mistakes.append(f'GCELoss: ignore_index is {ignore_index!r}; a mask has no label to ignore. Set use_mask=False.')
        raise_all(mistakes)
        super().__init__()
        self.q, self.use_mask, self.reduction = q, use_mask, reduction
        self.class_weight, self.ignore_index, self.loss_weight = class_weight, ignore_index, loss_weight

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """The loss, with the names and the order of mmdet's CrossEntropyLoss, whose third argument has two meanings.

        Args:
            cls_score: logits. With ``use_mask`` (R, C, *), R positive RoIs, * = H, W or points; else (N, C, *).
            label: with ``use_mask`` the masks (R, *), 0 to 1; else the classes (N, *).
            weight: with ``use_mask`` the class of each RoI (R,), where FCNMaskHead and MaskPointHead pass it; else a weight
                of each label (N, *), or none.
            avg_factor: what a mean divides by, instead of the number of elements.
            reduction_override: instead of the constructor's reduction.
            ignore_index: instead of the constructor's, with ``use_mask=False``.

        Returns:
            Scalar; with reduction none (R, *) or (N, *).

        Raises:
            InputError: the arguments are those of the other form; class_weight and the channels differ in number;
                reduction_override is unknown.
            ValueError: mmdet's, at an avg_factor with reduction sum.
        """
        reduction = chosen_reduction('GCELoss', self.reduction, reduction_override)
        class_weight = self._weights(cls_score)
        if self.use_mask:
            if weight is None or weight.is_floating_point():
                found = None if weight is None else f'{weight.dtype} {tuple(weight.shape)}'
                raise InputError(
                    f'GCELoss: use_mask=True needs the class of each RoI as third argument, given {found}. '
                    'In a classification head set use_mask=False.'
                )
            if ignore_index is not None:
                raise InputError(f'GCELoss: ignore_index is {ignore_index!r}; a mask has no label to ignore.')
            loss = mask_gce(own_channel(cls_score, weight), label, self.q)
            of_class = None if class_weight is None else class_weight[weight].reshape(-1, *[1] * (loss.dim() - 1))
            return self.loss_weight * reduced(loss, of_class, reduction, avg_factor)
        if label.is_floating_point():
            raise InputError(
                f'GCELoss: use_mask=False needs classes as labels, given {label.dtype} {tuple(label.shape)}. '
                'In a mask or point head set use_mask=True.'
            )
        if ignore_index is None:
            ignore_index = _IGNORE_INDEX if self.ignore_index is None else self.ignore_index
        loss = class_gce(cls_score, label, self.q, ignore_index)
        if class_weight is not None:
            loss = loss * class_weight[torch.where(label != ignore_index, label, 0)]
        return self.loss_weight * reduced(loss, None if weight is None else weight.float(), reduction, avg_factor)

    def _weights(self, scores: Tensor) -> Tensor | None:
        """The weight of each channel."""
        if self.class_weight is None:
            return None
        if len(self.class_weight) != scores.size(1):
            raise InputError(
                f'GCELoss: class_weight has {len(self.class_weight)} values, the prediction {scores.size(1)} channels. Give '
                'one per class, for a box head one more for background (the last); a class-agnostic mask head has 1 channel.'
            )
        return torch.tensor(self.class_weight, dtype=torch.promote_types(scores.dtype, torch.float32), device=scores.device)
