"""Checkpoints that survive a kill, a full disk, and the validation that follows them."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from mmext.atomic_backend import ATOMIC
from mmext.atomic_file import remove_unfinished, write_atomically
from mmext.errors import InputError
from mmext.registry import HOOKS
from mmext.run_state import collect

_ON_WRITE_ERROR = ('continue', 'stop')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, made safe: ``default_hooks = dict(checkpoint=dict(type='mmext.SafeCheckpointHook'))``.

    - A file is written beside its place, brought to the disk and then renamed; older files, best ones too, are deleted only
      after that. ``last_checkpoint`` is written in the same way and holds an absolute path.
    - A checkpoint that a validation follows is written again after it, so that it has what the validation decided:
      plateau, early stopping, best score.
    - Beside MMEngine's content it has the random numbers of every process (python, numpy, torch, GPU), seed and epoch of
      the sampler, and what early stopping has counted, under the key ``mmext``.

    Args:
        on_write_error: what a checkpoint that cannot be written (full disk, no permission) does: ``'continue'`` keeps the
            last good one, says so and goes on, as long as the log can be written; ``'stop'`` ends the training.
        kwargs: MMEngine's: interval, by_epoch, max_keep_ckpts, save_best, rule, out_dir and so on.

    Raises:
        InputError: an unknown ``on_write_error``.
        OSError: with ``'stop'``, when a file cannot be written.
    """

    def __init__(self, *args, on_write_error: str = 'continue', **kwargs):
        if on_write_error not in _ON_WRITE_ERROR:
            raise InputError(f'SafeCheckpointHook: on_write_error is {on_write_error!r}; allowed: continue, stop.')
        super().__init__(*args, **kwargs)
        self.on_write_error = on_write_error
        self._state: dict | None = None
        self._training = False

    def before_train(self, runner) -> None:
        folder = self.out_dir or runner.work_dir
        local = (
            self.file_client_args is None and type(get_file_backend(folder, backend_args=self.backend_args)) is LocalBackend
        )
        if local:
            self.out_dir = str(Path(folder).absolute()) if self.out_dir else None
            self.backend_args = {'backend': ATOMIC}
        super().before_train(runner)
        self._training = True
        if local and is_main_process():
            for name in remove_unfinished(self.out_dir):
                runner.logger.warning(f'An earlier run was stopped while it wrote {name}: the unfinished file is removed.')
        self._take_best_of_this_folder(runner)
        if not self.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.warning(
                'by_epoch=False in an epoch-based loop: a run resumed from such a checkpoint begins its epoch again.'
            )

    def _take_best_of_this_folder(self, runner) -> None:
        """A folder that was moved or copied has its own best files; those of the other place are not to be deleted."""
        for indicator in self.key_indicators if self.save_best else []:
            several = len(self.key_indicators) > 1
            key = f'best_ckpt_{indicator}' if several else 'best_ckpt'
            path = runner.message_hub.runtime_info.get(key)
            here = self.file_backend.join_path(self.out_dir, Path(path).name) if path else None
            if here is not None:
                runner.message_hub.update_info(key, here)
            if several:
                self.best_ckpt_path_dict[indicator] = here
            else:
                self.best_ckpt_path = here

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._state is not None:
            checkpoint['mmext'] = self._state
        # OneCycleLR keeps a function among its numbers, which no safe load takes
        for state in checkpoint.get('param_schedulers', []):
            for key in [key for key, value in state.items() if callable(value)] if isinstance(state, dict) else []:
                del state[key]

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        if self._training:
            super().after_val_epoch(runner, metrics or {})

    def after_val(self, runner) -> None:
        # after_val_epoch would be too early: early stopping decides after every other hook
        step = runner.epoch if self.by_epoch else runner.iter
        written = runner.message_hub.runtime_info.get('last_ckpt')
        if self._training and written and Path(written).name == self.filename_tmpl.format(step):
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter), validated=True)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict, validated: bool = False) -> None:
        info = runner.message_hub.runtime_info
        before = {key: info.get(key) for key in ('keep_ckpt_ids', 'last_ckpt')}
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [known for known in self.keep_ckpt_ids if known != step] + [step]
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        runner.message_hub.update_info('last_ckpt', path)
        self._state = collect(runner, validated)

        def write() -> None:
            runner.save_checkpoint(
                self.out_dir,
                Path(path).name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_atomically(path.encode(), Path(runner.work_dir, 'last_checkpoint'))

        done = self._try(runner, write, path, before['last_ckpt'])
        self._state = None
        if not done:
            info.update({key: value for key, value in before.items() if value is not None})
            for key in [key for key, value in before.items() if value is None]:
                info.pop(key, None)
            return
        self.last_ckpt = path
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        for old in outdated:
            outdated_path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if outdated_path != path:  # a template without a number has one file for all
                self._remove(outdated_path)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """MMEngine's, but the best one so far is deleted when the new one is on the disk."""
        if not self.save_best:
            return
        info = runner.message_hub.runtime_info
        before = {key: value for key, value in info.items() if key.startswith('best_')}
        several = hasattr(self, 'best_ckpt_path_dict')
        best = dict(self.best_ckpt_path_dict) if several else {'': self.best_ckpt_path}

        def set_best(paths: dict) -> None:
            if several:
                self.best_ckpt_path_dict = dict(paths)
            else:
                self.best_ckpt_path = paths['']

        # MMEngine deletes what it knows of before it writes, and then writes this epoch's checkpoint again: after_val does
        last, self.last_ckpt = self.last_ckpt, None
        set_best(dict.fromkeys(best))
        stock = super()._save_best_checkpoint
        done = self._try(runner, lambda: stock(runner, metrics), 'The best checkpoint', info.get('last_ckpt'))
        self.last_ckpt = last
        found = dict(self.best_ckpt_path_dict) if several else {'': self.best_ckpt_path}
        if not done:
            for key in [key for key in info if key.startswith('best_') and key not in before]:
                info.pop(key)
            info.update(before)
            found = {}
        now = {key: found.get(key) or path for key, path in best.items()}
        set_best(now)
        for path in best.values():
            if path and path not in now.values():
                self._remove(path)

    def _try(self, runner, write: Callable[[], None], what: str, last_good: str | None) -> bool:
        """Whether the first process could write, the same answer on all of them."""
        outcome = [None]
        try:
            write()
        except OSError as error:
            outcome = [f'{type(error).__name__}: {error}']
        broadcast_object_list(outcome)
        if outcome[0] is None:
            return True
        message = f'{what} could not be written: {outcome[0]}. The last good checkpoint is kept: {last_good or "none yet"}.'
        if self.on_write_error == 'stop':
            raise OSError(f'{message} Training stops (on_write_error="stop"). Free space, then start again with --resume.')
        runner.logger.error(f'{message} Training goes on; on_write_error="stop" would end it.')
        return False

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed's are folders
            self.file_backend.rmtree(path)
