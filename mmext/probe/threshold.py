"""Experiment: other thresholds for the predicted probabilities."""

from mmext.analysis.diagnose import Cause, Experiment
from mmext.analysis.remedies import words
from mmext.probe.objects import THRESHOLDS, Part
from mmext.probe.weigh import LIMITS, limit, paired

_KEY = 'model.test_cfg.rcnn.mask_thr_binary'


def judge(val: Part, threshold: float) -> Experiment:
    """Sweep of ``mask_thr_binary`` on matched objects against the config's."""
    ious = val.column('by_threshold')
    place = int(ious.mean(0).argmax())
    best = THRESHOLDS[place]
    gain = paired(val.column('now'), ious[:, place], val.image_of())
    curve = ', '.join(f'{one:g}: {mean:.3f}' for one, mean in zip(THRESHOLDS, ious.mean(0), strict=True))
    text = f'mask_thr_binary is {threshold:g}, the best is {best:g}. Mask IoU at {curve}.'
    findings = ()
    if gain.surely(limit('worth')):
        much = gain.surely(limit('much'))
        settings = {_KEY: best}
        findings = (
            Cause(
                'mask-threshold',
                'warning' if much else 'information',
                f'mask_thr_binary is {threshold:g}; at {best:g} the mask IoU goes from {gain.words()} on {gain.objects} '
                'matched objects.',
                remedy='\n'.join(['A setting of prediction: nothing has to be trained again.', *words(settings)]),
                cause='the threshold of the masks is not the one at which they fit',
                explains=gain.value,
                confidence=0.9,
                source=LIMITS['much' if much else 'worth'].source,
                settings=settings,
            ),
        )
    return Experiment('threshold', gain.before, gain.after, gain.error, gain.objects, text, findings)
