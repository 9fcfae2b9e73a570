"""How good the masks of found objects are, which mean average precision hides."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import PolygonMasks, encode_mask_results
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from pycocotools import mask as coco_mask
from rich.markup import escape
from rich.table import Table

from mmext.analysis.mask_match import BOX_IOU, Objects, match, union_iou
from mmext.console import tell
from mmext.errors import InputError
from mmext.registry import METRICS


@dataclass(frozen=True)
class Quality:
    """Masks of one class, or of all. Means over matched pairs, or, ``union_iou``, over images; ``objects`` counts ground
    truth, ``matched`` those that a detection was matched with, ``unmatched`` the detections that match none.

    Without ground truth the means are -1; where there is some and nothing was matched, 0."""

    iou: float
    coverage: float
    area_ratio: float
    union_iou: float
    objects: int
    matched: int
    unmatched: int


_SWITCH = ', or leave the metric out: val_cfg.extra_metrics=[]'
MEANS = ('iou', 'coverage', 'area_ratio', 'union_iou')


def compare_image(truth: Objects, prediction: Objects, box_iou: float = BOX_IOU) -> dict:
    """What one image adds: ``pairs`` (label, mask IoU, coverage, area ratio), counts by label, and union IoU of each label
    and, under None, of all together. Plain values, so that processes can exchange them."""
    labels = sorted(set(truth.labels.tolist()))
    unions = {label: union_iou(_of(truth, label), _of(prediction, label)) for label in labels}
    return {
        'pairs': [
            (int(truth.labels[pair.truth]), pair.mask_iou, pair.coverage, pair.area_ratio)
            for pair in match(truth, prediction, box_iou)
        ],
        'objects': dict(Counter(truth.labels.tolist())),
        'detections': dict(Counter(prediction.labels.tolist())),
        'union_iou': unions | ({None: union_iou(truth, prediction)} if labels else {}),
    }


def _of(objects: Objects, label: int) -> Objects:
    """The instances of one class."""
    chosen = np.flatnonzero(objects.labels == label)
    scores = None if objects.scores is None else objects.scores[chosen]
    return Objects(objects.boxes[chosen], [objects.rles[i] for i in chosen], objects.labels[chosen], scores)


def summarize(images: Sequence[Mapping], label: int | None) -> Quality:
    """Quality of one class, or of all with ``label=None``.

    Args:
        images: of :func:`compare_image`.
        label: number of the class.
    """
    pairs = [values for image in images for number, *values in image['pairs'] if label in (None, number)]
    counts = [
        sum(sum(image[what].values()) if label is None else image[what].get(label, 0) for image in images)
        for what in ('objects', 'detections')
    ]
    unions = [image['union_iou'][label] for image in images if label in image['union_iou']]
    columns = list(zip(*pairs, strict=True)) or [(), (), ()]
    means = [_mean(values, counts[0]) for values in (*columns, unions)]
    return Quality(*means, objects=counts[0], matched=len(pairs), unmatched=counts[1] - len(pairs))


def _mean(values: Sequence[float], objects: int) -> float:
    known = [value for value in values if not math.isnan(value)]
    if known:
        return math.fsum(known) / len(known)
    return 0.0 if objects else -1.0


def to_rles(masks, height: int, width: int) -> list[dict]:
    """RLEs of MMDetection's PolygonMasks or BitmapMasks; polygons are never drawn at full size."""
    if isinstance(masks, PolygonMasks):
        return [
            coco_mask.merge(coco_mask.frPyObjects([np.asarray(part).reshape(-1).tolist() for part in parts], height, width))
            for parts in masks.masks
        ]
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


def encoded(masks: torch.Tensor | list[dict]) -> list[dict]:
    """Predicted masks (N, height, width) as RLEs; what is encoded already stays as it is.

    The RLEs are kept on the tensor: several metrics see the same sample, and encoding is most of what they do.
    """
    if not isinstance(masks, torch.Tensor):
        return masks
    if not hasattr(masks, '_mmext_rles'):
        masks._mmext_rles = encode_mask_results(masks.detach().cpu().numpy())
    return masks._mmext_rles


def key_names(classes: Sequence[str]) -> list[str]:
    """Class names as they stand in a scalar's name: without ``/``, which would split it, and each another."""
    names = [name.replace('/', '_') for name in classes]
    return [f'{name}_{label}' if names.count(name) > 1 else name for label, name in enumerate(names)]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


@METRICS.register_module()
class MaskQualityMetric(BaseMetric):
    """Mask IoU, coverage and area ratio of matched objects, and union IoU: ``mask/iou``, ``mask/coverage`` and so on.

    ``mmext.LossValLoop`` adds it to every validation. In a test: ``test_evaluator = [dict(type='mmext.CocoMetric', ...),
    dict(type='mmext.MaskQualityMetric')]``. Of each class the same with its name: ``mask/iou_Fiber``.

    Detections are matched one to one with the objects of their class, best score first, where boxes overlap with an IoU of
    at least 0.5; what is not matched is counted in the table. Crowd regions are left out. *Coverage* is |prediction ∩ GT| /
    |GT|, *area ratio* |prediction| / |GT|: small masks have low values of both. Union IoU is S3's: the best-scoring mask of
    an image against the union of all its objects.

    Args:
        box_iou: least box IoU of a pair.
        classwise: whether to give the numbers of each class too; the table has them in any case.
        kwargs: ``collect_device``, ``prefix`` and ``collect_dir`` of MMEngine's BaseMetric.
    """

    default_prefix = 'mask'

    def __init__(self, box_iou: float = BOX_IOU, classwise: bool = True, **kwargs):
        if isinstance(box_iou, bool) or not isinstance(box_iou, (int, float)) or not 0 < box_iou <= 1:
            raise InputError(f'MaskQualityMetric: box_iou is {box_iou!r}; it must be above 0 and at most 1.')
        super().__init__(**kwargs)
        self.box_iou, self.classwise = box_iou, classwise

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Compare the masks of a batch; of each image a few numbers are kept."""
        for sample in data_samples:
            self.results.append(compare_image(truth_of(sample), prediction_of(sample), self.box_iou))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Means over all classes, then those of each class."""
        classes = self.dataset_meta['classes']
        rows = [('all', summarize(results, None))]
        rows += [(name, summarize(results, label)) for label, name in enumerate(classes)]
        tell(MMLogger.get_current_instance(), to_table(rows), [])
        suffixes = ['', *(f'_{name}' for name in key_names(classes))] if self.classwise else ['']
        return {
            f'{mean}{suffix}': getattr(row, mean) for suffix, (_, row) in zip(suffixes, rows, strict=False) for mean in MEANS
        }


def to_table(rows: Sequence[tuple[str, Quality]]) -> Table:
    """A row a class, by its name."""
    table = Table(title='Masks of matched objects', title_justify='left')
    table.add_column('class')
    for heading in ('objects', 'matched', 'detections without', 'IoU', 'coverage', 'area ratio', 'union IoU'):
        table.add_column(heading, justify='right')
    for name, row in rows:
        counts = [f'{count:,}' for count in (row.objects, row.matched, row.unmatched)]
        shown = [row.matched, row.matched, row.matched, row.objects]
        means = [f'{getattr(row, mean):.3f}' if there else '-' for mean, there in zip(MEANS, shown, strict=True)]
        table.add_row(escape(name), *counts, *means)
    return table
