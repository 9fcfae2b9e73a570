"""Rules against runs that are written here; S4's vectors first."""

import itertools
import json
import re
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.analysis.diagnose import _MEASURED, HEALTHY, NOT_ENOUGH, PROBLEM, Cause, diagnose, rank
from mmext.analysis.report import to_text
from mmext.analysis.rules import RULES
from mmext.errors import InputError

CONFIG = """
model = dict(type='MaskRCNN', roi_head=dict(
    bbox_head=dict(loss_cls=dict(type='CrossEntropyLoss', loss_weight=1.0), loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    mask_head=dict(loss_mask=dict(type={mask_loss!r}, loss_weight={mask_weight}))))
optim_wrapper = dict(
    optimizer=dict(type={optimizer!r}, lr={lr}), clip_grad={clip!r}, paramwise_cfg=dict(custom_keys={keys!r}))
param_scheduler = {schedulers!r}
train_cfg = dict(max_epochs={epochs})
train_dataloader = dict(batch_size={batch})
log_processor = dict(window_size=1)
"""
KEYS = {'backbone': {'lr_mult': 1}, 'roi_head': {'lr_mult': 10}}
ORDER = ('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask')
MASK, BOX = 'coco/segm_mAP', 'coco/bbox_mAP'


def losses(*values):
    return dict(zip(ORDER, values, strict=True))


def make_run(folder, train, val=(), groups=None, end=None, **config):
    """A work_dir with a log: each training line gets its total, its iteration and, without one, its epoch."""
    logs = folder / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    lines = []
    for i, line in enumerate(train):
        total = sum(value for name, value in line.items() if name.startswith('loss_'))
        lines.append({'loss': total, 'epoch': i // 10 + 1, 'step': (i + 1) * 10, **line})
    config = {
        'mask_loss': 'CrossEntropyLoss',
        'mask_weight': 1.0,
        'lr': 0.001,
        'optimizer': 'SGD',
        'clip': None,
        'keys': KEYS,
        'schedulers': [],
        'epochs': 100,
        'batch': 2,
    } | config
    (logs / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in [*lines, *val]))
    (logs / 'config.py').write_text(CONFIG.format(**config))
    if groups is not None:
        (logs.parent / 'param_groups.json').write_text(json.dumps({'groups': groups}))
    if end:
        (logs.parent / 'run_end.json').write_text(json.dumps({'text': end}))
    return folder


def codes(diagnosis, **where):
    return [f.code for f in diagnosis.findings if all(getattr(f, name) == value for name, value in where.items())]


# ---- S4's vectors: what the source document shows, and what is to be found in it


def at(epoch, values, box=None, mask=None):
    """Five log lines of one epoch, and its validation."""
    lines = [{**values, 'epoch': epoch, 'step': (epoch - 1) * 50 + 10 * i} for i in range(1, 6)]
    return lines, ([{BOX: box, MASK: mask, 'step': epoch * 50}] if box is not None else [])


def from_to(*stations):
    """A line an epoch, straight between the epochs that S4 prints; APs at those epochs alone."""
    lines, val = [], []
    names = list(stations[0][1])
    for epoch in range(stations[0][0], stations[-1][0] + 1):
        line = {name: float(np.interp(epoch, [s[0] for s in stations], [s[1][name] for s in stations])) for name in names}
        lines.append({**line, 'epoch': epoch, 'step': epoch * 50})
    for epoch, _, *aps in stations:
        if aps:
            val.append({BOX: aps[0], MASK: aps[1], 'step': epoch * 50})
    return lines, val


EPOCH_1 = losses(0.2987, 0.2334, 0.3567, 0.2456, 0.4890)
EPOCH_5 = losses(0.0567, 0.1087, 0.1456, 0.1234, 0.3890)
EPOCH_20 = losses(0.0234, 0.0743, 0.0567, 0.0456, 0.1234)
HEALTHY_1 = losses(0.450, 0.180, 0.350, 0.250, 0.400)
HEALTHY_10 = losses(0.080, 0.050, 0.100, 0.080, 0.150)


def only_mask(*pairs):
    lines, val = from_to(*((epoch, {'loss_mask': value}) for epoch, value in pairs))
    return lines, val


def exploding():
    lines, _ = only_mask((1, 0.4), (5, 2.1), (9, 2.1))
    return [*lines, {'loss_mask': float('nan'), 'epoch': 10, 'step': 500}], []


VECTORS = {
    'log, epoch 1: 30.1 %': (at(1, EPOCH_1, 0.1234, 0.0456), []),
    'healthy, epoch 1: 24.5 %': (at(1, HEALTHY_1), []),
    'healthy, epoch 10: 32.6 %': (at(10, HEALTHY_10), []),
    'healthy, epochs 1 to 10': (from_to((1, HEALTHY_1), (10, HEALTHY_10)), []),
    'workflow, epoch 5: 47.2 %, box AP 0.6543, mask AP 0.2134': (at(5, EPOCH_5, 0.6543, 0.2134), ['box-mask-gap']),
    'log, epoch 5: the same losses, 0.4567 and 0.2345': (at(5, EPOCH_5, 0.4567, 0.2345), []),
    'log, epoch 20: 38.2 %': (at(20, EPOCH_20, 0.8234, 0.7567), []),
    'log, epochs 1 to 20': (
        from_to((1, EPOCH_1, 0.1234, 0.0456), (5, EPOCH_5, 0.4567, 0.2345), (20, EPOCH_20, 0.8234, 0.7567)),
        [],
    ),
    'problem 1: 0.400, 0.380, 0.370': (only_mask((1, 0.400), (10, 0.380), (20, 0.370)), ['mask-loss-not-falling']),
    'problem 2: 0.4, 2.1, NaN': (exploding(), ['loss-exploding']),
    'problem 3: 64.5 %': (at(10, losses(0.050, 0.030, 0.080, 0.060, 0.400)), ['mask-share-high']),
}


@pytest.mark.parametrize('name', VECTORS)
def test_s4s_vectors(tmp_path, name):
    (train, val), expected = VECTORS[name]
    assert codes(diagnose(make_run(tmp_path, train, val))) == expected


# the same shapes with noise, as a log has it; what is seen besides must be put down to the cause
@pytest.mark.parametrize('seed', range(5))
def test_problem_1_among_healthy_losses_is_named_first(tmp_path, seed):
    generator = np.random.default_rng(seed)
    train, _ = from_to((1, HEALTHY_1 | {'loss_mask': 0.40}), (20, HEALTHY_10 | {'loss_mask': 0.37}))
    train = [{k: v * generator.normal(1, 0.05) if k.startswith('loss') else v for k, v in line.items()} for line in train]
    answer = diagnose(make_run(tmp_path, train))
    assert answer.findings[0].code == 'mask-loss-not-falling'
    assert codes(answer, follows_from=None) == ['mask-loss-not-falling']
    assert set(codes(answer)) <= {'mask-loss-not-falling', 'mask-loss-slow', 'mask-share-high'}


# ---- healthy, and too little to say anything


def curve(start, end, lines=40, noise=0.05, seed=0):
    """A loss that falls fast and then slowly, as losses do."""
    generator = np.random.default_rng(seed)
    values = end + (start - end) * np.exp(-np.linspace(0, 6, lines))
    return values * generator.normal(1, noise, lines)


def healthy_train(lines=40, seed=0, **changed):
    ends = {'loss_rpn_cls': (0.3, 0.06), 'loss_rpn_bbox': (0.04, 0.02), 'loss_cls': (1.2, 0.2), 'loss_bbox': (0.4, 0.2)}
    ends |= {'loss_mask': (1.5, 0.18)}
    columns = {name: curve(*pair, lines, seed=seed + i) for i, (name, pair) in enumerate(ends.items())} | changed
    return [{name: float(column[i]) for name, column in columns.items()} for i in range(lines)]


def healthy_val(epochs=4, **changed):
    box, mask = np.linspace(0.2, 0.5, 10)[-epochs:], np.linspace(0.18, 0.48, 10)[-epochs:]
    lines = []
    for i in range(epochs):
        line = {BOX: box[i], 'coco/bbox_mAP_50': box[i] + 0.2, MASK: mask[i], 'step': (i + 1) * 100, 'val_loss_mask': 0.18}
        line |= {'val_loss': 0.7, 'mask/iou': 0.75, 'mask/gap': 0.05, 'mask/coverage': 0.85, 'mask/area_ratio': 0.95}
        lines.append(line | {name: values[i] for name, values in changed.items()})
    return lines


def at_all_times(**values):
    return healthy_val(**{name: [value] * 4 for name, value in values.items()})


@pytest.mark.parametrize('seed', range(8))
def test_a_healthy_run_has_no_problem(tmp_path, seed):
    answer = diagnose(make_run(tmp_path, healthy_train(seed=100 * seed), healthy_val()))
    assert (answer.status, codes(answer)) == (HEALTHY, [])
    assert answer.verdict == 'So far: nothing in the records is wrong: mask AP 0.480 beside box AP 0.500.'


@pytest.mark.parametrize('lines', [1, 3, 7])
def test_few_log_lines_are_not_enough_evidence(tmp_path, lines):
    answer = diagnose(make_run(tmp_path, healthy_train(40)[:lines]))
    assert (answer.status, codes(answer)) == (NOT_ENOUGH, [])
    assert f'log lines with a mask loss and windows of their own: {lines}, needed: 8' in answer.verdict
    assert {'mask-loss-not-falling', 'mask-loss-slow', 'box-mask-gap'} <= set(answer.not_judged)


def test_lines_that_share_iterations_count_once(tmp_path):
    folder = make_run(tmp_path, healthy_train(20))
    config = folder / '20260101_000000/vis_data/config.py'
    config.write_text(config.read_text().replace('window_size=1', 'window_size=50'))
    assert 'windows of their own: 4, needed: 8' in diagnose(folder).verdict


def test_no_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r'no run in it.*--work-dir'):
        diagnose(tmp_path)


# ---- one run a rule: what is changed in a healthy one, and the finding


def lines_with(lines=40, **columns):
    return healthy_train(lines, **{name: np.broadcast_to(values, lines) for name, values in columns.items()})


def rates(mask=0.01, box=0.01, base=0.001, **others):
    parts = {'base_lr': base, 'backbone_lr': base, 'bbox_head_lr': box, 'mask_head_lr': mask, **others}
    return {name: np.broadcast_to(values, 40) for name, values in parts.items()}


def group(part, multiplier, trainable=100, fresh=()):
    return {'name': part, 'part': part, 'multiplier': multiplier, 'trainable': trainable, 'fresh': list(fresh)}


ENDED = 'Training ended: all 4 epochs are done.'
WARM_UP = [{'type': 'LinearLR', 'begin': 0, 'end': 2000, 'by_epoch': False}]
NOISE = np.random.default_rng(1).normal(1, 0.02, 40)

PLANTED = {
    'loss-exploding': dict(train=lines_with(loss_mask=np.append(curve(1.5, 0.2, 30), np.linspace(0.3, 4, 10)))),
    'rate-too-high': dict(
        train=lines_with(loss_cls=np.r_[0.5, 2.5, 3.5, np.geomspace(3, 0.2, 37)], **rates(mask=1.0, box=1.0, base=0.1))
    ),
    'no-positive-rois': dict(train=lines_with(loss_mask=0.0, loss_bbox=0.0)),
    'mask-rate-low': dict(train=lines_with(**rates(mask=0.0001))),
    'part-not-training': dict(train=healthy_train(), groups=[group('mask_head', None, trainable=0)]),
    'warm-up-unfinished': dict(
        train=lines_with(base_lr=np.linspace(1e-6, 1e-3, 40)), epochs=4, end=ENDED, schedulers=WARM_UP, val=healthy_val()
    ),
    'mask-loss-weight': dict(train=healthy_train(), mask_weight=0.05),
    'few-iterations': dict(train=healthy_train(4), epochs=1, end='Training ended: all 1 epochs are done.'),
    'few-images': dict(
        train=[line | {'epoch': i + 1, 'step': 5 * (i + 1)} for i, line in enumerate(healthy_train())], batch=1
    ),
    'rates-not-as-planned': dict(
        train=lines_with(**rates(mask=np.linspace(0.01, 0.004, 40))),
        groups=[group('backbone', 1), group('mask_head', 10)],
        schedulers=[{'type': 'CosineAnnealingLR', 'eta_min': 0.0005}],
    ),
    'new-heads-at-backbone-rate': dict(
        train=healthy_train(), keys={}, groups=[group('backbone', 1), group('mask_head', 1, fresh=['conv_logits.weight'])]
    ),
    'mask-ln2': dict(train=lines_with(loss_mask=np.append(curve(2, 0.69, 20, 0), 0.693 + np.full(20, 0.003)))),
    'losses-not-falling': dict(train=lines_with(**dict.fromkeys(ORDER, 0.5 * NOISE))),
    'mask-loss-not-falling': dict(train=lines_with(loss_mask=0.40 * NOISE)),
    'mask-loss-slow': dict(
        train=lines_with(loss_mask=np.linspace(0.48, 0.36, 40) * NOISE, loss_cls=np.geomspace(1.2, 0.15, 40), loss_bbox=0.2)
    ),
    'train-mask-loss-high': dict(train=lines_with(loss_mask=curve(1.5, 0.3)), val=healthy_val()),
    'mask-loss-plateau': dict(
        train=lines_with(loss_mask=np.append(np.geomspace(2, 0.6, 8), np.full(32, 0.6)) * np.repeat(NOISE[:20], 2) ** 0.2),
        val=at_all_times(val_loss_mask=0.6),
    ),
    'mask-share-high': dict(train=lines_with(loss_mask=curve(3, 0.9))),
    'box-mask-gap': dict(
        train=lines_with(loss_mask=curve(1.5, 0.3)),
        val=at_all_times(val_loss_mask=0.3, **{BOX: 0.6, MASK: 0.2}),
    ),
    'masks-small': dict(
        train=healthy_train(), val=healthy_val(**{'mask/area_ratio': [0.5] * 4, 'mask/coverage': [0.45] * 4})
    ),
    'masks-large': dict(
        train=healthy_train(), val=healthy_val(**{'mask/area_ratio': [1.6] * 4, 'mask/coverage': [0.95] * 4})
    ),
    'mask-iou-gap': dict(train=healthy_train(), val=at_all_times(**{'mask/gap': 0.25, 'mask/iou': 0.55})),
    'class-masks-poor': dict(
        train=healthy_train(), val=at_all_times(**{'mask/iou_Film': 0.8, 'mask/iou_Fiber': 0.3, 'mask/iou_area_small': 0.2})
    ),
    'ap-near-zero': dict(train=healthy_train(), val=at_all_times(**{'coco/bbox_mAP_50': 0, BOX: 0, MASK: 0})),
    'mask-ap-stuck': dict(
        train=lines_with(80, loss_mask=np.geomspace(1.5, 0.2, 80)),
        val=healthy_val(8, val_loss_mask=[0.22] * 8, **{MASK: [0.05, 0.06] * 4, BOX: [0.06, 0.05] * 4}),
    ),
    'val-mask-loss-high': dict(train=healthy_train(), val=healthy_val(val_loss_mask=[0.2, 0.25, 0.3, 0.4])),
    'validation-diverges': dict(
        train=lines_with(100, loss_mask=np.geomspace(1.5, 0.15, 100)),
        val=healthy_val(10, val_loss=np.r_[0.8, 0.6, 0.5, np.linspace(0.5, 1, 7)], **{MASK: [0.4] * 10}),
    ),
    'best-epoch-early': dict(
        train=healthy_train(100), val=healthy_val(10, **{MASK: np.r_[0.3, 0.5, 0.5, np.linspace(0.5, 0.3, 7)]})
    ),
    'ap-still-rising': dict(train=healthy_train(100), val=healthy_val(10), epochs=10, end=ENDED),
    'loss-still-falling': dict(train=lines_with(loss_mask=np.geomspace(1.5, 0.2, 40)), epochs=4, end=ENDED),
    'loss-spikes': dict(train=lines_with(loss_cls=np.where(np.arange(40) == 25, 9, 0.3))),
    'mask-share-low': dict(train=lines_with(loss_mask=curve(1.5, 0.08)), val=at_all_times(val_loss_mask=0.08)),
}


@pytest.mark.parametrize('code', PLANTED)
def test_what_is_planted_is_named_first(tmp_path, code):
    answer = diagnose(make_run(tmp_path, **PLANTED[code]))
    assert answer.findings[0].code == code, to_text(answer)
    assert codes(answer, follows_from=None) == [code], to_text(answer)
    rule = next(rule for rule in RULES if rule.code == code)
    assert answer.status == (PROBLEM if rule.severity != 'information' else answer.status)


def test_every_rule_is_planted_and_every_explanation_is_a_rule():
    assert set(PLANTED) == {rule.code for rule in RULES}
    for rule in RULES:
        assert set(rule.explained_by) <= {other.code for other in RULES} - {rule.code}
        assert rule.limits
        assert all(limit.source for limit in rule.limits.values())


def test_remedies_are_config_lines(tmp_path):
    def settings_of(code, **more):
        return diagnose(make_run(tmp_path / str(next(number)), **{**PLANTED[code], **more})).findings[0].settings

    number = itertools.count()

    heads = 'optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult'
    assert settings_of('box-mask-gap', keys={}) == {heads: 10}
    assert settings_of('box-mask-gap') == {heads: 15, 'train_cfg.max_epochs': 150}
    assert settings_of('box-mask-gap', keys={'roi_head': {'lr_mult': 20}}) == {}
    own = {'roi_head': {'lr_mult': 10}, 'mask_head': {'lr_mult': 0.1}}
    assert settings_of('mask-rate-low', keys=own) == {'optim_wrapper.paramwise_cfg.custom_keys.mask_head.lr_mult': 10}
    off = {'backbone': {'lr_mult': 0.1}, 'roi_head': {'lr_mult': 0}}
    assert settings_of('part-not-training', groups=None, keys=off) == {heads: 1}
    assert settings_of('losses-not-falling') == {'optim_wrapper.optimizer.lr': 0.01}
    assert settings_of('losses-not-falling', optimizer='Adam') == {'optim_wrapper.optimizer.lr': 0.003}
    assert settings_of('warm-up-unfinished') == {'param_scheduler.0.end': 20}
    assert settings_of('mask-loss-weight') == {'model.roi_head.mask_head.loss_mask.loss_weight': 1.0}
    assert settings_of('rates-not-as-planned') == {'param_scheduler.0.eta_min': 0}
    steps = [{'type': 'MultiStepLR', 'milestones': [3, 4], 'by_epoch': True}]
    assert settings_of('loss-still-falling', schedulers=steps) == {
        'train_cfg.max_epochs': 8,
        'param_scheduler.0.milestones': [6, 8],
    }
    calm = settings_of('loss-exploding', lr=0.02)
    assert calm == {'optim_wrapper.optimizer.lr': 0.001, heads: 5, 'optim_wrapper.clip_grad.max_norm': 1.0}


# ---- what keeps a rule quiet


def test_s4s_share_rules_take_the_shares_before_weights_and_plain_mask_rcnn_alone(tmp_path):
    heavy = lines_with(loss_mask=curve(3, 0.9))
    weighed = diagnose(make_run(tmp_path / 'weighed', heavy, mask_weight=5.0))
    assert 'mask-share-high' not in codes(weighed)
    other = diagnose(make_run(tmp_path / 'other', heavy, mask_loss='mmext.GCELoss'))
    assert 'mask-share-high' not in codes(other)
    assert 'cross-entropy' in other.not_judged['mask-share-high']
    light = lines_with(loss_mask=curve(3, 0.9) / 10)
    assert 'mask-share-high' in codes(diagnose(make_run(tmp_path / 'light', light, mask_weight=0.1)))


def test_a_high_rate_that_the_loss_bears_is_no_problem(tmp_path):
    train = lines_with(**rates(mask=1.0, box=1.0, base=0.1))
    answer = diagnose(make_run(tmp_path, train, healthy_val()))
    assert (answer.status, codes(answer)) == (HEALTHY, ['rate-too-high'])
    assert 'mask_head has 1' in answer.findings[0].text or 'bbox_head has 1' in answer.findings[0].text


def test_clipped_gradients_bear_a_higher_rate(tmp_path):
    train = lines_with(**rates(mask=0.05, box=0.05, base=0.005))  # S0's own rates at a batch of 2
    for clip, expected in ((None, ['rate-too-high']), ({'max_norm': 35}, ['rate-too-high']), ({'max_norm': 1.0}, [])):
        answer = diagnose(make_run(tmp_path / str(clip and clip['max_norm']), train, healthy_val(), clip=clip))
        assert codes(answer) == expected


@pytest.mark.parametrize(('end', 'expected'), [('Training ended: all 4 epochs are done.', ['mask-ln2']), (None, [])])
def test_a_mask_loss_above_ln2_has_learnt_nothing_once_the_run_is_over(tmp_path, end, expected):
    train = lines_with(loss_mask=curve(2.9, 0.82))
    val = at_all_times(val_loss_mask=0.85, **{MASK: 0.01, BOX: 0.2})
    answer = diagnose(make_run(tmp_path, train, val, end=end, epochs=4 if end else 100))
    assert [code for code in codes(answer) if code == 'mask-ln2'] == expected


def test_ln2_is_of_cross_entropy_alone_and_not_where_masks_are_found(tmp_path):
    planted = PLANTED['mask-ln2']
    assert 'mask-ln2' not in codes(diagnose(make_run(tmp_path / 'gce', **planted, mask_loss='mmext.GCELoss')))
    assert 'mask-ln2' not in codes(diagnose(make_run(tmp_path / 'found', **planted, val=healthy_val())))
    halved = [line | {'loss_mask': line['loss_mask'] / 2} for line in planted['train']]
    assert 'mask-ln2' in codes(diagnose(make_run(tmp_path / 'half', halved, mask_weight=0.5)))


def test_a_validation_loss_that_rises_while_masks_get_better_is_information(tmp_path):
    planted = dict(PLANTED['validation-diverges'])
    planted['val'] = [line | {MASK: 0.3 + 0.04 * i} for i, line in enumerate(planted['val'])]
    answer = diagnose(make_run(tmp_path, **planted))
    assert [(f.code, f.severity) for f in answer.findings] == [('validation-diverges', 'information')]
    assert answer.status == HEALTHY


def test_a_low_mask_loss_beside_a_low_mask_ap_is_put_down_to_the_data(tmp_path):
    answer = diagnose(make_run(tmp_path, healthy_train(), PLANTED['box-mask-gap']['val']))
    gap = next(finding for finding in answer.findings if finding.code == 'box-mask-gap')
    assert gap.settings == {}
    assert 'masks of training and of validation are hardly the same thing' in gap.remedy


def test_new_heads_at_a_low_rate_are_a_problem_where_masks_still_get_better(tmp_path):
    groups = [group('backbone', 1), group('mask_head', 1, fresh=['conv_logits.weight'])]
    run = make_run(tmp_path, healthy_train(100), healthy_val(10), keys={}, groups=groups, epochs=10, end=ENDED)
    first, second = diagnose(run).findings
    assert (first.code, first.severity) == ('new-heads-at-backbone-rate', 'warning')
    assert 'still rising' in first.text
    assert (second.code, second.follows_from) == ('ap-still-rising', first.code)


def test_masks_that_fit_better_than_boxes_are_judged(tmp_path):
    answer = diagnose(make_run(tmp_path, healthy_train(), at_all_times(**{'mask/gap': -0.03})))
    assert (codes(answer), answer.not_judged.get('mask-iou-gap')) == ([], None)


@pytest.mark.parametrize(
    ('ious', 'words'),
    [
        ({'Film': 0.8, 'Fiber': 0.0, 'Fragment': 0.7}, 'Fiber is never found; Film has 0.80'),
        ({'Film': 0.8, 'Fiber': 0.31, 'Fragment': 0.4}, 'Fiber 0.31, Fragment 0.40; Film has 0.80'),
        ({'Film': 0.8, 'Fiber': 0.51}, None),
        ({'Film': 0.55, 'Fiber': 0.2}, None),
        ({'Film': 0.8, 'Fiber': -1}, None),  # without an object
    ],
)
def test_a_class_whose_masks_do_not_count_beside_a_good_one(tmp_path, ious, words):
    val = at_all_times(**{f'mask/iou_{name}': iou for name, iou in ious.items()})
    found = [one for one in diagnose(make_run(tmp_path, healthy_train(), val)).findings if one.code == 'class-masks-poor']
    assert [words in one.text for one in found] == ([True] if words else [])


def test_a_short_training_is_not_judged_by_its_mean_loss(tmp_path):
    short = dict(train=lines_with(loss_mask=curve(1.5, 0.3))[:9], val=healthy_val())
    assert 'train-mask-loss-high' not in codes(diagnose(make_run(tmp_path, **short)))


def test_before_the_first_validation_nothing_is_missing_from_the_log(tmp_path):
    answer = diagnose(make_run(tmp_path, healthy_train(), []))
    assert 'there was no validation yet' in answer.not_judged.values()
    assert not any('LossValLoop' in why for why in answer.not_judged.values())


def test_coco_like_aps_are_no_gap(tmp_path):
    val = at_all_times(**{BOX: 0.41, MASK: 0.371})
    assert codes(diagnose(make_run(tmp_path, healthy_train(), val))) == []


def test_a_trained_head_that_stays_flat_is_no_finding(tmp_path):
    flat = lines_with(loss_mask=0.12 * NOISE)
    assert 'mask-loss-not-falling' not in codes(diagnose(make_run(tmp_path, flat)))


def test_what_the_guard_caught_before_this_start_is_over(tmp_path):
    import os

    folder = make_run(tmp_path, healthy_train())
    fault = folder / 'loss_guard' / 'iter_900.json'
    fault.parent.mkdir()
    fault.write_text(json.dumps({'iteration': 900, 'reason': 'loss_mask is nan.', 'state_before': 'x.pth'}))
    answer = diagnose(folder)
    assert 'the loss guard stopped it at iteration 900: loss_mask is nan' in answer.findings[0].text.lower()
    os.utime(fault, (0, 0))
    assert codes(diagnose(folder)) == []
    fault.write_text(json.dumps({'iteration': 90, 'reason': 'loss_mask is nan.', 'state_before': None}))  # dropped, went on
    assert codes(diagnose(folder)) == ['loss-spikes']


def test_a_frozen_head_explains_what_else_is_seen(tmp_path):
    train = lines_with(loss_mask=0.69 * NOISE**0.1, mask_head_lr=0.0)
    answer = diagnose(
        make_run(
            tmp_path, train, healthy_val(val_loss_mask=[0.69] * 4, **{MASK: [0.01] * 4}), keys={'mask_head': {'lr_mult': 0}}
        )
    )
    assert codes(answer, follows_from=None) == ['part-not-training']
    assert "mask_head has a learning rate of 0 (mask_head's lr_mult)" in answer.findings[0].text
    assert set(codes(answer, follows_from='part-not-training')) >= {'mask-ln2', 'box-mask-gap'}


def test_what_explains_more_comes_first_among_equals():
    weak, strong = (Cause(code, 'warning', '', explains=value) for code, value in (('a', 0.02), ('b', 0.2)))
    unmeasured, severe = Cause('c', 'warning', '', confidence=1.0), Cause('d', 'severe', '')
    assert [one.code for one in rank([unmeasured, weak, strong, severe])] == ['d', 'b', 'a', 'c']


def test_a_stock_run_is_judged_by_what_it_has(tmp_path):
    """Stock counts validations in epochs, logs one rate and has no table of groups."""
    val = [{BOX: 0.6, MASK: 0.2, 'step': epoch} for epoch in range(1, 5)]
    train = [line | {'lr': 0.02} for line in healthy_train()]
    answer = diagnose(make_run(tmp_path, train, val, keys={}, epochs=4))
    assert codes(answer) == ['box-mask-gap']
    assert answer.facts['ended'] is True
    assert 'mmext.GroupLRHook' in answer.not_judged['rates-not-as-planned']


def test_what_brings_what_about_has_no_circle():
    graph = {rule.code: set(rule.explained_by) for rule in RULES}
    for code, causes in _MEASURED.items():
        graph[code] = graph.get(code, set()) | set(causes)
    TopologicalSorter(graph).prepare()  # raises CycleError


# ---- the answer


def schema():
    """The table of docs/diagnosis.md: field to type."""
    text = Path(__file__).parents[2].joinpath('docs/diagnosis.md').read_text()
    section = text.partition('## `--json`')[2].partition('\n## ')[0]
    return dict(re.findall(r'^\| `([\w.\[\]]+)` \| ([^|]+?) \|', section, re.M))


TYPES = {
    'string': str,
    'number': (int, float),
    'integer': int,
    'boolean': bool,
    'object': dict,
    'array': list,
    'null': type(None),
}


@pytest.mark.parametrize('code', ['box-mask-gap', 'loss-exploding', 'mask-share-low'])
def test_the_record_is_as_documented(tmp_path, code):
    answer = diagnose(make_run(tmp_path / 'run', **PLANTED[code]))
    answer.write(tmp_path / 'a.json')
    record = json.loads((tmp_path / 'a.json').read_text())
    documented, seen = schema(), set()

    def look(prefix, value):
        for key, inner in value.items():
            name = f'{prefix}{key}'
            seen.add(name)
            allowed = tuple(TYPES[kind] for kind in documented[name].split(' or '))
            assert isinstance(inner, sum(((t if isinstance(t, tuple) else (t,)) for t in allowed), ())), name
            if name == 'facts':
                look('facts.', inner)
            if name == 'findings':
                for finding in inner:
                    look('findings[].', finding)

    look('', record)
    assert seen == set(documented)
    assert record['schema_version'] == 1


def test_the_text_has_remedy_lines_that_are_not_cut(tmp_path):
    answer = diagnose(make_run(tmp_path, **PLANTED['box-mask-gap'], keys={}))
    text = to_text(answer, width=60)
    assert '          optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult=10\n' in text
    assert 'SEVERE  box-mask-gap  (confidence: high)' in text
    assert text.startswith('So far: boxes are good and masks are not.\n')
    assert not any(line.endswith(' ') for line in text.splitlines())


def row(rule):
    """Of the table of codes in docs/diagnosis.md."""
    limits = '; '.join(f'{name} {limit.value:.3g}: {limit.source}' for name, limit in rule.limits.items())
    return f'| `{rule.code}` | {rule.severity} | {rule.cause} | {limits} |'


def test_the_documented_codes_are_the_rules():
    text = Path(__file__).parents[2].joinpath('docs/diagnosis.md').read_text()
    rows = re.findall(r'^\| `[a-z0-9-]+` \| (?:severe|warning|information) \|.*$', text, re.M)
    assert rows == [row(rule) for rule in RULES]


NUMBERS = st.floats() | st.integers() | st.sampled_from([0, 1, 10**400, -1, 0.693])
NAMES = 'loss epoch step iter lr base_lr mask_head_lr bbox_head_lr val_loss val_loss_mask mask/gap mask/iou share_mask'
NAMES += ' coco/bbox_mAP_50 mask/area_ratio mask/coverage s0.loss_mask'
KEY = st.sampled_from([*NAMES.split(), *ORDER, MASK, BOX])
LINES = st.lists(st.dictionaries(KEY, NUMBERS, max_size=12).map(json.dumps) | st.text(max_size=20), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | KEY, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    LINES,
    JSON,
    st.sampled_from(['model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'log_processor', 'default_hooks']),
)
def test_any_log_gives_an_answer_or_an_input_error(tmp_path_factory, lines, value, name):
    folder = make_run(tmp_path_factory.mktemp('run'), [])
    logs = folder / '20260101_000000'
    (logs / 'vis_data/scalars.json').write_text('\n'.join(lines), encoding='utf-8', errors='replace')
    with (logs / 'vis_data/config.py').open('a', encoding='utf-8', errors='replace') as config:
        config.write(f'{name} = {value!r}\n')
    for file in ('param_groups.json', 'run_end.json', '../loss_guard/iter_1.json'):
        (logs / file).parent.mkdir(exist_ok=True)
        (logs / file).write_text(
            json.dumps({'groups': value, 'text': value, 'iteration': 1, 'reason': value, 'state_before': value})
        )
    try:
        answer = diagnose(folder)
    except InputError:
        return
    json.loads(answer.to_json())
    to_text(answer)
