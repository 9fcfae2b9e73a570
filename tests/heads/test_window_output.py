import warnings

import numpy as np
import pytest
import torch
from conftest import set_where_it_is, small_sampling
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.mask import encode_mask_results
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmext
from mmext.errors import InputError
from mmext.heads.window_output import _in_whole_vectors, draw_rles, give_rles, groups, paste_groups, reach_windows
from mmext.registry import MODELS
from mmext.structures.rle_masks import RLEMasks

KINDS = {
    'FCNMaskHead': dict(num_convs=0, in_channels=4, conv_out_channels=4),
    'HTCMaskHead': dict(num_convs=0, in_channels=4, conv_out_channels=4, with_conv_res=False),
    'CoarseMaskHead': dict(in_channels=4, conv_out_channels=4, fc_out_channels=4, num_fcs=1),
}
CLASSES = 3


def head(kind, **changes):
    init_default_scope('mmdet')
    return MODELS.build(dict(type=kind, num_classes=CLASSES, **KINDS[kind.split('.')[-1]], **changes))


HEADS = {name: (head(name), head(f'mmext.{name}')) for name in KINDS}
AGNOSTIC = {name: tuple(head(kind, class_agnostic=True) for kind in (name, f'mmext.{name}')) for name in ('FCNMaskHead',)}


@st.composite
def boxes_of(draw, height, width):
    """A box of an image: tiny, of no size, of all sizes, as large as the image, or beyond its edges."""
    low, high = (-0.3, 1.3) if draw(st.booleans()) else (0.0, 1.0)
    kind = draw(st.sampled_from(['any', 'any', 'tiny', 'flat', 'point', 'whole', 'pixels']))
    if kind == 'whole':
        return [0.0, 0.0, float(width), float(height)]
    x1, y1 = draw(st.floats(low, 1)) * width, draw(st.floats(low, 1)) * height
    most = {'tiny': 0.02, 'point': 0.0}.get(kind, high)
    x2, y2 = x1 + draw(st.floats(0, most)) * width, y1 + draw(st.floats(0, most)) * height
    if kind == 'flat':
        x2 = x1
    box = [x1, y1, x2, y2]
    return [float(round(side)) for side in box] if kind == 'pixels' else box


@st.composite
def cases(draw):
    """Logits or probabilities, boxes at the network's size, and all settings of a prediction."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    scale = draw(st.sampled_from([(1.0, 1.0), (0.5, 0.5), (1.6, 1.5), (0.37, 0.41)]))
    rescale = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    number, agnostic = draw(st.integers(1, 6)), draw(st.booleans())
    grid = draw(st.sampled_from([(28, 28), (7, 7), (1, 1), (5, 9)]))
    values = rng.normal(0, 3, (number, 1 if agnostic else CLASSES, *grid)).astype(np.float32)
    values[rng.random(number) < 0.1] = 0  # exactly at a threshold of 0.5
    activate = draw(st.booleans())
    preds = torch.from_numpy(values)
    if activate:
        preds = preds.sigmoid().numpy() if draw(st.booleans()) else preds.sigmoid()
    network = [round(height * scale[1]) or 1, round(width * scale[0]) or 1]
    boxes = torch.tensor([draw(boxes_of(*network)) for _ in range(number)], dtype=torch.float32)
    meta = {'ori_shape': (height, width), 'scale_factor': scale, 'img_shape': tuple(network)}
    threshold = draw(st.sampled_from([0.5, 0.5, 0.05, 0.3, 0.9, 1.0]))
    labels = torch.from_numpy(rng.integers(0, CLASSES, number))
    return preds, boxes, labels, meta, threshold, rescale, activate, agnostic


def predict(mask_head, preds, boxes, labels, meta, threshold, rescale, activate):
    """Boxes and masks of one image as the head leaves them."""
    found = InstanceData(bboxes=boxes.clone(), labels=labels, scores=torch.ones(len(labels)))
    test_cfg = ConfigDict(mask_thr_binary=threshold)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='To copy construct from a tensor')
        (found,) = mask_head.predict_by_feat([preds], [found], [meta], test_cfg, rescale=rescale, activate_map=activate)
    return found.bboxes, found.masks


def outcome(*args):
    try:
        return predict(*args)
    except RuntimeError as error:  # stock, with a box that lies outside of the image
        return str(error)


@given(cases(), st.sampled_from(sorted(KINDS)))
@settings(deadline=None, max_examples=100)
def test_rles_are_those_of_stocks_array(case, kind):
    *case, agnostic = case
    stock, ours = AGNOSTIC['FCNMaskHead'] if agnostic else HEADS[kind]
    expected, (boxes, masks) = outcome(stock, *case), predict(ours, *case)
    assert type(masks) is RLEMasks
    if isinstance(expected, str):
        assert 'inconsistent with step sign' in expected
        return
    assert torch.equal(boxes, expected[0])
    assert masks.shape == expected[1].shape
    assert masks.rles == encode_mask_results(expected[1].numpy())
    assert torch.equal(masks.cpu(), expected[1])


@pytest.mark.parametrize('threads', [1, 2, 3, 4, 7])
def test_the_sigmoid_of_a_mask_alone_has_the_bits_of_all(threads):
    """Which torch may change: then masks of 224 x 224 would differ from stock's in the last bit of a probability."""
    before, alone = torch.get_num_threads(), 0
    torch.set_num_threads(threads)
    try:
        for number, classes, side in [(1, 1, 224), (9, 3, 224), (10, 4, 224), (100, 2, 56), (5, 3, 64), (40, 80, 28)]:
            logits = torch.randn(number, classes, side, side, generator=torch.Generator().manual_seed(side)) * 4
            if _in_whole_vectors(logits):
                alone += 1
                assert torch.equal(
                    torch.stack([one.sigmoid() for one in logits.flatten(0, 1)]), logits.sigmoid().flatten(0, 1)
                )
            boxes = torch.rand(number, 4).sort(1).values * 50
            case = logits, boxes, torch.zeros(number, dtype=torch.long), {'ori_shape': (50, 50), 'scale_factor': (1, 1)}
            stock, ours = (HEADS['FCNMaskHead'][place] for place in (0, 1))
            expected = predict(stock, *case, 0.5, True, False)[1]
            assert predict(ours, *case, 0.5, True, False)[1].rles == encode_mask_results(expected.numpy())
    finally:
        torch.set_num_threads(before)
    assert alone >= 2


def test_no_window_no_rle():
    assert draw_rles([], torch.zeros(0, 4), np.zeros((0, 4), np.int64), 0.5, (9, 9)) == []


def test_a_box_outside_of_the_image_has_an_empty_mask():
    boxes = torch.tensor([[80.0, 10, 90, 20], [-9, -9, -4, -4], [3, 3, 9, 9]])
    case = torch.full((3, CLASSES, 7, 7), 9.0), boxes, torch.zeros(3, dtype=torch.long)
    _, masks = predict(HEADS['FCNMaskHead'][1], *case, {'ori_shape': (40, 50), 'scale_factor': (1, 1)}, 0.5, True, False)
    assert masks.areas.tolist() == [0, 0, 36]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('threshold', [0.5, 0, -1])
def test_stocks_tensor_for_who_asks(kind, threshold):
    """By config, and for thresholds that mean the whole image or soft masks."""
    case = torch.randn(4, CLASSES, 14, 14), torch.rand(4, 4).sort(1).values * 30, torch.tensor([0, 2, 1, 1])
    case = *case, {'ori_shape': (30, 30), 'scale_factor': (1, 1)}, threshold, True, False
    stock, ours = HEADS[kind]
    mask_head = ours if threshold <= 0 else head(f'mmext.{kind}', mask_output='tensor')
    (boxes, masks), (stock_boxes, stock_masks) = predict(mask_head, *case), predict(stock, *case)
    assert torch.equal(boxes, stock_boxes)
    assert masks.dtype == stock_masks.dtype
    assert torch.equal(masks, stock_masks)
    assert masks.any()


def test_many_detections_of_many_sizes():
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(0, 6, (300, 2)))
    corners = rng.random((300, 2)) * 380
    boxes = torch.tensor(np.concatenate([corners, corners + sides], 1), dtype=torch.float32)
    case = torch.from_numpy(rng.normal(0, 2, (300, CLASSES, 28, 28)).astype(np.float32)), boxes
    case = *case, torch.from_numpy(rng.integers(0, CLASSES, 300)), {'ori_shape': (400, 380), 'scale_factor': (1, 1)}
    (_, stock), (_, ours) = (predict(one, *case, 0.5, False, False) for one in HEADS['FCNMaskHead'])
    assert ours.rles == encode_mask_results(stock.numpy())
    assert torch.equal(ours.cpu(), stock)
    assert ours.areas.tolist() == stock.sum((1, 2)).tolist()


# ---- what a GPU does, which draws the whole image where a CPU cuts at the box


@given(cases())
@settings(deadline=None, max_examples=100)
def test_windows_drawn_together_are_those_of_whole_images(case):
    preds, boxes, _, meta, threshold, *_ = case
    probabilities = torch.as_tensor(preds)[:, 0].clamp(0, 1)
    height, width = meta['ori_shape']
    whole, _ = _do_paste_mask(probabilities[:, None], boxes, height, width, skip_empty=False)
    windows = reach_windows(boxes, probabilities.shape[1:], height, width)
    found = np.zeros((len(boxes), height, width), bool)
    for place, mask in paste_groups(probabilities, boxes, windows, threshold):
        x1, y1, x2, y2 = windows[place]
        found[place, y1:y2, x1:x2] = mask
    assert np.array_equal(found, (whole >= threshold).numpy())


@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 6000)), max_size=60))
def test_groups_hold_each_window_once_and_are_not_padded_much(sides):
    heights, widths = np.array(sides, int).reshape(-1, 2).T
    found = groups(heights, widths)
    assert sorted(np.concatenate([*found, []]).astype(int)) == np.flatnonzero(heights * widths).tolist()
    for group in found:
        padded = len(group) * heights[group].max() * widths[group].max()
        assert padded <= max(2 * (heights * widths)[group].sum(), 2**18)
        assert padded <= 2**24 or len(group) == 1


def test_windows_of_a_kind_are_one_group():
    assert [len(group) for group in groups(np.full(300, 100), np.full(300, 90))] == [300]


# ---- whole models

FAMILIES = {
    'mask-rcnn': 'FCNMaskHead',
    'ms-rcnn': 'FCNMaskHead',
    'cascade-mask-rcnn': 'FCNMaskHead',
    'htc-without-semantic': 'HTCMaskHead',
    'point-rend': 'CoarseMaskHead',
}


def family_model(family, ours):
    """The small model of a family as our recipe has it, or with MMDetection's mask heads."""
    init_default_scope('mmdet')
    cfg = small_sampling(Config.fromfile(mmext.recipe(f'{family}_r18_fpn_finetune'))).model
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=6)
    set_where_it_is(cfg, 'test_cfg.rcnn.subdivision_steps', 3)
    heads = cfg.roi_head.mask_head
    for one in heads if isinstance(heads, list) else [heads]:
        assert one.type == f'mmext.{FAMILIES[family]}'
        if not ours:
            one.type = FAMILIES[family]
    torch.manual_seed(0)
    return MODELS.build(cfg).eval()


@pytest.mark.parametrize('family', FAMILIES)
def test_recipes_predict_what_stock_predicts(family):
    ours, stock = (family_model(family, one) for one in (True, False))
    weights = stock.state_dict()
    for name, value in weights.items():
        if 'logits' in name:  # untrained ones are all near 0, where a mask is the whole box
            torch.nn.init.normal_(value, std=0.3)
    assert list(ours.state_dict()) == list(weights)
    ours.load_state_dict(weights)
    batch = demo_mm_inputs(2, [[3, 96, 128]] * 2, num_items=[2, 2], num_classes=CLASSES, with_mask=True)
    with torch.no_grad():
        found, expected = ([sample.pred_instances for sample in model.test_step(batch)] for model in (ours, stock))
        give_rles(stock)
        given = [sample.pred_instances for sample in stock.test_step(batch)]
    for one, other, rles in zip(found, expected, given, strict=True):
        assert len(one) == 6
        assert all(torch.equal(one[name], other[name]) for name in ('bboxes', 'scores', 'labels'))
        assert one.masks.rles == rles.masks.rles == encode_mask_results(other.masks.numpy())
        assert one.masks.areas.any()
    assert any(len(set(one.masks.areas.tolist())) > 1 for one in found)


def test_no_detection_has_stocks_empty_tensor():
    none = torch.zeros(0, CLASSES, 28, 28), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    meta = {'ori_shape': (20, 30), 'scale_factor': (1, 1)}
    _, masks = predict(HEADS['FCNMaskHead'][1], *none, meta, 0.5, True, False)
    assert masks.shape == (0, 20, 30)


def test_rles_for_all_heads_that_draw_as_stock():
    class Same(type(HEADS['FCNMaskHead'][0])):
        pass

    class Own(Same):
        def _predict_by_feat_single(self, *args, **kwargs):
            return 'own'

    init_default_scope('mmdet')
    same, own, tensor = Same(num_classes=2), Own(num_classes=2), head('mmext.FCNMaskHead', mask_output='tensor')
    give_rles(torch.nn.ModuleList([same, own, tensor]))
    case = torch.ones(1, CLASSES, 7, 7), torch.tensor([[2.0, 2, 9, 9]]), torch.tensor([1])
    case = *case, {'ori_shape': (20, 30), 'scale_factor': (1, 1)}, 0.5, True, False
    assert predict(same, *case)[1].areas.tolist() == predict(tensor, *case)[1].areas.tolist() == [49]
    assert own._predict_by_feat_single() == 'own'


@pytest.mark.parametrize('kind', KINDS)
def test_an_unknown_output(kind):
    with pytest.raises(InputError, match=f"{kind}: mask_output is 'array'; allowed: 'rle', 'tensor'"):
        head(f'mmext.{kind}', mask_output='array')
