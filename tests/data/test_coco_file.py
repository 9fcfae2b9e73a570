import contextlib
import functools
import json

import pytest
from conftest import changed_copy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.data.coco_file import check_for_training, class_difference, count_by_class, objects_per_image, read_coco
from mmext.errors import InputError

GOOD = {
    'images': [
        {'id': 1, 'file_name': 'a.png', 'width': 10, 'height': 10},
        {'id': 2, 'file_name': 'b.png', 'width': 9, 'height': 9},
    ],
    'annotations': [
        {'id': i, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 2, 2], 'area': 4, 'segmentation': [[0, 0, 2, 0, 2, 2]]}
        for i in (1, 2)
    ],
    'categories': [{'id': 1, 'name': 'thing'}, {'id': 2, 'name': 'other'}],
}


def write(tmp_path, document, name='ann.json'):
    path = tmp_path / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


changed = functools.partial(changed_copy, GOOD)


def test_good_file(tmp_path):
    coco = read_coco(write(tmp_path, GOOD))
    assert coco.classes == ('thing', 'other')
    assert count_by_class(coco) == {'thing': 2, 'other': 0}
    assert objects_per_image(coco) == {1: 2}


@pytest.mark.parametrize(
    ('document', 'words'),
    [
        ('', 'the file is empty'),
        (json.dumps(GOOD)[:-40], 'not JSON: .*seems truncated; copy or export it again'),
        ('{"images": oops}', r'not JSON: Expecting value in line 1, column 12'),
        ('[1, 2]', r'not a COCO file: it holds a list, not an object with images, annotations, categories'),
        ('{"shapes": [], "version": 5}', r"no list 'images' and no list 'annotations' .*It has: 'shapes', 'version'"),
        (changed('annotations', 0, 'bbox', KeyError), "1 annotations without 'bbox': id 1"),
        (changed('annotations', 1, 'area', 'big'), '1 annotations whose .area. is not a number: id 2: "big"'),
        (changed('annotations', 1, 'bbox', [1, 2, 3]), r"'bbox' is not \[x, y, width, height\]: id 2: \[1, 2, 3\]"),
        (changed('annotations', 1, 'bbox', [1, 2, 3, None]), r"'bbox' is not \[x, y, width, height\]"),
        (changed('images', 0, 'id', True), "'id' is not a whole number: number 1: true"),
        (changed('images', 1, 'id', 1), '1 ids of images stand more than once: 1'),
        (changed('annotations', 1, 'id', 1), '1 ids of annotations stand more than once: 1. Ids must be unique'),
        (changed('categories', 1, 'name', 'thing'), '1 category names stand more than once: thing'),
        (changed('annotations', 0, 'image_id', 9), r'image_id is not among the images: annotation 1 \(image_id 9\)'),
        (changed('annotations', 0, 'category_id', 9), r'category_id is not among the categories: annotation 1'),
        (changed('annotations', 0, 'text'), '1 annotations that are not objects: number 1'),
    ],
)
def test_bad_files_are_named(tmp_path, document, words):
    with pytest.raises(InputError, match=words):
        read_coco(write(tmp_path, document))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match='there is no such annotation file'):
        read_coco(tmp_path / 'no.json')
    with pytest.raises(InputError, match='cannot be read: Is a directory'):
        read_coco(tmp_path)
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\xff\xfe')
    with pytest.raises(InputError, match='not a text file'):
        read_coco(tmp_path / 'a.png')


def test_all_mistakes_come_at_once(tmp_path):
    document = changed('annotations', 0, 'bbox', KeyError)
    del document['images'][0]['width']
    with pytest.raises(InputError) as error:
        read_coco(write(tmp_path, document))
    assert "images without 'width'" in str(error.value)
    assert "annotations without 'bbox'" in str(error.value)


def test_what_keeps_a_file_from_being_trained_on(tmp_path):
    coco = read_coco(write(tmp_path, changed('annotations', 0, 'segmentation', [])))
    assert check_for_training(coco, tmp_path / 'no')[0].endswith('there is no such image folder.')
    (tmp_path / 'a.png').touch()
    images, masks = check_for_training(coco, tmp_path)
    assert '1 of 2 images are not in' in images
    assert 'b.png' in images
    assert 'There is' not in images
    (tmp_path / 'b.jpg').touch()
    assert 'There is b.jpg: write file_name as the files are called.' in check_for_training(coco, tmp_path)[0]
    assert "1 have no mask ('segmentation' is missing, empty or has no polygon of three points)" in masks
    assert 'annotation 1 of image 1' in masks
    empty = read_coco(write(tmp_path, GOOD | {'annotations': []}))
    assert 'no object to learn' in check_for_training(empty, tmp_path)[-1]


def test_class_differences(tmp_path):
    one = read_coco(write(tmp_path, GOOD, 'one.json'))
    turned = read_coco(write(tmp_path, GOOD | {'categories': GOOD['categories'][::-1]}, 'two.json'))
    fewer = read_coco(write(tmp_path, GOOD | {'categories': GOOD['categories'][:1]}, 'three.json'))
    assert class_difference(one, one) == []
    assert 'in another order: thing, other and other, thing' in class_difference(one, turned)[0]
    assert 'Only in the first: other. Only in the second: none.' in class_difference(one, fewer)[0]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={key: ANY | st.just(value) for entries in GOOD.values() for key, value in entries[0].items()},
)
DOCUMENT = st.fixed_dictionaries({}, optional={key: st.lists(ENTRY | ANY, max_size=3) | ANY for key in GOOD}) | ANY


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENT)
def test_any_document_is_read_or_refused_in_words(tmp_path, document):
    path = write(tmp_path, json.dumps(document))
    with contextlib.suppress(InputError):  # any other exception fails the test
        coco = read_coco(path)
        check_for_training(coco, tmp_path)
        count_by_class(coco)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(tmp_path, content):
    path = tmp_path / 'bytes.json'
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_coco(path)
