"""Overlapping instances in one map of classes. No torch."""

import numpy as np

from mmext.errors import raise_all


def instances_to_label_map(masks: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """One class a pixel: 0 is background, a class is its label + 1. Where instances overlap the higher score wins; of equal
    scores the one that stands first in the list.

    MMDetection's instances are in order of score, so a tie goes to the one that it ranks first.

    Args:
        masks: (N, H, W) bool, after the threshold, at the size of the map.
        labels: (N,) numbers of the classes, from 0.
        scores: (N,).
            All three as arrays; of a prediction on a GPU: ``instances.masks.cpu().numpy()``.

    Returns:
        (H, W) int32.

    Raises:
        InputError: masks that are not bool, arrays that do not fit together, a label that is no class, a score that is no
            number.
    """
    masks, labels, scores = np.asarray(masks), np.asarray(labels), np.asarray(scores)
    _check(masks, labels, scores)
    found = np.zeros(masks.shape[1:], np.int32)
    # stable, then turned round: the last to be painted is the first of those with the highest score
    for i in np.argsort(-scores.astype(float), kind='stable')[::-1]:
        found[masks[i]] = labels[i] + 1
    return found


def _check(masks: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> None:
    mistakes = []
    if masks.ndim != 3 or masks.dtype != bool:
        mistakes.append(
            f'label map: masks are {masks.dtype} {masks.shape}; they must be bool (N, H, W). '
            'Probabilities need their threshold first: masks >= 0.5.'
        )
    for name, values in (('labels', labels), ('scores', scores)):
        if values.shape != masks.shape[:1]:
            needed = masks.shape[:1]
            mistakes.append(f'label map: {name} have shape {values.shape}; for masks {masks.shape} it must be {needed}.')
    # an empty list has no type of its own
    if labels.size and (not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0):
        mistakes.append(f'label map: labels are {labels.dtype} from {labels.min()}; they must be whole numbers from 0.')
    if scores.size and np.isnan(scores.astype(float)).any():
        mistakes.append(f'label map: {int(np.isnan(scores.astype(float)).sum())} of {len(scores)} scores are NaN.')
    raise_all(mistakes)
