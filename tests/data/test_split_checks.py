import copy
from pathlib import Path

import pytest

from mmext.data.coco_file import CocoFile
from mmext.data.split_checks import check_split


def coco_of(path, names, offset=0.0):
    images = [{'id': i + 1, 'file_name': name, 'width': 50, 'height': 50} for i, name in enumerate(names)]
    annotations = [
        {'id': i + 1, 'image_id': i + 1, 'category_id': 1, 'bbox': [i + offset, 5, 10, 10], 'area': 100}
        for i in range(len(names))
    ]
    return CocoFile(Path(path), images, annotations, [{'id': 1, 'name': 'thing'}])


NUMBERED = [f'frame_{i:03d}.png' for i in range(6)]


def test_different_images_are_silent():
    assert check_split(coco_of('t.json', NUMBERED), coco_of('v.json', ['other_1.png', 'other_2.png'])) == []


def test_the_same_file_for_both():
    coco = coco_of('t.json', NUMBERED)
    for val in (coco, CocoFile(Path('copy.json'), coco.images, copy.deepcopy(coco.annotations), coco.categories)):
        (found,) = check_split(coco, val)
        assert (found.code, found.severity, found.where) == ('same-annotation-file', 'severe', 'val')
        assert 'val_evaluator.ann_file' in found.remedy


def test_the_same_name_with_the_same_objects_is_one_image():
    train = coco_of('t.json', NUMBERED)
    val = coco_of('v.json', [f'elsewhere/{NUMBERED[0]}', NUMBERED[1], 'new.png'])
    (found,) = check_split(train, val)
    assert (found.code, found.severity, found.count) == ('image-in-train-and-val', 'severe', 2)
    assert found.text.startswith('2 of 3 images to validate on are trained on too')
    assert found.examples[0] == 'elsewhere/frame_000.png: image 1 of val, image 1 of train'


@pytest.mark.parametrize(
    ('names', 'severity'),
    [(NUMBERED[:2], 'information'), (['IMG_2041_a.png', 'cells-b.png'], 'warning'), (['12.png', 'b3.png'], 'warning')],
)
def test_a_name_alone_counts_by_how_telling_it_is(names, severity):
    train, val = coco_of('t.json', [*names, names[0].replace('0', '9')]), coco_of('v.json', names, offset=3)
    (found,) = check_split(train, val)
    assert (found.code, found.severity, found.count) == ('image-name-in-train-and-val', severity, 2)
    assert 'with other objects' in found.text


def test_folders_tell_whether_a_name_is_one_file(tmp_path):
    train, val = coco_of('t.json', NUMBERED), coco_of('v.json', NUMBERED[:2], offset=3)
    (found,) = check_split(train, val, (tmp_path, tmp_path))
    assert found.severity == 'severe'
    (found,) = check_split(train, val, (tmp_path / 'train', tmp_path / 'val'))
    assert found.severity == 'information'


def test_a_file_of_both_is_found_among_others_of_its_name(tmp_path):
    names = ['one/map.png', 'two/map.png', 'three/map.png']
    for place in range(3):  # whichever stands last
        val = coco_of('v.json', [names[place]], offset=7)
        (found,) = check_split(coco_of('t.json', names), val, (tmp_path, tmp_path))
        assert (found.code, found.severity) == ('image-in-train-and-val', 'severe')
        assert found.examples == (f'{names[place]}: image 1 of val, image {place + 1} of train',)
        copied = coco_of('v.json', ['four/map.png'], offset=place)  # in another place, with the objects of one of them
        (found,) = check_split(coco_of('t.json', names), copied, (tmp_path, tmp_path))
        assert found.examples == (f'four/map.png: image 1 of val, image {place + 1} of train',)


def test_a_folder_for_each_slide_is_information(tmp_path):
    train, val = (['a/overview.png', 'a/x_1.png', 'b/overview.png'], ['c/overview.png', 'c/x_1.png'])
    (found,) = check_split(coco_of('t.json', train), coco_of('v.json', val, offset=3), (tmp_path, tmp_path))
    assert (found.code, found.severity, found.count) == ('image-name-in-train-and-val', 'information', 2)
    assert found.text.endswith('with other objects and in another folder, so they are probably other images.')
    val[1] = 'a/x_1.png'  # in the folder of another part, but under the same path there
    folders = (tmp_path / 'train', tmp_path / 'val')
    (found,) = check_split(coco_of('t.json', train), coco_of('v.json', val, offset=3), folders)
    assert (found.severity, found.count) == ('warning', 1)
    assert found.examples == ('a/x_1.png: image 2 of val, image 2 of train',)
