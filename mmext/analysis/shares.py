"""Loss families and their shares of the total. No torch.

The bands and typical values are those of the source document on loss breakdown (S4). They are for Mask R-CNN with
cross-entropy masks and all loss weights 1, and for orientation only: each of that document's own six examples, the
healthy ones too, leaves at least one band.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Orientation:
    """What S4 holds to be usual for a family: share of the total in per cent, the loss in training and at the end."""

    share: tuple[float, float]
    training: tuple[float, float]
    end: tuple[float, float]


ORIENTATION = {
    'mask': Orientation((30, 40), (0.1, 0.5), (0.08, 0.20)),
    'cls': Orientation((20, 30), (0.05, 0.5), (0.05, 0.15)),
    'bbox': Orientation((15, 25), (0.05, 0.3), (0.04, 0.12)),
    'rpn_bbox': Orientation((10, 15), (0.01, 0.2), (0.03, 0.10)),
    'rpn_cls': Orientation((5, 10), (0.01, 0.5), (0.02, 0.08)),
}

# a model's name for a loss to its family; a name that is not here is a family of its own
FAMILIES = {
    'loss_mask': 'mask',
    'loss_point': 'mask',
    'loss_boundary': 'mask',
    'loss_cls': 'cls',
    'loss_bbox': 'bbox',
    'loss_rpn_cls': 'rpn_cls',
    'loss_rpn_bbox': 'rpn_bbox',
}


@functools.cache  # asked for every loss of every log line; a model has a dozen names
def family_of(name: str) -> str | None:
    """Family of a loss by the name that the model gives it; None for what is no part of the total.

    A stage prefix is dropped (``s0.loss_cls`` of Cascade and ``stage0_loss_cls`` of QueryInst are ``cls``),
    ``loss_mask_iou`` is ``mask_iou``, an unknown ``loss_foo`` is ``foo``. None: the total, ``loss``, and our own shares.
    """
    stem = re.sub(r'^(stage\d+|enc|dn)_', '', name.rpartition('.')[2])
    if 'loss' not in stem or name == 'loss' or name.startswith(('share_', 'raw_share_')):
        return None
    return FAMILIES.get(stem) or re.sub(r'^loss_|_loss$', '', stem)


def by_family(losses: Mapping[str, float]) -> dict[str, float]:
    """Sum of the losses of each family. ``losses`` holds a log line: what is no loss is passed over."""
    sums: dict[str, float] = {}
    for name, value in losses.items():
        family = family_of(name)
        if family is not None:
            sums[family] = sums.get(family, 0.0) + value
    return sums


def shares(losses: Mapping[str, float]) -> dict[str, float]:
    """Share of each family in the sum of all, 0 to 1; empty when the sum is 0 or not a number.

    Args:
        losses: loss name to value, as the model gives and weighs them, or a line of a JSON log.
    """
    sums = by_family(losses)
    total = sum(sums.values())
    if not 0 < abs(total) < float('inf'):
        return {}
    return {family: value / total for family, value in sums.items()}


def unweighted(losses: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """The losses before their weights; one whose weight is 0 says nothing and is left out."""
    return {name: value / weights.get(name, 1.0) for name, value in losses.items() if weights.get(name, 1.0) != 0}


def bands_hold(losses: Mapping[str, float], weights: Mapping[str, float], mask_loss: str) -> bool:
    """Whether S4's figures can be set beside these losses: Mask R-CNN's five families, cross-entropy masks, weights 1."""
    families = {family_of(name) for name in losses} - {None}
    masks = [name for name in losses if family_of(name) == 'mask']
    plain = all(weights.get(name, 1.0) == 1.0 for name in losses)
    return families == set(ORIENTATION) and plain and masks == ['loss_mask'] and mask_loss == 'CrossEntropyLoss'
