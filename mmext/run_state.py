"""What a run is made of beside weights, optimizer and schedulers: random numbers, order of the data, patience used up."""

import bisect
import functools
import random
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook
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


def patience_used(hooks: Sequence) -> dict[str, dict]:
    """Count and best score of each early stopping, by the metric that it follows."""
    return {
        hook.monitor: {'wait_count': hook.wait_count, 'best_score': float(hook.best_score)}
        for hook in hooks
        if isinstance(hook, EarlyStoppingHook)
    }


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
    }


def restore(runner, state: dict) -> list[str]:
    """Put a run back into a state of :func:`collect`; returns what a person should know.

    The order of the data goes on as it was whatever the number of workers. In an epoch-based loop the random numbers do
    too, so that the resumed run equals one that was never stopped.
    """
    lines = []
    loader = runner.train_dataloader
    sampler = sampler_of(loader)
    for key, value in state['sampler'].items():
        setattr(sampler, key, value)
    # the loader was built before the checkpoint gave the run its old seed
    if isinstance(loader.worker_init_fn, functools.partial) and 'seed' in loader.worker_init_fn.keywords:
        loader.worker_init_fn = functools.partial(loader.worker_init_fn, seed=runner.seed)
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook) and hook.monitor in state['early_stopping']:
            vars(hook).update(state['early_stopping'][hook.monitor])
            if hook.wait_count >= hook.patience:
                runner.train_loop.stop_training = True
                lines.append(
                    f'This run had stopped early: {hook.monitor} did not improve {hook.wait_count} times. Nothing is left '
                    f'to train; to go on, set the patience of EarlyStoppingHook, now {hook.patience}, higher.'
                )
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        _restart_endless_sampler(runner, sampler)
        lines.append('Iteration-based loop: the order of the data is kept, the random numbers of its augmentation are not.')
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


def _restart_endless_sampler(runner, sampler: Sampler) -> None:
    """An iteration-based loop has opened its loader by now, with the new process's own seed."""
    if hasattr(sampler, '_indices_of_rank'):
        sampler.indices = sampler._indices_of_rank()
        iterator = runner.train_loop.dataloader_iterator
        runner.train_loop.dataloader_iterator = type(iterator)(runner.train_dataloader)


def validation_is_due(loop) -> bool:
    """Whether a validation follows the point at which a training loop stands, by MMEngine's own rule."""
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if loop.runner.val_loop is None or done < max(loop.val_begin, 1):
        return False
    interval = loop.dynamic_intervals[bisect.bisect(loop.dynamic_milestones, done + 1) - 1]
    return done % interval == 0 or done == end
