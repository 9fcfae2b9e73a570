"""One contract for every config: a new recipe is covered the moment it exists."""

from pathlib import Path

import pytest
import torch
from conftest import small_sampling
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path

import mmext
from mmext.optim import part_of

RECIPES = mmext.recipes()
# multiplier of backbone, neck, rpn_head, bbox_head, mask_head by the schedule that a recipe inherits
MULTIPLIERS = {
    'differential_10x': (1, 1, 5, 10, 10),
    'differential_10x_s0': (1, 1, 5, 10, 10),
    'backbone_tenth': (0.1, 0.1, 0.2, 1, 1),
    'uniform': (1, 1, 1, 1, 1),
    'differential_10x_cosine': (1, 1, 5, 10, 10),
    'reference_1x': (1, 1, 1, 1, 1),
}
PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')


# a recipe that inherits another's schedule and changes it
OVERRIDDEN = {'mask-rcnn_r18_fpn_finetune_uniform': 'uniform', 'mask-rcnn_r18_fpn_finetune_uniform-5x': 'uniform'}
# a recipe that changes something else of one that it inherits
INHERITED = {
    'mask-rcnn_r50_fpn_finetune_staged': 'backbone_tenth',
    'mask-rcnn_r50_fpn_finetune_staged-matterport': 'uniform',
    'mask-rcnn_r50_fpn_finetune_loss-weights': 'differential_10x',
    'mask-rcnn_r50_fpn_finetune_small-objects': 'differential_10x',
    'mask-rcnn_r50_fpn_finetune_min-size': 'differential_10x',
}


def schedule_of(path):
    text = path.read_text()
    named = [name for name in MULTIPLIERS if f'/schedules/{name}.py' in text]
    recipe = path.stem.removesuffix('_demo').removesuffix('_microplastics')
    return named[0] if named else (OVERRIDDEN | INHERITED)[recipe]


@pytest.fixture(params=RECIPES, ids=str)
def path(request):
    return RECIPES[request.param]


def test_header_and_size(path):
    lines = path.read_text().splitlines()
    assert [line.split(':')[0] for line in lines[:4]] == ['# Changes', '# Why', '# Cost', '# Source']
    assert len(lines) <= 50


def test_no_file_has_the_name_of_one_of_mmdets():
    theirs = {config.name for config in Path(get_installed_path('mmdet'), '.mim/configs').rglob('*.py')}
    assert len(theirs) > 800
    assert not theirs & {path.name for path in RECIPES.values()}


def test_every_config_is_found_by_its_name():
    files = set(mmext.config_root().glob('[!_]*/*.py'))
    assert files == set(RECIPES.values())
    assert mmext.recipe('mask-rcnn_r50_fpn_finetune').endswith('mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py')
    assert mmext.recipe('mask-rcnn_r50_fpn_finetune_microplastics') == mmext.recipe('mask-rcnn_r50_fpn_finetune')


def test_contract(path, tmp_path):
    cfg = small_sampling(Config.fromfile(path))
    init_default_scope(cfg.default_scope)
    assert cfg.custom_imports.imports == ['mmext.registry']
    assert cfg.num_classes == len(cfg.class_names)
    assert cfg.model.data_preprocessor.pad_mask
    reloaded = tmp_path / 'dumped.py'
    cfg.dump(reloaded)
    assert Config.fromfile(reloaded).to_dict() == cfg.to_dict()

    model = MODELS.build(cfg.model)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = optim_wrapper.optimizer.param_groups
    found = {group['name']: group['multiplier'] for group in groups}
    assert found == pytest.approx(dict(zip(PARTS, MULTIPLIERS[schedule_of(path)], strict=True)))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for group in groups for name in group['param_names']} == trainable
    assert {part_of(name) for name in trainable} == set(PARTS)

    torch.manual_seed(0)
    inputs = demo_mm_inputs(2, [[3, 128, 128]] * 2, num_items=[4, 4], num_classes=cfg.num_classes, with_mask=True)
    model.train()
    total, losses = model.parse_losses(model(**model.data_preprocessor(inputs, True), mode='loss'))
    assert all(torch.isfinite(value).all() for value in losses.values())
    total.backward()
    unlearnt = [name for name in sorted(trainable) if not model.get_parameter(name).grad.abs().max() > 0]
    assert unlearnt == []
    optim_wrapper.step()
    model.eval()
    with torch.no_grad():
        prediction = model.test_step(inputs)[0].pred_instances
    assert prediction.masks.shape == (len(prediction.bboxes), *inputs['data_samples'][0].ori_shape[:2])


@pytest.mark.parametrize('name', ['staged', 'staged-matterport'])
def test_stages_fill_the_run_and_find_their_parts(name):
    from mmext.hooks.staged_training import is_trained, length_mistakes, read_stages

    cfg = Config.fromfile(mmext.recipe(f'mask-rcnn_r50_fpn_finetune_{name}'))
    stages = read_stages(cfg.default_hooks.staged_training.stages)
    assert length_mistakes(stages, cfg.train_cfg.max_epochs) == []
    init_default_scope('mmdet')
    parameters = dict(MODELS.build(cfg.model).named_parameters())
    assert all(parameter.requires_grad for parameter in parameters.values())  # nothing is frozen before the stages
    trained = [sum(is_trained(parameter, stage.train) for parameter in parameters) for stage in stages]
    assert trained == sorted(set(trained))
    assert trained[-1] == len(parameters)
    assert cfg.find_unused_parameters


def test_weights_of_the_losses_are_s1s():
    from mmext.hooks.loss_share import loss_weights

    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(mmext.recipe('mask-rcnn_r50_fpn_finetune_loss-weights')).model)
    assert loss_weights(model) == {'loss_cls': 0.5, 'loss_bbox': 0.5}
