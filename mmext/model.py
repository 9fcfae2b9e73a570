"""What hooks and loops ask of any model."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import is_model_wrapper
from torch import nn


def bare_model(runner) -> nn.Module:
    """The Runner's model without the wrapper that several processes need."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def parsed_losses(losses: Mapping[str, torch.Tensor | Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Each loss of a model as MMEngine adds it up: the mean of a tensor, the sum of the means of a list."""
    return {
        name: value.mean() if isinstance(value, torch.Tensor) else sum(item.mean() for item in value)
        for name, value in losses.items()
        if 'loss' in name
    }
