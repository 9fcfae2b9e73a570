"""What rates, schedule, length and amount of data say of a run. Each function belongs to a rule of rules.py."""

import math
from collections.abc import Mapping

import numpy as np

from mmext.analysis import remedies
from mmext.analysis.facts import HEADS, LEVEL_LINES, PART_PATHS, Facts, Hit, NotJudged, number
from mmext.analysis.symptoms import late_rise

# MMDetection's schedules for SGD, which its --auto-scale-lr scales by the batch
LINEAR_RATE, LINEAR_BATCH = 0.02, 16
# lines of the log that the run's last start has surely written
_LATEST = 3
_STAGE_WORDS = ('heads', '5+', '4+', '3+', 'all')


def part_not_training(facts: Facts, limit: Mapping[str, float]) -> Hit | None:
    """A head that is frozen, has a rate of 0, or that no stage trains."""
    found, settings = [], {}
    stages = _stages(facts)
    for part in HEADS:
        rows, rates = facts.groups(part), facts.rates(f'{part}_lr')
        logged = rates[np.isfinite(rates)]
        key = facts.key_of(part)
        if rows and sum(row.get('trainable') or 0 for row in rows) == 0:
            found.append(f'{part} has no trainable parameter')
        elif (len(logged) and not logged.any()) or (not len(logged) and facts.multiplier(part) == 0):
            found.append(f"{part} has a learning rate of 0 ({key}'s lr_mult)" if key else f'{part} has a learning rate of 0')
            if key:
                ratio = remedies.HEADS_RATIO if part != 'rpn_head' else remedies.RPN_RATIO
                backbone = facts.multiplier('backbone') or 1.0
                settings[f'{remedies.CUSTOM_KEYS}.{key}.lr_mult'] = remedies.plain(ratio * backbone)
        elif stages and not any(one in _STAGE_WORDS or part in one for one in stages):
            found.append(f'{part} is trained in none of the stages')
    return Hit({'what': ', '.join(found)}, settings) if found else None


def _stages(facts: Facts) -> list:
    hooks = facts.run.settings.get('default_hooks')
    staged = hooks.get('staged_training') if isinstance(hooks, dict) else None
    stages = staged.get('stages') if isinstance(staged, dict) and 'Staged' in str(staged.get('type')) else None
    trained = [one.get('train') for one in stages if isinstance(one, dict)] if isinstance(stages, list) else []
    return [one for one in trained if isinstance(one, (str, list))]


def mask_rate_low(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """The mask head's rate far below the box head's."""
    mask, box = (facts.rates(f'{part}_lr') for part in ('mask_head', 'bbox_head'))
    both = np.isfinite(mask) & np.isfinite(box) & (box > 0)
    ratio = float(np.median(mask[both] / box[both])) if both.any() else None
    if ratio is None:
        if not facts.run.settings:
            return NotJudged('neither rates in the log nor a config')
        box_multiplier = facts.multiplier('bbox_head')
        ratio = facts.multiplier('mask_head') / box_multiplier if box_multiplier else 1.0
    if not 0 < ratio < limit['ratio']:
        return None
    key, like = facts.key_of('mask_head') or 'mask_head', facts.multiplier('bbox_head')
    settings = {f'{remedies.CUSTOM_KEYS}.{key}.lr_mult': remedies.plain(like)} if like > 0 else {}
    return Hit({'ratio': ratio}, settings)


def rate_too_high(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """A rate far above the linear rule's, and a loss that rose with it from the first log lines on."""
    rates = facts.base_rates[np.isfinite(facts.base_rates)]
    batch = facts.setting('train_dataloader.batch_size')
    if not len(rates) or not isinstance(batch, int) or batch < 1:
        return NotJudged('no learning rate in the log, or no batch size in the config')
    if facts.uses_adam:
        return NotJudged('the linear rule is for SGD')
    part = max(PART_PATHS, key=facts.multiplier)
    rate = float(rates.max()) * facts.multiplier(part)
    times = rate / (LINEAR_RATE * batch / LINEAR_BATCH)
    clip = [facts.setting(f'optim_wrapper.clip_grad.{name}') for name in ('max_norm', 'norm_type')]
    if times < limit['clipped' if remedies.is_clipped(*clip) else 'times']:
        return None
    totals = np.array([number(line.get('loss', math.nan)) for line in facts.run.train])
    start = totals[np.isfinite(totals)][: max(LEVEL_LINES, len(totals) // 3)]
    values = {'part': part, 'rate': rate, 'times': times}
    if len(start) >= LEVEL_LINES and start.max() >= limit['rise'] * start[0]:
        rose = f'; the loss rose with it, from {start[0]:.3g} to {start.max():.3g}'
        return Hit(values | {'rose': rose}, remedies.calmer(facts))
    # a batch may be shared by GPUs that the records say nothing of, and then the rate is as planned
    rose = ' (on one GPU), and the loss bore it'
    return Hit(values | {'rose': rose}, {}, severity='information', confidence=0.3)


def new_heads_at_backbone_rate(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """New tensors of the mask head beside a backbone from a checkpoint, at one rate."""
    if not facts.run.groups:
        return NotJudged('no param_groups.json beside the log (mmext.GroupLRHook writes it)')
    tensors, backbone = facts.new_tensors('mask_head'), facts.multiplier('backbone')
    trained = any(row.get('trainable') for row in facts.groups('backbone'))
    if not tensors or not trained or facts.new_tensors('backbone') or backbone <= 0:
        return None
    ratio = facts.multiplier('mask_head') / backbone
    if not 0 < ratio < limit['ratio']:
        return None
    values, settings = {'tensors': tensors, 'ratio': ratio}, remedies.higher_mask_rate(facts)[0]
    risen = late_rise(facts)[1]
    if facts.full_length and risen is not None and risen.low > 0 and risen.value >= limit['rise']:
        unready = f' When the run ended the mask AP was still rising, by {risen.value:.3f} over the last validations.'
        return Hit(values | {'unready': unready}, settings, severity='warning', confidence=0.7)
    return Hit(values | {'unready': ''}, settings)


def mask_loss_weight(facts: Facts, limit: Mapping[str, float]) -> Hit | None:
    """A mask loss whose weight lets it vanish beside the box head's losses."""
    prefix = 'model.roi_head.'
    found = {
        key: float(value)
        for key, value in facts.run.config.items()
        if key.startswith(prefix) and key.endswith('.loss_weight') and isinstance(value, (int, float)) and value >= 0
    }
    masks = {key: value for key, value in found.items() if key.startswith(f'{prefix}mask_head')}
    others = [value for key, value in found.items() if key.startswith(f'{prefix}bbox_head') and value > 0]
    low = {key: value for key, value in masks.items() if others and value < limit['ratio'] * min(others)}
    if not low or len(low) < len(masks):  # of several mask losses one may well be a small addition
        return None
    return Hit({'weight': min(low.values()), 'others': min(others)}, {key: min(others) for key in low})


def rates_not_as_planned(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """Logged rates whose ratio to the base rate is not the planned multiplier."""
    base, worst = facts.base_rates, None
    judged = False
    for row in facts.run.groups:
        name, multiplier = row.get('name'), row.get('multiplier')
        if not isinstance(name, str) or not isinstance(multiplier, (int, float)) or multiplier <= 0:
            continue
        rates = facts.rates(f'{name}_lr')
        both = np.isfinite(rates) & np.isfinite(base) & (base > 0) & (rates > 0)
        both[:-_LATEST] = False  # before a resume other multipliers may have been planned
        if not both.any():
            continue
        judged = True
        off = np.abs(np.log(rates[both] / base[both] / multiplier))
        if worst is None or off.max() > worst[0]:
            place = np.flatnonzero(both)[int(off.argmax())]
            worst = (float(off.max()), name, multiplier, float(rates[place] / base[place]), facts.steps[place])
    if not judged:
        return NotJudged('no param_groups.json beside the log (mmext.GroupLRHook writes it)')
    if worst[0] <= math.log(limit['factor']):
        return None
    _, part, planned, used, step = worst
    return Hit({'part': part, 'planned': planned, 'used': used, 'step': step}, remedies.without_floor(facts))


def warm_up_unfinished(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """A run that ended while its rate was still being warmed up."""
    rates = facts.base_rates[np.isfinite(facts.base_rates)]
    if not facts.ended:
        return NotJudged('the run has not ended')
    if len(rates) < 2:
        return NotJudged('no learning rate in the log')
    rising = np.all(np.diff(rates) >= 0) and rates[-1] > limit['factor'] * max(rates[0], 1e-12)
    # a rate that has reached its height stays there for a line at least
    if not rising or rates[-1] <= rates[-2] * (1 + 1e-6):
        return None
    return Hit({'first': rates[0], 'last': rates[-1], 'step': facts.iterations}, remedies.warm_up(facts))


def few_iterations(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """A run too short for anything to be learnt."""
    if not facts.full_length:
        return NotJudged('the run has not reached its planned length')
    if facts.iterations >= limit['iterations'] or facts.iterations <= 0:
        return None
    factor = max(2.0, limit['iterations'] / facts.iterations)
    return Hit({'iterations': facts.iterations, 'enough': limit['iterations']}, remedies.longer(facts, factor))


def few_images(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """A training set of a handful of images, by the iterations of an epoch."""
    batch = facts.setting('train_dataloader.batch_size')
    if facts.epoch_length is None or not isinstance(batch, int) or facts.done < 2:
        return NotJudged('the length of an epoch is not in the log, or the batch size not in the config')
    images = facts.epoch_length * batch
    return Hit({'images': images}) if images <= limit['images'] else None


def no_positive_rois(facts: Facts, limit: Mapping[str, float]) -> Hit | NotJudged | None:
    """Mask losses of exactly 0: no proposal was matched with an object."""
    mask = facts.families.get('mask', np.array([]))
    mask = mask[np.isfinite(mask)]
    if len(mask) < 3:
        return NotJudged(f'log lines with a mask loss: {len(mask)}, needed: 3')
    share = float((mask[len(mask) // 2 :] == 0).mean())
    return Hit({'share': share}) if share >= limit['share'] else None
