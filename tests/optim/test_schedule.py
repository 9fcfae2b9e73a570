import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import init_default_scope

from mmext.optim.schedule import dry_run, lost_ratios, moments

NAMES = ['backbone', 'mask_head']
RATES = [1e-3, 1e-2]
COSINE = {'type': 'CosineAnnealingLR', 'by_epoch': True, 'convert_to_iter_based': True}
WARM = {'type': 'mmext.WarmupShareLR', 'share': 0.1, 'by_epoch': False}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def test_dry_run_equals_a_real_run(train_tiny):
    cfgs = [WARM, COSINE | {'eta_min_ratio': 0.01}]
    keys = {'mask_head': {'lr_mult': 10}}
    hooks = {'group_lr': {'type': 'mmext.GroupLRHook'}}
    _, lines = train_tiny(keys, hooks, epochs=4, images=10, lr=1e-3, param_scheduler=cfgs)
    table, *_ = dry_run(cfgs, RATES, 4, 10)
    assert table.tolist() == [[line['backbone_lr'], line['mask_head_lr']] for line in lines]


def test_dry_run_of_an_iteration_based_run_equals_a_real_one(train_tiny):
    cfgs = [WARM, COSINE | {'eta_min_ratio': 0.01}]
    hooks = {'group_lr': {'type': 'mmext.GroupLRHook'}}
    loop = {'type': 'IterBasedTrainLoop', 'max_iters': 23, 'val_interval': 100}
    keys = {'mask_head': {'lr_mult': 10}}
    _, lines = train_tiny(keys, hooks, images=10, lr=1e-3, param_scheduler=cfgs, train_cfg=loop)
    table, *_ = dry_run(cfgs, RATES, 1, 10, max_iters=23)
    assert table.tolist() == [[line['backbone_lr'], line['mask_head_lr']] for line in lines]


def test_milestones_are_shown():
    cfgs = [{'type': 'MultiStepLR', 'by_epoch': True, 'milestones': [8, 11], 'gamma': 0.1}]
    found = moments(dry_run(cfgs, RATES, 12, 5)[0])
    assert [(m.label, m.iteration) for m in found] == [('start', 1), ('change', 41), ('change', 56), ('end', 60)]
    assert found[1].rates == pytest.approx((1e-4, 1e-3))


def test_absolute_floor_undoes_the_ratio_and_a_relative_one_does_not():
    lost = lost_ratios(dry_run([COSINE | {'eta_min': 1e-3}], RATES, 4, 25)[0], NAMES, RATES)
    assert len(lost) == 1
    assert 'mask_head : backbone is planned as 10' in lost[0]
    assert 'eta_min_ratio' in lost[0]
    assert lost_ratios(dry_run([WARM, COSINE | {'eta_min_ratio': 0.01}], RATES, 4, 25)[0], NAMES, RATES) == []


def test_plateau_is_named_and_its_floor_too():
    plateau = {'type': 'ReduceOnPlateauLR', 'monitor': 'coco/segm_mAP', 'rule': 'greater', 'by_epoch': True}
    table, remarks, lost = dry_run([plateau | {'min_value': 1e-5}], RATES, 2, 5)
    assert np.ptp(table[:, 0]) == 0
    assert 'follows coco/segm_mAP' in remarks[0]
    assert 'one floor for all parts' in lost[0]
    assert dry_run([plateau], RATES, 2, 5)[2] == []


@given(
    st.lists(st.floats(1e-6, 1, allow_nan=False), min_size=1, max_size=60),
    st.lists(st.floats(1e-3, 100), min_size=1, max_size=4),
)
def test_any_common_factor_keeps_the_ratio(factors, rates):
    table = np.outer(factors, rates)
    names = [f'part{i}' for i in range(len(rates))]
    assert lost_ratios(table, names, rates) == []
    found = moments(table)
    assert found[0].iteration == 1
    assert found[-1].iteration == len(factors)
    assert [m.iteration for m in found] == sorted({m.iteration for m in found})
