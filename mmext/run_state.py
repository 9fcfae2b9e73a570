"""What a run is made of beside weights, optimizer and schedulers: random numbers, order of the data, patience used up."""

import bisect
import functools
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook
from mmengine.optim.scheduler.param_scheduler import ReduceOnPlateauParamScheduler
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader, Sampler


def random_state() -> dict:
    """State of this process's random number generators (python, numpy, torch, GPU), as plain numbers and tensors."""
    kind, keys, *rest = np.random.get_state()
    state = {'python': random.getstate(), 'numpy': (kind, keys.tolist(), *rest), 'torch': torch.get_rng_state()}
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Continue the random numbers of :func:`random_state`."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state['numpy']))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def sampler_of(dataloader: DataLoader) -> Sampler:
    """The sampler that decides the order of the data: the one within the batch sampler where there is one."""
    return getattr(getattr(dataloader, 'batch_sampler', None), 'sampler', dataloader.sampler)


def patience_used(hooks: Sequence) -> list[dict]:
    """What each early stopping follows, has counted and allows, in the order of the hooks."""
    return [
        {
            'monitor': hook.monitor,
            'rule': hook.rule,
            'patience': hook.patience,
            'wait_count': hook.wait_count,
            'best_score': float(hook.best_score),
        }
        for hook in hooks
        if isinstance(hook, EarlyStoppingHook)
    ]


def restore_patience(hooks: Sequence, saved: Sequence[dict], stopped: bool, latest: Mapping[str, float]) -> str | None:
    """Let early stopping go on counting; returns why there is nothing left to train, or None.

    Args:
        hooks: of the run now.
        saved: of :func:`patience_used`.
        stopped: whether something had stopped the run.
        latest: metrics of the last validation.
    """
    left = [hook for hook in hooks if isinstance(hook, EarlyStoppingHook)]
    known = []
    for state in saved:
        hook = next((hook for hook in left if (hook.monitor, hook.rule) == (state['monitor'], state['rule'])), None)
        if hook is not None:
            left.remove(hook)
            hook.wait_count, hook.best_score = state['wait_count'], state['best_score']
            known.append(hook)
    reason = why_stopped(known, latest) if stopped else None
    if reason is None:  # not early stopping, or the person has given it more patience
        return None
    return (
        f'This run had stopped early: {reason}. Nothing is left to train; to go on, raise '
        'default_hooks.early_stopping.patience, or switch it off: default_hooks.early_stopping.type=mmext.NoHook.'
    )


def renew_patience(hooks: Sequence, schedulers: Sequence) -> None:
    """Let early stopping and plateau count from nothing again; the best values so far stay."""
    for hook in hooks:
        if isinstance(hook, EarlyStoppingHook):
            hook.wait_count = 0
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceOnPlateauParamScheduler):
            scheduler.num_bad_epochs = 0


def why_stopped(hooks: Sequence, latest: Mapping[str, float]) -> str | None:
    """Which early stopping has ended a training, in words; None when none of them has.

    Args:
        hooks: of the run.
        latest: metrics of the last validation.
    """
    reasons = []
    for hook in hooks:
        if not isinstance(hook, EarlyStoppingHook):
            continue
        value = latest.get(hook.monitor, hook.best_score)
        if hook.wait_count >= hook.patience:
            reasons.append(
                f'{hook.monitor} did not improve in {hook.wait_count} validations in a row, patience is {hook.patience}, '
                f'its best is {float(hook.best_score):.4g}'
            )
        elif hook.monitor in latest and hook.check_finite and not math.isfinite(value):
            reasons.append(f'{hook.monitor} is {value}')
        elif hook.stopping_threshold is not None and hook.rule_map[hook.rule](value, hook.stopping_threshold):
            reasons.append(f'{hook.monitor} reached {value:.4g}, its threshold is {hook.stopping_threshold:g}')
    return ', '.join(reasons) or None


def last_validation(runner) -> dict[str, float]:
    """Metrics of the last validation, by their names without MMEngine's prefix."""
    scalars = runner.message_hub.log_scalars
    return {key.removeprefix('val/'): float(buffer.current()) for key, buffer in scalars.items() if key.startswith('val/')}


def collect(runner, validated: bool) -> dict:
    """State of a run at the border of two epochs. Every process must call it.

    Args:
        runner: of the training.
        validated: whether the epoch's validation, if one is due, has been done.
    """
    sampler = sampler_of(runner.train_dataloader)
    return {
        'version': 1,
        'validated': validated,
        'random': all_gather_object(random_state()),
        'sampler': {key: getattr(sampler, key) for key in ('seed', 'epoch') if isinstance(getattr(sampler, key, None), int)},
        'early_stopping': patience_used(runner.hooks),
        'stopped': bool(runner.train_loop.stop_training),
    }


def restore(runner, state: dict) -> list[str]:
    """Put a run back into a state of :func:`collect`; returns what a person should know.

    The order of the data goes on as it was whatever the number of workers. In an epoch-based loop the random numbers do
    too, so that the resumed run equals one that was never stopped.
    """
    if state.get('version') != 1:
        return ['The checkpoint is of another version of mmext: order of the data and random numbers start anew.']
    lines = []
    loader, loop = runner.train_dataloader, runner.train_loop
    sampler, by_epoch = sampler_of(loader), isinstance(loop, EpochBasedTrainLoop)
    for key in ('seed', 'epoch') if by_epoch else ('seed',):  # an iteration-based loop counts the epochs again itself
        if key in state['sampler'] and hasattr(sampler, key):
            setattr(sampler, key, int(state['sampler'][key]))
    # the loader was built before the checkpoint gave the run its old seed
    if isinstance(loader.worker_init_fn, functools.partial) and 'seed' in loader.worker_init_fn.keywords:
        loader.worker_init_fn = functools.partial(loader.worker_init_fn, seed=runner.seed)
    stopped = restore_patience(runner.hooks, state['early_stopping'], state['stopped'], last_validation(runner))
    if stopped:
        loop.stop_training = True
        lines.append(stopped)
    if not by_epoch:
        # the loop has opened its loader by now, with the new process's own seed
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)
        order = 'is kept' if isinstance(sampler, (InfiniteSampler, DefaultSampler)) else 'may be another'
        lines.append(
            f'Iteration-based loop: the order of the data {order}, the random numbers of its augmentation start anew.'
        )
    elif get_world_size() != len(state['random']):
        lines.append(
            f'Written by {len(state["random"])} processes, resumed by {get_world_size()}: random numbers start anew.'
        )
    else:
        set_random_state(state['random'][get_rank()])
        if loader.num_workers and loader.persistent_workers:
            lines.append(
                'persistent_workers=True: the order of the data is kept, the random numbers of its augmentation start anew. '
                'With train_dataloader.persistent_workers=False a resumed run equals one that was never stopped.'
            )
    return lines


def validation_is_due(loop) -> bool:
    """Whether a validation follows the point at which a training loop stands, by MMEngine's own rule."""
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if loop.runner.val_loop is None or done < max(loop.val_begin, 1):
        return False
    interval = loop.dynamic_intervals[bisect.bisect(loop.dynamic_milestones, done + 1) - 1]
    return done % interval == 0 or done == end
