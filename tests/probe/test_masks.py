"""What a mask head gives for boxes, in each family that has such a head."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmext import recipe
from mmext.model import build_model
from mmext.probe.masks import Grids, grids_for_boxes, iou_at, mask_head_of, paste
from mmext.probe.subject import why_not

META = {'scale_factor': (0.5, 0.5), 'ori_shape': (128, 128), 'img_shape': (64, 64), 'pad_shape': (64, 64)}


def model_of(name):
    cfg = Config.fromfile(recipe(name))
    init_default_scope('mmdet')
    return build_model(cfg).eval()


@pytest.mark.parametrize(
    ('name', 'grid'),
    [
        ('mask-rcnn_r18_fpn_finetune', 28),
        ('cascade-mask-rcnn_r18_fpn_finetune', 28),
        ('ms-rcnn_r18_fpn_finetune', 28),
        ('point-rend_r18_fpn_finetune', None),
    ],
)
def test_boxes_come_back_with_a_grid_each(name, grid):
    model = model_of(name)
    assert why_not(model) is None
    boxes = np.array([[10.0, 20.0, 40.0, 30.0], [60.0, 60.0, 50.0, 60.0]])
    with torch.inference_mode():
        features = model.extract_feat(torch.rand(1, 3, 64, 64))
        found = grids_for_boxes(model, features, META, boxes, np.array([0, 2]))
    np.testing.assert_allclose(found.boxes.numpy(), [[10, 20, 50, 50], [60, 60, 110, 120]], atol=1e-4)
    assert len(found.probabilities) == 2
    assert grid is None or found.channel(1, 2).shape == (grid, grid)
    assert 0 <= found.probabilities.min() <= found.probabilities.max() <= 1
    assert 'predict_by_feat' not in vars(mask_head_of(model))  # the class's own is there again


@pytest.mark.parametrize('name', ['solov2_r18_fpn_finetune', 'htc-without-semantic_r18_fpn_finetune'])
def test_other_families_say_why_not(name):
    assert why_not(model_of(name)) is not None


def test_a_full_grid_fills_its_box():
    probabilities, (x1, y1, x2, y2) = paste(torch.ones(28, 28), torch.tensor([10.0, 20.0, 30.0, 50.0]), 64, 64)
    mask = np.zeros((64, 64), bool)
    mask[y1:y2, x1:x2] = probabilities >= 0.5
    expected = np.zeros((64, 64), bool)
    expected[20:50, 10:30] = True
    np.testing.assert_array_equal(mask, expected)
    assert iou_at(probabilities, expected[y1:y2, x1:x2], expected.sum(), 0.5) == 1


def test_one_channel_serves_all_classes():
    grids = Grids(torch.rand(2, 1, 4, 4), torch.zeros(2, 4))
    assert torch.equal(grids.channel(1, 3), grids.probabilities[1, 0])


def test_no_box_gives_no_grid():
    assert len(grids_for_boxes(None, [], META, np.zeros((0, 4)), np.zeros(0)).boxes) == 0
