import json
import math

import numpy as np
import pytest
from format_files import (
    CLASSES,
    Scene,
    assert_same,
    drawn_again,
    scenes,
    some_scenes,
    via_document,
    write_images,
    write_via_csv,
)
from hypothesis import HealthCheck, given, settings

from mmext.data.formats.content import Asked, classes_of, to_coco
from mmext.data.formats.via import read
from mmext.errors import InputError


def converted(path, images, **asked):
    content = read(path, images, Asked(**asked))
    return to_coco(content, classes_of([content]))


@given(scenes())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp('via')
    write_images(folder / 'images', found)
    project = via_document(found)
    annotations = project['_via_img_metadata']
    (folder / 'project.json').write_text(json.dumps(project))
    (folder / 'annotations.json').write_text(json.dumps(annotations))
    for entry in annotations.values():  # as VIA 1 has them
        entry['regions'] = {str(i): region for i, region in enumerate(entry['regions'])}
    (folder / 'old.json').write_text(json.dumps(annotations))
    write_via_csv(folder / 'via.csv', found)
    for name in ('project.json', 'annotations.json', 'old.json'):
        assert_same(converted(folder / name, folder / 'images'), found)
    with_objects = [scene for scene in found if scene.objects]  # VIA's CSV has a row a region
    assert_same(converted(folder / 'via.csv', folder / 'images'), with_objects)
    listed = [category['name'] for category in converted(folder / 'project.json', folder / 'images')['categories']]
    assert tuple(listed) == CLASSES  # the order of the project's options


@pytest.fixture
def one(tmp_path):
    """One image of 40x30; ``convert`` writes regions of shapes and attributes."""
    write_images(tmp_path / 'images', [Scene('a.png', 40, 30, [])])

    def convert(*regions, filename='a.png', **asked):
        entry = {'filename': filename, 'regions': [
            {'shape_attributes': shape, 'region_attributes': attributes} for shape, attributes in regions
        ]}  # fmt: skip
        (tmp_path / 'via.json').write_text(json.dumps({'_via_img_metadata': {'k': entry}}))
        return converted(tmp_path / 'via.json', tmp_path / 'images', **asked)

    return convert


RECT = {'name': 'rect', 'x': 2, 'y': 3, 'width': 10, 'height': 5}


def test_round_and_square_shapes(one):
    circle = {'name': 'circle', 'cx': 20, 'cy': 15, 'r': 6}
    # a quarter turn exchanges the axes; a turn by an eighth goes down to the right
    ellipse = {'name': 'ellipse', 'cx': 20, 'cy': 15, 'rx': 10, 'ry': 3, 'theta': math.pi / 2}
    leaning = {**ellipse, 'theta': math.pi / 4}
    document = one(*((shape, {'type': 'Film'}) for shape in (RECT, circle, ellipse, leaning)))
    boxes = [annotation['bbox'] for annotation in document['annotations']]
    assert boxes[0] == [2, 3, 10, 5]
    assert boxes[1] == pytest.approx([14, 9, 12, 12], abs=0.1)
    assert boxes[2] == pytest.approx([17, 5, 6, 20], abs=0.1)
    mask = drawn_again(document)['a.png'][3][1]
    assert mask[20, 25]
    assert not mask[20, 15]
    y, x = np.mgrid[:30, :40] + 0.5
    assert document['annotations'][1]['area'] == pytest.approx(((x - 20) ** 2 + (y - 15) ** 2 <= 36).sum(), abs=3)


def test_the_class_is_the_attribute_that_is_asked_for(one):
    attributes = {'type': 'Film', 'stain': 'blue'}
    with pytest.raises(InputError, match=r'several attributes: type, stain\. Say which .* --class-attribute type'):
        one((RECT, attributes))
    document = one((RECT, attributes), class_attribute='stain')
    assert [category['name'] for category in document['categories']] == ['blue']
    with pytest.raises(InputError, match=r"no region of .* has 'stian'\. Did you mean 'stain'"):
        one((RECT, attributes), class_attribute='stian')


def test_a_ticked_box_is_a_class(one):
    document = one((RECT, {'type': {'Film': False, 'Fiber': True}}))
    assert [category['name'] for category in document['categories']] == ['Fiber']


def test_a_class_that_the_project_does_not_list_is_refused(tmp_path, one):
    one((RECT, {'type': 'Film'}))
    entry = json.loads((tmp_path / 'via.json').read_text())['_via_img_metadata']
    listed = {'region': {'type': {'type': 'dropdown', 'options': {'Film': '', 'Fiber': ''}}}}
    project = {'_via_attributes': listed, '_via_img_metadata': entry}
    (tmp_path / 'via.json').write_text(json.dumps(project))
    assert read(tmp_path / 'via.json', tmp_path / 'images', Asked()).classes == ('Film', 'Fiber')
    (tmp_path / 'via.json').write_text(json.dumps(project).replace('"type": "Film"', '"type": "Flim"'))
    with pytest.raises(InputError, match=r'does not list \(it has: Film, Fiber\): a.png region 1: Flim\. Correct'):
        read(tmp_path / 'via.json', tmp_path / 'images', Asked())


def test_without_attributes_all_are_of_one_class(one):
    assert [category['name'] for category in one((RECT, {}))['categories']] == ['object']
    assert [category['name'] for category in one((RECT, {}), class_name='cell')['categories']] == ['cell']


@pytest.mark.parametrize(
    ('shape', 'attributes', 'words'),
    [
        ({'name': 'polygon', 'all_points_x': [1, 5], 'all_points_y': [1, 5]}, {'t': 'F'}, r'a.png region 1 \(F\): 2'),
        ({'name': 'polygon', 'all_points_x': [1, 5, 9], 'all_points_y': [1, 5]}, {'t': 'F'}, 'no pairs of numbers'),
        ({'name': 'polygon'}, {'t': 'F'}, 'no pairs of numbers'),
        ({'name': 'point', 'cx': 3, 'cy': 4}, {'t': 'F'}, 'shapes without an area.*"point"'),
        ({'name': 'circle', 'cx': 3, 'cy': 4, 'r': 0}, {'t': 'F'}, 'shapes without a size'),
        ({'name': 'circle', 'cx': 3, 'cy': 4}, {'t': 'F'}, 'no pairs of numbers'),
        ({**RECT, 'x': 38}, {'t': 'F'}, 'leave their image'),
        ({**RECT, 'width': 'w'}, {'t': 'F'}, 'no pairs of numbers'),
        (None, {'t': 'F'}, 'regions without a shape'),
    ],
)
def test_faults_name_image_and_region(one, shape, attributes, words):
    with pytest.raises(InputError, match=words):
        one((shape, attributes))


def test_all_faults_come_at_once(one):
    with pytest.raises(InputError) as error:
        one((RECT, {'t': 'F'}), (RECT, {}), (RECT, {'t': {'a': 1, 'b': 1}}), ({'name': 'point'}, {'t': 'F'}))
    for words in ('without a class (t)', 'region 2', 'of several classes (t)', 'a, b', 'without an area'):
        assert words in str(error.value)
    with pytest.raises(InputError, match='images that are not in'):
        one((RECT, {'t': 'F'}), filename='b.png')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('filename,size\na.png,3\n', 'no column region_shape_attributes, region_attributes. It has: filename, size'),
        ('', 'no column filename'),
        ('#filename,region_shape_attributes,region_attributes\na.png,"{""name"": 1', 'not CSV|too few cells|not JSON'),
        (
            '#filename,region_shape_attributes,region_attributes\na.png,{x},{}\n',
            'line 2: its shape or its attributes are not',
        ),
        ('#filename,region_shape_attributes,region_attributes\na.png,{}\n', 'line 2 has too few cells'),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, text, words):
    write_images(tmp_path / 'images', some_scenes(1))
    (tmp_path / 'via.csv').write_text(text)
    with pytest.raises(InputError, match=words):
        read(tmp_path / 'via.csv', tmp_path / 'images', Asked())
