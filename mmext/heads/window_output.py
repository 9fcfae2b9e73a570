"""Masks of detections drawn and encoded in a window each: what FCNMaskHead and its kin predict, without whole images.

Shapes: N detections, C classes, h and w of the mask grid.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads import FCNMaskHead as StockFCNMaskHead
from torch import Tensor, nn

from mmext.analysis.mask_window import encode, encode_columns
from mmext.errors import InputError
from mmext.structures.rle_masks import RLEMasks

OUTPUTS = ('rle', 'tensor')
# boxes narrower than this may give infinite coordinates, which MMDetection sets to the middle of the mask
_NO_WIDTH = 1e-30
# pixels that are drawn at once on a CPU, whose coordinates and values stay in its cache
_BAND_PIXELS = 2**14
# a coordinate outside of every grid, where a mask is 0: of the pixel of background before each column
_BEYOND = 3.0
# at::internal::GRAIN_SIZE
_NUMBERS_A_THREAD = 2**15
# a multiple of the two vectors that torch takes at once: 32 numbers with AVX-512, 16 with AVX2, 8 with NEON
_VECTOR = 64
# pixels whose masks are encoded together on a CPU, unless a single window has more
_ENCODED_PIXELS = 2**17
# pixels that are drawn at once on a GPU: the coordinates of each take 8 bytes, its value 4
_MOST_PIXELS = 2**24
# pixels by which few windows may be padded to the size of the largest, rather than be drawn by themselves
_SPARE_PIXELS = 2**18


def stock_windows(boxes: Tensor, height: int, width: int) -> np.ndarray:
    """Where MMDetection draws each mask on a CPU: its box, and a pixel or two around it.

    Args:
        boxes: (N, 4) x1 y1 x2 y2, in pixels of the image.
        height, width: of the image.

    Returns:
        (N, 4) int64 x1 y1 x2 y2; without a pixel where the box is outside of the image.
    """
    return _clipped(boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1, height, width)


def reach_windows(boxes: Tensor, grid: tuple[int, int], height: int, width: int) -> np.ndarray:
    """All pixels at which a mask is not 0: MMDetection draws the whole image on a GPU, and the outermost cells of the grid
    fade out over half a cell beyond the box. Arguments and result as of :func:`stock_windows`, ``grid`` is (h, w)."""
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    sides = high - low
    margin = sides / (2 * sides.new_tensor([grid[1], grid[0]])) + 1
    low = torch.where(sides < _NO_WIDTH, torch.zeros_like(low), low - margin)
    high = torch.where(sides < _NO_WIDTH, high.new_tensor([width, height]).expand_as(high), high + margin)
    return _clipped(low.floor(), high.ceil(), height, width)


def _clipped(low: Tensor, high: Tensor, height: int, width: int) -> np.ndarray:
    corners = torch.cat([low, high], 1).cpu().double().nan_to_num().numpy()
    limits = np.array([width, height] * 2)
    found = np.clip(corners, 0, limits).astype(np.int64)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    return found


def grid_places(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Pixels of the image on the mask's own scale, -1 to 1, with the arithmetic of MMDetection's ``_do_paste_mask``: what
    else is done in another order may round otherwise, and turn a pixel at the threshold over."""
    places = (pixels.to(torch.float32) + 0.5 - low) / (high - low) * 2 - 1
    return torch.where(torch.isinf(places), torch.zeros_like(places), places)


def draw_rles(
    probabilities: Iterable[Tensor], boxes: Tensor, windows: np.ndarray, threshold: float, size: tuple[int, int]
) -> list[dict]:
    """Draw one mask after the other, and encode them.

    Args:
        probabilities: N of (h, w) on a CPU, each asked for when it is drawn.
        boxes: (N, 4) x1 y1 x2 y2, in pixels of the image.
        windows: (N, 4) of :func:`stock_windows`.
        threshold: of the probabilities.
        size: height and width of the image.

    Returns:
        N compressed RLEs.
    """
    if not len(windows):
        return []
    xs, ys = _all_places(windows, boxes, 0), _all_places(windows, boxes, 1, _BEYOND)
    # numpy's small steps take a third of torch's
    space = np.empty(2 * max(_BAND_PIXELS, size[0] + 1), np.float32)
    # as encode_columns wants them: columns one after the other, a pixel of background before each
    lengths = np.array([len(x) * len(y) if len(y) > 1 else 0 for x, y in zip(xs, ys, strict=True)])
    rles: list[dict] = []
    grids = iter(probabilities)
    for begin, end in _slices(lengths):
        pixels = np.zeros(int(lengths[begin:end].sum()) + 1, bool)
        parts = _parts(pixels, lengths[begin:end])
        for place, part in zip(range(begin, end), parts, strict=True):
            grid = next(grids)
            if len(part):
                _draw(grid, xs[place], ys[place], threshold, space, part)
        rles += encode_columns(pixels, windows[begin:end], size)
    return rles


def _draw(grid: Tensor, xs: np.ndarray, ys: np.ndarray, threshold: float, space: np.ndarray, mask: np.ndarray) -> None:
    """Draw a mask, one column after the other, in bands of columns with the same memory for the coordinates of each."""
    grid, tall = grid[None, None], len(ys)
    step = max(_BAND_PIXELS // tall, 1)
    for begin in range(0, len(xs), step):
        band = xs[begin : begin + step, None]
        # a plane for x and one for y: grid_sample reads them faster than pairs
        planes = space[: 2 * len(band) * tall].reshape(2, len(band), tall)
        planes[0], planes[1] = band, ys
        drawn = _sample(grid, torch.from_numpy(planes).permute(1, 2, 0)[None]).numpy().reshape(-1)
        np.greater_equal(drawn, threshold, out=mask[begin * tall :][: len(drawn)])


def _slices(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Begin and end of neighbours that are encoded together: so many that the memory for their pixels is small."""
    begin = pixels = 0
    for place, length in enumerate(lengths.tolist()):
        if pixels and pixels + length > _ENCODED_PIXELS:
            yield begin, place
            begin, pixels = place, 0
        pixels += length
    if len(lengths):
        yield begin, len(lengths)


def _all_places(windows: np.ndarray, boxes: Tensor, axis: int, before: float | None = None) -> list[np.ndarray]:
    """Coordinates of the columns (axis 0) or rows (axis 1) of each window; with ``before`` this stands before them."""
    extra = int(before is not None)
    starts, lengths = windows[:, axis] - extra, windows[:, 2 + axis] - windows[:, axis] + extra
    owner = np.repeat(np.arange(len(windows)), lengths)
    firsts = lengths.cumsum() - lengths
    pixels = np.arange(len(owner)) + (starts - firsts)[owner]
    owner = torch.from_numpy(owner)
    places = grid_places(torch.from_numpy(pixels), boxes[owner, axis], boxes[owner, 2 + axis])
    if extra:
        places[torch.from_numpy(firsts)] = before
    return _parts(places.numpy(), lengths)


def _parts(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """``np.split`` into parts of these lengths, which takes ten times as long for as small ones."""
    return [values[begin:end] for begin, end in itertools.pairwise([0, *lengths.cumsum().tolist()])]


def paste_groups(
    probabilities: Tensor, boxes: Tensor, windows: np.ndarray, threshold: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Draw masks on any device: windows of about one size together, and all masks leave the device at once.

    Args:
        probabilities: (N, h, w).
        boxes: (N, 4) x1 y1 x2 y2, in pixels of the image.
        windows: (N, 4) of :func:`reach_windows`.
        threshold: of the probabilities.

    Returns:
        Place of each detection and its mask, bool, of its window; those without a pixel are left out.
    """
    heights, widths = windows[:, 3] - windows[:, 1], windows[:, 2] - windows[:, 0]
    chosen, drawn = groups(heights, widths), []
    corners = torch.as_tensor(windows[:, :2], device=boxes.device)
    for group in chosen:
        rows, columns = int(heights[group].max()), int(widths[group].max())
        index = torch.as_tensor(group, device=boxes.device)
        box, (left, top) = boxes[index, :, None], corners[index, :, None].unbind(1)
        xs = grid_places(left + torch.arange(columns, device=boxes.device), box[:, 0], box[:, 2])
        ys = grid_places(top + torch.arange(rows, device=boxes.device), box[:, 1], box[:, 3])
        shape = (len(group), rows, columns)
        grid = torch.stack([xs[:, None, :].expand(shape), ys[:, :, None].expand(shape)], 3)
        drawn.append((_sample(probabilities[index, None], grid) >= threshold).flatten())
    flat = torch.cat(drawn).cpu().numpy() if drawn else np.zeros(0, bool)
    begin = 0
    for group in chosen:
        shape = (len(group), heights[group].max(), widths[group].max())
        masks = flat[begin : begin + np.prod(shape)].reshape(shape)
        begin += masks.size
        for place, mask in zip(group, masks, strict=True):
            yield int(place), mask[: heights[place], : widths[place]]


def groups(heights: np.ndarray, widths: np.ndarray) -> list[np.ndarray]:
    """Places of windows that are drawn together, each padded to the largest height and width among them.

    A group has at most twice the pixels of its windows, or few more, and no more than a fixed number unless it is a single
    window. Windows without a pixel are in none.
    """
    areas = heights * widths
    found: list[list[int]] = []
    rows = columns = pixels = 0
    for place in np.argsort(areas, kind='stable')[np.count_nonzero(areas == 0) :]:
        tall, wide = max(rows, heights[place]), max(columns, widths[place])
        padded = tall * wide * (len(found[-1]) + 1) if found else 0
        if not found or padded > min(max(2 * (pixels + areas[place]), _SPARE_PIXELS), _MOST_PIXELS):
            found.append([])
            tall, wide, pixels = heights[place], widths[place], 0
        found[-1].append(place)
        rows, columns, pixels = tall, wide, pixels + areas[place]
    return [np.array(group) for group in found]


def _sample(masks: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(masks.to(torch.float32), grid, align_corners=False)[:, 0]


def _in_whole_vectors(logits: Tensor) -> bool:
    """Whether the sigmoid of a mask (h, w) alone has the bits of the sigmoid of all logits (N, C, h, w) on a CPU.

    torch shares a tensor of consecutive numbers out among its threads in equal parts (``at::parallel_for``), takes each part
    through SIMD vectors, and the rest of it, which fills no vector, through another ``exp`` with another last bit
    (``vectorized_loop`` in ATen's cpu/Loops.h). Where no part has a rest, neither in all logits nor in a mask, it makes no
    difference where a number stands.
    """

    def has_a_rest(numbers: int) -> bool:
        threads = min(torch.get_num_threads(), math.ceil(numbers / _NUMBERS_A_THREAD))
        return bool(numbers % _VECTOR or math.ceil(numbers / max(threads, 1)) % _VECTOR)

    if logits.dtype != torch.float32 or not logits.is_contiguous() or logits.numel() >= 2**31:
        return False
    return not has_a_rest(logits.numel()) and not has_a_rest(math.prod(logits.shape[-2:]))


def _sigmoids(logits: Tensor, places: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
    """The sigmoid (h, w) of one place after the other, each in the memory of the one before."""
    space = logits.new_empty(logits.shape[-2:])
    for place in places:
        yield torch.sigmoid(logits[place], out=space)


def predict_rles(
    head: StockFCNMaskHead,
    mask_preds: Tensor | np.ndarray,
    bboxes: Tensor,
    labels: Tensor,
    img_meta: Mapping,
    rcnn_test_cfg: Mapping,
    rescale: bool = False,
    activate_map: bool = False,
) -> RLEMasks | Tensor:
    """What ``FCNMaskHead._predict_by_feat_single`` finds, as RLEs with the bytes that pycocotools gives for its masks.

    Time and memory follow the area of the boxes. On a CPU MMDetection cuts each mask at its box, on a GPU it does not, which
    shows with thresholds under 0.5; so does this.

    Args:
        head: of which ``class_agnostic`` is used.
        mask_preds: logits (N, C, h, w); probabilities with ``activate_map``, as merged from several stages or augmentations.
        bboxes: (N, 4), in pixels of the network's input; with ``rescale`` they are those of the image afterwards.
        labels: (N,).
        img_meta: ``ori_shape`` and ``scale_factor``.
        rcnn_test_cfg: ``mask_thr_binary``; of 0 and less, which ask for the whole image or for soft masks, MMDetection's own
            tensor is the answer.
        rescale: whether masks are of the original image's size.
    """
    threshold = rcnn_test_cfg['mask_thr_binary']
    if threshold <= 0:
        return StockFCNMaskHead._predict_by_feat_single(
            head, mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
        )
    height, width = img_meta['ori_shape'][:2]
    factors = bboxes.new_tensor(img_meta['scale_factor']).repeat((1, 2))
    if rescale:
        bboxes /= factors  # in place, as MMDetection does
    else:
        width, height = (int(np.round(side * factors[0, axis].item())) for axis, side in enumerate((width, height)))
    channels = torch.zeros_like(labels) if head.class_agnostic else labels
    size = int(height), int(width)
    on_cpu = bboxes.device.type == 'cpu'
    if activate_map:
        probabilities = torch.as_tensor(mask_preds, dtype=bboxes.dtype, device=bboxes.device)
    elif on_cpu and _in_whole_vectors(mask_preds):
        probabilities = None
    else:
        # of all classes: the last bit of a sigmoid depends on where in its tensor a number stands
        probabilities = mask_preds.sigmoid_() if getattr(head, 'logits_are_its_own', False) else mask_preds.sigmoid()
    if on_cpu:
        places = enumerate(channels.tolist())
        own = _sigmoids(mask_preds, places) if probabilities is None else (probabilities[place] for place in places)
        return RLEMasks(draw_rles(own, bboxes, stock_windows(bboxes, *size), threshold, size), *size)
    own = probabilities[torch.arange(len(bboxes), device=bboxes.device), channels]
    windows = reach_windows(bboxes, own.shape[1:], *size)
    rles = [encode(np.zeros((0, 0), bool), 0, 0, size)] * len(bboxes)
    for place, mask in paste_groups(own, bboxes, windows, threshold):
        rles[place] = encode(mask, *windows[place, :2].tolist(), size)
    return RLEMasks(rles, *size)


def give_rles(model: nn.Module) -> None:
    """Let all heads of a model give RLEs that draw masks as MMDetection's FCNMaskHead does, whatever their config says."""
    for head in model.modules():
        if isinstance(head, WindowOutput):
            head.mask_output = 'rle'
        elif getattr(type(head), '_predict_by_feat_single', None) is StockFCNMaskHead._predict_by_feat_single:
            head._predict_by_feat_single = functools.partial(predict_rles, head)


class WindowOutput:
    """Mixed into FCNMaskHead or a kin of it: masks of predictions are :class:`mmext.structures.rle_masks.RLEMasks`.

    MMDetection draws N detections into an array (N, H, W), which its metric then encodes mask by mask. Here each mask is
    drawn and encoded in the window of its box; the RLEs are the same to the byte. An image without a detection has
    MMDetection's empty tensor.

    Attributes:
        logits_are_its_own: whether logits that are handed to ``predict_by_feat`` may be overwritten.

    Args:
        mask_output: ``'rle'``, or ``'tensor'`` for MMDetection's tensor of bool (N, H, W).
        args, kwargs: of the head.

    Raises:
        InputError: another ``mask_output``.
    """

    logits_are_its_own = False

    def __init__(self, *args, mask_output: str = 'rle', **kwargs):
        if mask_output not in OUTPUTS:
            raise InputError(
                f'{type(self).__name__}: mask_output is {mask_output!r}; allowed: {", ".join(map(repr, OUTPUTS))}. '
                "'rle' is small and quick, 'tensor' is MMDetection's."
            )
        super().__init__(*args, **kwargs)
        self.mask_output = mask_output

    def _predict_by_feat_single(self, *args, **kwargs) -> RLEMasks | Tensor:
        if self.mask_output == 'tensor':
            return super()._predict_by_feat_single(*args, **kwargs)
        return predict_rles(self, *args, **kwargs)
