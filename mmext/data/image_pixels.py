"""Pixels of image files as microscopes write them, in the depth and the channels of the file. No torch."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.data.image_windows import TIFF
from mmext.errors import InputError

# a PNG's first bytes, and the places of bit depth and kind of colour in its header
_PNG, _PNG_DEPTH, _PNG_COLOUR = b'\x89PNG\r\n\x1a\n', 24, 25
_PNG_GREY = (0, 4)  # without and with opacity
# formats of 8 bits alone: JPEG, BMP, GIF
_EIGHT_BITS = (b'\xff\xd8\xff', b'BM', b'GIF8')
_HEAD = 32  # bytes that tell a format
_CHANNEL_AXES, _PLANE_AXES = 'SC', 'YX'
_OPACITY = (1, 2)  # of TIFF's extra samples: premultiplied or not
_PLAIN = ('MINISBLACK', 'RGB')  # kinds of TIFF whose pixels are grey values as they stand


@dataclass(frozen=True)
class PixelKind:
    """What the pixels of a file are: their type; ``channels``, opacity left out, and ``stored``, of which ``--channels`` may
    choose; ``by_stock``: whether LoadImageFromFile reads them as they should be, in 8 bits."""

    dtype: np.dtype
    channels: int
    stored: int
    by_stock: bool

    @property
    def deep(self) -> bool:
        """Whether grey values have to be scaled to become 8 bits."""
        return self.dtype not in (np.uint8, bool)


@dataclass(frozen=True)
class TiffLayout:
    """What a TIFF's first picture is: number of ``channels``, the last ``alpha`` of them opacity; ``kind`` of its pixels, of
    which MINISBLACK and RGB are grey values as they stand; in how many ``pages`` it lies."""

    channels: int
    alpha: int
    kind: str
    pages: int

    @property
    def plain(self) -> bool:
        return self.kind in _PLAIN


def pixel_kind(path: Path) -> PixelKind:
    """What the pixels of an image are, by the file's header where that tells; of a file that is no image, 8 bits by stock.

    Raises:
        InputError: it cannot be read; a TIFF that is damaged, a stack, or has deep pixels that are no grey values.
    """
    try:
        with path.open('rb') as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or error}.') from None
    if head.startswith(TIFF):
        return _tiff_kind(path)
    if head.startswith(_PNG) and len(head) == _HEAD:
        deep, channels = head[_PNG_DEPTH] == 16, 1 if head[_PNG_COLOUR] in _PNG_GREY else 3
        return PixelKind(np.dtype(np.uint16 if deep else np.uint8), channels, channels, not deep)
    if may_be_deep(head):
        import cv2

        image = opencv_pixels(path.read_bytes(), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
        if image is not None:
            channels = 1 if image.ndim == 2 else 3
            return PixelKind(image.dtype, channels, channels, image.dtype == np.uint8)
    return PixelKind(np.dtype(np.uint8), 3, 3, True)


def _tiff_kind(path: Path) -> PixelKind:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            layout, dtype = layout_of(series, str(path)), np.dtype(series.dtype)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes tifffile raise anything
        raise _damaged(str(path), error) from None
    by_stock = _by_stock(layout, dtype)
    if not by_stock:
        _check_plain(layout, dtype, str(path))
    if not layout.plain:
        return PixelKind(dtype, 3, 3, by_stock)
    return PixelKind(dtype, layout.channels - layout.alpha, layout.channels, by_stock)


def deep_pixels(content: bytes, name: str, flags: int, channels: Sequence[int] | None = None) -> np.ndarray | None:
    """Pixels (H, W) or (H, W, C), red first and without opacity; None of an 8-bit image that stock reads as it should.

    Args:
        content: of the file.
        name: of the file, for the words.
        flags: of ``cv2.imdecode``, by which 8-bit images would be read.
        channels: those that are asked for: of a TIFF all are then given, opacity among them.

    Raises:
        InputError: a TIFF that is damaged or a stack, or whose pixels are no grey values.
    """
    if content.startswith(TIFF):
        return _tiff_pixels(content, name, channels)
    if not may_be_deep(content):
        return None
    import cv2

    image = opencv_pixels(content, flags | cv2.IMREAD_ANYDEPTH)
    return None if image is None or image.dtype == np.uint8 else image


def whole_pixels(path: Path, channels: Sequence[int] | None = None) -> np.ndarray:
    """Pixels of an image in its depth, (H, W) or (H, W, C), red first and turned as the file says.

    Opacity is left out, but of a TIFF of which ``channels`` are asked for.

    Raises:
        InputError: it cannot be read.
    """
    import cv2

    content = path.read_bytes()
    pixels = deep_pixels(content, str(path), cv2.IMREAD_COLOR, channels)
    pixels = opencv_pixels(content, cv2.IMREAD_COLOR) if pixels is None else pixels
    if pixels is None:
        raise InputError(
            f'{path}: not a whole image that OpenCV can read; it begins with {content[:8]!r}. Copy it again, or save it as '
            'TIFF or PNG.'
        )
    return pixels


def may_be_deep(content: bytes) -> bool:
    """Whether a file that is no TIFF may hold more than 8 bits, by its first bytes; reading it to see takes long."""
    if content.startswith(_PNG):
        return content[_PNG_DEPTH : _PNG_DEPTH + 1] == b'\x10'
    return not content.startswith((*_EIGHT_BITS, *TIFF)) and content[8:12] != b'WEBP'


def opencv_pixels(content: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV reads, with colours as red, green, blue; None when it cannot."""
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    if image is None or image.ndim == 2:
        return image
    return image[..., :3][..., ::-1]


def layout_of(series, name: str) -> TiffLayout:
    """The layout of a series of tifffile.

    Args:
        name: of the file, for the words.

    Raises:
        InputError: a stack.
    """
    axes = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if length > 1]
    channels = [(axis, length) for axis, length in axes if axis in _CHANNEL_AXES]
    stacked = [(axis, length) for axis, length in axes if axis not in _CHANNEL_AXES + _PLANE_AXES]
    if stacked or len(channels) > 1:
        raise InputError(_about_stack(name, series, stacked or channels))
    page = series.keyframe
    kind, extra = page.photometric.name, [int(one) for one in page.extrasamples]
    alpha = len(extra) if kind == 'RGB' or all(one in _OPACITY for one in extra) else 0
    return TiffLayout(channels[0][1] if channels else 1, alpha, kind, len(series.pages))


def _by_stock(layout: TiffLayout, dtype: np.dtype) -> bool:
    """Whether stock reads a TIFF as it should."""
    shown = not layout.plain or layout.channels == 1 or (layout.kind == 'RGB' and layout.channels in (3, 4))
    return dtype in (np.uint8, bool) and layout.pages == 1 and shown


def _check_plain(layout: TiffLayout, dtype: np.dtype, name: str) -> None:
    if not layout.plain:
        raise InputError(f'{name}: {dtype} pixels of kind {layout.kind}, which are no grey values. Save it as grey or RGB.')


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f'{name}: not a whole TIFF ({type(error).__name__}: {error}). Copy or export it again.')


def _tiff_pixels(content: bytes, name: str, channels: Sequence[int] | None) -> np.ndarray | None:
    """Pixels of a TIFF (H, W) or (H, W, C), without alpha; None for an 8-bit one that stock reads as it should."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            layout = layout_of(series, name)
            if channels is None and _by_stock(layout, series.dtype):
                return None
            _check_plain(layout, series.dtype, name)
            image = _read_series(series, content, name)
            orientation = series.keyframe.tags.valueof('Orientation', default=1)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes tifffile raise anything
        raise _damaged(name, error) from None
    if image.ndim == 3 and layout.alpha and channels is None:
        image = image[..., : -layout.alpha]
    # OpenCV turns a TIFF even where it is asked not to
    return _turned(image, int(orientation))


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image as the orientation of its TIFF or EXIF tag, 1 to 8, says."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image


def _read_series(series, content: bytes, name: str) -> np.ndarray:
    """Pixels of a TIFF's first series, channels last."""
    import cv2

    try:
        image = series.asarray()
    except ValueError as error:
        if 'imagecodecs' not in str(error):
            raise
        # a compression that tifffile alone cannot undo, LZW above all; libtiff in OpenCV can, of up to four channels
        image = opencv_pixels(content, cv2.IMREAD_UNCHANGED) if len(series.pages) == 1 else None
        if image is None or image.dtype != series.dtype:
            raise InputError(f'{name}: {error}. pip install imagecodecs, or save it without compression.') from None
        return image
    axes = series.axes
    image = image.reshape([length for axis, length in zip(axes, image.shape, strict=True) if length > 1 or axis in 'YX'])
    axes = [axis for axis, length in zip(axes, series.shape, strict=True) if length > 1 or axis in 'YX']
    place = next((i for i, axis in enumerate(axes) if axis in _CHANNEL_AXES), None)
    return image if place is None else np.moveaxis(image, place, -1)


def _about_stack(name: str, series, axes: Sequence[tuple[str, int]]) -> str:
    kinds: Mapping[str, str] = {'Z': 'slices', 'T': 'points in time', 'Q': 'pages', 'I': 'pages', 'C': 'channels'}
    what = ' and '.join(f'{length} {kinds.get(axis, f"along {axis}")}' for axis, length in axes)
    channels = ' If these are channels, save them as such: axes CYX or YXC.' if series.axes[:1] in ('Q', 'I') else ''
    return (
        f'{name}: a stack of {what} (axes {series.axes}, shape {tuple(series.shape)}), and which picture of it to take is '
        f'not said. Save each as an image of its own, or their projection.{channels}'
    )
