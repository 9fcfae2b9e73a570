"""Experiment: the mask channel of the object's own class in the place of the predicted one's."""

import numpy as np

from mmext.analysis.diagnose import Cause, Experiment
from mmext.probe.objects import Part
from mmext.probe.weigh import LIMITS, limit, paired


def judge(val: Part) -> Experiment | None:
    """Objects matched by their box alone; None where one channel serves all classes, or nothing was found."""
    if not val.located:
        return None
    columns = [np.array([getattr(one, name) for one in val.located], float) for name in ('predicted', 'right', 'image')]
    gain = paired(*columns)
    confused = sum(one.confused for one in val.located)
    share = confused / gain.objects
    text = f'{confused} of {gain.objects} objects, matched by box alone, are predicted as another class.'
    findings = []
    if gain.objects >= limit('objects') and share >= limit('confused'):
        findings.append(
            Cause(
                'classes-mixed-up',
                'severe',
                f'{confused} of {gain.objects} objects whose box was found are predicted as another class; the mask IoU '
                f'from the predicted class is {gain.before:.3f}, from the class of the annotation {gain.after:.3f}.',
                remedy='Classes in another order in one of the files, or in metainfo.classes: `mmext check CONFIG`.',
                cause='objects are found, with the classes mixed up',
                confidence=0.8,
                source=LIMITS['confused'].source,
            )
        )
    elif gain.surely(limit('much')):
        findings.append(
            Cause(
                'mask-channel',
                'warning',
                f'from the channel of the right class the mask IoU goes from {gain.words()}.',
                remedy='Similar classes share what a mask is: one channel for all, to be trained anew.\n'
                'model.roi_head.mask_head.class_agnostic=True',
                cause="masks are read from another class's channel",
                explains=gain.value,
                confidence=0.7,
                source=LIMITS['much'].source,
                settings={'model.roi_head.mask_head.class_agnostic': True},
            )
        )
    return Experiment('class channel', gain.before, gain.after, gain.error, gain.objects, text, tuple(findings))
