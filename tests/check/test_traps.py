from dataclasses import replace

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmext.analysis.findings import is_problem
from mmext.check.parts import data_parts
from mmext.check.traps import check_traps
from mmext.data.coco_file import CocoFile, read_coco


@pytest.fixture
def cfg(demo_config):
    init_default_scope('mmdet')
    return Config.fromfile(demo_config)


def filled(cfg, train, val=(5,), crowd=(), classes=1):
    """Parts with so many objects in each image; ``crowd`` how many of them are crowds in each training image."""
    names = cfg.train_dataloader.dataset.metainfo.classes
    parts = []
    for part, counts in zip(data_parts(cfg), (train, val), strict=True):
        images = [{'id': i, 'file_name': f'{i}.png', 'width': 256, 'height': 256} for i in range(1, len(counts) + 1)]
        annotations = [
            {
                'id': 1000 * image['id'] + n,
                'image_id': image['id'],
                'category_id': n % classes,
                'bbox': [1, 1, 9, 9],
                'area': 81,
            }
            | {'iscrowd': int(part.name == 'train' and n < dict(enumerate(crowd, 1)).get(image['id'], 0))}
            for image, count in zip(images, counts, strict=True)
            for n in range(count)
        ]
        categories = [{'id': i, 'name': name} for i, name in enumerate(names)]
        parts.append(replace(part, coco=CocoFile(part.ann_file, images, annotations, categories)))
    return parts


def test_the_demo_has_no_trap(cfg):
    parts = [replace(part, coco=read_coco(part.ann_file)) for part in data_parts(cfg)]
    assert check_traps(parts, cfg) == []
    assert check_traps(data_parts(cfg), cfg) == []  # nothing can be said of files that cannot be used


@pytest.mark.parametrize(('crowd', 'expected'), [(10, 'all'), (6, 'mostly'), (5, 'partly'), (1, None)])
def test_a_class_of_crowds(cfg, crowd, expected):
    findings = check_traps(filled(cfg, [10], crowd=[crowd]), cfg)
    if not expected:
        assert findings == []
        return
    (finding,) = findings
    code, severity = ('class-partly-crowd', 'warning') if expected == 'partly' else ('class-mostly-crowd', 'severe')
    assert (finding.code, finding.severity, finding.count, finding.where) == (code, severity, crowd, 'train')
    assert f"{crowd} of the 10 annotations of 'Fiber' ({crowd * 10}%) are iscrowd=1" in finding.text
    assert ('trains on none' if expected == 'all' else 'trains on only the others') in finding.text
    assert '--crowd-as-instances' in finding.remedy
    assert finding.examples[0] == 'annotation 1000 (image 1, 1.png)'


def test_more_objects_than_detections(cfg):
    findings = check_traps(filled(cfg, [5], val=[250, 50], classes=3), cfg)
    (finding,) = findings
    assert (finding.code, finding.severity, finding.where) == ('limit-below-objects', 'severe', 'config')
    assert finding.text == (
        'Image 1 (1.png) of val has 250 objects, and model.test_cfg.rcnn.max_per_img=100 detections are kept: at most 40% '
        'recall there, at most 50.0% over val.'
    )
    key, value = finding.remedy.split('=')
    cfg.merge_from_dict({key: int(value)})
    assert check_traps(filled(cfg, [5], val=[250, 50], classes=3), cfg) == []


def test_one_object_too_many_is_information(cfg):
    (finding,) = check_traps(filled(cfg, [101] + [20] * 50, classes=3), cfg)
    assert finding.severity == 'information'
    assert 'Image 1 (1.png) of train has 101 objects' in finding.text
    assert not is_problem([finding])


def test_crowds_are_no_objects(cfg):
    assert check_traps(filled(cfg, [109] + [30] * 50, crowd=[10], classes=3), cfg) == []


def test_proposals_of_the_rpn_in_training_and_prediction(cfg):
    cfg.merge_from_dict({'model.test_cfg.rcnn.max_per_img': -1, 'model.train_cfg.rpn_proposal.max_per_img': 60})
    cfg.model.test_cfg.rpn.max_per_img = 40
    findings = check_traps(filled(cfg, [80], val=[50], classes=3), cfg)
    texts = {finding.remedy.split('=')[0]: finding.text for finding in findings}
    assert 'Image 1 (1.png) of train has 80 objects' in texts['model.train_cfg.rpn_proposal.max_per_img']
    assert 'max_per_img=40 proposals are kept: at most 50% recall' in texts['model.test_cfg.rpn.max_per_img']
    assert len(findings) == 2


def test_few_proposals_for_each_object(cfg):
    cfg.model.test_cfg.rcnn.max_per_img = -1
    cfg.model.test_cfg.rpn = {'nms_pre': 300, 'max_per_img': 350}
    assert check_traps(filled(cfg, [100], val=[150], classes=3), cfg) == []
    anchors, proposals, training = check_traps(filled(cfg, [260], val=[200], classes=3), cfg)[:3]
    assert {one.code for one in (anchors, proposals, training)} == {'few-proposals'}
    assert proposals.severity == 'warning'
    cfg.model.train_cfg.rpn_proposal = {'nms_pre': 520, 'max_per_img': 520}
    findings = check_traps(filled(cfg, [260], val=[200], classes=3), cfg)
    texts = {finding.remedy: finding.text for finding in findings}
    assert set(texts) == {'model.test_cfg.rpn.nms_pre=2100', 'model.test_cfg.rpn.max_per_img=1050'}
    text = texts['model.test_cfg.rpn.max_per_img=1050']
    assert text.startswith(
        'Image 1 (1.png) of train has 260 objects, and model.test_cfg.rpn.max_per_img=350 proposals of an'
    )
    assert 'image are kept: 1.3 for each.' in text
    for finding in findings:
        key, value = finding.remedy.split('=')
        cfg.merge_from_dict({key: int(value)})
    assert check_traps(filled(cfg, [260], val=[200], classes=3), cfg) == []


def test_one_stage_and_queries(cfg):
    cfg.model = ConfigDict(test_cfg={'max_per_img': 100}, bbox_head={'num_queries': 90})
    keys = [finding.remedy for finding in check_traps(filled(cfg, [5], val=[150], classes=3), cfg)]
    assert keys == ['model.test_cfg.max_per_img=200', 'model.bbox_head.num_queries=200']


@pytest.fixture
def unlimited(cfg):
    cfg.model.test_cfg.rcnn.max_per_img = 3000
    cfg.model.test_cfg.rpn = dict(nms_pre=-1, max_per_img=-1)
    return cfg


def test_what_the_evaluator_counts(unlimited):
    cfg = unlimited
    finding, more = check_traps(filled(cfg, [5], val=[1200]), cfg)
    assert finding.code == more.code == 'evaluator-limit-below-objects'
    assert "has 1,200 objects of 'Fiber', and mAP counts at most 100 of a class: at most 8% recall" in finding.text
    assert 'AP50 and AP75 count at most 1000 of a class: at most 83% recall' in more.text
    assert finding.remedy == more.remedy == 'val_evaluator.max_detections=1500'
    cfg.val_evaluator.max_detections = 600
    (finding,) = check_traps(filled(cfg, [5], val=[1200]), cfg)
    assert 'AP counts at most 600 of a class: at most 50% recall' in finding.text
    key, value = finding.remedy.split('=')
    cfg.merge_from_dict({key: int(value), 'val_evaluator.proposal_nums': (1, 10, 200)})
    assert check_traps(filled(cfg, [5], val=[1200]), cfg) == []


def test_what_stocks_evaluator_counts(unlimited):
    cfg = unlimited
    cfg.val_evaluator.type = 'CocoMetric'
    finding, more = check_traps(filled(cfg, [5], val=[1200]), cfg)
    assert 'Go by AP50 and AP75, which count 1000' in finding.remedy
    assert more.remedy == 'val_evaluator.proposal_nums="(100,300,1500)"'
    # the limit is for each class
    assert check_traps(filled(cfg, [5], val=[240], classes=3), cfg) == []


def test_map_without_its_number_of_detections(cfg):
    cfg.val_evaluator = [dict(cfg.val_evaluator[0] if isinstance(cfg.val_evaluator, list) else cfg.val_evaluator)]
    cfg.val_evaluator[0]['type'] = 'CocoMetric'
    cfg.val_evaluator[0]['proposal_nums'] = (1, 10, 500)
    (finding,) = check_traps(filled(cfg, [5]), cfg)
    assert (finding.code, finding.severity) == ('map-undefined', 'severe')
    assert finding.remedy == 'val_evaluator.0.proposal_nums="(100,300,1000)"'
