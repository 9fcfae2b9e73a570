"""Ground truth masks that keep only the windows in which they have pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv import rescale_size
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_type
from mmdet.structures.mask import BaseInstanceMasks, BitmapMasks, PolygonMasks
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import draw_each, encode
from mmext.errors import InputError
from mmext.structures.mask_targets import mask_targets
from mmext.structures.window import Window, crop, cut, flip


class WindowMasks(BitmapMasks):
    """BitmapMasks whose memory follows the instances, not image x instances: same calls, same pixels.

    Resizing by nearest pixel, flips, crops, padding and mask targets work on the windows. Translation, shear, rotation and
    other interpolations draw eight masks at a time. It is a kind of ``BitmapMasks`` because MMDetection's visualizer, boxes
    from masks and ``mask2ndarray`` ask for that; ``masks`` draws them all at full size for code that reaches for them, and
    is read-only: what was written there would be lost. It may be set as a whole.

    Args:
        masks: of N instances, each a ``Window`` or an array (height, width).
        height, width: of the image in pixels.

    Raises:
        InputError: an array of another size than the image.
    """

    def __init__(self, masks: Sequence[Window | np.ndarray], height: int, width: int):
        self.height, self.width = height, width
        self.windows = [mask if isinstance(mask, Window) else self._cut(mask) for mask in masks]

    @classmethod
    def from_rles(cls, rles: Sequence[dict], height: int, width: int, **kwargs) -> 'WindowMasks':
        """Masks from compressed RLEs of one image; ``kwargs`` and errors are those of ``draw_each``."""
        return cls([Window(*drawn) for drawn in draw_each(rles, **kwargs)], height, width)

    def to_rles(self) -> list[dict]:
        """Compressed RLEs of the masks, without drawing them; undone by ``from_rles``."""
        return [encode(one.pixels, one.x1, one.y1, (self.height, self.width)) for one in self.windows]

    @property
    def masks(self) -> np.ndarray:
        """All masks at full size: (N, height, width) uint8, drawn anew each time."""
        drawn = self.to_ndarray()
        drawn.flags.writeable = False
        return drawn

    @masks.setter
    def masks(self, masks: Sequence[np.ndarray]) -> None:
        self.windows = [self._cut(mask) for mask in masks]

    def __getitem__(self, index) -> 'WindowMasks':
        places = np.arange(len(self.windows))[index].reshape(-1)
        return self._like([self.windows[place] for place in places.tolist()])

    def __iter__(self):
        return (self[place].to_ndarray()[0] for place in range(len(self)))

    def __len__(self) -> int:
        return len(self.windows)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    def rescale(self, scale, interpolation: str = 'nearest') -> 'WindowMasks':
        """See ``BaseInstanceMasks.rescale``."""
        width, height = rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape, interpolation: str = 'nearest') -> 'WindowMasks':
        """See ``BaseInstanceMasks.resize``."""
        if interpolation != 'nearest':
            return self._drawn('resize', out_shape, interpolation)
        height, width = out_shape
        rows, columns = nearest(self.height, height), nearest(self.width, width)
        edges = np.array([[p.start, p.stop, q.start, q.stop] for p, q in (one.place() for one in self.windows)])
        edges = edges.reshape(-1, 4)
        edges[:, :2], edges[:, 2:] = rows.searchsorted(edges[:, :2]), columns.searchsorted(edges[:, 2:])
        resized = [
            Window(one.pixels.take(columns[x1:x2] - one.x1, 1).take(rows[y1:y2] - one.y1, 0), x1, y1)
            for one, (y1, y2, x1, x2) in zip(self.windows, edges.tolist(), strict=True)
        ]
        return self._like(resized, height, width)

    def flip(self, flip_direction: str = 'horizontal') -> 'WindowMasks':
        """See ``BaseInstanceMasks.flip``."""
        assert flip_direction in ('horizontal', 'vertical', 'diagonal')
        return self._like([flip(window, self.height, self.width, flip_direction) for window in self.windows])

    def pad(self, out_shape, pad_val: int = 0) -> 'WindowMasks':
        """See ``BaseInstanceMasks.pad``."""
        height, width = out_shape
        if height < self.height or width < self.width:
            raise InputError(
                f'WindowMasks.pad: masks of {self.height}x{self.width} (height, width) do not fit into {height}x{width}. '
                'Use crop to make them smaller.'
            )
        if pad_val:
            return self._drawn('pad', out_shape, pad_val)
        return self._like(self.windows, height, width)

    def crop(self, bbox: np.ndarray) -> 'WindowMasks':
        """See ``BaseInstanceMasks.crop``."""
        assert isinstance(bbox, np.ndarray)
        assert bbox.ndim == 1
        x1, x2 = np.clip(bbox[0::2], 0, self.width).tolist()
        y1, y2 = np.clip(bbox[1::2], 0, self.height).tolist()
        x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        return self._like([crop(window, x1, y1, x2, y2) for window in self.windows], y2 - y1, x2 - x1)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'WindowMasks':
        """See ``BaseInstanceMasks.expand``."""
        moved = [Window(window.pixels, window.x1 + left, window.y1 + top) for window in self.windows]
        return self._like(moved, expanded_h, expanded_w)

    def crop_and_resize(
        self, bboxes, out_shape, inds, device='cpu', interpolation: str = 'bilinear', binarize: bool = True
    ) -> BitmapMasks:
        """See ``BaseInstanceMasks.crop_and_resize``. What a GPU gets are the targets, none of the masks.

        Raises:
            InputError: a box of negative size.
        """
        if not len(self) or not len(bboxes):
            return BitmapMasks([], *out_shape)
        boxes, inds = (one.detach().cpu().numpy() if isinstance(one, torch.Tensor) else one for one in (bboxes, inds))
        targets = mask_targets(self.windows, (self.height, self.width), boxes, inds, tuple(out_shape), binarize)
        return BitmapMasks(targets, *out_shape)

    def translate(self, *args, **kwargs) -> 'WindowMasks':
        """See ``BaseInstanceMasks.translate``."""
        return self._drawn('translate', *args, **kwargs)

    def shear(self, *args, **kwargs) -> 'WindowMasks':
        """See ``BaseInstanceMasks.shear``."""
        return self._drawn('shear', *args, **kwargs)

    def rotate(self, *args, **kwargs) -> 'WindowMasks':
        """See ``BaseInstanceMasks.rotate``."""
        return self._drawn('rotate', *args, **kwargs)

    @property
    def areas(self) -> np.ndarray:
        """(N,) sums of the pixels of each mask."""
        return np.array([window.pixels.sum() for window in self.windows], np.uint64)

    def get_bboxes(self, dst_type='hbox') -> BaseBoxes:
        """See ``BaseInstanceMasks.get_bboxes``."""
        if get_box_type(dst_type)[1] is not HorizontalBoxes:
            return super().get_bboxes(dst_type)
        boxes = np.zeros((len(self), 4), np.float32)
        for box, window in zip(boxes, self.windows, strict=True):
            inner = cut(window.pixels)
            if inner.pixels.size:
                rows, columns = inner.place()
                box[:] = columns.start, rows.start, columns.stop, rows.stop
                box += np.tile([window.x1, window.y1], 2)
        return HorizontalBoxes(boxes)

    def to_ndarray(self) -> np.ndarray:
        """All masks at full size: (N, height, width) uint8."""
        drawn = np.zeros((len(self), self.height, self.width), np.uint8)
        for mask, window in zip(drawn, self.windows, strict=True):
            mask[window.place()] = window.pixels
        return drawn

    def to_tensor(self, dtype: torch.dtype, device) -> torch.Tensor:
        """All masks at full size: (N, height, width), drawn on the device."""
        drawn = torch.zeros((len(self), self.height, self.width), dtype=dtype, device=device)
        for mask, window in zip(drawn, self.windows, strict=True):
            # a flipped window has strides that torch does not take
            mask[window.place()] = torch.from_numpy(window.pixels.copy()).to(device)
        return drawn

    @classmethod
    def cat(cls, masks: Sequence[BaseInstanceMasks]) -> 'WindowMasks':
        """One after the other, masks of other kinds among them: an image with polygons only has no windows.

        Raises:
            InputError: nothing to put together, or masks of images of different sizes.
        """
        sizes = sorted({(one.height, one.width) for one in masks})
        if len(sizes) != 1:
            found = ', '.join(f'{height}x{width}' for height, width in sizes) or 'none'
            raise InputError(f'WindowMasks.cat: masks of one size are needed (height x width), got {found}.')
        return cls([window for one in masks for window in _windows(one)], *sizes[0])

    def _like(self, windows: list[Window], height: int | None = None, width: int | None = None) -> 'WindowMasks':
        height, width = (self.height, self.width) if height is None else (height, width)
        return type(self)(windows, height, width)

    def _cut(self, mask: np.ndarray) -> Window:
        if mask.shape != (self.height, self.width):
            raise InputError(
                f'WindowMasks: a mask is {" x ".join(map(str, mask.shape))}, its image {self.height} x {self.width} (height '
                'x width). Resize the masks with the image.'
            )
        return cut(mask)

    def _drawn(self, method: str, *args, **kwargs) -> 'WindowMasks':
        """What BitmapMasks makes of eight at a time, of up to four at once.

        It hands its masks to OpenCV as channels of one image, which are warped by other code from five on, and of border
        values it gives three, so that every fourth mask has a border of 0. Empty masks fill up the last eight.
        """
        height, width, number = self.height, self.width, len(self)
        size = getattr(BitmapMasks([], height, width), method)(*args, **kwargs)
        together = number if number <= 4 else 8
        windows = []
        for first in range(0, number, 8):
            some = np.zeros((together, height, width), np.uint8)
            here = self[first : first + together]
            some[: len(here)] = here.to_ndarray()
            changed = getattr(BitmapMasks(some, height, width), method)(*args, **kwargs)
            windows += map(cut, changed.masks[: len(here)])
        return self._like(windows, size.height, size.width)


def nearest(length: int, wanted: int) -> np.ndarray:
    """(wanted,) the pixel of a line of ``length`` that each pixel of the resized line comes from, as OpenCV takes it."""
    line = cv2.resize(np.arange(length, dtype=np.int32)[None], (wanted, 1), interpolation=cv2.INTER_NEAREST)
    return line[0].astype(np.intp)


def _windows(masks: BaseInstanceMasks) -> list[Window]:
    if isinstance(masks, WindowMasks):
        return masks.windows
    if isinstance(masks, PolygonMasks):
        rles = [coco_mask.merge(coco_mask.frPyObjects(parts, masks.height, masks.width)) for parts in masks.masks]
        return WindowMasks.from_rles(rles, masks.height, masks.width).windows
    return [cut(mask) for mask in masks.to_ndarray()]
