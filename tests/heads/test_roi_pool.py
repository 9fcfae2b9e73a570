import math
from fractions import Fraction

import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as Stock
from mmengine.registry import init_default_scope

from mmext.errors import InputError
from mmext.heads import RoIPool, SingleRoIExtractor
from mmext.heads.roi_pool import bin_edges, to_cells
from mmext.registry import MODELS


def naive(features, rois, output_size, scale):
    """Fast R-CNN's layer, cell by cell, in fractions."""

    def nearest(value):
        value = Fraction(value) * Fraction(scale)
        return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))

    _, channels, height, width = features.shape
    rows = []
    for number, *box in rois.tolist():
        x1, y1, x2, y2 = map(nearest, box)
        sides = [Fraction(max(last - first + 1, 1)) for first, last in ((y1, y2), (x1, x2))]
        for i in range(output_size[0]):
            for j in range(output_size[1]):
                edges = []
                for start, side, step, bins, size in ((y1, sides[0], i, output_size[0], height),
                                                      (x1, sides[1], j, output_size[1], width)):  # fmt: skip
                    first, last = start + math.floor(step * side / bins), start + math.ceil((step + 1) * side / bins)
                    edges += [min(max(first, 0), size), min(max(last, 0), size)]
                cells = features[int(number), :, edges[0] : edges[1], edges[2] : edges[3]].reshape(channels, -1)
                rows.append(cells.max(1).values if cells.numel() else features.new_zeros(channels))
    return torch.stack(rows).reshape(len(rois), *output_size, channels).permute(0, 3, 1, 2)


def case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 13, 17, generator=generator, dtype=dtype)
    corners = torch.rand(9, 2, generator=generator) * torch.tensor([136.0, 104.0])
    sizes = torch.rand(9, 2, generator=generator) * torch.tensor([90.0, 70.0])
    boxes = torch.cat([corners, corners + sizes], 1)
    special = [
        [0, 0, 136, 104],  # all of the map, and a cell more
        [-60, -30, 40, 50],  # sticks out at the top left
        [100, 80, 400, 300],  # and at the bottom right
        [300, 300, 400, 400],  # lies outside
        [-400, -400, -300, -300],
        [50, 50, 50, 50],  # a point
        [80, 60, 20, 10],  # ends before it starts
        [4, 4, 12, 20],  # on halves of cells
        [0, 0, 72, 8],  # ten cells in seven bins
    ]
    boxes = torch.cat([boxes, torch.tensor(special, dtype=torch.float32)])
    return features, torch.cat([torch.arange(len(boxes))[:, None] % 2, boxes], 1)


@pytest.mark.parametrize('output_size', [7, (3, 5), 1])
def test_same_as_the_naive_loop(output_size):
    features, rois = case()
    layer = RoIPool(output_size, spatial_scale=1 / 8)
    found = layer(features, rois)
    assert torch.equal(found, naive(features, rois, layer.output_size, 1 / 8))
    outside = (found[12:14] == 0).all(dim=(1, 2, 3))
    assert outside.all()


def test_gradient_is_that_of_the_naive_loop():
    features, rois = case()
    pulls = torch.randn(len(rois), 3, 7, 7, generator=torch.Generator().manual_seed(1))
    grads = []
    for pool in (RoIPool(7, 1 / 8), lambda maps, boxes: naive(maps, boxes, (7, 7), 1 / 8)):
        leaf = features.clone().requires_grad_()
        pool(leaf, rois).mul(pulls).sum().backward()
        grads.append(leaf.grad)
    assert torch.allclose(*grads, atol=1e-5)
    assert grads[0].abs().max() > 1


def test_gradient_by_differences():
    features = torch.randn(1, 2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[0, 0.0, 0, 5, 4], [0, -2, 1, 3, 9], [0, 9, 9, 12, 12]])
    assert torch.autograd.gradcheck(lambda maps: RoIPool(2, 1.0)(maps, rois), features)


def test_bins_outside_get_no_gradient():
    features = torch.ones(1, 2, 4, 4, requires_grad=True)
    pooled = RoIPool(2, 1.0)(features, torch.tensor([[0, 10.0, 10, 12, 12]]))
    assert (pooled == 0).all()
    pooled.sum().backward()
    assert (features.grad == 0).all()


def test_of_equal_cells_one_gets_the_gradient():
    features = torch.zeros(1, 1, 4, 4, requires_grad=True)
    RoIPool(1, 1.0)(features, torch.tensor([[0, 0.0, 0, 3, 3]])).sum().backward()
    assert features.grad.sum() == features.grad.max() == 1


def test_no_roi():
    features = torch.randn(1, 3, 5, 5, requires_grad=True)
    found = RoIPool(7, 1 / 8)(features, torch.zeros(0, 5))
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert (features.grad == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    features, rois = case()
    halves = features.to(dtype).requires_grad_()
    found = RoIPool(7, 1 / 8)(halves, rois)
    assert found.dtype == dtype
    assert torch.equal(found.float(), RoIPool(7, 1 / 8)(features.to(dtype).float(), rois))
    found.sum().backward()
    assert torch.isfinite(halves.grad).all()


def test_rounding_and_bins_in_figures():
    assert to_cells(torch.tensor([0.0, 3.9, 4, 12, 20, -4, -3.9]), 1 / 8).tolist() == [0, 0, 1, 2, 3, -1, 0]
    start, end = bin_edges(torch.tensor([0, 5]), torch.tensor([9, 4]), 7, 20)
    assert start.tolist() == [[0, 1, 2, 4, 5, 7, 8], [5] * 7]
    assert end.tolist() == [[2, 3, 5, 6, 8, 9, 10], [6] * 7]


@pytest.mark.parametrize('size', [0, -7, 7.0, '7', (7, 0), (7, 7, 7), True])
def test_wrong_size(size):
    with pytest.raises(InputError, match=r'RoIPool: output_size is .*; it must be one or two whole numbers'):
        RoIPool(size)


@pytest.mark.parametrize('scale', [0, -1, math.nan])
def test_wrong_scale(scale):
    with pytest.raises(InputError, match=f'RoIPool: spatial_scale is {scale!r}; it must be above 0'):
        RoIPool(7, scale)


# ---- the extractor that finds it


def extractor(kind, **roi_layer):
    init_default_scope('mmdet')
    return MODELS.build(dict(type=kind, roi_layer=roi_layer, out_channels=3, featmap_strides=[4, 8]))


def levels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 256 // stride, 256 // stride, generator=generator) for stride in (4, 8)]


def boxes():
    return torch.tensor([[0, 8.0, 8, 60, 70], [1, 10, 20, 200, 250], [1, 30, 30, 90, 60]])


def test_layer_is_found_by_its_name_on_every_level():
    ours = extractor('mmext.SingleRoIExtractor', type='mmext.RoIPool', output_size=7)
    assert [(type(layer), layer.spatial_scale) for layer in ours.roi_layers] == [(RoIPool, 1 / 4), (RoIPool, 1 / 8)]
    maps, rois = levels(), boxes()
    found = ours(maps, rois)
    assert torch.equal(found[[0, 2]], RoIPool(7, 1 / 4)(maps[0], rois[[0, 2]]))
    assert torch.equal(found[[1]], RoIPool(7, 1 / 8)(maps[1], rois[[1]]))
    assert ours(maps, rois[:0]).shape == (0, 3, 7, 7)


def test_stock_does_not_find_it():
    with pytest.raises(AssertionError):
        extractor('SingleRoIExtractor', type='mmext.RoIPool', output_size=7)


def test_mmcvs_layers_are_stocks():
    ours, stock = (
        extractor(kind, type='RoIAlign', output_size=7, sampling_ratio=0)
        for kind in ('mmext.SingleRoIExtractor', 'SingleRoIExtractor')
    )
    assert torch.equal(ours(levels(), boxes()), stock(levels(), boxes()))
    assert SingleRoIExtractor.forward is Stock.forward


@pytest.mark.parametrize('kind', ['RoIPol', 'mmext.RoIPol', 'nowhere.RoIPool'])
def test_unknown_layer(kind):
    with pytest.raises(InputError, match=f"roi_layer: there is no '{kind}'. Known are .*'mmext.RoIPool'"):
        extractor('mmext.SingleRoIExtractor', type=kind, output_size=7)
