"""Experiment: are training images segmented better than those of validation, from the objects' own boxes?"""

import math

import numpy as np

from mmext.analysis.diagnose import Cause, Experiment
from mmext.probe.objects import Part
from mmext.probe.weigh import LIMITS, Gain, limit, standard_error


def judge(train: Part, val: Part, fall: float | None) -> Experiment:
    """All objects of both samples, from ground-truth boxes and classes.

    Args:
        train: sample.
        val: sample.
        fall: of the mask loss over the last third of the log, 0.1 for 10 %; None when it cannot be told.
    """
    there, here = (part.column('with_truth_box', matched=False) for part in (train, val))
    errors = [standard_error(values, part.image_of(matched=False)) for values, part in ((there, train), (here, val))]
    gap = Gain(float(here.mean()), float(there.mean()), math.hypot(*errors), min(len(there), len(here)))
    ceilings = [one.ceilings[0] for one in train.objects if len(one.ceilings)]
    best = float(np.mean(ceilings)) if ceilings else 1.0
    falling = '' if fall is None else f' The mask loss fell by {fall:.0%} over the last third of the run.'
    text = (
        f'From ground-truth boxes: {gap.after:.3f} on {len(there)} objects of train, {gap.before:.3f} on {len(here)} of '
        f'val; the grid allows {best:.3f}.{falling}'
    )
    findings = []
    if gap.surely(limit('apart')):
        findings.append(
            Cause(
                'masks-learnt-by-heart',
                'warning',
                f'from ground-truth boxes the mask IoU is {gap.after:.3f} on training images and {gap.before:.3f} on '
                f'validation images (difference {gap.value:.3f}, standard error {gap.error:.3f}).',
                remedy='More images or more augmentation, or an earlier checkpoint; longer training widens the gap.',
                cause='the masks of the training images are learnt by heart',
                explains=gap.value,
                confidence=0.7,
                source=LIMITS['apart'].source,
            )
        )
    worse = Gain(gap.after, gap.before, gap.error, gap.objects)
    if worse.surely(limit('apart')):
        findings.append(
            Cause(
                'training-masks-worse',
                'warning',
                f'from ground-truth boxes the mask IoU is {gap.after:.3f} on training images and {gap.before:.3f} on '
                f'validation images (difference {worse.value:.3f}, standard error {gap.error:.3f}): what was learnt fits '
                'what was taught worse than what was not.',
                remedy='Wrong or careless masks in the training file, or images of another kind there: `mmext check CONFIG '
                '--show DIR`.',
                cause='the masks of the training file are wrong, or drawn less well than those of validation',
                confidence=0.8,
                source=LIMITS['apart'].source,
            )
        )
    if len(there) >= limit('objects') and gap.after < limit('learnt') * best:
        findings.append(
            Cause(
                'training-masks-not-learnt',
                'warning',
                f'from ground-truth boxes the mask IoU on training images is {gap.after:.3f}, and the grid allows '
                f'{best:.3f}.{falling}',
                remedy='Not a lack of images: the rate of the mask head, the length of the run, or training masks that are '
                'wrong (`mmext check CONFIG --show DIR`).',
                cause='the mask head has not even learnt its training images',
                confidence=0.7,
                source=LIMITS['learnt'].source,
            )
        )
    return Experiment('train against val', gap.before, gap.after, gap.error, gap.objects, text, tuple(findings))
