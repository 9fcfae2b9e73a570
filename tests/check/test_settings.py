import json

import pytest
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import MODELS, init_default_scope

import mmext
from mmext.check.parts import data_parts
from mmext.check.settings import check_settings, class_counts, class_findings, evaluator_findings, validation_findings
from mmext.data.own_data import with_num_classes

NAMES = ('Fiber', 'Fragment', 'Film')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def data(train=NAMES, val=NAMES, **settings):
    """A config of two data sets whose files nobody reads."""
    cfg = {
        f'{name}_dataloader': {
            'dataset': {
                'type': 'CocoDataset',
                'ann_file': f'{name}.json',
                'metainfo': {'classes': classes} if classes else {},
            }
        }
        for name, classes in (('train', train), ('val', val))
    }
    return Config(cfg | settings)


def test_every_head_that_counts_classes_is_found_and_no_other():
    for name in ('mask-rcnn_r50_fpn_finetune', 'htc-without-semantic_r50_fpn_finetune', 'solov2_r50_fpn_finetune'):
        cfg = Config.fromfile(mmext.recipe(name))
        counts = class_counts(cfg.model)
        assert set(counts.values()) == {3}
        changed = Config({'model': cfg.model})
        for path in counts:
            changed.merge_from_dict({path: 5})
        wanted = Config({'model': cfg.model})
        wanted.merge_from_dict({'model': with_num_classes(cfg.model, 5)}, allow_list_keys=False)
        assert changed.model.to_dict() == wanted.model.to_dict()  # as `mmext init` sets them
    assert class_counts({'head': {'num_things_classes': 80, 'num_stuff_classes': 0}}) == {
        'model.head.num_things_classes': 80
    }
    semantic = {'type': 'FusedSemanticHead', 'num_classes': 183}
    assert class_counts({'semantic_head': semantic, 'rpn_head': {'num_classes': 1}}) == {}


def test_heads_with_another_number_of_classes_are_named_with_their_line():
    heads = [{'type': 'BBoxHead', 'num_classes': 80}, {'type': 'BBoxHead', 'num_classes': 3}]
    (finding,) = class_findings(data(model={'roi_head': {'bbox_head': heads}}), data_parts(data()))
    assert (finding.code, finding.severity) == ('num-classes-mismatch', 'severe')
    assert 'the classes Fiber, Fragment, Film, 3 in all' in finding.text
    assert finding.examples == ('model.roi_head.bbox_head.0.num_classes is 80',)
    assert finding.remedy == 'model.roi_head.bbox_head.0.num_classes=3'


def test_a_data_set_without_classes_has_those_of_its_type():
    cfg = data(train=None, val=None, model={'mask_head': {'num_classes': 3}})
    (finding,) = class_findings(cfg, data_parts(cfg))
    assert 'and 75 more, 80 in all' in finding.text


def test_classes_of_train_and_val():
    cfg = data(val=('Fragment', 'Fiber', 'Film'))
    (finding,) = class_findings(cfg, data_parts(cfg))
    assert (finding.code, finding.severity) == ('classes-differ', 'severe')
    assert 'the validation data Fragment, Fiber, Film' in finding.text
    assert '=' not in finding.remedy  # a step: metainfo cannot be pasted
    assert class_findings(data(), data_parts(data())) == []


def test_evaluator_of_another_file(tmp_path):
    for name in ('val', 'copy', 'other'):
        (tmp_path / f'{name}.json').write_text(json.dumps([name.replace('copy', 'val')]))
    cfg = data(val_evaluator=[{'ann_file': str(tmp_path / 'other.json')}, {}])
    cfg.val_dataloader.dataset.data_root = str(tmp_path)
    (finding,) = evaluator_findings(cfg)
    assert (finding.code, finding.severity) == ('evaluator-other-file', 'severe')
    assert finding.remedy == f'val_evaluator.0.ann_file={tmp_path}/val.json'
    cfg.merge_from_dict(dict([finding.remedy.split('=')]))
    assert evaluator_findings(cfg) == []
    cfg.val_evaluator = {'ann_file': str(tmp_path / 'other.json')}
    (finding,) = evaluator_findings(cfg)
    assert finding.remedy == f'val_evaluator.ann_file={tmp_path}/val.json'
    for same in ('val.json', '../x/val.json', 'copy.json'):
        (tmp_path / 'x').mkdir(exist_ok=True)
        given = str(tmp_path / same).replace('../x', 'x/..')
        assert evaluator_findings(data(val_evaluator={'ann_file': given}, val_dataloader=cfg.val_dataloader)) == []


@pytest.mark.parametrize(
    ('train_cfg', 'code', 'words'),
    [
        ({'max_epochs': 8, 'val_interval': 10}, 'validation-only-at-the-end', 'every 10 epochs is longer than the run of 8'),
        ({'max_iters': 500}, 'validation-only-at-the-end', 'every 1000 iterations'),
        ({'max_epochs': 8, 'val_begin': 9}, 'validation-never', 'after 9 epochs, and the run has 8'),
        ({'val_interval': 1}, 'run-without-length', 'neither max_epochs nor max_iters'),
    ],
)
def test_validation_that_comes_too_late(train_cfg, code, words):
    (finding,) = validation_findings(data(train_cfg=train_cfg))
    assert finding.code == code
    assert words in finding.text


def test_validation_at_the_very_end_is_meant():
    assert validation_findings(data(train_cfg={'max_epochs': 8, 'val_interval': 8})) == []


@pytest.fixture(scope='module')
def small():
    """The small recipe, its model, and a number of images for its training data."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    parts = data_parts(cfg)
    return cfg, parts, MODELS.build(cfg.model), {parts[0].ann_file: 60}


def test_the_demo_has_nothing_but_remarks(small):
    findings = check_settings(*small)
    assert {finding.severity for finding in findings} == {'information'}
    assert {finding.code for finding in findings} == {'checkpoint-input-unknown', 'multiplier-on-loaded-part'}


def test_a_key_that_matches_no_part_is_a_finding(small):
    cfg, *rest = small
    cfg = Config(cfg.to_dict())
    cfg.optim_wrapper.paramwise_cfg.custom_keys.mask_haed = {'lr_mult': 15}
    finding = next(f for f in check_settings(cfg, *rest) if f.severity == 'severe')
    assert finding.code == 'optimizer-not-built'
    assert "Did you mean 'mask_head'" in finding.text


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', AmpOptimWrapper])
def test_mixed_precision_is_checked_on_a_machine_without_a_gpu(small, monkeypatch, kind):
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: False)
    cfg, *rest = small
    cfg = Config(cfg.to_dict())
    cfg.optim_wrapper |= {'type': kind, 'dtype': 'bfloat16', 'loss_scale': 'dynamic', 'use_fsdp': False}
    cfg.optim_wrapper.optimizer.lr = 5
    codes = {finding.code for finding in check_settings(cfg, *rest)}
    assert 'optimizer-not-built' not in codes
    assert 'rate-unsafe' in codes


def test_without_a_model_the_rest_is_checked(small):
    cfg, parts, _, images = small
    cfg = Config(cfg.to_dict())
    cfg.train_cfg.val_interval = 100
    assert [f.code for f in check_settings(cfg, parts, None, images)] == ['validation-only-at-the-end']
    assert 'rate-unsafe' not in {f.code for f in check_settings(cfg, parts, None, {})}
