from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_sampling
from mmdet.structures.mask import BitmapMasks
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from mmengine.utils import get_installed_path

import mmext
from mmext.analysis.shares import by_family, family_of
from mmext.errors import InputError
from mmext.heads import BoundaryMaskHead, RoIPool
from mmext.heads.boundary_mask_head import join, split
from mmext.losses import BoundaryLoss
from mmext.optim import part_of
from mmext.registry import MODELS

LABELS = torch.tensor([2, 0, 1])
SOURCE = mmext.config_root() / 'demo' / 'mask-rcnn_r18_fpn_source.pth'


def head(kind='mmext.BoundaryMaskHead', **changes):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(
        dict(type=kind, **{'num_convs': 2, 'in_channels': 8, 'conv_out_channels': 8, 'num_classes': 3} | changes)
    )


def features(rois=3, seed=0):
    return torch.randn(rois, 8, 14, 14, generator=torch.Generator().manual_seed(seed))


def found(mask_head, preds, labels=LABELS):
    masks = BitmapMasks(np.random.default_rng(0).random((2, 64, 64)) > 0.4, 64, 64)
    sampled = SimpleNamespace(
        pos_priors=torch.arange(len(labels))[:, None] * torch.tensor([[3.0, 5, 3, 5]]) + torch.tensor([[0.0, 0, 40, 30]]),
        pos_assigned_gt_inds=torch.arange(len(labels)) % 2,
        pos_gt_labels=labels,
    )
    return mask_head.loss_and_target(preds, [sampled], [InstanceData(masks=masks)], ConfigDict(mask_size=28))


LAYOUTS = [
    {},
    {'class_agnostic': True},
    {'num_convs': 0, 'in_channels': 8, 'conv_out_channels': 6},
    {'in_channels': 8, 'conv_out_channels': 6},
    {'upsample_cfg': {'type': 'bilinear', 'scale_factor': 2}},
    {'upsample_cfg': {'type': None}},
]


@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
def test_weights_of_stock_keep_their_names_and_give_stocks_masks(layout):
    """What COCO's weights fill is all of stock's; with it the fresh head predicts stock's masks to the bit."""
    stock, ours = head('FCNMaskHead', **layout), head(**layout)
    theirs, mine = stock.state_dict(), ours.state_dict()
    assert {name: value.shape for name, value in mine.items() if name in theirs} == {
        name: value.shape for name, value in theirs.items()
    }
    assert all(name.startswith('boundary_') for name in mine if name not in theirs)
    missing, unexpected = ours.load_state_dict(theirs, strict=False)
    assert unexpected == []
    assert {part_of(f'roi_head.mask_head.{name}') for name in missing} == {'mask_head'}
    masks, boundaries = split(ours(features()))
    assert torch.equal(masks, stock(features()))
    assert boundaries.shape == masks.shape
    assert boundaries.abs().max() < 0.5  # a fresh predictor is unsure: its loss starts near that of p = 0.5


def test_initialisation_by_the_runner_leaves_the_start_as_it_is():
    fresh = head()
    fresh.init_weights()
    assert not fresh.boundary_to_mask.weight.any()
    assert fresh.boundary_logits.weight.std() < 0.002


def test_both_branches_use_each_other():
    mask_head = head()
    torch.nn.init.normal_(mask_head.boundary_to_mask.weight)
    masks, boundaries = split(mask_head(features()))
    for name, of_masks, of_boundaries in (
        ('boundary_in', True, True),
        ('boundary_convs', True, True),
        ('boundary_from_mask', True, True),
        ('convs', True, True),
        ('boundary_to_mask', True, False),
        ('boundary_logits', False, True),
        ('conv_logits', True, False),
    ):
        for output, uses in ((masks, of_masks), (boundaries, of_boundaries)):
            weight = next(value for key, value in mask_head.named_parameters() if key.startswith(f'{name}.'))
            grad = torch.autograd.grad(output.square().sum(), weight, retain_graph=True, allow_unused=True)[0]
            assert (grad is not None and bool(grad.any())) == uses, name


@pytest.mark.parametrize('agnostic', [False, True])
def test_losses_are_those_of_the_mask_and_of_the_boundary(agnostic):
    ours = head(class_agnostic=agnostic, loss_boundary=dict(type='mmext.BoundaryLoss', loss_weight=3.0))
    alone = head('mmext.FCNMaskHead', class_agnostic=agnostic)
    preds = ours(features()).detach().requires_grad_()
    masks, boundaries = split(preds)
    result, expected = found(ours, preds), found(alone, masks)
    assert list(result['loss_mask']) == ['loss_mask', 'loss_boundary']
    assert torch.equal(result['loss_mask']['loss_mask'], expected['loss_mask']['loss_mask'])
    assert torch.equal(result['mask_targets'], expected['mask_targets'])
    channels = torch.zeros_like(LABELS) if agnostic else LABELS
    boundary = BoundaryLoss(loss_weight=3.0)(boundaries, result['mask_targets'], channels)
    assert torch.equal(result['loss_mask']['loss_boundary'], boundary)
    sum(value.sum() for value in result['loss_mask'].values()).backward()
    count = 1 if agnostic else 3
    for roi, channel in enumerate(channels):  # of each RoI only the label's mask and the label's boundary
        assert {i for i in range(2 * count) if preds.grad[roi, i].any()} == {int(channel), int(channel) + count}


def test_losses_need_no_training_mode():
    mask_head = head()
    trained = found(mask_head, mask_head(features()))['loss_mask']
    with torch.no_grad():
        evaluated = found(mask_head, mask_head.eval()(features()))['loss_mask']
    assert {name: value.item() for name, value in trained.items()} == {
        name: value.item() for name, value in evaluated.items()
    }


def test_no_roi_is_zero_with_a_graph():
    mask_head = head()
    losses = found(mask_head, mask_head(features(0)), LABELS[:0])['loss_mask']
    total = sum(value.sum() for value in losses.values())
    assert total == 0
    total.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in mask_head.parameters())


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('activated', [False, True])  # a cascade hands over probabilities, the mean of its stages
def test_predictions_use_the_masks_alone(agnostic, activated):
    ours, stock = head(class_agnostic=agnostic), head('FCNMaskHead', class_agnostic=agnostic)
    count = 1 if agnostic else 3
    masks = torch.randn(3, count, 28, 28, generator=torch.Generator().manual_seed(0))
    masks = masks.sigmoid() if activated else masks
    meta = {'scale_factor': (1.0, 1.0), 'ori_shape': (64, 64), 'img_shape': (64, 64)}

    def predict(mask_head, preds):
        boxes = torch.tensor([[0.0, 0, 40, 30], [10, 10, 60, 60], [5, 20, 30, 64]])
        results = [InstanceData(bboxes=boxes, labels=LABELS), InstanceData(bboxes=boxes[:0], labels=LABELS[:0])]
        cfg = ConfigDict(mask_thr_binary=0.5)
        return mask_head.predict_by_feat([preds, preds[:0]], results, [meta, meta], cfg, activate_map=activated)

    expected = predict(stock, masks)
    for boundaries in (masks + 100, masks - 100):
        result = predict(ours, join(masks, boundaries))
        assert torch.equal(result[0].masks.cpu(), expected[0].masks)
        assert result[1].masks.shape == (0, 64, 64)
    assert expected[0].masks.any()


def test_mistakes_are_those_of_the_mask_head():
    with pytest.raises(InputError, match='FCNMaskHead: loss_mask is a CrossEntropyLoss without use_mask'):
        head(loss_mask=dict(type='CrossEntropyLoss'))


# ---- the parts of this folder in a whole model, by config keys alone


def small_model(changes):
    cfg = small_sampling(Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune')))
    init_default_scope(cfg.default_scope)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    return cfg.model


def inputs(classes=3):
    torch.manual_seed(0)
    return demo_mm_inputs(2, [[3, 128, 128]] * 2, num_items=[4, 4], num_classes=classes, with_mask=True)


def pooling(size):
    return dict(_delete_=True, type='mmext.RoIPool', output_size=size)


def test_in_a_whole_model():
    extractor = 'mmext.SingleRoIExtractor'
    cfg = small_model(
        {
            'roi_head.mask_head.type': 'mmext.BoundaryMaskHead',
            'roi_head.mask_head.loss_mask': [dict(type='CrossEntropyLoss', use_mask=True), dict(type='DiceLoss')],
            'roi_head.bbox_roi_extractor': dict(type=extractor, roi_layer=pooling(7)),
            'roi_head.mask_roi_extractor': dict(type=extractor, roi_layer=pooling(14)),
        }
    )
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    assert isinstance(model.roi_head.mask_head, BoundaryMaskHead)
    assert all(isinstance(layer, RoIPool) for layer in model.roi_head.mask_roi_extractor.roi_layers)

    batch = inputs()
    model.train()
    torch.manual_seed(1)
    total, losses = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
    assert {name for name in losses if family_of(name) == 'mask'} == {
        'cross_entropy.loss_mask',
        'dice.loss_mask',
        'loss_boundary',
    }
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert set(by_family(dict.fromkeys(losses, 1.0))) == {'mask', 'cls', 'bbox', 'rpn_cls', 'rpn_bbox'}
    total.backward()
    learnt = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, grad in learnt.items() if not grad.abs().max() > 0] == []

    model.eval()
    with torch.no_grad():
        prediction = model.test_step(batch)[0].pred_instances
        again = model.data_preprocessor(inputs(), True)
        torch.manual_seed(1)
        evaluated = model.parse_losses(model(**again, mode='loss'))[1]
    assert prediction.masks.shape == (len(prediction.bboxes), 128, 128)
    assert len(prediction.bboxes) > 0
    assert {name: value.item() for name, value in evaluated.items()} == pytest.approx(
        {name: value.item() for name, value in losses.items()}
    )


def test_shipped_weights_fill_all_but_the_boundary():
    model = MODELS.build(small_model({'roi_head.mask_head.type': 'mmext.BoundaryMaskHead'}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source = torch.load(SOURCE, weights_only=True)['state_dict']
    load_checkpoint(model, str(SOURCE), map_location='cpu', strict=False, logger='silent')
    filled = {name for name, value in model.state_dict().items() if name in source and torch.equal(value, source[name])}
    left = {name for name in before if name not in filled}
    predictors = ('bbox_head.fc_cls.', 'bbox_head.fc_reg.', 'mask_head.conv_logits.', 'mask_head.boundary_')
    assert left
    assert [name for name in left if not any(f'roi_head.{start}' in name for start in predictors)] == []
    assert {name for name in source if name not in before} == set()


def test_in_a_cascade():
    """Its three stages average probabilities before a label's channel is picked."""
    init_default_scope('mmdet')
    base = Config.fromfile(
        Path(get_installed_path('mmdet'), '.mim/configs/_base_/models/cascade-mask-rcnn_r50_fpn.py')
    ).model
    cfg = base.roi_head
    small = dict(in_channels=8, num_classes=3)
    cfg.bbox_head = [dict(stage, fc_out_channels=8, **small) for stage in cfg.bbox_head]
    cfg.mask_head.update(type='mmext.BoundaryMaskHead', conv_out_channels=8, **small)
    for extractor in (cfg.bbox_roi_extractor, cfg.mask_roi_extractor):
        extractor.out_channels = 8
    roi_head = MODELS.build(dict(cfg, train_cfg=base.train_cfg.rcnn, test_cfg=base.test_cfg.rcnn))

    maps = [torch.randn(2, 8, 128 // stride, 128 // stride) for stride in (4, 8, 16, 32)]
    samples = inputs()['data_samples']
    proposals = [InstanceData(bboxes=sample.gt_instances.bboxes + 1, scores=torch.ones(4)) for sample in samples]
    losses = roi_head.loss(maps, [proposal.clone() for proposal in proposals], samples)
    assert {name for name in losses if family_of(name) == 'mask'} == {
        f's{stage}.{name}' for stage in range(3) for name in ('loss_mask', 'loss_boundary')
    }
    assert all(losses[f's{stage}.loss_boundary'] > 0 for stage in range(3))
    results = [InstanceData(bboxes=proposal.bboxes, labels=torch.tensor([0, 1, 2, 0])) for proposal in proposals]
    with torch.no_grad():
        found = roi_head.eval().predict_mask(maps, [sample.metainfo for sample in samples], results, rescale=True)
    assert [result.masks.shape for result in found] == [(4, 128, 128)] * 2
