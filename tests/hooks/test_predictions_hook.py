import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmext.analysis.coco_ap import average_precision, match_predictions, numbers, truth_of
from mmext.analysis.operating_point import make
from mmext.analysis.operating_point import read as read_operating_points
from mmext.analysis.predictions import FILES, file_hash, read_predictions
from mmext.data.coco_file import read_coco
from mmext.hooks.predictions import image_record

HOOKS = {'predictions': {'type': 'mmext.PredictionsHook'}}
KEYS = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75', 'AP small': 'mAP_s', 'AP medium': 'mAP_m', 'AP large': 'mAP_l'}


def test_what_is_kept_gives_the_logged_numbers(run_folder):
    start = next(run_folder.glob('*/vis_data')).parent
    lines = [json.loads(line) for line in (start / 'vis_data' / 'scalars.json').read_text().splitlines()]
    logged = next(line for line in reversed(lines) if 'coco/bbox_mAP' in line)
    found = read_predictions(start / FILES['last'])
    assert (found.about['epoch'], found.about['begin'], found.about['iteration']) == (1, 0, logged['step'])
    truth = truth_of(read_coco(found.about['ann_file']), found.about['image_ids'], found.about['classes'])
    assert len(truth.image_ids) == 4
    for kind in ('bbox', 'segm'):
        ours = numbers(average_precision(match_predictions(truth, found, kind)))
        values = {key: np.nan_to_num(ours[name][0], nan=-1) for name, key in KEYS.items()}
        assert values == pytest.approx({key: logged[f'coco/{kind}_{key}'] for key in KEYS.values()}, abs=1e-9)
    assert (start / FILES['best']).read_bytes() == (start / FILES['last']).read_bytes()  # the only validation is the best


def test_operating_points_are_kept_with_the_run(run_folder):
    start = next(run_folder.glob('*/vis_data')).parent
    kept = read_operating_points(run_folder / 'operating_points.json')
    assert kept == make(run_folder)
    assert [point.name for point in kept['last'].points] == ['Fiber', 'Fragment', 'Film']
    assert kept['best'].predictions == f'{start.name}/{FILES["best"]}'
    assert kept['last'].to_lines()[0] in (start / f'{start.name}.log').read_text()


def sample(image_id=7, detections=2, **more):
    found = InstanceData(
        bboxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]] * detections).reshape(-1, 4),
        scores=torch.full((detections,), 0.5),
        labels=torch.zeros(detections, dtype=torch.long),
        masks=torch.ones(detections, 40, 30, dtype=torch.bool),
        **more,
    )
    return DetDataSample(metainfo={'img_id': image_id, 'ori_shape': (40, 30)}, pred_instances=found)


def test_an_image_without_detections_is_kept_and_other_samples_are_not():
    record = image_record(sample(detections=0))
    assert (record['image_id'], record['size'], len(record['labels']), record['rles']) == (7, [40, 30], 0, [])
    assert image_record(sample(mask_scores=torch.ones(2)))['mask_scores'].tolist() == [1, 1]
    assert image_record(DetDataSample()) is None
    assert image_record(torch.ones(1)) is None


class Detects:
    """Makes the tiny model's answers detections, more of them with each validation."""

    def __init__(self):
        self.validations = 0

    def __call__(self, model):
        forward = model.forward

        def answer(inputs, mode='loss'):
            if mode != 'predict':
                return forward(inputs, mode)
            return [sample(round(float(one[0]) * 6), self.validations) for one in inputs]

        model.forward = answer
        return model


def train(train_tiny, tmp_path, document=None, **settings):
    """Three epochs with a validation after each; the second is the best."""
    from mmengine.evaluator import BaseMetric
    from mmengine.hooks import Hook

    detects, file = Detects(), tmp_path / 'annotations.json'
    file.write_text(json.dumps(document or {}))

    class Count(Hook):
        def before_val(self, runner):
            detects.validations += 1

    class Size(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += data_samples

        def compute_metrics(self, results):
            return {'coco/size': [0.5, 0.9, 0.3][detects.validations - 1]}

    hooks = {**HOOKS, 'checkpoint': {'type': 'CheckpointHook', 'save_best': 'coco/size', 'rule': 'greater'}}
    runner = train_tiny(
        default_hooks=hooks, epochs=3, validate=True, change=detects, custom_hooks=[Count()], start=False, **settings
    )
    dataset = runner._val_dataloader['dataset']
    dataset.cat2label, dataset.ann_file, dataset.metainfo = {1: 0}, str(file), {'classes': ('Fiber',)}
    runner.val_evaluator.metrics[:] = [Size()]
    runner.train()
    return runner, file


def test_the_last_and_the_best_are_kept_with_stock_hooks(train_tiny, tmp_path):
    runner, file = train(train_tiny, tmp_path)
    last, best = (read_predictions(Path(runner.log_dir, FILES[which])) for which in ('last', 'best'))
    assert (last.about['epoch'], len(last.scores)) == (3, 3 * 6)
    assert (best.about['epoch'], len(best.scores), best.about['metrics']) == (2, 2 * 6, {'coco/size': 0.9})
    assert (best.about['ann_file'], best.about['sha256']) == (str(file), file_hash(file))
    assert best.about['image_ids'] == [0, 1, 2, 3, 4, 5]


def test_a_full_disk_ends_no_training(train_tiny, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmext.hooks.predictions.write_atomically', full)
    runner, _ = train(train_tiny, tmp_path)
    text = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert text.count('could not be kept: OSError: [Errno 28] No space left on device. The training goes on.') == 3
    assert runner.epoch == 3


COCO_FILE = {
    'images': [{'id': i, 'file_name': f'{i}.png', 'width': 30, 'height': 40} for i in range(6)],
    'categories': [{'id': 1, 'name': 'Fiber'}],
    'annotations': [
        {'id': 1 + i, 'image_id': i, 'category_id': 1, 'bbox': [0, 0, 30, 40], 'area': 1200, 'iscrowd': 0}
        | {'segmentation': [[0, 0, 30, 0, 30, 40, 0, 40]]}
        for i in range(6)
    ],
}


def test_the_operating_points_of_the_last_and_the_best_are_written_at_the_end(train_tiny, tmp_path):
    runner, _ = train(train_tiny, tmp_path, document=COCO_FILE)
    made = read_operating_points(Path(runner.work_dir, 'operating_points.json'))
    # each image has an object, which is detected twice in the second epoch, the best, and thrice in the third
    assert {which: (one.epoch, one.points[0].detections) for which, one in made.items()} == {
        'best': (2, 12),
        'last': (3, 18),
    }
    point = made['best'].points[0]
    assert (point.threshold, point.precision, point.recall, point.objects) == (0.25, 0.5, 1.0, 6)


def test_operating_points_that_cannot_be_made_or_kept_end_no_training(train_tiny, tmp_path, monkeypatch):
    runner, _ = train(train_tiny, tmp_path)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'There are no operating points: ' in log
    assert 'not a COCO instance file' in log
    assert not Path(runner.work_dir, 'operating_points.json').exists()

    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmext.analysis.operating_point.write_atomically', full)
    runner, _ = train(train_tiny, tmp_path, document=COCO_FILE, folder='full')
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'The operating points could not be kept: OSError: [Errno 28] No space left on device.' in log
    assert runner.epoch == 3


def test_a_model_without_detections_is_passed_over(train_tiny):
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=1, validate=True)
    assert list(Path(runner.log_dir).glob('*.npz')) == []
