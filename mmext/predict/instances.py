"""What was found on one image, with masks as RLE: memory follows the objects, not the image. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmext.analysis.mask_window import draw_whole


@dataclass(frozen=True)
class Instances:
    """Objects of one image, best score first.

    Args:
        size: height and width of the original image.
        labels: (N,) int64, from 0, places in ``class_names``.
        scores: (N,) float32.
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the original image.
        rles: N compressed COCO RLEs of ``size``.
        class_names: of all classes.
    """

    size: tuple[int, int]
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    rles: Sequence[Mapping]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def masks(self) -> np.ndarray:
        """(N, H, W) bool, all at full size: N times as many bytes as the image has pixels."""
        return draw_whole(self.rles, self.size).view(bool)

    def chosen(self, keep: np.ndarray) -> 'Instances':
        """Those at the places ``keep``, or where ``keep`` is true."""
        places = np.flatnonzero(keep) if keep.dtype == bool else keep
        return Instances(
            self.size,
            self.labels[places],
            self.scores[places],
            self.boxes[places],
            [self.rles[i] for i in places],
            self.class_names,
        )
