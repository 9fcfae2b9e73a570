"""Whether a config's schedule fits the length of its run, and whether its rates are ones that anybody has trained with."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config
from torch import nn
from torch.optim import Optimizer

from mmext.analysis.findings import Finding, first
from mmext.analysis.remedies import CLIP_NORM, is_clipped
from mmext.errors import InputError
from mmext.hooks.staged_training import length_mistakes, read_stages
from mmext.optim import part_of
from mmext.optim.schedule import dry_run, lost_ratios

_found = partial(Finding, where='config')

# MMDetection's SGD rate of Mask R-CNN and its batch; another batch takes the rate in proportion (linear rule: Goyal et al.
# 2017, arXiv:1706.02677)
LINEAR_RULE_RATE, LINEAR_RULE_BATCH = 0.02, 16
# MMDetection's AdamW rate of Mask R-CNN with Swin at that batch. Adam's step does not shrink with the gradient, so it is not
# lowered for a smaller batch; for a larger one it rises with the root (Malladi et al. 2022, arXiv:2205.10287)
ADAM_RATE = 1e-4
# how many times that rate a part may have: the most with which a training of ours was stable. Twice for all parts is the
# demo's uniform-5x (docs/demo.md); ten times for the heads is the shipped source model, from random weights, and the default
BOUNDS = {'backbone': 2, 'neck': 2}
HEAD_BOUND = 10
# for SGD with gradients clipped to CLIP_NORM or less, every part: uniform-best of docs/experiment.md, 0.16 at a batch of 4;
# 0.32 was worse there, though it did not diverge
CLIPPED_BOUND = 32
_ADAM = ('Adam', 'AdamW', 'NAdam', 'RAdam')

_WARM_UPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR', 'WarmupShareLR')
_DECAYS = ('CosineAnnealingLR', 'PolyLR', 'OneCycleLR')
_SPANS = ('T_max', 'total_steps')  # how long a decay takes, where not until its end
# of the run: over three times what Goyal et al. 2017 take (5 of 90 epochs); MMDetection's 500 iterations are 0.6 % of its 1x
_LONG_WARM_UP = 0.2
# steps after which a rate can be lowered twice, or once with some of the run left
_LEAST_STEPPED = 3
# of its way down that a decay covers within the run
_UNFINISHED = 0.5
# under this share of its peak a rate teaches nothing; of the run, as a cosine to 0 is there for its last 2 %
_DEAD_RATE, _DEAD_SHARE = 1e-3, 0.1
# a dry run of more takes longer than a second; longer runs are looked at on a coarser scale
_MOST_STEPS = 10_000
# keys of a scheduler that count its steps
_STEP_KEYS = ('begin', 'end', 'T_max', 'step_size', 'total_steps', 'milestones', 'periods')


@dataclass(frozen=True)
class Run:
    """Length of a training on one GPU: ``epochs`` is None when it counts iterations; ``batch`` is images a step of the
    optimizer."""

    epochs: int | None
    epoch_length: int
    iterations: int
    batch: int

    def length(self, by_epoch: bool) -> int:
        """Length in the unit in which a scheduler counts."""
        return self.epochs if by_epoch and self.epochs else self.iterations


def images_an_epoch(dataset: Mapping, images: Mapping[Path, int]) -> int:
    """Images that a data set of the config, wrappers included, gives in one epoch.

    Args:
        dataset: of the config.
        images: annotation file to the number of its images that the data set keeps; one that is missing counts 0.
    """
    if 'datasets' in dataset:
        return sum(images_an_epoch(one, images) for one in dataset['datasets'])
    if 'dataset' in dataset:
        return images_an_epoch(dataset['dataset'], images) * dataset.get('times', 1)
    return images.get(Path(dataset.get('data_root') or '') / (dataset.get('ann_file') or ''), 0)


def run_of(cfg: Config, images: Mapping[Path, int]) -> Run | None:
    """Length of the training; None when it has none, or no images."""
    train_cfg, loader = cfg.get('train_cfg') or {}, cfg.get('train_dataloader') or {}
    number = images_an_epoch(loader['dataset'], images) if loader else 0
    if not number:
        return None
    sampler = loader.get('batch_sampler') or {}
    size = loader.get('batch_size') or sampler.get('batch_size') or 1
    whole = loader.get('drop_last') or sampler.get('drop_last')
    length = max(1, number // size if whole else math.ceil(number / size))
    batch = size * ((cfg.get('optim_wrapper') or {}).get('accumulative_counts') or 1)
    epochs, iterations = train_cfg.get('max_epochs'), train_cfg.get('max_iters')
    if epochs:
        return Run(epochs, length, epochs * length, batch)
    return Run(None, length, int(iterations), batch) if iterations else None


def schedulers_of(cfg: Config) -> dict[str, Mapping]:
    """Every scheduler of a config by its dotted path: it may have one, a list, or either for each optimizer's name."""
    found = cfg.get('param_scheduler') or []
    if isinstance(found, Mapping) and 'type' not in found:
        return {path: one for name in found for path, one in _by_path(found[name], f'param_scheduler.{name}').items()}
    return _by_path(found, 'param_scheduler')


def _by_path(schedulers: Mapping | Sequence[Mapping], path: str) -> dict[str, Mapping]:
    if isinstance(schedulers, Mapping):
        return {path: schedulers}
    return {f'{path}.{number}': one for number, one in enumerate(schedulers)}


def _kind(scheduler: Mapping) -> str:
    kind = scheduler.get('type')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]


def _unit(by_epoch: bool) -> str:
    return 'epochs' if by_epoch else 'iterations'


# ---- schedulers against the length of the run


def schedule_findings(schedulers: Mapping[str, Mapping], run: Run) -> list[Finding]:
    """Warm-ups that do not end, milestones that are not reached, decays that stop half way.

    Args:
        schedulers: dotted path in the config to scheduler.
        run: its length.
    """
    findings = []
    for key, scheduler in schedulers.items():
        by_epoch = scheduler.get('by_epoch', True)
        if by_epoch and not run.epochs and not scheduler.get('convert_to_iter_based'):
            findings.append(
                _found(
                    code='scheduler-never-steps',
                    severity='warning',
                    text=f'{_kind(scheduler)} counts epochs, and a run of max_iters={run.iterations} has none for it: '
                    'the rate stays as it is.',
                    remedy=f'{key}.by_epoch=False, with its numbers in iterations',
                )
            )
        elif scheduler.get('begin', 0) >= _scale(scheduler, run)[0]:
            findings.append(_never_starts(scheduler, key, run))
        elif _kind(scheduler) in _WARM_UPS:
            findings += _warm_up(scheduler, key, run)
        elif _kind(scheduler) in ('MultiStepLR', 'StepLR'):
            findings += _milestones(scheduler, key, run)
        elif _kind(scheduler) in _DECAYS:
            findings += _decay(scheduler, key, run)
    return findings


def _scale(scheduler: Mapping, run: Run) -> tuple[int, int]:
    """Length of the run and first step of a scheduler, both in its own unit."""
    by_epoch = scheduler.get('by_epoch', True)
    length = run.length(by_epoch)
    if by_epoch and not run.epochs:  # converted: it counts passes over the data
        length = max(1, run.iterations // run.epoch_length)
    return length, scheduler.get('begin', 0)


def _never_starts(scheduler: Mapping, key: str, run: Run) -> Finding:
    length, begin = _scale(scheduler, run)
    start = length // 2 if _kind(scheduler) in _DECAYS else 0
    # a span that was meant for another run would not fit the new begin either
    remedy = [f'{key}.begin={start}', *(f'{key}.{name}={length - start}' for name in _SPANS if scheduler.get(name))]
    if scheduler.get('end'):
        # a warm-up keeps its length
        end = min(length, scheduler['end'] - begin) if _kind(scheduler) in _WARM_UPS else length
        remedy.append(f'{key}.end={end}')
    return _found(
        code='scheduler-never-starts',
        severity='warning',
        text=f'{_kind(scheduler)} begins after {begin} {_unit(scheduler.get("by_epoch", True))}, and the run has {length}: '
        'it never acts.',
        remedy=' '.join(remedy),
    )


def _warm_up(scheduler: Mapping, key: str, run: Run) -> list[Finding]:
    if _kind(scheduler) == 'LinearLR' and scheduler.get('start_factor', 1 / 3) >= scheduler.get('end_factor', 1):
        return []  # a decay
    length, begin = _scale(scheduler, run)
    by_epoch = scheduler.get('by_epoch', True)
    if _kind(scheduler) == 'WarmupShareLR':
        share, end = scheduler.get('share', 0.05), None
    else:
        end = scheduler.get('end', length)
        share = end / length
    remedy = f"{key} as dict(type='mmext.WarmupShareLR', share=0.05, start_factor=0.001, by_epoch=False)"
    short = round(0.05 * length)
    if not by_epoch and short > 1:  # a scheduler takes two steps or more: whole epochs are too coarse for a short run
        remedy = f'{key}.end={begin + short}\nor, following the run: {remedy}'
    if share >= 1 and begin == 0:
        return [
            _found(
                code='warm-up-never-over',
                severity='severe',
                text=f'The warm-up takes {end} {_unit(by_epoch)} and the run has {length}: the rates that the config names '
                f'are never reached, at the end they are at {100 / share:.0f} % or less.',
                remedy=remedy,
            )
        ]
    if share > _LONG_WARM_UP:
        took = f'{end} of {length} {_unit(by_epoch)}, ' if end else ''
        return [
            _found(
                code='warm-up-long',
                severity='warning',
                text=f'The warm-up takes {took}{100 * share:.0f} % of the run. Usual are 1 to 5 %.',
                remedy=remedy if end else f'{key}.share=0.05',
            )
        ]
    return []


def _milestones(scheduler: Mapping, key: str, run: Run) -> list[Finding]:
    length, begin = _scale(scheduler, run)
    by_epoch = scheduler.get('by_epoch', True)
    step = scheduler.get('step_size')
    milestones = [step] if step else list(scheduler.get('milestones', ()))
    until = min(length, scheduler.get('end', length))
    missed = [milestone for milestone in milestones if begin + milestone >= until]
    if not missed:
        return []
    named = ', '.join(map(str, missed))
    span = length - begin
    if span < _LEAST_STEPPED:
        remedy = f"{key} as a cosine, dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)"
    else:
        # 8 and 11 of 12, as in MMDetection's 1x; the step after the last is none
        wanted = sorted({min(span - 1, round(span * share)) for share in (2 / 3, 11 / 12)})
        remedy = f'{key}.step_size={wanted[0]}' if step else f'{key}.milestones={wanted}'.replace(' ', '')
        remedy += f' {key}.end={length}' if until < length else ''
    return [
        _found(
            code='milestone-never-reached',
            severity='warning',
            text=f'{_kind(scheduler)} lowers the rate after {_unit(by_epoch)} {named}, and the run has {length}'
            f'{f", this scheduler ending at {until}" if until < length else ""}: {len(missed)} of {len(milestones)} steps '
            'never come.',
            count=len(missed),
            remedy=remedy,
        )
    ]


def _decay(scheduler: Mapping, key: str, run: Run) -> list[Finding]:
    length, begin = _scale(scheduler, run)
    span = scheduler.get('T_max') or scheduler.get('total_steps') or scheduler.get('end', length) - begin
    if span <= 0:  # MMEngine refuses it, which scheduler-not-built says
        return []
    share = (length - begin) / span
    if share >= _UNFINISHED:
        return []
    unit = _unit(scheduler.get('by_epoch', True))
    set_to = 'T_max' if scheduler.get('T_max') else 'total_steps' if scheduler.get('total_steps') else 'end'
    return [
        _found(
            code='decay-unfinished',
            severity='warning',
            text=f'{_kind(scheduler)} comes down over {span} {unit}, and the run leaves it {length - begin}: it ends after '
            f'{100 * share:.0f} % of its way, with high rates.',
            remedy=f'{key}.{set_to}={length if set_to == "end" else length - begin}',
        )
    ]


def plateau_findings(schedulers: Mapping[str, Mapping], train_cfg: Mapping, run: Run) -> list[Finding]:
    """A schedule that follows the validation, in a run with too few validations for it ever to act.

    Args:
        schedulers: dotted path in the config to scheduler.
        train_cfg: of the config.
        run: its length.
    """
    length = run.epochs or run.iterations
    validations = math.ceil(length / train_cfg.get('val_interval', 1))
    mend = f'{{}}.patience={validations // 3}' if validations > 5 else 'train_cfg.val_interval=1'
    return [
        _found(
            code='plateau-never-acts',
            severity='warning',
            text=f'{_kind(scheduler)} waits for more than {scheduler.get("patience", 10)} validations without improvement, '
            f'and the run has {validations}: the rates are never lowered.',
            remedy=f'{mend.format(key)}, or a cosine: docs/fine-tuning.md',
        )
        for key, scheduler in schedulers.items()
        if _kind(scheduler) == 'ReduceOnPlateauLR' and validations <= scheduler.get('patience', 10) + 1
    ]


# ---- rates


def part_rates(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Base rate of each part that learns, the one that most of its parameters have, from any constructor's groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weight: dict[str, dict[float, int]] = {}
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if parameter.requires_grad:
                rates = weight.setdefault(part_of(names[id(parameter)]), {})
                rate = group.get('initial_lr', group['lr'])
                rates[rate] = rates.get(rate, 0) + parameter.numel()
    return {part: max(rates, key=rates.get) for part, rates in weight.items()}


def _coarse(schedulers: Sequence[Mapping], run: Run) -> tuple[list[dict], int, int, int | None]:
    """The same schedule on fewer steps: schedulers, epochs, iterations an epoch, iterations of an iteration-based run."""
    factor = min(1, _MOST_STEPS / run.iterations)
    if factor == 1:
        return [dict(one) for one in schedulers], run.epochs or 1, run.epoch_length, None if run.epochs else run.iterations
    length = max(1, int(run.epoch_length * factor))

    def shorter(value):
        # a scheduler needs two steps between its begin and its end
        return type(value)(map(shorter, value)) if isinstance(value, (list, tuple)) else max(2, round(value * factor))

    shortened = []
    for scheduler in schedulers:
        one = copy.deepcopy(dict(scheduler))
        if not one.get('by_epoch', True):
            one |= {key: shorter(one[key]) for key in _STEP_KEYS if one.get(key)}
            if one.get('end', 4) <= one.get('begin', 0) + 1:
                one['end'] = one['begin'] + 2
        shortened.append(one)
    return shortened, run.epochs or 1, length, None if run.epochs else _MOST_STEPS


def ratio_findings(table: np.ndarray, lost: Sequence[str], rates: Mapping[str, float], run: Run) -> list[Finding]:
    """A scheduler that undoes the ratio between parts, and rates that are next to nothing for much of the run.

    Args:
        table: rates (I, G) of a dry run, in the order of ``rates``.
        lost: what the dry run itself found of it.
        rates: base rate of each part.
        run: its length.
    """
    findings = []
    undone = [*lost_ratios(table, list(rates), list(rates.values()), run.iterations), *lost]
    if undone:
        findings.append(
            _found(
                code='ratio-undone',
                severity='warning',
                text='A scheduler undoes the ratio between the parts: its floor or its peak is one number for all of them.',
                count=len(undone),
                examples=first(undone),
                remedy='eta_min_ratio=0.01 instead of eta_min, min_value=0 of ReduceOnPlateauLR; to see it: '
                '`mmext groups CONFIG --schedule`',
            )
        )
    peak = table.max()
    dead = float((table.max(1) < _DEAD_RATE * peak).sum()) / len(table)
    # at its start a warm-up is as low; that is warm-up-long's
    after = int(np.argmax(table.max(1) >= peak * (1 - 1e-9)))
    dead_after = float((table[after:].max(1) < _DEAD_RATE * peak).sum()) / len(table)
    if dead_after > _DEAD_SHARE:
        findings.append(
            _found(
                code='rate-near-zero',
                severity='warning',
                text=f'For {100 * dead:.0f} % of the run all rates are under a thousandth of their peak, {peak:.2g}: '
                'nothing is learnt then.',
                remedy='end of the scheduler at the end of the run (leave end and T_max out), or a shorter run',
            )
        )
    return findings


def safe_rate(optimizer: str, batch: int) -> float | None:
    """The rate that MMDetection trains Mask R-CNN with, for another batch; None for an optimizer without such a rule."""
    if optimizer == 'SGD':
        return LINEAR_RULE_RATE * batch / LINEAR_RULE_BATCH
    return ADAM_RATE * max(1, batch / LINEAR_RULE_BATCH) ** 0.5 if optimizer in _ADAM else None


def bound_findings(
    peaks: Mapping[str, float], optimizer: str, base_rate: float, batch: int, with_clip: bool = False
) -> list[Finding]:
    """Parts whose rate is above the stated bound.

    Args:
        peaks: the highest rate of each part over the run.
        optimizer: its type.
        base_rate: of the config.
        batch: images a step, on one GPU.
        with_clip: gradients are clipped to a norm of CLIP_NORM or less.
    """
    usual = safe_rate(optimizer, batch)
    if usual is None:
        return []
    times = {part: rate / usual for part, rate in peaks.items()}
    is_sgd = optimizer == 'SGD'
    bounds = {part: CLIPPED_BOUND if is_sgd and with_clip else BOUNDS.get(part, HEAD_BOUND) for part in times}
    high = {part: value for part, value in times.items() if value > bounds[part] * (1 + 1e-6)}
    if not high:
        return []
    factor = min(bounds[part] / value for part, value in high.items())
    whose = 'the linear rule gives' if is_sgd else f'MMDetection uses with {optimizer}'
    clip = ''
    if is_sgd and not with_clip and max(high.values()) <= CLIPPED_BOUND * (1 + 1e-6):
        clip = f'\nor optim_wrapper.clip_grad.max_norm={CLIP_NORM:g}, with which {CLIPPED_BOUND} times was stable'
    examples = [
        f'{part}: {peaks[part]:.3g} is {value:.3g} times {usual:.3g}, bound {bounds[part]} times'
        for part, value in high.items()
    ]
    return [
        _found(
            code='rate-unsafe',
            severity='warning',
            text=f'{", ".join(high)} learn at up to {max(high.values()):.3g} times the rate that {whose} at a batch of '
            f'{batch} ({usual:.3g}): above what is known to be stable.',
            count=len(high),
            examples=first(examples),
            remedy=f'optim_wrapper.optimizer.lr={base_rate * factor:.2g}\n'
            'or a smaller lr_mult in optim_wrapper.paramwise_cfg.custom_keys; on several GPUs their images count too' + clip,
        )
    ]


def batch_findings(cfg: Config, batch: int) -> list[Finding]:
    """The base rate of SGD belongs to another batch than the loader's on one GPU (information)."""
    scale = cfg.get('auto_scale_lr') or {}
    base, rate = scale.get('base_batch_size'), cfg.optim_wrapper.optimizer.get('lr')
    # the linear rule is SGD's
    if not base or not rate or base == batch or scale.get('enable') or _kind(cfg.optim_wrapper.optimizer) != 'SGD':
        return []
    return [
        _found(
            code='rate-for-another-batch',
            severity='information',
            text=f'The rate {rate:g} is for a batch of {base}; on one GPU the loader gives {batch}, for which the linear '
            f'rule gives {rate * batch / base:.3g}.',
            remedy=f'`mim train mmdet CONFIG --auto-scale-lr`, or optim_wrapper.optimizer.lr={rate * batch / base:.3g}',
        )
    ]


def multiplier_findings(
    model: nn.Module, rates: Mapping[str, float], base_rate: float, fresh: Mapping[str, str]
) -> list[Finding]:
    """Parts with a rate of their own of which the checkpoint fills every tensor.

    Args:
        model: the config's, built.
        rates: base rate of each part.
        base_rate: of the optimizer.
        fresh: tensors that the checkpoint does not fill.
    """
    new = {part_of(name) for name, _ in model.named_parameters() if name in fresh}
    raised = {part: rate / base_rate for part, rate in rates.items() if part not in new and rate > base_rate * (1 + 1e-6)}
    if not raised or not new:
        return []
    # the other way round than differential rates are meant
    above = [part for part in raised if rates[part] > max(rates.get(name, 0) for name in new) * (1 + 1e-6)]
    listed = ', '.join(f'{part} ({times:.3g} times)' for part, times in raised.items())
    remedy = '\n'.join(f'optim_wrapper.paramwise_cfg.custom_keys.{part}.lr_mult=1' for part in above or raised)
    slower = f', which learn more slowly than {", ".join(above)}' if above else ''
    return [
        _found(
            code='multiplier-upside-down' if above else 'multiplier-on-loaded-part',
            severity='warning' if above else 'information',
            text=f'Above the base rate, though the checkpoint fills all of it: {listed}. New tensors are in '
            f'{", ".join(sorted(new))}{slower}.',
            count=len(raised),
            remedy=remedy if above else f'Nothing when it is meant, as in the differential schedules. Else:\n{remedy}',
        )
    ]


def rate_findings(
    cfg: Config, run: Run, model: nn.Module, optimizer: Optimizer, fresh: Mapping[str, str] | None
) -> list[Finding]:
    """All that can be said of the rates of a config, part by part.

    Args:
        cfg: the config.
        run: its length.
        model: built.
        optimizer: of the model, built by the config's constructor.
        fresh: tensors that the checkpoint does not fill; None when nothing tells.
    """
    rates, base = part_rates(model, optimizer), cfg.optim_wrapper.optimizer.get('lr')
    findings = batch_findings(cfg, run.batch)
    if fresh and base:
        findings += multiplier_findings(model, rates, base, fresh)
    schedulers, epochs, length, max_iters = _coarse(list(schedulers_of(cfg).values()), run)
    try:
        table, _, lost = dry_run(schedulers, list(rates.values()), epochs, length, max_iters)
    except Exception as error:  # whatever MMEngine's schedulers say of a person's settings
        return [
            *findings,
            _found(
                code='scheduler-not-built',
                severity='severe',
                text=f'param_scheduler cannot be built: {type(error).__name__}: {error}',
            ),
        ]
    findings += ratio_findings(table, lost, rates, run)
    scale = cfg.get('auto_scale_lr') or {}
    factor = run.batch / scale['base_batch_size'] if scale.get('enable') and scale.get('base_batch_size') else 1
    wrong_stages, stage_factor = stage_findings(cfg, run)
    factor *= stage_factor
    # a warm-up that is never over hides how high the rates are meant to be; OneCycleLR takes no notice of the config's
    planned = [0] * len(rates) if any(_kind(one) == 'OneCycleLR' for one in schedulers) else list(rates.values())
    peaks = {part: max(found) * factor for part, *found in zip(rates, table.max(0).tolist(), planned, strict=True)}
    findings += wrong_stages
    kind = _kind(cfg.optim_wrapper.optimizer)
    with_rois = 'roi_head' in (cfg.get('model') or {})
    if kind in _ADAM and not with_rois:  # RTMDet is published with 4e-3
        return findings
    clip = cfg.optim_wrapper.get('clip_grad') or {}
    with_clip = with_rois and is_clipped(clip.get('max_norm'), clip.get('norm_type'))
    return findings + bound_findings(peaks, kind, base or 0, run.batch, with_clip)


def stage_findings(cfg: Config, run: Run) -> tuple[list[Finding], float]:
    """What is wrong with the stages of a run, and the largest factor that they put on all rates.

    Args:
        cfg: the config.
        run: its length.
    """
    hook = (cfg.get('default_hooks') or {}).get('staged_training') or {}
    base = cfg.optim_wrapper.optimizer.get('lr')
    if _kind(hook) != 'StagedTrainingHook' or not base:
        return [], 1
    try:
        stages = read_stages(hook.get('stages'))
        mistakes, factor = length_mistakes(stages, run.epochs or 1), max(stage.factor(base) for stage in stages)
    except InputError as error:
        mistakes, factor = str(error).splitlines(), 1
    return [_found(code='stages-wrong', severity='severe', text=mistake) for mistake in mistakes], factor
