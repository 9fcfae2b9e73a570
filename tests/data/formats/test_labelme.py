import json
import math

import numpy as np
import pytest
from format_files import Drawn, Scene, assert_same, labelme_document, scenes, some_scenes, write_images, write_labelme
from hypothesis import HealthCheck, given, settings

from mmext.data.formats.content import Asked, check_names, classes_of, to_coco
from mmext.data.formats.labelme import read
from mmext.errors import InputError


def converted(folder, images):
    content = read(folder, images, Asked())
    return to_coco(content, classes_of([content]))


@given(scenes(parts=3, with_masks=True))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp('labelme')
    write_images(folder / 'images', found)
    write_labelme(folder / 'json', found)
    assert_same(converted(folder / 'json', folder / 'images'), found)


@pytest.fixture
def one(tmp_path):
    """One image of 40x30 and its document; ``convert`` writes the shapes into it."""
    scene = Scene('a.png', 40, 30, [])
    write_images(tmp_path / 'images', [scene])
    (tmp_path / 'json').mkdir()

    def convert(shapes, **more):
        document = {**labelme_document(scene), 'shapes': shapes, **more}
        (tmp_path / 'json/a.json').write_text(json.dumps(document))
        return converted(tmp_path / 'json', tmp_path / 'images')

    convert.folder = tmp_path
    return convert


def shape(points, kind='polygon', label='Fiber', **more):
    return {'label': label, 'points': points, 'shape_type': kind, 'group_id': None, **more}


def test_rectangles_and_circles_have_their_area(one):
    document = one([shape([[20, 15], [5, 5]], 'rectangle'), shape([[20, 15], [26, 15]], 'circle')])
    rectangle, circle = document['annotations']
    assert rectangle['bbox'] == [5, 5, 15, 10]
    assert rectangle['area'] == 150
    y, x = np.mgrid[:30, :40] + 0.5
    assert circle['area'] == pytest.approx(((x - 20) ** 2 + (y - 15) ** 2 <= 36).sum(), abs=3)
    assert circle['area'] == pytest.approx(math.pi * 36, rel=0.05)


def test_a_circle_over_the_edge_is_cut_there(one):
    (circle,) = one([shape([[0, 15], [6, 15]], 'circle')])['annotations']
    assert circle['bbox'] == pytest.approx([0, 9, 6, 12], abs=0.1)


def test_a_group_is_one_object_of_each_label(one):
    square = [[1, 1], [8, 1], [8, 8], [1, 8]]
    other = [[20, 10], [28, 10], [28, 18], [20, 18]]
    document = one([shape(square, group_id=3), shape(other, group_id=3), shape(other, label='Film', group_id=3)])
    assert [len(annotation['segmentation']) for annotation in document['annotations']] == [2, 1]


def test_the_same_files_give_the_same_document(tmp_path):
    found = some_scenes()
    write_images(tmp_path / 'images', found)
    write_labelme(tmp_path / 'json', found)
    first = converted(tmp_path / 'json', tmp_path / 'images')
    assert json.dumps(first) == json.dumps(converted(tmp_path / 'json', tmp_path / 'images'))
    assert [image['id'] for image in first['images']] == list(range(1, 7))


@pytest.mark.parametrize(
    ('shapes', 'more', 'words'),
    [
        ([shape([[1, 1], [5, 5]])], {}, r'1 polygons of fewer than three different points: a.json shape 1 \(Fiber\): 2'),
        ([shape([[1, 1], [5, 5], [1, 1]])], {}, r'fewer than three different points: a.json shape 1 \(Fiber\): 2'),
        ([shape([])], {}, 'fewer than three'),
        ([shape([[1, 1], [5, 'x'], [3, 3]])], {}, 'no pairs of numbers'),
        ([shape([[1, 1], [5], [3, 3]])], {}, 'no pairs of numbers'),
        ([shape(7)], {}, 'no pairs of numbers'),
        ([shape([[1, 1], [50, 5], [3, 3]])], {}, 'outlines that leave their image.*x 1 to 50, y 1 to 5, image 40x30'),
        ([shape([[100, 100], [103, 100]], 'circle')], {}, 'outlines that leave their image'),
        ([shape([[3, 3], [3, 3]], 'circle')], {}, 'shapes without a size'),
        ([shape([[3, 3]], 'point')], {}, 'shapes without an area.*"point"'),
        ([shape([[1, 1], [5, 1], [3, 3]], label=' ')], {}, '1 shapes without a label: a.json shape 1. Label or'),
        ([shape([[1, 1], [2, 2]], 'mask', mask='no png')], {}, 'masks that are no PNG'),
        ([], {'imagePath': 'b.png'}, r"images that are not in .*images: a.json: b.png \(Did you mean 'a.png'\?\)"),
        ([], {'imagePath': 'a.jpg'}, r"a.json: a.jpg \(Did you mean 'a.png'\?\)"),
        ([], {'imageHeight': 31}, '40x31 annotated, a.png has 40x30'),
        ([], {'imagePath': 7}, "'imagePath' is 7"),
        (7, {}, "no list 'shapes'"),
    ],
)
def test_faults_name_file_and_object(one, shapes, more, words):
    with pytest.raises(InputError, match=words):
        one(shapes, **more)


def test_text_without_an_end_is_a_file_that_was_cut_off(one):
    (one.folder / 'json/b.json').write_text('{"imagePath": "b.png", "imageData": "iVBO')
    with pytest.raises(InputError, match=r'not JSON: Unterminated string from line 1, column 37 on\. The file ends there'):
        one([])


def test_all_faults_come_at_once(one):
    (one.folder / 'json/b.json').write_text('{"shapes": [')
    with pytest.raises(InputError) as error:
        one([shape([[1, 1], [5, 5]]), shape([[3, 3]], 'point'), shape([[4, 4]], 'point')])
    for words in ('b.json', 'cut off', 'fewer than three', '2 shapes without an area'):
        assert words in str(error.value)


def test_a_mask_of_another_size_than_its_points_is_a_fault(tmp_path):
    scene = Scene('a.png', 40, 30, [Drawn('Fiber', mask=np.eye(30, 40, dtype=bool))])
    document = labelme_document(scene)
    document['shapes'][0]['points'][1] = [5, 5]
    write_images(tmp_path / 'images', [scene])
    (tmp_path / 'a.json').write_text(json.dumps(document))
    with pytest.raises(InputError, match=r'another size than their points say.*a.json shape 1 \(Fiber\): 30x30'):
        read(tmp_path / 'a.json', tmp_path / 'images', Asked())


def test_images_without_a_file_are_left_out_with_a_line(tmp_path):
    found = some_scenes()
    write_images(tmp_path / 'images', found)
    write_labelme(tmp_path / 'images', found[:2])  # beside the images
    content = read(tmp_path / 'images', tmp_path / 'images', Asked())
    assert len(content.pictures) == 2
    assert any('4 images of' in remark for remark in content.remarks)


def test_a_class_that_is_no_whole_text_is_a_fault(one):
    square = [[1, 1], [8, 1], [8, 8], [1, 8]]
    one([shape(square, label='a\ud800')])
    with pytest.raises(InputError, match=r"not whole text: 'a\\ud800'. Rename"):
        check_names(read(one.folder / 'json', one.folder / 'images', Asked()))
