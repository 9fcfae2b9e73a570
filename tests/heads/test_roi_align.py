import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import roi_align as mmcv_roi_align

from mmext.heads.roi_align import roi_align


def rois_of(seed, number, images, reach):
    """Boxes inside, across the border and outside of features of ``reach`` pixels, some of them without area."""
    rng = torch.Generator().manual_seed(seed)
    corners = (torch.rand(number, 2, generator=rng) * 1.6 - 0.3) * reach
    sides = torch.rand(number, 2, generator=rng) * reach * (torch.rand(number, 1, generator=rng) > 0.2)
    image = torch.randint(images, (number, 1), generator=rng)
    return torch.cat([image, corners, corners + sides], 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    number=st.integers(0, 9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    output=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    scale=st.sampled_from([1.0, 0.25, 0.1]),
    ratio=st.integers(0, 3),
    aligned=st.booleans(),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_mmcvs_numbers_and_gradients(seed, number, size, output, scale, ratio, aligned, layout):
    torch.manual_seed(seed)
    features = torch.randn(2, 3, *size, requires_grad=True)
    ours = features.detach().contiguous(memory_format=layout).requires_grad_()
    rois = rois_of(seed, number, 2, max(size) / scale)
    expected = mmcv_roi_align(features, rois, output, scale, ratio, 'avg', aligned)
    found = roi_align(ours, rois, output, scale, ratio, aligned)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weight = torch.randn(expected.shape)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    torch.testing.assert_close(ours.grad, features.grad, rtol=1e-4, atol=1e-4)


def test_of_no_roi_there_is_a_gradient():
    features = torch.randn(1, 2, 4, 4, requires_grad=True)
    found = roi_align(features, torch.zeros(0, 5), (7, 7))
    assert found.shape == (0, 2, 7, 7)
    found.sum().backward()
    assert not features.grad.any()


def test_a_constant_stays_a_constant_inside():
    features = torch.full((1, 1, 8, 8), 3.0)
    found = roi_align(features, torch.tensor([[0, 1.3, 2.1, 6.9, 5.5]]), (3, 5))
    assert found.flatten().tolist() == pytest.approx([3.0] * 15)
