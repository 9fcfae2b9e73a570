"""Training on parts of large images: a crop at the resolution of the file that holds an object."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.structures.bbox import autocast_box_type, get_box_tensor

from mmext.data.crops import LEAST_SHARE, LEAST_SIDE, window_around, worth_keeping
from mmext.errors import InputError
from mmext.registry import TRANSFORMS

# Crops of an object that is longer than the crop, a diagonal fiber, may miss it: so often they are drawn again.
_TRIES = 10


@TRANSFORMS.register_module()
class CropAroundInstance(BaseTransform):
    """Cut out a part of a large image that holds an object: any of its objects, at any place in the crop.

    MMDetection's ``RandomCrop`` draws the place blindly: of a slide with few objects most crops are empty, and for each the
    next image is decoded; it keeps the last pixel of an object that it cuts, and gives it a box that is not that pixel's. Of
    one and the same window this gives what ``RandomCrop(recompute_bbox=True)`` gives, but for objects of which hardly
    anything is left: those are dropped, whatever is left of them is background.

    After ``LoadInstanceMasks``, before ``Resize``. With ``mmext.LoadMicroscopeImage(whole=False)`` only the crop is read.
    Changes ``img``, ``img_shape``, ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_masks`` (polygons or bitmaps),
    ``gt_ignore_flags``, ``gt_seg_map`` where they are there. A side of the image that is shorter than the crop stays whole;
    an image without an object is cut anywhere. Where nothing is left of any object, as between the arms of a fiber longer
    than the crop, the data set takes another image.

    Args:
        size: (width, height) of the crop in pixels of the image.
        least_share: of an object's area that must be inside for it to stay,
        least_side: unless what is inside is so many pixels long.

    Raises:
        InputError: a size that is not two whole numbers from 1; a share that is not from 0 to 1; a negative side; results
            without masks.
    """

    def __init__(self, size: tuple[int, int], least_share: float = LEAST_SHARE, least_side: float = LEAST_SIDE):
        if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(type(one) is int and one > 0 for one in size):
            raise InputError(
                f'CropAroundInstance: size={size!r}; it must be (width, height), whole pixels from 1, such as (1024, 1024).'
            )
        if not 0 <= least_share <= 1 or least_side < 0:
            raise InputError(
                f'CropAroundInstance: least_share={least_share}, least_side={least_side}; allowed: a share from 0 to 1, '
                f'such as {LEAST_SHARE}, and pixels from 0, such as {LEAST_SIDE:g}.'
            )
        self.size, self.least_share, self.least_side = tuple(size), least_share, least_side

    @autocast_box_type()
    def transform(self, results: dict) -> dict | None:
        """The results of a crop; None where nothing is left of any object."""
        if results.get('gt_masks') is None:
            raise InputError(
                "CropAroundInstance: there are no gt_masks to cut. Put dict(type='mmext.LoadInstanceMasks') before it."
            )
        height, width = results['img'].shape[:2]
        crop = min(self.size[0], width), min(self.size[1], height)
        boxes = get_box_tensor(results['gt_bboxes']).numpy()
        ignored = results.get('gt_ignore_flags')
        objects = np.arange(len(boxes)) if ignored is None else np.flatnonzero(~ignored.astype(bool))
        for _ in range(_TRIES):
            chosen, x1, y1 = self._draw(boxes, objects, (width, height), crop)
            window = np.array([x1, y1, x1 + crop[0], y1 + crop[1]])
            kept, changed = self._cut(results, boxes, window)
            if chosen is None or chosen in kept:
                break
        if len(objects) and not np.isin(kept, objects).any():
            return None
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            if results.get(key) is not None:
                changed[key] = results[key][kept]
        x1, y1, x2, y2 = window.tolist()
        if results.get('gt_seg_map') is not None:
            changed['gt_seg_map'] = results['gt_seg_map'][y1:y2, x1:x2]
        return {**results, **changed, 'img': results['img'][y1:y2, x1:x2], 'img_shape': (y2 - y1, x2 - x1)}

    @cache_randomness
    def _draw(self, boxes: np.ndarray, objects: np.ndarray, size: tuple, crop: tuple) -> tuple[int | None, int, int]:
        """An object, None where there is none, and x1, y1 of a crop around it."""
        chosen = int(np.random.choice(objects)) if len(objects) else None
        box = np.array([0, 0, *size]) if chosen is None else boxes[chosen]
        low, high = window_around(box, size, crop)
        return chosen, *np.random.randint(low, high + 1).tolist()

    def _cut(self, results: dict, boxes: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, dict]:
        """Places of the objects that stay in a window, and their masks and boxes in it."""
        places = np.flatnonzero(((boxes[:, :2] < window[2:]) & (boxes[:, 2:] > window[:2])).all(1))
        whole = results['gt_masks'][places]
        masks = whole.crop(window)
        found = masks.get_bboxes(type(results['gt_bboxes']))
        keep = worth_keeping(whole.areas, masks.areas, get_box_tensor(found).numpy(), self.least_share, self.least_side)
        return places[keep], {'gt_masks': masks[np.flatnonzero(keep)], 'gt_bboxes': found[keep]}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, least_share={self.least_share}, least_side={self.least_side})'
