"""What the mask losses share: the channel of each RoI's class, reductions, and the arguments that every loss has."""

import numbers

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from mmext.errors import InputError

REDUCTIONS = ('none', 'mean', 'sum')


def own_channel(mask_preds: Tensor, labels: Tensor) -> Tensor:
    """Of each RoI the channel of its class; no other channel gets a gradient.

    Args:
        mask_preds: (R, C, *), * a mask's rows and columns, or points.
        labels: (R,); all 0 for a class-agnostic head, as mmdet passes them.

    Returns:
        (R, *).
    """
    return mask_preds[torch.arange(len(mask_preds), device=mask_preds.device), labels]


def reduced(loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | None) -> Tensor:
    """mmdet's weight_reduce_loss, but the mean of nothing is 0 with a gradient, not NaN.

    mmdet's mask head never calls its loss without a positive RoI; PointRend's point head does.
    """
    if reduction == 'mean' and avg_factor is None and not loss.numel():
        return loss.sum()
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def chosen_reduction(loss: str, reduction: str, override: str | None) -> str:
    """The override where there is one.

    Raises:
        InputError: it is none of none, mean, sum.
    """
    if override not in (None, *REDUCTIONS):
        raise InputError(f'{loss}: reduction_override is {override!r}; allowed: None, {", ".join(REDUCTIONS)}.')
    return override or reduction


def common_mistakes(loss: str, reduction: str, loss_weight: float) -> list[str]:
    """What is wrong with the arguments that every loss has."""
    mistakes = []
    if reduction not in REDUCTIONS:
        mistakes.append(f'{loss}: reduction is {reduction!r}; allowed: {", ".join(REDUCTIONS)}.')
    if not is_number(loss_weight) or not 0 <= loss_weight < float('inf'):
        mistakes.append(f'{loss}: loss_weight is {loss_weight!r}; it must be a number, 0 or more.')
    return mistakes


def is_number(value: object) -> bool:
    """Whether it is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
