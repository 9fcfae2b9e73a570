import json

import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope

from mmext.datasets import CocoInstanceDataset
from mmext.errors import InputError

CLASSES = ('Fiber', 'Fragment', 'Film')


def build(folder, kind=CocoInstanceDataset, classes=CLASSES, **arguments):
    init_default_scope('mmdet')
    return kind(
        data_root=str(folder / 'train'),
        ann_file='annotations.json',
        data_prefix={'img': ''},
        metainfo={'classes': classes},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
        **arguments,
    )


def test_same_instances_as_stock_and_an_id_more(demo_data):
    ours, stock = build(demo_data), build(demo_data, CocoDataset)
    assert len(ours) == len(stock) == 8
    known = {entry['id'] for entry in json.loads((demo_data / 'train/annotations.json').read_text())['annotations']}
    for i in range(len(ours)):
        mine, theirs = ours.get_data_info(i), stock.get_data_info(i)
        assert {instance.pop('id') for instance in mine['instances']} <= known
        assert mine == theirs
    assert list(ours.counts) == list(CLASSES)
    assert sum(ours.counts.values()) == len(known)


def test_no_image_left_says_which_classes_there_are(demo_data):
    words = r'none of its 8 images is left.*config has the classes: fiber, film. The file has: Fiber \(\d+ annotations\)'
    with pytest.raises(InputError, match=words):
        build(demo_data, classes=('fiber', 'film'))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r'annotations.json: there is no such annotation file'):
        build(tmp_path)
