"""Imported by the config of test_two_processes.py: each process keeps its weights; a checkpoint has the first one's."""

from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class KeepEachProcess(Hook):
    def after_train_epoch(self, runner) -> None:
        torch.save(runner.model.module.state_dict(), Path(runner.work_dir, f'rank{get_rank()}_epoch{runner.epoch + 1}.pth'))

    def after_train(self, runner) -> None:
        names = [group['name'] for group in runner.optim_wrapper.optimizer.param_groups]
        record = {'names': names, 'weights': runner.model.module.state_dict()}
        torch.save(record, Path(runner.work_dir, f'rank{get_rank()}.pth'))


@HOOKS.register_module()
class SpoilSecondProcess(Hook):
    """Makes the mask loss of the second process NaN at one iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_train(self, runner):
        def spoil(module, args, output):
            return output * torch.nan if get_rank() == 1 and runner.iter + 1 == self.iteration else output

        runner.model.module.roi_head.mask_head.loss_mask.register_forward_hook(spoil)
