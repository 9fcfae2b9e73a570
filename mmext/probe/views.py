"""Images with their ground truth: as the files have them, and as the training gets them."""

import contextlib
import copy
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmext.analysis.mask_match import Objects
from mmext.errors import InputError
from mmext.metrics.mask_quality import to_rles
from mmext.probe.subject import IMAGES, Sample


@dataclass(frozen=True)
class View:
    """``image`` (H, W, C) and its objects in its pixels; ``place`` of the image in its data set; ``before``: objects that it
    had before the pipeline, None where that cannot be told."""

    place: int
    image: np.ndarray
    truth: Objects
    before: int | None = None


def file_views(sample: Sample) -> Iterator[View]:
    """The images of a sample at their own size, with what the files say of them.

    Raises:
        InputError: the validation pipeline reads no image.
    """
    for number, (dataset, place) in enumerate(sample.places):
        results = dataset.get_data_info(place)
        for transform in dataset.pipeline.transforms:
            if 'Load' in type(transform).__name__:
                results = transform(results)
        if 'img' not in results or 'gt_masks' not in results:
            raise InputError(f'{sample.name}: no Load... transform of the validation pipeline reads the image.')
        kept = ~results['gt_ignore_flags'].astype(bool)
        boxes = get_box_tensor(results['gt_bboxes']).numpy()[kept]
        yield View(
            number,
            _with_channels(results['img']),
            _objects(boxes, results['gt_masks'][kept], results['gt_bboxes_labels'][kept]),
        )


def training_views(cfg: Config, seed: int) -> Iterator[View]:
    """What the training's own data set gives, wrappers and augmentation included: as many images as a sample has.

    A data set of fewer images is gone through again, since each draw is another. What a pipeline has enlarged is made as
    large as in the file again, so that a pixel is one of the file at most.

    Args:
        cfg: of the run.
        seed: of the choice and of the augmentation.

    Raises:
        InputError: the data set cannot be built, or gives nothing.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
            dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        filled = [place for place in range(len(dataset)) if _objects_before(dataset, place) != 0]
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for place in np.resize(np.random.default_rng(seed).permutation(filled), IMAGES if filled else 0).tolist():
            packed = dataset[place]
            yield _packed(place, packed, _objects_before(dataset, place))
    except InputError:
        raise
    except Exception as error:  # files that have been moved away, or a pipeline that finds no image
        raise InputError(f'train_dataloader.dataset: {type(error).__name__}: {error}') from error


def _packed(place: int, packed: dict, before: int | None) -> View:
    """An image and its data sample as PackDetInputs gives them."""
    image = _with_channels(packed['inputs'].permute(1, 2, 0).numpy())
    sample = packed['data_samples']
    instances = sample.gt_instances
    boxes, masks, labels = get_box_tensor(instances.bboxes).numpy(), instances.masks, instances.labels.numpy()
    enlarged = max(1.0, *sample.get('scale_factor', (1.0, 1.0)))
    if enlarged > 1:
        height, width = (max(1, round(side / enlarged)) for side in image.shape[:2])
        factors = np.tile([width / image.shape[1], height / image.shape[0]], 2)
        image = _with_channels(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        boxes, masks = boxes * factors, masks.resize((height, width))
    return View(place, image, _objects(boxes, masks, labels), before)


def _objects(boxes: np.ndarray, masks: BitmapMasks, labels: np.ndarray) -> Objects:
    """Boxes are x1, y1, x2, y2 here."""
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(float)
    return Objects(boxes, to_rles(masks, masks.height, masks.width), np.asarray(labels))


def _with_channels(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else image[..., None]


def _objects_before(dataset: object, place: int) -> int | None:
    """Objects of an image of a data set; None where a wrapper does not tell."""
    while not hasattr(dataset, 'get_data_info'):
        if not hasattr(dataset, 'dataset'):
            return None
        dataset = dataset.dataset
    instances: Sequence[dict] = dataset.get_data_info(place).get('instances', ())
    return sum(not one.get('ignore_flag') for one in instances)
