"""Images as microscopes write them: 16 bits, grey, several channels."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmext.data.image_scaling import PERCENTILES, as_8_bit_bgr, check_limits, check_percentiles
from mmext.data.image_windows import TIFF
from mmext.errors import InputError
from mmext.registry import TRANSFORMS

_COLOURS = {'color': cv2.IMREAD_COLOR, 'color_ignore_orientation': cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION}
_PNG, _PNG_DEPTH = b'\x89PNG\r\n\x1a\n', 24  # place of the bit depth in a PNG's header
# formats of 8 bits alone: JPEG, BMP, GIF
_EIGHT_BITS = (b'\xff\xd8\xff', b'BM', b'GIF8')
_CHANNEL_AXES, _PLANE_AXES = 'SC', 'YX'
_OPACITY = (1, 2)  # of TIFF's extra samples: premultiplied or not
_PLAIN = ('MINISBLACK', 'RGB')  # kinds of TIFF whose pixels are grey values as they stand


@TRANSFORMS.register_module()
class LoadMicroscopeImage(LoadImageFromFile):
    """In the place of ``LoadImageFromFile``: the same bytes of 8-bit images, and all others spread over 8 bits.

    Stock loading takes the upper 8 of 16 bits, so that a picture of a 12-bit camera arrives as 16 grey values. Here its
    grey values from a low to a high limit become 0 to 255. Images of 8 bits are never scaled.

    - Grey becomes three equal channels; three channels of a TIFF are red, green and blue, whether its pages or its pixels
      hold them; alpha is left out, as by stock; EXIF's turn is obeyed, as by stock.
    - Other numbers of channels need ``channels``. A stack (z, time, pages) is an error, and so are NaN and infinity.
    - An image of one grey value becomes black, unless ``limits`` says how bright that value is.

    Args:
        limits: (low, high) grey values that become 0 and 255, of the whole data set: images then keep their brightness
            relative to each other; or three such pairs, for red, green and blue. By default each image's own percentiles.
        percentiles: those of the image itself, where there are no ``limits``.
        per_channel: percentiles of each channel by itself.
        channels: numbers from 0: one, shown as grey, or three, shown as red, green and blue.
        kwargs: of ``LoadImageFromFile``: ``to_float32``, ``color_type`` ('color' or 'color_ignore_orientation'),
            ``imdecode_backend`` (of 8-bit images), ``ignore_empty``, ``backend_args``.

    Raises:
        InputError: settings that are none of these; an image that cannot be read or shown, with its path and what to do.
    """

    def __init__(
        self,
        limits: Sequence | None = None,
        percentiles: Sequence[float] = PERCENTILES,
        per_channel: bool = False,
        channels: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.color_type not in _COLOURS:
            raise InputError(
                f'LoadMicroscopeImage: color_type={self.color_type!r}; it always gives three channels, so it can be '
                f'{" or ".join(map(repr, _COLOURS))}.'
            )
        if channels is not None:
            channels = (channels,) if isinstance(channels, int) else tuple(channels)
            if len(channels) not in (1, 3) or not all(type(one) is int and one >= 0 for one in channels):
                raise InputError(
                    f'LoadMicroscopeImage: channels={channels}; it must be one number from 0, or three for red, green, blue.'
                )
        self.limits = None if limits is None else check_limits(limits)
        self.percentiles, self.per_channel, self.channels = check_percentiles(percentiles), per_channel, channels

    def transform(self, results: dict) -> dict | None:
        """Read ``img_path``; adds ``img`` (H, W, 3) uint8 BGR, ``img_shape`` and ``ori_shape``."""
        try:
            image = self.read(results['img_path'])
        except Exception:
            if self.ignore_empty:
                return None
            raise
        return {**results, **self.results_of(image)}

    def read(self, path: str) -> np.ndarray:
        """The image of a file, or of an address that ``backend_args`` reaches: (H, W, 3) uint8 BGR.

        Raises:
            InputError: it cannot be read or shown.
        """
        path = str(path)
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError:
            raise InputError(f'{path}: there is no such image.') from None
        except OSError as error:
            raise InputError(f'{path}: cannot be read: {error.strerror or error}.') from None
        return self.decode(content, path)

    def decode(self, content: bytes, name: str) -> np.ndarray:
        """As :meth:`read`, of a file's bytes; ``name`` is for the words."""
        if not content:
            raise InputError(f'{name}: the file is empty.')
        raw = None
        if content.startswith(TIFF):
            raw = _tiff_pixels(content, name, self.channels)
        elif _may_be_deep(content):
            raw = _opencv_pixels(content, _COLOURS[self.color_type] | cv2.IMREAD_ANYDEPTH)
            raw = None if raw is not None and raw.dtype == np.uint8 else raw
        if raw is not None:
            return self.shown(raw, name)
        image = self._stock(content)
        if image is None:
            raise InputError(
                f'{name}: not a whole image that OpenCV can read; it begins with {content[:8]!r}. '
                'Copy it again, or save it as TIFF or PNG.'
            )
        return image if self.channels is None else self.shown(image[..., ::-1], name)

    def shown(self, image: np.ndarray, name: str) -> np.ndarray:
        """Pixels in the order of the file, (H, W) or (H, W, C) red, green, blue, as (H, W, 3) uint8 BGR.

        Raises:
            InputError: see :func:`mmext.data.image_scaling.as_8_bit_bgr`.
        """
        return as_8_bit_bgr(image, name, self.limits, self.percentiles, self.per_channel, self.channels)

    def results_of(self, image: np.ndarray) -> dict:
        """What stock loading adds to the results of an image (H, W, 3)."""
        image = image.astype(np.float32) if self.to_float32 else image
        return {'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}

    def _stock(self, content: bytes) -> np.ndarray | None:
        try:
            return mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except (cv2.error, OSError):  # more pixels than OpenCV takes; what Pillow cannot read
            return None

    def __repr__(self) -> str:
        own = f'limits={self.limits}, percentiles={self.percentiles}, per_channel={self.per_channel}, '
        return super().__repr__().replace('(', f'({own}channels={self.channels}, ', 1)


def _may_be_deep(content: bytes) -> bool:
    """Whether a file that is no TIFF may hold more than 8 bits; reading it twice to see takes as long again."""
    if content.startswith(_PNG):
        return content[_PNG_DEPTH : _PNG_DEPTH + 1] == b'\x10'
    return not content.startswith((*_EIGHT_BITS, *TIFF)) and content[8:12] != b'WEBP'


def _opencv_pixels(content: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV reads, with colours as red, green, blue; None when it cannot."""
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    if image is None or image.ndim == 2:
        return image
    return image[..., :3][..., ::-1]


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


def _tiff_pixels(content: bytes, name: str, channels: Sequence[int] | None) -> np.ndarray | None:
    """Pixels of a TIFF (H, W) or (H, W, C), without alpha; None for an 8-bit one that stock reads as it should."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            layout = layout_of(series, name)
            if (
                series.dtype in (np.uint8, bool)
                and channels is None
                and layout.pages == 1
                and (not layout.plain or layout.channels == 1 or (layout.kind == 'RGB' and layout.channels in (3, 4)))
            ):
                return None
            if not layout.plain:
                raise InputError(
                    f'{name}: {series.dtype} pixels of kind {layout.kind}, which are no grey values. Save it as grey or RGB.'
                )
            image = _read_series(series, content, name)
            orientation = series.keyframe.tags.valueof('Orientation', default=1)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes tifffile raise anything
        raise InputError(f'{name}: not a whole TIFF ({type(error).__name__}: {error}). Copy or export it again.') from None
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
    try:
        image = series.asarray()
    except ValueError as error:
        if 'imagecodecs' not in str(error):
            raise
        # a compression that tifffile alone cannot undo, LZW above all; libtiff in OpenCV can, of up to four channels
        image = _opencv_pixels(content, cv2.IMREAD_UNCHANGED) if len(series.pages) == 1 else None
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
    return (
        f'{name}: a stack of {what} (axes {series.axes}, shape {tuple(series.shape)}), and which picture of it to take is '
        'not said. Save each as an image of its own, or their projection.'
    )
