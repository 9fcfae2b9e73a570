import re

import cv2
import numpy as np
import pytest
import tifffile

from mmext.data.coco_file import CocoFile
from mmext.data.crops import CropPlan
from mmext.data.image_loading import Loading, input_scale_of, parse_channels, pipelines_text, plan_loading
from mmext.data.split import Part
from mmext.errors import InputError

SCALE = (1333, 800)
GREY = np.arange(400, 3200, dtype=np.uint16).reshape(40, 70)
RGB = np.dstack([GREY, GREY + 1000, GREY * 2])
PAGES = {'imagej': True, 'metadata': {'axes': 'CYX'}}


def part_of(folder, name, images):
    """A part of the images that each (file name, pixels, how) says, with an object in each."""
    (folder / name).mkdir()
    entries, annotations = [], []
    for number, (file_name, pixels, how) in enumerate(images, 1):
        path = folder / name / file_name
        if path.suffix == '.tif':
            tifffile.imwrite(path, pixels, **how)
        else:
            cv2.imwrite(str(path), pixels)
        height, width = (40, 70)
        entries.append({'id': number, 'file_name': file_name, 'width': width, 'height': height})
        annotations.append(
            {'id': number, 'image_id': number, 'category_id': 1, 'bbox': [10, 10, 20, 20], 'area': 400, 'iscrowd': 0}
            | {'segmentation': [[10, 10, 30, 10, 30, 30, 10, 30]]}
        )
    coco = CocoFile(folder / f'{name}.json', entries, annotations, [{'id': 1, 'name': 'thing'}])
    return Part(name, coco.path, coco, folder / name)


def plan(tmp_path, train, val=None, channels=None):
    parts = [part_of(tmp_path, 'train', train), part_of(tmp_path, 'val', val or train)]
    return plan_loading(parts, SCALE, channels)


def eight(name='a.png'):
    return name, (GREY >> 4).astype(np.uint8), {}


def deep(name='b.tif', pixels=GREY, **how):
    return name, pixels, how


def test_ordinary_images_change_nothing(tmp_path):
    colours = np.dstack([eight()[1]] * 3)
    images = [eight(), eight('b.tif'), ('c.png', colours, {}), ('d.jpg', colours, {})]
    images.append(('e.tif', colours, {'photometric': 'rgb'}))
    assert plan(tmp_path, images) == Loading()


def test_grey_images_of_16_bits_have_one_pair_of_limits(tmp_path):
    val = [deep(pixels=GREY + 5000)]
    found = plan(tmp_path, [deep(), deep('c.png')], val)
    assert found.settings['limits'] == pytest.approx(np.percentile(np.stack([GREY, GREY]), (0.1, 99.9)))
    assert len(found.settings) == 1
    assert '3 of 3 images have more than 8 bits (uint16)' in found.comments[0]
    assert 'the 0.1 and 99.9 percentiles of the 2 such training images, all pixels' in found.comments[0]
    assert found.lines == ('  3 of 3 images have more than 8 bits: grey values 402.599 to 3196.4 become 0 to 255.',)


def test_colours_have_three_unless_a_grey_image_is_among_them(tmp_path):
    colours = deep('c.tif', RGB, photometric='rgb')
    found = plan(tmp_path, [colours])
    expected = np.percentile(RGB, (0.1, 99.9), axis=(0, 1)).T
    assert np.array(found.settings['limits']) == pytest.approx(expected, rel=1e-5)
    assert 'red 402.799 to 3196.2, green 1402.8 to 4196.2, blue' in found.comments[0]
    (tmp_path / 'mixed').mkdir()
    mixed = plan(tmp_path / 'mixed', [colours], [deep()])
    assert np.array(mixed.settings['limits']).shape == (2,)


def test_eight_bits_beside_sixteen_are_told_and_not_counted(tmp_path):
    found = plan(tmp_path, [eight(), deep()], [eight()])
    assert found.settings['limits'] == pytest.approx(np.percentile(GREY, (0.1, 99.9)))
    assert 'The other 2 have 8 bits and stay as they are' in found.lines[1]


def test_limits_are_of_validation_where_only_that_is_deep(tmp_path):
    found = plan(tmp_path, [eight()], [deep()])
    assert 'of the 1 such validation images' in found.comments[0]


def many(name='m.tif', channels=5, dtype=np.uint16):
    return name, np.stack([(GREY + 100 * i).astype(dtype) for i in range(channels)]), PAGES


def test_many_channels_have_to_be_chosen(tmp_path):
    words = r'--channels: 4 of 4 images have other than 1 or 3 channels.*m\.tif has 5.*three of 0 to 4.*--channels 2,1,0'
    with pytest.raises(InputError, match=words):
        plan(tmp_path, [many(), many('n.tif')])
    for name, channels, expected in (('a', (3,), (700, 3499)), ('b', (4, 0, 1), None)):
        (tmp_path / name).mkdir()
        found = plan(tmp_path / name, [many()], channels=channels)
        assert found.settings['channels'] == channels
        if expected:
            assert found.settings['limits'] == pytest.approx(expected, abs=5)
        else:
            assert [pair[0] for pair in found.settings['limits']] == pytest.approx([803, 403, 503], abs=1)


def test_two_channels_of_8_bits_need_no_limits(tmp_path):
    with pytest.raises(InputError, match='such as --channels 0,1,1'):
        plan(tmp_path, [many(channels=2, dtype=np.uint8)])
    (tmp_path / 'b').mkdir()
    found = plan(tmp_path / 'b', [many(channels=2, dtype=np.uint8)], channels=(0, 1, 1))
    assert found.settings == {'channels': (0, 1, 1)}


def test_a_channel_that_an_image_lacks_is_an_error(tmp_path):
    words = r'--channels: 2,1,0 asks for channel 2, counted from 0, which 2 of 3 images do not have: .*b\.tif has 1'
    with pytest.raises(InputError, match=words):
        plan(tmp_path, [many(), deep()], [deep()], channels=(2, 1, 0))


def test_pages_of_colours_in_8_bits_are_loaded_by_us(tmp_path):
    pages = np.moveaxis(np.dstack([eight()[1]] * 3), 2, 0)
    found = plan(tmp_path, [('p.tif', pages, PAGES)])
    assert found.settings == {}
    assert 'in several pages' in found.comments[0]


def test_images_that_cannot_be_shown_come_at_once(tmp_path):
    stack = ('s.tif', np.stack([GREY] * 4), {'ome': True, 'metadata': {'axes': 'ZYX'}})
    with pytest.raises(InputError) as error:
        plan(tmp_path, [stack, ('w.tif', GREY, {'photometric': 'miniswhite'})])
    assert 'a stack of 4 slices' in str(error.value)
    assert 'kind MINISWHITE' in str(error.value)
    (tmp_path / 'many').mkdir()
    with pytest.raises(InputError, match='3 more images have such faults'):
        plan(tmp_path / 'many', [(f'{i}.tif', *stack[1:]) for i in range(4)])


@pytest.mark.parametrize('text', ['', '1,2', 'a', '0,1,2,3', '-1', '0,,1', '1.5'])
def test_channels_that_are_none(text):
    with pytest.raises(InputError, match=re.escape(f'--channels: {text!r}; it must be one number from 0')):
        parse_channels(text)


def test_channels_that_are():
    assert parse_channels('0') == (0,)
    assert parse_channels(' 2, 1,0') == (2, 1, 0)


TRAIN = [
    {'type': 'LoadImageFromFile'},
    {'type': 'mmext.LoadInstanceMasks', 'polygons': False},
    {'type': 'RandomResize', 'scale': [(1333, 480), (1333, 960)], 'keep_ratio': True},
    {'type': 'RandomFlip', 'prob': 0.5},
    {'type': 'PackDetInputs'},
]
TEST = [
    {'type': 'LoadImageFromFile'},
    {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True},
    {'type': 'mmext.LoadInstanceMasks'},
    {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'scale_factor')},
]


def read(text):
    found = {}
    exec(text, found)
    return found


def test_pipelines_differ_from_the_recipes_in_loading_alone():
    found = read(pipelines_text(Loading({'limits': (1, 2.5)}, comments=('Why. ' * 40,)), TRAIN, TEST))
    loader = {'type': 'mmext.LoadMicroscopeImage', 'limits': (1, 2.5)}
    assert found['train_pipeline'] == [loader, *TRAIN[1:]]
    assert found['test_pipeline'] == [loader, *TEST[1:]]
    assert input_scale_of(TEST) == (1333, 800)
    assert input_scale_of(TRAIN) is None


@pytest.mark.parametrize('bounded', [True, False])
def test_crops_are_cut_before_the_resize_and_all_pipelines_have_one_scale(bounded):
    loading = Loading({}, CropPlan(2048, 0.5, 3, 9, 'Why.'), bounded)
    found = read(pipelines_text(loading, TRAIN, TEST))
    loader, resize = {'type': 'mmext.LoadMicroscopeImage'}, {'type': 'Resize', 'scale_factor': 0.5, 'keep_ratio': True}
    first = loader | {'whole': False} if bounded else loader
    crop = {'type': 'mmext.CropAroundInstance', 'size': (2048, 2048)}
    assert found['train_pipeline'] == [first, TRAIN[1], crop, resize, *TRAIN[3:]]
    assert found['test_pipeline'] == [loader, resize, *TEST[2:]]


def large_part(folder, name, write, side=3000):
    (folder / name).mkdir()
    write(folder / name)
    images = [
        {'id': i, 'file_name': path.name, 'width': side, 'height': side}
        for i, path in enumerate(sorted((folder / name).iterdir()), 1)
    ]
    annotations = [
        {'id': i, 'image_id': i, 'category_id': 1, 'bbox': [10, 10, 20, 20], 'area': 400, 'iscrowd': 0}
        for i in range(1, len(images) + 1)
    ]
    coco = CocoFile(folder / f'{name}.json', images, annotations, [{'id': 1, 'name': 'thing'}])
    return Part(name, coco.path, coco, folder / name)


LARGE = np.zeros((3000, 3000), np.uint8)


@pytest.mark.parametrize(
    ('write', 'bounded'),
    [
        (lambda folder: tifffile.imwrite(folder / 'a.tif', LARGE, tile=(256, 256)), True),
        (lambda folder: cv2.imwrite(str(folder / 'a.png'), LARGE), False),
        (lambda folder: tifffile.imwrite(folder / 'a.tif', LARGE, extratags=[(274, 3, 1, 3, True)]), False),
        (lambda folder: tifffile.imwrite(folder / 'a.tif', np.stack([LARGE] * 3), **PAGES), False),
    ],
    ids=['tiles', 'png', 'turned', 'pages'],
)
def test_crops_are_read_alone_where_the_files_allow_it(tmp_path, write, bounded):
    parts = [large_part(tmp_path, name, write) for name in ('train', 'val')]
    found = plan_loading(parts, SCALE)
    assert found.crops.side == 1024
    assert found.bounded == bounded
    assert (
        'Images of up to 3000x3000 px would be shrunk to 0.27 of their size, and 100% of the objects' in found.comments[-1]
    )
    assert 'Validation sees tiles' in found.comments[-1]
    assert 'mmext predict --tile 1024' in found.lines[-1]
    assert plan_loading(parts, None) == Loading() or not bounded  # a recipe whose scale is not known
