import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmext
from mmext.errors import InputError
from mmext.optim import part_of

SGD = {'type': 'SGD', 'lr': 0.02, 'momentum': 0.9, 'weight_decay': 1e-4}
NAMED = 'mmext.NamedParamGroupConstructor'
EVERY_RULE = {
    'bias_lr_mult': 2.0,
    'bias_decay_mult': 0.0,
    'norm_decay_mult': 0.0,
    'dwconv_decay_mult': 0.5,
    'dcn_offset_lr_mult': 0.1,
}


@pytest.fixture(scope='module')
def r50():
    return build_model(mmext.recipe('mask-rcnn_r50_fpn_finetune'))


@pytest.fixture(scope='module')
def dcn():
    from mmengine.hub import get_config

    return MODELS.build(get_config('mmdet::dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py').model)


def build_model(path):
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def optimizer_of(model, paramwise_cfg, constructor=NAMED, optimizer=SGD):
    cfg = {'type': 'OptimWrapper', 'optimizer': copy.deepcopy(optimizer), 'constructor': constructor}
    cfg['paramwise_cfg'] = copy.deepcopy(paramwise_cfg)
    return build_optim_wrapper(model, cfg).optimizer


def settings_by_name(model, optimizer):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: {k: v for k, v in group.items() if k in ('lr', 'weight_decay', 'momentum', 'dampening')}
        for group in optimizer.param_groups
        for parameter in group['params']
    }


def in_order(optimizer):
    return [id(parameter) for group in optimizer.param_groups for parameter in group['params']]


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('backbone.layer1.0.conv1.weight', 'backbone'),
        ('module.neck.fpn_convs.0.conv.bias', 'neck'),
        ('rpn_head.rpn_cls.weight', 'rpn_head'),
        ('roi_head.bbox_head.2.fc_cls.weight', 'bbox_head'),
        ('roi_head.mask_head.conv_logits.bias', 'mask_head'),
        ('roi_head.point_head.fcs.0.weight', 'mask_head'),
        ('roi_head.mask_iou_head.fcs.0.weight', 'mask_head'),
        ('roi_head.semantic_head.convs.0.weight', 'mask_head'),
        ('mask_head.conv_cls.weight', 'mask_head'),
        ('roi_head.glbctx_head.fc.weight', 'glbctx_head'),
        ('query_embed.weight', 'query_embed'),
    ],
)
def test_part_of(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize(
    'paramwise_cfg',
    [
        {'custom_keys': {}},
        {'custom_keys': {'roi_head': {'lr_mult': 10}, 'rpn_head': {'lr_mult': 5}}},
        {'custom_keys': {'roi_head': {'lr_mult': 10}, 'mask_head': {'lr_mult': 3, 'decay_mult': 0.5}}},
        EVERY_RULE,
        {'flat_decay_mult': 0.0, 'bypass_duplicate': True, 'custom_keys': {'layer4': {'lr_mult': 0.1, 'momentum': 0.5}}},
    ],
)
@pytest.mark.parametrize('model', ['r50', 'dcn'])
def test_every_parameter_has_stocks_settings(request, model, paramwise_cfg):
    model = request.getfixturevalue(model)
    ours = settings_by_name(model, optimizer_of(model, paramwise_cfg))
    stock = settings_by_name(model, optimizer_of(model, paramwise_cfg, 'DefaultOptimWrapperConstructor'))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(ours) == sorted(trainable)
    assert ours == {name: stock[name] for name in trainable}


KEYS = ['backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_head', 'mask_head', 'layer3', 'fc_cls', 'conv_logits']
MULTIPLIER = st.floats(0, 100, allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.fixed_dictionaries({}, optional={'lr_mult': MULTIPLIER, 'decay_mult': MULTIPLIER}),
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(EVERY_RULE, MULTIPLIER)),
)
def test_any_keys_and_rules_give_stocks_settings(small_model, custom_keys, rules):
    paramwise_cfg = {'custom_keys': custom_keys, **rules}
    ours = optimizer_of(small_model, paramwise_cfg)
    stock = optimizer_of(small_model, paramwise_cfg, 'DefaultOptimWrapperConstructor')
    assert settings_by_name(small_model, ours) == settings_by_name(small_model, stock)
    names = [group['name'] for group in ours.param_groups]
    assert len(set(names)) == len(names)


@pytest.fixture(scope='module')
def small_model():
    return build_model(mmext.recipe('mask-rcnn_r18_fpn_finetune'))


def test_groups_are_few_and_named_by_part(r50):
    plain = optimizer_of(r50, {'custom_keys': {'roi_head': {'lr_mult': 10}}})
    assert [group['name'] for group in plain.param_groups] == ['backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head']
    assert sum(len(group['params']) for group in plain.param_groups) == 168
    with_rules = optimizer_of(r50, {'norm_decay_mult': 0.0, 'custom_keys': {'mask_head': {'lr_mult': 3}}})
    names = [group['name'] for group in with_rules.param_groups]
    assert names == ['backbone', 'backbone.norm', 'neck', 'rpn_head', 'bbox_head', 'mask_head']


def test_order_is_stocks_when_settings_are_one_a_part(r50):
    keys = {'custom_keys': {'roi_head': {'lr_mult': 10}, 'rpn_head': {'lr_mult': 5}}}
    assert in_order(optimizer_of(r50, keys)) == in_order(optimizer_of(r50, keys, 'DefaultOptimWrapperConstructor'))


def test_suffixes_say_why_a_group_is_apart(r50):
    keys = {'layer4': {'lr_mult': 0.5}, 'fc_cls': {'lr_mult': 20}}
    names = [group['name'] for group in optimizer_of(r50, {'bias_lr_mult': 2, 'custom_keys': keys}).param_groups]
    assert names[:6] == ['backbone', 'backbone.layer4', 'neck', 'neck.bias', 'rpn_head', 'rpn_head.bias']
    assert 'bbox_head' in names


def test_frozen_parameters_are_kept_only_on_demand(r50):
    dropped = optimizer_of(r50, {'custom_keys': {}})
    kept = optimizer_of(r50, {'custom_keys': {}, 'keep_frozen': True})
    assert (len(in_order(dropped)), len(in_order(kept))) == (168, 201)
    assert sum(not parameter.requires_grad for parameter in r50.parameters()) == 33
    assert [group['name'] for group in kept.param_groups] == [group['name'] for group in dropped.param_groups]


def test_key_of_frozen_parameters_is_a_match(r50):
    optimizer_of(r50, {'custom_keys': {'layer1': {'lr_mult': 0.1}}})


@pytest.mark.parametrize(
    ('paramwise_cfg', 'words'),
    [
        (
            {'custom_keys': {'mask_haed': {'lr_mult': 15}}},
            r"custom_keys: 'mask_haed' matches no parameter. The model has: backbone, neck, rpn_head, bbox_head, "
            r"mask_head. Did you mean 'mask_head'\?",
        ),
        ({'custom_keys': {'neck': {'lr_mult': -1}}}, "lr_mult of 'neck' is -1; it must be a number, 0 or more"),
        ({'custom_keys': {'neck': {'lr_mult': '10x'}}}, "lr_mult of 'neck' is '10x'; it must be a number"),
        ({'custom_keys': {'neck': {'lr_mult': float('nan')}}}, "lr_mult of 'neck' is nan"),
        ({'custom_keys': {'neck': {'lr_mult': True}}}, "lr_mult of 'neck' is True"),
        ({'custom_keys': {'neck': {'lr_mul': 2}}}, "unknown option 'lr_mul' of 'neck'. Did you mean 'lr_mult'"),
        ({'custom_keys': {'neck': 0.1}}, r"'neck' is 0.1; it must be a dict such as dict\(lr_mult=10\)"),
        ({'custom_keys': ['neck']}, r"custom_keys is \['neck'\]; it must be a dict"),
        ({'norm_decay': 0}, "unknown option 'norm_decay'. Did you mean 'norm_decay_mult'"),
        ({'bias_lr_mult': -2}, 'bias_lr_mult is -2; it must be a number'),
        ({'keep_frozen': 'yes'}, "keep_frozen is 'yes'; it must be True or False"),
    ],
)
def test_mistakes_are_named(small_model, paramwise_cfg, words):
    with pytest.raises(InputError, match=words):
        optimizer_of(small_model, paramwise_cfg)


def test_all_mistakes_come_at_once(small_model):
    keys = {'mask_haed': {'lr_mult': 1}, 'nekc': {'lr_mult': -1}, 'rpn_head': {'decay': 1}}
    with pytest.raises(InputError) as error:
        optimizer_of(small_model, {'custom_keys': keys, 'flat_decay': 1})
    for name in ('mask_haed', 'nekc', 'lr_mult', "'decay'", 'flat_decay'):
        assert name in str(error.value)


def test_decay_multiplier_needs_a_decay(small_model):
    with pytest.raises(InputError, match=r'multiplies weight_decay, which optim_wrapper.optimizer does not set'):
        optimizer_of(small_model, {'norm_decay_mult': 0.0}, optimizer={'type': 'SGD', 'lr': 0.1})


class Shared(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(2, 2)
        self.mask_head = self.backbone
        self.neck = torch.nn.Linear(2, 2)
        self.neck.weight = self.backbone.weight


def test_shared_parameter_is_never_stepped_twice():
    with pytest.raises(InputError, match=r'backbone.weight is shared by two modules.*bypass_duplicate=True'):
        optimizer_of(Shared(), {'custom_keys': {}})
    ours = optimizer_of(Shared(), {'custom_keys': {}, 'bypass_duplicate': True})
    assert len(in_order(ours)) == 3


def weights_after(model, paramwise_cfg, constructor, iterations):
    cfg = {'type': 'OptimWrapper', 'optimizer': {**SGD, 'lr': 1e-3}, 'constructor': constructor}
    cfg |= {'clip_grad': {'max_norm': 1.0}, 'paramwise_cfg': paramwise_cfg}
    wrapper = build_optim_wrapper(model, cfg)
    model.train()
    for seed in range(iterations):
        torch.manual_seed(seed)
        inputs = demo_mm_inputs(1, [[3, 64, 64]], num_items=[3], num_classes=3, with_mask=True)
        model.train_step(inputs, wrapper)
    return model.state_dict()


@pytest.mark.parametrize(
    ('paramwise_cfg', 'exact'),
    [
        (None, True),
        ({'custom_keys': {'roi_head': {'lr_mult': 1}, 'backbone': {'lr_mult': 1}}}, True),
        # groups of their own change the order in which clipping sums the norms, so the last digit may differ
        ({'norm_decay_mult': 0.0}, False),
        ({'bias_lr_mult': 2.0}, False),
    ],
)
def test_ten_iterations_with_clipping_equal_stocks(paramwise_cfg, exact):
    torch.manual_seed(0)
    first = build_model(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    first.backbone.norm_eval = True  # as in R50; statistics of four values would blow the last digit up
    second = copy.deepcopy(first)
    ours = weights_after(first, paramwise_cfg, NAMED, 10)
    stock = weights_after(second, paramwise_cfg, 'DefaultOptimWrapperConstructor', 10)
    assert any(not torch.equal(weight, ours[name]) for name, weight in build_state().items())
    for name, weight in stock.items():
        if exact:
            assert torch.equal(ours[name], weight), name
        else:
            torch.testing.assert_close(ours[name], weight, atol=1e-6, rtol=0)


def build_state():
    torch.manual_seed(0)
    return build_model(mmext.recipe('mask-rcnn_r18_fpn_finetune')).state_dict()
