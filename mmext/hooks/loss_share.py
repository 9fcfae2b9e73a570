"""What each loss family has of the total, at every log step, and a block of it all per epoch."""

import math
from collections.abc import Mapping

import numpy as np
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from rich.table import Table
from torch import nn

from mmext.analysis.runs import AP_METRICS
from mmext.analysis.shares import ORIENTATION, bands_hold, by_family, family_of, shares, unweighted
from mmext.console import tell
from mmext.model import bare_model
from mmext.registry import HOOKS

_METRICS = AP_METRICS | {'validation loss': 'val_loss'}


def loss_weights(model: nn.Module) -> dict[str, float]:
    """Weight of each loss of a model, by the name under which the model returns it; only weights other than 1.

    Read from the loss modules: ``rpn_head.loss_cls`` is returned as ``loss_rpn_cls``, ``roi_head.bbox_head.1.loss_cls`` of
    a cascade as ``s1.loss_cls``, with the stage's weight multiplied in.
    """
    weights = {}
    stages = getattr(getattr(model, 'roi_head', None), 'stage_loss_weights', None)
    for path, module in model.named_modules():
        *owners, name = path.split('.')
        if owners[-1:] == ['loss_mask']:  # one of several losses of mmext.FCNMaskHead
            *owners, _ = owners
            name = f'{name}.loss_mask'
        elif not name.startswith('loss_'):
            continue
        if not hasattr(module, 'loss_weight'):
            continue
        weight = float(module.loss_weight)
        if 'rpn_head' in owners:
            name = name.replace('loss_', 'loss_rpn_', 1)
        elif stages and owners[-1].isdigit():
            name, weight = f's{owners[-1]}.{name}', weight * stages[int(owners[-1])]
        if weight != 1:
            weights[name] = weight
    return weights


def epoch_table(title: str, losses: Mapping[str, float], with_bands: bool) -> Table:
    """Loss and share of each family, largest first, beside S4's orientation where it holds.

    Args:
        title: of the table.
        losses: mean of each loss over the epoch.
        with_bands: whether S4's figures are for such losses.
    """
    table = Table(title=title, title_justify='left', min_width=len(title))
    table.add_column('loss')
    table.add_column('value', justify='right')
    table.add_column('share', justify='right')
    if with_bands:
        for heading in ('usual share', 'usual value', 'at the end'):
            table.add_column(heading, justify='right', style='dim')
    sums, parts = by_family(losses), shares(losses)
    for family in sorted(sums, key=sums.get, reverse=True):
        cells = [family, f'{sums[family]:.4f}', f'{parts[family]:.1%}' if family in parts else '']
        if with_bands:
            usual = ORIENTATION[family]
            cells += [f'{usual.share[0]:g}-{usual.share[1]:g} %', '-'.join(map(str, usual.training))]
            cells.append('-'.join(map(str, usual.end)))
        table.add_row(*cells)
    table.add_section()
    table.add_row('total', f'{sum(sums.values()):.4f}')
    return table


def metric_line(metrics: Mapping[str, float]) -> str | None:
    """``box AP 0.421, box AP50 0.702, mask AP 0.411, ...`` of the metrics that there are; None without any."""
    found = [f'{name} {metrics[key]:.3f}' for name, key in _METRICS.items() if key in metrics]
    return ', '.join(found) or None


@HOOKS.register_module()
class LossShareHook(Hook):
    """Log each loss family's share of the total: ``loss_share=dict(type='mmext.LossShareHook')``.

    At every log step ``share_mask``, ``share_cls``, ``share_bbox``, ``share_rpn_cls``, ``share_rpn_bbox`` (and those of
    families that the model has besides) stand in console, JSON log and TensorBoard: window mean of the family ÷ window mean
    of all, as optimised, from the very losses of that line. ``raw_share_*`` stand beside them when a loss weight is not 1.
    After each epoch, and after its validation when there is one, a block with losses, shares and metrics.

    The values are those that the Runner has already copied to the host: nothing is synchronised with a GPU. On several
    processes they are the first one's.
    """

    priority = 'NORMAL'  # RuntimeInfoHook (VERY_HIGH) has stored the losses, LoggerHook (BELOW_NORMAL) writes after us

    def __init__(self):
        self._weights: dict[str, float] = {}
        self._mask_loss = ''
        self._last_block = 0
        self._block: tuple[str, dict[str, float], int] | None = None

    def before_train(self, runner) -> None:
        model = bare_model(runner)
        self._weights = loss_weights(model)
        losses = [module for name, module in model.named_modules() if name.endswith('mask_head.loss_mask')]
        self._mask_loss = type(losses[0]).__name__ if losses else ''
        self._last_block = runner.iter
        if get_world_size() > 1:
            runner.logger.info(
                f'The losses and shares in the log are those of the first of {get_world_size()} processes, on its own '
                'images: they are not averaged over the processes.'
            )

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = _window_means(runner, runner.log_processor.window_size)
        _log_shares(runner, 'share', losses)
        if any(name in losses for name in self._weights):
            _log_shares(runner, 'raw_share', unweighted(losses, self._weights))

    def after_train_epoch(self, runner) -> None:
        self._take_block(runner, f'Epoch {runner.epoch + 1} of {runner.max_epochs}: mean losses')

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        if self._block is None and runner.iter > self._last_block:  # iteration-based training has no epochs
            self._take_block(runner, f'Iterations {self._last_block + 1} to {runner.iter}: mean losses')
        self._tell_block(runner, metrics or {})

    def before_train_epoch(self, runner) -> None:
        self._tell_block(runner, {})  # of an epoch that no validation followed

    def after_train(self, runner) -> None:
        self._tell_block(runner, {})

    def _take_block(self, runner, title: str) -> None:
        if runner.iter == self._last_block:  # iteration-based training ends its one epoch after the last validation
            return
        losses, broken = _finite_means(runner, runner.iter - self._last_block)
        self._last_block = runner.iter
        self._block = (title, losses, broken)

    def _tell_block(self, runner, metrics: Mapping[str, float]) -> None:
        if self._block is None:
            return
        (title, losses, broken), self._block = self._block, None
        if is_main_process():
            table = epoch_table(title, losses, bands_hold(losses, self._weights, self._mask_loss))
            lines = [metric_line(metrics)]
            if broken:
                lines.append(f'{broken} iterations had a loss that is no number; the means are of the others.')
            tell(runner.logger, table, [line for line in lines if line])


def _log_shares(runner, prefix: str, losses: Mapping[str, float]) -> None:
    # a total that is no number leaves no share: say so, the log would repeat the last one
    for family, share in (shares(losses) or dict.fromkeys(by_family(losses), math.nan)).items():
        runner.message_hub.update_scalar(f'train/{prefix}_{family}', share)


def _finite_means(runner, window: int) -> tuple[dict[str, float], int]:
    """Mean of each loss over those of the last ``window`` iterations that had numbers, and how many had none."""
    losses = {name: np.asarray(buffer.data[0][-window:], float) for name, buffer in _logged_losses(runner).items()}
    good = np.all([np.isfinite(values) for values in losses.values()], axis=0)
    means = {name: float(values[good].mean()) if good.any() else math.nan for name, values in losses.items()}
    return means, int((~good).sum())


def _window_means(runner, window: int) -> dict[str, float]:
    """Mean of each loss over its last ``window`` iterations, as the log line has it."""
    return {name: float(buffer.mean(window)) for name, buffer in _logged_losses(runner).items()}


def _logged_losses(runner) -> dict[str, HistoryBuffer]:
    """History of each loss of the training, by the model's name for it."""
    scalars = runner.message_hub.log_scalars
    history = {key.removeprefix('train/'): buffer for key, buffer in scalars.items() if key.startswith('train/')}
    return {name: buffer for name, buffer in history.items() if family_of(name)}
