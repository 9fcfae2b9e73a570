from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmext.analysis.shares import by_family, family_of
from mmext.errors import InputError
from mmext.heads import FCNMaskHead
from mmext.heads.fcn_mask_head import loss_key, takes_channels
from mmext.registry import MODELS

LABELS = torch.tensor([2, 0, 1, 2, 0])
BCE = dict(type='CrossEntropyLoss', use_mask=True)
DICE = dict(type='DiceLoss')


def head(kind='mmext.FCNMaskHead', classes=3, **changes):
    init_default_scope('mmdet')
    return MODELS.build(dict(type=kind, num_convs=1, in_channels=4, conv_out_channels=4, num_classes=classes, **changes))


def logits(rois=5, channels=3, seed=0):
    return torch.randn(rois, channels, 28, 28, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def losses(mask_head, preds, labels=LABELS):
    """Losses of RoIs that lie somewhere on two random masks, and their targets."""
    masks = BitmapMasks(np.random.default_rng(0).random((2, 64, 64)) > 0.4, 64, 64)
    corners = torch.arange(len(labels))[:, None] * torch.tensor([[3.0, 5.0, 3.0, 5.0]])
    sampled = SimpleNamespace(
        pos_priors=corners + torch.tensor([[0.0, 0, 40, 30]]),
        pos_assigned_gt_inds=torch.arange(len(labels)) % 2,
        pos_gt_labels=labels,
    )
    found = mask_head.loss_and_target(preds, [sampled], [InstanceData(masks=masks)], ConfigDict(mask_size=28))
    assert set(found) == {'loss_mask', 'mask_targets'}
    return found['loss_mask'], found['mask_targets']


def own(preds, labels=LABELS):
    return torch.stack([roi[label if len(roi) > 1 else 0] for roi, label in zip(preds, labels, strict=True)])


def dice_by_hand(probabilities, targets):
    values = []
    for p, g in zip(probabilities, targets, strict=True):
        values.append(1 - 2 * (p * g).sum() / ((p * p).sum() + (g * g).sum() + 2e-3))
    return torch.stack(values).mean()


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('loss', [{}, {'loss_mask': BCE}, {'loss_mask': BCE | {'loss_weight': 0.3}}])
def test_cross_entropy_is_stocks_to_the_bit(agnostic, loss):
    results = []
    for kind in ('FCNMaskHead', 'mmext.FCNMaskHead'):
        preds = logits(channels=1 if agnostic else 3)
        found, targets = losses(head(kind, class_agnostic=agnostic, **loss), preds)
        found['loss_mask'].backward()
        assert list(found) == ['loss_mask']
        results.append((found['loss_mask'].detach(), targets, preds.grad))
    assert all(torch.equal(stock, ours) and stock.any() for stock, ours in zip(*results, strict=True))


def test_layers_and_predictions_are_stocks():
    stock, ours = head('FCNMaskHead'), head(loss_mask=[BCE, DICE])
    assert {name: value.shape for name, value in stock.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    assert FCNMaskHead.predict_by_feat is type(stock).predict_by_feat
    ours.load_state_dict(stock.state_dict())
    features = torch.randn(100, 4, 14, 14, generator=torch.Generator().manual_seed(0))
    for needed in (True, False):
        with torch.set_grad_enabled(needed):
            assert torch.equal(ours(features), stock(features))


@pytest.mark.parametrize(('classes', 'agnostic'), [(3, False), (3, True), (1, False)])
def test_dice_is_of_the_labels_channel_and_per_roi(classes, agnostic):
    labels = LABELS % classes
    preds = logits(channels=1 if agnostic else classes)
    found, targets = losses(
        head(classes=classes, class_agnostic=agnostic, loss_mask=DICE | {'loss_weight': 2.0}), preds, labels
    )
    expected = 2 * dice_by_hand(own(preds, labels).sigmoid(), targets)
    assert found['loss_mask'].item() == pytest.approx(expected.item(), rel=1e-5)
    found['loss_mask'].backward()
    for roi, label in enumerate(labels):
        for channel in range(preds.shape[1]):
            assert bool(preds.grad[roi, channel].any()) == (preds.shape[1] == 1 or channel == label)


@pytest.mark.parametrize(('classes', 'agnostic'), [(3, True), (1, False)])
def test_stock_learns_nothing_from_dice_with_one_channel(classes, agnostic):
    """Why ours does not hand labels to such a loss: stock's become weights of 0."""
    preds = logits(channels=1)
    found, _ = losses(head('FCNMaskHead', classes=classes, class_agnostic=agnostic, loss_mask=DICE), preds, LABELS % classes)
    found['loss_mask'].backward()
    assert found['loss_mask'] == 0
    assert not preds.grad.any()
    with pytest.raises(RuntimeError, match='must match'):
        losses(head('FCNMaskHead', loss_mask=DICE), logits())


@pytest.mark.parametrize('agnostic', [False, True])
def test_class_weights_weigh_rois(agnostic):
    weights = [1.0, 0.0, 4.0]
    preds = logits(channels=1 if agnostic else 3)
    found, targets = losses(
        head(class_agnostic=agnostic, loss_mask=BCE | {'class_weight': weights, 'loss_weight': 0.5}), preds
    )
    by_roi = F.binary_cross_entropy_with_logits(own(preds), targets, reduction='none').mean((1, 2))
    expected = 0.5 * sum(weights[label] * value for label, value in zip(LABELS, by_roi, strict=True)) / 5
    assert found['loss_mask'].item() == pytest.approx(expected.item(), rel=1e-5)
    found['loss_mask'].backward()
    assert [bool(roi.any()) for roi in preds.grad] == [weights[label] > 0 for label in LABELS]


def test_class_weights_of_one_change_nothing():
    plain, weighted = (losses(head(loss_mask=BCE | more), logits())[0] for more in ({}, {'class_weight': [1, 1, 1]}))
    assert weighted['loss_mask'].item() == plain['loss_mask'].item()


def test_stock_weighs_columns_by_class():
    """Why ours does not hand class weights on: they crash, or mean something else."""
    with pytest.raises(RuntimeError, match='must match'):
        losses(head('FCNMaskHead', loss_mask=BCE | {'class_weight': [1, 2, 3]}), logits())
    only_left = BCE | {'class_weight': [1.0] + [0.0] * 27}
    preds = logits(channels=28)
    losses(head('FCNMaskHead', classes=28, loss_mask=only_left), preds)[0]['loss_mask'].backward()
    assert preds.grad[..., 0].any()
    assert not preds.grad[..., 1:].any()


def test_several_losses_each_with_a_name():
    both, _ = losses(head(loss_mask=[BCE, DICE | {'loss_weight': 0.5}]), logits())
    assert list(both) == ['cross_entropy.loss_mask', 'dice.loss_mask']
    for name, cfg in (('cross_entropy.loss_mask', BCE), ('dice.loss_mask', DICE | {'loss_weight': 0.5})):
        assert both[name].item() == losses(head(loss_mask=cfg), logits())[0]['loss_mask'].item()
    # as MMDetection's cascade names a stage's
    assert {family_of(name) for found in both for name in (found, f's2.{found}')} == {'mask'}
    assert by_family({name: value.item() for name, value in both.items()}) == {
        'mask': pytest.approx(sum(both.values()).item())
    }


@pytest.mark.parametrize(
    'loss',
    [
        {'type': 'mmext.GCELoss'},
        {'type': 'mmext.SoftMaskLoss'},
        {'type': 'FocalLoss', 'use_sigmoid': True},
        {'type': 'mmext.GCELoss', 'class_weight': [1, 2, 3]},
    ],
    ids=lambda loss: '-'.join(map(str, loss)) + loss['type'],
)
def test_other_losses(loss):
    preds = logits()
    found, _ = losses(head(loss_mask=[loss, DICE]), preds)
    first = next(iter(found.values()))
    assert first > 0
    first.mean().backward()
    for roi, label in enumerate(LABELS):
        assert [bool(channel.any()) for channel in preds.grad[roi]] == [channel == label for channel in range(3)]


@pytest.mark.parametrize(
    'loss', [BCE, DICE, BCE | {'class_weight': [1, 2, 3]}, [BCE, DICE]], ids=['bce', 'dice', 'weights', 'list']
)
def test_no_roi_is_zero_with_a_graph(loss):
    mask_head = head(loss_mask=loss)
    preds = mask_head(torch.zeros(0, 4, 14, 14))
    found, targets = losses(mask_head, preds, LABELS[:0])
    assert targets.shape == (0, 28, 28)
    total = sum(value.sum() for value in found.values())
    assert total == 0
    total.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in mask_head.parameters())


def test_dice_of_half_precision_is_computed_in_single():
    single, half = logits(), logits().detach().half().requires_grad_()
    values = [losses(head(loss_mask=DICE), preds)[0]['loss_mask'] for preds in (single, half)]
    assert values[1].dtype == torch.float32
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-3)


def test_how_a_loss_is_called():
    init_default_scope('mmdet')
    all_channels = [BCE, {'type': 'mmext.GCELoss'}, {'type': 'mmext.SoftMaskLoss'}]
    assert all(takes_channels(MODELS.build(cfg)) for cfg in all_channels)
    assert not any(takes_channels(MODELS.build(cfg)) for cfg in (DICE, {'type': 'FocalLoss'}, {'type': 'L1Loss'}))
    kinds = ('DiceLoss', 'CrossEntropyLoss', 'GCELoss', 'SoftMaskLoss')
    assert [loss_key(kind) for kind in kinds] == ['dice', 'cross_entropy', 'gce', 'soft_mask']


@pytest.mark.parametrize(
    ('loss', 'words'),
    [
        ([], r'loss_mask is \[\]; it must be the config of a loss, such as .*, or a list of them'),
        ('DiceLoss', "loss_mask is 'DiceLoss'; it must be the config of a loss"),
        ([BCE, 'DiceLoss'], r"loss_mask is \[.*'DiceLoss'\]; it must be the config of a loss"),
        ([DICE, DICE], 'a list of DiceLoss, DiceLoss; each type may stand in it once'),
        ({'type': 'CrossEntropyLoss'}, 'a CrossEntropyLoss without use_mask. Set use_mask=True'),
        (BCE | {'reduction': 'sum'}, "reduction of CrossEntropyLoss is 'sum'; allowed: 'mean'"),
        (BCE | {'class_weight': [1, 2]}, r'class_weight of CrossEntropyLoss is \[1, 2\]; it must be 3 numbers of 0 or more'),
        (BCE | {'class_weight': [1, 2, -1]}, r'is \[1, 2, -1\]; it must be 3 numbers of 0 or more, one a class'),
        (BCE | {'class_weight': [1, 2, float('nan')]}, 'it must be 3 numbers of 0 or more'),
    ],
    ids=str,
)
def test_wrong_losses(loss, words):
    with pytest.raises(InputError, match=f'FCNMaskHead: .*{words}'):
        head(loss_mask=loss)


def test_class_weights_that_see_class_0_alone():
    with pytest.raises(InputError, match='class_weight of GCELoss cannot be used with class_agnostic=True'):
        head(class_agnostic=True, loss_mask=dict(type='mmext.GCELoss', class_weight=[1, 2, 3]))


@pytest.mark.parametrize('kind', ['mmext.FCNMaskHead', 'mmext.BoundaryMaskHead'])
def test_many_rois_go_through_in_even_parts_where_there_is_no_gradient(kind):
    mask_head, sizes = head(kind), []
    mask_head.conv_logits.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    features = torch.randn(290, 4, 14, 14, generator=torch.Generator().manual_seed(0))
    whole = mask_head(features)
    assert whole.requires_grad
    with torch.no_grad():
        in_parts, few, none = (mask_head(features[:number]) for number in (290, 128, 0))
    assert sizes == [290, 97, 97, 96, 128, 0]
    torch.testing.assert_close(in_parts, whole.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(few, whole[:128].detach(), rtol=1e-5, atol=1e-5)
    assert len(none) == 0
