import json

import numpy as np
import pytest
from format_files import (
    CLASSES,
    Scene,
    assert_same,
    drawn_again,
    label_map,
    mask_of,
    scenes,
    some_scenes,
    write_class_folders,
    write_images,
    write_map,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmext.data.formats.content import Asked, classes_of, to_coco
from mmext.data.formats.label_maps import read, read_map, regions_of
from mmext.errors import InputError

MAPS = [('.png', np.uint8), ('.png', np.uint16), ('.tif', np.uint16), ('.tif', np.uint32), ('.tif', np.float32)]


def content_of(path, images, **asked):
    return read(path, images, Asked(**asked))


def converted(path, images, **asked):
    content = content_of(path, images, **asked)
    return to_coco(content, classes_of([content]))


@given(scenes(with_masks=True, with_polygons=False, overlap=False), st.sampled_from(MAPS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back_by_class_folder(tmp_path_factory, found, how):
    folder = tmp_path_factory.mktemp('maps')
    suffix, dtype = how
    write_images(folder / 'images', found)
    for scene in found:
        for name in CLASSES:
            objects = [one for one in scene.objects if one.name == name]
            path = (folder / 'masks' / name / scene.file_name).with_suffix(suffix)
            write_map(path, label_map(scene, objects, dtype))
    if any(scene.objects for scene in found):
        assert_same(converted(folder / 'masks', folder / 'images'), found, ordered=False)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_regions_are_the_pixels_of_each_value(seed, by_components):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array([0, 0, 1, 5, 70000], np.uint32), (12, 17))
    found = {value: np.zeros(values.shape, int) for value in np.unique(values).tolist() if value}
    for value, mask, x, y in regions_of(values, by_components):
        found[value][y : y + mask.shape[0], x : x + mask.shape[1]] += mask
    for value, mask in found.items():
        assert (mask == (values == value)).all()  # each pixel once
    if not by_components:
        assert len(list(regions_of(values, False))) == len(found)


def test_touching_corners_are_one_region():
    values = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert [mask.sum() for _, mask, *_ in regions_of(values, True)] == [2, 1]


@pytest.fixture
def one(tmp_path):
    """An image of 40x30; ``convert`` writes maps by name and reads them."""
    write_images(tmp_path / 'images', [Scene('a.png', 40, 30, [])])

    def convert(maps, table=None, **asked):
        for name, values in maps.items():
            write_map(tmp_path / 'masks' / name, values)
        if table:
            (tmp_path / 'masks' / table[0]).write_text(table[1])
        return content_of(tmp_path / 'masks', tmp_path / 'images', **asked)

    convert.folder = tmp_path
    return convert


def two_pieces(values=(1, 1)):
    found = np.zeros((30, 40), np.uint16)
    found[2:8, 2:8], found[12:20, 12:20] = values
    found[14, 14] = 0  # a hole
    return found


def named(content):
    return sorted((found.name, found.file_name) for found in content.objects)


@pytest.mark.parametrize(
    ('maps', 'names'),
    [
        ({'a.png': two_pieces((1, 2))}, ['object', 'object']),
        ({'a_cp_masks.png': two_pieces()}, ['object']),
        ({'a_Fiber.png': two_pieces(), 'a_Film.tif': two_pieces((3, 9))}, ['Fiber', 'Film', 'Film']),
        ({'a-Fiber_01.png': two_pieces(), 'a-Fiber_02.png': two_pieces()}, ['Fiber', 'Fiber']),
        ({'a_Fiber_mask.png': two_pieces()}, ['Fiber']),
        ({'a_001.png': two_pieces(), 'a_002.png': two_pieces()}, ['object', 'object']),
        ({'Fiber/a.png': two_pieces(), 'Film/a_mask.png': two_pieces()}, ['Fiber', 'Film']),
    ],
)
def test_what_tells_the_class(one, maps, names):
    assert [name for name, _ in named(one(maps))] == names


def test_the_class_of_maps_that_tell_none(one):
    content = one({'a.png': two_pieces()}, class_name='cell')
    assert named(content) == [('cell', 'a.png')]
    assert content.origins == {'cell': '--class-name'}


def test_several_parts_and_holes_stay_in_one_object(one):
    content = one({'a.png': two_pieces()})
    ((_, mask),) = drawn_again(to_coco(content, ['object']))['a.png']
    assert (mask == (two_pieces() > 0)).all()
    (remark,) = content.remarks
    assert remark == 'each value is an object: 1, of 2 separate regions. If each region is one: --objects components'


def test_regions_are_objects_where_it_is_asked_for(one):
    assert len(one({'a.png': two_pieces()}, objects='components').objects) == 2


TABLES = [
    ('classes.csv', 'value,class\n0,background\n1,Fiber\n2,Film\n'),
    ('classes.csv', '1,Fiber\n2,Film\n'),
    ('classes.json', '{"0": "background", "1": "Fiber", "2": "Film"}'),
]


@pytest.mark.parametrize('table', TABLES)
def test_a_table_of_values_names_classes_and_regions_are_objects(one, table):
    maps = {'a.png': two_pieces((1, 1)) + np.roll(2 * two_pieces((1, 0)), 25, axis=1).astype(np.uint16)}
    assert [name for name, _ in named(one(maps, table))] == ['Fiber', 'Fiber', 'Film']
    assert [name for name, _ in named(one(maps, table, objects='values'))] == ['Fiber', 'Film']
    assert one(maps, table).origins['Film'] == f'value in {table[0]}'
    assert classes_of([one(maps, table)]) == ('Fiber', 'Film')


def test_a_table_of_images_names_each_object(one):
    table = 'objects.csv', 'Image,Value,Class\na.png,1,Film\na.png,2,Fiber\nb.png,1,Fiber\n'
    assert [name for name, _ in named(one({'a.tif': two_pieces((1, 2))}, table))] == ['Fiber', 'Film']


def test_subfolders_of_the_images_are_no_classes(tmp_path):
    write_images(tmp_path / 'images/plate1', [Scene('a.png', 40, 30, [])])
    write_map(tmp_path / 'masks/plate1/a.png', two_pieces())
    assert named(content_of(tmp_path / 'masks', tmp_path / 'images')) == [('object', 'plate1/a.png')]


def test_maps_beside_the_images_and_in_a_folder_of_theirs(tmp_path):
    write_images(tmp_path, [Scene('a.png', 40, 30, []), Scene('b.png', 40, 30, [])])
    write_map(tmp_path / 'a_cp_masks.png', two_pieces())
    assert named(content_of(tmp_path, tmp_path)) == [('object', 'a.png')]
    (tmp_path / 'masks').mkdir()
    (tmp_path / 'a_cp_masks.png').rename(tmp_path / 'masks/a_cp_masks.png')
    content = content_of(tmp_path / 'masks', tmp_path)
    assert named(content) == [('object', 'a.png')]
    assert '1 images of' in content.remarks[0]


def test_palettes_and_grey_in_colours_keep_their_numbers(tmp_path):
    picture = Image.fromarray(two_pieces((1, 2)).astype(np.uint8), 'P')
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / 'palette.png')
    grey = np.repeat(two_pieces((1, 2)).astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    for name in ('palette.png', 'grey.png'):
        assert (read_map(tmp_path / name) == two_pieces((1, 2))).all()


def test_a_compressed_tiff_of_another_program(tmp_path):
    Image.fromarray(two_pieces()).save(tmp_path / 'lzw.tif', compression='tiff_lzw')
    assert (read_map(tmp_path / 'lzw.tif') == two_pieces()).all()


@pytest.mark.parametrize(
    ('maps', 'table', 'words'),
    [
        ({'b.png': two_pieces()}, None, 'label maps without an image in .*images: b.png. Its name must be'),
        ({'a.png': two_pieces()[:20]}, None, 'a.png: 40x20 annotated, a.png has 40x30'),
        ({'a.png': np.random.default_rng(0).integers(0, 9, (30, 40, 3), np.uint8)}, None, 'colours are no values'),
        ({'a.tif': np.full((30, 40), 0.5, np.float32)}, None, 'no whole numbers'),
        ({'a.tif': np.full((30, 40), -1, np.int16)}, None, 'values from -1'),
        ({'a.tif': np.zeros((5, 30, 40), np.uint8)}, None, 'a stack of 5 pictures'),
        ({'a.png': two_pieces((1, 2))}, ('t.csv', 'value,class\n1,Fiber\n'), 't.csv does not list: a.png value 2'),
        ({'a.png': two_pieces()}, ('t.csv', 'value,class\nx,Fiber\n'), "value 'x' with class 'Fiber'"),
        ({'a.png': two_pieces()}, ('t.csv', 'value,class\n1,Fiber\n1,Film\n'), 'value 1 is Fiber and Film'),
        ({'a.png': two_pieces()}, ('t.csv', 'a,b,c\n1,2,3\n'), 'must name the columns value,class or image'),
        ({'a.png': two_pieces()}, ('t.csv', 'value,class\n1\n'), 'too few cells: 2'),
        ({'a.png': two_pieces()}, ('t.json', '[1]'), 'not a table of values'),
        ({'a.png': two_pieces()}, ('t.json', '{"1": '), 'cut off'),
        ({'a.png': two_pieces(), 'Fiber/a.png': two_pieces()}, None, 'and in its subfolders Fiber too'),
    ],
)
def test_faults_name_the_map(one, maps, table, words):
    with pytest.raises(InputError, match=words):
        one(maps, table)


def test_rows_of_which_no_map_has_the_value_are_told(tmp_path):
    write_images(tmp_path / 'images', [Scene('a.png', 40, 30, [])])
    write_map(tmp_path / 'masks/a.tif', two_pieces((1, 2)))
    rows = 'a,1,Film\na,2,Film\na.png,98,Film\nother.png,1,Fiber'
    (tmp_path / 'masks/objects.csv').write_text(f'image,value,class\n{rows}\n')
    content = read(tmp_path / 'masks', tmp_path / 'images', Asked())
    (remark,) = [one for one in content.remarks if 'rows' in one]
    assert remark.startswith('2 of 4 rows of objects.csv have no pixel in a map')
    assert remark.endswith('a value 98, other value 1')
    assert len(content.objects) == 2


def test_all_faults_come_at_once(one):
    (one.folder / 'masks').mkdir()
    (one.folder / 'masks/a_2.png').write_bytes(b'no picture')
    (one.folder / 'masks/a_3.jpg').write_bytes(b'')
    with pytest.raises(InputError) as error:
        one({'b.png': two_pieces(), 'a.png': two_pieces()[:9]})
    for words in ('b.png', 'a_2.png', 'JPEG changes values', '40x9 annotated'):
        assert words in str(error.value)


def test_images_of_one_stem_are_a_fault(one):
    write_images(one.folder / 'images', [Scene('a.jpg', 40, 30, [])])
    with pytest.raises(InputError, match='images of the same name'):
        one({'a.png': two_pieces()})


def test_many_scenes_by_class_folder(tmp_path):
    found = some_scenes()
    write_images(tmp_path / 'images', found)
    write_class_folders(tmp_path / 'masks', found)
    document = converted(tmp_path / 'masks', tmp_path / 'images')
    for scene in found:  # objects of one class do not overlap here
        expected = sorted((one.name, mask_of(one, scene).sum()) for one in scene.objects)
        assert sorted((name, mask.sum()) for name, mask in drawn_again(document)[scene.file_name]) == expected
    assert json.dumps(document) == json.dumps(converted(tmp_path / 'masks', tmp_path / 'images'))
