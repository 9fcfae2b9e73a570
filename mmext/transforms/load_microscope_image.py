"""Images as microscopes write them: 16 bits, grey, several channels."""

from collections.abc import Sequence

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmext.data.image_pixels import deep_pixels
from mmext.data.image_scaling import PERCENTILES, as_8_bit_bgr, check_limits, check_percentiles
from mmext.data.large_image import LargeImage
from mmext.errors import InputError
from mmext.registry import TRANSFORMS

_COLOURS = {'color': cv2.IMREAD_COLOR, 'color_ignore_orientation': cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION}


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
        whole: False leaves the pixels in the file until a crop asks for a window of them: ``img`` is then a
            :class:`mmext.data.large_image.LargeImage`, and the transform that looks at it first must be
            ``mmext.CropAroundInstance`` or ``RandomCrop``. Of a TIFF only what lies under the window is read.
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
        whole: bool = True,
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
        if not whole and (self.color_type != 'color' or self.to_float32 or self.backend_args):
            raise InputError(
                f'LoadMicroscopeImage: whole=False with color_type={self.color_type!r}, to_float32={self.to_float32}, '
                f"backend_args={self.backend_args}; it reads local files in 8 bits and obeys EXIF, so it can have 'color', "
                'False and None only. Leave these out, or leave out whole=False.'
            )
        self.whole = whole

    def transform(self, results: dict) -> dict | None:
        """Read ``img_path``; adds ``img`` (H, W, 3) uint8 BGR, ``img_shape`` and ``ori_shape``."""
        try:
            image = self.read(results['img_path']) if self.whole else LargeImage(results['img_path'], self)
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
        raw = deep_pixels(content, name, _COLOURS[self.color_type], self.channels)
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
        return super().__repr__().replace('(', f'({own}channels={self.channels}, whole={self.whole}, ', 1)
