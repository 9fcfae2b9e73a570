import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp
from scipy.ndimage import distance_transform_edt
from torch.utils._python_dispatch import TorchDispatchMode

from mmext.errors import InputError
from mmext.losses import SoftMaskLoss
from mmext.losses.soft_mask_loss import distance_transform, soft_target

sizes = st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14))
batches = stnp.arrays(bool, sizes)


def reference(masks):
    """scipy's, mask by mask; infinity where there is no pixel outside, for which scipy invents one."""
    found = [distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, np.inf) for mask in masks]
    return np.stack(found) if found else np.zeros(masks.shape)


def discs(number, side, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centres, radii = rng.uniform(0, side, (2, number, 1, 1)), rng.uniform(side / 8, side / 2, (number, 1, 1))
    return (y - centres[0]) ** 2 + (x - centres[1]) ** 2 < radii**2


# ---- the distance transform


@given(batches)
@settings(deadline=None)
def test_distances_are_scipys(masks):
    np.testing.assert_allclose(distance_transform(torch.from_numpy(masks)), reference(masks), atol=1e-4, rtol=0)


@pytest.mark.parametrize('side', [28, 112])
def test_distances_are_scipys_on_large_masks(side):
    masks = discs(24, side)
    masks[0] = False
    masks[1] = True
    masks[2] = True
    masks[2, 0, 0] = False  # as far as it goes
    found = distance_transform(torch.from_numpy(masks))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, reference(masks), atol=1e-4, rtol=0)
    assert found[2].max().item() == pytest.approx((side - 1) * 2**0.5, abs=1e-4)


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_any_type_of_mask(dtype):
    masks = torch.from_numpy(discs(3, 9))
    values = masks.to(dtype) * (1 if dtype == torch.bool else 3)  # anything but 0 is inside
    assert torch.equal(distance_transform(values), distance_transform(masks))


@pytest.mark.parametrize('shape', [(0, 28, 28), (3, 0, 5), (3, 5, 0)])
def test_no_mask_and_no_pixel(shape):
    assert distance_transform(torch.zeros(shape, dtype=torch.bool)).shape == shape


class Record(TorchDispatchMode):
    """Counts the operations, and the elements of the largest result."""

    operations, elements = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        results = found if isinstance(found, (tuple, list)) else [found]
        self.operations += 1
        self.elements = max([self.elements, *(r.numel() for r in results if isinstance(r, torch.Tensor))])
        return found


def test_no_loop_over_masks_and_no_more_memory_than_the_masks_need():
    records = []
    for number in (1, 40):
        with Record() as record:
            soft_target(torch.from_numpy(discs(number, 16)), 2.0)
        records.append(record)
    assert records[0].operations == records[1].operations > 0
    assert records[1].elements == 40 * 16 * 16


def test_it_stays_on_the_tensors_device():
    assert distance_transform(torch.zeros(2, 5, 5, dtype=torch.bool, device='meta')).is_meta
    labels = torch.zeros(2, dtype=torch.long, device='meta')
    assert SoftMaskLoss()(torch.zeros(2, 3, 5, 5, device='meta'), torch.zeros(2, 5, 5, device='meta'), labels).is_meta


# ---- the target


def test_target_across_a_straight_outline():
    row = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).expand(1, 8, 8)
    assert soft_target(row, 2.0)[0, 3].tolist() == [0, 0, 0, 0.25, 0.75, 1, 1, 1]
    assert soft_target(row, 4.0)[0, 3].tolist() == [0, 0.125, 0.25, 0.375, 0.625, 0.75, 0.875, 1]
    assert soft_target(row, 1.0)[0, 3].tolist() == row[0, 3].tolist()


@given(batches, st.floats(0.1, 50))
@settings(deadline=None)
def test_target_is_f2s(masks, width):
    expected = np.clip(0.5 + (reference(masks) - reference(~masks)) / (2 * width), 0, 1)
    found = soft_target(torch.from_numpy(masks), width)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(found > 0.5, torch.from_numpy(masks))  # cut at 0.5 it is the mask again


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('width', [0.5, 2.0, 1000.0])
def test_an_empty_or_full_mask_stays(full, width):
    assert (soft_target(torch.full((2, 6, 5), full), width) == float(full)).all()


def test_the_edge_of_the_roi_is_no_outline():
    cut = torch.zeros(1, 6, 6)
    cut[:, :, :3] = 1
    assert soft_target(cut, 2.0)[0, :, 0].tolist() == [1] * 6


# ---- the loss


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_value_by_numpy():
    scores, masks, labels = drawn(4, 3, 28, 28), discs(4, 28), torch.tensor([2, 0, 1, 1])
    probabilities = 1 / (1 + np.exp(-scores.numpy().astype(float)[range(4), labels.numpy()]))
    expected = np.abs(probabilities - np.clip(0.5 + (reference(masks) - reference(~masks)) / 4, 0, 1))
    targets = torch.from_numpy(masks).float()
    each = SoftMaskLoss(reduction='none')(scores, targets, labels)
    np.testing.assert_allclose(each, expected, atol=1e-5, rtol=0)
    loss = SoftMaskLoss(loss_weight=3.0)
    assert loss(scores, targets, labels).item() == pytest.approx(3 * expected.mean(), rel=1e-5)
    assert loss(scores, targets, labels, reduction_override='sum').item() == pytest.approx(3 * expected.sum(), rel=1e-5)
    assert loss(scores, targets, labels, avg_factor=7).item() == pytest.approx(3 * expected.sum() / 7, rel=1e-5)


def test_a_prediction_that_is_the_soft_target_costs_nothing():
    masks = torch.from_numpy(discs(3, 28)).float()
    scores = torch.logit(soft_target(masks, 3.0), eps=1e-7)[:, None]
    assert SoftMaskLoss(width=3.0)(scores, masks, torch.zeros(3, dtype=torch.long)).item() < 1e-5
    assert SoftMaskLoss(width=1.0)(scores, masks, torch.zeros(3, dtype=torch.long)).item() > 1e-2


def test_targets_between_zero_and_one_are_cut_at_a_half():
    scores, labels, masks = drawn(3, 1, 9, 9), torch.zeros(3, dtype=torch.long), torch.rand(3, 9, 9)
    masks[0, 0, 0] = 0.5
    loss = SoftMaskLoss()
    assert loss(scores, masks, labels) == loss(scores, (masks >= 0.5).float(), labels)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('logit', [-1e4, 0.0, 1e4])
def test_finite_in_every_type(dtype, logit):
    scores = torch.full((3, 2, 9, 9), logit, dtype=dtype, requires_grad=True)
    loss = SoftMaskLoss()(scores, torch.from_numpy(discs(3, 9)).float(), torch.tensor([0, 1, 0]))
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def test_no_roi_is_zero_with_a_gradient():
    scores = torch.zeros(0, 3, 28, 28, requires_grad=True)
    loss = SoftMaskLoss()(scores, torch.zeros(0, 28, 28), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert scores.grad.shape == scores.shape


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'width': 0}, 'SoftMaskLoss: width is 0; it must be a number of mask pixels above 0'),
        ({'width': float('inf')}, 'SoftMaskLoss: width is inf; '),
        ({'width': '2'}, "SoftMaskLoss: width is '2'; "),
        ({'reduction': 'avg'}, "SoftMaskLoss: reduction is 'avg'; allowed: none, mean, sum"),
        ({'loss_weight': True}, 'SoftMaskLoss: loss_weight is True; it must be a number, 0 or more'),
    ],
    ids=str,
)
def test_wrong_arguments(changes, words):
    with pytest.raises(InputError, match=words):
        SoftMaskLoss(**changes)


def test_points_are_no_masks():
    with pytest.raises(InputError, match=r'targets have shape \(2, 196\); .* for loss_point take mmext.GCELoss'):
        SoftMaskLoss()(torch.zeros(2, 3, 196), torch.zeros(2, 196), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match="reduction_override is 'avg'"):
        SoftMaskLoss()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1).long(), reduction_override='avg')
