import cv2
import numpy as np
import pytest
import tifffile
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmext.data.image_pixels import pixel_kind, whole_pixels
from mmext.errors import InputError
from mmext.transforms import LoadMicroscopeImage

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = RGB.astype(np.uint16) * 15 + 200


def with_pillow(mode):
    return lambda path: Image.fromarray(RGB).convert(mode).save(path)


def with_tifffile(pixels, **settings):
    return lambda path: tifffile.imwrite(path, pixels, **settings)


def with_opencv(pixels):
    return lambda path: cv2.imwrite(str(path), pixels)


ALPHA = np.dstack([DEEP, DEEP[..., :1]])
MANY = np.dstack([DEEP, DEEP[..., :2]])
PAGES = {'imagej': True, 'metadata': {'axes': 'CYX'}}
# name, what writes it, type, channels shown, channels stored, whether stock reads it
KINDS = [
    ('grey.png', with_pillow('L'), 'uint8', 1, 1, True),
    ('colour.png', with_pillow('RGB'), 'uint8', 3, 3, True),
    ('alpha.png', with_pillow('RGBA'), 'uint8', 3, 3, True),
    ('palette.png', with_pillow('P'), 'uint8', 3, 3, True),
    ('bits.png', with_pillow('1'), 'uint8', 1, 1, True),
    ('a.jpg', with_pillow('RGB'), 'uint8', 3, 3, True),
    ('a.bmp', with_pillow('RGB'), 'uint8', 3, 3, True),
    ('a.webp', with_pillow('RGB'), 'uint8', 3, 3, True),
    ('grey.tif', with_pillow('L'), 'uint8', 1, 1, True),
    ('palette.tif', with_pillow('P'), 'uint8', 3, 3, True),
    ('colour.tif', with_pillow('RGB'), 'uint8', 3, 3, True),
    ('lzw.tif', lambda path: Image.fromarray(RGB).save(path, compression='tiff_lzw'), 'uint8', 3, 3, True),
    ('pages.tif', with_tifffile(np.moveaxis(RGB, 2, 0), **PAGES), 'uint8', 3, 3, False),
    ('two.tif', with_tifffile(np.moveaxis(RGB[..., :2], 2, 0), **PAGES), 'uint8', 2, 2, False),
    ('deep grey.png', with_opencv(DEEP[..., 0]), 'uint16', 1, 1, False),
    ('deep colour.png', with_opencv(DEEP), 'uint16', 3, 3, False),
    ('deep alpha.png', with_opencv(ALPHA), 'uint16', 3, 3, False),
    ('deep.pgm', with_opencv(DEEP[..., 0]), 'uint16', 1, 1, False),
    ('eight.pgm', with_opencv(RGB[..., 0]), 'uint8', 1, 1, True),
    ('deep grey.tif', with_tifffile(DEEP[..., 0]), 'uint16', 1, 1, False),
    ('float.tif', with_tifffile(DEEP[..., 0].astype(np.float32)), 'float32', 1, 1, False),
    ('deep colour.tif', with_tifffile(DEEP, photometric='rgb'), 'uint16', 3, 3, False),
    ('deep alpha.tif', with_tifffile(ALPHA, photometric='rgb', extrasamples=['unassalpha']), 'uint16', 3, 4, False),
    ('many.tif', with_tifffile(np.moveaxis(MANY, 2, 0), **PAGES), 'uint16', 5, 5, False),
    ('many.tif', with_tifffile(MANY, photometric='minisblack', planarconfig='contig'), 'uint16', 5, 5, False),
]


@pytest.mark.parametrize(('name', 'write', 'dtype', 'channels', 'stored', 'by_stock'), KINDS)
def test_the_header_tells_what_the_pixels_are(tmp_path, name, write, dtype, channels, stored, by_stock):
    write(tmp_path / name)
    kind = pixel_kind(tmp_path / name)
    assert (str(kind.dtype), kind.channels, kind.stored, kind.by_stock) == (dtype, channels, stored, by_stock)
    assert kind.deep == (dtype != 'uint8')
    pixels = whole_pixels(tmp_path / name)
    assert pixels.dtype == dtype
    assert channels in (1, 3) or pixels.shape[2] == channels
    if by_stock:
        stock = LoadImageFromFile()({'img_path': str(tmp_path / name)})['img']
        assert np.array_equal(LoadMicroscopeImage().read(tmp_path / name), stock)


def test_what_is_no_image_is_left_to_others(tmp_path):
    for name, content in (('a.png', b''), ('b.png', b'hello'), ('c.png', b'\x89PNG\r\n\x1a\n')):
        (tmp_path / name).write_bytes(content)
        assert pixel_kind(tmp_path / name).by_stock


def test_tiffs_that_cannot_be_shown_say_so(tmp_path):
    tifffile.imwrite(tmp_path / 'stack.tif', np.zeros((4, 8, 9), np.uint16), ome=True, metadata={'axes': 'ZYX'})
    tifffile.imwrite(tmp_path / 'white.tif', DEEP[..., 0], photometric='miniswhite')
    tifffile.imwrite(tmp_path / 'whole.tif', DEEP[..., 0])
    (tmp_path / 'cut.tif').write_bytes((tmp_path / 'whole.tif').read_bytes()[:60])
    for name, words in {
        'stack.tif': 'a stack of 4 slices',
        'white.tif': 'uint16 pixels of kind MINISWHITE',
        'cut.tif': 'not a whole TIFF',
        'none.tif': 'cannot be read: No such file',
    }.items():
        with pytest.raises(InputError, match=f'{name}: {words}'):
            pixel_kind(tmp_path / name)
