"""Say at the start what learns at which rate, and log each part's rate."""

import json
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from mmext.class_rows import LoadedRows
from mmext.console import tell
from mmext.hooks.class_rows import ClassRowsHook
from mmext.model import bare_model
from mmext.optim.group_table import check_named, fresh_lines, fresh_tensors, group_rows, to_record, to_table
from mmext.registry import HOOKS


def group_rates(param_groups: list[dict]) -> dict[str, float]:
    """Learning rate of every part, and of a suffixed group whose rate differs from its part's.

    Args:
        param_groups: the optimizer's groups, each with ``name`` and ``lr`` (the rate of the coming step).

    Returns:
        Scalar name to rate, in the order of the groups: ``{'backbone_lr': 0.005, 'mask_head_lr': 0.05}``.

    Raises:
        InputError: when a group has no name.
    """
    check_named(param_groups)
    rates: dict[str, float] = {}
    for group in param_groups:
        # the plain group of a part comes first, unless all of it is frozen and so not in the optimizer
        part_rate = rates.setdefault(f'{group["name"].split(".")[0]}_lr', group['lr'])
        if group['lr'] != part_rate:
            rates[f'{group["name"]}_lr'] = group['lr']
    return rates


def rate_change(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """A change of rates in words; None when there is none.

    Args:
        before: of :func:`group_rates`.
        now: likewise, of the same groups.
    """
    if before == now:
        return None
    factors = [now[name] / rate for name, rate in before.items() if rate and name in now]
    same = factors and max(factors) - min(factors) < 1e-6 * max(factors)
    rates = ', '.join(f'{name.removesuffix("_lr")} {rate:.3g}' for name, rate in now.items())
    return f'rates × {factors[0]:.3g}: {rates}' if same else f'rates: {rates}'


@HOOKS.register_module()
class GroupLRHook(Hook):
    """Print the table of parameter groups and log the rate of each: ``group_lr=dict(type='mmext.GroupLRHook')``.

    At the start: a table in the console and the log file, ``param_groups.json`` in the folder of the run's logs, and with
    ``load_from`` the tensors that the checkpoint did not fill, and the rows that ``mmext.ClassRowsHook`` loaded by class. At
    every log step the console line, the JSON log and TensorBoard have ``backbone_lr``, ``neck_lr``, ``rpn_head_lr``,
    ``bbox_head_lr``, ``mask_head_lr``, read from the optimizer, so that any scheduler shows as it is. A change that a
    validation brings (plateau) is announced.

    Raises:
        InputError: parameter groups without names; a checkpoint of which nothing fits the model.
    """

    priority = 'NORMAL'  # LoggerHook (BELOW_NORMAL) reads after us, ParamSchedulerHook (LOW) steps after that

    def __init__(self):
        self._fresh: dict[str, str] | None = None
        self._rows: dict[str, LoadedRows] = {}
        self._before_val: dict[str, float] | None = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._rows = next((hook.rows for hook in runner.hooks if isinstance(hook, ClassRowsHook)), {})
        self._fresh = fresh_tensors(bare_model(runner), checkpoint, self._rows)

    def before_train(self, runner) -> None:
        model = bare_model(runner)
        rows = group_rows(model, runner.optim_wrapper.optimizer, self._fresh, self._rows)
        if not is_main_process():
            return
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        lines = fresh_lines(rows, frozen)
        if self._fresh is None:
            lines.append('No checkpoint was loaded (load_from is None), so fresh and loaded tensors are not told apart.')
        tell(runner.logger, to_table(rows), lines)
        Path(runner.log_dir, 'param_groups.json').write_text(json.dumps(to_record(rows), indent=2) + '\n')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        # optim_wrapper.param_groups has one group more, MMEngine's placeholder for base_lr
        for name, rate in group_rates(runner.optim_wrapper.optimizer.param_groups).items():
            runner.message_hub.update_scalar(f'train/{name}', rate)

    def before_val(self, runner) -> None:
        if isinstance(runner.optim_wrapper, OptimWrapper):  # a validation alone has built none
            self._before_val = group_rates(runner.optim_wrapper.optimizer.param_groups)

    def after_val(self, runner) -> None:
        before, self._before_val = self._before_val, None
        if before is None:
            return
        change = rate_change(before, group_rates(runner.optim_wrapper.optimizer.param_groups))
        if change:
            when = f'epoch {runner.epoch}' if runner.epoch else f'iteration {runner.iter}'
            runner.logger.info(f'The schedule follows the validation after {when}: {change}.')
