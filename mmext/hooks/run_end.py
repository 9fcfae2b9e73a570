"""Say why a training ended, as the last line of its log and in its record."""

import json
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from mmext.analysis.runs import RUN_END
from mmext.atomic_file import write_atomically
from mmext.registry import HOOKS
from mmext.run_state import why_stopped


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
    best = [{'file': Path(path).name, 'score': info.get(f'best_score{suffix}')} for suffix, path in paths.items()]
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


@HOOKS.register_module()
class RunEndHook(Hook):
    """Why the training ended, as the log's last line: ``run_end=dict(type='mmext.RunEndHook')`` in default_hooks.

    The same is in ``run_end.json`` in the folder of the run's logs. A run that was killed, or that an error ended, has none.
    """

    priority = 'LOWEST'

    def after_train(self, runner) -> None:
        loop, unit = runner.train_loop, 'epoch'
        done, planned = loop.epoch, loop.max_epochs
        if isinstance(loop, IterBasedTrainLoop):
            unit, done, planned = 'iteration', loop.iter, loop.max_iters
        why = None
        if done < planned:
            why = why_stopped(runner.hooks) or 'a hook has set train_loop.stop_training'
        record = end_record(done, planned, unit, why, runner.message_hub.runtime_info)
        runner.logger.info(record['text'])
        if is_main_process():
            write_atomically((json.dumps(record, indent=2) + '\n').encode(), Path(runner.log_dir, RUN_END))
