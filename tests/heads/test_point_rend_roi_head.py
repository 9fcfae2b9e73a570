import pytest
import torch
from conftest import small_sampling
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmext

RECIPES = [name for name in mmext.recipes() if 'point-rend' in name]


def model_and_inputs(kind, objects):
    """The small PointRend, and two images with so many objects each."""
    init_default_scope('mmdet')
    cfg = small_sampling(Config.fromfile(mmext.recipe('point-rend_r18_fpn_finetune')))
    cfg.model.roi_head.type = kind
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    inputs = demo_mm_inputs(2, [[3, 128, 128]] * 2, num_items=[objects] * 2, num_classes=cfg.num_classes, with_mask=True)
    torch.manual_seed(0)
    return model, inputs


def losses(kind, objects):
    model, inputs = model_and_inputs(kind, objects)
    return model, model(**model.data_preprocessor(inputs, True), mode='loss')


def test_images_without_objects_have_a_loss_of_0_and_a_gradient():
    with pytest.raises(AssertionError, match='RoI is a empty tensor'):  # why the class is there
        losses('mmdet.PointRendRoIHead', 0)
    model, found = losses('mmext.PointRendRoIHead', 0)
    assert found['loss_point'] == 0
    model.parse_losses(found)[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.roi_head.point_head.parameters())


def test_one_of_two_images_without_a_detection():
    for kind in ('mmdet.PointRendRoIHead', 'mmext.PointRendRoIHead'):
        model, inputs = model_and_inputs(kind, 3)
        model.eval()
        predict = model.roi_head.predict_bbox

        def first_finds_nothing(*args, predict=predict, **kwargs):
            first, second = predict(*args, **kwargs)
            return [first[:0], second[:2]]

        model.roi_head.predict_bbox = first_finds_nothing
        if kind.startswith('mmdet'):
            with pytest.raises(AssertionError, match='RoI is a empty tensor'), torch.no_grad():
                model.test_step(inputs)
            continue
        with torch.no_grad():
            results = model.test_step(inputs)
    height, width = inputs['data_samples'][0].ori_shape[:2]
    assert [tuple(found.pred_instances.masks.shape) for found in results] == [(0, height, width), (2, height, width)]


def test_with_objects_it_is_stock_to_the_bit():
    ours, stock = (losses(kind, 3)[1] for kind in ('mmext.PointRendRoIHead', 'mmdet.PointRendRoIHead'))
    assert all(torch.equal(ours[name], stock[name]) for name in ('loss_mask', 'loss_point'))
    assert ours['loss_point'] > 0


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_has_it(name):
    assert Config.fromfile(mmext.recipe(name)).model.roi_head.type == 'mmext.PointRendRoIHead'
