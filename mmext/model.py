"""What hooks, loops and commands ask of any model; building one, and filling it with the weights of a file."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from torch import nn

from mmext.data.class_names import trained_classes
from mmext.errors import InputError, some
from mmext.safe_load import allow_mmengine_checkpoints


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


def build_model(cfg: Config) -> nn.Module:
    """The model of a config as it is built, without weights; nothing is downloaded.

    Raises:
        InputError: it cannot be built.
    """
    try:
        # a copy, as MMDetection writes into it what it builds
        return MODELS.build(_on_one_process(copy.deepcopy(cfg.model)))
    except Exception as error:  # whatever a setting of the person's config makes the model's code raise
        raise InputError(f'the model cannot be built: {type(error).__name__}: {error}') from error


def _on_one_process(model: Mapping) -> Mapping:
    """The model with batch norms that need no process group: names, shapes and rates are the same."""
    for key, value in model.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, Mapping):
                _on_one_process(one)
        if key == 'type' and value in ('SyncBN', 'MMSyncBN', 'NaiveSyncBN'):
            model[key] = 'BN'
    return model


def load_weights(model: nn.Module, checkpoint: Path, strict: bool = True) -> dict:
    """Fill a model from a file, all of it or, not ``strict``, what fits.

    Returns:
        What the checkpoint says of itself: its ``meta``, empty where it says nothing.

    Raises:
        InputError: a file that is missing, broken, or of another model.
    """
    if not Path(checkpoint).is_file():
        raise InputError(f'{checkpoint}: there is no such checkpoint file.')
    allow_mmengine_checkpoints()
    try:
        loaded = load_checkpoint(model, str(checkpoint), map_location='cpu', strict=strict, logger='silent')
    except Exception as error:
        words = _why_not_loaded(model, checkpoint) if strict else ''
        raise InputError(f'{checkpoint} cannot be loaded: {words or f"{type(error).__name__}: {error}"}') from error
    return loaded.get('meta') or {}


def classes_of_file(checkpoint: str) -> tuple[str, ...] | None:
    """Class names that a checkpoint says it was trained on; None: it says none, or is no file here. Nothing is downloaded.

    Raises:
        InputError: the file cannot be read.
    """
    if not Path(checkpoint).is_file():
        return None
    allow_mmengine_checkpoints()
    try:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    except Exception as error:  # damaged, or no checkpoint at all
        raise InputError(f'{checkpoint} cannot be read: {type(error).__name__}: {error}') from error
    return trained_classes(loaded.get('meta') or {}) or None


def _why_not_loaded(model: nn.Module, checkpoint: Path) -> str:
    """How the tensors of a checkpoint differ from those of a model, in words; empty when that is not why."""
    try:
        loaded = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
        given = {name.removeprefix('module.'): value.shape for name, value in loaded.get('state_dict', loaded).items()}
    except Exception:  # not a checkpoint at all, as the error that led here says
        return ''
    own = {name: value.shape for name, value in model.state_dict().items()}
    shapes = [
        f'{name} {list(given[name])}, in the config {list(shape)}'
        for name, shape in own.items()
        if name in given and given[name] != shape
    ]
    differences = {
        'have another shape': shapes,
        'are missing in it': [name for name in own if name not in given],
        'are unknown to the config': [name for name in given if name not in own],
    }
    found = [f'{len(names)} tensors {what}: {some(names, 2)}.' for what, names in differences.items() if names]
    if not found:
        return ''
    return (
        f'it is not of the model of this config. {" ".join(found)} Give the config that it was trained with: a run keeps it '
        'in its work_dir, as TIMESTAMP/vis_data/config.py.'
    )
