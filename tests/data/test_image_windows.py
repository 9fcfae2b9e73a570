import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmext.data.image_windows import open_windows
from mmext.errors import InputError

WINDOWS = [(0, 0, 90, 70), (0, 0, 1, 1), (89, 69, 90, 70), (13, 5, 47, 66), (64, 48, 90, 70)]


def picture(channels, dtype, seed=0):
    shape = (70, 90) if channels == 1 else (70, 90, channels)
    most = 1.0 if np.dtype(dtype).kind == 'f' else np.iinfo(dtype).max
    return (np.random.default_rng(seed).random(shape) * most).astype(dtype)


def same(found, expected):
    return found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize(
    ('channels', 'dtype'), [(1, np.uint8), (3, np.uint8), (1, np.uint16), (5, np.uint16), (1, np.float32)]
)
@pytest.mark.parametrize(
    'layout',
    [
        {},
        {'rowsperstrip': 7},
        {'tile': (32, 48)},
        {'rowsperstrip': 7, 'compression': 'zlib'},
        {'tile': (32, 48), 'compression': 'zlib', 'predictor': True},
        {'tile': (16, 16), 'bigtiff': True, 'byteorder': '>'},
        {'byteorder': '>'},
    ],
    ids=lambda layout: ' '.join(layout) or 'plain',
)
def test_every_window_of_a_tiff_is_that_part_of_the_picture(tmp_path, channels, dtype, layout):
    pixels = picture(channels, dtype)
    how = {key: value for key, value in layout.items() if key not in ('bigtiff', 'byteorder')}
    if dtype == np.float32:
        how.pop('predictor', None)  # that of numbers with a point needs imagecodecs
    how['photometric'] = 'rgb' if channels == 3 else 'minisblack'
    how['planarconfig'] = 'contig' if channels > 1 else None
    path = tmp_path / 'a.tif'
    with tifffile.TiffWriter(path, bigtiff='bigtiff' in layout, byteorder=layout.get('byteorder')) as file:
        file.write(pixels, **how)
    opened = open_windows(path)
    assert (opened.size, opened.channels, opened.dtype, opened.bounded) == ((70, 90), channels, dtype, True)
    for x1, y1, x2, y2 in WINDOWS:
        assert same(opened.read((x1, y1, x2, y2)), pixels[y1:y2, x1:x2])


@pytest.mark.parametrize('how', [{}, {'tile': (32, 32)}, {'rowsperstrip': 9, 'compression': 'zlib'}])
def test_colours_that_lie_apart_in_a_tiff(tmp_path, how):
    pixels = picture(3, np.uint16)
    tifffile.imwrite(tmp_path / 'a.tif', np.moveaxis(pixels, -1, 0), photometric='rgb', planarconfig='separate', **how)
    opened = open_windows(tmp_path / 'a.tif')
    assert opened.channels == 3
    for x1, y1, x2, y2 in WINDOWS:
        assert same(opened.read((x1, y1, x2, y2)), pixels[y1:y2, x1:x2])


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_any_window(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / 'any.tif'
    pixels = picture(3, np.uint8)
    if not path.exists():
        tifffile.imwrite(path, pixels, tile=(16, 32), compression='zlib')
    (x1, x2), (y1, y2) = (sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in (90, 70))
    assert same(open_windows(path).read((x1, y1, x2, y2)), pixels[y1:y2, x1:x2])


def test_other_formats_are_decoded_whole_with_their_depth(tmp_path):
    for channels, dtype in ((1, np.uint16), (3, np.uint16), (3, np.uint8), (1, np.uint8)):
        pixels = picture(channels, dtype)
        cv2.imwrite(str(tmp_path / 'a.png'), pixels if channels == 1 else pixels[..., ::-1])
        opened = open_windows(tmp_path / 'a.png')
        assert (opened.size, opened.channels, opened.dtype, opened.bounded) == ((70, 90), channels, dtype, False)
        for x1, y1, x2, y2 in WINDOWS:
            assert same(opened.read((x1, y1, x2, y2)), pixels[y1:y2, x1:x2])


def test_a_compression_that_needs_imagecodecs_is_read_whole_without_it(tmp_path):
    code = (
        'import sys; sys.modules["imagecodecs"] = None\n'
        'from mmext.data.image_windows import open_windows\n'
        'opened = open_windows(sys.argv[1]); print(opened.bounded, opened.read((3, 2, 6, 4)).tolist())'
    )
    pixels = picture(1, np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.tif', compression='tiff_lzw')
    done = subprocess.run([sys.executable, '-c', code, tmp_path / 'a.tif'], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f'False {pixels[2:4, 3:6].tolist()}'


def test_a_palette_and_inverted_grey_are_read_as_they_look(tmp_path):
    pixels = picture(1, np.uint8)
    tifffile.imwrite(tmp_path / 'a.tif', pixels, photometric='miniswhite')
    assert same(open_windows(tmp_path / 'a.tif').read((0, 0, 90, 70)), 255 - pixels)
    image = Image.fromarray(pixels).quantize(16)
    image.save(tmp_path / 'b.tif')
    assert same(open_windows(tmp_path / 'b.tif').read((3, 2, 60, 40)), np.array(image.convert('RGB'))[2:40, 3:60])


def test_exif_turns_a_jpeg(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture(3, np.uint8)).save(tmp_path / 'a.jpg', exif=exif)
    opened = open_windows(tmp_path / 'a.jpg')
    assert opened.size == (90, 70)
    assert same(opened.read((0, 0, 70, 90)), cv2.imread(str(tmp_path / 'a.jpg'))[..., ::-1])


def test_only_the_tiles_under_a_window_are_read(tmp_path):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, picture(1, np.uint8), tile=(32, 32), compression='zlib')
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[-1]
    content = bytearray(path.read_bytes())
    content[offset : offset + 20] = bytes(20)
    path.write_bytes(content)
    opened = open_windows(path)
    assert same(opened.read((0, 0, 64, 64)), picture(1, np.uint8)[:64, :64])
    with pytest.raises(InputError, match='damaged'):
        opened.read((0, 0, 90, 70))


@pytest.mark.parametrize('window', [(0, 0, 91, 70), (-1, 0, 5, 5), (5, 5, 5, 9), (3, 9, 8, 2)])
def test_a_window_outside(tmp_path, window):
    tifffile.imwrite(tmp_path / 'a.tif', picture(1, np.uint8))
    with pytest.raises(InputError, match=r'is not within its 90x70 pixels \(width x height\)'):
        open_windows(tmp_path / 'a.tif').read(window)


def test_files_that_are_no_image(tmp_path):
    with pytest.raises(InputError, match=r'lost\.tif: cannot be read: No such file'):
        open_windows(tmp_path / 'lost.tif')
    for name, content, words in (
        ('empty.png', b'', 'OpenCV cannot read it|not an image'),
        ('text.png', b'some words', 'not an image that OpenCV can read'),
        ('cut.tif', b'II*\0\x08\0\0\0', 'not a TIFF that can be read'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            open_windows(tmp_path / name)
    tifffile.imwrite(tmp_path / 'turned.tif', picture(1, np.uint8), extratags=[(274, 3, 1, 6, False)])
    with pytest.raises(InputError, match=r'asks to be turned \(orientation 6\)'):
        open_windows(tmp_path / 'turned.tif')
