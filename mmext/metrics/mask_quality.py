"""How good the masks of found objects are, which mean average precision hides."""

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import PolygonMasks, encode_mask_results
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from pycocotools import mask as coco_mask
from rich.markup import escape
from rich.table import Table

from mmext.analysis.mask_match import BOX_IOU, Objects, Pair, compare_masks, pair_up, union_ious
from mmext.analysis.mask_shape import Shape, band_width, compare_shapes, is_thin
from mmext.analysis.mask_window import areas, draw_pairs, to_rle
from mmext.console import tell
from mmext.data.coco_file import MEDIUM, SMALL
from mmext.errors import InputError
from mmext.registry import METRICS
from mmext.structures.rle_masks import RLEMasks
from mmext.structures.window_masks import WindowMasks

_SWITCH = ', or leave the metric out: val_cfg.extra_metrics=[]'
# heading of each in the table, of one or two lines: it fits 120 columns
MEANS = {
    'iou': 'IoU',
    'boundary_iou': 'boundary\nIoU',
    'gap': 'gap',
    'coverage': 'coverage',
    'area_ratio': 'area\nratio',
    'centerline_recall': 'centre\nline',
    'union_iou': 'union\nIoU',
}
# what is logged, of all objects and of a part of them; the table has the rest
OF_ALL = (*MEANS, 'swallowed')
OF_CLASS = ('iou', 'boundary_iou', 'gap', 'coverage', 'area_ratio', 'union_iou')
OF_SIZE = ('iou', 'gap')
# upper limits of the area in pixels
SIZES = {'small': SMALL, 'medium': MEDIUM, 'large': math.inf}
_SIZE_NAMES, _SIZE_LIMITS = tuple(SIZES), tuple(SIZES.values())
# sums are whole numbers of this unit, so that their order does not matter: 2**-60 holds every float from 2**-8 on exactly
_UNIT_BITS = 60


@dataclass(frozen=True)
class Quality:
    """Masks of one class, of one size, or of all objects.

    ``means`` are over matched pairs; ``centerline_recall`` over those with a thin object, ``swallowed`` is the share whose
    object the band of boundary IoU covers whole; ``union_iou`` is over images, and not there for a size. ``numbers`` says
    how many values each is the mean of. Without ground truth (for ``centerline_recall``, without a thin object) a mean is
    -1; where there is some and nothing was matched, 0. ``objects`` counts ground truth, ``matched`` those that a detection
    was matched with, ``unmatched`` the detections that match none.
    """

    means: Mapping[str, float]
    numbers: Mapping[str, int]
    objects: int
    matched: int
    unmatched: int


@dataclass
class Sums:
    """What one process adds up, of fixed size: all its images but the last, the last one apart, and how many there were.

    To fill up the shares of several processes, MMEngine's sampler repeats images at the very end: at most the last one of
    a process is such a repeat, and which processes have one follows from the length of the data set. So the repeats can be
    left out without a record of each image.
    """

    before: Counter = field(default_factory=Counter)
    last: Counter = field(default_factory=Counter)
    images: int = 0

    def add(self, image: Counter) -> None:
        self.before.update(self.last)
        self.last = image
        self.images += 1


def size_of(area: float) -> str:
    """``small``, ``medium`` or ``large``, by the pixels of a mask."""
    return _SIZE_NAMES[bisect.bisect_right(_SIZE_LIMITS, area)]


def compare_image(truth: Objects, prediction: Objects, box_iou: float = BOX_IOU) -> Counter:
    """What one image adds to the sums: ``(parts, name)`` is a count or a sum in units of 2**-60, ``(parts, name, 'n')`` how
    many values a sum is of. ``parts`` are those that it belongs to: a class's number, a size, None for all."""
    sums: defaultdict = defaultdict(int)  # a Counter calls Python code for each key that is new
    pairs = {pair[0]: pair for pair in pair_up(truth, prediction, box_iou)}
    others = [prediction.rles[pairs[i][1]] if i in pairs else rle for i, rle in enumerate(truth.rles)]
    for i, (mask, other, stride) in enumerate(draw_pairs(truth.rles, others)):
        parts = None, int(truth.labels[i]), size_of(mask.bit_count())
        sums[parts, 'objects'] += 1
        if i in pairs:
            sums[parts, 'matched'] += 1
            shape = compare_shapes(mask, other, stride, band_width(*truth.rles[i]['size']))
            _add(sums, parts, _values(compare_masks(pairs[i], mask, other), shape))
            thin = shape.centerline_recall is not None
        else:
            thin = is_thin(mask, stride)
        sums[parts, 'thin'] += thin
    used = {j for _, j, _ in pairs.values()}
    spare = [j for j in range(len(prediction.rles)) if j not in used]
    sizes = map(size_of, areas([prediction.rles[j] for j in spare]).tolist())
    for (label, size), number in Counter(zip(prediction.labels[spare].tolist(), sizes, strict=True)).items():
        sums[(None, label, size), 'unmatched'] = number
    for label, value in union_ious(truth, prediction).items():
        _add(sums, (label,), {'union_iou': value})
    return Counter(sums)


def _values(pair: Pair, shape: Shape) -> dict[str, float]:
    """What a pair adds to the means."""
    values = {
        'iou': pair.mask_iou,
        'boundary_iou': shape.boundary_iou,
        'gap': pair.box_iou - pair.mask_iou,
        'coverage': pair.coverage,
        'area_ratio': pair.area_ratio,
        'swallowed': float(shape.swallowed),
    }
    if shape.centerline_recall is not None:
        values['centerline_recall'] = shape.centerline_recall
    return values


def _add(sums: defaultdict, parts: tuple, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not math.isnan(value):
            sums[parts, name] += round(math.ldexp(value, _UNIT_BITS))
            sums[parts, name, 'n'] += 1


def by_part(sums: Mapping[tuple, int]) -> Counter:
    """Sums as ``compare_image`` has them, each added to every part that it belongs to: ``(part, name)`` and so on."""
    found: Counter = Counter()
    for (parts, *name), number in sums.items():
        for part in parts:
            found[part, *name] += number
    return found


def merge(processes: Sequence[Sums], images: int) -> Counter:
    """Sums over all processes, by part, each of the data set's images once.

    Args:
        processes: in the order of their ranks.
        images: length of the data set.

    Raises:
        InputError: a sampler repeats more than the last image of a process.
    """
    repeated = max(sum(process.images for process in processes) - images, 0)
    if repeated > len(processes):
        raise InputError(
            f'MaskQualityMetric: {images + repeated} images were predicted, the data set has {images}. Only the last image '
            f"of a process may be a repeat: use sampler=dict(type='DefaultSampler', shuffle=False){_SWITCH}."
        )
    sums: Counter = Counter()
    for rank, process in enumerate(processes):
        sums.update(process.before)
        if rank < len(processes) - repeated:
            sums.update(process.last)
    return by_part(sums)


def summarize(sums: Counter, part: int | str | None) -> Quality:
    """Quality of one class, by its number, of one size, by its name, or of all with None."""
    means, numbers = {}, {name: sums[part, name, 'n'] for name in OF_ALL}
    for name, number in numbers.items():
        there = sums[part, 'thin' if name == 'centerline_recall' else 'objects']
        means[name] = sums[part, name] / (number << _UNIT_BITS) if number else 0.0 if there else -1.0
    return Quality(means, numbers, **{name: sums[part, name] for name in ('objects', 'matched', 'unmatched')})


def to_rles(masks, height: int, width: int) -> list[dict]:
    """RLEs of MMDetection's PolygonMasks or BitmapMasks; polygons are never drawn at full size."""
    if isinstance(masks, PolygonMasks):
        return [to_rle([np.asarray(part).reshape(-1) for part in parts], height, width) for parts in masks.masks]
    if isinstance(masks, WindowMasks):
        return masks.to_rles()
    if not len(masks):
        return []
    return coco_mask.encode(np.asfortranarray(masks.masks.transpose(1, 2, 0).astype(np.uint8)))


def truth_of(sample: Mapping) -> Objects:
    """Ground truth of a data sample, in pixels of the original image.

    Raises:
        InputError: it has no masks, or masks of another size than the image before and after its resize.
    """
    instances, (height, width) = sample['gt_instances'], sample['ori_shape'][:2]
    masks = instances.get('masks')
    if masks is None:
        raise InputError(
            'MaskQualityMetric: the validation pipeline loads no masks. Put '
            f"dict(type='mmext.LoadInstanceMasks') before PackDetInputs{_SWITCH}."
        )
    boxes, size = get_box_tensor(instances['bboxes']).cpu().numpy(), (masks.height, masks.width)
    if size == tuple(sample.get('img_shape', ())[:2]) != (height, width):  # loaded before Resize
        masks = masks.resize((height, width))
        boxes = boxes * np.tile([width / size[1], height / size[0]], 2)
    elif size != (height, width):
        raise InputError(
            f'MaskQualityMetric: the ground truth is {size[0]} x {size[1]}, the original image {height} x {width}. Load the '
            f'masks after Resize in the validation pipeline, as MMDetection does{_SWITCH}.'
        )
    return Objects(_xywh(boxes), to_rles(masks, height, width), instances['labels'].cpu().numpy())


def prediction_of(sample: Mapping) -> Objects:
    """Detections of a data sample; their masks are RLEs already, or bitmaps (N, height, width).

    A model without boxes (SOLOv2) gives boxes without area: the masks' own boxes stand for them.
    """
    found = sample['pred_instances']
    if 'masks' not in found:
        raise InputError(f'MaskQualityMetric: the model predicts no masks{_SWITCH}.')
    rles = encoded(found['masks'])
    boxes = _xywh(found['bboxes'].cpu().numpy())
    if len(boxes) and not boxes[:, 2:].any():
        boxes = coco_mask.toBbox(rles)
    scores = found.get('mask_scores', found['scores']).cpu().numpy()
    return Objects(boxes, rles, found['labels'].cpu().numpy(), scores)


def encoded(masks: torch.Tensor | RLEMasks | list[dict]) -> list[dict]:
    """Predicted masks (N, height, width) as RLEs; what is encoded already stays as it is.

    The RLEs are kept on the tensor: several metrics see the same sample, and encoding is most of what they do.
    """
    if isinstance(masks, RLEMasks):
        return masks.rles
    if not isinstance(masks, torch.Tensor):
        return masks
    if not hasattr(masks, '_mmext_rles'):
        masks._mmext_rles = encode_mask_results(masks.detach().cpu().numpy())
    return masks._mmext_rles


def key_names(classes: Sequence[str]) -> list[str]:
    """Class names as they stand in a scalar's name: without ``/``, which would split it, each another, and none a size's."""
    names = [name.replace('/', '_') for name in classes]
    taken = [*names, *(f'area_{size}' for size in SIZES)]
    return [f'{name}_{label}' if taken.count(name) > 1 else name for label, name in enumerate(names)]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


@METRICS.register_module()
class MaskQualityMetric(BaseMetric):
    """How good the masks of matched objects are: ``mask/iou``, ``mask/boundary_iou``, ``mask/gap`` and so on.

    ``mmext.LossValLoop`` adds it to every validation. In a test: ``test_evaluator = [dict(type='mmext.CocoMetric', ...),
    dict(type='mmext.MaskQualityMetric')]``. A table has all means of each class and size; logged are those of all objects,
    most of each class (``mask/iou_Fiber``), and mask IoU and gap of each size (``mask/iou_area_small``).

    Detections are matched one to one with the objects of their class, best score first, where boxes overlap with an IoU of
    at least 0.5; what is not matched is counted in the table. Crowd regions are left out. At the pairs:

    - *coverage*, |prediction ∩ GT| / |GT|, and *area ratio*, |prediction| / |GT|: small masks have low values of both;
    - *gap*, box IoU − mask IoU: high where boxes are found and masks are not, the symptom itself;
    - *boundary IoU* (:mod:`mmext.analysis.mask_shape`), and ``mask/swallowed``, the share of objects that its band covers
      whole: of these it says hardly more than mask IoU;
    - *centre-line recall* of thin objects: the part of their length that the prediction follows.

    *Union IoU* is S3's: the best-scoring mask of an image against the union of all its objects. Sizes are COCO's, by the
    pixels of the object's mask (a detection that matches none: of its own).

    Memory does not depend on the number of images: each process keeps sums, of whole numbers, so that the result on several
    processes is that on one to the last bit. See :class:`Sums` for the images that a sampler repeats.

    Args:
        box_iou: least box IoU of a pair.
        classwise: whether to log the numbers of each class too; the table has them in any case.
        kwargs: ``collect_device``, ``prefix`` and ``collect_dir`` of MMEngine's BaseMetric.
    """

    default_prefix = 'mask'

    def __init__(self, box_iou: float = BOX_IOU, classwise: bool = True, **kwargs):
        if isinstance(box_iou, bool) or not isinstance(box_iou, (int, float)) or not 0 < box_iou <= 1:
            raise InputError(f'MaskQualityMetric: box_iou is {box_iou!r}; it must be above 0 and at most 1.')
        super().__init__(**kwargs)
        self.box_iou, self.classwise = box_iou, classwise
        self._images: int | None = None

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Compare the masks of a batch and add the result to the sums."""
        if not self.results:
            self.results.append(Sums())
        for sample in data_samples:
            self.results[0].add(compare_image(truth_of(sample), prediction_of(sample), self.box_iou))

    def evaluate(self, size: int) -> dict[str, float]:
        """MMEngine's, which gathers one record a process here, not one an image.

        Args:
            size: length of the data set.
        """
        self._images = size
        return super().evaluate(get_world_size())

    def compute_metrics(self, results: list[Sums]) -> dict[str, float]:
        """Means over all objects, then those of each class and size.

        Raises:
            InputError: not called by ``evaluate``, so that ``results`` may be a part of the sums.
        """
        if self._images is None:
            raise InputError('MaskQualityMetric: an evaluator that takes results apart by image is not supported.')
        sums, classes = merge(results, self._images), self.dataset_meta['classes']
        whole, sizes = summarize(sums, None), {size: summarize(sums, size) for size in SIZES}
        rows = [summarize(sums, label) for label in range(len(classes))]
        table = to_table([('all', whole), *zip(classes, rows, strict=True)], sizes)
        tell(MMLogger.get_current_instance(), table, [words_on_swallowed(whole)] if whole.matched else [])
        values = {name: whole.means[name] for name in OF_ALL}
        if self.classwise:
            for key, row in zip(key_names(classes), rows, strict=True):
                values |= {f'{name}_{key}': row.means[name] for name in OF_CLASS}
        for size, row in sizes.items():
            values |= {f'{name}_area_{size}': row.means[name] for name in OF_SIZE}
        return values


def to_table(rows: Sequence[tuple[str, Quality]], sizes: Mapping[str, Quality]) -> Table:
    """A row a class, by its name, then one a size."""
    table = Table(title='Masks of matched objects', title_justify='left')
    table.add_column('class,\nsize', overflow='fold')
    for heading in ('objects', 'matched', 'detections\nwithout', *MEANS.values()):
        table.add_column(heading, justify='right')
    for name, row in rows:
        table.add_row(escape(name), *_cells(row))
    table.add_section()
    for size, row in sizes.items():
        table.add_row(size, *_cells(row))
    return table


def _cells(row: Quality) -> list[str]:
    counts = [f'{count:,}' for count in (row.objects, row.matched, row.unmatched)]
    return counts + [f'{row.means[name]:.3f}' if row.numbers[name] else '-' for name in MEANS]


def words_on_swallowed(row: Quality) -> str:
    """Of how many matched objects boundary IoU has little to say."""
    number = round(row.means['swallowed'] * row.matched)
    return (
        f'The band of boundary IoU covers {number:,} of {row.matched:,} matched objects whole; of these it says hardly more '
        'than IoU.'
    )
