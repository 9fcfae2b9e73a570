"""Gradients by loss and part, and weights that a training did not move: planted faults are named, healthy runs have none."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmext.analysis.facts import Facts
from mmext.analysis.runs import Run, read_run
from mmext.probe import gradients, weights
from mmext.probe.gradients import Gradients, family_losses, gradients_of, norms_by_part, step_ratios
from mmext.probe.run import judge_training
from mmext.probe.subject import load_subject
from mmext.probe.training import peak_factor

PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')


class Net(nn.Module):
    """A backbone and two heads; the loss of a list is summed up, as MMDetection's RPN has it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.mask_head, self.bbox_head = (nn.Linear(3, 3) for _ in range(3))

    def losses(self):
        seen = self.backbone(torch.ones(2, 3))
        box = self.bbox_head(seen).square().mean()
        return {'loss_mask': self.mask_head(seen).square().mean(), 'loss_cls': [box, 2 * box], 'acc': torch.ones(1)}


def total(found):
    names = dict.fromkeys(name for one in found.values() for name in one)
    return {name: sum(one[name] for one in found.values() if name in one) for name in names}


def test_each_loss_reaches_its_own_head_and_what_is_shared():
    net = Net()
    found = gradients_of(net, family_losses(net.losses()))
    assert set(norms_by_part(found['mask'])) == {'backbone', 'mask_head'}
    assert set(norms_by_part(found['cls'])) == {'backbone', 'bbox_head'}
    whole = sum(net.losses()['loss_cls']) + net.losses()['loss_mask']
    expected = torch.autograd.grad(whole, net.backbone.weight)[0]
    torch.testing.assert_close(total(found)['backbone.weight'], expected)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ('kind', 'clip'),
    [(torch.optim.SGD, None), (torch.optim.SGD, {'max_norm': 0.01}), (torch.optim.Adam, None)],
)
def test_a_step_is_as_long_as_the_optimizers(kind, clip):
    net = Net()
    rates = {'backbone': 0.1, 'bbox_head': 0.0, 'mask_head': 1.0}
    optimizer = kind([{'params': list(getattr(net, part).parameters()), 'lr': rate} for part, rate in rates.items()], lr=1)
    ratios, factor = step_ratios(net, optimizer, total(gradients_of(net, family_losses(net.losses()))), clip)
    before = copy.deepcopy(net)
    sum(value.sum() for value in family_losses(net.losses()).values()).backward()
    if clip:
        nn.utils.clip_grad_norm_(net.parameters(), **clip)
        assert factor < 1
    optimizer.step()
    for part in rates:
        old, new = (torch.cat([p.detach().flatten() for p in getattr(one, part).parameters()]) for one in (before, net))
        assert ratios[part] == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-3, abs=1e-9)


def test_no_step_is_reckoned_of_an_optimizer_that_is_not_known():
    net = Net()
    assert step_ratios(net, torch.optim.RMSprop(net.parameters(), lr=0.1), {}, None) == ({}, 1.0)


# ---- the judge, on numbers like those of healthy runs on made data

SHARED = {'rpn': 0.2, 'cls': 0.3, 'bbox': 0.4, 'mask': 0.2}


def measured(**changes):
    norms = {
        'backbone': SHARED,
        'neck': SHARED,
        'rpn_head': {'rpn': 0.2},
        'bbox_head': {'cls': 1.0, 'bbox': 1.6},
        'mask_head': {'mask': 0.5},
    }
    updates = {'backbone': 2e-5, 'neck': 1.5e-4, 'rpn_head': 1e-3, 'bbox_head': 1.6e-3, 'mask_head': 4e-4}
    values = {
        'norms': norms,
        'updates': updates,
        'trainable': dict.fromkeys(norms, 6),
        'losses': dict.fromkeys(SHARED, 0.3),
        'batches': 4,
        'objects': 100,
    }
    return Gradients(**{**values, **{name: {**values[name], **value} for name, value in changes.items()}})


def codes(found, run=None):
    experiment = gradients.judge(found, Facts(run or Run('run')))
    return [one.code for one in experiment.findings], experiment


def test_a_healthy_run_has_no_finding_and_a_table():
    found, experiment = codes(measured())
    assert not found
    assert experiment.gain is None
    assert experiment.table['neck']['mask'] == pytest.approx(0.2 / 1.1)
    assert experiment.table['mask_head']['step/weights'] == 4e-4


def test_a_head_without_gradient_is_severe_and_why_is_said():
    found, experiment = codes(measured(norms={'mask_head': {'mask': 0.0}}, losses={'mask': 0.0}))
    assert found == ['part-without-gradient']
    assert experiment.findings[0].severity == 'severe'
    assert 'mask_head gets a gradient of exactly 0, with 6 tensors' in experiment.findings[0].text
    assert 'These losses are 0: mask' in experiment.findings[0].text
    found, experiment = codes(measured(norms={'mask_head': {}}, trainable={'mask_head': 0}))
    assert 'mask_head is frozen' in experiment.findings[0].text


def test_a_frozen_backbone_is_nobodys_fault():
    assert not codes(measured(norms={'backbone': {}}, trainable={'backbone': 0}))[0]


def test_masks_without_a_say_in_the_shared_parts_are_named_with_their_weight():
    low = {**SHARED, 'mask': 0.001}
    run = Run('run', config={'model.roi_head.mask_head.loss_mask.loss_weight': 0.01})
    found, experiment = codes(measured(norms={'backbone': low, 'neck': low}), run)
    assert found == ['mask-gradient-small']
    assert experiment.findings[0].settings == {'model.roi_head.mask_head.loss_mask.loss_weight': 1.0}
    assert not codes(measured(norms={'backbone': low}))[0]  # the neck still hears of them


def test_a_head_that_hardly_moves_is_named_with_its_rate():
    keys = {'roi_head': {'lr_mult': 10}, 'rpn_head': {'lr_mult': 5}, 'mask_head': {'lr_mult': 0.01}}
    run = Run('run', settings={'optim_wrapper': {'paramwise_cfg': {'custom_keys': keys}}})
    found, experiment = codes(measured(updates={'mask_head': 4e-7}), run)
    assert found == ['update-too-small']
    assert experiment.findings[0].settings == {'optim_wrapper.paramwise_cfg.custom_keys.mask_head.lr_mult': 10}
    assert not codes(measured(updates={'mask_head': 1e-4}), run)[0]


def test_batches_without_objects_say_nothing():
    found, experiment = codes(Gradients({}, {}, {}, {}, 0, 0))
    assert not found
    assert 'none has an object' in experiment.text


def test_losses_that_are_no_numbers_say_nothing():
    found, experiment = codes(measured(losses={'mask': math.nan}, updates={'mask_head': math.nan}))
    assert not found
    assert 'the losses are no numbers' in experiment.text


# ---- on a real run


@pytest.fixture
def one_batch(monkeypatch):
    monkeypatch.setattr(gradients, 'BATCHES', 1)


def test_gradients_of_a_run_leave_it_as_it_is(shapes_run, one_batch):
    run = read_run(shapes_run)
    subject = load_subject(run, 'cpu', 0)
    before, state = copy.deepcopy(subject.model.state_dict()), torch.get_rng_state()
    found = gradients.measure(run, subject.cfg, subject.model, 0)
    assert set(found.norms) == set(PARTS)
    assert sum(found.share('neck', family) for family in found.losses) == pytest.approx(1)
    assert found.share('rpn_head', 'rpn') == found.share('mask_head', 'mask') == 1
    assert found.objects > 0
    assert not gradients.judge(found, Facts(run)).findings
    assert torch.equal(torch.get_rng_state(), state)
    assert not subject.model.training
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    again = gradients.measure(run, subject.cfg, subject.model, 0)
    assert again.norms == found.norms


def test_a_mask_loss_of_weight_0_is_named(planted, one_batch):
    run = read_run(planted({'model.roi_head.mask_head.loss_mask.loss_weight': 0.0}))
    experiments, _ = judge_training(run, load_subject(run, 'cpu', 0))
    (finding,) = experiments[0].findings
    assert finding.code == 'part-without-gradient'
    assert finding.text.startswith('mask_head gets a gradient of exactly 0')


@pytest.mark.parametrize(('logged', 'factor'), [((), 1.0), ((1e-4, 2e-4, 1e-4), 0.1), ((8e-3, math.nan), 4.0)])
def test_the_highest_rate_is_that_of_the_log(logged, factor):
    cfg = Config({'optim_wrapper': {'optimizer': {'lr': 2e-3}}})
    optimizer = torch.optim.SGD(Net().parameters(), lr=2e-3)
    run = Run('run', train=tuple({'loss': 1.0, 'base_lr': rate} for rate in logged))
    assert peak_factor(run, cfg, optimizer) == pytest.approx(factor)


# ---- weights


def states(*moved):
    """State dict of a net, and the same with some parts moved."""
    net = Net()
    before = copy.deepcopy(net.state_dict())
    for part in moved:
        nn.init.normal_(getattr(net, part).weight)
    return net, before, net.state_dict()


def test_movements_count_what_can_be_compared():
    net, before, after = states('backbone')
    del before['mask_head.bias']
    before['bbox_head.weight'] = torch.zeros(7, 3)
    found = weights.movements([name for name, _ in net.named_parameters()], before, after)
    assert (found['backbone'].changed, found['mask_head'].changed, found['bbox_head'].changed) == (1, 0, 0)
    assert (found['mask_head'].compared, found['bbox_head'].compared) == (1, 1)
    assert found['backbone'].moved > 0
    assert found['mask_head'].moved == 0


@pytest.fixture
def trained(tmp_path):
    """Experiment on a work_dir of two checkpoints, some parts of which were moved since load_from and between the two."""

    def compare(since_start=(), since_oldest=(), iterations=100, **cfg):
        net, start, oldest = states(*since_start)
        last = copy.deepcopy(oldest)
        for part in since_oldest:
            last[f'{part}.weight'] += 1
        for name, state, done in (('epoch_1', oldest, 50), ('epoch_2', last, iterations)):
            torch.save({'state_dict': state, 'meta': {'iter': done}}, tmp_path / f'{name}.pth')
        (tmp_path / 'start').mkdir(exist_ok=True)
        torch.save(start, tmp_path / 'start' / 'start.pth')
        cfg = Config({'load_from': str(tmp_path / 'start' / 'start.pth'), **cfg})
        run = Run(tmp_path, train=({'loss': 1.0, 'step': iterations},))
        return weights.compare_checkpoints(tmp_path, cfg, net, Facts(run))

    return compare


def test_a_head_that_did_not_move_since_load_from_is_severe(trained):
    (finding,) = trained(since_start=['backbone', 'bbox_head']).findings
    assert (finding.code, finding.severity) == ('part-unchanged', 'severe')
    assert finding.text.startswith('mask_head: the weights of the last checkpoint are to the bit those in load_from')


def test_heads_that_moved_are_no_finding(trained):
    experiment = trained(since_start=['backbone', 'bbox_head', 'mask_head'])
    assert not experiment.findings  # at the end a stage may train the backbone alone
    assert experiment.table['mask_head']['changed'] == 1


def test_without_load_from_two_checkpoints_of_the_run_are_compared(trained):
    (finding,) = trained(since_oldest=['backbone', 'bbox_head'], load_from=None).findings
    assert finding.severity == 'warning'
    assert 'mask_head' in finding.text
    assert 'bbox_head' not in finding.text


def test_a_run_of_few_iterations_and_a_resumed_one_are_not_judged(trained):
    assert trained(iterations=10) is None
    assert trained(iterations=60, resume=True) is None
