"""Predicted masks as RLEs, in the place of MMDetection's array of all of them at full size."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks

from mmext.analysis.mask_window import areas, draw_whole
from mmext.errors import InputError


class RLEMasks(BitmapMasks):
    """N masks of one image as compressed RLEs: memory follows the objects, not the image.

    It stands in ``pred_instances.masks`` for MMDetection's tensor (N, H, W), and each reader finds what it asks of one:

    - CocoMetric takes what is no tensor for a list of RLEs: ``masks[3]`` is the RLE of one mask, a dict. With a slice, a
      list, an array or a tensor of places or of bools ``masks[...]`` is RLEMasks;
    - DetLocalVisualizer and transforms find BitmapMasks: ``to_ndarray()``, ``to_tensor(dtype, device)``, ``masks``, uint8,
      made anew at each call. What changes masks (``resize``, ``flip``) gives BitmapMasks;
    - who expects the tensor writes ``masks.cpu()`` or ``masks.detach().cpu().numpy()`` and has it, of bool; so is ``shape``;
    - DetInferencer goes over the masks: each is an array (H, W), and no more than one is there at a time.

    Args:
        rles: N compressed RLEs, all of this size.
        height, width: of the image.

    Raises:
        InputError: an RLE of another size.
    """

    def __init__(self, rles: Sequence[dict], height: int, width: int):
        self.rles, self.height, self.width = list(rles), int(height), int(width)
        wrong = next((rle['size'] for rle in self.rles if tuple(rle['size']) != (self.height, self.width)), None)
        if wrong is not None:
            raise InputError(
                f'RLEMasks: an RLE is of {list(wrong)}, the image of {[self.height, self.width]} (height, width). All must '
                'be of one image.'
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), of the array that they stand for."""
        return len(self), self.height, self.width

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) uint8, 0 or 1, all at full size."""
        return draw_whole(self.rles, self.shape[1:])

    @property
    def areas(self) -> np.ndarray:
        """(N,) pixels of each."""
        return areas(self.rles)

    def numpy(self) -> np.ndarray:
        """(N, H, W) bool, all at full size."""
        return self.masks.view(bool)

    def cpu(self) -> torch.Tensor:
        """(N, H, W) bool, all at full size."""
        return torch.from_numpy(self.numpy())

    def detach(self) -> 'RLEMasks':
        """Itself: there is no gradient."""
        return self

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator[np.ndarray]:
        for place in range(len(self)):
            yield self[place : place + 1].masks[0]

    def __getitem__(self, index: int | slice | Sequence | np.ndarray | torch.Tensor) -> 'dict | RLEMasks':
        if isinstance(index, (int, np.integer)):
            return self.rles[index]
        if isinstance(index, slice):
            return RLEMasks(self.rles[index], self.height, self.width)
        index = index.cpu().numpy() if isinstance(index, torch.Tensor) else np.asarray(index)
        places = np.arange(len(self))[index if index.size else index.astype(int)]
        if not places.ndim:
            return self.rles[places]
        return RLEMasks([self.rles[place] for place in places], self.height, self.width)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    @classmethod
    def cat(cls, masks: Sequence['RLEMasks']) -> 'RLEMasks':
        """The masks of several, of one image.

        Raises:
            InputError: none is given, or they are of images of different size.
        """
        if not masks:
            raise InputError('RLEMasks.cat: no masks are given, so there is no size. Give one or more.')
        return cls([rle for part in masks for rle in part.rles], masks[0].height, masks[0].width)
