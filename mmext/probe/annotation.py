"""Experiment on the ground truth: would the predicted masks fit it better if they were moved, or grown?"""

import math
from typing import TYPE_CHECKING

import numpy as np

from mmext.analysis.diagnose import Cause, Experiment
from mmext.analysis.mask_window import draw, window_of
from mmext.probe.weigh import LIMITS, Gain, limit, paired

if TYPE_CHECKING:  # it measures with the functions of this module
    from mmext.probe.objects import Part

REACH = 4  # pixels, each way
OFFSETS = tuple((across, down) for down in range(-REACH, REACH + 1) for across in range(-REACH, REACH + 1))
GROWTHS = (-3, -2, -1, 0, 1, 2, 3)  # pixels; under 0 the prediction shrinks


def _drawn(truth: dict, prediction: dict, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Both masks in one window that leaves a margin around the prediction."""
    window = window_of(truth, prediction)
    return tuple(np.pad(draw(rle, window).astype(bool), margin) for rle in (truth, prediction))


def offsets_ious(truth: dict, prediction: dict) -> np.ndarray:
    """Mask IoU with the prediction moved by each of OFFSETS. What a move takes over the image's border counts.

    Args:
        truth: RLE.
        prediction: RLE of the same image.
    """
    a, b = _drawn(truth, prediction, REACH)
    whole = np.count_nonzero(a) + np.count_nonzero(b)
    if not whole:
        return np.zeros(len(OFFSETS))
    height, width = a.shape
    core = b[REACH : height - REACH, REACH : width - REACH]
    rows, columns = core.shape
    common = [
        np.count_nonzero(core & a[REACH + down : REACH + down + rows, REACH + across : REACH + across + columns])
        for across, down in OFFSETS
    ]
    return np.array(common) / (whole - np.array(common))


def resized_ious(truth: dict, prediction: dict) -> list[float]:
    """Mask IoU with the prediction grown by each of GROWTHS, in pixels all around."""
    from cv2 import MORPH_ELLIPSE, dilate, erode, getStructuringElement

    a, b = _drawn(truth, prediction, max(GROWTHS))
    ious = []
    for pixels in GROWTHS:
        size = 2 * abs(pixels) + 1
        change = dilate if pixels > 0 else erode
        changed = change(b.astype(np.uint8), getStructuringElement(MORPH_ELLIPSE, (size, size))).astype(bool)
        union = np.count_nonzero(a | changed)
        ious.append(np.count_nonzero(a & changed) / union if union else 0.0)
    return ious


def judge(train: 'Part', val: 'Part') -> Experiment:
    """Moves and growth of the detected masks that fit the ground truth best, on both samples.

    A network draws masks as it was taught: what fits val better moved or grown, and train not, is annotated differently.
    """
    names = {'by_offset': [_move(one) for one in OFFSETS], 'by_growth': [_growth(one) for one in GROWTHS]}
    found = []
    for name, changes in names.items():
        still = changes.index('')
        means = {part.name: part.column(name).mean(0) for part in (train, val)}
        for part in (train, val):
            place = int(means[part.name].argmax())
            gains = {one.name: _gain(one, name, place, still) for one in (train, val)}
            found.append((gains[part.name].value, part.name, changes[place] or 'left as they are', gains))
    _, where, change, gains = max(found, key=lambda one: one[0])
    other = 'train' if where == 'val' else 'val'
    here, there = gains[where], gains[other]
    text = f'Best on {where}: predictions {change}, {here.words()}; the same on {other}: {there.value:+.3f}.'
    more = Gain(here.before, here.before + here.value - there.value, math.hypot(here.error, there.error), here.objects)
    findings = ()
    # what fits one part better and the other much worse: a little of the first is enough
    if here.surely(limit('worth')) and more.surely(limit('apart')) and there.objects >= limit('objects'):
        findings = (
            Cause(
                'annotated-differently',
                'warning',
                f'predictions {change} fit the annotations of {where} better, mask IoU {here.words()}, and those of {other} '
                f'not ({there.value:+.3f}).',
                remedy='Look at both: `mmext check CONFIG --show DIR`. Masks of one part are moved, or drawn wider or '
                'narrower; annotate both alike.',
                cause='train and val are annotated differently',
                explains=here.value,
                confidence=0.8,
                source=LIMITS['apart'].source,
            ),
        )
    elif change.startswith('moved') and here.surely(limit('apart')):
        findings = (
            Cause(
                'masks-moved',
                'warning',
                f'predictions {change} fit the annotations of {where} better, mask IoU {here.words()}, and those of {other} '
                f'too ({there.value:+.3f}).',
                remedy='Something moves masks against their boxes, in the files or in a transform of the training: `mmext '
                'check CONFIG --show DIR`.',
                cause='the predicted masks lie beside their objects',
                explains=here.value,
                confidence=0.7,
                source=LIMITS['apart'].source,
            ),
        )
    return Experiment('annotation', here.before, here.after, here.error, here.objects, text, findings)


def _gain(part: 'Part', name: str, place: int, still: int) -> Gain:
    table = part.column(name)
    return paired(table[:, still], table[:, place], part.image_of())


def _move(offset: tuple[int, int]) -> str:
    across, down = offset
    sides = [f'{abs(across)} px {"right" if across > 0 else "left"}'] if across else []
    sides += [f'{abs(down)} px {"down" if down > 0 else "up"}'] if down else []
    return f'moved {" and ".join(sides)}' if sides else ''


def _growth(pixels: int) -> str:
    return f'{"grown" if pixels > 0 else "shrunk"} by {abs(pixels)} px' if pixels else ''
