import copy

import pytest
import torch

from mmext.errors import InputError
from mmext.optim.optimizer_state import parameter_names, resume_by_name

HOOKS = {'resume': {'type': 'mmext.ResumeHook'}, 'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1}}
SCHEDULE = [
    {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 8},
    {'type': 'CosineAnnealingLR', 'eta_min_ratio': 0.01, 'by_epoch': True, 'convert_to_iter_based': True},
]
PLATEAU = {'type': 'ReduceOnPlateauLR', 'monitor': 'size', 'rule': 'greater', 'patience': 0, 'factor': 0.5}
ADAM = {'type': 'Adam', 'lr': 0.01, 'weight_decay': 0.01}
STOCK_GROUPS = {'custom_keys': {'mask_head': {'lr_mult': 10}}}


def momentum(checkpoint, model):
    """Optimizer state by parameter name, found by the tensors themselves."""
    names = parameter_names(checkpoint['optimizer'], checkpoint['state_dict'], model)
    return {names[index]: state for index, state in checkpoint['optimizer']['state'].items()}


def state_of(runner):
    optimizer = runner.optim_wrapper.optimizer
    return {name: optimizer.state[parameter] for name, parameter in runner.model.named_parameters()}


def equal(states, others):
    assert states.keys() == others.keys()
    for name, state in states.items():
        assert state.keys() == others[name].keys()
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(others[name][key])) for key in state)


def resume_at(train_tiny, path, **arguments):
    """A Runner that has resumed from a checkpoint and not trained on."""
    epochs = torch.load(path, weights_only=True)['meta']['epoch']
    hooks = {'resume': {'type': 'mmext.ResumeHook'}}
    train_cfg = {'by_epoch': True, 'max_epochs': arguments.pop('epochs', epochs)}
    runner = train_tiny(default_hooks=hooks, load_from=str(path), resume=True, train_cfg=train_cfg, start=False, **arguments)
    runner.train_loop.stop_training = True
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ({'custom_keys': {'mask_head': {'lr_mult': 10}}}, {'custom_keys': {'mask_head': {'lr_mult': 15}}}),
        ({'custom_keys': {'mask_head': {'lr_mult': 10}}}, {'custom_keys': {}}),
        ({'custom_keys': {}}, {'custom_keys': {'mask_head.bias': {'lr_mult': 3}, 'backbone': {'decay_mult': 0}}}),
        ({'constructor': 'stock', 'paramwise_cfg': STOCK_GROUPS}, {'custom_keys': {'mask_head': {'lr_mult': 15}}}),
        ({'constructor': 'stock'}, {'custom_keys': {'mask_head': {'lr_mult': 15}}}),
        ({'custom_keys': {'mask_head': {'lr_mult': 10}}}, {'constructor': 'stock', 'paramwise_cfg': STOCK_GROUPS}),
        ({'custom_keys': {'mask_head': {'lr_mult': 10}}}, {'constructor': 'stock'}),
    ],
)
@pytest.mark.parametrize('optimizer', [None, ADAM])
def test_momentum_follows_the_name_whatever_the_groups(train_tiny, tmp_path, before, after, optimizer):
    runner, _ = train_tiny(default_hooks=HOOKS, optimizer=optimizer, param_scheduler=SCHEDULE, epochs=3, **before)
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=True)
    saved = momentum(checkpoint, runner.model)
    assert len(saved) == 4
    again = resume_at(
        train_tiny, tmp_path / 'run' / 'epoch_2.pth', optimizer=optimizer, param_scheduler=SCHEDULE, epochs=3, **after
    )
    equal(state_of(again), saved)
    # the rates are those that a run with the new settings from its beginning has there
    train_tiny(default_hooks=HOOKS, optimizer=optimizer, param_scheduler=SCHEDULE, epochs=3, folder='fresh', **after)
    there = torch.load(tmp_path / 'fresh' / 'epoch_2.pth', weights_only=True)
    expected = [group['lr'] for group in there['optimizer']['param_groups']]
    assert again.optim_wrapper.get_lr()['lr'] == pytest.approx(expected, rel=1e-12)
    for scheduler, state in zip(again.param_schedulers, there['param_schedulers'], strict=True):
        assert scheduler.last_step == state['last_step']
        assert scheduler._global_step == state['_global_step']
        assert scheduler.base_values == pytest.approx(state['base_values'])


def test_nothing_changed_means_the_same_bits(train_tiny, tmp_path):
    settings = {'custom_keys': {'mask_head': {'lr_mult': 10}}, 'param_scheduler': [*SCHEDULE, PLATEAU], 'validate': True}
    train_tiny(default_hooks=HOOKS, epochs=4, **settings)
    saved = torch.load(tmp_path / 'run' / 'epoch_3.pth', weights_only=True)
    again = resume_at(train_tiny, tmp_path / 'run' / 'epoch_3.pth', epochs=4, **settings)
    assert again.optim_wrapper.get_lr()['lr'] == [group['lr'] for group in saved['optimizer']['param_groups']]
    assert saved['param_schedulers'][-1]['num_bad_epochs'] == 0  # it has reduced
    for scheduler, state in zip(again.param_schedulers, saved['param_schedulers'], strict=True):
        assert scheduler.state_dict() == state


def test_reductions_of_the_plateau_are_kept_under_new_multipliers(train_tiny, tmp_path):
    settings = {'param_scheduler': [*SCHEDULE, PLATEAU], 'validate': True}
    train_tiny(default_hooks=HOOKS, epochs=4, custom_keys={'mask_head': {'lr_mult': 10}}, **settings)
    path = tmp_path / 'run' / 'epoch_3.pth'
    old = torch.load(path, weights_only=True)
    again = resume_at(train_tiny, path, epochs=4, custom_keys={'mask_head': {'lr_mult': 15}}, **settings)
    rates = dict(zip(('backbone', 'mask_head'), again.optim_wrapper.get_lr()['lr'], strict=True))
    backbone = old['optimizer']['param_groups'][0]['lr']
    assert rates == pytest.approx({'backbone': backbone, 'mask_head': 15 * backbone}, rel=1e-9)
    fresh = torch.load(path, weights_only=True)
    assert again.param_schedulers[-1].best == fresh['param_schedulers'][-1]['best']


def test_more_epochs_move_the_schedule(train_tiny, tmp_path):
    warm = {'type': 'mmext.WarmupShareLR', 'share': 0.5, 'start_factor': 0.1, 'by_epoch': False}
    settings = {'custom_keys': {'mask_head': {'lr_mult': 10}}, 'param_scheduler': [warm, SCHEDULE[1]]}
    train_tiny(default_hooks=HOOKS, epochs=2, **settings)
    again = resume_at(train_tiny, tmp_path / 'run' / 'epoch_2.pth', epochs=4, **settings)
    train_tiny(default_hooks=HOOKS, epochs=4, folder='fresh', **settings)
    expected = torch.load(tmp_path / 'fresh' / 'epoch_2.pth', weights_only=True)['optimizer']['param_groups']
    assert again.optim_wrapper.get_lr()['lr'] == pytest.approx([group['lr'] for group in expected], rel=1e-12)


def test_a_parameter_of_another_shape_starts_anew_and_is_named(train_tiny, tmp_path):
    def wider(model):
        model.mask_head = torch.nn.Linear(4, 2)
        model.mask_head.loss_mask = torch.nn.Identity()
        model.mask_head.loss_mask.loss_weight = 1.0
        return model

    train_tiny(default_hooks=HOOKS)
    path = tmp_path / 'run' / 'epoch_2.pth'
    runner = resume_at(train_tiny, path, epochs=3, change=wider)
    saved = momentum(torch.load(path, weights_only=True), runner.model)
    kept = {name: state for name, state in state_of(runner).items() if state}
    equal(kept, {name: saved[name] for name in ('backbone.weight', 'backbone.bias')})
    log = next((tmp_path / 'run').glob(f'{runner.timestamp}/*.log')).read_text()
    assert 'Momentum starts from nothing where the shape is another now: mask_head.weight, mask_head.bias.' in log
    assert 'Optimizer state found by name: 2 of 4 tensors' in log


def test_another_optimizer_starts_its_state_anew(train_tiny, tmp_path):
    train_tiny(default_hooks=HOOKS)
    runner = resume_at(train_tiny, tmp_path / 'run' / 'epoch_2.pth', optimizer=ADAM, epochs=3)
    assert not any(state_of(runner).values())
    log = next((tmp_path / 'run').glob(f'{runner.timestamp}/*.log')).read_text()
    assert 'The optimizer is Adam now and was another one' in log


def test_a_checkpoint_without_optimizer_keeps_its_place_in_the_schedule(train_tiny, tmp_path):
    train_tiny(default_hooks=HOOKS, param_scheduler=SCHEDULE, epochs=3)
    path = tmp_path / 'run' / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=True)
    rate = checkpoint['optimizer']['param_groups'][0]['lr']
    del checkpoint['optimizer'], checkpoint['param_schedulers']
    torch.save(checkpoint, tmp_path / 'best.pth')
    runner = resume_at(train_tiny, tmp_path / 'best.pth', param_scheduler=SCHEDULE, epochs=3)
    assert runner.optim_wrapper.get_lr()['lr'][0] == pytest.approx(rate)


def test_names_in_doubt_are_refused(train_tiny, tmp_path):
    runner, _ = train_tiny(default_hooks=HOOKS, constructor='stock', paramwise_cfg=STOCK_GROUPS)
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=True)
    fewer = copy.deepcopy(checkpoint)
    fewer['optimizer']['param_groups'].pop()
    with pytest.raises(InputError, match=r'has 3 parameters without names. Its model has 4, of which 4 are trainable'):
        parameter_names(fewer['optimizer'], fewer['state_dict'], runner.model)
    states = checkpoint['optimizer']['state']
    states[0], states[2] = states[2], states[0]
    with pytest.raises(InputError, match=r'backbone.weight \(4, 2\) has state of \(1, 4\)'):
        resume_by_name(checkpoint, runner.model, runner.optim_wrapper, [])


def test_frozen_parameters_are_not_counted(train_tiny, tmp_path):
    def frozen(model):
        model.backbone.requires_grad_(False)
        return model

    runner, _ = train_tiny(default_hooks=HOOKS, constructor='stock', paramwise_cfg=STOCK_GROUPS, change=frozen)
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=True)
    assert list(momentum(checkpoint, runner.model)) == ['mask_head.weight', 'mask_head.bias']


def test_another_frozen_part_is_a_doubt(train_tiny, tmp_path):
    """As many parameters of the same shapes, but others: only the configs can tell."""

    def frozen(model):
        model.backbone.requires_grad_(False)
        return model

    runner, _ = train_tiny(default_hooks=HOOKS, constructor='stock', paramwise_cfg=STOCK_GROUPS, change=frozen)
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_2.pth')
    with pytest.raises(InputError, match='its run froze other parts of the model'):
        parameter_names(checkpoint['optimizer'], checkpoint['state_dict'], runner.model, same_freezing=False)


def test_a_shared_parameter_counts_once(train_tiny, tmp_path):
    def shared(model):
        model.rpn_head = torch.nn.Linear(4, 1)
        model.rpn_head.weight = model.mask_head.weight
        return model

    train_tiny(default_hooks=HOOKS, constructor='stock', change=shared)
    again = resume_at(train_tiny, tmp_path / 'run' / 'epoch_2.pth', constructor='stock', change=shared)
    assert 'momentum_buffer' in state_of(again)['mask_head.weight']


def test_a_dotted_type_is_the_same_optimizer(train_tiny, tmp_path):
    sgd = {'type': 'torch.optim.SGD', 'lr': 0.02, 'momentum': 0.9}
    train_tiny(default_hooks=HOOKS, optimizer=sgd, constructor='stock')
    again = resume_at(train_tiny, tmp_path / 'run' / 'epoch_2.pth', optimizer=sgd, constructor='stock')
    assert all(state_of(again).values())


def test_an_option_that_needs_state_of_its_own_starts_anew(train_tiny, tmp_path):
    train_tiny(default_hooks=HOOKS, optimizer=ADAM)
    runner, _ = train_tiny(default_hooks=HOOKS, optimizer={**ADAM, 'amsgrad': True}, epochs=3, resume=True)
    assert runner.epoch == 3
    log = (tmp_path / 'run' / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert 'Moments start from nothing: an option of Adam that is on now was off then.' in log


def test_a_new_floor_of_the_plateau_takes_effect(train_tiny, tmp_path):
    settings = {'validate': True, 'default_hooks': HOOKS}
    train_tiny(**settings, param_scheduler=[PLATEAU], epochs=3)
    floor = [{**PLATEAU, 'min_value': 0.0015}]
    again = resume_at(train_tiny, tmp_path / 'run' / 'epoch_2.pth', param_scheduler=floor, epochs=3, validate=True)
    assert set(again.param_schedulers[0].min_values) == {0.0015}


@pytest.mark.parametrize('scheduler', [[], SCHEDULE])
def test_reductions_of_the_guard_are_kept(train_tiny, tmp_path, scheduler):
    from mmengine.hooks import Hook

    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 3:
                data_batch['inputs'][:] = torch.nan

    guard = HOOKS | {'loss_guard': {'type': 'mmext.LossGuardHook', 'policy': 'reduce', 'factor': 0.25}}
    settings = {'default_hooks': guard, 'epochs': 4, 'param_scheduler': scheduler or None}
    calm, _ = train_tiny(**settings, custom_hooks=[Spoil()])
    rates = torch.load(tmp_path / 'run' / 'epoch_2.pth')['optimizer']['param_groups']
    resumed, lines = train_tiny(**settings, resume=True, load_from=str(tmp_path / 'run' / 'epoch_2.pth'))
    assert lines[0]['lr'] == pytest.approx(rates[0]['lr'])
    assert resumed.optim_wrapper.get_lr()['lr'] == pytest.approx(calm.optim_wrapper.get_lr()['lr'])
    # once more from a resumed one: the factor is still known
    again = resume_at(train_tiny, tmp_path / 'run' / 'epoch_4.pth', param_scheduler=scheduler or None, lr=0.04, epochs=4)
    assert again.optim_wrapper.get_lr()['lr'][0] == pytest.approx(2 * resumed.optim_wrapper.get_lr()['lr'][0])
