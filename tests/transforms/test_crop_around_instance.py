import copy

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets.transforms import RandomCrop
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import register_all_modules
from mmengine.registry import TRANSFORMS

from mmext.data import image_windows
from mmext.errors import InputError
from mmext.structures import WindowMasks
from mmext.transforms import CropAroundInstance, LoadMicroscopeImage

HEIGHT, WIDTH = 90, 120
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def polygon(x, y, radius, corners=7):
    angle = np.arange(corners) * 2 * np.pi / corners
    points = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)
    return np.clip(points, 0, [WIDTH, HEIGHT]).ravel()


def results_of(parts, kind, ignored=()):
    """Results of loading an image with objects, each a list of polygons."""
    masks = PolygonMasks(parts, HEIGHT, WIDTH)
    boxes = masks.get_bboxes(HorizontalBoxes)
    if kind != 'polygons':
        drawn = masks.to_ndarray()
        masks = (BitmapMasks if kind == 'bitmaps' else WindowMasks)(list(drawn), HEIGHT, WIDTH)
    flags = np.zeros(len(parts), bool)
    flags[list(ignored)] = True
    return {
        'img': IMAGE,
        'img_shape': (HEIGHT, WIDTH),
        'ori_shape': (HEIGHT, WIDTH),
        'gt_bboxes': boxes,
        'gt_bboxes_labels': np.arange(len(parts)),
        'gt_ignore_flags': flags,
        'gt_masks': masks,
    }


SHAPES = st.tuples(st.integers(5, WIDTH - 5), st.integers(5, HEIGHT - 5), st.integers(2, 40))
OBJECTS = st.lists(st.lists(SHAPES, min_size=1, max_size=2), min_size=1, max_size=5)
KINDS = ['polygons', 'bitmaps', 'windows']


@settings(max_examples=60, deadline=None)
@given(OBJECTS, st.sampled_from(KINDS), st.integers(5, 130), st.integers(5, 100), st.integers(0, 999))
def test_one_and_the_same_window_gives_what_random_crop_gives(objects, kind, width, height, seed):
    results = results_of([[polygon(*shape) for shape in shapes] for shapes in objects], kind)
    np.random.seed(seed)
    ours = CropAroundInstance((width, height), least_share=0, least_side=0)(copy.deepcopy(results))
    if ours is None:
        return
    (y, x), stock = place_of(ours['img']), RandomCrop((width, height), recompute_bbox=True, allow_negative_crop=True)
    stock._rand_offset = lambda margin: (y, x)
    theirs = stock(copy.deepcopy(results))
    assert np.array_equal(ours['img'], theirs['img'])
    assert ours['img_shape'] == theirs['img_shape']
    kept = np.isin(theirs['gt_bboxes_labels'], ours['gt_bboxes_labels'])
    assert ours['gt_bboxes'].tensor.equal(theirs['gt_bboxes'].tensor[kept])
    assert np.array_equal(ours['gt_bboxes_labels'], theirs['gt_bboxes_labels'][kept])
    masks = theirs['gt_masks'][np.flatnonzero(kept)]
    assert type(ours['gt_masks']) is type(masks)
    assert np.array_equal(ours['gt_masks'].to_ndarray(), masks.to_ndarray())
    # what we leave out is less than a pixel wide, or no pixel at all
    boxes = theirs['gt_bboxes'].tensor[~kept]
    empty = theirs['gt_masks'].areas[~kept] == 0
    assert (empty | ((boxes[:, 2:] - boxes[:, :2]).numpy().min(1, initial=9) < 1)).all()


def place_of(crop):
    """Row and column of a crop in the image of noise."""
    height, width = crop.shape[:2]
    for y in range(HEIGHT - height + 1):
        for x in range(WIDTH - width + 1):
            if np.array_equal(IMAGE[y : y + 2, x : x + 3], crop[:2, :3]):
                return y, x
    raise AssertionError('the crop is no part of the image')


@pytest.mark.parametrize('kind', KINDS)
def test_every_object_is_drawn_and_held_whole_at_any_place(kind):
    parts = [[polygon(10, 10, 6)], [polygon(60, 45, 8)], [polygon(110, 80, 5)]]
    results, crop, seen = results_of(parts, kind), CropAroundInstance((30, 30)), {}
    np.random.seed(0)
    for _ in range(300):
        found = crop(copy.deepcopy(results))
        assert found['img'].shape == (30, 30, 3)
        assert len(found['gt_masks']) == len(found['gt_bboxes']) == len(found['gt_bboxes_labels']) == 1
        assert found['gt_masks'].areas[0] == pytest.approx(results['gt_masks'].areas[found['gt_bboxes_labels'][0]])
        seen.setdefault(int(found['gt_bboxes_labels'][0]), set()).add(tuple(found['gt_bboxes'].tensor[0, :2].int().tolist()))
    assert set(seen) == {0, 1, 2}
    assert len(seen[1]) > 40  # of 15 x 15 places
    assert all(len(found['img']) <= 30 for found in [crop(copy.deepcopy(results))])


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_hardly_left_is_dropped(kind):
    results = results_of([[polygon(60, 45, 5)], [polygon(60, 75, 24, 30)]], kind)
    np.random.seed(0)
    shares = []
    for _ in range(200):
        found = CropAroundInstance((40, 40))(copy.deepcopy(results))
        for label, area, box in zip(
            found['gt_bboxes_labels'], found['gt_masks'].areas, found['gt_bboxes'].tensor, strict=True
        ):
            share = area / results['gt_masks'].areas[label]
            assert share >= 0.1 or (box[2:] - box[:2]).max() >= 32
            shares.append(share)
    assert min(shares) < 0.5


def test_a_fiber_longer_than_the_crop_is_followed_along_its_length():
    line = np.array([2.0, 2, 118, 84, 116, 87, 2, 6])
    results = results_of([[line]], 'polygons')
    np.random.seed(0)
    found = [CropAroundInstance((40, 40))(copy.deepcopy(results)) for _ in range(60)]
    places = [place_of(one['img']) for one in found if one is not None]
    assert len(places) >= 55  # nearly always within ten draws
    assert min(x for _, x in places) < 20
    assert max(x for _, x in places) > 60
    assert all((one['gt_bboxes'].tensor[0, 2:] <= 40).all() for one in found if one is not None)
    # its box is that of the part, not of the whole fiber cut at the edges
    boxes = np.array([one['gt_bboxes'].tensor[0].tolist() for one in found if one is not None])
    assert (boxes[:, 2:] - boxes[:, :2]).min() < 35


def test_crowds_are_not_drawn_but_kept():
    results = results_of([[polygon(20, 20, 8)], [polygon(30, 20, 8)], [polygon(100, 70, 9)]], 'windows', ignored=(1, 2))
    np.random.seed(0)
    for _ in range(30):
        found = CropAroundInstance((40, 40))(copy.deepcopy(results))
        assert 0 in found['gt_bboxes_labels']
        assert np.array_equal(found['gt_ignore_flags'], found['gt_bboxes_labels'] > 0)


def test_an_image_without_objects_is_cut_anywhere():
    results = results_of([], 'polygons')
    np.random.seed(0)
    places = {place_of(CropAroundInstance((40, 40))(copy.deepcopy(results))['img']) for _ in range(30)}
    assert len(places) > 20
    assert CropAroundInstance((200, 40))(copy.deepcopy(results))['img'].shape == (40, WIDTH, 3)


def test_where_no_object_is_left_the_data_set_takes_another_image():
    corner = np.array([0.0, 0, 119, 0, 119, 1, 1, 1, 1, 89, 0, 89])  # an L along two edges
    results = results_of([[corner]], 'bitmaps')
    np.random.seed(1)
    found = [CropAroundInstance((10, 10))(copy.deepcopy(results)) for _ in range(40)]
    assert any(one is None for one in found)
    assert all(len(one['gt_masks']) for one in found if one is not None)


@pytest.mark.parametrize('crop', [{'type': 'mmext.CropAroundInstance', 'size': (50, 40)}, {'type': 'RandomCrop'}])
def test_of_a_large_file_the_crop_alone_is_read(tmp_path, monkeypatch, crop):
    register_all_modules(init_default_scope=True)
    decode, decoded = image_windows._decode, []
    monkeypatch.setattr(image_windows, '_decode', lambda *call: decoded.append(call[2]) or decode(*call))
    tifffile.imwrite(tmp_path / 'a.tif', IMAGE[..., ::-1], photometric='rgb', tile=(32, 32))
    crop = {'crop_size': (50, 40)} | crop if crop['type'] == 'RandomCrop' else crop
    found = []
    for whole in (True, False):
        results = results_of([[polygon(60, 45, 8)]], 'polygons')
        loaded = LoadMicroscopeImage(whole=whole)({'img_path': str(tmp_path / 'a.tif')})
        assert loaded['img_shape'] == loaded['ori_shape'] == (HEIGHT, WIDTH)
        np.random.seed(3)
        decoded.clear()
        found.append(TRANSFORMS.build(crop)({**results, **loaded}))
    assert np.array_equal(found[0]['img'], found[1]['img'])
    assert found[0]['img_shape'] == found[1]['img_shape'] == (40, 50)
    assert found[0]['gt_bboxes'].tensor.equal(found[1]['gt_bboxes'].tensor)
    assert 0 < len(decoded) <= 9  # of 12 tiles


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'size': 100}, r'size=100; it must be \(width, height\)'),
        ({'size': (100, 0)}, r'size=\(100, 0\)'),
        ({'size': (100, 20.0)}, r'whole pixels from 1, such as \(1024, 1024\)'),
        ({'size': (10, 10), 'least_share': 1.5}, 'least_share=1.5, least_side=32.0; allowed: a share from 0 to 1'),
        ({'size': (10, 10), 'least_side': -1}, 'least_side=-1'),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        CropAroundInstance(**settings)


def test_without_masks_it_says_what_to_put_before_it():
    results = results_of([[polygon(60, 45, 8)]], 'polygons')
    del results['gt_masks']
    with pytest.raises(InputError, match=r"no gt_masks to cut\. Put dict\(type='mmext.LoadInstanceMasks'\) before it"):
        CropAroundInstance((10, 10))(results)
    assert 'size=(10, 10), least_share=0.1' in repr(CropAroundInstance((10, 10)))


@pytest.mark.parametrize('settings', [{'color_type': 'color_ignore_orientation'}, {'to_float32': True}])
def test_pixels_that_stay_in_the_file_have_no_other_settings(settings):
    with pytest.raises(InputError, match=r'whole=False with .*leave out whole=False'):
        LoadMicroscopeImage(whole=False, **settings)
