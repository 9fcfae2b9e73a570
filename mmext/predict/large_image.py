"""A large image as the network's pipeline loads a small one, window by window."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mmext.data.image_scaling import as_8_bit_bgr, limits_of
from mmext.data.image_windows import ImageWindows, is_tiff, open_windows
from mmext.errors import InputError
from mmext.predict.seams import Window
from mmext.transforms.load_microscope_image import LoadMicroscopeImage, layout_of

_SIDE = 1024  # px, of the windows that are looked at for limits and overview
# so many pixels of the whole image say where its grey values lie
_SAMPLED = 2**22


def check_loader(loader: object) -> None:
    """Refuse a transform that no window can be scaled with.

    Raises:
        InputError: it is not ours.
    """
    if not isinstance(loader, LoadMicroscopeImage):
        raise InputError(
            f'--tile: the config loads images with {type(loader).__name__}, which reads whole ones. Use LoadImageFromFile '
            'or mmext.LoadMicroscopeImage in its test pipeline.'
        )


class LargeImage:
    """Windows of an image, as 8-bit BGR.

    An image of more than 8 bits is scaled by the limits of the whole, not of each window: neighbours then look alike, and an
    empty corner is not stretched until its noise looks like objects.

    Args:
        path: of the image.
        loader: the transform of the config that loads images; its settings are kept.

    Raises:
        InputError: the image cannot be read by windows; the config's loader is none that can scale a window.
    """

    def __init__(self, path: Path, loader: object):
        check_loader(loader)
        self.name, self.loader = str(path), loader
        self.windows: ImageWindows = open_windows(path)
        self.size = self.windows.size
        self._alpha = _alpha_of(path, self.windows) if is_tiff(path) else 0
        self._limits = loader.limits
        if self._limits is None and self.windows.dtype not in (np.uint8, bool):
            self._limits = self._whole_limits()

    def read(self, window: Window) -> np.ndarray:
        """The picture in a window x1, y1, x2, y2: (h, w, 3) uint8 BGR."""
        loader = self.loader
        return as_8_bit_bgr(
            self._pixels(window), self.name, self._limits, loader.percentiles, loader.per_channel, loader.channels
        )

    def overview(self, longest: int) -> tuple[np.ndarray, float]:
        """The whole picture, not larger than ``longest`` pixels, and its scale; made window by window."""
        height, width = self.size
        scale = min(1.0, longest / max(height, width))
        found = np.zeros((max(round(height * scale), 1), max(round(width * scale), 1), 3), np.uint8)
        for window in _pieces(self.size):
            left, top, right, bottom = (round(place * scale) for place in window)
            if right > left and bottom > top:
                picture = self.read(window)
                if scale < 1:
                    picture = cv2.resize(picture, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
                found[top:bottom, left:right] = picture
        return found, scale

    def _pixels(self, window: Window) -> np.ndarray:
        pixels = self.windows.read(window)
        return pixels[..., : -self._alpha] if self._alpha and self.loader.channels is None else pixels

    def _whole_limits(self) -> np.ndarray:
        step = max(1, int(np.ceil((self.size[0] * self.size[1] / _SAMPLED) ** 0.5)))
        seen = []
        for window in _pieces(self.size):
            pixels = self._pixels(window)[::step, ::step]
            if self.loader.channels is not None and pixels.ndim == 3:
                pixels = pixels[..., list(self.loader.channels)]
            seen.append(pixels.reshape(-1, 1, *pixels.shape[2:]))
        return limits_of(np.concatenate(seen), self.loader.percentiles, self.loader.per_channel)


def _pieces(size: tuple[int, int]) -> Iterator[Window]:
    """Windows that cover an image, each pixel once."""
    height, width = size
    for y in range(0, height, _SIDE):
        for x in range(0, width, _SIDE):
            yield Window(x, y, min(x + _SIDE, width), min(y + _SIDE, height))


def _alpha_of(path: Path, windows: ImageWindows) -> int:
    """How many of a TIFF's last channels are opacity, which OpenCV leaves out where it decodes the whole image.

    Raises:
        InputError: a stack, channels in several pages, or deep pixels that are no grey values as they stand.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        layout = layout_of(file.series[0], str(path))
    if layout.pages > 1 or (not layout.plain and windows.dtype != np.uint8):
        what = f'channels in {layout.pages} pages' if layout.pages > 1 else f'{windows.dtype} pixels of kind {layout.kind}'
        raise InputError(f'{path}: {what}, which cannot be read by tiles. Save it as grey or RGB in one page.')
    return layout.alpha if windows.bounded else 0
