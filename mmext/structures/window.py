"""The part of an image's mask that has pixels, and what moves it. No torch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """``pixels`` (h, w) uint8 of a mask whose first is at x1, y1 of the image; all others are 0.

    The pixels may be a view, of any strides, and are never written to.
    """

    pixels: np.ndarray
    x1: int
    y1: int

    def place(self) -> tuple[slice, slice]:
        """Rows and columns that it takes in the image."""
        height, width = self.pixels.shape
        return slice(self.y1, self.y1 + height), slice(self.x1, self.x1 + width)


def cut(mask: np.ndarray) -> Window:
    """The smallest window that holds all pixels of a mask (H, W) that are not 0."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Window(np.zeros((0, 0), np.uint8), 0, 0)
    x1, y1 = int(columns[0]), int(rows[0])
    return Window(mask[y1 : rows[-1] + 1, x1 : columns[-1] + 1].astype(np.uint8), x1, y1)


def crop(window: Window, x1: int, y1: int, x2: int, y2: int) -> Window:
    """What is inside x1, y1, x2, y2, as a window of the image that is cut out there."""
    (height, width), x, y = window.pixels.shape, window.x1 - x1, window.y1 - y1
    left, right = (min(max(edge, 0), x2 - x1) for edge in (x, x + width))
    top, bottom = (min(max(edge, 0), y2 - y1) for edge in (y, y + height))
    return Window(window.pixels[top - y : bottom - y, left - x : right - x], left, top)


def flip(window: Window, height: int, width: int, direction: str) -> Window:
    """Mirrored in an image of height and width: ``horizontal``, ``vertical`` or, for both, ``diagonal``."""
    (rows, columns), pixels, x1, y1 = window.pixels.shape, window.pixels, window.x1, window.y1
    if direction != 'vertical':
        pixels, x1 = pixels[:, ::-1], width - x1 - columns
    if direction != 'horizontal':
        pixels, y1 = pixels[::-1], height - y1 - rows
    return Window(pixels, x1, y1)
