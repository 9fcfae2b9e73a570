import copy

from mmext.data.coco_file import CocoFile
from mmext.data.crowd import as_instances, crowd_by_class

RLE = {'size': [40, 60], 'counts': [10, 2390]}
CATEGORIES = [{'id': 3, 'name': 'fiber'}, {'id': 1, 'name': 'film'}]


def document(*annotations):
    entries = [{'id': i, 'image_id': 1, 'bbox': [0, 0, 9, 9], 'area': 81} | a for i, a in enumerate(annotations, 1)]
    return {'info': {'year': 2024}, 'images': [{'id': 1}], 'annotations': entries, 'categories': CATEGORIES}


def test_crowds_are_counted_by_class(tmp_path):
    found = document({'category_id': 3, 'iscrowd': 1}, {'category_id': 3, 'iscrowd': 0}, {'category_id': 3})
    coco = CocoFile(tmp_path, found['images'], found['annotations'], found['categories'])
    assert crowd_by_class(coco) == {'fiber': (1, 3), 'film': (0, 0)}


def test_crowds_with_a_mask_become_objects_and_nothing_else_changes():
    before = document(
        {'category_id': 3, 'iscrowd': 1, 'segmentation': RLE, 'attributes': {'occluded': False}},
        {'category_id': 3, 'iscrowd': 0, 'segmentation': [[0, 0, 9, 0, 9, 9]]},
        {'category_id': 1, 'iscrowd': 1, 'segmentation': []},
    )
    kept = copy.deepcopy(before)
    after, changed = as_instances(before)
    assert changed == 1
    assert before == kept
    assert [annotation['iscrowd'] for annotation in after['annotations']] == [0, 0, 1]
    after['annotations'][0]['iscrowd'] = 1
    assert after == before
