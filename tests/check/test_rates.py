import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmext.check.rates import (
    Run,
    batch_findings,
    bound_findings,
    images_an_epoch,
    part_rates,
    plateau_findings,
    rate_findings,
    ratio_findings,
    run_of,
    schedule_findings,
    schedulers_of,
)

RUN = Run(epochs=12, epoch_length=50, iterations=600, batch=2)
BY_ITERATION = Run(epochs=None, epoch_length=50, iterations=600, batch=2)
WARM = {'type': 'LinearLR', 'start_factor': 0.001, 'by_epoch': False, 'begin': 0}
STEPS = {'type': 'MultiStepLR', 'by_epoch': True, 'gamma': 0.1}
COSINE = {'type': 'CosineAnnealingLR', 'by_epoch': True, 'convert_to_iter_based': True}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def codes(findings):
    return [finding.code for finding in findings]


def at(schedulers):
    """As ``schedulers_of`` gives them for a list."""
    return schedulers_of(Config({'param_scheduler': list(schedulers)}))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.mask_head = torch.nn.Linear(4, 1)


def config(lr=0.0025, scheduler=(), **settings):
    optim_wrapper = {'optimizer': {'type': 'SGD', 'lr': lr, **settings.pop('optimizer', {})}}
    return Config({'optim_wrapper': optim_wrapper, 'param_scheduler': list(scheduler), **settings})


def found(cfg, multiplier=1, run=RUN, fresh=None):
    net = Net()
    lr = cfg.optim_wrapper.optimizer.lr
    groups = [{'params': net.backbone.parameters(), 'lr': lr}, {'params': net.mask_head.parameters(), 'lr': lr * multiplier}]
    return rate_findings(cfg, run, net, torch.optim.SGD(groups, lr=lr), fresh)


# ---- length of the run


def loader(dataset, batch_size=2, **more):
    return {'batch_size': batch_size, 'dataset': dataset, **more}


def test_length_follows_wrappers_batch_and_what_is_left_out(tmp_path):
    one = {'data_root': str(tmp_path), 'ann_file': 'a.json'}
    other = {'data_root': str(tmp_path), 'ann_file': 'b.json'}
    images = {tmp_path / 'a.json': 7, tmp_path / 'b.json': 4}
    wrapped = {'type': 'RepeatDataset', 'times': 3, 'dataset': {'type': 'ConcatDataset', 'datasets': [one, other]}}
    assert images_an_epoch(wrapped, images) == 33
    cfg = {'train_cfg': {'max_epochs': 5}, 'train_dataloader': loader(one)}
    assert run_of(Config(cfg), images) == Run(5, 4, 20, 2)
    cfg['train_dataloader']['batch_sampler'] = {'drop_last': True}
    cfg['optim_wrapper'] = {'accumulative_counts': 4}
    assert run_of(Config(cfg), images) == Run(5, 3, 15, 8)
    cfg['train_cfg'] = {'max_iters': 90}
    assert run_of(Config(cfg), images) == Run(None, 3, 90, 8)
    assert run_of(Config(cfg), {}) is None


# ---- schedulers against the length


@pytest.mark.parametrize(
    ('scheduler', 'run', 'code', 'words'),
    [
        (WARM | {'end': 600}, RUN, 'warm-up-never-over', 'takes 600 iterations and the run has 600'),
        (WARM, RUN, 'warm-up-never-over', 'at the end they are at 100 %'),  # no end: MMEngine takes the run's
        (WARM | {'end': 12, 'by_epoch': True}, RUN, 'warm-up-never-over', '12 epochs'),
        (WARM | {'end': 150}, RUN, 'warm-up-long', '150 of 600 iterations, 25 % of the run'),
        ({'type': 'mmext.WarmupShareLR', 'share': 0.5, 'by_epoch': False}, RUN, 'warm-up-long', '50 % of the run'),
        (STEPS | {'milestones': [8, 12]}, RUN, 'milestone-never-reached', 'after epochs 12, and the run has 12: 1 of 2'),
        (STEPS | {'milestones': [8, 11], 'end': 10}, RUN, 'milestone-never-reached', 'this scheduler ending at 10'),
        ({'type': 'StepLR', 'step_size': 30}, RUN, 'milestone-never-reached', 'after epochs 30'),
        (STEPS | {'milestones': [8, 11]}, BY_ITERATION, 'scheduler-never-steps', 'max_iters=600 has none'),
        (COSINE | {'T_max': 50}, RUN, 'decay-unfinished', 'over 50 epochs, and the run leaves it 12: it ends after 24 %'),
        ({'type': 'PolyLR', 'begin': 2, 'end': 100}, RUN, 'decay-unfinished', 'over 98 epochs'),
    ],
)
def test_schedule_that_does_not_fit_the_run(scheduler, run, code, words):
    (finding,) = schedule_findings(at([scheduler]), run)
    assert (finding.code, finding.where) == (code, 'config')
    assert words in finding.text
    assert 'param_scheduler.0' in finding.remedy


@pytest.mark.parametrize(
    'schedulers',
    [
        [WARM | {'end': 30}, STEPS | {'milestones': [8, 11], 'end': 12}],
        [{'type': 'mmext.WarmupShareLR', 'share': 0.05, 'by_epoch': False}, COSINE | {'eta_min_ratio': 0.01}],
        [{'type': 'LinearLR', 'start_factor': 1.0, 'end_factor': 0.1, 'by_epoch': True}],
        [COSINE | {'begin': 2, 'T_max': 10, 'end': 12}],
    ],
)
def test_schedule_that_fits_says_nothing(schedulers):
    assert schedule_findings(at(schedulers), RUN) == []


def epochs(number):
    return Run(epochs=number, epoch_length=50, iterations=50 * number, batch=2)


@pytest.mark.parametrize(
    ('number', 'milestones'), [(12, '[8,11]'), (6, '[4,5]'), (5, '[3,4]'), (4, '[3]'), (3, '[2]'), (2, None), (1, None)]
)
def test_milestones_that_are_advised_are_reached(number, milestones):
    late = STEPS | {'milestones': [20, 30]}
    (finding,) = schedule_findings(at([late]), epochs(number))
    if milestones:
        assert finding.remedy == f'param_scheduler.0.milestones={milestones}'
        assert schedule_findings(at([mended(late, finding.remedy)]), epochs(number)) == []
    else:
        assert finding.remedy.startswith("param_scheduler.0 as a cosine, dict(type='CosineAnnealingLR'")


@pytest.mark.parametrize(
    ('late', 'remedy'),
    [
        (STEPS | {'milestones': [8, 11], 'begin': 6}, 'param_scheduler.0.milestones=[4,5]'),
        (STEPS | {'milestones': [8, 11], 'end': 10}, 'param_scheduler.0.milestones=[8,11] param_scheduler.0.end=12'),
        ({'type': 'StepLR', 'step_size': 9, 'begin': 4}, 'param_scheduler.0.step_size=5'),
        ({'type': 'StepLR', 'step_size': 9, 'begin': 11}, None),
    ],
)
def test_milestones_that_are_advised_count_from_the_begin(late, remedy):
    (finding,) = schedule_findings(at([late]), RUN)
    if remedy:
        assert finding.remedy == remedy
        assert schedule_findings(at([mended(late, remedy)]), RUN) == []
    else:
        assert 'as a cosine' in finding.remedy


def test_a_warm_up_in_epochs_gets_one_that_follows_the_run():
    (finding,) = schedule_findings(at([WARM | {'end': 1, 'by_epoch': True}]), epochs(3))
    assert finding.code == 'warm-up-long'
    assert finding.remedy.startswith("param_scheduler.0 as dict(type='mmext.WarmupShareLR', share=0.05")
    (finding,) = schedule_findings(at([WARM | {'end': 150}]), RUN)
    line, other = finding.remedy.splitlines()
    assert line == 'param_scheduler.0.end=30'
    assert schedule_findings(at([mended(WARM, line)]), RUN) == []
    assert 'mmext.WarmupShareLR' in other


@pytest.mark.parametrize(
    ('schedulers', 'path'),
    [
        (STEPS, 'param_scheduler'),
        ([WARM | {'end': 20}, STEPS], 'param_scheduler.1'),
        ({'head': [STEPS]}, 'param_scheduler.head.0'),
        ({'head': STEPS}, 'param_scheduler.head'),
    ],
)
def test_remedies_name_the_path_that_the_config_has(schedulers, path):
    cfg = Config({'param_scheduler': schedulers})
    late = schedulers_of(cfg)[path]
    late['milestones'] = [20]
    (finding,) = schedule_findings(schedulers_of(cfg), RUN)
    assert finding.remedy == f'{path}.milestones=[8,11]'
    late['type'] = 'ReduceOnPlateauLR'
    (finding,) = plateau_findings(schedulers_of(cfg), {'val_interval': 2}, RUN)
    assert finding.remedy.startswith(f'{path}.patience=2')


@pytest.mark.parametrize(
    ('scheduler', 'run', 'remedy'),
    [
        (COSINE | {'begin': 12}, RUN, 'param_scheduler.0.begin=6'),  # no end: it is the run's
        (
            COSINE | {'begin': 150, 'T_max': 50, 'end': 200},
            RUN,
            'begin=6 param_scheduler.0.T_max=6 param_scheduler.0.end=12',
        ),
        ({'type': 'PolyLR', 'begin': 900, 'by_epoch': False}, BY_ITERATION, 'param_scheduler.0.begin=300'),
        (STEPS | {'milestones': [8, 11], 'begin': 20}, RUN, 'param_scheduler.0.begin=0'),
        (WARM | {'begin': 700, 'end': 720}, RUN, 'param_scheduler.0.begin=0 param_scheduler.0.end=20'),
    ],
)
def test_a_scheduler_that_begins_after_the_run(scheduler, run, remedy):
    (finding,) = schedule_findings(at([scheduler]), run)
    assert (finding.code, finding.severity) == ('scheduler-never-starts', 'warning')
    assert f'begins after {scheduler["begin"]} ' in finding.text
    assert finding.remedy.endswith(remedy)
    assert schedule_findings(at([mended(scheduler, finding.remedy)]), run) == []


def mended(scheduler, remedy):
    """The scheduler after a remedy of the form ``key=value`` is pasted."""
    cfg = Config({'param_scheduler': [scheduler]})
    cfg.merge_from_dict(
        {key: DictAction._parse_iterable(value) for key, _, value in (i.partition('=') for i in remedy.split())}
    )
    return cfg.param_scheduler[0]


def test_a_decay_without_a_span_is_left_to_the_dry_run():
    refused = COSINE | {'begin': 4, 'end': 4}
    assert schedule_findings(at([refused]), RUN) == []
    assert codes(found(config(scheduler=[refused]))) == ['scheduler-not-built']


def test_plateau_needs_more_validations_than_its_patience():
    plateau = {'type': 'ReduceOnPlateauLR', 'patience': 5}
    (finding,) = plateau_findings(at([plateau]), {'val_interval': 2}, RUN)
    assert 'more than 5 validations' in finding.text
    assert 'the run has 6' in finding.text
    assert plateau_findings(at([plateau]), {'val_interval': 1}, RUN) == []


# ---- rates


def test_rate_of_a_part_is_the_one_that_most_of_its_parameters_have():
    net = Net()
    net.backbone.bias.requires_grad = False
    groups = [
        {'params': [net.backbone.weight], 'lr': 0.1},
        {'params': [net.mask_head.bias], 'lr': 0.4},
        {'params': [net.mask_head.weight], 'lr': 0.2},
    ]
    assert part_rates(net, torch.optim.SGD(groups, lr=1)) == {'backbone': 0.1, 'mask_head': 0.2}


def test_bounds_are_told_apart_by_part_batch_and_optimizer():
    linear = {'backbone': 0.005, 'mask_head': 0.025}
    assert bound_findings(linear, 'SGD', 0.005, 2) == []  # exactly at the bounds
    (finding,) = bound_findings(linear | {'mask_head': 0.05}, 'SGD', 0.005, 2)
    assert finding.code == 'rate-unsafe'
    assert finding.severity == 'warning'
    assert '20 times' in finding.text
    assert finding.examples == ('mask_head: 0.05 is 20 times 0.0025, bound 10 times',)
    assert finding.remedy.startswith('optim_wrapper.optimizer.lr=0.0025')
    assert bound_findings({'mask_head': 0.05}, 'SGD', 0.005, 4) == []
    assert codes(bound_findings({'backbone': 1e-3}, 'AdamW', 1e-3, 2)) == ['rate-unsafe']
    assert bound_findings({'backbone': 1e-4, 'mask_head': 1e-3}, 'Adam', 1e-3, 2) == []
    assert bound_findings({'backbone': 100.0}, 'Lion', 1e-3, 2) == []


def test_clipped_gradients_stand_more():
    rates = {'backbone': 0.08, 'mask_head': 0.08}
    assert bound_findings(rates, 'SGD', 0.08, 2, with_clip=True) == []
    (finding,) = bound_findings(rates, 'SGD', 0.08, 2)
    assert 'clip_grad.max_norm=1, with which 32 times was stable' in finding.remedy
    (finding,) = bound_findings({'backbone': 0.1}, 'SGD', 0.1, 2, with_clip=True)
    assert 'bound 32 times' in finding.examples[0]
    assert 'clip_grad' not in finding.remedy
    assert codes(bound_findings({'backbone': 1e-3}, 'AdamW', 1e-3, 2, with_clip=True)) == ['rate-unsafe']
    cfg = config(lr=0.02, model={'roi_head': {}})
    weak = ({'max_norm': 35}, {'max_norm': 1.0, 'norm_type': 'inf'}, {'max_norm': 'inf'}, {})
    for clip in weak:
        cfg.optim_wrapper.clip_grad = clip
        assert codes(found(cfg)) == ['rate-unsafe']
    cfg.optim_wrapper.clip_grad = {'max_norm': 1.0}
    assert codes(found(cfg)) == []
    del cfg.model['roi_head']
    assert codes(found(cfg)) == ['rate-unsafe']


def test_peak_of_the_schedule_and_of_the_stages_counts():
    assert codes(found(config())) == []
    one_cycle = {'type': 'OneCycleLR', 'eta_max': 0.05, 'total_steps': 600, 'by_epoch': False}
    assert 'rate-unsafe' in codes(found(config(scheduler=[one_cycle])))
    hook = {'type': 'mmext.StagedTrainingHook', 'stages': [{'epochs': 2, 'train': 'heads', 'lr_mult': 20}, {'train': 'all'}]}
    assert codes(found(config(default_hooks={'staged_training': hook}))) == ['rate-unsafe']
    hook['stages'][0]['epochs'] = 40
    findings = found(config(default_hooks={'staged_training': hook}))
    assert codes(findings) == ['stages-wrong', 'rate-unsafe']
    assert 'would begin after 40 epochs' in findings[0].text


def test_adam_of_a_family_without_rois_has_no_bound():
    adam = {'optimizer': {'type': 'AdamW'}}
    assert codes(found(config(lr=4e-3, model={'roi_head': {}}, **adam))) == ['rate-unsafe']
    assert codes(found(config(lr=4e-3, model={'bbox_head': {}}, **adam))) == []


def test_a_warm_up_that_is_never_over_hides_no_rate():
    (finding,) = found(config(lr=0.02, scheduler=[WARM | {'end': 6000}]))
    assert '8 times' in finding.text


def test_rate_for_another_batch_is_information():
    cfg = config(lr=0.02, auto_scale_lr={'base_batch_size': 16, 'enable': False})
    (finding,) = batch_findings(cfg, 2)
    assert finding.severity == 'information'
    assert 'for a batch of 16; on one GPU the loader gives 2' in finding.text
    assert '0.0025' in finding.text
    assert batch_findings(cfg, 16) == []
    cfg.auto_scale_lr.enable = True
    assert batch_findings(cfg, 2) == []
    assert codes(found(cfg)) == []  # the rate is scaled before it is held against its bound
    cfg.auto_scale_lr.enable = False
    assert codes(found(cfg)) == ['rate-for-another-batch', 'rate-unsafe']
    cfg.optim_wrapper.optimizer = {'type': 'Adam', 'lr': 1e-4}
    assert batch_findings(cfg, 2) == []  # the linear rule is not Adam's


@pytest.mark.parametrize('iterations', [600, 200_000])
def test_undone_ratio_is_found_in_runs_of_any_length(iterations):
    run = Run(12, iterations // 12, iterations // 12 * 12, 2)
    (finding,) = found(config(scheduler=[COSINE | {'eta_min': 1e-3}]), multiplier=10, run=run)
    assert (finding.code, finding.severity) == ('ratio-undone', 'warning')
    assert 'mask_head : backbone is planned as 10' in finding.examples[0]
    assert f'of {run.iterations}' in finding.examples[0]
    assert 'eta_min_ratio' in finding.remedy
    fine = [WARM | {'end': 20}, COSINE | {'eta_min_ratio': 0.01}]
    assert found(config(scheduler=fine), multiplier=10, run=run) == []
    floor = {'type': 'ReduceOnPlateauLR', 'monitor': 'val_loss', 'min_value': 1e-3}
    assert codes(found(config(scheduler=[floor]), multiplier=10, run=run)) == ['ratio-undone']


def test_iteration_based_run_is_shortened_in_its_own_unit():
    run = Run(None, 100, 100_000, 2)
    linear = WARM | {'end': 1000}
    cosine = {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 1000, 'end': 100_000, 'T_max': 99_000}
    assert found(config(scheduler=[linear, cosine | {'eta_min_ratio': 0.1}]), multiplier=10, run=run) == []
    assert codes(found(config(scheduler=[linear, cosine | {'eta_min': 1e-3}]), multiplier=10, run=run)) == ['ratio-undone']


def test_a_rate_of_nothing_for_half_of_the_run():
    (finding,) = found(config(scheduler=[COSINE | {'end': 6, 'T_max': 6, 'eta_min': 0}]))
    assert finding.code == 'rate-near-zero'
    assert 'For 5' in finding.text
    assert found(config(scheduler=[COSINE | {'eta_min': 0}])) == []


def test_scheduler_that_cannot_be_built():
    (finding,) = found(config(scheduler=[{'type': 'CosineAnealingLR'}]))
    assert (finding.code, finding.severity) == ('scheduler-not-built', 'severe')
    assert 'CosineAnealingLR' in finding.text


def test_multipliers_on_loaded_parts():
    new_mask = {'mask_head.weight': 'other shape'}
    assert found(config(), multiplier=10, fresh=new_mask) == []
    (finding,) = found(config(), multiplier=10, fresh={'backbone.weight': 'not in the checkpoint'})
    assert (finding.code, finding.severity) == ('multiplier-upside-down', 'warning')
    assert 'mask_head (10 times)' in finding.text
    assert finding.remedy == 'optim_wrapper.paramwise_cfg.custom_keys.mask_head.lr_mult=1'
    assert found(config(), multiplier=10, fresh={}) == []


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=50), st.lists(st.floats(1e-3, 10), min_size=1, max_size=4))
def test_any_common_factor_keeps_the_ratio(factors, rates):
    named = {f'part{i}': rate for i, rate in enumerate(rates)}
    findings = ratio_findings(np.outer(factors, rates), [], named, Run(1, len(factors), len(factors), 1))
    assert 'ratio-undone' not in codes(findings)
