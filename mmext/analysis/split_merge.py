"""Which true objects were predicted in several pieces, and which were predicted as one: split and merge errors. No torch.

The rule is Hoover's (Hoover et al. 1996, doi:10.1109/34.506791: over-segmentation and under-segmentation), with the limit of
one half that Matula et al. 2015 (doi:10.1371/journal.pone.0144959) have for cells: a region is inside another one when more
than half of its pixels are. Both are for regions that do not overlap. Instances do: so, of the pieces of an object or the
objects in a prediction, only those pixels count that the others do not have, and what has a pair is in no other's group.

Shapes: G true objects, P predictions of one class in one image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

# least mask IoU of a pair, COCO's
PAIR_IOU = 0.5


@dataclass(frozen=True)
class Assigned:
    """What became of the objects of one class in one image, by their places.

    ``pairs``: object to prediction, one to one, at an IoU of at least 0.5; ``splits``: object to its pieces, two or more;
    ``merges``: prediction to the objects in it, two or more. ``missed``: objects in none of them; ``false``: predictions in
    none of them, such as those that lie elsewhere or repeat another one. The largest piece of a split may be its object's
    pair too.
    """

    objects: int
    predictions: int
    pairs: Mapping[int, int]
    splits: Mapping[int, tuple[int, ...]]
    merges: Mapping[int, tuple[int, ...]]
    missed: tuple[int, ...]
    false: tuple[int, ...]

    @property
    def alone(self) -> tuple[int, ...]:
        """Objects that were found as one prediction which holds no other object."""
        merged = {one for objects in self.merges.values() for one in objects}
        return tuple(one for one in self.pairs if one not in self.splits and one not in merged)


def assign(truth: Sequence[dict], found: Sequence[dict]) -> Assigned:
    """Pairs, splits, merges, missed objects and false predictions of one class in one image.

    1. *Pairs*: by descending mask IoU, 0.5 or more, each object and each prediction once.
    2. A prediction belongs to its pair's object; without a pair, to the object that has most of its pixels, if these are
       more than half of them.
    3. An object is *split* when two or more predictions belong to it, each with more than half of its pixels inside the
       object and outside the pieces before it (its pair first, then the largest), which together cover more than half of it.
    4. A prediction is a *merge* when two or more objects belong to it, by 2 and 3 with the roles exchanged.

    So the other arm of a crossing, an object on top of a larger one and a second detection of one object make no split and
    no merge. An object of which less than half is clear of the others cannot be told to be merged: it is missed.

    Args:
        truth: G compressed RLEs, without crowd regions; ``found``: P of the same image.
    """
    areas, sizes = (_areas(rles) for rles in (truth, found))
    common = _common(truth, found, sizes)
    union = areas[:, None] + sizes - common
    pairs = _pairs(np.divide(common, union, out=np.zeros(common.shape), where=union > 0))
    splits = _groups(common, sizes, pairs, truth, found)
    merges = _groups(common.T, areas, {prediction: one for one, prediction in pairs.items()}, found, truth)
    reached = {*pairs, *splits, *(one for objects in merges.values() for one in objects)}
    used = {*pairs.values(), *merges, *(piece for pieces in splits.values() for piece in pieces)}
    missed, false = _without(len(truth), reached), _without(len(found), used)
    return Assigned(len(truth), len(found), pairs, splits, merges, missed, false)


def _areas(rles: Sequence[dict]) -> np.ndarray:
    # one at a time: pycocotools 2.0.11 fails on more than 255
    return np.array([int(coco_mask.area(rle)) for rle in rles], np.int64)


def _common(truth: Sequence[dict], found: Sequence[dict], sizes: np.ndarray) -> np.ndarray:
    """Pixels that each object (G) and each prediction (P) have in common."""
    if not len(truth) or not len(found):
        return np.zeros((len(truth), len(found)), np.int64)
    # against a crowd region pycocotools divides by the prediction's area
    shares = coco_mask.iou(list(found), list(truth), [1] * len(truth))
    return np.rint(np.nan_to_num(shares) * sizes[:, None]).astype(np.int64).T


def _pairs(ious: np.ndarray) -> dict[int, int]:
    rows, columns = np.nonzero(ious >= PAIR_IOU)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for i in np.argsort(-ious[rows, columns], kind='stable'):
        row, column = int(rows[i]), int(columns[i])
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return pairs


def _groups(
    common: np.ndarray, areas: np.ndarray, own: Mapping[int, int], wholes: Sequence[dict], parts: Sequence[dict]
) -> dict[int, tuple[int, ...]]:
    """Wholes with two or more parts.

    Args:
        common: (W, Q) pixels that whole and part have in common; ``areas`` (Q,) of the parts.
        own: pairs, whole to part.
    """
    if not common.size:
        return {}
    home = np.where(2 * common.max(0) > areas, common.argmax(0), -1)
    for whole, part in own.items():
        home[part] = whole
    groups = {}
    for whole in np.flatnonzero(np.bincount(home[home >= 0], minlength=len(common)) > 1).tolist():
        members = np.flatnonzero(home == whole)
        first = members != own.get(whole, -1)
        order = members[np.lexsort((-common[whole, members], first))].tolist()
        taken, covered = order[:1], parts[order[0]]
        for part in order[1:]:
            hidden = coco_mask.area(coco_mask.merge([wholes[whole], parts[part], covered], intersect=True))
            if 2 * (common[whole, part] - int(hidden)) > areas[part]:
                taken.append(part)
                covered = coco_mask.merge([covered, parts[part]])
        inside = int(coco_mask.area(coco_mask.merge([covered, wholes[whole]], intersect=True)))
        if len(taken) > 1 and 2 * inside > int(coco_mask.area(wholes[whole])):
            groups[whole] = tuple(sorted(taken))
    return groups


def _without(number: int, taken: set[int]) -> tuple[int, ...]:
    return tuple(one for one in range(number) if one not in taken)
