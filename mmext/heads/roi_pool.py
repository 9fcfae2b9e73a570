"""RoI max pooling in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmext.errors import InputError
from mmext.registry import MODELS


def to_cells(coordinates: Tensor, spatial_scale: float) -> Tensor:
    """Nearest cell of the feature map to each coordinate in pixels; halves go away from 0, as C's ``round`` has it."""
    scaled = coordinates.double() * spatial_scale
    return (scaled.sign() * (scaled.abs() + 0.5).floor()).long()


def bin_edges(first: Tensor, last: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """Start and end of the bins along one side.

    Args:
        first, last: first and last cell of each RoI (R,); one that ends before it starts has one cell.
        bins: number of bins.
        size: cells of the feature map along that side.

    Returns:
        First cell of each bin and the one after its last, (R, bins) each, 0 to ``size``; equal where the bin lies outside.
    """
    length = (last - first + 1).clamp(min=1)[:, None]
    steps = torch.arange(bins, device=first.device)
    # in whole numbers: with floats, ten cells in seven bins can end at the eleventh
    start = first[:, None] + steps * length // bins
    end = first[:, None] - (-(steps + 1) * length) // bins
    return start.clamp(0, size), end.clamp(0, size)


def roi_max_pool(features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """Maximum of the features in each bin of each RoI.

    Memory beyond features and result is that of one number for each cell of each bin, whatever the number of channels.

    Args:
        features: (N, C, H, W).
        rois: (R, 5): number of the image, then x1 y1 x2 y2 in pixels.
        output_size: bins along height and width (h, w).
        spatial_scale: cells of the feature map a pixel, 1 / stride.

    Returns:
        (R, C, h, w), 0 in bins that lie outside of the map.
    """
    _, channels, height, width = features.shape
    corners = to_cells(rois[:, 1:], spatial_scale)
    top, bottom = bin_edges(corners[:, 1], corners[:, 3], output_size[0], height)
    left, right = bin_edges(corners[:, 0], corners[:, 2], output_size[1], width)
    heights, widths = torch.broadcast_tensors((bottom - top)[:, :, None], (right - left)[:, None, :])
    outside = (heights == 0) | (widths == 0)
    # a bag of cells for each bin; one outside gets some cell, as an empty bag's gradient is nowhere promised
    rows = rois[:, 0].long()[:, None, None] * height + top.clamp(max=height - 1)[:, :, None]
    corner = (rows * width + left.clamp(max=width - 1)[:, None, :]).flatten()
    heights, widths = heights.clamp(min=1).flatten(), widths.clamp(min=1).flatten()
    counts = heights * widths
    starts = counts.cumsum(0) - counts
    bag = torch.repeat_interleave(counts)
    place = torch.arange(len(bag), device=bag.device) - starts[bag]
    row, column = place // widths[bag], place % widths[bag]
    cells = corner[bag] + row * width + column
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = F.embedding_bag(cells, table, starts, mode='max')
    return pooled.reshape(*outside.shape, channels).masked_fill(outside[..., None], 0).permute(0, 3, 1, 2)


@MODELS.register_module()
class RoIPool(nn.Module):
    """Fast R-CNN's RoI max pooling, on the CPU too, which MMCV's RoIPool does not know.

    ``bbox_roi_extractor=dict(type='mmext.SingleRoIExtractor', roi_layer=dict(_delete_=True, type='mmext.RoIPool',
    output_size=7))``. Corners are rounded to cells of the feature map, both included; a bin goes from the floor of its start
    to the ceiling of its end, so that bins overlap; what lies outside of the map is 0. The gradient goes to one cell of each
    bin, the largest. MMCV's layer of that name rounds no corners.

    It is here for comparison: RoIAlign, which rounds nothing, is better for masks.

    Source: Girshick, Fast R-CNN, ICCV 2015, arXiv:1504.08083, section 2.1, and its ``roi_pooling_layer``.

    Args:
        output_size: bins along height and width; one number for both.
        spatial_scale: cells of the feature map a pixel; the RoI extractor sets it.

    Raises:
        InputError: a size that is not a whole number of 1 or more, a scale that is not above 0.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float = 1.0):
        super().__init__()
        size = _pair(output_size)
        if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise InputError(f'RoIPool: output_size is {output_size!r}; it must be one or two whole numbers, 1 or more.')
        if not spatial_scale > 0:
            raise InputError(f'RoIPool: spatial_scale is {spatial_scale!r}; it must be above 0.')
        self.output_size, self.spatial_scale = tuple(size), float(spatial_scale)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """(R, C, *output_size) of features (N, C, H, W) and RoIs (R, 5), see :func:`roi_max_pool`."""
        return roi_max_pool(features, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f'output_size={self.output_size}, spatial_scale={self.spatial_scale}'
