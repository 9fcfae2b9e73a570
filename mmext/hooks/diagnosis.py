"""Diagnose a training by its own log: the verdict at its end, and a line of warning while it runs."""

import shlex
import time
import traceback
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmext.analysis.diagnose import NOT_ENOUGH, Diagnosis, diagnose_run
from mmext.analysis.report import to_text
from mmext.analysis.runs import read_run
from mmext.atomic_file import write_atomically
from mmext.registry import HOOKS

# of the time since the last look that a look may take: a long log is read more seldom
_COST = 0.01


@HOOKS.register_module()
class DiagnosisHook(Hook):
    """Say what `mmext diagnose` says: ``diagnosis=dict(type='mmext.DiagnosisHook')`` in default_hooks, after ``run_end``.

    At the end ``diagnosis.json`` and ``diagnosis.txt`` stand beside the run's log, and the log has the verdict. After an
    epoch or a validation, a severe finding is a warning in the log, once for each code. It reads the JSON log on the main
    process and takes at most a hundredth of the training's time; what goes wrong in it is logged, and the training goes on.
    """

    # after LoggerHook (BELOW_NORMAL) has written, and after RunEndHook, which comes before it in default_hooks
    priority = 'LOWEST'

    def __init__(self):
        self._said: set[str] = set()
        self._next_look = 0.0

    def after_train_epoch(self, runner) -> None:
        self._look(runner)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        if runner.iter:  # not a validation alone
            self._look(runner)

    def after_train(self, runner) -> None:
        if not is_main_process():
            return
        diagnosis = self._diagnose(runner)
        if diagnosis is None:
            return
        self._warn(runner, diagnosis)
        if diagnosis.status != NOT_ENOUGH:
            runner.logger.info(f'Diagnosis: {diagnosis.verdict} See `mmext diagnose {shlex.quote(str(runner.work_dir))}`.')
        folder = Path(runner.log_dir)
        try:
            diagnosis.write(folder / 'diagnosis.json')
            write_atomically(to_text(diagnosis).encode(), folder / 'diagnosis.txt')
        except OSError as error:  # the training is done; its checkpoints lie elsewhere
            runner.logger.error(f'The diagnosis could not be written to {folder}: {error}')

    def _look(self, runner) -> None:
        start = time.monotonic()
        if not is_main_process() or start < self._next_look:
            return
        diagnosis = self._diagnose(runner)
        if diagnosis is not None:
            self._warn(runner, diagnosis)
        end = time.monotonic()
        self._next_look = end + (end - start) / _COST

    def _diagnose(self, runner) -> Diagnosis | None:
        """The diagnosis of the log so far; None without one, or when it fails by a fault of ours."""
        try:
            run = read_run(runner.work_dir)
            return diagnose_run(run) if run.train else None
        except Exception:  # a training of days is worth more than its diagnosis
            runner.logger.error(
                'mmext.DiagnosisHook failed; the training goes on. That is a defect of mmext: please report it. '
                f'{traceback.format_exc()}'
            )
            return None

    def _warn(self, runner, diagnosis: Diagnosis) -> None:
        """One line for each severe finding that is new and that no other brings about."""
        for finding in diagnosis.findings:
            if finding.severity == 'severe' and finding.follows_from is None and finding.code not in self._said:
                self._said.add(finding.code)
                remedy = ' '.join((finding.remedy or '').split('\n'))
                runner.logger.warning(f'Diagnosis: {finding.code}: {finding.text} {remedy}')
