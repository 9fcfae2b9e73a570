import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import TRANSFORMS, init_default_scope

from mmext.analysis.input_size import input_size, not_understood

RESIZES = [
    {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True},
    {'type': 'Resize', 'scale': (800, 1333), 'keep_ratio': True},
    {'type': 'Resize', 'scale': (640, 512), 'keep_ratio': False},
    {'type': 'Resize', 'scale_factor': 0.5},
    {'type': 'RandomResize', 'scale': [(640, 480), (640, 480)], 'keep_ratio': True},
    {'type': 'RandomResize', 'scale': (640, 480), 'ratio_range': (1.0, 1.0), 'keep_ratio': True},
    {'type': 'RandomChoiceResize', 'scales': [(640, 480)], 'keep_ratio': True},
]


def build(cfg):
    init_default_scope('mmdet')
    import mmdet.datasets.transforms  # noqa: F401 - registers them

    return TRANSFORMS.build(cfg)


@pytest.mark.parametrize('cfg', RESIZES, ids=str)
@settings(max_examples=10, deadline=None)
@given(width=st.integers(20, 600), height=st.integers(20, 600))
def test_size_is_that_of_mmdetections_own_resize(cfg, width, height):
    transform = build(cfg)
    image = np.zeros((height, width, 3), np.uint8)
    expected = transform({'img': image, 'img_shape': image.shape[:2]})['img'].shape[:2]
    assert input_size([transform], width, height) == expected[::-1]


def test_of_several_scales_the_largest_counts():
    choice = build({'type': 'RandomChoiceResize', 'scales': [(200, 100), (800, 400), (400, 200)], 'keep_ratio': True})
    drawn = build({'type': 'RandomResize', 'scale': [(1333, 480), (1333, 960)], 'keep_ratio': True})
    ratios = build({'type': 'RandomResize', 'scale': (100, 100), 'ratio_range': (0.5, 2.0), 'keep_ratio': True})
    flip = build({'type': 'RandomFlip', 'prob': 0.5})
    assert input_size([flip, choice], 100, 50) == (800, 400)
    assert input_size([drawn], 100, 80) == (1200, 960)
    assert input_size([ratios], 50, 50) == (200, 200)
    assert input_size([flip], 50, 40) == (50, 40)


def test_a_choice_of_resizes_counts_and_what_is_not_understood_is_named():
    resize = {'type': 'Resize', 'scale': (800, 400), 'keep_ratio': True}
    choice = build({'type': 'RandomChoice', 'transforms': [[resize], [{**resize, 'scale': (200, 100)}]]})
    shape = build({'type': 'FixShapeResize', 'width': 100, 'height': 100, 'keep_ratio': True})
    assert input_size([choice], 100, 50) == (800, 400)
    assert not_understood([choice, build(resize), build({'type': 'RandomFlip', 'prob': 0.5})]) == []
    assert not_understood([shape, build(resize)]) == ['FixShapeResize']
    hidden = build({'type': 'RandomChoice', 'transforms': [[{'type': 'ResizeShortestEdge', 'scale': 100}]]})
    assert not_understood([hidden]) == ['ResizeShortestEdge']
