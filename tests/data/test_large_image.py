import cv2
import numpy as np
import pytest
import tifffile

from mmext.data.large_image import LargeImage
from mmext.errors import InputError
from mmext.predict.tiles import tile_grid
from mmext.transforms import LoadMicroscopeImage

SHAPE = (1200, 1500)


@pytest.fixture(scope='module')
def picture():
    """Darker on the left than on the right, so that each window has limits of its own."""
    x = np.arange(SHAPE[1])
    return (x * 2 + np.random.default_rng(0).integers(0, 300, SHAPE)).astype(np.uint16)


def joined(large):
    found = np.zeros((*large.size, 3), np.uint8)
    for window in tile_grid(large.size, 512, 0.2):
        x1, y1, x2, y2 = window
        found[y1:y2, x1:x2] = large.read(window)
    return found


@pytest.mark.parametrize('settings', [{}, {'limits': (0, 4095)}, {'percentiles': (1, 99)}])
def test_windows_are_parts_of_the_picture_as_it_is_loaded_whole(picture, tmp_path, settings):
    tifffile.imwrite(tmp_path / 'a.tif', picture, tile=(256, 256))
    loader = LoadMicroscopeImage(**settings)
    whole = loader({'img_path': str(tmp_path / 'a.tif')})['img']
    assert np.array_equal(joined(LargeImage(tmp_path / 'a.tif', loader)), whole)


def test_of_a_very_large_image_some_pixels_stand_for_all(picture, tmp_path, monkeypatch):
    monkeypatch.setattr('mmext.data.large_image._SAMPLED', 10_000)
    tifffile.imwrite(tmp_path / 'a.tif', picture)
    whole = LoadMicroscopeImage()({'img_path': str(tmp_path / 'a.tif')})['img'].astype(int)
    assert np.abs(joined(LargeImage(tmp_path / 'a.tif', LoadMicroscopeImage())) - whole).max() <= 3


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'alpha.tif', 'white.tif'])
def test_colours_of_eight_bits_are_those_of_the_file(tmp_path, name):
    colours = np.random.default_rng(0).integers(0, 256, (300, 400, 4), dtype=np.uint8)
    colours[..., 3] = 255  # OpenCV darkens what is not opaque in a TIFF
    if name == 'a.png':
        cv2.imwrite(str(tmp_path / name), colours[..., :3])
    elif name == 'white.tif':
        tifffile.imwrite(tmp_path / name, colours[..., 0], photometric='miniswhite')
    else:
        extra = {'extrasamples': ['unassalpha']} if name == 'alpha.tif' else {}
        tifffile.imwrite(tmp_path / name, colours if extra else colours[..., :3], photometric='rgb', **extra)
    loader = LoadMicroscopeImage()
    assert np.array_equal(joined(LargeImage(tmp_path / name, loader)), loader({'img_path': str(tmp_path / name)})['img'])


def test_chosen_channels_and_their_limits(tmp_path):
    many = np.stack([np.full((100, 120), value, np.uint16) for value in (0, 10, 20, 5000)], 2)
    many[:50] *= 2
    tifffile.imwrite(tmp_path / 'a.tif', many, photometric='minisblack', planarconfig='contig')
    for settings in ({'channels': (2,)}, {'channels': (2, 1, 0), 'per_channel': True}):
        loader = LoadMicroscopeImage(**settings)
        assert np.array_equal(joined(LargeImage(tmp_path / 'a.tif', loader)), loader.read(tmp_path / 'a.tif'))


def test_the_overview_is_the_picture_made_smaller(picture, tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', picture, tile=(256, 256))
    large = LargeImage(tmp_path / 'a.tif', LoadMicroscopeImage())
    shown, scale = large.overview(300)
    assert shown.shape == (240, 300, 3)
    assert scale == 0.2
    wanted = cv2.resize(joined(large), (300, 240), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(shown - wanted).mean() < 3
    whole, scale = large.overview(5000)
    assert scale == 1
    assert np.array_equal(whole, joined(large))


def test_what_cannot_be_read_by_tiles_is_said(tmp_path):
    loader = LoadMicroscopeImage()
    tifffile.imwrite(tmp_path / 'stack.tif', np.zeros((3, 80, 90), np.uint16), photometric='minisblack')
    tifffile.imwrite(tmp_path / 'white.tif', np.zeros((80, 90), np.uint16), photometric='miniswhite')
    tifffile.imwrite(tmp_path / 'pages.tif', np.zeros((3, 80, 90), np.uint8), imagej=True, metadata={'axes': 'CYX'})
    for name, words in (
        ('stack', 'a stack of 3 pages'),
        ('white', 'uint16 pixels of kind MINISWHITE, which cannot be read by tiles'),
        ('pages', 'channels in 3 pages, which cannot be read by tiles'),
    ):
        with pytest.raises(InputError, match=words):
            LargeImage(tmp_path / f'{name}.tif', loader)


def test_it_is_cut_as_an_array_is(picture, tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', picture, tile=(256, 256))
    large = LargeImage(tmp_path / 'a.tif', LoadMicroscopeImage())
    whole = joined(large)
    assert large.shape == whole.shape
    assert np.array_equal(large[100:700, 30:1500], whole[100:700, 30:1500])
    assert np.array_equal(large[1000:1400, :50, ...], whole[1000:1400, :50])
