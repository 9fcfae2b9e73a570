"""One contract for every config: a new recipe is covered the moment it exists."""

import re
from pathlib import Path

import pytest
import torch
from conftest import set_where_it_is, small_sampling
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmext
from mmext.analysis.shares import shares
from mmext.check.checkpoints import mmdet_folder, published
from mmext.optim import part_of

RECIPES = mmext.recipes()
PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
SINGLE_STAGE = ('backbone', 'neck', 'mask_head')
# multiplier of each part by the schedule that a recipe inherits
MULTIPLIERS = {
    'differential_10x': (1, 1, 5, 10, 10),
    'differential_10x_s0': (1, 1, 5, 10, 10),
    'differential_10x_cosine': (1, 1, 5, 10, 10),
    'differential_10x_single_stage': (1, 1, 10),
    'backbone_tenth': (0.1, 0.1, 0.2, 1, 1),
    'differential_10x_adam': (1, 1, 2, 10, 10),
    'differential_10x_adam_cosine': (1, 1, 2, 10, 10),
    'uniform': (1, 1, 1, 1, 1),
    'reference_1x': (1, 1, 1, 1, 1),
}
# a recipe whose rates are those of another schedule than the one that it inherits
OVERRIDDEN = {
    'mask-rcnn_r18_fpn_finetune_differential-10x': 'differential_10x',
    'mask-rcnn_r18_fpn_finetune_uniform': 'uniform',
    'mask-rcnn_r18_fpn_finetune_uniform-5x': 'uniform',
    'solov2_r18_fpn_finetune': 'differential_10x_single_stage',
}
# a side of the input; every level of the FPN has a pixel at the least
SIDE = 64


def inherited(path):
    """A config and all that it inherits of ours, the nearest first."""
    yield path
    for base in re.findall(r"'(\.{1,2}/[^']+\.py)'", path.read_text()):
        yield from inherited((path.parent / base).resolve())


def schedule_of(recipe):
    """The nearest schedule that a recipe inherits, by its name."""
    return next(file.stem for file in inherited(RECIPES[recipe]) if file.parent.name == 'schedules')


@pytest.fixture(params=RECIPES, ids=str)
def recipe(request):
    return request.param


def test_header_and_size(recipe):
    lines = RECIPES[recipe].read_text().splitlines()
    assert [line.split(':')[0] for line in lines[:4]] == ['# Changes', '# Why', '# Cost', '# Source']
    # the fifth is for what `mmext check` says of the recipe on made data: tests/check/test_recipes.py
    assert not lines[4].startswith('#') or lines[4].startswith('# Check: ')
    assert not lines[5].startswith('#')
    assert len(lines) < (15 if RECIPES[recipe].parent.name == 'mask_ablation' else 51)


def test_no_file_has_the_name_of_one_of_mmdets():
    theirs = {config.name for config in (mmdet_folder() / 'configs').rglob('*.py')}
    assert len(theirs) > 800
    assert not theirs & {path.name for path in mmext.config_root().rglob('*.py')}


def test_every_config_is_found_by_its_name():
    files = set(mmext.config_root().glob('[!_]*/*.py'))
    assert files == set(RECIPES.values())
    assert mmext.recipe('mask-rcnn_r50_fpn_finetune').endswith('mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py')
    assert mmext.recipe('mask-rcnn_r50_fpn_finetune_microplastics') == mmext.recipe('mask-rcnn_r50_fpn_finetune')


def test_contract(recipe, tmp_path):
    cfg = Config.fromfile(RECIPES[recipe])
    reloaded = tmp_path / 'dumped.py'
    cfg.dump(reloaded)
    assert Config.fromfile(reloaded).to_dict() == cfg.to_dict()
    assert cfg.custom_imports.imports == ['mmext.registry']
    assert cfg.num_classes == len(cfg.class_names)
    assert cfg.model.data_preprocessor.pad_mask

    init_default_scope(cfg.default_scope)
    small_sampling(cfg)
    for test_cfg in ('test_cfg', 'test_cfg.rcnn'):
        set_where_it_is(cfg.model, f'{test_cfg}.max_per_img', 5)
        set_where_it_is(cfg.model, f'{test_cfg}.score_thr', 0.0)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    counts = {name: module.num_classes for name, module in model.named_modules() if hasattr(module, 'num_classes')}
    assert counts.pop('rpn_head', 1) == 1  # an object or none
    assert set(counts.values()) == {cfg.num_classes}

    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = optim_wrapper.optimizer.param_groups
    parts = PARTS if 'roi_head' in cfg.model else SINGLE_STAGE
    multipliers = MULTIPLIERS[OVERRIDDEN.get(recipe) or schedule_of(recipe)]
    found = {group['name']: group['multiplier'] for group in groups}
    assert found == pytest.approx(dict(zip(parts, multipliers, strict=True)))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for group in groups for name in group['param_names']} == trainable
    assert {part_of(name) for name in trainable} == set(parts)

    inputs = demo_mm_inputs(2, [[3, SIDE, SIDE]] * 2, num_items=[4, 4], num_classes=cfg.num_classes, with_mask=True)
    model.train()
    if 'mask_iou_head' in cfg.model.get('roi_head', {}):
        # learns from masks that overlap their object; MMDetection takes a pixel in whose logit is above 0.5
        torch.nn.init.ones_(model.roi_head.mask_head.conv_logits.bias)
    total, losses = model.parse_losses(model(**model.data_preprocessor(inputs, True), mode='loss'))
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert sum(shares({name: value.item() for name, value in losses.items()}).values()) == pytest.approx(1)
    total.backward()
    unlearnt = [name for name in sorted(trainable) if not model.get_parameter(name).grad.abs().max() > 0]
    assert unlearnt == []
    model.eval()
    with torch.no_grad():
        prediction = model.test_step(inputs)[0].pred_instances
    assert 0 < len(prediction) <= 5
    assert prediction.masks.shape == (len(prediction), *inputs['data_samples'][0].ori_shape[:2])
    optim_wrapper.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


# ---- what a recipe takes over from the training of the weights that it loads

FROM_COCO = [name for name in RECIPES if RECIPES[name].parent.name != 'demo']
# those that are MMDetection's model with our classes; the others change a part, but what the weights see stays
WHOLE = [name for name in FROM_COCO if name.endswith('_finetune')]
SEEN = ('data_preprocessor', 'backbone', 'neck')
# where a recipe may differ from MMDetection's config of its weights, and why
DEPARTURES = {
    'num_classes': 'ours',
    '_scope_': 'MMEngine adds it to a base of another package (mmdet::)',
    'data_preprocessor.pad_mask': 'always on; MMDetection leaves it out in HTC',
    'data_preprocessor.pad_seg': 'for the stuff maps of HTC, which we leave out',
    'roi_head.semantic_head': 'the branch of HTC that learns them',
    'roi_head.semantic_roi_extractor': 'likewise',
    'backbone.frozen_stages': 'stages freeze by themselves',
}
# MMDetection's own defaults, which one config writes out and another leaves out
DEFAULTS = {
    'backbone.norm_cfg.type': 'BN',
    'backbone.norm_cfg.requires_grad': True,
    'backbone.norm_eval': True,
    'assigner.match_low_quality': True,
}


def settings(value, path=''):
    """Nested dicts and lists as dotted path to value, without what is MMDetection's default.

    A part of ours that goes by the name of one of MMDetection's has its weights, and counts as that one.
    """
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        value = value.removeprefix('mmext.') if isinstance(value, str) else value
        is_default = any(path.endswith(name) and value == default for name, default in DEFAULTS.items())
        return {} if is_default else {path: value}
    found = {}
    for key, item in items:
        found |= settings(item, f'{path}.{key}' if path else str(key))
    return found


def unexplained(ours, theirs):
    """Dotted paths at which two configs of models differ, but for DEPARTURES."""
    ours, theirs = settings(ours), settings(theirs)
    found = [path for path in ours | theirs if ours.get(path) != theirs.get(path)]
    return [path for path in found if not any(f'.{name}.' in f'.{path}.' for name in DEPARTURES)]


@pytest.mark.parametrize('recipe', FROM_COCO)
def test_weights_see_what_they_were_trained_on(recipe):
    cfg = Config.fromfile(RECIPES[recipe])
    theirs = Config.fromfile(mmdet_folder() / published()[cfg.load_from]['Config']).model
    parts = theirs | cfg.model if recipe in WHOLE else SEEN
    assert unexplained({part: cfg.model.get(part) for part in parts}, {part: theirs.get(part) for part in parts}) == []


@pytest.mark.parametrize('recipe', WHOLE)
def test_the_header_names_the_weights_and_their_published_ap(recipe):
    entry = published()[Config.fromfile(RECIPES[recipe]).load_from]
    source = RECIPES[recipe].read_text().splitlines()[3]
    ap = [str(value) for result in entry['Results'] for value in result['Metrics'].values()]
    assert [text for text in [Path(entry['Config']).stem, *ap] if text not in source] == []


@pytest.mark.parametrize('recipe', [name for name in RECIPES if 'soft-target' in name])
def test_soft_targets_are_made_of_pixels(recipe):
    cfg = Config.fromfile(RECIPES[recipe])
    assert cfg.model.train_cfg.rcnn.soft_mask_target
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):  # the validation loss has targets too
        (load,) = [step for step in loader.dataset.pipeline if step.type in ('LoadAnnotations', 'mmext.LoadInstanceMasks')]
        assert (load.type, load.polygons) == ('mmext.LoadInstanceMasks', False)


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
