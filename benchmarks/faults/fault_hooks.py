"""Hooks that break a training on purpose, named in the configs that run.py writes: kills, slow writes, NaN, lost files."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import mmext.atomic_file
import mmext.hooks.checkpoint

CHUNKS = 20


def die() -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


class SlowPath(type(Path())):
    """A path whose files are written in chunks with a pause after each; the process dies within the chosen one."""

    writes = 0
    target: tuple[int, int] = (0, 0)

    def open(self, mode='r', *args, **kwargs):
        file = super().open(mode, *args, **kwargs)
        if 'w' not in mode or 'epoch_' not in self.name or 'best' in self.name:
            return file
        SlowPath.writes += 1
        return SlowFile(file, SlowPath.writes == self.target[0])


class SlowFile:
    def __init__(self, file, fatal: bool):
        self.file, self.fatal = file, fatal

    def write(self, data: bytes) -> None:
        step = len(data) // CHUNKS + 1
        for chunk in range(CHUNKS):
            self.file.write(data[chunk * step : (chunk + 1) * step])
            self.file.flush()
            time.sleep(0.005)
            if self.fatal and chunk == SlowPath.target[1]:
                die()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@HOOKS.register_module()
class KillHook(Hook):
    """SIGKILL at a recorded moment: ``iteration`` (asynchronous, ``delay`` s after the start of ``step`` of ``epoch``),
    ``write`` (in chunk ``step`` of the ``epoch``-th checkpoint written), ``validation`` (in it), ``decided`` (after the last
    hook of the validation, before the checkpoint is written again), ``pointer`` (between file and last_checkpoint)."""

    priority = 'LOWEST'

    def __init__(self, moment: str, epoch: int, step: int = 0, delay: float = 0.0):
        self.moment, self.epoch, self.step, self.delay = moment, epoch, step, delay
        if moment == 'write':
            SlowPath.target = (epoch, step)
            mmext.atomic_file.Path = SlowPath

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.moment == 'iteration' and (runner.epoch + 1, batch_idx) == (self.epoch, self.step):
            threading.Timer(self.delay, die).start()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.moment == 'validation' and runner.epoch == self.epoch:
            die()

    def after_val_epoch(self, runner, metrics=None):
        if self.moment == 'decided' and runner.epoch == self.epoch:
            die()

    def before_save_checkpoint(self, runner, checkpoint):
        if self.moment == 'pointer' and checkpoint['meta']['epoch'] == self.epoch and 'mmext' in checkpoint:
            mmext.hooks.checkpoint.write_atomically = lambda data, path: die()


@HOOKS.register_module()
class OrderHook(Hook):
    """Write the image ids of every batch to a file, a line each."""

    def __init__(self, file: str):
        self.file = file

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        ids = [sample.img_id for sample in data_batch['data_samples']]
        with Path(self.file).open('a') as file:
            file.write(json.dumps([runner.epoch + 1, batch_idx, ids]) + '\n')


@HOOKS.register_module()
class NaNHook(Hook):
    """Make one loss of the model NaN at one iteration."""

    def __init__(self, module: str, iteration: int):
        self.module, self.iteration = module, iteration

    def before_train(self, runner):
        spoil = lambda module, args, output: output * torch.nan if runner.iter + 1 == self.iteration else output  # noqa: E731
        runner.model.get_submodule(self.module).register_forward_hook(spoil)


@HOOKS.register_module()
class LoseFileHook(Hook):
    """Delete an image when an epoch has begun."""

    def __init__(self, file: str, epoch: int):
        self.file, self.epoch = file, epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.epoch + 1, batch_idx) == (self.epoch, 0):
            Path(self.file).unlink()
