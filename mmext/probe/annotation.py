"""Experiment on the ground truth: would the predicted masks fit it better if they were moved, or grown?"""

import math
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Change:
    """The change of the predictions that wins most on a part: ``kind`` moved or grown, ``place`` in OFFSETS or GROWTHS,
    ``where`` train or val; what it wins ``here``, on that part, and ``there``, on the other one."""

    kind: str
    place: int
    where: str
    here: Gain
    there: Gain

    @property
    def other(self) -> str:
        return 'train' if self.where == 'val' else 'val'

    @property
    def words(self) -> str:
        words = offset_words(OFFSETS[self.place]) if self.kind == 'moved' else _growth(GROWTHS[self.place])
        return f'moved {words}' if words and self.kind == 'moved' else words

    @property
    def evidence(self) -> str:
        also = 'too' if self.there.value > 0 else 'not'
        return (
            f'predictions {self.words} fit the annotations of {self.where} better, mask IoU {self.here.words()}, and those '
            f'of {self.other} {also} ({self.there.value:+.3f})'
        )

    @property
    def apart(self) -> bool:
        """Whether it wins on one part alone."""
        more = Gain(
            self.here.before,
            self.here.before + self.here.value - self.there.value,
            math.hypot(self.here.error, self.there.error),
            self.here.objects,
        )
        # what fits one part better and the other much worse: a little of the first is enough
        sure = self.here.surely(limit('worth')) and more.surely(limit('apart'))
        return sure and self.there.objects >= limit('objects')


def best_change(train: 'Part', val: 'Part') -> Change:
    """Of all moves and growths of the detected masks, the one that wins most mask IoU on train or on val."""
    found = []
    for kind, changes in (('moved', OFFSETS), ('grown', GROWTHS)):
        name = {'moved': 'by_offset', 'grown': 'by_growth'}[kind]
        still = changes.index((0, 0) if kind == 'moved' else 0)
        for part, other in ((train, val), (val, train)):
            place = int(part.column(name).mean(0).argmax())
            gains = [_gain(one, name, place, still) for one in (part, other)]
            found.append(Change(kind, place, part.name, *gains))
    return max(found, key=lambda one: one.here.value)


def judge(train: 'Part', val: 'Part') -> Experiment:
    """Moves and growth of the detected masks that fit the ground truth best, on both samples.

    A network draws masks as it was taught: what fits val better moved or grown, and train not, is annotated differently.
    """
    change = best_change(train, val)
    here, there, where = change.here, change.there, change.where
    text = (
        f'Best on {where}: predictions {change.words or "left as they are"}, {here.words()}; the same on {change.other}: '
        f'{there.value:+.3f}.'
    )
    findings = ()
    if change.apart:
        findings = (
            Cause(
                'annotated-differently',
                'warning',
                f'{change.evidence}.',
                remedy='Look at both: `mmext check CONFIG --show DIR`. Masks of one part are moved, or drawn wider or '
                'narrower; annotate both alike.',
                cause='train and val are annotated differently',
                explains=here.value,
                confidence=0.8,
                source=LIMITS['apart'].source,
            ),
        )
    elif change.kind == 'moved' and here.surely(limit('apart')):
        findings = (
            Cause(
                'masks-moved',
                'warning',
                f'{change.evidence}.',
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


def offset_words(offset: tuple[int, int]) -> str:
    """``3 px left and 1 px down`` for (-3, 1); empty for no offset."""
    across, down = offset
    sides = [f'{abs(across)} px {"right" if across > 0 else "left"}'] if across else []
    sides += [f'{abs(down)} px {"down" if down > 0 else "up"}'] if down else []
    return ' and '.join(sides)


def _growth(pixels: int) -> str:
    return f'{"grown" if pixels > 0 else "shrunk"} by {abs(pixels)} px' if pixels else ''
