import contextlib
import copy
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import count, small_sampling
from mmengine.config import Config
from mmengine.runner import Runner

import mmext
from mmext.errors import InputError
from mmext.loops.loss_val_loop import at_input_size, image_losses, kept_random_state, shared_features
from mmext.run_state import random_state

KEYS = ['val_loss', 'val_loss_bbox', 'val_loss_cls', 'val_loss_mask', 'val_loss_rpn_bbox', 'val_loss_rpn_cls']


@pytest.fixture
def cfg(demo_data, tmp_path):
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(demo_data)
    cfg.val_evaluator = {
        'type': 'mmext.CocoMetric',
        'ann_file': str(demo_data / 'val' / 'annotations.json'),
        'metric': ['bbox', 'segm'],
    }
    cfg.val_cfg = {'type': 'mmext.LossValLoop'}
    cfg.work_dir = str(tmp_path / 'run')
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    return small_sampling(cfg)


def runner_of(cfg, **changes):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(changes)
    cfg.experiment_name = f'loop{next(count)}'
    cfg.visualizer.name = cfg.experiment_name  # MMEngine keeps one visualizer of a name, with the folder of the first run
    return Runner.from_cfg(cfg)


def test_losses_stand_beside_the_same_predictions(cfg):
    ours, stock = runner_of(cfg).val(), runner_of(cfg, val_cfg={'_delete_': True, 'type': 'ValLoop'}).val()
    added = sorted(set(ours) - set(stock))
    assert [key for key in added if not key.startswith('mask/')] == KEYS
    assert {'mask/iou', 'mask/coverage', 'mask/area_ratio', 'mask/union_iou', 'mask/iou_Fiber'} < set(added)
    assert {key: ours[key] for key in stock} == stock
    assert ours['val_loss'] == pytest.approx(sum(ours[key] for key in KEYS[1:]))


def test_the_same_weights_give_the_same_losses_whatever_the_batch(cfg):
    found = []
    for batch in (1, 4, 3):
        torch.manual_seed(batch)
        metrics = runner_of(cfg, **{'val_dataloader.batch_size': batch}).val()
        found.append({key: metrics[key] for key in KEYS})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_losses_are_those_of_training(cfg, demo_data):
    """The training pipeline without its flip, in eval mode, an image at a time, with the loop's seeds."""
    import random
    import zlib

    import numpy as np

    # another size than that of the files: the ground truth of the validation pipeline is not in the network's pixels
    cfg.val_dataloader.dataset.pipeline[1].scale = (320, 320)
    metrics = runner_of(cfg).val()
    train = copy.deepcopy(cfg.val_dataloader)
    train.dataset.pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'mmext.LoadInstanceMasks'},
        {'type': 'mmdet.Resize', 'scale': (320, 320), 'keep_ratio': True},
        {'type': 'mmdet.PackDetInputs'},
    ]
    train.batch_size = 1
    runner = runner_of(cfg)
    runner.load_or_resume()
    model = runner.model.eval()
    totals = []
    for batch in runner.build_dataloader(train):
        data = model.data_preprocessor(batch, True)
        seed = zlib.crc32(str(data['data_samples'][0].img_id).encode())
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        with torch.no_grad():
            totals.append(float(model.parse_losses(model(**data, mode='loss'))[0]))
    assert metrics['val_loss'] == pytest.approx(sum(totals) / len(totals), rel=1e-4)


def test_training_does_not_notice_the_validation(cfg):
    weights = []
    for validate in (True, False):
        off = {} if validate else {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}
        with_it = copy.deepcopy(cfg)
        for key, value in off.items():
            with_it[key] = value
        runner = runner_of(with_it, work_dir=f'{cfg.work_dir}_{validate}')
        runner.train()
        weights.append(runner.model.state_dict())
        if validate:
            history = runner.message_hub.log_scalars['val/val_loss'].data[0].tolist()
            text = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text()
            lines = [line for line in map(json.loads, text.splitlines()) if 'val_loss' in line]
    # each validation's own number, at its iteration
    assert [line['val_loss'] for line in lines] == pytest.approx(history)
    assert [line['step'] for line in lines] == [2, 4]
    assert history[0] != history[1]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())  # running statistics too


def test_features_are_computed_once_a_batch(cfg):
    runner = runner_of(cfg)
    calls = []
    runner.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    runner.val()
    assert len(calls) == 1  # four images, one batch
    assert 'extract_feat' not in vars(runner.model)


def test_the_features_are_the_models_own_again_after_an_error(cfg):
    model = runner_of(cfg).model
    with contextlib.suppress(KeyboardInterrupt), shared_features(model):
        raise KeyboardInterrupt
    assert 'extract_feat' not in vars(model)


def test_lists_are_summed_and_other_values_left_out():
    losses = {'loss_rpn_cls': [torch.tensor(1.0), torch.tensor(2.0)], 'loss_mask': torch.tensor([1.0, 3.0]), 'acc': 9}
    assert image_losses(losses) == {'val_loss': 5.0, 'val_loss_rpn_cls': 3.0, 'val_loss_mask': 2.0}


def test_random_numbers_go_on_after_an_error():
    before = random_state()
    with contextlib.suppress(KeyboardInterrupt), kept_random_state():
        torch.rand(3)
        raise KeyboardInterrupt
    after = random_state()
    assert torch.equal(before['torch'], after['torch'])
    assert before['python'] == after['python']


def test_a_pipeline_without_masks_is_an_error(cfg):
    cfg.val_dataloader.dataset.pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'Resize', 'scale': (256, 256), 'keep_ratio': True},
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'PackDetInputs'},
    ]
    with pytest.raises(InputError, match='the validation pipeline loads no masks'):
        runner_of(cfg).val()


def test_ground_truth_at_the_inputs_size_is_left_as_it_is(cfg):
    runner = runner_of(cfg)
    (batch,) = list(runner.build_dataloader(cfg.val_dataloader))
    sample = runner.model.data_preprocessor(batch, False)['data_samples'][0]
    same = at_input_size(sample)
    assert torch.equal(same.gt_instances.bboxes, sample.gt_instances.bboxes)
    sample.set_metainfo({'img_shape': (512, 512)})
    twice = at_input_size(sample)
    assert torch.allclose(twice.gt_instances.bboxes, sample.gt_instances.bboxes * 2)
    assert twice.gt_instances.masks.areas == pytest.approx(sample.gt_instances.masks.areas * 4, rel=0.02)
    sample.set_metainfo({'img_shape': (512, 512), 'ori_shape': (100, 100)})
    with pytest.raises(InputError, match='masks of'):
        at_input_size(sample)


def test_mask_quality_is_measured_once_or_not_at_all(cfg):
    off = runner_of(cfg, **{'val_cfg.extra_metrics': []}).val()
    assert not [key for key in off if key.startswith('mask/')]
    cfg.val_evaluator = [cfg.val_evaluator, {'type': 'mmext.MaskQualityMetric', 'box_iou': 0.6}]
    runner = runner_of(cfg)
    kinds = [type(metric).__name__ for metric in runner.val_loop.evaluator.metrics]
    assert kinds == ['CocoMetric', 'MaskQualityMetric', 'ImageLosses']


FAMILIES = {
    'cascade-mask-rcnn_r18_fpn_finetune': {'bbox', 'cls', 'mask', 'rpn_bbox', 'rpn_cls'},
    'htc-without-semantic_r18_fpn_finetune': {'bbox', 'cls', 'mask', 'rpn_bbox', 'rpn_cls'},
    'ms-rcnn_r18_fpn_finetune': {'bbox', 'cls', 'mask', 'mask_iou', 'rpn_bbox', 'rpn_cls'},
    'point-rend_r18_fpn_finetune': {'bbox', 'cls', 'mask', 'rpn_bbox', 'rpn_cls'},
    'solov2_r18_fpn_finetune': {'cls', 'mask'},
}


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_gives_losses_beside_stocks_predictions(demo_data, tmp_path, name):
    cfg = Config.fromfile(mmext.recipe(name))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(demo_data)
    cfg.val_evaluator.ann_file = str(demo_data / 'val' / 'annotations.json')
    cfg.work_dir = str(tmp_path / 'run')
    cfg = small_sampling(cfg)
    ours, again = (runner_of(cfg).val() for _ in range(2))
    stock = runner_of(cfg, val_cfg={'_delete_': True, 'type': 'ValLoop'}).val()
    assert {key: ours[key] for key in stock} == stock
    assert ours == again
    parts = {key.removeprefix('val_loss_'): value for key, value in ours.items() if key.startswith('val_loss_')}
    assert set(parts) == FAMILIES[name]
    assert all(math.isfinite(value) and value >= 0 for value in parts.values())
    assert ours['val_loss'] == pytest.approx(sum(parts.values()))
    assert -1 <= ours['mask/iou'] <= 1
