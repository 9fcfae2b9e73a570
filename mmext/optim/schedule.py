"""Dry run of learning-rate schedulers: the rate of each parameter group over a whole run, without training."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.optim.scheduler.param_scheduler import ReduceOnPlateauParamScheduler
from mmengine.registry import PARAM_SCHEDULERS
from rich.table import Table

# from one iteration to the next; a smooth decay stays far below it but for its last steps
_JUMP = math.log(1.25)
_RATIO_TOLERANCE = 0.05


@dataclass(frozen=True)
class Moment:
    """The rates of all groups at one iteration of the run, counted from 1."""

    label: str
    iteration: int
    rates: tuple[float, ...]


def dry_run(
    scheduler_cfgs: Sequence[Mapping],
    rates: Sequence[float],
    max_epochs: int,
    epoch_length: int,
    max_iters: int | None = None,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Rates that MMEngine's own schedulers give, built and stepped as the Runner does it.

    Args:
        scheduler_cfgs: ``param_scheduler`` of a config.
        rates: base rate of each of the G groups.
        max_epochs: epochs of the run.
        epoch_length: iterations an epoch.
        max_iters: length of an iteration-based run, which for MMEngine is one epoch whatever ``epoch_length`` is.

    Returns:
        Rates (I, G) of the I iterations; a remark for each scheduler that follows a validation metric, which a dry run
        leaves at its base rate; and how such a one would undo the ratio between groups.
    """
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=rate) for rate in rates]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedulers, remarks, lost = [], [], []
    iterations = max_iters or max_epochs * epoch_length
    for cfg in scheduler_cfgs:
        cfg = copy.deepcopy(dict(cfg))
        cfg.setdefault('end', max_epochs if cfg.get('by_epoch', True) else iterations)
        scheduler = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer, epoch_length=epoch_length))
        if isinstance(scheduler, ReduceOnPlateauParamScheduler):
            remarks.append(f'{cfg["type"]} follows {scheduler.monitor} of the validation: shown without its reductions.')
            lost += _lost_to_floor(scheduler, rates)
        else:
            schedulers.append(scheduler)
    table = np.empty((iterations, len(rates)))
    for iteration in range(len(table)):
        table[iteration] = [group['lr'] for group in optimizer.param_groups]
        optimizer.step()
        step(schedulers, epoch_ends=not max_iters and (iteration + 1) % epoch_length == 0)
    return table, remarks, lost


def _lost_to_floor(scheduler: ReduceOnPlateauParamScheduler, rates: Sequence[float]) -> list[str]:
    floors = np.asarray(scheduler.min_values[: len(rates)], float) / np.asarray(rates)
    if floors.max() > 0 and np.ptp(floors) > _RATIO_TOLERANCE * floors.max():
        return [
            f'min_value={scheduler.min_values[0]} is one floor for all parts: once the rates reach it, all have the same. '
            'Set min_value=0, or a list with one value a group in the ratio of the rates.'
        ]
    return []


def scale_rates(optim_wrapper, schedulers: Sequence, factor: float) -> None:
    """Multiply the rates of all groups, and the values that schedulers come back to: the schedule goes on from there.

    Args:
        optim_wrapper: MMEngine's; its placeholder for the base rate is scaled too.
        schedulers: of the training, as built.
        factor: on every rate.
    """
    for group in optim_wrapper.param_groups:
        group['lr'] *= factor
    scale_base_values(schedulers, factor)


def scale_base_values(schedulers: Sequence, factor: float) -> None:
    """Multiply the rates that schedulers come back to. See :func:`scale_rates`."""
    for scheduler in schedulers:
        if scheduler.param_name == 'lr' and hasattr(scheduler, 'base_values'):
            scheduler.base_values = [value * factor for value in scheduler.base_values]


def step(schedulers: Sequence, epoch_ends: bool) -> None:
    """Step schedulers after one iteration as MMEngine's ParamSchedulerHook does: those by epoch last, and at its end."""
    for by_epoch in (False, True) if epoch_ends else (False,):
        for scheduler in schedulers:
            if scheduler.by_epoch is by_epoch:
                scheduler.step()


def moments(table: np.ndarray) -> list[Moment]:
    """The iterations worth showing: start, end of the warm-up, middle of a smooth decay, each jump, end.

    Args:
        table: rates (I, G).
    """
    last = len(table) - 1
    level = np.log(np.maximum(table.max(1), 1e-300))
    step = np.diff(level)
    warm = 0
    while warm < last and step[warm] > 1e-9:
        warm += 1
    labels = {0: 'start'}
    if warm:
        labels[warm] = 'after warm-up'
    jumps = [i + 1 for i in range(warm, last) if _is_jump(step, i)]
    labels |= {i: 'change' for i in jumps if i not in labels}
    for begin, end in zip([warm, *jumps], [*jumps, last], strict=True):
        middle = (begin + end) // 2
        smooth = table[begin].max() != table[max(end - 1, begin)].max()
        if smooth and middle not in labels:
            labels[middle] = 'middle'
    labels[last] = 'end' if last else 'start'
    return [Moment(label, i + 1, tuple(table[i])) for i, label in sorted(labels.items())]


def _is_jump(step: np.ndarray, i: int) -> bool:
    around = [abs(step[j]) for j in (i - 1, i + 1) if 0 <= j < len(step)]
    return abs(step[i]) > _JUMP and abs(step[i]) > 3 * max(around, default=0)


def lost_ratios(table: np.ndarray, names: Sequence[str], rates: Sequence[float], iterations: int | None = None) -> list[str]:
    """Groups whose rate does not keep its planned ratio to the first group's, in words, with the worst moment of each.

    Args:
        table: rates (I, G).
        names: of the G groups.
        rates: planned base rates of the G groups.
        iterations: of the whole run, where the table has fewer; None means I.
    """
    problems = []
    iterations = iterations or len(table)
    reference = next((i for i, rate in enumerate(rates) if rate > 0), None)
    if reference is None:
        return []
    alive = table[:, reference] > 0
    for i, name in enumerate(names):
        if i == reference or rates[i] <= 0 or not alive.any():
            continue
        planned = rates[i] / rates[reference]
        ratio = np.where(alive, table[:, i] / np.where(alive, table[:, reference], 1), planned)
        off = np.abs(np.log(np.maximum(ratio, 1e-300) / planned))
        worst = int(off.argmax())
        if off[worst] > math.log1p(_RATIO_TOLERANCE):
            problems.append(
                f'{name} : {names[reference]} is planned as {planned:.3g}, and {ratio[worst]:.3g} at iteration '
                f'{round((worst + 1) * iterations / len(table))} of {iterations}. A scheduler undoes the ratio: its floor '
                'is one absolute number for all parts (eta_min, min_lr, or eta_max of OneCycleLR). Use eta_min_ratio '
                'instead of eta_min.'
            )
    return problems


def to_table(found: Sequence[Moment], names: Sequence[str], epoch_length: int) -> Table:
    """The moments as a table for people."""
    table = Table(title='Learning rate over the run', title_justify='left')
    table.add_column('moment')
    table.add_column('iteration', justify='right')
    table.add_column('epoch', justify='right')
    for name in names:
        table.add_column(name, justify='right')
    for moment in found:
        epoch = (moment.iteration - 1) // epoch_length + 1
        table.add_row(moment.label, f'{moment.iteration:,}', str(epoch), *(f'{rate:.3g}' for rate in moment.rates))
    return table
