"""A hook that adds up where a training's time goes, by the steps that touch masks: ``whole_runs.py`` adds it to a config."""

import json
import time
from collections import defaultdict
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class StepTimesHook(Hook):
    """Seconds in each step, written to ``step_times.json`` in the work_dir."""

    priority = 'LOWEST'

    def before_run(self, runner) -> None:
        self._spent: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()
        model = getattr(runner.model, 'module', runner.model)
        heads = model.roi_head.mask_head
        self._time(model, 'train_step', 'training steps')
        self._time(model.rpn_head.assigner, 'assign', 'assignment of anchors')
        self._time(heads, 'get_targets', 'mask targets')
        self._time(heads, '_predict_by_feat_single', 'masks of predictions')

    def before_train(self, runner) -> None:
        self._time(runner.train_dataloader.dataset, 'prepare_data', 'reading training images')

    def before_val(self, runner) -> None:
        evaluator = runner.val_evaluator
        if not hasattr(evaluator.process, 'timed'):
            self._time(evaluator, 'process', 'evaluation')
            self._time(evaluator, 'evaluate', 'evaluation')

    def after_run(self, runner) -> None:
        whole = time.perf_counter() - self._start
        Path(runner.work_dir, 'step_times.json').write_text(json.dumps({'whole run': whole, **self._spent}))

    def _time(self, owner: object, name: str, step: str) -> None:
        method = getattr(owner, name)

        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._spent[step] += time.perf_counter() - start

        call.timed = True
        setattr(owner, name, call)
