"""Pictures of any depth and number of channels as the 8-bit BGR that networks are trained on. No torch.

Shapes: (H, W) or (H, W, C), C channels in the order of the file: red, green, blue where it has colours.
"""

import numbers
from collections.abc import Sequence

import numpy as np

from mmext.errors import InputError

# Of an image's grey values so many percent are darker than what becomes 0, and brighter than what becomes 255: a hot pixel,
# or dust in the light, does not set the scale. The same as on the sheets of `mmext check --show`.
PERCENTILES = (0.1, 99.9)
# more pixels than these are thinned out for the percentiles: their standard error is then far below a grey value
_SAMPLED = 2**22
_ROWS_AT_ONCE = 512

Limits = Sequence[float] | Sequence[Sequence[float]]


def check_percentiles(percentiles: Sequence[float]) -> tuple[float, float]:
    """Two numbers from 0 to 100, the first below the second.

    Raises:
        InputError: they are not.
    """
    if not _is_pair(percentiles) or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise InputError(
            f'percentiles: {percentiles!r} are not two numbers from 0 to 100, the lower first, such as {PERCENTILES}.'
        )
    return float(percentiles[0]), float(percentiles[1])


def check_limits(limits: Limits) -> np.ndarray:
    """Grey values that become 0 and 255, as (1, 2) for all channels or (3, 2) for red, green and blue.

    Raises:
        InputError: other than (low, high) or three such pairs; a low that is not below its high.
    """
    pairs = [limits] if _is_pair(limits) else list(limits) if isinstance(limits, (list, tuple, np.ndarray)) else []
    if len(pairs) not in (1, 3) or not all(_is_pair(pair) and pair[0] < pair[1] for pair in pairs):
        raise InputError(
            f'limits: {limits!r} are not (low, high), grey values of which the first is below the second, such as (0, 4095) '
            'for a camera of 12 bits; or three such pairs, for red, green and blue.'
        )
    return np.array([[float(low), float(high)] for low, high in pairs])


def _is_pair(values: object) -> bool:
    if not isinstance(values, (list, tuple, np.ndarray)) or len(values) != 2:
        return False
    return all(isinstance(one, numbers.Real) and not isinstance(one, bool) and np.isfinite(one) for one in values)


def limits_of(image: np.ndarray, percentiles: Sequence[float] = PERCENTILES, per_channel: bool = False) -> np.ndarray:
    """Grey values that become 0 and 255, from the image itself.

    Args:
        image: (H, W) or (H, W, C), numbers without NaN; of more than four million pixels some rows and columns stand for
            all.
        percentiles: of its grey values.
        per_channel: each channel by itself, which brings out a faint stain and changes colours; otherwise all together.

    Returns:
        (1, 2), or (C, 2) ``per_channel``.
    """
    step = max(1, int(np.ceil((image.shape[0] * image.shape[1] / _SAMPLED) ** 0.5)))
    seen = image[::step, ::step]
    seen = seen.reshape(-1, seen.shape[2] if per_channel and seen.ndim == 3 else 1)
    if seen.dtype.kind == 'f':
        seen = seen.astype(np.float64)
    return np.percentile(seen, percentiles, axis=0).T


def to_8_bit(image: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Grey values from the low to the high limit spread over 0 to 255; what is beyond becomes 0 or 255.

    Args:
        image: (H, W) or (H, W, C), numbers without NaN.
        limits: (1, 2) for all channels or (C, 2). Where low equals high, as in an image of one grey value, all up to it
            becomes 0 and all above it 255.

    Returns:
        uint8 of the image's shape.
    """
    if image.dtype == np.uint16 and len(limits) == 1:
        return _spread(np.arange(2**16, dtype=np.float64), *limits[0])[image]
    found = np.empty(image.shape, np.uint8)
    low, high = limits[0] if image.ndim == 2 or len(limits) == 1 else limits.T
    for top in range(0, len(image), _ROWS_AT_ONCE):  # in double precision a large image would take eight times its bytes
        rows = slice(top, top + _ROWS_AT_ONCE)
        found[rows] = _spread(image[rows].astype(np.float64), low, high)
    return found


def _spread(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    low, high = np.asarray(low, float), np.asarray(high, float)
    # of a constant image there is no range: a step right above the limit
    range_ = np.maximum(high - low, np.finfo(float).tiny)
    with np.errstate(over='ignore'):
        scaled = (np.clip(values, low, np.maximum(high, low)) - low) / range_
    scaled = np.where((high <= low) & (values > low), 1.0, scaled)
    return (scaled * 255 + 0.5).astype(np.uint8)


def choose_channels(image: np.ndarray, channels: Sequence[int] | None, name: str) -> np.ndarray:
    """One channel, or three that are shown as red, green and blue.

    Args:
        image: (H, W) or (H, W, C).
        channels: numbers from 0: one, or those for red, green and blue; None where the image tells: one or three channels.
        name: of the image, for the words.

    Returns:
        (H, W) or (H, W, 3).

    Raises:
        InputError: a channel that the image does not have; two channels, or more than three, of which none are chosen.
    """
    count = 1 if image.ndim == 2 else image.shape[2]
    if channels is None:
        if count not in (1, 3):
            example = (2, 1, 0) if count > 2 else (0, 1, 1)
            raise InputError(
                f'{name}: {count} channels, and which of them to show is not said. Give channels=(0,) for one as grey, or '
                f'three of 0 to {count - 1} for red, green and blue, such as channels={example}, to '
                'the transform mmext.LoadMicroscopeImage of the config.'
            )
        return image[..., 0] if image.ndim == 3 and count == 1 else image
    lost = [one for one in channels if one >= count]
    if lost:
        raise InputError(
            f'{name}: channels={tuple(channels)} asks for channel {lost[0]}; the image has {count}, from 0 to {count - 1}.'
        )
    image = image if image.ndim == 3 else image[..., None]
    return image[..., channels[0]] if len(channels) == 1 else image[..., list(channels)]


def to_bgr(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in the order blue, green, red, of (H, W) or (H, W, 3) red, green, blue."""
    return np.ascontiguousarray(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., ::-1])


def check_pixels(image: np.ndarray, name: str) -> None:
    """Refuse what is no picture.

    Args:
        image: as it was read.
        name: of the image, for the words.

    Raises:
        InputError: another shape than (H, W) or (H, W, C), no pixel, pixels that are no real numbers, NaN or infinity.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise InputError(f'{name}: an array of shape {image.shape}; it must be (height, width), or with channels as third.')
    if image.dtype.kind not in 'buif':
        raise InputError(f'{name}: pixels of type {image.dtype}; they must be real numbers, such as uint8, uint16, float32.')
    if image.dtype.kind == 'f':
        bad = image.size - int(np.count_nonzero(np.isfinite(image)))
        if bad:
            raise InputError(
                f'{name}: {bad} of {image.size} grey values are NaN or infinite, so nothing says how dark they are. '
                'Replace them by numbers (numpy.nan_to_num) and save the image again.'
            )


def as_8_bit_bgr(
    image: np.ndarray,
    name: str,
    limits: np.ndarray | None = None,
    percentiles: Sequence[float] = PERCENTILES,
    per_channel: bool = False,
    channels: Sequence[int] | None = None,
) -> np.ndarray:
    """All of it: channels chosen, scaled where the image is not of 8 bits, in the order of MMDetection.

    Args:
        image: (H, W) or (H, W, C). uint8 stays as it is; bool becomes 0 and 255; of others the limits become 0 and 255.
        name: of the image, for the words.
        limits: from :func:`check_limits`; None takes the percentiles of this image.
        percentiles, per_channel: see :func:`limits_of`.
        channels: see :func:`choose_channels`.

    Returns:
        (H, W, 3) uint8, blue, green, red.

    Raises:
        InputError: see :func:`check_pixels` and :func:`choose_channels`.
    """
    check_pixels(image, name)
    image = choose_channels(image, channels, name)
    if image.dtype == bool:
        image = image.astype(np.uint8) * np.uint8(255)
    elif image.dtype != np.uint8:
        if limits is not None and image.ndim == 2 and len(limits) == 3:
            raise InputError(f'{name}: limits has three pairs, for red, green and blue; the image is grey. Give one pair.')
        image = to_8_bit(image, limits_of(image, percentiles, per_channel) if limits is None else limits)
    return to_bgr(image)
