"""What losses and validation say of a run. Each function belongs to a rule of rules.py."""

import math
from collections.abc import Mapping

import numpy as np

from mmext.analysis import remedies
from mmext.analysis.facts import LEVEL_LINES, TREND_POINTS, VALIDATIONS, Facts, Hit, NotJudged, number
from mmext.analysis.shares import by_family, family_of
from mmext.analysis.trends import Interval, change, rise, spikes

Limits = Mapping[str, float]
_MASK_AP, _BOX_AP, _BOX_AP50 = 'coco/segm_mAP', 'coco/bbox_mAP', 'coco/bbox_mAP_50'


# ---- losses that blow up


def loss_exploding(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """A loss that is no number, that the guard stopped, or that rose to a multiple of its lowest."""
    parts, families = [], []
    for name in ('mask', None):
        values = _total(facts) if name is None else facts.families.get(name, np.array([]))
        values = values[np.isfinite(values)]
        if len(values) < LEVEL_LINES + 1:
            continue
        smooth = np.array([np.median(values[max(i - 2, 0) : i + 1]) for i in range(2, len(values))])
        lowest, now = float(smooth.min()), float(smooth[-1])
        if lowest > 0 and now >= limit['factor'] * lowest:
            what = 'the total loss' if name is None else f'loss_{name}'
            parts.append(f'{what} rose from {lowest:.3g} to {now:.3g}')
            families.append(name)
            break
    broken = [
        (step, name)
        for step, line in zip(facts.steps, facts.run.train, strict=True)
        for name, value in line.items()
        if (family_of(name) or name == 'loss') and not math.isfinite(number(value))
    ]
    if broken:
        names = list(dict.fromkeys(name for _, name in broken if name != 'loss')) or ['loss']
        parts.append(f'{", ".join(names[:3])} is no number from iteration {broken[0][0]:.0f} on')
    if facts.stopped is not None:
        reason = str(facts.stopped.get('reason')).rstrip('.')
        parts.append(f'the loss guard stopped it at iteration {facts.stopped["iteration"]}: {reason}')
    if not parts:
        return None if facts.run.train else NotJudged('no log line')
    return Hit({'what': '; '.join(parts)}, remedies.calmer(facts))


def loss_spikes(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Single log lines whose loss is a multiple of those around them."""
    totals = np.array([_line_total(line) for line in facts.run.train])
    if np.isfinite(totals).sum() < TREND_POINTS:
        return NotJudged(f'log lines: {len(totals)}, needed: {TREND_POINTS}')
    found = spikes(totals, limit['factor'], limit['deviations'])
    found = [i for i in found if i > len(totals) * limit['skip']]  # at its start a loss falls steeply
    skipped = [fault for fault in facts.run.faults if not fault.get('state_before')]
    if len(found) + len(skipped) < limit['count']:
        return None
    words = [f'{len(found)} log lines, the first at iteration {facts.steps[found[0]]:.0f}'] if found else []
    if skipped:
        words.append(f'{len(skipped)} steps that the loss guard caught')
    return Hit({'what': ' and '.join(words)}, remedies.clipped(facts))


def _line_total(line: Mapping) -> float:
    losses = {name: number(value) for name, value in line.items() if family_of(name)}
    return sum(by_family(losses).values()) if losses else number(line.get('loss', math.nan))


def _total(facts: Facts) -> np.ndarray:
    return np.array([_line_total(facts.run.train[i]) for i in facts.points])


def _others(facts: Facts) -> np.ndarray | None:
    """Sum of all losses that are not the mask's; None when there are none."""
    others = [values for name, values in facts.families.items() if not name.startswith('mask')]
    return np.sum(others, axis=0) if others else None


# ---- trends of the mask loss


def _too_few(facts: Facts) -> NotJudged | None:
    mask = facts.families.get('mask', np.array([]))
    if np.isnan(mask).any() or np.isinf(mask).any():
        return NotJudged('the mask loss is no number in some log lines')
    points = len(mask)
    if points >= TREND_POINTS:
        return None
    return NotJudged(f'log lines with a mask loss and windows of their own: {points}, needed: {TREND_POINTS}')


def _fall(facts: Facts, values: np.ndarray, part: float = 1.0) -> Interval | None:
    """By which share a loss falls, 0.2 for 20 %, with the interval; ``high`` is the most that it may have fallen."""
    found = facts.change(values, part)
    return None if found is None else Interval(1 - found.value, 1 - found.high, 1 - found.low)


def _stays(facts: Facts, values: np.ndarray, limit: Limits) -> Interval | None:
    """The fall of a loss that surely falls less than the limit, and did so from its first points on."""
    fall, early, late = _fall(facts, values), facts.early(values), facts.late(values)
    if fall is None or not early or not late or early <= 0 or late <= 0:
        return None
    steady = max(fall.value, abs(1 - late / early)) < limit['fall'] and fall.high < limit['most']
    return fall if steady else None


def mask_ln2(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Cross-entropy at ln 2: each pixel is predicted with probability one half. Or above it, at the end: that is worse."""
    if facts.mask_loss != 'CrossEntropyLoss':
        return NotJudged('the mask loss is not one binary cross-entropy, by the config')
    values = facts.raw.get('mask', np.array([]))
    level = facts.late(values)
    if level is None or facts.done < (2 if facts.by_epoch else limit['iterations']):
        return NotJudged('the log has too few lines, or the first epoch is not over')
    recent = values[np.isfinite(values)][-LEVEL_LINES:]
    off = np.append(recent, level) - math.log(2)
    nothing = np.all(np.abs(off) <= limit['distance']) or (facts.ended and np.all(off > 0))
    if not nothing or (facts.mask_ap is not None and facts.mask_ap >= limit['mask_ap']):
        return None
    settings, advice = remedies.higher_mask_rate(facts)
    return Hit({'level': level}, settings, advice=advice)


def losses_not_falling(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """No loss falls, neither the mask's nor the others'."""
    others = _others(facts)
    too_few = _too_few(facts)
    if too_few or others is None:
        return too_few or NotJudged('the log has no other losses')
    mask, rest = _stays(facts, facts.families['mask'], limit), _stays(facts, others, limit)
    if not mask or not rest or facts.masks_as_good_as_boxes:
        return None
    rate = facts.setting('optim_wrapper.optimizer.lr')
    # Adam's step follows its rate alone, and ten times a usual one is above what is known to be stable
    factor = 3 if facts.uses_adam else 10
    settings = {'optim_wrapper.optimizer.lr': remedies.plain(rate * factor)} if isinstance(rate, (int, float)) else {}
    return Hit({'mask': mask.value, 'others': rest.value, 'most': max(mask.high, rest.high)}, settings)


def mask_loss_not_falling(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """The mask loss stays where it began, at a level that is not that of a trained head."""
    too_few = _too_few(facts)
    if too_few:
        return too_few
    fall, level = _stays(facts, facts.families['mask'], limit), facts.late(facts.raw.get('mask', np.array([])))
    if fall is None or facts.masks_as_good_as_boxes:
        return None
    if level is not None and facts.mask_loss in (None, 'CrossEntropyLoss') and level <= limit['trained']:
        return None
    settings, advice = remedies.higher_mask_rate(facts)
    return Hit({'fall': fall.value, 'most': fall.high, 'level': level}, settings, advice=advice)


def mask_loss_slow(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """The mask loss falls far slower than the others together."""
    others, too_few = _others(facts), _too_few(facts)
    if too_few or others is None:
        return too_few or NotJudged('the log has no other losses')
    mask, rest = facts.change(facts.families['mask']), facts.change(others)
    level = facts.late(facts.raw.get('mask', np.array([])))
    if mask is None or rest is None or facts.masks_as_good_as_boxes:
        return None
    early, late = facts.early(facts.families['mask']), facts.late(facts.families['mask'])
    fast = rest.high < 1 - limit['others']  # the others surely fall
    slow = mask.low > rest.high and math.log(mask.value) > limit['ratio'] * math.log(rest.value)
    trained = level is not None and facts.mask_loss in (None, 'CrossEntropyLoss') and level <= limit['trained']
    # a steep fall at the very start is over before a slope over the whole run shows it
    began_steep = early and late and late < early / 2
    if not (fast and slow) or trained or began_steep:
        return None
    settings, advice = remedies.higher_mask_rate(facts)
    return Hit({'mask': 1 - mask.value, 'others': 1 - rest.value}, settings, advice=advice)


def mask_loss_plateau(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """The mask loss is flat over the second half of the run, at a level at which little has been learnt."""
    if facts.mask_loss != 'CrossEntropyLoss':
        return NotJudged('the mask loss is not one binary cross-entropy, by the config')
    too_few = _too_few(facts)
    if too_few:
        return too_few
    values = facts.raw['mask']
    fall, level = _fall(facts, values, 0.5), facts.late(values)
    if fall is None or level is None or level < limit['level'] or fall.high > limit['fall'] or fall.low < -limit['fall']:
        return None
    near = np.flatnonzero(values <= level * (1 + 2 * limit['fall']))
    return Hit({'level': level, 'since': facts.x[near[0]], 'fall': fall.value})


# ---- shares


def mask_share_high(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """S4: a mask loss above half of the total struggles."""
    share = _share(facts)
    if isinstance(share, NotJudged) or share <= limit['share']:
        return share if isinstance(share, NotJudged) else None
    fall = _fall(facts, facts.raw['mask'], 0.5)
    if fall is not None and fall.value > limit['fall']:
        return NotJudged('the mask loss is still falling fast')
    if facts.masks_as_good_as_boxes:
        return None
    settings, advice = remedies.higher_mask_rate(facts)
    return Hit({'share': share}, settings, advice=advice)


def mask_share_low(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """S4: a mask loss below a fifth of the total is undertrained. It is low as well where the masks are learnt best."""
    share = _share(facts)
    if isinstance(share, NotJudged) or share >= limit['share']:
        return share if isinstance(share, NotJudged) else None
    level = facts.late(facts.raw['mask'])
    if _box_mask_gap(facts, limit) and level is not None and level > limit['trained']:
        settings, advice = remedies.higher_mask_rate(facts)
        return Hit({'share': share}, settings, severity='warning', confidence=0.5, advice=advice)
    return Hit({'share': share})


def _share(facts: Facts) -> float | NotJudged:
    if not facts.like_s4:
        return NotJudged("S4's shares are for Mask R-CNN with cross-entropy masks")
    if facts.by_epoch and facts.done < 2:
        return NotJudged('the first epoch is not over')
    share = facts.late_shares.get('mask')
    return NotJudged(f'log lines: {len(facts.points)}, needed: {LEVEL_LINES}') if share is None else share


# ---- validation


def _box_mask_gap(facts: Facts, limit: Limits) -> bool:
    box, mask = facts.box_ap, facts.mask_ap
    return box is not None and mask is not None and box >= limit['box_ap'] and mask < limit['ratio'] * box


def box_mask_gap(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Boxes good, masks bad."""
    if facts.box_ap is None or facts.mask_ap is None:
        return NotJudged('no validation with box and mask AP')
    if facts.by_epoch and facts.done < 2 and not facts.ended:
        return NotJudged('the first epoch is not over')
    if not _box_mask_gap(facts, limit):
        return None
    level = facts.late(facts.raw.get('mask', np.array([])))
    values = {'box': facts.box_ap, 'mask': facts.mask_ap}
    if level is not None and facts.mask_loss == 'CrossEntropyLoss' and level <= limit['trained']:
        return Hit(
            values,
            advice=f'The mask loss is low ({level:.3f}) and the mask AP too: masks of training and of validation are hardly '
            'the same thing. Look at both: `mmext check CONFIG --show DIR`.',
        )
    settings, advice = remedies.higher_mask_rate(facts)
    return Hit(values, settings, advice=advice)


def _not_measured(facts: Facts, name: str) -> NotJudged:
    if not facts.run.val:
        return NotJudged('there was no validation yet')
    return NotJudged(f'no {name} in the log (mmext.LossValLoop measures it)')


def class_masks_poor(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Classes whose masks do not count, or that are never found, beside others whose masks are good."""
    prefix = 'mask/iou_'
    names = dict.fromkeys(key.removeprefix(prefix) for line in facts.run.val for key in line if key.startswith(prefix))
    found = {name: facts.last(prefix + name) for name in names if name not in ('area_small', 'area_medium', 'area_large')}
    found = {name: iou for name, iou in found.items() if iou is not None}  # None: without an object
    if not found:
        return _not_measured(facts, 'mask/iou of a class')
    best = max(found, key=found.get)
    poor = {name: iou for name, iou in found.items() if iou < limit['iou']}
    if not poor or found[best] < limit['best']:
        return None
    words = [f'{name} {iou:.2f}' if iou else f'{name} is never found' for name, iou in poor.items()]
    return Hit({'what': ', '.join(words), 'best': best, 'best_iou': found[best]})


def mask_iou_gap(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Matched objects whose box fits far better than their mask."""
    gap, iou = facts.last('mask/gap'), facts.last('mask/iou')
    if gap is None or iou is None:
        return _not_measured(facts, 'mask/gap')
    return Hit({'gap': gap, 'iou': iou, 'box': iou + gap}) if gap >= limit['gap'] else None


def masks_small(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Masks of matched objects that cover only a part of them."""
    ratio, coverage = facts.last('mask/area_ratio'), facts.last('mask/coverage')
    if ratio is None or coverage is None:
        return _not_measured(facts, 'mask/area_ratio')
    if ratio == 0 or ratio >= limit['ratio']:  # 0: nothing was matched
        return None
    settings, advice = remedies.higher_mask_rate(facts)
    return Hit({'ratio': ratio, 'coverage': coverage}, settings, advice=advice)


def masks_large(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Masks of matched objects that are far larger than they."""
    ratio, coverage = facts.last('mask/area_ratio'), facts.last('mask/coverage')
    if ratio is None or coverage is None:
        return _not_measured(facts, 'mask/area_ratio')
    large = ratio > limit['ratio'] and coverage >= limit['coverage']
    return Hit({'ratio': ratio, 'coverage': coverage}) if large else None


def ap_near_zero(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """The losses fall and nothing is found in validation."""
    values, total = facts.metric(_BOX_AP50)[1], _total(facts)
    early, late = facts.early(total), facts.late(total)
    if not len(values) or early is None or late is None:
        return NotJudged('no validation with box AP50, or too few log lines')
    young = not facts.ended and len(values) < limit['validations']  # the first validations of a run may find nothing
    if facts.iterations < limit['iterations'] or early <= 0 or young:
        return NotJudged('the run is still short')
    fell = late < (1 - limit['fall']) * early
    return Hit({'ap': values.max(), 'fall': 1 - late / early}) if values[-1] < limit['ap'] and fell else None


def mask_ap_stuck(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """The mask loss falls and the mask AP does not rise."""
    x, values = facts.metric(_MASK_AP)
    if len(values) < VALIDATIONS:
        return NotJudged(f'validations: {len(values)}, needed: {VALIDATIONS}')
    fall, risen = _fall(facts, facts.families.get('mask', np.array([]))), rise(x, values)
    if fall is None or risen is None:
        return _too_few(facts)
    if fall.low < limit['fall'] or risen.value > limit['rise'] or values[-1] >= limit['ap']:
        return None
    return Hit({'fall': fall.value, 'ap': values[-1], 'validations': len(values)})


def _mask_levels(facts: Facts) -> tuple[float, float] | NotJudged:
    """Mask loss of training and of validation, both as optimised, as they stand."""
    train, val = facts.late(facts.families.get('mask', np.array([]))), facts.last('val_loss_mask')
    if train is None or val is None or train <= 0 or val <= 0:
        return _not_measured(facts, 'val_loss_mask') if val is None else NotJudged('too few log lines')
    if facts.done < 2 and facts.by_epoch:
        return NotJudged('the first epoch is not over')
    if not facts.ended:
        # of a running training the last validation may be old
        ages = facts.metric('val_loss_mask')[0]
        if facts.done - ages[-1] > max(1, 0.1 * facts.done):
            return NotJudged('the last validation is old')
    return train, val


def train_mask_loss_high(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Training masks that are harder to predict than those of validation."""
    levels = _mask_levels(facts)
    if isinstance(levels, NotJudged):
        return levels
    if facts.iterations < limit['iterations']:
        return NotJudged(f'iterations: {facts.iterations:.0f}, needed: {limit["iterations"]:.0f}')
    train, val = levels
    return Hit({'train': train, 'val': val, 'ratio': train / val}) if train >= limit['ratio'] * val else None


def val_mask_loss_high(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """Validation masks that are far harder than those of training."""
    levels = _mask_levels(facts)
    if isinstance(levels, NotJudged):
        return levels
    train, val = levels
    if val < limit['ratio'] * train:
        return None
    return Hit({'train': train, 'val': val, 'ratio': val / train})


def validation_diverges(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """A validation loss that rises while that of training falls."""
    found = None
    for name, train in (('val_loss_mask', facts.families.get('mask', np.array([]))), ('val_loss', _total(facts))):
        x, values = facts.metric(name)
        if len(values) < VALIDATIONS:
            continue
        smooth = np.array([np.median(values[max(i - 1, 0) : i + 2]) for i in range(len(values))])
        place = int(smooth.argmin())
        lowest, now, after = float(smooth[place]), float(np.median(values[-LEVEL_LINES:])), len(values) - 1 - place
        trend = change(x[place:], values[place:])
        falls = _fall(facts, train, 0.5)
        rising = after >= LEVEL_LINES and trend is not None and trend.low > 1 and now >= limit['factor'] * lowest
        if rising and lowest > 0 and falls is not None and falls.value > 0:
            found = (name, lowest, now, x[place])
            break
    if found is None:
        most = max(len(facts.metric(name)[1]) for name in ('val_loss', 'val_loss_mask'))
        return None if most >= VALIDATIONS else NotJudged(f'validations with a loss: {most}, needed: {VALIDATIONS}')
    name, lowest, now, since = found
    values = {'loss': name, 'lowest': lowest, 'now': now, 'since': since}
    x, ap = facts.metric(_MASK_AP)
    before, after = ap[x <= since], ap[x > since]
    if len(before) and len(after) and np.median(after[-LEVEL_LINES:]) > np.max(before) + limit['ap']:
        advice = (
            f'The mask AP rose meanwhile, from {np.max(before):.3f} to {np.median(after[-LEVEL_LINES:]):.3f}: nothing to '
            'mend. Let checkpoint, early stopping and schedule follow the mask AP.'
        )
        return Hit(values, remedies.follow_mask_ap(facts), severity='information', advice=advice)
    return Hit(values, remedies.follow_mask_ap(facts))


def best_epoch_early(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """A mask AP that was best long before the end."""
    x, values = facts.metric(_MASK_AP)
    if len(values) < VALIDATIONS + 1:
        return NotJudged(f'validations: {len(values)}, needed: {VALIDATIONS + 1}')
    # the best of many is high by chance: medians of three, there and at the end
    smooth = np.array([np.median(values[max(i - 1, 0) : i + 2]) for i in range(len(values))])
    place, now = int(smooth.argmax()), float(np.median(values[-LEVEL_LINES:]))
    lost = smooth[place] - now
    if place > limit['place'] * (len(values) - 1) or lost < max(limit['lost'], limit['share'] * smooth[place]):
        return None
    best = int(values.argmax())
    settings = remedies.follow_mask_ap(facts)
    return Hit({'best': values[best], 'at': x[best], 'end': now, 'last': x[-1]}, settings)


def late_rise(facts: Facts) -> tuple[int, Interval | None]:
    """By how much the mask AP rose over the later half of the validations, of five at least, and how many these are."""
    x, values = facts.metric(_MASK_AP)
    half = max(VALIDATIONS, math.ceil(len(values) / 2))
    return half, rise(x[-half:], values[-half:]) if len(values) >= half else None


def ap_still_rising(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """A mask AP that still rises when the run ends."""
    if not facts.full_length:
        return NotJudged('the run has not reached its planned length')
    values = facts.metric(_MASK_AP)[1]
    if len(values) < VALIDATIONS:
        return NotJudged(f'validations: {len(values)}, needed: {VALIDATIONS}')
    half, risen = late_rise(facts)
    if risen is None or risen.low <= 0 or risen.value < limit['rise']:
        return None
    return Hit({'rise': risen.value, 'low': risen.low, 'validations': half}, remedies.longer(facts, 2))


def loss_still_falling(facts: Facts, limit: Limits) -> Hit | NotJudged | None:
    """A mask loss that still falls fast when the run ends."""
    if not facts.full_length:
        return NotJudged('the run has not reached its planned length')
    if _too_few(facts):
        return _too_few(facts)
    fall = _fall(facts, facts.families['mask'], limit['part'])
    if fall is None or fall.value < limit['fall'] or fall.low <= 0:
        return None
    return Hit({'fall': fall.value, 'low': fall.low}, remedies.longer(facts, 2))
