"""Config settings that mend what a diagnosis finds: dotted key to value, computed from what the run was told. No torch."""

from collections.abc import Mapping

from mmext.analysis.facts import Facts
from mmext.analysis.runs import AP_METRICS

CUSTOM_KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
# S0's ratio of the heads to the backbone, the next one it tries when masks are still small after ten epochs, and the RPN's
HEADS_RATIO, HEADS_RATIO_MORE, RPN_RATIO = 10, 15, 5
# S0's way out of an unstable training: base rate 1e-3 at a batch of 2, heads at 5 times that
CALM_RATE, CALM_BATCH, CALM_RATIO = 1e-3, 2, 5
CLIP_NORM = 1.0
WARM_UP_SHARE = 0.05
MASK_AP = AP_METRICS['mask AP']

# keys of a scheduler that count epochs or iterations
_LENGTHS = ('end', 'T_max', 'total_steps')


def as_line(key: str, value: object) -> str:
    """A setting as ``--cfg-options`` takes it."""
    text = '[' + ','.join(map(str, value)) + ']' if isinstance(value, (list, tuple)) else str(value)
    return f'{key}={text}'


def heads_key(facts: Facts) -> str:
    """The custom key to set for the mask head's rate: the one that decides on it now, else S0's for both heads."""
    return facts.key_of('mask_head') or 'roi_head'


def higher_mask_rate(facts: Facts) -> tuple[dict[str, object], str]:
    """More rate for the heads, or where that is used up the next thing to look at; settings and words."""
    backbone = facts.multiplier('backbone') or 1.0
    ratio = facts.multiplier('mask_head') / backbone
    key = f'{CUSTOM_KEYS}.{heads_key(facts)}.lr_mult'
    if ratio < HEADS_RATIO:
        return {key: plain(HEADS_RATIO * backbone)}, (
            f"The mask head learns at {ratio:.3g} times the backbone's rate; new heads take {HEADS_RATIO} times."
        )
    if ratio < HEADS_RATIO_MORE:
        settings = {key: plain(HEADS_RATIO_MORE * backbone), **longer(facts, 1.5)}
        return settings, f"The heads have {ratio:.3g} times the backbone's rate already: give them more, and more epochs."
    return {}, (
        f"The heads have {ratio:.3g} times the backbone's rate already, so it is hardly the rate: look at the annotations "
        'with `mmext check CONFIG --show DIR`.'
    )


def longer(facts: Facts, factor: float) -> dict[str, object]:
    """A longer run, and schedulers that keep their place in it."""
    if facts.planned is None:
        return {}
    key = 'train_cfg.max_epochs' if facts.by_epoch else 'train_cfg.max_iters'
    settings: dict[str, object] = {key: round(facts.planned * factor)}
    for i, scheduler in enumerate(facts.schedulers):
        in_epochs = scheduler.get('by_epoch', True) is True
        if not in_epochs and facts.by_epoch:
            continue  # a warm-up in iterations does not grow with the run
        for name in _LENGTHS:
            value = scheduler.get(name)
            if isinstance(value, int) and value * 2 > facts.planned:
                settings[f'param_scheduler.{i}.{name}'] = round(value * factor)
        milestones = scheduler.get('milestones')
        if isinstance(milestones, list) and all(isinstance(one, int) for one in milestones):
            settings[f'param_scheduler.{i}.milestones'] = [round(one * factor) for one in milestones]
    return settings


def calmer(facts: Facts) -> dict[str, object]:
    """Lower rates and clipped gradients."""
    rate, settings = facts.setting('optim_wrapper.optimizer.lr'), {}
    batch = facts.setting('train_dataloader.batch_size')
    calm = CALM_RATE * (batch if isinstance(batch, int) else CALM_BATCH) / CALM_BATCH
    if isinstance(rate, (int, float)) and rate > 0:
        settings['optim_wrapper.optimizer.lr'] = plain(calm if rate > calm and not facts.uses_adam else rate / 5)
    for key, options in facts.custom_keys.items():
        multiplier = options.get('lr_mult')
        if isinstance(multiplier, (int, float)) and multiplier > CALM_RATIO:
            settings[f'{CUSTOM_KEYS}.{key}.lr_mult'] = CALM_RATIO
    return settings | clipped(facts)


def is_clipped(max_norm: object, norm_type: object = None) -> bool:
    """Gradients are clipped to a Euclidean norm of CLIP_NORM or less; without a type the norm is that, as in PyTorch."""
    return isinstance(max_norm, (int, float)) and max_norm <= CLIP_NORM and norm_type in (None, 2)


def clipped(facts: Facts) -> dict[str, object]:
    """Gradients clipped, where they are not."""
    if isinstance(facts.setting('optim_wrapper.clip_grad.max_norm'), (int, float)):
        return {}
    return {'optim_wrapper.clip_grad.max_norm': CLIP_NORM}


def warm_up(facts: Facts) -> dict[str, object]:
    """A warm-up that ends after a twentieth of the run."""
    settings: dict[str, object] = {}
    for i, scheduler in enumerate(facts.schedulers):
        kind = str(scheduler.get('type')).rpartition('.')[2]
        if kind == 'WarmupShareLR':
            settings[f'param_scheduler.{i}.share'] = WARM_UP_SHARE
        elif kind in ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR') and 'end' in scheduler:
            whole = (facts.planned or facts.done) if scheduler.get('by_epoch', True) else facts.iterations
            settings[f'param_scheduler.{i}.end'] = max(1, round(WARM_UP_SHARE * whole))
    return settings


def without_floor(facts: Facts) -> dict[str, object]:
    """Schedulers without a lowest rate in absolute terms, which would undo the ratio between parts."""
    return {
        f'param_scheduler.{i}.{name}': 0
        for i, scheduler in enumerate(facts.schedulers)
        for name in ('eta_min', 'min_value')
        if isinstance(scheduler.get(name), (int, float)) and scheduler[name] > 0
    }


def follow_mask_ap(facts: Facts) -> dict[str, object]:
    """The best checkpoint by mask AP, and whatever followed the validation loss follows it too."""
    settings: dict[str, object] = {'default_hooks.checkpoint.save_best': MASK_AP}
    places = ['default_hooks.early_stopping', *(f'param_scheduler.{i}' for i in range(len(facts.schedulers)))]
    for place in places:
        if str(facts.setting(f'{place}.monitor')).startswith('val_loss'):
            settings |= {f'{place}.monitor': MASK_AP, f'{place}.rule': 'greater'}
    return settings


def plain(value: float) -> float | int:
    """A number without needless digits."""
    value = float(f'{value:.4g}')
    return int(value) if value.is_integer() and value >= 1 else value


def words(settings: Mapping[str, object]) -> list[str]:
    """Settings as lines to paste after ``--cfg-options``."""
    return [as_line(key, value) for key, value in settings.items()]
