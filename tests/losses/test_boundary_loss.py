import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from scipy import ndimage

from mmext.errors import InputError
from mmext.losses import BoundaryLoss
from mmext.losses.boundary_loss import boundary_loss, mask_boundary
from mmext.registry import MODELS


def drawing(*rows):
    """A mask (1, H, W) from rows of dots and hashes."""
    return torch.tensor([[float(sign == '#') for sign in row] for row in rows])[None]


def blobs(count=6, size=28, seed=0):
    """Random masks that touch the border here and there."""
    noise = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return (F.avg_pool2d(noise, 7, 1, 3)[:, 0] > 0).float()


def test_boundary_is_one_pixel_inside_the_mask():
    mask = drawing('.......', '.#####.', '.#####.', '.#####.', '.......')
    assert torch.equal(mask_boundary(mask), drawing('.......', '.#####.', '.#...#.', '.#####.', '.......'))
    # a corner of background counts too, as in the Laplacian with eight neighbours
    notch = drawing('######.', '#######', '#######', '#######')
    assert torch.equal(mask_boundary(notch), drawing('.....#.', '.....##', '.......', '.......'))


def test_border_of_the_roi_is_no_boundary():
    cut = drawing('..####', '..####', '..####')  # goes on above, below and on the right, or may
    assert torch.equal(mask_boundary(cut), drawing('..#...', '..#...', '..#...'))
    ends = drawing('......', '.#####', '.#####')  # ends one pixel below the upper border: that edge is seen
    assert torch.equal(mask_boundary(ends), drawing('......', '.#####', '.#....'))


def test_full_and_empty_masks_have_none_and_a_line_is_nothing_else():
    assert mask_boundary(torch.ones(2, 8, 8)).sum() == 0
    assert mask_boundary(torch.zeros(2, 8, 8)).sum() == 0
    line = drawing('......', '.####.', '......')
    assert torch.equal(mask_boundary(line), line)
    assert mask_boundary(torch.zeros(0, 8, 8)).shape == (0, 8, 8)


def test_same_as_erosion_by_scipy():
    masks = blobs()
    assert masks[:, 0].any()  # some do touch the border
    assert masks[:, :, -1].any()
    for mask, found in zip(masks.bool().numpy(), mask_boundary(masks), strict=True):
        inner = ndimage.binary_erosion(mask, structure=[[1] * 3] * 3, border_value=1)
        assert (found.numpy() == (mask & ~inner)).all()


def test_soft_targets_are_cut_in_the_middle():
    masks = blobs()
    assert torch.equal(mask_boundary(0.3 + 0.3 * masks), mask_boundary(masks))
    assert mask_boundary(masks.half()).dtype == torch.float16


def test_by_hand():
    logits = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(1))
    target = (torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(2)) > 0.8).float()
    p = logits.sigmoid()
    bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    dice = 0
    for prediction, truth in zip(p, target, strict=True):
        dice += (1 - (2 * (prediction * truth).sum() + 1) / (prediction.sum() + truth.sum() + 1)) / 5
    assert boundary_loss(logits, target).item() == pytest.approx((bce + dice).item(), rel=1e-5)
    assert boundary_loss(logits, target, dice_weight=0).item() == pytest.approx(bce.item(), rel=1e-5)
    assert boundary_loss(logits, target, bce_weight=0).item() == pytest.approx(dice.item(), rel=1e-5)


def test_class_sees_the_labels_channel_and_makes_the_boundary_itself():
    masks, labels = blobs(), torch.tensor([0, 1, 2, 2, 1, 0])
    preds = torch.randn(6, 3, 28, 28, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = BoundaryLoss(loss_weight=2.0, dice_weight=0.5, bce_weight=3.0)(preds, masks, labels)
    own = torch.stack([preds[i, label] for i, label in enumerate(labels)])
    assert loss.item() == pytest.approx(2 * boundary_loss(own, mask_boundary(masks), 3.0, 0.5).item())
    loss.backward()
    for i, label in enumerate(labels):
        assert (preds.grad[i, label] != 0).all()
        others = [channel for channel in range(3) if channel != label]
        assert (preds.grad[i, others] == 0).all()


def test_the_boundary_itself_costs_nothing_and_the_mask_does():
    masks = blobs()
    perfect, filled = mask_boundary(masks) * 40 - 20, masks * 40 - 20
    labels = torch.zeros(6, dtype=torch.long)
    assert BoundaryLoss()(perfect[:, None], masks, labels) < 1e-4
    assert BoundaryLoss()(filled[:, None], masks, labels) > 1
    # nothing to find: still pushed towards nothing
    empty = torch.zeros(6, 28, 28)
    quiet, loud = (BoundaryLoss()(torch.full((6, 1, 28, 28), logit), empty, labels) for logit in (-20.0, 0.0))
    assert quiet < 1e-4 < 1 < loud


def test_no_roi_is_zero_with_a_gradient():
    preds = torch.zeros(0, 3, 28, 28, requires_grad=True)
    loss = BoundaryLoss()(preds, torch.zeros(0, 28, 28), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert preds.grad.shape == preds.shape


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_large_logits_in_half_precision(dtype):
    masks = blobs()
    preds = torch.linspace(-1e4, 1e4, 6 * 28 * 28).reshape(6, 1, 28, 28).to(dtype).requires_grad_()
    loss = BoundaryLoss()(preds, masks.to(dtype), torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(preds.grad).all()
    assert preds.grad.abs().max() > 0


def test_from_a_config():
    init_default_scope('mmdet')
    loss = MODELS.build(dict(type='mmext.BoundaryLoss'))
    assert (loss.loss_weight, loss.dice_weight, loss.bce_weight) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize('name', ['loss_weight', 'dice_weight', 'bce_weight'])
@pytest.mark.parametrize('value', [-1, math.nan, math.inf, '1', True])
def test_wrong_weights(name, value):
    with pytest.raises(InputError, match=f'BoundaryLoss: {name} is {value!r}; it must be a number, 0 or more'):
        BoundaryLoss(**{name: value})
