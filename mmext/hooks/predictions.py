"""Keep the predictions of validations beside the run's log, so that runs can be compared image by image."""

from collections.abc import Sequence
from pathlib import Path

from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement

from mmext.analysis import operating_point
from mmext.analysis.predictions import FILES, file_hash, pack
from mmext.atomic_file import write_atomically
from mmext.datasets import coco_datasets
from mmext.errors import InputError
from mmext.metrics.mask_quality import encoded
from mmext.registry import HOOKS


def image_record(sample: BaseDataElement) -> dict | None:
    """One image's detections as :func:`mmext.analysis.predictions.pack` takes them; None for a sample without detections."""
    found = sample.get('pred_instances') if isinstance(sample, BaseDataElement) else None
    if found is None or not all(name in found for name in ('bboxes', 'labels', 'scores')):
        return None
    record = {
        'image_id': sample.get('img_id'),
        'size': [int(side) for side in sample.ori_shape[:2]],
        'labels': found.labels.cpu().numpy(),
        'scores': found.scores.float().cpu().numpy(),
        'boxes': get_box_tensor(found.bboxes).float().cpu().numpy(),
    }
    if 'masks' in found:
        record['rles'] = encoded(found.masks)
    if 'mask_scores' in found:
        record['mask_scores'] = found.mask_scores.float().cpu().numpy()
    return record


@HOOKS.register_module()
class PredictionsHook(Hook):
    """Keep what was predicted in validation: ``predictions=dict(type='mmext.PredictionsHook')`` in default_hooks.

    ``predictions_last.npz`` and, where CheckpointHook saves a best checkpoint, ``predictions_best.npz`` of it, in the folder
    of the run's logs: boxes, scores and masks as compact RLE, with the annotation file's hash. `mmext compare` tells by them
    whether two runs differ by more than chance. At the end ``operating_points.json`` in the work_dir has of each class the
    threshold of best F1. Stock loops, metrics and checkpoint hooks will do. A data set of several COCO files, or of none, is
    passed over; a file that cannot be written is logged, and the training goes on.
    """

    # after CheckpointHook (VERY_LOW), which decides what the best is
    priority = 'LOWEST'

    def __init__(self):
        self._found: list[dict | None] = []
        self._best: dict[str, float] = {}
        self._begin = 0
        self._hash: str | None = None
        self._kept = False

    def before_train(self, runner) -> None:
        self._best, self._begin = _best_scores(runner), runner.iter

    def before_val_epoch(self, runner) -> None:
        self._found = []

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._found += map(image_record, outputs or ())

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        # to fill up their shares several processes repeat images at the end, which are cut off here
        images = collect_results(self._found, len(runner.val_dataloader.dataset))
        self._found = []
        best, before = _best_scores(runner), self._best
        self._best = best
        datasets = coco_datasets(runner.val_dataloader.dataset)
        if not is_main_process() or not images or None in images or len(datasets) != 1:
            return
        files = [FILES['last']] + ([FILES['best']] if best != before else [])
        try:
            data = pack(images, self._about(runner, datasets[0], metrics or {}))
            for name in files:
                write_atomically(data, Path(runner.log_dir, name))
            self._kept = True
        except Exception as error:  # a full disk, ids that are no JSON: a training of days is worth more
            words = f'{type(error).__name__}: {error}'
            runner.logger.error(f'The predictions could not be kept: {words}. The training goes on.')

    def after_train(self, runner) -> None:
        if not self._kept:  # no validation, or another process than the first
            return
        try:
            made = operating_point.make(runner.work_dir)
            operating_point.write(runner.work_dir, made)
            runner.logger.info('\n'.join(next(iter(made.values())).to_lines()))
        except InputError as error:  # such as an annotation file that has changed since
            runner.logger.warning(f'There are no operating points: {error}')
        except Exception as error:  # a full disk; the training is done, its checkpoints lie elsewhere
            words = f'{type(error).__name__}: {error}'
            runner.logger.error(f'The operating points could not be kept: {words}.')

    def _about(self, runner, dataset, metrics: dict) -> dict:
        file = Path(dataset.ann_file).absolute()
        self._hash = self._hash or file_hash(file)
        return {
            'epoch': runner.epoch,
            'iteration': runner.iter,
            'begin': self._begin,
            'classes': list(dataset.metainfo['classes']),
            'ann_file': str(file),
            'sha256': self._hash,
            'metrics': {name: float(value) for name, value in metrics.items() if name.startswith('coco/')},
        }


def _best_scores(runner) -> dict[str, float]:
    """The first of the scores that best checkpoints are saved by, and its name."""
    scores = {key: float(value) for key, value in runner.message_hub.runtime_info.items() if key.startswith('best_score')}
    return dict(list(scores.items())[:1])
