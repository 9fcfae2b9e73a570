import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image

from mmext.errors import InputError
from mmext.transforms import LoadMicroscopeImage

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8)
TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def load(path, **arguments):
    return LoadMicroscopeImage(**arguments)({'img_path': str(path)})


def stock(path, **arguments):
    return LoadImageFromFile(**arguments)({'img_path': str(path)})


def same(path, **arguments):
    ours, theirs = load(path, **arguments), stock(path, **arguments)
    assert ours.keys() == theirs.keys()
    assert (ours['img_shape'], ours['ori_shape']) == (theirs['img_shape'], theirs['ori_shape'])
    assert ours['img'].dtype == theirs['img'].dtype
    return ours['img'].tobytes() == theirs['img'].tobytes()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(['png', 'jpg', 'bmp', 'webp', 'tif']),
    mode=st.sampled_from(['L', 'RGB', 'RGBA', 'P', '1', 'CMYK', 'LA']),
    orientation=st.integers(1, 8),
    obeyed=st.booleans(),
    to_float32=st.booleans(),
)
def test_eight_bits_arrive_as_by_stock_to_the_byte(tmp_path_factory, kind, mode, orientation, obeyed, to_float32):
    path = tmp_path_factory.mktemp('eight') / f'a.{kind}'
    picture, exif = Image.fromarray(RGB).convert(mode), Image.Exif()
    exif[0x112] = orientation
    try:
        picture.save(path, exif=exif) if kind in ('png', 'jpg', 'webp', 'tif') else picture.save(path)
    except OSError:
        return  # no such pixels in this format
    colour = 'color' if obeyed else 'color_ignore_orientation'
    assert same(path, color_type=colour, to_float32=to_float32)


@pytest.mark.parametrize(
    ('pixels', 'arguments'),
    [
        (RGB, {'compression': 'zlib', 'photometric': 'rgb'}),
        (np.moveaxis(RGB, 2, 0), {'photometric': 'rgb', 'planarconfig': 'separate'}),
        (RGB[..., 0], {'photometric': 'miniswhite'}),
        (RGB[..., 0], {'bigtiff': True}),
        (RGB[..., 0], {'byteorder': '>'}),
        (RGB[..., 0] > 99, {}),
    ],
)
def test_tiffs_of_eight_bits_too(tmp_path, pixels, arguments):
    tifffile.imwrite(tmp_path / 'a.tif', pixels, **arguments)
    assert same(tmp_path / 'a.tif')


def write_deep(path, image, way):
    if way == 'png':
        cv2.imwrite(str(path.with_suffix('.png')), image)
        return path.with_suffix('.png')
    if way == 'lzw':
        cv2.imwrite(str(path), image, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    else:
        tifffile.imwrite(path, image, compression=way, photometric='minisblack')
    return path


@pytest.mark.parametrize('way', ['png', 'lzw', 'zlib', None])
def test_twelve_bits_in_sixteen_arrive_as_256_grey_values_and_stock_gives_16(tmp_path, way):
    path = write_deep(tmp_path / 'a.tif', TWELVE, way)
    found = load(path)
    assert found['img'].shape == (64, 64, 3)
    assert (found['img'] == found['img'][..., :1]).all()
    assert len(np.unique(found['img'])) == 256
    assert len(np.unique(stock(path)['img'])) == 16
    fixed = load(path, limits=(0, 4095))['img'][..., 0]
    assert np.abs(fixed - TWELVE * (255 / 4095)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_deep_tiff_is_turned_as_stock_turns_it(tmp_path, orientation):
    image = (RGB[..., 0].astype(np.uint16) << 8) + 128
    tifffile.imwrite(tmp_path / 'a.tif', image, extratags=[(274, 3, 1, orientation, True)], photometric='minisblack')
    for colour in ('color', 'color_ignore_orientation'):
        ours = load(tmp_path / 'a.tif', limits=(0, 65_535), color_type=colour)['img'].astype(int)
        theirs = stock(tmp_path / 'a.tif', color_type=colour)['img']
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1


def test_deep_colours_are_blue_green_red(tmp_path):
    deep = RGB.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / 'a.tif', deep, photometric='rgb')
    tifffile.imwrite(tmp_path / 'planes.tif', np.moveaxis(deep, 2, 0), photometric='rgb', planarconfig='separate')
    tifffile.imwrite(tmp_path / 'pages.tif', np.moveaxis(deep, 2, 0), imagej=True, metadata={'axes': 'CYX'})
    alpha = np.concatenate([deep, deep[..., :1]], 2)
    tifffile.imwrite(tmp_path / 'alpha.tif', alpha, photometric='rgb', extrasamples=['unassalpha'])
    cv2.imwrite(str(tmp_path / 'a.png'), alpha[..., [2, 1, 0, 3]])
    for name in ('a.tif', 'planes.tif', 'pages.tif', 'alpha.tif', 'a.png'):
        assert np.array_equal(load(tmp_path / name, limits=(0, 65_535))['img'][..., ::-1], RGB), name


def test_channels_of_many(tmp_path):
    many = np.stack([np.full((8, 9), value, np.uint16) for value in (0, 10, 20, 30, 40)])
    tifffile.imwrite(tmp_path / 'a.tif', many, imagej=True, metadata={'axes': 'CYX'})
    with pytest.raises(InputError, match=r'a\.tif: 5 channels.*mmext.LoadMicroscopeImage of the config'):
        load(tmp_path / 'a.tif')
    found = load(tmp_path / 'a.tif', channels=(2, 1, 4), limits=(0, 255))['img']
    assert found[0, 0].tolist() == [40, 10, 20]  # blue, green, red
    assert load(tmp_path / 'a.tif', channels=3, limits=(0, 255))['img'][0, 0].tolist() == [30, 30, 30]
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    assert np.array_equal(load(tmp_path / 'a.png', channels=[1])['img'][..., 0], RGB[..., 1])


@pytest.mark.parametrize(
    ('pixels', 'wanted'),
    [
        (np.linspace(-3, 5, 256, dtype=np.float32), np.arange(256)),
        (np.arange(256, dtype=np.int32) * 1000 - 40_000, np.arange(256)),
        (np.full(256, 1234, np.uint16), np.zeros(256)),
    ],
)
def test_other_numbers_and_an_image_of_one_grey_value(tmp_path, pixels, wanted):
    tifffile.imwrite(tmp_path / 'a.tif', pixels.reshape(16, 16))
    found = load(tmp_path / 'a.tif', percentiles=(0, 100))['img'][..., 0]
    assert np.abs(found.ravel() - wanted).max() <= 1
    brightness = load(tmp_path / 'a.tif', limits=(0, 2468))['img']
    assert len(np.unique(pixels)) > 1 or (brightness == 128).all()


def test_grey_with_alpha_is_grey(tmp_path):
    pixels = np.stack([TWELVE, TWELVE[::-1]], axis=2)
    tifffile.imwrite(
        tmp_path / 'a.tif', pixels, photometric='minisblack', planarconfig='contig', extrasamples=['unassalpha']
    )
    tifffile.imwrite(tmp_path / 'b.tif', TWELVE)
    assert np.array_equal(load(tmp_path / 'a.tif')['img'], load(tmp_path / 'b.tif')['img'])


def test_what_cannot_be_read_says_what_to_do(tmp_path):
    tifffile.imwrite(tmp_path / 'stack.tif', np.zeros((4, 8, 9), np.uint16), ome=True, metadata={'axes': 'ZYX'})
    tifffile.imwrite(tmp_path / 'eight bits.tif', np.zeros((4, 8, 9), np.uint8), photometric='minisblack')
    tifffile.imwrite(tmp_path / 'nan.tif', np.full((4, 4), np.nan, np.float32))
    tifffile.imwrite(tmp_path / 'white.tif', TWELVE, photometric='miniswhite')
    tifffile.imwrite(tmp_path / 'whole.tif', TWELVE)
    cut = (tmp_path / 'whole.tif').read_bytes()[:3000]
    Image.fromarray(RGB).save(tmp_path / 'whole.jpg')
    for name, content in (
        ('cut.tif', cut),
        ('cut.jpg', (tmp_path / 'whole.jpg').read_bytes()[:900]),
        ('empty.png', b''),
        ('text.png', b'hello'),
    ):
        (tmp_path / name).write_bytes(content)
    for name, words in {
        'stack.tif': r'a stack of 4 slices \(axes ZYX, shape \(4, 8, 9\)\).*Save each as an image of its own',
        'eight bits.tif': r'a stack of 4 pages .* save them as such: axes CYX or YXC',
        'nan.tif': '16 of 16 grey values are NaN',
        'white.tif': 'uint16 pixels of kind MINISWHITE',
        'cut.tif': 'not a whole TIFF.*export it again',
        'cut.jpg': 'not a whole image that OpenCV can read',
        'empty.png': 'the file is empty',
        'text.png': "it begins with b'hello'",
        'none.png': 'there is no such image',
    }.items():
        with pytest.raises(InputError, match=f'{name}: .*{words}'):
            load(tmp_path / name)
        assert load(tmp_path / name, ignore_empty=True) is None


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'color_type': 'grayscale'}, "'color' or 'color_ignore_orientation'"),
        ({'channels': (0, 1)}, 'one number from 0, or three'),
        ({'channels': (-1,)}, 'one number from 0, or three'),
        ({'limits': (4, 1)}, 'first is below the second'),
        ({'percentiles': (4, 1)}, 'two numbers from 0 to 100'),
    ],
)
def test_settings_that_cannot_be(arguments, words):
    with pytest.raises(InputError, match=words):
        LoadMicroscopeImage(**arguments)


def test_a_config_finds_it_and_reads_through_the_file_backend(tmp_path):
    init_default_scope('mmdet')
    cv2.imwrite(str(tmp_path / 'a.png'), TWELVE)
    backend = {'backend': 'local'}
    built = TRANSFORMS.build({'type': 'mmext.LoadMicroscopeImage', 'limits': [0, 4095], 'backend_args': backend})
    assert isinstance(built, LoadImageFromFile)
    assert len(np.unique(built({'img_path': str(tmp_path / 'a.png')})['img'])) == 256
    assert 'limits=' in repr(built)
    with pytest.raises(KeyError, match='nowhere'):  # the backend is asked
        load(tmp_path / 'a.png', backend_args={'backend': 'nowhere'})
