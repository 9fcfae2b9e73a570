"""RoIAlign on the CPU by all cores: MMDetection's numbers but for the last digits, from the features of either layout."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _SumOfRows(torch.autograd.Function):
    """Weighted sums of rows of a matrix; forward and backward are both sums of rows, which torch takes on all cores."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index, weight, size)
        ctx.number = len(rows)
        return _sums(rows, index, weight, size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        index, weight, size = ctx.saved_tensors
        index, order = index.sort(stable=True)
        source = torch.repeat_interleave(torch.arange(len(size)), size)[order]
        size = torch.bincount(index, minlength=ctx.number)
        return _sums(gradient.contiguous(), source, weight[order], size), None, None, None


def _sums(rows: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Of each bag of ``size`` indices in a row the sum of ``weight * rows[index]``."""
    offsets = size.cumsum(0) - size
    return F.embedding_bag(index, rows, offsets, mode='sum', per_sample_weights=weight)


def _axis(
    start: torch.Tensor, length: torch.Tensor, bins: int, samples: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells and their weights for the samples of each bin along one axis.

    Args:
        start, length: (R,) of RoIs in cells.
        bins: of a RoI.
        samples: of a bin.
        size: cells that there are.

    Returns:
        Both (R, bins, 2 * samples); weights of a sample outside the features are 0, as in mmcv.
    """
    step = (length / bins)[:, None, None]
    place = torch.arange(bins, dtype=start.dtype)[:, None] * step
    place = start[:, None, None] + place + (torch.arange(samples, dtype=start.dtype) + 0.5) * step / samples
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.long()
    high = (low + 1).clamp(max=size - 1)
    part = place - low
    weights = torch.cat([(1 - part) * inside, part * inside], -1) / samples
    return torch.cat([low, high], -1), weights


def roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> torch.Tensor:
    """Average RoIAlign (He et al. 2017, arXiv:1703.06870) as mmcv computes it.

    Args:
        features: (B, C, H, W) on the CPU; the fastest in channels_last.
        rois: (R, 5), number of the image, x1, y1, x2, y2 in pixels of the input.
        output_size: bins of a RoI, in height and width.
        spatial_scale: cells of the features for a pixel of the input.
        sampling_ratio: samples of a bin along each axis; 0: one for each cell that the bin covers.
        aligned: whether a pixel's middle is half a pixel from its edge; mmcv's default.

    Returns:
        (R, C, *output_size), in channels_last.
    """
    channels, height, width = features.shape[1:]
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
    half = 0.5 if aligned else 0.0
    image, (x1, y1, x2, y2) = rois[:, 0].long(), (rois[:, 1:] * spatial_scale - half).unbind(1)
    wide, high = x2 - x1, y2 - y1
    if not aligned:
        wide, high = wide.clamp(min=1), high.clamp(min=1)
    bins = torch.tensor(output_size)
    samples = torch.stack([high / bins[0], wide / bins[1]], 1).ceil().long().clamp(min=0)
    if sampling_ratio > 0:
        samples = torch.full_like(samples, sampling_ratio)
    found, order = [], []
    # those of one number of samples together: usually a handful of numbers
    for (down, across), group in _groups(samples):
        y, y_weight = _axis(y1[group], high[group], output_size[0], down, height)
        x, x_weight = _axis(x1[group], wide[group], output_size[1], across, width)
        y = image[group][:, None, None] * height + y
        index = y[:, :, None, :, None] * width + x[:, None, :, None, :]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        found.append((index.flatten(), weight.flatten(), torch.full((len(group) * int(bins.prod()),), 4 * down * across)))
        order.append(group)
    if not found:
        return features.new_zeros(0, channels, *output_size) + features.sum() * 0
    index, weight, size = (torch.cat(one) for one in zip(*found, strict=True))
    sums = _SumOfRows.apply(rows, index, weight.to(rows.dtype), size)
    sums = sums.view(len(rois), *output_size, channels)[torch.cat(order).argsort()]
    return sums.permute(0, 3, 1, 2)


def _groups(samples: torch.Tensor) -> list[tuple[tuple[int, int], torch.Tensor]]:
    kinds, which = torch.unique(samples, dim=0, return_inverse=True)
    return [(tuple(kind), torch.nonzero(which == number)[:, 0]) for number, kind in enumerate(kinds.tolist())]
