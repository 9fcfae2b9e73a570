"""Experiment: masks from the objects' own boxes in the place of the detected ones. How much of the error is the boxes'?"""

from mmext.analysis.diagnose import Cause, Experiment
from mmext.probe.objects import Part
from mmext.probe.weigh import LIMITS, limit, paired


def judge(val: Part) -> Experiment:
    """Of matched objects, the mask head on its ground-truth box against the detected one."""
    gain = paired(val.column('now'), val.column('with_truth_box'), val.image_of())
    missing = 1 - gain.before
    share = gain.value / missing if missing else 0
    text = f'Masks from the ground-truth boxes: {gain.words()}, {share:.0%} of what is missing.'
    findings = ()
    if gain.surely(limit('much')):
        findings = (
            Cause(
                'boxes-hold-masks-back',
                'warning',
                f'fed with the ground-truth boxes, the same mask head goes from mask IoU {gain.words()} on '
                f'{gain.objects} matched objects.',
                remedy='Better boxes first: train the box head longer or at a higher rate, and look at the anchors with '
                '`mmext check CONFIG`. A finer mask grid or another mask loss wins little.',
                cause='the boxes are off, and the masks with them',
                explains=gain.value,
                confidence=0.9,
                source=LIMITS['much'].source,
            ),
        )
    return Experiment('boxes', gain.before, gain.after, gain.error, gain.objects, text, findings)
