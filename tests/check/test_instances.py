"""Whatever stands in an annotation file, the checks of its annotations answer."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmext import recipe
from mmext.check.ceiling import ceiling
from mmext.check.ledger import ledger
from mmext.check.parts import data_parts
from mmext.check.sizes import check_sizes
from mmext.data.coco_file import read_coco
from mmext.data.file_checks import check_file
from mmext.errors import InputError

LOADERS = {
    'ours': {'type': 'mmext.LoadInstanceMasks'},
    'bitmaps': {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True, 'poly2mask': True},
    'polygons': {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True, 'poly2mask': False},
}
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
FLAT, NUMBER, TRUE, TEXT = SQUARE, 7, True, 'M10 10'
ONE_SIDE = {'size': 5, 'counts': [10, 3062]}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('instances')
    cv2.imwrite(str(folder / 'a.png'), np.zeros((48, 64, 3), np.uint8))
    return folder


@pytest.fixture(scope='module')
def config():
    init_default_scope('mmdet')
    return Config.fromfile(recipe('mask-rcnn_r50_fpn_finetune'))


def part_of(folder, config, document, loader):
    (folder / 'ann.json').write_text(json.dumps(document))
    dataset = {
        'type': 'CocoDataset',
        'data_root': str(folder),
        'ann_file': 'ann.json',
        'data_prefix': {'img': ''},
        'metainfo': {'classes': ('thing',)},
        'pipeline': [{'type': 'LoadImageFromFile'}, LOADERS[loader], {'type': 'PackDetInputs'}],
    }
    cfg = Config({'default_scope': 'mmdet', 'model': config.model, 'train_dataloader': {'dataset': dataset}})
    return data_parts(cfg)[0], cfg


def document_of(*segmentations, **fields):
    annotations = [
        {'id': i, 'image_id': 1, 'category_id': 1, 'bbox': [10, 10, 20, 20], 'area': 400, 'iscrowd': 0} | fields
        | {'segmentation': segmentation}
        for i, segmentation in enumerate(segmentations, 1)
    ]  # fmt: skip
    images = [{'id': 1, 'file_name': 'a.png', 'width': 64, 'height': 48}]
    return {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'thing'}]}


@pytest.mark.parametrize(
    ('loader', 'segmentation', 'fate'),
    [
        *((loader, FLAT, 'no-mask') for loader in LOADERS),
        *((loader, [SQUARE, *SQUARE], 'no-mask') for loader in LOADERS),
        *((loader, mask, 'no-mask') for loader in ('ours', 'bitmaps') for mask in (NUMBER, TRUE, TEXT)),
        *(('polygons', mask, 'outline-ignored') for mask in (NUMBER, TRUE, TEXT)),
        ('ours', ONE_SIDE, 'no-mask'),
        ('polygons', ONE_SIDE, 'rle-ignored'),
    ],
)
def test_masks_of_no_known_form_go_where_mmdetection_sends_them(folder, config, loader, segmentation, fate):
    part, cfg = part_of(folder, config, document_of([SQUARE], segmentation), loader)
    part = replace(part, coco=read_coco(part.ann_file))
    assert ledger(part, cfg).dropped == {fate: 1}
    assert check_sizes(part, cfg, cfg.model).rows[-1].objects == 1
    assert ceiling(part, cfg).rows[0].sampled == 1
    dataset = DATASETS.build(part.dataset | {'serialize_data': False})
    if fate == 'no-mask':
        with pytest.raises((TypeError, InputError)):
            dataset.pipeline(dataset.get_data_info(0))
    else:
        results = dataset.pipeline(dataset.get_data_info(0))
        assert len(results['data_samples'].gt_instances) == 1


numbers = st.one_of(st.integers(-5, 70), st.floats(-100, 100), st.sampled_from([1e9, -1e9, 10**30]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.sampled_from(['size', 'counts']), inner)),
    max_leaves=10,
)
rles = st.fixed_dictionaries(
    {}, optional={'size': st.just([48, 64]) | anything, 'counts': st.just([10, 3062]) | st.text() | anything}
)
masks = st.one_of(anything, rles, st.lists(numbers, max_size=12), st.lists(st.lists(numbers, max_size=12), max_size=3))
annotations = st.fixed_dictionaries(
    {'image_id': st.just(1) | anything, 'category_id': st.just(1) | anything},
    optional={
        'segmentation': st.one_of(st.just([SQUARE]), masks),
        'bbox': st.one_of(st.lists(numbers, min_size=4, max_size=4), anything),
        'area': numbers | anything,
        'iscrowd': st.sampled_from([0, 1]) | anything,
        'ignore': anything,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(annotations, min_size=1, max_size=5), loader=st.sampled_from(sorted(LOADERS)), spare=st.booleans())
def test_any_annotations_are_findings_or_input_errors(folder, config, changes, loader, spare):
    document = document_of(*[[SQUARE]] * len(changes))
    for annotation, change in zip(document['annotations'], changes, strict=True):
        annotation.update(change)
    if spare:
        document['annotations'].append({**document_of([SQUARE])['annotations'][0], 'id': 99})
    part, cfg = part_of(folder, config, document, loader)
    try:
        coco, findings = check_file(part.ann_file, part.folder, 'train', ('thing',))
    except InputError:
        return
    if coco is None:
        assert findings
        return
    part = replace(part, coco=coco)
    found, sizes = ledger(part, cfg), check_sizes(part, cfg, cfg.model)
    assert found.reaching + sum(found.dropped.values()) + found.unusable == found.total
    assert sizes.rows[-1].objects == found.reaching
    json.dumps([found.to_record(), sizes.to_record()], allow_nan=False)
