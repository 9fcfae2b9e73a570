"""What a run's records are held against: each rule with its limits and where they come from, its words and its remedy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmext.analysis import causes, symptoms
from mmext.analysis.facts import Facts, Hit, NotJudged
from mmext.analysis.findings import SEVERITIES


@dataclass(frozen=True)
class Limit:
    """A threshold and its source or reason."""

    value: float
    source: str


@dataclass(frozen=True)
class Rule:
    """One thing that may be wrong with a run.

    ``cause`` is the sentence of the verdict, ``text`` the evidence with its numbers, ``advice`` what to do beside the
    settings that the rule finds. ``confidence``: 1 is a fact of the records, 0.5 a single indication. The first limit is
    the one whose source the answer names. ``explained_by``: codes of causes that bring this about; where one of them is
    found too, this finding is named as its consequence.
    """

    code: str
    severity: str
    find: Callable[[Facts, Mapping[str, float]], Hit | NotJudged | None]
    cause: str
    text: str
    advice: str
    confidence: float
    limits: Mapping[str, Limit] = field(default_factory=dict)
    explained_by: tuple[str, ...] = ()

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(f'{self.code}: severity is {self.severity!r}; allowed: {", ".join(SEVERITIES)}.')

    @property
    def source(self) -> str:
        return next(iter(self.limits.values())).source


_OURS = 'our choice'
_S4 = 'source document on loss breakdown (S4)'
_S0 = 'source document on small masks (S0)'
# what keeps a training from working at all, and so explains most of what else is seen
BROKEN = (
    'loss-exploding',
    'rate-too-high',
    'part-not-training',
    'no-positive-rois',
    'mask-rate-low',
    'warm-up-unfinished',
    'mask-loss-weight',
    'few-iterations',
)
_FALL = Limit(0.15, f'{_S4}, problem 1: 0.400 to 0.370 in twenty epochs is 7.5 %; its healthy runs fall by 62 and 75 %')
_MOST = Limit(0.25, f'{_OURS}: the upper end of the interval, so that a noisy log does not hide a flat one')
_NOT_LEARNT = (*BROKEN, 'mask-ln2', 'losses-not-falling', 'mask-loss-not-falling')
_LENGTH = ('loss-exploding', 'part-not-training', 'mask-rate-low', 'warm-up-unfinished', 'few-iterations')
_RISE = Limit(0.02, f'{_OURS}: two seeds of one recipe differ by as much on 20 images of made data')
_TRAINED = Limit(0.20, f"{_S4}: a trained head's mask loss is 0.08 to 0.20")
_TRAINED_COARSE = Limit(0.30, f'{_OURS}: half as much again as what S4 holds for trained')
_BOX_AP = Limit(0.30, f'{_OURS}: below it boxes are not good either')
_GAP = Limit(
    0.5,
    "S4's two logs with the same losses: 0.2134 / 0.6543 is a gap, 0.2345 / 0.4567 none; COCO's reference models have 0.89 "
    "to 0.91 (MMDetection's metafiles)",
)

RULES = (
    Rule(
        'loss-exploding',
        'severe',
        symptoms.loss_exploding,
        cause='the training became unstable',
        text='{what}.',
        advice='Lower rates, and gradients that are clipped.',
        confidence=0.9,
        limits={'factor': Limit(2.0, f'{_S4}, problem 2 (0.4 to 2.1); healthy runs rose to 1.2 times their lowest')},
    ),
    Rule(
        'rate-too-high',
        'severe',
        causes.rate_too_high,
        cause='the learning rate is too high',
        text="{part} has {rate:.3g}, {times:.0f} times MMDetection's 0.02 for a batch of 16{rose}.",
        advice='Lower rates.',
        confidence=0.8,
        limits={
            'times': Limit(20, f'{_OURS}: twice what `mmext check` takes for known to be stable'),
            'clipped': Limit(64, f'{_OURS}: the same, for gradients clipped to a norm of 1'),
            'rise': Limit(1.15, 'in forty healthy runs on made data the first log line was the highest'),
        },
        explained_by=('loss-exploding',),
    ),
    Rule(
        'part-not-training',
        'severe',
        causes.part_not_training,
        cause='a head is not trained',
        text='{what}.',
        advice='Let it train; look for what freezes it (a hook of your own, staged_training, lr_mult=0).',
        confidence=1.0,
        limits={'rate': Limit(0.0, 'a fact of the records')},
    ),
    Rule(
        'no-positive-rois',
        'severe',
        causes.no_positive_rois,
        cause='the heads never see an object',
        text='the mask loss is exactly 0 in {share:.0%} of the later log lines: no proposal matched an object.',
        advice='The boxes of the training data do not fit its images, or crops leave none: `mmext check CONFIG --show DIR`.',
        confidence=0.9,
        limits={'share': Limit(0.5, f'{_OURS}: a line is a mean over several batches, so one such line is rare by itself')},
        explained_by=('loss-exploding',),
    ),
    Rule(
        'mask-rate-low',
        'severe',
        causes.mask_rate_low,
        cause='the mask head learns far slower than the box head',
        text="the mask head's rate is {ratio:.2g} times the box head's, limit {limit_ratio:g}.",
        advice="Give it the box head's.",
        confidence=0.8,
        limits={
            'ratio': Limit(0.2, f'{_S0} gives both heads the same rate, and so do all recipes; a fifth is far from that')
        },
    ),
    Rule(
        'warm-up-unfinished',
        'severe',
        causes.warm_up_unfinished,
        cause='the run ended within its warm-up',
        text='the rate still rose at the last log line, iteration {step:.0f}: from {first:.2g} to {last:.2g}.',
        advice='A warm-up that is a small share of the run.',
        confidence=0.9,
        limits={'factor': Limit(1.5, f'{_OURS}: a schedule that only rises a little is no warm-up')},
    ),
    Rule(
        'mask-loss-weight',
        'warning',
        causes.mask_loss_weight,
        cause='the mask loss weighs next to nothing',
        text="its weight is {weight:g}, the box head's losses have {others:g} or more.",
        advice='Give it the same weight.',
        confidence=0.8,
        limits={'ratio': Limit(0.25, f'{_OURS}: no recipe of ours weighs masks lower than boxes, S1 weighs them higher')},
    ),
    Rule(
        'few-iterations',
        'warning',
        causes.few_iterations,
        cause='the run is too short',
        text='it is planned for {iterations:.0f} iterations; under {enough:.0f} little can be learnt.',
        advice='Train longer.',
        confidence=0.7,
        limits={'iterations': Limit(100, "the demo's small network is fine-tuned in 120 on made data (docs/demo.md)")},
        explained_by=('loss-exploding', 'part-not-training'),
    ),
    Rule(
        'few-images',
        'warning',
        causes.few_images,
        cause='there are hardly any training images',
        text='an epoch has {images:.0f} images or fewer.',
        advice='More images; also look whether the data set drops some (`mmext check CONFIG` accounts for each).',
        confidence=0.6,
        limits={'images': Limit(10, f'{_OURS}: a network learns so few by heart')},
    ),
    Rule(
        'rates-not-as-planned',
        'warning',
        causes.rates_not_as_planned,
        cause='the rates of the parts are not the planned ones',
        text='{part} is planned at {planned:.4g} times the base rate and has {used:.4g} times at iteration {step:.0f}.',
        advice='A scheduler with a lowest rate in absolute terms undoes the ratio: `mmext groups CONFIG --schedule`.',
        confidence=0.9,
        limits={'factor': Limit(1.02, f'{_OURS}: above rounding')},
    ),
    Rule(
        'new-heads-at-backbone-rate',
        'information',
        causes.new_heads_at_backbone_rate,
        cause='new heads learn at the rate of the pretrained backbone',
        text='{tensors} tensors of the mask head are new (not from the checkpoint) and learn at {ratio:.3g} times the rate '
        'of the backbone.{unready}',
        advice='The rate may be too low for the new heads, or for everything: on made data ten times for the heads took '
        'mask AP from 0.23 to 0.30, a higher rate for all parts to 0.36 (docs/experiment.md).',
        confidence=0.4,
        limits={
            'ratio': Limit(2.0, f'{_S0} gives heads ten times the rate of the backbone, or five where that is unstable'),
            'rise': _RISE,
        },
        explained_by=('loss-exploding', 'part-not-training', 'mask-rate-low'),
    ),
    Rule(
        'mask-ln2',
        'severe',
        symptoms.mask_ln2,
        cause='the mask head has learnt nothing',
        text='the mask loss stands at {level:.3f}: ln 2 = 0.693 is what one half for every pixel gives.',
        advice='',
        confidence=0.8,
        limits={
            'distance': Limit(0.02, f'{_OURS}: a head on masks of which 30 % were false stood at 0.646 and had learnt'),
            'mask_ap': Limit(0.05, f'{_OURS}: a head with this AP has learnt something'),
            'iterations': Limit(20, f'{_OURS}: in a run without epochs, past the first log lines'),
        },
        explained_by=BROKEN,
    ),
    Rule(
        'losses-not-falling',
        'warning',
        symptoms.losses_not_falling,
        cause='no loss falls',
        text='over the run the mask loss fell by {mask:.0%} and the others by {others:.0%} (at most {most:.0%}, 95 %).',
        advice='A higher rate; if that changes nothing, look at the data with `mmext check CONFIG`.',
        confidence=0.6,
        limits={'fall': _FALL, 'most': _MOST},
        explained_by=BROKEN,
    ),
    Rule(
        'mask-loss-not-falling',
        'warning',
        symptoms.mask_loss_not_falling,
        cause='the mask loss does not fall',
        text='over the run it fell by {fall:.0%} (at most {most:.0%}, 95 %) and stands at {level:.3f}.',
        advice='',
        confidence=0.7,
        limits={
            'fall': _FALL,
            'most': _MOST,
            'trained': _TRAINED,
        },
        explained_by=(*BROKEN, 'mask-ln2', 'losses-not-falling'),
    ),
    Rule(
        'mask-loss-slow',
        'warning',
        symptoms.mask_loss_slow,
        cause='the mask loss falls slower than the others',
        text='over the run it fell by {mask:.0%}, the others together by {others:.0%}.',
        advice='',
        confidence=0.5,
        limits={
            'others': Limit(0.25, f'{_OURS}: what the others must have fallen by at least, 95 %'),
            'ratio': Limit(0.5, "half as fast on a logarithmic scale; in S4's healthy runs it is 0.7 to 0.8 times as fast"),
            'trained': _TRAINED_COARSE,
        },
        explained_by=(*BROKEN, 'mask-ln2', 'losses-not-falling', 'mask-loss-not-falling'),
    ),
    Rule(
        'train-mask-loss-high',
        'warning',
        symptoms.train_mask_loss_high,
        cause='the training masks are harder to predict than those of validation',
        text='mask loss {train:.3f} in training, {val:.3f} in validation: {ratio:.2g} times, limit {limit_ratio:g}.',
        advice='Training masks that contradict each other, or augmentation that moves image and mask apart: look at them '
        'with `mmext check CONFIG --show DIR`. If they cannot be mended, a robust mask loss is worth a try: '
        "`mask_head=dict(loss_mask=dict(_delete_=True, type='mmext.GCELoss'))`.",
        confidence=0.5,
        limits={
            'ratio': Limit(1.17, 'sixteen healthy runs had 0.87 to 1.08, eight with masks falsified on purpose 1.26 to 2.7'),
            'iterations': Limit(100, 'as for few-iterations: before, the mean over training still has its first steps'),
        },
        explained_by=('loss-exploding', 'warm-up-unfinished', 'few-iterations'),
    ),
    Rule(
        'mask-loss-plateau',
        'warning',
        symptoms.mask_loss_plateau,
        cause='the mask loss went flat early, at a high level',
        text='it stands at {level:.3f}, about where it was at iteration {since:.0f}; more epochs change nothing.',
        advice='Masks that contradict each other do that: `mmext check CONFIG --show DIR`.',
        confidence=0.6,
        limits={
            'level': Limit(0.45, f'{_OURS}: two thirds of ln 2'),
            'fall': Limit(0.05, f'{_OURS}: over the second half of the run, 95 %'),
        },
        explained_by=(*_NOT_LEARNT, 'train-mask-loss-high'),
    ),
    Rule(
        'mask-share-high',
        'warning',
        symptoms.mask_share_high,
        cause='the masks struggle',
        text='the mask loss is {share:.1%} of the total, limit {limit_share:.0%}.',
        advice='',
        confidence=0.5,
        limits={
            'share': Limit(0.5, f'{_S4}: above 50 % it struggles'),
            'fall': Limit(0.3, f'{_OURS}: a loss that falls so much in the second half of the log is young, not struggling'),
        },
        explained_by=(
            *_NOT_LEARNT,
            'mask-loss-slow',
            'mask-loss-plateau',
            'train-mask-loss-high',
        ),
    ),
    Rule(
        'box-mask-gap',
        'severe',
        symptoms.box_mask_gap,
        cause='boxes are good and masks are not',
        text='mask AP {mask:.3f} beside box AP {box:.3f}: less than {limit_ratio:g} of it.',
        advice='',
        confidence=0.8,
        limits={'ratio': _GAP, 'box_ap': _BOX_AP, 'trained': _TRAINED},
        explained_by=(
            *_NOT_LEARNT,
            'mask-loss-slow',
            'train-mask-loss-high',
        ),
    ),
    Rule(
        'masks-small',
        'warning',
        symptoms.masks_small,
        cause='the masks cover only a part of their objects',
        text='a predicted mask has {ratio:.0%} of the area of its object and covers {coverage:.0%} of it.',
        advice='',
        confidence=0.6,
        limits={'ratio': Limit(0.7, f'{_S0}: small masks are the symptom; healthy runs on made data had 0.75 or more')},
        explained_by=(*_NOT_LEARNT, 'train-mask-loss-high', 'mask-loss-slow'),
    ),
    Rule(
        'masks-large',
        'warning',
        symptoms.masks_large,
        cause='the masks are larger than their objects',
        text='a predicted mask has {ratio:.0%} of the area of its object and covers {coverage:.0%} of it.',
        advice='Are the training masks drawn wider than those of validation? `mmext check CONFIG --show DIR` shows both.',
        confidence=0.5,
        limits={
            'ratio': Limit(1.4, f'{_OURS}: the inverse of the limit for small ones'),
            'coverage': Limit(0.85, f'{_OURS}: a mean of area ratios is high by few bad masks too; large masks cover most'),
        },
        explained_by=(*_NOT_LEARNT, 'train-mask-loss-high', 'mask-loss-slow'),
    ),
    Rule(
        'mask-iou-gap',
        'warning',
        symptoms.mask_iou_gap,
        cause='boxes fit their objects better than masks do',
        text='of matched objects the box IoU is {box:.2f} and the mask IoU {iou:.2f}.',
        advice='Thin slanting objects have such a gap with good masks too. If yours are not: look at the predictions with '
        '`mim test mmdet CONFIG --checkpoint FILE --show-dir DIR`.',
        confidence=0.3,
        limits={
            'gap': Limit(0.15, 'made data, fibres among it: 0.01 to 0.14 in healthy runs, 0.13 to 0.20 with falsified masks')
        },
        explained_by=(
            *_NOT_LEARNT,
            'train-mask-loss-high',
            'box-mask-gap',
            'masks-small',
            'masks-large',
        ),
    ),
    Rule(
        'class-masks-poor',
        'information',
        symptoms.class_masks_poor,
        cause='the masks of a class do not count',
        text='mask IoU of matched objects: {what}; {best} has {best_iou:.2f}. COCO counts a mask from {limit_iou:g} on.',
        advice='Is the mask grid fine enough for it, and are there enough objects of it? `mmext check CONFIG` says both for '
        'each class. Thin objects are learnt last: train longer.',
        confidence=0.4,
        limits={
            'iou': Limit(0.5, "COCO's lowest IoU threshold: a mask below it is a false detection at all of them"),
            'best': Limit(0.6, f'{_OURS}: with all classes poor it is no matter of a class'),
        },
        explained_by=(*_NOT_LEARNT, 'mask-loss-slow', 'train-mask-loss-high'),
    ),
    Rule(
        'ap-near-zero',
        'severe',
        symptoms.ap_near_zero,
        cause='the network learns something that validation does not ask for',
        text='the losses fell by {fall:.0%} and the best box AP50 is {ap:.3f}.',
        advice='Classes in another order, another annotation of the validation images, or a metric that reads another file: '
        '`mmext check CONFIG`.',
        confidence=0.7,
        limits={
            'ap': Limit(0.02, f'{_OURS}: nothing is found'),
            'fall': Limit(0.5, f'{_OURS}: something was learnt'),
            'iterations': Limit(100, 'as for few-iterations'),
            'validations': Limit(3, f'{_OURS}: of a run that has not ended'),
        },
        explained_by=BROKEN,
    ),
    Rule(
        'mask-ap-stuck',
        'warning',
        symptoms.mask_ap_stuck,
        cause='the mask loss falls and the mask AP does not rise',
        text='the loss fell by {fall:.0%}, and after {validations} validations the mask AP is {ap:.3f}.',
        advice='A wrong loss or wrong masks: `mmext check CONFIG --show DIR`.',
        confidence=0.5,
        limits={
            'fall': Limit(0.3, f'{_OURS}: over the run, 95 %'),
            'rise': Limit(0.02, f'{_OURS}: two seeds of one recipe differ by as much on 20 images of made data'),
            'ap': Limit(0.1, f'{_OURS}: an AP above may well be all there is to gain'),
        },
        explained_by=(*BROKEN, 'ap-near-zero', 'box-mask-gap'),
    ),
    Rule(
        'val-mask-loss-high',
        'warning',
        symptoms.val_mask_loss_high,
        cause='the masks are learnt by heart, or validation is annotated otherwise',
        text='mask loss {val:.3f} in validation, {train:.3f} in training: {ratio:.2g} times, limit {limit_ratio:g}.',
        advice='More images or more augmentation; are both parts annotated alike? `mmext check CONFIG --show DIR`',
        confidence=0.5,
        limits={'ratio': Limit(1.5, 'sixteen healthy runs had 0.93 to 1.15')},
        explained_by=('loss-exploding', 'warm-up-unfinished', 'few-iterations', 'few-images'),
    ),
    Rule(
        'validation-diverges',
        'warning',
        symptoms.validation_diverges,
        cause='validation gets worse while training goes on',
        text='in validation {loss} was {lowest:.3f} at epoch {since:.0f} and is {now:.3f}, while the training loss falls.',
        advice='Keep the best checkpoint, stop earlier, and give it more images or augmentation.',
        confidence=0.6,
        limits={
            'factor': Limit(1.25, f'{_OURS}: above the change from one validation to the next'),
            'ap': Limit(
                0.02,
                f'{_OURS}: a mask AP that rose by more meanwhile makes it information only: docs/fine-tuning.md '
                'has such a run',
            ),
        },
        explained_by=('loss-exploding', 'few-images', 'val-mask-loss-high'),
    ),
    Rule(
        'best-epoch-early',
        'warning',
        symptoms.best_epoch_early,
        cause='the masks were best long before the end',
        text='mask AP {best:.3f} at epoch {at:.0f}, {end:.3f} at the end, epoch {last:.0f}.',
        advice='Use the best checkpoint, and let the training end there.',
        confidence=0.5,
        limits={
            'place': Limit(0.6, f'{_OURS}: of the validations'),
            'lost': Limit(0.02, f'{_OURS}: two seeds of one recipe differ by as much on 20 images of made data'),
            'share': Limit(0.05, f'{_OURS}: of the best'),
        },
        explained_by=('loss-exploding', 'few-images', 'val-mask-loss-high', 'validation-diverges'),
    ),
    Rule(
        'ap-still-rising',
        'warning',
        symptoms.ap_still_rising,
        cause='the run ended while the masks were getting better',
        text='over the last {validations} validations the mask AP rose by {rise:.3f} (at least {low:.3f}, 95 %).',
        advice='Train longer.',
        confidence=0.6,
        limits={'rise': _RISE},
        explained_by=(*_LENGTH, 'new-heads-at-backbone-rate'),
    ),
    Rule(
        'loss-still-falling',
        'warning',
        symptoms.loss_still_falling,
        cause='the run ended while the mask loss was falling',
        text='over the last third of the run it fell by {fall:.0%} (at least {low:.0%}, 95 %).',
        advice='Train longer.',
        confidence=0.5,
        limits={
            'fall': Limit(0.2, 'healthy runs on made data and on droplets fell by 0 to 11 %'),
            'part': Limit(1 / 3, f'{_OURS}: of the run'),
        },
        explained_by=(*_LENGTH, 'ap-still-rising'),
    ),
    Rule(
        'loss-spikes',
        'information',
        symptoms.loss_spikes,
        cause='the loss jumps',
        text='{what}, far above the lines around.',
        advice='Clipped gradients bear it; if the masks are poor, look at those images.',
        confidence=0.4,
        limits={
            'factor': Limit(2.0, f'{_OURS}: times the median of seven lines'),
            'deviations': Limit(6.0, f'{_OURS}: standard deviations, far outside of noise'),
            'skip': Limit(0.1, f'{_OURS}: the start of the log, where losses fall steeply'),
            'count': Limit(1, 'one is worth a look'),
        },
        explained_by=('loss-exploding',),
    ),
    Rule(
        'mask-share-low',
        'information',
        symptoms.mask_share_low,
        cause='the mask loss is a small part of the total',
        text='it is {share:.1%} of the total, below {limit_share:.0%}. S4 calls that undertrained; by itself it says '
        'nothing, as the best masks have the smallest share.',
        advice='Nothing to mend as long as the mask AP is near the box AP.',
        confidence=0.2,
        limits={
            'share': Limit(0.2, f'{_S4}: below 20 % it is undertrained'),
            'ratio': _GAP,
            'box_ap': _BOX_AP,
            'trained': _TRAINED,
        },
        explained_by=(*BROKEN, 'mask-ln2', 'mask-loss-not-falling', 'mask-loss-slow', 'box-mask-gap'),
    ),
)
