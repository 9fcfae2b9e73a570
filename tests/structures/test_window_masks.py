import copy
import pickle
import random
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from conftest import small_sampling
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.utils import mask2ndarray
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from pycocotools import mask as coco_mask

import mmext
from mmext.errors import InputError
from mmext.structures import Window, WindowMasks
from mmext.structures.window_masks import nearest


def blobs(seed, number, height, width):
    """Masks (N, H, W) of every kind: empty, full, noise in a part of the image, at its borders or not."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((number, height, width), np.uint8)
    for mask in masks:
        y, x = rng.integers(0, height), rng.integers(0, width)
        part = mask[y : y + rng.integers(0, height + 1), x : x + rng.integers(0, width + 1)]
        part[:] = rng.random(part.shape) < rng.choice([0.1, 0.6, 1])
    return masks


@st.composite
def pairs(draw, most=4):
    """The same masks as windows and as MMDetection's bitmaps."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    masks = blobs(draw(st.integers(0, 9999)), draw(st.integers(0, most)), height, width)
    return WindowMasks(list(masks), height, width), BitmapMasks(masks, height, width)


@given(pairs())
@settings(deadline=None, max_examples=60)
def test_rles_are_pycocotools(pair):
    windows, bitmaps = pair
    encoded = [coco_mask.encode(np.asfortranarray(mask)) for mask in bitmaps.masks]
    assert windows.to_rles() == encoded
    assert np.array_equal(WindowMasks.from_rles(encoded, windows.height, windows.width).masks, bitmaps.masks)


def same(ours, stock):
    assert isinstance(ours, WindowMasks)
    assert (len(ours), ours.height, ours.width) == (len(stock), stock.height, stock.width)
    assert np.array_equal(ours.to_ndarray(), stock.to_ndarray())
    assert np.array_equal(ours.masks, stock.masks)
    assert ours.areas.tolist() == stock.areas.tolist()
    assert ours.areas.dtype == BitmapMasks(np.zeros((1, 2, 2), np.uint8), 2, 2).areas.dtype
    boxes = ours.get_bboxes('hbox')
    assert isinstance(boxes, HorizontalBoxes)
    assert torch.equal(boxes.tensor, stock.get_bboxes('hbox').tensor)
    # asked the other way round, as some of MMDetection's code does
    assert torch.equal(boxes.tensor, HorizontalBoxes.from_instance_masks(ours).tensor)
    for one, window in zip(ours.masks, ours.windows, strict=True):
        outside = one.copy()
        outside[window.place()] = 0
        assert not outside.any()


def size(data):
    return data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))


def box_inside(data, masks):
    """A box that keeps a pixel of the image at the least; MMDetection's bitmaps lose all masks with any other."""
    x, y = data.draw(st.integers(-5, masks.width - 1)), data.draw(st.integers(-5, masks.height - 1))
    return np.array([x, y, data.draw(st.integers(x - 2, masks.width + 5)), data.draw(st.integers(y - 2, masks.height + 5))])


def larger(data, masks):
    return masks.height + data.draw(st.integers(0, 9)), masks.width + data.draw(st.integers(0, 9))


def expansion(data, masks):
    top, left = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    height, width = larger(data, masks)
    return height + top, width + left, top, left


OPERATIONS = {
    'resize': lambda data, masks: (size(data),),
    'rescale': lambda data, masks: (data.draw(st.one_of(st.just((40, 30)), st.sampled_from([0.5, 1.7]))),),
    'flip': lambda data, masks: (data.draw(st.sampled_from(['horizontal', 'vertical', 'diagonal'])),),
    'pad': lambda data, masks: (larger(data, masks), data.draw(st.sampled_from([0, 0, 1, 7]))),
    'crop': lambda data, masks: (box_inside(data, masks),),
    'expand': expansion,
    '__getitem__': lambda data, masks: (index(data, len(masks)),),
}


def index(data, number):
    flags = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    choices = [
        slice(0, 2),
        slice(None, None, -1),
        np.array(flags, bool),
        np.flatnonzero(flags),
        np.flatnonzero(flags).tolist(),
    ]
    if number:
        choices += [-1, np.int64(number - 1), np.array([0, number - 1, 0])]
    return data.draw(st.sampled_from(choices))


@given(pairs(), st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=4), st.data())
@settings(deadline=None)
def test_any_sequence_of_operations_gives_what_bitmaps_give(pair, operations, data):
    ours, stock = pair
    same(ours, stock)
    for operation in operations:
        arguments = OPERATIONS[operation](data, stock)
        ours, stock = (getattr(one, operation)(*arguments) for one in (ours, stock))
        same(ours, stock)
    assert [one.tolist() for one in ours] == [one.tolist() for one in stock]
    for dtype in (torch.float32, torch.uint8, torch.bool):
        assert torch.equal(ours.to_tensor(dtype, 'cpu'), stock.to_tensor(dtype, 'cpu'))
    same(ours.cat([ours, ours[:1], stock]), stock.cat([stock, stock[:1], stock]))
    same(pickle.loads(pickle.dumps(ours)), stock)


@given(pairs(most=18), st.data())
@settings(deadline=None)
def test_what_is_drawn_a_few_masks_at_a_time(pair, data):
    ours, stock = pair
    operation, *arguments = data.draw(
        st.sampled_from(
            [
                ('translate', size(data), 3, 'horizontal', 0, 'nearest'),
                ('translate', size(data), -2.5, 'vertical'),
                ('shear', (stock.height, stock.width), 0.3, 'horizontal'),
                ('rotate', (stock.height, stock.width), 30.0),
                ('resize', size(data), 'bilinear'),
            ]
        )
    )
    border = data.draw(st.sampled_from([0, 0, 1, 5]))
    keywords = {} if operation in ('resize', 'translate') and len(arguments) != 3 else {'border_value': border}
    same(getattr(ours, operation)(*arguments, **keywords), getattr(stock, operation)(*arguments, **keywords))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 99))
@settings(deadline=None)
def test_the_nearest_pixel_is_opencvs_in_rows_and_in_columns(length, wanted, seed):
    chosen = nearest(length, wanted)
    assert chosen.tolist() == [min(int(place * (1 / (wanted / length))), length - 1) for place in range(wanted)]
    mask = (np.random.default_rng(seed).random((length, 3)) < 0.5).astype(np.uint8)
    for turned in (mask, mask.T):
        size = (3, wanted) if turned is mask else (wanted, 3)
        resized = cv2.resize(np.ascontiguousarray(turned), size, interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(resized, turned[chosen] if turned is mask else turned[:, chosen])


@given(st.integers(0, 9999), st.integers(0, 5))
@settings(deadline=None)
def test_masks_from_rles(seed, number):
    masks = blobs(seed, number, 30, 40)
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    same(WindowMasks.from_rles(rles, 30, 40), BitmapMasks(masks, 30, 40))


def test_polygons_and_bitmaps_join_windows():
    corners = np.array([2.5, 3, 20, 3, 20, 17, 4, 12.0])
    polygons = PolygonMasks([[corners], [corners, corners[::-1]]], 30, 40)
    masks = blobs(0, 2, 30, 40)
    windows = WindowMasks(list(masks), 30, 40)
    joined = windows.cat([windows, polygons, BitmapMasks(masks, 30, 40)])
    assert np.array_equal(joined.to_ndarray(), np.concatenate([masks, polygons.to_ndarray(), masks]))


def test_masks_of_two_images_do_not_join():
    with pytest.raises(InputError, match=r'masks of one size are needed \(height x width\), got 30x40, 30x41'):
        WindowMasks.cat([WindowMasks([], 30, 40), WindowMasks([], 30, 41)])
    with pytest.raises(InputError, match='got none'):
        WindowMasks.cat([])


def test_a_crop_outside_keeps_its_masks():
    found = WindowMasks([np.ones((30, 40), np.uint8)], 30, 40).crop(np.array([40, 5, 60, 20]))
    assert found.to_ndarray().shape == (1, 15, 1)
    assert found.areas.tolist() == [0]


def test_padding_to_less_than_the_image():
    with pytest.raises(InputError, match=r'masks of 30x40 \(height, width\) do not fit into 20x50. Use crop'):
        WindowMasks([], 30, 40).pad((20, 50))


def test_a_mask_of_another_size():
    with pytest.raises(InputError, match='a mask is 40 x 30, its image 30 x 40'):
        WindowMasks([np.zeros((40, 30), np.uint8)], 30, 40)


def test_mmdetections_own_code_takes_it_for_bitmaps():
    masks = blobs(3, 3, 30, 40)
    windows = WindowMasks(list(masks), 30, 40)
    assert np.array_equal(mask2ndarray(windows), masks)
    windows.masks = np.where(masks[0], 0, masks)  # as CopyPaste does
    assert np.array_equal(windows.to_ndarray(), masks * (1 - masks[0]))
    with pytest.raises(ValueError, match='read-only'):
        windows.masks[:, 2:5] = 0


def test_memory_and_pickles_follow_the_instances():
    masks = WindowMasks([Window(np.ones((50, 40), np.uint8), 100 * place, 7_000) for place in range(20)], 8_000, 8_000)
    crop = np.array([50, 3_000, 7_000, 8_000])
    tracemalloc.start()
    try:
        changed = masks.flip('diagonal').flip('diagonal').resize((4_000, 8_000)).expand(9_000, 9_000, 0, 0).crop(crop)
        changed = changed.pad((9_000, 9_000))[np.arange(20) != 3]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert changed.areas.sum() == 18 * 25 * 40
    assert masks.areas.sum() == 20 * 50 * 40
    assert peak < 1e6
    assert len(pickle.dumps(masks.flip())) < 50_000


@pytest.mark.parametrize(
    'recipe', ['mask-rcnn', 'cascade-mask-rcnn', 'htc-without-semantic', 'ms-rcnn', 'point-rend', 'solov2']
)
def test_each_family_learns_the_same_from_windows_as_from_bitmaps(recipe):
    init_default_scope('mmdet')
    cfg = small_sampling(Config.fromfile(mmext.recipe(f'{recipe}_r18_fpn_finetune')))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    inputs = demo_mm_inputs(1, [[3, 64, 64]], num_items=[4], num_classes=cfg.num_classes, with_mask=True)
    truth = inputs['data_samples'][0].gt_instances
    bitmaps = BitmapMasks(blobs(1, 4, 64, 64), 64, 64)
    found = []
    for masks in (bitmaps, WindowMasks(list(bitmaps.masks), 64, 64)):
        truth.masks, truth.bboxes = masks, masks.get_bboxes('hbox').tensor
        torch.manual_seed(0)
        losses = model(**model.data_preprocessor(copy.deepcopy(inputs), True), mode='loss')
        found.append(model.parse_losses(losses)[0])
    assert torch.equal(*found)
    found[1].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def example(seed, bitmaps):
    """What a pipeline has of an image after its annotations are loaded."""
    masks = blobs(seed, 5, 60, 80)
    gt_masks = (BitmapMasks if bitmaps else WindowMasks)(list(masks), 60, 80)
    return {
        'img': np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8),
        'img_shape': (60, 80),
        'gt_bboxes': gt_masks.get_bboxes('hbox'),
        'gt_bboxes_labels': np.arange(5),
        'gt_ignore_flags': np.zeros(5, bool),
        'gt_masks': gt_masks,
        'img_id': seed,
    }


POLICIES = [[{'type': 'ShearX', 'prob': 1.0}, {'type': 'TranslateY', 'prob': 1.0}], [{'type': 'Rotate', 'prob': 1.0}]]
TRANSFORMS_OF_MMDETECTION = [
    {'type': 'RandomCrop', 'crop_size': (30, 40), 'recompute_bbox': True},
    {'type': 'RandomCrop', 'crop_size': (0.3, 0.6), 'crop_type': 'relative_range', 'allow_negative_crop': True},
    {'type': 'MinIoURandomCrop'},
    {'type': 'Expand', 'prob': 1.0},
    {'type': 'FilterAnnotations', 'min_gt_bbox_wh': (1, 1), 'min_gt_mask_area': 60, 'by_mask': True, 'by_box': True},
    {'type': 'Rotate', 'prob': 1.0},
    {'type': 'AutoAugment', 'policies': POLICIES},
    {'type': 'Resize', 'scale': (90, 50), 'keep_ratio': True},
    {'type': 'Pad', 'size_divisor': 32},
    {'type': 'CopyPaste'},
    {'type': 'Mosaic', 'img_scale': (80, 60)},
    {'type': 'MixUp', 'img_scale': (80, 60)},
    {'type': 'CachedMosaic', 'img_scale': (80, 60), 'max_cached_images': 4, 'random_pop': False},
    {'type': 'CachedMixUp', 'img_scale': (80, 60), 'max_cached_images': 4, 'random_pop': False},
]


@pytest.mark.parametrize('cfg', TRANSFORMS_OF_MMDETECTION, ids=lambda cfg: cfg['type'])
def test_transforms_of_mmdetection_do_what_they_do_with_bitmaps(cfg):
    init_default_scope('mmdet')
    mixed = {'CopyPaste': 1, 'Mosaic': 3, 'MixUp': 1}.get(cfg['type'], 0)
    seen = 0
    for seed in range(4):
        results = []
        for bitmaps in (True, False):
            transform = TRANSFORMS.build(copy.deepcopy(cfg))
            random.seed(seed), np.random.seed(seed)
            # a transform with a cache mixes what it got before
            for number in range(4 if 'Cached' in cfg['type'] else 1):
                inputs = example(10 * seed + number, bitmaps)
                inputs |= {'mix_results': [example(100 + n, bitmaps) for n in range(mixed)]} if mixed else {}
                found = transform(inputs)
            results.append(found)
        stock, ours = results
        assert (stock is None) == (ours is None)
        if stock is None:
            continue
        for key in ('img', 'gt_bboxes_labels', 'gt_ignore_flags'):
            assert np.array_equal(ours[key], stock[key])
        assert torch.equal(ours['gt_bboxes'].tensor, stock['gt_bboxes'].tensor)
        assert np.array_equal(ours['gt_masks'].to_ndarray(), stock['gt_masks'].to_ndarray())
        seen += len(stock['gt_masks'])
    assert seen
