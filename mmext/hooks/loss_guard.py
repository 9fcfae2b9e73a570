"""Catch a loss or gradient that is no number, or that explodes, before it reaches the weights."""

import hashlib
import json
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmext.atomic_backend import ATOMIC
from mmext.atomic_file import write_atomically
from mmext.errors import InputError, raise_all, some
from mmext.model import bare_model, parsed_losses
from mmext.optim.param_groups import part_of
from mmext.optim.schedule import scale_rates
from mmext.registry import HOOKS

_POLICIES = ('stop', 'skip', 'reduce')
# a median of fewer totals says nothing
_ENOUGH = 20
# of images without objects most totals are small and a usual one is many times their median: it must also stand out
# among the largest
_ABOVE_LARGEST = 3.0
_FAULTS = ('loss', 'gradient', 'spike')


class TrainingStoppedError(RuntimeError):
    """The guard ended the training; the message says why, where the evidence lies, and what to do."""


def spike_limit(totals: Sequence[float], spike: float | None) -> float:
    """Total loss from which a step counts as an explosion: ``spike`` times the median, and well above the largest of late.

    Args:
        totals: of the last good steps.
        spike: multiple of the median; None for no limit.
    """
    if spike is None or len(totals) < _ENOUGH or statistics.median(totals) <= 0:
        return math.inf
    return max(spike * statistics.median(totals), _ABOVE_LARGEST * max(totals))


def has_no_positive_roi(losses: Mapping[str, float]) -> bool:
    """Whether the RoI heads had nothing to learn boxes or masks from: with no positive RoI these losses are exactly 0."""
    found = [value for name, value in losses.items() if name.rpartition('.')[2] in ('loss_bbox', 'loss_mask')]
    return bool(found) and not any(found)


def batch_record(data_batch: object) -> list[dict]:
    """Path, id, size and ground truth of the images of a batch; boxes (x1, y1, x2, y2) in pixels of the network's input."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, Mapping) else []
    records = []
    for sample in samples if isinstance(samples, (list, tuple)) else []:
        truth = getattr(sample, 'gt_instances', {})
        boxes, labels = truth.get('bboxes'), truth.get('labels')
        meta = getattr(sample, 'metainfo', {})
        records.append(
            {
                'path': meta.get('img_path'),
                'id': meta.get('img_id'),
                'size': [int(side) for side in meta.get('img_shape', ())],
                'boxes': [] if boxes is None else getattr(boxes, 'tensor', boxes).tolist(),
                'labels': [] if labels is None else labels.tolist(),
            }
        )
    return records


def remedies(kind: str, images: Sequence[dict], clipped: bool, base_rate: float) -> list[str]:
    """What to do, as config lines where there is one."""
    lines = []
    for image in images:
        flat = [box for box in image['boxes'] if not (box[2] > box[0] and box[3] > box[1])]
        if flat:
            lines.append(f'{image["path"]} has a box without area: {[round(x, 1) for x in flat[0]]}. Mend the annotation.')
    if kind == 'gradient' and not clipped:
        lines.append('Clip the gradients: optim_wrapper.clip_grad.max_norm=1.0')
    lines.append(
        f'Lower the rates: optim_wrapper.optimizer.lr={base_rate / 2:.3g}, or the multiple of the heads, which are unstable '
        'first: optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult=5'
    )
    lines.append('Look at the images above. If one bad batch is no matter: default_hooks.loss_guard.policy=skip')
    if kind == 'spike':
        lines.append('If such totals are usual in your data: default_hooks.loss_guard.spike=None')
    return lines


def _model_text(runner) -> str:
    """Fingerprint of the model's config, which has the losses and their weights."""
    return hashlib.sha1(str(runner.cfg.get('model')).encode()).hexdigest()


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Look at every step before it changes the weights: ``loss_guard=dict(type='mmext.LossGuardHook')`` in default_hooks.

    A step is a fault when a loss or a gradient is NaN or infinite, or when the total loss is above ``spike`` times the
    median of the last ``window`` good steps and above three times the largest of them. On several processes all take the
    same decision. Costs one synchronisation with a GPU a step. Steps that AMP's loss scaler skips by itself are no faults.

    Each fault is written to ``loss_guard/`` in the work_dir: losses, rates, and the images of the batch with their boxes.
    After each epoch the log says how many batches had no positive RoI, from which the heads learn neither box nor mask.

    Args:
        policy: ``'stop'`` writes the state before the step and ends the training; ``'skip'`` drops the step, batch-norm
            statistics of its forward pass too; ``'reduce'`` drops it and multiplies all rates by ``factor``.
        spike: multiple of the median total; None to look for numbers that are none only.
        window: good steps that the median is of.
        factor: of ``'reduce'``, between 0 and 1.
        max_in_a_row: faults in a row after which ``'skip'`` and ``'reduce'`` end the training as well.

    Raises:
        InputError: an argument out of range.
        TrainingStoppedError: a fault under ``'stop'``, or too many in a row.
    """

    priority = 'NORMAL'  # RuntimeInfoHook (VERY_HIGH) has brought the losses to the host

    def __init__(
        self, policy: str = 'stop', spike: float | None = 10.0, window: int = 50, factor: float = 0.5, max_in_a_row: int = 5
    ):
        mistakes = []
        if policy not in _POLICIES:
            mistakes.append(f'LossGuardHook: policy is {policy!r}; allowed: {", ".join(_POLICIES)}.')
        if spike is not None and not (isinstance(spike, (int, float)) and spike > 1):
            mistakes.append(f'LossGuardHook: spike is {spike!r}; it must be above 1, or None.')
        if not (isinstance(window, int) and window >= _ENOUGH):
            mistakes.append(f'LossGuardHook: window is {window!r}; it must be a whole number of at least {_ENOUGH}.')
        if not (isinstance(factor, (int, float)) and 0 < factor < 1):
            mistakes.append(f'LossGuardHook: factor is {factor!r}; it must be between 0 and 1.')
        if not (isinstance(max_in_a_row, int) and max_in_a_row >= 0):
            mistakes.append(f'LossGuardHook: max_in_a_row is {max_in_a_row!r}; it must be a whole number, 0 or more.')
        raise_all(mistakes)
        self.policy, self.spike, self.factor, self.max_in_a_row = policy, spike, factor, max_in_a_row
        self._totals: deque[float] = deque(maxlen=window)
        self._losses: list[dict[str, torch.Tensor]] = []
        self._batches: list[object] = []
        self._norms: list[tuple[_NormBase, list[torch.Tensor]]] = []
        self._handles: list = []
        self._in_a_row = 0
        self._reduced_by = 1.0
        self._fault = self._stepped = False
        self._batches_seen = self._batches_without = 0

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        saved = checkpoint.get('mmext_loss_guard')
        if saved and getattr(runner, '_resume', False):
            self._reduced_by = saved['factor']
            if saved['model'] == _model_text(runner):  # of other losses or weights the totals say nothing
                self._totals.extend(saved['totals'])

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['mmext_loss_guard'] = {
            'totals': list(self._totals),
            'factor': self._reduced_by,
            'model': _model_text(runner),
        }

    def before_train(self, runner) -> None:
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise InputError(
                'LossGuardHook watches one optimizer; with several set default_hooks.loss_guard.type=mmext.NoHook.'
            )
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            runner.logger.warning(
                f'LossGuardHook cannot look into {type(runner.optim_wrapper).__name__}: no step is watched.'
            )
            return
        schedulers = runner.param_schedulers or []
        if self.policy == 'reduce' and any(isinstance(scheduler, OneCycleParamScheduler) for scheduler in schedulers):
            raise InputError(
                "LossGuardHook: policy='reduce' has no hold on OneCycleLR, which sets every rate anew. Use policy='skip'."
            )
        self._runner = runner
        self._model: nn.Module = bare_model(runner)
        self._handles = [
            self._model.register_forward_hook(self._keep_losses, with_kwargs=True),
            runner.optim_wrapper.optimizer.register_step_pre_hook(self._look),
        ]

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if not self._handles:
            return
        if not self._batches:  # with accumulated gradients several batches make a step
            self._norms = [
                (module, [buffer.clone() for buffer in module.buffers(recurse=False)])
                for module in self._model.modules()
                if isinstance(module, _NormBase) and module.training and module.track_running_stats
            ]
        self._batches.append(data_batch)
        self._stepped = False

    def _keep_losses(self, module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        if module.training and kwargs.get('mode') == 'loss' and isinstance(output, dict):
            with torch.no_grad():
                self._losses.append(parsed_losses(output))

    def _look(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Called by the optimizer before its step; a step with no gradients left changes nothing."""
        norm = self._norm_on_host()
        bad_loss, bad_gradient, exploded = self._flags(optimizer, norm)
        # a fused optimizer is stepped by AMP's scaler in any case, and told here that there is nothing to do
        skipped = getattr(optimizer, 'found_inf', None)
        taken_back = torch.zeros_like(bad_loss) if skipped is None else (skipped > 0).reshape(())
        flags = torch.stack([bad_loss, bad_gradient, exploded, taken_back]).float()
        if get_world_size() > 1:
            all_reduce(flags, 'max')
        # the one synchronisation: all flags in one number
        code = int((flags[0] + flags[1] * 2 + flags[2] * 4 + flags[3] * 8).item())
        self._stepped = code < 8
        self._fault = 0 < code < 8
        if self._fault:
            self._act(next(name for bit, name in enumerate(_FAULTS) if code >> bit & 1), norm, optimizer)
        elif self._stepped:
            self._in_a_row = 0

    def _act(self, kind: str, norm: float | None, optimizer: torch.optim.Optimizer) -> None:
        """Stop, skip or reduce; on every process alike."""
        self._in_a_row += 1
        for module, buffers in self._norms:
            for buffer, before in zip(module.buffers(recurse=False), buffers, strict=True):
                buffer.copy_(before)
        reason, images, losses = self._evidence(kind, norm)
        stop = self.policy == 'stop' or self._in_a_row > self.max_in_a_row
        place = self._write(kind, reason, images, losses, with_state=stop)
        if stop:
            self._stop(kind, reason, place, images)
        optimizer.zero_grad(set_to_none=True)
        action = 'The step is dropped.'
        if self.policy == 'reduce':
            scale_rates(self._runner.optim_wrapper, self._runner.param_schedulers or [], self.factor)
            self._reduced_by *= self.factor
            action = f'The step is dropped and all rates are multiplied by {self.factor:g}.'
        self._runner.logger.warning(
            f'Loss guard, iteration {self._runner.iter + 1}: {reason} {action} {self._in_a_row} in a row, at most '
            f'{self.max_in_a_row}. Evidence: {place}'
        )

    def _norm_on_host(self) -> float | None:
        """Gradient norm that clipping has just computed and brought to the host; None without clipping by norm."""
        wrapper = self._runner.optim_wrapper
        if not wrapper.clip_grad_kwargs or wrapper.grad_name != 'grad_norm':
            return None
        norms = self._runner.message_hub.log_scalars.get('train/grad_norm')
        return None if norms is None else float(norms.current())

    def _flags(self, optimizer: torch.optim.Optimizer, norm: float | None) -> tuple[torch.Tensor, ...]:
        """Whether each of _FAULTS is there, on the model's device; nothing of it is copied to or from the host."""
        device = next(self._model.parameters()).device
        values = [value.float() for losses in self._losses for value in losses.values()]
        totals = [torch.stack([value.float() for value in losses.values()]).sum() for losses in self._losses if losses]
        none = torch.zeros((), dtype=torch.bool, device=device)
        bad_loss = ~torch.isfinite(torch.stack(values)).all() if values else none
        exploded = torch.stack(totals).max() > spike_limit(self._totals, self.spike) if totals else none
        if norm is not None:
            bad_gradient = none if math.isfinite(norm) else ~none
        else:
            sizes = [
                torch.linalg.vector_norm(parameter.grad).float()
                for group in optimizer.param_groups
                for parameter in group['params']
                if parameter.grad is not None
            ]
            bad_gradient = ~torch.isfinite(torch.stack(sizes)).all() if sizes else none
        return bad_loss, bad_gradient, exploded

    def _evidence(self, kind: str, norm: float | None) -> tuple[str, list[dict], list[dict]]:
        """Reason in words, images and losses, of the first process that has the fault; images of all of them."""
        losses = [{name: float(value) for name, value in batch.items()} for batch in self._losses]
        images = [record for batch in self._batches for record in batch_record(batch)]
        found = all_gather_object((self._reason(kind, norm, losses), images, losses))
        everyone = [image for _, theirs, _ in found for image in theirs]
        reason, _, losses = next((facts for facts in found if facts[0]), ('a loss or gradient is not finite.', [], losses))
        return reason, everyone, losses

    def _reason(self, kind: str, norm: float | None, losses: Sequence[Mapping[str, float]]) -> str | None:
        if kind == 'loss':
            pairs = [(name, value) for batch in losses for name, value in batch.items() if not math.isfinite(value)]
            return f'{some(f"{name} is {value}" for name, value in pairs)}.' if pairs else None
        if kind == 'gradient':
            bad = [n for n, p in self._model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
            parts = dict.fromkeys(map(part_of, bad))
            where = f'in {len(bad)} tensors of {", ".join(parts)}' if bad else 'its norm overflows'
            return f'the gradient is not finite ({where}), though every loss is.'
        total, limit = max(sum(batch.values()) for batch in losses), spike_limit(self._totals, self.spike)
        if total <= limit:
            return None
        usual = statistics.median(self._totals)
        return f'the total loss {total:.4g} is above {limit:.4g}; the median of late is {usual:.4g}.'

    def _write(self, kind: str, reason: str, images: Sequence[dict], losses: Sequence[dict], with_state: bool) -> Path:
        runner = self._runner
        folder = Path(runner.work_dir, 'loss_guard')
        place = folder / f'iter_{runner.iter + 1}.json'
        state = folder / f'before_iter_{runner.iter + 1}.pth'
        groups = runner.optim_wrapper.optimizer.param_groups
        record = {
            'schema_version': 1,
            'fault': kind,
            'reason': reason,
            'epoch': runner.epoch + 1,
            'iteration': runner.iter + 1,
            'losses': [{name: str(value) for name, value in batch.items()} for batch in losses],
            'median_total': statistics.median(self._totals) if self._totals else None,
            'rates': {group.get('name', str(number)): group['lr'] for number, group in enumerate(groups)},
            'images': images,
            'state_before': str(state) if with_state else None,
        }
        try:
            if with_state:
                meta = {'epoch': runner.epoch, 'iter': runner.iter}
                backend = {'backend': ATOMIC}
                runner.save_checkpoint(str(folder), state.name, meta=meta, by_epoch=False, backend_args=backend)
            if is_main_process():
                write_atomically(json.dumps(record, indent=2, default=str).encode(), place)
        except OSError as error:
            runner.logger.error(f'The evidence could not be written to {folder}: {error}')
        return place

    def _stop(self, kind: str, reason: str, place: Path, images: Sequence[dict]) -> None:
        wrapper = self._runner.optim_wrapper
        base = wrapper.base_param_settings or wrapper.optimizer.param_groups[0]
        advice = remedies(kind, images, bool(wrapper.clip_grad_kwargs), base.get('initial_lr', base['lr']))
        in_a_row = f' ({self._in_a_row} faults in a row)' if self._in_a_row > 1 else ''
        raise TrainingStoppedError(
            '\n'.join(
                [
                    f'Training stopped at iteration {self._runner.iter + 1} (epoch {self._runner.epoch + 1}), before the '
                    f'step changed any weight: {reason}{in_a_row}',
                    f'Images of the batch: {some(image["path"] for image in images) or "not known"}',
                    f'State before the step, losses, rates and boxes: {place.parent}',
                    'What to do:',
                    *(f'- {line}' for line in advice),
                ]
            )
        )

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if not self._handles:
            return
        scalars = runner.message_hub.log_scalars
        values = {name: float(scalars[f'train/{name}'].current()) for name in outputs or {} if f'train/{name}' in scalars}
        total = values.get('loss', 0.0)
        if hasattr(self._model, 'roi_head'):
            self._batches_seen += 1
            self._batches_without += has_no_positive_roi(values)
        if not runner.optim_wrapper.should_update():
            return  # gradients are still being gathered
        if self._stepped and not self._fault:
            self._totals.append(total)
        elif not self._stepped:
            self._skipped_by_scaler(runner)
        self._batches, self._losses, self._norms = [], [], []

    def _skipped_by_scaler(self, runner) -> None:
        """AMP's scaler drops steps by itself, on all processes alike, which is how it works; a loss that stays so is not."""
        finite = all(torch.isfinite(value).all() for losses in self._losses for value in losses.values())
        bad = torch.full((), 0.0 if finite else 1.0, device=next(self._model.parameters()).device)
        if get_world_size() > 1:
            all_reduce(bad, 'max')
        self._in_a_row = self._in_a_row + 1 if bad.item() else 0
        if self._in_a_row > self.max_in_a_row:
            reason, images, losses = self._evidence('loss', None)
            self._stop('loss', reason, self._write('loss', reason, images, losses, with_state=True), images)

    def after_train_epoch(self, runner) -> None:
        if not self._handles:
            return
        counts = torch.tensor([self._batches_without, self._batches_seen])
        self._batches_seen = self._batches_without = 0
        if get_world_size() > 1:
            all_reduce(counts)
        without, seen = counts.tolist()
        if without:
            runner.logger.info(
                f'Epoch {runner.epoch + 1}: {without} of {seen} batches had no positive RoI, so the heads learnt neither '
                'box nor mask from them: no instance in the images, or none that a proposal reaches.'
            )
