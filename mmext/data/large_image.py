"""A large image as the network's pipeline loads a small one, window by window. No torch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmext.data.image_pixels import layout_of, whole_pixels
from mmext.data.image_scaling import as_8_bit_bgr, limits_of
from mmext.data.image_windows import ImageWindows, is_tiff, open_windows
from mmext.errors import InputError

_SIDE = 1024  # px, of the windows that are looked at for limits and overview
# so many pixels of the whole image say where its grey values lie
_SAMPLED = 2**22

Window = tuple[int, int, int, int]  # x1, y1, x2, y2; the last two are the first column and row outside


class LargeImage:
    """Windows of an image, as 8-bit BGR.

    An image of more than 8 bits is scaled by the limits of the whole, not of each window: neighbours then look alike, and an
    empty corner is not stretched until its noise looks like objects.

    To a transform that only cuts it is an array: it has a ``shape``, and ``image[y1:y2, x1:x2]`` are the pixels of a window.

    Args:
        path: of the image.
        loader: ``mmext.LoadMicroscopeImage``, whose limits, percentiles and channels are kept.

    Raises:
        InputError: the image cannot be read by windows.
    """

    def __init__(self, path: str | Path, loader):
        self.name, self.loader = str(path), loader
        self.windows: ImageWindows = open_windows(path)
        self.size = self.windows.size
        self._alpha = alpha_of(Path(path), self.windows)
        self._limits = loader.limits
        if self._limits is None and self.windows.dtype not in (np.uint8, bool):
            self._limits = self._whole_limits()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3), of the picture."""
        return *self.size, 3

    def __getitem__(self, place: tuple) -> np.ndarray:
        """The picture in rows and columns, two slices: (h, w, 3) uint8 BGR."""
        rows, columns = (range(*part.indices(length)) for part, length in zip(place[:2], self.size, strict=True))
        return self.read((columns.start, rows.start, columns.stop, rows.stop))

    def read(self, window: Sequence[int]) -> np.ndarray:
        """The picture in a window x1, y1, x2, y2: (h, w, 3) uint8 BGR."""
        loader = self.loader
        return as_8_bit_bgr(
            self._pixels(window), self.name, self._limits, loader.percentiles, loader.per_channel, loader.channels
        )

    def overview(self, longest: int) -> tuple[np.ndarray, float]:
        """The whole picture, not larger than ``longest`` pixels, and its scale; made window by window."""
        import cv2

        height, width = self.size
        scale = min(1.0, longest / max(height, width))
        found = np.zeros((max(round(height * scale), 1), max(round(width * scale), 1), 3), np.uint8)
        for window in pieces(self.size, _SIDE):
            left, top, right, bottom = (round(place * scale) for place in window)
            if right > left and bottom > top:
                picture = self.read(window)
                if scale < 1:
                    picture = cv2.resize(picture, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
                found[top:bottom, left:right] = picture
        return found, scale

    def _pixels(self, window: Sequence[int]) -> np.ndarray:
        pixels = self.windows.read(window)
        return pixels[..., : -self._alpha] if self._alpha and self.loader.channels is None else pixels

    def _whole_limits(self) -> np.ndarray:
        step = max(1, int(np.ceil((self.size[0] * self.size[1] / _SAMPLED) ** 0.5)))
        seen = []
        for window in pieces(self.size, _SIDE):
            pixels = self._pixels(window)[::step, ::step]
            if self.loader.channels is not None and pixels.ndim == 3:
                pixels = pixels[..., list(self.loader.channels)]
            seen.append(pixels.reshape(-1, 1, *pixels.shape[2:]))
        return limits_of(np.concatenate(seen), self.loader.percentiles, self.loader.per_channel)


def pieces(size: tuple[int, int], side: int) -> Iterator[Window]:
    """Windows that cover an image of a height and a width, each pixel once; those at the end may be smaller."""
    height, width = size
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield x, y, min(x + side, width), min(y + side, height)


def alpha_of(path: Path, windows: ImageWindows) -> int:
    """How many of the last channels of its windows are opacity, which OpenCV leaves out where it decodes the whole image.

    Raises:
        InputError: of a TIFF: a stack, channels in several pages, or deep pixels that are no grey values as they stand.
    """
    if not is_tiff(path):
        return 0
    import tifffile

    with tifffile.TiffFile(path) as file:
        layout = layout_of(file.series[0], str(path))
    if layout.pages > 1 or (not layout.plain and windows.dtype != np.uint8):
        what = f'channels in {layout.pages} pages' if layout.pages > 1 else f'{windows.dtype} pixels of kind {layout.kind}'
        raise InputError(f'{path}: {what}, which cannot be read by tiles. Save it as grey or RGB in one page.')
    return layout.alpha if windows.bounded else 0


def pixel_windows(
    path: Path, channels: Sequence[int] | None = None
) -> tuple[tuple[int, int], Callable[[Sequence[int]], np.ndarray]]:
    """Height and width of an image, and what reads a window x1, y1, x2, y2 of it, as the pixels stand in the file.

    Opacity is left out unless ``channels`` are asked for. What cannot be read by windows (channels in several pages, a TIFF
    that asks to be turned) is held in memory whole.

    Raises:
        InputError: it cannot be read.
    """
    try:
        opened = open_windows(path)
        alpha = alpha_of(path, opened)
    except InputError:
        pixels = whole_pixels(path, channels)
        return pixels.shape[:2], lambda window: pixels[window[1] : window[3], window[0] : window[2]]
    if not alpha or channels is not None:
        return opened.size, opened.read
    return opened.size, lambda window: opened.read(window)[..., :-alpha]
