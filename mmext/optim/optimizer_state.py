"""Optimizer state by parameter name: a checkpoint's momentum under other groups, rates and schedules."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.param_scheduler import (
    OneCycleParamScheduler,
    ReduceOnPlateauParamScheduler,
    _ParamScheduler,
)
from torch import nn

from mmext.analysis.runs import flatten, parse_config
from mmext.errors import InputError, some
from mmext.optim.param_groups import part_of
from mmext.optim.schedule import scale_base_values, step
from mmext.registry import PARAM_SCHEDULERS

# a scheduler's lists with one value for each parameter group
_BY_GROUP = ('base_values', '_last_value')
# what a plateau scheduler has learnt of the validation so far
_PLATEAU = ('best', 'num_bad_epochs', 'cooldown_counter', 'last_step', '_global_step')
_BUFFERS_OF_NORMS = ('running_mean', 'running_var', 'num_batches_tracked')
# AdamW is Adam with another rule for the decay; their moments are the same
_SAME_STATE = {'AdamW': 'Adam'}
# options of an optimizer that need state of their own
_STATE_OF_OPTION = {'amsgrad': 'max_exp_avg_sq', 'centered': 'grad_avg'}
_ROUNDING = 1e-6


@dataclass(frozen=True)
class OldRun:
    """What a checkpoint says of a run. Of each parameter: ``settings`` and index of its ``group``, ``states`` (momentum and
    the like). ``base``: MMEngine's placeholder for the rate without multipliers. ``schedulers``: their states, with the
    ``types`` that the run's config names. ``guarded``: the factor by which the loss guard has reduced the rates."""

    settings: dict[str, dict]
    group: dict[str, int]
    states: dict[str, dict]
    base: dict
    schedulers: list[dict]
    types: list[type | None]
    epochs: int
    iterations: int
    guarded: float


@dataclass(frozen=True)
class GroupChange:
    """One parameter group before and after: rates in the checkpoint (lowest, highest; None when it has no such parameter),
    rate now, and how many of its tensors keep their state."""

    name: str
    old: tuple[float, float] | None
    new: float
    kept: int
    tensors: int


@dataclass(frozen=True)
class Resumed:
    """Outcome of :func:`resume_by_name`: a row for each group, what a person should know, and whether any rate differs."""

    rows: tuple[GroupChange, ...]
    lines: tuple[str, ...]
    changed: bool


def parameter_names(
    optimizer: Mapping, state_dict: Mapping[str, torch.Tensor], model: nn.Module, same_freezing: bool = True
) -> list[str]:
    """Name of each parameter of a saved optimizer, in the order of its indices.

    Our checkpoints store the names. For others they follow from the order in which MMEngine's constructors take them, that
    of the model: all parameters when there is one group for all, else the trainable ones. The state's shapes must agree.

    Args:
        optimizer: saved state of a torch optimizer.
        state_dict: weights in the same checkpoint.
        model: the model now; says which names are buffers and which parameters are frozen.
        same_freezing: whether the old config froze what the config now freezes.

    Raises:
        InputError: the order cannot be told for sure.
    """
    groups = optimizer['param_groups']
    indices = [index for group in groups for index in group['params']]
    if all('param_names' in group for group in groups):
        by_index = dict(zip(indices, (name for group in groups for name in group['param_names']), strict=True))
        return [by_index[index] for index in sorted(by_index)]
    buffers = {name for name, _ in model.named_buffers()}
    # a parameter that two modules share has two names among the weights and one in the optimizer
    once = {name for name, _ in model.named_parameters()}
    second_names = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    no_parameters = buffers | second_names
    everything = [n for n in state_dict if n not in no_parameters and n.rpartition('.')[2] not in _BUFFERS_OF_NORMS]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    trainable = [name for name in everything if name not in frozen]
    candidates = [names for names in (everything, trainable) if len(names) == len(indices)]
    if not candidates:
        raise InputError(
            f'The optimizer in the checkpoint has {len(indices)} parameters without names. Its model has {len(everything)}, '
            f'of which {len(trainable)} are trainable in the model now: neither fits, so it cannot be told which momentum '
            'is whose. Resume with the frozen_stages of the old run, or start from its weights alone: load_from=FILE, '
            'resume=False.'
        )
    names = candidates[0]
    if names is not everything and not same_freezing:
        raise InputError(
            'The optimizer in the checkpoint has no names, and its run froze other parts of the model (frozen_stages) than '
            'the config does now, so it cannot be told which momentum is whose. Resume with the frozen_stages of the old '
            'run, or start from its weights alone: load_from=FILE, resume=False.'
        )
    wrong = [
        f'{names[index]} {tuple(state_dict[names[index]].shape)} has state of {tuple(value.shape)}'
        for index, state in optimizer['state'].items()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim and value.shape != state_dict[names[index]].shape
    ]
    if wrong:
        raise InputError(
            'The optimizer in the checkpoint has no names, and its shapes are not those of the model in order: '
            f'{some(wrong, 3)}. Start from its weights alone: load_from=FILE, resume=False.'
        )
    return names


def read_old(checkpoint: Mapping, model: nn.Module, config: Mapping, same_freezing: bool) -> OldRun:
    """What a checkpoint that MMEngine's Runner wrote says of its run; its optimizer may be missing.

    Args:
        checkpoint: as loaded.
        model: the model now.
        config: the settings of the old run.
        same_freezing: see :func:`parameter_names`.

    Raises:
        InputError: see :func:`parameter_names`.
    """
    settings, group_of, states, base = {}, {}, {}, {}
    if 'optimizer' in checkpoint:
        optimizer = checkpoint['optimizer']
        names = parameter_names(optimizer, checkpoint['state_dict'], model, same_freezing)
        groups = optimizer['param_groups']
        group_of = {names[index]: number for number, group in enumerate(groups) for index in group['params']}
        settings = {name: groups[number] for name, number in group_of.items()}
        states = {names[index]: state for index, state in optimizer['state'].items()}
        base = optimizer.get('base_param_settings') or groups[0]  # a single group is its own base
    meta = checkpoint['meta']
    return OldRun(
        settings=settings,
        group=group_of,
        states=states,
        base=base,
        schedulers=checkpoint.get('param_schedulers') or [],
        types=_scheduler_types(config),
        epochs=meta.get('epoch', 0),
        iterations=meta.get('iter', 0),
        guarded=checkpoint.get('mmext_loss_guard', {}).get('factor', 1.0),
    )


def resume_by_name(
    checkpoint: dict,
    model: nn.Module,
    optim_wrapper: OptimWrapper,
    schedulers: Sequence[_ParamScheduler],
    iterations: int | None = None,
    config: str = '',
) -> Resumed:
    """Rewrite ``checkpoint['optimizer']`` and ``checkpoint['param_schedulers']`` for the optimizer and schedulers of now.

    Momentum and moments go to the parameters of the same name and shape. Rates are those of the config now: base rate ×
    multiplier × the factor that the schedule of now has at this step, with the reductions that the run has had so far
    (plateau, loss guard). When neither rates nor schedules differ, all values are the checkpoint's, bit for bit.

    Args:
        checkpoint: as loaded; changed in place, so that the Runner's own resume does the rest.
        model: without the wrapper of several processes.
        optim_wrapper: as built from the config, its schedulers not yet stepped.
        schedulers: likewise; they are stepped here when rates or schedules differ.
        iterations: at which the run goes on, when that is not the checkpoint's number (an epoch has another length now).
        config: text of the config now.

    Raises:
        InputError: the parameters of the checkpoint's optimizer cannot be told.
    """
    optimizer = optim_wrapper.optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    old_config = _parsed(checkpoint['meta'].get('cfg'))
    old = read_old(checkpoint, model, old_config, _freezing(old_config) == _freezing(_parsed(config)))
    lines: list[str] = []
    if 'optimizer' not in checkpoint:
        lines.append('The checkpoint has no optimizer state (best_*.pth have none): momentum starts from nothing.')
    if not _same_kind(old, optimizer, old_config):
        lines.append(
            f'The optimizer is {type(optimizer).__name__} now and was another one: momentum and moments start from nothing.'
        )
        old = replace(old, states={})

    state, kept, other_shape, without = {}, set(), [], []
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    for index, parameter in enumerate(parameters):
        name = names[parameter]
        if name not in old.states:
            continue
        if _lacks_state(optimizer.defaults, old.states[name]):
            without.append(name)
        elif all(v.shape == parameter.shape for v in old.states[name].values() if isinstance(v, torch.Tensor) and v.ndim):
            state[index] = old.states[name]
            kept.add(name)
        else:
            other_shape.append(name)
    gone = [name for name in old.states if name not in set(names.values())]
    if without:
        lines.append(f'Moments start from nothing: an option of {type(optimizer).__name__} that is on now was off then.')
    if other_shape:
        lines.append(f'Momentum starts from nothing where the shape is another now: {some(other_shape)}.')
    if gone:
        lines.append(f'Momentum is left behind of {len(gone)} tensors that are not in the model now: {some(gone)}.')

    groups = [[names[parameter] for parameter in group['params']] for group in optimizer.param_groups]
    changed = iterations is not None or not _nothing_changed(optim_wrapper, groups, schedulers, old)
    if changed:
        lines += _follow_schedule(optim_wrapper, schedulers, old, old.iterations if iterations is None else iterations)
    else:
        _copy_rates(optim_wrapper, groups, schedulers, old)

    counts = [len(group) for group in groups]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    saved = {
        'state': state,
        'param_groups': [
            {key: value for key, value in group.items() if key != 'params'} | {'params': list(range(start, start + count))}
            for group, start, count in zip(optimizer.param_groups, starts, counts, strict=True)
        ],
    }
    if optim_wrapper.base_param_settings is not None:
        saved['base_param_settings'] = optim_wrapper.base_param_settings
    others = ('state', 'param_groups', 'base_param_settings')
    beside = {key: value for key, value in checkpoint.get('optimizer', {}).items() if key not in others}  # AMP's scale
    checkpoint['optimizer'] = saved | beside
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    rows = [_change(group, members, old, kept) for group, members in zip(optimizer.param_groups, groups, strict=True)]
    return Resumed(tuple(_by_part(rows)), tuple(lines), changed)


def _change(group: Mapping, members: Sequence[str], old: OldRun, kept: set[str]) -> GroupChange:
    rates = [old.settings[name]['lr'] for name in members if name in old.settings]
    name = group.get('name') or part_of(members[0])
    found = (min(rates), max(rates)) if rates else None
    return GroupChange(name, found, group['lr'], sum(member in kept for member in members), len(members))


def _by_part(rows: Sequence[GroupChange]) -> list[GroupChange]:
    """One row for groups of one name and rate: a stock optimizer has a group for every parameter."""
    merged: dict[tuple[str, float], GroupChange] = {}
    for row in rows:
        before = merged.get((row.name, row.new))
        if before:
            ends = [*(before.old or ()), *(row.old or ())]
            both = (min(ends), max(ends)) if ends else None
            row = GroupChange(row.name, both, row.new, before.kept + row.kept, before.tensors + row.tensors)
        merged[row.name, row.new] = row
    return list(merged.values())


def _parsed(text: object) -> dict:
    """A run's settings, read without running them; empty where they are not plain literals."""
    try:
        return parse_config(text) if isinstance(text, str) else {}
    except (SyntaxError, ValueError):
        return {}


def _freezing(config: Mapping) -> dict[str, object]:
    """What a config says of frozen parts of its model, by dotted key."""
    settings = flatten({'model': config.get('model') or {}})
    return {key: value for key, value in settings.items() if 'frozen' in key or 'freeze' in key}


def _lacks_state(options: Mapping, state: Mapping) -> bool:
    """Whether the optimizer now would look for state that the old one never had: ``amsgrad`` switched on, for one."""
    needed = [name for option, name in _STATE_OF_OPTION.items() if options.get(option)]
    if 'centered' in options and options.get('momentum'):  # RMSprop makes it with its first step only
        needed.append('momentum_buffer')
    return any(name not in state for name in needed)


def _same_kind(old: OldRun, optimizer: torch.optim.Optimizer, old_config: Mapping) -> bool:
    now = type(optimizer).__name__
    before = (old_config.get('optim_wrapper') or {}).get('optimizer', {}).get('type')
    if isinstance(before, str):
        before = before.rpartition('.')[2]
        return _SAME_STATE.get(now, now) == _SAME_STATE.get(before, before)
    return all((key in old.base) == (key in optimizer.defaults) for key in ('momentum', 'betas')) or not old.base


def _scheduler_types(config: Mapping) -> list[type | None]:
    cfgs = config.get('param_scheduler') or []
    return [_known_scheduler(cfg.get('type')) for cfg in (cfgs if isinstance(cfgs, list) else [cfgs])]


def _known_scheduler(kind: object) -> type | None:
    """A scheduler class that is registered already: the name comes from a file, nothing is imported for it.

    None for OneCycleLR as well: it keeps a function among its numbers, which a checkpoint has not.
    """
    name = kind.rpartition('.')[2] if isinstance(kind, str) else None
    root = PARAM_SCHEDULERS.parent
    found = (registry.module_dict.get(name) for registry in (PARAM_SCHEDULERS, root, *root.children.values()))
    kinds = (cls for cls in found if isinstance(cls, type) and issubclass(cls, _ParamScheduler))
    return next((cls for cls in kinds if not issubclass(cls, OneCycleParamScheduler)), None)


def _constants(state: Mapping) -> dict:
    counters = (*_BY_GROUP, *_PLATEAU, 'optimizer', 'verbose', 'min_values')
    constants = {key: value for key, value in state.items() if key not in counters and not callable(value)}
    return constants | {'min_values': set(state.get('min_values', ()))}


def _nothing_changed(
    optim_wrapper: OptimWrapper, groups: Sequence[Sequence[str]], schedulers: Sequence[_ParamScheduler], old: OldRun
) -> bool:
    if len(schedulers) != len(old.schedulers):
        return False
    if len(old.types) == len(schedulers) and any(t and t is not type(s) for t, s in zip(old.types, schedulers, strict=True)):
        return False
    for scheduler, state in zip(schedulers, old.schedulers, strict=True):
        if _constants(scheduler.state_dict()) != _constants(state):
            return False
    hyper = {scheduler.param_name for scheduler in schedulers} | {'lr'}
    for group, members in zip(optim_wrapper.optimizer.param_groups, groups, strict=True):
        for name in members:
            settings = old.settings.get(name)
            if settings is None or any(_initial(settings, key) != _initial(group, key) for key in hyper):
                return False
        if any(len({old.settings[name][key] for name in members}) > 1 for key in hyper):
            return False
    base = optim_wrapper.base_param_settings
    return base is None or all(_initial(base, key) == _initial(old.base, key) for key in hyper)


def _initial(settings: Mapping, key: str) -> object:
    return settings.get(f'initial_{key}', settings.get(key))


def _copy_rates(
    optim_wrapper: OptimWrapper, groups: Sequence[Sequence[str]], schedulers: Sequence[_ParamScheduler], old: OldRun
) -> None:
    """Take rates and the schedulers' state as they are in the checkpoint."""
    base = optim_wrapper.base_param_settings
    for key in {scheduler.param_name for scheduler in schedulers} | {'lr'}:
        for group, members in zip(optim_wrapper.optimizer.param_groups, groups, strict=True):
            group[key] = old.settings[members[0]][key]
        if base is not None:
            base[key] = old.base[key]
    for scheduler, state in zip(schedulers, old.schedulers, strict=True):
        for key in vars(scheduler).keys() & state.keys() - {'min_values'}:
            value = state[key]
            if key in _BY_GROUP:  # the last one is the placeholder's
                value = [value[old.group[members[0]]] for members in groups] + value[-1:] * (base is not None)
            setattr(scheduler, key, value)


def _follow_schedule(
    optim_wrapper: OptimWrapper, schedulers: Sequence[_ParamScheduler], old: OldRun, iterations: int
) -> list[str]:
    """Step the schedulers of now to an iteration, then apply the reductions that the old run has had."""
    _step_to(schedulers, old.epochs, iterations)
    factor, lines = _reductions(old)
    if factor != 1:
        lines.append(f'Reductions of the rates so far (plateau, loss guard) are kept: a factor of {factor:.3g}.')
        for group in optim_wrapper.param_groups:
            group['lr'] *= factor
    plateaus = [state for state in old.schedulers if 'num_bad_epochs' in state]
    followers = [s for s in schedulers if isinstance(s, ReduceOnPlateauParamScheduler)]
    for scheduler, state in zip(followers, plateaus, strict=False):
        if (scheduler.monitor, scheduler.rule) == (state['monitor'], state['rule']):
            vars(scheduler).update({key: state[key] for key in _PLATEAU})
        else:
            lines.append(
                f'{type(scheduler).__name__} follows {scheduler.monitor} now, not {state["monitor"]}: it starts anew.'
            )
    scales = {_base_factor(state, old) for state in old.schedulers if 'base_values' in state and _of_rates(state)}
    if len(scales) == 1 and scales != {1.0}:
        scale_base_values(schedulers, *scales)
    for scheduler in schedulers:
        scheduler._last_value = [group[scheduler.param_name] for group in optim_wrapper.param_groups]
    return lines


def _of_rates(state: Mapping) -> bool:
    return state.get('param_name') == 'lr'


def _base_factor(state: Mapping, old: OldRun) -> float:
    """By how much the base values of an old scheduler were scaled during its run."""
    initial = _initial(old.base, state.get('param_name', 'lr'))
    values = state.get('base_values')
    return values[-1] / initial if values and initial and values[-1] != initial else 1.0


def _step_to(schedulers: Sequence[_ParamScheduler], epochs: int, iterations: int) -> None:
    """Step schedulers as a training of so many epochs does, without its validations."""
    ends = {round((epoch + 1) * iterations / epochs) for epoch in range(epochs)} if epochs else set()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # there are no optimizer steps between these
        for iteration in range(1, iterations + 1):
            step(schedulers, epoch_ends=iteration in ends)


def _reductions(old: OldRun) -> tuple[float, list[str]]:
    """The old run's base rate ÷ the rate that its schedule alone would have given; 1 where nothing reduced it."""
    initial, rate = _initial(old.base, 'lr'), old.base.get('lr')
    if not old.schedulers:
        return old.guarded, []
    if not initial:
        return 1.0, []
    if len(old.types) != len(old.schedulers) or None in old.types:
        return old.guarded, [
            'The schedule of the old run cannot be read: rates follow the schedule of now, without reductions by a plateau.'
        ]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=initial)
    optimizer.param_groups[0].update({key: value for key, value in old.base.items() if key.endswith('_lr')}, lr=initial)
    optimizer.param_groups[0]['initial_lr'] = initial
    pure = []
    for kind, state in zip(old.types, old.schedulers, strict=True):
        if issubclass(kind, ReduceOnPlateauParamScheduler) or not _of_rates(state):
            continue
        scheduler = kind.__new__(kind)
        numbers = {key: value for key, value in state.items() if not hasattr(kind, key)}  # no file replaces a method
        vars(scheduler).update(copy.deepcopy(numbers), optimizer=optimizer, verbose=False)
        scheduler.base_values, scheduler.last_step, scheduler._global_step = [initial], -1, -1
        pure.append(scheduler)
    optimizer._global_step = 0
    for scheduler in pure:
        scheduler.step()  # as each one's constructor does
    _step_to(pure, old.epochs, old.iterations)
    planned = optimizer.param_groups[0]['lr']
    factor = rate / planned if planned else 1.0
    return (1.0 if math.isclose(factor, 1, rel_tol=_ROUNDING) else factor), []
