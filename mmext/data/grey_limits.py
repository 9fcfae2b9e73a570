"""Grey values of a data set that become 0 and 255, so that its images keep their brightness to each other. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.data.image_scaling import PERCENTILES, check_pixels, choose_channels
from mmext.data.large_image import pieces, pixel_windows
from mmext.errors import InputError

# Images that are read: the limits of 200 scatter far less than the brightness of single images does
_IMAGES = 200
# A larger image is read in so many squares of this side, which is 4096² px of it
_SQUARES, _SIDE = 16, 1024
# All pixels of 16 bits are counted, at most 65,536 values. Other numbers are thinned out to so many, of all images together.
_VALUES = 2**24
_COUNTED = (np.uint16, np.int16)


@dataclass(frozen=True)
class Limits:
    """``pairs``: (low, high) of all channels, or three of red, green and blue; ``images`` that were read, of ``of``;
    ``whole``: whether all of their pixels were."""

    pairs: tuple[tuple[float, float], ...]
    images: int
    of: int
    whole: bool


def limits_of_images(
    files: Sequence[Path],
    channels: Sequence[int] | None,
    apart: bool,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Limits:
    """The 0.1 and 99.9 percentiles of the grey values of images of more than 8 bits, all of them together.

    They are exact for what is read: all pixels of up to 200 images, drawn by ``seed``; of an image above 4096² pixels 16
    squares of 1024, of types other than 16 bits 16 million pixels in all. Where both are the same grey value, as of sparse
    specks on black, the least and the largest value are taken.

    Args:
        files: of images of more than 8 bits.
        channels: that are shown; None where all images have one or three.
        apart: red, green and blue each by itself.
        seed: of the choice of images and squares.
        progress: called with (what, done, all).

    Raises:
        InputError: an image that cannot be read; all pixels have one grey value.
    """
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(files))[:_IMAGES].tolist())
    counts: list[tuple[np.ndarray, np.ndarray]] = []
    whole = True
    for done, place in enumerate(chosen, 1):
        parts, all_seen = _seen(files[place], channels, rng)
        whole = whole and all_seen
        for pixels in parts:
            check_pixels(pixels, str(files[place]))
            pixels = choose_channels(pixels, channels, str(files[place]))
            if pixels.dtype not in _COUNTED:
                step = max(1, round((pixels.shape[0] * pixels.shape[1] * len(parts) * len(chosen) / _VALUES) ** 0.5))
                pixels, whole = pixels[::step, ::step], whole and step == 1
            found = [_count(colour) for colour in pixels.reshape(-1, 3 if apart else 1).T]
            counts = [_added(*pair) for pair in zip(counts, found, strict=True)] if counts else found
        if progress:
            progress('grey values', done, len(chosen))
    pairs = tuple(_pair(values, numbers, files) for values, numbers in counts)
    return Limits(pairs, len(chosen), len(files), whole)


def percentiles_of(values: np.ndarray, numbers: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    """What ``np.percentile`` gives of a list in which each value stands so many times.

    Args:
        values: (K,) each once, in order.
        numbers: (K,) int, at least 1: how often.
    """
    ends = numbers.cumsum()
    place = np.asarray(percentiles) / 100 * (ends[-1] - 1)
    below = np.floor(place)
    low, high = (values[ends.searchsorted(at, 'right')].astype(float) for at in (below, np.ceil(place)))
    return low + (high - low) * (place - below)


def _pair(values: np.ndarray, numbers: np.ndarray, files: Sequence[Path]) -> tuple[float, float]:
    low, high = percentiles_of(values, numbers, PERCENTILES).tolist()
    if low == high:
        low, high = float(values[0]), float(values[-1])
    if low == high:
        raise InputError(
            f'{files[0]}{" and others" if len(files) > 1 else ""}: all pixels that were looked at have the grey value '
            f'{low:g}, so there is nothing to see. Are these the images, and the right --channels?'
        )
    return low, high


def _seen(path: Path, channels: Sequence[int] | None, rng: np.random.Generator) -> tuple[list[np.ndarray], bool]:
    """The pixels of an image, of a very large one some squares that ``rng`` draws; and whether they are all."""
    (height, width), read = pixel_windows(path, channels)
    if height * width <= _SQUARES * _SIDE**2:
        return [read((0, 0, width, height))], True
    windows = list(pieces((height, width), _SIDE))
    chosen = sorted(rng.permutation(len(windows))[:_SQUARES].tolist())
    return [read(windows[place]) for place in chosen], False


def _count(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values of a list in order, and how often each is in it."""
    if colour.dtype == np.uint16:
        numbers = np.bincount(colour, minlength=2**16)
        values = np.flatnonzero(numbers)
        return values, numbers[values]
    return np.unique(colour, return_counts=True)


def _added(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two such counts as one."""
    values, place = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    return values, np.bincount(place, np.concatenate([one[1], other[1]])).astype(np.int64)
