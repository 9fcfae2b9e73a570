"""Each object of a sample under every experiment: its mask IoU as it is, and with one thing made right."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from pycocotools import mask as coco_mask

from mmext.analysis.mask_match import Objects, match
from mmext.check.ceiling import instance_ceilings, own_grid
from mmext.loops.loss_val_loop import shared_features
from mmext.metrics.mask_quality import prediction_of, truth_of
from mmext.probe.annotation import offsets_ious, resized_ious
from mmext.probe.masks import Grids, grids_for_boxes, iou_at, kept_grids, mask_head_of, paste, truth_in
from mmext.probe.subject import Sample, Subject, one_sample

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Measured:
    """One object of the ground truth.

    ``image`` its place in the sample, ``label`` its class; mask IoUs: ``now`` as validation measures it, NaN where no
    detection of its class matched; ``with_truth_box`` from its own box and class; ``by_threshold`` at THRESHOLDS;
    ``ceilings`` of the config's grid and one twice as fine, empty without a grid; ``by_offset`` and ``by_growth`` with the
    prediction moved and grown (annotation.OFFSETS, GROWTHS). What needs a detection is empty without one.
    """

    image: int
    label: int
    now: float
    with_truth_box: float
    by_threshold: Sequence[float] = ()
    ceilings: Sequence[float] = ()
    by_offset: np.ndarray | None = None
    by_growth: Sequence[float] = ()


@dataclass(frozen=True)
class Located:
    """An object that a box was found for, of whatever class: mask IoU from the ``predicted`` class's channel and from the
    ``right`` one's; ``confused`` where these are two."""

    image: int
    predicted: float
    right: float
    confused: bool


@dataclass(frozen=True)
class Part:
    """What was measured on a sample. ``box_only``: Located of the objects, matched by box alone; ``total``: images of the
    part."""

    name: str
    images: int
    total: int
    objects: Sequence[Measured]
    located: Sequence[Located]

    def column(self, name: str, matched: bool = True) -> np.ndarray:
        """Values of a field, of matched objects or of all."""
        return np.array([getattr(one, name) for one in (self.matched if matched else self.objects)], float)

    @property
    def matched(self) -> list[Measured]:
        return [one for one in self.objects if not np.isnan(one.now)]

    def image_of(self, matched: bool = True) -> np.ndarray:
        return np.array([one.image for one in (self.matched if matched else self.objects)], int)


def measure(subject: Subject, sample: Sample, progress: Callable[[int, int], None] | None = None) -> Part:
    """Predict each image of a sample and measure its objects.

    Args:
        subject: with a mask head for boxes.
        sample: of its images.
        progress: called with (done, all) images.
    """
    objects, located = [], []
    own, _ = own_grid(subject.cfg)
    grids = [own, (own[0] * 2, own[1] * 2)] if own else []
    rcnn = subject.cfg.model.train_cfg.rcnn
    soft = bool((rcnn[-1] if isinstance(rcnn, (list, tuple)) else rcnn).get('soft_mask_target', False))
    with torch.inference_mode():
        for number, data in enumerate(sample.batches()):
            inputs, one = one_sample(data, subject.model)
            with shared_features(subject.model) as features, kept_grids(mask_head_of(subject.model)) as kept:
                output = subject.model(inputs=inputs, data_samples=[one], mode='predict')[0]
                features.image = 0
                levels = subject.model.extract_feat(inputs)
            found = Grids() if not kept else kept[0]
            truth, prediction = truth_of(one.to_dict()), prediction_of(output.to_dict())
            given = grids_for_boxes(subject.model, levels, one.metainfo, truth.boxes, truth.labels)
            ceilings = partial(_ceilings, grids=grids, shape=tuple(one.img_shape[:2]), soft=soft)
            objects += _measure_image(number, truth, prediction, found, given, subject.threshold, ceilings)
            located += _locate_image(number, truth, prediction, found, subject.threshold)
            if progress:
                progress(number + 1, len(sample.places))
    return Part(sample.name, len(sample.places), sample.total, objects, located)


def _measure_image(
    number: int,
    truth: Objects,
    prediction: Objects,
    found: Grids,
    given: Grids,
    threshold: float,
    ceilings_of: Callable[[dict, np.ndarray], Sequence[float]],
) -> list[Measured]:
    pairs = {pair.truth: pair for pair in match(truth, prediction)}
    measured = []
    for i, (label, rle) in enumerate(zip(truth.labels.tolist(), truth.rles, strict=True)):
        height, width = rle['size']
        area = float(coco_mask.area(rle))
        if not area:
            continue
        probabilities, window = paste(given.channel(i, label), given.boxes[i], height, width)
        with_truth_box = iou_at(probabilities, truth_in(rle, window), area, threshold)
        ceilings = ceilings_of(rle, truth.boxes[i])
        pair = pairs.get(i)
        if pair is None:
            measured.append(Measured(number, label, float('nan'), with_truth_box, ceilings=ceilings))
            continue
        j = pair.prediction
        probabilities, window = paste(found.channel(j, label), found.boxes[j], height, width)
        inside = truth_in(rle, window)
        by_threshold = [iou_at(probabilities, inside, area, one) for one in THRESHOLDS]
        measured.append(
            Measured(
                number,
                label,
                pair.mask_iou,
                with_truth_box,
                by_threshold,
                ceilings,
                offsets_ious(rle, prediction.rles[j]),
                resized_ious(rle, prediction.rles[j]),
            )
        )
    return measured


def _ceilings(
    rle: dict, box: np.ndarray, grids: Sequence[tuple[int, int]], shape: tuple[int, int], soft: bool
) -> Sequence[float]:
    if not grids:
        return ()
    image: Mapping = {'height': rle['size'][0], 'width': rle['size'][1]}
    return instance_ceilings({'segmentation': rle, 'bbox': box.tolist()}, image, shape, grids, bitmaps=True, soft=soft)


def _locate_image(number: int, truth: Objects, prediction: Objects, found: Grids, threshold: float) -> list[Located]:
    """Matched by box alone; nothing where one channel serves all classes."""
    if found.probabilities.size(1) < 2:
        return []
    of_any = [Objects(one.boxes, one.rles, np.zeros_like(one.labels), one.scores) for one in (truth, prediction)]
    located = []
    for pair in match(*of_any):
        rle, right = truth.rles[pair.truth], int(truth.labels[pair.truth])
        confused = right != prediction.labels[pair.prediction]
        iou = pair.mask_iou
        if confused:
            j = pair.prediction
            probabilities, window = paste(found.channel(j, right), found.boxes[j], *rle['size'])
            iou = iou_at(probabilities, truth_in(rle, window), float(coco_mask.area(rle)), threshold)
        located.append(Located(number, pair.mask_iou, iou, bool(confused)))
    return located
