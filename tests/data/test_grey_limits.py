import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.data import grey_limits
from mmext.data.grey_limits import limits_of_images, percentiles_of
from mmext.data.image_scaling import PERCENTILES
from mmext.errors import InputError

RANDOM = np.random.default_rng(0)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.integers(-(2**31), 2**31), st.integers(1, 30), min_size=1, max_size=20),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_percentiles_of_counted_values_are_numpys(counts, percentiles):
    values = np.array(sorted(counts))
    numbers = np.array([counts[value] for value in values])
    expected = np.percentile(np.repeat(values, numbers).astype(float), percentiles)
    assert percentiles_of(values, numbers, percentiles) == pytest.approx(expected, rel=1e-9, abs=1e-5)


def written(folder, images, **settings):
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f'{number}.tif')
        tifffile.imwrite(paths[-1], image, **settings)
    return paths


@pytest.mark.parametrize('dtype', [np.uint16, np.int16, np.float32, np.int32])
def test_all_pixels_of_all_images_count_alike(tmp_path, dtype):
    images = [(RANDOM.gamma(2, 300, shape) + 100).astype(dtype) for shape in ((40, 50), (30, 20), (70, 10))]
    found = limits_of_images(written(tmp_path, images), None, False)
    expected = np.percentile(np.concatenate([image.ravel() for image in images]).astype(float), PERCENTILES)
    assert found.pairs[0] == pytest.approx(expected, rel=1e-9)
    assert (found.images, found.of, found.whole) == (3, 3, True)


def test_colours_each_have_their_own(tmp_path):
    image = RANDOM.integers(0, 1000, (60, 50, 3)) + np.array([0, 5000, 20_000])
    paths = written(tmp_path, [image.astype(np.uint16)], photometric='rgb')
    apart = limits_of_images(paths, None, True).pairs
    assert np.array(apart) == pytest.approx(np.percentile(image, PERCENTILES, axis=(0, 1)).T)
    assert len(limits_of_images(paths, None, False).pairs) == 1
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1].astype(np.uint16))
    assert limits_of_images([tmp_path / 'a.png'], None, True).pairs == apart


def test_channels_are_chosen_before(tmp_path):
    image = np.stack([np.full((8, 9), value, np.uint16) for value in (0, 10, 20, 30)])
    image[:, 0] += 5
    paths = written(tmp_path, [image], imagej=True, metadata={'axes': 'CYX'})
    assert limits_of_images(paths, (2,), False).pairs == ((20, 25),)
    assert limits_of_images(paths, (3, 1, 0), True).pairs == ((30, 35), (10, 15), (0, 5))


def test_many_images_are_drawn_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(grey_limits, '_IMAGES', 4)
    images = [np.arange(100, dtype=np.uint16).reshape(10, 10) + 1000 * i for i in range(12)]
    paths = written(tmp_path, images)
    found, again, other = (limits_of_images(paths, None, False, seed) for seed in (0, 0, 1))
    assert found == again
    assert found.pairs != other.pairs
    assert (found.images, found.of) == (4, 12)


@pytest.mark.parametrize('settings', [{'tile': (64, 64)}, {}])
def test_of_a_very_large_image_some_squares_are_read(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(grey_limits, '_SIDE', 100)
    monkeypatch.setattr(grey_limits, '_SQUARES', 4)
    image = (RANDOM.integers(100, 3000, (500, 650)) + np.arange(650)).astype(np.uint16)
    paths = written(tmp_path, [image], **settings)
    found = [limits_of_images(paths, None, False, seed) for seed in range(4)]
    assert not any(one.whole for one in found)
    assert len({one.pairs for one in found}) > 1
    for one in found:
        assert one.pairs[0] == pytest.approx(np.percentile(image, PERCENTILES), abs=300)


def test_other_numbers_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(grey_limits, '_VALUES', 2000)
    image = RANDOM.random((200, 200)).astype(np.float32)
    found = limits_of_images(written(tmp_path, [image]), None, False)
    assert not found.whole
    assert found.pairs[0] == pytest.approx((0.001, 0.999), abs=0.005)


def test_sparse_specks_on_black_keep_their_range(tmp_path):
    image = np.zeros((100, 100), np.uint16)
    image[3, 4:8] = 900
    assert limits_of_images(written(tmp_path, [image]), None, False).pairs == ((0, 900),)


def test_nothing_to_see_is_an_error(tmp_path):
    paths = written(tmp_path, [np.full((8, 9), 7, np.uint16)])
    with pytest.raises(InputError, match=r'0\.tif: all pixels that were looked at have the grey value 7'):
        limits_of_images(paths, None, False)
    paths = written(tmp_path, [np.array([[1, np.nan]], np.float32)])
    with pytest.raises(InputError, match='1 of 2 grey values are NaN'):
        limits_of_images(paths, None, False)


def test_progress_is_told(tmp_path):
    told = []
    paths = written(tmp_path, [np.arange(9, dtype=np.uint16).reshape(3, 3)] * 2)
    limits_of_images(paths, None, False, progress=lambda *words: told.append(words))
    assert told == [('grey values', 1, 2), ('grey values', 2, 2)]
