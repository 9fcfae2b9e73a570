import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmext import recipe
from mmext.check.parts import data_parts
from mmext.check.sizes import check_sizes
from mmext.data.coco_file import CocoFile, read_coco
from mmext.hooks.small_objects import count_small


@pytest.fixture(scope='module')
def configs():
    init_default_scope('mmdet')
    return {name: Config.fromfile(recipe(f'{name}_finetune')) for name in ('mask-rcnn_r50_fpn', 'solov2_r50_fpn')}


def demo(demo_config):
    cfg = Config.fromfile(demo_config)
    part = data_parts(cfg)[0]
    return replace(part, coco=read_coco(part.ann_file)), cfg


def squares(cfg, sides, image=(800, 800), **changes):
    """The training part of a config with one square object of each side, all in the middle of its image."""
    images, annotations = [], []
    for number, side in enumerate(sides, 1):
        width, height = side if isinstance(side, tuple) else (side, side)
        images.append({'id': number, 'file_name': f'{number}.png', 'width': image[0], 'height': image[1]})
        box = [(image[0] - width) / 2, (image[1] - height) / 2, width, height]
        annotations.append(
            {
                'id': number,
                'image_id': number,
                'category_id': 1,
                'bbox': box,
                'area': width * height,
                'segmentation': [[0] * 6],
            }
            | changes
        )
    part = data_parts(cfg)[0]
    categories = [{'id': 1, 'name': cfg.class_names[0]}]
    return replace(part, coco=CocoFile(part.ann_file, images, annotations, categories))


def codes(found):
    return [finding.code for finding in found.findings]


def test_the_demo_has_no_finding_with_its_recipe(demo_config):
    part, cfg = demo(demo_config)
    found = check_sizes(part, cfg, cfg.model)
    assert found.findings == ()
    assert [row.name for row in found.rows] == ['Fiber', 'Fragment', 'Film', 'all']
    assert sum(row.objects for row in found.rows[:-1]) == found.rows[-1].objects == len(part.coco.annotations)
    assert found.table().row_count == 4


def test_levels_are_the_extractors_own(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    sides = [20, 111, 112, 113, 223, 224, 300, 448, 700]
    found = check_sizes(squares(cfg, sides), cfg, cfg.model)  # 800 x 800 stays as it is in 1333 x 800
    extractor = MODELS.build(cfg.model.roi_head.bbox_roi_extractor)
    rois = torch.tensor([[0.0, 0, 0, side, side] for side in sides])
    assert list(found.rows[0].levels) == np.bincount(extractor.map_roi_levels(rois, 4), minlength=4).tolist() == [2, 3, 2, 2]
    assert found.strides == (4, 8, 16, 32)
    finest = ConfigDict(cfg.model.to_dict())
    finest.roi_head.bbox_roi_extractor.finest_scale = 28
    assert check_sizes(squares(cfg, sides), cfg, finest).rows[0].levels == (1, 1, 3, 4)


def test_sides_and_cocos_sizes(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    found = check_sizes(squares(cfg, [20, 40, 100], image=(400, 400)), cfg, cfg.model).rows[0]
    assert (found.small, found.medium, found.large) == (1, 1, 1)  # in the original image
    assert found.side[1] == 80  # at 800 x 800


def test_anchors_that_fit_no_object(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    found = check_sizes(squares(cfg, [10] * 4 + [60] * 12), cfg, cfg.model)
    (finding,) = found.findings
    assert (finding.code, finding.severity, finding.count, finding.where) == ('no-anchor-fits', 'warning', 4, 'train')
    assert '4 of 16 objects (25.0%) have no anchor of IoU 0.3 or more' in finding.text
    assert 'median box is 10 x 10 px' in finding.text
    assert finding.remedy == 'model.rpn_head.anchor_generator.scales=[4]  (leaves 0.0% out)'
    assert finding.examples[0] == 'annotation 1 (image 1, 1.png)'
    assert found.rows[0].without_anchor == 4
    changed = ConfigDict(cfg.model.to_dict())
    changed.rpn_head.anchor_generator.scales = [4]
    assert check_sizes(squares(cfg, [10] * 4 + [60] * 12), cfg, changed).findings == ()


def test_objects_under_two_cells(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    finding = check_sizes(squares(cfg, [6] * 4 + [60] * 12), cfg, cfg.model).findings[-1]
    assert (finding.code, finding.count) == ('objects-too-small', 4)
    assert 'under 8 px' in finding.text
    # 8 / 6 in quarters, up
    assert finding.remedy.startswith('train_dataloader.dataset.pipeline.2.scale="(2000,1200)"  (1.5 times as large')
    options = finding.remedy.split('  ')[0].split('=', 1)
    enlarged = Config.fromfile(recipe('mask-rcnn_r50_fpn_finetune'))
    enlarged.merge_from_dict({options[0]: tuple(json.loads(options[1].strip('"').replace('(', '[').replace(')', ']')))})
    assert 'objects-too-small' not in codes(check_sizes(squares(enlarged, [6] * 4 + [60] * 12), enlarged, enlarged.model))
    specks = check_sizes(squares(cfg, [1.5] * 4 + [60] * 12), cfg, cfg.model).findings[-1]
    assert 'cut the images into tiles' in specks.remedy


def test_the_limit_of_the_rpn_counts_as_the_hook_counts(demo_config):
    part, cfg = demo(demo_config)
    model = ConfigDict(cfg.model.to_dict())
    model.rpn_head.update(type='mmext.MinSizeRPNHead', min_size=14)
    (finding,) = check_sizes(part, cfg, model).findings
    total, small = count_small(DATASETS.build(part.dataset), 14)
    assert (finding.code, finding.count) == ('under-min-size', small.total())
    assert 0 < small.total() < total.total()
    assert f'{small.total()} of {total.total()} objects' in finding.text
    assert finding.remedy == 'model.rpn_head.min_size=0'
    model.rpn_head.filter_by = 'proposal'  # goes by predictions
    assert check_sizes(part, cfg, model).findings == ()


def test_the_limit_on_proposals(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    model = ConfigDict(cfg.model.to_dict())
    model.test_cfg.rpn.min_bbox_size = 40
    part = squares(cfg, [40, 41])
    assert check_sizes(part, cfg, model).findings == ()  # a limit of prediction
    (finding,) = check_sizes(replace(part, name='val'), cfg, model).findings
    assert (finding.code, finding.severity, finding.count) == ('under-min-bbox-size', 'warning', 1)
    assert '1 of 2 objects (50.0%) have a side of at most 40 px' in finding.text
    assert (finding.where, finding.remedy) == ('val', 'model.test_cfg.rpn.min_bbox_size=0')
    model.test_cfg.rpn.min_bbox_size = 0
    model.train_cfg.rpn_proposal.min_bbox_size = 40
    (finding,) = check_sizes(part, cfg, model).findings
    assert (finding.where, finding.remedy) == ('train', 'model.train_cfg.rpn_proposal.min_bbox_size=0')


def test_what_only_training_does_is_not_said_of_validation(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    model = ConfigDict(cfg.model.to_dict())
    model.rpn_head.update(type='mmext.MinSizeRPNHead', min_size=14)
    model.train_cfg.rpn_proposal.min_bbox_size = 12
    part = squares(cfg, [10] * 4 + [60] * 12)
    taught = check_sizes(part, cfg, model)
    assert codes(taught) == ['no-anchor-fits', 'under-min-size', 'under-min-bbox-size']
    found = check_sizes(replace(part, name='val'), cfg, model)
    assert found.findings == ()
    assert found.rows == taught.rows  # the table has the numbers of both


def test_a_model_without_rois_and_anchors_says_so(configs):
    cfg = configs['solov2_r50_fpn']
    found = check_sizes(squares(cfg, [40, 6]), cfg, cfg.model)
    assert found.findings == ()
    assert found.lines == (
        'SOLOv2 has no RoIs, so no object is assigned to a level by its size.',
        'SOLOv2 has no anchors of fixed sizes to compare the objects with.',
    )
    assert len(found.table().columns) == 4


def test_crowds_and_an_empty_file(configs):
    cfg = configs['mask-rcnn_r50_fpn']
    for part in (squares(cfg, [40, 60], iscrowd=1), squares(cfg, [])):
        found = check_sizes(part, cfg, cfg.model)
        assert (found.findings, found.rows[-1].objects) == ((), 0)
        assert found.table().row_count == 1
        json.dumps(found.to_record(), allow_nan=False)


def test_record(demo_config):
    part, cfg = demo(demo_config)
    record = json.loads(json.dumps(check_sizes(part, cfg, cfg.model).to_record(), allow_nan=False))
    assert (record['part'], record['strides'], record['least_anchor_iou']) == ('train', [4, 8, 16, 32], 0.3)
    assert record['classes'][0]['name'] == 'Fiber'
    assert sum(record['classes'][0]['levels']) == record['classes'][0]['objects']
