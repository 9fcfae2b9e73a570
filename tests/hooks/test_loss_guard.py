import json
import math
from pathlib import Path

import pytest
import scaled_on_cpu  # noqa: F401
import torch
from mmengine.hooks import Hook
from mmengine.structures import InstanceData

from mmext.errors import InputError
from mmext.hooks.loss_guard import (
    TrainingStoppedError,
    batch_record,
    has_no_positive_roi,
    remedies,
    spike_limit,
)

CLIP = {'clip_grad': {'max_norm': 1.0}}


class Spoil(Hook):
    """Make the loss of one iteration, or its gradient, something else."""

    def __init__(self, iteration, factor=math.nan, gradient=False, until=None):
        self.iterations = range(iteration, (until or iteration) + 1)
        self.factor, self.gradient, self.weights = factor, gradient, {}

    def before_train(self, runner):
        self.runner = runner
        runner.model.mask_head.loss_mask.register_forward_hook(self.spoil)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.weights[runner.iter + 1] = {name: w.clone() for name, w in runner.model.state_dict().items()}

    def spoil(self, module, args, output):
        if self.runner.iter + 1 not in self.iterations:
            return output
        if self.gradient:
            output.register_hook(lambda grad: grad * self.factor)
            return output
        return output * self.factor


def same(weights, others):
    return all(torch.equal(weight, others[name]) for name, weight in weights.items())


def train(train_tiny, spoil, guard=None, **arguments):
    hooks = {'loss_guard': {'type': 'mmext.LossGuardHook', **(guard or {})}}
    return train_tiny(default_hooks=hooks, custom_hooks=[spoil], batch_size=2, norm=True, **arguments)


@pytest.mark.parametrize('wrapper', [None, CLIP])
@pytest.mark.parametrize('factor', [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(train_tiny, tmp_path, wrapper, factor):
    spoil = Spoil(2, factor)
    with pytest.raises(TrainingStoppedError) as error:
        train(train_tiny, spoil, wrapper=wrapper)
    message = str(error.value)
    name = 'nan' if math.isnan(factor) else 'inf'
    assert message.startswith(
        f'Training stopped at iteration 2 (epoch 1), before the step changed any weight: loss_mask is {name}.'
    )
    assert 'optim_wrapper.optimizer.lr=0.01' in message
    assert 'default_hooks.loss_guard.policy=skip' in message
    folder = tmp_path / 'run' / 'loss_guard'
    before = torch.load(folder / 'before_iter_2.pth', weights_only=False)
    assert same(before['state_dict'], spoil.weights[2])  # batch-norm statistics too
    assert before['meta']['iter'] == 1
    record = json.loads((folder / 'iter_2.json').read_text())
    assert record['fault'] == 'loss'
    assert record['losses'][0]['loss_mask'] == name
    assert record['rates'] == {'backbone': 0.02, 'neck': 0.02, 'mask_head': 0.02}


@pytest.mark.parametrize('wrapper', [None, CLIP])
def test_a_gradient_that_is_no_number_stops_although_losses_are_fine(train_tiny, wrapper):
    with pytest.raises(TrainingStoppedError, match='the gradient is not finite') as error:
        train(train_tiny, Spoil(3, gradient=True), wrapper=wrapper)
    assert 'mask_head' in str(error.value)
    assert ('clip_grad.max_norm=1.0' in str(error.value)) == (wrapper is None)


def test_skip_drops_the_step_and_its_batch_norm_statistics(train_tiny):
    spoil = Spoil(2)
    runner, lines = train(train_tiny, spoil, {'policy': 'skip'})
    assert same(spoil.weights[3], spoil.weights[2])
    assert not same(spoil.weights[4], spoil.weights[3])
    assert all(torch.isfinite(weight).all() for weight in runner.model.state_dict().values())
    assert lines[-1]['step'] == 6
    log = Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    assert 'Loss guard, iteration 2: loss_mask is nan. The step is dropped. 1 in a row, at most 5.' in log


def test_skip_leaves_momentum_as_it_was(train_tiny):
    dropped, _ = train(train_tiny, Spoil(6), {'policy': 'skip'}, epochs=2)
    shorter, _ = train(train_tiny, Spoil(99), epochs=2, train_cfg={'by_epoch': False, 'max_iters': 5}, folder='shorter')
    for one, other in zip(dropped.model.parameters(), shorter.model.parameters(), strict=True):
        state = dropped.optim_wrapper.optimizer.state[one]
        assert torch.equal(state['momentum_buffer'], shorter.optim_wrapper.optimizer.state[other]['momentum_buffer'])


def test_too_many_in_a_row_end_the_training(train_tiny):
    with pytest.raises(TrainingStoppedError, match=r'\(3 faults in a row\)'):
        train(train_tiny, Spoil(2, until=9), {'policy': 'skip', 'max_in_a_row': 2}, epochs=4)
    runner, _ = train(train_tiny, Spoil(2, until=3), {'policy': 'skip', 'max_in_a_row': 2}, epochs=4, folder='two')
    assert runner.epoch == 4


def test_reduce_multiplies_all_rates_for_good(train_tiny):
    cosine = {'type': 'CosineAnnealingLR', 'eta_min_ratio': 0.01, 'by_epoch': True, 'convert_to_iter_based': True}
    settings = {'param_scheduler': [cosine], 'custom_keys': {'mask_head': {'lr_mult': 10}}, 'epochs': 4}
    _, plain = train(train_tiny, Spoil(99), **settings, folder='plain')
    _, lines = train(train_tiny, Spoil(3), {'policy': 'reduce', 'factor': 0.25}, **settings)
    for number, (line, usual) in enumerate(zip(lines, plain, strict=True), 1):
        factor = 1 if number <= 3 else 0.25
        assert line['lr'] == pytest.approx(usual['lr'] * factor)


def test_an_explosion_is_caught_before_the_step(train_tiny):
    spoil = Spoil(30, 1e4)
    with pytest.raises(TrainingStoppedError, match=r'the total loss .* is above .*; the median of late is') as error:
        train(train_tiny, spoil, epochs=12, lr=1e-4)
    assert 'default_hooks.loss_guard.spike=None' in str(error.value)
    runner, _ = train(train_tiny, Spoil(30, 1e4), {'spike': None}, epochs=12, lr=1e-4, folder='unwatched')
    assert runner.epoch == 12


def test_a_resumed_run_knows_the_totals_before(train_tiny, tmp_path):
    hooks = {'loss_guard': {'type': 'mmext.LossGuardHook'}, 'resume': {'type': 'mmext.ResumeHook'}}
    settings = {'default_hooks': hooks, 'lr': 1e-4, 'batch_size': 2}
    train_tiny(**settings, epochs=10)
    with pytest.raises(TrainingStoppedError, match='at iteration 32'):
        train_tiny(**settings, epochs=12, resume=True, custom_hooks=[Spoil(32, 1e4)])


def test_limit_of_a_spike():
    assert spike_limit([1.0] * 19, 10) == math.inf
    assert spike_limit([1.0] * 20, None) == math.inf
    assert spike_limit([1.0] * 20, 10) == 10
    # images without objects give small totals: one of the usual ones is no spike
    assert spike_limit([0.01] * 18 + [2.0] * 2, 10) == 6.0


def test_healthy_training_is_not_changed_by_one_bit(train_tiny):
    guarded, _ = train(train_tiny, Spoil(99), epochs=4)
    free, _ = train_tiny(batch_size=2, norm=True, epochs=4, folder='free')
    assert same(guarded.model.state_dict(), free.model.state_dict())


def test_accumulated_gradients_are_looked_at_together(train_tiny):
    spoil = Spoil(5)
    with pytest.raises(TrainingStoppedError, match='at iteration 6'):
        train(train_tiny, spoil, wrapper={'accumulative_counts': 3}, epochs=4)
    assert same(
        spoil.weights[6],
        {k: v for k, v in spoil.weights[4].items() if 'running' not in k}
        | {k: v for k, v in spoil.weights[6].items() if 'running' in k or 'tracked' in k},
    )


def test_one_synchronisation_a_step_beyond_stock(train_tiny):
    """A GPU waits when a number is read from a tensor (_local_scalar_dense) or made into one (lift_fresh, then a copy)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        reads = copies = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Count.reads += function is torch.ops.aten._local_scalar_dense.default
            Count.copies += function is torch.ops.aten.lift_fresh.default
            return function(*args, **(kwargs or {}))

    class CountStep(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            Count.reads = Count.copies = 0
            self.mode = Count()
            self.mode.__enter__()

        def after_train_iter(self, runner, **kwargs):
            self.mode.__exit__(None, None, None)
            self.reads = (Count.reads, Count.copies)

    def reads(**arguments):
        counter = CountStep()
        train_tiny(custom_hooks=[counter], norm=True, batch_size=2, epochs=1, **arguments)
        return counter.reads

    guard = {'default_hooks': {'loss_guard': {'type': 'mmext.LossGuardHook'}}}
    for number, wrapper in enumerate((None, CLIP)):
        read, copied = reads(wrapper=wrapper, folder=f'stock{number}')
        ours = reads(wrapper=wrapper, **guard, folder=f'guard{number}')
        assert ours[0] <= read + 1
        assert ours[1] <= copied


def test_steps_that_a_loss_scaler_skips_are_no_faults(train_tiny):
    """AMP's scaler, on the CPU: an infinite gradient makes it skip the step and halve its scale."""
    spoil = Spoil(3, math.inf, gradient=True)
    runner, _ = train(train_tiny, spoil, wrapper={'type': 'ScaledOnCpu'}, epochs=4)
    assert runner.epoch == 4
    assert same(
        spoil.weights[4],
        spoil.weights[3]
        | {k: v for k, v in spoil.weights[4].items() if k.startswith('neck.') and ('running' in k or 'tracked' in k)},
    )
    assert not list(Path(runner.work_dir).glob('loss_guard/*'))
    once, _ = train(train_tiny, Spoil(3, math.inf), wrapper={'type': 'ScaledOnCpu'}, epochs=4, folder='once')
    assert once.epoch == 4
    # a loss that stays infinite is one: the scaler would skip for ever
    with pytest.raises(TrainingStoppedError, match='loss_mask is nan'):
        train(train_tiny, Spoil(3, until=99), wrapper={'type': 'ScaledOnCpu'}, epochs=8, folder='forever')


def test_batches_without_a_positive_roi():
    assert has_no_positive_roi({'loss_bbox': 0.0, 'loss_mask': 0.0, 'loss_rpn_bbox': 0.3, 'loss_cls': 1.0})
    assert not has_no_positive_roi({'loss_bbox': 0.1, 'loss_mask': 0.0})
    assert has_no_positive_roi({'s0.loss_bbox': 0.0, 's1.loss_bbox': 0.0})
    assert not has_no_positive_roi({'loss_cls': 1.0})


def test_record_and_remedy_name_a_box_without_area():
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo={'img_path': 'a.png', 'img_id': 7, 'img_shape': (10, 20)})
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[1.0, 1, 5, 5], [3, 4, 3, 9]]), labels=torch.tensor([0, 2]))
    (record,) = batch_record({'inputs': [], 'data_samples': [sample]})
    assert record == {
        'path': 'a.png',
        'id': 7,
        'size': [10, 20],
        'boxes': [[1, 1, 5, 5], [3, 4, 3, 9]],
        'labels': [0, 2],
    }
    assert remedies('loss', [record], True, 0.02)[0].startswith('a.png has a box without area: [3.0, 4.0, 3.0, 9.0].')


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ({'policy': 'ignore'}, "policy is 'ignore'; allowed: stop, skip, reduce"),
        ({'spike': 0.5}, 'spike is 0.5; it must be above 1, or None'),
        ({'window': 3}, 'window is 3; it must be a whole number of at least 20'),
        ({'factor': 2}, 'factor is 2; it must be between 0 and 1'),
        ({'max_in_a_row': -1}, 'max_in_a_row is -1'),
    ],
)
def test_arguments_out_of_range_are_refused(train_tiny, option, words):
    with pytest.raises(InputError, match=words):
        train_tiny(default_hooks={'loss_guard': {'type': 'mmext.LossGuardHook', **option}}, start=False)


def test_a_fused_step_that_a_loss_scaler_takes_back_is_no_fault(train_tiny):
    sgd = {'type': 'SGD', 'lr': 0.02, 'fused': True}
    spoil = Spoil(3, math.inf, gradient=True)
    runner, _ = train(train_tiny, spoil, wrapper={'type': 'ScaledOnCpu'}, optimizer=sgd, epochs=4)
    assert runner.epoch == 4
    assert same({k: v for k, v in spoil.weights[4].items() if 'mask' in k}, spoil.weights[3])


def test_one_window_of_gathered_gradients_is_one_fault(train_tiny):
    guard = {'policy': 'skip', 'max_in_a_row': 2}
    runner, _ = train(train_tiny, Spoil(4, until=6), guard, wrapper={'accumulative_counts': 3}, epochs=6)
    assert runner.epoch == 6
    record = json.loads((Path(runner.work_dir) / 'loss_guard' / 'iter_6.json').read_text())
    assert [batch['loss_mask'] for batch in record['losses']] == ['nan'] * 3


def test_a_resumed_run_forgets_spikes_that_were_dropped(train_tiny, tmp_path):
    hooks = {
        'loss_guard': {'type': 'mmext.LossGuardHook', 'policy': 'skip'},
        'resume': {'type': 'mmext.ResumeHook'},
        'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1},
    }
    settings = {'default_hooks': hooks, 'lr': 1e-4, 'batch_size': 2}
    train_tiny(**settings, epochs=10, custom_hooks=[Spoil(29, 1e4)])
    runner, _ = train_tiny(**settings, epochs=12, resume=True, custom_hooks=[Spoil(32, 1e3)])
    assert (Path(runner.work_dir) / 'loss_guard' / 'iter_32.json').exists()


def test_negative_totals_have_no_limit():
    assert spike_limit([-1.0] * 20, 10) == math.inf
    assert spike_limit([0.0] * 20, 10) == math.inf


def test_a_batch_of_another_make_has_no_record():
    assert batch_record({'data_samples': {'sup': [1]}}) == []
    assert batch_record([1, 2]) == []
    assert batch_record({'data_samples': [object()]}) == [{'path': None, 'id': None, 'size': [], 'boxes': [], 'labels': []}]


def test_reduce_has_no_hold_on_onecycle(train_tiny):
    cycle = {'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 12, 'by_epoch': False}
    with pytest.raises(InputError, match="policy='reduce' has no hold on OneCycleLR"):
        train(train_tiny, Spoil(3), {'policy': 'reduce'}, param_scheduler=[cycle])
