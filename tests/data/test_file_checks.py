import contextlib
import copy
import functools
import json

import pytest
from conftest import changed_copy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.analysis.findings import to_record
from mmext.data.file_checks import check_file
from mmext.data.mask_checks import check_masks
from mmext.data.mask_shapes import sound_masks
from mmext.data.split_checks import check_split
from mmext.errors import InputError

GOOD = {
    'images': [
        {'id': 1, 'file_name': 'a.png', 'width': 40, 'height': 30},
        {'id': 2, 'file_name': 'b.png', 'width': 40, 'height': 30},
    ],
    'annotations': [
        {
            'id': 1,
            'image_id': 1,
            'category_id': 1,
            'bbox': [2, 3, 10, 10],
            'area': 100,
            'segmentation': [[2, 3, 12, 3, 12, 13, 2, 13]],
            'iscrowd': 0,
        },
        {
            'id': 2,
            'image_id': 2,
            'category_id': 2,
            'bbox': [0, 5, 1, 10],
            'area': 10,
            'segmentation': {'size': [30, 40], 'counts': [5, 10, 1185]},
            'iscrowd': 0,
        },
    ],
    'categories': [{'id': 1, 'name': 'thing'}, {'id': 2, 'name': 'other'}],
}
CLASSES = ('thing', 'other')


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.png', 'b.png'):
        (folder / name).touch()
    return folder


def check(folder, document, classes=CLASSES, part='train'):
    path = folder.parent / 'ann.json'
    path.write_text(json.dumps(document))
    return check_file(path, folder, part, classes)


changed = functools.partial(changed_copy, GOOD)


def test_a_sound_file_has_no_finding(folder):
    coco, findings = check(folder, GOOD)
    assert findings == []
    assert (coco.images, coco.annotations, coco.categories) == tuple(GOOD.values())
    assert check_masks(coco, 'train') == []


@pytest.mark.parametrize(
    ('path', 'value', 'code', 'words'),
    [
        (('images', 0), 7, 'image-not-object', '1 of 2 images are not objects. number 1: 7'),
        (('images', 0, 'width'), KeyError, 'image-without-width', "have no 'width'. image 1 (a.png)"),
        (('images', 0, 'width'), 0, 'image-width-wrong', 'not a whole number of pixels, 1 or more. image 1 (a.png): 0'),
        (('images', 0, 'height'), '30', 'image-height-wrong', 'image 1 (a.png): "30"'),
        (('images', 0, 'height'), 30.5, 'image-height-wrong', 'image 1 (a.png): 30.5'),
        (('images', 0, 'height'), 2**32, 'image-height-wrong', 'image 1 (a.png): 4294967296'),
        (('images', 0, 'height'), 2**28, 'image-too-large', 'have 2**32 pixels or more. image 1 (a.png): 40 x 268435456'),
        (('images', 0, 'file_name'), None, 'image-file-name-wrong', "'file_name' that is not a file name. image 1: null"),
        (('images', 0, 'file_name'), '\ud800', 'image-file-name-wrong', r'image 1: "\ud800"'),
        (('images', 0, 'file_name'), 'a\0.png', 'image-file-name-wrong', ''),
        (('images', 1, 'id'), 1, 'image-id-twice', '1 of 2 images have the id of one before them'),
        (('images', 1, 'file_name'), './a.png', 'image-file-twice', 'under more than one id'),
        (('annotations', 0), [1], 'annotation-not-object', 'number 1: [1]'),
        (('annotations', 0, 'id'), '1', 'annotation-id-wrong', 'number 1: "1"'),
        (('annotations', 0, 'id'), 2**70, 'annotation-id-wrong', 'number 1: 1180591620717411303424'),
        (('annotations', 1, 'id'), 1, 'annotation-id-twice', 'annotation 1 of image 2'),
        (('annotations', 0, 'image_id'), 5, 'annotation-without-image', 'annotation 1 of image 5'),
        (('annotations', 0, 'category_id'), 5, 'annotation-category-unknown', '(it has: 1 thing, 2 other)'),
        (('annotations', 0, 'category_id'), True, 'annotation-category-id-wrong', 'annotation 1 of image 1: true'),
        (('annotations', 0, 'bbox'), KeyError, 'annotation-without-bbox', ''),
        (('annotations', 0, 'bbox'), [1, 2, 3], 'annotation-bbox-wrong', 'annotation 1 of image 1: [1, 2, 3]'),
        (('annotations', 0, 'bbox'), [1, 2, 3, float('nan')], 'annotation-bbox-wrong', '[1, 2, 3, NaN]'),
        (('annotations', 0, 'bbox'), [1, 2, 3, 10**400], 'annotation-bbox-wrong', ''),
        (
            ('annotations', 0, 'bbox'),
            [5, 5, -3, 10],
            'box-negative',
            'corners are exchanged. annotation 1 of image 1: bbox [5',
        ),
        (('annotations', 0, 'bbox'), [5, 5, 0, 10], 'box-empty', 'a side under 1 px'),
        (('annotations', 0, 'area'), KeyError, 'annotation-without-area', '1 of 2 annotations'),
        (
            ('annotations', 0, 'area'),
            0,
            'area-not-positive',
            'MMDetection drops them in silence. annotation 1 of image 1: area 0',
        ),
        (
            ('annotations', 0, 'iscrowd'),
            'no',
            'annotation-iscrowd-wrong',
            'that is not 0 or 1. annotation 1 of image 1: "no"',
        ),
        (('categories', 1, 'name'), 'thing', 'category-name-twice', 'thing: 2 times'),
        (('categories', 1, 'id'), 1, 'category-id-twice', 'category 1 (other)'),
        (('categories', 1, 'name'), 3, 'category-name-wrong', 'category 2: 3'),
    ],
)
def test_each_fault_has_a_code_of_its_own(folder, path, value, code, words):
    _, findings = check(folder, changed(*path, value))
    (found,) = [finding for finding in findings if finding.code == code]
    assert found.where == 'train'
    assert found.count == 1
    assert found.remedy
    assert words in f'{found.text} {" ".join(found.examples)}'


def test_only_usable_entries_come_back(folder):
    document = copy.deepcopy(GOOD)
    document['images'].append({'id': 3, 'file_name': 'a.png', 'width': 40.0, 'height': 30})
    document['annotations'] += [
        GOOD['annotations'][0] | {'id': 3, 'bbox': None},
        GOOD['annotations'][0] | {'id': 4, 'image_id': 99},
        GOOD['annotations'][0] | {'id': 2},
        GOOD['annotations'][0] | {'id': 6, 'image_id': 3},
    ]
    coco, findings = check(folder, document)
    assert [annotation['id'] for annotation in coco.annotations] == [1, 2, 6]
    assert repr(coco.images[2]['width']) == '40'
    assert {finding.code for finding in findings} == {
        'annotation-bbox-wrong',
        'annotation-without-image',
        'annotation-id-twice',
        'image-file-twice',
    }


def test_a_file_of_which_nothing_is_left(folder):
    document = GOOD | {'annotations': [dict.fromkeys(('id', 'image_id', 'category_id', 'area'), 1)]}
    coco, findings = check(folder, document)
    assert coco is None
    assert 'no-annotations' in [finding.code for finding in findings]
    assert 'has no annotation that can be used, of 1' in findings[-1].text


def test_images_that_are_not_there(folder):
    (found,) = check(folder, changed('images', 0, 'file_name', 'aa.png'))[1]
    assert found.code == 'image-file-missing'
    assert found.text.startswith('1 of 2 images are not in ')
    assert found.examples == ('image 1 (aa.png)',)
    assert "Did you mean 'a.png'?" in found.remedy


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('sub/a.png', "has a.png: write file_name without 'sub/'"),
        ('C:\\data\\a.png', "has a.png: write file_name without 'C:\\\\data\\\\'"),
        ('A.tif', 'has a.png, not A.tif: write file_name as the file is called'),
    ],
)
def test_the_right_file_name_is_suggested(folder, name, words):
    (found,) = check(folder, changed('images', 0, 'file_name', name))[1]
    assert words in found.remedy


def test_a_wrong_folder_is_one_finding(folder):
    document = copy.deepcopy(GOOD)
    for image in document['images']:
        image['file_name'] = f'x{image["file_name"]}'
    (found,) = check(folder, document)[1]
    assert found.count == 2
    assert 'Did you mean' not in found.remedy
    (found,) = check_file(folder.parent / 'ann.json', folder / 'no', 'val', CLASSES)[1]
    assert found.code == 'image-folder-missing'


def test_an_image_without_objects_is_worth_knowing_only(folder):
    document = copy.deepcopy(GOOD)
    document['images'].append({'id': 3, 'file_name': 'c.png', 'width': 5, 'height': 5})
    (folder / 'c.png').touch()
    (found,) = check(folder, document)[1]
    assert (found.code, found.severity, found.examples) == ('image-without-annotations', 'information', ('image 3 (c.png)',))


def test_classes_are_held_against_the_config(folder):
    first, second = check(folder, GOOD, classes=('things', 'other'))[1]
    assert (first.code, second.code) == ('class-not-in-file', 'class-not-in-config')
    assert "Did you mean 'thing'?" in first.text
    (order,) = check(folder, GOOD, classes=('other', 'thing'), part='val')[1]
    assert (order.code, order.where) == ('class-order', 'val')
    assert check(folder, GOOD, classes=None)[1] == []


def text(document):
    return json.dumps(document).encode()


BROKEN_FILES = {
    'empty': (b'', 'the file is empty'),
    'blank': (b' \n\t', 'the file is empty'),
    'truncated': (text(GOOD)[:-30], 'seems truncated; copy or export it again'),
    'truncated to a brace': (b'{', 'seems truncated'),
    'binary': (b'\x89PNG\r\n\x1a\n\xff\xfe', 'not a text file'),
    'UTF-16': (json.dumps(GOOD).encode('utf-16'), 'not a text file'),
    'YOLO label': (b'0 0.5 0.5 0.2 0.1\n1 0.3 0.4 0.1 0.1\n', 'not JSON: Extra data in line 1'),
    'XML': (b'<annotation><folder/></annotation>', 'not JSON: Expecting value in line 1'),
    'CSV': (b'id,x,y\n1,2,3\n', 'not JSON'),
    'trailing comma': (b'{"images": [],}', 'not JSON: '),
    'two documents': (text(GOOD) * 2, 'not JSON: Extra data'),
    'a list of annotations': (text(GOOD['annotations']), 'holds a list, not an object with images, annotations, categories'),
    'a number': (b'5', 'holds a number'),
    'NaN alone': (b'NaN', 'holds a number'),
    'null': (b'null', 'holds a null'),
    'nested deep': (b'[' * 100_000, 'nested thousands deep'),
    'a number of too many digits': (b'{"images": ' + b'9' * 5000 + b'}', 'not readable JSON'),
    'LabelMe': (b'{"version": "5.0", "shapes": []}', "no list 'images' .*It has: 'version', 'shapes'"),
    'images null': (text(GOOD | {'images': None}), "no list 'images'"),
    'annotations by id': (text(GOOD | {'annotations': {'1': {}}}), "no list 'annotations'"),
    'a result file': (text([{'image_id': 1, 'score': 0.5}]), 'holds a list'),
}


@pytest.mark.parametrize(('content', 'words'), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_files_that_are_no_coco_are_named(folder, content, words):
    path = folder.parent / 'broken.json'
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        check_file(path, folder, 'train', CLASSES)


@pytest.mark.parametrize(
    ('document', 'codes'),
    [
        ({'images': [], 'annotations': [], 'categories': []}, {'no-images', 'no-annotations', 'no-categories'}),
        ({key: [None] for key in GOOD}, {'image-not-object', 'annotation-not-object', 'category-not-object'}),
        (changed('images', 0, 'id', float('nan')), {'image-id-wrong', 'annotation-without-image'}),
        (GOOD | {'categories': []}, {'no-categories', 'annotation-category-unknown', 'no-annotations'}),
    ],
)
def test_files_without_a_usable_entry_are_named(folder, document, codes):
    assert codes <= {finding.code for finding in check(folder, document)[1]}


def test_a_byte_order_mark_is_read_over(folder):
    path = folder.parent / 'bom.json'
    path.write_bytes(b'\xef\xbb\xbf' + text(GOOD))
    assert check_file(path, folder, 'train', CLASSES)[1] == []


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 50)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -1e308, 2**63, '\ud800', '\0', 'o' * 9, '5o', 1e6, 3e7]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
NUMBERS = st.lists(st.floats(-100, 100) | st.integers(-5, 60) | st.floats(), min_size=4, max_size=12)
RLE = st.fixed_dictionaries(
    {
        'size': st.just([30, 40]) | st.lists(st.integers(-1, 50), max_size=3),
        'counts': st.lists(st.integers(0, 1200), max_size=4)
        | st.integers(0, 1200).map(lambda n: [n, 1200 - n])
        | st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=8)
        | ANY,
    }
)
SEGMENTATION = st.lists(NUMBERS, max_size=3) | RLE | ANY
VALUE = {'segmentation': SEGMENTATION, 'bbox': NUMBERS | ANY}
FREE_ENTRY = st.fixed_dictionaries(
    {}, optional={key: VALUE.get(key, ANY) | st.just(value) for part in GOOD.values() for key, value in part[0].items()}
)
FREE = st.fixed_dictionaries({}, optional={key: st.lists(FREE_ENTRY | ANY, max_size=3) | ANY for key in GOOD}) | ANY


@st.composite
def mutated(draw):
    """The good document with a few values replaced, removed or entries repeated."""
    document = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(list(GOOD)))
        entries = document[key]
        position = draw(st.integers(0, len(entries) - 1))
        if not isinstance(entries[position], dict) or not entries[position]:
            continue
        field = draw(st.sampled_from(sorted(entries[position])))
        change = draw(st.sampled_from(['replace', 'replace', 'replace', 'remove', 'repeat', 'spoil']))
        if change == 'replace':
            entries[position][field] = draw(VALUE.get(field, ANY))
        elif change == 'remove':
            del entries[position][field]
        elif change == 'repeat':
            entries.append(copy.deepcopy(entries[position]))
        else:
            entries[position] = draw(ANY)
    return document


@st.composite
def other_masks(draw):
    """The good document with other masks, boxes and areas, several to an image."""
    document = copy.deepcopy(GOOD)
    side = st.integers(0, 40) | st.floats(-1e3, 1e3)
    document['annotations'] = [
        GOOD['annotations'][0]
        | {
            'id': i,
            'segmentation': draw(st.lists(NUMBERS, min_size=1, max_size=2) | RLE | SEGMENTATION),
            'bbox': draw(st.lists(side, min_size=4, max_size=4)),
            'area': draw(side),
        }
        for i in range(draw(st.integers(1, 5)))
    ]
    return document


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated() | other_masks() | other_masks() | FREE, st.sampled_from([CLASSES, None, ('thing',), 'thing']))
def test_any_document_gives_findings_or_an_input_error(folder, document, classes):
    with contextlib.suppress(InputError):  # any other exception fails the test
        coco, findings = check(folder, document, classes)
        if coco is not None:
            findings += check_masks(coco, 'train') + check_split(coco, coco, (folder, folder))
            sizes = {image['id']: (image['height'], image['width']) for image in coco.images}
            for annotation in sound_masks(coco):
                height, width = sizes[annotation['image_id']]
                if height * width < 10**6:  # what is called sound is drawn without harm
                    coco_mask.frPyObjects(annotation['segmentation'], height, width)
        json.dumps(to_record(findings)).encode()
        '\n'.join(f'{finding.text} {finding.examples} {finding.remedy}' for finding in findings).encode()  # can be printed
        assert coco is not None or any(finding.severity == 'severe' for finding in findings)
