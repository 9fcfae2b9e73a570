import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from mmext.check.anchors import anchor_head, best_anchor_iou, better_anchors, build_generator
from mmext.errors import InputError

GENERATORS = [
    ConfigDict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16]),
    ConfigDict(type='AnchorGenerator', scales=[2, 4], ratios=[1.0], strides=[8, 32], center_offset=0.5),
    ConfigDict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[1.0], strides=[8, 16]),
]


@pytest.fixture(autouse=True, scope='module')
def scope():
    init_default_scope('mmdet')


def by_assigner(boxes, size, generator, allowed_border, divisor):
    """The IoUs that MMDetection's assigner sees: every anchor of a padded image against every box."""
    width, height = (-(-side // divisor) * divisor for side in size)
    maps = [(-(-height // stride[1]), -(-width // stride[0])) for stride in generator.strides]
    anchors = torch.cat(generator.grid_priors(maps, device='cpu'))
    valid = torch.cat(generator.valid_flags(maps, (height, width), device='cpu'))
    inside = anchor_inside_flags(anchors, valid, (size[1], size[0]), allowed_border)
    overlaps = bbox_overlaps(torch.from_numpy(boxes).float(), anchors[inside])
    return overlaps.max(1).values.numpy() if inside.any() else np.zeros(len(boxes))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(33, 150), st.integers(33, 150)),
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=6),
    generator=st.sampled_from(GENERATORS),
    border=st.sampled_from([-1, 0, 8]),
    divisor=st.sampled_from([1, 32]),
)
def test_the_best_anchor_is_the_assigners(size, corners, generator, border, divisor):
    x, y = (np.sort(np.array(corners)[:, axis::2], axis=1) * side for axis, side in enumerate(size))
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    boxes = boxes[np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) > 1]
    built = build_generator(generator)
    found = best_anchor_iou(boxes, np.tile(size, (len(boxes), 1)), built, border, divisor)
    assert found == pytest.approx(by_assigner(boxes, size, built, border, divisor), abs=1e-4)


def test_a_box_without_area_and_no_box_at_all():
    built = build_generator(GENERATORS[0])
    assert best_anchor_iou(np.array([[5.0, 5, 5, 9]]), np.array([[64, 64]]), built).tolist() == [0]
    assert best_anchor_iou(np.zeros((0, 4)), np.zeros((0, 2)), built).shape == (0,)


def rpn(generator=GENERATORS[0], **assigner):
    assigner = {'type': 'MaxIoUAssigner', 'pos_iou_thr': 0.7, 'neg_iou_thr': 0.3, 'min_pos_iou': 0.3} | assigner
    return ConfigDict(
        type='MaskRCNN',
        data_preprocessor={'pad_size_divisor': 32},
        rpn_head={'type': 'RPNHead', 'anchor_generator': generator},
        train_cfg={'rpn': {'assigner': assigner, 'allowed_border': 0}},
    )


def test_limits_are_the_assigners():
    head = anchor_head(rpn())
    assert (head.key, head.least_iou, head.good_iou, head.allowed_border, head.divisor) == (
        'model.rpn_head',
        0.3,
        0.7,
        0,
        32,
    )
    assert anchor_head(rpn(match_low_quality=False)).least_iou == 0.7
    assert anchor_head(rpn(type='mmext.MaxIoUAssigner')) == head
    assert anchor_head(rpn(type='ATSSAssigner')).least_iou is None
    one_stage = ConfigDict(
        bbox_head={'anchor_generator': GENERATORS[2]}, train_cfg={'assigner': rpn().train_cfg.rpn.assigner}
    )
    assert (anchor_head(one_stage).key, anchor_head(one_stage).least_iou) == ('model.bbox_head', 0.3)
    assert anchor_head(ConfigDict(mask_head={'type': 'SOLOV2Head'})) is None


def square_boxes(side, count=40):
    corners = np.random.default_rng(0).uniform(0, 300 - side, (count, 2))
    return np.concatenate([corners, corners + side], 1), np.full((count, 2), 400)


# with strides 4, 8 and 16 two scales give anchors of 256 px
@pytest.mark.parametrize(('side', 'scales'), [(9, ['[2]']), (256, ['[16]', '[32]'])])
def test_the_scale_that_fits_is_found(side, scales):
    found, left = better_anchors(*square_boxes(side), anchor_head(rpn()), 0.05)
    assert found in [f'model.rpn_head.anchor_generator.scales={scale}' for scale in scales]
    assert left == 0


def test_thin_boxes_get_more_ratios():
    boxes, sizes = square_boxes(20)
    boxes[:, 0] /= 2
    boxes[:, 2] = boxes[:, 0] + 200
    found, left = better_anchors(boxes, sizes, anchor_head(rpn()), 0.05)
    assert 'ratios=[0.2,0.5,1.0,2.0,5.0]' in found
    assert left <= 0.05


def test_an_octave_scale_is_changed_by_its_own_name():
    model = ConfigDict(bbox_head={'anchor_generator': GENERATORS[2]}, train_cfg={'assigner': rpn().train_cfg.rpn.assigner})
    found, left = better_anchors(*square_boxes(9), anchor_head(model), 0.05)
    assert found.startswith('model.bbox_head.anchor_generator.octave_base_scale=')
    assert left <= 0.05


def test_generators_that_cannot_be_used_are_named():
    with pytest.raises(InputError, match=r'anchor_generator: cannot be built: TypeError'):
        build_generator(ConfigDict(type='AnchorGenerator', scale=3))
    with pytest.raises(InputError, match='MlvlPointGenerator has no base anchors'):
        build_generator(ConfigDict(type='MlvlPointGenerator', strides=[8]))
