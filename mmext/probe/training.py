"""The training of a run as it was set up: its batches, its optimizer, the highest rates that it had."""

import contextlib
import copy
import io

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mmext.analysis.facts import Facts
from mmext.analysis.runs import Run
from mmext.errors import InputError
from mmext.optim.group_report import build_optimizer

# what only a loader with workers takes
_OF_WORKERS = ('prefetch_factor', 'timeout', 'worker_init_fn')


def train_loader(cfg: Config, seed: int, dataset: ConfigDict | None = None, batch_size: int | None = None) -> DataLoader:
    """The batches that a run was trained on, endless, loaded in this process.

    Args:
        cfg: of the run.
        seed: of their order.
        dataset: another data set than the run's.
        batch_size: other than the run's.

    Raises:
        InputError: there is none, or its files cannot be read.
    """
    if not cfg.get('train_dataloader'):
        raise InputError('the config has no train_dataloader.')
    loader = copy.deepcopy(cfg.train_dataloader)
    for key in _OF_WORKERS:
        loader.pop(key, None)
    loader.update(num_workers=0, persistent_workers=False, sampler={'type': 'InfiniteSampler', 'shuffle': True})
    if dataset is not None:
        loader.dataset = dataset
    if batch_size is not None:
        # a batch sampler takes the loader's size, or has one of its own
        place = loader if 'batch_size' in loader else loader.batch_sampler
        place.batch_size = batch_size
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
            return Runner.build_dataloader(loader, seed=seed)
    except Exception as error:  # files that have been moved away, above all
        raise InputError(f'train_dataloader: {type(error).__name__}: {error}') from error


def batch_size_of(cfg: Config) -> int:
    """Images a batch of the training."""
    loader = cfg.train_dataloader
    return int(loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size') or 1)


def optimizer_at_peak(run: Run, cfg: Config, model: nn.Module) -> Optimizer:
    """A fresh optimizer of a run whose groups have the highest rates that its log shows; those planned, without a log.

    Args:
        run: as read from its work_dir.
        cfg: its config.
        model: of the config.

    Raises:
        InputError: the optimizer cannot be built.
    """
    try:
        optimizer = build_optimizer(model, cfg.optim_wrapper)
    except InputError:
        raise
    except Exception as error:  # whatever a setting of the person's config makes
        raise InputError(f'optim_wrapper cannot be built: {type(error).__name__}: {error}') from error
    factor = peak_factor(run, cfg, optimizer)
    for group in optimizer.param_groups:
        group['lr'] *= factor
    return optimizer


def peak_factor(run: Run, cfg: Config, optimizer: Optimizer) -> float:
    """Highest rate of the log ÷ the planned one: 0.5 where a warm-up came half way, 4 where ``auto_scale_lr`` gave that.

    Args:
        run: with its log.
        cfg: its config.
        optimizer: as it is built from the config.
    """
    rates = Facts(run).base_rates
    rates = rates[np.isfinite(rates) & (rates > 0)]
    # MMEngine logs base_lr, and lr of the first group
    named = any('base_lr' in line for line in run.train)
    planned = cfg.optim_wrapper.optimizer.get('lr') if named else optimizer.param_groups[0]['lr']
    return float(rates.max()) / planned if len(rates) and planned else 1.0
