"""The recipes' schedule: what steers it, and that the ratio between parts outlives it."""

from pathlib import Path

import pytest
from mmengine.config import Config

import mmext

SIBLINGS = [
    f'mask-rcnn_r50_fpn_finetune{name}' for name in ('', '_uniform', '_10x-s0', '_differential-10x', '_backbone-tenth')
]
HOOKS = {
    'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1},
    'resume': {'type': 'mmext.ResumeHook'},
    'group_lr': {'type': 'mmext.GroupLRHook'},
}


def schedulers(**plateau):
    """Those of the default recipe, following the tiny model's metric, which falls from one validation to the next."""
    warm_up, follow = Config.fromfile(mmext.recipe(SIBLINGS[0])).param_scheduler
    return [{**warm_up, 'share': 0.25}, {**follow, 'monitor': 'size', 'rule': 'greater', **plateau}]


def rates(lines):
    return [(line['backbone_lr'], line['mask_head_lr']) for line in lines if 'backbone_lr' in line]


@pytest.mark.parametrize('name', SIBLINGS)
def test_siblings_differ_in_optimizer_and_rates_only(name):
    sibling, base = (Config.fromfile(mmext.recipe(recipe)).to_dict() for recipe in (name, SIBLINGS[0]))
    for config in (sibling, base):
        for key in ('optimizer', 'paramwise_cfg'):
            config['optim_wrapper'].pop(key)
    assert sibling == base


def test_the_source_documents_figures():
    config = Config.fromfile(mmext.recipe(SIBLINGS[0]))
    plateau, stop = config.param_scheduler[1], config.default_hooks.early_stopping
    assert (plateau.monitor, plateau.factor, plateau.patience) == ('val_loss', 0.1, 5)
    assert (stop.monitor, stop.patience, stop.min_delta) == ('val_loss', 10, 0)
    assert config.default_hooks.checkpoint.save_best == 'coco/segm_mAP_50'
    assert (config.train_cfg.max_epochs, config.optim_wrapper.clip_grad.max_norm) == (50, 1.0)
    reference = Config.fromfile(mmext.recipe('mask-rcnn_r50_fpn_finetune_reference-1x'))
    assert 'early_stopping' not in reference.default_hooks
    assert reference.param_scheduler[1].type == 'MultiStepLR'


def test_ratio_is_kept_through_reductions_beside_a_warm_up(train_tiny, capsys):
    settings = {'custom_keys': {'mask_head': {'lr_mult': 10}}, 'default_hooks': HOOKS, 'epochs': 12, 'validate': True}
    # far below the 1e-8 at which MMEngine's own eps would leave the smaller rate alone
    _, lines = train_tiny(**settings, lr=1e-6, param_scheduler=schedulers(patience=0))
    seen = rates(lines)
    assert seen[0][0] == pytest.approx(1e-9)  # the warm-up's first step
    assert min(low for low, _ in seen) < 1e-15
    assert all(high == pytest.approx(10 * low) for low, high in seen)
    told = [line for line in capsys.readouterr().out.splitlines() if 'The schedule follows the validation' in line]
    assert 'after epoch 11: rates × 0.1: backbone' in told[-1]


def test_resumed_run_reduces_when_the_undisturbed_one_does(train_tiny):
    settings = {'custom_keys': {'mask_head': {'lr_mult': 10}}, 'default_hooks': HOOKS}
    settings |= {'validate': True, 'epochs': 8, 'lr': 1e-6}
    settings['param_scheduler'] = schedulers(patience=2)
    _, whole = train_tiny(**settings, folder='whole')
    runner, _ = train_tiny(**settings, folder='cut')
    Path(runner.work_dir, 'last_checkpoint').unlink()
    for epoch in (6, 7, 8):
        Path(runner.work_dir, f'epoch_{epoch}.pth').unlink()
    _, rest = train_tiny(**settings, folder='cut', resume=True)
    assert rates(rest) == rates(whole)[-len(rates(rest)) :]
    assert len({low for low, _ in rates(rest)}) > 1
