import copy
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as coco_mask

from mmext.check.instances import REASONS
from mmext.check.ledger import ledger
from mmext.check.parts import data_parts
from mmext.data.coco_file import CocoFile
from mmext.errors import InputError

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
IMAGES = [(1, 64, 48), (2, 30, 100), (3, 64, 48)]  # id, width, height; the second is under min_size=32
RLE = coco_mask.frPyObjects(SQUARE, 48, 64)[0]
RLE = {'size': RLE['size'], 'counts': RLE['counts'].decode()}
UNCOMPRESSED = {'size': [48, 64], 'counts': [10, 3062]}
CATEGORIES = [{'id': 4, 'name': 'fiber'}, {'id': 2, 'name': 'film'}, {'id': 9, 'name': 'dust'}]
LOADERS = {
    'ours': {'type': 'mmext.LoadInstanceMasks'},
    'bitmaps': {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True, 'poly2mask': True},
    'polygons': {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True, 'poly2mask': False},
}
RESIZE = {'type': 'Resize', 'scale': (32, 24), 'keep_ratio': True}
FILTER = {'type': 'FilterAnnotations', 'min_gt_bbox_wh': (4, 4)}


def entry(**changes):
    found = {'image_id': 1, 'category_id': 4, 'bbox': [10, 10, 20, 20], 'area': 400, 'iscrowd': 0, 'segmentation': SQUARE}
    return found | changes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('ledger')
    for number, width, height in IMAGES:
        cv2.imwrite(str(folder / f'{number}.png'), np.zeros((height, width, 3), np.uint8))
    return folder


def part_of(folder, annotations, loader='ours', transforms=(), kind='mmext.CocoInstanceDataset', name='train', **dataset):
    """The part of a config whose annotation file has these annotations, and the config."""
    annotations = [{'id': number, **annotation} for number, annotation in enumerate(annotations, 11)]
    images = [{'id': i, 'file_name': f'{i}.png', 'width': width, 'height': height} for i, width, height in IMAGES]
    (folder / 'ann.json').write_text(
        json.dumps({'images': images, 'annotations': annotations, 'categories': CATEGORIES}), encoding='utf-8'
    )
    pipeline = [{'type': 'LoadImageFromFile'}, LOADERS[loader], *transforms, {'type': 'PackDetInputs'}]
    settings = {
        'type': kind,
        'data_root': str(folder),
        'ann_file': 'ann.json',
        'data_prefix': {'img': ''},
        'metainfo': {'classes': ('film', 'fiber')},
        'filter_cfg': {'filter_empty_gt': True, 'min_size': 32},
        'pipeline': pipeline,
    }
    cfg = Config({'default_scope': 'mmdet', f'{name}_dataloader': {'dataset': settings | dataset}})
    coco = CocoFile(folder / 'ann.json', images, annotations, CATEGORIES)
    return replace(data_parts(cfg)[0], coco=coco), cfg


def account(folder, annotations, **settings):
    return ledger(*part_of(folder, annotations, **settings))


def in_loop(part):
    """Objects that the real data set gives, and its images."""
    # serialising collects garbage, half a second each time
    dataset = DATASETS.build(copy.deepcopy(part.dataset) | {'serialize_data': False})
    results = [dataset.pipeline(dataset.get_data_info(i)) for i in range(len(dataset))]
    return sum(len(one['data_samples'].gt_instances) for one in results if one is not None), len(dataset)


# each is an annotation that goes one way; the first two arrive
PLANTED = {
    'polygon': entry(),
    'of the second class': entry(category_id=2),
    'class-not-in-config': entry(category_id=9),
    'marked-ignore': entry(ignore=1),
    'crowd': entry(iscrowd=1),
    'crowd as RLE': entry(iscrowd=1, segmentation=RLE),
    'area 0': entry(area=0),
    'narrow': entry(bbox=[10, 10, 0.9, 20]),
    'outside': entry(bbox=[64, 10, 20, 20]),
    'left of the image': entry(bbox=[-30, 10, 30, 20]),
    'partly outside': entry(bbox=[60, 40, 20, 20]),
    'in a small image': entry(image_id=2),
    'compressed RLE': entry(segmentation=RLE),
    'uncompressed RLE': entry(segmentation=UNCOMPRESSED),
    'a bad polygon beside a good one': entry(segmentation=[[1, 2, 3, 4], SQUARE[0]]),
    '4 px after the resize': entry(bbox=[10, 10, 8, 20]),
    'a little more': entry(bbox=[10.3, 10, 8.02, 20]),
    'two points': entry(segmentation=[[1, 2, 3, 4]]),
    'odd coordinates': entry(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
    'RLE without counts': entry(segmentation={'size': [48, 64]}),
}
STOPS_OURS = ('two points', 'odd coordinates', 'RLE without counts')


# ours stops at some of them, see below
@pytest.mark.parametrize(
    ('loader', 'name'),
    [(loader, name) for loader in LOADERS for name in PLANTED if loader != 'ours' or name not in STOPS_OURS],
)
def test_each_way_is_mmdetections(folder, loader, name):
    for transforms in ([], [RESIZE], [RESIZE, FILTER]):
        for kind in ('mmext.CocoInstanceDataset', 'CocoDataset'):
            # a sound one in another image, so that the data set is never empty
            part, cfg = part_of(folder, [PLANTED[name], entry(image_id=3)], loader, transforms, kind)
            found = ledger(part, cfg)
            assert (found.reaching, found.images_kept) == in_loop(part)
            assert found.reaching + sum(found.dropped.values()) == found.total == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    annotations=st.lists(
        st.builds(
            lambda planted, image, box, crowd: planted | {'image_id': image} | box | crowd,
            st.sampled_from([PLANTED[name] for name in PLANTED if name not in STOPS_OURS and 'RLE' not in name]),
            st.sampled_from([1, 2, 3]),
            st.one_of(
                st.just({}),
                st.builds(
                    lambda x, y, width, height: {'bbox': [x, y, width, height]},
                    *[st.floats(-80, 80, width=32)] * 2,
                    *[st.floats(0, 80, width=32)] * 2,
                ),
            ),
            st.sampled_from([{}, {'iscrowd': 0}, {'iscrowd': 1}]),
        ),
        max_size=8,
    ),
    loader=st.sampled_from(sorted(LOADERS)),
    transforms=st.sampled_from([[], [RESIZE], [RESIZE, FILTER], [FILTER, RESIZE], [FILTER | {'keep_empty': False}]]),
    dataset=st.sampled_from(
        [{}, {'filter_cfg': None}, {'test_mode': True}, {'filter_cfg': {'min_size': 50}}, {'indices': 1}, {'indices': -1}]
    ),
)
def test_any_mixture_is_counted_as_mmdetection_counts(folder, annotations, loader, transforms, dataset):
    part, cfg = part_of(folder, [*annotations, entry(image_id=3)], loader, transforms, 'CocoDataset', **dataset)
    if not ledger(part, cfg).images_kept:
        return  # MMDetection fails on an empty data set
    found = ledger(part, cfg)
    assert (found.reaching, found.images_kept) == in_loop(part)


def test_every_reason_is_told(folder):
    sound = [entry(), entry(image_id=3)]
    lost = [PLANTED[name] for name in ('class-not-in-config', 'marked-ignore', 'crowd', 'outside', 'area 0')]
    lost += [PLANTED['in a small image'], PLANTED['4 px after the resize'], PLANTED['RLE without counts']]
    found = account(folder, sound + lost, transforms=[RESIZE, FILTER], loader='bitmaps')
    found_too = account(folder, [*sound, PLANTED['compressed RLE']], loader='polygons')
    stopped = account(folder, [entry(), entry(segmentation=[])], indices=1)
    left_out = account(folder, [entry(), entry(image_id=3)], indices=1)
    told = {**found.dropped, **found_too.dropped, **stopped.dropped, **left_out.dropped}
    assert set(told) == set(REASONS)
    assert set(told.values()) == {1}


@pytest.mark.parametrize('segmentation', [None, [], [[1, 2, 3, 4]], {'size': [64, 48], 'counts': RLE['counts']}])
def test_where_our_loader_stops(folder, segmentation):
    part, cfg = part_of(folder, [entry(), entry(segmentation=segmentation)])
    found = ledger(part, cfg)
    assert found.dropped == {'no-mask': 1}
    with pytest.raises(InputError, match='annotation 12'):
        in_loop(part)
    finding = next(one for one in found.findings if one.code == 'no-mask')
    assert (finding.severity, finding.examples) == ('severe', ('annotation 12 (image 1, 1.png)',))


def test_where_stocks_loader_stops(folder):
    part, cfg = part_of(folder, [entry(), entry(segmentation=None, iscrowd=1)], 'bitmaps')
    assert ledger(part, cfg).dropped == {'no-mask': 1}
    with pytest.raises(KeyError, match='mask'):
        in_loop(part)


def test_a_sound_file_has_no_finding(folder):
    found = account(folder, [entry(), entry(category_id=2), entry(image_id=3)])
    assert (found.total, found.reaching, found.dropped, found.findings) == (3, 3, {}, ())
    assert found.classes == {'film': (1, 1), 'fiber': (2, 2)}


def test_rle_that_stock_ignores_is_named_with_the_line_that_keeps_it(folder):
    found = account(
        folder, [entry(segmentation=RLE), entry(segmentation=UNCOMPRESSED), entry(category_id=2)], loader='polygons'
    )
    lost, ignored = found.findings
    assert (lost.code, lost.severity, ignored.code, ignored.severity) == (
        'class-without-objects', 'severe', 'rle-ignored', 'warning',
    )  # fmt: skip
    assert "Class 'fiber' has nothing to train on: 2 of its 2 annotations: an RLE" in lost.text
    assert '2 of 3 annotations (66.7%) do not reach the loop: an RLE, which LoadAnnotations(poly2mask=False)' in ignored.text
    assert 'mmext.LoadInstanceMasks' in ignored.remedy
    assert ignored.examples == ('annotation 11 (image 1, 1.png)', 'annotation 12 (image 1, 1.png)')


def test_a_misspelt_class_is_named_with_the_near_one(folder):
    found = account(folder, [entry(), entry(category_id=2)], metainfo={'classes': ('film', 'fibre')})
    lost, dropped = found.findings
    assert (lost.code, lost.severity) == ('class-without-objects', 'severe')
    assert "Class 'fibre' has nothing to train on: the file has no such category (fiber, film, dust)" in lost.text
    assert "Did you mean 'fiber'?" in lost.remedy
    assert (dropped.code, dropped.severity, dropped.count) == ('class-not-in-config', 'warning', 1)
    assert dropped.text.endswith('(fiber: 1).')
    assert "Did you mean 'fibre'?" in dropped.remedy


def test_a_class_without_annotations(folder):
    for name, severity in (('train', 'severe'), ('val', 'warning')):
        (finding,) = account(folder, [entry()], name=name).findings
        assert (finding.code, finding.severity, finding.where) == ('class-without-objects', severity, name)
    assert "Class 'film' has nothing to validate on: no annotation has it." in finding.text


def test_a_class_that_is_all_crowd_is_left_to_the_traps(folder):
    found = account(folder, [entry(iscrowd=1), entry(category_id=2)])
    assert (found.dropped, found.findings) == ({'crowd': 1}, ())


def test_a_small_loss_is_information(folder):
    found = account(folder, [entry()] * 199 + [entry(category_id=2)] * 200 + [entry(area=0)])
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ('box-too-small', 'information')
    assert '1 of 400 annotations (0.2%)' in finding.text


def test_small_images_are_named_with_the_line(folder):
    found = account(folder, [entry(), entry(category_id=2), entry(image_id=2)])
    (finding,) = found.findings
    assert (finding.code, finding.remedy) == ('image-too-small', 'train_dataloader.dataset.filter_cfg.min_size=0')
    assert (found.images, found.images_kept) == (3, 1)


def test_inside_wrappers_the_line_names_the_data_set_itself(folder):
    plain, cfg = part_of(folder, [entry(), entry(category_id=2), entry(image_id=2)])
    both = {'type': 'ConcatDataset', 'datasets': [plain.dataset, plain.dataset | {'ann_file': 'other.json'}]}
    for wrapper, keys in (
        ({'type': 'RepeatDataset', 'times': 2, 'dataset': plain.dataset}, ['dataset.dataset']),
        (both, ['dataset.datasets.0', 'dataset.datasets.1']),
        (
            {'type': 'RepeatDataset', 'times': 2, 'dataset': both},
            ['dataset.dataset.datasets.0', 'dataset.dataset.datasets.1'],
        ),
    ):
        wrapped = Config({**cfg, 'train_dataloader': {'dataset': wrapper}})
        parts = data_parts(wrapped)
        assert [part.key for part in parts] == [f'train_dataloader.{key}' for key in keys]
        for part in parts:
            (finding,) = ledger(replace(part, coco=plain.coco), wrapped).findings
            assert finding.remedy == f'{part.key}.filter_cfg.min_size=0'
            changed = Config(wrapped.to_dict())
            changed.merge_from_dict(dict([finding.remedy.split('=')]))
            assert [p.dataset.filter_cfg.min_size for p in data_parts(changed) if p.key == part.key] == ['0']


def test_objects_that_the_resize_leaves_nothing_of(folder):
    tiny = {'type': 'Resize', 'scale': (16, 12), 'keep_ratio': True}
    found = account(folder, [entry(), entry(category_id=2, bbox=[10, 10, 3.9, 20])], transforms=[tiny])
    (finding,) = found.findings
    assert (found.reaching, finding.code, finding.severity) == (2, 'empty-after-resize', 'warning')
    assert '1 of 2 objects (50.0%) have a side under 1 px' in finding.text


def test_what_is_drawn_anew_is_said_and_not_counted(folder):
    crop = {'type': 'RandomCrop', 'crop_size': (32, 32)}
    found = account(folder, [entry(), entry(category_id=2)], transforms=[crop])
    assert found.reaching == 2
    assert found.not_counted == ('RandomCrop: drawn anew each time an image is read; what it cuts off is not counted.',)
    plain, cfg = part_of(folder, [entry(), entry(category_id=2)])
    wrapper = {'type': 'MultiImageMixDataset', 'dataset': plain.dataset, 'pipeline': [{'type': 'Mosaic'}]}
    found = ledger(plain, Config({**cfg, 'train_dataloader': {'dataset': wrapper}}))
    assert 'Mosaic: drawn anew' in found.not_counted[0]


def test_what_the_config_cannot_build_is_an_input_error(folder):
    with pytest.raises(InputError, match=r'train_dataloader.dataset.pipeline.2 \(Resizes\) cannot be built'):
        account(folder, [entry()], transforms=[{'type': 'Resizes'}])
    with pytest.raises(InputError, match=r"classes is the text 'fiber'.*Add a comma"):
        account(folder, [entry()], metainfo={'classes': 'fiber'})
    with pytest.raises(InputError, match=r"there is no data set 'CoconutDataset'"):
        account(folder, [entry()], kind='CoconutDataset')


def test_classes_from_a_file_and_from_the_data_set(folder):
    (folder / 'names.txt').write_text('film\nfiber\n')
    found = account(folder, [entry(), entry(category_id=2)], metainfo={'classes': str(folder / 'names.txt')})
    assert found.classes == {'film': (1, 1), 'fiber': (1, 1)}
    found = account(folder, [entry()], metainfo=None, kind='CocoDataset')
    assert found.dropped == {'class-not-in-config': 1}
    assert len(found.classes) == 81  # COCO's 80 and ours


def test_table_and_record(folder):
    found = account(folder, [entry(), entry(category_id=2), entry(iscrowd=1)])
    table = found.table()
    assert table.title == 'train: 3 annotations of 3 images, 1 of them kept'
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [('reach the loop', '2', '66.7%'), (REASONS['crowd'], '1', '33.3%')]
    record = json.loads(json.dumps(found.to_record()))
    assert (record['annotations'], record['reaching'], record['dropped']) == (3, 2, {'crowd': 1})
    assert record['classes']['fiber'] == {'annotations': 2, 'reaching': 1}


def test_a_file_without_annotations(folder):
    found = account(folder, [])
    assert (found.total, found.reaching, found.images_kept) == (0, 0, 0)
    assert [finding.code for finding in found.findings] == ['class-without-objects'] * 2
    assert found.table().row_count == 1
