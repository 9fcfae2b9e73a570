import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmext.data.image_scaling import (
    as_8_bit_bgr,
    check_limits,
    check_percentiles,
    choose_channels,
    limits_of,
    to_8_bit,
    to_bgr,
)
from mmext.errors import InputError

SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
DEEP = st.one_of(
    hnp.arrays(np.uint16, SIDES),
    hnp.arrays(np.int32, SIDES, elements=st.integers(-(2**20), 2**20)),
    hnp.arrays(np.float32, SIDES, elements=st.floats(-1e6, 1e6, width=32)),
)


@settings(max_examples=60, deadline=None)
@given(DEEP)
def test_what_is_darker_stays_darker_and_the_limits_become_0_and_255(image):
    found = to_8_bit(image, limits_of(image, (0, 100)))
    assert found.dtype == np.uint8
    order = np.argsort(image, axis=None, kind='stable')
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    assert found.min() == 0
    assert found.max() == (255 if image.max() > image.min() else 0)  # an image of one grey value becomes black


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint16, SIDES), st.tuples(st.floats(0, 60_000), st.floats(1, 5_000)))
def test_the_table_for_16_bits_gives_what_the_formula_gives(image, range_):
    low, high = range_[0], range_[0] + range_[1]
    wanted = np.floor(np.clip((image - low) / (high - low), 0, 1) * 255 + 0.5)
    assert np.abs(to_8_bit(image, np.array([[low, high]])) - wanted).max() <= 1e-9
    assert np.array_equal(to_8_bit(image, np.array([[low, high]])), to_8_bit(image.astype(float), np.array([[low, high]])))


def test_twelve_bits_in_sixteen_keep_256_grey_values():
    image = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    assert len(np.unique(as_8_bit_bgr(image, 'a'))) == 256
    assert len(np.unique(image >> 8)) == 16  # stock loading
    fixed = as_8_bit_bgr(image, 'a', check_limits((0, 4095)))[..., 0]
    assert np.abs(fixed - image * (255 / 4095)).max() <= 0.5 + 1e-9


def test_a_hot_pixel_does_not_set_the_scale():
    image = np.random.default_rng(0).integers(100, 200, (100, 100)).astype(np.uint16)
    image[3, 4] = 65_535
    found = to_8_bit(image, limits_of(image))
    assert found[image < 110].max() < 40
    assert found[image > 190].min() > 220


def test_a_large_image_is_thinned_out_for_its_percentiles():
    image = np.random.default_rng(0).integers(0, 4096, (3000, 2500)).astype(np.uint16)
    assert np.abs(limits_of(image) - np.percentile(image, (0.1, 99.9))).max() < 3


def test_limits_of_each_channel_by_itself():
    image = np.stack([np.arange(256).reshape(16, 16) * factor for factor in (1, 10, 100)], axis=2).astype(np.uint16)
    together, apart = limits_of(image, (0, 100)), limits_of(image, (0, 100), per_channel=True)
    assert together.tolist() == [[0, 25_500]]
    assert apart.tolist() == [[0, 255], [0, 2550], [0, 25_500]]
    assert to_8_bit(image, apart)[15, 15].tolist() == [255, 255, 255]
    assert to_8_bit(image, together)[15, 15].tolist() == [3, 26, 255]


@settings(deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=3, max_side=3)))
def test_eight_bits_are_never_scaled(image):
    assert np.array_equal(as_8_bit_bgr(image, 'a', check_limits((10, 20)))[..., ::-1], image)
    assert np.array_equal(as_8_bit_bgr(image[..., 0], 'a'), np.repeat(image[..., :1], 3, 2))
    assert np.array_equal(as_8_bit_bgr(image > 9, 'a')[..., ::-1], (image > 9) * 255)


def test_channels_are_chosen_as_red_green_blue():
    image = np.arange(5, dtype=np.uint8) + np.zeros((2, 3, 1), np.uint8)
    assert choose_channels(image, (4, 0, 2), 'a')[0, 0].tolist() == [4, 0, 2]
    assert to_bgr(choose_channels(image, (4, 0, 2), 'a'))[0, 0].tolist() == [2, 0, 4]
    assert choose_channels(image, (3,), 'a').shape == (2, 3)
    assert choose_channels(image[..., :1], None, 'a').shape == (2, 3)


@pytest.mark.parametrize(
    ('image', 'arguments', 'words'),
    [
        (np.zeros((4, 5, 2)), {}, r'a\.tif: 2 channels.*channels=\(0, 1, 1\)'),
        (np.zeros((4, 5, 7)), {}, r'a\.tif: 7 channels.*three of 0 to 6.*channels=\(2, 1, 0\)'),
        (np.zeros((4, 5, 2)), {'channels': (0, 1, 2)}, 'asks for channel 2; the image has 2, from 0 to 1'),
        (np.zeros(4), {}, r'shape \(4,\); it must be \(height, width\)'),
        (np.zeros((0, 4)), {}, r'shape \(0, 4\)'),
        (np.zeros((2, 2), complex), {}, 'type complex128; they must be real numbers'),
        (np.array([[1, np.nan], [np.inf, 0]]), {}, '2 of 4 grey values are NaN or infinite.*nan_to_num'),
        (np.zeros((4, 5)), {'limits': np.ones((3, 2))}, 'three pairs.*the image is grey'),
    ],
)
def test_what_cannot_be_shown_says_what_to_do(image, arguments, words):
    with pytest.raises(InputError, match=words):
        as_8_bit_bgr(image, 'a.tif', **arguments)


@pytest.mark.parametrize('limits', [(5, 5), (9, 1), 7, (1, 2, 3), ((0, 1), (0, 1)), ('a', 'b'), (0, np.nan), None])
def test_limits_that_are_none(limits):
    with pytest.raises(InputError, match=r'limits: .*first is below the second.*three such pairs'):
        check_limits(limits)


@pytest.mark.parametrize('percentiles', [(99, 1), (0, 101), (-1, 50), 99.9, (1,)])
def test_percentiles_that_are_none(percentiles):
    with pytest.raises(InputError, match='two numbers from 0 to 100'):
        check_percentiles(percentiles)
    assert check_percentiles((1, 99)) == (1, 99)
