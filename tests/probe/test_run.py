"""Experiments on a real checkpoint and made data: each planted fault is named, and none where nothing is planted."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from mmext.analysis.diagnose import diagnose_run
from mmext.analysis.findings import is_problem
from mmext.analysis.runs import Run, read_run
from mmext.errors import InputError
from mmext.probe import gradients, ground_truth
from mmext.probe.objects import measure
from mmext.probe.run import look_at_truth, probe
from mmext.probe.subject import find_checkpoint, load_subject


@pytest.fixture(autouse=True)
def one_batch(monkeypatch):
    monkeypatch.setattr(gradients, 'BATCHES', 1)


def findings(work_dir):
    return {finding.code: finding for one in probe(read_run(work_dir)).experiments for finding in one.findings}


def test_a_good_checkpoint_has_no_problem(shapes_run):
    made = probe(read_run(shapes_run))
    assert [one.name for one in made.experiments] == [
        'boxes',
        'threshold',
        'grid',
        'train against val',
        'class channel',
        'annotation',
        'ground truth',
        'gradients',
    ]
    assert not is_problem(finding for one in made.experiments for finding in one.findings)
    assert made.experiments[0].before > 0.8  # it does see what it is asked about
    assert '5 of 5 val images' in made.remarks[0]
    assert 'epoch_1.pth' in made.remarks[0]


def test_mask_iou_now_is_that_of_the_pasted_probabilities(shapes_run):
    subject = load_subject(read_run(shapes_run), 'cpu', 0)
    part = measure(subject, subject.samples['val'])
    at_half = part.column('by_threshold')[:, 4]
    assert len(at_half) > 20
    np.testing.assert_allclose(part.column('now'), at_half, atol=1e-9)


def test_a_threshold_too_high_is_named_first_with_the_line_that_mends_it(planted):
    work_dir = planted({'model.test_cfg.rcnn.mask_thr_binary': 0.97})
    made = probe(read_run(work_dir))
    diagnosis = diagnose_run(read_run(work_dir), made.experiments, made.remarks)
    first = diagnosis.findings[0]
    assert first.code == 'mask-threshold'
    assert first.severity == 'warning'
    assert 'model.test_cfg.rcnn.mask_thr_binary=' in first.remedy
    assert first.explains > 0.1
    record = diagnosis.to_record()
    assert {one['name']: one['gain'] for one in record['experiments']}['threshold'] == pytest.approx(first.explains)


def test_validation_masks_shifted_by_4_px_are_named_with_their_part(planted):
    work_dir = planted(change=lambda mask: np.roll(mask, 4, 1))
    made = probe(read_run(work_dir))
    diagnosis = diagnose_run(read_run(work_dir), made.experiments, made.remarks)
    moved = next(one for one in diagnosis.findings if one.code == 'masks-moved')
    assert moved.where == 'val'
    assert 'moved 4 px left, they lie where the image is steeper' in moved.text
    assert 'predictions moved 4 px right fit the annotations of val better' in moved.text
    assert moved.explains > 0.1
    assert 'the masks of val lie 4 px beside their objects' in diagnosis.verdict
    assert 'annotated-differently' not in {one.code for one in diagnosis.findings}


def test_training_masks_narrower_than_those_of_validation_are_named_with_their_part(planted):
    found = findings(planted(part='train', change=lambda mask: cv2.erode(mask, np.ones((5, 5), np.uint8))))
    assert found['masks-narrow'].where == 'train'
    assert 'shrunk by 2 px fit the annotations of train' in found['masks-narrow'].text
    assert 'annotated-differently' not in found


@TRANSFORMS.register_module()
class MoveMasks(BaseTransform):
    """Four pixels to the right, without image and boxes."""

    def transform(self, results):
        results['gt_masks'] = results['gt_masks'].translate(results['img'].shape[:2], 4, 'horizontal')
        return results


@TRANSFORMS.register_module()
class NoObjects(BaseTransform):
    """Background alone."""

    def transform(self, results):
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks'):
            results[key] = results[key][np.zeros(0, int)]
        return results


@pytest.mark.parametrize(
    ('transform', 'code', 'severity'),
    [('MoveMasks', 'masks-moved', 'warning'), ('NoObjects', 'training-images-empty', 'severe')],
)
def test_a_pipeline_that_spoils_the_training_is_named(shapes_run, transform, code, severity):
    subject = load_subject(read_run(shapes_run), 'cpu', 0)
    subject.cfg.train_dataloader.dataset.pipeline.insert(-1, {'type': transform})
    answer = ground_truth.judge(look_at_truth(subject)[0])[-1]
    assert [(one.code, one.where, one.severity) for one in answer.findings] == [(code, 'train view', severity)]


@pytest.mark.parametrize(('loading', 'apart'), [('mmext.LoadInstanceMasks', True), ('LoadAnnotations', False)])
def test_mmdetection_turns_polygons_otherwise_than_images_and_bitmaps_alike(shapes_run, loading, apart):
    subject = load_subject(read_run(shapes_run), 'cpu', 0)
    pipeline = subject.cfg.train_dataloader.dataset.pipeline
    place = next(i for i, one in enumerate(pipeline) if one['type'] == 'mmext.LoadInstanceMasks')
    pipeline[place] = {'type': loading, **({} if 'mmext' in loading else {'with_bbox': True, 'with_mask': True})}
    pipeline.insert(-1, {'type': 'Rotate', 'prob': 1.0, 'min_mag': 30.0, 'max_mag': 60.0})
    answer = ground_truth.judge(look_at_truth(subject)[0])[-1]
    codes = [one.code for one in answer.findings]
    assert 'masks-moved' in codes if apart else not codes


def test_a_training_pipeline_that_fails_is_a_remark(shapes_run):
    subject = load_subject(read_run(shapes_run), 'cpu', 0)
    subject.cfg.train_dataloader.dataset.ann_file = '/nowhere.json'
    truths, remarks = look_at_truth(subject)
    assert set(truths) == {'train', 'val'}
    assert 'nowhere.json' in remarks[0]


def test_the_training_is_seen_alike_each_time(shapes_run):
    first, again = (look_at_truth(load_subject(read_run(shapes_run), 'cpu', 0))[0]['train view'] for _ in range(2))
    np.testing.assert_array_equal(first.moved, again.moved)
    assert len(first.left) == 50  # five images, drawn ten times each
    assert len(np.unique(first.images)) == 5


def test_both_parts_shifted_are_not_said_to_differ(planted, shapes_run, tmp_path):
    run = planted(change=lambda mask: np.roll(mask, 4, 1))
    file = next(run.glob('*/vis_data/config.py'))
    from mmengine.config import Config

    cfg = Config.fromfile(file)
    cfg.train_dataloader.dataset.ann_file = cfg.val_dataloader.dataset.ann_file
    cfg.train_dataloader.dataset.data_root = cfg.val_dataloader.dataset.get('data_root')
    cfg.train_dataloader.dataset.data_prefix = cfg.val_dataloader.dataset.data_prefix
    cfg.dump(file)
    found = findings(run)
    assert 'annotated-differently' not in found
    assert 'masks-moved' in found


def test_permuted_classes_are_named(planted):
    assert 'classes-mixed-up' in findings(planted(classes={1: 2, 2: 3, 3: 4, 4: 1}))


def test_boxes_that_are_off_are_named(planted):
    work_dir = planted()
    checkpoint = torch.load(work_dir / 'epoch_1.pth', weights_only=True)
    for name, weights in checkpoint['state_dict'].items():
        if 'bbox_head.fc_reg' in name:
            weights.zero_()
            if name.endswith('bias'):  # the boxes stay where they are proposed, and are a third smaller
                weights += torch.tensor([0.0, 0.0, -2.0, -2.0]).repeat(len(weights) // 4)
    torch.save(checkpoint, work_dir / 'epoch_1.pth')
    found = findings(work_dir)
    assert found['boxes-hold-masks-back'].explains > 0.1


def test_a_model_without_grids_is_told_so(shapes_run, tmp_path):
    from mmengine.config import Config

    from mmext import recipe

    logs = tmp_path / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    cfg = Config.fromfile(recipe('solov2_r18_fpn_finetune'))
    cfg.dump(logs / 'config.py')
    (logs / 'scalars.json').write_text('{"loss": 1.0, "step": 1}\n')
    from mmext.model import build_model

    torch.save({'state_dict': build_model(cfg).state_dict()}, tmp_path / 'epoch_1.pth')
    made = probe(read_run(tmp_path))
    assert {one.name for one in made.experiments} <= {'gradients'}  # of which the recipe's data may not be here
    assert 'SOLOv2 predicts no mask grid for each box' in made.remarks[-1]


def test_the_best_checkpoint_is_taken_and_a_moved_work_dir_works(tmp_path):
    with pytest.raises(InputError, match='has no checkpoint'):
        find_checkpoint(tmp_path)
    (tmp_path / 'epoch_2.pth').touch()
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    assert find_checkpoint(tmp_path).name == 'epoch_2.pth'
    (tmp_path / 'best_coco_segm_mAP_epoch_1.pth').touch()
    assert find_checkpoint(tmp_path).name == 'best_coco_segm_mAP_epoch_1.pth'


def test_data_that_is_gone_is_named(planted):
    work_dir = planted({'train_dataloader.dataset.ann_file': '/nowhere/train.json'})
    with pytest.raises(InputError, match=r'/nowhere/train\.json'):
        probe(read_run(work_dir))


def test_weights_of_another_model_are_refused(planted):
    work_dir = planted({'model.roi_head.mask_head.num_classes': 7})
    with pytest.raises(InputError, match=r'epoch_1\.pth cannot be loaded'):
        probe(read_run(work_dir))


def test_a_run_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match='its config cannot be read'):
        load_subject(Run(tmp_path), 'cpu', 0)
