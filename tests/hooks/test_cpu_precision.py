import copy
import re
from pathlib import Path

import pytest
import torch
from conftest import small_sampling
from mmcv.ops import ModulatedDeformConv2dPack, RoIAlign
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import nn

import mmext
from mmext.errors import InputError
from mmext.hooks import CPUPrecisionHook
from mmext.hooks.cpu_precision import compute_in, computing_parts, processor_has_bf16

FAMILIES = {
    'mask-rcnn': ['bbox_head', 'mask_head'],
    'cascade-mask-rcnn': ['bbox_head.0', 'bbox_head.1', 'bbox_head.2', 'mask_head.0', 'mask_head.1', 'mask_head.2'],
    'htc-without-semantic': ['bbox_head.0', 'bbox_head.1', 'bbox_head.2', 'mask_head.0', 'mask_head.1', 'mask_head.2'],
    'ms-rcnn': ['bbox_head', 'mask_head', 'mask_iou_head'],
    'point-rend': ['bbox_head', 'mask_head', 'point_head'],
    'solov2': None,
}


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return request.param


def built(family, **backbone):
    register_all_modules(init_default_scope=True)
    cfg = small_sampling(Config.fromfile(mmext.recipe(f'{family}_r18_fpn_finetune')))
    cfg.merge_from_dict({'model.backbone.init_cfg': None, 'model.backbone.norm_eval': False, **backbone})
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def batch(model, size=64):
    inputs = demo_mm_inputs(2, [[3, size, size]] * 2, num_items=[3, 3], num_classes=3, with_mask=True)
    return model.data_preprocessor(inputs, True)


def losses_of(model, data):
    """Losses as training sums them, and their gradients."""
    torch.manual_seed(1)
    model.train().zero_grad()
    total, losses = model.parse_losses(model(**copy.deepcopy(data), mode='loss'))
    total.backward()
    assert total.dtype == torch.float32
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: float(value.detach()) for name, value in losses.items() if 'loss' in name}, gradients


def test_parts_of_each_family_compute_and_give_plain_fp32(family):
    model = built(family)
    heads = FAMILIES[family]
    expected = ['mask_head'] if heads is None else ['rpn_head', *(f'roi_head.{name}' for name in heads)]
    assert list(computing_parts(model)) == ['backbone', 'neck', *expected]

    data = batch(model)
    stock, _ = losses_of(model, data)
    fast = copy.deepcopy(model)
    compute_in(fast, 'bf16')
    seen = {'plain': [], 'aligned': [], 'features': []}
    for module in fast.modules():
        if isinstance(module, RoIAlign):
            module.register_forward_pre_hook(lambda module, args: seen['aligned'].extend(args))
            module.register_forward_hook(lambda module, args, found: seen['aligned'].append(found))
    conv = next(module for module in fast.neck.modules() if isinstance(module, nn.Conv2d))
    conv.register_forward_hook(lambda module, args, found: seen['features'].append(found))
    last = computing_parts(fast)[expected[-1] if heads is None else f'roi_head.{heads[-1]}']

    def keep(module, args, found):
        apply_to(found, torch.is_tensor, seen['plain'].append)

    last.register_forward_hook(keep)
    losses, gradients = losses_of(fast, data)
    assert seen['features'][0].dtype == torch.bfloat16
    assert (heads is None) == (not seen['aligned'])
    assert all(tensor.dtype == torch.float32 for tensor in seen['aligned'])
    assert seen['plain']
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in seen['plain'])
    assert all(gradient.dtype == torch.float32 and torch.isfinite(gradient).all() for gradient in gradients.values())
    assert {value.dtype for value in fast.state_dict().values()} == {torch.float32, torch.int64}
    # of the RoIs others are drawn when the order of proposals changes by a digit: the RPN's losses tell
    same = {name: value for name, value in stock.items() if 'rpn' in name or heads is None}
    assert {name: losses[name] for name in same} == pytest.approx(same, rel=0.02, abs=0.01)
    assert losses != stock
    assert losses.keys() == stock.keys()
    assert losses['loss'] == pytest.approx(stock['loss'], rel=0.25)
    with torch.no_grad():
        fast.eval()(**data, mode='predict')


def test_fp32_is_stock_but_for_the_last_digits():
    """mmcv's RoIAlign reads channels_last in silence as if it were the usual layout: losses would be far off."""
    model = built('mask-rcnn')
    fast = copy.deepcopy(model)
    assert compute_in(fast, 'fp32') == [
        'precision: backbone, neck, rpn_head, roi_head.bbox_head, roi_head.mask_head compute in fp32, channels_last.'
    ]
    layouts = []
    fast.backbone.layer4.register_forward_hook(lambda module, args, found: layouts.append(found))
    data = batch(model)
    (stock, expected), (losses, gradients) = losses_of(model, data), losses_of(fast, data)
    assert layouts[0].is_contiguous(memory_format=torch.channels_last)
    assert not layouts[0].is_contiguous()
    # other RoIs may be drawn when the order of proposals changes by a digit: the RPN's losses and gradients tell
    ours, theirs = ({name: value for name, value in one.items() if 'rpn' in name} for one in (losses, stock))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert losses == pytest.approx(stock, rel=0.1)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        if name.startswith('rpn_head.'):
            torch.testing.assert_close(gradient, expected[name], rtol=1e-2, atol=1e-3 * float(expected[name].abs().max()))


def test_running_statistics_are_of_fp32_precision():
    """Sums of bf16 numbers kept in bf16 would have three digits."""
    model = built('mask-rcnn')
    fast = copy.deepcopy(model)
    compute_in(fast, 'bf16')
    data = batch(model)
    losses_of(model, data), losses_of(fast, data)
    buffers, expected = fast.backbone.layer2[0].bn1.running_mean, model.backbone.layer2[0].bn1.running_mean
    assert buffers.dtype == torch.float32
    assert not torch.equal(buffers, buffers.bfloat16().float())
    torch.testing.assert_close(buffers, expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))


def test_gradient_checkpointing_computes_the_second_time_as_the_first():
    plain = built('mask-rcnn')
    saving = built('mask-rcnn', **{'model.backbone.with_cp': True})
    saving.load_state_dict(plain.state_dict())
    compute_in(plain, 'bf16')
    compute_in(saving, 'bf16')
    found = []
    saving.backbone.layer3[1].conv2.register_forward_hook(lambda module, args, features: found.append(features.detach()))
    data = batch(plain)
    (losses, gradients), (again, others) = losses_of(plain, data), losses_of(saving, data)
    first, second = found
    assert first.dtype == second.dtype == torch.bfloat16
    assert torch.equal(first, second)
    assert again == losses
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=0.1, atol=0.05 * float(gradient.abs().max()))


class Part(nn.Module):
    """A part with one of mmcv's operators between two convolutions."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.deformed = ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        nn.init.normal_(self.deformed.conv_offset.weight)

    def forward(self, inputs):
        return {'found': (self.after(self.deformed(self.before(inputs))),)}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = Part()


@pytest.mark.parametrize(('precision', 'tolerance'), [('fp32', 1e-5), ('bf16', 0.05)])
def test_operators_of_mmcv_compute_in_fp32_inside_a_part(precision, tolerance):
    torch.manual_seed(0)
    model = Model()
    fast = copy.deepcopy(model)
    compute_in(fast, precision)
    inputs = torch.randn(2, 3, 9, 7)
    (expected,), (found,) = model.head(inputs)['found'], fast.head(inputs)['found']
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_copy_has_its_own_weights():
    """mmengine's EMAHook copies the model after or before."""
    torch.manual_seed(0)
    model = Model()
    compute_in(model, 'bf16')
    other = copy.deepcopy(model)
    nn.init.zeros_(other.head.after.weight), nn.init.zeros_(other.head.after.bias)
    inputs = torch.randn(1, 3, 5, 5)
    assert not other.head(inputs)['found'][0].any()
    assert model.head(inputs)['found'][0].any()


def test_done_twice_is_done_once():
    model = Model()
    compute_in(model, 'bf16')
    forward = model.head.forward
    compute_in(model, 'bf16')
    assert model.head.forward == forward


@pytest.mark.parametrize('name', ['avx512_bf16', 'amx_bf16', 'bf16', 'sve_bf16'])
def test_auto_is_bf16_where_the_processor_has_it(monkeypatch, name):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx2': True, 'cpu_name': 'x', name: True})
    assert processor_has_bf16()
    assert compute_in(Model(), 'auto') == ['precision: head compute in bf16, channels_last.']


def test_a_processor_without_bf16_gets_fp32_and_a_line(monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx2': True, 'amx_bf16': False})
    model = Model()
    assert compute_in(model, 'auto') == [
        'precision: this processor has no bf16 (none of avx512_bf16, amx_bf16, bf16, sve_bf16), so it stays at fp32.',
        'precision: head compute in fp32, channels_last.',
    ]
    inner = []
    model.head.before.register_forward_hook(lambda module, args, found: inner.append(found.dtype))
    model.head(torch.randn(1, 3, 5, 5))
    assert inner == [torch.float32]


def test_a_model_on_another_device_stays_as_it_is():
    model = Model().to('meta')
    (line,) = compute_in(model, 'bf16')
    assert 'the model is on meta and stays as it is' in line
    assert 'optim_wrapper.type=AmpOptimWrapper' in line
    assert 'forward' not in vars(model.head)


def test_another_precision_is_refused():
    words = "precision.* 'fp16' is none. Allowed: auto, bf16, fp32."
    with pytest.raises(InputError, match=words):
        CPUPrecisionHook('fp16')
    with pytest.raises(InputError, match=words):
        compute_in(Model(), 'fp16')


@pytest.fixture(scope='module')
def run(demo_config, tmp_path_factory):
    """Runs of the demo's network on small images, with all hooks of our runtime, stages and losses in validation."""
    folder = tmp_path_factory.mktemp('runs')

    def start(name, precision=None, **changes):
        register_all_modules(init_default_scope=True)
        cfg = small_sampling(Config.fromfile(demo_config))
        for part in ('train', 'val'):
            loader = cfg[f'{part}_dataloader']
            loader.update({'num_workers': 0, 'persistent_workers': False, 'batch_size': 4})
            for step in loader.dataset.pipeline:
                step.update({'scale': (96, 96)} if step['type'] == 'Resize' else {})
        hook = {'type': 'mmext.CPUPrecisionHook', 'precision': precision}
        stages = [{'epochs': 1, 'train': 'heads'}, {'train': 'all'}]
        cfg.merge_from_dict(
            {
                'train_cfg.max_epochs': 2,
                'train_cfg.val_interval': 1,
                'default_hooks.logger.interval': 1,
                'default_hooks.staged_training': {'type': 'mmext.StagedTrainingHook', 'stages': stages},
                'model.backbone.frozen_stages': -1,
                'work_dir': str(folder / name),
                'experiment_name': f'{name}_{len(MMLogger._instance_dict)}',
                **({'default_hooks.cpu_precision': hook} if precision else {}),
                **changes,
            }
        )
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    return start


@pytest.fixture(scope='module')
def fast(run):
    return run('fast', 'bf16')


def history(runner, name):
    return runner.message_hub.get_scalar(name).data[0].tolist()


def test_a_training_with_all_our_hooks(run, fast):
    stock = run('stock')
    assert len(history(fast, 'train/loss')) == 4
    assert history(fast, 'train/loss') == pytest.approx(history(stock, 'train/loss'), rel=0.1)
    assert history(fast, 'train/loss') != history(stock, 'train/loss')
    assert history(fast, 'val/val_loss') == pytest.approx(history(stock, 'val/val_loss'), rel=0.1)

    optimizer = fast.optim_wrapper.optimizer
    assert [group['name'] for group in optimizer.param_groups][:3] == ['backbone', 'neck', 'rpn_head']
    saved = torch.load(fast.work_dir + '/epoch_2.pth', weights_only=False)
    momentum = [state['exp_avg'] for state in saved['optimizer']['state'].values()]
    tensors = [*saved['state_dict'].values(), *momentum]
    assert all(tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.int64) for tensor in tensors)
    plain = MODELS.build(fast.cfg.model)
    plain.load_state_dict(saved['state_dict'])
    assert all(torch.equal(value, fast.model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_run_goes_on_with_and_without(run, fast):
    again = run('again', 'bf16', resume=True, load_from=fast.work_dir + '/epoch_1.pth')
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in fast.model.state_dict().items())
    without = run('without', None, resume=True, load_from=fast.work_dir + '/epoch_1.pth')
    assert history(without, 'train/loss')[-2:] == pytest.approx(history(fast, 'train/loss')[-2:], rel=0.1)


def test_the_log_says_so(run):
    runner = run('said', 'fp32', **{'train_cfg.max_epochs': 1, 'default_hooks.staged_training.type': 'mmext.NoHook'})
    (log,) = Path(runner.log_dir).glob('*.log')
    assert len(re.findall(r'precision: backbone, .* compute in fp32, channels_last\.', log.read_text())) == 1
