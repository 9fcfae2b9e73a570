"""Say why a training ended, as the last line of its log and in its record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim.scheduler.param_scheduler import ReduceOnPlateauParamScheduler
from mmengine.runner import IterBasedTrainLoop

from mmext.analysis.runs import RUN_END
from mmext.atomic_file import write_atomically
from mmext.errors import raise_all
from mmext.registry import HOOKS
from mmext.run_state import last_validation, why_stopped


def end_record(done: int, planned: int, unit: str, why: str | None, info: Mapping) -> dict:
    """Why a training ended and what its best checkpoints are.

    Args:
        done: epochs or iterations trained; ``unit`` says which.
        planned: length of the run in the same unit.
        unit: ``'epoch'`` or ``'iteration'``.
        why: what stopped the run before its planned length, in words; None when nothing did.
        info: MMEngine's ``best_score`` and ``best_ckpt``, with a suffix for each where several metrics are followed.

    Returns:
        ``schema_version``, ``reason`` (``'length'`` or ``'stopped'``), ``text`` for people, ``done``, ``planned``, ``unit``,
        and ``best``: file name and score of each best checkpoint.
    """
    paths = {key.removeprefix('best_ckpt'): path for key, path in info.items() if key.startswith('best_ckpt') and path}
    best = []
    for suffix, path in paths.items():
        score = info.get(f'best_score{suffix}')  # a metric may give a NumPy number or a tensor
        best.append({'file': Path(path).name, 'score': None if score is None else float(score)})
    text = f'all {planned} {unit}s are done.' if why is None else f'{unit} {done} of {planned} was the last: {why}.'
    for one in best:
        text += f' Best checkpoint: {one["file"]}' + ('.' if one['score'] is None else f' ({one["score"]:.4g}).')
    return {
        'schema_version': 1,
        'reason': 'length' if why is None else 'stopped',
        'text': f'Training ended: {text}',
        'done': done,
        'planned': planned,
        'unit': unit,
        'best': best,
    }


def followed(hooks: Sequence, schedulers: Sequence) -> list[tuple[str, str]]:
    """What steers a run by its validation, and the metric that each follows."""
    kinds = (ReduceOnPlateauParamScheduler, EarlyStoppingHook)
    return [(type(one).__name__, one.monitor) for one in (*schedulers, *hooks) if isinstance(one, kinds)]


@HOOKS.register_module()
class RunEndHook(Hook):
    """Why the training ended, as the log's last line: ``run_end=dict(type='mmext.RunEndHook')`` in default_hooks.

    The same is in ``run_end.json`` in the folder of the run's logs. A run that was killed, or that an error ended, has none.
    At the start: whether what a plateau and early stopping follow will be there.

    Raises:
        InputError: something follows ``val_loss``, and the validation loop gives no losses.
    """

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        loop = runner.val_loop
        asked = followed(runner.hooks, runner.param_schedulers or [])
        if loop is None:
            for what, metric in asked:
                runner.logger.warning(f'{what} follows {metric}, and the run has no validation: it does nothing.')
            return
        without = [
            f'{what} follows {metric}, which {type(loop).__name__} does not give. Set val_cfg.type=mmext.LossValLoop, or '
            'follow another metric: param_scheduler.1.monitor=coco/segm_mAP_50 param_scheduler.1.rule=greater '
            'default_hooks.early_stopping.monitor=coco/segm_mAP_50'
            for what, metric in asked
            if metric.startswith('val_loss') and not getattr(loop, 'gives_losses', False)
        ]
        raise_all(without)

    def after_train(self, runner) -> None:
        loop, unit = runner.train_loop, 'epoch'
        done, planned = loop.epoch, loop.max_epochs
        if isinstance(loop, IterBasedTrainLoop):
            unit, done, planned = 'iteration', loop.iter, loop.max_iters
        why = None
        if done < planned:
            why = why_stopped(runner.hooks, last_validation(runner)) or 'a hook has set train_loop.stop_training'
        record = end_record(done, planned, unit, why, runner.message_hub.runtime_info)
        runner.logger.info(record['text'])
        if is_main_process():
            path = Path(runner.log_dir, RUN_END)
            try:
                write_atomically((json.dumps(record, indent=2) + '\n').encode(), path)
            except OSError as error:  # the training is done; its checkpoints lie elsewhere
                runner.logger.error(f'{path} could not be written: {error}')
