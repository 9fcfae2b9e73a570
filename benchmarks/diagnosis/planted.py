"""Faults of the bench of `mmext diagnose`: spoilt annotation files, a crop without objects, a head that is frozen."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from pycocotools import mask as coco_mask

from mmext.registry import HOOKS, TRANSFORMS

Change = Callable[[list[np.ndarray], np.random.Generator], list[np.ndarray]]


def grown_to(mask: np.ndarray, share: float) -> np.ndarray:
    """A mask (H, W) uint8 with ``share`` of its pixels: those deepest inside, or with those nearest to it outside."""
    wanted = round(share * np.count_nonzero(mask))
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    limit = np.partition(depth.ravel(), -wanted)[-wanted] if wanted else np.inf
    return (depth >= limit).astype(np.uint8)


def eroded(masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """A quarter of the pixels of each mask taken away from its border."""
    return [grown_to(mask, 0.75) for mask in masks]


def widened(masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Each mask two pixels wider all round."""
    return [cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) for mask in masks]


def shifted(masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Each mask three pixels to the right."""
    return [np.pad(mask, ((0, 0), (3, 0)))[:, :-3] for mask in masks]


def swapped(masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Masks of about 30 % of the instances go round among them."""
    chosen = np.flatnonzero(rng.random(len(masks)) < 0.3)
    if len(chosen) == 1 and len(masks) > 1:  # one alone has nobody to swap with
        chosen = np.append(chosen, rng.choice(np.setdiff1d(np.arange(len(masks)), chosen)))
    masks = list(masks)
    for place, mask in zip(np.roll(chosen, 1), [masks[i] for i in chosen], strict=True):
        masks[place] = mask
    return masks


def spoil(source: Path, target: Path, change: Change, seed: int) -> None:
    """Copy a COCO file with the masks of each image changed, as RLEs. Boxes, areas and classes stay."""
    document, rng = json.loads(source.read_text()), np.random.default_rng([seed, 9])
    for image in document['images']:
        size = image['height'], image['width']
        instances = [one for one in document['annotations'] if one['image_id'] == image['id']]
        masks = [coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(one['segmentation'], *size))) for one in instances]
        for one, mask in zip(instances, change(masks, rng), strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask))
            one['segmentation'] = {'size': rle['size'], 'counts': rle['counts'].decode()}
    target.write_text(json.dumps(document))


def first_images(source: Path, target: Path, images: int) -> None:
    """Copy a COCO file with its first images only."""
    document = json.loads(source.read_text())
    document['images'] = document['images'][:images]
    kept = {image['id'] for image in document['images']}
    document['annotations'] = [copy.copy(one) for one in document['annotations'] if one['image_id'] in kept]
    target.write_text(json.dumps(document))


def turned_categories(source: Path, target: Path) -> None:
    """Copy a COCO file with its categories in another order, of which MMDetection makes the labels; nothing else changes."""
    document = json.loads(source.read_text())
    document['categories'] = [*document['categories'][1:], document['categories'][0]]
    target.write_text(json.dumps(document))


@TRANSFORMS.register_module()
class BackgroundCrop(BaseTransform):
    """A window without an object, made as large as the image was: of random ones the first that is empty.

    Args:
        side: of the window, in pixels.
    """

    def __init__(self, side: int = 24):
        self.side = side

    def transform(self, results: dict) -> dict:
        image, taken = results['img'], results['gt_masks'].to_ndarray().any(0)
        height, width = image.shape[:2]
        for _ in range(1000):
            top, left = (np.random.randint(0, length - self.side) for length in (height, width))
            window = np.s_[top : top + self.side, left : left + self.side]
            if not taken[window].any():
                break
        results['img'] = cv2.resize(image[window], (width, height))
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks'):
            results[key] = results[key][np.zeros(0, int)]
        return results


@HOOKS.register_module()
class FrozenHeads(Hook):
    """Box and mask head are frozen once training has begun, as a hook of one's own may leave them."""

    def before_train_epoch(self, runner) -> None:
        runner.model.roi_head.requires_grad_(False)
