"""Experiment on the ground truth: do its masks lie where the images and their boxes say, in the files and in training?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmext.analysis.diagnose import Cause, Experiment
from mmext.probe.annotation import GROWTHS, OFFSETS, REACH, Change, offset_words
from mmext.probe.truth import Truth, of_others
from mmext.probe.weigh import LIMITS, Gain, limit, paired, standard_error

VIEW = 'train view'
_STILL = {'moved': OFFSETS.index((0, 0)), 'grown': GROWTHS.index(0)}
_FAR = 10.0  # pixels from a mask to its box that count as so many: a mask that lies elsewhere is another fault
_SHOW = 'Look at them: `mmext check CONFIG --show DIR`.'
_NAMES = {'train': 'train', 'val': 'val', VIEW: 'train after its pipeline'}
_REMEDIES = {
    'train': f'{_SHOW} Export the training file again for these very images, or mend it, and train anew.',
    'val': f'{_SHOW} Export the validation file again for these very images, or mend it: as it is it measures wrongly.',
    VIEW: f'{_SHOW} A transform of train_dataloader treats masks otherwise than image and boxes: find it by leaving out one '
    'after the other.',
}
LIE = {
    'masks-moved': 'lie {pixels:.0f} px beside their objects',
    'masks-narrow': 'end within their objects',
    'masks-wide': 'reach beyond their objects',
}


@dataclass(frozen=True)
class Evidence:
    """Masks that lie wrongly: ``code`` of the finding, ``pixels`` by how much, ``text`` what was measured, ``limit`` the one
    that it is beyond; ``shift`` of the masks to the right and down; ``alone``: not so in the part it is held against."""

    code: str
    pixels: float
    text: str
    limit: str
    shift: tuple[float, float] = (0.0, 0.0)
    alone: bool = True


def judge(
    truths: Mapping[str, Truth], predicted: Experiment | None = None, change: Change | None = None
) -> list[Experiment]:
    """What the ground truth says of itself, joined with what the predictions say of it.

    The predictions tell that parts differ. Where images or boxes tell which one is wrong, the finding names that part, and
    says with it what the predictions would win.

    Args:
        truths: of train and val, and of the train view where there is one.
        predicted: of :func:`mmext.probe.annotation.judge`; None where nothing was predicted.
        change: what it is about.

    Returns:
        The predictions' experiment, without a finding that is said better here, and the one of the ground truth.
    """
    findings: list[Cause] = []
    for name, truth in truths.items():
        # what is wrong in the file is wrong in training too, and said already
        said = [one.code for one in findings if one.where == 'train'] if name == VIEW else []
        findings += [one for one in _of_part(truth, truths) if one.code not in said]
    findings += _overlapping(truths)
    if predicted is not None and change is not None:
        findings, named = _joined(findings, change, truths, bool(predicted.findings))
        predicted = replace(predicted, findings=()) if named else predicted
    objects = sum(len(truth.images) for truth in truths.values())
    table = {name: _row(truth) for name, truth in truths.items()}
    answer = Experiment('ground truth', objects=objects, text=_text(truths), findings=tuple(findings), table=table)
    return [answer] if predicted is None else [predicted, answer]


def _of_part(truth: Truth, truths: Mapping[str, Truth]) -> list[Cause]:
    other = truths.get('val' if truth.name == 'train' else 'train')
    by_edges, by_boxes = edge_evidence(truth, other), box_evidence(truth)
    findings = [*_emptied(truth), *_elsewhere(truth, by_boxes)]
    if by_boxes is not None and (by_edges is None or by_boxes.code != by_edges.code):
        fits = _outlines_fit(truth, by_boxes)
        # boxes drawn loosely, and boxes that a transform has turned, are wider than their masks
        if by_boxes.code == 'masks-moved' or not (fits or truth.name == VIEW):
            findings.append(_placed(truth, [by_boxes], of_boxes=fits))
        by_boxes = None
    if by_edges is not None:
        findings.append(_placed(truth, [one for one in (by_edges, by_boxes) if one is not None]))
    return findings


def edge_evidence(truth: Truth, other: Truth | None) -> Evidence | None:
    """Whether the image is steeper beside the outlines than along them.

    What the file shows like its train view is the file's. What both files would win by growing is no more than worth a look:
    objects may have two edges (a halo, a wall).

    Args:
        truth: of a part.
        other: the part that it is held against: train and val against each other, the train view against train.
    """
    if not len(truth.steps):
        return None
    thick = thick_outlines(truth)
    kind = 'grown' if _means(thick.grown).max() > _means(thick.moved).max() else 'moved'
    thick = thick if kind == 'grown' else truth
    place = int(_means(getattr(thick, kind)).argmax())
    gain = edge_gain(thick, kind, place)
    there = None if other is None else (thick_outlines(other) if kind == 'grown' else other)
    alone = bool(there and len(there.steps)) and edge_gain(there, kind, place).value <= gain.value - limit('edge_apart')
    if truth.name == VIEW and not alone:
        return None
    measured = f'{gain.before:.2f} to {gain.after:.2f} of its most, standard error {gain.error:.2f}, {gain.objects} outlines'
    if kind == 'moved':
        across, down = OFFSETS[place]
        # masks without an edge within reach find one of several sides as well as another
        sided = gain.value - edge_gain(truth, kind, OFFSETS.index((-across, -down))).value
        pixels = float(np.hypot(across, down))
        if pixels < limit('moved') or not gain.surely(limit('edge_moved')) or sided < limit('edge_moved'):
            return None
        text = f'moved {offset_words((across, down))}, they lie where the image is steeper ({measured})'
        return Evidence('masks-moved', pixels, text, 'edge_moved', (-across, -down))
    if not gain.surely(limit('edge_grown')):
        return None
    pixels = abs(GROWTHS[place]) * float(np.median(thick.steps))
    narrow = GROWTHS[place] > 0
    text = (
        f'{"grown" if narrow else "shrunk"} by {pixels:.0f} px, those not thin end where the image is steeper ({measured})'
    )
    return Evidence('masks-narrow' if narrow else 'masks-wide', pixels, text, 'edge_grown', alone=alone)


def edge_gain(truth: Truth, kind: str, place: int) -> Gain:
    """What the outlines' steepness wins by a change.

    Args:
        truth: of a part with an outline or more.
        kind: ``moved`` or ``grown``.
        place: in OFFSETS or GROWTHS.
    """
    table = getattr(truth, kind)[:, [_STILL[kind], place]]
    kept = np.isfinite(table).all(1)
    return paired(*table[kept].T, truth.outline_images[kept]) if kept.any() else Gain(0.0, 0.0, np.inf, 0)


def _means(table: np.ndarray) -> np.ndarray:
    """Over outlines (M, P), of the changes that all of them stand; the others are never the best."""
    return np.where(np.isnan(table).any(0), -np.inf, np.nan_to_num(table).mean(0))


def thick_outlines(truth: Truth) -> Truth:
    """The same with the outlines that every step leaves something of, where there are enough of them: what is too thin was
    hardly shrunk by anybody, and hides what happened to the others."""
    kept = np.isfinite(truth.grown).all(1)
    if kept.sum() < limit('objects'):
        return truth
    names = ('outline_images', 'moved', 'grown', 'steps')
    return replace(truth, **{name: getattr(truth, name)[kept] for name in names})


def box_evidence(truth: Truth) -> Evidence | None:
    """Whether the masks lie beside their boxes, or end within or outside of them: in the median, and surely."""
    if len(truth.images) < limit('objects'):
        return None
    shift, inset, length = _against_boxes(truth)
    middle = np.median(shift, 0)
    axis = int(np.abs(middle).argmax())
    error = standard_error(shift[:, axis], truth.images)
    pixels = float(np.hypot(*middle))
    if pixels >= limit('box_moved') and abs(middle[axis]) > limit('errors') * error:
        where = offset_words(tuple(int(one) for one in np.rint(middle)))
        text = (
            f'their middles lie {where} of those of their boxes (median, standard error {error:.2f} px, {len(shift)} masks)'
        )
        return Evidence('masks-moved', pixels, text, 'box_moved', tuple(middle))
    pixels, ratio, error = float(np.median(inset)), float(np.median(length)), standard_error(inset, truth.images)
    longer = max(ratio, 1 / max(ratio, 1e-9))
    if abs(pixels) < limit('box_inset') or abs(pixels) <= limit('errors') * error or longer < limit('box_sides'):
        return None
    narrow = pixels > 0
    text = (
        f'they end {abs(pixels):.1f} px {"within" if narrow else "outside of"} their boxes, with sides {ratio:.2f} times as '
        f'long (medians, standard error {error:.2f} px, {len(inset)} masks)'
    )
    return Evidence('masks-narrow' if narrow else 'masks-wide', abs(pixels), text, 'box_sides')


def _against_boxes(truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift of each mask against its box (N, 2), how far it ends within it at each side (N,), sides in those of the box
    (N,)."""
    sides = (truth.mask_boxes - truth.boxes).clip(-_FAR, _FAR)
    mask, box = (np.maximum(one[:, 2:] - one[:, :2], 1e-9) for one in (truth.mask_boxes, truth.boxes))
    return (sides[:, :2] + sides[:, 2:]) / 2, (sides[:, :2] - sides[:, 2:]).mean(1) / 2, np.sqrt((mask / box).prod(1))


def _outlines_fit(truth: Truth, evidence: Evidence) -> bool:
    """Whether the image is surely steeper along the outlines than where their boxes would have them."""
    if not len(truth.steps):
        return False
    if evidence.code == 'masks-moved':
        back = (int(np.clip(-round(one), -REACH, REACH)) for one in evidence.shift)
        gain = edge_gain(truth, 'moved', OFFSETS.index(tuple(back)))
    else:
        gain = edge_gain(truth, 'grown', GROWTHS.index(1 if evidence.code == 'masks-narrow' else -1))
    return replace(gain, before=gain.after, after=gain.before).surely(limit('edge_moved'))


def _placed(truth: Truth, evidence: Sequence[Evidence], of_boxes: bool = False) -> Cause:
    """Masks that are moved, narrow or wide; ``of_boxes``: or boxes, where the edges say that it is them."""
    name, first = _NAMES[truth.name], evidence[0]
    what = 'boxes' if of_boxes else 'masks'
    lie = f'lie {first.pixels:.0f} px beside their masks' if of_boxes else LIE[first.code].format(pixels=first.pixels)
    told = '; along their outlines the image is steepest, so it is the boxes that are off' if of_boxes else ''
    alike = not any(one.alone for one in evidence)
    if alike:
        told = '; in the other part too, so it may be that the objects have two edges (a halo, a wall)'
    return Cause(
        first.code,
        'information' if alike else 'warning',
        f'masks of {name}: {"; ".join(one.text for one in evidence)}{told}.',
        remedy=_REMEDIES[truth.name],
        where=truth.name,
        cause=f'the {what} of {name} {lie}',
        confidence=0.5 if alike else 0.9 if len(evidence) > 1 else 0.8,
        source=LIMITS[first.limit].source,
    )


def _elsewhere(truth: Truth, by_boxes: Evidence | None) -> list[Cause]:
    """Masks that lie elsewhere than their boxes, each for itself."""
    if len(truth.images) < limit('objects'):
        return []
    apart, fits_other, outside = of_others(truth, _shift(by_boxes))
    # a transform that turns boxes makes them far wider than their masks, which still lie inside
    wrong = fits_other & outside if truth.name == VIEW else apart | fits_other
    share = float(wrong.mean())
    if wrong.sum() < limit('cases') or share < limit('others'):
        return []
    much = share >= limit('others_many')
    name = _NAMES[truth.name]
    text = f'{wrong.sum()} of {len(wrong)} masks of {name} do not lie in their boxes (box IoU under 0.5)'
    if (wrong & fits_other).any():
        text = f'{text}, {(wrong & fits_other).sum()} of them in the box of another object of their image'
    return [
        Cause(
            'masks-of-other-objects',
            'severe' if much else 'warning',
            f'{text}.',
            int(wrong.sum()),
            remedy=f'{_REMEDIES[truth.name]} Masks and boxes of a file come in one order: something has sorted one of them.',
            where=truth.name,
            cause=f'{share:.0%} of the masks of {name} belong to other objects',
            confidence=0.95,
            source=LIMITS['others_many' if much else 'others'].source,
        )
    ]


def _shift(by_boxes: Evidence | None) -> np.ndarray:
    return np.zeros(2) if by_boxes is None else np.array(by_boxes.shift, float)


def _overlapping(truths: Mapping[str, Truth]) -> list[Cause]:
    """One object of two classes, in a part; masks that have pixels in common, in one part only."""
    findings = []
    files = {name: one for name, one in truths.items() if name != VIEW and len(one.images) >= limit('objects')}
    for name, truth in files.items():
        twins = int(truth.twin.sum())
        if twins >= limit('cases') and twins / len(truth.twin) >= limit('twins'):
            findings.append(
                Cause(
                    'masks-overlap',
                    'warning',
                    f'{twins} of {len(truth.twin)} masks of {name} have nearly the same pixels as one of another class.',
                    twins,
                    remedy=f'{_SHOW} `mmext check CONFIG` names the pairs: delete the one of the wrong class in each.',
                    where=name,
                    cause=f'objects of {name} are there twice, with two classes',
                    confidence=0.9,
                    source=LIMITS['twins'].source,
                )
            )
    if len(files) < 2:
        return findings
    shares = {name: float(one.covered.mean()) for name, one in files.items()}
    error = float(np.hypot(*(standard_error(one.covered, one.images) for one in files.values())))
    more, less = sorted(shares, key=shares.get, reverse=True)
    gap = shares[more] - shares[less]
    if gap >= limit('overlap') and gap > limit('overlap_errors') * error:
        findings.append(
            Cause(
                'masks-overlap',
                'warning',
                f'a mask of {more} has {shares[more]:.0%} of its pixels in common with another one, of {less} '
                f'{shares[less]:.0%} (means of the largest, of the smaller of both; standard error {error:.0%}).',
                remedy=f'{_SHOW} Draw what is hidden behind another object in both parts, or in none.',
                where=more,
                cause='masks overlap in one part and not in the other',
                confidence=0.7,
                source=LIMITS['overlap'].source,
            )
        )
    return findings


def _emptied(truth: Truth) -> list[Cause]:
    """Images of which the training's pipeline leaves no object."""
    seen = len(truth.left)
    if truth.name != VIEW or seen < limit('views'):
        return []
    filled = float((truth.left > 0).mean())
    severe = filled <= limit('views_filled')
    if not severe and filled > limit('views_half'):
        return []
    return [
        Cause(
            'training-images-empty',
            'severe' if severe else 'warning',
            f'of {seen} training images with objects {(truth.left > 0).sum()} still have one after the training pipeline'
            f'{_objects_left(truth)}.',
            remedy='Look for what cuts or filters them away in train_dataloader.dataset.pipeline: crops larger or around '
            'objects (RandomCrop with allow_negative_crop=False), FilterAnnotations with a smaller min_gt_bbox_wh.',
            where=VIEW,
            cause=f'the training pipeline leaves {"hardly an" if severe else "half of the images without an"} object',
            confidence=0.95,
            source=LIMITS['views_filled' if severe else 'views_half'].source,
        )
    ]


def _objects_left(truth: Truth) -> str:
    known = np.isfinite(truth.before)
    if not known.any():
        return ''
    return f', and {truth.left[known].sum():.0f} of {truth.before[known].sum():.0f} objects are left'


def _joined(findings: Sequence[Cause], change: Change, truths: Mapping[str, Truth], found: bool) -> tuple[list[Cause], bool]:
    """Findings with what the predictions would win, and whether they say what the predictions found."""
    codes = ('masks-moved',) if change.kind == 'moved' else ('masks-narrow', 'masks-wide')
    mine = [i for i, one in enumerate(findings) if one.code in codes]
    findings = list(findings)
    if not mine and found and change.apart:
        blamed = _blamed(change, truths)
        if blamed is not None:
            mine, findings = [len(findings)], [*findings, blamed]
    if not mine or not change.here.surely(limit('worth')):
        return findings, False
    for i in mine:
        one = findings[i]
        findings[i] = replace(one, text=f'{one.text[:-1]}; {change.evidence}.', explains=change.here.value, confidence=0.9)
    return findings, found


def _blamed(change: Change, truths: Mapping[str, Truth]) -> Cause | None:
    """Which of two parts is wrong that the predictions say differ: the one whose edges win by the change and whose other
    part's lose. The predictions have shown that there is one, so a little is enough."""
    sides = []
    if change.kind == 'moved':
        across, down = OFFSETS[change.place]
        sides = [(change.where, (-across, -down)), (change.other, (across, down))]
        places = [OFFSETS.index(back) for _, back in sides]
    else:
        step = 1 if GROWTHS[change.place] > 0 else -1
        sides = [(change.where, -step), (change.other, step)]
        places = [GROWTHS.index(back) for _, back in sides]
    if not all(len(truths[name].steps) for name, _ in sides):
        return None
    gains = [edge_gain(truths[name], change.kind, place) for (name, _), place in zip(sides, places, strict=True)]
    told = [gain.surely(limit('edge_told')) for gain in gains]
    if told[0] == told[1] or gains[told.index(False)].value > 0:
        return None
    (name, back), gain = sides[told.index(True)], gains[told.index(True)]
    measured = f'{gain.before:.2f} to {gain.after:.2f} of its most, standard error {gain.error:.2f}'
    if change.kind == 'moved':
        pixels = float(np.hypot(*back))
        text = f'moved {offset_words(back)}, they lie where the image is steeper ({measured})'
        return _placed(truths[name], [Evidence('masks-moved', pixels, text, 'edge_told')])
    pixels = abs(GROWTHS[change.place])
    code, verb = ('masks-narrow', 'grown') if back > 0 else ('masks-wide', 'shrunk')
    text = f'{verb}, they end where the image is steeper ({measured})'
    return _placed(truths[name], [Evidence(code, pixels, text, 'edge_told')])


def _row(truth: Truth) -> dict[str, float | None]:
    """Of the answer's table; None where there is nothing to measure."""
    row: dict[str, float | None] = {'masks': len(truth.images), 'outlines': len(truth.steps)}
    for kind, changes in (('moved', OFFSETS), ('grown', GROWTHS)):
        seen = truth if kind == 'moved' else thick_outlines(truth)
        if len(seen.steps):
            place = int(_means(getattr(seen, kind)).argmax())
            step = 1.0 if kind == 'moved' else float(np.median(seen.steps))
            row[f'{kind} px'] = float(np.linalg.norm(changes[place]) * step)
            row[f'{kind} gain'] = edge_gain(seen, kind, place).value
    if not len(truth.images):
        return row
    shift, inset, _ = _against_boxes(truth)
    apart, fits_other, _ = of_others(truth, _shift(box_evidence(truth)))
    return row | {
        'off box px': float(np.hypot(*np.median(shift, 0))),
        'in box px': float(np.median(inset)),
        'elsewhere': float((apart | fits_other).mean()),
        'in common': float(truth.covered.mean()),
    }


def _text(truths: Mapping[str, Truth]) -> str:
    text = (
        'Steepness of the images along the outlines, as a share of its most, and what is won where they are moved or grown '
        'to fit best; median distances of masks to their boxes; shares of masks that lie elsewhere, and of pixels in common '
        'with another mask.'
    )
    view = truths.get(VIEW)
    if view is None:
        return text
    filled = int((view.left > 0).sum())
    return (
        f'{text} Train view, with its augmentation: {filled} of {len(view.left)} images have an object{_objects_left(view)}.'
    )
