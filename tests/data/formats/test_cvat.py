import sys

import numpy as np
import pytest
from format_files import CLASSES, Scene, assert_same, cvat_text, drawn_again, scenes, some_scenes, write_images
from hypothesis import HealthCheck, given, settings

from mmext.data.formats.content import Asked, classes_of, to_coco
from mmext.data.formats.cvat import read
from mmext.errors import InputError


def converted(path, images):
    content = read(path, images, Asked())
    return to_coco(content, classes_of([content]))


@given(scenes(parts=3, with_masks=True))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp('cvat')
    write_images(folder / 'images', found)
    (folder / 'annotations.xml').write_text(cvat_text(found))
    document = converted(folder / 'annotations.xml', folder / 'images')
    assert_same(document, found)
    assert tuple(category['name'] for category in document['categories']) == CLASSES  # the order of the task's labels


@pytest.fixture
def one(tmp_path):
    """One image of 40x30; ``convert`` writes XML whose <image> holds the shapes."""
    write_images(tmp_path / 'images', [Scene('a.png', 40, 30, [])])

    def convert(shapes, text=None):
        text = cvat_text([Scene('a.png', 40, 30, [])]) if text is None else text
        (tmp_path / 'a.xml').write_text(text.replace('</image>', f'{shapes}</image>'))
        return converted(tmp_path / 'a.xml', tmp_path / 'images')

    convert.folder = tmp_path
    return convert


def test_masks_run_along_the_rows(one):
    # rows 011, 110 at x 4, y 2
    document = one('<mask label="Film" rle="1, 4, 1" left="4" top="2" width="3" height="2" z_order="0"/>')
    ((_, mask),) = drawn_again(document)['a.png']
    assert np.argwhere(mask).tolist() == [[2, 5], [2, 6], [3, 4], [3, 5]]


def test_boxes_and_ellipses_turn_clockwise(one):
    box = '<box label="Film" xtl="10" ytl="10" xbr="30" ybr="14" rotation="90.0"/>'
    ellipse = '<ellipse label="Film" cx="20" cy="15" rx="10" ry="4" rotation="45"/>'
    document = one(box + ellipse)
    assert document['annotations'][0]['bbox'] == [18, 2, 4, 20]
    (_, _), (_, mask) = drawn_again(document)['a.png']
    assert mask[20, 25]  # to the lower right, as seen
    assert not mask[20, 15]


def test_z_order_is_the_order_of_the_objects(one):
    shapes = ''.join(f'<box label="{label}" xtl="1" ytl="1" xbr="9" ybr="9" z_order="{z}"/>' for label, z in
                     (('Film', 5), ('Fiber', -1)))  # fmt: skip
    assert [annotation['category_id'] for annotation in one(shapes)['annotations']] == [2, 1]


POLYGON = '<polygon label="Film" points="{}" z_order="0"/>'


@pytest.mark.parametrize(
    ('shapes', 'words'),
    [
        (POLYGON.format('1,1;5,5'), r'fewer than three different points: a.png polygon 1 \(Film\): 2'),
        (POLYGON.format(''), 'fewer than three'),
        (POLYGON.format('1,1;5,x;3,3'), 'no pairs of numbers'),
        (POLYGON.format('1,1;5;3,3'), 'no pairs of numbers'),
        (POLYGON.format('1,1;55,5;3,3'), r'leave their image: a.png polygon 1 \(Film\): x 1 to 55'),
        (POLYGON.format('1,1;5,1;3,3').replace('Film', 'Flim'), r'does not list \(it lists: Film, Fiber\): a.png polygon 1'),
        ('<polyline label="Film" points="1,1;5,5"/>', 'shapes without an area: a.png polyline 1'),
        ('<mask label="Film" rle="1, 9" left="4" top="2" width="3" height="2"/>', '10 pixels in a window of 3x2'),
        ('<mask label="Film" rle="0, 9" left="38" top="2" width="3" height="3"/>', 'x 38 to 41, y 2 to 5, image 40x30'),
        ('<mask label="Film" rle="9" left="1" top="2" width="3" height="3"/>', 'masks without a pixel'),
        ('<mask label="Film" rle="-1, 2" left="1" top="2" width="3" height="3"/>', 'no whole numbers'),
        ('<mask label="Film" rle="1e9" left="0" top="0" width="9999999" height="9999999"/>', 'leave their image'),
        ('<mask label="Film" left="1" top="2" width="3" height="3"/>', 'no whole numbers'),
    ],
)
def test_faults_name_image_and_shape(one, shapes, words):
    with pytest.raises(InputError, match=words):
        one(shapes)


def test_all_faults_come_at_once(one):
    missing = '<image id="1" name="b.png" width="40" height="30"></image>'
    text = cvat_text([Scene('a.png', 41, 30, [])]).replace('</annotations>', f'{missing}</annotations>')
    with pytest.raises(InputError) as error:
        one('', text)
    assert '41x30 annotated, a.png has 40x30' in str(error.value)
    assert 'b.png' in str(error.value)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + ''.join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)
)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (f'{BOMB}]><annotations>&m;</annotations>', 'declares a document type or entities'),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', 'declares a document type'),
        (cvat_text(some_scenes())[:700], 'not whole XML: .*If it was cut off'),
        ('<annotation><filename>a.png</filename></annotation>', 'its root is <annotation>, not <annotations>'),
        ('<annotations><track id="0"/></annotations>', "Export the task as 'CVAT for images 1.1'"),
        ('<annotations/>', 'no <image> in it'),
        ('', 'not whole XML'),
        ('<?xml version="1.0" encoding="nonsense"?><annotations/>', 'not whole XML'),
    ],
)
def test_xml_that_cannot_be_used(one, text, words):
    with pytest.raises(InputError, match=words):
        one('', text)


def test_without_the_package_it_says_what_to_install(one, monkeypatch):
    monkeypatch.setitem(sys.modules, 'defusedxml', None)
    with pytest.raises(InputError, match=r"needs the package defusedxml: pip install 'mmext\[formats\]'"):
        one('')


def test_of_a_project_the_subset_of_the_folder_is_read(tmp_path):
    found = some_scenes(2)
    write_images(tmp_path / 'images/Train', found[:1])
    write_images(tmp_path / 'images/Validation', found[1:])
    text = cvat_text(found).replace('<image id="0"', '<image subset="Train" id="0"')
    (tmp_path / 'a.xml').write_text(text.replace('<image id="1"', '<image subset="Validation" id="1"'))
    assert_same(converted(tmp_path / 'a.xml', tmp_path / 'images/Train'), found[:1])
    assert len(converted(tmp_path / 'a.xml', tmp_path / 'images')['images']) == 2


def test_a_group_of_mask_and_polygon_is_one_object(one):
    mask = '<mask label="Film" rle="0, 9" left="1" top="2" width="3" height="3" group_id="4"/>'
    polygon = '<polygon label="Film" points="10,10;20,10;20,20;10,20" group_id="4"/>'
    document = one(mask + polygon)
    (annotation,) = document['annotations']
    assert annotation['area'] == 109
    assert isinstance(annotation['segmentation'], dict)
